//! The `Program`: what the compiler on the owner's machine hands to the trusted engine.
//!
//! A flat, typed list of instructions over one arena whose offsets are fixed ahead of time (design rule 4). It knows
//! neither ONNX nor any CPU: tensors are plain or in the canonical block of 16 channels. Sequence of steps and of weight
//! chunks is fixed by the Program, never by data (rule 8).

#[macro_use]
mod describe;
mod instruction;
mod table;

use alloc::vec::Vec;
use core::fmt;

pub use cordon_kernels::geometry::{
    Along, Axis, BinaryOp, Conv2d, ConvNd, Dense, Layout, Lrn, MatMul, Normalize, Pool, PoolKind, ReduceOp, Strided1,
    Strided2, Strided3, StridedCopy, UnaryOp,
};
pub use cordon_kernels::quant::{QConv2d, QDense, Sum, Target};

pub(crate) use self::describe::{Len, Rule};
pub use self::describe::{MemoryMut, Read};
pub use self::instruction::{Instruction, QResidual};
use crate::stream::CHUNK;

/// Version of the instruction set; a Program of another version is refused.
pub const INSTRUCTION_SET: u16 = 1;

/// Most input ports, and most output ports, of a Program.
pub const MAX_PORTS: u32 = 1024;
/// Most instructions of a Program.
pub const MAX_INSTRUCTIONS: u32 = 65_536;
/// Most tensors of a weight table.
pub const MAX_WEIGHTS: u32 = 65_536;
/// Most values spilled at one time.
pub const MAX_SPILLED: u32 = 1024;
/// Most chunks of [`crate::CHUNK`] bytes of the normal world's memory that spilled values lie in: 1 GiB.
pub const MAX_SPILL_CHUNKS: u32 = 16_384;
/// Tensors start on multiples of this many bytes in the weight stream.
pub const WEIGHT_ALIGNMENT: u64 = 64;

/// Element type of arena memory, of ports, and of constants as instructions read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// Indices, 8 bytes.
    I64,
    /// Masks, one byte, 0 or 1.
    Bool,
    /// Quantised values, one unsigned byte. ONNX's int8 is held as the value plus 128. As a weight also packed signed bytes,
    /// where an instruction says so.
    U8,
}

/// A contiguous range of the arena of its type, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which of the four arenas.
    pub dtype: DType,
    /// First element.
    pub start: u32,
    /// Elements.
    pub len: u32,
}

/// A contiguous range of one weight tensor, in elements. Instructions name tiles, never chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Index into the segment's weight table.
    pub tensor: u32,
    /// First element.
    pub start: u32,
    /// Elements.
    pub len: u32,
}

/// Something an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// An intermediate value.
    Arena(Region),
    /// A constant.
    Weight(Tile),
}

/// Form of a constant's elements in the weight stream, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As [`DType::F32`].
    F32,
    /// As [`DType::I64`].
    I64,
    /// As [`DType::Bool`].
    Bool,
    /// As [`DType::U8`].
    U8,
    /// IEEE 754 half precision, 2 bytes. Instructions read it as `f32`, widened exactly.
    F16,
}

/// One tensor of a segment's weight table; its bytes lie at `offset` of the segment's weight stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Form of the elements.
    pub stored: Stored,
    /// Elements.
    pub len: u32,
    /// Byte offset in the stream, a multiple of 64.
    pub offset: u64,
}

/// The tensors of a segment's weight stream, shared by all its Programs. In order of their offsets, not overlapping.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WeightTable(pub Vec<WeightInfo>);

/// It tells the layers' sizes, so it shows nothing of itself, as a [`Program`] does not.
impl fmt::Debug for WeightTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightTable").finish_non_exhaustive()
    }
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::I64 => 8,
            Self::Bool | Self::U8 => 1,
        }
    }
}

impl Stored {
    /// Bytes of one element in the stream.
    pub fn bytes(self) -> u32 {
        if self == Self::F16 { 2 } else { self.dtype().bytes() }
    }

