//! Where Intel's crypto_mb is, if whoever types a command says so.

use super::output::Failure;
use hwshim::accelerator::multi_buffer;
use hwshim::address::Options;
use std::path::{Path, PathBuf};

/// What is told of it on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct CryptoMb {
    /// Intel's libcrypto_mb.so, by which software:multi-buffer signs [default: what HWSHIM_MULTI_BUFFER
    /// names, or else where libraries usually are]
    #[arg(long = "multi-buffer", value_name = "PATH")]
    path: Option<PathBuf>,
}

impl CryptoMb {
    /// Where it was said to be.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same, for preparing accelerators.
    pub(super) fn options(&self) -> Options {
        Options {
            multi_buffer: self.path.clone(),
        }
    }

    /// Sees that what was named is there and is crypto_mb. That this processor cannot use it is no
    /// mistake of who named it, and is told by whoever wants to use it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Some(path) = self.path() else {
            return Ok(());
        };
        match multi_buffer::look(Some(path)) {
            Err(error) if !error.is_absence() => Err(Failure::new(
                format!("--multi-buffer {} cannot be used", path.display()),
                error,
            )
            .hint(
                "name the file of Intel's libcrypto_mb.so.13, with a / in it; without --multi-buffer it \
                 is looked for in the usual places (hwshim list says what is found)",
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
