//! Certificates and keys of a terminator, as they stand in its files, and which of them a client
//! gets.
//!
//! They can be read again while connections are served. Either all of the new ones are used, or,
//! where one is wrong, all of the old. Nothing here says how long a certificate is valid.

use crate::provider::{self, Provider};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Where a certificate and the key to it are, both as PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// The certificate, and after it those that lead to an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The file of a private key that lets too many people in. Displayed, it says whom, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExposedKey {
    path: PathBuf,
    /// Its permission bits.
    mode: u32,
}

impl ExposedKey {
    /// Writing by the group, and reading and writing by everybody.
    const TOO_WIDE: u32 = 0o026;
}

impl fmt::Display for ExposedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode } = self;
        let group = (mode & 0o020 != 0).then_some("its group may write it");
        let others = match mode & 0o006 {
            0 => None,
            0o002 => Some("everybody may write it"),
            0o004 => Some("everybody may read it"),
            _ => Some("everybody may read and write it"),
        };
        let whom: Vec<_> = group.into_iter().chain(others).collect();
        let (path, whom) = (path.display(), whom.join(", and "));
        let mended = mode & !Self::TOO_WIDE;
        write!(
            f,
            "the private key {path} has mode {mode:04o}: {whom}; chmod {mended:04o} {path}"
        )
    }
}

/// Certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read, or is not PEM.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file is PEM, and what is wanted is not in it.
    #[error("there is no {wanted} in {}", path.display())]
    Lacking {
        /// The file.
        path: PathBuf,
        /// What it should have.
        wanted: &'static str,
    },
    /// A certificate and a key are there and do not make a server.
    #[error("{} cannot be used with the key in {}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Certificates and their keys as they have been read, and found to be fit for use. Nothing signs with
/// them yet.
pub struct Pairs(Vec<Pair>);

impl Pairs {
    /// Reads all of `files`, for who has yet to open the cards that are to sign with them, and had better
    /// not for nothing.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], for the first file that is wrong.
    pub fn read(files: Vec<Files>) -> Result<Self, CertificateError> {
        let pairs = read_all(files)?;
        load_all(&pairs, &provider::base())?;
        Ok(Self(pairs))
    }

    /// As [`Certificates::exposed_keys`].
    #[must_use]
    pub fn exposed_keys(&self) -> Vec<ExposedKey> {
        exposed(self.0.iter().map(|pair| &pair.files))
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.0.iter().map(|pair| &pair.files);
        f.debug_list().entries(files).finish()
    }
}

/// The certificates in use.
pub struct Certificates {
    files: Vec<Files>,
    /// Loads keys, and so has to be kept.
    provider: Provider,
    suites: Arc<CryptoProvider>,
    current: RwLock<Arc<[Arc<CertifiedKey>]>>,
}

impl Certificates {
    /// Has what was read signed with: keys are the provider's, and sign as it says.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], for the first that the provider does not take.
    pub fn load(pairs: Pairs, provider: Provider) -> Result<Self, CertificateError> {
        let Pairs(pairs) = pairs;
        let suites = provider.rustls();
        let current = RwLock::new(load_all(&pairs, &suites)?);
        Ok(Self {
            files: pairs.into_iter().map(|pair| pair.files).collect(),
            provider,
            suites,
            current,
        })
    }

    /// Reads and loads them again, for handshakes to come. Returns how many there are.
    ///
    /// # Errors
    ///
    /// [`CertificateError`]; those in use then stay in use.
    pub fn reload(&self) -> Result<usize, CertificateError> {
        let loaded = load_all(&read_all(self.files.clone())?, &self.suites)?;
        let count = loaded.len();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(count)
    }

    /// Keys whose files let more people in than their owner, and a group that may read. Certificates
    /// with such keys are used all the same.
    #[must_use]
    pub fn exposed_keys(&self) -> Vec<ExposedKey> {
        exposed(&self.files)
    }

