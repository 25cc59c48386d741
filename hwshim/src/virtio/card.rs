//! A virtio-crypto card as an accelerator.
//!
//! It brings the card up, keeps one session per key and purpose, turns requests into descriptors
//! and completions back, and hands every request back when its deadline passes or the card is
//! lost. It does not decide whether the card deserves work; the router does.
//!
//! ```text
//!           reset ok               broke a rule, asked for a reset
//!  NEEDS   ----------->  READY  ---------------------------------+
//!  RESET   <-----------------------------------------------------+
//!    |  ^                  |  left the bus
//!    |  | back on the bus  v
//!    +--+--------------- GONE
//! ```

use super::health::HealthPort;
use super::queue::{Full, Queue, QueueSpec, Used};
use super::request::{self, ResultLen, SessionKey, SessionKind, SessionMap};
use super::transport::{Transport, describe, device_error};
use crate::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, DeviceMisbehaved, RejectReason,
    Rejected, Request, State, Unverified,
};
use crate::bus::{BusError, Function};
use crate::clock::Instant;
use card_spec::crypto::{Config, ConfigStatus, REQUEST_LEN, SessionReply, Status};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Finds the function, at the start and again after it was gone.
pub type Connect = Box<dyn FnMut() -> Result<Arc<dyn Function>, BusError> + Send>;

/// How a card is driven.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests in flight at most. 256 keep a card with many engines busy and cost 3 MiB.
    pub depth: u16,
    /// Sessions open on the card at most; the least recently used one makes room. QEMU's device
    /// holds 256.
    pub sessions_max: usize,
    /// Time a reset may take. Cards that need longer than a second have not been seen.
    pub reset_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            depth: 256,
            sessions_max: 128,
            reset_timeout: Duration::from_secs(1),
        }
    }
}

/// A virtio-crypto card.
pub struct Card {
    name: String,
    connect: Connect,
    options: Options,
    health: HealthPort,
    queue_event: OwnedFd,
    config_event: OwnedFd,
    state: State,
    /// Everything that dies with a reset.
    device: Option<Device>,
    counters: Counters,
    scratch: Vec<u8>,
    armed: bool,
    /// When to ask again whether the function is still there.
    presence_check: Instant,
    /// Why the card stopped being ready, until somebody asks.
    fault: Option<DeviceError>,
}

struct Device {
    // Dropped in this order: the queues unshare their memory through the transport's function.
    dataq: Queue,
    controlq: Queue,
    transport: Transport,
    config: Config,
    sessions: SessionMap<Session>,
    /// Kinds of session that the card's masks offer and the card then refused.
    refused: HashSet<SessionKind>,
    posted: Vec<Option<Posted>>,
    control: Vec<Option<Control>>,
    waiting: Vec<(SessionKey, Request)>,
    /// No request in flight has an earlier deadline.
    earliest_deadline: Instant,
    sessions_max: usize,
    uses: u64,
}

/// A request the card has.
struct Posted {
    /// `None` once its deadline has passed and it was handed back; the card may still write.
    request: Option<Request>,
    session: SessionKey,
    result: ResultLen,
}

enum Session {
    Opening,
    Open {
        id: u64,
        in_flight: u32,
        last_use: u64,
    },
}

/// A control request the card has.
enum Control {
    Create(SessionKey),
    Destroy,
}

/// Largest request on the control queue: an RSA-8192 key in DER, and then some.
const CONTROL_REQUEST_LEN: usize = 8192;
const CONTROL_SLOTS: u16 = 8;
/// Fits RSA-4096 operations and messages of a kilobyte.
const LEN_SMALL: usize = 1280;
/// Fits a TLS record of 16 KiB with its overhead.
const LEN_LARGE: usize = 17 * 1024;
const LARGE_SLOTS: u16 = 64;
/// Asking costs a system call, so it is not done at each poll.
const PRESENCE_CHECK_INTERVAL: Duration = Duration::from_millis(10);

