//! `hwshim list`: the crypto accelerators of this host, how each does and how it can be used.
//!
//! Looks only. The table is for people, [`json`] for programs.

mod json;
mod software;

use super::crypto_mb::CryptoMb;
use super::output::{Cell, Failure, Output, Style, Table};
use hwshim::address::Address;
use hwshim::pci::{
    self, AerTotals, Family, Inventory, LinkRate, LinkState, PciError, PciFunction, Problem,
    Reading, Usability,
};
use hwshim::spec::pci::Bdf;
use software::Software;
use std::path::PathBuf;

/// List the crypto accelerators of this host, and how each can be used.
///
/// Accelerators are the cards of a built-in table, PCI class 10h (encryption controller) and
/// virtio-crypto. Reading configuration space wakes sleeping functions; run as root to see
/// more of it than its header.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List every PCI function, not accelerators only.
    #[arg(long)]
    all: bool,
    /// Print one JSON document for programs, with "functions", "software" and "warnings".
    #[arg(long)]
    json: bool,
    /// Read this sysfs, for example one captured on another host.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sysfs: PathBuf,
    #[command(flatten)]
    crypto_mb: CryptoMb,
}

/// Lists them.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    args.crypto_mb.check()?;
    let inventory = pci::enumerate(&args.sysfs).map_err(|error| {
        let hint = match &error {
            PciError::NotSysfs { .. } => "name the directory that holds bus/ and devices/",
            _ => "see whether this user may read it: ls -l",
        };
        Failure::new("PCI functions cannot be listed", error).hint(hint)
    })?;
    let shown: Vec<&PciFunction> = inventory
        .functions
        .iter()
        .filter(|function| args.all || is_of_interest(function))
        .collect();
    let software = software::detect(&args.crypto_mb);
    if args.json {
        return output.json(&json::Document::new(&inventory, &shown, &software));
    }
    print_table(output, &shown, &inventory, &software)?;
    print_details(output, &shown, &inventory, &software)?;
    for (_, problem) in warnings(&inventory, &shown) {
        output.warn(problem)?;
    }
    Ok(())
}

/// What cannot be identified may be an accelerator in trouble, so it is not hidden.
fn is_of_interest(function: &PciFunction) -> bool {
    function.family.is_some() || function.is_unidentified()
}

/// Problems of the functions that are shown, and of the bus.
fn warnings<'a>(
    inventory: &'a Inventory,
    shown: &[&PciFunction],
) -> impl Iterator<Item = (Option<Bdf>, &'a Problem)> {
    let shown: Vec<Bdf> = shown.iter().map(|function| function.bdf).collect();
    inventory
        .warnings()
        .filter(move |(bdf, _)| bdf.is_none_or(|bdf| shown.contains(&bdf)))
}

fn address(function: &PciFunction) -> String {
    Address::Pci(function.bdf).to_string()
}

fn print_table(
    output: &mut Output,
    shown: &[&PciFunction],
    inventory: &Inventory,
    software: &[Software],
) -> Result<(), Failure> {
    let mut table = Table::new(&["ADDRESS", "CARD", "DRIVER", "LINK", "ERRORS", "USE"], 1);
    for function in shown {
        table.push(vec![
            address(function).into(),
            card_name(function).into(),
            shown_reading(&function.driver).into(),
            link_cell(function),
            errors_cell(function),
            use_cell(inventory, function),
        ]);
    }
    if !shown.is_empty() {
        output.table(&table)?;
        output.line("")?;
    }
    // Apart, as their addresses are longer, and of a processor there is no link to tell of.
    let mut table = Table::new(&["ADDRESS", "CARD", "USE"], 1);
    for Software {
        address, usable, ..
    } in software
    {
        let usable = if *usable {
            Cell::styled("now", Style::Good)
        } else {
            "none".into()
        };
        table.push(vec![address.to_string().into(), "this CPU".into(), usable]);
    }
    output.table(&table)
}

fn card_name(function: &PciFunction) -> String {
    match (function.family, function.device_name()) {
        (Some(Family::Unlisted) | None, Some(device)) => device.to_owned(),
        (Some(family), _) => family.to_string(),
        (None, None) if function.is_unidentified() => "unidentified".to_owned(),
        (None, None) => function.class_name().unwrap_or("unknown").to_owned(),
    }
}

