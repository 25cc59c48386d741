//! The stand-in for a vendor's host service, as a process that is watched from outside.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use card_device::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Nothing here takes a second. With that, a test that hangs fails.
const PATIENT: Duration = Duration::from_secs(60);
/// Memory that other things than leaks may come to meanwhile.
const NOISE_BYTES: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-sim"));
    command.arg("service").args(arguments);
    command
}

/// A running service, killed with the test.
struct Service {
    child: Child,
    line: String,
    directory: TempDir,
    control: BufReader<UnixStream>,
}

impl Service {
    fn start(more: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name).to_str().unwrap().to_owned();
        let (socket, control) = (path("service.sock"), path("control.sock"));
        let mut child = program(&["--socket", &socket, "--control", &control])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let stream = UnixStream::connect(control).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        Self {
            child,
            line,
            directory,
            control: BufReader::new(stream),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self) -> Client<UnixStream> {
        Client::new(UnixStream::connect(self.path("service.sock")).unwrap())
    }

    /// Says a line to the control socket and returns the answer.
    fn order(&mut self, line: &str) -> Value {
        writeln!(self.control.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.control.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn ordered(&mut self, line: &str) {
        let answer = self.order(line);
        assert_eq!(answer["ok"], true, "{line}: {answer}");
    }

    fn status(&mut self) -> Value {
        self.order(r#"{"status": true}"#)["status"].take()
    }

    /// Asks for the status until it is as wanted. Every question makes the service go round its
    /// loop once, so that nothing needs to sleep here.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = clock::now() + PATIENT;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(clock::now() < deadline, "{status:#}");
        }
    }

    fn wait_for_leak(&mut self, what: &str, amount: u64) {
        self.wait_for(|status| status["leaked"][what] == amount);
    }

    fn seen(&self) -> Seen {
        Seen::of(self.child.id())
    }

    /// Waits for as many threads as `before`: of a thread that ends, the kernel wakes who joins it
    /// first, and takes it off the count of its process afterwards.
    fn wait_for_threads_of(&self, before: &Seen) {
        let deadline = clock::now() + PATIENT;
        while self.seen().threads != before.threads && clock::now() < deadline {
            thread::yield_now();
        }
    }

    fn end(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, unless it still runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client<S> {
    stream: BufReader<S>,
}

impl Client<UnixStream> {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }
}

impl<S: Read + Write> Client<S> {
    fn say(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    fn ask_lines(&mut self, line: &str) -> String {
        let first = self.ask(line);
        let count = first
            .strip_prefix("ok lines ")
            .unwrap_or_else(|| panic!("{first}"));
        let lines = (0..count.parse().unwrap()).map(|_: usize| self.hear() + "\n");
        lines.collect()
    }

    fn statistic(&mut self, path: &str) -> u64 {
        let line = self.ask_lines(&format!("stattree {path}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Whether nothing can be read, now and once `service` has gone round its loop.
fn is_silent(stream: &UnixStream, service: &mut Service) -> bool {
    service.status();
    service.status();
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 0
}

/// A process as `/proc` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    /// Resident memory that no file is behind.
    anonymous_bytes: u64,
    descriptors: usize,
    threads: u64,
    /// Listening TCP ports.
    ports: usize,
    /// Descriptors that are in no process but between two sockets of this one.
    in_flight: u64,
}

impl Seen {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let links: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        let sockets: BTreeSet<_> = links
            .iter()
            .filter_map(|link| link.strip_prefix("socket:[")?.strip_suffix(']'))
            .collect();
        let in_flight = fs::read_dir(format!("/proc/{pid}/fdinfo"))
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
            .map(|info| field(&info, "scm_fds:").unwrap_or(0));
        Self {
            anonymous_bytes: field(&status, "RssAnon:").unwrap() * 1024,
            descriptors: links.len(),
            threads: field(&status, "Threads:").unwrap(),
            ports: listening(pid)
                .iter()
                .filter(|inode| sockets.contains(inode.as_str()))
                .count(),
            in_flight: in_flight.sum(),
        }
    }

    /// With the numbers that are given in place of its own; memory by no more than noise.
    fn is_but_for(&self, before: &Self, leak: impl Fn(&mut Self)) {
        let mut expected = before.clone();
        leak(&mut expected);
        let grown = self.anonymous_bytes.abs_diff(expected.anonymous_bytes);
        assert!(grown < NOISE_BYTES, "{self:?} after {before:?}");
        expected.anonymous_bytes = self.anonymous_bytes;
        assert_eq!(*self, expected, "after {before:?}");
    }
}

/// The number behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Inodes of the listening TCP sockets of this host.
fn listening(pid: u32) -> Vec<String> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == LISTEN)
        .map(|row| row[9].to_owned())
        .collect()
}

/// Pages that TCP holds on this host.
fn tcp_pages() -> u64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap();
    let tcp = sockstat
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap();
    tcp.split_whitespace().last().unwrap().parse().unwrap()
}

/// Leaks at once all that it may. Rates are tested where time can be told.
fn leaking(fault: &str) -> Service {
    Service::start(&[
        "--leak-bytes-max",
        "32MiB",
        "--leak-objects-max",
        "50",
        "--fault",
        fault,
    ])
}

/// A service without faults but with the limits of [`leaking`], and what is seen of it.
fn healthy() -> (Service, Seen) {
    let mut service = leaking("ledger-lies");
    service.ordered(r#"{"clear": "ledger-lies"}"#);
    let seen = service.seen();
    (service, seen)
}

#[test]
fn it_answers_as_its_protocol_says() {
    let service = Service::start(&["--serial", "SIM-7"]);
    let expected = format!(
        "firmware-sim: service stand-in listening on {}, controlled through {}; stop it with \
         Ctrl-C\n",
        service.path("service.sock").display(),
        service.path("control.sock").display(),
    );
    assert_eq!(service.line, expected);
    let mut client = service.client();
    assert_eq!(client.ask("open"), "ok session 1");
    assert_eq!(client.ask("kat 1"), "ok kat ecdsa-p256-sha256 passed");
    assert_eq!(client.ask("close 1"), "ok closed 1");
    assert_eq!(
        client.ask("kat 1"),
        "error no-session there is no session 1"
    );
    assert_eq!(
        client.ask("open 2"),
        "error no-module there is no module 2, only 1"
    );
    assert!(client.ask("opne").ends_with("did you mean `open`?"));
    assert!(client.ask("stattree Nothing").starts_with("error no-node"));
    let enquiry = client.ask_lines("enquiry");
    assert!(
        enquiry.starts_with("Server:\n enquiry reply flags  none\n"),
        "{enquiry}"
    );
    assert!(enquiry.contains("Module #1:\n"), "{enquiry}");
    assert!(
        client
            .ask_lines("stattree")
            .starts_with("+ServerGlobals:\n   -Uptime ")
    );
    assert_eq!(
        client.statistic("PerModule 1 ModuleObjStats ObjectsCreated"),
        1
    );
    assert_eq!(
        client.statistic("PerModule 1 ModuleObjStats ObjectCount"),
        0
    );
    assert_eq!(client.statistic("PerModule 1 ModuleJobStats CmdCount"), 5);
    assert_eq!(client.ask("quit"), "ok bye");
    assert_eq!(client.hear(), "", "the connection has ended");
}

#[test]
fn what_is_sent_at_once_is_answered_in_order_and_before_the_end() {
    let service = Service::start(&[]);
    let mut client = service.client();
    client.say("open\nkat 1\nstattree ServerGlobals ClientCount\nclose 1");
    client
        .stream
        .get_ref()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    let mut answers = String::new();
    client.stream.read_to_string(&mut answers).unwrap();
    let expected = "ok session 1\nok kat ecdsa-p256-sha256 passed\nok lines 1\n\
                    -ClientCount          1\nok closed 1\n";
    assert_eq!(answers, expected);
}

#[test]
fn it_listens_on_loopback_when_asked_to() {
    let service = Service::start(&["--tcp", "0"]);
    let (_, address) = service.line.split_once(" and ").unwrap();
    let (address, _) = address.split_once(',').unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    let mut client = Client {
        stream: BufReader::new(stream),
    };
    assert_eq!(client.ask("open"), "ok session 1");
}

#[test]
fn clients_are_of_the_group_and_control_is_the_owners() {
    let service = Service::start(&[]);
    for (name, expected) in [("service.sock", 0o660), ("control.sock", 0o600)] {
        let mode = fs::metadata(service.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, expected, "{name}");
    }
}

#[test]
fn it_ends_orderly_with_all_its_leaks() {
    let mut service = leaking("leak-threads=1000000/s");
    service.ordered(r#"{"inject": "workers-exhausted"}"#);
    service.wait_for_leak("threads", 50);
    let pid = Pid::from_child(&service.child);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    assert!(!service.path("service.sock").exists() && !service.path("control.sock").exists());
}

#[test]
fn a_heap_leak_is_seen_in_resident_memory_and_nowhere_else() {
    let (mut service, before) = healthy();
    service.ordered(r#"{"inject": "leak-heap", "rate": "64GiB/s"}"#);
    service.wait_for_leak("heap_bytes", 32 * MIB);
    let grown = |seen: &mut Seen| seen.anonymous_bytes += 32 * MIB;
    service.seen().is_but_for(&before, grown);
    service.ordered(r#"{"clear": "leak-heap"}"#);
    service.seen().is_but_for(&before, grown);
    service.ordered(r#"{"clear": "leak-heap", "free": true}"#);
    service.seen().is_but_for(&before, |_| {});
}

#[test]
fn a_kernel_leak_through_pipes_is_held_between_sockets_where_no_descriptor_shows_it() {
    let (mut service, before) = healthy();
    service.ordered(r#"{"inject": "leak-kernel", "rate": "64GiB/s"}"#);
    service.wait_for_leak("kernel_bytes", 32 * MIB);
    let after = service.seen();
    assert!(
        after.in_flight >= 31,
        "a pipe holds no more than 1 MiB: {after:?}"
    );
    // A pair of sockets, and a pipe that may still take something.
    assert!(after.descriptors <= before.descriptors + 4, "{after:?}");
    after.is_but_for(&before, |seen| {
        seen.descriptors = after.descriptors;
        seen.in_flight = after.in_flight;
    });
    service.ordered(r#"{"clear": "leak-kernel", "free": true}"#);
    service.seen().is_but_for(&before, |_| {});
}

#[test]
fn a_kernel_leak_through_sockets_is_seen_in_the_memory_of_tcp() {
    let is_seen = (0..3).any(|_| {
        let (mut service, before) = healthy();
        let pages = tcp_pages();
        service.ordered(r#"{"inject": "leak-kernel", "rate": "64GiB/s", "via": "sockets"}"#);
        service.wait_for_leak("kernel_bytes", 32 * MIB);
        let is_seen = tcp_pages() >= pages + 32 * MIB / 4096 * 3 / 4;
        let after = service.seen();
        assert!(after.descriptors <= before.descriptors + 4, "{after:?}");
        after.is_but_for(&before, |seen| {
            seen.descriptors = after.descriptors;
            seen.in_flight = after.in_flight;
        });
        is_seen
    });
    // Others on this host may have given some back meanwhile, but not each time.
    assert!(is_seen);
}

#[test]
fn descriptors_threads_and_ports_leak_each_alone_and_come_back_when_freed() {
    type Grow = fn(&mut Seen);
    let cases: [(&str, &str, &str, Grow); 3] = [
        (
            "leak-descriptors",
            r#""rate": "9999999/s""#,
            "descriptors",
            |seen| seen.descriptors += 50,
        ),
        (
            "leak-threads",
            r#""rate": "9999999/s""#,
            "threads",
            |seen| seen.threads += 50,
        ),
        (
            "leak-while-absent",
            r#""rate": "9999999/s", "what": "ports""#,
            "ports",
            |seen| {
                seen.descriptors += 50;
                seen.ports += 50;
            },
        ),
    ];
    let (mut service, before) = healthy();
    service.ordered(r#"{"card": "absent"}"#);
    for (fault, parameters, what, leak) in cases {
        service.ordered(&format!(r#"{{"inject": "{fault}", {parameters}}}"#));
        service.wait_for_leak(what, 50);
        service.seen().is_but_for(&before, leak);
        service.ordered(&format!(r#"{{"clear": "{fault}", "free": true}}"#));
        service.wait_for_threads_of(&before);
        service.seen().is_but_for(&before, |_| {});
    }
}

#[test]
fn ports_leak_on_failed_opens_and_not_on_others() {
    let mut service = leaking("leak-ports-on-failure=3");
    let mut client = service.client();
    client.ask_lines("stattree");
    let before = service.seen();
    for session in 1..=4 {
        assert_eq!(client.ask("open"), format!("ok session {session}"));
        client.ask(&format!("close {session}"));
    }
    service.seen().is_but_for(&before, |_| {});
    client.ask("open 2");
    service.ordered(r#"{"card": "absent"}"#);
    assert_eq!(client.ask("open"), "error no-card the card is absent");
    service.seen().is_but_for(&before, |seen| {
        seen.descriptors += 6;
        seen.ports += 6;
    });
    assert_eq!(service.status()["opens_failed"], 2);
}

#[test]
fn it_leaks_while_the_card_is_absent_and_stops_when_it_is_back() {
    let mut service = leaking("leak-while-absent=1/failed-open,what=descriptors");
    let mut client = service.client();
    client.ask("open 2");
    assert_eq!(service.status()["leaked"]["descriptors"], 0);
    service.ordered(r#"{"card": "absent"}"#);
    client.ask("open");
    assert_eq!(service.status()["leaked"]["descriptors"], 1);
    service.ordered(r#"{"card": "present"}"#);
    assert_eq!(client.ask("open"), "ok session 1");
    client.ask("open 2");
    assert_eq!(service.status()["leaked"]["descriptors"], 1);
}

#[test]
fn a_simulated_card_is_there_while_it_runs_and_is_not_disturbed() {
    let directory = TempDir::new().unwrap();
    let card_socket = directory.path().join("card.sock");
    let link = format!("vfio-user:{}", card_socket.display());
    let mut service = Service::start(&["--card", &link]);
    let mut client = service.client();
    assert_eq!(client.ask("open"), "error no-card the card is absent");
    assert!(!client.ask_lines("enquiry").contains("Module"));
    let mut card = Command::new(env!("CARGO_BIN_EXE_firmware-sim"))
        .args(["run", "--socket", card_socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(card.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(client.ask("open"), "ok session 1");
    // Its only place for a client is still free.
    let driver = UnixStream::connect(&card_socket).unwrap();
    drop(driver);
    card.kill().unwrap();
    card.wait().unwrap();
    assert!(
        card_socket.exists(),
        "a card that was killed leaves its socket behind"
    );
    assert_eq!(client.ask("kat 1"), "error no-card the card is absent");
    service.wait_for(|status| status["card_is_present"] == false);
    assert_eq!(client.statistic("ServerGlobals DeviceFails"), 1);
    assert_eq!(client.statistic("ServerGlobals DeviceRestarts"), 1);
}

#[test]
fn a_crash_is_an_abort_that_leaves_everything_lying_about() {
    let mut service = Service::start(&["--fault", "crash=2"]);
    let socket = service.path("service.sock");
    let mut client = service.client();
    assert_eq!(client.ask("open"), "ok session 1");
    assert_eq!(client.ask("kat 1"), "", "it did not come to an answer");
    assert_eq!(
        service.child.wait().unwrap().signal(),
        Some(Signal::ABORT.as_raw())
    );
    assert!(socket.exists());
    assert_eq!(
        UnixStream::connect(&socket).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );

    let mut service = Service::start(&[]);
    writeln!(service.control.get_mut(), r#"{{"inject": "crash"}}"#).unwrap();
    assert_eq!(service.end().signal(), Some(Signal::ABORT.as_raw()));
}

#[test]
fn a_hung_service_accepts_and_answers_nothing_until_that_is_cleared() {
    let mut service = Service::start(&[]);
    let mut before = service.client();
    assert_eq!(before.ask("open"), "ok session 1");
    service.ordered(r#"{"inject": "hang-after-accept"}"#);
    let mut after = service.client();
    after.say("open");
    before.say("close 1");
    service.wait_for(|status| status["clients"] == 2);
    assert!(is_silent(after.stream.get_ref(), &mut service));
    assert!(is_silent(before.stream.get_ref(), &mut service));
    service.ordered(r#"{"clear": "hang-after-accept"}"#);
    assert_eq!(before.hear(), "ok closed 1");
    assert_eq!(after.hear(), "ok session 2");
}

#[test]
fn a_service_that_refuses_still_serves_whoever_is_there() {
    let mut service = Service::start(&["--tcp", "0"]);
    let (_, address) = service.line.split_once(" and ").unwrap();
    let address = address.split_once(',').unwrap().0.to_owned();
    let mut client = service.client();
    client.ask("open");
    service.ordered(r#"{"inject": "refuse"}"#);
    let socket = service.path("service.sock");
    assert!(socket.exists());
    let refused = [
        UnixStream::connect(&socket).unwrap_err(),
        TcpStream::connect(&address).unwrap_err(),
    ];
    assert_eq!(
        refused.map(|error| error.kind()),
        [ErrorKind::ConnectionRefused; 2]
    );
    assert_eq!(client.ask("close 1"), "ok closed 1");
    service.ordered(r#"{"clear": "refuse"}"#);
    assert_eq!(service.client().ask("open"), "ok session 2");
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    drop(TcpStream::connect(&address).unwrap());
}

#[test]
fn a_service_that_cannot_listen_again_says_so_and_does_when_it_can() {
    let mut service = Service::start(&["--tcp", "0"]);
    let pid = Pid::from_child(&service.child);
    let few = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    service.ordered(r#"{"inject": "refuse"}"#);
    service.ordered(r#"{"inject": "leak-descriptors", "rate": "9999999/s"}"#);
    service.wait_for(|status| status["faults"][0]["trouble"].is_string());
    service.ordered(r#"{"clear": "refuse"}"#);
    let status = service.wait_for(|status| status["faults"][1]["fault"] == "refuse");
    let trouble = status["faults"][1]["trouble"].as_str().unwrap();
    assert!(trouble.contains("Too many open files"), "{trouble}");
    service.ordered(r#"{"clear": "leak-descriptors", "free": true}"#);
    service.wait_for(|status| status["faults"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(service.client().ask("open"), "ok session 1");
}

#[test]
fn a_stalled_accept_loop_lets_clients_wait_who_are_connected() {
    let mut service = Service::start(&["--fault", "accept-stall=1h"]);
    let mut client = service.client();
    client.say("open");
    assert!(is_silent(client.stream.get_ref(), &mut service));
    assert_eq!(service.status()["clients"], 0);
    service.ordered(r#"{"inject": "accept-stall", "every": "1ms"}"#);
    assert_eq!(client.hear(), "ok session 1");
    let mut another = service.client();
    assert_eq!(another.ask("open"), "ok session 2");
}

#[test]
fn with_all_workers_stuck_requests_wait_and_statistics_are_answered() {
    let mut service = Service::start(&["--workers", "2", "--fault", "workers-exhausted"]);
    let mut clients = [service.client(), service.client(), service.client()];
    for client in &mut clients {
        client.say("open");
    }
    let mut watcher = service.client();
    let outstanding = "PerModule 1 ModuleServerStats JobsOutstanding";
    let deadline = clock::now() + PATIENT;
    while watcher.statistic(outstanding) < 3 {
        assert!(clock::now() < deadline);
    }
    for client in &clients {
        assert!(is_silent(client.stream.get_ref(), &mut service));
    }
    service.ordered(r#"{"clear": "workers-exhausted"}"#);
    for client in &mut clients {
        assert!(client.hear().starts_with("ok session "));
    }
    assert_eq!(watcher.statistic(outstanding), 0);
}

#[test]
fn a_service_that_has_wrong_things_computed_fails_its_known_answer_test_and_goes_on() {
    let mut service = Service::start(&["--fault", "wrong-answer"]);
    let mut client = service.client();
    let opened = client.ask("open");
    let session = opened.trim().strip_prefix("ok session ").unwrap();
    let kat = format!("kat {session}");
    let failed = "error kat-failed the signature is not that of the test";
    assert_eq!(client.ask(&kat).trim(), failed);
    service.ordered(r#"{"clear": "wrong-answer"}"#);
    assert_eq!(client.ask(&kat).trim(), "ok kat ecdsa-p256-sha256 passed");
}

#[test]
fn a_lying_ledger_hides_what_the_kernel_shows() {
    let mut service = leaking("leak-descriptors=9999999/s");
    let mut client = service.client();
    client.ask("open");
    service.wait_for_leak("descriptors", 50);
    let objects = "PerModule 1 ModuleObjStats ObjectCount";
    assert_eq!(client.statistic(objects), 51);
    let descriptors = service.seen().descriptors;
    service.ordered(r#"{"inject": "ledger-lies"}"#);
    assert_eq!(client.statistic(objects), 1);
    assert_eq!(service.seen().descriptors, descriptors);
    assert_eq!(
        service.status()["leaked"]["descriptors"],
        50,
        "control is told the truth"
    );
}

#[test]
fn a_rate_is_of_the_time_that_passes_for_the_service() {
    // As fast as the host's it would take twenty minutes.
    let mut service = Service::start(&["--speed", "1000", "--fault", "leak-descriptors=1/min"]);
    service.wait_for(|status| status["leaked"]["descriptors"].as_u64() >= Some(20));
}

#[test]
fn a_leak_into_the_limit_of_descriptors_is_reported_and_survived() {
    let mut service = Service::start(&[]);
    let pid = Pid::from_child(&service.child);
    let few = Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    prlimit(Some(pid), Resource::Nofile, few).unwrap();
    service.ordered(r#"{"inject": "leak-descriptors", "rate": "9999999/s"}"#);
    let status = service.wait_for(|status| status["faults"][0]["trouble"].is_string());
    let trouble = status["faults"][0]["trouble"].as_str().unwrap();
    assert!(trouble.contains("Too many open files"), "{trouble}");
    // A client is not accepted, and is when there is room again.
    let mut client = service.client();
    client.say("open");
    assert!(is_silent(client.stream.get_ref(), &mut service));
    service.ordered(r#"{"clear": "leak-descriptors", "free": true}"#);
    assert_eq!(client.hear(), "ok session 1");
}

#[test]
fn wrong_orders_change_nothing_and_are_told_what_would_be_right() {
    let mut service = Service::start(&[]);
    let cases = [
        (
            r#"{"inject": "leak-hep", "rate": "1/s"}"#,
            "did you mean `leak-heap`?",
        ),
        (
            r#"{"inject": "leak-heap", "rate": "1/fortnight"}"#,
            "not `1/fortnight`",
        ),
        (r#"{"clear": "leak-heap"}"#, "leak-heap is not on"),
        ("leak-heap", "not a JSON object"),
    ];
    for (line, expected) in cases {
        let answer = service.order(line);
        assert_eq!(answer["ok"], false, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(service.status()["faults"], serde_json::json!([]));
}

#[test]
fn bytes_that_mean_nothing_end_a_connection_and_nothing_else() {
    let mut service = Service::start(&[]);
    let mut client = service.client();
    assert!(
        client
            .ask("\u{0}\u{7f}\t \u{fffd}")
            .starts_with("error unknown-command")
    );
    client.stream.get_mut().write_all(&[b'x'; 8192]).unwrap();
    assert_eq!(
        client.hear(),
        "error line-too-long a line has at most 4096 bytes"
    );
    let mut controller = UnixStream::connect(service.path("control.sock")).unwrap();
    controller.write_all(&[b'{'; 8192]).unwrap();
    controller.set_read_timeout(Some(PATIENT)).unwrap();
    let mut answer = String::new();
    BufReader::new(controller).read_line(&mut answer).unwrap();
    assert!(answer.contains("a line has at most 4096 bytes"), "{answer}");
    assert_eq!(service.status()["clients"], 0);
    assert_eq!(service.client().ask("open"), "ok session 1");
}

fn output(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

#[test]
fn the_command_line_is_explained_and_its_mistakes_are_named() {
    let help = String::from_utf8(output(&["--help"]).stdout).unwrap();
    for entry in firmware_sim::service::ServiceFault::catalogue() {
        assert!(help.contains(entry.name), "{}", entry.name);
        assert!(help.contains(entry.summary), "{}", entry.summary);
    }
    assert!(help.contains("Exit codes:"));
    let cases = [
        (["--fault", "leak-hep=1/s"], "did you mean `leak-heap`?"),
        (["--fault", "leak-heap"], "leak-heap needs `rate`"),
        (
            ["--card", "gone"],
            "must be present, absent or vfio-user:PATH",
        ),
        (
            ["--leak-bytes-max", "much"],
            "must be a number of bytes such as 4096",
        ),
        (["--workers", "0"], "--workers"),
    ];
    for (arguments, expected) in cases {
        let output = output(&[&["--socket", "unused.sock"], &arguments[..]].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let output = output(&["--socket", "/dev/null"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.contains("/dev/null exists and is not a socket"),
        "{message}"
    );
}
