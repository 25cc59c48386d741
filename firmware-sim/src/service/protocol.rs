//! What clients say to the service and what they are answered: one line of text each.
//!
//! | command | answer |
//! |---|---|
//! | `open [MODULE]` | `ok session N`; the only module is 1 |
//! | `kat SESSION` | `ok kat ecdsa-p256-sha256 passed`: a known-answer test, a signature; or `error kat-failed ...` |
//! | `close SESSION` | `ok closed N` |
//! | `enquiry` | `ok lines N`, and N lines as the vendor's program of that name prints them |
//! | `stattree [NODE ...]` | the same; `stattree PerModule 1 ModuleObjStats` is a part of the tree |
//! | `quit` | `ok bye`, and the connection ends |
//!
//! Whatever cannot be done is answered with `error CODE MESSAGE`. A client has one request under
//! way at a time; what it sends meanwhile waits. Sessions end with their connection, and with the
//! card.

use crate::nearest::hint;
use std::fmt;

const COMMANDS: [&str; 6] = ["open", "kat", "close", "enquiry", "stattree", "quit"];
/// The number of the only card.
pub(super) const MODULE: u32 = 1;

/// What a client wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Command {
    /// Something that the card has to do.
    Request(Request),
    Enquiry,
    /// Which part of the tree.
    Stattree(Vec<String>),
    Quit,
}

/// What goes to the card, and so through a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Request {
    Open { module: u32 },
    Kat { session: u64 },
    Close { session: u64 },
}

impl Command {
    /// Parses a line.
    pub(super) fn parse(line: &str) -> Result<Self, Refusal> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let arguments: Vec<_> = words.collect();
        let command = match (name, &arguments[..]) {
            ("open", []) => Self::Request(Request::Open { module: MODULE }),
            ("open", [module]) => Self::Request(Request::Open {
                module: number("MODULE", module)?,
            }),
            ("kat", [session]) => Self::Request(Request::Kat {
                session: number("SESSION", session)?,
            }),
            ("close", [session]) => Self::Request(Request::Close {
                session: number("SESSION", session)?,
            }),
            ("enquiry", []) => Self::Enquiry,
            ("stattree", path) => {
                Self::Stattree(path.iter().map(|&node| node.to_owned()).collect())
            }
            ("quit", []) => Self::Quit,
            _ => return Err(Refusal::misunderstood(name)),
        };
        Ok(command)
    }
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal {
        code: Code::BadArgument,
        message: format!("{what} must be a number, not `{text}`"),
    })
}

/// Why a command is not done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    fn misunderstood(name: &str) -> Self {
        if COMMANDS.contains(&name) {
            return Self::new(
                Code::BadArgument,
                format!("wrong number of arguments for `{name}`"),
            );
        }
        let hint = hint(name, COMMANDS);
        Self::new(
            Code::UnknownCommand,
            format!("there is no command `{name}`; {hint}"),
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code {
            Code::UnknownCommand => "unknown-command",
            Code::BadArgument => "bad-argument",
            Code::LineTooLong => "line-too-long",
            Code::NoCard => "no-card",
            Code::NoModule => "no-module",
            Code::NoSession => "no-session",
            Code::NoNode => "no-node",
            Code::Resources => "resources",
            Code::KatFailed => "kat-failed",
        };
        write!(f, "error {code} {}", self.message)
    }
}

/// The kind of a [`Refusal`], for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    UnknownCommand,
    BadArgument,
    LineTooLong,
    NoCard,
    NoModule,
    NoSession,
    NoNode,
    Resources,
    KatFailed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_their_arguments() {
        let cases = [
            ("open", Command::Request(Request::Open { module: 1 })),
            (" open  7 ", Command::Request(Request::Open { module: 7 })),
            ("kat 3", Command::Request(Request::Kat { session: 3 })),
            ("close 3", Command::Request(Request::Close { session: 3 })),
            ("enquiry", Command::Enquiry),
            (
                "stattree PerModule 1",
                Command::Stattree(vec!["PerModule".to_owned(), "1".to_owned()]),
            ),
            ("quit", Command::Quit),
        ];
        for (line, command) in cases {
            assert_eq!(Command::parse(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_misunderstood_is_named_with_what_was_probably_meant() {
        let cases = [
            (
                "stattre",
                "error unknown-command there is no command `stattre`; did you mean `stattree`?",
            ),
            (
                "",
                "error unknown-command there is no command ``; there are `open`, `kat`, `close`, \
                 `enquiry`, `stattree`, `quit`",
            ),
            (
                "kat",
                "error bad-argument wrong number of arguments for `kat`",
            ),
            (
                "close x",
                "error bad-argument SESSION must be a number, not `x`",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(Command::parse(line).unwrap_err().to_string(), message);
        }
    }
}
