//! `cargo xtask vm`: driver, card and monitor judged by parts nobody here wrote, in guests of QEMU.
//!
//! ```text
//! target/vm/packages/   Debian's kernel and busybox, and QEMU if none is installed, unpacked
//! target/vm/backports/  a newer QEMU and kernel, unpacked
//! target/vm/initramfs   what guests have in memory, with this hwshim
//! target/vm/logs/CASE/  what the kernel said, what was asked and answered, QEMU's complaints
//! ```
//!
//! A qualification is a module that boots guests, gives them commands and judges the answers. It
//! finds out nothing about time: whatever it waits for ends by a deadline of [`guest`].

pub(crate) mod apt;
mod backports;
mod card;
mod guest;
mod initramfs;
mod modules;
mod monitor;
mod packages;
mod q1;
mod q2;
mod q3;
mod q4;
mod q5;
mod q6;
mod qemu;
mod report;

use crate::outcome::{Outcome, again};
use crate::process::{build_directory, built, root, timed};
use anyhow::{Context, bail};
use backports::Backports;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use guest::{Guest, Machine};
use packages::{Kernel, Packages};
use qemu::Qemu;
use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Qualifications to run; all of them if none is named.
    #[arg(value_name = "Q", value_parser = qualification())]
    qualifications: Vec<&'static Qualification>,
}

/// Something of ours, and who judges it how.
#[derive(Debug)]
struct Qualification {
    name: &'static str,
    /// What is judged.
    judged: &'static str,
    cases: &'static [Case],
}

/// One boot, or several that belong together.
#[derive(Debug)]
struct Case {
    name: &'static str,
    run: fn(&Bench) -> anyhow::Result<Verdict>,
}

/// What a case that passed has to say.
#[derive(Debug)]
struct Verdict {
    /// Who judged: programs with their versions, as they said themselves.
    against: String,
    /// What is worth knowing.
    found: String,
}

/// What of ours is judged.
const PROGRAMS: [&str; 3] = ["hwshim", "firmware-sim", "cardmon"];

static QUALIFICATIONS: [Qualification; 7] = [
    q1::QUALIFICATION,
    q2::QUALIFICATION,
    q3::QUALIFICATION,
    q4::QUALIFICATION,
    q4::OBSERVED,
    q5::QUALIFICATION,
    q6::QUALIFICATION,
];

/// The parts nobody here wrote.
#[derive(Debug)]
struct Parts {
    packages: Packages,
    qemu: Qemu,
    busybox: PathBuf,
    kernel: Kernel,
    /// What came of the one attempt to get them.
    backports: OnceLock<anyhow::Result<Backports>>,
}

/// What all guests are made of.
#[derive(Debug)]
struct Bench {
    /// Where our programs are.
    programs: PathBuf,
    parts: &'static Parts,
    initramfs: PathBuf,
    /// What came of the one attempt to make it.
    newest: OnceLock<anyhow::Result<Newest>>,
}

/// What guests of the newest QEMU are made of.
#[derive(Debug)]
struct Newest {
    qemu: Qemu,
    kernel: Kernel,
    initramfs: PathBuf,
    /// For the kernel of this machine's release.
    stable_initramfs: PathBuf,
}

/// The kernel of a guest.
#[derive(Clone, Copy, Debug)]
enum Linux {
    /// That of this machine's release.
    Stable,
    /// The newest that has been packaged.
    Newest,
}

impl Parts {
    /// Gets what is not there yet, the first time.
    fn get() -> anyhow::Result<&'static Self> {
        static PARTS: OnceLock<anyhow::Result<Parts>> = OnceLock::new();
        let parts = PARTS.get_or_init(|| {
            let packages = Packages::new(directory().join("packages"))?;
            Ok(Self {
                qemu: packages.qemu()?,
                kernel: packages.kernel()?,
                busybox: packages.busybox()?,
                packages,
                backports: OnceLock::new(),
            })
        });
        parts.as_ref().map_err(again)
    }

    /// What only some qualifications need, had when the first of them asks.
    fn backports(&self) -> anyhow::Result<&Backports> {
        let get = || Backports::get(&backports_directory(), &self.packages);
        self.backports.get_or_init(get).as_ref().map_err(again)
    }
}

/// Gets what all qualifications are made of, while there is something else to do.
pub(crate) fn get_parts() {
    // Who needs them is told what came of it.
    let _ = Parts::get().and_then(Parts::backports);
}

/// Where everything is kept.
fn directory() -> PathBuf {
    root().join("target/vm")
}

