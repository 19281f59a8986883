//! `TensorProto` and `AttributeProto` to [`Tensor`] and [`Attribute`], every size checked.

use crate::error::GraphError;
use crate::external::{External, Reference};
use crate::limits::Limits;
use crate::model::Attribute;
use crate::onnx::attribute_proto::AttributeType;
use crate::onnx::tensor_proto::DataLocation;
use crate::onnx::{AttributeProto, GraphProto, TensorProto};
use crate::scan;
use crate::tensor::Tensor;
use crate::tensor::count;
use bytes::Bytes;
use cordon_onnx_types::ElemType;
use prost::Message as _;

/// Reads tensors of one model.
pub(crate) struct Decoder<'a> {
    pub(crate) external: External,
    pub(crate) limits: &'a Limits,
}

impl Decoder<'_> {
    /// A tensor; data kept raw in the file stays a view of it.
    pub(crate) fn tensor(&mut self, proto: &TensorProto) -> Result<Tensor, GraphError> {
        self.tensor_inner(proto).map_err(|error| {
            let name = proto.name();
            match error {
                GraphError::Malformed(f) => GraphError::malformed(format!("tensor `{name}`: {}", f.what)),
                GraphError::Unsupported(f) => GraphError::unsupported(format!("tensor `{name}`: {}", f.what)),
                GraphError::Limit(f) => GraphError::limit(format!("tensor `{name}`: {}", f.what)),
                other => other,
            }
        })
    }

    fn tensor_inner(&mut self, proto: &TensorProto) -> Result<Tensor, GraphError> {
        let code = proto.data_type.unwrap_or(0);
        let elem = ElemType::from_code(code)
            .ok_or_else(|| GraphError::unsupported(format!("element type {code} is not known")))?;
        if proto.segment.is_some() {
            return Err(GraphError::unsupported("it is split into segments"));
        }
        if proto.dims.len() > self.limits.rank {
            return Err(GraphError::limit(format!("it has {} extents", proto.dims.len())));
        }
        let dims: Option<Vec<usize>> = proto.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let dims = dims.ok_or_else(|| GraphError::malformed(format!("extents {:?} are not sizes", proto.dims)))?;
        let elements =
            count(&dims).ok_or_else(|| GraphError::malformed(format!("the product of extents {dims:?} overflows")))?;
        if elem == ElemType::String {
            return strings(proto, dims, elements);
        }
        let size = elem.packed_bytes(elements).filter(|&size| size <= self.limits.tensor_bytes).ok_or_else(|| {
            GraphError::limit(format!("extents {dims:?} need more than {} bytes", self.limits.tensor_bytes))
        })?;
        let data = self.data(proto, elem, elements, size)?;
        Ok(Tensor::new(elem, dims, data)?)
    }

    fn data(&mut self, proto: &TensorProto, elem: ElemType, elements: u64, size: u64) -> Result<Bytes, GraphError> {
        let typed = [
            &proto.float_data,
            &proto.int32_data,
            &proto.int64_data,
            &proto.double_data,
            &proto.uint64_data,
            &proto.raw_data,
        ];
        let given: Vec<&Bytes> = typed.into_iter().flatten().filter(|data| !data.is_empty()).collect();
        if proto.data_location() == DataLocation::External {
            if !given.is_empty() {
                return Err(GraphError::malformed("its data is both in the model and in another file"));
            }
            return self.external.read(&Reference::read(proto)?, size);
        }
        if given.len() > 1 || !proto.string_data.is_empty() {
            return Err(GraphError::malformed("its data is given in more than one field"));
        }
        let raw = proto.raw_data.as_ref().filter(|data| !data.is_empty());
        if let Some(raw) = raw {
            return Ok(raw.clone());
        }
        let field = match elem {
            ElemType::Float | ElemType::Complex64 => &proto.float_data,
            ElemType::Double | ElemType::Complex128 => &proto.double_data,
            ElemType::Int64 => &proto.int64_data,
            ElemType::Uint32 | ElemType::Uint64 => &proto.uint64_data,
            _ => &proto.int32_data,
        };
        let field = field.clone().unwrap_or_default();
        if field.is_empty() && !given.is_empty() {
            return Err(GraphError::malformed(format!("its data is in a field not meant for {elem}")));
        }
        match elem {
            ElemType::Float | ElemType::Complex64 | ElemType::Double | ElemType::Complex128 => Ok(field),
            // Sub-byte types are stored as packed bytes, one byte an entry.
            _ if elem.bits() < Some(8) => varints(&field, size, 1, ElemType::Uint8),
            _ => varints(&field, elements, size.checked_div(elements).unwrap_or(0) as usize, elem),
        }
    }

    /// An attribute of a node outside of any function.
    pub(crate) fn attribute(&mut self, mut proto: AttributeProto) -> Result<Attribute, GraphError> {
        let name = proto.name().to_owned();
        if !proto.ref_attr_name().is_empty() {
            return Err(GraphError::malformed(format!("attribute `{name}` refers to a function's attribute")));
        }
        let missing = || GraphError::malformed(format!("attribute `{name}` lacks its value"));
        let code = proto.r#type.unwrap_or(0);
        Ok(match AttributeType::try_from(code) {
            // A default value may be left out on the wire (proto3 writers do).
            Ok(AttributeType::Float) => Attribute::Float(proto.f.unwrap_or(0.0)),
            Ok(AttributeType::Int) => Attribute::Int(proto.i.unwrap_or(0)),
            Ok(AttributeType::String) => Attribute::String(proto.s.take().unwrap_or_default()),
            Ok(AttributeType::Tensor) => Attribute::Tensor(self.tensor(proto.t.as_deref().ok_or_else(missing)?)?),
            Ok(AttributeType::Floats) => Attribute::Floats(proto.floats),
            Ok(AttributeType::Ints) => Attribute::Ints(proto.ints),
            Ok(AttributeType::Strings) => Attribute::Strings(proto.strings),
            Ok(AttributeType::Undefined) | Err(_) => {
                return Err(GraphError::malformed(format!("attribute `{name}` has type {code}")));
            }
            Ok(AttributeType::Graph) if proto.g.is_none() => return Err(missing()),
            Ok(_) => {
                self.make_self_contained(&mut proto)?;
                Attribute::Opaque(Bytes::from(proto.encode_to_vec()))
            }
        })
    }

    /// Checks every tensor of an attribute that stays encoded and takes in data kept in other files, since the
    /// attribute may be written into a model elsewhere.
    fn make_self_contained(&mut self, proto: &mut AttributeProto) -> Result<(), GraphError> {
        let sparse = proto.sparse_tensors.iter_mut().chain(proto.sparse_tensor.as_deref_mut());
        let parts = sparse.flat_map(|sparse| sparse.values.iter_mut().chain(&mut sparse.indices));
        for tensor in proto.tensors.iter_mut().chain(proto.t.as_deref_mut()).chain(parts) {
            self.take_in(tensor)?;
        }
        for graph in proto.graphs.iter_mut().chain(proto.g.as_deref_mut()) {
            self.take_in_graph(graph)?;
        }
        Ok(())
    }

    fn take_in_graph(&mut self, graph: &mut GraphProto) -> Result<(), GraphError> {
        for tensor in &mut graph.initializer {
            self.take_in(tensor)?;
        }
        for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
            self.make_self_contained(attribute)?;
        }
        Ok(())
    }

    fn take_in(&mut self, proto: &mut TensorProto) -> Result<(), GraphError> {
        let tensor = self.tensor(proto)?;
        if proto.data_location() == DataLocation::External {
            proto.external_data.clear();
            proto.data_location = None;
            proto.raw_data = Some(tensor.data);
        }
        Ok(())
    }
}

