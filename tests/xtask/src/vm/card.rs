//! Our card for a guest: firmware-sim in a process of its own, and the options of QEMU for a
//! machine that has it.

use super::{Bench, root};
use crate::process::bound;
use anyhow::{Context, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// Where guests find it. QEMU puts a device of the root complex where it is told to.
pub(super) const BDF: &str = "0000:00:05.0";

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
        let mut command = bound(&bench.newest()?.firmware_sim);
        command.arg("run").arg("--socket").arg(&socket);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut process = child.context("firmware-sim could not be started")?;
        let stdout = process.stdout.take().expect("it was asked for");
        let card = Self { process, socket };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
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
