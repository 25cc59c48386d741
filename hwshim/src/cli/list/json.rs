//! The document that `hwshim list --json` prints. Programs depend on it: fields are added, never
//! renamed or given another meaning; what must change gets a new `schema`.
//!
//! ```text
//! { "schema": 1,
//!   "functions": [ { "address", "bdf", "accelerator", "family", "vendor_name", ... } ],
//!   "software":  [ { "address", "cpu_features": [..], "usable", "library", "reason" } ],
//!   "warnings":  [ { "bdf", "problem", "file", "reason" } ] }
//! ```
//!
//! A field of a function is its value, `null` when this function or kernel has no such thing, or
//! `{"problem": "unreadable" | "invalid", "file", "reason"}`. Numbers of PCI are strings as sysfs
//! writes them (`"0x8086"`), counts are numbers.

use super::software::Software;
use hwshim::pci::{
    Advice, AerTotals, Family, Inventory, Link, LinkState, PciFunction, PowerState, Presence,
    Problem, Reading, Usability,
};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    functions: Vec<Function<'a>>,
    software: &'a [Software],
    warnings: Vec<Warning<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    /// Address to use elsewhere on the command line and in configuration.
    address: String,
    bdf: String,
    /// Whether it is a crypto accelerator.
    accelerator: bool,
    family: Option<Family>,
    presence: Presence,
    vendor: Reading<String>,
    device: Reading<String>,
    subsystem_vendor: Reading<String>,
    subsystem_device: Reading<String>,
    class: Reading<String>,
    vendor_name: Option<&'static str>,
    device_name: Option<&'static str>,
    subsystem_vendor_name: Option<&'static str>,
    class_name: Option<&'static str>,
    driver: &'a Reading<String>,
    iommu_group: Reading<u32>,
    numa_node: &'a Reading<u32>,
    power_state: &'a Reading<PowerState>,
    link: &'a Reading<Link>,
    /// `full`, `limited-by-port`, `downtrained`, `down`, or `null` without a link.
    link_state: Option<LinkState>,
    aer: &'a AerTotals,
    upstream: Reading<Upstream<'a>>,
    /// How it can be used; `null` if it is no accelerator.
    usability: Option<Usability>,
    /// Why.
    reason: Option<String>,
    /// What would bring it closer to use, to be run as root in this order.
    commands: Vec<String>,
}

#[derive(Serialize)]
struct Upstream<'a> {
    bdf: String,
    link: &'a Reading<Link>,
    aer: &'a AerTotals,
}

#[derive(Serialize)]
struct Warning<'a> {
    /// The function, or `null` if it is about the bus.
    bdf: Option<String>,
    #[serde(flatten)]
    problem: &'a Problem,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        inventory: &'a Inventory,
        shown: &[&'a PciFunction],
        software: &'a [Software],
    ) -> Self {
        let warnings = super::warnings(inventory, shown);
        Self {
            schema: 1,
            functions: shown
                .iter()
                .map(|function| Function::new(inventory, function))
                .collect(),
            software,
            warnings: warnings
                .map(|(bdf, problem)| Warning {
                    bdf: bdf.map(|bdf| bdf.to_string()),
                    problem,
                })
                .collect(),
        }
    }
}

impl<'a> Function<'a> {
    fn new(inventory: &Inventory, function: &'a PciFunction) -> Self {
        let hex = |number: &Reading<u16>| number.clone().map(|number| format!("{number:#06x}"));
        let (usability, reason, commands) = match inventory.advice(function) {
            Some(Advice {
                usability,
                reason,
                commands,
            }) => (Some(usability), Some(reason), commands),
            None => (None, None, Vec::new()),
        };
        Self {
            address: super::address(function),
            bdf: function.bdf.to_string(),
            accelerator: function.family.is_some(),
            family: function.family,
            presence: function.presence,
            vendor: hex(&function.vendor),
            device: hex(&function.device),
            subsystem_vendor: hex(&function.subsystem_vendor),
            subsystem_device: hex(&function.subsystem_device),
            class: function.class.clone().map(|class| class.to_string()),
            vendor_name: function.vendor_name(),
            device_name: function.device_name(),
            subsystem_vendor_name: function.subsystem_vendor_name(),
            class_name: function.class_name(),
            driver: &function.driver,
            iommu_group: function.iommu_group.clone().map(|group| group.number),
            numa_node: &function.numa_node,
            power_state: &function.power_state,
            link: &function.link,
            link_state: function.link_state(),
            aer: &function.aer,
            upstream: match &function.upstream {
                Reading::Known(port) => Reading::Known(Upstream {
                    bdf: port.bdf.to_string(),
                    link: &port.link,
                    aer: &port.aer,
                }),
                Reading::Absent => Reading::Absent,
                Reading::Failed(problem) => Reading::Failed(problem.clone()),
            },
            usability,
            reason,
            commands,
        }
    }
}
