//! What it costs to hand a request to a card and to take the answer back, between two processes.
//!
//! The card runs in a process of its own and remembers its answers, so that what is measured is
//! the way there and back: driver, queue, doorbells, simulator. A bench program rather than
//! criterion, because a figure needs two processes and processor time of one thread.
//!
//! ```text
//! cargo bench --bench plumbing
//! ```
//!
//! Driver CPU between two processes includes looking for answers that are not there yet. What the
//! calls themselves cost is measured apart, with the card in this process and worked by hand: all
//! requests are submitted, the card answers them, all answers are taken. Likewise what a task's request
//! costs that goes through the router, is verified, and waits without holding up its thread. Of that, what
//! the same tasks take in software is what making the operation, doing it once and running the tasks
//! takes; the rest is what it takes to submit it and to have it completed.
//!
//! Best of several windows: on a small shared machine the others measure the neighbours.

#![expect(
    clippy::print_stdout,
    reason = "a bench program reports on standard output"
)]

use card_device::{Card as Device, CardConfig};
use clap::Parser;
use firmware_sim::engine::{Memoised, RustCrypto};
use firmware_sim::{RunConfig, SimulatedCard};
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request,
    RequestId, Secret, State,
};
use hwshim::address::Address;
use hwshim::bus::Function;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::kat;
use hwshim::key::{HashAlgorithm, SignatureScheme};
use hwshim::router::Router;
use hwshim::router::core::{Offload, Options};
use hwshim::virtio;
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(500);
const WINDOWS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "card") {
        return run_card(&arguments[1..]);
    }
    report_calls()?;

    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("card.sock");
    let card = Running::start(&socket)?;
    let address = Address::VfioUser(socket);

    println!(
        "\n{:34} {:>12} {:>14}",
        "way to a card and back", "requests/s", "driver CPU ns"
    );
    for (name, operation) in operations() {
        for depth in [1, 64] {
            let (rate, cpu) = raw(&address, operation, depth)?;
            println!(
                "{:34} {rate:>12.0} {cpu:>14.0}",
                format!("{name}, depth {depth}, polled")
            );
        }
    }
    let card_there = address.open_accelerator()?.accelerator;
    let (rate, cpu) = through_tokio(Some(card_there), || Duration::ZERO)?;
    println!(
        "{:34} {rate:>12.0} {cpu:>14.0}",
        "sha256 of 16 B, 64 tasks, verified"
    );
    drop(card);
    Ok(())
}

fn report_calls() -> Result<(), Box<dyn Error>> {
    println!(
        "{:34} {:>12} {:>14}",
        "cost of the calls, 64 at a time", "driver ns", "simulator ns"
    );
    for (name, operation) in operations() {
        let [driver, simulator] = calls(operation)?;
        println!("{name:34} {driver:>12.0} {simulator:>14.0}");
    }
    let (function, card) = card_here()?;
    let spent = Arc::new(AtomicU64::new(0));
    let worked = Worked {
        card,
        function,
        spent: Arc::clone(&spent),
    };
    let by_card = || Duration::from_nanos(spent.load(Ordering::Relaxed));
    let (_, cpu) = through_tokio(Some(Box::new(worked)), by_card)?;
    let (_, in_software) = through_tokio(None, || Duration::ZERO)?;
    for (what, cpu) in [
        ("sha256 of 16 B, 64 tasks, verified", cpu),
        ("  the same tasks in software", in_software),
        ("  so submitted and completed in", cpu - in_software),
    ] {
        println!("{what:34} {cpu:>12.0}");
    }
    Ok(())
}

/// A card in this process, which works when its function is pumped.
fn card_here() -> Result<(Arc<LoopbackFunction>, virtio::Card), Box<dyn Error>> {
    let engine = Arc::new(Memoised::new(Arc::new(RustCrypto)));
    let device = Device::new(&CardConfig::default(), engine)?;
    let function = Arc::new(LoopbackFunction::new(
        "loopback",
        Arc::new(Mutex::new(device)),
    )?);
    let connected = Arc::clone(&function);
    let connect = Box::new(move || Ok(Arc::clone(&connected) as Arc<dyn Function>));
    let card = virtio::Card::new("loopback", connect, virtio::Options::default())?;
    Ok((function, card))
}

/// A card in this process that works whenever its driver looks for answers, so that none is looked for in
/// vain. What it works for is counted apart.
#[derive(Debug)]
struct Worked {
    card: virtio::Card,
    function: Arc<LoopbackFunction>,
    /// In nanoseconds.
    spent: Arc<AtomicU64>,
}

