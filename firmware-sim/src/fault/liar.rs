//! The one place where lies are told: around an honest engine, and between an honest card and its
//! slot.
//!
//! What acts when is for the [script](super::script) to say; here is what that means. A
//! `LyingEngine` gives answers that are wrong; the `Liar` delivers answers wrongly, and is what
//! happens to the firmware, the link and the light.

use super::Fault;
use super::forgery::{self, NonceSeed};
use super::led::{Light, Showing};
use super::script::{Acts, Script, SharedScript};
use super::trigger::{Algorithm, Seen, create_opcode_of, opcode_of};
use card_device::engine::{Engine, KeyType, Offer, Operation, RsaPadding, Session, SessionSpec};
use card_device::interposer::{Answered, Delivery, Hands, Interposer, Place, When};
use card_device::{Card, CardConfig, CardConfigError};
use card_spec::crypto::{Status, data_opcode, service};
use card_spec::health::{ControllerStatus, CriticalWarning, led, uncorrectable};
use card_spec::pci::{self, LinkCapabilities, LinkStatus, capability, extended_capability};
use card_spec::virtio_pci::status;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use zerocopy::little_endian::{U16, U32};
use zeroize::Zeroizing;

/// Makes an honest card that lies as `script` says.
///
/// # Errors
///
/// See [`CardConfigError`].
pub fn beset(
    config: &CardConfig,
    engine: Arc<dyn Engine>,
    script: SharedScript,
) -> Result<Card, CardConfigError> {
    let stuck = lock(&script).draw();
    let light = Light::new(lock(&script).random().fork());
    let shared = Arc::new(Shared {
        script,
        algorithms: Mutex::default(),
        stuck,
        stuck_signed: Mutex::default(),
    });
    let lying = LyingEngine {
        inner: engine,
        shared: Arc::clone(&shared),
    };
    let mut card = Card::new(config, Arc::new(lying))?;
    card.interpose(Box::new(Liar {
        shared,
        light,
        origin: None,
        now: Duration::ZERO,
        busy_until: vec![Duration::ZERO; config.engine_count],
        celsius: AMBIENT_CELSIUS,
        throttle: 1.0,
        heated_at: Duration::ZERO,
        answers: 0,
        load: Load::default(),
        device_status: 0,
        stuck_in_reset: false,
        is_removed: false,
        is_needed: false,
        is_wedged: false,
        self_test: None,
        link: None,
    }));
    Ok(card)
}

/// What engine and interposer share.
#[derive(Debug)]
struct Shared {
    script: SharedScript,
    /// What the open sessions are for. Never locked while the script is.
    algorithms: Mutex<BTreeMap<u64, Algorithm>>,
    /// What a random number generator that is stuck gives.
    stuck: NonceSeed,
    /// What each key has signed first with that, by the hash of the key: it outlives sessions.
    stuck_signed: Mutex<BTreeMap<[u8; 32], Vec<u8>>>,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    fn algorithms(&self) -> MutexGuard<'_, BTreeMap<u64, Algorithm>> {
        lock(&self.algorithms)
    }

    /// Takes note that `key` has signed `digest` with the nonce of a stuck generator, and returns
    /// whether it had signed another before.
    fn reuses_stuck(&self, key: &[u8], digest: &[u8]) -> bool {
        let mut signed = lock(&self.stuck_signed);
        let first = signed.entry(Sha256::digest(key).into());
        first.or_insert_with(|| digest.to_vec()) != digest
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Script {
    fn draw(&mut self) -> NonceSeed {
        let mut seed = [0; 48];
        self.random().fill(&mut seed);
        seed
    }
}

/// An engine whose answers are wrong when the script says so.
#[derive(Debug)]
struct LyingEngine {
    inner: Arc<dyn Engine>,
    shared: Arc<Shared>,
}

impl Engine for LyingEngine {
    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let seen = Seen {
            opcode: create_opcode_of(spec),
            algorithm: Some(Algorithm::of(spec)),
            session_id: 0,
        };
        let refused = self
            .shared
            .script()
            .strike(Acts::OnSessions, Some(&seen), |_| true);
        if !refused.is_empty() {
            return Err(Status::NOSPC);
        }
        Ok(Arc::new(LyingSession {
            inner: self.inner.open(spec, key)?,
            raw: self.open_raw(spec, key),
            shared: Arc::clone(&self.shared),
            spec: *spec,
            key: Zeroizing::new(key.to_vec()),
            id: AtomicU64::new(0),
            nonce: OnceLock::new(),
            nonce_signed: OnceLock::new(),
        }))
    }
}

