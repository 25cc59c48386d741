//! What the figures were seen on, and how to see them again: the footer of a report.

use crate::cli::output::{Failure, Output};
use serde::Serialize;
use std::ffi::OsString;

/// Where and how a report came about.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// The processor's own name.
    pub(super) processor: String,
    /// Processors that this process may use.
    pub(super) cores: usize,
    /// The kernel.
    pub(super) kernel: String,
    /// Runnable processes in the minute before the run, on average: what else the machine did.
    pub(super) load_before: Option<f64>,
    /// The version of this program.
    pub(super) version: &'static str,
    /// The command line, fit for a shell.
    pub(super) command: String,
    /// Without optimisation nothing measured here means anything.
    pub(super) optimised: bool,
}

impl Machine {
    /// Looks at this one.
    pub(super) fn look() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let loadavg = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let uname = rustix::system::uname();
        Self {
            processor: processor(&cpuinfo),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            load_before: loadavg.split(' ').next().and_then(|load| load.parse().ok()),
            version: env!("CARGO_PKG_VERSION"),
            command: command(std::env::args_os()),
            optimised: !cfg!(debug_assertions),
        }
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let load = self.load_before.map_or_else(String::new, |load| {
            format!(", load {load:.1} before the run")
        });
        let optimised = match self.optimised {
            true => "",
            false => "; NOT OPTIMISED: build with --release",
        };
        format!(
            "{} x {}, {}{load}; hwshim {}{optimised}",
            self.cores, self.processor, self.kernel, self.version
        )
    }

    /// Says on standard error what makes all figures worthless.
    pub(super) fn warn(&self, output: &mut Output) -> Result<(), Failure> {
        match self.optimised {
            true => Ok(()),
            false => {
                output.warn("this program is not optimised: build it with --release to measure")
            }
        }
    }
}

fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == "model name").then(|| value.trim())
    });
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The command line as it can be given to a shell; of the program its name is enough.
fn command(arguments: impl Iterator<Item = OsString>) -> String {
    let words: Vec<_> = std::iter::once("hwshim".to_owned())
        .chain(
            arguments
                .skip(1)
                .map(|argument| quoted(&argument.to_string_lossy())),
        )
        .collect();
    words.join(" ")
}

fn quoted(argument: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,=@%+".contains(letter);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_a_name_is_called_by_its_architecture() {
        assert_eq!(processor("model name\t: A B\nmodel name\t: C\n"), "A B");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }

    #[test]
    fn a_command_can_be_given_to_a_shell_again() {
        let words = ["/usr/bin/hwshim", "bench", "vfio-user:my card", "it's", ""];
        assert_eq!(
            command(words.into_iter().map(OsString::from)),
            r"hwshim bench 'vfio-user:my card' 'it'\''s' ''"
        );
    }

    #[test]
    fn a_command_that_is_not_text_is_told_as_far_as_it_is() {
        use std::os::unix::ffi::OsStringExt;
        let words = [b"hwshim".to_vec(), b"--html=\xff.html".to_vec()];
        let told = command(words.into_iter().map(OsString::from_vec));
        assert_eq!(told, "hwshim '--html=\u{fffd}.html'");
    }
}
