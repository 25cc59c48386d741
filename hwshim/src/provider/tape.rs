//! What a handshake step drew, so that the same step can be taken again.
//!
//! A tape belongs to one connection, is bounded, and is zeroised when it is dropped. It is on this
//! thread for the length of a step and never longer, so nothing that waits holds a thread-local.
//!
//! ```text
//!                   sign: it pays              signature is there
//!    recording ---------------------> parked ---------------------> replaying
//!        |                                                              |
//!        | sign: it does not pay,                 sign: of the same     | sign: of anything
//!        | or the tape is full                    key, scheme, message  | else
//!        v                                                v             v
//!    software                                         released     mismatched
//! ```
//!
//! The last three are ends: what is drawn after them is drawn as always. `mismatched` means
//! software: a signature never gets into a message that it was not made for.

use super::Offload;
use super::key::Parked;
use super::replayable::{Kept, Lent};
use crate::key::{KeyId, SignatureScheme};
use crate::router::Announced;
use rustls::NamedGroup;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::sync::Weak;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Room for random numbers. A handshake draws a server random of 32 bytes, and a session id of as
/// many in TLS 1.2; one that draws more is signed in software.
const RANDOM_MAX: usize = 256;

/// Room for key exchanges. A handshake has one.
const EXCHANGES_MAX: usize = 2;

/// The record of a step.
pub(crate) struct Tape {
    state: State,
    random: Random,
    exchanges: VecDeque<Exchange>,
    /// The step will not be repeated; for one, as more was drawn than there is room for.
    is_given_up: bool,
    provider: Option<Weak<Offload>>,
    /// Until the signature is asked for.
    announced: Option<Announced>,
}

enum State {
    Recording,
    Parked(Parked),
    Replaying(Box<Answer>),
    Ended(Signed),
}

/// A signature, and what it is of.
struct Answer {
    parked: Parked,
    signature: Option<Vec<u8>>,
}

/// How a step on tape came to its signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signed {
    /// In software, when it was asked for.
    Software,
    /// By the router, and released into the message that it is of.
    Released,
    /// In software or not at all, because the step when repeated was another one.
    Mismatched,
}

/// A key exchange on tape.
pub(super) enum Exchange {
    Completed(Kept),
    Started(Lent),
}

/// Random numbers, one after the other.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Random {
    /// All the room there is: growing would leave copies behind.
    bytes: Box<[u8]>,
    written: usize,
    read: usize,
}

/// What a signing key is to do.
pub(super) enum Turn {
    /// Nobody has said anything: this is not a step of ours.
    Unguided,
    /// Wait, if it pays: the thread is there for that.
    Wait,
    /// Park, if it pays.
    Park,
    /// Sign in software.
    Software,
    /// Return this.
    Release(Vec<u8>),
}

enum Scope {
    Tape(Tape),
    MayWait,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

impl Tape {
    pub(crate) fn new() -> Self {
        let mut tape = Self::blank();
        tape.random.bytes = vec![0; RANDOM_MAX].into();
        tape
    }

    /// A tape without room.
    fn blank() -> Self {
        Self {
            state: State::Recording,
            random: Random {
                bytes: Box::default(),
                written: 0,
                read: 0,
            },
            exchanges: VecDeque::new(),
            is_given_up: false,
            provider: None,
            announced: None,
        }
    }

    /// Keeps a signature announced until the step asks for it, or ends without.
    pub(crate) fn announce(&mut self, announced: Announced) {
        self.announced = Some(announced);
    }

    /// Takes a step with this tape on the thread.
    pub(crate) fn on<R>(&mut self, step: impl FnOnce() -> R) -> R {
        let before = Installed::new(Scope::Tape(mem::replace(self, Self::blank())));
        let result = step();
        if let Some(Scope::Tape(tape)) = SCOPE.take() {
            *self = tape;
        }
        self.announced = None;
        drop(before);
        result
    }

