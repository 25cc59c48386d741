//! The driver's virtqueue, against a device that writes what it likes into the used ring.
//!
//! Whatever it writes, the queue gives back each request at most once, only those in flight, and
//! never more bytes than the device was allowed to write.

use super::Script;
use super::card::Liar;
use card_spec::virtqueue::{RING_ENTRIES, RING_INDEX};
use hwshim::bus::Function;
use hwshim::virtio::{Queue, QueueSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

const SIZE: u16 = 8;
const SPEC: QueueSpec = QueueSpec {
    size: SIZE,
    slots: 4,
    request_len: 32,
    result_len: 64,
    large_slots: 1,
    large_request_len: 128,
    large_result_len: 256,
};

const POST: u8 = 0;
const SET_INDEX: u8 = 1;
const SET_ELEMENT: u8 = 2;
const COMPLETE: u8 = 3;
const POLL: u8 = 4;
const SCRIBBLE: u8 = 5;
const STEPS: u8 = 6;

pub(crate) fn run(input: &[u8]) {
    let liar = Liar::new();
    let function: Arc<dyn Function> = Arc::clone(&liar) as _;
    let mut queue = Queue::new(&function, SPEC).expect("there is memory");
    // The lengths that the device may write, by slot.
    let mut in_flight = BTreeMap::new();
    let mut index = 0_u16;
    let mut script = Script(input);
    while !script.is_over() {
        match script.byte() % STEPS {
            POST => {
                let len = 1 + usize::from(script.byte());
                if let Ok(slot) = queue.post(&[b"request", &[1, 2]], len) {
                    assert_eq!(
                        in_flight.insert(slot, len),
                        None,
                        "a slot is given out once"
                    );
                }
            }
            SET_INDEX => index = script.word(),
            SET_ELEMENT => {
                let at = usize::from(script.byte()) % usize::from(SIZE);
                liar.scribble(0, RING_ENTRIES + 8 * at, &script.array::<8>());
            }
            COMPLETE => {
                let which = usize::from(script.byte()) % in_flight.len().max(1);
                if let Some((slot, len)) = in_flight.iter().nth(which) {
                    let at = usize::from(index % SIZE);
                    // Slots own two descriptors each.
                    let mut element = (u32::from(*slot) * 2).to_le_bytes().to_vec();
                    element.extend(u32::try_from(*len).expect("at most 256").to_le_bytes());
                    liar.scribble(0, RING_ENTRIES + 8 * at, &element);
                    index = index.wrapping_add(1);
                }
            }
            SCRIBBLE => {
                let offset = usize::from(script.word());
                let len = usize::from(script.byte());
                liar.scribble(0, offset, script.bytes(len));
            }
            _ => {
                liar.scribble(0, RING_INDEX, &index.to_le_bytes());
                // Behind a broken rule nothing can be believed, and the driver resets.
                let Ok(used) = queue.poll() else { return };
                if let Some(used) = used {
                    let len_max = in_flight
                        .remove(&used.slot)
                        .expect("only what is in flight");
                    let mut result = vec![0; used.len as usize];
                    assert!(result.len() <= len_max);
                    queue.read_result(used.slot, &mut result);
                    let _ = queue.read_last(used.slot);
                    queue.release(used.slot);
                }
            }
        }
        assert_eq!(usize::from(queue.in_flight()), in_flight.len());
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![
        vec![
            POST, 16, COMPLETE, 0, POLL, POST, 200, POST, 3, COMPLETE, 1, COMPLETE, 0, POLL, POLL,
        ],
        vec![
            POST,
            0,
            SET_ELEMENT,
            0,
            0,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            SET_INDEX,
            1,
            0,
            POLL,
            POLL,
        ],
        vec![POST, 9, SCRIBBLE, 0, 0, 4, 1, 0, 1, 0, POLL],
    ]
}
