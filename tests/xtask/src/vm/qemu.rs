//! Which QEMU is started: one that is installed, or one that was unpacked from packages together
//! with all its libraries, by the loader among these.

use crate::process::{answers, bound, program};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

const PROGRAM: &str = "qemu-system-x86_64";

/// How to start a QEMU.
#[derive(Clone, Debug)]
pub(crate) enum Qemu {
    Installed,
    /// In this directory.
    Unpacked(PathBuf),
}

impl Qemu {
    /// The machine's own, if it has one.
    pub(super) fn installed() -> Option<Self> {
        let mut version = program(PROGRAM);
        version.arg("--version");
        answers(version).then_some(Self::Installed)
    }

    /// Starts it, as far as it is not about the machine.
    pub(super) fn command(&self) -> Command {
        let root = match self {
            Self::Installed => return bound(PROGRAM),
            Self::Unpacked(root) => root,
        };
        // Debian moved all libraries to /usr after bookworm.
        let [usr, old] =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|it| root.join(it));
        let loader = "ld-linux-x86-64.so.2";
        let with_loader = if usr.join(loader).exists() {
            &usr
        } else {
            &old
        };
        let mut libraries = OsString::from(&usr);
        libraries.push(":");
        libraries.push(&old);
        let mut command = bound(with_loader.join(loader));
        command
            .arg("--library-path")
            .arg(libraries)
            .arg(root.join("usr/bin").join(PROGRAM))
            // Emulation itself is a module of bookworm's.
            .env("QEMU_MODULE_DIR", usr.join("qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command
    }
}
