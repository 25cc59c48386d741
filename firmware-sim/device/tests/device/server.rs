//! Over vfio-user: honest clients, and clients that are broken in every way we could think of.

use crate::driver::{AddEngine, Bus, DATA_QUEUE, Driver, IOVA, NOTIFY, cipher_data};
use card_device::engine::{Engine, Offer, Operation, Session, SessionSpec};
use card_device::firmware;
use card_device::server::{BindError, Listener};
use card_device::{Card, CardConfig};
use card_spec::crypto::Status;
use card_spec::vfio::{DeviceInfo, IrqInfo, IrqSet, RegionInfo, dma, irq, region};
use card_spec::vfio_user::{
    DmaMap, DmaUnmap, Header, RegionAccess, RegionIoFds, SubRegionIoFd, Version, command, flag,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A card that serves in threads of this process.
struct Served {
    directory: TempDir,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start() -> Self {
        Self::with_engine(Arc::new(AddEngine))
    }

    fn with_engine(engine: Arc<dyn Engine>) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = Listener::bind(&directory.path().join("card.sock")).unwrap();
        let stop = new_eventfd();
        let stop_fd = stop.try_clone().unwrap();
        let config = CardConfig {
            engine_count: 2,
            ..CardConfig::default()
        };
        let card = Card::new(&config, engine).unwrap();
        let thread = thread::spawn(move || {
            firmware::run(card, &listener, stop_fd.as_fd()).unwrap();
        });
        Self {
            directory,
            stop,
            thread: Some(thread),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("card.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        // Only so that a mistake fails the test instead of hanging it.
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    fn client(&self) -> Client {
        let mut client = Client {
            stream: self.connect(),
            next_id: 0,
        };
        client.negotiate(b"{\"capabilities\":{}}\0").unwrap();
        client
    }

    /// The card still serves an honest client.
    fn assert_works(&self) {
        let mut driver = Driver::start(self.client());
        let (status, id) = driver.open_session(&[1]);
        assert_eq!(status, Status::OK);
        assert_eq!(driver.encrypt(id, &[1, 2, 3]), (Status::OK, vec![2, 3, 4]));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
            assert!(
                !self.path().exists(),
                "the socket file goes with the server"
            );
        }
    }
}

struct Client {
    stream: UnixStream,
    next_id: u16,
}

impl Client {
    fn send(&self, header: &Header, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let buffers = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        let sent = sendmsg(&self.stream, &buffers, &mut ancillary, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(16 + body.len()));
    }

    /// Receives a whole reply: its header, body and descriptors.
    fn receive(&mut self) -> (Header, Vec<u8>, Vec<OwnedFd>) {
        let mut header = Header::new_zeroed();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(header.as_mut_bytes())];
        let received = recvmsg(
            &self.stream,
            &mut buffers,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        assert_eq!(received.bytes, 16, "a header comes in one piece");
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let mut body = vec![0; header.message_size.get() as usize - 16];
        self.stream.read_exact(&mut body).unwrap();
        (header, body, fds)
    }

    fn command(&mut self, command: u16, body: &[u8]) -> Header {
        self.next_id = self.next_id.wrapping_add(1);
        Header {
            message_id: self.next_id.into(),
            command: command.into(),
            message_size: (16 + body.len() as u32).into(),
            ..Header::default()
        }
    }

    fn call_with(
        &mut self,
        command: u16,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let header = self.command(command, body);
        self.send(&header, body, fds);
        let (reply, body, fds) = self.receive();
        assert_eq!(reply.message_id, header.message_id);
        assert_eq!(reply.command, header.command);
        if reply.flags.get() & flag::ERROR != 0 {
            assert_eq!(body, [0_u8; 0], "an error reply has no body");
            return Err(Errno::from_raw_os_error(reply.error.get() as i32));
        }
        Ok((body, fds))
    }

    fn call(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.call_with(command, body, &[]).map(|(body, _)| body)
    }

    fn ask<T: FromBytes>(&mut self, command: u16, body: &(impl IntoBytes + Immutable)) -> T {
        let reply = self.call(command, body.as_bytes()).unwrap();
        T::read_from_prefix(&reply)
            .unwrap_or_else(|_| panic!("short reply"))
            .0
    }

    fn negotiate(&mut self, json: &[u8]) -> Result<Vec<u8>, Errno> {
        let version = Version {
            major: 0.into(),
            minor: 1.into(),
        };
        let body = [version.as_bytes(), json].concat();
        self.call(command::VERSION, &body)
    }

    fn assert_closed(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

impl Bus for Client {
    fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
        let access = access(bar.into(), offset, buf.len());
        let reply = self.call(command::REGION_READ, access.as_bytes()).unwrap();
        buf.copy_from_slice(&reply[16..]);
    }

    fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
        let access = access(bar.into(), offset, bytes.len());
        let body = [access.as_bytes(), bytes].concat();
        self.call(command::REGION_WRITE, &body).unwrap();
    }

    fn write_config(&mut self, offset: u16, bytes: &[u8]) {
        let access = access(region::CONFIG, offset.into(), bytes.len());
        let body = [access.as_bytes(), bytes].concat();
        self.call(command::REGION_WRITE, &body).unwrap();
    }

    fn map(&mut self, iova: u64, len: u64, write: bool, file: &OwnedFd, offset: u64) {
        let request = dma_map(iova, len, offset, if write { 3 } else { 1 });
        self.call_with(command::DMA_MAP, request.as_bytes(), &[file.as_fd()])
            .unwrap();
    }

    fn wait(&mut self) {
        thread::yield_now();
    }
}

fn access(region: u32, offset: u64, count: usize) -> RegionAccess {
    RegionAccess {
        offset: offset.into(),
        region: region.into(),
        count: (count as u32).into(),
    }
}

fn dma_map(address: u64, size: u64, offset: u64, flags: u32) -> DmaMap {
    DmaMap {
        argsz: 32.into(),
        flags: flags.into(),
        offset: offset.into(),
        address: address.into(),
        size: size.into(),
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn new_memfd(len: u64) -> OwnedFd {
    let memfd = memfd_create(c"client", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, len).unwrap();
    memfd
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let patience = rustix::event::Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&patience)).unwrap() == 1
}

#[test]
fn an_honest_client_is_served_and_so_is_the_next() {
    let served = Served::start();
    served.assert_works();
    served.assert_works();
}

#[test]
fn the_card_describes_itself_as_a_pci_function() {
    let served = Served::start();
    let mut client = served.client();
    let info: DeviceInfo = client.ask(command::DEVICE_GET_INFO, &DeviceInfo::default());
    assert_eq!(
        (
            info.flags.get(),
            info.num_regions.get(),
            info.num_irqs.get()
        ),
        (3, 9, 5)
    );
    let lens: Vec<_> = (0..9_u32)
        .map(|index| {
            let request = RegionInfo {
                index: index.into(),
                ..RegionInfo::default()
            };
            let info: RegionInfo = client.ask(command::DEVICE_GET_REGION_INFO, &request);
            assert_eq!(info.flags.get() & region::FLAG_MMAP, 0);
            info.size.get()
        })
        .collect();
    assert_eq!(lens, [0x4000, 0x1000, 0x1000, 0, 0, 0, 0, 0x1000, 0]);
    let counts: Vec<_> = (0..5_u32)
        .map(|index| {
            let request = IrqInfo {
                index: index.into(),
                ..IrqInfo::default()
            };
            let info: IrqInfo = client.ask(command::DEVICE_GET_IRQ_INFO, &request);
            info.count.get()
        })
        .collect();
    assert_eq!(counts, [0, 0, 3, 1, 1]);
}

#[test]
fn a_doorbell_eventfd_does_what_the_register_does() {
    let served = Served::start();
    let mut client = served.client();
    let mut request = RegionIoFds {
        argsz: 16.into(),
        ..RegionIoFds::default()
    };
    let short: RegionIoFds = client.ask(command::DEVICE_GET_REGION_IO_FDS, &request);
    assert_eq!((short.argsz.get(), short.count.get()), (16 + 2 * 40, 2));
    request.argsz = short.argsz;
    let (reply, fds) = client
        .call_with(command::DEVICE_GET_REGION_IO_FDS, request.as_bytes(), &[])
        .unwrap();
    let part = SubRegionIoFd::read_from_bytes(&reply[16 + 40..]).unwrap();
    assert_eq!((part.offset.get(), part.fd_index.get()), (NOTIFY + 4, 0));
    assert_eq!(fds.len(), 1);

    /// A client whose doorbells are eventfds.
    struct WithEventfd(Client, OwnedFd);
    impl Bus for WithEventfd {
        fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
            self.0.read_bar(bar, offset, buf);
        }
        fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
            if bar == 0 && offset >= NOTIFY {
                rustix::io::write(&self.1, &1_u64.to_ne_bytes()).unwrap();
            } else {
                self.0.write_bar(bar, offset, bytes);
            }
        }
        fn write_config(&mut self, offset: u16, bytes: &[u8]) {
            self.0.write_config(offset, bytes);
        }
        fn map(&mut self, iova: u64, len: u64, write: bool, file: &OwnedFd, offset: u64) {
            self.0.map(iova, len, write, file, offset);
        }
        fn wait(&mut self) {
            self.0.wait();
        }
    }
    let eventfd = fds.into_iter().next().unwrap();
    let mut driver = Driver::start(WithEventfd(client, eventfd));
    let (status, id) = driver.open_session(&[5]);
    assert_eq!(status, Status::OK);
    assert_eq!(driver.encrypt(id, &[1]).1, [6]);
}

