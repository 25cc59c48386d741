//! The accelerators of a terminator, and an owner for each card among them: a thread that reads its
//! health, tests it and publishes its telemetry page, as `hwshim serve` does.
//!
//! Each has a thread of its own, as a card that hangs may hold up who reads it. TLS is served with
//! or without them.

use crate::cli::output::Failure;
use card_spec::telemetry::{Page, card_state, padded};
use hwshim::accelerator::Accelerator;
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock as _, SystemClock};
use hwshim::owner::{self, Owner, Schedule};
use hwshim::router::Router;
use hwshim::router::core::{Offload, Options};
use hwshim::stop::Stop;
use hwshim::telemetry::{PublishError, Publisher};
use hwshim::terminator::Watch;
use hwshim::virtio::HealthPort;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Owners at work. Dropped, they let go of the cards, and publish that.
pub(super) struct Cards {
    stop: Arc<Stop>,
    owners: Vec<JoinHandle<()>>,
}

impl Cards {
    /// Prepares accelerators, and a router over them. One that is away is used when it comes. What
    /// `tls` shows, once something does, is on their pages.
    pub(super) fn open(
        addresses: &[Address],
        directory: &Path,
        offload: Offload,
        timeout: Duration,
        tls: &Arc<OnceLock<Watch>>,
    ) -> Result<(Self, Router), Failure> {
        // Given up, a card is free before anybody is told that it is.
        let mut claims = Vec::new();
        let mut accelerators = Vec::new();
        for (lane, address) in addresses.iter().enumerate() {
            let (accelerator, claim) = open(address, directory)?;
            accelerators.push(accelerator);
            claims.extend(claim.map(|(health, claim)| (lane, health, claim)));
        }
        let options = Options {
            offload,
            timeout,
            ..Options::default()
        };
        let router = Router::start(accelerators, options)
            .map_err(|error| Failure::new("the router does not start", error))?;
        let threads = |error| Failure::new("owners of the cards do not start", error);
        let mut cards = Self {
            stop: Arc::new(Stop::new().map_err(threads)?),
            owners: Vec::new(),
        };
        for (lane, health, claim) in claims {
            let (name, publisher) = claim.take();
            let schedule = Schedule::default();
            let tls = Arc::clone(tls);
            let owner = Owner::new(router.clone(), lane, health, publisher, &name, schedule)
                .adding(move |page| page.tls = tls.get().map_or(page.tls, Watch::page));
            let owner = spawn(owner, name, Arc::clone(&cards.stop)).map_err(threads)?;
            cards.owners.push(owner);
        }
        Ok((cards, router))
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        self.stop.request();
        for owner in self.owners.drain(..) {
            // One that panicked has said so.
            let _ = owner.join();
        }
    }
}

/// A card's page before it has an owner who publishes it. Dropped like that, it says that the card
/// was released: an empty page would be a riddle to whoever watches.
struct Claim {
    name: String,
    publisher: Option<Publisher>,
}

impl Claim {
    fn take(mut self) -> (String, Publisher) {
        let publisher = self.publisher.take();
        let publisher = publisher.expect("only this takes it, and takes the claim as well");
        (std::mem::take(&mut self.name), publisher)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(mut publisher) = self.publisher.take() {
            let now = SystemClock.now();
            let mut page = Page::new();
            page.owner.pid = u64::from(std::process::id()).into();
            page.owner.address = padded(&self.name);
            page.owner.published_at_ns = now.as_nanos().into();
            page.card.state = card_state::RELEASED.into();
            page.card.state_since_ns = now.as_nanos().into();
            // Why nothing is served is about to be said, and says more than this could.
            let _ = publisher.publish(&page);
        }
    }
}

/// What software has none of: a health port, and a page.
type Owned = (Option<HealthPort>, Claim);

fn open(
    address: &Address,
    directory: &Path,
) -> Result<(Box<dyn Accelerator>, Option<Owned>), Failure> {
    let name = address.to_string();
    let claim = match address {
        Address::Software(_) => None,
        // First of all, so that a second owner is turned away before it touches the card.
        Address::Pci(_) | Address::VfioUser(_) => {
            let created = Publisher::create(directory, &name);
            Some(Claim {
                publisher: Some(created.map_err(|error| cannot_publish(&name, error))?),
                name: name.clone(),
            })
        }
    };
    let Opened {
        accelerator,
        health,
    } = address
        .open_accelerator()
        .map_err(|error| Failure::new(format!("{name} could not be prepared"), error))?;
    Ok((accelerator, claim.map(|claim| (health, claim))))
}

fn cannot_publish(name: &str, error: PublishError) -> Failure {
    let hint = match &error {
        PublishError::Os { .. } | PublishError::Untrusted { .. } => {
            "choose a directory this user may write, with --telemetry DIR"
        }
        _ => "a card has one owner: stop the hwshim serve or the application that has it",
    };
    Failure::new(format!("{name} cannot be owned"), error).hint(hint)
}

fn spawn(mut owner: Owner, name: String, stop: Arc<Stop>) -> io::Result<JoinHandle<()>> {
    let rounds = move || {
        let mut told = false;
        while let Err(error) = owner::run(&mut owner, &SystemClock, &stop) {
            if !told {
                crate::cli::output::complain(format_args!(
                    "warning: {name} is used, but its telemetry page cannot be published: {error}"
                ));
                told = true;
            }
            if stop.wait(Duration::from_secs(1)) {
                break;
            }
        }
        // A page that could not be published before is not missed now.
        let _ = owner.release(SystemClock.now());
    };
    std::thread::Builder::new()
        .name("hwshim-owner".to_owned())
        .spawn(rounds)
}
