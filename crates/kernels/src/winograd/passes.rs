//! The passes of Winograd's method: input into points, products of points, products into pixels.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::{Cut, POINTS};
use crate::arch::{Kernel, Simd, prefetch};
use crate::geometry::{BLOCK, Conv2d};
use crate::tile::{Finish, Lanes, Tiling, ZERO, accumulate, with_rows};

/// `Bᵀ d`.
#[inline(always)]
fn input_points<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
    let (four, five, two, less) = (s.splat(4.0), s.splat(-5.0), s.splat(2.0), s.splat(-1.0));
    let minus_four = s.splat(-4.0);
    let (a, b) = (s.mul_add(minus_four, d[2], d[4]), s.mul_add(minus_four, d[1], d[3]));
    let (c, e) = (s.mul_add(less, d[2], d[4]), s.mul_add(less, d[1], d[3]));
    [
        s.mul_add(five, d[2], s.mul_add(four, d[0], d[4])),
        s.add(a, b),
        s.mul_add(less, b, a),
        s.mul_add(two, e, c),
        s.mul_add(s.splat(-2.0), e, c),
        s.mul_add(five, d[3], s.mul_add(four, d[1], d[5])),
    ]
}

/// `G w`.
#[inline(always)]
fn weight_points<S: Simd>(s: S, w: [S::V; 3]) -> [S::V; 6] {
    let zero = s.splat(0.0);
    let (sixth, less) = (s.splat(-1.0 / 6.0), s.splat(-1.0));
    let even = s.add(w[0], w[2]);
    let p = s.mul_add(s.splat(1.0 / 24.0), w[0], s.mul_add(s.splat(1.0 / 6.0), w[2], zero));
    let twelfth = s.splat(1.0 / 12.0);
    [
        s.mul_add(s.splat(0.25), w[0], zero),
        s.mul_add(sixth, s.add(even, w[1]), zero),
        s.mul_add(sixth, s.mul_add(less, w[1], even), zero),
        s.mul_add(twelfth, w[1], p),
        s.mul_add(s.splat(-1.0 / 12.0), w[1], p),
        w[2],
    ]
}

/// `Aᵀ m`.
#[inline(always)]
fn output_points<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    let less = s.splat(-1.0);
    let (even, odd) = (s.add(m[1], m[2]), s.mul_add(less, m[2], m[1]));
    let (far_even, far_odd) = (s.add(m[3], m[4]), s.mul_add(less, m[4], m[3]));
    [
        s.add(s.add(m[0], even), far_even),
        s.mul_add(s.splat(2.0), far_odd, odd),
        s.mul_add(s.splat(4.0), far_even, even),
        s.add(s.mul_add(s.splat(8.0), far_odd, odd), m[5]),
    ]
}

/// Transforms squares of input from `first` on, as many as `to` holds: `(group, point, square, channel)`.
pub(super) struct Input<'a> {
    pub(super) cut: Cut,
    pub(super) g: &'a Conv2d,
    pub(super) input: &'a [f32],
    pub(super) first: usize,
    pub(super) to: &'a mut [f32],
}

impl Kernel for Input<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Input { cut, g, input, first, to } = self;
        let (h, w, blocks) = (g.y.input as usize, g.x.input as usize, cut.ic_blocks);
        let cells = input.as_chunks::<16>().0;
        let groups = to.as_chunks_mut::<16>().0.chunks_mut(cut.input(cut.group) / BLOCK);
        for (group, to) in groups.enumerate() {
            let step = to.len() / POINTS;
            let squares = (step - 1) / blocks;
            for square in 0..squares {
                let index = first + group * cut.group + square;
                let y = (index / cut.across * 4) as isize - g.y.pad_begin as isize;
                let x = (index % cut.across * 4) as isize - g.x.pad_begin as isize;
                for block in 0..blocks {
                    let plane = &cells[block * h * w..(block + 1) * h * w];
                    let mut rows = [[s.splat(0.0); 6]; 6];
                    for i in 0..6 {
                        let y = y.wrapping_add_unsigned(i) as usize;
                        if y >= h {
                            continue;
                        }
                        let row = &plane[y * w..(y + 1) * w];
                        let mut d = [s.splat(0.0); 6];
                        match usize::try_from(x).ok().and_then(|x| row.get(x..)?.first_chunk::<6>()) {
                            Some(cells) => {
                                for j in 0..6 {
                                    d[j] = s.load(&cells[j]);
                                }
                            }
                            None => {
                                for j in 0..6 {
                                    d[j] = s.load(row.get(x.wrapping_add_unsigned(j) as usize).unwrap_or(&ZERO));
                                }
                            }
                        }
                        rows[i] = input_points(s, d);
                    }
                    for j in 0..6 {
                        let mut column = [s.splat(0.0); 6];
                        for i in 0..6 {
                            column[i] = rows[i][j];
                        }
                        let column = input_points(s, column);
                        for i in 0..6 {
                            s.store(column[i], &mut to[(i * 6 + j) * step + square * blocks + block]);
                        }
                    }
                }
            }
        }
    }
}

