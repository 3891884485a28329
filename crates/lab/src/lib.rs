//! A real VM for demos and tests.
//!
//! The lab finds or fetches a QEMU that speaks vfio-user, fetches Debian kernels, builds a guest image with
//! NIC drivers and measuring tools, boots it and runs commands inside:
//!
//! ```no_run
//! use nic_emu_lab::{Lab, Nic, Suite};
//!
//! # fn main() -> nic_emu_lab::Result<()> {
//! let lab = Lab::open()?;
//! let mut vm = lab.vm(Suite::Trixie).nic(Nic::vfio_user("/run/nic0.sock")).start()?;
//! println!("{}", vm.ok("ethtool -i eth0")?);
//! # Ok(())
//! # }
//! ```
//!
//! Everything fetched is a signed Debian package from the mirror that the machine's own apt configuration names;
//! it is unpacked below one folder (`target/lab`, see [`Lab::open`]) and the system stays as it was. No root needed,
//! except for network namespaces ([`Netns`]).

mod apt;
mod bare;
mod channel;
mod counting;
mod cpio;
mod dpdk;
mod error;
mod flashrom;
mod image;
mod kernel;
mod lines;
mod machine;
mod modules;
mod netns;
mod nic;
mod perf;
mod process;
mod qemu;
mod qmp;
mod qtest;
mod run;
mod store;
mod sys;
mod tools;
mod unpack;
mod vm;

pub use bare::{Bare, BareBuilder, Record};
pub use channel::{Channel, Output};
pub use counting::Counting;
pub use error::{Error, Result};
pub use kernel::{Kernel, Suite};
pub use machine::{Accel, Memory};
pub use netns::Netns;
pub use nic::Nic;
pub use perf::Perf;
pub use process::Process;
pub use qemu::Qemu;
pub use qmp::Qmp;
pub use qtest::QtestVm;
pub use store::Lab;
pub use tools::Tools;
pub use vm::{Vm, VmBuilder};