impl LyingEngine {
    /// The same public key without padding, for one who pads by himself.
    fn open_raw(&self, spec: &SessionSpec, key: &[u8]) -> Option<Arc<dyn Session>> {
        let SessionSpec::Rsa {
            key: KeyType::Public,
            padding: RsaPadding::Pkcs1 { .. },
        } = spec
        else {
            return None;
        };
        let raw = SessionSpec::Rsa {
            key: KeyType::Public,
            padding: RsaPadding::Raw,
        };
        self.inner.open(&raw, key).ok()
    }
}

struct LyingSession {
    inner: Arc<dyn Session>,
    raw: Option<Arc<dyn Session>>,
    shared: Arc<Shared>,
    spec: SessionSpec,
    key: Zeroizing<Vec<u8>>,
    /// 0 until the card has given it one.
    id: AtomicU64,
    /// The nonce that is repeated.
    nonce: OnceLock<NonceSeed>,
    /// What that was used for first.
    nonce_signed: OnceLock<Vec<u8>>,
}

impl Session for LyingSession {
    fn opened(&self, session_id: u64) {
        self.id.store(session_id, Ordering::Relaxed);
        let algorithm = Algorithm::of(&self.spec);
        self.shared.algorithms().insert(session_id, algorithm);
        self.inner.opened(session_id);
    }

    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let lies = self.lies(operation)?;
        let (computed, mut is_spoiled) = self.answer(operation, output, &lies);
        let mut outcome = computed;
        for lie in &lies {
            let answered = outcome;
            match lie {
                Fault::FlippedBit => {
                    outcome = self.flip(outcome, output);
                    is_spoiled |= outcome != answered || outcome.is_ok_and(|len| len > 0);
                }
                Fault::CrtFault => is_spoiled |= self.spoil(outcome, output),
                Fault::ShortResult { bytes } => {
                    let missing = usize::try_from(*bytes).unwrap_or(usize::MAX);
                    outcome = outcome.map(|len| len.saturating_sub(missing));
                    is_spoiled |= outcome != answered;
                }
                Fault::ErrorStatus { status } => outcome = Err(*status),
                _ => {}
            }
        }
        let is_wrong = match operation {
            // Rejection is one half of what it can say, and wrong if the other half is right.
            Operation::Verify { .. } if lies.contains(&Fault::WrongMessage) => {
                is_opposite(self.inner.execute(operation, output), outcome)
            }
            Operation::Verify { .. } => is_opposite(computed, outcome),
            // Whoever gets an error gets no wrong answer.
            _ => is_spoiled && outcome.is_ok(),
        };
        if is_wrong {
            self.shared.script().note_spoiled();
        }
        outcome
    }
}

impl LyingSession {
    /// The lies to tell about `operation`; an error if it is refused altogether.
    fn lies(&self, operation: &Operation<'_>) -> Result<Vec<Fault>, Status> {
        let seen = Seen {
            opcode: opcode_of(operation),
            algorithm: Some(Algorithm::of(&self.spec)),
            session_id: self.id.load(Ordering::Relaxed),
        };
        let mut script = self.shared.script();
        if script.is_idle() {
            return Ok(Vec::new());
        }
        let takes_private_key = matches!(
            operation,
            Operation::Sign { .. } | Operation::Decrypt { .. }
        );
        let fails_closed = |fault: &Fault| matches!(fault, Fault::SelfTestFailure { .. });
        if takes_private_key && script.acting().any(fails_closed) {
            return Err(Status::ERR);
        }
        Ok(script.strike(Acts::OnRequests, Some(&seen), |fault| {
            self.could_be(fault, operation)
        }))
    }

