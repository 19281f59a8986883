//! What an instruction takes: arithmetic, memory traffic, and its shape in words. For cost models and reports; the engine
//! has its own, coarser count for limits.

use crate::emit::Lowered;
use cordon_engine::program::{Axis, Instruction, Layout, PoolKind, WeightTable};
use cordon_graph::ValueId;

/// Work of one instruction, or of a whole Program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-adds of convolutions and matrix products. Taps that fall into padding count, lanes that only fill a
    /// block do not. Everything else counts as moving memory.
    pub multiply_adds: u64,
    /// Bytes of every operand and of the output, each once.
    pub bytes: u64,
}

impl Work {
    /// Of one instruction; `weights` gives the element types of its tiles.
    pub fn of(instruction: &Instruction, weights: &WeightTable) -> Self {
        let regions = instruction.regions().chain([instruction.out()]).map(|region| region.bytes());
        let tiles = instruction.tiles().map(|tile| weights.tile_bytes(tile));
        Self { multiply_adds: multiply_adds(instruction), bytes: regions.chain(tiles).sum() }
    }

    /// Floating-point operations: two for each multiply-add.
    pub fn flops(&self) -> u64 {
        2 * self.multiply_adds
    }
}

impl Lowered {
    /// Work of every instruction, in order.
    pub fn work(&self) -> impl Iterator<Item = Work> {
        self.program.instructions.iter().map(|instruction| Work::of(instruction, &self.weights))
    }

    /// The graph's constant that a weight tensor is packed from; `None` for computed ones.
    pub fn constant(&self, tensor: u32) -> Option<ValueId> {
        self.sources.get(tensor as usize)?.constant()?.value
    }

    /// Floating-point operations of the whole Program.
    pub fn flops(&self) -> u64 {
        self.work().map(|work| work.flops()).sum()
    }
}

fn multiply_adds(instruction: &Instruction) -> u64 {
    use Instruction as I;
    let product = |extents: &[u32]| extents.iter().map(|&extent| u64::from(extent)).product::<u64>();
    match instruction {
        I::Conv2d { geometry: g, .. } => {
            product(&[g.n, g.y.output, g.x.output, g.oc, g.ic / g.groups, g.y.kernel, g.x.kernel])
        }
        I::QConv2d { geometry: g, .. } => {
            product(&[g.n, g.y.output, g.x.output, g.oc, g.ic / g.groups, g.y.kernel, g.x.kernel])
        }
        // It has no lanes that only fill a block.
        I::ConvNd { geometry: g, .. } => g.macs().unwrap_or(u64::MAX),
        I::MatMul { geometry: g, .. } => g.macs().unwrap_or(u64::MAX),
        I::Dense { geometry: g, .. } => product(&[g.m, g.k, g.n]),
        I::QDense { geometry: g, .. } => product(&[g.m, g.k, g.n]),
        I::Pool { .. }
        | I::Unary { .. }
        | I::Not { .. }
        | I::Binary { .. }
        | I::Select { .. }
        | I::Softmax { .. }
        | I::Normalize { .. }
        | I::Lrn { .. }
        | I::Reduce { .. }
        | I::ArgMax { .. }
        | I::Copy { .. }
        | I::Fill { .. }
        | I::Gather { .. }
        | I::Interpolate { .. }
        | I::Cast { .. }
        | I::Quantize { .. }
        | I::Dequantize { .. }
        | I::QSum { .. }
        | I::QPool { .. }
        | I::Lookup { .. }
        | I::Spill { .. }
        | I::Restore { .. } => 0,
    }
}

