//! Reductions over any set of axes, and the index of the largest element along one.
//!
//! `kept` addresses the results, contiguous in the output, and `reduced` the elements folded into each; strides of both
//! are steps of the input, which holds `kept.reduction_len(reduced)` elements at least.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Along, ReduceOp, Strided1};
use crate::math;
use crate::normalize::{extremum, sum};
use crate::parallel::{Compute, MOVE};
use crate::strided::Walk;

/// Neighbouring results folded together when the innermost axis is kept.
const LANES: usize = 16;

/// Sums and means accumulate in `f64`. Nothing to fold gives 0 (sum), NaN (mean), or the infinity that loses.
/// Bits do not depend on the kernel set.
pub fn reduce_f32(compute: Compute, op: ReduceOp, kept: &Strided1, reduced: &Strided1, input: &[f32], out: &mut [f32]) {
    let [kept, reduced] = [kept, reduced].map(|shape| Walk::from_lists(&shape.dims, [&shape.a]));
    assert_eq!(out.len(), kept.len(), "validated: a reduction's output is as long as what it keeps");
    let cost = (out.len() as u64).saturating_mul(reduced.len() as u64).saturating_mul(MOVE);
    compute.split(out, out.len() / kept.outer().max(1), cost, |turns, out| {
        let (kept, [base]) = kept.cut(turns);
        compute.set.dispatch(Reduction { op, kept, reduced, base, input, out });
    });
}

/// Results that lie in `out`; the first is folded from `base` of the input on.
struct Reduction<'a> {
    op: ReduceOp,
    kept: Walk<1>,
    reduced: Walk<1>,
    base: isize,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Reduction<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Reduction { op, kept, reduced, base, input, out } = self;
        let count = reduced.len() as f64;
        match op {
            ReduceOp::Sum => results(Sum { divisor: 1.0, s }, &kept, &reduced, base, input, out),
            ReduceOp::Mean => results(Sum { divisor: count, s }, &kept, &reduced, base, input, out),
            ReduceOp::Max => results(Extremum(f32::NEG_INFINITY, math::max), &kept, &reduced, base, input, out),
            ReduceOp::Min => results(Extremum(f32::INFINITY, math::min), &kept, &reduced, base, input, out),
        }
    }
}

/// Sums wrap; means truncate. Nothing to fold gives 0 (sum, mean), or the extreme that loses.
pub fn reduce_i64(op: ReduceOp, kept: &Strided1, reduced: &Strided1, input: &[i64], out: &mut [i64]) {
    let [kept, reduced] = [kept, reduced].map(|shape| Walk::from_lists(&shape.dims, [&shape.a]));
    match op {
        ReduceOp::Sum => results(Whole(0, i64::wrapping_add), &kept, &reduced, 0, input, out),
        ReduceOp::Mean => {
            results(Whole(0, i64::wrapping_add), &kept, &reduced, 0, input, out);
            let count = i64::try_from(reduced.len()).unwrap_or(i64::MAX);
            out.iter_mut().for_each(|x| *x = x.checked_div(count).unwrap_or(0));
        }
        ReduceOp::Max => results(Whole(i64::MIN, Ord::max), &kept, &reduced, 0, input, out),
        ReduceOp::Min => results(Whole(i64::MAX, Ord::min), &kept, &reduced, 0, input, out),
    }
}

/// Index of the largest (or `smallest`) element along the middle axis; on ties the first, or the `last`. NaN wins over
/// numbers, as in NumPy. `input` holds [`Along::len`] elements, `out` `outer * inner`; an empty axis gives 0.
pub fn argmax(along: &Along, smallest: bool, last: bool, input: &[f32], out: &mut [i64]) {
    let (len, inner) = (along.len as usize, along.inner as usize);
    assert_eq!(Some(input.len() as u64), along.len(), "validated: argmax's input length");
    assert_eq!(Some(out.len() as u64), along.resized_len(1), "validated: argmax's output length");
    out.fill(0);
    if len == 0 || inner == 0 {
        return;
    }
    let wins = |x: f32, best: f32| {
        let better = if smallest { x < best } else { x > best };
        if best.is_nan() { x.is_nan() && last } else { x.is_nan() || better || (last && x == best) }
    };
    for (slab, found) in input.chunks_exact(len * inner).zip(out.chunks_exact_mut(inner)) {
        for (column, found) in found.iter_mut().enumerate() {
            let mut best = slab[column];
            for (index, &x) in slab[column..].iter().step_by(inner).enumerate().skip(1) {
                if wins(x, best) {
                    best = x;
                    *found = index as i64;
                }
            }
        }
    }
}

