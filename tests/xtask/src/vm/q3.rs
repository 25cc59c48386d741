//! Q3: our driver on our card, with QEMU, an emulated IOMMU and Linux VFIO between them.
//!
//! Bound by the commands that hwshim lists, as in Q1. What our card offers is all there is, so
//! all must pass.

use super::card::{BDF, Card};
use super::guest::Guest;
use super::q1::{bind_as_advised, summary};
use super::{Bench, Case, Linux, Qualification, Verdict};
use anyhow::ensure;

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q3",
    judged: "our driver on our card, through Linux VFIO",
    cases: &[Case { name: "q3", run }],
};

fn run(bench: &Bench) -> anyhow::Result<Verdict> {
    let card = Card::start(bench, "q3")?;
    let mut guest = boot_with_vfio(bench, "q3", Linux::Newest, &card)?;
    let report = guest.json(&format!("hwshim selftest pci:{BDF} --json"))?;
    let found = summary(&report, &["aes", "rsa", "ecdsa", "hmac", "sha"])?;
    ensure!(report["not_offered"] == 0, "our card offers less: {found}");
    let all = report["algorithms"].as_array().map_or(0, Vec::len);
    Ok(Verdict {
        against: guest.versions(),
        found: format!("all {all} algorithms: {found}"),
    })
}

/// A guest in which the card is bound to VFIO.
pub(super) fn boot_with_vfio(
    bench: &Bench,
    name: &str,
    linux: Linux,
    card: &Card,
) -> anyhow::Result<Guest> {
    let options = card.machine_with_iommu();
    let mut guest = bench.boot_newest(name, linux, "intel_iommu=on", &options)?;
    // Linux's own driver has it first, as in any machine.
    guest.succeed("modprobe virtio_pci")?;
    bind_as_advised(&mut guest, BDF)?;
    Ok(guest)
}
