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
use super::report::Answer;
use super::{Bench, Case, Linux, Qualification, Verdict};
use crate::process::timed;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::time::Duration;

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

/// Seconds of load. Where the machine is too busy to have the card killed within the first, the
/// next has to do.
const LOADS: [u32; 3] = [8, 40, 200];
/// Operations in flight at the card.
const DEPTH: u64 = 32;
/// The card is killed when it has answered more. Some are answers to tests that come before the
/// load, and some may still be in flight; the driver has had the others.
const ANSWERED: u64 = 100;

fn run(bench: &Bench, name: &str, linux: Linux) -> anyhow::Result<Verdict> {
    let [shortest, longer @ ..] = LOADS;
    let (mut against, mut report) = kill_under_load(bench, name, linux, shortest)?;
    for seconds in longer {
        if !ended_too_soon(&report) {
            break;
        }
        println!("{name}: the load ended too soon; again, for {seconds} s");
        (against, report) = kill_under_load(bench, name, linux, seconds)?;
    }
    Ok(Verdict {
        against,
        found: nothing_was_lost(&report)?,
    })
}

/// Who judges, and what the load reports at its end.
fn kill_under_load(
    bench: &Bench,
    name: &str,
    linux: Linux,
    seconds: u32,
) -> anyhow::Result<(String, Value)> {
    let mut card = Card::start(bench, name)?;
    let mut guest = boot_with_vfio(bench, name, linux, &card)?;
    // Signatures take random numbers, which a kernel that has just come up does not have yet.
    guest.succeed("head -c 1 /dev/random > /dev/null")?;
    let load = format!(
        "hwshim bench pci:{BDF} --ops rsa-2048-sign --depth {DEPTH} --for {seconds}s --json"
    );
    guest.succeed(&format!(
        "({load} > /tmp/report 2> /tmp/complaints; echo $? > /tmp/status) &"
    ))?;
    let timeout = Duration::from_secs(u64::from(seconds) + 60);
    let page = Card::health_page(&mut guest)?;
    for _ in 0..timeout.as_millis() / 100 {
        let ended = guest.run("sleep 0.1; [ -s /tmp/status ]")?.status == 0;
        if ended || Card::answered(&mut guest, page)? > ANSWERED {
            break;
        }
    }
    kill(&mut card, &mut guest)?;
    // The report comes before the process is gone: older kernels wait a minute for the card to come
    // back before they let its last owner go.
    let reported = guest.until("cat /tmp/report; [ ! -s /tmp/status ]", timeout, |answer| {
        answer.json().is_ok() || answer.status != 0
    })?;
    let complaints = guest.succeed("cat /tmp/complaints")?;
    let report = reported
        .json()
        .with_context(|| format!("the load: {complaints}"))?;
    if matches!(linux, Linux::Newest) {
        let ended = guest.until("cat /tmp/status", timeout, |answer| {
            !answer.stdout.is_empty()
        })?;
        ensure!(ended.stdout.trim() == "0", "exit code {}", ended.stdout);
    }
    Ok((guest.versions(), report))
}

/// Whether the card was lost so late that the driver, which reported this, had no time to find out.
fn ended_too_soon(report: &Value) -> bool {
    let card = &report["accelerators"][0];
    let by_software = card["requests"]["software"].as_u64();
    // More than were in flight means that some came when the card was known to be lost.
    by_software.is_none_or(|count| count <= DEPTH) || card["state"] == "needs-reset"
}

/// Kills the card. The guest stands still meanwhile, and the card answers once more, so that it
/// leaves no message unread: QEMU 11.1 takes the connection's reset, which is what follows, for an
/// error twice and aborts. Requests are left in the queues all the same.
fn kill(card: &mut Card, guest: &mut Guest) -> anyhow::Result<()> {
    let page = Card::health_page(guest)?;
    guest.monitor().execute("stop", &json!({}))?;
    Card::answered(guest, page)?;
    card.kill()?;
    guest.monitor().execute("cont", &json!({}))?;
    Ok(())
}

/// Says who answered, if all was answered, by the card while it lived and by software after.
fn nothing_was_lost(report: &Value) -> anyhow::Result<String> {
    let requests = &report["accelerators"][0]["requests"];
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
    let state = &report["accelerators"][0]["state"];
    ensure!(state == "gone", "not gone: {report}");
    Ok(format!(
        "{submitted} operations, {card} by the card, {software} by software; none failed, and the \
         card is reported gone"
    ))
}

/// How many sign at the same time.
const USERS: u32 = 2;

