//! Routers that have no card, as metrics.

use super::{Families, Labels};
use crate::number::lossy;
use crate::status::{OverloadFigures, RouterFigures, TlsFigures};
use std::collections::BTreeSet;
use std::fmt;

/// Those that publish. One that has left without a word has no samples: they would stand still, and its
/// name may be another's by now.
pub(super) fn encode(to: &mut Families<'_>, routers: &[RouterFigures]) -> fmt::Result {
    // A page that was copied elsewhere names the same router, and a series is to be there once.
    let mut names = BTreeSet::new();
    let routers = routers.iter().filter(|router| !router.stale);
    let routers: Vec<_> = routers
        .filter(|router| names.insert(&*router.router))
        .collect();
    encode_requests(to, &routers)?;
    encode_tls(to, &routers)
}

fn encode_requests(to: &mut Families<'_>, routers: &[&RouterFigures]) -> fmt::Result {
    to.counter(
        "cardmon_router_requests_submitted",
        "Requests that the router without a card accepted",
        None,
        each(routers, |router| Some(router.requests.submitted)),
    )?;
    to.counter(
        "cardmon_router_requests",
        "Requests to it that ended, by who answered: card (which is any accelerator but software), software, or refused",
        None,
        by_name(routers, "answered_by", |router| {
            let requests = &router.requests;
            Some(vec![
                ("card", requests.card),
                ("software", requests.software),
                ("refused", requests.refused),
            ])
        }),
    )?;
    to.gauge(
        "cardmon_router_requests_in_flight",
        "Requests to it that have not ended",
        None,
        each(routers, |router| Some(lossy(router.requests.in_flight))),
    )?;
    to.counter(
        "cardmon_router_fallbacks",
        "Requests answered by software after another accelerator had been given them",
        None,
        each(routers, |router| Some(router.requests.fallbacks)),
    )?;
    to.counter(
        "cardmon_router_errors",
        "Requests that an accelerator of it did not answer well, by how; no wrong answer was released",
        None,
        by_name(routers, "error", |router| {
            let requests = &router.requests;
            Some(vec![
                ("timed-out", requests.timed_out),
                ("failed", requests.failed),
                ("misbehaved", requests.misbehaved),
                ("wrong-answer", requests.wrong_answers),
            ])
        }),
    )?;
    to.counter(
        "cardmon_router_overload",
        "Requests that were too many, by what became of them: shed, to software by accelerators, or refused, as software had too much to do as well",
        None,
        by_name(routers, "became", |router| {
            let OverloadFigures { shed, overloaded } = router.overload?;
            Some(vec![("shed", shed), ("refused", overloaded)])
        }),
    )
}

fn encode_tls(to: &mut Families<'_>, routers: &[&RouterFigures]) -> fmt::Result {
    to.gauge(
        "cardmon_router_tls_connections",
        "TLS connections of the router's process that have not ended",
        None,
        each(routers, |router| {
            Some(lossy(router.tls?.connections_active))
        }),
    )?;
    to.counter(
        "cardmon_router_tls_handshakes",
        "TLS handshakes that ended, by result",
        None,
        by_name(routers, "result", |router| {
            let TlsFigures {
                connections_active: _,
                handshakes_completed,
                handshakes_failed,
                handshakes_timed_out,
            } = router.tls?;
            Some(vec![
                ("completed", handshakes_completed),
                ("failed", handshakes_failed),
                ("timed-out", handshakes_timed_out),
            ])
        }),
    )
}

fn by_router(router: &RouterFigures) -> Labels<'_> {
    vec![("router", &*router.router)]
}

/// One sample of each router that has it.
fn each<'a, T>(
    routers: &[&'a RouterFigures],
    value: impl Fn(&RouterFigures) -> Option<T>,
) -> impl Iterator<Item = (Labels<'a>, T)> {
    routers
        .iter()
        .filter_map(move |router| Some((by_router(router), value(router)?)))
}

