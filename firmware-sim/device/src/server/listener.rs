//! The socket that clients connect to: who may, and what becomes of its file.
//!
//! Whoever can connect can make the card read and write the memory it is sent, and use its
//! sessions, so the file is for owner and group only, from the moment it exists. One that a dead
//! server has left behind is replaced; one that somebody listens on is not.

use crate::server::connection::Connection;
use rustix::fs::{Mode, chmod, fchmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Clients that may wait for the one before them.
const BACKLOG: i32 = 8;

/// The socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path is longer than a socket address can hold.
    #[error("{path} is too long for a socket; the limit is 107 bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process listens on {path}; stop it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket is there.
    #[error("{path} exists and is not a socket; choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot listen on {path}")]
    Os {
        /// The path.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// A listening socket, whose file disappears with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`, for owner and group.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let owner_and_group = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        Self::bind_for(path, owner_and_group)
    }

    /// Listens on `path`, for its owner alone: who gives orders there may do harm.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind_for_owner(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, Mode::RUSR | Mode::WUSR)
    }

    fn bind_for(path: &Path, mode: Mode) -> Result<Self, BindError> {
        let os = |errno: Errno| BindError::Os {
            path: path.to_owned(),
            source: errno.into(),
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => BindError::PathTooLong {
                path: path.to_owned(),
            },
            errno => os(errno),
        })?;
        let socket = new_socket().map_err(os)?;
        // The file gets the mode of the socket, less the umask: never more, at no time. What the
        // umask took away of that is given back afterwards.
        fchmod(&socket, mode).map_err(os)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&socket, &address).map_err(os)?;
            }
            outcome => outcome.map_err(os)?,
        }
        let stat = lstat(path).map_err(os)?;
        let listener = Self {
            socket,
            path: path.to_owned(),
            identity: (stat.st_dev, stat.st_ino),
        };
        chmod(path, mode).map_err(os)?;
        listen(&listener.socket, BACKLOG).map_err(os)?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts a client, or nobody if it has gone away meanwhile.
    pub(crate) fn accept(&self) -> io::Result<Option<Connection>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Connection::new(socket))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = lstat(&self.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity);
        if ours {
            // If it cannot be removed now, the next server to start finds it stale.
            let _ = unlink(&self.path);
        }
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// Removes the file of a server that is no more: nobody listens there if a connection is refused.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let os = |errno: Errno| BindError::Os {
        path: path.to_owned(),
        source: errno.into(),
    };
    let stat = lstat(path).map_err(os)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    let probe = new_socket().map_err(os)?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => unlink(path).map_err(os),
        _ => Err(BindError::InUse {
            path: path.to_owned(),
        }),
    }
}
