//! How the output of a convolution is cut: among threads, and into register tiles. Shared by the kernels over `f32` and over
//! bytes.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::parallel::{Compute, MOST_PLANES};
use crate::tile::{Heights, Tiling};
use core::ops::Range;

/// Where results go.
pub(crate) enum Out<'a, 'b, T> {
    /// Planes one after the other: several whole ones, or a part of one.
    Whole(&'a mut [T]),
    /// The same pixels of each plane.
    Parts(&'a mut [&'b mut [T]]),
}

impl<T> Out<'_, '_, T> {
    /// Elements `at` of plane `first` and, of two, the next. `size` is what there is of each.
    #[inline(always)]
    pub(crate) fn tile(&mut self, first: usize, count: usize, size: usize, at: Range<usize>) -> [&mut [T]; 2] {
        match self {
            Out::Whole(out) => {
                let (one, two) = out[first * size..(first + count) * size].split_at_mut(size);
                [&mut one[at.clone()], two.get_mut(at).unwrap_or_default()]
            }
            Out::Parts(planes) => {
                let (one, two) = planes[first..first + count].split_at_mut(1);
                [&mut one[0][at.clone()], two.first_mut().map(|plane| &mut plane[at]).unwrap_or_default()]
            }
        }
    }
}

/// One thread's share of a convolution.
pub(crate) struct Share<'a, 'b, T> {
    /// Which `(n, block)` planes `out` holds, and which pixels of each: whole items.
    pub(crate) planes: Range<usize>,
    pub(crate) pixels: Range<usize>,
    pub(crate) out: Out<'a, 'b, T>,
}

impl Compute {
    /// Shares out planes of `plane` elements, sixteen a pixel. Items of `item` elements are not parted, and tiles span
    /// `together` planes.
    ///
    /// Whole planes, as many as tiles span for each thread; or some pixels of all planes; or, of many planes or one, ranges
    /// that end within a plane.
    pub(crate) fn share<T: Send>(
        &self,
        out: &mut [T],
        (plane, item): (usize, usize),
        together: usize,
        cost: u64,
        part: impl Fn(Share<'_, '_, T>) + Sync,
    ) {
        let (planes, ranges) = (out.len() / plane.max(1), self.ranges(cost));
        let items = plane / item.max(1);
        let tiles_part = !planes.is_multiple_of(ranges * together);
        if tiles_part && (2..=MOST_PLANES).contains(&planes) && (items >= 8 * ranges || items.is_multiple_of(ranges)) {
            return self.split_planes(out, plane, item, cost, |items, out| {
                let pixels = items.start * item / 16..items.end * item / 16;
                part(Share { planes: 0..planes, pixels, out: Out::Parts(out) });
            });
        }
        let unit = if planes.is_multiple_of(ranges) || planes > ranges * 32 { plane } else { item };
        self.split(out, unit, cost, |units, out| {
            let (mut at, mut rest) = (units.start * unit, out);
            while !rest.is_empty() {
                let (first, skipped) = (at / plane, at % plane);
                // All whole planes, or to the end of the first.
                let whole = if skipped == 0 { rest.len() / plane } else { 0 };
                let len = if whole > 0 { whole * plane } else { (plane - skipped).min(rest.len()) };
                let (out, others) = core::mem::take(&mut rest).split_at_mut(len);
                let (planes, pixels) = match whole {
                    0 => (first..first + 1, skipped / 16..(skipped + len) / 16),
                    _ => (first..first + whole, 0..plane / 16),
                };
                part(Share { planes, pixels, out: Out::Whole(out) });
                (at, rest) = (at + len, others);
            }
        });
    }
}

/// Pixels of a tile from which on it keeps the arithmetic units of every kernel set busy.
const ROW: usize = 4;

/// How pixels of a plane are cut into tiles.
///
/// Rows wide enough are cut one by one: the pixels of a tile of one row find their input with one pointer. The pixels of
/// narrow rows run on into each other, and so do those of pointwise convolutions.
pub(crate) struct Cuts {
    /// The first pixel.
    origin: usize,
    tiling: Tiling,
    /// Pixels of one cut row, and how many there are.
    width: usize,
    rows: usize,
}

impl Cuts {
    /// `width` is that of the image.
    #[inline(always)]
    pub(crate) fn new(heights: Heights, width: u32, pointwise: bool, pixels: Range<usize>) -> Self {
        let width = (width as usize).max(1);
        let shortest = width / width.div_ceil(heights.most()).max(1);
        let by_row = shortest >= ROW && !pointwise;
        let (width, rows) = if by_row { (width, pixels.len() / width) } else { (pixels.len(), 1) };
        Cuts { origin: pixels.start, tiling: Tiling::new(width, heights), width, rows }
    }

    /// How many tiles.
    pub(crate) fn len(&self) -> usize {
        self.tiling.len() * self.rows
    }

    /// First pixel of tile `index`, or the end of the last.
    #[inline(always)]
    pub(crate) fn start(&self, index: usize) -> usize {
        if self.rows == 1 {
            return self.origin + self.tiling.start(index);
        }
        let row = index / self.tiling.len();
        self.origin + row * self.width + self.tiling.start(index % self.tiling.len())
    }
}

/// Input bytes of one strip of pixels, which is computed for all output channels in turn: it stays in the second-level cache
/// meanwhile.
const STRIP: usize = 128 * 1024;

/// Tiles of a strip, `pixel` being the input bytes of one pixel.
pub(crate) fn strip(heights: Heights, pixel: usize) -> usize {
    (STRIP / pixel.max(1) / heights.most()).max(64)
}
