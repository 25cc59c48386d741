//! How an accelerator is named: the same on every command line, in configuration, metrics, logs.
//!
//! | address | what |
//! |---|---|
//! | `pci:0000:3b:00.0` | a function on this host, driven through VFIO |
//! | `vfio-user:/run/card.sock` | a simulated card, or a virtual card of `hwshim serve` |
//! | `software:ring` | this CPU |
//! | `software:multi-buffer` | this CPU, eight signatures at a time |
//!
//! Parsing opens nothing: an address may be well formed and nobody there.

use crate::accelerator::Accelerator;
use crate::accelerator::multi_buffer::MultiBuffer;
use crate::accelerator::software::Ring;
use crate::bus::vfio::VfioFunction;
use crate::bus::vfio_user::{self, VfioUserFunction};
use crate::bus::{BusError, Function};
use crate::virtio::{self, Card, HealthPort};
use card_spec::pci::{Bdf, ParseBdfError};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

const PCI: &str = "pci";
const VFIO_USER: &str = "vfio-user";
const SOFTWARE: &str = "software";

/// The address of an accelerator.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(try_from = "String")]
pub enum Address {
    /// A PCI function of this host.
    Pci(Bdf),
    /// The socket of a function in another process.
    VfioUser(PathBuf),
    /// This CPU.
    Software(Software),
}

/// What does the work on this CPU.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Software {
    /// The ring library.
    Ring,
    /// Intel's crypto_mb, eight signatures at a time.
    MultiBuffer,
}

impl Software {
    const ALL: [Self; 2] = [Self::Ring, Self::MultiBuffer];

    const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::MultiBuffer => "multi-buffer",
        }
    }
}

/// Text is not the address of an accelerator.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddressError {
    /// It starts with nothing known.
    #[error(
        "{text:?} is not the address of an accelerator{}; this version knows \
         pci:0000:3b:00.0, vfio-user:/run/card.sock, software:ring and software:multi-buffer",
        DidYouMean(nearest)
    )]
    UnknownKind {
        /// The text.
        text: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// What follows `pci:` is not a PCI address.
    #[error("pci: is not followed by a PCI address")]
    Pci(#[from] ParseBdfError),
    /// Nothing follows `vfio-user:`.
    #[error("vfio-user: is not followed by the path of a socket, as in vfio-user:/run/card.sock")]
    NoPath,
    /// What follows `software:` is not an implementation.
    #[error(
        "software:{name} is not known to this version, which knows software:ring and \
         software:multi-buffer"
    )]
    UnknownSoftware {
        /// What follows.
        name: String,
    },
}

impl Address {
    /// Takes over the PCI function at this address.
    ///
    /// # Errors
    ///
    /// As [`VfioFunction::open`] and [`VfioUserFunction::connect`];
    /// [`BusError::NotUsable`] if the address is not that of a PCI function.
    pub fn open_function(&self) -> Result<Arc<dyn Function>, BusError> {
        match self {
            Self::Pci(bdf) => Ok(VfioFunction::open(
                *bdf,
                Path::new("/sys"),
                Path::new("/dev"),
            )?),
            Self::VfioUser(path) => Ok(VfioUserFunction::connect(
                path,
                vfio_user::Options::default(),
            )?),
            Self::Software(_) => Err(BusError::NotUsable {
                name: self.to_string(),
                reason: "it is this CPU, not a card".to_owned(),
            }),
        }
    }
}

/// An accelerator that has been prepared.
#[derive(Debug)]
pub struct Opened {
    /// The accelerator. It is brought up by its first reset, so one that is away now can be used
    /// when it comes.
    pub accelerator: Box<dyn Accelerator>,
    /// Where its health page can be read once it is up, if it is a card.
    pub health: Option<HealthPort>,
}

