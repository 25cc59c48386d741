//! Bytes between a client and its backend, until both have ended or nothing comes any more.
//!
//! Either side may end its half and still receive: the end is passed on, as close_notify to the
//! client and as FIN to the backend. A side that breaks off has not ended, nor have both when nothing
//! comes for too long or somebody drops this; and neither must take it for that. So both get a reset,
//! and the client no close_notify: without one, many take a FIN for the end of an answer all the
//! same. Only a client that has been told, by close_notify or an alert, keeps what is still on its
//! way to it; the system resets it all the same if it goes on sending what nobody reads.
//!
//! A backend may answer before it has all of a request, and close: what it said is passed on, and what
//! its client still sends is read and dropped, as bytes that are left unread would make our end a
//! reset, which overtakes the answer. Nothing here reads what it passes on.

use crate::clock::{Clock, Instant, SystemClock};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::server::TlsStream;

/// Passed on at once. Half a TLS record: two of these are all that a connection takes here.
const BUFFER_LEN: usize = 8 * 1024;
/// For a client to take what a backend said before that broke off, and to end: the reset that it
/// gets otherwise may overtake it. Enough for a slow line; one who waits for more waits so long for
/// the bad news.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Who has not passed a byte for so long on a connection on which the backend spoke last keeps it for
/// later: what it asked is answered, as far as anybody can tell who does not look at what passes.
const AT_REST: Duration = Duration::from_secs(5);

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

/// A client with whom hands were shaken. Dropped, it is reset, unless it was told of an end.
pub(super) struct Client {
    stream: TlsStream<TcpStream>,
    /// It has got all that the backend had to say, and a close_notify.
    answered: AtomicBool,
    /// What it sent is not TLS, of which an alert tells it that has left at once or never does.
    alerted: AtomicBool,
}

impl From<TlsStream<TcpStream>> for Client {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self {
            stream,
            answered: AtomicBool::new(false),
            alerted: AtomicBool::new(false),
        }
    }
}

impl Drop for Client {
    /// If the system does not take it, the client sees an end that is none, as without us.
    fn drop(&mut self) {
        let (tcp, tls) = self.stream.get_ref();
        let alerted = *self.alerted.get_mut() && !tls.wants_write();
        if !*self.answered.get_mut() && !alerted {
            let _ = tcp.set_zero_linger();
        }
    }
}

