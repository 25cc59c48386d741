//! `hwshim bench tls`: whole handshakes of a TLS server, with accelerators and without, in one run.
//!
//! ```text
//!   clients' thread                                     server's thread (one tokio runtime)
//!     N clients, each at once with its next             acceptor of the contender whose turn it is
//!     handshake; they verify certificate   <- pipes ->    |
//!     and signature, and wait for a byte                router, driven on the same runtime
//! ```
//!
//! Client and server are in this process and speak through pipes in memory, so that no network is
//! measured. The server's processor time is that of the whole process without the clients' thread:
//! the router and an accelerator that is this CPU are in it. A card is not, unless it is a process
//! and [`Args::count`] names it.

mod client;
mod contender;
mod page;
mod report;
mod window;

use super::machine::Machine;
use super::{PageFile, WINDOW_MIN, distinct, hand_over, progress_bar};
use crate::cli::crypto_mb::CryptoMb;
use crate::cli::output::{Failure, Output};
use crate::cli::verifying::{self, Verifying};
use crate::cli::{each_once, not_owned, serve};
use client::Clients;
use contender::{Bench, Chosen, Library};
use hwshim::address::Address;
use indicatif::ProgressBar;
use report::{Point, Report, Side};
use std::path::PathBuf;
use std::time::Duration;
use window::Window;

/// Measure TLS handshakes with accelerators against software, in one run.
///
/// Clients and server speak through pipes in memory, each in a thread of its own; every client
/// offers AES-128-GCM with SHA-256 first, as browsers do, and verifies the server's certificate and
/// signature. What counts is the server's processor time for each handshake, everything that this
/// process does for it included. A busy machine disturbs it less than handshakes per second, and
/// still does: others take caches, the other half of a core, and its frequency. The best window is
/// the one to compare, the median says how steady the machine was.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Addresses of accelerators; software:multi-buffer where it is found, if none is given.
    accelerators: Vec<Address>,
    /// Keys of the server, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "rsa-2048"
    )]
    keys: Vec<Key>,
    /// Versions of TLS, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "1.3"
    )]
    tls: Vec<Version>,
    /// Kinds of handshakes, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "full"
    )]
    handshakes: Vec<Kind>,
    /// Handshakes under way at once, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,16,64",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    concurrency: Vec<u16>,
    /// Libraries to compare with, and to put accelerators under: ring, and aws-lc-rs if it is built
    /// in; all that are by default.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    libraries: Vec<Library>,
    /// Time for each combination of these, shared by all that are compared.
    #[arg(long = "for", value_name = "TIME", default_value = "8s", value_parser = serve::positive_duration)]
    duration: Duration,
    /// Windows of each that is compared, in turns.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    windows: u32,
    /// Offload every RSA signature, not only those that it pays for, and do not hedge: software signs
    /// only what the accelerator does not take, or has not answered by its deadline.
    #[arg(long)]
    always: bool,
    #[command(flatten)]
    verifying: Verifying,
    #[command(flatten)]
    crypto_mb: CryptoMb,
    /// Also count the processor time of this process, a simulated card's: for cards that are a core.
    /// It is added to the server's wherever processor times are compared.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    /// Also write a page with plots, which needs nothing else to be read.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The server's key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Key {
    /// RSA, 2048 bits.
    #[value(name = "rsa-2048")]
    Rsa2048,
    /// ECDSA on P-256.
    #[value(name = "p256")]
    P256,
}

impl Key {
    const fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA-2048",
            Self::P256 => "P-256",
        }
    }
}

/// The version spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Version {
    /// TLS 1.2.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    Tls13,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }
}

/// Which handshakes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Kind {
    /// With a signature.
    Full,
    /// Going on with an earlier session.
    Resumed,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }
}

/// What one comparison is about.
#[derive(Clone, Copy, Debug)]
struct Case {
    key: Key,
    version: Version,
    kind: Kind,
    concurrency: u16,
}

