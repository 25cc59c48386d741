//! Shows a status as metrics, in the OpenMetrics text that Prometheus reads.
//!
//! Nothing is kept between scrapes and nothing computed: each scrape encodes the status of the
//! last poll. What was not seen has no sample, so that it cannot be taken for zero. A card's state
//! is a state set: one sample per state, 1 for the one it is in. Of a poll that is too old to say
//! anything about now, only what the monitor says of itself is shown, and that each card is unknown.

mod light;
mod link;
mod qat;
mod routers;
mod sensors;
mod services;

use crate::number::lossy;
use crate::status::{CardStatus, ProcessFigures, Status};
use crate::verdict::{Cause, Evidence, State};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;

/// Media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Encodes `status`.
#[must_use]
pub fn text(status: &Arc<Status>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Export(Arc::clone(status))));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a String does not fail");
    text
}

#[derive(Debug)]
struct Export(Arc<Status>);

impl Collector for Export {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut families = Families(encoder);
        let status = &*self.0;
        encode_monitor(&mut families, status)?;
        if status.is_stale() {
            let cards = status.cards.iter();
            return encode_states(&mut families, cards.map(|it| (&*it.card, State::Unknown)));
        }
        let cards = status.cards.iter();
        encode_states(&mut families, cards.map(|it| (&*it.card, it.state)))?;
        encode_verdicts(&mut families, status)?;
        encode_telemetry(&mut families, &status.cards)?;
        sensors::encode(&mut families, status)?;
        link::encode(&mut families, status)?;
        qat::encode(&mut families, &status.qat)?;
        encode_requests(&mut families, &status.cards)?;
        routers::encode(&mut families, &status.routers)?;
        encode_owners(&mut families, &status.cards)?;
        services::encode(&mut families, status)
    }
}

fn encode_monitor(to: &mut Families<'_>, status: &Status) -> fmt::Result {
    let simulated = status.simulation.is_some();
    to.gauge(
        "cardmon_build_info",
        "The monitor's version; always 1",
        None,
        [(vec![("version", &*status.version)], 1.0)],
    )?;
    to.gauge(
        "cardmon_simulated",
        "Whether the cards are simulated by the monitor itself (1) or real to it (0)",
        None,
        [(vec![], flag(simulated))],
    )?;
    to.gauge(
        "cardmon_service_time",
        "How many times as fast as the clock services live: 1, unless it is a drill",
        None,
        [(
            vec![],
            status
                .drill
                .as_ref()
                .map_or(1.0, |it| f64::from(it.service_time)),
        )],
    )?;
    to.gauge(
        "cardmon_telemetry_readable",
        "Whether the directory of telemetry pages could be read",
        None,
        [(vec![], flag(status.telemetry_error.is_none()))],
    )?;
    let open = status.incidents.iter().filter(|it| it.open).count();
    to.gauge(
        "cardmon_incidents_open",
        "Incidents that are not over; known while a history is kept",
        None,
        [(vec![], count(open))],
    )?;
    let history = status.history.as_slice();
    to.gauge(
        "cardmon_history_kept",
        "Whether all events are on record (1), or wait because something keeps them from it, or some of the last minutes were lost (0)",
        None,
        history.iter().map(|it| (vec![], flag(it.kept))),
    )?;
    to.gauge(
        "cardmon_history_troubles",
        "Things that are wrong with the history, those that stop no recording included; the status says which",
        None,
        history.iter().map(|it| (vec![], count(it.troubles.len()))),
    )?;
    to.gauge(
        "cardmon_status_age",
        "Time since the poll that all of this is of; older than three polls, it says nothing of any card",
        Some(&Unit::Seconds),
        status.age_seconds.map(|age| (vec![], age)),
    )?;
    to.counter("cardmon_polls", "Polls", None, [(vec![], status.polls)])?;
    to.counter(
        "cardmon_polls_late",
        "Polls that came late because the monitor did not get to run",
        None,
        [(vec![], status.polls_late)],
    )?;
    let this = status.monitor.as_slice();
    encode_process(to, "process", "the monitor", |of| {
        this.iter().map(|figures| (vec![], of(figures))).collect()
    })
}

