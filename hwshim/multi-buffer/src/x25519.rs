//! X25519 (RFC 7748 §5 "The X25519 and X448 Functions").

use crate::MultiBuffer;
use crate::ffi::X25519Lane;
use crate::lanes::{LaneError, by_eights, conclude};
use zeroize::Zeroizing;

/// Length of private keys, public keys and shared secrets, in bytes.
pub const X25519_LEN: usize = 32;

/// A private key, a public key or a shared secret.
type Bytes = [u8; X25519_LEN];

impl MultiBuffer {
    /// Shared secrets of private and public keys, eight at a time. A public key whose shared
    /// secret would be zero whatever the private key is refused.
    pub fn x25519(&self, batch: &[(&Bytes, &Bytes)]) -> Vec<Result<Zeroizing<Bytes>, LaneError>> {
        by_eights(batch, |eight| {
            let mut outputs = vec![Zeroizing::new([0; X25519_LEN]); eight.len()];
            let mut lanes = lanes(eight.iter().copied(), &mut outputs);
            let statuses = self.library.x25519(&mut lanes);
            drop(lanes);
            conclude(outputs, vec![Ok(()); eight.len()], |lane| statuses.of(lane))
        })
    }

    /// Public keys of private ones, eight at a time.
    pub fn x25519_public(&self, batch: &[&Bytes]) -> Vec<Result<Bytes, LaneError>> {
        by_eights(batch, |eight| {
            let mut outputs = vec![Zeroizing::new([0; X25519_LEN]); eight.len()];
            let keys = eight.iter().map(|private| (*private, *private));
            let mut lanes = lanes(keys, &mut outputs);
            let statuses = self.library.x25519_public(&mut lanes);
            drop(lanes);
            let ended = conclude(outputs, vec![Ok(()); eight.len()], |lane| statuses.of(lane));
            ended.into_iter().map(|key| key.map(|key| *key)).collect()
        })
    }
}

fn lanes<'a>(
    keys: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
    outputs: &'a mut [Zeroizing<Bytes>],
) -> Vec<Option<X25519Lane<'a>>> {
    keys.zip(outputs)
        .map(|((private, public), output)| {
            Some(X25519Lane {
                output,
                private,
                public,
            })
        })
        .collect()
}
