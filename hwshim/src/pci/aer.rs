//! Error totals that the kernel keeps for a function (PCI Express advanced error reporting).
//!
//! Totals only, as the kernel counted them since boot. Whether they grow, and whose fault that
//! is, is for the monitor to say.

use super::reading::{Problem, Reading};
use super::sysfs::{Directory, quoted};
use serde::Serialize;

/// Error messages that a function sent, by severity. Kernels before 4.19 do not count them, and
/// functions without the AER capability have none.
///
/// Source: Linux `Documentation/ABI/testing/sysfs-bus-pci-devices-aer`, "PCIe Device AER
/// statistics". A link's errors may be counted at the port above it alone, so look at both.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AerTotals {
    /// Corrected by the link itself; costs time only.
    pub correctable: Reading<u64>,
    /// A transaction was lost, the link is sound.
    pub nonfatal: Reading<u64>,
    /// The link is not to be trusted any more.
    pub fatal: Reading<u64>,
}

impl AerTotals {
    pub(super) fn read(directory: Directory<'_>) -> Self {
        let total = |name, label| {
            directory
                .text(name)
                .and_then(|text| match parse_total(&text, label) {
                    Ok(total) => Reading::Known(total),
                    Err(reason) => Reading::Failed(Problem::invalid(&directory.file(name), reason)),
                })
        };
        Self {
            correctable: total("aer_dev_correctable", "TOTAL_ERR_COR"),
            nonfatal: total("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL"),
            fatal: total("aer_dev_fatal", "TOTAL_ERR_FATAL"),
        }
    }

    /// The three, most severe last, with their names.
    #[must_use]
    pub fn by_severity(&self) -> [(&'static str, &Reading<u64>); 3] {
        let Self {
            correctable,
            nonfatal,
            fatal,
        } = self;
        [
            ("correctable", correctable),
            ("nonfatal", nonfatal),
            ("fatal", fatal),
        ]
    }

    /// Whether nothing is counted because nothing counts.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.by_severity()
            .iter()
            .all(|(_, total)| **total == Reading::Absent)
    }
}

/// Finds the total among lines like `RxErr 0`. The kernel's own total is taken, not the sum: one
/// message can report several errors.
fn parse_total(text: &str, label: &str) -> Result<u64, String> {
    let counts = text.lines().map(|line| {
        let (name, count) = line.trim_end().rsplit_once(' ').unwrap_or((line, ""));
        let count = count.parse::<u64>();
        count
            .map(|count| (name.trim_end(), count))
            .map_err(|_| format!("{} is not a name and a count", quoted(line)))
    });
    let mut total = None;
    for count in counts {
        match count? {
            (name, count) if name == label => total = Some(count),
            _ => {}
        }
    }
    total.ok_or_else(|| format!("it ends before its {label} line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_total_is_taken_not_the_sum() {
        let text = "RxErr 2\nBadTLP 1\nReceiver Error 3\nTOTAL_ERR_COR 4\n";
        assert_eq!(parse_total(text, "TOTAL_ERR_COR"), Ok(4));
    }

    #[test]
    fn a_total_of_another_severity_is_not_taken() {
        let error = parse_total("TOTAL_ERR_FATAL 3", "TOTAL_ERR_COR").unwrap_err();
        assert!(error.contains("TOTAL_ERR_COR"), "{error}");
        let text = "TOTAL_ERR_FATAL 3\nTOTAL_ERR_COR 4\nTOTAL_ERR_NONFATAL 5";
        assert_eq!(parse_total(text, "TOTAL_ERR_COR"), Ok(4));
    }

    #[test]
    fn a_list_cut_short_has_no_total() {
        let error = parse_total("RxErr 2\nBadTLP 1\n", "TOTAL_ERR_COR").unwrap_err();
        assert!(error.contains("TOTAL_ERR_COR"), "{error}");
        for cut in ["", "TOTAL_ERR_CO", "TOTAL_ERR_COR "] {
            assert!(parse_total(cut, "TOTAL_ERR_COR").is_err(), "{cut:?}");
        }
    }

    #[test]
    fn a_count_that_is_no_number_is_not_zero() {
        for wrong in [
            "RxErr x\nTOTAL_ERR_COR 0",
            "TOTAL_ERR_COR -1",
            "TOTAL_ERR_COR 99999999999999999999",
            "4",
        ] {
            assert!(parse_total(wrong, "TOTAL_ERR_COR").is_err(), "{wrong}");
        }
    }
}
