//! How a handshake step that may have to sign is taken.

use rustls::{Error, ServerConfig, ServerConnection};
use std::io;
use std::sync::Arc;

/// Takes handshake steps for one connection.
///
/// **Seam.** rustls signs in the middle of a step and cannot wait there. Taking the step twice is
/// one way around that, taking it where waiting is allowed another.
pub(super) trait Engine {
    /// Takes the step that `bytes` from the client bring about.
    ///
    /// # Errors
    ///
    /// Only if the step could not be taken. What is wrong with the bytes is in [`Stepped`].
    fn step(
        &mut self,
        connection: Box<ServerConnection>,
        bytes: Vec<u8>,
    ) -> impl Future<Output = io::Result<Stepped>> + Send;

    /// Says what of the connection's output has been sent.
    fn sent(&mut self, bytes: &[u8]);
}

/// A step that was taken.
pub(super) struct Stepped {
    pub(super) connection: Box<ServerConnection>,
    /// Output that goes before what is still in the connection.
    pub(super) unsent: Vec<u8>,
    pub(super) outcome: Result<(), Error>,
}

/// A new connection.
pub(super) fn connect(config: &Arc<ServerConfig>) -> io::Result<Box<ServerConnection>> {
    ServerConnection::new(Arc::clone(config))
        .map(Box::new)
        .map_err(io::Error::other)
}

/// Has `connection` work on `bytes`.
pub(super) fn feed(connection: &mut ServerConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        let read = connection
            .read_tls(&mut bytes)
            .map_err(|error| Error::General(error.to_string()))?;
        connection.process_new_packets()?;
        if read == 0 {
            // The client has said that it is done; what it sends after that counts for nothing.
            break;
        }
    }
    Ok(())
}

/// Takes the output out of `connection`.
pub(super) fn drain(connection: &mut ServerConnection) -> Vec<u8> {
    let mut output = Vec::new();
    while connection.wants_write() {
        connection
            .write_tls(&mut output)
            .expect("a vector takes what it is given");
    }
    output
}
