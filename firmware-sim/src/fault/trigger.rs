//! When a fault acts: from when on, for how long, on which requests, how often.
//!
//! Only says so; [`script`](super::script) watches the time and the requests.
//!
//! ```text
//!      at            after_requests     probability, up to `times`
//!   ---|---------------|-----x---x--x-------|----->  time, requests
//!      |<------------------ lasting ------->|
//! ```

use card_device::engine::{Cipher, Curve, Hash, Operation, SessionSpec};
use card_spec::crypto::{control_opcode, data_opcode, service};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When a fault acts. From the moment it is injected until it is cleared, unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// From when on, since the card started. What is over already means now.
    pub at: Duration,
    /// For how long. A fault that is a state of the card, as a hang, is over after that; one that
    /// happens to requests does not happen to later ones. `None` is until it is cleared.
    pub lasting: Option<Duration>,
    /// How many matching requests it leaves alone first.
    pub after_requests: u64,
    /// How often it may act. `None` is without limit.
    pub times: Option<u64>,
    /// Chance of each matching request that it acts, from 0 to 1.
    pub probability: f64,
    /// On which requests it acts; on all if `None`. A fault that is a state of the card begins with
    /// one of them if this, `after_requests` or `probability` is given, and with the time otherwise.
    pub matching: Option<Matching>,
}

impl Default for Trigger {
    fn default() -> Self {
        Self {
            at: Duration::ZERO,
            lasting: None,
            after_requests: 0,
            times: None,
            probability: 1.0,
            matching: None,
        }
    }
}

impl Trigger {
    /// From now until it is cleared.
    #[must_use]
    pub fn now() -> Self {
        Self::default()
    }

    /// From `at` until it is cleared.
    #[must_use]
    pub fn at(at: Duration) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    /// For a while.
    #[must_use]
    pub fn lasting(mut self, lasting: Duration) -> Self {
        self.lasting = Some(lasting);
        self
    }

    /// Not before so many requests.
    #[must_use]
    pub fn after_requests(mut self, count: u64) -> Self {
        self.after_requests = count;
        self
    }

    /// So many times at most.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// With this chance only.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// On these requests only.
    #[must_use]
    pub fn matching(mut self, matching: Matching) -> Self {
        self.matching = Some(matching);
        self
    }

    /// Whether a state of the card waits for a request to begin.
    pub(super) fn waits_for_a_request(&self) -> bool {
        self.matching.is_some() || self.after_requests > 0 || self.probability < 1.0
    }
}

/// Which requests. What is `None` may be anything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Matching {
    /// Number of the service, see [`card_spec::crypto::service`].
    pub service: Option<u32>,
    /// Opcode, see [`card_spec::crypto::data_opcode`] and `control_opcode`.
    pub opcode: Option<u32>,
    /// What the session is for.
    pub algorithm: Option<Algorithm>,
    /// ID of the session; the first one after power-on is 1.
    pub session: Option<u64>,
}

impl Matching {
    pub(super) fn matches(&self, seen: &Seen) -> bool {
        fn agrees<T: PartialEq>(wanted: Option<T>, found: Option<T>) -> bool {
            wanted.is_none() || wanted == found
        }
        agrees(self.service, Some(seen.opcode >> 8))
            && agrees(self.opcode, Some(seen.opcode))
            && agrees(self.algorithm, seen.algorithm)
            && agrees(self.session, Some(seen.session_id))
    }
}

/// What there is to match of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) opcode: u32,
    /// Unknown where a session is opened and has no ID yet.
    pub(super) algorithm: Option<Algorithm>,
    /// 0 for none.
    pub(super) session_id: u64,
}

/// What a session is for, by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Algorithm(&'static str);

const ALGORITHMS: [&str; 14] = [
    "aes-ecb",
    "aes-cbc",
    "aes-ctr",
    "aes-gcm",
    "sha-1",
    "sha-256",
    "sha-384",
    "sha-512",
    "hmac-sha-256",
    "hmac-sha-384",
    "hmac-sha-512",
    "rsa",
    "ecdsa-p256",
    "ecdsa-p384",
];

const SERVICES: [(&str, u32); 5] = [
    ("cipher", service::CIPHER),
    ("hash", service::HASH),
    ("mac", service::MAC),
    ("aead", service::AEAD),
    ("akcipher", service::AKCIPHER),
];

const OPCODES: [(&str, u32); 20] = [
    ("cipher-create", control_opcode::CIPHER_CREATE),
    ("cipher-destroy", control_opcode::CIPHER_DESTROY),
    ("hash-create", control_opcode::HASH_CREATE),
    ("hash-destroy", control_opcode::HASH_DESTROY),
    ("mac-create", control_opcode::MAC_CREATE),
    ("mac-destroy", control_opcode::MAC_DESTROY),
    ("aead-create", control_opcode::AEAD_CREATE),
    ("aead-destroy", control_opcode::AEAD_DESTROY),
    ("akcipher-create", control_opcode::AKCIPHER_CREATE),
    ("akcipher-destroy", control_opcode::AKCIPHER_DESTROY),
    ("cipher-encrypt", data_opcode::CIPHER_ENCRYPT),
    ("cipher-decrypt", data_opcode::CIPHER_DECRYPT),
    ("hash", data_opcode::HASH),
    ("mac", data_opcode::MAC),
    ("aead-encrypt", data_opcode::AEAD_ENCRYPT),
    ("aead-decrypt", data_opcode::AEAD_DECRYPT),
    ("encrypt", data_opcode::AKCIPHER_ENCRYPT),
    ("decrypt", data_opcode::AKCIPHER_DECRYPT),
    ("sign", data_opcode::AKCIPHER_SIGN),
    ("verify", data_opcode::AKCIPHER_VERIFY),
];