/// Has Linux's own driver sign, and kills the card.
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
            "for user in $(seq {USERS}); do \
             while {sign} > /dev/null 2> /tmp/complaint$user; do echo >> /tmp/done$user; done & \
             done"
        ),
    )?;
    let minute = Duration::from_secs(60);
    guest.until("cat /tmp/done*", minute, |answer| !answer.stdout.is_empty())?;
    kill(&mut card, &mut guest)?;
    let (seen, took) = timed(|| watch_linux(&mut guest));
    Ok(Verdict {
        against: guest.versions(),
        found: match seen {
            Ok(seen) => told(&seen, took),
            // That, too, is what becomes of a guest.
            Err(error) => format!("the guest does not answer any more: {error:#}"),
        },
    })
}

/// What is seen of Linux after its card was lost; text that is empty where there is nothing.
#[derive(Debug, Default)]
struct Seen {
    signatures: String,
    hanging: String,
    place: String,
    complaints: String,
    kernel: String,
    unloading: String,
}

fn watch_linux(guest: &mut Guest) -> anyhow::Result<Seen> {
    /// Longer than it takes the kernel to notice tasks that hang.
    const LONG: Duration = Duration::from_secs(30);
    let kernel = "dmesg | grep -o 'task .* blocked for.*seconds' | head -n 1";
    let unloaded = "cat /tmp/unloading; [ -s /tmp/unloaded ]";
    let mut wait = |command: &str, wanted: fn(&Answer) -> bool| {
        // What does not happen is worth knowing as well.
        let _ = guest.until(command, LONG, wanted);
    };
    wait(kernel, |answer| !answer.stdout.is_empty());
    wait(
        "[ -e /tmp/unloading ] || \
         (rmmod virtio_crypto > /tmp/unloading 2>&1; echo $? > /tmp/unloaded) & \
         [ -s /tmp/unloaded ]",
        |answer| answer.status == 0,
    );
    let mut ask = |command: &str| -> anyhow::Result<String> {
        Ok(guest.run(command)?.stdout.trim().to_owned())
    };
    // keyctl is started by its loader.
    let hanging = "cat /proc/[0-9]*/status 2> /dev/null | awk '/^Name:/ { name = $2 } \
        /^State:/ && $2 == \"D\" && name ~ /^ld-linux/ { n++ } END { print n + 0 }'";
    Ok(Seen {
        signatures: ask("cat /tmp/done* | wc -l")?,
        hanging: ask(hanging)?,
        place: ask("grep -h -m1 -o 'virtio_crypto_[a-z_]*' /proc/[0-9]*/stack | head -n 1")?,
        complaints: ask("cat /tmp/complaint*")?,
        kernel: ask(kernel)?,
        unloading: ask(&format!("{unloaded} || echo it does not end"))?,
    })
}

fn told(seen: &Seen, took: Duration) -> String {
    let Seen {
        signatures,
        hanging,
        place,
        complaints,
        kernel,
        unloading,
    } = seen;
    let quoted = |text: &str| match text {
        "" => "nothing".to_owned(),
        text => format!("{text:?}"),
    };
    let place = match place.as_str() {
        "" => String::new(),
        place => format!(", in {place}"),
    };
    format!(
        "{signatures} signatures, then {hanging} of {USERS} users hang; that is {} s after the \
         kill{place}; users are told {}, the kernel says {}, unloading the driver says {}",
        took.as_secs(),
        quoted(complaints),
        quoted(kernel),
        quoted(unloading)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(card: u64, software: u64, failed: u64) -> Value {
        json!({
            "accelerators": [{
                "state": "gone",
                "requests": {
                    "submitted": 100, "card": card, "software": software, "refused": failed,
                    "wrong_answers": 0, "in_flight": 0,
                },
            }],
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
        report["accelerators"][0]["state"] = json!("ready");
        nothing_was_lost(&report).unwrap_err();
    }

    #[test]
    fn a_load_that_ended_before_the_driver_could_notice_does_not_count() {
        assert!(!ended_too_soon(&report(30, 70, 0)));
        assert!(ended_too_soon(&report(100, 0, 0)));
        assert!(ended_too_soon(&report(68, DEPTH, 0)));
        let mut report = report(30, 70, 0);
        report["accelerators"][0]["state"] = json!("needs-reset");
        assert!(ended_too_soon(&report));
    }

    #[test]
    fn what_does_not_happen_to_linux_is_not_said_of_it() {
        let seen = Seen {
            signatures: "69".to_owned(),
            hanging: "0".to_owned(),
            ..Seen::default()
        };
        let expected = "69 signatures, then 0 of 2 users hang; that is 61 s after the kill; \
            users are told nothing, the kernel says nothing, unloading the driver says nothing";
        assert_eq!(told(&seen, Duration::from_secs(61)), expected);
    }
}
