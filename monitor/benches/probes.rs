//! What a round of all probes costs: processor time of the thread that looks, per look, and as a
//! ratio to reading `/proc/stat`, which every monitor has to.
//!
//! A bench program rather than criterion, because the figure is processor time and not how long it
//! took. Host, service (this very process, with a hundred descriptors and sockets more) and link
//! are this machine's; sensors and a QAT card are a captured tree's; the service that is asked how
//! it is is the stand-in, in a thread that is not counted.
//!
//! ```text
//! cargo bench -p monitor --bench probes
//! ```
//!
//! Time is told and passes a second a round, so that what is read more rarely counts as often as
//! it is read. Best of several windows: on a shared machine the others measure the neighbours.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench program reports on standard output, and ends where something is wrong"
)]

use card_spec::pci::Bdf;
use clap::Parser;
use firmware_sim::service::{Service, ServiceConfig};
use hwshim::clock::Instant;
use monitor::probe::{
    AllocinfoProbe, Cgroup, CgroupProbe, HostProbe, HwmonProbe, LinkProbe, OwnerId, Probe,
    QatProbe, ReachProbe, ServiceAddress, ServiceProbe,
};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::hint::black_box;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 300;
const WINDOWS: usize = 5;
const CARDS: u64 = 8;
const CARD: &str = "0000:6b:00.0";

fn main() {
    let holdings = hold_things();
    let tree = tempfile::tempdir().unwrap();
    card(tree.path());
    let root = Path::new("/");
    let bdf: Bdf = CARD.parse().unwrap();
    let me = OwnerId::of_this_process().unwrap();

    let mut buffer = vec![0; 1 << 16];
    let stat = File::open("/proc/stat").unwrap();
    let reference = cost(|_| {
        black_box(rustix::io::pread(&stat, &mut buffer, 0).unwrap());
    });
    println!("{:28} {:>10} {:>16}", "look", "ns of CPU", "x read of stat");
    let report = |name: &str, nanos: u64| {
        let tenths = nanos * 10 / reference.max(1);
        println!("{name:28} {nanos:>10} {:>14}.{}", tenths / 10, tenths % 10);
        nanos
    };
    report("read of /proc/stat", reference);

    let host = report("host", looks(HostProbe::new(root), &()))
        + report("allocinfo", looks(AllocinfoProbe::new(root), &()));
    let mut per_card = report("service", looks(ServiceProbe::new(root), &me));
    match Cgroup::of(root, me) {
        Ok(cgroup) => per_card += report("cgroup", looks(CgroupProbe::new(root), &cgroup)),
        Err(error) => println!("cgroup: {error}"),
    }
    match first_function() {
        Some(here) => per_card += report("link, of this host", looks(LinkProbe::new(root), &here)),
        None => println!("link: this host has no PCI functions"),
    }
    report("link, captured", looks(LinkProbe::new(tree.path()), &bdf));
    per_card += report("hwmon, captured", looks(HwmonProbe::new(tree.path()), &bdf));
    per_card += report("qat, captured", looks(QatProbe::new(tree.path()), &bdf));
    per_card += report("reach, of the stand-in", ask_the_stand_in(tree.path()));

    let round = host + CARDS * per_card;
    println!(
        "\none round of host, one service and one card: {} ns",
        host + per_card
    );
    println!(
        "{CARDS} services and cards once a second: {}.{:03} % of a core",
        round / 10_000_000,
        round / 10_000 % 1000
    );
    drop(holdings);
}

/// Processor time of this thread for one call, best of several windows.
fn cost(mut call: impl FnMut(Instant)) -> u64 {
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let mut now = Instant::ORIGIN;
    let windows = (0..WINDOWS).map(|_| {
        let before = cpu();
        for _ in 0..ROUNDS {
            now = now.plus(Duration::from_secs(1));
            call(now);
        }
        (cpu() - before).as_nanos() / u128::from(ROUNDS)
    });
    u64::try_from(windows.min().unwrap()).unwrap()
}

