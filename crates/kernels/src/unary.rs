//! Functions of one value, over whole slices: the operator and every fused activation are this one loop nest.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd, sqrt};
use crate::geometry::UnaryOp;
use crate::lanes;
use crate::math;
use crate::parallel::{Compute, MOVE};
use crate::tile::{Lanes, ZERO};

/// Applies `op` to every element of `values`. Bits do not depend on the kernel set, but for Sigmoid and Silu.
pub fn unary_in_place(compute: Compute, op: UnaryOp, values: &mut [f32]) {
    let cost = cost(op, values.len());
    compute.split(values, PIECE, cost, |_, out| compute.set.dispatch(Unary { op, input: None, out }));
}

/// `out[i] = op(input[i])`; both have the same length. Bits depend on the kernel set as those of [`unary_in_place`] do.
pub fn unary(compute: Compute, op: UnaryOp, input: &[f32], out: &mut [f32]) {
    assert_eq!(input.len(), out.len(), "validated: unary input is as long as its output");
    let cost = cost(op, out.len());
    compute.split(out, PIECE, cost, |pieces, out| {
        let input = &input[pieces.start * PIECE..][..out.len()];
        compute.set.dispatch(Unary { op, input: Some(input), out });
    });
}

/// In the measure of [`Compute::split`].
fn cost(op: UnaryOp, len: usize) -> u64 {
    use UnaryOp::*;
    let cheap = matches!(op, Relu | LeakyRelu { .. } | Clip { .. } | Neg | Abs | Affine { .. } | Floor | Ceil | Round);
    len as u64 * if cheap { MOVE } else { 8 * MOVE }
}

/// The part of an activation that fits between accumulator and store: a clamp. Others run over finished rows.
#[derive(Clone, Copy)]
pub(crate) struct Activation {
    /// Lower bound of the clamp.
    lo: f32,
    /// Upper bound of the clamp.
    hi: f32,
    /// What remains to be done by [`Activation::finish`].
    rest: Option<UnaryOp>,
}

impl Activation {
    /// Splits `op`; no activation is the clamp to everything.
    pub(crate) fn new(op: Option<UnaryOp>) -> Self {
        let (lo, hi, rest) = match op {
            Some(UnaryOp::Relu) => (0.0, f32::INFINITY, None),
            Some(UnaryOp::Clip { lo, hi }) => (lo, hi, None),
            rest => (f32::NEG_INFINITY, f32::INFINITY, rest),
        };
        Activation { lo, hi, rest }
    }

    /// The clamp, of sixteen values.
    #[inline(always)]
    pub(crate) fn clamp_lanes<S: Simd>(&self, s: S, v: S::V) -> S::V {
        s.clamp(v, s.splat(self.lo), s.splat(self.hi))
    }

    /// The clamp, on the way into memory.
    #[inline(always)]
    pub(crate) fn store<S: Simd, const R: usize>(&self, s: S, values: &[S::V; R], to: &mut [Lanes; R]) {
        let (lo, hi) = (s.splat(self.lo), s.splat(self.hi));
        for (value, to) in values.iter().zip(to) {
            s.store(s.clamp(*value, lo, hi), to);
        }
    }

    /// The clamp, of one value.
    #[inline(always)]
    pub(crate) fn clamp_one(&self, x: f32) -> f32 {
        math::clamp(x, self.lo, self.hi)
    }

    /// Whether there is more than a clamp.
    #[inline(always)]
    pub(crate) fn remains(&self) -> bool {
        self.rest.is_some()
    }

    /// The rest, over values that went through the clamp.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, s: S, values: &mut [f32]) {
        match self.rest {
            None => {}
            Some(UnaryOp::Silu) => s.call(Sigmoid::<true>(values)),
            Some(op) => s.call(Unary { op, input: None, out: values }),
        }
    }
}

struct Unary<'a> {
    op: UnaryOp,
    /// The output itself where absent.
    input: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Unary<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        use UnaryOp::*;
        if let (Sigmoid | Silu, Some(input)) = (self.op, self.input) {
            self.out.copy_from_slice(input);
        }
        let v = (self.input, self.out);
        match self.op {
            Relu => map(v, |x| if x < 0.0 { 0.0 } else { x }),
            LeakyRelu { alpha } => map(v, |x| if x < 0.0 { alpha * x } else { x }),
            Clip { lo, hi } => map(v, |x| math::clamp(x, lo, hi)),
            Sigmoid => s.call(self::Sigmoid::<false>(v.1)),
            Silu => s.call(self::Sigmoid::<true>(v.1)),
            Tanh => map(v, math::tanh),
            HardSigmoid { alpha, beta } => map(v, |x| math::clamp(alpha * x + beta, 0.0, 1.0)),
            HardSwish => map(v, |x| x * math::clamp(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)),
            Elu { alpha } => map(v, |x| if x < 0.0 { alpha * math::exp_m1(x) } else { x }),
            Gelu => map(v, math::gelu),
            GeluTanh => map(v, math::gelu_tanh),
            Erf => map(v, math::erf),
            Softplus => map(v, math::softplus),
            Mish => map(v, math::mish),
            Sqrt => map(v, sqrt),
            Exp => map(v, math::exp),
            Log => map(v, math::ln),
            Neg => map(v, |x| -x),
            Abs => map(v, f32::abs),
            Floor => map(v, math::floor),
            Ceil => map(v, math::ceil),
            Round => map(v, math::round),
            Reciprocal => map(v, |x| 1.0 / x),
            Affine { scale, offset } => map(v, |x| x * scale + offset),
        }
    }
}

