//! A terminator between clients and a backend, and a card behind it: what `tls-faults` and
//! `tls-judges` have in common with `tests/terminator.rs`, from where most of it is.

#[path = "../../terminator/authority.rs"]
#[expect(dead_code, reason = "tests renew certificates, judges do not")]
pub(crate) mod authority;
#[path = "../../terminator/backend.rs"]
pub(crate) mod backend;
#[path = "../../terminator/load.rs"]
pub(crate) mod load;
#[path = "../../terminator/serving.rs"]
#[expect(dead_code, reason = "tests wait for errors and ends")]
pub(crate) mod serving;

use crate::process::{bound, built, run};
use anyhow::{Context as _, ensure};
use authority::{Authority, Identity, Key};
use serde_json::Value;
use serving::Serving;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Programs, certificates, and a directory for all that is written.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
    programs: PathBuf,
    pub(crate) authority: Authority,
    pub(crate) identity: Identity,
}

/// A simulated card, which is killed at the end.
#[derive(Debug)]
pub(crate) struct Card(Child);

impl Stage {
    /// Builds the programs, and makes an authority and an RSA certificate by it.
    pub(crate) fn set(directory: PathBuf, release: bool) -> anyhow::Result<Self> {
        let programs = built(&["hwshim", "firmware-sim"], release)?;
        fs::create_dir_all(&directory)
            .with_context(|| format!("{} cannot be made", directory.display()))?;
        let authority = Authority::found(&directory)?;
        let identity = authority.issue("site", Key::Rsa2048, "site")?;
        Ok(Self {
            programs,
            directory,
            authority,
            identity,
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("card.sock")
    }

    /// Starts a card that takes orders, and returns when it listens.
    pub(crate) fn card(&self) -> anyhow::Result<Card> {
        let mut command = bound(self.programs.join("firmware-sim"));
        command.args(["run", "--control", "--engines", "2", "--socket"]);
        command.arg(self.socket()).stdout(Stdio::piped());
        let mut process = command.spawn().context("firmware-sim does not start")?;
        let stdout = process.stdout.take();
        let card = Card(process);
        let mut line = String::new();
        BufReader::new(stdout.context("the card has no output")?).read_line(&mut line)?;
        ensure!(line.contains("listening"), "the card says {line:?}");
        Ok(card)
    }

    /// Tells the card what to do.
    pub(crate) fn order(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = bound(self.programs.join("firmware-sim"));
        command.args(words).arg("--control");
        command.arg(self.directory.join("card.sock.control"));
        run(command.stdout(Stdio::null()))
    }

    /// Starts a terminator whose signatures all go to the card, and returns when the card is in use.
    pub(crate) fn terminator(&self, backend: SocketAddr) -> anyhow::Result<Serving> {
        let program: &Path = &self.programs.join("hwshim");
        let identities = std::slice::from_ref(&self.identity);
        let mut command = serving::command(
            program,
            identities,
            serving::ANYWHERE,
            backend,
            &self.directory,
        );
        command.args(["--always", "--card"]);
        command.arg(format!("vfio-user:{}", self.socket().display()));
        let serving = Serving::start(command)?;
        serving
            .wait_for_report(|it| it["accelerators"][0]["breaker"] == "closed")
            .context("the card is not used")?;
        Ok(serving)
    }
}

impl Card {
    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A figure in a report.
pub(crate) fn figure(report: &Value, pointer: &str) -> anyhow::Result<u64> {
    let figure = report.pointer(pointer).and_then(Value::as_u64);
    figure.with_context(|| format!("a report without {pointer}: {report}"))
}

/// Waits in real time, as what is waited for happens in other processes.
#[expect(
    clippy::disallowed_methods,
    reason = "other processes take their time, and nothing is decided by it"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
