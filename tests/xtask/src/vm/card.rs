//! Our card for a guest: firmware-sim in a process of its own, and the options of QEMU for a
//! machine that has it.

use super::guest::Guest;
use super::{Bench, root};
use crate::process::bound;
use anyhow::{Context, ensure};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// It listens at once, but the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where guests find it. QEMU puts a device of the root complex where it is told to.
pub(super) const BDF: &str = "0000:00:05.0";

/// Where the health page has the count of requests that were answered well (hwshim/spec/src/health.rs).
const REQUESTS_OK: u64 = 0x0b0;

/// Memory that is shared with the card's process, which reads requests from it.
const MEMORY: &str = "memory-backend-memfd,id=memory,size=512M,share=on";

/// The card's process. It ends with its owner.
#[derive(Debug)]
pub(super) struct Card {
    process: Child,
    /// Relative to the top of the repository, because paths of sockets may not be long.
    socket: PathBuf,
}

impl Card {
    /// Starts a card for the case `name`, and waits until it listens.
    pub(super) fn start(bench: &Bench, name: &str) -> anyhow::Result<Self> {
        let logs = bench.logs(name);
        fs::create_dir_all(&logs)?;
        let logs = logs.strip_prefix(root())?;
        let socket = logs.join("card.sock");
        let mut command = bound(bench.programs.join("firmware-sim"));
        command.arg("run").arg("--socket").arg(&socket);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut process = child.context("firmware-sim could not be started")?;
        let stdout = process.stdout.take().expect("it was asked for");
        let card = Self { process, socket };
        let line = first_line(stdout, TIMEOUT)?;
        ensure!(line.contains("listening"), "firmware-sim said: {line:?}");
        Ok(card)
    }

    /// Options for a machine without an IOMMU.
    pub(super) fn plain_machine(&self) -> Vec<String> {
        self.machine("q35,memory-backend=memory", &[])
    }

    /// Options for a machine with an IOMMU in front of the card.
    pub(super) fn machine_with_iommu(&self) -> Vec<String> {
        let machine = "q35,kernel-irqchip=split,memory-backend=memory";
        self.machine(machine, &["intel-iommu,intremap=on,caching-mode=on"])
    }

    fn machine(&self, machine: &str, before: &[&str]) -> Vec<String> {
        let device = serde_json::json!({
            "driver": "vfio-user-pci",
            "addr": "5",
            "socket": { "type": "unix", "path": self.socket },
        });
        let mut options = ["-object", MEMORY, "-machine", machine]
            .map(str::to_owned)
            .to_vec();
        let devices = before.iter().map(|device| (*device).to_owned());
        for device in devices.chain([device.to_string()]) {
            options.extend(["-device".to_owned(), device]);
        }
        options
    }

    /// Where the machine of `guest` has its health page.
    pub(super) fn health_page(guest: &mut Guest) -> anyhow::Result<u64> {
        let bars = guest.succeed(&format!("cat /sys/bus/pci/devices/{BDF}/resource"))?;
        health_page(&bars).with_context(|| format!("the card has no BAR2: {bars}"))
    }

    /// How many requests it has answered well by its own count, as far as the machine of `guest` can
    /// read that: none while nobody has the card in use. The guest itself may stand still.
    pub(super) fn answered(guest: &mut Guest, health_page: u64) -> anyhow::Result<u64> {
        let counter = health_page + REQUESTS_OK;
        let dump = guest.monitor().type_in(&format!("xp /1gx {counter:#x}"))?;
        Ok(dumped(&dump).unwrap_or_default())
    }

    /// Ends it as a crash or a broken power supply would.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.kill();
        let _ = fs::remove_file(root().join(&self.socket));
    }
}

/// The address of BAR2, which has the health page, in what Linux prints of a function's BARs: each
/// line has start, end and flags.
fn health_page(bars: &str) -> Option<u64> {
    let start = bars.lines().nth(2)?.split(' ').next()?;
    let start = u64::from_str_radix(start.strip_prefix("0x")?, 16).ok()?;
    (start != 0).then_some(start)
}

/// The number in what QEMU's monitor prints of memory, if there was anything to read.
fn dumped(dump: &str) -> Option<u64> {
    let (_, number) = dump.split_once(": 0x")?;
    let number = u64::from_str_radix(number.trim(), 16).ok()?;
    (number != u64::MAX).then_some(number)
}

/// The first line of what is printed, read in a thread of its own, so that waiting for it can end.
fn first_line(printed: impl Read + Send + 'static, timeout: Duration) -> anyhow::Result<String> {
    let (sender, read) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(printed).read_line(&mut line).map(|_| line);
        // Nobody waits for it any more if it comes late.
        let _ = sender.send(read);
    });
    let line = read
        .recv_timeout(timeout)
        .with_context(|| format!("firmware-sim said nothing within {timeout:?}"))?;
    Ok(line?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_card_that_says_nothing_is_not_waited_for_for_ever() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let error = first_line(ours, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("nothing within"), "{error}");
        drop(theirs);
        assert_eq!(first_line(&b""[..], TIMEOUT).unwrap(), "");
        let line = first_line(&b"listening\nmore\n"[..], TIMEOUT).unwrap();
        assert_eq!(line, "listening\n");
    }

    #[test]
    fn the_count_is_read_where_linux_says_and_only_if_there_is_one() {
        let bars = "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x00000000fe004000 0x00000000fe004fff 0x0000000000140204\n";
        assert_eq!(health_page(bars), Some(0xfe00_4000));
        assert_eq!(health_page(&bars.replace("fe004", "00000")), None);
        assert_eq!(health_page(""), None);
        let dump = "00000000fe0040b0: 0x000000000000002a\r\n";
        assert_eq!(dumped(dump), Some(42));
        assert_eq!(
            dumped(&dump.replace("000000000000002a", "ffffffffffffffff")),
            None
        );
        assert_eq!(dumped("Cannot access memory"), None);
    }
}
