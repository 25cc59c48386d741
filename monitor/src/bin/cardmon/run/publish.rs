//! Shows polls, each after what it brought is on record.
//!
//! ```text
//!   polls --queue--> record --durable--> HTTP, metrics, terminal
//!                      |
//!                      +--the disk has not answered for 5 s: shown all the same, with an alarm
//! ```

use super::keeping::{self, Keeping};
use super::orders::Orders;
use super::screen::Screen;
use hwshim::clock::Instant;
use monitor::api::Published;
use monitor::attribution::RecentChanges;
use monitor::control::Drained;
use monitor::history::{Event, Stamp};
use monitor::record::{Beside, Figures, Kept, Recorder};
use monitor::status::HistoryFigures;
use monitor::watch::Poll;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time;

/// How long a poll waits to be on record before it is shown without. Watching is worth more than
/// its record, and what is asked over HTTP is stale after three polls.
const HOLD: Duration = Duration::from_secs(5);
/// Events that wait while the disk does not answer.
const WAITING_MAX: usize = 10_000;

/// One poll, on its way to be shown.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) poll: Poll,
    pub(super) now: Stamp,
    /// How much later than due it came.
    pub(super) late: Duration,
}

/// What is wrong with the record, for whoever else says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles(Arc<Mutex<Known>>);

/// How the record was when it was last asked.
#[derive(Clone, Debug)]
struct Known {
    /// Whether events get onto it.
    is_recording: bool,
    history: HistoryFigures,
}

impl Default for Known {
    /// Before it was ever asked, nothing is known to be wrong.
    fn default() -> Self {
        Self {
            is_recording: true,
            history: HistoryFigures {
                kept: true,
                ..HistoryFigures::default()
            },
        }
    }
}

impl Troubles {
    pub(super) fn list(&self) -> Vec<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.history.troubles.clone()
    }

    /// Takes over how it is now, and tells the operator of what was not so before.
    fn replace(&self, now: Known) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in known.news(&now) {
            crate::complain(&line);
        }
        *known = now;
    }
}

impl Known {
    /// What to tell when it is like `now`, and was like this before.
    fn news(&self, now: &Self) -> Vec<String> {
        let (before, after) = (&self.history, &now.history);
        let told = after.troubles.iter().zip(after.told());
        let told = told.filter(|(trouble, _)| !has(&before.troubles, trouble));
        let mut news: Vec<_> = told.map(|(_, line)| line).collect();
        news.extend(self.again(now).map(str::to_owned));
        // Of what kept it from recording, the line before tells.
        let over = before
            .lesser()
            .filter(|trouble| !has(&after.troubles, trouble));
        news.extend(over.map(|trouble| format!("the history: no longer so: {}", gist(trouble))));
        news
    }

    /// That events are on record again which were not all.
    fn again(&self, now: &Self) -> Option<&'static str> {
        let is_back = !self.is_recording && now.is_recording;
        let is_whole = now.history.kept;
        match is_back {
            true if is_whole => {
                Some("the history is being recorded again, all that waited included")
            }
            true => Some("the history is being recorded again, but for what is lost"),
            false => (is_whole && !self.history.kept)
                .then_some("the history: nothing more was lost for 5 minutes"),
        }
    }
}

/// How many events wait changes from poll to poll, and is no news.
fn gist(trouble: &str) -> &str {
    trouble.split(';').next().unwrap_or(trouble)
}

/// Nor is how many are lost, with which a trouble may begin.
fn has(troubles: &[String], trouble: &str) -> bool {
    let what = |trouble| gist(trouble).trim_start_matches(|it: char| it.is_ascii_digit());
    troubles.iter().any(|it| what(it) == what(trouble))
}

/// Where polls end up.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) screen: Screen,
    pub(super) publish: watch::Sender<Option<Published>>,
    pub(super) troubles: Troubles,
    pub(super) record: Option<Record>,
}

/// What puts them on record.
#[derive(Debug)]
pub(super) struct Record {
    recorder: Recorder,
    keeping: Keeping,
    orders: Orders,
    drained: Arc<BTreeMap<String, Drained>>,
    /// Whether a change window is open.
    window: bool,
    notes: Vec<String>,
    /// Codes of what keeps the history from being written.
    codes: Vec<u8>,
    /// How it was when it was last asked.
    history: Option<HistoryFigures>,
    /// Orders that are on record, and were not told of yet as what was changed.
    news: Vec<Event>,
    /// What the disk has not answered yet.
    stuck: Option<oneshot::Receiver<Kept>>,
    /// What is to be recorded when it has.
    waiting: Vec<Event>,
    /// Events for which there was no room there.
    lost: u64,
    /// Tells whoever looks for causes.
    tell: watch::Sender<OnRecord>,
}

/// What only the record knows, for whoever looks for causes.
#[derive(Clone, Debug, Default)]
pub(super) struct OnRecord {
    /// What was changed.
    pub(super) changes: Arc<RecentChanges>,
    /// Cards that an operator wants without work.
    pub(super) drained: Arc<BTreeMap<String, Drained>>,
}

