//! `cordon bench`: variants of running a model, taking turns; or one run of the trusted engine, instruction by instruction.

mod crossing;
mod machine;
mod meter;
mod opening;
mod profile;
mod report;
mod stats;
mod variant;

pub(crate) use stats::median;

use crate::backend::BackendArgs;
use crate::commands::plan::{Weights, parse_size};
use crate::commands::seal::{read_model, read_plan};
use crate::failure::Outcome;
use crate::model::{ExecutorArgs, ModelArgs};
use crate::ui::{self, Ui};
use cordon_plan::{Bound, Constraints, Cuts, Model, Protect, classifier_cut, make};
use cordon_seal::Scratch;
use core::hint::spin_loop;
use core::time::Duration;
use crossing::CrossingCost;
use machine::Ceilings;
use meter::{Energy, Machine};
use opening::Opening;
use report::Findings;
use std::path::PathBuf;
use std::time::Instant;
use variant::Variant;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    executor: ExecutorArgs,
    #[command(flatten)]
    backend: BackendArgs,

    /// Measure against this engine, which then runs the normal segments too; adds a plan that hides only the classifier and
    /// one that hides both ends, the machine's ceilings, and the cost of a crossing
    #[arg(long, value_name = "ENGINE", conflicts_with = "executor")]
    against: Option<String>,

    /// Also measure this plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// Also measure everything inside within these budgets, for example 10MiB,16MiB; --against then adds no plans
    #[arg(long, value_name = "SIZE,…", value_parser = parse_size, value_delimiter = ',')]
    secure_memory: Vec<u64>,

    /// How the secure weights of these plans are stored
    #[arg(long, value_enum, default_value_t = Weights::F32, conflicts_with = "profile")]
    weights: Weights,

    /// Instead, time every instruction of the whole model on the trusted engine, in this process and unprotected
    #[arg(long, conflicts_with_all = ["executor", "against", "plan", "secure_memory", "seconds"])]
    profile: bool,

    /// Measured runs of each variant, after two that warm up
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,

    /// Begin no further round after this many seconds, once there are three
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    seconds: Option<Duration>,
}

/// Rounds that warm up.
const WARM_UP: u32 = 2;
/// Fewest measured rounds, however short the time.
const FEWEST: u32 = 3;

/// After a turn: threads of an enclave or an engine that look for more work before they sleep have gone to sleep, and do
/// not take the processor of the next variant.
const BETWEEN: Duration = Duration::from_micros(300);

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let mut executor = args.executor.clone();
    if let Some(engine) = &args.against {
        executor.executor.clone_from(engine);
    }
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let model = match &plan {
        Some(plan) => read_model(&args.model, plan, &executor, ui)?,
        None => args.model.read(&executor, ui)?,
    };
    let probe = cordon_seal::seeded(&model, 1)?.remove(0);
    if args.profile {
        return profile::run(&model, &probe, args.executor.threads, args.repeat, ui);
    }
    let backend = args.backend.open()?;
    let scratch = Scratch::new(backend.clone())?;
    let bar = ui.progress(0, "preparing");
    let mut variants = vec![Variant::plain(&model, &args.model.model, &executor)];
    for (name, constraints) in wanted(&model, args) {
        variants.push(Variant::sealed(
            &name,
            &model,
            make(&model, &constraints, backend.profile()),
            &scratch,
            &executor,
        ));
    }
    if let Some(plan) = plan {
        variants.push(Variant::sealed("planned", &model, Ok(plan), &scratch, &executor));
    }
    let threads = executor.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let against = match &args.against {
        None => None,
        Some(_) => {
            bar.set_message("measuring the machine");
            let crossing = CrossingCost::measure(&scratch, (&executor.executor, &executor.options()))?;
            Some((Ceilings::measure(threads), crossing, cordon_lower::lower_graph(&model.graph).ok()))
        }
    };
    bar.finish_and_clear();
    let (energy, before, started) = (Energy::open(), Machine::now(), Instant::now());
    let bar = ui.progress(u64::from(args.repeat) + u64::from(WARM_UP), "measuring");
    for round in 0..args.repeat + WARM_UP {
        if round >= WARM_UP + FEWEST && args.seconds.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        for variant in &mut variants {
            variant.run(&probe, energy.as_ref(), round >= WARM_UP);
            let ended = Instant::now();
            while ended.elapsed() < BETWEEN {
                spin_loop();
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let spent = variants.iter().map(|variant| variant.spent).sum();
    let others = before.zip(Machine::now()).map(|(before, now)| now.others(before, spent));
    let streamed = variants.iter().map(|variant| variant.streamed_bytes).max().unwrap_or_default();
    let opening = (streamed > 0).then(|| Opening::measure(threads, streamed));
    let findings =
        Findings { variants, engine: executor.executor, threads: executor.threads, against, opening, others };
    findings.report(ui)
}

/// What is sealed besides a plan file: everything inside, in all memory it wants and in each budget; and, against another
/// engine, the two kinds of plans it is compared by.
fn wanted(model: &Model, args: &Args) -> Vec<(String, Constraints)> {
    let plan = |protect| Constraints { weights: args.weights.into(), ..Constraints::new(protect) };
    let all = || plan(Protect::All);
    let mut wanted = vec![("all-secure".into(), all())];
    for &budget in &args.secure_memory {
        let constraints = Constraints { secure_memory: Some(budget), ..all() };
        wanted.push((format!("all-secure in {}", ui::bytes(budget)), constraints));
    }
    if args.against.is_some() && args.secure_memory.is_empty() {
        if let Some(cut) = classifier_cut(&model.graph) {
            let cuts = Cuts::Ends { front: None, back: Some(Bound::Cut(cut)) };
            wanted.push(("classifier".into(), Constraints { cuts, ..plan(Protect::Weights) }));
        }
        wanted.push(("ternary".into(), plan(Protect::Both)));
    }
    wanted
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| "give a number of seconds above 0".into())
}
