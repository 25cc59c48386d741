//! Faults between card and host.

use crate::setup::{SECOND, Setup};
use card_device::interrupt::IrqRequest;
use card_spec::health::led;
use card_spec::pci::{ExpressCapability, LinkStatus, capabilities, capability};
use card_spec::pci::{extended_capabilities, extended_capability};
use card_spec::vfio::irq;
use firmware_sim::fault::Trigger;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::time::Duration;

fn configuration(setup: &mut Setup) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    setup.card().read_config(0, &mut bytes);
    bytes
}

/// Negotiated width and current speed.
fn link(setup: &mut Setup) -> (u8, u8) {
    let bytes = configuration(setup);
    let express = capabilities(&bytes)
        .flatten()
        .find(|found| found.id == u16::from(capability::PCI_EXPRESS))
        .unwrap();
    let status = express.read::<ExpressCapability>().unwrap().link_status;
    let status = LinkStatus::from_bits(status.get());
    (status.negotiated_link_width(), status.current_link_speed())
}

/// The correctable error status of the AER capability, and where it is.
fn correctable(setup: &mut Setup) -> (u32, usize) {
    let bytes = configuration(setup);
    let aer = extended_capabilities(&bytes)
        .flatten()
        .find(|found| found.id == extended_capability::AER)
        .unwrap();
    let at = aer.offset + 0x10;
    (u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()), at)
}

/// Connects the interrupt of the data queue.
fn connect(setup: &mut Setup) -> OwnedFd {
    let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let eventfds = [(); 3].map(|()| event.try_clone().unwrap()).into();
    let request = IrqRequest {
        index: irq::MSIX,
        flags: irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER,
        start: 0,
        count: 3,
        bools: &[],
        eventfds,
    };
    setup.card().set_irqs(request).unwrap();
    event
}

/// Interrupts since this was last asked.
fn interrupts(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

#[test]
fn a_card_that_is_removed_is_not_there_and_starts_anew_when_it_is_back() {
    let mut setup = Setup::honest();
    let before = setup.summary();
    setup.inject(
        "surprise-removal",
        Trigger::at(2 * SECOND).lasting(5 * SECOND),
    );
    setup.pass(SECOND);
    assert!(setup.card().is_present());
    setup.pass(SECOND);
    assert!(!setup.card().is_present());
    assert_eq!(configuration(&mut setup), [0xff; 4096]);
    assert_eq!(setup.driver.health(0), u32::MAX);
    assert_eq!(setup.card().process(), 0);
    setup.pass(5 * SECOND);
    setup.pass(SECOND);
    assert!(setup.card().is_present());
    assert_eq!(setup.card().power_cycles(), 2);
    let after = setup.summary();
    assert_ne!(after.boot_id.get(), before.boot_id.get());
    assert_eq!(after.power_cycles.get(), 2);
    assert!(after.uptime_ms.get() < 2_000);
    assert_eq!(setup.driver.device_status(), 0);
    assert_eq!(configuration(&mut setup)[4] & 6, 0, "no bus master");
}

#[test]
fn a_card_that_was_pulled_while_hot_comes_back_cold() {
    let mut setup = Setup::honest();
    let cold = setup.summary().composite_temperature_k.get();
    setup.inject(
        "over-temperature=105,rate=10",
        Trigger::now().lasting(7 * SECOND),
    );
    setup.inject(
        "surprise-removal",
        Trigger::at(6 * SECOND).lasting(4 * SECOND),
    );
    setup.pass(Duration::ZERO);
    setup.pass(5 * SECOND);
    assert!(setup.summary().composite_temperature_k.get() > cold);
    assert_ne!(setup.summary().critical_warning, 0);
    setup.pass(2 * SECOND);
    setup.pass(4 * SECOND);
    let summary = setup.summary();
    assert_eq!(summary.composite_temperature_k.get(), cold);
    assert_eq!(summary.critical_warning, 0);
}

#[test]
fn a_self_test_that_failed_before_a_removal_is_not_failed_when_it_is_over() {
    let mut setup = Setup::honest();
    let failure = setup.inject("self-test-failure", Trigger::now());
    setup.pass(SECOND);
    let removal = setup.inject("surprise-removal", Trigger::now());
    setup.pass(SECOND);
    let clear = |setup: &mut Setup, which| {
        assert!(setup.script.lock().unwrap().clear(which));
        setup.pass(SECOND);
        let summary = setup.summary();
        let failed = summary.selftest_status.get() != 0;
        assert_eq!(summary.critical_warning != 0, failed);
        assert_eq!(summary.led_status.get() & led::FAIL != 0, failed);
        failed
    };
    assert!(clear(&mut setup, removal), "it fails again when it is back");
    assert!(!clear(&mut setup, failure));
    for fault in ["self-test-failure", "surprise-removal"] {
        setup.inject(fault, Trigger::now());
        setup.pass(SECOND);
    }
    setup.clear_all();
    let summary = setup.summary();
    assert_eq!(summary.selftest_status.get(), 0);
    assert_eq!(summary.critical_warning, 0);
    assert_eq!(summary.led_status.get() & led::FAIL, 0);
}

#[test]
fn nothing_gets_through_a_link_that_reads_all_ones() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("all-ones", Trigger::now());
    setup.pass(Duration::ZERO);
    assert_eq!(configuration(&mut setup), [0xff; 4096]);
    assert_eq!(setup.driver.device_status(), 0xff);
    assert!(!setup.works(session));
    setup
        .driver
        .write_common(card_spec::virtio_pci::common::DEVICE_STATUS, &[0]);
    setup.clear_all();
    assert_ne!(setup.driver.device_status(), 0, "the reset did not arrive");
    setup.card().process();
    assert!(
        setup.completed().is_some(),
        "the request was still in memory"
    );
}

#[test]
fn a_link_comes_up_narrower_and_slower_and_as_before_afterwards() {
    let mut setup = Setup::honest();
    let best = link(&mut setup);
    setup.inject("downtrained=2,speed=1", Trigger::now());
    setup.pass(Duration::ZERO);
    assert_eq!(link(&mut setup), (2, 1));
    setup.clear_all();
    assert_eq!(link(&mut setup), best);
}

#[test]
fn a_storm_of_correctable_errors_is_there_again_after_each_clearing() {
    let mut setup = Setup::with(&["correctable-storm=100"]);
    for _ in 0..3 {
        setup.pass(SECOND / 10);
        let (status, at) = correctable(&mut setup);
        assert_ne!(status, 0);
        assert_ne!(setup.summary().correctable_status.get(), 0);
        setup.card().write_config(at, &[0xff; 4]);
        assert_eq!(correctable(&mut setup).0, 0);
    }
    assert!((29..=31).contains(&setup.acted()[0]), "{:?}", setup.acted());
}

#[test]
fn an_interrupt_is_lost_and_the_answer_is_not() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    let event = connect(&mut setup);
    assert!(setup.works(session));
    assert_eq!(interrupts(&event), 1);
    setup.inject("lost-interrupt", Trigger::now().times(1));
    assert!(setup.works(session));
    assert_eq!(interrupts(&event), 0);
    assert!(setup.works(session));
    assert_eq!(interrupts(&event), 1);
}

#[test]
fn interrupts_come_that_nothing_has_caused() {
    let mut setup = Setup::honest();
    let event = connect(&mut setup);
    setup.pass(SECOND);
    assert_eq!(interrupts(&event), 0);
    setup.inject("interrupt-storm=1000", Trigger::now());
    setup.pass(Duration::ZERO);
    setup.pass(SECOND / 10);
    assert!((100..=102).contains(&interrupts(&event)));
}
