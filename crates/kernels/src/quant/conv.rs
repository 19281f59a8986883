//! Two-dimensional convolution of bytes: direct, without a patch matrix or any other memory.
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::tile::{self, Cell, Finish, Panel, accumulate};
use super::{QConv2d, Residual, Target};
use crate::arch::{Dot, DotKernel};
use crate::conv_tile;
use crate::parallel::Compute;
use crate::pool::Taps;
use crate::tile::{Tiling, with_rows};
use core::ops::Range;

/// `input` holds [`QConv2d::input_len`] bytes, `weight` [`QConv2d::weight_len`], `bias` and `scale`
/// [`QConv2d::channels_len`] elements, `out` and the residual [`QConv2d::output_len`] bytes. Padding reads `pad`; `bias`
/// counts modulo 2^32. Lanes past `ic` are multiplied by weights of zero.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn conv2d(
    compute: Compute,
    geometry: &QConv2d,
    pad: u8,
    input: &[u8],
    weight: &[u8],
    bias: &[i64],
    scale: &[f32],
    to: Target,
    residual: Residual<'_>,
    out: &mut [u8],
) {
    let g = geometry;
    assert!(g.is_valid(), "validated: a convolution this kernel can run");
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: conv's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: conv's weight length");
    assert_eq!(Some(bias.len() as u64), g.channels_len(), "validated: conv's bias length");
    assert_eq!(Some(scale.len() as u64), g.channels_len(), "validated: conv's scale length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: conv's output length");
    let plane = g.y.output as usize * g.x.output as usize * 16;
    if plane == 0 {
        return;
    }
    compute.split(out, plane, g.macs().unwrap_or(u64::MAX), |planes, out| {
        let finish = Finish::new(to, residual.part(planes.start * plane..planes.end * plane));
        compute.set.dispatch_integer(Conv { g, pad, input, weight, bias, scale, finish, planes, out });
    });
}

struct Conv<'a> {
    g: &'a QConv2d,
    pad: u8,
    input: &'a [u8],
    weight: &'a [u8],
    bias: &'a [i64],
    scale: &'a [f32],
    finish: Finish<'a>,
    /// Which `(n, block)` planes `out` holds.
    planes: Range<usize>,
    out: &'a mut [u8],
}

/// Input bytes of one strip: it stays in the second-level cache while all output channels pass.
const STRIP: usize = 128 * 1024;

impl DotKernel for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(mut self, d: D) {
        match (self.g.is_depthwise(), self.g.lanes) {
            (true, _) => self.depthwise(d),
            (false, 4) => self.dense::<D, 1>(d),
            (false, _) => self.dense::<D, 4>(d),
        }
    }
}

impl Conv<'_> {
    #[inline(always)]
    fn dense<D: Dot, const G: usize>(&mut self, d: D) {
        let g = self.g;
        let blocks = (g.oc as usize).div_ceil(16);
        let pixels = g.y.output as usize * g.x.output as usize;
        let tiling = Tiling::new(pixels, D::HEIGHTS);
        let channels = (g.ic / g.groups) as usize;
        let strip = (STRIP / channels / D::ROWS).max(64);
        for first in (0..tiling.len()).step_by(strip) {
            let strip = first..(first + strip).min(tiling.len());
            let mut plane = self.planes.start;
            while plane < self.planes.end {
                let (image, block) = (plane / blocks, plane % blocks);
                let together = conv_tile::together(g.oc, g.groups, block, D::BLOCKS.min(self.planes.end - plane));
                let at = (plane - self.planes.start) * pixels * 16;
                let plane_of = Planes::<G>::new(self, image, block);
                for tile in strip.clone() {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    let to = To { out: self.out, at, pixels, finish: &self.finish };
                    match together {
                        1 => run::<D, 1, G>(d, &plane_of, start, end - start, to),
                        2 if const { D::BLOCKS >= 2 } => run::<D, 2, G>(d, &plane_of, start, end - start, to),
                        _ => unreachable!("a tile has between 1 and BLOCKS planes"),
                    }
                }
                plane += together;
            }
        }
    }

    #[inline(always)]
    fn depthwise<D: Dot>(&mut self, d: D) {
        let g = self.g;
        let blocks = (g.oc as usize).div_ceil(16);
        let pixels = g.y.output as usize * g.x.output as usize;
        let tiling = Tiling::new(pixels, D::HEIGHTS);
        for plane in self.planes.clone() {
            let (image, block) = (plane / blocks, plane % blocks);
            let at = (plane - self.planes.start) * pixels * 16;
            let plane_of = Planes::<4>::new(self, image, block);
            for tile in 0..tiling.len() {
                let (first, end) = (tiling.start(tile), tiling.start(tile + 1));
                let to = To { out: self.out, at, pixels, finish: &self.finish };
                let (place, reach) = Place::new(g, first, end - first);
                let (o, place) = (&plane_of, &place);
                match reach {
                    Reach::Dense => {
                        with_rows!(D, end - first, R => d.call(Depthwise::<R, DENSE> { o, place, first, to }))
                    }
                    Reach::Spaced => {
                        with_rows!(D, end - first, R => d.call(Depthwise::<R, SPACED> { o, place, first, to }))
                    }
                    Reach::Checked => {
                        with_rows!(D, end - first, R => d.call(Depthwise::<R, CHECKED> { o, place, first, to }))
                    }
                }
            }
        }
    }
}

