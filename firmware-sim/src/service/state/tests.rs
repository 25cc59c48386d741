//! The service as a value: what happens when, told the time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Time does not start at zero.
const START: Duration = Duration::from_secs(1000);
const CLIENT: u64 = 5;
const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    objects: 100,
};

fn state(faults: &[&str]) -> State {
    let mut state = State::new("SIM-7".to_owned(), CardLink::Present, LIMITS, START);
    for fault in faults {
        state.inject(fault.parse().unwrap(), START);
    }
    state
}

#[test]
fn a_leak_grows_at_its_rate_and_stops_at_the_limit() {
    let mut state = state(&["leak-descriptors=3/s", "leak-heap=64KiB/min"]);
    state.pass(START);
    assert_eq!(state.leaked(), Amounts::default());
    state.pass(START + 4 * SECOND);
    let expected = Amounts {
        descriptors: 12,
        heap_bytes: 4096,
        ..Amounts::default()
    };
    assert_eq!(state.leaked(), expected);
    state.pass(START + 3600 * SECOND);
    let full = Amounts {
        descriptors: 100,
        heap_bytes: 1 << 20,
        ..Amounts::default()
    };
    assert_eq!(state.leaked(), full);
    assert_eq!(
        state.until_next(START + 3600 * SECOND),
        None,
        "there is no reason to wake up for more"
    );
}

#[test]
fn it_says_when_the_next_thing_is_due() {
    let mut state = state(&["leak-threads=1/min"]);
    assert_eq!(state.until_next(START), Some(60 * SECOND));
    state.pass(START + 60 * SECOND);
    assert_eq!(state.leaked().threads, 1);
    assert_eq!(state.until_next(START + 61 * SECOND), Some(59 * SECOND));
    assert_eq!(
        state.until_next(START + 500 * SECOND),
        Some(STEP),
        "late already"
    );
}

#[test]
fn the_limit_holds_for_all_leaks_together() {
    let mut state = state(&["leak-descriptors=60/s", "leak-threads=60/s"]);
    state.pass(START + SECOND);
    assert_eq!(state.leaked().objects(), LIMITS.objects);
    assert!(state.leaked().threads > 0 && state.leaked().descriptors > 0);
    // What was due and had no room is not made up for when there is some.
    state.clear("leak-threads", true).unwrap();
    state.pass(START + SECOND);
    assert_eq!(state.leaked().descriptors, 60);
}

#[test]
fn ports_leak_with_opens_that_fail_and_with_no_others() {
    let mut state = state(&["leak-ports-on-failure=2"]);
    for _ in 0..5 {
        let session = state.open(CLIENT, MODULE, START).unwrap();
        state.close(session, START);
    }
    assert_eq!(state.leaked(), Amounts::default());
    for failed in 1..=3 {
        let refusal = state.open(CLIENT, 9, START).unwrap_err();
        assert_eq!(refusal.code, Code::NoModule);
        let expected = Amounts {
            ports: 2 * failed,
            ..Amounts::default()
        };
        assert_eq!(state.leaked(), expected);
    }
    state.set_card(CardLink::Absent, START);
    assert_eq!(
        state.open(CLIENT, MODULE, START).unwrap_err().code,
        Code::NoCard
    );
    assert_eq!(state.leaked().ports, 8);
    assert_eq!(state.ledger.opens_failed, 4);
}

#[test]
fn a_leak_while_the_card_is_absent_begins_and_ends_with_that() {
    let mut state = state(&["leak-while-absent=4KiB/s,what=heap"]);
    state.pass(START + 100 * SECOND);
    assert_eq!(state.leaked(), Amounts::default());
    assert_eq!(state.until_next(START + 100 * SECOND), None);
    state.set_card(CardLink::Absent, START + 100 * SECOND);
    state.pass(START + 103 * SECOND);
    assert_eq!(state.leaked().heap_bytes, 3 * 4096);
    state.set_card(CardLink::Present, START + 103 * SECOND);
    state.pass(START + 200 * SECOND);
    assert_eq!(state.leaked().heap_bytes, 3 * 4096);
    assert_eq!((state.ledger.card_lost, state.ledger.card_returned), (1, 1));
}

#[test]
fn a_rate_per_failed_open_can_also_wait_for_the_card_to_be_absent() {
    let mut state = state(&["leak-while-absent=2/failed-open,what=descriptors"]);
    state.open(CLIENT, 9, START).unwrap_err();
    assert_eq!(state.leaked(), Amounts::default());
    state.set_card(CardLink::Absent, START);
    state.open(CLIENT, MODULE, START).unwrap_err();
    assert_eq!(state.leaked().descriptors, 2);
}

