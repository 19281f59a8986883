//! Where a tile's pixels find their input.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::Operands;
use crate::geometry::Conv2d;
use crate::pool::Taps;
use core::ops::Range;

/// How the input of a tile's pixels is found: this, or the step between pixels of one row. All read the same values; a
/// constant step lets the compiler address all pixels from one pointer, where fourteen would not fit into registers.
pub(super) mod reach {
    /// Pixels of several rows, or a step that has no code of its own: each tap of each is checked.
    pub(crate) const ANY: usize = 0;
}

/// Where in the input plane a tile lies.
pub(super) struct Place {
    /// Output position of the first pixel.
    pub(super) oy: usize,
    pub(super) ox: usize,
    /// Input position of the first tap of the first pixel.
    pub(super) y: isize,
    pub(super) x: isize,
    /// See [`reach`].
    pub(super) reach: usize,
    /// Kernel rows that touch the input for some pixel.
    pub(super) rows: Range<usize>,
    /// Input columns between the first and the last pixel.
    pub(super) span: usize,
}

impl Place {
    #[inline(always)]
    pub(super) fn new(o: &Operands<'_>, first: usize, count: usize) -> Place {
        if o.pointwise {
            return Place { oy: 0, ox: 0, y: 0, x: first as isize, reach: 1, rows: 0..1, span: count - 1 };
        }
        let g = o.g;
        let width = g.x.output as usize;
        let (oy, ox) = (first / width, first % width);
        // Most tiles lie in one row.
        let last = if ox + count <= width { oy } else { oy + (ox + count - 1) / width };
        // The window moves down with the pixel: the lowest begins first inside, the topmost ends last.
        let (top, bottom) = (Taps::new(&g.y, oy), Taps::new(&g.y, last));
        let step = g.x.stride as usize;
        Place {
            oy,
            ox,
            y: (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize,
            x: (ox * step) as isize - g.x.pad_begin as isize,
            reach: if oy == last { step } else { reach::ANY },
            rows: bottom.skipped..top.skipped + top.inside,
            span: (count - 1) * step,
        }
    }

    /// First column of tap `kx` of the first pixel when those of all pixels are in the input.
    #[inline(always)]
    pub(super) fn inside(&self, o: &Operands<'_>, kx: usize) -> Option<usize> {
        let x = self.x.wrapping_add_unsigned(kx * o.g.x.dilation as usize) as usize;
        (x < o.w && x + self.span < o.w).then_some(x)
    }

    /// Input row of kernel row `ky` for the pixels of one row, which is one of `rows`.
    #[inline(always)]
    pub(super) fn row(&self, o: &Operands<'_>, ky: usize) -> usize {
        self.y.wrapping_add_unsigned(ky * o.g.y.dilation as usize) as usize
    }

    /// Input position of the first tap of each pixel.
    #[inline(always)]
    pub(super) fn pixels<const R: usize>(&self, g: &Conv2d) -> [(isize, isize); R] {
        let (mut oy, mut ox) = (self.oy, self.ox);
        let mut pixels = [(0, 0); R];
        for r in 0..R {
            let y = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
            let x = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
            pixels[r] = (y, x);
            ox += 1;
            if ox == g.x.output as usize {
                (oy, ox) = (oy + 1, 0);
            }
        }
        pixels
    }

    /// Tap `(ky, kx)` of each pixel in an `(h, w)` plane, `zero` where it is padding. `pixels` are read only where the
    /// pixels are not of one row.
    ///
    /// Loops, not `array::from_fn`: that may stay a call, around which every accumulator goes through memory.
    #[inline(always)]
    pub(super) fn taps<'p, T, const R: usize, const REACH: usize>(
        &self,
        o: &Operands<'_>,
        pixels: &[(isize, isize); R],
        plane: &'p [T],
        zero: &'p T,
        [ky, kx]: [usize; 2],
    ) -> [&'p T; R] {
        let (dy, dx) = (ky * o.g.y.dilation as usize, kx * o.g.x.dilation as usize);
        let mut taps = [zero; R];
        if REACH == reach::ANY {
            for r in 0..R {
                let (y, x) = (pixels[r].0.wrapping_add_unsigned(dy), pixels[r].1.wrapping_add_unsigned(dx));
                let (y, x) = (y as usize, x as usize);
                let at = if y < o.h && x < o.w { y * o.w + x } else { usize::MAX };
                taps[r] = plane.get(at).unwrap_or(zero);
            }
        } else {
            let row = &plane[self.row(o, ky) * o.w..][..o.w];
            let x = self.x.wrapping_add_unsigned(dx);
            for r in 0..R {
                taps[r] = row.get(x.wrapping_add_unsigned(r * REACH) as usize).unwrap_or(zero);
            }
        }
        taps
    }
}

/// `R` cells `STEP` apart, all from one pointer.
#[inline(always)]
pub(crate) fn spaced<T, const R: usize, const STEP: usize>(cells: &[T]) -> [&T; R] {
    let cells = &cells[..(R - 1) * STEP + 1];
    let mut taps = [&cells[0]; R];
    for r in 0..R {
        taps[r] = &cells[r * STEP];
    }
    taps
}

/// Elements of a copy of the plain input of one tile that reaches into the padding: enough for three channels, a kernel
/// of 11 by 11 and steps of 4.
pub(crate) const PATCH: usize = 2304;

/// Where a tile finds plain channels: in the input or, padding included, in a copy.
pub(super) struct Window<'a> {
    pub(super) cells: &'a [f32],
    /// Elements from one channel to the next.
    pub(super) plane: usize,
    /// Elements from one kernel row to the next.
    pub(super) row: usize,
}

impl<'a> Window<'a> {
    /// `None` where the pixels are not of one row, or a copy has no room.
    #[inline(always)]
    pub(super) fn new(o: &Operands<'a>, place: &Place, patch: &'a mut [f32; PATCH]) -> Option<Self> {
        let (kw, rows) = (o.g.x.kernel as usize, place.rows.len());
        let span = place.span + (kw - 1) * o.g.x.dilation as usize + 1;
        if place.reach == reach::ANY || rows == 0 {
            return None;
        }
        let (first, step) = (place.row(o, place.rows.start), o.g.y.dilation as usize);
        if let (Some(x), Some(_)) = (place.inside(o, 0), place.inside(o, kw - 1)) {
            return Some(Window { cells: &o.input[first * o.w + x..], plane: o.h * o.w, row: step * o.w });
        }
        let cells = patch.get_mut(..o.ic * rows * span)?;
        let skip = place.x.min(0).unsigned_abs().min(span);
        for (index, to) in cells.chunks_exact_mut(span).enumerate() {
            let (channel, row) = (index / rows, first + index % rows * step);
            let from = &o.input[(channel * o.h + row) * o.w..][..o.w];
            let from = from.get(place.x.max(0) as usize..).unwrap_or(&[]);
            let (before, to) = to.split_at_mut(skip);
            let (inside, after) = to.split_at_mut(from.len().min(span - skip));
            before.fill(0.0);
            inside.copy_from_slice(&from[..inside.len()]);
            after.fill(0.0);
        }
        Some(Window { cells, plane: rows * span, row: span })
    }
}
