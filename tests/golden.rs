//! Pins every wire layout to what the specifications say, in numbers written out by hand.
//!
//! Driver and simulated card share the crate `card-spec`, so a field in the wrong place there
//! would be wrong on both sides and no other test of ours would notice. Nothing here is computed
//! from `card-spec`; each number was read off the source that its section names. `golden/linux.rs`
//! asks a C compiler as well, where there is one.
//!
//! ```text
//! input    01 02 03 04 05 06 ..    byte N is N + 1, so that all bytes, and all words, differ
//! field    vendor_id: 0x0201       so it lies at 0, is two bytes wide, least significant first
//! ```
//!
//! Bytes count from 1 to 255 and start over, which keeps the words of long pages different, too.

use card_spec::zerocopy::little_endian::{U16, U32, U64};
use card_spec::zerocopy::{FromBytes, IntoBytes};
use card_spec::{crypto, health, pci, telemetry, vfio, vfio_user, virtio_pci, virtqueue};

#[path = "golden/linux.rs"]
mod linux;

/// A field as the number it holds.
trait Number {
    fn number(&self) -> u64;
}

impl Number for u8 {
    fn number(&self) -> u64 {
        u64::from(*self)
    }
}

impl Number for U16 {
    fn number(&self) -> u64 {
        u64::from(self.get())
    }
}

impl Number for U32 {
    fn number(&self) -> u64 {
        u64::from(self.get())
    }
}

impl Number for U64 {
    fn number(&self) -> u64 {
        self.get()
    }
}

fn counting_bytes(len: usize) -> Vec<u8> {
    (1..=u8::MAX).cycle().take(len).collect()
}

/// Reads a structure out of counting bytes and compares its fields, then its length.
macro_rules! reads {
    ($type:ty, $len:literal bytes, { $($($field:ident $([$index:literal])?).+: $value:literal,)+ }) => {{
        let input = counting_bytes($len);
        let (value, rest) = <$type>::read_from_prefix(&input).expect(stringify!($type));
        assert!(rest.is_empty(), "{} is shorter than {}", stringify!($type), $len);
        $({
            let (found, expected): (u64, u64) = (value.$($field $([$index])?).+.number(), $value);
            assert!(
                found == expected,
                "{}.{} is {found:#x}, not {expected:#x}",
                stringify!($type), stringify!($($field $([$index])?).+)
            );
        })+
        assert_eq!(value.as_bytes(), input, "{}", stringify!($type));
    }};
}

/// Compares constants with the numbers that the specification gives them.
macro_rules! pin {
    ($($constant:expr => $value:expr,)+) => {
        $(assert_eq!($constant, $value, "{}", stringify!($constant));)+
    };
}

/// PCI 3.0 §6.1 "Configuration Space Organization"; `linux/pci_regs.h` from `PCI_VENDOR_ID` to
/// `PCI_MAX_LAT`.
#[test]
fn the_configuration_header_is_that_of_pci() {
    reads!(pci::Header, 64 bytes, {
        vendor_id: 0x0201,
        device_id: 0x0403,
        command: 0x0605,
        status: 0x0807,
        revision_id: 0x09,
        class_code[0]: 0x0a,
        class_code[2]: 0x0c,
        cache_line_size: 0x0d,
        latency_timer: 0x0e,
        header_type: 0x0f,
        bist: 0x10,
        bars[0]: 0x1413_1211, // base_address
        bars[5]: 0x2827_2625,
        cardbus_cis_pointer: 0x2c2b_2a29, // cardbus_cis
        subsystem_vendor_id: 0x2e2d,
        subsystem_id: 0x302f,
        expansion_rom_base: 0x3433_3231, // rom_address
        capabilities_pointer: 0x35, // capability_list
        reserved[0]: 0x36,
        reserved[6]: 0x3c,
        interrupt_line: 0x3d,
        interrupt_pin: 0x3e,
        min_grant: 0x3f, // min_gnt
        max_latency: 0x40, // max_lat
    });
    pin!(
        pci::CONFIG_LEN => 256,
        pci::CONFIG_EXTENDED_LEN => 4096,
        pci::BAR_COUNT => 6,
        pci::VENDOR_NONE => 0xffff,
        pci::COMMAND_OFFSET => 0x04,
        pci::BARS_OFFSET => 0x10,
        pci::CAPABILITIES_POINTER_OFFSET => 0x34,
        pci::CAPABILITIES_START => 0x40,
        pci::EXTENDED_CAPABILITIES_START => 0x100,
        pci::STATUS_CAPABILITIES => 0x10,
        pci::bar::IO => 0x01,
        pci::bar::TYPE_MASK => 0x06,
        pci::bar::TYPE_64 => 0x04,
        pci::bar::PREFETCHABLE => 0x08,
        pci::bar::ADDRESS_MASK => 0xffff_fff0,
    );
    // §6.2.2 "Device Control".
    let command = pci::Command::new();
    pin!(
        command.with_io_space(true).into_bits() => 0x0001,
        command.with_memory_space(true).into_bits() => 0x0002,
        command.with_bus_master(true).into_bits() => 0x0004,
        command.with_interrupt_disable(true).into_bits() => 0x0400,
    );
}

/// PCI 3.0 §6.8.2 "MSI-X Capability and Table Structures"; `PCI_MSIX_FLAGS` and following.
#[test]
fn the_msi_x_capability_is_that_of_pci() {
    reads!(pci::MsixCapability, 12 bytes, {
        header.id: 0x01,
        header.next: 0x02,
        control: 0x0403, // flags
        table: 0x0807_0605,
        pending: 0x0c0b_0a09, // pba
    });

    reads!(pci::MsixTableEntry, 16 bytes, {
        address_low: 0x0403_0201, // lower_addr
        address_high: 0x0807_0605, // upper_addr
        data: 0x0c0b_0a09,
        vector_control: 0x100f_0e0d, // vector_ctrl
    });
    pin!(
        pci::MsixControl::from_bits(0x07ff).table_len_minus_one() => 0x7ff,
        pci::MsixControl::from_bits(0x4000).function_mask() => true,
        pci::MsixControl::from_bits(0x8000).enable() => true,
        pci::MsixControl::from_bits(0x3fff).enable() => false,
        pci::capability::POWER_MANAGEMENT => 0x01,
        pci::capability::VENDOR_SPECIFIC => 0x09,
        pci::capability::PCI_EXPRESS => 0x10,
        pci::capability::MSI_X => 0x11,
    );
}

