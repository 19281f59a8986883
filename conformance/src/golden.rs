//! Whole networks against ONNX Runtime: plain, all-secure, all-secure with f16 weights, and ternary.

use core::time::Duration;
use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use cordon_engine::KernelSet;
use cordon_executor::{Executor, ModelSource, Session, Tensor};
use cordon_graph::{
    Graph, ImportOptions, NamePolicy, NodeId, ValueId, complete_shapes, export, fold, import, infer, segment,
};
use cordon_lower::{Local, LowerOptions, Lowered, OperatorTable, lower, lower_graph, run_lowered, with_threads};

use crate::bridge::Rten;
use crate::compare::relative_error;

/// Largest difference allowed, relative to the output's largest magnitude.
pub const TOLERANCE: f64 = 1e-4;
/// Constants up to this size fold.
const FOLD_CAP: u64 = 64 << 20;
/// Nodes inside at each end of the ternary plan, as a share of all: 1 / this.
const ENDS: usize = 6;
/// Input draws per network.
pub const PROBES: u64 = 2;

/// What one network showed.
pub struct Row {
    /// Nodes of the imported graph.
    pub nodes: usize,
    /// Arena and weights of the all-secure plan, in bytes.
    pub arena: u64,
    /// Bytes of all secure weights.
    pub weights: u64,
    /// Error of the embedded executor on the plain model.
    pub plain: f64,
    /// Error of the all-secure plan.
    pub all_secure: f64,
    /// Error of the all-secure plan with weights stored as f16, what rounding may add to it, and the inputs of all for which
    /// the best class was the same.
    pub f16: f64,
    /// See [`Row::f16`].
    pub f16_allowed: f64,
    /// See [`Row::f16`].
    pub f16_same_class: u64,
    /// Error of FrontNet secure, middle on ONNX Runtime, BackNet secure.
    pub ternary: f64,
    /// Values that cross in the ternary plan.
    pub crossings: usize,
    /// Wall time of the whole check.
    pub time: Duration,
}

impl Row {
    /// Whether every variant agrees with ONNX Runtime.
    pub fn passed(&self) -> bool {
        let exact = [self.plain, self.all_secure, self.ternary].iter().all(|error| *error < TOLERANCE);
        exact && self.f16 < TOLERANCE + self.f16_allowed
    }
}

/// Checks one exported model of square images.
pub fn check(model: &Path, size: usize, reference: &dyn Executor) -> Result<Row, String> {
    let start = Instant::now();
    let graph = prepare(model, size)?;
    let mut plain = load(model, reference)?;
    let rten = cordon_executor::open("rten", &cordon_executor::Options::default()).map_err(|e| e.to_string())?;
    let mut embedded = load(model, &*rten)?;

    let whole = lower_graph(&graph).map_err(|e| e.to_string())?;
    let rounded = lower_f16(&graph)?;
    let (mut ternary, crossings) = Ternary::new(&graph, reference)?;
    let mut row = Row {
        nodes: graph.nodes.len(),
        arena: whole.arena.bytes,
        weights: whole.weight_bytes(),
        plain: 0.0,
        all_secure: 0.0,
        f16: 0.0,
        f16_allowed: rounded.rounding_error(),
        f16_same_class: 0,
        ternary: 0.0,
        crossings,
        time: Duration::ZERO,
    };
    let mut outputs: Vec<Vec<Tensor>> = Vec::new();
    for probe in 0..PROBES {
        let inputs = draw(&graph, probe)?;
        let want = run(&mut *plain, &graph, &inputs)?;
        row.plain = row.plain.max(worst(&run(&mut *embedded, &graph, &inputs)?, &want));

        let got = run_lowered(&whole, &inputs).map_err(|e| e.to_string())?;
        if probe == 0 {
            same_bits(&whole, &inputs, &got)?;
        }
        row.all_secure = row.all_secure.max(worst(&got, &want));

        let got = run_lowered(&rounded, &inputs).map_err(|e| e.to_string())?;
        row.f16 = row.f16.max(worst(&got, &want));
        row.f16_same_class += u64::from(best(&got) == best(&want));

        row.ternary = row.ternary.max(worst(&ternary.run(&graph, &inputs)?, &want));
        outputs.push(want);
    }
    if outputs.windows(2).any(|pair| worst(&pair[0], &pair[1]) < TOLERANCE) {
        return Err("two different inputs give the same output: the network tells nothing".into());
    }
    row.time = start.elapsed();
    Ok(row)
}

/// Everything inside, weights stored as f16.
fn lower_f16(graph: &Graph) -> Result<Lowered, String> {
    let mut whole = segment(graph, graph.node_ids());
    whole.inputs.clone_from(&graph.inputs);
    whole.outputs.clone_from(&graph.outputs);
    lower(graph, &whole, &LowerOptions { f16_weights: true, ..LowerOptions::default() }).map_err(|e| e.to_string())
}

/// Index of the largest element of the first output.
fn best(outputs: &[Tensor]) -> Option<usize> {
    let values = outputs.first()?.to_f64_lossy();
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}

/// Fails unless several threads give these bits, too.
fn same_bits(whole: &Lowered, inputs: &[cordon_graph::Tensor], one: &[cordon_graph::Tensor]) -> Result<(), String> {
    for threads in [2, 3] {
        let mut local = Local::new(whole, with_threads(KernelSet::detect(), threads)).map_err(|e| e.to_string())?;
        let got = local.run(inputs).map_err(|e| e.to_string())?;
        if got.iter().zip(one).any(|(got, one)| got.data != one.data) {
            return Err(format!("{threads} threads give other bits than one"));
        }
    }
    Ok(())
}

