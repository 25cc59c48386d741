//! The file system that guests have in memory: busybox, programs of ours with their libraries, kernel
//! modules and the script that answers.
//!
//! Ours are the programs that are used here, with the libraries of this machine beside them.
//! Static ones would be another build of everything.

use super::modules;
use super::packages::Kernel;
use crate::process::{output, program, run};
use anyhow::{Context, bail};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Modules that guests may load. Those that these need come with them.
const MODULES: [&str; 6] = [
    "vfio_pci",
    "vfio_iommu_type1",
    "virtio_pci",
    "virtio_crypto",
    "aer_inject",
    "pkcs8_key_parser",
];

const INIT: &str = include_str!("init.sh");

/// Makes it in `directory`, with `programs` of ours and more programs' files in its `/opt`, and returns
/// its file.
pub(crate) fn build(
    directory: &Path,
    kernel: &Kernel,
    busybox: &Path,
    programs: &[PathBuf],
    files: &[PathBuf],
) -> anyhow::Result<PathBuf> {
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let modules = root.join("lib/modules").join(&kernel.release);
    let opt = root.join("opt");
    for directory in [&modules, &root.join("bin"), &opt] {
        fs::create_dir_all(directory)
            .with_context(|| format!("{} could not be created", directory.display()))?;
    }
    executable(&root.join("init"), INIT.as_bytes())?;
    executable(&root.join("bin/busybox"), &fs::read(busybox)?)?;
    for program in programs {
        add_program(&root, program)?;
    }
    for file in files {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, opt.join(name))
            .with_context(|| format!("{} could not be copied", file.display()))?;
    }
    modules::copy(kernel, busybox, &MODULES, &modules)?;
    let mut depmod = program(busybox);
    run(depmod
        .args(["depmod", "-b"])
        .arg(&root)
        .arg(&kernel.release))?;
    archive(&root, busybox, &directory.join("initramfs"))
}

/// Adds a program without its symbols, which are most of it, and the libraries it is linked with.
fn add_program(root: &Path, file: &Path) -> anyhow::Result<()> {
    let name = file.file_name().context("a program has a name")?;
    let to = root.join("bin").join(name);
    run(program("strip").arg("-o").arg(&to).arg(file))?;
    for library in libraries(&output(program("ldd").arg(file))?) {
        let to = root.join(library.trim_start_matches('/'));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(library, &to).with_context(|| format!("{library} could not be copied"))?;
    }
    Ok(())
}

/// The files in what `ldd` prints; the kernel's own library is none.
fn libraries(printed: &str) -> Vec<&str> {
    let words = printed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.collect()
}

fn executable(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("{} cannot be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Not compressed: an emulated processor takes longer to uncompress it than QEMU to load it.
fn archive(root: &Path, busybox: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let mut names = String::new();
    list(root, root, &mut names)?;
    let mut cpio = program(busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = cpio.stdin.take().expect("it was asked for");
    input.write_all(names.as_bytes())?;
    drop(input);
    if !cpio.wait()?.success() {
        bail!("the archive {} could not be written", to.display());
    }
    Ok(to.to_owned())
}

/// Lists what is below `directory` by its name below `root`, a directory before what is in it.
fn list(root: &Path, directory: &Path, names: &mut String) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.strip_prefix(root)?;
        names.push_str(name.to_str().context("a name that is no UTF-8")?);
        names.push('\n');
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_files_and_the_loader_is_one() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(printed), expected);
        assert_eq!(libraries("\tstatically linked\n"), Vec::<&str>::new());
    }
}
