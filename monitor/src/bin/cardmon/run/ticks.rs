//! Tells when a poll is due, by a timer of the kernel's.
//!
//! The event loop's own timers are sorted by milliseconds when their time is near and not before, for
//! which it wakes up once more; and to wake up is a good part of what a poll takes.

use hwshim::clock::{Clock, Instant, SystemClock};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is no later than this was woken up in time, and does not put off what follows.
const ON_TIME: Duration = Duration::from_millis(5);

/// A tick at once, and then one after each interval. One that was missed is not made up for: two looks
/// in a row show nothing new.
#[derive(Debug)]
pub(super) struct Ticks {
    timer: AsyncFd<Timer>,
    interval: Duration,
    due: Instant,
}

/// Only its descriptor is asked for, which stays the same.
#[derive(Debug)]
struct Timer(OwnedFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ticks {
    /// # Errors
    ///
    /// The kernel's, if it has no more descriptors.
    pub(super) fn start(interval: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = Timer(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        let ticks = Self {
            timer: registered(timer)?,
            interval,
            due: SystemClock.now(),
        };
        ticks.set()?;
        Ok(ticks)
    }

    /// Waits for the next one. How late it came.
    ///
    /// # Errors
    ///
    /// The kernel's, of which none is to be expected.
    pub(super) async fn tick(&mut self) -> io::Result<Duration> {
        loop {
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| {
                let mut expirations = [0; 8];
                Ok(rustix::io::read(&timer.get_ref().0, &mut expirations)?)
            });
            match read {
                Ok(Err(error)) if error.raw_os_error() != Some(Errno::INTR.raw_os_error()) => {
                    return Err(error);
                }
                Ok(Ok(_)) => break,
                // Not yet.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let now = SystemClock.now();
        let late = now.since(self.due);
        let from = if late > ON_TIME { now } else { self.due };
        self.due = from.plus(self.interval);
        self.set()?;
        Ok(late)
    }

    /// Has the timer expire when the next tick is due.
    fn set(&self) -> io::Result<()> {
        let nanos = Duration::from_nanos(self.due.as_nanos());
        let due = Timespec::try_from(nanos).map_err(|_| Errno::INVAL)?;
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: due,
        };
        let flags = TimerfdTimerFlags::ABSTIME;
        timerfd_settime(&self.timer.get_ref().0, flags, &once)?;
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "deprecated for types whose descriptor may change; this one is the timer's for good"
)]
fn registered(timer: Timer) -> io::Result<AsyncFd<Timer>> {
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    #[test]
    fn the_first_comes_at_once_and_each_other_an_interval_after_the_one_before_was_due() {
        const INTERVAL: Duration = Duration::from_millis(20);
        runtime().block_on(async {
            let mut ticks = Ticks::start(INTERVAL).unwrap();
            let first = ticks.due;
            for count in 0..5 {
                let due = ticks.due;
                let late = ticks.tick().await.unwrap();
                let now = SystemClock.now();
                assert!(now >= due && now >= due.plus(late));
                if late <= ON_TIME {
                    assert_eq!(ticks.due, due.plus(INTERVAL));
                }
                assert!(ticks.due >= first.plus(INTERVAL * (count + 1)));
            }
        });
    }

    #[test]
    fn one_that_was_missed_is_told_to_be_late_and_not_made_up_for() {
        const INTERVAL: Duration = Duration::from_millis(10);
        runtime().block_on(async {
            let mut ticks = Ticks::start(INTERVAL).unwrap();
            ticks.tick().await.unwrap();
            let until = SystemClock.now().plus(10 * INTERVAL);
            while SystemClock.now() < until {}
            let due = ticks.due;
            let late = ticks.tick().await.unwrap();
            assert!(late > ON_TIME, "{late:?}");
            assert_eq!(ticks.due, due.plus(late + INTERVAL));
        });
    }
}
