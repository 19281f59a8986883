//! As much of protobuf as tensors and a graph's signature need: a bounded reader and a `TensorProto` writer.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{ExecutorError, Tensor, elem, tensor::element_count};

/// One field of a message.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

/// The fields of one message in file order. Lengths are checked against what is left before anything is read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, ExecutorError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(*self.0.split_off_first_chunk()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| truncated())?;
                Field::Bytes(self.0.split_off(..length).ok_or_else(truncated)?)
            }
            5 => Field::Fixed32(*self.0.split_off_first_chunk()?),
            other => return Err(ExecutorError::Malformed(format!("protobuf wire type {other}"))),
        };
        Ok(Some((key >> 3, field)))
    }

    fn varint(&mut self) -> Result<u64, ExecutorError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.split_off_first().ok_or_else(truncated)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ExecutorError::Malformed("protobuf number of more than ten bytes".into()))
    }
}

trait SplitOffFirstChunk {
    fn split_off_first_chunk<const N: usize>(&mut self) -> Result<&[u8; N], ExecutorError>;
}

impl SplitOffFirstChunk for &[u8] {
    fn split_off_first_chunk<const N: usize>(&mut self) -> Result<&[u8; N], ExecutorError> {
        let (first, rest) = self.split_first_chunk().ok_or_else(truncated)?;
        *self = rest;
        Ok(first)
    }
}

fn truncated() -> ExecutorError {
    ExecutorError::Malformed("the protobuf message ends too early".into())
}

/// Names and element types of the graph outputs of a serialised `ModelProto`.
pub(crate) fn output_types(model: &[u8]) -> Result<HashMap<String, i32>, ExecutorError> {
    let mut types = HashMap::new();
    for graph in messages(model, 7)? {
        for output in messages(graph, 12)? {
            let Some(name) = messages(output, 1)?.pop() else { continue };
            let elem = messages(output, 2)?.pop().map(tensor_elem).transpose()?.unwrap_or(0);
            types.insert(String::from_utf8_lossy(name).into_owned(), elem);
        }
    }
    Ok(types)
}

/// Names of the graph's inputs and outputs of a serialised `ModelProto`, in the file's order.
pub fn interface(model: &[u8]) -> Result<(Vec<String>, Vec<String>), ExecutorError> {
    let names = |number| {
        let mut names = Vec::new();
        for graph in messages(model, 7)? {
            for value in messages(graph, number)? {
                let name = messages(value, 1)?.pop().unwrap_or_default();
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        Ok(names)
    };
    Ok((names(11)?, names(12)?))
}

/// The element type of a `TypeProto`, 0 when it is no tensor.
fn tensor_elem(type_proto: &[u8]) -> Result<i32, ExecutorError> {
    let Some(tensor) = messages(type_proto, 1)?.pop() else { return Ok(0) };
    let mut fields = Fields(tensor);
    let mut elem = 0;
    while let Some((number, field)) = fields.next()? {
        if let (1, Field::Varint(code)) = (number, field) {
            elem = i32::try_from(code).unwrap_or(0);
        }
    }
    Ok(elem)
}

/// Every length-delimited field `number` of a message.
fn messages(message: &[u8], number: u64) -> Result<Vec<&[u8]>, ExecutorError> {
    let mut fields = Fields(message);
    let mut found = Vec::new();
    while let Some((n, field)) = fields.next()? {
        if let (true, Field::Bytes(bytes)) = (n == number, field) {
            found.push(bytes);
        }
    }
    Ok(found)
}

/// Reads a serialised `TensorProto` whose data is inside: its name and the tensor.
pub(crate) fn read_tensor(message: &[u8]) -> Result<(String, Tensor), ExecutorError> {
    let mut name = String::new();
    let (mut code, mut external) = (0, false);
    let mut dims = Vec::new();
    let mut raw: Option<&[u8]> = None;
    let mut typed = Vec::new();
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Varint(d)) => dims.push(d),
            (1, Field::Bytes(packed)) => dims.extend(varints(packed)?),
            (2, Field::Varint(c)) => code = i32::try_from(c).unwrap_or(0),
            (8, Field::Bytes(text)) => name = String::from_utf8_lossy(text).into_owned(),
            (9, Field::Bytes(bytes)) => raw = Some(bytes),
            (14, Field::Varint(location)) => external = location != 0,
            // float_data and double_data are fixed-width on the wire and already in our byte order.
            (4 | 10, Field::Bytes(packed)) => typed.extend_from_slice(packed),
            (4, Field::Fixed32(bytes)) => typed.extend_from_slice(&bytes),
            (10, Field::Fixed64(bytes)) => typed.extend_from_slice(&bytes),
            (5 | 7 | 11, Field::Varint(value)) => push_integer(&mut typed, code, value),
            (5 | 7 | 11, Field::Bytes(packed)) => {
                varints(packed)?.into_iter().for_each(|v| push_integer(&mut typed, code, v));
            }
            _ => {}
        }
    }
    if external {
        return Err(ExecutorError::Unsupported(format!("tensor `{name}` keeps its data in another file")));
    }
    let dims: Option<Vec<usize>> = dims.into_iter().map(|d| usize::try_from(d).ok()).collect();
    let dims = dims
        .filter(|d| element_count(d).is_some())
        .ok_or_else(|| ExecutorError::Malformed(format!("tensor `{name}` has impossible dimensions")))?;
    let data = raw.map_or_else(|| Bytes::from(typed), Bytes::copy_from_slice);
    Tensor::new(code, dims, data).map(|tensor| (name, tensor))
}

