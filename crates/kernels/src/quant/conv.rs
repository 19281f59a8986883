//! Two-dimensional convolution of bytes: direct, without a patch matrix or any other memory than a copy of the input of
//! tiles that reach into the padding.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::tile::{self, Cell, Finish, Panel, accumulate};
use super::window::{Input, PATCH, Scattered, Window, is_pointwise};
use super::{QConv2d, Residual, Target};
use crate::arch::{Dot, DotKernel};
use crate::conv_tile::{spaced, together};
use crate::parallel::{Compute, MOVE};
use crate::planes::{self, Cuts, Share};
use crate::tile::{Ahead, with_rows};
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
    let pixels = g.y.output as usize * g.x.output as usize;
    if pixels == 0 {
        return;
    }
    // Four products an operation, but one where every channel is alone; with few pixels the time is that of reading weights.
    let macs = g.macs().unwrap_or(u64::MAX);
    let products = if g.is_depthwise() { macs.saturating_mul(2) } else { macs / 4 };
    let cost = products.saturating_add((weight.len() + out.len()) as u64 * (MOVE / 8));
    let item = if is_pointwise(g) { 16 } else { g.x.output as usize * 16 };
    let o = &Operands { g, pad, input, weight, bias, scale, finish: Finish::new(to, residual) };
    let span = if g.is_depthwise() { 1 } else { compute.set.dispatch_integer(Together) };
    compute.share(out, (pixels * 16, item), span, cost, |share| {
        compute.set.dispatch_integer(Conv { o, share });
    });
}

/// How many planes a tile spans.
struct Together;

impl DotKernel for Together {
    type Output = usize;

    #[inline(always)]
    fn run<D: Dot>(self, _: D) -> usize {
        D::BLOCKS
    }
}

struct Operands<'a> {
    g: &'a QConv2d,
    pad: u8,
    input: &'a [u8],
    weight: &'a [u8],
    bias: &'a [i64],
    scale: &'a [f32],
    finish: Finish<'a>,
}

struct Conv<'a, 'b, 'c> {
    o: &'a Operands<'a>,
    share: Share<'b, 'c, u8>,
}

impl DotKernel for Conv<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        // One for all kinds, which never run together: a stack of the enclave is small.
        let mut patch = [[0; 16]; PATCH];
        match (self.o.g.is_depthwise(), self.o.g.lanes) {
            (true, _) => self.depthwise(d, &mut patch),
            (false, 4) => self.dense::<D, 1>(d, &mut patch),
            (false, _) => self.dense::<D, 4>(d, &mut patch),
        }
    }
}

