//! The program under construction: engine instructions over *virtual* tensors.
//!
//! A draft uses the engine's own [`Instruction`], with one difference: [`Region::start`] is the index of a [`Slot`]
//! instead of an arena offset. Slots are unlimited and, apart from the partial writes of `Copy`, written once, so passes
//! need no alias analysis. [`crate::emit`] replaces slots by offsets at the end.
//!
//! A slot may lie [within](Slot::within) another: a *part*. Instructions name parts like any slot, so a producer can write
//! a stretch of a larger value in place, and a consumer read one, without a region having to carry an offset. Memory and
//! lifetime belong to the [root](Draft::root). Parts are made after the fusions, which know nothing of them.

use crate::weights::WeightSource;
use cordon_engine::program::{DType, Instruction, Operand, Port, Region, Tile};
use cordon_graph::Tensor;
use std::collections::HashMap;

/// A virtual tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Which arena it will live in.
    pub(crate) dtype: DType,
    /// Elements, padding lanes included.
    pub(crate) len: u32,
    /// The slot of the same type this one is a stretch of, and the element of it that is this one's first. `None`: it has
    /// memory of its own.
    pub(crate) within: Option<(u32, u32)>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// Virtual tensors.
    pub(crate) slots: Vec<Slot>,
    /// What [`Tile::tensor`] indexes.
    pub(crate) weights: Vec<WeightSource>,
    /// Constants that a DequantizeLinear made, by the address of their data: the tensor, which keeps the address taken, and
    /// one scale for all elements or for each channel.
    pub(crate) dequantised: HashMap<usize, (Tensor, Vec<f32>)>,
    /// In execution order.
    pub(crate) instructions: Vec<Instruction>,
    /// Slots written before the first instruction.
    pub(crate) inputs: Vec<Port>,
    /// Slots read after the last.
    pub(crate) outputs: Vec<Port>,
}

impl Draft {
    /// A new virtual tensor.
    pub(crate) fn slot(&mut self, dtype: DType, len: u32) -> u32 {
        self.push(Slot { dtype, len, within: None })
    }

    /// `len` elements of `slot` from element `start` on, as a slot to read or write.
    pub(crate) fn part(&mut self, slot: u32, start: u32, len: u32) -> u32 {
        let whole = self.slots[slot as usize];
        assert!(start.checked_add(len).is_some_and(|end| end <= whole.len), "a part lies inside its slot");
        if start == 0 && len == whole.len {
            slot
        } else {
            self.push(Slot { dtype: whole.dtype, len, within: Some((slot, start)) })
        }
    }

    /// The slot whose memory `slot` lies in, and where it begins there.
    pub(crate) fn root(&self, slot: u32) -> (u32, u32) {
        let (mut slot, mut start) = (slot, 0);
        while let Some((whole, at)) = self.slots[slot as usize].within {
            (slot, start) = (whole, start + at);
        }
        (slot, start)
    }

    fn push(&mut self, slot: Slot) -> u32 {
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).expect("fewer slots than instructions, which memory bounds")
    }

    /// A new weight tensor, whole.
    pub(crate) fn weight(&mut self, source: WeightSource) -> Tile {
        let len = source.len();
        self.weights.push(source);
        let tensor = u32::try_from(self.weights.len() - 1).expect("fewer weights than nodes, which memory bounds");
        Tile { tensor, start: 0, len }
    }
}

/// The region an instruction writes; of a spill the one it reads.
pub(crate) fn out_mut(instruction: &mut Instruction) -> &mut Region {
    use Instruction as I;
    match instruction {
        I::Conv2d { out, .. }
        | I::ConvNd { out, .. }
        | I::Pool { out, .. }
        | I::Dense { out, .. }
        | I::MatMul { out, .. }
        | I::Unary { out, .. }
        | I::Not { out, .. }
        | I::Binary { out, .. }
        | I::Select { out, .. }
        | I::Softmax { out, .. }
        | I::Normalize { out, .. }
        | I::Lrn { out, .. }
        | I::Reduce { out, .. }
        | I::ArgMax { out, .. }
        | I::Copy { out, .. }
        | I::Fill { out, .. }
        | I::Gather { out, .. }
        | I::Interpolate { out, .. }
        | I::Cast { out, .. }
        | I::Quantize { out, .. }
        | I::Dequantize { out, .. }
        | I::QConv2d { out, .. }
        | I::QDense { out, .. }
        | I::QSum { out, .. }
        | I::QPool { out, .. }
        | I::Lookup { out, .. }
        | I::Spill { value: out, .. }
        | I::Restore { out, .. } => out,
    }
}

