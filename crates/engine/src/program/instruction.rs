//! The operations of a Program, each described once. How to read an entry: [`super::describe`].

use core::fmt;

use super::describe::{ANY, Memory, MemoryMut, Read, Rule, any, exactly, padded, reaches, shortest};
use super::{
    Along, BinaryOp, Conv2d, ConvNd, Dense, Lrn, MatMul, Normalize, Operand, Pool, QConv2d, QDense, ReduceOp, Region,
    Strided1, Strided2, Strided3, StridedCopy, Sum, Target, Tile, UnaryOp,
};
use crate::program::DType::{Bool, F32, I64, U8};
use crate::wire::{Wire, wire_enum, wire_struct};

/// What is added to a finished product of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QResidual {
    /// The second operand of the sum.
    pub from: Region,
    /// Scales and zero points; the first operand is the product's byte.
    pub sum: Sum,
}

wire_struct!(QResidual { from: Region, sum: Sum });

instructions! {
    /// Convolution in the block layout; `residual` is added before `activation`.
    0 => Conv2d {
        plain geometry: Conv2d,
        /// Layout as `geometry.input` says.
        read input: Operand = exactly(F32, geometry.input_len()),
        /// In the order [`cordon_kernels::geometry::Conv2d`] gives.
        read weight: Tile = exactly(F32, geometry.weight_len()),
        read bias: Option<Tile> = exactly(F32, geometry.bias_len()),
        /// Blocked.
        read(in_place) residual: Option<Region> = exactly(F32, geometry.output_len()),
        /// Applied last.
        plain activation: Option<UnaryOp>,
        /// Blocked.
        write out: Region = exactly(F32, geometry.output_len()),
    } work geometry.macs(),

    /// Any other convolution, plain layout.
    1 => ConvNd {
        plain geometry: ConvNd,
        read input: Operand = exactly(F32, geometry.input_len()),
        /// As ONNX stores it.
        read weight: Operand = exactly(F32, geometry.weight_len()),
        read bias: Option<Tile> = exactly(F32, geometry.bias_len()),
        /// Applied last.
        plain activation: Option<UnaryOp>,
        write out: Region = exactly(F32, geometry.output_len()),
    } work geometry.macs(),

    /// Max or average pooling.
    2 => Pool {
        plain geometry: Pool,
        read input: Operand = exactly(F32, geometry.input_len()),
        write out: Region = exactly(F32, geometry.output_len()),
    } work geometry.taps(),

    /// Product with constant packed weights; `residual` is added before `activation`.
    3 => Dense {
        plain geometry: Dense,
        /// `(m, k)`.
        read input: Operand = exactly(F32, geometry.input_len()),
        /// `(ceil(n / 16), k, 16)`.
        read weight: Tile = exactly(F32, geometry.weight_len()),
        read bias: Option<Tile> = exactly(F32, geometry.bias_len()),
        /// `(m, n)`.
        read(in_place) residual: Option<Region> = exactly(F32, geometry.output_len()),
        /// Applied last.
        plain activation: Option<UnaryOp>,
        /// `(m, n)`.
        write out: Region = exactly(F32, geometry.output_len()),
    } work geometry.macs(),

    /// Product of two values.
    4 => MatMul {
        plain geometry: MatMul,
        read a: Operand = reaches(F32, geometry.a_len()),
        read b: Operand = reaches(F32, geometry.b_len()),
        /// `(batch…, m, n)`.
        write out: Region = exactly(F32, geometry.output_len()),
    } work geometry.macs(),

    /// A function of one value, element by element.
    5 => Unary {
        plain op: UnaryOp,
        read(in_place) input: Operand = exactly(F32, out.elements()),
        write out: Region = exactly(F32, out.elements()),
    } work out.elements(),

    /// Logical negation.
    6 => Not {
        read(in_place) input: Operand = exactly(Bool, out.elements()),
        write out: Region = exactly(Bool, out.elements()),
    } work out.elements(),

    /// A function of two values of one type with broadcasting into a contiguous `out`.
    7 => Binary {
        plain op: BinaryOp,
        plain shape: Strided2,
        read(in_place if shape.a_is_contiguous()) a: Operand = reaches(ANY, shape.a_len()),
        /// Of the type of `a`.
        read(in_place if shape.b_is_contiguous()) b: Operand = reaches(ANY, shape.b_len()),
        /// Applied last, to `f32` only.
        plain activation: Option<UnaryOp>,
        /// `bool` for comparisons, else of the type of `a`.
        write out: Region = exactly(ANY, shape.len()),
    } work out.elements(),

    /// `cond ? then : otherwise` with broadcasting into a contiguous `out`: strides `a` are those of `cond`, `b` and `c`
    /// those of the two branches.
    8 => Select {
        plain shape: Strided3,
        read cond: Operand = reaches(Bool, shape.a_len()),
        /// Where true.
        read then: Operand = reaches(out.dtype, shape.b_len()),
        /// Where false.
        read otherwise: Operand = reaches(out.dtype, shape.c_len()),
        write out: Region = exactly(ANY, shape.len()),
    } work out.elements(),

    /// Softmax, or its logarithm, along an axis of a plain value.
    9 => Softmax {
        plain along: Along,
        /// LogSoftmax instead.
        plain log: bool,
        read(in_place) input: Operand = exactly(F32, along.len()),
        write out: Region = exactly(F32, along.len()),
    } work out.elements(),

    /// Layer, instance or group normalisation.
    10 => Normalize {
        plain geometry: Normalize,
        read(in_place) input: Operand = exactly(F32, geometry.len()),
        read scale: Option<Operand> = exactly(F32, Some(geometry.channels.into())),
        read bias: Option<Operand> = exactly(F32, Some(geometry.channels.into())),
        write out: Region = exactly(F32, geometry.len()),
    } work out.elements(),

    /// Local response normalisation.
    11 => Lrn {
        plain geometry: Lrn,
        read input: Operand = exactly(F32, geometry.len()),
        write out: Region = exactly(F32, geometry.len()),
    } work geometry.terms(),

    /// Reduction. `kept` addresses the result's elements (contiguous in `out`) and `reduced` the elements folded into
    /// each; strides of both are steps of the input.
    12 => Reduce {
        plain op: ReduceOp,
        /// Result extents with input strides.
        plain kept: Strided1,
        /// Reduced extents with input strides.
        plain reduced: Strided1,
        read input: Operand = reaches(out.dtype, kept.reduction_len(reduced)),
        /// `f32` or `i64`.
        write out: Region = exactly(ANY, kept.len()),
    } work reduced.len().and_then(|folded| folded.checked_mul(out.len.into())),

    /// Index of the largest (or smallest) element along an axis.
    13 => ArgMax {
        plain along: Along,
        /// ArgMin instead.
        plain smallest: bool,
        /// On ties the last wins instead of the first.
        plain last: bool,
        read input: Operand = exactly(F32, along.len()),
        /// `(outer, inner)`.
        write out: Region = exactly(I64, along.resized_len(1)),
    } work along.len(),

    /// Strided copy between values of one type: transpose, slice, concatenation, expansion, layout change. May write
    /// part of `out` only.
    14 => Copy {
        /// Extents, starts and strides.
        plain geometry: StridedCopy,
        read input: Operand = reaches(out.dtype, geometry.input_len()),
        write out: Region = reaches(ANY, geometry.output_len()),
    } work geometry.len(),

    /// Sets every element.
    15 => Fill {
        /// Bits of the value: of an `f32`, an `i64`, a `bool` or a byte.
        plain value: u64,
        write out: Region = any(),
    } work out.elements(),

    /// `out[o, j, i] = data[o, indices[j], i]`; negative indices count from the end, others out of range stop the run
    /// with an error. The whole axis is resident, so memory traffic does not depend on the indices.
    16 => Gather {
        /// The axis of `data`.
        plain along: Along,
        /// Number of indices.
        plain count: u32,
        read data: Operand = exactly(out.dtype, along.len()),
        read indices: Operand = exactly(I64, Some((*count).into())),
        write out: Region = exactly(ANY, along.resized_len(*count)),
    } work out.elements(),

    /// Linear interpolation along one axis with constant positions:
    /// `out[o, j, i] = (1 - frac[j]) * in[o, lo[j], i] + frac[j] * in[o, hi[j], i]`.
    17 => Interpolate {
        /// The axis of the input.
        plain along: Along,
        /// Output extent of the axis.
        plain count: u32,
        read input: Operand = exactly(F32, along.len()),
        read lo: Tile = exactly(I64, Some((*count).into())),
        read hi: Tile = exactly(I64, Some((*count).into())),
        read frac: Tile = exactly(F32, Some((*count).into())),
        write out: Region = exactly(F32, along.resized_len(*count)),
    } work out.elements(),

    /// Conversion between types but `u8`: to `i64` truncates toward zero and saturates; to `bool` tests for nonzero.
    18 => Cast {
        /// Of another type than `out`.
        read input: Operand = exactly(ANY, out.elements()),
        write out: Region = any(),
    } work out.elements(),

    /// `round(x / scale) + zero`, clamped: from `f32` to bytes.
    19 => Quantize {
        /// Real distance between neighbouring bytes.
        plain scale: f32,
        /// The bytes.
        plain to: Target,
        read input: Operand = exactly(F32, out.elements()),
        write out: Region = exactly(U8, out.elements()),
    } work out.elements(),

    /// `(x - zero) * scale`: from bytes to `f32`.
    20 => Dequantize {
        /// Real distance between neighbouring bytes.
        plain scale: f32,
        /// The byte that stands for 0.
        plain zero: u8,
        read input: Operand = exactly(U8, out.elements()),
        write out: Region = exactly(F32, out.elements()),
    } work out.elements(),

    /// Convolution of bytes: a sum of products in 32 bits (wrapping), times the channel's scale, rounded to a byte; then, if
    /// there is a residual, the rounded sum of that byte (first) and the residual's (second). See [`cordon_kernels::quant`].
    21 => QConv2d {
        plain geometry: QConv2d,
        /// In blocks of `geometry.lanes` channels.
        read input: Operand = exactly(U8, geometry.input_len()),
        /// What padding reads: the byte that stands for 0.
        plain pad: u8,
        /// Signed bytes, packed as [`QConv2d`] says.
        read weight: Tile = exactly(U8, geometry.weight_len()),
        /// Modulo 2^32.
        read bias: Tile = exactly(I64, geometry.channels_len()),
        read scale: Tile = exactly(F32, geometry.channels_len()),
        /// The bytes of the product.
        plain to: Target,
        /// Blocked bytes, and how they are added.
        read(in_place) residual: Option<QResidual> = exactly(U8, geometry.output_len()),
        /// Blocked.
        write out: Region = exactly(U8, geometry.output_len()),
    } work geometry.macs(),

    /// Product of bytes with constant packed weights, finished as in [`Instruction::QConv2d`].
    22 => QDense {
        plain geometry: QDense,
        /// `(m, k)`.
        read input: Operand = exactly(U8, geometry.input_len()),
        /// Signed bytes, packed as [`QDense`] says.
        read weight: Tile = exactly(U8, geometry.weight_len()),
        /// Modulo 2^32.
        read bias: Tile = exactly(I64, geometry.channels_len()),
        read scale: Tile = exactly(F32, geometry.channels_len()),
        /// The bytes of the product.
        plain to: Target,
        /// `(m, n)`.
        write out: Region = exactly(U8, geometry.output_len()),
    } work geometry.macs(),

    /// Rounded sum of two values.
    23 => QSum {
        /// Scales and zero points.
        plain sum: Sum,
        read(in_place) a: Operand = exactly(U8, out.elements()),
        read b: Operand = exactly(U8, out.elements()),
        write out: Region = exactly(U8, out.elements()),
    } work out.elements(),

    /// Max pooling of bytes.
    24 => QPool {
        /// Shape; its kind is `Max`.
        plain geometry: Pool,
        read input: Operand = exactly(U8, geometry.input_len()),
        write out: Region = exactly(U8, geometry.output_len()),
    } work geometry.taps(),

    /// Any function of one byte.
    25 => Lookup {
        /// The results.
        read table: Tile = exactly(U8, Some(256)),
        read(in_place) input: Operand = exactly(U8, out.elements()),
        write out: Region = exactly(U8, out.elements()),
    } work out.elements(),

    /// A value leaves for the normal world's memory, encrypted. None of its elements may be read until they are written again.
    26 => Spill {
        /// First of the chunks it takes there, none of which holds another value.
        plain slot: u32,
        take value: Region = any(),
    } work value.elements(),

    /// The value that was spilled to `slot` comes back, once, and its chunks are free again.
    27 => Restore {
        /// As it was spilled to.
        plain slot: u32,
        /// Of the type and length of the value.
        write out: Region = any(),
    } work out.elements(),
}

impl fmt::Debug for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Instruction {
    /// The weight tiles read.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> + use<> {
        self.reads().filter_map(|read| read.operand.tile())
    }

    /// The arena regions read.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        self.reads().filter_map(|read| read.operand.region())
    }

    /// Elements of scratch memory that make it faster, at least and at most of use: those of a convolution by Winograd's
    /// method.
    pub fn scratch(&self) -> Option<[u32; 2]> {
        let Self::Conv2d { geometry, .. } = self else { return None };
        let [least, most] = geometry.winograd_pays().then(|| geometry.winograd_len())??;
        Some([u32::try_from(least).ok()?, u32::try_from(most).ok()?])
    }
}
