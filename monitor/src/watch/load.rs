//! How busy a card is said to be: its service's word, told to who holds the card's light against it.
//!
//! No health page says how busy its card is, but nShield's service does. Cards whose light tells nothing
//! of that are not asked about.

use crate::attribution::Kind;
use crate::services::Services;
use crate::status::IdentityFigures;
use crate::verdict::{Evidence, Judge};
use hwshim::clock::Instant;

/// By what a service knows the card.
#[derive(Debug, Default)]
pub(super) struct SaidLoad {
    serial: Option<String>,
}

impl SaidLoad {
    /// Tells `judge` how busy the card is by the last word of its service, where that tells anything.
    pub(super) fn tell(&self, judge: &mut Judge, card: &str, services: &Services, now: Instant) {
        if judge.diagnosis().wants_load() {
            judge.hear_load(services.load_of(card, self.serial.as_deref(), now));
        }
    }

    /// Keeps the serial number that the card says it has.
    pub(super) fn is_of(&mut self, identity: Option<&IdentityFigures>) {
        let said = identity.map(|it| &it.serial).filter(|it| !it.is_empty());
        if let Some(serial) = said
            && self.serial.as_ref() != Some(serial)
        {
            self.serial = Some(serial.clone());
        }
    }
}

/// That the light contradicts what is said, for whoever would look into it: by itself it decides nothing.
pub(super) fn warning(judge: &Judge) -> Option<Evidence> {
    Some(Evidence {
        code: Kind::LightAgainstLoad.name().into(),
        detail: judge.diagnosis().contradiction()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Watch};
    use crate::led::{Agreement, Profile};
    use crate::probe::{ServiceAddress, Whereabouts};
    use crate::services::ServiceSettings;
    use crate::status::Status;
    use crate::verdict::{Cause, Limits};
    use crate::{metrics, text};
    use card_spec::health::{self, LED_EDGES_MAX, LedEdge, Summary};
    use card_spec::telemetry::{Page, padded};
    use hwshim::clock::Instant;
    use hwshim::telemetry::Publisher;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;
    use tempfile::TempDir;
    use zerocopy::{FromZeros, IntoBytes};

    const CARD: &str = "pci:0000:3b:00.0";

    /// A card with an nShield's light, the service that says how busy the card is, and who watches both.
    struct Host {
        _tree: TempDir,
        publisher: Publisher,
        health: Summary,
        page: Page,
        percent: Arc<AtomicU64>,
        watch: Watch,
        second: u64,
        booted: u64,
    }

    impl Host {
        fn new() -> Self {
            let tree = tempfile::tempdir().unwrap();
            let write = |path: &str, content: &str| {
                let path = tree.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            };
            write("pid", "7\n");
            let stat = "7 (hardserver) S 1 7 7 0 -1 0 0 0 0 0 7 5 0 0 20 0 1 0 99 4096 4 1\n";
            write("proc/7/stat", stat);
            let percent = Arc::new(AtomicU64::new(0));
            let socket = tree.path().join("socket");
            serve(UnixListener::bind(&socket).unwrap(), Arc::clone(&percent));
            let pages = tree.path().join("pages");
            let publisher = Publisher::create(&pages, CARD).unwrap();
            let mut page = Page::new();
            page.owner.address = padded(CARD);
            let mut health = Summary::new_zeroed();
            health.magic = health::MAGIC.into();
            health.version = health::VERSION.into();
            health.serial_number[..3].copy_from_slice(b"A-7");
            let process = Whereabouts::PidFile(tree.path().join("pid"));
            let watch = Watch::new(Settings {
                limits: Limits {
                    light: Some(Profile::Nshield),
                    ..Limits::default()
                },
                services: vec![ServiceSettings {
                    address: Some(ServiceAddress::Unix(socket)),
                    card: Some(CARD.to_owned()),
                    ..ServiceSettings::new("hardserver", process)
                }],
                ..Settings::of(&pages, tree.path())
            });
            let mut host = Self {
                _tree: tree,
                publisher,
                health,
                page,
                percent,
                watch,
                second: 0,
                booted: 0,
            };
            host.edge(0, true);
            host
        }

        fn edge(&mut self, uptime_ms: u64, lit: bool) {
            let count = self.health.led_edge_count.get();
            let edge = LedEdge::new()
                .with_uptime_ms(u32::try_from(uptime_ms).unwrap())
                .with_lit(lit);
            self.health.led_edges[usize::try_from(count).unwrap() % LED_EDGES_MAX] =
                edge.into_bits().into();
            self.health.led_edge_count = (count + 1).into();
        }

        /// What is shown after so many seconds in which the card is said to be so busy, and its light goes
        /// off every so many seconds.
        fn lives(&mut self, seconds: u64, percent: u64, blinks_every: u64) -> Status {
            self.percent.store(percent, Ordering::Relaxed);
            let live = |_| {
                self.second += 1;
                let uptime_ms = (self.second - self.booted) * 1_000;
                if self.second.is_multiple_of(blinks_every) {
                    self.edge(uptime_ms - 500, false);
                    self.edge(uptime_ms - 350, true);
                }
                self.health.uptime_ms = uptime_ms.into();
                self.page.card.health_reads += 1;
                self.page.health.copy_from_slice(self.health.as_bytes());
                self.publisher.publish(&self.page).unwrap();
                let now = Instant::ORIGIN.plus(Duration::from_secs(self.second));
                let status = self.watch.poll(now).status;
                assert!(self.watch.services.settle(Duration::from_secs(60)));
                status
            };
            (0..seconds).map(live).last().unwrap()
        }
    }

    /// A service that says what an nShield's does, of two cards; nothing while one is as busy as nobody
    /// can be.
    fn serve(listener: UnixListener, percent: Arc<AtomicU64>) {
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let module = |number: u32, serial: &str, percent: u64| {
                    format!(
                        "   +#{number}:\n      +ModuleEnvStats:\n         -SerialNumber {serial}\n         \
                         -CPULoadPercent {percent}\n"
                    )
                };
                let percent = percent.load(Ordering::Relaxed);
                if percent > 100 {
                    continue;
                }
                let (ours, other) = (module(1, "A-7", percent), module(2, "B-8", 100 - percent));
                let tree = format!("+PerModule:\n{ours}{other}");
                let answer = format!(
                    "ok lines 2\nServer:\n mode operational\nok lines {}\n{tree}ok bye\n",
                    tree.lines().count()
                );
                // Whoever has heard enough may hang up.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }

    fn light(status: &Status) -> Option<(f64, Agreement)> {
        let load = status.cards[0].light.as_ref()?.load?;
        Some((load.share, load.light))
    }

    #[test]
    fn a_light_that_blinks_as_busy_as_the_service_says_agrees_and_one_that_does_not_is_warned_of() {
        let mut host = Host::new();
        let status = host.lives(300, 5, 5);
        assert_eq!(light(&status), Some((0.05, Agreement::Unknown)));
        let status = Arc::new(host.lives(120, 90, 1));
        assert_eq!(light(&status), Some((0.9, Agreement::Agrees)));
        assert!(status.cards[0].warnings.is_empty(), "{status:?}");
        let metrics_of = |status: &Arc<Status>| metrics::text(status);
        let by_card = "{card=\"pci:0000:3b:00.0\"}";
        assert!(metrics_of(&status).contains(&format!("cardmon_card_load{by_card} 0.9\n")));
        let disagrees = format!("cardmon_card_light_disagrees{by_card}");
        assert!(metrics_of(&status).contains(&format!("{disagrees} 0.0\n")));

        // As busy as before, and the light has hardly anything to say any more.
        let status = Arc::new(host.lives(900, 90, 20));
        assert_eq!(light(&status), Some((0.9, Agreement::Disagrees)));
        let card = &status.cards[0];
        let codes: Vec<_> = card.warnings.iter().map(|it| &*it.code).collect();
        assert_eq!(codes, ["light-against-load"]);
        let weighed = &card.assessment.as_ref().unwrap().evidence;
        assert!(
            weighed
                .iter()
                .any(|it| it.seen && it.code == "light-against-load"),
            "{weighed:?}"
        );
        assert_ne!(card.cause, Cause::Card, "not by that alone");
        let shown = text::block(&status).join("\n");
        assert!(shown.contains("said to be 90 % busy, as which it does not blink"));
        assert!(metrics_of(&status).contains(&format!("{disagrees} 1.0\n")));
    }

    #[test]
    fn what_a_light_contradicted_is_dated_and_firmware_that_restarts_begins_anew() {
        let mut host = Host::new();
        host.lives(300, 5, 5);
        let status = host.lives(900, 90, 20);
        assert_eq!(light(&status), Some((0.9, Agreement::Disagrees)));
        let silent = host.lives(200, 101, 20);
        assert_eq!(light(&silent), None, "nobody says so any more");
        let weighed = &silent.cards[0].assessment.as_ref().unwrap().evidence;
        let of_light = weighed.iter().find(|it| it.code == "light-against-load");
        assert!(
            of_light.is_none_or(|it| it.seconds_ago > 100.0),
            "{weighed:?}"
        );

        host.booted = host.second;
        let status = host.lives(30, 90, 20);
        assert_eq!(light(&status), Some((0.9, Agreement::Unknown)));
    }

    #[test]
    fn what_a_card_does_while_its_load_changes_or_nobody_tells_it_counts_for_nothing() {
        let mut host = Host::new();
        // Ten seconds are the time from one word to the next.
        for _ in 0..40 {
            host.lives(10, 90, 20);
            host.lives(10, 5, 1);
        }
        let status = host.lives(10, 50, 1);
        assert_eq!(light(&status), Some((0.5, Agreement::Unknown)));
    }
}
