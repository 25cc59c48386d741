//! The accelerators of a terminator, and an owner for each card among them: a thread that reads its
//! health, tests it and publishes its telemetry page, as `hwshim serve` does.
//!
//! Each has a thread of its own, as a card that hangs may hold up who reads it. TLS is served with
//! or without them.

use super::LIMITS;
use crate::cli::crypto_mb::CryptoMb;
use crate::cli::output::{Failure, with_causes};
use crate::cli::serve::page_hint;
use card_spec::telemetry::Page;
use hwshim::accelerator::Accelerator;
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock as _, SystemClock};
use hwshim::owner::{self, Cardless, Claim, Owner, Schedule};
use hwshim::router::Router;
use hwshim::router::core::Options;
use hwshim::stop::Stop;
use hwshim::telemetry::{PublishError, Publisher};
use hwshim::terminator::Watch;
use hwshim::virtio::HealthPort;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Owners at work. Dropped, they let go of the cards, and publish that.
pub(super) struct Cards {
    stop: Arc<Stop>,
    owners: Vec<JoinHandle<()>>,
    warn: SyncSender<String>,
    warnings: Receiver<String>,
}

/// A card that will have an owner, and the thread that waits for that.
struct Owned {
    lane: usize,
    name: String,
    health: Option<HealthPort>,
    claim: Claim,
    thread: SyncSender<Owner>,
}

impl Cards {
    /// Prepares accelerators, and a router over them. One that is away is used when it comes. What
    /// `tls` shows, once something does, is on their pages.
    pub(super) fn open(
        addresses: &[Address],
        crypto_mb: &CryptoMb,
        directory: &Path,
        options: Options,
        tls: &Arc<OnceLock<Watch>>,
    ) -> Result<(Self, Router), Failure> {
        let threads = |error| Failure::new("owners of the cards do not start", error).hint(LIMITS);
        // Each owner warns once, and so does whoever publishes that there is none.
        let (warn, warnings) = sync_channel(addresses.len() + 1);
        let mut cards = Self {
            stop: Arc::new(Stop::new().map_err(threads)?),
            owners: Vec::new(),
            warn: warn.clone(),
            warnings,
        };
        // Given up, a card is free before anybody is told that it is, and that before its thread is
        // waited for. Whatever can fail does before a router drives any.
        let mut claims = Vec::new();
        let mut accelerators = Vec::new();
        for (lane, address) in addresses.iter().enumerate() {
            let (accelerator, claim) = open(address, crypto_mb, directory)?;
            accelerators.push(accelerator);
            if let Some((health, claim)) = claim {
                let name = address.to_string();
                let (thread, owner) =
                    spawn(name.clone(), Arc::clone(&cards.stop), warn.clone()).map_err(threads)?;
                cards.owners.push(owner);
                claims.push(Owned {
                    lane,
                    name,
                    health,
                    claim,
                    thread,
                });
            }
        }
        let router = Router::start(accelerators, options)
            .map_err(|error| Failure::new("the router does not start", error).hint(LIMITS))?;
        for owned in claims {
            let Owned {
                lane,
                name,
                health,
                claim,
                thread,
            } = owned;
            let publisher = claim.into_publisher();
            let schedule = Schedule::default();
            let tls = Arc::clone(tls);
            let owner = Owner::new(router.clone(), lane, health, publisher, &name, schedule)
                .adding(move |page| page.tls = tls.get().map_or(page.tls, Watch::page));
            // It waits for this, and there is room.
            let _ = thread.send(owner);
        }
        Ok((cards, router))
    }

    /// Has what `watch` sees published by itself, under the name of `listening`, if there is no card on
    /// whose page it could be. Clients are served without that as well.
    pub(super) fn publish_without_a_card(
        &mut self,
        router: &Router,
        listening: SocketAddr,
        directory: &Path,
        watch: &Watch,
    ) -> io::Result<()> {
        if !self.owners.is_empty() {
            return Ok(());
        }
        let (router, watch) = (router.clone(), watch.clone());
        let (directory, name) = (directory.to_owned(), format!("serve-tls:{listening}"));
        let (stop, warn) = (Arc::clone(&self.stop), self.warn.clone());
        // Creating a file may take as long as a disk likes.
        let publish = move || {
            let mut told = false;
            loop {
                let created = Publisher::create_for_router(&directory, &name);
                let published = created.and_then(|publisher| {
                    let watch = watch.clone();
                    let tls = move |page: &mut Page| page.tls = watch.page();
                    Cardless::new(router.clone(), publisher, &name, Schedule::default(), tls)
                        .run(&SystemClock, &stop)
                });
                let Err(error) = published else {
                    return;
                };
                if !told {
                    // There is room for one.
                    let _ = warn.try_send(unpublished(&error));
                    told = true;
                }
                // One that drains has the page until it ends, and a disk has room again.
                if stop.wait(Duration::from_secs(1)) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("hwshim-page".to_owned());
        self.owners.push(thread.spawn(publish)?);
        Ok(())
    }

    /// What owners have to say that an operator should know, since this was last asked.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.warnings.try_iter()
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

/// What software has none of: a health port, and a page.
type Claimed = (Option<HealthPort>, Claim);

fn open(
    address: &Address,
    crypto_mb: &CryptoMb,
    directory: &Path,
) -> Result<(Box<dyn Accelerator>, Option<Claimed>), Failure> {
    let name = address.to_string();
    let claim = match address {
        Address::Software(_) => None,
        Address::Pci(_) | Address::VfioUser(_) => {
            let claimed = Claim::new(directory, &name);
            Some(claimed.map_err(|error| cannot_publish(&name, error))?)
        }
    };
    let Opened {
        accelerator,
        health,
    } = address
        .open_accelerator_with(&crypto_mb.options())
        .map_err(|error| Failure::new(format!("{name} could not be prepared"), error))?;
    Ok((accelerator, claim.map(|claim| (health, claim))))
}

/// That nobody is shown what becomes of handshakes, and what to do.
fn unpublished(error: &PublishError) -> String {
    let what_to_do = match error {
        PublishError::Owned { .. } => {
            "it is published as soon as the process ends that has the page"
        }
        error => page_hint(error),
    };
    let why = with_causes(error);
    format!(
        "handshakes are served, but what becomes of them is on no telemetry page: {why}; {what_to_do}"
    )
}

fn cannot_publish(name: &str, error: PublishError) -> Failure {
    let hint = page_hint(&error);
    Failure::new(format!("{name} cannot be owned"), error).hint(hint)
}

/// A thread that waits for an owner, and does its rounds until `stop` is requested. What it has to say
/// others say, as it must not wait for whoever reads that.
fn spawn(
    name: String,
    stop: Arc<Stop>,
    warn: SyncSender<String>,
) -> io::Result<(SyncSender<Owner>, JoinHandle<()>)> {
    let (give, given) = sync_channel::<Owner>(1);
    let rounds = move || {
        let Ok(mut owner) = given.recv() else {
            return;
        };
        let mut told = false;
        while let Err(error) = owner::run(&mut owner, &SystemClock, &stop) {
            if !told {
                // There is room for one of each.
                let _ = warn.try_send(format!(
                    "{name} is used, but its telemetry page cannot be published: {error}"
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
    let thread = std::thread::Builder::new()
        .name("hwshim-owner".to_owned())
        .spawn(rounds)?;
    Ok((give, thread))
}
