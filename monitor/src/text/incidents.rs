//! Lays out incidents for people: one line each, or all of each.

use super::{Rows, clean, counted, seconds, spoken};
use crate::status::IncidentFigures;
use crate::verdict::Cause;
use anstyle::{AnsiColor, Style};

/// What is open, a line each, for the end of a status.
pub(super) fn in_short(incidents: &[IncidentFigures]) -> Vec<String> {
    let open = incidents.iter().filter(|it| it.open);
    let line = |it: &IncidentFigures| {
        let about = it.symptoms.first().map_or("host", |first| &first.subject);
        format!(
            "incident {}: {} ({}) for {}, {}; {}",
            it.incident,
            clean(about),
            it.cause,
            spoken(seconds(it.began_seconds_ago)),
            members_counted(it),
            clean(&it.at_once)
        )
    };
    open.map(line).collect()
}

/// How many symptoms, victims and changes belong to an incident; of the last two, those there are.
#[must_use]
pub fn members_counted(incident: &IncidentFigures) -> String {
    let many = |list: usize| u64::try_from(list).unwrap_or(u64::MAX);
    let mut text = counted(many(incident.symptoms.len()), "symptom");
    for (count, one) in [
        (incident.victims.len(), "victim"),
        (incident.changes.len(), "change"),
    ] {
        if count > 0 {
            text = format!("{text}, {}", counted(many(count), one));
        }
    }
    text
}

/// Each incident, with all that belongs to it. The table is no wider than `width`, if there is one.
#[must_use]
pub fn incidents(incidents: &[IncidentFigures], width: Option<usize>) -> Vec<String> {
    if incidents.is_empty() {
        return vec!["no incident: nothing that is wrong is known".to_owned()];
    }
    let mut rows = Rows::new(["INCIDENT", "IS", "CAUSE", "BEGAN", "LASTED", "AT ONCE"]);
    for incident in incidents {
        let row = [
            incident.incident.to_string(),
            if incident.open { "open" } else { "closed" }.to_owned(),
            incident.cause.to_string(),
            format!("{} ago", spoken(seconds(incident.began_seconds_ago))),
            spoken(seconds(incident.lasted_seconds())),
            clean(&incident.at_once),
        ];
        rows.push(row, style(incident), members(incident));
    }
    rows.lines(Some(1), width)
}

fn members(incident: &IncidentFigures) -> Vec<String> {
    let mut lines = Vec::new();
    for symptom in &incident.symptoms {
        let check = symptom.check.map(|code| format!(" (code {code})"));
        lines.push(format!(
            "    symptom  {}: {}{}: {}",
            clean(&symptom.subject),
            clean(&symptom.code),
            check.unwrap_or_default(),
            clean(&symptom.detail)
        ));
    }
    for victim in &incident.victims {
        let (process, detail) = (clean(&victim.process), clean(&victim.detail));
        lines.push(format!(
            "    victim   {process}, {}: {detail}",
            victim.harm.name()
        ));
    }
    for change in &incident.changes {
        let ago = spoken(seconds(change.seconds_ago));
        let (who, what) = (clean(&change.who), clean(&change.what));
        lines.push(format!("    change   {ago} ago, by {who}: {what}"));
    }
    if incident.not_listed > 0 {
        lines.push(format!("    and {} more", incident.not_listed));
    }
    lines
}

fn style(incident: &IncidentFigures) -> Style {
    let colour = match (incident.open, incident.cause) {
        (false, _) => return Style::new().dimmed(),
        (true, Cause::Undetermined) => AnsiColor::Yellow,
        (true, _) => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into())).bold()
}
