//! Q4: our card killed under load.
//!
//! QEMU stays when the process behind a function dies: what the guest then reads is all-ones,
//! what it writes is dropped, and no interrupt ever comes. Nothing tells the kernel. So it is by
//! deadlines that our driver finds out, and it goes on without the card.
//!
//! Linux's own driver loses its card in the same way, under the same load; what becomes of that
//! is told, not judged.

use super::card::{BDF, Card};
use super::guest::Guest;
use super::q2::{give_key, load, with_key};
use super::q3::boot_with_vfio;
use super::{Bench, Case, Linux, Qualification, Verdict};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q4",
    judged: "our driver, when its card is killed under load",
    cases: &[
        Case {
            name: "q4-stable",
            run: |bench| run(bench, "q4-stable", Linux::Stable),
        },
        Case {
            name: "q4-newest",
            run: |bench| run(bench, "q4-newest", Linux::Newest),
        },
    ],
};

/// The same for Linux's own driver: told, not judged.
pub(super) const OBSERVED: Qualification = Qualification {
    name: "q4-linux",
    judged: "(observed) Linux's driver, when our card is killed under load",
    cases: &[Case {
        name: "q4-linux",
        run: observe_linux,
    }],
};

fn run(bench: &Bench, name: &str, linux: Linux) -> anyhow::Result<Verdict> {
    let mut card = Card::start(bench, name)?;
    let mut guest = boot_with_vfio(bench, name, linux, &card)?;
    // Signatures take random numbers, which a kernel that has just come up does not have yet.
    guest.succeed("head -c 1 /dev/random > /dev/null")?;
    let load = format!("hwshim bench pci:{BDF} --ops rsa-2048-sign --for 8s --json");
    guest.succeed(&format!(
        "({load} > /tmp/report 2> /tmp/complaints; echo $? > /tmp/status) & sleep 3"
    ))?;
    kill(&mut card, &mut guest)?;
    // The report comes before the process is gone: older kernels wait a minute for the card to come
    // back before they let its last owner go.
    guest
        .succeed("for i in $(seq 300); do grep -q adds_up /tmp/report && break; sleep 0.1; done")?;
    let report = guest.json("cat /tmp/report")?;
    let found = nothing_was_lost(&report)?;
    if matches!(linux, Linux::Newest) {
        let status = "for i in $(seq 100); do [ -s /tmp/status ] && break; sleep 0.1; done; \
                      cat /tmp/status";
        let status = guest.succeed(status)?;
        ensure!(status.trim() == "0", "exit code {status}");
    }
    Ok(Verdict {
        against: guest.versions(),
        found,
    })
}

/// Kills the card. The guest stands still meanwhile, so that it leaves no message unread: QEMU 11.1
/// takes the connection's reset, which is what follows, for an error twice and aborts. Requests are
/// left in the queues all the same.
fn kill(card: &mut Card, guest: &mut Guest) -> anyhow::Result<()> {
    guest.monitor().execute("stop", &json!({}))?;
    card.kill()?;
    guest.monitor().execute("cont", &json!({}))?;
    Ok(())
}

/// Says who answered, if all was answered, by the card while it lived and by software after.
fn nothing_was_lost(report: &Value) -> anyhow::Result<String> {
    let requests = &report["requests"];
    let count = |name: &str| {
        let count = requests[name].as_u64();
        count.with_context(|| format!("no count of {name} in {report}"))
    };
    let (submitted, card, software) = (count("submitted")?, count("card")?, count("software")?);
    ensure!(card > 0, "the card had answered nothing yet: {report}");
    ensure!(software > 0, "software answered nothing: {report}");
    for name in ["refused", "wrong_answers", "in_flight"] {
        ensure!(count(name)? == 0, "{name}: {report}");
    }
    ensure!(submitted == card + software, "some were lost: {report}");
    ensure!(report["state"] == "gone", "not gone: {report}");
    Ok(format!(
        "{submitted} operations, {card} by the card and {software} by software, none failed; the \
         card is reported gone"
    ))
}

/// Has Linux's own driver sign, two signatures at a time, and kills the card.
fn observe_linux(bench: &Bench) -> anyhow::Result<Verdict> {
    const NAME: &str = "q4-linux";
    let mut card = Card::start(bench, NAME)?;
    let options = card.plain_machine();
    // A task that hangs for ten seconds is reported, and not only after two minutes.
    let parameters = "sysctl.kernel.hung_task_timeout_secs=10";
    let mut guest = bench.boot_newest(NAME, Linux::Newest, parameters, &options)?;
    load(&mut guest)?;
    give_key(&mut guest)?;
    let sign = "keyctl pkey_sign $key 0 /tmp/digest enc=pkcs1 hash=sha1";
    with_key(
        &mut guest,
        &format!(
            "for user in 1 2; do \
             while {sign} > /dev/null 2> /tmp/complaint$user; do echo >> /tmp/done$user; done & \
             done; sleep 2"
        ),
    )?;
    kill(&mut card, &mut guest)?;
    Ok(Verdict {
        against: guest.versions(),
        found: what_linux_does(&mut guest)?,
    })
}

fn what_linux_does(guest: &mut Guest) -> anyhow::Result<String> {
    // Until the kernel has complained.
    guest.succeed("sleep 22")?;
    let mut ask = |command: &str| -> anyhow::Result<String> {
        let printed = guest.succeed(&format!("{command} || true"))?;
        Ok(printed.trim().to_owned())
    };
    let signed = ask("cat /tmp/done1 /tmp/done2 | wc -l")?;
    let hanging = ask("grep -l 'State:.D' /proc/[0-9]*/status | wc -l")?;
    let place = ask("grep -h -m1 -o 'virtio_crypto_[a-z_]*' /proc/[0-9]*/stack | head -n 1")?;
    let told = ask("cat /tmp/complaint1 /tmp/complaint2")?;
    let complaint = ask("dmesg | grep -o 'task .* blocked for.*seconds' | head -n 1")?;
    let unloading = ask("rmmod virtio_crypto 2>&1")?;
    Ok(format!(
        "{signed} signatures, then {hanging} of 2 users hang for ever in {place}, told {told:?}; \
         the kernel: {complaint:?}; unloading the driver: {unloading:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(card: u64, software: u64, failed: u64) -> Value {
        json!({
            "state": "gone",
            "requests": {
                "submitted": 100, "card": card, "software": software, "refused": failed,
                "wrong_answers": 0, "in_flight": 0,
            },
        })
    }

    #[test]
    fn all_that_was_submitted_must_have_been_answered_well() {
        let found = nothing_was_lost(&report(30, 70, 0)).unwrap();
        assert!(
            found.starts_with("100 operations, 30 by the card"),
            "{found}"
        );
        for (card, software, failed) in [(30, 69, 1), (30, 69, 0), (0, 100, 0), (100, 0, 0)] {
            let report = report(card, software, failed);
            assert!(nothing_was_lost(&report).is_err(), "{report}");
        }
        nothing_was_lost(&json!({})).unwrap_err();
    }

    #[test]
    fn a_card_that_is_still_thought_to_be_there_fails() {
        let mut report = report(30, 70, 0);
        report["state"] = json!("ready");
        nothing_was_lost(&report).unwrap_err();
    }
}
