//! Depthwise convolution in the block layout: every channel for itself.
//!
//! A tap is one vector load and one multiply-add, so nothing else may cost much. Each row of the output is cut into borders,
//! whose taps are looked at one by one, and an inner stretch of register tiles without any check. Which of the two computes
//! a pixel depends on the geometry only, and both take its taps in the same order.
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Axis, Conv2d};
use crate::pool::Taps;
use crate::tile::{Finish, Lanes, Residual, Tiling, ZERO, with_rows};
use crate::unary::Activation;
use core::ops::Range;

/// Some rows of the output of a depthwise convolution.
pub(crate) struct Depthwise<'a> {
    pub(crate) geometry: &'a Conv2d,
    /// All planes, `(n, block, h, w)`.
    pub(crate) input: &'a [Lanes],
    /// `(block, kh, kw)`.
    pub(crate) weight: &'a [Lanes],
    /// One for each block.
    pub(crate) bias: Option<&'a [Lanes]>,
    pub(crate) residual: Residual<'a>,
    pub(crate) act: Activation,
    /// Which rows, counted over all planes, `out` holds.
    pub(crate) rows: Range<usize>,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x = &self.geometry.x;
        match (x.kernel, x.stride, x.dilation) {
            (3, 1, 1) => self.rows::<S, 3, 1>(s),
            (3, 2, 1) => self.rows::<S, 3, 2>(s),
            (5, 1, 1) => self.rows::<S, 5, 1>(s),
            (5, 2, 1) => self.rows::<S, 5, 2>(s),
            (1, 1, 1) => self.rows::<S, 1, 1>(s),
            _ => self.rows::<S, 0, 0>(s),
        }
    }
}

/// Elements after which the activation that a tile cannot apply runs over what is finished.
const HOT: usize = 4096;

impl Depthwise<'_> {
    /// `K` and `STEP` are kernel and stride of the columns, undilated; 0 where they are not constant.
    #[inline(always)]
    fn rows<S: Simd, const K: usize, const STEP: usize>(self, s: S) {
        let g = self.geometry;
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        let (height, width) = (g.y.output as usize, g.x.output as usize);
        let (kw, taps) = (g.x.kernel as usize, g.y.kernel as usize * g.x.kernel as usize);
        let blocks = (g.oc as usize).div_ceil(16);
        let inner = inner(&g.x);
        let tiling = Tiling::new(inner.len(), S::HEIGHTS);
        let hot = (HOT / (width * 16).max(1)).max(1);
        let mut unfinished = 0;
        for (index, row) in self.rows.clone().enumerate() {
            let (plane, y) = (row / height, row % height);
            let vertical = Taps::new(&g.y, y);
            let line = Line {
                cells: self.input[plane * h * w..][..h * w].get(vertical.first * w..).unwrap_or(&[]),
                weight: &self.weight[plane % blocks * taps + vertical.skipped * kw..][..vertical.inside * kw],
                bias: self.bias.map_or(&ZERO, |bias| &bias[plane % blocks]),
                below: g.y.dilation as usize * w,
                axis: &g.x,
            };
            let to = index * width * 16..(index + 1) * width * 16;
            let residual = self.residual.part(to.clone());
            let mut finish = Finish { residual, act: &self.act, to: &mut self.out[to.clone()] };
            for x in (0..inner.start).chain(inner.end..width) {
                let sums = line.border(s, Taps::new(&g.x, x));
                finish.store(s, &[sums], x * 16);
            }
            for tile in 0..tiling.len() {
                let (x, end) = (inner.start + tiling.start(tile), inner.start + tiling.start(tile + 1));
                let at = x * g.x.stride as usize - g.x.pad_begin as usize;
                let (line, finish) = (&line, &mut finish);
                with_rows!(S, end - x, R => s.call(Inner::<R, K, STEP> { line, at, x, finish }));
            }
            if (index + 1) % hot == 0 || row + 1 == self.rows.end {
                self.act.finish(s, &mut self.out[unfinished..to.end]);
                unfinished = to.end;
            }
        }
    }
}

