//! Weights of products stored as IEEE 754 binary16, where the owner chose so: two bytes instead of four, each rounded once
//! to the nearest, ties to even. Rounded is what the engine multiplies by, after batch normalisation was folded in.

use crate::draft::Draft;
use crate::error::LowerError;
use crate::weights::WeightSource;
use cordon_engine::program::{DType, Instruction, Tile};
use cordon_graph::Graph;

/// The nearest binary16 number; `None` for what has none: NaN, infinities, and 65520 and more, which would round to infinity.
pub(crate) fn from_f32(value: f32) -> Option<u16> {
    const TOO_LARGE: u32 = 0x477f_f000; // 65520
    const SMALLEST_NORMAL: u32 = 0x3880_0000; // 2^-14
    let (sign, magnitude) = ((value.to_bits() >> 16) as u16 & 0x8000, value.to_bits() & 0x7fff_ffff);
    let half = if magnitude >= TOO_LARGE {
        return None;
    } else if magnitude < SMALLEST_NORMAL {
        // Neighbouring numbers between 0.5 and 1 are 2^-24 apart, as subnormal binary16 ones are: the addition rounds.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        (magnitude - (112 << 23) + 0xfff + odd) >> 13
    };
    Some(sign | half as u16)
}

/// Marks the weights that convolutions and products alone read. Biases, scales and all else stay `f32`.
pub(crate) fn mark(draft: &mut Draft, graph: &Graph) -> Result<(), LowerError> {
    let mut uses = vec![(false, false); draft.weights.len()];
    for instruction in &draft.instructions {
        let factors = factors(instruction);
        for tile in instruction.tiles() {
            let (factor, other) = &mut uses[tile.tensor as usize];
            *(if factors.contains(&Some(tile)) { factor } else { other }) = true;
        }
    }
    for (source, used) in draft.weights.iter_mut().zip(uses) {
        if used == (true, false) && source.dtype() == DType::F32 {
            check(source, graph)?;
            source.half = true;
        }
    }
    Ok(())
}

/// What an instruction multiplies by.
fn factors(instruction: &Instruction) -> [Option<Tile>; 2] {
    match instruction {
        Instruction::Conv2d { weight, .. } | Instruction::Dense { weight, .. } => [Some(*weight), None],
        Instruction::ConvNd { weight, .. } => [weight.tile(), None],
        Instruction::MatMul { a, b, .. } => [a.tile(), b.tile()],
        _ => [None; 2],
    }
}

/// Every element has a nearest number.
fn check(source: &WeightSource, graph: &Graph) -> Result<(), LowerError> {
    let mut outside = None;
    source.write(&mut |bytes| {
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        outside = outside.or(values.into_iter().find(|&value| from_f32(value).is_none()));
    });
    match outside {
        None => Ok(()),
        Some(value) => Err(LowerError::HalfRange { weight: name(source, graph), value: value.to_string() }),
    }
}

