//! Runs a probe on a thread of its own, so that a probe that hangs costs that thread and never a
//! poll.
//!
//! A read from the kernel cannot be given up: of a card that is dead, `config` may block for a
//! minute. Who polls therefore asks for a look, goes on, and takes what the last finished one saw,
//! with its age.
//!
//! ```text
//!             ask                    done
//!   idle ------------> looking ------------------> idle, with something seen
//!                         |  ^ ask: not a second look
//!                         |
//!                         +-- not done by the deadline: blind since it was asked, until it is done
//! ```
//!
//! There is one thread for life. A probe that panics has no further looks, and is blind for good.

use super::{Probe, ProbeError};
use hwshim::clock::Instant;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Probes read files; they need little.
const STACK_LEN: usize = 256 << 10;

/// Runs a probe on a thread of its own.
pub struct Runner<P: Probe> {
    shared: Arc<Shared<P>>,
    timeout: Duration,
    name: &'static str,
    thread: Option<JoinHandle<()>>,
}

/// What a runner knows at the moment.
#[derive(Debug)]
pub enum Latest<T> {
    /// Nothing yet: no look has finished, and none has taken too long.
    Nothing,
    /// What the last look saw.
    Seen {
        /// That, or what kept it from seeing.
        observation: Arc<Result<T, ProbeError>>,
        /// Time since that look was asked for.
        age: Duration,
    },
    /// The probe does not come back.
    Blind {
        /// When the look was asked for that did not.
        since: Instant,
        /// In which way.
        why: Blindness,
    },
}

/// Why a runner is blind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blindness {
    /// A look takes longer than it may. It may still end.
    Stuck,
    /// The probe has panicked.
    Panicked,
}

struct Shared<P: Probe> {
    state: Mutex<State<P>>,
    /// Something was asked for, or the end.
    asked: Condvar,
    /// A look is over.
    done: Condvar,
}

struct State<P: Probe> {
    /// What is to be looked at, until the thread takes it.
    subject: Option<P::Subject>,
    /// When the look was asked for that is not over.
    looking_since: Option<Instant>,
    seen: Option<Seen<P::Observation>>,
    ends: bool,
    has_panicked: bool,
}

/// What a look has seen that was asked for at an instant.
struct Seen<T> {
    at: Instant,
    observation: Arc<Result<T, ProbeError>>,
}

impl<P> Runner<P>
where
    P: Probe + Send + 'static,
    P::Subject: Send,
    P::Observation: Send + Sync,
{
    /// Starts the thread, which waits to be asked. A look may take `timeout`.
    ///
    /// # Errors
    ///
    /// That there are no more threads to be had.
    pub fn start(probe: P, timeout: Duration) -> io::Result<Self> {
        let name = probe.name();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                subject: None,
                looking_since: None,
                seen: None,
                ends: false,
                has_panicked: false,
            }),
            asked: Condvar::new(),
            done: Condvar::new(),
        });
        let thread = thread::Builder::new()
            .name(format!("probe-{name}"))
            .stack_size(STACK_LEN)
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.work(probe)
            })?;
        Ok(Self {
            shared,
            timeout,
            name,
            thread: Some(thread),
        })
    }
}

impl<P: Probe> Runner<P> {
    /// The probe's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Asks for a look at `subject`, and does not wait for it. `false` if the last one is not over;
    /// nothing is asked for then.
    pub fn ask(&self, subject: P::Subject, now: Instant) -> bool {
        let mut state = self.shared.lock();
        if state.looking_since.is_some() || state.has_panicked {
            return false;
        }
        state.subject = Some(subject);
        state.looking_since = Some(now);
        self.shared.asked.notify_one();
        true
    }