/// `out = f(input)`. In place, too, the loop reads one buffer and writes another: over a single one, the compiler turns
/// functions that keep some values into masked stores, three times slower.
#[inline(always)]
fn map((input, out): (Option<&[f32]>, &mut [f32]), f: impl Fn(f32) -> f32) {
    let mut buffer = [0.0; PIECE];
    for (index, out) in out.chunks_mut(PIECE).enumerate() {
        let from = match input {
            Some(input) => &input[index * PIECE..][..out.len()],
            None => {
                buffer[..out.len()].copy_from_slice(out);
                &buffer[..out.len()]
            }
        };
        for (to, &x) in out.iter_mut().zip(from) {
            *to = f(x);
        }
    }
}

/// Sigmoid, or Silu, in place. A constant, not a function, tells which: closures do not inherit the features of the set.
struct Sigmoid<'a, const SILU: bool>(&'a mut [f32]);

impl<const SILU: bool> Kernel for Sigmoid<'_, SILU> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (blocks, rest) = self.0.as_chunks_mut::<16>();
        for block in blocks {
            let x = s.load(block);
            s.store(if SILU { lanes::silu(s, x) } else { lanes::sigmoid(s, x) }, block);
        }
        if !rest.is_empty() {
            let mut lanes = ZERO;
            lanes[..rest.len()].copy_from_slice(rest);
            let x = s.load(&lanes);
            s.store(if SILU { lanes::silu(s, x) } else { lanes::sigmoid(s, x) }, &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

/// Elements handled at a time.
const PIECE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::test_support::{Rng, sets};
    use alloc::vec::Vec;

    const OPS: [UnaryOp; 24] = [
        UnaryOp::Relu,
        UnaryOp::LeakyRelu { alpha: 0.1 },
        UnaryOp::Clip { lo: -0.5, hi: 0.25 },
        UnaryOp::Sigmoid,
        UnaryOp::Silu,
        UnaryOp::Tanh,
        UnaryOp::HardSigmoid { alpha: 0.2, beta: 0.5 },
        UnaryOp::HardSwish,
        UnaryOp::Elu { alpha: 1.5 },
        UnaryOp::Gelu,
        UnaryOp::GeluTanh,
        UnaryOp::Erf,
        UnaryOp::Softplus,
        UnaryOp::Mish,
        UnaryOp::Sqrt,
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Round,
        UnaryOp::Reciprocal,
        UnaryOp::Affine { scale: 3.0, offset: -1.0 },
    ];

    fn reference(op: UnaryOp, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        match op {
            UnaryOp::Relu => x.max(0.0),
            UnaryOp::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            UnaryOp::Clip { lo, hi } => x.clamp(lo.into(), hi.into()),
            UnaryOp::Sigmoid => sigmoid(x),
            UnaryOp::Silu => x * sigmoid(x),
            UnaryOp::Tanh => x.tanh(),
            UnaryOp::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
            UnaryOp::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            UnaryOp::Elu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x.exp_m1()
                } else {
                    x
                }
            }
            UnaryOp::Gelu => 0.5 * x * libm::erfc(-x / 2f64.sqrt()),
            UnaryOp::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / core::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
            }
            UnaryOp::Erf => libm::erf(x),
            UnaryOp::Softplus => softplus(x),
            UnaryOp::Mish => x * softplus(x).tanh(),
            UnaryOp::Sqrt => x.sqrt(),
            UnaryOp::Exp => x.exp(),
            UnaryOp::Log => x.ln(),
            UnaryOp::Neg => -x,
            UnaryOp::Abs => x.abs(),
            UnaryOp::Floor => x.floor(),
            UnaryOp::Ceil => x.ceil(),
            UnaryOp::Round => x.round_ties_even(),
            UnaryOp::Reciprocal => 1.0 / x,
            UnaryOp::Affine { scale, offset } => x * f64::from(scale) + f64::from(offset),
        }
    }

    #[test]
    fn every_op_in_every_set_against_f64() {
        let mut rng = Rng(1);
        let input: Vec<f32> = (0..2_077).map(|_| rng.range(-9.0, 9.0)).collect();
        for op in OPS {
            let expected: Vec<f64> = input.iter().map(|&x| reference(op, f64::from(x))).collect();
            for set in sets() {
                let mut out = alloc::vec![0.0; input.len()];
                unary(set.into(), op, &input, &mut out);
                crate::test_support::assert_close(&alloc::format!("{op:?} {}", set.name()), &out, &expected, 2e-6);
            }
        }
    }

    #[test]
    fn sets_agree_bit_for_bit_where_promised_and_position_does_not_matter() {
        let mut rng = Rng(2);
        let mut input: Vec<f32> = (0..500).map(|_| f32::from_bits(rng.next() as u32)).collect();
        input.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, -1e-40]);
        for op in OPS {
            let bits = |set: KernelSet, input: &[f32]| -> Vec<u32> {
                let mut out = input.to_vec();
                unary_in_place(set.into(), op, &mut out);
                // The sign and payload of NaN are not part of any promise.
                out.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
            };
            let portable = bits(KernelSet::PORTABLE, &input);
            for set in sets() {
                let whole = bits(set, &input);
                assert!(whole == portable || matches!(op, UnaryOp::Sigmoid | UnaryOp::Silu), "{op:?} {}", set.name());
                assert_eq!(bits(set, &input[3..]), whole[3..], "{op:?} {}", set.name());
            }
        }
    }

    #[test]
    fn nan_survives_every_op() {
        for op in OPS {
            let mut x = [f32::NAN; 19];
            unary_in_place(KernelSet::detect().into(), op, &mut x);
            assert!(x.iter().all(|x| x.is_nan()), "{op:?}");
        }
    }
}
