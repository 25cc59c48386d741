//! A QEMU with a guest in it that runs commands for us.
//!
//! ```text
//!                 QEMU
//!   stdin   <-->  monitor
//!   stdout  <-->  second serial port: commands in, answers out (report.rs)
//!   logs/CASE/    console.log   first serial port: what the kernel says
//!                 commands.log  what was asked and answered
//!                 qemu.log      what QEMU complained about
//! ```
//!
//! Both streams are socket pairs, so there is no socket file whose path could be too long or be
//! left behind. Emulated by TCG, never KVM: guests are the same on every machine that way, and
//! also run where the machine is a guest itself.

use super::monitor::Monitor;
use super::report::{Answer, Event, Parser};
use anyhow::{Context, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// A boot takes ten seconds, and several times that on a busy machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);
/// Whatever a qualification asks takes a few seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What all machines have in common.
const OPTIONS: [&str; 17] = [
    "-accel",
    "tcg",
    // Without a source of random numbers, whoever needs some waits for half a minute.
    "-cpu",
    "qemu64,+rdrand",
    "-m",
    "512M",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-chardev",
    "socket,id=report,fd=1",
    "-chardev",
    "socket,id=monitor,fd=0",
    "-mon",
    "chardev=monitor,mode=control",
];

/// What all kernels are told. Their check of the timer counts interrupts against the processor's
/// clock, and on a busy machine they are late: Linux panics then, if interrupts are remapped.
const PARAMETERS: &str = "console=ttyS0 panic=1 no_timer_check";

/// What a guest runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// What is added to the kernel's command line.
    pub(crate) parameters: &'a str,
    /// Options of QEMU for the machine and its devices.
    pub(crate) options: &'a [&'a str],
}

/// A guest that is up. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    qemu: Qemu,
    monitor: Monitor,
    commands: UnixStream,
    events: Receiver<anyhow::Result<Event>>,
    log: File,
    kernel: String,
}

impl Guest {
    /// Boots a guest and waits until it answers. `qemu` is the command that starts QEMU, as far
    /// as it is not about the machine.
    ///
    /// # Errors
    ///
    /// If QEMU does not start or the guest does not come up in time.
    pub(crate) fn boot(qemu: Command, machine: Machine<'_>, logs: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(logs)
            .with_context(|| format!("{} could not be created", logs.display()))?;
        let (monitor, monitor_end) = UnixStream::pair()?;
        let (commands, report_end) = UnixStream::pair()?;
        let qemu = start(qemu, machine, logs, monitor_end, report_end)?;
        let monitor = Monitor::new(monitor)?;
        let mut guest = Self {
            qemu,
            monitor,
            events: events_of(commands.try_clone()?),
            commands,
            log: File::create(logs.join("commands.log"))?,
            kernel: String::new(),
        };
        match guest
            .next_event(BOOT_TIMEOUT)
            .context("the guest did not come up")?
        {
            Event::Ready => {}
            Event::Answered(_) => bail!("the guest answered before it was ready"),
        }
        guest.kernel = guest.run("uname -r")?.success()?.stdout.trim().to_owned();
        Ok(guest)
    }

    /// Runs a line of shell and returns what became of it.
    ///
    /// # Errors
    ///
    /// If there is no answer. A command that fails is an answer.
    pub(crate) fn run(&mut self, command: &str) -> anyhow::Result<Answer> {
        writeln!(self.log, "# {command}")?;
        writeln!(self.commands, "{command}").context("the guest does not listen")?;
        let event = self.next_event(ANSWER_TIMEOUT);
        let Event::Answered(answer) = event.with_context(|| format!("`{command}`"))? else {
            bail!("the guest started again while it ran `{command}`");
        };
        let Answer {
            status,
            stdout,
            stderr,
        } = &answer;
        writeln!(self.log, "{stdout}{stderr}= {status}\n")?;
        Ok(answer)
    }

