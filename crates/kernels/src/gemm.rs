//! Matrix products: constant packed weights ([`dense`]) and two computed values ([`matmul`]).
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, KernelSet, Simd};
use crate::geometry::{Dense, MatMul, UnaryOp};
use crate::strided::Walk;
use crate::tile::{Finish, Lanes, Residual, Tiling, ZERO, accumulate, with_rows};
use crate::unary::Activation;

/// `input` holds [`Dense::input_len`] elements, `weight` [`Dense::weight_len`], `bias` [`Dense::bias_len`], `out` and the
/// residual [`Dense::output_len`]. Each output is `act(bias + products + residual)`.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn dense(
    set: KernelSet,
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
    let act = Activation::new(act);
    let operands = Operands { k, n, input, weight: weight.as_chunks().0, bias };
    set.dispatch(Product { set, m, operands, residual, act, out });
}

/// A batched product: `out[b, i, j] = sum over l of a[b, i, l] * b[b, l, j]` with strides for every axis of the operands.
/// `a` holds [`MatMul::a_len`] elements at least, `b` [`MatMul::b_len`], `out` exactly [`MatMul::output_len`].
pub fn matmul(set: KernelSet, geometry: &MatMul, a: &[f32], b: &[f32], out: &mut [f32]) {
    let g = geometry;
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: matmul's output length");
    let size = g.m as usize * g.n as usize;
    if size == 0 {
        return;
    }
    let walk = Walk::from_lists(&g.batch.dims, [&g.batch.a, &g.batch.b]);
    let (len, [step_a, step_b]) = (walk.row_len(), walk.row_strides());
    let mut products = out.chunks_exact_mut(size);
    walk.for_each_row(|[at_a, at_b]| {
        for (i, out) in (0..len as isize).zip(&mut products) {
            let (a, b) = (&a[(at_a + i * step_a) as usize..], &b[(at_b + i * step_b) as usize..]);
            set.dispatch(Strided { g, a, b, out });
        }
    });
}

/// Rows whose input is kept in the second-level cache while all columns pass.
const PANEL: usize = 96;

/// What the tiles of a product read.
struct Operands<'a> {
    k: usize,
    n: usize,
    input: &'a [f32],
    weight: &'a [Lanes],
    bias: Option<&'a [f32]>,
}

struct Product<'a> {
    set: KernelSet,
    m: usize,
    operands: Operands<'a>,
    residual: Residual<'a>,
    act: Activation,
    out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.operands.n;
        let blocks = n.div_ceil(16);
        let tiling = Tiling::new(self.m, S::ROWS);
        // Few rows leave registers for several columns; a single pair would wait for its own sums.
        let wide = match self.m {
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let mut first = 0;
        while first < tiling.len() {
            let last = (first + PANEL / S::ROWS).min(tiling.len());
            let mut block = 0;
            while block < blocks {
                let count = if block + wide <= blocks { wide } else { 1 };
                for tile in first..last {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    let (p, to) = (&self.operands, start * n..end * n);
                    let (residual, in_place) = match self.residual {
                        Residual::Other(values) => (Some(&values[to.clone()]), false),
                        Residual::InPlace => (None, true),
                        Residual::None => (None, false),
                    };
                    let finish = Finish { residual, in_place, act: &self.act, to: &mut self.out[to] };
                    match (end - start, count) {
                        (1, 4) => s.call(Rows::<1, 4> { p, row: start, block, finish }),
                        (1, 2) => s.call(Rows::<1, 2> { p, row: start, block, finish }),
                        (2, 2) => s.call(Rows::<2, 2> { p, row: start, block, finish }),
                        (3, 2) if S::ROWS >= 3 => s.call(Rows::<3, 2> { p, row: start, block, finish }),
                        (rows, _) => with_rows!(S, rows, R => s.call(Rows::<R, 1> { p, row: start, block, finish })),
                    }
                }
                block += count;
            }
            self.act.finish(self.set, &mut self.out[tiling.start(first) * n..tiling.start(last) * n]);
            first = last;
        }
    }
}

/// Rows `row .. row + R` of column blocks `block .. block + B`.
struct Rows<'a, 'b, const R: usize, const B: usize> {
    p: &'a Operands<'a>,
    row: usize,
    block: usize,
    finish: Finish<'a, 'b>,
}

