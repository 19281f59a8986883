//! Matrix products: constant packed weights ([`dense`]) and two computed values ([`matmul`]).
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Dense, MatMul, UnaryOp};
use crate::parallel::Compute;
use crate::strided::Walk;
use crate::tile::{Ahead, Lanes, Residual, Tiling, ZERO, accumulate, with_rows};
use crate::unary::Activation;
use core::ops::Range;

/// `input` holds [`Dense::input_len`] elements, `weight` [`Dense::weight_len`], `bias` [`Dense::bias_len`], `out` and the
/// residual [`Dense::output_len`]. Each output is `act(bias + residual + products)`.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn dense(
    compute: Compute,
    geometry: &Dense,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Residual<'_>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    let g = geometry;
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: dense's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: dense's weight length");
    assert!(bias.is_none_or(|b| Some(b.len() as u64) == g.bias_len()), "validated: dense's bias length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: dense's output length");
    let (m, k, n) = (g.m as usize, g.k as usize, g.n as usize);
    let (set, cost) = (compute.set, (out.len() as u64).saturating_mul(k as u64));
    let (weight, bias) = (weight.as_chunks().0, bias.map(|bias| bias.as_chunks().0));
    let act = Activation::new(act);
    if m == 1 {
        // The cost is that of reading the weights; each thread reads its own.
        return compute.split(out, 16, cost, |blocks, out| {
            let residual = residual.part(blocks.start * 16..blocks.start * 16 + out.len());
            let (weight, bias) = (&weight[blocks.start * k..blocks.end * k], bias.map(|bias| &bias[blocks]));
            let operands = Operands { k, n: out.len(), input, weight, bias, residual };
            set.dispatch(Product { operands, act, out });
        });
    }
    compute.split(out, n, cost, |rows, out| {
        let residual = residual.part(rows.start * n..rows.end * n);
        let operands = Operands { k, n, input: &input[rows.start * k..rows.end * k], weight, bias, residual };
        set.dispatch(Product { operands, act, out });
    });
}

/// What the tiles of a product with constant weights read.
struct Operands<'a> {
    k: usize,
    n: usize,
    /// `(rows, k)`.
    input: &'a [f32],
    /// `(ceil(n / 16), k)`.
    weight: &'a [Lanes],
    /// `(ceil(n / 16))`.
    bias: Option<&'a [Lanes]>,
    residual: Residual<'a>,
}

/// Rows that pass together, so that what they read of one depth stays in the second-level cache: 256 KiB.
const PANEL: usize = 256;

/// Inner elements of one pass: the weights of a register tile, 24 KiB at most, stay in the first-level cache while the rows
/// of a panel pass. Between passes the sums lie in the output; stored and loaded they stay the same, and so does the order
/// of additions.
const DEPTH: usize = 192;

/// Finished columns over which the activation that a tile cannot apply runs while they are in the second-level cache.
const HOT: usize = 256;

struct Product<'a> {
    operands: Operands<'a>,
    act: Activation,
    out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { operands: p, act, out } = self;
        let (k, n) = (p.k, p.n);
        let rows = out.len() / n.max(1);
        // Few rows leave registers for several columns; a single pair would wait for its own sums.
        let wide = match rows {
            1 => 4,
            2 | 3 => 2,
            _ => S::BLOCKS,
        };
        let panels = rows.div_ceil(PANEL);
        for panel in 0..panels {
            let (top, bottom) = (rows * panel / panels, rows * (panel + 1) / panels);
            let tiling = Tiling::new(bottom - top, S::HEIGHTS);
            // A single tile has nothing to keep weights for.
            let depth = if tiling.len() > 1 { DEPTH } else { k.max(1) };
            for first in (0..k.max(1)).step_by(depth) {
                let depth = first..(first + depth).min(k);
                let last = depth.end == k;
                let (mut column, mut unfinished) = (0, 0);
                while column < n {
                    let wide = if column + wide * 16 <= n { wide } else { 1 };
                    let end = (column + wide * 16).min(n);
                    // The same depth of the next columns; after the last, the next depth of the first.
                    let next = match end < n {
                        true => end / 16 * k + first,
                        false if !last => depth.end,
                        false => p.weight.len(),
                    };
                    let ahead = p.ahead(next, wide, depth.len(), tiling.len());
                    for tile in 0..tiling.len() {
                        let (row, below) = (top + tiling.start(tile), top + tiling.start(tile + 1));
                        let ahead = ahead.share(tile, tiling.len());
                        let (at, to) = (row * n + column, &mut out[row * n + column..(below - 1) * n + end]);
                        let begin = match p.residual {
                            _ if first > 0 => Begin { bias: None, residual: None, sums: true },
                            Residual::None => Begin { bias: p.bias(column), residual: None, sums: false },
                            Residual::InPlace => Begin { bias: p.bias(column), residual: None, sums: true },
                            Residual::Other(values) => {
                                Begin { bias: p.bias(column), residual: Some(&values[at..at + to.len()]), sums: false }
                            }
                        };
                        let input = Rows { values: &p.input[row * k + first..], step: k, column: 1 };
                        let weight = Panels { vectors: &p.weight[column / 16 * k + first..], step: k };
                        let act = last.then_some(&act);
                        let tile = Tile { input, weight, ahead, depth: depth.len(), begin, act, step: n, to };
                        tile.run(s, below - row, end - column);
                    }
                    column = end;
                    if last && (end == n || end - unfinished >= HOT) {
                        for row in out[top * n..bottom * n].chunks_exact_mut(n) {
                            act.finish(s, &mut row[unfinished..end]);
                        }
                        unfinished = end;
                    }
                }
            }
        }
    }
}

