//! QAT cards, which Intel's kernel driver owns: no owner publishes a page of them, so the driver is asked.
//!
//! They are found by the module of their driver, once a minute. Each is looked at on a thread of its
//! own, more rarely than any period of its heartbeat; [`QatProbe`] keeps to that period besides.
//!
//! ```text
//!                       the driver has asked, and the firmware gave no sign
//!   ALIVE or NOT KNOWN ----------------------------------------------------> UNRESPONSIVE
//!                      <----------------------------------------------------
//!                         it gave one; that it was not asked changes nothing
//! ```

use super::at_function::AtFunction;
use super::function_cards::{Besides, FunctionCard};
use super::qat_counters::{FROZEN_LOOKS, QatCounters};
use crate::attribution::{Counter, Kind, RecentChanges};
use crate::diagnosis::function::Told;
use crate::probe::{EngineCounters, ProbeError, Qat, QatHeartbeat, QatProbe};
use crate::status::{FunctionFigures, QatFigures};
use crate::verdict::{Cause, Evidence};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where the kernel lists functions.
const DEVICES: &str = "sys/bus/pci/devices";
/// Time between two searches for cards.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two looks: ten of the driver's periods, unless somebody has made those longer.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Time that such a look may take: a question to firmware that hangs ends after a second or two.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// The driver finds its firmware dead when it has looked so often (`ADF_CFG_HB_COUNT_THRESHOLD`).
const UNMOVED_POLLS: u32 = 3;
/// Cards of a host that are looked at; the largest servers have eight.
const CARDS_MAX: usize = 32;

/// The QAT cards of this host.
#[derive(Debug, Default)]
pub(super) struct QatCards {
    searched_at: Option<Instant>,
    cards: BTreeMap<Bdf, QatCard>,
}

#[derive(Debug)]
struct QatCard {
    module: String,
    probe: AtFunction<QatProbe>,
    /// It as any other function: its link, and whether it is there at all.
    function: FunctionCard,
    counters: QatCounters,
    /// Whether the driver last found signs of life, and since when it has found that.
    is_alive: Option<(bool, Instant)>,
}

impl QatCards {
    /// Looks at every card, in the order of their addresses.
    pub(super) fn poll(
        &mut self,
        root: &Path,
        changes: &RecentChanges,
        now: Instant,
    ) -> Vec<QatFigures> {
        let is_due = |at: Instant| now.since(at) >= SEARCH_INTERVAL;
        if self.searched_at.is_none_or(is_due) {
            self.searched_at = Some(now);
            self.search(root, now);
        }
        let cards = self.cards.iter_mut();
        let look = |(&bdf, card): (&Bdf, &mut QatCard)| card.poll(bdf, root, changes, now);
        cards.filter_map(look).collect()
    }

    /// One that another driver has now, or none, is somebody else's. One that has gone is nobody's, and
    /// somebody has to say so.
    fn search(&mut self, root: &Path, now: Instant) {
        let mut found = find(root);
        self.cards.retain(|bdf, card| match found.remove(bdf) {
            Some(module) => module == card.module,
            None => !root.join(DEVICES).join(bdf.to_string()).exists(),
        });
        for (bdf, module) in found {
            if self.cards.len() < CARDS_MAX {
                let new = || QatCard::new(bdf, module, now);
                self.cards.entry(bdf).or_insert_with(new);
            }
        }
    }

    #[cfg(test)]
    fn wait(&self) {
        for card in self.cards.values() {
            assert!(card.probe.wait(Duration::from_secs(60)));
            card.function.wait();
        }
    }
}

impl QatCard {
    fn new(bdf: Bdf, module: String, now: Instant) -> Self {
        Self {
            module,
            probe: AtFunction::new(QatProbe::new, LOOK_INTERVAL, LOOK_TIMEOUT),
            function: FunctionCard::new(bdf, now),
            counters: QatCounters::new(LOOK_INTERVAL),
            is_alive: None,
        }
    }

