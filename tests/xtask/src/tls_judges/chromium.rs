//! A browser engine: Chromium, without a window, fetches a page through the terminator, and a part
//! of it by a script.
//!
//! It does not know the authority of the test, so the key of the certificate is pinned by its hash;
//! that the signature is of that key, it verifies as ever. What was negotiated is in its log.

use crate::outcome::{Outcome, Unavailable};
use crate::process::{answers, bound, output, program, root};
use crate::tls_stage::{Stage, backend, figure};
use crate::vm::apt::{Apt, Sources, Wanted};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds that it may take; it takes two, and more on a busy machine.
const SECONDS: &str = "90";
const PACKAGE: &str = "chromium";
/// What the page's script makes of the part that it fetches.
const ARRIVED: &str = "THE PART HAS ARRIVED";

/// Has it judge.
///
/// # Errors
///
/// If the page did not arrive whole; [`Unavailable`] if there is no Chromium to be had.
pub(super) fn judge() -> anyhow::Result<Outcome> {
    let (browser, version) = Browser::get()?;
    let stage = Stage::set(root().join("target/tls-judges"), false)?;
    let _card = stage.card()?;
    let serving = stage.terminator(backend::start(backend::Kind::Http)?)?;
    let url = format!("https://localhost:{}/", serving.port());
    let pin = pin(&stage.identity.certificate)?;
    let log = stage.directory.join("chromium.json");
    let dom = browser.dump(&stage.directory, &url, &pin, &log)?;
    ensure!(
        dom.contains(ARRIVED),
        "the page did not arrive whole: {dom}"
    );
    let negotiated = negotiated(&fs::read_to_string(&log).context("Chromium left no log")?)?;
    // Without the pin, nothing may arrive: it does look at the certificate.
    let stranger = browser.dump(&stage.directory, &url, &"A".repeat(43), &log)?;
    ensure!(
        !stranger.contains(ARRIVED),
        "it believes a certificate that it must not"
    );
    let report = serving.wait_for_report(|_| true)?;
    let by_card = figure(&report, "/signatures/card")?;
    ensure!(by_card > 0, "no signature came from the card: {report}");
    Ok(Outcome::Passed(format!(
        "{version}: {negotiated}; the DOM arrived, with what its script fetched; {by_card} signatures \
         by the card; another key was refused"
    )))
}

/// Where it is.
#[derive(Debug)]
enum Browser {
    Installed,
    /// Below this directory.
    Unpacked(PathBuf),
}

impl Browser {
    /// The machine's own, or else Debian's, unpacked below target/tools; and its version.
    fn get() -> anyhow::Result<(Self, String)> {
        let mut version = program(PACKAGE);
        version.arg("--version");
        let browser = if answers(version) {
            Self::Installed
        } else {
            Self::Unpacked(unpacked()?)
        };
        let mut version = browser.command();
        let version = output(version.arg("--version").stderr(Stdio::null()))
            .map_err(|error| Unavailable(format!("chromium does not run: {error}")))?;
        let words: Vec<_> = version.split_whitespace().take(2).collect();
        Ok((browser, words.join(" ")))
    }

    fn command(&self) -> Command {
        let mut command = bound("timeout");
        command.args(["--kill-after=5", SECONDS]);
        match self {
            Self::Installed => {
                command.arg(PACKAGE);
            }
            Self::Unpacked(root) => {
                let libraries = ["usr/lib", "lib"]
                    .map(|it| root.join(format!("{it}/{}-linux-gnu", env::consts::ARCH)));
                let libraries = env::join_paths(libraries).unwrap_or_default();
                command.arg(root.join("usr/lib/chromium/chromium"));
                command.env("LD_LIBRARY_PATH", libraries);
            }
        }
        command
    }

