//! The project's own commands, as `cargo xtask`. What CI runs is `cargo xtask test`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program reports on its standard streams"
)]

mod fuzz;
mod leaks;
mod memory;
mod multi_buffer;
mod openssl;
mod outcome;
mod process;
mod replay;
mod simulate;
mod test;
mod tls_faults;
mod tls_judges;
mod tls_stage;
mod unit;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything that CI runs: format, lints, tests, documentation, dependencies.
    ///
    /// Every step runs even if an earlier one failed, and a table at the end says how each went.
    /// Advisories about dependencies are a warning there, as they come without any change.
    /// What is missing is installed below target/tools (cargo-deny, once, for a minute or two); the
    /// last step is `cargo xtask vm` without what is only observed. Nothing on the machine is
    /// changed, and nothing takes root.
    Test,
    /// Has libFuzzer look for inputs that break the code that reads hostile input.
    ///
    /// Corpora are kept in target/fuzz/corpus and inputs that crash in target/fuzz/crashes, each
    /// with the command that replays it. Needs a C++ compiler; no nightly toolchain, no cargo-fuzz.
    Fuzz(fuzz::Arguments),
    /// Measures how well cardmon finds leaks, on what other people's machines recorded.
    ///
    /// On Debian. The archives of pcp-testsuite are downloaded by apt and unpacked below
    /// target/leaks: nothing on the machine is changed, and root is not needed. Leaks of several
    /// rates are added to what was recorded; what is paged without one is a false page.
    Leaks(leaks::Arguments),
    /// Has Miri, Valgrind and sanitizers watch each access to memory while tests run.
    ///
    /// A table at the end says how many tests each tool has watched; one that is not installed is
    /// skipped and says how to get it. Builds below target/memory, for minutes the first time.
    Memory,
    /// Gets Intel's crypto_mb, with which software:multi-buffer signs eight at a time.
    ///
    /// On Linux and x86-64. Downloads the package ipp-crypto-static by pip, compares it with the sum
    /// it had when it was looked at, and links the library into target/multi-buffer, where whatever
    /// cargo runs finds it. Its licence, Apache-2.0, is put beside it. Nothing on the machine is
    /// changed.
    MultiBuffer,
    /// Replays the stories that cardmon exists for, by real processes, and judges what it says.
    ///
    /// What an operator would ask is asked, and questions and answers are printed. Files are kept
    /// below target/replay. s1 and s4 take root and a control group that can be written; each is
    /// removed at the end. cost downloads Debian's prometheus-node-exporter by apt and unpacks it
    /// there.
    Replay(replay::Arguments),
    /// Lives through card-years with faults, in a simulation that repeats to the event.
    ///
    /// Each run is a seed: what callers ask, what goes wrong, when and for how long. At every step
    /// it is checked what must be true whatever happens; a run in which something is not prints
    /// the command that replays it. A table at the end says what was simulated and found.
    Simulate(simulate::Arguments),
    /// Has a card fail while thousands of clients shake hands, and says what became of each.
    ///
    /// The card behind `hwshim serve-tls` is killed, hangs, lies, is slow, comes and goes; every
    /// client verifies what it is signed. A table says how many handshakes failed (none may) and how
    /// long the longest took; a drawing of them while the card is killed is left in
    /// target/tls-faults/killed.svg. Builds as for release; needs openssl.
    TlsFaults(tls_faults::Arguments),
    /// Has a browser, and thousands of unusual and malformed handshakes, judge `hwshim serve-tls`.
    ///
    /// Chromium is the machine's own, or else Debian's, unpacked below target/tools; tlslite-ng is
    /// installed there by pip. Nothing on the machine is changed. What the terminator makes of each
    /// handshake is compared with what rustls without it does. Needs openssl and python3.
    TlsJudges,
    /// Has a real systemd run monitor/cardmon.service as it ships, and judges what the confined monitor does.
    ///
    /// As root, on Linux with systemd's and util-linux's programs: each case boots a systemd in namespaces of its
    /// own, with a file system in memory, where only /usr is the host's. Nothing is left behind but the journals,
    /// in target/unit. A table at the end says how each case went.
    Unit,
    /// Has our driver and our card judged by parts nobody here wrote, in guests of QEMU.
    ///
    /// On Debian. What it takes is downloaded by apt and unpacked below target/vm: nothing on the
    /// machine is changed, and root is not needed. A QEMU that is installed is used where it is
    /// not about the newest. Guests are emulated (TCG), so that no /dev/kvm is needed. Each case
    /// says what was found, or which logs below target/vm/logs to read; a table at the end says who
    /// judged and how it went. What cannot be had here is skipped and says so.
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test => test::run(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Leaks(arguments) => leaks::run(&arguments),
        Command::Memory => memory::run(),
        Command::MultiBuffer => multi_buffer::run(),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::TlsFaults(arguments) => tls_faults::run(&arguments),
        Command::TlsJudges => tls_judges::run(),
        Command::Unit => unit::run(),
        Command::Vm(arguments) => vm::run(&arguments),
    };
    if let Err(error) = result {
        eprintln!("cargo xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
