//! `hwshim bench`: what accelerators are worth, against this CPU in the same run.
//!
//! Operations by themselves with an address, whole TLS handshakes with `tls`. Both measure in short
//! windows that alternate between the contenders, so that a busy moment of the host hits all of
//! them, and both can leave a page behind that needs nothing else to be read.

mod chart;
mod figures;
mod machine;
mod page;
mod raw;
#[cfg(feature = "tls")]
mod tls;

use super::output::{Failure, Output};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  hwshim bench vfio-user:./card.sock
  hwshim bench pci:0000:3b:00.0 software:multi-buffer --ops rsa-2048-sign,p256-sign
  hwshim bench vfio-user:./card.sock --depth 1,8,64 --for 10s --html bench.html
  hwshim bench software:multi-buffer --ops rsa-2048-sign --json";

/// Measure accelerators against software in the same run.
///
/// Every answer is verified. If an accelerator fails, hangs or is pulled out meanwhile, software
/// finishes, and the report says how many operations each answered. The best window of each is the
/// one to compare, the median says how steady the machine was.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
// Both structures are called Args, and groups are called after them.
#[group(skip)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[cfg(feature = "tls")]
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    raw: raw::Args,
}

#[cfg(feature = "tls")]
#[derive(Debug, clap::Subcommand)]
enum Command {
    Tls(tls::Args),
}

/// Measures.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    #[cfg(feature = "tls")]
    if let Some(Command::Tls(args)) = &args.command {
        return tls::run(args, output);
    }
    raw::run(&args.raw, output)
}

/// Where `--html` wants a page, found to be possible before anything is measured.
struct PageFile<'a>(&'a Path);

impl<'a> PageFile<'a> {
    /// Sees whether a page could be written to `path`. Nothing is left there, so that a run that is
    /// ended before it has one leaves no empty page, and does not take away an earlier one.
    fn look(path: &'a Path) -> Result<Self, Failure> {
        may_be_written(path).map_err(|error| cannot_be_written(path, error))?;
        Ok(Self(path))
    }

    /// Writes `page` there.
    fn write(self, page: &page::Page) -> Result<(), Failure> {
        let Self(path) = self;
        fs::write(path, page.html()).map_err(|error| cannot_be_written(path, error))
    }
}

fn cannot_be_written(path: &Path, error: io::Error) -> Failure {
    Failure::new(format!("{} cannot be written", path.display()), error)
        .hint("name a file in a directory that exists and may be written to")
}

