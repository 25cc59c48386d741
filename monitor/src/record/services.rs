//! What host services hold, as figures: what a leak is shown by when the card is sent back.

use super::figure;
use crate::services::series;
use crate::status::Status;

/// Figures of each service, by series. What was not seen is none.
pub(super) fn figures(status: &Status) -> Vec<(String, f64)> {
    let mut figures = Vec::new();
    for service in &status.services {
        let process = service.process.as_ref();
        let kernel = service.kernel.as_ref();
        let held = [
            ("rss-bytes", process.and_then(|process| process.rss_bytes)),
            (
                "descriptors",
                process.and_then(|process| process.descriptors),
            ),
            ("tcp-ports", process.and_then(|process| process.tcp_ports)),
            ("threads", process.map(|process| process.threads)),
            ("kernel-bytes", kernel.and_then(|kernel| kernel.total_bytes)),
        ];
        let seen = held
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let name = &service.service;
        figures.extend(seen.map(|(what, value)| (series(name, what), figure(value))));
        // What a monitor that is started again goes on from; some of it stands there already.
        for (what, value) in crate::services::figures(service) {
            let series = series(name, what);
            if figures.iter().all(|(known, _)| *known != series) {
                figures.push((series, value));
            }
        }
    }
    figures
}
