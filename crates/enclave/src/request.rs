//! Requests: an id issued inside, every secure segment once and in order, values kept between them, and nothing after a
//! mistake. One segment runs at a time; it brings in exactly what its Program asks for.

use alloc::boxed::Box;
use alloc::vec::Vec;

use cordon_engine::program::{DType, Via};
use cordon_engine::{Moved, Prepared, Reply as Answer, Step, ValueRef};
use cordon_protocol::{Code, Payload, Refusal, Reply, SPILL_CHUNK, STORED_PIECE, Supply};
use zeroize::Zeroizing;

use crate::crossing::Outbound;
use crate::model::{MAX_OPEN_REQUESTS, Model, Segment};
use crate::platform::Platform;
use crate::policy::{Policy, Released};
use crate::refuse;
use crate::spill::{self, Spiller};

/// A loaded model and its open requests.
pub(crate) struct Ready {
    pub(crate) model: Box<Model>,
    requests: Vec<Request>,
    active: Option<Active>,
}

struct Request {
    id: u64,
    /// Secure segments started so far.
    next: usize,
    retained: Vec<Retained>,
}

/// A value kept inside for a later segment; wiped when the request is closed.
struct Retained {
    value: u32,
    held: Held,
}

enum Held {
    F32(Zeroizing<Vec<f32>>),
    I64(Zeroizing<Vec<i64>>),
    Bool(Zeroizing<Vec<u8>>),
    U8(Zeroizing<Vec<u8>>),
}

/// The segment that runs.
struct Active {
    request: u64,
    /// Index into the model's secure segments.
    at: usize,
    /// Where the Program spills.
    spiller: Option<Spiller>,
    /// Stored bytes of weights read back.
    read: u64,
    wait: Wait,
}

/// What the next `Step` must bring.
enum Wait {
    Nothing,
    Value {
        value: u32,
        dtype: DType,
        start: u64,
        len: u32,
        total: u64,
    },
    /// Nothing; chunk `chunk` of a value that leaves follows, or the engine when all are out.
    Spill {
        moved: Moved,
        chunk: u32,
    },
    /// Chunks of a value that comes back.
    Restore {
        moved: Moved,
        chunk: u32,
        count: u32,
    },
    /// Nothing; the next piece of an output follows, or the engine when all is out.
    Output {
        crossing: usize,
        released: Option<Released>,
        start: u64,
        total: u64,
    },
}

/// A step of the engine without its borrow.
#[derive(Clone, Copy)]
enum Event {
    Pieces { count: u32 },
    Input(PortFacts),
    Spill(Moved),
    Restore(Moved),
    Ran,
    Output(PortFacts),
    Done,
}

#[derive(Clone, Copy)]
struct PortFacts {
    value: u32,
    via: Via,
    dtype: DType,
    bytes: u64,
}

impl Ready {
    pub(crate) fn new(model: Box<Model>) -> Self {
        Self { model, requests: Vec::new(), active: None }
    }

    /// Opens a request, if the package allows another.
    pub(crate) fn begin(&mut self, platform: &mut impl Platform) -> Result<u64, Refusal> {
        if self.requests.len() >= MAX_OPEN_REQUESTS {
            return Err(Refusal::new(Code::Busy));
        }
        let mut id = [0; 8];
        platform.random(&mut id).map_err(refuse::platform)?;
        let id = u64::from_le_bytes(id);
        if self.requests.iter().any(|request| request.id == id) {
            return Err(Refusal::new(Code::Platform));
        }
        let request = Request { id, next: 0, retained: Vec::new() };
        self.requests.try_reserve(1).map_err(|_| Refusal::new(Code::OutOfMemory))?;
        if let Some(max) = self.model.max_requests {
            let used = platform.counter(&self.model.request_counter);
            if used >= max {
                return Err(Refusal::new(Code::RequestLimit).amounts(used.saturating_add(1), max));
            }
            platform.raise(&self.model.request_counter, used.saturating_add(1)).map_err(refuse::platform)?;
        }
        self.requests.push(request);
        Ok(id)
    }

