//! Softmax, mean-and-variance normalisation and local response normalisation.
//!
//! Sums run over sixteen `f64` lanes in a fixed order, so neither the kernel set nor the row length's remainder changes
//! how a sum is formed, and long rows stay accurate.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd, sqrt};
use crate::geometry::{Along, Lrn, Normalize};
use crate::math;
use crate::parallel::{Compute, MOVE};

/// Lanes a sum is spread over, and columns handled together when the axis is not the innermost.
const LANES: usize = 16;

/// Softmax along the middle axis of `(outer, len, inner)`, or its logarithm. `input` and `out` hold [`Along::len`]
/// elements. Rows whose maximum is infinite, or that hold NaN, give NaN. Bits do not depend on the kernel set.
pub fn softmax(compute: Compute, along: &Along, log: bool, input: &[f32], out: &mut [f32]) {
    assert_eq!(input.len(), out.len(), "validated: softmax's input is as long as its output");
    let slab = along.len as usize * along.inner as usize;
    if slab == 0 {
        return;
    }
    compute.split(out, slab, out.len() as u64 * 8 * MOVE, |slabs, out| {
        let input = &input[slabs.start * slab..][..out.len()];
        for (from, to) in input.chunks_exact(slab).zip(out.chunks_exact_mut(slab)) {
            to.copy_from_slice(from);
            compute.set.dispatch(Softmax { inner: along.inner as usize, log, slab: to });
        }
    });
}

/// [`softmax`], overwriting its input.
pub fn softmax_in_place(compute: Compute, along: &Along, log: bool, out: &mut [f32]) {
    let slab = along.len as usize * along.inner as usize;
    if slab == 0 {
        return;
    }
    compute.split(out, slab, out.len() as u64 * 8 * MOVE, |_, out| {
        for slab in out.chunks_exact_mut(slab) {
            compute.set.dispatch(Softmax { inner: along.inner as usize, log, slab });
        }
    });
}

/// Rows of mean 0 and variance 1, scaled and shifted per channel. `input` and `out` hold [`Normalize::len`] elements,
/// `scale` and `bias` `channels`. Bits do not depend on the kernel set.
pub fn normalize(
    compute: Compute,
    geometry: &Normalize,
    input: &[f32],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(input.len(), out.len(), "validated: normalize's input is as long as its output");
    let len = geometry.len as usize;
    if len == 0 {
        return;
    }
    compute.split(out, len, out.len() as u64 * 4 * MOVE, |rows, out| {
        for (row, index) in out.chunks_exact_mut(len).zip(rows) {
            row.copy_from_slice(&input[index * len..(index + 1) * len]);
            compute.set.dispatch(Row { geometry, first: index * len, scale, bias, row });
        }
    });
}

/// [`normalize`], overwriting its input.
pub fn normalize_in_place(
    compute: Compute,
    geometry: &Normalize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let len = geometry.len as usize;
    if len == 0 {
        return;
    }
    compute.split(out, len, out.len() as u64 * 4 * MOVE, |rows, out| {
        for (row, index) in out.chunks_exact_mut(len).zip(rows) {
            compute.set.dispatch(Row { geometry, first: index * len, scale, bias, row });
        }
    });
}

/// `x / (bias + alpha / size * sum of squares over size channels)^beta` on a plain `(n, c, inner)`; `input` and `out` hold
/// [`Lrn::len`] elements. The window of channel `c` is `c - (size - 1) / 2 ..= c + size / 2`, cut at the edges.
pub fn lrn(geometry: &Lrn, input: &[f32], out: &mut [f32]) {
    let (channels, inner) = (geometry.c as usize, geometry.inner as usize);
    assert_eq!(input.len(), out.len(), "validated: lrn's input is as long as its output");
    if channels == 0 || inner == 0 {
        return;
    }
    let image = channels * inner;
    let before = (geometry.size as usize).saturating_sub(1) / 2;
    let after = (geometry.size as usize).saturating_sub(1).div_ceil(2);
    let factor = geometry.alpha / geometry.size as f32;
    for (from, to) in input.chunks_exact(image).zip(out.chunks_exact_mut(image)) {
        for (channel, row) in to.chunks_exact_mut(inner).enumerate() {
            let window = channel.saturating_sub(before)..(channel + after + 1).min(channels);
            row.fill(0.0);
            for neighbour in from[window.start * inner..window.end * inner].chunks_exact(inner) {
                for (sum, &x) in row.iter_mut().zip(neighbour) {
                    *sum += x * x;
                }
            }
            for (sum, &x) in row.iter_mut().zip(&from[channel * inner..]) {
                *sum = x / root(geometry.bias + factor * *sum, geometry.beta);
            }
        }
    }
}

