//! Lays out host services for people: how each is, what each holds, and what leaks and why that is
//! believed.

use super::diagnosis::{advised, in_short};
use super::{Rows, UNSEEN, clean, drill, mebibytes, reason, seconds, spoken};
use crate::leak::{Level, Scope};
use crate::services::KERNEL_MEMORY_MAX;
use crate::status::{
    ExhaustionFigures, GateFigures, KernelFigures, KnownAnswerResult, LeakFigures, MemoryFigures,
    ServiceStatus, Standing, Status, Unit,
};
use crate::verdict::Cause;
use crate::watch::DRIVER_PAGES;
use anstyle::{AnsiColor, Style};

/// The gate that is an amount of what is held.
const GROWTH: &str = "growth";
/// Column of the standing.
const STANDING_COLUMN: usize = 1;

/// The table of `status`.
pub(super) fn table_of(services: &[ServiceStatus], width: Option<usize>) -> Vec<String> {
    let mut rows = Rows::new([
        "SERVICE", "STANDING", "CAUSE", "SINCE", "TEST", "PROCESS", "RESTARTS", "LEAKS",
    ]);
    for service in services {
        let row = [
            clean(&service.service),
            service.standing.name().to_owned(),
            blamed(service),
            spoken(seconds(service.for_seconds)),
            test(service),
            process(service),
            service.restarts.to_string(),
            rising(service),
        ];
        let mut below: Vec<_> = victim_of(service).into_iter().collect();
        below.extend(service.evidence.iter().map(reason));
        below.extend(advised(&service.advice));
        // What a victim looks like by itself would blame it.
        if service.cause != Cause::None && service.victim.is_none() {
            below.extend(in_short(service.assessment.as_ref(), &service.service));
        }
        rows.push(row, style(service), below);
    }
    rows.lines(Some(STANDING_COLUMN), width)
}

/// What is at fault, or that it is a victim.
pub(super) fn blamed(service: &ServiceStatus) -> String {
    match &service.victim {
        Some(_) => "victim".to_owned(),
        None => service.cause.to_string(),
    }
}

/// Whose victim it is, in a line below it.
pub(super) fn victim_of(service: &ServiceStatus) -> Option<String> {
    let victim = service.victim.as_ref()?;
    let harm = victim.harm.name();
    Some(match &victim.of {
        Some(culprit) => format!("    victim of {}, which leaks: {harm}", clean(culprit)),
        None => format!("    victim of what takes this host's memory: {harm}"),
    })
}

/// The last known-answer test, as that of a card is shown.
fn test(service: &ServiceStatus) -> String {
    let Some(test) = &service.known_answer else {
        return UNSEEN.to_owned();
    };
    let age = spoken(seconds(test.age_seconds));
    match test.result {
        // It is not done again, so how old that is means nothing.
        KnownAnswerResult::Declined => test.result.name().to_owned(),
        result => format!("{} {age} ago", result.name()),
    }
}

fn process(service: &ServiceStatus) -> String {
    service.process.as_ref().map_or_else(
        || UNSEEN.to_owned(),
        |process| {
            let rss = process
                .rss_bytes
                .map(|bytes| format!(", {}", mebibytes(bytes)));
            let fds = process.descriptors.map(|fds| format!(", {fds} fds"));
            let pid = process.pid;
            format!(
                "pid {pid}{}{}",
                rss.unwrap_or_default(),
                fds.unwrap_or_default()
            )
        },
    )
}

fn rising(service: &ServiceStatus) -> String {
    let rising = service
        .leaks
        .iter()
        .filter(|leak| leak.level > Level::Watching);
    let names: Vec<_> = rising
        .map(|leak| format!("{} {}", clean(&leak.resource), leak.level))
        .collect();
    match (names.is_empty(), service.leaks.is_empty()) {
        (true, true) => UNSEEN.to_owned(),
        (true, false) => "none".to_owned(),
        (false, _) => names.join(", "),
    }
}