fn looks<P: Probe>(mut probe: P, subject: &P::Subject) -> u64 {
    cost(|now| {
        black_box(probe.observe(subject, now).is_ok());
    })
}

/// What a service of some size holds.
fn hold_things() -> impl Sized {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections: Vec<_> = (0..50)
        .map(|_| {
            (
                TcpStream::connect(address).unwrap(),
                listener.accept().unwrap(),
            )
        })
        .collect();
    let others: Vec<_> = (0..50)
        .map(|_| {
            (
                File::open("/proc/self/stat").unwrap(),
                UdpSocket::bind("127.0.0.1:0").unwrap(),
            )
        })
        .collect();
    (listener, connections, others)
}

fn first_function() -> Option<Bdf> {
    let entries = fs::read_dir("/sys/bus/pci/devices").ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .min()
}

/// How a stand-in is told what to play.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceConfig,
}

fn ask_the_stand_in(directory: &Path) -> u64 {
    let socket = directory.join("service.sock");
    let arguments = ["service", "--socket", socket.to_str().unwrap()];
    let service = Service::listen(&Arguments::parse_from(arguments).service).unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || {
        use std::os::fd::AsFd as _;
        service.serve(stopped.as_fd()).unwrap();
    });
    let nanos = looks(
        ReachProbe::new(Duration::from_secs(5), Path::new("/")),
        &ServiceAddress::Unix(socket),
    );
    drop(stop);
    thread.join().unwrap();
    nanos
}

/// A QAT card with sensors, below a port.
fn card(root: &Path) {
    let port = root.join("sys/devices/pci0000:6a/0000:6a:00.0");
    let function = port.join(CARD);
    let debug = root.join(format!("sys/kernel/debug/qat_4xxx_{CARD}"));
    let write = |path: std::path::PathBuf, content: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for end in [&port, &function] {
        for (name, content) in [
            ("max_link_speed", "16.0 GT/s PCIe\n"),
            ("max_link_width", "8\n"),
            ("current_link_speed", "16.0 GT/s PCIe\n"),
            ("current_link_width", "8\n"),
            ("aer_dev_correctable", "RxErr 0\nTOTAL_ERR_COR 0\n"),
            ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 0\n"),
            ("aer_dev_fatal", "TOTAL_ERR_FATAL 0\n"),
        ] {
            write(end.join(name), content.as_bytes());
        }
    }
    let mut config = [0; 256];
    config[..4].copy_from_slice(&[0x86, 0x80, 0x40, 0x49]);
    config[9..12].copy_from_slice(&[0x00, 0x40, 0x0b]);
    write(function.join("config"), &config);
    for (name, content) in [
        ("power_state", "D0\n"),
        ("qat/state", "up\n"),
        ("qat/cfg_services", "sym;asym\n"),
        ("qat/auto_reset", "off\n"),
        ("qat_ras/errors_correctable", "0\n"),
        ("qat_ras/errors_nonfatal", "0\n"),
        ("qat_ras/errors_fatal", "0\n"),
        ("hwmon/hwmon0/name", "qat\n"),
        ("hwmon/hwmon0/temp1_input", "53000\n"),
        ("hwmon/hwmon0/in0_input", "1000\n"),
    ] {
        write(function.join(name), content.as_bytes());
    }
    for (name, content) in [
        ("heartbeat/status", "0\n\0"),
        ("heartbeat/queries_sent", "41\n\0"),
        ("heartbeat/queries_failed", "0\n\0"),
        ("heartbeat/config", "200\n\0"),
        (
            "fw_counters",
            "AE          Requests        Responses\n 0: 12 12\n 1: 7 7\n",
        ),
    ] {
        write(debug.join(name), content.as_bytes());
    }
    let devices = root.join("sys/bus/pci/devices");
    fs::create_dir_all(&devices).unwrap();
    symlink(&function, devices.join(CARD)).unwrap();
}
