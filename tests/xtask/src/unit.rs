//! `cargo xtask unit`: `monitor/cardmon.service`, as it ships, run by a real systemd; and what the confined monitor
//! does, judged from outside of its confinement.
//!
//! Each case has a [`Machine`] of its own, where nothing is but systemd, its journal and this unit, and whatever
//! the case starts beside it. Nothing is decided here but whether what was seen is as it should be.

mod machine;
mod site;

use crate::outcome::{Outcome, Step, run_all};
use crate::process::{built, root, timed};
use crate::replay::stage::{expect, list, text};
use anyhow::Context as _;
use machine::{Machine, possible};
use serde_json::Value;
use site::CARD;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const STEPS: [Step; 5] = [
    Step {
        name: "starts",
        run: || case("starts", it_is_ready_by_its_own_word),
    },
    Step {
        name: "confined",
        run: || case("confined", it_may_do_what_is_written_and_no_more),
    },
    Step {
        name: "works",
        run: || case("works", confined_it_does_its_work),
    },
    Step {
        name: "hangs",
        run: || case("hangs", one_that_hangs_is_killed_and_started_anew),
    },
    Step {
        name: "ends",
        run: || case("ends", a_killed_card_and_an_end_are_on_record),
    },
];

/// `CAP_DAC_READ_SEARCH` and `CAP_SYS_PTRACE`, by their numbers (`linux/capability.h`).
const CAPABILITIES: u64 = 1 << 2 | 1 << 19;
/// The monitor itself makes this one, within its confinement.
const SNAPSHOT: [&str; 5] = ["cardmon", "snapshot", "--mode", "quiesce", "--to"];
/// In tenths of 10, which is a service that may do anything: what `monitor/tests/keeping.rs` allows as well.
const EXPOSURE: &str = "--threshold=30";
/// The unit's watchdog is 10 s and its restart 3 s later; then it has to start, on a machine with other work.
const ANEW: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(3);
/// What takes a poll or two, on a machine with other work.
const SOON: Duration = Duration::from_secs(30);

/// Boots, and judges.
///
/// # Errors
///
/// What it takes and cannot be had here, or the cases in which something is not as it should be.
pub(crate) fn run() -> anyhow::Result<()> {
    possible()?;
    built(&["cardmon", "hwshim", "firmware-sim"], false)?;
    let mount_point = directory().join("root");
    fs::create_dir_all(&mount_point)
        .with_context(|| format!("{} cannot be made", mount_point.display()))?;
    run_all("cardmon.service", &STEPS)
}

fn directory() -> PathBuf {
    root().join("target/unit")
}

/// Judges a machine of its own, and what its journal says of the system calls that the unit does not allow.
fn case(name: &str, judge: fn(&Machine) -> anyhow::Result<String>) -> anyhow::Result<Outcome> {
    let unit = root().join("monitor/cardmon.service");
    let machine = Machine::boot(&unit, &directory().join("root"))?;
    let judged = judge(&machine);
    let journal = machine.told(&["journalctl", "--no-pager", "--output=short-precise"]);
    let journal = journal.unwrap_or_else(|error| format!("{error:#}"));
    let kept = directory().join(format!("{name}.journal"));
    fs::write(&kept, &journal)?;
    let found = judged.with_context(|| format!("the journal is {}", kept.display()))?;
    let killed = killed_by_a_filter(&journal).next();
    expect(
        "the journal tells of no system call that killed anybody",
        killed.is_none() && journal.contains("cardmon.service"),
    )
    .with_context(|| killed.unwrap_or(&journal).to_owned())?;
    Ok(Outcome::Passed(found))
}

/// What systemd and the kernel say of a process that a seccomp filter has killed.
fn killed_by_a_filter(journal: &str) -> impl Iterator<Item = &str> {
    journal.lines().filter(|line| {
        let line = line.to_lowercase();
        let signs = ["sigsys", "status=31/sys", "seccomp", "bad system call"];
        signs.iter().any(|sign| line.contains(sign))
    })
}

