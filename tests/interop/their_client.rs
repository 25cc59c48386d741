//! The crate's client on our server, in a process of its own.
//!
//! Their client waits for ever for bytes that do not come, so each conversation runs in a thread
//! that the test does not wait for beyond its patience; the card ends with the test, and with it
//! the connection.

use crate::common::CardProcess;
use crate::driver::{BUFFERS, Bus, DATA_QUEUE, Driver, IOVA, MEMORY_LEN, cipher_data};
use crate::{PATIENT, new_eventfd, signals, wait_for_any};
use card_spec::crypto::{PCI_DEVICE_ID, Status};
use card_spec::vfio::{irq, region};
use card_spec::vfio_user::{Header, flag};
use card_spec::virtio_pci::VENDOR_ID;
use hwshim::accelerator::{Direction, Operation, Secret, software};
use hwshim::address::Address;
use hwshim::key::CipherKey;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use vfio_user::{Client, Error};
use zerocopy::{FromZeros, IntoBytes};

const PAGE_LEN: u64 = 0x1000;

/// A key, a block, and what AES-128 makes of it (NIST SP 800-38A §F.1.1 "ECB-AES128.Encrypt"),
/// which is also what CBC makes of the first block when the initialisation vector is zero.
const KEY: [u8; 16] = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
const PLAINTEXT: [u8; 16] = 0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a_u128.to_be_bytes();
const CIPHERTEXT: [u8; 16] = 0x3ad7_7bb4_0d7a_3660_a89e_caf3_2466_ef97_u128.to_be_bytes();

/// The card `firmware-sim` simulates.
struct OurServer {
    process: CardProcess,
    directory: TempDir,
}

impl OurServer {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = CardProcess::start(directory.path());
        Self { process, directory }
    }

    fn path(&self) -> PathBuf {
        match self.process.address() {
            Address::VfioUser(path) => path,
            other => panic!("{other} is not a socket"),
        }
    }

    /// Has their client talk to it, for as long as is sensible.
    fn talk<T: Send + 'static>(&self, talk: impl FnOnce(Client) -> T + Send + 'static) -> T {
        Talk::start(self.path(), talk).end()
    }

    #[track_caller]
    fn assert_works(&self) {
        self.talk(|client| {
            assert_encrypts(&mut Driver::start(PageByPage(client)));
        });
    }
}

/// A conversation of their client, in a thread.
struct Talk<T> {
    outcome: Receiver<T>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Talk<T> {
    fn start(path: PathBuf, talk: impl FnOnce(Client) -> T + Send + 'static) -> Self {
        let (sender, outcome) = mpsc::channel();
        let thread = thread::spawn(move || {
            let outcome = talk(Client::new(&path).unwrap());
            // Nobody listens any more if it took too long.
            let _ = sender.send(outcome);
        });
        Self { outcome, thread }
    }

    #[track_caller]
    fn end(self) -> T {
        match self.outcome.recv_timeout(PATIENT) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => panic!("their client waits for an answer"),
            Err(RecvTimeoutError::Disconnected) => {
                resume_unwind(self.thread.join().expect_err("it sends before it ends"))
            }
        }
    }
}

/// A driver's way to the card. Memory is mapped as QEMU does it behind a virtual IOMMU.
struct PageByPage(Client);

impl Bus for PageByPage {
    fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
        self.0.region_read(bar.into(), offset, buf).unwrap();
    }

    fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
        self.0.region_write(bar.into(), offset, bytes).unwrap();
    }

    fn write_config(&mut self, offset: u16, bytes: &[u8]) {
        self.0
            .region_write(region::CONFIG, offset.into(), bytes)
            .unwrap();
    }

    fn map(&mut self, iova: u64, len: u64, _write: bool, file: &OwnedFd, offset: u64) {
        for page in (0..len).step_by(PAGE_LEN as usize) {
            self.0
                .dma_map(offset + page, iova + page, PAGE_LEN, file.as_raw_fd())
                .unwrap();
        }
    }

    fn wait(&mut self) {
        thread::yield_now();
    }
}