    /// What is known at `now`, without waiting.
    #[must_use]
    pub fn latest(&self, now: Instant) -> Latest<P::Observation> {
        let state = self.shared.lock();
        match (state.looking_since, &state.seen) {
            (Some(since), _) if state.has_panicked => Latest::Blind {
                since,
                why: Blindness::Panicked,
            },
            (Some(since), _) if now.since(since) > self.timeout => Latest::Blind {
                since,
                why: Blindness::Stuck,
            },
            (_, Some(seen)) => Latest::Seen {
                observation: Arc::clone(&seen.observation),
                age: now.since(seen.at),
            },
            (_, None) => Latest::Nothing,
        }
    }

    /// Waits for the look under way, but not longer than `patience`, for who would rather have a
    /// fresh answer a little later than an old one now. Whether no look is under way any more.
    pub fn wait(&self, patience: Duration) -> bool {
        let state = self.shared.lock();
        let is_under_way =
            |state: &mut State<P>| state.looking_since.is_some() && !state.has_panicked;
        let (_state, outcome) = self
            .shared
            .done
            .wait_timeout_while(state, patience, is_under_way)
            .unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}

impl<P: Probe> fmt::Debug for Runner<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("name", &self.name)
            .field("looking_since", &self.shared.lock().looking_since)
            .finish_non_exhaustive()
    }
}

impl<P: Probe> Shared<P> {
    /// Nothing panics with the lock held, but for a subject whose `drop` does.
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, mut probe: P) {
        let _report = ReportPanic(self);
        while let Some((subject, at)) = self.next() {
            let observation = Arc::new(probe.observe(&subject, at));
            let mut state = self.lock();
            state.seen = Some(Seen { at, observation });
            state.looking_since = None;
            self.done.notify_all();
        }
    }

    /// Waits for the next look; `None` is the end.
    fn next(&self) -> Option<(P::Subject, Instant)> {
        let state = self.lock();
        let mut state = self
            .asked
            .wait_while(state, |state| !state.ends && state.subject.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        if state.ends {
            return None;
        }
        Some((state.subject.take()?, state.looking_since?))
    }
}

/// Tells whoever waits that the thread did not end as it should.
struct ReportPanic<'a, P: Probe>(&'a Shared<P>);

impl<P: Probe> Drop for ReportPanic<'_, P> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().has_panicked = true;
            self.0.done.notify_all();
        }
    }
}