    /// Loads `url` believing the key with this hash, and returns the DOM as it is then.
    fn dump(&self, directory: &Path, url: &str, pin: &str, log: &Path) -> anyhow::Result<String> {
        let profile = directory.join("profile");
        if profile.exists() {
            fs::remove_dir_all(&profile).context("the last profile cannot be removed")?;
        }
        // Not a pipe: processes that Chromium leaves behind would hold it open.
        let page = directory.join("chromium.html");
        let stdout =
            File::create(&page).with_context(|| format!("{} cannot be written", page.display()))?;
        let mut command = self.command();
        command
            .args(["--headless=new", "--disable-gpu", "--no-first-run"])
            // Root may not have a sandbox, and all that is loaded is ours.
            .args(["--no-sandbox", "--disable-dev-shm-usage"])
            // Nobody else is called.
            .args(["--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--proxy-server=direct://"])
            .arg("--host-resolver-rules=MAP localhost 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--ignore-certificate-errors-spki-list={pin}"))
            .arg(format!("--log-net-log={}", log.display()))
            .args(["--virtual-time-budget=10000", "--dump-dom", url])
            .stdout(stdout)
            .stderr(Stdio::null());
        let status = command.status().context("timeout could not be started")?;
        ensure!(
            status.success(),
            "chromium ended with {status}, of {SECONDS} s that it had"
        );
        let dom = fs::read(&page).context("the page that Chromium printed cannot be read")?;
        Ok(String::from_utf8_lossy(&dom).into_owned())
    }
}

/// Debian's, with all its libraries but the C library, which is the machine's: they are of one
/// release, and the program starts itself again for each page, without a loader that we name.
fn unpacked() -> anyhow::Result<PathBuf> {
    let directory = root().join("target/tools/chromium");
    if !directory.is_dir() {
        println!("downloading chromium");
        let apt = Apt::new(root().join("target/tools/apt"), Sources::Machine)?;
        apt.unpack(&[Wanted::WithDependencies(PACKAGE)], &directory)?;
        for place in ["usr/lib", "lib"] {
            remove_c_library(&directory.join(format!("{place}/{}-linux-gnu", env::consts::ARCH)))?;
        }
    }
    Ok(directory)
}

fn remove_c_library(directory: &Path) -> anyhow::Result<()> {
    const FILES: [&str; 9] = [
        "ld-linux-x86-64.so.2",
        "libc.so.6",
        "libdl.so.2",
        "libm.so.6",
        "libmvec.so.1",
        "libpthread.so.0",
        "libresolv.so.2",
        "librt.so.1",
        "libutil.so.1",
    ];
    for file in FILES {
        let path = directory.join(file);
        if path.exists() {
            fs::remove_file(&path)
                .with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// The SHA-256 of a certificate's public key, as base64.
fn pin(certificate: &Path) -> anyhow::Result<String> {
    let mut shell = program("sh");
    shell
        .args([
            "-c",
            "openssl x509 -noout -pubkey -in \"$1\" | openssl pkey -pubin -outform DER | \
             openssl dgst -sha256 -binary | openssl base64",
            "sh",
        ])
        .arg(certificate);
    let pin = output(&mut shell)?.trim().to_owned();
    ensure!(pin.len() == 44, "openssl makes no hash of the key: {pin:?}");
    Ok(pin)
}

/// Version and cipher suite, from the log of what it did on the network.
fn negotiated(log: &str) -> anyhow::Result<String> {
    let log: Value = serde_json::from_str(log).context("Chromium's log is not JSON")?;
    let events = log["events"].as_array();
    let events = events.context("Chromium's log has no events")?;
    let handshake = events.iter().map(|event| &event["params"]);
    let handshake = handshake
        .filter(|it| it["cipher_suite"].is_u64())
        .find_map(|it| Some((it["version"].as_str()?, it["cipher_suite"].as_u64()?)));
    let Some((version, suite)) = handshake else {
        bail!("Chromium's log has no handshake");
    };
    Ok(format!("{version}, cipher suite {suite:#06x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_negotiated_is_in_the_log() {
        let log = r#"{"events": [{"type": 1}, {"params": {"version": "TLS 1.3", "cipher_suite": 4865}}]}"#;
        assert_eq!(negotiated(log).unwrap(), "TLS 1.3, cipher suite 0x1301");
        for silent in [
            r#"{"events": []}"#,
            r#"{"events": [{"params": {"version": "1"}}]}"#,
            "{}",
            "x",
        ] {
            negotiated(silent).unwrap_err();
        }
    }
}
