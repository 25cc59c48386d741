//! Whether the other cards of a host went wrong when one of them did: what hits several at once is
//! seldom one of them, and what hits one of several is seldom the host.
//!
//! Only what each has come to be is compared, and not why: that is weighed for each by itself. One that an
//! operator wants without work has not gone wrong, whatever becomes of it, nor has it when it may have
//! work again before it is well.

use super::Card;
use crate::diagnosis::Others;
use crate::verdict::State;
use hwshim::clock::Instant;
use std::time::Duration;

/// What goes wrong at once is found out within so long of each other: a card that is pulled in the next
/// poll, one that hangs after three.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How one card was, from poll to poll.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    /// Whether it was ever found well. When one went wrong that never was is not known: whoever begins
    /// to watch finds all of those at once.
    was_well: bool,
    since: Option<Instant>,
    /// What became of the others when it went wrong.
    others: Option<Others>,
}

impl Trouble {
    /// Takes in how the card is found. What nobody knows goes on as it was.
    pub(super) fn poll(&mut self, state: State, now: Instant) {
        match state {
            State::Unavailable | State::Unreachable if self.was_well => {
                self.since.get_or_insert(now);
            }
            State::Connected | State::Disconnected => {
                *self = Self {
                    was_well: true,
                    ..Self::default()
                };
            }
            State::Unavailable | State::Unreachable | State::Unknown => {}
        }
    }

    /// Takes in that an operator wants the card without work, and since when. What went wrong before
    /// that may be the reason for it, and stays; what went wrong after may be what was ordered, of which
    /// we are told a poll later or more.
    pub(super) fn drained(&mut self, ordered: Instant) {
        if self.since.is_none_or(|since| since > ordered) {
            *self = Self::default();
        }
    }

    /// What became of the others when it went wrong, until it is well again: which of them are well by
    /// then is another matter. `None` if it has not gone wrong, or is alone.
    pub(super) fn others(&mut self, company: &Company, now: Instant) -> Option<Others> {
        let since = self.since?;
        if now.since(since) <= AT_ONCE {
            // One that went wrong with it and is well again so soon went wrong all the same.
            let is_more = |found: &Others| self.others.is_none_or(|kept| found.hit > kept.hit);
            let found = company.others(since).filter(is_more);
            self.others = found.or(self.others);
        }
        self.others
    }
}

/// All cards of a host, as the last poll found them.
#[derive(Debug, Default)]
pub(super) struct Company {
    began: Vec<Instant>,
    well: usize,
}

