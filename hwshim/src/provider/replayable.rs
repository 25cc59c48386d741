//! What rustls draws while it handles a ClientHello, random numbers and key exchanges, in a form
//! that can be drawn twice.
//!
//! Outside of a step on [tape](super::tape) each of these is the base provider's own, plus one
//! look at a thread-local.

use super::Offload;
use super::tape::{self, Exchange};
use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, ProtocolVersion, SupportedProtocolVersion};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use zeroize::Zeroizing;

/// Random numbers that are written down while a step is recorded, and read from there when it is
/// repeated.
#[derive(Debug)]
pub(super) struct ReplayableRandom {
    base: &'static dyn SecureRandom,
    /// Goes on tape as well, to say whose provider this is.
    offload: Weak<Offload>,
}

impl ReplayableRandom {
    pub(super) const fn new(base: &'static dyn SecureRandom, offload: Weak<Offload>) -> Self {
        Self { base, offload }
    }
}

impl SecureRandom for ReplayableRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        if tape::with(|tape| tape.read_random(buffer)) == Some(true) {
            return Ok(());
        }
        self.base.fill(buffer)?;
        tape::with(|tape| tape.write_random(buffer, &self.offload));
        Ok(())
    }

    fn fips(&self) -> bool {
        self.base.fips()
    }
}

/// A key exchange group whose exchanges are kept while a step is recorded.
#[derive(Debug)]
pub(super) struct ReplayableGroup(&'static dyn SupportedKxGroup);

impl ReplayableGroup {
    pub(super) const fn new(base: &'static dyn SupportedKxGroup) -> Self {
        Self(base)
    }
}

impl SupportedKxGroup for ReplayableGroup {
    /// TLS 1.2: the exchange ends long after the signature, so it itself is kept.
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let group = self.0.name();
        if let Some(Exchange::Started(lent)) = tape::with(|tape| tape.read(group)).flatten() {
            return Ok(Box::new(lent));
        }
        let started = self.0.start()?;
        if !tape::is_recording() {
            return Ok(started);
        }
        let lent = Lent::new(started);
        tape::with(|tape| tape.write(Exchange::Started(lent.clone())));
        Ok(Box::new(lent))
    }

    /// TLS 1.3: it is over before there is anything to sign, so what came of it is kept.
    fn start_and_complete(&self, peer_public_key: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let group = self.0.name();
        if let Some(Exchange::Completed(kept)) = tape::with(|tape| tape.read(group)).flatten() {
            return Ok(kept.completed());
        }
        let completed = self.0.start_and_complete(peer_public_key)?;
        if tape::is_recording() {
            let kept = Kept::new(&completed);
            tape::with(|tape| tape.write(Exchange::Completed(kept)));
        }
        Ok(completed)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        self.0.ffdhe_group()
    }

    fn name(&self) -> NamedGroup {
        self.0.name()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        self.0.usable_for_version(version)
    }
}

/// What a key exchange resulted in.
pub(super) struct Kept {
    group: NamedGroup,
    public_key: Vec<u8>,
    secret: Zeroizing<Vec<u8>>,
}

impl Kept {
    fn new(completed: &CompletedKeyExchange) -> Self {
        Self {
            group: completed.group,
            public_key: completed.pub_key.clone(),
            secret: Zeroizing::new(completed.secret.secret_bytes().to_vec()),
        }
    }

    pub(super) const fn group(&self) -> NamedGroup {
        self.group
    }

    fn completed(&self) -> CompletedKeyExchange {
        CompletedKeyExchange {
            group: self.group,
            pub_key: self.public_key.clone(),
            secret: SharedSecret::from(&self.secret[..]),
        }
    }
}

/// An exchange that has begun, lent to the connection that will complete it: the one that is being
/// recorded if it goes on, else the one that repeats it. It can be completed once.
#[derive(Clone)]
pub(super) struct Lent {
    group: NamedGroup,
    public_key: Vec<u8>,
    ffdhe_group: Option<FfdheGroup<'static>>,
    exchange: Arc<Mutex<Option<Box<dyn ActiveKeyExchange>>>>,
}

impl Lent {
    fn new(exchange: Box<dyn ActiveKeyExchange>) -> Self {
        Self {
            group: exchange.group(),
            public_key: exchange.pub_key().to_vec(),
            ffdhe_group: exchange.ffdhe_group(),
            exchange: Arc::new(Mutex::new(Some(exchange))),
        }
    }

    pub(super) const fn group_name(&self) -> NamedGroup {
        self.group
    }

    fn take(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        exchange
            .take()
            .ok_or_else(|| Error::General("a key exchange was to be completed twice".to_owned()))
    }
}

impl ActiveKeyExchange for Lent {
    fn complete(self: Box<Self>, peer_public_key: &[u8]) -> Result<SharedSecret, Error> {
        self.take()?.complete(peer_public_key)
    }

    fn complete_for_tls_version(
        self: Box<Self>,
        peer_public_key: &[u8],
        version: &SupportedProtocolVersion,
    ) -> Result<SharedSecret, Error> {
        self.take()?
            .complete_for_tls_version(peer_public_key, version)
    }

    fn pub_key(&self) -> &[u8] {
        &self.public_key
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        self.ffdhe_group
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}
