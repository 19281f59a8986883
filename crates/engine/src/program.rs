//! The `Program`: what the compiler on the owner's machine hands to the trusted engine.
//!
//! A flat, typed list of instructions over one arena whose offsets are fixed ahead of time (design rule 4). It knows
//! neither ONNX nor any CPU: tensors are plain or in the canonical block of 16 channels. Sequence of steps and of weight
//! chunks is fixed by the Program, never by data (rule 8).

use alloc::vec::Vec;

pub use cordon_kernels::geometry::{
    Along, Axis, BinaryOp, Conv2d, ConvNd, Dense, Layout, Lrn, MatMul, Normalize, Pool, PoolKind, ReduceOp, Strided1,
    Strided2, Strided3, StridedCopy, UnaryOp,
};
pub use cordon_kernels::quant::{QConv2d, QDense, Sum, Target};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightTable(pub Vec<WeightInfo>);

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

/// One segment, compiled for one batch size and set of shapes.
#[derive(Clone, Debug, PartialEq)]
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

/// One operation. Every instruction writes exactly one region; unless a variant says otherwise that region overlaps none
/// it reads. `out` holds `f32` unless stated.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// Convolution in the block layout; `residual` (blocked, shape of the output) is added before `activation`.
    Conv2d {
        /// Shape.
        geometry: Conv2d,
        /// Layout as `geometry.input` says.
        input: Operand,
        /// In the order [`cordon_kernels::geometry::Conv2d`] gives.
        weight: Tile,
        /// `(ceil(oc / 16) * 16)`.
        bias: Option<Tile>,
        /// Added before the activation. May equal `out` exactly.
        residual: Option<Region>,
        /// Applied last.
        activation: Option<UnaryOp>,
        /// Blocked.
        out: Region,
    },
    /// Any other convolution, plain layout.
    ConvNd {
        /// Shape.
        geometry: ConvNd,
        /// Plain.
        input: Operand,
        /// As ONNX stores it.
        weight: Operand,
        /// `(oc)`.
        bias: Option<Tile>,
        /// Applied last.
        activation: Option<UnaryOp>,
        /// Plain.
        out: Region,
    },
    /// Max or average pooling.
    Pool {
        /// Shape.
        geometry: Pool,
        /// Input.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// Product with constant packed weights; `residual` `(m, n)` is added before `activation`.
    Dense {
        /// Shape.
        geometry: Dense,
        /// `(m, k)`.
        input: Operand,
        /// `(ceil(n / 16), k, 16)`.
        weight: Tile,
        /// `(ceil(n / 16) * 16)`.
        bias: Option<Tile>,
        /// Added before the activation. May equal `out` exactly.
        residual: Option<Region>,
        /// Applied last.
        activation: Option<UnaryOp>,
        /// `(m, n)`.
        out: Region,
    },
    /// Product of two values.
    MatMul {
        /// Shape.
        geometry: MatMul,
        /// Left.
        a: Operand,
        /// Right.
        b: Operand,
        /// `(batch…, m, n)`.
        out: Region,
    },
    /// A function of one value, element by element. `out` may equal the input region exactly.
    Unary {
        /// Which.
        op: UnaryOp,
        /// Input, as long as `out`.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// Logical negation of a `bool` value. `out` may equal the input region exactly.
    Not {
        /// Input, as long as `out`.
        input: Operand,
        /// `bool` output.
        out: Region,
    },
    /// A function of two values with broadcasting into a contiguous `out`. `out` may equal an operand's region exactly
    /// when that operand's strides are the contiguous ones and types agree.
    Binary {
        /// Which.
        op: BinaryOp,
        /// Extents and strides.
        shape: Strided2,
        /// First operand.
        a: Operand,
        /// Second operand, of the type of `a`.
        b: Operand,
        /// Applied last (`f32` only).
        activation: Option<UnaryOp>,
        /// Contiguous; `bool` for comparisons.
        out: Region,
    },
    /// `cond ? a : b` with broadcasting: strides `a` are those of `cond`, `b` and `c` those of the two branches.
    Select {
        /// Extents and strides.
        shape: Strided3,
        /// `bool`.
        cond: Operand,
        /// Where true.
        then: Operand,
        /// Where false.
        otherwise: Operand,
        /// Contiguous, of the branches' type.
        out: Region,
    },
    /// Softmax, or its logarithm, along an axis of a plain value. `out` may equal the input region exactly.
    Softmax {
        /// The axis.
        along: Along,
        /// LogSoftmax instead.
        log: bool,
        /// Input.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// Layer, instance or group normalisation. `out` may equal the input region exactly.
    Normalize {
        /// Shape.
        geometry: Normalize,
        /// Input.
        input: Operand,
        /// `(channels)`.
        scale: Option<Operand>,
        /// `(channels)`.
        bias: Option<Operand>,
        /// Output.
        out: Region,
    },
    /// Local response normalisation.
    Lrn {
        /// Shape.
        geometry: Lrn,
        /// Input.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// Reduction. `kept` addresses the result's elements (contiguous in `out`) and `reduced` the elements folded into
    /// each; strides of both are steps of the input.
    Reduce {
        /// Which.
        op: ReduceOp,
        /// Result extents with input strides.
        kept: Strided1,
        /// Reduced extents with input strides.
        reduced: Strided1,
        /// `f32` or `i64`.
        input: Operand,
        /// Of the input's type.
        out: Region,
    },
    /// Index of the largest (or smallest) element along an axis of an `f32` value.
    ArgMax {
        /// The axis.
        along: Along,
        /// ArgMin instead.
        smallest: bool,
        /// On ties the last wins instead of the first.
        last: bool,
        /// `f32` input.
        input: Operand,
        /// `i64` output, `(outer, inner)`.
        out: Region,
    },
    /// Strided copy between values of one type: transpose, slice, concatenation, expansion, layout change. May write
    /// part of `out` only.
    Copy {
        /// Extents, starts and strides.
        geometry: StridedCopy,
        /// Input.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// Sets every element: `f32` bits, or an `i64`, or a `bool`, or a byte.
    Fill {
        /// Bits of the value.
        value: u64,
        /// Output.
        out: Region,
    },
    /// `out[o, j, i] = data[o, indices[j], i]`; negative indices count from the end, others out of range stop the run
    /// with an error. The whole axis is resident, so memory traffic does not depend on the indices.
    Gather {
        /// The axis of `data`.
        along: Along,
        /// Number of indices.
        count: u32,
        /// Any type.
        data: Operand,
        /// `i64`.
        indices: Operand,
        /// Of the type of `data`.
        out: Region,
    },
    /// Linear interpolation along one axis with constant positions:
    /// `out[o, j, i] = (1 - frac[j]) * in[o, lo[j], i] + frac[j] * in[o, hi[j], i]`.
    Interpolate {
        /// The axis of the input.
        along: Along,
        /// Output extent of the axis.
        count: u32,
        /// `f32` input.
        input: Operand,
        /// `i64`, `(count)`.
        lo: Tile,
        /// `i64`, `(count)`.
        hi: Tile,
        /// `f32`, `(count)`.
        frac: Tile,
        /// Output.
        out: Region,
    },
    /// Conversion between types but `u8`: to `i64` truncates toward zero and saturates; to `bool` tests for nonzero.
    Cast {
        /// Input.
        input: Operand,
        /// Output.
        out: Region,
    },
    /// `round(x / scale) + zero`, clamped: from `f32` to bytes.
    Quantize {
        /// Real distance between neighbouring bytes.
        scale: f32,
        /// The bytes.
        to: Target,
        /// `f32`, as long as `out`.
        input: Operand,
        /// `u8`.
        out: Region,
    },
    /// `(x - zero) * scale`: from bytes to `f32`.
    Dequantize {
        /// Real distance between neighbouring bytes.
        scale: f32,
        /// The byte that stands for 0.
        zero: u8,
        /// `u8`, as long as `out`.
        input: Operand,
        /// `f32`.
        out: Region,
    },
    /// Convolution of bytes: a sum of products in 32 bits (wrapping), times the channel's scale, rounded to a byte; then, if
    /// there is a residual, the rounded sum of that byte (first) and the residual's (second). See [`cordon_kernels::quant`].
    QConv2d {
        /// Shape.
        geometry: QConv2d,
        /// `u8`, in blocks of `geometry.lanes` channels.
        input: Operand,
        /// What padding reads: the byte that stands for 0.
        pad: u8,
        /// Signed bytes, packed as [`QConv2d`] says.
        weight: Tile,
        /// `i64`, `(ceil(oc / 16) * 16)`, modulo 2^32.
        bias: Tile,
        /// `f32`, `(ceil(oc / 16) * 16)`.
        scale: Tile,
        /// The bytes of the product.
        to: Target,
        /// Blocked bytes, shape of the output, and how they are added. May equal `out` exactly.
        residual: Option<QResidual>,
        /// `u8`, blocked.
        out: Region,
    },
    /// Product of bytes with constant packed weights, finished as in [`Instruction::QConv2d`].
    QDense {
        /// Shape.
        geometry: QDense,
        /// `u8`, `(m, k)`.
        input: Operand,
        /// Signed bytes, packed as [`QDense`] says.
        weight: Tile,
        /// `i64`, `(ceil(n / 16) * 16)`, modulo 2^32.
        bias: Tile,
        /// `f32`, `(ceil(n / 16) * 16)`.
        scale: Tile,
        /// The bytes of the product.
        to: Target,
        /// `u8`, `(m, n)`.
        out: Region,
    },
    /// Rounded sum of two values of one length. `out` may equal the region of `a` exactly.
    QSum {
        /// Scales and zero points.
        sum: Sum,
        /// `u8`, as long as `out`.
        a: Operand,
        /// `u8`, as long as `out`.
        b: Operand,
        /// `u8`.
        out: Region,
    },
    /// Max pooling of bytes; `geometry.kind` is `Max`.
    QPool {
        /// Shape.
        geometry: Pool,
        /// `u8`.
        input: Operand,
        /// `u8`.
        out: Region,
    },
    /// Any function of one byte. `out` may equal the input region exactly.
    Lookup {
        /// `u8`, 256 results.
        table: Tile,
        /// `u8`, as long as `out`.
        input: Operand,
        /// `u8`.
        out: Region,
    },
    /// A value leaves for the normal world's memory, encrypted. None of its elements may be read until they are written again.
    Spill {
        /// First of the chunks it takes there, none of which holds another value.
        slot: u32,
        /// Any type.
        value: Region,
    },
    /// The value that was spilled to `slot` comes back, once, and its chunks are free again.
    Restore {
        /// As it was spilled to.
        slot: u32,
        /// Of the type and length of the value.
        out: Region,
    },
}

impl Region {
    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.dtype.bytes())
    }
}

/// What is added to a finished product of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QResidual {
    /// The second operand of the sum.
    pub from: Region,
    /// Scales and zero points; the first operand is the product's byte.
    pub sum: Sum,
}

impl Instruction {
    /// The variant's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv2d { .. } => "Conv2d",
            Self::ConvNd { .. } => "ConvNd",
            Self::Pool { .. } => "Pool",
            Self::Dense { .. } => "Dense",
            Self::MatMul { .. } => "MatMul",
            Self::Unary { .. } => "Unary",
            Self::Not { .. } => "Not",
            Self::Binary { .. } => "Binary",
            Self::Select { .. } => "Select",
            Self::Softmax { .. } => "Softmax",
            Self::Normalize { .. } => "Normalize",
            Self::Lrn { .. } => "Lrn",
            Self::Reduce { .. } => "Reduce",
            Self::ArgMax { .. } => "ArgMax",
            Self::Copy { .. } => "Copy",
            Self::Fill { .. } => "Fill",
            Self::Gather { .. } => "Gather",
            Self::Interpolate { .. } => "Interpolate",
            Self::Cast { .. } => "Cast",
            Self::Quantize { .. } => "Quantize",
            Self::Dequantize { .. } => "Dequantize",
            Self::QConv2d { .. } => "QConv2d",
            Self::QDense { .. } => "QDense",
            Self::QSum { .. } => "QSum",
            Self::QPool { .. } => "QPool",
            Self::Lookup { .. } => "Lookup",
            Self::Spill { .. } => "Spill",
            Self::Restore { .. } => "Restore",
        }
    }

    /// The region written; that of a spilled value is lost.
    pub fn out(&self) -> Region {
        match self {
            Self::Conv2d { out, .. }
            | Self::ConvNd { out, .. }
            | Self::Pool { out, .. }
            | Self::Dense { out, .. }
            | Self::MatMul { out, .. }
            | Self::Unary { out, .. }
            | Self::Not { out, .. }
            | Self::Binary { out, .. }
            | Self::Select { out, .. }
            | Self::Softmax { out, .. }
            | Self::Normalize { out, .. }
            | Self::Lrn { out, .. }
            | Self::Reduce { out, .. }
            | Self::ArgMax { out, .. }
            | Self::Copy { out, .. }
            | Self::Fill { out, .. }
            | Self::Gather { out, .. }
            | Self::Interpolate { out, .. }
            | Self::Cast { out, .. }
            | Self::Quantize { out, .. }
            | Self::Dequantize { out, .. }
            | Self::QConv2d { out, .. }
            | Self::QDense { out, .. }
            | Self::QSum { out, .. }
            | Self::QPool { out, .. }
            | Self::Lookup { out, .. }
            | Self::Spill { value: out, .. }
            | Self::Restore { out, .. } => *out,
        }
    }

    /// Everything read, with the name of its field.
    pub fn reads(&self) -> impl Iterator<Item = (&'static str, Operand)> + use<> {
        let tile = |name, tile: &Tile| Some((name, Operand::Weight(*tile)));
        let maybe_tile = |name, it: &Option<Tile>| it.map(|it| (name, Operand::Weight(it)));
        let maybe = |name, it: &Option<Operand>| it.map(|it| (name, it));
        let reads: [Option<(&'static str, Operand)>; 5] = match self {
            Self::Conv2d { input, weight, bias, residual, .. } | Self::Dense { input, weight, bias, residual, .. } => [
                Some(("input", *input)),
                tile("weight", weight),
                maybe_tile("bias", bias),
                residual.map(|region| ("residual", Operand::Arena(region))),
                None,
            ],
            Self::ConvNd { input, weight, bias, .. } => {
                [Some(("input", *input)), Some(("weight", *weight)), maybe_tile("bias", bias), None, None]
            }
            Self::MatMul { a, b, .. } | Self::Binary { a, b, .. } | Self::QSum { a, b, .. } => {
                [Some(("a", *a)), Some(("b", *b)), None, None, None]
            }
            Self::Select { cond, then, otherwise, .. } => {
                [Some(("cond", *cond)), Some(("then", *then)), Some(("otherwise", *otherwise)), None, None]
            }
            Self::Normalize { input, scale, bias, .. } => {
                [Some(("input", *input)), maybe("scale", scale), maybe("bias", bias), None, None]
            }
            Self::Gather { data, indices, .. } => {
                [Some(("data", *data)), Some(("indices", *indices)), None, None, None]
            }
            Self::Interpolate { input, lo, hi, frac, .. } => {
                [Some(("input", *input)), tile("lo", lo), tile("hi", hi), tile("frac", frac), None]
            }
            Self::Pool { input, .. }
            | Self::Unary { input, .. }
            | Self::Not { input, .. }
            | Self::Softmax { input, .. }
            | Self::Lrn { input, .. }
            | Self::Reduce { input, .. }
            | Self::ArgMax { input, .. }
            | Self::Copy { input, .. }
            | Self::Cast { input, .. }
            | Self::Quantize { input, .. }
            | Self::Dequantize { input, .. }
            | Self::QPool { input, .. } => [Some(("input", *input)), None, None, None, None],
            Self::QConv2d { input, weight, bias, scale, residual, .. } => [
                Some(("input", *input)),
                tile("weight", weight),
                tile("bias", bias),
                tile("scale", scale),
                residual.map(|it| ("residual", Operand::Arena(it.from))),
            ],
            Self::QDense { input, weight, bias, scale, .. } => {
                [Some(("input", *input)), tile("weight", weight), tile("bias", bias), tile("scale", scale), None]
            }
            Self::Lookup { table, input, .. } => [tile("table", table), Some(("input", *input)), None, None, None],
            Self::Spill { value, .. } => [Some(("value", Operand::Arena(*value))), None, None, None, None],
            Self::Fill { .. } | Self::Restore { .. } => [None; 5],
        };
        reads.into_iter().flatten()
    }

    /// The weight tiles read.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> + use<> {
        self.reads().filter_map(|(_, operand)| match operand {
            Operand::Weight(tile) => Some(tile),
            Operand::Arena(_) => None,
        })
    }
}

