//! Activations that exporters write as several nodes.

use super::{Fuser, region, unary_of};
use cordon_engine::program::{BinaryOp, Instruction, Operand, Region, UnaryOp};

/// Relative error allowed when a constant of the file is compared with the one a pattern wants.
const TOLERANCE: f32 = 1e-4;

/// Silu, HardSwish, Mish and Gelu.
pub(super) fn recognise(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Instruction> {
    let (op, input, out) = match instruction {
        Instruction::Binary { activation: None, out, .. } => {
            let (a, b) = factors(instruction)?;
            let (op, input) = product(fuser, a, b).or_else(|| product(fuser, b, a))?;
            (op, input, out)
        }
        Instruction::Unary { op: UnaryOp::Affine { scale, offset }, input, out } if *offset == 0.0 => {
            let (_, maker) = fuser.sole_maker(region(input)?)?;
            let (a, b) = factors(maker)?;
            let (op, input) = scaled_product(fuser, a, b, *scale).or_else(|| scaled_product(fuser, b, a, *scale))?;
            (op, input, out)
        }
        _ => return None,
    };
    (input.len == out.len).then_some(Instruction::Unary { op, input: Operand::Arena(input), out: *out })
}

/// Both factors of an element-by-element product.
fn factors(instruction: &Instruction) -> Option<(&Region, &Region)> {
    match instruction {
        Instruction::Binary { op: BinaryOp::Mul, shape, a, b, activation: None, .. } => {
            let flat = crate::arena::contiguous(&shape.dims);
            if shape.a == flat && shape.b == flat { Some((region(a)?, region(b)?)) } else { None }
        }
        _ => None,
    }
}

/// `x * gate`.
fn product(fuser: &Fuser<'_>, x: &Region, gate: &Region) -> Option<(UnaryOp, Region)> {
    let (op, input) = unary_of(fuser, gate)?;
    match op {
        UnaryOp::Sigmoid if input == *x => Some((UnaryOp::Silu, *x)),
        UnaryOp::HardSigmoid { alpha, beta } if input == *x && near(alpha, 1.0 / 6.0) && near(beta, 0.5) => {
            Some((UnaryOp::HardSwish, *x))
        }
        UnaryOp::Tanh => match unary_of(fuser, &input)? {
            (UnaryOp::Softplus, inner) if inner == *x => Some((UnaryOp::Mish, *x)),
            _ => None,
        },
        // (0.5 * x) * (1 + erf(x / sqrt(2)))
        UnaryOp::Affine { .. } => {
            let (half, source) = unary_of(fuser, x)?;
            let halved = matches!(half, UnaryOp::Affine { scale, offset } if near(scale, 0.5) && offset == 0.0);
            (halved && is_error_gate(fuser, gate, &source)).then_some((UnaryOp::Gelu, source))
        }
        _ => None,
    }
}

/// `(x * gate) * factor`.
fn scaled_product(fuser: &Fuser<'_>, x: &Region, gate: &Region, factor: f32) -> Option<(UnaryOp, Region)> {
    if near(factor, 0.5) && is_error_gate(fuser, gate, x) {
        return Some((UnaryOp::Gelu, *x));
    }
    // x * clip(x + 3, 0, 6) / 6
    let (UnaryOp::Clip { lo: 0.0, hi: 6.0 }, shifted) = unary_of(fuser, gate)? else { return None };
    let (UnaryOp::Affine { scale: 1.0, offset: 3.0 }, input) = unary_of(fuser, &shifted)? else { return None };
    (near(factor, 1.0 / 6.0) && input == *x).then_some((UnaryOp::HardSwish, *x))
}

/// `1 + erf(x / sqrt(2))`.
fn is_error_gate(fuser: &Fuser<'_>, gate: &Region, x: &Region) -> bool {
    let steps = || {
        let (shift, erf) = unary_of(fuser, gate)?;
        let (function, scaled) = unary_of(fuser, &erf)?;
        let (scale, input) = unary_of(fuser, &scaled)?;
        let shifted = matches!(shift, UnaryOp::Affine { scale: 1.0, offset: 1.0 });
        let scaled = matches!(scale, UnaryOp::Affine { scale, offset }
            if near(scale, core::f32::consts::FRAC_1_SQRT_2) && offset == 0.0);
        Some(shifted && function == UnaryOp::Erf && scaled && input == *x)
    };
    steps().unwrap_or(false)
}

fn near(value: f32, want: f32) -> bool {
    (value - want).abs() <= TOLERANCE * want.abs()
}
