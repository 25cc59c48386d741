//! The catalogue of faults, printed.
//!
//! What the faults are is in [`crate::fault`].

use crate::fault::{CATALOGUE, Entry, Fault, Player};
use crate::service::fault::default_of;
use serde_json::{Value, json};

/// One line for each fault: group, name with its parameters' defaults, what happens. A parameter
/// that has none, and has to be given, is written as its name in capitals.
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
    let parameters: Vec<_> = defaults(entry)
        .into_iter()
        .zip(entry.parameters)
        .map(|(default, parameter)| {
            json!({
                "name": parameter.name,
                "summary": parameter.summary,
                "default": default,
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

/// The values that its parameters have if nobody says otherwise, in their order.
fn defaults(entry: &Entry) -> Vec<Option<String>> {
    let of_the_card = Fault::named(entry.name).map_or_else(|_| Vec::new(), |it| it.values());
    let default = |name: &str| match entry.played_by {
        Player::StandIn => default_of(entry.name, name).map(str::to_owned),
        Player::Card | Player::Simulation => {
            let mut values = of_the_card.iter();
            let found = values.find(|(parameter, _)| *parameter == name);
            found.map(|(_, value)| value.clone())
        }
    };
    entry.parameters.iter().map(|it| default(it.name)).collect()
}

/// The fault with the parameters it has if nobody says otherwise.
fn as_written(entry: &Entry) -> String {
    let mut text = entry.name.to_owned();
    let parameters = defaults(entry).into_iter().zip(entry.parameters);
    for (index, (default, parameter)) in parameters.enumerate() {
        let value = default.unwrap_or_else(|| parameter.name.to_uppercase());
        text += &match index {
            0 => format!("={value}"),
            _ => format!(",{}={value}", parameter.name),
        };
    }
    text
}
