//! Two-dimensional convolution in the block layout: direct, without a patch matrix or any other memory.
//!
//! A tile is some neighbouring output pixels, rows of the image running on into each other, of one plane or two (a plane is
//! one block of sixteen output channels); how many is up to the kernel set. Padding is read as zeros. An element is computed in the same order of operations whichever tile it is in.

use crate::arch::{Kernel, Simd};
use crate::conv_tile::{self, Operands, To};
use crate::depthwise::{self, Depthwise};
use crate::geometry::{Conv2d, UnaryOp};
use crate::parallel::{Compute, MOVE};
use crate::planes::{self, Cuts, Share};
use crate::unary::Activation;

pub use crate::conv_nd::conv_nd;
pub use crate::tile::Residual;

/// `input` holds [`Conv2d::input_len`] elements, `weight` [`Conv2d::weight_len`], `bias` [`Conv2d::bias_len`], `out` and
/// the residual [`Conv2d::output_len`]; the geometry passes [`Conv2d::is_valid`].
///
/// Each output is `act(bias + residual + products)`, depthwise `act(bias + products + residual)`. Lanes past `ic` of a
/// blocked input are never read, except by depthwise convolution, where they reach the same unspecified lanes of the output.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn conv2d(
    compute: Compute,
    geometry: &Conv2d,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Residual<'_>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    let g = geometry;
    assert!(g.is_valid(), "validated: a convolution the block layout can run");
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: conv's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: conv's weight length");
    assert!(bias.is_none_or(|b| Some(b.len() as u64) == g.bias_len()), "validated: conv's bias length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: conv's output length");
    let act = Activation::new(act);
    let (set, plane) = (compute.set, g.y.output as usize * g.x.output as usize * 16);
    let taps = u64::from(g.ic / g.groups) * u64::from(g.y.kernel) * u64::from(g.x.kernel);
    // With few pixels the time is that of reading the weights.
    let cost = taps.saturating_mul(out.len() as u64).saturating_add(weight.len() as u64 * (MOVE / 2));
    if g.is_depthwise() {
        let (input, weight) = (input.as_chunks().0, weight.as_chunks().0);
        let bias = bias.map(|bias| bias.as_chunks().0);
        let geometry = &depthwise::flat(g);
        let row = geometry.x.output as usize * 16;
        // One load for each multiply-add.
        return compute.split(out, row, cost.saturating_mul(2), |rows, out| {
            let residual = residual.part(rows.start * row..rows.end * row);
            set.dispatch(Depthwise { geometry, input, weight, bias, residual, act, rows, out });
        });
    }
    let item = if conv_tile::is_pointwise(g) { 16 } else { g.x.output as usize * 16 };
    compute.share(out, (plane, item), set.dispatch(Together), cost, |share| {
        set.dispatch(Conv { geometry, input, weight, bias, residual, act, share });
    });
}

/// How many planes a tile spans.
struct Together;

impl Kernel for Together {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::BLOCKS
    }
}

struct Conv<'a, 'b> {
    geometry: &'a Conv2d,
    input: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    /// As long as the whole output.
    residual: Residual<'a>,
    act: Activation,
    share: Share<'a, 'b, f32>,
}