/// PCI Express Base §7.5.3 "PCI Express Capability Structure"; `PCI_EXP_FLAGS` to
/// `PCI_EXP_LNKSTA`. §7.6.3 "PCI Express Extended Capability Header"; `PCI_EXT_CAP_ID`.
#[test]
fn the_express_capabilities_are_those_of_pci_express() {
    reads!(pci::ExpressCapability, 20 bytes, {
        header.id: 0x01,
        header.next: 0x02,
        capabilities: 0x0403, // flags
        device_capabilities: 0x0807_0605, // devcap
        device_control: 0x0a09, // devctl
        device_status: 0x0c0b, // devsta
        link_capabilities: 0x100f_0e0d, // lnkcap
        link_control: 0x1211, // lnkctl
        link_status: 0x1413, // lnksta
    });
    // x16 at 32 GT/s: PCI_EXP_LNKCAP_SLS 0xf, PCI_EXP_LNKCAP_MLW 0x3f0.
    pin!(
        pci::LinkCapabilities::from_bits(0x0000_0105).max_link_speed() => 5,
        pci::LinkCapabilities::from_bits(0x0000_0105).max_link_width() => 16,
        pci::LinkStatus::from_bits(0x1043).current_link_speed() => 3,
        pci::LinkStatus::from_bits(0x1043).negotiated_link_width() => 4,
        pci::ExtendedCapabilityHeader::from_bits(0x1482_0001).id() => 0x0001,
        pci::ExtendedCapabilityHeader::from_bits(0x1482_0001).version() => 0x2,
        pci::ExtendedCapabilityHeader::from_bits(0x1482_0001).next() => 0x148,
        pci::extended_capability::AER => 0x0001,
        pci::extended_capability::SERIAL_NUMBER => 0x0003,
    );
}

/// Virtio 1.3 §4.1.4 "Virtio Structure PCI Capabilities", §4.1.4.4 "Notification structure
/// layout", §4.1.4.8 "Vendor data capability".
#[test]
fn the_virtio_capabilities_are_those_of_virtio() {
    reads!(virtio_pci::NotifyCapability, 20 bytes, {
        cap.header.id: 0x01, // cap_vndr
        cap.header.next: 0x02, // cap_next
        cap.cap_len: 0x03,
        cap.cfg_type: 0x04,
        cap.bar: 0x05,
        cap.id: 0x06,
        cap.padding[0]: 0x07,
        cap.padding[1]: 0x08,
        cap.offset: 0x0c0b_0a09,
        cap.length: 0x100f_0e0d,
        notify_off_multiplier: 0x1413_1211,
    });
    // The standard fixes the first six bytes, the rest is this project's.
    reads!(virtio_pci::HealthCapability, 24 bytes, {
        header.id: 0x01, // cap_vndr
        header.next: 0x02, // cap_next
        cap_len: 0x03,
        cfg_type: 0x04,
        vendor_id: 0x0605,
        bar: 0x07,
        version: 0x08,
        offset: 0x0c0b_0a09,
        length: 0x100f_0e0d,
        magic: 0x1413_1211,
        reserved: 0x1817_1615,
    });
    pin!(
        virtio_pci::VENDOR_ID => 0x1af4,
        virtio_pci::DEVICE_ID_BASE => 0x1040,
        virtio_pci::structure::COMMON => 1,
        virtio_pci::structure::NOTIFY => 2,
        virtio_pci::structure::ISR => 3,
        virtio_pci::structure::DEVICE => 4,
        virtio_pci::structure::PCI => 5,
        virtio_pci::structure::SHARED_MEMORY => 8,
        virtio_pci::structure::VENDOR => 9,
        virtio_pci::HEALTH_VENDOR_ID => 0x4857,
    );
}

/// Virtio 1.3 §4.1.4.3 "Common configuration structure layout"; `VIRTIO_PCI_COMMON_DFSELECT` and
/// following. The standard goes on with two fields for `VIRTIO_F_ADMIN_VQ`, which is never
/// accepted here.
#[test]
fn the_common_configuration_is_that_of_virtio() {
    reads!(virtio_pci::CommonConfig, 60 bytes, {
        device_feature_select: 0x0403_0201,
        device_feature: 0x0807_0605,
        driver_feature_select: 0x0c0b_0a09,
        driver_feature: 0x100f_0e0d,
        config_msix_vector: 0x1211,
        num_queues: 0x1413,
        device_status: 0x15,
        config_generation: 0x16,
        queue_select: 0x1817,
        queue_size: 0x1a19,
        queue_msix_vector: 0x1c1b,
        queue_enable: 0x1e1d,
        queue_notify_off: 0x201f,
        queue_desc: 0x2827_2625_2423_2221,
        queue_driver: 0x302f_2e2d_2c2b_2a29,
        queue_device: 0x3837_3635_3433_3231,
        queue_notify_data: 0x3a39,
        queue_reset: 0x3c3b,
    });
    pin!(
        virtio_pci::common::DEVICE_FEATURE_SELECT => 0,
        virtio_pci::common::DEVICE_FEATURE => 4,
        virtio_pci::common::DRIVER_FEATURE_SELECT => 8,
        virtio_pci::common::DRIVER_FEATURE => 12,
        virtio_pci::common::CONFIG_MSIX_VECTOR => 16,
        virtio_pci::common::NUM_QUEUES => 18,
        virtio_pci::common::DEVICE_STATUS => 20,
        virtio_pci::common::CONFIG_GENERATION => 21,
        virtio_pci::common::QUEUE_SELECT => 22,
        virtio_pci::common::QUEUE_SIZE => 24,
        virtio_pci::common::QUEUE_MSIX_VECTOR => 26,
        virtio_pci::common::QUEUE_ENABLE => 28,
        virtio_pci::common::QUEUE_NOTIFY_OFF => 30,
        virtio_pci::common::QUEUE_DESC => 32,
        virtio_pci::common::QUEUE_DRIVER => 40,
        virtio_pci::common::QUEUE_DEVICE => 48,
        virtio_pci::common::QUEUE_NOTIFY_DATA => 56,
        virtio_pci::common::QUEUE_RESET => 58,
        virtio_pci::NO_VECTOR => 0xffff,
    );
    // §2.1 "Device Status Field", §6 "Reserved Feature Bits", §4.1.4.5 "ISR status capability".
    pin!(
        virtio_pci::status::ACKNOWLEDGE => 1,
        virtio_pci::status::DRIVER => 2,
        virtio_pci::status::DRIVER_OK => 4,
        virtio_pci::status::FEATURES_OK => 8,
        virtio_pci::status::DEVICE_NEEDS_RESET => 64,
        virtio_pci::status::FAILED => 128,
        virtio_pci::feature::INDIRECT_DESC => 28,
        virtio_pci::feature::EVENT_IDX => 29,
        virtio_pci::feature::VERSION_1 => 32,
        virtio_pci::feature::ACCESS_PLATFORM => 33,
        virtio_pci::feature::ORDER_PLATFORM => 36,
        virtio_pci::feature::NOTIFICATION_DATA => 38,
        virtio_pci::feature::RING_RESET => 40,
        virtio_pci::isr::QUEUE => 1,
        virtio_pci::isr::CONFIG => 2,
    );
}

