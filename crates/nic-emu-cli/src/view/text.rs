//! A [`View`] for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use nic_emu::e1000::regs::Reg;

use super::{Field, Hypervisor, Interrupts, Led, Link, Ring, View, WakeUp};

impl Display for View {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            model,
            mac,
            pid,
            ..
        } = self;
        writeln!(f, "{name}: {model} {mac}, process {pid}")?;
        if self.stopped {
            line(f, "stopped", &"stands still, for a migration")?;
        }
        match &self.hypervisor {
            Some(hypervisor) => line(f, "hypervisor", hypervisor)?,
            None => line(f, "hypervisor", &"not known, the NIC is busy")?,
        }
        line(f, "link", &self.link)?;
        line(f, "interrupts", &self.interrupts)?;
        line(f, "transmit", &self.transmit)?;
        line(f, "receive", &self.receive)?;
        let filters = &self.filters;
        for address in &filters.addresses {
            let source = if address.select == 1 {
                " as source"
            } else {
                ""
            };
            line(
                f,
                "filter",
                &format!("{} (RAR {}){source}", address.mac, address.entry),
            )?;
        }
        let (hashes, vlans) = (filters.multicast_bits, filters.vlans);
        let modes = words(&filters.modes);
        line(
            f,
            "filters",
            &format!("multicast hashes {hashes}, VLANs {vlans}, modes {modes}"),
        )?;
        if let Some(wake_up) = &self.wake_up {
            line(f, "wake-up", wake_up)?;
        }
        for (number, led) in self.leds.iter().enumerate() {
            line(f, &format!("LED {number}"), led)?;
        }
        if let Some(apart) = self.queues_apart {
            let queues = if apart {
                "on a thread of their own"
            } else {
                "on the control's thread"
            };
            line(f, "queues", &queues)?;
        }

        for (number, waits) in self.shards.iter().enumerate() {
            line(f, &format!("shard {number}"), &waited(waits))?;
        }

        counters(f, "statistics registers", &self.statistics)?;
        counters(f, "guest's side", &self.counters)?;
        match &self.network {
            Some(network) => counters(
                f,
                &format!("network's side, {}", network.name),
                &network.counters,
            )?,
            None => writeln!(f, "\nnetwork's side: not known, the queues are busy")?,
        }
        writeln!(f, "\nregisters")?;
        for register in &self.registers {
            let (offset, name, value) = (register.offset, &register.name, register.value);
            write!(f, "  {offset:05x} {name:<9} {value:08x}")?;
            match register.fields.is_empty() {
                true => write!(
                    f,
                    "  {}",
                    Reg::at(offset).map_or("", |(reg, _)| reg.row().doc)
                )?,
                false => fields(f, &register.fields)?,
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn line(f: &mut Formatter<'_>, what: &str, text: &dyn Display) -> fmt::Result {
    writeln!(f, "  {what:<11}{text}")
}

/// How a shard has waited, in a line.
fn waited(waits: &BTreeMap<String, u64>) -> String {
    let count = |name| waits.get(name).copied().unwrap_or(0);
    let [sleeps, woken, due] = ["sleeps", "woken", "due"].map(count);
    let [looks, found, events] = ["looks", "found", "events"].map(count);
    format!(
        "slept {sleeps} times (woken {woken}, due {due}), looked {looks} times without (found {found}), {events} events"
    )
}

/// Those that are not 0.
fn counters(f: &mut Formatter<'_>, what: &str, counters: &BTreeMap<String, u64>) -> fmt::Result {
    let counted: Vec<_> = counters.iter().filter(|(_, count)| **count != 0).collect();
    if counted.is_empty() {
        return writeln!(f, "\n{what}: all 0");
    }
    writeln!(f, "\n{what} (the others are 0)")?;
    for (name, count) in counted {
        let reg = Reg::ALL
            .iter()
            .map(|reg| reg.row())
            .find(|row| row.name == name);
        let doc = reg.map_or("", |row| row.doc);
        writeln!(
            f,
            "{}",
            format!("  {name:<18}{count:>12}  {doc}").trim_end()
        )?;
    }
    Ok(())
}

/// The flags that are set, and the numbers.
fn fields(f: &mut Formatter<'_>, fields: &[Field]) -> fmt::Result {
    let mut gap = "  ";
    for Field { name, value, flag } in fields {
        match (flag, value) {
            (_, 0) => continue,
            (true, _) => write!(f, "{gap}{name}")?,
            (false, _) => write!(f, "{gap}{name}={value:#x}")?,
        }
        gap = " ";
    }
    Ok(())
}

fn words(words: &[String]) -> String {
    match words {
        [] => "none".into(),
        _ => words.join(" "),
    }
}

impl Display for Hypervisor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.connected, self.memory.as_str()) {
            (false, _) => write!(f, "none")?,
            (true, "none") => write!(f, "connected, has shown no memory yet")?,
            (true, memory) => write!(f, "connected, memory {memory}")?,
        }
        for (kind, counts) in [
            ("messages", &self.messages),
            ("DMA messages", &self.dma_messages),
        ] {
            if counts.values().any(|count| *count != 0) {
                write!(f, "; {kind}")?;
                for (name, count) in counts {
                    write!(f, " {name}={count}")?;
                }
            }
        }
        Ok(())
    }
}