fn may_be_written(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // A pipe would take being opened and closed for a page, an empty one.
        Ok(there) if !there.is_file() && !there.is_dir() => Ok(()),
        Ok(_) => File::options().write(true).open(path).map(drop),
        Err(_) => match File::create_new(path) {
            Ok(_) => fs::remove_file(path),
            // A link to a file that is not there yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Tells people or programs what was measured by `print`, then writes the page. What was measured is
/// told if the page cannot be written, and the page written if nobody reads the rest.
fn hand_over(
    output: &mut Output,
    file: Option<PageFile<'_>>,
    page: impl FnOnce() -> page::Page,
    print: impl FnOnce(&mut Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let printed = print(output).and_then(|()| output.flush());
    let written = file.map_or(Ok(()), |file| file.write(&page()));
    written.and(printed)
}

/// No window is shorter: one that is so short is all beginning and end.
const WINDOW_MIN: Duration = Duration::from_millis(50);

/// How far a run of so many windows is.
fn progress_bar(windows: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:28} {bar:32} {percent:>3} %  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    // Draws on standard error, and only if that is a terminal.
    ProgressBar::new(windows).with_style(style)
}

/// What was asked for more than once, once.
fn distinct<T: Clone + PartialEq>(all: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}

#[cfg(any(feature = "tls", test))]
fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn process_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What is told of latency: percentiles, and how many of a thousand take longer.
const PERCENTILES: [(&str, u64); 4] = [("50", 500), ("90", 100), ("99", 10), ("99.9", 1)];

/// A percentile that few lie beyond is told by whatever disturbed those.
const BEYOND_MIN: u64 = 10;

/// Whether a percentile that `beyond` of a thousand lie beyond can be told from `samples`. A median is
/// one whatever it is of.
const fn is_told(beyond: u64, samples: u64) -> bool {
    beyond >= 500 || samples * beyond >= BEYOND_MIN * 1000
}

/// `latency` at each of [`PERCENTILES`], where it can be told from `samples`.
fn told(latency: [f64; PERCENTILES.len()], samples: u64) -> Vec<Option<f64>> {
    let told = |(value, (_, beyond))| is_told(beyond, samples).then_some(value);
    latency.into_iter().zip(PERCENTILES).map(told).collect()
}

/// Why some may be missing.
const NOT_TOLD: &str = "percentiles with fewer than 10 beyond them are left out";

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and times here are far below 2^53"
)]
const fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        _args: Args,
    }

    #[test]
    fn examples_of_the_help_can_be_called() {
        use clap::{CommandFactory as _, Parser as _};
        let help = Line::command().render_help().to_string();
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        let examples = examples.lines().filter(|line| line.starts_with("  hwshim"));
        let mut count = 0;
        for example in examples {
            let words = example.split_whitespace().skip(1);
            Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
            count += 1;
        }
        assert!(count >= 4, "{help}");
    }

    fn page() -> page::Page {
        page::Page::new("page", "lead", &machine::Machine::look())
    }

    #[test]
    fn a_percentile_with_fewer_than_ten_beyond_it_is_not_told() {
        let told = |samples| told([1.0, 2.0, 3.0, 4.0], samples);
        assert_eq!(told(3), [Some(1.0), None, None, None]);
        assert_eq!(told(100), [Some(1.0), Some(2.0), None, None]);
        assert_eq!(told(9_999), [Some(1.0), Some(2.0), Some(3.0), None]);
        assert_eq!(told(10_000), [1.0, 2.0, 3.0, 4.0].map(Some));
        assert!(NOT_TOLD.contains(&BEYOND_MIN.to_string()));
    }

    #[test]
    fn a_page_that_cannot_be_written_is_refused_before_and_looking_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let within = |name: &str| directory.path().join(name);
        for path in [within("no/page"), directory.path().to_owned()] {
            let Err(failure) = PageFile::look(&path) else {
                panic!("{}", path.display());
            };
            assert!(failure.to_string().contains("hint: "), "{failure}");
        }
        PageFile::look(&within("page")).unwrap();
        assert!(!within("page").exists());
        fs::write(within("earlier"), "earlier").unwrap();
        PageFile::look(&within("earlier")).unwrap();
        assert_eq!(fs::read_to_string(within("earlier")).unwrap(), "earlier");
        std::os::unix::fs::symlink("target", within("link")).unwrap();
        PageFile::look(&within("link")).unwrap();
        fs::symlink_metadata(within("link")).unwrap();
        PageFile::look(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn what_was_measured_is_told_though_its_page_cannot_be_written_and_the_other_way_round() {
        let directory = tempfile::tempdir().unwrap();
        let (text, html) = (directory.path().join("text"), directory.path().join("html"));
        let gone = PageFile(Path::new("/nowhere/page"));
        let mut output = Output::to(File::create(&text).unwrap(), None);
        let print = |output: &mut Output| output.line("measured");
        hand_over(&mut output, Some(gone), page, print).unwrap_err();
        // Before the program ends: it may be ended by somebody else.
        assert_eq!(fs::read_to_string(&text).unwrap(), "measured\n");

        let file = PageFile(&html);
        let failed = |_: &mut Output| Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        hand_over(&mut output, Some(file), page, failed).unwrap_err();
        assert_eq!(fs::read_to_string(&html).unwrap(), page().html());
    }
}
