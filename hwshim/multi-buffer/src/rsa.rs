//! RSA: the bare operations, on whole blocks (RFC 8017 §5.1 "Encryption and Decryption
//! Primitives"). Padding is the caller's.

use crate::ffi::{RsaPrivateLane, RsaPublicLane};
use crate::lanes::{LaneError, by_eights, conclude, fill_words, is_below, split};
use crate::{KeyError, MultiBuffer};
use sec1::der::asn1::UintRef;
use sec1::der::{Reader, SliceReader};
use std::ffi::c_int;
use std::fmt;
use zeroize::ZeroizeOnDrop;

/// Lengths of a modulus that the library has code for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum RsaLen {
    Bits2048,
    Bits3072,
    Bits4096,
}

impl RsaLen {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bits2048, Self::Bits3072, Self::Bits4096];

    /// The length that is `bytes` bytes, if the library has code for it.
    #[must_use]
    pub fn of_bytes(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|len| len.bytes() == bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bits2048 => 256,
            Self::Bits3072 => 384,
            Self::Bits4096 => 512,
        }
    }

    pub(crate) const fn bits(self) -> c_int {
        match self {
            Self::Bits2048 => 2048,
            Self::Bits3072 => 3072,
            Self::Bits4096 => 4096,
        }
    }

    /// Words of a number half as long.
    pub(crate) const fn prime_words(self) -> usize {
        self.bytes() / 16
    }
}

/// The numbers of a private key (RFC 8017 §3.2 "RSA Private Key"), big-endian.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub struct RsaComponents<'a> {
    pub n: &'a [u8],
    pub p: &'a [u8],
    pub q: &'a [u8],
    pub dp: &'a [u8],
    pub dq: &'a [u8],
    pub qinv: &'a [u8],
}

/// Shows nothing: most of it is secret.
impl fmt::Debug for RsaComponents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaComponents").finish_non_exhaustive()
    }
}

/// A private key as the library takes it. Zeroized when dropped.
#[derive(ZeroizeOnDrop)]
pub struct RsaPrivateKey {
    #[zeroize(skip)]
    len: RsaLen,
    #[zeroize(skip)]
    n: Vec<u8>,
    /// `p`, `q`, `dp`, `dq` and `qinv`, one behind the other.
    secret: Vec<u64>,
}

impl RsaPrivateKey {
    /// Takes the numbers of a key. Whether they belong together is not tried: whoever made the
    /// key knows, and what is computed with it is verified.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`]; [`KeyError::Range`] if `p` is not the larger prime, as it is in every
    /// key that the library has been tried with, or if a number is not below what it is a residue
    /// of.
    pub fn new(components: &RsaComponents<'_>) -> Result<Self, KeyError> {
        let RsaComponents {
            n,
            p,
            q,
            dp,
            dq,
            qinv,
        } = components;
        let n = without_leading_zeros(n);
        let len = RsaLen::of_bytes(n.len()).ok_or(KeyError::Length)?;
        let words = len.prime_words();
        let mut key = Self {
            len,
            n: n.to_vec(),
            secret: vec![0; 5 * words],
        };
        for (number, words) in [p, q, dp, dq, qinv]
            .into_iter()
            .zip(key.secret.chunks_mut(words))
        {
            if !fill_words(number, words) {
                return Err(KeyError::Length);
            }
        }
        key.check()?;
        Ok(key)
    }

    /// Reads a PKCS #1 `RSAPrivateKey` of two primes (RFC 8017 §A.1.2 "RSA Private Key Syntax").
    ///
    /// # Errors
    ///
    /// [`KeyError::Encoding`], and as [`RsaPrivateKey::new`].
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        // The version, the modulus, both exponents, and what the Chinese remainder theorem takes.
        let [version, n, _, _, p, q, dp, dq, qinv] = integers(der)?;
        if version != [0] {
            return Err(KeyError::Encoding);
        }
        Self::new(&RsaComponents {
            n,
            p,
            q,
            dp,
            dq,
            qinv,
        })
    }

    fn check(&self) -> Result<(), KeyError> {
        let [p, q, dp, dq, qinv] = self.numbers();
        let is_full = |number: &[u64]| number.last().is_some_and(|word| word >> 63 == 1);
        if !is_full(p) || !is_full(q) || self.n[0] >> 7 != 1 {
            return Err(KeyError::Length);
        }
        let is_odd = |number: &[u64]| number[0] & 1 == 1;
        let in_range = is_below(q, p) & is_below(dp, p) & is_below(dq, q) & is_below(qinv, p);
        if in_range && is_odd(p) && is_odd(q) {
            Ok(())
        } else {
            Err(KeyError::Range)
        }
    }

    /// Length of the modulus.
    #[must_use]
    pub const fn len(&self) -> RsaLen {
        self.len
    }

    fn numbers(&self) -> [&[u64]; 5] {
        let words = self.len.prime_words();
        std::array::from_fn(|index| &self.secret[index * words..(index + 1) * words])
    }

    fn lane<'a>(
        &'a self,
        len: RsaLen,
        input: &'a [u8],
        output: &'a mut Vec<u8>,
    ) -> Result<RsaPrivateLane<'a>, LaneError> {
        check_lane(self.len, len, &self.n, input)?;
        let [p, q, dp, dq, qinv] = self.numbers();
        output.resize(len.bytes(), 0);
        Ok(RsaPrivateLane {
            input,
            output,
            p,
            q,
            dp,
            dq,
            qinv,
        })
    }
}

