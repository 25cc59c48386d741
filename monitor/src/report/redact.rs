//! Strikes out of a report what is nobody's business who takes a card back: names of hosts and network
//! addresses, wherever others wrote them.
//!
//! It knows the names it is told, and finds addresses by their form. A name that nobody told it of and
//! that an operator wrote into a reason stays: the report says that reasons are in it.

use super::{Assessment, EventView, Part, Report};
use serde_json::Value;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What stands for a name.
const NAME: &str = "(host)";
/// What stands for an address.
const ADDRESS: &str = "(address)";
/// Names shorter than this would strike out parts of words.
const NAME_LEN_MIN: usize = 3;

/// Strikes out names and addresses.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    names: Vec<String>,
}

impl Redactor {
    /// Of hosts with these names, as they stand in configurations and in `/proc/sys/kernel/hostname`.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<_> = names
            .into_iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| name.len() >= NAME_LEN_MIN && name != "localhost")
            .collect();
        // The longest first: a full name holds the short one.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self { names }
    }

    /// `text` without names and addresses.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut struck = text.to_owned();
        for name in &self.names {
            struck = without(&struck, name);
        }
        let is_of_address =
            |character: char| character.is_ascii_hexdigit() || matches!(character, '.' | ':');
        let mut rest = struck.as_str();
        let mut clean = String::new();
        while let Some(start) = rest.find(is_of_address) {
            let (before, from) = rest.split_at(start);
            let len = from.find(|c| !is_of_address(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(len);
            clean.push_str(before);
            let in_word = before.ends_with(|c: char| c.is_alphanumeric())
                || after.starts_with(|c: char| c.is_alphanumeric());
            clean.push_str(if !in_word && is_address(word) {
                ADDRESS
            } else {
                word
            });
            rest = after;
        }
        clean + rest
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|one| self.value(one)),
            Value::Object(fields) => fields.values_mut().for_each(|one| self.value(one)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Strikes out of a report, wherever it holds what others wrote.
    pub(super) fn strike(&self, report: &mut Report) {
        if let Part::Known(events) = &mut report.events {
            for EventView { body, .. } in events {
                self.value(body);
            }
        }
        if let Part::Known(Assessment { evidence, .. }) = &mut report.assessment {
            for piece in evidence {
                piece.detail = self.text(&piece.detail);
            }
        }
        if let Part::Known(audit) = &mut report.audit {
            audit.finding = audit.finding.take().map(|finding| self.text(&finding));
        }
    }
}

/// `text` with `name` struck out where it is a word of its own.
fn without(text: &str, name: &str) -> String {
    let of_name = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    let mut struck = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(name) {
        let (before, from) = rest.split_at(start);
        let after = &from[name.len()..];
        let in_word = before.ends_with(of_name) || after.starts_with(of_name);
        struck.push_str(before);
        struck.push_str(if in_word { name } else { NAME });
        rest = after;
    }
    struck + rest
}

/// Whether a word is a network address, with a port or a full stop behind it or without.
fn is_address(word: &str) -> bool {
    let word = word.trim_end_matches(['.', ':']);
    let (host, port) = word.rsplit_once(':').unwrap_or((word, ""));
    let is_v4 = |text: &str| text.parse::<Ipv4Addr>().is_ok();
    // A PCI address has the shape of none: too few colons, or a dot.
    let is_v6 = word.parse::<Ipv6Addr>().is_ok();
    is_v6 || is_v4(word) || is_v4(host) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_struck_out_and_nothing_else_is() {
        let names = [
            "web1".to_owned(),
            "web1.example.net\n".to_owned(),
            String::new(),
        ];
        let redactor = Redactor::new(names);
        let table = [
            ("refused by web1.example.net.", "refused by (host)."),
            ("web1: reset", "(host): reset"),
            ("web10 and cobweb1 stay", "web10 and cobweb1 stay"),
            ("peer 10.1.2.3:9004 hung up", "peer (address) hung up"),
            ("from 192.168.0.1.", "from (address)"),
            ("[fe80::1]:443, ::1", "[(address)]:443, (address)"),
            ("pci:0000:3b:00.0 is gone", "pci:0000:3b:00.0 is gone"),
            (
                "at 19:36:46.531, 1.2.3 of 4.5 s",
                "at 19:36:46.531, 1.2.3 of 4.5 s",
            ),
            ("firmware v1.2.3.4a", "firmware v1.2.3.4a"),
        ];
        for (text, expected) in table {
            assert_eq!(redactor.text(text), expected, "{text}");
        }
    }
}
