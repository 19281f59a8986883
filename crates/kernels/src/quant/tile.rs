//! The register tile shared by convolutions and products: rows of bytes times blocks of sixteen columns.
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

use super::{Added, Bounds, Residual, Target};
use crate::arch::Dot;

/// `G` groups of four neighbouring input channels.
pub(super) type Cell<const G: usize> = [[u8; 4]; G];

/// What `G` groups of input channels give to sixteen output channels.
pub(super) type Panel<const G: usize> = [[u8; 64]; G];

/// Extends every sum of the tile by one tap.
#[inline(always)]
pub(super) fn accumulate<D: Dot, const R: usize, const B: usize, const G: usize>(
    d: D,
    sums: &mut [[D::Sums; R]; B],
    rows: [&Cell<G>; R],
    weights: [&Panel<G>; B],
) {
    for g in 0..G {
        let mut w = [d.weights(&weights[0][g]); B];
        for b in 1..B {
            w[b] = d.weights(&weights[b][g]);
        }
        for r in 0..R {
            for b in 0..B {
                sums[b][r] = d.dot(sums[b][r], rows[r][g], w[b]);
            }
        }
    }
}

/// What becomes of finished sums.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    to: Bounds,
    residual: Option<(Source<'a>, Added)>,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Output,
    Other(&'a [u8]),
}

impl<'a> Finish<'a> {
    #[inline(always)]
    pub(super) fn new(to: Target, residual: Residual<'a>) -> Finish<'a> {
        let residual = match residual {
            Residual::None => None,
            Residual::InPlace(sum) => Some((Source::Output, sum)),
            Residual::Other(values, sum) => Some((Source::Other(values), sum)),
        };
        Finish { to: Bounds::new(to), residual: residual.map(|(from, sum)| (from, Added::new(sum))) }
    }

    /// Sixteen sums of each of `R` neighbouring pixels, the first at `at` of the whole output.
    #[inline(always)]
    pub(super) fn store<D: Dot, const R: usize>(
        &self,
        d: D,
        sums: &[D::Sums; R],
        scale: &[f32; 16],
        at: usize,
        to: &mut [u8],
    ) {
        let to: &mut [[u8; 16]; R] = to.as_chunks_mut().0.first_chunk_mut().expect("a tile lies within its output");
        // Copies: for all the compiler knows, a store to `to` would change what is behind a reference.
        let (scale, bounds) = (&{ *scale }, &{ self.to });
        match self.residual {
            None => each!(r < R => to[r] = d.bytes(sums[r], scale, bounds)),
            Some((from, added)) => {
                let others = match from {
                    Source::Output => *to,
                    Source::Other(values) => {
                        *values[at..].as_chunks().0.first_chunk().expect("a residual as long as the output")
                    }
                };
                each!(r < R => to[r] = d.bytes_plus(sums[r], scale, bounds, &others[r], &added));
            }
        }
    }
}

/// A loop that is written out: the compiler leaves one of so many instructions as it is, and then sums go through memory.
macro_rules! each {
    ($r:ident < $R:tt => $body:expr) => {
        $crate::quant::tile::each!(@ $r, $R, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $r:ident, $R:tt, $body:expr; $($n:literal)*) => {{
        const { assert!($R <= 14) };
        $(if $n < $R {
            let $r = $n;
            $body;
        })*
    }};
}
pub(super) use each;

/// The sums of a block of output channels before the first product.
#[inline(always)]
pub(super) fn bias(values: &[i64], block: usize) -> [i32; 16] {
    let mut lanes = [0; 16];
    for (lane, value) in lanes.iter_mut().zip(&values[block * 16..block * 16 + 16]) {
        // Modulo 2^32, as the instruction documents.
        *lane = *value as i32;
    }
    lanes
}

/// The scales of a block of output channels.
#[inline(always)]
pub(super) fn scale(values: &[f32], block: usize) -> &[f32; 16] {
    values[block * 16..].first_chunk().expect("validated: whole blocks of scales")
}
