//! One tile of a two-dimensional convolution: up to `ROWS` neighbouring pixels of up to `BLOCKS` output planes.
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Conv2d, Layout};
use crate::pool::Taps;
use crate::tile::{Finish, Lanes, ZERO, accumulate, with_rows};
use core::ops::Range;

/// How the input of a tile's pixels is found. All three read the same values; they differ in what is computed per tap.
mod reach {
    /// Pixels side by side in the input, no tap in the padding.
    pub(super) const DENSE: usize = 0;
    /// Pixels evenly spaced in the input, no tap in the padding.
    pub(super) const SPACED: usize = 1;
    /// Any pixels; each tap is checked.
    pub(super) const CHECKED: usize = 2;
}

#[derive(Clone, Copy)]
enum Kind {
    Blocked,
    Plain,
}

/// What the tiles of one output plane, or of neighbouring ones of one group, read.
pub(crate) struct Operands<'a> {
    kind: Kind,
    g: &'a Conv2d,
    /// Input channels of the group, `(channel or block, h, w, lanes)`.
    input: &'a [f32],
    /// For each output plane the vectors of [`Conv2d`]'s weights.
    weight: &'a [Lanes],
    /// For each output plane one.
    bias: Option<&'a [Lanes]>,
    /// Extents of one input plane.
    h: usize,
    w: usize,
    /// Input channels of the group.
    ic: usize,
    /// Output planes.
    planes: usize,
    /// Whether output pixels lie exactly like input pixels and there is one tap.
    pointwise: bool,
}

impl<'a> Operands<'a> {
    /// Those of `planes` blocks from `block` on of the output channels of `image`; all lie in one group.
    #[inline(always)]
    pub(crate) fn new(
        g: &'a Conv2d,
        input: &'a [f32],
        weight: &'a [f32],
        bias: Option<&'a [f32]>,
        image: usize,
        block: usize,
        planes: usize,
    ) -> Self {
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        let ic = (g.ic / g.groups) as usize;
        let kind = match g.input {
            Layout::Blocked => Kind::Blocked,
            Layout::Plain => Kind::Plain,
        };
        // First input channel of this block's group; every output channel of a block is in one group.
        let channel = block * 16 / (g.oc / g.groups) as usize * ic;
        let (channels, read) = match kind {
            Kind::Plain => (g.ic as usize, ic),
            Kind::Blocked => ((g.ic as usize).next_multiple_of(16), ic.next_multiple_of(16)),
        };
        let from = (image * channels + channel) * h * w;
        let vectors = ic * g.y.kernel as usize * g.x.kernel as usize;
        let same =
            [&g.y, &g.x].iter().all(|a| a.kernel == 1 && a.stride == 1 && a.pad_begin == 0 && a.output == a.input);
        Operands {
            kind,
            g,
            input: &input[from..from + read * h * w],
            weight: &weight.as_chunks::<16>().0[block * vectors..(block + planes) * vectors],
            bias: bias.map(|bias| &bias.as_chunks::<16>().0[block..block + planes]),
            h,
            w,
            ic,
            planes,
            pointwise: same,
        }
    }
}

/// Which input channels are added up in one go. Between parts the sums lie in the output; stored and loaded they stay the
/// same, and so does the order of additions.
pub(crate) struct Part {
    /// Blocks of input channels.
    blocks: Range<usize>,
    /// Whether these are the last.
    pub(crate) last: bool,
}

/// Weights of one part: 24 KiB, to stay in the first-level cache while the pixels of a strip pass.
const PART: usize = 6144;

impl Operands<'_> {
    /// All parts, or one where `whole` forbids sums to lie in the output.
    #[inline(always)]
    pub(crate) fn parts(&self, whole: bool) -> impl Iterator<Item = Part> {
        let blocks = self.ic.div_ceil(16);
        let taps = self.g.y.kernel as usize * self.g.x.kernel as usize;
        let most = match self.kind {
            Kind::Blocked if !whole => (PART / (taps * 256 * self.planes)).max(1),
            _ => blocks,
        };
        (0..blocks).step_by(most).map(move |first| {
            let end = (first + most).min(blocks);
            Part { blocks: first..end, last: end == blocks }
        })
    }
}

/// How many neighbouring blocks from `block` on can share tiles, `left` of them being wanted.
#[inline(always)]
pub(crate) fn together<S: Simd>(g: &Conv2d, block: usize, left: usize) -> usize {
    // A group other than the only one is made of whole blocks.
    let group = (g.oc as usize).div_ceil(16) / g.groups as usize;
    left.min(group - block % group).min(S::BLOCKS)
}

