//! Routers that have no card: what they publish is shown, and there is nothing to judge. Software has no
//! health, and one that has ended is not missed.

use super::pages::Pages;
use crate::status::RouterFigures;
use card_spec::telemetry::card_state;
use hwshim::clock::Instant;
use hwshim::telemetry::Reader;
use std::path::{Path, PathBuf};

/// Shown at most: whoever can write to the directory could otherwise make the monitor as dear as they
/// like.
const ROUTERS_MAX: usize = 64;
/// Pages that are read at most to find those: routers that have ended leave theirs behind.
const PAGES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Routers(Pages);

impl Routers {
    pub(super) const fn new() -> Self {
        Self(Pages::of_routers())
    }

    /// Those that have not ended, sorted by the names of their pages. A page that cannot be read is
    /// nobody's: of a card that would be a finding, and here it leaves nothing to protect.
    pub(super) fn poll(&mut self, directory: &Path, now: Instant) -> Vec<RouterFigures> {
        // That the directory cannot be read is told by who looks for cards there.
        let pages = self.0.look(directory, now).unwrap_or_default();
        let read = |path: &PathBuf| Reader::open(path).and_then(|reader| reader.read()).ok();
        let routers = pages.iter().take(PAGES_MAX).filter_map(read);
        routers
            .filter(|page| page.card.state.get() != card_state::RELEASED)
            .take(ROUTERS_MAX)
            .map(|page| RouterFigures::new(&page, now))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use card_spec::telemetry::{Page, padded};
    use hwshim::telemetry::Publisher;
    use std::time::Duration;

    #[test]
    fn a_router_without_a_card_is_shown_with_its_age_until_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create_for_router(directory.path(), "serve-tls:x").unwrap();
        let mut page = Page::new();
        page.owner.address = padded("serve-tls:x");
        page.owner.pid = 7.into();
        page.owner.published_at_ns = 1_000_000_000.into();
        page.card.state = card_state::NONE.into();
        page.tls.began_at_ns = 1.into();
        page.tls.handshakes.completed = 5.into();
        publisher.publish(&page).unwrap();
        let mut routers = Routers::new();
        let mut poll_at = |nanos| routers.poll(directory.path(), Instant::from_nanos(nanos));
        let [router] = &poll_at(3_000_000_000)[..] else {
            panic!("one is there");
        };
        assert_eq!((&*router.router, router.pid), ("serve-tls:x", 7));
        assert_eq!(
            router.published_seconds_ago,
            Some(Duration::from_secs(2).as_secs_f64())
        );
        assert!(!router.stale);
        assert_eq!(router.tls.map(|tls| tls.handshakes_completed), Some(5));

        // It was killed, or is from before the host was started again.
        for (now, ago) in [(4_000_000_000, Some(3.0)), (500_000_000, None)] {
            let left = poll_at(now).remove(0);
            assert_eq!((left.published_seconds_ago, left.stale), (ago, true));
        }

        page.card.state = card_state::RELEASED.into();
        publisher.publish(&page).unwrap();
        assert!(poll_at(3_000_000_000).is_empty());
    }

    #[test]
    fn pages_of_routers_that_have_ended_and_broken_ones_hide_none_that_is_at_work() {
        let directory = tempfile::tempdir().unwrap();
        let publish = |name: &str, state: u64| {
            let mut publisher = Publisher::create_for_router(directory.path(), name).unwrap();
            let mut page = Page::new();
            page.owner.address = padded(name);
            page.card.state = state.into();
            publisher.publish(&page).unwrap();
            publisher.path().to_owned()
        };
        for index in 0..ROUTERS_MAX {
            publish(&format!("a:{index}"), card_state::RELEASED);
            let broken = publish(&format!("b:{index}"), card_state::NONE);
            std::fs::write(broken, "").unwrap();
        }
        publish("c:1", card_state::NONE);
        let shown = Routers::new().poll(directory.path(), Instant::ORIGIN);
        let names: Vec<_> = shown.iter().map(|it| &*it.router).collect();
        assert_eq!(names, ["c:1"]);
    }
}