    /// Whether a lie makes a difference here.
    fn could_be(&self, fault: &Fault, operation: &Operation<'_>) -> bool {
        let is_verification = matches!(operation, Operation::Verify { .. });
        match fault {
            Fault::CrtFault => matches!(
                (self.spec, operation),
                (SessionSpec::Rsa { .. }, Operation::Sign { .. })
                    | (
                        SessionSpec::Rsa {
                            padding: RsaPadding::Raw,
                            ..
                        },
                        Operation::Decrypt { .. }
                    )
            ),
            Fault::RepeatedNonce => self.signs_with_nonce(operation),
            Fault::RngStuck => self.signs_with_nonce(operation) || self.pads(operation),
            Fault::ShortResult { .. } => !is_verification,
            _ => true,
        }
    }

    fn signs_with_nonce(&self, operation: &Operation<'_>) -> bool {
        matches!(self.spec, SessionSpec::Ecdsa { .. })
            && matches!(operation, Operation::Sign { .. })
    }

    fn pads(&self, operation: &Operation<'_>) -> bool {
        self.raw.is_some() && matches!(operation, Operation::Encrypt { .. })
    }

    /// The answer, from which bits may be missing afterwards, and whether it is wrong already.
    fn answer(
        &self,
        operation: &Operation<'_>,
        output: &mut [u8],
        lies: &[Fault],
    ) -> (Result<usize, Status>, bool) {
        let has = |lie: &Fault| lies.contains(lie);
        match (operation, self.spec) {
            (operation, _) if has(&Fault::WrongMessage) => {
                forgery::with_another_message(operation, |other| self.inner.execute(other, output))
            }
            (Operation::Sign { digest }, SessionSpec::Ecdsa { curve, .. })
                if has(&Fault::RepeatedNonce) || has(&Fault::RngStuck) =>
            {
                let is_stuck = has(&Fault::RngStuck);
                let seed = if is_stuck {
                    &self.shared.stuck
                } else {
                    self.nonce.get_or_init(|| self.shared.script().draw())
                };
                // It takes the engine as long as any other.
                let outcome = self.inner.execute(operation, output).and_then(|_| {
                    let signature = forgery::sign_with_nonce(&self.key, curve, seed, digest);
                    crate::engine::deliver(&signature.ok_or(Status::ERR)?, output)
                });
                // Of the first message a nonce says nothing, and nor does what was never signed.
                let is_reused = outcome.is_ok()
                    && if is_stuck {
                        self.shared.reuses_stuck(&self.key, digest)
                    } else {
                        self.nonce_signed.get_or_init(|| digest.to_vec()) != digest
                    };
                (outcome, is_reused)
            }
            (Operation::Encrypt { source }, _) if has(&Fault::RngStuck) => {
                // Whoever decrypts it finds nothing wrong.
                (self.encrypt_with_stuck_padding(source, output), false)
            }
            _ => (self.inner.execute(operation, output), false),
        }
    }

