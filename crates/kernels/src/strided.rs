//! Iteration over strided operands, row by row. Shared by everything that broadcasts.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(clippy::needless_range_loop, reason = "K operands are stepped side by side")]

use crate::geometry::MAX_DIMS;
use core::ops::Range;

/// A loop nest over `K` operands, with neighbouring loops merged where every operand allows it.
#[derive(Clone, Copy)]
pub(crate) struct Walk<const K: usize> {
    dims: [usize; MAX_DIMS],
    strides: [[isize; MAX_DIMS]; K],
    rank: usize,
}

impl<const K: usize> Walk<K> {
    /// A nest over `dims`, outermost first; every stride list is as long as `dims`, at most [`MAX_DIMS`].
    pub(crate) fn new(dims: &[u32], stride: impl Fn(usize, usize) -> isize) -> Self {
        assert!(dims.len() <= MAX_DIMS, "validated: at most MAX_DIMS dimensions");
        let mut walk = Walk { dims: [1; MAX_DIMS], strides: [[0; MAX_DIMS]; K], rank: 0 };
        for (d, &dim) in dims.iter().enumerate() {
            let dim = dim as usize;
            if dim == 1 {
                continue;
            }
            let strides: [isize; K] = core::array::from_fn(|k| stride(k, d));
            let last = walk.rank.wrapping_sub(1);
            let merges =
                walk.rank > 0 && (0..K).all(|k| walk.strides[k][last] == strides[k].wrapping_mul(dim as isize));
            let at = if merges { last } else { walk.rank };
            walk.dims[at] = if merges { walk.dims[at] * dim } else { dim };
            for k in 0..K {
                walk.strides[k][at] = strides[k];
            }
            walk.rank = at + 1;
        }
        // A row always exists, even of a scalar.
        walk.rank = walk.rank.max(1);
        walk
    }

    /// A nest over operands whose strides are lists.
    pub(crate) fn from_lists(dims: &[u32], strides: [&[u32]; K]) -> Self {
        Self::new(dims, |k, d| strides[k][d] as isize)
    }

    /// Extent of the innermost loop.
    #[inline(always)]
    pub(crate) fn row_len(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Step of each operand in the innermost loop.
    #[inline(always)]
    pub(crate) fn row_strides(&self) -> [isize; K] {
        core::array::from_fn(|k| self.strides[k][self.rank - 1])
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.dims[..self.rank].iter().product()
    }

    /// Extent of the outermost loop.
    pub(crate) fn outer(&self) -> usize {
        self.dims[0]
    }

    /// The turns `range` of the outermost loop, and where they begin in each operand.
    pub(crate) fn cut(&self, range: Range<usize>) -> (Self, [isize; K]) {
        let mut part = *self;
        part.dims[0] = range.len();
        (part, core::array::from_fn(|k| self.strides[k][0] * range.start as isize))
    }

    /// Offset of the last element of operand `k`, whose strides are not negative, from the first.
    pub(crate) fn reach(&self, k: usize) -> isize {
        (0..self.rank).map(|d| (self.dims[d].max(1) - 1) as isize * self.strides[k][d]).sum()
    }

    /// Calls `row` with the first offset of each operand, for every row in order.
    #[inline(always)]
    pub(crate) fn for_each_row(&self, mut row: impl FnMut([isize; K])) {
        self.for_each_run(|mut at, count, steps| {
            for _ in 0..count {
                row(at);
                for k in 0..K {
                    at[k] += steps[k];
                }
            }
        });
    }

    /// Calls `run` with the first offset of each operand, how many rows follow each other evenly spaced, and that space.
    #[inline(always)]
    pub(crate) fn for_each_run(&self, mut run: impl FnMut([isize; K], usize, [isize; K])) {
        if self.dims[..self.rank].contains(&0) {
            return;
        }
        // The loop around the row, kept out of the odometer: rows may be short.
        let around = self.rank.saturating_sub(2);
        let (count, mut steps) = (if self.rank > 1 { self.dims[around] } else { 1 }, [0; K]);
        for k in 0..K {
            steps[k] = self.strides[k][around];
        }
        let mut index = [0usize; MAX_DIMS];
        let mut offsets = [0isize; K];
        loop {
            run(offsets, count, steps);
            // Odometer over the other loops: the innermost turns fastest.
            let mut d = around;
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                for k in 0..K {
                    offsets[k] += self.strides[k][d];
                }
                if index[d] < self.dims[d] {
                    break;
                }
                for k in 0..K {
                    offsets[k] -= self.strides[k][d] * self.dims[d] as isize;
                }
                index[d] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn offsets(dims: &[u32], a: &[u32]) -> (usize, Vec<isize>) {
        let walk = Walk::from_lists(dims, [a]);
        let mut found = Vec::new();
        let ([step], len) = (walk.row_strides(), walk.row_len());
        walk.for_each_row(|[at]| found.extend((0..len as isize).map(|i| at + i * step)));
        assert!(dims.contains(&0) || walk.len() == found.len());
        (walk.rank, found)
    }

    #[test]
    fn visits_every_element_in_order() {
        let (_, found) = offsets(&[2, 3, 4], &[100, 10, 1]);
        let expected: Vec<isize> =
            (0..2).flat_map(|i| (0..3).flat_map(move |j| (0..4).map(move |k| i * 100 + j * 10 + k))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn random_nests_of_every_rank() {
        let mut rng = crate::test_support::Rng(81);
        for _ in 0..300 {
            let rank = rng.below(MAX_DIMS + 1);
            let dims: Vec<u32> = (0..rank).map(|_| 1 + rng.below(3) as u32).collect();
            let strides: Vec<u32> = (0..rank).map(|_| rng.below(40) as u32).collect();
            let expected = dims.iter().zip(&strides).fold(alloc::vec![0isize], |all, (&dim, &step)| {
                all.iter().flat_map(|&at| (0..dim).map(move |i| at + (i * step) as isize)).collect()
            });
            assert_eq!(offsets(&dims, &strides).1, expected, "{dims:?} {strides:?}");
        }
    }

    #[test]
    fn parts_of_the_outermost_loop_make_up_the_whole() {
        for (dims, strides) in [(vec![5, 3, 4], vec![100, 10, 1]), (vec![7], vec![3]), (vec![6, 2], vec![2, 1])] {
            let walk = Walk::from_lists(&dims, [&strides]);
            let ([step], len) = (walk.row_strides(), walk.row_len());
            let mut found = Vec::new();
            for range in [0..2, 2..walk.outer()] {
                let (part, [base]) = walk.cut(range);
                part.for_each_row(|[at]| found.extend((0..part.row_len() as isize).map(|i| base + at + i * step)));
            }
            assert!(walk.rank == 1 || len == walk.row_len());
            assert_eq!(found, offsets(&dims, &strides).1);
        }
    }

    #[test]
    fn merges_what_is_contiguous() {
        assert_eq!(offsets(&[2, 3, 4], &[12, 4, 1]).0, 1);
        assert_eq!(offsets(&[2, 1, 3, 4], &[24, 77, 4, 1]).0, 2);
        assert_eq!(offsets(&[2, 3], &[0, 0]), (1, [0; 6].to_vec()));
        assert_eq!(offsets(&[], &[]), (1, [0].to_vec()));
        assert_eq!(offsets(&[3, 0], &[1, 1]).1, []);
    }
}