/// What leaks of all that services hold, or `only` one of them; with `explain`, every resource, and why. The
/// table is no wider than `width`, if there is one.
#[must_use]
pub fn leaks(
    status: &Status,
    only: Option<&str>,
    explain: bool,
    width: Option<usize>,
) -> Vec<String> {
    let shown = |it: &&LeakFigures| only.is_none() && (explain || it.level > Level::Watching);
    let driver_pages = status.host.iter().filter_map(|it| it.driver_pages.as_ref());
    let modules = status.modules.iter().flat_map(|it| &it.leaks);
    let of_host: Vec<_> = driver_pages.chain(modules).filter(shown).collect();
    let rises = |it: &&LeakFigures| it.level > Level::Watching;
    if status.services.is_empty() && !of_host.iter().any(rises) {
        return vec![no_services()];
    }
    let mut rows = Rows::new([
        "SERVICE",
        "RESOURCE",
        "LEVEL",
        "HELD",
        "LIMIT",
        "AN HOUR",
        "EXHAUSTED IN",
        "RULE",
    ]);
    let services = status.services.iter();
    let services = services.filter(|it| only.is_none_or(|only| it.service == only));
    let of_services = services.map(|service| {
        let leaks: Vec<_> = service.leaks.iter().collect();
        let group = service.kernel.as_ref().map(|kernel| &*kernel.cgroup);
        (&*service.service, group, leaks)
    });
    for (whose, group, leaks) in of_services.chain([("(host)", None, of_host)]) {
        for leak in leaks {
            let row = [
                clean(whose),
                clean(&leak.resource),
                leak.level.to_string(),
                amount(leak.held, leak.unit),
                leak.limit
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), |limit| amount(limit.value, leak.unit)),
                rate(leak).unwrap_or_else(|| UNSEEN.to_owned()),
                leak.exhaustion.map_or_else(|| UNSEEN.to_owned(), left),
                leak.rule.map_or(UNSEEN, |rule| rule.name()).to_owned(),
            ];
            let mut why = if explain {
                explanation(leak, group)
            } else {
                Vec::new()
            };
            if leak.resource == DRIVER_PAGES && leak.scope == Scope::Host {
                why.extend(whose_pages(status, leak, explain));
            }
            rows.push(row, level_style(leak.level), why);
        }
    }
    let mut lines: Vec<_> = drill(status).into_iter().collect();
    lines.extend(rows.lines(Some(2), width));
    if explain && only.is_none() {
        lines.extend(books_unread(status));
    }
    lines
}

/// Who may have pages that no counter of the kernel accounts for.
fn whose_pages(status: &Status, pages: &LeakFigures, explain: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if explain {
        lines.push(
            "the kernel's: what no counter of it accounts for, pages that drivers took for themselves"
                .to_owned(),
        );
    }
    if pages.level > Level::Watching {
        let modules = status.modules.iter().flat_map(|it| &it.leaks);
        let growing = modules.filter(|it| it.level > Level::Watching);
        let growing: Vec<_> = growing.map(|it| clean(&it.resource)).collect();
        lines.push(match (&status.modules, growing.is_empty()) {
            (Some(_), false) => format!("what grows beside it: {}", growing.join(", ")),
            (Some(_), true) => "no module is seen to grow beside it (/proc/allocinfo)".to_owned(),
            (None, _) => "which driver, a kernel with /proc/allocinfo would tell \
                (CONFIG_MEM_ALLOC_PROFILING, vm.mem_profiling)"
                .to_owned(),
        });
    }
    lines
        .into_iter()
        .map(|line| format!("    {line}"))
        .collect()
}

/// That it is not known what kernel modules have allocated, where that could be.
fn books_unread(status: &Status) -> Option<String> {
    let error = status.modules.as_ref()?.error.as_ref()?;
    let error = clean(error);
    Some(format!(
        "what each kernel module has is not known, which is for root: {error}"
    ))
}

