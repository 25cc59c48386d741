//! The loop: who is connected, what they say, and which fault shows in that.
//!
//! One thread does everything but the requests, which go to the workers. It waits for sockets,
//! for workers and for the time that the [`State`] names, and for nothing else.
//!
//! ```text
//!            refuse: not listening        hang-after-accept: not read
//!                 |                            |
//!   connect --> accept -----------------> client --request--> worker --+
//!                 |                            ^                       | workers-exhausted:
//!            accept-stall: one per interval    +------- answer --------+ never
//! ```

use crate::service::control::Order;
use crate::service::fault::ServiceFault;
use crate::service::ledger::{self, ClientFacts};
use crate::service::lines::{Broken, LINE_LEN_MAX, Line, Lines};
use crate::service::protocol::{Code, Command, Refusal, Request};
use crate::service::state::State;
use crate::service::workers::{Done, Workers};
use card_device::clock::Pace;
use card_device::server::{BindError, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

/// More wait in the backlog.
const CLIENTS_MAX: usize = 256;
/// With no descriptor left, accepting is tried again after this.
const NO_DESCRIPTOR_RETRY: Duration = Duration::from_millis(100);

/// However fast time passes, it does not go round its loop more often than this for time alone.
const TURN_MIN: Duration = Duration::from_millis(1);

/// Everything of a running service.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) state: State,
    /// What it takes for time.
    pace: Pace,
    pub(super) workers: Workers,
    pub(super) front: Front,
    pub(super) control: Option<Listener>,
    clients: BTreeMap<u64, Client>,
    controllers: BTreeMap<u64, Lines>,
    connection_last: u64,
    /// As the fault says that stalls accepting.
    accept_interval: Option<Duration>,
    /// No client is accepted before.
    accept_at: Duration,
    /// Nobody at all is accepted before: there was no descriptor left.
    descriptor_at: Duration,
    /// Clients are refused although they should not be any more; it is tried again then.
    listen_at: Option<Duration>,
}

#[derive(Debug)]
struct Client {
    lines: Lines,
    since: Duration,
    commands: u64,
    /// A worker has a request of it.
    waits: bool,
}

/// What there is to wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Stop,
    Workers,
    Unix,
    Tcp,
    Control,
    Client(u64),
    Controller(u64),
}

impl Server {
    pub(super) fn new(
        state: State,
        pace: Pace,
        workers: Workers,
        front: Front,
        control: Option<Listener>,
    ) -> Self {
        Self {
            state,
            pace,
            workers,
            front,
            control,
            clients: BTreeMap::new(),
            controllers: BTreeMap::new(),
            connection_last: 0,
            accept_interval: None,
            accept_at: Duration::ZERO,
            descriptor_at: Duration::ZERO,
            listen_at: None,
        }
    }

    /// Serves until `stop` becomes readable.
    pub(super) fn serve(mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        self.show_faults(self.pace.now());
        loop {
            let now = self.pace.now();
            self.state.pass(now);
            if self.listen_at.is_some_and(|at| at <= now) {
                self.show_refusal(now);
            }
            let ready = self.wait(stop, now)?;
            let now = self.pace.now();
            // Before anything is done for anybody, so that nothing that is due happens later.
            self.state.pass(now);
            for source in ready {
                match source {
                    Source::Stop => return Ok(()),
                    Source::Workers => self.take_back(now),
                    Source::Unix | Source::Tcp => self.accept(source, now)?,
                    Source::Control => self.accept_controller(now)?,
                    Source::Client(id) => self.attend_client(id, now),
                    Source::Controller(id) => self.attend_controller(id, now),
                }
            }
        }
    }

    fn wait(&self, stop: BorrowedFd<'_>, now: Duration) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Stop, Source::Workers];
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(self.workers.wake(), PollFlags::IN),
        ];
        let mut add = |source, fd, flags: PollFlags| {
            // Without flags there would still be hang-ups, again and again.
            if !flags.is_empty() {
                sources.push(source);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        };
        if self.accepts(now) {
            for (source, fd) in self.front.listening() {
                add(source, fd, PollFlags::IN);
            }
        }
        if let Some(control) = &self.control
            && now >= self.descriptor_at
        {
            add(Source::Control, control.as_fd(), PollFlags::IN);
        }
        let hangs = self.hangs();
        for (&id, client) in self.clients.iter().filter(|_| !hangs) {
            let flags = client.lines.interest(!client.waits);
            add(Source::Client(id), client.lines.as_fd(), flags);
        }
        for (&id, lines) in &self.controllers {
            add(Source::Controller(id), lines.as_fd(), lines.interest(true));
        }
        let timeout = self.timeout(now).map(|time| {
            let time = self.pace.on_the_host(time).max(TURN_MIN);
            Timespec::try_from(time).expect("no wait is longer than hours")
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = sources.into_iter().zip(&fds);
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(source, _)| source)
            .collect())
    }

