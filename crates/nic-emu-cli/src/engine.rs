//! Where a NIC model and vfio-user meet: the model's control as the device of a vfio-user server.
//!
//! `nic-emu` knows nothing of vfio-user and `vfio-user` nothing of NICs; this is the only file that knows both.

use std::sync::Arc;

use nic_emu::Time;
use nic_emu::e1000::state::State;
use nic_emu::e1000::{Control, Kick, ResetKind as ModelReset};
use nic_emu::pci;
use vfio_user::{Bar, Command, Device, Handler, InvalidState, Migration, Pme, Region, ResetKind};

use crate::eeprom::EepromFile;
use crate::flash::FlashFile;
use crate::nic::{Joint, SavedQueues};
use crate::rom::Rom;

/// The control of an 82540EM behind a vfio-user server.
pub(crate) struct Engine {
    control: Control,
    /// What the guest's firmware may run.
    rom: Option<Rom>,
    /// Where the queues hear what register writes ask of them.
    joint: Arc<Joint>,
    /// Where the EEPROM is kept.
    eeprom: Option<EepromFile>,
    /// It could not be kept there the last time, which has been said.
    eeprom_failed: bool,
    /// Where the flash is kept.
    flash: Option<FlashFile>,
    /// As for the EEPROM.
    flash_failed: bool,
    now: Time,
    /// The receiver is on, and the queues know.
    receiving: bool,
    /// The queues are to see what has just been done, see [`Handler::settles`].
    settles: bool,
    /// The NIC was reset, and the queues have not seen it.
    reset: bool,
}

impl Engine {
    pub(crate) fn new(control: Control, rom: Option<Rom>, joint: Arc<Joint>) -> Self {
        Self {
            control,
            rom,
            joint,
            eeprom: None,
            eeprom_failed: false,
            flash: None,
            flash_failed: false,
            now: Time(0),
            receiving: false,
            settles: false,
            reset: false,
        }
    }

    /// Whatever a guest writes to the EEPROM goes to this file from now on.
    pub(crate) fn keep_eeprom(&mut self, file: EepromFile) {
        self.eeprom = Some(file);
    }

    fn save_eeprom(&mut self) {
        let Some(file) = &self.eeprom else { return };
        let Some(words) = self.control.take_eeprom_change() else {
            return;
        };
        let saved = file.save(words);
        // A guest can cause as many of these as it likes.
        let told = std::mem::replace(&mut self.eeprom_failed, saved.is_err());
        if let (Err(error), false) = (saved, told) {
            let (nic, path) = (&self.joint.name, file.path().display());
            tracing::error!(nic, "cannot keep the EEPROM in {path}: {error}");
        }
    }

    /// Whatever a guest writes to the flash goes to this file from now on.
    pub(crate) fn keep_flash(&mut self, file: FlashFile) {
        self.flash = Some(file);
    }

    fn save_flash(&mut self) {
        let Some(file) = &self.flash else { return };
        let Some((at, bytes)) = self.control.take_flash_change() else {
            return;
        };
        let saved = file.save(at, bytes);
        let told = std::mem::replace(&mut self.flash_failed, saved.is_err());
        if let (Err(error), false) = (saved, told) {
            let (nic, path) = (&self.joint.name, file.path().display());
            tracing::error!(nic, "cannot keep the flash in {path}: {error}");
        }
    }

    /// The device that a hypervisor sees.
    pub(crate) fn device(control: &Control, rom: Option<&Rom>) -> Device {
        describe(control.pci(), rom)
    }

    /// Sets the time at which all that follows happens.
    pub(crate) fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// The cable of the backend was plugged or pulled.
    pub(crate) fn set_link(&mut self, up: bool) {
        self.joint.kick(self.control.set_link(up, self.now));
    }

    /// Does what the registers do by themselves with time.
    pub(crate) fn run_timers(&mut self) {
        self.joint.kick(self.control.run_timers(self.now));
    }

    /// There is no state to go on with.
    fn refuse(&mut self) {
        self.joint
            .kick(self.control.reset(ModelReset::Bus, self.now));
        self.joint.hand(None);
    }

    /// The queues have seen all that was done.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.reset) {
            self.control.settle_reset();
        }
    }

    /// Tells the queues. They are to have dropped what they hold before a reset NIC is set up again, and what came for
    /// nobody before the driver can know that its receiver is on, or that its wake-up filters listen.
    fn kick(&mut self, kick: Kick) {
        self.joint.kick(kick);
        self.reset |= kick.contains(Kick::RESET);
        let was = std::mem::replace(&mut self.receiving, self.control.shared().receives());
        self.settles |= kick.intersects(Kick::RESET | Kick::WAKE) || (self.receiving && !was);
    }

    /// When the registers change by themselves.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.control.deadline()
    }
}

