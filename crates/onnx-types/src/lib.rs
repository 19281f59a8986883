//! ONNX's element types: the one vocabulary of the package format, graphs, executors and the command line.
//!
//! The trusted engine computes on fewer types than ONNX has; its `DType` says which, and `Stored` how it keeps weights.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

use core::fmt;

/// The element types with their ONNX codes, Rust names, ONNX names and sizes in bits: one list for every conversion.
macro_rules! elem_types {
    ($($code:literal $variant:ident $name:literal $bits:expr;)*) => {
        /// ONNX element type, with the codes of `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are ONNX's own")]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum ElemType {
            $($variant = $code,)*
        }

        impl ElemType {
            /// Every element type, in the order of the codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type behind a `TensorProto.DataType` code; `None` for 0 (undefined) and codes ONNX has not given out.
            pub const fn from_code(code: i32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The `TensorProto.DataType` code.
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $code,)*
                }
            }

            /// ONNX's name in lower case, as in `tensor(float16)`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Bits of one element; `None` for strings, whose elements have no fixed size.
            pub const fn bits(self) -> Option<u64> {
                match self {
                    $(Self::$variant => $bits,)*
                }
            }
        }
    };
}

elem_types! {
    1 Float "float" Some(32);
    2 Uint8 "uint8" Some(8);
    3 Int8 "int8" Some(8);
    4 Uint16 "uint16" Some(16);
    5 Int16 "int16" Some(16);
    6 Int32 "int32" Some(32);
    7 Int64 "int64" Some(64);
    8 String "string" None;
    9 Bool "bool" Some(8);
    10 Float16 "float16" Some(16);
    11 Double "double" Some(64);
    12 Uint32 "uint32" Some(32);
    13 Uint64 "uint64" Some(64);
    14 Complex64 "complex64" Some(64);
    15 Complex128 "complex128" Some(128);
    16 Bfloat16 "bfloat16" Some(16);
    17 Float8E4M3Fn "float8e4m3fn" Some(8);
    18 Float8E4M3Fnuz "float8e4m3fnuz" Some(8);
    19 Float8E5M2 "float8e5m2" Some(8);
    20 Float8E5M2Fnuz "float8e5m2fnuz" Some(8);
    21 Uint4 "uint4" Some(4);
    22 Int4 "int4" Some(4);
    23 Float4E2M1 "float4e2m1" Some(4);
    24 Float8E8M0 "float8e8m0" Some(8);
    25 Uint2 "uint2" Some(2);
    26 Int2 "int2" Some(2);
}

impl ElemType {
    /// Bytes of `count` elements packed as ONNX packs them; `None` on overflow or for strings.
    pub fn packed_bytes(self, count: u64) -> Option<u64> {
        Some(self.bits()?.checked_mul(count)?.div_ceil(8))
    }

    /// Bytes of one element of a type that may pass between segments, and into and out of a model: numbers of 1, 2, 4 or
    /// 8 whole bytes that engines compute on, and booleans. `None` for all others.
    pub const fn crossing_bytes(self) -> Option<u8> {
        match self {
            Self::Uint8 | Self::Int8 | Self::Bool => Some(1),
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => Some(2),
            Self::Float | Self::Int32 | Self::Uint32 => Some(4),
            Self::Int64 | Self::Uint64 | Self::Double => Some(8),
            _ => None,
        }
    }
}

impl fmt::Display for ElemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_onnx_s_and_round_trip() {
        for (code, elem) in (1..).zip(ElemType::ALL) {
            assert_eq!((ElemType::from_code(code), i32::from(elem.code())), (Some(*elem), code));
        }
        assert_eq!(ElemType::ALL.len(), 26);
        for code in [i32::MIN, -1, 0, 27, 1 + 256] {
            assert_eq!(ElemType::from_code(code), None, "{code}");
        }
    }

    #[test]
    fn small_elements_pack_as_onnx_packs_them() {
        assert_eq!(ElemType::Int4.packed_bytes(3), Some(2));
        assert_eq!(ElemType::Uint2.packed_bytes(5), Some(2));
        assert_eq!(ElemType::Double.packed_bytes(u64::MAX), None);
        assert_eq!(ElemType::String.packed_bytes(1), None);
    }

    #[test]
    fn what_crosses_has_its_size_in_whole_bytes() {
        let crossing = ElemType::ALL.iter().filter_map(|elem| Some((elem, elem.crossing_bytes()?)));
        let mut count = 0;
        for (elem, bytes) in crossing {
            assert_eq!(elem.bits(), Some(8 * u64::from(bytes)), "{elem}");
            count += 1;
        }
        assert_eq!(count, 13);
        for elem in [ElemType::String, ElemType::Complex64, ElemType::Float8E5M2, ElemType::Int4] {
            assert_eq!(elem.crossing_bytes(), None, "{elem}");
        }
    }
}
