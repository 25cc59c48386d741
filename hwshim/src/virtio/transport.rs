//! Registers of a virtio-pci device: finding them, negotiating features, resetting (virtio 1.3
//! §4.1 "Virtio Over PCI Bus", §3.1 "Device Initialization").
//!
//! Offsets and lengths come from the device's capabilities and are checked against its BARs
//! before they are used.

use super::queue::Queue;
use crate::accelerator::{DeviceError, DeviceMisbehaved};
use crate::bus::{BusError, Doorbell, Function};
use crate::clock::{Clock, SystemClock};
use card_spec::crypto::Config;
use card_spec::virtio_pci::{
    Capability, CommonConfig, HEALTH_VENDOR_ID, HealthCapability, NO_VECTOR, NotifyCapability,
    VENDOR_ID, common, feature, status, structure,
};
use card_spec::{crypto, health, pci};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// Where a structure lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Window {
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A virtio-pci device whose registers have been found.
#[derive(Debug)]
pub(super) struct Transport {
    function: Arc<dyn Function>,
    common: Window,
    notify: Window,
    notify_off_multiplier: u32,
    device: Window,
    health: Option<Window>,
}

/// What was agreed, and what the device then said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiated {
    pub(super) config: Config,
    pub(super) num_queues: u16,
}

/// Time between two looks at a register that is to change.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How often the configuration may change under our hands before we give up.
const CONFIG_READS_MAX: usize = 8;

impl Transport {
    /// Finds the registers of `function`.
    pub(super) fn find(function: Arc<dyn Function>) -> Result<Self, DeviceError> {
        let mut config = [0; pci::CONFIG_LEN];
        function.read_config(0, &mut config).map_err(device_error)?;
        check_identity(&config)?;
        enable(&*function, &config)?;

        let (mut common, mut notify, mut device, mut health) = (None, None, None, None);
        for entry in pci::capabilities(&config) {
            let entry = entry.map_err(not_usable)?;
            if entry.id != u16::from(pci::capability::VENDOR_SPECIFIC) {
                continue;
            }
            let cap: Capability = entry.read().map_err(not_usable)?;
            match cap.cfg_type {
                structure::COMMON if common.is_none() => {
                    common = window(&*function, &cap, size_of::<CommonConfig>() - 4)?;
                }
                structure::NOTIFY if notify.is_none() => {
                    let multiplier = entry.read::<NotifyCapability>().map_err(not_usable)?;
                    notify = window(&*function, &cap, 2)?
                        .map(|window| (window, multiplier.notify_off_multiplier.get()));
                }
                structure::DEVICE if device.is_none() => {
                    device = window(&*function, &cap, size_of::<Config>())?;
                }
                structure::VENDOR if health.is_none() => {
                    let cap: HealthCapability = entry.read().map_err(not_usable)?;
                    health = health_window(&*function, &cap)?;
                }
                _ => {}
            }
        }
        let missing = |what| DeviceError::NotUsable(format!("it has no usable {what} structure"));
        let (notify, notify_off_multiplier) = notify.ok_or_else(|| missing("notification"))?;
        Ok(Self {
            common: common.ok_or_else(|| missing("common configuration"))?,
            notify,
            notify_off_multiplier,
            device: device.ok_or_else(|| missing("device configuration"))?,
            health,
            function,
        })
    }

    pub(super) const fn function(&self) -> &Arc<dyn Function> {
        &self.function
    }

    pub(super) const fn health(&self) -> Option<Window> {
        self.health
    }

    /// Resets the device, and waits until it says that it has done so (virtio 1.3 §2.4 "Device
    /// Reset").
    ///
    /// Ends within about `timeout`, whatever the device does: all-ones is not "still resetting",
    /// it is a device that is gone.
    pub(super) fn reset(&self, timeout: Duration) -> Result<(), DeviceError> {
        let clock = SystemClock;
        let deadline = clock.now().plus(timeout);
        self.write_status(0)?;
        loop {
            match self.read_status()? {
                0 => return Ok(()),
                0xff if self.answers_all_ones() => return Err(DeviceError::Gone),
                _ if clock.now() >= deadline => break,
                _ => self.wait_a_little(),
            }
        }
        Err(DeviceError::NotUsable(format!(
            "its reset did not end within {timeout:?}"
        )))
    }