    fn encrypt_with_stuck_padding(
        &self,
        source: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Status> {
        let raw = self.raw.as_ref().ok_or(Status::NOTSUPP)?;
        let block = forgery::pad_with(self.shared.stuck[0], source, output.len());
        let source = &block.ok_or(Status::ERR)?[..];
        raw.execute(&Operation::Encrypt { source }, output)
    }

    /// Flips a bit of a result; of a verification, which has none, what it says.
    fn flip(&self, outcome: Result<usize, Status>, output: &mut [u8]) -> Result<usize, Status> {
        match outcome {
            Ok(0) => Err(Status::KEY_REJECTED),
            Err(Status::KEY_REJECTED) => Ok(0),
            Ok(len) => {
                let mut script = self.shared.script();
                let bit = script.random().u8(0..8);
                output[script.random().usize(..len)] ^= 1 << bit;
                Ok(len)
            }
            Err(status) => Err(status),
        }
    }

    /// Spoils a result, and returns whether it has.
    fn spoil(&self, outcome: Result<usize, Status>, output: &mut [u8]) -> bool {
        let multiple = self.shared.script().random().u32(1..=u32::MAX);
        outcome.is_ok_and(|len| forgery::spoil_crt(&self.key, multiple, &mut output[..len]))
    }
}

/// Whether two verifications say the opposite of each other.
fn is_opposite(one: Result<usize, Status>, other: Result<usize, Status>) -> bool {
    matches!(
        (one, other),
        (Ok(_), Err(Status::KEY_REJECTED)) | (Err(Status::KEY_REJECTED), Ok(_))
    )
}

impl Drop for LyingSession {
    fn drop(&mut self) {
        let id = self.id.load(Ordering::Relaxed);
        self.shared.algorithms().remove(&id);
    }
}

/// How warm it is in the slot, and a card that is well stays.
const AMBIENT_CELSIUS: f64 = 45.0;
const CELSIUS_IN_KELVIN: f64 = 273.15;
/// How much slower a card that is too hot makes itself.
const THROTTLE: f64 = 4.0;
/// How much slower yet where it would be damaged.
const THROTTLE_CRITICAL: f64 = 16.0;

/// What stands between a card and its slot.
struct Liar {
    shared: Arc<Shared>,
    light: Light,
    /// When the card started.
    origin: Option<Duration>,
    now: Duration,
    /// Until when each engine of a slow card is at work.
    busy_until: Vec<Duration>,
    celsius: f64,
    /// How many times as long as usual everything takes because of heat.
    throttle: f64,
    heated_at: Duration,
    answers: u64,
    load: Load,
    /// What device status last was, other than 0.
    device_status: u8,
    stuck_in_reset: bool,
    is_removed: bool,
    /// Requests have come in while work stands still.
    is_needed: bool,
    /// An engine shows a request that it does not answer.
    is_wedged: bool,
    /// The self-test that is reported as failed.
    self_test: Option<u32>,
    /// Width and speed that the link has come up with.
    link: Option<(u8, u8)>,
}

/// How much the card has to do.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    since: Duration,
    answers: u64,
    per_second: f64,
}

/// What the states that act now come to.
#[derive(Debug, Default)]
struct Situation {
    is_removed: bool,
    reset_hangs: bool,
    works_not: bool,
    is_paused: bool,
    self_test: Option<u32>,
    link: Option<(u8, u8)>,
    heat: Option<(f64, f64)>,
    showing: Option<Showing>,
}

impl Situation {
    fn of(script: &Script) -> Self {
        let mut situation = Self::default();
        for fault in script.acting() {
            situation.add(fault);
        }
        situation
    }

    fn add(&mut self, fault: &Fault) {
        match fault {
            Fault::SurpriseRemoval => self.is_removed = true,
            Fault::ResetHangs => self.reset_hangs = true,
            Fault::WorkStops => self.works_not = true,
            Fault::Maintenance => {
                self.is_paused = true;
                self.showing = Some(Showing::Maintenance);
            }
            Fault::SelfTestFailure { test } => self.self_test = Some(*test),
            Fault::Downtrained { width, speed } => self.link = Some((*width, *speed)),
            Fault::OverTemperature { celsius, rate } => {
                self.heat = Some((f64::from(*celsius), *rate));
            }
            Fault::LedIrregular => self.showing = Some(Showing::Irregular),
            Fault::LedStuckOn => self.showing = Some(Showing::StuckOn),
            Fault::LedStuckOff => self.showing = Some(Showing::StuckOff),
            Fault::LedSos { code } => self.showing = Some(Showing::Sos(code.clone())),
            Fault::LedMaintenance => self.showing = Some(Showing::Maintenance),
            Fault::LedInitialization => self.showing = Some(Showing::Initialization),
            _ => {}
        }
    }
}

impl Interposer for Liar {
    fn tick(&mut self, now: Duration, hands: &mut Hands<'_>) {
        let origin = *self.origin.get_or_insert(now);
        let now = now.saturating_sub(origin);
        self.now = now;
        let (pulses, situation, profile) = {
            let mut script = self.shared.script();
            let pulses = script.advance(now);
            (pulses, Situation::of(&script), script.profile())
        };
        self.stuck_in_reset &= situation.reset_hangs;
        self.place(situation.is_removed, hands);
        for pulse in pulses.iter().filter(|_| !situation.is_removed) {
            self.pulse(pulse, hands);
        }
        self.train(situation.link, hands);
        self.wedge(situation.works_not, hands);
        pause(situation.is_paused, hands);
        self.report_self_test(situation.self_test, hands);
        self.warm(situation.heat, hands);
        let showing = situation.showing.unwrap_or(Showing::Healthy);
        let load = self.load.update(now, self.answers);
        for (at, lit) in self.light.advance(now, &showing, profile, load) {
            hands.light(origin + at, lit);
        }
    }

