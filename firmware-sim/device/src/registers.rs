//! Virtio registers: the common configuration structure and what it controls.
//!
//! Sections are of virtio 1.3 §4.1.4.3 "Common configuration structure layout". A write of any
//! width and alignment is taken apart into the fields it touches; a field that is touched in
//! part keeps its other bytes. What a written value sets off beyond these registers is told by
//! [`Effect`], and done by [`Card`](crate::Card).
//!
//! ```text
//!            ACKNOWLEDGE, DRIVER        FEATURES_OK            DRIVER_OK
//!   reset ---------------------> found ------------> accepted ----------> running
//!     ^                               (refused without VERSION_1             |
//!     |                                and ACCESS_PLATFORM)                  | broken rule
//!     |                                                                      v
//!     +------------------------------ status = 0 ----------------------- NEEDS_RESET
//! ```

use crate::virtqueue::{Queue, is_queue_size};
use card_spec::virtio_pci::{CommonConfig, NO_VECTOR, common, feature, isr, status};
use std::mem::offset_of;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// What the device offers. `EVENT_IDX` is left out: `NO_NOTIFY` and `NO_INTERRUPT` do for queues
/// that are polled whenever they are busy.
pub(crate) const FEATURES: u64 = 1 << feature::INDIRECT_DESC
    | 1 << feature::VERSION_1
    | 1 << feature::ACCESS_PLATFORM
    | 1 << feature::ORDER_PLATFORM
    | 1 << feature::RING_RESET;

/// What a driver has to accept. A device that masters the bus behind an IOMMU cannot work for a
/// driver that would give it untranslated addresses (§6.1 "Driver Requirements: Reserved Feature
/// Bits").
pub(crate) const FEATURES_REQUIRED: u64 = 1 << feature::VERSION_1 | 1 << feature::ACCESS_PLATFORM;

/// What a write to a register sets off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The driver has reset the device.
    Reset,
    /// Queues may have become ready to be served.
    MayHaveWork,
}

/// Fields of the structure: offset and length, in bytes.
const FIELDS: [(u64, usize); 18] = [
    (common::DEVICE_FEATURE_SELECT, 4),
    (common::DEVICE_FEATURE, 4),
    (common::DRIVER_FEATURE_SELECT, 4),
    (common::DRIVER_FEATURE, 4),
    (common::CONFIG_MSIX_VECTOR, 2),
    (common::NUM_QUEUES, 2),
    (common::DEVICE_STATUS, 1),
    (common::CONFIG_GENERATION, 1),
    (common::QUEUE_SELECT, 2),
    (common::QUEUE_SIZE, 2),
    (common::QUEUE_MSIX_VECTOR, 2),
    (common::QUEUE_ENABLE, 2),
    (common::QUEUE_NOTIFY_OFF, 2),
    (common::QUEUE_DESC, 8),
    (common::QUEUE_DRIVER, 8),
    (common::QUEUE_DEVICE, 8),
    (common::QUEUE_NOTIFY_DATA, 2),
    (common::QUEUE_RESET, 2),
];

/// The common configuration structure, ISR status, and the queues.
#[derive(Debug)]
pub(crate) struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    config_generation: u8,
    queue_select: u16,
    isr: u8,
    queue_size_max: u16,
    vector_count: u16,
    pub(crate) queues: Vec<Queue>,
}

