//! S1: a card is pulled, its host service leaks kernel memory from then on, and the web server
//! beside it cannot start any more.
//!
//! Card, service, owner and web server are processes; the leak is real, and so is the want of
//! memory: service and web server share a control group with a limit. Only the rules for leaks are
//! in a hurry, by cardmon's `[drill] service_time`, because they want hours.
//!
//! ```text
//!   0 s            20 s              60 s                      about 160 s
//!   all is well    light irregular   card pulled; the service  group full: web server killed,
//!                                    leaks 256 KiB/s           and again whenever it starts
//! ```

use super::group::{Controller, Group};
use super::stage::{Stage, expect, list, pause, text};
use crate::outcome::Unavailable;
use crate::process::{answers, program};
use anyhow::Context as _;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What service and web server may hold together. The web server takes 45 MiB and the service 5, so
/// some 25 are left to leak.
const MEMORY: u64 = 75 * MIB;
/// All of it comes to pass before that, or never.
const PATIENCE: Duration = Duration::from_secs(300);
/// A supervisor waits for so long before it starts anew what has ended.
const RESTART: Duration = Duration::from_secs(3);

/// A web server with a cache: what it needs, it needs at once.
const WEB_SERVER: &str = "
import http.server
cache = bytearray(b'page') * (8 << 20)
handler = http.server.SimpleHTTPRequestHandler
http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler).serve_forever()
";

/// Plays it.
pub(super) fn replay(mut stage: Stage) -> anyhow::Result<()> {
    let mut python = program("python3");
    python.args(["-c", "import http.server"]);
    if !answers(python) {
        return Err(Unavailable("the web server is python3's; install it".to_owned()).into());
    }
    let group = Group::make(Controller::Memory)?;
    group.limit_memory(MEMORY)?;
    let (of_service, of_web) = (group.inner("hardserver")?, group.inner("web")?);
    let outcome = play(&mut stage, &of_service, &of_web);
    // Groups can be removed when nobody is in them.
    stage.end();
    outcome
}

fn play(stage: &mut Stage, of_service: &Group, of_web: &Group) -> anyhow::Result<()> {
    let socket = stage.path("card.sock");
    let mut card = stage.ours(["firmware-sim", "run", "--scenario", "hardserver-leak"]);
    card.arg("--socket").arg(&socket);
    let card = stage.start("card", of_service.within(&card))?;
    stage.wait_for(&stage.path("card.sock.service"))?;
    // The service stays in the group in which it was started, and the card is hardware.
    of_service.release(card)?;
    let owner = stage.owner();
    stage.start("owner", owner)?;
    let web = Supervisor::start(of_web, stage.path("web.pid"));
    let config = format!(
        "[watch]\ninterval = \"500ms\"\nlight = \"nfast-500\"\n\
         [drill]\nservice_time = 120\n\
         [[service]]\nname = \"hardserver\"\ncgroup = \"{}\"\nsocket = \"{}.service\"\n\
         card = \"{}\"\nkernel_memory_max = \"32MiB\"\n\
         [[service]]\nname = \"web\"\npid_file = \"{}\"\nmemory_max = \"64MiB\"\n",
        of_service.path(),
        socket.display(),
        stage.card(),
        stage.path("web.pid").display()
    );
    let mut monitor = stage.monitor(&config)?;
    monitor.arg("--json");
    stage.start("cardmon", monitor)?;
    println!(
        "card, owner, service, web server and cardmon run; the card is pulled in a minute, and the \
         rest takes three"
    );
    stage.wait(PATIENCE, "a leak and its victim", |stage| {
        let status = stage.status();
        Ok(status.filter(|it| leaks(it) && victim(it).is_some()))
    })?;
    // What belongs to it is told within a few polls, the reason with the end of an epoch.
    pause(Duration::from_secs(10));
    transcript(stage)?;
    let last = stage.status().context("cardmon answers no more")?;
    drop(web);
    judge(&stage.polls()?, &last)
}

/// What an operator would ask, and what is answered.
fn transcript(stage: &Stage) -> anyhow::Result<()> {
    let card = stage.card();
    stage.ask(&["status"])?;
    stage.ask(&["leaks", "--explain"])?;
    stage.ask(&["incidents"])?;
    stage.ask(&["diagnose", "hardserver"])?;
    stage.ask(&["diagnose", &card])?;
    let polls = stage.polls()?;
    let silence = silence(&polls).context("no poll says that the card was away")?;
    stage.ask_record(&["explain", "--gap", &silence])?;
    let bundle = stage.path("report");
    stage.ask_record(&[
        "report",
        &card,
        "--telemetry",
        &stage.path("pages").to_string_lossy(),
        "--out",
        &bundle.to_string_lossy(),
    ])?;
    Ok(())
}

