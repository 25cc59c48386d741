//! The probe that asks a host service how it is, against the stand-in for one.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use clap::Parser;
use firmware_sim::service::{Service, ServiceConfig};
use hwshim::clock::Instant;
use monitor::probe::{Probe, Reach, ReachProbe, ServiceAddress};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// Nothing waits as long as that unless something is broken.
const PATIENT: Duration = Duration::from_secs(60);
/// Waited for by who asks a service that does not answer.
const BRIEF: Duration = Duration::from_millis(50);

/// How a stand-in is told what to play.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceConfig,
}

/// A stand-in, ended with the value.
struct StandIn {
    socket: ServiceAddress,
    tcp: ServiceAddress,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl StandIn {
    fn start(faults: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("service.sock");
        let mut arguments = vec!["service", "--tcp", "0", "--serial", "SIM-7", "--socket"];
        arguments.push(socket.to_str().unwrap());
        arguments.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
        let service = Service::listen(&Arguments::parse_from(arguments).service).unwrap();
        let tcp = ServiceAddress::Tcp(service.tcp_address().unwrap());
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || service.serve(stopped.as_fd()).unwrap());
        Self {
            socket: ServiceAddress::Unix(socket),
            tcp,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(address: &ServiceAddress, timeout: Duration) -> Reach {
    ReachProbe::new(timeout, Path::new("/"))
        .observe(address, Instant::ORIGIN)
        .unwrap()
}

#[test]
fn the_stand_in_answers_and_is_understood_over_both_of_its_sockets() {
    let service = StandIn::start(&[]);
    for address in [&service.socket, &service.tcp] {
        let Reach::Answered(answer) = ask(address, PATIENT) else {
            panic!("no answer at {address}");
        };
        let module = &answer.enquiry.modules[&1];
        assert_eq!(module.serial_number.as_deref(), Some("SIM-7"));
        assert_eq!(module.hardware_status.as_deref(), Some("OK"));
        assert_eq!(answer.statistics.server.clients, Some(1));
        assert_eq!(answer.connected, Some(1), "by the kernel's account as well");
        assert_eq!(answer.statistics.modules[&1].outstanding(), Some(0));
    }
}

#[test]
fn a_stand_in_that_hangs_is_silent_and_one_that_refuses_refuses() {
    let hangs = StandIn::start(&["hang-after-accept"]);
    assert_eq!(ask(&hangs.socket, BRIEF), Reach::Silent { received: 0 });
    let refuses = StandIn::start(&["refuse"]);
    // It stops listening once it serves, and who came before is not answered.
    let mut reach = ask(&refuses.tcp, BRIEF);
    while reach != Reach::Refused {
        reach = ask(&refuses.tcp, BRIEF);
    }
}
