use bytes::Bytes;

use crate::ExecutorError;

/// ONNX element type codes (`TensorProto.DataType`).
pub mod elem {
    /// 32-bit float.
    pub const FLOAT: i32 = 1;
    /// Unsigned byte.
    pub const UINT8: i32 = 2;
    /// Signed byte.
    pub const INT8: i32 = 3;
    /// Unsigned 16-bit integer.
    pub const UINT16: i32 = 4;
    /// Signed 16-bit integer.
    pub const INT16: i32 = 5;
    /// Signed 32-bit integer.
    pub const INT32: i32 = 6;
    /// Signed 64-bit integer.
    pub const INT64: i32 = 7;
    /// UTF-8 strings: no tensor of this crate holds them.
    pub const STRING: i32 = 8;
    /// Boolean, one byte each.
    pub const BOOL: i32 = 9;
    /// IEEE 16-bit float.
    pub const FLOAT16: i32 = 10;
    /// 64-bit float.
    pub const DOUBLE: i32 = 11;
    /// Unsigned 32-bit integer.
    pub const UINT32: i32 = 12;
    /// Unsigned 64-bit integer.
    pub const UINT64: i32 = 13;
    /// Brain 16-bit float.
    pub const BFLOAT16: i32 = 16;

    /// Bytes per element, or `None` for a type that has no fixed size here.
    pub fn size(code: i32) -> Option<usize> {
        match code {
            UINT8 | INT8 | BOOL => Some(1),
            UINT16 | INT16 | FLOAT16 | BFLOAT16 => Some(2),
            FLOAT | INT32 | UINT32 => Some(4),
            INT64 | DOUBLE | UINT64 => Some(8),
            _ => None,
        }
    }

    /// The ONNX name of a type code, for messages.
    pub fn name(code: i32) -> &'static str {
        match code {
            FLOAT => "float",
            UINT8 => "uint8",
            INT8 => "int8",
            UINT16 => "uint16",
            INT16 => "int16",
            INT32 => "int32",
            INT64 => "int64",
            STRING => "string",
            BOOL => "bool",
            FLOAT16 => "float16",
            DOUBLE => "double",
            UINT32 => "uint32",
            UINT64 => "uint64",
            14 => "complex64",
            15 => "complex128",
            BFLOAT16 => "bfloat16",
            17..=20 => "float8",
            21 | 22 => "4-bit integer",
            23 => "float4",
            _ => "an unknown type",
        }
    }
}

/// A dense tensor: an ONNX element type, dimensions and little-endian bytes.
///
/// `data.len()` is always the product of `dims` times the element size; the constructors see to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// ONNX element type code, one of [`elem`].
    pub elem: i32,
    /// Dimensions; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements in row-major order, little-endian.
    pub data: Bytes,
}

impl Tensor {
    /// A tensor of `dims` over `data`, refused when the length does not fit.
    pub fn new(elem: i32, dims: Vec<usize>, data: Bytes) -> Result<Self, ExecutorError> {
        let size = elem::size(elem)
            .ok_or_else(|| ExecutorError::Unsupported(format!("tensors of {} ({elem})", elem::name(elem))))?;
        let wanted = element_count(&dims).and_then(|n| n.checked_mul(size));
        if wanted != Some(data.len()) {
            return Err(ExecutorError::Malformed(format!(
                "{} bytes do not fill a {} tensor of shape {dims:?}",
                data.len(),
                elem::name(elem)
            )));
        }
        Ok(Self { elem, dims, data })
    }

    /// A float tensor.
    pub fn from_f32(dims: Vec<usize>, values: &[f32]) -> Result<Self, ExecutorError> {
        Self::new(elem::FLOAT, dims, bytes_of(values.iter().map(|v| v.to_le_bytes())))
    }