fn link_cell(function: &PciFunction) -> Cell {
    match (&function.link, function.link_state()) {
        (_, Some(LinkState::Down)) => Cell::styled("down", Style::Bad),
        (_, Some(LinkState::Downtrained)) => Cell::styled("downtrained", Style::Bad),
        (Reading::Known(link), _) => match link.current {
            Some(rate) => compact(rate).into(),
            None => "down".into(),
        },
        (Reading::Absent, _) => "-".into(),
        (Reading::Failed(_), _) => Cell::styled("?", Style::Caution),
    }
}

/// `8GT/s x16`: a column is narrow.
fn compact(rate: LinkRate) -> String {
    let speed = rate.speed.to_string().replace(".0", "").replace(' ', "");
    format!("{speed} x{}", rate.width)
}

/// The most severe errors that the function or the port above it counted.
fn errors_cell(function: &PciFunction) -> Cell {
    let port = function.upstream.as_known().map(|port| &port.aer);
    let sides = [("", Some(&function.aer)), ("port ", port)];
    let counters = || sides.iter().filter_map(|(side, aer)| Some((side, (*aer)?)));
    for severity in ["fatal", "nonfatal", "correctable"] {
        let worst = counters().find_map(|(side, aer)| match total(aer, severity).copied() {
            None | Some(0) => None,
            Some(count) => Some(format!("{side}{count} {severity}")),
        });
        if let Some(worst) = worst {
            let correctable = severity == "correctable";
            let style = if correctable {
                Style::Caution
            } else {
                Style::Bad
            };
            return Cell::styled(worst, style);
        }
    }
    let mut totals = counters().flat_map(|(_, aer)| aer.by_severity());
    if totals.any(|(_, total)| total.problem().is_some()) {
        Cell::styled("?", Style::Caution)
    } else if counters().all(|(_, aer)| aer.is_absent()) {
        "-".into()
    } else {
        "none".into()
    }
}

fn total<'a>(aer: &'a AerTotals, severity: &str) -> &'a Reading<u64> {
    let totals = aer.by_severity();
    let found = totals.iter().find(|(name, _)| *name == severity);
    found.expect("there is a total for each severity").1
}

fn use_cell(inventory: &Inventory, function: &PciFunction) -> Cell {
    let Some(advice) = inventory.advice(function) else {
        return "-".into();
    };
    match advice.usability {
        Usability::Vfio => Cell::styled("now", Style::Good),
        Usability::VfioAfterBinding => "bind first".into(),
        Usability::VendorPkcs11 => "PKCS#11".into(),
        Usability::MonitoredOnly => "watch".into(),
        Usability::Unusable => Cell::styled("gone", Style::Bad),
    }
}

fn shown_reading(reading: &Reading<impl ToString>) -> String {
    match reading {
        Reading::Known(value) => value.to_string(),
        Reading::Absent => "-".to_owned(),
        Reading::Failed(_) => "?".to_owned(),
    }
}

fn print_details(
    output: &mut Output,
    shown: &[&PciFunction],
    inventory: &Inventory,
    software: &[Software],
) -> Result<(), Failure> {
    for function in shown.iter().filter(|function| is_of_interest(function)) {
        output.line("")?;
        print_function(output, function, inventory)?;
    }
    for software in software {
        output.line("")?;
        output.note(&format!("{}  ", software.address), &software_text(software))?;
    }
    if !shown.iter().any(|function| function.family.is_some()) {
        print_without_card(output, shown.len(), inventory.functions.len())?;
    }
    Ok(())
}

fn software_text(software: &Software) -> String {
    let Software {
        cpu_features,
        library,
        reason,
        ..
    } = software;
    match (reason, library, cpu_features.as_slice()) {
        (Some(reason), ..) => format!("absent: {reason}"),
        (None, Some(library), _) => format!("this CPU, eight signatures at a time, by {library}"),
        (None, None, []) => "this CPU, without instructions for cryptography".to_owned(),
        (None, None, features) => format!("this CPU, with {}", features.join(", ")),
    }
}

fn print_without_card(
    output: &mut Output,
    shown_count: usize,
    function_count: usize,
) -> Result<(), Failure> {
    output.line("")?;
    let text = match function_count {
        0 => "This host has no PCI functions.".to_owned(),
        count if count == shown_count => "None of these is a crypto accelerator.".to_owned(),
        count => format!(
            "None of the {count} PCI functions of this host is a crypto accelerator \
             (hwshim list --all shows them)."
        ),
    };
    output.note("", &text)?;
    output.line("To try a simulated card:")?;
    output.line("    firmware-sim run --socket card.sock")?;
    output.line("    hwshim selftest vfio-user:./card.sock")
}

