//! Reading the official node tests: `NAME/model.onnx` and `NAME/test_data_set_K/{input,output}_I.pb`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cordon_executor::{ElemType, Tensor, files};
use cordon_graph::onnx::{GraphProto, ModelProto, NodeProto, TypeProto, type_proto};
use cordon_lower::{Bytes, supported};
use prost::Message as _;

/// One node test.
pub struct Case {
    /// The folder's name, `test_…`.
    pub name: String,
    /// The model as stored.
    pub model: ModelProto,
    folder: PathBuf,
}

/// Inputs and expected outputs of one run, in the order of the graph's signature.
pub struct DataSet {
    /// Named inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// Named outputs.
    pub outputs: Vec<(String, Tensor)>,
}

/// Every test under `folder`, by name.
pub fn all(folder: &Path) -> Result<Vec<Case>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut cases = Vec::new();
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let path = folder.join("model.onnx");
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let model = ModelProto::decode(bytes.as_slice()).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cases.push(Case { name, model, folder });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    /// The graph; empty in a broken model.
    pub fn graph(&self) -> GraphProto {
        self.model.graph.clone().unwrap_or_default()
    }

    /// Operators by name, those inside subgraphs included; foreign ones with their domain.
    pub fn operators(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.model.graph.iter().for_each(|graph| operators(graph, &mut found));
        found
    }

    /// The test's only node, if it has one.
    pub fn only_node(&self) -> Option<&NodeProto> {
        match self.model.graph.as_ref()?.node.as_slice() {
            [node] => Some(node),
            _ => None,
        }
    }

    /// Every run of the test.
    pub fn data_sets(&self) -> Result<Vec<DataSet>, String> {
        let graph = self.graph();
        let inputs: Vec<String> = graph.input.iter().map(|info| info.name().to_owned()).collect();
        let outputs: Vec<String> = graph.output.iter().map(|info| info.name().to_owned()).collect();
        let mut sets = Vec::new();
        while self.folder.join(format!("test_data_set_{}", sets.len())).is_dir() {
            let folder = self.folder.join(format!("test_data_set_{}", sets.len()));
            sets.push(DataSet {
                inputs: read(&folder, "input", &inputs)?,
                outputs: read(&folder, "output", &outputs)?,
            });
        }
        Ok(sets)
    }

    /// Why the trusted engine does not owe this test a pass, when the model itself shows it.
    pub fn out_of_scope(&self) -> Option<Reason> {
        let graph = self.graph();
        let mut types = graph.input.iter().chain(&graph.output).filter_map(|info| info.r#type.as_ref());
        let constants = graph.initializer.iter().map(|tensor| tensor.data_type());
        let inner = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|a| Some(a.t.as_ref()?.data_type()));
        let attribute =
            |name: &str| graph.node.iter().flat_map(|node| &node.attribute).find(|a| a.name() == name).cloned();
        if types.clone().any(|ty| elem_of(ty).is_none()) {
            return Some(Reason::Sequence);
        }
        let quantising: Vec<_> = supported().filter(|entry| entry.facts.bytes != Bytes::No).collect();
        let quantised = graph.node.iter().all(|node| quantising.iter().any(|entry| entry.op_type == node.op_type()));
        let trusted = |code: i32| ElemType::from_code(code).is_some_and(|elem| is_trusted(elem, quantised));
        if types.any(|ty| !elem_of(ty).is_some_and(trusted)) || constants.chain(inner).any(|code| !trusted(code)) {
            return Some(Reason::Dtype);
        }
        if attribute("training_mode").is_some_and(|a| a.i() != 0) || self.trains() {
            return Some(Reason::Training);
        }
        let cubic = attribute("mode").is_some_and(|a| a.s() == b"cubic");
        if cubic || attribute("antialias").is_some_and(|a| a.i() != 0) {
            return Some(Reason::CubicOrAntialias);
        }
        None
    }

    /// Dropout takes its mode as an input from opset 12 on: the third, true in training.
    fn trains(&self) -> bool {
        let Some(node) = self.only_node().filter(|node| node.op_type() == "Dropout") else { return false };
        let Some(mode) = node.input.get(2).filter(|name| !name.is_empty()) else { return false };
        let sets = self.data_sets().unwrap_or_default();
        sets.iter().flat_map(|set| &set.inputs).any(|(name, t)| name == mode && t.data.iter().any(|b| *b != 0))
    }
}

/// Why a test is skipped. These four and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A tensor that is neither float, int64 nor bool, nor int8 or uint8 at an operator that quantises.
    Dtype,
    /// Training behaviour.
    Training,
    /// A sequence, optional or map.
    Sequence,
    /// Resize by cubic interpolation or with antialiasing.
    CubicOrAntialias,
}

impl Reason {
    /// The word in `engines/trusted.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dtype => "dtype",
            Self::Training => "training",
            Self::Sequence => "sequence",
            Self::CubicOrAntialias => "cubic-antialias",
        }
    }
}

fn is_trusted(elem: ElemType, quantised: bool) -> bool {
    match elem {
        ElemType::Float | ElemType::Int64 | ElemType::Bool => true,
        ElemType::Uint8 | ElemType::Int8 | ElemType::Int32 => quantised,
        _ => false,
    }
}

/// The element type code of a tensor type; `None` for sequences, optionals and maps.
fn elem_of(ty: &TypeProto) -> Option<i32> {
    match ty.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor.elem_type()),
        _ => None,
    }
}

fn operators(graph: &GraphProto, found: &mut BTreeSet<String>) {
    for node in &graph.node {
        let domain = node.domain();
        let prefix = if matches!(domain, "" | "ai.onnx") { String::new() } else { format!("{domain}.") };
        found.insert(format!("{prefix}{}", node.op_type()));
        for attribute in &node.attribute {
            attribute.g.as_deref().into_iter().chain(&attribute.graphs).for_each(|inner| operators(inner, found));
        }
    }
}

fn read(folder: &Path, kind: &str, names: &[String]) -> Result<Vec<(String, Tensor)>, String> {
    let mut tensors = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let path = folder.join(format!("{kind}_{i}.pb"));
        let mut read = files::read(&path).map_err(|e| e.to_string())?;
        let (_, tensor) = read.pop().ok_or("a .pb file holds one tensor")?;
        tensors.push((name.clone(), tensor));
    }
    Ok(tensors)
}
