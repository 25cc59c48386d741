//! Files of `/proc` and `/sys` of a host with one service and one card: parts of the input, divided
//! by NUL, in the order of [`FILES`]. What the probes make of them.

use super::scratch_directory;
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use monitor::probe::{
    AllocinfoProbe, Cgroup, CgroupProbe, HostProbe, HwmonProbe, OwnerId, Probe, QatProbe,
    ServiceProbe,
};
use std::fs;
use std::os::unix::fs::symlink;

const CARD: &str = "0000:3b:00.0";
const ID: OwnerId = OwnerId {
    pid: 7,
    start_time_ticks: 9,
};
const STAT: &str = "7 (service) S 1 7 7 0 -1 0 1 0 0 0 7 5 0 0 20 0 3 0 9 12345678 433\n";

/// Each with an honest content.
const FILES: [(&str, &str); 26] = [
    (
        "proc/stat",
        "cpu  3 0 2 10 1 1 5 0 0 0\ncpu0 3 0 2 10 1 1 5 0 0 0\nintr 4\n",
    ),
    (
        "proc/net/softnet_stat",
        "00002106 00000000 00000001 0 0 0 0 0 0 0 0 0 00000000\n",
    ),
    (
        "proc/pressure/cpu",
        "some avg10=0.71 total=12165\nfull avg10=0.00 total=7\n",
    ),
    ("proc/self/schedstat", "208278 901 3\n"),
    (
        "proc/meminfo",
        "MemTotal: 9 kB\nMemFree: 1 kB\nBuffers: 1 kB\nCached: 1 kB\nAnonPages: 1 kB\n\
        Slab: 1 kB\nKernelStack: 1 kB\nPageTables: 1 kB\nVmallocUsed: 1 kB\n",
    ),
    (
        "proc/vmstat",
        "allocstall_dma 0\nallocstall_normal 82\noom_kill 1\n",
    ),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    (
        "proc/allocinfo",
        "allocinfo - version: 1.0\n# x\n 8 1 a.c:1 [qat] func:f\n 9 2 b.c:1 func:g\n",
    ),
    (
        "proc/7/status",
        "Pid:\t7\nVmRSS:\t    1732 kB\nVmPin:\t       0 kB\n",
    ),
    (
        "proc/7/limits",
        "Max processes     96365    96365    processes\nMax open files    1024    4096    files\n\
        Max locked memory unlimited unlimited bytes\n",
    ),
    ("proc/7/schedstat", "18000000 250000 77\n"),
    (
        "proc/7/net/tcp",
        "  sl  local_address\n 0: 0100007F:2328 00000000:0000 0A 00000000:00000003 00:00000000 \
        00000000 101 0 50001 1 0\n",
    ),
    (
        "proc/7/net/udp",
        "  sl  local_address\n 9: 0100007F:2329 00000000:0000 07 00000000:00000000 00:00000000 \
        00000000 101 0 50002 2 0\n",
    ),
    (
        "proc/7/net/sockstat",
        "TCP: inuse 4 orphan 1 tw 6 alloc 5 mem 248\n",
    ),
    (
        "proc/7/net/netstat",
        "TcpExt: ListenOverflows ListenDrops\nTcpExt: 17 19\n",
    ),
    (
        "proc/7/net/snmp",
        "Udp: InErrors RcvbufErrors\nUdp: 23 23\n",
    ),
    ("proc/7/cgroup", "0::/a\n"),
    ("sys/fs/cgroup/a/memory.current", "41943040\n"),
    ("sys/fs/cgroup/a/memory.max", "max\n"),
    (
        "sys/fs/cgroup/a/memory.stat",
        "anon 7\nkernel 13736346\nsock 8192\n",
    ),
    (
        "sys/fs/cgroup/a/cpu.stat",
        "nr_throttled 12\nthrottled_usec 340000\n",
    ),
    (
        "sys/bus/pci/devices/0000:3b:00.0/hwmon/hwmon0/temp1_input",
        "53000\n",
    ),
    (
        "sys/bus/pci/devices/0000:3b:00.0/qat_ras/errors_fatal",
        "1\n",
    ),
    (
        "sys/kernel/debug/qat_4xxx_0000:3b:00.0/heartbeat/status",
        "-1\n",
    ),
    (
        "sys/kernel/debug/qat_4xxx_0000:3b:00.0/heartbeat/queries_sent",
        "41\n",
    ),
    (
        "sys/kernel/debug/qat_4xxx_0000:3b:00.0/fw_counters",
        "AE  Requests  Responses\n 0: 12 11\n",
    ),
];

pub(crate) fn run(input: &[u8]) {
    let host = scratch_directory();
    let root = host.path();
    let write = |path: &str, content: &[u8]| {
        let path = root.join(path);
        let directory = path.parent().expect("paths are below the root");
        fs::create_dir_all(directory).expect("the temporary directory is writable");
        fs::write(path, content).expect("the temporary directory is writable");
    };
    // One that the input does not reach does not exist.
    for ((path, _), content) in FILES.into_iter().zip(input.split(|&byte| byte == 0)) {
        write(path, content);
    }
    write("proc/7/stat", STAT.as_bytes());
    write("sys/bus/pci/devices/0000:3b:00.0/vendor", b"0x8086\n");
    let descriptors = root.join("proc/7/fd");
    fs::create_dir_all(&descriptors).expect("the temporary directory is writable");
    for inode in [50001, 50002] {
        let link = descriptors.join(inode.to_string());
        symlink(format!("socket:[{inode}]"), link).expect("the temporary directory is writable");
    }

    let now = Instant::ORIGIN;
    let seen = HostProbe::new(root).observe(&(), now);
    let seen = seen.expect("a host is seen, however its files read");
    let _ = seen.memory.map(|memory| memory.unaccounted_bytes());
    let service = ServiceProbe::new(root).observe(&ID, now);
    let service = service.expect("a service is seen, however its files read");
    let told = service.holdings.descriptors.as_ref();
    assert_eq!(
        told.expect("its descriptors are not the input's").total(),
        2
    );
    let _ = AllocinfoProbe::new(root).observe(&(), now);
    if let Ok(group) = Cgroup::of(root, ID) {
        let _ = CgroupProbe::new(root).observe(&group, now);
    }
    let card: Bdf = CARD.parse().expect("it is an address");
    let sensors = HwmonProbe::new(root).observe(&card, now);
    sensors.expect("a card is there");
    let _ = QatProbe::new(root).observe(&card, now);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![FILES.map(|(_, content)| content).join("\0").into_bytes()]
}
