//! Thousands of unusual and malformed handshakes, each with the terminator and with plain rustls,
//! which have to make the same of it.
//!
//! `conversations.py` holds them; here it is given a tlslite-ng below target/tools, and its
//! findings are counted.

use super::plain;
use crate::outcome::{Outcome, Unavailable};
use crate::process::{answers, bound, output, program, root};
use crate::tls_stage::{Stage, backend, figure};
use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use std::path::PathBuf;

/// The version that figures are of.
const PACKAGE: &str = "tlslite-ng==0.8.2";
const SCRIPT: &str = "tests/xtask/src/tls_judges/conversations.py";
/// Fewer were not all held.
const AT_LEAST: usize = 3500;

/// A conversation, and what the terminator and rustls made of it.
#[derive(Debug, Deserialize)]
struct Held {
    group: String,
    name: String,
    said: Vec<String>,
}

/// Conversations of a kind.
#[derive(Debug, Default, PartialEq)]
struct Group<'a> {
    name: &'a str,
    held: usize,
    /// A ServerHello, or a HelloRetryRequest, with no alert behind it.
    taken: usize,
    /// An alert.
    refused: usize,
    differing: usize,
}

/// Holds them all.
///
/// # Errors
///
/// If the servers differ; [`Unavailable`] if tlslite-ng cannot be had.
pub(super) fn judge() -> anyhow::Result<Outcome> {
    let tlslite = tlslite()?;
    let stage = Stage::set(root().join("target/tls-judges"), false)?;
    let _card = stage.card()?;
    let serving = stage.terminator(backend::start(backend::Kind::Echo)?)?;
    let plain = plain::start(&stage.identity)?;
    let mut python = bound("python3");
    python
        .arg(root().join(SCRIPT))
        .args([serving.port(), plain.port()].map(|port| port.to_string()))
        .env("PYTHONPATH", tlslite)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let lines = output(&mut python)?;
    let held = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Held>, _>>()
        .context("conversations.py printed something else than JSON")?;
    let groups = groups(&held);
    print(&groups);
    let report = serving.wait_for_report(|_| true)?;
    let by_card = figure(&report, "/signatures/card")?;
    ensure!(by_card > 0, "no signature came from the card: {report}");
    let sum = |count: fn(&Group<'_>) -> usize| groups.iter().map(count).sum::<usize>();
    let (all, differing) = (sum(|it| it.held), sum(|it| it.differing));
    ensure!(all >= AT_LEAST, "only {all} conversations were held");
    if differing > 0 {
        for Held { group, name, said } in held.iter().filter(|it| differs(it)) {
            println!(
                "{group}, {name}:\n  serve-tls  {}\n  rustls     {}",
                said[0], said[1]
            );
        }
        bail!("serve-tls and plain rustls differ in {differing} of {all} conversations");
    }
    Ok(Outcome::Passed(format!(
        "serve-tls does as plain rustls in all {all} conversations ({PACKAGE}): {} taken, {} refused; \
         {by_card} signatures by the card",
        sum(|it| it.taken),
        sum(|it| it.refused)
    )))
}

/// Where tlslite-ng is; installed there, if it is not.
fn tlslite() -> anyhow::Result<PathBuf> {
    let directory = root().join("target/tools/tlslite");
    let there = || {
        let mut python = program("python3");
        python.args(["-c", "import tlslite.api"]);
        answers({
            python.env("PYTHONPATH", &directory);
            python
        })
    };
    if !there() {
        println!("installing {PACKAGE} below target/tools");
        let mut pip = program("python3");
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
            .args(["install", "--upgrade", PACKAGE, "--target"])
            .arg(&directory);
        if !answers(pip) || !there() {
            return Err(Unavailable(format!("pip could not install {PACKAGE}")).into());
        }
    }
    Ok(directory)
}

fn differs(held: &Held) -> bool {
    held.said.len() != 2 || held.said[0] != held.said[1]
}

/// Counts, in the order in which they were held.
fn groups(held: &[Held]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for each in held {
        let at = groups.iter().position(|it| it.name == each.group);
        let at = at.unwrap_or_else(|| {
            groups.push(Group {
                name: &each.group,
                ..Group::default()
            });
            groups.len() - 1
        });
        let group = &mut groups[at];
        let said = each.said.first().map_or("", String::as_str);
        group.held += 1;
        if said.contains("alert") {
            group.refused += 1;
        } else if ["server_hello", "hello_retry", "echo"]
            .iter()
            .any(|it| said.contains(it))
        {
            group.taken += 1;
        }
        group.differing += usize::from(differs(each));
    }
    groups
}

fn print(groups: &[Group<'_>]) {
    println!(
        "{:<22} {:>6} {:>7} {:>9} {:>7} {:>8}",
        "conversations", "held", "taken", "refused", "ended", "differ"
    );
    for group in groups {
        println!(
            "{:<22} {:>6} {:>7} {:>9} {:>7} {:>8}",
            group.name,
            group.held,
            group.taken,
            group.refused,
            group.held - group.taken - group.refused,
            group.differing
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(group: &str, said: [&str; 2]) -> Held {
        Held {
            group: group.to_owned(),
            name: "a conversation".to_owned(),
            said: said.map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn servers_that_do_not_say_the_same_differ() {
        let taken = "server_hello 1301, encrypted, closed";
        let all = [
            held("first", [taken, taken]),
            held("first", ["alert decode_error, closed", taken]),
            held("second", ["closed", "closed"]),
        ];
        let [first, second] = &groups(&all)[..] else {
            panic!("two groups");
        };
        assert_eq!(
            (first.held, first.taken, first.refused, first.differing),
            (2, 1, 1, 1)
        );
        assert_eq!(
            (second.held, second.taken, second.refused, second.differing),
            (1, 0, 0, 0)
        );
    }

    #[test]
    fn who_was_not_asked_differs() {
        let mut one = held("first", ["closed", "closed"]);
        one.said.pop();
        assert!(differs(&one));
    }
}
