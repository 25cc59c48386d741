//! Attribute files of one PCI function in sysfs: parts of the input, divided by NUL, in the order
//! of [`ATTRIBUTES`]; the rest is its configuration space.

use super::scratch_directory;
use hwshim::pci::{enumerate, find};
use std::fs;

const ATTRIBUTES: [&str; 14] = [
    "vendor",
    "device",
    "class",
    "subsystem_vendor",
    "subsystem_device",
    "numa_node",
    "power_state",
    "current_link_speed",
    "current_link_width",
    "max_link_speed",
    "max_link_width",
    "aer_dev_correctable",
    "aer_dev_nonfatal",
    "aer_dev_fatal",
];

pub(crate) fn run(input: &[u8]) {
    let sysfs = scratch_directory();
    let function = sysfs.path().join("bus/pci/devices/0000:3b:00.0");
    fs::create_dir_all(&function).expect("the temporary directory is writable");
    let mut parts = input.splitn(ATTRIBUTES.len() + 1, |&byte| byte == 0);
    for attribute in ATTRIBUTES.into_iter().chain(["config"]) {
        // One that the input does not reach does not exist.
        let Some(content) = parts.next() else { break };
        fs::write(function.join(attribute), content).expect("the temporary directory is writable");
    }
    let inventory = enumerate(sysfs.path()).expect("there is a bus");
    assert_eq!(
        inventory.functions.len(),
        1,
        "a function is listed, however it reads"
    );
    for function in &inventory.functions {
        let _ = inventory.advice(function);
        for problem in function.problems() {
            // Which one is asked: `cat` of the same file shows no more than this.
            assert!(!problem.reason().is_empty());
            assert!(
                !problem.reason().contains(char::is_control),
                "{:?}",
                problem.reason()
            );
        }
        let _ = find(sysfs.path(), function.bdf);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts = "0x1af4\n\x000x1054\n\x000x100000\n\x000x1af4\n\x000x1100\n\x00-1\n\x00D0\n\
        \x008.0 GT/s PCIe\n\x008\n\x0016.0 GT/s PCIe\n\x0016\n\
        \x00RxErr 0\nTOTAL_ERR_COR 3\n\x00TOTAL_ERR_NONFATAL 0\n\x00TOTAL_ERR_FATAL 1\n\x00";
    let mut with_config = texts.as_bytes().to_vec();
    with_config.extend_from_slice(&super::pci::seeds()[1]);
    vec![texts.as_bytes().to_vec(), with_config]
}
