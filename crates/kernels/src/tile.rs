//! The register tile shared by convolutions and matrix products: rows of input times blocks of sixteen columns, at most
//! as many as `HEIGHTS` and `BLOCKS` of the kernel set say.
//!
//! The accumulators must stay in registers, so their number is a constant of the function (`R`) and they are indexed only
//! in loops of constant length. An accumulator is always extended in the same order over the inner extent, whatever the
//! tile it is part of; that is what makes results independent of how the output is cut up.
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

use crate::arch::{Simd, prefetch};
use crate::unary::Activation;
use core::ops::Range;

/// One block of lanes.
pub(crate) type Lanes = [f32; 16];

/// What a padding position reads.
pub(crate) const ZERO: Lanes = [0.0; 16];

/// The heights in which a kernel set's register tiles are compiled. Every one is a function for each kind of tile, so they are
/// few; [`Tiling`] makes do with them.
#[derive(Clone, Copy)]
pub(crate) struct Heights(u32);

impl Heights {
    /// Those of `list`: 1 among them, all others at most 31.
    pub(crate) const fn new(list: &[usize]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i];
            i += 1;
        }
        Heights(bits)
    }

    /// Whether `rows` is one.
    pub(crate) const fn has(self, rows: usize) -> bool {
        rows < 32 && self.0 >> rows & 1 == 1
    }

    /// The largest.
    pub(crate) const fn most(self) -> usize {
        self.0.ilog2() as usize
    }
}