impl<'a> Operands<'a> {
    /// `depth` inner elements of up to two blocks of columns from vector `at` on. A single tile reads every weight once, in
    /// order, which the CPU foresees.
    #[inline(always)]
    fn ahead(&self, at: usize, wide: usize, depth: usize, tiles: usize) -> Ahead<'a> {
        if tiles == 1 {
            return Ahead::NONE;
        }
        let block =
            |b: usize| self.weight.get(at + b * self.k..).map_or(&[][..], |lines| &lines[..depth.min(lines.len())]);
        Ahead::new([block(0), if wide > 1 { block(1) } else { &[] }])
    }

    /// From `column` on.
    #[inline(always)]
    fn bias(&self, column: usize) -> Option<&'a [Lanes]> {
        self.bias.map(|bias| &bias[column / 16..])
    }
}

/// The left operand of a tile, from its first row and inner element on.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    /// From row to row.
    step: usize,
    /// From inner element to inner element.
    column: usize,
}

/// The right operand of a tile, from its first block and inner element on: blocks of sixteen columns.
#[derive(Clone, Copy)]
struct Panels<'a> {
    vectors: &'a [Lanes],
    /// From block to block.
    step: usize,
}

/// What the sums of a tile begin with.
#[derive(Clone, Copy)]
struct Begin<'a> {
    bias: Option<&'a [Lanes]>,
    /// Laid out as the output.
    residual: Option<&'a [f32]>,
    /// Whether what the output holds is added.
    sums: bool,
}

/// A register tile: some rows of some blocks of columns.
struct Tile<'a, 'b> {
    input: Rows<'a>,
    weight: Panels<'a>,
    ahead: Ahead<'a>,
    /// Inner elements.
    depth: usize,
    begin: Begin<'a>,
    /// Its clamp is applied to sums that are finished.
    act: Option<&'a Activation>,
    /// From row to row of the output.
    step: usize,
    to: &'b mut [f32],
}

impl Tile<'_, '_> {
    /// `columns` is a multiple of sixteen, or less than that; just sixteen at most where `input.column` is not 1.
    #[inline(always)]
    fn run<S: Simd>(self, s: S, rows: usize, columns: usize) {
        if columns < 16 {
            return self.edge(s, rows, columns);
        }
        if self.input.column != 1 {
            return with_rows!(S, rows, R => s.call(Whole::<R, 1, false>(self)));
        }
        match (rows, columns) {
            (1, 64) => s.call(Whole::<1, 4, true>(self)),
            (1, 32) => s.call(Whole::<1, 2, true>(self)),
            (2, 32) => s.call(Whole::<2, 2, true>(self)),
            (3, 32) if const { S::HEIGHTS.has(3) } => s.call(Whole::<3, 2, true>(self)),
            (rows, 32) if const { S::BLOCKS >= 2 } => with_rows!(S, rows, R => s.call(Whole::<R, 2, true>(self))),
            (rows, _) => with_rows!(S, rows, R => s.call(Whole::<R, 1, true>(self))),
        }
    }

