//! What a seed means: how long each phase of a run takes, what goes wrong, when and for how long.

use crate::incident::Incident;
use crate::trouble::Trouble;
use fastrand::Rng;
use firmware_sim::fault::Fault;
use firmware_sim::fault::led::Profile as Light;
use firmware_sim::scenario::Scenario;
use monitor::led::Profile as LightProfile;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Phases of a run, in their order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The card is brought up while callers are there already.
    Boot,
    /// Days with an operation now and then.
    Idle,
    /// A few operations a second.
    Steady,
    /// Bursts that fill the card.
    Peak,
    /// No new work.
    Draining,
    /// The breaker has been opened by an error of the bus.
    BreakerOpen,
    /// The trial after that is under way.
    HalfOpen,
    /// Until the card has its work again.
    ReturnToService,
    /// Everything is taken back in the middle of work.
    Shutdown,
}

impl Phase {
    /// All, in the order in which a run goes through them.
    pub const ALL: [Self; 9] = [
        Self::Boot,
        Self::Idle,
        Self::Steady,
        Self::Peak,
        Self::Draining,
        Self::BreakerOpen,
        Self::HalfOpen,
        Self::ReturnToService,
        Self::Shutdown,
    ];

    /// The name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Idle => "idle",
            Self::Steady => "steady",
            Self::Peak => "peak",
            Self::Draining => "draining",
            Self::BreakerOpen => "breaker-open",
            Self::HalfOpen => "half-open",
            Self::ReturnToService => "return-to-service",
            Self::Shutdown => "shutdown",
        }
    }

    /// How long it lasts at most; some end by what happens.
    fn length(self) -> Range<Duration> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let seconds =
            |range: Range<u64>| Duration::from_secs(range.start)..Duration::from_secs(range.end);
        match self {
            Self::Boot => seconds(2..4),
            Self::Idle => DAY..60 * DAY,
            Self::Steady => seconds(10..20),
            Self::Peak => Duration::from_millis(10)..Duration::from_millis(30),
            Self::Draining => seconds(1..3),
            // Far longer than a backoff: the breaker ends it.
            Self::BreakerOpen => seconds(1000..1001),
            Self::HalfOpen => seconds(1..2),
            Self::ReturnToService => seconds(1..2),
            Self::Shutdown => Duration::from_micros(1)..Duration::from_millis(2),
        }
    }

    /// When in the phase things go wrong: in the trial, it has to be soon.
    fn offset(self, length: Duration, rng: &mut Rng) -> Duration {
        let within = match self {
            Self::BreakerOpen => Duration::from_secs(5),
            Self::HalfOpen => Duration::from_millis(1),
            _ => length,
        };
        // At once is worth a try of its own.
        if rng.u8(0..4) == 0 {
            return Duration::ZERO;
        }
        within.mul_f64(rng.f64())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|phase| phase.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("there is no phase {name:?}; there are {}", names.join(", "))
        })
    }
}

/// Nothing that is drawn is over sooner.
pub const LASTING_MIN: Duration = Duration::from_millis(10);

/// Within so long an offset in the idle time of a watched run is drawn, before it is known how long
/// that has to be.
const IDLE_DRAWN: Duration = Duration::from_secs(200);

/// What may be drawn.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// These only, or all.
    pub troubles: Vec<Trouble>,
    /// In this phase only, or in any.
    pub phase: Option<Phase>,
    /// Nothing goes wrong: what does then is a false alarm.
    pub healthy: bool,
    /// Nothing lasts longer; [`LASTING_MIN`] at least.
    pub lasting_max: Option<Duration>,
    /// These go wrong, and nothing is drawn but what callers ask.
    pub incidents: Vec<Incident>,
    /// A monitor watches, and days are minutes so that it need not look at them all.
    pub watched: bool,
    /// Callers ask for what is cheap to simulate, where that can meet what goes wrong.
    pub cheap: bool,
    /// The router asks what pays; without, it does in an eighth of the runs that are drawn.
    pub weighed: bool,
    /// RSA signatures are verified eight at a time.
    pub eights: bool,
    /// So many peaks, each until the card has its work again, instead of the phases of a day.
    pub peaks: Option<usize>,
    /// This is played, and nothing drawn.
    pub scenario: Option<Arc<Scenario>>,
}