fn print_function(
    output: &mut Output,
    function: &PciFunction,
    inventory: &Inventory,
) -> Result<(), Failure> {
    output.note(
        &format!("{}  ", address(function)),
        &identity_text(function),
    )?;
    if function.link != Reading::Absent || function.link_state().is_some() {
        output.note("    link   ", &link_text(function))?;
    }
    if let Some(text) = aer_text(function) {
        output.note("    errors ", &text)?;
    }
    output.note("    place  ", &place_text(function))?;
    let Some(advice) = inventory.advice(function) else {
        return output.note("    use    ", "unknown: it cannot be identified");
    };
    let usability = match advice.usability {
        Usability::Vfio => "now, through VFIO",
        Usability::VfioAfterBinding => "through VFIO, after binding",
        Usability::VendorPkcs11 => "through PKCS#11",
        Usability::MonitoredOnly => "watch only",
        Usability::Unusable => "none",
    };
    output.note("    use    ", &format!("{usability}: {}", advice.reason))?;
    for command in &advice.commands {
        output.line(format_args!("           # {command}"))?;
    }
    Ok(())
}

/// Where it sits; what this host does not tell is left out.
fn place_text(function: &PciFunction) -> String {
    let group = function.iommu_group.clone().map(|group| group.number);
    let mut words = vec![match group {
        Reading::Absent => "no IOMMU group".to_owned(),
        group => format!("IOMMU group {}", shown_reading(&group)),
    }];
    if function.numa_node != Reading::Absent {
        words.push(format!("NUMA node {}", shown_reading(&function.numa_node)));
    }
    if function.power_state != Reading::Absent {
        words.push(format!("power {}", shown_reading(&function.power_state)));
    }
    words.join(", ")
}

fn identity_text(function: &PciFunction) -> String {
    let hex = |number: &Reading<u16>| match number {
        Reading::Known(number) => format!("{number:04x}"),
        Reading::Absent => "----".to_owned(),
        Reading::Failed(_) => "????".to_owned(),
    };
    let PciFunction {
        vendor,
        device,
        subsystem_vendor,
        subsystem_device,
        ..
    } = function;
    let mut words: Vec<String> = [function.vendor_name(), function.device_name()]
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .collect();
    if words.is_empty() {
        words.push("unidentified".to_owned());
    }
    words.push(format!("[{}:{}]", hex(vendor), hex(device)));
    if (vendor, device) != (subsystem_vendor, subsystem_device) {
        let maker = match function.subsystem_vendor_name() {
            Some(name) if Some(name) != function.vendor_name() => format!("{name} "),
            _ => String::new(),
        };
        let (vendor, device) = (hex(subsystem_vendor), hex(subsystem_device));
        words.push(format!("on {maker}[{vendor}:{device}]"));
    }
    words.join(" ")
}

fn link_text(function: &PciFunction) -> String {
    let link = match &function.link {
        Reading::Known(link) => link,
        Reading::Absent => return "down, says the port above it".to_owned(),
        Reading::Failed(_) => return "unknown".to_owned(),
    };
    let port = function.upstream.as_known();
    let port_link = port.and_then(|port| port.link.copied());
    let current = link
        .current
        .map_or_else(|| "down".to_owned(), |rate| rate.to_string());
    let able = match port_link {
        Some(port) => format!("card {}, port {}", link.maximum, port.maximum),
        None => format!("card {}", link.maximum),
    };
    match function.link_state() {
        Some(LinkState::Downtrained) => format!("{current}, downtrained (able: {able})"),
        Some(LinkState::LimitedByPort) => format!("{current}, all its port can do (able: {able})"),
        Some(LinkState::Down) => format!("down (able: {able})"),
        Some(LinkState::Full) | None => format!("{current}, its maximum"),
    }
}

/// What the function and the port above it counted; `None` where neither counts.
fn aer_text(function: &PciFunction) -> Option<String> {
    let port = function.upstream.as_known();
    let port = port.map(|port| (format!("port {}", port.bdf), &port.aer));
    let sides = std::iter::once(("card".to_owned(), &function.aer)).chain(port);
    let counted: Vec<String> = sides
        .filter(|(_, aer)| !aer.is_absent())
        .map(|(side, aer)| {
            let counts = aer.by_severity().map(|(_, total)| shown_reading(total));
            format!("{side} {}", counts.join("/"))
        })
        .collect();
    (!counted.is_empty()).then(|| format!("{} (correctable/nonfatal/fatal)", counted.join(", ")))
}
