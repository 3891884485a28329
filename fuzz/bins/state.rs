//! Target `state` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nic_emu_fuzz::run("state", data));