    /// A last block with fewer columns goes through whole lanes beside the output: tiles that look at every load and store
    /// were seen to keep their sums in memory.
    #[inline(always)]
    fn edge<S: Simd>(self, s: S, rows: usize, columns: usize) {
        let (step, to) = (self.step, self.to);
        let (mut sums, mut residual) = ([ZERO; MOST_ROWS], [ZERO; MOST_ROWS]);
        for (row, (sums, residual)) in sums.iter_mut().zip(&mut residual).enumerate().take(rows) {
            sums[..columns].copy_from_slice(&to[row * step..][..columns]);
            if let Some(values) = self.begin.residual {
                residual[..columns].copy_from_slice(&values[row * step..][..columns]);
            }
        }
        let begin = Begin { residual: self.begin.residual.map(|_| residual.as_flattened()), ..self.begin };
        let tile = Tile { begin, step: 16, to: sums.as_flattened_mut(), ..self };
        match tile.input.column {
            1 => with_rows!(S, rows, R => s.call(Whole::<R, 1, true>(tile))),
            _ => with_rows!(S, rows, R => s.call(Whole::<R, 1, false>(tile))),
        }
        for (row, sums) in sums.iter().enumerate().take(rows) {
            to[row * step..][..columns].copy_from_slice(&sums[..columns]);
        }
    }
}

/// No kernel set's tile has more.
const MOST_ROWS: usize = 14;

/// `R` rows of `B` blocks, none of which is cut short. `UNIT` says that inner elements are neighbours.
struct Whole<'a, 'b, const R: usize, const B: usize, const UNIT: bool>(Tile<'a, 'b>);

impl<const R: usize, const B: usize, const UNIT: bool> Kernel for Whole<'_, '_, R, B, UNIT> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tile { input, weight, ahead, depth, begin, act, step, to } = self.0;
        let mut acc = [[s.splat(0.0); R]; B];
        if begin.sums {
            for b in 0..B {
                for r in 0..R {
                    acc[b][r] = s.load(lanes(to, r * step + b * 16));
                }
            }
        }
        if let Some(bias) = begin.bias {
            for b in 0..B {
                let bias = s.load(&bias[b]);
                for r in 0..R {
                    acc[b][r] = if begin.sums { s.add(acc[b][r], bias) } else { bias };
                }
            }
        }
        if let Some(residual) = begin.residual {
            for b in 0..B {
                for r in 0..R {
                    acc[b][r] = s.add(acc[b][r], s.load(lanes(residual, r * step + b * 16)));
                }
            }
        }
        let mut weights: [&[Lanes]; B] = [&[]; B];
        for b in 0..B {
            weights[b] = &weight.vectors[b * weight.step..][..depth];
        }
        let mut rows: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            rows[r] = &input.values[r * input.step..]
                [..if UNIT { depth } else { depth.saturating_sub(1) * input.column + 1 }];
        }
        let whole = if UNIT { depth / 16 } else { 0 };
        let mut ahead = ahead.over(whole);
        for chunk in 0..whole {
            ahead.step(s);
            let mut x = [&ZERO; R];
            for r in 0..R {
                x[r] = lanes(rows[r], chunk * 16);
            }
            accumulate(s, &mut acc, x, weights.map(|w| &w[chunk * 16..]), 16);
        }
        for l in whole * 16..depth {
            for b in 0..B {
                let w = s.load(&weights[b][l]);
                for r in 0..R {
                    let x = rows[r][if UNIT { l } else { l * input.column }];
                    acc[b][r] = s.mul_add(s.splat(x), w, acc[b][r]);
                }
            }
        }
        if let Some(act) = act {
            for b in 0..B {
                for r in 0..R {
                    acc[b][r] = act.clamp_lanes(s, acc[b][r]);
                }
            }
        }
        for b in 0..B {
            for r in 0..R {
                if let Some(to) = to[r * step + b * 16..].first_chunk_mut() {
                    s.store(acc[b][r], to);
                }
            }
        }
    }
}

#[inline(always)]
fn lanes(values: &[f32], at: usize) -> &Lanes {
    values[at..].first_chunk().expect("a whole block lies in the operands of a tile")
}

/// A batched product: `out[b, i, j] = sum over l of a[b, i, l] * b[b, l, j]` with strides for every axis of the operands.
/// `a` holds [`MatMul::a_len`] elements at least, `b` [`MatMul::b_len`], `out` exactly [`MatMul::output_len`].
pub fn matmul(compute: Compute, geometry: &MatMul, a: &[f32], b: &[f32], out: &mut [f32]) {
    let g = geometry;
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: matmul's output length");
    let (m, n) = (g.m as usize, g.n as usize);
    if m == 0 || n == 0 {
        return;
    }
    let walk = Walk::from_lists(&g.batch.dims, [&g.batch.a, &g.batch.b]);
    let (len, [step_a, step_b]) = (walk.row_len(), walk.row_strides());
    let (set, cost) = (compute.set, (out.len() as u64).saturating_mul(g.k.into()));
    // Rows of all products, counted through.
    compute.split(out, n, cost, |rows, out| {
        let (mut product, mut rest) = (0, out);
        walk.for_each_row(|[at_a, at_b]| {
            for i in 0..len as isize {
                let mine = product * m..(product + 1) * m;
                let (start, end) = (rows.start.clamp(mine.start, mine.end), rows.end.clamp(mine.start, mine.end));
                product += 1;
                if start < end {
                    let (out, others) = core::mem::take(&mut rest).split_at_mut((end - start) * n);
                    rest = others;
                    let first = (start - mine.start) * g.a[0] as usize;
                    let (a, b) = (&a[(at_a + i * step_a) as usize + first..], &b[(at_b + i * step_b) as usize..]);
                    set.dispatch(Strided { g, a, b, out });
                }
            }
        });
    });
}

