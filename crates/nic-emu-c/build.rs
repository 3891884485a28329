//! Gives the shared library its name. Without one, a program would look for it under the path that it was linked by.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnic_emu_c.so");
    }
}