/// Something an instruction reads, mutable.
pub(crate) enum ReadMut<'a> {
    /// Arena memory.
    Region(&'a mut Region),
    /// A weight tile.
    Tile(&'a mut Tile),
}

/// Calls `visit` for everything the instruction reads.
pub(crate) fn for_each_read(instruction: &mut Instruction, mut visit: impl FnMut(ReadMut<'_>)) {
    use Instruction as I;
    fn operand(operand: &mut Operand, visit: &mut impl FnMut(ReadMut<'_>)) {
        match operand {
            Operand::Arena(region) => visit(ReadMut::Region(region)),
            Operand::Weight(tile) => visit(ReadMut::Tile(tile)),
        }
    }
    match instruction {
        I::Conv2d { input, weight, bias, residual, .. } | I::Dense { input, weight, bias, residual, .. } => {
            operand(input, &mut visit);
            visit(ReadMut::Tile(weight));
            bias.iter_mut().for_each(|tile| visit(ReadMut::Tile(tile)));
            residual.iter_mut().for_each(|region| visit(ReadMut::Region(region)));
        }
        I::ConvNd { input, weight, bias, .. } => {
            operand(input, &mut visit);
            operand(weight, &mut visit);
            bias.iter_mut().for_each(|tile| visit(ReadMut::Tile(tile)));
        }
        I::MatMul { a, b, .. } | I::Binary { a, b, .. } | I::QSum { a, b, .. } => {
            operand(a, &mut visit);
            operand(b, &mut visit);
        }
        I::Select { cond, then, otherwise, .. } => {
            operand(cond, &mut visit);
            operand(then, &mut visit);
            operand(otherwise, &mut visit);
        }
        I::Normalize { input, scale, bias, .. } => {
            operand(input, &mut visit);
            scale.iter_mut().for_each(|it| operand(it, &mut visit));
            bias.iter_mut().for_each(|it| operand(it, &mut visit));
        }
        I::Gather { data, indices, .. } => {
            operand(data, &mut visit);
            operand(indices, &mut visit);
        }
        I::Interpolate { input, lo, hi, frac, .. } => {
            operand(input, &mut visit);
            visit(ReadMut::Tile(lo));
            visit(ReadMut::Tile(hi));
            visit(ReadMut::Tile(frac));
        }
        I::Pool { input, .. }
        | I::Unary { input, .. }
        | I::Not { input, .. }
        | I::Softmax { input, .. }
        | I::Lrn { input, .. }
        | I::Reduce { input, .. }
        | I::ArgMax { input, .. }
        | I::Copy { input, .. }
        | I::Cast { input, .. }
        | I::Quantize { input, .. }
        | I::Dequantize { input, .. }
        | I::QPool { input, .. } => operand(input, &mut visit),
        I::QConv2d { input, weight, bias, scale, residual, .. } => {
            operand(input, &mut visit);
            [weight, bias, scale].into_iter().for_each(|tile| visit(ReadMut::Tile(tile)));
            residual.iter_mut().for_each(|it| visit(ReadMut::Region(&mut it.from)));
        }
        I::QDense { input, weight, bias, scale, .. } => {
            operand(input, &mut visit);
            [weight, bias, scale].into_iter().for_each(|tile| visit(ReadMut::Tile(tile)));
        }
        I::Lookup { table, input, .. } => {
            visit(ReadMut::Tile(table));
            operand(input, &mut visit);
        }
        // A spilled region is `out_mut`'s.
        I::Fill { .. } | I::Spill { .. } | I::Restore { .. } => {}
    }
}

/// Slots the instruction reads, repeated when read twice.
pub(crate) fn slots_read(instruction: &Instruction) -> Vec<u32> {
    let slots = instruction.reads().filter_map(|(_, operand)| match operand {
        Operand::Arena(region) => Some(region.start),
        Operand::Weight(_) => None,
    });
    slots.collect()
}
