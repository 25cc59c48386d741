//! What cardmon costs, with one card at one poll a second, and with a service as well, beside
//! node_exporter in the same run and with the same scrapes. The budget is for one card.
//!
//! CPU time is the scheduler's own account, in nanoseconds: a clock tick would be a third of what
//! cardmon may take in a minute.

use super::stage::{Stage, expect, pause};
use crate::process::root;
use crate::vm::apt::{Apt, Sources, Wanted};
use anyhow::{Context as _, bail};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(60);
/// Scrapes one after the other: enough that polls in between do not matter.
const SCRAPES: u32 = 200;
/// What cardmon may take: of a core, of memory, and of CPU time for a scrape. Time is that of the machine
/// on which node_exporter takes [`REFERENCE_SCRAPE`]; another may take as much longer as it does for that.
const SHARE_MAX: f64 = 0.0005;
const RSS_KIB_MAX: u64 = 12 * 1024;
const SCRAPE_MAX: Duration = Duration::from_micros(500);
const REFERENCE_SCRAPE: Duration = Duration::from_micros(7_200);
/// Beyond this it is not the machine that is slow, but node_exporter that has more to tell: of more
/// processors, disks and mounts.
const SLOWNESS_MAX: f64 = 2.0;

/// What was measured of one program.
#[derive(Debug)]
struct Cost {
    share: f64,
    rss_kib: u64,
    scrape: Duration,
    bytes: usize,
}

/// Measures.
pub(super) fn measure(mut stage: Stage) -> anyhow::Result<()> {
    let exporter = exporter()?;
    let socket = stage.path("card.sock");
    // All is well: what happens is written down and told, and that is not what is measured here.
    // Of two processes of one name the older is taken for the service, so it comes first.
    let service_socket = stage.path("service.sock");
    let mut service = stage.ours(["firmware-sim", "service", "--socket"]);
    service.arg(&service_socket);
    stage.start("service", service)?;
    stage.wait_for(&service_socket)?;
    let mut card = stage.ours(["firmware-sim", "run", "--socket"]);
    card.arg(&socket);
    stage.start("card", card)?;
    stage.wait_for(&socket)?;
    let owner = stage.owner();
    stage.start("owner", owner)?;
    let exporter_listen = "127.0.0.1:19100";
    let mut exporter = crate::process::bound(&exporter);
    exporter.arg(format!("--web.listen-address={exporter_listen}"));
    let exporter = stage.start("node_exporter", exporter)?;
    let theirs = (exporter, exporter_listen.to_owned());
    let service = format!(
        "[[service]]\nname = \"hardserver\"\nprocess = \"firmware-sim\"\nsocket = \"{}\"\n",
        service_socket.display()
    );
    let [ours, beside_ours] = beside(&mut stage, "", &theirs)?;
    stage.end_last();
    let [ours_with_service, _] = beside(&mut stage, &service, &theirs)?;
    println!(
        "\n{:<24} {:>12} {:>10} {:>12} {:>12}",
        "program", "% of a core", "RSS, MiB", "scrape, ms", "answer, KiB"
    );
    for (name, cost) in [
        ("cardmon", &ours),
        ("cardmon with a service", &ours_with_service),
        ("node_exporter", &beside_ours),
    ] {
        let Cost {
            share,
            rss_kib,
            scrape,
            bytes,
        } = cost;
        println!(
            "{name:<24} {:>12.3} {:>10.1} {:>12.3} {:>12}",
            share * 100.0,
            *rss_kib as f64 / 1024.0,
            scrape.as_secs_f64() * 1000.0,
            bytes / 1024
        );
    }
    let slowness = beside_ours.scrape.as_secs_f64() / REFERENCE_SCRAPE.as_secs_f64();
    let slowness = slowness.min(SLOWNESS_MAX);
    let share_max = SHARE_MAX * slowness;
    let scrape_max = SCRAPE_MAX.mul_f64(slowness);
    println!(
        "\nOf the machine that the budget is for, this one takes {slowness:.2} times the time for a scrape of\n\
         node_exporter, and so it is {:.3} % of a core, {} MiB and {:.2} ms a scrape.",
        share_max * 100.0,
        RSS_KIB_MAX / 1024,
        scrape_max.as_secs_f64() * 1000.0
    );
    expect("the budget of a core is enough", ours.share <= share_max)?;
    expect("12 MiB are enough", ours.rss_kib <= RSS_KIB_MAX)?;
    expect(
        "the budget is enough for a scrape",
        ours.scrape <= scrape_max,
    )
}

/// What a monitor of such a configuration costs, and node_exporter beside it.
fn beside(stage: &mut Stage, config: &str, theirs: &(u32, String)) -> anyhow::Result<[Cost; 2]> {
    let monitor = stage.monitor(config)?;
    let ours = stage.start("cardmon", monitor)?;
    let answers = [(ours, stage.listen()), theirs.clone()];
    for (_, address) in &answers {
        stage.wait(Duration::from_secs(30), address, |_| {
            Ok(scrape(address).ok())
        })?;
    }
    pause(Duration::from_secs(10));
    costs(&answers)
}

/// Each of both, over the same minute.
fn costs(answers: &[(u32, String); 2]) -> anyhow::Result<[Cost; 2]> {
    let taken = || -> anyhow::Result<[Duration; 2]> {
        Ok([cpu_time(answers[0].0)?, cpu_time(answers[1].0)?])
    };
    let before = taken()?;
    pause(IDLE);
    let after = taken()?;
    let before_scrapes = taken()?;
    let mut bytes = [0; 2];
    for _ in 0..SCRAPES {
        for (bytes, (_, address)) in bytes.iter_mut().zip(answers) {
            *bytes = scrape(address)?;
        }
    }
    let after_scrapes = taken()?;
    let cost = |index: usize| -> anyhow::Result<Cost> {
        Ok(Cost {
            share: (after[index] - before[index]).as_secs_f64() / IDLE.as_secs_f64(),
            rss_kib: rss_kib(answers[index].0)?,
            scrape: (after_scrapes[index] - before_scrapes[index]) / SCRAPES,
            bytes: bytes[index],
        })
    };
    Ok([cost(0)?, cost(1)?])
}

/// What all threads of a process have run for.
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let ran = text
            .split_whitespace()
            .next()
            .context("schedstat says nothing")?;
        nanos += ran.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("VmRSS is not told")?.parse()?)
}

/// Asks for the metrics, and returns how long the answer is.
fn scrape(address: &str) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("{address} answers no metrics");
    }
    Ok(answer.len())
}

/// Debian's node_exporter, unpacked and not installed.
fn exporter() -> anyhow::Result<PathBuf> {
    let directory = root().join("target/replay/packages");
    let exporter = directory.join("usr/bin/prometheus-node-exporter");
    if !exporter.exists() {
        println!("downloading prometheus-node-exporter");
        let apt = Apt::new(root().join("target/replay/apt"), Sources::Machine)?;
        apt.unpack(&[Wanted::Alone("prometheus-node-exporter")], &directory)?;
    }
    Ok(exporter)
}