/// What preparing an accelerator may take besides its address.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where Intel's crypto_mb is, for `software:multi-buffer`. By default it is where the environment
    /// variable `HWSHIM_MULTI_BUFFER` says, or else where libraries usually are.
    pub multi_buffer: Option<PathBuf>,
}

impl Address {
    /// Prepares the accelerator at this address.
    ///
    /// # Errors
    ///
    /// [`BusError::Os`] if the system lacks resources.
    pub fn open_accelerator(&self) -> Result<Opened, BusError> {
        self.open_accelerator_with(&Options::default())
    }

    /// Prepares the accelerator at this address, as `options` say.
    ///
    /// # Errors
    ///
    /// As [`open_accelerator`](Self::open_accelerator).
    pub fn open_accelerator_with(&self, options: &Options) -> Result<Opened, BusError> {
        if let Self::Software(software) = self {
            return Ok(Opened {
                accelerator: match software {
                    Software::Ring => Box::new(Ring::default()),
                    Software::MultiBuffer => {
                        Box::new(MultiBuffer::new(options.multi_buffer.clone()))
                    }
                },
                health: None,
            });
        }
        let address = self.clone();
        let connect = Box::new(move || address.open_function());
        let card = Card::new(self.to_string(), connect, virtio::Options::default())?;
        Ok(Opened {
            health: Some(card.health()),
            accelerator: Box::new(card),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(bdf) => write!(f, "{PCI}:{bdf}"),
            Self::VfioUser(path) => write!(f, "{VFIO_USER}:{}", path.display()),
            Self::Software(software) => write!(f, "{SOFTWARE}:{}", software.name()),
        }
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((PCI, bdf)) => Ok(Self::Pci(bdf.parse()?)),
            Some((VFIO_USER, "")) => Err(ParseAddressError::NoPath),
            Some((VFIO_USER, path)) => Ok(Self::VfioUser(path.into())),
            Some((SOFTWARE, name)) => {
                let known = Software::ALL.into_iter().find(|known| known.name() == name);
                let software = known.ok_or_else(|| ParseAddressError::UnknownSoftware {
                    name: name.to_owned(),
                })?;
                Ok(Self::Software(software))
            }
            _ => Err(ParseAddressError::UnknownKind {
                text: text.to_owned(),
                nearest: nearest(text),
            }),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = ParseAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

struct DidYouMean<'a>(&'a Option<String>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// The address that was probably meant: the kind is missing, or misspelt.
fn nearest(text: &str) -> Option<String> {
    if let Ok(bdf) = text.parse::<Bdf>() {
        return Some(Address::Pci(bdf).to_string());
    }
    let before_colon = text.split(':').next().unwrap_or_default();
    if before_colon.contains('/') || before_colon.ends_with(".sock") {
        return Some(format!("{VFIO_USER}:{text}"));
    }
    if text == SOFTWARE {
        return Some(Address::Software(Software::Ring).to_string());
    }
    if let Some(software) = Software::ALL.into_iter().find(|known| known.name() == text) {
        return Some(Address::Software(software).to_string());
    }
    let (kind, rest) = text.split_once(':')?;
    let kind = kind.to_lowercase();
    [PCI, VFIO_USER, SOFTWARE]
        .into_iter()
        .filter(|known| edit_distance(&kind, known) <= 2)
        .map(|known| format!("{known}:{rest}"))
        .find(|address| address.parse::<Address>().is_ok())
}

/// How many letters have to be added, dropped or changed to get from one word to the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut distances: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.chars().enumerate() {
        let mut diagonal = distances[0];
        distances[0] = row + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = distances[column + 1];
            distances[column + 1] = changed.min(diagonal + 1).min(distances[column] + 1);
        }
    }
    distances[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Address>().unwrap_err().to_string()
    }

