//! Tensors as they pass between the engine and its caller.

use crate::program::DType;

/// A tensor's elements, row-major. No `Debug`: values are never printed.
#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Indices.
    I64(&'a [i64]),
    /// Masks, 0 or 1.
    Bool(&'a [u8]),
    /// Quantised values.
    U8(&'a [u8]),
}

impl ValueRef<'_> {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I64(_) => DType::I64,
            Self::Bool(_) => DType::Bool,
            Self::U8(_) => DType::U8,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) | Self::U8(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
