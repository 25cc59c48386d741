//! Q5: errors and removal, noticed through Linux.
//!
//! The card stands behind a root port that does native hot-plug and error reporting. An owner
//! drives it while errors are injected at port and card, and then the card is taken away. Errors
//! are counted by Linux and shown by `hwshim list`; the telemetry page shows that one took the
//! card out of use, and the removal.

use super::guest::Guest;
use super::q1::{bind_as_advised, function};
use super::{Bench, Case, Qualification, Verdict};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q5",
    judged: "our owner, when its card reports errors (AER) and is taken away",
    cases: &[Case { name: "q5", run }],
};

const OPTIONS: [&str; 12] = [
    "-machine",
    "q35,kernel-irqchip=split",
    // Otherwise removal is ACPI's business and the port has no part in it.
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    "-device",
    "intel-iommu,intremap=on",
    "-device",
    "pcie-root-port,id=upstream,chassis=1,addr=5",
    "-object",
    "cryptodev-backend-builtin,id=engine",
    "-device",
    "virtio-crypto-pci,id=card,bus=upstream,cryptodev=engine,disable-legacy=on,iommu_platform=on,aer=on",
];

/// The first bus behind the root complex has the only card.
const CARD: &str = "0000:01:00.0";

const LIST: &str = "hwshim list --json";
const STATS: &str = "hwshim stats --json";

fn run(bench: &Bench) -> anyhow::Result<Verdict> {
    let mut guest = bench.boot("q5", "intel_iommu=on", &OPTIONS)?;
    bind_as_advised(&mut guest, CARD)?;
    start_owner(&mut guest)?;
    guest.succeed("modprobe aer_inject")?;
    for injection in &INJECTIONS {
        inject(&mut guest, injection)?;
    }
    remove(&mut guest)?;
    end_owner(&mut guest)?;
    let whats = INJECTIONS.iter().map(|injection| injection.what);
    Ok(Verdict {
        against: guest.versions(),
        found: format!(
            "errors counted ({}); owner recovered, gave the card up when it was taken away, and \
             ended cleanly",
            whats.collect::<Vec<_>>().join(", ")
        ),
    })
}

/// Starts an owner that writes down how it ends, and waits until it has tested the card.
fn start_owner(guest: &mut Guest) -> anyhow::Result<()> {
    guest.succeed(&format!(
        "(hwshim serve --card pci:{CARD} > /run/owner.log 2>&1 & echo $! > /run/owner.pid; \
          wait $!; echo $? > /run/owner.status) > /dev/null 2>&1 &"
    ))?;
    guest.json_until(STATS, |stats| {
        let card = &stats["cards"][0];
        card["state"] == "ready" && card["checks"]["passed"] != 0
    })?;
    Ok(())
}

/// An error, and where Linux must have counted it.
struct Injection {
    what: &'static str,
    by: Injector,
    /// In the card's entry of `hwshim list --json`.
    counter: &'static str,
}

