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
use cordon_engine::program::{DType, Instruction, Port, Tile};

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

/// Slots the instruction reads, repeated when read twice.
pub(crate) fn slots_read(instruction: &Instruction) -> impl Iterator<Item = u32> + use<> {
    instruction.regions().map(|region| region.start)
}