    /// Runs a command that must succeed and returns what it printed on standard output.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub(crate) fn succeed(&mut self, command: &str) -> anyhow::Result<String> {
        let answer = self.run(command)?.success();
        Ok(answer.with_context(|| format!("`{command}`"))?.stdout)
    }

    /// Runs a command that must succeed and print a JSON document.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(crate) fn json(&mut self, command: &str) -> anyhow::Result<Value> {
        let answer = self.run(command)?.success();
        let document = answer.and_then(|answer| answer.json());
        document.with_context(|| format!("`{command}`"))
    }

    /// Runs a command until `wanted` is true of the document that it prints, and returns that.
    ///
    /// # Errors
    ///
    /// If that does not happen within a minute, with the last document.
    pub(crate) fn json_until(
        &mut self,
        command: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        // A router tries a card again after seconds, and the machine may be busy.
        let answer = self.until(command, Duration::from_secs(60), |answer| {
            answer.json().is_ok_and(|document| wanted(&document))
        })?;
        answer.json()
    }

    /// Runs a command until `wanted` is true of the answer, for at least `timeout`.
    ///
    /// # Errors
    ///
    /// If that does not happen, with the last answer.
    pub(crate) fn until(
        &mut self,
        command: &str,
        timeout: Duration,
        wanted: impl Fn(&Answer) -> bool,
    ) -> anyhow::Result<Answer> {
        const PAUSE: Duration = Duration::from_millis(100);
        let mut answer = self.run(command)?;
        for _ in 0..timeout.as_millis() / PAUSE.as_millis() {
            if wanted(&answer) {
                return Ok(answer);
            }
            answer = self.run(&format!("sleep {}; {command}", PAUSE.as_secs_f64()))?;
        }
        let Answer { stdout, stderr, .. } = answer;
        bail!("after {timeout:?} `{command}` still says {stdout}{stderr}")
    }

    /// QEMU's monitor.
    pub(crate) const fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// What judges: versions of QEMU and kernel.
    pub(crate) fn versions(&self) -> String {
        format!("QEMU {}, Linux {}", self.monitor.version(), self.kernel)
    }

    fn next_event(&mut self, timeout: Duration) -> anyhow::Result<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {timeout:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.qemu.0.wait()?;
                bail!("the guest ended before it answered (QEMU: {status})")
            }
        }
    }
}

/// Ends with its owner.
#[derive(Debug)]
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(
    mut qemu: Command,
    machine: Machine<'_>,
    logs: &Path,
    monitor: UnixStream,
    report: UnixStream,
) -> anyhow::Result<Qemu> {
    let Machine {
        kernel,
        initramfs,
        parameters,
        options,
    } = machine;
    let console = logs.join("console.log");
    qemu.args(OPTIONS)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "chardev:report"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!("{PARAMETERS} {parameters}"))
        .args(options)
        .stdin(OwnedFd::from(monitor))
        .stdout(OwnedFd::from(report))
        .stderr(File::create(logs.join("qemu.log"))?);
    let child = qemu.spawn();
    // With the command go our copies of QEMU's ends: when QEMU ends, ours do.
    drop(qemu);
    Ok(Qemu(child.context("QEMU could not be started")?))
}

/// Reads reports in a thread of its own, so that waiting for one can end.
fn events_of(report: UnixStream) -> Receiver<anyhow::Result<Event>> {
    let (sender, events) = mpsc::channel();
    std::thread::spawn(move || {
        let mut parser = Parser::default();
        for line in BufReader::new(report).split(b'\n').map_while(Result::ok) {
            // Whatever bytes a command prints, they do not end the conversation.
            let event = parser.line(&String::from_utf8_lossy(&line)).transpose();
            // Nobody listens once the guest has been dropped.
            if event.is_some_and(|event| sender.send(event).is_err()) {
                return;
            }
        }
    });
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_do_not_end_the_conversation() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"1caf\xe9\n=0\n").unwrap();
        let event = events_of(ours).recv_timeout(ANSWER_TIMEOUT);
        let Event::Answered(answer) = event.unwrap().unwrap() else {
            panic!("nobody has booted");
        };
        assert_eq!(answer.stdout, "caf\u{fffd}\n");
    }
}
