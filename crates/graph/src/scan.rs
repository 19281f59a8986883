//! A walk over the protobuf wire format that adds up what decoding would allocate, before anything is allocated.
//!
//! An empty repeated message takes two bytes in the file and hundreds in memory, so a small hostile file could ask for
//! all of it. The walk reads field headers only, never tensor data, so it leaves a mapped file's pages untouched.

use crate::error::GraphError;
use crate::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto,
    ValueInfoProto,
};

/// Nesting that prost accepts; deeper files fail here with a named error first.
const DEPTH: usize = 96;
/// `Bytes`, `String` and `Vec` headers are at most this large.
const HEADER: u64 = 32;
/// A vector that grows by doubling holds up to twice its elements.
const GROWTH: u64 = 2;

/// Message types, as far as their fields matter for the walk.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    /// `TypeProto.Sequence`, `.Map` or `.Optional`: field 1 or 2 is a type.
    TypeOf,
    TensorType,
    Shape,
    Function,
    Training,
    Annotation,
    /// Strings and integers only.
    Leaf,
    /// Nested in ways that do not matter here: charged by its length.
    Other,
}

impl Kind {
    /// The message type of `field`, unless it holds bytes or text.
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 8 | 14) => Self::Leaf,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Model, 26) | (Self::Node, 10) => Self::Other,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) => Self::Tensor,
            (Self::Graph, 11..=13) | (Self::Function, 12) => Self::ValueInfo,
            (Self::Graph, 14) => Self::Annotation,
            (Self::Graph, 15) => Self::Sparse,
            (Self::Graph, 16) | (Self::Node, 9) => Self::Leaf,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Attribute, 14 | 15) | (Self::ValueInfo, 2) | (Self::TypeOf, 1 | 2) => Self::Type,
            (Self::Tensor, 3 | 13 | 16) | (Self::ValueInfo, 4) | (Self::Training, 3 | 4) => Self::Leaf,
            (Self::Type, 1 | 8) => Self::TensorType,
            (Self::Type, 4 | 5 | 9) => Self::TypeOf,
            (Self::Type, 7) | (Self::Shape, 1) | (Self::Function, 9 | 14) | (Self::Annotation, 2) => Self::Leaf,
            (Self::TensorType, 2) => Self::Shape,
            _ => return None,
        })
    }

    fn size(self) -> u64 {
        let size = match self {
            Self::Model => size_of::<ModelProto>(),
            Self::Graph => size_of::<GraphProto>(),
            Self::Node => size_of::<NodeProto>(),
            Self::Attribute => size_of::<AttributeProto>(),
            Self::Tensor => size_of::<TensorProto>(),
            Self::Sparse => size_of::<SparseTensorProto>(),
            Self::ValueInfo => size_of::<ValueInfoProto>(),
            Self::Function => size_of::<FunctionProto>(),
            Self::Training => 2 * size_of::<GraphProto>() + 64,
            Self::Type | Self::TypeOf | Self::TensorType | Self::Shape | Self::Annotation | Self::Leaf => {
                size_of::<TypeProto>().max(96)
            }
            Self::Other => 128,
        };
        size as u64
    }

    /// Whether a length-delimited field is kept as a view of the file (tensor and string data) instead of copied text.
    fn is_view(self, field: u64) -> bool {
        matches!((self, field), (Self::Tensor, 4..=7 | 9..=11) | (Self::Attribute, 4 | 9))
    }
}

/// Checks that a `ModelProto` is well-formed on the wire and decodes within `limit` bytes of structure.
pub(crate) fn model(bytes: &[u8], limit: u64) -> Result<(), GraphError> {
    Scan { left: limit, limit }.message(bytes, Kind::Model, 0)
}

/// The same for a lone `TensorProto`.
pub(crate) fn tensor(bytes: &[u8], limit: u64) -> Result<(), GraphError> {
    Scan { left: limit, limit }.message(bytes, Kind::Tensor, 0)
}

struct Scan {
    left: u64,
    limit: u64,
}

impl Scan {
    fn message(&mut self, mut bytes: &[u8], kind: Kind, depth: usize) -> Result<(), GraphError> {
        if depth > DEPTH {
            return Err(GraphError::limit(format!("messages are nested more than {DEPTH} deep")));
        }
        self.charge(kind.size().saturating_mul(GROWTH))?;
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let field = tag >> 3;
            if field == 0 || field > 0x1fff_ffff {
                return Err(GraphError::malformed("not an ONNX file: a field has an impossible number"));
            }
            match tag & 7 {
                0 => {
                    varint(&mut bytes)?;
                    self.charge(8 * GROWTH)?;
                }
                1 => {
                    take(&mut bytes, 8)?;
                    self.charge(8 * GROWTH)?;
                }
                5 => {
                    take(&mut bytes, 4)?;
                    self.charge(4 * GROWTH)?;
                }
                2 => {
                    let length = varint(&mut bytes)?;
                    let content = take(&mut bytes, length)?;
                    self.delimited(content, kind, field, depth)?;
                }
                wire => return Err(GraphError::malformed(format!("not an ONNX file: wire type {wire}"))),
            }
        }
        Ok(())
    }

    fn delimited(&mut self, content: &[u8], kind: Kind, field: u64, depth: usize) -> Result<(), GraphError> {
        if kind == Kind::Other {
            return Ok(());
        }
        match kind.child(field) {
            Some(Kind::Other) => self.charge((content.len() as u64).saturating_mul(64)),
            Some(child) => self.message(content, child, depth + 1),
            None if kind.is_view(field) => self.charge(HEADER * GROWTH),
            // Text is copied; a packed list of integers grows up to eightfold.
            None => self.charge((content.len() as u64).saturating_mul(8).saturating_add(HEADER * GROWTH)),
        }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), GraphError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            GraphError::limit(format!("its structure would take more than {} bytes of memory", self.limit))
        })?;
        Ok(())
    }
}

/// Reads a varint off the front.
pub(crate) fn varint(bytes: &mut &[u8]) -> Result<u64, GraphError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            if i == 9 && byte > 1 {
                break;
            }
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(GraphError::malformed("a variable-length integer is cut off or too long"))
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], GraphError> {
    let length = usize::try_from(length).ok().filter(|&length| length <= bytes.len());
    let length = length.ok_or_else(|| GraphError::malformed("a field is longer than the file: truncated?"))?;
    let (content, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn bounds_what_empty_messages_ask_for() {
        let node = NodeProto::default();
        let graph = GraphProto { node: vec![node; 10_000], ..Default::default() };
        let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        assert!(bytes.len() < 32_000);
        assert!(matches!(model(&bytes, 1 << 20), Err(GraphError::Limit(_))));
        model(&bytes, 1 << 30).unwrap();
    }

    #[test]
    fn refuses_broken_wire_data() {
        for bytes in [&[0xff; 11][..], &[0x3a, 0x05, 0x00], &[0x3b], &[0x02, 0x00], &[0x3a]] {
            assert!(matches!(model(bytes, 1 << 20), Err(GraphError::Malformed(_))), "{bytes:?}");
        }
    }

    #[test]
    fn refuses_deep_nesting() {
        let mut graph = GraphProto::default();
        for _ in 0..60 {
            let attribute = AttributeProto { g: Some(Box::new(graph)), ..Default::default() };
            let node = NodeProto { attribute: vec![attribute], ..Default::default() };
            graph = GraphProto { node: vec![node], ..Default::default() };
        }
        let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        assert!(matches!(model(&bytes, 1 << 30), Err(GraphError::Limit(_))));
    }
}
