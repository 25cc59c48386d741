//! `hwshim serve-tls` as a process, before a backend that speaks TCP, with clients that were written
//! by others; and with a card behind it that fails in every way that there is a lever for.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

#[path = "terminator/authority.rs"]
mod authority;
#[path = "terminator/backend.rs"]
mod backend;
#[path = "terminator/clients.rs"]
mod clients;
#[path = "terminator/faults.rs"]
mod faults;
#[path = "terminator/load.rs"]
mod load;
#[path = "terminator/operation.rs"]
mod operation;
#[path = "terminator/overload.rs"]
mod overload;
#[path = "terminator/scarcity.rs"]
mod scarcity;
#[path = "terminator/serving.rs"]
mod serving;
#[path = "terminator/standstill.rs"]
mod standstill;

use authority::{Authority, Identity, Key};
use backend::Kind;
use common::program;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serving::Serving;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// An authority, a certificate by it, and room for the rest.
struct Site {
    directory: TempDir,
    authority: Authority,
    identity: Identity,
}

impl Site {
    /// One whose key is soon made. No card signs with it.
    fn new() -> Self {
        Self::with(Key::P256)
    }

    fn with(key: Key) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::found(directory.path()).unwrap();
        let identity = authority.issue("site", key, "first").unwrap();
        Self {
            directory,
            authority,
            identity,
        }
    }

    /// A terminator with its certificate, which takes further arguments.
    fn command(&self, backend: SocketAddr) -> Command {
        let identities = std::slice::from_ref(&self.identity);
        let directory = self.directory.path();
        let program = program("hwshim");
        serving::command(&program, identities, serving::ANYWHERE, backend, directory)
    }

    /// One that ends where bytes come back.
    fn before_echo(&self, arguments: &[&str]) -> Serving {
        let mut command = self.command(backend::start(Kind::Echo).unwrap());
        command.args(arguments);
        Serving::start(command).unwrap()
    }

    /// A client that verifies, and resumes nothing.
    fn client(&self) -> Arc<ClientConfig> {
        load::client(&self.authority.certificate(), &[&TLS13, &TLS12]).unwrap()
    }

    fn connect(&self, serving: &Serving) -> StreamOwned<ClientConnection, TcpStream> {
        load::connect(serving.address, &self.client()).unwrap()
    }
}
