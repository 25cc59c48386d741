//! The card: one PCI function as a plain value.
//!
//! Everything a bus can do to a function is a method here, and so is what its firmware does with
//! the requests that arrive. There are no threads, no sockets and no clock: whoever owns the
//! card brings them, and in one thread the card is deterministic. Real cryptography is behind
//! [`Engine`].
//!
//! ```text
//! BAR 0  0000 common | 1000 ISR | 2000 device | 3000 doorbells   virtio structures
//! BAR 1  0000 MSI-X table       | 0800 pending bits
//! BAR 2  0000 health page                                        trapped, never mapped
//! ```

use crate::batch::{Answer, Batch, Context, Origin, request_len_max};
use crate::config_space::{ConfigSpace, LINK_SPEED, LINK_WIDTH, Window};
use crate::dma::{Access, Backing, DmaFault, DmaMap, MapError};
use crate::engine::Engine;
use crate::health::{Health, Identity, Incident, WARNING_TEMPERATURE_K};
use crate::interposer::{Answered, Delivery, Hands, Held, Interposer, Place, When};
use crate::interrupt::{Interrupts, IrqRequest};
use crate::registers::{Effect, Registers};
use crate::session::SessionTable;
use crate::virtqueue::{QueueError, is_queue_size};
use card_spec::crypto::{Config, ConfigStatus, Status, service};
use card_spec::health::uncorrectable;
use card_spec::virtio_pci::{CommonConfig, common, isr};
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Lengths of the BARs, in bytes; 0 for those the card does not have.
pub(crate) const BAR_LENS: [u32; card_spec::pci::BAR_COUNT] = [0x4000, 0x1000, 0x1000, 0, 0, 0];

/// Where in the BARs things are.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) virtio_bar: u8,
    pub(crate) common: u32,
    pub(crate) common_len: u32,
    pub(crate) isr: u32,
    pub(crate) device: u32,
    pub(crate) device_len: u32,
    pub(crate) notify: u32,
    pub(crate) notify_len: u32,
    pub(crate) notify_multiplier: u32,
    pub(crate) msix_bar: u8,
    pub(crate) msix_table: u32,
    pub(crate) msix_pending: u32,
    pub(crate) health_bar: u8,
}

pub(crate) const LAYOUT: Layout = Layout {
    virtio_bar: 0,
    common: 0x0000,
    common_len: 60,
    isr: 0x1000,
    device: 0x2000,
    device_len: 56,
    notify: 0x3000,
    notify_len: 0x1000,
    notify_multiplier: 4,
    msix_bar: 1,
    msix_table: 0x000,
    msix_pending: 0x800,
    health_bar: 2,
};

const _: () = assert!(size_of::<CommonConfig>() == 60 && size_of::<Config>() == 56);

const MSIX_ENTRY_LEN: usize = size_of::<card_spec::pci::MsixTableEntry>();
/// Data queues the pages above have room for, each with a doorbell, a vector and a table entry.
const DATA_QUEUES_MAX: u16 = 60;

/// What a card is made of.
#[derive(Clone, Debug)]
pub struct CardConfig {
    /// Who it says it is.
    pub identity: Identity,
    /// Number of data queues, 1 to 60. One, as QEMU's device has, is what Linux is tested with.
    pub data_queue_count: u16,
    /// Largest queue size, in descriptors, a power of two.
    pub queue_size: u16,
    /// Sessions that may be open at once.
    pub sessions_max: usize,
    /// Largest content of a data request, in bytes. 1 MiB, as QEMU's device allows since 11.1.
    pub request_size_max: usize,
    /// Number of engines, which is the number of batches that are executed at once.
    pub engine_count: usize,
    /// Time between two beats.
    pub heartbeat_period: Duration,
    /// Drawn anew for each start of the firmware.
    pub boot_id: u32,
}

