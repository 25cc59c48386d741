//! Chooses where work goes, and decides when an answer may leave.
//!
//! [`core`] holds the policy and is told the time; this module drives it: it hands requests in
//! from any thread, waits for accelerators in one, verifies each answer in the thread that asked
//! for it, and does there in software what no accelerator has answered well.
//!
//! ```text
//!   caller's thread          |  driver (a thread, or a task of a tokio runtime)
//!                            |
//!   perform: submit ------- core ------- poll, reset, arm, wait for events
//!     wait <--- arrival -----|-------------'
//!     verify, or software    |
//!     settle --------------- core
//! ```
//!
//! A driver that is a task may share its thread with whoever signs in software, or waits there, so who has
//! signed polls as well, and who waits does now and then. To poll takes back the wish for an event: whoever does it while the driver sleeps
//! arms again, or wakes the driver.

pub mod admission;
pub mod breaker;
pub mod choice;
pub mod core;
pub mod direct;
pub mod hedge;
pub mod verify;

mod driver;
mod events;
#[cfg(test)]
mod models;
mod outlook;
mod quantile;
mod release;
mod speed;
mod waiting;

use self::choice::{Caller, Choice, Reason};
use self::core::{Arrival, Core, Ending, LaneStatus, Offload, Options, Placed, Requests};
use crate::accelerator::class::Class;
use crate::accelerator::software::{self, OperationError};
use crate::accelerator::{Accelerator, Algorithm, DeviceMisbehaved, Operation, RequestId, Secret};
use crate::clock::{Clock, Instant, SystemClock};
use crate::key::{AeadKey, SignatureScheme, SigningKey};
use driver::{Inner, Locked};
use outlook::{Interest, Outlook};
use release::{Released, begin, in_software, release};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use waiting::Bell;

/// Time between two looks for answers of a thread that waits and may keep the driver from them.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Routes operations to accelerators, with software behind them.
///
/// Cheap to clone; clones are the same router. Dropping the last one stops its driver and lets go
/// of the accelerators, which takes as long as a reset that is under way; of one on
/// [tokio](Router::start_on_tokio) it does not wait for that.
#[derive(Clone)]
pub struct Router(Arc<Owner>);

/// Stops the driver when the last router is dropped; the driver itself holds only [`Shared`].
struct Owner {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What callers and driver share.
struct Shared {
    /// `None` if there is no accelerator, and so nothing to decide.
    inner: Option<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
    options: Options,
    outlook: Outlook,
    inline: InlineCount,
    wake: driver::Wake,
    /// It may have no thread of its own to look for answers in.
    driver_is_a_task: bool,
}

/// The router could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the router could not be started")]
pub struct StartError(#[source] io::Error);

impl Router {
    /// A router that does everything in software.
    #[must_use]
    pub fn software() -> Self {
        let options = Options {
            offload: Offload::NOTHING,
            ..Options::default()
        };
        let shared = Shared::new(None, options, driver::Wake::unused());
        Self(Arc::new(Owner {
            shared: Arc::new(shared),
            thread: None,
        }))
    }

    /// A router over `accelerators`, driven by a thread of its own; of those that answer equally soon
    /// the first is preferred. They are brought up in the background; until then, and whenever they
    /// fail or do not [pay](choice), software answers.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the kernel gives no thread or descriptors.
    pub fn start(
        accelerators: Vec<Box<dyn Accelerator>>,
        options: Options,
    ) -> Result<Self, StartError> {
        if accelerators.is_empty() {
            return Ok(Self::software());
        }
        let shared = Arc::new(Self::prepare(accelerators, options)?);
        let driven = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("hwshim-router".to_owned())
            .spawn(move || driver::run(&driven))
            .map_err(StartError)?;
        Ok(Self(Arc::new(Owner {
            shared,
            thread: Some(thread),
        })))
    }

    /// Like [`Router::start`], driven by a task on the tokio runtime that this is called in, which
    /// must have its I/O and time drivers enabled.
    ///
    /// Neither the drop of the last router nor that of the runtime waits for a reset under way: it ends on
    /// a thread of its own, and its accelerator may be held until then.
    ///
    /// # Errors
    ///
    /// [`StartError`], also when called outside of a runtime.
    pub fn start_on_tokio(
        accelerators: Vec<Box<dyn Accelerator>>,
        options: Options,
    ) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| StartError(io::Error::other(error)))?;
        if accelerators.is_empty() {
            return Ok(Self::software());
        }
        let cores = options.cores.min(runtime.metrics().num_workers());
        let mut shared = Self::prepare(accelerators, Options { cores, ..options })?;
        shared.driver_is_a_task = true;
        let shared = Arc::new(shared);
        runtime.spawn(driver::run_on_tokio(Arc::clone(&shared)));
        Ok(Self(Arc::new(Owner {
            shared,
            thread: None,
        })))
    }