impl Registers {
    pub(crate) fn new(queue_count: u16, queue_size_max: u16, vector_count: u16) -> Self {
        let queue = Queue::new(queue_size_max, NO_VECTOR);
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            config_generation: 0,
            queue_select: 0,
            isr: 0,
            queue_size_max,
            vector_count,
            queues: vec![queue; usize::from(queue_count)],
        }
    }

    /// Back to the state after power-on, except that queues remember to have been reset.
    pub(crate) fn reset(&mut self) {
        let Self {
            device_feature_select,
            driver_feature_select,
            driver_features,
            config_vector,
            status,
            config_generation: _,
            queue_select,
            isr,
            queue_size_max,
            vector_count: _,
            queues,
        } = self;
        *device_feature_select = 0;
        *driver_feature_select = 0;
        *driver_features = 0;
        *config_vector = NO_VECTOR;
        *status = 0;
        *queue_select = 0;
        *isr = 0;
        for queue in queues {
            queue.reset(*queue_size_max, NO_VECTOR);
        }
    }

    /// Whether the driver has got as far as DRIVER_OK and nothing has broken since.
    pub(crate) const fn is_running(&self) -> bool {
        self.status & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) == status::DRIVER_OK
    }

    /// Whether a reset would change anything a driver has set up.
    pub(crate) const fn is_in_use(&self) -> bool {
        self.status != 0
    }

    pub(crate) const fn indirect_allowed(&self) -> bool {
        self.driver_features & 1 << feature::INDIRECT_DESC != 0
    }

    pub(crate) const fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Asks the driver for a reset. Returns whether it has to be told by an interrupt: it does
    /// not expect any before DRIVER_OK (§2.1.2 "Device Requirements: Device Status Field").
    pub(crate) fn set_needs_reset(&mut self) -> bool {
        let tell = self.is_running();
        self.status |= status::DEVICE_NEEDS_RESET;
        tell
    }

    pub(crate) fn raise_isr(&mut self, bits: u8) {
        self.isr |= bits & (isr::QUEUE | isr::CONFIG);
    }

    /// Reads ISR status, which clears it (§4.1.4.5 "ISR status capability").
    pub(crate) fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// The structure as the driver sees it now.
    pub(crate) fn image(&self) -> CommonConfig {
        let select = |bits: u64, select: u32| {
            let half = usize::try_from(select).ok();
            half.and_then(|half| crate::halves(bits).get(half).copied())
                .unwrap_or(0)
        };
        // A queue that does not exist reads as one of size zero.
        let absent = Queue::new(0, NO_VECTOR);
        let queue = self.queues.get(usize::from(self.queue_select));
        let notify_off = queue.map_or(0, |_| self.queue_select);
        let queue = queue.unwrap_or(&absent);
        CommonConfig {
            device_feature_select: U32::new(self.device_feature_select),
            device_feature: U32::new(select(FEATURES, self.device_feature_select)),
            driver_feature_select: U32::new(self.driver_feature_select),
            driver_feature: U32::new(select(self.driver_features, self.driver_feature_select)),
            config_msix_vector: U16::new(self.config_vector),
            num_queues: U16::new(u16::try_from(self.queues.len()).unwrap_or(u16::MAX)),
            device_status: self.status,
            config_generation: self.config_generation,
            queue_select: U16::new(self.queue_select),
            queue_size: U16::new(queue.size),
            queue_msix_vector: U16::new(queue.vector),
            queue_enable: U16::new(u16::from(queue.is_enabled())),
            queue_notify_off: U16::new(notify_off),
            queue_desc: U64::new(queue.descriptors),
            queue_driver: U64::new(queue.driver_area),
            queue_device: U64::new(queue.device_area),
            queue_notify_data: U16::ZERO,
            // A reset of a queue is over before it can be asked for again.
            queue_reset: U16::ZERO,
        }
    }

    /// Writes `bytes` at `offset`, however they lie across the fields.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Effect {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut effect = Effect::None;
        for (field, len) in FIELDS {
            let field_end = field + len as u64;
            let (from, to) = (field.max(offset), field_end.min(end));
            if from >= to {
                continue;
            }
            let image = self.image();
            let mut value = [0; 8];
            value[..len].copy_from_slice(&image.as_bytes()[range(field, field_end)]);
            value[range(from - field, to - field)]
                .copy_from_slice(&bytes[range(from - offset, to - offset)]);
            match self.write_field(field, u64::from_le_bytes(value)) {
                Effect::None => {}
                Effect::Reset => return Effect::Reset,
                Effect::MayHaveWork => effect = Effect::MayHaveWork,
            }
        }
        effect
    }

    fn write_field(&mut self, field: u64, value: u64) -> Effect {
        let [low, high, ..] = value.to_le_bytes();
        let value_16 = u16::from_le_bytes([low, high]);
        let [value_32, _] = crate::halves(value);
        match field {
            common::DEVICE_FEATURE_SELECT => self.device_feature_select = value_32,
            common::DRIVER_FEATURE_SELECT => self.driver_feature_select = value_32,
            common::DRIVER_FEATURE => self.accept_features(value_32),
            common::CONFIG_MSIX_VECTOR => self.config_vector = self.vector(value_16),
            common::DEVICE_STATUS => return self.write_status(low),
            common::QUEUE_SELECT => self.queue_select = value_16,
            common::QUEUE_RESET if value_16 == 1 => self.reset_queue(),
            common::QUEUE_ENABLE if value_16 == 1 => return self.enable_queue(),
            common::QUEUE_SIZE
            | common::QUEUE_MSIX_VECTOR
            | common::QUEUE_DESC
            | common::QUEUE_DRIVER
            | common::QUEUE_DEVICE => self.set_up_queue(field, value),
            // The rest is read-only.
            _ => {}
        }
        Effect::None
    }

    fn accept_features(&mut self, bits: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let (shift, keep) = match self.driver_feature_select {
            0 => (0, u64::from(u32::MAX) << 32),
            1 => (32, u64::from(u32::MAX)),
            _ => return,
        };
        self.driver_features = self.driver_features & keep | u64::from(bits) << shift;
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let mut value = value | self.status & status::DEVICE_NEEDS_RESET;
        let newly_ok = value & !self.status & status::FEATURES_OK != 0;
        if newly_ok && !features_are_acceptable(self.driver_features) {
            value &= !status::FEATURES_OK;
        }
        self.status = value;
        Effect::MayHaveWork
    }

    fn vector(&self, wanted: u16) -> u16 {
        if wanted < self.vector_count {
            wanted
        } else {
            NO_VECTOR
        }
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    fn reset_queue(&mut self) {
        let size = self.queue_size_max;
        if self.driver_features & 1 << feature::RING_RESET != 0
            && let Some(queue) = self.selected()
        {
            queue.reset(size, NO_VECTOR);
        }
    }

    fn enable_queue(&mut self) -> Effect {
        let negotiated = self.status & status::FEATURES_OK != 0;
        match self.selected() {
            Some(queue) if negotiated && !queue.is_enabled() => queue.enable(),
            _ => return Effect::None,
        }
        Effect::MayHaveWork
    }

    fn set_up_queue(&mut self, field: u64, value: u64) {
        let [low, high, ..] = value.to_le_bytes();
        let value_16 = u16::from_le_bytes([low, high]);
        let vector = self.vector(value_16);
        let size_max = self.queue_size_max;
        let Some(queue) = self.selected() else {
            return;
        };
        match field {
            // Linux moves a queue to another vector while it is in use.
            common::QUEUE_MSIX_VECTOR => queue.vector = vector,
            _ if queue.is_enabled() => {}
            common::QUEUE_SIZE if is_queue_size(value_16) && value_16 <= size_max => {
                queue.size = value_16;
            }
            common::QUEUE_DESC => queue.descriptors = value,
            common::QUEUE_DRIVER => queue.driver_area = value,
            common::QUEUE_DEVICE => queue.device_area = value,
            _ => {}
        }
    }
}