fn encode_states<'a>(
    to: &mut Families<'_>,
    cards: impl Iterator<Item = (&'a str, State)>,
) -> fmt::Result {
    to.gauge(
        "cardmon_card_state",
        "State of the card: 1 for the one it is in",
        None,
        cards.flat_map(|(card, is)| {
            State::ALL.map(|state| {
                let labels = vec![("card", card), ("state", state.name())];
                (labels, flag(is == state))
            })
        }),
    )
}

fn encode_verdicts(to: &mut Families<'_>, status: &Status) -> fmt::Result {
    let cards = &status.cards;
    to.gauge(
        "cardmon_card_cause",
        "What is at fault: 1 for the cause that the evidence names",
        None,
        causes(status).flat_map(|(card, is)| {
            Cause::ALL.map(|cause| {
                let labels = vec![("card", card), ("cause", cause.name())];
                (labels, flag(is == cause))
            })
        }),
    )?;
    to.gauge(
        "cardmon_card_confidence",
        "How likely the likeliest cause is, from 0 to 1",
        None,
        each(cards, |card| Some(card.assessment.as_ref()?.confidence)),
    )?;
    to.gauge(
        "cardmon_card_drained",
        "Whether an operator wants the card without work",
        None,
        each(cards, |card| Some(flag(card.drained.is_some()))),
    )?;
    to.gauge(
        "cardmon_card_state_duration",
        "How long the card has been in its state",
        Some(&Unit::Seconds),
        cards.iter().map(|card| (by_card(card), card.for_seconds)),
    )?;
    to.gauge(
        "cardmon_card_warning",
        "What to be warned of though the card serves: 1 for each warning there is",
        None,
        warnings(status).map(|(card, warning)| {
            let labels = vec![("card", card), ("warning", &*warning.code)];
            (labels, 1.0)
        }),
    )?;
    to.counter(
        "cardmon_card_transitions",
        "Changes of state or cause",
        None,
        cards.iter().map(|card| (by_card(card), card.transitions)),
    )?;
    to.counter(
        "cardmon_probe_errors",
        "Looks in which a probe saw nothing, by probe and kind of error",
        None,
        cards.iter().flat_map(|card| {
            card.probe_errors.iter().map(|error| {
                let mut labels = by_card(card);
                labels.extend([("probe", &*error.probe), ("error", &*error.kind)]);
                (labels, error.count)
            })
        }),
    )
}

/// What is at fault with each card, whoever drives it.
fn causes(status: &Status) -> impl Iterator<Item = (&str, Cause)> {
    let cards = status.cards.iter().map(|it| (&*it.card, it.cause));
    cards.chain(status.without_pages().map(|it| (&*it.card, it.cause)))
}

/// What to be warned of with each.
fn warnings(status: &Status) -> impl Iterator<Item = (&str, &Evidence)> {
    let cards = status.cards.iter().map(|it| (&*it.card, &it.warnings));
    let others = status.without_pages().map(|it| (&*it.card, &it.warnings));
    cards
        .chain(others)
        .flat_map(|(card, warnings)| warnings.iter().map(move |it| (card, it)))
}