/// Evaluates `$body` with the constant `$R` equal to `$rows`, which is one of `S::HEIGHTS`.
macro_rules! with_rows {
    ($S:ident, $rows:expr, $R:ident => $body:expr) => {
        $crate::tile::with_rows!(@ $S, $rows, $R => $body; 1 2 3 4 5 6 7 8 10 13 14)
    };
    (@ $S:ident, $rows:expr, $R:ident => $body:expr; $($n:literal)*) => {
        match $rows {
            $($n if const { $S::HEIGHTS.has($n) } => {
                const $R: usize = $n;
                $body
            })*
            _ => unreachable!("a tile has one of the kernel set's heights"),
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

/// Splits rows into the fewest tiles, of nearly even heights: short tiles leave arithmetic units idle. The tiling depends on
/// the number of rows and the kernel set only.
#[derive(Clone, Copy)]
pub(crate) struct Tiling {
    total: usize,
    /// Of all tiles but the last one or two.
    height: usize,
    /// How many such tiles.
    whole: usize,
    /// Rows of the first tile that is not so high.
    cut: usize,
}

impl Tiling {
    pub(crate) fn new(total: usize, heights: Heights) -> Self {
        let most = heights.most();
        let even = total.div_ceil(total.div_ceil(most).max(1)).max(1);
        // Whatever is left shall be a tile, too.
        let fits =
            |&height: &usize| heights.has(height) && (total.is_multiple_of(height) || heights.has(total % height));
        let height = (even..=most).find(fits).or_else(|| (even..=most).find(|&height| heights.has(height)));
        let height = height.unwrap_or(1);
        let rest = total % height;
        // Or two, as even as possible.
        let pair = |&cut: &usize| heights.has(cut) && (cut == rest || heights.has(rest - cut));
        let cut = if heights.has(rest) { rest } else { (rest.div_ceil(2)..rest).find(pair).unwrap_or(rest) };
        Tiling { total, height, whole: total / height, cut }
    }

    /// How many tiles.
    pub(crate) fn len(&self) -> usize {
        let rest = self.total - self.whole * self.height;
        self.whole + usize::from(rest > 0) + usize::from(rest > self.cut)
    }

    /// First row of tile `index`, or the end of the last.
    #[inline(always)]
    pub(crate) fn start(&self, index: usize) -> usize {
        match index.checked_sub(self.whole + 1) {
            None => index * self.height,
            Some(0) => self.whole * self.height + self.cut,
            Some(_) => self.total,
        }
    }
}

/// Weights that are needed next: fetched into the cache little by little while a tile computes, because memory takes longer
/// to answer than the tiles of a small plane take.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a, T = Lanes> {
    lines: &'a [T],
    /// After those.
    then: &'a [T],
    /// How many in one turn.
    each: usize,
}

impl<'a, T> Ahead<'a, T> {
    /// Nothing.
    pub(crate) const NONE: Self = Ahead { lines: &[], then: &[], each: 0 };

    pub(crate) fn new(lines: &'a [T], then: &'a [T]) -> Self {
        Ahead { lines, then, each: 0 }
    }

    /// To be handed out in `turns`. Divides only where it must: tiles are many and may be short.
    #[inline(always)]
    pub(crate) fn over(mut self, turns: usize) -> Self {
        let all = self.lines.len() + self.then.len();
        self.each = if all <= turns { 1 } else { all.div_ceil(turns.max(1)) };
        self
    }

    /// The share of the next turn.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Self {
        if self.lines.is_empty() {
            (self.lines, self.then) = (self.then, &[]);
        }
        let (lines, rest) = self.lines.split_at(self.each.min(self.lines.len()));
        self.lines = rest;
        Ahead { lines, ..Self::NONE }
    }

    /// Fetches what comes next in one turn.
    #[inline(always)]
    pub(crate) fn fetch(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (now, later) = self.lines.split_at(self.each.min(self.lines.len()));
        for line in now {
            prefetch(line);
        }
        self.lines = later;
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
    /// The same from some element of the output on.
    #[inline(always)]
    pub(crate) fn from(&self, at: usize) -> Self {
        match self {
            Residual::Other(values) => Residual::Other(&values[at..]),
            other => *other,
        }
    }

    /// The same for a part of the output.
    #[inline(always)]
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
    pub(crate) residual: Residual<'a>,
    /// Its clamp is applied.
    pub(crate) act: &'a Activation,
    /// Planes of the output.
    pub(crate) to: &'b mut [f32],
}

impl Finish<'_, '_> {
    /// Stores the sums of neighbouring pixels, the first at `at` of the output.
    #[inline(always)]
    pub(crate) fn store<S: Simd, const R: usize>(&mut self, s: S, sums: &[S::V; R], at: usize) {
        let mut sums = *sums;
        let to = pixels_mut(&mut self.to[at..]);
        match self.residual {
            Residual::None => {}
            Residual::Other(values) => add(s, &mut sums, pixels(&values[at..])),
            Residual::InPlace => add(s, &mut sums, to),
        }
        self.act.store(s, &sums, to);
    }
}

/// The first `R` blocks of lanes.
#[inline(always)]
pub(crate) fn pixels<const R: usize>(values: &[f32]) -> &[Lanes; R] {
    values.as_chunks().0.first_chunk().expect("a tile lies within its operands")
}

/// The first `R` blocks of lanes.
#[inline(always)]
pub(crate) fn pixels_mut<const R: usize>(values: &mut [f32]) -> &mut [Lanes; R] {
    values.as_chunks_mut().0.first_chunk_mut().expect("a tile lies within its output")
}

/// `sums[r] += values[r]`.
#[inline(always)]
pub(crate) fn add<S: Simd, const R: usize>(s: S, sums: &mut [S::V; R], values: &[Lanes; R]) {
    for r in 0..R {
        sums[r] = s.add(sums[r], s.load(&values[r]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_with_heights_of_the_set() {
        let lists: [&[usize]; 4] = [&[1, 2], &[1, 2, 3, 4], &[1, 2, 3, 4, 5, 6], &[1, 2, 4, 6, 7, 8, 10, 13, 14]];
        for heights in lists.map(Heights::new) {
            for total in 0..300 {
                let tiling = Tiling::new(total, heights);
                let ends: alloc::vec::Vec<_> = (0..=tiling.len()).map(|index| tiling.start(index)).collect();
                assert_eq!((ends[0], ends[tiling.len()]), (0, total));
                assert!(ends.windows(2).all(|tile| heights.has(tile[1] - tile[0])), "{total}: {ends:?}");
                assert!(tiling.len() <= total.div_ceil(heights.most()) + 1, "{total}: {ends:?}");
            }
        }
    }

    #[test]
    fn what_is_fetched_ahead_is_shared_out_but_for_less_than_one_share() {
        let lines = [ZERO; 100];
        for turns in [1, 3, 8, 120] {
            let (mut ahead, mut count) = (Ahead::new(&lines, &lines[..7]).over(turns), 0);
            for index in 0..turns {
                let mut share = ahead.next().over(4);
                count += share.lines.len();
                (0..4).for_each(|_| share.fetch());
                assert!(share.lines.is_empty(), "{index} of {turns}");
            }
            assert!(count <= 107 && 107 - count < ahead.each, "{count} in {turns} turns");
        }
    }
}
