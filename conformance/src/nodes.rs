//! One node test on the trusted engine: import, infer, lower, run, compare.

use bytes::Bytes;
use cordon_executor::{ElemType, Tensor};
use cordon_graph::onnx::{ModelProto, TensorProto};
use cordon_graph::{ImportOptions, OPSETS, import_bytes, infer};
use cordon_lower::{OperatorTable, lower_graph, run_lowered, supported};
use prost::Message as _;

use crate::cases::{Case, DataSet};
use crate::compare::difference;

/// Operators that vanish while shapes are inferred: they may accompany operators of the table.
const FOLDED: [&str; 5] = ["Constant", "ConstantOfShape", "Shape", "Size", "Range"];

/// Which inputs of a test were made constants so that the model could be lowered.
///
/// In these tests weights, shapes and axes are all run-time inputs. The trusted engine takes some of them from the
/// package only; the first input always stays a run-time input, so the operator really runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// None: every input came at run time.
    Nothing,
    /// Shapes, axes and indices.
    Integers,
    /// Everything but the first.
    AllButFirst,
}

/// Whether every operator of a test is in the table, folded ones apart.
pub fn in_table(case: &Case) -> bool {
    let operators = case.operators();
    let known = |name: &String| supported().any(|entry| entry.domain.is_empty() && entry.op_type == name);
    operators.iter().any(known) && operators.iter().all(|name| known(name) || FOLDED.contains(&name.as_str()))
}

/// Runs a test; the error says what differed or which stage refused.
pub fn run(case: &Case) -> Result<Bound, String> {
    let mut strongest = Bound::Nothing;
    let sets = case.data_sets()?;
    if sets.is_empty() {
        return Err("the test has no data".into());
    }
    for set in &sets {
        strongest = strongest.max(run_set(&case.model, set)?);
    }
    Ok(strongest)
}

/// Tries with ever more inputs constant until the model lowers; a wrong result is final.
fn run_set(model: &ModelProto, set: &DataSet) -> Result<Bound, String> {
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
        match prepare(model, set, &constant) {
            Ok(lowered) => {
                let inputs = (0..set.inputs.len()).filter(|i| !constant.contains(i));
                let inputs: Vec<_> = inputs.map(|i| set.inputs[i].1.clone()).collect();
                let outputs = run_lowered(&lowered, &inputs).map_err(|e| format!("run: {e}"))?;
                return compare(&outputs, set).map(|()| bound);
            }
            Err(why) => refused.push(why),
        }
        tried.push(constant);
    }
    refused.dedup();
    Err(refused.join(" | "))
}

fn prepare(model: &ModelProto, set: &DataSet, constant: &[usize]) -> Result<cordon_lower::Lowered, String> {
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
    if let Some(id) = unknown.first() {
        return Err(format!("infer: the shape of `{}` is not known", graph.value(*id).name));
    }
    lower_graph(&graph).map_err(|e| format!("lower: {e}"))
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

fn compare(outputs: &[Tensor], set: &DataSet) -> Result<(), String> {
    if outputs.len() != set.outputs.len() {
        return Err(format!("{} outputs where {} belong", outputs.len(), set.outputs.len()));
    }
    for (got, (name, want)) in outputs.iter().zip(&set.outputs) {
        if let Some(difference) = difference(got, want) {
            return Err(format!("output `{name}`: {difference}"));
        }
    }
    Ok(())
}
