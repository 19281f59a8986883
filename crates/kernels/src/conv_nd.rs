//! Convolutions outside the block layout: any groups, up to three spatial axes, transposed.

use crate::arch::KernelSet;
use crate::geometry::{Axis, ConvNd, UnaryOp};
use crate::pool::Taps;
use crate::unary::Activation;

/// `input` holds [`ConvNd::input_len`] elements, `weight` [`ConvNd::weight_len`], `bias` `oc`, `out`
/// [`ConvNd::output_len`]. Bits do not depend on `set`.
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
    assert_eq!(Some(out.len() as u64), geometry.output_len(), "validated: conv's output length");
    let act = Activation::new(act);
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
        plane.iter_mut().for_each(|x| *x = act.clamp([*x; 16])[0]);
        act.finish(set, plane);
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