    /// Negotiates features up to FEATURES_OK and reads the configuration.
    pub(super) fn negotiate(&self) -> Result<Negotiated, DeviceError> {
        self.write_status(status::ACKNOWLEDGE)?;
        self.write_status(status::ACKNOWLEDGE | status::DRIVER)?;
        let offered = self.offered_features()?;
        let accepted = accept_features(offered)?;
        self.write_features(accepted)?;
        let features_ok = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write_status(features_ok)?;
        if self.read_status()? & status::FEATURES_OK == 0 {
            return Err(DeviceError::NotUsable(format!(
                "it does not accept features {accepted:#x} out of the {offered:#x} it offers"
            )));
        }
        Ok(Negotiated {
            config: self.read_device_config()?,
            num_queues: self.read_u16(common::NUM_QUEUES)?,
        })
    }

    /// Largest size of a queue, in descriptors; 0 if there is no such queue.
    pub(super) fn queue_size_max(&self, index: u16) -> Result<u16, DeviceError> {
        self.write_u16(common::QUEUE_SELECT, index)?;
        self.read_u16(common::QUEUE_SIZE)
    }

    /// Tells the device where `queue` is, enables it, and connects its doorbell.
    pub(super) fn enable_queue(
        &self,
        index: u16,
        queue: &mut Queue,
        vector: u16,
    ) -> Result<(), DeviceError> {
        self.write_u16(common::QUEUE_SELECT, index)?;
        self.write_u16(common::QUEUE_SIZE, queue.size())?;
        self.write_u64(common::QUEUE_DESC, queue.descriptor_area().0)?;
        self.write_u64(common::QUEUE_DRIVER, queue.driver_area().0)?;
        self.write_u64(common::QUEUE_DEVICE, queue.device_area().0)?;
        self.write_u16(common::QUEUE_MSIX_VECTOR, vector)?;
        if self.read_u16(common::QUEUE_MSIX_VECTOR)? == NO_VECTOR {
            return Err(no_vector(vector));
        }
        queue.connect(self.doorbell(index)?);
        self.write_u16(common::QUEUE_ENABLE, 1)
    }

    /// Has configuration changes signalled on `vector`.
    pub(super) fn connect_config_vector(&self, vector: u16) -> Result<(), DeviceError> {
        self.write_u16(common::CONFIG_MSIX_VECTOR, vector)?;
        match self.read_u16(common::CONFIG_MSIX_VECTOR)? {
            NO_VECTOR => Err(no_vector(vector)),
            _ => Ok(()),
        }
    }

    /// Lets the device start.
    pub(super) fn start(&self) -> Result<(), DeviceError> {
        self.write_status(
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK,
        )
    }

    /// Looks whether the device has given up by itself.
    pub(super) fn check_status(&self) -> Result<(), DeviceError> {
        let found = self.read_status()?;
        if found == 0xff && self.answers_all_ones() {
            return Err(DeviceError::Gone);
        }
        if found & status::DEVICE_NEEDS_RESET != 0 {
            return Err(DeviceMisbehaved::NeedsReset.into());
        }
        // A device that is running keeps what the driver wrote; zero means that it has been
        // reset behind our back.
        if found & status::DRIVER_OK == 0 {
            return Err(DeviceMisbehaved::SilentReboot.into());
        }
        let mut status = [0; 4];
        self.function
            .read_bar(self.device.bar, self.device.offset, &mut status)
            .map_err(device_error)?;
        if !crypto::ConfigStatus::from_bits(u32::from_le_bytes(status)).hw_ready() {
            return Err(DeviceMisbehaved::NeedsReset.into());
        }
        Ok(())
    }

    fn doorbell(&self, index: u16) -> Result<Doorbell, DeviceError> {
        let offset = u64::from(self.read_u16(common::QUEUE_NOTIFY_OFF)?)
            * u64::from(self.notify_off_multiplier);
        if offset + 2 > self.notify.len {
            return Err(DeviceError::NotUsable(format!(
                "the doorbell of queue {index} lies outside the notification structure"
            )));
        }
        self.function
            .doorbell(self.notify.bar, self.notify.offset + offset, index)
            .map_err(device_error)
    }

    fn offered_features(&self) -> Result<u64, DeviceError> {
        let half = |select: u32| {
            self.write(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes())?;
            self.read::<4>(common::DEVICE_FEATURE)
                .map(u32::from_le_bytes)
        };
        Ok(u64::from(half(0)?) | u64::from(half(1)?) << 32)
    }

