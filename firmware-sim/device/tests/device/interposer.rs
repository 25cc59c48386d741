//! What an interposer can do to everything that passes by it.

use crate::card::{InProcess, card};
use crate::driver::{DATA_QUEUE, Driver, cipher_data, used};
use card_device::Card;
use card_device::interposer::{Answered, Delivery, Hands, Interposer, Place, When};
use card_spec::crypto::Status;
use card_spec::health::{LED_EDGES_MAX, LedEdge, SUMMARY_LEN, Summary, register};
use card_spec::virtio_pci::common;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

const SECOND: Duration = Duration::from_secs(1);
const SOURCE: [u8; 16] = [3; 16];

/// Something to do with the card's hands at the next tick.
type Act = Box<dyn FnOnce(&mut Hands<'_>) + Send>;

/// What the interposer is to do.
struct Orders {
    firmware_runs: bool,
    firmware_beats: bool,
    admitted: usize,
    delivery: Delivery,
    interrupts: u32,
    all_ones: bool,
    writes_pass: bool,
    act: Option<Act>,
    resets: Vec<bool>,
    answers: Vec<Answered>,
}

#[derive(Clone)]
struct Puppet(Arc<Mutex<Orders>>);

impl std::fmt::Debug for Puppet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Puppet")
    }
}

impl Puppet {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Orders {
            firmware_runs: true,
            firmware_beats: true,
            admitted: usize::MAX,
            delivery: Delivery::HONEST,
            interrupts: 1,
            all_ones: false,
            writes_pass: true,
            act: None,
            resets: Vec::new(),
            answers: Vec::new(),
        })))
    }

    fn order<T>(&self, order: impl FnOnce(&mut Orders) -> T) -> T {
        order(&mut self.0.lock().unwrap())
    }

    fn act(&self, act: impl FnOnce(&mut Hands<'_>) + Send + 'static) {
        self.order(|orders| orders.act = Some(Box::new(act)));
    }
}

impl Interposer for Puppet {
    fn tick(&mut self, _now: Duration, hands: &mut Hands<'_>) {
        let act = self.order(|orders| orders.act.take());
        if let Some(act) = act {
            act(hands);
        }
    }

    fn firmware_runs(&self) -> bool {
        self.order(|orders| orders.firmware_runs)
    }

    fn firmware_beats(&self) -> bool {
        self.firmware_runs() && self.order(|orders| orders.firmware_beats)
    }

    fn admit(&mut self, waiting: usize) -> usize {
        self.order(|orders| waiting.min(orders.admitted))
    }

    fn read(&mut self, _place: Place, _offset: u64, buf: &mut [u8]) {
        if self.order(|orders| orders.all_ones) {
            buf.fill(0xff);
        }
    }

    fn write(&mut self, _place: Place, _offset: u64, _bytes: &[u8]) -> bool {
        self.order(|orders| orders.writes_pass)
    }

    fn reset(&mut self, by_function: bool) {
        self.order(|orders| orders.resets.push(by_function));
    }

    fn deliver(&mut self, _now: Duration, answer: &Answered) -> Delivery {
        self.order(|orders| {
            orders.answers.push(*answer);
            if answer.is_control {
                Delivery::HONEST
            } else {
                orders.delivery
            }
        })
    }

    fn interrupt(&mut self, _vector: u16) -> u32 {
        self.order(|orders| orders.interrupts)
    }
}

/// A driver with a session, on a card that a puppet stands before.
struct Setup {
    driver: Driver<InProcess>,
    puppet: Puppet,
    session: u64,
}

impl Setup {
    fn new() -> Self {
        let puppet = Puppet::new();
        let mut card = card();
        card.interpose(Box::new(puppet.clone()));
        card.tick(Duration::ZERO);
        let mut driver = Driver::start(InProcess(card));
        let (status, session) = driver.open_session(&[7; 16]);
        assert_eq!(status, Status::OK);
        Self {
            driver,
            puppet,
            session,
        }
    }

