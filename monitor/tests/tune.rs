//! `cardmon tune` on a captured host, and on a process of this one, with a monitor that takes orders.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../hwshim/tests/until/mod.rs"]
mod until;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;
use until::wait_until;

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const PORTS: &str = "proc/sys/net/ipv4/ip_local_port_range";
const RPS: &str = "sys/class/net/eth0/queues/rx-0/rps_cpus";

struct Site {
    root: TempDir,
}

impl Site {
    /// A host of two CPUs of which one drowns in packets, and a service that leaks ports and memory.
    fn new() -> Self {
        let site = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let stat = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                    cpu0 100 0 100 9700 0 0 100 0 0 0\n\
                    cpu1 100 0 100 4800 0 0 5000 0 0 0\n";
        site.write("proc/stat", stat);
        site.write(PORTS, "32768\t60999\n");
        site.write(RPS, "0\n");
        site.write(
            "proc/meminfo",
            "MemTotal:        8388608 kB\nMemFree: 4194304 kB\nBuffers: 0 kB\nCached: 0 kB\n",
        );
        let group = "sys/fs/cgroup/system.slice/hardserver.service";
        site.write(&format!("{group}/memory.current"), "900000000\n");
        site.write(&format!("{group}/memory.max"), "1000000000\n");
        site.write("status.json", &site.status(4321, 99).to_string());
        site
    }