impl Handler for Engine {
    fn read(&mut self, region: Region, offset: u64, data: &mut [u8]) {
        match region {
            Region::Bar(bar) => self.control.read(bar, offset, data, self.now),
            Region::Rom => match &self.rom {
                Some(rom) => rom.read(offset, data),
                // Of a NIC without one, nobody can ask.
                None => _ = self.control.read_rom(offset, data),
            },
        }
    }

    fn write(&mut self, region: Region, offset: u64, data: &[u8]) {
        if let Region::Bar(bar) = region {
            let kick = self.control.write(bar, offset, data, self.now);
            self.kick(kick);
            self.save_eeprom();
            self.save_flash();
        }
    }

    fn command(&mut self, command: Command) {
        let master = command.contains(Command::BUS_MASTER);
        let kick = self.control.set_bus_master(master);
        self.kick(kick);
    }

    fn pme(&mut self) -> Option<Pme> {
        let pme = self.control.pme();
        Some(Pme {
            enabled: pme.enabled,
            status: pme.status,
        })
    }

    fn write_pme(&mut self, enabled: bool, clear_status: bool) {
        let kick = self.control.write_pme(enabled, clear_status);
        self.kick(kick);
    }

    fn settles(&mut self) -> bool {
        std::mem::take(&mut self.settles)
    }

    fn migration(&mut self) -> Option<&mut dyn Migration> {
        Some(self)
    }

    fn reset(&mut self, kind: ResetKind) {
        let kind = match kind {
            // The next hypervisor is not to find what the last one's guest left in the EEPROM.
            ResetKind::Disconnected => ModelReset::PowerOn,
            _ => ModelReset::Bus,
        };
        let kick = self.control.reset(kind, self.now);
        self.kick(kick);
        self.joint.update_line(self.now);
    }
}

impl Migration for Engine {
    fn stop(&mut self) {
        self.joint.stop(true);
    }

    fn run(&mut self) {
        self.joint.stop(false);
    }

    fn save(&mut self, to: &mut Vec<u8>) {
        // The queues have passed the epoch of the stop. If not, there is nothing to save, and nobody will take that for a
        // state.
        let Some(SavedQueues { tx, rx, .. }) = self.joint.saved_queues() else {
            return;
        };
        let control = self.control.save(self.now);
        State { control, tx, rx }.encode(to);
    }

    fn load(&mut self, state: &[u8]) -> Result<(), InvalidState> {
        match State::decode(state) {
            Ok(state) if state.part() != self.control.part() => {
                let what = InvalidState("it is that of another model".to_owned());
                self.refuse();
                Err(what)
            }
            Ok(state) if state.flash_size() != self.control.flash().map(<[u8]>::len) => {
                let what = InvalidState("it is that of a NIC with another flash".to_owned());
                self.refuse();
                Err(what)
            }
            Ok(State { control, tx, rx }) => {
                self.joint.kick(self.control.restore(&control, self.now));
                self.save_eeprom();
                self.save_flash();
                let generation = self.control.shared().generation();
                self.joint.hand(Some(SavedQueues { tx, rx, generation }));
                Ok(())
            }
            Err(error) => {
                self.refuse();
                Err(InvalidState(error.to_string()))
            }
        }
    }
}

/// The PCI function of a model in the words of vfio-user.
fn describe(function: &pci::Function, rom: Option<&Rom>) -> Device {
    let id = &function.identity;
    let mut device = Device::builder()
        .ids(id.vendor, id.device)
        .subsystem(id.subsystem_vendor, id.subsystem_id)
        .revision(id.revision)
        .class(id.class)
        .status(id.status)
        .latency(id.min_gnt, id.max_lat)
        .intx(id.interrupt_pin);
    for bar in &function.bars {
        device = device.bar(
            usize::from(bar.index),
            match bar.kind {
                pci::BarKind::Mem32 => Bar::memory32(bar.size),
                pci::BarKind::Io => Bar::io(bar.size),
            },
        );
    }
    for capability in function.capabilities {
        // The id and the link to the next one, which the builder fills in, come first; no guest writes those.
        let bytes = [&[capability.id, 0], capability.bytes].concat();
        let writable = [&[0, 0], capability.writable].concat();
        device = device.capability(capability.offset, &bytes, &writable);
    }
    if let Some(size) = rom.map(Rom::size).or(function.rom) {
        device = device.rom(size);
    }
    if let Some(offset) = function.msi {
        device = device.at(offset.into()).msi(1);
    }
    device
        .build()
        .expect("the models' descriptions are consistent, which their tests check")
}
