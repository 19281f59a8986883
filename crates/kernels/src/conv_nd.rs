//! Convolutions outside the block layout: any groups, up to three spatial axes, transposed.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::KernelSet;
use crate::elementwise::unary_in_place;
use crate::geometry::{Axis, ConvNd, UnaryOp};
use crate::pool::Taps;

/// `input` holds [`ConvNd::input_len`] elements, `weight` [`ConvNd::weight_len`], `bias` `oc`, `out`
/// [`ConvNd::output_len`]. Bits depend on `set` through the activation only.
///
/// Each output row is built from whole rows of the input, one tap at a time: the inner loop runs along the last axis.
pub fn conv_nd(
    set: KernelSet,
    geometry: &ConvNd,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    assert!(geometry.is_valid(), "validated: a convolution this kernel can run");
    assert_eq!(Some(out.len() as u64), geometry.output_len(), "validated: conv's output length");
    let view = View::new(geometry, input, weight);
    let plane = view.out.iter().product::<usize>();
    if plane == 0 {
        return;
    }
    for (index, plane) in out.chunks_exact_mut(plane).enumerate() {
        let (image, channel) = (index / geometry.oc as usize, index % geometry.oc as usize);
        plane.fill(bias.map_or(0.0, |bias| bias[channel]));
        if geometry.transposed {
            view.scatter(image, channel, plane);
        } else {
            view.collect(image, channel, plane);
        }
        if let Some(op) = act {
            unary_in_place(set.into(), op, plane);
        }
    }
}

/// Extents as `usize`, outermost axis first, and the operands.
struct View<'a> {
    geometry: &'a ConvNd,
    input: &'a [f32],
    weight: &'a [f32],
    inp: [usize; 3],
    out: [usize; 3],
    kernel: [usize; 3],
    /// Channels of one group.
    ic: usize,
    oc: usize,
}

impl<'a> View<'a> {
    fn new(geometry: &'a ConvNd, input: &'a [f32], weight: &'a [f32]) -> Self {
        let extents = |f: fn(&Axis) -> u32| geometry.axes.each_ref().map(|axis| f(axis) as usize);
        View {
            geometry,
            input,
            weight,
            inp: extents(|a| a.input),
            out: extents(|a| a.output),
            kernel: extents(|a| a.kernel),
            ic: (geometry.ic / geometry.groups) as usize,
            oc: (geometry.oc / geometry.groups) as usize,
        }
    }

