//! Kernel modules, and which others each needs. Reads the record that a module carries itself,
//! from which depmod makes its lists, so that only a handful of thousands is opened.

use super::packages::Kernel;
use crate::process::program;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Copies the modules `wanted`, and those that they need, to the directory `to`. What is built
/// into the kernel is there anyway.
pub(super) fn copy(
    kernel: &Kernel,
    busybox: &Path,
    wanted: &[&str],
    to: &Path,
) -> anyhow::Result<()> {
    let mut files = BTreeMap::new();
    find(&kernel.modules, &mut files)?;
    let built_in = fs::read_to_string(kernel.modules.join("modules.builtin"))
        .context("the kernel has no list of what is built in")?;
    let is_built_in = |name: &str| built_in.lines().any(|line| module_name(line) == name);
    let mut waiting: Vec<String> = wanted.iter().map(|name| module_name(name)).collect();
    let mut seen = Vec::new();
    while let Some(name) = waiting.pop() {
        if seen.contains(&name) || is_built_in(&name) {
            continue;
        }
        let Some(file) = files.get(&name) else {
            bail!("kernel {} has no module {name}", kernel.release);
        };
        let module = read(file, busybox)?;
        waiting.extend(needed_by(&module).with_context(|| format!("module {name}"))?);
        fs::write(to.join(format!("{name}.ko")), module)?;
        seen.push(name);
    }
    fs::copy(
        kernel.modules.join("modules.builtin"),
        to.join("modules.builtin"),
    )?;
    Ok(())
}

/// All modules below `directory`, by name.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("no modules in {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && (name.ends_with(".ko") || name.ends_with(".ko.xz"))
        {
            files.insert(module_name(name), path);
        }
    }
    Ok(())
}

/// A module's content; kernels after bookworm's have them compressed.
fn read(file: &Path, busybox: &Path) -> anyhow::Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
    }
    let unxz = program(busybox).args(["unxz", "-c"]).arg(file).output()?;
    if !unxz.status.success() {
        bail!("{} cannot be uncompressed", file.display());
    }
    Ok(unxz.stdout)
}

/// The name by which a module is known, of a path or a name with hyphens.
fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.split(".ko").next().unwrap_or(name);
    name.replace('-', "_")
}

/// The modules that must be loaded before this one: its `depends` record, one of the strings
/// ended by NUL in the section `.modinfo`.
fn needed_by(module: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut records = module.split(|byte| *byte == 0);
    let depends = records.find_map(|record| record.strip_prefix(b"depends="));
    let depends = depends.context("it does not say what it depends on")?;
    let names = String::from_utf8_lossy(depends);
    let names = names.split(',').filter(|name| !name.is_empty());
    Ok(names.map(module_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory like a kernel's, with modules that need others.
    fn kernel(directory: &Path, modules: &[(&str, &str)]) -> Kernel {
        fs::create_dir_all(directory.join("kernel/drivers")).unwrap();
        for (path, depends) in modules {
            let text = format!("\x7fELF\0license=GPL\0depends={depends}\0name=it\0\x01");
            fs::write(directory.join(path), text).unwrap();
        }
        fs::write(
            directory.join("modules.builtin"),
            "kernel/lib/built-in.ko\n",
        )
        .unwrap();
        Kernel {
            release: "1.0".to_owned(),
            image: PathBuf::new(),
            modules: directory.to_owned(),
        }
    }

    fn copied(name: &str, modules: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let kernel = kernel(directory.path(), modules);
        let to = tempfile::tempdir().unwrap();
        copy(&kernel, Path::new("busybox"), &[name], to.path())?;
        let names = fs::read_dir(to.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".ko"))
            .collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn a_module_brings_all_that_it_needs() {
        let modules = [
            ("kernel/drivers/card-pci.ko", "card-core,ring,built-in"),
            ("kernel/drivers/card-core.ko", "ring"),
            ("kernel/ring.ko", ""),
            ("kernel/other.ko", "ring"),
        ];
        let expected = ["card_core.ko", "card_pci.ko", "ring.ko"];
        assert_eq!(copied("card-pci", &modules).unwrap(), expected);
        assert_eq!(copied("built_in", &modules).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = copied("card", &[("kernel/card.ko", "lost")]).unwrap_err();
        assert!(error.to_string().contains("no module lost"), "{error}");
    }

    #[test]
    fn a_module_without_its_record_is_refused() {
        for wrong in [&b"\x7fELF\0depend=x\0"[..], b""] {
            needed_by(wrong).unwrap_err();
        }
        assert_eq!(needed_by(b"\0depends=\0").unwrap(), Vec::<String>::new());
    }
}