fn encode_telemetry(to: &mut Families<'_>, cards: &[CardStatus]) -> fmt::Result {
    to.gauge(
        "cardmon_page_age",
        "Age of the card's telemetry page",
        Some(&Unit::Seconds),
        each(cards, |card| card.page_age_seconds),
    )?;
    to.counter(
        "cardmon_card_heartbeats",
        "Heartbeats of the card since its firmware started",
        None,
        each(cards, |card| {
            Some(u64::from(card.heartbeat.as_ref()?.count))
        }),
    )?;
    to.gauge(
        "cardmon_card_heartbeat_moving",
        "Whether the card's heartbeat is seen to move",
        None,
        each(cards, |card| Some(flag(card.heartbeat.as_ref()?.moving))),
    )?;
    light::encode(to, cards)?;
    to.counter(
        "cardmon_card_resets",
        "Resets of the card that its owner caused",
        None,
        each(cards, |card| card.resets),
    )?;
    to.counter(
        "cardmon_card_silent_reboots",
        "Restarts of the card's firmware that nobody asked for",
        None,
        each(cards, |card| card.silent_reboots),
    )?;
    to.gauge(
        "cardmon_breaker_state",
        "State of the card's breaker: 1 for the one it is in; closed lets work through",
        None,
        cards.iter().flat_map(|card| {
            let state = card.breaker.as_ref().map(|breaker| &*breaker.state);
            state.into_iter().flat_map(|is| {
                ["closed", "open", "half-open"].map(|state| {
                    let labels = vec![("card", &*card.card), ("state", state)];
                    (labels, flag(is == state))
                })
            })
        }),
    )?;
    to.counter(
        "cardmon_breaker_opened",
        "Times the card's breaker has opened",
        None,
        each(cards, |card| Some(card.breaker.as_ref()?.opened)),
    )
}

fn encode_requests(to: &mut Families<'_>, cards: &[CardStatus]) -> fmt::Result {
    to.counter(
        "cardmon_requests_submitted",
        "Requests that the router accepted",
        None,
        each(cards, |card| Some(card.requests?.submitted)),
    )?;
    to.counter(
        "cardmon_requests",
        "Requests that ended, by who answered: card, software, or refused",
        None,
        by_name(cards, "answered_by", |card| {
            let requests = card.requests?;
            Some(vec![
                ("card", requests.card),
                ("software", requests.software),
                ("refused", requests.refused),
            ])
        }),
    )?;
    to.gauge(
        "cardmon_requests_in_flight",
        "Requests that have not ended",
        None,
        each(cards, |card| Some(lossy(card.requests?.in_flight))),
    )?;
    to.counter(
        "cardmon_fallbacks",
        "Requests answered by software after a card had been given them",
        None,
        each(cards, |card| Some(card.requests?.fallbacks)),
    )?;
    to.counter(
        "cardmon_card_errors",
        "Requests that the card did not answer well, by how; no wrong answer was released",
        None,
        by_name(cards, "error", |card| {
            let requests = card.requests?;
            Some(vec![
                ("timed-out", requests.timed_out),
                ("failed", requests.failed),
                ("misbehaved", requests.misbehaved),
                ("wrong-answer", requests.wrong_answers),
            ])
        }),
    )?;
    to.counter(
        "cardmon_checks",
        "Known-answer tests that ended, by result",
        None,
        by_name(cards, "result", |card| {
            let checks = card.checks.as_ref()?;
            Some(vec![("passed", checks.passed), ("failed", checks.failed)])
        }),
    )?;
    to.gauge(
        "cardmon_check_latency",
        "How long the last known-answer test took",
        Some(&Unit::Seconds),
        each(cards, |card| {
            let checks = card.checks.as_ref()?;
            (checks.last_result != "none").then_some(checks.last_latency_seconds)
        }),
    )
}

fn encode_owners(to: &mut Families<'_>, cards: &[CardStatus]) -> fmt::Result {
    to.gauge(
        "cardmon_owner_alive",
        "Whether the process that owns the card is there",
        None,
        each(cards, |card| Some(flag(card.owner.as_ref()?.alive?))),
    )?;
    encode_process(
        to,
        "cardmon_owner",
        "the process that owns the card",
        |of| {
            let owned = |card| Some((by_card(card), of(card.owner.as_ref()?)));
            cards.iter().filter_map(owned).collect()
        },
    )
}

type Figure<'f> = &'f dyn Fn(&ProcessFigures) -> Option<f64>;