    #[test]
    fn an_address_prints_as_it_was_written() {
        for text in [
            "pci:0000:3b:00.0",
            "pci:10000:e1:1f.7",
            "vfio-user:/run/card.sock",
            "vfio-user:relative/with:colon",
            "software:ring",
            "software:multi-buffer",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let short: Address = "pci:3b:00.0".parse().unwrap();
        assert_eq!(short.to_string(), "pci:0000:3b:00.0");
    }

    #[test]
    fn a_missing_or_misspelt_kind_is_guessed() {
        for (text, meant) in [
            ("0000:3b:00.0", "pci:0000:3b:00.0"),
            ("3b:00.0", "pci:0000:3b:00.0"),
            ("PCI:3b:00.0", "pci:3b:00.0"),
            ("/run/card.sock", "vfio-user:/run/card.sock"),
            ("./card.sock", "vfio-user:./card.sock"),
            ("run/with:colon", "vfio-user:run/with:colon"),
            ("card.sock", "vfio-user:card.sock"),
            ("vfiouser:/run/card.sock", "vfio-user:/run/card.sock"),
            ("vfio_user:/run/card.sock", "vfio-user:/run/card.sock"),
            ("ring", "software:ring"),
            ("multi-buffer", "software:multi-buffer"),
            ("sofware:ring", "software:ring"),
        ] {
            let error = error(text);
            assert!(
                error.contains(&format!("did you mean {meant}?")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn what_cannot_be_guessed_is_answered_with_the_forms_there_are() {
        for text in ["", ":", "card", "pkcs11:token=web", "cpi:nonsense"] {
            let error = error(text);
            assert!(!error.contains("did you mean"), "{error}");
            for form in [
                "pci:0000:3b:00.0",
                "vfio-user:/run/card.sock",
                "software:ring",
            ] {
                assert!(error.contains(form), "{error}");
            }
        }
    }

    #[test]
    fn the_part_behind_the_kind_is_checked() {
        assert_eq!(
            error("software:openssl"),
            "software:openssl is not known to this version, which knows software:ring and \
             software:multi-buffer"
        );
        assert!(error("vfio-user:").contains("vfio-user:/run/card.sock"));
        let cause = std::error::Error::source(&"pci:3b:00".parse::<Address>().unwrap_err())
            .map(ToString::to_string);
        assert!(cause.is_some_and(|cause| cause.contains("0000:3b:00.0")));
    }

    #[test]
    fn configuration_reads_it_from_a_string() {
        let address: Address = serde_json::from_str(r#""vfio-user:/run/card.sock""#).unwrap();
        assert_eq!(address, Address::VfioUser("/run/card.sock".into()));
        let error = serde_json::from_str::<Address>(r#""card.sock""#).unwrap_err();
        assert!(error.to_string().contains("this version knows"), "{error}");
    }

    #[test]
    fn configuration_says_where_crypto_mb_is_and_what_is_not_there_is_told_of() {
        let read =
            |text: &str| serde_json::from_str::<Options>(text).map_err(|error| error.to_string());
        assert_eq!(read("{}"), Ok(Options::default()));
        read(r#"{"multi_bufer": "x"}"#).unwrap_err();
        let options = read(r#"{"multi_buffer": "/nonexistent/libcrypto_mb.so.13"}"#).unwrap();
        let address = Address::Software(Software::MultiBuffer);
        let mut opened = address.open_accelerator_with(&options).unwrap();
        let error = opened.accelerator.reset(&mut Vec::new()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("/nonexistent/libcrypto_mb.so.13"), "{told}");
    }

    #[test]
    fn software_is_not_a_function() {
        let error = Address::Software(Software::Ring)
            .open_function()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "software:ring cannot be driven: it is this CPU, not a card"
        );
    }

    #[test]
    fn a_function_that_is_not_there_says_its_own_address() {
        let address: Address = "pci:ffff:ff:1f.7".parse().unwrap();
        let error = address.open_function().unwrap_err().to_string();
        assert!(
            error.starts_with("pci:ffff:ff:1f.7 cannot be driven: "),
            "{error}"
        );
    }
}