fn it_is_ready_by_its_own_word(machine: &Machine) -> anyhow::Result<String> {
    let verify = machine.ask(&["systemd-analyze", "verify", "--man=no", "cardmon.service"])?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    expect(
        "systemd has nothing to say about the unit",
        verify.status.success() && said.is_empty(),
    )
    .context(said)?;
    let property = |name: &str| machine.property("cardmon.service", name);
    let states = ["ActiveState", "Type", "NRestarts"].map(property);
    let [active, kind, restarts] = states;
    expect(
        "it is active, for which it had to say READY=1, and was started once",
        active? == "active" && kind? == "notify" && restarts? == "0",
    )?;
    let micros = |name: &str| Ok::<u64, anyhow::Error>(property(name)?.parse()?);
    let (from, until) = (
        micros("InactiveExitTimestampMonotonic")?,
        micros("ActiveEnterTimestampMonotonic")?,
    );
    let took = Duration::from_micros(until.saturating_sub(from));
    let version = machine.told(&["systemctl", "--version"])?;
    let version = version.lines().next().unwrap_or_default();
    Ok(format!(
        "{version}; ready after {:.2} s",
        took.as_secs_f64()
    ))
}

fn it_may_do_what_is_written_and_no_more(machine: &Machine) -> anyhow::Result<String> {
    let pid = machine.main_process("cardmon.service")?;
    let status = machine.told(&["cat", &format!("/proc/{pid}/status")])?;
    expect(
        "it can gain no privileges, and its system calls are filtered",
        field(&status, "NoNewPrivs")? == "1" && field(&status, "Seccomp")? == "2",
    )?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let has = u64::from_str_radix(field(&status, set)?, 16)?;
        expect(
            &format!("{set} are the unit's two capabilities"),
            has == CAPABILITIES,
        )
        .with_context(|| format!("{set} {has:#x}"))?;
    }
    it_writes_where_it_has_to_and_nowhere_else(machine, &pid)?;
    let devices = machine.told(&["ls", &format!("/proc/{pid}/root/dev")])?;
    expect(
        "it sees /dev/null, and not the disk that there is",
        machine.told(&["ls", "/dev"])?.lines().any(|it| it == "sda")
            && devices.lines().any(|it| it == "null")
            && devices.lines().all(|it| it != "sda"),
    )?;
    let security = ["systemd-analyze", "security", "--no-pager", EXPOSURE];
    let said = machine.ask(&[&security[..], &["cardmon.service"]].concat())?;
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    let exposure = table.split("Overall exposure level for cardmon.service: ");
    let exposure = exposure.last().and_then(|rest| rest.split(' ').next());
    let exposure = exposure.context("systemd-analyze says no exposure")?;
    expect("its exposure is 3.0 at most", said.status.success()).context(table.clone())?;
    Ok(format!("exposure {exposure}, two capabilities, no devices"))
}

/// Of directories that root could write, as is tried outside of the monitor's mount namespace.
fn it_writes_where_it_has_to_and_nowhere_else(machine: &Machine, pid: &str) -> anyhow::Result<()> {
    let touch = |path: &str| -> anyhow::Result<(bool, bool)> {
        let inside = machine.ask(&["nsenter", "--target", pid, "--mount", "touch", path])?;
        let outside = machine.ask(&["touch", path])?;
        Ok((outside.status.success(), inside.status.success()))
    };
    for path in ["/etc/probe", "/root/probe", "/backup/probe", "/run/probe"] {
        expect(
            &format!("{path} can be written, and not where the monitor is"),
            touch(path)? == (true, false),
        )?;
    }
    for path in ["/var/lib/cardmon", "/var/log/cardmon", "/run/cardmon"] {
        let path = format!("{path}/probe");
        expect(
            &format!("{path} can be written there as well"),
            touch(&path)? == (true, true),
        )?;
    }
    Ok(())
}

