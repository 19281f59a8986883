//! The steps that run a Program whose weights are loaded.
//!
//! A request is: inputs, then instructions (each after the pieces of its window), then outputs. Every reply leads to
//! exactly one next step. What a step does is bounded by one instruction and 1 MiB of weights.

use core::ops::Range;

use cordon_kernels::parallel::Compute;

use crate::dispatch;
use crate::error::{EngineError, Place};
use crate::limits::MemoryReport;
use crate::memory::Buffers;
use crate::program::{Instruction, Port, Program, Region, Via};
use crate::value::ValueRef;
use crate::weights::{Loaded, PieceSource, Weights};

/// A value on its way out of the arena, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The `Spill` that sends it: of one run no other has this number.
    pub spill: u32,
    /// First of the chunks it takes in the normal world's memory.
    pub slot: u32,
    /// Its bytes.
    pub bytes: u64,
}

/// What a [`Prepared`] asks for or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next instruction waits for pieces of the weights. Answer with [`Reply::Pieces`].
    NeedPieces {
        /// Index of the first piece.
        first: u32,
        /// Pieces, at most [`PIECES_PER_STEP`](crate::PIECES_PER_STEP).
        count: u32,
    },
    /// Answer with [`Reply::Value`], or bring the value with [`Prepared::fill`] and answer with [`Reply::Filled`].
    Input {
        /// Index into [`Prepared::inputs`].
        port: u32,
    },
    /// This value leaves. It is at [`Prepared::output`] until the next step. Answer with [`Reply::Go`].
    Spill(Moved),
    /// This value is to come back: bring it with [`Prepared::fill`] and answer with [`Reply::Filled`].
    Restore(Moved),
    /// One instruction was executed. Answer with [`Reply::Go`].
    Ran {
        /// Its index.
        instruction: u32,
    },
    /// The value of this port is at [`Prepared::output`] until the next step. Answer with [`Reply::Go`].
    Output {
        /// Index into [`Prepared::outputs`].
        port: u32,
    },
    /// The request is complete; [`Prepared::reset`] makes ready for the next.
    Done,
}

/// The answer to a [`Step`]; the first step of a request is answered with `Go` as well.
#[derive(Clone, Copy)]
pub enum Reply<'a> {
    /// Go on.
    Go,
    /// The pieces asked for, or the first of them: the rest is asked for again.
    Pieces {
        /// Where they are to be taken from.
        source: &'a dyn PieceSource,
        /// How many, at least one.
        count: u32,
    },
    /// The value of the input port asked for.
    Value(ValueRef<'a>),
    /// The value asked for is complete: [`Prepared::fill`] brought it.
    Filled,
}

/// What the next reply must be, and where the request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `Go` starts the request.
    Idle,
    /// Pieces for an instruction.
    Pieces(usize),
    /// The value of an input.
    Input(usize),
    /// `Go` executes the instruction, or asks for its pieces.
    Instruction(usize),
    /// `Go` takes the spilled value's view away.
    Spill(usize),
    /// The value that a `Restore` brings back.
    Restore(usize),
    /// `Go` takes the output's view away.
    Output(usize),
    /// Finished or failed.
    Over,
}

/// What comes after a reply, in the order of a request.
enum Next {
    Input(usize),
    /// An instruction whose load has not begun.
    Begin(usize),
    /// Pieces for an instruction, then the instruction.
    Stream(usize),
    /// An instruction that moved a value is complete.
    Moved(usize),
    Output(usize),
}

/// A Program, validated and loaded, with all memory it will ever use. Made by [`Unloaded::finish`](crate::Unloaded::finish).
pub struct Prepared {
    program: Program,
    compute: Compute,
    arena: Buffers,
    weights: Weights,
    state: State,
    /// Bytes of the value asked for that [`Prepared::fill`] has brought.
    filled: u64,
    memory: MemoryReport,
}

