//! The shapes kernels work on. A `Program` stores these structs; the engine validates them once, kernels trust them.
//!
//! Two activation layouts exist. *Plain* is row-major `(n, c, spatial…)`. *Blocked* is `(n, ceil(c / 16), spatial…, 16)`:
//! sixteen neighbouring channels lie side by side. Lanes past `c` in the last block are unspecified and no result may
//! depend on them.

/// Channels in one block, for every kernel set and every target.
pub const BLOCK: usize = 16;

/// How an activation lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `(n, c, spatial…)`, row-major.
    Plain,
    /// `(n, ceil(c / 16), spatial…, 16)`.
    Blocked,
}

/// One spatial axis of a window operation. All values in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Input extent.
    pub input: u32,
    /// Output extent.
    pub output: u32,
    /// Window extent, before dilation.
    pub kernel: u32,
    /// Step between windows, at least 1.
    pub stride: u32,
    /// Step between taps of a window, at least 1.
    pub dilation: u32,
    /// Zero elements before the first.
    pub pad_begin: u32,
    /// Zero elements after the last (only average pooling with padding counted reads it).
    pub pad_end: u32,
}

/// The 2-D convolution of the canonical block layout.
///
/// Output is blocked. `groups` is 1, or both channel counts per group are multiples of 16, or `groups == ic == oc`
/// (depthwise, input blocked). Weights are `(ceil(oc / 16), ic / groups, kh, kw, 16)` for plain input and
/// `(ceil(oc / 16), blocks of ic / groups, kh, kw, up to 16 of the block, 16)` for blocked input, so that they are read
/// from first to last; lanes past `oc` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Batch.
    pub n: u32,
    /// Groups.
    pub groups: u32,
    /// Input channels, all groups.
    pub ic: u32,
    /// Output channels, all groups.
    pub oc: u32,
    /// Rows.
    pub y: Axis,
    /// Columns.
    pub x: Axis,
    /// Layout of the input; the output is always blocked.
    pub input: Layout,
}

/// Any other convolution: any groups, up to three spatial axes, or transposed. Plain layout, weights as ONNX stores
/// them: `(oc, ic / groups, kd, kh, kw)`, or `(ic, oc / groups, kd, kh, kw)` when transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvNd {
    /// Batch.
    pub n: u32,
    /// Groups.
    pub groups: u32,
    /// Input channels, all groups.
    pub ic: u32,
    /// Output channels, all groups.
    pub oc: u32,
    /// Spatial axes, outermost first; unused leading axes have extent 1 everywhere.
    pub axes: [Axis; 3],
    /// Whether this is ConvTranspose.
    pub transposed: bool,
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// Maximum; padding never wins.
    Max,
    /// Mean over the elements inside the input.
    Average,
    /// Mean over elements inside the input and its padding.
    AverageCountPad,
}

/// Max or average pooling over `(planes, d, h, w, lanes)`; blocked activations have 16 lanes, plain ones 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// Independent planes: `n * ceil(c / 16)` or `n * c`.
    pub planes: u32,
    /// 1 or 16.
    pub lanes: u32,
    /// Spatial axes, outermost first; unused leading axes have extent 1 everywhere.
    pub axes: [Axis; 3],
}

/// `(m, k) × packed weights → (m, n)`. Weights are `(ceil(n / 16), k, 16)`, lanes past `n` zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Rows.
    pub m: u32,
    /// Inner extent.
    pub k: u32,
    /// Columns.
    pub n: u32,
}

/// A batched product of two strided matrices into a contiguous `(batch…, m, n)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatMul {
    /// Rows.
    pub m: u32,
    /// Inner extent.
    pub k: u32,
    /// Columns.
    pub n: u32,
    /// Batch extents, possibly empty; strides of 0 broadcast.
    pub batch: Strided2,
    /// Row and column step of `a`.
    pub a: [u32; 2],
    /// Row and column step of `b`.
    pub b: [u32; 2],
}

/// Extents with one stride list. Strides in elements; at most [`MAX_DIMS`] dimensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strided1 {
    /// Extents, outermost first.
    pub dims: alloc::vec::Vec<u32>,
    /// Step per dimension.
    pub a: alloc::vec::Vec<u32>,
}

/// Extents with two stride lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strided2 {
    /// Extents, outermost first.
    pub dims: alloc::vec::Vec<u32>,
    /// Step of the first operand; 0 broadcasts.
    pub a: alloc::vec::Vec<u32>,
    /// Step of the second operand; 0 broadcasts.
    pub b: alloc::vec::Vec<u32>,
}

