//! One tile of a two-dimensional convolution: some neighbouring pixels of one or two output planes.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Conv2d, Layout};
use crate::tile::{self, Ahead, Lanes, Residual, ZERO, accumulate, with_rows};
use crate::unary::Activation;
use core::ops::Range;
use place::{Place, Window, reach};

pub(crate) use place::{PATCH, spaced};

mod place;

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
    /// The weights of all planes after these.
    later: &'a [Lanes],
    /// For each output plane one.
    bias: Option<&'a [Lanes]>,
    /// Extents of one input plane; a pointwise convolution sees one row.
    h: usize,
    w: usize,
    /// Input channels of the group.
    ic: usize,
    /// Output planes.
    planes: usize,
    /// See [`is_pointwise`].
    pointwise: bool,
}

/// Whether output pixels lie exactly like input pixels and there is one tap.
#[inline(always)]
pub(crate) fn is_pointwise(g: &Conv2d) -> bool {
    [&g.y, &g.x].iter().all(|a| a.kernel == 1 && a.stride == 1 && a.pad_begin == 0 && a.output == a.input)
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
        let pointwise = is_pointwise(g);
        let vectors = ic * g.y.kernel as usize * g.x.kernel as usize;
        let (weight, later) = weight.as_chunks::<16>().0[block * vectors..].split_at(planes * vectors);
        Operands {
            kind,
            g,
            input: &input[from..from + read * h * w],
            weight,
            later,
            bias: bias.map(|bias| &bias.as_chunks::<16>().0[block..block + planes]),
            h: if pointwise { 1 } else { h },
            w: if pointwise { h * w } else { w },
            ic,
            planes,
            pointwise,
        }
    }
}

/// Which input channels are added up in one go. Between parts the sums lie in the output; stored and loaded they stay the
/// same, and so does the order of additions.
pub(crate) struct Part<'a> {
    /// Blocks of input channels.
    blocks: Range<usize>,
    /// Whether these are the last.
    pub(crate) last: bool,
    /// Weights of the part that comes next.
    pub(crate) ahead: Ahead<'a>,
}

/// Weights of one part: 24 KiB, to stay in the first-level cache while the pixels of a strip pass.
const PART: usize = 6144;

impl<'a> Operands<'a> {
    /// All parts.
    #[inline(always)]
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'a>> {
        let blocks = self.ic.div_ceil(16);
        let taps = self.g.y.kernel as usize * self.g.x.kernel as usize;
        let most = match self.kind {
            Kind::Blocked => (PART / (taps * 256 * self.planes)).max(1),
            Kind::Plain => blocks,
        };
        let (weight, later, planes, plane) = (self.weight, self.later, self.planes, self.ic * taps);
        (0..blocks).step_by(most).map(move |first| {
            let (end, vectors) = ((first + most).min(blocks), most * 16 * taps);
            // The next blocks of these planes, or the first of the next planes, of which there may be none or one.
            let lines = |b: usize| {
                let (from, at) = if end < blocks { (weight, b * plane + end * 16 * taps) } else { (later, b * plane) };
                let lines = from.get(at..).unwrap_or(&[]);
                &lines[..vectors.min(lines.len())]
            };
            let ahead = Ahead::new(lines(0), if planes > 1 { lines(1) } else { &[] });
            Part { blocks: first..end, last: end == blocks, ahead }
        })
    }
}

/// How many neighbouring blocks from `block` of the `channels` on can share tiles: `most`, or as many as the group has.
#[inline(always)]
pub(crate) fn together(channels: u32, groups: u32, block: usize, most: usize) -> usize {
    // A group other than the only one is made of whole blocks.
    let group = (channels as usize).div_ceil(16) / groups as usize;
    most.min(group - block % group)
}

