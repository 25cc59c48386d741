//! `cardmon explain --gap`: lays a silence beside what is on record of this host.

use super::{elsewhere, escaped, line, open, time, when};
use crate::page;
use crate::places::ReadPlace;
use monitor::history::{Filter, Reader, Recorded, SampleReader, Tier, Value, WallTime};
use monitor::local_health::Sign;
use monitor::record::gap::{
    Accused, Answer, Explanation, Known, SIGNS, Span, Tick, explain as explained,
};
use monitor::record::{
    self, HOST_STARVED, START, StartBody, StarvedBody, TICK_LATE, TRANSITION, TransitionBody,
};
use monitor::verdict::Cause;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const EXPLAIN_HELP: &str = "\
Times are UTC. Ticks are kept by the second for a day; of older times only events tell.

Examples:
  cardmon explain --gap 2026-11-22T19:36:46.531Z..2026-11-22T19:36:57.328Z
  cardmon explain --gap 30m..20m

Exit status:
  0   the host was starved for most of it, and no card was found at fault
  1   the history could not be opened or read
  2   the command line was wrong
  10  the host was well or merely busy, by what is here
  11  neither, or nobody looked, or it was starved and an archive that may tell of a card at fault
      then is elsewhere";

/// How far around a silence ticks are looked for, and what tells of it: the tick after it may come late.
const AROUND: Duration = Duration::from_secs(120);
/// Time between polls, where no run says.
const INTERVAL: Duration = Duration::from_secs(1);

/// Events within a silence that are shown.
const SHOWN_MAX: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    /// The silence, from when until when: each a time, or so long ago, as 30m..20m.
    #[arg(long, value_name = "T1..T2", value_parser = gap)]
    gap: Span,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

fn gap(text: &str) -> Result<Span, String> {
    let (from, until) = text
        .split_once("..")
        .ok_or_else(|| format!("{text:?} is no time to time; write T1..T2"))?;
    let span = Span {
        from: when::since(from)?,
        until: when::since(until)?,
    };
    if span.is_empty() {
        return Err("it ends before it begins".to_owned());
    }
    Ok(span)
}

pub(crate) fn explain(arguments: &ExplainArguments) -> anyhow::Result<ExitCode> {
    let directory = arguments.place.find()?.directory;
    let events = open(Reader::open(&directory))?;
    let silence = arguments.gap;
    let run = run_in(&events, silence)?;
    let mut known = Known {
        interval: interval(run.as_ref()),
        ..Known::default()
    };
    let needed = needed(silence, run.as_ref());
    known.elsewhere = elsewhere(&events, &needed, &directory)?;
    starved(&events, silence, &mut known)?;
    known.accused = accused(&events, silence)?;
    match SampleReader::open(&directory) {
        Ok(samples) => figures(&samples, silence, &mut known)?,
        Err(error) => crate::complain(&format!(
            "without ticks, by events alone: {}",
            record::said(&error)
        )),
    }
    if !known.ticks.is_empty() {
        // Ticks tell each second; an event tells of a time in which some of it may have been well.
        (known.starved, known.pressed) = (Vec::new(), Vec::new());
    }
    let found = explained(silence, &known);
    let mut out = anstream::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&found)?)?;
    } else {
        let others = within(&events, silence)?;
        let mut lines = vec![told(silence, &found)];
        lines.extend(others.iter().take(SHOWN_MAX).map(line));
        if others.len() > SHOWN_MAX {
            lines.push(format!(
                "and more; all are shown by: cardmon history --since '{}'",
                time(silence.from)
            ));
        }
        page::print(&lines)?;
    }
    Ok(ExitCode::from(match found.answer {
        Answer::HostStarved => 0,
        Answer::HostWell | Answer::HostBusy => 10,
        Answer::NotSeen | Answer::Partly => 11,
    }))
}

fn told(silence: Span, found: &Explanation) -> String {
    let Explanation {
        answer,
        seconds,
        starved_seconds,
        pressed_seconds,
        not_seen_seconds,
        ticks,
        tick_late_seconds_max,
        overlaps,
        accused,
        elsewhere,
    } = found;
    let overlap = format!("overlap {starved_seconds:.1} of {seconds:.1} s");
    let says = match answer {
        Answer::HostStarved => {
            format!(
                "the host was starved at the same time ({overlap}): the card is not to blame for it"
            )
        }
        Answer::HostWell => {
            format!("the host was well ({overlap}): look at the card, its owner and the link")
        }
        Answer::HostBusy => {
            format!(
                "the host was busy ({pressed_seconds:.1} of {seconds:.1} s under pressure), but our own polls came on time ({overlap}): look at the card, its owner and the link as well"
            )
        }
        Answer::NotSeen => {
            "nobody looked for most of it: the monitor did not run, or what it saw is not on record"
                .to_owned()
        }
        Answer::Partly if !accused.is_empty() => {
            format!("the host was starved ({overlap}), and it was not the host alone")
        }
        Answer::Partly if *starved_seconds >= seconds / 2.0 => {
            format!(
                "the host was starved ({overlap}); whether a card was at fault as well is not known here"
            )
        }
        Answer::Partly if *starved_seconds > 0.0 => {
            format!(
                "the host was starved for some of it ({overlap}), which does not explain the rest"
            )
        }
        Answer::Partly => format!(
            "nobody looked for {not_seen_seconds:.1} of {seconds:.1} s, and in the rest the host was well or merely busy"
        ),
    };
    let mut lines = vec![
        format!("{} .. {}: {says}", time(silence.from), time(silence.until)),
        format!(
            "  own ticks: {ticks}, the latest {tick_late_seconds_max:.1} s late; not seen: {not_seen_seconds:.1} s"
        ),
    ];
    let missing = elsewhere.iter();
    lines.extend(
        missing.map(|it| format!("  not all was looked at: {}, and ask again", escaped(it))),
    );
    lines.extend(accused.iter().map(|it| {
        let (subject, cause) = (escaped(&it.subject), it.cause);
        format!(
            "  and yet event {} found at fault: {cause}, with {subject}",
            it.event
        )
    }));
    lines.extend(
        overlaps
            .iter()
            .map(|overlap| format!("  {}: {:.1} s", escaped(overlap.what), overlap.seconds)),
    );
    lines.join("\n")
}