/// The backend of one client. Dropped before both have ended, it is reset: also where its client does
/// not wait for the answer any more.
struct Backend {
    stream: TcpStream,
    ended: bool,
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Passes bytes on until the connection has ended.
pub(super) async fn relay(
    mut client: Client,
    backend: TcpStream,
    idle_timeout: Duration,
    ending: watch::Receiver<bool>,
) -> End {
    let mut backend = Backend {
        stream: backend,
        ended: false,
    };
    let end = relay_between(&mut client, &mut backend.stream, idle_timeout, ending).await;
    backend.ended = matches!(end, End::Closed);
    end
}

async fn relay_between(
    client: &mut Client,
    backend: &mut TcpStream,
    idle_timeout: Duration,
    ending: watch::Receiver<bool>,
) -> End {
    let Client {
        stream,
        answered,
        alerted,
    } = client;
    let activity = Activity::now();
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut from_backend, mut to_backend) = backend.split();
    let (backend_broke, client_ended) = (AtomicBool::new(false), Notify::new());
    let up = async {
        let outcome = match pass_on(&mut from_client, &mut to_backend, |_| activity.asked()).await {
            Err(Broken::Writing(error)) => {
                // Only what had ended before says that the pipe is broken. This is told but once: who
                // reads next sees an end.
                let broke = error.kind() != io::ErrorKind::BrokenPipe;
                backend_broke.store(broke, Ordering::Relaxed);
                drain(&mut from_client).await
            }
            Err(Broken::Reading(error)) => Err(error),
            Ok(()) => to_backend.shutdown().await,
        };
        // Whoever ended before the backend broke off may still wait for what that said.
        client_ended.notify_waiters();
        match outcome {
            // Many clients just go when they have all they wanted, without a close_notify.
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    && answered.load(Ordering::Relaxed) =>
            {
                Ok(())
            }
            Err(error) => {
                alerted.store(is_answered_by_an_alert(&error), Ordering::Relaxed);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    };
    let down = async {
        let broke = match pass_on(&mut from_backend, &mut to_client, |is_under_way| {
            activity.answers(is_under_way)
        })
        .await
        {
            Ok(()) if !backend_broke.load(Ordering::Relaxed) => {
                to_client.shutdown().await?;
                answered.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Ok(()) => io::ErrorKind::ConnectionReset.into(),
            Err(Broken::Reading(error)) => error,
            Err(Broken::Writing(error)) => return Err(error),
        };
        let _ = tokio::time::timeout(LAST_WORDS, client_ended.notified()).await;
        Err(broke)
    };
    tokio::select! {
        outcome = async { tokio::try_join!(up, down) } => match outcome {
            Ok(_) => End::Closed,
            Err(_) => End::Broken,
        },
        () = activity.ceases(idle_timeout) => End::Idle,
        () = activity.rests(ending) => End::Idle,
    }
}

/// Whether what a client sent is not TLS. Its own alert is: it breaks off, and is told nothing.
fn is_answered_by_an_alert(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    error.kind() == io::ErrorKind::InvalidData
        && !matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

/// Where it was that bytes could not be passed on.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// Passes bytes on until no more come; `passing` is told when some have come, which are under way then, and
/// when they have gone.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    passing: impl Fn(bool),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = from.read(&mut buffer).await.map_err(Broken::Reading)?;
        if len == 0 {
            return Ok(());
        }
        passing(true);
        to.write_all(&buffer[..len])
            .await
            .map_err(Broken::Writing)?;
        to.flush().await.map_err(Broken::Writing)?;
        passing(false);
    }
}

/// Reads what nobody wants until no more comes. That is no activity: who does nothing else is idle.
async fn drain(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// When something was last passed on, and which way.
struct Activity {
    /// In nanoseconds.
    last: AtomicU64,
    /// The backend was asked something since it last began to speak.
    is_asked: AtomicBool,
    /// The client has not taken all that the backend said.
    is_answering: AtomicBool,
}

impl Activity {
    fn now() -> Self {
        Self {
            last: AtomicU64::new(SystemClock.now().as_nanos()),
            is_asked: AtomicBool::new(false),
            is_answering: AtomicBool::new(false),
        }
    }

    fn asked(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.touch();
    }

    fn answers(&self, is_under_way: bool) {
        if is_under_way {
            self.is_asked.store(false, Ordering::Relaxed);
        }
        self.is_answering.store(is_under_way, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.last
            .store(SystemClock.now().as_nanos(), Ordering::Relaxed);
    }

    /// Time until there has been none for `timeout`.
    fn left(&self, timeout: Duration) -> Duration {
        let last = Instant::from_nanos(self.last.load(Ordering::Relaxed));
        last.plus(timeout).since(SystemClock.now())
    }

    /// Returns when there has been none for `timeout`.
    async fn ceases(&self, timeout: Duration) {
        loop {
            let left = self.left(timeout);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Returns when all are to end, if nothing is under way here.
    async fn rests(&self, mut ending: watch::Receiver<bool>) {
        // An error is that nobody is left to tell.
        let is_told = ending.wait_for(|is_ending| *is_ending).await.is_ok();
        let is_busy = [&self.is_asked, &self.is_answering];
        let is_busy = is_busy.iter().any(|it| it.load(Ordering::Relaxed));
        if !is_told || is_busy || !self.left(AT_REST).is_zero() {
            std::future::pending().await
        }
    }
}
