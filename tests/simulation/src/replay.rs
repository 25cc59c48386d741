//! The one command that lives through a plan again.
//!
//! It says what goes wrong and does not have it drawn anew, so it means the same run whatever may
//! be drawn by then: the seed is only for what callers ask, and for how long the phases take.

use crate::plan::Plan;
use crate::world::Failure;

impl Failure {
    /// The command that replays the run.
    #[must_use]
    pub fn replay(&self) -> String {
        self.plan.replay()
    }
}

impl Plan {
    /// The command that replays it, as a shell takes it.
    #[must_use]
    pub fn replay(&self) -> String {
        let mut command = format!("cargo xtask simulate --runs 1 --seed {}", self.seed);
        match &self.scenario {
            Some(scenario) => {
                let address = scenario.address();
                command.push_str(&format!(" --scenario {}", quoted(&address)));
            }
            None if self.incidents.is_empty() => command.push_str(" --healthy"),
            None => {
                for incident in &self.incidents {
                    let incident = incident.to_string();
                    command.push_str(&format!(" --incident {}", quoted(&incident)));
                }
            }
        }
        if self.is_watched {
            command.push_str(" --watched");
        }
        if self.is_cheap {
            command.push_str(" --cheap");
        }
        if self.is_weighed {
            command.push_str(" --weighed");
        }
        if self.in_eights {
            command.push_str(" --eights");
        }
        if let Some(peaks) = self.peaks {
            command.push_str(&format!(" --peaks {peaks}"));
        }
        command
    }
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./,=+@:".contains(&byte);
    if text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("hang@steady+5s+1m"), "hang@steady+5s+1m");
        assert_eq!(quoted("hang@steady+5s+1m*0.5"), "'hang@steady+5s+1m*0.5'");
        assert_eq!(quoted("it's.toml"), r"'it'\''s.toml'");
    }
}