fn features_are_acceptable(accepted: u64) -> bool {
    accepted & !FEATURES == 0 && accepted & FEATURES_REQUIRED == FEATURES_REQUIRED
}

fn range(start: u64, end: u64) -> std::ops::Range<usize> {
    let index = |value| usize::try_from(value).expect("offsets are inside a structure");
    index(start)..index(end)
}

const _: () = assert!(offset_of!(CommonConfig, queue_reset) as u64 == common::QUEUE_RESET);

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: u8 = status::ACKNOWLEDGE | status::DRIVER;

    fn registers() -> Registers {
        Registers::new(2, 256, 3)
    }

    fn write_u32(registers: &mut Registers, offset: u64, value: u32) {
        registers.write(offset, &value.to_le_bytes());
    }

    fn write_u16(registers: &mut Registers, offset: u64, value: u16) -> Effect {
        registers.write(offset, &value.to_le_bytes())
    }

    fn negotiate(registers: &mut Registers, features: u64) -> u8 {
        registers.write(common::DEVICE_STATUS, &[FOUND]);
        for (select, bits) in (0..).zip(crate::halves(features)) {
            write_u32(registers, common::DRIVER_FEATURE_SELECT, select);
            write_u32(registers, common::DRIVER_FEATURE, bits);
        }
        registers.write(common::DEVICE_STATUS, &[FOUND | status::FEATURES_OK]);
        registers.image().device_status
    }

    #[test]
    fn a_driver_that_would_send_untranslated_addresses_is_refused() {
        for missing in [feature::VERSION_1, feature::ACCESS_PLATFORM] {
            assert_eq!(
                negotiate(&mut registers(), FEATURES & !(1 << missing)),
                FOUND
            );
        }
        assert_eq!(
            negotiate(&mut registers(), FEATURES | 1 << feature::EVENT_IDX),
            FOUND
        );
        assert_eq!(
            negotiate(&mut registers(), FEATURES),
            FOUND | status::FEATURES_OK
        );
        assert_eq!(
            negotiate(&mut registers(), FEATURES_REQUIRED),
            FOUND | status::FEATURES_OK
        );
    }

    #[test]
    fn features_are_frozen_once_accepted() {
        let mut registers = registers();
        negotiate(&mut registers, FEATURES_REQUIRED);
        write_u32(&mut registers, common::DRIVER_FEATURE_SELECT, 0);
        write_u32(&mut registers, common::DRIVER_FEATURE, u32::MAX);
        assert_eq!(registers.driver_features, FEATURES_REQUIRED);
    }

    #[test]
    fn a_queue_is_enabled_only_when_it_can_work() {
        let mut registers = registers();
        let enabled = |registers: &Registers| registers.image().queue_enable.get();
        write_u16(&mut registers, common::QUEUE_ENABLE, 1);
        assert_eq!(enabled(&registers), 0, "before features are negotiated");
        negotiate(&mut registers, FEATURES);
        registers.write(common::QUEUE_DESC, &0x1008_u64.to_le_bytes());
        write_u16(&mut registers, common::QUEUE_ENABLE, 1);
        assert_eq!(enabled(&registers), 0, "misaligned descriptor area");
        registers.write(common::QUEUE_DESC, &0x1000_u64.to_le_bytes());
        write_u16(&mut registers, common::QUEUE_SIZE, 3);
        write_u16(&mut registers, common::QUEUE_SIZE, 512);
        assert_eq!(
            registers.image().queue_size.get(),
            256,
            "impossible sizes are ignored"
        );
        write_u16(&mut registers, common::QUEUE_SIZE, 16);
        assert_eq!(
            write_u16(&mut registers, common::QUEUE_ENABLE, 1),
            Effect::MayHaveWork
        );
        assert_eq!(enabled(&registers), 1);
        registers.write(common::QUEUE_DESC, &0x2000_u64.to_le_bytes());
        assert_eq!(
            registers.image().queue_desc.get(),
            0x1000,
            "frozen while enabled"
        );
        let generation = registers.queues[0].generation();
        write_u16(&mut registers, common::QUEUE_RESET, 1);
        assert_eq!(
            (enabled(&registers), registers.image().queue_size.get()),
            (0, 256)
        );
        assert_ne!(registers.queues[0].generation(), generation);
    }

    #[test]
    fn a_queue_that_does_not_exist_has_size_zero() {
        let mut registers = registers();
        write_u16(&mut registers, common::QUEUE_SELECT, 2);
        let image = registers.image();
        assert_eq!(
            (image.queue_size.get(), image.queue_notify_off.get()),
            (0, 0)
        );
        write_u16(&mut registers, common::QUEUE_ENABLE, 1);
        write_u16(&mut registers, common::QUEUE_RESET, 1);
    }

    #[test]
    fn a_write_of_any_width_changes_only_the_bytes_it_covers() {
        let mut registers = registers();
        // Upper half of queue_desc, all of queue_driver, first byte of queue_device.
        let bytes: Vec<u8> = (1..=13).collect();
        registers.write(common::QUEUE_DESC + 4, &bytes);
        let image = registers.image();
        assert_eq!(image.queue_desc.get(), 0x0403_0201 << 32);
        assert_eq!(image.queue_driver.get(), 0x0c0b_0a09_0807_0605);
        assert_eq!(image.queue_device.get(), 0x0d);
        // num_queues is read-only, the vector before it is not.
        write_u32(&mut registers, common::CONFIG_MSIX_VECTOR, 0xffff_0001);
        let image = registers.image();
        assert_eq!(
            (image.config_msix_vector.get(), image.num_queues.get()),
            (1, 2)
        );
        registers.write(0x3c, &[0xff; 64]);
        registers.write(u64::MAX, &[0xff; 8]);
    }

    #[test]
    fn a_vector_that_does_not_exist_reads_back_as_none() {
        let mut registers = registers();
        write_u16(&mut registers, common::QUEUE_MSIX_VECTOR, 3);
        assert_eq!(registers.image().queue_msix_vector.get(), NO_VECTOR);
        write_u16(&mut registers, common::QUEUE_MSIX_VECTOR, 2);
        assert_eq!(registers.image().queue_msix_vector.get(), 2);
    }

    #[test]
    fn only_a_reset_clears_needs_reset() {
        let mut registers = registers();
        negotiate(&mut registers, FEATURES);
        assert!(
            !registers.set_needs_reset(),
            "nobody is told before DRIVER_OK"
        );
        registers.write(common::DEVICE_STATUS, &[FOUND | status::DRIVER_OK]);
        assert!(!registers.is_running());
        assert_ne!(
            registers.image().device_status & status::DEVICE_NEEDS_RESET,
            0
        );
        assert_eq!(registers.write(common::DEVICE_STATUS, &[0]), Effect::Reset);
        registers.reset();
        assert_eq!(registers.image().device_status, 0);
    }
}