/// Several samples of each router that has them, told apart by one more label.
fn by_name<'a>(
    routers: &[&'a RouterFigures],
    label: &'static str,
    values: impl Fn(&RouterFigures) -> Option<Vec<(&'static str, u64)>>,
) -> impl Iterator<Item = (Labels<'a>, u64)> {
    routers.iter().flat_map(move |router| {
        let values = values(router).into_iter().flatten();
        values.map(move |(name, value)| {
            let mut labels = by_router(router);
            labels.push((label, name));
            (labels, value)
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::watch::{Settings, Watch};
    use card_spec::telemetry::{Page, card_state, padded};
    use hwshim::clock::Instant;
    use hwshim::telemetry::Publisher;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;

    fn publish(directory: &Path, name: &str, published_at_ns: u64) -> Publisher {
        let mut publisher = Publisher::create_for_router(directory, name).unwrap();
        let mut page = Page::new();
        page.owner.address = padded(name);
        page.owner.published_at_ns = published_at_ns.into();
        page.card.state = card_state::NONE.into();
        let requests = &mut page.requests;
        let fields = [
            &mut requests.submitted,
            &mut requests.card,
            &mut requests.software,
            &mut requests.refused,
            &mut requests.in_flight,
            &mut requests.fallbacks,
            &mut requests.timed_out,
            &mut requests.failed,
            &mut requests.misbehaved,
            &mut requests.wrong_answers,
        ];
        for (field, value) in fields.into_iter().zip(101..) {
            field.set(value);
        }
        page.overload.shed = 111.into();
        page.overload.overloaded = 112.into();
        if name.starts_with("serve-tls:") {
            page.tls.began_at_ns = 1.into();
            page.tls.connections.active = 201.into();
            page.tls.handshakes.completed = 202.into();
            page.tls.handshakes.failed = 203.into();
            page.tls.handshakes.timed_out = 204.into();
        }
        publisher.publish(&page).unwrap();
        publisher
    }

    #[test]
    fn routers_without_a_card_are_metrics_each_once_and_as_long_as_they_publish() {
        const SECOND: u64 = 1_000_000_000;
        let directory = tempfile::tempdir().unwrap();
        let terminator = publish(directory.path(), "serve-tls:x", 10 * SECOND);
        // Whoever begins to publish removes what is nobody's any more.
        let _others = [("library:y", 10), ("library:gone", 1)]
            .map(|(name, seconds)| publish(directory.path(), name, seconds * SECOND));
        std::fs::copy(terminator.path(), directory.path().join("copy.router")).unwrap();
        let settings = Settings::of(directory.path(), directory.path());
        let now = Instant::from_nanos(11 * SECOND);
        let status = Arc::new(Watch::new(settings).poll(now).status);
        assert_eq!(status.routers.len(), 4, "{:?}", status.routers);

        let text = crate::metrics::text(&status);
        assert!(text.ends_with("# EOF\n"));
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("cardmon_router_"))
            .collect();
        let series: BTreeSet<_> = lines
            .iter()
            .filter_map(|it| Some(it.rsplit_once(' ')?.0))
            .collect();
        assert_eq!(lines.len(), series.len(), "{lines:#?}");
        let of_requests = |router: &str| {
            let of = |name: &str, more: &str, value: u32| {
                format!("cardmon_router_{name}{{router=\"{router}\"{more}}} {value}")
            };
            [
                of("requests_submitted_total", "", 101),
                of("requests_total", ",answered_by=\"card\"", 102),
                of("requests_total", ",answered_by=\"software\"", 103),
                of("requests_total", ",answered_by=\"refused\"", 104),
                of("requests_in_flight", "", 105) + ".0",
                of("fallbacks_total", "", 106),
                of("errors_total", ",error=\"timed-out\"", 107),
                of("errors_total", ",error=\"failed\"", 108),
                of("errors_total", ",error=\"misbehaved\"", 109),
                of("errors_total", ",error=\"wrong-answer\"", 110),
                of("overload_total", ",became=\"shed\"", 111),
                of("overload_total", ",became=\"refused\"", 112),
            ]
        };
        let of_tls = [
            "cardmon_router_tls_connections{router=\"serve-tls:x\"} 201.0",
            "cardmon_router_tls_handshakes_total{router=\"serve-tls:x\",result=\"completed\"} 202",
            "cardmon_router_tls_handshakes_total{router=\"serve-tls:x\",result=\"failed\"} 203",
            "cardmon_router_tls_handshakes_total{router=\"serve-tls:x\",result=\"timed-out\"} 204",
        ];
        let expected: BTreeSet<_> = ["serve-tls:x", "library:y"]
            .into_iter()
            .flat_map(of_requests)
            .chain(of_tls.map(str::to_owned))
            .collect();
        let found: BTreeSet<_> = lines.into_iter().map(str::to_owned).collect();
        assert_eq!(found, expected);
    }
}
