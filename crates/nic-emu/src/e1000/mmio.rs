//! Register accesses of the guest: BAR0, and the window to it in the I/O BAR.