/// Why a resource is believed to leak, or not to. `group` is the control group of the service that it is
/// listed under, for whose sake the kernel may hold it.
fn explanation(leak: &LeakFigures, group: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(limit) = &leak.limit {
        lines.push(format!("limit: {}", clean(&limit.source)));
    }
    let shared_group = group.filter(|_| leak.scope == Scope::Host);
    match shared_group {
        Some(group) => lines.extend(of_all_in(group, leak)),
        None if leak.scope == Scope::Host => {
            lines.push("it is of the whole host, and never pages".to_owned());
        }
        None => {}
    }
    lines.extend(leak.gates.iter().map(|it| gate(it, leak.unit)));
    lines.extend(
        leak.p
            .map(|p| format!("chance of such a trend without a leak: {p:.1e}")),
    );
    lines.extend(leak.share_of_growth.map(|share| {
        let whose = if shared_group.is_some() {
            "the group's"
        } else {
            "its"
        };
        format!("{whose} growth is {:.0} % of the host's", share * 100.0)
    }));
    lines.extend(correlations(leak));
    if !leak.falsified_by.is_empty() {
        lines.push("it is no leak if".to_owned());
        lines.extend(
            leak.falsified_by
                .iter()
                .map(|test| format!("  {}", clean(test))),
        );
    }
    if leak.rule.is_none() {
        lines.push("no rule has enough to go by yet; the first hour is not counted".to_owned());
    }
    lines
        .into_iter()
        .map(|line| format!("    {line}"))
        .collect()
}

/// Whose something is that the kernel holds for a group in which there may be others.
fn of_all_in(group: &str, leak: &LeakFigures) -> Vec<String> {
    let mut lines = vec![format!(
        "held: by the kernel for everybody in the control group {}, this service among them",
        clean(group)
    )];
    let is_its_own = |source: &str| source == KERNEL_MEMORY_MAX;
    if leak.limit.as_ref().is_some_and(|it| is_its_own(&it.source)) {
        lines.push(format!(
            "{KERNEL_MEMORY_MAX} is what this service may have, and it is what all of them have that is \
             held against it"
        ));
    }
    lines.push("what grows there may be another's, so it never pages".to_owned());
    lines.push(
        "to know its own, give the service a control group to itself: a unit of systemd, or `cgroup` in \
         its [[service]]"
            .to_owned(),
    );
    lines
}

fn gate(gate: &GateFigures, unit: Unit) -> String {
    let sign = if gate.passed { '+' } else { '-' };
    // All others are shares, hours and counts.
    let is_amount = gate.name == GROWTH;
    let measured = match gate.measured {
        Some(measured) if is_amount => amount(measured, unit),
        Some(measured) => format!("{measured:.3}"),
        None => "without end".to_owned(),
    };
    let bound = |bound: f64| match is_amount {
        true => amount(bound, unit),
        false => bound.to_string(),
    };
    let needed = match (gate.at_least, gate.at_most) {
        (Some(needed), _) => format!(" (at least {})", bound(needed)),
        (_, Some(needed)) => format!(" (at most {})", bound(needed)),
        (None, None) => String::new(),
    };
    format!("{sign} {}: {measured}{needed}", clean(&gate.name))
}

/// One sentence that says how a resource leaks.
#[must_use]
pub fn leak_sentence(leak: &LeakFigures) -> String {
    let mut text = format!("{}: {} held", leak.resource, amount(leak.held, leak.unit));
    if let Some(limit) = &leak.limit {
        text += &format!(" of {} ({})", amount(limit.value, leak.unit), limit.source);
    }
    if let Some(rate) = rate(leak) {
        text += &format!(", {rate} more an hour");
    }
    if let Some(exhaustion) = leak.exhaustion {
        text += &format!(", exhausted in {}", left(exhaustion));
    }
    for correlation in correlations(leak) {
        text += &format!(", {correlation}");
    }
    text
}

fn correlations(leak: &LeakFigures) -> Vec<String> {
    let each = |value: f64| amount(value, leak.unit);
    let failed = leak
        .per_failed_open
        .map(|value| format!("grows with failed requests, by {} each", each(value)));
    let absent = leak
        .per_hour_absent
        .map(|value| format!("grows while the card is away, by {} an hour", each(value)));
    let began = leak.began_seconds_ago.map(|ago| {
        let as_card_went = match leak.began_as_card_went {
            true => ", when the card went away",
            false => "",
        };
        format!("began {} ago{as_card_went}", spoken(seconds(ago)))
    });
    failed.into_iter().chain(absent).chain(began).collect()
}

