//! In process: what a driver gets for right and for wrong requests.

use crate::driver::{
    self, AddEngine, BUFFERS, Bus, CONTROL_QUEUE, DATA_QUEUE, Driver, IOVA, cipher_create,
    cipher_data, descriptor,
};
use card_device::dma::{Access, Backing};
use card_device::interrupt::IrqRequest;
use card_device::{Card, CardConfig};
use card_spec::crypto::{SessionReply, Status, data_opcode};
use card_spec::health::{Summary, register, uncorrectable};
use card_spec::vfio::irq;
use card_spec::virtio_pci::common;
use card_spec::virtqueue::descriptor_flag;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

pub(crate) struct InProcess(pub(crate) Card);

impl Bus for InProcess {
    fn read_bar(&mut self, bar: u8, offset: u64, buf: &mut [u8]) {
        self.0.read_bar(bar, offset, buf);
    }

    fn write_bar(&mut self, bar: u8, offset: u64, bytes: &[u8]) {
        self.0.write_bar(bar, offset, bytes);
    }

    fn write_config(&mut self, offset: u16, bytes: &[u8]) {
        self.0.write_config(usize::from(offset), bytes);
    }

    fn map(&mut self, iova: u64, len: u64, write: bool, file: &OwnedFd, offset: u64) {
        let file = file.try_clone().unwrap();
        let access = Access { read: true, write };
        let backing = Some(Backing { file, offset });
        self.0.map(iova, len, access, backing).unwrap();
    }

    fn wait(&mut self) {
        self.0.process();
    }
}

const REQUEST_SIZE_MAX: u32 = 4096;

pub(crate) fn card() -> Card {
    let config = CardConfig {
        sessions_max: 3,
        request_size_max: REQUEST_SIZE_MAX as usize,
        ..CardConfig::default()
    };
    Card::new(&config, Arc::new(AddEngine)).unwrap()
}

fn driver() -> Driver<InProcess> {
    Driver::start(InProcess(card()))
}

fn irq_request(flags: u32, start: u32, count: u32, eventfds: Vec<OwnedFd>) -> IrqRequest<'static> {
    IrqRequest {
        index: irq::MSIX,
        flags,
        start,
        count,
        bools: &[],
        eventfds,
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn count(eventfd: &OwnedFd) -> u64 {
    let mut value = [0; 8];
    rustix::io::read(eventfd, &mut value).map_or(0, |_| u64::from_ne_bytes(value))
}

#[test]
fn a_session_lives_from_its_creation_to_its_destruction() {
    let mut driver = driver();
    let (status, id) = driver.open_session(&[3, 0, 0]);
    assert_eq!(status, Status::OK);
    let (status, result) = driver.encrypt(id, &[1, 2, 250, 255]);
    assert_eq!((status, result), (Status::OK, vec![4, 5, 253, 2]));
    let mut of_another_service = cipher_data(id, 1, 1);
    of_another_service.header.opcode = data_opcode::HASH.into();
    let readable = [of_another_service.as_bytes(), &[1; 64]];
    let (_, buffers) = driver.request(DATA_QUEUE, &readable, &[64]);
    assert_eq!(Status(buffers[0][63]), Status::INVSESS);
    assert_eq!(driver.close_session(id), Status::OK);
    assert_eq!(driver.close_session(id), Status::INVSESS);
    let (status, result) = driver.encrypt(id, &[1, 2, 3, 4]);
    assert_eq!((status, result), (Status::INVSESS, vec![0; 4]));
    assert!(!driver.needs_reset());
}

#[test]
fn one_session_too_many_is_told_that_there_is_no_room() {
    let mut driver = driver();
    let ids: Vec<_> = (0..3).map(|_| driver.open_session(&[1])).collect();
    assert!(ids.iter().all(|(status, _)| *status == Status::OK));
    assert_eq!(driver.open_session(&[1]).0, Status::NOSPC);
    assert_eq!(driver.close_session(ids[1].1), Status::OK);
    assert_eq!(driver.open_session(&[1]).0, Status::OK);
}

#[test]
fn a_key_longer_than_the_configuration_says_is_refused() {
    let mut driver = driver();
    assert_eq!(driver.open_session(&[1; 32]).0, Status::OK);
    assert_eq!(driver.open_session(&[1; 33]).0, Status::ERR);
}

#[test]
fn sessions_do_not_survive_a_reset_and_their_ids_are_not_given_again() {
    let mut driver = driver();
    let (_, before) = driver.open_session(&[1]);
    let resets = driver.health(0x1c);
    driver.bring_up();
    assert_eq!(driver.health(0x1c), resets + 1);
    let (_, after) = driver.open_session(&[2]);
    assert_ne!(before, after);
    assert_eq!(driver.encrypt(before, &[9]).0, Status::INVSESS);
}

#[test]
fn result_and_status_may_share_a_descriptor_or_be_scattered() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let request = cipher_data(id, 4, 4);
    let readable: [&[u8]; 3] = [request.as_bytes(), &[0; 16], &[10, 20, 30, 40]];
    let (len, buffers) = driver.request(DATA_QUEUE, &readable, &[5]);
    assert_eq!((len, &buffers[0][..]), (5, &[11, 21, 31, 41, 0][..]));
    let (len, buffers) = driver.request(DATA_QUEUE, &readable, &[1, 0, 2, 10, 3]);
    assert_eq!(len, 5);
    assert_eq!(buffers.concat()[..4], [11, 21, 31, 41]);
    assert_eq!(*buffers.concat().last().unwrap(), 0);
    // Header and content in one descriptor, and split at odd places.
    let whole = readable.concat();
    let (a, b) = whole.split_at(13);
    let (len, buffers) = driver.request(DATA_QUEUE, &[a, b], &[5]);
    assert_eq!((len, &buffers[0][..4]), (5, &[11, 21, 31, 41][..]));
}