#[track_caller]
fn assert_encrypts(driver: &mut Driver<PageByPage>) {
    let (status, session) = driver.open_session(&KEY);
    assert_eq!(status, Status::OK);
    let answer = driver.encrypt(session, &PLAINTEXT);
    assert_eq!(answer, (Status::OK, CIPHERTEXT.to_vec()));
    assert_eq!(driver.close_session(session), Status::OK);
}

fn read_u32(client: &mut Client, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client
        .region_read(region::CONFIG, offset, &mut bytes)
        .unwrap();
    u32::from_le_bytes(bytes)
}

fn new_memfd(len: u64) -> OwnedFd {
    let memfd = memfd_create(c"driver", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, len).unwrap();
    memfd
}

#[test]
fn their_client_finds_the_card_and_nothing_in_it_to_map() {
    let server = OurServer::start();
    server.talk(|mut client| {
        let both = region::FLAG_READ | region::FLAG_WRITE;
        let lens = [0x4000, 0x1000, 0x1000, 0, 0, 0, 0, 0x1000, 0];
        for (index, len) in (0..).zip(lens) {
            let found = client.region(index).unwrap();
            let flags = if len == 0 { 0 } else { both };
            assert_eq!((found.size, found.flags), (len, flags));
            assert!(found.file_offset.is_none() && found.sparse_areas.is_empty());
        }
        assert!(client.region(9).is_none());
        let counts = [0, 1, 2, 3, 4].map(|index| client.get_irq_info(index).unwrap().count);
        assert_eq!(counts, [0, 0, 3, 1, 1]);

        let ids = u32::from(PCI_DEVICE_ID) << 16 | u32::from(VENDOR_ID);
        assert_eq!(read_u32(&mut client, 0), ids);
        // As Cloud Hypervisor finds out how long a BAR is.
        let bar = read_u32(&mut client, 0x10);
        client
            .region_write(region::CONFIG, 0x10, &[0xff; 4])
            .unwrap();
        assert_eq!(!(read_u32(&mut client, 0x10) & !0xf) + 1, 0x4000);
        client
            .region_write(region::CONFIG, 0x10, &bar.to_le_bytes())
            .unwrap();
        assert_eq!(read_u32(&mut client, 0x10), bar);
    });
}

#[test]
fn a_request_through_their_client_gets_the_answer_of_the_standard() {
    let server = OurServer::start();
    server.talk(|client| {
        let mut driver = Driver::start(PageByPage(client));
        assert_encrypts(&mut driver);
        // Buffers lie in several pages, each mapped for itself.
        let (_, session) = driver.open_session(&KEY);
        let data: Vec<u8> = (0..=250).cycle().take(0x3800).collect();
        let expected = software::perform(&Operation::Cbc {
            key: Arc::new(CipherKey::new(&KEY).unwrap()),
            direction: Direction::Encrypt,
            iv: [0; 16],
            data: Secret::from(&data[..]),
        });
        let answer = driver.encrypt(session, &data);
        assert_eq!(answer, (Status::OK, expected.unwrap()));
    });
}

#[test]
fn interrupts_reach_their_clients_eventfds_until_they_are_disarmed() {
    const CONNECT: u32 = irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER;
    const DISABLE: u32 = irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER;
    let server = OurServer::start();
    server.talk(|client| {
        let mut driver = Driver::start(PageByPage(client));
        let eventfds = [new_eventfd(), new_eventfd(), new_eventfd()];
        let connect = |client: &mut Client| {
            // As QEMU does, one at a time.
            for (vector, eventfd) in (0..).zip(&eventfds) {
                let fds = [eventfd.as_raw_fd()];
                client
                    .set_irqs(irq::MSIX, CONNECT, vector, 1, &fds)
                    .unwrap();
            }
        };
        // The card signals while it holds the lock that a register access waits for.
        let signalled = |driver: &mut Driver<PageByPage>| {
            driver.device_status();
            eventfds.each_ref().map(signals)
        };
        connect(&mut driver.bus.0);
        assert_encrypts(&mut driver);
        wait_for_any(&[eventfds[1].as_fd()]);
        wait_for_any(&[eventfds[2].as_fd()]);
        let [config, data, control] = signalled(&mut driver);
        assert_eq!((config, data), (0, 1));
        assert!(control > 0);

        // QEMU disarms a vector by connecting it to nothing.
        let client = &mut driver.bus.0;
        client.set_irqs(irq::MSIX, CONNECT, 1, 1, &[]).unwrap();
        assert_encrypts(&mut driver);
        let [_, data, control] = signalled(&mut driver);
        assert!(data == 0 && control > 0, "{data} {control}");

        // And all of them by naming none.
        connect(&mut driver.bus.0);
        let client = &mut driver.bus.0;
        client.set_irqs(irq::MSIX, DISABLE, 0, 0, &[]).unwrap();
        assert_encrypts(&mut driver);
        assert_eq!(signalled(&mut driver), [0; 3]);
    });
}

