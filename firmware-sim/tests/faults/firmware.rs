//! Firmware that stops, restarts, gets hot, or says that it has failed.

use crate::driver::DATA_QUEUE;
use crate::setup::{SECOND, Setup};
use card_device::Batch;
use card_spec::crypto::{Status, data_opcode, key_type, rsa_padding};
use card_spec::health::{ControllerStatus, CriticalWarning, led, register, uncorrectable};
use card_spec::virtio_pci::common;
use firmware_sim::fault::Trigger;
use std::time::Duration;

const RSA_KEY: &[u8] = include_bytes!("../../../hwshim/src/kat/rsa-2048.pkcs1.der");

#[test]
fn firmware_that_hangs_neither_beats_nor_answers_until_its_time_is_over() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("hang", Trigger::at(2 * SECOND).lasting(10 * SECOND));
    setup.pass(SECOND);
    assert!(setup.works(session));
    setup.pass(SECOND);
    let beats = setup.beats();
    for _ in 0..9 {
        setup.pass(SECOND);
        assert!(!setup.works(session));
        assert_eq!(setup.beats(), beats);
    }
    assert_ne!(setup.driver.device_status(), 0xff, "registers still read");
    setup.pass(SECOND);
    setup.pass(2 * SECOND);
    setup.card().process();
    let answers = std::iter::from_fn(|| setup.completed()).count();
    assert_eq!(answers, 9, "what waited is answered");
    assert!(
        (1..5).contains(&(setup.beats() - beats)),
        "and beats are not made up for"
    );
    let script = setup.script.lock().unwrap();
    let record = &script.record()[0];
    assert_eq!(record.first_acted_at, Some(2 * SECOND));
    assert_eq!(record.cleared_at, Some(12 * SECOND));
}

#[test]
fn a_hang_may_end_with_a_reset_or_not() {
    for (fault, ends) in [("hang=reset", true), ("hang=cleared", false)] {
        let mut setup = Setup::with(&[fault]);
        let beats = setup.beats();
        setup.driver.bring_up();
        setup.pass(3 * SECOND);
        assert_eq!(setup.beats() > beats, ends, "{fault}");
        setup.clear_all();
        setup.pass(3 * SECOND);
        assert!(setup.beats() > beats, "{fault}");
    }
}

#[test]
fn a_request_can_make_the_firmware_hang_and_is_answered_when_it_goes_on() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    let poison = Trigger::now()
        .matching("opcode=cipher-encrypt".parse().unwrap())
        .after_requests(1)
        .lasting(SECOND);
    setup.inject("hang", poison.times(1));
    assert!(setup.works(session));
    assert!(!setup.works(session));
    setup.pass(SECOND);
    setup.pass(SECOND);
    assert!(setup.completed().is_some());
    assert!(setup.works(session));
    assert_eq!(setup.acted(), [1]);
}

#[test]
fn a_card_in_maintenance_beats_and_says_so_and_does_afterwards_what_it_was_asked_meanwhile() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("maintenance", Trigger::now().lasting(5 * SECOND));
    setup.pass(SECOND);
    let beats = setup.beats();
    assert!(!setup.works(session));
    setup.pass(2 * SECOND);
    assert!(setup.beats() > beats);
    let is_paused = |setup: &mut Setup| {
        let status = setup.summary().controller_status.get();
        ControllerStatus::from_bits(status).processing_paused()
    };
    assert!(is_paused(&mut setup));
    let engine = setup.summary().engines[0];
    assert_eq!(engine.requested, engine.responded, "no engine is stuck");
    setup.pass(3 * SECOND);
    assert!(!is_paused(&mut setup));
    setup.card().process();
    assert!(setup.completed().is_some());
    assert!(setup.works(session));
}

#[test]
fn the_heartbeat_may_stop_while_work_goes_on_and_the_other_way_round() {
    for (fault, works, beats) in [
        ("heartbeat-stops", true, false),
        ("work-stops", false, true),
    ] {
        let mut setup = Setup::honest();
        let session = setup.open_cipher();
        setup.pass(SECOND);
        setup.inject(fault, Trigger::now());
        setup.pass(SECOND / 100);
        let before = setup.beats();
        setup.pass(5 * SECOND);
        setup.card().process();
        setup.pass(SECOND / 100);
        let engine = setup.summary().engines[0];
        assert_eq!(engine.requested, engine.responded, "{fault}: nobody asks");
        assert_eq!(setup.works(session), works, "{fault}");
        assert_eq!(setup.beats() > before, beats, "{fault}");
        setup.pass(SECOND / 100);
        let engine = setup.summary().engines[0];
        let waits = engine.requested != engine.responded;
        assert_eq!(
            waits, !works,
            "{fault}: a request that is not answered shows"
        );
        setup.clear_all();
        setup.pass(5 * SECOND);
        assert!(setup.works(session), "{fault}");
        let engine = setup.summary().engines[0];
        assert_eq!(engine.requested, engine.responded, "{fault}");
        assert!(setup.beats() > before, "{fault}");
    }
}

#[test]
fn a_silent_reboot_leaves_another_boot_id_and_no_sessions() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    let before = setup.summary();
    setup.inject("silent-reboot", Trigger::at(60 * SECOND));
    setup.pass(61 * SECOND);
    setup.pass(SECOND);
    let after = setup.summary();
    assert_ne!(after.boot_id.get(), before.boot_id.get());
    assert!(after.uptime_ms.get() < 2_000);
    assert_eq!(setup.driver.device_status(), 0);
    setup.driver.bring_up();
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::INVSESS);
    assert_eq!(setup.acted(), [1]);
}

