//! The health page: what the card says of itself.
//!
//! Registers outside the statistics block are live. The statistics block is brought up to date
//! once per heartbeat, so that a driver that reads it register by register between two equal
//! values of `STATS_GEN` has read one moment, and nearly always succeeds at once. The layout is
//! [`card_spec::health`]'s; which faults a card may have is not decided here.

use card_spec::crypto::Status;
use card_spec::health::{
    Capabilities, ControllerStatus, ENGINES_MAX, ERROR_LOG_ENTRIES, ERROR_LOG_OFFSET,
    ErrorLogEntry, LED_EDGES_MAX, LedEdge, MAGIC, PAGE_LEN, Summary, VERSION, led, register,
    uncorrectable,
};
use std::time::Duration;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Temperature of a card that is well, in kelvin: 45 degrees Celsius.
const TEMPERATURE_K: u16 = 318;
/// Where it would warn: 85 degrees Celsius.
pub(crate) const WARNING_TEMPERATURE_K: u16 = 358;
/// Where it would stop: 100 degrees Celsius.
const CRITICAL_TEMPERATURE_K: u16 = 373;

/// Errors after which the card does nothing until it is reset.
const FATAL: u32 = uncorrectable::MALFORMED
    | uncorrectable::INTERNAL
    | uncorrectable::DMA_FAULT
    | uncorrectable::KEY_STORE
    | uncorrectable::SELF_TEST;

/// Who the card says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Serial number, at most 20 characters of ASCII.
    pub serial_number: String,
    /// Model number, at most 40 characters of ASCII.
    pub model_number: String,
    /// Firmware revision, at most 8 characters of ASCII.
    pub firmware_revision: String,
}

/// Something that went wrong with a request, for the error log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incident<'a> {
    pub(crate) queue_index: u16,
    pub(crate) head_index: u16,
    pub(crate) status: Status,
    pub(crate) session_id: u64,
    pub(crate) opcode: u32,
    /// At most 24 characters of ASCII.
    pub(crate) text: &'a str,
    /// Bits of [`card_spec::health::uncorrectable`] to report it by; none for what is logged only.
    pub(crate) uncorrectable: u32,
}

/// The health page and what it is made from.
#[derive(Debug)]
pub(crate) struct Health {
    summary: Summary,
    error_log: [ErrorLogEntry; ERROR_LOG_ENTRIES],
    error_count: u64,
    requests_ok: u64,
    requests_failed: u64,
    /// How often the firmware has started again.
    starts: u32,
    /// When the firmware started, once it has been told the time.
    started: Option<Duration>,
    heartbeat_period: Duration,
    /// Beats that were due and did not come.
    missed_beats: u128,
}

impl Health {
    pub(crate) fn new(
        identity: &Identity,
        engine_count: usize,
        heartbeat_period: Duration,
        boot_id: u32,
    ) -> Self {
        let mut summary = Summary::new_zeroed();
        let capabilities = Capabilities::new()
            .with_engine_count(saturating_u8(engine_count.min(ENGINES_MAX)))
            .with_error_log_entries(saturating_u8(ERROR_LOG_ENTRIES))
            .with_temperature_sensor_count(1);
        let status = ControllerStatus::new().with_ready(true);
        let period_ms = u32::try_from(heartbeat_period.as_millis()).unwrap_or(u32::MAX);
        summary.magic = U32::new(MAGIC);
        summary.version = U32::new(VERSION);
        summary.capabilities = U64::new(capabilities.into_bits());
        summary.controller_status = U32::new(status.into_bits());
        summary.controller_configuration = U32::new(1);
        summary.boot_id = U32::new(boot_id);
        summary.heartbeat_period_ms = U32::new(period_ms);
        summary.composite_temperature_k = U16::new(TEMPERATURE_K);
        summary.temperature_sensors_k[0] = U16::new(TEMPERATURE_K);
        summary.warning_temperature_k = U16::new(WARNING_TEMPERATURE_K);
        summary.critical_temperature_k = U16::new(CRITICAL_TEMPERATURE_K);
        summary.power_cycles = U32::new(1);
        summary.firmware_build = U64::new(1);
        summary.firmware_revision = padded(&identity.firmware_revision);
        summary.serial_number = padded(&identity.serial_number);
        summary.model_number = padded(&identity.model_number);
        summary.uncorrectable_severity = U32::new(FATAL);
        summary.led_status = U32::new(led::OK);
        Self {
            summary,
            error_log: [ErrorLogEntry::new_zeroed(); ERROR_LOG_ENTRIES],
            error_count: 0,
            requests_ok: 0,
            requests_failed: 0,
            starts: 0,
            started: None,
            heartbeat_period: heartbeat_period.max(Duration::from_millis(1)),
            missed_beats: 0,
        }
    }