impl Program {
    /// Bytes the Program itself holds on the heap; exact for a decoded one, whose lists have no spare capacity.
    pub fn heap_bytes(&self) -> u64 {
        let ports = self.inputs.len() + self.outputs.len();
        let shapes: usize = self.inputs.iter().chain(&self.outputs).map(|port| port.shape.len()).sum();
        let strides: usize = self.instructions.iter().map(Instruction::strides).sum();
        let bytes = ports * size_of::<Port>()
            + self.instructions.len() * size_of::<Instruction>()
            + (shapes + strides) * size_of::<u32>();
        bytes as u64
    }

    /// Chunks of the normal world's memory that spilled values lie in.
    pub fn spill_chunks(&self) -> u64 {
        let end = |instruction: &Instruction| match instruction {
            Instruction::Spill { slot, value } => u64::from(*slot) + value.bytes().div_ceil(crate::CHUNK as u64),
            _ => 0,
        };
        self.instructions.iter().map(end).max().unwrap_or(0)
    }

    /// Bytes of the values that are spilled in one run; as many come back.
    pub fn spilled_bytes(&self) -> u64 {
        let bytes = |instruction: &Instruction| match instruction {
            Instruction::Spill { value, .. } => value.bytes(),
            _ => 0,
        };
        self.instructions.iter().map(bytes).sum()
    }
}

impl Instruction {
    /// Elements of scratch memory that make it faster, at least and at most of use: those of a convolution by Winograd's
    /// method.
    pub fn scratch(&self) -> Option<[u32; 2]> {
        match self {
            Self::Conv2d { geometry, .. } if geometry.winograd_pays() => {
                let [least, most] = geometry.winograd_len()?;
                Some([u32::try_from(least).ok()?, u32::try_from(most).ok()?])
            }
            _ => None,
        }
    }

    /// Entries of all extent and stride lists.
    fn strides(&self) -> usize {
        let one = |s: &Strided1| s.dims.len() + s.a.len();
        let two = |s: &Strided2| s.dims.len() + s.a.len() + s.b.len();
        match self {
            Self::MatMul { geometry, .. } => two(&geometry.batch),
            Self::Binary { shape, .. } => two(shape),
            Self::Select { shape: s, .. } => s.dims.len() + s.a.len() + s.b.len() + s.c.len(),
            Self::Reduce { kept, reduced, .. } => one(kept) + one(reduced),
            Self::Copy { geometry: g, .. } => g.dims.len() + g.from_strides.len() + g.to_strides.len(),
            _ => 0,
        }
    }
}