    /// What the step wants signed before it can be taken again.
    pub(crate) fn take_parked(&mut self) -> Option<Parked> {
        match mem::replace(&mut self.state, State::Recording) {
            State::Parked(parked) => Some(parked),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Prepares for the same step, in which `signature` will be wanted for what was `parked`. If
    /// there is none after all, software makes it.
    pub(crate) fn rewind(&mut self, parked: Parked, signature: Option<Vec<u8>>) {
        self.random.read = 0;
        self.state = State::Replaying(Box::new(Answer { parked, signature }));
    }

    /// Gives up repeating: from here on, software signs.
    pub(crate) const fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// Whether it was given up, or more was drawn than there is room for.
    pub(crate) const fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// How the step was signed, if it was.
    pub(crate) const fn signed(&self) -> Option<Signed> {
        match self.state {
            State::Ended(signed) => Some(signed),
            State::Recording | State::Parked(_) | State::Replaying(_) => None,
        }
    }

    /// Ends a step that was taken again. One that did not even ask for the signature it was parked
    /// for was another one.
    pub(crate) fn end_replay(&mut self) {
        if let State::Replaying(answer) = &self.state
            && answer.signature.is_some()
        {
            self.state = State::Ended(Signed::Mismatched);
        }
    }

    /// Whose provider wrote on it.
    pub(crate) fn into_provider(self) -> Option<Weak<Offload>> {
        self.provider
    }

    const fn is_recording(&self) -> bool {
        matches!(self.state, State::Recording) && !self.is_given_up
    }

    pub(super) fn write_random(&mut self, drawn: &[u8], provider: &Weak<Offload>) {
        if !self.is_recording() {
            return;
        }
        if self.provider.is_none() {
            self.provider = Some(Weak::clone(provider));
        }
        let end = self.random.written + drawn.len();
        match self.random.bytes.get_mut(self.random.written..end) {
            Some(room) => {
                room.copy_from_slice(drawn);
                self.random.written = end;
            }
            None => self.is_given_up = true,
        }
    }

    /// Fills `buffer` with what was drawn at this point. Returns false if that is not known.
    pub(super) fn read_random(&mut self, buffer: &mut [u8]) -> bool {
        if !matches!(self.state, State::Replaying(_)) {
            return false;
        }
        let end = self.random.read + buffer.len();
        if end > self.random.written {
            // Another step than the recorded one, which the signature will show.
            return false;
        }
        buffer.copy_from_slice(&self.random.bytes[self.random.read..end]);
        self.random.read = end;
        true
    }

    pub(super) fn write(&mut self, exchange: Exchange) {
        if !self.is_recording() {
            return;
        }
        if self.exchanges.len() == EXCHANGES_MAX {
            self.is_given_up = true;
        } else {
            self.exchanges.push_back(exchange);
        }
    }

    /// The exchange at this point, if one with this group is.
    pub(super) fn read(&mut self, group: NamedGroup) -> Option<Exchange> {
        if !matches!(self.state, State::Replaying(_)) {
            return None;
        }
        self.exchanges
            .pop_front()
            .filter(|exchange| exchange.group() == group)
    }

    fn turn(&mut self, key: KeyId, scheme: SignatureScheme, message: &[u8]) -> Turn {
        // It is here. Were it still announced, it would take itself for somebody else who waits.
        self.announced = None;
        match mem::replace(&mut self.state, State::Ended(Signed::Software)) {
            State::Recording if !self.is_given_up => {
                self.state = State::Recording;
                Turn::Park
            }
            State::Replaying(answer) => self.answer(*answer, key, scheme, message),
            State::Recording | State::Parked(_) | State::Ended(_) => Turn::Software,
        }
    }
}

impl Tape {
    fn answer(
        &mut self,
        answer: Answer,
        key: KeyId,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Turn {
        let Answer { parked, signature } = answer;
        let Some(signature) = signature else {
            return Turn::Software;
        };
        if !parked.is_of(key, scheme, message) {
            self.state = State::Ended(Signed::Mismatched);
            return Turn::Software;
        }
        self.state = State::Ended(Signed::Released);
        Turn::Release(signature)
    }
}

impl Exchange {
    const fn group(&self) -> NamedGroup {
        match self {
            Self::Completed(kept) => kept.group(),
            Self::Started(lent) => lent.group_name(),
        }
    }
}

/// Takes a step on a thread that may wait for a signature.
pub(crate) fn may_wait<R>(step: impl FnOnce() -> R) -> R {
    let _scope = Installed::new(Scope::MayWait);
    step()
}

/// What `look` makes of the tape on this thread, if there is one.
pub(super) fn with<R>(look: impl FnOnce(&mut Tape) -> R) -> Option<R> {
    SCOPE.with_borrow_mut(|scope| match scope {
        Some(Scope::Tape(tape)) => Some(look(tape)),
        Some(Scope::MayWait) | None => None,
    })
}

pub(super) fn is_recording() -> bool {
    with(|tape| tape.is_recording()) == Some(true)
}

/// What to do about a signature that is wanted on this thread now.
pub(super) fn turn(key: KeyId, scheme: SignatureScheme, message: &[u8]) -> Turn {
    SCOPE.with_borrow_mut(|scope| match scope {
        Some(Scope::Tape(tape)) => tape.turn(key, scheme, message),
        Some(Scope::MayWait) => Turn::Wait,
        None => Turn::Unguided,
    })
}

/// Ends the step that is being recorded: it will be taken again.
pub(super) fn park(parked: Parked) {
    with(|tape| tape.state = State::Parked(parked));
}

/// Says that the step that is being recorded was signed in software.
pub(super) fn sign_in_software() {
    with(|tape| tape.state = State::Ended(Signed::Software));
}

/// A scope on this thread, and the one it stands in for: a resolver may take steps of its own.
struct Installed(Option<Scope>);

impl Installed {
    fn new(scope: Scope) -> Self {
        Self(SCOPE.replace(Some(scope)))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // Also when the step panics: what comes next on this thread is not part of it.
        SCOPE.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Provider;
    use super::*;
    use crate::kat;
    use crate::router::Router;
    use rustls::crypto::SecureRandom;
    use std::sync::Arc;

    const SCHEME: SignatureScheme = SignatureScheme::RsaPssSha256;

    fn provider() -> Provider {
        Provider::new(Router::software())
    }

    fn parked(provider: &Provider, message: &[u8]) -> Parked {
        let offload: Arc<Offload> = Arc::clone(&provider.offload);
        Parked::new(kat::rsa_2048_key(), SCHEME, message, offload)
    }

    fn draw(random: &dyn SecureRandom, len: usize) -> Vec<u8> {
        let mut drawn = vec![0; len];
        random.fill(&mut drawn).unwrap();
        drawn
    }

    /// A tape on which `len` bytes were drawn before `message` was to be signed.
    fn recorded(provider: &Provider, len: usize, message: &[u8]) -> (Tape, Vec<u8>) {
        let mut tape = Tape::new();
        let drawn = tape.on(|| {
            let drawn = draw(provider.rustls().secure_random, len);
            park(parked(provider, message));
            drawn
        });
        (tape, drawn)
    }

    #[test]
    fn what_was_drawn_is_drawn_again_and_after_that_something_new() {
        let provider = provider();
        let random = provider.rustls().secure_random;
        let (mut tape, first) = recorded(&provider, 64, b"message");
        let parked = tape.take_parked().unwrap();
        tape.rewind(parked, Some(b"signature".to_vec()));
        let (one, other, beyond) =
            tape.on(|| (draw(random, 32), draw(random, 32), draw(random, 32)));
        assert_eq!([one, other].concat(), first);
        assert!(!first.windows(32).any(|window| window == beyond));
        assert_ne!(draw(random, 64), first, "the tape is off the thread");
    }

    #[test]
    fn key_exchanges_are_repeated_in_full() {
        let provider = provider();
        for group in &provider.rustls().kx_groups {
            let peer = group.start().unwrap();
            let peer_public = peer.pub_key().to_vec();
            let mut tape = Tape::new();
            let (started, done) = tape.on(|| {
                let started = group.start().unwrap().pub_key().to_vec();
                let done = group.start_and_complete(&peer_public).unwrap();
                park(parked(&provider, b"message"));
                (started, done)
            });
            let parked = tape.take_parked().unwrap();
            tape.rewind(parked, None);
            let (again, done_again) = tape.on(|| {
                let again = group.start().unwrap();
                (again, group.start_and_complete(&peer_public).unwrap())
            });
            assert_eq!(again.pub_key(), started);
            assert_eq!(done_again.pub_key, done.pub_key);
            let secret = peer.complete(&done.pub_key).unwrap();
            assert_eq!(secret.secret_bytes(), done.secret.secret_bytes());
            assert_eq!(secret.secret_bytes(), done_again.secret.secret_bytes());
            // The one that was lent out is completed by whoever has it now.
            let peer = group.start().unwrap();
            let peer_public = peer.pub_key().to_vec();
            let ours = again.complete(&peer_public).unwrap();
            let theirs = peer.complete(&started).unwrap();
            assert_eq!(ours.secret_bytes(), theirs.secret_bytes());
        }
    }

    #[test]
    fn a_signature_is_released_for_its_own_key_scheme_and_message_only() {
        let provider = provider();
        let (key, other) = (kat::rsa_2048_key().id(), kat::p256_key().id());
        let cases = [
            (key, SCHEME, &b"message"[..], Signed::Released),
            (other, SCHEME, b"message", Signed::Mismatched),
            (
                key,
                SignatureScheme::RsaPkcs1Sha256,
                b"message",
                Signed::Mismatched,
            ),
            (key, SCHEME, b"massage", Signed::Mismatched),
            (key, SCHEME, b"message and more", Signed::Mismatched),
        ];
        for (key, scheme, message, expected) in cases {
            let (mut tape, _) = recorded(&provider, 1, b"message");
            let parked = tape.take_parked().unwrap();
            tape.rewind(parked, Some(b"signature".to_vec()));
            let released = matches!(tape.turn(key, scheme, message), Turn::Release(_));
            assert_eq!(tape.signed(), Some(expected));
            assert_eq!(released, expected == Signed::Released);
            let again = tape.turn(key, scheme, message);
            assert!(matches!(again, Turn::Software), "it is handed out once");
        }
    }

    #[test]
    fn what_the_router_refuses_is_signed_in_software() {
        let provider = provider();
        let (mut tape, _) = recorded(&provider, 1, b"message");
        let parked = tape.take_parked().unwrap();
        tape.rewind(parked, None);
        let turn = tape.turn(kat::rsa_2048_key().id(), SCHEME, b"message");
        assert!(matches!(turn, Turn::Software));
        assert_eq!(tape.signed(), Some(Signed::Software));
    }

    #[test]
    fn who_draws_more_than_there_is_room_for_signs_in_software() {
        let provider = provider();
        let mut tape = Tape::new();
        tape.on(|| draw(provider.rustls().secure_random, RANDOM_MAX + 1));
        let turn = tape.turn(kat::rsa_2048_key().id(), SCHEME, b"message");
        assert!(matches!(turn, Turn::Software));
    }

    #[test]
    fn a_signature_is_announced_until_it_is_asked_for_or_the_step_ends_without() {
        let router = Router::software();
        let mut tape = Tape::new();
        tape.announce(router.announce());
        assert_eq!(router.announced(), 1);
        tape.turn(kat::rsa_2048_key().id(), SCHEME, b"message");
        assert_eq!(router.announced(), 0);
        tape.announce(router.announce());
        tape.on(|| assert_eq!(router.announced(), 1));
        assert_eq!(router.announced(), 0, "more of the hello may never come");
        tape.announce(router.announce());
        drop(tape);
        assert_eq!(router.announced(), 0, "it will not be asked for");
    }

    #[test]
    fn a_tape_leaves_nothing_behind() {
        fn is_wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        let provider = provider();
        let (mut tape, drawn) = recorded(&provider, RANDOM_MAX, b"message");
        assert_eq!(&tape.random.bytes[..], drawn);
        is_wiped_on_drop(&tape.random);
        // What dropping does, and what cannot be looked at afterwards.
        tape.random.zeroize();
        assert_eq!(&tape.random.bytes[..], [0; RANDOM_MAX]);
        assert_eq!((tape.random.written, tape.random.read), (0, 0));
    }

    #[test]
    fn a_step_that_panics_leaves_no_tape_on_the_thread() {
        let mut tape = Tape::new();
        let step = std::panic::AssertUnwindSafe(|| tape.on(|| panic!("a resolver")));
        std::panic::catch_unwind(step).unwrap_err();
        assert!(!is_recording());
    }

    #[test]
    fn a_step_inside_a_step_is_on_a_tape_of_its_own() {
        let provider = provider();
        let random = provider.rustls().secure_random;
        let (mut outer, mut inner) = (Tape::new(), Tape::new());
        outer.on(|| {
            draw(random, 10);
            inner.on(|| draw(random, 20));
            draw(random, 10);
        });
        assert_eq!((outer.random.written, inner.random.written), (20, 20));
    }
}
