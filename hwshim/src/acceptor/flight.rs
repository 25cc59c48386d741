//! From the first byte of a client to the server's first flight.

use super::engine::{Engine, connect, drain};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Read at once. A ClientHello is shorter, with few exceptions.
const READ_LEN: usize = 2048;

/// Reads from `io` until the server's first flight is made, which may then be all in the
/// connection that is returned, or in part on its way. A ClientHello may have `len_max` bytes.
pub(super) async fn first<IO>(
    io: &mut IO,
    mut engine: impl Engine,
    config: &Arc<ServerConfig>,
    len_max: usize,
) -> io::Result<Box<ServerConnection>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = connect(config)?;
    let mut received = 0;
    let mut retried = false;
    loop {
        let mut bytes = Vec::with_capacity(READ_LEN);
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received += bytes.len();
        let stepped = engine.step(connection, bytes).await?;
        connection = stepped.connection;
        if let Err(error) = stepped.outcome {
            return Err(refuse(io, stepped.unsent, connection, error).await);
        }
        if !stepped.unsent.is_empty() {
            io.write_all(&stepped.unsent).await?;
            // tokio-rustls flushes after what it writes itself, and there may be nothing left for it.
            io.flush().await?;
            return Ok(connection);
        }
        if !connection.wants_write() && connection.is_handshaking() {
            if received > len_max {
                return Err(too_long(len_max));
            }
            continue;
        }
        let asked_again = connection.handshake_kind()
            == Some(HandshakeKind::FullWithHelloRetryRequest)
            && !retried;
        if !asked_again {
            return Ok(connection);
        }
        retried = true;
        received = 0;
        let request = drain(&mut connection);
        io.write_all(&request).await?;
        io.flush().await?;
        engine.sent(&request);
    }
}

/// Tells the client why there will be no connection, as far as it listens.
async fn refuse<IO>(
    io: &mut IO,
    mut output: Vec<u8>,
    mut connection: Box<ServerConnection>,
    error: rustls::Error,
) -> io::Error
where
    IO: AsyncWrite + Unpin,
{
    output.append(&mut drain(&mut connection));
    let told = async {
        io.write_all(&output).await?;
        io.flush().await
    };
    // What is wrong with the handshake says more than that its client has gone.
    let _ = told.await;
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn too_long(len_max: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the client's ClientHello is longer than the {len_max} bytes allowed"),
    )
}
