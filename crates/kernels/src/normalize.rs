//! Softmax, mean-and-variance normalisation and local response normalisation.
//!
//! Sums run over sixteen `f64` lanes in a fixed order, so neither the kernel set nor the row length's remainder changes
//! how a sum is formed, and long rows stay accurate.

use crate::arch::{Kernel, KernelSet, Simd, sqrt};
use crate::geometry::{Along, Lrn, Normalize};
use crate::math;

/// Lanes a sum is spread over, and columns handled together when the axis is not the innermost.
const LANES: usize = 16;

/// Softmax along the middle axis of `(outer, len, inner)`, or its logarithm. `input` and `out` hold [`Along::len`]
/// elements. Rows whose maximum is infinite, or that hold NaN, give NaN. Bits do not depend on `set`.
pub fn softmax(set: KernelSet, along: &Along, log: bool, input: &[f32], out: &mut [f32]) {
    assert_eq!(input.len(), out.len(), "validated: softmax's input is as long as its output");
    let slab = along.len as usize * along.inner as usize;
    if slab == 0 {
        return;
    }
    for (from, to) in input.chunks_exact(slab).zip(out.chunks_exact_mut(slab)) {
        to.copy_from_slice(from);
        set.dispatch(Softmax { inner: along.inner as usize, log, slab: to });
    }
}

/// [`softmax`], overwriting its input.
pub fn softmax_in_place(set: KernelSet, along: &Along, log: bool, out: &mut [f32]) {
    let slab = along.len as usize * along.inner as usize;
    if slab == 0 {
        return;
    }
    for slab in out.chunks_exact_mut(slab) {
        set.dispatch(Softmax { inner: along.inner as usize, log, slab });
    }
}

/// Rows of mean 0 and variance 1, scaled and shifted per channel. `input` and `out` hold [`Normalize::len`] elements,
/// `scale` and `bias` `channels`. Bits do not depend on `set`.
pub fn normalize(
    set: KernelSet,
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
    for (index, (from, to)) in input.chunks_exact(len).zip(out.chunks_exact_mut(len)).enumerate() {
        to.copy_from_slice(from);
        set.dispatch(Row { geometry, first: index * len, scale, bias, row: to });
    }
}

/// [`normalize`], overwriting its input.
pub fn normalize_in_place(
    set: KernelSet,
    geometry: &Normalize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let len = geometry.len as usize;
    if len == 0 {
        return;
    }
    for (index, row) in out.chunks_exact_mut(len).enumerate() {
        set.dispatch(Row { geometry, first: index * len, scale, bias, row });
    }
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
        row.iter_mut().for_each(|x| *x = math::exp(*x - largest));
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
        buffer.iter_mut().zip(piece).for_each(|(to, &x)| *to = math::exp(x - shift));
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
            let e = math::exp(*x - top);
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
