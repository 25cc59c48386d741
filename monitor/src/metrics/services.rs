//! The metrics of the host and of host services.
//!
//! Levels of leaks are state sets, as states of cards are. A limit or a rate that is not known has
//! no sample.

use super::{Families, Labels, flag};
use crate::leak::Level;
use crate::number::lossy;
use crate::status::{
    KnownAnswerResult, LeakFigures, ServiceFigures, ServiceStatus, Standing, Status,
};
use crate::verdict::Cause;
use prometheus_client::registry::Unit;
use std::fmt;

pub(super) fn encode(to: &mut Families<'_>, status: &Status) -> fmt::Result {
    let kills = status.host.iter().map(|host| (vec![], host.oom_kills));
    to.counter(
        "cardmon_host_oom_kills",
        "Processes of the host that were killed for want of memory since it is watched",
        None,
        kills,
    )?;
    let starvation = status.host.iter().filter_map(|it| it.starvation);
    to.gauge(
        "cardmon_host_starvation",
        "How starved the host is, from 0 to 7",
        None,
        starvation.map(|score| (vec![], f64::from(score))),
    )?;
    to.gauge(
        "cardmon_host_cause",
        "What is at fault with the host: 1 for the cause that the evidence names",
        None,
        status.host.iter().flat_map(|host| {
            Cause::ALL.map(|cause| (vec![("cause", cause.name())], flag(host.cause == cause)))
        }),
    )?;
    encode_verdicts(to, &status.services)?;
    encode_processes(to, &status.services)?;
    encode_leaks(to, &status.services)
}

fn encode_verdicts(to: &mut Families<'_>, services: &[ServiceStatus]) -> fmt::Result {
    to.gauge(
        "cardmon_service_standing",
        "How far one gets with the service: 1 for how far that is",
        None,
        services.iter().flat_map(|service| {
            Standing::ALL.map(|standing| {
                let labels = with(service, "standing", standing.name());
                (labels, flag(service.standing == standing))
            })
        }),
    )?;
    to.gauge(
        "cardmon_service_cause",
        "What is at fault: 1 for the cause that the evidence names",
        None,
        services.iter().flat_map(|service| {
            Cause::ALL.map(|cause| {
                let labels = with(service, "cause", cause.name());
                (labels, flag(service.cause == cause))
            })
        }),
    )?;
    to.gauge(
        "cardmon_service_confidence",
        "How likely the likeliest cause is, from 0 to 1",
        None,
        services.iter().filter_map(|service| {
            let confidence = service.assessment.as_ref()?.confidence;
            Some((by_service(service), confidence))
        }),
    )?;
    to.counter(
        "cardmon_service_restarts",
        "Times that another process took the service's place",
        None,
        services.iter().map(|it| (by_service(it), it.restarts)),
    )?;
    to.gauge(
        "cardmon_service_answer",
        "How long the service's last answer took",
        Some(&Unit::Seconds),
        services
            .iter()
            .filter_map(|it| Some((by_service(it), it.answer_seconds?))),
    )?;
    let tests = || {
        let tested = services.iter();
        tested.filter_map(|it| Some((it, it.known_answer.as_ref()?)))
    };
    to.gauge(
        "cardmon_service_known_answer",
        "What came of the last known-answer test through the service: 1 for that",
        None,
        tests().flat_map(|(service, test)| {
            KnownAnswerResult::ALL.map(|result| {
                let labels = with(service, "result", result.name());
                (labels, flag(test.result == result))
            })
        }),
    )?;
    to.gauge(
        "cardmon_service_known_answer_age",
        "How long ago the last known-answer test through the service ended",
        Some(&Unit::Seconds),
        tests().map(|(service, test)| (by_service(service), test.age_seconds)),
    )?;
    to.gauge(
        "cardmon_service_known_answer_duration",
        "How long the last known-answer test through the service took, if it was right",
        Some(&Unit::Seconds),
        tests().filter_map(|(service, test)| Some((by_service(service), test.took_seconds?))),
    )
}

