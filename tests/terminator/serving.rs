//! A `hwshim serve-tls` in a process of its own, and what it tells.

use super::authority::Identity;
use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(30);

/// What it has told so far.
#[derive(Debug, Default)]
struct Told {
    report: Option<Value>,
    errors: String,
    /// Streams on which more may come.
    open: usize,
}

/// A terminator at work. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Serving {
    process: Child,
    pub(crate) address: SocketAddr,
    told: Arc<(Mutex<Told>, Condvar)>,
    readers: Vec<JoinHandle<()>>,
}

/// A port of loopback that is free.
pub(crate) const ANYWHERE: &str = "127.0.0.1:0";

/// The command line. Pages are in the directory `telemetry`, never in the host's.
pub(crate) fn command(
    program: &Path,
    identities: &[Identity],
    listen: &str,
    backend: SocketAddr,
    telemetry: &Path,
) -> Command {
    let mut command = Command::new(program);
    command.args(["serve-tls", "--json", "--listen", listen, "--to"]);
    command.arg(backend.to_string());
    command.arg("--telemetry").arg(telemetry);
    for Identity { certificate, key } in identities {
        command.arg("--cert").arg(certificate);
        command.arg("--key").arg(key);
    }
    command
}

impl Serving {
    /// Starts it, and returns when it listens.
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = process.stdout.take() {
            readers.push(read(stdout, Arc::clone(&told), |told, line| {
                told.report = serde_json::from_str(line).ok();
            })?);
        }
        if let Some(stderr) = process.stderr.take() {
            readers.push(read(stderr, Arc::clone(&told), |told, line| {
                told.errors.push_str(line);
            })?);
        }
        let mut serving = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            told,
            readers,
        };
        let report = serving.wait_for_report(|_| true)?;
        let listening = report["listening"].as_str().unwrap_or_default();
        serving.address = listening.parse().map_err(io::Error::other)?;
        Ok(serving)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The first report from now on that is as `wanted`; there is one a second.
    pub(crate) fn wait_for_report(&self, wanted: impl Fn(&Value) -> bool) -> io::Result<Value> {
        self.lock().report = None;
        self.wait(|told| told.report.clone().filter(&wanted))
    }

    /// All that stands on standard error, once `text` does.
    pub(crate) fn wait_for_error(&self, text: &str) -> io::Result<String> {
        self.wait_for_errors(|errors| errors.contains(text))
    }

    /// All that stands on standard error, once `are_there` is true of it.
    pub(crate) fn wait_for_errors(&self, are_there: impl Fn(&str) -> bool) -> io::Result<String> {
        self.wait(|told| are_there(&told.errors).then(|| told.errors.clone()))
    }

    fn wait<T>(&self, look: impl Fn(&Told) -> Option<T>) -> io::Result<T> {
        let (_, changed) = &*self.told;
        let mut found = None;
        let (told, _) = changed
            .wait_timeout_while(self.lock(), PATIENT, |told| {
                found = look(told);
                // Who has ended says nothing more.
                found.is_none() && told.open > 0
            })
            .unwrap_or_else(PoisonError::into_inner);
        found.ok_or_else(|| {
            let last = told.report.clone().unwrap_or_default();
            let errors = &told.errors;
            io::Error::other(format!("it did not come to pass: {last:#}\n{errors}"))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it ends, as it has been told to. Returns how, and all of standard error.
    pub(crate) fn end(mut self) -> io::Result<(ExitStatus, String)> {
        let status = self.process.wait()?;
        for reader in self.readers.drain(..) {
            // One that panicked has said so.
            let _ = reader.join();
        }
        let errors = self.lock().errors.clone();
        Ok((status, errors))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(
    from: impl Read + Send + 'static,
    told: Arc<(Mutex<Told>, Condvar)>,
    take: fn(&mut Told, &str),
) -> io::Result<JoinHandle<()>> {
    let update = move |update: &dyn Fn(&mut Told)| {
        let (lock, changed) = &*told;
        update(&mut lock.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    };
    update(&|told| told.open += 1);
    thread::Builder::new().spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
            update(&|told| take(told, &line));
            line.clear();
        }
        update(&|told| told.open -= 1);
    })
}
