//! What the service says of itself: counters, and the vendor's two ways to print them.
//!
//! The forms are those of nShield (Security World documentation, Utilities, "stattree" and
//! "enquiry"); the numbers are this service's. Of the vendor's counters, only those stand here for
//! which this service has counted something. Memory and objects are its own, as it has no
//! firmware.

use std::fmt::Write;

/// Counters, each of which only grows unless it says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    /// Requests that went to a worker.
    pub(super) requests: u64,
    /// Requests that came back.
    pub(super) replies: u64,
    /// Lines of clients, whatever they said.
    pub(super) commands: u64,
    /// Answers to them.
    pub(super) answers: u64,
    /// Most clients at once.
    pub(super) clients_max: u64,
    /// Sessions opened.
    pub(super) sessions_opened: u64,
    /// Sessions closed.
    pub(super) sessions_closed: u64,
    /// Opens that failed.
    pub(super) opens_failed: u64,
    /// How often the card was lost.
    pub(super) card_lost: u64,
    /// How often it came back.
    pub(super) card_returned: u64,
}

/// Everything that is printed, besides the counters.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) serial: &'a str,
    pub(super) card_is_present: bool,
    pub(super) uptime_seconds: u64,
    pub(super) clients: &'a [ClientFacts],
    /// What has leaked, as far as it is admitted.
    pub(super) leaked: super::hoard::Amounts,
    /// Objects that leaked and were given back since.
    pub(super) leaked_and_freed: u64,
    /// Ports of closed sessions that are not released yet, as far as it is admitted.
    pub(super) recycling: u64,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientFacts {
    pub(super) id: u64,
    pub(super) uptime_seconds: u64,
    pub(super) commands: u64,
}

/// The tree of statistics.
#[derive(Debug)]
pub(super) enum Node {
    Branch(String, Vec<Self>),
    Leaf(&'static str, String),
}

impl Node {
    /// The part of a tree that a path leads to. `1` stands for the instance `#1`.
    pub(super) fn find(self, path: &[String]) -> Result<Self, String> {
        let mut node = self;
        for wanted in path {
            let Self::Branch(name, children) = node else {
                return Err(format!(
                    "nothing is below a statistic, so there is no `{wanted}`"
                ));
            };
            let is_wanted = |child: &Self| {
                child.name() == wanted || child.name().strip_prefix('#') == Some(wanted)
            };
            node = match children.into_iter().find(is_wanted) {
                Some(child) => child,
                None => return Err(format!("there is no `{wanted}` below `{name}`")),
            };
        }
        Ok(node)
    }

    fn name(&self) -> &str {
        match self {
            Self::Branch(name, _) => name,
            Self::Leaf(name, _) => name,
        }
    }

    /// As `stattree` prints it, three blanks per level. The root, which has no name, is not shown.
    pub(super) fn print(&self) -> String {
        let mut text = String::new();
        match self {
            Self::Branch(name, children) if name.is_empty() => {
                children
                    .iter()
                    .for_each(|child| child.print_at(0, &mut text));
            }
            node => node.print_at(0, &mut text),
        }
        text
    }