    /// Element type that instructions read.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::F16 => DType::F32,
            Self::I64 => DType::I64,
            Self::Bool => DType::Bool,
            Self::U8 => DType::U8,
        }
    }
}

impl From<DType> for Stored {
    /// As instructions read it.
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::I64 => Self::I64,
            DType::Bool => Self::Bool,
            DType::U8 => Self::U8,
        }
    }
}

/// Where an input of a segment comes from, or an output goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the boundary: the only way bytes enter or leave.
    Cross,
    /// Kept inside for a later secure segment of the same request.
    Retain,
}

/// A value that enters or leaves the Program. Always plain layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Index into the package's value table.
    pub value: u32,
    /// Extents.
    pub shape: Vec<u32>,
    /// Where it lies; `len` is the product of `shape`.
    pub region: Region,
    /// How it travels.
    pub via: Via,
}

/// What a Program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A forward pass.
    Inference,
}

/// Elements of each arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaSize {
    /// `f32` elements.
    pub f32: u32,
    /// `i64` elements.
    pub i64: u32,
    /// `bool` elements.
    pub bool: u32,
    /// Quantised values.
    pub u8: u32,
    /// `f32` elements beside the arena that instructions compute in, one after the other. Where this is the least that
    /// [`Instruction::scratch`] says, the instruction makes use of it, and its result differs in the last bits.
    pub scratch: u32,
}

impl ArenaSize {
    /// Elements of one arena.
    pub fn of(&self, dtype: DType) -> u32 {
        match dtype {
            DType::F32 => self.f32,
            DType::I64 => self.i64,
            DType::Bool => self.bool,
            DType::U8 => self.u8,
        }
    }

    /// Bytes of the four arenas and the scratch memory.
    pub fn bytes(&self) -> u64 {
        let words = (u64::from(self.f32) + u64::from(self.scratch)) * 4 + u64::from(self.i64) * 8;
        words + u64::from(self.bool) + u64::from(self.u8)
    }
}

/// One segment, compiled for one batch size and set of shapes. It is secret: `Debug` shows nothing of it, and only the
/// owner's compiler, which compares plans, copies one.
#[derive(Clone, PartialEq)]
pub struct Program {
    /// What it computes.
    pub kind: Kind,
    /// Batch the shapes were bound to.
    pub batch: u32,
    /// Arena the instructions address.
    pub arena: ArenaSize,
    /// Values read before the first instruction, in order.
    pub inputs: Vec<Port>,
    /// Values handed over after the last instruction, in order.
    pub outputs: Vec<Port>,
    /// Executed once each, in order.
    pub instructions: Vec<Instruction>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl From<Region> for Operand {
    fn from(region: Region) -> Self {
        Self::Arena(region)
    }
}

impl From<Tile> for Operand {
    fn from(tile: Tile) -> Self {
        Self::Weight(tile)
    }
}

impl Operand {
    /// The intermediate value, if it is one.
    pub fn region(self) -> Option<Region> {
        if let Self::Arena(region) = self { Some(region) } else { None }
    }

    /// The constant, if it is one.
    pub fn tile(self) -> Option<Tile> {
        if let Self::Weight(tile) = self { Some(tile) } else { None }
    }
}

impl Region {
    /// Elements, as rules and work count them.
    pub(crate) fn elements(&self) -> Option<u64> {
        Some(self.len.into())
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.dtype.bytes())
    }
}

impl Program {
    /// Chunks of the normal world's memory that spilled values lie in.
    pub fn spill_chunks(&self) -> u64 {
        let end = |(slot, value): (u32, Region)| u64::from(slot) + value.bytes().div_ceil(CHUNK as u64);
        self.spills().map(end).max().unwrap_or(0)
    }

    /// Bytes of the values that are spilled in one run; as many come back.
    pub fn spilled_bytes(&self) -> u64 {
        self.spills().map(|(_, value)| value.bytes()).sum()
    }

    fn spills(&self) -> impl Iterator<Item = (u32, Region)> {
        self.instructions.iter().filter_map(|instruction| match instruction {
            Instruction::Spill { slot, value } => Some((*slot, *value)),
            _ => None,
        })
    }
}