/// Inner elements packed at a time; the panel lies on the stack (8 KiB at most).
const PACKED: usize = 64;

/// Some rows of one product of strided matrices.
struct Strided<'a> {
    g: &'a MatMul,
    /// From the first of the rows on.
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Strided<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // A left operand that is read across its rows is too slow for wide tiles to matter.
        let wide = const { S::BLOCKS >= 2 } && self.g.a[1] == 1;
        if wide { self.panels::<S, 2>(s) } else { self.panels::<S, 1>(s) }
    }
}

impl Strided<'_> {
    /// In panels of `B` blocks of columns.
    #[inline(always)]
    fn panels<S: Simd, const B: usize>(self, s: S) {
        let Strided { g, a, b, out } = self;
        let (k, n) = (g.k as usize, g.n as usize);
        let [a_row, a_column] = g.a.map(|step| step as usize);
        let tiling = Tiling::new(out.len() / n, S::HEIGHTS);
        let mut panel = [[ZERO; PACKED]; B];
        if k == 0 {
            out.fill(0.0);
        }
        let mut column = 0;
        while column < n {
            let end = if column + 16 * B <= n { column + 16 * B } else { (column + 16).min(n) };
            for first in (0..k).step_by(PACKED) {
                let depth = first..(first + PACKED).min(k);
                for (panel, column) in panel.iter_mut().zip((column..end).step_by(16)) {
                    pack(g, b, &depth, column..end.min(column + 16), panel);
                }
                for tile in 0..tiling.len() {
                    let (row, below) = (tiling.start(tile), tiling.start(tile + 1));
                    let input = Rows { values: &a[row * a_row + first * a_column..], step: a_row, column: a_column };
                    let weight = Panels { vectors: panel.as_flattened(), step: PACKED };
                    let begin = Begin { bias: None, residual: None, sums: first > 0 };
                    let to = &mut out[row * n + column..(below - 1) * n + end];
                    let (ahead, depth) = (Ahead::NONE, depth.len());
                    let tile = Tile { input, weight, ahead, depth, begin, act: None, step: n, to };
                    tile.run(s, below - row, end - column);
                }
            }
            column = end;
        }
    }
}