/// The start of the run that was on then.
fn run_in(events: &Reader, silence: Span) -> anyhow::Result<Option<Recorded>> {
    let filter = Filter {
        kinds: vec![START.to_owned()],
        until_wall: Some(silence.until),
        latest_first: true,
        limit: Some(1),
        ..Filter::default()
    };
    Ok(query(events, &filter)?.pop())
}

/// What tells of the silence: all from the start of its run, or what is thought to be it, since how far
/// apart polls were to be is not known without it; until so much later that what comes then tells of
/// other times, starvation that was recorded when it was over included.
fn needed(silence: Span, run: Option<&Recorded>) -> Filter {
    Filter {
        from_wall: run.map(|run| run.event.stamp.wall.min(silence.from)),
        until_wall: Some(silence.until.plus(AROUND)),
        ..Filter::default()
    }
}

/// Time between its polls, as it said.
fn interval(run: Option<&Recorded>) -> Duration {
    let body = run.and_then(|run| serde_json::from_str::<StartBody>(&run.event.body).ok());
    body.and_then(|body| Duration::try_from_secs_f64(body.interval_seconds).ok())
        .unwrap_or(INTERVAL)
}

/// Times of starvation that are events, of which each is recorded when it is over or long.
fn starved(events: &Reader, silence: Span, known: &mut Known) -> anyhow::Result<()> {
    let filter = Filter {
        kinds: vec![HOST_STARVED.to_owned()],
        from_wall: Some(silence.from),
        ..Filter::default()
    };
    for recorded in query(events, &filter)? {
        let Ok(body) = serde_json::from_str::<StarvedBody>(&recorded.event.body) else {
            continue;
        };
        let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        let until = recorded
            .event
            .stamp
            .wall
            .minus(seconds(body.ended_seconds_ago));
        let from = until.minus(seconds(body.seconds));
        let only_pressure = body.signs.iter().all(|sign| sign == Sign::Pressure.name());
        let spans = if only_pressure {
            &mut known.pressed
        } else {
            &mut known.starved
        };
        spans.push(Span { from, until });
    }
    Ok(())
}

/// Cards that came to be at fault within the silence, or whose links did.
fn accused(events: &Reader, silence: Span) -> anyhow::Result<Vec<Accused>> {
    let filter = Filter {
        kinds: vec![TRANSITION.to_owned()],
        from_wall: Some(silence.from),
        until_wall: Some(silence.until),
        ..Filter::default()
    };
    let of_one = |recorded: Recorded| {
        let body: TransitionBody = serde_json::from_str(&recorded.event.body).ok()?;
        let is_of_card = matches!(body.cause, Cause::Card | Cause::CardAbsent | Cause::Link);
        is_of_card.then(|| Accused {
            event: recorded.seq.0,
            subject: recorded.event.subject.clone(),
            cause: body.cause,
        })
    };
    let found = query(events, &filter)?;
    Ok(found.into_iter().filter_map(of_one).collect())
}

fn figures(samples: &SampleReader, silence: Span, known: &mut Known) -> anyhow::Result<()> {
    let read = |series: &str| -> anyhow::Result<Vec<(WallTime, f64)>> {
        let (from, until) = (silence.from.minus(AROUND), silence.until.plus(AROUND));
        let mut points = Vec::new();
        samples
            .range(series, from, until, Tier::Second, |point| {
                if let Value::Sample(value) = point.value {
                    points.push((point.at, value));
                }
                true
            })
            .map_err(|error| anyhow::anyhow!(record::said(&error)))?;
        Ok(points)
    };
    known.ticks = read(TICK_LATE)?
        .into_iter()
        .filter_map(|(at, late)| {
            let late = Duration::try_from_secs_f64(late).ok()?;
            Some(Tick { at, late })
        })
        .collect();
    for sign in SIGNS {
        known.host.push((sign, read(sign.series)?));
    }
    Ok(())
}

/// What else is on record of that time.
fn within(events: &Reader, silence: Span) -> anyhow::Result<Vec<Recorded>> {
    let filter = Filter {
        from_wall: Some(silence.from),
        until_wall: Some(silence.until),
        // One more than is shown tells that there are more.
        limit: u32::try_from(SHOWN_MAX + 1).ok(),
        ..Filter::default()
    };
    query(events, &filter)
}

fn query(events: &Reader, filter: &Filter) -> anyhow::Result<Vec<Recorded>> {
    events
        .query(filter)
        .map_err(|error| anyhow::anyhow!(record::said(&error)))
}
