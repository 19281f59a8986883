//! What a running segment waits for: one type for each kind of wait, which says what it asks for and takes exactly that.

use alloc::vec::Vec;

use cordon_engine::program::{DType, Port};
use cordon_engine::{Moved, Reply as Answer, Step, ValueRef};
use cordon_protocol::{Code, Payload, Refusal, Reply, SPILL_CHUNK, Supply};

use crate::crossing::{Crossing, Outbound};
use crate::mode::Mode;
use crate::platform::Platform;
use crate::policy::Released;
use crate::run::Run;
use crate::spill;

/// What the next `Step` must bring.
pub(crate) enum Wait {
    /// Nothing: the engine goes on.
    Turn,
    Window(OutOfReach),
    Entering(Entering),
    Leaving(Leaving),
    Returning(Returning),
    HandingOut(HandingOut),
}

impl Wait {
    /// Takes what was brought and goes on; `None` when the segment is complete.
    pub(crate) fn take<P: Platform>(
        self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Self>, Refusal> {
        match self {
            Self::Turn => {
                supplied.nothing(run)?;
                run.go_on(Answer::Go, out)
            }
            Self::Window(wait) => wait.take(supplied, run, out),
            Self::Entering(wait) => wait.take(supplied, run, out),
            Self::Leaving(wait) => wait.take(supplied, run, out),
            Self::Returning(wait) => wait.take(supplied, run, out),
            Self::HandingOut(wait) => wait.take(supplied, run, out),
        }
    }
}

impl Wait {
    /// Whether the engine goes on once that came, or more of the same is asked for.
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Self::Turn | Self::Window(_) => true,
            Self::Entering(wait) => wait.start.saturating_add(wait.len.into()) >= wait.total,
            Self::Leaving(wait) => wait.is_out(),
            Self::Returning(wait) => wait.chunk.saturating_add(wait.count) >= spill::chunks(wait.moved),
            Self::HandingOut(wait) => wait.is_out(),
        }
    }
}

/// What a `Step` brought.
pub(crate) enum Supplied<'a> {
    Nothing,
    /// A piece of a value, as the request's mode lets it in.
    Value {
        value: u32,
        start: u64,
        plain: &'a [u8],
    },
    /// Stored chunks of the spill area.
    Spilled {
        chunk: u32,
        stored: &'a mut [u8],
    },
}

impl<'a> Supplied<'a> {
    /// Lets in what fits the mode of the request.
    pub(crate) fn admit(mode: Mode, supply: Supply, payload: &'a mut [u8]) -> Result<Self, Refusal> {
        let Mode::Clear(_) = mode;
        Ok(match supply {
            Supply::Nothing => Self::Nothing,
            Supply::Value { value, start, payload: Payload::Clear } => Self::Value { value, start, plain: payload },
            Supply::Value { payload: Payload::Sealed, .. } => return Err(Refusal::new(Code::SealedPayload)),
            Supply::Spilled { chunk } => Self::Spilled { chunk, stored: payload },
        })
    }

    fn nothing<P: Platform>(&self, run: &Run<'_, P>) -> Result<(), Refusal> {
        if matches!(self, Self::Nothing) { Ok(()) } else { Err(run.wrong()) }
    }
}

/// A window of the store with these pieces, which the one at hand does not hold.
pub(crate) struct OutOfReach {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl OutOfReach {
    fn take<P: Platform>(
        self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Wait>, Refusal> {
        supplied.nothing(run)?;
        let Self { first, count } = self;
        if run.store.is_none() {
            return Err(Refusal::new(Code::CorruptStore).in_segment(run.segment.index).about(first));
        }
        run.go_on_from(Step::NeedPieces { first, count }, out)
    }
}

/// A value that comes in, piece by piece.
pub(crate) struct Entering {
    value: u32,
    dtype: DType,
    /// Bytes that have come.
    start: u64,
    /// Bytes asked for.
    len: u32,
    total: u64,
}

impl Entering {
    pub(crate) fn new(port: &Port) -> Self {
        Self { value: port.value, dtype: port.region.dtype, start: 0, len: 0, total: port.region.bytes() }
    }

    pub(crate) fn ask<P: Platform>(mut self, run: &Run<'_, P>, out: &mut Vec<u8>) -> Wait {
        let limit = whole(run.platform.payload_limit()) as u64;
        self.len = self.total.saturating_sub(self.start).min(limit) as u32;
        Reply::NeedValue { value: self.value, start: self.start, len: self.len }.encode(out);
        Wait::Entering(self)
    }

    fn take<P: Platform>(
        mut self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Wait>, Refusal> {
        let Supplied::Value { value, start, plain } = supplied else { return Err(run.wrong()) };
        if (value, start, plain.len() as u64) != (self.value, self.start, u64::from(self.len)) {
            return Err(run.wrong());
        }
        if self.dtype == DType::F32 && holds_nan(plain) {
            return Err(Refusal::new(Code::BadValue).in_segment(run.segment.index).about(value));
        }
        run.fill(plain)?;
        self.start = self.start.saturating_add(self.len.into());
        if self.start < self.total { Ok(Some(self.ask(run, out))) } else { run.go_on(Answer::Filled, out) }
    }
}

/// A value that goes to the spill area, chunk by chunk.
pub(crate) struct Leaving {
    moved: Moved,
    /// The chunk to send next.
    chunk: u32,
}

impl Leaving {
    pub(crate) fn new(moved: Moved) -> Self {
        Self { moved, chunk: 0 }
    }

