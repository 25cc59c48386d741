//! How many connections the kernel has to where a service listens: the other of two ledgers, beside
//! what the service says of its clients.
//!
//! It counts what the service has accepted and not closed. What waits to be accepted is no client of
//! it yet, and what it has closed is none any more, whatever the kernel still keeps of it.
//!
//! ```text
//! /proc/net/unix:  ...: 00000003 00000000 00000000 0001 03 50001 /run/hardserver.sock
//!                                                       \_ connected; 02 waits to be accepted
//! /proc/net/tcp:   3: 0100007F:2328 0100007F:D21C 01 ... 50002    an inode of 0 waits or is closed
//! ```

use super::super::file::TextFile;
use super::ServiceAddress;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Longest table of sockets that is read: about 40,000. It is read with each question, so on a host
/// with more it is not known.
const TABLE_LEN_MAX: u64 = 4 << 20;
const WHAT: &str = "a table of sockets";
/// States of a TCP connection that a program has and has not closed: established, and closed by the
/// peer.
const HELD: [&str; 2] = ["01", "08"];
/// The state of a Unix socket that was accepted, or has connected.
const CONNECTED: &str = "03";

/// The kernel's tables of sockets.
#[derive(Debug)]
pub(super) struct Connections {
    unix: TextFile,
    tcp: [TextFile; 2],
    buffer: Vec<u8>,
}

impl Connections {
    /// Those of this network namespace; `root` is `/`, or a captured tree.
    pub(super) fn new(root: &Path) -> Self {
        let file = |name| TextFile::new(root.join("proc/net").join(name));
        Self {
            unix: file("unix"),
            tcp: [file("tcp"), file("tcp6")],
            buffer: Vec::new(),
        }
    }

    /// Those to `address`. Who asks has one itself, so where there is none the service is in another
    /// namespace, or has another name for the address: then it is not known.
    pub(super) fn to(&mut self, address: &ServiceAddress) -> Option<u64> {
        let mut inodes = match address {
            ServiceAddress::Unix(path) => self.unix(path.to_str()?)?,
            ServiceAddress::Tcp(address) => self.tcp(*address)?,
        };
        // A socket can be listed twice if the table changed while it was read.
        inodes.sort_unstable();
        inodes.dedup();
        let count = u64::try_from(inodes.len()).ok()?;
        (count > 0).then_some(count)
    }

    fn unix(&mut self, path: &str) -> Option<Vec<u64>> {
        let mut inodes = Vec::new();
        let take = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let (state, inode) = (words.nth(5), words.next());
            let is_there = line.strip_suffix(path).is_some_and(|it| it.ends_with(' '));
            if is_there && state == Some(CONNECTED) {
                inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
            }
            Some(())
        };
        self.unix
            .lines(&mut self.buffer, TABLE_LEN_MAX, WHAT, take)
            .ok()?;
        Some(inodes)
    }

    fn tcp(&mut self, address: SocketAddr) -> Option<Vec<u64>> {
        let mut inodes: Vec<u64> = Vec::new();
        let sought = in_tables(address);
        for table in &mut self.tcp {
            let take = |line: &str| {
                let mut words = line.split_ascii_whitespace();
                let (local, state, inode) = (words.nth(1), words.nth(1), words.nth(5));
                let is_there = local.is_some_and(|local| sought.iter().any(|it| it == local));
                if is_there && state.is_some_and(|state| HELD.contains(&state)) {
                    let inode = inode.and_then(|inode| inode.parse::<u64>().ok());
                    inodes.extend(inode.filter(|inode| *inode != 0));
                }
                Some(())
            };
            let outcome = table.lines(&mut self.buffer, TABLE_LEN_MAX, WHAT, take);
            // A host need not have IPv6.
            let may_be_absent = table.path().ends_with("tcp6");
            if outcome.is_err() && !may_be_absent {
                return None;
            }
        }
        Some(inodes)
    }
}

/// An address as the tables have it: words of 32 bits as this host has them in memory. Who listens for
/// IPv6 has connections of IPv4 in the table of IPv6.
fn in_tables(address: SocketAddr) -> Vec<String> {
    let hexadecimal = |octets: &[u8]| {
        let mut text = String::new();
        for word in octets.chunks_exact(4) {
            let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            write!(text, "{word:08X}").expect("a string takes everything");
        }
        write!(text, ":{:04X}", address.port()).expect("a string takes everything");
        text
    };
    match address.ip() {
        IpAddr::V4(ip) => vec![
            hexadecimal(&ip.octets()),
            hexadecimal(&ip.to_ipv6_mapped().octets()),
        ],
        IpAddr::V6(ip) => vec![hexadecimal(&ip.octets())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn what_was_accepted_and_not_closed_is_counted_over_either_kind_of_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let address = ServiceAddress::Unix(path.clone());
        let mut connections = Connections::new(Path::new("/"));
        assert_eq!(connections.to(&address), None);
        let mut clients: Vec<_> = (0..4)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let mut accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
        assert_eq!(connections.to(&address), Some(3), "one waits");
        clients.clear();
        assert_eq!(connections.to(&address), Some(3), "the service has them");
        accepted.pop();
        assert_eq!(connections.to(&address), Some(2));

        for listens_on in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(listens_on) else {
                eprintln!("skipped: nobody can listen on {listens_on} here");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let asked = ServiceAddress::Tcp(address);
            let clients: Vec<_> = (0..4)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let mut accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
            assert_eq!(connections.to(&asked), Some(3), "{listens_on}");
            drop(clients);
            assert_eq!(connections.to(&asked), Some(3), "{listens_on}");
            accepted.pop();
            assert_eq!(connections.to(&asked), Some(2), "{listens_on}");
        }
    }

    #[test]
    fn tables_of_nonsense_or_none_count_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let address = ServiceAddress::Unix("/run/a b".into());
        let tcp = ServiceAddress::Tcp("127.0.0.1:9000".parse().unwrap());
        let mut connections = Connections::new(tree.path());
        assert_eq!(
            (connections.to(&address), connections.to(&tcp)),
            (None, None)
        );
        let net = tree.path().join("proc/net");
        fs::create_dir_all(&net).unwrap();
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 2 0 00010000 0001 01 5 /run/a b\n0: 3 0 0 0001 03 6 /run/a b\n\
            0: 3 0 0 0001 03 7 /other/run/a b\n0: 3\n\u{fffd}\n";
        fs::write(net.join("unix"), unix).unwrap();
        assert_eq!(connections.to(&address), Some(1));
        fs::write(net.join("tcp"), "what?\n\n 1: 0100007F:2328 x 01\n").unwrap();
        assert_eq!(connections.to(&tcp), None);
    }
}
