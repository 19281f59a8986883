//! One request on its way through the segments of a package: what the enclave is told next, which normal segment runs next.
//!
//! A flight does no I/O and reads no clock. Whoever drives it asks [`Flight::next`], does that, and reports what came of it
//! ([`Flight::replied`], [`Flight::computed`]) with the time. So one enclave serves several flights in turn, on whatever
//! thread, and a test plays the enclave.

use core::ops::Range;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cordon_executor::Tensor;
use cordon_protocol::{Command, Form, MemoryUse, Payload, Ranked, Reply, Supply};

use crate::error::RuntimeError;
use crate::route::{Leg, Route};
use crate::run::{Run, SegmentCost};
use crate::spill::SpillArea;

/// Bytes reserved at most for an output when its first piece comes; a longer one grows.
const ROOM: usize = 64 << 20;

/// A request under way.
pub(crate) struct Flight {
    route: Arc<Route>,
    /// Inputs and everything the host has seen since, by package value index.
    values: HashMap<u32, Tensor>,
    ranked: HashMap<u32, Ranked>,
    /// The request that is open in the enclave for this flight.
    request: Option<u64>,
    stage: Stage,
    /// The output of which pieces have come.
    incoming: Option<Incoming>,
    /// Of the segment under way.
    cost: SegmentCost,
    /// Of the segments that ran, in order.
    costs: Vec<SegmentCost>,
    memory: MemoryUse,
    started: Instant,
    since: Instant,
}

/// What the driver of a flight does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this with [`Flight::payload`] and hand the answer to [`Flight::replied`].
    Command(Command),
    /// Compute the normal segment of this index and hand its outputs to [`Flight::computed`].
    Normal(usize),
    /// Take the result: [`Flight::finish`].
    Done,
}

enum Stage {
    Begin,
    Run { request: u64, segment: u32 },
    Step { request: u64, segment: u32, bring: Bring },
    End { request: u64 },
    Report,
    Normal { index: usize },
    Done,
}

/// What the running segment asked for.
enum Bring {
    Nothing,
    Value { value: u32, start: u64, piece: Bytes },
    Spilled { chunk: u32, range: Range<usize> },
}

/// An output that comes in pieces.
struct Incoming {
    value: u32,
    form: Form,
    total: u64,
    bytes: Vec<u8>,
}

impl Flight {
    /// A request with these inputs, which are checked against the package's manifest.
    pub(crate) fn new(route: Arc<Route>, inputs: &[(&str, &Tensor)], now: Instant) -> Result<Self, RuntimeError> {
        let values = route.bind(inputs)?;
        let mut flight = Self {
            cost: SegmentCost::nothing(route.placement(0)),
            costs: Vec::new(),
            ranked: HashMap::new(),
            request: None,
            stage: Stage::Done,
            incoming: None,
            memory: MemoryUse::default(),
            started: now,
            since: now,
            values,
            route,
        };
        flight.enter_segment();
        Ok(flight)
    }

    /// What comes next.
    pub(crate) fn next(&self) -> Next {
        Next::Command(match &self.stage {
            Stage::Begin => Command::Begin { mode: Payload::Clear },
            Stage::Run { request, segment } => Command::Run { request: *request, segment: *segment },
            Stage::Step { request, bring, .. } => Command::Step { request: *request, supply: bring.supply() },
            Stage::End { request } => Command::End { request: *request },
            Stage::Report => Command::Report,
            Stage::Normal { index } => return Next::Normal(*index),
            Stage::Done => return Next::Done,
        })
    }

    /// The payload of the next command; `spill` is what the last answer was given with.
    pub(crate) fn payload<'a>(&'a self, spill: &'a SpillArea) -> &'a [u8] {
        match &self.stage {
            Stage::Step { bring: Bring::Value { piece, .. }, .. } => piece,
            Stage::Step { bring: Bring::Spilled { range, .. }, .. } => spill.bytes(range.clone()),
            _ => &[],
        }
    }