    /// An int64 tensor.
    pub fn from_i64(dims: Vec<usize>, values: &[i64]) -> Result<Self, ExecutorError> {
        Self::new(elem::INT64, dims, bytes_of(values.iter().map(|v| v.to_le_bytes())))
    }

    /// A boolean tensor; any non-zero byte is true.
    pub fn from_bool(dims: Vec<usize>, values: &[u8]) -> Result<Self, ExecutorError> {
        Self::new(elem::BOOL, dims, values.iter().map(|v| u8::from(*v != 0)).collect())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / elem::size(self.elem).unwrap_or(1)
    }

    /// Whether some dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The values of a float tensor.
    pub fn to_f32(&self) -> Result<Vec<f32>, ExecutorError> {
        self.expect(elem::FLOAT)?;
        Ok(self.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The values of an int64 or int32 tensor.
    pub fn to_i64(&self) -> Result<Vec<i64>, ExecutorError> {
        if self.elem == elem::INT32 {
            return Ok(self.data.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect());
        }
        self.expect(elem::INT64)?;
        Ok(self.data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// The values of a boolean tensor, one byte each.
    pub fn to_bool(&self) -> Result<Vec<u8>, ExecutorError> {
        self.expect(elem::BOOL)?;
        Ok(self.data.to_vec())
    }

    /// Every number of the tensor as f64, whatever its type: for comparing and printing.
    pub fn to_f64_lossy(&self) -> Vec<f64> {
        let d = &self.data;
        match self.elem {
            elem::FLOAT => d.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            elem::DOUBLE => d.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            elem::FLOAT16 => d.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
            elem::BFLOAT16 => d.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
            elem::INT64 => d.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            elem::UINT64 => d.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as f64).collect(),
            elem::INT32 => d.as_chunks::<4>().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
            elem::UINT32 => d.as_chunks::<4>().0.iter().map(|b| f64::from(u32::from_le_bytes(*b))).collect(),
            elem::INT16 => d.as_chunks::<2>().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect(),
            elem::UINT16 => d.as_chunks::<2>().0.iter().map(|b| f64::from(u16::from_le_bytes(*b))).collect(),
            elem::INT8 => d.iter().map(|b| f64::from(b.cast_signed())).collect(),
            _ => d.iter().map(|b| f64::from(*b)).collect(),
        }
    }

    fn expect(&self, wanted: i32) -> Result<(), ExecutorError> {
        if self.elem == wanted {
            return Ok(());
        }
        Err(ExecutorError::Misuse(format!(
            "a {} tensor was given where {} is needed",
            elem::name(self.elem),
            elem::name(wanted)
        )))
    }
}

/// The bytes of elements. Arrays first: an iterator over single bytes does not know its length and is many times slower,
/// which every value that crosses between the worlds would feel.
pub(crate) fn bytes_of<const N: usize>(elements: impl Iterator<Item = [u8; N]>) -> Bytes {
    elements.collect::<Vec<_>>().into_flattened().into()
}

/// The product of `dims`, or `None` when it overflows.
pub(crate) fn element_count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_without_overflow() {
        assert!(Tensor::from_f32(vec![2, 3], &[0.0; 6]).is_ok());
        assert!(Tensor::from_f32(vec![2, 3], &[0.0; 5]).is_err());
        assert!(Tensor::new(elem::FLOAT, vec![usize::MAX, 2, 0], Bytes::new()).is_err());
        assert!(Tensor::new(elem::STRING, vec![0], Bytes::new()).is_err());
        assert!(Tensor::new(elem::INT64, vec![0, 4], Bytes::new()).is_ok());
    }

    #[test]
    fn values_survive_the_bytes() {
        let tensor = Tensor::from_i64(vec![2], &[i64::MIN, 7]).expect("two values");
        assert_eq!(tensor.to_i64().expect("int64"), [i64::MIN, 7]);
        assert!(tensor.to_f32().is_err());
        assert_eq!(tensor.to_f64_lossy()[1], 7.0);
    }
}
