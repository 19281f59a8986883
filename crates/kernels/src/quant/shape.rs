//! Shapes and parameters of the integer kernels, and how many elements each touches.

use crate::geometry::{Axis, BLOCK};
use crate::lengths::{in_whole_blocks, padded, product};

/// Input channels one weight vector multiplies for each of sixteen output channels.
pub const GROUP: usize = 4;

/// How a real number `v`, in steps of the output's scale, becomes a byte: `clamp(round_half_even(v) + zero, lo, hi)`.
///
/// An activation that only clamps (Relu, Clip) is part of `lo` and `hi`: rounding is monotone, so clamping after it is the
/// same as clamping before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The byte that stands for 0.
    pub zero: u8,
    /// Smallest byte.
    pub lo: u8,
    /// Largest byte, not below `lo`.
    pub hi: u8,
}

impl Target {
    /// All 256 values.
    pub fn new(zero: u8) -> Target {
        Target { zero, lo: 0, hi: 255 }
    }

    /// Whether the bounds are in order.
    pub fn is_valid(&self) -> bool {
        self.lo <= self.hi
    }
}

/// `(a - a_zero) * a_scale + (b - b_zero) * b_scale` in steps of the output's scale, each operation rounded to `f32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// Scale of the first operand over the output's.
    pub a_scale: f32,
    /// The byte that stands for 0 in the first operand.
    pub a_zero: u8,
    /// Scale of the second operand over the output's.
    pub b_scale: f32,
    /// The byte that stands for 0 in the second operand.
    pub b_zero: u8,
    /// The output's bytes.
    pub to: Target,
}

/// A two-dimensional convolution over bytes.
///
/// Input is `(n, ceil(ic / lanes), h, w, lanes)` with 4 or 16 lanes, output `(n, ceil(oc / 16), oh, ow, 16)`. `groups` is
/// 1, or both channel counts per group are multiples of 16, or `groups == ic == oc` (depthwise, 16 lanes). Weights are
/// signed: `(ceil(oc / 16), ceil(ic / groups / lanes), kh, kw, lanes / 4, 16, 4)`, the last axis input channels, zero where
/// a channel does not exist; of a depthwise convolution `(ceil(oc / 16), kh, kw, 16)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QConv2d {
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
    /// Input channels that lie side by side: 4 or 16.
    pub lanes: u32,
}

/// `(m, k)` bytes times signed packed weights. Weights are `(ceil(n / 16), ceil(k / 16), 4, 16, 4)`, the last axis along
/// `k`, zero where there is no element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QDense {
    /// Rows.
    pub m: u32,
    /// Inner extent.
    pub k: u32,
    /// Columns.
    pub n: u32,
}

impl QConv2d {
    /// Whether every channel is convolved alone.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.ic && self.groups == self.oc
    }

    /// Whether this kernel can run the shape.
    pub fn is_valid(&self) -> bool {
        let whole = |groups| in_whole_blocks(self.ic, groups) && in_whole_blocks(self.oc, groups);
        let groups = match self.groups {
            0 => false,
            1 => matches!(self.lanes, 4 | 16),
            groups => self.lanes == BLOCK as u32 && (self.is_depthwise() || whole(groups)),
        };
        groups && self.ic > 0 && self.oc > 0 && self.y.is_valid() && self.x.is_valid()
    }

    /// `channels` rounded up to whole groups of lanes.
    fn lanes_of(&self, channels: u32) -> Option<u64> {
        let lanes = u64::from(self.lanes);
        u64::from(channels).checked_next_multiple_of(lanes)
    }

    /// Bytes of the input.
    pub fn input_len(&self) -> Option<u64> {
        product(&[self.n, self.y.input, self.x.input])?.checked_mul(self.lanes_of(self.ic)?)
    }

    /// Bytes of the weights.
    pub fn weight_len(&self) -> Option<u64> {
        let channels = if self.is_depthwise() { 1 } else { self.lanes_of(self.ic.checked_div(self.groups)?)? };
        product(&[self.y.kernel, self.x.kernel])?.checked_mul(channels)?.checked_mul(self.channels_len()?)
    }

    /// Elements of bias and scale: one for each output channel, whole blocks.
    pub fn channels_len(&self) -> Option<u64> {
        Some(padded(self.oc))
    }

    /// Bytes of the output.
    pub fn output_len(&self) -> Option<u64> {
        product(&[self.n, self.y.output, self.x.output])?.checked_mul(self.channels_len()?)
    }

    /// Multiply-accumulates, padding included.
    pub fn macs(&self) -> Option<u64> {
        self.weight_len()?.checked_mul(product(&[self.n, self.y.output, self.x.output])?)
    }
}

impl QDense {
    /// Bytes of the input.
    pub fn input_len(&self) -> Option<u64> {
        product(&[self.m, self.k])
    }

    /// Bytes of the weights.
    pub fn weight_len(&self) -> Option<u64> {
        padded(self.k).checked_mul(self.channels_len()?)
    }

    /// Elements of bias and scale.
    pub fn channels_len(&self) -> Option<u64> {
        Some(padded(self.n))
    }

    /// Bytes of the output.
    pub fn output_len(&self) -> Option<u64> {
        product(&[self.m, self.n])
    }

    /// Multiply-accumulates, padding included.
    pub fn macs(&self) -> Option<u64> {
        self.weight_len()?.checked_mul(u64::from(self.m))
    }
}
