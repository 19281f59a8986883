//! One register tile of a matrix product: some rows of some blocks of columns.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::expect_used,
        reason = "within lengths that the caller has checked: see the crate's page"
    )
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::{Kernel, Simd};
use crate::tile::{Ahead, Lanes, ZERO, accumulate, with_rows};
use crate::unary::Activation;

/// The left operand of a tile, from its first row and inner element on.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// From row to row.
    pub(crate) step: usize,
    /// From inner element to inner element.
    pub(crate) column: usize,
}

/// The right operand of a tile, from its first block and inner element on: blocks of sixteen columns.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) vectors: &'a [Lanes],
    /// From block to block.
    pub(crate) step: usize,
}

/// What the sums of a tile begin with.
#[derive(Clone, Copy)]
pub(crate) struct Begin<'a> {
    pub(crate) bias: Option<&'a [Lanes]>,
    /// Laid out as the output.
    pub(crate) residual: Option<&'a [f32]>,
    /// Whether what the output holds is added.
    pub(crate) sums: bool,
}

/// A register tile: some rows of some blocks of columns.
pub(crate) struct Tile<'a, 'b> {
    pub(crate) input: Rows<'a>,
    pub(crate) weight: Panels<'a>,
    pub(crate) ahead: Ahead<'a>,
    /// Inner elements.
    pub(crate) depth: usize,
    pub(crate) begin: Begin<'a>,
    /// Its clamp is applied to sums that are finished.
    pub(crate) act: Option<&'a Activation>,
    /// From row to row of the output.
    pub(crate) step: usize,
    pub(crate) to: &'b mut [f32],
}

impl Tile<'_, '_> {
    /// `columns` is a multiple of sixteen, or less than that; just sixteen at most where `input.column` is not 1.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, s: S, rows: usize, columns: usize) {
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
            ahead.fetch();
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
