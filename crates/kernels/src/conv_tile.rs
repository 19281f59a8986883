//! One tile of a two-dimensional convolution: up to `ROWS` neighbouring pixels of one output plane.
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
    Depthwise,
}

/// What the tiles of one output plane read.
pub(crate) struct Operands<'a> {
    kind: Kind,
    g: &'a Conv2d,
    /// Input channels of the group, `(channel or block, h, w, lanes)`.
    input: &'a [f32],
    /// `(ic / groups, kh, kw)` vectors.
    weight: &'a [Lanes],
    bias: &'a Lanes,
    /// Extents of one input plane.
    h: usize,
    w: usize,
    /// Input channels of the group.
    ic: usize,
    /// Whether output pixels lie exactly like input pixels and there is one tap.
    pointwise: bool,
}

impl<'a> Operands<'a> {
    /// Those of block `block` of the output channels of `image`.
    #[inline(always)]
    pub(crate) fn new(
        g: &'a Conv2d,
        input: &'a [f32],
        weight: &'a [f32],
        bias: Option<&'a [f32]>,
        image: usize,
        block: usize,
    ) -> Self {
        let (h, w) = (g.y.input as usize, g.x.input as usize);
        let ic = (g.ic / g.groups) as usize;
        let kind = match g.input {
            _ if g.is_depthwise() => Kind::Depthwise,
            Layout::Blocked => Kind::Blocked,
            Layout::Plain => Kind::Plain,
        };
        // First input channel of this block's group; every output channel of a block is in one group.
        let channel = match kind {
            Kind::Depthwise => block * 16,
            _ => block * 16 / (g.oc / g.groups) as usize * ic,
        };
        let (channels, read) = match kind {
            Kind::Plain => (g.ic as usize, ic),
            Kind::Blocked | Kind::Depthwise => ((g.ic as usize).next_multiple_of(16), ic.next_multiple_of(16)),
        };
        let from = (image * channels + channel) * h * w;
        let vectors = ic * g.y.kernel as usize * g.x.kernel as usize;
        let same =
            [&g.y, &g.x].iter().all(|a| a.kernel == 1 && a.stride == 1 && a.pad_begin == 0 && a.output == a.input);
        Operands {
            kind,
            g,
            input: &input[from..from + read * h * w],
            weight: &weight.as_chunks::<16>().0[block * vectors..(block + 1) * vectors],
            bias: bias.and_then(|bias| bias[block * 16..].first_chunk::<16>()).unwrap_or(&ZERO),
            h,
            w,
            ic,
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
        let most = if whole || !matches!(self.kind, Kind::Blocked) { blocks } else { (PART / (taps * 256)).max(1) };
        (0..blocks).step_by(most).map(move |first| {
            let end = (first + most).min(blocks);
            Part { blocks: first..end, last: end == blocks }
        })
    }
}

/// Computes pixels `first .. first + count` of the plane.
#[inline(always)]
pub(crate) fn run<S: Simd>(s: S, o: &Operands<'_>, part: &Part, first: usize, count: usize, finish: Finish<'_, '_>) {
    use reach::{CHECKED, DENSE, SPACED};
    let (place, reach) = Place::new(o, first, count);
    let place = &place;
    match (o.kind, reach) {
        (Kind::Blocked, DENSE) => with_rows!(S, count, R => s.call(Blocked::<R, DENSE> { o, part, place, finish })),
        (Kind::Blocked, SPACED) => with_rows!(S, count, R => s.call(Blocked::<R, SPACED> { o, part, place, finish })),
        (Kind::Blocked, _) => with_rows!(S, count, R => s.call(Blocked::<R, CHECKED> { o, part, place, finish })),
        (Kind::Plain, CHECKED) => with_rows!(S, count, R => s.call(Plain::<R, CHECKED> { o, place, finish })),
        (Kind::Plain, _) => with_rows!(S, count, R => s.call(Plain::<R, SPACED> { o, place, finish })),
        (Kind::Depthwise, DENSE) => with_rows!(S, count, R => s.call(Depthwise::<R, DENSE> { o, place, finish })),
        (Kind::Depthwise, SPACED) => with_rows!(S, count, R => s.call(Depthwise::<R, SPACED> { o, place, finish })),
        (Kind::Depthwise, _) => with_rows!(S, count, R => s.call(Depthwise::<R, CHECKED> { o, place, finish })),
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

/// Channels in blocks: sixteen inner products per tap.
struct Blocked<'a, 'b, const R: usize, const REACH: usize> {
    o: &'a Operands<'a>,
    part: &'a Part,
    place: &'a Place,
    finish: Finish<'a, 'b>,
}

impl<const R: usize, const REACH: usize> Kernel for Blocked<'_, '_, R, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Blocked { o, part, place, mut finish } = self;
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o, place);
        let (cells, _) = o.input.as_chunks::<16>();
        let mut acc = [[s.load(o.bias); R]];
        if part.blocks.start > 0 {
            let (sums, _) = finish.to.as_chunks();
            for r in 0..R {
                acc[0][r] = s.load(&sums[r]);
            }
        }
        for block in part.blocks.clone() {
            let plane = &cells[block * o.h * o.w..][..o.h * o.w];
            let weight = &o.weight[block * 16 * kh * kw..];
            let lanes = (o.ic - block * 16).min(16);
            for ky in place.rows.clone() {
                for kx in 0..kw {
                    let x = finder.taps(plane, &ZERO, ky, kx);
                    let weight = [&weight[ky * kw + kx..]];
                    // The constant lets the compiler unroll; only a last block with missing channels has fewer.
                    if lanes == 16 {
                        accumulate(s, &mut acc, x, weight, kh * kw, 16);
                    } else {
                        accumulate(s, &mut acc, x, weight, kh * kw, lanes);
                    }
                }
            }
        }
        for r in 0..R {
            finish.store(s, acc[0][r], r * 16, 16);
        }
    }
}