    fn timeout(&self, now: Duration) -> Option<Duration> {
        [self.accept_at, self.descriptor_at]
            .into_iter()
            .chain(self.listen_at)
            .filter_map(|at| at.checked_sub(now).filter(|wait| !wait.is_zero()))
            .chain(self.state.until_next(now))
            .min()
    }

    fn accepts(&self, now: Duration) -> bool {
        now >= self.accept_at.max(self.descriptor_at) && self.clients.len() < CLIENTS_MAX
    }

    fn hangs(&self) -> bool {
        self.state
            .has(|fault| *fault == ServiceFault::HangAfterAccept)
    }

    /// Brings about what faults do to connections and workers. What they do to the rest, the
    /// state does by itself.
    fn show_faults(&mut self, now: Duration) {
        if self.state.crashes() {
            let _ = writeln!(io::stderr(), "firmware-sim: crashes, as it was told to");
            process::abort();
        }
        let exhausted = self
            .state
            .has(|fault| *fault == ServiceFault::WorkersExhausted);
        self.workers.set_stuck(exhausted);
        let interval = self.state.accept_interval();
        if interval != self.accept_interval {
            self.accept_interval = interval;
            self.accept_at = now.saturating_add(interval.unwrap_or_default());
        }
        self.show_refusal(now);
    }

    /// Refuses clients, or listens for them again as soon as the kernel lets it.
    fn show_refusal(&mut self, now: Duration) {
        let refuses = self.state.has(|fault| *fault == ServiceFault::Refuse);
        let outcome = self.front.set_refusing(refuses);
        self.listen_at = outcome
            .is_err()
            .then(|| now.saturating_add(NO_DESCRIPTOR_RETRY));
        self.state.note_refusal(outcome.err().map(|error| {
            let why = error.source().map(|source| format!(": {source}"));
            format!("{error}{}", why.unwrap_or_default())
        }));
    }

