//! Builds Programs by hand and drives them to the end.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod cases;
mod layers;
pub mod quantised;

use cordon_engine::program::{
    ArenaSize, DType, INSTRUCTION_SET, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, Tile, Via,
    WeightInfo, WeightTable,
};
use cordon_engine::{
    CHUNK, Compute, EngineError, KernelSet, Limits, Moved, PIECE, Parallel, PieceSource, Prepared, Reply, Residency,
    Step, Task, Unloaded, ValueRef,
};
use std::collections::HashMap;

/// An owned tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    F32(Vec<f32>),
    I64(Vec<i64>),
    Bool(Vec<u8>),
    U8(Vec<u8>),
}

impl Value {
    pub fn view(&self) -> ValueRef<'_> {
        match self {
            Self::F32(v) => ValueRef::F32(v),
            Self::I64(v) => ValueRef::I64(v),
            Self::Bool(v) => ValueRef::Bool(v),
            Self::U8(v) => ValueRef::U8(v),
        }
    }

    /// Little-endian, as it leaves.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::I64(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Bool(v) | Self::U8(v) => v.clone(),
        }
    }

    pub fn f32(&self) -> &[f32] {
        if let Self::F32(v) = self { v } else { panic!("not f32") }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(view: ValueRef<'_>) -> Self {
        match view {
            ValueRef::F32(v) => Self::F32(v.to_vec()),
            ValueRef::I64(v) => Self::I64(v.to_vec()),
            ValueRef::Bool(v) => Self::Bool(v.to_vec()),
            ValueRef::U8(v) => Self::U8(v.to_vec()),
        }
    }
}

/// A Program under construction: regions are laid out one after the other and nothing is reused.
pub struct Build {
    pub program: Program,
    pub weights: WeightTable,
    pub stream: Vec<u8>,
}

impl Build {
    pub fn new() -> Self {
        assert_eq!(INSTRUCTION_SET, 1);
        let program = Program {
            kind: Kind::Inference,
            batch: 1,
            arena: ArenaSize::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            instructions: Vec::new(),
        };
        Self { program, weights: WeightTable::default(), stream: Vec::new() }
    }

    pub fn region(&mut self, dtype: DType, len: u32) -> Region {
        let end = match dtype {
            DType::F32 => &mut self.program.arena.f32,
            DType::I64 => &mut self.program.arena.i64,
            DType::Bool => &mut self.program.arena.bool,
            DType::U8 => &mut self.program.arena.u8,
        };
        let start = *end;
        *end += len;
        Region { dtype, start, len }
    }

    pub fn f32(&mut self, len: u32) -> Region {
        self.region(DType::F32, len)
    }

    pub fn input(&mut self, dtype: DType, shape: &[u32]) -> Region {
        let region = self.region(dtype, shape.iter().product());
        let value = self.program.inputs.len() as u32;
        self.program.inputs.push(Port { value, shape: shape.to_vec(), region, via: Via::Cross });
        region
    }

    pub fn output(&mut self, region: Region) {
        let value = 100 + self.program.outputs.len() as u32;
        self.program.outputs.push(Port { value, shape: vec![region.len], region, via: Via::Cross });
    }

    /// Pads the stream, so that the next tensor starts `bytes` further on.
    pub fn gap(&mut self, bytes: usize) {
        self.stream.resize(self.stream.len() + bytes, 0);
    }

    pub fn weight(&mut self, value: &Value) -> Tile {
        self.stream.resize(self.stream.len().next_multiple_of(64), 0);
        let (dtype, len) = (value.view().dtype(), value.view().len() as u32);
        let tensor = self.weights.0.len() as u32;
        self.weights.0.push(WeightInfo { stored: dtype.into(), len, offset: self.stream.len() as u64 });
        match value {
            Value::F32(v) => v.iter().for_each(|v| self.stream.extend(v.to_le_bytes())),
            Value::I64(v) => v.iter().for_each(|v| self.stream.extend(v.to_le_bytes())),
            Value::Bool(v) | Value::U8(v) => self.stream.extend(v),
        }
        Tile { tensor, start: 0, len }
    }

    pub fn weight_f32(&mut self, v: &[f32]) -> Tile {
        self.weight(&Value::F32(v.to_vec()))
    }

    /// Stored as f16, given by its bits.
    pub fn weight_f16(&mut self, halves: &[u16]) -> Tile {
        self.stream.resize(self.stream.len().next_multiple_of(64), 0);
        let (tensor, len) = (self.weights.0.len() as u32, halves.len() as u32);
        self.weights.0.push(WeightInfo { stored: Stored::F16, len, offset: self.stream.len() as u64 });
        halves.iter().for_each(|half| self.stream.extend(half.to_le_bytes()));
        Tile { tensor, start: 0, len }
    }

    pub fn weight_i64(&mut self, v: &[i64]) -> Tile {
        self.weight(&Value::I64(v.to_vec()))
    }

    pub fn push(&mut self, instruction: Instruction) {
        self.program.instructions.push(instruction);
    }