/// Measures.
pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    each_once(&args.accelerators, &["bench", "tls"])?;
    not_owned(&args.accelerators)?;
    let machine = Machine::look();
    let file = args.html.as_deref().map(PageFile::look).transpose()?;
    args.crypto_mb.check()?;
    let chosen = Chosen::look(args)?;
    chosen.warn(output)?;
    let eights = args.verifying.eights(&args.crypto_mb, output)?;
    let bench = Bench::start(args, chosen, eights)?;
    let cases = cases(args);
    let turns = u64::from(args.windows + 1) * bench.contenders.len() as u64;
    let bar = progress_bar(turns * cases.len() as u64);
    let mut points = Vec::new();
    for case in cases {
        bar.set_message(format!(
            "{} {} {} x{}",
            case.version.name(),
            case.key.name(),
            case.kind.name(),
            case.concurrency
        ));
        points.push(measure(case, args, &bench, &bar)?);
    }
    bar.finish_and_clear();
    let report = Report::new(
        machine,
        eights.is_some(),
        args.count.is_some(),
        bench.states(),
        points,
    );
    let page = || page::of(&report);
    hand_over(output, file, page, |output| match args.json {
        true => output.json(&report),
        false => report.print(output),
    })?;
    verifying::warn_if_mistaken(eights, output)?;
    report.warn(output)
}

/// Each that was asked for, once; how many at once in their order, as they are drawn.
fn cases(args: &Args) -> Vec<Case> {
    let mut concurrencies = distinct(&args.concurrency);
    concurrencies.sort_unstable();
    let mut cases = Vec::new();
    for key in distinct(&args.keys) {
        for version in distinct(&args.tls) {
            for kind in distinct(&args.handshakes) {
                cases.extend(concurrencies.iter().map(|&concurrency| Case {
                    key,
                    version,
                    kind,
                    concurrency,
                }));
            }
        }
    }
    cases
}

/// Compares all contenders in `case`.
fn measure(case: Case, args: &Args, bench: &Bench, bar: &ProgressBar) -> Result<Point, Failure> {
    let count = u32::try_from(bench.contenders.len()).unwrap_or(u32::MAX);
    let length = (args.duration / args.windows / count).max(WINDOW_MIN);
    let mut sides = Vec::new();
    for contender in &bench.contenders {
        let clients = Clients::new(case).map_err(|error| cannot("clients", error))?;
        // What comes first is not counted: sessions to resume, and what the router has to learn.
        Window::run(bench, contender, &clients, case, length, args.count)?;
        bar.inc(1);
        sides.push((contender, clients, Side::new(contender.name.clone())));
    }
    for _ in 0..args.windows {
        for (contender, clients, side) in &mut sides {
            side.add(Window::run(
                bench, contender, clients, case, length, args.count,
            )?);
            bar.inc(1);
        }
    }
    let sides = sides.into_iter().map(|(_, _, side)| side).collect();
    Ok(Point::new(case, args.windows, length, sides))
}

fn cannot(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(format!("the {what} of the bench cannot be set up"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Line::parse_from([&["bench"], line].concat()).args
    }

    #[test]
    fn each_case_is_measured_once_and_the_most_at_once_last() {
        let args = args(&["--concurrency=64,1,64,16", "--keys=p256,rsa-2048,p256"]);
        let cases: Vec<_> = cases(&args)
            .iter()
            .map(|case| (case.key, case.concurrency))
            .collect();
        let of = |key| [1, 16, 64].map(|concurrency| (key, concurrency));
        assert_eq!(cases, [of(Key::P256), of(Key::Rsa2048)].concat());
    }

    #[test]
    fn a_library_that_is_not_built_in_says_how_it_is() {
        let parse = |library: &str| Line::try_parse_from(["bench", "--libraries", library]);
        assert!(parse("ring,ring").is_ok_and(|line| line.args.libraries == [Library::Ring; 2]));
        let refused = |library| match parse(library) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let refused_aws = refused("ring,aws-lc-rs");
        assert_eq!(
            refused_aws.contains("--features aws-lc-rs"),
            cfg!(not(feature = "aws-lc-rs")),
            "{refused_aws}"
        );
        let refused_other = refused("openssl");
        assert!(refused_other.contains("ring"), "{refused_other}");
        assert!(!refused_other.contains("--features"), "{refused_other}");
    }

    #[test]
    fn the_help_promises_no_more_than_is_so() {
        use clap::CommandFactory as _;
        let help = Line::command().render_long_help();
        let help = help
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(help.contains("do not hedge"), "{help}");
        assert!(help.contains("built in"), "{help}");
        assert!(!help.contains("neither longer nor shorter"), "{help}");
    }
}