impl Accelerator for Worked {
    fn name(&self) -> &str {
        self.card.name()
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.card.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        self.card.submit(request, now)
    }

    fn flush(&mut self) {
        self.card.flush();
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        self.card.flush();
        let begun = thread_cpu_time();
        self.function.pump(now);
        let spent = hwshim::clock::nanos(thread_cpu_time().saturating_sub(begun));
        self.spent.fetch_add(spent, Ordering::Relaxed);
        self.card.poll(now, completions);
    }

    fn next_deadline(&self) -> Instant {
        self.card.next_deadline()
    }

    fn in_flight(&self) -> usize {
        self.card.in_flight()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.card.reset(completions)
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.card.hand_back(completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.card.take_fault()
    }

    fn arm(&mut self) -> bool {
        self.card.arm()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.card.events()
    }

    fn state(&self) -> State {
        self.card.state()
    }

    fn counters(&self) -> Counters {
        self.card.counters()
    }
}

/// Nanoseconds of processor time per request that the driver spends in submitting it and taking
/// its answer, and the simulated card in answering it, when neither ever looks in vain.
fn calls(operation: MakeOperation) -> Result<[f64; 2], Box<dyn Error>> {
    const DEPTH: u64 = 64;
    const ROUNDS: u64 = 1_000;
    let (function, mut card) = card_here()?;
    card.reset(&mut Vec::new())?;

    let now = SystemClock.now();
    let mut requests: Vec<_> = (0..DEPTH)
        .map(|number| request(operation(number), now))
        .collect();
    let mut completions = Vec::new();
    let mut round = || -> Result<[Duration; 2], Box<dyn Error>> {
        let start = thread_cpu_time();
        for request in requests.drain(..) {
            submit(&mut card, request, now)?;
        }
        card.flush();
        let submitted = thread_cpu_time();
        function.pump(now);
        let answered = thread_cpu_time();
        card.poll(now, &mut completions);
        let taken = thread_cpu_time();
        for completion in completions.drain(..) {
            completion.output?;
            requests.push(completion.request);
        }
        let driver = (submitted - start) + (taken - answered);
        Ok([driver, answered - submitted])
    };
    // Warm: the first opens the session, the second has the card see each request.
    round()?;
    round()?;
    let mut best = [f64::INFINITY; 2];
    for _ in 0..WINDOWS {
        let mut sums = [Duration::ZERO; 2];
        for _ in 0..ROUNDS {
            let spent = round()?;
            sums = [sums[0] + spent[0], sums[1] + spent[1]];
        }
        let per_request = |sum: Duration| sum.as_secs_f64() * 1e9 / to_f64(ROUNDS * DEPTH);
        best = [
            best[0].min(per_request(sums[0])),
            best[1].min(per_request(sums[1])),
        ];
    }
    Ok(best)
}

fn request(operation: Operation, now: Instant) -> Request {
    Request {
        id: RequestId {
            index: 0,
            generation: 0,
        },
        operation: Arc::new(operation),
        deadline: now.plus(Duration::from_secs(60)),
    }
}

fn submit(card: &mut dyn Accelerator, request: Request, now: Instant) -> Result<(), String> {
    card.submit(request, now)
        .map_err(|rejected| format!("rejected: {:?}", rejected.reason))
}

/// What the card's process says when it listens.
const LISTENING: &str = "listening\n";

/// Starting takes it milliseconds; the machine may be busy.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// The card's process.
#[derive(Parser)]
struct CardArguments {
    #[command(flatten)]
    config: RunConfig,
}

fn run_card(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let CardArguments { config } = CardArguments::parse_from(arguments);
    let stop = firmware_sim::stop_on_signals()?;
    let card = SimulatedCard::listen(&config)?;
    print!("{LISTENING}");
    std::io::stdout().flush()?;
    Ok(card.serve(std::os::fd::AsFd::as_fd(&stop))?)
}

struct Running(Child);

impl Running {
    /// Starts it, and waits until it listens.
    fn start(socket: &Path) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("card")
            .arg("--socket")
            .arg(socket)
            .args(["--engine", "memoised", "--engines", "1"])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("it was asked for");
        let running = Self(child);
        // In a thread, as a card that hangs says nothing and does not end. It ends with the card.
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            // Nobody is there to be told any more if it took too long.
            let _ = say.send(read.map(|_| line));
        });
        let Ok(line) = said.recv_timeout(LISTENS_WITHIN) else {
            return Err(format!("the card does not listen after {LISTENS_WITHIN:?}").into());
        };
        if line? != LISTENING {
            return Err("the card has ended before it listened".into());
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type MakeOperation = fn(u64) -> Operation;

/// A few different requests each, so that the card has seen them all before.
fn operations() -> [(&'static str, MakeOperation); 3] {
    [
        ("sha256 of 16 B", |number| digest(number)),
        ("p256-sign", |number| Operation::Sign {
            key: kat::p256_key(),
            scheme: SignatureScheme::EcdsaP256Sha256,
            message: message(number),
        }),
        ("rsa-2048-sign (PKCS #1)", |number| Operation::Sign {
            key: kat::rsa_2048_key(),
            scheme: SignatureScheme::RsaPkcs1Sha256,
            message: message(number),
        }),
    ]
}

fn digest(number: u64) -> Operation {
    Operation::Digest {
        hash: HashAlgorithm::Sha256,
        message: message(number),
    }
}

fn message(number: u64) -> Secret {
    let mut message = vec![0; 16];
    message[..8].copy_from_slice(&(number % 64).to_le_bytes());
    Secret::from(message)
}

/// Drives the card without a router: submit, poll, nothing else. Returns requests per second and
/// nanoseconds of this thread per request.
fn raw(
    address: &Address,
    operation: MakeOperation,
    depth: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    let mut card = address.open_accelerator()?.accelerator;
    card.reset(&mut Vec::new())?;
    // Warm: the session is opened, and the card has seen each request.
    window(&mut *card, operation, depth, WINDOW)?;
    let mut best = (0.0_f64, f64::INFINITY);
    for _ in 0..WINDOWS {
        let (rate, cpu) = window(&mut *card, operation, depth, WINDOW)?;
        best = (rate.max(best.0), cpu.min(best.1));
    }
    Ok(best)
}

fn window(
    card: &mut dyn Accelerator,
    operation: MakeOperation,
    depth: usize,
    length: Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    let clock = SystemClock;
    let mut completions: Vec<Completion> = Vec::new();
    let (mut submitted, mut completed) = (0_u64, 0_u64);
    let (start, cpu_start) = (clock.now(), thread_cpu_time());
    let end = start.plus(length);
    let mut now = start;
    while now < end || completed < submitted {
        while now < end && submitted - completed < depth as u64 {
            submit(card, request(operation(submitted), now), now)?;
            submitted += 1;
        }
        card.poll(now, &mut completions);
        for completion in completions.drain(..) {
            completion.output?;
            completed += 1;
        }
        now = clock.now();
    }
    let wall = clock.now().since(start);
    let cpu = thread_cpu_time().saturating_sub(cpu_start);
    let requests = to_f64(completed);
    Ok((
        requests / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e9 / requests,
    ))
}

/// Sixty-four tasks on a single-threaded tokio runtime, through a router with a card or without one.
/// Returns requests per second and nanoseconds of this thread per request, less what is `not_counted` of it.
fn through_tokio(
    card: Option<Box<dyn Accelerator>>,
    not_counted: impl Fn() -> Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    /// Of each task in a window, so that none has to ask for the time.
    const ROUNDS: u32 = 8_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = Options {
        offload: Offload::EVERYTHING,
        ..Options::default()
    };
    runtime.block_on(async {
        let answered = |router: &Router| match router.status()[..] {
            [] => router.requests().software,
            _ => router.requests().card,
        };
        let router = Router::start_on_tokio(Vec::from_iter(card), options)?;
        while answered(&router) == 0 {
            router.perform_async(digest(0)).await?;
        }
        let counted = || thread_cpu_time().saturating_sub(not_counted());
        let mut best = (0.0_f64, f64::INFINITY);
        for _ in 0..WINDOWS {
            let before = answered(&router);
            let (start, cpu_start) = (SystemClock.now(), counted());
            let tasks: Vec<_> = (0..64)
                .map(|task| {
                    let router = router.clone();
                    tokio::spawn(async move {
                        for _ in 0..ROUNDS {
                            router.perform_async(digest(task)).await?;
                        }
                        Ok::<_, hwshim::accelerator::software::OperationError>(())
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            let requests = to_f64(answered(&router) - before);
            let wall = SystemClock.now().since(start).as_secs_f64();
            let cpu = counted().saturating_sub(cpu_start).as_secs_f64();
            best = (
                best.0.max(requests / wall),
                best.1.min(cpu * 1e9 / requests),
            );
        }
        Ok(best)
    })
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
const fn to_f64(number: u64) -> f64 {
    number as f64
}