    fn write_features(&self, features: u64) -> Result<(), DeviceError> {
        let bytes = features.to_le_bytes();
        for (select, half) in (0_u32..).zip(bytes.as_chunks::<4>().0) {
            self.write(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes())?;
            self.write(common::DRIVER_FEATURE, half)?;
        }
        Ok(())
    }

    /// Reads the configuration until it has not changed meanwhile (virtio 1.3 §2.5.1 "Driver
    /// Requirements: Device Configuration Space").
    fn read_device_config(&self) -> Result<Config, DeviceError> {
        for _ in 0..CONFIG_READS_MAX {
            let before: [u8; 1] = self.read(common::CONFIG_GENERATION)?;
            let mut config = Config::default();
            self.function
                .read_bar(self.device.bar, self.device.offset, config.as_mut_bytes())
                .map_err(device_error)?;
            if before == self.read(common::CONFIG_GENERATION)? {
                return Ok(config);
            }
        }
        Err(DeviceError::NotUsable(
            "its configuration changes each time it is read".to_owned(),
        ))
    }

    fn answers_all_ones(&self) -> bool {
        let mut class = [0; pci::REVISION_AND_CLASS_LEN];
        let read = |class: &mut [u8]| {
            self.function
                .read_config(pci::REVISION_AND_CLASS_OFFSET, class)
        };
        self.function.is_gone()
            || read(&mut class).is_err()
            || class == [0xff; pci::REVISION_AND_CLASS_LEN]
    }

    /// Waits for the function to be removed, or for the time between two looks to pass.
    fn wait_a_little(&self) {
        let timeout = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(POLL_INTERVAL.subsec_nanos()),
        };
        let mut events = Vec::new();
        if let Some(removal) = self.function.removal_fd() {
            events.push(rustix::event::PollFd::from_borrowed_fd(
                removal,
                rustix::event::PollFlags::empty(),
            ));
        }
        // An interrupted wait only means that the next look comes early.
        let _ = rustix::event::poll(&mut events, Some(&timeout));
    }

    fn read_status(&self) -> Result<u8, DeviceError> {
        self.read::<1>(common::DEVICE_STATUS).map(|[byte]| byte)
    }

    fn write_status(&self, value: u8) -> Result<(), DeviceError> {
        self.write(common::DEVICE_STATUS, &[value])
    }

    fn read_u16(&self, offset: u64) -> Result<u16, DeviceError> {
        self.read(offset).map(u16::from_le_bytes)
    }

    fn write_u16(&self, offset: u64, value: u16) -> Result<(), DeviceError> {
        self.write(offset, &value.to_le_bytes())
    }

    /// 64-bit fields are written in halves (virtio 1.3 §4.1.3.1 "Driver Requirements: PCI Device
    /// Layout").
    fn write_u64(&self, offset: u64, value: u64) -> Result<(), DeviceError> {
        let bytes = value.to_le_bytes();
        self.write(offset, &bytes[..4])?;
        self.write(offset + 4, &bytes[4..])
    }

    fn read<const LEN: usize>(&self, offset: u64) -> Result<[u8; LEN], DeviceError> {
        let mut bytes = [0; LEN];
        self.function
            .read_bar(self.common.bar, self.common.offset + offset, &mut bytes)
            .map_err(device_error)?;
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.function
            .write_bar(self.common.bar, self.common.offset + offset, bytes)
            .map_err(device_error)
    }
}

fn check_identity(config: &[u8]) -> Result<(), DeviceError> {
    let (header, _) =
        pci::Header::read_from_prefix(config).expect("the array is longer than a header");
    match (header.vendor_id.get(), header.device_id.get()) {
        (pci::VENDOR_NONE, _) => Err(DeviceError::Gone),
        (VENDOR_ID, crypto::PCI_DEVICE_ID) => Ok(()),
        (vendor, device) => Err(DeviceError::NotUsable(format!(
            "it is {vendor:04x}:{device:04x}; only virtio-crypto, {VENDOR_ID:04x}:{:04x}, can be driven",
            crypto::PCI_DEVICE_ID
        ))),
    }
}