impl fmt::Debug for RsaPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaPrivateKey({:?})", self.len)
    }
}

/// A public key with the exponent 65537, as the library takes it.
#[derive(Clone)]
pub struct RsaPublicKey {
    len: RsaLen,
    n: Vec<u8>,
    words: Vec<u64>,
}

impl RsaPublicKey {
    /// Takes a modulus and an exponent, big-endian.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`], [`KeyError::PublicExponent`], [`KeyError::Range`] for a modulus that
    /// is even.
    pub fn new(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        if without_leading_zeros(e) != [1, 0, 1] {
            return Err(KeyError::PublicExponent);
        }
        let n = without_leading_zeros(n);
        let len = RsaLen::of_bytes(n.len()).ok_or(KeyError::Length)?;
        let mut words = vec![0; 2 * len.prime_words()];
        if !fill_words(n, &mut words) || n[0] >> 7 != 1 {
            return Err(KeyError::Length);
        }
        if words[0] & 1 == 0 {
            return Err(KeyError::Range);
        }
        Ok(Self {
            len,
            n: n.to_vec(),
            words,
        })
    }

    /// Reads a PKCS #1 `RSAPublicKey` (RFC 8017 §A.1.1 "RSA Public Key Syntax").
    ///
    /// # Errors
    ///
    /// [`KeyError::Encoding`], and as [`RsaPublicKey::new`].
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let [n, e] = integers(der)?;
        Self::new(n, e)
    }

    /// Length of the modulus.
    #[must_use]
    pub const fn len(&self) -> RsaLen {
        self.len
    }

    fn lane<'a>(
        &'a self,
        len: RsaLen,
        input: &'a [u8],
        output: &'a mut Vec<u8>,
    ) -> Result<RsaPublicLane<'a>, LaneError> {
        check_lane(self.len, len, &self.n, input)?;
        output.resize(len.bytes(), 0);
        Ok(RsaPublicLane {
            input,
            output,
            n: &self.words,
        })
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaPublicKey({:?})", self.len)
    }
}

impl MultiBuffer {
    /// The private operation on blocks as long as the modulus: decrypts, or signs what was padded
    /// before. Keys of `len` only; eight at a time.
    ///
    /// The results are **not verified**. One that is wrong gives the key away to whoever sees it
    /// (Boneh, DeMillo and Lipton 1997).
    pub fn rsa_private(
        &self,
        len: RsaLen,
        batch: &[(&RsaPrivateKey, &[u8])],
    ) -> Vec<Result<Vec<u8>, LaneError>> {
        by_eights(batch, |eight| {
            let mut outputs = vec![Vec::new(); eight.len()];
            let lanes = eight.iter().zip(&mut outputs);
            let (mut lanes, checks) =
                split(lanes.map(|((key, input), output)| key.lane(len, input, output)));
            let statuses = self.library.rsa_private(len, &mut lanes);
            drop(lanes);
            conclude(outputs, checks, |lane| statuses.of(lane))
        })
    }

    /// The public operation on blocks as long as the modulus. Keys of `len` only; eight at a time.
    pub fn rsa_public(
        &self,
        len: RsaLen,
        batch: &[(&RsaPublicKey, &[u8])],
    ) -> Vec<Result<Vec<u8>, LaneError>> {
        by_eights(batch, |eight| {
            let mut outputs = vec![Vec::new(); eight.len()];
            let lanes = eight.iter().zip(&mut outputs);
            let (mut lanes, checks) =
                split(lanes.map(|((key, input), output)| key.lane(len, input, output)));
            let statuses = self.library.rsa_public(len, &mut lanes);
            drop(lanes);
            conclude(outputs, checks, |lane| statuses.of(lane))
        })
    }
}

fn check_lane(own: RsaLen, len: RsaLen, n: &[u8], input: &[u8]) -> Result<(), LaneError> {
    if own != len {
        return Err(LaneError::OtherKey);
    }
    // Big-endian and of one length, so numbers compare as bytes do. The modulus is no secret, and
    // neither is whether an input is below it.
    if input.len() != n.len() || input >= n {
        return Err(LaneError::Input);
    }
    Ok(())
}