    fn accept(&mut self, source: Source, now: Duration) -> io::Result<()> {
        let listeners = self.front.listening();
        let listener = listeners
            .into_iter()
            .find(|(listening, _)| *listening == source);
        let Some((_, listener)) = listener.filter(|_| self.accepts(now)) else {
            return Ok(());
        };
        match accept_from(listener) {
            Accepted::Nobody => {}
            Accepted::NoDescriptor => self.descriptor_at = now.saturating_add(NO_DESCRIPTOR_RETRY),
            Accepted::Failed(error) => return Err(error),
            Accepted::Socket(socket) => {
                self.connection_last += 1;
                let client = Client {
                    lines: Lines::new(socket),
                    since: now,
                    commands: 0,
                    waits: false,
                };
                self.clients.insert(self.connection_last, client);
                let count = u64::try_from(self.clients.len()).unwrap_or(u64::MAX);
                let most = &mut self.state.ledger.clients_max;
                *most = count.max(*most);
                self.accept_at = now.saturating_add(self.accept_interval.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn accept_controller(&mut self, now: Duration) -> io::Result<()> {
        let Some(control) = &self.control else {
            return Ok(());
        };
        match accept_from(control.as_fd()) {
            Accepted::Nobody => {}
            Accepted::NoDescriptor => self.descriptor_at = now.saturating_add(NO_DESCRIPTOR_RETRY),
            Accepted::Failed(error) => return Err(error),
            Accepted::Socket(socket) => {
                self.connection_last += 1;
                self.controllers
                    .insert(self.connection_last, Lines::new(socket));
            }
        }
        Ok(())
    }

    /// Reads from a client, answers it, and lets it go if that is all.
    fn attend_client(&mut self, id: u64, now: Duration) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let received = if client.waits {
            Ok(())
        } else {
            client.lines.receive()
        };
        if received.is_err() || self.go_on(id, now).is_err() {
            self.clients.remove(&id);
            self.state.close_all_of(id, now);
        }
    }

    /// Does what a client has asked for until a worker has to, and sends the answers.
    fn go_on(&mut self, id: u64, now: Duration) -> Result<(), Broken> {
        while let Some(client) = self.clients.get_mut(&id).filter(|client| !client.waits) {
            let Some(line) = client.lines.next() else {
                break;
            };
            client.commands += 1;
            self.state.take_command();
            if self.state.crashes() {
                self.show_faults(now);
            }
            let answer = match line {
                Line::TooLong => Err(too_long()),
                Line::Text(line) => Command::parse(&line),
            };
            match answer {
                Ok(command) => self.obey(id, command, now),
                Err(refusal) => self.answer(id, &format!("{refusal}\n")),
            }
        }
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        client.lines.flush()?;
        if client.lines.is_done() && !client.waits {
            Err(Broken)
        } else {
            Ok(())
        }
    }

    fn obey(&mut self, id: u64, command: Command, now: Duration) {
        match command {
            Command::Request(request) => {
                self.state.ledger.requests += 1;
                if let Some(client) = self.clients.get_mut(&id) {
                    client.waits = true;
                }
                self.workers.ask(id, request);
            }
            Command::Enquiry => {
                let text = ledger::enquiry(&self.state.facts(&self.client_facts(now), now));
                self.answer_lines(id, &text);
            }
            Command::Stattree(path) => {
                let tree = ledger::stattree(&self.state.facts(&self.client_facts(now), now));
                match tree.find(&path) {
                    Ok(node) => self.answer_lines(id, &node.print()),
                    Err(message) => {
                        let refusal = Refusal::new(Code::NoNode, message);
                        self.answer(id, &format!("{refusal}\n"));
                    }
                }
            }
            Command::Quit => {
                self.answer(id, "ok bye\n");
                if let Some(client) = self.clients.get_mut(&id) {
                    client.lines.end();
                }
            }
        }
    }

    /// Takes back what the workers have done.
    fn take_back(&mut self, now: Duration) {
        for Done {
            client: id,
            request,
            outcome,
        } in self.workers.finished()
        {
            self.state.ledger.replies += 1;
            let Some(client) = self.clients.get_mut(&id) else {
                continue;
            };
            client.waits = false;
            let answer = match outcome.and_then(|()| self.complete(id, request, now)) {
                Ok(answer) => format!("ok {answer}\n"),
                Err(refusal) => format!("{refusal}\n"),
            };
            self.answer(id, &answer);
            if !self.hangs() && self.go_on(id, now).is_err() {
                self.clients.remove(&id);
                self.state.close_all_of(id, now);
            }
        }
    }

    fn complete(&mut self, id: u64, request: Request, now: Duration) -> Result<String, Refusal> {
        match request {
            Request::Open { module } => {
                let session = self.state.open(id, module, now)?;
                Ok(format!("session {session}"))
            }
            Request::Kat { session } => {
                self.state.check_session(id, session, now)?;
                if self.state.has(|fault| *fault == ServiceFault::WrongAnswer) {
                    let message = "the signature is not that of the test";
                    return Err(Refusal::new(Code::KatFailed, message));
                }
                Ok("kat ecdsa-p256-sha256 passed".to_owned())
            }
            Request::Close { session } => {
                self.state.check_session(id, session, now)?;
                self.state.close(session, now);
                Ok(format!("closed {session}"))
            }
        }
    }

    fn answer(&mut self, id: u64, text: &str) {
        self.state.ledger.answers += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            client.lines.push(text);
        }
    }

    fn answer_lines(&mut self, id: u64, text: &str) {
        let count = text.lines().count();
        self.answer(id, &format!("ok lines {count}\n{text}"));
    }

    fn client_facts(&self, now: Duration) -> Vec<ClientFacts> {
        let facts = self.clients.iter().map(|(&id, client)| ClientFacts {
            id,
            uptime_seconds: now.saturating_sub(client.since).as_secs(),
            commands: client.commands,
        });
        facts.collect()
    }

    fn attend_controller(&mut self, id: u64, now: Duration) {
        // Taken out, since what it orders may concern everything.
        let Some(mut lines) = self.controllers.remove(&id) else {
            return;
        };
        if lines.receive().is_err() {
            return;
        }
        while let Some(line) = lines.next() {
            let order = match line {
                Line::TooLong => Err(too_long().message),
                Line::Text(line) => Order::parse(&line),
            };
            let answer = match order.and_then(|order| self.execute(order, now)) {
                Ok(answer) => answer,
                Err(error) => json!({"ok": false, "error": error}),
            };
            self.show_faults(now);
            lines.push(&format!("{answer}\n"));
        }
        if lines.flush().is_ok() && !lines.is_done() {
            self.controllers.insert(id, lines);
        }
    }

    fn execute(&mut self, order: Order, now: Duration) -> Result<Value, String> {
        match order {
            Order::Inject(fault) => self.state.inject(fault, now),
            Order::Clear {
                fault: Some(name),
                free,
            } => self
                .state
                .clear(&name, free)
                .map_err(|error| error.to_string())?,
            Order::Clear { fault: None, free } => self.state.clear_all(free),
            Order::Card(card) => self.state.set_card(card, now),
            Order::Status => {
                return Ok(json!({"ok": true, "status": self.state.status(self.clients.len())}));
            }
        }
        Ok(json!({"ok": true}))
    }
}

fn too_long() -> Refusal {
    Refusal::new(
        Code::LineTooLong,
        format!("a line has at most {LINE_LEN_MAX} bytes"),
    )
}

enum Accepted {
    Socket(OwnedFd),
    /// Whoever it was has gone away.
    Nobody,
    NoDescriptor,
    Failed(io::Error),
}

fn accept_from(listener: BorrowedFd<'_>) -> Accepted {
    match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => Accepted::Socket(socket),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Accepted::Nobody,
        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Accepted::NoDescriptor,
        Err(errno) => Accepted::Failed(errno.into()),
    }
}

/// Where clients connect.
#[derive(Debug)]
pub(super) struct Front {
    path: PathBuf,
    unix: Listener,
    /// With its address, which stays the same.
    tcp: Option<(SocketAddr, Option<TcpListener>)>,
    refuses: bool,
}

impl Front {
    /// Listens on a path and, if one is given, on an address.
    pub(super) fn listen(path: PathBuf, tcp: Option<SocketAddr>) -> Result<Self, FrontError> {
        let unix = Listener::bind(&path)?;
        let tcp = match tcp {
            None => None,
            Some(address) => {
                let listener = listen_on(address)?;
                let address = listener
                    .local_addr()
                    .map_err(|source| FrontError::Tcp { address, source })?;
                Some((address, Some(listener)))
            }
        };
        Ok(Self {
            path,
            unix,
            tcp,
            refuses: false,
        })
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(address, _)| *address)
    }

