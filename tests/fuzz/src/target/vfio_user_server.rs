//! The vfio-user server of a card, against a client that sends what it likes.
//!
//! Whatever comes, the server neither hangs nor dies, and serves the client after it.

use super::card::honest;
use super::scratch_directory;
use card_device::firmware;
use card_device::server::Listener;
use card_spec::vfio::{DeviceInfo, IrqInfo, IrqSet, RegionInfo, irq, region};
use card_spec::vfio_user::{DmaUnmap, Header, RegionAccess, Version, command};
use card_spec::zerocopy::{Immutable, IntoBytes};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Much longer than any answer takes: what comes later hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(input: &[u8]) {
    let directory = scratch_directory();
    let path = directory.path().join("card.sock");
    let listener = Listener::bind(&path).expect("the temporary directory is writable");
    let (stop, mut stopper) = std::io::pipe().expect("there are descriptors left");
    // Not a scoped thread: one that hangs must not keep this one from saying so.
    let server = std::thread::spawn(move || firmware::run(honest(), &listener, stop.as_fd()));
    talk(&path, input);
    let answer = talk(&path, &hello());
    assert!(
        answer.len() > size_of::<Header>(),
        "the next client is served"
    );
    stopper
        .write_all(&[1])
        .expect("the server holds the other end");
    let outcome = server.join().expect("the server did not panic");
    outcome.expect("no client is an error of the server");
}

/// Sends `bytes` and nothing more, and returns what came back until the server hung up.
fn talk(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    // The server may have hung up before it has heard everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    answer
}

fn message(id: u16, command: u16, body: &(impl IntoBytes + Immutable + ?Sized)) -> Vec<u8> {
    let body = body.as_bytes();
    let header = Header {
        message_id: id.into(),
        command: command.into(),
        message_size: u32::try_from(16 + body.len()).expect("short").into(),
        ..Header::default()
    };
    [header.as_bytes(), body].concat()
}

fn hello() -> Vec<u8> {
    message(1, command::VERSION, Version::default().as_bytes())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let info = DeviceInfo {
        argsz: 16.into(),
        ..DeviceInfo::default()
    };
    let bar = RegionInfo {
        argsz: 32.into(),
        index: 0.into(),
        ..RegionInfo::default()
    };
    let msix = IrqInfo {
        argsz: 16.into(),
        index: irq::MSIX.into(),
        ..IrqInfo::default()
    };
    let disable = IrqSet {
        argsz: 20.into(),
        flags: (irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER).into(),
        index: irq::MSIX.into(),
        ..IrqSet::default()
    };
    let access = |region: u32, offset: u64, count: u32| RegionAccess {
        offset: offset.into(),
        region: region.into(),
        count: count.into(),
    };
    let write = [access(0, 0x14, 1).as_bytes(), &[1][..]].concat();
    let unmap = DmaUnmap {
        argsz: 24.into(),
        size: 4096.into(),
        ..DmaUnmap::default()
    };
    let questions = [
        message(2, command::DEVICE_GET_INFO, &info),
        message(3, command::DEVICE_GET_REGION_INFO, &bar),
        message(4, command::DEVICE_GET_IRQ_INFO, &msix),
        message(5, command::DEVICE_SET_IRQS, &disable),
    ];
    let accesses = [
        message(6, command::REGION_READ, &access(region::CONFIG, 0, 256)),
        message(7, command::REGION_READ, &access(2, 0, 4096)),
        message(8, command::REGION_WRITE, write.as_slice()),
        message(9, command::DMA_UNMAP, &unmap),
        message(10, command::DEVICE_RESET, &[0_u8; 0]),
    ];
    vec![
        hello(),
        [hello(), questions.concat()].concat(),
        [hello(), accesses.concat()].concat(),
    ]
}
