//! Target `e1000` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nic_emu_fuzz::run("e1000", data));