fn confined_it_does_its_work(machine: &Machine) -> anyhow::Result<String> {
    start_beside(machine)?;
    machine.told(&["cardmon", "check", "--live", "--late", "5s", CARD])?;
    let ticket = ["--ticket", "CHG1", "--for", "5m", "--reason", "fan"];
    machine.told(&[&["cardmon", "unlock"], &ticket[..]].concat())?;
    machine.told(&["cardmon", "lock"])?;
    let events = recorded(machine)?;
    let has = |kind: &str| events.iter().any(|it| text(it, "/kind") == kind);
    let kinds = ["start", "transition", "change-unlock", "change-relock"];
    expect(
        "the card passes its test, orders are taken, and all is on record",
        kinds.into_iter().all(has),
    )?;
    let snapshot = |to: &str| machine.ask(&[&SNAPSHOT[..], &[to]].concat());
    let refused = snapshot("/backup/shipped")?;
    expect(
        "the monitor makes no snapshot where its unit does not let it",
        !refused.status.success()
            && String::from_utf8_lossy(&refused.stderr).contains("may not be written"),
    )?;
    site::add_service(machine)?;
    let found = another_users_service_is_read(machine)?;
    let made = snapshot("/backup/site")?;
    expect(
        "with ReadWritePaths= the monitor makes a snapshot there",
        made.status.success(),
    )
    .with_context(|| String::from_utf8_lossy(&made.stderr).into_owned())?;
    proven(machine, "/backup/site")?;
    Ok(format!("card, orders, snapshots; a service's {found}"))
}

fn another_users_service_is_read(machine: &Machine) -> anyhow::Result<String> {
    let service = machine.wait(SOON, "a service that answers", |machine| {
        let status = status(machine)?;
        let mut services = list(&status, "/services").iter();
        let answers = services.find(|it| text(it, "/standing") == "answers");
        Ok(answers.cloned())
    })?;
    let main = machine.main_process("hardserver.service")?;
    let figure = |name: &str| service.pointer(&format!("/process/{name}"))?.as_u64();
    let held = ["rss_anon_bytes", "descriptors", "threads"].map(figure);
    expect(
        "another user's service is found, asked by its socket, and its memory, descriptors and threads are read",
        figure("pid") == main.parse().ok() && held.iter().all(|it| it.is_some_and(|it| it > 0)),
    )?;
    let [memory, descriptors, threads] = held.map(Option::unwrap_or_default);
    let memory = memory >> 10;
    Ok(format!(
        "{memory} KiB, {descriptors} descriptors and {threads} threads"
    ))
}

fn one_that_hangs_is_killed_and_started_anew(machine: &Machine) -> anyhow::Result<String> {
    let property = |name: &str| machine.property("cardmon.service", name);
    let hung = machine.main_process("cardmon.service")?;
    machine.told(&["kill", "-STOP", &hung])?;
    let (anew, took) = timed(|| {
        machine.wait(SOON, "a monitor started anew", |_| {
            let is_anew = property("NRestarts")? == "1" && property("ActiveState")? == "active";
            Ok(is_anew.then_some(()))
        })
    });
    anew?;
    let seconds = took.as_secs_f64();
    expect(
        &format!("within 20 s it is another process that watches ({seconds:.1})"),
        took <= ANEW && property("MainPID")? != hung,
    )?;
    let journal = machine.told(&["journalctl", "--no-pager", "--unit=cardmon.service"])?;
    expect(
        "systemd says that it was the watchdog",
        journal.contains("Watchdog timeout"),
    )?;
    let events = recorded(machine)?;
    let starts: Vec<_> = events
        .iter()
        .filter(|event| text(event, "/kind") == "start")
        .map(|event| event.pointer("/body/previous_was_stopped"))
        .collect();
    expect(
        "the second start says that the first run was not stopped",
        starts == [Some(&Value::Null), Some(&Value::Bool(false))],
    )
    .with_context(|| format!("{starts:?}"))?;
    let verify = ["cardmon", "audit", "verify"];
    expect(
        "the record of both is whole",
        machine.told(&verify)?.contains("anchors up to"),
    )?;
    expect("it was once", property("NRestarts")? == "1")?;
    Ok(format!(
        "watching again {seconds:.1} s after it was stopped"
    ))
}