impl Card {
    /// Prepares a card; it is brought up by the first [`Accelerator::reset`].
    ///
    /// # Errors
    ///
    /// [`BusError::Os`] if the kernel gives no eventfd.
    pub fn new(
        name: impl Into<String>,
        connect: Connect,
        options: Options,
    ) -> Result<Self, BusError> {
        let event = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(BusError::os("creating an eventfd"))
        };
        Ok(Self {
            name: name.into(),
            connect,
            options,
            health: HealthPort::default(),
            queue_event: event()?,
            config_event: event()?,
            state: State::NeedsReset,
            device: None,
            counters: Counters::default(),
            scratch: Vec::new(),
            armed: false,
            presence_check: Instant::ORIGIN,
            fault: None,
        })
    }

    /// Where the card's health page can be read.
    #[must_use]
    pub fn health(&self) -> HealthPort {
        self.health.clone()
    }

    /// Brings the card up, or says why not.
    fn bring_up(&mut self) -> Result<(), DeviceError> {
        let function = match self.device.take() {
            Some(device) if !device.transport.function().is_gone() => {
                // Only a card that says it has stopped may lose its memory; one that does not is
                // cut off from it when the queues are dropped, by unmapping.
                let stopped = device.transport.reset(self.options.reset_timeout);
                let function = Arc::clone(device.transport.function());
                drop(device);
                stopped?;
                function
            }
            lost => {
                drop(lost);
                (self.connect)().map_err(device_error)?
            }
        };
        let device = Device::bring_up(
            function,
            self.options,
            self.config_event.as_fd(),
            self.queue_event.as_fd(),
        )?;
        self.health
            .connect(device.transport.function(), device.transport.health());
        self.device = Some(device);
        Ok(())
    }

    /// Hands back everything in flight because of `fault`, and refuses work until a reset.
    fn lose(&mut self, fault: DeviceError, completions: &mut Vec<Completion>) {
        let (state, reason) = match fault {
            DeviceError::Gone => (State::Gone, DeviceError::Gone),
            _ => (State::NeedsReset, DeviceError::Abandoned),
        };
        self.state = state;
        if let Some(device) = &mut self.device {
            device.hand_back_all(&reason, completions);
        }
        self.fault = Some(fault);
    }

    fn look_at_the_device(&mut self, now: Instant) -> Result<(), DeviceError> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        if self.armed || now >= self.presence_check {
            self.presence_check = now.plus(PRESENCE_CHECK_INTERVAL);
            if device.transport.function().is_gone() {
                return Err(DeviceError::Gone);
            }
        }
        if self.armed {
            self.armed = false;
            drain(&self.queue_event);
            let changed = drain(&self.config_event);
            if let Some(device) = &mut self.device {
                device.dataq.disarm();
                device.controlq.disarm();
                if changed {
                    device.transport.check_status()?;
                }
            }
        }
        Ok(())
    }

    fn poll_device(
        &mut self,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        self.look_at_the_device(now)?;
        let Self {
            device,
            counters,
            scratch,
            ..
        } = self;
        let Some(device) = device else {
            return Ok(());
        };
        while let Some(used) = device.controlq.poll()? {
            device.finish_control(used, scratch, completions)?;
        }
        while let Some(used) = device.dataq.poll()? {
            device.finish(used, counters, completions)?;
        }
        if now >= device.earliest_deadline {
            device.expire(now, completions);
        }
        counters.doorbells += device.announce()?;
        counters.sessions_open = device.sessions.len() as u64;
        Ok(())
    }
}

impl Accelerator for Card {
    fn name(&self) -> &str {
        &self.name
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.device.as_ref().is_some_and(|device| {
            let kind = SessionKind::of(algorithm);
            kind.offered(&device.config) && !device.refused.contains(&kind)
        })
    }

    fn submit(&mut self, request: Request, _now: Instant) -> Result<(), Rejected> {
        let device = match &mut self.device {
            Some(device) if self.state == State::Ready => device,
            _ => {
                return Err(Rejected {
                    request,
                    reason: RejectReason::NotReady,
                });
            }
        };
        device.submit(request, &mut self.scratch)
    }

