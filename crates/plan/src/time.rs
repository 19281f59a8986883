//! Time, predicted roughly: only its order decides between ways to cut a segment.

use crate::memory::Predicted;
use cordon_engine::PIECE;
use cordon_engine::program::{Conv2d, Instruction};
use cordon_lower::{Lowered, Work};
use cordon_protocol::Speed;

/// Seconds of one request's arithmetic on one thread.
pub(crate) fn arithmetic(lowered: &[Lowered], speed: &Speed) -> f64 {
    let one = |lowered: &Lowered| -> f64 {
        let instructions = lowered.program.instructions.iter().zip(lowered.work());
        instructions.map(|(instruction, work)| seconds(instruction, work, lowered.program.arena.scratch, speed)).sum()
    };
    lowered.iter().map(one).sum()
}

/// Seconds of waiting for weights.
pub(crate) fn streaming(predicted: &Predicted, speed: &Speed) -> f64 {
    predicted.pieces as f64 * PIECE as f64 / speed.decrypted + predicted.loads as f64 * speed.load
}

fn seconds(instruction: &Instruction, work: Work, scratch: u32, speed: &Speed) -> f64 {
    let work = match instruction {
        // It may touch a part of its operands only.
        Instruction::Copy { geometry, .. } => {
            geometry.dims.iter().map(|&dim| f64::from(dim)).product::<f64>() * 8.0 / speed.copied
        }
        Instruction::Conv2d { geometry, .. } if instruction.scratch().is_some_and(|[least, _]| least <= scratch) => {
            winograd(geometry, speed) + work.bytes as f64 / speed.moved
        }
        _ => work.flops() as f64 / speed.flops + work.bytes as f64 / speed.moved,
    };
    work + speed.step
}

/// A 3x3 convolution in squares of 4x4: 36 products for each where the definition has 144.
fn winograd(g: &Conv2d, speed: &Speed) -> f64 {
    let squares = f64::from(g.n) * f64::from(g.y.output.div_ceil(4)) * f64::from(g.x.output.div_ceil(4));
    let [ic, oc] = [g.ic, g.oc].map(|channels| f64::from(channels.next_multiple_of(16)));
    let products = 2.0 * 36.0 * squares * ic * oc / speed.flops;
    let images = 4.0 * 36.0 * squares * (ic + 2.0 * oc) / speed.transformed;
    products + images + 4.0 * 36.0 * ic * oc / speed.transformed_weights
}
