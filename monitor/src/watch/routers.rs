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

#[derive(Debug)]
pub(super) struct Routers(Pages);

impl Routers {
    pub(super) const fn new() -> Self {
        Self(Pages::of_routers())
    }

    /// Those at work, sorted by the names of their pages. A page that cannot be read is nobody's: of a
    /// card that would be a finding, and here it leaves nothing to protect.
    pub(super) fn poll(&mut self, directory: &Path, now: Instant) -> Vec<RouterFigures> {
        // That the directory cannot be read is told by who looks for cards there.
        let pages = self.0.look(directory, now).unwrap_or_default();
        let read = |path: &PathBuf| Reader::open(path).and_then(|reader| reader.read()).ok();
        let routers = pages.iter().take(ROUTERS_MAX).filter_map(read);
        routers
            .filter(|page| page.card.state.get() != card_state::RELEASED)
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
        let mut poll = || routers.poll(directory.path(), Instant::from_nanos(3_000_000_000));
        let [router] = &poll()[..] else {
            panic!("one is there");
        };
        assert_eq!((&*router.router, router.pid), ("serve-tls:x", 7));
        assert_eq!(
            router.published_seconds_ago,
            Duration::from_secs(2).as_secs_f64()
        );
        assert_eq!(router.tls.map(|tls| tls.handshakes_completed), Some(5));

        page.card.state = card_state::RELEASED.into();
        publisher.publish(&page).unwrap();
        assert!(poll().is_empty());
    }
}