/// `base^beta`; 0.75 is what published networks use.
#[inline]
fn root(base: f32, beta: f32) -> f32 {
    if beta == 0.75 {
        let half = sqrt(base);
        half * sqrt(half)
    } else {
        math::pow(base, beta)
    }
}

/// The sum of `f` over a row, lane by lane.
#[inline(always)]
pub(crate) fn sum(row: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0f64; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(f64::from(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(x));
    }
    fold(lanes, |a, b| a + b)
}

/// A row folded lane by lane, with a fixed order.
#[inline(always)]
pub(crate) fn extremum(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut lanes = [start; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        lanes = core::array::from_fn(|l| f(lanes[l], chunk[l]));
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    fold(lanes, f)
}

/// Folds halves onto each other.
#[inline(always)]
fn fold<T: Copy>(mut lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Softmax of one `(len, inner)`, in place.
struct Softmax<'a> {
    inner: usize,
    log: bool,
    slab: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        if self.inner == 1 {
            softmax_row(self.slab, self.log);
        } else {
            let mut first = 0;
            while first < self.inner {
                let count = (self.inner - first).min(LANES);
                softmax_columns(self.slab, self.inner, first, count, self.log);
                first += count;
            }
        }
    }
}

#[inline(always)]
fn softmax_row(row: &mut [f32], log: bool) {
    let largest = extremum(row, f32::NEG_INFINITY, math::max);
    if log {
        let total = sum_exp(row, largest);
        let shift = math::ln(total as f32);
        row.iter_mut().for_each(|x| *x = (*x - largest) - shift);
    } else {
        row.iter_mut().for_each(|x| *x = math::exp_normal(*x - largest));
        let factor = (1.0 / sum(row, |x| x)) as f32;
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

#[inline(always)]
fn sum_exp(row: &[f32], shift: f32) -> f64 {
    let mut total = 0.0;
    let mut buffer = [0.0; 64];
    for piece in row.chunks(64) {
        let buffer = &mut buffer[..piece.len()];
        buffer.iter_mut().zip(piece).for_each(|(to, &x)| *to = math::exp_normal(x - shift));
        total += sum(buffer, |x| x);
    }
    total
}

/// Columns `first .. first + count` of one slab, side by side.
#[inline(always)]
fn softmax_columns(slab: &mut [f32], inner: usize, first: usize, count: usize, log: bool) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for row in slab.chunks_exact(inner) {
        for (top, &x) in largest.iter_mut().zip(&row[first..first + count]) {
            *top = math::max(*top, x);
        }
    }
    let mut total = [0f64; LANES];
    for row in slab.chunks_exact_mut(inner) {
        for ((x, total), &top) in row[first..first + count].iter_mut().zip(&mut total).zip(&largest) {
            let e = math::exp_normal(*x - top);
            *total += f64::from(e);
            *x = if log { *x } else { e };
        }
    }
    for row in slab.chunks_exact_mut(inner) {
        for ((x, &total), &top) in row[first..first + count].iter_mut().zip(&total).zip(&largest) {
            *x = if log { (*x - top) - math::ln(total as f32) } else { *x * (1.0 / total) as f32 };
        }
    }
}

/// One row of a normalisation, in place.
struct Row<'a> {
    geometry: &'a Normalize,
    /// Flat index of the row's first element.
    first: usize,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    row: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Row { geometry: g, first, scale, bias, row } = self;
        let count = row.len() as f64;
        let mean = sum(row, |x| x) / count;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        let deviation = 1.0 / sqrt((variance + f64::from(g.epsilon)) as f32);
        let mean = mean as f32;
        let (channels, inner) = (g.channels as usize, g.inner as usize);
        let mut at = 0;
        while at < row.len() {
            let flat = first + at;
            let channel = flat / inner % channels;
            if inner == 1 {
                // Every element has its own channel, up to the last; then they begin anew.
                let run = (channels - channel).min(row.len() - at);
                let piece = &mut row[at..at + run];
                piece.iter_mut().for_each(|x| *x = (*x - mean) * deviation);
                if let Some(scale) = scale {
                    piece.iter_mut().zip(&scale[channel..channel + run]).for_each(|(x, &s)| *x *= s);
                }
                if let Some(bias) = bias {
                    piece.iter_mut().zip(&bias[channel..channel + run]).for_each(|(x, &b)| *x += b);
                }
                at += run;
            } else {
                let run = (inner - flat % inner).min(row.len() - at);
                let (s, b) = (scale.map_or(1.0, |s| s[channel]), bias.map_or(0.0, |b| b[channel]));
                row[at..at + run].iter_mut().for_each(|x| *x = (*x - mean) * deviation * s + b);
                at += run;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::test_support::{Rng, assert_close, sets};
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn softmax_against_f64_on_both_paths() {
        let mut rng = Rng(51);
        for (outer, len, inner) in [(1, 1, 1), (3, 10, 1), (2, 1000, 1), (4, 7, 5), (2, 33, 50), (1, 3, 16), (2, 0, 3)]
        {
            let along = Along { outer, len, inner };
            let input: Vec<f32> = (0..outer * len * inner).map(|_| rng.range(-30.0, 30.0)).collect();
            let (len, inner) = (len as usize, inner as usize);
            for log in [false, true] {
                let mut expected = vec![0.0; input.len()];
                for o in 0..outer as usize {
                    for i in 0..inner {
                        let at = |l: usize| (o * len + l) * inner + i;
                        let largest = (0..len).map(|l| f64::from(input[at(l)])).fold(f64::NEG_INFINITY, f64::max);
                        let total: f64 = (0..len).map(|l| (f64::from(input[at(l)]) - largest).exp()).sum();
                        for l in 0..len {
                            let x = f64::from(input[at(l)]) - largest;
                            expected[at(l)] = if log { x - total.ln() } else { x.exp() / total };
                        }
                    }
                }
                let mut first = None;
                for set in sets() {
                    let what = alloc::format!("{} {along:?} log {log}", set.name());
                    let mut out = vec![f32::NAN; input.len()];
                    softmax(set.into(), &along, log, &input, &mut out);
                    assert_close(&what, &out, &expected, 1e-6);
                    let mut in_place = input.clone();
                    softmax_in_place(set.into(), &along, log, &mut in_place);
                    assert_eq!(in_place, out, "{what}");
                    assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{what}: sets agree");
                }
            }
        }
    }

    #[test]
    fn softmax_of_infinities_follows_numpy() {
        let inf = f32::INFINITY;
        for (inner, input) in [(1, [0.0, -inf, 0.0, 0.0, -inf, -inf]), (2, [0.0, 0.0, -inf, -inf, 0.0, -inf])] {
            let along = Along { outer: 2 / inner, len: 3, inner };
            let mut out = [7.0; 6];
            softmax(KernelSet::detect().into(), &along, false, &input, &mut out);
            assert!(out.iter().all(|x| x.is_finite()), "one -infinity has no probability: {out:?}");
            assert_eq!(out.iter().sum::<f32>(), 2.0);
        }
        for poison in [[-inf; 3], [inf, 0.0, 0.0], [f32::NAN, 0.0, 0.0]] {
            let mut out = poison;
            softmax_in_place(KernelSet::detect().into(), &Along { outer: 1, len: 3, inner: 1 }, false, &mut out);
            assert!(out[0].is_nan(), "{poison:?} gives {out:?}");
        }
    }

    fn reference(g: &Normalize, input: &[f32], scale: &[f32], bias: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for row in input.chunks_exact(g.len as usize) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / row.len() as f64;
            for &x in row {
                let channel = out.len() / g.inner as usize % g.channels as usize;
                let unit = (f64::from(x) - mean) / (variance + f64::from(g.epsilon)).sqrt();
                out.push(unit * f64::from(scale[channel]) + f64::from(bias[channel]));
            }
        }
        out
    }

    #[test]
    fn layer_instance_and_group_norm_against_f64() {
        let mut rng = Rng(52);
        let epsilon = 1e-5;
        let shapes = [
            // Layer.
            Normalize { outer: 5, len: 37, channels: 37, inner: 1, epsilon },
            Normalize { outer: 1, len: 1, channels: 1, inner: 1, epsilon },
            // Instance: (2, 3, 10).
            Normalize { outer: 6, len: 10, channels: 3, inner: 10, epsilon },
            // Group: (2, 6, 7) in three groups.
            Normalize { outer: 6, len: 14, channels: 6, inner: 7, epsilon },
            // Group with one element per channel: (2, 6, 1).
            Normalize { outer: 4, len: 3, channels: 6, inner: 1, epsilon },
            // Channels that do not end with the row.
            Normalize { outer: 3, len: 10, channels: 4, inner: 3, epsilon },
        ];
        for g in shapes {
            // A mean far from zero is where one-pass variance would fail.
            let input: Vec<f32> = rng.vec((g.outer * g.len) as usize).iter().map(|x| x + 100.0).collect();
            let (scale, bias) = (rng.vec(g.channels as usize), rng.vec(g.channels as usize));
            let expected = reference(&g, &input, &scale, &bias);
            let ones = vec![1.0; scale.len()];
            let bare = reference(&g, &input, &ones, &vec![0.0; bias.len()]);
            for set in sets() {
                let what = alloc::format!("{} {g:?}", set.name());
                let mut out = vec![f32::NAN; input.len()];
                normalize(set.into(), &g, &input, Some(&scale), Some(&bias), &mut out);
                assert_close(&what, &out, &expected, 3e-5);
                let mut in_place = input.clone();
                normalize_in_place(set.into(), &g, Some(&scale), Some(&bias), &mut in_place);
                assert_eq!(in_place, out, "{what}");
                normalize(set.into(), &g, &input, None, None, &mut out);
                assert_close(&what, &out, &bare, 3e-5);
            }
        }
    }

    #[test]
    fn lrn_against_f64() {
        let mut rng = Rng(53);
        for (size, beta) in [(5, 0.75), (3, 0.5), (4, 0.75), (1, 1.0), (9, 0.6)] {
            let g = Lrn { n: 2, c: 7, inner: 6, size, alpha: 0.3, beta, bias: 1.5 };
            let input: Vec<f32> = rng.vec(84).iter().map(|x| x * 4.0).collect();
            let mut expected = Vec::new();
            for n in 0..2i64 {
                for c in 0..7i64 {
                    for i in 0..6i64 {
                        let size = i64::from(size);
                        // ONNX: floor((size - 1) / 2) channels before, ceil((size - 1) / 2) after.
                        let window = (c - (size - 1) / 2).max(0)..=(c + size / 2).min(6);
                        let sum: f64 = window.map(|d| f64::from(input[((n * 7 + d) * 6 + i) as usize]).powi(2)).sum();
                        let base = f64::from(g.bias) + f64::from(g.alpha) / size as f64 * sum;
                        expected.push(f64::from(input[((n * 7 + c) * 6 + i) as usize]) / base.powf(f64::from(beta)));
                    }
                }
            }
            let mut out = vec![f32::NAN; 84];
            lrn(&g, &input, &mut out);
            assert_close(&alloc::format!("{g:?}"), &out, &expected, 1e-6);
        }
    }
}
