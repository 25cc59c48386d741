//! Requests on their way through an engine.
//!
//! A batch is filled and emptied by [`Card`](crate::Card), under whatever lock guards it, and
//! executed without. It owns copies of everything it works on, so a driver that changes its
//! memory meanwhile changes nothing here; and its buffers are reused, so a request in the steady
//! state allocates nothing.
//!
//! ```text
//!   Card::take  -------->  Batch::execute  -------->  Card::complete
//!   copies requests in     parse, find the session,   copies results out,
//!   (short, locked)        run the engine (unlocked)  used ring, interrupt
//! ```

use crate::dma::{DmaFault, DmaMap};
use crate::engine::{Engine, Lane, Offer, Operation, Session, SessionSpec};
use crate::request::{self, Control};
use crate::session::SessionTable;
use crate::virtqueue::{Chain, Segment, segments_len};
use card_spec::crypto::{ControlHeader, DataHeader, REQUEST_LEN, SessionReply, Status};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroize;

/// Most bytes of requests a batch takes before it is full, give or take the last one.
const INPUT_LEN_MAX: usize = 256 * 1024;

/// Which queue a request came from, and what it was when it did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    pub(crate) queue: u16,
    pub(crate) generation: u32,
    pub(crate) is_control: bool,
}

/// What engines need to know of the card.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) max_size: usize,
}

/// Requests taken from the queues, and the answers to them.
pub struct Batch {
    /// Which of the card's engines works on it.
    pub(crate) engine_index: usize,
    /// Which start of the firmware took what is in it.
    pub(crate) start: u32,
    pub(crate) context: Option<Context>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) chain: Chain,
    segments: Vec<Segment>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) origin: Origin,
    pub(crate) head: u16,
    pub(crate) answer: Answer,
    input: Range<usize>,
    /// What the device may write, in `segments`.
    writable: Range<usize>,
    writable_len: u64,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) opcode: u32,
    pub(crate) session_id: u64,
    /// What to write from the first writable byte on, in `output`.
    result: Range<usize>,
    /// Whether a status byte follows, at the last writable byte; a session reply has its own.
    status_byte: bool,
}

