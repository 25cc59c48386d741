//! Looks at what each kernel module has allocated, where the kernel keeps books of it.
//!
//! `/proc/allocinfo` has a line for each place in the kernel that allocates, thousands of them, so
//! it is read once a minute only; between two readings the last one is reported again. It exists
//! with `CONFIG_MEM_ALLOC_PROFILING` and is for root (Linux
//! `Documentation/mm/allocation-profiling.rst`, "Memory Allocation Profiling").

use super::file::{TextFile, next};
use super::{Probe, ProbeError};
use hwshim::clock::Instant;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(60);
/// Longest file that is read. A distribution's kernel has about 1 MiB.
const LEN_MAX: u64 = 32 << 20;
/// Modules that are told apart; a host has some hundreds.
const MODULES_MAX: usize = 4096;

/// What kernel and modules have allocated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Allocations {
    /// When this was read.
    pub read_at: Instant,
    /// What code that is no module has.
    pub kernel: Allocated,
    /// What each module has, by name.
    pub modules: BTreeMap<String, Allocated>,
}

/// What somebody has allocated and not given back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Allocated {
    /// How much.
    pub bytes: u64,
    /// In how many pieces.
    pub pieces: u64,
}

/// Looks at what each kernel module has allocated.
#[derive(Debug)]
pub struct AllocinfoProbe {
    file: TextFile,
    buffer: Vec<u8>,
    last: Option<Arc<Allocations>>,
}

impl AllocinfoProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            file: TextFile::new(root.join("proc/allocinfo")),
            buffer: Vec::new(),
            last: None,
        }
    }
}

impl Probe for AllocinfoProbe {
    type Subject = ();
    type Observation = Arc<Allocations>;

    fn name(&self) -> &'static str {
        "allocinfo"
    }

    fn observe(&mut self, (): &(), now: Instant) -> Result<Arc<Allocations>, ProbeError> {
        if let Some(last) = &self.last
            && now.since(last.read_at) < INTERVAL
        {
            return Ok(Arc::clone(last));
        }
        self.last = None;
        let mut seen = Allocations {
            read_at: now,
            kernel: Allocated::default(),
            modules: BTreeMap::new(),
        };
        let mut has_header = false;
        self.file
            .lines(&mut self.buffer, LEN_MAX, "a list of allocations", |line| {
                if line.starts_with("allocinfo - version:") {
                    has_header = true;
                    return Some(());
                }
                if line.starts_with('#') || !has_header {
                    // Without a header it is something else that has the name.
                    return has_header.then_some(());
                }
                seen.add(line)
            })?;
        Ok(Arc::clone(self.last.insert(Arc::new(seen))))
    }
}

impl Allocations {
    /// Adds a line: bytes, pieces, `file:line`, the module in brackets if there is one,
    /// `func:name`, and whatever later versions say besides.
    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let (bytes, pieces): (u64, u64) = (next(&mut words)?, next(&mut words)?);
        let module = words
            .nth(1)
            .and_then(|word| word.strip_prefix('[')?.strip_suffix(']'));
        let allocated = match module {
            None => &mut self.kernel,
            Some(name) if self.modules.contains_key(name) => self.modules.get_mut(name)?,
            Some(_) if self.modules.len() == MODULES_MAX => return None,
            Some(name) => self.modules.entry(name.to_owned()).or_default(),
        };
        // The kernel adds up per-CPU halves without stopping anybody, so a sum may go below zero
        // for a moment, which is printed as a number near 2^64.
        allocated.bytes = allocated.bytes.wrapping_add(bytes);
        allocated.pieces = allocated.pieces.wrapping_add(pieces);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const TEXT: &str = "allocinfo - version: 1.0\n\
        #     <size>  <calls> <tag info>\n\
        \x20          0        0 init/main.c:1314 func:do_initcalls \n\
        \x20      4096        1 mm/slub.c:10 func:alloc_slab_page \n\
        \x20     81920       20 drivers/crypto/intel/qat/a.c:7 [intel_qat] func:adf_alloc \n\
        \x20      8192        2 drivers/crypto/intel/qat/b.c:9 [intel_qat] func:adf_more \n\
        \x20       512        4 fs/ext4/x.c:9 [ext4] func:f accurate:no\n";

    #[test]
    fn allocations_are_added_up_by_module() {
        let tree = Tree::empty();
        tree.write("proc/allocinfo", TEXT);
        let mut probe = AllocinfoProbe::new(tree.root());
        let seen = probe.observe(&(), Instant::ORIGIN).unwrap();
        let expected = |bytes, pieces| Allocated { bytes, pieces };
        assert_eq!(seen.kernel, expected(4096, 1));
        assert_eq!(seen.modules["intel_qat"], expected(90_112, 22));
        assert_eq!(seen.modules["ext4"], expected(512, 4));
    }

    #[test]
    fn it_is_read_again_after_a_minute_and_says_when_it_was_read() {
        let tree = Tree::empty();
        tree.write("proc/allocinfo", TEXT);
        let mut probe = AllocinfoProbe::new(tree.root());
        let first = probe.observe(&(), Instant::ORIGIN).unwrap();
        tree.write(
            "proc/allocinfo",
            "allocinfo - version: 1.0\n7 1 a.c:1 [x] func:f\n",
        );
        let soon = Instant::ORIGIN.plus(Duration::from_secs(59));
        assert_eq!(probe.observe(&(), soon).unwrap(), first);
        let due = Instant::ORIGIN.plus(INTERVAL);
        let second = probe.observe(&(), due).unwrap();
        assert_eq!((second.read_at, second.modules["x"].bytes), (due, 7));
    }

    #[test]
    fn a_kernel_without_it_and_a_file_of_something_else_are_told_apart() {
        let tree = Tree::empty();
        let mut probe = AllocinfoProbe::new(tree.root());
        let mut kind = || probe.observe(&(), Instant::ORIGIN).unwrap_err().kind();
        assert_eq!(kind(), "absent");
        tree.write("proc/allocinfo", "4096 1 mm/slub.c:10 func:f\n");
        assert_eq!(kind(), "nonsense");
        tree.write(
            "proc/allocinfo",
            "allocinfo - version: 1.0\nx 1 a.c:1 func:f\n",
        );
        assert_eq!(kind(), "nonsense");
    }
}
