//! What is closed and still held for a while: ports, sessions, anything with a recycle time.
//!
//! At a constant rate of opens, what is held comes to rest at rate times recycle time (Little's
//! law), and grows when the rate does. Neither is a leak. What is still held when nothing has been
//! opened for two recycle times is the strongest proof of one.

use super::record::{EPOCH, Epoch};
use super::rules::{Finding, per_hour};
use super::{Gate, Resource, Sample};
use crate::trend::{Point, float, sen};
use std::collections::VecDeque;

/// Recycle time of what has none of its own, in seconds: the longest that is known in use, the
/// ports of an RPC service that are given back four minutes after they are closed.
const DEFAULT: f64 = 240.0;
/// Recycle times of steady opens before what is held says anything.
const PERIODS: f64 = 3.0;
/// Rates that differ by no more than this are steady.
const STEADY: f64 = 1.5;
/// What opens can hold for their recycle time, of the growth, if that explains none of it.
const LITTLE: f64 = 0.1;
/// Of the growth of idle floors, the largest step. One alone is something that began, as a cache that
/// was filled, or opens of which more are held while they recycle: that comes to rest.
const STEP_MAX: f64 = 0.8;
/// Idle floors that are remembered.
const FLOORS: usize = 8;

/// In seconds.
pub(super) fn period(resource: &Resource) -> f64 {
    resource
        .recycle
        .map_or(DEFAULT, |period| period.as_secs_f64())
}

/// What must be so before the growth of something with a recycle time is taken for a leak; nothing
/// for what has none.
pub(super) fn gates(resource: &Resource, epochs: &[Epoch]) -> Vec<Gate> {
    if resource.recycle.is_none() {
        return Vec::new();
    }
    let period = period(resource);
    let watched = match (epochs.first(), epochs.last()) {
        (Some(first), Some(last)) => last.floor.at - first.floor.at + EPOCH,
        _ => 0.0,
    };
    let mut gates = vec![Gate::at_least(
        "recycle times watched",
        watched / period,
        PERIODS,
    )];
    let opens: Option<Vec<f64>> = epochs.iter().map(|epoch| epoch.opens).collect();
    if let Some(opens) = opens
        && let (Some(first), Some(last)) = (epochs.first(), epochs.last())
    {
        let rates: Vec<_> = opens.iter().map(|opens| opens / EPOCH).collect();
        let growth = last.last - first.floor.value;
        let later = rates.last().copied().unwrap_or(0.0) - rates.first().copied().unwrap_or(0.0);
        // Of what is held in the end, no more recycles than was opened within the recycle time,
        // however unsteadily.
        let (low, high) = lately(&rates, period);
        let recycles_little = high * period <= LITTLE * growth;
        gates.push(Gate::at_most(
            "rate of opens that may explain it, highest against lowest",
            if recycles_little || high == 0.0 {
                1.0
            } else {
                high / low
            },
            STEADY,
        ));
        gates.push(Gate::at_least(
            "held, of what recycles",
            last.last / (high * period),
            1.2,
        ));
        gates.push(Gate::at_least(
            "growth that does not recycle",
            1.0 - later.max(0.0) * period / growth,
            0.5,
        ));
    }
    gates
}

/// The lowest rate and the highest, over the last three recycle times; an epoch more, since what an
/// epoch opened lies anywhere in it.
fn lately(rates: &[f64], period: f64) -> (f64, f64) {
    let mut seconds = PERIODS * period + EPOCH;
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for rate in rates.iter().rev() {
        if seconds <= 0.0 {
            break;
        }
        seconds -= EPOCH;
        low = low.min(*rate);
        high = high.max(*rate);
    }
    (low, high)
}

/// What was held each time that there was nothing to do.
#[derive(Debug)]
pub(super) struct IdleFloors {
    /// Recycle time, in seconds.
    period: f64,
    opens: Option<u64>,
    commands: Option<u64>,
    /// Since when there is nothing to do.
    since: Option<f64>,
    /// The least that was held since all had time to be given back.
    least: Option<f64>,
    /// One for each time that lasted two recycle times.
    floors: VecDeque<Point>,
}

impl IdleFloors {
    pub(super) const fn new(period: f64) -> Self {
        Self {
            period,
            opens: None,
            commands: None,
            since: None,
            least: None,
            floors: VecDeque::new(),
        }
    }

    pub(super) fn observe(&mut self, at: f64, sample: &Sample) {
        let worked = (sample.opens, sample.commands) != (self.opens, self.commands);
        (self.opens, self.commands) = (sample.opens, sample.commands);
        let known = sample.opens.is_some() || sample.load.is_some();
        if !known || worked || sample.load.is_some_and(|load| load > 0.0) {
            self.since = None;
            self.least = None;
            return;
        }
        let idle = at - *self.since.get_or_insert(at);
        if idle < 2.0 * self.period {
            return;
        }
        match &mut self.least {
            Some(least) => {
                *least = least.min(sample.held);
                if let Some(floor) = self.floors.back_mut() {
                    floor.value = *least;
                }
            }
            None => {
                self.least = Some(sample.held);
                if self.floors.len() == FLOORS {
                    self.floors.pop_front();
                }
                self.floors.push_back(Point::new(at, sample.held));
            }
        }
    }

    /// The proof, if what was held rose from each time to the next, three times at least, by more
    /// than is negligible, and not in one step.
    pub(super) fn proof(&self, negligible: f64) -> Option<Finding> {
        const LEAST: usize = 3;
        let floors: Vec<_> = self.floors.iter().copied().collect();
        let rising = floors
            .windows(2)
            .rev()
            .take_while(|pair| pair[1].value > pair[0].value)
            .count();
        let rising = &floors[floors.len() - (rising + 1).min(floors.len())..];
        if rising.len() < LEAST {
            return None;
        }
        let sen = sen(rising, 0.99)?;
        let growth = rising[rising.len() - 1].value - rising[0].value;
        let steps = rising.windows(2).map(|pair| pair[1].value - pair[0].value);
        let largest = steps.fold(0.0, f64::max);
        let finding = Finding {
            rate_per_hour: per_hour(&sen, 1.0),
            p: None,
            gates: vec![
                Gate::at_least("idle floors that rose", float(rising.len()), 3.0),
                Gate::at_least("growth", growth, negligible),
                Gate::at_most("largest step, of the growth", largest / growth, STEP_MAX),
            ],
            needed_to_page: 0,
        };
        finding.holds().then_some(finding)
    }
}
