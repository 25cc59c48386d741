//! How signatures are verified: eight at a time, where this host can.

use super::crypto_mb::CryptoMb;
use super::output::{Failure, Output, with_causes};
use hwshim::router::verify::eights::Eights;

/// What is told of it on the command line.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Verifying {
    /// Verify each signature by itself, also where crypto_mb could verify eight at once
    #[arg(long)]
    verify_singly: bool,
}

impl Verifying {
    /// What verifies eight at a time, if that is wanted and can be had. A library that is there and of
    /// no use is warned of, and so is one that was named.
    pub(super) fn eights(
        self,
        crypto_mb: &CryptoMb,
        output: &mut Output,
    ) -> Result<Option<&'static Eights>, Failure> {
        if self.verify_singly {
            return Ok(None);
        }
        let error = match Eights::load_from(crypto_mb.path()) {
            Ok(eights) => return Ok(Some(eights)),
            Err(error) => error,
        };
        let advice = match (error.is_absence(), crypto_mb.path()) {
            (true, None) => return Ok(None),
            // Whoever named a library expects something of it.
            (true, Some(_)) => "leave out --multi-buffer here",
            (false, _) => "mend the library",
        };
        let error = with_causes(&error);
        output.warn(format_args!(
            "signatures are verified one by one: {error}; {advice}, or say --verify-singly"
        ))?;
        Ok(None)
    }
}

/// What to say when that was found to miscalculate.
pub(super) const MISTAKEN: &str = "crypto_mb called a right signature wrong, and is not asked any \
                                   more: this processor or that library miscalculates";

/// Says it, if so.
pub(super) fn warn_if_mistaken(
    eights: Option<&Eights>,
    output: &mut Output,
) -> Result<(), Failure> {
    if eights.is_some_and(Eights::is_mistaken) {
        output.warn(MISTAKEN)?;
    }
    Ok(())
}
