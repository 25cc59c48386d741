//! What the history costs on this machine's disk: commits a second, bytes a sample, time to audit.
//!
//! ```sh
//! cargo run --release -p monitor --example history_cost -- /var/tmp
//! ```
//!
//! It measures and asserts nothing. The directory decides: a file system in memory syncs for free.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use anyhow::Context;
use fastrand::Rng;
use hwshim::clock::{Clock, SystemClock};
use monitor::history::{BootId, Event, Events, Place, Samples, Stamp, WallTime};
use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

const COMMITS: u32 = 5_000;
const BATCHES: u32 = 100;
const BATCH: usize = 1_000;
const HOURS: u32 = 24;

fn main() -> anyhow::Result<()> {
    let below = env::args_os().nth(1).unwrap_or_else(|| "/var/tmp".into());
    let directory = tempfile::tempdir_in(&below).context("name a directory that can be written")?;
    events(directory.path())?;
    samples(directory.path())
}

fn event() -> Event {
    let stamp = Stamp::now(&SystemClock, BootId::of_this_boot());
    let body = "heartbeat frozen in 3 polls on time; counter 0x1234; queue 17 of 64";
    Event::new(stamp, "transition", "pci:0000:3b:00.0", &body)
}

fn events(directory: &Path) -> anyhow::Result<()> {
    let place = Place::new(directory.join("events"));
    let mut events = Events::open(&place, Vec::new())?;
    let took = time(|| (0..COMMITS).try_for_each(|_| events.append(&[event()]).map(|_| ())))?;
    println!(
        "one event a commit: {:.0} commits/s",
        f64::from(COMMITS) / took
    );

    let batch = vec![event(); BATCH];
    let took = time(|| (0..BATCHES).try_for_each(|_| events.append(&batch).map(|_| ())))?;
    let count = events.head()?.map_or(0, |head| head.seq.0);
    println!(
        "{BATCH} events a commit: {:.0} events/s",
        f64::from(BATCHES) * BATCH as f64 / took
    );
    let bytes = fs::metadata(events.path())?.len();
    println!(
        "{count} events: {:.0} bytes an event",
        bytes as f64 / count as f64
    );
    let took = time(|| events.verify(&[]).map(|audit| assert!(audit.is_proven())))?;
    println!("an audit: {:.0} events/s", count as f64 / took);
    Ok(())
}

/// A day of series as hosts and cards have them, each in a file of its own.
fn samples(directory: &Path) -> anyhow::Result<()> {
    type Series = fn(f64, &mut Rng) -> f64;
    let series: [(&str, Series); 6] = [
        ("a state, constant", |_, _| 1.0),
        ("a counter at a steady rate", |at, _| {
            at.mul_add(1_000.0, 1e9)
        }),
        ("a counter under load", |at, rng| {
            at.mul_add(4_000.0, f64::from(rng.u16(..2_000))).round()
        }),
        ("a temperature, 0.1 degrees", |at, rng| {
            ((at / 900.0).sin().mul_add(50.0, 410.0) + f64::from(rng.u8(..3))).round() / 10.0
        }),
        ("memory, bytes in pages", |at, rng| {
            ((at / 60.0).floor() + f64::from(rng.u8(..20))) * 4_096.0
        }),
        ("a share of time, any fraction", |_, rng| rng.f64()),
    ];
    for (name, value) in series {
        let place = Place::new(directory.join(name.replace([' ', ',', '.'], "-")));
        let start = WallTime::from_unix_millis(1_795_348_800_000);
        let mut samples = Samples::open(&place, start)?.samples;
        let mut rng = Rng::with_seed(1);
        let count = HOURS * 3_600;
        let took = time(|| {
            (0..count).try_for_each(|second| {
                // A poll comes when it comes: a millisecond early or late.
                let jitter = Duration::from_millis(u64::from(second) * 1_000 + rng.u64(..3));
                let value = value(f64::from(second), &mut rng);
                samples.record("series", start.plus(jitter), value)
            })
        })?;
        samples.close()?;
        let bytes = fs::metadata(place.directory.join(monitor::history::SAMPLES_FILE))?.len();
        let (bytes, count) = (bytes as f64, f64::from(count));
        println!(
            "{name}: {:.2} bytes a sample with all its tiers, {:.0} samples/s",
            bytes / count,
            count / took
        );
    }
    Ok(())
}

/// Seconds that something takes.
fn time<E>(run: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let begun = SystemClock.now();
    run()?;
    Ok(SystemClock.now().since(begun).as_secs_f64())
}