    /// What a monitor knows of a service.
    fn status(&self, pid: u32, start: u64) -> Value {
        let leak = |resource: &str, held: f64, level: &str, rate: f64| {
            json!({
                "resource": resource, "unit": "count", "scope": "service", "level": level, "rule": null,
                "held": held, "limit": null,
                "rate_per_hour": { "low": rate, "middle": rate, "high": rate },
                "exhaustion": null, "p": null, "gates": [], "share_of_growth": null,
                "per_failed_open": null, "per_hour_absent": null, "falsified_by": []
            })
        };
        let kernel = json!({
            "cgroup": "/system.slice/hardserver.service", "total_bytes": null, "stack_bytes": null,
            "page_tables_bytes": null, "percpu_bytes": null, "sockets_bytes": null,
            "vmalloc_bytes": null, "slab_reclaimable_bytes": null, "slab_unreclaimable_bytes": null
        });
        json!({
            "schema": 1, "version": "0.1.0", "simulation": null, "listen": "127.0.0.1:9180",
            "telemetry": "/run/hwshim", "telemetry_error": null, "pages_not_watched": 0,
            "interval_seconds": 1.0, "polls": 1000, "polls_late": 0, "monitor": null, "cards": [],
            "services": [{
                "service": "hardserver", "card": null, "standing": "answers", "cause": "service-leak",
                "evidence": [], "codes": [], "for_seconds": 1.0,
                "process": {
                    "pid": pid, "start_time_ticks": start, "state": "S", "rss_bytes": null,
                    "rss_anon_bytes": null, "pinned_bytes": null, "descriptors": 60, "sockets": null,
                    "threads": 4, "tcp_ports": 9000
                },
                "restarts": 0, "answer_seconds": null, "kernel": kernel,
                "leaks": [
                    leak("tcp-ports", 9_000.0, "leaking", 100.0),
                    leak("descriptors", 60.0, "leaking", 2.0)
                ]
            }],
            "transitions": []
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn tune(&self, root: &str, more: &[&str]) -> Output {
        Command::new(CARDMON)
            .args(["tune", "--root", root, "--status"])
            .arg(self.path("status.json"))
            .arg("--control")
            .arg(self.path("control"))
            .args(more)
            .output()
            .unwrap()
    }

    fn here(&self, more: &[&str]) -> Output {
        self.tune(self.root.path().to_str().unwrap(), more)
    }

    fn monitor(&self) -> Monitor {
        let monitor = Command::new(CARDMON)
            .args([
                "run",
                "--json",
                "--interval",
                "200ms",
                "--for",
                "120s",
                "--listen",
                "127.0.0.1:0",
            ])
            .arg("--telemetry")
            .arg(self.path("pages"))
            .arg("--history")
            .arg(self.path("history"))
            .arg("--control")
            .arg(self.path("control"))
            .arg("--dead-man")
            .arg(self.path("alive"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let monitor = Monitor(monitor);
        wait_until("it takes orders", || self.order(&["lock", "--show"]));
        monitor
    }

    fn order(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new(CARDMON);
        command
            .args(arguments)
            .arg("--control")
            .arg(self.path("control"));
        command.output().unwrap().status.success()
    }

    fn unlock(&self) {
        assert!(self.order(&[
            "unlock", "--ticket", "CHG9", "--for", "5m", "--reason", "ports"
        ]));
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let output = Command::new(CARDMON)
            .args(["history", "--json", "--kind", kind, "--history"])
            .arg(self.path("history"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn recommendations_have_figures_and_a_way_back_and_change_nothing() {
    let site = Site::new();
    let output = site.here(&["-r"]);
    assert_eq!(output.status.code(), Some(10), "{}", text(&output));
    let said = text(&output);
    for part in [
        "ports: proc/sys/net/ipv4/ip_local_port_range (mitigation, not fix)",
        "buys 270.6 h at the current leak rate of 100.0 an hour",
        "undo      sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        "receive-packets: sys/class/net/eth0/queues/rx-0/rps_cpus",
        "CPU 1 has spent 50 % of its time in softirqs, no other more than 1 %",
        "would be  1\n",
        "memory-ceiling: hardserver",
        "would be  1499987968",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert_eq!(site.read(PORTS), "32768\t60999\n");
    let one = site.here(&["-r", "--json", "--only", "ports"]);
    let document: Value = serde_json::from_slice(&one.stdout).unwrap();
    let all = document["recommendations"].as_array().unwrap();
    assert_eq!(
        (all.len(), &all[0]["outcome"]["outcome"]),
        (1, &"recommended".into())
    );
    site.write("status.json", "{}");
    assert_eq!(site.here(&["-r"]).status.code(), Some(1), "no status");
}

#[test]
fn nothing_is_changed_without_a_monitor_or_outside_a_window() {
    let site = Site::new();
    let output = site.here(&["-s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("no monitor takes orders"),
        "{}",
        text(&output)
    );
    let _monitor = site.monitor();
    let output = site.here(&["-s", "--only", "ports"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("cardmon unlock"),
        "{}",
        text(&output)
    );
    assert_eq!(site.read(PORTS), "32768\t60999\n");
    let attempts = site.events("change-attempt");
    assert_eq!(attempts[0]["body"]["action"], "tune");
    assert_eq!(attempts[0]["subject"], PORTS);
    assert_eq!(site.events("change").len(), 0);
}

#[test]
fn in_a_window_what_may_be_changed_is_and_each_change_is_on_record_with_both_values() {
    let site = Site::new();
    let _monitor = site.monitor();
    site.unlock();
    let output = site.here(&["-s", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(site.read(PORTS), "10240\t65535");
    assert_eq!(site.read(RPS), "1");
    let group = "sys/fs/cgroup/system.slice/hardserver.service/memory.max";
    assert_eq!(site.read(group), "1499987968");
    let changes = site.events("change");
    let of = |subject: &str| {
        changes
            .iter()
            .find(|one| one["subject"] == subject)
            .unwrap()
    };
    assert_eq!(of(PORTS)["body"]["old"], "32768\t60999");
    assert_eq!(of(PORTS)["body"]["new"], "10240\t65535");
    assert_eq!(of(group)["body"]["old"], "1000000000");
    assert_eq!(
        (changes.len(), &of(RPS)["body"]["action"]),
        (3, &"tune".into())
    );
    let window = &site.events("change-unlock")[0];
    assert_eq!(of(RPS)["refers_to"], window["seq"]);
    // Now all is as recommended.
    let again = site.here(&["-s", "--only", "ports", "--only", "receive-packets"]);
    let said = text(&again);
    assert_eq!(
        (again.status.code(), said.trim()),
        (Some(0), "nothing to recommend")
    );
}

#[test]
fn a_change_that_the_kernel_does_not_take_is_on_record_as_failed() {
    let site = Site::new();
    let _monitor = site.monitor();
    site.unlock();
    // What is written to it is not there afterwards.
    fs::remove_file(site.path(RPS)).unwrap();
    std::os::unix::fs::symlink("/dev/null", site.path(RPS)).unwrap();
    let output = site.here(&["-s", "--only", "receive-packets"]);
    // It reads as no CPU, which is nowhere, and takes nothing.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let changes = site.events("change");
    let actions: Vec<_> = changes
        .iter()
        .map(|one| one["body"]["action"].clone())
        .collect();
    assert_eq!(actions, ["tune", "tune-failed"]);
    assert!(
        changes[1]["body"]["new"]
            .as_str()
            .unwrap()
            .contains("did not take it")
    );
}

#[test]
fn a_process_that_runs_is_given_more_descriptors_and_another_of_its_number_is_not() {
    let site = Site::new();
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(hard >= 400, "the test needs room to raise a limit");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -S -n 100; exec cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let limit = || {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    wait_until("the limit is lowered", || limit() == "100");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let start: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
    let _monitor = site.monitor();
    site.unlock();
    let apply = ["-s", "--only", "descriptors"];
    site.write("status.json", &site.status(pid, start + 1).to_string());
    let other = site.tune("/", &apply);
    assert!(
        text(&other).contains("no longer the one"),
        "{}",
        text(&other)
    );
    assert_eq!((other.status.code(), limit()), (Some(1), "100".to_owned()));
    site.write("status.json", &site.status(pid, start).to_string());
    let done = site.tune("/", &apply);
    assert_eq!(
        (done.status.code(), limit()),
        (Some(0), "400".to_owned()),
        "{}",
        text(&done)
    );
    assert!(text(&done).contains("buys 150.0 h"), "{}", text(&done));
    child.kill().unwrap();
    child.wait().unwrap();
}
