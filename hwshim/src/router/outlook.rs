//! What a request would meet now, to be read without a lock.
//!
//! Who holds the router's lock writes it down before letting go of it, as far as somebody has asked:
//! a server has keys of one class or two, and most callers never ask. A reader may see half of one
//! note and half of the next: what follows is a choice that was right a moment ago or will be, and
//! the router decides again when the request comes.

use super::choice::{Caller, Choice, Gathering, Prospect, Reason, Situation};
use super::core::{Offload, Options};
use crate::accelerator::Algorithm;
use crate::accelerator::class::Class;
use crate::clock::nanos;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What has been written down last.
#[derive(Debug)]
pub(super) struct Outlook {
    classes: [Forecast; Class::ALL.len()],
    /// What is written down, as [`Interest`].
    interest: AtomicU32,
    /// Algorithms that some accelerator in use takes, by [`Offload::bit`].
    taken: AtomicU32,
    running: AtomicUsize,
    in_flight: AtomicUsize,
    announced: AtomicUsize,
    /// Requests that software does now and the core never hears of.
    beside: AtomicUsize,
}

/// How often what software does beside the core is timed: often enough to follow a processor that
/// changes its pace, and so rarely that the lock it takes is not felt.
const TIMED_EVERY: u32 = 16;

/// What somebody has asked about: some algorithms, and some classes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Interest(u32);

#[derive(Debug)]
struct Forecast {
    software_ns: AtomicU64,
    host_ns: AtomicU64,
    /// Zero if the accelerator does not gather requests.
    batch_size: AtomicUsize,
    batch_takes_ns: AtomicU64,
    batch_in_flight: AtomicUsize,
    /// `u64::MAX` if no accelerator has room.
    latency_ns: AtomicU64,
    at_worst_ns: AtomicU64,
    /// After how many that were told to stay in software one is to be tried, `u32::MAX` for never.
    tried_every: AtomicU32,
    /// How many were told so since the last that was to be tried.
    passed_over: AtomicU32,
    /// How many were told so before that one, which the core has not heard of.
    unheard: AtomicU32,
    /// How many software has begun beside the core.
    begun: AtomicU32,
}

impl Interest {
    /// An algorithm, and the class of a request of it.
    pub(super) fn of(algorithm: Algorithm, class: Class) -> Self {
        Self(Offload::bit(algorithm) | Self::bit(class))
    }

    /// A bit for each class, above those for algorithms.
    const fn bit(class: Class) -> u32 {
        1 << (Offload::BITS + class.index())
    }

    pub(super) const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    pub(super) fn algorithms(self) -> impl Iterator<Item = Algorithm> {
        Algorithm::all().filter(move |algorithm| self.0 & Offload::bit(*algorithm) != 0)
    }

    pub(super) fn classes(self) -> impl Iterator<Item = Class> {
        let classes = Class::ALL.into_iter();
        classes.filter(move |class| self.0 & Self::bit(*class) != 0)
    }