/// Virtio 1.3 §2.7 "Split Virtqueues": §2.7.5 "The Virtqueue Descriptor Table", §2.7.6 "The
/// Virtqueue Available Ring", §2.7.8 "The Virtqueue Used Ring".
#[test]
fn the_split_virtqueue_is_that_of_virtio() {
    reads!(virtqueue::Descriptor, 16 bytes, {
        addr: 0x0807_0605_0403_0201,
        len: 0x0c0b_0a09,
        flags: 0x0e0d,
        next: 0x100f,
    });

    reads!(virtqueue::UsedElement, 8 bytes, {
        id: 0x0403_0201,
        len: 0x0807_0605,
    });
    // Lengths: "16*(Queue Size)", "6 + 2*(Queue Size)", "6 + 8*(Queue Size)".
    pin!(
        virtqueue::descriptor_flag::NEXT => 1,
        virtqueue::descriptor_flag::WRITE => 2,
        virtqueue::descriptor_flag::INDIRECT => 4,
        virtqueue::AVAILABLE_NO_INTERRUPT => 1,
        virtqueue::USED_NO_NOTIFY => 1,
        virtqueue::QUEUE_SIZE_MAX => 32768,
        virtqueue::RING_FLAGS => 0,
        virtqueue::RING_INDEX => 2,
        virtqueue::RING_ENTRIES => 4,
        virtqueue::DESCRIPTOR_ALIGN => 16,
        virtqueue::AVAILABLE_ALIGN => 2,
        virtqueue::USED_ALIGN => 4,
        virtqueue::descriptor_area_len(256) => 4096,
        virtqueue::available_ring_len(256) => 518,
        virtqueue::used_ring_len(256) => 2054,
        virtqueue::descriptor_area_len(32768) => 524_288,
        virtqueue::available_ring_len(32768) => 65542,
        virtqueue::used_ring_len(32768) => 262_150,
    );
}

/// Virtio 1.3 §5.9.4 "Supported crypto services", §5.9.5 "Device configuration layout".
#[test]
fn the_crypto_configuration_is_that_of_virtio() {
    reads!(crypto::Config, 56 bytes, {
        status: 0x0403_0201,
        max_dataqueues: 0x0807_0605,
        crypto_services: 0x0c0b_0a09,
        cipher_algo_l: 0x100f_0e0d,
        cipher_algo_h: 0x1413_1211,
        hash_algo: 0x1817_1615,
        mac_algo_l: 0x1c1b_1a19,
        mac_algo_h: 0x201f_1e1d,
        aead_algo: 0x2423_2221,
        max_cipher_key_len: 0x2827_2625,
        max_auth_key_len: 0x2c2b_2a29,
        akcipher_algo: 0x302f_2e2d,
        max_size: 0x3837_3635_3433_3231,
    });
    pin!(
        crypto::DEVICE_ID => 20,
        crypto::PCI_DEVICE_ID => 0x1054,
        crypto::ConfigStatus::from_bits(0x0000_0001).hw_ready() => true,
        crypto::ConfigStatus::from_bits(0xffff_fffe).hw_ready() => false,
        crypto::service::CIPHER => 0,
        crypto::service::HASH => 1,
        crypto::service::MAC => 2,
        crypto::service::AEAD => 3,
        crypto::service::AKCIPHER => 4,
        crypto::cipher::AES_ECB => 2,
        crypto::cipher::AES_CBC => 3,
        crypto::cipher::AES_CTR => 4,
        crypto::hash::SHA_1 => 2,
        crypto::hash::SHA_256 => 4,
        crypto::hash::SHA_384 => 5,
        crypto::hash::SHA_512 => 6,
        crypto::mac::HMAC_SHA_256 => 4,
        crypto::mac::HMAC_SHA_384 => 5,
        crypto::mac::HMAC_SHA_512 => 6,
        crypto::aead::GCM => 1,
        crypto::akcipher::RSA => 1,
        // The standard's number; `linux/virtio_crypto.h` has 3.
        crypto::akcipher::ECDSA => 2,
    );
}

