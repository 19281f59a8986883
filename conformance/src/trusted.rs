//! The node tests on the trusted engine, wherever it runs: import, infer, lower, run, compare.

use bytes::Bytes;
use cordon_executor::{ElemType, Tensor};
use cordon_graph::onnx::{ModelProto, TensorProto};
use cordon_graph::{Graph, ImportOptions, OPSETS, import_bytes, infer};
use cordon_lower::{OperatorTable, supported};
use prost::Message as _;

use crate::cases::{Case, DataSet};
use crate::compare::differs;
use crate::expectations::Expectations;
use crate::place::Place;
use crate::suite::{Bound, Engine, Failed, Scope};

/// Operators that vanish while shapes are inferred: they may accompany operators of the table.
const FOLDED: [&str; 5] = ["Constant", "ConstantOfShape", "Shape", "Size", "Range"];

/// The trusted engine in a place.
pub struct Trusted<P>(
    /// Where.
    pub P,
);

impl<P: Place> Engine for Trusted<P> {
    fn name(&self) -> &'static str {
        "trusted"
    }

    fn scope(&self, case: &Case) -> Scope {
        match case.out_of_scope() {
            _ if !in_table(case) => Scope::Foreign,
            Some(reason) => Scope::Skip(reason),
            None => Scope::Run,
        }
    }

    fn run(&self, case: &Case, expected: &Expectations) -> Result<Bound, Failed> {
        let sets = case.data_sets().map_err(Failed::Refused)?;
        let bounds = sets.iter().map(|set| self.run_set(&case.model, set, expected)).collect::<Result<Vec<_>, _>>()?;
        bounds.into_iter().max().ok_or_else(|| Failed::Refused("the test has no data".into()))
    }
}

/// Whether every operator of a test is in the table, folded ones apart.
fn in_table(case: &Case) -> bool {
    let operators = case.operators();
    let known = |name: &String| supported().any(|entry| entry.domain.is_empty() && entry.op_type == name);
    operators.iter().any(known) && operators.iter().all(|name| known(name) || FOLDED.contains(&name.as_str()))
}

impl<P: Place> Trusted<P> {
    /// Tries with ever more inputs constant until the model loads; a wrong result is final.
    fn run_set(&self, model: &ModelProto, set: &DataSet, expected: &Expectations) -> Result<Bound, Failed> {
        let mut refused = Vec::new();
        let mut tried: Vec<Vec<usize>> = Vec::new();
        for bound in [Bound::Nothing, Bound::Integers, Bound::AllButFirst] {
            let constant: Vec<usize> = (0..set.inputs.len())
                .filter(|i| match bound {
                    Bound::Nothing => false,
                    Bound::Integers => set.inputs[*i].1.elem == ElemType::Int64 && *i > 0,
                    Bound::AllButFirst => *i > 0,
                })
                .collect();
            if tried.contains(&constant) {
                continue;
            }
            match prepare(model, set, &constant).and_then(|graph| self.0.load(&graph)) {
                Ok(mut loaded) => {
                    let inputs = set.inputs.iter().enumerate().filter(|(i, _)| !constant.contains(i));
                    let inputs: Vec<(&str, &Tensor)> =
                        inputs.map(|(_, (name, tensor))| (name.as_str(), tensor)).collect();
                    let outputs = loaded.run(&inputs).map_err(Failed::Refused)?;
                    return differs(&outputs, set, expected).map_or(Ok(bound), Err);
                }
                Err(why) => refused.push(why),
            }
            tried.push(constant);
        }
        refused.dedup();
        Err(Failed::Refused(refused.join(" | ")))
    }
}

/// The graph with some inputs constant and every value typed.
fn prepare(model: &ModelProto, set: &DataSet, constant: &[usize]) -> Result<Graph, String> {
    let mut model = readable(model.clone());
    if let Some(graph) = &mut model.graph {
        graph.initializer.extend(constant.iter().map(|i| initializer(&set.inputs[*i])));
    }
    let options = ImportOptions {
        // Symbolic dimensions take the shapes of this run.
        shapes: (0..set.inputs.len())
            .filter(|i| !constant.contains(i))
            .map(|i| (set.inputs[i].0.clone(), set.inputs[i].1.dims.clone()))
            .collect(),
        ..ImportOptions::default()
    };
    let encoded = Bytes::from(model.encode_to_vec());
    let mut graph = import_bytes(encoded, None, &options).map_err(|e| format!("import: {e}"))?;
    let unknown = infer(&mut graph, &OperatorTable).map_err(|e| format!("infer: {e}"))?;
    match unknown.first() {
        Some(id) => Err(format!("infer: the shape of `{}` is not known", graph.value(*id).name)),
        None => Ok(graph),
    }
}

/// The model in the versions that import takes.
///
/// Tests name the version in which their operator last changed. Above 22 those of the table only gained element types;
/// below 7 stands `Not`, which never changed.
fn readable(mut model: ModelProto) -> ModelProto {
    model.ir_version = Some(model.ir_version().clamp(7, 10));
    for import in model.opset_import.iter_mut().filter(|import| matches!(import.domain(), "" | "ai.onnx")) {
        import.version = Some(import.version().clamp(*OPSETS.start(), *OPSETS.end()));
    }
    model
}

fn initializer((name, tensor): &(String, Tensor)) -> TensorProto {
    TensorProto {
        name: Some(name.clone()),
        data_type: Some(tensor.elem.code().into()),
        dims: tensor.dims.iter().map(|d| *d as i64).collect(),
        raw_data: Some(tensor.data.clone()),
        ..TensorProto::default()
    }
}
