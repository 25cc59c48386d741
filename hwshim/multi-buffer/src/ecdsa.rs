//! ECDSA signatures over P-256 and P-384 (FIPS 186-5 §6.4 "ECDSA Signature Generation").
//!
//! The library leaves the choice of nonces to its caller. They are drawn here, one for each
//! signature, from the system's random numbers, and drawn again when out of range, so that all
//! numbers in range are equally likely.

use crate::ffi::EcdsaLane;
use crate::lanes::{LaneError, by_eights, conclude, is_below, split, words};
use crate::{KeyError, MultiBuffer};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Words of the longest order.
const WORDS_MAX: usize = 6;
/// Bytes of the longest order.
const LEN_MAX: usize = 8 * WORDS_MAX;

/// A curve.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Curve {
    P256,
    P384,
}

impl Curve {
    /// Length of its order, and of everything that is a number modulo that, in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    const fn words(self) -> usize {
        self.len() / 8
    }

    /// How many points its group has (SP 800-186 §3.2.1 "Weierstrass Curves"), least significant
    /// word first.
    const fn order(self) -> [u64; WORDS_MAX] {
        match self {
            Self::P256 => [
                0xf3b9_cac2_fc63_2551,
                0xbce6_faad_a717_9e84,
                0xffff_ffff_ffff_ffff,
                0xffff_ffff_0000_0000,
                0,
                0,
            ],
            Self::P384 => [
                0xecec_196a_ccc5_2973,
                0x581a_0db2_48b0_a77a,
                0xc763_4d81_f437_2ddf,
                0xffff_ffff_ffff_ffff,
                0xffff_ffff_ffff_ffff,
                0xffff_ffff_ffff_ffff,
            ],
        }
    }

    /// Whether `scalar` is a private key or a nonce: neither zero nor above the order.
    fn is_scalar(self, scalar: &[u64; WORDS_MAX]) -> bool {
        let any_bit = scalar.iter().fold(0, |bits, word| bits | word);
        (any_bit != 0) & is_below(scalar, &self.order())
    }
}

/// A private key. Zeroized when dropped.
#[derive(ZeroizeOnDrop)]
pub struct EcdsaPrivateKey {
    #[zeroize(skip)]
    curve: Curve,
    /// Where it stays when the key is moved: what a move leaves behind nobody wipes.
    scalar: Box<[u64]>,
}

impl EcdsaPrivateKey {
    /// Takes a private key, big-endian.
    ///
    /// # Errors
    ///
    /// [`KeyError::Scalar`].
    pub fn new(curve: Curve, scalar: &[u8]) -> Result<Self, KeyError> {
        let read: Zeroizing<[u64; WORDS_MAX]> =
            Zeroizing::new(words(scalar).ok_or(KeyError::Scalar)?);
        if !curve.is_scalar(&read) {
            return Err(KeyError::Scalar);
        }
        let mut key = Self {
            curve,
            scalar: Box::new([0; WORDS_MAX]),
        };
        // Into the box, and not by way of the stack.
        key.scalar.copy_from_slice(&read[..]);
        Ok(key)
    }

    /// Reads a SEC 1 `ECPrivateKey` (RFC 5915 §3 "Elliptic Curve Private Key Format"), whose curve
    /// the caller knows.
    ///
    /// # Errors
    ///
    /// [`KeyError::Encoding`], [`KeyError::Scalar`].
    pub fn from_sec1(curve: Curve, der: &[u8]) -> Result<Self, KeyError> {
        let key = sec1::EcPrivateKey::try_from(der).map_err(|_| KeyError::Encoding)?;
        Self::new(curve, key.private_key)
    }

    /// Its curve.
    #[must_use]
    pub const fn curve(&self) -> Curve {
        self.curve
    }
}

impl fmt::Debug for EcdsaPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcdsaPrivateKey({:?})", self.curve)
    }
}

/// A signature: two numbers.
#[derive(Clone, Debug, Eq, PartialEq, Zeroize)]
pub struct Signature {
    r: Vec<u8>,
    s: Vec<u8>,
}

impl Signature {
    /// Both numbers, big-endian, each as long as the order of the curve.
    #[must_use]
    pub fn numbers(&self) -> (&[u8], &[u8]) {
        (&self.r, &self.s)
    }