    fn listening(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        if self.refuses {
            return Vec::new();
        }
        let tcp = self
            .tcp
            .as_ref()
            .and_then(|(_, listener)| listener.as_ref());
        let tcp = tcp.map(|listener| (Source::Tcp, listener.as_fd()));
        [(Source::Unix, self.unix.as_fd())]
            .into_iter()
            .chain(tcp)
            .collect()
    }

    /// Refuses connections, or accepts them again. The socket's file stays: nobody could tell a
    /// service that refuses from one that was never there otherwise.
    ///
    /// # Errors
    ///
    /// If it does not listen again: then it still refuses.
    fn set_refusing(&mut self, refuses: bool) -> Result<(), FrontError> {
        match (self.refuses, refuses) {
            (false, true) => {
                shutdown(&self.unix, Shutdown::Both).map_err(|errno| FrontError::Refuse {
                    source: errno.into(),
                })?;
                if let Some((_, listener)) = &mut self.tcp {
                    *listener = None;
                }
            }
            (true, false) => {
                // Whoever is let in anywhere is let in everywhere.
                let tcp = self.tcp.as_ref();
                let tcp = tcp.map(|(address, _)| listen_on(*address)).transpose()?;
                self.unix = Listener::bind(&self.path)?;
                if let Some((_, listener)) = &mut self.tcp {
                    *listener = tcp;
                }
            }
            _ => {}
        }
        self.refuses = refuses;
        Ok(())
    }
}

/// Clients cannot connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// The socket cannot be listened on.
    #[error(transparent)]
    Unix(#[from] BindError),
    /// The socket cannot be shut.
    #[error("cannot refuse connections")]
    Refuse {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TCP port cannot.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, FrontError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source| FrontError::Tcp { address, source })
}
