//! Cross-crate tests of nic-emu: see the files in `tests/`.
