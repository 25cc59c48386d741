//! Eight private-key operations in the time of one, by Intel's crypto_mb.
//!
//! AVX512-IFMA multiplies eight pairs of numbers at once, and crypto_mb lays eight independent
//! operations side by side to use that. One operation alone costs as much as eight, so whoever
//! calls this gathers first: [`LANES`] operations are one call of the library.
//!
//! The library is neither linked nor shipped. [`MultiBuffer::load`] finds it at run time, and says
//! what is missing where it cannot be used. Nothing here checks a result: crypto_mb has no defence
//! against a processor that miscalculates, so **what is returned must be verified** before anybody
//! outside sees it. Nor is anything blinded; the library's code is constant-time instead.
//!
//! ```text
//!   batch of any length
//!     |  eight at a time                          lane 0  operation
//!     v                                           lane 1  operation
//!   lanes: each checked, each with a status  -->  ...                 one call of crypto_mb
//!     |                                           lane 6  empty
//!     v                                           lane 7  empty
//!   one result for each operation, in order
//! ```

mod cpu;
mod ecdsa;
mod ffi;
mod lanes;
mod locate;
mod rsa;
mod x25519;

pub use ecdsa::{Curve, EcdsaPrivateKey, Signature};
pub use lanes::{LANES, LaneError};
pub use locate::{ENVIRONMENT_VARIABLE, Place};
pub use rsa::{RsaComponents, RsaLen, RsaPrivateKey, RsaPublicKey};
pub use x25519::X25519_LEN;

use locate::Found;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// crypto_mb, loaded. Clones are the same library.
#[derive(Clone)]
pub struct MultiBuffer {
    library: Arc<ffi::Library>,
    /// What it was loaded by: a path, or a name that the loader knew.
    found_as: OsString,
    place: Place,
}

impl MultiBuffer {
    /// Loads the library: the one at `path` if there is any, otherwise the one that the
    /// environment variable [`ENVIRONMENT_VARIABLE`] names, otherwise one in the usual places.
    ///
    /// Loading a library runs code of it, so `path` and the environment must come from whoever
    /// may say what this process runs.
    ///
    /// # Errors
    ///
    /// See [`LoadError`]; [`LoadError::is_absence`] tells what is merely not there from what is
    /// broken.
    pub fn load(path: Option<&Path>) -> Result<Self, LoadError> {
        let missing = cpu::missing_features();
        // One that was named is looked at wherever this runs, so that a wrong name is told of by whichever
        // host reads it first. No other is loaded in vain.
        if path.is_none() && !missing.is_empty() {
            let found = None;
            return Err(LoadError::ProcessorLacks { missing, found });
        }
        let Found {
            library,
            name: found_as,
            place,
        } = locate::load(path)?;
        library.check_interface()?;
        if !missing.is_empty() {
            let found = Some(found_as);
            return Err(LoadError::ProcessorLacks { missing, found });
        }
        if !library.is_applicable() {
            return Err(LoadError::NotApplicable);
        }
        Ok(Self {
            library: Arc::new(library),
            found_as,
            place,
        })
    }

    /// What the library calls itself, with its version.
    #[must_use]
    pub fn version(&self) -> String {
        self.library.version()
    }

    /// What it was loaded by: a path, or a name that the loader knew.
    #[must_use]
    pub fn found_as(&self) -> &Path {
        Path::new(&self.found_as)
    }

    /// Who said that it is there.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }
}

impl fmt::Debug for MultiBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiBuffer").field(&self.found_as).finish()
    }
}

/// Why the library cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The processor cannot multiply eight pairs at once.
    #[error("this processor lacks {}, {}", missing.join(", "), Consequence(found.as_deref()))]
    ProcessorLacks {
        /// Instructions that are missing.
        missing: Vec<&'static str>,
        /// The library, if it was named; no other is looked for.
        found: Option<OsString>,
    },
    /// It is in none of the places that were looked at.
    #[error("there is no {wanted}{}", NextStep(*place))]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// Who said where.
        place: Place,
        /// What the loader said, if it was asked.
        #[source]
        reason: Option<libloading::Error>,
    },
    /// It is there and cannot be loaded.
    #[error("{path} cannot be loaded")]
    NotLoadable {
        /// Where it is.
        path: String,
        /// What the loader said.
        #[source]
        reason: libloading::Error,
    },
    /// It lacks a function, so it is another library.
    #[error("the library has no function {name}; Intel's crypto_mb has")]
    NoFunction {
        /// Which.
        name: &'static str,
    },
    /// It is a version whose functions may take something else.
    #[error("the library is {found:?}; this program speaks interface {wanted} of crypto_mb")]
    OtherInterface {
        /// What it calls itself.
        found: String,
        /// Major number of the interface, which the library's file name ends in.
        wanted: u32,
    },
    /// The library itself says that this processor is not for it.
    #[error("crypto_mb says that it cannot be used on this processor")]
    NotApplicable,
}

impl LoadError {
    /// Whether the host merely lacks something, processor or library. Anything else is a fault of
    /// what it has, or of whoever named a library that is not there.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        match self {
            Self::ProcessorLacks { .. } => true,
            // The variable is one for all programs of a host, whether it has the library or not.
            Self::NotFound { place, .. } => matches!(place, Place::Environment | Place::Usual),
            _ => false,
        }
    }
}

/// What a processor that lacks something means for the library, if that was looked for.
struct Consequence<'a>(Option<&'a OsStr>);

impl fmt::Display for Consequence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "so {} is of no use to it", Path::new(name).display()),
            None => write!(f, "so crypto_mb was not looked for"),
        }
    }
}

/// What to do where the library is not.
struct NextStep(Place);

impl fmt::Display for NextStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Named => write!(f, ": name the file of Intel's libcrypto_mb"),
            Place::Environment => write!(
                f,
                ", which {ENVIRONMENT_VARIABLE} names: install Intel's libcrypto_mb there, or name \
                 another (cargo xtask multi-buffer fetches it)"
            ),
            Place::Usual => write!(
                f,
                ": install Intel's libcrypto_mb, or name it in {ENVIRONMENT_VARIABLE} (cargo xtask \
                 multi-buffer fetches it)"
            ),
        }
    }
}

/// A key that the library cannot be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not DER of the structure it should be.
    #[error("not a key in the encoding it should have: PKCS #1 or SEC 1")]
    Encoding,
    /// Not a length that the library has code for.
    #[error(
        "only RSA keys of 2048, 3072 and 4096 bits with primes of half the length are possible"
    )]
    Length,
    /// The numbers do not belong together as they must.
    #[error("the first prime of an RSA key must be the larger one, and its numbers in range")]
    Range,
    /// The library has code for this exponent alone.
    #[error("only the public exponent 65537 is possible")]
    PublicExponent,
    /// Zero, or not below the order of the curve.
    #[error("the private key of the curve is out of range")]
    Scalar,
}