#[test]
fn completions_reach_the_eventfd_of_the_queue() {
    let served = Served::start();
    let mut driver = Driver::start(served.client());
    let eventfds = [new_eventfd(), new_eventfd(), new_eventfd()];
    let request = irq_set(irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER, 3);
    let fds: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    let client = &mut driver.bus;
    client
        .call_with(command::DEVICE_SET_IRQS, request.as_bytes(), &fds)
        .unwrap();
    let (_, id) = driver.open_session(&[1]);
    assert!(is_readable(&eventfds[2]));
    driver.encrypt(id, &[1]);
    assert!(is_readable(&eventfds[1]));
    // No change of the configuration has happened, least of all at DRIVER_OK.
    let mut value = [0; 8];
    rustix::io::read(&eventfds[0], &mut value).unwrap_err();
}

/// Adds as [`AddEngine`] does, but says when it starts and waits to be let.
#[derive(Clone, Debug)]
struct HeldEngine {
    started: Sender<()>,
    release: Arc<Mutex<Receiver<()>>>,
}

struct HeldSession(HeldEngine, Arc<dyn Session>);

impl Engine for HeldEngine {
    fn offer(&self) -> Offer {
        AddEngine.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let session = AddEngine.open(spec, key)?;
        Ok(Arc::new(HeldSession(self.clone(), session)))
    }
}

