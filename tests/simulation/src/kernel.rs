//! What a kernel would tell a monitor: how the card is connected, by its configuration space, and
//! how the host is.
//!
//! The kernel reads and clears the card's error status as Linux's AER driver does, and takes a
//! function away when its card has left the slot, as hot-plug does.

use crate::slot::Slot;
use crate::trouble::HostTrouble;
use hwshim::pci::{LinkState, PowerState, Presence};
use hwshim::spec::pci::{
    Bdf, CapabilityHeader, ExpressCapability, LinkCapabilities, LinkStatus, capability,
};
use monitor::probe::{CpuTimes, ErrorTotals, Host, Link, Pressure, ProbeError, Shortages, Softnet};
use std::mem::offset_of;
use std::time::Duration;
use zerocopy::FromBytes as _;

/// Offset of the pointer to the first capability (PCI Local Bus §6.7 "Capabilities List").
const CAPABILITIES: u64 = 0x34;
/// Offset of the extended capability for errors, where the simulated card has it.
const AER: u64 = 0x100;
/// Of the correctable error status in it (PCIe Base §7.8.4.5 "Correctable Error Status Register").
const CORRECTABLE_STATUS: u64 = AER + 0x10;

/// Where the kernel finds the card.
const BDF: Bdf = Bdf {
    domain: 0,
    bus: 1,
    device: 0,
    function: 0,
};

/// The kernel of a run.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    correctable: u64,
    strain: Option<HostTrouble>,
    /// Whether somebody waits for storage all the time.
    storage_is_slow: bool,
    /// Time that went by on the host, and what of it was spent on what.
    spent: Spent,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    all: Duration,
    softirq: Duration,
    steal: Duration,
    waiting_for_cpu: Duration,
    waiting_for_memory: Duration,
    waiting_for_storage: Duration,
}

impl Kernel {
    /// Takes note of errors that the card has reported.
    pub(crate) fn handle_errors(&mut self, slot: &Slot) {
        let mut status = [0; 4];
        slot.read_config(CORRECTABLE_STATUS, &mut status);
        let is_there = status != [0xff; 4];
        if is_there && status != [0; 4] {
            self.correctable += 1;
            slot.write_config(CORRECTABLE_STATUS, &status);
        }
    }

    /// How the card is connected.
    pub(crate) fn link(&self, slot: &Slot) -> Result<Link, ProbeError> {
        let absent = |what: &str| ProbeError::Absent {
            what: what.to_owned(),
        };
        if !slot.is_occupied() {
            return Err(absent("the function"));
        }
        let mut identity = [0; 4];
        slot.read_config(0, &mut identity);
        let is_gone = identity == [0xff; 4];
        Ok(Link {
            bdf: BDF,
            presence: if is_gone {
                Presence::Gone
            } else {
                Presence::Present
            },
            link: Err(absent("its speed in words")),
            state: (!is_gone).then(|| state(slot)).flatten(),
            errors: ErrorTotals {
                correctable: Ok(self.correctable),
                nonfatal: Ok(0),
                fatal: Ok(0),
            },
            port: Err(absent("the port above it")),
            power_state: Ok(PowerState::D0),
            problems: Vec::new(),
        })
    }

    /// What the host has from now on.
    pub(crate) const fn strain(&mut self, trouble: Option<HostTrouble>) {
        self.strain = trouble;
    }

    /// Whether storage is slow from now on.
    pub(crate) const fn wait_for_storage(&mut self, is_slow: bool) {
        self.storage_is_slow = is_slow;
    }

    /// How the host is, `elapsed` after it was asked before.
    pub(crate) fn host(&mut self, elapsed: Duration) -> Host {
        self.spend(elapsed);
        let spent = self.spent;
        let pressure = |some| {
            Ok(Pressure {
                some,
                full: Some(Duration::ZERO),
            })
        };
        let idle = spent.all - spent.softirq - spent.steal;
        let busiest = CpuTimes {
            idle_ticks: ticks(idle),
            softirq_ticks: ticks(spent.softirq),
            steal_ticks: ticks(spent.steal),
            ..CpuTimes::default()
        };
        let other = CpuTimes {
            cpu: 1,
            idle_ticks: ticks(spent.all - spent.steal),
            steal_ticks: ticks(spent.steal),
            ..CpuTimes::default()
        };
        Host {
            cpus: Ok(vec![busiest, other]),
            softnet: Ok(vec![Softnet {
                cpu: Some(0),
                processed: 0,
                dropped: 0,
                squeezed: 0,
            }]),
            cpu_pressure: pressure(spent.waiting_for_cpu),
            memory_pressure: pressure(spent.waiting_for_memory),
            io_pressure: pressure(spent.waiting_for_storage),
            own_wait: None,
            memory: Err(ProbeError::Absent {
                what: "memory of a simulated host".to_owned(),
            }),
            shortages: Ok(Shortages {
                allocation_stalls: Some(0),
                oom_kills: Some(0),
            }),
            ephemeral_ports: Ok(32768..=60999),
            suspended: Some(Duration::ZERO),
        }
    }

    /// Time goes by, as whatever the host has would have it spent.
    fn spend(&mut self, elapsed: Duration) {
        let spent = &mut self.spent;
        spent.all += elapsed;
        if self.storage_is_slow {
            spent.waiting_for_storage += elapsed.mul_f64(0.9);
        }
        match self.strain {
            Some(HostTrouble::CpuStarvation) => spent.waiting_for_cpu += elapsed.mul_f64(0.7),
            Some(HostTrouble::SoftirqStorm) => spent.softirq += elapsed.mul_f64(0.6),
            Some(HostTrouble::Steal) => spent.steal += elapsed.mul_f64(0.4),
            Some(HostTrouble::MemoryPressure) => spent.waiting_for_memory += elapsed.mul_f64(0.5),
            Some(HostTrouble::MonitorStopped) | None => {}
        }
    }
}

/// In ticks of a kernel, 100 a second.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX)
}

/// How the link runs, by the card's own account.
fn state(slot: &Slot) -> Option<LinkState> {
    let mut byte = [0];
    slot.read_config(CAPABILITIES, &mut byte);
    // Lists of capabilities may be loops.
    for _ in 0..48 {
        let at = u64::from(byte[0] & 0xfc);
        if at == 0 {
            return None;
        }
        let mut express = [0; size_of::<ExpressCapability>()];
        slot.read_config(at, &mut express);
        let express = ExpressCapability::read_from_bytes(&express).ok()?;
        if express.header.id == capability::PCI_EXPRESS {
            let most = LinkCapabilities::from_bits(express.link_capabilities.get());
            let now = LinkStatus::from_bits(express.link_status.get());
            let is_full = now.current_link_speed() == most.max_link_speed()
                && now.negotiated_link_width() == most.max_link_width();
            return Some(if is_full {
                LinkState::Full
            } else {
                LinkState::Downtrained
            });
        }
        let next = offset_of!(CapabilityHeader, next) as u64;
        slot.read_config(at + next, &mut byte);
    }
    None
}