    pub fn unloaded(
        &self,
        residency: Residency,
        compute: impl Into<Compute>,
        limit: u64,
    ) -> Result<Unloaded, EngineError> {
        Unloaded::new(self.program.clone(), self.weights.clone(), compute, residency, Limits::new(limit))
    }

    pub fn prepare_on(&self, residency: Residency, compute: impl Into<Compute>) -> Result<Prepared, EngineError> {
        load(self.unloaded(residency, compute, u64::MAX)?, &self.stream)
    }

    pub fn prepare(&self, residency: Residency) -> Result<Prepared, EngineError> {
        self.prepare_on(residency, KernelSet::PORTABLE)
    }

    /// Prepares and runs with everything resident.
    pub fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        let mut prepared = self.prepare(Residency::All)?;
        Ok(drive(&mut prepared, &self.stream, inputs)?.0)
    }

    /// The only output of a run that must succeed.
    pub fn run_one(&self, inputs: &[Value]) -> Value {
        self.run(inputs).expect("runs").remove(0)
    }
}

/// Hands over the whole weight stream.
pub fn load(mut unloaded: Unloaded, stream: &[u8]) -> Result<Prepared, EngineError> {
    for index in 0..unloaded.chunks_left() as u32 {
        unloaded.accept(index, chunk(stream, index))?;
    }
    unloaded.finish()
}

/// Answers every step until the end; returns the outputs and the steps on the way.
pub fn drive(prepared: &mut Prepared, stream: &[u8], inputs: &[Value]) -> Result<(Vec<Value>, Vec<Step>), EngineError> {
    let source = Plain(stream);
    let (mut outputs, mut steps) = (Vec::new(), Vec::new());
    let mut outside: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut reply = Reply::Go;
    loop {
        let step = prepared.step(reply)?;
        steps.push(step);
        let shown = prepared.output().map(Value::from);
        assert_eq!(shown.is_some(), matches!(step, Step::Output { .. } | Step::Spill(_)), "{step:?}");
        reply = match step {
            Step::NeedPieces { count, .. } => Reply::Pieces { source: &source, count },
            Step::Input { port } => Reply::Value(inputs[port as usize].view()),
            Step::Spill(Moved { slot, bytes, .. }) => {
                let value = shown.expect("just announced").bytes();
                assert_eq!(value.len() as u64, bytes);
                outside.insert(slot, value);
                Reply::Go
            }
            Step::Restore(Moved { slot, .. }) => {
                // In pieces, as an enclave brings it.
                let value = outside.remove(&slot).expect("it was spilled");
                value.chunks(CHUNK).try_for_each(|piece| prepared.fill(piece))?;
                Reply::Filled
            }
            Step::Ran { .. } => Reply::Go,
            Step::Output { .. } => {
                outputs.extend(shown);
                Reply::Go
            }
            Step::Done => return Ok((outputs, steps)),
        };
    }
}

/// The weight stream as it is: no piece is refused but one that the stream does not have.
pub struct Plain<'a>(pub &'a [u8]);

impl PieceSource for Plain<'_> {
    fn open(&self, index: u32, into: &mut [u8]) -> bool {
        let piece = self.0.chunks(PIECE).nth(index as usize).filter(|piece| piece.len() == into.len());
        piece.is_some_and(|piece| {
            into.copy_from_slice(piece);
            true
        })
    }
}

/// Chunk `index` of a weight stream.
pub fn chunk(stream: &[u8], index: u32) -> &[u8] {
    let start = (index as usize * CHUNK).min(stream.len());
    &stream[start..(start + CHUNK).min(stream.len())]
}

/// Small numbers with a fractional part, different for every seed.
pub fn ramp(len: usize, seed: u32) -> Vec<f32> {
    let mut random = Random(u64::from(seed) + 1);
    (0..len).map(|_| (random.below(200) as f32 - 100.0) / 64.0).collect()
}

/// A small generator: tests must repeat.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Something in the arena.
pub fn arena(region: Region) -> Operand {
    Operand::Arena(region)
}

/// Runs tasks in the order given, one after the other, and says that it has so many threads.
pub struct Threads(pub usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        tasks.iter_mut().rev().for_each(|task| task());
    }
}

pub const WINDOW: Residency = Residency::Least;
pub const PER_CHUNK: usize = CHUNK / 4;
/// Bytes of the rooms that pieces are opened in.
pub const ROOMS: u64 = 4 * PIECE as u64;

/// `out[i] = input[0] + w[i]` summed over several tensors that lie across chunk borders, with holes between them.
pub fn adder(lens: &[usize]) -> (Build, Vec<Vec<f32>>) {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1]);
    let mut tensors = Vec::new();
    for (seed, &len) in lens.iter().enumerate() {
        b.gap(if seed > 0 { 3 * CHUNK } else { 0 });
        let values = ramp(len, seed as u32);
        let tile = b.weight_f32(&values);
        tensors.push(values);
        let out = b.f32(len as u32);
        b.push(Instruction::Binary {
            op: cordon_engine::program::BinaryOp::Add,
            shape: Strided2 { dims: vec![len as u32], a: vec![0], b: vec![1] },
            a: arena(input),
            b: Operand::Weight(tile),
            activation: None,
            out,
        });
        b.output(out);
    }
    (b, tensors)
}
