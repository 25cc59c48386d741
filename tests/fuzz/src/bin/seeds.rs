//! Writes every target's honest inputs below a directory, one subdirectory each, for libFuzzer to
//! start from; prints the names of the targets.

#![expect(clippy::print_stdout, reason = "the names are what it is run for")]

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: fuzz-seeds DIRECTORY"))?;
    for target in fuzz::TARGETS {
        let corpus = Path::new(&directory).join(target.name);
        std::fs::create_dir_all(&corpus)?;
        for (index, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{index}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
