//! [`Val`]: a value of the segment as lowering sees it, and the arithmetic of its extents.

use crate::constant::Constant;
use crate::context::{BLOCK, Reason};
use cordon_engine::program::{DType, Layout, Region, StridedCopy};
use cordon_graph::{ElemType, Tensor};

/// A value of the segment, or a constant.
#[derive(Clone, Debug)]
pub struct Val {
    /// Engine type.
    pub dtype: DType,
    /// ONNX extents.
    pub dims: Vec<usize>,
    /// Constants are always plain.
    pub layout: Layout,
    pub(crate) source: Source,
}

/// Where a value lies.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In a slot of the draft.
    Slot(u32),
    /// On the owner's machine.
    Constant(Constant),
}

impl Val {
    /// Elements, without padding lanes.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether the value is known on the owner's machine.
    pub fn is_constant(&self) -> bool {
        matches!(self.source, Source::Constant(_))
    }

    /// The constant's data, without conversion.
    pub fn constant(&self) -> Option<&Tensor> {
        self.known().map(|constant| &constant.tensor)
    }

    /// The constant with its identity, to make a weight of.
    pub(crate) fn known(&self) -> Option<&Constant> {
        match &self.source {
            Source::Constant(constant) => Some(constant),
            Source::Slot(_) => None,
        }
    }

    /// Extents as they lie in memory: `dims`, or `(n, ceil(c / 16), spatial…, 16)`.
    pub fn physical(&self) -> Vec<usize> {
        physical(&self.dims, self.layout)
    }

    /// Elements as they lie in memory, padding lanes included.
    pub fn len(&self) -> u32 {
        u32::try_from(self.physical().iter().product::<usize>()).expect("checked when the handle was made")
    }

    /// Whether there is no element; lowering refuses such values, so this is always false.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(crate) fn slot(&self) -> Option<u32> {
        match self.source {
            Source::Slot(slot) => Some(slot),
            Source::Constant(_) => None,
        }
    }

    /// The memory of an intermediate value, to write it. Constants have none: [`LowerCtx::operand`](crate::context::LowerCtx::operand) reads both.
    pub fn region(&self) -> Region {
        let start = self.slot().expect("only values from `new`, `arena` or a conversion are written");
        Region { dtype: self.dtype, start, len: self.len() }
    }
}

/// Extents in memory of a value of logical extents `dims`.
pub fn physical(dims: &[usize], layout: Layout) -> Vec<usize> {
    match layout {
        Layout::Plain => dims.to_vec(),
        Layout::Blocked => {
            let mut out = dims.to_vec();
            out[1] = dims[1].div_ceil(BLOCK);
            out.push(BLOCK);
            out
        }
    }
}

/// Row-major strides.
pub fn contiguous(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// A geometry field. Every extent and stride of an admitted value fits: its element count does.
pub fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("element counts were checked to fit 32 bits")
}

/// The engine type that carries an ONNX type; `None` for types a secure segment refuses. `Int32` travels as `I64`, `Int8`
/// as the value plus 128.
pub fn dtype_of(elem: ElemType) -> Option<DType> {
    match elem {
        ElemType::Float => Some(DType::F32),
        ElemType::Int64 | ElemType::Int32 => Some(DType::I64),
        ElemType::Bool => Some(DType::Bool),
        ElemType::Uint8 | ElemType::Int8 => Some(DType::U8),
        _ => None,
    }
}

/// A constant of a type the engine has.
pub(crate) fn constant(constant: Constant) -> Result<Val, Reason> {
    let tensor = &constant.tensor;
    let dtype = dtype_of(tensor.elem)
        .ok_or_else(|| format!("a constant of type {} is not supported in a secure segment", tensor.elem))?;
    element_count(&tensor.dims)?;
    Ok(Val { dtype, dims: tensor.dims.clone(), layout: Layout::Plain, source: Source::Constant(constant) })
}

pub(crate) fn element_count(dims: &[usize]) -> Result<u32, Reason> {
    if dims.contains(&0) {
        return Err("values without elements are not supported".into());
    }
    let count = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    // Strides of copies are signed 32-bit.
    count
        .and_then(|count| u32::try_from(count).ok())
        .filter(|&count| count <= i32::MAX as u32)
        .ok_or_else(|| format!("a value of shape {dims:?} exceeds 2^31 elements").into())
}

/// A copy of `count` contiguous elements.
pub(crate) fn copy_all(count: usize) -> StridedCopy {
    StridedCopy { dims: vec![to_u32(count)], from: 0, from_strides: vec![1], to: 0, to_strides: vec![1] }
}

/// A positive copy stride; fits by the bound `element_count` sets.
pub fn to_i32(value: usize) -> i32 {
    i32::try_from(value).expect("element counts were checked to fit 31 bits")
}
