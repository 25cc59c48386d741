//! A card's page before it has an owner who publishes it.
//!
//! Claimed first of all, so that a second owner is turned away before it touches the card. If nothing
//! comes of it the page says that the card was released: an empty page would be a riddle to whoever
//! watches.

use super::{Identity, Rounds, Schedule};
use crate::clock::{Clock as _, SystemClock};
use crate::telemetry::{PublishError, Publisher};
use std::path::Path;

/// The right to publish a card's page. Dropped, it publishes that the card was released.
#[derive(Debug)]
pub struct Claim {
    address: String,
    publisher: Option<Publisher>,
}

impl Claim {
    /// Claims the page of the card at `address` in `directory`.
    ///
    /// # Errors
    ///
    /// As [`Publisher::create`].
    pub fn new(directory: &Path, address: &str) -> Result<Self, PublishError> {
        Ok(Self {
            publisher: Some(Publisher::create(directory, address)?),
            address: address.to_owned(),
        })
    }

    /// For the owner that there is now.
    #[must_use]
    pub fn into_publisher(mut self) -> Publisher {
        let publisher = self.publisher.take();
        publisher.expect("only this takes it, and takes the claim as well")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(mut publisher) = self.publisher.take() {
            let identity = Identity::of_this_process(&self.address);
            let rounds = Rounds::new(&identity, None, Schedule::default());
            // Why nothing came of it is about to be said, and says more than this could.
            let _ = publisher.publish(&rounds.released(SystemClock.now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Reader, pages};
    use card_spec::telemetry::card_state;

    #[test]
    fn a_card_that_never_had_an_owner_is_released_by_who_claimed_it() {
        let directory = tempfile::tempdir().unwrap();
        let address = "vfio-user:/nowhere/card.sock";
        drop(Claim::new(directory.path(), address).unwrap());
        let pages = pages(directory.path()).unwrap();
        let page = Reader::open(&pages[0]).and_then(|reader| reader.read());
        let page = page.unwrap();
        assert_eq!(page.address(), address);
        assert_eq!(page.card.state.get(), card_state::RELEASED);
        let Identity {
            pid,
            start_time_ticks,
            ..
        } = Identity::of_this_process(address);
        assert_eq!(page.owner.pid.get(), u64::from(pid));
        assert_eq!(page.owner.start_time_ticks.get(), start_time_ticks);
        assert_ne!(start_time_ticks, 0);
        assert_ne!(page.owner.publish_interval_ns.get(), 0);
        assert_ne!(page.owner.published_at_ns.get(), 0);
    }
}
