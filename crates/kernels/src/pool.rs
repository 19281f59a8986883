//! Max and average pooling.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{Axis, Pool, PoolKind};
use crate::math;
use crate::parallel::{Compute, MOVE};

/// `input` holds [`Pool::input_len`] elements, `out` [`Pool::output_len`]. Bits do not depend on the kernel set.
///
/// Padding never wins a maximum and adds nothing to an average. [`PoolKind::AverageCountPad`] divides by the taps inside
/// the input and its declared padding: those that `ceil_mode` puts past `pad_end` do not count. A window without any
/// tap that counts gives negative infinity (max) or 0 (average). NaN propagates.
pub fn pool(compute: Compute, geometry: &Pool, input: &[f32], out: &mut [f32]) {
    let g = geometry;
    assert!(g.is_valid(), "validated: a pooling this kernel can run");
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: pool's input length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: pool's output length");
    let planes = (g.planes as usize).max(1);
    let (from, to) = (input.len() / planes, out.len() / planes);
    let taps: u64 = g.axes.iter().map(|axis| u64::from(axis.kernel.min(axis.input))).product();
    let cost = (out.len() as u64).saturating_mul(taps).saturating_mul(MOVE / 2);
    compute.split(out, to, cost, |planes, out| {
        let input = &input[planes.start * from..planes.end * from];
        compute.set.dispatch(Pooling { geometry, input, out });
    });
}

/// The taps of one window along one axis that lie inside the input, and how many count for an average with padding.
#[derive(Clone, Copy)]
pub(crate) struct Taps {
    /// Input position of the first tap inside.
    pub(crate) first: usize,
    /// Taps inside.
    pub(crate) inside: usize,
    /// Index of the first tap inside.
    pub(crate) skipped: usize,
    /// Taps inside the input or its declared padding.
    counted: usize,
}

impl Taps {
    /// The window at `output`. Computed, not searched: the work does not grow with a hostile window extent.
    #[inline(always)]
    pub(crate) fn new(axis: &Axis, output: usize) -> Taps {
        let (kernel, dilation) = (i64::from(axis.kernel), i64::from(axis.dilation));
        let start = output as i64 * i64::from(axis.stride) - i64::from(axis.pad_begin);
        // Taps k with start + k * dilation < end.
        let below = |end: i64| {
            let reach = (end - start).max(0) as u64;
            // Division by 1 would be a quarter of a small tile's time.
            let taps = if dilation == 1 { reach } else { reach.div_ceil(dilation as u64) };
            taps.min(kernel as u64) as i64
        };
        let (before, until) = (below(0), below(i64::from(axis.input)));
        Taps {
            first: (start + before * dilation).max(0) as usize,
            inside: (until - before) as usize,
            skipped: before as usize,
            counted: below(i64::from(axis.input) + i64::from(axis.pad_end)) as usize,
        }
    }
}

/// The planes that `input` and `out` hold.
struct Pooling<'a> {
    geometry: &'a Pool,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Pooling<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let g = self.geometry;
        match (g.lanes, g.kind) {
            (1, PoolKind::Max) => planes::<f32, 1>(g, self.input, self.out, f32::NEG_INFINITY, math::max, |x, _, _| x),
            (1, PoolKind::Average) => {
                planes::<f32, 1>(g, self.input, self.out, 0.0, |a, b| a + b, |x, n, _| mean(x, n))
            }
            (1, PoolKind::AverageCountPad) => {
                planes::<f32, 1>(g, self.input, self.out, 0.0, |a, b| a + b, |x, _, n| mean(x, n));
            }
            (_, PoolKind::Max) => planes::<f32, 16>(g, self.input, self.out, f32::NEG_INFINITY, math::max, |x, _, _| x),
            (_, PoolKind::Average) => {
                planes::<f32, 16>(g, self.input, self.out, 0.0, |a, b| a + b, |x, n, _| mean(x, n))
            }
            (_, PoolKind::AverageCountPad) => {
                planes::<f32, 16>(g, self.input, self.out, 0.0, |a, b| a + b, |x, _, n| mean(x, n));
            }
        }
    }
}

#[inline(always)]
fn mean(sum: f32, count: usize) -> f32 {
    if count == 0 { 0.0 } else { sum / count as f32 }
}

