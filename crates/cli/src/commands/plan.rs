//! `cordon plan`: placement, written as a file a person reviews.

use crate::backend::BackendArgs;
use crate::failure::{Failure, Outcome, own};
use crate::model::{ExecutorArgs, ModelArgs};
use crate::ui::{self, Ui};
use crate::{files, model};
use cordon_plan::{
    Bound, Constraints, Cuts, ImageOptions, Plan, PlanError, Protect, Role, Stretch, WeightFormat, World,
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    executor: ExecutorArgs,
    #[command(flatten)]
    backend: BackendArgs,

    /// What to protect
    #[arg(long, value_enum)]
    protect: Goal,

    /// End of the FrontNet: a number of the cut table, or a node, which is included
    #[arg(long, value_name = "N|NODE")]
    front: Option<String>,

    /// Start of the BackNet: a number of the cut table, or a node, which is included
    #[arg(long, value_name = "N|NODE")]
    back: Option<String>,

    /// Secure nodes, instead of --front and --back: each end a number of the cut table (0 is the model's start), or a node,
    /// which is included; may be repeated
    #[arg(long, value_name = "FROM..TO", conflicts_with_all = ["front", "back"], value_parser = parse_stretch)]
    secure: Vec<Stretch>,

    /// Most secure memory the enclave may use, for example 14MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    secure_memory: Option<u64>,

    /// How secure weights are stored: f16 takes half the bytes, and rounds them
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,

    /// How an image becomes an input, for example data:size=224,crop=center,rgb,mean=0.485,0.456,0.406,std=0.229,0.224,0.225
    #[arg(long, value_name = "NAME:OPTIONS", value_parser = ImageOptions::parse)]
    image: Option<ImageOptions>,

    /// Class labels, one per line; encrypted in the package
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    /// The plan file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// What to protect.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Goal {
    /// The network's parameters: all nodes inside, or those after --back
    Weights,
    /// What users send: the first nodes inside
    Inputs,
    /// Both: first and last nodes inside
    Both,
    /// Everything inside
    All,
    /// Nothing, for comparison
    None,
}

impl From<Goal> for Protect {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Weights => Self::Weights,
            Goal::Inputs => Self::Inputs,
            Goal::Both => Self::Both,
            Goal::All => Self::All,
            Goal::None => Self::None,
        }
    }
}

/// How weights that convolutions and products of secure segments multiply by are stored.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Weights {
    /// As they are
    F32,
    /// Each rounded to half precision; `cordon seal` says what that changes
    F16,
}

impl From<Weights> for WeightFormat {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::F32 => Self::F32,
            Weights::F16 => Self::F16,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let backend = args.backend.open()?;
    let constraints = Constraints {
        protect: args.protect.into(),
        cuts: if args.secure.is_empty() {
            Cuts::Ends { front: args.front.as_deref().map(Bound::parse), back: args.back.as_deref().map(Bound::parse) }
        } else {
            Cuts::Stretches(args.secure.clone())
        },
        secure_memory: args.secure_memory,
        weights: args.weights.into(),
        preprocessing: args.image.clone(),
        labels: args.labels.as_deref().map(read_labels).transpose()?.unwrap_or_default(),
    };
    let model = model::read(&args.model, &args.model.shapes()?, &args.executor, ui)?;
    let bar = ui.progress(0, "lowering secure segments");
    let plan = cordon_plan::make(&model, &constraints, backend.profile());
    bar.finish_and_clear();
    let plan = plan?;
    files::write(&args.output, plan.to_toml()?.as_bytes())?;
    show(&plan, ui);
    ui.line(format!(
        "Written to {}. It names nodes of the model: keep it as private as the model.",
        args.output.display()
    ));
    ui.json(&as_json(&plan, &args.output));
    Ok(())
}