impl Session for HeldSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Self(engine, session) = self;
        engine.started.send(()).unwrap();
        // Fails only if the test has failed.
        let _ = engine.release.lock().unwrap().recv();
        session.execute(operation, output)
    }
}

#[test]
fn registers_are_answered_while_an_engine_computes() {
    let (started, has_started) = mpsc::channel();
    let (let_go, release) = mpsc::channel();
    let release = Arc::new(Mutex::new(release));
    let served = Served::with_engine(Arc::new(HeldEngine { started, release }));
    let mut driver = Driver::start(served.client());
    let (_, id) = driver.open_session(&[1]);
    let request = cipher_data(id, 1, 1);
    driver.submit(DATA_QUEUE, &[request.as_bytes(), &[0; 16], &[6]], &[1, 1]);
    has_started.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(!driver.needs_reset());
    assert!(driver.completed(DATA_QUEUE).is_none());
    let_go.send(()).unwrap();
    while driver.completed(DATA_QUEUE).is_none() {
        driver.bus.wait();
    }
}

fn irq_set(flags: u32, count: u32) -> IrqSet {
    IrqSet {
        argsz: 20.into(),
        flags: flags.into(),
        index: irq::MSIX.into(),
        start: 0.into(),
        count: count.into(),
    }
}

#[test]
fn versions_are_negotiated_with_and_without_json() {
    let served = Served::start();
    for json in [
        &b""[..],
        b"\0",
        b"{}\0",
        b"{\"capabilities\":{\"max_msg_fds\":8}}",
        b"{}\0junk",
    ] {
        let mut client = Client {
            stream: served.connect(),
            next_id: 0,
        };
        let reply = client.negotiate(json).unwrap();
        assert_eq!(reply[..4], [0, 0, 1, 0]);
        assert_eq!(reply.last(), Some(&0), "QEMU wants the NUL");
        assert_eq!(client.negotiate(json), Err(Errno::PROTO), "once is enough");
    }
    for json in [&b"{"[..], b"\xff\xfe\0", b"[1,2"] {
        let mut client = Client {
            stream: served.connect(),
            next_id: 0,
        };
        assert_eq!(client.negotiate(json), Err(Errno::INVAL));
        let empty = client.call(command::VERSION, &[]);
        assert_eq!(empty, Err(Errno::INVAL));
        client.negotiate(b"").unwrap();
    }
    let mut client = Client {
        stream: served.connect(),
        next_id: 0,
    };
    assert_eq!(
        client.call(command::VERSION, &[9, 0, 0, 0]),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(client.call(command::DEVICE_RESET, &[]), Err(Errno::PROTO));
    drop(client);
    served.assert_works();
}

#[test]
fn an_unknown_command_takes_its_body_with_it() {
    let served = Served::start();
    let mut client = served.client();
    for unknown in [0, 11, 14, 99, u16::MAX] {
        assert_eq!(client.call(unknown, &[0x5a; 333]), Err(Errno::OPNOTSUPP));
        let info: DeviceInfo = client.ask(command::DEVICE_GET_INFO, &DeviceInfo::default());
        assert_eq!(info.num_regions.get(), 9);
    }
}

#[test]
fn every_command_refuses_a_short_body_and_absurd_numbers() {
    let served = Served::start();
    let mut client = served.client();
    for command in 2..=13 {
        for len in [0, 1, 7] {
            let outcome = client.call(command, &vec![0xff; len]);
            assert!(
                outcome.is_err() || command == command::DEVICE_RESET,
                "{command} {len}"
            );
        }
        let outcome = client.call(command, &[0xff; 64]);
        let harmless = matches!(command, command::DEVICE_RESET | command::DEVICE_GET_INFO);
        assert!(outcome.is_err() || harmless, "{command}");
    }
    for (region, offset, count) in [
        (0, 0, u32::MAX),
        (0, u64::MAX, 1),
        (0, 0x3fff, 2),
        (3, 0, 1),
        (8, 0, 1),
        (9, 0, 1),
        (u32::MAX, 0, 1),
        (region::CONFIG, 4095, 2),
    ] {
        let request = RegionAccess {
            offset: offset.into(),
            region: region.into(),
            count: count.into(),
        };
        for command in [command::REGION_READ, command::REGION_WRITE] {
            assert_eq!(client.call(command, request.as_bytes()), Err(Errno::INVAL));
        }
    }
    let missing_data = access(0, 0, 8);
    let outcome = client.call(command::REGION_WRITE, missing_data.as_bytes());
    assert_eq!(outcome, Err(Errno::INVAL));
    drop(client);
    served.assert_works();
}

#[test]
fn a_header_that_cannot_be_one_ends_the_connection() {
    let served = Served::start();
    for (size, flags) in [
        (0, 0),
        (15, 0),
        (u32::MAX, 0),
        (2 << 20, 0),
        (16, flag::TYPE_REPLY),
    ] {
        let client = served.client();
        let header = Header {
            message_id: 77.into(),
            command: command::DEVICE_RESET.into(),
            message_size: size.into(),
            flags: flags.into(),
            error: 0.into(),
        };
        client.send(&header, &[], &[]);
        client.assert_closed();
    }
    served.assert_works();
}

#[test]
fn a_client_that_leaves_in_the_middle_is_forgotten() {
    let served = Served::start();
    let header = Header {
        command: command::REGION_WRITE.into(),
        message_size: 4096.into(),
        ..Header::default()
    };
    for len in [1, 15, 16, 17, 100] {
        let client = served.client();
        let bytes = [header.as_bytes(), &[0; 100]].concat();
        (&client.stream).write_all(&bytes[..len]).unwrap();
    }
    drop(served.connect());
    served.assert_works();
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    let served = Served::start();
    let mut client = served.client();
    let body = DeviceInfo::default();
    let header = client.command(command::DEVICE_GET_INFO, body.as_bytes());
    for byte in [header.as_bytes(), body.as_bytes()].concat() {
        (&client.stream).write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive().1.len(), 16);
}

#[test]
fn a_command_that_wants_no_reply_gets_none_even_if_it_fails() {
    let served = Served::start();
    let mut client = served.client();
    for command in [command::DEVICE_RESET, 99, command::REGION_READ] {
        let mut header = client.command(command, &[]);
        header.flags = flag::NO_REPLY.into();
        client.send(&header, &[], &[]);
    }
    let info: DeviceInfo = client.ask(command::DEVICE_GET_INFO, &DeviceInfo::default());
    assert_eq!(info.num_irqs.get(), 5);
}

#[test]
fn descriptors_nobody_asked_for_are_refused_and_closed() {
    let served = Served::start();
    let mut client = served.client();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let many = [writer.as_fd(); 10];
    let info = DeviceInfo::default();
    let outcome = client.call_with(command::DEVICE_GET_INFO, info.as_bytes(), &many);
    assert_eq!(outcome.unwrap_err(), Errno::INVAL);
    let memory = new_memfd(0x1000);
    let two = [memory.as_fd(), memory.as_fd()];
    let map = dma_map(IOVA, 0x1000, 0, 3);
    let outcome = client.call_with(command::DMA_MAP, map.as_bytes(), &two);
    assert_eq!(outcome.unwrap_err(), Errno::INVAL);
    let wrong_count = irq_set(irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER, 3);
    let outcome = client.call_with(command::DEVICE_SET_IRQS, wrong_count.as_bytes(), &many);
    assert_eq!(outcome.unwrap_err(), Errno::INVAL);
    // More than a message may carry.
    let header = client.command(command::DMA_MAP, map.as_bytes());
    client.send(&header, map.as_bytes(), &[writer.as_fd(); 40]);
    client.assert_closed();
    drop(writer);
    // All copies of the writing end are closed once reading gives end of file.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    drop((reader, memory));
    served.assert_works();
}

#[test]
fn maps_are_checked_against_file_and_flags() {
    let served = Served::start();
    let mut client = served.client();
    let memory = new_memfd(0x1000);
    let mut map = |address, size, offset, flags| {
        let request = dma_map(address, size, offset, flags);
        client
            .call_with(command::DMA_MAP, request.as_bytes(), &[memory.as_fd()])
            .map(|(body, _)| assert_eq!(body, [0_u8; 0]))
    };
    let both = dma::READ | dma::WRITE;
    assert_eq!(
        map(IOVA, 0x2000, 0, both),
        Err(Errno::INVAL),
        "file too short"
    );
    assert_eq!(map(IOVA, 0x1000, 1, both), Err(Errno::INVAL));
    assert_eq!(map(IOVA, u64::MAX, 0, both), Err(Errno::INVAL));
    assert_eq!(map(IOVA, 0, 0, both), Err(Errno::INVAL));
    assert_eq!(map(IOVA, 0x1000, 0, 4), Err(Errno::INVAL));
    assert_eq!(map(IOVA, 0x1000, 0, both), Ok(()));
    assert_eq!(map(IOVA + 0x800, 0x1000, 0, both), Err(Errno::EXIST));
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let pipe = dma_map(IOVA + 0x10_0000, 0x1000, 0, 1);
    let outcome = client.call_with(command::DMA_MAP, pipe.as_bytes(), &[reader.as_fd()]);
    assert_eq!(outcome.unwrap_err(), Errno::INVAL);
    // QEMU maps ROMs without a descriptor.
    let without = dma_map(IOVA + 0x20_0000, 0x1000, 0, 1);
    client.call(command::DMA_MAP, without.as_bytes()).unwrap();
    let unmap = DmaUnmap {
        argsz: 24.into(),
        flags: 0.into(),
        address: IOVA.into(),
        size: 0x1000.into(),
    };
    let reply: DmaUnmap = client.ask(command::DMA_UNMAP, &unmap);
    assert_eq!(reply.size.get(), 0x1000);
    let again = client.call(command::DMA_UNMAP, unmap.as_bytes());
    assert_eq!(again, Err(Errno::NOENT));
}

#[test]
fn the_next_client_finds_nothing_of_the_one_before() {
    let served = Served::start();
    let mut driver = Driver::start(served.client());
    let (_, id) = driver.open_session(&[1]);
    drop(driver);
    // Mapping the same addresses again only works because they were taken back.
    let mut driver = Driver::start(served.client());
    assert_eq!(driver.encrypt(id, &[1]).0, Status::INVSESS);
    let boot_id = driver.health(0x18);
    drop(driver);
    let mut driver = Driver::start(served.client());
    assert_eq!(
        driver.health(0x18),
        boot_id,
        "the firmware has not restarted"
    );
}

#[test]
fn the_socket_is_for_owner_and_group_and_replaces_only_what_is_stale() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("card.sock");
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o660
    );
    assert!(matches!(
        Listener::bind(&path),
        Err(BindError::InUse { .. })
    ));
    assert!(path.exists(), "a live socket is left alone");
    drop(listener);
    assert!(!path.exists());
    // What a killed server leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&path).unwrap();
    // Somebody else's file in our place is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(listener);
    assert!(path.exists());
    assert!(matches!(
        Listener::bind(&path),
        Err(BindError::NotASocket { .. })
    ));
    let long = directory.path().join("x".repeat(120));
    assert!(matches!(
        Listener::bind(&long),
        Err(BindError::PathTooLong { .. })
    ));
    let nowhere = directory.path().join("no/such/directory");
    assert!(matches!(
        Listener::bind(&nowhere),
        Err(BindError::Os { .. })
    ));
}
