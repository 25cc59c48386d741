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
use crate::clock::{Clock, Instant, SystemClock};
use card_spec::crypto::{Config, ConfigStatus, REQUEST_LEN, SessionReply, Status};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ReadWriteFlags;
use std::collections::HashSet;
use std::fmt;
use std::io::IoSliceMut;
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
    /// Before this, changes of the configuration are not looked at.
    config_check: Instant,
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
    /// How many of those are not handed back: whoever places work asks with each request.
    posted_count: usize,
    control: Vec<Option<Control>>,
    /// Configuration changes are signalled like completions.
    shares_vector: bool,
    /// A change was signalled and not looked at yet.
    config_changed: bool,
    waiting: Vec<(SessionKey, Request)>,
    /// No request in flight has an earlier deadline.
    earliest_deadline: Instant,
    sessions_max: usize,
    uses: u64,
}

/// A request the card has.
struct Posted {
    /// `None` once it was handed back; the card may still write.
    request: Option<Request>,
    /// When it is, or was, to be handed back.
    deadline: Instant,
    session: SessionKey,
    session_id: u64,
    result: ResultLen,
    confidential: bool,
}

enum Session {
    Opening,
    /// The card would not have this key; it is not asked again before a reset.
    Refused,
    Open {
        id: u64,
        in_flight: u32,
        last_use: u64,
    },
}

/// A control request the card has.
struct Control {
    request: ControlRequest,
    /// When the card has certainly lost it.
    overdue: Instant,
}

