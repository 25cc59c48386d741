//! Who waits for which request, and what has arrived for whom.
//!
//! One place for each request in flight, which is used again: a channel for each would be made and
//! thrown away with every request.
//!
//! ```text
//!            expect            deliver              take
//!   NOBODY ---------> WAITING ---------> ARRIVED ---------> NOBODY
//!                        |                  |
//!                        +---- forget ------+-------------> NOBODY
//!                        +---- end -----------------------> NOBODY, and is woken
//! ```
//!
//! Whoever waits is woken after its place has changed, and under the same lock, so it may look only
//! when it is woken. Whose operation it was, and what becomes of it, is not decided here.

use super::core::Arrival;
use crate::accelerator::RequestId;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};

/// The places, by the index of the request.
#[derive(Default)]
pub(super) struct Waiting(Vec<Place>);

#[derive(Default)]
enum Place {
    #[default]
    Nobody,
    Waiting(RequestId, Waker),
    Arrived(Arrival),
}

impl Waiting {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `id` is waited for by who is woken so.
    pub(super) fn expect(&mut self, id: RequestId, waker: Waker) {
        let index = id.index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Place::default);
        }
        self.0[index] = Place::Waiting(id, waker);
    }

    /// Keeps what has arrived for who waits for it, and wakes that. Returns whether anybody does.
    pub(super) fn deliver(&mut self, arrival: Arrival) -> bool {
        let Some(place) = self.0.get_mut(arrival.id.index as usize) else {
            return false;
        };
        match place {
            Place::Waiting(id, _) if *id == arrival.id => {}
            _ => return false,
        }
        if let Place::Waiting(_, waker) = std::mem::replace(place, Place::Arrived(arrival)) {
            waker.wake();
        }
        true
    }

    /// What has arrived of `id`. If nothing has yet, `waker` is woken when it does; `None` if it will
    /// not: who delivers has ended.
    pub(super) fn take(&mut self, id: RequestId, waker: &Waker) -> Poll<Option<Arrival>> {
        let Some(place) = self.0.get_mut(id.index as usize) else {
            return Poll::Ready(None);
        };
        match place {
            Place::Waiting(waiting, known) if *waiting == id => {
                known.clone_from(waker);
                Poll::Pending
            }
            Place::Arrived(arrival) if arrival.id == id => match std::mem::take(place) {
                Place::Arrived(arrival) => Poll::Ready(Some(arrival)),
                Place::Nobody | Place::Waiting(..) => Poll::Ready(None),
            },
            _ => Poll::Ready(None),
        }
    }

    /// Nobody waits for `id` any more. Returns false if nobody did: it was delivered.
    pub(super) fn forget(&mut self, id: RequestId) -> bool {
        let Some(place) = self.0.get_mut(id.index as usize) else {
            return false;
        };
        let (was_waiting, is_of_it) = match place {
            Place::Waiting(waiting, _) => (*waiting == id, *waiting == id),
            Place::Arrived(arrival) => (false, arrival.id == id),
            Place::Nobody => (false, false),
        };
        if is_of_it {
            *place = Place::Nobody;
        }
        was_waiting
    }

    /// Nothing more will be delivered; what was, can still be taken.
    pub(super) fn end(&mut self) {
        for place in &mut self.0 {
            if let Place::Waiting(..) = place
                && let Place::Waiting(_, waker) = std::mem::take(place)
            {
                waker.wake();
            }
        }
    }
}

/// Wakes a thread that waits for it, also if it was rung before. It is not the thread's own token of
/// [`std::thread::park`], which may be meant for the executor that the thread runs.
#[derive(Default)]
pub(super) struct Bell {
    was_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    /// That of this thread.
    pub(super) fn of_this_thread() -> Arc<Self> {
        thread_local! {
            static BELL: Arc<Bell> = Arc::default();
        }
        // A thread that is ending can still wait for what it asks.
        BELL.try_with(Arc::clone).unwrap_or_default()
    }

    /// Waits until it is rung.
    pub(super) fn wait(&self) {
        let was_rung = self.was_rung.lock();
        let was_rung = was_rung.unwrap_or_else(PoisonError::into_inner);
        let was_rung = self.rings.wait_while(was_rung, |was_rung| !*was_rung);
        *was_rung.unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.was_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rings.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::{DeviceError, Operation};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const fn id(index: u32, generation: u32) -> RequestId {
        RequestId { index, generation }
    }

    fn arrival(id: RequestId) -> Arrival {
        Arrival {
            id,
            operation: Arc::new(Operation::Digest {
                hash: crate::key::HashAlgorithm::Sha256,
                message: crate::accelerator::Secret::from(&b"message"[..]),
            }),
            answer: Err(DeviceError::TimedOut),
            share: None,
        }
    }

    #[test]
    fn what_arrives_is_taken_once_by_who_waits_for_it_and_nobody_else() {
        let mut waiting = Waiting::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(!waiting.deliver(arrival(id(7, 0))), "nobody waits");
        waiting.expect(id(7, 1), waker.clone());
        assert!(!waiting.deliver(arrival(id(7, 0))), "one before it");
        assert!(waiting.take(id(7, 1), &waker).is_pending());
        assert!(waiting.deliver(arrival(id(7, 1))));
        assert!(!waiting.deliver(arrival(id(7, 1))), "it has it");
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(waiting.take(id(7, 2), &waker), Poll::Ready(None)));
        let Poll::Ready(Some(taken)) = waiting.take(id(7, 1), &waker) else {
            panic!("it was delivered");
        };
        assert_eq!(taken.id, id(7, 1));
        assert!(matches!(waiting.take(id(7, 1), &waker), Poll::Ready(None)));
    }

    #[test]
    fn who_is_forgotten_was_waiting_or_has_been_delivered_to() {
        let mut waiting = Waiting::new();
        assert!(!waiting.forget(id(0, 0)));
        waiting.expect(id(0, 0), Waker::noop().clone());
        assert!(!waiting.forget(id(0, 1)), "another");
        assert!(waiting.forget(id(0, 0)));
        assert!(!waiting.deliver(arrival(id(0, 0))));
        waiting.expect(id(0, 1), Waker::noop().clone());
        assert!(waiting.deliver(arrival(id(0, 1))));
        assert!(!waiting.forget(id(0, 1)));
        assert!(matches!(
            waiting.take(id(0, 1), Waker::noop()),
            Poll::Ready(None)
        ));
    }

    #[test]
    fn the_end_wakes_who_waits_and_leaves_what_has_arrived() {
        let mut waiting = Waiting::new();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        waiting.expect(id(0, 0), Waker::noop().clone());
        waiting.expect(id(1, 0), waker.clone());
        assert!(waiting.deliver(arrival(id(0, 0))));
        waiting.end();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(waiting.take(id(1, 0), &waker), Poll::Ready(None)));
        assert!(matches!(
            waiting.take(id(0, 0), &waker),
            Poll::Ready(Some(_))
        ));
    }

    #[test]
    fn a_thread_hears_a_bell_that_was_rung_before_and_once() {
        let bell = Bell::of_this_thread();
        bell.wake_by_ref();
        bell.wait();
        let ringer = Arc::clone(&bell);
        let rang = std::thread::spawn(move || ringer.wake_by_ref());
        bell.wait();
        rang.join().unwrap();
        assert!(!*bell.was_rung.lock().unwrap());
    }
}