    fn input_plane(&self, image: usize, channel: usize) -> &'a [f32] {
        let plane = self.inp.iter().product::<usize>();
        &self.input[(image * self.geometry.ic as usize + channel) * plane..][..plane]
    }

    fn window(&self, first: usize, second: usize, per_first: usize) -> &'a [f32] {
        let taps = self.kernel.iter().product::<usize>();
        &self.weight[(first * per_first + second) * taps..][..taps]
    }

    /// Convolution: every output position collects from the input.
    fn collect(&self, image: usize, channel: usize, plane: &mut [f32]) {
        let [az, ay, ax] = &self.geometry.axes;
        let group = channel / self.oc;
        let mut rows = plane.chunks_exact_mut(self.out[2]);
        for z in 0..self.out[0] {
            let tz = Taps::new(az, z);
            for y in 0..self.out[1] {
                let ty = Taps::new(ay, y);
                let Some(row) = rows.next() else { return };
                for c in 0..self.ic {
                    let source = self.input_plane(image, group * self.ic + c);
                    let window = self.window(channel, c, self.ic);
                    for kz in 0..tz.inside {
                        let iz = tz.first + kz * az.dilation as usize;
                        for ky in 0..ty.inside {
                            let iy = ty.first + ky * ay.dilation as usize;
                            let line = &source[(iz * self.inp[1] + iy) * self.inp[2]..][..self.inp[2]];
                            let taps = ((tz.skipped + kz) * self.kernel[1] + ty.skipped + ky) * self.kernel[2];
                            for (kx, &w) in window[taps..taps + self.kernel[2]].iter().enumerate() {
                                collect_row(ax, kx, w, line, row);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Transposed convolution: every input position scatters into the output.
    fn scatter(&self, image: usize, channel: usize, plane: &mut [f32]) {
        let [az, ay, ax] = &self.geometry.axes;
        let group = channel / self.oc;
        for c in 0..self.ic {
            let source = self.input_plane(image, group * self.ic + c);
            let window = self.window(group * self.ic + c, channel % self.oc, self.oc);
            for kz in 0..self.kernel[0] {
                for ky in 0..self.kernel[1] {
                    let taps = &window[(kz * self.kernel[1] + ky) * self.kernel[2]..][..self.kernel[2]];
                    for iz in 0..self.inp[0] {
                        let Some(z) = target(az, iz, kz) else { continue };
                        for iy in 0..self.inp[1] {
                            let Some(y) = target(ay, iy, ky) else { continue };
                            let line = &source[(iz * self.inp[1] + iy) * self.inp[2]..][..self.inp[2]];
                            let row = &mut plane[(z * self.out[1] + y) * self.out[2]..][..self.out[2]];
                            for (kx, &w) in taps.iter().enumerate() {
                                for (ix, &x) in line.iter().enumerate() {
                                    if let Some(at) = target(ax, ix, kx) {
                                        row[at] += w * x;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `row[x] += w * line[x * stride + kx * dilation - pad]` wherever that lies inside.
fn collect_row(axis: &Axis, kx: usize, w: f32, line: &[f32], row: &mut [f32]) {
    let (stride, shift) = (axis.stride as usize, kx * axis.dilation as usize);
    let pad = axis.pad_begin as usize;
    let first = pad.saturating_sub(shift).div_ceil(stride);
    let end = (line.len() + pad).saturating_sub(shift).div_ceil(stride).min(row.len());
    if first >= end {
        return;
    }
    let line = &line[first * stride + shift - pad..];
    let row = &mut row[first..end];
    if stride == 1 {
        row.iter_mut().zip(line).for_each(|(sum, &x)| *sum += w * x);
    } else {
        row.iter_mut().zip(line.iter().step_by(stride)).for_each(|(sum, &x)| *sum += w * x);
    }
}

/// Where the transposed tap `k` of input position `i` lands, if inside the output.
fn target(axis: &Axis, i: usize, k: usize) -> Option<usize> {
    let at = (i * axis.stride as usize + k * axis.dilation as usize).checked_sub(axis.pad_begin as usize)?;
    (at < axis.output as usize).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Rng, assert_close, len, sets};
    use alloc::vec;
    use alloc::vec::Vec;

    /// Both directions from one definition: every input position meets every tap once.
    fn reference(g: &ConvNd, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let extents = |f: fn(&Axis) -> u32| g.axes.map(|a| f(&a) as usize);
        let (inp, out, kernel) = (extents(|a| a.input), extents(|a| a.output), extents(|a| a.kernel));
        let split = |flat: usize, e: [usize; 3]| [flat / (e[1] * e[2]), flat / e[2] % e[1], flat % e[2]];
        let join = |at: [usize; 3], e: [usize; 3]| (at[0] * e[1] + at[1]) * e[2] + at[2];
        let volume = |e: [usize; 3]| e.iter().product::<usize>();
        let (icg, ocg) = ((g.ic / g.groups) as usize, (g.oc / g.groups) as usize);
        let mut sums = vec![0f64; len(g.output_len())];
        for (flat, sum) in sums.iter_mut().enumerate() {
            *sum = f64::from(bias[flat / volume(out) % g.oc as usize]);
        }
        for n in 0..g.n as usize {
            for oc in 0..g.oc as usize {
                for c in 0..icg {
                    let ic = oc / ocg * icg + c;
                    // The end that moves by the stride, and the one that is reached.
                    let (moving, reached) = if g.transposed { (inp, out) } else { (out, inp) };
                    for from in 0..volume(moving) {
                        for tap in 0..volume(kernel) {
                            let (at, k) = (split(from, moving), split(tap, kernel));
                            let to: Vec<i64> = (0..3)
                                .map(|d| {
                                    let a = &g.axes[d];
                                    at[d] as i64 * i64::from(a.stride) + k[d] as i64 * i64::from(a.dilation)
                                        - i64::from(a.pad_begin)
                                })
                                .collect();
                            if (0..3).any(|d| to[d] < 0 || to[d] >= reached[d] as i64) {
                                continue;
                            }
                            let to = join([to[0] as usize, to[1] as usize, to[2] as usize], reached);
                            let (i, o) = if g.transposed { (from, to) } else { (to, from) };
                            let window = if g.transposed { ic * ocg + oc % ocg } else { oc * icg + c };
                            let x = f64::from(input[(n * g.ic as usize + ic) * volume(inp) + i]);
                            let w = f64::from(weight[window * volume(kernel) + tap]);
                            sums[(n * g.oc as usize + oc) * volume(out) + o] += x * w;
                        }
                    }
                }
            }
        }
        sums
    }

    #[test]
    fn every_shape_against_f64() {
        let mut rng = Rng(31);
        for case in 0..400 {
            let transposed = case % 2 == 0;
            let axes = [(); 3].map(|()| {
                if rng.below(3) == 0 {
                    return Axis::UNIT;
                }
                let mut below = |bound| rng.below(bound) as u32;
                let (input, kernel) = (1 + below(7), 1 + below(4));
                let (stride, dilation) = (1 + below(3), 1 + below(3));
                let (pad_begin, pad_end) = (below(6), below(3));
                let axis = Axis { input, output: 0, kernel, stride, dilation, pad_begin, pad_end };
                // Any output extent is allowed; windows past the input read padding.
                Axis { output: 1 + below(8), ..axis }
            });
            let groups = 1 + rng.below(3) as u32;
            let (ic, oc) = (groups * (1 + rng.below(3) as u32), groups * (1 + rng.below(3) as u32));
            let g = ConvNd { n: 1 + rng.below(2) as u32, groups, ic, oc, axes, transposed };
            assert!(g.is_valid());
            let input = rng.vec(len(g.input_len()));
            let weight = rng.vec(len(g.weight_len()));
            let bias = rng.vec(oc as usize);
            let expected = reference(&g, &input, &weight, &bias);
            for set in sets() {
                let what = alloc::format!("{} {g:?}", set.name());
                let mut out = vec![f32::NAN; expected.len()];
                conv_nd(set, &g, &input, &weight, Some(&bias), None, &mut out);
                assert_close(&what, &out, &expected, 1e-5);
                let relu: Vec<f64> = expected.iter().map(|x| x.max(0.0)).collect();
                conv_nd(set, &g, &input, &weight, Some(&bias), Some(UnaryOp::Relu), &mut out);
                assert_close(&what, &out, &relu, 1e-5);
            }
        }
    }

    #[test]
    fn no_bias_is_zero() {
        let g = ConvNd { n: 1, groups: 1, ic: 1, oc: 1, axes: [Axis::UNIT; 3], transposed: true };
        let mut out = [f32::NAN];
        conv_nd(KernelSet::PORTABLE, &g, &[3.0], &[2.0], None, Some(UnaryOp::Neg), &mut out);
        assert_eq!(out, [-6.0]);
    }
}