/// The initializer that the source is.
fn name(source: &WeightSource, graph: &Graph) -> String {
    let value = source.constant().and_then(|constant| constant.value);
    value.map_or_else(|| "computed from several".into(), |id| graph.value(id).name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, f32s, noise, run_lowered};
    use crate::{LowerOptions, Lowered, lower};
    use cordon_engine::program::Stored;
    use cordon_graph::{Tensor, segment};
    use cordon_kernels::half::to_f32;

    #[test]
    fn rounding_is_the_inverse_of_widening_and_ties_go_to_even() {
        for half in (0..=u16::MAX).filter(|half| half & 0x7c00 != 0x7c00) {
            assert_eq!(from_f32(to_f32(half)), Some(half), "{half:04x}");
            let next = half + 1;
            if next & 0x7c00 == 0x7c00 {
                continue;
            }
            // Exact in f32: both have 11 bits.
            let middle = (to_f32(half) + to_f32(next)) / 2.0;
            assert_eq!(from_f32(middle), Some(if half % 2 == 0 { half } else { next }), "{half:04x}");
            let towards = |bits: i32| f32::from_bits(middle.to_bits().wrapping_add_signed(bits));
            assert_eq!((from_f32(towards(-1)), from_f32(towards(1))), (Some(half), Some(next)), "{half:04x}");
        }
    }

    #[test]
    fn what_has_no_nearest_number_is_told_apart() {
        assert_eq!(from_f32(65519.996), Some(0x7bff));
        for outside in [65520.0, f32::MAX, f32::INFINITY, f32::NAN] {
            assert_eq!((from_f32(outside), from_f32(-outside)), (None, None), "{outside}");
        }
        // Half of the smallest number is a tie with 0, which is even.
        assert_eq!([2f32.powi(-25), -(2f32.powi(-25)), 1e-45].map(from_f32), [Some(0), Some(0x8000), Some(0)]);
        assert_eq!(from_f32(f32::from_bits(2f32.powi(-25).to_bits() + 1)), Some(1));
    }

    fn lowered(graph: &Graph, f16_weights: bool) -> Result<Lowered, LowerError> {
        let mut whole = segment(graph, graph.node_ids());
        whole.inputs.clone_from(&graph.inputs);
        whole.outputs.clone_from(&graph.outputs);
        lower(graph, &whole, &LowerOptions { f16_weights, ..LowerOptions::default() })
    }

    fn rounded(tensor: &Tensor) -> Tensor {
        let values = tensor.to_f32().expect("f32");
        let round = |value: &f32| to_f32(from_f32(*value).expect("in range"));
        f32s(&tensor.dims, &values.iter().map(round).collect::<Vec<_>>())
    }

    /// Convolutions by blocks, of groups and in one dimension, and both kinds of products, with biases.
    fn networks(change: impl Fn(&Tensor) -> Tensor) -> Vec<(Graph, Tensor)> {
        let weight = |dims: &[usize], seed| change(&noise(dims, seed));
        let conv = |input: &[usize], kernel: &[usize], group: i64, seed| {
            let x = noise(input, seed);
            let node = OneNode::new("Conv", 14).int("group", group).input(x.clone());
            (node.constant(weight(kernel, seed + 1)).constant(noise(&kernel[..1], seed + 2)).graph(), x)
        };
        let product = |op: &str, input: &[usize], matrix: &[usize], seed| {
            let x = noise(input, seed);
            (OneNode::new(op, 14).input(x.clone()).constant(weight(matrix, seed + 1)).graph(), x)
        };
        vec![
            conv(&[1, 20, 9, 9], &[40, 20, 3, 3], 1, 1),
            conv(&[1, 32, 14, 14], &[32, 32, 3, 3], 1, 4),
            conv(&[1, 32, 6, 6], &[32, 1, 3, 3], 32, 7),
            conv(&[1, 6, 30], &[10, 6, 5], 1, 10),
            product("Gemm", &[3, 70], &[70, 33], 13),
            product("MatMul", &[2, 5, 30], &[30, 20], 16),
            product("MatMul", &[2, 3, 5, 7], &[2, 3, 7, 4], 19),
        ]
    }

    #[test]
    fn results_are_those_of_a_model_whose_weights_were_rounded_before() {
        for ((plain, input), (before, _)) in networks(Tensor::clone).into_iter().zip(networks(rounded)) {
            let name = &plain.nodes[0].op_type;
            let half = lowered(&plain, true).expect("lowers");
            let exact = lowered(&before, false).expect("lowers");
            assert_eq!(half.program, exact.program, "{name}");
            assert!(half.weights.0.iter().any(|info| info.stored == Stored::F16), "{name}");
            assert!(half.weight_bytes() < exact.weight_bytes(), "{name}");
            let run = |lowered| run_lowered(lowered, core::slice::from_ref(&input)).expect("runs");
            assert_eq!(run(&half), run(&exact), "{name}");
            assert_ne!(run(&half), run(&lowered(&plain, false).expect("lowers")), "{name}: rounding must show");
        }
    }

    #[test]
    fn biases_and_what_others_read_too_stay_f32() {
        let (graph, _) = networks(Tensor::clone).swap_remove(0);
        let stored: Vec<Stored> = lowered(&graph, true).expect("lowers").weights.0.iter().map(|it| it.stored).collect();
        assert_eq!(stored, [Stored::F16, Stored::F32]);
        let matrix = noise(&[4, 4], 2);
        let shared = OneNode::new("Add", 14).input(noise(&[4, 4], 1)).constant(matrix.clone()).then("MatMul");
        let lowered = lowered(&shared.constant(matrix).graph(), true).expect("lowers");
        // The product reads its own packed copy.
        let stored: Vec<Stored> = lowered.weights.0.iter().map(|it| it.stored).collect();
        assert_eq!(stored, [Stored::F32, Stored::F16]);
    }

    #[test]
    fn a_weight_outside_the_range_is_refused_by_name() {
        for outside in [70_000.0, f32::NAN, f32::NEG_INFINITY] {
            let weight = f32s(&[2, 2], &[1.0, 2.0, 3.0, outside]);
            let mut graph = OneNode::new("MatMul", 14).input(noise(&[1, 2], 1)).constant(weight).graph();
            let id = graph.nodes[0].inputs[1].expect("a constant");
            graph.values[id.0 as usize].name = "layer.weight".into();
            let error = lowered(&graph, true).expect_err("refused").to_string();
            assert!(error.contains("layer.weight") && error.contains(&outside.to_string()), "{error}");
            assert!(lowered(&graph, false).is_ok(), "f32 holds it");
        }
    }
}
