//! Bytes between a client and its backend, until both have ended or nothing comes any more.
//!
//! Either side may end its half and still receive: the end is passed on, as close_notify to the
//! client and as FIN to the backend. A side that breaks off has not ended, nor have both when nothing
//! comes for too long or somebody drops this; and neither must take it for that. So both get a reset,
//! and the client no close_notify: without one, many take a FIN for the end of an answer all the
//! same. Only a client that has been told, by close_notify or an alert, keeps what is still on its
//! way to it. Nothing here reads what it passes on.

use crate::clock::{Clock, Instant, SystemClock};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Passed on at once. Half a TLS record: two of these are all that a connection takes here.
const BUFFER_LEN: usize = 8 * 1024;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides had said all they had to.
    Closed,
    /// Nothing came from either side for too long.
    Idle,
    /// One side broke off.
    Broken,
}

/// Passes bytes on until the connection has ended.
pub(super) async fn relay(
    client: TlsStream<TcpStream>,
    backend: TcpStream,
    idle_timeout: Duration,
) -> End {
    let mut sides = Sides {
        client,
        backend,
        answered: AtomicBool::new(false),
        alerted: AtomicBool::new(false),
        ended: false,
    };
    let end = relay_between(&mut sides, idle_timeout).await;
    sides.ended = matches!(end, End::Closed);
    end
}

/// Both sides of a connection.
struct Sides {
    client: TlsStream<TcpStream>,
    backend: TcpStream,
    /// The client has got all that the backend had to say, and a close_notify.
    answered: AtomicBool,
    /// The client has got an alert, as what it sent is not TLS.
    alerted: AtomicBool,
    /// Both have.
    ended: bool,
}

impl Drop for Sides {
    /// Before they are closed: a side that was not told of an end is reset, and the backend also
    /// where its client does not wait for the answer any more. If the system does not take it, that
    /// side sees an end that is none, as without us.
    fn drop(&mut self) {
        if !*self.answered.get_mut() && !*self.alerted.get_mut() {
            let _ = self.client.get_ref().0.set_zero_linger();
        }
        if !self.ended {
            let _ = self.backend.set_zero_linger();
        }
    }
}

async fn relay_between(sides: &mut Sides, idle_timeout: Duration) -> End {
    let Sides {
        client,
        backend,
        answered,
        alerted,
        ended: _,
    } = sides;
    let activity = Activity::now();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = backend.split();
    let up = async {
        let outcome = pass_on(&mut from_client, &mut to_backend, &activity).await;
        // Many clients just go when they have all they wanted, without a close_notify.
        let has_all = answered.load(Ordering::Relaxed);
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && has_all => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                alerted.store(true, Ordering::Relaxed);
                Err(error)
            }
            outcome => outcome,
        }
    };
    let down = async {
        pass_on(&mut from_backend, &mut to_client, &activity).await?;
        answered.store(true, Ordering::Relaxed);
        Ok::<(), io::Error>(())
    };
    tokio::select! {
        outcome = async { tokio::try_join!(up, down) } => match outcome {
            Ok(_) => End::Closed,
            Err(_) => End::Broken,
        },
        () = activity.ceases(idle_timeout) => End::Idle,
    }
}

async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        activity.touch();
        to.write_all(&buffer[..len]).await?;
        to.flush().await?;
        activity.touch();
    }
}

/// When something was last passed on, in nanoseconds.
struct Activity(AtomicU64);

impl Activity {
    fn now() -> Self {
        Self(AtomicU64::new(SystemClock.now().as_nanos()))
    }

    fn touch(&self) {
        self.0
            .store(SystemClock.now().as_nanos(), Ordering::Relaxed);
    }

    /// Returns when there has been none for `timeout`.
    async fn ceases(&self, timeout: Duration) {
        loop {
            let last = Instant::from_nanos(self.0.load(Ordering::Relaxed));
            let left = last.plus(timeout).since(SystemClock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
