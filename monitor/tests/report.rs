//! `cardmon report` after a monitor that has run: what is in the bundle, what is not, and that it can be
//! checked by others' programs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../hwshim/tests/until/mod.rs"]
mod until;

use card_spec::health::{self, LedEdge, Summary};
use card_spec::telemetry::{Page, card_state, check_result, padded};
use hwshim::clock::{Clock, SystemClock};
use hwshim::telemetry::Publisher;
use monitor::history::{BootId, EVENTS_FILE, Event, Events, Filter, Place, Reader, Stamp};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;
use until::wait_until;
use zerocopy::{FromZeros, IntoBytes};

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const CARD: &str = "pci:0000:3b:00.0";
const HOST: &str = "web1.example.net";
/// What must not be in a bundle, wherever it stands that a report is made from.
const SECRETS: [&str; 5] = [
    HOST,
    "10.20.30.40",
    "ENVIRONMENT-SECRET",
    "KEY-MATERIAL",
    "PRIVATE KEY",
];

struct Site {
    root: TempDir,
    publisher: Publisher,
    page: Page,
    card: Summary,
}

impl Site {
    /// A card whose light has blinked, and whose page holds more than anybody is to see.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut card = Summary::new_zeroed();
        card.magic = health::MAGIC.into();
        card.version = health::VERSION.into();
        card.heartbeat_period_ms = 100.into();
        card.serial_number.copy_from_slice(b"SN-<b>4711          ");
        card.firmware_revision.copy_from_slice(b"2.61.1  ");
        card.uptime_ms = 9_000.into();
        for (index, at) in [1_000, 1_200, 4_700, 4_900].into_iter().enumerate() {
            let edge = LedEdge::new().with_uptime_ms(at).with_lit(index % 2 == 0);
            card.led_edges[index] = edge.into_bits().into();
        }
        card.led_edge_count = 4.into();
        let mut page = Page::new();
        page.owner.address = padded(CARD);
        page.owner.publish_interval_ns = 250_000_000.into();
        page.card.state = card_state::READY.into();
        page.checks.passed = 41.into();
        page.checks.last_result = check_result::PASSED.into();
        page.checked = padded("rsa-pss-sha256");
        page.reserved_end[..12].copy_from_slice(b"KEY-MATERIAL");
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let start: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        page.owner.pid = u64::from(std::process::id()).into();
        page.owner.start_time_ticks = start.into();
        let publisher = Publisher::create(&root.path().join("pages"), CARD).unwrap();
        let site = Self {
            root,
            publisher,
            page,
            card,
        };
        site.host();
        site
    }

    /// `/sys` and `/proc` of a host on which a port counts errors that the card does not.
    fn host(&self) {
        let write = |path: &str, content: &[u8]| {
            let path = self.path("host").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let port = "sys/devices/pci0000:3a/0000:3a:00.0";
        let function = format!("{port}/0000:3b:00.0");
        for at in [port, &function] {
            for (file, content) in [
                ("max_link_speed", "16.0 GT/s PCIe\n"),
                ("max_link_width", "8\n"),
                ("current_link_speed", "16.0 GT/s PCIe\n"),
                ("current_link_width", "4\n"),
                ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 0\n"),
                ("aer_dev_fatal", "TOTAL_ERR_FATAL 0\n"),
            ] {
                write(&format!("{at}/{file}"), content.as_bytes());
            }
        }
        write(
            &format!("{function}/aer_dev_correctable"),
            b"TOTAL_ERR_COR 0\n",
        );
        write(
            &format!("{port}/aer_dev_correctable"),
            b"TOTAL_ERR_COR 4711\n",
        );
        for (file, id) in [("vendor", "0x8086\n"), ("device", "0x4941\n")] {
            write(&format!("{function}/{file}"), id.as_bytes());
        }
        let mut config = [0; 64];
        config[..4].copy_from_slice(&[0x86, 0x80, 0x41, 0x49]);
        write(&format!("{function}/config"), &config);
        write("proc/sys/kernel/hostname", format!("{HOST}\n").as_bytes());
        write("proc/sys/kernel/osrelease", b"6.18.0-test\n");
        let devices = self.path("host").join("sys/bus/pci/devices");
        fs::create_dir_all(&devices).unwrap();
        let target = "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0";
        std::os::unix::fs::symlink(target, devices.join("0000:3b:00.0")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn publish(&mut self) {
        let now = SystemClock.now().as_nanos();
        self.card.heartbeat_count += 1;
        self.page.health.copy_from_slice(self.card.as_bytes());
        self.page.card.health_reads += 1;
        self.page.card.health_read_at_ns = now.into();
        self.page.owner.published_at_ns = now.into();
        self.publisher.publish(&self.page).unwrap();
    }

    fn cardmon(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CARDMON);
        command.args(arguments);
        let places = [
            ("--history", "history"),
            ("--control", "control"),
            ("--telemetry", "pages"),
        ];
        for (option, name) in places {
            let takes = match arguments[0] {
                "run" => true,
                "report" => option != "--control",
                _ => option == "--control",
            };
            if takes {
                command.arg(option).arg(self.path(name));
            }
        }
        command
    }

    /// A monitor that has seen the card serve and go, with a change in between, and has ended.
    fn story(&mut self) {
        let mut monitor: Child = self
            .cardmon(&["run", "--json", "--interval", "200ms", "--for", "120s"])
            .args(["--listen", "127.0.0.1:0", "--dead-man"])
            .arg(self.path("alive"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.until("connected");
        let reason = format!("{HOST} asked from 10.20.30.40 for a fan");
        let unlock = [
            "unlock", "--ticket", "CHG7", "--for", "5m", "--reason", &reason,
        ];
        assert!(self.cardmon(&unlock).output().unwrap().status.success());
        assert!(
            self.cardmon(&["drain", CARD])
                .output()
                .unwrap()
                .status
                .success()
        );
        self.page.card.state = card_state::GONE.into();
        self.until("unreachable");
        kill_process(Pid::from_child(&monitor), Signal::TERM).unwrap();
        assert!(monitor.wait().unwrap().success());
    }

    fn until(&mut self, state: &str) {
        let filter = Filter {
            kinds: vec!["transition".to_owned()],
            ..Filter::default()
        };
        let wanted = format!("\"to\":\"{state}\"");
        wait_until(state, || {
            self.publish();
            let recorded =
                Reader::open(&self.path("history")).and_then(|reader| reader.query(&filter));
            recorded.is_ok_and(|all| all.iter().any(|one| one.event.body.contains(&wanted)))
        });
    }

    fn report(&self, out: &str) -> Output {
        self.report_command(out).output().unwrap()
    }

    fn report_command(&self, out: &str) -> Command {
        let mut command = self.cardmon(&["report", CARD]);
        command
            .arg("--out")
            .arg(self.path(out))
            .arg("--root")
            .arg(self.path("host"))
            .env("DATABASE_PASSWORD", "ENVIRONMENT-SECRET");
        command
    }
}

fn read(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap()
}

#[test]
fn a_bundle_tells_the_cards_story_without_a_monitor_and_no_secrets() {
    let mut site = Site::new();
    site.story();
    let made = site.report("bundle");
    assert!(made.status.success(), "{made:?}");
    let bundle = site.path("bundle");
    let report: Value = serde_json::from_str(&read(&bundle, "report.json")).unwrap();
    let known = |name: &str| &report[name]["known"];
    assert_eq!(known("identity")["serial_number"], "SN-<b>4711");
    assert_eq!(known("identity")["firmware_revision"], "2.61.1");
    assert_eq!(known("owner")["checks"]["passed"], 41);
    assert_eq!(known("owner")["checked"], "rsa-pss-sha256");
    assert_eq!(known("light")["edges"].as_array().unwrap().len(), 4);
    let pci = known("pci");
    assert_eq!(pci["ids"][1]["known"], 0x4941);
    assert_eq!(pci["errors"]["correctable"]["known"], 0);
    assert_eq!(pci["port"]["known"][1]["correctable"]["known"], 4711);
    assert_eq!(known("assessment")["state"], "unreachable");
    assert_eq!(known("assessment")["cause"], "card-absent");
    assert_eq!(report["transitions"]["unreachable"], 1);
    assert_eq!(known("audit")["finding"], Value::Null);
    let kinds: Vec<_> = known("events")
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].clone())
        .collect();
    for kind in ["start", "change-unlock", "change", "transition", "stop"] {
        assert!(kinds.contains(&kind.into()), "no {kind} in {kinds:?}");
    }
    let lines = known("held").as_array().unwrap();
    assert!(
        lines.iter().any(|line| line["name"] == "owner-rss-bytes"),
        "{lines:?}"
    );
    assert!(read(&bundle, "held.svg").contains("<polyline"));

    let html = read(&bundle, "report.html");
    assert!(html.contains("SN-&lt;b&gt;4711") && !html.contains("SN-<b>"));
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(
        !elsewhere.contains("http:")
            && !elsewhere.contains("https:")
            && !elsewhere.contains("<script"),
        "needs nothing else"
    );
    for file in fs::read_dir(&bundle).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in {}", path.display());
        }
    }
    assert!(html.contains("CHG7") && html.contains("(host) asked from (address)"));

    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "MANIFEST.sha256"])
        .current_dir(&bundle)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(read(&bundle, "MANIFEST.sha256").lines().count(), 4);
    let again = site.report("bundle");
    assert_eq!(again.status.code(), Some(1), "nothing is overwritten");
    assert!(
        String::from_utf8(again.stderr)
            .unwrap()
            .contains("is there already")
    );
}

