//! Plays a scenario's part for the host service, beside a card and in a process of its own.
//!
//! Starts the [stand-in](crate::service), tells it by the card's own time which faults it has and
//! whether there is a card, and is its client where the scenario wants one. What the service then
//! does is not decided here; the part for the host is played by nobody.
//!
//! ```text
//!   firmware-sim run                                 firmware-sim service
//!     script of the card: the time, the slot             |
//!        |                                               |
//!     director -------- orders, one line each -----> control socket
//!        |  `---------- opens that fail -----------> socket
//!        `<------------ end of its output ----------- it has ended: said, and the card goes on
//!
//!   the card stops       SIGTERM, a while to end in, SIGKILL
//!   the card is killed   the kernel sends SIGTERM: parent-death signal
//! ```

use crate::fault::{Fault, Record, SharedScript};
use crate::scenario::{ServicePart, TimedFault};
use crate::service::control::Order;
use crate::service::{CardLink, ServiceFault};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdout, Command, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// How often the script is looked at, in time of the host: nothing is told later than this.
const TICK: Duration = Duration::from_millis(5);
/// How long the service may take to answer an order.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// There is no service beside the card.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectorError {
    /// The operating system started no process.
    #[error("{} could not be started as the scenario's service", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It has ended before it listened.
    #[error("the scenario's service could not start; it says why above")]
    Ended,
    /// It listens and cannot be reached, or there is nobody to tell it anything.
    #[error("the scenario's service cannot be directed")]
    Unreachable(#[source] io::Error),
}

/// The stand-in service of a scenario, which ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    process: Process,
    socket: PathBuf,
    orders: Orders,
}

/// Where a service takes orders, and the connection to it.
#[derive(Debug)]
struct Orders {
    control: PathBuf,
    /// How long an answer may take.
    timeout: Duration,
    /// None after an answer that did not come: it would be taken for the next one's.
    stream: Option<BufReader<UnixStream>>,
}

impl StandIn {
    /// Starts `program`, which is `firmware-sim`, as the service of the card on `card_socket`, and
    /// returns once it listens: on that path with `.service` after it, and takes orders on that
    /// with `.control`. Its time passes `speed` times as fast as the host's.
    ///
    /// It ends with the thread that calls this, at the latest.
    ///
    /// # Errors
    ///
    /// See [`DirectorError`].
    pub fn start(
        program: &Path,
        card_socket: &Path,
        serial: &str,
        speed: f64,
    ) -> Result<Self, DirectorError> {
        let socket = with_suffix(card_socket, ".service");
        let control = with_suffix(&socket, ".control");
        let mut command = Command::new(program);
        command.args(["service", "--parent", &process::id().to_string()]);
        command.arg("--socket").arg(&socket);
        command.arg("--control").arg(&control);
        command.args(["--serial", serial, "--speed", &speed.to_string()]);
        let mut process = Process::start(command).map_err(|source| DirectorError::Start {
            program: program.to_owned(),
            source,
        })?;
        if !process.says_a_line() {
            return Err(DirectorError::Ended);
        }
        let mut orders = Orders::new(control, ANSWER_TIMEOUT);
        orders.connect().map_err(DirectorError::Unreachable)?;
        Ok(Self {
            process,
            socket,
            orders,
        })
    }

    /// The ID of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Where clients reach it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it takes orders, of others as well.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.orders.control
    }

    /// Has it play `part` by the time of `script` while `card` runs, and ends it after that.
    ///
    /// # Errors
    ///
    /// [`DirectorError::Unreachable`] if there is no thread for that; then `card` is not run.
    pub fn play_while<T>(
        mut self,
        part: &ServicePart,
        script: &SharedScript,
        card: impl FnOnce() -> T,
    ) -> Result<T, DirectorError> {
        let (over, running) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| DirectorError::Unreachable(errno.into()))?;
        thread::scope(|scope| {
            thread::Builder::new()
                .name("director".to_owned())
                .spawn_scoped(scope, || self.direct(part, script, over.as_fd()))
                .map_err(DirectorError::Unreachable)?;
            let outcome = card();
            drop(running);
            Ok(outcome)
        })
    }

    /// Tells it what is due until `over` hangs up or it has ended.
    fn direct(&mut self, part: &ServicePart, script: &SharedScript, over: BorrowedFd<'_>) {
        let mut caller = Caller::new(part);
        let mut told = None;
        let mut card_was_present = true;
        loop {
            match self.process.wait(Some(over), TICK) {
                Event::Over => return,
                Event::Ended => {
                    let how = self.process.child.wait();
                    let how = how.map_or_else(|error| error.to_string(), |how| how.to_string());
                    say(&format!(
                        "the service has ended ({how}); the card goes on without it"
                    ));
                    return;
                }
                Event::Nothing => {}
            }
            let (now, moves) = {
                let script = script.lock().unwrap_or_else(PoisonError::into_inner);
                let (now, is_present) = (script.now(), script.card_is_present());
                let moves = moves(script.record(), told, card_was_present, now, is_present);
                card_was_present = is_present;
                (now, moves)
            };
            let cards = moves.into_iter().map(|(at, is_present)| {
                let card = match is_present {
                    true => CardLink::Present,
                    false => CardLink::Absent,
                };
                (at, Order::Card(card))
            });
            let mut orders: Vec<_> = cards.chain(due(&part.faults, told, now)).collect();
            orders.sort_by_key(|(at, _)| *at);
            for (_, order) in &orders {
                self.order(order);
            }
            told = Some(now);
            caller.call(&self.socket, now);
        }
    }

    /// Gives an order, and says so if it is not followed: somebody else may have been faster.
    fn order(&mut self, order: &Order) {
        match self.orders.ask(&order.to_string()) {
            Ok(answer) if answer["ok"] == true => {}
            Ok(answer) => say(&format!(
                "the service has not followed {order}: {}",
                answer["error"].as_str().unwrap_or("it does not say why")
            )),
            // One that has ended, as it may have been told to, is spoken of when that is noticed.
            Err(_) if self.process.has_ended() => {}
            Err(error) => say(&format!("the service did not answer {order}: {error}")),
        }
    }
}