    fn next_tick(&self) -> Option<Duration> {
        let origin = self.origin?;
        let next = self.shared.script().next();
        let edge = self.light.next_edge();
        Some(origin.saturating_add(next.map_or(edge, |next| next.min(edge))))
    }

    fn firmware_runs(&self) -> bool {
        !self.stuck_in_reset && !self.is_acting(|fault| matches!(fault, Fault::Hang { .. }))
    }

    fn firmware_beats(&self) -> bool {
        self.firmware_runs() && !self.is_acting(|fault| *fault == Fault::HeartbeatStops)
    }

    fn admit(&mut self, waiting: usize) -> usize {
        let works_not = |fault: &Fault| {
            matches!(
                fault,
                Fault::WorkStops | Fault::Maintenance | Fault::AllOnes
            )
        };
        if !self.is_acting(works_not) {
            return waiting;
        }
        self.is_needed |= waiting > 0;
        0
    }

    fn read(&mut self, place: Place, offset: u64, buf: &mut [u8]) {
        if self.is_cut_off() {
            buf.fill(0xff);
        } else if self.stuck_in_reset
            && let Some(byte) = device_status_in(place, offset, buf.len())
        {
            buf[byte] = self.device_status;
        }
    }

    fn write(&mut self, place: Place, offset: u64, bytes: &[u8]) -> bool {
        if self.is_cut_off() {
            return false;
        }
        if let Some(byte) = device_status_in(place, offset, bytes.len())
            && bytes[byte] != 0
        {
            self.device_status = bytes[byte];
        }
        true
    }

    fn reset(&mut self, _by_function: bool) {
        self.busy_until.fill(Duration::ZERO);
        let hangs = self.is_acting(|fault| *fault == Fault::ResetHangs);
        if hangs && !self.stuck_in_reset {
            self.stuck_in_reset = true;
            self.device_status = self.device_status.max(status::ACKNOWLEDGE);
        }
        self.shared.script().reset();
    }

    fn deliver(&mut self, now: Duration, answer: &Answered) -> Delivery {
        self.answers += 1;
        if self.throttle <= 1.0 && self.shared.script().is_idle() {
            return Delivery::HONEST;
        }
        let seen = Seen {
            opcode: answer.opcode,
            algorithm: self.shared.algorithms().get(&answer.session_id).copied(),
            session_id: answer.session_id,
        };
        let (lies, slowness, is_cut_off) = {
            let mut script = self.shared.script();
            let lies = script.strike(Acts::OnAnswers, Some(&seen), |_| true);
            script.answered(&seen);
            let slowness = script.acting().map(slowness_of).product::<f64>();
            let is_cut_off = script.acting().any(|fault| *fault == Fault::AllOnes);
            (lies, slowness * self.throttle, is_cut_off)
        };
        let mut delivery = Delivery::HONEST;
        if slowness > 1.0 {
            let longer = nominal(answer).as_secs_f64() * (slowness - 1.0);
            // Several that are slow together may be slower than any time there is.
            let longer = Duration::try_from_secs_f64(longer).unwrap_or(Duration::MAX);
            delivery.when = When::At(self.occupy(now, longer));
        }
        for lie in &lies {
            misdeliver(lie, now, answer, &mut delivery);
        }
        if is_cut_off {
            delivery.when = When::Never;
        }
        delivery
    }

    fn interrupt(&mut self, _vector: u16) -> u32 {
        let mut script = self.shared.script();
        let lost = script.strike(Acts::OnInterrupts, None, |_| true);
        let is_cut_off = script.acting().any(|fault| *fault == Fault::AllOnes);
        u32::from(lost.is_empty() && !is_cut_off)
    }
}

impl Liar {
    fn is_acting(&self, which: impl Fn(&Fault) -> bool) -> bool {
        self.shared.script().acting().any(which)
    }

    fn is_cut_off(&self) -> bool {
        self.is_acting(|fault| *fault == Fault::AllOnes)
    }

    fn boot_id(&self) -> u32 {
        // Neither zero nor all-ones, which other things read as.
        self.shared.script().random().u32(1..u32::MAX)
    }

