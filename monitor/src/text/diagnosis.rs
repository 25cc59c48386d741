//! Lays out what was weighed of a card or a service: in a line or two beside its row, and in full.

use super::services::{blamed, victim_of};
use super::{clean, seconds, spoken};
use crate::checks::Advice;
use crate::status::{
    AssessmentFigures, CardStatus, FunctionFigures, HostFigures, ServiceStatus, TestFigures,
    WeighingFigures,
};
use crate::verdict::Cause;
use std::time::Duration;

/// Hypotheses with less are not worth a line.
const WORTH_A_LINE: f64 = 0.005;

/// How sure something is, and what would make it surer; nothing where nothing is wrong.
pub(super) fn in_short(assessment: Option<&AssessmentFigures>, name: &str) -> Vec<String> {
    let Some(assessment) = assessment.filter(|it| it.cause != Cause::None) else {
        return Vec::new();
    };
    let mut lines = vec![format!("    {}", sure(assessment))];
    if let Some(test) = &assessment.next_test {
        lines.push(format!("    next: {}", how(test)));
    }
    lines.push(format!("    more: cardmon diagnose {}", clean(name)));
    lines
}

/// What to do, a line for each code.
pub(super) fn advised(advice: &[Advice]) -> Vec<String> {
    let line = |it: &Advice| {
        format!(
            "    code {}: {}; {}: {}",
            it.code,
            clean(&it.meaning),
            clean(&it.at_once),
            clean(&it.investigate)
        )
    };
    advice.iter().map(line).collect()
}

/// The host, if anything is wrong with it.
pub(super) fn host(host: &HostFigures) -> Vec<String> {
    if host.cause == Cause::None {
        return Vec::new();
    }
    let since = spoken(seconds(host.for_seconds));
    let mut lines = vec![format!("host: {} since {since}", host.cause)];
    lines.extend(host.evidence.iter().map(super::reason));
    lines.extend(advised(&host.advice));
    lines
}

/// What was seen longer ago is dated.
const WORTH_DATING: Duration = Duration::from_secs(10);

/// Everything that was weighed of a card.
#[must_use]
pub fn card(card: &CardStatus) -> Vec<String> {
    let name = &card.card;
    let since = spoken(seconds(card.for_seconds));
    let head = format!(
        "{}: {} ({}) since {since}",
        clean(name),
        card.state,
        card.cause
    );
    let mut lines = vec![head];
    if let Some(drained) = &card.drained {
        lines.push(format!(
            "drained by {}; it would be {} ({}) otherwise",
            clean(&drained.by),
            drained.otherwise,
            drained.otherwise_cause
        ));
    }
    lines.extend(card.evidence.iter().map(super::reason));
    lines.extend(advised(&card.advice));
    lines.extend(otherwise(card.cause, card.assessment.as_ref()));
    lines.extend(weighed(card.assessment.as_ref()));
    lines
}

/// Everything that was weighed of a card of which no owner publishes a page.
#[must_use]
pub fn function(card: &FunctionFigures) -> Vec<String> {
    let mut lines = vec![format!("{}: at fault: {}", clean(&card.card), card.cause)];
    if let Some(drained) = &card.drained {
        let (by, otherwise) = (clean(&drained.by), drained.otherwise_cause);
        lines.push(format!(
            "drained by {by}; at fault would be {otherwise} otherwise"
        ));
    }
    lines.extend(card.evidence.iter().map(super::reason));
    lines.extend(advised(&card.advice));
    lines.extend(weighed(card.assessment.as_ref()));
    lines
}

/// Everything that was weighed of a service.
#[must_use]
pub fn service(service: &ServiceStatus) -> Vec<String> {
    let since = spoken(seconds(service.for_seconds));
    let (name, standing) = (clean(&service.service), service.standing.name());
    let blamed = blamed(service);
    let mut lines = vec![format!("{name}: {standing} ({blamed}) since {since}")];
    lines.extend(victim_of(service));
    lines.extend(service.evidence.iter().map(super::reason));
    lines.extend(advised(&service.advice));
    if service.victim.is_some() {
        let alone = "what follows was weighed of it alone, and does not blame it";
        lines.extend([String::new(), alone.to_owned()]);
    } else {
        lines.extend(otherwise(service.cause, service.assessment.as_ref()));
    }
    lines.extend(weighed(service.assessment.as_ref()));
    lines
}