/// Prints the plan for a person.
pub(crate) fn show(plan: &Plan, ui: Ui) {
    ui.heading("Segments");
    let rows: Vec<Vec<String>> = plan
        .segments
        .iter()
        .map(|segment| {
            vec![
                segment.role.to_string(),
                segment.placement.to_string(),
                segment.nodes.len().to_string(),
                segment.nodes.first().cloned().unwrap_or_default(),
                segment.nodes.last().cloned().unwrap_or_default(),
                ui::bytes(segment.weight_bytes),
                segment.secure_memory.map_or("-".into(), ui::bytes),
                segment.arena.map_or("-".into(), |[arena, _]| ui::bytes(arena)),
                segment.arena.map_or("-".into(), |[_, bound]| ui::bytes(bound)),
            ]
        })
        .collect();
    let header =
        ["segment", "world", "nodes", "first", "last", "weights", "secure memory", "arena", "arena's lower bound"];
    ui.table(&header, &[false, false, true, false, false, true, true, true, true], &rows);
    if !plan.crossings.is_empty() {
        ui.heading("Crossings per request");
        let rows: Vec<Vec<String>> = plan
            .crossings
            .iter()
            .map(|crossing| {
                let direction = match crossing.to {
                    World::Secure => "enters",
                    World::Normal => "leaves",
                };
                let role = match plan.segments.get(crossing.segment).map(|segment| segment.role) {
                    // There may be several.
                    Some(role @ Role::Inner) => format!("{role} (segment {})", crossing.segment),
                    role => role.map_or_else(|| "?".into(), |role| role.to_string()),
                };
                vec![
                    crossing.value.clone(),
                    crossing.kind.clone(),
                    format!("{direction} {role}"),
                    ui::shape(&crossing.shape),
                    ui::bytes(crossing.bytes),
                ]
            })
            .collect();
        ui.table(&["value", "kind", "direction", "shape", "size"], &[false, false, false, false, true], &rows);
    }
    if plan.weights == WeightFormat::F16 {
        ui.line("\nSecure weights are stored as f16: rounded. `cordon seal` compares with the model as it is and says the difference.");
    }
    ui.line(format!("\nSecure memory predicted: {} (measured is never more)", ui::bytes(plan.memory.predicted)));
    if plan.memory.streamed > 0 {
        ui.line(format!(
            "Weights decrypted again for every request: {}; predicted time: {:.2} of that with everything inside (rough)",
            ui::bytes(plan.memory.streamed),
            plan.memory.slowdown
        ));
    }
    if plan.memory.spilled > 0 {
        ui.line(format!(
            "Activations that leave encrypted and come back in every request: {}, about {:.0} ms",
            ui::bytes(plan.memory.spilled),
            plan.memory.spill_ms
        ));
    }
    ui.heading("In words");
    for paragraph in plan.words.trim().split("\n\n") {
        let painted = if paragraph.starts_with("Warning:") { ui.warn(paragraph) } else { paragraph.to_owned() };
        ui.line(painted);
    }
}

fn as_json(plan: &Plan, path: &Path) -> serde_json::Value {
    json!({
        "plan": path.display().to_string(),
        "model_sha256": plan.model.sha256,
        "protect": plan.goal.protect.to_string(),
        "weights": plan.weights.to_string(),
        "assessed": plan.goal.report.is_some(),
        "segments": plan.segments.iter().map(|segment| json!({
            "role": segment.role,
            "placement": segment.placement.to_string(),
            "from_cut": segment.from_cut,
            "to_cut": segment.to_cut,
            "nodes": segment.nodes.len(),
            "weight_bytes": segment.weight_bytes,
            "secure_memory": segment.secure_memory,
            "arena_bytes": segment.arena.map(|[arena, _]| arena),
            "arena_lower_bound": segment.arena.map(|[_, bound]| bound),
        })).collect::<Vec<_>>(),
        "crossings": plan.crossings,
        "crossing_bytes": plan.crossing_bytes(),
        "secure_memory_predicted": plan.memory.predicted,
        "secure_memory_minimum": plan.memory.minimum,
        "streamed_bytes_per_request": plan.memory.streamed,
        "spilled_bytes_per_request": plan.memory.spilled,
        "spill_ms_predicted": plan.memory.spill_ms,
        "slowdown_predicted": plan.memory.slowdown,
        "words": plan.words,
        "warnings": plan.warnings,
    })
}

fn parse_stretch(text: &str) -> Result<Stretch, String> {
    Stretch::parse(text).map_err(|error: PlanError| error.to_string())
}

fn read_labels(path: &Path) -> Outcome<Vec<String>> {
    let text = files::read_text(path, "labels file")?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() || labels.iter().any(String::is_empty) {
        return Err(Failure::new(
            &own::ARGUMENT,
            format!("labels file {} is empty or has an empty line", path.display()),
            "write one label per line, one line per class",
        ));
    }
    Ok(labels)
}

/// Reads `14MiB`, `64MB`, `1GiB` or a number of bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let usage = || "write a size such as 14MiB, 64MB, 1GiB or a number of bytes".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| usage())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(usage()),
    };
    number.checked_mul(factor).filter(|&size| size > 0).ok_or_else(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_size("14MiB"), Ok(14 << 20));
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "MiB", "12XiB", "0", "99999999999GiB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
