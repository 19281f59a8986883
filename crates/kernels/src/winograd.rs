//! Winograd convolution F(4x4, 3x3) in the block layout (Lavin and Gray, "Fast algorithms for convolutional neural
//! networks", 2015, with the points 0, 1, -1, 2, -2): four times fewer multiplications than the definition.
//!
//! Input is cut into overlapping squares of 6 by 6, each for 4 by 4 outputs. With `V = Bᵀ d B` of a square and
//! `U = G w Gᵀ` of a kernel, the outputs are `Aᵀ (sum over channels of U * V) A`: 36 independent matrix products. Every
//! square is computed for itself and in the same order of operations, however many share a product and whichever thread
//! computes it.
//!
//! Rounding: the transforms multiply by up to 100 (`Bᵀ` and `Aᵀ` have rows of absolute sum 10 and 18, `G` of at most 1), so
//! errors exceed those of the definition: the largest is at most 3e-5 of the largest output on the shapes of real layers
//! that the tests try with uniform noise, where the definition's is at most 3e-6.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::geometry::{BLOCK, Conv2d, UnaryOp};
use crate::parallel::{Compute, MOVE};
use crate::tile::{Finish, Residual};
use crate::unary::Activation;
use passes::{Input, Output, Products};

mod passes;

/// Elements of a transformed square.
const POINTS: usize = 36;

/// Elements of transformed input at a time, at most: 4 MiB, which stay in a last-level cache while all output channels pass.
const INPUT: usize = 1 << 20;

/// Output blocks computed at a time, at most and at least; threads share them out. A register tile takes two.
const WAVES: [usize; 3] = [8, 4, 2];

/// Squares at a time, at least: weights are transformed anew for every so many.
const FEWEST: usize = 2 * GROUP;

/// Squares whose transformed input lies together: the rows of a register tile.
const GROUP: usize = 14;

/// How a convolution is cut up. Follows from its shape and the scratch memory, and changes no bit.
#[derive(Clone, Copy)]
struct Cut {
    /// Squares in a row of the output, and in all.
    across: usize,
    squares: usize,
    /// Squares at a time.
    chunk: usize,
    /// Squares in a group; the last group of a chunk may have fewer.
    group: usize,
    /// Input channels, and blocks of them.
    ic: usize,
    ic_blocks: usize,
    oc_blocks: usize,
    /// Output blocks at a time.
    wave: usize,
}

impl Cut {
    /// As many squares and output blocks at a time as are of use.
    fn new(g: &Conv2d) -> Self {
        let across = (g.x.output as usize).div_ceil(4);
        let squares = (g.y.output as usize).div_ceil(4) * across;
        let (ic, oc_blocks) = (g.ic as usize, (g.oc as usize).div_ceil(BLOCK));
        let ic_blocks = ic.div_ceil(BLOCK);
        let chunk = (INPUT / (POINTS * BLOCK * ic_blocks)).max(GROUP).min(squares);
        let wave = WAVES[0].min(oc_blocks);
        Cut { across, squares, chunk, group: 1, ic, ic_blocks, oc_blocks, wave }.sized(chunk, wave)
    }

    fn sized(self, chunk: usize, wave: usize) -> Self {
        let (chunk, wave) = (chunk.min(self.chunk), wave.min(self.wave));
        Cut { chunk, wave, group: chunk.div_ceil(chunk.div_ceil(GROUP).max(1)).max(1), ..self }
    }

    fn least(self) -> Self {
        self.sized(FEWEST, WAVES[2])
    }

    /// The largest that `len` elements hold; the least if they hold none. Many squares at a time come before many blocks:
    /// they share the transformed weights.
    fn within(g: &Conv2d, len: usize) -> Self {
        let all = Self::new(g);
        let holds = |cut: &Self| cut.scratch().is_some_and(|needed| needed <= len);
        let wide = WAVES.map(|wave| all.sized(all.chunk, wave)).into_iter().find(holds);
        let narrow = || (FEWEST..all.chunk).rev().step_by(GROUP).map(|chunk| all.sized(chunk, WAVES[2])).find(holds);
        wide.or_else(narrow).unwrap_or_else(|| all.least())
    }

