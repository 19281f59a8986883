//! A validated Program with all its memory, and the steps that run it.
//!
//! A request is: all weights once, before the first, then inputs, then instructions (each after the pieces of its window), then
//! outputs. Every reply leads to exactly one next step. What a step does is bounded by one instruction and 1 MiB of weights.

use cordon_kernels::parallel::Compute;

use crate::memory::{Buffers, SLACK_BYTES};
use crate::program::{DType, Instruction, Port, Program, Region, WeightTable};
use crate::validate::validate;
use crate::weights::{self, Needs, Source, Weights};
use crate::{EngineError, Place, dispatch};

/// How many constants stay inside, loaded once and kept over requests. The others stay in the normal world, encrypted;
/// each instruction's come into a window and are overwritten by the next ones. Which is which follows from the Program
/// and the budget, never from data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// All of them.
    All,
    /// As many as fit, those first that are read most often per request.
    Budget {
        /// Most bytes resident constants, the window and their tables may take together.
        bytes: u64,
    },
    /// None.
    Least,
}

/// What a Program may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of arena, weights and tables together.
    pub secure_memory_bytes: u64,
    /// Elementary operations of one instruction: no Program makes one step endless.
    pub instruction_work: u64,
}

impl Limits {
    /// The given memory budget, and room for any instruction of a real model: 2^40 operations.
    pub fn new(secure_memory_bytes: u64) -> Self {
        Self { secure_memory_bytes, instruction_work: 1 << 40 }
    }
}

/// Secure memory a [`Prepared`] holds, in bytes. All of it is allocated by [`Prepared::new`] and none later, so what is
/// held is also the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Activations.
    pub arena: u64,
    /// Resident constants.
    pub weights: u64,
    /// The window constants stream through.
    pub window: u64,
    /// The Program and the tables that say which constant lies where.
    pub tables: u64,
}

impl MemoryReport {
    /// Everything.
    pub fn total(&self) -> u64 {
        self.arena + self.weights + self.window + self.tables
    }
}

/// What a [`Prepared`] will take, known without allocating it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// What [`Prepared::memory`] will report.
    pub memory: MemoryReport,
    /// Of these, what [`Residency::Budget`] bounds: resident constants, the window, and their tables.
    pub constants: u64,
    /// Pieces every request asks for: [`Prepared::pieces_per_request`].
    pub pieces: u64,
    /// Instructions of every request that wait for pieces.
    pub loads: u64,
}

