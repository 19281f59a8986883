//! Single messages of the ONNX format: what a model declares, and a tensor in a file of its own (`.pb`).

use crate::decode::Decoder;
use crate::error::GraphError;
use crate::export::tensor_proto;
use crate::external::External;
use crate::import::decode;
use crate::limits::Limits;
use crate::onnx::{TensorProto, ValueInfoProto, type_proto};
use crate::scan;
use crate::tensor::Tensor;
use bytes::Bytes;
use cordon_onnx_types::ElemType;
use prost::Message as _;
use std::collections::BTreeMap;

/// Names and element types of a model's inputs or outputs, in the file's order; no type for what is no tensor.
pub type Declared = Vec<(String, Option<ElemType>)>;

/// What a serialised `ModelProto` declares: its inputs, then its outputs. The rest of the model is not looked at.
pub fn signature(model: Bytes) -> Result<(Declared, Declared), GraphError> {
    let graph = decode(model, &Limits::default())?.graph;
    let graph = graph.ok_or_else(|| GraphError::malformed("the model has no graph"))?;
    Ok((graph.input.iter().map(declared).collect(), graph.output.iter().map(declared).collect()))
}

fn declared(info: &ValueInfoProto) -> (String, Option<ElemType>) {
    let elem = match info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor.elem_type.and_then(ElemType::from_code),
        _ => None,
    };
    (info.name().to_owned(), elem)
}

/// Reads a serialised `TensorProto` whose data is inside: its name and the tensor.
pub fn read_tensor(message: Bytes) -> Result<(String, Tensor), GraphError> {
    let limits = Limits::default();
    scan::tensor(&message, limits.structure_bytes)?;
    let proto = TensorProto::decode(message).map_err(|e| GraphError::malformed(format!("not an ONNX tensor: {e}")))?;
    let nowhere = BTreeMap::new();
    let mut decoder = Decoder { external: External::new(None, &nowhere), limits: &limits };
    let tensor = decoder.tensor(&proto)?;
    Ok((proto.name().to_owned(), tensor))
}

/// Serialises a tensor as a `TensorProto` with its data inside.
pub fn write_tensor(name: &str, tensor: &Tensor) -> Vec<u8> {
    TensorProto { name: Some(name.to_owned()), ..tensor_proto(tensor) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_a_round_trip() {
        let tensor = Tensor::from_i64([1, 3], &[-1, 0, i64::MAX]).expect("three values");
        let (name, back) = read_tensor(write_tensor("x", &tensor).into()).expect("own output");
        assert_eq!((name.as_str(), back), ("x", tensor));
    }

    #[test]
    fn typed_fields_are_read_in_any_order() {
        // dims 2, int32_data 1 and -2, then data_type int32.
        let mut bytes = vec![0x08, 2, 0x2a, 11, 1];
        prost::encoding::encode_varint((-2i64).cast_unsigned(), &mut bytes);
        bytes.extend([0x10, 6]);
        assert_eq!(read_tensor(bytes.into()).expect("valid").1.to_i64().expect("int32"), [1, -2]);
        // data_type float, one packed float_data.
        let bytes = [[0x08, 1, 0x10, 1, 0x22, 4], [0, 0, 0xc0, 0x3f, 0x42, 0]].concat();
        assert_eq!(read_tensor(bytes.into()).expect("valid").1.to_f32().expect("float"), [1.5]);
    }

    #[test]
    fn every_truncation_and_every_flip_is_an_error_or_a_tensor() {
        let tensor = Tensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 4.0]).expect("four values");
        let good = write_tensor("weights", &tensor);
        for end in 0..good.len() {
            assert!(read_tensor(good[..end].to_vec().into()).is_err(), "cut at {end}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok((_, read)) = read_tensor(bad.into())
                    && read.elem != ElemType::String
                {
                    assert_eq!(read.elem.packed_bytes(read.elements()), Some(read.data.len() as u64));
                }
            }
        }
    }

    #[test]
    fn data_in_another_file_is_refused() {
        let external = [0x08, 1, 0x10, 1, 0x70, 1];
        assert!(read_tensor(external.to_vec().into()).is_err());
    }
}