impl Publisher {
    /// Shows what comes until no more comes, or nobody reads it any more.
    pub(super) async fn run(&mut self, mut polls: mpsc::UnboundedReceiver<Seen>) {
        while let Some(Seen {
            mut poll,
            now,
            late,
        }) = polls.recv().await
        {
            let mut notes = Vec::new();
            if let Some(record) = &mut self.record {
                if let Some(known) = record.put(&mut poll, late, now).await {
                    record.history = Some(known.history.clone());
                    self.troubles.replace(known);
                }
                poll.status.history.clone_from(&record.history);
                notes.extend_from_slice(&record.notes);
            }
            if !self.show(poll, now.monotonic, &notes) {
                break;
            }
        }
    }

    fn show(&mut self, poll: Poll, at: Instant, notes: &[String]) -> bool {
        let status = Arc::new(poll.status);
        self.publish.send_replace(Some(Published {
            status: Arc::clone(&status),
            at,
        }));
        self.screen
            .show(&status, &poll.transitions, &poll.service_transitions, notes)
    }
}

impl Record {
    /// `waiting` is what is to be recorded with the first poll.
    pub(super) fn new(
        recorder: Recorder,
        keeping: Keeping,
        orders: Orders,
        waiting: Vec<Event>,
        tell: watch::Sender<OnRecord>,
    ) -> Self {
        tell.send_replace(OnRecord {
            changes: Arc::clone(recorder.recent_changes()),
            drained: Arc::default(),
        });
        Self {
            recorder,
            keeping,
            orders,
            drained: Arc::default(),
            window: false,
            notes: Vec::new(),
            codes: Vec::new(),
            history: None,
            news: Vec::new(),
            stuck: None,
            waiting,
            lost: 0,
            tell,
        }
    }

    /// What is still to be recorded when the program ends, and how many events are lost.
    pub(super) fn end(mut self, polls: u64, now: Stamp) -> (Vec<Event>, u64) {
        let mut events = self.waiting;
        events.extend(self.recorder.end(polls, now));
        (events, self.lost)
    }