/// What happens in one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// What goes wrong.
    pub incidents: Vec<Incident>,
    /// Whether a monitor watches.
    pub is_watched: bool,
    /// Whether callers ask for no RSA signatures, of which software makes a few thousand a second.
    pub is_cheap: bool,
    /// Whether the router offloads what pays, late answers are hedged and queues are bounded, as in
    /// production; else everything goes to the card, which is how most mistakes are met.
    pub is_weighed: bool,
    /// Whether RSA signatures that arrive together are verified together, if this host can.
    pub in_eights: bool,
    /// So many peaks instead of the phases of a day, if any.
    pub peaks: Option<usize>,
    /// The scenario that is played instead, if one is.
    pub scenario: Option<Arc<Scenario>>,
    lengths: [Duration; Phase::ALL.len()],
}

impl Plan {
    /// The plan of `seed`, of what `filter` leaves.
    #[must_use]
    pub fn draw(seed: u64, filter: &Filter) -> Self {
        if let Some(scenario) = &filter.scenario {
            return Self {
                is_watched: filter.watched,
                ..Self::play(Arc::clone(scenario), seed)
            };
        }
        let mut rng = Rng::with_seed(seed);
        let lengths = Phase::ALL.map(|phase| between(&phase.length(), &mut rng));
        let mut plan = Self {
            seed,
            incidents: Vec::new(),
            is_watched: filter.watched,
            is_cheap: false,
            is_weighed: filter.weighed,
            in_eights: filter.eights,
            peaks: filter.peaks,
            scenario: None,
            lengths,
        };
        if filter.watched {
            plan.lengths[Phase::Idle as usize] = IDLE_DRAWN;
        }
        plan.incidents = match &filter.incidents[..] {
            [] => {
                let may_weigh = !filter.watched && !filter.cheap;
                plan.is_weighed |= may_weigh && rng.u8(0..8) == 0;
                plan.draw_incidents(filter, &mut rng)
            }
            given => given.to_vec(),
        };
        if filter.watched {
            let idle = plan.learning();
            if filter.incidents.is_empty() {
                let in_idle = |it: &&mut Incident| it.phase == Phase::Idle;
                for incident in plan.incidents.iter_mut().filter(in_idle) {
                    let at = incident.offset.as_secs_f64() / IDLE_DRAWN.as_secs_f64();
                    incident.offset = idle.mul_f64(at);
                }
            }
            plan.lengths[Phase::Idle as usize] = idle;
        }
        plan.is_cheap = filter.cheap && !plan.needs_rsa();
        plan
    }

    /// How long a monitor has to learn what is usual, before or while things go wrong. It follows
    /// from what does, so that a replay, which is told only that, is the same run.
    fn learning(&self) -> Duration {
        let any = |is: fn(&Trouble) -> bool| self.incidents.iter().any(|it| is(&it.trouble));
        Duration::from_secs(if any(Trouble::takes_hours) {
            // A service warms up.
            2 * 3600
        } else if any(|it| matches!(it, Trouble::Card(Fault::Slow { .. }))) {
            // One known-answer test after the other, of each algorithm.
            200
        } else {
            // A light has its rhythm after twelve blinks, and nothing else takes as long.
            50
        })
    }

    fn draw_incidents(&self, filter: &Filter, rng: &mut Rng) -> Vec<Incident> {
        let count = match rng.u8(0..10) {
            _ if filter.healthy => 0,
            _ if filter.watched => 1,
            0..7 => 1,
            _ => 2,
        };
        let possible = if filter.troubles.is_empty() {
            Trouble::all()
        } else {
            filter.troubles.clone()
        };
        let draw = |_| self.draw_incident(&possible, filter, rng);
        (0..count).map(draw).collect()
    }

    /// Whether what goes wrong does only with RSA.
    fn needs_rsa(&self) -> bool {
        let mut troubles = self.incidents.iter().map(|incident| &incident.trouble);
        troubles.any(|trouble| *trouble == Trouble::Card(Fault::CrtFault))
    }