impl Kernel for Conv<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.geometry;
        let blocks = (g.oc as usize).div_ceil(16);
        let whole = g.y.output as usize * g.x.output as usize * 16;
        let Share { planes, pixels, mut out } = self.share;
        let (origin, size) = (pixels.start, pixels.len() * 16);
        let tiling = Cuts::new(S::HEIGHTS, g.x.output, conv_tile::is_pointwise(g), pixels);
        if size == 0 {
            return;
        }
        let strip = planes::strip(S::HEIGHTS, (g.ic / g.groups) as usize * size_of::<f32>());
        let (none, mut patch) = (Activation::new(None), [0.0; conv_tile::PATCH]);
        let mut first = 0;
        while first < tiling.len() {
            let strip = first..(first + strip).min(tiling.len());
            let mut plane = planes.start;
            while plane < planes.end {
                let block = plane % blocks;
                let count = conv_tile::together(g.oc, g.groups, block, S::BLOCKS.min(planes.end - plane));
                let operands = Operands::new(g, self.input, self.weight, self.bias, plane / blocks, block, count);
                let mine = plane - planes.start;
                for part in operands.parts() {
                    let (mut ahead, mut start) = (part.ahead.over(strip.len()), tiling.start(strip.start));
                    for tile in strip.clone() {
                        let pixels = start..tiling.start(tile + 1);
                        start = pixels.end;
                        let at = (pixels.start - origin) * 16..(pixels.end - origin) * 16;
                        let act = if part.last { &self.act } else { &none };
                        let residual = self.residual.from(plane * whole + pixels.start * 16);
                        let tile = To { residual, plane: whole, act, out: out.tile(mine, count, size, at.clone()) };
                        conv_tile::run(s, &operands, &part, ahead.next(), pixels, &mut patch, tile);
                        if part.last && self.act.remains() {
                            // While the tile is in the first-level cache.
                            for to in out.tile(mine, count, size, at) {
                                self.act.finish(s, to);
                            }
                        }
                    }
                }
                plane += count;
            }
            first = strip.end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::geometry::{Axis, Layout};
    use crate::parallel::Parallel;
    use crate::planes::Out;
    use crate::test_support::{Cuts, Rng, assert_close, from_blocked, len, sets, to_blocked};
    use alloc::vec;
    use alloc::vec::Vec;
    use core::ops::Range;

    fn axis(input: u32, kernel: u32, stride: u32, dilation: u32, pads: [u32; 2]) -> Axis {
        let axis = Axis { input, output: 0, kernel, stride, dilation, pad_begin: pads[0], pad_end: pads[1] };
        Axis { output: axis.windows(false).unwrap(), ..axis }
    }

    /// Plain operands of one convolution, and its definition written out.
    struct Case {
        g: Conv2d,
        /// `(n, ic, h, w)`.
        input: Vec<f32>,
        /// `(oc, ic / groups, kh, kw)`.
        weight: Vec<f32>,
        bias: Vec<f32>,
        /// `(n, oc, oh, ow)`.
        residual: Vec<f32>,
    }

    impl Case {
        fn new(g: Conv2d, rng: &mut Rng) -> Case {
            assert!(g.is_valid(), "{g:?}");
            let spatial = (g.y.input * g.x.input) as usize;
            let results = (g.n * g.oc * g.y.output * g.x.output) as usize;
            let weights = (g.oc * (g.ic / g.groups) * g.y.kernel * g.x.kernel) as usize;
            Case {
                g,
                input: rng.vec((g.n * g.ic) as usize * spatial),
                weight: rng.vec(weights),
                bias: rng.vec(g.oc as usize),
                residual: rng.vec(results),
            }
        }

        fn reference(&self, with_bias: bool, with_residual: bool, act: impl Fn(f64) -> f64) -> Vec<f64> {
            let g = &self.g;
            let (icg, ocg) = (g.ic / g.groups, g.oc / g.groups);
            let mut out = Vec::new();
            for n in 0..g.n {
                for oc in 0..g.oc {
                    for oy in 0..g.y.output {
                        for ox in 0..g.x.output {
                            let mut sum = if with_bias { f64::from(self.bias[oc as usize]) } else { 0.0 };
                            for c in 0..icg {
                                for ky in 0..g.y.kernel {
                                    for kx in 0..g.x.kernel {
                                        let y =
                                            i64::from(oy * g.y.stride + ky * g.y.dilation) - i64::from(g.y.pad_begin);
                                        let x =
                                            i64::from(ox * g.x.stride + kx * g.x.dilation) - i64::from(g.x.pad_begin);
                                        if y < 0 || x < 0 || y >= i64::from(g.y.input) || x >= i64::from(g.x.input) {
                                            continue;
                                        }
                                        let channel = oc / ocg * icg + c;
                                        let at = ((n * g.ic + channel) * g.y.input + y as u32) * g.x.input + x as u32;
                                        let w = ((oc * icg + c) * g.y.kernel + ky) * g.x.kernel + kx;
                                        sum += f64::from(self.input[at as usize]) * f64::from(self.weight[w as usize]);
                                    }
                                }
                            }
                            let residual = f64::from(self.residual[out.len()]);
                            out.push(act(if with_residual { sum + residual } else { sum }));
                        }
                    }
                }
            }
            out
        }

        fn packed_weight(&self) -> Vec<f32> {
            let g = &self.g;
            let (ic, taps) = ((g.ic / g.groups) as usize, (g.y.kernel * g.x.kernel) as usize);
            let mut packed = vec![0.0; len(g.weight_len())];
            for (oc, window) in self.weight.chunks_exact(ic * taps).enumerate() {
                for (at, &w) in window.iter().enumerate() {
                    let (c, tap) = (at / taps, at % taps);
                    let vector = match g.input {
                        Layout::Plain => at,
                        Layout::Blocked => c / 16 * 16 * taps + tap * (ic - c / 16 * 16).min(16) + c % 16,
                    };
                    packed[(oc / 16 * ic * taps + vector) * 16 + oc % 16] = w;
                }
            }
            packed
        }

        fn packed_bias(&self) -> Vec<f32> {
            let mut bias = vec![0.0; len(self.g.bias_len())];
            bias[..self.bias.len()].copy_from_slice(&self.bias);
            bias
        }

        /// Input as the geometry wants it, with `garbage` in the lanes nobody may look at.
        fn packed_input(&self, garbage: f32) -> Vec<f32> {
            let g = &self.g;
            match g.input {
                Layout::Plain => self.input.clone(),
                Layout::Blocked => to_blocked(&self.input, g.n, g.ic, g.y.input * g.x.input, garbage),
            }
        }

        fn run(
            &self,
            compute: impl Into<Compute>,
            bias: bool,
            residual: Option<bool>,
            act: Option<UnaryOp>,
            garbage: f32,
        ) -> Vec<f32> {
            let g = &self.g;
            let (input, weight, b) = (self.packed_input(garbage), self.packed_weight(), self.packed_bias());
            let other = to_blocked(&self.residual, g.n, g.oc, g.y.output * g.x.output, 0.0);
            let mut out = if residual == Some(true) { other.clone() } else { vec![f32::NAN; other.len()] };
            let residual = match residual {
                None => Residual::None,
                Some(true) => Residual::InPlace,
                Some(false) => Residual::Other(&other),
            };
            conv2d(compute.into(), g, &input, &weight, bias.then_some(&b), residual, act, &mut out);
            from_blocked(&out, g.n, g.oc, g.y.output * g.x.output)
        }
    }

    fn shapes() -> Vec<Conv2d> {
        let blocked = Layout::Blocked;
        let plain = Layout::Plain;
        let conv = |groups, ic, oc, y, x, input| Conv2d { n: 1, groups, ic, oc, y, x, input };
        vec![
            conv(1, 16, 16, axis(7, 3, 1, 1, [1, 1]), axis(7, 3, 1, 1, [1, 1]), blocked),
            conv(1, 5, 33, axis(9, 3, 1, 1, [1, 1]), axis(13, 3, 1, 1, [1, 1]), blocked),
            conv(1, 17, 20, axis(6, 1, 1, 1, [0, 0]), axis(5, 1, 1, 1, [0, 0]), blocked),
            conv(1, 40, 10, axis(8, 1, 2, 1, [0, 0]), axis(9, 1, 2, 1, [0, 0]), blocked),
            conv(1, 20, 18, axis(11, 3, 2, 1, [0, 1]), axis(10, 3, 2, 1, [1, 0]), blocked),
            conv(1, 18, 16, axis(12, 3, 1, 3, [3, 3]), axis(14, 5, 2, 2, [4, 4]), blocked),
            // Padding larger than the kernel, and windows entirely outside.
            conv(1, 3, 7, axis(4, 2, 1, 1, [5, 6]), axis(3, 3, 2, 1, [7, 4]), blocked),
            conv(1, 1, 1, axis(1, 1, 1, 1, [0, 0]), axis(1, 1, 1, 1, [0, 0]), blocked),
            conv(1, 3, 24, axis(23, 7, 2, 1, [3, 3]), axis(21, 7, 2, 1, [3, 3]), plain),
            conv(1, 4, 16, axis(6, 2, 1, 2, [4, 0]), axis(5, 3, 3, 1, [9, 2]), plain),
            conv(1, 19, 31, axis(5, 1, 1, 1, [0, 0]), axis(6, 1, 1, 1, [0, 0]), plain),
            conv(2, 32, 64, axis(6, 3, 1, 1, [1, 1]), axis(7, 3, 1, 1, [1, 1]), blocked),
            conv(3, 96, 48, axis(5, 1, 1, 1, [0, 0]), axis(5, 3, 2, 1, [1, 1]), plain),
            conv(16, 16, 16, axis(9, 3, 1, 1, [1, 1]), axis(8, 3, 1, 1, [1, 1]), blocked),
            conv(37, 37, 37, axis(9, 5, 2, 1, [2, 2]), axis(8, 3, 1, 2, [2, 2]), blocked),
            conv(3, 3, 3, axis(2, 3, 1, 1, [4, 4]), axis(1, 1, 1, 1, [0, 0]), blocked),
            Conv2d { n: 3, ..conv(1, 17, 17, axis(5, 3, 1, 1, [1, 1]), axis(4, 3, 1, 1, [1, 1]), blocked) },
            Conv2d { n: 2, ..conv(2, 32, 32, axis(4, 2, 2, 1, [0, 0]), axis(4, 2, 2, 1, [0, 0]), plain) },
            Conv2d { n: 2, ..conv(20, 20, 20, axis(6, 3, 2, 1, [1, 1]), axis(6, 3, 2, 1, [1, 1]), blocked) },
        ]
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        for g in shapes() {
            let case = Case::new(g, &mut Rng(44));
            for set in sets() {
                for (residual, act) in
                    [(None, UnaryOp::Silu), (Some(true), UnaryOp::Relu), (Some(false), UnaryOp::Tanh)]
                {
                    let bits = |workers: &'static dyn Parallel| -> Vec<u32> {
                        let out = case.run(Compute { set, workers }, true, residual, Some(act), f32::NAN);
                        out.iter().map(|x| x.to_bits()).collect()
                    };
                    let one = bits(&Cuts(1));
                    for workers in [&Cuts(2) as &'static dyn Parallel, &Cuts(3), &Cuts(16)] {
                        assert_eq!(one, bits(workers), "{} {g:?}, {} threads", set.name(), workers.threads());
                    }
                }
            }
        }
    }

    #[test]
    fn every_shape_in_every_set_against_f64() {
        let mut rng = Rng(11);
        for g in shapes() {
            let case = Case::new(g, &mut rng);
            for set in sets() {
                let what = alloc::format!("{} {g:?}", set.name());
                let expected = case.reference(true, false, |x| x);
                assert_close(&what, &case.run(set, true, None, None, 0.0), &expected, 1e-5);
                let expected = case.reference(false, true, |x| x.max(0.0));
                for in_place in [false, true] {
                    let got = case.run(set, false, Some(in_place), Some(UnaryOp::Relu), 0.0);
                    assert_close(&alloc::format!("{what}, residual in place: {in_place}"), &got, &expected, 1e-5);
                }
                let expected = case.reference(true, true, f64::tanh);
                let got = case.run(set, true, Some(true), Some(UnaryOp::Tanh), 0.0);
                assert_close(&alloc::format!("{what}, tanh"), &got, &expected, 1e-5);
            }
        }
    }

    #[test]
    fn every_height_of_tile_over_odd_numbers_of_blocks_against_f64() {
        let mut rng = Rng(15);
        let point = axis(1, 1, 1, 1, [0, 0]);
        for width in 1..=30 {
            let (one, three) = (axis(width, 1, 1, 1, [0, 0]), axis(width, 3, 1, 1, [1, 1]));
            let (two, plain) = (axis(2 * width, 1, 2, 1, [0, 0]), Layout::Plain);
            let conv = |groups, ic, oc, x, input| Conv2d { n: 1, groups, ic, oc, y: point, x, input };
            let shapes = [
                conv(1, 20, 33, one, Layout::Blocked),
                conv(1, 16, 80, three, Layout::Blocked),
                conv(2, 32, 96, two, Layout::Blocked),
                conv(1, 3, 40, three, plain),
                conv(1, 2, 48, two, plain),
            ];
            for g in shapes {
                let case = Case::new(g, &mut rng);
                let expected = case.reference(true, true, |x| x.max(0.0));
                for set in sets() {
                    for in_place in [false, true] {
                        let got = case.run(set, true, Some(in_place), Some(UnaryOp::Relu), f32::NAN);
                        assert_close(&alloc::format!("{} {g:?}", set.name()), &got, &expected, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn lanes_past_the_channels_influence_nothing() {
        let mut rng = Rng(12);
        for g in shapes() {
            let case = Case::new(g, &mut rng);
            for set in sets() {
                let bits = |garbage| -> Vec<u32> {
                    case.run(set, true, None, Some(UnaryOp::Relu), garbage).iter().map(|x| x.to_bits()).collect()
                };
                assert_eq!(bits(0.0), bits(f32::NAN), "{} {g:?}", set.name());
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_how_the_planes_are_shared_out() {
        let mut rng = Rng(13);
        for g in shapes().into_iter().filter(|g| !g.is_depthwise()) {
            let case = Case::new(g, &mut rng);
            let (input, weight, bias) = (case.packed_input(0.0), case.packed_weight(), case.packed_bias());
            let planes = g.n as usize * (g.oc as usize).div_ceil(16);
            let size = len(g.output_len()) / planes;
            for set in sets() {
                let run = |planes: Range<usize>| {
                    let mut out = vec![0.0; planes.len() * size];
                    set.dispatch(Conv {
                        geometry: &g,
                        input: &input,
                        weight: &weight,
                        bias: Some(&bias),
                        residual: Residual::None,
                        act: Activation::new(Some(UnaryOp::Silu)),
                        share: Share { planes, pixels: 0..size / 16, out: Out::Whole(&mut out) },
                    });
                    out
                };
                let whole = run(0..planes);
                let mut parts = Vec::new();
                let mut at = 0;
                while at < planes {
                    let count = 1 + rng.below(planes - at);
                    parts.extend(run(at..at + count));
                    at += count;
                }
                assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {g:?}", set.name());
            }
        }
    }

    #[test]
    fn depthwise_bits_do_not_depend_on_how_the_rows_are_shared_out() {
        let mut rng = Rng(15);
        for g in shapes().into_iter().filter(Conv2d::is_depthwise) {
            let case = Case::new(g, &mut rng);
            let (input, weight, bias) = (case.packed_input(0.0), case.packed_weight(), case.packed_bias());
            let row = g.x.output as usize * 16;
            let count = len(g.output_len()) / row;
            for set in sets() {
                let run = |rows: Range<usize>| {
                    let mut out = vec![0.0; rows.len() * row];
                    set.dispatch(Depthwise {
                        geometry: &g,
                        input: input.as_chunks().0,
                        weight: weight.as_chunks().0,
                        bias: Some(bias.as_chunks().0),
                        residual: Residual::None,
                        act: Activation::new(Some(UnaryOp::Silu)),
                        rows,
                        out: &mut out,
                    });
                    out
                };
                let whole = run(0..count);
                let cut = rng.below(count);
                let parts = [run(0..cut), run(cut..count)].concat();
                assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {g:?}", set.name());
            }
        }
    }

    #[test]
    fn random_shapes_agree_between_sets() {
        let mut rng = Rng(14);
        for _ in 0..60 {
            let mut random = |input: u32| loop {
                let below = |rng: &mut Rng, bound| rng.below(bound) as u32;
                let pads = [below(&mut rng, 4), below(&mut rng, 4)];
                let a = Axis {
                    input,
                    output: 0,
                    kernel: 1 + below(&mut rng, 4),
                    stride: 1 + below(&mut rng, 3),
                    dilation: 1 + below(&mut rng, 3),
                    pad_begin: pads[0],
                    pad_end: pads[1],
                };
                if let Some(output) = a.windows(false) {
                    break Axis { output, ..a };
                }
            };
            let (y, x) = (random(9), random(17));
            let (ic, oc) = (1 + rng.below(40) as u32, 1 + rng.below(40) as u32);
            let input = if rng.below(2) == 0 { Layout::Plain } else { Layout::Blocked };
            let g = Conv2d { n: 1 + rng.below(2) as u32, groups: 1, ic, oc, y, x, input };
            let case = Case::new(g, &mut rng);
            let expected: Vec<f64> =
                case.run(KernelSet::PORTABLE, true, None, None, f32::NAN).into_iter().map(f64::from).collect();
            for set in sets() {
                let got = case.run(set, true, None, None, f32::NAN);
                assert_close(&alloc::format!("{} {g:?}", set.name()), &got, &expected, 1e-5);
            }
        }
    }
}