    /// Puts on record what a poll brought, and what time did; how the history is, if that is news.
    async fn put(&mut self, poll: &mut Poll, late: Duration, now: Stamp) -> Option<Known> {
        let mut events = std::mem::take(&mut self.waiting);
        events.extend(self.look_at_desk(poll, now));
        let news = std::mem::take(&mut self.news);
        let beside = Beside {
            late,
            drained: &self.drained,
            window: self.window,
            history: self.history.as_ref(),
            history_codes: &self.codes,
            orders: &news,
        };
        events.extend(self.recorder.poll(poll, &beside, now));
        self.tell.send_replace(OnRecord {
            changes: Arc::clone(self.recorder.recent_changes()),
            drained: Arc::clone(&self.drained),
        });
        if let Some(stuck) = &mut self.stuck {
            match stuck.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    // The oldest, as where it waits for a disk that answers and takes nothing.
                    let excess = events.len().saturating_sub(WAITING_MAX);
                    events.drain(..excess);
                    self.lost += u64::try_from(excess).unwrap_or(u64::MAX);
                    self.waiting = events;
                    return None;
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => self.stuck = None,
            }
        }
        let may_wait = self.keeping.hold(Figures {
            at: now,
            values: self.recorder.samples(&poll.status, late),
        });
        let is_well = |history: &HistoryFigures| history.kept && history.troubles.is_empty();
        let is_well = self.history.as_ref().is_some_and(is_well);
        if may_wait && is_well && events.is_empty() && self.lost == 0 {
            return None;
        }
        let lost = std::mem::take(&mut self.lost);
        let mut answer = self.keeping.keep(events, lost, now);
        let Ok(answered) = time::timeout(HOLD, &mut answer).await else {
            self.stuck = Some(answer);
            return Some(self.not_kept(
                "its disk has not answered for 5 s; what is shown is not on record yet: see whether its file system is well".to_owned(),
            ));
        };
        let Ok(Kept {
            last,
            lost,
            mut troubles,
            codes,
            elsewhere,
            opened_late,
        }) = answered
        else {
            return Some(self.not_kept(keeping::gone()));
        };
        self.codes = codes;
        if opened_late {
            troubles.extend(self.catch_up(now).await.err());
        }
        let is_recording = last.is_some();
        Some(Known {
            is_recording,
            history: HistoryFigures {
                kept: is_recording && lost == 0,
                lost,
                troubles,
                elsewhere,
            },
        })
    }

    /// A history that records nothing, and why. Of its lesser troubles nobody has said that they are over.
    fn not_kept(&self, why: String) -> Known {
        let before = self.history.as_ref();
        let lesser = before.into_iter().flat_map(HistoryFigures::lesser).cloned();
        Known {
            is_recording: false,
            history: HistoryFigures {
                kept: false,
                lost: before.map_or(0, |history| history.lost),
                troubles: std::iter::once(why).chain(lesser).collect(),
                elsewhere: before.map_or_else(Vec::new, |history| history.elsewhere.clone()),
            },
        }
    }

    /// Has desk and recorder know what is on record, where the history could not be read at the start:
    /// what an operator has drained alarms nobody, and what firmware a card had is known. If that
    /// fails, the next poll asks again.
    async fn catch_up(&mut self, now: Stamp) -> Result<(), String> {
        // Held until it knows, so that no order comes between what was read and what is made of it. One
        // that is being recorded waits for the disk, and nothing is shown meanwhile: it is not waited for.
        let Ok(mut desk) = self.orders.desk.try_lock() else {
            return Err(
                "what is on record of runs before is not known yet: an order is being recorded"
                    .to_owned(),
            );
        };
        let found = time::timeout(HOLD, self.keeping.look_up()).await;
        let found = found.map_err(|_| "the disk has not answered for 5 s".to_owned());
        let found = found.and_then(|found| found.unwrap_or_else(|_| Err(keeping::gone())));
        let past = found
            .map_err(|why| format!("what is on record of runs before is not known yet: {why}"))?;
        desk.begin_anew(&past.orders);
        self.waiting.extend(self.recorder.remember(&past, now));
        Ok(())
    }

    /// What time has brought to the lock, and what to show of it. If somebody's order is being
    /// recorded this moment, the next poll does that.
    fn look_at_desk(&mut self, poll: &Poll, now: Stamp) -> Vec<Event> {
        let Ok(mut desk) = self.orders.desk.try_lock() else {
            return Vec::new();
        };
        desk.watched(poll.status.cards_by_name());
        let events = desk.tick(now, false);
        if *self.drained != *desk.drained() {
            self.drained = Arc::new(desk.drained().clone());
        }
        self.window = desk.is_open(now);
        self.news.extend(desk.take_news());
        self.notes = desk.notes(now);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::super::orders::tests::{now, orders_in};
    use super::*;
    use monitor::record::HostWatch;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn known(is_recording: bool, lost: u64, troubles: &[&str]) -> Known {
        Known {
            is_recording,
            history: HistoryFigures {
                kept: is_recording && lost == 0,
                lost,
                troubles: troubles.iter().copied().map(str::to_owned).collect(),
                ..HistoryFigures::default()
            },
        }
    }

    const STOPPED: &str = "nothing is being recorded: the disk is full";
    const LOST: &str = "2 events are lost (no room); that is on record";
    const UNTOLD: &str = "anchors: the log was not told where the history ends";

    #[test]
    fn each_message_about_the_history_says_what_happened_to_it() {
        let well = known(true, 0, &[]);
        let stopped = |waiting| {
            let waits = format!("{STOPPED}; {waiting} events wait");
            known(false, 0, &[&waits, UNTOLD])
        };
        let untold = known(true, 0, &[UNTOLD]);
        let lossy = known(true, 2, &[LOST]);
        assert_eq!(
            well.news(&stopped(1)),
            [
                format!("ALARM: the history: {STOPPED}; 1 events wait"),
                format!("the history: {UNTOLD}")
            ]
        );
        // That more waits is no news.
        assert_eq!(stopped(1).news(&stopped(2)), [""; 0]);
        let again = "the history is being recorded again";
        let all = format!("{again}, all that waited included");
        assert_eq!(stopped(2).news(&untold), [all.as_str()]);
        // Nothing was lost by that.
        let told = format!("the history: no longer so: {UNTOLD}");
        assert_eq!(untold.news(&well), [told.as_str()]);
        assert_eq!(stopped(2).news(&well), [all, told.clone()]);
        let lost = format!("ALARM: the history: {LOST}");
        let but = format!("{again}, but for what is lost");
        assert_eq!(stopped(2).news(&lossy), [lost.clone(), but, told]);
        assert_eq!(well.news(&lossy), [lost]);
        // That more is lost in the same way is no news either.
        let lossier = known(true, 3, &[&LOST.replacen('2', "3", 1)]);
        assert_eq!(lossy.news(&lossier), [""; 0]);
        let no_more = "the history: nothing more was lost for 5 minutes";
        assert_eq!(lossy.news(&well), [no_more]);
    }

    #[test]
    fn what_is_on_record_of_runs_before_is_asked_for_again_while_an_order_is_being_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let orders = orders_in(&directory.path().join("history"));
        let desk = Arc::clone(&orders.desk);
        let being_recorded = desk.try_lock().unwrap();
        let host = HostWatch::new(Duration::from_secs(1), now().monotonic);
        let recorder = Recorder::new(host, Vec::new(), now());
        let (tell, _told) = watch::channel(OnRecord::default());
        let keeping = orders.keeping.clone();
        let mut record = Record::new(recorder, keeping, orders, Vec::new(), tell);
        let mut context = Context::from_waker(Waker::noop());
        let asked = pin!(record.catch_up(now())).poll(&mut context);
        let Poll::Ready(Err(why)) = asked else {
            panic!("it holds up what is shown: {asked:?}");
        };
        assert!(why.contains("an order is being recorded"), "{why}");
        drop(being_recorded);
    }
}
