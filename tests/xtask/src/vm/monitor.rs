//! QEMU's monitor: one command at a time, in the JSON protocol (QEMU `docs/interop/qmp-spec.rst`,
//! "QEMU Machine Protocol Specification"). Events are passed over: what happened is asked of the
//! guest.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A monitor answers at once, but the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The monitor of one QEMU.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
    version: String,
}

impl Monitor {
    /// Greets the monitor at the other end of `stream`.
    pub(super) fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
            version: String::new(),
        };
        let greeting = monitor.read()?;
        monitor.version = version(&greeting).context("QEMU's greeting names no version")?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// QEMU's version, `7.2.22` for instance.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Executes a command and returns what it returns.
    ///
    /// # Errors
    ///
    /// If QEMU refuses it or is gone.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").context("QEMU's monitor does not listen")?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Executes a command of the monitor for people, which has some that the other lacks, and
    /// returns what it printed.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`]. What it prints says whether it did anything.
    pub(crate) fn type_in(&mut self, line: &str) -> anyhow::Result<String> {
        let arguments = json!({ "command-line": line });
        let printed = self.execute("human-monitor-command", &arguments)?;
        Ok(printed.as_str().unwrap_or_default().trim().to_owned())
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        if read.context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU has closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said {line:?}"))
    }
}

fn version(greeting: &Value) -> Option<String> {
    let qemu = greeting.pointer("/QMP/version/qemu")?;
    let number = |name| qemu.get(name)?.as_u64();
    let (major, minor, micro) = (number("major")?, number("minor")?, number("micro")?);
    Some(format!("{major}.{minor}.{micro}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
        "package": "Debian"}, "capabilities": ["oob"]}}"#;

    /// A monitor that says `answers`, and what was said to it.
    fn converse(answers: &str, work: impl FnOnce(Monitor)) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let said = format!("{}\n{answers}", GREETING.replace('\n', " "));
        theirs.write_all(said.as_bytes()).unwrap();
        work(Monitor::new(ours).unwrap());
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        heard
    }

    #[test]
    fn events_between_a_command_and_its_answer_are_passed_over() {
        let answers =
            "{\"return\": {}}\n{\"event\": \"RESET\"}\n{\"return\": \"OK id: card\\r\\n\"}\n";
        let heard = converse(answers, |mut monitor| {
            assert_eq!(monitor.version(), "7.2.22");
            assert_eq!(monitor.type_in("info pci").unwrap(), "OK id: card");
        });
        assert!(heard.contains(r#""command-line":"info pci""#), "{heard}");
    }

    #[test]
    fn a_refused_command_and_a_monitor_that_is_gone_are_errors() {
        let answers = "{\"return\": {}}\n{\"error\": {\"desc\": \"no such device\"}}\n";
        converse(answers, |mut monitor| {
            let error = monitor.execute("device_del", &json!({})).unwrap_err();
            assert!(error.to_string().contains("no such device"), "{error}");
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = Monitor::new(ours).unwrap_err();
        assert!(error.to_string().contains("closed"), "{error}");
    }
}