    /// `None` before the first look has ended.
    fn poll(
        &mut self,
        bdf: Bdf,
        root: &Path,
        changes: &RecentChanges,
        now: Instant,
    ) -> Option<QatFigures> {
        let seen = self.probe.poll(bdf, root, now);
        let besides = seen.as_ref().map(|seen| self.judge(seen, now));
        let besides = besides.unwrap_or_default();
        let function = self.function.poll(besides, root, changes, now);
        Some(self.figures(function, seen?.as_ref().as_ref().ok()))
    }

    /// What its driver tells.
    fn judge(&mut self, look: &Arc<Result<Qat, ProbeError>>, now: Instant) -> Besides {
        let seen = look.as_ref().as_ref();
        let heartbeat = seen.map(|qat| qat.heartbeat.as_ref());
        let heartbeat = heartbeat.unwrap_or_else(Err);
        // Whoever has stopped a device expects no sign of life of it.
        let is_down = seen.is_ok_and(|qat| qat.state.as_ref().is_ok_and(|it| it == "down"));
        self.hear(heartbeat.ok().copied().filter(|_| !is_down), now);
        let dossier = self.function.dossier();
        self.counters.take(look, is_down, now, dossier);
        if is_down {
            dossier.not_seen(Kind::CounterFrozen, "somebody has stopped the device", now);
        }
        let moves = self.weigh_heartbeat(now);
        Besides {
            counter: self.weigh_engines(now).unwrap_or(moves),
            told: self.unresponsive(now).or_else(|| self.engine_frozen()),
            noted: heartbeat.err().and_then(unseen).into_iter().collect(),
        }
    }

    /// That the firmware gives no sign of life, if it does not.
    fn unresponsive(&self, now: Instant) -> Option<Told> {
        let (_, since) = self.is_alive.filter(|(is_alive, _)| !is_alive)?;
        let seconds = now.since(since).as_secs();
        Some(Told {
            cause: Cause::Card,
            kind: Kind::CounterFrozen,
            evidence: Evidence {
                code: "heartbeat-frozen".into(),
                detail: format!(
                    "its driver has asked the firmware, which has given no sign of life for {seconds} s"
                ),
            },
        })
    }

    /// That an engine owes answers and gives none, if one does, though the firmware may give signs of life.
    fn engine_frozen(&self) -> Option<Told> {
        let engine = self.counters.frozen().next()?;
        Some(Told {
            cause: Cause::Card,
            kind: Kind::CounterFrozen,
            evidence: Evidence {
                code: "engine-frozen".into(),
                detail: format!(
                    "engine {} has answered {} of {} requests and no more, in {FROZEN_LOOKS} looks on time",
                    engine.engine, engine.responses, engine.requests
                ),
            },
        })
    }

    fn weigh_engines(&mut self, now: Instant) -> Option<Counter> {
        let engines = self.counters.frozen().count();
        let dossier = self.function.dossier();
        if engines > 0 {
            let detail = format!("{engines} of its engines owe answers and give none");
            dossier.seen(Kind::CounterFrozen, 1.0, detail, now);
            return Some(Counter::Still {
                polls: FROZEN_LOOKS,
            });
        }
        let is_silent = self.is_alive.is_some_and(|(is_alive, _)| !is_alive);
        if self.counters.are_counted() && !is_silent {
            let detail = "no engine owes answers that it does not give";
            dossier.not_seen(Kind::CounterFrozen, detail, now);
        }
        None
    }

    fn weigh_heartbeat(&mut self, now: Instant) -> Counter {
        let dossier = self.function.dossier();
        match self.is_alive {
            Some((true, _)) => {
                dossier.counter_moved("its firmware gives signs of life", now);
                Counter::Moved
            }
            Some((false, _)) => {
                let detail = "its firmware gives no sign of life when its driver asks";
                dossier.seen(Kind::CounterFrozen, 1.0, detail, now);
                Counter::Still {
                    polls: UNMOVED_POLLS,
                }
            }
            None => Counter::Unread,
        }
    }

