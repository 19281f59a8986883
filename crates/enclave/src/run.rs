//! One segment in motion: the engine's steps, as far as they go without the normal world.

use alloc::vec::Vec;

use cordon_engine::program::{Port, Via};
use cordon_engine::{EngineError, Reply as Answer, Step, ValueRef};
use cordon_protocol::{Code, Refusal, Reply, STORED_PIECE};

use crate::mode::Mode;
use crate::model::Segment;
use crate::platform::Platform;
use crate::policy::Policy;
use crate::refuse;
use crate::retained::Retained;
use crate::spill::Spiller;
use crate::store::Brought;
use crate::wait::{Entering, HandingOut, Leaving, OutOfReach, Returning, Wait};

/// What a running segment works with.
pub(crate) struct Run<'a, P> {
    pub(crate) segment: &'a mut Segment,
    pub(crate) mode: Mode,
    pub(crate) policy: Option<&'a Policy>,
    pub(crate) retained: &'a mut Retained,
    pub(crate) spiller: Option<&'a Spiller>,
    /// Stored bytes of weights read back while this segment runs.
    pub(crate) read: &'a mut u64,
    /// The window of the store that the command brought.
    pub(crate) store: Option<Brought<'a>>,
    pub(crate) platform: &'a P,
}

impl<P: Platform> Run<'_, P> {
    /// Gives the engine its answer and runs on until the normal world is needed; `None` when the segment is complete.
    pub(crate) fn go_on(&mut self, answer: Answer<'_>, out: &mut Vec<u8>) -> Result<Option<Wait>, Refusal> {
        let step = self.engine(answer)?;
        self.go_on_from(step, out)
    }

    /// Runs on from `step` until the normal world is needed.
    pub(crate) fn go_on_from(&mut self, mut step: Step, out: &mut Vec<u8>) -> Result<Option<Wait>, Refusal> {
        let mut left = self.platform.burst();
        loop {
            step = match step {
                Step::Done => {
                    Reply::SegmentDone { read: *self.read }.encode(out);
                    return Ok(None);
                }
                Step::NeedPieces { first, count } => match self.stream(first, count)? {
                    Some(step) => step,
                    None => {
                        Reply::Working.encode(out);
                        return Ok(Some(Wait::Window(OutOfReach { first, count })));
                    }
                },
                Step::Input { port } => {
                    let port = port_of(self.segment.prepared.inputs(), port)?;
                    if port.via == Via::Cross {
                        return Ok(Some(Entering::new(port).ask(self, out)));
                    }
                    let kept = self.retained.get(port.value)?;
                    let step = self.segment.prepared.step(Answer::Value(kept));
                    step.map_err(|error| self.refusal(error))?
                }
                Step::Spill(moved) => return Leaving::new(moved).send(self, out).map(Some),
                Step::Restore(moved) => return Returning::new(moved).ask(self, out).map(Some),
                Step::Ran { .. } if left == 0 => {
                    Reply::Working.encode(out);
                    return Ok(Some(Wait::Turn));
                }
                Step::Ran { .. } => {
                    left -= 1;
                    self.engine(Answer::Go)?
                }
                Step::Output { port } => {
                    let Port { value, via, .. } = *port_of(self.segment.prepared.outputs(), port)?;
                    if via == Via::Cross {
                        return HandingOut::new(value, self)?.send(self, out).map(Some);
                    }
                    let announced = self.segment.prepared.output().ok_or(Refusal::new(Code::Internal))?;
                    self.retained.set(value, announced)?;
                    self.engine(Answer::Go)?
                }
            };
        }
    }

    /// The value that the engine just announced.
    pub(crate) fn announced(&self) -> Result<ValueRef<'_>, Refusal> {
        self.segment.prepared.output().ok_or(Refusal::new(Code::Internal))
    }

    /// Brings a piece of the value that the engine asked for.
    pub(crate) fn fill(&mut self, plain: &[u8]) -> Result<(), Refusal> {
        self.segment.prepared.fill(plain).map_err(|error| self.refusal(error))
    }

    pub(crate) fn spiller(&self) -> Result<&Spiller, Refusal> {
        self.spiller.ok_or(Refusal::new(Code::Internal).in_segment(self.segment.index))
    }

    /// What was brought is not what was asked for.
    pub(crate) fn wrong(&self) -> Refusal {
        Refusal::new(Code::WrongSupply).in_segment(self.segment.index)
    }

    /// Lets the engine take pieces of weights from the store, as many as the window holds; `None` when it holds none of them.
    fn stream(&mut self, first: u32, count: u32) -> Result<Option<Step>, Refusal> {
        let internal = Refusal::new(Code::Internal).in_segment(self.segment.index);
        let Segment { prepared, streamed, .. } = &mut *self.segment;
        let (streamed, Some(store)) = (streamed.as_ref().ok_or(internal)?, self.store) else { return Ok(None) };
        let count = streamed.reach(store.window, first).min(count);
        if count == 0 {
            return Ok(None);
        }
        *self.read = self.read.saturating_add(u64::from(count) * STORED_PIECE as u64);
        let step = prepared.step(Answer::Pieces { source: &streamed.source(store), count });
        step.map(Some).map_err(|error| self.refusal(error))
    }

    fn engine(&mut self, answer: Answer<'_>) -> Result<Step, Refusal> {
        self.segment.prepared.step(answer).map_err(|error| self.refusal(error))
    }

    fn refusal(&self, error: EngineError) -> Refusal {
        refuse::engine(error, self.segment.index, self.platform.memory().available())
    }
}

fn port_of(ports: &[Port], index: u32) -> Result<&Port, Refusal> {
    ports.get(index as usize).ok_or(Refusal::new(Code::Internal))
}