/// When the card left its slot and came back between `told` and `now`, of which it is known whether
/// it was there: however short that was, it is on record.
fn moves(
    records: &[Record],
    told: Option<Duration>,
    was_present: bool,
    now: Duration,
    is_present: bool,
) -> Vec<(Duration, bool)> {
    let removals = || {
        let records = records.iter();
        records.filter(|record| record.fault == Fault::SurpriseRemoval)
    };
    let is_away = |at: Duration| {
        removals().any(|record| {
            record.last_acted_at.is_some_and(|began| began <= at)
                && record.cleared_at.is_none_or(|over| at < over)
        })
    };
    let times = removals().filter(|record| record.times > 0);
    let times = times.flat_map(|record| [record.last_acted_at, record.cleared_at]);
    let mut times: Vec<_> = times
        .flatten()
        .filter(|at| is_due(*at, told, now))
        .collect();
    times.sort_unstable();
    let mut moves: Vec<_> = times.into_iter().map(|at| (at, !is_away(at))).collect();
    moves.push((now, is_present));
    let mut before = was_present;
    moves.retain(|(_, is_present)| std::mem::replace(&mut before, *is_present) != *is_present);
    moves
}

/// Whether something is after `told`, or from the start on, up to and including `now`.
fn is_due(at: Duration, told: Option<Duration>, now: Duration) -> bool {
    at <= now && told.is_none_or(|told| told < at)
}

/// What is due of a service's faults, oldest first, and when it was.
fn due(
    faults: &[TimedFault<ServiceFault>],
    told: Option<Duration>,
    now: Duration,
) -> Vec<(Duration, Order)> {
    let is_due = |at: Duration| is_due(at, told, now);
    let mut due = Vec::new();
    for (index, timed) in faults.iter().enumerate() {
        if is_due(timed.at) {
            due.push((timed.at, Order::Inject(timed.fault)));
        }
        if let Some(end) = timed.end().filter(|end| is_due(*end)) {
            due.extend(at_the_end(faults, index, end).map(|order| (end, order)));
        }
    }
    due.sort_by_key(|(at, _)| *at);
    due
}

/// What the end of a fault means. Of one name there is one at a time: one that began later has
/// replaced it, and one that began before it and is still on comes back.
fn at_the_end(faults: &[TimedFault<ServiceFault>], index: usize, end: Duration) -> Option<Order> {
    let name = faults[index].fault.name();
    let began = |index: usize| (faults[index].at, index);
    let same = || (0..faults.len()).filter(|&other| faults[other].fault.name() == name);
    // Of those that end together, the one that began last says so.
    let is_replaced = same().any(|other| {
        let until = faults[other].end().unwrap_or(Duration::MAX);
        began(other) > began(index) && faults[other].at <= end && until >= end
    });
    if is_replaced {
        return None;
    }
    let before = same()
        .filter(|&other| faults[other].is_on(end))
        .max_by_key(|&other| began(other));
    Some(match before {
        Some(before) => Order::Inject(faults[before].fault),
        None => Order::Clear {
            fault: Some(name.to_owned()),
            free: false,
        },
    })
}

/// A client that opens what there is not, as often as it should.
#[derive(Debug)]
struct Caller {
    period: Option<Duration>,
    next: Duration,
    stream: Option<UnixStream>,
}

impl Caller {
    fn new(part: &ServicePart) -> Self {
        let rate = part.failed_opens_per_second;
        Self {
            period: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: Duration::ZERO,
            stream: None,
        }
    }