impl Conv<'_, '_, '_> {
    #[inline(always)]
    fn dense<D: Dot, const G: usize>(self, d: D, patch: &mut [[u8; 16]; PATCH]) {
        let (o, g) = (self.o, self.o.g);
        let patch = patch.as_flattened_mut().as_chunks_mut::<4>().0.as_chunks_mut::<G>().0;
        let blocks = (g.oc as usize).div_ceil(16);
        let whole = g.y.output as usize * g.x.output as usize * 16;
        let Share { planes, pixels, mut out } = self.share;
        let (origin, size) = (pixels.start, pixels.len() * 16);
        let tiling = Cuts::new(D::HEIGHTS, g.x.output, is_pointwise(g), pixels);
        let strip = planes::strip(D::HEIGHTS, (g.ic / g.groups) as usize);
        for first in (0..tiling.len()).step_by(strip) {
            let strip = first..(first + strip).min(tiling.len());
            let mut plane = planes.start;
            while plane < planes.end {
                let block = plane % blocks;
                let count = together(g.oc, g.groups, block, D::BLOCKS.min(planes.end - plane));
                let reads = Reads::<G>::new(o, plane / blocks, block, count);
                let mut ahead = reads.ahead.over(strip.len());
                for tile in strip.clone() {
                    let pixels = tiling.start(tile)..tiling.start(tile + 1);
                    let at = (pixels.start - origin) * 16..(pixels.end - origin) * 16;
                    let from = [plane * whole + pixels.start * 16, whole];
                    let to = To { finish: &o.finish, from, out: out.tile(plane - planes.start, count, size, at) };
                    let task = Task { reads: &reads, ahead: ahead.next(), to };
                    match count {
                        1 => task.run::<D, 1>(d, pixels, patch),
                        2 if const { D::BLOCKS >= 2 } => task.run::<D, 2>(d, pixels, patch),
                        _ => unreachable!("a tile has between 1 and BLOCKS planes"),
                    }
                }
                plane += count;
            }
        }
    }

    #[inline(always)]
    fn depthwise<D: Dot>(self, d: D, patch: &mut [[u8; 16]; PATCH]) {
        let (o, g) = (self.o, self.o.g);
        let blocks = (g.oc as usize).div_ceil(16);
        let (area, whole) = ((g.y.input * g.x.input) as usize, g.y.output as usize * g.x.output as usize * 16);
        let taps = g.y.kernel as usize * g.x.kernel as usize;
        let Share { planes, pixels, mut out } = self.share;
        let (origin, size) = (pixels.start, pixels.len() * 16);
        let tiling = Cuts::new(D::HEIGHTS, g.x.output, is_pointwise(g), pixels);
        for plane in planes.clone() {
            let block = plane % blocks;
            let cells = &o.input.as_chunks::<16>().0[plane * area..(plane + 1) * area];
            let input = Input { g, cells, blocks: 1, pad: [o.pad; 16] };
            let weight = &o.weight.as_chunks::<16>().0[block * taps..(block + 1) * taps];
            let (bias, scale) = (tile::bias(o.bias, block), tile::scale(o.scale, block));
            for index in 0..tiling.len() {
                let (first, end) = (tiling.start(index), tiling.start(index + 1));
                let at = (first - origin) * 16..(end - origin) * 16;
                let from = [plane * whole + first * 16, whole];
                let to = To { finish: &o.finish, from, out: out.tile(plane - planes.start, 1, size, at) };
                let (input, count) = (&input, end - first);
                let task = Alone { input, weight, bias: &bias, scale, to };
                let (x, window) = (&g.x, Window::new(input, first, count, patch));
                let Some(window) = window.filter(|_| x.dilation == 1) else {
                    with_rows!(D, count, R => d.call(DepthwiseAny::<R> { task, first }));
                    continue;
                };
                match (x.kernel, x.stride) {
                    (3, 1) => with_rows!(D, count, R => d.call(Depthwise::<R, 3, 1> { task, window })),
                    (3, 2) => with_rows!(D, count, R => d.call(Depthwise::<R, 3, 2> { task, window })),
                    (5, 1) => with_rows!(D, count, R => d.call(Depthwise::<R, 5, 1> { task, window })),
                    (5, 2) => with_rows!(D, count, R => d.call(Depthwise::<R, 5, 2> { task, window })),
                    _ => with_rows!(D, count, R => d.call(DepthwiseAny::<R> { task, first })),
                }
            }
        }
    }
}

/// What the tiles of one or more output planes read.
struct Reads<'a, const G: usize> {
    input: Input<'a, Cell<G>>,
    /// From the first plane's block on.
    weight: &'a [Panel<G>],
    bias: &'a [i64],
    scale: &'a [f32],
    /// Weights of as many planes after these.
    ahead: Ahead<'a, [u8; 64]>,
}