#[test]
fn a_report_is_written_and_its_exit_status_right_though_nobody_reads_what_is_in_it() {
    let mut site = Site::new();
    site.publish();
    for (more, out) in [(None, "text"), (Some("--json"), "json")] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = site.report_command(out);
        let made = command.args(more).stdout(writer).output().unwrap();
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        assert!(site.path(out).join("report.json").exists());
    }
    let mut command = site.report_command("told");
    let made = command.arg("--json").output().unwrap();
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(told["exit_status"], 0);
    assert_eq!(told["written"], site.path("told").to_str().unwrap());
    assert!(told["not_included"]["record"].is_string(), "{told:#}");
    assert_eq!(told["not_included"]["card"], Value::Null);
}

#[test]
fn an_archive_is_one_that_others_unpack_and_a_record_that_was_changed_is_told_of() {
    let mut site = Site::new();
    site.story();
    assert!(site.report("report.tar").status.success());
    let unpacked = site.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar")
        .arg("-xf")
        .arg(site.path("report.tar"))
        .current_dir(&unpacked)
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "MANIFEST.sha256"])
        .current_dir(&unpacked)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");

    // Without a page: from the history alone.
    fs::remove_file(site.publisher.path()).unwrap();
    // Somebody covers up how the window came about.
    let events = Connection::open(site.path("history").join(EVENTS_FILE)).unwrap();
    let trigger = "SELECT sql FROM sqlite_schema WHERE name = 'event_stays'";
    let trigger: String = events.query_row(trigger, [], |row| row.get(0)).unwrap();
    events
        .execute_batch("DROP TRIGGER event_stays; UPDATE event SET body = '{}' WHERE seq = 2")
        .unwrap();
    events.execute_batch(&trigger).unwrap();
    drop(events);
    let made = site.report("changed");
    assert_eq!(made.status.code(), Some(3), "{made:?}");
    let report: Value = serde_json::from_str(&read(&site.path("changed"), "report.json")).unwrap();
    assert!(report["identity"]["missing"].is_string(), "{report:#}");
    assert_eq!(report["assessment"]["known"]["state"], "unreachable");
    let finding = report["audit"]["known"]["finding"].as_str().unwrap();
    assert!(finding.starts_with("event 2"), "{finding}");
}