    /// Elements of scratch memory.
    fn scratch(&self) -> Option<usize> {
        self.input(self.chunk).checked_add(self.record().checked_mul(self.wave)?)
    }

    /// Vectors between the points of a group of transformed input. Here and below one vector more than there is keeps the
    /// 36 points of a square, which are written together, from falling into one set of a cache.
    fn input_step(&self, squares: usize) -> usize {
        squares * self.ic_blocks + 1
    }

    /// Elements of the transformed input of `squares`.
    fn input(&self, squares: usize) -> usize {
        (squares * self.ic_blocks + squares.div_ceil(self.group)) * POINTS * BLOCK
    }

    /// Vectors between the points of the products of one output block.
    fn products_step(&self) -> usize {
        self.chunk + 1
    }

    /// Vectors between the points of the transformed weights of one output block.
    fn weights_step(&self) -> usize {
        self.ic + 1
    }

    /// Elements of the products of one output block.
    fn products(&self) -> usize {
        self.products_step() * POINTS * BLOCK
    }

    /// Elements of one output block: products, then transformed weights.
    fn record(&self) -> usize {
        self.products() + self.weights_step() * POINTS * BLOCK
    }
}

impl Conv2d {
    /// Whether Winograd's method is faster wherever it can run. Weights are transformed at every call, which many
    /// squares have to share: measured twice as fast as the definition at 16 (14x14 outputs), no faster at 4 (7x7).
    pub fn winograd_pays(&self) -> bool {
        let squares = u64::from(self.y.output.div_ceil(4)) * u64::from(self.x.output.div_ceil(4));
        // Outputs of a square that lie outside are computed for nothing.
        let inside = u64::from(self.y.output) * u64::from(self.x.output);
        squares >= 9 && squares * 16 <= inside * 2
    }

    /// Elements of scratch memory that [`winograd`] needs at least, and those of which it can make use; `None` where it
    /// cannot run: anything but a 3x3 window in steps of one over blocked input in one group.
    pub fn winograd_len(&self) -> Option<[u64; 2]> {
        let three = [&self.y, &self.x].iter().all(|a| a.kernel == 3 && a.stride == 1 && a.dilation == 1);
        if !three || self.groups != 1 || self.input != crate::geometry::Layout::Blocked || !self.is_valid() {
            return None;
        }
        // What is below stays within 32 bits where these lengths stay far below.
        let tensors = [self.input_len()?, self.output_len()?];
        if tensors.iter().any(|&len| len >= 1 << 28) || self.weight_len()? >= 1 << 26 {
            return None;
        }
        let cut = Cut::new(self);
        Some([u64::try_from(cut.least().scratch()?).ok()?, u64::try_from(cut.scratch()?).ok()?])
    }
}

