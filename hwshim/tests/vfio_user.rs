//! The vfio-user client, and the driver on top of it, against the simulated card, over a socket.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use card_spec::crypto::PCI_DEVICE_ID;
use card_spec::health::{MAGIC, PAGE_LEN, register};
use card_spec::virtio_pci::VENDOR_ID;
use firmware_sim::fault::{Fault, Injection, Trigger};
use firmware_sim::{EngineKind, RunConfig, SimulatedCard};
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Operation, Request, RequestId, State,
};
use hwshim::address::Address;
use hwshim::bus::dma::Memory;
use hwshim::bus::vfio_user::{Options, VfioUserFunction};
use hwshim::bus::{Access, BusError, Function};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat::{self, KnownAnswer};
use hwshim::key::HashAlgorithm;
use hwshim::virtio::{self, Card};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

/// The BAR with the health page.
const HEALTH_BAR: u8 = 2;

/// A simulated card, served by threads of this process.
struct Simulation {
    directory: TempDir,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Simulation {
    fn start() -> Self {
        Self::start_with(Vec::new())
    }

    fn start_with(faults: Vec<Injection>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = RunConfig {
            socket: directory.path().join("card.sock"),
            engines: NonZeroUsize::new(2),
            engine: EngineKind::default(),
            queue_size: NonZeroU16::new(256).unwrap(),
            sessions_max: NonZeroUsize::new(64).unwrap(),
            heartbeat_period: 500,
            serial: "SIM-TEST".to_owned(),
            faults,
            scenario: None,
            seed: None,
            speed: 1.0,
            led: None,
            control: None,
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stopped = stop.try_clone().unwrap();
        let card = SimulatedCard::listen(&config).unwrap();
        let thread = thread::spawn(move || card.serve(stopped.as_fd()).unwrap());
        Self {
            directory,
            stop,
            thread: Some(thread),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("card.sock")
    }

    fn connect(&self) -> Arc<VfioUserFunction> {
        VfioUserFunction::connect(&self.socket(), Options { timeout: PATIENT }).unwrap()
    }

    /// The card as the driver sees it, brought up.
    fn card(&self) -> Card {
        let socket = self.socket();
        let connect = Box::new(move || {
            let options = Options { timeout: PATIENT };
            Ok(VfioUserFunction::connect(&socket, options)? as Arc<dyn Function>)
        });
        let mut card = Card::new("simulated", connect, virtio::Options::default()).unwrap();
        card.reset(&mut Vec::new()).unwrap();
        card
    }

    fn stop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

fn wait_for_any(fds: &[BorrowedFd<'_>]) {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(PATIENT).unwrap();
    assert_ne!(poll(&mut fds, Some(&timeout)), Ok(0), "nothing happened");
}

fn perform(card: &mut Card, test: &KnownAnswer) -> Completion {
    let now = SystemClock.now();
    let id = RequestId {
        index: 0,
        generation: 0,
    };
    let request = Request {
        id,
        operation: test.operation().into(),
        deadline: now.plus(PATIENT),
    };
    card.submit(request, now).unwrap();
    card.flush();
    let mut completions = Vec::new();
    loop {
        card.poll(SystemClock.now(), &mut completions);
        if let Some(completion) = completions.pop() {
            return completion;
        }
        if card.arm() {
            wait_for_any(&card.events());
        }
    }
}

#[test]
fn configuration_space_and_the_health_page_are_those_of_a_card() {
    let simulation = Simulation::start();
    let function = simulation.connect();
    let mut ids = [0; 4];
    function.read_config(0, &mut ids).unwrap();
    let [vendor, device] = [[ids[0], ids[1]], [ids[2], ids[3]]].map(u16::from_le_bytes);
    assert_eq!((vendor, device), (VENDOR_ID, PCI_DEVICE_ID));

    assert_eq!(function.bar_len(HEALTH_BAR).unwrap(), PAGE_LEN as u64);
    let mut page = vec![0; PAGE_LEN];
    function.read_bar(HEALTH_BAR, 0, &mut page).unwrap();
    assert_eq!(page[..4], MAGIC.to_le_bytes());
    let mut boot_id = [0; 4];
    function
        .read_bar(HEALTH_BAR, register::BOOT_ID, &mut boot_id)
        .unwrap();
    let offset = usize::try_from(register::BOOT_ID).unwrap();
    assert_eq!(page[offset..offset + 4], boot_id);
}

#[test]
fn an_address_leads_to_the_card_and_names_it() {
    let simulation = Simulation::start();
    let text = format!("vfio-user:{}", simulation.socket().display());
    let function = text.parse::<Address>().unwrap().open_function().unwrap();
    assert_eq!(function.name(), text);
}

#[test]
fn memory_is_given_and_taken_back_and_the_card_can_be_reset() {
    let simulation = Simulation::start();
    let function = simulation.connect();
    let memory = Arc::new(Memory::new(1 << 20).unwrap());
    let reads = function.share(&memory, Access::DeviceReads).unwrap();
    let writes = function.share(&memory, Access::DeviceWrites).unwrap();
    function.unshare(reads).unwrap();
    function.reset().unwrap();
    function.unshare(writes).unwrap();
    assert!(matches!(
        function.unshare(writes),
        Err(BusError::Refused { .. })
    ));
}

#[test]
fn every_known_answer_comes_back_over_the_socket() {
    let simulation = Simulation::start();
    let mut card = simulation.card();
    for test in &kat::ALL {
        assert!(card.offers(test.algorithm()), "{test:?} is not offered");
        let Completion { request, output } = perform(&mut card, test);
        assert!(
            test.accepts(&request.operation, output.unwrap()),
            "{test:?} is wrong"
        );
    }
}

#[test]
fn one_card_serves_one_driver_after_the_other() {
    let simulation = Simulation::start();
    for _ in 0..3 {
        let mut card = simulation.card();
        perform(&mut card, &kat::ALL[0]).output.unwrap();
    }
}

#[test]
fn a_card_that_goes_away_is_noticed_without_asking_it() {
    let mut simulation = Simulation::start();
    let function = simulation.connect();
    assert!(!function.is_gone());
    simulation.stop();
    wait_for_any(&[function.removal_fd().unwrap()]);
    assert!(function.is_gone());
    let error = function.read_bar(HEALTH_BAR, 0, &mut [0; 4]).unwrap_err();
    assert!(matches!(error, BusError::Gone { .. }), "{error}");
}

#[test]
fn a_card_that_is_removed_drops_its_driver_and_lets_one_in_again_when_it_is_back() {
    let removal = Injection {
        fault: Fault::SurpriseRemoval,
        trigger: Trigger::now()
            .matching("opcode=hash".parse().unwrap())
            .lasting(Duration::from_millis(100))
            .times(1),
    };
    let simulation = Simulation::start_with(vec![removal]);
    let mut card = simulation.card();
    let hash = kat::of(Algorithm::Digest(HashAlgorithm::Sha256))
        .next()
        .unwrap();
    // The answer may or may not arrive before the card is gone.
    perform(&mut card, hash);
    let give_up = SystemClock.now().plus(PATIENT);
    while card.state() != State::Gone {
        assert!(SystemClock.now() < give_up, "it is still there");
        card.poll(SystemClock.now(), &mut Vec::new());
    }
    // Whoever comes meanwhile waits until the card is back.
    card.reset(&mut Vec::new()).unwrap();
    let Completion { request, output } = perform(&mut card, hash);
    assert!(hash.accepts(&request.operation, output.unwrap()));
    let (_, summary) = card.health().read().unwrap();
    assert_eq!(summary.power_cycles.get(), 2);
}

#[test]
fn firmware_threads_follow_a_script() {
    let faults = ["late-completion=20ms", "led-sos", "crt-fault"];
    let simulation = Simulation::start_with(faults.map(|fault| fault.parse().unwrap()).into());
    let mut card = simulation.card();
    for test in &kat::ALL {
        let Completion { request, output } = perform(&mut card, test);
        let is_rsa = matches!(&*request.operation, Operation::Sign { key, .. }
            if key.modulus_len().is_some());
        let accepted = test.accepts(&request.operation, output.unwrap());
        assert_eq!(accepted, !is_rsa, "{test:?}");
    }
}

#[test]
fn a_driver_whose_card_goes_away_says_so() {
    let mut simulation = Simulation::start();
    let mut card = simulation.card();
    assert_eq!(card.state(), State::Ready);
    simulation.stop();
    wait_for_any(&card.events());
    // The driver looks at most every few milliseconds whether its card is there.
    let give_up = SystemClock.now().plus(PATIENT);
    while card.state() == State::Ready && SystemClock.now() < give_up {
        card.poll(SystemClock.now(), &mut Vec::new());
    }
    assert_ne!(card.state(), State::Ready);
}