/// `(planes, d, h, w, L)` → `(planes, od, oh, ow, L)`; `end` gets the folded value, the taps inside and the taps counted.
#[inline(always)]
pub(crate) fn planes<T: Copy, const L: usize>(
    g: &Pool,
    input: &[T],
    out: &mut [T],
    start: T,
    fold: impl Fn(T, T) -> T + Copy,
    end: impl Fn(T, usize, usize) -> T + Copy,
) {
    let [az, ay, ax] = &g.axes;
    let [h, w] = [ay.input as usize, ax.input as usize];
    let extent = az.input as usize * h * w;
    let (cells, _) = input.as_chunks::<L>();
    let (results, _) = out.as_chunks_mut::<L>();
    let mut results = results.iter_mut();
    for cells in cells.chunks_exact(extent.max(1)) {
        for z in 0..az.output as usize {
            let tz = Taps::new(az, z);
            for y in 0..ay.output as usize {
                let ty = Taps::new(ay, y);
                for x in 0..ax.output as usize {
                    let tx = Taps::new(ax, x);
                    let mut whole = [start; L];
                    for kz in 0..tz.inside {
                        let iz = tz.first + kz * az.dilation as usize;
                        for ky in 0..ty.inside {
                            let at = (iz * h + ty.first + ky * ay.dilation as usize) * w + tx.first;
                            let mut line = [start; L];
                            for kx in 0..tx.inside {
                                let cell = &cells[at + kx * ax.dilation as usize];
                                line = core::array::from_fn(|l| fold(line[l], cell[l]));
                            }
                            // Line by line, so that the error of a wide sum grows with its side, not its area.
                            whole = core::array::from_fn(|l| fold(whole[l], line[l]));
                        }
                    }
                    let inside = tz.inside * ty.inside * tx.inside;
                    let counted = tz.counted * ty.counted * tx.counted;
                    if let Some(result) = results.next() {
                        *result = core::array::from_fn(|l| end(whole[l], inside, counted));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::test_support::{Rng, assert_close, len, sets};
    use alloc::vec;
    use alloc::vec::Vec;

    fn reference(g: &Pool, input: &[f32]) -> Vec<f64> {
        let lanes = g.lanes as usize;
        let [inp, out, kernel] = [|a: Axis| a.input as usize, |a: Axis| a.output as usize, |a: Axis| a.kernel as usize]
            .map(|f| g.axes.map(f));
        let split = |flat: usize, e: [usize; 3]| [flat / (e[1] * e[2]), flat / e[2] % e[1], flat % e[2]];
        let volume = |e: [usize; 3]| e.iter().product::<usize>();
        let mut results = Vec::new();
        for plane in 0..g.planes as usize {
            for at in 0..volume(out) {
                for lane in 0..lanes {
                    let (at, mut counted) = (split(at, out), 0usize);
                    let mut taken = Vec::new();
                    for tap in 0..volume(kernel) {
                        let k = split(tap, kernel);
                        let p: Vec<i64> = (0..3)
                            .map(|d| {
                                let a = &g.axes[d];
                                (at[d] as i64) * i64::from(a.stride) + k[d] as i64 * i64::from(a.dilation)
                                    - i64::from(a.pad_begin)
                            })
                            .collect();
                        if (0..3).all(|d| p[d] < inp[d] as i64 + i64::from(g.axes[d].pad_end)) {
                            counted += 1;
                        }
                        if (0..3).all(|d| p[d] >= 0 && p[d] < inp[d] as i64) {
                            let flat = ((p[0] as usize) * inp[1] + p[1] as usize) * inp[2] + p[2] as usize;
                            taken.push(f64::from(input[(plane * volume(inp) + flat) * lanes + lane]));
                        }
                    }
                    let sum: f64 = taken.iter().sum();
                    let mean = |count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
                    results.push(match g.kind {
                        PoolKind::Max => taken.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        PoolKind::Average => mean(taken.len()),
                        PoolKind::AverageCountPad => mean(counted),
                    });
                }
            }
        }
        results
    }

    #[test]
    fn every_kind_against_f64() {
        let mut rng = Rng(41);
        for case in 0..400 {
            let axes = [(); 3].map(|()| {
                if rng.below(3) == 0 {
                    return Axis::UNIT;
                }
                let mut below = |bound| rng.below(bound) as u32;
                let (input, kernel) = (1 + below(8), 1 + below(4));
                let (stride, dilation) = (1 + below(3), 1 + below(3));
                // Outputs beyond what fits are what ceil_mode produces, and worse.
                Axis { input, output: 1 + below(7), kernel, stride, dilation, pad_begin: below(5), pad_end: below(5) }
            });
            let kind = [PoolKind::Max, PoolKind::Average, PoolKind::AverageCountPad][case % 3];
            let g = Pool { kind, planes: 1 + rng.below(3) as u32, lanes: [1, 16][rng.below(2)], axes };
            assert!(g.is_valid());
            let input: Vec<f32> = rng.vec(len(g.input_len())).iter().map(|x| x - 2.0).collect();
            let expected = reference(&g, &input);
            for set in sets() {
                let mut out = vec![f32::NAN; expected.len()];
                pool(set.into(), &g, &input, &mut out);
                assert_close(&alloc::format!("{} {g:?}", set.name()), &out, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn ceil_mode_ignores_what_lies_past_the_padding() {
        // Window 2, stride 2 over 1 ..= 4 and one pad: the third window starts on the pad and ends past it.
        let x = Axis { input: 4, output: 3, kernel: 2, stride: 2, dilation: 1, pad_begin: 0, pad_end: 1 };
        let g = Pool { kind: PoolKind::AverageCountPad, planes: 1, lanes: 1, axes: [Axis::UNIT, Axis::UNIT, x] };
        let mut out = [0.0; 3];
        pool(KernelSet::PORTABLE.into(), &g, &[1.0, 2.0, 3.0, 4.0], &mut out);
        assert_eq!(out, [1.5, 3.5, 0.0]);
        let x = Axis { pad_end: 0, input: 5, ..x };
        let g = Pool { axes: [Axis::UNIT, Axis::UNIT, x], ..g };
        pool(KernelSet::PORTABLE.into(), &g, &[1.0, 2.0, 3.0, 4.0, 5.0], &mut out);
        assert_eq!(out, [1.5, 3.5, 5.0]);
    }

    #[test]
    fn maxima_of_negative_infinity_and_nan() {
        let x = Axis { input: 4, output: 4, kernel: 2, stride: 1, dilation: 1, pad_begin: 1, pad_end: 0 };
        let g = Pool { kind: PoolKind::Max, planes: 1, lanes: 1, axes: [Axis::UNIT, Axis::UNIT, x] };
        let mut out = [0.0; 4];
        pool(KernelSet::PORTABLE.into(), &g, &[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NAN, -3.0], &mut out);
        assert_eq!(out[..2], [f32::NEG_INFINITY; 2]);
        assert!(out[2].is_nan() && out[3].is_nan());
    }
}
