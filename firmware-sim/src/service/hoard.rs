//! What a leak holds, and never uses: real memory, real descriptors, threads and ports.
//!
//! How much, and whether there is room for it, is decided by who asks. All of it goes back to the
//! operating system with the hoard.

use crate::service::fault::{KernelMemory, Resource};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// Bytes are leaked by the page, so that each one that is said to be held is there.
pub(super) const PAGE_LEN: u64 = 4096;
/// A block of this length has an address range of its own from the allocator, which is given back
/// when it is freed.
const BLOCK_LEN: usize = 1 << 20;
/// What leaked memory is filled with: a page that nobody has written to is not there.
const FILLING: u8 = 0xa5;
/// Pages of a pipe; beyond that the kernel asks for privileges.
const PIPE_LEN: usize = 1 << 20;
/// A leaked thread does nothing, and needs no room for it.
const STACK_LEN: usize = 64 << 10;

/// What one fault has leaked.
#[derive(Debug, Default)]
pub(super) struct Hoard {
    heap: Vec<Vec<u8>>,
    kernel: Kernel,
    descriptors: Vec<File>,
    threads: Threads,
    ports: Vec<TcpListener>,
}

/// How much of what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Amounts {
    pub(super) heap_bytes: u64,
    pub(super) kernel_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    pub(super) ports: u64,
}

impl Amounts {
    pub(super) fn bytes(&self) -> u64 {
        self.heap_bytes + self.kernel_bytes
    }

    pub(super) fn objects(&self) -> u64 {
        self.descriptors + self.threads + self.ports
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            heap_bytes,
            kernel_bytes,
            descriptors,
            threads,
            ports,
        } = other;
        self.heap_bytes += heap_bytes;
        self.kernel_bytes += kernel_bytes;
        self.descriptors += descriptors;
        self.threads += threads;
        self.ports += ports;
    }
}

impl Hoard {
    /// Takes so much more from the operating system, and keeps it.
    ///
    /// # Errors
    ///
    /// What the operating system says when it gives no more. What it gave until then is kept.
    pub(super) fn grow(&mut self, resource: Resource, amount: u64) -> io::Result<()> {
        match resource {
            Resource::Heap => {
                self.grow_heap(usize::try_from(amount).map_err(io::Error::other)?);
                Ok(())
            }
            Resource::Kernel(via) => self.kernel.grow(via, amount),
            Resource::Descriptors => (0..amount).try_for_each(|_| {
                self.descriptors.push(File::open("/dev/null")?);
                Ok(())
            }),
            Resource::Threads => (0..amount).try_for_each(|_| self.threads.grow()),
            Resource::Ports => (0..amount).try_for_each(|_| {
                self.ports.push(free_port()?);
                Ok(())
            }),
        }
    }

    /// What it holds.
    pub(super) fn amounts(&self) -> Amounts {
        let heap: usize = self.heap.iter().map(Vec::len).sum();
        let count = |len| u64::try_from(len).unwrap_or(u64::MAX);
        Amounts {
            heap_bytes: count(heap),
            kernel_bytes: self.kernel.bytes,
            descriptors: count(self.descriptors.len()),
            threads: count(self.threads.threads.len()),
            ports: count(self.ports.len()),
        }
    }

    fn grow_heap(&mut self, mut amount: usize) {
        while amount > 0 {
            if self
                .heap
                .last()
                .is_none_or(|block| block.len() == BLOCK_LEN)
            {
                self.heap.push(Vec::with_capacity(BLOCK_LEN));
            }
            let block = self.heap.last_mut().expect("one has just been pushed");
            let part = amount.min(BLOCK_LEN - block.len());
            block.resize(block.len() + part, FILLING);
            amount -= part;
        }
    }
}

/// A TCP port of the loopback interface that was free.
///
/// # Errors
///
/// If there is none, or no descriptor for it.
pub(super) fn free_port() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Memory of the kernel. Whatever is full is sent into a socket that nobody reads: it lives there,
/// as what a driver has leaked does, and no descriptor of this process shows it.
///
/// ```text
///   bytes --> pipe or connection --(full: SCM_RIGHTS)--> in flight between two sockets
/// ```
#[derive(Debug, Default)]
struct Kernel {
    bytes: u64,
    filling: Option<Vessel>,
    in_flight: Vec<(UnixStream, UnixStream)>,
}

