//! Depthwise convolution in the block layout: every channel for itself.
//!
//! A tap is one vector load and one multiply-add, so nothing else may cost much. Each row of the output is cut into register
//! tiles without any check; a tile that reaches into the padding reads a copy of its input, zeros included. Only what is too
//! large to be copied is computed pixel by pixel. Which of these computes a pixel depends on the geometry only.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
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
        let tiling = Tiling::new(width, S::HEIGHTS);
        let mut patch = [ZERO; PATCH];
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
            for tile in 0..tiling.len() {
                let (x, end) = (tiling.start(tile), tiling.start(tile + 1));
                match &line.whole(x, end - x, &mut patch) {
                    Some((line, at)) => {
                        let (at, finish) = (*at, &mut finish);
                        with_rows!(S, end - x, R => s.call(Whole::<R, K, STEP> { line, at, x, finish }));
                    }
                    None => {
                        for x in x..end {
                            let sums = line.one(s, Taps::new(&g.x, x));
                            finish.store(s, &[sums], x * 16);
                        }
                    }
                }
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

/// Cells of a copy of one tile's input: enough for a kernel of 5 by 5, steps of 2 and fourteen pixels.
const PATCH: usize = 155;

impl Line<'_> {
    /// What `count` pixels from `x` on read without any check, and the cell at which the first begins; `None` where that is
    /// too much for a copy.
    #[inline(always)]
    fn whole<'p>(&'p self, x: usize, count: usize, patch: &'p mut [Lanes; PATCH]) -> Option<(Line<'p>, usize)> {
        let axis = self.axis;
        let width = axis.input as usize;
        let span = (count - 1) * axis.stride as usize + (axis.kernel as usize - 1) * axis.dilation as usize + 1;
        let at = (x * axis.stride as usize) as isize - axis.pad_begin as isize;
        if at >= 0 && at as usize + span <= width {
            return Some((Line { ..*self }, at as usize));
        }
        let rows = self.weight.len() / axis.kernel as usize;
        let cells = patch.get_mut(..rows.checked_mul(span)?)?;
        let skip = at.min(0).unsigned_abs().min(span);
        for (row, to) in cells.chunks_exact_mut(span).enumerate() {
            let from = &self.cells[row * self.below..][..width];
            let from = from.get(at.max(0) as usize..).unwrap_or(&[]);
            let (before, to) = to.split_at_mut(skip);
            let (inside, after) = to.split_at_mut(from.len().min(span - skip));
            before.fill(ZERO);
            inside.copy_from_slice(&from[..inside.len()]);
            after.fill(ZERO);
        }
        Some((Line { cells, below: span, ..*self }, 0))
    }

    /// The sums of one pixel of which only `taps` lie inside.
    #[inline(always)]
    fn one<S: Simd>(&self, s: S, taps: Taps) -> S::V {
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

/// `R` pixels from `x` on, all taps of which lie in the line, the first at cell `at`.
struct Whole<'l, 'a, 'b, 'c, const R: usize, const K: usize, const STEP: usize> {
    line: &'c Line<'l>,
    at: usize,
    x: usize,
    finish: &'c mut Finish<'a, 'b>,
}

impl<const R: usize, const K: usize, const STEP: usize> Kernel for Whole<'_, '_, '_, '_, R, K, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Whole { line, mut at, x, finish } = self;
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