/// A reduction. The order in which a row is folded depends on its length only.
trait Fold<T>: Sized {
    /// What accumulates.
    type Sum: Copy;
    /// The result of nothing.
    fn start(&self) -> Self::Sum;
    /// One element more.
    fn add(&self, sum: Self::Sum, x: T) -> Self::Sum;
    /// Blocks of neighbours more, each to the sums of its lanes.
    #[inline(always)]
    fn add_blocks(&self, mut sums: [Self::Sum; LANES], blocks: &[[T; LANES]]) -> [Self::Sum; LANES]
    where
        T: Copy,
    {
        for block in blocks {
            sums = added(self, sums, block);
        }
        sums
    }
    /// A contiguous row more.
    fn add_row(&self, sum: Self::Sum, row: &[T]) -> Self::Sum;
    /// The result.
    fn end(&self, sum: Self::Sum) -> T;
}

/// Sum of `f32`, divided.
struct Sum<S> {
    divisor: f64,
    s: S,
}

impl<S: Simd> Fold<f32> for Sum<S> {
    type Sum = f64;
    #[inline(always)]
    fn start(&self) -> f64 {
        0.0
    }
    #[inline(always)]
    fn add(&self, sum: f64, x: f32) -> f64 {
        sum + f64::from(x)
    }
    #[inline(always)]
    fn add_blocks(&self, sums: [f64; LANES], blocks: &[[f32; LANES]]) -> [f64; LANES] {
        self.s.call(Blocks { sums, blocks })
    }
    #[inline(always)]
    fn add_row(&self, total: f64, row: &[f32]) -> f64 {
        total + sum(row, |x| x)
    }
    #[inline(always)]
    fn end(&self, sum: f64) -> f32 {
        (sum / self.divisor) as f32
    }
}

/// Sums of whole blocks, a function of its own: among the other ways to walk, the compiler adds in pairs of lanes.
struct Blocks<'a> {
    sums: [f64; LANES],
    blocks: &'a [[f32; LANES]],
}

impl Kernel for Blocks<'_> {
    type Output = [f64; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [f64; LANES] {
        let Blocks { mut sums, blocks } = self;
        for block in blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x);
            }
        }
        sums
    }
}

/// Extremum of `f32`: what it starts from, and which of two wins.
struct Extremum<F>(f32, F);

impl<F: Fn(f32, f32) -> f32 + Copy> Fold<f32> for Extremum<F> {
    type Sum = f32;
    #[inline(always)]
    fn start(&self) -> f32 {
        self.0
    }
    #[inline(always)]
    fn add(&self, best: f32, x: f32) -> f32 {
        self.1(best, x)
    }
    #[inline(always)]
    fn add_row(&self, best: f32, row: &[f32]) -> f32 {
        self.1(best, extremum(row, self.0, self.1))
    }
    #[inline(always)]
    fn end(&self, best: f32) -> f32 {
        best
    }
}

/// Any fold of integers.
struct Whole<F>(i64, F);

impl<F: Fn(i64, i64) -> i64> Fold<i64> for Whole<F> {
    type Sum = i64;
    #[inline(always)]
    fn start(&self) -> i64 {
        self.0
    }
    #[inline(always)]
    fn add(&self, sum: i64, x: i64) -> i64 {
        self.1(sum, x)
    }
    #[inline(always)]
    fn add_row(&self, sum: i64, row: &[i64]) -> i64 {
        row.iter().fold(sum, |sum, &x| self.1(sum, x))
    }
    #[inline(always)]
    fn end(&self, sum: i64) -> i64 {
        sum
    }
}