impl Kernel {
    fn grow(&mut self, via: KernelMemory, mut amount: u64) -> io::Result<()> {
        const PAGE: [u8; 4096] = [FILLING; 4096];
        while amount > 0 {
            let vessel = match self.filling.take() {
                Some(vessel) if vessel.via == via => vessel,
                Some(other) => {
                    self.put_away(other)?;
                    continue;
                }
                None => Vessel::new(via)?,
            };
            let len = usize::try_from(amount).map_or(PAGE.len(), |amount| amount.min(PAGE.len()));
            match rustix::io::write(&vessel.write, &PAGE[..len]) {
                Ok(written) => {
                    self.filling = Some(vessel);
                    let written = u64::try_from(written).unwrap_or(0);
                    self.bytes += written;
                    amount -= written;
                }
                Err(Errno::AGAIN) => self.put_away(vessel)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Puts a vessel where it needs no descriptor. If that cannot be done, it is kept as it is.
    fn put_away(&mut self, vessel: Vessel) -> io::Result<()> {
        let sent = self.send_away(&vessel);
        if sent.is_err() {
            self.filling = Some(vessel);
        }
        sent
    }

    fn send_away(&mut self, vessel: &Vessel) -> io::Result<()> {
        let fds = vessel.what_keeps_it();
        if let Some((socket, _)) = self.in_flight.last() {
            match send(socket, &fds) {
                Err(Errno::AGAIN) => {}
                outcome => return Ok(outcome?),
            }
        }
        let pair = UnixStream::pair()?;
        pair.0.set_nonblocking(true)?;
        send(&pair.0, &fds)?;
        self.in_flight.push(pair);
        Ok(())
    }
}

fn send(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
    assert!(fits, "a vessel has no more than two ends");
    let byte = [IoSlice::new(&[FILLING])];
    sendmsg(socket, &byte, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Something of the kernel's that holds bytes until they are read.
#[derive(Debug)]
struct Vessel {
    via: KernelMemory,
    read: OwnedFd,
    write: OwnedFd,
}

impl Vessel {
    fn new(via: KernelMemory) -> io::Result<Self> {
        let (read, write) = match via {
            KernelMemory::Pipes => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                // Refused to who has many pipes already; then it takes more of them.
                let _ = fcntl_setpipe_size(&write, PIPE_LEN);
                (read, write)
            }
            KernelMemory::Sockets => {
                let port = free_port()?;
                let write = TcpStream::connect(port.local_addr()?)?;
                write.set_nonblocking(true)?;
                (port.accept()?.0.into(), write.into())
            }
        };
        Ok(Self { via, read, write })
    }

    /// The ends that must stay open for the bytes to stay.
    fn what_keeps_it(&self) -> Vec<BorrowedFd<'_>> {
        match self.via {
            KernelMemory::Pipes => vec![self.read.as_fd()],
            KernelMemory::Sockets => vec![self.read.as_fd(), self.write.as_fd()],
        }
    }
}

/// Threads that wait for something that comes only when they are freed.
#[derive(Debug, Default)]
struct Threads {
    threads: Vec<JoinHandle<()>>,
    /// Never sent to. Each thread has a receiver, which learns that this is gone.
    holds: Vec<Sender<()>>,
}

impl Threads {
    fn grow(&mut self) -> io::Result<()> {
        let (hold, freed): (_, Receiver<()>) = channel();
        let thread = thread::Builder::new()
            .name("leaked".to_owned())
            .stack_size(STACK_LEN)
            .spawn(move || {
                let _ = freed.recv();
            })?;
        self.threads.push(thread);
        self.holds.push(hold);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.holds.clear();
        for thread in self.threads.drain(..) {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_grows_by_what_was_asked_for_and_alone() {
        let bytes = 3 * PAGE_LEN;
        let more = (PIPE_LEN as u64) + bytes;
        let cases = [
            (
                Resource::Heap,
                Amounts {
                    heap_bytes: more,
                    ..Amounts::default()
                },
            ),
            (
                Resource::Kernel(KernelMemory::Pipes),
                Amounts {
                    kernel_bytes: more,
                    ..Amounts::default()
                },
            ),
            (
                Resource::Kernel(KernelMemory::Sockets),
                Amounts {
                    kernel_bytes: more,
                    ..Amounts::default()
                },
            ),
            (
                Resource::Descriptors,
                Amounts {
                    descriptors: 3,
                    ..Amounts::default()
                },
            ),
            (
                Resource::Threads,
                Amounts {
                    threads: 3,
                    ..Amounts::default()
                },
            ),
            (
                Resource::Ports,
                Amounts {
                    ports: 3,
                    ..Amounts::default()
                },
            ),
        ];
        for (resource, expected) in cases {
            let mut hoard = Hoard::default();
            let first = if expected.bytes() > 0 { bytes } else { 1 };
            hoard.grow(resource, first).unwrap();
            hoard
                .grow(resource, expected.bytes() + expected.objects() - first)
                .unwrap();
            assert_eq!(hoard.amounts(), expected, "{resource}");
        }
    }

    #[test]
    fn what_a_full_pipe_holds_is_held_by_no_descriptor() {
        let mut kernel = Kernel::default();
        kernel
            .grow(KernelMemory::Pipes, 4 * PIPE_LEN as u64 + PAGE_LEN)
            .unwrap();
        assert_eq!(
            kernel.in_flight.len(),
            1,
            "one pair of sockets for all of them"
        );
        assert!(kernel.filling.is_some());
    }
}