    /// Takes the card out of its slot, or puts it back.
    fn place(&mut self, is_removed: bool, hands: &mut Hands<'_>) {
        if is_removed == self.is_removed {
            return;
        }
        self.is_removed = is_removed;
        if is_removed {
            hands.remove();
        } else {
            hands.insert(self.boot_id());
            // What comes back has cooled down, has tested itself and has nothing to do.
            self.celsius = AMBIENT_CELSIUS;
            self.throttle = 1.0;
            self.heated_at = self.now;
            show_temperature(self.celsius, hands);
            self.self_test = None;
            self.is_wedged = false;
            self.busy_until.fill(Duration::ZERO);
        }
    }

    /// Does what a fault does once.
    fn pulse(&mut self, fault: &Fault, hands: &mut Hands<'_>) {
        match fault {
            Fault::SilentReboot | Fault::ResetLoop { .. } => {
                hands.restart(self.boot_id());
                self.is_wedged = false;
            }
            Fault::KeysLost => hands.forget_sessions(),
            Fault::DmaGarbage { bytes } => self.write_garbage(*bytes, hands),
            Fault::CorrectableStorm { .. } => report_correctable(hands),
            Fault::InterruptStorm { vector, .. } => hands.interrupt(*vector),
            _ => {}
        }
    }

    fn write_garbage(&self, bytes: u32, hands: &mut Hands<'_>) {
        let memory = hands.writable_memory();
        let mut script = self.shared.script();
        let Some(&(iova, len)) = script.random().choice(&memory) else {
            return;
        };
        let garbage_len = u64::from(bytes).min(len);
        let offset = script.random().u64(0..=len - garbage_len);
        let mut garbage = vec![0; usize::try_from(garbage_len).unwrap_or(0)];
        script.random().fill(&mut garbage);
        drop(script);
        // It was writable a moment ago, and nobody else has the card.
        let _ = hands.write_memory(iova + offset, &garbage);
    }

    /// Shows a link of this width and speed, or the best there is.
    fn train(&mut self, link: Option<(u8, u8)>, hands: &mut Hands<'_>) {
        /// Offsets in the PCI Express capability (PCIe Base §7.5.3 "PCI Express Capability
        /// Structure").
        const LINK_CAPABILITIES: usize = 0x0c;
        const LINK_STATUS: usize = 0x12;
        if link == self.link {
            return;
        }
        self.link = link;
        let configuration = hands.configuration();
        let express = pci::capabilities(configuration)
            .flatten()
            .find(|found| found.id == u16::from(capability::PCI_EXPRESS))
            .map(|found| found.offset);
        let Some(express) = express else { return };
        let best = u32_at(configuration, express + LINK_CAPABILITIES);
        let best = LinkCapabilities::from_bits(best);
        let (best_width, best_speed) = (best.max_link_width(), best.max_link_speed());
        let (width, speed) = link.unwrap_or((best_width, best_speed));
        let status = LinkStatus::new()
            .with_negotiated_link_width(width.min(best_width))
            .with_current_link_speed(speed.clamp(1, best_speed));
        let at = express + LINK_STATUS;
        configuration[at..at + 2].copy_from_slice(&status.into_bits().to_le_bytes());
    }

    /// Shows the first engine with a request that it does not answer, once there is one, or, when
    /// work goes on, without.
    fn wedge(&mut self, works_not: bool, hands: &mut Hands<'_>) {
        let is_wedged = works_not && (self.is_wedged || self.is_needed);
        self.is_needed = false;
        if is_wedged == self.is_wedged {
            return;
        }
        self.is_wedged = is_wedged;
        let requested = &mut hands.health().engines[0].requested;
        let step = if is_wedged { 1 } else { u16::MAX };
        *requested = U16::new(requested.get().wrapping_add(step));
    }