/// Rows `depth` of up to sixteen columns of the right operand; missing columns keep what the panel holds.
#[inline(always)]
fn pack(g: &MatMul, b: &[f32], depth: &Range<usize>, columns: Range<usize>, panel: &mut [Lanes; PACKED]) {
    let [b_row, b_column] = g.b.map(|step| step as usize);
    let panel = &mut panel[..depth.len()];
    let from = &b[depth.start * b_row + columns.start * b_column..];
    if b_column == 1 && columns.len() == 16 {
        for (l, lanes) in panel.iter_mut().enumerate() {
            if let Some(from) = from[l * b_row..].first_chunk() {
                *lanes = *from;
            }
        }
    } else {
        for i in 0..columns.len() {
            for (lanes, &x) in panel.iter_mut().zip(from[i * b_column..].iter().step_by(b_row.max(1))) {
                lanes[i] = x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Strided2;
    use crate::test_support::{Rng, assert_close, len, sets};
    use alloc::vec;
    use alloc::vec::Vec;

    fn pack(weight: &[f32], k: usize, n: usize) -> Vec<f32> {
        let mut packed = vec![0.0; n.div_ceil(16) * k * 16];
        for l in 0..k {
            for j in 0..n {
                packed[(j / 16 * k + l) * 16 + j % 16] = weight[l * n + j];
            }
        }
        packed
    }

    #[test]
    fn dense_in_every_set_against_f64() {
        let mut rng = Rng(21);
        let shapes =
            [(1, 1, 1), (1, 5, 70), (1, 300, 64), (2, 33, 40), (3, 16, 17), (3, 20, 64), (5, 64, 33), (6, 31, 16)];
        let more = [(7, 100, 20), (13, 17, 100), (40, 48, 50), (205, 20, 35), (4, 0, 20), (0, 4, 20)];
        for (m, k, n) in shapes.into_iter().chain(more) {
            let g = Dense { m, k, n };
            let (m, k, n) = (m as usize, k as usize, n as usize);
            let (input, weight, mut bias) = (rng.vec(m * k), rng.vec(k * n), rng.vec(n));
            let other = rng.vec(m * n);
            let packed = pack(&weight, k, n);
            let reference = |residual: bool, act: &dyn Fn(f64) -> f64| -> Vec<f64> {
                let cell = |i: usize, j: usize| {
                    let products =
                        (0..k).map(|l| f64::from(input[i * k + l]) * f64::from(weight[l * n + j])).sum::<f64>();
                    act(products + f64::from(bias[j]) + if residual { f64::from(other[i * n + j]) } else { 0.0 })
                };
                (0..m * n).map(|at| cell(at / n, at % n)).collect()
            };
            let (plain, relu) = (reference(false, &|x| x), reference(true, &|x| x.max(0.0)));
            let tanh = reference(true, &f64::tanh);
            bias.resize(len(g.bias_len()), 0.0);
            for set in sets() {
                let what = alloc::format!("{} {g:?}", set.name());
                let run = |residual: Residual<'_>, act, mut out: Vec<f32>| {
                    dense(set.into(), &g, &input, &packed, Some(&bias), residual, act, &mut out);
                    out
                };
                let nan = vec![f32::NAN; m * n];
                assert_close(&what, &run(Residual::None, None, nan.clone()), &plain, 1e-5);
                assert_close(&what, &run(Residual::Other(&other), Some(UnaryOp::Relu), nan), &relu, 1e-5);
                assert_close(&what, &run(Residual::InPlace, Some(UnaryOp::Tanh), other.clone()), &tanh, 1e-5);
            }
        }
    }

    #[test]
    fn dense_rows_do_not_depend_on_their_neighbours() {
        let mut rng = Rng(22);
        let (k, n) = (77, 90);
        let input = rng.vec(20 * k);
        let packed = pack(&rng.vec(k * n), k, n);
        for set in sets() {
            let run = |m: usize, input: &[f32]| {
                let mut out = vec![0.0; m * n];
                let g = Dense { m: m as u32, k: k as u32, n: n as u32 };
                dense(set.into(), &g, input, &packed, None, Residual::None, None, &mut out);
                out
            };
            let whole = run(20, &input);
            for m in [1, 2, 3, 4, 7, 19] {
                let part = run(m, &input[k..(m + 1) * k]);
                assert!(
                    part.iter().zip(&whole[n..]).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{} m = {m}",
                    set.name()
                );
            }
        }
    }

    #[test]
    fn matmul_in_every_set_and_layout_against_f64() {
        let mut rng = Rng(23);
        let shapes =
            [(1, 1, 1), (5, 70, 33), (13, 16, 16), (7, 130, 40), (2, 64, 100), (3, 0, 5), (1, 200, 7), (4, 15, 31)];
        for (m, k, n) in shapes {
            for layout in 0..4 {
                let a = if layout & 1 == 0 { [k, 1] } else { [1, m] };
                let b = if layout & 2 == 0 { [n, 1] } else { [1, k] };
                // Batch 2 x 3: `a` repeats along the first axis, `b` along the second.
                let batch = Strided2 { dims: vec![2, 3], a: vec![0, m * k], b: vec![k * n, 0] };
                let g = MatMul { m, k, n, batch, a, b };
                let (left, right) = (rng.vec(len(g.a_len())), rng.vec(len(g.b_len())));
                let mut expected = Vec::new();
                for batch in 0..6 {
                    let (at_a, at_b) = (batch % 3 * m * k, batch / 3 * k * n);
                    for i in 0..m {
                        for j in 0..n {
                            let product = |l| {
                                f64::from(left[(at_a + i * a[0] + l * a[1]) as usize])
                                    * f64::from(right[(at_b + l * b[0] + j * b[1]) as usize])
                            };
                            expected.push((0..k).map(product).sum());
                        }
                    }
                }
                for set in sets() {
                    let mut out = vec![f32::NAN; expected.len()];
                    matmul(set.into(), &g, &left, &right, &mut out);
                    assert_close(&alloc::format!("{} {g:?}", set.name()), &out, &expected, 2e-5);
                }
            }
        }
    }
}