    fn prepare(
        accelerators: Vec<Box<dyn Accelerator>>,
        options: Options,
    ) -> Result<Shared, StartError> {
        let wake = driver::Wake::new().map_err(StartError)?;
        let inner = Inner::new(Core::new(accelerators, options));
        Ok(Shared::new(Some(Mutex::new(inner)), options, wake))
    }

    /// Performs `operation` and blocks until it is done, by the deadline plus the time software
    /// takes at the latest.
    ///
    /// # Errors
    ///
    /// [`OperationError`]: what software will not do either. An accelerator's failure is never
    /// the caller's error.
    pub fn perform(&self, operation: Operation) -> Result<Vec<u8>, OperationError> {
        self.perform_within(operation, self.0.shared.options.timeout)
    }

    /// Like [`Router::perform`], with `timeout` for accelerators instead of the router's own.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`].
    pub fn perform_within(
        &self,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Vec<u8>, OperationError> {
        let shared = &self.0.shared;
        let mut bell = None;
        let waker = || Waker::from(Arc::clone(bell.insert(Bell::for_this_thread())));
        match shared.place(Caller::Thread, operation, timeout, waker) {
            Work::Inline(operation) => shared.perform_inline(&operation),
            Work::Refused(error) => Err(error),
            Work::InSoftware(guard, operation) => guard.perform_in_software(&operation),
            Work::OnCard(guard) => {
                match guard.wait(bell.expect("who is waited for has been told how to wake")) {
                    Some(arrival) => guard.settle(arrival),
                    None => Err(OperationError::RouterStopped),
                }
            }
        }
    }

    /// Performs `operation` without blocking while an accelerator works on it. What is left to
    /// software is done in the task itself, as plain software crypto would be.
    ///
    /// Dropping the future gives the operation up; an answer that still comes is discarded.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`].
    pub fn perform_async(
        &self,
        operation: Operation,
    ) -> impl Future<Output = Result<Vec<u8>, OperationError>> {
        self.perform_async_within(operation, self.0.shared.options.timeout)
    }

    /// Like [`Router::perform_async`], with `timeout` for accelerators instead of the router's own.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`].
    pub async fn perform_async_within(
        &self,
        operation: Operation,
        timeout: Duration,
    ) -> Result<Vec<u8>, OperationError> {
        let shared = &self.0.shared;
        let mut operation = Some(operation);
        let place = |context: &mut Context<'_>| {
            let operation = operation.take();
            let operation = operation.expect("what is ready at once is polled once");
            let waker = || context.waker().clone();
            Poll::Ready(shared.place(Caller::Task, operation, timeout, waker))
        };
        let output = match poll_fn(place).await {
            Work::Inline(operation) => shared.perform_inline(&operation),
            Work::Refused(error) => Err(error),
            Work::InSoftware(guard, operation) => guard.perform_in_software(&operation),
            Work::OnCard(guard) => {
                return match guard.arrival().await {
                    Some(arrival) => guard.settle(arrival),
                    None => Err(OperationError::RouterStopped),
                };
            }
        };
        // A task that never has to wait must still let others run, the router's own first of all.
        tokio::task::consume_budget().await;
        output
    }