/// A tensor's elements, row-major. No `Debug`: values are never printed.
#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Indices.
    I64(&'a [i64]),
    /// Masks, 0 or 1.
    Bool(&'a [u8]),
    /// Quantised values.
    U8(&'a [u8]),
}

impl ValueRef<'_> {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I64(_) => DType::I64,
            Self::Bool(_) => DType::Bool,
            Self::U8(_) => DType::U8,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) | Self::U8(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

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
pub enum Step<'a> {
    /// The weights are being loaded, all of them, in order. Answer with [`Reply::Chunk`] `first`; the step after it asks for
    /// the rest. Where [`Prepared::pieces_per_request`] is not 0 the caller keeps them, encrypted, for what follows.
    NeedChunks {
        /// Index of the first chunk.
        first: u32,
        /// Chunks, at most [`crate::CHUNKS_PER_STEP`].
        count: u32,
    },
    /// The next instruction waits for pieces of the weights. Answer with [`Reply::Pieces`].
    NeedPieces {
        /// Index of the first piece.
        first: u32,
        /// Pieces, at most [`crate::PIECES_PER_STEP`].
        count: u32,
    },
    /// Answer with [`Reply::Value`] for this port, or bring it with [`Prepared::fill`] and answer with [`Reply::Filled`].
    Input(&'a Port),
    /// This value leaves. It is at [`Prepared::output`] until the next step. Answer with [`Reply::Go`].
    Spill(Moved),
    /// This value is to come back: bring it with [`Prepared::fill`] and answer with [`Reply::Filled`].
    Restore(Moved),
    /// One instruction was executed. Answer with [`Reply::Go`].
    Ran {
        /// Its index.
        instruction: u32,
    },
    /// This port's value is at [`Prepared::output`] until the next step. Answer with [`Reply::Go`].
    Output(&'a Port),
    /// The request is complete; [`Prepared::reset`] makes ready for the next.
    Done,
}

/// The answer to a [`Step`]; the first step of a request is answered with `Go` as well.
#[derive(Clone, Copy)]
pub enum Reply<'a> {
    /// Go on.
    Go,
    /// One chunk of the weight stream, decrypted and authenticated.
    Chunk {
        /// Its index.
        index: u32,
        /// [`crate::CHUNK`] bytes, fewer only at the end of the stream.
        plain: &'a [u8],
    },
    /// Where the pieces asked for are to be taken from.
    Pieces(&'a dyn Source),
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
    /// A chunk of the weights, which are being loaded.
    Chunk,
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

/// A Program, validated, with all memory it will ever use.
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

/// Bytes that do not depend on the Program: the struct, and what three [`Buffers`] take to begin with a cache line.
const FIXED: u64 = size_of::<Prepared>() as u64 + 3 * SLACK_BYTES;

impl Prepared {
    /// Checks everything about `program` and `weights` once and allocates all memory, including the weight window.
    /// Nothing is allocated before it is known to fit `limits`. A [`KernelSet`](crate::KernelSet) alone computes on one
    /// thread; the number of threads never changes a bit of a result.
    pub fn new(
        program: Program,
        weights: WeightTable,
        compute: impl Into<Compute>,
        residency: Residency,
        limits: Limits,
    ) -> Result<Self, EngineError> {
        validate(&program, &weights, limits.instruction_work)?;
        let mut left = limits.secure_memory_bytes;
        take(&mut left, program.heap_bytes() + FIXED, "the program")?;
        take(&mut left, program.arena.bytes(), "the arena")?;
        let arena = Buffers::allocate(program.arena.into(), "the arena")?;
        let weights = Weights::prepare(&program, &weights, residency, left)?;
        let (resident, window) = weights.bytes();
        let memory = MemoryReport {
            arena: arena.bytes(),
            weights: resident,
            window,
            tables: program.heap_bytes() + weights.table_bytes() + FIXED,
        };
        Ok(Self { program, compute: compute.into(), arena, weights, state: State::Idle, filled: 0, memory })
    }

    /// What a decoded Program will take, without allocating it.
    pub fn predict(program: &Program, weights: &WeightTable, residency: Residency) -> Result<Prediction, EngineError> {
        validate(program, weights, u64::MAX)?;
        let Needs { resident, window, tables, traffic } = weights::predict(program, weights, residency)?;
        let [pieces, loads] = traffic;
        let constants = resident.saturating_add(window).saturating_add(tables);
        let tables = tables + program.heap_bytes() + FIXED;
        let memory = MemoryReport { arena: program.arena.bytes(), weights: resident, window, tables };
        Ok(Prediction { memory, constants, pieces, loads })
    }

    /// Takes the answer to the step before and goes on to the next. After an error, and after [`Step::Done`], every call
    /// is refused until [`Prepared::reset`].
    pub fn step(&mut self, reply: Reply<'_>) -> Result<Step<'_>, EngineError> {
        let state = core::mem::replace(&mut self.state, State::Over);
        let next = self.take_reply(state, reply)?;
        let (state, step) = self.advance(next)?;
        self.state = state;
        self.announce(step)
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

    /// Chunks of the normal world's memory that spilled values lie in.
    pub fn spill_chunks(&self) -> u64 {
        self.program.spill_chunks()
    }

    /// The ports that will be announced, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.program.outputs
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

    /// Consumes the reply `state` waits for; returns what to do next.
    fn take_reply(&mut self, state: State, reply: Reply<'_>) -> Result<Next, EngineError> {
        match (state, reply) {
            (State::Over, _) => Err(EngineError::NeedsReset),
            (State::Idle, Reply::Go) => Ok(Next::Load),
            (State::Chunk, Reply::Chunk { index, plain }) => {
                self.weights.accept(index, plain, self.compute)?;
                Ok(Next::Load)
            }
            (State::Pieces(index), Reply::Pieces(source)) => {
                self.weights.fill(source, self.compute)?;
                Ok(Next::Stream(index))
            }
            (State::Input(index), Reply::Value(value)) => {
                let port = self.program.inputs.get(index).ok_or(EngineError::Bug("input port"))?;
                self.arena.store_value(port.region, value, Place::Input(index as u32))?;
                self.filled = 0;
                Ok(Next::Input(index + 1))
            }
            (State::Input(_) | State::Restore(_), Reply::Filled) => {
                let (region, _) = self.filling(state).ok_or(EngineError::Bug("a value's region"))?;
                if core::mem::take(&mut self.filled) != region.bytes() {
                    return Err(EngineError::Reply("the value is not complete"));
                }
                Ok(match state {
                    State::Restore(index) => Next::Moved(index),
                    State::Input(index) => Next::Input(index + 1),
                    _ => return Err(EngineError::Bug("a state that takes a value")),
                })
            }
            (State::Spill(index), Reply::Go) => Ok(Next::Moved(index)),
            (State::Instruction(index), Reply::Go) => Ok(Next::Begin(index)),
            (State::Output(index), Reply::Go) => Ok(Next::Output(index + 1)),
            (State::Chunk, _) => Err(EngineError::Reply("a chunk was asked for")),
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
    fn advance(&mut self, mut next: Next) -> Result<(State, Made), EngineError> {
        loop {
            next = match next {
                Next::Load => match self.weights.wanted_chunks() {
                    Some((first, count)) => return Ok((State::Chunk, Made::NeedChunks { first, count })),
                    None => Next::Input(0),
                },
                Next::Stream(index) => match self.weights.wanted_pieces()? {
                    Some((first, count)) => return Ok((State::Pieces(index), Made::NeedPieces { first, count })),
                    None => return self.execute(index),
                },
                Next::Input(index) if index < self.program.inputs.len() => {
                    return Ok((State::Input(index), Made::Input(index)));
                }
                Next::Input(_) => Next::Begin(0),
                Next::Begin(index) if index < self.program.instructions.len() => {
                    self.weights.begin(index);
                    Next::Stream(index)
                }
                Next::Begin(_) => Next::Output(0),
                Next::Moved(index) => {
                    return Ok((State::Instruction(index + 1), Made::Ran { instruction: index as u32 }));
                }
                Next::Output(index) if index < self.program.outputs.len() => {
                    return Ok((State::Output(index), Made::Output(index)));
                }
                Next::Output(_) => return Ok((State::Over, Made::Done)),
            }
        }
    }

    fn execute(&mut self, index: usize) -> Result<(State, Made), EngineError> {
        let instruction = self.program.instructions.get(index).ok_or(EngineError::Bug("instruction index"))?;
        let moved = |spill: usize, slot| Moved { spill: spill as u32, slot, bytes: instruction.out().bytes() };
        match instruction {
            Instruction::Spill { slot, .. } => Ok((State::Spill(index), Made::Spill(moved(index, *slot)))),
            Instruction::Restore { slot, .. } => {
                let before = self.program.instructions.get(..index).unwrap_or_default();
                let of_slot = |it: &Instruction| matches!(it, Instruction::Spill { slot: of, .. } if of == slot);
                let spill = before.iter().rposition(of_slot).ok_or(EngineError::Bug("nothing was spilled"))?;
                Ok((State::Restore(index), Made::Restore(moved(spill, *slot))))
            }
            _ => {
                self.weights.widen(index, instruction, self.compute)?;
                dispatch::execute(self.compute, index, instruction, &mut self.arena, &self.weights)?;
                Ok((State::Instruction(index + 1), Made::Ran { instruction: index as u32 }))
            }
        }
    }

    fn announce(&self, made: Made) -> Result<Step<'_>, EngineError> {
        Ok(match made {
            Made::NeedChunks { first, count } => Step::NeedChunks { first, count },
            Made::NeedPieces { first, count } => Step::NeedPieces { first, count },
            Made::Input(index) => Step::Input(self.program.inputs.get(index).ok_or(EngineError::Bug("input port"))?),
            Made::Spill(moved) => Step::Spill(moved),
            Made::Restore(moved) => Step::Restore(moved),
            Made::Ran { instruction } => Step::Ran { instruction },
            Made::Output(index) => {
                Step::Output(self.program.outputs.get(index).ok_or(EngineError::Bug("output port"))?)
            }
            Made::Done => Step::Done,
        })
    }
}

/// What comes after a reply, in the order of a request.
enum Next {
    /// Chunks of the weights, then the inputs.
    Load,
    /// Pieces for an instruction, then the instruction.
    Stream(usize),
    Input(usize),
    /// An instruction whose load has not begun.
    Begin(usize),
    /// An instruction that moved a value is complete.
    Moved(usize),
    Output(usize),
}

/// A [`Step`] before its borrow.
enum Made {
    NeedChunks { first: u32, count: u32 },
    NeedPieces { first: u32, count: u32 },
    Input(usize),
    Spill(Moved),
    Restore(Moved),
    Ran { instruction: u32 },
    Output(usize),
    Done,
}

fn take(left: &mut u64, needed: u64, what: &'static str) -> Result<(), EngineError> {
    let available = *left;
    *left = available.checked_sub(needed).ok_or(EngineError::Memory { at: Place::Program, what, needed, available })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::KernelSet;
    use crate::program::{ArenaSize, Kind, Operand, Region, Stored, Tile, UnaryOp, Via, WeightInfo};

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

    impl Source for Plain<'_> {
        fn open(&self, _: u32, into: &mut [u8]) -> bool {
            into.copy_from_slice(self.0);
            true
        }
    }

    fn run(prepared: &mut Prepared) {
        let stream: vec::Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut step = prepared.step(Reply::Go);
        loop {
            step = match step.expect("valid replies") {
                Step::NeedChunks { first, .. } => prepared.step(Reply::Chunk { index: first, plain: &stream }),
                Step::NeedPieces { .. } => prepared.step(Reply::Pieces(&Plain(&stream))),
                Step::Input(_) => prepared.step(Reply::Value(ValueRef::F32(&[4.0, 5.0]))),
                Step::Ran { .. } | Step::Output(_) => prepared.step(Reply::Go),
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
            let mut prepared =
                Prepared::new(program, weights, KernelSet::PORTABLE, residency, limits).expect("a valid program");
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
