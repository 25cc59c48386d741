//! `hwshim serve`: the stand-alone owner of a card.

use super::lines::Voice;
use super::output::Failure;
use super::usable::{News, Usability};
use hwshim::address::Address;
use hwshim::owner::{self, OwnerError, Schedule, ServeConfig};
use hwshim::router::core::LaneStatus;
use hwshim::stop::Stop;
use hwshim::telemetry::{self, PublishError};
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Own a card: watch its health, test it on a schedule and publish its telemetry page.
///
/// Runs until SIGINT or SIGTERM. A card that is away is no error: it is tried again every few
/// seconds, more rarely the longer it stays away; each new reason is told on standard error, and
/// the page says how it is. Read the page with "hwshim stats", or let cardmon judge it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the card, e.g. pci:0000:3b:00.0 or vfio-user:/run/card.sock
    #[arg(long, value_name = "ADDRESS")]
    card: Address,
    /// Directory for the telemetry page [default: /run/hwshim for root, else one of the user's own]
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// Synthetic load: RSA-2048 signatures per second.
    #[arg(long, value_name = "N/s", default_value = "0", value_parser = per_second)]
    load: f64,
    /// Time between two known-answer tests.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    check_interval: Duration,
}

/// Owns the card until a signal comes.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new()
        .and_then(|stop| stop.on_signals().map(|()| stop))
        .map_err(no_signals)?;
    let config = ServeConfig {
        card: args.card.clone(),
        telemetry: args
            .telemetry
            .clone()
            .unwrap_or_else(telemetry::default_directory),
        load_per_second: args.load,
        schedule: Schedule {
            check: args.check_interval,
            ..Schedule::default()
        },
    };
    // Rounds wait for nobody who reads.
    let mut voice = Voice::new().map_err(no_voice)?;
    let mut greeting = Some(format!(
        "hwshim: owning {}, telemetry in {}; stop it with Ctrl-C",
        config.card,
        config.telemetry.display()
    ));
    let mut usability = Usability::new("");
    let look = |status: &LaneStatus| {
        if let Some(greeting) = greeting.take() {
            voice.say(greeting);
        }
        for news in usability.news(std::slice::from_ref(status)) {
            match news {
                News::Bad(news) => voice.warn(news),
                News::Good(news) => voice.tell(news),
            }
        }
    };
    let outcome = owner::serve_watched(&config, &stop, look).map_err(|error| {
        let hint = match &error {
            OwnerError::Publish(error) => page_hint(error),
            _ => LIMITS,
        };
        Failure::new(format!("{} cannot be served", config.card), error).hint(hint)
    });
    voice.end_with(outcome)
}

pub(super) fn no_voice(error: io::Error) -> Failure {
    Failure::new("standard output cannot be prepared", error).hint(LIMITS)
}

/// What to do where the system gives no threads or descriptors.
pub(super) const LIMITS: &str =
    "see the limits of this user (ulimit -a), and of its unit (TasksMax=, LimitNOFILE=)";

/// What to do about a telemetry page that cannot be published.
pub(super) fn page_hint(error: &PublishError) -> &'static str {
    match error {
        PublishError::Owned { .. } => {
            "a card has one owner: stop the hwshim serve or the application that has it"
        }
        PublishError::Os { source, .. } => match Errno::from_io_error(source) {
            Some(Errno::MFILE | Errno::NFILE) => LIMITS,
            Some(Errno::NOENT) => {
                "make the directory above it first (mkdir -p), or choose another with --telemetry DIR"
            }
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                "make room there, or choose another directory with --telemetry DIR"
            }
            _ => OTHER_DIRECTORY,
        },
        _ => OTHER_DIRECTORY,
    }
}

const OTHER_DIRECTORY: &str = "choose a directory this user may write, with --telemetry DIR";

pub(super) fn no_signals(error: io::Error) -> Failure {
    Failure::new("signals cannot be handled", error).hint(LIMITS)
}

/// Parses `50/s` or `50`.
pub(super) fn per_second(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.trim().parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.0..=1e6).contains(&rate) => Ok(rate),
        _ => Err("write a rate from 0 to 1000000 as 50/s".to_owned()),
    }
}

/// Parses a duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be longer than zero".to_owned()),
        Err(error) => Err(format!("{error}; write it as 500ms, 5s or 2min")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bounded() {
        assert_eq!(per_second("50/s"), Ok(50.0));
        assert_eq!(per_second("0.5"), Ok(0.5));
        for wrong in ["", "-1/s", "nan", "inf", "5/m", "1e9"] {
            per_second(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_duration_of_zero_is_refused() {
        assert_eq!(positive_duration("2min"), Ok(Duration::from_secs(120)));
        for wrong in ["0s", "5", "", "fast"] {
            positive_duration(wrong).unwrap_err();
        }
    }
}