    fn card(&mut self) -> &mut Card {
        &mut self.driver.bus.0
    }

    fn submit(&mut self) {
        let data = cipher_data(self.session, 16, 16);
        self.driver
            .submit(DATA_QUEUE, &[data.as_bytes(), &[0; 16], &SOURCE], &[17]);
        self.card().process();
    }

    fn completed(&mut self) -> Option<(u32, u32)> {
        let element = self.driver.completed(DATA_QUEUE)?;
        Some((element.id.get(), element.len.get()))
    }
}

#[test]
fn an_answer_may_come_late_and_is_the_right_one_then() {
    let mut setup = Setup::new();
    setup
        .puppet
        .order(|orders| orders.delivery.when = When::At(2 * SECOND));
    setup.submit();
    assert_eq!(setup.completed(), None);
    assert_eq!(
        setup.card().until_next_tick(2 * SECOND - SECOND / 8),
        SECOND / 8
    );
    setup.card().tick(2 * SECOND - SECOND / 8);
    assert_eq!(setup.completed(), None);
    setup.card().tick(2 * SECOND);
    let (_, written) = setup.completed().unwrap();
    assert_eq!(written, 17);
}

#[test]
fn answers_that_are_held_up_come_in_the_order_they_are_due() {
    let mut setup = Setup::new();
    for due in [3, 1, 2] {
        setup
            .puppet
            .order(|orders| orders.delivery.when = When::At(due * SECOND));
        setup.submit();
    }
    setup.card().tick(3 * SECOND);
    let heads: Vec<_> = std::iter::from_fn(|| setup.completed())
        .map(|(id, _)| id)
        .collect();
    let answers = setup.puppet.order(|orders| orders.answers.clone());
    let submitted: Vec<_> = answers
        .iter()
        .filter(|it| !it.is_control)
        .map(|it| u32::from(it.head))
        .collect();
    assert_eq!(heads, [submitted[1], submitted[2], submitted[0]]);
}

#[test]
fn an_answer_that_is_held_up_does_not_outlive_a_reset() {
    let mut setup = Setup::new();
    setup
        .puppet
        .order(|orders| orders.delivery.when = When::At(SECOND));
    setup.submit();
    setup.driver.write_common(common::DEVICE_STATUS, &[0]);
    assert_eq!(
        setup.puppet.order(|orders| orders.resets.clone()),
        [false, false]
    );
    setup.driver.bring_up();
    setup.card().tick(2 * SECOND);
    let index = setup.driver.read(used(DATA_QUEUE) + 2, 2);
    assert_eq!(index, [0, 0]);
}

#[test]
fn answers_may_be_lost_doubled_renamed_and_of_any_length() {
    let mut setup = Setup::new();
    setup
        .puppet
        .order(|orders| orders.delivery.when = When::Never);
    setup.submit();
    assert_eq!(setup.completed(), None);

    setup.puppet.order(|orders| {
        orders.delivery = Delivery {
            copies: 2,
            head: Some(60_000),
            written: Some(4_000_000),
            ..Delivery::HONEST
        };
    });
    setup.submit();
    assert_eq!(setup.completed(), Some((60_000, 4_000_000)));
    assert_eq!(setup.completed(), Some((60_000, 4_000_000)));
    assert_eq!(setup.completed(), None);
}

#[test]
fn firmware_that_does_not_run_neither_beats_nor_works_and_goes_on_later() {
    let mut setup = Setup::new();
    setup.card().tick(SECOND);
    let beats = setup.driver.health(register::HEARTBEAT_COUNT);
    setup.puppet.order(|orders| orders.firmware_runs = false);
    setup.card().tick(5 * SECOND);
    setup.submit();
    assert_eq!((setup.card().pending(), setup.completed()), (0, None));
    assert_eq!(setup.driver.health(register::HEARTBEAT_COUNT), beats);
    setup.puppet.order(|orders| orders.firmware_runs = true);
    setup.card().tick(6 * SECOND);
    assert!(
        setup.card().take_doorbell(),
        "there is work, and nobody rings again"
    );
    assert_eq!(setup.card().process(), 1);
    assert!(setup.driver.health(register::HEARTBEAT_COUNT) > beats);
}