/// What the tiles of one or more output planes read.
struct Planes<'a, const G: usize> {
    g: &'a QConv2d,
    /// Input channels of the group, `(blocks, h, w)` cells.
    input: &'a [Cell<G>],
    /// From the first plane's block on.
    weight: &'a [u8],
    bias: &'a [i64],
    scale: &'a [f32],
    pad: Cell<G>,
    /// Cells of one block of input channels.
    area: usize,
    /// Blocks of input channels.
    blocks: usize,
}

impl<'a, const G: usize> Planes<'a, G> {
    #[inline(always)]
    fn new(conv: &Conv<'a>, image: usize, block: usize) -> Self {
        let g = conv.g;
        let lanes = 4 * G;
        let area = g.y.input as usize * g.x.input as usize;
        let of_group = (g.ic / g.groups) as usize;
        let all = (g.ic as usize).div_ceil(lanes);
        let (first, blocks) = if g.is_depthwise() {
            (block, 1)
        } else {
            (block * 16 / (g.oc / g.groups) as usize * of_group / lanes, of_group.div_ceil(lanes))
        };
        let cells: &[Cell<G>] = conv.input.as_chunks::<4>().0.as_chunks::<G>().0;
        let per_block = conv.weight.len() / (g.oc as usize).div_ceil(16);
        Planes {
            g,
            input: &cells[(image * all + first) * area..][..blocks * area],
            weight: &conv.weight[block * per_block..],
            bias: &conv.bias[block * 16..],
            scale: &conv.scale[block * 16..],
            pad: [[conv.pad; 4]; G],
            area,
            blocks,
        }
    }
}

/// Where a tile's bytes go: planes of `pixels`, the first at `at`.
struct To<'a, 'b> {
    out: &'b mut [u8],
    at: usize,
    pixels: usize,
    finish: &'b Finish<'a>,
}

/// How the input of a tile's pixels is found. All three read the same bytes; they differ in what is computed per tap.
enum Reach {
    /// Pixels side by side in the input, no tap in the padding.
    Dense,
    /// Pixels evenly spaced in the input, no tap in the padding.
    Spaced,
    /// Any pixels; each tap is checked.
    Checked,
}

const DENSE: usize = 0;
const SPACED: usize = 1;
const CHECKED: usize = 2;

#[inline(always)]
fn run<D: Dot, const B: usize, const G: usize>(d: D, o: &Planes<'_, G>, first: usize, count: usize, to: To<'_, '_>) {
    let (place, reach) = Place::new(o.g, first, count);
    let place = &place;
    match reach {
        Reach::Dense => with_rows!(D, count, R => d.call(Tile::<R, B, G, DENSE> { o, place, first, to })),
        Reach::Spaced => with_rows!(D, count, R => d.call(Tile::<R, B, G, SPACED> { o, place, first, to })),
        Reach::Checked => with_rows!(D, count, R => d.call(Tile::<R, B, G, CHECKED> { o, place, first, to })),
    }
}

/// Where in the input plane a tile lies.
struct Place {
    /// Output position of the first pixel.
    oy: usize,
    ox: usize,
    /// Index of the first tap of the first pixel; may be before the plane where `rows` begins later.
    base: isize,
    /// Kernel rows that are computed; outside them every tap of every pixel is padding.
    rows: Range<usize>,
}

impl Place {
    #[inline(always)]
    fn new(g: &QConv2d, first: usize, count: usize) -> (Place, Reach) {
        let pointwise =
            |a: &crate::geometry::Axis| a.kernel == 1 && a.stride == 1 && a.pad_begin == 0 && a.output == a.input;
        if pointwise(&g.y) && pointwise(&g.x) {
            return (Place { oy: 0, ox: 0, base: first as isize, rows: 0..1 }, Reach::Dense);
        }
        let width = g.x.output as usize;
        let (oy, ox) = (first / width, first % width);
        let last = oy + (ox + count - 1) / width;
        let top = Taps::new(&g.y, oy);
        let y = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
        let x = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
        let span = (count - 1) * g.x.stride as usize + (g.x.kernel as usize - 1) * g.x.dilation as usize;
        // Padding counts: it reads a byte that stands for zero and need not be 0. So rows outside are computed as well,
        // and a tile that has any is checked tap by tap.
        let whole = top.inside == g.y.kernel as usize;
        let inside = whole && oy == last && x >= 0 && x as usize + span < g.x.input as usize;
        let reach = match (inside, g.x.stride) {
            (true, 1) => Reach::Dense,
            (true, _) => Reach::Spaced,
            (false, _) => Reach::Checked,
        };
        (Place { oy, ox, base: y * g.x.input as isize + x, rows: 0..g.y.kernel as usize }, reach)
    }

