//! The thread that keeps the history, so that a slow disk holds up what is shown and never a poll.

use hwshim::clock::SystemClock;
use monitor::history::{Copied, Event, Seq, Snapshot, Stamp};
use monitor::record::{Figures, Held, Keeper, Kept, Past, said};
use monitor::status::HistoryFigures;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Asks the thread that keeps the history of this monitor. It ends when nobody can ask any more.
#[derive(Clone, Debug)]
pub(super) struct Keeping {
    jobs: Sender<Job>,
    /// What goes with the next of them.
    held: Arc<Mutex<Held>>,
    interval: Duration,
}

/// Why events are lost before they come here.
const NO_ROOM: &str = "the disk did not answer, and more was to be recorded than there is room for";

#[derive(Debug)]
enum Job {
    Keep {
        events: Vec<Event>,
        lost: u64,
        figures: Vec<Figures>,
        now: Stamp,
        kept: oneshot::Sender<Kept>,
    },
    LookUp {
        found: oneshot::Sender<Result<Past, String>>,
    },
    Order {
        event: Box<Event>,
        recorded: oneshot::Sender<Result<Seq, String>>,
        now: Stamp,
    },
    Copy {
        figures: Vec<Figures>,
        to: PathBuf,
        copied: oneshot::Sender<Result<Copied, String>>,
        now: Stamp,
    },
    Close {
        events: Vec<Event>,
        lost: u64,
        figures: Vec<Figures>,
        now: Stamp,
        closed: oneshot::Sender<HistoryFigures>,
    },
}

impl Keeping {
    /// `interval` is the time between polls.
    pub(super) fn start(keeper: Keeper, interval: Duration) -> io::Result<Self> {
        let (asks, jobs) = channel();
        thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || serve(keeper, &jobs, interval))?;
        Ok(Self {
            jobs: asks,
            held: Arc::default(),
            interval,
        })
    }

    /// Holds the figures of a poll, to be kept with what comes. Whether they may wait for the next poll:
    /// to hand them over, the thread is woken up, and who waits for its answer.
    pub(super) fn hold(&self, figures: Figures) -> bool {
        let now = figures.at.monotonic;
        let mut held = self.held();
        held.push(figures);
        held.may_wait(now, self.interval)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps these events and what is held; answered when the events are on record, or cannot be. `lost`
    /// is how many before them never will be.
    pub(super) fn keep(
        &self,
        events: Vec<Event>,
        lost: u64,
        now: Stamp,
    ) -> oneshot::Receiver<Kept> {
        let (kept, answer) = oneshot::channel();
        // If the thread is gone, so is the other end of the answer, which is the answer.
        let _ = self.jobs.send(Job::Keep {
            events,
            lost,
            figures: self.held().take(),
            now,
            kept,
        });
        answer
    }

    /// What is on record of runs before, of a history that was opened late.
    pub(super) fn look_up(&self) -> oneshot::Receiver<Result<Past, String>> {
        let (found, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::LookUp { found });
        answer
    }

    /// Records one event now or not at all.
    pub(super) async fn order(&self, event: Event, now: Stamp) -> Result<Seq, String> {
        let (recorded, answer) = oneshot::channel();
        let event = Box::new(event);
        let _ = self.jobs.send(Job::Order {
            event,
            recorded,
            now,
        });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Makes a snapshot: copied while nothing is written, and proven in a thread of its own, as that takes
    /// as long as all that was ever recorded, and what polls bring would wait for it. Nobody waits for that
    /// thread at the end of a run.
    pub(super) async fn snapshot(&self, to: PathBuf, now: Stamp) -> Result<Snapshot, String> {
        let (copied, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Copy {
            figures: self.held().take(),
            to,
            copied,
            now,
        });
        let copied = answer.await.unwrap_or_else(|_| Err(gone()))?;
        let (made, answer) = oneshot::channel();
        let prove = move || {
            let _ = made.send(copied.proven(&SystemClock).map_err(|error| said(&error)));
        };
        let no_thread = "the monitor has no thread to prove it in";
        let thread = thread::Builder::new().name("snapshot".to_owned());
        thread.spawn(prove).map_err(|_| no_thread)?;
        answer.await.map_err(|_| no_thread)?
    }

    /// Ends the history with these events and what is held, after all that was asked before; how it is
    /// then.
    pub(super) fn close(
        &self,
        events: Vec<Event>,
        lost: u64,
        now: Stamp,
    ) -> oneshot::Receiver<HistoryFigures> {
        let (closed, answer) = oneshot::channel();
        let _ = self.jobs.send(Job::Close {
            events,
            lost,
            figures: self.held().take(),
            now,
            closed,
        });
        answer
    }
}

/// What to say when there is no thread to answer.
pub(super) fn gone() -> String {
    "the thread that keeps the history has ended; start the monitor anew".to_owned()
}

fn serve(mut keeper: Keeper, jobs: &Receiver<Job>, interval: Duration) {
    // Whoever does not wait for an answer any more does not want it.
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Keep {
                events,
                lost,
                figures,
                now,
                kept,
            } => {
                keeper.lose(lost, NO_ROOM, now);
                keeper.sample(&figures, interval);
                let _ = kept.send(keeper.keep(events, now));
            }
            Job::LookUp { found } => {
                // Who asked has given up waiting: it is for whoever asks next.
                if let Err(Ok(past)) = found.send(keeper.look_up()) {
                    keeper.put_back(past);
                }
            }
            Job::Order {
                event,
                recorded,
                now,
            } => {
                let _ = recorded.send(keeper.order(&event, now));
            }
            Job::Copy {
                figures,
                to,
                copied,
                now,
            } => {
                keeper.sample(&figures, interval);
                let _ = copied.send(keeper.copy(&to, &SystemClock, now));
            }
            Job::Close {
                events,
                lost,
                figures,
                now,
                closed,
            } => {
                keeper.lose(lost, NO_ROOM, now);
                keeper.sample(&figures, interval);
                let _ = closed.send(keeper.close(events, now));
                return;
            }
        }
    }
}