    /// Lets time pass: beats as often as it is time to.
    pub(crate) fn tick(&mut self, now: Duration) {
        let uptime = self.uptime(now);
        self.summary.uptime_ms = U64::new(saturating_u64(uptime.as_millis()));
        let beats = self.beats_due(now).saturating_sub(self.missed_beats);
        // All-ones is what a card that is gone reads as, so the count never is.
        let count = u32::try_from(beats % u128::from(u32::MAX)).expect("reduced to 32 bits");
        if count != self.summary.heartbeat_count.get() {
            self.summary.heartbeat_count = U32::new(count);
            self.publish_statistics();
        }
    }

    /// Lets time pass without beating. What was missed is not made up for.
    pub(crate) fn stall(&mut self, now: Duration) {
        let beaten = u128::from(self.summary.heartbeat_count.get());
        self.missed_beats = self.beats_due(now).saturating_sub(beaten);
    }

    fn uptime(&mut self, now: Duration) -> Duration {
        now.saturating_sub(*self.started.get_or_insert(now))
    }

    fn beats_due(&mut self, now: Duration) -> u128 {
        self.uptime(now).as_nanos() / self.heartbeat_period.as_nanos()
    }

    /// The light goes on or off.
    pub(crate) fn light(&mut self, at: Duration, lit: bool) {
        let summary = &self.summary;
        if lit == (summary.led_status.get() & led::OK != 0) {
            return;
        }
        let uptime_ms = self.uptime(at).as_millis() & u128::from(u32::MAX >> 1);
        let edge = LedEdge::new()
            .with_lit(lit)
            .with_uptime_ms(u32::try_from(uptime_ms).expect("reduced to 31 bits"));
        let summary = &mut self.summary;
        let count = summary.led_edge_count.get();
        let index = usize::try_from(count).map_or(0, |count| count % LED_EDGES_MAX);
        summary.led_edges[index] = U32::new(edge.into_bits());
        summary.led_edge_count = U32::new(count.wrapping_add(1));
        summary.led_status = U32::new(summary.led_status.get() ^ led::OK);
    }

    /// The card has power again: nothing is left of what it was but what it keeps count of.
    pub(crate) fn power_on(&mut self, boot_id: u32, power_cycles: u32) {
        self.restart(boot_id);
        let summary = &mut self.summary;
        summary.power_cycles = U32::new(power_cycles);
        summary.unsafe_shutdowns = U32::new(power_cycles.wrapping_sub(1));
        summary.reset_count = U32::ZERO;
        summary.uncorrectable_status = U32::ZERO;
        summary.correctable_status = U32::ZERO;
        // What was wrong with it is found again, or not, by firmware that has tested itself.
        summary.selftest_status = U32::ZERO;
        summary.critical_warning = 0;
        summary.led_status = U32::new(summary.led_status.get() & !led::FAIL);
        summary.controller_status = U32::new(ControllerStatus::new().with_ready(true).into_bits());
        self.publish_statistics();
    }

    /// The firmware has started again by itself.
    pub(crate) fn restart(&mut self, boot_id: u32) {
        let summary = &mut self.summary;
        summary.boot_id = U32::new(boot_id);
        summary.heartbeat_count = U32::ZERO;
        summary.uptime_ms = U64::ZERO;
        summary.engines.fill(FromZeros::new_zeroed());
        // Their times were of the uptime before.
        summary.led_edge_count = U32::ZERO;
        summary.led_edges.fill(U32::ZERO);
        // It starts at the next tick.
        self.started = None;
        self.missed_beats = 0;
        self.starts = self.starts.wrapping_add(1);
    }