    fn report_self_test(&mut self, failed: Option<u32>, hands: &mut Hands<'_>) {
        if failed == self.self_test {
            return;
        }
        self.self_test = failed;
        if failed.is_some() {
            hands.log("self-test failed", uncorrectable::SELF_TEST);
        }
        let health = hands.health();
        health.selftest_status = U32::new(failed.unwrap_or(0));
        let fatal = ControllerStatus::from_bits(health.controller_status.get());
        let fatal = fatal.with_fatal(failed.is_some());
        health.controller_status = U32::new(fatal.into_bits());
        health.critical_warning = CriticalWarning::from_bits(health.critical_warning)
            .with_reliability_degraded(failed.is_some())
            .with_fail_closed(failed.is_some())
            .into_bits();
        let others = health.led_status.get() & !led::FAIL;
        let fail = if failed.is_some() { led::FAIL } else { 0 };
        health.led_status = U32::new(others | fail);
        end_statistics_update(hands);
    }

    /// Lets the card get warmer, or cool down.
    fn warm(&mut self, heat: Option<(f64, f64)>, hands: &mut Hands<'_>) {
        /// As fast as it cools down once nothing heats it.
        const COOLING_RATE: f64 = 2.0;
        let elapsed = self.now.saturating_sub(self.heated_at).as_secs_f64();
        self.heated_at = self.now;
        if heat.is_none() && self.celsius <= AMBIENT_CELSIUS {
            return;
        }
        let (target, rate) = heat.unwrap_or((AMBIENT_CELSIUS, COOLING_RATE));
        let step = rate * elapsed;
        self.celsius += (target - self.celsius).clamp(-step, step);
        self.throttle = show_temperature(self.celsius, hands);
    }

    /// Has one of the engines work for so long, and returns when it is done.
    fn occupy(&mut self, now: Duration, work: Duration) -> Duration {
        let engine = self.busy_until.iter_mut().min();
        let engine = engine.expect("a card has at least one engine");
        *engine = now.max(*engine).saturating_add(work);
        *engine
    }
}

impl fmt::Debug for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Liar")
            .field("shared", &self.shared)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Load {
    /// Requests per second, as of the last second that is over.
    fn update(&mut self, now: Duration, answers: u64) -> f64 {
        const WINDOW: Duration = Duration::from_secs(1);
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= WINDOW {
            let new = u32::try_from(answers - self.answers).unwrap_or(u32::MAX);
            *self = Self {
                since: now,
                answers,
                per_second: f64::from(new) / elapsed.as_secs_f64(),
            };
        }
        self.per_second
    }
}

/// Shows how warm the card is, and returns how many times as long as usual everything takes then.
fn show_temperature(celsius: f64, hands: &mut Hands<'_>) -> f64 {
    let health = hands.health();
    let temperature = kelvin(celsius);
    health.composite_temperature_k = U16::new(temperature);
    health.temperature_sensors_k[0] = U16::new(temperature);
    let is_hot = temperature > health.warning_temperature_k.get();
    let throttle = match temperature {
        hot if hot > health.critical_temperature_k.get() => THROTTLE_CRITICAL,
        _ if is_hot => THROTTLE,
        _ => 1.0,
    };
    health.critical_warning = CriticalWarning::from_bits(health.critical_warning)
        .with_temperature(is_hot)
        .into_bits();
    let status = ControllerStatus::from_bits(health.controller_status.get());
    health.controller_status = U32::new(status.with_throttled(is_hot).into_bits());
    end_statistics_update(hands);
    throttle
}

/// Says that processing is paused, or that it goes on.
fn pause(is_paused: bool, hands: &mut Hands<'_>) {
    let health = hands.health();
    let status = ControllerStatus::from_bits(health.controller_status.get());
    if status.processing_paused() != is_paused {
        let status = status.with_processing_paused(is_paused);
        health.controller_status = U32::new(status.into_bits());
        end_statistics_update(hands);
    }
}

/// Tells readers of the statistics block that it has changed.
fn end_statistics_update(hands: &mut Hands<'_>) {
    let generation = &mut hands.health().statistics_generation;
    *generation = U32::new(generation.get().wrapping_add(2));
}

