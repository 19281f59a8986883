//! Two-dimensional convolution in the block layout: direct, without a patch matrix or any other memory.
//!
//! A tile is up to [`Simd::ROWS`] neighbouring output pixels of one plane (one block of sixteen output channels), rows of
//! the image running on into each other. Padding is read as zeros. Tiles are the unit of work: their boundaries depend
//! on the shape and the kernel set only, and each is computed for itself.

use crate::arch::{Kernel, KernelSet, Simd};
use crate::geometry::{Conv2d, Layout, UnaryOp};
use crate::pool::Taps;
use crate::tile::{Lanes, Tiling, ZERO, accumulate, store, with_rows};
use crate::unary::Activation;
use core::ops::Range;

pub use crate::conv_nd::conv_nd;
pub use crate::tile::Residual;

/// `input` holds [`Conv2d::input_len`] elements, `weight` [`Conv2d::weight_len`], `bias` [`Conv2d::bias_len`], `out` and
/// the residual [`Conv2d::output_len`]; the geometry passes [`Conv2d::is_valid`].
///
/// Each output is `act(bias + products + residual)`. Lanes past `ic` of a blocked input are never read, except by
/// depthwise convolution, where they reach the same unspecified lanes of the output.
pub fn conv2d(
    set: KernelSet,
    geometry: &Conv2d,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Residual<'_>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    let g = geometry;
    assert!(g.is_valid(), "validated: a convolution the block layout can run");
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: conv's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: conv's weight length");
    assert!(bias.is_none_or(|b| Some(b.len() as u64) == g.bias_len()), "validated: conv's bias length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: conv's output length");
    let act = Activation::new(act);
    let planes = 0..g.n as usize * (g.oc as usize).div_ceil(16);
    set.dispatch(Conv { set, geometry, input, weight, bias, residual, act, planes, out });
}

struct Conv<'a> {
    set: KernelSet,
    geometry: &'a Conv2d,
    input: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Residual<'a>,
    act: Activation,
    /// Which `(n, block)` planes `out` holds.
    planes: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.geometry;
        let blocks = (g.oc as usize).div_ceil(16);
        let pixels = g.y.output as usize * g.x.output as usize;
        let tiling = Tiling::new(pixels, S::ROWS);
        if pixels == 0 {
            return;
        }
        // A strip of pixels is computed for all output channels in turn, so that its input stays in the second-level cache.
        let strip = (STRIP / (g.ic / g.groups) as usize / S::ROWS).max(8);
        let mut first = 0;
        while first < tiling.len() {
            let strip = first..(first + strip).min(tiling.len());
            for (index, plane) in self.planes.clone().enumerate() {
                let operands = Operands::new(g, self.input, self.weight, self.bias, plane / blocks, plane % blocks);
                let at = index * pixels * 16;
                let to = &mut self.out[at..at + pixels * 16];
                let residual = match self.residual {
                    Residual::Other(values) => Some(&values[at..at + pixels * 16]),
                    _ => None,
                };
                let in_place = matches!(self.residual, Residual::InPlace);
                for tile in strip.clone() {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    let (to, residual) = (&mut to[start * 16..end * 16], residual.map(|r| &r[start * 16..end * 16]));
                    let finish = Finish { residual, in_place, act: &self.act, to };
                    match operands.kind {
                        Kind::Blocked => with_rows!(S, end - start, blocked(s, &operands, start, finish)),
                        Kind::Plain => with_rows!(S, end - start, plain(s, &operands, start, finish)),
                        Kind::Depthwise => with_rows!(S, end - start, depthwise(s, &operands, start, finish)),
                    }
                }
                self.act.finish(self.set, &mut to[tiling.start(strip.start) * 16..tiling.start(strip.end) * 16]);
            }
            first = strip.end;
        }
    }
}

/// Input elements of one strip: 128 KiB.
const STRIP: usize = 32 * 1024;

#[derive(Clone, Copy)]
enum Kind {
    Blocked,
    Plain,
    Depthwise,
}

/// What the tiles of one output plane read.
struct Operands<'a> {
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
}

impl<'a> Operands<'a> {
    #[inline(always)]
    fn new(
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
        let (channels, lanes) = match g.input {
            Layout::Plain => (g.ic as usize, 1),
            Layout::Blocked => ((g.ic as usize).next_multiple_of(16), 16),
        };
        let read = match kind {
            Kind::Plain => ic,
            Kind::Blocked | Kind::Depthwise => ic.next_multiple_of(lanes),
        };
        let from = (image * channels + channel) * h * w;
        let vectors = ic * g.y.kernel as usize * g.x.kernel as usize;
        Operands {
            kind,
            g,
            input: &input[from..from + read * h * w],
            weight: &weight.as_chunks::<16>().0[block * vectors..(block + 1) * vectors],
            bias: bias.and_then(|bias| bias[block * 16..].first_chunk::<16>()).unwrap_or(&ZERO),
            h,
            w,
            ic,
        }
    }
}

/// Input positions of the first tap of each pixel of a tile.
struct Pixels<const R: usize> {
    y: [isize; R],
    x: [isize; R],
    /// Kernel rows that touch the input for some pixel.
    rows: Range<usize>,
}