    fn print_at(&self, level: usize, text: &mut String) {
        let indent = 3 * level;
        let written = match self {
            Self::Branch(name, _) => writeln!(text, "{:indent$}+{name}:", ""),
            Self::Leaf(name, value) => writeln!(text, "{:indent$}-{name:<20} {value}", ""),
        };
        written.expect("a string takes everything");
        if let Self::Branch(_, children) = self {
            for child in children {
                child.print_at(level + 1, text);
            }
        }
    }
}

fn branch(name: impl Into<String>, children: Vec<Node>) -> Node {
    Node::Branch(name.into(), children)
}

fn leaf(name: &'static str, value: impl ToString) -> Node {
    Node::Leaf(name, value.to_string())
}

/// The whole tree.
pub(super) fn stattree(facts: &Facts<'_>) -> Node {
    let ledger = facts.ledger;
    let globals = vec![
        leaf("Uptime", facts.uptime_seconds),
        leaf("CmdCount", ledger.commands),
        leaf("ReplyCount", ledger.answers),
        leaf("ClientCount", facts.clients.len()),
        leaf("MaxClients", ledger.clients_max),
        leaf("DeviceFails", ledger.card_lost),
        leaf("DeviceRestarts", ledger.card_returned),
    ];
    let connections = facts.clients.iter().map(|client| {
        let statistics = vec![
            leaf("Uptime", client.uptime_seconds),
            leaf("CmdCount", client.commands),
        ];
        branch(format!("#{}", client.id), statistics)
    });
    branch(
        "",
        vec![
            branch("ServerGlobals", globals),
            branch("Connections", connections.collect()),
            branch("PerModule", vec![branch("#1", module(facts))]),
        ],
    )
}

fn module(facts: &Facts<'_>) -> Vec<Node> {
    let Facts {
        ledger,
        leaked,
        leaked_and_freed,
        recycling,
        ..
    } = facts;
    let created = ledger.sessions_opened + leaked.objects() + leaked_and_freed;
    let destroyed = ledger.sessions_closed - recycling + leaked_and_freed;
    vec![
        branch(
            "ModuleObjStats",
            vec![
                leaf("ObjectCount", created - destroyed),
                leaf("ObjectsCreated", created),
                leaf("ObjectsDestroyed", destroyed),
            ],
        ),
        branch(
            "ModuleEnvStats",
            vec![
                leaf("SerialNumber", facts.serial),
                leaf("MemAllocKernel", leaked.kernel_bytes),
                leaf("MemAllocUser", leaked.heap_bytes),
            ],
        ),
        branch(
            "ModuleJobStats",
            vec![
                leaf("CmdCount", ledger.requests),
                leaf("ReplyCount", ledger.replies),
            ],
        ),
        branch(
            "ModuleServerStats",
            vec![leaf("JobsOutstanding", ledger.requests - ledger.replies)],
        ),
    ]
}

/// As `enquiry` prints it. A card that is not there has no section.
pub(super) fn enquiry(facts: &Facts<'_>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut sections = vec![(
        "Server:",
        vec![
            ("enquiry reply flags", "none"),
            ("enquiry reply level", "Six"),
            ("serial number", facts.serial),
            ("mode", "operational"),
            ("version", version),
        ],
    )];
    if facts.card_is_present {
        sections.push((
            "Module #1:",
            vec![
                ("enquiry reply flags", "none"),
                ("enquiry reply level", "Six"),
                ("serial number", facts.serial),
                ("mode", "operational"),
                ("version", version),
                ("product name", "firmware-sim"),
                ("hardware status", "OK"),
            ],
        ));
    }
    let mut text = String::new();
    for (heading, fields) in sections {
        text += heading;
        text.push('\n');
        for (name, value) in fields {
            writeln!(text, " {name:<20} {value}").expect("a string takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::hoard::Amounts;

    fn facts<'a>(ledger: &'a Ledger, clients: &'a [ClientFacts]) -> Facts<'a> {
        Facts {
            ledger,
            serial: "SIM-7",
            card_is_present: true,
            uptime_seconds: 61,
            clients,
            leaked: Amounts {
                heap_bytes: 4096,
                kernel_bytes: 8192,
                descriptors: 1,
                threads: 2,
                ports: 4,
            },
            leaked_and_freed: 10,
            recycling: 1,
        }
    }

    fn ledger() -> Ledger {
        Ledger {
            requests: 20,
            replies: 17,
            commands: 40,
            answers: 36,
            clients_max: 3,
            sessions_opened: 5,
            sessions_closed: 3,
            opens_failed: 6,
            card_lost: 2,
            card_returned: 1,
        }
    }

    /// The form is that of nShield's manual, "stattree".
    #[test]
    fn statistics_are_printed_as_a_tree() {
        let clients = [ClientFacts {
            id: 4,
            uptime_seconds: 9,
            commands: 13,
        }];
        let tree = stattree(&facts(&ledger(), &clients)).print();
        let expected = "\
+ServerGlobals:
   -Uptime               61
   -CmdCount             40
   -ReplyCount           36
   -ClientCount          1
   -MaxClients           3
   -DeviceFails          2
   -DeviceRestarts       1
+Connections:
   +#4:
      -Uptime               9
      -CmdCount             13
+PerModule:
   +#1:
      +ModuleObjStats:
         -ObjectCount          10
         -ObjectsCreated       22
         -ObjectsDestroyed     12
      +ModuleEnvStats:
         -SerialNumber         SIM-7
         -MemAllocKernel       8192
         -MemAllocUser         4096
      +ModuleJobStats:
         -CmdCount             20
         -ReplyCount           17
      +ModuleServerStats:
         -JobsOutstanding      3
";
        assert_eq!(tree, expected);
    }

    #[test]
    fn a_part_of_the_tree_can_be_asked_for() {
        let find = |path: &[&str]| {
            let path: Vec<_> = path.iter().map(|&node| node.to_owned()).collect();
            stattree(&facts(&ledger(), &[]))
                .find(&path)
                .map(|node| node.print())
        };
        let expected = "+ModuleServerStats:\n   -JobsOutstanding      3\n";
        assert_eq!(
            find(&["PerModule", "1", "ModuleServerStats"]).unwrap(),
            expected
        );
        assert_eq!(
            find(&["ServerGlobals", "Uptime"]).unwrap(),
            "-Uptime               61\n"
        );
        assert!(
            find(&["PerModule", "2"])
                .unwrap_err()
                .contains("no `2` below `PerModule`")
        );
        find(&["ServerGlobals", "Uptime", "x"]).unwrap_err();
    }

    /// The form is that of nShield's manual, "enquiry".
    #[test]
    fn an_enquiry_lists_the_server_and_each_card_that_is_there() {
        let ledger = ledger();
        let mut facts = facts(&ledger, &[]);
        let text = enquiry(&facts);
        assert!(
            text.starts_with("Server:\n enquiry reply flags  none\n enquiry reply level  Six\n")
        );
        assert!(text.contains("Module #1:\n") && text.contains("\n hardware status      OK\n"));
        facts.card_is_present = false;
        assert!(!enquiry(&facts).contains("Module"));
    }
}
