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
//! Whoever waits may look only when it is woken: that is said under the same lock as what has changed, and
//! done after it is let go of. Waking somebody, and forgetting how, runs code of others, which may come
//! back here: a task that is dropped as it is woken gives its request up. Whose operation it was, and what
//! becomes of it, is not decided here.

use super::core::Arrival;
use crate::accelerator::RequestId;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

/// The places.
#[derive(Default)]
pub(super) struct Waiting {
    /// By the index of the request.
    places: Vec<Place>,
    left: Left,
}

/// What is left to be done when the lock is let go of.
#[derive(Default)]
#[must_use = "who waits is not woken otherwise"]
pub(super) struct Left {
    to_wake: Vec<Waker>,
    to_drop: Vec<Waker>,
}

impl Left {
    /// Does it. Nobody may hold the lock.
    pub(super) fn finish(self) {
        let Self { to_wake, to_drop } = self;
        to_wake.into_iter().for_each(Waker::wake);
        drop(to_drop);
    }
}

#[derive(Default)]
enum Place {
    #[default]
    Nobody,
    Waiting(RequestId, Waker),
    Arrived(Arrival),
}

impl Waiting {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            left: Left {
                to_wake: Vec::new(),
                to_drop: Vec::new(),
            },
        }
    }

    /// Takes out what is left to be done, for who lets go of the lock; most have nothing.
    #[inline]
    pub(super) fn take_left(&mut self) -> Option<Left> {
        let Left { to_wake, to_drop } = &self.left;
        let is_done = to_wake.is_empty() && to_drop.is_empty();
        (!is_done).then(|| std::mem::take(&mut self.left))
    }

    /// `id` is waited for by who is woken so.
    pub(super) fn expect(&mut self, id: RequestId, waker: Waker) {
        let index = id.index as usize;
        if self.places.len() <= index {
            self.places.resize_with(index + 1, Place::default);
        }
        // Whoever had the place has settled, and so left nothing in it.
        self.places[index] = Place::Waiting(id, waker);
    }

    /// Keeps what has arrived for who waits for it, and is woken. Returns whether anybody does.
    pub(super) fn deliver(&mut self, arrival: Arrival) -> bool {
        let Some(place) = self.places.get_mut(arrival.id.index as usize) else {
            return false;
        };
        match place {
            Place::Waiting(id, _) if *id == arrival.id => {}
            _ => return false,
        }
        if let Place::Waiting(_, waker) = std::mem::replace(place, Place::Arrived(arrival)) {
            self.left.to_wake.push(waker);
        }
        true
    }

    /// What has arrived of `id`. If nothing has yet, `waker` is woken when it does; `None` if it will
    /// not: who delivers has ended.
    pub(super) fn take(&mut self, id: RequestId, waker: &Waker) -> Poll<Option<Arrival>> {
        let Some(place) = self.places.get_mut(id.index as usize) else {
            return Poll::Ready(None);
        };
        match place {
            Place::Waiting(waiting, known) if *waiting == id => {
                if !known.will_wake(waker) {
                    let other = std::mem::replace(known, waker.clone());
                    self.left.to_drop.push(other);
                }
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
        let Some(place) = self.places.get_mut(id.index as usize) else {
            return false;
        };
        let is_of_it = match place {
            Place::Waiting(waiting, _) => *waiting == id,
            Place::Arrived(arrival) => arrival.id == id,
            Place::Nobody => false,
        };
        match is_of_it.then(|| std::mem::take(place)) {
            Some(Place::Waiting(_, waker)) => {
                self.left.to_drop.push(waker);
                true
            }
            Some(Place::Arrived(_) | Place::Nobody) | None => false,
        }
    }

    /// Nothing more will be delivered; what was, can still be taken.
    pub(super) fn end(&mut self) {
        for place in &mut self.places {
            if let Place::Waiting(..) = place
                && let Place::Waiting(_, waker) = std::mem::take(place)
            {
                self.left.to_wake.push(waker);
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
    /// One for this thread: always the same, but for a thread that is ending, which may have lost its own
    /// and can still wait for what it asks. So it is asked for once for each request.
    pub(super) fn for_this_thread() -> Arc<Self> {
        thread_local! {
            static BELL: Arc<Bell> = Arc::default();
        }
        BELL.try_with(Arc::clone).unwrap_or_default()
    }

    /// Waits until it is rung, but no longer than `patience`. Says whether it was.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let was_rung = self.was_rung.lock();
        let was_rung = was_rung.unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .rings
            .wait_timeout_while(was_rung, patience, |was_rung| !*was_rung);
        let (mut was_rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *was_rung)
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
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "the lock is held");
        waiting.take_left().unwrap().finish();
        assert!(waiting.take_left().is_none());
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
        waiting.take_left().unwrap().finish();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(waiting.take(id(1, 0), &waker), Poll::Ready(None)));
        assert!(matches!(
            waiting.take(id(0, 0), &waker),
            Poll::Ready(Some(_))
        ));
    }

    #[test]
    fn a_thread_hears_a_bell_that_was_rung_before_and_once_and_uses_up_no_wake_up_of_others() {
        // As an executor of this thread's has it, which polls meanwhile.
        std::thread::current().unpark();
        let bell = Bell::for_this_thread();
        bell.wake_by_ref();
        assert!(bell.wait(Duration::MAX));
        let ringer = Arc::clone(&bell);
        let rang = std::thread::spawn(move || ringer.wake_by_ref());
        assert!(bell.wait(Duration::MAX));
        rang.join().unwrap();
        assert!(!*bell.was_rung.lock().unwrap());
        std::thread::park();
    }
}
