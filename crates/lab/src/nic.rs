//! The NICs that a VM can have.

use std::path::PathBuf;

use serde_json::{Value, json};

/// A NIC of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nic {
    /// A device behind a vfio-user socket: one that nic-emu serves.
    VfioUser {
        /// The socket's path.
        socket: PathBuf,
        /// The bus to plug it into, such as `rp0` (see [`crate::VmBuilder::root_ports`]); `None`: the root bus.
        bus: Option<String>,
    },
    /// One of QEMU's own NICs on a TAP.
    Tap {
        /// QEMU's name of the device: `e1000`, `virtio-net-pci`, ...
        model: String,
        /// The TAP's name; made by QEMU if missing, in the VM's network namespace.
        ifname: String,
        /// The guest's MAC address, such as `52:54:00:12:34:56`.
        mac: String,
    },
    /// One of QEMU's own NICs on nothing: no frame leaves, the link is up.
    Unplugged {
        /// QEMU's name of the device.
        model: String,
        /// The guest's MAC address.
        mac: String,
    },
}

impl Nic {
    /// A device behind a vfio-user socket, on the root bus.
    pub fn vfio_user(socket: impl Into<PathBuf>) -> Self {
        Self::VfioUser {
            socket: socket.into(),
            bus: None,
        }
    }

    /// One of QEMU's own NICs on a TAP.
    pub fn tap(
        model: impl Into<String>,
        ifname: impl Into<String>,
        mac: impl Into<String>,
    ) -> Self {
        Self::Tap {
            model: model.into(),
            ifname: ifname.into(),
            mac: mac.into(),
        }
    }

    /// What QEMU's `-device` and QMP's `device_add` take, with the id `nicN`.
    #[must_use]
    pub fn device(&self, index: usize) -> Value {
        let id = format!("nic{index}");
        match self {
            Self::VfioUser { socket, bus } => {
                let path = socket.to_string_lossy();
                let mut device = json!({ "driver": "vfio-user-pci", "id": id, "socket": { "type": "unix", "path": path } });
                if let Some(bus) = bus {
                    device["bus"] = json!(bus);
                }
                device
            }
            // No ROM: its PXE code costs boot time.
            Self::Tap { model, mac, .. } | Self::Unplugged { model, mac } => {
                json!({ "driver": model, "id": id, "netdev": format!("net{index}"), "mac": mac, "romfile": "" })
            }
        }
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(&self, index: usize) -> Vec<String> {
        let netdev = self.netdev(index);
        let netdev = netdev
            .into_iter()
            .flat_map(|netdev| ["-netdev".into(), netdev]);
        let device = ["-device".into(), self.device(index).to_string()];
        netdev.chain(device).collect()
    }

    /// What QEMU's `-netdev` takes, with the id `netN`.
    pub(crate) fn netdev(&self, index: usize) -> Option<String> {
        match self {
            Self::VfioUser { .. } => None,
            Self::Tap { ifname, .. } => Some(format!(
                "tap,id=net{index},ifname={ifname},script=no,downscript=no"
            )),
            Self::Unplugged { .. } => Some(format!("hubport,id=net{index},hubid={index}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_described_as_qemu_wants_them() {
        assert_eq!(
            Nic::vfio_user("/run/a,b.sock").device(1).to_string(),
            r#"{"driver":"vfio-user-pci","id":"nic1","socket":{"path":"/run/a,b.sock","type":"unix"}}"#
        );
        let tap = Nic::tap("e1000", "tap0", "52:54:00:00:00:01");
        assert_eq!(tap.device(0)["netdev"], "net0");
        assert_eq!(
            tap.netdev(0).unwrap(),
            "tap,id=net0,ifname=tap0,script=no,downscript=no"
        );
    }
}