    /// Does what is due by `now`. A service that hangs, refuses or has gone is asked again at the
    /// next time: what it leaks is of interest here, not what it answers.
    fn call(&mut self, socket: &Path, now: Duration) {
        /// There is one module, the first.
        const OPEN: &[u8] = b"open 2\n";
        /// Whoever lets hours pass at once gets no more than this many.
        const CALLS_MAX: usize = 100;
        let Some(period) = self.period else { return };
        for _ in 0..CALLS_MAX {
            if self.next > now {
                return;
            }
            self.next = self.next.saturating_add(period);
            if self.stream.is_none() {
                self.stream = UnixStream::connect(socket).ok();
            }
            let Some(stream) = &self.stream else { continue };
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let is_sent = send(stream, OPEN, flags).is_ok_and(|len| len == OPEN.len());
            let is_there = match recv(stream, &mut [0; 4096][..], RecvFlags::DONTWAIT) {
                Ok((_, len)) => len > 0,
                Err(errno) => errno == Errno::AGAIN,
            };
            if !is_sent || !is_there {
                self.stream = None;
            }
        }
        self.next = self.next.max(now);
    }
}

/// A process that ends when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Of which nothing is read but one line: its end is that of the process.
    output: ChildStdout,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Event {
    Over,
    Ended,
    Nothing,
}

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Out of the terminal's foreground group: Ctrl-C is for the card alone.
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().expect("its output is a pipe");
        Ok(Self { child, output })
    }

    /// Waits until it has said something, and returns whether it has.
    fn says_a_line(&mut self) -> bool {
        let mut line = String::new();
        let len = BufReader::new(&mut self.output).read_line(&mut line);
        len.is_ok_and(|len| len > 0)
    }

    fn wait(&self, over: Option<BorrowedFd<'_>>, timeout: Duration) -> Event {
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.output.as_fd(),
            PollFlags::empty(),
        )];
        fds.extend(over.map(|over| PollFd::from_borrowed_fd(over, PollFlags::IN)));
        let timeout = Timespec::try_from(timeout).expect("timeouts here are short");
        // What interrupts is a signal that has its own way to tell.
        let _ = poll(&mut fds, Some(&timeout));
        if fds.get(1).is_some_and(|over| !over.revents().is_empty()) {
            Event::Over
        } else if !fds[0].revents().is_empty() {
            Event::Ended
        } else {
            Event::Nothing
        }
    }

    fn has_ended(&self) -> bool {
        self.wait(None, Duration::ZERO) == Event::Ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It has not been waited for, so the ID is still its own.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            if self.wait(None, END_TIMEOUT) != Event::Ended {
                say("the service does not end by itself, and is killed");
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}

/// Has this process end, orderly, when process `parent` does, whichever way that ends. Returns
/// whether it is still there.
///
/// # Errors
///
/// If the kernel does not do that.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // One that ended before the line above sends no signal any more.
    let found = getppid().map(|parent| parent.as_raw_nonzero().get());
    Ok(found.and_then(|pid| u32::try_from(pid).ok()) == Some(parent))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
}