#[inline(always)]
fn results<T: Copy, F: Fold<T>>(fold: F, kept: &Walk<1>, folded: &Walk<1>, first: isize, input: &[T], out: &mut [T]) {
    assert_eq!(out.len(), kept.len(), "validated: a reduction's output is as long as what it keeps");
    let ([step], len) = (kept.row_strides(), kept.row_len());
    let mut done = 0;
    kept.for_each_row(|[base]| {
        let base = first + base;
        let results = &mut out[done..done + len];
        done += len;
        if step == 1 && len > 1 {
            for (index, results) in results.chunks_mut(LANES).enumerate() {
                side_by_side(&fold, folded, base + (index * LANES) as isize, input, results);
            }
        } else {
            for (index, result) in results.iter_mut().enumerate() {
                *result = one(&fold, folded, base + index as isize * step, input);
            }
        }
    });
}

/// Up to [`LANES`] results whose elements are neighbours in the input.
#[inline(always)]
fn side_by_side<T: Copy, F: Fold<T>>(fold: &F, folded: &Walk<1>, base: isize, input: &[T], results: &mut [T]) {
    let ([step], len) = (folded.row_strides(), folded.row_len());
    let mut sums = [fold.start(); LANES];
    folded.for_each_row(|[at]| {
        let mut at = (base + at) as usize;
        let mut len = len;
        if step == LANES as isize {
            // Whole blocks one after the other: the sums stay in registers.
            let (blocks, _) = input[at..].as_chunks::<LANES>();
            let done = len.min(blocks.len());
            sums = fold.add_blocks(sums, &blocks[..done]);
            (at, len) = (at + done * LANES, len - done);
        }
        for _ in 0..len {
            // Sixteen at once where the input goes on that far: lanes nobody asked for are dropped below.
            match input[at..].first_chunk::<LANES>() {
                Some(chunk) => sums = added(fold, sums, chunk),
                None => sums.iter_mut().zip(&input[at..]).for_each(|(sum, &x)| *sum = fold.add(*sum, x)),
            }
            at = at.wrapping_add_signed(step);
        }
    });
    for (result, &sum) in results.iter_mut().zip(&sums) {
        *result = fold.end(sum);
    }
}

/// Loops over constant lengths, not `array::from_fn`, which may stay a call.
#[inline(always)]
fn added<T: Copy, F: Fold<T>>(fold: &F, mut sums: [F::Sum; LANES], chunk: &[T; LANES]) -> [F::Sum; LANES] {
    for l in 0..LANES {
        sums[l] = fold.add(sums[l], chunk[l]);
    }
    sums
}

