//! Where crypto_mb is looked for.

use crate::LoadError;
use crate::ffi::Library;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
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

/// Who says where the library is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Whoever asked for it.
    Named,
    /// The environment variable [`ENVIRONMENT_VARIABLE`].
    Environment,
    /// Nobody: it is looked for in the usual places.
    Usual,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => write!(f, "as it was named"),
            Self::Environment => write!(f, "named in {ENVIRONMENT_VARIABLE}"),
            Self::Usual => write!(f, "in a usual place"),
        }
    }
}

/// The library, and where it was.
pub(crate) struct Found {
    pub(crate) library: Library,
    /// What it was loaded by: a path, or a name that the loader knew.
    pub(crate) name: OsString,
    pub(crate) place: Place,
}

/// Loads the library at `path`, or the one the environment names, or a usual one.
pub(crate) fn load(path: Option<&Path>) -> Result<Found, LoadError> {
    let named = path.map(|path| (path.as_os_str().to_owned(), Place::Named));
    let named = named.or_else(|| {
        let name = env::var_os(ENVIRONMENT_VARIABLE).filter(|name| !name.is_empty());
        name.map(|name| (name, Place::Environment))
    });
    if let Some((name, place)) = named {
        let library = load_named(&name, place)?;
        return Ok(Found {
            library,
            name,
            place,
        });
    }
    let place = Place::Usual;
    let mut reason = None;
    for name in USUAL.map(OsStr::new) {
        match load_named(name, place) {
            Ok(library) => {
                let name = name.to_owned();
                return Ok(Found {
                    library,
                    name,
                    place,
                });
            }
            // What the loader says of the bare name is all there is to know of its search path.
            Err(LoadError::NotFound { reason: said, .. }) => reason = reason.or(said),
            Err(error) => return Err(error),
        }
    }
    let [name, elsewhere @ ..] = USUAL;
    Err(LoadError::NotFound {
        wanted: format!(
            "{name} where the loader looks, nor {}",
            elsewhere.join(", nor ")
        ),
        place,
        reason,
    })
}

fn load_named(name: &OsStr, place: Place) -> Result<Library, LoadError> {
    let path = Path::new(name);
    let is_path = path.components().count() > 1;
    let not_found = |reason| LoadError::NotFound {
        wanted: path.display().to_string(),
        place,
        reason,
    };
    if is_path && !path.exists() {
        return Err(not_found(None));
    }
    match Library::load(name) {
        // The loader has no number for it, but it names the file that it could not open. If that is
        // another one, the library is there and lacks something.
        Err(LoadError::NotLoadable { reason, .. })
            if !is_path && !names_another(&told(&reason), &name.to_string_lossy()) =>
        {
            Err(not_found(Some(reason)))
        }
        outcome => outcome,
    }
}

/// The loader's own words.
fn told(reason: &libloading::Error) -> String {
    let source = std::error::Error::source(reason);
    source.map_or_else(|| reason.to_string(), ToString::to_string)
}

/// Whether the loader misses another file than the one that was asked for.
fn names_another(told: &str, asked: &str) -> bool {
    told.split_once(": cannot open shared object file")
        .is_some_and(|(missing, _)| missing != asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_absent_and_keeps_what_the_loader_said() {
        let name = OsStr::new("libhwshim_is_not_there.so.13");
        let error = load_named(name, Place::Usual).err().expect("there is none");
        assert!(error.is_absence(), "{error}");
        let source = std::error::Error::source(&error).expect("the loader was asked");
        let told = source
            .source()
            .map_or_else(|| source.to_string(), ToString::to_string);
        assert!(told.contains("libhwshim_is_not_there"), "{told}");
    }

    #[test]
    fn what_was_asked_for_by_name_and_is_not_there_is_no_mere_absence() {
        let name = OsStr::new("/nonexistent/libcrypto_mb.so.13");
        for (place, is_absence) in [(Place::Named, false), (Place::Environment, true)] {
            let error = load_named(name, place).err().expect("there is none");
            assert_eq!(error.is_absence(), is_absence, "{error}");
            let told = error.to_string();
            assert!(told.contains("/nonexistent/libcrypto_mb.so.13"), "{told}");
            assert_eq!(told.contains(ENVIRONMENT_VARIABLE), is_absence, "{told}");
        }
    }

    #[test]
    fn a_library_that_lacks_another_is_not_absent() {
        let lacks = |file: &str| format!("{file}: cannot open shared object file: No such file");
        assert!(!names_another(&lacks(USUAL[0]), USUAL[0]));
        assert!(names_another(&lacks("libcrypto.so.3"), USUAL[0]));
        assert!(!names_another("Error loading shared library", USUAL[0]));
    }
}
