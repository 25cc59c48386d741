//! The configuration file of the monitor, as somebody might write it.

use monitor::config::Config;
use std::path::Path;

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Err(error) = Config::parse(&text, Path::new("cardmon.toml")) {
        assert!(!error.to_string().is_empty());
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../../../monitor/cardmon.example.toml");
    // Every key of the example is commented out; without the marks it is a file that sets all.
    let set: Vec<_> = example
        .lines()
        .map(|line| line.trim_start_matches("# ").trim_start_matches('#'))
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .collect();
    vec![
        example.as_bytes().to_vec(),
        set.join("\n").into_bytes(),
        b"[http]\nlisten = \"127.0.0.1:9000\"\n".to_vec(),
    ]
}
