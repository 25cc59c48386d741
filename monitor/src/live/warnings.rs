//! What to be warned of in a card that answers rightly: it is late, too hot, worse connected than it
//! could be, or on trial.

use crate::probe::{HwmonProbe, LinkProbe, Probe};
use crate::status::warnings_of_sensors;
use crate::verdict::Evidence;
use card_spec::health::{ControllerStatus, CriticalWarning, Summary};
use card_spec::pci::Bdf;
use card_spec::telemetry::{Page, breaker_state};
use hwshim::clock::Instant;
use hwshim::pci::LinkState;
use std::path::Path;
use std::time::Duration;

/// All there is to be warned of. `root` is that of `/sys`; of a card that has just answered, reading
/// configuration space holds nobody up.
pub(super) fn of(
    page: &Page,
    latency: Option<Duration>,
    late: Duration,
    root: &Path,
    now: Instant,
) -> Vec<Evidence> {
    let mut warnings = Vec::new();
    let mut warn = |code: &'static str, detail: String| {
        warnings.push(Evidence {
            code: code.into(),
            detail,
        });
    };
    if let Some(latency) = latency.filter(|latency| *latency > late) {
        let detail = format!("its answer took {latency:.1?}, longer than {late:?}");
        warn("late", detail);
    }
    if page.breaker.state.get() == breaker_state::HALF_OPEN {
        let by = page.opened_by();
        warn(
            "on-trial",
            format!("its breaker, opened by {by}, is half open: a trial is under way"),
        );
    }
    if let Ok(summary) = Summary::parse(&page.health)
        && let Some(detail) = too_hot(&summary)
    {
        warn("too-hot", detail);
    }
    let address = page.address();
    let bdf = address.strip_prefix("pci:").and_then(|it| it.parse().ok());
    if let Some(bdf) = bdf {
        if let Some(detail) = downtrained(root, bdf, now) {
            warn("downtrained", detail);
        }
        if let Ok(sensors) = HwmonProbe::new(root).observe(&bdf, now) {
            warnings.extend(warnings_of_sensors(&sensors));
        }
    }
    warnings
}

/// That a card says of itself that it is too hot, if it does.
pub(crate) fn too_hot(summary: &Summary) -> Option<String> {
    let status = ControllerStatus::from_bits(summary.controller_status.get());
    let warning = CriticalWarning::from_bits(summary.critical_warning);
    let (temperature, limit) = (
        summary.composite_temperature_k.get(),
        summary.warning_temperature_k.get(),
    );
    // A card may state no limit.
    let is_over = limit > 0 && temperature >= limit;
    (warning.temperature() || status.throttled() || is_over).then(|| {
        let celsius = i32::from(temperature) - 273;
        format!("the card is too hot by its own limit: {celsius} degrees C")
    })
}

fn downtrained(root: &Path, bdf: Bdf, now: Instant) -> Option<String> {
    let link = LinkProbe::new(root).observe(&bdf, now).ok()?;
    let detail = "the link is slower or narrower than both of its ends can";
    matches!(link.state, Some(LinkState::Downtrained)).then(|| {
        let speed = link.link.ok().and_then(|it| it.current);
        speed.map_or_else(
            || detail.to_owned(),
            |it| format!("{detail}: {} lanes, {}", it.width, it.speed),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tree_of_a_downtrained_card;
    use card_spec::health;
    use zerocopy::{FromZeros, IntoBytes};

    const LATE: Duration = Duration::from_millis(500);

    fn page(temperature_k: u16) -> Page {
        let mut summary = Summary::new_zeroed();
        summary.magic = health::MAGIC.into();
        summary.version = health::VERSION.into();
        summary.composite_temperature_k = temperature_k.into();
        summary.warning_temperature_k = 363.into();
        let mut page = Page::new();
        page.owner.address = card_spec::telemetry::padded("pci:0000:3b:00.0");
        page.health.copy_from_slice(summary.as_bytes());
        page
    }

    fn codes(page: &Page, latency: Duration, root: &Path) -> Vec<String> {
        let warnings = of(page, Some(latency), LATE, root, Instant::ORIGIN);
        warnings.iter().map(|it| it.code.to_string()).collect()
    }

    #[test]
    fn a_card_that_answers_late_is_hot_or_on_trial_or_has_half_its_lanes_is_warned_of() {
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(codes(&page(330), LATE, nowhere.path()), [""; 0]);
        let later = LATE + Duration::from_millis(1);
        assert_eq!(codes(&page(330), later, nowhere.path()), ["late"]);
        assert_eq!(codes(&page(363), LATE, nowhere.path()), ["too-hot"]);
        let mut on_trial = page(330);
        on_trial.breaker.state = breaker_state::HALF_OPEN.into();
        assert_eq!(codes(&on_trial, LATE, nowhere.path()), ["on-trial"]);
        let tree = tree_of_a_downtrained_card();
        assert_eq!(codes(&page(330), LATE, tree.root()), ["downtrained"]);
        let warnings = of(&page(330), None, LATE, tree.root(), Instant::ORIGIN);
        assert!(warnings[0].detail.contains("4 lanes"), "{warnings:?}");
    }

    #[test]
    fn a_card_that_answers_while_a_sensor_is_past_a_limit_is_warned_of_with_what_it_reads() {
        let tree = tempfile::tempdir().unwrap();
        let chip = tree
            .path()
            .join("sys/bus/pci/devices/0000:3b:00.0/hwmon/hwmon3");
        std::fs::create_dir_all(&chip).unwrap();
        let read = |file: &str, value: &str| std::fs::write(chip.join(file), value).unwrap();
        read("name", "nitrox\n");
        read("temp1_max", "95000\n");
        read("temp1_crit", "105000\n");
        for (value, expected) in [
            ("94000\n", &[][..]),
            ("96500\n", &["sensor-past-limit"]),
            ("105000\n", &["sensor-critical"]),
        ] {
            read("temp1_input", value);
            assert_eq!(codes(&page(330), LATE, tree.path()), expected);
        }
        let warnings = of(&page(330), None, LATE, tree.path(), Instant::ORIGIN);
        assert!(warnings[0].detail.contains("reads 105 C"), "{warnings:?}");
        // Of a card that is reached otherwise nothing is measured here.
        let mut elsewhere = page(330);
        elsewhere.owner.address = card_spec::telemetry::padded("vfio-user:/run/card.sock");
        assert_eq!(codes(&elsewhere, LATE, tree.path()), [""; 0]);
    }
}
