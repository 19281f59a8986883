//! Reductions over any set of axes, and the index of the largest element along one.
//!
//! `kept` addresses the results, contiguous in the output, and `reduced` the elements folded into each; strides of both
//! are steps of the input, which holds `kept.reduction_len(reduced)` elements at least.

use crate::geometry::{Along, ReduceOp, Strided1};
use crate::math;
use crate::normalize::{extremum, sum};
use crate::strided::Walk;

/// Neighbouring results folded together when the innermost axis is kept.
const LANES: usize = 16;

/// Sums and means accumulate in `f64`. Nothing to fold gives 0 (sum), NaN (mean), or the infinity that loses.
pub fn reduce_f32(op: ReduceOp, kept: &Strided1, reduced: &Strided1, input: &[f32], out: &mut [f32]) {
    match op {
        ReduceOp::Sum => results(Sum { divisor: 1.0 }, kept, reduced, input, out),
        ReduceOp::Mean => results(Sum { divisor: count(reduced) as f64 }, kept, reduced, input, out),
        ReduceOp::Max => results(Extremum(f32::NEG_INFINITY, math::max), kept, reduced, input, out),
        ReduceOp::Min => results(Extremum(f32::INFINITY, math::min), kept, reduced, input, out),
    }
}

/// Sums wrap; means truncate. Nothing to fold gives 0 (sum, mean), or the extreme that loses.
pub fn reduce_i64(op: ReduceOp, kept: &Strided1, reduced: &Strided1, input: &[i64], out: &mut [i64]) {
    match op {
        ReduceOp::Sum => results(Whole(0, i64::wrapping_add), kept, reduced, input, out),
        ReduceOp::Mean => {
            results(Whole(0, i64::wrapping_add), kept, reduced, input, out);
            let count = i64::try_from(count(reduced)).unwrap_or(i64::MAX);
            out.iter_mut().for_each(|x| *x = x.checked_div(count).unwrap_or(0));
        }
        ReduceOp::Max => results(Whole(i64::MIN, Ord::max), kept, reduced, input, out),
        ReduceOp::Min => results(Whole(i64::MAX, Ord::min), kept, reduced, input, out),
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

/// Elements folded into each result.
fn count(reduced: &Strided1) -> usize {
    reduced.dims.iter().map(|&dim| dim as usize).product()
}

/// A reduction. The order in which a row is folded depends on its length only.
trait Fold<T> {
    /// What accumulates.
    type Sum: Copy;
    /// The result of nothing.
    fn start(&self) -> Self::Sum;
    /// One element more.
    fn add(&self, sum: Self::Sum, x: T) -> Self::Sum;
    /// A contiguous row more.
    fn add_row(&self, sum: Self::Sum, row: &[T]) -> Self::Sum;
    /// The result.
    fn end(&self, sum: Self::Sum) -> T;
}

/// Sum of `f32`, divided.
struct Sum {
    divisor: f64,
}

impl Fold<f32> for Sum {
    type Sum = f64;
    fn start(&self) -> f64 {
        0.0
    }
    fn add(&self, sum: f64, x: f32) -> f64 {
        sum + f64::from(x)
    }
    fn add_row(&self, total: f64, row: &[f32]) -> f64 {
        total + sum(row, |x| x)
    }
    fn end(&self, sum: f64) -> f32 {
        (sum / self.divisor) as f32
    }
}

/// Extremum of `f32`: what it starts from, and which of two wins.
struct Extremum<F>(f32, F);

impl<F: Fn(f32, f32) -> f32 + Copy> Fold<f32> for Extremum<F> {
    type Sum = f32;
    fn start(&self) -> f32 {
        self.0
    }
    fn add(&self, best: f32, x: f32) -> f32 {
        self.1(best, x)
    }
    fn add_row(&self, best: f32, row: &[f32]) -> f32 {
        self.1(best, extremum(row, self.0, self.1))
    }
    fn end(&self, best: f32) -> f32 {
        best
    }
}

/// Any fold of integers.
struct Whole<F>(i64, F);

impl<F: Fn(i64, i64) -> i64> Fold<i64> for Whole<F> {
    type Sum = i64;
    fn start(&self) -> i64 {
        self.0
    }
    fn add(&self, sum: i64, x: i64) -> i64 {
        self.1(sum, x)
    }
    fn add_row(&self, sum: i64, row: &[i64]) -> i64 {
        row.iter().fold(sum, |sum, &x| self.1(sum, x))
    }
    fn end(&self, sum: i64) -> i64 {
        sum
    }
}

fn results<T: Copy, F: Fold<T>>(fold: F, kept: &Strided1, reduced: &Strided1, input: &[T], out: &mut [T]) {
    let kept = Walk::from_lists(&kept.dims, [&kept.a]);
    let folded = Walk::from_lists(&reduced.dims, [&reduced.a]);
    assert_eq!(out.len(), kept.len(), "validated: a reduction's output is as long as what it keeps");
    let ([step], len) = (kept.row_strides(), kept.row_len());
    let mut done = 0;
    kept.for_each_row(|[base]| {
        let results = &mut out[done..done + len];
        done += len;
        if step == 1 && len > 1 {
            for (index, results) in results.chunks_mut(LANES).enumerate() {
                side_by_side(&fold, &folded, base + (index * LANES) as isize, input, results);
            }
        } else {
            for (index, result) in results.iter_mut().enumerate() {
                *result = one(&fold, &folded, base + index as isize * step, input);
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
        for _ in 0..len {
            // Sixteen at once where the input goes on that far: lanes nobody asked for are dropped below.
            match input[at..].first_chunk::<LANES>() {
                Some(chunk) => sums = core::array::from_fn(|l| fold.add(sums[l], chunk[l])),
                None => sums.iter_mut().zip(&input[at..]).for_each(|(sum, &x)| *sum = fold.add(*sum, x)),
            }
            at = at.wrapping_add_signed(step);
        }
    });
    for (result, &sum) in results.iter_mut().zip(&sums) {
        *result = fold.end(sum);
    }
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