    /// As `ECDSA-Sig-Value` in DER (RFC 3279 §2.2.3 "ECDSA Signature Algorithm").
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        const INTEGER: u8 = 0x02;
        const SEQUENCE: u8 = 0x30;
        let mut integers = Vec::with_capacity(2 * (LEN_MAX + 3));
        for number in [&self.r, &self.s] {
            let zeros = number.iter().take_while(|&&byte| byte == 0).count();
            // A zero keeps a number from looking negative, and zero from being empty.
            let number = &number[zeros.min(number.len() - 1)..];
            let padding = usize::from(number[0] >> 7 == 1);
            integers.extend([INTEGER, short_len(number.len() + padding)]);
            integers.extend_from_slice(&[0][..padding]);
            integers.extend_from_slice(number);
        }
        let mut der = vec![SEQUENCE, short_len(integers.len())];
        der.append(&mut integers);
        der
    }
}

/// A length in DER's short form, which ends at 127: both numbers of P-384 with their headers have
/// 102 bytes at most.
fn short_len(len: usize) -> u8 {
    u8::try_from(len).expect("numbers of 48 bytes at most")
}

impl MultiBuffer {
    /// Signs digests with keys of `curve`, eight at a time. Of a digest that is longer than the
    /// order the leftmost bytes count (FIPS 186-5 §6.4.1).
    ///
    /// The results are **not verified**.
    pub fn ecdsa_sign(
        &self,
        curve: Curve,
        batch: &[(&EcdsaPrivateKey, &[u8])],
    ) -> Vec<Result<Signature, LaneError>> {
        by_eights(batch, |eight| {
            let prepared: Vec<_> = eight
                .iter()
                .map(|(key, digest)| Prepared::new(key, curve, digest))
                .collect();
            let len = curve.len();
            let mut outputs = vec![
                Signature {
                    r: vec![0; len],
                    s: vec![0; len]
                };
                eight.len()
            ];
            let lanes = prepared.iter().zip(&mut outputs);
            let (mut lanes, checks) = split(lanes.map(|(prepared, output)| match prepared {
                Ok(prepared) => Ok(prepared.lane(output)),
                Err(error) => Err(*error),
            }));
            let statuses = self.library.ecdsa_sign(curve, &mut lanes);
            drop(lanes);
            conclude(outputs, checks, |lane| statuses.of(lane))
        })
    }
}

/// One signature to be made.
struct Prepared<'a> {
    key: &'a EcdsaPrivateKey,
    nonce: Zeroizing<[u64; WORDS_MAX]>,
    digest: [u8; LEN_MAX],
}

impl<'a> Prepared<'a> {
    fn new(key: &'a EcdsaPrivateKey, curve: Curve, digest: &[u8]) -> Result<Self, LaneError> {
        if key.curve != curve {
            return Err(LaneError::OtherKey);
        }
        Ok(Self {
            key,
            nonce: draw_nonce(curve, |bytes| getrandom::fill(bytes).is_ok())?,
            digest: representative(curve, digest),
        })
    }

    fn lane<'b>(&'b self, output: &'b mut Signature) -> EcdsaLane<'b> {
        let curve = self.key.curve;
        EcdsaLane {
            r: &mut output.r,
            s: &mut output.s,
            digest: &self.digest[..curve.len()],
            nonce: &self.nonce[..curve.words()],
            key: &self.key.scalar[..curve.words()],
        }
    }
}

