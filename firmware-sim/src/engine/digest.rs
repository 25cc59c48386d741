//! Hashes, and HMAC with them.

use card_device::engine::{Hash, Operation, Session};
use card_spec::crypto::Status;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A hash. It has no key, but is a session all the same.
pub(super) struct Hashing(Hash);

impl Hashing {
    pub(super) fn open(hash: Hash, result_len: u32) -> Result<Self, Status> {
        check_len(hash, result_len)?;
        Ok(Self(hash))
    }
}

impl Session for Hashing {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Hash { source } = operation else {
            return Err(Status::NOTSUPP);
        };
        match self.0 {
            Hash::Sha1 => super::deliver(&Sha1::digest(source), output),
            Hash::Sha256 => super::deliver(&Sha256::digest(source), output),
            Hash::Sha384 => super::deliver(&Sha384::digest(source), output),
            Hash::Sha512 => super::deliver(&Sha512::digest(source), output),
        }
    }
}

/// An HMAC key, with the state after the key has gone in.
pub(super) enum Hmacing {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

impl Hmacing {
    pub(super) fn open(hash: Hash, result_len: u32, key: &[u8]) -> Result<Self, Status> {
        check_len(hash, result_len)?;
        let opened = match hash {
            Hash::Sha1 => return Err(Status::NOTSUPP),
            Hash::Sha256 => Hmac::new_from_slice(key).map(Self::Sha256),
            Hash::Sha384 => Hmac::new_from_slice(key).map(Self::Sha384),
            Hash::Sha512 => Hmac::new_from_slice(key).map(Self::Sha512),
        };
        opened.map_err(|_| Status::ERR)
    }
}

impl Session for Hmacing {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Mac { source } = operation else {
            return Err(Status::NOTSUPP);
        };
        match self {
            Self::Sha256(mac) => super::deliver(&authenticate(mac, source), output),
            Self::Sha384(mac) => super::deliver(&authenticate(mac, source), output),
            Self::Sha512(mac) => super::deliver(&authenticate(mac, source), output),
        }
    }
}

fn authenticate<M: Mac + Clone>(keyed: &M, source: &[u8]) -> hmac::digest::Output<M> {
    let mut mac = keyed.clone();
    mac.update(source);
    mac.finalize().into_bytes()
}

/// Only whole results: the standard has a length field, and no reason for another length.
fn check_len(hash: Hash, result_len: u32) -> Result<(), Status> {
    let len = match hash {
        Hash::Sha1 => 20,
        Hash::Sha256 => 32,
        Hash::Sha384 => 48,
        Hash::Sha512 => 64,
    };
    if result_len == len {
        Ok(())
    } else {
        Err(Status::ERR)
    }
}