/// Channels in planes: one product per tap and channel. First layers.
struct Plain<'a, 'b, const R: usize, const REACH: usize> {
    o: &'a Operands<'a>,
    place: &'a Place,
    finish: Finish<'a, 'b>,
}

impl<const R: usize, const REACH: usize> Kernel for Plain<'_, '_, R, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Plain { o, place, mut finish } = self;
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let finder = Finder::<R, REACH>::new(o, place);
        let mut acc = [s.load(o.bias); R];
        for channel in 0..o.ic {
            let plane = &o.input[channel * o.h * o.w..][..o.h * o.w];
            let weight = &o.weight[channel * kh * kw..][..kh * kw];
            for ky in place.rows.clone() {
                for (kx, weight) in weight[ky * kw..(ky + 1) * kw].iter().enumerate() {
                    let x = finder.taps(plane, &0.0, ky, kx);
                    let w = s.load(weight);
                    for r in 0..R {
                        acc[r] = s.mul_add(s.splat(*x[r]), w, acc[r]);
                    }
                }
            }
        }
        for r in 0..R {
            finish.store(s, acc[r], r * 16, 16);
        }
    }
}

/// Every channel for itself: one vector product per tap.
struct Depthwise<'a, 'b, const R: usize, const REACH: usize> {
    o: &'a Operands<'a>,
    place: &'a Place,
    finish: Finish<'a, 'b>,
}

impl<const R: usize, const REACH: usize> Kernel for Depthwise<'_, '_, R, REACH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Depthwise { o, place, mut finish } = self;
        let kw = o.g.x.kernel as usize;
        let finder = Finder::<R, REACH>::new(o, place);
        let (plane, _) = o.input.as_chunks::<16>();
        let mut acc = [s.load(o.bias); R];
        for ky in place.rows.clone() {
            for (kx, weight) in o.weight[ky * kw..(ky + 1) * kw].iter().enumerate() {
                let x = finder.taps(plane, &ZERO, ky, kx);
                let w = s.load(weight);
                for r in 0..R {
                    acc[r] = s.mul_add(s.load(x[r]), w, acc[r]);
                }
            }
        }
        for r in 0..R {
            finish.store(s, acc[r], r * 16, 16);
        }
    }
}