#[test]
fn malformed_requests_get_a_status_and_break_nothing() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let mut wrong_opcode = cipher_data(id, 4, 4);
    wrong_opcode.header.opcode = 0x0999.into();
    let huge_source = cipher_data(id, u32::MAX, 4);
    let huge_result = cipher_data(id, 4, u32::MAX);
    let no_room = cipher_data(id, 4, 5);
    let body: &[u8] = &[7; 20];
    for (request, expected) in [
        (wrong_opcode.as_bytes(), Status::NOTSUPP),
        (huge_source.as_bytes(), Status::ERR),
        (huge_result.as_bytes(), Status::ERR),
        (no_room.as_bytes(), Status::ERR),
        (&no_room.as_bytes()[..30], Status::ERR),
        (&[], Status::ERR),
    ] {
        let readable = [request, body];
        let readable = if request.is_empty() {
            &readable[..1]
        } else {
            &readable
        };
        let (len, buffers) = driver.request(DATA_QUEUE, readable, &[5]);
        assert_eq!((len, Status(buffers[0][4])), (1, expected));
        assert_eq!(buffers[0][..4], [0xee; 4], "only the status is written");
    }
    let (_, buffers) = driver.request(CONTROL_QUEUE, &[&[0xff; 72]], &[16]);
    assert_eq!(Status(buffers[0][15]), Status::NOTSUPP);
    let mut truncated_key = cipher_create(&[1; 32]);
    truncated_key.key_len = 33.into();
    let (len, buffers) =
        driver.request(CONTROL_QUEUE, &[truncated_key.as_bytes(), &[1; 32]], &[16]);
    let reply = SessionReply::read_from_bytes(&buffers[0]).unwrap();
    assert_eq!((len, reply.status.get()), (16, 1));
    assert_eq!(
        driver.encrypt(id, &[1]).0,
        Status::OK,
        "the device still works"
    );
}

#[test]
fn a_request_may_be_as_long_as_the_limit_and_no_longer() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let longest = REQUEST_SIZE_MAX - 16;
    for (len, expected) in [(longest, Status::OK), (longest + 1, Status::ERR)] {
        let request = cipher_data(id, len, len);
        let source = vec![9; len as usize];
        let readable: [&[u8]; 3] = [request.as_bytes(), &[0; 16], &source];
        let (_, buffers) = driver.request(DATA_QUEUE, &readable, &[len, 1]);
        assert_eq!(Status(buffers[1][0]), expected, "{len}");
    }
}