/// Virtio 1.3 §5.9.7.2 "Control Virtqueue", each request padded to 16 + 56 bytes
/// (`VIRTIO_CRYPTO_CTRLQ_OP_SPEC_HDR_LEGACY`).
#[test]
fn control_requests_are_those_of_virtio_crypto() {
    reads!(crypto::CipherCreate, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        algo: 0x1413_1211,
        key_len: 0x1817_1615,
        direction: 0x1c1b_1a19, // op
        padding: 0x201f_1e1d,
        unused[0]: 0x2423_2221, // padding
        unused[7]: 0x403f_3e3d,
        op_type: 0x4443_4241,
        padding_end: 0x4847_4645, // padding
    });

    reads!(crypto::HashCreate, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        algo: 0x1413_1211,
        result_len: 0x1817_1615, // hash_result_len
        padding[0]: 0x1c1b_1a19,
        padding[11]: 0x4847_4645,
    });

    reads!(crypto::MacCreate, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        algo: 0x1413_1211,
        result_len: 0x1817_1615, // hash_result_len
        key_len: 0x1c1b_1a19, // auth_key_len
        padding[0]: 0x201f_1e1d,
        padding[10]: 0x4847_4645,
    });

    reads!(crypto::AeadCreate, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        algo: 0x1413_1211,
        key_len: 0x1817_1615,
        tag_len: 0x1c1b_1a19,
        aad_len: 0x201f_1e1d,
        direction: 0x2423_2221, // op
        padding[0]: 0x2827_2625,
        padding[8]: 0x4847_4645,
    });

    reads!(crypto::AkcipherCreate, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        algo: 0x1413_1211,
        key_type: 0x1817_1615,
        key_len: 0x1c1b_1a19,
        padding_or_curve: 0x201f_1e1d, // padding_algo,curve_id
        hash_algo: 0x2423_2221,
        padding[0]: 0x2827_2625,
        padding[8]: 0x4847_4645,
    });

    reads!(crypto::DestroySession, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.flag: 0x0c0b_0a09,
        header.reserved: 0x100f_0e0d,
        session_id: 0x1817_1615_1413_1211,
        padding[0]: 0x1c1b_1a19,
        padding[11]: 0x4847_4645,
    });

    reads!(crypto::SessionReply, 16 bytes, {
        session_id: 0x0807_0605_0403_0201,
        status: 0x0c0b_0a09,
        padding: 0x100f_0e0d,
    });
    pin!(
        crypto::REQUEST_LEN => 72,
        crypto::control_opcode::CIPHER_CREATE => 0x0002,
        crypto::control_opcode::CIPHER_DESTROY => 0x0003,
        crypto::control_opcode::HASH_CREATE => 0x0102,
        crypto::control_opcode::HASH_DESTROY => 0x0103,
        crypto::control_opcode::MAC_CREATE => 0x0202,
        crypto::control_opcode::MAC_DESTROY => 0x0203,
        crypto::control_opcode::AEAD_CREATE => 0x0302,
        crypto::control_opcode::AEAD_DESTROY => 0x0303,
        crypto::control_opcode::AKCIPHER_CREATE => 0x0404,
        crypto::control_opcode::AKCIPHER_DESTROY => 0x0405,
        crypto::symmetric_op_type::CIPHER => 1,
        crypto::symmetric_op_type::ALGORITHM_CHAINING => 2,
        crypto::direction::ENCRYPT => 1,
        crypto::direction::DECRYPT => 2,
        crypto::key_type::PUBLIC => 1,
        crypto::key_type::PRIVATE => 2,
        crypto::rsa_padding::RAW => 0,
        crypto::rsa_padding::PKCS1 => 1,
        crypto::rsa_hash::NONE => 0,
        crypto::rsa_hash::MD5 => 4,
        crypto::rsa_hash::SHA1 => 5,
        crypto::rsa_hash::SHA256 => 6,
        crypto::rsa_hash::SHA384 => 7,
        crypto::rsa_hash::SHA512 => 8,
        crypto::rsa_hash::SHA224 => 9,
        crypto::curve::P192 => 1,
        crypto::curve::P224 => 2,
        crypto::curve::P256 => 3,
        crypto::curve::P384 => 4,
        crypto::curve::P521 => 5,
    );
}

/// Virtio 1.3 §5.9.7.3 "Data Virtqueue", each request padded to 24 + 48 bytes
/// (`VIRTIO_CRYPTO_DATAQ_OP_SPEC_HDR_LEGACY`); parameters as in §5.9.7.4 "HASH Service Operation"
/// to §5.9.7.8 "AKCIPHER Service Operation". §5.9.7.1 "Operation Status".
#[test]
fn data_requests_are_those_of_virtio_crypto() {
    reads!(crypto::CipherData, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.session_id: 0x100f_0e0d_0c0b_0a09,
        header.flag: 0x1413_1211,
        header.padding: 0x1817_1615,
        iv_len: 0x1c1b_1a19,
        src_len: 0x201f_1e1d, // src_data_len
        dst_len: 0x2423_2221, // dst_data_len
        padding: 0x2827_2625,
        unused[0]: 0x2c2b_2a29, // padding
        unused[5]: 0x403f_3e3d,
        op_type: 0x4443_4241,
        padding_end: 0x4847_4645, // padding
    });

    reads!(crypto::HashData, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.session_id: 0x100f_0e0d_0c0b_0a09,
        header.flag: 0x1413_1211,
        header.padding: 0x1817_1615,
        src_len: 0x1c1b_1a19, // src_data_len
        result_len: 0x201f_1e1d, // hash_result_len
        padding[0]: 0x2423_2221,
        padding[9]: 0x4847_4645,
    });

    reads!(crypto::AeadData, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.session_id: 0x100f_0e0d_0c0b_0a09,
        header.flag: 0x1413_1211,
        header.padding: 0x1817_1615,
        iv_len: 0x1c1b_1a19,
        aad_len: 0x201f_1e1d,
        src_len: 0x2423_2221, // src_data_len
        dst_len: 0x2827_2625, // dst_data_len
        tag_len: 0x2c2b_2a29,
        reserved: 0x302f_2e2d,
        padding[0]: 0x3433_3231,
        padding[5]: 0x4847_4645,
    });

    reads!(crypto::AkcipherData, 72 bytes, {
        header.opcode: 0x0403_0201,
        header.algo: 0x0807_0605,
        header.session_id: 0x100f_0e0d_0c0b_0a09,
        header.flag: 0x1413_1211,
        header.padding: 0x1817_1615,
        src_len: 0x1c1b_1a19, // src_data_len
        dst_len: 0x201f_1e1d, // dst_data_len
        padding[0]: 0x2423_2221,
        padding[9]: 0x4847_4645,
    });
    pin!(
        crypto::data_opcode::CIPHER_ENCRYPT => 0x0000,
        crypto::data_opcode::CIPHER_DECRYPT => 0x0001,
        crypto::data_opcode::HASH => 0x0100,
        crypto::data_opcode::MAC => 0x0200,
        crypto::data_opcode::AEAD_ENCRYPT => 0x0300,
        crypto::data_opcode::AEAD_DECRYPT => 0x0301,
        crypto::data_opcode::AKCIPHER_ENCRYPT => 0x0400,
        crypto::data_opcode::AKCIPHER_DECRYPT => 0x0401,
        crypto::data_opcode::AKCIPHER_SIGN => 0x0402,
        crypto::data_opcode::AKCIPHER_VERIFY => 0x0403,
        crypto::Status::OK.0 => 0,
        crypto::Status::ERR.0 => 1,
        crypto::Status::BADMSG.0 => 2,
        crypto::Status::NOTSUPP.0 => 3,
        crypto::Status::INVSESS.0 => 4,
        crypto::Status::NOSPC.0 => 5,
        crypto::Status::KEY_REJECTED.0 => 6,
    );
}

