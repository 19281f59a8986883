//! One way of running the model, and what its runs cost.

use super::meter::{Energy, PeakMemory};
use crate::failure::{Failure, own};
use crate::model::ExecutorArgs;
use cordon_package::OutputPolicy;
use cordon_plain::PlainModel;
use cordon_plan::{Model, Plan, PlanError};
use cordon_runtime::Deployment;
use cordon_seal::{Probe, Scratch};
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A variant and its measurements.
pub(super) struct Variant {
    pub(super) name: String,
    /// What runs, or why it cannot.
    pub(super) runner: Result<Runner, Failure>,
    /// The package it runs.
    pub(super) package: Option<PathBuf>,
    /// The budget of secure memory it runs in; `None` for all weights inside.
    pub(super) limit: Option<u64>,
    /// Secure memory in bytes, by the plan and by the enclave.
    pub(super) predicted: u64,
    pub(super) measured: u64,
    /// Time over that of everything inside and nothing cut, by the plan.
    pub(super) slowdown: f64,
    /// Values that crossed in one run, and their bytes.
    pub(super) crossings: u64,
    pub(super) crossing_bytes: u64,
    /// Encrypted weight bytes brought in by one run.
    pub(super) streamed_bytes: u64,
    /// Encrypted activation bytes that left in one run and came back.
    pub(super) spilled_bytes: u64,
    /// Rise of this process's resident memory by loading and the first run.
    pub(super) host_peak: Option<u64>,
    /// Milliseconds of every measured run, in the order of rounds; CPU time is that of this process and the enclave.
    pub(super) wall: Vec<f64>,
    pub(super) cpu: Vec<f64>,
    /// Milliseconds inside secure segments.
    pub(super) secure: Vec<f64>,
    /// Joules of the whole processor.
    pub(super) joules: Vec<f64>,
    /// CPU time of all runs, warming up included.
    pub(super) spent: Duration,
}

/// What runs.
pub(super) enum Runner {
    /// The whole model on an engine of the normal world.
    Plain(PlainModel),
    /// A package.
    Sealed(Box<Deployment>),
}

impl Variant {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            runner: Err(Failure::new(&own::DISAGREEMENT, "not loaded yet", "this is a bug; please report it")),
            package: None,
            limit: None,
            predicted: 0,
            measured: 0,
            slowdown: 1.0,
            crossings: 0,
            crossing_bytes: 0,
            streamed_bytes: 0,
            spilled_bytes: 0,
            host_peak: None,
            wall: Vec::new(),
            cpu: Vec::new(),
            secure: Vec::new(),
            joules: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    /// The model's own file on the engine: what a user without Cordon would run.
    pub(super) fn plain(model: &Model, path: &Path, executor: &ExecutorArgs) -> Self {
        let mut this = Self::new("plain");
        let peak = PeakMemory::start();
        let graph = &model.graph;
        this.runner = executor
            .open()
            .and_then(|engine| Ok(Runner::Plain(PlainModel::open(path, graph, &graph.outputs, engine.as_ref())?)));
        this.host_peak = peak.and_then(|peak| peak.rise());
        this
    }

    /// A plan, sealed and opened on a device that lives as long as this command. A variant that cannot be sealed is
    /// reported, not fatal: the others are still worth knowing.
    pub(super) fn sealed(
        name: &str,
        model: &Model,
        plan: Result<Plan, PlanError>,
        scratch: &Scratch,
        executor: &ExecutorArgs,
    ) -> Self {
        let mut this = Self::new(name);
        let sealed = plan.map_err(Failure::from).and_then(|plan| {
            this.predicted = plan.memory.predicted;
            this.limit = plan.memory.limit;
            this.slowdown = plan.memory.slowdown;
            Ok((scratch.seal_unchecked(model, &plan, &name.replace(' ', "-"), 1, OutputPolicy::Full)?, plan))
        });
        let peak = PeakMemory::start();
        this.runner = sealed.and_then(|(package, plan)| {
            let executor = (executor.executor.as_str(), &executor.options());
            let deployment = scratch.open(&package, &plan, executor)?;
            this.package = Some(package);
            Ok(Runner::Sealed(Box::new(deployment)))
        });
        this.host_peak = peak.and_then(|peak| peak.rise());
        this
    }

    /// Runs once. A warm-up (`keep` false) leaves no figures but those that every run has in common.
    pub(super) fn run(&mut self, probe: &Probe, energy: Option<&Energy>, keep: bool) {
        let Ok(runner) = &mut self.runner else { return };
        let inputs = probe.request();
        let joules = energy.map(Energy::read);
        let (cpu, started) = (runner.cpu(), Instant::now());
        let result = match runner {
            Runner::Plain(plain) => plain.run(&inputs).map(|_| None).map_err(Failure::from),
            Runner::Sealed(deployment) => deployment.run(&inputs).map(Some).map_err(Failure::from),
        };
        let wall = started.elapsed();
        let cpu = runner.cpu().saturating_sub(cpu);
        let joules = energy.zip(joules).map(|(energy, before)| energy.joules(&before, &energy.read()));
        self.spent += cpu;
        let run = match result {
            Ok(run) => run,
            Err(failure) => {
                self.runner = Err(failure);
                return;
            }
        };
        if let Some(run) = &run {
            self.measured = self.measured.max(run.memory.peak);
            self.crossings = run.crossings();
            self.crossing_bytes = run.crossing_bytes();
            self.streamed_bytes = run.segments.iter().map(|segment| segment.weight_bytes).sum();
            self.spilled_bytes = run.segments.iter().map(|segment| segment.spilled_bytes).sum();
        }
        if keep {
            let secure = run.iter().flat_map(|run| &run.segments).filter(|it| it.placement.is_secure());
            self.secure.push(milliseconds(secure.map(|segment| segment.elapsed).sum()));
            self.wall.push(milliseconds(wall));
            self.cpu.push(milliseconds(cpu));
            self.joules.extend(joules);
        }
    }

    /// The enclave's account of itself, for a variant that has one.
    pub(super) fn deployment(&self) -> Option<&Deployment> {
        match &self.runner {
            Ok(Runner::Sealed(deployment)) => Some(deployment),
            _ => None,
        }
    }
}

impl Runner {
    /// CPU time of this process and the enclave so far.
    fn cpu(&self) -> Duration {
        let enclave = match self {
            Self::Plain(_) => None,
            Self::Sealed(deployment) => deployment.enclave_cpu_time(),
        };
        cordon_mapped::own_cpu_time().unwrap_or_default() + enclave.unwrap_or_default()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
