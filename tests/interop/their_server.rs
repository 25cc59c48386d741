//! Our driver, and the vfio-user client below it, on the crate's server.
//!
//! Behind the server is the card that `firmware-sim` simulates, so that what goes wrong here goes
//! wrong on the wire. Crypto runs in a thread of its own: their server answers nobody while its
//! backend is busy.

use crate::{PATIENT, new_eventfd, signals, wait_for_any};
use card_device::dma::{Access as DmaAccess, Backing};
use card_device::interrupt::IrqRequest;
use card_device::{Batch, Card as Device, CardConfig};
use card_spec::crypto::PCI_DEVICE_ID;
use card_spec::health::MAGIC;
use card_spec::pci::CONFIG_EXTENDED_LEN;
use card_spec::vfio::{irq, region};
use card_spec::vfio_user::{Header, Version, command};
use card_spec::virtio_pci::VENDOR_ID;
use firmware_sim::engine::RustCrypto;
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, DeviceError, Operation, Request, RequestId, State,
};
use hwshim::address::Address;
use hwshim::bus::dma::Memory;
use hwshim::bus::vfio_user::{Options, VfioUserFunction};
use hwshim::bus::{Access, BusError, Function};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};
use zerocopy::IntoBytes;

/// The BAR with the doorbells, where they are in it, and the BARs with the MSI-X table and the
/// health page.
const VIRTIO_BAR: u8 = 0;
const DOORBELLS: u64 = 0x3000;
const MSIX_BAR: u8 = 1;
const HEALTH_BAR: u8 = 2;
const PAGE_LEN: u64 = 0x1000;

/// A card behind the crate's server, in threads of this process.
struct TheirServer {
    directory: TempDir,
    card: Arc<Mutex<Device>>,
    notes: Arc<Mutex<Notes>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a backend has seen, and what it is to do.
#[derive(Debug, Default)]
struct Notes {
    /// Flags, offset, address and length, and whether a descriptor came along.
    maps: Vec<(DmaMapFlags, u64, u64, u64, bool)>,
    /// Address and length.
    unmaps: Vec<(u64, u64)>,
    /// Flags, first vector, number of vectors, number of descriptors.
    irqs: Vec<(u32, u32, u32, usize)>,
    rings: usize,
    resets: usize,
    /// Refuse everything.
    refuses: bool,
    /// Take the whole server down at the next command.
    crashes: bool,
}

impl TheirServer {
    fn start() -> Self {
        Self::with_reset(true)
    }