    fn flush(&mut self) {
        if let Some(device) = &mut self.device {
            // A doorbell that cannot be rung is found again, and dealt with, by the next poll.
            if let Ok(rung) = device.announce() {
                self.counters.doorbells += rung;
            }
        }
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        if self.state != State::Ready {
            return;
        }
        if let Err(reason) = self.poll_device(now, completions) {
            self.lose(reason, completions);
        }
    }

    fn next_deadline(&self) -> Instant {
        self.device
            .as_ref()
            .map_or(Instant::NEVER, |device| device.earliest_deadline)
    }

    fn in_flight(&self) -> usize {
        self.device.as_ref().map_or(0, Device::in_flight)
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        let was_gone = self.state == State::Gone;
        self.lose(DeviceError::Abandoned, completions);
        let outcome = self.bring_up();
        self.state = match &outcome {
            Ok(()) => State::Ready,
            Err(DeviceError::Gone) => State::Gone,
            // Not found again is still gone.
            Err(_) if was_gone && self.device.is_none() => State::Gone,
            Err(_) => State::NeedsReset,
        };
        self.fault = None;
        outcome
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.fault.take()
    }

    fn arm(&mut self) -> bool {
        self.armed = true;
        match &mut self.device {
            Some(device) => device.dataq.arm() & device.controlq.arm(),
            None => true,
        }
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let removal = match (&self.device, self.state) {
            (Some(device), State::Ready) => device.transport.function().removal_fd(),
            // A socket that has hung up would wake its waiter for ever.
            _ => None,
        };
        [self.queue_event.as_fd(), self.config_event.as_fd()]
            .into_iter()
            .chain(removal)
            .collect()
    }

