//! Q1: our driver, through Linux VFIO and an emulated IOMMU, on QEMU's own virtio-crypto.
//!
//! There are two devices: a good one, and one that would bypass the IOMMU, which must be refused.
//! Both start with Linux's own driver, as in any machine. What hwshim tells its user to do is
//! done to the letter, so its advice is judged too.

use super::guest::Guest;
use super::{Bench, Case, Qualification, Verdict};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q1",
    judged: "our driver on QEMU's virtio-crypto, through Linux VFIO",
    cases: &[Case { name: "q1", run }],
};

/// Where the devices are. QEMU puts a device of the root complex where it is told to.
const GOOD: &str = "0000:00:05.0";
const BYPASSING: &str = "0000:00:06.0";

const OPTIONS: [&str; 12] = [
    "-machine",
    "q35,kernel-irqchip=split",
    "-device",
    "intel-iommu,intremap=on",
    "-object",
    "cryptodev-backend-builtin,id=engine0",
    "-object",
    "cryptodev-backend-builtin,id=engine1",
    "-device",
    "virtio-crypto-pci,addr=5,cryptodev=engine0,disable-legacy=on,iommu_platform=on",
    "-device",
    "virtio-crypto-pci,addr=6,cryptodev=engine1,disable-legacy=on,iommu_platform=off",
];

fn run(bench: &Bench) -> anyhow::Result<Verdict> {
    let mut guest = bench.boot("q1", "intel_iommu=on", &OPTIONS)?;
    guest.succeed("modprobe virtio_pci; modprobe virtio_crypto")?;
    refused_while_linux_holds_it(&mut guest)?;
    bind_as_advised(&mut guest, GOOD)?;
    let found = known_answers(&mut guest)?;
    a_padding_it_lacks_does_not_take_it_out_of_use(&mut guest)?;
    refused_because_it_bypasses_the_iommu(&mut guest)?;
    Ok(Verdict {
        against: guest.versions(),
        found,
    })
}

/// A device that another driver holds is refused, with the commands that would change that.
fn refused_while_linux_holds_it(guest: &mut Guest) -> anyhow::Result<()> {
    let refusal = refusal(guest, GOOD)?;
    for said in ["virtio-pci", "driver_override", "drivers_probe"] {
        ensure!(refusal.contains(said), "no word of {said}: {refusal}");
    }
    Ok(())
}

/// Binds a device to VFIO by the commands that `hwshim list` gives for it.
pub(super) fn bind_as_advised(guest: &mut Guest, bdf: &str) -> anyhow::Result<()> {
    let list = guest.json("hwshim list --json")?;
    let card = function(&list, bdf).with_context(|| format!("{bdf} is not listed: {list}"))?;
    ensure!(card["usability"] == "vfio-after-binding", "{card}");
    let commands = card["commands"].as_array().context("it has no commands")?;
    for command in commands.iter().filter_map(Value::as_str) {
        guest.succeed(command)?;
    }
    // Other modprobes than busybox's load it with vfio, which asks for it.
    guest.succeed("modprobe vfio_iommu_type1")?;
    let list = guest.json("hwshim list --json")?;
    let card = function(&list, bdf).with_context(|| format!("{bdf} is not listed: {list}"))?;
    ensure!(card["usability"] == "vfio", "after binding: {card}");
    Ok(())
}

/// The function `bdf` in what `hwshim list --json` printed.
pub(super) fn function<'a>(list: &'a Value, bdf: &str) -> Option<&'a Value> {
    let functions = list["functions"].as_array()?;
    functions.iter().find(|function| function["bdf"] == bdf)
}

/// What the device's masks offer is answered right, what they do not is listed as such.
fn known_answers(guest: &mut Guest) -> anyhow::Result<String> {
    let report = guest.json(&format!("hwshim selftest pci:{GOOD} --json"))?;
    summary(&report, &["aes-cbc", "rsa-pkcs1"])
}

