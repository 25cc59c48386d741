//! `hwshim bench ADDRESS...`: single operations, accelerators against this CPU, in one run.
//!
//! For each operation and depth, windows of software and of every accelerator take turns, so that a
//! busy moment of the host hits all of them. What is measured is what an application gets: answers
//! verified before they are released, and done in software when the accelerator does not answer.

mod contender;
mod measure;
mod page;
mod report;

use super::machine::Machine;
use super::{PageFile, WINDOW_MIN, distinct, hand_over, progress_bar};
use crate::cli::crypto_mb::CryptoMb;
use crate::cli::output::{Failure, Output};
use crate::cli::{each_once, not_owned, serve};
use contender::Contender;
use hwshim::accelerator::{Operation, Secret};
use hwshim::address::Address;
use hwshim::kat;
use hwshim::key::{AeadKey, CipherKey, HashAlgorithm, MacKey, SignatureScheme, SigningKey};
use indicatif::ProgressBar;
use report::{Point, Report, Side};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Addresses of accelerators, e.g. vfio-user:./card.sock
    #[arg(required = true, value_name = "ADDRESS")]
    accelerators: Vec<Address>,
    /// Operations, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "rsa-2048-sign,p256-sign,aes-256-gcm-1k"
    )]
    ops: Vec<Op>,
    /// Operations in flight at an accelerator, 256 at most, separated by commas. Software does one at
    /// a time.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,32",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    depth: Vec<u16>,
    /// Time for each operation at each depth, shared by all that are compared.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = serve::positive_duration)]
    duration: Duration,
    /// Time an accelerator has for one operation before software does it.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = serve::positive_duration)]
    timeout: Duration,
    #[command(flatten)]
    crypto_mb: CryptoMb,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    /// Also write a page with plots, which needs nothing else to be read.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Op {
    /// RSASSA-PSS with SHA-256, 2048 bits.
    #[value(name = "rsa-2048-sign")]
    Rsa2048Sign,
    /// RSASSA-PSS with SHA-256, 3072 bits.
    #[value(name = "rsa-3072-sign")]
    Rsa3072Sign,
    /// RSASSA-PSS with SHA-256, 4096 bits.
    #[value(name = "rsa-4096-sign")]
    Rsa4096Sign,
    /// ECDSA with P-256 and SHA-256.
    #[value(name = "p256-sign")]
    P256Sign,
    /// ECDSA with P-384 and SHA-384.
    #[value(name = "p384-sign")]
    P384Sign,
    /// AES-256-GCM of 1 KiB.
    #[value(name = "aes-256-gcm-1k")]
    Gcm1k,
    /// AES-256-GCM of 16 KiB.
    #[value(name = "aes-256-gcm-16k")]
    Gcm16k,
    /// AES-256-CBC of 1 KiB.
    #[value(name = "aes-256-cbc-1k")]
    Cbc1k,
    /// SHA-256 of 1 KiB.
    #[value(name = "sha256-1k")]
    Sha256,
    /// HMAC-SHA-256 of 1 KiB.
    #[value(name = "hmac-sha256-1k")]
    HmacSha256,
}

impl Op {
    fn name(self) -> String {
        use clap::ValueEnum as _;
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns a source of operations. Each is different, so that nothing can answer from memory.
    fn operations(self) -> Box<dyn FnMut() -> Operation> {
        let mut number = 0_u64;
        let mut next = move || {
            number += 1;
            number
        };
        let sign = |key: Arc<SigningKey>, scheme| -> Box<dyn FnMut() -> Operation> {
            Box::new(move || Operation::Sign {
                key: Arc::clone(&key),
                scheme,
                // As long as what a TLS 1.3 server signs with SHA-256.
                message: numbered(next(), 130),
            })
        };
        match self {
            Self::Rsa2048Sign => sign(kat::rsa_2048_key(), SignatureScheme::RsaPssSha256),
            Self::Rsa3072Sign => sign(kat::rsa_3072_key(), SignatureScheme::RsaPssSha256),
            Self::Rsa4096Sign => sign(kat::rsa_4096_key(), SignatureScheme::RsaPssSha256),
            Self::P256Sign => sign(kat::p256_key(), SignatureScheme::EcdsaP256Sha256),
            Self::P384Sign => sign(kat::p384_key(), SignatureScheme::EcdsaP384Sha384),
            Self::Gcm1k => seal(1024),
            Self::Gcm16k => seal(16 * 1024),
            Self::Cbc1k => {
                let key = Arc::new(CipherKey::new(&[7; 32]).expect("32 bytes are an AES-256 key"));
                Box::new(move || Operation::Cbc {
                    key: Arc::clone(&key),
                    direction: hwshim::accelerator::Direction::Encrypt,
                    iv: [1; 16],
                    data: numbered(next(), 1024),
                })
            }
            Self::Sha256 => Box::new(move || Operation::Digest {
                hash: HashAlgorithm::Sha256,
                message: numbered(next(), 1024),
            }),
            Self::HmacSha256 => {
                let key = Arc::new(MacKey::new(HashAlgorithm::Sha256, &[9; 32]));
                Box::new(move || Operation::Mac {
                    key: Arc::clone(&key),
                    message: numbered(next(), 1024),
                })
            }
        }
    }
}

fn seal(len: usize) -> Box<dyn FnMut() -> Operation> {
    let key = Arc::new(AeadKey::new(&[5; 32]).expect("32 bytes are an AES-256 key"));
    let mut number = 0_u64;
    Box::new(move || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Operation::Seal {
            key: Arc::clone(&key),
            nonce,
            aad: Vec::new(),
            plaintext: numbered(number, len),
        }
    })
}

