//! Whole networks against ONNX Runtime: the embedded engine, and packages in a backend's enclave, all inside and ternary.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use cordon_executor::{Executor, Options, Tensor};
use cordon_graph::Graph;
use cordon_plain::{EngineEvaluator, Origin, PlainModel};
use cordon_plan::{Bound, Constraints, Cuts, Model, Protect, WeightFormat};
use cordon_seal::Probe;

use crate::compare::relative_error;
use crate::expectations::Networks;
use crate::place::{Enclave, Loaded, Sealed};

/// Nodes inside at each end of the ternary plan, as a share of all: 1 / this.
const ENDS: usize = 6;
/// Inputs drawn per network.
pub const PROBES: u64 = 2;

/// What one network showed.
#[derive(Default)]
pub struct Row {
    /// Nodes of the imported graph.
    pub nodes: usize,
    /// Bytes of the arena of the all-secure plan.
    pub arena: u64,
    /// Bytes of all secure weights.
    pub weights: u64,
    /// Error of the embedded executor on the plain model.
    pub embedded: f64,
    /// Error of the all-secure package.
    pub all_secure: f64,
    /// The all-secure package with weights stored as f16, where it was run.
    pub f16: Option<F16>,
    /// Error of FrontNet secure, middle on ONNX Runtime, BackNet secure.
    pub ternary: f64,
    /// Values that cross in the ternary plan.
    pub crossings: usize,
    /// Wall time of the whole check.
    pub time: Duration,
}

/// What weights stored as f16 showed.
pub struct F16 {
    /// Error.
    pub error: f64,
    /// What rounding may add to the error.
    pub allowed: f64,
    /// Inputs of all for which the best class was the same.
    pub same_class: usize,
}

impl Row {
    /// Whether everything agrees with ONNX Runtime.
    pub fn passed(&self, embedded: Networks, trusted: Networks) -> bool {
        let exact = [self.all_secure, self.ternary].iter().all(|error| *error < trusted.difference);
        let f16 = self.f16.as_ref().is_none_or(|f16| f16.error < trusted.difference + f16.allowed);
        exact && f16 && self.embedded < embedded.difference
    }
}

/// Checks one exported model of square images. `f16`: also with weights stored so.
pub fn check(file: &Path, size: usize, f16: bool, reference: &dyn Executor, enclave: &Enclave) -> Result<Row, String> {
    let start = Instant::now();
    let model = read(file, size)?;
    let probes = cordon_seal::seeded(&model, PROBES).map_err(|e| e.to_string())?;
    let want = answers(&mut plain(file, &model, reference)?, &probes)?;
    if want.windows(2).any(|pair| worst(&pair[..1], &pair[1..]) < 1e-4) {
        return Err("two different inputs give the same output: the network tells nothing".into());
    }
    let embedded = embedded()?;
    let embedded = worst(&answers(&mut plain(file, &model, &*embedded)?, &probes)?, &want);

    let mut all_secure = enclave.seal(&model, &Constraints::new(Protect::All))?;
    let [arena, weights] = sizes(&all_secure);
    let all_secure = worst(&answers(&mut all_secure, &probes)?, &want);
    let rounded = Constraints { weights: WeightFormat::F16, ..Constraints::new(Protect::All) };
    let f16 = f16.then(|| {
        let mut sealed = enclave.seal(&model, &rounded)?;
        let allowed = sealed.secure().map(|lowered| lowered.rounding_error()).sum();
        let got = answers(&mut sealed, &probes)?;
        let same_class = got.iter().zip(&want).filter(|(got, want)| best(got) == best(want)).count();
        Ok::<_, String>(F16 { error: worst(&got, &want), allowed, same_class })
    });
    let mut ternary = enclave.seal(&model, &self::ternary(&model.graph))?;
    Ok(Row {
        nodes: model.graph.nodes.len(),
        arena,
        weights,
        embedded,
        all_secure,
        f16: f16.transpose()?,
        crossings: ternary.plan.crossings.len(),
        ternary: worst(&answers(&mut ternary, &probes)?, &want),
        time: start.elapsed(),
    })
}

/// Arena and weights of the secure segments.
fn sizes(sealed: &Sealed) -> [u64; 2] {
    sealed.secure().fold([0, 0], |[arena, weights], it| [arena.max(it.arena.bytes), weights + it.weight_bytes()])
}

/// The first and the last nodes inside.
pub(crate) fn ternary(graph: &Graph) -> Constraints {
    let nodes = graph.nodes.len();
    let end = (nodes / ENDS).max(1);
    let cuts = Cuts::Ends { front: Some(Bound::Cut(end)), back: Some(Bound::Cut(nodes - end)) };
    Constraints { cuts, ..Constraints::new(Protect::Both) }
}

/// The model with every value typed; a dynamic batch is bound to 1, an image to `size`.
pub(crate) fn read(file: &Path, size: usize) -> Result<Model, String> {
    let shapes = [(String::from("input"), vec![1, 3, size, size])].into();
    cordon_plan::prepare(file, &shapes, &mut EngineEvaluator(&*embedded()?)).map_err(|e| e.to_string())
}

fn embedded() -> Result<Box<dyn Executor>, String> {
    cordon_executor::open("rten", &Options::default()).map_err(|e| e.to_string())
}

/// The model's own file on an engine.
pub(crate) fn plain(file: &Path, model: &Model, engine: &dyn Executor) -> Result<PlainModel, String> {
    let plain = PlainModel::open(file, &model.graph, &model.graph.outputs, engine).map_err(|e| e.to_string())?;
    match plain.origin() {
        Origin::File => Ok(plain),
        Origin::Graph(why) => Err(format!("{} does not run the file: {why}", engine.name())),
    }
}

impl Loaded for PlainModel {
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, String> {
        Self::run(self, inputs).map_err(|e| e.to_string())
    }
}

/// The outputs for every probe.
pub(crate) fn answers(loaded: &mut dyn Loaded, probes: &[Probe]) -> Result<Vec<Vec<Tensor>>, String> {
    probes.iter().map(|probe| loaded.run(&probe.request())).collect()
}

fn worst(got: &[Vec<Tensor>], want: &[Vec<Tensor>]) -> f64 {
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    pairs.map(|(got, want)| relative_error(got, want)).fold(0.0, f64::max)
}

/// Index of the largest element of the first output.
fn best(outputs: &[Tensor]) -> Option<usize> {
    let values = outputs.first()?.to_f64_lossy();
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}