/// A string tensor: its data is the encoded `string_data` records, which only an executor reads.
fn strings(proto: &TensorProto, dims: Vec<usize>, elements: u64) -> Result<Tensor, GraphError> {
    if proto.string_data.len() as u64 != elements || proto.raw_data.is_some() {
        return Err(GraphError::malformed(format!("{} strings for extents {dims:?}", proto.string_data.len())));
    }
    let records = TensorProto { string_data: proto.string_data.clone(), ..Default::default() };
    Ok(Tensor { elem: ElemType::String, dims, data: Bytes::from(records.encode_to_vec()) })
}

/// Packed varints to `width` little-endian bytes each.
fn varints(field: &Bytes, count: u64, width: usize, elem: ElemType) -> Result<Bytes, GraphError> {
    // Every varint takes at least one byte, so the allocation is bounded by eight times the field.
    if count > field.len() as u64 {
        return Err(GraphError::malformed("it has fewer elements than its extents need"));
    }
    let mut rest = &field[..];
    let mut data = Vec::with_capacity(count as usize * width);
    for _ in 0..count {
        let value = scan::varint(&mut rest)?;
        if !fits(value, width, elem) {
            return Err(GraphError::malformed(format!("an element does not fit {elem}")));
        }
        data.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    match rest.is_empty() {
        true => Ok(Bytes::from(data)),
        false => Err(GraphError::malformed("it has more elements than its extents need")),
    }
}

/// Whether a varint holds a value of `width` bytes. Negative numbers are sign-extended to 64 bits on the wire.
fn fits(value: u64, width: usize, elem: ElemType) -> bool {
    if width == 8 {
        return true;
    }
    let bits = 8 * width as u32;
    let signed = value as i64;
    match elem {
        ElemType::Bool => value <= 1,
        ElemType::Int8 | ElemType::Int16 | ElemType::Int32 => {
            signed >= -(1i64 << (bits - 1)) && signed < 1i64 << (bits - 1)
        }
        _ => value < 1u64 << bits,
    }
}