/// The names that Prometheus' own client libraries give a process's figures, after `prefix`.
fn encode_process<'a>(
    to: &mut Families<'_>,
    prefix: &str,
    whose: &str,
    processes: impl Fn(Figure<'_>) -> Vec<(Labels<'a>, Option<f64>)>,
) -> fmt::Result {
    let mut gauge = |name: &str, what: &str, unit: Option<&Unit>, of: Figure<'_>| {
        let seen = processes(of);
        let samples = seen
            .into_iter()
            .filter_map(|(labels, v)| Some((labels, v?)));
        let help = format!("{what} of {whose}");
        to.gauge(&format!("{prefix}_{name}"), &help, unit, samples)
    };
    let bytes = Some(&Unit::Bytes);
    gauge("resident_memory", "Resident memory", bytes, &|process| {
        process.rss_bytes.map(lossy)
    })?;
    gauge("open_fds", "Open descriptors", None, &|process| {
        process.fds.map(lossy)
    })?;
    gauge("threads", "Threads", None, &|process| {
        process.threads.map(lossy)
    })?;
    let samples = processes(&|process| process.cpu_seconds);
    to.counter(
        &format!("{prefix}_cpu"),
        &format!("Processor time of {whose}, user and system"),
        Some(&Unit::Seconds),
        samples
            .into_iter()
            .filter_map(|(labels, seconds)| Some((labels, seconds?))),
    )
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

fn by_card(card: &CardStatus) -> Labels<'_> {
    vec![("card", &*card.card)]
}

/// One sample of each card that has it.
fn each<'a, T>(
    cards: &'a [CardStatus],
    value: impl Fn(&'a CardStatus) -> Option<T>,
) -> impl Iterator<Item = (Labels<'a>, T)> {
    cards
        .iter()
        .filter_map(move |card| Some((by_card(card), value(card)?)))
}

/// Several samples of each card that has them, told apart by one more label.
fn by_name<'a>(
    cards: &'a [CardStatus],
    label: &'static str,
    values: impl Fn(&'a CardStatus) -> Option<Vec<(&'static str, u64)>>,
) -> impl Iterator<Item = (Labels<'a>, u64)> {
    cards.iter().flat_map(move |card| {
        values(card)
            .into_iter()
            .flatten()
            .map(move |(name, value)| {
                let mut labels = by_card(card);
                labels.push((label, name));
                (labels, value)
            })
    })
}

fn count(of: usize) -> f64 {
    lossy(u64::try_from(of).unwrap_or(u64::MAX))
}

/// One for what is so, zero for what is not.
fn flag(so: bool) -> f64 {
    f64::from(u8::from(so))
}

/// Writes metric families.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let samples = samples
            .into_iter()
            .map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, unit, MetricType::Gauge, samples)
    }

    fn counter<'a, T>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (Labels<'a>, T)>,
    ) -> fmt::Result
    where
        ConstCounter<T>: EncodeMetric,
    {
        let samples = samples
            .into_iter()
            .map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, unit, MetricType::Counter, samples)
    }

    fn family<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        samples: impl Iterator<Item = (Labels<'a>, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                // A family without labels is its one sample.
                return value.encode(family);
            }
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Settings, Watch};
    use card_spec::telemetry::Page;
    use hwshim::clock::Instant;
    use hwshim::telemetry::Publisher;

    #[test]
    fn of_a_poll_that_is_too_old_only_its_age_is_told_and_that_each_card_is_unknown() {
        let pages = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(pages.path(), "software:ring").unwrap();
        let mut page = Page::new();
        page.owner.address = card_spec::telemetry::padded("software:ring");
        publisher.publish(&page).unwrap();
        let host = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Settings::of(pages.path(), host.path()));
        let mut status = watch.poll(Instant::ORIGIN).status;
        status.cards[0].state = State::Connected;
        let mut lines_at = |age| {
            status.age_seconds = Some(age);
            let text = text(&Arc::new(status.clone()));
            assert!(text.contains(&format!("\ncardmon_status_age_seconds {age:?}\n")));
            text
        };
        let is = |state: &str| {
            format!("cardmon_card_state{{card=\"software:ring\",state=\"{state}\"}} 1.0\n")
        };
        let cause = "\ncardmon_card_cause{";
        let recent = lines_at(2.5);
        assert!(recent.contains(&is("connected")) && recent.contains(cause));
        let old = lines_at(3.5);
        assert!(old.contains(&is("unknown")), "{old}");
        assert!(!old.contains(&is("connected")) && !old.contains(cause));
    }
}
