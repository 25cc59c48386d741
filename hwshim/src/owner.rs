//! Owns a card on behalf of everybody who watches it: reads its health page, tests it on a
//! schedule, and publishes what it knows.
//!
//! [`Owner::tick`] does one round and is told the time; [`serve`] is the stand-alone owner, which
//! does nothing else. An application that holds a card itself runs the same rounds beside its
//! own work. Nothing is judged here: whoever reads the telemetry page does that. What a round is
//! stands in [`Rounds`], which neither publishes nor knows what kind of router it asks.
//!
//! Who watches may ask for a test now, on a socket beside the page; see
//! [`crate::telemetry::live`]. All owners of a host together run twenty tests at a time.

mod cardless;
mod claim;
mod desk;
mod pace;
mod rounds;
mod slots;

pub use cardless::Cardless;
pub use claim::Claim;
pub use pace::TooSoon;
pub use rounds::{Answer, Identity, Lane, Rounds};

use crate::address::{Address, Opened};
use crate::bus::BusError;
use crate::clock::{Clock, Instant, SystemClock, nanos};
use crate::kat;
use crate::key::SignatureScheme;
use crate::router::core::{LaneStatus, Offload, Options};
use crate::router::{Router, StartError};
use crate::stop::Stop;
use crate::telemetry::{PublishError, Publisher, live};
use crate::virtio::HealthPort;
use card_spec::telemetry::Page;
use desk::Desk;
use slots::{Slot, Slots};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a stand-alone owner does.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The card.
    pub card: Address,
    /// Directory for the telemetry page.
    pub telemetry: PathBuf,
    /// Synthetic RSA-2048 signatures per second; 0 for none.
    pub load_per_second: f64,
    /// How the owner goes about it.
    pub schedule: Schedule,
}

/// How often an owner does what.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between two rounds: health page read, telemetry page published. A fifth of the
    /// heartbeat's usual period of 500 ms is enough to see each beat.
    pub publish: Duration,
    /// Time between two known-answer tests, give or take a tenth. After a test that took long the
    /// next one waits longer: they take 1 % of a card's capacity at most.
    pub check: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            publish: Duration::from_millis(100),
            check: Duration::from_secs(10),
        }
    }
}

/// The owner cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// The system lacks resources to drive a card.
    #[error("{address} could not be prepared")]
    Open {
        /// The card.
        address: Address,
        /// Why.
        #[source]
        source: BusError,
    },
    /// The router does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The telemetry page cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The load cannot be generated.
    #[error("the load generator could not be started")]
    Load(#[source] io::Error),
}

/// Owns the card until `stop` is requested, then lets go of it in an orderly way.
///
/// A card that cannot be reached is no error: it is tried again, and the page says how it is. After an
/// error the card has been let go of as well, and the page says so if it can be written.
///
/// # Errors
///
/// See [`OwnerError`].
pub fn serve(config: &ServeConfig, stop: &Stop) -> Result<(), OwnerError> {
    serve_watched(config, stop, |_| ())
}

/// The same, with `look` shown how the card stands: when it is owned, and after each round. Rounds wait
/// for it.
///
/// # Errors
///
/// See [`OwnerError`].
pub fn serve_watched(
    config: &ServeConfig,
    stop: &Stop,
    mut look: impl FnMut(&LaneStatus),
) -> Result<(), OwnerError> {
    let address = config.card.to_string();
    let claim = Claim::new(&config.telemetry, &address)?;
    let opened = config
        .card
        .open_accelerator()
        .map_err(|source| OwnerError::Open {
            address: config.card.clone(),
            source,
        })?;
    let Opened {
        accelerator,
        health,
    } = opened;
    let options = Options {
        // Whatever load there is, is there for the card.
        offload: Offload::default().always(),
        ..Options::default()
    };
    let router = Router::start(vec![accelerator], options)?;
    let mut owner = Owner::new(
        router.clone(),
        0,
        health,
        claim.into_publisher(),
        &address,
        config.schedule,
    );
    let clock = SystemClock;

    let outcome = std::thread::scope(|scope| {
        if config.load_per_second > 0.0 {
            std::thread::Builder::new()
                .name("hwshim-load".to_owned())
                .spawn_scoped(scope, || {
                    generate_load(&router, config.load_per_second, stop)
                })
                .map_err(OwnerError::Load)?;
        }
        look(&owner.routed.status());
        let outcome = run_watched(&mut owner, &clock, stop, look);
        // If publishing failed, the load must end as well.
        stop.request();
        Ok::<(), OwnerError>(outcome?)
    });
    drop(router);
    let released = owner.release(clock.now());
    outcome?;
    Ok(released?)
}

/// Does `owner`'s rounds until `stop` is requested.
///
/// # Errors
///
/// [`PublishError`], after which the rounds may be gone on with.
pub fn run(owner: &mut Owner, clock: &dyn Clock, stop: &Stop) -> Result<(), PublishError> {
    run_watched(owner, clock, stop, |_| ())
}

fn run_watched(
    owner: &mut Owner,
    clock: &dyn Clock,
    stop: &Stop,
    mut look: impl FnMut(&LaneStatus),
) -> Result<(), PublishError> {
    loop {
        owner.tick(clock.now())?;
        look(&owner.routed.status());
        let wait = owner.next_tick().since(clock.now());
        if stop.wait(wait) {
            return Ok(());
        }
    }
}