/// Where what is newer than this machine's release is kept.
fn backports_directory() -> PathBuf {
    directory().join("backports")
}

impl Bench {
    /// Gets what is not there yet, and puts our `programs` in.
    fn prepare(programs: PathBuf) -> anyhow::Result<Self> {
        let parts = Parts::get()?;
        let (kernel, busybox) = (&parts.kernel, &parts.busybox);
        println!("building an initramfs for Linux {}", kernel.release);
        let hwshim = [programs.join("hwshim")];
        let initramfs = initramfs::build(&directory(), kernel, busybox, &hwshim, &[])?;
        Ok(Self {
            programs,
            parts,
            initramfs,
            newest: OnceLock::new(),
        })
    }

    /// What only some qualifications need, made when the first of them asks.
    fn newest(&self) -> anyhow::Result<&Newest> {
        let newest = self.newest.get_or_init(|| {
            let (newest, took) = timed(|| self.prepare_newest());
            println!(
                "prepared guests of the newest QEMU in {:.1} s",
                took.as_secs_f64()
            );
            newest
        });
        newest.as_ref().map_err(again)
    }

    fn prepare_newest(&self) -> anyhow::Result<Newest> {
        let directory = backports_directory();
        let backports = self.parts.backports()?;
        let kernel = backports.kernel()?;
        println!("building an initramfs for Linux {}", kernel.release);
        let build = |kernel: &Kernel, name: &str| {
            let (directory, hwshim) = (directory.join(name), [self.programs.join("hwshim")]);
            let keyctl = backports.keyctl();
            initramfs::build(&directory, kernel, &self.parts.busybox, &hwshim, &keyctl)
        };
        Ok(Newest {
            initramfs: build(&kernel, "newest")?,
            stable_initramfs: build(&self.parts.kernel, "stable")?,
            qemu: backports.qemu(),
            kernel,
        })
    }

    /// Boots a guest for the case `name`.
    fn boot(&self, name: &str, parameters: &str, options: &[&str]) -> anyhow::Result<Guest> {
        self.boot_with(&self.initramfs, name, parameters, options)
    }

    /// Boots one that has these programs of ours in its memory.
    fn boot_with_programs(&self, name: &str, programs: &[&str]) -> anyhow::Result<Guest> {
        let programs: Vec<_> = programs.iter().map(|it| self.programs.join(it)).collect();
        let Parts {
            kernel, busybox, ..
        } = self.parts;
        let directory = directory().join(name);
        let initramfs = initramfs::build(&directory, kernel, busybox, &programs, &[])?;
        self.boot_with(&initramfs, name, "", &[])
    }

    fn boot_with(
        &self,
        initramfs: &Path,
        name: &str,
        parameters: &str,
        options: &[&str],
    ) -> anyhow::Result<Guest> {
        let machine = Machine {
            kernel: &self.parts.kernel.image,
            initramfs,
            parameters,
            options,
        };
        Guest::boot(self.parts.qemu.command(), machine, &self.logs(name))
    }

    /// Boots a guest of the newest QEMU, which can have our card.
    fn boot_newest(
        &self,
        name: &str,
        linux: Linux,
        parameters: &str,
        options: &[String],
    ) -> anyhow::Result<Guest> {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let newest = self.newest()?;
        let (kernel, initramfs) = match linux {
            Linux::Stable => (&self.parts.kernel, &newest.stable_initramfs),
            Linux::Newest => (&newest.kernel, &newest.initramfs),
        };
        let machine = Machine {
            kernel: &kernel.image,
            initramfs,
            parameters,
            options: &options,
        };
        Guest::boot(newest.qemu.command(), machine, &self.logs(name))
    }

    /// Where the case `name` leaves its logs.
    fn logs(&self, name: &str) -> PathBuf {
        directory().join("logs").join(name)
    }
}

/// A line of the table.
#[derive(Debug)]
struct Line {
    name: &'static str,
    against: String,
    took: Duration,
    outcome: Outcome,
}

/// Runs the qualifications that were asked for.
///
/// # Errors
///
/// Names those that failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let all = QUALIFICATIONS.iter();
    let asked = &arguments.qualifications;
    let qualifications: Vec<_> = all
        .filter(|all| asked.is_empty() || asked.iter().any(|asked| asked.name == all.name))
        .collect();
    println!("building {}", PROGRAMS.join(" and "));
    match qualify(&qualifications, built(&PROGRAMS, false)?)? {
        Outcome::Failed(names) => bail!("failed: {names}"),
        Outcome::Passed(_) | Outcome::Warned(_) | Outcome::Skipped(_) => Ok(()),
    }
}

