//! A constant with what is known of it: which value of the graph it is, and whether it stands for integers.

use cordon_graph::{Tensor, Value, ValueId};
use std::sync::Arc;

/// Data known on the owner's machine. It keeps its identity on its way into a weight, under whatever extents.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    /// The data.
    pub(crate) tensor: Tensor,
    /// The graph's value it is; `None` when lowering computed it.
    pub(crate) value: Option<ValueId>,
    /// Integers times these, where a DequantizeLinear made it: one scale for all elements, or one for each channel.
    pub(crate) scales: Option<Arc<[f32]>>,
}

impl Constant {
    /// One that lowering computed.
    pub(crate) fn computed(tensor: Tensor) -> Self {
        Self { tensor, value: None, scales: None }
    }

    /// The constant that a value of the graph is.
    pub(crate) fn of(id: ValueId, value: &Value) -> Option<Self> {
        let tensor = value.constant.clone()?;
        let scales = value.quantised.as_ref().map(|stored| stored.scales.as_slice().into());
        Some(Self { tensor, value: Some(id), scales })
    }
}

/// By content: equal data is one weight, whatever it was called.
impl PartialEq for Constant {
    fn eq(&self, other: &Self) -> bool {
        self.tensor == other.tensor
    }
}