/// The numbers of a sequence that has so many, and nothing behind them.
fn integers<const COUNT: usize>(der: &[u8]) -> Result<[&[u8]; COUNT], KeyError> {
    let read = || -> sec1::der::Result<[&[u8]; COUNT]> {
        let mut numbers = [&[][..]; COUNT];
        let mut reader = SliceReader::new(der)?;
        reader.sequence(|fields| -> sec1::der::Result<()> {
            for number in &mut numbers {
                *number = fields.decode::<UintRef<'_>>()?.as_bytes();
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(numbers)
    };
    read().map_err(|_| KeyError::Encoding)
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DER: [&[u8]; 3] = [
        include_bytes!("../../src/kat/rsa-2048.pkcs1.der"),
        include_bytes!("../../src/kat/rsa-3072.pkcs1.der"),
        include_bytes!("../../src/kat/rsa-4096.pkcs1.der"),
    ];

    #[test]
    fn keys_are_read_and_say_their_length() {
        for (der, len) in DER.into_iter().zip(RsaLen::ALL) {
            assert_eq!(RsaPrivateKey::from_pkcs1(der).unwrap().len(), len);
            let [_, n, e, ..] = integers::<9>(der).unwrap();
            assert_eq!(RsaPublicKey::new(n, e).unwrap().len(), len);
        }
    }

    #[test]
    fn keys_that_the_library_would_compute_nonsense_with_are_refused() {
        let [_, n, _, _, p, q, dp, dq, qinv] = integers::<9>(DER[0]).unwrap();
        let right = RsaComponents {
            n,
            p,
            q,
            dp,
            dq,
            qinv,
        };
        let refused = |components: RsaComponents<'_>| RsaPrivateKey::new(&components).err();
        assert_eq!(refused(right), None);
        // The smaller prime first; another length; a number that is no residue.
        let swapped = RsaComponents {
            p: q,
            q: p,
            dp: dq,
            dq: dp,
            ..right
        };
        assert_eq!(refused(swapped), Some(KeyError::Range));
        assert_eq!(
            refused(RsaComponents {
                n: &n[1..],
                ..right
            }),
            Some(KeyError::Length)
        );
        assert_eq!(
            refused(RsaComponents {
                p: &p[1..],
                ..right
            }),
            Some(KeyError::Length)
        );
        assert_eq!(
            refused(RsaComponents { q: n, ..right }),
            Some(KeyError::Length)
        );
        assert_eq!(
            refused(RsaComponents { dp: p, ..right }),
            Some(KeyError::Range)
        );
        assert_eq!(
            refused(RsaComponents { dq: q, ..right }),
            Some(KeyError::Range)
        );
        assert_eq!(
            refused(RsaComponents { qinv: p, ..right }),
            Some(KeyError::Range)
        );
        let mut even = p.to_vec();
        *even.last_mut().unwrap() &= !1;
        assert_eq!(
            refused(RsaComponents { p: &even, ..right }),
            Some(KeyError::Range)
        );
        let public = |n: &[u8], e: &[u8]| RsaPublicKey::new(n, e).err();
        assert_eq!(public(n, &[3]), Some(KeyError::PublicExponent));
        assert_eq!(public(&n[..255], &[1, 0, 1]), Some(KeyError::Length));
    }

    #[test]
    fn what_is_no_pkcs1_is_no_key() {
        let der = DER[0];
        for wrong in [
            &der[..der.len() - 1],
            &der[1..],
            &[],
            &[0x30, 0],
            &[0x30, 3, 2, 1, 0],
        ] {
            let refused = RsaPrivateKey::from_pkcs1(wrong).err();
            assert_eq!(refused, Some(KeyError::Encoding));
        }
        let longer = [der, &[0]].concat();
        assert_eq!(
            RsaPrivateKey::from_pkcs1(&longer).err(),
            Some(KeyError::Encoding)
        );
        let mut of_three_primes = der.to_vec();
        of_three_primes[6] = 1;
        let refused = RsaPrivateKey::from_pkcs1(&of_three_primes).err();
        assert_eq!(refused, Some(KeyError::Encoding));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let [_, n, _, _, p, q, dp, dq, qinv] = integers::<9>(DER[0]).unwrap();
        let components = RsaComponents {
            n,
            p,
            q,
            dp,
            dq,
            qinv,
        };
        let key = RsaPrivateKey::new(&components).unwrap();
        assert_eq!(
            format!("{key:?} {components:?}"),
            "RsaPrivateKey(Bits2048) RsaComponents { .. }"
        );
    }
}
