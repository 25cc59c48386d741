//! S4: owner and monitor get next to no CPU for 10.8 seconds, while the card beats all the while.
//!
//! The kernel starves them, by the CPU controller of a control group: a millisecond of each second
//! for both together. Spinners of real-time priority would starve everybody else on the machine as
//! well, and stopping the two would not starve them: a stopped process does not wait for a CPU.

use super::group::{Controller, Group};
use super::stage::{Stage, expect, list, now, pause, text};
use anyhow::Context as _;
use serde_json::Value;
use std::time::Duration;

/// From 19:36:46.531 until 19:36:57.328, as it was on record then.
const STARVED: Duration = Duration::from_millis(10_797);
const BEFORE: Duration = Duration::from_secs(15);
const AFTER: Duration = Duration::from_secs(20);
const PERIOD: Duration = Duration::from_secs(1);
/// The least that the kernel takes for a quota.
const QUOTA: Duration = Duration::from_millis(1);

/// Plays it.
pub(super) fn replay(mut stage: Stage) -> anyhow::Result<()> {
    let group = Group::make(Controller::Cpu)?;
    let outcome = play(&mut stage, &group);
    let all = group.limit_cpu(None, PERIOD);
    stage.end();
    outcome.and(all)
}

fn play(stage: &mut Stage, group: &Group) -> anyhow::Result<()> {
    let mut card = stage.ours(["firmware-sim", "run"]);
    card.arg("--socket").arg(stage.path("card.sock"));
    stage.start("card", card)?;
    stage.wait_for(&stage.path("card.sock"))?;
    let owner = stage.owner();
    stage.start("owner", group.within(&owner))?;
    let mut monitor = stage.monitor("")?;
    monitor.arg("--json");
    stage.start("cardmon", group.within(&monitor))?;
    stage.wait(
        Duration::from_secs(60),
        "a card that is connected",
        |stage| {
            let status = stage.status();
            Ok(status.filter(|it| text(it, "/cards/0/state") == "connected"))
        },
    )?;
    pause(BEFORE);
    let before = Counts::of(&stage.polls()?)?;
    let from = now()?;
    println!("owner and monitor get 1 ms of each second from now on, for 10.8 s");
    group.limit_cpu(Some(QUOTA), PERIOD)?;
    pause(STARVED);
    group.limit_cpu(None, PERIOD)?;
    let until = now()?;
    pause(AFTER);
    stage.ask(&["status"])?;
    stage.ask_record(&["history", "--since", "2m"])?;
    let told = stage.ask_record(&["explain", "--gap", &format!("{from}..{until}")])?;
    judge(&stage.polls()?, &before, &told)
}

/// What is counted, as of the latest poll.
#[derive(Debug)]
struct Counts {
    beats: u64,
    late: u64,
}

impl Counts {
    fn of(polls: &[Value]) -> anyhow::Result<Self> {
        let last = polls.last().context("nothing was polled")?;
        let count = |pointer: &str| last.pointer(pointer).and_then(Value::as_u64);
        Ok(Self {
            beats: count("/cards/0/heartbeat/count").context("the card does not beat")?,
            late: count("/polls_late").context("late polls are not counted")?,
        })
    }
}

fn judge(polls: &[Value], before: &Counts, told: &str) -> anyhow::Result<()> {
    let after = Counts::of(polls)?;
    // Two beats a second for half a minute.
    let beaten = after.beats.saturating_sub(before.beats);
    expect("the card went on beating", beaten > 40)?;
    let blamed = |poll: &&Value| {
        text(poll, "/cards/0/cause") == "card"
            || list(poll, "/incidents")
                .iter()
                .any(|it| text(it, "/cause") == "card")
    };
    let blamed = polls.iter().filter(blamed).count();
    expect("the card is blamed in no poll", blamed == 0)?;
    // A busy machine has late polls of its own; that these are told apart by the gap is asked below.
    expect(
        "polls were late, and that is known",
        after.late > before.late,
    )?;
    let starved = |poll: &Value| {
        text(poll, "/cards/0/cause") == "host-starvation"
            || text(poll, "/host/cause") == "host-starvation"
            || list(poll, "/host/evidence")
                .iter()
                .any(|it| text(it, "/code") == "starvation")
    };
    expect(
        "starvation is named while it lasts",
        polls.iter().any(starved),
    )?;
    expect(
        "the gap is explained by a starved host",
        told.contains("the host was starved at the same time"),
    )?;
    expect("the card is well when it is over", {
        polls
            .last()
            .is_some_and(|it| text(it, "/cards/0/state") == "connected")
    })
}
