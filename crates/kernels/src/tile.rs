//! The register tile shared by convolutions and matrix products: rows of input times one block of sixteen columns.
//!
//! The accumulators must stay in registers, so their number is a constant of the function (`R`) and they are indexed only
//! in loops of constant length. An accumulator is always extended in the same order over the inner extent, whatever the
//! tile it is part of; that is what makes results independent of how the output is cut up.

use crate::arch::Simd;
use crate::unary::Activation;

/// One block of lanes.
pub(crate) type Lanes = [f32; 16];

/// What a padding position reads.
pub(crate) const ZERO: Lanes = [0.0; 16];

/// Calls `$f::<S, …, R>($args)` with the constant `R` equal to `$rows`, which is at most `S::ROWS`.
macro_rules! with_rows {
    ($S:ident, $rows:expr, $f:ident $args:tt) => {
        match $rows {
            1 => $f::<$S, 1> $args,
            2 if $S::ROWS >= 2 => $f::<$S, 2> $args,
            3 if $S::ROWS >= 3 => $f::<$S, 3> $args,
            4 if $S::ROWS >= 4 => $f::<$S, 4> $args,
            5 if $S::ROWS >= 5 => $f::<$S, 5> $args,
            6 if $S::ROWS >= 6 => $f::<$S, 6> $args,
            7 if $S::ROWS >= 7 => $f::<$S, 7> $args,
            8 if $S::ROWS >= 8 => $f::<$S, 8> $args,
            9 if $S::ROWS >= 9 => $f::<$S, 9> $args,
            10 if $S::ROWS >= 10 => $f::<$S, 10> $args,
            11 if $S::ROWS >= 11 => $f::<$S, 11> $args,
            12 if $S::ROWS >= 12 => $f::<$S, 12> $args,
            _ => unreachable!("a tile has between 1 and ROWS rows"),
        }
    };
}
pub(crate) use with_rows;

/// `acc[b][r] += sum over l < count of rows[r][l] * weights[b][l * step]`, in the order of `l`; `count` is at most 16.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const R: usize, const B: usize>(
    s: S,
    acc: &mut [[S::V; R]; B],
    rows: [&Lanes; R],
    weights: [&[Lanes]; B],
    step: usize,
    count: usize,
) {
    for l in 0..count.min(16) {
        let mut w = [s.splat(0.0); B];
        for b in 0..B {
            w[b] = s.load(&weights[b][l * step]);
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

/// Adds the residual, applies the clamp of the activation and stores `to.len()` lanes.
#[inline(always)]
pub(crate) fn store(sums: Lanes, residual: Option<&[f32]>, in_place: bool, act: &Activation, to: &mut [f32]) {
    let mut lanes = sums;
    match to.first_chunk_mut::<16>() {
        Some(to) => {
            if in_place {
                lanes = core::array::from_fn(|i| lanes[i] + to[i]);
            } else if let Some(residual) = residual.and_then(|r| r.first_chunk::<16>()) {
                lanes = core::array::from_fn(|i| lanes[i] + residual[i]);
            }
            *to = act.clamp(lanes);
        }
        None => {
            for (i, (lane, to)) in lanes.iter_mut().zip(to.iter()).enumerate() {
                *lane += if in_place { *to } else { residual.map_or(0.0, |r| r[i]) };
            }
            let count = to.len();
            to.copy_from_slice(&act.clamp(lanes)[..count]);
        }
    }
}
