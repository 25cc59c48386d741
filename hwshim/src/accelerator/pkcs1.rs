//! EMSA-PKCS1-v1_5 encoding (RFC 8017 §9.2 "EMSA-PKCS1-v1_5"), for an accelerator that pads nothing,
//! and to compare with what a signature opens to.

use crate::key::HashAlgorithm;

/// Bytes around the digest information: `00 01`, eight of `ff` at least, `00`.
const PADDING_LEN_MIN: usize = 11;

/// The encoded message for a modulus of `len` bytes. `None` if that is too short for the hash.
pub(crate) fn encode(hash: HashAlgorithm, message: &[u8], len: usize) -> Option<Vec<u8>> {
    let prefix = digest_info(hash);
    let digest = hash.digest(message);
    let content_len = prefix.len() + digest.as_ref().len();
    let content = len
        .checked_sub(content_len)
        .filter(|_| content_len + PADDING_LEN_MIN <= len)?;
    let mut encoded = vec![0xff; len];
    encoded[0] = 0;
    encoded[1] = 1;
    encoded[content - 1] = 0;
    encoded[content..content + prefix.len()].copy_from_slice(&prefix);
    encoded[content + prefix.len()..].copy_from_slice(digest.as_ref());
    Some(encoded)
}

/// DER of `DigestInfo` up to the digest (note 1 there). The hashes differ in the last byte of
/// their identifier, and in lengths.
fn digest_info(hash: HashAlgorithm) -> [u8; 19] {
    let (identifier, digest_len) = match hash {
        HashAlgorithm::Sha256 => (1, 0x20),
        HashAlgorithm::Sha384 => (2, 0x30),
        HashAlgorithm::Sha512 => (3, 0x40),
    };
    let all = 0x11 + digest_len;
    [
        0x30, all, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
        identifier, 0x05, 0x00, 0x04, digest_len,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_standard() {
        // RFC 8017 §9.2, note 1.
        let sha512 = [
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
            0x03, 0x05, 0x00, 0x04, 0x40,
        ];
        let digest = HashAlgorithm::Sha512.digest(b"message");
        let encoded = encode(HashAlgorithm::Sha512, b"message", 256).unwrap();
        let (head, content) = encoded.split_at(256 - 64 - 19);
        assert_eq!(content, [&sha512, digest.as_ref()].concat());
        assert_eq!((head[0], head[1], head.last()), (0, 1, Some(&0)));
        assert!(head[2..head.len() - 1].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn a_modulus_that_is_too_short_is_refused() {
        for hash in HashAlgorithm::ALL {
            let shortest = 19 + hash.digest_len() + PADDING_LEN_MIN;
            assert!(encode(hash, b"", shortest).is_some());
            assert_eq!(encode(hash, b"", shortest - 1), None);
            assert_eq!(encode(hash, b"", 0), None);
        }
    }
}
