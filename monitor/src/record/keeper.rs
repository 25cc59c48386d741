//! Keeps the history of one monitor, and goes on when the history cannot be kept.
//!
//! It decides nothing about what is kept. Whatever is wrong with the disk or the files, watching
//! goes on: events wait here, in their order, and are recorded when the trouble is over.
//!
//! ```text
//!   keep --> waiting --append--> events.db          all is well: nothing waits
//!               |
//!               +--trouble: full, locked, damaged, foreign, not permitted
//!                  said as long as it lasts, tried again every 5 s; what is damaged is
//!                  never written to, and nothing is begun anew
//! ```

use super::casebook::{CHANGES, INCIDENT_CLOSED, INCIDENT_OPENED, LOOKED_THROUGH_MAX};
use super::{FIRMWARE, GapBody, HISTORY_GAP, Past, SOFTWARE, START, STOP};
use crate::attribution::CHANGES_FOR;
use crate::control;
use crate::history::{
    Copied, Elsewhere, Event, Events, FileAnchors, Filter, HistoryError, Place, Recorded, Samples,
    Seq, Severity, Source, Stamp, SyslogAnchors, copy,
};
use crate::services::{Remembered, ServiceSettings};
use crate::status::HistoryFigures;
use hwshim::clock::{Clock, Instant};
use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between attempts while the history cannot be written.
const RETRY: Duration = Duration::from_secs(5);
/// Events that wait at most: a day of a host on which something flaps every ten seconds.
const WAITING_MAX: usize = 10_000;
/// For so long it is said that events were lost: who looks each five minutes is to see it.
const LOST_FOR: Duration = Duration::from_secs(5 * 60);

/// Longest time that figures are held back, to be handed over with those of the polls after.
const HELD_BACK: Duration = Duration::from_secs(8);

/// The figures of a poll, by series.
#[derive(Clone, Debug)]
pub struct Figures {
    /// When it was.
    pub at: Stamp,
    /// What it found.
    pub values: Vec<(String, f64)>,
}

/// Figures that wait for those of the next polls, so that a [`Keeper`] is given all of them at once.
#[derive(Debug, Default)]
pub struct Held(Vec<Figures>);

impl Held {
    /// Adds those of the latest poll.
    pub fn push(&mut self, figures: Figures) {
        self.0.push(figures);
    }

    /// Whether they may wait at `now` for those of the next poll, which comes after `interval`.
    #[must_use]
    pub fn may_wait(&self, now: Instant, interval: Duration) -> bool {
        self.0
            .first()
            .is_none_or(|first| now.since(first.at.monotonic) + interval <= HELD_BACK)
    }

    /// Takes them, to be given to [`Keeper::sample`].
    #[must_use]
    pub fn take(&mut self) -> Vec<Figures> {
        std::mem::take(&mut self.0)
    }
}

/// Keeps a history.
#[derive(Debug)]
pub struct Keeper {
    place: Place,
    anchors: PathBuf,
    events: Option<Events>,
    samples: Option<Samples>,
    waiting: VecDeque<Event>,
    losses: Losses,
    trouble: Option<Trouble>,
    /// Codes of what is wrong with the events.
    codes: Vec<u8>,
    /// What is wrong with less than the events: samples, anchors.
    lesser: Vec<String>,
    before: Before,
    /// What [`look_back`](Self::look_back) did not find of incidents, and what to do.
    elsewhere: Vec<String>,
}

/// What was on record when this run had put nothing there yet.
#[derive(Debug)]
enum Before {
    /// It could not be read yet, and nothing is recorded before it is: what this run records would
    /// be taken for what was before it.
    Unread,
    /// It was read, and waits for whoever goes on from it.
    Read(Box<Past>),
    /// Whoever goes on from it has it.
    Told,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    since: Instant,
    retry_at: Instant,
}