    /// Whether the card makes RSA signatures with PSS, as well as those without.
    #[must_use]
    pub(crate) const fn has_pss(&self) -> bool {
        !self.is_cheap && !self.is_watched
    }

    /// The plan of `seed` in which two things go wrong in one phase, watched.
    #[must_use]
    pub fn draw_pair(seed: u64, pair: &[Trouble; 2], phase: Phase) -> Self {
        let filter = |trouble: &Trouble| Filter {
            troubles: vec![trouble.clone()],
            phase: Some(phase),
            watched: true,
            ..Filter::default()
        };
        let mut plan = Self::draw(seed, &filter(&pair[0]));
        let other = Self::draw(seed.wrapping_add(1 << 32), &filter(&pair[1]));
        plan.incidents.extend(other.incidents);
        plan.lengths[Phase::Idle as usize] = plan.learning();
        plan
    }

    /// Whether hours are lived through minute by minute: what it takes hours to see does not hurry.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        let mut incidents = self.incidents.iter();
        self.is_watched && incidents.any(|incident| incident.trouble.takes_hours())
    }

    /// A plan with the phases of `seed`, in which this goes wrong.
    #[must_use]
    pub fn with(seed: u64, incidents: Vec<Incident>) -> Self {
        let filter = Filter {
            healthy: incidents.is_empty(),
            incidents,
            ..Filter::default()
        };
        Self::draw(seed, &filter)
    }

    /// Plays `scenario`, under the load that it gives: the card's part and the host's. What the host
    /// service has is played beside a card that runs, and what nothing here suffers from by nobody.
    #[must_use]
    pub fn play(scenario: Arc<Scenario>, seed: u64) -> Self {
        let of_the_host = scenario.host.iter().flat_map(|host| &host.faults);
        let incidents = of_the_host.filter_map(|timed| {
            let trouble: Trouble = timed.fault.to_string().parse().ok()?;
            let is_played = matches!(trouble, Trouble::Host(_));
            is_played.then_some(Incident {
                phase: Phase::Steady,
                offset: timed.at,
                lasting: timed.lasting.unwrap_or(scenario.duration),
                trouble,
                probability: 1.0,
            })
        });
        let mut plan = Self::with(seed, Vec::new());
        plan.incidents = incidents.collect();
        plan.lengths[Phase::Steady as usize] = scenario.duration;
        plan.scenario = Some(scenario);
        plan
    }

    /// How the card's light shines while all is well, and what its monitor takes it for: of two
    /// generations of cards, the one that can have what goes wrong.
    #[must_use]
    pub fn light(&self) -> (Light, LightProfile) {
        let speaks = self.incidents.iter().any(|incident| {
            matches!(
                incident.trouble,
                Trouble::Card(
                    Fault::LedSos { .. }
                        | Fault::LedMaintenance
                        | Fault::LedInitialization
                        | Fault::Maintenance
                )
            )
        });
        if speaks {
            (Light::Nshield, LightProfile::Nshield)
        } else {
            (Light::Nfast500, LightProfile::Nfast500)
        }
    }

    /// Whether anything goes wrong while the breaker is open for something else, or after that.
    fn begins_with_the_breaker(&self) -> bool {
        let of_the_breaker = [Phase::BreakerOpen, Phase::HalfOpen];
        let mut phases = self.incidents.iter().map(|incident| incident.phase);
        phases.any(|phase| of_the_breaker.contains(&phase))
    }

    /// The phases that are lived through, in their order.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        if let Some(peaks) = self.peaks {
            let mut phases = vec![Phase::Boot];
            phases.extend([Phase::Peak, Phase::ReturnToService].repeat(peaks));
            phases.push(Phase::Shutdown);
            return phases;
        }
        let phases: &[Phase] = match self.scenario {
            // A monitor is asked about one thing at a time.
            None if self.is_watched && !self.begins_with_the_breaker() => &[
                Phase::Boot,
                Phase::Idle,
                Phase::Steady,
                Phase::Peak,
                Phase::Draining,
                Phase::ReturnToService,
                Phase::Shutdown,
            ],
            None => &Phase::ALL,
            Some(_) => &[Phase::Steady, Phase::Shutdown],
        };
        phases.to_vec()
    }

    fn draw_incident(&self, possible: &[Trouble], filter: &Filter, rng: &mut Rng) -> Incident {
        let drawn = Phase::ALL[rng.usize(..Phase::ALL.len())];
        let phase = filter.phase.unwrap_or(drawn);
        let trouble = possible[rng.usize(..possible.len())].clone();
        let longest = trouble
            .longest()
            .min(filter.lasting_max.unwrap_or(Duration::MAX));
        Incident {
            phase,
            offset: phase.offset(self.length(phase), rng),
            lasting: if trouble.takes_hours() {
                longest
            } else if self.is_watched {
                between(&(Duration::from_secs(60)..Duration::from_secs(120)), rng).min(longest)
            } else {
                log_uniform(&(LASTING_MIN..longest), rng)
            },
            trouble,
            probability: if self.is_watched {
                [1.0, 0.5][rng.usize(0..2)]
            } else {
                [1.0, 1.0, 0.2, 0.02][rng.usize(0..4)]
            },
        }
    }

    /// How long `phase` lasts at most.
    #[must_use]
    pub fn length(&self, phase: Phase) -> Duration {
        self.lengths[phase as usize]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scenario) = &self.scenario {
            return write!(f, "scenario {}", scenario.name);
        }
        if self.incidents.is_empty() {
            return f.write_str("nothing goes wrong");
        }
        for (index, incident) in self.incidents.iter().enumerate() {
            let and = if index == 0 { "" } else { ", and " };
            write!(
                f,
                "{and}{} for {:.3?} in {}, {:.3?} after its beginning",
                incident.trouble, incident.lasting, incident.phase, incident.offset
            )?;
            if incident.probability < 1.0 {
                write!(f, ", with probability {}", incident.probability)?;
            }
        }
        Ok(())
    }
}