#[test]
fn a_fault_that_is_cleared_leaks_no_more_and_keeps_what_it_has_unless_told_to_free_it() {
    let mut state = state(&["leak-descriptors=1/s"]);
    state.pass(START + 7 * SECOND);
    state.clear("leak-descriptors", false).unwrap();
    state.pass(START + 20 * SECOND);
    assert_eq!(state.leaked().descriptors, 7);
    let off = state.clear("leak-descriptors", false).unwrap_err();
    assert_eq!(off.to_string(), "leak-descriptors is not on");
    state.clear("leak-descriptors", true).unwrap();
    assert_eq!(state.leaked(), Amounts::default());
    let unknown = state
        .clear("leak-descriptor", true)
        .unwrap_err()
        .to_string();
    assert!(
        unknown.ends_with("did you mean `leak-descriptors`?"),
        "{unknown}"
    );
}

#[test]
fn a_port_is_released_with_its_session_or_after_the_time_to_recycle() {
    let mut state = state(&[]);
    let port_of = |state: &State, session: u64| {
        let address = state.sessions[&session].port.local_addr();
        address.unwrap()
    };
    let session = state.open(CLIENT, MODULE, START).unwrap();
    let address = port_of(&state, session);
    assert!(TcpListener::bind(address).is_err(), "the session holds it");
    state.close(session, START);
    drop(TcpListener::bind(address).unwrap());

    state.inject("delayed-recycle".parse().unwrap(), START);
    let session = state.open(CLIENT, MODULE, START).unwrap();
    let address = port_of(&state, session);
    state.close(session, START);
    assert_eq!(state.until_next(START), Some(240 * SECOND));
    state.pass(START + 239 * SECOND);
    TcpListener::bind(address).unwrap_err();
    state.pass(START + 240 * SECOND);
    drop(TcpListener::bind(address).unwrap());
    state.clear("delayed-recycle", true).unwrap();
    state.clear("delayed-recycle", true).unwrap_err();
}

#[test]
fn an_honest_ledger_shows_what_has_leaked_and_a_lying_one_does_not() {
    let mut state = state(&[
        "leak-descriptors=1/s",
        "leak-kernel=4096/s",
        "delayed-recycle",
    ]);
    let objects = |state: &State| {
        let tree = crate::service::ledger::stattree(&state.facts(&[], START)).print();
        let value = |name| {
            let line = tree.lines().find(|line| line.contains(name)).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        (value("ObjectCount"), value("MemAllocKernel"))
    };
    state.pass(START + 3 * SECOND);
    let session = state.open(CLIENT, MODULE, START).unwrap();
    assert_eq!(objects(&state), (4, 3 * 4096));
    state.close(session, START);
    assert_eq!(
        objects(&state),
        (4, 3 * 4096),
        "its port is not released yet"
    );
    state.inject(ServiceFault::LedgerLies, START);
    assert_eq!(objects(&state), (0, 0));
    state.clear("ledger-lies", false).unwrap();
    assert_eq!(objects(&state), (4, 3 * 4096));
    state.clear_all(true);
    assert_eq!(objects(&state), (0, 0));
}

#[test]
fn sessions_end_with_their_client_and_with_the_card() {
    let mut state = state(&[]);
    let open = |state: &mut State, client| state.open(client, MODULE, START).unwrap();
    let (first, second) = (open(&mut state, 1), open(&mut state, 2));
    state.check_session(1, first, START).unwrap();
    let refusal = state.check_session(1, second, START).unwrap_err();
    assert_eq!(refusal.code, Code::NoSession, "it is somebody else's");
    state.close_all_of(1, START);
    state.check_session(1, first, START).unwrap_err();
    state.check_session(2, second, START).unwrap();
    state.set_card(CardLink::Absent, START);
    let refusal = state.check_session(2, second, START).unwrap_err();
    assert_eq!(refusal.code, Code::NoCard);
    state.set_card(CardLink::Present, START);
    state.check_session(2, second, START).unwrap_err();
}

#[test]
fn it_crashes_at_once_or_after_so_many_commands() {
    assert!(state(&["crash"]).crashes());
    let mut state = state(&["crash=2"]);
    state.take_command();
    assert!(!state.crashes());
    state.take_command();
    assert!(state.crashes());
}