#[test]
fn memory_mapped_by_the_page_is_taken_back_in_other_pieces() {
    let server = OurServer::start();
    server.talk(|client| {
        let mut driver = Driver::start(PageByPage(client));
        assert_encrypts(&mut driver);
        // Start and length: in no order, and from the middle of a page to the middle of another.
        let pieces = [
            (0x1_3800, 0x8_0800),
            (0, 0x1_0000),
            (0x9_4000, MEMORY_LEN - 0x9_4000),
            (0x1_0000, 0x3800),
        ];
        for (start, len) in pieces {
            driver.bus.0.dma_unmap(IOVA + start, len).unwrap();
        }
        assert_eq!(pieces.iter().map(|(_, len)| len).sum::<u64>(), MEMORY_LEN);
        // Other memory at the same addresses is only seen if nothing of the first is left.
        driver.memory = new_memfd(MEMORY_LEN);
        let memory = driver.memory.as_raw_fd();
        driver.bus.0.dma_map(0, IOVA, MEMORY_LEN, memory).unwrap();
        driver.bring_up();
        assert_encrypts(&mut driver);
    });
}

#[test]
fn what_their_client_took_back_is_out_of_reach_and_a_reset_goes_on_from_there() {
    let server = OurServer::start();
    server.talk(|client| {
        let mut driver = Driver::start(PageByPage(client));
        let (_, session) = driver.open_session(&KEY);
        driver.bus.0.dma_unmap(IOVA + BUFFERS, PAGE_LEN).unwrap();
        let request = cipher_data(session, 16, 16);
        let readable: [&[u8]; 3] = [request.as_bytes(), &[0; 16], &PLAINTEXT];
        driver.submit(DATA_QUEUE, &readable, &[16, 1]);
        while !driver.needs_reset() {
            thread::yield_now();
        }
        let memory = driver.memory.as_raw_fd();
        let client = &mut driver.bus.0;
        client.reset().unwrap();
        client
            .dma_map(BUFFERS, IOVA + BUFFERS, PAGE_LEN, memory)
            .unwrap();
        client
            .region_write(region::CONFIG, 4, &6_u16.to_le_bytes())
            .unwrap();
        driver.bring_up();
        assert_encrypts(&mut driver);
    });
}

#[test]
fn a_map_that_is_refused_is_not_made_though_their_client_says_it_was() {
    let server = OurServer::start();
    server.talk(|client| {
        let mut driver = Driver::start(PageByPage(client));
        let short = new_memfd(PAGE_LEN);
        let elsewhere = IOVA + MEMORY_LEN;
        let client = &mut driver.bus.0;
        // The error flag is not looked at.
        client
            .dma_map(0, elsewhere, 2 * PAGE_LEN, short.as_raw_fd())
            .unwrap();
        client
            .dma_map(0, IOVA, MEMORY_LEN, short.as_raw_fd())
            .unwrap();
        assert_encrypts(&mut driver);
        // The address is still free for a map that can be made.
        let client = &mut driver.bus.0;
        client
            .dma_map(0, elsewhere, PAGE_LEN, short.as_raw_fd())
            .unwrap();
        client.dma_unmap(elsewhere, PAGE_LEN).unwrap();
    });
}

