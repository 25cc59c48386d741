//! The control socket: takes orders from whoever may write to it, and has each recorded before it
//! is followed.

use super::keeping::Keeping;
use super::memory::Memory;
use anyhow::Context as _;
use hwshim::clock::SystemClock;
use monitor::control::{Decision, Desk, LINE_LEN_MAX, Order, Peer};
use monitor::history::{BootId, Event, Stamp};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time;

/// Clients at a time.
const CLIENTS_MAX: usize = 8;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time to wait after a client could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes orders.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) desk: Arc<Mutex<Desk>>,
    pub(super) keeping: Keeping,
    pub(super) memory: Memory,
    pub(super) boot: BootId,
}

/// A socket that is removed when its monitor ends.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, for its owner and its group.
    pub(super) fn listen(path: &Path) -> anyhow::Result<Self> {
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(directory)
                .with_context(|| format!("{} could not be made", directory.display()))?;
        }
        if StdStream::connect(path).is_ok() {
            anyhow::bail!(
                "another monitor takes orders on {}; name another socket with --control",
                path.display()
            );
        }
        // Made under another name: at its own it is never more open than it should be, and one
        // that a killed monitor left is replaced in the same step.
        let fresh = PathBuf::from(format!("{}.new", path.display()));
        let _ = fs::remove_file(&fresh);
        let listener = StdListener::bind(&fresh)
            .and_then(|listener| {
                fs::set_permissions(&fresh, Permissions::from_mode(0o660))?;
                listener.set_nonblocking(true)?;
                fs::rename(&fresh, path)?;
                UnixListener::from_std(listener)
            })
            .with_context(|| {
                format!(
                    "orders cannot be taken on {}; name another socket with --control",
                    path.display()
                )
            })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Takes orders until the future is dropped.
    pub(super) async fn serve(&self, orders: &Orders) {
        let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else {
                return;
            };
            let Ok((client, _)) = self.listener.accept().await else {
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let orders = orders.clone();
            tokio::spawn(async move {
                // A client that fails knows it.
                let _ = attend(client, &orders).await;
                drop(permit);
            });
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Follows the orders of one client until it hangs up, is silent for too long or talks too much.
async fn attend(client: UnixStream, orders: &Orders) -> io::Result<()> {
    let peer = client.peer_cred()?;
    let peer = Peer {
        uid: peer.uid(),
        pid: peer.pid().unwrap_or_default(),
    };
    let (reads, mut writes) = client.into_split();
    let mut reads = BufReader::new(reads);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reads).take(LINE_LEN_MAX as u64);
        let read = limited.read_until(b'\n', &mut line);
        let len = time::timeout(PATIENCE, read).await??;
        if len == 0 {
            return Ok(());
        }
        let answer = if line.ends_with(b"\n") {
            orders.follow(&line, peer).await
        } else {
            refused(&format!(
                "an order ends with a line's end and has no more than {LINE_LEN_MAX} bytes"
            ))
        };
        let text = format!("{answer}\n");
        time::timeout(PATIENCE, writes.write_all(text.as_bytes())).await??;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}

impl Orders {
    async fn follow(&self, line: &[u8], peer: Peer) -> Value {
        let order: Order = match serde_json::from_slice(line) {
            Ok(order) => order,
            Err(error) => return refused(&error.to_string()),
        };
        // Held until the order is on record: the next is decided upon what this one brought.
        let mut desk = self.desk.lock().await;
        let now = Stamp::now(&SystemClock, self.boot);
        match desk.decide(order, peer, now) {
            Decision::Record(event) => match self.record(&mut desk, &event, now).await {
                Ok(seq) => json!({ "ok": true, "event": seq, "standing": desk.standing(now) }),
                Err(why) => refused(&format!("not followed: {why}")),
            },
            Decision::Refuse { event, why } => {
                let Some(attempt) = event else {
                    return refused(&why);
                };
                match self.record(&mut desk, &attempt, now).await {
                    Ok(_) => refused(&why),
                    Err(trouble) => {
                        desk.could_not_record(attempt);
                        refused(&format!("{why}; this one waits to be recorded: {trouble}"))
                    }
                }
            }
            Decision::Done => json!({ "ok": true, "standing": desk.standing(now) }),
            Decision::Snapshot(to) => {
                drop(desk);
                self.snapshot(to, now).await
            }
            Decision::Memory(service) => {
                drop(desk);
                match self.memory.of(service).await {
                    Ok(figures) => json!({ "ok": true, "memory": figures }),
                    Err(why) => refused(&why),
                }
            }
        }
    }

    async fn record(&self, desk: &mut Desk, event: &Event, now: Stamp) -> Result<u64, String> {
        let seq = self.keeping.order(event.clone(), now).await?;
        desk.apply(seq, event);
        Ok(seq.0)
    }

    async fn snapshot(&self, to: PathBuf, now: Stamp) -> Value {
        match self.keeping.snapshot(to, now).await {
            Ok(made) => json!({
                "ok": true,
                "snapshot": crate::history::figures(&made),
            }),
            Err(why) => refused(&why),
        }
    }
}

fn refused(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use monitor::history::Place;
    use monitor::lock::{self, Settings};
    use monitor::record::Keeper;
    use tokio::sync::watch;

    const CARD: &str = "pci:0000:3b:00.0";

    pub(in super::super) fn now() -> Stamp {
        Stamp::now(&SystemClock, BootId::of_this_boot())
    }

    /// Orders to a monitor that keeps its history in `directory`.
    pub(in super::super) fn orders_in(directory: &Path) -> Orders {
        let place = Place::new(directory);
        let keeper = Keeper::open(place, directory.with_extension("anchors"), now());
        let mut desk = Desk::new(Settings::default(), &[], 0);
        desk.watched([CARD].into_iter());
        Orders {
            desk: Arc::new(Mutex::new(desk)),
            keeping: Keeping::start(keeper, Duration::from_secs(1)).unwrap(),
            memory: Memory::new(watch::channel(None).1),
            boot: BootId::of_this_boot(),
        }
    }

    #[tokio::test]
    async fn an_attempt_that_cannot_be_recorded_when_it_is_refused_waits_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let no_directory = directory.path().join("history");
        fs::write(&no_directory, "").unwrap();
        let orders = orders_in(&no_directory);
        let drain = format!(r#"{{"drain": {{"card": "{CARD}"}}}}"#);
        let peer = Peer { uid: 1000, pid: 71 };
        for _ in 0..2 {
            let answer = orders.follow(drain.as_bytes(), peer).await;
            assert_eq!(answer["ok"], false, "{answer}");
        }
        let told = orders.desk.lock().await.tick(now(), false);
        let [attempt] = &told[..] else {
            panic!("the first is to be told at once, and once: {told:?}");
        };
        assert_eq!(attempt.kind, lock::ATTEMPT);
        assert!(attempt.body.contains("uid=1000 pid=71"));
        let told = orders.desk.lock().await.tick(now(), true);
        assert_eq!(told.len(), 1, "the second is told of when it is counted");
    }
}