    /// Starts the request's next segment.
    pub(crate) fn run(
        &mut self,
        id: u64,
        segment: u32,
        platform: &mut impl Platform,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let request = self.requests.iter_mut().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let at = request.next;
        let next = self.model.segments.get(at).filter(|next| next.index == segment && self.active.is_none());
        let next = next.ok_or(Refusal::new(Code::OutOfOrder).in_segment(segment))?;
        for port in next.prepared.outputs().iter().filter(|port| port.via == Via::Retain) {
            let len = port.region.len as usize;
            let held = match port.region.dtype {
                DType::F32 => Held::F32(Zeroizing::new(refuse::reserve(len, &*platform)?)),
                DType::I64 => Held::I64(Zeroizing::new(refuse::reserve(len, &*platform)?)),
                DType::Bool => Held::Bool(Zeroizing::new(refuse::reserve(len, &*platform)?)),
                DType::U8 => Held::U8(Zeroizing::new(refuse::reserve(len, &*platform)?)),
            };
            request.retained.try_reserve(1).map_err(|_| Refusal::new(Code::OutOfMemory))?;
            request.retained.push(Retained { value: port.value, held });
        }
        let spills = next.prepared.spill_chunks() > 0;
        let spiller = spills.then(|| Spiller::new(id, segment, platform)).transpose()?;
        request.next += 1;
        self.active = Some(Active { request: id, at, spiller, read: 0, wait: Wait::Nothing });
        self.step(id, Supply::Nothing, &mut [], platform, out)
    }

    /// Takes what the running segment asked for and goes on until it needs the normal world again.
    pub(crate) fn step(
        &mut self,
        id: u64,
        supply: Supply,
        payload: &mut [u8],
        platform: &impl Platform,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let request = self.requests.iter_mut().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let active = self.active.as_mut().filter(|active| active.request == id);
        let active = active.ok_or(Refusal::new(Code::OutOfOrder))?;
        let Model { segments, policy, .. } = &mut *self.model;
        let segment = segments.get_mut(active.at).ok_or(Refusal::new(Code::Internal))?;
        let (spiller, read) = (active.spiller.as_ref(), &mut active.read);
        let mut run =
            Run { segment, policy: policy.as_ref(), retained: &mut request.retained, spiller, read, platform };
        let wait = core::mem::replace(&mut active.wait, Wait::Nothing);
        let next = match run.answer(wait, supply, payload)? {
            Answered::Event(event) => run.proceed(event, out)?,
            Answered::Waiting(wait) => run.announce(wait, out)?,
        };
        match next {
            Some(wait) => active.wait = wait,
            None => {
                segment.prepared.reset();
                self.active = None;
            }
        }
        Ok(())
    }

    /// Closes a request all of whose segments ran.
    pub(crate) fn end(&mut self, id: u64) -> Result<(), Refusal> {
        let request = self.requests.iter().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let running = self.active.as_ref().is_some_and(|active| active.request == id);
        if running || request.next < self.model.segments.len() {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        self.close(id);
        Ok(())
    }

    /// Drops a request in any state; false when there is none of this id.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        if let Some(active) = self.active.take_if(|active| active.request == id)
            && let Some(segment) = self.model.segments.get_mut(active.at)
        {
            segment.prepared.reset();
        }
        let before = self.requests.len();
        self.requests.retain(|request| request.id != id);
        self.requests.len() < before
    }
}

/// What an answer led to.
enum Answered {
    /// The engine went on.
    Event(Event),
    /// More is needed before it can.
    Waiting(Wait),
}

/// One segment in motion.
struct Run<'a, P> {
    segment: &'a mut Segment,
    policy: Option<&'a Policy>,
    retained: &'a mut Vec<Retained>,
    spiller: Option<&'a Spiller>,
    /// Stored bytes of weights read back while this segment runs.
    read: &'a mut u64,
    platform: &'a P,
}