    /// `None` is a heartbeat that could not be seen: then it is not known any more either.
    fn hear(&mut self, heartbeat: Option<QatHeartbeat>, now: Instant) {
        let is_alive = match heartbeat {
            Some(QatHeartbeat::Alive) => true,
            Some(QatHeartbeat::Unresponsive) => false,
            // Who was not asked says nothing; what was believed is believed still.
            Some(QatHeartbeat::NotAsked(_)) => return,
            None => {
                self.is_alive = None;
                return;
            }
        };
        if self.is_alive.is_none_or(|(before, _)| before != is_alive) {
            self.is_alive = Some((is_alive, now));
        }
    }

    fn figures(&self, function: FunctionFigures, qat: Option<&Qat>) -> QatFigures {
        let count = |of: fn(&Qat) -> &Result<u64, ProbeError>| of(qat?).as_ref().ok().copied();
        let queries = |of: fn(&Qat) -> &Result<u32, ProbeError>| {
            of(qat?).as_ref().ok().map(|&count| u64::from(count))
        };
        let engines = qat.and_then(|qat| qat.engines.as_ref().ok());
        let sum = |of: fn(&EngineCounters) -> u64| {
            let counts = engines?.iter().map(of);
            Some(counts.fold(0, u64::saturating_add))
        };
        QatFigures {
            function,
            module: self.module.clone(),
            state: qat.and_then(|qat| qat.state.as_ref().ok().cloned()),
            responds: self.is_alive.map(|(is_alive, _)| is_alive),
            queries_sent: queries(|qat| &qat.queries_sent),
            queries_failed: queries(|qat| &qat.queries_failed),
            requests: sum(|engine| engine.requests),
            responses: sum(|engine| engine.responses),
            frozen_engines: self.counters.frozen().map(|it| it.engine).collect(),
            errors_correctable: count(|qat| &qat.errors_correctable),
            errors_nonfatal: count(|qat| &qat.errors_nonfatal),
            errors_fatal: count(|qat| &qat.errors_fatal),
        }
    }
}

/// Why nothing is known of a heartbeat, and what to do about it. That there is none is no news: old
/// drivers have none, and debugfs need not be mounted.
fn unseen(error: &ProbeError) -> Option<Evidence> {
    let detail = match error {
        ProbeError::Absent { .. } => return None,
        ProbeError::Unreadable { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            format!(
                "{error}: its heartbeat is for root, or for who has CAP_DAC_READ_SEARCH \
                 (AmbientCapabilities= in the unit)"
            )
        }
        _ => error.to_string(),
    };
    Some(Evidence {
        code: "heartbeat-unread".into(),
        detail,
    })
}