/// Callers may want PSS, which this device seems to offer: it opens sessions, and then answers each
/// request with an error. Or its library does it, and then there is nothing to lack.
fn a_padding_it_lacks_does_not_take_it_out_of_use(guest: &mut Guest) -> anyhow::Result<()> {
    // However slowly it is emulated, no answer is late.
    let bench = format!(
        "hwshim bench pci:{GOOD} --ops rsa-2048-sign --depth 32 --for 2s --timeout 30s --json"
    );
    let report = guest.json(&bench)?;
    let card = &report["accelerators"][0];
    ensure!(card["requests"]["refused"] == 0, "{report}");
    ensure!(card["breaker_opened"] == 0, "{report}");
    let by_card = card["requests"]["card"] != 0;
    let lacking = card["lacking"] == json!(["rsa-pss-sha256"]);
    ensure!(by_card != lacking, "neither signs nor lacks it: {report}");
    Ok(())
}

/// Says what passed and what was not offered, by name, if nothing failed and of each family in
/// `required` something passed.
pub(super) fn summary(report: &Value, required: &[&str]) -> anyhow::Result<String> {
    let algorithms = report["algorithms"].as_array();
    let algorithms = algorithms.context("the self-test lists no algorithms")?;
    let names = |result: &str| -> Vec<&str> {
        let lines = algorithms.iter().filter(|line| line["result"] == result);
        lines
            .filter_map(|line| line["algorithm"].as_str())
            .collect()
    };
    let (passed, not_offered) = (names("passed"), names("not-offered"));
    if passed.len() + not_offered.len() != algorithms.len() {
        bail!("some failed: {report}");
    }
    for family in required {
        let some = passed.iter().any(|name| name.contains(family));
        ensure!(some, "no {family} among what passed: {}", passed.join(", "));
    }
    Ok(format!(
        "passed {}; not offered: {}",
        passed.join(", "),
        if not_offered.is_empty() {
            "none".to_owned()
        } else {
            not_offered.join(", ")
        }
    ))
}

/// A device that takes our addresses for physical ones is not driven, and its user is told which
/// setting makes it a good one.
fn refused_because_it_bypasses_the_iommu(guest: &mut Guest) -> anyhow::Result<()> {
    let list = guest.json("hwshim list --json")?;
    let card = function(&list, BYPASSING).context("the bypassing device is not listed")?;
    ensure!(card["usability"] == "monitored-only", "{card}");
    let device = format!("/sys/bus/pci/devices/{BYPASSING}");
    guest.succeed(&format!(
        "echo vfio-pci > {device}/driver_override; \
         echo {BYPASSING} > {device}/driver/unbind; \
         echo {BYPASSING} > /sys/bus/pci/drivers_probe"
    ))?;
    let refusal = refusal(guest, BYPASSING)?;
    for said in ["VIRTIO_F_ACCESS_PLATFORM", "iommu_platform=on"] {
        ensure!(refusal.contains(said), "no word of {said}: {refusal}");
    }
    Ok(())
}

/// What `hwshim selftest` says when it refuses a device.
fn refusal(guest: &mut Guest, bdf: &str) -> anyhow::Result<String> {
    let answer = guest.run(&format!("hwshim selftest pci:{bdf} --json"))?;
    ensure!(
        answer.status == 1,
        "{bdf} was not refused: exit code {}, {}{}",
        answer.status,
        answer.stdout,
        answer.stderr
    );
    Ok(answer.stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(results: &[(&str, &str)]) -> Value {
        let line = |(algorithm, result): &(&str, &str)| json!({ "algorithm": algorithm, "result": result });
        json!({ "algorithms": results.iter().map(line).collect::<Vec<_>>() })
    }

    #[test]
    fn what_was_not_offered_is_named() {
        let report = report(&[("aes-128-cbc", "passed"), ("hmac-sha256", "not-offered")]);
        let summary = summary(&report, &["cbc"]).unwrap();
        assert_eq!(summary, "passed aes-128-cbc; not offered: hmac-sha256");
    }

    #[test]
    fn one_failure_fails_all() {
        let report = report(&[("aes-128-cbc", "passed"), ("rsa", "failed")]);
        let error = summary(&report, &["cbc"]).unwrap_err();
        assert!(error.to_string().contains("some failed"), "{error}");
    }

    #[test]
    fn offering_nothing_is_not_passing() {
        let report = report(&[("aes-128-cbc", "not-offered")]);
        let error = summary(&report, &["cbc"]).unwrap_err();
        assert!(error.to_string().contains("no cbc"), "{error}");
        summary(&json!({}), &[]).unwrap_err();
    }
}