impl<P: Platform> Run<'_, P> {
    /// Checks that `supply` is what was waited for, and hands it to the engine.
    fn answer(&mut self, wait: Wait, supply: Supply, payload: &mut [u8]) -> Result<Answered, Refusal> {
        let wrong = Refusal::new(Code::WrongSupply).in_segment(self.segment.index);
        match (wait, supply) {
            (Wait::Nothing, Supply::Nothing) => self.engine(Answer::Go).map(Answered::Event),
            (Wait::Output { start, total, .. }, Supply::Nothing) if start >= total => {
                self.engine(Answer::Go).map(Answered::Event)
            }
            (Wait::Spill { moved, chunk }, Supply::Nothing) if chunk >= spill::chunks(moved) => {
                self.engine(Answer::Go).map(Answered::Event)
            }
            (wait @ (Wait::Output { .. } | Wait::Spill { .. }), Supply::Nothing) => Ok(Answered::Waiting(wait)),
            (Wait::Restore { moved, chunk, count }, Supply::Spilled { chunk: c })
                if c == moved.slot.saturating_add(chunk) =>
            {
                self.restore(moved, chunk, count, payload)
            }
            (Wait::Restore { moved, .. }, _) => Err(self.spiller()?.refusal(Code::CorruptSpill, moved)),
            (_, Supply::Value { payload: Payload::Sealed, .. }) => Err(Refusal::new(Code::SealedPayload)),
            (
                Wait::Value { value, dtype, start, len, total },
                Supply::Value { value: v, start: s, payload: Payload::Clear },
            ) if (v, s, payload.len() as u64) == (value, start, u64::from(len)) => {
                if dtype == DType::F32 && holds_nan(payload) {
                    return Err(Refusal::new(Code::BadValue).in_segment(self.segment.index).about(value));
                }
                self.segment.prepared.fill(payload).map_err(|e| self.refusal(e))?;
                let start = start.saturating_add(len.into());
                if start >= total {
                    return self.engine(Answer::Filled).map(Answered::Event);
                }
                Ok(Answered::Waiting(self.wait_for(PortFacts { value, via: Via::Cross, dtype, bytes: total }, start)))
            }
            _ => Err(wrong),
        }
    }

    /// Runs on from `event` until the normal world is needed; `None` when the segment is complete.
    fn proceed(&mut self, mut event: Event, out: &mut Vec<u8>) -> Result<Option<Wait>, Refusal> {
        let mut left = self.platform.burst();
        loop {
            event = match event {
                Event::Done => {
                    Reply::SegmentDone { read: *self.read }.encode(out);
                    return Ok(None);
                }
                Event::Pieces { count } => self.stream(count)?,
                Event::Input(PortFacts { value, via: Via::Retain, .. }) => {
                    let kept = self.retained.iter().find(|kept| kept.value == value);
                    let view = kept.ok_or(Refusal::new(Code::Internal))?.held.view();
                    engine(&mut self.segment.prepared, Answer::Value(view), self.segment.index, self.platform)?
                }
                Event::Input(port) => return self.announce(self.wait_for(port, 0), out),
                Event::Spill(moved) => return self.announce(Wait::Spill { moved, chunk: 0 }, out),
                Event::Restore(moved) => return self.announce(self.wait_for_spilled(moved, 0), out),
                Event::Ran if left == 0 => {
                    Reply::Working.encode(out);
                    return Ok(Some(Wait::Nothing));
                }
                Event::Ran => {
                    left -= 1;
                    self.engine(Answer::Go)?
                }
                Event::Output(PortFacts { value, via: Via::Retain, .. }) => {
                    let view = self.segment.prepared.output().ok_or(Refusal::new(Code::Internal))?;
                    let kept = self.retained.iter_mut().find(|kept| kept.value == value);
                    kept.ok_or(Refusal::new(Code::Internal))?.held.set(view)?;
                    self.engine(Answer::Go)?
                }
                Event::Output(port) => {
                    let wait = self.open_door(port.value)?;
                    return self.announce(wait, out);
                }
            };
        }
    }

    /// Tells the normal world what is waited for; of an output, sends the next piece.
    fn announce(&self, wait: Wait, out: &mut Vec<u8>) -> Result<Option<Wait>, Refusal> {
        let internal = Refusal::new(Code::Internal);
        Ok(Some(match wait {
            Wait::Nothing => return Err(internal),
            Wait::Value { value, start, len, .. } => {
                Reply::NeedValue { value, start, len }.encode(out);
                wait
            }
            Wait::Spill { moved, chunk } => {
                let value = self.segment.prepared.output().ok_or(internal)?;
                self.spiller()?.send(moved, chunk, value, out)?;
                Wait::Spill { moved, chunk: chunk.saturating_add(1) }
            }
            Wait::Restore { moved, chunk, count } => {
                let len = u32::try_from(spill::stored_len(moved, chunk, count)).map_err(|_| internal)?;
                Reply::NeedSpilled { chunk: moved.slot.saturating_add(chunk), len }.encode(out);
                wait
            }
            Wait::Output { crossing, released, start, .. } => {
                let permission = self.segment.crossings.get(crossing).ok_or(internal)?;
                let door = Outbound::new(permission, out, whole(self.platform.reply_limit()));
                let (start, total) = match &released {
                    Some(released) => door.send_released(released, start)?,
                    None => door.send_value(self.segment.prepared.output().ok_or(internal)?, start)?,
                };
                Wait::Output { crossing, released, start, total }
            }
        }))
    }

    /// The crossing of an output, with what the policy releases if it governs the value.
    fn open_door(&self, value: u32) -> Result<Wait, Refusal> {
        let internal = Refusal::new(Code::Internal);
        let crossing = self.segment.crossings.iter().position(|c| c.value() == value).ok_or(internal)?;
        let governed = self.segment.crossings.get(crossing).is_some_and(|c| c.is_governed());
        let released = match (governed, self.policy, self.segment.prepared.output()) {
            (false, _, Some(_)) => None,
            (true, Some(policy), Some(ValueRef::F32(output))) => Some(policy.apply(output, self.platform)?),
            _ => return Err(internal),
        };
        Ok(Wait::Output { crossing, released, start: 0, total: u64::MAX })
    }

    fn wait_for(&self, port: PortFacts, start: u64) -> Wait {
        let limit = whole(self.platform.payload_limit()) as u64;
        let len = port.bytes.saturating_sub(start).min(limit) as u32;
        Wait::Value { value: port.value, dtype: port.dtype, start, len, total: port.bytes }
    }

    fn spiller(&self) -> Result<&Spiller, Refusal> {
        self.spiller.ok_or(Refusal::new(Code::Internal).in_segment(self.segment.index))
    }

    /// As many chunks of a spilled value, from `chunk` on, as fit a frame.
    fn wait_for_spilled(&self, moved: Moved, chunk: u32) -> Wait {
        let fit = u32::try_from(self.platform.payload_limit() / SPILL_CHUNK).unwrap_or(u32::MAX);
        Wait::Restore { moved, chunk, count: spill::chunks(moved).saturating_sub(chunk).min(fit) }
    }

    /// Takes chunks of a spilled value back, all that were asked for and nothing else.
    fn restore(&mut self, moved: Moved, first: u32, count: u32, mut payload: &mut [u8]) -> Result<Answered, Refusal> {
        let corrupt = self.spiller()?.refusal(Code::CorruptSpill, moved);
        if payload.len() != spill::stored_len(moved, first, count) {
            return Err(corrupt);
        }
        for chunk in first..first.saturating_add(count) {
            let len = spill::stored_len(moved, chunk, 1);
            let (stored, rest) = core::mem::take(&mut payload).split_at_mut_checked(len).ok_or(corrupt)?;
            let plain = self.spiller()?.open(moved, chunk, stored)?;
            self.segment.prepared.fill(plain).map_err(|e| self.refusal(e))?;
            payload = rest;
        }
        let next = first.saturating_add(count);
        if next < spill::chunks(moved) {
            return Ok(Answered::Waiting(self.wait_for_spilled(moved, next)));
        }
        self.engine(Answer::Filled).map(Answered::Event)
    }

    /// Lets the engine take pieces of weights from the store.
    fn stream(&mut self, count: u32) -> Result<Event, Refusal> {
        let internal = Refusal::new(Code::Internal).in_segment(self.segment.index);
        let Segment { index: of, prepared, streamed, .. } = &mut *self.segment;
        let (streamed, store) = (streamed.as_ref().ok_or(internal)?, self.platform.store().ok_or(internal)?);
        *self.read = self.read.saturating_add(u64::from(count) * STORED_PIECE as u64);
        engine(prepared, Answer::Pieces(&streamed.source(store)), *of, self.platform)
    }

    fn engine(&mut self, answer: Answer<'_>) -> Result<Event, Refusal> {
        engine(&mut self.segment.prepared, answer, self.segment.index, self.platform)
    }

    fn refusal(&self, error: cordon_engine::EngineError) -> Refusal {
        refuse::engine(error, self.segment.index, self.platform.memory().available())
    }
}