/// Where a tile's sums go, and what they meet there.
pub(crate) struct To<'a, 'b> {
    /// From the first pixel of the first plane on; met by the first part.
    pub(crate) residual: Residual<'a>,
    /// Its elements from one plane to the next.
    pub(crate) plane: usize,
    /// Its clamp is applied.
    pub(crate) act: &'a Activation,
    /// The pixels of each plane.
    pub(crate) out: [&'b mut [f32]; 2],
}

/// Computes `count` pixels from `first` on.
#[inline(always)]
pub(crate) fn run<S: Simd>(
    s: S,
    o: &Operands<'_>,
    part: &Part<'_>,
    ahead: Ahead<'_>,
    pixels: Range<usize>,
    patch: &mut [f32; PATCH],
    to: To<'_, '_>,
) {
    let (place, count) = (&Place::new(o, pixels.start, pixels.len()), pixels.len());
    match o.planes {
        1 => shared::<S, 1>(s, Shared { o, part, ahead, place, to }, count, patch),
        2 if const { S::BLOCKS >= 2 } => shared::<S, 2>(s, Shared { o, part, ahead, place, to }, count, patch),
        _ => unreachable!("a tile has between 1 and BLOCKS planes"),
    }
}

/// [`run`] for a constant number of planes.
#[inline(always)]
fn shared<S: Simd, const B: usize>(s: S, task: Shared<'_, '_>, count: usize, patch: &mut [f32; PATCH]) {
    let (o, place) = (task.o, task.place);
    if let Kind::Plain = o.kind {
        match (Window::new(o, place, patch), o.g.x.stride) {
            (Some(window), 1) => with_rows!(S, count, R => s.call(Plain::<R, B, 1> { task, window })),
            (Some(window), 2) => with_rows!(S, count, R => s.call(Plain::<R, B, 2> { task, window })),
            (Some(window), 4) => with_rows!(S, count, R => s.call(Plain::<R, B, 4> { task, window })),
            _ => with_rows!(S, count, R => s.call(PlainAny::<R, B>(task))),
        }
    } else {
        match place.reach {
            1 => with_rows!(S, count, R => s.call(Blocked::<R, B, 1>(task))),
            2 => with_rows!(S, count, R => s.call(Blocked::<R, B, 2>(task))),
            _ => with_rows!(S, count, R => s.call(Blocked::<R, B, 0>(task))),
        }
    }
}

/// What a tile of one part gets.
struct Shared<'a, 'b> {
    o: &'a Operands<'a>,
    part: &'a Part<'a>,
    ahead: Ahead<'a>,
    place: &'a Place,
    to: To<'a, 'b>,
}

impl Shared<'_, '_> {
    /// Bias and residual, or the sums of the parts before.
    #[inline(always)]
    fn begin<S: Simd, const R: usize, const B: usize>(&self, s: S) -> [[S::V; R]; B] {
        let To { residual, out, plane, .. } = &self.to;
        let mut acc = [[s.splat(0.0); R]; B];
        let first = self.part.blocks.start == 0;
        if let (true, Some(bias)) = (first, self.o.bias) {
            for b in 0..B {
                acc[b] = [s.load(&bias[b]); R];
            }
        }
        match residual {
            Residual::None if first => {}
            Residual::Other(values) if first => {
                for b in 0..B {
                    tile::add(s, &mut acc[b], tile::pixels(&values[b * plane..]));
                }
            }
            _ => {
                for b in 0..B {
                    tile::add(s, &mut acc[b], tile::pixels(out[b]));
                }
            }
        }
        acc
    }

