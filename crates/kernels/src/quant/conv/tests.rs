//! Every kernel set against 64-bit arithmetic, byte for byte.

use super::*;
use crate::KernelSet;
use crate::geometry::Axis;
use crate::parallel::Parallel;
use crate::quant::Sum;
use crate::quant::reference::{Rounding, sum, target};
use crate::test_support::{Cuts, Rng, len};
use alloc::vec;
use alloc::vec::Vec;

/// Operands as the kernel wants them, with their plain meaning.
struct Case {
    g: QConv2d,
    pad: u8,
    input: Vec<u8>,
    weight: Vec<u8>,
    bias: Vec<i64>,
    scale: Vec<f32>,
    residual: Vec<u8>,
    to: Target,
    sum: Sum,
    /// Without and with the residual; `None` in lanes that are no channel.
    expected: [Vec<Option<u8>>; 2],
}

impl Case {
    fn new(g: QConv2d, rng: &mut Rng) -> Case {
        assert!(g.is_valid(), "{g:?}");
        let mut bytes = |count: Option<u64>| -> Vec<u8> { (0..len(count)).map(|_| rng.next() as u8).collect() };
        // Input lanes that are no channel hold noise; weights that are no channel are zero, as lowering makes them.
        let (input, residual, weight) = (bytes(g.input_len()), bytes(g.output_len()), bytes(g.weight_len()));
        let mut case = Case {
            g,
            pad: rng.next() as u8,
            input,
            weight,
            bias: (0..len(g.channels_len())).map(|_| rng.below(20_000) as i64 - 10_000).collect(),
            scale: (0..len(g.channels_len())).map(|_| rng.range(0.000_5, 0.01)).collect(),
            residual,
            to: target(rng),
            sum: sum(rng),
            expected: [Vec::new(), Vec::new()],
        };
        let exists: Vec<bool> = (0..case.weight.len()).map(|at| case.channel_exists(at)).collect();
        case.weight.iter_mut().zip(exists).for_each(|(w, exists)| *w = if exists { *w } else { 0 });
        case
    }

    fn finished(mut self) -> Case {
        self.expected = [false, true].map(|residual| self.reference(residual));
        self
    }

    fn blocks(&self) -> usize {
        ((self.g.ic / self.g.groups) as usize).div_ceil(self.g.lanes as usize)
    }

    /// Where weight `(oc, c, ky, kx)` lies.
    fn weight_at(&self, oc: usize, c: usize, ky: usize, kx: usize) -> usize {
        let g = &self.g;
        let (kh, kw, lanes) = (g.y.kernel as usize, g.x.kernel as usize, g.lanes as usize);
        if g.is_depthwise() {
            return ((oc / 16 * kh + ky) * kw + kx) * 16 + oc % 16;
        }
        let tap = ((oc / 16 * self.blocks() + c / lanes) * kh + ky) * kw + kx;
        (tap * (lanes / 4) + c % lanes / 4) * 64 + oc % 16 * 4 + c % 4
    }

    fn channel_exists(&self, at: usize) -> bool {
        let g = &self.g;
        if g.is_depthwise() {
            return true;
        }
        let lanes = g.lanes as usize;
        let taps = (g.y.kernel * g.x.kernel) as usize;
        let c = at / (lanes * 16 * taps) % self.blocks() * lanes + at / 64 % (lanes / 4) * 4 + at % 4;
        c < (g.ic / g.groups) as usize
    }

    fn reference(&self, residual: bool) -> Vec<Option<u8>> {
        let g = &self.g;
        let (icg, ocg) = ((g.ic / g.groups) as usize, (g.oc / g.groups) as usize);
        let (h, w, lanes) = (g.y.input as i64, g.x.input as i64, g.lanes as usize);
        let all = (g.ic as usize).div_ceil(lanes);
        let mut out = vec![None; self.residual.len()];
        let (oh, ow) = (g.y.output as usize, g.x.output as usize);
        for at in 0..g.n as usize * g.oc as usize * oh * ow {
            let (n, oc, oy, ox) = (at / ow / oh / g.oc as usize, at / ow / oh % g.oc as usize, at / ow % oh, at % ow);
            let mut sum = self.bias[oc];
            for tap in 0..icg * (g.y.kernel * g.x.kernel) as usize {
                let (kx, ky) = (tap % g.x.kernel as usize, tap / g.x.kernel as usize % g.y.kernel as usize);
                let c = tap / (g.y.kernel * g.x.kernel) as usize;
                let y = (oy as u32 * g.y.stride + ky as u32 * g.y.dilation) as i64 - i64::from(g.y.pad_begin);
                let x = (ox as u32 * g.x.stride + kx as u32 * g.x.dilation) as i64 - i64::from(g.x.pad_begin);
                let value = if y < 0 || x < 0 || y >= h || x >= w {
                    self.pad
                } else {
                    let channel = oc / ocg * icg + c;
                    let cell = ((n * all + channel / lanes) as i64 * h + y) * w + x;
                    self.input[cell as usize * lanes + channel % lanes]
                };
                sum += i64::from(value) * i64::from(self.weight[self.weight_at(oc, c, ky, kx)] as i8);
            }
            let to = ((n * (g.oc as usize).div_ceil(16) + oc / 16) * oh * ow + oy * ow + ox) * 16 + oc % 16;
            let byte = self.to.round(sum as f32 * self.scale[oc]);
            out[to] = Some(if residual { self.sum.of(byte, self.residual[to]) } else { byte });
        }
        out
    }