    /// The provider that has the keys.
    #[must_use]
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    fn current(&self) -> Arc<[Arc<CertifiedKey>]> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a client can verify what `key` signs, and has a cipher suite for it.
    fn suits(&self, hello: &ClientHello<'_>, key: &CertifiedKey) -> bool {
        let algorithm = key.key.algorithm();
        let suite = self.suites.cipher_suites.iter().any(|suite| {
            suite.usable_for_signature_algorithm(algorithm)
                && hello.cipher_suites().contains(&suite.suite())
        });
        suite && key.key.choose_scheme(hello.signature_schemes()).is_some()
    }
}

impl ResolvesServerCert for Certificates {
    /// The first for the name that is asked for; if there is none, the first of all. Those whose
    /// algorithm the client does not know are left out, so one name may have RSA and ECDSA. A client
    /// that knows none of them gets the first as well: rustls then tells it what is wrong, where
    /// without a certificate it would say that access is denied.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let current = self.current();
        let suitable = || current.iter().filter(|key| self.suits(&hello, key));
        name.and_then(|name| suitable().find(|key| is_for(key, &name)))
            .or_else(|| suitable().next())
            .or_else(|| current.first())
            .cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.end_entity_cert().map(ParsedCertificate::try_from);
    matches!(certificate, Ok(Ok(certificate)) if verify_server_name(&certificate, name).is_ok())
}

fn exposed<'a>(files: impl IntoIterator<Item = &'a Files>) -> Vec<ExposedKey> {
    let exposed = |files: &Files| {
        // A file that cannot be looked at cannot be read either, which is for reading to say.
        let mode = std::fs::metadata(&files.key).ok()?.mode() & 0o7777;
        (mode & ExposedKey::TOO_WIDE != 0).then(|| ExposedKey {
            path: files.key.clone(),
            mode,
        })
    };
    files.into_iter().filter_map(exposed).collect()
}

/// What stands in a pair of files.
struct Pair {
    files: Files,
    chain: Vec<CertificateDer<'static>>,
    secret: PrivateKeyDer<'static>,
}

fn read_all(files: Vec<Files>) -> Result<Vec<Pair>, CertificateError> {
    files.into_iter().map(Pair::read).collect()
}

fn load_all(
    pairs: &[Pair],
    provider: &CryptoProvider,
) -> Result<Arc<[Arc<CertifiedKey>]>, CertificateError> {
    pairs.iter().map(|pair| pair.load(provider)).collect()
}

impl Pair {
    fn read(files: Files) -> Result<Self, CertificateError> {
        let Files { certificate, key } = &files;
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|source| unreadable(certificate, "certificate", source))?;
        if chain.is_empty() {
            let none = pem::Error::NoItemsFound;
            return Err(unreadable(certificate, "certificate", none));
        }
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|source| unreadable(key, "private key that is not encrypted", source))?;
        Ok(Self {
            files,
            chain,
            secret,
        })
    }

    fn load(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
        let (chain, secret) = (self.chain.clone(), self.secret.clone_key());
        CertifiedKey::from_der(chain, secret, provider)
            .map(Arc::new)
            .map_err(|source| CertificateError::Unusable {
                certificate: self.files.certificate.clone(),
                key: self.files.key.clone(),
                source,
            })
    }
}

fn unreadable(path: &Path, wanted: &'static str, source: pem::Error) -> CertificateError {
    let path = path.to_owned();
    match source {
        pem::Error::NoItemsFound => CertificateError::Lacking { path, wanted },
        source => CertificateError::Read { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_that_is_exposed_it_is_said_to_whom_and_what_mends_it() {
        for (mode, whom, mended) in [
            (0o660, "0660: its group may write it;", "chmod 0640 "),
            (0o644, "0644: everybody may read it;", "chmod 0640 "),
            (0o602, "0602: everybody may write it;", "chmod 0600 "),
            (
                0o666,
                "0666: its group may write it, and everybody may read and write it;",
                "chmod 0640 ",
            ),
        ] {
            let path = PathBuf::from("/etc/site.key");
            let text = ExposedKey { path, mode }.to_string();
            assert!(text.contains(whom) && text.contains(mended), "{text}");
            assert!(text.ends_with(" /etc/site.key"), "{text}");
        }
        for fine in [0o400, 0o600, 0o640, 0o440] {
            assert_eq!(fine & ExposedKey::TOO_WIDE, 0, "{fine:o}");
        }
    }
}