    /// Written out for each plane: in a loop over them the accumulators were seen to go through memory.
    #[inline(always)]
    fn end<S: Simd, const R: usize, const B: usize>(self, s: S, acc: [[S::V; R]; B]) {
        const { assert!(B == 1 || B == 2) };
        let To { act, out: [one, two], .. } = self.to;
        act.store(s, &acc[0], tile::pixels_mut(one));
        if B > 1 {
            act.store(s, &acc[B - 1], tile::pixels_mut(two));
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
        let pixels = if REACH == reach::ANY { place.pixels(o.g) } else { [(0, 0); R] };
        let (cells, _) = o.input.as_chunks::<16>();
        let mut ahead = self.0.ahead.over(self.0.part.blocks.len() * place.rows.len() * kw);
        let mut acc = self.0.begin::<S, R, B>(s);
        for block in self.0.part.blocks.clone() {
            let plane = &cells[block * o.h * o.w..][..o.h * o.w];
            let lanes = (o.ic - block * 16).min(16);
            for ky in place.rows.clone() {
                for kx in 0..kw {
                    ahead.fetch();
                    let weights = self.0.weights(block * 16 * kh * kw + (ky * kw + kx) * lanes);
                    let inside = if REACH == reach::ANY || lanes < 16 { None } else { place.inside(o, kx) };
                    if let Some(x) = inside {
                        let x = spaced::<_, R, REACH>(&plane[place.row(o, ky) * o.w + x..]);
                        accumulate(s, &mut acc, x, weights, 16);
                        continue;
                    }
                    let x = place.taps::<_, R, REACH>(o, &pixels, plane, &ZERO, [ky, kx]);
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
struct Plain<'a, 'b, const R: usize, const B: usize, const STEP: usize> {
    task: Shared<'a, 'b>,
    window: Window<'a>,
}

impl<const R: usize, const B: usize, const STEP: usize> Kernel for Plain<'_, '_, R, B, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Plain { task, window } = self;
        let (g, rows) = (task.o.g, task.place.rows.clone());
        let (kh, kw, dx) = (g.y.kernel as usize, g.x.kernel as usize, g.x.dilation as usize);
        let mut acc = task.begin::<S, R, B>(s);
        for channel in 0..task.o.ic {
            for ky in rows.clone() {
                let weights = task.weights::<B>((channel * kh + ky) * kw).map(|row| &row[..kw]);
                let at = channel * window.plane + (ky - rows.start) * window.row;
                let cells = &window.cells[at..][..(R - 1) * STEP + (kw - 1) * dx + 1];
                for kx in 0..kw {
                    add(s, &mut acc, spaced::<_, R, STEP>(&cells[kx * dx..]), &weights, kx);
                }
            }
        }
        task.end(s, acc);
    }
}

/// [`Plain`] for pixels that are found one by one.
struct PlainAny<'a, 'b, const R: usize, const B: usize>(Shared<'a, 'b>);

impl<const R: usize, const B: usize> Kernel for PlainAny<'_, '_, R, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (o, place) = (self.0.o, self.0.place);
        let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
        let pixels = place.pixels(o.g);
        let mut acc = self.0.begin::<S, R, B>(s);
        for channel in 0..o.ic {
            let plane = &o.input[channel * o.h * o.w..][..o.h * o.w];
            for ky in place.rows.clone() {
                let weights = self.0.weights::<B>((channel * kh + ky) * kw).map(|row| &row[..kw]);
                for kx in 0..kw {
                    let x = place.taps::<_, R, { reach::ANY }>(o, &pixels, plane, &0.0, [ky, kx]);
                    add(s, &mut acc, x, &weights, kx);
                }
            }
        }
        self.0.end(s, acc);
    }
}

/// `acc[b][r] += x[r] * weights[b][kx]`.
#[inline(always)]
fn add<S: Simd, const R: usize, const B: usize>(
    s: S,
    acc: &mut [[S::V; R]; B],
    x: [&f32; R],
    weights: &[&[Lanes]; B],
    kx: usize,
) {
    let mut w = [s.splat(0.0); B];
    for b in 0..B {
        w[b] = s.load(&weights[b][kx]);
    }
    for r in 0..R {
        let x = s.splat(*x[r]);
        for b in 0..B {
            acc[b][r] = s.mul_add(x, w[b], acc[b][r]);
        }
    }
}