    fn with_reset(resettable: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Device::new(&CardConfig::default(), Arc::new(RustCrypto)).unwrap();
        // A page that could be mapped for doorbells, as other servers offer one.
        let doorbells = memfd_create(c"doorbells", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&doorbells, PAGE_LEN).unwrap();
        let irqs = irqs(&device);
        let regions = (0..region::COUNT)
            .map(|index| server_region(index, &doorbells))
            .collect();
        let path = directory.path().join("card.sock");
        let server = Server::new(&path, resettable, irqs, regions).unwrap();
        let card = Arc::new(Mutex::new(device));
        let notes = Arc::new(Mutex::new(Notes::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (ring, rung) = mpsc::channel();
        let mut backend = Backend {
            card: Arc::clone(&card),
            notes: Arc::clone(&notes),
            ring,
        };
        let stop = Arc::clone(&stopping);
        let thread = thread::spawn(move || {
            let engine = thread::spawn({
                let card = Arc::clone(&backend.card);
                move || compute(&card, &rung)
            });
            while !stop.load(Ordering::Acquire) {
                // An error is a client that hung up while it was being answered.
                let _ = server.run(&mut backend);
                backend.card.lock().unwrap().disconnect();
            }
            drop((backend, doorbells));
            engine.join().unwrap();
        });
        Self {
            directory,
            card,
            notes,
            stopping,
            thread: Some(thread),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("card.sock")
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    fn function(&self) -> Arc<VfioUserFunction> {
        VfioUserFunction::connect(&self.path(), Options { timeout: PATIENT }).unwrap()
    }

    /// The whole driver, brought up.
    fn accelerator(&self) -> Box<dyn Accelerator> {
        let opened = Address::VfioUser(self.path()).open_accelerator().unwrap();
        let mut accelerator = opened.accelerator;
        accelerator.reset(&mut Vec::new()).unwrap();
        assert_eq!(accelerator.state(), State::Ready);
        accelerator
    }

    /// Waits for the end of a server that is dying.
    fn has_crashed(mut self) -> bool {
        self.thread.take().unwrap().join().is_err()
    }
}

impl Drop for TheirServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It looks up when a client leaves; one that has crashed accepts none.
        drop(UnixStream::connect(self.path()));
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

fn irqs(device: &Device) -> Vec<IrqInfo> {
    (0..irq::COUNT)
        .map(|index| IrqInfo {
            index,
            flags: irq::FLAG_EVENTFD | irq::FLAG_NORESIZE,
            count: device.irq_count(index),
        })
        .collect()
}

/// The crate sends a descriptor only with a list of areas that may be mapped.
fn server_region(index: u32, doorbells: &OwnedFd) -> ServerRegion {
    let mappable = index == u32::from(VIRTIO_BAR);
    let size = match index {
        region::CONFIG => CONFIG_EXTENDED_LEN as u64,
        index => Device::bar_len(index as u8),
    };
    let area = vfio_region_sparse_mmap_area {
        offset: DOORBELLS,
        size: PAGE_LEN,
    };
    ServerRegion {
        region_info: vfio_region_info {
            argsz: size_of::<vfio_region_info>() as u32,
            flags: region::FLAG_READ
                | region::FLAG_WRITE
                | if mappable { region::FLAG_MMAP } else { 0 },
            index,
            cap_offset: 0,
            size,
            offset: 0,
        },
        sparse_areas: mappable
            .then_some(SparseArea { area })
            .into_iter()
            .collect(),
        mmap_fd: mappable.then(|| doorbells.as_raw_fd()),
    }
}

/// Executes requests whenever a doorbell has been rung, until nobody can ring any more.
fn compute(card: &Mutex<Device>, rung: &Receiver<()>) {
    let mut batch = Batch::new(0);
    while rung.recv().is_ok() {
        while card.lock().unwrap().take(&mut batch, 16) > 0 {
            batch.execute();
            card.lock().unwrap().complete(&mut batch);
        }
    }
}

/// What the crate asks its users to write.
struct Backend {
    card: Arc<Mutex<Device>>,
    notes: Arc<Mutex<Notes>>,
    ring: Sender<()>,
}

impl Backend {
    fn card(&self) -> io::Result<MutexGuard<'_, Device>> {
        let (refuses, crashes) = {
            let notes = self.notes.lock().unwrap();
            (notes.refuses, notes.crashes)
        };
        if crashes {
            // A panic without its message in the output of a test that passes.
            std::panic::resume_unwind(Box::new("the card's firmware has crashed"));
        }
        if refuses {
            return Err(Errno::BUSY.into());
        }
        Ok(self.card.lock().unwrap())
    }

    fn note(&self, note: impl FnOnce(&mut Notes)) {
        note(&mut self.notes.lock().unwrap());
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let mut card = self.card()?;
        match region {
            region::CONFIG => card.read_config(offset as usize, data),
            bar => card.read_bar(bar as u8, offset, data),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut card = self.card()?;
        match region {
            region::CONFIG => card.write_config(offset as usize, data),
            bar => card.write_bar(bar as u8, offset, data),
        }
        if card.take_doorbell() {
            self.note(|notes| notes.rings += 1);
            self.ring.send(()).unwrap();
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let mut card = self.card()?;
        let access = DmaAccess {
            read: flags.contains(DmaMapFlags::READ),
            write: flags.contains(DmaMapFlags::WRITE),
        };
        let map = (flags, offset, address, size, file.is_some());
        self.note(|notes| notes.maps.push(map));
        let backing = file.map(|file| Backing {
            file: file.into(),
            offset,
        });
        card.map(address, size, access, backing)
            .map_err(io::Error::other)
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        assert_eq!(self.card()?.unmap(address, size), size);
        self.note(|notes| notes.unmaps.push((address, size)));
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.card()?.reset();
        self.note(|notes| notes.resets += 1);
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let irqs = (flags, start, count, fds.len());
        self.note(|notes| notes.irqs.push(irqs));
        let request = IrqRequest {
            index,
            flags,
            start,
            count,
            bools: &[],
            eventfds: fds.into_iter().map(OwnedFd::from).collect(),
        };
        Ok(self.card()?.set_irqs(request)?)
    }
}

fn request(index: u32, operation: Operation) -> Request {
    Request {
        id: RequestId {
            index,
            generation: 0,
        },
        operation: Arc::new(operation),
        deadline: SystemClock.now().plus(PATIENT),
    }
}

/// Waits, by nothing but the events it names, until `count` requests have come back.
fn await_completions(accelerator: &mut dyn Accelerator, count: usize) -> Vec<Completion> {
    let mut completions = Vec::new();
    loop {
        accelerator.poll(SystemClock.now(), &mut completions);
        if completions.len() >= count {
            return completions;
        }
        if accelerator.arm() {
            wait_for_any(&accelerator.events());
        }
    }
}

#[track_caller]
fn assert_answers(accelerator: &mut dyn Accelerator, test: &kat::KnownAnswer) {
    let request = request(0, test.operation());
    accelerator.submit(request, SystemClock.now()).unwrap();
    let Completion { request, output } = await_completions(accelerator, 1).pop().unwrap();
    let accepted = test.accepts(&request.operation, output.unwrap());
    assert!(accepted, "{test:?} is wrong");
}

#[test]
fn every_known_answer_comes_back_through_their_server() {
    let server = TheirServer::start();
    let mut accelerator = server.accelerator();
    for algorithm in Algorithm::all() {
        assert!(accelerator.offers(algorithm), "{algorithm}");
    }
    for test in &kat::ALL {
        assert_answers(&mut *accelerator, test);
    }
    // Doorbells were messages: there are no descriptors for them, and no BAR is mapped.
    assert!(server.notes().rings >= kat::ALL.len());
}

#[test]
fn what_is_in_flight_at_a_reset_is_handed_back_and_the_card_works_on() {
    let server = TheirServer::start();
    let mut accelerator = server.accelerator();
    for index in 0..10 {
        let request = request(index, kat::ALL[0].operation());
        accelerator.submit(request, SystemClock.now()).unwrap();
    }
    accelerator.flush();
    let mut completions = Vec::new();
    accelerator.reset(&mut completions).unwrap();
    assert_eq!((completions.len(), accelerator.in_flight()), (10, 0));
    assert_answers(&mut *accelerator, &kat::ALL[0]);
}

#[test]
fn their_server_serves_one_driver_of_ours_after_the_other() {
    let server = TheirServer::start();
    for _ in 0..3 {
        assert_answers(&mut *server.accelerator(), &kat::ALL[0]);
    }
}

#[test]
fn a_server_that_crashes_is_a_card_that_was_pulled_out() {
    let server = TheirServer::start();
    let mut accelerator = server.accelerator();
    server.notes().crashes = true;
    let request = request(0, kat::ALL[0].operation());
    accelerator.submit(request, SystemClock.now()).unwrap();
    accelerator.flush();
    let completion = await_completions(&mut *accelerator, 1).pop().unwrap();
    assert_eq!(completion.output.unwrap_err(), DeviceError::Gone);
    assert_ne!(accelerator.state(), State::Ready);
    assert!(server.has_crashed());
}

#[test]
fn registers_are_those_of_the_card() {
    let server = TheirServer::start();
    let function = server.function();
    let mut ids = [0; 4];
    function.read_config(0, &mut ids).unwrap();
    assert_eq!(ids[..2], VENDOR_ID.to_le_bytes());
    assert_eq!(ids[2..], PCI_DEVICE_ID.to_le_bytes());
    function.write_config(4, &6_u16.to_le_bytes()).unwrap();
    let mut register = [0; 2];
    function.read_config(4, &mut register).unwrap();
    assert_eq!(u16::from_le_bytes(register), 6);

    let lens = [0, 1, 2, 3, 4, 5].map(|bar| function.bar_len(bar).unwrap());
    assert_eq!(lens, [0x4000, 0x1000, 0x1000, 0, 0, 0]);
    let mut magic = [0; 4];
    function.read_bar(HEALTH_BAR, 0, &mut magic).unwrap();
    assert_eq!(magic, MAGIC.to_le_bytes());
    // The MSI-X table is plain storage, 16 bytes for each of 3 vectors.
    let pattern: Vec<u8> = (1..=41).collect();
    for offset in 0..7 {
        function.write_bar(MSIX_BAR, offset, &pattern).unwrap();
        let mut read = vec![0; pattern.len()];
        function.read_bar(MSIX_BAR, offset, &mut read).unwrap();
        assert_eq!(read, pattern);
    }
}

#[test]
fn memory_is_given_by_descriptor_and_taken_back_whole() {
    let server = TheirServer::start();
    let function = server.function();
    let memory = Arc::new(Memory::new(0x5000).unwrap());
    let len = memory.len() as u64;
    let reads = function.share(&memory, Access::DeviceReads).unwrap();
    let writes = function.share(&memory, Access::DeviceWrites).unwrap();
    assert_eq!(
        server.notes().maps,
        [
            (DmaMapFlags::READ, 0, reads.0, len, true),
            (DmaMapFlags::READ_WRITE, 0, writes.0, len, true),
        ]
    );
    function.unshare(reads).unwrap();
    function.unshare(writes).unwrap();
    assert_eq!(server.notes().unmaps, [(reads.0, len), (writes.0, len)]);
}

#[test]
fn each_vector_reaches_its_eventfd_and_none_does_once_disarmed() {
    let server = TheirServer::start();
    let function = server.function();
    let trigger = |vector| {
        let request = IrqRequest {
            index: irq::MSIX,
            flags: irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER,
            start: vector,
            count: 1,
            bools: &[],
            eventfds: Vec::new(),
        };
        server.card.lock().unwrap().set_irqs(request).unwrap();
    };
    let eventfds = [new_eventfd(), new_eventfd(), new_eventfd()];
    assert_eq!(
        usize::from(function.vector_count().unwrap()),
        eventfds.len()
    );
    let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    function.connect_vectors(&borrowed).unwrap();
    for vector in 0..3 {
        trigger(vector);
        let expected = [0, 1, 2].map(|index| u64::from(index == vector));
        assert_eq!(eventfds.each_ref().map(signals), expected);
    }
    function.connect_vectors(&[]).unwrap();
    trigger(1);
    assert_eq!(eventfds.each_ref().map(signals), [0; 3]);

    // Their server takes one descriptor in a message.
    let connect = irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER;
    let disarm = irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER;
    let connections = [0, 1, 2].map(|vector| (connect, vector, 1, 1));
    let [first, second, third] = connections;
    assert_eq!(
        server.notes().irqs,
        [first, second, third, (disarm, 0, 0, 0)]
    );
}

#[test]
fn the_question_for_doorbell_descriptors_leaves_their_server_in_step() {
    let server = TheirServer::start();
    let function = server.function();
    for rung in 1..=3 {
        let doorbell = function.doorbell(VIRTIO_BAR, DOORBELLS, 0).unwrap();
        doorbell.ring().unwrap();
        // Answered after the ring, and in step.
        let mut magic = [0; 4];
        function.read_bar(HEALTH_BAR, 0, &mut magic).unwrap();
        assert_eq!(magic, MAGIC.to_le_bytes());
        assert_eq!(server.notes().rings, rung);
    }
}

#[test]
fn a_refusal_without_an_errno_is_an_error_in_words() {
    let server = TheirServer::start();
    let function = server.function();
    let memory = Arc::new(Memory::new(1).unwrap());
    let shared = function.share(&memory, Access::DeviceReads).unwrap();
    let eventfd = new_eventfd();
    server.notes().refuses = true;
    let outcomes = [
        function.read_bar(VIRTIO_BAR, 0, &mut [0; 4]),
        function.write_bar(VIRTIO_BAR, 0, &[0; 4]),
        function.read_config(0, &mut [0; 4]),
        function.share(&memory, Access::DeviceReads).map(drop),
        function.unshare(shared),
        function.connect_vectors(&[eventfd.as_fd()]),
        function.reset(),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, BusError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.ends_with("the device side gave no reason"), "{text}");
    }
    server.notes().refuses = false;
    function.unshare(shared).unwrap();
    function.reset().unwrap();
    assert!(!function.is_gone());
}

#[test]
fn a_doorbell_that_is_refused_aloud_does_no_harm() {
    let server = TheirServer::start();
    let function = server.function();
    let doorbell = function.doorbell(VIRTIO_BAR, DOORBELLS, 0).unwrap();
    for _ in 0..3 {
        server.notes().refuses = true;
        // Wants no reply, and gets one: their server answers errors whether asked to or not.
        doorbell.ring().unwrap();
        function.read_bar(HEALTH_BAR, 0, &mut [0; 4]).unwrap_err();
        server.notes().refuses = false;
        function.read_bar(HEALTH_BAR, 0, &mut [0; 4]).unwrap();
    }
}

#[test]
fn a_function_is_reset_only_if_it_offers_that() {
    let server = TheirServer::start();
    server.function().reset().unwrap();
    assert_eq!(server.notes().resets, 1);

    let server = TheirServer::with_reset(false);
    let error = server.function().reset().unwrap_err();
    assert!(error.to_string().contains("offers no reset"), "{error}");
    assert_eq!(server.notes().resets, 0);
    // The driver resets the device inside it, which is virtio's own business.
    assert_answers(&mut *server.accelerator(), &kat::ALL[0]);
}

#[test]
fn their_server_dies_of_a_version_without_the_nul_that_ours_has() {
    let server = TheirServer::start();
    drop(server.function());
    let version = Version {
        major: 0.into(),
        minor: 1.into(),
    };
    let body = [version.as_bytes(), b"{\"capabilities\":{}}"].concat();
    let header = Header {
        command: command::VERSION.into(),
        message_size: ((size_of::<Header>() + body.len()) as u32).into(),
        ..Header::default()
    };
    let mut stream = UnixStream::connect(server.path()).unwrap();
    stream.write_all(header.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it answers");
    assert!(server.has_crashed());
}