/// Reports errors that the link has corrected, as an endpoint does in its AER capability.
fn report_correctable(hands: &mut Hands<'_>) {
    /// Offset of the correctable error status (PCIe Base §7.8.4.5 "Correctable Error Status
    /// Register").
    const STATUS: usize = 0x10;
    /// Receiver error, bad TLP, bad DLLP.
    const ERRORS: u32 = 1 << 0 | 1 << 6 | 1 << 7;
    let configuration = hands.configuration();
    let aer = pci::extended_capabilities(configuration)
        .flatten()
        .find(|found| found.id == extended_capability::AER)
        .map(|found| found.offset);
    if let Some(aer) = aer {
        let status = u32_at(configuration, aer + STATUS) | ERRORS;
        configuration[aer + STATUS..][..4].copy_from_slice(&status.to_le_bytes());
    }
    let health = hands.health();
    let unmasked = ERRORS & !health.correctable_mask.get();
    health.correctable_status = U32::new(health.correctable_status.get() | unmasked);
}

fn u32_at(configuration: &[u8], offset: usize) -> u32 {
    let bytes = configuration[offset..].first_chunk();
    u32::from_le_bytes(*bytes.expect("capabilities are inside configuration space"))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "temperatures are between that of the room and 65535 degrees, which saturates"
)]
pub(super) fn kelvin(celsius: f64) -> u16 {
    (celsius + CELSIUS_IN_KELVIN).round() as u16
}

/// Where in an access the device status register is.
fn device_status_in(place: Place, offset: u64, len: usize) -> Option<usize> {
    let (bar, register) = Card::device_status_register();
    let byte = usize::try_from(register.checked_sub(offset)?).ok()?;
    (place == Place::Bar(bar) && byte < len).then_some(byte)
}

const fn slowness_of(fault: &Fault) -> f64 {
    match fault {
        Fault::Slow { factor } => *factor,
        _ => 1.0,
    }
}

/// How long a good card takes for a request.
fn nominal(answer: &Answered) -> Duration {
    /// A block of the length of a 2048-bit modulus.
    const RSA_2048_LEN: f64 = 256.0;
    /// An ECDSA signature is shorter than the shortest RSA result.
    const ECDSA_LEN_MAX: usize = 128;
    let len = u32::try_from(answer.result_len).unwrap_or(u32::MAX);
    let relative = (f64::from(len) / RSA_2048_LEN).clamp(0.25, 8.0);
    if answer.is_control {
        return Duration::from_micros(50);
    }
    match answer.opcode {
        data_opcode::AKCIPHER_SIGN | data_opcode::AKCIPHER_DECRYPT
            if answer.result_len <= ECDSA_LEN_MAX =>
        {
            Duration::from_micros(200)
        }
        data_opcode::AKCIPHER_SIGN | data_opcode::AKCIPHER_DECRYPT => {
            Duration::from_micros(500).mul_f64(relative.powi(3))
        }
        data_opcode::AKCIPHER_ENCRYPT => Duration::from_micros(25).mul_f64(relative.powi(2)),
        data_opcode::AKCIPHER_VERIFY => Duration::from_micros(250),
        // 1 GB/s, after what each request costs.
        opcode if opcode >> 8 < service::AKCIPHER => {
            Duration::from_micros(10) + Duration::from_nanos(len.into())
        }
        _ => Duration::from_micros(10),
    }
}

/// Has a lie change how an answer is delivered.
fn misdeliver(lie: &Fault, now: Duration, answer: &Answered, delivery: &mut Delivery) {
    let not_before = |when: When, due: Duration| match when {
        When::Now => When::At(due),
        When::At(other) => When::At(due.max(other)),
        When::Never => When::Never,
    };
    match lie {
        Fault::OverlongResult { bytes } => {
            let status_len = usize::from(!answer.is_control);
            let written = u32::try_from(answer.result_len + status_len).unwrap_or(u32::MAX);
            delivery.written = Some(written.saturating_add(*bytes));
        }
        Fault::DuplicateCompletion { copies } => {
            delivery.copies = delivery.copies.saturating_add(*copies);
        }
        Fault::LateCompletion { delay } => {
            delivery.when = not_before(delivery.when, now.saturating_add(*delay))
        }
        // Due at the next tick, which comes after whatever is answered together with it.
        Fault::ReorderedCompletion => {
            delivery.when = not_before(delivery.when, now + Duration::from_nanos(1));
        }
        Fault::DroppedCompletion => delivery.when = When::Never,
        Fault::UnknownCompletion { head } => delivery.head = Some(*head),
        _ => {}
    }
}
