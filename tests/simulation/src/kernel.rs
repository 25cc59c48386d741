//! What a kernel would tell a monitor: how the card is connected, by its configuration space, and
//! how the host is.
//!
//! The kernel reads and clears the card's error status as Linux's AER driver does, and takes a
//! function away when its card has left the slot, as hot-plug does.

use crate::slot::Slot;
use hwshim::pci::{LinkState, PowerState, Presence};
use hwshim::spec::pci::{
    Bdf, CapabilityHeader, ExpressCapability, LinkCapabilities, LinkStatus, capability,
};
use monitor::probe::{
    CpuTimes, ErrorTotals, Host, Link, Pressure, ProbeError, Schedule, Shortages, Softnet,
};
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
    /// Ticks of each CPU so far, and what they were spent on.
    idle_ticks: u64,
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

    /// How the host is, `elapsed` after it was asked before.
    pub(crate) fn host(&mut self, elapsed: Duration) -> Host {
        /// Ticks a second.
        const HZ: u64 = 100;
        self.idle_ticks += elapsed.as_secs() * HZ;
        let at_rest = || {
            Ok(Pressure {
                some: Duration::ZERO,
                full: Some(Duration::ZERO),
            })
        };
        let cpu = |cpu| CpuTimes {
            cpu,
            idle_ticks: self.idle_ticks,
            ..CpuTimes::default()
        };
        Host {
            cpus: Ok(vec![cpu(0), cpu(1)]),
            softnet: Ok(vec![Softnet {
                cpu: Some(0),
                processed: 0,
                dropped: 0,
                squeezed: 0,
            }]),
            cpu_pressure: at_rest(),
            memory_pressure: at_rest(),
            io_pressure: at_rest(),
            own_schedule: Ok(Schedule {
                ran: Duration::ZERO,
                waited: Duration::ZERO,
                timeslices: 0,
            }),
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