#[test]
fn requests_that_are_not_admitted_wait() {
    let mut setup = Setup::new();
    setup.puppet.order(|orders| orders.admitted = 0);
    setup.submit();
    assert_eq!(setup.completed(), None);
    setup.puppet.order(|orders| orders.admitted = 1);
    assert_eq!(setup.card().process(), 1);
    assert!(setup.completed().is_some());
}

#[test]
fn registers_read_and_take_what_the_interposer_lets_through() {
    let mut setup = Setup::new();
    setup
        .puppet
        .order(|orders| (orders.all_ones, orders.writes_pass) = (true, false));
    assert_eq!(setup.driver.device_status(), 0xff);
    setup.driver.write_common(common::DEVICE_STATUS, &[0]);
    let mut vendor = [0; 2];
    setup.card().read_config(0, &mut vendor);
    assert_eq!(vendor, [0xff; 2]);
    setup
        .puppet
        .order(|orders| (orders.all_ones, orders.writes_pass) = (false, true));
    assert_ne!(setup.driver.device_status(), 0, "the reset got through");
}

#[test]
fn firmware_that_restarts_forgets_everything_but_what_the_host_has_set_up() {
    let mut setup = Setup::new();
    setup.card().tick(10 * SECOND);
    setup.puppet.act(|hands| hands.restart(77));
    setup.card().tick(11 * SECOND);
    assert_eq!(setup.driver.device_status(), 0);
    assert_eq!(setup.driver.health(register::BOOT_ID), 77);
    setup.card().tick(12 * SECOND);
    assert_eq!(setup.driver.health(register::HEARTBEAT_COUNT), 0);
    setup.card().tick(13 * SECOND);
    assert_eq!(setup.driver.health(register::HEARTBEAT_COUNT), 2);
    setup.driver.bring_up();
    assert_eq!(
        setup.driver.encrypt(setup.session, &SOURCE).0,
        Status::INVSESS
    );
    let (status, session) = setup.driver.open_session(&[7; 16]);
    assert_eq!(status, Status::OK);
    assert_eq!(setup.driver.encrypt(session, &SOURCE).0, Status::OK);
}

#[test]
fn hands_reach_what_only_firmware_reaches() {
    let mut setup = Setup::new();
    setup.puppet.act(|hands| {
        hands.health().composite_temperature_k = 400.into();
        hands.configuration()[0x40] = 0xaa;
        hands.log("overheated", 0);
        let (iova, len) = hands.writable_memory()[0];
        hands.write_memory(iova + len - 2, &[0xab, 0xcd]).unwrap();
        hands.write_memory(iova + len, &[0]).unwrap_err();
        assert!(hands.give(DATA_QUEUE, 9, 99));
        assert!(!hands.give(7, 9, 99));
        hands.forget_sessions();
    });
    setup.card().tick(SECOND);
    assert_eq!(setup.driver.health(0x80) >> 16, 400);
    let mut byte = [0];
    setup.card().read_config(0x40, &mut byte);
    assert_eq!(byte, [0xaa]);
    assert_eq!(
        setup.driver.read(crate::driver::MEMORY_LEN - 2, 2),
        [0xab, 0xcd]
    );
    assert_eq!(setup.completed(), Some((9, 99)));
    assert_eq!(
        setup.driver.encrypt(setup.session, &SOURCE).0,
        Status::INVSESS
    );
    setup.puppet.act(|hands| hands.ask_for_reset());
    setup.card().tick(2 * SECOND);
    assert!(setup.driver.needs_reset());
}