    /// Signs `message`.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`].
    pub fn sign(
        &self,
        key: &Arc<SigningKey>,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, OperationError> {
        let shared = &self.0.shared;
        if !shared.offloads(Algorithm::Sign(scheme)) && !key.is_elsewhere() {
            return shared.inline.counted(software::sign(key, scheme, message));
        }
        self.perform(sign_operation(key, scheme, message)?)
    }

    /// Signs `message` without blocking while an accelerator works on it.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`].
    pub async fn sign_async(
        &self,
        key: &Arc<SigningKey>,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, OperationError> {
        let shared = &self.0.shared;
        if !shared.offloads(Algorithm::Sign(scheme)) && !key.is_elsewhere() {
            let signature = shared.inline.counted(software::sign(key, scheme, message));
            tokio::task::consume_budget().await;
            return signature;
        }
        self.perform_async(sign_operation(key, scheme, message)?)
            .await
    }

    /// Encrypts `buffer` and appends the tag.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`]. `buffer` is unchanged then.
    #[inline]
    pub fn seal_in_place(
        &self,
        key: &Arc<AeadKey>,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), OperationError> {
        let shared = &self.0.shared;
        if !shared.offloads(Algorithm::AesGcm) {
            let sealed = software::seal_in_place(key, nonce, aad, buffer);
            return shared.inline.counted(sealed);
        }
        *buffer = self.perform(Operation::Seal {
            key: Arc::clone(key),
            nonce,
            aad: aad.to_vec(),
            plaintext: Secret::from(&buffer[..]),
        })?;
        Ok(())
    }

    /// Checks the tag at the end of `buffer`, decrypts and drops the tag.
    ///
    /// # Errors
    ///
    /// As for [`Router::perform`]; what is in `buffer` is then not plaintext.
    #[inline]
    pub fn open_in_place(
        &self,
        key: &Arc<AeadKey>,
        nonce: [u8; 12],
        aad: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), OperationError> {
        let shared = &self.0.shared;
        if !shared.offloads(Algorithm::AesGcm) {
            let opened = software::open_in_place(key, nonce, aad, buffer);
            return shared.inline.counted(opened);
        }
        *buffer = self.perform(Operation::Open {
            key: Arc::clone(key),
            nonce,
            aad: aad.to_vec(),
            sealed: std::mem::take(buffer),
        })?;
        Ok(())
    }

    /// Whether a signature would go to an accelerator if it were asked for now, and if not, why.
    ///
    /// For callers to whom handing over is work of their own, so that they need not begin in vain. It takes
    /// no lock but for the first of a kind, and what it says is advice: the request, when it comes, is
    /// decided about anew. Who is told to stay in software is taken to do so; one of many is told
    /// otherwise, so that an accelerator that has become faster is found out.
    #[must_use]
    pub fn would_offload(
        &self,
        scheme: SignatureScheme,
        key: &SigningKey,
        caller: Caller,
    ) -> Choice {
        let shared = &self.0.shared;
        if shared.inner.is_none() {
            return Choice::Software(Reason::NoAccelerator);
        }
        let class = Class::of_signature(scheme, key);
        let algorithm = Algorithm::Sign(scheme);
        shared.look_out_for(Interest::of(algorithm, class));
        if key.is_elsewhere() {
            return shared.outlook.choose_for_key_elsewhere(algorithm, class);
        }
        shared
            .outlook
            .choose(algorithm, class, caller, &shared.options)
    }

    /// How it decides.
    #[must_use]
    pub fn options(&self) -> Options {
        self.0.shared.options
    }

    /// Whether there is any accelerator at all, in use or not.
    #[cfg(feature = "tls")]
    pub(crate) fn has_accelerators(&self) -> bool {
        self.0.shared.inner.is_some()
    }

    /// Announces a signature that will be asked for soon, until what is returned is dropped.
    ///
    /// A server whose one thread signs in software sees one request at a time, however many
    /// connections wait: each is over before the next is asked for. Announced when a client has
    /// begun to speak and dropped when its signature is asked for, they count, and offloading begins
    /// with the second. Whoever asks [`Router::would_offload`] must have dropped its own by then.
    #[must_use = "it is withdrawn when it is dropped"]
    pub fn announce(&self) -> Announced {
        self.0.shared.outlook.announce();
        Announced(Arc::clone(&self.0.shared))
    }

    /// Has `sign` make a signature in software that is not handed in, after [`Router::would_offload`]
    /// advised it: it counts as software's work as long as it takes. How long that is, is measured now
    /// and then.
    ///
    /// # Errors
    ///
    /// Those of `sign`.
    pub fn sign_beside<T, E>(
        &self,
        scheme: SignatureScheme,
        key: &SigningKey,
        sign: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let shared = &self.0.shared;
        if shared.inner.is_none() {
            return sign();
        }
        let class = Class::of_signature(scheme, key);
        let begun = shared.outlook.is_timed(class).then(|| shared.clock.now());
        let at_work = shared.outlook.begin_beside();
        let signature = sign()?;
        drop(at_work);
        if begun.is_none() && !shared.owes_a_look() {
            return Ok(signature);
        }
        let took = begun.map(|begun| shared.clock.now().since(begun));
        if let Some(mut inner) = shared.lock() {
            if let Some(took) = took {
                inner.core.took_beside(class, took);
            }
            shared.look(inner);
        }
        Ok(signature)
    }

    /// Signatures that are announced now.
    #[cfg(all(test, feature = "tls"))]
    pub(crate) fn announced(&self) -> usize {
        self.0.shared.outlook.announced()
    }

    /// What is known of each accelerator, in the order given at the start.
    #[must_use]
    pub fn status(&self) -> Vec<LaneStatus> {
        let Some(inner) = self.0.shared.lock() else {
            return Vec::new();
        };
        (0..inner.core.lane_count())
            .map(|lane| inner.core.status(lane))
            .collect()
    }

    /// Where all requests went, those included that never concerned an accelerator.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let mut sum = self.0.shared.inline.requests();
        if let Some(inner) = self.0.shared.lock() {
            sum += inner.core.requests();
        }
        sum
    }

    /// Requests that never concerned an accelerator.
    #[must_use]
    pub fn requests_inline(&self) -> Requests {
        self.0.shared.inline.requests()
    }

    /// Begins a known-answer test on one accelerator; its end shows in [`Router::status`].
    /// Returns false if the accelerator is not in use.
    #[must_use]
    pub fn begin_check(&self, lane: usize) -> bool {
        let now = self.0.shared.clock.now();
        let begun = self
            .0
            .shared
            .lock()
            .is_some_and(|mut inner| inner.core.begin_check(lane, now));
        if begun {
            self.0.shared.wake.wake();
        }
        begun
    }

    /// Reports that an accelerator has restarted without being asked.
    pub fn report_silent_reboot(&self, lane: usize) {
        let now = self.0.shared.clock.now();
        if let Some(mut inner) = self.0.shared.lock() {
            inner.core.report_silent_reboot(lane, now);
        }
        self.0.shared.wake.wake();
    }
}

/// A signature that will be asked for; see [`Router::announce`].
#[must_use = "it is withdrawn when it is dropped"]
pub struct Announced(Arc<Shared>);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.outlook.withdraw();
    }
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announced(..)")
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(mut inner) = self.shared.lock() {
            inner.stopping = true;
        }
        self.shared.wake.wake();
        // Dropped by whoever is woken by the driver itself, it cannot wait for its own end.
        if let Some(thread) = self.thread.take().filter(|_| !driver::is_this_thread()) {
            // A driver that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// A request on its way, as the caller's thread sees it.
enum Work<'a> {
    /// It concerns no accelerator.
    Inline(Operation),
    InSoftware(Guard<'a>, Arc<Operation>),
    OnCard(Guard<'a>),
    Refused(OperationError),
}

impl Shared {
    fn new(inner: Option<Mutex<Inner>>, options: Options, wake: driver::Wake) -> Self {
        Self {
            options,
            outlook: Outlook::new(),
            inner,
            clock: Arc::new(SystemClock),
            inline: InlineCount::new(),
            wake,
            driver_is_a_task: false,
        }
    }

    #[inline]
    fn offloads(&self, algorithm: Algorithm) -> bool {
        self.options.offload.includes(algorithm)
    }

    fn lock(&self) -> Option<Locked<'_>> {
        let inner = self.inner.as_ref()?;
        #[cfg(test)]
        crate::model::step();
        Some(Locked::new(inner))
    }

    /// Has what a request of such a kind would meet written down from now on.
    fn look_out_for(&self, interest: Interest) {
        if self.outlook.interest().includes(interest) {
            return;
        }
        if let Some(inner) = self.lock() {
            inner.core.publish_also(&self.outlook, interest);
        }
    }

    fn place(
        &self,
        caller: Caller,
        operation: Operation,
        timeout: Duration,
        waker: impl FnOnce() -> Waker,
    ) -> Work<'_> {
        let offloaded = self.offloads(operation.algorithm()) || operation.needs_accelerator();
        let inner = offloaded.then(|| self.lock()).flatten();
        let Some(mut inner) = inner.filter(|inner| !inner.stopping) else {
            return Work::Inline(operation);
        };
        let now = self.clock.now();
        let class = Class::of(&operation);
        inner.core.announce(self.outlook.announced());
        inner.core.beside(self.outlook.beside());
        inner
            .core
            .pass_over(class, self.outlook.take_unheard(class));
        let deadline = now.plus(timeout);
        let operation = Arc::new(operation);
        let placed = inner.core.submit_for(caller, operation, deadline, now);
        inner.core.publish(&self.outlook);
        let guard = |id| Guard {
            shared: self,
            id,
            arrived: false,
        };
        match placed {
            Placed::InSoftware(id, operation) => {
                let mut guard = guard(id);
                guard.arrived = true;
                Work::InSoftware(guard, operation)
            }
            Placed::Refused(_, error) => Work::Refused(error),
            Placed::OnCard(id) => {
                inner.waiting.expect(id, waker());
                inner.core.flush();
                let overslept = inner.oversleeps();
                // Woken before, the driver would have to wait for the lock at once.
                drop(inner);
                if overslept {
                    self.wake.wake();
                }
                Work::OnCard(guard(id))
            }
        }
    }

    /// How long a thread that waits relies on the driver, which may be a task of this very thread.
    const fn patience(&self) -> Duration {
        match self.driver_is_a_task {
            true => LOOK_INTERVAL,
            false => Duration::MAX,
        }
    }

    /// Whether who has kept a thread busy owes a look for answers to those that wait for them, as a driver
    /// on the same thread could not: it would find them late, and the accelerator would seem slow.
    fn owes_a_look(&self) -> bool {
        self.driver_is_a_task && self.outlook.in_flight() > 0
    }

    /// Takes the look that is owed, if one is, and lets go of the lock.
    fn look(&self, mut inner: Locked<'_>) {
        let looks = !inner.stopping && self.owes_a_look();
        if looks {
            inner.poll(self.clock.now());
        }
        inner.core.publish(&self.outlook);
        let sleeps = looks && inner.sleeping_until != Instant::ORIGIN;
        let has_to_wake = sleeps && (!inner.core.arm() || inner.oversleeps());
        drop(inner);
        if has_to_wake {
            self.wake.wake();
        }
    }

    fn perform_inline(&self, operation: &Operation) -> Result<Vec<u8>, OperationError> {
        self.inline.counted(software::perform(operation))
    }
}