/// The same convolution, with the whole plane as one row where there is but one tap: a factor and a term per channel.
pub(crate) fn flat(g: &Conv2d) -> Conv2d {
    let plain = |axis: &Axis| {
        (axis.kernel, axis.stride, axis.pad_begin, axis.pad_end) == (1, 1, 0, 0) && axis.input == axis.output
    };
    let mut flat = *g;
    if let (true, true, Some(cells)) = (plain(&g.y), plain(&g.x), g.y.input.checked_mul(g.x.input)) {
        let one = Axis { input: 1, output: 1, dilation: 1, ..g.y };
        (flat.y, flat.x) = (one, Axis { input: cells, output: cells, dilation: 1, ..g.x });
    }
    flat
}

/// Windows that lie inside the input.
#[inline(always)]
fn inner(axis: &Axis) -> Range<usize> {
    let span = (axis.kernel as usize - 1) * axis.dilation as usize;
    let (pad, stride) = (axis.pad_begin as usize, axis.stride as usize);
    let start = pad.div_ceil(stride).min(axis.output as usize);
    // The last window that begins at or before `input - 1 - span`.
    let end = (axis.input as usize + pad).checked_sub(1 + span).map_or(0, |last| last / stride + 1);
    start..end.clamp(start, axis.output as usize)
}

/// What the pixels of one output row read.
struct Line<'a> {
    /// The plane from the first row inside the window on.
    cells: &'a [Lanes],
    /// Of the kernel rows inside.
    weight: &'a [Lanes],
    bias: &'a Lanes,
    /// Cells from one kernel row to the next.
    below: usize,
    axis: &'a Axis,
}

impl Line<'_> {
    /// The sums of one pixel of which only `taps` lie inside.
    #[inline(always)]
    fn border<S: Simd>(&self, s: S, taps: Taps) -> S::V {
        let mut acc = s.load(self.bias);
        let mut at = taps.first;
        for weight in self.weight.chunks_exact(self.axis.kernel as usize) {
            let weight = &weight[taps.skipped..taps.skipped + taps.inside];
            let cells = self.cells.get(at..).unwrap_or(&[]).iter().step_by(self.axis.dilation as usize);
            for (cell, weight) in cells.zip(weight) {
                acc = s.mul_add(s.load(cell), s.load(weight), acc);
            }
            at += self.below;
        }
        acc
    }
}

/// `R` pixels from `x` on, all taps of which lie inside, the first at cell `at` of a row.
struct Inner<'a, 'b, 'c, const R: usize, const K: usize, const STEP: usize> {
    line: &'c Line<'a>,
    at: usize,
    x: usize,
    finish: &'c mut Finish<'a, 'b>,
}

impl<const R: usize, const K: usize, const STEP: usize> Kernel for Inner<'_, '_, '_, R, K, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Inner { line, mut at, x, finish } = self;
        let constant = K > 0;
        let (kw, step, dilation) = match constant {
            true => (K, STEP, 1),
            false => (line.axis.kernel as usize, line.axis.stride as usize, line.axis.dilation as usize),
        };
        let span = (R - 1) * step + (kw - 1) * dilation + 1;
        let mut acc = [s.load(line.bias); R];
        for weight in line.weight.chunks_exact(kw) {
            let cells = &line.cells[at..at + span];
            for kx in 0..kw {
                let w = s.load(&weight[kx]);
                for r in 0..R {
                    acc[r] = s.mul_add(s.load(&cells[r * step + kx * dilation]), w, acc[r]);
                }
            }
            at += line.below;
        }
        finish.store(s, &acc, x * 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_windows_are_those_with_every_tap_inside() {
        for kernel in 1..6 {
            for (stride, dilation) in [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3)] {
                for input in 1..14 {
                    for pads in [[0, 0], [1, 1], [2, 1], [0, 3], [4, 4]] {
                        let mut axis =
                            Axis { input, output: 0, kernel, stride, dilation, pad_begin: pads[0], pad_end: pads[1] };
                        let Some(output) = axis.windows(false) else { continue };
                        axis.output = output;
                        let inside = |x: usize| Taps::new(&axis, x).inside == kernel as usize;
                        let found = inner(&axis);
                        assert!((0..output as usize).all(|x| found.contains(&x) == inside(x)), "{axis:?}: {found:?}");
                    }
                }
            }
        }
    }
}