#[test]
fn beats_that_are_missed_are_not_made_up_for() {
    let mut setup = Setup::new();
    setup.card().tick(SECOND);
    setup.puppet.order(|orders| orders.firmware_beats = false);
    for seconds in 2..10 {
        setup.card().tick(seconds * SECOND);
        assert_eq!(setup.driver.health(register::HEARTBEAT_COUNT), 2);
    }
    setup.submit();
    assert!(setup.completed().is_some(), "work goes on");
    setup.puppet.order(|orders| orders.firmware_beats = true);
    setup.card().tick(10 * SECOND);
    assert_eq!(setup.driver.health(register::HEARTBEAT_COUNT), 4);
}

#[test]
fn what_firmware_has_not_answered_when_it_stops_it_answers_when_it_goes_on() {
    let mut setup = Setup::new();
    setup
        .puppet
        .order(|orders| orders.delivery.when = When::At(SECOND));
    setup.submit();
    setup.puppet.order(|orders| orders.firmware_runs = false);
    setup.card().tick(2 * SECOND);
    assert_eq!(setup.completed(), None);
    setup.puppet.order(|orders| orders.firmware_runs = true);
    setup.card().tick(3 * SECOND);
    assert!(setup.completed().is_some());
}

#[test]
fn a_card_out_of_its_slot_is_nothing_and_begins_anew_when_it_is_back() {
    let mut setup = Setup::new();
    setup.card().tick(10 * SECOND);
    setup.puppet.act(|hands| hands.remove());
    setup.card().tick(11 * SECOND);
    assert!(!setup.card().is_present());
    setup.submit();
    let mut configuration = [0; 64];
    setup.card().read_config(0, &mut configuration);
    assert_eq!(configuration, [0xff; 64]);
    assert_eq!(setup.driver.health(0), u32::MAX);
    setup.puppet.act(|hands| hands.insert(5));
    setup.card().tick(12 * SECOND);
    assert!(setup.card().is_present());
    assert_eq!(setup.card().power_cycles(), 2);
    assert_eq!(setup.driver.health(register::BOOT_ID), 5);
    assert_eq!(setup.driver.device_status(), 0);
    assert_eq!(
        setup.card().unmap_all(),
        0,
        "what it was lent is not its any more"
    );
}

#[test]
fn edges_of_the_light_are_logged_with_their_times() {
    let mut setup = Setup::new();
    let edges = |setup: &mut Setup| {
        let mut page = [0; SUMMARY_LEN];
        setup.card().read_bar(Card::health_bar(), 0, &mut page);
        let summary = Summary::read_from_bytes(&page).unwrap();
        let edges: Vec<_> = summary.led_edges().collect();
        (summary.led_edge_count.get(), edges)
    };
    setup.puppet.act(|hands| {
        for (seconds, lit) in [(1, true), (1, false), (2, false), (3, true)] {
            hands.light(seconds * SECOND, lit);
        }
    });
    setup.card().tick(4 * SECOND);
    let edge = |uptime_ms, lit| LedEdge::new().with_uptime_ms(uptime_ms).with_lit(lit);
    let (count, log) = edges(&mut setup);
    let bits: Vec<_> = log.iter().map(|edge| edge.into_bits()).collect();
    let expected = [edge(1000, false), edge(3000, true)].map(LedEdge::into_bits);
    assert_eq!(
        (count, &bits[..]),
        (2, &expected[..]),
        "what is no change is no edge"
    );
    setup.puppet.act(|hands| {
        for index in 0..40 {
            hands.light(5 * SECOND, index % 2 == 1);
        }
    });
    setup.card().tick(5 * SECOND);
    let (count, log) = edges(&mut setup);
    assert_eq!((count, log.len()), (42, LED_EDGES_MAX));
    assert!(log.iter().all(|edge| edge.uptime_ms() == 5000));
    setup.puppet.act(|hands| hands.restart(9));
    setup.card().tick(6 * SECOND);
    assert_eq!(
        edges(&mut setup).0,
        0,
        "its times were of the uptime before"
    );
}
