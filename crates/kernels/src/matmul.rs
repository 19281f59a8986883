//! Products of two computed matrices.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::gemm_tile::{Begin, Panels, Rows, Tile};
use crate::geometry::MatMul;
use crate::parallel::Compute;
use crate::strided::Walk;
use crate::tile::{Ahead, Lanes, Tiling, ZERO};
use core::ops::Range;

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