impl<const R: usize> Pixels<R> {
    #[inline(always)]
    fn new(g: &Conv2d, first: usize) -> Self {
        let width = g.x.output as usize;
        let (mut oy, mut ox) = (first / width, first % width);
        let top = oy;
        let (mut y, mut x) = ([0; R], [0; R]);
        let mut bottom = oy;
        for r in 0..R {
            y[r] = (oy * g.y.stride as usize) as isize - g.y.pad_begin as isize;
            x[r] = (ox * g.x.stride as usize) as isize - g.x.pad_begin as isize;
            bottom = oy;
            ox += 1;
            if ox == width {
                (oy, ox) = (oy + 1, 0);
            }
        }
        // The window moves down with the pixel: the lowest begins first inside, the topmost ends last.
        let (top, bottom) = (Taps::new(&g.y, top), Taps::new(&g.y, bottom));
        Pixels { y, x, rows: bottom.skipped..top.skipped + top.inside }
    }

    /// Index into an `(h, w)` plane of tap `(dy, dx)` of each pixel; past the end where it is padding.
    #[inline(always)]
    fn indices(&self, h: usize, w: usize, dy: usize, dx: usize) -> [usize; R] {
        core::array::from_fn(|r| {
            let (y, x) = (self.y[r].wrapping_add_unsigned(dy) as usize, self.x[r].wrapping_add_unsigned(dx) as usize);
            if y < h && x < w { y * w + x } else { usize::MAX }
        })
    }
}

/// Where a tile's sums go.
struct Finish<'a, 'b> {
    residual: Option<&'a [f32]>,
    in_place: bool,
    act: &'a Activation,
    to: &'b mut [f32],
}

impl Finish<'_, '_> {
    #[inline(always)]
    fn finish<S: Simd, const R: usize>(self, s: S, acc: [S::V; R]) {
        for (r, to) in self.to.chunks_exact_mut(16).take(R).enumerate() {
            store(s.to_array(acc[r]), self.residual.map(|x| &x[r * 16..]), self.in_place, self.act, to);
        }
    }
}

/// Channels in blocks: sixteen inner products per tap.
#[inline(always)]
fn blocked<S: Simd, const R: usize>(s: S, o: &Operands<'_>, first: usize, finish: Finish<'_, '_>) {
    let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
    let pixels = Pixels::<R>::new(o.g, first);
    let (cells, _) = o.input.as_chunks::<16>();
    let mut acc = [[s.load(o.bias); R]];
    for block in 0..o.ic.div_ceil(16) {
        let plane = &cells[block * o.h * o.w..][..o.h * o.w];
        let weight = &o.weight[block * 16 * kh * kw..];
        let lanes = (o.ic - block * 16).min(16);
        for ky in pixels.rows.clone() {
            for kx in 0..kw {
                let at = pixels.indices(o.h, o.w, ky * o.g.y.dilation as usize, kx * o.g.x.dilation as usize);
                let rows = at.map(|at| plane.get(at).unwrap_or(&ZERO));
                accumulate(s, &mut acc, rows, [&weight[ky * kw + kx..]], kh * kw, lanes);
            }
        }
    }
    let [acc] = acc;
    finish.finish(s, acc);
}

/// Channels in planes: one product per tap and channel. First layers.
#[inline(always)]
fn plain<S: Simd, const R: usize>(s: S, o: &Operands<'_>, first: usize, finish: Finish<'_, '_>) {
    let (kh, kw) = (o.g.y.kernel as usize, o.g.x.kernel as usize);
    let pixels = Pixels::<R>::new(o.g, first);
    let mut acc = [s.load(o.bias); R];
    for channel in 0..o.ic {
        let plane = &o.input[channel * o.h * o.w..][..o.h * o.w];
        let weight = &o.weight[channel * kh * kw..][..kh * kw];
        for ky in pixels.rows.clone() {
            for kx in 0..kw {
                let at = pixels.indices(o.h, o.w, ky * o.g.y.dilation as usize, kx * o.g.x.dilation as usize);
                let w = s.load(&weight[ky * kw + kx]);
                for r in 0..R {
                    acc[r] = s.mul_add(s.splat(plane.get(at[r]).copied().unwrap_or(0.0)), w, acc[r]);
                }
            }
        }
    }
    finish.finish(s, acc);
}

/// Every channel for itself: one vector product per tap.
#[inline(always)]
fn depthwise<S: Simd, const R: usize>(s: S, o: &Operands<'_>, first: usize, finish: Finish<'_, '_>) {
    let kw = o.g.x.kernel as usize;
    let pixels = Pixels::<R>::new(o.g, first);
    let (plane, _) = o.input.as_chunks::<16>();
    let mut acc = [s.load(o.bias); R];
    for ky in pixels.rows.clone() {
        for kx in 0..kw {
            let at = pixels.indices(o.h, o.w, ky * o.g.y.dilation as usize, kx * o.g.x.dilation as usize);
            let w = s.load(&o.weight[ky * kw + kx]);
            for r in 0..R {
                acc[r] = s.mul_add(s.load(plane.get(at[r]).unwrap_or(&ZERO)), w, acc[r]);
            }
        }
    }
    finish.finish(s, acc);
}