impl<P: Probe> Drop for Runner<P> {
    /// Ends the thread and waits for that, unless it is looking: then it ends when it comes back.
    fn drop(&mut self) {
        let is_looking = {
            let mut state = self.shared.lock();
            state.ends = true;
            self.shared.asked.notify_one();
            state.looking_since.is_some()
        };
        if let Some(thread) = self.thread.take()
            && !is_looking
        {
            // It has nothing to say: a panic has been reported.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const TIMEOUT: Duration = Duration::from_secs(2);
    /// Nothing waits as long as that unless something is broken.
    const PATIENT: Duration = Duration::from_secs(60);

    /// Reads a file, which blocks if it is a FIFO that nobody writes to.
    struct Reader {
        looks: Arc<AtomicUsize>,
        /// Told when a look begins, and dropped with the probe.
        tells: mpsc::Sender<()>,
    }

    impl Probe for Reader {
        type Subject = PathBuf;
        type Observation = String;

        fn name(&self) -> &'static str {
            "reader"
        }

        fn observe(&mut self, path: &PathBuf, _now: Instant) -> Result<String, ProbeError> {
            self.looks.fetch_add(1, Ordering::SeqCst);
            // Who does not listen any more does not want to know.
            let _ = self.tells.send(());
            assert_ne!(path, Path::new("panic"), "as it was told to");
            fs::read_to_string(path).map_err(|source| ProbeError::Unreadable {
                path: path.clone(),
                source,
            })
        }
    }

    struct Bench {
        runner: Runner<Reader>,
        looks: Arc<AtomicUsize>,
        /// Hears of each look, and is disconnected once the thread has dropped the probe.
        hears: mpsc::Receiver<()>,
        directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let looks = Arc::new(AtomicUsize::new(0));
            let (tells, hears) = mpsc::channel();
            let probe = Reader {
                looks: Arc::clone(&looks),
                tells,
            };
            Self {
                runner: Runner::start(probe, TIMEOUT).unwrap(),
                looks,
                hears,
                directory: tempfile::tempdir().unwrap(),
            }
        }

        fn fifo(&self) -> PathBuf {
            let path = self.directory.path().join("fifo");
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            path
        }

        fn file(&self, text: &str) -> PathBuf {
            let path = self.directory.path().join("file");
            fs::write(&path, text).unwrap();
            path
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn text(latest: Latest<String>) -> (String, Duration) {
        match latest {
            Latest::Seen { observation, age } => {
                (observation.as_ref().as_ref().unwrap().clone(), age)
            }
            latest => panic!("{latest:?}"),
        }
    }

    #[test]
    fn what_was_seen_last_is_given_with_its_age() {
        let bench = Bench::new();
        assert!(matches!(bench.runner.latest(at(0)), Latest::Nothing));
        assert!(bench.runner.ask(bench.file("one"), at(1)));
        assert!(bench.runner.wait(PATIENT));
        let expected = ("one".to_owned(), Duration::from_secs(3));
        assert_eq!(text(bench.runner.latest(at(4))), expected);
    }

    #[test]
    fn a_probe_that_hangs_makes_blind_and_costs_one_look_until_it_comes_back() {
        let bench = Bench::new();
        assert!(bench.runner.ask(bench.file("before"), at(1)));
        assert!(bench.runner.wait(PATIENT));

        let fifo = bench.fifo();
        assert!(bench.runner.ask(fifo.clone(), at(2)));
        // Within the deadline the last observation holds.
        assert_eq!(text(bench.runner.latest(at(4))).0, "before");
        for second in 5..100 {
            assert!(!bench.runner.ask(fifo.clone(), at(second)));
            let Latest::Blind { since, why } = bench.runner.latest(at(second)) else {
                panic!("not blind at {second} s");
            };
            assert_eq!((since, why), (at(2), Blindness::Stuck));
        }
        assert!(!bench.runner.wait(Duration::ZERO));

        fs::write(&fifo, "at last").unwrap();
        assert!(bench.runner.wait(PATIENT));
        assert_eq!(bench.looks.load(Ordering::SeqCst), 2);
        let expected = ("at last".to_owned(), Duration::from_secs(98));
        assert_eq!(text(bench.runner.latest(at(100))), expected);

        assert!(bench.runner.ask(bench.file("after"), at(101)));
        assert!(bench.runner.wait(PATIENT));
        assert_eq!(text(bench.runner.latest(at(101))).0, "after");
    }

    #[test]
    fn dropping_it_waits_for_no_probe_that_hangs_and_leaves_none_behind() {
        let bench = Bench::new();
        let fifo = bench.fifo();
        assert!(bench.runner.ask(fifo.clone(), at(0)));
        bench.hears.recv_timeout(PATIENT).unwrap();
        drop(bench.runner);
        assert_eq!(bench.hears.try_recv(), Err(mpsc::TryRecvError::Empty));
        fs::write(fifo, "at last").unwrap();
        let end = bench.hears.recv_timeout(PATIENT);
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn dropping_it_when_idle_ends_its_thread() {
        let bench = Bench::new();
        drop(bench.runner);
        let end = bench.hears.try_recv();
        assert_eq!(end, Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn a_probe_that_panics_is_blind_for_good_and_takes_nobody_along() {
        let bench = Bench::new();
        assert!(bench.runner.ask(PathBuf::from("panic"), at(1)));
        assert!(bench.runner.wait(PATIENT));
        assert!(!bench.runner.ask(PathBuf::from("panic"), at(2)));
        let Latest::Blind { since, why } = bench.runner.latest(at(2)) else {
            panic!("not blind");
        };
        assert_eq!((since, why), (at(1), Blindness::Panicked));
    }
}