/// [`crate::conv::conv2d`] by Winograd's method. `scratch` holds as many elements as [`Conv2d::winograd_len`] says, which
/// changes no bit; what it holds before does not matter, and afterwards it holds values derived from input and weights.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn winograd(
    compute: Compute,
    geometry: &Conv2d,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Residual<'_>,
    act: Option<UnaryOp>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let g = geometry;
    let least = g.winograd_len().map(|[least, _]| least);
    assert!(
        least.is_some_and(|len| len <= scratch.len() as u64),
        "validated: a shape for Winograd and its scratch length"
    );
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: conv's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: conv's weight length");
    assert!(bias.is_none_or(|b| Some(b.len() as u64) == g.bias_len()), "validated: conv's bias length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: conv's output length");
    let (cut, set, act) = (Cut::within(g, scratch.len()), compute.set, Activation::new(act));
    let plane = g.y.output as usize * g.x.output as usize * BLOCK;
    let (transformed, records) = scratch.split_at_mut(cut.input(cut.chunk));
    for image in 0..g.n as usize {
        let from = image * cut.ic_blocks * g.y.input as usize * g.x.input as usize * BLOCK;
        for first in (0..cut.squares).step_by(cut.chunk.max(1)) {
            let count = cut.chunk.min(cut.squares - first);
            let transformed = &mut transformed[..cut.input(count)];
            let (cost, group) = (transformed.len() as u64 * MOVE, cut.input(cut.group));
            compute.split(transformed, group, cost, |groups, to| {
                set.dispatch(Input { cut, g, input: &input[from..], first: first + groups.start * cut.group, to });
            });
            for wave in (0..cut.oc_blocks).step_by(cut.wave.max(1)) {
                let blocks = cut.wave.min(cut.oc_blocks - wave);
                let records = &mut records[..blocks * cut.record()];
                let cost = (blocks * count) as u64 * (POINTS * cut.ic * BLOCK) as u64;
                compute.split(records, cut.record(), cost, |range, records| {
                    let block = cut.ic * 9 * BLOCK;
                    let weight = &weight[(wave + range.start) * block..(wave + range.end) * block];
                    set.dispatch(Products { cut, count, transformed, weight, records });
                });
                let planes = (image * cut.oc_blocks + wave) * plane..(image * cut.oc_blocks + wave + blocks) * plane;
                let cost = (blocks * count * POINTS * BLOCK) as u64 * MOVE;
                compute.split(&mut out[planes.clone()], plane, cost, |range, out| {
                    let at = planes.start + range.start * plane;
                    let finish = Finish { residual: residual.part(at..at + out.len()), act: &act, to: out };
                    let records = &records[range.start * cut.record()..range.end * cut.record()];
                    let bias = bias.map(|bias| &bias[(wave + range.start) * BLOCK..]);
                    set.dispatch(Output { cut, g, first, count, records, bias, finish });
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::conv2d;
    use crate::geometry::{Axis, Layout};
    use crate::parallel::Parallel;
    use crate::test_support::{Cuts, Rng, from_blocked, len, sets, to_blocked};
    use alloc::vec;
    use alloc::vec::Vec;

    fn shape(n: u32, ic: u32, oc: u32, [h, w]: [u32; 2], pads: [[u32; 2]; 2]) -> Conv2d {
        let axis = |input: u32, [pad_begin, pad_end]: [u32; 2]| Axis {
            input,
            output: input + pad_begin + pad_end - 2,
            kernel: 3,
            stride: 1,
            dilation: 1,
            pad_begin,
            pad_end,
        };
        Conv2d { n, groups: 1, ic, oc, y: axis(h, pads[0]), x: axis(w, pads[1]), input: Layout::Blocked }
    }

    fn shapes() -> Vec<Conv2d> {
        let same = [[1, 1], [1, 1]];
        vec![
            shape(1, 16, 16, [8, 8], same),
            shape(1, 16, 32, [4, 60], same),
            shape(2, 20, 33, [7, 9], same),
            shape(1, 1, 5, [3, 3], [[0, 0], [0, 0]]),
            shape(1, 40, 17, [6, 5], [[2, 0], [0, 3]]),
            shape(1, 3, 150, [13, 30], [[1, 1], [2, 2]]),
            // More squares than one chunk holds, and more blocks than one wave.
            shape(1, 1000, 16, [17, 50], same),
            shape(1, 17, 272, [1, 1], [[9, 1], [1, 9]]),
        ]
    }

    struct Case {
        g: Conv2d,
        input: Vec<f32>,
        weight: Vec<f32>,
        bias: Vec<f32>,
        residual: Vec<f32>,
    }

    impl Case {
        fn new(g: Conv2d, rng: &mut Rng, garbage: f32) -> Self {
            let plain = rng.vec((g.n * g.ic * g.y.input * g.x.input) as usize);
            Case {
                g,
                input: to_blocked(&plain, g.n, g.ic, g.y.input * g.x.input, garbage),
                weight: rng.vec(len(g.weight_len())),
                bias: rng.vec(len(g.bias_len())),
                residual: rng.vec(len(g.output_len())),
            }
        }

        /// The definition in `f64`, blocked; lanes past `oc` as the weights have them.
        fn reference(&self) -> Vec<f64> {
            let g = &self.g;
            let (ic, oc) = (g.ic as usize, len(g.bias_len()));
            let [h, w, height, width] = [g.y.input, g.x.input, g.y.output, g.x.output].map(|n| n as usize);
            let (blocks, mut out) = (ic.div_ceil(16), Vec::new());
            for (n, block) in (0..g.n as usize).flat_map(|n| (0..oc / 16).map(move |block| (n, block))) {
                for (y, x, lane) in
                    (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..16).map(move |lane| (y, x, lane))))
                {
                    let mut sum = f64::from(self.bias[block * 16 + lane]);
                    for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                        let y = (y + ky).wrapping_sub(g.y.pad_begin as usize);
                        let x = (x + kx).wrapping_sub(g.x.pad_begin as usize);
                        if y >= h || x >= w {
                            continue;
                        }
                        for c in 0..ic {
                            let (first, lanes) = (c / 16 * 16, (ic - c / 16 * 16).min(16));
                            let vector = first * 9 + (ky * 3 + kx) * lanes + c % 16;
                            let at = (((n * blocks + c / 16) * h + y) * w + x) * 16 + c % 16;
                            let weight = self.weight[(block * ic * 9 + vector) * 16 + lane];
                            sum += f64::from(self.input[at]) * f64::from(weight);
                        }
                    }
                    out.push(sum + f64::from(self.residual[out.len()]));
                }
            }
            out
        }

        fn run(&self, compute: Compute, act: Option<UnaryOp>, in_place: bool) -> Vec<f32> {
            self.run_in(len(self.g.winograd_len().map(|[_, most]| most)), compute, act, in_place)
        }

        fn run_in(&self, scratch: usize, compute: Compute, act: Option<UnaryOp>, in_place: bool) -> Vec<f32> {
            let mut scratch = vec![f32::NAN; scratch];
            let mut out = if in_place { self.residual.clone() } else { vec![f32::NAN; self.residual.len()] };
            let residual = if in_place { Residual::InPlace } else { Residual::Other(&self.residual) };
            let (input, weight, bias) = (&self.input, &self.weight, Some(&self.bias[..]));
            winograd(compute, &self.g, input, weight, bias, residual, act, &mut scratch, &mut out);
            out
        }
    }

    /// Largest error, as a share of the largest value.
    fn error(got: &[f32], expected: &[f64]) -> f64 {
        let largest = expected.iter().fold(0.0f64, |all, e| all.max(e.abs()));
        let errors = got.iter().zip(expected).map(|(&g, &e)| (f64::from(g) - e).abs() / largest);
        errors.fold(0.0, |all, e| if e.is_nan() { f64::INFINITY } else { all.max(e) })
    }

    #[test]
    fn every_shape_in_every_set_against_f64() {
        let mut rng = Rng(41);
        for g in shapes() {
            let case = Case::new(g, &mut rng, 0.0);
            let expected = case.reference();
            let largest = expected.iter().fold(0.0f64, |all, e| all.max(e.abs()));
            let relu: Vec<f64> = expected.iter().map(|x| x.max(0.0)).collect();
            let tanh: Vec<f64> = expected.iter().map(|x| x.tanh()).collect();
            for set in sets() {
                for (act, expected) in [(None, &expected), (Some(UnaryOp::Relu), &relu), (Some(UnaryOp::Tanh), &tanh)] {
                    for in_place in [false, true] {
                        let error = error(&case.run(set.into(), act, in_place), expected);
                        // Tanh makes the largest value one, far below the sums that were rounded.
                        let most = if act == Some(UnaryOp::Tanh) { 3e-5 * largest } else { 3e-5 };
                        assert!(error <= most, "{} {g:?} {act:?}: {error}", set.name());
                    }
                }
            }
        }
    }

    /// What the documentation says of the error, on shapes of real layers.
    #[test]
    fn the_error_is_as_documented() {
        let mut rng = Rng(42);
        for (channels, size) in [(64, 20), (256, 14), (512, 8)] {
            let g = shape(1, channels, 16, [size, size], [[1, 1], [1, 1]]);
            let case = Case::new(g, &mut rng, 0.0);
            let expected = case.reference();
            for set in sets() {
                let fast = error(&case.run(set.into(), None, false), &expected);
                let mut out = vec![0.0; expected.len()];
                let (residual, bias) = (Residual::Other(&case.residual), Some(&case.bias[..]));
                conv2d(set.into(), &g, &case.input, &case.weight, bias, residual, None, &mut out);
                let direct = error(&out, &expected);
                std::println!("{} {channels}: {fast:.2e}, definition {direct:.2e}", set.name());
                assert!(direct <= 3e-6, "{} {channels}: {direct:.2e}", set.name());
                assert!(fast <= 3e-5, "{} {channels}: {fast:.2e}, definition {direct:.2e}", set.name());
            }
        }
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_lanes_past_the_channels() {
        for g in shapes() {
            for set in sets() {
                let bits = |workers: &'static dyn Parallel, garbage| -> Vec<u32> {
                    let out =
                        Case::new(g, &mut Rng(43), garbage).run(Compute { set, workers }, Some(UnaryOp::Silu), true);
                    from_blocked(&out, g.n, g.oc, g.y.output * g.x.output).iter().map(|x| x.to_bits()).collect()
                };
                let one = bits(&Cuts(1), 0.0);
                for workers in [&Cuts(2) as &'static dyn Parallel, &Cuts(3), &Cuts(16)] {
                    assert_eq!(one, bits(workers, f32::NAN), "{} {g:?}", set.name());
                }
            }
        }
    }

    #[test]
    fn less_scratch_memory_gives_the_same_bits() {
        let shapes = [shape(1, 24, 144, [30, 58], [[1, 1], [1, 1]]), shape(2, 20, 33, [7, 9], [[1, 1], [1, 1]])];
        for g in shapes {
            let [least, most] = g.winograd_len().expect("a shape for Winograd").map(|len| len as usize);
            assert!(least < most);
            let case = Case::new(g, &mut Rng(44), 0.0);
            for set in sets() {
                let bits = |scratch: usize| -> Vec<u32> {
                    case.run_in(scratch, set.into(), None, false).iter().map(|x| x.to_bits()).collect()
                };
                let whole = bits(most);
                for scratch in [least, least + 1, least.midpoint(most), most - 1, most + 9] {
                    assert!(bits(scratch) == whole, "{} {g:?}: {scratch} of {least} to {most}", set.name());
                }
            }
        }
    }

    #[test]
    fn other_convolutions_have_no_scratch_length() {
        let g = shape(1, 16, 16, [8, 8], [[1, 1], [1, 1]]);
        assert!(g.winograd_len().is_some());
        let no = [
            Conv2d { groups: 16, ..g },
            Conv2d { input: Layout::Plain, ..g },
            Conv2d { x: Axis { kernel: 1, ..g.x }, ..g },
            Conv2d { y: Axis { stride: 2, ..g.y }, ..g },
            Conv2d { y: Axis { dilation: 2, ..g.y }, ..g },
            Conv2d { ic: 0, ..g },
            Conv2d { groups: 0, ..g },
            Conv2d { ic: u32::MAX, y: Axis { output: 1 << 30, ..g.y }, x: Axis { output: 1 << 30, ..g.x }, ..g },
        ];
        assert!(no.iter().all(|g| g.winograd_len().is_none()));
    }
}