#[test]
fn their_client_takes_our_offer_of_a_reset_for_none_and_is_reset_all_the_same() {
    let server = OurServer::start();
    server.talk(|mut client| {
        assert!(!client.resettable(), "the crate has mended it");
        client.reset().unwrap();
        assert_encrypts(&mut Driver::start(PageByPage(client)));
    });
}

#[test]
fn one_client_of_theirs_is_served_after_the_other() {
    let server = OurServer::start();
    for _ in 0..3 {
        server.assert_works();
    }
}

/// Passes messages on between one client and the card, so that a test learns how the card
/// answers, and can hang up for a client that waits for ever.
struct Relay {
    client: Receiver<UnixStream>,
    answers: Receiver<Header>,
}

impl Relay {
    fn start(path: &Path, card: PathBuf) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (client_sender, client) = mpsc::channel();
        let (answer_sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            client_sender.send(client.try_clone().unwrap()).unwrap();
            let card = UnixStream::connect(card).unwrap();
            let (from_card, to_client) = (card.try_clone().unwrap(), client.try_clone().unwrap());
            let answers = thread::spawn(move || pass_on(from_card, to_client, &answer_sender));
            pass_on(client, card, &mpsc::channel().0);
            answers.join().unwrap();
        });
        Self { client, answers }
    }

    /// The next answer of the card that is an error, with nothing more of it to come.
    fn error(&self) -> Errno {
        loop {
            let answer = self.answers.recv_timeout(PATIENT).unwrap();
            if answer.flags.get() & flag::ERROR != 0 {
                assert_eq!(answer.message_size.get() as usize, size_of::<Header>());
                return Errno::from_raw_os_error(answer.error.get().try_into().unwrap());
            }
        }
    }

    fn hang_up(&self) {
        let client = self.client.recv_timeout(PATIENT).unwrap();
        client.shutdown(Shutdown::Both).unwrap();
    }
}

/// Passes messages on until one side hangs up, then hangs up on both.
fn pass_on(mut from: UnixStream, mut to: UnixStream, seen: &Sender<Header>) {
    let mut header = Header::new_zeroed();
    while from.read_exact(header.as_mut_bytes()).is_ok() {
        let mut body = vec![0; header.message_size.get() as usize - size_of::<Header>()];
        let message = from
            .read_exact(&mut body)
            .and_then(|()| to.write_all(&[header.as_bytes(), &body].concat()));
        if message.is_err() {
            break;
        }
        // Only answers are of interest.
        let _ = seen.send(header);
    }
    for stream in [from, to] {
        // The other direction may have done so already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// What their client is refused, and then waits for the rest of.
type Refused = fn(&mut Client) -> Result<(), Error>;

#[test]
fn a_client_that_waits_for_more_than_an_error_holds_the_card_only_until_it_hangs_up() {
    let refused: [(Refused, Errno); 5] = [
        (|client| client.region_read(8, 0, &mut [0; 4]), Errno::INVAL),
        (
            |client| client.region_read(0, 0x3fff, &mut [0; 4]),
            Errno::INVAL,
        ),
        (|client| client.region_write(9, 0, &[0; 4]), Errno::INVAL),
        (|client| client.dma_unmap(IOVA, PAGE_LEN), Errno::NOENT),
        (|client| client.get_irq_info(5).map(drop), Errno::INVAL),
    ];
    let server = OurServer::start();
    for (index, (command, errno)) in refused.into_iter().enumerate() {
        let path = server.directory.path().join(format!("relay-{index}.sock"));
        let relay = Relay::start(&path, server.path());
        let talk = Talk::start(path, move |mut client| command(&mut client));
        assert_eq!(relay.error(), errno, "command {index}");
        relay.hang_up();
        // It was still waiting: what it reports is the end, and not the error it was sent.
        match talk.end() {
            Err(Error::StreamRead(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
            other => panic!("command {index}: {other:?}"),
        }
        server.assert_works();
    }
}
