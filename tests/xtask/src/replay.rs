//! `cargo xtask replay`: the stories that cardmon exists for, played by real processes from end to
//! end, and what is said of them held against what is known to have happened.
//!
//! ```text
//!   firmware-sim run      plays the card, and starts the stand-in for its host service
//!        ^    ^
//!        |    +---- hwshim serve      owns the card, and publishes its page
//!        |                 |
//!        |                 v
//!        +---------- cardmon run      watches page, service and web server; keeps a history
//!                         ^
//!                         +---------- cardmon status, leaks, incidents, ...   the transcript
//! ```
//!
//! Nothing is decided here but whether what cardmon said is what it should have: a [`Stage`] starts
//! and asks, a [`Group`](group::Group) has the kernel give less, and each story has a file.

mod cost;
mod group;
mod s1;
mod s4;
pub(crate) mod stage;

use crate::process::root;
use clap::ValueEnum;
use stage::Stage;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to replay.
    story: Story,
    /// Keep here what was polled, recorded and reported; else it goes where the next run replaces
    /// it.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Story {
    /// A card is pulled, its service leaks kernel memory, and the web server beside it cannot start
    /// any more; four minutes.
    S1,
    /// Owner and monitor get next to no CPU for 10.8 seconds, and the card is well; one minute.
    S4,
    /// What cardmon costs, beside node_exporter; two minutes, and a release build.
    Cost,
}

/// Replays a story.
///
/// # Errors
///
/// If what it takes cannot be had here, or cardmon did not say what it should have.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = match arguments.story {
        Story::S1 => "s1",
        Story::S4 => "s4",
        Story::Cost => "cost",
    };
    let directory = match &arguments.keep {
        Some(directory) => std::path::absolute(directory)?,
        None => root().join("target/replay").join(name),
    };
    let stage = Stage::set(directory, arguments.story == Story::Cost)?;
    match arguments.story {
        Story::S1 => s1::replay(stage),
        Story::S4 => s4::replay(stage),
        Story::Cost => cost::measure(stage),
    }
}