impl Algorithm {
    /// What a session of this kind is for.
    #[must_use]
    pub const fn of(spec: &SessionSpec) -> Self {
        Self(match spec {
            SessionSpec::Cipher { cipher, .. } => match cipher {
                Cipher::AesEcb => "aes-ecb",
                Cipher::AesCbc => "aes-cbc",
                Cipher::AesCtr => "aes-ctr",
            },
            SessionSpec::AesGcm { .. } => "aes-gcm",
            SessionSpec::Hash { hash, .. } => match hash {
                Hash::Sha1 => "sha-1",
                Hash::Sha256 => "sha-256",
                Hash::Sha384 => "sha-384",
                Hash::Sha512 => "sha-512",
            },
            SessionSpec::Mac { hash, .. } => match hash {
                Hash::Sha1 => "hmac-sha-1",
                Hash::Sha256 => "hmac-sha-256",
                Hash::Sha384 => "hmac-sha-384",
                Hash::Sha512 => "hmac-sha-512",
            },
            SessionSpec::Rsa { .. } => "rsa",
            SessionSpec::Ecdsa { curve, .. } => match curve {
                Curve::P256 => "ecdsa-p256",
                Curve::P384 => "ecdsa-p384",
            },
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Requests cannot be told apart like that.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("requests cannot be matched by {key} {value:?}; {expected}")]
pub struct MatchingError {
    key: String,
    value: String,
    expected: String,
}

impl Matching {
    /// Wants `key`, which is `service`, `opcode`, `algorithm` or `session`, to be `value`.
    ///
    /// # Errors
    ///
    /// If there is no such key, or it is never that.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), MatchingError> {
        let number = |table: &[(&str, u32)]| {
            let found = table.iter().find(|(name, _)| *name == value);
            found.map(|(_, number)| *number)
        };
        let names = |table: &[(&'static str, u32)]| table.iter().map(|(name, _)| *name).collect();
        let (known, allowed): (bool, Vec<&str>) = match key {
            "service" => {
                self.service = number(&SERVICES);
                (self.service.is_some(), names(&SERVICES))
            }
            "opcode" => {
                self.opcode = number(&OPCODES);
                (self.opcode.is_some(), names(&OPCODES))
            }
            "algorithm" => {
                let found = ALGORITHMS.into_iter().find(|name| *name == value);
                self.algorithm = found.map(Algorithm);
                (found.is_some(), ALGORITHMS.to_vec())
            }
            "session" => {
                self.session = value.parse().ok();
                (self.session.is_some(), vec!["a number"])
            }
            _ => (false, vec!["service, opcode, algorithm or session"]),
        };
        if known {
            return Ok(());
        }
        Err(MatchingError {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: format!("there is {}", allowed.join(", ")),
        })
    }
}

/// `KEY=VALUE`, several separated by commas.
impl FromStr for Matching {
    type Err = MatchingError;

    fn from_str(text: &str) -> Result<Self, MatchingError> {
        let mut matching = Self::default();
        for pair in text.split(',') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            matching.set(key, value)?;
        }
        Ok(matching)
    }
}

/// As [`Matching::from_str`] reads it.
impl fmt::Display for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |table: &[(&str, u32)], wanted: u32| {
            let found = table.iter().find(|(_, number)| *number == wanted);
            found.map_or_else(|| wanted.to_string(), |(name, _)| (*name).to_owned())
        };
        let pairs = [
            (
                "service",
                self.service.map(|number| named(&SERVICES, number)),
            ),
            ("opcode", self.opcode.map(|number| named(&OPCODES, number))),
            ("algorithm", self.algorithm.map(|name| name.to_string())),
            ("session", self.session.map(|id| id.to_string())),
        ];
        let mut separator = "";
        for (key, value) in pairs {
            if let Some(value) = value {
                write!(f, "{separator}{key}={value}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// The opcode of a data request that asks for `operation`.
pub(super) const fn opcode_of(operation: &Operation<'_>) -> u32 {
    use card_device::engine::Direction::{Decrypt, Encrypt};
    match operation {
        Operation::Cipher { direction, .. } => match direction {
            Encrypt => data_opcode::CIPHER_ENCRYPT,
            Decrypt => data_opcode::CIPHER_DECRYPT,
        },
        Operation::Aead { direction, .. } => match direction {
            Encrypt => data_opcode::AEAD_ENCRYPT,
            Decrypt => data_opcode::AEAD_DECRYPT,
        },
        Operation::Hash { .. } => data_opcode::HASH,
        Operation::Mac { .. } => data_opcode::MAC,
        Operation::Encrypt { .. } => data_opcode::AKCIPHER_ENCRYPT,
        Operation::Decrypt { .. } => data_opcode::AKCIPHER_DECRYPT,
        Operation::Sign { .. } => data_opcode::AKCIPHER_SIGN,
        Operation::Verify { .. } => data_opcode::AKCIPHER_VERIFY,
    }
}

/// The opcode of a control request that opens a session.
pub(super) const fn create_opcode_of(spec: &SessionSpec) -> u32 {
    match spec {
        SessionSpec::Cipher { .. } => control_opcode::CIPHER_CREATE,
        SessionSpec::Hash { .. } => control_opcode::HASH_CREATE,
        SessionSpec::Mac { .. } => control_opcode::MAC_CREATE,
        SessionSpec::AesGcm { .. } => control_opcode::AEAD_CREATE,
        SessionSpec::Rsa { .. } | SessionSpec::Ecdsa { .. } => control_opcode::AKCIPHER_CREATE,
    }
}