    /// How often the firmware has started again, to tell what was begun before from what was not.
    pub(crate) const fn starts(&self) -> u32 {
        self.starts
    }

    pub(crate) fn registers_mut(&mut self) -> &mut Summary {
        &mut self.summary
    }

    /// How long until the next beat.
    pub(crate) fn until_next_beat(&self, now: Duration) -> Duration {
        let uptime = now.saturating_sub(self.started.unwrap_or(now));
        let into_period = uptime.as_nanos() % self.heartbeat_period.as_nanos();
        self.heartbeat_period
            .saturating_sub(Duration::from_nanos(saturating_u64(into_period)))
    }

    /// An engine has taken requests.
    pub(crate) fn requested(&mut self, engine_index: usize, count: usize) {
        if let Some(pair) = self.summary.engines.get_mut(engine_index) {
            pair.requested = wrapping_add(pair.requested, count);
        }
    }

    /// An engine has answered requests.
    pub(crate) fn responded(&mut self, engine_index: usize, count: usize) {
        if let Some(pair) = self.summary.engines.get_mut(engine_index) {
            pair.responded = wrapping_add(pair.responded, count);
        }
    }

    /// A data request was answered.
    pub(crate) fn count_request(&mut self, status: Status) {
        if status == Status::OK {
            self.requests_ok += 1;
        } else {
            self.requests_failed += 1;
        }
    }

    /// The function was reset. Engines go on with what they were doing, and count it as answered
    /// although nobody is told: a reset makes none look as if it hung.
    pub(crate) fn count_reset(&mut self, by_function: bool) {
        let count = self.summary.reset_count.get().wrapping_add(1);
        self.summary.reset_count = U32::new(count);
        if by_function {
            let status = ControllerStatus::from_bits(self.summary.controller_status.get());
            let status = status.with_reset_occurred(true);
            self.summary.controller_status = U32::new(status.into_bits());
        }
        self.publish_statistics();
    }

    /// Adds an entry to the error log, and sets the bits that report it.
    pub(crate) fn log(&mut self, incident: &Incident<'_>) {
        let index = usize::try_from(self.error_count % ERROR_LOG_ENTRIES as u64)
            .expect("reduced to the length of the log");
        self.error_count += 1;
        self.error_log[index] = ErrorLogEntry {
            error_count: U64::new(self.error_count),
            queue_index: U16::new(incident.queue_index),
            head_index: U16::new(incident.head_index),
            status: U16::new(u16::from(incident.status.0)),
            location: U16::ZERO,
            session_id: U64::new(incident.session_id),
            opcode: U32::new(incident.opcode),
            reserved: U32::ZERO,
            uptime_ms: self.summary.uptime_ms,
            text: nul_padded(incident.text),
        };
        let reported = incident.uncorrectable & !self.summary.uncorrectable_mask.get();
        if reported != 0 {
            self.report(incident, reported);
        }
    }

    fn report(&mut self, incident: &Incident<'_>, bits: u32) {
        let summary = &mut self.summary;
        if summary.uncorrectable_status.get() == 0 {
            // AER: the first error keeps pointer and header log until its status is cleared.
            summary.error_capabilities = U32::new(bits.trailing_zeros());
            summary.header_log = [
                U32::new(u32::from(incident.head_index)),
                U32::new(incident.opcode),
                U32::new(crate::halves(incident.session_id)[0]),
                U32::new(u32::from(incident.status.0)),
            ];
        }
        summary.uncorrectable_status = U32::new(summary.uncorrectable_status.get() | bits);
    }

