//! Where a tile of a convolution finds its input.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::QConv2d;
use crate::geometry::Axis;

/// The input channels that some output planes read.
pub(super) struct Input<'a, T> {
    pub(super) g: &'a QConv2d,
    /// `(blocks, h, w)`.
    pub(super) cells: &'a [T],
    /// Blocks of channels.
    pub(super) blocks: usize,
    /// What a tap outside reads.
    pub(super) pad: T,
}

/// Cells from which the taps of all pixels of a tile lie at constant distances: fourteen pointers would not fit into
/// registers.
pub(super) struct Window<'a, T> {
    /// From the first tap of the first pixel on.
    pub(super) cells: &'a [T],
    /// From one block of channels to the next.
    pub(super) block: usize,
    /// From one kernel row to the next.
    pub(super) row: usize,
}

/// Cells of a copy of one tile's input: 24 KiB, enough for 512 channels and a kernel of 3 by 3 in steps of 2.
pub(super) const PATCH: usize = 1536;

/// Whether output pixels lie exactly like input pixels and there is one tap.
pub(super) fn is_pointwise(g: &QConv2d) -> bool {
    let alike = |a: &Axis| a.kernel == 1 && a.stride == 1 && a.pad_begin == 0 && a.output == a.input;
    alike(&g.y) && alike(&g.x)
}

impl<'a, T: Copy> Window<'a, T> {
    /// What the pixels from `first` on read: in the input or, where padding is among it, in a copy. `None` where they are
    /// not of one row, or the copy has no room.
    #[inline(always)]
    pub(super) fn new(from: &Input<'a, T>, first: usize, count: usize, patch: &'a mut [T]) -> Option<Self> {
        let Input { g, cells: input, blocks, pad } = *from;
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        if is_pointwise(g) {
            return Some(Window { cells: &input[first..], block: h * w, row: 0 });
        }
        let width = g.x.output as usize;
        let (oy, ox) = (first / width, first % width);
        if ox + count > width {
            return None;
        }
        let begin = |axis: &Axis, at: usize| (at * axis.stride as usize) as isize - axis.pad_begin as isize;
        let reach = |axis: &Axis| (axis.kernel as usize - 1) * axis.dilation as usize + 1;
        let ((y, x), step) = ((begin(&g.y, oy), begin(&g.x, ox)), g.y.dilation as usize);
        let span = (count - 1) * g.x.stride as usize + reach(&g.x);
        let inside = |at: isize, len: usize, of: usize| at >= 0 && at as usize + len <= of;
        if inside(y, reach(&g.y), h) && inside(x, span, w) {
            return Some(Window { cells: &input[y as usize * w + x as usize..], block: h * w, row: step * w });
        }
        let rows = g.y.kernel as usize;
        let block = rows.checked_mul(span)?;
        let cells = patch.get_mut(..block.checked_mul(blocks)?)?;
        let skip = x.min(0).unsigned_abs().min(span);
        for (plane, to) in input.chunks_exact(h * w).zip(cells.chunks_exact_mut(block)) {
            for (ky, to) in to.chunks_exact_mut(span).enumerate() {
                let row = y.wrapping_add_unsigned(ky * step) as usize;
                let from = if row < h { &plane[row * w..][..w] } else { &[] };
                let from = from.get(x.max(0) as usize..).unwrap_or(&[]);
                let (before, to) = to.split_at_mut(skip);
                let (inside, after) = to.split_at_mut(from.len().min(span - skip));
                before.fill(pad);
                inside.copy_from_slice(&from[..inside.len()]);
                after.fill(pad);
            }
        }
        Some(Window { cells, block, row: span })
    }
}

/// Pixels that are found one by one.
pub(super) struct Scattered<const R: usize> {
    /// Input position of the first tap of each.
    y: [isize; R],
    x: [isize; R],
}

impl<const R: usize> Scattered<R> {
    #[inline(always)]
    pub(super) fn new(g: &QConv2d, first: usize) -> Self {
        let width = g.x.output as usize;
        let (mut oy, mut ox) = (first / width, first % width);
        let (mut y, mut x) = ([0; R], [0; R]);
        for r in 0..R {
            y[r] = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
            x[r] = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
            ox += 1;
            if ox == width {
                (oy, ox) = (oy + 1, 0);
            }
        }
        Scattered { y, x }
    }

    /// Tap `(ky, kx)` of each pixel in one plane.
    #[inline(always)]
    pub(super) fn taps<'p, T>(&self, g: &QConv2d, plane: &'p [T], pad: &'p T, [ky, kx]: [usize; 2]) -> [&'p T; R] {
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        let (dy, dx) = (ky * g.y.dilation as usize, kx * g.x.dilation as usize);
        let mut taps = [pad; R];
        for r in 0..R {
            let (y, x) = (self.y[r].wrapping_add_unsigned(dy) as usize, self.x[r].wrapping_add_unsigned(dx) as usize);
            let at = if y < h && x < w { y * w + x } else { usize::MAX };
            taps[r] = plane.get(at).unwrap_or(pad);
        }
        taps
    }
}