#[test]
fn broken_chains_make_the_device_ask_for_a_reset() {
    let next = descriptor_flag::NEXT;
    let write = descriptor_flag::WRITE;
    let indirect = descriptor_flag::INDIRECT;
    let at = IOVA + BUFFERS;
    let cases = [
        (
            "a circle",
            0,
            vec![descriptor(at, 8, next, 1), descriptor(at, 8, next, 0)],
        ),
        (
            "a circle of writable ones",
            0,
            vec![descriptor(at, 8, next | write, 0)],
        ),
        ("a head outside the table", 64, vec![]),
        (
            "a next outside the table",
            0,
            vec![descriptor(at, 8, next, 64)],
        ),
        (
            "readable behind writable",
            0,
            vec![descriptor(at, 8, next | write, 1), descriptor(at, 8, 0, 0)],
        ),
        ("nothing writable", 0, vec![descriptor(at, 72, 0, 0)]),
        (
            "an empty writable part",
            0,
            vec![descriptor(at, 0, write, 0)],
        ),
        (
            "an indirect table of odd length",
            0,
            vec![descriptor(at, 17, indirect, 0)],
        ),
        (
            "an empty indirect table",
            0,
            vec![descriptor(at, 0, indirect, 0)],
        ),
        (
            "indirect with next",
            0,
            vec![descriptor(at, 16, indirect | next, 1)],
        ),
        (
            "memory never shared",
            0,
            vec![descriptor(0x10, 72, next, 1), descriptor(at, 1, write, 0)],
        ),
        (
            "a range that wraps",
            0,
            vec![
                descriptor(u64::MAX, 72, next, 1),
                descriptor(at, 1, write, 0),
            ],
        ),
    ];
    for (what, head, descriptors) in cases {
        let mut driver = driver();
        for (index, descriptor) in (0..).zip(&descriptors) {
            driver.write_descriptor(DATA_QUEUE, index, descriptor);
        }
        driver.offer(DATA_QUEUE, head);
        driver.bus.wait();
        assert!(driver.needs_reset(), "{what}");
        assert_eq!(driver.completed(DATA_QUEUE), None, "{what}");
        assert_ne!(driver.health(register::UNCORRECTABLE_STATUS), 0, "{what}");
        driver.bring_up();
        assert_eq!(driver.open_session(&[1]).0, Status::OK, "after {what}");
    }
}

#[test]
fn an_available_index_that_jumps_breaks_the_queue() {
    let mut driver = driver();
    // Every chain is good, there are only more of them than there can be.
    let chain = descriptor(IOVA + BUFFERS, 1, descriptor_flag::WRITE, 0);
    driver.write_descriptor(DATA_QUEUE, 0, &chain);
    for _ in 0..65 {
        driver.offer(DATA_QUEUE, 0);
    }
    driver.bus.wait();
    assert!(driver.needs_reset());
    assert_eq!(driver.completed(DATA_QUEUE), None);
}

#[test]
fn indirect_chains_are_followed_one_level_deep() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let request = cipher_data(id, 2, 2);
    let content = [request.as_bytes(), &[0; 16], &[5, 6]].concat();
    driver.write(BUFFERS, &content);
    let table = BUFFERS + 0x8000;
    let rows = [
        descriptor(
            IOVA + BUFFERS,
            content.len() as u32,
            descriptor_flag::NEXT,
            1,
        ),
        descriptor(IOVA + BUFFERS + 0x4000, 3, descriptor_flag::WRITE, 0),
    ];
    driver.write(table, rows.as_bytes());
    let indirect = descriptor(IOVA + table, 32, descriptor_flag::INDIRECT, 0);
    driver.write_descriptor(DATA_QUEUE, 9, &indirect);
    driver.offer(DATA_QUEUE, 9);
    driver.bus.wait();
    let used = driver.completed(DATA_QUEUE).unwrap();
    assert_eq!((used.id.get(), used.len.get()), (9, 3));
    assert_eq!(driver.read(BUFFERS + 0x4000, 3), [6, 7, 0]);
    // A table that points at a table.
    driver.write(table, indirect.as_bytes());
    driver.offer(DATA_QUEUE, 9);
    driver.bus.wait();
    assert!(driver.needs_reset());
}