/// This project's own page; bits after NVM Express Base 2.0 (`CSTS`, "SMART / Health
/// Information"), PCI Express Base §7.8.4 "Advanced Error Reporting Extended Capability"
/// (`PCI_ERR_UNC_*`) and "Native PCIe Enclosure Management".
#[test]
fn the_health_page_stays_as_published() {
    reads!(health::Summary, 512 bytes, {
        magic: 0x0403_0201, // MAGIC
        version: 0x0807_0605, // VS
        capabilities: 0x100f_0e0d_0c0b_0a09, // CAP
        controller_status: 0x1413_1211, // CSTS
        controller_configuration: 0x1817_1615, // CC
        boot_id: 0x1c1b_1a19, // BOOT_ID
        reset_count: 0x201f_1e1d, // RESET_CNT
        heartbeat_period_ms: 0x2423_2221, // HB_PERIOD_MS
        heartbeat_count: 0x2827_2625, // HB_COUNT
        uptime_ms: 0x302f_2e2d_2c2b_2a29, // UPTIME_MS
        engines[0].requested: 0x3231, // HB_CTR
        engines[0].responded: 0x3433,
        engines[18].requested: 0x7a79, // HB_CTR
        engines[18].responded: 0x7c7b,
        statistics_generation: 0x807f_7e7d, // STATS_GEN
        critical_warning: 0x81,
        reserved_81: 0x82, // reserved
        composite_temperature_k: 0x8483, // composite_temp
        warning_temperature_k: 0x8685, // wctemp
        critical_temperature_k: 0x8887, // cctemp
        temperature_sensors_k[0]: 0x8a89, // temp_sensor
        temperature_sensors_k[7]: 0x9897,
        power_cycles: 0x9c9b_9a99,
        power_on_hours: 0xa09f_9e9d,
        unsafe_shutdowns: 0xa4a3_a2a1,
        error_log_entries: 0xa8a7_a6a5, // num_err_log_entries
        warning_temperature_minutes: 0xacab_aaa9, // warning_temp_time
        critical_temperature_minutes: 0xb0af_aead, // critical_comp_time
        requests_ok: 0xb8b7_b6b5_b4b3_b2b1,
        requests_failed: 0xc0bf_bebd_bcbb_bab9,
        selftest_status: 0xc4c3_c2c1,
        reserved_c4[0]: 0xc5, // reserved
        reserved_c4[11]: 0xd0,
        firmware_revision[0]: 0xd1, // fr
        firmware_revision[7]: 0xd8,
        firmware_build: 0xe0df_dedd_dcdb_dad9, // fw_build
        serial_number[0]: 0xe1, // sn
        serial_number[19]: 0xf4,
        reserved_f4[0]: 0xf5, // reserved
        reserved_f4[11]: 0x01,
        model_number[0]: 0x02, // mn
        model_number[39]: 0x29,
        reserved_128[0]: 0x2a, // reserved
        reserved_128[23]: 0x41,
        uncorrectable_status: 0x4544_4342, // UNCOR_STATUS
        uncorrectable_mask: 0x4948_4746, // UNCOR_MASK
        uncorrectable_severity: 0x4d4c_4b4a, // UNCOR_SEVER
        correctable_status: 0x5150_4f4e, // COR_STATUS
        correctable_mask: 0x5554_5352, // COR_MASK
        error_capabilities: 0x5958_5756, // first_error_pointer
        header_log[0]: 0x5d5c_5b5a, // HEADER_LOG
        header_log[3]: 0x6968_6766,
        reserved_168[0]: 0x6a, // reserved
        reserved_168[23]: 0x81,
        led_control: 0x8584_8382, // LED_CTL
        led_status: 0x8988_8786, // LED_STS
        led_edge_count: 0x8d8c_8b8a, // LED_EDGES
        led_edges[0]: 0x9190_8f8e, // LED_EDGE
        led_edges[28]: 0x0201_fffe,
    });

    reads!(health::ErrorLogEntry, 64 bytes, {
        error_count: 0x0807_0605_0403_0201,
        queue_index: 0x0a09, // sqid
        head_index: 0x0c0b, // cmdid
        status: 0x0e0d,
        location: 0x100f, // loc
        session_id: 0x1817_1615_1413_1211, // session
        opcode: 0x1c1b_1a19,
        reserved: 0x201f_1e1d,
        uptime_ms: 0x2827_2625_2423_2221, // t_ms
        text[0]: 0x29,
        text[23]: 0x40,
    });
    pin!(
        health::MAGIC.to_le_bytes() => *b"HWS1",
        health::GONE => 0xffff_ffff,
        health::VERSION => 0x0001_0001,
        health::PAGE_LEN => 4096,
        health::SUMMARY_LEN => 0x200,
        health::ENGINES_MAX => 19,
        health::TEMPERATURE_SENSORS_MAX => 8,
        health::LED_EDGES_MAX => 29,
        health::ERROR_LOG_ENTRIES => 16,
        health::ERROR_LOG_OFFSET => 0x240,
        health::register::MAGIC => 0x000,
        health::register::CONTROLLER_STATUS => 0x010,
        health::register::CONTROLLER_CONFIGURATION => 0x014,
        health::register::BOOT_ID => 0x018,
        health::register::HEARTBEAT_COUNT => 0x024,
        health::register::STATISTICS_GENERATION => 0x07c,
        health::register::UNCORRECTABLE_STATUS => 0x140,
        health::register::CORRECTABLE_STATUS => 0x14c,
        health::register::LED_CONTROL => 0x180,
        health::register::LED_STATUS => 0x184,
        health::register::LED_EDGE_COUNT => 0x188,
        health::register::LED_EDGES => 0x18c,
        health::register::ERROR_LOG_WRITTEN => 0x200,
        health::register::ERROR_LOG_LOST => 0x204,
    );
    let capabilities = health::Capabilities::from_bits(0x0807_0605_0403_0201);
    let status = health::ControllerStatus::new();
    let warning = health::CriticalWarning::new();
    let edge = health::LedEdge::new();
    pin!(
        capabilities.engine_count() => 0x02,
        capabilities.error_log_entries() => 0x03,
        capabilities.temperature_sensor_count() => 0x04,
        status.with_ready(true).into_bits() => 0x01,
        status.with_fatal(true).into_bits() => 0x02,
        status.with_shutdown_status(2).into_bits() => 0x08,
        status.with_reset_occurred(true).into_bits() => 0x10,
        status.with_processing_paused(true).into_bits() => 0x20,
        status.with_throttled(true).into_bits() => 0x40,
        warning.with_temperature(true).into_bits() => 0x02,
        warning.with_reliability_degraded(true).into_bits() => 0x04,
        warning.with_fail_closed(true).into_bits() => 0x08,
        edge.with_lit(true).into_bits() => 0x8000_0000,
        edge.with_uptime_ms(0x7fff_ffff).into_bits() => 0x7fff_ffff,
        health::uncorrectable::POISON => 0x0000_1000,
        health::uncorrectable::COMPLETION_TIMEOUT => 0x0000_4000,
        health::uncorrectable::COMPLETER_ABORT => 0x0000_8000,
        health::uncorrectable::UNEXPECTED_COMPLETION => 0x0001_0000,
        health::uncorrectable::MALFORMED => 0x0004_0000,
        health::uncorrectable::UNSUPPORTED => 0x0010_0000,
        health::uncorrectable::INTERNAL => 0x0040_0000,
        health::uncorrectable::DMA_FAULT => 0x1000_0000,
        health::uncorrectable::KEY_STORE => 0x2000_0000,
        health::uncorrectable::SELF_TEST => 0x4000_0000,
        health::led::OK => 0x04,
        health::led::LOCATE => 0x08,
        health::led::FAIL => 0x10,
        health::led::PREDICTED_FAILURE => 0x40,
    );
}

