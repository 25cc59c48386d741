//! The probe of services, on a process of which everything is known: this one.
//!
//! One test alone: others would come and go as threads while it counts them.

use hwshim::clock::Instant;
use monitor::probe::{Descriptors, OwnerId, Probe, Service, ServiceProbe, TcpState};
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

#[test]
fn a_process_shows_what_it_has_come_to_hold() {
    let id = OwnerId::of_this_process().unwrap();
    let look = || {
        ServiceProbe::new(Path::new("/"))
            .observe(&id, Instant::ORIGIN)
            .unwrap()
    };
    let before = look();

    let files: Vec<_> = (0..3)
        .map(|_| File::open("/proc/version").unwrap())
        .collect();
    let devices: Vec<_> = (0..4).map(|_| File::open("/dev/null").unwrap()).collect();
    let pipe = std::io::pipe().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let unix = UnixStream::pair().unwrap();
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (stop, stopped) = mpsc::channel::<()>();
            (stop, thread::spawn(move || stopped.recv()))
        })
        .collect();
    let is_locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).is_ok();
    let after = look();
    if is_locked {
        munlockall().unwrap();
    }

    let told = |service: &Service| *service.holdings.descriptors.as_ref().unwrap();
    let (had, has) = (told(&before), told(&after));
    let expected = Descriptors {
        files: had.files + 3,
        devices: had.devices + 4,
        pipes: had.pipes + 2,
        sockets: had.sockets + 6,
        ..had
    };
    assert_eq!(has, expected);
    // What the probe itself has open while it tells is in neither count.
    let count = |service: &Service| *service.descriptor_count.as_ref().unwrap();
    assert_eq!(count(&after), count(&before) + 15);
    assert_eq!(after.threads, before.threads + 5);
    let locked = |service: &Service| service.memory.as_ref().unwrap().locked_bytes.unwrap();
    if is_locked {
        assert!(locked(&after) > locked(&before));
    } else {
        eprintln!("skipped: this user may not lock as much memory as this process has");
    }
    let sockets = after.holdings.sockets.as_ref().unwrap();
    assert_eq!(sockets.tcp[&TcpState::Listen], 1);
    assert_eq!(
        sockets.tcp[&TcpState::Established],
        2,
        "none is accepted yet"
    );
    assert_eq!(sockets.listening[0].queued, 2);
    let others = before.holdings.sockets.as_ref().unwrap().other;
    assert_eq!((sockets.udp, sockets.other), (1, others + 2));
    assert_eq!(sockets.tcp_ports.len(), 3);
    assert_eq!(sockets.udp_ports, [udp.local_addr().unwrap().port()]);

    for (stop, thread) in threads {
        drop(stop);
        let _ = thread.join();
    }
    drop((files, devices, pipe, clients, unix));
}