fn engine(
    prepared: &mut Prepared,
    answer: Answer<'_>,
    segment: u32,
    platform: &impl Platform,
) -> Result<Event, Refusal> {
    let facts = |port: &cordon_engine::program::Port| PortFacts {
        value: port.value,
        via: port.via,
        dtype: port.region.dtype,
        bytes: u64::from(port.region.len) * u64::from(port.region.dtype.bytes()),
    };
    match prepared.step(answer) {
        // All were loaded before the first request.
        Ok(Step::NeedChunks { .. }) => Err(Refusal::new(Code::Internal).in_segment(segment)),
        Ok(Step::NeedPieces { count, .. }) => Ok(Event::Pieces { count }),
        Ok(Step::Input(port)) => Ok(Event::Input(facts(port))),
        Ok(Step::Spill(moved)) => Ok(Event::Spill(moved)),
        Ok(Step::Restore(moved)) => Ok(Event::Restore(moved)),
        Ok(Step::Ran { .. }) => Ok(Event::Ran),
        Ok(Step::Output(port)) => Ok(Event::Output(facts(port))),
        Ok(Step::Done) => Ok(Event::Done),
        Err(error) => Err(refuse::engine(error, segment, platform.memory().available())),
    }
}

/// Payload bytes that hold whole elements of any type.
fn whole(limit: usize) -> usize {
    limit & !7
}