enum Injector {
    /// The monitor's command, with what it is told. Correctable errors are left in a register and
    /// reported to nobody before QEMU 8.0.
    Qemu(&'static str),
    /// Linux's own module for that: bus, device and function, and bits of the Correctable Error
    /// Status Register (PCI Express 7.8.4.5).
    Linux { bdf: [u8; 3], bits: u8 },
}

/// Names of errors are QEMU's; severities are those that the standard gives them by default (PCI
/// Express 6.2.7 "Error Listing and Rules").
const INJECTIONS: [Injection; 4] = [
    Injection {
        what: "nonfatal at the port",
        by: Injector::Qemu("upstream POISON_TLP"),
        counter: "/upstream/aer/nonfatal",
    },
    Injection {
        what: "nonfatal at the card",
        by: Injector::Qemu("card COMP_TIME"),
        counter: "/aer/nonfatal",
    },
    // Last, because Linux goes on to read what it injected instead of the port's registers.
    Injection {
        what: "correctable at the port",
        by: Injector::Linux {
            bdf: [0, 5, 0],
            bits: 1 << 0,
        },
        counter: "/upstream/aer/correctable",
    },
    Injection {
        what: "correctable at the card",
        by: Injector::Linux {
            bdf: [1, 0, 0],
            bits: 1 << 6,
        },
        counter: "/aer/correctable",
    },
];

/// Injects an error and waits until it is shown.
fn inject(guest: &mut Guest, injection: &Injection) -> anyhow::Result<()> {
    let Injection { what, by, counter } = injection;
    let before = count(&guest.json(LIST)?, counter)?;
    match by {
        Injector::Qemu(error) => {
            let command = format!("pcie_aer_inject_error {error}");
            let said = guest.monitor().type_in(&command)?;
            ensure!(said.starts_with("OK"), "QEMU refused {command}: {said}");
        }
        Injector::Linux { bdf, bits } => {
            guest.succeed(&linux_injection(*bdf, *bits))?;
        }
    }
    let counted = |list: &Value| count(list, counter).is_ok_and(|after| after == before + 1);
    guest
        .json_until(LIST, counted)
        .with_context(|| format!("{what} is not counted"))?;
    Ok(())
}

/// The command that has Linux's `aer_inject` inject a correctable error: it takes bus, device,
/// function, a byte of padding, and uncorrectable status, correctable status, four words of header
/// and the domain, of 32 bits each (Linux `drivers/pci/pcie/aer_inject.c`, `aer_error_inj`).
fn linux_injection([bus, device, function]: [u8; 3], bits: u8) -> String {
    let mut record = [0; 32];
    [record[0], record[1], record[2], record[8]] = [bus, device, function, bits];
    let octal: String = record.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}' > /dev/aer_inject")
}

/// A counter in the card's entry of a list.
fn count(list: &Value, counter: &str) -> anyhow::Result<u64> {
    let card = function(list, CARD).with_context(|| format!("no {CARD}: {list}"))?;
    let count = card.pointer(counter).and_then(Value::as_u64);
    count.with_context(|| format!("no {counter}: {card}"))
}

/// Takes the card away from an owner that has recovered from the errors. Linux asks the owner to
/// let go of it, five seconds after the attention button was pressed.
fn remove(guest: &mut Guest) -> anyhow::Result<()> {
    guest.json_until(STATS, |stats| {
        let card = &stats["cards"][0];
        card["state"] == "ready" && card["breaker_opened_by"] == "bus-error"
    })?;
    guest
        .monitor()
        .execute("device_del", &json!({ "id": "card" }))?;
    guest.json_until(STATS, |stats| stats["cards"][0]["state"] == "gone")?;
    guest.json_until(LIST, |list| {
        function(list, CARD).is_none_or(|card| card["presence"] == "gone")
    })?;
    Ok(())
}

/// The owner is still there, says what it must, and ends when it is told to.
fn end_owner(guest: &mut Guest) -> anyhow::Result<()> {
    let stats = guest.json(STATS)?;
    ensure!(stats["cards"][0]["stale"] == false, "{stats}");
    let wait = "kill -TERM $(cat /run/owner.pid); \
        while [ ! -e /run/owner.status ]; do sleep 0.1; done; \
        cat /run/owner.log >&2; cat /run/owner.status";
    let ended = guest.run(wait)?;
    ensure!(ended.stdout.trim() == "0", "the owner ended with {ended:?}");
    let stats = guest.json(STATS)?;
    ensure!(stats["cards"][0]["state"] == "released", "{stats}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_for_linux_has_its_32_bytes() {
        let command = linux_injection([1, 31, 7], 1 << 6);
        let zeros = "\\000".repeat(23);
        let expected = format!("'\\001\\037\\007\\000\\000\\000\\000\\000\\100{zeros}'");
        assert!(command.contains(&expected), "{command}");
    }

    #[test]
    fn a_counter_that_is_not_shown_is_not_zero() {
        let list =
            json!({ "functions": [{ "bdf": CARD, "aer": { "fatal": 2, "nonfatal": null } }] });
        assert_eq!(count(&list, "/aer/fatal").unwrap(), 2);
        count(&list, "/aer/nonfatal").unwrap_err();
        count(&json!({ "functions": [] }), "/aer/fatal").unwrap_err();
    }
}
