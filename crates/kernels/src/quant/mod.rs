//! Kernels over 8-bit quantised values. Integer sums are exact, everything after them is plain `f32` arithmetic without
//! fused operations: **every kernel set and any number of threads gives the same bits**.
//!
//! Activations are unsigned bytes; ONNX's int8 travels as the value plus 128, its zero point likewise, which changes no
//! result. Weights are signed bytes. With `x` the input bytes, `w` the weights, and `b`, `s` the operands `bias` and
//! `scale` of an output channel,
//!
//! ```text
//! sum = b + Σ x · w                            32 bits, wrapping; exact while 255 · 128 · taps < 2^31
//! out = clamp(round_half_even(f32(sum) · s) + zero, lo, hi)
//! ```
//!
//! A tap in the padding reads `pad`, the byte that stands for 0. The compiler on the owner's machine chooses
//! `b = bias − x_zero · Σ w` (all taps) and `s = x_scale · w_scale / y_scale`, rounded to `f32` after each operation: that is ONNX's
//! QLinearConv and QLinearMatMul for weights whose zero point is 0, in the arithmetic ONNX Runtime documents for them.

mod conv;
mod dense;
mod elementwise;
mod pool;
#[cfg(test)]
pub(crate) mod reference;
pub(crate) mod requantise;
mod shape;
mod tile;
mod window;

pub use conv::conv2d;
pub use dense::dense;
pub use elementwise::{dequantize, lookup, lookup_in_place, quantize, sum, sum_in_place};
pub use pool::max_pool;
pub(crate) use requantise::{Added, Bounds};
pub use shape::{GROUP, QConv2d, QDense, Sum, Target};

/// What is added to a finished, rounded result: both are bytes.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Bytes as long as the output: the second operand of the sum.
    Other(&'a [u8], Sum),
    /// The bytes the output holds before the call.
    InPlace(Sum),
}