/// An instruction with the extents that decide its speed, for example `Conv2d 3x3/2 64→128 28x28 +residual Relu`.
pub fn describe(instruction: &Instruction) -> String {
    let name = instruction.name();
    let added = |residual| if residual { " +residual" } else { "" };
    match instruction {
        Instruction::Conv2d { geometry: g, residual, activation, .. } => {
            let shape = convolution([&g.y, &g.x], [g.ic, g.oc], g.groups);
            let plain = if g.input == Layout::Plain { " plain" } else { "" };
            format!("{name} {shape}{plain}{}{}", added(residual.is_some()), applied(activation.as_ref()))
        }
        Instruction::QConv2d { geometry: g, residual, .. } => {
            let shape = convolution([&g.y, &g.x], [g.ic, g.oc], g.groups);
            let image = if g.lanes == 4 { " image" } else { "" };
            format!("{name} {shape}{image}{}", added(residual.is_some()))
        }
        Instruction::QDense { geometry: g, .. } => format!("{name} {}x{}x{}", g.m, g.k, g.n),
        Instruction::ConvNd { geometry: g, activation, .. } => {
            let kernel = g.axes.map(|axis| axis.kernel.to_string()).join("x");
            let transposed = if g.transposed { " transposed" } else { "" };
            format!("{name} {kernel} {}→{}{transposed}{}", g.ic, g.oc, applied(activation.as_ref()))
        }
        Instruction::Pool { geometry: g, .. } => {
            let kind = match g.kind {
                PoolKind::Max => "max",
                PoolKind::Average | PoolKind::AverageCountPad => "average",
            };
            let [_, y, x] = &g.axes;
            let step = stride(&[y.stride, x.stride]);
            format!("{name} {kind} {}x{}{step} {}x{}x{}x{}", y.kernel, x.kernel, g.planes, y.output, x.output, g.lanes)
        }
        Instruction::Dense { geometry: g, residual, activation, .. } => {
            let residual = added(residual.is_some());
            format!("{name} {}x{}x{}{residual}{}", g.m, g.k, g.n, applied(activation.as_ref()))
        }
        Instruction::MatMul { geometry: g, .. } => {
            format!("{name} {}x{}x{}x{}", g.batch.dims.iter().product::<u32>(), g.m, g.k, g.n)
        }
        Instruction::Unary { op, out, .. } => format!("{name} {} {}", word(op), out.len),
        Instruction::Binary { op, activation, out, .. } => {
            format!("{name} {} {}{}", word(op), out.len, applied(activation.as_ref()))
        }
        Instruction::Softmax { along, .. } => format!("{name} {}x{}x{}", along.outer, along.len, along.inner),
        Instruction::Normalize { geometry, .. } => format!("{name} {}x{}", geometry.outer, geometry.len),
        Instruction::Reduce { op, reduced, out, .. } => {
            format!("{name} {} {}→1 {}", word(op), reduced.dims.iter().product::<u32>(), out.len)
        }
        Instruction::Copy { geometry, .. } => {
            let extents: Vec<String> = geometry.dims.iter().map(u32::to_string).collect();
            format!("{name} {}", extents.join("x"))
        }
        other => format!("{name} {}", other.out().len),
    }
}

/// Window, channels, extent of the output and groups of a convolution.
fn convolution([y, x]: [&Axis; 2], [ic, oc]: [u32; 2], groups: u32) -> String {
    let kind = match groups {
        1 => String::new(),
        _ if groups == ic => " depthwise".into(),
        _ => format!(" groups {groups}"),
    };
    let step = stride(&[y.stride, x.stride]);
    format!("{}x{}{step} {ic}→{oc} {}x{}{kind}", y.kernel, x.kernel, y.output, x.output)
}

fn stride(strides: &[u32; 2]) -> String {
    match strides {
        [1, 1] => String::new(),
        [y, x] if y == x => format!("/{y}"),
        [y, x] => format!("/{y}x{x}"),
    }
}

fn applied(activation: Option<&impl core::fmt::Debug>) -> String {
    activation.map_or_else(String::new, |activation| format!(" {}", word(activation)))
}

/// The name of an enum's variant.
fn word(value: &impl core::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower_graph;
    use crate::testing::{OneNode, noise};

    #[test]
    fn a_convolution_counts_channels_taps_and_pixels_and_no_filling_lanes() {
        let graph = OneNode::new("Conv", 11)
            .input(noise(&[1, 3, 8, 8], 1))
            .constant(noise(&[10, 3, 3, 3], 2))
            .ints("pads", &[1, 1, 1, 1])
            .ints("strides", &[2, 2])
            .graph();
        let lowered = lower_graph(&graph).expect("lowers");
        let at = lowered.program.instructions.iter().position(|it| it.name() == "Conv2d").expect("a convolution");
        let work = lowered.work().nth(at).expect("as many as instructions");
        assert_eq!(work.multiply_adds, 10 * 3 * 9 * 4 * 4);
        assert_eq!(lowered.flops(), 2 * work.multiply_adds, "nothing else multiplies");
        // Plain image, weights and output in one block of sixteen channels.
        assert_eq!(work.bytes, 4 * (3 * 64 + 16 * 27 + 16 * 16));
        assert_eq!(describe(&lowered.program.instructions[at]), "Conv2d 3x3/2 3→10 4x4 plain");
    }

    #[test]
    fn a_product_counts_its_batch() {
        let graph = OneNode::new("MatMul", 13).input(noise(&[2, 3, 4], 1)).input(noise(&[2, 4, 5], 2)).graph();
        let lowered = lower_graph(&graph).expect("lowers");
        assert_eq!(lowered.flops(), 2 * 2 * 3 * 4 * 5);
        assert_eq!(describe(&lowered.program.instructions[0]), "MatMul 2x3x4x5");
    }

    #[test]
    fn what_only_moves_memory_has_no_arithmetic() {
        let lowered = lower_graph(&OneNode::new("Relu", 14).input(noise(&[6], 1)).graph()).expect("lowers");
        assert_eq!(lowered.work().collect::<Vec<_>>(), [Work { multiply_adds: 0, bytes: 48 }]);
        assert_eq!(describe(&lowered.program.instructions[0]), "Unary Relu 6");
    }
}