    fn state(&self) -> State {
        self.state
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if let Some(device) = &self.device
            && !device.transport.function().is_gone()
        {
            // Whether it stops or not, its memory is taken from it next.
            let _ = device.transport.reset(self.options.reset_timeout);
        }
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card")
            .field("name", &self.name)
            .field("state", &self.state)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Follows virtio 1.3 §3.1.1 "Driver Requirements: Device Initialization".
    fn bring_up(
        function: Arc<dyn Function>,
        options: Options,
        config_event: BorrowedFd<'_>,
        queue_event: BorrowedFd<'_>,
    ) -> Result<Self, DeviceError> {
        let transport = Transport::find(Arc::clone(&function))?;
        transport.reset(options.reset_timeout)?;
        let negotiated = transport.negotiate()?;
        let config = negotiated.config;
        let controlq_index = control_queue_index(&config, negotiated.num_queues)?;

        let (config_vector, queue_vector) = match function.vector_count().map_err(device_error)? {
            0 => {
                return Err(DeviceError::NotUsable(
                    "it has no MSI-X vectors to signal completions with".to_owned(),
                ));
            }
            // One vector for everything: both eventfds would be asked at each interrupt anyway.
            1 => {
                connect_vectors(&*function, &[queue_event])?;
                (0, 0)
            }
            _ => {
                connect_vectors(&*function, &[config_event, queue_event])?;
                (0, 1)
            }
        };
        transport.connect_config_vector(config_vector)?;

        let slots = options.depth.clamp(1, 1024);
        let mut dataq = new_queue(&transport, 0, |size| QueueSpec {
            size,
            slots: slots.min(size / 2),
            request_len: LEN_SMALL,
            result_len: LEN_SMALL,
            large_slots: LARGE_SLOTS,
            large_request_len: LEN_LARGE,
            large_result_len: LEN_LARGE,
        })?;
        let mut controlq = new_queue(&transport, controlq_index, |size| QueueSpec {
            size,
            slots: CONTROL_SLOTS.min(size / 2),
            request_len: CONTROL_REQUEST_LEN,
            result_len: size_of::<SessionReply>(),
            large_slots: 0,
            large_request_len: 0,
            large_result_len: 0,
        })?;
        transport.enable_queue(0, &mut dataq, queue_vector)?;
        transport.enable_queue(controlq_index, &mut controlq, queue_vector)?;
        transport.start()?;
        if !ConfigStatus::from_bits(config.status.get()).hw_ready() {
            return Err(DeviceError::NotUsable(
                "it says that its hardware is not ready".to_owned(),
            ));
        }
        Ok(Self {
            posted: (0..dataq.slots()).map(|_| None).collect(),
            control: (0..controlq.slots()).map(|_| None).collect(),
            dataq,
            controlq,
            transport,
            config,
            sessions: SessionMap::default(),
            refused: HashSet::new(),
            waiting: Vec::new(),
            earliest_deadline: Instant::NEVER,
            sessions_max: options.sessions_max,
            uses: 0,
        })
    }

    fn in_flight(&self) -> usize {
        let posted = self
            .posted
            .iter()
            .flatten()
            .filter(|posted| posted.request.is_some());
        posted.count() + self.waiting.len()
    }

    fn submit(&mut self, request: Request, scratch: &mut Vec<u8>) -> Result<(), Rejected> {
        let rejected = |request, reason| Err(Rejected { request, reason });
        let session = request::session_of(&request.operation);
        let (request_len, result) = request::lengths(&request.operation);
        let too_much = (request_len + result.max) as u64 > self.config.max_size.get()
            || !self.dataq.fits(request_len, result.max + 1);
        if !session.kind.offered(&self.config) || self.refused.contains(&session.kind) || too_much {
            return rejected(request, RejectReason::Unsupported);
        }
        let deadline = request.deadline;
        match self.sessions.get(&session) {
            Some(Session::Open { id, .. }) => {
                let id = *id;
                self.post(session, id, request, scratch)?;
            }
            Some(Session::Opening) => {
                if self.waiting.len() >= usize::from(self.dataq.slots()) {
                    return rejected(request, RejectReason::Full);
                }
                self.waiting.push((session, request));
            }
            None => {
                if self.sessions.len() >= self.sessions_max {
                    self.close_least_used();
                }
                if self.open_session(session, &request).is_err() {
                    return rejected(request, RejectReason::Full);
                }
                self.waiting.push((session, request));
            }
        }
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        Ok(())
    }

    fn post(
        &mut self,
        session: SessionKey,
        session_id: u64,
        request: Request,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Rejected> {
        let dataq = &mut self.dataq;
        let posted =
            request::with_data_request(&request.operation, session_id, scratch, |parts, room| {
                dataq.post(parts, room)
            });
        let slot = match posted {
            Ok(Ok(slot)) => slot,
            Ok(Err(Full)) => {
                return Err(Rejected {
                    request,
                    reason: RejectReason::Full,
                });
            }
            Err(request::CannotEncode) => {
                return Err(Rejected {
                    request,
                    reason: RejectReason::Unsupported,
                });
            }
        };
        self.uses += 1;
        if let Some(Session::Open {
            in_flight,
            last_use,
            ..
        }) = self.sessions.get_mut(&session)
        {
            *in_flight += 1;
            *last_use = self.uses;
        }
        let (_, result) = request::lengths(&request.operation);
        self.posted[usize::from(slot)] = Some(Posted {
            request: Some(request),
            session,
            result,
        });
        Ok(())
    }

    fn open_session(&mut self, session: SessionKey, request: &Request) -> Result<(), Full> {
        let (fixed, key) = request::create_session(&request.operation);
        if !self
            .controlq
            .fits(fixed.len() + key.len(), size_of::<SessionReply>())
        {
            return Err(Full);
        }
        let slot = self
            .controlq
            .post(&[&fixed, key], size_of::<SessionReply>())?;
        self.control[usize::from(slot)] = Some(Control::Create(session));
        self.sessions.insert(session, Session::Opening);
        Ok(())
    }

    fn finish_control(
        &mut self,
        used: Used,
        scratch: &mut Vec<u8>,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let control = self.control[usize::from(used.slot)].take();
        // Requests that create sessions hold keys; the others hold nothing worth keeping.
        self.controlq.wipe_request(used.slot, CONTROL_REQUEST_LEN);
        let mut reply = SessionReply::default();
        let expected = reply.as_bytes().len();
        if let Some(Control::Create(session)) = control {
            if used.len as usize != expected {
                return Err(DeviceMisbehaved::WrongLength {
                    found: used.len as usize,
                    expected,
                }
                .into());
            }
            self.controlq.read_result(used.slot, reply.as_mut_bytes());
            self.controlq.release(used.slot);
            self.opened(session, reply, scratch, completions)
        } else {
            // A session that could not be destroyed was lost already, which is what was wanted.
            self.controlq.release(used.slot);
            Ok(())
        }
    }

    /// Acts on the card's answer to a request for a session.
    fn opened(
        &mut self,
        session: SessionKey,
        reply: SessionReply,
        scratch: &mut Vec<u8>,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let status = u8::try_from(reply.status.get()).map_or(Status(u8::MAX), Status);
        if status.name().is_none() {
            return Err(DeviceMisbehaved::UndefinedStatus(status).into());
        }
        let (ours, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(wanted, _)| *wanted == session);
        self.waiting = others;
        if status != Status::OK {
            self.sessions.remove(&session);
            if status == Status::NOSPC {
                self.close_least_used();
            } else {
                self.refused.insert(session.kind);
            }
            completions.extend(ours.into_iter().map(|(_, request)| Completion {
                request,
                output: Err(DeviceError::Failed(status)),
            }));
            return Ok(());
        }
        let id = reply.session_id.get();
        self.uses += 1;
        let open = Session::Open {
            id,
            in_flight: 0,
            last_use: self.uses,
        };
        self.sessions.insert(session, open);
        for (_, request) in ours {
            if let Err(Rejected { request, .. }) = self.post(session, id, request, scratch) {
                completions.push(Completion {
                    request,
                    output: Err(DeviceError::Abandoned),
                });
            }
        }
        Ok(())
    }

    /// Makes room on the card by closing the idle session that was used longest ago.
    fn close_least_used(&mut self) {
        let oldest = self
            .sessions
            .iter()
            .filter_map(|(session, state)| match state {
                Session::Open {
                    id,
                    in_flight: 0,
                    last_use,
                } => Some((*last_use, *session, *id)),
                Session::Open { .. } | Session::Opening => None,
            })
            .min_by_key(|(last_use, ..)| *last_use);
        if let Some((_, session, id)) = oldest {
            let destroy: [u8; REQUEST_LEN] = request::destroy_session(session, id);
            if let Ok(slot) = self.controlq.post(&[&destroy], 1) {
                self.control[usize::from(slot)] = Some(Control::Destroy);
                self.sessions.remove(&session);
            }
        }
    }

    fn finish(
        &mut self,
        used: Used,
        counters: &mut Counters,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let slot = usize::from(used.slot);
        let posted = self.posted[slot]
            .take()
            .expect("the queue yields only slots that were posted");
        if let Some(Session::Open { in_flight, .. }) = self.sessions.get_mut(&posted.session) {
            // Not necessarily the session the request was posted to: the card may have lost that
            // one, and another may have been opened for the key since.
            *in_flight = in_flight.saturating_sub(1);
        }
        let outcome = posted
            .request
            .is_some()
            .then(|| self.read_output(used, posted.result));
        self.dataq.release(used.slot);
        let (Some(request), Some(output)) = (posted.request, outcome) else {
            counters.stragglers += 1;
            return Ok(());
        };
        if output == Err(DeviceError::Failed(Status::INVSESS)) {
            // The card has lost the session; the next request opens it again.
            self.sessions.remove(&posted.session);
        }
        let (output, outcome) = match output {
            // A broken rule is the card's fault as a whole; the request is one of its victims.
            Err(DeviceError::Misbehaved(rule)) => (Err(DeviceError::Abandoned), Err(rule.into())),
            output => (output.map(Unverified), Ok(())),
        };
        completions.push(Completion { request, output });
        outcome
    }

    fn read_output(&self, used: Used, expected: ResultLen) -> Result<Vec<u8>, DeviceError> {
        let status = Status(self.dataq.read_last(used.slot));
        match status {
            Status::OK => {}
            known if known.name().is_some() => return Err(DeviceError::Failed(known)),
            _ => return Err(DeviceMisbehaved::UndefinedStatus(status).into()),
        }
        let found = (used.len as usize).saturating_sub(1);
        if !(expected.min..=expected.max).contains(&found) {
            return Err(DeviceMisbehaved::WrongLength {
                found,
                expected: expected.max,
            }
            .into());
        }
        let mut output = vec![0; found];
        self.dataq.read_result(used.slot, &mut output);
        Ok(output)
    }

    /// Hands back what is overdue at `now`, and finds the next deadline.
    fn expire(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        let mut next = Instant::NEVER;
        for posted in self.posted.iter_mut().flatten() {
            match &posted.request {
                Some(request) if request.deadline <= now => {
                    completions.extend(posted.request.take().map(timed_out));
                }
                Some(request) => next = next.min(request.deadline),
                None => {}
            }
        }
        for (session, request) in std::mem::take(&mut self.waiting) {
            if request.deadline <= now {
                completions.push(timed_out(request));
            } else {
                next = next.min(request.deadline);
                self.waiting.push((session, request));
            }
        }
        self.earliest_deadline = next;
    }

    fn hand_back_all(&mut self, reason: &DeviceError, completions: &mut Vec<Completion>) {
        let posted = self
            .posted
            .iter_mut()
            .flatten()
            .filter_map(|posted| posted.request.take());
        let waiting = self.waiting.drain(..).map(|(_, request)| request);
        completions.extend(posted.chain(waiting).map(|request| Completion {
            request,
            output: Err(reason.clone()),
        }));
        self.earliest_deadline = Instant::NEVER;
    }

    /// Rings the doorbells that are due, and returns how many.
    fn announce(&mut self) -> Result<u64, DeviceError> {
        let control = self.controlq.announce().map_err(device_error)?;
        let data = self.dataq.announce().map_err(device_error)?;
        Ok(u64::from(control) + u64::from(data))
    }
}

fn timed_out(request: Request) -> Completion {
    Completion {
        request,
        output: Err(DeviceError::TimedOut),
    }
}

/// The control queue comes behind the data queues (virtio 1.3 §5.9.2 "Virtqueues").
fn control_queue_index(config: &Config, num_queues: u16) -> Result<u16, DeviceError> {
    let dataqueues = config.max_dataqueues.get();
    match u16::try_from(dataqueues) {
        Ok(index) if index >= 1 && index < num_queues => Ok(index),
        _ => Err(DeviceError::NotUsable(format!(
            "it claims {dataqueues} data queues and a control queue among {num_queues} queues"
        ))),
    }
}

fn new_queue(
    transport: &Transport,
    index: u16,
    spec: impl FnOnce(u16) -> QueueSpec,
) -> Result<Queue, DeviceError> {
    /// More than this is never in flight.
    const SIZE_MAX: u16 = 2048;
    let offered = transport.queue_size_max(index)?;
    if offered < 2 || !offered.is_power_of_two() {
        return Err(DeviceError::NotUsable(format!(
            "queue {index} has {offered} descriptors, which is not a power of two of at least two"
        )));
    }
    Queue::new(transport.function(), spec(offered.min(SIZE_MAX))).map_err(device_error)
}

fn connect_vectors(
    function: &dyn Function,
    eventfds: &[BorrowedFd<'_>],
) -> Result<(), DeviceError> {
    function
        .connect_vectors(eventfds)
        .map_err(|error| match error {
            BusError::Gone { .. } => DeviceError::Gone,
            other => DeviceError::NotUsable(describe(&other)),
        })
}

/// Empties an eventfd and says whether there was anything in it.
fn drain(event: &OwnedFd) -> bool {
    let mut count = [0; 8];
    rustix::io::read(event, &mut count).is_ok()
}
