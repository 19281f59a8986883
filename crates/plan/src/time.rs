//! Time, predicted roughly: only its order decides between ways to cut a segment.

use crate::memory::Predicted;
use cordon_engine::PIECE;
use cordon_engine::program::{Conv2d, Instruction};
use cordon_lower::{Lowered, Work};

/// Products and sums per second of one thread with AVX-512: what whole networks reach.
const FLOPS: f64 = 2.1e11;
/// Bytes per second that instructions read and write besides.
const MOVED: f64 = 2.5e10;
/// Bytes per second that strided copies read and write, elements of four bytes.
const COPIED: f64 = 8.0e9;
/// Seconds of a step besides the instruction's work.
const STEP: f64 = 1.0e-6;
/// Bytes per second that Winograd's transforms make of input and products, and of weights.
const TRANSFORMED: [f64; 2] = [1.5e10, 4.0e10];
/// Bytes of weights per second that one thread reads, decrypts in portable Rust and stores: what streaming added to whole
/// networks (decision 18), a little less than pieces alone.
const DECRYPTED: f64 = 2.8e9;
/// Seconds that a load takes besides its pieces.
const LOAD: f64 = 2.0e-6;

/// Seconds of one request's arithmetic on one thread.
pub(crate) fn arithmetic(lowered: &[Lowered]) -> f64 {
    let one = |lowered: &Lowered| -> f64 {
        let instructions = lowered.program.instructions.iter().zip(lowered.work());
        instructions.map(|(instruction, work)| seconds(instruction, work, lowered.program.arena.scratch)).sum()
    };
    lowered.iter().map(one).sum()
}

/// Seconds of waiting for weights.
pub(crate) fn streaming(predicted: &Predicted) -> f64 {
    predicted.pieces as f64 * PIECE as f64 / DECRYPTED + predicted.loads as f64 * LOAD
}

fn seconds(instruction: &Instruction, work: Work, scratch: u32) -> f64 {
    let work = match instruction {
        // It may touch a part of its operands only.
        Instruction::Copy { geometry, .. } => {
            geometry.dims.iter().map(|&dim| f64::from(dim)).product::<f64>() * 8.0 / COPIED
        }
        Instruction::Conv2d { geometry, .. } if instruction.scratch().is_some_and(|[least, _]| least <= scratch) => {
            winograd(geometry) + work.bytes as f64 / MOVED
        }
        _ => work.flops() as f64 / FLOPS + work.bytes as f64 / MOVED,
    };
    work + STEP
}

/// A 3x3 convolution in squares of 4x4: 36 products for each where the definition has 144.
fn winograd(g: &Conv2d) -> f64 {
    let squares = f64::from(g.n) * f64::from(g.y.output.div_ceil(4)) * f64::from(g.x.output.div_ceil(4));
    let [ic, oc] = [g.ic, g.oc].map(|channels| f64::from(channels.next_multiple_of(16)));
    let products = 2.0 * 36.0 * squares * ic * oc / FLOPS;
    let images = 4.0 * 36.0 * squares * (ic + 2.0 * oc) / TRANSFORMED[0];
    products + images + 4.0 * 36.0 * ic * oc / TRANSFORMED[1]
}