/// Extents with three stride lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strided3 {
    /// Extents, outermost first.
    pub dims: alloc::vec::Vec<u32>,
    /// Step of the first operand.
    pub a: alloc::vec::Vec<u32>,
    /// Step of the second operand.
    pub b: alloc::vec::Vec<u32>,
    /// Step of the third operand.
    pub c: alloc::vec::Vec<u32>,
}

/// A strided copy. Negative input strides walk backwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StridedCopy {
    /// Extents, outermost first.
    pub dims: alloc::vec::Vec<u32>,
    /// First element read.
    pub from: u32,
    /// Step per dimension of the input.
    pub from_strides: alloc::vec::Vec<i32>,
    /// First element written.
    pub to: u32,
    /// Step per dimension of the output.
    pub to_strides: alloc::vec::Vec<u32>,
}

/// Most dimensions an instruction may have (a blocked 5-D tensor with a reduction fits).
pub const MAX_DIMS: usize = 8;

/// `(outer, len, inner)`: an operation along the middle axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Along {
    /// Product of the extents before the axis.
    pub outer: u32,
    /// Extent of the axis.
    pub len: u32,
    /// Product of the extents after the axis.
    pub inner: u32,
}

/// Mean-and-variance normalisation of `outer` rows of `len` elements, then `scale[i] * x + bias[i]` with
/// `i = (flat index / inner) % channels`. Layer: `channels = len, inner = 1`; instance and group: the channel of the
/// element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalize {
    /// Rows normalised independently.
    pub outer: u32,
    /// Elements in a row.
    pub len: u32,
    /// Extent of scale and bias.
    pub channels: u32,
    /// Elements that share one scale.
    pub inner: u32,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Local response normalisation across channels of a plain `(n, c, inner)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    /// Batch.
    pub n: u32,
    /// Channels.
    pub c: u32,
    /// Product of the spatial extents.
    pub inner: u32,
    /// Channels summed.
    pub size: u32,
    /// Scale.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Constant term.
    pub bias: f32,
}

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Mean.
    Mean,
    /// Largest; NaN propagates.
    Max,
    /// Smallest; NaN propagates.
    Min,
}

/// A function of one `f32`. Also the fused activation of `Conv`, `Dense` and `Binary`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryOp {
    /// `max(x, 0)`.
    Relu,
    /// `x < 0 ? alpha * x : x`.
    LeakyRelu {
        /// Slope below zero.
        alpha: f32,
    },
    /// `min(max(x, lo), hi)`.
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `min(max(alpha * x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// `x * min(max(x / 6 + 0.5, 0), 1)`.
    HardSwish,
    /// `x < 0 ? alpha * (exp(x) - 1) : x`.
    Elu {
        /// Scale below zero.
        alpha: f32,
    },
    /// `0.5 * x * (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// The tanh approximation of Gelu.
    GeluTanh,
    /// Gauss error function.
    Erf,
    /// `ln(1 + exp(x))`, without overflow.
    Softplus,
    /// `x * tanh(softplus(x))`.
    Mish,
    /// Square root; negative gives NaN.
    Sqrt,
    /// Exponential.
    Exp,
    /// Natural logarithm.
    Log,
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
    /// Largest integer not above `x`.
    Floor,
    /// Smallest integer not below `x`.
    Ceil,
    /// Nearest integer, ties to even.
    Round,
    /// `1 / x`.
    Reciprocal,
    /// `x * scale + offset`.
    Affine {
        /// Factor.
        scale: f32,
        /// Term.
        offset: f32,
    },
}

/// A function of two values of the same type. Comparisons give `bool`; `And`, `Or`, `Xor` take and give `bool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `a + b`; `i64` wraps.
    Add,
    /// `a - b`; `i64` wraps.
    Sub,
    /// `a * b`; `i64` wraps.
    Mul,
    /// `a / b`; `i64` truncates, division by zero gives 0.
    Div,
    /// `a` to the power `b` (`f32` only).
    Pow,
    /// Smaller; NaN propagates.
    Min,
    /// Larger; NaN propagates.
    Max,
    /// Remainder with the sign of `b` (ONNX `Mod`, `fmod = 0`); zero divisor gives 0 for `i64`.
    Mod,
    /// Remainder with the sign of `a` (`fmod = 1`).
    Fmod,
    /// `a < 0 ? a * b : a` (`f32` only).
    PRelu,
    /// `a == b`.
    Equal,
    /// `a < b`.
    Less,
    /// `a <= b`.
    LessOrEqual,
    /// `a > b`.
    Greater,
    /// `a >= b`.
    GreaterOrEqual,
    /// Logical and.
    And,
    /// Logical or.
    Or,
    /// Logical exclusive or.
    Xor,
}