impl Prepared {
    pub(crate) fn new(
        program: Program,
        compute: Compute,
        arena: Buffers,
        weights: Weights,
        memory: MemoryReport,
    ) -> Self {
        Self { program, compute, arena, weights, state: State::Idle, filled: 0, memory }
    }

    /// See [`Unloaded::accept`](crate::Unloaded::accept).
    pub(crate) fn accept(&mut self, loaded: &mut Loaded, index: u32, plain: &[u8]) -> Result<(), EngineError> {
        self.weights.accept(loaded, index, plain, self.compute)
    }

    /// Chunks of the whole weight stream.
    pub(crate) fn chunks(&self) -> u64 {
        self.weights.chunks()
    }

    /// Takes the answer to the step before and goes on to the next. After an error, and after [`Step::Done`], every call
    /// is refused until [`Prepared::reset`].
    pub fn step(&mut self, reply: Reply<'_>) -> Result<Step, EngineError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let next = self.take_reply(state, reply)?;
        let (state, step) = self.advance(next)?;
        self.state = state;
        Ok(step)
    }

    /// Brings the next piece of the value asked for, little-endian, a whole number of elements: straight into the arena, so
    /// that a value needs no second place inside.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let filled = self.try_fill(bytes);
        if filled.is_err() {
            self.state = State::Over;
        }
        filled
    }

    /// The value just announced, by an output or a spill; `None` at any other time.
    pub fn output(&self) -> Option<ValueRef<'_>> {
        let region = match self.state {
            State::Output(index) => self.program.outputs.get(index)?.region,
            State::Spill(index) => self.program.instructions.get(index)?.out(),
            _ => return None,
        };
        self.arena.view(region.dtype, region.start.into(), region.len).ok()
    }

    /// Wipes the arena and the window and makes ready for a new request. Resident weights stay.
    pub fn reset(&mut self) {
        self.arena.wipe(self.compute);
        self.weights.restart();
        self.state = State::Idle;
        self.filled = 0;
    }

    /// The ports that will be asked for, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.program.inputs
    }

    /// The ports that will be announced, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.program.outputs
    }

    /// Chunks of the normal world's memory that spilled values lie in.
    pub fn spill_chunks(&self) -> u64 {
        self.program.spill_chunks()
    }

    /// The most bytes held at any time: [`MemoryReport::total`].
    pub fn peak_bytes(&self) -> u64 {
        self.memory.total()
    }

    /// What the memory is used for.
    pub fn memory(&self) -> MemoryReport {
        self.memory
    }

    /// Pieces of weights every request asks for; 0 where all are resident.
    pub fn pieces_per_request(&self) -> u64 {
        self.weights.pieces_per_request()
    }

    /// The pieces that the coming steps ask for before they ask for anything else, as far as they lie within
    /// [`PIECES_PER_STEP`](crate::PIECES_PER_STEP): so much the caller can set ready at once. Loads that follow each other in
    /// the stream share one such window. Empty when no pieces are next.
    pub fn pieces_ahead(&self) -> Range<u32> {
        let (next, begun) = match self.state {
            State::Pieces(index) => (index, true),
            State::Instruction(index) => (index, false),
            State::Spill(index) | State::Restore(index) => (index + 1, false),
            State::Input(index) if self.program.inputs.iter().skip(index + 1).all(|port| port.via == Via::Retain) => {
                (0, false)
            }
            State::Idle | State::Input(_) | State::Output(_) | State::Over => return 0..0,
        };
        let moves = |it: &Instruction| matches!(it, Instruction::Spill { .. } | Instruction::Restore { .. });
        let coming = self.program.instructions.iter().skip(next).take_while(|it| !moves(it)).count();
        self.weights.ahead(next..next + coming, begun)
    }

    /// Consumes the reply `state` waits for; returns what to do next.
    fn take_reply(&mut self, state: State, reply: Reply<'_>) -> Result<Next, EngineError> {
        match (state, reply) {
            (State::Over, _) => Err(EngineError::NeedsReset),
            (State::Idle, Reply::Go) => Ok(Next::Input(0)),
            (State::Pieces(index), Reply::Pieces { source, count }) => {
                self.weights.fill(source, count, self.compute)?;
                Ok(Next::Stream(index))
            }
            (State::Input(index), Reply::Value(value)) => {
                let port = self.program.inputs.get(index).ok_or(EngineError::Bug("input port"))?;
                self.arena.store_value(port.region, value, Place::Input(index as u32))?;
                self.filled = 0;
                Ok(Next::Input(index + 1))
            }
            (State::Input(index), Reply::Filled) => self.complete(state).map(|()| Next::Input(index + 1)),
            (State::Restore(index), Reply::Filled) => self.complete(state).map(|()| Next::Moved(index)),
            (State::Spill(index), Reply::Go) => Ok(Next::Moved(index)),
            (State::Instruction(index), Reply::Go) => Ok(Next::Begin(index)),
            (State::Output(index), Reply::Go) => Ok(Next::Output(index + 1)),
            (State::Pieces(_), _) => Err(EngineError::Reply("pieces were asked for")),
            (State::Input(_) | State::Restore(_), _) => Err(EngineError::Reply("a value was asked for")),
            (State::Idle | State::Instruction(_) | State::Spill(_) | State::Output(_), _) => {
                Err(EngineError::Reply("nothing was asked for"))
            }
        }
    }

    fn try_fill(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let (region, at) = self.filling(self.state).ok_or(EngineError::Reply("nothing was asked for"))?;
        let size = u64::from(region.dtype.bytes());
        let end = self.filled + bytes.len() as u64;
        if end > region.bytes() || !(bytes.len() as u64).is_multiple_of(size) {
            return Err(EngineError::Reply("the piece does not fit the port"));
        }
        let start = u64::from(region.start) + self.filled / size;
        self.arena.span().store_bytes(region.dtype, start, bytes, at)?;
        self.filled = end;
        Ok(())
    }

    /// All of the value that `state` waits for must have come.
    fn complete(&mut self, state: State) -> Result<(), EngineError> {
        let filled = core::mem::take(&mut self.filled);
        match self.filling(state) {
            Some((region, _)) if region.bytes() == filled => Ok(()),
            _ => Err(EngineError::Reply("the value is not complete")),
        }
    }

    /// Where the value goes that this state waits for, and its name in errors.
    fn filling(&self, state: State) -> Option<(Region, Place)> {
        match state {
            State::Input(index) => Some((self.program.inputs.get(index)?.region, Place::Input(index as u32))),
            State::Restore(index) => {
                let instruction = self.program.instructions.get(index)?;
                Some((instruction.out(), Place::Instruction { index: index as u32, name: instruction.name() }))
            }
            _ => None,
        }
    }

    /// Passes phases that have nothing to do and stops at the first that has. Each phase leads only to later ones.
    fn advance(&mut self, mut next: Next) -> Result<(State, Step), EngineError> {
        loop {
            next = match next {
                Next::Input(index) if index < self.program.inputs.len() => {
                    return Ok((State::Input(index), Step::Input { port: index as u32 }));
                }
                Next::Input(_) => Next::Begin(0),
                Next::Begin(index) if index < self.program.instructions.len() => {
                    self.weights.begin(index);
                    Next::Stream(index)
                }
                Next::Begin(_) => Next::Output(0),
                Next::Stream(index) => match self.weights.wanted_pieces()? {
                    Some((first, count)) => return Ok((State::Pieces(index), Step::NeedPieces { first, count })),
                    None => return self.execute(index),
                },
                Next::Moved(index) => {
                    return Ok((State::Instruction(index + 1), Step::Ran { instruction: index as u32 }));
                }
                Next::Output(index) if index < self.program.outputs.len() => {
                    return Ok((State::Output(index), Step::Output { port: index as u32 }));
                }
                Next::Output(_) => return Ok((State::Over, Step::Done)),
            }
        }
    }

    fn execute(&mut self, index: usize) -> Result<(State, Step), EngineError> {
        let instruction = self.program.instructions.get(index).ok_or(EngineError::Bug("instruction index"))?;
        let moved = |spill: usize, slot| Moved { spill: spill as u32, slot, bytes: instruction.out().bytes() };
        match instruction {
            Instruction::Spill { slot, .. } => Ok((State::Spill(index), Step::Spill(moved(index, *slot)))),
            Instruction::Restore { slot, .. } => {
                let before = self.program.instructions.get(..index).unwrap_or_default();
                let of_slot = |it: &Instruction| matches!(it, Instruction::Spill { slot: of, .. } if of == slot);
                let spill = before.iter().rposition(of_slot).ok_or(EngineError::Bug("nothing was spilled"))?;
                Ok((State::Restore(index), Step::Restore(moved(spill, *slot))))
            }
            _ => {
                self.weights.widen(index, instruction, self.compute)?;
                dispatch::execute(self.compute, index, instruction, &mut self.arena, &self.weights)?;
                Ok((State::Instruction(index + 1), Step::Ran { instruction: index as u32 }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::limits::Limits;
    use crate::program::{
        ArenaSize, DType, Kind, Operand, Region, Stored, Tile, UnaryOp, Via, WeightInfo, WeightTable,
    };
    use crate::unloaded::Unloaded;
    use crate::weights::Residency;
    use cordon_kernels::KernelSet;

    /// `neg(weight)` and the input, both handed out; nothing of them may remain.
    fn program() -> (Program, WeightTable) {
        let region = |start, len| Region { dtype: DType::F32, start, len };
        let port = |region: Region| Port { value: 0, shape: vec![region.len], region, via: Via::Cross };
        let (input, out) = (region(0, 2), region(2, 3));
        let weight = Tile { tensor: 0, start: 0, len: 3 };
        let program = Program {
            kind: Kind::Inference,
            batch: 1,
            arena: ArenaSize { f32: 5, ..ArenaSize::default() },
            inputs: vec![port(input)],
            outputs: vec![port(out), port(input)],
            instructions: vec![Instruction::Unary { op: UnaryOp::Neg, input: Operand::Weight(weight), out }],
        };
        (program, WeightTable(vec![WeightInfo { stored: Stored::F32, len: 3, offset: 0 }]))
    }

    struct Plain<'a>(&'a [u8]);

    impl PieceSource for Plain<'_> {
        fn open(&self, _: u32, into: &mut [u8]) -> bool {
            into.copy_from_slice(self.0);
            true
        }
    }

    const STREAM: [u8; 12] = [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64];

    fn run(prepared: &mut Prepared) {
        let mut step = prepared.step(Reply::Go);
        loop {
            step = match step.expect("valid replies") {
                Step::NeedPieces { count, .. } => prepared.step(Reply::Pieces { source: &Plain(&STREAM), count }),
                Step::Input { .. } => prepared.step(Reply::Value(ValueRef::F32(&[4.0, 5.0]))),
                Step::Ran { .. } | Step::Output { .. } => prepared.step(Reply::Go),
                Step::Spill(_) | Step::Restore(_) => unreachable!("nothing is spilled"),
                Step::Done => return,
            };
        }
    }

    #[test]
    fn reset_leaves_nothing_of_a_request_behind() {
        for residency in [Residency::All, Residency::Least] {
            let (program, weights) = program();
            let limits = Limits::new(1 << 20);
            let mut unloaded =
                Unloaded::new(program, weights, KernelSet::PORTABLE, residency, limits).expect("a valid program");
            unloaded.accept(0, &STREAM).expect("the only chunk");
            let mut prepared = unloaded.finish().expect("all came");
            run(&mut prepared);
            let all = residency == Residency::All;
            assert!(!prepared.arena.is_wiped(), "the test must see data");
            assert_eq!(prepared.weights.is_wiped(), [!all, all], "the test must see data");
            prepared.reset();
            assert!(prepared.arena.is_wiped());
            assert_eq!(prepared.weights.is_wiped(), [!all, true], "resident weights stay");
        }
    }
}