#[test]
fn an_archive_elsewhere_is_neither_a_whole_record_nor_one_that_was_changed() {
    let mut site = Site::new();
    site.story();
    let history = site.path("history");
    let mut events = Events::open(&Place::new(&history).with_archives_of(1), Vec::new()).unwrap();
    let stamp = Stamp::now(&SystemClock, BootId::of_this_boot());
    let event = Event::new(stamp, "transition", CARD, &"");
    events.append(&[event]).unwrap();
    let last = events.head().unwrap().unwrap().seq.0 - 2;
    drop(events);
    let name = format!("events-000000001-{last:09}.db");
    let made = site.report("whole");
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    fs::rename(history.join(&name), site.path("elsewhere")).unwrap();

    let made = site.report("without");
    assert_eq!(made.status.code(), Some(4), "{made:?}");
    let told = format!(
        "events 1 to {last} are in the archive {name}, which is not in the directory of the history: put it back there"
    );
    let said = String::from_utf8(made.stdout).unwrap();
    let words = format!("NOT ALL OF THE RECORD IS PROVEN: {told}");
    assert!(said.contains(&words), "{said}");
    let without = site.path("without");
    let report: Value = serde_json::from_str(&read(&without, "report.json")).unwrap();
    let audit = &report["audit"]["known"];
    assert_eq!(
        (&audit["finding"], &audit["events"]),
        (&Value::Null, &2.into())
    );
    let unproven = audit["unproven"][0].as_str().unwrap();
    assert!(unproven.starts_with(&told), "{unproven}");
    assert!(read(&without, "report.html").contains("<th>not proven</th>"));

    // Another of that name is no archive that was put back.
    fs::copy(history.join(EVENTS_FILE), history.join(&name)).unwrap();
    let made = site.report("changed");
    assert_eq!(made.status.code(), Some(3), "{made:?}");
    fs::rename(site.path("elsewhere"), history.join(&name)).unwrap();
    assert_eq!(site.report("again").status.code(), Some(0));
}

#[test]
fn of_a_card_that_nobody_knows_there_is_no_report() {
    let site = Site::new();
    let output = site
        .cardmon(&["report", "pci:0000:99:00.0"])
        .arg("--out")
        .arg(site.path("out"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("nothing is known of pci:0000:99:00.0"),
        "{text}"
    );
    assert!(!site.path("out").exists());
}
