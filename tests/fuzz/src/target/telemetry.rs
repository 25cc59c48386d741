//! The bytes of a telemetry page, as a stranger's file might contain them.

use super::assert_harmless;
use card_spec::health::{SUMMARY_LEN, Summary};
use card_spec::telemetry::{Page, padded};
use card_spec::zerocopy::IntoBytes;

pub(crate) fn run(input: &[u8]) {
    match Page::parse(input) {
        Ok(page) => {
            assert_eq!(page.as_bytes(), input, "a page reads back as it was");
            assert_harmless(&page.address());
            assert_harmless(&page.opened_by());
            let _ = Summary::parse(&page.health);
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut page = Page::new();
    page.sequence = 2.into();
    page.owner.address = padded("pci:0000:3b:00.0");
    page.breaker.opened_by = padded("used_id_out_of_range");
    page.requests.submitted = 3.into();
    page.requests.card = 2.into();
    page.requests.software = 1.into();
    page.card.health_reads = 1.into();
    page.health
        .copy_from_slice(&super::health::page()[..SUMMARY_LEN]);
    vec![page.as_bytes().to_vec(), Page::new().as_bytes().to_vec()]
}
