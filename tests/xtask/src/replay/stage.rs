//! Where a story is played: the programs, built as they ship; a directory for all they write; and
//! the questions that are put to cardmon.
//!
//! Every process ends with the stage, also if this one is killed.

use crate::process::{bound, built, program, typed};
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What has not begun by then never will.
const BEGIN: Duration = Duration::from_secs(30);

/// The programs and where they write.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) directory: PathBuf,
    programs: PathBuf,
    /// In memory, as `/run` is: what is replaced after each poll must cost no disk.
    runtime: TempDir,
    /// Where cardmon answers.
    port: u16,
    processes: Vec<(String, Child)>,
}

impl Stage {
    /// Builds the programs, and clears the directory of what another run has left.
    pub(super) fn set(directory: PathBuf, release: bool) -> anyhow::Result<Self> {
        let programs = built(&["cardmon", "hwshim", "firmware-sim"], release)?;
        if directory.join("polls.jsonl").exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("{} cannot be cleared", directory.display()))?;
        }
        fs::create_dir_all(directory.join("pages"))
            .with_context(|| format!("{} cannot be made", directory.display()))?;
        // Whoever takes the port before cardmon does has cardmon say so and end.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self {
            programs,
            runtime: TempDir::new_in("/dev/shm").context("there is no memory to write in")?,
            directory,
            port,
            processes: Vec::new(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Address of the simulated card.
    pub(super) fn card(&self) -> String {
        format!("vfio-user:{}", self.path("card.sock").display())
    }

    /// One of the project's programs, as in `cardmon status`.
    pub(super) fn ours<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        let mut command = bound(self.programs.join(name));
        command.args(words);
        command
    }

    /// The card's owner.
    pub(super) fn owner(&self) -> Command {
        let mut owner = self.ours(["hwshim", "serve", "--check-interval", "5s", "--load", "20"]);
        owner.args(["--card", &self.card(), "--telemetry"]);
        owner.arg(self.path("pages"));
        owner
    }

    /// cardmon, with a configuration that begins as `config` says.
    pub(super) fn monitor(&self, config: &str) -> anyhow::Result<Command> {
        let text = format!(
            "{config}\n[history]\ndirectory = \"{0}/history\"\nanchors = \"{0}/anchors\"\n",
            self.directory.display()
        );
        fs::write(self.path("cardmon.toml"), text)?;
        let mut monitor = self.ours(["cardmon", "run", "--config"]);
        monitor.arg(self.path("cardmon.toml"));
        monitor.arg("--telemetry").arg(self.path("pages"));
        monitor.arg("--control").arg(self.path("control.sock"));
        let alive = self.runtime.path().join("alive.json");
        monitor.arg("--dead-man").arg(alive);
        monitor.args(["--listen", &self.listen()]);
        Ok(monitor)
    }

    pub(super) fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts a process whose output goes to files of that name, and returns its number.
    pub(super) fn start(&mut self, name: &str, mut command: Command) -> anyhow::Result<u32> {
        let out = match name {
            "cardmon" => self.path("polls.jsonl"),
            _ => self.path(&format!("{name}.log")),
        };
        let errors = self.path(&format!("{name}.err"));
        command
            .stdout(File::create(out)?)
            .stderr(File::create(errors)?);
        let child = command.spawn();
        let child = child.with_context(|| format!("{} could not be started", typed(&command)))?;
        let pid = child.id();
        self.processes.push((name.to_owned(), child));
        Ok(pid)
    }

    /// Waits until `path` is there.
    pub(super) fn wait_for(&mut self, path: &Path) -> anyhow::Result<()> {
        let what = path.display().to_string();
        self.wait(BEGIN, &what, |_| Ok(path.exists().then_some(())))
    }

    /// Waits until `look` finds something, no longer than `patience`.
    ///
    /// # Errors
    ///
    /// That it did not come, or a process has ended meanwhile.
    pub(super) fn wait<T>(
        &mut self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let found = wait_until(patience, || {
            let found = look(self)?;
            if found.is_none() {
                self.expect_all_running()?;
            }
            Ok(found)
        })?;
        found.with_context(|| {
            format!(
                "{what} did not come within {} s; see {}",
                patience.as_secs(),
                self.directory.display()
            )
        })
    }

    fn expect_all_running(&mut self) -> anyhow::Result<()> {
        for (name, process) in &mut self.processes {
            if let Some(status) = process.try_wait()? {
                let errors = self.directory.join(format!("{name}.err"));
                let said = fs::read_to_string(errors).unwrap_or_default();
                bail!("{name} has ended ({status}): {said}");
            }
        }
        Ok(())
    }

    /// Everything that was polled so far.
    pub(super) fn polls(&self) -> anyhow::Result<Vec<Value>> {
        let file = File::open(self.path("polls.jsonl"))?;
        let lines = BufReader::new(file).lines();
        // The last line may not be whole yet.
        let polls = lines.map_while(|line| serde_json::from_str(&line.ok()?).ok());
        Ok(polls.collect())
    }

    /// What cardmon believes now; `None` while it does not answer.
    pub(super) fn status(&self) -> Option<Value> {
        let mut ask = self.ours(["cardmon", "status", "--json", "--url", &self.url()]);
        let answer = ask.stderr(Stdio::null()).output().ok()?;
        serde_json::from_slice(&answer.stdout).ok()
    }

    fn url(&self) -> String {
        format!("http://{}", self.listen())
    }

    /// Asks the monitor that runs, as an operator would; prints question and answer, and returns
    /// the answer.
    pub(super) fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        self.put(words, &["--url", &self.url()])
    }

    /// Asks the record, likewise.
    pub(super) fn ask_record(&self, words: &[&str]) -> anyhow::Result<String> {
        let config = self.path("cardmon.toml");
        self.put(words, &["--config", &config.to_string_lossy()])
    }

    fn put(&self, words: &[&str], whom: &[&str]) -> anyhow::Result<String> {
        let mut command = self.ours(std::iter::once("cardmon").chain(words.iter().copied()));
        let output = command.args(whom).output();
        let output = output.with_context(|| format!("{} could not be run", typed(&command)))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        // What a reader would type, and not where this run keeps its files.
        let place = format!("{}/", self.directory.display());
        let text = text.replace(&place, "/run/");
        let typed = words.join(" ").replace(&place, "/run/");
        println!("\n$ cardmon {typed}\n{text}");
        Ok(text)
    }

    /// Ends everybody, the last to come first: whoever watches must not see the others leave.
    pub(super) fn end(&mut self) {
        while self.end_last() {}
    }

    /// Ends the one that came last, if there is one.
    pub(super) fn end_last(&mut self) -> bool {
        let Some((_, mut process)) = self.processes.pop() else {
            return false;
        };
        let pid = process.id().to_string();
        // A process that has ended by itself is none to complain of.
        let _ = program("kill")
            .args(["-TERM", &pid])
            .stderr(Stdio::null())
            .status();
        for _ in 0..50 {
            if !matches!(process.try_wait(), Ok(None)) {
                break;
            }
            pause(LOOK);
        }
        let _ = process.kill();
        let _ = process.wait();
        true
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets time pass: the processes on the stage are real, and take it.
#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// Waits until `look` finds something, and no longer than `patience` for that; `None` if it did not come.
pub(crate) fn wait_until<T>(
    patience: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let mut waited = Duration::ZERO;
    while waited < patience {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        pause(LOOK);
        waited += LOOK;
    }
    Ok(None)
}

/// Now, by the calendar and in UTC, as `cardmon explain` reads it.
pub(super) fn now() -> anyhow::Result<String> {
    let now = crate::process::output(program("date").args(["-u", "+%FT%T.%3NZ"]))?;
    Ok(now.trim().to_owned())
}

/// Says that something is as it should be.
///
/// # Errors
///
/// That it is not.
pub(crate) fn expect(what: &str, is_so: bool) -> anyhow::Result<()> {
    if !is_so {
        bail!("not so: {what}");
    }
    println!("  as it should be: {what}");
    Ok(())
}

/// Text at a place of a status.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// A list at a place of a status; none is empty.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}