/// The first half minute of the card's absence.
fn silence(polls: &[Value]) -> Option<String> {
    let seconds = polls.last()?.pointer("/cards/0/for_seconds")?.as_f64()?;
    let ago = |seconds: f64| {
        let when = format!("{seconds:.0} seconds ago");
        let time = crate::process::output(program("date").args(["-u", "-d", &when, "+%FT%TZ"]));
        Some(time.ok()?.trim().to_owned())
    };
    Some(format!("{}..{}", ago(seconds)?, ago(seconds - 30.0)?))
}

fn service<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let mut services = list(status, "/services").iter();
    services.find(|it| text(it, "/service") == name)
}

/// Whether the card's service is said to leak, and to do so while the card is away.
fn leaks(status: &Value) -> bool {
    service(status, "hardserver").is_some_and(|it| text(it, "/cause") == "service-leak")
}

/// The incident of the leak in which the web server is a victim, if there is one.
fn victim(status: &Value) -> Option<&Value> {
    let is_web = |victim: &Value| text(victim, "/process").starts_with("web");
    list(status, "/incidents").iter().find(|incident| {
        text(incident, "/cause") == "service-leak" && list(incident, "/victims").iter().any(is_web)
    })
}

fn judge(polls: &[Value], last: &Value) -> anyhow::Result<()> {
    let pulled = polls
        .iter()
        .position(|it| text(it, "/cards/0/state") == "unreachable")
        .context("the card was never said to be unreachable")?;
    let (before, after) = polls.split_at(pulled);
    let light = |poll: &Value| list(poll, "/cards/0/codes").iter().any(|code| code == 19);
    expect(
        "the light is read as at fault before the card is pulled",
        before.iter().any(light),
    )?;
    expect(
        "nothing is said to leak before that",
        !before.iter().any(leaks),
    )?;
    expect(
        "the card is away when it is over",
        text(last, "/cards/0/state") == "unreachable",
    )?;
    let hardserver = service(last, "hardserver").context("the service is not watched")?;
    let kernel = list(hardserver, "/leaks").iter();
    let kernel = kernel
        .clone()
        .find(|it| text(it, "/resource") == "kernel-memory");
    let kernel = kernel.context("kernel memory is not watched")?;
    let level = text(kernel, "/level");
    expect(
        "kernel memory is what leaks",
        level == "leaking" || level == "page",
    )?;
    let each = kernel.pointer("/per_hour_absent").and_then(Value::as_f64);
    expect(
        "it grows while the card is away",
        each.is_some_and(|each| each > 0.0),
    )?;
    expect(
        "it began when the card went away",
        kernel.pointer("/began_as_card_went") == Some(&Value::Bool(true)),
    )?;
    expect(
        "whose fault it is: the service's",
        text(hardserver, "/cause") == "service-leak",
    )?;
    let incident = victim(last).context("the web server is no victim")?;
    println!("  as it should be: the web server is a victim of that");
    expect(
        "what to do at once is told",
        !matches!(text(incident, "/at_once"), "" | "IGNORE"),
    )?;
    let blamed = |poll: &Value| {
        service(poll, "web").is_some_and(|it| text(it, "/cause") == "service-leak")
            || list(poll, "/incidents").iter().any(|incident| {
                let symptoms = list(incident, "/symptoms").iter();
                text(incident, "/cause") == "service-leak"
                    && symptoms.clone().any(|it| text(it, "/subject") == "web")
            })
    };
    expect(
        "the web server is never the culprit",
        !after.iter().any(blamed),
    )
}

/// Starts the web server anew whenever it has ended, as a supervisor does, until it is dropped.
#[derive(Debug)]
struct Supervisor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    fn start(group: &Group, pid_file: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut python = Command::new("python3");
        python.args(["-c", WEB_SERVER]);
        let web = group.within(&python);
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || supervise(web, &pid_file, &told));
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn supervise(mut web: Command, pid_file: &std::path::Path, stop: &AtomicBool) {
    let web = web.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running: Option<Child> = None;
    while !stop.load(Ordering::Relaxed) {
        let has_ended = running
            .as_mut()
            .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if has_ended {
            if running.is_some() {
                pause(RESTART);
            }
            running = web.spawn().ok();
            if let Some(child) = &running {
                // A monitor that finds no number here says so.
                let _ = fs::write(pid_file, format!("{}\n", child.id()));
            }
        }
        pause(Duration::from_millis(100));
    }
    if let Some(mut child) = running {
        let _ = child.kill();
        let _ = child.wait();
    }
}
