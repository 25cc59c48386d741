//! What a watch makes of a resource, with every figure that it went by.

use super::correlate::{Correlation, Share};
use super::onset::Onset;
use super::rules::Finding;
use super::{HOUR, Limit, Resource, Scope};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// How far up the ladder a resource is. Later is worse.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing speaks for a leak.
    Watching,
    /// It rises as a leak does. Shown, and nobody is told.
    Suspected,
    /// It will be exhausted within days, or the leak is proven.
    Leaking,
    /// It will be exhausted within a day.
    Page,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Watching, Self::Suspected, Self::Leaking, Self::Page];

    /// Its name, the same in the terminal, in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Suspected => "suspected",
            Self::Leaking => "leaking",
            Self::Page => "page",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By which rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speed {
    /// The climb that goes on now, minute by minute.
    Steep,
    /// The last hour, minute by minute.
    Fast,
    /// The last six hours, by floors of ten minutes.
    Medium,
    /// The last two weeks, by floors of six hours.
    Slow,
    /// What was held whenever there was nothing to do.
    Idle,
}

impl Speed {
    /// Its name, the same in the terminal and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steep => "steep",
            Self::Fast => "fast",
            Self::Medium => "medium",
            Self::Slow => "slow",
            Self::Idle => "idle",
        }
    }
}

/// An estimate, and between what it lies: with a confidence of 99 % but for [`Speed::Steep`], which
/// has too few samples for that and takes the largest step off and adds it once more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Best estimate.
    pub middle: f64,
    /// Upper end.
    pub high: f64,
}

/// When a limit will be reached. Never a single time: nobody can know one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Exhaustion {
    /// From now, if it goes on at the upper end of the rate.
    pub earliest: Duration,
    /// From now, at the lower end; `None` if it may never be.
    pub latest: Option<Duration>,
}

/// One thing that must be so before a rise is taken for a leak.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// What it asks.
    pub name: &'static str,
    /// Whether it is so.
    pub passed: bool,
    /// What was measured.
    pub measured: f64,
    /// What is needed.
    pub needed: Bound,
}

impl Gate {
    pub(super) fn at_least(name: &'static str, measured: f64, needed: f64) -> Self {
        Self {
            name,
            passed: measured >= needed,
            measured,
            needed: Bound::AtLeast(needed),
        }
    }

    pub(super) fn at_most(name: &'static str, measured: f64, needed: f64) -> Self {
        Self {
            name,
            passed: measured <= needed,
            measured,
            needed: Bound::AtMost(needed),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bound, needed) = match self.needed {
            Bound::AtLeast(needed) => ("at least", needed),
            Bound::AtMost(needed) => ("at most", needed),
        };
        let sign = if self.passed { '+' } else { '-' };
        let Self { name, measured, .. } = self;
        write!(f, "{sign} {name}: {measured:.3} ({bound} {needed})")
    }
}

/// What a gate needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// What is believed of a resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeakVerdict {
    /// Which resource.
    pub resource: Cow<'static, str>,
    /// Whose it is.
    pub scope: Scope,
    /// How bad it is.
    pub level: Level,
    /// By which rule; `None` while none had enough to go by.
    pub speed: Option<Speed>,
    /// What is held now.
    pub held: f64,
    /// Growth for each hour.
    pub rate_per_hour: Option<Interval>,
    /// The limit that was reckoned with.
    pub limit: Option<Limit>,
    /// When it will be reached.
    pub exhaustion: Option<Exhaustion>,
    /// Probability of such a trend where there is none.
    pub p: Option<f64>,
    /// What was asked of the rise.
    pub gates: Vec<Gate>,
    /// How much of the host's growth is this.
    pub share_of_growth: Option<Share>,
    /// Set if it grows with opens that fail and not with load.
    pub grows_with_failed_opens: Option<Correlation>,
    /// Set if it grows while the card is away and not otherwise.
    pub grows_while_absent: Option<Correlation>,
    /// When it began to grow, if what is known of it shows that.
    pub began: Option<Onset>,
}

impl LeakVerdict {
    pub(super) fn watching(resource: &Resource) -> Self {
        Self {
            resource: resource.name.clone(),
            scope: resource.scope,
            level: Level::Watching,
            speed: None,
            held: 0.0,
            rate_per_hour: None,
            limit: resource.limit.clone(),
            exhaustion: None,
            p: None,
            gates: Vec::new(),
            share_of_growth: None,
            grows_with_failed_opens: None,
            grows_while_absent: None,
            began: None,
        }
    }

    pub(super) fn take(&mut self, level: Level, speed: Speed, finding: &Finding) {
        self.level = level;
        self.speed = Some(speed);
        self.rate_per_hour = Some(finding.rate_per_hour);
        self.p = finding.p;
        self.gates.clone_from(&finding.gates);
        let limit = self.limit.as_ref();
        self.exhaustion = limit.and_then(|limit| exhaustion(limit, self.held, finding));
    }

    /// Gates that the rise did not pass.
    pub fn failed_gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter().filter(|gate| !gate.passed)
    }

    /// What would show that it is no leak after all, the cheapest first.
    #[must_use]
    pub fn falsified_by(&self) -> Vec<&'static str> {
        if self.level == Level::Watching {
            return Vec::new();
        }
        let mut tests = Vec::new();
        if self.grows_with_failed_opens.is_some() {
            tests.push("opens go on failing and what is held does not grow");
        }
        if self.grows_while_absent.is_some() {
            tests.push("the card stays away and what is held does not grow");
        }
        if self.speed != Some(Speed::Idle) {
            tests.push("drained, the service falls back to what it held when it was last idle");
        }
        tests.push("under the same load it comes to rest below the limit");
        if self.scope == Scope::Host {
            tests.push("no service's own share grows with it");
        }
        tests.push("a service that is started anew grows as fast and then stops");
        tests
    }
}

/// When `limit` is reached from `held` at the rates of a finding.
fn exhaustion(limit: &Limit, held: f64, finding: &Finding) -> Option<Exhaustion> {
    let left = (limit.value - held).max(0.0);
    let after = |rate: f64| {
        let seconds = left / rate * HOUR;
        Duration::try_from_secs_f64(seconds).ok()
    };
    let Interval { low, high, .. } = finding.rate_per_hour;
    if high <= 0.0 {
        return None;
    }
    Some(Exhaustion {
        earliest: after(high)?,
        latest: (low > 0.0).then(|| after(low)).flatten(),
    })
}

/// Those that rise, if two or more of one service do: one incident and not several.
#[must_use]
pub fn rising_together<'a>(verdicts: &[&'a LeakVerdict]) -> Vec<&'a LeakVerdict> {
    let rising = verdicts.iter().copied();
    let rising: Vec<_> = rising
        .filter(|verdict| verdict.scope == Scope::Service && verdict.level >= Level::Suspected)
        .collect();
    if rising.len() < 2 { Vec::new() } else { rising }
}
