//! Keys of every kind, and certificates signed by themselves for the length of a test.

use hwshim::accelerator::software;
use hwshim::key::{Curve, SignatureScheme, SigningKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SerialNumber};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

/// The name in every certificate.
pub(crate) const NAME: &str = "card.test";

/// A key of the kind it is named for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Rsa2048,
    Rsa3072,
    Rsa4096,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    pub(crate) const RSA: [Self; 3] = [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];
    pub(crate) const OTHERS: [Self; 3] = [Self::P256, Self::P384, Self::Ed25519];

    fn der(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Rsa2048 => include_bytes!("../../src/kat/rsa-2048.pkcs1.der"),
            Self::Rsa3072 => include_bytes!("../../src/kat/rsa-3072.pkcs1.der"),
            Self::Rsa4096 => include_bytes!("../../src/kat/rsa-4096.pkcs1.der"),
            Self::P256 => include_bytes!("../../src/kat/p256.sec1.der"),
            Self::P384 => include_bytes!("../../src/kat/p384.sec1.der"),
            Self::Ed25519 => return None,
        })
    }
}

/// A certificate, and the key to it.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// A certificate for [`NAME`].
pub(crate) fn identity(kind: Kind) -> Identity {
    identity_for(kind, NAME, 1)
}

/// A certificate for `name` with `serial` as its number, so that two of one name differ.
pub(crate) fn identity_for(kind: Kind, name: &str, serial: u64) -> Identity {
    let (signer, key) = load(kind);
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {serial}"));
    params.serial_number = Some(SerialNumber::from(serial));
    let certificate = params.self_signed(&signer).unwrap();
    Identity {
        certificate: certificate.der().clone(),
        key,
    }
}

fn load(kind: Kind) -> (Signer, PrivateKeyDer<'static>) {
    let Some(der) = kind.der() else {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec());
        return (Signer::Ed25519(pair), key.into());
    };
    let ours = match kind {
        Kind::P256 => SigningKey::from_sec1(Curve::P256, der),
        Kind::P384 => SigningKey::from_sec1(Curve::P384, der),
        _ => SigningKey::from_pkcs1(der),
    };
    let theirs = match kind {
        Kind::P256 | Kind::P384 => PrivateSec1KeyDer::from(der).into(),
        _ => PrivatePkcs1KeyDer::from(der).into(),
    };
    (Signer::Ours(ours.unwrap()), theirs)
}

/// Signs certificates with keys that are at hand anyway.
enum Signer {
    Ours(SigningKey),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn scheme(key: &SigningKey) -> SignatureScheme {
        [
            SignatureScheme::RsaPkcs1Sha256,
            SignatureScheme::EcdsaP256Sha256,
            SignatureScheme::EcdsaP384Sha384,
        ]
        .into_iter()
        .find(|scheme| key.supports(*scheme))
        .unwrap()
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Ours(key) => key.public_key(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::Ed25519(_) => &rcgen::PKCS_ED25519,
            Self::Ours(key) => match Self::scheme(key) {
                SignatureScheme::EcdsaP256Sha256 => &rcgen::PKCS_ECDSA_P256_SHA256,
                SignatureScheme::EcdsaP384Sha384 => &rcgen::PKCS_ECDSA_P384_SHA384,
                _ => &rcgen::PKCS_RSA_SHA256,
            },
        }
    }
}

impl rcgen::SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Ours(key) => software::sign(key, Self::scheme(key), message)
                .map_err(|_| rcgen::Error::RemoteKeyError),
            Self::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}
