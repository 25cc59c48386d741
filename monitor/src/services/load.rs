//! How busy a card is, by what its service says of it.

use crate::probe::{ModuleStatistics, Statistics};

/// How busy the card is that has this serial number, if that is known: of what it can do, from 0 to 1.
/// Without a serial number on either side, it is the only card that the service has.
pub(super) fn share(statistics: &Statistics, serial: Option<&str>) -> Option<f64> {
    let is_alone = statistics.modules.len() == 1;
    let is_it = |module: &&ModuleStatistics| match (serial, &module.serial_number) {
        (Some(own), Some(said)) => own == said,
        _ => is_alone,
    };
    let percent = statistics.modules.values().find(is_it)?.load_percent?;
    // A service may say anything.
    let percent = u32::try_from(percent).ok().filter(|it| *it <= 100)?;
    Some(f64::from(percent) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(modules: &[(&str, u64)]) -> Statistics {
        let module = |(number, (serial, load)): (u32, &(&str, u64))| {
            let module = ModuleStatistics {
                serial_number: (!serial.is_empty()).then(|| (*serial).to_owned()),
                load_percent: Some(*load),
                ..ModuleStatistics::default()
            };
            (number, module)
        };
        Statistics {
            modules: (1..).zip(modules).map(module).collect(),
            ..Statistics::default()
        }
    }

    #[test]
    fn the_load_of_a_card_is_that_of_its_serial_number_or_of_the_only_one() {
        let two = statistics(&[("A", 12), ("B", 85)]);
        assert_eq!(share(&two, Some("B")), Some(0.85));
        assert_eq!(share(&two, Some("C")), None);
        assert_eq!(share(&two, None), None, "which of them, nobody knows");
        assert_eq!(share(&statistics(&[("", 40)]), Some("B")), Some(0.4));
        assert_eq!(share(&statistics(&[("A", 40)]), None), Some(0.4));
        assert_eq!(share(&statistics(&[("A", 40)]), Some("B")), None);
        assert_eq!(share(&statistics(&[("A", 101)]), None), None);
    }
}