/// What a service has in memory, as the kernel added it up for who asked.
#[must_use]
pub fn memory(figures: &MemoryFigures) -> Vec<String> {
    let MemoryFigures {
        service,
        pid,
        start_time_ticks: _,
        age_seconds,
        rss_bytes,
        pss_bytes,
        pss_anon_bytes,
        private_dirty_bytes,
        swapped_bytes,
        locked_bytes,
    } = figures;
    let head = format!(
        "memory of {}, added up {} ago from /proc/{pid}/smaps_rollup:",
        clean(service),
        spoken(seconds(*age_seconds))
    );
    let lines = [
        ("Rss", rss_bytes, "in memory"),
        (
            "Pss",
            pss_bytes,
            "its share of that: of a page that several have, each has a part",
        ),
        ("Pss_Anon", pss_anon_bytes, "of that share, what is no file"),
        (
            "Private_Dirty",
            private_dirty_bytes,
            "what it alone has and has written to",
        ),
        ("Swap", swapped_bytes, "swapped out"),
        ("Locked", locked_bytes, "locked in memory"),
    ];
    let lines = lines.map(|(name, bytes, what)| {
        let bytes = bytes.map_or_else(|| UNSEEN.to_owned(), mebibytes);
        format!("    {name:<13}  {bytes:>12}  {what}")
    });
    std::iter::once(head).chain(lines).collect()
}

/// What services hold, the most memory first; with `kernel`, what the kernel holds for them.
#[must_use]
pub fn top(status: &Status, kernel: bool, width: Option<usize>) -> Vec<String> {
    if status.services.is_empty() {
        return vec![no_services()];
    }
    let mut services: Vec<_> = status.services.iter().collect();
    if kernel {
        services
            .sort_by_key(|it| std::cmp::Reverse(it.kernel.as_ref().and_then(|k| k.total_bytes)));
        let lines = drill(status).into_iter();
        return lines.chain(kernel_table(&services, width)).collect();
    }
    services.sort_by_key(|it| std::cmp::Reverse(it.process.as_ref().and_then(|p| p.rss_bytes)));
    let mut rows = Rows::new([
        "SERVICE", "PID", "RSS", "KERNEL", "FDS", "SOCKETS", "THREADS", "PORTS", "SLOPE", "SHARE",
    ]);
    for service in services {
        let process = service.process.as_ref();
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let kernel = service
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.total_bytes);
        let steepest = steepest(service);
        let row = [
            Some(clean(&service.service)),
            process.map(|process| process.pid.to_string()),
            process.and_then(|process| process.rss_bytes).map(mebibytes),
            kernel.map(mebibytes),
            number(process.and_then(|process| process.descriptors)),
            number(process.and_then(|process| process.sockets)),
            number(process.map(|process| process.threads)),
            number(process.and_then(|process| process.tcp_ports)),
            steepest.and_then(|leak| {
                let rate = leak.rate_per_hour?.middle;
                let resource = clean(&leak.resource);
                Some(format!("{}/h {resource}", amount(rate, leak.unit)))
            }),
            steepest.and_then(|leak| Some(format!("{:.0} %", leak.share_of_growth? * 100.0))),
        ];
        let row = row.map(|cell| cell.unwrap_or_else(|| UNSEEN.to_owned()));
        rows.push(row, Style::new(), Vec::new());
    }
    let lines = drill(status).into_iter();
    lines.chain(rows.lines(None, width)).collect()
}