/// Computes pixels `first .. first + count` of the planes; `finish` begins with the first pixel of the first plane and
/// ends with the last plane, each plane being `size` elements.
#[inline(always)]
pub(crate) fn run<S: Simd>(
    s: S,
    o: &Operands<'_>,
    part: &Part,
    first: usize,
    count: usize,
    size: usize,
    finish: Finish<'_, '_>,
) {
    let (place, reach) = Place::new(o, first, count);
    let place = &place;
    match o.planes {
        1 => shared::<S, 1>(s, o, part, place, reach, count, size, finish),
        2 if const { S::BLOCKS >= 2 } => shared::<S, 2>(s, o, part, place, reach, count, size, finish),
        _ => unreachable!("a tile has between 1 and BLOCKS planes"),
    }
}

/// [`run`] for a constant number of planes.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one call with what it passes on")]
fn shared<S: Simd, const B: usize>(
    s: S,
    o: &Operands<'_>,
    part: &Part,
    place: &Place,
    reach: usize,
    count: usize,
    size: usize,
    finish: Finish<'_, '_>,
) {
    use reach::{CHECKED, DENSE, SPACED};
    let task = Shared { o, part, place, size, finish };
    match (o.kind, reach) {
        (Kind::Plain, CHECKED) => with_rows!(S, count, R => s.call(Plain::<R, B, CHECKED>(task))),
        (Kind::Plain, _) => with_rows!(S, count, R => s.call(Plain::<R, B, SPACED>(task))),
        (_, DENSE) => with_rows!(S, count, R => s.call(Blocked::<R, B, DENSE>(task))),
        (_, SPACED) => with_rows!(S, count, R => s.call(Blocked::<R, B, SPACED>(task))),
        (_, _) => with_rows!(S, count, R => s.call(Blocked::<R, B, CHECKED>(task))),
    }
}

/// Where in the input plane a tile lies.
struct Place {
    /// Output position of the first pixel.
    oy: usize,
    ox: usize,
    /// Index of the first tap of the first pixel; may be before the plane where `rows` begins later.
    base: isize,
    /// Kernel rows that touch the input for some pixel.
    rows: Range<usize>,
}

impl Place {
    #[inline(always)]
    fn new(o: &Operands<'_>, first: usize, count: usize) -> (Place, usize) {
        if o.pointwise {
            return (Place { oy: 0, ox: 0, base: first as isize, rows: 0..1 }, reach::DENSE);
        }
        let g = o.g;
        let width = g.x.output as usize;
        let (oy, ox) = (first / width, first % width);
        let last = oy + (ox + count - 1) / width;
        // The window moves down with the pixel: the lowest begins first inside, the topmost ends last.
        let (top, bottom) = (Taps::new(&g.y, oy), Taps::new(&g.y, last));
        let rows = bottom.skipped..top.skipped + top.inside;
        let y = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
        let x = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
        let span = (count - 1) * g.x.stride as usize + (g.x.kernel as usize - 1) * g.x.dilation as usize;
        let inside = oy == last && x >= 0 && x as usize + span < o.w;
        let reach = match (inside, g.x.stride) {
            (true, 1) => reach::DENSE,
            (true, _) => reach::SPACED,
            (false, _) => reach::CHECKED,
        };
        (Place { oy, ox, base: y * o.w as isize + x, rows }, reach)
    }

    /// Input position of the first tap of each pixel.
    #[inline(always)]
    fn pixels<const R: usize>(&self, g: &Conv2d) -> ([isize; R], [isize; R]) {
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
    o: &'a Operands<'a>,
    place: &'a Place,
    /// Only for [`reach::CHECKED`].
    pixels: ([isize; R], [isize; R]),
}

impl<'a, const R: usize, const REACH: usize> Finder<'a, R, REACH> {
    #[inline(always)]
    fn new(o: &'a Operands<'a>, place: &'a Place) -> Self {
        let pixels = if REACH == reach::CHECKED { place.pixels(o.g) } else { ([0; R], [0; R]) };
        Finder { o, place, pixels }
    }

    /// Tap `(ky, kx)` of each pixel in an `(h, w)` plane, `zero` where it is padding.
    ///
    /// Loops, not `array::from_fn`: that may stay a call, around which every accumulator goes through memory.
    #[inline(always)]
    fn taps<'p, T>(&self, plane: &'p [T], zero: &'p T, ky: usize, kx: usize) -> [&'p T; R] {
        let o = self.o;
        let (dy, dx) = (ky * o.g.y.dilation as usize, kx * o.g.x.dilation as usize);
        let mut taps = [zero; R];
        if REACH == reach::CHECKED {
            let (y, x) = &self.pixels;
            for r in 0..R {
                let (y, x) = (y[r].wrapping_add_unsigned(dy) as usize, x[r].wrapping_add_unsigned(dx) as usize);
                let at = if y < o.h && x < o.w { y * o.w + x } else { usize::MAX };
                taps[r] = plane.get(at).unwrap_or(zero);
            }
        } else {
            let step = if REACH == reach::DENSE { 1 } else { o.g.x.stride as usize };
            let at = self.place.base.wrapping_add_unsigned(dy * o.w + dx) as usize;
            let cells = &plane[at..at + (R - 1) * step + 1];
            for r in 0..R {
                taps[r] = &cells[r * step];
            }
        }
        taps
    }
}