/// All qualifications that judge something, as one step among others. The programs are those that
/// tests were run with before; to build them alone, with the features that they need themselves,
/// would be to compile them again.
///
/// # Errors
///
/// If they could not even be tried.
pub(crate) fn step() -> anyhow::Result<Outcome> {
    let judging = QUALIFICATIONS
        .iter()
        .filter(|it| it.name != q4::OBSERVED.name);
    let directory = build_directory(false);
    let are_built = PROGRAMS.iter().all(|it| directory.join(it).is_file());
    let programs = if are_built {
        directory
    } else {
        built(&PROGRAMS, false)?
    };
    qualify(&judging.collect::<Vec<_>>(), programs)
}

/// Runs qualifications and prints the table.
fn qualify(qualifications: &[&Qualification], programs: PathBuf) -> anyhow::Result<Outcome> {
    let (bench, took) = timed(|| Bench::prepare(programs));
    let bench = match bench.map_err(Outcome::from) {
        Ok(bench) => bench,
        Err(outcome) => {
            println!("{outcome}");
            return Ok(outcome);
        }
    };
    println!("prepared in {:.1} s", took.as_secs_f64());
    let lines = run_cases(&bench, qualifications);
    print_table(&lines);
    let outcomes: Vec<_> = lines
        .iter()
        .map(|line| (line.name, &line.outcome))
        .collect();
    Ok(sum_up(&outcomes))
}

/// How cases went, taken together. Where none could be run, nothing has passed.
fn sum_up(cases: &[(&str, &Outcome)]) -> Outcome {
    let names = |wanted: fn(&Outcome) -> bool| {
        let cases = cases.iter().filter(|(_, outcome)| wanted(outcome));
        cases.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let failed = names(Outcome::is_failed);
    let skipped: Vec<_> = cases
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)))
        .map(|(name, outcome)| format!("{name} {outcome}"))
        .collect();
    if !failed.is_empty() {
        Outcome::Failed(failed)
    } else if skipped.is_empty() {
        Outcome::passed()
    } else if skipped.len() == cases.len() {
        Outcome::Skipped(skipped.join("; "))
    } else {
        Outcome::Passed(skipped.join("; "))
    }
}

/// Runs all cases, two at a time where there are as many processors: a guest keeps one busy. The last
/// take longest and are begun first; the lines come in the order of the cases.
fn run_cases(bench: &Bench, qualifications: &[&Qualification]) -> Vec<Line> {
    let at_a_time = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(2);
    let mut lines: Vec<(&'static str, &Case, Option<Line>)> = Vec::new();
    for Qualification { judged, cases, .. } in qualifications {
        lines.extend(cases.iter().map(|case| (*judged, case, None)));
    }
    let next = Mutex::new(lines.iter_mut().rev());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let case = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((judged, case, line)) = case else {
                        break;
                    };
                    *line = Some(run_case(bench, judged, case));
                }
            });
        }
    });
    let line = |(.., line): (_, _, Option<Line>)| line.expect("every case was taken and run");
    lines.into_iter().map(line).collect()
}

fn run_case(bench: &Bench, judged: &'static str, case: &Case) -> Line {
    let Case { name, run } = *case;
    println!("{name}: {judged}");
    let logs = bench.logs(name);
    // What an earlier run left would be taken for this one's.
    let (verdict, took) = timed(|| match fs::remove_dir_all(&logs) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", logs.display()))
        }
        _ => run(bench),
    });
    let (against, outcome) = match verdict {
        Ok(Verdict { against, found }) => (against, Outcome::Passed(found)),
        Err(error) => ("-".to_owned(), with_logs(Outcome::from(error), &logs)),
    };
    println!("{name}: {outcome}");
    if outcome.is_failed() {
        // In one piece: another case may be printing as well.
        print!("{}", ends(&logs));
    }
    Line {
        name,
        against,
        took,
        outcome,
    }
}

/// A failure in one line, with where to read more.
fn with_logs(outcome: Outcome, logs: &Path) -> Outcome {
    match outcome {
        Outcome::Failed(why) => {
            let why = why.trim_end().replace('\n', "; ");
            Outcome::Failed(format!("{why} (logs: {})", logs.display()))
        }
        outcome => outcome,
    }
}

