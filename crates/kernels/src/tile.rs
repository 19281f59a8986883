//! The register tile shared by convolutions and matrix products: rows of input times blocks of sixteen columns, at most
//! `ROWS` times `BLOCKS` of the kernel set.
//!
//! The accumulators must stay in registers, so their number is a constant of the function (`R`) and they are indexed only
//! in loops of constant length. An accumulator is always extended in the same order over the inner extent, whatever the
//! tile it is part of; that is what makes results independent of how the output is cut up.
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use crate::arch::Simd;
use crate::unary::Activation;
use core::ops::Range;

/// One block of lanes.
pub(crate) type Lanes = [f32; 16];

/// What a padding position reads.
pub(crate) const ZERO: Lanes = [0.0; 16];

/// Evaluates `$body` with the constant `$R` equal to `$rows`, which is at most `S::ROWS`.
macro_rules! with_rows {
    ($S:ident, $rows:expr, $R:ident => $body:expr) => {
        match $rows {
            1 => {
                const $R: usize = 1;
                $body
            }
            2 if const { $S::ROWS >= 2 } => {
                const $R: usize = 2;
                $body
            }
            3 if const { $S::ROWS >= 3 } => {
                const $R: usize = 3;
                $body
            }
            4 if const { $S::ROWS >= 4 } => {
                const $R: usize = 4;
                $body
            }
            5 if const { $S::ROWS >= 5 } => {
                const $R: usize = 5;
                $body
            }
            6 if const { $S::ROWS >= 6 } => {
                const $R: usize = 6;
                $body
            }
            7 if const { $S::ROWS >= 7 } => {
                const $R: usize = 7;
                $body
            }
            8 if const { $S::ROWS >= 8 } => {
                const $R: usize = 8;
                $body
            }
            9 if const { $S::ROWS >= 9 } => {
                const $R: usize = 9;
                $body
            }
            10 if const { $S::ROWS >= 10 } => {
                const $R: usize = 10;
                $body
            }
            11 if const { $S::ROWS >= 11 } => {
                const $R: usize = 11;
                $body
            }
            12 if const { $S::ROWS >= 12 } => {
                const $R: usize = 12;
                $body
            }
            13 if const { $S::ROWS >= 13 } => {
                const $R: usize = 13;
                $body
            }
            14 if const { $S::ROWS >= 14 } => {
                const $R: usize = 14;
                $body
            }
            _ => unreachable!("a tile has between 1 and ROWS rows"),
        }
    };
}
pub(crate) use with_rows;

/// `acc[b][r] += sum over l < count of rows[r][l] * weights[b][l]`, in the order of `l`; `count` is at most 16.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const R: usize, const B: usize>(
    s: S,
    acc: &mut [[S::V; R]; B],
    rows: [&Lanes; R],
    mut weights: [&[Lanes]; B],
    count: usize,
) {
    let count = count.min(16);
    for b in 0..B {
        weights[b] = &weights[b][..count];
    }
    for l in 0..count {
        let mut w = [s.splat(0.0); B];
        for b in 0..B {
            w[b] = s.load(&weights[b][l]);
        }
        for r in 0..R {
            let x = s.splat(rows[r][l]);
            for b in 0..B {
                acc[b][r] = s.mul_add(x, w[b], acc[b][r]);
            }
        }
    }
}

/// Splits `total` rows into the fewest tiles of at most `most`, as even as possible: short tiles leave arithmetic units
/// idle. The tiling depends on `total` and the kernel set only.
#[derive(Clone, Copy)]
pub(crate) struct Tiling {
    total: usize,
    tiles: usize,
}

impl Tiling {
    pub(crate) fn new(total: usize, most: usize) -> Self {
        Tiling { total, tiles: total.div_ceil(most) }
    }

    /// How many tiles.
    pub(crate) fn len(&self) -> usize {
        self.tiles
    }

    /// First row of tile `index`, or the end of the last.
    #[inline(always)]
    pub(crate) fn start(&self, index: usize) -> usize {
        let (even, more) = (self.total / self.tiles.max(1), self.total % self.tiles.max(1));
        index * even + index.min(more)
    }
}

/// What is added to a finished sum.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Values as long as the output.
    Other(&'a [f32]),
    /// The values the output holds before the call.
    InPlace,
}

impl Residual<'_> {
    /// The same for a part of the output.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        match self {
            Residual::Other(values) => Residual::Other(&values[range]),
            other => *other,
        }
    }
}

/// Where finished sums go, and what happens to them on the way.
pub(crate) struct Finish<'a, 'b> {
    /// Added, element by element of `to`.
    pub(crate) residual: Option<&'a [f32]>,
    /// Whether what `to` holds is added.
    pub(crate) in_place: bool,
    /// Its clamp is applied.
    pub(crate) act: &'a Activation,
    /// Rows of the output.
    pub(crate) to: &'b mut [f32],
}

impl Finish<'_, '_> {
    /// Stores row `r`'s sums at `at` of the output: sixteen, or the fewer that `to` has left up to `columns`.
    #[inline(always)]
    pub(crate) fn store<S: Simd>(&mut self, s: S, mut sums: S::V, at: usize, columns: usize) {
        let to = &mut self.to[at..at + columns];
        let residual = self.residual.map(|residual| &residual[at..at + columns]);
        match to.first_chunk_mut::<16>() {
            Some(to) => {
                if self.in_place {
                    sums = s.add(sums, s.load(to));
                } else if let Some(residual) = residual.and_then(|r| r.first_chunk::<16>()) {
                    sums = s.add(sums, s.load(residual));
                }
                s.store(self.act.clamp_lanes(s, sums), to);
            }
            None => {
                let mut lanes = ZERO;
                s.store(sums, &mut lanes);
                for (i, (lane, to)) in lanes.iter_mut().zip(to.iter()).enumerate() {
                    *lane += if self.in_place { *to } else { residual.map_or(0.0, |r| r[i]) };
                }
                self.act.clamp(&mut lanes);
                to.copy_from_slice(&lanes[..columns]);
            }
        }
    }
}