    pub(super) const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This and `other`.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Outlook {
    /// Nothing is known of any accelerator.
    pub(super) fn new() -> Self {
        Self {
            classes: Class::ALL.map(|class| Forecast {
                software_ns: AtomicU64::new(nanos(class.prior().software)),
                host_ns: AtomicU64::new(0),
                batch_size: AtomicUsize::new(0),
                batch_takes_ns: AtomicU64::new(0),
                batch_in_flight: AtomicUsize::new(0),
                latency_ns: AtomicU64::new(u64::MAX),
                at_worst_ns: AtomicU64::new(u64::MAX),
                tried_every: AtomicU32::new(u32::MAX),
                passed_over: AtomicU32::new(0),
                unheard: AtomicU32::new(0),
                begun: AtomicU32::new(0),
            }),
            interest: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            announced: AtomicUsize::new(0),
            beside: AtomicUsize::new(0),
        }
    }

    /// What is written down.
    pub(super) fn interest(&self) -> Interest {
        // Whoever finds it here finds what was written before as well.
        Interest(self.interest.load(Ordering::Acquire))
    }

    /// Says what is written down from now on, for the first time already. Only for who holds the lock.
    pub(super) fn set_interest(&self, interest: Interest) {
        self.interest.store(interest.0, Ordering::Release);
    }

    /// Writes down what a request of `class` would meet, and after how many that stay in software
    /// one is to be tried.
    pub(super) fn write(
        &self,
        class: Class,
        software: Duration,
        prospect: Option<Prospect>,
        every: Option<u32>,
    ) {
        let forecast = &self.classes[class.index()];
        let every = every.unwrap_or(u32::MAX);
        forecast.tried_every.store(every, Ordering::Relaxed);
        let software = nanos(software);
        forecast.software_ns.store(software, Ordering::Relaxed);
        forecast.write(prospect);
    }

    /// Writes down which algorithms are taken.
    pub(super) fn write_taken(&self, algorithms: impl Iterator<Item = Algorithm>) {
        let taken = algorithms.fold(0, |taken, algorithm| taken | Offload::bit(algorithm));
        self.taken.store(taken, Ordering::Relaxed);
    }

    /// Writes down what is under way.
    pub(super) fn write_present(&self, running: usize, in_flight: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }

    /// Counts a request that is to come.
    pub(super) fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less: it has come, or does not.
    pub(super) fn withdraw(&self) {
        self.announced.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests that are to come.
    pub(super) fn announced(&self) -> usize {
        self.announced.load(Ordering::Relaxed)
    }

    /// Requests that accelerators have.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request that software does without the core, until what is returned is dropped.
    pub(super) fn begin_beside(&self) -> Beside<'_> {
        self.beside.fetch_add(1, Ordering::Relaxed);
        Beside(&self.beside)
    }

    /// Requests that software does now without the core.
    pub(super) fn beside(&self) -> usize {
        self.beside.load(Ordering::Relaxed)
    }

    /// Whether one of `class` that begins beside the core is to be timed. The first is.
    pub(super) fn is_timed(&self, class: Class) -> bool {
        let begun = &self.classes[class.index()].begun;
        let before = begun.fetch_add(1, Ordering::Relaxed);
        before.is_multiple_of(TIMED_EVERY)
    }

    /// Where a request is to go: by what was written down last, but for one of many, by which is found
    /// out whether that is still true.
    pub(super) fn choose(
        &self,
        algorithm: Algorithm,
        class: Class,
        caller: Caller,
        options: &Options,
    ) -> Choice {
        let choice = self.weigh(algorithm, class, caller, options);
        let is_passed_over = matches!(
            choice,
            Choice::Software(
                Reason::SoonerInSoftware | Reason::QueueTooLong | Reason::CostsMoreHere
            )
        );
        if is_passed_over && self.classes[class.index()].pass_over() {
            return Choice::Accelerator;
        }
        choice
    }

    /// How many the core has not heard of, that were told to stay in software before one that was to
    /// be tried.
    pub(super) fn take_unheard(&self, class: Class) -> u32 {
        let unheard = &self.classes[class.index()].unheard;
        // Most often there are none, and to look costs less than to take.
        match unheard.load(Ordering::Relaxed) {
            0 => 0,
            _ => unheard.swap(0, Ordering::Relaxed),
        }
    }

    /// Where a request would go by what was written down last.
    fn weigh(
        &self,
        algorithm: Algorithm,
        class: Class,
        caller: Caller,
        options: &Options,
    ) -> Choice {
        if !options.offload.includes(algorithm) {
            return Choice::Software(Reason::NotOffloaded);
        }
        let forecast = &self.classes[class.index()];
        let prospect = self.prospect(algorithm, class);
        if options.offload.is_always() && prospect.is_some() {
            return Choice::Accelerator;
        }
        let situation = Situation {
            caller,
            software: read(&forecast.software_ns),
            running: self.running.load(Ordering::Relaxed) + self.beside(),
            in_flight: self.in_flight(),
            announced: self.announced(),
            cores: options.cores,
            left: options.timeout,
        };
        situation.choose(prospect)
    }

    /// Where a request would go that software cannot do.
    pub(super) fn choose_for_key_elsewhere(&self, algorithm: Algorithm, class: Class) -> Choice {
        match self.prospect(algorithm, class) {
            Some(_) => Choice::Accelerator,
            None => Choice::Software(Reason::NoAccelerator),
        }
    }

    fn prospect(&self, algorithm: Algorithm, class: Class) -> Option<Prospect> {
        let forecast = &self.classes[class.index()];
        let is_taken = self.taken.load(Ordering::Relaxed) & Offload::bit(algorithm) != 0;
        let has_room = forecast.latency_ns.load(Ordering::Relaxed) != u64::MAX;
        (is_taken && has_room).then(|| forecast.prospect())
    }
}

/// Software at work without the core.
#[must_use = "it counts until it is dropped"]
pub(super) struct Beside<'a>(&'a AtomicUsize);

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Forecast {
    fn write(&self, prospect: Option<Prospect>) {
        let Some(prospect) = prospect else {
            self.latency_ns.store(u64::MAX, Ordering::Relaxed);
            return;
        };
        let time = |time: &AtomicU64, value| {
            // Never is for what no accelerator takes.
            time.store(nanos(value).min(u64::MAX - 1), Ordering::Relaxed);
        };
        time(&self.latency_ns, prospect.latency);
        time(&self.at_worst_ns, prospect.at_worst);
        time(&self.host_ns, prospect.host);
        let size = prospect.batch.map_or(0, |batch| batch.size);
        self.batch_size.store(size, Ordering::Relaxed);
        if let Some(batch) = prospect.batch {
            time(&self.batch_takes_ns, batch.takes);
            let in_flight = batch.in_flight;
            self.batch_in_flight.store(in_flight, Ordering::Relaxed);
        }
    }

    fn prospect(&self) -> Prospect {
        let size = self.batch_size.load(Ordering::Relaxed);
        Prospect {
            latency: read(&self.latency_ns),
            at_worst: read(&self.at_worst_ns),
            host: read(&self.host_ns),
            batch: (size > 0).then(|| Gathering {
                takes: read(&self.batch_takes_ns),
                size,
                in_flight: self.batch_in_flight.load(Ordering::Relaxed),
            }),
        }
    }

    /// Counts a request that stays in software. Returns true instead if it is the one to be tried.
    fn pass_over(&self) -> bool {
        let every = self.tried_every.load(Ordering::Relaxed);
        if every == u32::MAX {
            return false;
        }
        let count = |before: u32| before.saturating_add(1);
        let counted =
            self.passed_over
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                    let now = count(before);
                    Some(if now >= every { 0 } else { now })
                });
        let now = counted.map_or(0, count);
        // Of those who ask at the same time one sees the number full.
        if now >= every {
            self.unheard.store(now, Ordering::Relaxed);
        }
        now >= every
    }
}

fn read(nanos: &AtomicU64) -> Duration {
    Duration::from_nanos(nanos.load(Ordering::Relaxed))
}
