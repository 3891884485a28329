//! Behavioural models of Intel NICs, without I/O, clock or threads.

pub mod common;
