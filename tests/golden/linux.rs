//! Asks a C compiler for the same numbers, out of the kernel's own headers.
//!
//! It covers what those headers define and nothing else. Without a compiler, or with headers
//! older than Linux 6.1, the test says so and passes: the numbers in `golden.rs` need neither.

use card_spec::{crypto, pci, vfio, virtio_pci, virtqueue};
use std::io::Write;
use std::mem::offset_of;
use std::process::{Command, Output, Stdio};

const PREAMBLE: &str = "\
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_crypto.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#ifndef VIRTIO_PCI_COMMON_Q_RESET
#error headers older than Linux 6.1
#endif
";

/// One number of ours, and the C expression that must have the same value.
struct Claim {
    rust: &'static str,
    value: u64,
    c: String,
}

#[test]
fn linux_headers_agree() {
    if let Err(reason) = preprocess() {
        eprintln!("skipped: no C compiler with headers of Linux 6.1 or later ({reason})");
        return;
    }
    let claims: Vec<Claim> = [structures(), registers(), constants()]
        .into_iter()
        .flatten()
        .collect();
    let theirs = evaluate(&claims);
    assert_eq!(theirs.len(), claims.len());
    for (claim, theirs) in claims.iter().zip(theirs) {
        let Claim { rust, value, c } = claim;
        assert_eq!(
            *value, theirs,
            "card-spec has {value:#x} for {rust}, Linux {theirs:#x} for {c}"
        );
    }
}