fn encode_processes(to: &mut Families<'_>, services: &[ServiceStatus]) -> fmt::Result {
    type Figure = fn(&ServiceFigures) -> Option<u64>;
    let bytes = Some(&Unit::Bytes);
    let figures: [(&str, &str, Option<&Unit>, Figure); 7] = [
        ("resident_memory", "Resident memory", bytes, |it| {
            it.rss_bytes
        }),
        ("anonymous_memory", "Memory that is no file", bytes, |it| {
            it.rss_anon_bytes
        }),
        ("open_fds", "Open descriptors", None, |it| it.descriptors),
        ("threads", "Threads", None, |it| Some(it.threads)),
        ("tcp_ports", "Local TCP ports", None, |it| it.tcp_ports),
        ("locked_memory", "Memory locked", bytes, |it| {
            it.locked_bytes
        }),
        (
            "accept_queue",
            "Connections that wait to be accepted",
            None,
            |it| it.accept_queue,
        ),
    ];
    for (name, what, unit, figure) in figures {
        to.gauge(
            &format!("cardmon_service_{name}"),
            &format!("{what} of the service's process"),
            unit,
            services.iter().filter_map(|service| {
                let value = figure(service.process.as_ref()?)?;
                Some((by_service(service), lossy(value)))
            }),
        )?;
    }
    to.gauge(
        "cardmon_service_kernel_memory",
        "Memory that the kernel holds for the service's control group",
        bytes,
        services.iter().filter_map(|service| {
            let value = service.kernel.as_ref()?.total_bytes?;
            Some((by_service(service), lossy(value)))
        }),
    )
}

fn encode_leaks(to: &mut Families<'_>, services: &[ServiceStatus]) -> fmt::Result {
    to.gauge(
        "cardmon_service_leak_level",
        "What is believed of a resource: 1 for the level that it is at",
        None,
        services.iter().flat_map(|service| {
            service.leaks.iter().flat_map(|leak| {
                Level::ALL.map(|level| {
                    let mut labels = by_resource(service, leak);
                    labels.push(("level", level.name()));
                    (labels, flag(leak.level == level))
                })
            })
        }),
    )?;
    type Figure = fn(&LeakFigures) -> Option<f64>;
    let figures: [(&str, &str, Option<&Unit>, Figure); 5] = [
        ("held", "How much of the resource is held", None, |leak| {
            Some(leak.held)
        }),
        (
            "held_limit",
            "How much of the resource can be held",
            None,
            |leak| Some(leak.limit.as_ref()?.value),
        ),
        (
            "growth_per_hour_low",
            "Growth for each hour, lower end",
            None,
            |leak| Some(leak.rate_per_hour?.low),
        ),
        (
            "growth_per_hour_high",
            "Growth for each hour, upper end",
            None,
            |leak| Some(leak.rate_per_hour?.high),
        ),
        (
            "exhaustion_earliest",
            "When the limit is reached at the upper end of the rate",
            Some(&Unit::Seconds),
            |leak| Some(leak.exhaustion?.earliest_seconds),
        ),
    ];
    for (name, what, unit, figure) in figures {
        to.gauge(
            &format!("cardmon_service_{name}"),
            what,
            unit,
            services.iter().flat_map(|service| {
                service
                    .leaks
                    .iter()
                    .filter_map(move |leak| Some((by_resource(service, leak), figure(leak)?)))
            }),
        )?;
    }
    Ok(())
}

fn by_service(service: &ServiceStatus) -> Labels<'_> {
    vec![("service", &*service.service)]
}

fn with<'a>(service: &'a ServiceStatus, label: &'static str, value: &'a str) -> Labels<'a> {
    let mut labels = by_service(service);
    labels.push((label, value));
    labels
}

fn by_resource<'a>(service: &'a ServiceStatus, leak: &'a LeakFigures) -> Labels<'a> {
    with(service, "resource", &leak.resource)
}