/// A request that somebody waits for. Dropped without being settled, it is given up.
struct Guard<'a> {
    shared: &'a Shared,
    id: RequestId,
    arrived: bool,
}

impl Guard<'_> {
    /// What arrives; `None` if nothing will, as the driver has ended. To be awaited by the task that
    /// has placed the request, before it does anything else.
    async fn arrival(&self) -> Option<Arrival> {
        let mut was_placed_now = true;
        poll_fn(|context| {
            // Who was to be woken is told with the request, and this very poll has placed it.
            if std::mem::take(&mut was_placed_now) {
                return Poll::Pending;
            }
            self.take(context.waker())
        })
        .await
    }

    /// The same, in the thread that has placed it with this bell.
    fn wait(&self, bell: Arc<Bell>) -> Option<Arrival> {
        let waker = Waker::from(Arc::clone(&bell));
        loop {
            // It may still have been rung for a request before.
            let was_rung = bell.wait(self.shared.patience());
            if !was_rung && let Some(inner) = self.shared.lock() {
                self.shared.look(inner);
            }
            if let Poll::Ready(arrival) = self.take(&waker) {
                return arrival;
            }
        }
    }

    fn take(&self, waker: &Waker) -> Poll<Option<Arrival>> {
        match self.shared.lock() {
            Some(mut inner) => inner.waiting.take(self.id, waker),
            None => Poll::Ready(None),
        }
    }

    /// Verifies the answer, or does the operation in software.
    fn settle(mut self, arrival: Arrival) -> Result<Vec<u8>, OperationError> {
        self.arrived = true;
        let Arrival {
            operation,
            answer,
            share,
            ..
        } = arrival;
        let begun = begin(&operation, &*self.shared.clock);
        let released = release(&operation, answer, share.as_ref(), |rule| self.reject(rule));
        self.end(begun, released)
    }

    fn perform_in_software(self, operation: &Operation) -> Result<Vec<u8>, OperationError> {
        let begun = begin(operation, &*self.shared.clock);
        self.end(begun, in_software(operation))
    }

    fn end(self, begun: Option<Instant>, released: Released) -> Result<Vec<u8>, OperationError> {
        let took = begun.and_then(|begun| released.took(self.shared.clock.now().since(begun)));
        let Released { output, ending, .. } = released;
        if let Some(mut inner) = self.shared.lock() {
            if let Some(took) = took {
                inner.core.took(self.id, took);
            }
            inner.core.settle(self.id, &ending);
            if matches!(ending, Ending::Software) {
                self.shared.look(inner);
            } else {
                inner.core.publish(&self.shared.outlook);
            }
        }
        // Settled, so there is nothing to give up.
        std::mem::forget(self);
        output
    }

    fn reject(&self, rule: &DeviceMisbehaved) {
        if let Some(mut inner) = self.shared.lock() {
            inner.core.reject(self.id, rule, self.shared.clock.now());
        }
        self.shared.wake.wake();
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut inner) = self.shared.lock() {
            // Delivered and not looked at is arrived as well.
            let arrived = self.arrived || !inner.waiting.forget(self.id);
            inner.core.abandon(self.id, arrived);
        }
    }
}

