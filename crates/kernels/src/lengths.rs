//! How many elements each kernel touches: the one formula validation, lowering and kernels share.
//!
//! A length is `None` when the shape itself is unusable: arithmetic overflows, a divisor is zero, or a list is longer
//! than [`MAX_DIMS`]. Kernels accept slices of exactly the `*_len` named in their documentation; for strided operands the
//! length is the smallest that holds every element read, and longer slices are accepted.

use crate::geometry::*;

/// Product of extents.
pub(crate) fn product(extents: &[u32]) -> Option<u64> {
    extents.iter().try_fold(1u64, |all, &extent| all.checked_mul(u64::from(extent)))
}

/// `count` rounded up to whole blocks.
pub(crate) fn padded(count: u32) -> u64 {
    u64::from(count).div_ceil(BLOCK as u64) * BLOCK as u64
}

/// Whether `groups`, more than none, have the same number of whole blocks of channels each.
pub(crate) fn in_whole_blocks(channels: u32, groups: u32) -> bool {
    channels.is_multiple_of(groups) && (channels / groups).is_multiple_of(BLOCK as u32)
}

/// One more than the largest offset reached, 0 when there is nothing to reach. `None` for malformed lists.
fn reach(parts: &[(&[u32], &[u32])]) -> Option<u64> {
    let mut last = 0u64;
    let mut empty = false;
    for (dims, strides) in parts {
        if dims.len() != strides.len() || dims.len() > MAX_DIMS {
            return None;
        }
        for (&dim, &stride) in dims.iter().zip(*strides) {
            match u64::from(dim).checked_sub(1) {
                None => empty = true,
                Some(steps) => last = last.checked_add(steps.checked_mul(u64::from(stride))?)?,
            }
        }
    }
    if empty { Some(0) } else { last.checked_add(1) }
}

impl Axis {
    /// An axis of extent 1 that changes nothing: what unused leading axes are filled with.
    pub const UNIT: Axis = Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0 };

    /// Whether window positions can be computed: no zero step, and every tap of every window of `windows` windows lies
    /// within 31 bits.
    fn positions_fit(&self, windows: u32) -> bool {
        let reach = |count: u32, step: u32| u64::from(count.saturating_sub(1)).checked_mul(u64::from(step));
        let last =
            reach(windows, self.stride).zip(reach(self.kernel, self.dilation)).and_then(|(a, b)| a.checked_add(b));
        let padded = u64::from(self.input) + u64::from(self.pad_begin) + u64::from(self.pad_end);
        self.kernel > 0
            && self.stride > 0
            && self.dilation > 0
            && last.is_some_and(|last| last <= i32::MAX as u64)
            && padded <= i32::MAX as u64
            && self.output <= i32::MAX as u32
    }

    /// Whether a window operation can run over this axis. Taps outside the input read as padding whatever the pads
    /// are, so any output extent is safe; [`Axis::windows`] tells which ones ONNX means.
    pub fn is_valid(&self) -> bool {
        self.positions_fit(self.output)
    }

    /// Whether a transposed convolution can run over this axis.
    pub fn is_valid_transposed(&self) -> bool {
        self.positions_fit(self.input)
    }

    /// Output extent by ONNX's formula, `None` when the window is larger than the padded input or a step is zero.
    pub fn windows(&self, ceil_mode: bool) -> Option<u32> {
        let window = u64::from(self.kernel.checked_sub(1)?) * u64::from(self.dilation) + 1;
        let padded = u64::from(self.input) + u64::from(self.pad_begin) + u64::from(self.pad_end);
        let room = padded.checked_sub(window)?;
        let stride = u64::from(self.stride);
        let steps = if ceil_mode {
            room.checked_add(stride)?.checked_sub(1)?.checked_div(stride)?
        } else {
            room.checked_div(stride)?
        };
        u32::try_from(steps + 1).ok()
    }
}

impl Conv2d {
    /// Whether every channel is convolved alone, with input blocked.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.ic && self.groups == self.oc
    }

    /// Whether this kernel can run the shape: valid axes and one of the three group forms.
    pub fn is_valid(&self) -> bool {
        let groups = match self.groups {
            0 => false,
            1 => true,
            _ if self.is_depthwise() => self.input == Layout::Blocked,
            groups => in_whole_blocks(self.ic, groups) && in_whole_blocks(self.oc, groups),
        };
        groups && self.ic > 0 && self.oc > 0 && self.y.is_valid() && self.x.is_valid()
    }

    /// `n * ic * h * w` plain, `n * ceil(ic / 16) * h * w * 16` blocked.
    pub fn input_len(&self) -> Option<u64> {
        let channels = match self.input {
            Layout::Plain => u64::from(self.ic),
            Layout::Blocked => padded(self.ic),
        };
        product(&[self.n, self.y.input, self.x.input])?.checked_mul(channels)
    }

    /// `ceil(oc / 16) * (ic / groups) * kh * kw * 16`.
    pub fn weight_len(&self) -> Option<u64> {
        product(&[self.ic.checked_div(self.groups)?, self.y.kernel, self.x.kernel])?.checked_mul(padded(self.oc))
    }

    /// `ceil(oc / 16) * 16`.
    pub fn bias_len(&self) -> Option<u64> {
        Some(padded(self.oc))
    }

    /// `n * ceil(oc / 16) * oh * ow * 16`; also the residual's length.
    pub fn output_len(&self) -> Option<u64> {
        product(&[self.n, self.y.output, self.x.output])?.checked_mul(padded(self.oc))
    }

    /// Multiply-accumulates, padding taps and padding lanes included.
    pub fn macs(&self) -> Option<u64> {
        self.weight_len()?.checked_mul(product(&[self.n, self.y.output, self.x.output])?)
    }
}

