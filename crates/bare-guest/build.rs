//! How the images are linked: for no operating system, by a script of their own.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/image.ld");
    println!("cargo::rerun-if-changed={script}");
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        &format!("-Wl,-T,{script}"),
    ] {
        for image in ["bare-guest", "peer-guest"] {
            println!("cargo::rustc-link-arg-bin={image}={argument}");
        }
    }
}
