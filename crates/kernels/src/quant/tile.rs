//! The register tile shared by convolutions and products: rows of bytes times blocks of sixteen columns.
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::requantise::Bounds;
use super::{Residual, Sum, Target};
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
    bounds: Bounds,
    residual: Option<(Source<'a>, Sum, Bounds)>,
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
        Finish { bounds: Bounds::new(to), residual: residual.map(|(from, sum)| (from, sum, Bounds::new(sum.to))) }
    }

    /// Sixteen sums to the bytes at `at` of `to`, or to the fewer that `to` has left up to `columns`.
    #[inline(always)]
    pub(super) fn store<D: Dot>(
        &self,
        d: D,
        sums: D::Sums,
        scale: &[f32; 16],
        to: &mut [u8],
        at: usize,
        columns: usize,
    ) {
        let mut bytes = self.bounds.bytes(&d.finish(sums), scale);
        let to = &mut to[at..at + columns];
        if let Some((from, sum, bounds)) = &self.residual {
            let other = match from {
                Source::Output => &*to,
                Source::Other(values) => &values[at..at + columns],
            };
            match other.first_chunk::<16>() {
                Some(other) => {
                    for i in 0..16 {
                        bytes[i] = sum.byte(*bounds, bytes[i], other[i]);
                    }
                }
                None => bytes.iter_mut().zip(other).for_each(|(byte, &other)| *byte = sum.byte(*bounds, *byte, other)),
            }
        }
        match to.first_chunk_mut::<16>() {
            Some(to) => *to = bytes,
            None => to.copy_from_slice(&bytes[..columns]),
        }
    }
}

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
