//! The accelerators of a terminator, and an owner for each card among them: a thread that reads its
//! health, tests it and publishes its telemetry page, as `hwshim serve` does.
//!
//! Each has a thread of its own, as a card that hangs may hold up who reads it. TLS is served with
//! or without them.

use crate::cli::output::Failure;
use hwshim::accelerator::Accelerator;
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock as _, SystemClock};
use hwshim::owner::{self, Owner, Schedule};
use hwshim::router::Router;
use hwshim::router::core::{Offload, Options};
use hwshim::stop::Stop;
use hwshim::telemetry::{PublishError, Publisher};
use hwshim::virtio::HealthPort;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Owners at work.
pub(super) struct Cards {
    stop: Arc<Stop>,
    owners: Vec<JoinHandle<()>>,
}

impl Cards {
    /// Prepares accelerators, and a router over them. One that is away is used when it comes.
    pub(super) fn open(
        addresses: &[Address],
        directory: &Path,
        offload: Offload,
        timeout: Duration,
    ) -> Result<(Self, Router), Failure> {
        let mut accelerators = Vec::new();
        let mut pages = Vec::new();
        for (lane, address) in addresses.iter().enumerate() {
            let (accelerator, page) = open(address, directory)?;
            accelerators.push(accelerator);
            pages.extend(page.map(|(health, publisher)| (lane, address, health, publisher)));
        }
        let options = Options {
            offload,
            timeout,
            ..Options::default()
        };
        let router = Router::start(accelerators, options)
            .map_err(|error| Failure::new("the router does not start", error))?;
        let threads = |error| Failure::new("owners of the cards do not start", error);
        let stop = Arc::new(Stop::new().map_err(threads)?);
        let mut owners = Vec::new();
        for (lane, address, health, publisher) in pages {
            let name = address.to_string();
            let schedule = Schedule::default();
            let owner = Owner::new(router.clone(), lane, health, publisher, &name, schedule);
            owners.push(spawn(owner, name, Arc::clone(&stop)).map_err(threads)?);
        }
        Ok((Self { stop, owners }, router))
    }

    /// Lets go of the cards, and publishes that.
    pub(super) fn release(self) {
        self.stop.request();
        for owner in self.owners {
            // One that panicked has said so.
            let _ = owner.join();
        }
    }
}

/// A card's health port and page; software has neither.
type Page = (Option<HealthPort>, Publisher);

fn open(
    address: &Address,
    directory: &Path,
) -> Result<(Box<dyn Accelerator>, Option<Page>), Failure> {
    let name = address.to_string();
    let publisher = match address {
        Address::Software(_) => None,
        // First of all, so that a second owner is turned away before it touches the card.
        Address::Pci(_) | Address::VfioUser(_) => {
            let created = Publisher::create(directory, &name);
            Some(created.map_err(|error| cannot_publish(&name, error))?)
        }
    };
    let Opened {
        accelerator,
        health,
    } = address
        .open_accelerator()
        .map_err(|error| Failure::new(format!("{name} could not be prepared"), error))?;
    Ok((accelerator, publisher.map(|publisher| (health, publisher))))
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