impl Default for CardConfig {
    fn default() -> Self {
        Self {
            identity: Identity {
                serial_number: "SIM-0001".to_owned(),
                model_number: "Simulated crypto accelerator".to_owned(),
                firmware_revision: env!("CARGO_PKG_VERSION").to_owned(),
            },
            data_queue_count: 1,
            queue_size: 1024,
            sessions_max: 1024,
            request_size_max: 1 << 20,
            engine_count: 1,
            heartbeat_period: Duration::from_millis(500),
            boot_id: 1,
        }
    }
}

/// A card cannot be made like that.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CardConfigError {
    /// The queue size is not one that a split virtqueue can have.
    #[error("queue size {0} is not a power of two between 2 and 32768")]
    QueueSize(u16),
    /// The number of data queues is out of range.
    #[error("{0} data queues; a card has between 1 and {DATA_QUEUES_MAX}")]
    DataQueueCount(u16),
    /// There is nobody to execute requests.
    #[error("a card needs at least one engine")]
    NoEngine,
    /// The card would never take a session.
    #[error("a card needs room for at least one session")]
    NoSession,
    /// The heartbeat would never or always beat.
    #[error("heartbeat period {0:?} is not between 1 ms and 49 days")]
    HeartbeatPeriod(Duration),
}

impl CardConfig {
    fn check(&self) -> Result<(), CardConfigError> {
        if !is_queue_size(self.queue_size) || self.queue_size < 2 {
            return Err(CardConfigError::QueueSize(self.queue_size));
        }
        if !(1..=DATA_QUEUES_MAX).contains(&self.data_queue_count) {
            return Err(CardConfigError::DataQueueCount(self.data_queue_count));
        }
        if self.engine_count == 0 {
            return Err(CardConfigError::NoEngine);
        }
        if self.sessions_max == 0 {
            return Err(CardConfigError::NoSession);
        }
        let period_ms = self.heartbeat_period.as_millis();
        if period_ms == 0 || period_ms > u128::from(u32::MAX) {
            return Err(CardConfigError::HeartbeatPeriod(self.heartbeat_period));
        }
        Ok(())
    }
}

/// One PCI function with its firmware.
pub struct Card {
    pub(crate) config_space: ConfigSpace,
    device_config: Config,
    registers: Registers,
    pub(crate) interrupts: Interrupts,
    /// Storage for the MSI-X table, which only the function's owner looks at.
    msix_table: Vec<u8>,
    pub(crate) dma: DmaMap,
    pub(crate) health: Health,
    context: Context,
    /// Somebody has given the firmware reason to look at the queues.
    doorbell_rung: bool,
    /// How many owners of engines will look at the queues again without being told.
    attentive_count: usize,
    engine_count: usize,
    /// The batch of [`Card::process`].
    batch: Option<Batch>,
    interposer: Option<Box<dyn Interposer>>,
    /// Answers that an interposer holds up.
    held: Vec<Held>,
    /// The time as it was last told.
    now: Duration,
    is_present: bool,
    power_cycles: u32,
}

impl Card {
    /// Makes a card.
    ///
    /// # Errors
    ///
    /// See [`CardConfigError`].
    pub fn new(config: &CardConfig, engine: Arc<dyn Engine>) -> Result<Self, CardConfigError> {
        config.check()?;
        let queue_count = config.data_queue_count + 1;
        // One vector for each queue, and one for changes of the configuration.
        let vector_count = queue_count + 1;
        Ok(Self {
            config_space: ConfigSpace::new(&LAYOUT, vector_count, &config.identity.serial_number),
            device_config: device_config(config, engine.as_ref()),
            registers: Registers::new(queue_count, config.queue_size, vector_count),
            interrupts: Interrupts::new(vector_count),
            msix_table: masked_msix_table(vector_count),
            dma: DmaMap::new(),
            health: Health::new(
                &config.identity,
                config.engine_count,
                config.heartbeat_period,
                config.boot_id,
            ),
            context: Context {
                engine,
                sessions: Arc::new(SessionTable::new(config.sessions_max)),
                max_size: config.request_size_max,
            },
            doorbell_rung: false,
            attentive_count: 0,
            engine_count: config.engine_count,
            batch: Some(Batch::new(0)),
            interposer: None,
            held: Vec::new(),
            now: Duration::ZERO,
            is_present: true,
            power_cycles: 1,
        })
    }