#[test]
fn firmware_that_restarts_at_work_leaves_no_engine_that_looks_busy() {
    let restarts = [
        ("silent-reboot", Trigger::now()),
        ("surprise-removal", Trigger::now().lasting(SECOND)),
    ];
    for (fault, trigger) in restarts {
        let mut setup = Setup::honest();
        let session = setup.open_cipher();
        for index in 0..3 {
            setup.submit_cipher(session, 8 * index);
        }
        let mut batch = Batch::new(0);
        assert_eq!(setup.card().take(&mut batch, 8), 3);
        batch.execute();
        setup.inject(fault, trigger);
        setup.pass(Duration::ZERO);
        setup.pass(2 * SECOND);
        setup.card().complete(&mut batch);
        let engine = setup.summary().engines[0];
        assert_eq!(engine.requested, engine.responded, "{fault}");
        if fault == "silent-reboot" {
            setup.driver.bring_up();
            let session = setup.open_cipher();
            assert!(setup.works(session));
            let engine = setup.summary().engines[0];
            assert_eq!((engine.requested.get(), engine.responded.get()), (2, 2));
        }
    }
}

#[test]
fn a_reset_loop_restarts_the_firmware_again_and_again() {
    let mut setup = Setup::with(&["reset-loop=3s"]);
    let mut boot_ids = Vec::new();
    for _ in 0..12 {
        boot_ids.push(setup.summary().boot_id.get());
        setup.pass(SECOND);
    }
    boot_ids.dedup();
    assert_eq!(boot_ids.len(), 4);
}

#[test]
fn a_reset_that_never_ends_never_reads_zero() {
    let mut setup = Setup::with(&["reset-hangs"]);
    let session = setup.open_cipher();
    assert!(setup.works(session), "until it is reset");
    setup.driver.write_common(common::DEVICE_STATUS, &[0]);
    for _ in 0..100 {
        setup.pass(SECOND);
        let status = setup.driver.device_status();
        assert!(status != 0 && status != 0xff, "{status:#x}");
    }
    setup.clear_all();
    assert_eq!(setup.driver.device_status(), 0);
    setup.driver.bring_up();
    let session = setup.open_cipher();
    assert!(setup.works(session));
}

#[test]
fn a_card_gets_hot_warns_slows_down_and_cools_again() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("over-temperature=105,rate=10", Trigger::now());
    let state = |setup: &mut Setup| {
        let summary = setup.summary();
        (
            summary.composite_temperature_k.get(),
            CriticalWarning::from_bits(summary.critical_warning).temperature(),
            ControllerStatus::from_bits(summary.controller_status.get()).throttled(),
        )
    };
    setup.pass(Duration::ZERO);
    setup.pass(2 * SECOND);
    assert_eq!(state(&mut setup), (338, false, false));
    assert!(setup.works(session));
    setup.pass(3 * SECOND);
    assert_eq!(state(&mut setup), (368, true, true));
    assert!(!setup.works(session), "it takes longer");
    setup.pass(SECOND);
    assert!(setup.completed().is_some());
    setup.pass(10 * SECOND);
    assert_eq!(state(&mut setup), (378, true, true));
    setup.clear_all();
    setup.pass(60 * SECOND);
    assert_eq!(state(&mut setup), (318, false, false));
    assert!(setup.works(session));
}

#[test]
fn a_failed_self_test_is_reported_and_keeps_private_keys_from_use() {
    let mut setup = Setup::honest();
    let cipher = setup.open_cipher();
    let key = setup.open_rsa(RSA_KEY, key_type::PRIVATE, rsa_padding::PKCS1);
    setup.inject("self-test-failure=5", Trigger::now());
    setup.pass(Duration::ZERO);
    let summary = setup.summary();
    assert_eq!(summary.selftest_status.get(), 5);
    assert!(ControllerStatus::from_bits(summary.controller_status.get()).fatal());
    assert!(CriticalWarning::from_bits(summary.critical_warning).fail_closed());
    assert_ne!(summary.led_status.get() & led::FAIL, 0);
    assert_eq!(summary.uncorrectable_status.get(), uncorrectable::SELF_TEST);
    assert_eq!(setup.driver.health(register::ERROR_LOG_WRITTEN), 1);
    assert_eq!(setup.sign(key, &[1; 32]).unwrap_err(), Status::ERR);
    let decrypted = setup.perform(key, data_opcode::AKCIPHER_DECRYPT, &[1; 256], 256);
    assert_eq!(decrypted.unwrap_err(), Status::ERR);
    assert!(setup.works(cipher));
    setup.clear_all();
    assert_eq!(setup.summary().selftest_status.get(), 0);
    setup.sign(key, &[1; 32]).unwrap();
}

#[test]
fn a_fault_that_a_request_sets_off_comes_when_it_is_drawn() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("silent-reboot", Trigger::now().after_requests(2).times(1));
    let boot_id = setup.summary().boot_id.get();
    for expected in [true, true, false] {
        assert!(setup.works(session));
        setup.pass(Duration::ZERO);
        assert_eq!(setup.summary().boot_id.get() == boot_id, expected);
    }
    assert!(setup.driver.completed(DATA_QUEUE).is_none());
}