/// A message of `len` bytes that differs from all others.
fn numbered(number: u64, len: usize) -> Secret {
    let mut message = vec![0x20; len];
    message[..8].copy_from_slice(&number.to_le_bytes());
    Secret::from(message)
}

/// What one comparison is about.
#[derive(Clone, Copy, Debug)]
struct Case {
    op: Op,
    depth: u16,
}

/// Windows of each side; enough that a disturbance of a second does not decide.
const WINDOWS: u32 = 10;

/// Measures.
pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    each_once(&args.accelerators, &["bench"])?;
    not_owned(&args.accelerators)?;
    args.crypto_mb.check()?;
    let machine = Machine::look();
    let file = args.html.as_deref().map(PageFile::look).transpose()?;
    let mut contenders = contenders(args)?;
    let cases = cases(args);
    let turns = u64::from(WINDOWS + 1) * contenders.len() as u64;
    let bar = progress_bar(turns * cases.len() as u64);
    let mut points = Vec::new();
    for case in cases {
        bar.set_message(format!("{} x{}", case.op.name(), case.depth));
        points.push(compare(case, args.duration, &mut contenders, &bar));
    }
    bar.finish_and_clear();
    let states = contenders.iter().filter_map(Contender::status);
    let report = Report::new(machine, points, states);
    let page = || page::of(&report);
    hand_over(output, file, page, |output| match args.json {
        true => output.json(&report),
        false => report.print(output),
    })?;
    report.warn(output)
}

/// Software, and each accelerator that was named, all of them up.
fn contenders(args: &Args) -> Result<Vec<Contender>, Failure> {
    let mut contenders = vec![Contender::software()];
    for address in &args.accelerators {
        contenders.push(Contender::bring_up(address, args)?);
    }
    Ok(contenders)
}

/// Each that was asked for, once; depths in their order, as they are drawn.
fn cases(args: &Args) -> Vec<Case> {
    let mut depths = distinct(&args.depth);
    depths.sort_unstable();
    let mut cases = Vec::new();
    for op in distinct(&args.ops) {
        cases.extend(depths.iter().map(|&depth| Case { op, depth }));
    }
    cases
}

/// Compares all contenders in `case`, within `duration`.
fn compare(
    case: Case,
    duration: Duration,
    contenders: &mut [Contender],
    bar: &ProgressBar,
) -> Point {
    let count = u32::try_from(contenders.len()).unwrap_or(u32::MAX);
    let length = (duration / WINDOWS / count).max(WINDOW_MIN);
    let mut operations = case.op.operations();
    let mut sides = Vec::new();
    for contender in contenders.iter_mut() {
        // What comes first is not counted: a session that is made with the first use of a key.
        contender.run(&mut *operations, case.depth, length);
        bar.inc(1);
        sides.push(Side::new(contender.name.clone()));
    }
    for _ in 0..WINDOWS {
        for (contender, side) in contenders.iter_mut().zip(&mut sides) {
            side.add(&contender.run(&mut *operations, case.depth, length));
            bar.inc(1);
        }
    }
    Point::new(case, length, sides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Line::parse_from([&["bench"], line].concat()).args
    }

    #[test]
    fn each_operation_and_depth_is_measured_once_and_the_deepest_last() {
        let args = args(&[
            "software:ring",
            "--depth=32,1,32,256",
            "--ops=p256-sign,sha256-1k,p256-sign",
        ]);
        let cases: Vec<_> = cases(&args)
            .iter()
            .map(|case| (case.op, case.depth))
            .collect();
        let of = |op| [1, 32, 256].map(|depth| (op, depth));
        assert_eq!(cases, [of(Op::P256Sign), of(Op::Sha256)].concat());
    }

    #[test]
    fn more_in_flight_than_an_accelerator_takes_is_refused() {
        for depth in ["0", "257", "1,257", "", "many"] {
            let depth = format!("--depth={depth}");
            assert!(
                Line::try_parse_from(["bench", "software:ring", &depth]).is_err(),
                "{depth}"
            );
        }
    }
}
