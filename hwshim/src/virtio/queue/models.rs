//! Models of who wakes whom across a queue: the driver with its flag against interrupts, a device
//! with its flag against doorbells, interleaved at every access to a flag or an index.
//!
//! The device does what virtio 1.3 §2.7.7 "Used Buffer Notification Suppression" and §2.7.10
//! "Available Buffer Notification Suppression" let it do; the driver is [`super`].

use super::tests::{SPEC, queue};
use super::*;
use crate::model;
use shuttle::future::block_on;
use shuttle::thread;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

/// An event that stays until it is taken, as an eventfd does.
#[derive(Default)]
struct Bell(Mutex<(bool, Option<Waker>)>);

impl Bell {
    fn ring(&self) {
        let mut bell = self.0.lock().unwrap();
        bell.0 = true;
        if let Some(waker) = bell.1.take() {
            waker.wake();
        }
    }

    /// Sleeps until it has been rung since.
    fn listen(&self) {
        block_on(poll_fn(|context| {
            let mut bell = self.0.lock().unwrap();
            if std::mem::take(&mut bell.0) {
                return Poll::Ready(());
            }
            bell.1 = Some(context.waker().clone());
            Poll::Pending
        }));
    }
}

/// The device's end of the queue.
struct Device {
    reads: Arc<Memory>,
    writes: Arc<Memory>,
    available_offset: usize,
    seen: u16,
    used: u16,
}

impl Device {
    fn new(queue: &Queue) -> Self {
        Self {
            reads: Arc::clone(&queue.device_reads.memory),
            writes: Arc::clone(&queue.device_writes.memory),
            available_offset: queue.available_offset,
            seen: 0,
            used: 0,
        }
    }

    fn has_work(&self) -> bool {
        let index = self.available_offset + RING_INDEX;
        self.reads.load_u16_acquire(index) != self.seen
    }

    /// Serves the next request, and interrupts unless the driver looks by itself.
    fn serve(&mut self, interrupt: &Bell) {
        let position = usize::from(self.seen % SPEC.size);
        let mut head = [0; 2];
        let entry = self.available_offset + RING_ENTRIES + 2 * position;
        self.reads.read(entry, &mut head);
        self.seen = self.seen.wrapping_add(1);
        let element = UsedElement {
            id: u32::from(u16::from_le_bytes(head)).into(),
            len: 1.into(),
        };
        let position = usize::from(self.used % SPEC.size);
        let entry = RING_ENTRIES + size_of::<UsedElement>() * position;
        self.writes.write(entry, element.as_bytes());
        self.used = self.used.wrapping_add(1);
        self.writes.store_u16_release(RING_INDEX, self.used);
        let flags = self.available_offset + RING_FLAGS;
        if self.reads.load_u16_acquire(flags) & AVAILABLE_NO_INTERRUPT == 0 {
            interrupt.ring();
        }
    }

    /// Serves `count` requests; sleeps while there are none, and wants doorbells only then.
    fn run(mut self, count: u16, doorbell: &Bell, interrupt: &Bell) {
        self.writes.store_u16_release(RING_FLAGS, USED_NO_NOTIFY);
        while self.used < count {
            if self.has_work() {
                self.serve(interrupt);
                continue;
            }
            self.writes.store_u16_release(RING_FLAGS, 0);
            if !self.has_work() {
                doorbell.listen();
            }
            self.writes.store_u16_release(RING_FLAGS, USED_NO_NOTIFY);
        }
    }
}

/// Posts `count` requests one after the other, and sleeps until each is back.
fn exchange(count: u16) {
    let mut queue = queue();
    let (doorbell, interrupt) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let rung = Arc::clone(&doorbell);
    queue.connect(Doorbell::new(move || {
        rung.ring();
        Ok(())
    }));
    let device = Device::new(&queue);
    let interrupts = Arc::clone(&interrupt);
    let device = thread::spawn(move || device.run(count, &doorbell, &interrupts));
    for _ in 0..count {
        let slot = queue.post(&[b"x"], 1).unwrap();
        queue.announce().unwrap();
        let used = loop {
            if let Some(used) = queue.poll().unwrap() {
                break used;
            }
            if queue.arm() {
                interrupt.listen();
            }
            queue.disarm();
        };
        assert_eq!(used, Used { slot, len: 1 });
        queue.release(slot);
    }
    device.join().unwrap();
}

#[test]
fn no_interleaving_sleeps_through_a_doorbell_or_an_interrupt() {
    model::sample("queue: three requests", 5_000, || exchange(3));
    model::exhaust("queue: one request", || exchange(1));
}