#[test]
fn writing_where_only_reading_is_allowed_is_a_dma_fault() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let file = driver.memory.try_clone().unwrap();
    driver.bus.map(0x1000, 0x1000, false, &file, BUFFERS);
    let request = cipher_data(id, 2, 2);
    let content = [request.as_bytes(), &[0; 16], &[5, 6]].concat();
    driver.write(BUFFERS, &content);
    let len = content.len() as u32;
    driver.write_descriptor(
        DATA_QUEUE,
        0,
        &descriptor(0x1000, len, descriptor_flag::NEXT, 1),
    );
    driver.write_descriptor(
        DATA_QUEUE,
        1,
        &descriptor(0x1800, 3, descriptor_flag::WRITE, 0),
    );
    driver.offer(DATA_QUEUE, 0);
    driver.bus.wait();
    assert!(driver.needs_reset());
    let errors = driver.health(register::UNCORRECTABLE_STATUS);
    assert_eq!(errors, uncorrectable::DMA_FAULT);
    let mut entry = [0; 64];
    driver.bus.read_bar(2, 0x240, &mut entry);
    assert_eq!(&entry[40..57], b"DMA write refused");
    driver
        .bus
        .write_bar(2, register::UNCORRECTABLE_STATUS, &errors.to_le_bytes());
    assert_eq!(
        driver.health(register::UNCORRECTABLE_STATUS),
        0,
        "cleared by writing ones"
    );
}

#[test]
fn nothing_happens_without_bus_mastering() {
    let mut driver = driver();
    driver.bus.write_config(4, &0_u16.to_le_bytes());
    driver.submit(
        CONTROL_QUEUE,
        &[cipher_create(&[1]).as_bytes(), &[1]],
        &[16],
    );
    assert_eq!(driver.bus.0.process(), 0);
    driver.bus.write_config(4, &4_u16.to_le_bytes());
    assert!(driver.bus.0.take_doorbell());
    assert_eq!(driver.bus.0.process(), 1);
}

#[test]
fn completions_interrupt_unless_the_driver_does_not_want_them() {
    let mut driver = driver();
    let data = new_eventfd();
    let eventfds = vec![new_eventfd(), data.try_clone().unwrap(), new_eventfd()];
    let flags = irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER;
    driver
        .bus
        .0
        .set_irqs(irq_request(flags, 0, 3, eventfds))
        .unwrap();
    let (_, id) = driver.open_session(&[1]);
    driver.encrypt(id, &[1]);
    assert_eq!(count(&data), 1);
    let available_flags = 16 * u64::from(driver::QUEUE_SIZE);
    driver.write(available_flags, &1_u16.to_le_bytes());
    driver.encrypt(id, &[1]);
    assert_eq!(count(&data), 0);
    driver.write(available_flags, &0_u16.to_le_bytes());
    let mask = irq::SET_DATA_NONE | irq::SET_ACTION_MASK;
    driver
        .bus
        .0
        .set_irqs(irq_request(mask, 1, 1, vec![]))
        .unwrap();
    driver.encrypt(id, &[1]);
    assert_eq!(count(&data), 0, "masked");
    let unmask = irq::SET_DATA_NONE | irq::SET_ACTION_UNMASK;
    driver
        .bus
        .0
        .set_irqs(irq_request(unmask, 1, 1, vec![]))
        .unwrap();
    assert_eq!(count(&data), 1, "what was pending is delivered");
    let msix_control = 0x7e;
    let function_mask = 0x4000_u16.to_le_bytes();
    driver.bus.write_config(msix_control, &function_mask);
    driver.encrypt(id, &[1]);
    let mut pending = [0; 8];
    driver.bus.read_bar(1, 0x800, &mut pending);
    assert_eq!((count(&data), u64::from_le_bytes(pending)), (0, 1 << 1));
    driver.bus.write_config(msix_control, &[0; 2]);
    assert_eq!(
        count(&data),
        1,
        "and so is what the function mask held back"
    );
    // Linux disconnects one vector by naming it without a descriptor, and all by naming none.
    driver
        .bus
        .0
        .set_irqs(irq_request(flags, 1, 1, vec![]))
        .unwrap();
    driver.encrypt(id, &[1]);
    assert_eq!(count(&data), 0);
    let none = irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER;
    driver
        .bus
        .0
        .set_irqs(irq_request(none, 0, 0, vec![]))
        .unwrap();
    for (start, count, fds) in [(0, 4, 4), (3, 1, 1), (u32::MAX, 1, 1), (0, 2, 1)] {
        let fds = (0..fds).map(|_| new_eventfd()).collect();
        let refused = driver.bus.0.set_irqs(irq_request(flags, start, count, fds));
        assert_eq!(refused, Err(rustix::io::Errno::INVAL));
    }
}