/// What is nearest to its limit among what grows: of each, the growth in an hour is held against
/// what is left.
fn steepest(service: &ServiceStatus) -> Option<&LeakFigures> {
    let urgency = |leak: &LeakFigures| {
        let rate = leak.rate_per_hour.map_or(0.0, |rate| rate.middle);
        let limit = leak
            .limit
            .as_ref()
            .map_or(f64::INFINITY, |limit| limit.value);
        rate / (limit - leak.held).max(f64::MIN_POSITIVE)
    };
    let leaks = service.leaks.iter();
    let growing = leaks.filter(|leak| leak.rate_per_hour.is_some_and(|rate| rate.middle > 0.0));
    growing.max_by(|a, b| {
        a.level
            .cmp(&b.level)
            .then(urgency(a).total_cmp(&urgency(b)))
    })
}

fn kernel_table(services: &[&ServiceStatus], width: Option<usize>) -> Vec<String> {
    let mut rows = Rows::new([
        "SERVICE",
        "KERNEL",
        "STACKS",
        "PAGE TABLES",
        "PERCPU",
        "SOCKETS",
        "VMALLOC",
        "SLAB",
        "RECLAIMABLE",
        "CGROUP",
    ]);
    for service in services {
        let kernel = service.kernel.as_ref();
        let bytes = |of: fn(&KernelFigures) -> Option<u64>| kernel.and_then(of).map(mebibytes);
        let row = [
            Some(clean(&service.service)),
            bytes(|kernel| kernel.total_bytes),
            bytes(|kernel| kernel.stack_bytes),
            bytes(|kernel| kernel.page_tables_bytes),
            bytes(|kernel| kernel.percpu_bytes),
            bytes(|kernel| kernel.sockets_bytes),
            bytes(|kernel| kernel.vmalloc_bytes),
            bytes(|kernel| kernel.slab_unreclaimable_bytes),
            bytes(|kernel| kernel.slab_reclaimable_bytes),
            kernel.map(|kernel| clean(&kernel.cgroup)),
        ];
        let row = row.map(|cell| cell.unwrap_or_else(|| UNSEEN.to_owned()));
        rows.push(row, Style::new(), Vec::new());
    }
    rows.lines(None, width)
}

fn no_services() -> String {
    "no service is watched: describe each under [[service]] in the configuration of the monitor\n\
     (cardmon config default shows how)"
        .to_owned()
}

fn rate(leak: &LeakFigures) -> Option<String> {
    let rate = leak.rate_per_hour?;
    let (low, high) = (amount(rate.low, leak.unit), amount(rate.high, leak.unit));
    Some(if low == high {
        low
    } else {
        format!("{low} to {high}")
    })
}

fn left(exhaustion: ExhaustionFigures) -> String {
    let earliest = spoken(seconds(exhaustion.earliest_seconds));
    match exhaustion
        .latest_seconds
        .map(|latest| spoken(seconds(latest)))
    {
        Some(latest) if latest == earliest => earliest,
        Some(latest) => format!("{earliest} to {latest}"),
        None => format!("{earliest} or never"),
    }
}

/// So much of something, as people say it.
#[must_use]
pub(crate) fn amount(value: f64, unit: Unit) -> String {
    let scaled = |value: f64, unit: &str| format!("{value:.1} {unit}");
    match unit {
        Unit::Count if value.fract() == 0.0 => format!("{value:.0}"),
        Unit::Count => format!("{value:.1}"),
        Unit::Bytes => match value.abs() {
            size if size < 1024.0 => scaled(value, "B"),
            size if size < 1_048_576.0 => scaled(value / 1024.0, "KiB"),
            size if size < 1_073_741_824.0 => scaled(value / 1_048_576.0, "MiB"),
            _ => scaled(value / 1_073_741_824.0, "GiB"),
        },
    }
}

fn style(service: &ServiceStatus) -> Style {
    let colour = match (service.standing, service.cause) {
        (Standing::Unknown, _) => AnsiColor::Yellow,
        (_, Cause::None) => AnsiColor::Green,
        (_, Cause::Undetermined) => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into())).bold()
}