    /// What the next command does, for an error that says so.
    pub(crate) fn doing(&self) -> &'static str {
        match self.stage {
            Stage::Begin => "opening a request",
            Stage::Run { .. } | Stage::Step { .. } => "running a secure segment",
            Stage::End { .. } => "closing a request",
            Stage::Report => "reporting",
            Stage::Normal { .. } | Stage::Done => "waiting for the normal world",
        }
    }

    /// Which segment the next command moves on, and how many commands have done so before: the same in every run.
    pub(crate) fn place(&self) -> Option<(u32, usize)> {
        match self.stage {
            Stage::Run { segment, .. } | Stage::Step { segment, .. } => {
                Some((segment, usize::try_from(self.cost.commands).unwrap_or(usize::MAX)))
            }
            _ => None,
        }
    }

    /// The request that is open in the enclave.
    pub(crate) fn request(&self) -> Option<u64> {
        self.request
    }

    /// Gives the flight up; the request that must be closed in the enclave, if one is open.
    pub(crate) fn abandon(&mut self) -> Option<u64> {
        self.request.take()
    }

    /// The values that normal segments take.
    pub(crate) fn values(&self) -> &HashMap<u32, Tensor> {
        &self.values
    }

    /// Takes what a normal segment computed, after [`Next::Normal`].
    pub(crate) fn computed(&mut self, outputs: Vec<(u32, Tensor)>, now: Instant) {
        debug_assert!(matches!(self.stage, Stage::Normal { .. }), "no normal segment was under way");
        self.values.extend(outputs);
        self.leave_segment(now);
        self.enter_segment();
    }

    /// Takes the enclave's answer to the command that [`Self::next`] named. After an error the flight is over, and whoever
    /// drives it closes [`Self::abandon`]'s request.
    pub(crate) fn replied(
        &mut self,
        reply: Reply,
        payload: &[u8],
        spill: &mut SpillArea,
        now: Instant,
    ) -> Result<(), RuntimeError> {
        match (&self.stage, reply) {
            (Stage::Begin, Reply::Begun { request, .. }) => {
                self.request = Some(request);
                self.enter_segment();
            }
            (&Stage::Run { request, segment } | &Stage::Step { request, segment, .. }, reply) => {
                self.cost.commands += 1;
                if let Reply::SegmentDone { read } = reply {
                    self.cost.weight_bytes += read;
                    return self.segment_done(request, now);
                }
                let bring = self.stepped(reply, payload, spill)?;
                self.stage = Stage::Step { request, segment, bring };
            }
            (Stage::End { .. }, Reply::Closed) => {
                self.request = None;
                self.stage = Stage::Report;
            }
            (Stage::Report, Reply::Report(memory)) => {
                self.memory = memory;
                self.enter_segment();
            }
            (stage, _) => {
                return Err(RuntimeError::Protocol(match stage {
                    Stage::Begin => "an answer to Begin",
                    Stage::End { .. } => "an answer to End",
                    Stage::Report => "an answer to Report",
                    _ => "an answer to nothing",
                }));
            }
        }
        Ok(())
    }

    /// The result, after [`Next::Done`].
    pub(crate) fn finish(self, now: Instant) -> Result<Run, RuntimeError> {
        Ok(Run {
            outputs: self.route.outputs(&self.values, self.ranked)?,
            exposed: self.values,
            segments: self.costs,
            memory: self.memory,
            elapsed: now.saturating_duration_since(self.started),
        })
    }

    /// What the running segment gets next.
    fn stepped(&mut self, reply: Reply, answer: &[u8], spill: &mut SpillArea) -> Result<Bring, RuntimeError> {
        match reply {
            Reply::Working => Ok(Bring::Nothing),
            Reply::NeedValue { value, start, len } => {
                let tensor = self.values.get(&value).ok_or(RuntimeError::Protocol("a value before it is computed"))?;
                let first = usize::try_from(start).ok();
                let range = first.and_then(|first| Some(first..first.checked_add(len as usize)?));
                let range = range.filter(|range| range.end <= tensor.data.len());
                let range = range.ok_or(RuntimeError::Protocol("a piece outside its value"))?;
                self.cost.crossings += u64::from(start == 0);
                self.cost.crossing_bytes += u64::from(len);
                Ok(Bring::Value { value, start, piece: tensor.data.slice(range) })
            }
            Reply::Spill { chunk } => {
                self.cost.spilled_bytes += answer.len() as u64;
                spill.keep(chunk, answer)?;
                Ok(Bring::Nothing)
            }
            Reply::NeedSpilled { chunk, len } => {
                self.cost.spilled_bytes += u64::from(len);
                Ok(Bring::Spilled { chunk, range: spill.range(chunk, len as usize)? })
            }
            Reply::Output { value, form, start, total, payload: Payload::Clear } => {
                self.cost.crossings += u64::from(start == 0);
                self.cost.crossing_bytes += answer.len() as u64;
                self.piece(value, form, start, total, answer)?;
                Ok(Bring::Nothing)
            }
            _ => Err(RuntimeError::Protocol("an answer while a segment runs")),
        }
    }

    /// Takes a piece of an output, and the value when it is the last.
    fn piece(&mut self, value: u32, form: Form, start: u64, total: u64, piece: &[u8]) -> Result<(), RuntimeError> {
        let incoming = self.incoming.get_or_insert_with(|| {
            let room = usize::try_from(total).unwrap_or(0).min(ROOM);
            Incoming { value, form, total, bytes: Vec::with_capacity(room) }
        });
        let before = (incoming.value, incoming.form, incoming.total, incoming.bytes.len() as u64);
        if before != (value, form, total, start) || piece.is_empty() {
            return Err(RuntimeError::Protocol("pieces of an output out of order"));
        }
        incoming.bytes.extend_from_slice(piece);
        let have = incoming.bytes.len() as u64;
        if have > total {
            return Err(RuntimeError::Protocol("an output longer than announced"));
        }
        match self.incoming.take_if(|_| have == total) {
            Some(whole) => self.output(whole),
            None => Ok(()),
        }
    }

    fn output(&mut self, Incoming { value, form, bytes, .. }: Incoming) -> Result<(), RuntimeError> {
        let info = self.route.manifest().value(value).ok_or(RuntimeError::Protocol("an unknown output"))?;
        match form {
            Form::Ranked => {
                let ranked = Ranked::decode(&bytes).map_err(|_| RuntimeError::Protocol("a ranked output"))?;
                self.ranked.insert(value, ranked);
            }
            Form::Tensor => {
                let dims: Vec<usize> = info.shape().iter().map(|&dim| dim as usize).collect();
                let tensor = Tensor::new(info.elem, dims, bytes);
                let tensor = tensor.map_err(|_| RuntimeError::Protocol("an output of another length"))?;
                self.values.insert(value, tensor);
            }
        }
        Ok(())
    }

    fn segment_done(&mut self, request: u64, now: Instant) -> Result<(), RuntimeError> {
        if self.incoming.is_some() {
            return Err(RuntimeError::Protocol("the end of a segment within an output"));
        }
        self.leave_segment(now);
        // What the enclave holds for the request is of no use after its last secure segment.
        if self.route.has_secure(self.costs.len()) {
            self.enter_segment();
        } else {
            self.stage = Stage::End { request };
        }
        Ok(())
    }

    fn leave_segment(&mut self, now: Instant) {
        let next = SegmentCost::nothing(self.route.placement(self.costs.len() + 1));
        let elapsed = now.saturating_duration_since(core::mem::replace(&mut self.since, now));
        self.costs.push(SegmentCost { elapsed, ..core::mem::replace(&mut self.cost, next) });
    }

    /// Goes to the first segment that has not run. The request is opened at the first secure one: the enclave, asleep while
    /// normal segments run, is woken once.
    fn enter_segment(&mut self) {
        self.stage = match (self.route.leg(self.costs.len()), self.request) {
            (Some(Leg::Normal(index)), _) => Stage::Normal { index },
            (Some(Leg::Secure(_)), None) => Stage::Begin,
            (Some(Leg::Secure(segment)), Some(request)) => Stage::Run { request, segment },
            (None, _) => Stage::Done,
        };
    }
}

impl Bring {
    fn supply(&self) -> Supply {
        match *self {
            Self::Nothing => Supply::Nothing,
            Self::Value { value, start, .. } => Supply::Value { value, start, payload: Payload::Clear },
            Self::Spilled { chunk, .. } => Supply::Spilled { chunk },
        }
    }
}

#[cfg(test)]
mod tests;