    fn check(&self, workers: &'static dyn Parallel) {
        for (how, set) in (0..3).flat_map(|how| KernelSet::all_with_integers().map(move |set| (how, set))) {
            let g = &self.g;
            let mut out = if how == 2 { self.residual.clone() } else { vec![0; self.residual.len()] };
            let residual = match how {
                0 => Residual::None,
                1 => Residual::Other(&self.residual, self.sum),
                _ => Residual::InPlace(self.sum),
            };
            let Case { pad, input, weight, bias, scale, to, .. } = self;
            let compute = Compute { set, workers };
            conv2d(compute, g, *pad, input, weight, bias, scale, *to, residual, &mut out);
            let threads = workers.threads();
            for (at, expected) in self.expected[usize::from(how > 0)].iter().enumerate() {
                if let Some(expected) = expected {
                    let what = (set.integer_name(), threads, how);
                    assert_eq!(out[at], *expected, "{what:?}: set, threads, residual; {g:?} byte {at}");
                }
            }
        }
    }
}

#[test]
fn every_shape_is_exact_on_every_set() {
    let mut rng = Rng(74);
    for round in 0..80 {
        let mut random = |input: u32| loop {
            let below = |rng: &mut Rng, bound| rng.below(bound) as u32;
            let a = Axis {
                input,
                output: 0,
                kernel: 1 + below(&mut rng, 4),
                stride: 1 + below(&mut rng, 3),
                dilation: 1 + below(&mut rng, 3),
                pad_begin: below(&mut rng, 4),
                pad_end: below(&mut rng, 4),
            };
            if let Some(output) = a.windows(false) {
                break Axis { output, ..a };
            }
        };
        let (y, x) = (random(9), random(21));
        let one = Axis { kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0, output: 19, input: 19 };
        let (y, x) = if round % 8 == 0 { (one, one) } else { (y, x) };
        let (groups, ic, oc, lanes) = match round % 5 {
            0 => (1, 1 + rng.below(9) as u32, 1 + rng.below(80) as u32, 4),
            1 => {
                let c = 2 + rng.below(40) as u32;
                (c, c, c, 16)
            }
            2 => (2, 32, 96, 16),
            _ => (1, 1 + rng.below(40) as u32, 1 + rng.below(100) as u32, 16),
        };
        let g = QConv2d { n: 1 + rng.below(2) as u32, groups, ic, oc, y, x, lanes };
        let case = Case::new(g, &mut rng).finished();
        [&Cuts(1) as &'static dyn Parallel, &Cuts(2), &Cuts(3)].into_iter().for_each(|workers| case.check(workers));
    }
}

/// Rows as wide as all tiles, in steps that have code of their own and one that has not; kernels whose copy fits and one
/// whose does not.
#[test]
fn every_height_of_tile_is_exact_on_every_set() {
    let mut rng = Rng(77);
    let point = Axis { input: 3, output: 3, kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
    for width in 1..=30 {
        let axis = |kernel, stride| {
            let pads = kernel / 2;
            let axis =
                Axis { input: width * stride, output: 0, kernel, stride, dilation: 1, pad_begin: pads, pad_end: pads };
            Axis { output: axis.windows(false).expect("a window"), ..axis }
        };
        for (groups, ic, oc, x, lanes) in [
            (1, 40, 33, axis(1, 1), 16),
            (1, 32, 80, axis(3, 1), 16),
            (1, 17, 48, axis(3, 2), 16),
            (1, 16, 32, axis(3, 3), 16),
            (1, 3, 40, axis(7, 4), 4),
            (1, 1600, 16, axis(3, 1), 16),
            (20, 20, 20, axis(3, 1), 16),
            (20, 20, 20, axis(5, 2), 16),
            (20, 20, 20, axis(3, 3), 16),
        ] {
            if ic < 1000 || width == 14 {
                let g = QConv2d { n: 1, groups, ic, oc, y: point, x, lanes };
                Case::new(g, &mut rng).finished().check(&Cuts(1));
            }
        }
    }
}

#[test]
fn the_largest_products_do_not_saturate() {
    let axis = Axis { input: 3, output: 1, kernel: 3, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0 };
    let g = QConv2d { n: 1, groups: 1, ic: 64, oc: 16, y: axis, x: axis, lanes: 16 };
    for w in [0x80u8, 0x7f] {
        let mut case = Case::new(g, &mut Rng(75));
        case.input.fill(255);
        case.weight.fill(w);
        case.bias.fill(0);
        case.scale.fill(100.0 / (255.0 * 128.0 * 576.0));
        case.to = Target::new(128);
        case.finished().check(&Cuts(1));
    }
}