fn a_killed_card_and_an_end_are_on_record(machine: &Machine) -> anyhow::Result<String> {
    start_beside(machine)?;
    let pid = machine.main_process("card.service")?;
    machine.told(&["kill", "-KILL", &pid])?;
    let (seen, took) = timed(|| {
        machine.wait(SOON, "a card that is gone", |machine| {
            let (state, cause) = card(&status(machine)?);
            Ok((state == "unreachable" && cause == "card-absent").then_some(()))
        })
    });
    seen?;
    let seconds = took.as_secs_f64();
    expect(
        &format!("a killed card is unreachable, cause card-absent, within 3 s ({seconds:.1})"),
        took <= GONE,
    )?;
    machine.told(&["systemctl", "stop", "cardmon.service"])?;
    let property = |name: &str| machine.property("cardmon.service", name);
    expect(
        "it ends in an orderly way when it is told to",
        property("Result")? == "success" && property("ExecMainStatus")? == "0",
    )?;
    let events = recorded(machine)?;
    let last = events.last().map_or("", |event| text(event, "/kind"));
    let sign = machine.ask(&["test", "-e", "/run/cardmon/alive.json"])?;
    expect(
        "its end is the last on record, and its sign of life is left",
        last == "stop" && sign.status.success(),
    )?;
    let to = "/backup/end";
    machine.told(&["cardmon", "snapshot", "--to", to])?;
    proven(machine, to)?;
    Ok(format!("killed card seen after {seconds:.1} s"))
}

/// Starts a card and its owner, and returns when the monitor finds all connected.
fn start_beside(machine: &Machine) -> anyhow::Result<()> {
    site::add_card(machine)?;
    machine.wait(SOON, "a card that is connected", |machine| {
        let (state, _) = card(&status(machine)?);
        Ok((state == "connected").then_some(()))
    })?;
    expect("the card is connected", true)
}

/// What the monitor believes; of one that does not answer, nothing.
fn status(machine: &Machine) -> anyhow::Result<Value> {
    let answer = machine.ask(&["cardmon", "status", "--json"])?;
    Ok(serde_json::from_slice(&answer.stdout).unwrap_or_default())
}

/// State and cause of our card: the host may have others.
fn card(status: &Value) -> (String, String) {
    let mut cards = list(status, "/cards").iter();
    let card = cards.find(|it| text(it, "/card") == CARD);
    let word = |pointer: &str| card.map_or("", |it| text(it, pointer)).to_owned();
    (word("/state"), word("/cause"))
}

fn recorded(machine: &Machine) -> anyhow::Result<Vec<Value>> {
    machine.documents(&["cardmon", "history", "--json"])
}

/// Has a snapshot audited, against anchors that were written outside of it: without, it would be said.
fn proven(machine: &Machine, snapshot: &str) -> anyhow::Result<()> {
    let restore = ["cardmon", "restore", "--verify"];
    let proof = machine.ask(&[&restore[..], &[snapshot]].concat())?;
    let said = String::from_utf8_lossy(&proof.stderr).into_owned();
    expect(
        "the snapshot is what was recorded",
        proof.status.success() && said.is_empty(),
    )
    .context(said)
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    let field = fields.find_map(|(key, value)| (key == name).then(|| value.trim()));
    field.with_context(|| format!("/proc/PID/status has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_a_filter_has_killed_is_found_in_the_journal() {
        let journal = "systemd[1]: cardmon.service: Main process exited, code=dumped, status=31/SYS\n\
            systemd[1]: cardmon.service: Main process exited, code=killed, status=6/ABRT\n\
            audit: SECCOMP auid=0 comm=\"cardmon\"\n";
        let found: Vec<_> = killed_by_a_filter(journal).collect();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|line| !line.contains("ABRT")), "{found:?}");
    }

    #[test]
    fn a_field_of_a_process_is_found_by_its_whole_name() {
        let status = "CapEffX:\t1\nCapEff:\t0000000000080004\n";
        assert_eq!(field(status, "CapEff").unwrap(), "0000000000080004");
        field(status, "Cap").unwrap_err();
    }
}
