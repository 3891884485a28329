//! A small e1000 driver that plays the guest in tests and benchmarks.