impl Batch {
    /// An empty batch for the card's engine number `engine_index`.
    #[must_use]
    pub fn new(engine_index: usize) -> Self {
        Self {
            engine_index,
            start: 0,
            context: None,
            slots: Vec::new(),
            chain: Chain::default(),
            segments: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Number of requests in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Executes every request in it.
    pub fn execute(&mut self) {
        let Some(context) = &self.context else {
            return;
        };
        let mut output = Output {
            bytes: &mut self.output,
            used: 0,
        };
        let has_lanes = context.engine.lanes() > 1;
        // Requests for data go together as far as no session is opened or closed among them.
        for slots in self.slots.chunk_by_mut(|one, next| {
            has_lanes && !one.origin.is_control && !next.origin.is_control
        }) {
            match slots {
                [slot] if slot.origin.is_control => {
                    let input = &mut self.input[slot.input.clone()];
                    slot.answer = execute_control(context, input, &mut output, slot.writable_len);
                    // A request that opens a session carries a key.
                    input.zeroize();
                }
                [slot] => {
                    let input = &self.input[slot.input.clone()];
                    slot.answer = execute_data(context, input, &mut output, slot.writable_len);
                }
                slots => execute_together(context, slots, &self.input, &mut output),
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.context = None;
        self.slots.clear();
        self.segments.clear();
        self.input.clear();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.input.len() >= INPUT_LEN_MAX
    }

    /// Copies in the request that `self.chain` holds, `len_max` bytes of it at most.
    pub(crate) fn push(
        &mut self,
        dma: &DmaMap,
        origin: Origin,
        len_max: usize,
    ) -> Result<(), DmaFault> {
        let start = self.input.len();
        for segment in &self.chain.readable {
            let at = self.input.len();
            let room = len_max - (at - start);
            let len = usize::try_from(segment.len).map_or(room, |len| len.min(room));
            self.input.resize(at + len, 0);
            dma.read(segment.iova, &mut self.input[at..])?;
        }
        let first = self.segments.len();
        self.segments.extend_from_slice(&self.chain.writable);
        self.slots.push(Slot {
            origin,
            head: self.chain.head,
            answer: Answer::new(0, 0),
            input: start..self.input.len(),
            writable: first..self.segments.len(),
            writable_len: segments_len(&self.chain.writable),
        });
        Ok(())
    }

    /// Writes the answer in slot `index`, and returns the length for the used element.
    pub(crate) fn write_back(&self, dma: &DmaMap, index: usize) -> Result<u32, DmaFault> {
        let (result, status) = self.answer(index);
        write_answer(dma, self.writable(index), result, status)
    }

    /// What the answer in slot `index` writes: from the first writable byte on, and, unless the
    /// result contains it, a status into the last.
    pub(crate) fn answer(&self, index: usize) -> (&[u8], Option<Status>) {
        let answer = &self.slots[index].answer;
        let status = answer.status_byte.then_some(answer.status);
        (&self.output[answer.result.clone()], status)
    }

    /// What the device may write to answer slot `index`.
    pub(crate) fn writable(&self, index: usize) -> &[Segment] {
        &self.segments[self.slots[index].writable.clone()]
    }
}

/// Writes an answer into `writable`, and returns the length for the used element.
pub(crate) fn write_answer(
    dma: &DmaMap,
    writable: &[Segment],
    result: &[u8],
    status: Option<Status>,
) -> Result<u32, DmaFault> {
    scatter(dma, writable, 0, result)?;
    let mut written = result.len();
    if let Some(status) = status {
        scatter(dma, writable, segments_len(writable) - 1, &[status.0])?;
        written += 1;
    }
    Ok(u32::try_from(written).expect("results are bounded by the card's max_size"))
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("engine_index", &self.engine_index)
            .field("len", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.input.zeroize();
        self.output.zeroize();
    }
}

impl Answer {
    const fn new(opcode: u32, session_id: u64) -> Self {
        Self {
            status: Status::ERR,
            opcode,
            session_id,
            result: 0..0,
            status_byte: true,
        }
    }
}

/// Room for results, which grows as far as it once has to and is then reused.
struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    used: usize,
}

impl Output<'_> {
    fn reserve(&mut self, len: usize) -> Range<usize> {
        let range = self.used..self.used + len;
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        self.used = range.end;
        range
    }
}

fn execute_control(
    context: &Context,
    input: &[u8],
    output: &mut Output<'_>,
    writable_len: u64,
) -> Answer {
    let opcode =
        ControlHeader::ref_from_prefix(input).map_or(u32::MAX, |(header, _)| header.opcode.get());
    let mut answer = Answer::new(opcode, 0);
    if !request::opens_session(opcode) {
        answer.status = close_session(context, input, &mut answer.session_id)
            .err()
            .unwrap_or(Status::OK);
        return answer;
    }
    if writable_len < size_of::<SessionReply>() as u64 {
        return answer;
    }
    answer.status = match open_session(context, input) {
        Ok(session_id) => {
            answer.session_id = session_id;
            Status::OK
        }
        Err(status) => status,
    };
    let reply = SessionReply {
        session_id: U64::new(answer.session_id),
        status: U32::new(u32::from(answer.status.0)),
        padding: U32::ZERO,
    };
    answer.result = output.reserve(size_of::<SessionReply>());
    answer.status_byte = false;
    output.bytes[answer.result.clone()].copy_from_slice(reply.as_bytes());
    answer
}

fn open_session(context: &Context, input: &[u8]) -> Result<u64, Status> {
    let Control::Open { spec, key } = request::parse_control(input)? else {
        return Err(Status::ERR);
    };
    // Asked before the key is looked at, which for RSA takes long.
    if context.sessions.is_full() {
        return Err(Status::NOSPC);
    }
    // A driver that reads the configuration sends none that is longer.
    if key.len() > key_len_max(&spec, &context.engine.offer()) {
        return Err(Status::ERR);
    }
    let session = context.engine.open(&spec, key)?;
    context.sessions.insert(spec.service(), session)
}

fn key_len_max(spec: &SessionSpec, offer: &Offer) -> usize {
    match spec {
        SessionSpec::Cipher { .. } | SessionSpec::AesGcm { .. } => {
            offer.cipher_key_len_max as usize
        }
        SessionSpec::Mac { .. } => offer.auth_key_len_max as usize,
        SessionSpec::Hash { .. } | SessionSpec::Rsa { .. } | SessionSpec::Ecdsa { .. } => {
            usize::MAX
        }
    }
}

fn close_session(context: &Context, input: &[u8], closed: &mut u64) -> Result<(), Status> {
    let Control::Close {
        service,
        session_id,
    } = request::parse_control(input)?
    else {
        return Err(Status::ERR);
    };
    *closed = session_id;
    context.sessions.remove(service, session_id)
}

fn execute_data(
    context: &Context,
    input: &[u8],
    output: &mut Output<'_>,
    writable_len: u64,
) -> Answer {
    let (mut answer, begun) = begin(context, input, output, writable_len);
    if let Some(Begun {
        session,
        operation,
        room,
    }) = begun
    {
        let result = &mut output.bytes[room.clone()];
        let outcome = session.and_then(|session| session.execute(&operation, result));
        answer.conclude(outcome, room, output);
    }
    answer
}

/// Executes requests for data side by side.
fn execute_together(context: &Context, slots: &mut [Slot], input: &[u8], output: &mut Output<'_>) {
    // There is room for every result before any is written.
    let mut begun = Vec::with_capacity(slots.len());
    for slot in slots {
        let input = &input[slot.input.clone()];
        let (answer, data) = begin(context, input, output, slot.writable_len);
        slot.answer = answer;
        begun.extend(data.map(|data| (&mut slot.answer, data)));
    }
    let mut lanes = Vec::with_capacity(begun.len());
    let mut rest = &mut output.bytes[..];
    let mut skipped = 0;
    for (_, begun) in &begun {
        let (_, from_here) = rest.split_at_mut(begun.room.start - skipped);
        let (room, behind) = from_here.split_at_mut(begun.room.len());
        (rest, skipped) = (behind, begun.room.end);
        lanes.extend(begun.session.as_ref().ok().map(|session| Lane {
            session: &**session,
            operation: begun.operation,
            output: room,
            outcome: Err(Status::ERR),
        }));
    }
    context.engine.execute(&mut lanes);
    let outcomes: Vec<_> = lanes.into_iter().map(|lane| lane.outcome).collect();
    let mut outcomes = outcomes.into_iter();
    for (answer, Begun { session, room, .. }) in begun {
        let outcome = session.and_then(|_| outcomes.next().unwrap_or(Err(Status::ERR)));
        answer.conclude(outcome, room, output);
    }
}

/// A request that can be executed.
struct Begun<'a> {
    session: Result<Arc<dyn Session>, Status>,
    operation: Operation<'a>,
    /// For the result.
    room: Range<usize>,
}

/// Parses a request and makes room for its result; without the latter, the answer is final.
fn begin<'a>(
    context: &Context,
    input: &'a [u8],
    output: &mut Output<'_>,
    writable_len: u64,
) -> (Answer, Option<Begun<'a>>) {
    let (opcode, session_id) = DataHeader::ref_from_prefix(input)
        .map_or((u32::MAX, 0), |(header, _)| {
            (header.opcode.get(), header.session_id.get())
        });
    let mut answer = Answer::new(opcode, session_id);
    let data = match request::parse_data(input, context.max_size) {
        Ok(data) => data,
        Err(status) => {
            answer.status = status;
            return (answer, None);
        }
    };
    if data.result_len as u64 >= writable_len {
        // The result and the status byte do not fit into what the driver lets us write.
        return (answer, None);
    }
    let service = request::service_of(opcode);
    let begun = Begun {
        session: context.sessions.find(service, data.session_id),
        operation: data.operation,
        room: output.reserve(data.result_len),
    };
    (answer, Some(begun))
}