/// What a tile over all input channels of a group gets.
struct Shared<'a, 'b> {
    o: &'a Operands<'a>,
    part: &'a Part,
    place: &'a Place,
    /// Elements of one output plane.
    size: usize,
    finish: Finish<'a, 'b>,
}

impl Shared<'_, '_> {
    /// Bias, or the sums of the parts before.
    #[inline(always)]
    fn begin<S: Simd, const R: usize, const B: usize>(&self, s: S) -> [[S::V; R]; B] {
        let mut acc = [[s.splat(0.0); R]; B];
        for b in 0..B {
            if self.part.blocks.start > 0 {
                let (sums, _) = self.finish.to[b * self.size..].as_chunks();
                let sums = &sums[..R];
                for r in 0..R {
                    acc[b][r] = s.load(&sums[r]);
                }
            } else if let Some(bias) = self.o.bias {
                acc[b] = [s.load(&bias[b]); R];
            }
        }
        acc
    }

    #[inline(always)]
    fn end<S: Simd, const R: usize, const B: usize>(mut self, s: S, acc: [[S::V; R]; B]) {
        for b in 0..B {
            for r in 0..R {
                self.finish.store(s, acc[b][r], b * self.size + r * 16, 16);
            }
        }
    }

    /// The weights of each output plane from vector `at` on.
    #[inline(always)]
    fn weights<const B: usize>(&self, at: usize) -> [&[Lanes]; B] {
        let plane = self.o.weight.len() / B;
        let mut weights: [&[Lanes]; B] = [&[]; B];
        for b in 0..B {
            weights[b] = &self.o.weight[b * plane + at..(b + 1) * plane];
        }
        weights
    }
}

/// Channels in blocks: sixteen inner products per tap.
struct Blocked<'a, 'b, const R: usize, const B: usize, const REACH: usize>(Shared<'a, 'b>);

impl<const R: usize, const B: usize, const REACH: usize> Kernel for Blocked<'_, '_, R, B, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (o, place) = (self.0.o, self.0.place);
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o, place);
        let (cells, _) = o.input.as_chunks::<16>();
        let mut acc = self.0.begin::<S, R, B>(s);
        for block in self.0.part.blocks.clone() {
            let plane = &cells[block * o.h * o.w..][..o.h * o.w];
            let lanes = (o.ic - block * 16).min(16);
            for ky in place.rows.clone() {
                for kx in 0..kw {
                    let x = finder.taps(plane, &ZERO, ky, kx);
                    let weights = self.0.weights(block * 16 * kh * kw + (ky * kw + kx) * lanes);
                    // The constant lets the compiler unroll; only a last block with missing channels has fewer.
                    if lanes == 16 {
                        accumulate(s, &mut acc, x, weights, 16);
                    } else {
                        accumulate(s, &mut acc, x, weights, lanes);
                    }
                }
            }
        }
        self.0.end(s, acc);
    }
}

/// Channels in planes: one product per tap and channel. First layers.
struct Plain<'a, 'b, const R: usize, const B: usize, const REACH: usize>(Shared<'a, 'b>);

impl<const R: usize, const B: usize, const REACH: usize> Kernel for Plain<'_, '_, R, B, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (o, place) = (self.0.o, self.0.place);
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o, place);
        let mut acc = self.0.begin::<S, R, B>(s);
        for channel in 0..o.ic {
            let plane = &o.input[channel * o.h * o.w..][..o.h * o.w];
            for ky in place.rows.clone() {
                let row = self.0.weights::<B>((channel * kh + ky) * kw).map(|row| &row[..kw]);
                for kx in 0..kw {
                    let x = finder.taps(plane, &0.0, ky, kx);
                    let mut w = [s.splat(0.0); B];
                    for b in 0..B {
                        w[b] = s.load(&row[b][kx]);
                    }
                    for r in 0..R {
                        let x = s.splat(*x[r]);
                        for b in 0..B {
                            acc[b][r] = s.mul_add(x, w[b], acc[b][r]);
                        }
                    }
                }
            }
        }
        self.0.end(s, acc);
    }
}
