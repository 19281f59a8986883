//! `cordon bench`: plain, all-secure and planned, taking turns.

use crate::commands::seal::{read_model, read_plan};
use crate::failure::{Failure, Outcome};
use crate::model::{ExecutorArgs, ModelArgs};
use crate::scratch::Scratch;
use crate::ui::{self, Ui};
use cordon_executor::{Session, Tensor};
use cordon_graph::{NamePolicy, export, segment};
use cordon_package::OutputPolicy;
use cordon_plan::{Constraints, Model, Plan, Protect, make};
use cordon_runtime::Deployment;
use cordon_seal::Probe;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    executor: ExecutorArgs,

    /// Also measure this plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// Measured runs of each variant, after two that warm up
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let model = match &plan {
        Some(plan) => read_model(&args.model, plan, &args.executor, ui)?,
        None => args.model.read(&args.executor, ui)?,
    };
    let probe = cordon_seal::seeded(&model, 1)?.remove(0);
    let scratch = Scratch::new()?;
    let bar = ui.progress(0, "preparing");
    let mut variants = vec![Variant::plain(&model, &args.executor)?];
    variants.push(Variant::sealed("all-secure", &model, make(&model, &Constraints::new(Protect::All)), &scratch, args));
    if let Some(plan) = plan {
        variants.push(Variant::sealed("planned", &model, Ok(plan), &scratch, args));
    }
    bar.finish_and_clear();
    let bar = ui.progress(u64::from(args.repeat) + 2, "measuring");
    for round in 0..args.repeat + 2 {
        for variant in &mut variants {
            variant.measure(&probe, round >= 2);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(&variants, &args.executor.executor, ui)
}

/// One way of running the model.
struct Variant {
    name: &'static str,
    /// What runs, or why it cannot.
    runner: Result<Runner, Failure>,
    predicted: u64,
    measured: u64,
    crossings: u64,
    crossing_bytes: u64,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

enum Runner {
    Plain { session: Box<dyn Session>, outputs: Vec<String> },
    Sealed(Box<Deployment>),
}

impl Variant {
    fn new(name: &'static str, runner: Result<Runner, Failure>, predicted: u64) -> Self {
        let (wall, cpu) = (Vec::new(), Vec::new());
        Self { name, runner, predicted, measured: 0, crossings: 0, crossing_bytes: 0, wall, cpu }
    }

    fn plain(model: &Model, executor: &ExecutorArgs) -> Outcome<Self> {
        let graph = &model.graph;
        let mut whole = segment(graph, graph.node_ids());
        whole.inputs = graph.inputs.clone();
        whole.outputs = graph.outputs.clone();
        let exported = export(graph, &whole, &NamePolicy::Original)?;
        let session = executor.open()?.load(&cordon_seal::source(&exported))?;
        let outputs = exported.outputs.iter().map(|(_, name)| name.clone()).collect();
        Ok(Self::new("plain", Ok(Runner::Plain { session, outputs }), 0))
    }

    /// A variant that cannot be sealed is reported, not fatal: the others are still worth knowing.
    fn sealed(
        name: &'static str,
        model: &Model,
        plan: Result<Plan, cordon_plan::PlanError>,
        scratch: &Scratch,
        args: &Args,
    ) -> Self {
        let predicted = plan.as_ref().map_or(0, |plan| plan.memory.predicted);
        let runner = plan.map_err(Failure::from).and_then(|plan| {
            let package = scratch.seal_unchecked(model, &plan, name, 1, OutputPolicy::Full)?;
            let executor = (args.executor.executor.as_str(), args.executor.options());
            Ok(Runner::Sealed(Box::new(scratch.open(&package, &plan, executor)?)))
        });
        Self::new(name, runner, predicted)
    }

    fn measure(&mut self, probe: &Probe, keep: bool) {
        let Ok(runner) = &mut self.runner else { return };
        let inputs: Vec<(&str, &Tensor)> = probe.inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let (cpu, started) = (runner.cpu(), Instant::now());
        let result = match runner {
            Runner::Plain { session, outputs } => {
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                session.run(&inputs, &outputs).map(|_| None).map_err(Failure::from)
            }
            Runner::Sealed(deployment) => deployment.run(&inputs).map(Some).map_err(Failure::from),
        };
        let wall = started.elapsed();
        let cpu = runner.cpu().saturating_sub(cpu);
        match result {
            Err(failure) => self.runner = Err(failure),
            Ok(run) => {
                if let Some(run) = run {
                    self.measured = self.measured.max(run.memory.peak);
                    self.crossings = run.crossings();
                    self.crossing_bytes = run.crossing_bytes();
                }
                if keep {
                    self.wall.push(wall.as_secs_f64() * 1e3);
                    self.cpu.push(cpu.as_secs_f64() * 1e3);
                }
            }
        }
    }
}

impl Runner {
    /// CPU time of this process and the enclave so far.
    fn cpu(&self) -> Duration {
        let enclave = match self {
            Self::Plain { .. } => None,
            Self::Sealed(deployment) => deployment.enclave_cpu_time(),
        };
        own_cpu() + enclave.unwrap_or_default()
    }
}

/// CPU time of all living threads of this process, in the scheduler's nanoseconds; zero where the kernel does not tell.
fn own_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let spent = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

fn report(variants: &[Variant], executor: &str, ui: Ui) -> Outcome {
    let baseline = variants.first().map_or(f64::NAN, |plain| median(&plain.wall));
    let mut rows = Vec::new();
    for variant in variants {
        if let Err(failure) = &variant.runner {
            ui.line(ui.warn(&format!("{}: {failure}", variant.name)));
            ui.json(&json!({ "variant": variant.name, "baseline": executor, "error": failure.to_string() }));
            continue;
        }
        let wall = median(&variant.wall);
        rows.push(vec![
            variant.name.to_owned(),
            format!("{wall:.3}"),
            spread(&variant.wall).map_or("-".into(), |(low, high)| format!("{low:.3}..{high:.3}")),
            format!("{:.3}", median(&variant.cpu)),
            format!("{:.2}", wall / baseline),
            ui::bytes(variant.predicted),
            ui::bytes(variant.measured),
            variant.crossings.to_string(),
            ui::bytes(variant.crossing_bytes),
        ]);
        ui.json(&as_json(variant, executor, wall, wall / baseline));
    }
    ui.line(format!("engine of the normal world: {executor}; ratio to the same engine running the whole model"));
    let header =
        ["variant", "wall ms", "quartiles", "CPU ms", "ratio", "predicted", "measured", "crossings", "crossing bytes"];
    ui.table(&header, &[false, true, true, true, true, true, true, true, true], &rows);
    match variants.first().map(|plain| &plain.runner) {
        Some(Err(failure)) => {
            Err(Failure::new(format!("the plain model did not run: {failure}"), "try another --executor"))
        }
        _ => Ok(()),
    }
}

fn as_json(variant: &Variant, executor: &str, wall: f64, ratio: f64) -> Value {
    let (low, high) = spread(&variant.wall).unwrap_or((wall, wall));
    let (cpu_low, cpu_high) = spread(&variant.cpu).unwrap_or_default();
    json!({
        "variant": variant.name,
        "baseline": executor,
        "median_ms": wall,
        "quartiles_ms": [low, high],
        "cpu_median_ms": median(&variant.cpu),
        "cpu_quartiles_ms": [cpu_low, cpu_high],
        "repeat": variant.wall.len(),
        "ratio": ratio,
        "secure_memory_predicted": variant.predicted,
        "secure_memory_measured": variant.measured,
        "crossings": variant.crossings,
        "crossing_bytes": variant.crossing_bytes,
    })
}

/// The middle value; not a number without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5).unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> Option<(f64, f64)> {
    Some((quantile(values, 0.25)?, quantile(values, 0.75)?))
}

/// Linear interpolation between order statistics.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(position.floor() as usize)?, sorted.get(position.ceil() as usize)?);
    Some(low + (high - low) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some((2.0, 4.0)));
        assert!(median(&[]).is_nan() && spread(&[]).is_none());
    }
}
