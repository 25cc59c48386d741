//! Configuration space, as a broken card might present it: capability lists above all.

use super::assert_harmless;
use card_spec::pci::{
    Capability, CapabilityError, ExpressCapability, Header, MsixCapability, capabilities,
    capability, extended_capabilities,
};
use card_spec::virtio_pci::{HealthCapability, NotifyCapability};
use card_spec::zerocopy::FromBytes;

/// Most entries that 192 bytes of conventional, or 3840 of extended space can hold, and one
/// error.
const ENTRIES_MAX: usize = 48 + 1;
const EXTENDED_ENTRIES_MAX: usize = 480 + 1;

pub(crate) fn run(input: &[u8]) {
    let _ = Header::read_from_prefix(input);
    check(input, capabilities(input).collect(), ENTRIES_MAX);
    check(
        input,
        extended_capabilities(input).collect(),
        EXTENDED_ENTRIES_MAX,
    );
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(bdf) = text.parse::<card_spec::pci::Bdf>()
    {
        assert_eq!(bdf.to_string().parse(), Ok(bdf));
    }
}

fn check(input: &[u8], entries: Vec<Result<Capability<'_>, CapabilityError>>, entries_max: usize) {
    assert!(entries.len() <= entries_max, "{} entries", entries.len());
    let errors = entries.iter().filter(|entry| entry.is_err()).count();
    assert!(
        errors == usize::from(entries.last().is_some_and(Result::is_err)),
        "a list ends after its first error"
    );
    for entry in entries {
        match entry {
            Ok(entry) => {
                assert!(entry.offset < input.len());
                assert!(entry.bytes.len() <= input.len() - entry.offset);
                let _ = match u8::try_from(entry.id) {
                    Ok(capability::MSI_X) => entry.read::<MsixCapability>().map(drop),
                    Ok(capability::PCI_EXPRESS) => entry.read::<ExpressCapability>().map(drop),
                    _ => entry
                        .read::<NotifyCapability>()
                        .and_then(|_| entry.read::<HealthCapability>())
                        .map(drop),
                };
            }
            Err(error) => assert_harmless(&error.to_string()),
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut config = vec![0; 4096];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x00, &[0xf4, 0x1a, 0x54, 0x10, 0x06, 0x00, 0x10, 0x00]);
    put(0x34, &[0x40]);
    put(
        0x40,
        &[0x11, 0x50, 0x02, 0x80, 0x01, 0, 0, 0, 0x01, 8, 0, 0],
    );
    put(
        0x50,
        &[0x09, 0x60, 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x38, 0, 0, 0],
    );
    put(
        0x60,
        &[
            0x09, 0x78, 20, 2, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0x10, 0, 0, 4, 0, 0, 0,
        ],
    );
    put(
        0x78,
        &[
            0x09, 0x90, 24, 9, 0x57, 0x48, 2, 1, 0, 0, 0, 0, 0, 0x10, 0, 0,
        ],
    );
    put(0x88, b"HWS1");
    put(0x90, &[0x10, 0x00, 0x02, 0x00]);
    put(0x9c, &[0x83, 0, 0, 0, 0, 0, 0x83, 0]);
    put(0x100, &[0x01, 0x00, 0x02, 0x14]);
    put(0x140, &[0x03, 0x00, 0x01, 0x00]);
    let conventional = config[..256].to_vec();
    vec![config, conventional, b"0000:3b:00.1".to_vec()]
}
