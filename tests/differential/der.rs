//! As much DER (X.690) as keys and signatures take, written and read by nobody else's code.

use crypto_bigint::BoxedUint;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// `[1]`, around another element.
const CONTEXT_1: u8 = 0xa1;

/// `RSAPrivateKey` (RFC 8017 §A.1.2 "RSA Private Key Syntax"), from the modulus on.
pub(crate) fn rsa_private_key(numbers: [&BoxedUint; 8]) -> Vec<u8> {
    let version = integer(&BoxedUint::zero());
    let numbers = numbers.map(integer).concat();
    element(SEQUENCE, &[version, numbers].concat())
}

/// `ECPrivateKey` (RFC 5915 §3 "Elliptic Curve Private Key Format"), with the public key or
/// without.
pub(crate) fn ec_private_key(scalar: &[u8], public: Option<&[u8]>) -> Vec<u8> {
    let version = integer(&BoxedUint::one());
    let scalar = element(OCTET_STRING, scalar);
    let public = public.map_or_else(Vec::new, |point| {
        element(CONTEXT_1, &element(BIT_STRING, &[&[0], point].concat()))
    });
    element(SEQUENCE, &[version, scalar, public].concat())
}

/// `ECDSA-Sig-Value` (RFC 3279 §2.2.3 "ECDSA Signature Algorithm").
pub(crate) fn signature(r: &BoxedUint, s: &BoxedUint) -> Vec<u8> {
    element(SEQUENCE, &[integer(r), integer(s)].concat())
}

/// The same with a zero too many before `s`, which is BER and not DER.
pub(crate) fn signature_not_minimal(r: &BoxedUint, s: &BoxedUint) -> Vec<u8> {
    let s = element(INTEGER, &[vec![0], content(s)].concat());
    element(SEQUENCE, &[integer(r), s].concat())
}

/// The same with its length in two bytes where one would do, which is BER and not DER.
pub(crate) fn signature_with_long_length(r: &BoxedUint, s: &BoxedUint) -> Vec<u8> {
    let numbers = [integer(r), integer(s)].concat();
    let len = u8::try_from(numbers.len()).unwrap();
    [&[SEQUENCE, 0x81, len][..], &numbers].concat()
}

/// The two numbers of a signature whose lengths take one byte each, as those of P-256 and P-384
/// do.
pub(crate) fn two_integers(signature: &[u8]) -> [BoxedUint; 2] {
    let [SEQUENCE, _, INTEGER, r_len, rest @ ..] = signature else {
        panic!("{signature:02x?} is no signature");
    };
    let (r, rest) = rest.split_at(usize::from(*r_len));
    let [INTEGER, _, s @ ..] = rest else {
        panic!("{signature:02x?} is no signature");
    };
    [r, s].map(BoxedUint::from_be_slice_vartime)
}

fn integer(number: &BoxedUint) -> Vec<u8> {
    element(INTEGER, &content(number))
}

/// The fewest bytes that are not taken for a negative number.
fn content(number: &BoxedUint) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let bytes = &bytes[zeros..];
    let sign = if bytes.first().is_none_or(|first| first & 0x80 != 0) {
        &[0][..]
    } else {
        &[]
    };
    [sign, bytes].concat()
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    let zeros = len.iter().take_while(|&&byte| byte == 0).count();
    let len = match &len[zeros..] {
        [] => vec![0],
        [short @ ..0x80] => vec![*short],
        long => [&[0x80 | u8::try_from(long.len()).unwrap()], long].concat(),
    };
    [&[tag], &len[..], content].concat()
}
