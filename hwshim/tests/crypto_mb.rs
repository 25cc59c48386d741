//! `--multi-buffer`: where Intel's crypto_mb is, told to each program that chooses accelerators.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

fn hwshim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hwshim"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Each program that has the option, with what it takes besides. None of them gets far enough to need
/// what is named here.
const PROGRAMS: &[&[&str]] = &[
    &["list"],
    &["selftest", "software:multi-buffer"],
    &["bench", "software:multi-buffer"],
    #[cfg(feature = "tls")]
    &["bench", "tls", "--libraries=ring"],
    #[cfg(feature = "tls")]
    &[
        "serve-tls",
        "--cert=/nonexistent/site.pem",
        "--key=/nonexistent/site.key",
        "--to=localhost:1",
    ],
];

#[test]
fn a_library_that_is_named_and_not_there_or_is_none_is_an_error_of_each_program() {
    let directory = tempfile::tempdir().unwrap();
    let no_library = directory.path().join("libcrypto_mb.so.13");
    std::fs::write(&no_library, "not a library").unwrap();
    let no_library = no_library.to_str().unwrap();
    for program in PROGRAMS {
        for (path, why) in [
            (
                "/nonexistent/libcrypto_mb.so.13",
                "there is no /nonexistent/",
            ),
            (no_library, "cannot be loaded"),
            ("libc.so.6", "has no function mbx_"),
        ] {
            let output = hwshim(&[program, &["--multi-buffer", path][..]].concat());
            assert_eq!(output.status.code(), Some(1), "{program:?}");
            let said = String::from_utf8(output.stderr).unwrap();
            for wanted in [
                &format!("--multi-buffer {path} cannot be used"),
                why,
                "hint: ",
            ] {
                assert!(said.contains(wanted), "{program:?}: {said}");
            }
            assert!(output.stdout.is_empty(), "{program:?}");
        }
    }
}

/// What `hwshim list` says of `software:multi-buffer`.
fn listed(arguments: &[&str]) -> Value {
    let output = hwshim(&[&["list", "--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["software"][1].clone()
}

/// What this machine has of it, where `cargo xtask multi-buffer` leaves it.
fn library() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("HWSHIM_MULTI_BUFFER")?);
    path.exists().then_some(path)
}

#[test]
fn list_says_where_crypto_mb_was_taken_from_or_why_it_was_not() {
    let unnamed = listed(&[]);
    let named = library().map(|path| (listed(&["--multi-buffer", path.to_str().unwrap()]), path));
    if unnamed["usable"] == true {
        let said = unnamed["library"].as_str().unwrap();
        assert!(
            said.ends_with("named in HWSHIM_MULTI_BUFFER") || said.ends_with("in a usual place"),
            "{said}"
        );
    } else {
        let said = unnamed["reason"].as_str().unwrap();
        assert!(
            said.ends_with("so crypto_mb was not looked for") || said.starts_with("there is no "),
            "{said}"
        );
    }
    let Some((named, path)) = named else {
        println!("skipped: there is no library to name; cargo xtask multi-buffer fetches one");
        return;
    };
    let path = path.to_str().unwrap();
    if named["usable"] == true {
        let said = named["library"].as_str().unwrap();
        assert!(
            said.ends_with(&format!("{path}, as it was named")),
            "{said}"
        );
    } else {
        let said = named["reason"].as_str().unwrap();
        assert!(said.starts_with("this processor lacks AVX"), "{said}");
        assert!(
            said.ends_with(&format!("so {path} is of no use to it")),
            "{said}"
        );
    }
}