impl Display for Link {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let duplex = if self.full_duplex { "full" } else { "half" };
        match self.up {
            true => write!(f, "up, {} Mb/s {duplex} duplex", self.speed)?,
            false => write!(f, "down")?,
        }
        match (self.operator, self.cable) {
            (true, true) if self.up => Ok(()),
            (true, true) => write!(f, ": the guest has not brought it up"),
            (true, false) => write!(f, ": the network's side is down"),
            (false, true) => write!(f, ": taken down by the operator"),
            (false, false) => write!(
                f,
                ": taken down by the operator, and the network's side is down"
            ),
        }
    }
}

impl Display for Interrupts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let line = if self.asserted { "asserted" } else { "quiet" };
        let (pending, enabled) = (words(&self.pending), words(&self.enabled));
        write!(
            f,
            "{line}, pending {pending}, enabled {enabled}, {} sent",
            self.sent
        )?;
        match self.interval_ns {
            0 => Ok(()),
            ns => write!(f, ", {} us apart", ns as f64 / 1e3),
        }
    }
}

impl Display for Ring {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            base,
            descriptors,
            head,
            tail,
            with_nic,
            ..
        } = self;
        let on = if self.enabled { "on" } else { "off" };
        write!(
            f,
            "{on}, {descriptors} descriptors at {base:#x}, head {head}, tail {tail}, "
        )?;
        match self.buffer {
            None => write!(f, "{with_nic} to send"),
            Some(bytes) => write!(f, "{with_nic} free with {bytes} bytes each"),
        }
    }
}

impl Display for WakeUp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let status = if self.status { ", PME_Status" } else { "" };
        let (filters, passed) = (words(&self.filters), words(&self.passed));
        write!(f, "filters {filters}, passed {passed}{status}")
    }
}

impl Display for Led {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lit = match (self.lit, self.blinks) {
            (Some(true), false) => "on",
            (Some(true), true) => "blinks",
            (Some(false), _) => "off",
            (None, _) => "comes and goes",
        };
        let inverted = if self.inverted { ", inverted" } else { "" };
        write!(f, "{lit} ({}{inverted})", self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_why_it_is_down() {
        let mut link = Link {
            up: true,
            cable: true,
            operator: true,
            speed: 1000,
            full_duplex: true,
        };
        assert_eq!(link.to_string(), "up, 1000 Mb/s full duplex");
        link.up = false;
        assert_eq!(link.to_string(), "down: the guest has not brought it up");
        link.operator = false;
        assert_eq!(link.to_string(), "down: taken down by the operator");
        (link.operator, link.cable) = (true, false);
        assert_eq!(link.to_string(), "down: the network's side is down");
    }

    #[test]
    fn rings_and_interrupts_fit_a_line() {
        let ring = Ring {
            enabled: true,
            base: 0x1_0000,
            length: 4096,
            descriptors: 256,
            head: 3,
            tail: 2,
            with_nic: 255,
            buffer: Some(2048),
        };
        assert_eq!(
            ring.to_string(),
            "on, 256 descriptors at 0x10000, head 3, tail 2, 255 free with 2048 bytes each"
        );
        let interrupts = Interrupts {
            asserted: false,
            sent: 7,
            pending: Vec::new(),
            enabled: vec!["LSC".into(), "RXT0".into()],
            interval_ns: 51_200,
        };
        assert_eq!(
            interrupts.to_string(),
            "quiet, pending none, enabled LSC RXT0, 7 sent, 51.2 us apart"
        );
    }
}
