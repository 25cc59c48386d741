//! The threads that do what clients ask of the card, and how they get stuck.

use crate::engine::RustCrypto;
use crate::service::protocol::{Code, Refusal, Request};
use card_device::engine::{Curve, Engine, KeyType, Operation, SessionSpec};
use card_spec::crypto::Status;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// A request that has been done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) client: u64,
    pub(super) request: Request,
    pub(super) outcome: Result<(), Refusal>,
}

enum Job {
    Do {
        client: u64,
        request: Request,
    },
    /// Waits until whoever holds the other end drops it.
    Stick(Receiver<()>),
}

/// A pool of so many threads and no more.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    wake: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    stuck: Vec<Sender<()>>,
}

impl Workers {
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let (report, done) = channel();
        let todo = Arc::new(Mutex::new(todo));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut workers = Self {
            jobs: Some(jobs),
            done,
            wake: Arc::clone(&wake),
            threads: Vec::new(),
            stuck: Vec::new(),
        };
        for _ in 0..count.get() {
            let (todo, report, wake) = (Arc::clone(&todo), report.clone(), Arc::clone(&wake));
            let thread = thread::Builder::new()
                .name("worker".to_owned())
                .spawn(move || work(&todo, &report, &wake))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Has a request done, when a worker is free.
    pub(super) fn ask(&self, client: u64, request: Request) {
        self.send(Job::Do { client, request });
    }

    /// What has been done. To be called when [`Workers::wake`] is readable.
    pub(super) fn finished(&self) -> Vec<Done> {
        let mut count = [0; 8];
        // It was readable; if it no longer is, that is as well.
        let _ = rustix::io::read(&*self.wake, &mut count);
        self.done.try_iter().collect()
    }

    /// Readable when something has been done.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Gets every worker stuck, as soon as it has done what it is at, or frees them all.
    pub(super) fn set_stuck(&mut self, stuck: bool) {
        if !stuck {
            self.stuck.clear();
        } else if self.stuck.is_empty() {
            for _ in &self.threads {
                let (hold, freed) = channel();
                self.send(Job::Stick(freed));
                self.stuck.push(hold);
            }
        }
    }

    fn send(&self, job: Job) {
        let jobs = self
            .jobs
            .as_ref()
            .expect("only dropping the pool takes it away");
        // Nobody is there to take it only if every worker has panicked, and then it waits.
        let _ = jobs.send(job);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stuck.clear();
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

fn work(todo: &Mutex<Receiver<Job>>, report: &Sender<Done>, wake: &OwnedFd) {
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Err(_) => return,
            Ok(Job::Stick(freed)) => {
                let _ = freed.recv();
            }
            Ok(Job::Do { client, request }) => {
                let outcome = perform(request);
                let done = Done {
                    client,
                    request,
                    outcome,
                };
                if report.send(done).is_err() {
                    return;
                }
                // It cannot overflow before as many wake-ups as there are numbers.
                let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
            }
        }
    }
}

/// The part of a request that takes a worker's time; the service's tables are not its business.
fn perform(request: Request) -> Result<(), Refusal> {
    match request {
        Request::Open { .. } | Request::Close { .. } => Ok(()),
        Request::Kat { .. } => known_answer_test()
            .map_err(|status| Refusal::new(Code::KatFailed, format!("status {}", status.0))),
    }
}

/// Private key of RFC 6979 appendix A.2.5 "ECDSA, 256 Bits (Prime Field)", as an `ECPrivateKey`
/// (RFC 5915 section 3 "Elliptic Curve Private Key Format").
const KEY: [u8; 39] = [
    0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20, 0xc9, 0xaf, 0xa9, 0xd8, 0x45, 0xba, 0x75, 0x16, 0x6b,
    0x5c, 0x21, 0x57, 0x67, 0xb1, 0xd6, 0x93, 0x4e, 0x50, 0xc3, 0xdb, 0x36, 0xe8, 0x9b, 0x12, 0x7b,
    0x8a, 0x62, 0x2b, 0x12, 0x0f, 0x67, 0x21,
];
/// SHA-256 of the message "sample".
const DIGEST: [u8; 32] = [
    0xaf, 0x2b, 0xdb, 0xe1, 0xaa, 0x9b, 0x6e, 0xc1, 0xe2, 0xad, 0xe1, 0xd6, 0x94, 0xf4, 0x1f, 0xc7,
    0x1a, 0x83, 0x1d, 0x02, 0x68, 0xe9, 0x89, 0x15, 0x62, 0x11, 0x3d, 0x8a, 0x62, 0xad, 0xd1, 0xbf,
];
/// The signature that the RFC has of it, in DER.
const SIGNATURE: [u8; 72] = [
    0x30, 0x46, 0x02, 0x21, 0x00, 0xef, 0xd4, 0x8b, 0x2a, 0xac, 0xb6, 0xa8, 0xfd, 0x11, 0x40, 0xdd,
    0x9c, 0xd4, 0x5e, 0x81, 0xd6, 0x9d, 0x2c, 0x87, 0x7b, 0x56, 0xaa, 0xf9, 0x91, 0xc3, 0x4d, 0x0e,
    0xa8, 0x4e, 0xaf, 0x37, 0x16, 0x02, 0x21, 0x00, 0xf7, 0xcb, 0x1c, 0x94, 0x2d, 0x65, 0x7c, 0x41,
    0xd4, 0x36, 0xc7, 0xa1, 0xb6, 0xe2, 0x9f, 0x65, 0xf3, 0xe9, 0x00, 0xdb, 0xb9, 0xaf, 0xf4, 0x06,
    0x4d, 0xc4, 0xab, 0x2f, 0x84, 0x3a, 0xcd, 0xa8,
];

/// Signs; the signature and the published one must both verify. Nonces are random, so that the
/// two cannot be equal.
fn known_answer_test() -> Result<(), Status> {
    let spec = SessionSpec::Ecdsa {
        key: KeyType::Private,
        curve: Curve::P256,
    };
    let session = RustCrypto.open(&spec, &KEY)?;
    let mut signature = [0; SIGNATURE.len()];
    let sign = Operation::Sign { digest: &DIGEST };
    let len = session.execute(&sign, &mut signature)?;
    for signature in [&signature[..len], &SIGNATURE] {
        let digest = &DIGEST;
        session.execute(&Operation::Verify { signature, digest }, &mut [])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn wait(workers: &Workers) -> Vec<Done> {
        let mut fds = [PollFd::from_borrowed_fd(workers.wake(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        workers.finished()
    }

    #[test]
    fn the_known_answer_is_got() {
        assert_eq!(known_answer_test(), Ok(()));
    }

    #[test]
    fn what_stuck_workers_were_asked_is_done_when_they_are_free() {
        let mut workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        workers.set_stuck(true);
        workers.ask(7, Request::Close { session: 9 });
        assert!(workers.finished().is_empty());
        workers.set_stuck(false);
        let done = wait(&workers);
        assert_eq!(
            (done[0].client, done[0].request),
            (7, Request::Close { session: 9 })
        );
        assert_eq!(done[0].outcome, Ok(()));
        // Dropping the pool ends its threads, stuck or not.
        workers.set_stuck(true);
    }
}