impl<const R: usize, const B: usize> Kernel for Rows<'_, '_, R, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { p, row, block, mut finish } = self;
        let k = p.k;
        let mut weight: [&[Lanes]; B] = [&[]; B];
        let mut acc = [[s.splat(0.0); R]; B];
        for b in 0..B {
            weight[b] = &p.weight[(block + b) * k..(block + b + 1) * k];
            let bias = p.bias.and_then(|bias| bias[(block + b) * 16..].first_chunk::<16>()).unwrap_or(&ZERO);
            acc[b] = [s.load(bias); R];
        }
        let mut rows: [(&[Lanes], &[f32]); R] = [(&[], &[]); R];
        for r in 0..R {
            rows[r] = p.input[(row + r) * k..(row + r + 1) * k].as_chunks::<16>();
        }
        for chunk in 0..k / 16 {
            let mut x = [&ZERO; R];
            for r in 0..R {
                x[r] = &rows[r].0[chunk];
            }
            accumulate(s, &mut acc, x, weight.map(|w| &w[chunk * 16..]), 16);
        }
        // The tail is read in place: a padded copy of it would draw the accumulators into memory with it.
        for (l, at) in (k / 16 * 16..k).enumerate() {
            for b in 0..B {
                let w = s.load(&weight[b][at]);
                for r in 0..R {
                    acc[b][r] = s.mul_add(s.splat(rows[r].1[l]), w, acc[b][r]);
                }
            }
        }
        for b in 0..B {
            let column = (block + b) * 16;
            for r in 0..R {
                finish.store(s, acc[b][r], r * p.n + column, (p.n - column).min(16));
            }
        }
    }
}

#[inline(always)]
fn padded(tail: &[f32]) -> Lanes {
    let mut lanes = ZERO;
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// Inner elements packed at a time when an operand is not laid out as the tile wants it; the panel lies on the stack (4 KiB).
const DEPTH: usize = 64;

/// One product of strided matrices.
struct Strided<'a> {
    g: &'a MatMul,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Strided<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Strided { g, a, b, out } = self;
        let (m, k, n) = (g.m as usize, g.k as usize, g.n as usize);
        let [b_row, b_column] = g.b.map(|step| step as usize);
        let tiling = Tiling::new(m, S::ROWS);
        let mut panel = [ZERO; DEPTH];
        if k == 0 {
            out.fill(0.0);
        }
        for column in (0..n).step_by(16) {
            let columns = (n - column).min(16);
            for first in (0..k).step_by(DEPTH) {
                let depth = (k - first).min(DEPTH);
                for (l, lanes) in panel[..depth].iter_mut().enumerate() {
                    let from = &b[(first + l) * b_row + column * b_column..];
                    match from.first_chunk::<16>() {
                        Some(from) if b_column == 1 && columns == 16 => *lanes = *from,
                        _ => {
                            for (i, lane) in lanes[..columns].iter_mut().enumerate() {
                                *lane = from[i * b_column];
                            }
                        }
                    }
                }
                for tile in 0..tiling.len() {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    let to = &mut out[start * n..end * n];
                    let (panel, at) = (&panel[..depth], Position { row: start, first, column, columns });
                    with_rows!(S, end - start, R => s.call(StridedRows::<R> { g, a, panel, at, to }));
                }
            }
        }
    }
}

/// Where a tile of a strided product lies.
#[derive(Clone, Copy)]
struct Position {
    row: usize,
    /// First inner element.
    first: usize,
    column: usize,
    columns: usize,
}

/// Extends the sums of `R` rows, which lie in `to` between panels.
struct StridedRows<'a, const R: usize> {
    g: &'a MatMul,
    a: &'a [f32],
    panel: &'a [Lanes],
    at: Position,
    to: &'a mut [f32],
}

impl<const R: usize> Kernel for StridedRows<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let StridedRows { g, a, panel, at, to } = self;
        let [a_row, a_column] = g.a.map(|step| step as usize);
        let n = g.n as usize;
        let mut acc = [[s.splat(0.0); R]];
        if at.first > 0 {
            for r in 0..R {
                let sums = &to[r * n + at.column..][..at.columns];
                acc[0][r] = match sums.first_chunk() {
                    Some(sums) => s.load(sums),
                    None => s.load(&padded(sums)),
                };
            }
        }
        for (index, panel) in panel.chunks(16).enumerate() {
            let first = at.first + index * 16;
            let from: [&[f32]; R] = core::array::from_fn(|r| &a[(at.row + r) * a_row + first * a_column..]);
            if a_column == 1 && from.iter().all(|row| row.len() >= 16) {
                let x = from.map(|row| row.first_chunk::<16>().unwrap_or(&ZERO));
                accumulate(s, &mut acc, x, [panel], panel.len());
            } else {
                let x: [Lanes; R] = from.map(|row| {
                    let mut lanes = ZERO;
                    for (l, lane) in lanes[..panel.len()].iter_mut().enumerate() {
                        *lane = row[l * a_column];
                    }
                    lanes
                });
                accumulate(s, &mut acc, x.each_ref(), [panel], panel.len());
            }
        }
        let [acc] = acc;
        for r in 0..R {
            let sums = &mut to[r * n + at.column..][..at.columns];
            match sums.first_chunk_mut() {
                Some(sums) => s.store(acc[r], sums),
                None => {
                    let mut lanes = ZERO;
                    s.store(acc[r], &mut lanes);
                    sums.copy_from_slice(&lanes[..at.columns]);
                }
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
                    dense(set, &g, &input, &packed, Some(&bias), residual, act, &mut out);
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
                dense(set, &g, input, &packed, None, Residual::None, None, &mut out);
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
                    matmul(set, &g, &left, &right, &mut out);
                    assert_close(&alloc::format!("{} {g:?}", set.name()), &out, &expected, 2e-5);
                }
            }
        }
    }
}
