//! Tensors: construction, typed access, sizes.

use bytes::Bytes;
use cordon_fault::Next;
use cordon_onnx_types::ElemType;
use core::fmt;
use half::{bf16, f16};
use std::borrow::Cow;

/// A dense tensor: a constant of the model (the file's own bytes where they were raw), an input or a result.
///
/// [`Tensor::new`] and its typed companions see to it that the data fills the extents.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub elem: ElemType,
    /// Extents.
    pub dims: Vec<usize>,
    /// Row-major little-endian elements; `Bool` one byte each; `Int4`-like types packed as ONNX does; the encoded
    /// `string_data` records for `String`.
    pub data: Bytes,
}

/// Type and static shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Element type.
    pub elem: ElemType,
    /// Extents.
    pub dims: Vec<usize>,
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

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.elem, dims.join("x"))
    }
}

/// Why a tensor cannot be made or read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorError {
    /// The data does not fill the extents, or elements of this type have no fixed size.
    Size {
        /// The type asked for.
        ty: TensorType,
        /// Bytes that were given.
        bytes: usize,
    },
    /// It was read as elements of another type.
    Type {
        /// The type it was read as.
        wanted: ElemType,
        /// What it is.
        found: TensorType,
    },
}

cordon_fault::faults! {
    TensorError;
    wraps {}
    entries {
        Self::Size { .. } => "tensor-size", Hostile, Next::WriteAgain, "Data does not fill its shape.";
        Self::Type { .. } => "tensor-type", Misuse, Next::CheckInput, "A tensor has another element type than was asked for.";
    }
    next {}
    place {}
}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { ty, bytes } => write!(f, "{bytes} bytes do not fill a tensor {ty}"),
            Self::Type { wanted, found } => write!(f, "expected a {wanted} tensor, found {found}"),
        }
    }
}

impl core::error::Error for TensorError {}

/// For [`crate::Evaluator`] and shape rules, whose errors are reasons in words.
impl From<TensorError> for String {
    fn from(error: TensorError) -> Self {
        error.to_string()
    }
}

impl Tensor {
    /// A tensor of `elem` over little-endian `data`, which must fill the extents.
    pub fn new(elem: ElemType, dims: impl Into<Vec<usize>>, data: impl Into<Bytes>) -> Result<Self, TensorError> {
        let (dims, data) = (dims.into(), data.into());
        let wanted = count(&dims).and_then(|count| elem.packed_bytes(count));
        match wanted == Some(data.len() as u64) {
            true => Ok(Self { elem, dims, data }),
            false => Err(TensorError::Size { ty: TensorType { elem, dims }, bytes: data.len() }),
        }
    }

    /// A tensor of `elem` from the little-endian bytes of each element.
    pub fn from_elements<const N: usize>(
        elem: ElemType,
        dims: impl Into<Vec<usize>>,
        elements: impl Iterator<Item = [u8; N]>,
    ) -> Result<Self, TensorError> {
        // Collected as arrays: an iterator over single bytes does not know its length and is many times slower, which
        // every value that crosses between the worlds would feel.
        Self::new(elem, dims, elements.collect::<Vec<_>>().into_flattened())
    }

    /// A float tensor.
    pub fn from_f32(dims: impl Into<Vec<usize>>, data: &[f32]) -> Result<Self, TensorError> {
        Self::from_elements(ElemType::Float, dims, data.iter().map(|v| v.to_le_bytes()))
    }

    /// An int64 tensor.
    pub fn from_i64(dims: impl Into<Vec<usize>>, data: &[i64]) -> Result<Self, TensorError> {
        Self::from_elements(ElemType::Int64, dims, data.iter().map(|v| v.to_le_bytes()))
    }

    /// A bool tensor.
    pub fn from_bool(dims: impl Into<Vec<usize>>, data: &[bool]) -> Result<Self, TensorError> {
        Self::from_elements(ElemType::Bool, dims, data.iter().map(|&v| [u8::from(v)]))
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
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        self.expect(ElemType::Float)?;
        Ok(self.chunks::<4>().map(f32::from_le_bytes).collect())
    }

