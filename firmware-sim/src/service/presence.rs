//! Whether there is a card.
//!
//! A simulated card serves one driver at a time, so it is not connected to: who wants to know
//! whether one listens can ask the kernel.

use std::fmt;
use std::fs;
use std::path::{self, Path, PathBuf};
use std::str::FromStr;

/// Flag of a listening socket in `/proc/net/unix`: `__SO_ACCEPTCON` of Linux's `net.h`.
const ACCEPTS: u32 = 1 << 16;
const SCHEME: &str = "vfio-user:";

/// Which card a service has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CardLink {
    /// One that is always there.
    Present,
    /// None.
    Absent,
    /// A simulated one, there as long as somebody listens on this socket.
    Socket(PathBuf),
}

impl CardLink {
    /// Whether the card is there now.
    #[must_use]
    pub fn is_present(&self) -> bool {
        match self {
            Self::Present => true,
            Self::Absent => false,
            // If the kernel does not say, nothing is known to be there.
            Self::Socket(path) => fs::read_to_string("/proc/self/net/unix")
                .is_ok_and(|table| is_listened_on(&table, path)),
        }
    }
}

/// As on a command line: `present`, `absent` or `vfio-user:PATH`.
impl FromStr for CardLink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix(SCHEME)) {
            ("present", _) => Ok(Self::Present),
            ("absent", _) => Ok(Self::Absent),
            (_, Some(socket)) if !socket.is_empty() => path::absolute(socket)
                .map(Self::Socket)
                .map_err(|error| format!("{socket}: {error}")),
            _ => Err("must be present, absent or vfio-user:PATH".to_owned()),
        }
    }
}

impl fmt::Display for CardLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Absent => f.write_str("absent"),
            Self::Socket(socket) => write!(f, "{SCHEME}{}", socket.display()),
        }
    }
}

/// Whether a socket that accepts connections is bound to `socket`, an absolute path. A path that
/// was relative to the directory of whoever listens is taken for the same if it can be: the table
/// does not say which directory that was.
fn is_listened_on(table: &str, socket: &Path) -> bool {
    table.lines().skip(1).any(|line| {
        let mut rest = line;
        let mut field = || {
            let text = rest.trim_start();
            let (field, behind) = text.split_at(text.find(' ').unwrap_or(text.len()));
            rest = behind;
            field
        };
        // Num RefCount Protocol Flags Type St Inode Path, which may have blanks of its own.
        let [_, _, _, flags, _, _, _] = [(); 7].map(|()| field());
        let accepts = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ACCEPTS != 0);
        let bound = rest.strip_prefix(' ');
        let bound = bound.map(|bound| bound.trim_start_matches("./"));
        accepts && bound.is_some_and(|bound| socket.ends_with(bound))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01  5137 /run/card.sock
0000000000000000: 00000002 00000000 00010000 0001 01  5138 ./relative.sock
0000000000000000: 00000003 00000000 00000000 0001 03  5139 /run/connected.sock
0000000000000000: 00000003 00000000 00000000 0001 03  5140
0000000000000000: 00000002 00000000 00010000 0001 01  5141
0000000000000000: 00000002 00000000 00010000 0001 01  5142 /run/my  cards/card 1.sock
short
";

    #[test]
    fn a_card_is_there_if_somebody_listens_on_its_socket() {
        let there = |socket: &str| is_listened_on(TABLE, Path::new(socket));
        assert!(there("/run/card.sock"));
        assert!(there("/tmp/relative.sock"));
        assert!(there("/run/my  cards/card 1.sock"));
        assert!(!there("/run/my"));
        assert!(!there("/run/connected.sock"), "that one does not listen");
        assert!(!there("/run/other.sock"));
        assert!(!there("/tmp/card.sock"));
    }

    #[test]
    fn links_are_written_as_they_are_read() {
        for text in ["present", "absent", "vfio-user:/run/card.sock"] {
            assert_eq!(text.parse::<CardLink>().unwrap().to_string(), text);
        }
        for wrong in ["", "gone", "vfio-user:", "/run/card.sock"] {
            assert!(wrong.parse::<CardLink>().is_err(), "{wrong}");
        }
    }
}
