//! A model as it is stored, for an engine to run: unchanged, or with more of its values handed out.

use crate::error::GraphError;
use crate::external;
use crate::import;
use crate::limits::Limits;
use crate::model::{Graph, ValueId};
use crate::onnx::{TypeProto, ValueInfoProto, type_proto};
use bytes::Bytes;
use prost::Message as _;
use std::collections::HashSet;
use std::path::Path;

/// A model file and the data files it names, mapped.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The encoded `ModelProto`.
    pub model: Bytes,
    /// Location, as tensors name it, and content of every data file.
    pub data: Vec<(String, Bytes)>,
}

impl ModelFile {
    /// Maps a model file and, under the same precautions as [`crate::import`], its data files.
    pub fn open(path: &Path) -> Result<Self, GraphError> {
        let model = import::map(path)?;
        let decoded = import::decode(model.clone(), &Limits::default())?;
        let data = external::locations(&decoded)?.into_iter().map(|location| {
            let (file, path) = external::open(import::directory(path), location)?;
            let content = cordon_mapped::file(&file).map_err(|error| GraphError::Io { path, error })?;
            Ok((location.to_owned(), content))
        });
        Ok(Self { data: data.collect::<Result<_, GraphError>>()?, model })
    }

    /// The model with `values` of the `graph` that was read from it among its outputs. A value that only Cordon's own
    /// reading made, of a function's body for example, is in no file: an error names it.
    pub fn with_outputs(&self, graph: &Graph, values: &[ValueId]) -> Result<Bytes, GraphError> {
        let missing: Vec<ValueId> = values.iter().copied().filter(|id| !graph.outputs.contains(id)).collect();
        if missing.is_empty() {
            return Ok(self.model.clone());
        }
        let mut model = import::decode(self.model.clone(), &Limits::default())?;
        let proto = model.graph.get_or_insert_default();
        let computed: HashSet<&str> = proto.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let absent = missing.iter().map(|id| &graph.value(*id).name).find(|name| !computed.contains(name.as_str()));
        if let Some(name) = absent {
            return Err(GraphError::Misuse(format!("no node of the file computes `{name}`")));
        }
        proto.output.extend(missing.into_iter().map(|id| {
            let value = graph.value(id);
            // No shape: the file may leave extents open that the graph has bound.
            let tensor = |elem: i32| type_proto::Tensor { elem_type: Some(elem), shape: None };
            let ty = value.ty.as_ref().map(|ty| type_proto::Value::TensorType(tensor(ty.elem.code().into())));
            ValueInfoProto {
                name: Some(value.name.clone()),
                r#type: ty.map(|ty| TypeProto { value: Some(ty), denotation: None }),
                ..ValueInfoProto::default()
            }
        }));
        Ok(model.encode_to_vec().into())
    }
}
