//! Whatever a terminator waits for besides its clients: whoever reads what it says, and the files that
//! it reads again. Neither holds up a connection, nor a signal.

use crate::authority::Key;
use crate::backend::{self, Kind};
use crate::common::CardProcess;
use crate::operation::{
    exchange, in_file, pause, reload_until_it_still_reads, send, served, stats,
};
use crate::scarcity::{limit, refused_by_the_disk};
use crate::{Site, load};
use hwshim::telemetry::Publisher;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write as _, pipe};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// In which there is one report at least.
const MORE_THAN_A_SECOND: Duration = Duration::from_millis(2500);

/// A terminator of whose standard output only the first line is read. Dropped, it is killed.
struct Unread {
    site: Site,
    process: Child,
    address: SocketAddr,
}

impl Unread {
    /// One that writes to `stdout`, from which the other end is `reader`.
    fn start(stdout: Stdio, reader: &mut impl BufRead) -> Self {
        Self::complaining(Stdio::piped(), stdout, reader)
    }

    /// One that also writes to `stderr`, and does not wait for its connections.
    fn complaining(stderr: Stdio, stdout: Stdio, reader: &mut impl BufRead) -> Self {
        let site = Site::new();
        let command = site.command(backend::start(Kind::Echo).unwrap());
        Self::run(site, command, stderr, stdout, reader)
    }

    /// The same of `command`, which terminates for `site`.
    fn run(
        site: Site,
        mut command: Command,
        stderr: Stdio,
        stdout: Stdio,
        reader: &mut impl BufRead,
    ) -> Self {
        let process = command
            .args(["--drain-timeout", "300ms"])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let report: Value = serde_json::from_str(&line).unwrap();
        let address = report["listening"].as_str().unwrap().parse().unwrap();
        Self {
            site,
            process,
            address,
        }
    }

    fn serves(&self) {
        let mut stream = load::connect(self.address, &self.site.client()).unwrap();
        exchange(&mut stream, b"served all the same");
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }

    /// Tells it to end, and waits until it has. Returns how, and what it said.
    fn ends(mut self) -> (ExitStatus, String) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = (0..200).find_map(|_| {
            pause(Duration::from_millis(100));
            self.process.try_wait().unwrap()
        });
        let status = ended.expect("it ends when it is told to");
        let mut errors = String::new();
        if let Some(stderr) = self.process.stderr.as_mut() {
            stderr.read_to_string(&mut errors).unwrap();
        }
        (status, errors)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_reader_that_goes_ends_the_reports_and_not_the_server() {
    let (reader, writer) = pipe().unwrap();
    let mut reader = BufReader::new(reader);
    let serving = Unread::start(writer.into(), &mut reader);
    drop(reader);
    pause(MORE_THAN_A_SECOND);
    serving.serves();
    let (status, errors) = serving.ends();
    assert_eq!(status.code(), Some(0), "{errors}");
    for wanted in ["nothing more comes on standard output", "1 handshakes"] {
        assert_eq!(errors.matches(wanted).count(), 1, "{wanted}: {errors}");
    }
}

/// Returns when nothing more fits into a pipe.
fn fill(mut writer: PipeWriter) {
    let full = writer.try_clone().unwrap();
    // Never gets rid of all of it, and ends with the reader.
    std::thread::spawn(move || writer.write_all(&[b'\n'; 1 << 20]));
    let is_full = || {
        let mut ready = [PollFd::new(&full, PollFlags::OUT)];
        poll(&mut ready, Some(&Timespec::default())).unwrap() == 0
    };
    while !is_full() {
        pause(Duration::from_millis(10));
    }
}

#[test]
fn whoever_does_not_read_why_it_failed_does_not_keep_it_from_ending() {
    let (reader, writer) = pipe().unwrap();
    let (_unread, complaints) = pipe().unwrap();
    fill(complaints.try_clone().unwrap());
    let mut reader = BufReader::new(reader);
    let serving = Unread::complaining(complaints.into(), writer.into(), &mut reader);
    let mut stream = load::connect(serving.address, &serving.site.client()).unwrap();
    exchange(&mut stream, b"does not end");
    let (status, _) = serving.ends();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn whoever_does_not_read_why_it_cannot_start_does_not_keep_it_from_ending() {
    let (_unread, complaints) = pipe().unwrap();
    fill(complaints.try_clone().unwrap());
    let site = Site::new();
    let card = "vfio-user:/nowhere/card.sock";
    let _owner = Publisher::create(site.directory.path(), card).unwrap();
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    command.args(["--card", card]);
    command.stdout(Stdio::null()).stderr(complaints);
    let mut process = command.spawn().unwrap();
    let ended = (0..200).find_map(|_| {
        pause(Duration::from_millis(100));
        process.try_wait().unwrap()
    });
    // It is not to outlive the test if that has not ended.
    let _ = process.kill();
    assert_eq!(ended.and_then(|status| status.code()), Some(1));
}

#[test]
fn whoever_does_not_read_what_owners_warn_of_does_not_keep_it_from_ending() {
    let (reader, writer) = pipe().unwrap();
    let (_unread, complaints) = pipe().unwrap();
    fill(complaints.try_clone().unwrap());
    let mut reader = BufReader::new(reader);
    let site = Site::new();
    let card = CardProcess::start(site.directory.path());
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    command.args(["--card", &card.address().to_string()]);
    let command = refused_by_the_disk(&command);
    let serving = Unread::run(site, command, complaints.into(), writer.into(), &mut reader);
    let page_gets = |stale: bool| {
        (0..200).any(|_| {
            pause(Duration::from_millis(100));
            stats(&serving.site)["stale"] == stale
        })
    };
    assert!(page_gets(false), "its owner writes the page");
    limit(serving.process.id(), Resource::Fsize, Some(0));
    // Before it tries once more it warns, and nobody reads it.
    assert!(page_gets(true), "its owner has nothing to warn of");
    serving.serves();
    let (status, _) = serving.ends();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reader_that_stands_still_holds_up_neither_clients_nor_signals() {
    let (reader, writer) = pipe().unwrap();
    let mut reader = BufReader::new(reader);
    let serving = Unread::start(writer.try_clone().unwrap().into(), &mut reader);
    fill(writer);
    pause(MORE_THAN_A_SECOND);
    serving.serves();
    let (status, errors) = serving.ends();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(errors.contains("1 handshakes"), "{errors}");
}

#[test]
fn certificates_on_a_disk_that_hangs_hold_up_neither_clients_nor_signals() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let first = in_file(&site.identity.certificate);
    let renewed = site.authority.issue("new", Key::P256, "renewed").unwrap();
    // Who opens it waits until somebody writes.
    let file = &site.identity.certificate;
    fs::remove_file(file).unwrap();
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::copy(&renewed.key, &site.identity.key).unwrap();
    reload_until_it_still_reads(&serving);
    pause(Duration::from_secs(1));
    send(&serving, Signal::HUP);
    let later = |line: &str| line.contains("still being read") && !line.contains(" 0s ago");
    let told_again = (0..200).any(|_| {
        pause(Duration::from_millis(100));
        let errors = serving.wait_for_error("still being read").unwrap();
        errors.lines().any(later)
    });
    assert!(told_again, "since when it reads");
    assert_eq!(served(&site, &serving), first);

    fs::write(file, fs::read(&renewed.certificate).unwrap()).unwrap();
    serving
        .wait_for_error("1 certificates were read again")
        .unwrap();
    assert_eq!(
        served(&site, &serving),
        in_file(&renewed.certificate),
        "what came late is used"
    );

    // It is reading them once more by now, and never will have.
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
}