/// The model with every value typed; a dynamic batch is bound to 1, an image to `size`.
pub fn prepare(model: &Path, size: usize) -> Result<Graph, String> {
    let shapes = [(String::from("input"), vec![1, 3, size, size])].into();
    let options = ImportOptions { shapes, ..ImportOptions::default() };
    let mut graph = import(model, &options).map_err(|e| e.to_string())?;
    let mut rten = Rten::new()?;
    infer(&mut graph, &OperatorTable).map_err(|e| e.to_string())?;
    fold(&mut graph, &mut rten, FOLD_CAP).map_err(|e| e.to_string())?;
    if !infer(&mut graph, &OperatorTable).map_err(|e| e.to_string())?.is_empty() {
        complete_shapes(&mut graph, &mut rten).map_err(|e| e.to_string())?;
    }
    Ok(graph)
}

pub(crate) fn load(model: &Path, executor: &dyn Executor) -> Result<Box<dyn Session>, String> {
    let read = |path: &Path| std::fs::read(path).map(Bytes::from).map_err(|e| format!("{}: {e}", path.display()));
    let data = model.with_extension("onnx.data");
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data = if data.is_file() { Some((name, read(&data)?)) } else { None };
    executor.load(&ModelSource { onnx: read(model)?, data }).map_err(|e| e.to_string())
}

pub(crate) fn run(session: &mut dyn Session, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let name = |id: &ValueId| graph.value(*id).name.as_str();
    let fed: Vec<_> = graph.inputs.iter().map(name).zip(inputs).collect();
    let wanted: Vec<&str> = graph.outputs.iter().map(name).collect();
    session.run(&fed, &wanted).map_err(|e| e.to_string())
}

/// Seeded noise for every input.
pub(crate) fn draw(graph: &Graph, seed: u64) -> Result<Vec<Tensor>, String> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    graph
        .inputs
        .iter()
        .map(|id| {
            let ty = graph.value(*id).ty.as_ref().ok_or("an input has no type")?;
            let values: Vec<f32> = (0..ty.elements())
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
                })
                .collect();
            Ok(Tensor::from_f32(ty.dims.clone(), &values)?)
        })
        .collect()
}

fn worst(got: &[Tensor], want: &[Tensor]) -> f64 {
    got.iter().zip(want).map(|(g, w)| relative_error(g, w)).fold(0.0, f64::max)
}

/// FrontNet and BackNet on the trusted engine, the middle on an executor.
pub(crate) struct Ternary {
    parts: Vec<Part>,
}

struct Part {
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    runs: Runs,
}

enum Runs {
    Secure(Box<Lowered>),
    Normal { session: Box<dyn Session>, inputs: Vec<String>, outputs: Vec<String> },
}

impl Ternary {
    pub(crate) fn new(graph: &Graph, executor: &dyn Executor) -> Result<(Self, usize), String> {
        let nodes: Vec<NodeId> = graph.node_ids().collect();
        let end = (nodes.len() / ENDS).max(1);
        let (front, rest) = nodes.split_at(end);
        let (middle, back) = rest.split_at(rest.len() - end);
        let mut parts = Vec::new();
        for (nodes, secure) in [(front, true), (middle, false), (back, true)] {
            let part = segment(graph, nodes.iter().copied());
            let runs = if secure {
                let lowered = lower(graph, &part, &LowerOptions::default()).map_err(|e| e.to_string())?;
                Runs::Secure(Box::new(lowered))
            } else {
                let model =
                    export(graph, &part, &NamePolicy::Neutral(Default::default())).map_err(|e| e.to_string())?;
                let names = |list: &[(ValueId, String)]| list.iter().map(|(_, name)| name.clone()).collect();
                Runs::Normal {
                    session: executor.load(&ModelSource::from(&model)).map_err(|e| e.to_string())?,
                    inputs: names(&model.inputs),
                    outputs: names(&model.outputs),
                }
            };
            parts.push(Part { inputs: part.inputs, outputs: part.outputs, runs });
        }
        let crossings = parts.iter().map(|part| part.outputs.len()).sum::<usize>() - graph.outputs.len();
        Ok((Self { parts }, crossings))
    }

    pub(crate) fn run(&mut self, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let mut known: HashMap<ValueId, Tensor> = graph.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
        let find = |known: &HashMap<ValueId, Tensor>, id: &ValueId| {
            known.get(id).cloned().ok_or_else(|| format!("`{}` is not computed yet", graph.value(*id).name))
        };
        for part in &mut self.parts {
            let fed = part.inputs.iter().map(|id| find(&known, id)).collect::<Result<Vec<_>, String>>()?;
            let results = match &mut part.runs {
                Runs::Secure(lowered) => run_lowered(lowered, &fed).map_err(|e| e.to_string())?,
                Runs::Normal { session, inputs, outputs } => {
                    let fed: Vec<_> = inputs.iter().map(String::as_str).zip(&fed).collect();
                    let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
                    session.run(&fed, &wanted).map_err(|e| e.to_string())?
                }
            };
            known.extend(part.outputs.iter().copied().zip(results));
        }
        graph.outputs.iter().map(|id| find(&known, id)).collect()
    }
}