/// For each output block its transformed weights `(point, channel, 16)`, then its products `(point, square, 16)`.
pub(super) struct Products<'a> {
    pub(super) cut: Cut,
    /// Squares.
    pub(super) count: usize,
    pub(super) transformed: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) records: &'a mut [f32],
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Products { cut, count, transformed, weight, records } = self;
        let cells = transformed.as_chunks::<16>().0;
        let weights = weight.as_chunks::<16>().0.chunks_exact(cut.ic * 9);
        for (record, weight) in records.chunks_exact_mut(cut.record()).zip(weights) {
            let (_, to) = record.split_at_mut(cut.products());
            s.call(Weights { cut: &cut, weight, to: to.as_chunks_mut().0 });
        }
        for pair in records.chunks_mut(cut.record() * S::BLOCKS) {
            for point in 0..POINTS {
                for first in (0..count).step_by(cut.group) {
                    let squares = cut.group.min(count - first);
                    let at = cut.input(first) / BLOCK + point * cut.input_step(squares);
                    let rows = &cells[at..][..squares * cut.ic_blocks];
                    let tiling = Tiling::new(squares, S::HEIGHTS);
                    for tile in 0..tiling.len() {
                        let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                        let rows = &rows[start * cut.ic_blocks..end * cut.ic_blocks];
                        let to = point * cut.products_step() + first + start;
                        let call = Call { cut: &cut, rows, point, to, records: pair };
                        if const { S::BLOCKS >= 2 } && call.records.len() > cut.record() {
                            with_rows!(S, end - start, R => s.call(Tile::<R, 2>(call)));
                        } else {
                            with_rows!(S, end - start, R => s.call(Tile::<R, 1>(call)));
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the weights of one output block.
struct Weights<'a> {
    cut: &'a Cut,
    weight: &'a [Lanes],
    to: &'a mut [Lanes],
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Weights { cut, weight, to } = self;
        let (ic, step) = (cut.ic, cut.weights_step());
        for channel in 0..ic {
            let block = channel / BLOCK * BLOCK;
            let lanes = BLOCK.min(ic - block);
            let from = &weight[block * 9 + channel - block..];
            // The next sixteen channels, while these are transformed.
            let next = weight.get((block + BLOCK) * 9 + (channel - block) * 9..).unwrap_or(&[]);
            for line in next.iter().take(9) {
                prefetch(line);
            }
            let mut rows = [[s.splat(0.0); 6]; 3];
            for i in 0..3 {
                let mut w = [s.splat(0.0); 3];
                for j in 0..3 {
                    w[j] = s.load(&from[(i * 3 + j) * lanes]);
                }
                rows[i] = weight_points(s, w);
            }
            for j in 0..6 {
                let column = weight_points(s, [rows[0][j], rows[1][j], rows[2][j]]);
                for i in 0..6 {
                    s.store(column[i], &mut to[(i * 6 + j) * step + channel]);
                }
            }
        }
    }
}

/// What a register tile of [`Products`] gets.
struct Call<'a> {
    cut: &'a Cut,
    /// `(square, block of channels)`.
    rows: &'a [Lanes],
    point: usize,
    /// First vector of the products.
    to: usize,
    /// One for each output block.
    records: &'a mut [f32],
}

/// `R` squares of `B` output blocks at one point.
struct Tile<'a, const R: usize, const B: usize>(Call<'a>);

impl<const R: usize, const B: usize> Kernel for Tile<'_, R, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Call { cut, rows, point, to, records } = self.0;
        let (ic, blocks) = (cut.ic, cut.ic_blocks);
        let rows = &rows[..R * blocks];
        let mut acc = [[s.splat(0.0); R]; B];
        let mut weights: [&[Lanes]; B] = [&[]; B];
        for b in 0..B {
            let record = &records[b * cut.record() + cut.products()..(b + 1) * cut.record()];
            weights[b] = &record.as_chunks::<16>().0[point * cut.weights_step()..][..ic];
        }
        for block in 0..blocks {
            let mut x = [&ZERO; R];
            for r in 0..R {
                x[r] = &rows[r * blocks + block];
            }
            let weights = weights.map(|w| &w[block * BLOCK..]);
            let lanes = (ic - block * BLOCK).min(BLOCK);
            if lanes == BLOCK {
                accumulate(s, &mut acc, x, weights, BLOCK);
            } else {
                accumulate(s, &mut acc, x, weights, lanes);
            }
        }
        for b in 0..B {
            let (products, _) = records[b * cut.record()..][..cut.products()].as_chunks_mut::<16>();
            let products = &mut products[to..to + R];
            for r in 0..R {
                s.store(acc[b][r], &mut products[r]);
            }
        }
    }
}

/// Transforms the products of `count` squares from `first` on into pixels; `finish` is whole planes.
pub(super) struct Output<'a, 'b> {
    pub(super) cut: Cut,
    pub(super) g: &'a Conv2d,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) records: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) finish: Finish<'a, 'b>,
}

impl Kernel for Output<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { cut, g, first, count, records, bias, mut finish } = self;
        let (height, width) = (g.y.output as usize, g.x.output as usize);
        let plane = height * width * BLOCK;
        for (block, record) in records.chunks_exact(cut.record()).enumerate() {
            let products = record.as_chunks::<16>().0;
            let bias = bias.and_then(|bias| bias[block * BLOCK..].first_chunk::<16>()).unwrap_or(&ZERO);
            let bias = s.load(bias);
            for square in 0..count {
                let mut rows = [[s.splat(0.0); 4]; 6];
                for i in 0..6 {
                    let mut m = [s.splat(0.0); 6];
                    for j in 0..6 {
                        m[j] = s.load(&products[(i * 6 + j) * cut.products_step() + square]);
                    }
                    rows[i] = output_points(s, m);
                }
                let (y, x) = ((first + square) / cut.across * 4, (first + square) % cut.across * 4);
                for j in 0..4.min(width - x) {
                    let mut column = [s.splat(0.0); 6];
                    for i in 0..6 {
                        column[i] = rows[i][j];
                    }
                    let column = output_points(s, column);
                    for i in 0..4.min(height - y) {
                        let at = block * plane + ((y + i) * width + x + j) * BLOCK;
                        finish.store(s, &[s.add(column[i], bias)], at);
                    }
                }
            }
        }
        if first + count == cut.squares {
            finish.act.finish(s, finish.to);
        }
    }
}