/// `int32_data` also carries every narrower type, so only the low bytes of each number count.
///
/// The type code precedes the data in every file a protobuf library writes; a file in another order fails the length
/// check instead of being read wrongly.
fn push_integer(out: &mut Vec<u8>, code: i32, value: u64) {
    let size = elem::size(code).unwrap_or(0);
    out.extend_from_slice(&value.to_le_bytes()[..size]);
}

fn varints(packed: &[u8]) -> Result<Vec<u64>, ExecutorError> {
    let mut fields = Fields(packed);
    let mut values = Vec::new();
    while !fields.0.is_empty() {
        values.push(fields.varint()?);
    }
    Ok(values)
}

/// Serialises a tensor as `TensorProto` with raw data.
pub(crate) fn write_tensor(name: &str, tensor: &Tensor) -> Vec<u8> {
    let mut out = Vec::with_capacity(tensor.data.len() + 64);
    for dim in &tensor.dims {
        put_varint(&mut out, 1 << 3);
        put_varint(&mut out, *dim as u64);
    }
    put_varint(&mut out, 2 << 3);
    put_varint(&mut out, u64::from(tensor.elem.cast_unsigned()));
    put_bytes(&mut out, 8, name.as_bytes());
    put_bytes(&mut out, 9, &tensor.data);
    out
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_a_round_trip() {
        let tensor = Tensor::from_i64(vec![1, 3], &[-1, 0, i64::MAX]).expect("three values");
        let (name, back) = read_tensor(&write_tensor("x", &tensor)).expect("own output");
        assert_eq!((name.as_str(), back), ("x", tensor));
    }

    #[test]
    fn typed_fields_are_read_packed_and_not() {
        // dims 2, data_type int32, int32_data 1 and -2 as separate fields.
        let mut bytes = vec![0x08, 2, 0x10, 6, 0x28, 1, 0x28];
        put_varint(&mut bytes, (-2i64).cast_unsigned());
        assert_eq!(read_tensor(&bytes).expect("valid").1.to_i64().expect("int32"), [1, -2]);
        // data_type float, one packed float_data.
        let mut bytes = vec![0x08, 1, 0x10, 1, 0x22, 4];
        bytes.extend_from_slice(&1.5f32.to_le_bytes());
        assert_eq!(read_tensor(&bytes).expect("valid").1.to_f32().expect("float"), [1.5]);
    }

    #[test]
    fn every_truncation_and_every_flip_is_an_error_or_a_tensor() {
        let tensor = Tensor::from_f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).expect("four values");
        let good = write_tensor("weights", &tensor);
        for end in 0..good.len() {
            assert!(read_tensor(&good[..end]).is_err(), "cut at {end}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok((_, read)) = read_tensor(&bad) {
                    assert_eq!(read.data.len(), read.len() * elem::size(read.elem).expect("known type"));
                }
            }
        }
    }
}