/// Signs at a steady rate. Falls behind rather than catching up when the card is slower.
fn generate_load(router: &Router, per_second: f64, stop: &Stop) {
    let clock = SystemClock;
    let period = Duration::from_secs_f64(1.0 / per_second.clamp(0.001, 1e6));
    let key = kat::rsa_2048_key();
    let mut next = clock.now();
    for number in 0_u64.. {
        let message = number.to_le_bytes();
        // Every end is counted where it is watched; there is nobody else to tell.
        let _ = router.sign(&key, SignatureScheme::RsaPssSha256, &message);
        let now = clock.now();
        next = next.plus(period).max(now);
        if stop.wait(next.since(now)) {
            return;
        }
    }
}

/// Publishes the telemetry page of one card.
#[derive(Debug)]
pub struct Owner {
    routed: Routed,
    rounds: Rounds,
    publisher: Publisher,
    desk: io::Result<Desk>,
    addition: Option<Addition>,
}

/// What a process that does more than own cards has to say of that.
struct Addition(Box<dyn Fn(&mut Page) + Send>);

impl fmt::Debug for Addition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addition").finish_non_exhaustive()
    }
}

impl Owner {
    /// An owner of the accelerator that `router` has as number `lane`, at `address`.
    ///
    /// # Panics
    ///
    /// If the router has not so many.
    #[must_use]
    pub fn new(
        router: Router,
        lane: usize,
        health: Option<HealthPort>,
        publisher: Publisher,
        address: &str,
        schedule: Schedule,
    ) -> Self {
        assert!(
            lane < router.status().len(),
            "the router has no such accelerator"
        );
        let identity = Identity::of_this_process(address);
        let slots = publisher.directory().ok();
        let first = usize::try_from(identity.pid).unwrap_or(0);
        Self {
            routed: Routed {
                router,
                lane,
                slots: slots.map(|directory| Slots::new(directory, first)),
                slot: None,
            },
            rounds: Rounds::new(&identity, health, schedule),
            desk: publisher
                .directory()
                .and_then(|directory| Desk::listen(directory, address)),
            publisher,
            addition: None,
        }
    }

    /// Has `add` complete each page before it is published: for what the process does with its cards,
    /// of which the router knows nothing.
    #[must_use]
    pub fn adding(mut self, add: impl Fn(&mut Page) + Send + 'static) -> Self {
        self.addition = Some(Addition(Box::new(add)));
        self
    }

    /// Why nobody can ask this owner for a test, if that is so. It owns and publishes all the same.
    #[must_use]
    pub fn cannot_be_asked(&self) -> Option<&io::Error> {
        self.desk.as_ref().err()
    }

    /// When the next round is due.
    #[must_use]
    pub const fn next_tick(&self) -> Instant {
        self.rounds.next()
    }

    /// Does one round: reads the card's health, begins a test if one is due, publishes.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn tick(&mut self, now: Instant) -> Result<(), PublishError> {
        if let Ok(desk) = &mut self.desk
            && desk.attend(now)
            && let Err(TooSoon { retry_after }) = self.rounds.ask(now)
        {
            let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            desk.answer(&live::Answer::TooSoon { retry_after_ms });
        }
        let mut page = *self.rounds.round(&mut self.routed, now);
        if let Some(Addition(add)) = &self.addition {
            add(&mut page);
        }
        self.publisher.publish(&page)?;
        if !self.rounds.is_testing() {
            self.routed.slot = None;
        }
        // Published before it is said, so that whoever asked finds it on the page.
        let answer = self.rounds.take_answer();
        if let Ok(desk) = &mut self.desk {
            if let Some(answer) = answer {
                desk.answer(&said(&answer));
            }
            if !desk.expire(self.rounds.is_testing(), now) {
                self.rounds.forget();
            }
        }
        Ok(())
    }

    /// Publishes that the card has been let go of.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn release(self, now: Instant) -> Result<(), PublishError> {
        let Self {
            routed,
            rounds,
            mut publisher,
            desk,
            addition,
        } = self;
        // Nobody is to ask for what cannot be done any more.
        drop(desk);
        let mut page = rounds.last(&routed, now);
        if let Some(Addition(add)) = &addition {
            add(&mut page);
        }
        // If this was the last router, the card is free before anybody is told that it is. What is added
        // may come from something that has the router as well.
        drop((routed, addition));
        publisher.publish(&page)
    }
}

/// An accelerator of a router that runs on a thread of its own.
#[derive(Debug)]
struct Routed {
    router: Router,
    lane: usize,
    /// `None` if none can be had: then nobody is limited.
    slots: Option<Slots>,
    /// Held while a test is under way.
    slot: Option<Slot>,
}

impl Lane for Routed {
    fn status(&self) -> LaneStatus {
        let mut status = self.router.status().swap_remove(self.lane);
        if self.lane == 0 {
            // What never concerned a card is shown with the first.
            status.requests += self.router.requests_inline();
        }
        status
    }

    fn begin_check(&mut self, _now: Instant) -> bool {
        if let Some(slots) = &self.slots {
            self.slot = slots.take();
            if self.slot.is_none() {
                return false;
            }
        }
        let begun = self.router.begin_check(self.lane);
        if !begun {
            self.slot = None;
        }
        begun
    }

    fn report_silent_reboot(&mut self, _now: Instant) {
        self.router.report_silent_reboot(self.lane);
    }
}

/// An answer as it is sent.
fn said(answer: &Answer) -> live::Answer {
    match answer {
        Answer::NotInUse => live::Answer::NotInUse {},
        Answer::Tested(end) => live::Answer::Tested {
            algorithm: end.algorithm.name().to_owned(),
            result: end.failure.unwrap_or("passed").to_owned(),
            latency_ns: nanos(end.latency),
            ended_at_ns: end.at.as_nanos(),
        },
    }
}
