//! Reads a card's health page, beside the data path and without making it wait.
//!
//! The card's driver says where the page is each time it has brought the card up; whoever watches
//! reads from there. It does not judge what it reads.

use super::transport::Window;
use crate::bus::{BusError, Function};
use card_spec::health::{PageError, SUMMARY_LEN, Summary};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where to read the health page of one card, now.
#[derive(Clone, Debug, Default)]
pub struct HealthPort(Arc<Mutex<Option<Page>>>);

/// Does not keep the function: once its driver has let go of it, it must be free for another.
#[derive(Clone, Debug)]
struct Page {
    function: Weak<dyn Function>,
    window: Window,
}

/// The health page could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthReadError {
    /// The card has none, or is not up.
    #[error("the card has no health page, or has not been brought up")]
    Absent,
    /// It could not be read.
    #[error("the health page could not be read")]
    Unreadable(#[source] BusError),
    /// It is nonsense.
    #[error("the health page {0}")]
    Nonsense(PageError),
    /// It changed each time it was read.
    #[error("the health page was never consistent")]
    Torn,
}

/// How often statistics may change under our hands before we give up.
const READS_MAX: usize = 4;

impl HealthPort {
    /// Reads the page: the bytes, and what they mean.
    ///
    /// # Errors
    ///
    /// See [`HealthReadError`].
    pub fn read(&self) -> Result<([u8; SUMMARY_LEN], Summary), HealthReadError> {
        // The card may be brought up anew while we read from the old one; that read fails then.
        let port = self.lock().clone();
        let Page { function, window } = port.ok_or(HealthReadError::Absent)?;
        let function = function.upgrade().ok_or(HealthReadError::Absent)?;
        for _ in 0..READS_MAX {
            let mut bytes = [0; SUMMARY_LEN];
            function
                .read_bar(window.bar, window.offset, &mut bytes)
                .map_err(HealthReadError::Unreadable)?;
            let summary = Summary::parse(&bytes).map_err(HealthReadError::Nonsense)?;
            let mut generation = [0; 4];
            function
                .read_bar(
                    window.bar,
                    window.offset + card_spec::health::register::STATISTICS_GENERATION,
                    &mut generation,
                )
                .map_err(HealthReadError::Unreadable)?;
            let before = summary.statistics_generation.get();
            if before.is_multiple_of(2) && before == u32::from_le_bytes(generation) {
                return Ok((bytes, summary));
            }
        }
        Err(HealthReadError::Torn)
    }

    pub(super) fn connect(&self, function: &Arc<dyn Function>, window: Option<Window>) {
        *self.lock() = window.map(|window| Page {
            function: Arc::downgrade(function),
            window,
        });
    }

    pub(super) fn disconnect(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::MockFunction;
    use card_spec::health::GONE;

    const WINDOW: Window = Window {
        bar: 2,
        offset: 0x1000,
        len: 4096,
    };

    fn port(generations: Vec<u32>) -> (HealthPort, Arc<dyn Function>) {
        let mut page = [0; SUMMARY_LEN];
        page[..4].copy_from_slice(b"HWS1");
        page[6] = 1;
        let mut generations = generations.into_iter();
        let mut function = MockFunction::new();
        function
            .expect_read_bar()
            .returning(move |bar, offset, buf| {
                let generation = generations.next().unwrap_or(GONE).to_le_bytes();
                match (bar, offset, buf.len()) {
                    (2, 0x1000, SUMMARY_LEN) => {
                        buf.copy_from_slice(&page);
                        buf[0x7c..0x80].copy_from_slice(&generation);
                    }
                    (2, 0x107c, 4) => buf.copy_from_slice(&generation),
                    other => panic!("unexpected read {other:?}"),
                }
                Ok(())
            });
        let port = HealthPort::default();
        let function: Arc<dyn Function> = Arc::new(function);
        port.connect(&function, Some(WINDOW));
        (port, function)
    }

    #[test]
    fn a_page_that_changes_while_it_is_read_is_read_again() {
        let (port, _function) = port(vec![2, 3, 4, 4]);
        let (_, summary) = port.read().unwrap();
        assert_eq!(summary.statistics_generation.get(), 4);
    }

    #[test]
    fn a_page_that_never_settles_is_given_up() {
        let (port, _function) = port(vec![1; 100]);
        assert!(matches!(port.read(), Err(HealthReadError::Torn)));
    }

    #[test]
    fn a_function_that_was_let_go_of_is_not_held_by_who_reads_its_health() {
        let (port, function) = port(vec![2, 2]);
        assert_eq!(Arc::strong_count(&function), 1);
        drop(function);
        assert!(matches!(port.read(), Err(HealthReadError::Absent)));
    }

    #[test]
    fn a_card_without_a_page_has_none() {
        let absent = HealthPort::default().read();
        assert!(matches!(absent, Err(HealthReadError::Absent)));
    }
}