#[test]
fn an_answer_to_a_request_from_before_a_reset_is_dropped() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let request = cipher_data(id, 1, 1);
    driver.submit(DATA_QUEUE, &[request.as_bytes(), &[0; 16], &[1]], &[2]);
    let mut batch = card_device::Batch::new(0);
    assert_eq!(driver.bus.0.take(&mut batch, 8), 1);
    driver.write_common(common::QUEUE_SELECT, &DATA_QUEUE.to_le_bytes());
    driver.write_common(common::QUEUE_RESET, &1_u16.to_le_bytes());
    driver.enable_queue(DATA_QUEUE);
    batch.execute();
    driver.bus.0.complete(&mut batch);
    assert_eq!(driver.completed(DATA_QUEUE), None);
    assert_eq!(
        driver.encrypt(id, &[1]).0,
        Status::OK,
        "sessions outlive a queue reset"
    );
}

#[test]
fn bars_are_sized_by_writing_ones() {
    let mut card = card();
    let expected = [0xffff_c000, 0xffff_f000, 0xffff_f000, 0, 0, 0];
    for (offset, mask) in (0x10..).step_by(4).zip(expected) {
        card.write_config(offset, &[0xff; 4]);
        let mut value = [0; 4];
        card.read_config(offset, &mut value);
        assert_eq!(u32::from_le_bytes(value), mask);
    }
}

#[test]
fn capabilities_lead_to_every_structure_the_driver_needs() {
    let mut card = card();
    let mut config = [0; 4096];
    card.read_config(0, &mut config);
    assert_eq!(config[..4], [0xf4, 0x1a, 0x54, 0x10]);
    assert_eq!(config[8..12], [1, 0, 0x80, 0x10]);
    let found: Vec<_> = card_spec::pci::capabilities(&config)
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.id, (entry.id == 9).then_some(entry.bytes[3])))
        .collect();
    let virtio = |kind| (9, Some(kind));
    assert_eq!(
        found,
        [
            (0x10, None),
            (0x11, None),
            virtio(1),
            virtio(2),
            virtio(3),
            virtio(4),
            virtio(5),
            virtio(9)
        ]
    );
    let extended: Vec<_> = card_spec::pci::extended_capabilities(&config)
        .map(|entry| entry.unwrap().id)
        .collect();
    assert_eq!(extended, [1, 3]);
    let mut behind = [0; 8];
    card.read_config(4092, &mut behind);
    assert_eq!(behind[4..], [0xff; 4]);
}

#[test]
fn configuration_space_has_a_window_to_the_registers() {
    const WINDOW: usize = 0xdc;
    let mut card = card();
    card.write_config(
        0xcc + 8,
        &u32::try_from(common::NUM_QUEUES).unwrap().to_le_bytes(),
    );
    card.write_config(0xcc + 12, &2_u32.to_le_bytes());
    let mut value = [0; 4];
    card.read_config(WINDOW, &mut value);
    assert_eq!(value, [2, 0, 0, 0]);
    card.write_config(
        0xcc + 8,
        &u32::try_from(common::QUEUE_SELECT).unwrap().to_le_bytes(),
    );
    card.write_config(WINDOW, &1_u16.to_le_bytes());
    let mut select = [0; 2];
    card.read_bar(0, common::QUEUE_SELECT, &mut select);
    assert_eq!(select, [1, 0]);
}

#[test]
fn a_function_level_reset_resets_the_device() {
    let mut driver = driver();
    let resets = driver.health(0x1c);
    driver.bus.write_config(0x48, &0x8000_u16.to_le_bytes());
    assert_eq!(driver.device_status(), 0);
    assert_eq!(driver.health(0x1c), resets + 1);
    assert_ne!(
        driver.health(register::CONTROLLER_STATUS) & 1 << 4,
        0,
        "reset occurred"
    );
    driver
        .bus
        .write_bar(2, register::CONTROLLER_STATUS, &(1_u32 << 4).to_le_bytes());
    assert_eq!(driver.health(register::CONTROLLER_STATUS), 1);
}

