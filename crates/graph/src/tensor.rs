//! Constant tensors: element sizes, typed access, construction.

use crate::model::{ElemType, Tensor, TensorType};
use bytes::Bytes;
use std::borrow::Cow;

impl ElemType {
    /// The type behind a `TensorProto.DataType` code.
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::Float,
            2 => Self::Uint8,
            3 => Self::Int8,
            4 => Self::Uint16,
            5 => Self::Int16,
            6 => Self::Int32,
            7 => Self::Int64,
            8 => Self::String,
            9 => Self::Bool,
            10 => Self::Float16,
            11 => Self::Double,
            12 => Self::Uint32,
            13 => Self::Uint64,
            14 => Self::Complex64,
            15 => Self::Complex128,
            16 => Self::Bfloat16,
            17 => Self::Float8E4M3Fn,
            18 => Self::Float8E4M3Fnuz,
            19 => Self::Float8E5M2,
            20 => Self::Float8E5M2Fnuz,
            21 => Self::Uint4,
            22 => Self::Int4,
            23 => Self::Float4E2M1,
            24 => Self::Float8E8M0,
            25 => Self::Uint2,
            26 => Self::Int2,
            _ => return None,
        })
    }

    /// The `TensorProto.DataType` code.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Bits of one element; `None` for `String`, whose elements have no fixed size.
    pub fn bits(self) -> Option<u64> {
        Some(match self {
            Self::String => return None,
            Self::Uint2 | Self::Int2 => 2,
            Self::Uint4 | Self::Int4 | Self::Float4E2M1 => 4,
            Self::Uint8
            | Self::Int8
            | Self::Bool
            | Self::Float8E4M3Fn
            | Self::Float8E4M3Fnuz
            | Self::Float8E5M2
            | Self::Float8E5M2Fnuz
            | Self::Float8E8M0 => 8,
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => 16,
            Self::Float | Self::Int32 | Self::Uint32 => 32,
            Self::Int64 | Self::Double | Self::Uint64 | Self::Complex64 => 64,
            Self::Complex128 => 128,
        })
    }

    /// Bytes of `count` elements packed as ONNX packs them; `None` on overflow or for `String`.
    pub fn packed_bytes(self, count: u64) -> Option<u64> {
        Some(self.bits()?.checked_mul(count)?.div_ceil(8))
    }
}

impl core::fmt::Display for ElemType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = format!("{self:?}").to_lowercase();
        f.write_str(&name)
    }
}

/// Product of extents; `None` on overflow of 63 bits.
pub(crate) fn count(dims: &[usize]) -> Option<u64> {
    let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))?;
    (product <= i64::MAX as u64).then_some(product)
}

impl TensorType {
    /// A type.
    pub fn new(elem: ElemType, dims: impl Into<Vec<usize>>) -> Self {
        Self { elem, dims: dims.into() }
    }

    /// Number of elements; saturates where hostile extents overflow.
    pub fn elements(&self) -> u64 {
        count(&self.dims).unwrap_or(u64::MAX)
    }

    /// Size of its data; saturates where hostile extents overflow, 0 for `String`.
    pub fn bytes(&self) -> u64 {
        match self.elem {
            ElemType::String => 0,
            elem => count(&self.dims).and_then(|count| elem.packed_bytes(count)).unwrap_or(u64::MAX),
        }
    }
}

impl core::fmt::Display for TensorType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.elem, dims.join("x"))
    }
}

impl Tensor {
    /// A tensor of `elem` over little-endian `data`; an error when the size does not fit the extents.
    pub fn new(elem: ElemType, dims: impl Into<Vec<usize>>, data: Bytes) -> Result<Self, String> {
        let dims = dims.into();
        let want = count(&dims).and_then(|count| elem.packed_bytes(count));
        if want != Some(data.len() as u64) {
            return Err(format!("a {elem} tensor of extents {dims:?} cannot have {} bytes of data", data.len()));
        }
        Ok(Self { elem, dims, data })
    }

