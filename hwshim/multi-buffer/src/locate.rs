//! Where crypto_mb is looked for.

use crate::LoadError;
use crate::ffi::Library;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Names the file of the library, and then no other is tried.
pub const ENVIRONMENT_VARIABLE: &str = "HWSHIM_MULTI_BUFFER";

/// The loader's own search path comes first; its name ends in the interface that is spoken here.
/// Then where Intel's installer and `make install` put it, which the loader need not know.
const USUAL: [&str; 3] = [
    "libcrypto_mb.so.13",
    "/opt/intel/oneapi/ippcp/latest/lib/libcrypto_mb.so.13",
    "/usr/local/lib/libcrypto_mb.so.13",
];

/// Loads the library at `path`, or the one the environment names, or a usual one. Returns what it
/// was loaded by as well.
pub(crate) fn load(path: Option<&Path>) -> Result<(Library, OsString), LoadError> {
    let named = path.map(|path| path.as_os_str().to_owned());
    let named = named.or_else(|| env::var_os(ENVIRONMENT_VARIABLE).filter(|name| !name.is_empty()));
    if let Some(name) = named {
        return load_named(&name).map(|library| (library, name));
    }
    for name in USUAL.map(OsStr::new) {
        match load_named(name) {
            Ok(library) => return Ok((library, name.to_owned())),
            Err(LoadError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(LoadError::NotFound {
        wanted: USUAL[0].to_owned(),
    })
}

fn load_named(name: &OsStr) -> Result<Library, LoadError> {
    let path = Path::new(name);
    let is_path = path.components().count() > 1;
    let not_found = || LoadError::NotFound {
        wanted: path.display().to_string(),
    };
    if is_path && !path.exists() {
        return Err(not_found());
    }
    match Library::load(name) {
        // Of a bare name the loader does not say whether there is no such file; most often that
        // is it.
        Err(LoadError::NotLoadable { .. }) if !is_path => Err(not_found()),
        outcome => outcome,
    }
}