    /// Input position of the first tap of each pixel.
    #[inline(always)]
    fn pixels<const R: usize>(&self, g: &QConv2d) -> ([isize; R], [isize; R]) {
        let (mut y, mut x) = ([0; R], [0; R]);
        let (mut oy, mut ox) = (self.oy, self.ox);
        for r in 0..R {
            y[r] = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
            x[r] = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
            ox += 1;
            if ox == g.x.output as usize {
                (oy, ox) = (oy + 1, 0);
            }
        }
        (y, x)
    }
}

/// Finds the taps of `R` pixels.
struct Finder<'a, const R: usize, const REACH: usize> {
    g: &'a QConv2d,
    base: isize,
    /// Only for [`CHECKED`].
    pixels: ([isize; R], [isize; R]),
}

impl<'a, const R: usize, const REACH: usize> Finder<'a, R, REACH> {
    #[inline(always)]
    fn new(g: &'a QConv2d, place: &Place) -> Self {
        let pixels = if REACH == CHECKED { place.pixels(g) } else { ([0; R], [0; R]) };
        Finder { g, base: place.base, pixels }
    }

    /// Tap `(ky, kx)` of each pixel in an `(h, w)` plane, `pad` outside it.
    #[inline(always)]
    fn taps<'p, T>(&self, plane: &'p [T], pad: &'p T, ky: usize, kx: usize) -> [&'p T; R] {
        let g = self.g;
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        let (dy, dx) = (ky * g.y.dilation as usize, kx * g.x.dilation as usize);
        let mut taps = [pad; R];
        if REACH == CHECKED {
            let (y, x) = &self.pixels;
            for r in 0..R {
                let (y, x) = (y[r].wrapping_add_unsigned(dy) as usize, x[r].wrapping_add_unsigned(dx) as usize);
                let at = if y < h && x < w { y * w + x } else { usize::MAX };
                taps[r] = plane.get(at).unwrap_or(pad);
            }
        } else {
            let step = if REACH == DENSE { 1 } else { g.x.stride as usize };
            let at = self.base.wrapping_add_unsigned(dy * w + dx) as usize;
            let cells = &plane[at..at + (R - 1) * step + 1];
            for r in 0..R {
                taps[r] = &cells[r * step];
            }
        }
        taps
    }
}

/// `R` pixels of `B` output planes.
struct Tile<'a, 'b, 'c, const R: usize, const B: usize, const G: usize, const REACH: usize> {
    o: &'c Planes<'a, G>,
    place: &'c Place,
    first: usize,
    to: To<'a, 'b>,
}

impl<const R: usize, const B: usize, const G: usize, const REACH: usize> DotKernel
    for Tile<'_, '_, '_, R, B, G, REACH>
{
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Tile { o, place, first, to } = self;
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o.g, place);
        let mut sums = [[d.start(&[0; 16]); R]; B];
        for b in 0..B {
            sums[b] = [d.start(&tile::bias(o.bias, b)); R];
        }
        let vectors = o.blocks * kh * kw;
        let all: &[Panel<G>] = o.weight.as_chunks::<64>().0.as_chunks::<G>().0;
        let mut weights = [all; B];
        for b in 0..B {
            weights[b] = &all[b * vectors..(b + 1) * vectors];
        }
        for block in 0..o.blocks {
            let plane = &o.input[block * o.area..][..o.area];
            for ky in place.rows.clone() {
                for kx in 0..kw {
                    let rows = finder.taps(plane, &o.pad, ky, kx);
                    let at = (block * kh + ky) * kw + kx;
                    let mut panels = [&weights[0][at]; B];
                    for b in 1..B {
                        panels[b] = &weights[b][at];
                    }
                    accumulate(d, &mut sums, rows, panels);
                }
            }
        }
        for b in 0..B {
            let scale = tile::scale(o.scale, b);
            for r in 0..R {
                to.finish.store(d, sums[b][r], scale, to.out, to.at + (b * to.pixels + first + r) * 16, 16);
            }
        }
    }
}

/// `R` pixels of one plane, every channel for itself.
struct Depthwise<'a, 'b, 'c, const R: usize, const REACH: usize> {
    o: &'c Planes<'a, 4>,
    place: &'c Place,
    first: usize,
    to: To<'a, 'b>,
}

impl<const R: usize, const REACH: usize> DotKernel for Depthwise<'_, '_, '_, R, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Depthwise { o, place, first, to } = self;
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o.g, place);
        let weights = &o.weight.as_chunks::<16>().0[..kh * kw];
        let plane = o.input.as_flattened().as_chunks::<4>().0;
        let plane: &[[u8; 16]] = plane.as_flattened().as_flattened().as_chunks::<16>().0;
        let pad = [o.pad[0][0]; 16];
        let mut sums = [d.start(&tile::bias(o.bias, 0)); R];
        for ky in place.rows.clone() {
            for kx in 0..kw {
                let rows = finder.taps(plane, &pad, ky, kx);
                for r in 0..R {
                    sums[r] = d.multiply(sums[r], rows[r], &weights[ky * kw + kx]);
                }
            }
        }
        let scale = tile::scale(o.scale, 0);
        for r in 0..R {
            to.finish.store(d, sums[r], scale, to.out, to.at + (first + r) * 16, 16);
        }
    }
}

#[cfg(test)]
mod tests;