/// This project's own page: a monitor of another version must be able to read it.
#[test]
fn the_telemetry_page_stays_as_published() {
    reads!(telemetry::Page, 4096 bytes, {
        magic: 0x0403_0201,
        version_major: 0x0605,
        version_minor: 0x0807,
        sequence: 0x100f_0e0d_0c0b_0a09,
        owner.pid: 0x1817_1615_1413_1211,
        owner.start_time_ticks: 0x201f_1e1d_1c1b_1a19,
        owner.published_at_ns: 0x2827_2625_2423_2221,
        owner.publish_interval_ns: 0x302f_2e2d_2c2b_2a29,
        owner.lateness_ns_max: 0x3837_3635_3433_3231,
        owner.address[0]: 0x39,
        owner.address[95]: 0x98,
        card.state: 0xa09f_9e9d_9c9b_9a99,
        card.state_since_ns: 0xa8a7_a6a5_a4a3_a2a1,
        card.health_reads: 0xb0af_aead_acab_aaa9,
        card.health_errors: 0xb8b7_b6b5_b4b3_b2b1,
        card.health_read_at_ns: 0xc0bf_bebd_bcbb_bab9,
        card.heartbeat_changed_at_ns: 0xc8c7_c6c5_c4c3_c2c1,
        card.silent_reboots: 0xd0cf_cecd_cccb_cac9,
        card.resets: 0xd8d7_d6d5_d4d3_d2d1,
        card.resets_failed: 0xe0df_dedd_dcdb_dad9,
        card.sessions_open: 0xe8e7_e6e5_e4e3_e2e1,
        card.doorbells: 0xf0ef_eeed_eceb_eae9,
        card.completions_discarded: 0xf8f7_f6f5_f4f3_f2f1,
        breaker.state: 0x01ff_fefd_fcfb_faf9,
        breaker.state_since_ns: 0x0908_0706_0504_0302,
        breaker.opened: 0x1110_0f0e_0d0c_0b0a,
        breaker.trial_at_ns: 0x1918_1716_1514_1312,
        breaker.opened_by[0]: 0x1a,
        breaker.opened_by[31]: 0x39,
        requests.submitted: 0x4140_3f3e_3d3c_3b3a,
        requests.card: 0x4948_4746_4544_4342,
        requests.software: 0x5150_4f4e_4d4c_4b4a,
        requests.refused: 0x5958_5756_5554_5352,
        requests.in_flight: 0x6160_5f5e_5d5c_5b5a,
        requests.fallbacks: 0x6968_6766_6564_6362,
        requests.timed_out: 0x7170_6f6e_6d6c_6b6a,
        requests.failed: 0x7978_7776_7574_7372,
        requests.misbehaved: 0x8180_7f7e_7d7c_7b7a,
        requests.wrong_answers: 0x8988_8786_8584_8382,
        checks.started: 0x9190_8f8e_8d8c_8b8a,
        checks.passed: 0x9998_9796_9594_9392,
        checks.failed: 0xa1a0_9f9e_9d9c_9b9a,
        checks.last_at_ns: 0xa9a8_a7a6_a5a4_a3a2,
        checks.last_latency_ns: 0xb1b0_afae_adac_abaa,
        checks.last_result: 0xb9b8_b7b6_b5b4_b3b2,
        interrupts.arrived: 0xc1c0_bfbe_bdbc_bbba,
        interrupts.completions_due: 0xc9c8_c7c6_c5c4_c3c2,
        interrupts.completions_unannounced: 0xd1d0_cfce_cdcc_cbca,
        sessions_lost: 0xd9d8_d7d6_d5d4_d3d2,
        checked[0]: 0xda,
        checked[31]: 0xf9,
        reserved[0]: 0x0201_fffe_fdfc_fbfa,
        health[0]: 0x03,
        health[511]: 0x04,
        tls.began_at_ns: 0x0c0b_0a09_0807_0605,
        tls.connections.accepted: 0x1413_1211_100f_0e0d,
        tls.connections.active: 0x1c1b_1a19_1817_1615,
        tls.connections.closed: 0x2423_2221_201f_1e1d,
        tls.connections.idle: 0x2c2b_2a29_2827_2625,
        tls.connections.broken: 0x3433_3231_302f_2e2d,
        tls.connections.unreachable: 0x3c3b_3a39_3837_3635,
        tls.connections.not_accepted: 0x4443_4241_403f_3e3d,
        tls.handshakes.accepted: 0x4c4b_4a49_4847_4645,
        tls.handshakes.completed: 0x5453_5251_504f_4e4d,
        tls.handshakes.tls12: 0x5c5b_5a59_5857_5655,
        tls.handshakes.tls13: 0x6463_6261_605f_5e5d,
        tls.handshakes.resumed: 0x6c6b_6a69_6867_6665,
        tls.handshakes.failed: 0x7473_7271_706f_6e6d,
        tls.handshakes.timed_out: 0x7c7b_7a79_7877_7675,
        tls.handshakes.cancelled: 0x8483_8281_807f_7e7d,
        tls.handshakes.under_way: 0x8c8b_8a89_8887_8685,
        tls.handshakes.offloaded: 0x9493_9291_908f_8e8d,
        tls.handshakes.software: 0x9c9b_9a99_9897_9695,
        tls.handshakes.mismatched: 0xa4a3_a2a1_a09f_9e9d,
        overload.shed: 0xacab_aaa9_a8a7_a6a5,
        overload.overloaded: 0xb4b3_b2b1_b0af_aead,
        reserved_end[0]: 0xb5, // reserved
        reserved_end[2895]: 0x10,
    });
    pin!(
        telemetry::MAGIC.to_le_bytes() => *b"HWT1",
        telemetry::VERSION_MAJOR => 1,
        telemetry::VERSION_MINOR => 3,
        telemetry::PAGE_LEN => 4096,
        telemetry::BODY_OFFSET => 0x10,
        telemetry::ADDRESS_LEN => 96,
        telemetry::CODE_LEN => 32,
        telemetry::FILE_EXTENSION => "telemetry",
        telemetry::ROUTER_FILE_EXTENSION => "router",
        telemetry::card_state::STARTING => 0,
        telemetry::card_state::READY => 1,
        telemetry::card_state::NEEDS_RESET => 2,
        telemetry::card_state::GONE => 3,
        telemetry::card_state::RELEASED => 4,
        telemetry::card_state::NONE => 5,
        telemetry::breaker_state::CLOSED => 0,
        telemetry::breaker_state::OPEN => 1,
        telemetry::breaker_state::HALF_OPEN => 2,
        telemetry::check_result::NONE => 0,
        telemetry::check_result::PASSED => 1,
        telemetry::check_result::FAILED => 2,
        telemetry::check_result::TIMED_OUT => 3,
        telemetry::check_result::WRONG_ANSWER => 4,
        telemetry::check_result::MISBEHAVED => 5,
    );
}