/// Events that never will be on record.
#[derive(Debug, Default)]
struct Losses {
    /// Of those, the ones of which the record does not say so yet.
    unsaid: u64,
    /// Those of the last minutes.
    lately: u64,
    ever: u64,
    /// Why the last were lost, and when.
    last: Option<(String, Instant)>,
}

impl Losses {
    fn count(&mut self, count: u64, why: &str, now: Instant) {
        if count == 0 {
            return;
        }
        for sum in [&mut self.unsaid, &mut self.lately, &mut self.ever] {
            *sum = sum.saturating_add(count);
        }
        self.last = Some((why.to_owned(), now));
    }

    fn forget_old(&mut self, now: Instant) {
        let is_recent = |at: &Instant| now.since(*at) < LOST_FOR;
        if !self.last.as_ref().is_some_and(|(_, at)| is_recent(at)) {
            self.lately = 0;
        }
    }

    /// That so many are lost, and why the last were.
    fn said(&self, count: u64) -> Option<String> {
        let (why, _) = self.last.as_ref().filter(|_| count > 0)?;
        Some(format!(
            "{count} events are lost ({why}); that is on record, and so is everything else"
        ))
    }
}

/// What became of events that were to be kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// The last number on record, if nothing waits to be.
    pub last: Option<Seq>,
    /// How many of the last minutes' events are lost.
    pub lost: u64,
    /// What is wrong, each with what to do about it; nothing if all is well.
    pub troubles: Vec<String>,
    /// Codes of [`code`](crate::code) that fit that.
    pub codes: Vec<u8>,
    /// As [`HistoryFigures::elsewhere`].
    pub elsewhere: Vec<String>,
    /// Whether the history could be read at last, and nobody has asked yet for what stands in it.
    pub opened_late: bool,
}

impl Keeper {
    /// Opens the history of `place`, with anchors in a file elsewhere and in the system's log if
    /// there is one. If it cannot be opened, that is the first trouble.
    #[must_use]
    pub fn open(place: Place, anchors: PathBuf, now: Stamp) -> Self {
        let mut keeper = Self {
            place,
            anchors,
            events: None,
            samples: None,
            waiting: VecDeque::new(),
            losses: Losses::default(),
            trouble: None,
            codes: Vec::new(),
            lesser: Vec::new(),
            before: Before::Unread,
            elsewhere: Vec::new(),
        };
        let opened = keeper.open_events();
        if let Err(error) = opened.and_then(|()| keeper.look_back(now)) {
            keeper.troubled(&error, now);
        }
        keeper.open_samples(now);
        keeper
    }

    /// What is on record that bears on what is going to be: of before this run, and orders of this run
    /// too. To be asked at the start, and again when [`Kept::opened_late`] says so.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, or has been asked for already.
    pub fn look_up(&mut self) -> Result<Past, String> {
        let Before::Read(past) = &self.before else {
            let trouble = self.troubles().into_iter().next();
            return Err(trouble.unwrap_or_else(|| "it was asked for before".to_owned()));
        };
        // Somebody may have given an order since. Those before are not read again: who asks waits, and
        // asks once more if that takes too long.
        let since = Filter {
            from: past.orders.last().map(|last| last.seq.next()),
            ..of_kinds(&control::KINDS)
        };
        let since = self.query(&since).map_err(|error| said(&error))?;
        let mut past = Past::clone(past);
        past.orders.extend(since);
        self.before = Before::Told;
        Ok(past)
    }

    /// Takes back what [`Keeper::look_up`] has told, which has reached nobody.
    pub fn put_back(&mut self, past: Past) {
        self.before = Before::Read(Box::new(past));
    }