    /// Its elements as i64, from int64 or int32.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        match self.elem {
            ElemType::Int32 => Ok(self.chunks::<4>().map(|b| i64::from(i32::from_le_bytes(b))).collect()),
            _ => {
                self.expect(ElemType::Int64)?;
                Ok(self.chunks::<8>().map(i64::from_le_bytes).collect())
            }
        }
    }

    /// Its elements as bool.
    pub fn to_bool(&self) -> Result<Vec<bool>, TensorError> {
        self.expect(ElemType::Bool)?;
        Ok(self.data.iter().map(|&byte| byte != 0).collect())
    }

    /// Its bool elements as bytes 0 or 1.
    pub fn to_mask(&self) -> Result<Cow<'_, [u8]>, TensorError> {
        self.expect(ElemType::Bool)?;
        Ok(match self.data.iter().all(|&byte| byte <= 1) {
            true => Cow::Borrowed(&self.data),
            false => Cow::Owned(self.data.iter().map(|&byte| u8::from(byte != 0)).collect()),
        })
    }

    /// Every number of it as f64, whatever its type, to compare and print; large integers are rounded. Empty for types
    /// whose elements do not cross ([`ElemType::crossing_bytes`]).
    pub fn to_f64_lossy(&self) -> Vec<f64> {
        match self.elem {
            ElemType::Float => self.chunks().map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            ElemType::Double => self.chunks().map(f64::from_le_bytes).collect(),
            ElemType::Float16 => self.chunks().map(|b| f16::from_le_bytes(b).to_f64()).collect(),
            ElemType::Bfloat16 => self.chunks().map(|b| bf16::from_le_bytes(b).to_f64()).collect(),
            ElemType::Int64 => self.chunks().map(|b| i64::from_le_bytes(b) as f64).collect(),
            ElemType::Uint64 => self.chunks().map(|b| u64::from_le_bytes(b) as f64).collect(),
            ElemType::Int32 => self.chunks().map(|b| f64::from(i32::from_le_bytes(b))).collect(),
            ElemType::Uint32 => self.chunks().map(|b| f64::from(u32::from_le_bytes(b))).collect(),
            ElemType::Int16 => self.chunks().map(|b| f64::from(i16::from_le_bytes(b))).collect(),
            ElemType::Uint16 => self.chunks().map(|b| f64::from(u16::from_le_bytes(b))).collect(),
            ElemType::Int8 => self.data.iter().map(|b| f64::from(b.cast_signed())).collect(),
            ElemType::Uint8 | ElemType::Bool => self.data.iter().map(|b| f64::from(*b)).collect(),
            _ => Vec::new(),
        }
    }

    fn expect(&self, wanted: ElemType) -> Result<(), TensorError> {
        match self.elem == wanted {
            true => Ok(()),
            false => Err(TensorError::Type { wanted, found: self.ty() }),
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
    fn typed_access_refuses_other_types() {
        let tensor = Tensor::from_i64([2], &[1, -2]).unwrap();
        assert_eq!(tensor.to_i64().unwrap(), [1, -2]);
        assert!(tensor.to_f32().unwrap_err().to_string().contains("int64[2]"));
        assert_eq!(Tensor::from_f32([1], &[1.5]).unwrap().to_f32().unwrap(), [1.5]);
    }

    #[test]
    fn any_number_is_read_for_comparing() {
        let bytes = |elem, data: &[u8]| Tensor::new(elem, [1], data.to_vec()).unwrap().to_f64_lossy();
        for (elem, data) in [
            (ElemType::Float, (-2f32).to_le_bytes().as_slice()),
            (ElemType::Double, (-2f64).to_le_bytes().as_slice()),
            (ElemType::Float16, &[0x00, 0xc0]),
            (ElemType::Bfloat16, &[0x00, 0xc0]),
            (ElemType::Int8, &[0xfe]),
            (ElemType::Int16, &[0xfe, 0xff]),
            (ElemType::Int32, &[0xfe, 0xff, 0xff, 0xff]),
            (ElemType::Int64, (-2i64).to_le_bytes().as_slice()),
        ] {
            assert_eq!(bytes(elem, data), [-2.0], "{elem}");
        }
        assert_eq!(bytes(ElemType::Uint8, &[0xfe]), [254.0]);
        assert_eq!(bytes(ElemType::Uint64, &u64::MAX.to_le_bytes()), [u64::MAX as f64]);
    }

    #[test]
    fn sizes_must_fit_and_overflow_is_seen() {
        assert!(Tensor::new(ElemType::Float, [2, 3], vec![0; 23]).is_err());
        assert!(Tensor::new(ElemType::Float, [usize::MAX, 2], Bytes::new()).is_err());
        assert!(Tensor::new(ElemType::Float, [usize::MAX, 2, 0], Bytes::new()).is_err());
        assert!(Tensor::new(ElemType::String, [0], Bytes::new()).is_err());
        assert!(Tensor::new(ElemType::Int64, [0, 4], Bytes::new()).is_ok());
        assert!(Tensor::from_f32([2, 3], &[0.0; 5]).is_err());
        assert_eq!(TensorType::new(ElemType::Float, [usize::MAX, 2]).bytes(), u64::MAX);
    }
}
