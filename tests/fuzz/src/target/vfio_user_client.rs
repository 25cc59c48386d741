//! The vfio-user client, against a server that answers what it likes.
//!
//! The input is a sequence of answers, one for each command that arrives: a byte of [`AS_REPLY`]
//! and others, two bytes of length, and the body. The server hangs up when it has none left.

use super::{Script, scratch_directory};
use card_spec::vfio::{DeviceInfo, IrqInfo, RegionInfo, device, irq, region};
use card_spec::vfio_user::{Header, RegionAccess, flag};
use card_spec::zerocopy::little_endian::{U32, U64};
use card_spec::zerocopy::{FromBytes, IntoBytes};
use hwshim::bus::dma::Memory;
use hwshim::bus::vfio_user::{Options, VfioUserFunction};
use hwshim::bus::{Access, Function};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

/// The body goes out behind a header that answers the command; otherwise it goes out as it is.
const AS_REPLY: u8 = 1;
/// The header says that the command failed.
const AS_ERROR: u8 = 2;
/// The command's own body goes first.
const ECHO: u8 = 4;

/// An answer that stops in the middle costs this much.
const TIMEOUT: Duration = Duration::from_millis(5);

pub(crate) fn run(input: &[u8]) {
    let directory = scratch_directory();
    let path = directory.path().join("card.sock");
    let listener = UnixListener::bind(&path).expect("the temporary directory is writable");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, _) = listener.accept().expect("the client connects");
            // Only the client may hang up too early, which is no fault of the server's.
            let _ = answer(&stream, Script(input));
        });
        let options = Options { timeout: TIMEOUT };
        if let Ok(function) = VfioUserFunction::connect(&path, options) {
            exercise(function.as_ref());
        }
    });
}

fn answer(mut stream: &UnixStream, mut script: Script<'_>) -> std::io::Result<()> {
    while !script.is_over() {
        let mut header = [0; size_of::<Header>()];
        stream.read_exact(&mut header)?;
        let mut header = Header::read_from_bytes(&header).expect("it is as long as a header");
        let len = header.message_size.get().saturating_sub(16);
        let mut asked = vec![0; len as usize];
        stream.read_exact(&mut asked)?;
        if header.flags.get() & flag::NO_REPLY != 0 {
            continue;
        }
        let how = script.byte();
        let len = usize::from(script.word());
        if how & ECHO == 0 {
            asked.clear();
        }
        let body = [&asked, script.bytes(len)].concat();
        if how & AS_REPLY != 0 {
            let len = size_of::<Header>() + body.len();
            header.message_size = U32::new(u32::try_from(len).expect("short"));
            let failed = if how & AS_ERROR != 0 { flag::ERROR } else { 0 };
            header.flags = U32::new(flag::TYPE_REPLY | failed);
            stream.write_all(header.as_bytes())?;
        }
        stream.write_all(&body)?;
    }
    Ok(())
}

fn exercise(function: &dyn Function) {
    let mut buf = [0; 64];
    let _ = function.read_config(0, &mut buf);
    let _ = function.bar_len(0);
    let _ = function.read_bar(0, 0, &mut buf[..4]);
    let _ = function.write_bar(0, 0, &[1, 2, 3, 4]);
    let _ = function.vector_count();
    let _ = function
        .doorbell(0, 0x3000, 1)
        .map(|doorbell| doorbell.ring());
    if let Ok(memory) = Memory::new(4096)
        && let Ok(iova) = function.share(&Arc::new(memory), Access::DeviceWrites)
    {
        let _ = function.unshare(iova);
    }
    let _ = function.reset();
    let _ = function.is_gone();
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut honest = Vec::new();
    let mut reply = |body: &[u8]| {
        honest.push(AS_REPLY);
        honest.extend(u16::try_from(body.len()).expect("short").to_le_bytes());
        honest.extend(body);
    };
    reply(b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":8}}\0");
    let info = DeviceInfo {
        argsz: 16.into(),
        flags: (device::RESET | device::PCI).into(),
        num_regions: region::COUNT.into(),
        num_irqs: irq::COUNT.into(),
    };
    reply(info.as_bytes());
    for index in (0..6).chain([region::CONFIG]) {
        let info = RegionInfo {
            argsz: 32.into(),
            flags: (region::FLAG_READ | region::FLAG_WRITE).into(),
            index: index.into(),
            size: U64::new(if index == region::CONFIG { 256 } else { 0x4000 }),
            ..RegionInfo::default()
        };
        reply(info.as_bytes());
    }
    let info = IrqInfo {
        argsz: 16.into(),
        flags: irq::FLAG_EVENTFD.into(),
        index: irq::MSIX.into(),
        count: 3.into(),
    };
    reply(info.as_bytes());
    let connected = honest.clone();
    let mut reply = |how: u8, body: &[&[u8]]| {
        let body = body.concat();
        honest.push(AS_REPLY | how);
        honest.extend(u16::try_from(body.len()).expect("short").to_le_bytes());
        honest.extend(body);
    };
    let access = |region: u32, count: u32| RegionAccess {
        offset: 0.into(),
        region: region.into(),
        count: count.into(),
    };
    reply(0, &[access(region::CONFIG, 64).as_bytes(), &[7; 64]]);
    reply(0, &[access(0, 4).as_bytes(), &[8; 4]]);
    reply(0, &[access(0, 4).as_bytes()]);
    // No eventfds for doorbells.
    reply(AS_ERROR, &[]);
    // Memory mapped and unmapped, and a reset.
    reply(0, &[]);
    reply(ECHO, &[]);
    reply(0, &[]);
    vec![honest, connected, vec![AS_REPLY | AS_ERROR, 0, 0]]
}