fn between(range: &Range<Duration>, rng: &mut Rng) -> Duration {
    range.start + (range.end - range.start).mul_f64(rng.f64())
}

/// As many short ones as long ones.
fn log_uniform(range: &Range<Duration>, rng: &mut Rng) -> Duration {
    let ratio = range.end.as_secs_f64() / range.start.as_secs_f64();
    range.start.mul_f64(ratio.powf(rng.f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_one_plan() {
        let filter = Filter::default();
        let plan = |seed| format!("{:?}", Plan::draw(seed, &filter));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_trouble_is_drawn_in_every_phase() {
        let mut cells = std::collections::HashSet::new();
        for seed in 0..20_000 {
            for incident in Plan::draw(seed, &Filter::default()).incidents {
                cells.insert((incident.trouble.to_string(), incident.phase));
            }
        }
        assert_eq!(cells.len(), Trouble::all().len() * Phase::ALL.len());
    }

    #[test]
    fn some_runs_ask_what_pays() {
        let weighed = |filter: &Filter| {
            let plans = (0..800).map(|seed| Plan::draw(seed, filter));
            plans.filter(|plan| plan.is_weighed).count()
        };
        assert!((60..140).contains(&weighed(&Filter::default())));
        let all = Filter {
            weighed: true,
            ..Filter::default()
        };
        assert_eq!(weighed(&all), 800);
        // A monitor is asked about what it is shown, and is shown the same for both.
        let watched = Filter {
            watched: true,
            ..Filter::default()
        };
        assert_eq!(weighed(&watched), 0);
    }

    #[test]
    fn a_filter_leaves_what_it_names() {
        let filter = Filter {
            troubles: vec![Trouble::BusError],
            phase: Some(Phase::Peak),
            ..Filter::default()
        };
        for seed in 0..100 {
            for incident in Plan::draw(seed, &filter).incidents {
                assert_eq!(incident.phase, Phase::Peak);
                assert!(matches!(incident.trouble, Trouble::BusError));
            }
        }
    }
}
