//! Declared types: reading them, and binding the symbolic dimensions of a model's inputs.

use crate::error::GraphError;
use crate::import::check_size;
use crate::limits::Limits;
use crate::model::ValueId;
use crate::onnx::tensor_shape_proto::dimension::Value as Dim;
use crate::onnx::{ValueInfoProto, type_proto};
use crate::tensor::TensorType;
use cordon_onnx_types::ElemType;
use std::collections::{BTreeMap, HashMap};

/// One declared dimension.
enum Extent<'a> {
    Fixed(usize),
    Symbol(&'a str),
    Open,
}

/// What symbolic dimensions were bound to.
#[derive(Default)]
pub(crate) struct Symbols {
    bound: HashMap<String, usize>,
}

impl Symbols {
    /// Types of the model's inputs with `shapes` applied; an error lists every dimension left open.
    pub(crate) fn bind(
        &mut self,
        inputs: &[(&ValueInfoProto, ValueId)],
        shapes: &BTreeMap<String, Vec<usize>>,
        limits: &Limits,
    ) -> Result<Vec<TensorType>, GraphError> {
        if let Some(unknown) = shapes.keys().find(|&name| !inputs.iter().any(|(info, _)| info.name() == name)) {
            let names: Vec<&str> = inputs.iter().map(|(info, _)| info.name()).collect();
            return Err(GraphError::Misuse(format!(
                "the model has no input `{unknown}` to give a shape to: its inputs are {}",
                names.join(", ")
            )));
        }
        for (info, _) in inputs {
            if let Some(given) = shapes.get(info.name()) {
                self.learn(info, given)?;
            }
        }
        let mut open = Vec::new();
        let mut types = Vec::new();
        for (info, _) in inputs {
            let (elem, extents) = tensor_type(info).ok_or_else(|| not_a_tensor(info))?;
            let dims = match (shapes.get(info.name()), extents) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(extents)) => extents.iter().map(|extent| self.extent(extent)).collect(),
                (None, None) => None,
            };
            match dims {
                Some(dims) => types.push(TensorType { elem, dims }),
                None => open.push(format!("`{}` {}", info.name(), describe(info))),
            }
        }
        if !open.is_empty() {
            let name = inputs.first().map(|(info, _)| info.name()).unwrap_or_default();
            return Err(GraphError::OpenShape {
                input: (*name).to_owned(),
                inputs: format!("input {}", open.join(", input ")),
            });
        }
        types.iter().try_for_each(|ty| check_size(ty, limits))?;
        Ok(types)
    }

    /// Checks a given shape against the declared one and remembers what its symbols stand for.
    fn learn(&mut self, info: &ValueInfoProto, given: &[usize]) -> Result<(), GraphError> {
        let (_, extents) = tensor_type(info).ok_or_else(|| not_a_tensor(info))?;
        let Some(extents) = extents else { return Ok(()) };
        let clash =
            || GraphError::Misuse(format!("shape {given:?} does not fit input `{}` {}", info.name(), describe(info)));
        if extents.len() != given.len() {
            return Err(clash());
        }
        for (extent, &size) in extents.iter().zip(given) {
            match extent {
                Extent::Fixed(fixed) if *fixed != size => return Err(clash()),
                Extent::Symbol(name) if *self.bound.entry((*name).to_owned()).or_insert(size) != size => {
                    return Err(GraphError::Misuse(format!(
                        "the given shapes bind `{name}` to {} and to {size}",
                        self.bound[*name]
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn extent(&self, extent: &Extent<'_>) -> Option<usize> {
        match extent {
            Extent::Fixed(size) => Some(*size),
            Extent::Symbol(name) => self.bound.get(*name).copied(),
            Extent::Open => None,
        }
    }
}

/// The declared type of a computed value, where it is a tensor whose every dimension is fixed or bound.
pub(crate) fn declared(info: &ValueInfoProto, symbols: &Symbols, limits: &Limits) -> Option<TensorType> {
    let (elem, extents) = tensor_type(info)?;
    let dims = extents?.iter().map(|extent| symbols.extent(extent)).collect::<Option<_>>()?;
    let ty = TensorType { elem, dims };
    check_size(&ty, limits).is_ok().then_some(ty)
}

/// `[batch, 3, ?, 224]`.
pub(crate) fn describe(info: &ValueInfoProto) -> String {
    match tensor_type(info) {
        None => "(not a tensor)".into(),
        Some((_, None)) => "[of any rank]".into(),
        Some((_, Some(extents))) => {
            let extents: Vec<String> = extents
                .iter()
                .map(|extent| match extent {
                    Extent::Fixed(size) => size.to_string(),
                    Extent::Symbol(name) => (*name).to_owned(),
                    Extent::Open => "?".into(),
                })
                .collect();
            format!("[{}]", extents.join(", "))
        }
    }
}

fn not_a_tensor(info: &ValueInfoProto) -> GraphError {
    GraphError::unsupported(format!("input `{}` is not a tensor of a known element type", info.name()))
}

fn tensor_type(info: &ValueInfoProto) -> Option<(ElemType, Option<Vec<Extent<'_>>>)> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref() else { return None };
    let elem = ElemType::from_code(tensor.elem_type.unwrap_or(0))?;
    let extents = tensor.shape.as_ref().map(|shape| {
        let extents = shape.dim.iter().map(|dim| match &dim.value {
            // Some exporters write -1 for an open dimension.
            Some(Dim::DimValue(size)) => usize::try_from(*size).map_or(Extent::Open, Extent::Fixed),
            Some(Dim::DimParam(name)) if !name.is_empty() => Extent::Symbol(name),
            _ => Extent::Open,
        });
        extents.collect()
    });
    Some((elem, extents))
}