    /// Has everything pass by `interposer` from now on.
    pub fn interpose(&mut self, interposer: Box<dyn Interposer>) {
        self.interposer = Some(interposer);
    }

    /// Whether there is an interposer.
    #[must_use]
    pub const fn is_interposed(&self) -> bool {
        self.interposer.is_some()
    }

    /// Whether the card is in its slot.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.is_present
    }

    /// How often the card has got power. Whoever uses it since fewer times uses a card that has
    /// been removed.
    #[must_use]
    pub const fn power_cycles(&self) -> u32 {
        self.power_cycles
    }

    /// BAR and offset of the device status register.
    #[must_use]
    pub fn device_status_register() -> (u8, u64) {
        let offset = u64::from(LAYOUT.common) + common::DEVICE_STATUS;
        (LAYOUT.virtio_bar, offset)
    }

    /// BAR of the health page.
    #[must_use]
    pub const fn health_bar() -> u8 {
        LAYOUT.health_bar
    }

    /// Width and speed of the link of a card that is well (PCIe Base §7.5.3.6 "Link Capabilities
    /// Register").
    #[must_use]
    pub const fn best_link() -> (u8, u8) {
        (LINK_WIDTH, LINK_SPEED)
    }

    /// Above how many Kelvin a card warns.
    #[must_use]
    pub const fn warning_temperature_k() -> u16 {
        WARNING_TEMPERATURE_K
    }

    /// How many interrupt vectors a card has at most: one for each queue, and one for changes of the
    /// configuration.
    #[must_use]
    pub const fn vectors_max() -> u16 {
        DATA_QUEUES_MAX + 2
    }

    // What a bus does to a function.

    /// Reads configuration space. Bytes behind its end read as all-ones.
    pub fn read_config(&mut self, offset: usize, buf: &mut [u8]) {
        if !self.is_present {
            buf.fill(0xff);
            return;
        }
        self.config_space.read(offset, buf);
        if let Some(window) = self.config_space.window(offset, buf.len()) {
            let mut value = [0; 4];
            self.read_bar(window.bar, window.offset, &mut value[..window.len]);
            let at = ConfigSpace::window_offset() as u64;
            crate::copy_overlap(at, &value[..window.len], offset as u64, buf);
        }
        if let Some(interposer) = &mut self.interposer {
            interposer.read(Place::Configuration, offset as u64, buf);
        }
    }

    /// Writes configuration space. Bytes that are not writable, or do not exist, are ignored.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) {
        if !self.is_let_through(Place::Configuration, offset as u64, bytes) {
            return;
        }
        let effect = self.config_space.write(offset, bytes);
        if let Some(masked) = effect.msix_masked {
            self.interrupts.set_function_mask(masked);
        }
        if let Some(window) = effect.window {
            self.write_window(window, offset, bytes);
        }
        if effect.reset {
            self.reset();
        }
        self.doorbell_rung |= effect.may_have_work;
    }

    fn write_window(&mut self, window: Window, offset: usize, bytes: &[u8]) {
        let Window {
            bar,
            offset: at,
            len,
        } = window;
        let mut value = [0; 4];
        let start = ConfigSpace::window_offset() as u64;
        crate::copy_overlap(offset as u64, bytes, start, &mut value);
        self.write_bar(bar, at, &value[..len]);
    }

    /// Length of a BAR in bytes, 0 if the card does not have it.
    #[must_use]
    pub fn bar_len(bar: u8) -> u64 {
        BAR_LENS.get(usize::from(bar)).copied().map_or(0, u64::from)
    }

    /// Reads from a BAR, at any width and alignment. What is not there reads as zero.
    pub fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
        if !self.is_present {
            buf.fill(0xff);
            return;
        }
        buf.fill(0);
        let mut show = |start: u32, bytes: &[u8]| {
            crate::copy_overlap(u64::from(start), bytes, offset, buf);
        };
        if bar == LAYOUT.virtio_bar {
            show(LAYOUT.common, self.registers.image().as_bytes());
            show(LAYOUT.device, self.device_config.as_bytes());
            // Reading has an effect, so it is read only if it is asked for.
            let end = offset.saturating_add(buf.len() as u64);
            if (offset..end).contains(&u64::from(LAYOUT.isr)) {
                let bits = self.registers.take_isr();
                crate::copy_overlap(u64::from(LAYOUT.isr), &[bits], offset, buf);
            }
        } else if bar == LAYOUT.msix_bar {
            show(LAYOUT.msix_table, &self.msix_table);
            show(
                LAYOUT.msix_pending,
                &self.interrupts.msix_pending().to_le_bytes(),
            );
        } else if bar == LAYOUT.health_bar {
            self.health.read(offset, buf);
        }
        if let Some(interposer) = &mut self.interposer {
            interposer.read(Place::Bar(bar), offset, buf);
        }
    }

    /// Writes to a BAR, at any width and alignment. What is not there or not writable ignores it.
    pub fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
        if !self.is_let_through(Place::Bar(bar), offset, bytes) {
            return;
        }
        if bar == LAYOUT.virtio_bar {
            self.write_virtio(offset, bytes);
        } else if bar == LAYOUT.msix_bar {
            crate::copy_overlap(
                offset,
                bytes,
                u64::from(LAYOUT.msix_table),
                &mut self.msix_table,
            );
        } else if bar == LAYOUT.health_bar {
            self.health.write(offset, bytes);
        }
    }

    fn is_let_through(&mut self, place: Place, offset: u64, bytes: &[u8]) -> bool {
        let interposer = self.interposer.as_mut();
        self.is_present
            && interposer.is_none_or(|interposer| interposer.write(place, offset, bytes))
    }

    fn write_virtio(&mut self, offset: u64, bytes: &[u8]) {
        let notify = u64::from(LAYOUT.notify);
        if offset >= notify {
            // Which doorbell does not matter: the firmware looks at all queues.
            self.doorbell_rung |= offset < notify + u64::from(LAYOUT.notify_len);
            return;
        }
        match self.registers.write(offset, bytes) {
            Effect::None => {}
            Effect::Reset => self.reset_device(false),
            Effect::MayHaveWork => self.doorbell_rung = true,
        }
    }

    /// Lets the card reach `len` bytes of memory at `iova`.
    ///
    /// # Errors
    ///
    /// See [`MapError`].
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        access: Access,
        backing: Option<Backing>,
    ) -> Result<(), MapError> {
        self.dma.map(iova, len, access, backing)
    }

    /// Takes memory back, and returns how many bytes that was. The card does not touch it any
    /// more when this returns.
    pub fn unmap(&mut self, iova: u64, len: u64) -> u64 {
        self.dma.unmap(iova, len)
    }

    /// Takes all memory back, and returns how many bytes that was.
    pub fn unmap_all(&mut self) -> u64 {
        self.dma.clear()
    }

    /// Number of interrupt vectors of a kind, see [`card_spec::vfio::irq`].
    #[must_use]
    pub fn irq_count(&self, index: u32) -> u32 {
        self.interrupts.count(index)
    }

    /// Connects, masks or triggers interrupts.
    ///
    /// # Errors
    ///
    /// `EINVAL` for vectors that do not exist and combinations that mean nothing.
    pub fn set_irqs(&mut self, request: IrqRequest<'_>) -> Result<(), Errno> {
        self.interrupts.set(request)?;
        // The kernel enables MSI-X on behalf of a VFIO user, so the bit follows here as well.
        let connected = self.interrupts.msix_connected();
        self.config_space.set_msix_enabled(connected);
        Ok(())
    }

    /// Resets the function, as VFIO presents it: what was written to the configuration header
    /// stays, and so do mappings; interrupts have to be connected again.
    pub fn reset(&mut self) {
        self.interrupts.disconnect();
        self.config_space.reset_msix();
        self.reset_device(true);
    }

    /// The function's owner is gone: forgets everything it has set up.
    pub fn disconnect(&mut self) {
        self.reset();
        self.dma.clear();
        let command = usize::from(card_spec::pci::COMMAND_OFFSET);
        self.config_space.write(command, &[0; 2]);
    }

    fn reset_device(&mut self, by_function: bool) {
        if by_function || self.registers.is_in_use() {
            self.health.count_reset(by_function);
        }
        self.stop();
        if let Some(interposer) = &mut self.interposer {
            interposer.reset(by_function);
        }
    }

    /// Forgets what the driver has set up, and what it has asked for.
    fn stop(&mut self) {
        self.registers.reset();
        self.forget_sessions();
        self.held.clear();
        self.doorbell_rung = false;
    }

    pub(crate) fn forget_sessions(&mut self) {
        self.context.sessions = Arc::new(self.context.sessions.successor());
    }

    pub(crate) fn restart(&mut self, boot_id: u32) {
        self.stop();
        self.health.restart(boot_id);
    }

    pub(crate) fn remove(&mut self) {
        self.is_present = false;
        self.stop();
        self.interrupts.disconnect();
        self.dma.clear();
    }

    pub(crate) fn insert(&mut self, boot_id: u32) {
        if self.is_present {
            return;
        }
        self.is_present = true;
        self.power_cycles = self.power_cycles.wrapping_add(1);
        self.config_space.reset_msix();
        let command = usize::from(card_spec::pci::COMMAND_OFFSET);
        self.config_space.write(command, &[0; 2]);
        self.health.power_on(boot_id, self.power_cycles);
    }

    /// Offsets of the doorbells in BAR 0, one per queue.
    pub fn doorbells(&self) -> impl Iterator<Item = u64> + use<> {
        let queue_count = self.registers.queues.len() as u64;
        (0..queue_count)
            .map(|queue| u64::from(LAYOUT.notify) + queue * u64::from(LAYOUT.notify_multiplier))
    }

    /// Index of the BAR the doorbells are in.
    #[must_use]
    pub const fn doorbell_bar() -> u8 {
        LAYOUT.virtio_bar
    }

    // What the firmware does.

    /// Tells the card the time, since whatever origin: it beats, and brings its statistics up to
    /// date. The first call is when the firmware starts.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        let Some(mut interposer) = self.interposer.take() else {
            self.health.tick(now);
            return;
        };
        if interposer.firmware_beats() && self.is_present {
            self.health.tick(now);
        } else {
            self.health.stall(now);
        }
        interposer.tick(now, &mut Hands { card: self });
        self.interposer = Some(interposer);
        self.deliver_held();
        // Requests that were not admitted may be by now.
        self.doorbell_rung |= self.pending() > 0;
    }

    /// How long until [`Card::tick`] has something to do.
    #[must_use]
    pub fn until_next_tick(&self, now: Duration) -> Duration {
        let held = self.held.iter().map(|held| held.due);
        let interposed = self.interposer.iter().filter_map(|it| it.next_tick());
        let next = held.chain(interposed).min();
        let beat = self.health.until_next_beat(now);
        next.map_or(beat, |next| beat.min(next.saturating_sub(now)))
    }

    /// Whether there was reason to look at the queues since this was last asked.
    pub fn take_doorbell(&mut self) -> bool {
        std::mem::take(&mut self.doorbell_rung)
    }

    /// Number of engines, each to be given batches of its own.
    #[must_use]
    pub const fn engine_count(&self) -> usize {
        self.engine_count
    }

    /// How many requests each engine executes in the time of one; at least 1.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.context.engine.lanes().max(1)
    }

    /// Executes every request that is waiting, and returns how many there were.
    pub fn process(&mut self) -> usize {
        let Some(mut batch) = self.batch.take() else {
            return 0;
        };
        let mut count = 0;
        while self.take(&mut batch, usize::MAX) > 0 {
            count += batch.len();
            batch.execute();
            self.complete(&mut batch);
        }
        self.batch = Some(batch);
        count
    }

    /// Number of requests that wait in the queues.
    pub fn pending(&mut self) -> usize {
        let mut count = 0;
        for index in self.active_queues() {
            match self.registers.queues[index].pending(&self.dma) {
                Ok(pending) => count += usize::from(pending),
                Err(error) => {
                    self.break_queue(index, 0, &error);
                    return 0;
                }
            }
        }
        self.admitted(count)
    }

    fn admitted(&mut self, count: usize) -> usize {
        if !self.firmware_runs() {
            return 0;
        }
        let interposer = self.interposer.as_mut();
        interposer.map_or(count, |interposer| interposer.admit(count))
    }

    fn firmware_runs(&self) -> bool {
        let interposer = self.interposer.as_ref();
        interposer.is_none_or(|interposer| interposer.firmware_runs())
    }

    /// Moves waiting requests into an empty batch, `count_max` of them at most, and returns how
    /// many it holds.
    pub fn take(&mut self, batch: &mut Batch, count_max: usize) -> usize {
        batch.clear();
        batch.context = Some(self.context.clone());
        let count_max = match &self.interposer {
            Some(_) => self.pending().min(count_max),
            None => count_max,
        };
        for index in self.active_queues() {
            if let Err(error) = self.take_from(index, batch, count_max) {
                self.break_queue(index, batch.chain.head, &error);
                break;
            }
        }
        batch.start = self.health.starts();
        self.health.requested(batch.engine_index, batch.len());
        batch.len()
    }

    fn take_from(
        &mut self,
        index: usize,
        batch: &mut Batch,
        count_max: usize,
    ) -> Result<(), QueueError> {
        let indirect_allowed = self.registers.indirect_allowed();
        let control_index = self.control_index();
        let len_max = request_len_max(self.context.max_size);
        let queue = &mut self.registers.queues[index];
        let origin = Origin {
            queue: u16::try_from(index).expect("there are at most 61 queues"),
            generation: queue.generation(),
            is_control: index == control_index,
        };
        let pending = queue.pending(&self.dma)?;
        for _ in 0..pending {
            if batch.len() >= count_max || batch.is_full() {
                break;
            }
            queue.take(&self.dma, indirect_allowed, &mut batch.chain)?;
            if batch.chain.writable.iter().all(|segment| segment.len == 0) {
                // There is no room even for a status.
                return Err(QueueError::NothingWritable);
            }
            batch.push(&self.dma, origin, len_max)?;
        }
        Ok(())
    }

    /// Answers the requests of a batch that has been executed, and empties it. Answers to
    /// requests from before a reset are dropped.
    pub fn complete(&mut self, batch: &mut Batch) {
        // Firmware that has started since knows of no such requests.
        if batch.start == self.health.starts() {
            self.health.responded(batch.engine_index, batch.len());
        }
        let mut answered = 0_u64;
        for index in 0..batch.len() {
            let origin = batch.slots[index].origin;
            if !self.is_waited_for(origin) {
                continue;
            }
            let delivery = self.delivery(batch, index);
            let due = match delivery.when {
                When::Never => continue,
                When::At(due) => due,
                When::Now => self.now,
            };
            if due > self.now || !self.firmware_runs() {
                self.held.push(Held::new(batch, index, due, delivery));
                continue;
            }
            let slot = &batch.slots[index];
            self.account(origin, slot.head, &slot.answer);
            let written = batch.write_back(&self.dma, index);
            answered |= self.give(origin, batch.slots[index].head, delivery, written);
        }
        self.publish(answered);
        batch.clear();
    }

    /// Whether there is still somebody who waits for the answer to a request.
    fn is_waited_for(&self, origin: Origin) -> bool {
        let queue = usize::from(origin.queue);
        self.registers.queues[queue].generation() == origin.generation && self.can_serve(queue)
    }

    fn delivery(&mut self, batch: &Batch, index: usize) -> Delivery {
        let Some(interposer) = &mut self.interposer else {
            return Delivery::HONEST;
        };
        let slot = &batch.slots[index];
        let answered = Answered {
            queue_index: slot.origin.queue,
            is_control: slot.origin.is_control,
            opcode: slot.answer.opcode,
            session_id: slot.answer.session_id,
            head: slot.head,
            status: slot.answer.status,
            result_len: batch.answer(index).0.len(),
        };
        interposer.deliver(self.now, &answered)
    }

    /// Delivers answers that were held up and are due.
    fn deliver_held(&mut self) {
        if !self.firmware_runs() {
            return;
        }
        let now = self.now;
        let (mut due, held): (Vec<_>, _) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.due <= now);
        self.held = held;
        due.sort_by_key(|held| held.due);
        let mut answered = 0;
        for held in due {
            if self.is_waited_for(held.origin) {
                self.account(held.origin, held.head, &held.answer);
                let written = held.write_back(&self.dma);
                answered |= self.give(held.origin, held.head, held.delivery, written);
            }
        }
        self.publish(answered);
    }

    /// Puts an answer into the used ring, and returns the bit of its queue if it has.
    fn give(
        &mut self,
        origin: Origin,
        head: u16,
        delivery: Delivery,
        written: Result<u32, DmaFault>,
    ) -> u64 {
        let index = usize::from(origin.queue);
        let queue = &mut self.registers.queues[index];
        let given = written.map_err(QueueError::from).and_then(|written| {
            let named = delivery.head.unwrap_or(head);
            let claimed = delivery.written.unwrap_or(written);
            (0..delivery.copies).try_for_each(|_| queue.give(&self.dma, named, claimed))
        });
        match given {
            Ok(()) => 1 << index,
            Err(error) => {
                self.break_queue(index, head, &error);
                0
            }
        }
    }

    /// As [`Hands::give`](crate::interposer::Hands::give).
    pub(crate) fn give_unasked(&mut self, queue_index: u16, head: u16, written: u32) -> bool {
        let index = usize::from(queue_index);
        if index >= self.registers.queues.len() || !self.can_serve(index) {
            return false;
        }
        let given = self.registers.queues[index].give(&self.dma, head, written);
        if given.is_ok() {
            self.publish(1 << index);
        }
        given.is_ok()
    }

    /// Shows the driver what was put into the used rings of `queues`, one bit for each.
    fn publish(&mut self, queues: u64) {
        for index in (0..self.registers.queues.len()).filter(|index| queues >> index & 1 != 0) {
            let queue = &self.registers.queues[index];
            let vector = queue.vector;
            match queue.publish(&self.dma) {
                Ok(true) => {
                    self.registers.raise_isr(isr::QUEUE);
                    self.interrupt(vector);
                }
                Ok(false) => {}
                Err(error) => self.break_queue(index, 0, &error),
            }
        }
    }

    fn interrupt(&mut self, vector: u16) {
        let interposer = self.interposer.as_mut();
        let count = interposer.map_or(1, |interposer| interposer.interrupt(vector));
        for _ in 0..count {
            self.interrupts.trigger_msix(vector);
        }
    }

    /// Counts an answer, and logs it unless it is a plain answer: a wrong tag or signature is
    /// what the driver asked about.
    fn account(&mut self, origin: Origin, head: u16, answer: &Answer) {
        let status = answer.status;
        if !origin.is_control {
            self.health.count_request(status);
        }
        if matches!(status, Status::OK | Status::BADMSG | Status::KEY_REJECTED) {
            return;
        }
        let text = match status {
            Status::NOTSUPP => "not supported",
            Status::INVSESS => "no such session",
            Status::NOSPC => "too many sessions",
            _ => "request failed",
        };
        self.health.log(&Incident {
            queue_index: origin.queue,
            head_index: head,
            status,
            session_id: answer.session_id,
            opcode: answer.opcode,
            text,
            uncorrectable: 0,
        });
    }

    /// A rule was broken that leaves the queue in an unknown state: the whole device asks for a
    /// reset, and does nothing until it gets one.
    fn break_queue(&mut self, index: usize, head: u16, error: &QueueError) {
        let (text, uncorrectable) = match error {
            QueueError::Dma(fault) if fault.write => {
                ("DMA write refused", uncorrectable::DMA_FAULT)
            }
            QueueError::Dma(_) => ("DMA read refused", uncorrectable::DMA_FAULT),
            QueueError::AvailableIndexJumped { .. } => {
                ("available index jumped", uncorrectable::MALFORMED)
            }
            _ => ("malformed chain", uncorrectable::MALFORMED),
        };
        self.health.log(&Incident {
            queue_index: u16::try_from(index).unwrap_or(u16::MAX),
            head_index: head,
            status: Status::ERR,
            session_id: 0,
            opcode: 0,
            text,
            uncorrectable,
        });
        self.ask_for_reset();
    }

    pub(crate) fn ask_for_reset(&mut self) {
        if self.registers.set_needs_reset() {
            self.registers.raise_isr(isr::CONFIG);
            self.interrupt(self.registers.config_vector());
        }
    }

    /// Tells the card that the owner of an engine will, or will not any more, look at the queues
    /// again without being told. While one does, drivers need not ring.
    pub fn set_attentive(&mut self, attentive: bool) {
        let before = self.attentive_count;
        self.attentive_count = if attentive {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if (before == 0) == (self.attentive_count == 0) {
            return;
        }
        for index in self.active_queues() {
            let wanted = self.attentive_count == 0;
            let told = self.registers.queues[index].set_doorbell_wanted(&self.dma, wanted);
            if let Err(error) = told {
                self.break_queue(index, 0, &error);
            }
        }
    }

    /// Queues that can be served now, the control queue first, so that a session is there before
    /// requests look for it.
    fn active_queues(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.registers.queues.len();
        let bits = (0..count)
            .filter(|&queue| self.can_serve(queue))
            .fold(0_u64, |bits, queue| bits | 1 << queue);
        (0..count).rev().filter(move |queue| bits >> queue & 1 != 0)
    }

    fn can_serve(&self, queue: usize) -> bool {
        self.is_present
            && self.registers.is_running()
            && self.registers.queues[queue].is_enabled()
            && self.config_space.is_bus_master()
    }

    fn control_index(&self) -> usize {
        self.registers.queues.len() - 1
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card")
            .field("registers", &self.registers)
            .field("mappings", &self.dma.len())
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

fn device_config(config: &CardConfig, engine: &dyn Engine) -> Config {
    let offer = engine.offer();
    let [cipher_algo_l, cipher_algo_h] = crate::halves(offer.ciphers).map(U32::new);
    let [mac_algo_l, mac_algo_h] = crate::halves(offer.macs).map(U32::new);
    let offered = [
        (service::CIPHER, offer.ciphers != 0),
        (service::HASH, offer.hashes != 0),
        (service::MAC, offer.macs != 0),
        (service::AEAD, offer.aeads != 0),
        (service::AKCIPHER, offer.akciphers != 0),
    ];
    let services = offered.into_iter().fold(0, |bits, (service, offered)| {
        bits | u32::from(offered) << service
    });
    Config {
        status: U32::new(ConfigStatus::new().with_hw_ready(true).into_bits()),
        max_dataqueues: U32::new(u32::from(config.data_queue_count)),
        crypto_services: U32::new(services),
        cipher_algo_l,
        cipher_algo_h,
        hash_algo: U32::new(offer.hashes),
        mac_algo_l,
        mac_algo_h,
        aead_algo: U32::new(offer.aeads),
        max_cipher_key_len: U32::new(offer.cipher_key_len_max),
        max_auth_key_len: U32::new(offer.auth_key_len_max),
        akcipher_algo: U32::new(offer.akciphers),
        max_size: U64::new(config.request_size_max as u64),
    }
}

/// A table after reset: every vector masked (PCI 3.0 §6.8.2.9 "Vector Control for MSI-X Table
/// Entries").
fn masked_msix_table(vector_count: u16) -> Vec<u8> {
    let mut table = vec![0; usize::from(vector_count) * MSIX_ENTRY_LEN];
    for entry in table.chunks_exact_mut(MSIX_ENTRY_LEN) {
        entry[MSIX_ENTRY_LEN - 4] = 1;
    }
    table
}