impl Company {
    pub(super) fn of<'a>(cards: impl Iterator<Item = &'a Card>) -> Self {
        let mut company = Self::default();
        for card in cards {
            company.add(card.trouble, card.judge.verdict().state);
        }
        company
    }

    fn add(&mut self, trouble: Trouble, state: State) {
        match trouble.since {
            Some(since) => self.began.push(since),
            None => self.well += usize::from(state == State::Connected),
        }
    }

    /// What becomes of the others when one goes wrong at that time; `None` if it is alone.
    fn others(&self, since: Instant) -> Option<Others> {
        let at_once = |other: &&Instant| other.since(since).max(since.since(**other)) <= AT_ONCE;
        // It is one of them itself.
        let hit = self.began.iter().filter(at_once).count().saturating_sub(1);
        let of = self.well + self.began.len().saturating_sub(1);
        (hit > 0 || self.well > 0).then_some(Others { hit, of })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Watch};
    use super::*;
    use crate::attribution::Kind;
    use crate::control::Drained;
    use crate::history::{BootId, Seq, Stamp, WallTime};
    use crate::status::CardStatus;
    use crate::verdict::Cause;
    use card_spec::health::{self, Summary};
    use card_spec::telemetry::{Page, card_state, check_result, padded};
    use hwshim::telemetry::Publisher;
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use tempfile::TempDir;
    use zerocopy::{FromZeros as _, IntoBytes as _};

    const CARDS: [&str; 3] = ["software:a", "software:b", "software:c"];

    fn boot(number: u8) -> BootId {
        format!("00000000-0000-0000-0000-{number:012}")
            .parse()
            .unwrap()
    }

    /// Three cards, with a heartbeat each, and who watches them.
    struct Host {
        _directory: TempDir,
        cards: [(Publisher, Page); 3],
        health: Summary,
        watch: Watch,
        second: u64,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let cards = CARDS.map(|name| {
                let publisher = Publisher::create(directory.path(), name).unwrap();
                let mut page = Page::new();
                page.owner.address = padded(name);
                page.checks.last_result = check_result::PASSED.into();
                (publisher, page)
            });
            let mut health = Summary::new_zeroed();
            health.magic = health::MAGIC.into();
            health.version = health::VERSION.into();
            health.heartbeat_period_ms = 100.into();
            let settings = Settings::of(directory.path(), Path::new("/"));
            Self {
                watch: Watch::new(settings),
                _directory: directory,
                cards,
                health,
                second: 0,
            }
        }

        fn now(&self) -> Instant {
            Instant::ORIGIN.plus(Duration::from_secs(self.second))
        }

        /// Has an operator drain a card.
        fn drains(&mut self, card: usize, ordered: Instant) {
            self.drains_of(card, ordered, boot(1));
        }

        fn drains_of(&mut self, card: usize, ordered: Instant, of: BootId) {
            let drained = Drained {
                event: Seq(1),
                by: "uid=0 pid=1".to_owned(),
                since: Stamp {
                    wall: WallTime::default(),
                    monotonic: ordered,
                    boot: of,
                },
            };
            let drained = BTreeMap::from([(CARDS[card].to_owned(), drained)]);
            self.watch.are_drained(Arc::new(drained), boot(1));
        }

        /// Lets so many seconds pass, in which these cards are away.
        fn lives(&mut self, seconds: u64, away: &[usize]) -> Vec<CardStatus> {
            let mut shown = Vec::new();
            for _ in 0..seconds {
                self.second += 1;
                self.health.heartbeat_count += 1;
                let now = self.now();
                for (index, (publisher, page)) in self.cards.iter_mut().enumerate() {
                    let is_away = away.contains(&index);
                    let state = [card_state::READY, card_state::GONE][usize::from(is_away)];
                    page.card.state.set(state);
                    if !is_away {
                        page.health.copy_from_slice(self.health.as_bytes());
                        page.card.health_reads += 1;
                        page.card.health_read_at_ns = now.as_nanos().into();
                    }
                    page.owner.published_at_ns = now.as_nanos().into();
                    publisher.publish(page).unwrap();
                }
                shown = self.watch.poll(now).status.cards;
            }
            shown
        }
    }

    /// What is said of a card that was hit as others were.
    fn hit(card: &CardStatus) -> Option<&str> {
        let assessment = card.assessment.as_ref().unwrap();
        let mut evidence = assessment.evidence.iter();
        let too = evidence.find(|it| it.seen && it.code == Kind::OtherCardsToo.name())?;
        Some(&too.detail)
    }

    #[test]
    fn what_hits_several_cards_at_once_is_told_of_each_of_them_and_speaks_for_what_they_share() {
        let mut host = Host::new();
        let well = host.lives(5, &[]);
        assert!(well.iter().all(|it| it.state == State::Connected));
        assert!(well.iter().all(|it| hit(it).is_none()));
        let one = host.lives(3, &[0]);
        assert_eq!(hit(&one[0]), None);

        let mut host = Host::new();
        host.lives(5, &[]);
        let two = host.lives(3, &[0, 1]);
        for card in &two[..2] {
            assert_eq!(hit(card), Some("1 of 2 other cards went wrong when it did"));
        }
        assert_eq!(hit(&two[2]), None);
        let likely = |card: &CardStatus| {
            let hypotheses = &card.assessment.as_ref().unwrap().hypotheses;
            let of = hypotheses.iter().find(|it| it.cause == Cause::Link);
            of.map_or(0.0, |it| it.probability)
        };
        assert!(likely(&two[0]) > likely(&one[0]), "they may share a port");
    }

    #[test]
    fn what_hit_two_cards_at_once_is_told_of_the_one_that_stays_away_when_the_other_is_back() {
        let mut host = Host::new();
        host.lives(5, &[]);
        host.lives(3, &[0, 1]);
        for seconds in [5, 60] {
            let one = host.lives(seconds, &[0]);
            assert_eq!(
                hit(&one[0]),
                Some("1 of 2 other cards went wrong when it did")
            );
        }
        host.lives(60, &[]);
        let again = host.lives(3, &[0]);
        assert_eq!(hit(&again[0]), None, "that is another time");
    }

    #[test]
    fn a_drained_card_that_goes_away_has_not_gone_wrong_with_the_others() {
        let mut host = Host::new();
        host.lives(5, &[]);
        host.drains(0, host.now());
        let two = host.lives(3, &[0, 1]);
        assert_eq!([hit(&two[0]), hit(&two[1])], [None, None]);
        // That it may have work again does not make it go wrong now.
        host.watch.are_drained(Arc::default(), boot(1));
        let three = host.lives(3, &[0, 1, 2]);
        assert_eq!(hit(&three[0]), None);
        assert_eq!(
            hit(&three[2]),
            Some("1 of 1 other cards went wrong when it did"),
            "the one that nobody had drained"
        );
    }

    #[test]
    fn a_card_that_went_wrong_and_is_drained_then_has_gone_wrong_with_the_others_all_the_same() {
        let mut host = Host::new();
        host.lives(5, &[]);
        host.lives(3, &[0, 1]);
        host.drains(0, host.now());
        // Far longer than what was said of them is remembered.
        for seconds in [1, 1_200] {
            let two = host.lives(seconds, &[0, 1]);
            for card in &two[..2] {
                assert_eq!(hit(card), Some("1 of 2 other cards went wrong when it did"));
            }
        }
        host.watch.are_drained(Arc::default(), boot(1));
        let again = host.lives(1, &[0]);
        assert!(hit(&again[0]).is_some(), "it was not well since");
    }

    #[test]
    fn a_card_that_goes_away_before_we_are_told_that_it_was_drained_has_not_gone_wrong() {
        for of in [boot(1), boot(2)] {
            let mut host = Host::new();
            host.lives(5, &[]);
            // Of another boot, the clock says nothing: it was before all of this one.
            let hours = Duration::from_secs(3600 * u64::from(of != boot(1)));
            let ordered = host.now().plus(hours);
            host.lives(3, &[0]);
            host.drains_of(0, ordered, of);
            host.lives(1, &[0]);
            let both = host.lives(3, &[0, 1]);
            assert_eq!([hit(&both[0]), hit(&both[1])], [None, None], "{of}");
        }
    }

    #[test]
    fn cards_that_are_away_when_watching_begins_did_not_go_wrong_at_once() {
        let mut host = Host::new();
        let two = host.lives(5, &[0, 1]);
        assert_eq!(two[0].state, State::Unreachable, "{two:?}");
        let three = host.lives(3, &[0, 1, 2]);
        for card in two.iter().chain(&three) {
            assert_eq!(hit(card), None);
        }
    }

    #[test]
    fn what_goes_wrong_much_later_is_another_matter() {
        let mut host = Host::new();
        host.lives(5, &[]);
        host.lives(30, &[0]);
        let both = host.lives(3, &[0, 1]);
        assert_eq!([hit(&both[0]), hit(&both[1])], [None, None]);
    }
}
