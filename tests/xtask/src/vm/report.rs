//! What a guest answers on its second serial port, taken apart. No I/O.
//!
//! ```text
//! #ready              once, when it is up
//! 1 and a line        of standard output
//! 2 and a line        of standard error
//! =0                  the command has ended with this status: the answer is complete
//! ```

use anyhow::{Context, bail};
use serde_json::Value;

/// What became of one command in a guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// The answer, if the command succeeded.
    ///
    /// # Errors
    ///
    /// What it printed on standard error.
    pub(crate) fn success(self) -> anyhow::Result<Self> {
        if self.status != 0 {
            bail!("exit code {}: {}", self.status, self.stderr.trim_end());
        }
        Ok(self)
    }

    /// The JSON document that it printed, however it ended.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("no JSON document, but: {} {}", self.stdout, self.stderr))
    }
}

/// A line of a report, understood.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Event {
    Ready,
    Answered(Answer),
}

/// Collects lines until they are an answer.
#[derive(Debug, Default)]
pub(super) struct Parser {
    answer: Answer,
}

impl Parser {
    /// Takes the next line. `None` if the answer goes on.
    ///
    /// # Errors
    ///
    /// If no guest of ours prints such a line.
    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<Option<Event>> {
        let Self { answer } = self;
        let mut append = |to: fn(&mut Answer) -> &mut String, text| {
            let to = to(answer);
            to.push_str(text);
            to.push('\n');
        };
        if let Some(text) = line.strip_prefix('1') {
            append(|answer| &mut answer.stdout, text);
        } else if let Some(text) = line.strip_prefix('2') {
            append(|answer| &mut answer.stderr, text);
        } else if let Some(status) = line.strip_prefix('=') {
            answer.status = status
                .parse()
                .with_context(|| format!("{status:?} is no exit code"))?;
            return Ok(Some(Event::Answered(std::mem::take(answer))));
        } else if line == "#ready" {
            return Ok(Some(Event::Ready));
        } else {
            bail!("the guest's report has a line it should not have: {line:?}");
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event among `lines`.
    fn events(lines: &[&str]) -> anyhow::Result<Vec<Event>> {
        let mut parser = Parser::default();
        let events = lines.iter().map(|line| parser.line(line));
        Ok(events
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    #[test]
    fn an_answer_ends_with_its_exit_code() {
        let lines = ["#ready", "1{", "2warning", "1}", "=0", "=127"];
        let first = Answer {
            status: 0,
            stdout: "{\n}\n".to_owned(),
            stderr: "warning\n".to_owned(),
        };
        let second = Answer {
            status: 127,
            ..Answer::default()
        };
        let expected = [
            Event::Ready,
            Event::Answered(first),
            Event::Answered(second),
        ];
        assert_eq!(events(&lines).unwrap(), expected);
    }

    #[test]
    fn an_answer_without_its_end_is_none() {
        assert_eq!(events(&["1half a", "1nd"]).unwrap(), []);
    }

    #[test]
    fn what_no_guest_prints_is_not_taken_for_an_answer() {
        for wrong in ["", "[    1.2] a line of the kernel", "=", "=zero", "#else"] {
            assert!(events(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_failed_command_says_what_it_complained_about() {
        let answer = Answer {
            status: 1,
            stdout: String::new(),
            stderr: "hwshim: no card\n".to_owned(),
        };
        let error = answer.success().unwrap_err().to_string();
        assert_eq!(error, "exit code 1: hwshim: no card");
    }
}