    /// The page as it reads now.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        let written = saturating_u32(self.error_count);
        let lost = saturating_u32(self.error_count.saturating_sub(ERROR_LOG_ENTRIES as u64));
        let pieces: [(u64, &[u8]); 4] = [
            (0, self.summary.as_bytes()),
            (register::ERROR_LOG_WRITTEN, &written.to_le_bytes()),
            (register::ERROR_LOG_LOST, &lost.to_le_bytes()),
            (ERROR_LOG_OFFSET as u64, self.error_log.as_bytes()),
        ];
        buf.fill(0);
        for (start, bytes) in pieces {
            crate::copy_overlap(start, bytes, offset, buf);
        }
    }

    /// Writes registers; bytes that are not writable are ignored.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset
            .saturating_add(bytes.len() as u64)
            .min(PAGE_LEN as u64);
        let written = vec![0xff; bytes.len()];
        for at in (offset & !3..end).step_by(4) {
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            crate::copy_overlap(offset, bytes, at, &mut value);
            crate::copy_overlap(offset, &written, at, &mut mask);
            self.write_register(at, u32::from_le_bytes(value), u32::from_le_bytes(mask));
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, mask: u32) {
        const RESET_OCCURRED: u32 = ControllerStatus::new()
            .with_reset_occurred(true)
            .into_bits();
        let summary = &mut self.summary;
        let clear = |register: &mut U32, bits: u32| *register = U32::new(register.get() & !bits);
        let store = |register: &mut U32, writable: u32| {
            let mask = mask & writable;
            *register = U32::new(register.get() & !mask | value & mask);
        };
        match offset {
            register::CONTROLLER_STATUS => {
                clear(&mut summary.controller_status, value & RESET_OCCURRED);
            }
            register::CONTROLLER_CONFIGURATION => store(&mut summary.controller_configuration, 1),
            register::UNCORRECTABLE_STATUS => clear(&mut summary.uncorrectable_status, value),
            UNCORRECTABLE_MASK => store(&mut summary.uncorrectable_mask, u32::MAX),
            UNCORRECTABLE_SEVERITY => store(&mut summary.uncorrectable_severity, u32::MAX),
            register::CORRECTABLE_STATUS => clear(&mut summary.correctable_status, value),
            CORRECTABLE_MASK => store(&mut summary.correctable_mask, u32::MAX),
            register::LED_CONTROL => {
                store(&mut summary.led_control, led::LOCATE);
                let locate = summary.led_control.get();
                let own = summary.led_status.get() & !led::LOCATE;
                summary.led_status = U32::new(own | locate);
            }
            _ => {}
        }
    }

    fn publish_statistics(&mut self) {
        const MINUTES_PER_HOUR: u64 = 60;
        let minutes = self.summary.uptime_ms.get() / 60_000;
        let summary = &mut self.summary;
        // Nobody can read the page while it is being changed, so the generation is never odd
        // for anybody; it moves on by two.
        let generation = summary.statistics_generation.get().wrapping_add(2);
        summary.statistics_generation = U32::new(generation);
        summary.requests_ok = U64::new(self.requests_ok);
        summary.requests_failed = U64::new(self.requests_failed);
        summary.error_log_entries = U32::new(saturating_u32(self.error_count));
        summary.power_on_hours = U32::new(saturating_u32(minutes / MINUTES_PER_HOUR));
    }
}

const UNCORRECTABLE_MASK: u64 = register::UNCORRECTABLE_STATUS + 4;
const UNCORRECTABLE_SEVERITY: u64 = register::UNCORRECTABLE_STATUS + 8;
const CORRECTABLE_MASK: u64 = register::CORRECTABLE_STATUS + 4;

fn wrapping_add(value: U16, count: usize) -> U16 {
    let count = u16::try_from(count % (usize::from(u16::MAX) + 1)).expect("reduced to 16 bits");
    U16::new(value.get().wrapping_add(count))
}

fn padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    fit(text, b' ')
}

fn nul_padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    fit(text, 0)
}

fn fit<const LEN: usize>(text: &str, padding: u8) -> [u8; LEN] {
    let mut bytes = [padding; LEN];
    for (byte, character) in bytes.iter_mut().zip(text.chars()) {
        *byte = u8::try_from(character)
            .ok()
            .filter(u8::is_ascii)
            .unwrap_or(b'?');
    }
    bytes
}

fn saturating_u8(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn saturating_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn saturating_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
