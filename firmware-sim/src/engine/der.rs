//! Keys as they arrive in a session request: PKCS #1 and RFC 5915, read leniently.
//!
//! Linux sends DER that is not canonical: one of its own self-test keys has a modulus with the
//! top bit set and no leading zero, which strictly is a negative number. So an INTEGER here is
//! an unsigned number whatever its first bit, and leading zeros are dropped. Lengths may be
//! longer than they need to be, and bytes behind a structure are ignored. What does not fit
//! together is still no key.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// `RSAPublicKey` (RFC 8017 appendix A.1.1 "RSA Public Key Syntax"), big-endian.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RsaPublicKey<'a> {
    pub(crate) modulus: &'a [u8],
    pub(crate) public_exponent: &'a [u8],
}

/// `RSAPrivateKey` with two primes (RFC 8017 appendix A.1.2 "RSA Private Key Syntax").
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct RsaPrivateKey<'a> {
    pub(crate) public: RsaPublicKey<'a>,
    pub(crate) private_exponent: &'a [u8],
    /// The rest, if it is there and not zero, as some keys have it.
    pub(crate) crt: Option<RsaCrt<'a>>,
}

/// What the Chinese remainder theorem takes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct RsaCrt<'a> {
    pub(crate) primes: [&'a [u8]; 2],
    pub(crate) exponents: [&'a [u8]; 2],
    pub(crate) coefficient: &'a [u8],
}

pub(crate) fn rsa_public_key(der: &[u8]) -> Option<RsaPublicKey<'_>> {
    let mut fields = Reader(der).structure(SEQUENCE)?;
    Some(RsaPublicKey {
        modulus: fields.integer()?,
        public_exponent: fields.integer()?,
    })
}

pub(crate) fn rsa_private_key(der: &[u8]) -> Option<RsaPrivateKey<'_>> {
    let mut fields = Reader(der).structure(SEQUENCE)?;
    // Version 0 is two primes; version 1, several, is not supported.
    if !fields.integer()?.is_empty() {
        return None;
    }
    let public = RsaPublicKey {
        modulus: fields.integer()?,
        public_exponent: fields.integer()?,
    };
    Some(RsaPrivateKey {
        public,
        private_exponent: fields.integer()?,
        crt: rsa_crt(&mut fields),
    })
}

fn rsa_crt<'a>(fields: &mut Reader<'a>) -> Option<RsaCrt<'a>> {
    let mut positive = || fields.integer().filter(|number| !number.is_empty());
    Some(RsaCrt {
        primes: [positive()?, positive()?],
        exponents: [positive()?, positive()?],
        coefficient: positive()?,
    })
}

/// The scalar of an `ECPrivateKey` (RFC 5915 §3 "Elliptic Curve Private Key Format").
pub(crate) fn ec_private_key(der: &[u8]) -> Option<&[u8]> {
    let mut fields = Reader(der).structure(SEQUENCE)?;
    if fields.integer()? != [1] {
        return None;
    }
    fields.element(OCTET_STRING)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn len(&mut self) -> Option<usize> {
        /// Longest length of a length: keys are shorter than 4 GiB.
        const LEN_LEN_MAX: usize = 4;
        let first = self.byte()?;
        if first < 0x80 {
            return Some(usize::from(first));
        }
        let bytes = usize::from(first & 0x7f);
        if !(1..=LEN_LEN_MAX).contains(&bytes) {
            return None;
        }
        let bytes = self.take(bytes)?;
        Some(
            bytes
                .iter()
                .fold(0, |len, &byte| len << 8 | usize::from(byte)),
        )
    }

    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.byte()? != tag {
            return None;
        }
        let len = self.len()?;
        self.take(len)
    }

    fn structure(mut self, tag: u8) -> Option<Self> {
        self.element(tag).map(Self)
    }

    /// An unsigned number without leading zeros; zero is empty.
    fn integer(&mut self) -> Option<&'a [u8]> {
        let bytes = self.element(INTEGER)?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        (!bytes.is_empty()).then(|| &bytes[zeros..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_unsigned_with_or_without_the_leading_zero() {
        let canonical = [0x30, 8, 2, 3, 0, 0xff, 0x01, 2, 1, 3];
        let from_linux = [0x30, 7, 2, 2, 0xff, 0x01, 2, 1, 3];
        let expected = RsaPublicKey {
            modulus: &[0xff, 0x01],
            public_exponent: &[3],
        };
        assert_eq!(rsa_public_key(&canonical), Some(expected));
        assert_eq!(rsa_public_key(&from_linux), Some(expected));
        let long_lengths = [
            0x30, 0x82, 0, 10, 2, 0x81, 2, 0xff, 0x01, 2, 0x82, 0, 1, 3, 99,
        ];
        assert_eq!(rsa_public_key(&long_lengths), Some(expected));
    }

    #[test]
    fn a_private_key_may_lack_what_only_makes_it_faster() {
        let with_zeros = [
            0x30, 27, 2, 1, 0, 2, 1, 5, 2, 1, 3, 2, 1, 7, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1,
            0,
        ];
        let key = rsa_private_key(&with_zeros).unwrap();
        assert_eq!((key.private_exponent, key.crt.is_none()), (&[7][..], true));
        let without = [0x30, 12, 2, 1, 0, 2, 1, 5, 2, 1, 3, 2, 1, 7];
        assert!(rsa_private_key(&without).unwrap().crt.is_none());
    }

    #[test]
    fn what_is_no_key_is_not_taken_for_one() {
        for wrong in [
            &[][..],
            &[0x30],
            &[0x30, 0x80, 2, 1, 1, 2, 1, 1],
            &[0x30, 0x85, 0, 0, 0, 0, 6, 2, 1, 1, 2, 1, 1],
            &[0x30, 7, 2, 1, 1, 2, 1, 1],
            &[0x31, 6, 2, 1, 1, 2, 1, 1],
            &[0x30, 6, 2, 1, 1, 3, 1, 1],
            &[0x30, 5, 2, 0, 2, 1, 1],
        ] {
            assert_eq!(rsa_public_key(wrong), None, "{wrong:02x?}");
        }
        assert!(rsa_private_key(&[0x30, 12, 2, 1, 1, 2, 1, 5, 2, 1, 3, 2, 1, 7]).is_none());
        assert_eq!(ec_private_key(&[0x30, 6, 2, 1, 2, 4, 1, 9]), None);
        assert_eq!(ec_private_key(&[0x30, 6, 2, 1, 1, 4, 1, 9]), Some(&[9][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            rsa_public_key(&bytes);
            rsa_private_key(&bytes);
            ec_private_key(&bytes);
            let mut sequence = vec![SEQUENCE, 60];
            sequence.extend(bytes);
            rsa_private_key(&sequence);
        }
    }
}