/// The functions that a QAT driver has, and its module. Virtual functions have no heartbeat.
fn find(root: &Path) -> BTreeMap<Bdf, String> {
    let Ok(entries) = fs::read_dir(root.join(DEVICES)) else {
        return BTreeMap::new();
    };
    let entries = entries.filter_map(Result::ok);
    let found = entries.filter_map(|entry| {
        let bdf = entry.file_name().to_str()?.parse().ok()?;
        let module = fs::read_link(entry.path().join("driver/module")).ok()?;
        let module = module.file_name()?.to_str()?;
        let is_qat = module.starts_with("qat_") && !module.ends_with("vf");
        is_qat.then(|| (bdf, module.to_owned()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    const DEBUG: &str = "sys/kernel/debug/qat_4xxx_0000:6b:00.0";

    fn write(tree: &TempDir, path: &str, content: &str) {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A function of `module`, as the kernel links to it.
    fn function(tree: &TempDir, bdf: &str, module: &str) {
        let device = tree.path().join(DEVICES).join(bdf);
        let driver = tree.path().join("sys/bus/pci/drivers").join(module);
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&driver).unwrap();
        let _ = symlink(
            format!("../../../../module/{module}"),
            driver.join("module"),
        );
        symlink(&driver, device.join("driver")).unwrap();
    }

    /// A host with a QAT card, one of its virtual functions, and something else.
    fn host() -> TempDir {
        let tree = tempfile::tempdir().unwrap();
        function(&tree, "0000:6b:00.0", "qat_4xxx");
        function(&tree, "0000:6b:00.1", "qat_4xxxvf");
        function(&tree, "0000:00:1f.6", "e1000e");
        for (file, content) in [
            ("heartbeat/status", "0\n"),
            ("heartbeat/queries_sent", "41\n"),
            ("heartbeat/queries_failed", "2\n"),
            ("heartbeat/config", "500\n"),
            (
                "fw_counters",
                "AE          Requests        Responses\n 0:  12  11\n 1:  7  7\n",
            ),
        ] {
            write(&tree, &format!("{DEBUG}/{file}"), content);
        }
        write(&tree, "sys/bus/pci/devices/0000:6b:00.0/qat/state", "up\n");
        let fatal = "sys/bus/pci/devices/0000:6b:00.0/qat_ras/errors_fatal";
        write(&tree, fatal, "1\n");
        tree
    }

    fn look(cards: &mut QatCards, root: &Path, seconds: u64) -> Vec<QatFigures> {
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        let changes = RecentChanges::default();
        cards.poll(root, &changes, at(seconds));
        cards.wait();
        cards.poll(root, &changes, at(seconds + 1))
    }

    #[test]
    fn cards_of_a_qat_driver_are_found_and_shown_with_their_counters() {
        let tree = host();
        let mut cards = QatCards::default();
        let [card] = &look(&mut cards, tree.path(), 0)[..] else {
            panic!("one card: {cards:?}");
        };
        assert_eq!(
            (&*card.function.card, &*card.module),
            ("pci:0000:6b:00.0", "qat_4xxx")
        );
        assert_eq!(card.state.as_deref(), Some("up"));
        // Nothing moves in a tree: the driver was not asked, which says nothing.
        assert_eq!((card.responds, card.function.cause), (None, Cause::None));
        assert_eq!(
            (card.queries_sent, card.queries_failed),
            (Some(41), Some(2))
        );
        assert_eq!((card.requests, card.responses), (Some(19), Some(18)));
        assert_eq!((card.errors_fatal, card.errors_nonfatal), (Some(1), None));
        assert!(card.function.evidence.is_empty(), "{card:?}");
        // Another driver has it now, or none.
        let device = tree.path().join(DEVICES).join("0000:6b:00.0");
        fs::remove_file(device.join("driver")).unwrap();
        assert_eq!(look(&mut cards, tree.path(), 61).len(), 0);
    }

    #[test]
    fn a_card_that_is_pulled_out_is_absent_until_it_is_back() {
        let tree = host();
        let mut cards = QatCards::default();
        look(&mut cards, tree.path(), 0);
        fs::remove_dir_all(tree.path().join(DEVICES)).unwrap();
        // Found missing by a look, and still said so after the next search.
        for seconds in [10, 100] {
            let card = look(&mut cards, tree.path(), seconds).remove(0);
            assert_eq!(card.function.cause, Cause::CardAbsent, "{card:?}");
            assert_eq!(card.function.evidence[0].code, "gone");
            assert_eq!((card.responds, &card.function.link), (None, &None));
            let card = [card];
            let facts = super::super::facts_of_all(&[], &card, &[]);
            assert!(facts.values().all(|it| it.absent) && facts.len() == 1);
        }
        function(&tree, "0000:6b:00.0", "qat_4xxx");
        let card = look(&mut cards, tree.path(), 200).remove(0);
        assert_eq!(card.function.cause, Cause::None, "{card:?}");
    }

    #[test]
    fn a_driver_that_finds_no_sign_of_life_speaks_against_the_card_until_it_finds_one() {
        let bdf = "0000:6b:00.0".parse().unwrap();
        let mut card = QatCard::new(bdf, "qat_4xxx".to_owned(), Instant::ORIGIN);
        let changes = RecentChanges::default();
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        let not_asked = Some(QatHeartbeat::NotAsked(crate::probe::NotAsked::ByDriver));
        let hears = [
            (not_asked, None),
            (Some(QatHeartbeat::Unresponsive), Some((false, at(1)))),
            (not_asked, Some((false, at(1)))),
            (Some(QatHeartbeat::Unresponsive), Some((false, at(1)))),
            (Some(QatHeartbeat::Alive), Some((true, at(4)))),
            (None, None),
        ];
        for (second, (heartbeat, is_alive)) in (0..).zip(hears) {
            card.hear(heartbeat, at(second));
            assert_eq!(card.is_alive, is_alive, "after {heartbeat:?}");
        }
        // What is believed is shown, with its code.
        let tree = host();
        card.hear(Some(QatHeartbeat::Unresponsive), at(9));
        card.poll(bdf, tree.path(), &changes, at(9));
        card.probe.wait(Duration::from_secs(60));
        let shown = card.poll(bdf, tree.path(), &changes, at(12)).unwrap();
        assert_eq!(
            (shown.responds, shown.function.cause),
            (Some(false), Cause::Card)
        );
        assert_eq!(shown.function.codes, [18]);
        assert!(
            shown.function.evidence[0].detail.ends_with("for 3 s"),
            "{shown:?}"
        );
        let state = format!("{DEVICES}/0000:6b:00.0/qat/state");
        write(&tree, &state, "down\n");
        card.poll(bdf, tree.path(), &changes, at(20));
        card.probe.wait(Duration::from_secs(60));
        let shown = card.poll(bdf, tree.path(), &changes, at(21)).unwrap();
        assert_eq!((shown.responds, shown.function.cause), (None, Cause::None));
    }

    #[test]
    fn a_card_is_at_fault_for_fatal_errors_that_grow_and_for_an_engine_that_owes_answers() {
        let tree = host();
        let mut cards = QatCards::default();
        let fatal = format!("{DEVICES}/0000:6b:00.0/qat_ras/errors_fatal");
        look(&mut cards, tree.path(), 0);
        write(&tree, &fatal, "2\n");
        let card = look(&mut cards, tree.path(), 10).remove(0).function;
        assert_eq!((card.cause, &card.codes[..]), (Cause::Card, &[26][..]));
        assert_eq!(card.evidence[0].code, "fatal-error");

        let tree = host();
        let mut cards = QatCards::default();
        let counters = |requests: u32| {
            let text = format!("AE x\n 0:  {requests}  11\n 1:  7  7\n");
            write(&tree, &format!("{DEBUG}/fw_counters"), &text);
        };
        look(&mut cards, tree.path(), 0);
        counters(19);
        for seconds in [6, 12] {
            let card = look(&mut cards, tree.path(), seconds).remove(0);
            assert_eq!(card.function.cause, Cause::None, "{card:?}");
        }
        let card = look(&mut cards, tree.path(), 18).remove(0);
        assert_eq!(card.frozen_engines, [0]);
        let function = &card.function;
        assert_eq!(
            (function.cause, &function.codes[..]),
            (Cause::Card, &[18][..])
        );
        let says = "engine 0 has answered 11 of 19 requests and no more, in 3 looks on time";
        assert_eq!(function.evidence[0].detail, says);
        // Who has stopped it expects no answers.
        write(
            &tree,
            &format!("{DEVICES}/0000:6b:00.0/qat/state"),
            "down\n",
        );
        let card = look(&mut cards, tree.path(), 24).remove(0);
        assert_eq!(card.function.cause, Cause::None, "{card:?}");
    }

    #[test]
    fn who_may_not_read_the_heartbeat_is_told_what_that_takes() {
        if rustix::process::geteuid().is_root() {
            let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            let error = ProbeError::Unreadable {
                path: "/sys/kernel/debug".into(),
                source: denied,
            };
            let detail = unseen(&error).unwrap().detail;
            assert!(detail.contains("CAP_DAC_READ_SEARCH"), "{detail}");
            return;
        }
        let tree = host();
        let debugfs = tree.path().join("sys/kernel/debug");
        fs::set_permissions(&debugfs, fs::Permissions::from_mode(0o0)).unwrap();
        let card = look(&mut QatCards::default(), tree.path(), 0).remove(0);
        fs::set_permissions(&debugfs, fs::Permissions::from_mode(0o700)).unwrap();
        let detail = &card.function.evidence[0].detail;
        assert!(detail.contains("CAP_DAC_READ_SEARCH"), "{detail}");
        assert_eq!(card.function.cause, Cause::None);
        assert_eq!(card.state.as_deref(), Some("up"));
    }
}
