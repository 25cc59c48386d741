//! Q6: our monitor on a host that has control groups of version 2 only, as most have by now.
//!
//! A service answers in a group of its own, is held up by a quota of processor time, and answers again;
//! another is killed at its group's limit of memory. What the kernel tells of that is what is tried:
//! which files there are, and what is in them.

use super::guest::Guest;
use super::{Bench, Case, Qualification, Verdict};
use anyhow::{Context as _, ensure};
use serde_json::Value;

pub(super) const QUALIFICATION: Qualification = Qualification {
    name: "q6",
    judged: "our monitor, where control groups are of version 2",
    cases: &[Case { name: "q6", run }],
};

const STATUS: &str = "cardmon status --json";
/// Two groups within one.
const GROUPS: &str = "/sys/fs/cgroup/shop";
const CONFIG: &str = "[[service]]
name = \"hardserver\"
cgroup = \"/shop/hardserver\"
socket = \"/run/hardserver.sock\"

[[service]]
name = \"web\"
cgroup = \"/shop/web\"
";

fn run(bench: &Bench) -> anyhow::Result<Verdict> {
    let mut guest = bench.boot_with_programs("q6", &["cardmon", "firmware-sim"])?;
    make_groups(&mut guest)?;
    start_all(&mut guest)?;
    let of_kernel = answers(&mut guest)?;
    let held_up = is_held_up(&mut guest)?;
    is_killed(&mut guest)?;
    Ok(Verdict {
        against: guest.versions(),
        found: format!(
            "a quota and a limit of version 2 are told; the kernel holds {of_kernel} KiB for the \
             service; {held_up}"
        ),
    })
}

fn make_groups(guest: &mut Guest) -> anyhow::Result<()> {
    guest.succeed(&format!(
        "ifconfig lo up; mount -t cgroup2 none /sys/fs/cgroup && \
         echo +memory +cpu > /sys/fs/cgroup/cgroup.subtree_control && mkdir {GROUPS} && \
         echo +memory +cpu > {GROUPS}/cgroup.subtree_control && \
         mkdir {GROUPS}/hardserver {GROUPS}/web && echo $((32 << 20)) > {GROUPS}/web/memory.max"
    ))?;
    let v1 = guest.run("grep -q ' cgroup ' /proc/mounts")?;
    ensure!(v1.status != 0, "a hierarchy of version 1 is mounted");
    Ok(())
}

fn start_all(guest: &mut Guest) -> anyhow::Result<()> {
    let mut start = |group: &str, command: &str| {
        guest.succeed(&format!(
            "sh -c 'echo $$ > {GROUPS}/{group}/cgroup.procs; exec {command}' >/dev/null 2>&1 &"
        ))
    };
    start(
        "hardserver",
        "firmware-sim service --socket /run/hardserver.sock",
    )?;
    // It takes all the memory it gets when it is told to.
    start(
        "web",
        "sh -c \"mkfifo /run/go; read x < /run/go; exec tail /dev/zero\"",
    )?;
    guest
        .succeed("for i in $(seq 100); do [ -S /run/hardserver.sock ] && break; sleep 0.1; done")?;
    // A command is one line.
    let config = CONFIG.replace('\n', "\\n");
    guest.succeed(&format!(
        "printf '%b' '{config}' > /run/cardmon.toml && mkdir /run/pages && \
         (cardmon run --config /run/cardmon.toml --telemetry /run/pages --no-history \
          >/run/cardmon.log 2>&1 &)"
    ))?;
    Ok(())
}

/// In its own group, by the files of version 2. How much the kernel holds for it, in KiB.
fn answers(guest: &mut Guest) -> anyhow::Result<u64> {
    let status = guest.json_until(STATUS, |status| {
        let hardserver = service(status, "hardserver");
        hardserver["standing"] == "answers" && service(status, "web")["standing"] == "runs"
    })?;
    let kernel = &service(&status, "hardserver")["kernel"];
    ensure!(kernel["cgroup"] == "/shop/hardserver", "{kernel}");
    // Which only version 2 tells apart.
    for part in ["stack_bytes", "slab_unreclaimable_bytes"] {
        ensure!(kernel[part].as_u64() > Some(0), "no {part}: {kernel}");
    }
    let total = kernel["total_bytes"].as_u64().context("no total")?;
    Ok(total / 1024)
}

/// With a fiftieth of a processor, and somebody in its group who takes all that he gets, and goes before it: by
/// turns with him, whoever sleeps until he is asked is let run first, and answers in time on a fast machine.
fn is_held_up(guest: &mut Guest) -> anyhow::Result<String> {
    guest.succeed(&format!(
        "echo 2000 100000 > {GROUPS}/hardserver/cpu.max; \
         sh -c 'renice -n -20 -p $$ && echo $$ > {GROUPS}/hardserver/cgroup.procs && while :; do :; done' & \
         echo $! > /run/busy.pid"
    ))?;
    let quota = |status: &Value| {
        let hardserver = service(status, "hardserver");
        let evidence = hardserver["evidence"].as_array()?;
        let quota = evidence.iter().find(|it| it["code"] == "quota")?;
        let is_said = hardserver["standing"] == "silent" && hardserver["cause"] == "overload";
        is_said.then(|| quota["detail"].as_str().unwrap_or_default().to_owned())
    };
    let status = guest.json_until(STATUS, |status| quota(status).is_some())?;
    let said = quota(&status).unwrap_or_default();
    ensure!(said.contains("/shop/hardserver"), "{said}");
    guest.succeed(&format!(
        "kill $(cat /run/busy.pid); echo max > {GROUPS}/hardserver/cpu.max"
    ))?;
    guest.json_until(STATUS, |status| {
        let hardserver = service(status, "hardserver");
        hardserver["standing"] == "answers" && hardserver["cause"] == "none"
    })?;
    Ok(said)
}

/// At the limit of its own group: it is a victim, and of nobody.
fn is_killed(guest: &mut Guest) -> anyhow::Result<()> {
    guest.succeed("echo > /run/go")?;
    let status = guest.json_until(STATUS, |status| {
        service(status, "web")["standing"] == "gone"
    })?;
    let events = guest.succeed(&format!("cat {GROUPS}/web/memory.events"))?;
    ensure!(events.contains("oom_kill 1"), "it was not killed: {events}");
    let (web, hardserver) = (service(&status, "web"), service(&status, "hardserver"));
    ensure!(web["cause"] == "service-gone", "{web}");
    let victim = &web["victim"];
    ensure!(victim["harm"] == "oom-killed", "{web}");
    ensure!(victim["of"].is_null(), "{web}");
    ensure!(hardserver["standing"] == "answers", "{hardserver}");
    Ok(())
}

fn service<'a>(status: &'a Value, name: &str) -> &'a Value {
    let services = status["services"].as_array().into_iter().flatten();
    let mut found = services.filter(|it| it["service"] == name);
    found.next().unwrap_or(&Value::Null)
}
