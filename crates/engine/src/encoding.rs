//! The binary form of a [`Program`] and of a [`WeightTable`]: every field in order, little-endian, nothing optional
//! about it. Decoding accepts exactly what encoding writes. Instructions are encoded as they are described
//! (`program/instruction.rs`).
//!
//! Layout of a Program: instruction set `u16`, kind `u8`, batch `u32`, arena sizes, then three lists (`u32` count,
//! items): inputs, outputs, instructions. Decoding checks form only; [`crate::Prepared::new`] checks meaning.

use alloc::vec::Vec;

use cordon_codec::{Reader, Writer};
use cordon_kernels::geometry::MAX_DIMS;

use crate::error::EngineError;
use crate::program::{
    Along, ArenaSize, Axis, BinaryOp, Conv2d, ConvNd, DType, Dense, INSTRUCTION_SET, Kind, Layout, Lrn,
    MAX_INSTRUCTIONS, MAX_PORTS, MAX_WEIGHTS, MatMul, Normalize, Operand, Pool, PoolKind, Port, Program, QConv2d,
    QDense, ReduceOp, Region, Stored, Strided1, Strided2, Strided3, StridedCopy, Sum, Target, Tile, UnaryOp, Via,
    WeightInfo, WeightTable,
};
use crate::wire::{Wire, list_bytes, read_list, unknown, wire_enum, wire_struct, write_list};

impl Program {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(INSTRUCTION_SET);
        self.kind.write(&mut w);
        self.batch.write(&mut w);
        self.arena.write(&mut w);
        write_list(&mut w, &self.inputs);
        write_list(&mut w, &self.outputs);
        write_list(&mut w, &self.instructions);
        w.finish()
    }

    /// Reads what [`Program::encode`] wrote and nothing else. The result is well-formed, not yet valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let mut r = Reader::new(bytes);
        let found = r.u16("instruction set")?;
        if found != INSTRUCTION_SET {
            return Err(EngineError::Version { found });
        }
        let program = Self {
            kind: Wire::read(&mut r, "kind")?,
            batch: Wire::read(&mut r, "batch")?,
            arena: Wire::read(&mut r, "arena")?,
            inputs: read_list(&mut r, MAX_PORTS, "inputs")?,
            outputs: read_list(&mut r, MAX_PORTS, "outputs")?,
            instructions: read_list(&mut r, MAX_INSTRUCTIONS, "instructions")?,
        };
        r.finish()?;
        Ok(program)
    }

    /// Bytes the Program itself holds on the heap; exact for a decoded one, whose lists have no spare capacity.
    pub fn heap_bytes(&self) -> u64 {
        (list_bytes(&self.inputs) + list_bytes(&self.outputs) + list_bytes(&self.instructions)) as u64
    }
}

impl WeightTable {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        write_list(&mut w, &self.0);
        w.finish()
    }

    /// Reads what [`WeightTable::encode`] wrote and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let mut r = Reader::new(bytes);
        let table = read_list(&mut r, MAX_WEIGHTS, "weight table")?;
        r.finish()?;
        Ok(Self(table))
    }
}

wire_enum!(Kind { 0 => Inference });
wire_enum!(DType { 0 => F32, 1 => I64, 2 => Bool, 3 => U8 });
wire_enum!(Stored { 0 => F32, 1 => I64, 2 => Bool, 3 => U8, 4 => F16 });
wire_enum!(Via { 0 => Cross, 1 => Retain });
wire_enum!(Layout { 0 => Plain, 1 => Blocked });
wire_enum!(PoolKind { 0 => Max, 1 => Average, 2 => AverageCountPad });
wire_enum!(ReduceOp { 0 => Sum, 1 => Mean, 2 => Max, 3 => Min });

wire_struct!(ArenaSize { f32: u32, i64: u32, bool: u32, u8: u32, scratch: u32 });
wire_struct!(Region { dtype: DType, start: u32, len: u32 });
wire_struct!(Tile { tensor: u32, start: u32, len: u32 });
wire_struct!(WeightInfo { stored: Stored, len: u32, offset: u64 });
wire_struct!(Port { value: u32, shape: Vec<u32>, region: Region, via: Via });

