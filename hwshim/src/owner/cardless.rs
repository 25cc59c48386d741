//! The telemetry page of a router that has no card: where the requests went that it was given, and what
//! its process does besides. What is signed in software without being handed to a router is told by that
//! process; what another accelerator than a card answered is counted as by a card.
//!
//! There is no health, no breaker and no test in it: software has none, and nobody is to take it for a
//! card. Whoever watches is shown that a router works, and judges nothing.

use super::rounds::{overload_of, requests_of};
use super::{Addition, Identity, Schedule};
use crate::clock::{Clock, Instant, nanos};
use crate::router::Router;
use crate::stop::Stop;
use crate::telemetry::{PublishError, Publisher};
use card_spec::telemetry::{Page, card_state, padded};

/// Publishes the page of a router without a card.
#[derive(Debug)]
pub struct Cardless {
    router: Router,
    publisher: Publisher,
    schedule: Schedule,
    page: Page,
    addition: Addition,
}

impl Cardless {
    /// Of `router`, which calls itself `name` and has `addition` to add.
    #[must_use]
    pub fn new(
        router: Router,
        publisher: Publisher,
        name: &str,
        schedule: Schedule,
        addition: impl Fn(&mut Page) + Send + 'static,
    ) -> Self {
        let Identity {
            address,
            pid,
            start_time_ticks,
        } = Identity::of_this_process(name);
        let mut page = Page::new();
        page.owner.address = padded(address);
        page.owner.pid = u64::from(pid).into();
        page.owner.start_time_ticks = start_time_ticks.into();
        page.owner.publish_interval_ns = nanos(schedule.publish).into();
        Self {
            router,
            publisher,
            schedule,
            page,
            addition: Addition(Box::new(addition)),
        }
    }

    /// Publishes until `stop` is requested, and then that it has ended.
    ///
    /// # Errors
    ///
    /// [`PublishError`], after which this may be called again.
    pub fn run(&mut self, clock: &dyn Clock, stop: &Stop) -> Result<(), PublishError> {
        loop {
            self.publish(card_state::NONE, clock.now())?;
            if stop.wait(self.schedule.publish) {
                return self.publish(card_state::RELEASED, clock.now());
            }
        }
    }

    fn publish(&mut self, state: u64, now: Instant) -> Result<(), PublishError> {
        let page = &mut self.page;
        if page.card.state.get() != state {
            page.card.state = state.into();
            page.card.state_since_ns = now.as_nanos().into();
        }
        page.owner.published_at_ns = now.as_nanos().into();
        let requests = self.router.requests();
        page.requests = requests_of(&requests);
        page.overload = overload_of(&requests);
        (self.addition.0)(page);
        self.publisher.publish(page)
    }
}