impl Orders {
    const fn new(control: PathBuf, timeout: Duration) -> Self {
        Self {
            control,
            timeout,
            stream: None,
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        let stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        self.stream = Some(BufReader::new(stream));
        Ok(())
    }

    /// Gives an order, and returns what is answered to it and to no other.
    fn ask(&mut self, line: &str) -> io::Result<serde_json::Value> {
        if self.stream.is_none() {
            self.connect()?;
        }
        let mut stream = self.stream.take().expect("it is connected");
        writeln!(stream.get_mut(), "{line}")?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        let answer = serde_json::from_str(&answer)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

fn say(what: &str) {
    // With nowhere to say it, the card goes on all the same.
    let _ = writeln!(io::stderr(), "firmware-sim: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Injection, Script, Trigger};
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;

    const SECOND: Duration = Duration::from_secs(1);

    fn timed(fault: &str, at: u32, lasting: Option<u32>) -> TimedFault<ServiceFault> {
        TimedFault {
            fault: fault.parse().unwrap(),
            at: at * SECOND,
            lasting: lasting.map(|lasting| lasting * SECOND),
        }
    }

    fn due(
        faults: &[TimedFault<ServiceFault>],
        told: Option<Duration>,
        now: Duration,
    ) -> Vec<Order> {
        let due = super::due(faults, told, now).into_iter();
        due.map(|(_, order)| order).collect()
    }

    #[test]
    fn an_absence_of_the_card_is_told_however_short_it_was() {
        let mut script = Script::new(1);
        for (at, lasting) in [(1, 9), (3, 4), (12, 1)] {
            let trigger = Trigger::at(at * SECOND).lasting(lasting * SECOND);
            let fault = Fault::SurpriseRemoval;
            script.add(Injection { fault, trigger });
        }
        let mut told = None;
        let mut was_present = true;
        let mut moved = Vec::new();
        // Between two looks it goes and comes back, or one absence is within another.
        for second in [0, 5, 11, 20] {
            let now = second * SECOND;
            script.advance(now);
            let is_present = script.card_is_present();
            moved.extend(moves(script.record(), told, was_present, now, is_present));
            (told, was_present) = (Some(now), is_present);
        }
        let moved: Vec<_> = moved
            .iter()
            .map(|(at, there)| (at.as_secs(), *there))
            .collect();
        assert_eq!(moved, [(1, false), (10, true), (12, false), (13, true)]);
    }

    fn inject(fault: &str) -> Order {
        Order::Inject(fault.parse().unwrap())
    }

    fn clear(name: &str) -> Order {
        Order::Clear {
            fault: Some(name.to_owned()),
            free: false,
        }
    }

    #[test]
    fn a_fault_is_told_at_its_time_and_cleared_at_its_end_and_each_once() {
        let faults = [
            timed("leak-heap=1MiB/s", 10, Some(5)),
            timed("refuse", 0, None),
        ];
        let mut told = None;
        let mut orders = Vec::new();
        for second in [0, 0, 9, 10, 10, 14, 15, 15, 1000] {
            let now = second * SECOND;
            orders.extend(
                due(&faults, told, now)
                    .into_iter()
                    .map(|order| (second, order)),
            );
            told = Some(now);
        }
        let expected = [
            (0, inject("refuse")),
            (10, inject("leak-heap=1MiB/s")),
            (15, clear("leak-heap")),
        ];
        assert_eq!(orders, expected);
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_order() {
        let directory = TempDir::new().unwrap();
        let control = directory.path().join("control.sock");
        let listener = UnixListener::bind(&control).unwrap();
        let mut orders = Orders::new(control, Duration::from_millis(50));
        orders.connect().unwrap();
        let (mut first, _) = listener.accept().unwrap();
        first.write_all(b"{\"answers\": ").unwrap();
        orders.ask("first").unwrap_err();
        // It may be that nobody hears the end of it.
        let _ = first.write_all(b"\"first\"}\n");
        // Who is not asked waits for ever, so nobody waits for it.
        thread::spawn(move || {
            let (mut second, _) = listener.accept().unwrap();
            second.write_all(b"{\"answers\": \"second\"}\n").unwrap();
            let _ = io::copy(&mut second, &mut io::sink());
        });
        assert_eq!(orders.ask("second").unwrap()["answers"], "second");
    }

    #[test]
    fn what_was_slept_through_is_told_in_the_order_in_which_it_was_due() {
        let faults = [
            timed("leak-heap=1MiB/s", 10, Some(20)),
            timed("refuse", 5, Some(10)),
        ];
        let expected = [
            inject("refuse"),
            inject("leak-heap=1MiB/s"),
            clear("refuse"),
            clear("leak-heap"),
        ];
        assert_eq!(due(&faults, Some(4 * SECOND), 60 * SECOND), expected);
    }

    #[test]
    fn the_end_of_a_fault_is_not_that_of_the_one_that_has_replaced_it() {
        let faults = [
            timed("leak-heap=1MiB/s", 0, Some(10)),
            timed("leak-heap=2MiB/s", 10, Some(10)),
        ];
        let at_ten = due(&faults, Some(9 * SECOND), 10 * SECOND);
        assert_eq!(at_ten, [inject("leak-heap=2MiB/s")]);
        let at_twenty = due(&faults, Some(10 * SECOND), 20 * SECOND);
        assert_eq!(at_twenty, [clear("leak-heap")]);
    }

    #[test]
    fn a_fault_that_was_replaced_for_a_while_comes_back() {
        let faults = [
            timed("leak-heap=1MiB/s", 0, None),
            timed("leak-heap=2MiB/s", 5, Some(5)),
        ];
        let at_ten = due(&faults, Some(9 * SECOND), 10 * SECOND);
        assert_eq!(at_ten, [inject("leak-heap=1MiB/s")]);
        assert_eq!(due(&faults, Some(10 * SECOND), 60 * SECOND), []);
    }

    #[test]
    fn of_faults_that_end_together_one_is_cleared_once() {
        let faults = [
            timed("leak-heap=1MiB/s", 0, Some(10)),
            timed("leak-heap=2MiB/s", 5, Some(5)),
            timed("leak-heap=3MiB/s", 6, Some(1)),
        ];
        let at_seven = due(&faults, Some(6 * SECOND), 7 * SECOND);
        assert_eq!(at_seven, [inject("leak-heap=2MiB/s")]);
        let at_ten = due(&faults, Some(7 * SECOND), 10 * SECOND);
        assert_eq!(at_ten, [clear("leak-heap")]);
    }
}
