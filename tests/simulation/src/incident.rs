//! One thing that goes wrong in a run, and how it is written on a command line.
//!
//! ```text
//!   hang@steady+5s+1m*0.5
//!   |    |      |  |  `--- chance of each request that it concerns; 1 if it is left out
//!   |    |      |  `------ for how long
//!   |    |      `--------- how long after the beginning of the phase
//!   |    `---------------- the phase
//!   `--------------------- the fault, parameters and all
//! ```
//!
//! What is written is read as the same to the nanosecond, because that is what a replay takes.

use crate::plan::Phase;
use crate::trouble::Trouble;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What goes wrong once.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// What.
    pub trouble: Trouble,
    /// In which phase.
    pub phase: Phase,
    /// How long after its beginning.
    pub offset: Duration,
    /// For how long.
    pub lasting: Duration,
    /// Chance of each request that it concerns.
    pub probability: f64,
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trouble,
            phase,
            offset,
            lasting,
            probability,
        } = self;
        let (offset, lasting) = (written(*offset), written(*lasting));
        write!(f, "{trouble}@{phase}+{offset}+{lasting}")?;
        if *probability < 1.0 {
            write!(f, "*{probability}")?;
        }
        Ok(())
    }
}

/// In one word, so that it stands in one argument.
fn written(time: Duration) -> String {
    humantime::format_duration(time)
        .to_string()
        .replace(' ', "")
}

impl FromStr for Incident {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not FAULT@PHASE+OFFSET+LASTING, with *PROBABILITY after it if that is \
                 not 1, such as hang@steady+5s+1m"
            )
        };
        let (trouble, rest) = text.rsplit_once('@').ok_or_else(wrong)?;
        let (times, probability) = match rest.split_once('*') {
            Some((times, probability)) => (times, chance(probability)?),
            None => (rest, 1.0),
        };
        let mut times = times.split('+');
        let (Some(phase), Some(offset), Some(lasting), None) =
            (times.next(), times.next(), times.next(), times.next())
        else {
            return Err(wrong());
        };
        let lasting = time(lasting)?;
        if lasting.is_zero() {
            return Err(format!("{text:?} lasts for no time, and so does nothing"));
        }
        Ok(Self {
            trouble: trouble.parse()?,
            phase: phase.parse()?,
            offset: time(offset)?,
            lasting,
            probability,
        })
    }
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration, such as 250ms, 3s or 2m"))
}

fn chance(text: &str) -> Result<f64, String> {
    let probability = text.parse::<f64>().ok();
    probability
        .filter(|chance| *chance > 0.0 && *chance <= 1.0)
        .ok_or_else(|| format!("{text:?} is not a probability: above 0, and 1 at most"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Filter, Plan};

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let mut count = 0;
        for seed in 0..2000 {
            for incident in Plan::draw(seed, &Filter::default()).incidents {
                let text = incident.to_string();
                assert_eq!(text.parse().as_ref(), Ok(&incident), "{text}");
                count += 1;
            }
        }
        assert!(count > 2000, "{count}");
    }

    #[test]
    fn parameters_stay_with_their_fault() {
        let incident: Incident = "interrupt-storm=500,vector=1@peak+0s+1m*0.5"
            .parse()
            .unwrap();
        assert_eq!(incident.trouble.to_string(), "interrupt-storm=500,vector=1");
        assert_eq!(incident.phase, Phase::Peak);
        assert_eq!(incident.lasting, Duration::from_secs(60));
        assert_eq!(incident.probability, 0.5);
    }

    #[test]
    fn what_is_no_incident_says_what_would_be() {
        for (text, expected) in [
            ("hang", "such as hang@steady+5s+1m"),
            ("hang@steady", "such as hang@steady+5s+1m"),
            ("hang@steady+5s+1m+1m", "such as hang@steady+5s+1m"),
            ("hagn@steady+5s+1m", "did you mean hang?"),
            ("hang@stedy+5s+1m", "there is no phase \"stedy\""),
            ("hang@steady+5+1m", "\"5\" is not a duration"),
            ("hang@steady+5s+0s", "lasts for no time"),
            ("hang@steady+5s+1m*0", "is not a probability"),
            ("hang@steady+5s+1m*2", "is not a probability"),
        ] {
            let error = text.parse::<Incident>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
