//! Tells systemd that this service is ready, alive, and ending (sd_notify(3), "Description").
//!
//! The protocol is one datagram of text a message, so this is all there is of it. Nothing here
//! keeps time: whoever has just ended a poll says so, and a loop that hangs says nothing, which is
//! how systemd finds out.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Somebody who started us and wants to be told.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How long it may hear nothing, if it is to wait for longer than it was told to.
    patience: Option<Duration>,
}

/// Polls that a manager waits for at least: one may be late, and a ping get lost.
const POLLS: u32 = 3;

impl Notify {
    /// Whoever is named in `NOTIFY_SOCKET`, if somebody is.
    ///
    /// # Errors
    ///
    /// If the name is no address of a socket, or there is no descriptor left.
    pub fn from_environment() -> io::Result<Option<Self>> {
        std::env::var_os("NOTIFY_SOCKET")
            .filter(|name| !name.is_empty())
            .map(|name| Self::to(&name))
            .transpose()
    }

    /// The same, for a loop that polls that often. Whoever watches it by `WATCHDOG_USEC`
    /// (sd_watchdog_enabled(3), "Environment") and would be tired before the next polls is asked to
    /// wait for them: pings between polls would vouch for a loop that may hang.
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        let variable = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let own = u64::from(std::process::id());
        let of_another = variable("WATCHDOG_PID").is_some_and(|pid| pid != own);
        let watchdog = variable("WATCHDOG_USEC").filter(|_| !of_another);
        let watchdog = watchdog.map(Duration::from_micros);
        Self {
            patience: watchdog
                .filter(|watchdog| *watchdog < 2 * interval)
                .map(|_| POLLS * interval),
            ..self
        }
    }

    fn to(name: &OsStr) -> io::Result<Self> {
        let to = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not listen must not hold up a poll.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            to,
            patience: None,
        })
    }

    /// The first poll has ended: whoever asks is answered.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn ready(&self) -> io::Result<()> {
        match self.patience {
            None => self.say("READY=1\nWATCHDOG=1"),
            Some(patience) => {
                let micros = patience.as_micros();
                self.say(&format!("READY=1\nWATCHDOG=1\nWATCHDOG_USEC={micros}"))
            }
        }
    }

    /// Another poll has ended.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn alive(&self) -> io::Result<()> {
        self.say("WATCHDOG=1")
    }

    /// There will be no more polls.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn stopping(&self) -> io::Result<()> {
        self.say("STOPPING=1")
    }

    fn say(&self, message: &str) -> io::Result<()> {
        self.socket
            .send_to_addr(message.as_bytes(), &self.to)
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut message = [0; 64];
        let len = listener.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("cardmon-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        let abstract_name = format!("@{name}");
        for (listener, name) in [
            (by_path, path.as_os_str()),
            (by_name, OsStr::new(&abstract_name)),
        ] {
            let notify = Notify::to(name).unwrap();
            notify.ready().unwrap();
            notify.alive().unwrap();
            notify.stopping().unwrap();
            assert_eq!(heard(&listener), "READY=1\nWATCHDOG=1");
            assert_eq!(heard(&listener), "WATCHDOG=1");
            assert_eq!(heard(&listener), "STOPPING=1");
        }
    }
}