impl Answer {
    fn conclude(
        &mut self,
        outcome: Result<usize, Status>,
        room: Range<usize>,
        output: &mut Output<'_>,
    ) {
        self.result = match outcome {
            Ok(len) => {
                self.status = Status::OK;
                room.start..room.start + len.min(room.len())
            }
            Err(status) => {
                self.status = status;
                // A failed request still says that it wrote its whole result, as QEMU's device
                // does; what it writes is nothing an engine has left behind.
                output.bytes[room.clone()].fill(0);
                room
            }
        };
    }
}

/// Writes `bytes` into `segments`, `skip` bytes from their start.
fn scatter(dma: &DmaMap, segments: &[Segment], skip: u64, bytes: &[u8]) -> Result<(), DmaFault> {
    let mut skip = skip;
    let mut rest = bytes;
    for segment in segments {
        if rest.is_empty() {
            break;
        }
        let len = u64::from(segment.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let room = usize::try_from(len - skip).unwrap_or(usize::MAX);
        let (piece, behind) = rest.split_at(rest.len().min(room));
        dma.write(segment.iova.wrapping_add(skip), piece)?;
        skip = 0;
        rest = behind;
    }
    Ok(())
}

/// Most bytes copied of one request: one more than any request may have, so that a longer one is
/// recognized.
pub(crate) const fn request_len_max(max_size: usize) -> usize {
    REQUEST_LEN + max_size + 1
}