/// Without an early end within a piece, which would be looked at number by number.
fn holds_nan(bytes: &[u8]) -> bool {
    let nan = |found, bytes: &[u8; 4]| found | f32::from_le_bytes(*bytes).is_nan();
    bytes.as_chunks::<4>().0.chunks(1024).any(|piece| piece.iter().fold(false, nan))
}

impl Held {
    fn view(&self) -> ValueRef<'_> {
        match self {
            Self::F32(v) => ValueRef::F32(v),
            Self::I64(v) => ValueRef::I64(v),
            Self::Bool(v) => ValueRef::Bool(v),
            Self::U8(v) => ValueRef::U8(v),
        }
    }

    /// Fills the room reserved for the value; a longer one would mean that validation failed.
    fn set(&mut self, value: ValueRef<'_>) -> Result<(), Refusal> {
        fn fill<T: Copy>(to: &mut Vec<T>, from: &[T]) -> Result<(), Refusal> {
            if from.len() > to.capacity() {
                return Err(Refusal::new(Code::Internal));
            }
            to.clear();
            to.extend_from_slice(from);
            Ok(())
        }
        match (self, value) {
            (Self::F32(to), ValueRef::F32(from)) => fill(to, from),
            (Self::I64(to), ValueRef::I64(from)) => fill(to, from),
            (Self::Bool(to), ValueRef::Bool(from)) | (Self::U8(to), ValueRef::U8(from)) => fill(to, from),
            _ => Err(Refusal::new(Code::Internal)),
        }
    }
}