    /// A float tensor; panics when `data` does not fill `dims`.
    pub fn from_f32(dims: &[usize], data: &[f32]) -> Self {
        Self::filled(ElemType::Float, dims, data.len(), data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An int64 tensor; panics when `data` does not fill `dims`.
    pub fn from_i64(dims: &[usize], data: &[i64]) -> Self {
        Self::filled(ElemType::Int64, dims, data.len(), data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A bool tensor; panics when `data` does not fill `dims`.
    pub fn from_bool(dims: &[usize], data: &[bool]) -> Self {
        Self::filled(ElemType::Bool, dims, data.len(), data.iter().map(|&v| u8::from(v)).collect())
    }

    fn filled(elem: ElemType, dims: &[usize], len: usize, data: Vec<u8>) -> Self {
        assert_eq!(count(dims), Some(len as u64), "extents {dims:?} do not hold {len} elements");
        Self { elem, dims: dims.to_vec(), data: Bytes::from(data) }
    }

    /// Its type and extents.
    pub fn ty(&self) -> TensorType {
        TensorType { elem: self.elem, dims: self.dims.clone() }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        count(&self.dims).unwrap_or(u64::MAX)
    }

    /// Its elements as f32; an error for any other element type (nothing is converted silently).
    pub fn to_f32(&self) -> Result<Vec<f32>, String> {
        self.expect(ElemType::Float)?;
        Ok(self.chunks::<4>().map(f32::from_le_bytes).collect())
    }

    /// Its elements as i64, from int64 or int32.
    pub fn to_i64(&self) -> Result<Vec<i64>, String> {
        match self.elem {
            ElemType::Int32 => Ok(self.chunks::<4>().map(|b| i64::from(i32::from_le_bytes(b))).collect()),
            _ => {
                self.expect(ElemType::Int64)?;
                Ok(self.chunks::<8>().map(i64::from_le_bytes).collect())
            }
        }
    }

    /// Its elements as bool.
    pub fn to_bool(&self) -> Result<Vec<bool>, String> {
        self.expect(ElemType::Bool)?;
        Ok(self.data.iter().map(|&byte| byte != 0).collect())
    }

    /// Its bool elements as bytes 0 or 1.
    pub fn to_mask(&self) -> Result<Cow<'_, [u8]>, String> {
        self.expect(ElemType::Bool)?;
        Ok(match self.data.iter().all(|&byte| byte <= 1) {
            true => Cow::Borrowed(&self.data),
            false => Cow::Owned(self.data.iter().map(|&byte| u8::from(byte != 0)).collect()),
        })
    }

    fn expect(&self, elem: ElemType) -> Result<(), String> {
        match self.elem == elem {
            true => Ok(()),
            false => Err(format!("expected a {elem} tensor, found {}", self.ty())),
        }
    }

    fn chunks<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.data.as_chunks::<N>().0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_small_elements_as_onnx_does() {
        assert_eq!(ElemType::Int4.packed_bytes(3), Some(2));
        assert_eq!(ElemType::Uint2.packed_bytes(5), Some(2));
        assert_eq!(ElemType::Double.packed_bytes(u64::MAX), None);
        assert_eq!(ElemType::String.packed_bytes(1), None);
    }

    #[test]
    fn codes_round_trip() {
        for code in 1..=26 {
            assert_eq!(ElemType::from_code(code).unwrap().code(), code);
        }
        assert_eq!(ElemType::from_code(0), None);
        assert_eq!(ElemType::from_code(27), None);
    }

    #[test]
    fn typed_access_refuses_other_types() {
        let tensor = Tensor::from_i64(&[2], &[1, -2]);
        assert_eq!(tensor.to_i64().unwrap(), [1, -2]);
        assert!(tensor.to_f32().unwrap_err().contains("int64[2]"));
        assert_eq!(Tensor::from_f32(&[1], &[1.5]).to_f32().unwrap(), [1.5]);
    }

    #[test]
    fn sizes_must_fit_and_overflow_is_seen() {
        assert!(Tensor::new(ElemType::Float, [2, 3], Bytes::from(vec![0; 23])).is_err());
        assert!(Tensor::new(ElemType::Float, [usize::MAX, 2], Bytes::new()).is_err());
        assert_eq!(TensorType::new(ElemType::Float, [usize::MAX, 2]).bytes(), u64::MAX);
    }
}
