//! Ends a program in an orderly way: asked for by a signal or by another thread, waited for with a
//! deadline.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A request to stop that any thread can make and any thread can wait for. Once made, it stands.
#[derive(Debug)]
pub struct Stop {
    /// Whoever writes a byte asks for the stop; nobody reads it, so it stays readable.
    ask: UnixStream,
    asked: UnixStream,
}

impl Stop {
    /// Nobody has asked yet.
    ///
    /// # Errors
    ///
    /// The kernel's, if it gives no sockets.
    pub fn new() -> io::Result<Self> {
        let (ask, asked) = UnixStream::pair()?;
        // A full buffer means that it has been asked for very often; never wait for that.
        ask.set_nonblocking(true)?;
        Ok(Self { ask, asked })
    }

    /// Stops on SIGINT (Ctrl-C) and SIGTERM from now on.
    ///
    /// # Errors
    ///
    /// The kernel's, if it does not take the handlers.
    pub fn on_signals(&self) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, self.ask.try_clone()?)?;
        }
        Ok(())
    }

    /// Asks to stop.
    pub fn request(&self) {
        use std::io::Write;
        // It fails only if it has been asked for so often that there is no doubt left.
        let _ = (&self.ask).write(&[1]);
    }

    /// Waits for `timeout`, or until asked to stop. Returns whether it was asked.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut asked = [PollFd::new(&self.asked, PollFlags::IN)];
        // A signal that interrupts the wait is found by the next one.
        poll(&mut asked, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.wait(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_was_asked_for_stands() {
        let stop = Stop::new().unwrap();
        assert!(!stop.is_requested());
        stop.request();
        stop.request();
        assert!(stop.is_requested() && stop.wait(Duration::from_secs(60)));
    }
}