/// The number that is signed for a digest, big-endian, in as many bytes as the order has.
///
/// It is below the order, because the library refuses a number that is not, as one in 2^32 digests
/// is for P-256. It refuses zero as well, which is left to it: nobody knows a message for that.
fn representative(curve: Curve, digest: &[u8]) -> [u8; LEN_MAX] {
    let digest = &digest[..digest.len().min(curve.len())];
    let mut number: [u64; WORDS_MAX] = words(digest).expect("cut to the length of the order");
    if !is_below(&number, &curve.order()) {
        // Both have their topmost bit set, so once is enough.
        let mut borrow = false;
        for (word, order) in number.iter_mut().zip(curve.order()) {
            let (difference, first) = word.overflowing_sub(order);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (difference, first | second);
        }
    }
    let mut bytes = [0; LEN_MAX];
    let words = number[..curve.words()].iter().rev();
    for (bytes, word) in bytes.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// Draws until a nonce is in range. One draw in 2^32 is not; a source of which a hundred are not
/// is none.
fn draw_nonce(
    curve: Curve,
    mut fill: impl FnMut(&mut [u8]) -> bool,
) -> Result<Zeroizing<[u64; WORDS_MAX]>, LaneError> {
    const DRAWS: usize = 100;
    let mut bytes = Zeroizing::new([0; LEN_MAX]);
    for _ in 0..DRAWS {
        let bytes = &mut bytes[..curve.len()];
        if !fill(bytes) {
            return Err(LaneError::NoRandomness);
        }
        let nonce = Zeroizing::new(words(bytes).expect("as long as the order"));
        if curve.is_scalar(&nonce) {
            return Ok(nonce);
        }
    }
    Err(LaneError::NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order, big-endian, plus `add`.
    fn order_plus(curve: Curve, add: u64) -> Vec<u8> {
        let mut order = curve.order();
        order[0] += add;
        let words = order[..curve.words()].iter().rev();
        words.flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn the_number_of_a_key_stays_where_it_is_when_the_key_moves() {
        let key = EcdsaPrivateKey::new(Curve::P256, &[7; 32]).unwrap();
        let before = key.scalar.as_ptr();
        let moved = Box::new(key);
        assert_eq!(moved.scalar.as_ptr(), before);
    }

    #[test]
    fn a_nonce_that_is_zero_or_out_of_range_is_drawn_again() {
        for curve in [Curve::P256, Curve::P384] {
            let mut good = vec![0; curve.len()];
            good[curve.len() - 1] = 7;
            let draws = [
                vec![0; curve.len()],
                order_plus(curve, 0),
                order_plus(curve, 1),
                vec![0xff; curve.len()],
                good,
            ];
            let mut drawn = draws.iter();
            let nonce = draw_nonce(curve, |bytes| {
                bytes.copy_from_slice(drawn.next().unwrap());
                true
            });
            assert_eq!(*nonce.unwrap(), [7, 0, 0, 0, 0, 0], "{curve:?}");
            assert_eq!(drawn.next(), None, "{curve:?}");
        }
    }

    #[test]
    fn a_source_that_gives_nothing_usable_signs_nothing() {
        let stuck = draw_nonce(Curve::P256, |bytes| {
            bytes.fill(0);
            true
        });
        assert_eq!(stuck, Err(LaneError::NoRandomness));
        let none = draw_nonce(Curve::P256, |_| false);
        assert_eq!(none, Err(LaneError::NoRandomness));
    }

    #[test]
    fn keys_are_in_range() {
        for curve in [Curve::P256, Curve::P384] {
            let key = |scalar: &[u8]| EcdsaPrivateKey::new(curve, scalar).map(|_| ());
            assert_eq!(key(&[0; 32]), Err(KeyError::Scalar));
            assert_eq!(key(&order_plus(curve, 0)), Err(KeyError::Scalar));
            assert_eq!(key(&[0xff; LEN_MAX + 1]), Err(KeyError::Scalar));
            assert_eq!(key(&[0, 0, 1]), Ok(()));
            let mut last = order_plus(curve, 0);
            *last.last_mut().unwrap() -= 1;
            assert_eq!(key(&last), Ok(()));
        }
    }

    #[test]
    fn a_digest_is_cut_to_the_length_of_the_order_and_reduced_below_it() {
        for curve in [Curve::P256, Curve::P384] {
            let number = |digest: &[u8]| representative(curve, digest)[..curve.len()].to_vec();
            let mut five = vec![0; curve.len()];
            *five.last_mut().unwrap() = 5;
            assert_eq!(number(&order_plus(curve, 5)), five);
            assert_eq!(number(&[5]), five);
            assert_eq!(number(&order_plus(curve, 0)), vec![0; curve.len()]);
            let long = [&five[..], &[9; 16]].concat();
            assert_eq!(number(&long), five);
            let below: Vec<u8> = (1..=64).collect();
            assert_eq!(number(&below), below[..curve.len()]);
        }
    }

    #[test]
    fn numbers_in_der_are_positive_and_as_short_as_they_can_be() {
        let mut signature = Signature {
            r: vec![0; 32],
            s: vec![0; 32],
        };
        signature.r[31] = 0x7f;
        signature.s[30] = 0x80;
        assert_eq!(signature.to_der(), [0x30, 8, 2, 1, 0x7f, 2, 3, 0, 0x80, 0]);
        let full = Signature {
            r: vec![0xff; 48],
            s: vec![0xff; 48],
        };
        assert_eq!(full.to_der()[..5], [0x30, 102, 2, 49, 0]);
    }
}