enum ControlRequest {
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
/// A change of the configuration means that the card has given up; a second sooner or later
/// decides nothing.
const CONFIG_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Nobody is answered and no deadline is looked after while a card is asked, so that may take one part of
/// so many of the time.
const CONFIG_CHECK_SHARE: u32 = 100;
/// How long past its deadline a card may keep a request. One that keeps it longer has lost it, and
/// with each lost request it has one place less to work in.
const STRAGGLER_MAX: Duration = Duration::from_secs(10);

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
            config_check: Instant::ORIGIN,
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
        self.health.disconnect();
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
            device.controlq.wipe_requests();
        }
        if matches!(fault, DeviceError::Gone | DeviceError::BusError) {
            // Whoever wants the function next, this driver included, may have to wait until
            // nobody holds it any more. What an error has left of it is not known: opened anew, it
            // is reset as a whole.
            self.health.disconnect();
            self.device = None;
        }
        self.counters.sessions_open = 0;
        self.fault = Some(fault);
    }

    /// Says whether interrupts had been asked for, and whether any has arrived.
    fn look_at_the_device(&mut self, now: Instant) -> Result<Announced, DeviceError> {
        let mut announced = Announced::NotAsked;
        let Some(device) = &mut self.device else {
            return Ok(announced);
        };
        if self.armed || now >= self.presence_check {
            self.presence_check = now.plus(PRESENCE_CHECK_INTERVAL);
            let function = device.transport.function();
            if function.is_gone() {
                return Err(DeviceError::Gone);
            }
            if function.take_error() {
                return Err(DeviceError::BusError);
            }
        }
        if std::mem::take(&mut self.armed) {
            device.dataq.disarm();
            device.controlq.disarm();
            let [by_queue, by_config] = [&self.queue_event, &self.config_event].map(drain);
            self.counters.interrupts += by_queue + by_config;
            // Where both share a vector, any interrupt may have been about the configuration.
            device.config_changed |= by_config > 0 || (device.shares_vector && by_queue > 0);
            let signals = by_queue + u64::from(device.shares_vector) * by_config;
            announced = match signals {
                0 => Announced::No,
                _ => Announced::Yes,
            };
        }
        // Asking takes messages, and callers wait meanwhile: a card that signals changes without
        // end must not be asked without end, and one that is slow to answer seldom.
        if device.config_changed && now >= self.config_check {
            device.config_changed = false;
            let began = SystemClock.now();
            device.transport.check_status()?;
            let took = SystemClock.now().since(began);
            let interval = CONFIG_CHECK_INTERVAL.max(took * CONFIG_CHECK_SHARE);
            self.config_check = now.plus(interval);
        }
        Ok(announced)
    }

    fn poll_device(
        &mut self,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let announced = self.look_at_the_device(now)?;
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
            announced.count(counters);
            device.finish_control(used, now, scratch, completions)?;
        }
        while let Some(used) = device.dataq.poll()? {
            announced.count(counters);
            device.finish(used, counters, completions)?;
        }
        if now >= device.earliest_deadline {
            device.expire(now, completions)?;
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

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let device = match &mut self.device {
            Some(device) if self.state == State::Ready => device,
            _ => {
                return Err(Rejected {
                    request,
                    reason: RejectReason::NotReady,
                });
            }
        };
        if request.operation.needs_accelerator() {
            // A session is opened with the private key, which is not here to be sent.
            return Err(Rejected {
                request,
                reason: RejectReason::Unsupported,
            });
        }
        device.submit(request, now, &mut self.scratch)
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

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        if let Some(device) = &mut self.device {
            device.hand_back_all(&DeviceError::Abandoned, completions);
        }
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.fault.take()
    }

    fn arm(&mut self) -> bool {
        match &mut self.device {
            Some(device) if self.state == State::Ready => {
                self.armed = true;
                device.dataq.arm() & device.controlq.arm()
            }
            // What lies in the rings of a card that was given up is nobody's any more.
            _ => true,
        }
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let mut events = vec![self.queue_event.as_fd(), self.config_event.as_fd()];
        // Of one that was given up, a socket that has hung up would wake its waiter for ever.
        if let (Some(device), State::Ready) = (&self.device, self.state) {
            let function = device.transport.function();
            events.extend(function.removal_fd());
            events.extend(function.error_fd());
        }
        events
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
            posted_count: 0,
            control: (0..controlq.slots()).map(|_| None).collect(),
            shares_vector: config_vector == queue_vector,
            config_changed: false,
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
        debug_assert_eq!(self.posted_count, self.count_posted());
        self.posted_count + self.waiting.len()
    }

    fn count_posted(&self) -> usize {
        let posted = self.posted.iter().flatten();
        posted.filter(|posted| posted.request.is_some()).count()
    }

    fn submit(
        &mut self,
        request: Request,
        now: Instant,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Rejected> {
        let session = request::session_of(&request.operation);
        let deadline = request.deadline;
        if !self.takes(session.kind, &request) {
            return Err(rejected(request, RejectReason::Unsupported));
        }
        match self.sessions.get(&session) {
            Some(Session::Open { id, .. }) => {
                let id = *id;
                self.post(session, id, request, scratch)?;
            }
            Some(Session::Refused) => return Err(rejected(request, RejectReason::Unsupported)),
            Some(Session::Opening) => {
                if self.waiting.len() >= usize::from(self.dataq.slots()) {
                    return Err(rejected(request, RejectReason::Full));
                }
                self.waiting.push((session, request));
            }
            None => {
                if let Err(reason) = self.open_session(session, &request, now) {
                    return Err(rejected(request, reason));
                }
                self.waiting.push((session, request));
            }
        }
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        Ok(())
    }

    /// Whether requests like this can ever be posted.
    fn takes(&self, kind: SessionKind, request: &Request) -> bool {
        let (request_len, result) = request::lengths(&request.operation);
        kind.offered(&self.config)
            && !self.refused.contains(&kind)
            && (request_len + result.max) as u64 <= self.config.max_size.get()
            && self.dataq.fits(request_len, result.max + 1)
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
            Ok(Err(Full)) => return Err(rejected(request, RejectReason::Full)),
            Err(request::CannotEncode) => {
                return Err(rejected(request, RejectReason::Unsupported));
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
            deadline: request.deadline,
            confidential: request.operation.is_confidential(),
            request: Some(request),
            session,
            session_id,
            result,
        });
        self.posted_count += 1;
        Ok(())
    }

    fn open_session(
        &mut self,
        session: SessionKey,
        request: &Request,
        now: Instant,
    ) -> Result<(), RejectReason> {
        let full = |Full| RejectReason::Full;
        let (fixed, key) = request::create_session(&request.operation);
        let reply_len = size_of::<SessionReply>();
        if key.len() > session.kind.key_len_max(&self.config)
            || !self.controlq.fits(fixed.len() + key.len(), reply_len)
        {
            return Err(RejectReason::Unsupported);
        }
        if self.sessions.len() >= self.sessions_max {
            self.close_least_used(now).map_err(full)?;
        }
        let create = ControlRequest::Create(session);
        self.control(create, &[&fixed, key], reply_len, now)
            .map_err(full)?;
        self.sessions.insert(session, Session::Opening);
        Ok(())
    }

    fn control(
        &mut self,
        request: ControlRequest,
        parts: &[&[u8]],
        reply_len: usize,
        now: Instant,
    ) -> Result<(), Full> {
        let slot = self.controlq.post(parts, reply_len)?;
        let overdue = now.plus(STRAGGLER_MAX);
        self.control[usize::from(slot)] = Some(Control { request, overdue });
        self.earliest_deadline = self.earliest_deadline.min(overdue);
        Ok(())
    }

    fn finish_control(
        &mut self,
        used: Used,
        now: Instant,
        scratch: &mut Vec<u8>,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let control = self.control[usize::from(used.slot)].take();
        let mut reply = SessionReply::default();
        let expected = reply.as_bytes().len();
        if let Some(ControlRequest::Create(session)) = control.map(|control| control.request) {
            if used.len as usize != expected {
                return Err(DeviceMisbehaved::WrongLength {
                    found: used.len as usize,
                    expected,
                }
                .into());
            }
            self.controlq.read_result(used.slot, reply.as_mut_bytes());
            // It held the key.
            self.controlq.wipe(used.slot);
            self.controlq.release(used.slot);
            self.opened(session, reply, now, scratch, completions)
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
        now: Instant,
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
            self.refuse(session, status, now);
            completions.extend(ours.into_iter().map(|(_, request)| Completion {
                request,
                output: Err(DeviceError::SessionRefused(status)),
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

    /// Takes note that the card has refused a session.
    fn refuse(&mut self, session: SessionKey, status: Status, now: Instant) {
        match status {
            Status::NOSPC => {
                self.sessions.remove(&session);
                // With nothing idle to close, the next request for the key finds out again.
                let _ = self.close_least_used(now);
            }
            Status::NOTSUPP => {
                self.sessions.remove(&session);
                self.refused.insert(session.kind);
            }
            _ => {
                self.sessions.insert(session, Session::Refused);
            }
        }
    }

    /// Makes room on the card by closing the idle session that was used longest ago.
    fn close_least_used(&mut self, now: Instant) -> Result<(), Full> {
        let idle = self
            .sessions
            .iter()
            .filter_map(|(session, state)| match state {
                Session::Open {
                    id,
                    in_flight: 0,
                    last_use,
                } => Some((*last_use, *session, Some(*id))),
                Session::Refused => Some((0, *session, None)),
                Session::Open { .. } | Session::Opening => None,
            });
        let (_, session, id) = idle.min_by_key(|(last_use, ..)| *last_use).ok_or(Full)?;
        if let Some(id) = id {
            let destroy: [u8; REQUEST_LEN] = request::destroy_session(session, id);
            self.control(ControlRequest::Destroy, &[&destroy], 1, now)?;
        }
        self.sessions.remove(&session);
        Ok(())
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
        // The card may have lost the session meanwhile, and another may be open for the key.
        let mut is_current = false;
        if let Some(Session::Open { id, in_flight, .. }) = self.sessions.get_mut(&posted.session)
            && *id == posted.session_id
        {
            is_current = true;
            *in_flight = in_flight.saturating_sub(1);
        }
        let outcome = posted
            .request
            .is_some()
            .then(|| self.read_output(used, posted.result));
        if posted.confidential {
            self.dataq.wipe(used.slot);
        }
        self.dataq.release(used.slot);
        let (Some(request), Some(output)) = (posted.request, outcome) else {
            counters.stragglers += 1;
            return Ok(());
        };
        self.posted_count -= 1;
        if is_current && output == Err(DeviceError::Failed(Status::INVSESS)) {
            // The card has lost the session; the next request opens it again.
            counters.sessions_lost += 1;
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
    ///
    /// A card that has kept a request far too long has lost it: that is an error of the card.
    fn expire(
        &mut self,
        now: Instant,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DeviceError> {
        let mut next = Instant::NEVER;
        let mut is_stuck = false;
        for posted in self.posted.iter_mut().flatten() {
            if posted.request.is_some() && posted.deadline <= now {
                completions.extend(posted.request.take().map(timed_out));
                self.posted_count -= 1;
            }
            let due = match posted.request {
                Some(_) => posted.deadline,
                None => posted.deadline.plus(STRAGGLER_MAX),
            };
            is_stuck |= due <= now;
            next = next.min(due);
        }
        for control in self.control.iter().flatten() {
            is_stuck |= control.overdue <= now;
            next = next.min(control.overdue);
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
        if is_stuck {
            return Err(DeviceMisbehaved::RingStuck.into());
        }
        Ok(())
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
        self.posted_count = 0;
        self.earliest_deadline = Instant::NEVER;
    }

    /// Rings the doorbells that are due, and returns how many.
    fn announce(&mut self) -> Result<u64, DeviceError> {
        let control = self.controlq.announce().map_err(device_error)?;
        let data = self.dataq.announce().map_err(device_error)?;
        Ok(u64::from(control) + u64::from(data))
    }
}

fn rejected(request: Request, reason: RejectReason) -> Rejected {
    Rejected { request, reason }
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

/// Empties an eventfd and says how often it was signalled. A vfio-user server that signals it shares the
/// descriptor's flags and could make it block, so each read says for itself that it must not.
fn drain(event: &OwnedFd) -> u64 {
    /// As `read` has none.
    const NO_OFFSET: u64 = u64::MAX;
    let mut count = [0; 8];
    let mut into = [IoSliceMut::new(&mut count)];
    match rustix::io::preadv2(event, &mut into, NO_OFFSET, ReadWriteFlags::NOWAIT) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

/// Whether completions that are found now have been announced by an interrupt.
#[derive(Clone, Copy)]
enum Announced {
    /// None had been asked for.
    NotAsked,
    No,
    Yes,
}

impl Announced {
    fn count(self, counters: &mut Counters) {
        counters.completions_due += u64::from(!matches!(self, Self::NotAsked));
        counters.completions_unannounced += u64::from(matches!(self, Self::No));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_setfl};

    #[test]
    fn an_interrupt_that_was_made_to_block_is_looked_for_without_waiting() {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        fcntl_setfl(&event, OFlags::empty()).unwrap();
        assert_eq!(drain(&event), 0);
        rustix::io::write(&event, &3_u64.to_ne_bytes()).unwrap();
        assert_eq!(drain(&event), 3);
        assert_eq!(drain(&event), 0);
    }
}