impl ConvNd {
    /// Whether this kernel can run the shape.
    pub fn is_valid(&self) -> bool {
        let axis = |axis: &Axis| if self.transposed { axis.is_valid_transposed() } else { axis.is_valid() };
        self.ic > 0
            && self.oc > 0
            && self.groups > 0
            && self.ic.is_multiple_of(self.groups)
            && self.oc.is_multiple_of(self.groups)
            && self.axes.iter().all(axis)
    }

    /// `n * ic * d * h * w`.
    pub fn input_len(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| axis.input);
        product(&[self.n, self.ic, d, h, w])
    }

    /// `oc * (ic / groups) * kd * kh * kw`; the transposed form holds as many.
    pub fn weight_len(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| axis.kernel);
        product(&[self.oc, self.ic.checked_div(self.groups)?, d, h, w])
    }

    /// `oc`.
    pub fn bias_len(&self) -> Option<u64> {
        Some(u64::from(self.oc))
    }

    /// `n * oc * od * oh * ow`.
    pub fn output_len(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| axis.output);
        product(&[self.n, self.oc, d, h, w])
    }

    /// Multiply-accumulates, padding taps included: every weight meets each position of the output, or of the input when
    /// transposed.
    pub fn macs(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| if self.transposed { axis.input } else { axis.output });
        self.weight_len()?.checked_mul(product(&[self.n, d, h, w])?)
    }
}

impl Pool {
    /// Whether this kernel can run the shape.
    pub fn is_valid(&self) -> bool {
        (self.lanes == 1 || self.lanes == BLOCK as u32) && self.axes.iter().all(Axis::is_valid)
    }

    /// `planes * d * h * w * lanes`.
    pub fn input_len(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| axis.input);
        product(&[self.planes, d, h, w, self.lanes])
    }

    /// `planes * od * oh * ow * lanes`.
    pub fn output_len(&self) -> Option<u64> {
        let [d, h, w] = self.axes.map(|axis| axis.output);
        product(&[self.planes, d, h, w, self.lanes])
    }

    /// Elements that all windows hold together, padding included.
    pub fn taps(&self) -> Option<u64> {
        self.output_len()?.checked_mul(product(&self.axes.map(|axis| axis.kernel))?)
    }
}

impl Dense {
    /// `m * k`.
    pub fn input_len(&self) -> Option<u64> {
        product(&[self.m, self.k])
    }

    /// `ceil(n / 16) * k * 16`.
    pub fn weight_len(&self) -> Option<u64> {
        padded(self.n).checked_mul(u64::from(self.k))
    }

    /// `ceil(n / 16) * 16`.
    pub fn bias_len(&self) -> Option<u64> {
        Some(padded(self.n))
    }

    /// `m * n`; also the residual's length.
    pub fn output_len(&self) -> Option<u64> {
        product(&[self.m, self.n])
    }

    /// Multiply-accumulates, padding lanes included.
    pub fn macs(&self) -> Option<u64> {
        self.weight_len()?.checked_mul(u64::from(self.m))
    }
}

impl MatMul {
    /// Smallest length of `a`.
    pub fn a_len(&self) -> Option<u64> {
        reach(&[(&self.batch.dims, &self.batch.a), (&[self.m, self.k], &self.a)])
    }

    /// Smallest length of `b`.
    pub fn b_len(&self) -> Option<u64> {
        reach(&[(&self.batch.dims, &self.batch.b), (&[self.k, self.n], &self.b)])
    }

    /// Product of the batch extents times `m * n`.
    pub fn output_len(&self) -> Option<u64> {
        self.batch.len()?.checked_mul(product(&[self.m, self.n])?)
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> Option<u64> {
        self.output_len()?.checked_mul(u64::from(self.k))
    }
}

impl Strided1 {
    /// Product of the extents.
    pub fn len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.a)])?;
        product(&self.dims)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Smallest length of the operand.
    pub fn a_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.a)])
    }

    /// Smallest length of the input of a reduction that keeps `self` and folds `reduced`.
    pub fn reduction_len(&self, reduced: &Strided1) -> Option<u64> {
        reach(&[(&self.dims, &self.a), (&reduced.dims, &reduced.a)])
    }
}

