//! Matrix products: constant packed weights ([`dense`]) and two computed values ([`matmul()`]).
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::gemm_tile::{Begin, Panels, Rows, Tile};
use crate::geometry::{Dense, UnaryOp};
use crate::parallel::{Compute, MOVE};
use crate::tile::{Ahead, Lanes, Residual, Tiling};
use crate::unary::Activation;
use core::ops::Range;

pub use crate::matmul::matmul;

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
        // Four blocks pass together; fewer where a thread would not get many of those.
        let unit = if n >= 960 { 4 } else { 1 };
        return compute.split(out, unit * 16, cost.saturating_mul(MOVE / 2), |units, out| {
            let blocks = units.start * unit..units.start * unit + out.len().div_ceil(16);
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

/// Inner elements of one pass times blocks of a tile: the weights of a register tile, 24 KiB at most, stay in the first-level
/// cache while the rows of a panel pass. Between passes the sums lie in the output; stored and loaded they stay the same, and
/// so does the order of additions.
const DEPTH: usize = 384;

/// Columns that are finished together: their sums, and finished values that wait for an activation a tile cannot apply, stay
/// in the second-level cache beside the rows of a panel.
const STRIP: usize = 256;

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
            let depth = if tiling.len() > 1 { DEPTH / S::BLOCKS } else { k.max(1) };
            for left in (0..n).step_by(STRIP) {
                let right = (left + STRIP).min(n);
                for first in (0..k.max(1)).step_by(depth) {
                    let depth = first..(first + depth).min(k);
                    let last = depth.end == k;
                    let mut column = left;
                    while column < right {
                        let wide = if column + wide * 16 <= right { wide } else { 1 };
                        let end = (column + wide * 16).min(right);
                        // The same depth of the next columns; after the last, the next depth of the first.
                        let next = match (end < right, last) {
                            (true, _) => end / 16 * k + first,
                            (false, false) => left / 16 * k + depth.end,
                            (false, true) => right.div_ceil(16) * k,
                        };
                        let mut ahead = p.ahead(next, wide, depth.len(), tiling.len()).over(tiling.len());
                        for tile in 0..tiling.len() {
                            let (row, below) = (top + tiling.start(tile), top + tiling.start(tile + 1));
                            let ahead = ahead.next();
                            let (at, to) = (row * n + column, &mut out[row * n + column..(below - 1) * n + end]);
                            let begin = p.begin(column, first == 0, at..at + to.len());
                            let input = Rows { values: &p.input[row * k + first..], step: k, column: 1 };
                            let weight = Panels { vectors: &p.weight[column / 16 * k + first..], step: k };
                            let act = last.then_some(&act);
                            let tile = Tile { input, weight, ahead, depth: depth.len(), begin, act, step: n, to };
                            tile.run(s, below - row, end - column);
                        }
                        column = end;
                    }
                }
                for row in out[top * n..bottom * n].chunks_exact_mut(n) {
                    act.finish(s, &mut row[left..right]);
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
        Ahead::new(block(0), if wide > 1 { block(1) } else { &[] })
    }

    /// What the sums of a tile of columns from `column` on begin with; `range` is its place in the output.
    #[inline(always)]
    fn begin(&self, column: usize, first: bool, range: Range<usize>) -> Begin<'a> {
        match self.residual {
            _ if !first => Begin { bias: None, residual: None, sums: true },
            Residual::None => Begin { bias: self.bias(column), residual: None, sums: false },
            Residual::InPlace => Begin { bias: self.bias(column), residual: None, sums: true },
            Residual::Other(values) => Begin { bias: self.bias(column), residual: Some(&values[range]), sums: false },
        }
    }

    /// From `column` on.
    #[inline(always)]
    fn bias(&self, column: usize) -> Option<&'a [Lanes]> {
        self.bias.map(|bias| &bias[column / 16..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
