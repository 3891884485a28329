//! What all guests' machines have in common: who executes the guest, and where its memory is.

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's own translator: works everywhere.
    #[default]
    Tcg,
    /// The host kernel; needs `/dev/kvm`.
    Kvm,
}

impl Accel {
    pub(crate) fn arguments(self) -> [String; 4] {
        let (accel, cpu) = match self {
            Accel::Tcg => ("tcg,thread=multi", "max"),
            Accel::Kvm => ("kvm", "host"),
        };
        ["-accel", accel, "-cpu", cpu].map(str::to_owned)
    }
}

/// Where the guest's memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// In a memfd that a device process can share.
    #[default]
    Shared,
    /// In a memfd of which QEMU has a private copy: a device process that maps it sees other bytes than the guest.
    Private,
    /// In no file: a device process cannot map it.
    Plain,
}

impl Memory {
    /// QEMU's arguments for a machine of this `kind` with its memory.
    pub(crate) fn machine(self, kind: &str, mib: u32) -> Vec<String> {
        let mut arguments = vec!["-m".to_owned(), format!("{mib}M")];
        let share = match self {
            Memory::Shared => "on",
            Memory::Private => "off",
            Memory::Plain => {
                arguments.extend(["-M".into(), kind.into()]);
                return arguments;
            }
        };
        arguments.extend(["-M".into(), format!("{kind},memory-backend=mem")]);
        arguments.extend([
            "-object".into(),
            format!("memory-backend-memfd,id=mem,size={mib}M,share={share}"),
        ]);
        arguments
    }
}
