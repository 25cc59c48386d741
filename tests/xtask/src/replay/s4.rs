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
    let monitor = stage.monitor("")?;
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
    let beats = beats(stage)?;
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
    judge(&stage.polls()?, beats, &told)
}

/// How often the card has beaten, by the latest poll.
fn beats(stage: &Stage) -> anyhow::Result<u64> {
    let polls = stage.polls()?;
    count(&polls).context("the card does not beat")
}

fn count(polls: &[Value]) -> Option<u64> {
    polls.last()?.pointer("/cards/0/heartbeat/count")?.as_u64()
}

fn judge(polls: &[Value], beats: u64, told: &str) -> anyhow::Result<()> {
    let beaten = count(polls)
        .context("the card does not beat")?
        .saturating_sub(beats);
    // Two beats a second for half a minute.
    expect("the card went on beating", beaten > 40)?;
    let blamed = |poll: &&Value| {
        text(poll, "/cards/0/cause") == "card"
            || list(poll, "/incidents")
                .iter()
                .any(|it| text(it, "/cause") == "card")
    };
    let blamed = polls.iter().filter(blamed).count();
    expect("the card is blamed in no poll", blamed == 0)?;
    let late = polls
        .last()
        .and_then(|it| it.pointer("/polls_late")?.as_u64());
    expect(
        "polls were late, and that is known",
        late.is_some_and(|late| late > 0),
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
        told.contains("starved"),
    )?;
    expect("the card is well when it is over", {
        polls
            .last()
            .is_some_and(|it| text(it, "/cards/0/state") == "connected")
    })
}
