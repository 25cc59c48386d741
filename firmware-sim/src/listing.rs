//! The catalogue of faults, printed.
//!
//! What the faults are is in [`crate::fault`].

use crate::fault::{CATALOGUE, Entry, Fault, Player};
use serde_json::{Value, json};

/// One line for each fault: group, name with its parameters' defaults, what happens.
#[must_use]
pub fn table() -> String {
    let column = |of: fn(&Entry) -> String| CATALOGUE.iter().map(of).map(|text| text.len()).max();
    let name_width = column(as_written).unwrap_or(0);
    let group_width = column(|entry| entry.group.name().to_owned()).unwrap_or(0);
    let line = |entry: &Entry| {
        let group = entry.group;
        let name = as_written(entry);
        let player = match entry.played_by {
            Player::Card => String::new(),
            player => format!(" [{}]", player.name()),
        };
        let summary = entry.summary;
        format!("{group:group_width$}  {name:name_width$}  {summary}{player}\n")
    };
    CATALOGUE.iter().map(line).collect()
}

/// The same, and all else that is known, as JSON.
#[must_use]
pub fn json() -> String {
    let faults: Vec<_> = CATALOGUE.iter().map(object).collect();
    format!("{:#}\n", Value::from(faults))
}

fn object(entry: &Entry) -> Value {
    let defaults = Fault::named(entry.name).map_or_else(|_| Vec::new(), |fault| fault.values());
    let parameters: Vec<_> = entry
        .parameters
        .iter()
        .map(|parameter| {
            let default = defaults.iter().find(|(name, _)| *name == parameter.name);
            json!({
                "name": parameter.name,
                "summary": parameter.summary,
                "default": default.map(|(_, value)| value),
            })
        })
        .collect();
    json!({
        "name": entry.name,
        "group": entry.group.name(),
        "summary": entry.summary,
        "parameters": parameters,
        "cause": entry.truth.cause.name(),
        "observable": entry.truth.observable.name(),
        "played_by": entry.played_by.name(),
    })
}

/// The fault with the parameters it has if nobody says otherwise.
fn as_written(entry: &Entry) -> String {
    Fault::named(entry.name).map_or_else(|_| entry.name.to_owned(), |fault| fault.to_string())
}