#[test]
fn the_heart_beats_with_the_time_it_is_told() {
    let mut driver = driver();
    let (_, id) = driver.open_session(&[1]);
    let origin = Duration::from_secs(1000);
    driver.bus.0.tick(origin);
    assert_eq!(driver.health(register::HEARTBEAT_COUNT), 0);
    driver.encrypt(id, &[1]);
    driver.encrypt(id + 1, &[1]);
    let mut page = [0; 512];
    driver.bus.read_bar(2, 0, &mut page);
    let before = Summary::parse(&page).unwrap();
    assert_eq!(
        before.requests_ok.get(),
        0,
        "statistics move with the heartbeat"
    );
    assert_eq!(before.engines()[0].requested, before.engines()[0].responded);
    assert_eq!(before.engines()[0].responded.get(), 3);
    driver.bus.0.tick(origin + Duration::from_millis(1_700));
    driver.bus.read_bar(2, 0, &mut page);
    let after = Summary::parse(&page).unwrap();
    assert_eq!(after.heartbeat_count.get(), 3);
    assert_eq!(after.uptime_ms.get(), 1_700);
    assert_eq!(
        (after.requests_ok.get(), after.requests_failed.get()),
        (1, 1)
    );
    assert_ne!(before.statistics_generation, after.statistics_generation);
    assert_eq!(after.serial_number(), "SIM-0001");
    let left = driver
        .bus
        .0
        .until_next_tick(origin + Duration::from_millis(1_700));
    assert_eq!(left, Duration::from_millis(300));
}

#[test]
fn impossible_cards_are_not_made() {
    for change in [
        |config: &mut CardConfig| config.queue_size = 3,
        |config: &mut CardConfig| config.queue_size = 0,
        |config: &mut CardConfig| config.engine_count = 0,
        |config: &mut CardConfig| config.data_queue_count = 61,
        |config: &mut CardConfig| config.sessions_max = 0,
        |config: &mut CardConfig| config.heartbeat_period = Duration::ZERO,
    ] {
        let mut config = CardConfig::default();
        change(&mut config);
        Card::new(&config, Arc::new(AddEngine)).unwrap_err();
    }
}

proptest! {
    #[test]
    fn no_descriptor_table_makes_the_card_panic(
        rows in prop::collection::vec(
            (0..4_u8, 0..0x2_0000_u64, any::<u32>(), 0..8_u16, 0..70_u16),
            1..20,
        ),
        heads in prop::collection::vec(0..66_u16, 1..70),
        content in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut driver = driver();
        let (_, id) = driver.open_session(&[1]);
        driver.write(BUFFERS, cipher_data(id, 16, 16).as_bytes());
        driver.write(BUFFERS + 72, &content);
        for (index, (kind, offset, len, flags, next)) in (0..).zip(rows) {
            let row = match kind {
                0 => descriptor(IOVA + offset, len, flags, next),
                1 => descriptor(IOVA + BUFFERS, len % 512, flags & 3, next),
                2 => descriptor(IOVA + BUFFERS + offset, len % 0x1_0000, flags & 3, next),
                _ => descriptor(offset << 47, len, flags, next),
            };
            driver.write_descriptor(DATA_QUEUE, index, &row);
        }
        for head in heads {
            driver.offer(DATA_QUEUE, head);
            driver.bus.wait();
        }
        driver.bring_up();
        prop_assert_eq!(driver.open_session(&[1]).0, Status::OK);
    }

    #[test]
    fn no_request_makes_the_card_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        service in 0..6_u32,
        operation in 0..7_u32,
        queue in 0..2_u16,
        room in 1..64_u32,
    ) {
        let mut driver = driver();
        let (_, id) = driver.open_session(&[1]);
        let mut bytes = bytes;
        let opcode = service << 8 | operation;
        for (to, from) in bytes.iter_mut().zip(opcode.to_le_bytes()) {
            *to = from;
        }
        for (to, from) in bytes.iter_mut().skip(8).zip(id.to_le_bytes()) {
            *to = from;
        }
        driver.request(queue, &[&bytes], &[room]);
        prop_assert!(!driver.needs_reset());
    }

    #[test]
    fn no_register_access_makes_the_card_panic(
        accesses in prop::collection::vec(
            (0..4_u8, any::<bool>(), 0..0x4100_u64, prop::collection::vec(any::<u8>(), 0..70)),
            0..60,
        ),
    ) {
        let mut card = card();
        for (bar, write, offset, mut bytes) in accesses {
            let at = usize::try_from(offset).unwrap();
            match (bar, write) {
                (3, true) => card.write_config(at, &bytes),
                (3, false) => card.read_config(at, &mut bytes),
                (_, true) => card.write_bar(bar, offset, &bytes),
                (_, false) => card.read_bar(bar, offset, &mut bytes),
            }
            card.process();
        }
    }
}