#[inline(always)]
fn one<T: Copy, F: Fold<T>>(fold: &F, folded: &Walk<1>, base: isize, input: &[T]) -> T {
    let ([step], len) = (folded.row_strides(), folded.row_len());
    let mut sum = fold.start();
    folded.for_each_row(|[at]| {
        let first = (base + at) as usize;
        if step == 1 {
            sum = fold.add_row(sum, &input[first..first + len]);
        } else {
            for i in 0..len {
                sum = fold.add(sum, input[first.wrapping_add_signed(i as isize * step)]);
            }
        }
    });
    fold.end(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::test_support::{Rng, assert_close};
    use alloc::vec;
    use alloc::vec::Vec;

    /// Every subset of axes of a `(3, 4, 5, 20)` value, kept and reduced in the order of the axes.
    fn subsets() -> Vec<(Strided1, Strided1)> {
        let (dims, strides) = ([3, 4, 5, 20], [400, 100, 20, 1]);
        (0..16)
            .map(|mask: usize| {
                let part = |wanted: usize| -> Strided1 {
                    let axes: Vec<usize> = (0..4).filter(|axis| mask >> axis & 1 == wanted).collect();
                    let list = |of: [u32; 4]| axes.iter().map(|&axis| of[axis]).collect();
                    Strided1 { dims: list(dims), a: list(strides) }
                };
                (part(0), part(1))
            })
            .collect()
    }

    /// All positions of a strided list, in order.
    fn positions(shape: &Strided1) -> Vec<usize> {
        shape.dims.iter().zip(&shape.a).fold(vec![0], |all, (&dim, &step)| {
            all.iter().flat_map(|&at| (0..dim).map(move |i| at + (i * step) as usize)).collect()
        })
    }

    #[test]
    fn every_set_of_axes_against_f64() {
        let mut rng = Rng(61);
        let input = rng.vec(1200);
        let whole: Vec<i64> = input.iter().map(|x| (x * 1000.0) as i64).collect();
        for (kept, reduced) in subsets() {
            assert_eq!(kept.reduction_len(&reduced), Some(1200));
            let inner = positions(&reduced);
            for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min] {
                let fold = |values: &mut dyn Iterator<Item = f64>| match op {
                    ReduceOp::Sum | ReduceOp::Mean => values.sum::<f64>(),
                    ReduceOp::Max => values.fold(f64::NEG_INFINITY, f64::max),
                    ReduceOp::Min => values.fold(f64::INFINITY, f64::min),
                };
                let divisor = if op == ReduceOp::Mean { inner.len() as f64 } else { 1.0 };
                let outer = positions(&kept);
                let floats: Vec<f64> = outer
                    .iter()
                    .map(|at| fold(&mut inner.iter().map(|i| f64::from(input[at + i]))) / divisor)
                    .collect();
                let mut out = vec![f32::NAN; outer.len()];
                reduce_f32(KernelSet::detect().into(), op, &kept, &reduced, &input, &mut out);
                assert_close(&alloc::format!("{op:?} {kept:?}"), &out, &floats, 1e-6);
                let integers: Vec<i64> = outer
                    .iter()
                    .map(|at| (fold(&mut inner.iter().map(|i| whole[at + i] as f64)) / divisor) as i64)
                    .collect();
                let mut out = vec![7; outer.len()];
                reduce_i64(op, &kept, &reduced, &whole, &mut out);
                assert_eq!(out, integers, "{op:?} {kept:?}");
            }
        }
    }

    #[test]
    fn nothing_to_fold() {
        let (kept, reduced) = (Strided1 { dims: vec![2], a: vec![1] }, Strided1 { dims: vec![0], a: vec![1] });
        let all = |op| {
            let (mut f, mut i) = ([7f32; 2], [7i64; 2]);
            reduce_f32(KernelSet::detect().into(), op, &kept, &reduced, &[], &mut f);
            reduce_i64(op, &kept, &reduced, &[], &mut i);
            (f[1], i[1])
        };
        assert_eq!(all(ReduceOp::Sum), (0.0, 0));
        assert!(all(ReduceOp::Mean).0.is_nan() && all(ReduceOp::Mean).1 == 0);
        assert_eq!(all(ReduceOp::Max), (f32::NEG_INFINITY, i64::MIN));
        assert_eq!(all(ReduceOp::Min), (f32::INFINITY, i64::MAX));
    }

    #[test]
    fn nan_propagates_through_extremes() {
        let mut input = vec![1.0f32; 40];
        input[33] = f32::NAN;
        let (kept, reduced) = (Strided1::default(), Strided1 { dims: vec![40], a: vec![1] });
        for op in [ReduceOp::Max, ReduceOp::Min, ReduceOp::Sum] {
            let mut out = [0.0];
            reduce_f32(KernelSet::detect().into(), op, &kept, &reduced, &input, &mut out);
            assert!(out[0].is_nan(), "{op:?}");
        }
    }

    #[test]
    fn long_sums_stay_accurate() {
        let input = vec![0.1f32; 1 << 20];
        let (kept, reduced) = (Strided1::default(), Strided1 { dims: vec![1 << 20], a: vec![1] });
        let mut out = [0.0];
        reduce_f32(KernelSet::detect().into(), ReduceOp::Sum, &kept, &reduced, &input, &mut out);
        assert_close("sum", &out, &[f64::from(0.1f32) * (1 << 20) as f64], 1e-7);
    }

    #[test]
    fn argmax_ties_and_nan() {
        let along = Along { outer: 2, len: 4, inner: 2 };
        #[rustfmt::skip]
        let input = [1.0, 5.0,  3.0, 5.0,  3.0, -1.0,  0.0, 2.0,
                     f32::NAN, -2.0,  9.0, -3.0,  f32::NAN, -2.0,  1.0, -4.0];
        let run = |smallest, last| {
            let mut out = [7; 4];
            argmax(&along, smallest, last, &input, &mut out);
            out
        };
        assert_eq!(run(false, false), [1, 0, 0, 0]);
        assert_eq!(run(false, true), [2, 1, 2, 2]);
        assert_eq!(run(true, false), [3, 2, 0, 3]);
        assert_eq!(run(true, true), [3, 2, 2, 3]);
    }
}
