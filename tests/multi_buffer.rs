//! `software:multi-buffer` behind the router: what it answers wrongly is not released, and where
//! it cannot be used software answers.
//!
//! A processor that miscalculates is played by a library that overrides one function of the real
//! one and spoils a lane. Where library, processor or C compiler are missing, those tests say
//! `skipped` and why.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed, and one that is skipped says why"
)]

use hwshim::accelerator::multi_buffer::MultiBuffer;
use hwshim::accelerator::{
    Accelerator, DeviceError, Operation, RejectReason, Secret, State, software,
};
use hwshim::accelerator::{Request, RequestId};
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::kat;
use hwshim::key::{HashAlgorithm, SignatureScheme};
use hwshim::router::breaker;
use hwshim::router::core::{Core, LaneStatus, Offload, Options};
use hwshim::router::direct::{Direct, Done, Submitted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Requests that are in flight together.
const REQUESTS: u32 = 64;

/// The real library's path, if this host can use it.
fn library() -> Option<PathBuf> {
    match multi_buffer::MultiBuffer::load(None) {
        Ok(library) => Some(library.found_as().to_owned()),
        Err(error) if error.is_absence() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// Compiles what stands in `tests/multi_buffer/` against the library.
fn compile(source: &str, program: &Path, options: &[&str]) -> Option<()> {
    let library = library()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/multi_buffer/{source}"));
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(options)
        .arg("-Wl,--no-as-needed")
        .arg("-o")
        .args([program, &source, &library])
        .arg(format!(
            "-Wl,-rpath,{}",
            library.parent().unwrap().display()
        ))
        .status();
    match status {
        Err(error) => {
            println!("skipped: no C compiler: {error}");
            None
        }
        Ok(status) => {
            assert!(status.success(), "{status}");
            Some(())
        }
    }
}

/// A library that spoils lanes as `fault` says.
fn spoiled(directory: &Path, fault: &str) -> Option<PathBuf> {
    let path = directory.join("libcrypto_mb.so");
    compile("wrong_lanes.c", &path, &["-shared", "-fPIC", fault]).map(|()| path)
}

fn router(path: PathBuf) -> Direct {
    let accelerator = Box::new(MultiBuffer::new(Some(path)));
    let options = Options {
        timeout: Duration::from_secs(30),
        offload: Offload::EVERYTHING,
        ..Options::default()
    };
    let clock = Arc::new(SystemClock);
    let mut router = Direct::new(Core::new(vec![accelerator], options), clock);
    router.settle_accelerators(SystemClock.now().plus(Duration::from_secs(30)));
    router
}

fn signature_of(number: u32) -> Operation {
    Operation::Sign {
        key: kat::rsa_2048_key(),
        // Deterministic, so that there is one right answer.
        scheme: SignatureScheme::RsaPkcs1Sha256,
        message: Secret::from(&number.to_le_bytes()[..]),
    }
}

/// Has many signatures made at once; panics if one that is released is wrong. Returns what became
/// of them.
fn sign_many(router: &mut Direct) -> LaneStatus {
    let mut numbers = BTreeMap::new();
    let mut ended = Vec::new();
    for number in 0..REQUESTS {
        match router.submit(signature_of(number)) {
            Submitted::InFlight(id) => drop(numbers.insert((id.index, id.generation), number)),
            Submitted::Done(done) => ended.push((number, done)),
        }
    }
    let deadline = SystemClock.now().plus(Duration::from_secs(60));
    while ended.len() < REQUESTS as usize {
        assert!(SystemClock.now() < deadline, "{} ended", ended.len());
        router.turn_or_wait(deadline, |done: Done| {
            let number = numbers[&(done.id.index, done.id.generation)];
            ended.push((number, done));
        });
    }
    for (number, Done { output, .. }) in ended {
        let right = software::perform(&signature_of(number)).unwrap();
        assert!(output.unwrap() == right, "a wrong signature was released");
    }
    router.core().status(0)
}

#[test]
fn a_lane_that_is_wrong_is_stopped_and_takes_the_accelerator_out() {
    let directory = tempfile::tempdir().unwrap();
    let Some(path) = spoiled(directory.path(), "-DFLIP") else {
        return;
    };
    let mut router = router(path);
    assert!(matches!(
        router.core().status(0).breaker,
        breaker::State::Closed { .. }
    ));
    let status = sign_many(&mut router);
    assert!(status.requests.wrong_answers > 0, "{status:?}");
    assert_eq!(status.breaker_opened_by, "wrong-answer");
    assert!(status.requests.add_up());
}

#[test]
fn lanes_that_got_each_others_answers_are_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let Some(path) = spoiled(directory.path(), "-DSWAP") else {
        return;
    };
    let mut router = router(path);
    assert!(matches!(
        router.core().status(0).breaker,
        breaker::State::Closed { .. }
    ));
    let status = sign_many(&mut router);
    assert!(status.requests.wrong_answers > 0, "{status:?}");
    assert_eq!(status.breaker_opened_by, "wrong-answer");
}

#[test]
fn the_same_library_unspoiled_answers_everything() {
    let directory = tempfile::tempdir().unwrap();
    let Some(path) = spoiled(directory.path(), "-DNOTHING") else {
        return;
    };
    let status = sign_many(&mut router(path));
    assert_eq!(status.requests.card, u64::from(REQUESTS), "{status:?}");
    assert_eq!(status.requests.wrong_answers, 0);
}

#[test]
fn the_library_touches_no_byte_beyond_what_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("guard_pages");
    let Some(()) = compile("guard_pages.c", &program, &["-O1"]) else {
        return;
    };
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn without_the_library_it_says_what_is_missing_and_software_signs() {
    let nowhere = PathBuf::from("/nonexistent/libcrypto_mb.so.13");
    let mut accelerator = MultiBuffer::new(Some(nowhere.clone()));
    let Err(DeviceError::NotUsable(reason)) = accelerator.reset(&mut Vec::new()) else {
        panic!("there is no library to load");
    };
    assert!(
        reason.contains("/nonexistent/libcrypto_mb.so.13") || reason.contains("processor lacks"),
        "{reason}"
    );
    assert_eq!(accelerator.state(), State::NeedsReset);
    let status = sign_many(&mut router(nowhere));
    assert_eq!(status.requests.software, u64::from(REQUESTS));
}

#[test]
fn it_signs_and_does_nothing_else_and_says_how_many_go_together() {
    let mut accelerator = MultiBuffer::new(None);
    if library().is_none() {
        return;
    }
    accelerator.reset(&mut Vec::new()).unwrap();
    assert_eq!(accelerator.batch_size().get(), 8);
    let digest = Request {
        id: RequestId {
            index: 1,
            generation: 0,
        },
        operation: Arc::new(Operation::Digest {
            hash: HashAlgorithm::Sha256,
            message: Secret::from(&b"message"[..]),
        }),
        deadline: Instant::NEVER,
    };
    assert!(!accelerator.offers(digest.operation.algorithm()));
    let rejected = accelerator.submit(digest, SystemClock.now()).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Unsupported);
    assert_eq!(accelerator.in_flight(), 0);
}