    pub(crate) fn send<P: Platform>(mut self, run: &Run<'_, P>, out: &mut Vec<u8>) -> Result<Wait, Refusal> {
        run.spiller()?.send(self.moved, self.chunk, run.announced()?, out)?;
        self.chunk = self.chunk.saturating_add(1);
        Ok(Wait::Leaving(self))
    }

    fn take<P: Platform>(
        self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Wait>, Refusal> {
        supplied.nothing(run)?;
        if self.is_out() { run.go_on(Answer::Go, out) } else { self.send(run, out).map(Some) }
    }

    fn is_out(&self) -> bool {
        self.chunk >= spill::chunks(self.moved)
    }
}

/// A value that comes back from the spill area, as many chunks at a time as a frame holds.
pub(crate) struct Returning {
    moved: Moved,
    /// First chunk that has not come.
    chunk: u32,
    /// Chunks asked for.
    count: u32,
}

impl Returning {
    pub(crate) fn new(moved: Moved) -> Self {
        Self { moved, chunk: 0, count: 0 }
    }

    pub(crate) fn ask<P: Platform>(mut self, run: &Run<'_, P>, out: &mut Vec<u8>) -> Result<Wait, Refusal> {
        let fit = u32::try_from(run.platform.payload_limit() / SPILL_CHUNK).unwrap_or(u32::MAX);
        self.count = spill::chunks(self.moved).saturating_sub(self.chunk).min(fit);
        let len = spill::stored_len(self.moved, self.chunk, self.count);
        let len = u32::try_from(len).map_err(|_| Refusal::new(Code::Internal))?;
        Reply::NeedSpilled { chunk: self.place(), len }.encode(out);
        Ok(Wait::Returning(self))
    }

    /// All chunks that were asked for and nothing else.
    fn take<P: Platform>(
        mut self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Wait>, Refusal> {
        let corrupt = run.spiller()?.refusal(Code::CorruptSpill, self.moved);
        let Supplied::Spilled { chunk, stored: mut rest } = supplied else { return Err(corrupt) };
        if chunk != self.place() || rest.len() != spill::stored_len(self.moved, self.chunk, self.count) {
            return Err(corrupt);
        }
        let end = self.chunk.saturating_add(self.count);
        for chunk in self.chunk..end {
            let len = spill::stored_len(self.moved, chunk, 1);
            let (stored, later) = core::mem::take(&mut rest).split_at_mut_checked(len).ok_or(corrupt)?;
            let plain = run.spiller()?.open(self.moved, chunk, stored)?;
            run.fill(plain)?;
            rest = later;
        }
        self.chunk = end;
        if end < spill::chunks(self.moved) { self.ask(run, out).map(Some) } else { run.go_on(Answer::Filled, out) }
    }

    /// Where the next chunks lie in the spill area.
    fn place(&self) -> u32 {
        self.moved.slot.saturating_add(self.chunk)
    }
}

/// An output that leaves through its crossing, piece by piece.
pub(crate) struct HandingOut {
    crossing: Crossing,
    /// What leaves instead of the value, where the output policy governs it.
    released: Option<Released>,
    /// Bytes that have left.
    start: u64,
    total: u64,
}

impl HandingOut {
    pub(crate) fn new<P: Platform>(value: u32, run: &Run<'_, P>) -> Result<Self, Refusal> {
        let internal = Refusal::new(Code::Internal);
        let crossing = run.segment.crossings.iter().find(|crossing| crossing.value() == value).ok_or(internal)?;
        let released = match (crossing.is_governed(), run.policy, run.announced()?) {
            (false, _, _) => None,
            (true, Some(policy), ValueRef::F32(output)) => Some(policy.apply(output, run.platform)?),
            (true, _, _) => return Err(internal),
        };
        Ok(Self { crossing: *crossing, released, start: 0, total: u64::MAX })
    }

    pub(crate) fn send<P: Platform>(mut self, run: &Run<'_, P>, out: &mut Vec<u8>) -> Result<Wait, Refusal> {
        let mode = run.mode;
        let Mode::Clear(clear) = mode;
        let door = Outbound::new(&self.crossing, clear, out, whole(run.platform.reply_limit()));
        (self.start, self.total) = match &self.released {
            Some(released) => door.send_released(released, self.start)?,
            None => door.send_value(run.announced()?, self.start)?,
        };
        Ok(Wait::HandingOut(self))
    }

    fn take<P: Platform>(
        self,
        supplied: Supplied<'_>,
        run: &mut Run<'_, P>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Wait>, Refusal> {
        supplied.nothing(run)?;
        if self.is_out() { run.go_on(Answer::Go, out) } else { self.send(run, out).map(Some) }
    }

    fn is_out(&self) -> bool {
        self.start >= self.total
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
