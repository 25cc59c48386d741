//! The table of known cards: which family a function belongs to, and who can drive that family.
//!
//! Names of devices come from the PCI ID database; here are only facts it does not hold.

use serde::Serialize;
use std::fmt;

/// Numbers by which a function is recognized. What could not be read is `None` and matches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: Option<u16>,
    /// Device ID.
    pub device: Option<u16>,
    /// Subsystem vendor ID.
    pub subsystem_vendor: Option<u16>,
    /// Base class, the upper eight bits of the class code.
    pub base_class: Option<u8>,
}

/// Cards that are driven, supplied or watched the same way.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// OASIS virtio-crypto: QEMU's, a simulated card's, a DPU's.
    VirtioCrypto,
    /// Intel QuickAssist Technology.
    Qat,
    /// Entrust (before: Thales, nCipher) nShield and nFast.
    Nshield,
    /// Cavium Nitrox, now Marvell.
    Nitrox,
    /// Crypto engine (CPT) of Marvell's OCTEON and ThunderX processors.
    Octeon,
    /// Broadcom BCM58xx (CryptoNetX).
    Broadcom,
    /// Rainbow CryptoSwift.
    #[serde(rename = "cryptoswift")]
    CryptoSwift,
    /// NetOctave NSP2000.
    #[serde(rename = "netoctave")]
    NetOctave,
    /// Sun Crypto Accelerator 6000.
    SunSca,
    /// IBM cryptographic coprocessors 4758 to 4770.
    Ibm,
    /// Utimaco CryptoServer.
    Utimaco,
    /// AMD Cryptographic Coprocessor.
    AmdCcp,
    /// NVIDIA BlueField with its crypto engines enabled.
    #[serde(rename = "bluefield")]
    BlueField,
    /// Hifn security processors.
    Hifn,
    /// In PCI class 10h (encryption controller), and nothing more is known about it.
    Unlisted,
}

/// Who can drive a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrivenBy {
    /// hwshim, through VFIO.
    Hwshim,
    /// A PKCS#11 library that its vendor ships.
    VendorPkcs11 {
        /// Name of the library.
        library: &'static str,
    },
    /// Nothing that hwshim could call.
    Nothing {
        /// What drives it, or why nothing does.
        because: &'static str,
    },
}

/// Base class of encryption controllers (PCI Code and ID Assignment §1.17 "Base Class 10h").
const CLASS_ENCRYPTION: u8 = 0x10;

/// Subsystem vendor of every nShield, whatever bridge or processor its first function shows.
const SUBSYSTEM_VENDOR_NCIPHER: u16 = 0x0100;

/// Vendor, first device, last device, family.
const KNOWN: &[(u16, u16, u16, Family)] = &[
    (0x1014, 0x009f, 0x009f, Family::Ibm),
    (0x1014, 0x01e6, 0x01e6, Family::Ibm),
    (0x1014, 0x0611, 0x0611, Family::Ibm),
    (0x1014, 0x06a2, 0x06a2, Family::Ibm),
    (0x1022, 0x1456, 0x1456, Family::AmdCcp),
    (0x1022, 0x1468, 0x1468, Family::AmdCcp),
    (0x1022, 0x1486, 0x1486, Family::AmdCcp),
    (0x1022, 0x14ca, 0x14ca, Family::AmdCcp),
    (0x1022, 0x1537, 0x1537, Family::AmdCcp),
    (0x1022, 0x156e, 0x156e, Family::AmdCcp),
    (0x1022, 0x15c7, 0x15c7, Family::AmdCcp),
    (0x1022, 0x15df, 0x15df, Family::AmdCcp),
    (0x1022, 0x1649, 0x1649, Family::AmdCcp),
    (0x1022, 0x17e0, 0x17e0, Family::AmdCcp),
    (0x108e, 0x5ca0, 0x5ca0, Family::SunSca),
    (0x12de, 0x0200, 0x0200, Family::CryptoSwift),
    (0x13a3, 0x0005, 0x0007, Family::Hifn),
    (0x13a3, 0x0012, 0x0026, Family::Hifn),
    (0x14e4, 0x5820, 0x5825, Family::Broadcom),
    (0x14e4, 0x5840, 0x5841, Family::Broadcom),
    (0x14e4, 0x5850, 0x5850, Family::Broadcom),
    (0x15b3, 0xa2d0, 0xa2d0, Family::BlueField),
    (0x15b3, 0xa2d4, 0xa2d4, Family::BlueField),
    (0x15b3, 0xa2d7, 0xa2d7, Family::BlueField),
    (0x15b3, 0xa2da, 0xa2da, Family::BlueField),
    (0x15b3, 0xa2dd, 0xa2dd, Family::BlueField),
    (0x168a, 0x2086, 0x2086, Family::Utimaco),
    (0x168a, 0xc040, 0xc040, Family::Utimaco),
    (0x168a, 0xc051, 0xc051, Family::Utimaco),
    (0x170b, 0x0100, 0x0100, Family::NetOctave),
    (0x177d, 0x0001, 0x0001, Family::Nitrox),
    (0x177d, 0x0003, 0x0003, Family::Nitrox),
    (0x177d, 0x0010, 0x0012, Family::Nitrox),
    (0x177d, 0xa040, 0xa041, Family::Octeon),
    (0x177d, 0xa0f2, 0xa0f3, Family::Octeon),
    (0x177d, 0xa0fd, 0xa0fe, Family::Octeon),
    (0x1af4, 0x1054, 0x1054, Family::VirtioCrypto),
    (0x8086, 0x0434, 0x0435, Family::Qat),
    (0x8086, 0x0442, 0x0443, Family::Qat),
    (0x8086, 0x18a0, 0x18a1, Family::Qat),
    (0x8086, 0x18ee, 0x18ef, Family::Qat),
    (0x8086, 0x19e2, 0x19e3, Family::Qat),
    (0x8086, 0x1f18, 0x1f19, Family::Qat),
    (0x8086, 0x37c8, 0x37c9, Family::Qat),
    (0x8086, 0x4940, 0x4949, Family::Qat),
    (0x8086, 0x6f54, 0x6f55, Family::Qat),
];

