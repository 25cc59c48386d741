//! What whoever controls the service can say to it: one JSON object a line.
//!
//! | line | what it does |
//! |---|---|
//! | `{"inject": "leak-heap", "rate": "1MiB/s"}` | turns a fault on; other keys are its parameters |
//! | `{"inject": "leak-heap=1MiB/s"}` | the same, written as on a command line |
//! | `{"clear": "leak-heap", "free": true}` | turns it off, and gives back what it has leaked |
//! | `{"clear": "all"}` | turns every fault off; what has leaked stays |
//! | `{"card": "absent"}` | takes the card away; `present`, `vfio-user:PATH` |
//! | `{"status": true}` | says what is true, also when the ledger lies |
//!
//! Each is answered with one JSON object: `{"ok": true}`, for the last one with `status` in it, or
//! `{"ok": false, "error": "..."}`.

use crate::nearest::hint;
use crate::service::fault::{FaultError, ServiceFault};
use crate::service::presence::CardLink;
use serde_json::{Map, Value, json};
use std::fmt;

const VERBS: [&str; 4] = ["inject", "clear", "card", "status"];
/// Clears every fault.
const ALL: &str = "all";

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    Inject(ServiceFault),
    /// One fault, or all.
    Clear {
        fault: Option<String>,
        free: bool,
    },
    Card(CardLink),
    Status,
}

impl Order {
    /// Parses a line.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(line).map_err(|error| format!("not a JSON object: {error}"))?;
        let Value::Object(mut object) = value else {
            return Err(format!("not a JSON object: {value}"));
        };
        let verb = verb_of(&object)?;
        let argument = object.remove(verb).expect("it has just been found there");
        match verb {
            "inject" => inject(&text(verb, &argument)?, &object),
            "clear" => clear(text(verb, &argument)?, object),
            "card" => {
                nothing_else(&object, &[])?;
                let card = text(verb, &argument)?;
                let card = card
                    .parse()
                    .map_err(|wrong| format!("`card` {wrong}, not `{card}`"))?;
                Ok(Self::Card(card))
            }
            _ => {
                nothing_else(&object, &[])?;
                match argument {
                    Value::Bool(true) => Ok(Self::Status),
                    other => Err(format!("`status` must be true, not {other}")),
                }
            }
        }
    }
}

/// The line that says so.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inject(fault) => json!({ "inject": fault.to_string() }),
            Self::Clear { fault, free } => {
                json!({ "clear": fault.as_deref().unwrap_or(ALL), "free": free })
            }
            Self::Card(card) => json!({ "card": card.to_string() }),
            Self::Status => json!({ "status": true }),
        }
        .fmt(f)
    }
}

fn verb_of(object: &Map<String, Value>) -> Result<&'static str, String> {
    let mut verbs = VERBS.into_iter().filter(|verb| object.contains_key(*verb));
    match (verbs.next(), verbs.next()) {
        (Some(verb), None) => Ok(verb),
        (Some(one), Some(other)) => Err(format!("`{one}` and `{other}` exclude each other")),
        (None, _) => {
            let found = object.keys().next().map_or("", String::as_str);
            let hint = hint(found, VERBS);
            Err(format!("`{found}` says not what to do; {hint}"))
        }
    }
}

fn inject(name: &str, parameters: &Map<String, Value>) -> Result<Order, String> {
    if parameters.is_empty() {
        let fault = name
            .parse()
            .map_err(|error: FaultError| error.to_string())?;
        return Ok(Order::Inject(fault));
    }
    let parameters = parameters
        .iter()
        .map(|(name, value)| Ok((name.as_str(), text(name, value)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let parameters: Vec<_> = parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let fault = ServiceFault::parse(name, &parameters).map_err(|error| error.to_string())?;
    Ok(Order::Inject(fault))
}

fn clear(name: String, mut rest: Map<String, Value>) -> Result<Order, String> {
    let free = match rest.remove("free") {
        None => false,
        Some(Value::Bool(free)) => free,
        Some(other) => return Err(format!("`free` must be true or false, not {other}")),
    };
    nothing_else(&rest, &["free"])?;
    let fault = Some(name).filter(|name| name != ALL);
    Ok(Order::Clear { fault, free })
}

fn nothing_else(rest: &Map<String, Value>, possible: &[&str]) -> Result<(), String> {
    match rest.keys().next() {
        None => Ok(()),
        Some(found) if possible.is_empty() => Err(format!("`{found}` has no meaning here")),
        Some(found) => {
            let hint = hint(found, possible.iter().copied());
            Err(format!("`{found}` has no meaning here; {hint}"))
        }
    }
}

/// A value as it would stand on a command line.
fn text(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("`{key}` must be text or a number, not {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let heap = "leak-heap=1MiB/s".parse().unwrap();
        let clear = |fault: Option<&str>, free| Order::Clear {
            fault: fault.map(str::to_owned),
            free,
        };
        let cases = [
            (
                r#"{"inject": "leak-heap", "rate": "1MiB/s"}"#,
                Order::Inject(heap),
            ),
            (
                r#"{"inject": "leak-while-absent=7/min,what=ports"}"#,
                Order::Inject("leak-while-absent=7/min,what=ports".parse().unwrap()),
            ),
            (
                r#"{"inject": "crash", "after": 3}"#,
                Order::Inject(ServiceFault::Crash { after: 3 }),
            ),
            (r#"{"clear": "refuse"}"#, clear(Some("refuse"), false)),
            (r#"{"free": true, "clear": "all"}"#, clear(None, true)),
            (r#"{"card": "absent"}"#, Order::Card(CardLink::Absent)),
            (r#"{"status": true}"#, Order::Status),
        ];
        for (line, order) in cases {
            assert_eq!(
                Order::parse(&order.to_string()),
                Ok(order.clone()),
                "{line}"
            );
            assert_eq!(Order::parse(line), Ok(order), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_probably_meant() {
        let cases = [
            (
                "inject",
                "not a JSON object: expected value at line 1 column 1",
            ),
            ("[1]", "not a JSON object: [1]"),
            (
                r#"{"injekt": "refuse"}"#,
                "`injekt` says not what to do; did you mean `inject`?",
            ),
            (
                "{}",
                "`` says not what to do; there are `inject`, `clear`, `card`, `status`",
            ),
            (
                r#"{"inject": "refuse", "clear": "refuse"}"#,
                "`inject` and `clear` exclude each other",
            ),
            (
                r#"{"inject": "leak-hep", "rate": "1/s"}"#,
                "there is no fault `leak-hep`; did you mean `leak-heap`?",
            ),
            (
                r#"{"inject": "leak-heap", "rat": "1/s"}"#,
                "leak-heap has no parameter `rat`; did you mean `rate`?",
            ),
            (
                r#"{"inject": "crash", "after": []}"#,
                "`after` must be text or a number, not []",
            ),
            (
                r#"{"inject": true}"#,
                "`inject` must be text or a number, not true",
            ),
            (
                r#"{"clear": "all", "fre": true}"#,
                "`fre` has no meaning here; did you mean `free`?",
            ),
            (
                r#"{"clear": "all", "free": 1}"#,
                "`free` must be true or false, not 1",
            ),
            (r#"{"status": true, "x": 1}"#, "`x` has no meaning here"),
            (r#"{"status": 1}"#, "`status` must be true, not 1"),
            (
                r#"{"card": "gone"}"#,
                "`card` must be present, absent or vfio-user:PATH, not `gone`",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(Order::parse(line), Err(message.to_owned()), "{line}");
        }
    }
}