/// How the logs end.
fn ends(logs: &Path) -> String {
    const LINES: usize = 12;
    let mut ends = String::new();
    for name in ["qemu.log", "console.log", "commands.log"] {
        let path = logs.join(name);
        let Ok(log) = fs::read(&path) else { continue };
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let _ = writeln!(ends, "  {} ends:", path.display());
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            let _ = writeln!(ends, "    {line}");
        }
    }
    ends
}

/// Prints a line for each case; what was found has been printed in full.
fn print_table(lines: &[Line]) {
    let width = |column: fn(&Line) -> &str| {
        let widths = lines.iter().map(|line| column(line).chars().count());
        widths.max().unwrap_or_default()
    };
    let names = width(|line| line.name).max("case".len());
    let against = width(|line| &line.against).max("against".len());
    println!(
        "\n{:<names$}  {:<against$}  seconds  result",
        "case", "against"
    );
    for line in lines {
        println!(
            "{:<names$}  {:<against$}  {:>7.1}  {}",
            line.name,
            line.against,
            line.took.as_secs_f64(),
            in_short(&line.outcome)
        );
    }
}

/// An outcome up to the details, which follow after a colon or a semicolon, and no longer than fits
/// in a table.
fn in_short(outcome: &Outcome) -> String {
    const CHARS: usize = 60;
    let text = match outcome {
        Outcome::Passed(text)
        | Outcome::Warned(text)
        | Outcome::Skipped(text)
        | Outcome::Failed(text) => text,
    };
    let end = text.find([':', ';']).unwrap_or(text.len());
    let mut short = text[..end].to_owned();
    if short.chars().count() > CHARS {
        short = short.chars().take(CHARS).collect();
        short.truncate(short.rfind(' ').unwrap_or(short.len()));
        short.push_str(" ...");
    }
    match outcome {
        Outcome::Passed(_) => Outcome::Passed(short),
        Outcome::Warned(_) => Outcome::Warned(short),
        Outcome::Skipped(_) => Outcome::Skipped(short),
        Outcome::Failed(_) => Outcome::Failed(short),
    }
    .to_string()
}

/// The names of all qualifications, with what each is about.
fn qualification() -> impl TypedValueParser<Value = &'static Qualification> {
    let values = QUALIFICATIONS
        .iter()
        .map(|qualification| PossibleValue::new(qualification.name).help(qualification.judged));
    PossibleValuesParser::new(values).map(|name| {
        let mut all = QUALIFICATIONS.iter();
        let found = all.find(|qualification| qualification.name == name);
        found.expect("the parser takes no other names")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Unavailable;

    fn summed_up(outcomes: &[Outcome]) -> String {
        let cases: Vec<_> = ["q1", "q2"].into_iter().zip(outcomes).collect();
        sum_up(&cases).to_string()
    }

    #[test]
    fn cases_that_could_not_be_run_do_not_pass_and_say_why() {
        let skipped = || Outcome::Skipped("no network".to_owned());
        let failed = || Outcome::Failed("a wrong answer".to_owned());
        let passed = Outcome::passed;
        assert_eq!(summed_up(&[passed(), passed()]), "ok");
        let expected = "ok: q2 skipped: no network";
        assert_eq!(summed_up(&[passed(), skipped()]), expected);
        let expected = "skipped: q1 skipped: no network; q2 skipped: no network";
        assert_eq!(summed_up(&[skipped(), skipped()]), expected);
        assert_eq!(summed_up(&[failed(), skipped()]), "FAILED: q1");
    }

    #[test]
    fn the_table_leaves_out_details() {
        for (found, short) in [
            ("", "ok"),
            ("3 of 16 passed: rsa, cbc", "ok: 3 of 16 passed"),
            (
                "errors counted and shown; the owner ended",
                "ok: errors counted and shown",
            ),
        ] {
            assert_eq!(in_short(&Outcome::Passed(found.to_owned())), short);
        }
        let endless = "a word and ".repeat(10);
        let expected = format!("FAILED: {}a ...", "a word and ".repeat(5));
        assert_eq!(in_short(&Outcome::Failed(endless)), expected);
    }

    #[test]
    fn what_could_not_be_had_once_stays_unavailable() {
        let error = anyhow::Error::from(Unavailable("no network".to_owned())).context("packages");
        let error = again(&error);
        assert_eq!(
            Outcome::from(error).to_string(),
            "skipped: packages: no network"
        );
        let error = again(&anyhow::anyhow!("no compiler").context("hwshim"));
        assert_eq!(
            Outcome::from(error).to_string(),
            "FAILED: hwshim: no compiler"
        );
    }
}
