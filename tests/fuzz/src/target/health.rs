//! The bytes of a health page, as a broken card might give them.

use super::assert_harmless;
use card_spec::health::{
    ENGINES_MAX, ERROR_LOG_OFFSET, ErrorLogEntry, MAGIC, PAGE_LEN, Summary, VERSION, printable,
};
use card_spec::zerocopy::FromBytes;

pub(crate) fn run(input: &[u8]) {
    match Summary::parse(input) {
        Ok(summary) => {
            assert_eq!(summary.magic.get(), MAGIC);
            assert!(summary.engines().len() <= ENGINES_MAX);
            assert_harmless(&summary.serial_number());
            assert_harmless(&summary.model_number());
            assert_harmless(&summary.firmware_revision());
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
    let log = input.get(ERROR_LOG_OFFSET..).unwrap_or_default();
    for entry in log.chunks_exact(size_of::<ErrorLogEntry>()) {
        let entry = ErrorLogEntry::read_from_bytes(entry).expect("chunks are as long as entries");
        assert_harmless(&printable(&entry.text));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![page(), vec![0xff; PAGE_LEN]]
}

/// The page of a card with two engines and one line in its error log.
pub(super) fn page() -> Vec<u8> {
    let mut page = vec![0; PAGE_LEN];
    let mut put = |offset: usize, bytes: &[u8]| {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0x000, &MAGIC.to_le_bytes());
    put(0x004, &VERSION.to_le_bytes());
    put(0x008, &[0, 2, 16, 1, 0, 0, 0, 0]);
    put(0x010, &[1, 0, 0, 0]);
    put(0x024, &[42, 0, 0, 0]);
    put(0x030, &[7, 0, 7, 0, 9, 0, 8, 0]);
    put(0x082, &[0x31, 1, 0x57, 1, 0x61, 1]);
    put(0x0d0, b"1.0.0   ");
    put(0x0e0, b"SIM00000000000000001");
    put(0x100, b"Simulated crypto accelerator            ");
    put(ERROR_LOG_OFFSET, &[1]);
    put(ERROR_LOG_OFFSET + 40, b"descriptor chain loops\0\0");
    page
}