fn level_style(level: Level) -> Style {
    let colour = match level {
        Level::Watching => return Style::new(),
        Level::Suspected => AnsiColor::Yellow,
        Level::Leaking | Level::Page => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into())).bold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::LimitFigures;

    #[test]
    fn driver_pages_that_grow_are_nobodys_and_named_with_the_modules_that_grow_too() {
        let tree = tempfile::tempdir().unwrap();
        let settings = crate::watch::Settings::of(tree.path(), tree.path());
        let mut watch = crate::watch::Watch::new(settings);
        let mut status = watch.poll(hwshim::clock::Instant::ORIGIN).status;
        let of = |resource: &str, level| LeakFigures {
            scope: Scope::Host,
            ..LeakFigures::bare(resource, Unit::Bytes, level, 4096.0)
        };
        let pages = |level, status: &mut Status| {
            let host = status.host.as_mut().unwrap();
            host.driver_pages = Some(of(DRIVER_PAGES, level));
            leaks(status, None, false, None).join("\n")
        };
        assert_eq!(pages(Level::Watching, &mut status), no_services());
        let without_books = pages(Level::Suspected, &mut status);
        assert!(without_books.contains("driver pages"), "{without_books}");
        assert!(
            without_books.contains("    which driver, a kernel with /proc/allocinfo would tell")
        );
        status.modules = Some(crate::status::ModuleFigures {
            leaks: vec![
                of("module n5pf", Level::Suspected),
                of("module ext4", Level::Watching),
            ],
            error: None,
        });
        let with_books = pages(Level::Suspected, &mut status);
        assert!(
            with_books.contains("    what grows beside it: module n5pf\n"),
            "{with_books}"
        );
        let explained = leaks(&status, None, true, None).join("\n");
        assert!(explained.contains("    the kernel's: what no counter of it accounts for"));
    }

    #[test]
    fn what_the_kernel_holds_for_a_shared_group_is_said_to_be_of_all_in_it() {
        let limited = |source: &str| LeakFigures {
            scope: Scope::Host,
            limit: Some(LimitFigures {
                value: 8192.0,
                source: source.to_owned(),
            }),
            share_of_growth: Some(0.4),
            ..LeakFigures::bare("kernel-memory", Unit::Bytes, Level::Suspected, 4096.0)
        };
        let explained = explanation(&limited(KERNEL_MEMORY_MAX), Some("/system.slice")).join("\n");
        let plain = "\
    limit: kernel_memory_max
    held: by the kernel for everybody in the control group /system.slice, this service among them
    kernel_memory_max is what this service may have, and it is what all of them have that is held against it
    what grows there may be another's, so it never pages
    to know its own, give the service a control group to itself: a unit of systemd, or `cgroup` in its [[service]]
    the group's growth is 40 % of the host's";
        assert!(explained.trim_start().starts_with(plain), "{explained}");
        let without = explanation(&limited("MemTotal of the host"), Some("/")).join("\n");
        assert!(!without.contains(KERNEL_MEMORY_MAX), "{without}");
        let own = LeakFigures {
            scope: Scope::Service,
            ..limited(KERNEL_MEMORY_MAX)
        };
        let own = explanation(&own, Some("/system.slice/hardserver.service")).join("\n");
        assert!(
            !own.contains("everybody") && own.contains("its growth is 40 %"),
            "{own}"
        );
        let host = explanation(&limited("MemTotal"), None).join("\n");
        assert!(
            host.contains("it is of the whole host, and never pages"),
            "{host}"
        );
    }

    #[test]
    fn growth_is_told_in_the_unit_of_what_grows_and_shares_as_they_are() {
        let of = |name: &str, measured: f64, least: f64| GateFigures {
            name: name.to_owned(),
            measured: Some(measured),
            at_least: Some(least),
            at_most: None,
            passed: false,
        };
        let growth = of("growth", 8_658_397.867, 16_777_216.0);
        assert_eq!(
            gate(&growth, Unit::Bytes),
            "- growth: 8.3 MiB (at least 16.0 MiB)"
        );
        let share = of("share of the limit used", 0.006, 0.6);
        assert_eq!(
            gate(&share, Unit::Bytes),
            "- share of the limit used: 0.006 (at least 0.6)"
        );
    }
}
