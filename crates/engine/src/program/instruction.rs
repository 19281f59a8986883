//! The operations of a Program.

use super::{
    Along, BinaryOp, Conv2d, ConvNd, Dense, Lrn, MatMul, Normalize, Operand, Pool, QConv2d, QDense, ReduceOp, Region,
    Strided1, Strided2, Strided3, StridedCopy, Sum, Target, Tile, UnaryOp,
};

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
    pub(super) fn strides(&self) -> usize {
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