fn preprocess() -> Result<(), String> {
    let output = compiler(&["-E", "-x", "c", "-", "-o", "/dev/null"], PREAMBLE)
        .map_err(|error| format!("cc: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(message.lines().next().unwrap_or_default().to_owned())
}

/// Compiles and runs a program that prints each claim's C expression.
fn evaluate(claims: &[Claim]) -> Vec<u64> {
    let mut program = format!("{PREAMBLE}int main(void) {{\n");
    for Claim { c, .. } in claims {
        program += &format!("printf(\"%llu\\n\", (unsigned long long)({c}));\n");
    }
    program += "}\n";
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let binary = directory.path().join("claims");
    let binary = binary.to_str().expect("the temporary path is UTF-8");
    let compiled = compiler(&["-x", "c", "-", "-o", binary], &program).expect("cc ran before");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    let output = Command::new(binary).output().expect("it was just compiled");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.parse().expect("the program prints numbers"))
        .collect()
}

fn compiler(arguments: &[&str], source: &str) -> std::io::Result<Output> {
    let mut cc = Command::new("cc")
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = cc.stdin.take().expect("stdin is piped");
    stdin.write_all(source.as_bytes())?;
    drop(stdin);
    cc.wait_with_output()
}

/// Claims that structures are equally long and that their fields lie at the same offsets.
macro_rules! structures {
    ($($type:ty = $c_type:literal { $($field:ident = $c_field:literal,)* })+) => {
        vec![$(
            Claim {
                rust: stringify!($type),
                value: size_of::<$type>() as u64,
                c: format!("sizeof({})", $c_type),
            },
            $(Claim {
                rust: concat!(stringify!($type), ".", stringify!($field)),
                value: offset_of!($type, $field) as u64,
                c: format!("offsetof({}, {})", $c_type, $c_field),
            },)*
        )+]
    };
}

/// Claims that fields lie where the kernel has a constant for it.
macro_rules! offsets {
    ($($type:ty { $($field:ident = $c:literal,)+ })+) => {
        vec![$($(Claim {
            rust: concat!(stringify!($type), ".", stringify!($field)),
            value: offset_of!($type, $field) as u64,
            c: $c.to_owned(),
        },)+)+]
    };
}

/// Claims that constants are equal.
macro_rules! constants {
    ($($constant:path = $c:literal,)+) => {
        vec![$(Claim {
            rust: stringify!($constant),
            value: u64::try_from($constant).expect("constants fit"),
            c: $c.to_owned(),
        },)+]
    };
}

fn structures() -> Vec<Claim> {
    structures! {
        virtio_pci::Capability = "struct virtio_pci_cap" {
            cap_len = "cap_len", cfg_type = "cfg_type", bar = "bar", id = "id",
            offset = "offset", length = "length",
        }
        virtio_pci::NotifyCapability = "struct virtio_pci_notify_cap" {
            notify_off_multiplier = "notify_off_multiplier",
        }
        virtqueue::Descriptor = "struct vring_desc" {
            addr = "addr", len = "len", flags = "flags", next = "next",
        }
        virtqueue::UsedElement = "struct vring_used_elem" { id = "id", len = "len", }
        crypto::Config = "struct virtio_crypto_config" {
            status = "status", max_dataqueues = "max_dataqueues",
            crypto_services = "crypto_services", cipher_algo_l = "cipher_algo_l",
            cipher_algo_h = "cipher_algo_h", hash_algo = "hash_algo", mac_algo_l = "mac_algo_l",
            mac_algo_h = "mac_algo_h", aead_algo = "aead_algo",
            max_cipher_key_len = "max_cipher_key_len", max_auth_key_len = "max_auth_key_len",
            akcipher_algo = "akcipher_algo", max_size = "max_size",
        }
        crypto::ControlHeader = "struct virtio_crypto_ctrl_header" {
            opcode = "opcode", algo = "algo", flag = "flag", reserved = "queue_id",
        }
        crypto::CipherCreate = "struct virtio_crypto_op_ctrl_req" {
            algo = "u.sym_create_session.u.cipher.para.algo",
            key_len = "u.sym_create_session.u.cipher.para.keylen",
            direction = "u.sym_create_session.u.cipher.para.op",
            op_type = "u.sym_create_session.op_type",
        }
        crypto::HashCreate = "struct virtio_crypto_op_ctrl_req" {
            algo = "u.hash_create_session.para.algo",
            result_len = "u.hash_create_session.para.hash_result_len",
        }
        crypto::MacCreate = "struct virtio_crypto_op_ctrl_req" {
            algo = "u.mac_create_session.para.algo",
            result_len = "u.mac_create_session.para.hash_result_len",
            key_len = "u.mac_create_session.para.auth_key_len",
        }
        crypto::AeadCreate = "struct virtio_crypto_op_ctrl_req" {
            algo = "u.aead_create_session.para.algo",
            key_len = "u.aead_create_session.para.key_len",
            tag_len = "u.aead_create_session.para.hash_result_len",
            aad_len = "u.aead_create_session.para.aad_len",
            direction = "u.aead_create_session.para.op",
        }
        crypto::AkcipherCreate = "struct virtio_crypto_op_ctrl_req" {
            algo = "u.akcipher_create_session.para.algo",
            key_type = "u.akcipher_create_session.para.keytype",
            key_len = "u.akcipher_create_session.para.keylen",
            padding_or_curve = "u.akcipher_create_session.para.u.rsa.padding_algo",
            padding_or_curve = "u.akcipher_create_session.para.u.ecdsa.curve_id",
            hash_algo = "u.akcipher_create_session.para.u.rsa.hash_algo",
        }
        crypto::DestroySession = "struct virtio_crypto_op_ctrl_req" {
            session_id = "u.destroy_session.session_id",
        }
        crypto::SessionReply = "struct virtio_crypto_session_input" {
            session_id = "session_id", status = "status",
        }
        crypto::DataHeader = "struct virtio_crypto_op_header" {
            opcode = "opcode", algo = "algo", session_id = "session_id", flag = "flag",
        }
        crypto::CipherData = "struct virtio_crypto_op_data_req" {
            iv_len = "u.sym_req.u.cipher.para.iv_len",
            src_len = "u.sym_req.u.cipher.para.src_data_len",
            dst_len = "u.sym_req.u.cipher.para.dst_data_len",
            op_type = "u.sym_req.op_type",
        }
        crypto::HashData = "struct virtio_crypto_op_data_req" {
            src_len = "u.hash_req.para.src_data_len",
            result_len = "u.hash_req.para.hash_result_len",
            src_len = "u.mac_req.para.hash.src_data_len",
            result_len = "u.mac_req.para.hash.hash_result_len",
        }
        // The kernel's structure ends at dst_data_len; the standard goes on with tag_len.
        crypto::AeadData = "struct virtio_crypto_op_data_req" {
            iv_len = "u.aead_req.para.iv_len",
            aad_len = "u.aead_req.para.aad_len",
            src_len = "u.aead_req.para.src_data_len",
            dst_len = "u.aead_req.para.dst_data_len",
        }
        crypto::AkcipherData = "struct virtio_crypto_op_data_req" {
            src_len = "u.akcipher_req.para.src_data_len",
            dst_len = "u.akcipher_req.para.dst_data_len",
        }
        vfio::GroupStatus = "struct vfio_group_status" { argsz = "argsz", flags = "flags", }
        vfio::RegionInfo = "struct vfio_region_info" {
            argsz = "argsz", flags = "flags", index = "index", cap_offset = "cap_offset",
            size = "size", offset = "offset",
        }
        vfio::InfoCapability = "struct vfio_info_cap_header" {
            id = "id", version = "version", next = "next",
        }
        vfio::SparseMmap = "struct vfio_region_info_cap_sparse_mmap" {
            nr_areas = "nr_areas", reserved = "reserved",
        }
        vfio::SparseArea = "struct vfio_region_sparse_mmap_area" {
            offset = "offset", size = "size",
        }
        vfio::IrqInfo = "struct vfio_irq_info" {
            argsz = "argsz", flags = "flags", index = "index", count = "count",
        }
        vfio::IrqSet = "struct vfio_irq_set" {
            argsz = "argsz", flags = "flags", index = "index", start = "start", count = "count",
        }
        vfio::DmaMap = "struct vfio_iommu_type1_dma_map" {
            argsz = "argsz", flags = "flags", vaddr = "vaddr", iova = "iova", size = "size",
        }
        vfio::DmaUnmap = "struct vfio_iommu_type1_dma_unmap" {
            argsz = "argsz", flags = "flags", iova = "iova", size = "size",
        }
    }
}

/// Structures that the kernel has as offsets only, or whose end it has moved since.
fn registers() -> Vec<Claim> {
    offsets! {
        pci::Header {
            vendor_id = "PCI_VENDOR_ID", device_id = "PCI_DEVICE_ID", command = "PCI_COMMAND",
            status = "PCI_STATUS", revision_id = "PCI_REVISION_ID", class_code = "PCI_CLASS_PROG",
            cache_line_size = "PCI_CACHE_LINE_SIZE", latency_timer = "PCI_LATENCY_TIMER",
            header_type = "PCI_HEADER_TYPE", bist = "PCI_BIST", bars = "PCI_BASE_ADDRESS_0",
            cardbus_cis_pointer = "PCI_CARDBUS_CIS",
            subsystem_vendor_id = "PCI_SUBSYSTEM_VENDOR_ID", subsystem_id = "PCI_SUBSYSTEM_ID",
            expansion_rom_base = "PCI_ROM_ADDRESS", capabilities_pointer = "PCI_CAPABILITY_LIST",
            interrupt_line = "PCI_INTERRUPT_LINE", interrupt_pin = "PCI_INTERRUPT_PIN",
            min_grant = "PCI_MIN_GNT", max_latency = "PCI_MAX_LAT",
        }
        pci::MsixCapability {
            control = "PCI_MSIX_FLAGS", table = "PCI_MSIX_TABLE", pending = "PCI_MSIX_PBA",
        }
        pci::MsixTableEntry {
            address_low = "PCI_MSIX_ENTRY_LOWER_ADDR", address_high = "PCI_MSIX_ENTRY_UPPER_ADDR",
            data = "PCI_MSIX_ENTRY_DATA", vector_control = "PCI_MSIX_ENTRY_VECTOR_CTRL",
        }
        pci::ExpressCapability {
            capabilities = "PCI_EXP_FLAGS", device_capabilities = "PCI_EXP_DEVCAP",
            device_control = "PCI_EXP_DEVCTL", device_status = "PCI_EXP_DEVSTA",
            link_capabilities = "PCI_EXP_LNKCAP", link_control = "PCI_EXP_LNKCTL",
            link_status = "PCI_EXP_LNKSTA",
        }
        virtio_pci::CommonConfig {
            device_feature_select = "VIRTIO_PCI_COMMON_DFSELECT",
            device_feature = "VIRTIO_PCI_COMMON_DF",
            driver_feature_select = "VIRTIO_PCI_COMMON_GFSELECT",
            driver_feature = "VIRTIO_PCI_COMMON_GF",
            config_msix_vector = "VIRTIO_PCI_COMMON_MSIX",
            num_queues = "VIRTIO_PCI_COMMON_NUMQ",
            device_status = "VIRTIO_PCI_COMMON_STATUS",
            config_generation = "VIRTIO_PCI_COMMON_CFGGENERATION",
            queue_select = "VIRTIO_PCI_COMMON_Q_SELECT",
            queue_size = "VIRTIO_PCI_COMMON_Q_SIZE",
            queue_msix_vector = "VIRTIO_PCI_COMMON_Q_MSIX",
            queue_enable = "VIRTIO_PCI_COMMON_Q_ENABLE",
            queue_notify_off = "VIRTIO_PCI_COMMON_Q_NOFF",
            queue_desc = "VIRTIO_PCI_COMMON_Q_DESCLO",
            queue_driver = "VIRTIO_PCI_COMMON_Q_AVAILLO",
            queue_device = "VIRTIO_PCI_COMMON_Q_USEDLO",
            queue_notify_data = "VIRTIO_PCI_COMMON_Q_NDATA",
            queue_reset = "VIRTIO_PCI_COMMON_Q_RESET",
        }
        // Newer headers have more behind num_irqs, which vfio-user does not.
        vfio::DeviceInfo {
            argsz = "offsetof(struct vfio_device_info, argsz)",
            flags = "offsetof(struct vfio_device_info, flags)",
            num_regions = "offsetof(struct vfio_device_info, num_regions)",
            num_irqs = "offsetof(struct vfio_device_info, num_irqs)",
        }
    }
}

fn constants() -> Vec<Claim> {
    constants! {
        pci::STATUS_CAPABILITIES = "PCI_STATUS_CAP_LIST",
        pci::bar::IO = "PCI_BASE_ADDRESS_SPACE_IO",
        pci::bar::TYPE_MASK = "PCI_BASE_ADDRESS_MEM_TYPE_MASK",
        pci::bar::TYPE_64 = "PCI_BASE_ADDRESS_MEM_TYPE_64",
        pci::bar::PREFETCHABLE = "PCI_BASE_ADDRESS_MEM_PREFETCH",
        pci::bar::ADDRESS_MASK = "(__u32)PCI_BASE_ADDRESS_MEM_MASK",
        pci::capability::POWER_MANAGEMENT = "PCI_CAP_ID_PM",
        pci::capability::VENDOR_SPECIFIC = "PCI_CAP_ID_VNDR",
        pci::capability::PCI_EXPRESS = "PCI_CAP_ID_EXP",
        pci::capability::MSI_X = "PCI_CAP_ID_MSIX",
        pci::extended_capability::AER = "PCI_EXT_CAP_ID_ERR",
        pci::extended_capability::SERIAL_NUMBER = "PCI_EXT_CAP_ID_DSN",
        virtio_pci::structure::COMMON = "VIRTIO_PCI_CAP_COMMON_CFG",
        virtio_pci::structure::NOTIFY = "VIRTIO_PCI_CAP_NOTIFY_CFG",
        virtio_pci::structure::ISR = "VIRTIO_PCI_CAP_ISR_CFG",
        virtio_pci::structure::DEVICE = "VIRTIO_PCI_CAP_DEVICE_CFG",
        virtio_pci::structure::PCI = "VIRTIO_PCI_CAP_PCI_CFG",
        virtio_pci::structure::SHARED_MEMORY = "VIRTIO_PCI_CAP_SHARED_MEMORY_CFG",
        virtio_pci::NO_VECTOR = "VIRTIO_MSI_NO_VECTOR",
        virtio_pci::isr::CONFIG = "VIRTIO_PCI_ISR_CONFIG",
        virtio_pci::status::ACKNOWLEDGE = "VIRTIO_CONFIG_S_ACKNOWLEDGE",
        virtio_pci::status::DRIVER = "VIRTIO_CONFIG_S_DRIVER",
        virtio_pci::status::DRIVER_OK = "VIRTIO_CONFIG_S_DRIVER_OK",
        virtio_pci::status::FEATURES_OK = "VIRTIO_CONFIG_S_FEATURES_OK",
        virtio_pci::status::DEVICE_NEEDS_RESET = "VIRTIO_CONFIG_S_NEEDS_RESET",
        virtio_pci::status::FAILED = "VIRTIO_CONFIG_S_FAILED",
        virtio_pci::feature::INDIRECT_DESC = "VIRTIO_RING_F_INDIRECT_DESC",
        virtio_pci::feature::EVENT_IDX = "VIRTIO_RING_F_EVENT_IDX",
        virtio_pci::feature::VERSION_1 = "VIRTIO_F_VERSION_1",
        virtio_pci::feature::ACCESS_PLATFORM = "VIRTIO_F_ACCESS_PLATFORM",
        virtio_pci::feature::ORDER_PLATFORM = "VIRTIO_F_ORDER_PLATFORM",
        virtio_pci::feature::RING_RESET = "VIRTIO_F_RING_RESET",
        virtqueue::descriptor_flag::NEXT = "VRING_DESC_F_NEXT",
        virtqueue::descriptor_flag::WRITE = "VRING_DESC_F_WRITE",
        virtqueue::descriptor_flag::INDIRECT = "VRING_DESC_F_INDIRECT",
        virtqueue::AVAILABLE_NO_INTERRUPT = "VRING_AVAIL_F_NO_INTERRUPT",
        virtqueue::USED_NO_NOTIFY = "VRING_USED_F_NO_NOTIFY",
        virtqueue::DESCRIPTOR_ALIGN = "VRING_DESC_ALIGN_SIZE",
        virtqueue::AVAILABLE_ALIGN = "VRING_AVAIL_ALIGN_SIZE",
        virtqueue::USED_ALIGN = "VRING_USED_ALIGN_SIZE",
        virtqueue::RING_ENTRIES = "offsetof(struct vring_used, ring)",
        crypto::DEVICE_ID = "VIRTIO_ID_CRYPTO",
        crypto::service::CIPHER = "VIRTIO_CRYPTO_SERVICE_CIPHER",
        crypto::service::HASH = "VIRTIO_CRYPTO_SERVICE_HASH",
        crypto::service::MAC = "VIRTIO_CRYPTO_SERVICE_MAC",
        crypto::service::AEAD = "VIRTIO_CRYPTO_SERVICE_AEAD",
        crypto::service::AKCIPHER = "VIRTIO_CRYPTO_SERVICE_AKCIPHER",
        crypto::control_opcode::CIPHER_CREATE = "VIRTIO_CRYPTO_CIPHER_CREATE_SESSION",
        crypto::control_opcode::CIPHER_DESTROY = "VIRTIO_CRYPTO_CIPHER_DESTROY_SESSION",
        crypto::control_opcode::HASH_CREATE = "VIRTIO_CRYPTO_HASH_CREATE_SESSION",
        crypto::control_opcode::HASH_DESTROY = "VIRTIO_CRYPTO_HASH_DESTROY_SESSION",
        crypto::control_opcode::MAC_CREATE = "VIRTIO_CRYPTO_MAC_CREATE_SESSION",
        crypto::control_opcode::MAC_DESTROY = "VIRTIO_CRYPTO_MAC_DESTROY_SESSION",
        crypto::control_opcode::AEAD_CREATE = "VIRTIO_CRYPTO_AEAD_CREATE_SESSION",
        crypto::control_opcode::AEAD_DESTROY = "VIRTIO_CRYPTO_AEAD_DESTROY_SESSION",
        crypto::control_opcode::AKCIPHER_CREATE = "VIRTIO_CRYPTO_AKCIPHER_CREATE_SESSION",
        crypto::control_opcode::AKCIPHER_DESTROY = "VIRTIO_CRYPTO_AKCIPHER_DESTROY_SESSION",
        crypto::data_opcode::CIPHER_ENCRYPT = "VIRTIO_CRYPTO_CIPHER_ENCRYPT",
        crypto::data_opcode::CIPHER_DECRYPT = "VIRTIO_CRYPTO_CIPHER_DECRYPT",
        crypto::data_opcode::HASH = "VIRTIO_CRYPTO_HASH",
        crypto::data_opcode::MAC = "VIRTIO_CRYPTO_MAC",
        crypto::data_opcode::AEAD_ENCRYPT = "VIRTIO_CRYPTO_AEAD_ENCRYPT",
        crypto::data_opcode::AEAD_DECRYPT = "VIRTIO_CRYPTO_AEAD_DECRYPT",
        crypto::data_opcode::AKCIPHER_ENCRYPT = "VIRTIO_CRYPTO_AKCIPHER_ENCRYPT",
        crypto::data_opcode::AKCIPHER_DECRYPT = "VIRTIO_CRYPTO_AKCIPHER_DECRYPT",
        crypto::data_opcode::AKCIPHER_SIGN = "VIRTIO_CRYPTO_AKCIPHER_SIGN",
        crypto::data_opcode::AKCIPHER_VERIFY = "VIRTIO_CRYPTO_AKCIPHER_VERIFY",
        crypto::cipher::AES_ECB = "VIRTIO_CRYPTO_CIPHER_AES_ECB",
        crypto::cipher::AES_CBC = "VIRTIO_CRYPTO_CIPHER_AES_CBC",
        crypto::cipher::AES_CTR = "VIRTIO_CRYPTO_CIPHER_AES_CTR",
        crypto::hash::SHA_1 = "VIRTIO_CRYPTO_HASH_SHA1",
        crypto::hash::SHA_256 = "VIRTIO_CRYPTO_HASH_SHA_256",
        crypto::hash::SHA_384 = "VIRTIO_CRYPTO_HASH_SHA_384",
        crypto::hash::SHA_512 = "VIRTIO_CRYPTO_HASH_SHA_512",
        crypto::mac::HMAC_SHA_256 = "VIRTIO_CRYPTO_MAC_HMAC_SHA_256",
        crypto::mac::HMAC_SHA_384 = "VIRTIO_CRYPTO_MAC_HMAC_SHA_384",
        crypto::mac::HMAC_SHA_512 = "VIRTIO_CRYPTO_MAC_HMAC_SHA_512",
        crypto::aead::GCM = "VIRTIO_CRYPTO_AEAD_GCM",
        // Not ECDSA: the header has 3 where the standard has 2.
        crypto::akcipher::RSA = "VIRTIO_CRYPTO_AKCIPHER_RSA",
        crypto::rsa_padding::RAW = "VIRTIO_CRYPTO_RSA_RAW_PADDING",
        crypto::rsa_padding::PKCS1 = "VIRTIO_CRYPTO_RSA_PKCS1_PADDING",
        crypto::rsa_hash::NONE = "VIRTIO_CRYPTO_RSA_NO_HASH",
        crypto::rsa_hash::MD5 = "VIRTIO_CRYPTO_RSA_MD5",
        crypto::rsa_hash::SHA1 = "VIRTIO_CRYPTO_RSA_SHA1",
        crypto::rsa_hash::SHA256 = "VIRTIO_CRYPTO_RSA_SHA256",
        crypto::rsa_hash::SHA384 = "VIRTIO_CRYPTO_RSA_SHA384",
        crypto::rsa_hash::SHA512 = "VIRTIO_CRYPTO_RSA_SHA512",
        crypto::rsa_hash::SHA224 = "VIRTIO_CRYPTO_RSA_SHA224",
        crypto::curve::P192 = "VIRTIO_CRYPTO_CURVE_NIST_P192",
        crypto::curve::P224 = "VIRTIO_CRYPTO_CURVE_NIST_P224",
        crypto::curve::P256 = "VIRTIO_CRYPTO_CURVE_NIST_P256",
        crypto::curve::P384 = "VIRTIO_CRYPTO_CURVE_NIST_P384",
        crypto::curve::P521 = "VIRTIO_CRYPTO_CURVE_NIST_P521",
        crypto::key_type::PUBLIC = "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PUBLIC",
        crypto::key_type::PRIVATE = "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PRIVATE",
        crypto::direction::ENCRYPT = "VIRTIO_CRYPTO_OP_ENCRYPT",
        crypto::direction::DECRYPT = "VIRTIO_CRYPTO_OP_DECRYPT",
        crypto::symmetric_op_type::CIPHER = "VIRTIO_CRYPTO_SYM_OP_CIPHER",
        crypto::symmetric_op_type::ALGORITHM_CHAINING = "VIRTIO_CRYPTO_SYM_OP_ALGORITHM_CHAINING",
        vfio::region::ROM = "VFIO_PCI_ROM_REGION_INDEX",
        vfio::region::CONFIG = "VFIO_PCI_CONFIG_REGION_INDEX",
        vfio::region::COUNT = "VFIO_PCI_NUM_REGIONS",
        vfio::region::FLAG_READ = "VFIO_REGION_INFO_FLAG_READ",
        vfio::region::FLAG_WRITE = "VFIO_REGION_INFO_FLAG_WRITE",
        vfio::region::FLAG_MMAP = "VFIO_REGION_INFO_FLAG_MMAP",
        vfio::region::FLAG_CAPS = "VFIO_REGION_INFO_FLAG_CAPS",
        vfio::region::CAP_SPARSE_MMAP = "VFIO_REGION_INFO_CAP_SPARSE_MMAP",
        vfio::irq::INTX = "VFIO_PCI_INTX_IRQ_INDEX",
        vfio::irq::MSI = "VFIO_PCI_MSI_IRQ_INDEX",
        vfio::irq::MSIX = "VFIO_PCI_MSIX_IRQ_INDEX",
        vfio::irq::ERR = "VFIO_PCI_ERR_IRQ_INDEX",
        vfio::irq::REQ = "VFIO_PCI_REQ_IRQ_INDEX",
        vfio::irq::COUNT = "VFIO_PCI_NUM_IRQS",
        vfio::irq::FLAG_EVENTFD = "VFIO_IRQ_INFO_EVENTFD",
        vfio::irq::FLAG_NORESIZE = "VFIO_IRQ_INFO_NORESIZE",
        vfio::irq::SET_DATA_NONE = "VFIO_IRQ_SET_DATA_NONE",
        vfio::irq::SET_DATA_BOOL = "VFIO_IRQ_SET_DATA_BOOL",
        vfio::irq::SET_DATA_EVENTFD = "VFIO_IRQ_SET_DATA_EVENTFD",
        vfio::irq::SET_ACTION_MASK = "VFIO_IRQ_SET_ACTION_MASK",
        vfio::irq::SET_ACTION_UNMASK = "VFIO_IRQ_SET_ACTION_UNMASK",
        vfio::irq::SET_ACTION_TRIGGER = "VFIO_IRQ_SET_ACTION_TRIGGER",
        vfio::dma::READ = "VFIO_DMA_MAP_FLAG_READ",
        vfio::dma::WRITE = "VFIO_DMA_MAP_FLAG_WRITE",
        vfio::device::RESET = "VFIO_DEVICE_FLAGS_RESET",
        vfio::device::PCI = "VFIO_DEVICE_FLAGS_PCI",
        vfio::API_VERSION = "VFIO_API_VERSION",
        vfio::TYPE1V2_IOMMU = "VFIO_TYPE1v2_IOMMU",
        vfio::GROUP_VIABLE = "VFIO_GROUP_FLAGS_VIABLE",
        vfio::ioctl::GET_API_VERSION = "VFIO_GET_API_VERSION",
        vfio::ioctl::CHECK_EXTENSION = "VFIO_CHECK_EXTENSION",
        vfio::ioctl::SET_IOMMU = "VFIO_SET_IOMMU",
        vfio::ioctl::GROUP_GET_STATUS = "VFIO_GROUP_GET_STATUS",
        vfio::ioctl::GROUP_SET_CONTAINER = "VFIO_GROUP_SET_CONTAINER",
        vfio::ioctl::GROUP_UNSET_CONTAINER = "VFIO_GROUP_UNSET_CONTAINER",
        vfio::ioctl::GROUP_GET_DEVICE_FD = "VFIO_GROUP_GET_DEVICE_FD",
        vfio::ioctl::DEVICE_GET_INFO = "VFIO_DEVICE_GET_INFO",
        vfio::ioctl::DEVICE_GET_REGION_INFO = "VFIO_DEVICE_GET_REGION_INFO",
        vfio::ioctl::DEVICE_GET_IRQ_INFO = "VFIO_DEVICE_GET_IRQ_INFO",
        vfio::ioctl::DEVICE_SET_IRQS = "VFIO_DEVICE_SET_IRQS",
        vfio::ioctl::DEVICE_RESET = "VFIO_DEVICE_RESET",
        vfio::ioctl::IOMMU_MAP_DMA = "VFIO_IOMMU_MAP_DMA",
        vfio::ioctl::IOMMU_UNMAP_DMA = "VFIO_IOMMU_UNMAP_DMA",
    }
}
