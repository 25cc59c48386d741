//! Tells when an accelerator is not used, and when it is again: whoever has it goes on without, and so
//! nobody would notice.

use super::output::with_causes;
use hwshim::router::breaker::State;
use hwshim::router::core::LaneStatus;

/// What became of an accelerator.
#[derive(Debug)]
pub(super) enum News {
    /// It is used again.
    Good(String),
    /// It is not any more, and why.
    Bad(String),
}

/// What was told of each accelerator, in their order: why it is not used, if so.
#[derive(Debug)]
pub(super) struct Usability {
    meanwhile: &'static str,
    told: Vec<Option<String>>,
}

impl Usability {
    /// Nothing was told yet of accelerators, and without one there is `meanwhile`: what others do, in
    /// words, or nothing.
    pub(super) const fn new(meanwhile: &'static str) -> Self {
        Self {
            meanwhile,
            told: Vec::new(),
        }
    }

    /// What is news of those, of which this is asked again and again. No reason passes untold, nor are
    /// there many: each comes with a trial, and those become rare.
    pub(super) fn news(&mut self, accelerators: &[LaneStatus]) -> Vec<News> {
        let meanwhile = match self.meanwhile {
            "" => String::new(),
            others => format!("{others} meanwhile, and "),
        };
        self.told.resize(accelerators.len(), None);
        let news = |(told, status): (&mut Option<String>, &LaneStatus)| {
            let reason = match status.breaker {
                State::Closed { .. } => None,
                // One that has not been tried yet: what comes of that is soon known.
                State::Open { .. } if status.breaker_opened == 0 => return None,
                State::Open { .. } => Some(reason(status)),
                // It is being tried, which may fail.
                State::HalfOpen => return None,
            };
            let known = std::mem::replace(told, reason.clone());
            let name = &status.name;
            match (known, reason) {
                (None, Some(reason)) => Some(News::Bad(format!(
                    "{name} is not used: {reason}; {meanwhile}it is tried again"
                ))),
                (Some(known), Some(reason)) if known != reason => {
                    Some(News::Bad(format!("{name} is still not used: {reason}")))
                }
                (Some(_), None) => Some(News::Good(format!("{name} is used again"))),
                _ => None,
            }
        };
        let each = self.told.iter_mut().zip(accelerators);
        each.filter_map(news).collect()
    }
}

/// In words, if there are any; else the code that counters have.
fn reason(status: &LaneStatus) -> String {
    match &status.failure {
        Some(failure) => with_causes(failure),
        None => format!("its last failure was `{}`", status.breaker_opened_by),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::accelerator::DeviceError;
    use hwshim::accelerator::software::Ring;
    use hwshim::clock::Instant;
    use hwshim::router::core::{Core, Options};

    #[test]
    fn each_reason_is_told_once_and_shortly_until_it_is_used_again() {
        let core = Core::new(vec![Box::new(Ring::default())], Options::default());
        let mut status = core.status(0);
        let mut usability = Usability::new("this CPU signs");
        let open = State::Open {
            until: Instant::NEVER,
        };
        let closed = State::Closed { failures: 0 };
        let missing = Some(DeviceError::NotUsable("no such socket".to_owned()));
        let gone = Some(DeviceError::Gone);
        let alone = "software:ring is not used: no such socket; it is tried again";
        let first = "bad: software:ring is not used: its last failure was `timed-out`; this CPU signs \
                     meanwhile, and it is tried again";
        let second = "bad: software:ring is still not used: no such socket";
        let third = "bad: software:ring is still not used: the device is gone";
        for (breaker, opened, failure, wanted) in [
            (open, 0, None, ""),
            (State::HalfOpen, 0, None, ""),
            (closed, 0, None, ""),
            (open, 1, None, first),
            (open, 1, None, ""),
            (open, 2, missing.clone(), second),
            (State::HalfOpen, 2, None, ""),
            (open, 3, missing, ""),
            (open, 4, gone, third),
            (closed, 4, None, "good: software:ring is used again"),
            (closed, 4, None, ""),
        ] {
            status.breaker = breaker;
            status.breaker_opened = opened;
            status.breaker_opened_by = "timed-out";
            status.failure = failure;
            let news = usability.news(std::slice::from_ref(&status));
            let told = news.first().map_or_else(String::new, |news| match news {
                News::Good(text) => format!("good: {text}"),
                News::Bad(text) => format!("bad: {text}"),
            });
            assert_eq!(told, wanted);
        }
        status.breaker = open;
        status.failure = Some(DeviceError::NotUsable("no such socket".to_owned()));
        let news = Usability::new("").news(std::slice::from_ref(&status));
        assert!(
            matches!(&news[..], [News::Bad(text)] if *text == alone),
            "{news:?}"
        );
    }
}
