//! What an operator types next: the arguments that attach a hypervisor to a socket.

use std::path::Path;

/// The arguments for QEMU. Its JSON form of `-device` takes any path, and its memory is better shared.
pub(crate) fn qemu(socket: &Path) -> String {
    let device = serde_json::json!({
        "driver": "vfio-user-pci",
        "socket": { "type": "unix", "path": socket },
    });
    format!(
        "-object memory-backend-memfd,id=mem,size=1G,share=on -m 1G -machine memory-backend=mem \
         -device {}",
        shell_quote(&device.to_string())
    )
}

/// The arguments for cloud-hypervisor.
pub(crate) fn cloud_hypervisor(socket: &Path) -> String {
    format!(
        "--memory size=1G,shared=on --user-device {}",
        shell_quote(&format!("socket={}", socket.display()))
    )
}

/// Quotes `text` for a POSIX shell.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_shell() {
        let path = Path::new("/run/it's \"here\".sock");
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\n' {}", qemu(path)))
            .output();
        let words = String::from_utf8(output.unwrap().stdout).unwrap();
        let device = words.lines().last().unwrap();
        let device: serde_json::Value = serde_json::from_str(device).unwrap();
        assert_eq!(device["socket"]["path"], "/run/it's \"here\".sock");
        assert_eq!(
            cloud_hypervisor(Path::new("/a")),
            "--memory size=1G,shared=on --user-device socket=/a"
        );
    }
}
