//! Where the trusted engine runs a graph: in this process, or sealed in the enclave of a backend.

use cordon_engine::{Compute, KernelSet};
use cordon_executor::{Options, Tensor};
use cordon_graph::Graph;
use cordon_lower::{Lowered, lower_graph};
use cordon_native::Native;
use cordon_package::OutputPolicy;
use cordon_plan::{Constraints, LoweredPlan, Model, Plan, Protect, lower_plan, make};
use cordon_runtime::{Backend, Deployment, Output, backend};
use cordon_seal::Scratch;
use core::cell::Cell;
use std::sync::Arc;

/// A place that runs a whole graph on the trusted engine.
pub trait Place {
    /// Loads the graph, everything inside. An error says which stage refused it.
    fn load(&self, graph: &Graph) -> Result<Box<dyn Loaded>, String>;
}

/// A graph, ready to run.
pub trait Loaded {
    /// Named inputs in the graph's order to outputs in the graph's order.
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, String>;
}

/// In this process, unprotected.
pub struct InProcess(
    /// With these kernels and threads.
    pub Compute,
);

impl Default for InProcess {
    fn default() -> Self {
        Self(KernelSet::detect().into())
    }
}

impl Place for InProcess {
    fn load(&self, graph: &Graph) -> Result<Box<dyn Loaded>, String> {
        let lowered = lower_graph(graph).map_err(|e| format!("lower: {e}"))?;
        let stream = |sink: &mut dyn FnMut(&[u8])| lowered.write_weights(sink);
        let (program, weights) = (lowered.program.clone(), lowered.weights.clone());
        let native = Native::load(program, weights, &lowered.outputs, stream, self.0);
        Ok(Box::new(native.map_err(|e| format!("load: {e}"))?))
    }
}

impl Loaded for Native {
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, String> {
        let inputs: Vec<Tensor> = inputs.iter().map(|(_, tensor)| (*tensor).clone()).collect();
        Self::run(self, &inputs).map_err(|e| format!("run: {e}"))
    }
}

/// Sealed, in the enclave of a backend: an owner, and a device whose enclave opens what the owner seals.
pub struct Enclave {
    scratch: Scratch,
    executor: (String, Options),
    sealed: Cell<u32>,
}

impl Enclave {
    /// Of a backend, named by its word, with an executor for normal segments.
    pub fn open(backend: &str, executor: &str, options: Options) -> Result<Self, String> {
        Self::of(backend::open(backend).map_err(|e| e.to_string())?, executor, options)
    }

    /// Of any backend.
    pub fn of(backend: Arc<dyn Backend>, executor: &str, options: Options) -> Result<Self, String> {
        let scratch = Scratch::new(backend).map_err(|e| e.to_string())?;
        Ok(Self { scratch, executor: (executor.into(), options), sealed: Cell::new(0) })
    }

    /// Plans, seals and opens.
    pub fn seal(&self, model: &Model, constraints: &Constraints) -> Result<Sealed, String> {
        let profile = self.scratch.device.backend().profile();
        let plan = make(model, constraints, profile).map_err(|e| format!("plan: {e}"))?;
        let lowered = lower_plan(model, &plan, profile).map_err(|e| format!("lower: {e}"))?;
        // A name of its own: a device refuses what is older than it has seen under a name.
        self.sealed.set(self.sealed.get() + 1);
        let name = format!("conformance-{}", self.sealed.get());
        let executor = (self.executor.0.as_str(), &self.executor.1);
        let package = self.scratch.seal_unchecked(model, &plan, &name, 1, OutputPolicy::Full);
        let package = package.map_err(|e| format!("seal: {e}"))?;
        let opened = self.scratch.open(&package, &plan, executor);
        let removed = std::fs::remove_file(&package);
        let deployment = opened.map_err(|e| format!("open: {e}"))?;
        removed.map_err(|e| format!("{}: {e}", package.display()))?;
        Ok(Sealed { deployment, lowered, plan })
    }
}

impl Place for Enclave {
    fn load(&self, graph: &Graph) -> Result<Box<dyn Loaded>, String> {
        let model = Model::new(graph.clone(), "graph.onnx", "").map_err(|e| format!("plan: {e}"))?;
        Ok(Box::new(self.seal(&model, &Constraints::new(Protect::All))?))
    }
}

/// A package in an enclave.
pub struct Sealed {
    deployment: Deployment,
    /// The plan it was sealed by.
    pub plan: Plan,
    lowered: LoweredPlan,
}

impl Sealed {
    /// The lowered secure segments.
    pub fn secure(&self) -> impl Iterator<Item = &Lowered> {
        self.lowered.segments.iter().filter_map(|segment| segment.lowered.as_ref())
    }
}

impl Loaded for Sealed {
    /// Also holds the secure memory taken against the prediction.
    fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, String> {
        let run = self.deployment.run(inputs).map_err(|e| format!("run: {e}"))?;
        let (measured, predicted) = (run.memory.peak, self.plan.memory.predicted);
        if measured > predicted {
            return Err(format!("{measured} bytes of secure memory were taken, {predicted} predicted"));
        }
        let outputs = run.outputs.into_iter().map(|(name, output)| match output {
            Output::Tensor(tensor) => Ok(tensor),
            Output::Ranked(_) => Err(format!("output `{name}` came back ranked")),
        });
        outputs.collect()
    }
}