    /// What services held before this run, as far as one gets as long as `may_go_on`.
    ///
    /// # Errors
    ///
    /// Why samples are not open.
    pub fn remember(
        &mut self,
        services: &[ServiceSettings],
        now: Stamp,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Remembered, String> {
        match &mut self.samples {
            Some(samples) => Ok(Remembered::read(samples, services, now, may_go_on)),
            None => Err(self.troubles().pop().unwrap_or_default()),
        }
    }

    /// Reads what is on record before this run adds to it.
    fn look_back(&mut self, now: Stamp) -> Result<(), HistoryError> {
        let [incidents, last_run, changes, firmware, software, orders] = look_ups(now);
        let (mut incidents, mut elsewhere) = self.look_through(&incidents)?;
        incidents.reverse();
        let unknown_until = elsewhere.iter().map(|it| it.events.last).max();
        let (changes, of_changes) = self.look_through(&changes)?;
        for it in of_changes {
            if !elsewhere.contains(&it) {
                elsewhere.push(it);
            }
        }
        let directory = self.place.directory.to_string_lossy();
        let told = |it: &Elsewhere| format!("{}, start the monitor anew", it.told(&directory));
        self.elsewhere = elsewhere.iter().map(told).collect();
        let last_run = self.query(&last_run)?;
        let past = Past {
            incidents,
            unknown_until,
            changes,
            firmware: self.query(&firmware)?,
            software: self.query(&software)?,
            orders: self.query(&orders)?,
            was_stopped: last_run.first().map(|last| last.event.kind == STOP),
        };
        self.before = Before::Read(Box::new(past));
        Ok(())
    }

    fn query(&self, filter: &Filter) -> Result<Vec<Recorded>, HistoryError> {
        let events = self.events.as_ref();
        events.map_or_else(|| Ok(Vec::new()), |events| events.query(filter))
    }

    fn look_through(
        &self,
        filter: &Filter,
    ) -> Result<(Vec<Recorded>, Vec<Elsewhere>), HistoryError> {
        let events = self.events.as_ref();
        events.map_or_else(
            || Ok((Vec::new(), Vec::new())),
            |events| events.look_through(filter),
        )
    }

    /// Puts events on record, after those that wait. They are on the disk when this returns
    /// without a trouble; else they wait.
    pub fn keep(&mut self, events: Vec<Event>, now: Stamp) -> Kept {
        for event in events {
            match event.check() {
                Ok(()) => self.waiting.push_back(event),
                // It would be refused for ever, and all that comes after it with it.
                Err(error) => self.lose(1, &format!("{}: {error}", event.kind), now),
            }
        }
        let excess = self.waiting.len().saturating_sub(WAITING_MAX);
        self.waiting.drain(..excess);
        let excess = u64::try_from(excess).unwrap_or(u64::MAX);
        self.lose(excess, "more waited than there is room for", now);
        let last = self.flush(now);
        if let Some(events) = &mut self.events {
            events.anchor_if_due(now.monotonic);
            self.lesser.retain(|lesser| {
                !lesser.starts_with("anchors:") && !lesser.starts_with("archive:")
            });
            self.lesser.extend(events.archive_trouble().map(|trouble| {
                format!(
                    "archive: the file of events is full and grows until it can be put away ({})",
                    said(trouble)
                )
            }));
            self.lesser.extend(events.archive_damage().map(|damage| {
                format!("archive: what stands in it was not gone on from at the start: {damage}")
            }));
            self.lesser.extend(events.anchor_troubles().map(|trouble| {
                format!(
                    "anchors: {} was not told where the history ends ({}); what follows can be cut off unnoticed until it is",
                    trouble.sink, trouble.error
                )
            }));
        }
        self.losses.forget_old(now.monotonic);
        Kept {
            last,
            lost: self.losses.lately,
            troubles: self.troubles(),
            codes: self.codes.clone(),
            elsewhere: self.elsewhere.clone(),
            opened_late: matches!(self.before, Before::Read(_)),
        }
    }

    /// Takes note of events that never will be on record; the record says so when it can.
    pub fn lose(&mut self, count: u64, why: &str, now: Stamp) {
        self.losses.count(count, why, now.monotonic);
    }

    /// Puts one event on record or refuses it: what somebody ordered must not be done and then be
    /// missing from the record.
    ///
    /// # Errors
    ///
    /// What is wrong with the history.
    pub fn order(&mut self, event: &Event, now: Stamp) -> Result<Seq, String> {
        if self.flush(now).is_none() {
            return Err(self.troubles().swap_remove(0));
        }
        let events = self.events.as_mut().ok_or("the history is not open")?;
        events
            .append(std::slice::from_ref(event))
            .map_err(|error| said(&error))
    }

    /// Puts figures on record, within ten seconds of their poll if they and the next were
    /// [held](Held) no longer than they may. `interval` is the time between polls.
    pub fn sample(&mut self, polls: &[Figures], interval: Duration) {
        let (Some(samples), Some(last)) = (&mut self.samples, polls.last()) else {
            return;
        };
        self.lesser.retain(|lesser| !lesser.starts_with("samples:"));
        let mut outcome = Ok(());
        for Figures { at, values } in polls {
            // All of them: what one commit did not take waits with the others for the next.
            let recorded = samples.record_all(values, at.wall);
            outcome = outcome.and(recorded);
        }
        let next = last.at.wall.plus(HELD_BACK + interval);
        if let Err(error) = outcome.and_then(|()| samples.flush_if_due(next)) {
            self.lesser.push(format!("samples: {}", said(&error)));
        }
    }

    /// Begins a snapshot while nothing is written. It is for who has no poll waiting to prove it.
    ///
    /// # Errors
    ///
    /// As [`copy`], or because the history is in trouble itself.
    pub fn copy(
        &mut self,
        directory: &Path,
        clock: &dyn Clock,
        now: Stamp,
    ) -> Result<Copied, String> {
        if self.flush(now).is_none() {
            return Err(self.troubles().swap_remove(0));
        }
        let (Some(events), Some(samples)) = (&mut self.events, &mut self.samples) else {
            return Err("the samples are not open, and a snapshot has them too".to_owned());
        };
        let source = Source::Quiesced { events, samples };
        copy(source, directory, clock).map_err(|error| said(&error))
    }

    /// Ends in an orderly way. What still waits is lost; how the history is then, and all that was
    /// ever lost.
    pub fn close(mut self, events: Vec<Event>, now: Stamp) -> HistoryFigures {
        self.keep(events, now);
        self.losses.lately = self.losses.ever;
        let mut troubles = self.troubles();
        if let Some(samples) = self.samples.take()
            && let Err(error) = samples.close()
        {
            troubles.push(format!("samples: {}", said(&error)));
        }
        let waiting = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        let lost = self.losses.ever.saturating_add(waiting);
        HistoryFigures {
            kept: lost == 0,
            lost,
            troubles,
            elsewhere: self.elsewhere,
        }
    }

    fn troubles(&self) -> Vec<String> {
        let trouble = self.trouble.as_ref().map(|trouble| {
            let waiting = self.waiting.len();
            let lost = match self.losses.unsaid {
                0 => String::new(),
                lost => format!(", {lost} are lost"),
            };
            format!(
                "nothing is being recorded: {}; {waiting} events wait{lost}",
                trouble.why
            )
        });
        let first = trouble.or_else(|| self.losses.said(self.losses.lately));
        first.into_iter().chain(self.lesser.clone()).collect()
    }

    /// Appends what waits, if it is time to try; the last number if nothing waits any more.
    fn flush(&mut self, now: Stamp) -> Option<Seq> {
        if let Some(trouble) = &mut self.trouble {
            if now.monotonic < trouble.retry_at {
                return None;
            }
            trouble.retry_at = now.monotonic.plus(RETRY);
        }
        match self.append(now) {
            Ok(last) => {
                self.waiting.clear();
                self.losses.unsaid = 0;
                self.trouble = None;
                self.codes.clear();
                Some(last)
            }
            Err(error) => {
                if error.is_damage() {
                    // Nothing more is written to it, unless it opens again.
                    self.events = None;
                }
                self.troubled(&error, now);
                None
            }
        }
    }

    fn append(&mut self, now: Stamp) -> Result<Seq, HistoryError> {
        if self.events.is_none() {
            self.open_events()?;
            if self.samples.is_none() {
                self.open_samples(now);
            }
        }
        if let Before::Unread = self.before {
            self.look_back(now)?;
        }
        let events: Vec<_> = self
            .gap(now)
            .into_iter()
            .chain(self.waiting.iter().cloned())
            .collect();
        let open = self.events.as_mut().expect("it was just opened");
        open.append(&events)
    }

    /// What there is to say of events that could not be recorded when they happened, or never.
    fn gap(&self, now: Stamp) -> Option<Event> {
        let waiting = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        let lost = self.losses.unsaid;
        let body = match (&self.trouble, &self.losses.last) {
            (Some(trouble), _) => GapBody {
                why: trouble.why.clone(),
                seconds: now.monotonic.since(trouble.since).as_secs_f64(),
                late: waiting,
                lost,
            },
            (None, Some((why, _))) if lost > 0 => GapBody {
                why: why.clone(),
                seconds: 0.0,
                late: 0,
                lost,
            },
            (None, _) => return None,
        };
        Some(Event::new(now, HISTORY_GAP, "monitor", &body).with_severity(Severity::Alert))
    }

    fn open_events(&mut self) -> Result<(), HistoryError> {
        let mut sinks: Vec<Box<dyn crate::history::AnchorSink>> = Vec::new();
        self.lesser.clear();
        match FileAnchors::open(&self.anchors) {
            Ok(file) => sinks.push(Box::new(file)),
            Err(error) => self.lesser.push(format!(
                "no anchors: {} could not be opened ({error}); the end of the history can be cut off unnoticed: name another file with --anchors",
                self.anchors.display()
            )),
        }
        if let Some(log) = SyslogAnchors::find(SyslogAnchors::SOCKET) {
            sinks.push(Box::new(log));
        }
        self.events = Some(Events::open(&self.place, sinks)?);
        Ok(())
    }

    fn open_samples(&mut self, now: Stamp) {
        match Samples::open(&self.place, now.wall) {
            Ok(opened) => {
                let aside = opened.moved_aside.zip(opened.damage);
                self.lesser.extend(aside.map(|(path, damage)| {
                    format!(
                        "figures begin anew: {}; the damaged file is kept as {}",
                        said(&damage),
                        path.display()
                    )
                }));
                self.samples = Some(opened.samples);
            }
            // The same is said of the events, in more detail.
            Err(_) if self.trouble.is_some() => {}
            Err(error) => self.lesser.push(format!("samples: {}", said(&error))),
        }
    }

    fn troubled(&mut self, error: &HistoryError, now: Stamp) {
        let why = said(error);
        self.codes = error.code().into_iter().collect();
        let since = self.trouble.as_ref().map_or(now.monotonic, |it| it.since);
        self.trouble = Some(Trouble {
            why,
            since,
            retry_at: now.monotonic.plus(RETRY),
        });
    }
}

/// What is asked of the record before this run: incidents, how the last run ended, changes of late,
/// firmware, software, orders. A poll waits for the answers, however long the record is.
fn look_ups(now: Stamp) -> [Filter; 6] {
    let latest = |kinds: &[&str], limit| Filter {
        latest_first: true,
        limit: Some(limit),
        ..of_kinds(kinds)
    };
    let changes = Filter {
        from_wall: Some(now.wall.minus(CHANGES_FOR)),
        ..of_kinds(&CHANGES)
    };
    [
        latest(&[INCIDENT_OPENED, INCIDENT_CLOSED], LOOKED_THROUGH_MAX),
        latest(&[START, STOP], 1),
        changes,
        of_kinds(&[FIRMWARE]),
        of_kinds(&[SOFTWARE]),
        of_kinds(&control::KINDS),
    ]
}

fn of_kinds(kinds: &[&str]) -> Filter {
    Filter {
        kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
        ..Filter::default()
    }
}

/// An error with all its causes, in one line.
#[must_use]
pub fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