/// What to find out next, and how; why nothing, if nothing is.
#[must_use]
pub fn next_test(assessment: Option<&AssessmentFigures>) -> String {
    let Some(assessment) = assessment else {
        return unweighed();
    };
    match (assessment.next_test.as_ref(), assessment.tests.first()) {
        (Some(test), _) | (None, Some(test)) => how(test),
        (None, None) if assessment.abstains() => {
            "no test that is known would tell more; what was tried tells most: see `cardmon unlock`"
                .to_owned()
        }
        (None, None) => format!("none is needed: {}", sure(assessment)),
    }
}

fn weighed(assessment: Option<&AssessmentFigures>) -> Vec<String> {
    let Some(assessment) = assessment else {
        return vec![unweighed()];
    };
    let mut lines = vec![String::new(), sure(assessment)];
    for veto in &assessment.vetoes {
        lines.push(format!("out of the question: {}", clean(&veto.why)));
    }
    let worth = assessment
        .hypotheses
        .iter()
        .filter(|it| it.probability >= WORTH_A_LINE);
    for hypothesis in worth {
        let percent = hypothesis.probability * 100.0;
        lines.push(String::new());
        lines.push(format!("{percent:5.1} %  {}", hypothesis.cause));
        let (speaks_for, against) = assessment.for_and_against(hypothesis.cause);
        let evidence = speaks_for.into_iter().chain(against);
        lines.extend(evidence.map(|it| piece(it, hypothesis.cause)));
    }
    let uncounted: Vec<_> = assessment.uncounted().collect();
    if !uncounted.is_empty() {
        lines.push(String::new());
        lines.push("not counted, as what was seen of the fault itself decides".to_owned());
        let named =
            |it: &WeighingFigures| format!("        {}: {}", clean(&it.code), clean(&it.detail));
        lines.extend(uncounted.into_iter().map(named));
    }
    if !assessment.tests.is_empty() {
        lines.push(String::new());
        lines.push("what would tell more, the cheapest for what it tells first".to_owned());
        lines.extend(assessment.tests.iter().map(|it| format!("  {}", how(it))));
    }
    lines
}

/// A piece of evidence with its weight for a cause.
fn piece(evidence: &WeighingFigures, cause: Cause) -> String {
    let seen = if evidence.seen { "" } else { "no " };
    let ago = match seconds(evidence.seconds_ago) {
        ago if ago < WORTH_DATING => String::new(),
        ago => format!(", {} ago", spoken(ago)),
    };
    format!(
        "  {:+5.1}  {seen}{}: {}{ago}",
        evidence.weight(cause),
        clean(&evidence.code),
        clean(&evidence.detail)
    )
}

/// That rules and scales name different causes, where they do.
fn otherwise(judged: Cause, assessment: Option<&AssessmentFigures>) -> Option<String> {
    let weighed = assessment?.cause;
    let differ = judged != weighed && judged != Cause::None && judged != Cause::Undetermined;
    differ.then(|| {
        let weighed = match weighed {
            Cause::Undetermined => "is not sure of that".to_owned(),
            Cause::None => "finds nobody at fault".to_owned(),
            cause => format!("would name {cause}"),
        };
        format!(
            "{judged} is what the first line decides by itself; all that was seen, weighed in what \
             follows, {weighed}"
        )
    })
}

/// Who is at fault, or that nobody knows, and how sure that is.
fn sure(assessment: &AssessmentFigures) -> String {
    let percent = assessment.confidence * 100.0;
    let likely = |leading: Cause| {
        let ranked = assessment.hypotheses.iter();
        let known = ranked.filter(|it| it.cause != Cause::None && it.cause != Cause::Undetermined);
        let other = known.map(|it| it.cause).find(|it| *it != leading);
        other.map_or_else(String::new, |other| format!(", then {other}"))
    };
    match assessment.cause {
        Cause::Undetermined => format!(
            "undetermined: {} is likeliest{}, and that is not sure enough",
            assessment.leading,
            likely(assessment.leading)
        ),
        Cause::None => format!("nothing is at fault, {percent:.1} % sure"),
        cause => {
            let besides = assessment.besides.map_or_else(String::new, |besides| {
                let (cause, percent) = (besides.cause, besides.probability * 100.0);
                format!("; and so is {cause}, {percent:.1} %, which is another matter")
            });
            format!("{cause} is at fault, {percent:.1} % sure{besides}")
        }
    }
}

