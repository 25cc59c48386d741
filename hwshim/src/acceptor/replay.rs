//! Takes a step that needs a signature twice: once to learn what is to be signed, and, when that is
//! signed, once more from the start.
//!
//! The first attempt ends where it asks for the signature. Its connection is dropped at once, and
//! nothing of it is sent. A new connection is then given the same bytes and draws the same random
//! numbers and key exchanges, from the [tape](crate::provider::tape), so that it comes to the same
//! message. If it does not, a certificate having been exchanged meanwhile, software signs.
//!
//! Whatever else is asked in a step is asked twice: the resolver of certificates, a key log, the
//! store of sessions.

use super::counts::Counts;
use super::engine::{Engine, Stepped, connect, drain, feed};
use crate::provider::tape::{Signed, Tape};
use crate::provider::{Offload, Parked};
use rustls::{ServerConfig, ServerConnection};
use std::io;
use std::sync::{Arc, Weak};

/// Bytes kept of a client, to be taken in again.
pub(super) const HISTORY_MAX: usize = 64 * 1024;

/// The provider that `config` has, if it is one of ours: if what is drawn gets on tape.
pub(super) fn provider_of(config: &ServerConfig) -> Option<Weak<Offload>> {
    let mut tape = Tape::new();
    let drawn = tape.on(|| config.crypto_provider().secure_random.fill(&mut [0]));
    drawn.ok().and_then(|()| tape.into_provider())
}

/// Takes steps by replay.
pub(super) struct Replay<'a> {
    config: &'a Arc<ServerConfig>,
    counts: &'a Counts,
    provider: &'a Weak<Offload>,
    tape: Tape,
    /// What the client has sent, as long as it may have to be taken in again.
    received: Vec<u8>,
    /// What it was sent, which a repetition must make again.
    sent: Vec<u8>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        config: &'a Arc<ServerConfig>,
        counts: &'a Counts,
        provider: &'a Weak<Offload>,
    ) -> Self {
        Self {
            config,
            counts,
            provider,
            tape: Tape::new(),
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Announces the signature for as long as a step wants a core: many connect early and speak late,
    /// and half a hello may be all that ever comes.
    async fn announce(&mut self) {
        if self.tape.is_given_up() {
            return;
        }
        // Else no step is ever taken again; and without a key there may be no provider any more.
        let offload = self.provider.upgrade();
        let Some(offload) = offload.filter(|offload| offload.is_possible()) else {
            self.tape.give_up();
            return;
        };
        self.tape.announce(offload.router().announce());
        // Whoever else has been heard says so as well, before the first of them signs: on a runtime
        // of one thread each would seem to be alone.
        tokio::task::yield_now().await;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.received.len() + bytes.len() > HISTORY_MAX {
            self.tape.give_up();
        }
        if self.tape.is_given_up() {
            self.received = Vec::new();
        } else {
            self.received.extend_from_slice(bytes);
        }
    }

    fn take(
        &mut self,
        connection: &mut ServerConnection,
        bytes: &[u8],
    ) -> Result<(), rustls::Error> {
        let was_signed = self.tape.signed().is_some();
        let outcome = self.tape.on(|| feed(connection, bytes));
        self.tape.end_replay();
        // What comes after the signature is another step, and of the same handshake.
        match self.tape.signed().filter(|_| !was_signed) {
            Some(Signed::Software) => self.counts.software(),
            Some(Signed::Released) => self.counts.offloaded(),
            Some(Signed::Mismatched) => self.counts.mismatched(),
            None => {}
        }
        outcome
    }

    async fn repeat(&mut self, parked: Parked) -> io::Result<Stepped> {
        // An error is what software says as well, and the base provider's may know better; or the
        // router is overloaded, and whoever accepted the connection has accepted its work.
        let signature = parked.sign().await.ok();
        self.tape.rewind(parked, signature);
        let mut connection = connect(self.config)?;
        let received = std::mem::take(&mut self.received);
        let outcome = self.take(&mut connection, &received);
        let unsent = self.without_sent(&mut connection)?;
        Ok(Stepped {
            connection,
            unsent,
            outcome,
        })
    }

    /// Takes the output out of a connection that begins with what was sent before, and leaves that
    /// away.
    fn without_sent(&self, connection: &mut ServerConnection) -> io::Result<Vec<u8>> {
        if self.sent.is_empty() {
            return Ok(Vec::new());
        }
        let mut output = drain(connection);
        if !output.starts_with(&self.sent) {
            return Err(io::Error::other(
                "the server's HelloRetryRequest could not be made again: was the configuration \
                 changed in place?",
            ));
        }
        Ok(output.split_off(self.sent.len()))
    }
}

impl Engine for Replay<'_> {
    async fn step(
        &mut self,
        mut connection: Box<ServerConnection>,
        bytes: Vec<u8>,
    ) -> io::Result<Stepped> {
        self.announce().await;
        self.keep(&bytes);
        let outcome = self.take(&mut connection, &bytes);
        if outcome.is_err()
            && let Some(parked) = self.tape.take_parked()
        {
            // Before anything is waited for: it must not be sent, and takes room.
            drop((connection, bytes));
            return self.repeat(parked).await;
        }
        Ok(Stepped {
            connection,
            unsent: Vec::new(),
            outcome,
        })
    }

    fn sent(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
    }
}
