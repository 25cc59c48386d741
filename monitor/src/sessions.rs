//! Watches a service that announces itself: it sends a beat every 3 to 4 seconds, and has lost its
//! session when two are missing.
//!
//! A missing message says that a message is missing: the card, the service, the host and whatever is
//! between could each have lost it. So a session that ends is an event and evidence, and no verdict.
//!
//! ```text
//!            a connection             no beat for 4.5 s
//!   WAITING ------------> CONNECTED --------------------> LATE
//!      ^                     ^                             |  |
//!      |                     +-----------------------------+  |
//!      |                                 a beat               |
//!      +------------------------------------------------------+
//!          no beat for 8 s: two are missing, the session is closed
//! ```

use hwshim::clock::Instant;
use std::time::Duration;

/// What is logged when a session is given up.
pub const CLOSED: &str = "missed 2 heartbeats; closing session and waiting for new connection";

/// The longest time between two beats of a service that is well.
const BEAT_INTERVAL: Duration = Duration::from_secs(4);
/// A beat that has not come after so long is late: half a second more than the longest interval.
const LATE_AFTER: Duration = Duration::from_millis(4500);
/// Beats that are missing when a session is over.
const MISSED: u32 = 2;

/// Where a session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionState {
    /// There is no connection.
    Waiting,
    /// Beats come.
    Connected,
    /// One does not.
    Late,
}

/// What became of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionEvent {
    /// A beat is late.
    Late {
        /// Since when none has come.
        silent_for: Duration,
    },
    /// Two are missing, and the session is over; see [`CLOSED`].
    Closed {
        /// Since when none has come.
        silent_for: Duration,
    },
}

/// The session of one service.
#[derive(Clone, Debug)]
pub struct Session {
    state: SessionState,
    last_beat: Instant,
}

impl Session {
    /// Waits for a connection.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            state: SessionState::Waiting,
            last_beat: now,
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> SessionState {
        self.state
    }

    /// The service has connected; its first beat is due an interval later.
    pub const fn connected(&mut self, now: Instant) {
        self.state = SessionState::Connected;
        self.last_beat = now;
    }

    /// The service has closed the connection itself.
    pub const fn disconnected(&mut self) {
        self.state = SessionState::Waiting;
    }

    /// A beat came. One of a session that was given up does not bring it back: the service must
    /// connect anew.
    pub const fn beat(&mut self, now: Instant) {
        if !matches!(self.state, SessionState::Waiting) {
            self.connected(now);
        }
    }

    /// Lets time pass. Beats are waited for `patience` times as long as otherwise, as
    /// [`LocalHealth::timeout_multiplier`](crate::local_health::LocalHealth::timeout_multiplier)
    /// has it.
    pub fn poll(&mut self, patience: u32, now: Instant) -> Option<SessionEvent> {
        let silent_for = now.since(self.last_beat);
        let patience = patience.max(1);
        match self.state {
            SessionState::Waiting => None,
            _ if silent_for >= MISSED * BEAT_INTERVAL * patience => {
                self.state = SessionState::Waiting;
                Some(SessionEvent::Closed { silent_for })
            }
            SessionState::Connected if silent_for > LATE_AFTER * patience => {
                self.state = SessionState::Late;
                Some(SessionEvent::Late { silent_for })
            }
            SessionState::Connected | SessionState::Late => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_millis(millis))
    }

    fn connected() -> Session {
        let mut session = Session::new(at(0));
        session.connected(at(0));
        session
    }

    #[test]
    fn a_service_that_beats_keeps_its_session() {
        let mut session = connected();
        for beat in 1..1000 {
            session.beat(at(beat * 4000));
            assert_eq!(session.poll(1, at(beat * 4000 + 3999)), None);
            assert_eq!(session.state(), SessionState::Connected);
        }
    }

    #[test]
    fn two_missing_beats_close_the_session() {
        let mut session = connected();
        assert_eq!(session.poll(1, at(4500)), None);
        let silent_for = Duration::from_millis(4600);
        assert_eq!(
            session.poll(1, at(4600)),
            Some(SessionEvent::Late { silent_for })
        );
        assert_eq!(session.poll(1, at(7999)), None);
        let silent_for = Duration::from_millis(8000);
        assert_eq!(
            session.poll(1, at(8000)),
            Some(SessionEvent::Closed { silent_for })
        );
        assert_eq!(
            CLOSED,
            "missed 2 heartbeats; closing session and waiting for new connection"
        );
        assert_eq!(session.poll(1, at(60_000)), None, "it is closed once");
    }

    #[test]
    fn a_beat_that_is_late_but_comes_saves_the_session() {
        let mut session = connected();
        assert!(session.poll(1, at(7000)).is_some());
        assert_eq!(session.state(), SessionState::Late);
        session.beat(at(7500));
        assert_eq!(session.state(), SessionState::Connected);
        assert_eq!(session.poll(1, at(11_000)), None);
    }

    #[test]
    fn a_closed_session_waits_for_a_connection_and_not_for_a_beat() {
        let mut session = connected();
        session.poll(1, at(9000));
        session.beat(at(9100));
        assert_eq!(session.state(), SessionState::Waiting);
        session.connected(at(9200));
        assert_eq!(session.state(), SessionState::Connected);
        session.disconnected();
        assert_eq!(session.poll(1, at(99_000)), None);
    }

    #[test]
    fn a_starved_host_waits_for_longer() {
        let mut session = connected();
        assert_eq!(session.poll(3, at(13_500)), None);
        assert!(matches!(
            session.poll(3, at(13_501)),
            Some(SessionEvent::Late { .. })
        ));
        assert_eq!(session.poll(3, at(23_999)), None);
        assert!(matches!(
            session.poll(3, at(24_000)),
            Some(SessionEvent::Closed { .. })
        ));
    }
}