fn sign_operation(
    key: &Arc<SigningKey>,
    scheme: SignatureScheme,
    message: &[u8],
) -> Result<Operation, OperationError> {
    if !key.supports(scheme) {
        return Err(OperationError::WrongKey(scheme));
    }
    Ok(Operation::Sign {
        key: Arc::clone(key),
        scheme,
        message: Secret::from(message),
    })
}

/// Counts operations that are over as soon as they have begun. Each thread counts for itself, so
/// that counting costs no locked instruction.
struct InlineCount {
    id: u64,
    threads: Mutex<Vec<Arc<ThreadCount>>>,
}

#[derive(Default)]
struct ThreadCount {
    software: AtomicU64,
    refused: AtomicU64,
}

thread_local! {
    static COUNTS: RefCell<Vec<(u64, Arc<ThreadCount>)>> = const { RefCell::new(Vec::new()) };
}

impl InlineCount {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            threads: Mutex::new(Vec::new()),
        }
    }

    /// Counts an operation by how it ended, and passes its output on.
    #[inline]
    fn counted<T>(&self, output: Result<T, OperationError>) -> Result<T, OperationError> {
        self.record(output.is_ok());
        output
    }

    #[inline]
    fn record(&self, answered: bool) {
        // A thread that is ending has counted what it had to.
        let _ = COUNTS.try_with(|counts| {
            let mut counts = counts.borrow_mut();
            let counts = &mut *counts;
            let known = counts.iter().position(|(id, _)| *id == self.id);
            let index = known.unwrap_or_else(|| self.register(counts));
            let count = &counts[index].1;
            let count = if answered {
                &count.software
            } else {
                &count.refused
            };
            // The only writer is this thread.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        });
    }

    #[cold]
    fn register(&self, counts: &mut Vec<(u64, Arc<ThreadCount>)>) -> usize {
        let count = Arc::new(ThreadCount::default());
        let mut threads = self.lock();
        fold_ended(&mut threads);
        threads.push(Arc::clone(&count));
        drop(threads);
        // Counts of routers that are gone are held by this thread alone.
        counts.retain(|(_, count)| Arc::strong_count(count) > 1);
        counts.push((self.id, count));
        counts.len() - 1
    }

    fn requests(&self) -> Requests {
        let mut threads = self.lock();
        fold_ended(&mut threads);
        let sum = |count: fn(&ThreadCount) -> &AtomicU64| {
            threads
                .iter()
                .map(|thread| count(thread).load(Ordering::Relaxed))
                .sum()
        };
        let (software, refused): (u64, u64) =
            (sum(|count| &count.software), sum(|count| &count.refused));
        Requests {
            submitted: software + refused,
            software,
            refused,
            ..Requests::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<ThreadCount>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds up what threads that have ended have counted: they come and go, and one entry serves all.
fn fold_ended(threads: &mut Vec<Arc<ThreadCount>>) {
    let gone = ThreadCount::default();
    threads.retain(|thread| {
        let ended = Arc::strong_count(thread) == 1;
        if ended {
            // The thread's last count came before it let go of its entry.
            std::sync::atomic::fence(Ordering::Acquire);
            let add = |to: &AtomicU64, from: &AtomicU64| {
                to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
            };
            add(&gone.software, &thread.software);
            add(&gone.refused, &thread.refused);
        }
        !ended
    });
    threads.push(Arc::new(gone));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::software::Ring;
    use crate::key::HashAlgorithm;
    use std::pin::{Pin, pin};
    use std::sync::mpsc;
    use std::task::Wake;

    /// Nothing takes as long unless it hangs.
    const PATIENT: Duration = Duration::from_secs(60);

    fn digest() -> Operation {
        Operation::Digest {
            hash: HashAlgorithm::Sha256,
            message: Secret::from(&b"message"[..]),
        }
    }

    /// One whose accelerator gets everything, and has begun to.
    fn offloading() -> Router {
        let options = Options {
            offload: Offload::EVERYTHING,
            ..Options::default()
        };
        let router = Router::start(vec![Box::new(Ring::default())], options).unwrap();
        while router.requests().card == 0 {
            router.perform(digest()).unwrap();
        }
        router
    }

    #[test]
    fn who_is_woken_may_ask_the_router_at_once() {
        struct Asks(Router, mpsc::SyncSender<()>);
        impl Wake for Asks {
            fn wake(self: Arc<Self>) {
                let _ = self.0.requests();
                let _ = self.1.try_send(());
            }
        }
        let router = offloading();
        let (woken, is_woken) = mpsc::sync_channel(1);
        let waker = Waker::from(Arc::new(Asks(router.clone(), woken)));
        let mut context = Context::from_waker(&waker);
        let mut performed = pin!(router.perform_async(digest()));
        while performed.as_mut().poll(&mut context).is_pending() {
            is_woken.recv_timeout(PATIENT).unwrap();
        }
    }

    #[test]
    fn who_is_woken_may_drop_the_last_router() {
        type Performed = Pin<Box<dyn Future<Output = Result<Vec<u8>, OperationError>> + Send>>;
        /// As an executor has it that is shutting down: what is woken is dropped.
        struct Task(Mutex<Option<Performed>>, mpsc::SyncSender<()>);
        impl Wake for Task {
            fn wake(self: Arc<Self>) {
                drop(self.0.lock().unwrap().take());
                let _ = self.1.try_send(());
            }
        }
        let router = offloading();
        let performed: Performed = Box::pin(async move { router.perform_async(digest()).await });
        let (woken, is_woken) = mpsc::sync_channel(1);
        let task = Arc::new(Task(Mutex::new(Some(performed)), woken));
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        let mut performed = task.0.lock().unwrap();
        let is_pending = performed
            .as_mut()
            .unwrap()
            .as_mut()
            .poll(&mut context)
            .is_pending();
        assert!(is_pending, "it was to go to the accelerator");
        drop(performed);
        assert_eq!(is_woken.recv_timeout(PATIENT), Ok(()));
    }

    #[test]
    fn a_task_that_blocks_the_drivers_only_thread_still_gets_its_answer() {
        let (answered, are_answered) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let by_card = runtime.block_on(async {
                let options = Options {
                    offload: Offload::EVERYTHING,
                    ..Options::default()
                };
                let ring: Box<dyn Accelerator> = Box::new(Ring::default());
                let router = Router::start_on_tokio(vec![ring], options).unwrap();
                while router.requests().card == 0 {
                    router.perform_async(digest()).await.unwrap();
                }
                let before = router.requests().card;
                router.perform(digest()).unwrap();
                router.requests().card - before
            });
            answered.send(by_card).unwrap();
        });
        assert_eq!(are_answered.recv_timeout(PATIENT), Ok(1));
    }

    #[test]
    fn a_thread_that_is_ending_still_gets_its_answer() {
        struct AsksAtLast(Router, mpsc::SyncSender<bool>);
        impl Drop for AsksAtLast {
            fn drop(&mut self) {
                let _ = self.1.send(self.0.perform(digest()).is_ok());
            }
        }
        thread_local! {
            static LAST: RefCell<Option<AsksAtLast>> = const { RefCell::new(None) };
        }
        let router = offloading();
        let (asked, is_answered) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            // Dropped after whatever the first question leaves in this thread.
            LAST.set(Some(AsksAtLast(router.clone(), asked)));
            router.perform(digest()).unwrap();
        });
        assert_eq!(is_answered.recv_timeout(PATIENT), Ok(true));
    }

    #[test]
    fn a_server_with_one_thread_has_one_core_however_many_the_machine_has() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let options = Options {
            cores: 64,
            ..Options::default()
        };
        let router = Router::start_on_tokio(vec![Box::new(Ring::default())], options).unwrap();
        assert_eq!(router.0.shared.options.cores, 1);
    }
}