impl<'a, const G: usize> Reads<'a, G> {
    #[inline(always)]
    fn new(o: &'a Operands<'a>, image: usize, block: usize, count: usize) -> Self {
        let g = o.g;
        let area = g.y.input as usize * g.x.input as usize;
        let lanes = 4 * G;
        let of_group = (g.ic / g.groups) as usize;
        let all = (g.ic as usize).div_ceil(lanes);
        let first = block * 16 / (g.oc / g.groups) as usize * of_group / lanes;
        let blocks = of_group.div_ceil(lanes);
        let cells: &[Cell<G>] = o.input.as_chunks::<4>().0.as_chunks::<G>().0;
        let lines = o.weight.as_chunks::<64>().0;
        let per_block = lines.len() / (g.oc as usize).div_ceil(16);
        let (weight, later) = lines[block * per_block..].split_at(count * per_block);
        Reads {
            input: Input {
                g,
                cells: &cells[(image * all + first) * area..][..blocks * area],
                blocks,
                pad: [[o.pad; 4]; G],
            },
            weight: weight.as_chunks::<G>().0,
            bias: &o.bias[block * 16..],
            scale: &o.scale[block * 16..],
            ahead: Ahead::new(&later[..later.len().min(count * per_block)], &[]),
        }
    }
}

/// Where a tile's bytes go.
struct To<'a, 'b> {
    finish: &'a Finish<'a>,
    /// Where they begin in the whole output, and how far apart its planes are.
    from: [usize; 2],
    /// What the tile has of one plane, and of the next.
    out: [&'b mut [u8]; 2],
}

/// One tile of `B` output planes.
struct Task<'a, 'b, const G: usize> {
    reads: &'a Reads<'a, G>,
    ahead: Ahead<'a, [u8; 64]>,
    to: To<'a, 'b>,
}

impl<const G: usize> Task<'_, '_, G> {
    #[inline(always)]
    fn run<D: Dot, const B: usize>(self, d: D, pixels: Range<usize>, patch: &mut [Cell<G>]) {
        let (task, first, count) = (self, pixels.start, pixels.len());
        match (Window::new(&task.reads.input, first, count, patch), task.reads.input.g.x.stride) {
            (Some(window), 1) => with_rows!(D, count, R => d.call(Tile::<R, B, G, 1> { task, window })),
            (Some(window), 2) => with_rows!(D, count, R => d.call(Tile::<R, B, G, 2> { task, window })),
            // First layers.
            (Some(window), 4) if G == 1 => with_rows!(D, count, R => d.call(Tile::<R, B, G, 4> { task, window })),
            _ => with_rows!(D, count, R => d.call(TileAny::<R, B, G> { task, first })),
        }
    }

    #[inline(always)]
    fn begin<D: Dot, const R: usize, const B: usize>(&self, d: D) -> [[D::Sums; R]; B] {
        let mut sums = [[d.start(&tile::bias(self.reads.bias, 0)); R]; B];
        for b in 1..B {
            sums[b] = [d.start(&tile::bias(self.reads.bias, b)); R];
        }
        sums
    }

    /// The weights of each plane at one tap.
    #[inline(always)]
    fn panels<const B: usize>(&self, at: usize) -> [&Panel<G>; B] {
        let plane = self.reads.weight.len() / B;
        let mut panels = [&self.reads.weight[at]; B];
        for b in 1..B {
            panels[b] = &self.reads.weight[b * plane + at];
        }
        panels
    }

    /// Written out for each plane: in a loop over them sums would go through memory.
    #[inline(always)]
    fn end<D: Dot, const R: usize, const B: usize>(self, d: D, sums: [[D::Sums; R]; B]) {
        const { assert!(B == 1 || B == 2) };
        let To { finish, from: [at, plane], out: [one, two] } = self.to;
        finish.store(d, &sums[0], tile::scale(self.reads.scale, 0), at, one);
        if B > 1 {
            finish.store(d, &sums[B - 1], tile::scale(self.reads.scale, B - 1), at + plane, two);
        }
    }
}

/// `R` pixels of `B` output planes, `STEP` cells apart in the input.
struct Tile<'a, 'b, 'c, const R: usize, const B: usize, const G: usize, const STEP: usize> {
    task: Task<'a, 'b, G>,
    window: Window<'c, Cell<G>>,
}

