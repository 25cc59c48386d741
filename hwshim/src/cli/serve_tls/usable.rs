//! Tells when an accelerator is not used, and when it is again: TLS goes on without, and so nobody would
//! notice.

use crate::cli::output::with_causes;
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

/// What was told of each accelerator, in their order.
#[derive(Debug, Default)]
pub(super) struct Usability {
    out_of_use: Vec<bool>,
}

impl Usability {
    /// What is news of those, of which this is asked once a second.
    pub(super) fn news(&mut self, accelerators: &[LaneStatus]) -> Vec<News> {
        let others = match accelerators.len() {
            1 => "this CPU signs",
            _ => "others sign",
        };
        self.out_of_use.resize(accelerators.len(), false);
        let news = |(known, status): (&mut bool, &LaneStatus)| {
            let is_out = match status.breaker {
                State::Closed { .. } => false,
                // One that has not been tried yet: what comes of that is soon known.
                State::Open { .. } | State::HalfOpen if status.breaker_opened == 0 => *known,
                State::Open { .. } => true,
                // It is being tried, which may fail.
                State::HalfOpen => *known,
            };
            let is_news = std::mem::replace(known, is_out) != is_out;
            is_news.then(|| match is_out {
                true => News::Bad(format!(
                    "{} is not used: {}; {others} meanwhile, and it is tried again",
                    status.name,
                    reason(status)
                )),
                false => News::Good(format!("{} is used again", status.name)),
            })
        };
        let each = self.out_of_use.iter_mut().zip(accelerators);
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
