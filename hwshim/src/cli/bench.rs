//! `hwshim bench`: what accelerators are worth, against this CPU in the same run.
//!
//! Operations by themselves with an address, whole TLS handshakes with `tls`. Both measure in short
//! windows that alternate between the contenders, so that a busy moment of the host hits all of
//! them, and both can leave a page behind that needs nothing else to be read.

mod chart;
mod machine;
mod page;
mod raw;
#[cfg(feature = "tls")]
mod tls;

use super::output::{Failure, Output};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::Duration;

/// Measure an accelerator against software in the same run.
///
/// Every answer is verified. If the accelerator fails, hangs or is pulled out meanwhile, software
/// finishes, and the report says how many operations each answered.
#[derive(Debug, clap::Args)]
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

/// Writes `page` to the file that `--html` names.
fn write_page(path: &Path, page: &page::Page) -> Result<(), Failure> {
    std::fs::write(path, page.html()).map_err(|error| {
        Failure::new(format!("{} cannot be written", path.display()), error)
            .hint("name a file in a directory that exists and may be written to")
    })
}

fn thread_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

#[cfg(feature = "tls")]
fn process_cpu_time() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and times here are far below 2^53"
)]
const fn to_f64(number: u64) -> f64 {
    number as f64
}