/// `linux/vfio.h`, structures and numbers of the kernel's ABI (6.1).
#[test]
fn vfio_is_that_of_linux() {
    reads!(vfio::GroupStatus, 8 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
    });

    reads!(vfio::DeviceInfo, 16 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        num_regions: 0x0c0b_0a09,
        num_irqs: 0x100f_0e0d,
    });

    reads!(vfio::RegionInfo, 32 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        index: 0x0c0b_0a09,
        cap_offset: 0x100f_0e0d,
        size: 0x1817_1615_1413_1211,
        offset: 0x201f_1e1d_1c1b_1a19,
    });

    reads!(vfio::SparseMmap, 16 bytes, {
        header.id: 0x0201,
        header.version: 0x0403,
        header.next: 0x0807_0605,
        nr_areas: 0x0c0b_0a09,
        reserved: 0x100f_0e0d,
    });

    reads!(vfio::SparseArea, 16 bytes, {
        offset: 0x0807_0605_0403_0201,
        size: 0x100f_0e0d_0c0b_0a09,
    });

    reads!(vfio::IrqInfo, 16 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        index: 0x0c0b_0a09,
        count: 0x100f_0e0d,
    });

    reads!(vfio::IrqSet, 20 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        index: 0x0c0b_0a09,
        start: 0x100f_0e0d,
        count: 0x1413_1211,
    });

    reads!(vfio::DmaMap, 32 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        vaddr: 0x100f_0e0d_0c0b_0a09,
        iova: 0x1817_1615_1413_1211,
        size: 0x201f_1e1d_1c1b_1a19,
    });

    reads!(vfio::DmaUnmap, 24 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        iova: 0x100f_0e0d_0c0b_0a09,
        size: 0x1817_1615_1413_1211,
    });
    pin!(
        vfio::region::ROM => 6,
        vfio::region::CONFIG => 7,
        vfio::region::COUNT => 9,
        vfio::region::FLAG_READ => 1,
        vfio::region::FLAG_WRITE => 2,
        vfio::region::FLAG_MMAP => 4,
        vfio::region::FLAG_CAPS => 8,
        vfio::region::CAP_SPARSE_MMAP => 1,
        vfio::irq::INTX => 0,
        vfio::irq::MSI => 1,
        vfio::irq::MSIX => 2,
        vfio::irq::ERR => 3,
        vfio::irq::REQ => 4,
        vfio::irq::COUNT => 5,
        vfio::irq::FLAG_EVENTFD => 1,
        vfio::irq::FLAG_NORESIZE => 8,
        vfio::irq::SET_DATA_NONE => 1,
        vfio::irq::SET_DATA_BOOL => 2,
        vfio::irq::SET_DATA_EVENTFD => 4,
        vfio::irq::SET_ACTION_MASK => 8,
        vfio::irq::SET_ACTION_UNMASK => 16,
        vfio::irq::SET_ACTION_TRIGGER => 32,
        vfio::dma::READ => 1,
        vfio::dma::WRITE => 2,
        vfio::device::RESET => 1,
        vfio::device::PCI => 2,
        vfio::API_VERSION => 0,
        vfio::TYPE1V2_IOMMU => 3,
        vfio::GROUP_VIABLE => 1,
        // `_IO(';', 100 + n)`: 0x3b is the semicolon, 0x64 is 100.
        vfio::ioctl::GET_API_VERSION => 0x3b64,
        vfio::ioctl::CHECK_EXTENSION => 0x3b65,
        vfio::ioctl::SET_IOMMU => 0x3b66,
        vfio::ioctl::GROUP_GET_STATUS => 0x3b67,
        vfio::ioctl::GROUP_SET_CONTAINER => 0x3b68,
        vfio::ioctl::GROUP_UNSET_CONTAINER => 0x3b69,
        vfio::ioctl::GROUP_GET_DEVICE_FD => 0x3b6a,
        vfio::ioctl::DEVICE_GET_INFO => 0x3b6b,
        vfio::ioctl::DEVICE_GET_REGION_INFO => 0x3b6c,
        vfio::ioctl::DEVICE_GET_IRQ_INFO => 0x3b6d,
        vfio::ioctl::DEVICE_SET_IRQS => 0x3b6e,
        vfio::ioctl::DEVICE_RESET => 0x3b6f,
        vfio::ioctl::IOMMU_MAP_DMA => 0x3b71,
        vfio::ioctl::IOMMU_UNMAP_DMA => 0x3b72,
    );
}

