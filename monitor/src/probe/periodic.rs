//! Has a [`Runner`] look every so often, and keeps what it saw until the next look.
//!
//! It waits for nothing. A probe that does not come back is blind, which is said as an error of
//! its own, and is not asked again until it is back.

use super::{Blindness, Latest, Probe, ProbeError, Runner};
use hwshim::clock::{Instant, nanos};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Looks at something every so often.
#[derive(Debug)]
pub struct Periodic<P: Probe> {
    runner: Runner<P>,
    subject: P::Subject,
    /// What to name when nothing can be seen of it.
    place: PathBuf,
    interval: Duration,
    /// Whether intervals differ, as whoever looks at the same from elsewhere must not fall in step.
    is_jittered: bool,
    again_at: Option<Instant>,
    /// What was asked for before this is of the past.
    since: Instant,
}

impl<P> Periodic<P>
where
    P: Probe + Send + 'static,
    P::Subject: Clone + Send,
    P::Observation: Send + Sync,
{
    /// Starts the thread. `place` is named in errors; a look may take `timeout`.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Unreadable`] if there are no more threads to be had.
    pub fn start(
        probe: P,
        subject: P::Subject,
        place: PathBuf,
        interval: Duration,
        timeout: Duration,
    ) -> Result<Self, ProbeError> {
        match Runner::start(probe, timeout) {
            Ok(runner) => Ok(Self {
                runner,
                subject,
                place,
                interval,
                is_jittered: false,
                again_at: None,
                since: Instant::ORIGIN,
            }),
            Err(source) => Err(ProbeError::Unreadable {
                path: place,
                source,
            }),
        }
    }

    /// Looks after an interval that is each time another, by up to a tenth.
    #[must_use]
    pub fn jittered(self) -> Self {
        Self {
            is_jittered: true,
            ..self
        }
    }

    /// Asks for a look if one is due, and gives what the last one saw; `None` before the first.
    pub fn poll(&mut self, now: Instant) -> Option<Arc<Result<P::Observation, ProbeError>>> {
        // Before anything is asked: what comes of that is told by the next poll, however soon it is there.
        let latest = self.runner.latest(now);
        if self.again_at.is_none_or(|at| now >= at) && self.runner.ask(self.subject.clone(), now) {
            let interval = match self.is_jittered {
                true => about(self.interval),
                false => self.interval,
            };
            self.again_at = Some(now.plus(interval));
        }
        match latest {
            Latest::Nothing => None,
            Latest::Seen { age, .. } if age > now.since(self.since) => None,
            Latest::Seen { observation, .. } => Some(observation),
            Latest::Blind { since, why } => Some(Arc::new(Err(self.blind(now.since(since), why)))),
        }
    }

    /// Forgets what was seen and what is being looked for, as when the subject became another, and
    /// has the next poll ask anew.
    pub const fn begin_anew(&mut self, now: Instant) {
        self.again_at = None;
        self.since = now;
    }

    /// See [`Runner::wait`].
    pub fn wait(&self, patience: Duration) -> bool {
        self.runner.wait(patience)
    }

    fn blind(&self, time: Duration, why: Blindness) -> ProbeError {
        let source = match why {
            Blindness::Stuck => {
                let seconds = time.as_secs();
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("whoever looks has not come back for {seconds} s"),
                )
            }
            Blindness::Panicked => io::Error::other("whoever looked has panicked"),
        };
        ProbeError::Unreadable {
            path: self.place.clone(),
            source,
        }
    }
}

/// So much, more or less.
fn about(interval: Duration) -> Duration {
    // Whatever is hashed: the keys are drawn anew each time.
    let random = RandomState::new().hash_one(());
    let interval = nanos(interval);
    let fifth = (interval / 5).max(1);
    Duration::from_nanos(interval - interval / 10 + random % fifth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jittered_intervals_differ_by_up_to_a_tenth() {
        let interval = Duration::from_secs(60);
        let all = [(); 50].map(|()| about(interval));
        let (low, high) = (interval * 9 / 10, interval * 11 / 10);
        assert!(all.iter().all(|it| (low..high).contains(it)), "{all:?}");
        assert!(all.iter().any(|it| *it < interval), "{all:?}");
        assert!(all.iter().any(|it| *it > interval), "{all:?}");
    }

    /// Returns what it is sent, and hangs until then.
    struct Told(mpsc::Receiver<u32>);

    impl Probe for Told {
        type Subject = ();
        type Observation = u32;

        fn name(&self) -> &'static str {
            "told"
        }

        fn observe(&mut self, &(): &(), _now: Instant) -> Result<u32, ProbeError> {
            Ok(self.0.recv().expect("the test tells before it ends"))
        }
    }

    const PATIENT: Duration = Duration::from_secs(60);

    #[test]
    fn a_look_is_asked_for_every_so_often_and_a_stuck_one_is_blind_until_it_is_back() {
        let (tell, told) = mpsc::channel();
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(3));
        let mut periodic =
            Periodic::start(Told(told), (), "/config".into(), interval, timeout).unwrap();
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        let value = |seen: Option<Arc<Result<u32, ProbeError>>>| {
            seen.map(|seen| seen.as_ref().as_ref().copied().map_err(ToString::to_string))
        };
        assert_eq!(value(periodic.poll(at(0))), None);
        tell.send(1).unwrap();
        assert!(periodic.wait(PATIENT));
        assert_eq!(value(periodic.poll(at(4))), Some(Ok(1)));
        assert_eq!(
            value(periodic.poll(at(5))),
            Some(Ok(1)),
            "asked anew, and not back yet"
        );
        assert_eq!(value(periodic.poll(at(8))), Some(Ok(1)));
        let blind = value(periodic.poll(at(9))).unwrap().unwrap_err();
        assert_eq!(
            blind,
            "/config could not be read: whoever looks has not come back for 4 s"
        );
        tell.send(2).unwrap();
        assert!(periodic.wait(PATIENT));
        assert_eq!(value(periodic.poll(at(9))), Some(Ok(2)));
        periodic.begin_anew(at(10));
        assert_eq!(
            value(periodic.poll(at(10))),
            None,
            "what was seen is of the past"
        );
        tell.send(3).unwrap();
        assert!(periodic.wait(PATIENT));
        assert_eq!(value(periodic.poll(at(10))), Some(Ok(3)));
    }
}