wire_struct!(Axis { input: u32, output: u32, kernel: u32, stride: u32, dilation: u32, pad_begin: u32, pad_end: u32 });
wire_struct!(Conv2d { n: u32, groups: u32, ic: u32, oc: u32, y: Axis, x: Axis, input: Layout });
wire_struct!(ConvNd { n: u32, groups: u32, ic: u32, oc: u32, axes: [Axis; 3], transposed: bool });
wire_struct!(Pool { kind: PoolKind, planes: u32, lanes: u32, axes: [Axis; 3] });
wire_struct!(Dense { m: u32, k: u32, n: u32 });
wire_struct!(MatMul { m: u32, k: u32, n: u32, batch: Strided2, a: [u32; 2], b: [u32; 2] });
wire_struct!(Strided1 { dims: Vec<u32>, a: Vec<u32> });
wire_struct!(Strided2 { dims: Vec<u32>, a: Vec<u32>, b: Vec<u32> });
wire_struct!(Strided3 { dims: Vec<u32>, a: Vec<u32>, b: Vec<u32>, c: Vec<u32> });
wire_struct!(StridedCopy { dims: Vec<u32>, from: u32, from_strides: Vec<i32>, to: u32, to_strides: Vec<u32> });
wire_struct!(Along { outer: u32, len: u32, inner: u32 });
wire_struct!(Normalize { outer: u32, len: u32, channels: u32, inner: u32, epsilon: f32 });
wire_struct!(Lrn { n: u32, c: u32, inner: u32, size: u32, alpha: f32, beta: f32, bias: f32 });

wire_struct!(Target { zero: u8, lo: u8, hi: u8 });
wire_struct!(Sum { a_scale: f32, a_zero: u8, b_scale: f32, b_zero: u8, to: Target });
wire_struct!(QConv2d { n: u32, groups: u32, ic: u32, oc: u32, y: Axis, x: Axis, lanes: u32 });
wire_struct!(QDense { m: u32, k: u32, n: u32 });

wire_enum!(UnaryOp {
    0 => Relu,
    1 => LeakyRelu { alpha },
    2 => Clip { lo, hi },
    3 => Sigmoid,
    4 => Silu,
    5 => Tanh,
    6 => HardSigmoid { alpha, beta },
    7 => HardSwish,
    8 => Elu { alpha },
    9 => Gelu,
    10 => GeluTanh,
    11 => Erf,
    12 => Softplus,
    13 => Mish,
    14 => Sqrt,
    15 => Exp,
    16 => Log,
    17 => Neg,
    18 => Abs,
    19 => Floor,
    20 => Ceil,
    21 => Round,
    22 => Reciprocal,
    23 => Affine { scale, offset },
});

wire_enum!(BinaryOp {
    0 => Add,
    1 => Sub,
    2 => Mul,
    3 => Div,
    4 => Pow,
    5 => Min,
    6 => Max,
    7 => Mod,
    8 => Fmod,
    9 => PRelu,
    10 => Equal,
    11 => Less,
    12 => LessOrEqual,
    13 => Greater,
    14 => GreaterOrEqual,
    15 => And,
    16 => Or,
    17 => Xor,
});

impl Wire for Operand {
    // A region is shorter than a tile.
    const MIN: usize = 1 + <Region as Wire>::MIN;

    fn write(&self, w: &mut Writer) {
        match self {
            Self::Arena(region) => {
                w.u8(0);
                region.write(w);
            }
            Self::Weight(tile) => {
                w.u8(1);
                tile.write(w);
            }
        }
    }

    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
        match r.u8(what)? {
            0 => Ok(Self::Arena(Wire::read(r, what)?)),
            1 => Ok(Self::Weight(Wire::read(r, what)?)),
            _ => unknown(what),
        }
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Extents and strides: at most [`MAX_DIMS`].
impl<T: Wire + Copy> Wire for Vec<T> {
    const MIN: usize = 4;

    fn write(&self, w: &mut Writer) {
        write_list(w, self);
    }

    fn read(r: &mut Reader<'_>, what: &'static str) -> Result<Self, EngineError> {
        read_list(r, MAX_DIMS as u32, what)
    }

    fn heap_bytes(&self) -> usize {
        list_bytes(self)
    }
}