impl<const R: usize, const B: usize, const G: usize, const STEP: usize> DotKernel for Tile<'_, '_, '_, R, B, G, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Tile { task, window } = self;
        let Input { g, blocks, .. } = task.reads.input;
        let (kh, kw, dx) = (g.y.kernel as usize, g.x.kernel as usize, g.x.dilation as usize);
        let mut ahead = task.ahead.over(blocks * kh * kw);
        let mut sums = task.begin::<D, R, B>(d);
        let mut tap = 0;
        for block in 0..blocks {
            for ky in 0..kh {
                let at = block * window.block + ky * window.row;
                for kx in 0..kw {
                    ahead.fetch();
                    accumulate(d, &mut sums, spaced::<_, R, STEP>(&window.cells[at + kx * dx..]), task.panels(tap));
                    tap += 1;
                }
            }
        }
        task.end(d, sums);
    }
}

/// [`Tile`] for pixels that are found one by one.
struct TileAny<'a, 'b, const R: usize, const B: usize, const G: usize> {
    task: Task<'a, 'b, G>,
    first: usize,
}

impl<const R: usize, const B: usize, const G: usize> DotKernel for TileAny<'_, '_, R, B, G> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let TileAny { task, first } = self;
        let Input { g, blocks, cells, pad } = &task.reads.input;
        let area = g.y.input as usize * g.x.input as usize;
        let pixels = Scattered::<R>::new(g, first);
        let mut sums = task.begin::<D, R, B>(d);
        let mut tap = 0;
        for block in 0..*blocks {
            let plane = &cells[block * area..][..area];
            for ky in 0..g.y.kernel as usize {
                for kx in 0..g.x.kernel as usize {
                    accumulate(d, &mut sums, pixels.taps(g, plane, pad, [ky, kx]), task.panels(tap));
                    tap += 1;
                }
            }
        }
        task.end(d, sums);
    }
}

/// One tile of one plane, every channel for itself.
struct Alone<'a, 'b> {
    input: &'a Input<'a, [u8; 16]>,
    /// `(kh, kw)`.
    weight: &'a [[u8; 16]],
    bias: &'a [i32; 16],
    scale: &'a [f32; 16],
    to: To<'a, 'b>,
}

impl Alone<'_, '_> {
    #[inline(always)]
    fn end<D: Dot, const R: usize>(self, d: D, sums: [D::Sums; R]) {
        let To { finish, from: [at, _], out: [to, _] } = self.to;
        finish.store(d, &sums, self.scale, at, to);
    }
}

/// `R` pixels, `STEP` cells apart in the input, under a kernel of `K` columns.
struct Depthwise<'a, 'b, 'c, const R: usize, const K: usize, const STEP: usize> {
    task: Alone<'a, 'b>,
    window: Window<'c, [u8; 16]>,
}

impl<const R: usize, const K: usize, const STEP: usize> DotKernel for Depthwise<'_, '_, '_, R, K, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Depthwise { task, window } = self;
        let mut sums = [d.start(task.bias); R];
        for (ky, weights) in task.weight.as_chunks::<K>().0.iter().enumerate() {
            let cells = &window.cells[ky * window.row..][..(R - 1) * STEP + K];
            for kx in 0..K {
                for r in 0..R {
                    sums[r] = d.multiply(sums[r], &cells[r * STEP + kx], &weights[kx]);
                }
            }
        }
        task.end(d, sums);
    }
}

/// [`Depthwise`] for pixels that are found one by one.
struct DepthwiseAny<'a, 'b, const R: usize> {
    task: Alone<'a, 'b>,
    first: usize,
}

impl<const R: usize> DotKernel for DepthwiseAny<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let DepthwiseAny { task, first } = self;
        let Input { g, cells, pad, .. } = task.input;
        let pixels = Scattered::<R>::new(g, first);
        let mut sums = [d.start(task.bias); R];
        for (ky, weights) in task.weight.chunks_exact(g.x.kernel as usize).enumerate() {
            for (kx, weight) in weights.iter().enumerate() {
                let cells = pixels.taps(g, cells, pad, [ky, kx]);
                for r in 0..R {
                    sums[r] = d.multiply(sums[r], cells[r], weight);
                }
            }
        }
        task.end(d, sums);
    }
}

#[cfg(test)]
mod tests;