impl Strided2 {
    /// Product of the extents: the length of a contiguous output.
    pub fn len(&self) -> Option<u64> {
        self.a_len()?;
        self.b_len()?;
        product(&self.dims)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Smallest length of the first operand.
    pub fn a_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.a)])
    }

    /// Smallest length of the second operand.
    pub fn b_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.b)])
    }

    /// Whether the first operand lies like the output, so that the operation may run in place of it.
    pub fn a_is_contiguous(&self) -> bool {
        is_contiguous(&self.dims, &self.a)
    }

    /// Whether the second operand lies like the output.
    pub fn b_is_contiguous(&self) -> bool {
        is_contiguous(&self.dims, &self.b)
    }
}

impl Strided3 {
    /// Product of the extents: the length of a contiguous output.
    pub fn len(&self) -> Option<u64> {
        self.a_len()?;
        self.b_len()?;
        self.c_len()?;
        product(&self.dims)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Smallest length of the first operand.
    pub fn a_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.a)])
    }

    /// Smallest length of the second operand.
    pub fn b_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.b)])
    }

    /// Smallest length of the third operand.
    pub fn c_len(&self) -> Option<u64> {
        reach(&[(&self.dims, &self.c)])
    }
}

impl StridedCopy {
    /// Product of the extents: elements copied.
    pub fn len(&self) -> Option<u64> {
        (self.dims.len() == self.from_strides.len()
            && self.dims.len() == self.to_strides.len()
            && self.dims.len() <= MAX_DIMS)
            .then(|| product(&self.dims))?
    }

    /// Whether nothing is copied.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// Smallest length of the input; `None` also when an element before its first would be read.
    pub fn input_len(&self) -> Option<u64> {
        self.len()?;
        if self.is_empty() {
            return Some(0);
        }
        let (mut first, mut last) = (i64::from(self.from), i64::from(self.from));
        for (&dim, &stride) in self.dims.iter().zip(&self.from_strides) {
            let step = i64::from(dim).checked_sub(1)?.checked_mul(i64::from(stride))?;
            let end = if step < 0 { &mut first } else { &mut last };
            *end = end.checked_add(step)?;
        }
        if first < 0 { None } else { u64::try_from(last).ok()?.checked_add(1) }
    }

    /// Smallest length of the output.
    pub fn output_len(&self) -> Option<u64> {
        self.len()?;
        if self.is_empty() {
            return Some(0);
        }
        reach(&[(&self.dims, &self.to_strides)])?.checked_add(u64::from(self.to))
    }
}

impl Along {
    /// `outer * len * inner`.
    pub fn len(&self) -> Option<u64> {
        product(&[self.outer, self.len, self.inner])
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.outer == 0 || self.len == 0 || self.inner == 0
    }

    /// `outer * count * inner`: the length after the axis is replaced by one of extent `count`.
    pub fn resized_len(&self, count: u32) -> Option<u64> {
        product(&[self.outer, count, self.inner])
    }
}

impl Normalize {
    /// Whether this kernel can run the shape.
    pub fn is_valid(&self) -> bool {
        self.channels > 0 && self.inner > 0
    }

    /// `outer * len`; scale and bias have `channels` elements.
    pub fn len(&self) -> Option<u64> {
        product(&[self.outer, self.len])
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.outer == 0 || self.len == 0
    }
}

impl Lrn {
    /// `n * c * inner`.
    pub fn len(&self) -> Option<u64> {
        product(&[self.n, self.c, self.inner])
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.n == 0 || self.c == 0 || self.inner == 0
    }

    /// Terms of all sums together.
    pub fn terms(&self) -> Option<u64> {
        self.len()?.checked_mul(u64::from(self.size))
    }
}

impl BinaryOp {
    /// Whether the result is `bool` whatever the operands are.
    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    /// Whether operands and result are `bool`.
    pub fn is_logical(self) -> bool {
        use BinaryOp::*;
        matches!(self, And | Or | Xor)
    }

    /// Whether the result has the type of the `f32` operands.
    pub fn is_f32_arithmetic(self) -> bool {
        !self.is_comparison() && !self.is_logical()
    }

    /// Whether the result has the type of the `i64` operands.
    pub fn is_i64_arithmetic(self) -> bool {
        self.is_f32_arithmetic() && !matches!(self, BinaryOp::Pow | BinaryOp::PRelu)
    }
}

fn is_contiguous(dims: &[u32], strides: &[u32]) -> bool {
    let mut expected = 1u64;
    dims.len() == strides.len()
        && (dims.contains(&0)
            || dims.iter().zip(strides).rev().all(|(&dim, &stride)| {
                let fits = dim == 1 || u64::from(stride) == expected;
                expected = expected.saturating_mul(u64::from(dim));
                fits
            }))
}

#[cfg(test)]
mod tests;
