//! `hwshim list` on captured machines: the program is run on each tree under `fixtures/` and what
//! it prints is held against what a person reads out of the same files.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of these tests are tests too"
)]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn fixture(machine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(machine)
}

fn command(machine: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hwshim"));
    command.arg("list").args(args).arg("--sysfs");
    command.arg(fixture(machine));
    command
}

fn list(machine: &str, args: &[&str]) -> Output {
    command(machine, args).output().expect("the program starts")
}

fn document(machine: &str, args: &[&str]) -> Value {
    let output = list(machine, &[&["--json"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{machine}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{machine}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether `actual` has all that `expected` has: objects may have more, arrays may not.
fn assert_has(expected: &Value, actual: &Value, at: &str) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (name, value) in expected {
                let found = actual.get(name).unwrap_or(&Value::Null);
                assert_has(value, found, &format!("{at}.{name}"));
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            assert_eq!(expected.len(), actual.len(), "{at}: {actual:#?}");
            for (index, (value, found)) in expected.iter().zip(actual).enumerate() {
                assert_has(value, found, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(expected, actual, "{at}"),
    }
}

fn assert_lists(machine: &str, functions: Value, warnings: Value) {
    let actual = document(machine, &[]);
    let expected = json!({ "schema": 1, "functions": functions, "warnings": warnings });
    assert_has(&expected, &actual, machine);
    let Value::Array(software) = &actual["software"] else {
        panic!("software is an array");
    };
    assert_eq!(software[0]["address"], "software:ring");
    assert_eq!(software[0]["usable"], true);
    // On this host it may be there or not, and then something is said of it.
    assert_eq!(software[1]["address"], "software:multi-buffer");
    let said = if software[1]["usable"] == true {
        "library"
    } else {
        "reason"
    };
    assert!(software[1][said].is_string(), "{}", software[1]);
    for function in actual["functions"].as_array().unwrap() {
        let address = format!("pci:{}", function["bdf"].as_str().unwrap());
        assert_eq!(function["address"], address.as_str());
    }
}

fn totals(correctable: u64, nonfatal: u64, fatal: u64) -> Value {
    json!({ "correctable": correctable, "nonfatal": nonfatal, "fatal": fatal })
}

fn rate(speed: &str, width: u8) -> Value {
    json!({ "speed": speed, "width": width })
}

const NOT_COUNTED: fn() -> Value =
    || json!({ "correctable": null, "nonfatal": null, "fatal": null });

#[test]
fn a_xeon_with_qat_is_monitored_and_its_root_port_too() {
    assert_lists(
        "xeon-qat",
        json!([
            {
                "bdf": "0000:3b:00.0", "family": "qat", "presence": "present",
                "vendor": "0x8086", "device": "0x37c8", "class": "0x0b4000",
                "subsystem_vendor": "0x8086", "subsystem_device": "0x35cf",
                "vendor_name": "Intel Corporation", "class_name": "Co-processor",
                "driver": "c6xx", "iommu_group": 21, "numa_node": 0, "power_state": "D0",
                "link": { "current": rate("8.0 GT/s", 16), "maximum": rate("8.0 GT/s", 16) },
                "link_state": "full", "aer": totals(0, 0, 0),
                "upstream": { "bdf": "0000:3a:00.0", "aer": totals(14, 0, 0) },
                "usability": "monitored-only", "commands": [],
            },
            {
                // Built into the root complex: it has no link and no port above it.
                "bdf": "0000:6b:00.0", "family": "qat", "device_name": "4xxx Series QAT",
                "driver": "4xxx", "link": null, "link_state": null, "upstream": null,
                "aer": totals(0, 0, 0), "usability": "monitored-only",
            },
            {
                // A virtual function: its own ID registers read all-ones.
                "bdf": "0000:6b:00.1", "family": "qat", "presence": "present",
                "device": "0x4941", "driver": null, "iommu_group": 10,
            },
        ]),
        json!([]),
    );
}

#[test]
fn an_old_web_server_has_an_nshield_and_little_to_say_about_it() {
    assert_lists(
        "web2004-nshield",
        json!([
            {
                "bdf": "0000:02:04.0", "family": "nshield", "vendor": "0x8086",
                "subsystem_vendor": "0x0100", "subsystem_vendor_name": "nCipher Security",
                "driver": null, "iommu_group": null, "numa_node": null, "power_state": null,
                "link": null, "aer": NOT_COUNTED(), "upstream": { "bdf": "0000:00:1e.0" },
                "usability": "vendor-pkcs11",
            },
            {
                "bdf": "0000:02:05.0", "family": "broadcom", "driver": "bcm5820",
                "usability": "monitored-only",
            },
        ]),
        json!([]),
    );
}

#[test]
fn a_card_in_a_narrow_port_is_not_called_downtrained() {
    assert_lists(
        "nitrox",
        json!([{
            "bdf": "0000:83:00.0", "family": "nitrox", "class": "0x100000", "numa_node": 1,
            "link": { "current": rate("8.0 GT/s", 8), "maximum": rate("8.0 GT/s", 16) },
            "link_state": "limited-by-port",
            // The port of the switch it hangs on, not the root port.
            "upstream": { "bdf": "0000:82:01.0" },
            "usability": "monitored-only",
        }]),
        json!([]),
    );
}

#[test]
fn without_an_iommu_virtio_crypto_is_left_alone() {
    let actual = document("vm-virtio-pci", &[]);
    assert_lists(
        "vm-virtio-pci",
        json!([{
            "bdf": "0000:00:04.0", "family": "virtio-crypto", "driver": "virtio-pci",
            "iommu_group": null, "usability": "monitored-only", "commands": [],
        }]),
        json!([]),
    );
    let reason = actual["functions"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no IOMMU group"), "{reason}");
}

#[test]
fn with_an_iommu_virtio_crypto_is_driven_or_says_what_is_missing() {
    assert_lists(
        "vm-vfio-pci",
        json!([
            { "bdf": "0000:00:04.0", "driver": "vfio-pci", "iommu_group": 3,
              "usability": "vfio", "commands": [] },
            { "bdf": "0000:00:05.0", "driver": "virtio-pci", "iommu_group": 4,
              "usability": "vfio-after-binding",
              "commands": [
                  "modprobe vfio-pci",
                  "echo vfio-pci > /sys/bus/pci/devices/0000:00:05.0/driver_override",
                  "echo 0000:00:05.0 > /sys/bus/pci/devices/0000:00:05.0/driver/unbind",
                  "echo 0000:00:05.0 > /sys/bus/pci/drivers_probe",
              ] },
            // It does not offer VIRTIO_F_ACCESS_PLATFORM.
            { "bdf": "0000:00:06.0", "usability": "monitored-only" },
            { "bdf": "0000:00:07.0", "driver": null, "usability": "vfio-after-binding",
              "reason": "IOMMU group 6 also holds 0000:00:07.1 (e1000e): unbind that first, \
                         a group has one owner",
              "commands": [
                  "modprobe vfio-pci",
                  "echo vfio-pci > /sys/bus/pci/devices/0000:00:07.0/driver_override",
                  "echo 0000:00:07.0 > /sys/bus/pci/drivers_probe",
              ] },
            // vfio-noiommu.
            { "bdf": "0000:00:08.0", "driver": "vfio-pci", "usability": "monitored-only" },
        ]),
        json!([]),
    );
}

#[test]
fn the_port_tells_what_the_card_does_not() {
    assert_lists(
        "mixed-downtrained",
        json!([
            {
                "bdf": "0000:17:00.0", "family": "qat", "link_state": "downtrained",
                "link": { "current": rate("2.5 GT/s", 1), "maximum": rate("5.0 GT/s", 16) },
                "aer": totals(0, 0, 0),
                "upstream": {
                    "bdf": "0000:16:00.0", "aer": totals(2318, 1, 3),
                    "link": { "maximum": rate("8.0 GT/s", 16) },
                },
            },
            { "bdf": "0000:65:01.0", "family": "netoctave", "power_state": "D3hot" },
            // Its class does not give it away, the table does.
            { "bdf": "0000:65:02.0", "family": "cryptoswift", "class": "0xff0000" },
        ]),
        json!([]),
    );
    let output = list("mixed-downtrained", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert!(line.contains("downtrained  port 3 fatal"), "{line}");
}

#[test]
fn each_maker_of_an_epyc_server_is_told_apart() {
    assert_lists(
        "epyc-ccp-ibm",
        json!([
            { "bdf": "0000:41:00.0", "family": "ibm", "link_state": "full",
              "aer": totals(0, 2, 0), "usability": "vendor-pkcs11" },
            { "bdf": "0000:42:00.1", "family": "amd-ccp", "driver": "ccp",
              "aer": NOT_COUNTED(), "usability": "monitored-only" },
            { "bdf": "0000:c1:00.0", "family": "bluefield", "usability": "monitored-only" },
            { "bdf": "0000:c2:00.0", "family": "utimaco", "usability": "vendor-pkcs11" },
            { "bdf": "0000:c3:00.0", "family": "unlisted", "device_name": null,
              "usability": "monitored-only" },
        ]),
        json!([]),
    );
}

#[test]
fn a_card_that_left_the_bus_is_gone_not_absent() {
    assert_lists(
        "removed",
        json!([{
            "bdf": "0000:3b:00.0", "family": "virtio-crypto", "presence": "gone",
            "vendor": "0x1af4", "power_state": "D3cold", "link_state": "down",
            "link": null,
            "upstream": { "bdf": "0000:3a:00.0", "aer": totals(0, 0, 1), "link": { "current": null } },
            "usability": "unusable",
        }]),
        json!([]),
    );
}

/// A warning about `file` of `bdf`.
fn warning(machine: &str, bdf: &str, file: &str, reason: &str) -> Value {
    let file = fixture(machine)
        .join("bus/pci/devices")
        .join(bdf)
        .join(file);
    json!({ "bdf": bdf, "problem": "invalid", "file": file.to_str(), "reason": reason })
}

#[test]
fn what_is_cut_short_is_named_and_hides_nothing_else() {
    let machine = "truncated";
    let cut = |bdf, file, reason| warning(machine, bdf, file, reason);
    let missing = "it is missing, and configuration space does not say it either";
    assert_lists(
        machine,
        json!([
            { "bdf": "0000:00:01.0", "family": "qat", "presence": "unknown",
              "numa_node": { "problem": "invalid" } },
            // Attributes are missing, the header stands in; only one of three totals is cut.
            { "bdf": "0000:00:02.0", "family": "qat", "device": "0x4942", "class": "0x0b4000",
              "aer": { "correctable": 1, "nonfatal": 2, "fatal": { "problem": "invalid" } } },
            { "bdf": "0000:00:03.0", "family": "qat", "presence": "present" },
            { "bdf": "0000:00:04.0", "family": null, "accelerator": false, "usability": null },
            { "bdf": "0000:00:05.0", "family": "nitrox", "link": { "problem": "invalid" } },
            { "bdf": "0000:00:06.0", "family": "qat", "link_state": "full",
              "aer": totals(0, 0, 0) },
        ]),
        json!([
            cut(
                "0000:00:01.0",
                "config",
                "17 bytes are less than a header has"
            ),
            cut(
                "0000:00:01.0",
                "numa_node",
                "\"\" is not the number of a node"
            ),
            cut(
                "0000:00:02.0",
                "aer_dev_fatal",
                "\"Cmp\" is not a name and a count"
            ),
            cut(
                "0000:00:03.0",
                "config",
                "capability at 0x0f8 is cut off by the end of configuration space",
            ),
            cut("0000:00:04.0", "vendor", missing),
            cut("0000:00:04.0", "device", missing),
            cut(
                "0000:00:05.0",
                "max_link_speed",
                "\"8.0 GT\" is not a link speed"
            ),
        ]),
    );
}

#[test]
fn what_is_garbled_is_named_and_hides_nothing_else() {
    let machine = "garbled";
    let garbled = |bdf, file, reason| warning(machine, bdf, file, reason);
    let unreadable = |bdf: &str, file, reason| {
        let mut warning = warning(machine, bdf, file, reason);
        warning["problem"] = json!("unreadable");
        if file.is_empty() {
            warning["bdf"] = Value::Null;
            warning["file"] = json!(fixture(machine).join("bus/pci/devices").join(bdf));
        }
        warning
    };
    let directory = "Is a directory (os error 21)";
    assert_lists(
        machine,
        json!([
            { "bdf": "0000:00:01.0", "family": "qat", "vendor": "0x8086" },
            { "bdf": "0000:00:02.0", "driver": { "problem": "invalid" },
              "numa_node": { "problem": "unreadable" } },
            { "bdf": "0000:00:03.0", "device": "0x4944", "link": { "problem": "invalid" } },
            { "bdf": "0000:00:04.0", "presence": "unknown", "vendor": { "problem": "invalid" } },
            { "bdf": "0000:00:05.0", "family": "virtio-crypto" },
            { "bdf": "0000:00:06.0", "family": "qat", "link_state": "full" },
        ]),
        json!([
            unreadable("0000:00:1f.7", "", "No such file or directory (os error 2)"),
            unreadable("0000:ff:00.0", "", "Too many levels of symbolic links (os error 40)"),
            { "bdf": null, "problem": "invalid", "reason": "its name is not a PCI address" },
            garbled("0000:00:01.0", "vendor",
                "\"I am not a number\" is not a hexadecimal number of 16 bits"),
            garbled("0000:00:01.0", "config", "capability list runs in a circle through 0x040"),
            garbled("0000:00:01.0", "class", "\"0xzz\" is not a hexadecimal number of 24 bits"),
            garbled("0000:00:01.0", "numa_node", "\"east wing\" is not the number of a node"),
            garbled("0000:00:01.0", "power_state", "\"D9\" is not a power state"),
            garbled("0000:00:02.0", "config",
                "capability list points outside its space, at 0x020"),
            garbled("0000:00:02.0", "driver", "it points at a name that is not text"),
            garbled("0000:00:02.0", "iommu_group", "it does not point at a numbered group"),
            unreadable("0000:00:02.0", "numa_node", directory),
            garbled("0000:00:02.0", "power_state", "it is not text"),
            garbled("0000:00:03.0", "config", "it says vendor 0x177d, but the kernel found 0x8086"),
            garbled("0000:00:03.0", "config", "it says device 0x0012, but the kernel found 0x4944"),
            garbled("0000:00:03.0", "max_link_width", "\"eight\" is not a link width"),
            garbled("0000:00:03.0", "aer_dev_correctable",
                "\"RxErr -1\" is not a name and a count"),
            garbled("0000:00:03.0", "aer_dev_nonfatal",
                "\"UnsupReq many\" is not a name and a count"),
            garbled("0000:00:03.0", "aer_dev_fatal",
                "\"SDES \\u{1b}[31m\" is not a name and a count"),
            unreadable("0000:00:04.0", "config", directory),
            garbled("0000:00:04.0", "vendor",
                "\"0xffffff\" is not a hexadecimal number of 16 bits"),
            garbled("0000:00:04.0", "device", "\"\" is not a hexadecimal number of 16 bits"),
            garbled("0000:00:05.0", "virtio0/features", "\"01012\" is not 64 feature bits"),
        ]),
    );
}

#[test]
fn accelerators_alone_are_listed_unless_all_are_asked_for() {
    let count = |args: &[&str]| {
        let document = document("vm-virtio-pci", args);
        document["functions"].as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 1);
    assert_eq!(count(&["--all"]), 3);
}

#[test]
fn the_table_fits_eighty_columns_and_lines_up() {
    for machine in [
        "xeon-qat",
        "vm-vfio-pci",
        "mixed-downtrained",
        "epyc-ccp-ibm",
        "nitrox",
    ] {
        let output = list(machine, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        let long = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{machine}");
        let (table, _) = text.split_once("\n\n").unwrap();
        let column = table.find("CARD").unwrap();
        for line in table.lines() {
            let (before, after) = line.split_at(column);
            assert!(before.ends_with("  ") && !after.starts_with(' '), "{line}");
        }
        assert!(!text.contains('\x1b'), "{machine}: colour in a pipe");
    }
}

#[test]
fn without_a_card_the_way_to_a_simulated_one_is_shown() {
    let sysfs = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(sysfs.path().join("bus/pci/devices")).unwrap();
    let output = list(sysfs.path().to_str().unwrap(), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("firmware-sim run --socket card.sock"),
        "{text}"
    );
    assert!(
        text.contains("hwshim selftest vfio-user:./card.sock"),
        "{text}"
    );
}

#[test]
fn failures_and_misuse_have_their_exit_codes() {
    let failed = list("no-such-machine", &[]);
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(
        message.starts_with("hwshim: PCI functions cannot be listed: "),
        "{message}"
    );
    assert!(message.contains("\nhint: "), "{message}");
    assert_eq!(list("xeon-qat", &["--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = command("epyc-ccp-ibm", &["--json", "--all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(0));
}
