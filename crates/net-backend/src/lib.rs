//! Network backends for emulated NICs: TAP, switch, null, capture, faults.