/// Lets the function answer memory accesses and master the bus, without which its queues stand
/// still (PCI 3.0 §6.2.2 "Device Control").
fn enable(function: &dyn Function, config: &[u8]) -> Result<(), DeviceError> {
    let (header, _) =
        pci::Header::read_from_prefix(config).expect("the array is longer than a header");
    let command = pci::Command::from_bits(header.command.get())
        .with_memory_space(true)
        .with_bus_master(true);
    function
        .write_config(pci::COMMAND_OFFSET, &command.into_bits().to_le_bytes())
        .map_err(device_error)
}

/// Takes the features we need and refuses a device that lacks one.
fn accept_features(offered: u64) -> Result<u64, DeviceError> {
    let bit = |number: u32| 1_u64 << number;
    if offered & bit(feature::VERSION_1) == 0 {
        return Err(DeviceError::NotUsable(
            "it does not offer VIRTIO_F_VERSION_1: legacy devices are not supported".to_owned(),
        ));
    }
    if offered & bit(feature::ACCESS_PLATFORM) == 0 {
        return Err(DeviceError::NotUsable(
            "it does not offer VIRTIO_F_ACCESS_PLATFORM, so it would bypass the IOMMU and take our \
             addresses for physical ones; in QEMU set iommu_platform=on"
                .to_owned(),
        ));
    }
    let wanted =
        bit(feature::VERSION_1) | bit(feature::ACCESS_PLATFORM) | bit(feature::ORDER_PLATFORM);
    Ok(offered & wanted)
}

/// Checks that a structure lies inside its BAR. A BAR index that is reserved means: look further
/// (virtio 1.3 §4.1.4.1 "Driver Requirements: Virtio Structure PCI Capabilities").
fn window(
    function: &dyn Function,
    cap: &Capability,
    len_min: usize,
) -> Result<Option<Window>, DeviceError> {
    let (bar, offset, len) = (cap.bar, cap.offset.get().into(), cap.length.get().into());
    if usize::from(bar) >= pci::BAR_COUNT {
        return Ok(None);
    }
    inside(function, Window { bar, offset, len }, len_min as u64).map(Some)
}

fn health_window(
    function: &dyn Function,
    cap: &HealthCapability,
) -> Result<Option<Window>, DeviceError> {
    let ours = cap.vendor_id.get() == HEALTH_VENDOR_ID
        && cap.magic.get() == health::MAGIC
        && cap.version == 1
        && usize::from(cap.bar) < pci::BAR_COUNT;
    if !ours {
        return Ok(None);
    }
    let (bar, offset, len) = (cap.bar, cap.offset.get().into(), cap.length.get().into());
    let page = Window { bar, offset, len };
    inside(function, page, health::SUMMARY_LEN as u64).map(Some)
}

fn inside(function: &dyn Function, window: Window, len_min: u64) -> Result<Window, DeviceError> {
    let bar_len = function.bar_len(window.bar).map_err(device_error)?;
    let end = window.offset.checked_add(window.len);
    if window.len < len_min || end.is_none_or(|end| end > bar_len) {
        return Err(DeviceError::NotUsable(format!(
            "a capability points at {} bytes at {:#x} of BAR {}, which has {bar_len}; at least {len_min} were expected",
            window.len, window.offset, window.bar
        )));
    }
    Ok(window)
}

fn no_vector(vector: u16) -> DeviceError {
    DeviceError::NotUsable(format!("it has no resources for interrupt vector {vector}"))
}

fn not_usable(error: pci::CapabilityError) -> DeviceError {
    DeviceError::NotUsable(error.to_string())
}

/// What a failure on the bus means for the device behind it.
pub(super) fn device_error(error: BusError) -> DeviceError {
    match error {
        BusError::Gone { .. } => DeviceError::Gone,
        BusError::TimedOut { .. } => DeviceError::TimedOut,
        // Whoever tells of a device names it.
        BusError::NotUsable { name: _, reason } => DeviceError::NotUsable(reason),
        other => DeviceError::NotUsable(describe(&other)),
    }
}

/// The error and its causes in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_would_bypass_the_iommu_is_refused() {
        let error = accept_features(1 << feature::VERSION_1).unwrap_err();
        assert!(error.to_string().contains("ACCESS_PLATFORM"), "{error}");
        accept_features(0).unwrap_err();
    }

    #[test]
    fn only_what_is_wanted_and_offered_is_accepted() {
        let offered = !(1 << feature::ORDER_PLATFORM);
        let accepted = accept_features(offered).unwrap();
        assert_eq!(
            accepted,
            1 << feature::VERSION_1 | 1 << feature::ACCESS_PLATFORM
        );
    }
}