impl Family {
    /// Recognizes a crypto accelerator; `None` for anything else.
    #[must_use]
    pub fn of(identity: Identity) -> Option<Self> {
        let Identity {
            vendor,
            device,
            subsystem_vendor,
            base_class,
        } = identity;
        if subsystem_vendor == Some(SUBSYSTEM_VENDOR_NCIPHER) {
            return Some(Self::Nshield);
        }
        let listed = KNOWN.iter().find(|(known_vendor, first, last, _)| {
            vendor == Some(*known_vendor)
                && device.is_some_and(|device| (*first..=*last).contains(&device))
        });
        match listed {
            Some((_, _, _, family)) => Some(*family),
            None => (base_class == Some(CLASS_ENCRYPTION)).then_some(Self::Unlisted),
        }
    }

    /// Short name, to fit a column.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioCrypto => "virtio-crypto",
            Self::Qat => "Intel QAT",
            Self::Nshield => "nCipher nShield",
            Self::Nitrox => "Marvell Nitrox",
            Self::Octeon => "Marvell CPT",
            Self::Broadcom => "Broadcom BCM58xx",
            Self::CryptoSwift => "CryptoSwift",
            Self::NetOctave => "NetOctave NSP",
            Self::SunSca => "Sun SCA 6000",
            Self::Ibm => "IBM coprocessor",
            Self::Utimaco => "Utimaco",
            Self::AmdCcp => "AMD CCP",
            Self::BlueField => "BlueField",
            Self::Hifn => "Hifn",
            Self::Unlisted => "unlisted card",
        }
    }

    /// Who can drive it.
    #[must_use]
    pub fn driven_by(self) -> DrivenBy {
        const NO_DRIVER: &str =
            "today's Linux has no driver for it; link, AER and config space can be watched";
        let library = |library| DrivenBy::VendorPkcs11 { library };
        let nothing = |because| DrivenBy::Nothing { because };
        match self {
            Self::VirtioCrypto => DrivenBy::Hwshim,
            Self::Nshield => library("libcknfast.so"),
            Self::Utimaco => library("libcs_pkcs11_R3.so"),
            Self::Ibm => library("libopencryptoki.so"),
            Self::SunSca => library("libpkcs11.so"),
            Self::Qat => nothing(
                "the kernel's qat driver and Intel's qatlib drive it; heartbeat and RAS \
                 counters can be watched",
            ),
            Self::Nitrox | Self::Octeon => {
                nothing("Marvell's own driver and SDK drive it; link and AER can be watched")
            }
            Self::AmdCcp => nothing(
                "the kernel's ccp driver serves the kernel only; link and AER can be watched",
            ),
            Self::BlueField => nothing(
                "its engines serve the network card's own flows; link and AER can be watched",
            ),
            Self::Broadcom | Self::CryptoSwift | Self::NetOctave | Self::Hifn => nothing(NO_DRIVER),
            Self::Unlisted => nothing(
                "not in the table of known cards; link, AER and config space can be watched",
            ),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(vendor: u16, device: u16) -> Identity {
        Identity {
            vendor: Some(vendor),
            device: Some(device),
            ..Identity::default()
        }
    }

    #[test]
    fn both_ends_of_a_range_belong_and_their_neighbours_do_not() {
        for (device, family) in [
            (0x493f, None),
            (0x4940, Some(Family::Qat)),
            (0x4949, Some(Family::Qat)),
            (0x494a, None),
        ] {
            assert_eq!(Family::of(identity(0x8086, device)), family, "{device:#x}");
        }
    }

    #[test]
    fn a_device_number_means_nothing_without_its_vendor() {
        assert_eq!(Family::of(identity(0x1234, 0x4940)), None);
        let blind = Identity {
            device: Some(0x4940),
            ..Identity::default()
        };
        assert_eq!(Family::of(blind), None);
    }

    #[test]
    fn an_nshield_is_known_by_its_subsystem_not_by_the_bridge_it_shows() {
        let bridge = identity(0x8086, 0xb555);
        assert_eq!(Family::of(bridge), None);
        let card = Identity {
            subsystem_vendor: Some(0x0100),
            ..bridge
        };
        assert_eq!(Family::of(card), Some(Family::Nshield));
    }

    #[test]
    fn the_class_catches_what_the_table_does_not_list() {
        let controller = Identity {
            base_class: Some(0x10),
            ..identity(0x1234, 0x5678)
        };
        assert_eq!(Family::of(controller), Some(Family::Unlisted));
    }

    #[test]
    fn the_table_is_sorted_and_its_ranges_do_not_overlap() {
        let ends = |entry: &(u16, u16, u16, Family)| ((entry.0, entry.1), (entry.0, entry.2));
        assert!(KNOWN.iter().all(|entry| entry.1 <= entry.2));
        assert!(
            KNOWN
                .windows(2)
                .all(|pair| ends(&pair[0]).1 < ends(&pair[1]).0)
        );
    }
}