/// "vfio-user Protocol Specification" (QEMU, `docs/interop/vfio-user.rst`): the tables of
/// "Commands", "Header" and of each command.
#[test]
fn vfio_user_messages_are_those_of_the_protocol() {
    reads!(vfio_user::Header, 16 bytes, {
        message_id: 0x0201,
        command: 0x0403,
        message_size: 0x0807_0605,
        flags: 0x0c0b_0a09,
        error: 0x100f_0e0d,
    });

    reads!(vfio_user::Version, 4 bytes, {
        major: 0x0201,
        minor: 0x0403,
    });

    reads!(vfio_user::DmaMap, 32 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        offset: 0x100f_0e0d_0c0b_0a09,
        address: 0x1817_1615_1413_1211,
        size: 0x201f_1e1d_1c1b_1a19,
    });

    reads!(vfio_user::DmaUnmap, 24 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        address: 0x100f_0e0d_0c0b_0a09,
        size: 0x1817_1615_1413_1211,
    });

    reads!(vfio_user::RegionAccess, 16 bytes, {
        offset: 0x0807_0605_0403_0201,
        region: 0x0c0b_0a09,
        count: 0x100f_0e0d,
    });

    reads!(vfio_user::RegionIoFds, 16 bytes, {
        argsz: 0x0403_0201,
        flags: 0x0807_0605,
        index: 0x0c0b_0a09,
        count: 0x100f_0e0d,
    });

    reads!(vfio_user::SubRegionIoFd, 40 bytes, {
        offset: 0x0807_0605_0403_0201,
        size: 0x100f_0e0d_0c0b_0a09,
        fd_index: 0x1413_1211,
        kind: 0x1817_1615, // type
        flags: 0x1c1b_1a19,
        padding: 0x201f_1e1d,
        datamatch: 0x2827_2625_2423_2221,
    });
    pin!(
        vfio_user::VERSION_MAJOR => 0,
        vfio_user::DATA_TRANSFER_LEN_MAX => 1_048_576,
        vfio_user::command::VERSION => 1,
        vfio_user::command::DMA_MAP => 2,
        vfio_user::command::DMA_UNMAP => 3,
        vfio_user::command::DEVICE_GET_INFO => 4,
        vfio_user::command::DEVICE_GET_REGION_INFO => 5,
        vfio_user::command::DEVICE_GET_REGION_IO_FDS => 6,
        vfio_user::command::DEVICE_GET_IRQ_INFO => 7,
        vfio_user::command::DEVICE_SET_IRQS => 8,
        vfio_user::command::REGION_READ => 9,
        vfio_user::command::REGION_WRITE => 10,
        vfio_user::command::DEVICE_RESET => 13,
        vfio_user::flag::TYPE_MASK => 0x0f,
        vfio_user::flag::TYPE_COMMAND => 0x00,
        vfio_user::flag::TYPE_REPLY => 0x01,
        vfio_user::flag::NO_REPLY => 0x10,
        vfio_user::flag::ERROR => 0x20,
        vfio_user::IOEVENTFD_DATAMATCH => 1,
        vfio_user::io_fd_type::IOEVENTFD => 0,
        vfio_user::io_fd_type::IOREGIONFD => 1,
    );
}
