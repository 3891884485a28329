//! A real VM for demos and tests: QEMU, kernels and a guest image from packages.
