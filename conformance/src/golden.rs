//! Whole networks against ONNX Runtime: the embedded engine, and packages in a backend's enclave, all inside and ternary.
//!
//! Of a network that was exported in several ways everything inside is sealed once: how a network was exported shows in its
//! graph, so in lowering, and not in the numbers that an enclave makes of a Program.

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
use crate::place::{Enclave, InProcess, Loaded, Place as _, Sealed};

/// Nodes inside at each end of the ternary plan, as a share of all: 1 / this.
const ENDS: usize = 6;
/// Inputs drawn per network.
pub const PROBES: u64 = 2;
/// Outputs that differ by less are alike.
const ALIKE: f64 = 1e-4;

/// What one network showed.
pub struct Row {
    /// Nodes of the imported graph.
    pub nodes: usize,
    /// Error of the embedded executor on the plain model.
    pub embedded: f64,
    /// Error with everything inside: sealed or, which gives the same bits, in this process.
    pub all_secure: f64,
    /// What only sealed packages show, where everything inside was sealed.
    pub sealed: Option<AllSealed>,
    /// Error of a package with FrontNet secure, middle on ONNX Runtime, BackNet secure.
    pub ternary: f64,
    /// Values that cross in that package, those of the request included.
    pub crossings: usize,
    /// Wall time of the whole check.
    pub time: Duration,
}

/// Packages with everything inside, weights stored as f32 and as f16.
pub struct AllSealed {
    /// Bytes of the arena.
    pub arena: u64,
    /// Bytes of all weights.
    pub weights: u64,
    /// Error with weights stored as f16.
    pub f16: f64,
    /// What rounding may add to that error.
    pub f16_allowed: f64,
    /// Inputs of all for which the best class was the same.
    pub f16_same_class: usize,
}

impl Row {
    /// Whether everything agrees with ONNX Runtime.
    pub fn passed(&self, embedded: Networks, trusted: Networks) -> bool {
        let exact = [self.all_secure, self.ternary].iter().all(|error| *error < trusted.difference);
        let f16 = self.sealed.as_ref().is_none_or(|it| it.f16 < trusted.difference + it.f16_allowed);
        exact && f16 && self.embedded < embedded.difference
    }
}

/// Checks one exported model of square images. With everything inside it is `sealed`, in both formats of weights, or runs in
/// this process.
pub fn check(
    file: &Path,
    size: usize,
    sealed: bool,
    reference: &dyn Executor,
    enclave: &Enclave,
) -> Result<Row, String> {
    let start = Instant::now();
    let model = read(file, size)?;
    let probes = cordon_seal::seeded(&model, PROBES).map_err(|e| e.to_string())?;
    let want = answers(&mut plain(file, &model, reference)?, &probes)?;
    if want.windows(2).any(|pair| worst(&pair[..1], &pair[1..]) < ALIKE) {
        return Err("two different inputs give the same output: the network tells nothing".into());
    }
    let embedded = embedded()?;
    let embedded = worst(&answers(&mut plain(file, &model, &*embedded)?, &probes)?, &want);
    let (all_secure, sealed) = match sealed {
        true => all_sealed(&model, &probes, &want, enclave).map(|(error, sealed)| (error, Some(sealed)))?,
        false => (worst(&answers(&mut *InProcess::default().load(&model.graph)?, &probes)?, &want), None),
    };
    let mut ternary = enclave.seal(&model, &self::ternary(&model.graph))?;
    Ok(Row {
        nodes: model.graph.nodes.len(),
        embedded,
        all_secure,
        sealed,
        crossings: ternary.plan.crossings.len(),
        ternary: worst(&answers(&mut ternary, &probes)?, &want),
        time: start.elapsed(),
    })
}

/// Everything inside, one package after the other: the error with weights as they are, and the rest.
fn all_sealed(
    model: &Model,
    probes: &[Probe],
    want: &[Vec<Tensor>],
    enclave: &Enclave,
) -> Result<(f64, AllSealed), String> {
    let exact = Constraints::new(Protect::All);
    let mut sealed = enclave.seal(model, &exact)?;
    let error = worst(&answers(&mut sealed, probes)?, want);
    let [arena, weights] = sizes(&sealed);
    drop(sealed);
    let mut rounded = enclave.seal(model, &Constraints { weights: WeightFormat::F16, ..exact })?;
    let got = answers(&mut rounded, probes)?;
    let rest = AllSealed {
        arena,
        weights,
        f16: worst(&got, want),
        f16_allowed: rounded.secure().map(|lowered| lowered.rounding_error()).sum(),
        f16_same_class: got.iter().zip(want).filter(|(got, want)| best(got) == best(want)).count(),
    };
    Ok((error, rest))
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