fn how(test: &TestFigures) -> String {
    let takes = spoken(seconds(test.takes_seconds));
    format!("{}, {takes}: {}", clean(&test.test), clean(&test.how))
}

fn unweighed() -> String {
    "the monitor does not tell what it weighed; it is of another version than this program"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Balance, Circumstances, Dossier, Kind, Priors, assess};
    use hwshim::clock::Instant;

    #[test]
    fn a_change_that_did_not_count_is_named_without_a_weight() {
        let (now, circumstances, priors) =
            (Instant::ORIGIN, Circumstances::default(), Priors::default());
        let mut dossier = Dossier::new();
        let shown = |dossier: &Dossier| {
            let balance = Balance::of(dossier, &circumstances, &priors, now);
            let (assessment, weighings) = (balance.assessment(dossier), balance.weighings(dossier));
            let figures = AssessmentFigures::new(&assessment, weighings, &[]);
            weighed(Some(&figures)).join("\n")
        };
        dossier.seen(Kind::RecentChange, 1.0, "the fan", now);
        dossier.seen(Kind::CounterFrozen, 1.0, "it stands still", now);
        dossier.not_seen(Kind::HostPressure, "the host has time", now);
        let text = shown(&dossier);
        assert!(text.contains("  +"), "{text}");
        assert!(text.contains("recent-change: the fan"), "{text}");
        assert!(!text.contains("not counted"), "{text}");
        dossier.seen(Kind::WrongAnswer, 1.0, "it was wrong", now);
        let text = shown(&dossier);
        let (counted, named) = text.split_once("not counted, as what ").unwrap();
        assert!(!counted.contains("recent-change"), "{text}");
        assert!(named.contains("\n        recent-change: the fan"), "{text}");
    }

    #[test]
    fn what_was_seen_a_while_ago_is_dated() {
        let (now, mut dossier) = (Instant::ORIGIN, Dossier::new());
        dossier.seen(Kind::WrongAnswer, 1.0, "it was wrong", now);
        let told = |seconds: u64| {
            let now = now.plus(Duration::from_secs(seconds));
            let circumstances = Circumstances::default();
            let balance = Balance::of(&dossier, &circumstances, &Priors::default(), now);
            let (assessment, weighings) =
                (balance.assessment(&dossier), balance.weighings(&dossier));
            let figures = AssessmentFigures::new(&assessment, weighings, &[]);
            weighed(Some(&figures)).join("\n")
        };
        assert!(told(1).contains("wrong-answer: it was wrong\n"));
        let told = told(120);
        assert!(
            told.contains("wrong-answer: it was wrong, 2m00s ago\n"),
            "{told}"
        );
    }

    #[test]
    fn who_is_named_by_a_rule_and_not_by_what_was_weighed_is_told_so() {
        let (now, mut dossier) = (Instant::ORIGIN, Dossier::new());
        dossier.seen(Kind::LedFault, 1.0, "SOS", now);
        let assessment = assess(&dossier, &Circumstances::default(), &Priors::default(), now);
        assert_ne!(assessment.cause, Cause::Link);
        let figures = AssessmentFigures::new(&assessment, Vec::new(), &[]);
        assert_eq!(otherwise(assessment.cause, Some(&figures)), None);
        assert_eq!(otherwise(Cause::None, Some(&figures)), None);
        let told = otherwise(Cause::Link, Some(&figures)).unwrap();
        assert!(
            told.starts_with("link is what the first line decides"),
            "{told}"
        );
    }

    #[test]
    fn who_is_at_fault_besides_is_told_behind_who_is() {
        let (mut dossier, now) = (Dossier::new(), Instant::ORIGIN);
        dossier.not_seen(Kind::QueueLong, "it is short", now);
        dossier.seen(Kind::LedFault, 1.0, "SOS", now);
        dossier.seen(Kind::HostPressure, 1.0, "pressure", now);
        let told = |is_no_matter_of_time| {
            let circumstances = Circumstances {
                is_no_matter_of_time,
                ..Circumstances::default()
            };
            let assessment = assess(&dossier, &circumstances, &Priors::default(), now);
            sure(&AssessmentFigures::new(&assessment, Vec::new(), &[]))
        };
        let (both, one) = (told(true), told(false));
        assert!(both.starts_with("card is at fault, "), "{both}");
        let besides = both.split("; and so is ").nth(1).expect(&both);
        assert!(besides.starts_with("host-starvation, "), "{both}");
        assert!(!one.contains("and so is"), "{one}");
    }
}
