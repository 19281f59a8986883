//! `cordon seal`: plan + model + keys → a checked package.

use crate::failure::{Failure, Outcome, own};
use crate::inputs::Interface;
use crate::model::{ExecutorArgs, ModelArgs};
use crate::package::parse_date;
use crate::ui::{self, Ui};
use crate::{files, keys, model};
use cordon_package::OutputPolicy;
use cordon_plain::Origin;
use cordon_plan::{Model, Plan, Profile};
use cordon_runtime::backend;
use cordon_seal::{Contents, Identity, Probe, STEPS, Sealed, Steps};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    executor: ExecutorArgs,

    /// The plan that `cordon plan` made for this very model
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,

    /// The owner's secret key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,

    /// Who may open it: `cordon1…`, or a file that holds it; may be repeated. The owner always may
    #[arg(long = "recipient", value_name = "R")]
    recipients: Vec<String>,

    /// Name that versions are counted of; the model's file name by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Version; devices refuse older ones afterwards
    #[arg(long = "version", value_name = "V", default_value_t = 1)]
    number: u64,

    /// Last day of validity, YYYY-MM-DD (UTC)
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    not_after: Option<u64>,

    /// Most requests one device may serve
    #[arg(long, value_name = "N")]
    max_requests: Option<u64>,

    /// What leaves the enclave: full, rounded:D, top:K, top:K:D or label
    #[arg(long, value_name = "POLICY", default_value = "full", value_parser = parse_policy)]
    output_policy: OutputPolicy,

    /// An input for the check instead of the three seeded ones: [NAME=]FILE or a folder; may be repeated
    #[arg(long = "probe", value_name = "FILE")]
    probes: Vec<String>,

    /// The package
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let owner = keys::owner_key(&args.owner)?;
    let recipients = args.recipients.iter().map(|text| keys::recipient(text)).collect::<Outcome<Vec<_>>>()?;
    let plan = read_plan(&args.plan)?;
    let model = read_model(&args.model, &plan, &args.executor, ui)?;
    let backend = backend::open(&plan.memory.platform)?;
    let probes = probes(&args.probes, &model, &plan, backend.profile())?;
    let name = args.name.clone().unwrap_or_else(|| default_name(&args.model.model));
    let identity = Identity {
        owner: &owner,
        recipients: &recipients,
        name: &name,
        version: args.number,
        not_after: args.not_after,
        max_requests: args.max_requests,
        policy: args.output_policy,
    };
    let bar = ui.progress(0, "sealing");
    let sealed = cordon_seal::seal(
        &model,
        &plan,
        &backend,
        &identity,
        (&args.executor.executor, &args.executor.options()),
        &probes,
        &args.output,
        &mut |stage| bar.set_message(stage.to_owned()),
    );
    bar.finish_and_clear();
    let sealed = sealed?;
    show(&sealed, &identity, &plan, ui);
    ui.json(&as_json(&sealed, &identity, &plan));
    Ok(())
}

/// Reads a plan file.
pub(crate) fn read_plan(path: &Path) -> Outcome<Plan> {
    let text = files::read_text(path, "plan")?;
    Plan::from_toml(&text).map_err(|error| Failure::from(error).within(path.display()))
}

/// Reads the model a plan was made for. Shapes come from the plan; `--shape` may only repeat them.
pub(crate) fn read_model(args: &ModelArgs, plan: &Plan, executor: &ExecutorArgs, ui: Ui) -> Outcome<Model> {
    let given = args.shapes()?;
    if let Some((name, _)) = given.iter().find(|(name, dims)| plan.model.shapes.get(*name) != Some(dims)) {
        return Err(Failure::new(
            &own::ARGUMENT,
            format!("--shape {name}=… is not what the plan was made with"),
            "drop --shape here, or make the plan again with it",
        ));
    }
    model::read(args, &plan.model.shapes, executor, ui)
}

/// The probes named, or three seeded ones.
fn probes(arguments: &[String], model: &Model, plan: &Plan, profile: &Profile) -> Outcome<Vec<Probe>> {
    if arguments.is_empty() {
        return Ok(cordon_seal::seeded(model, 3)?);
    }
    // The manifest knows inputs and preprocessing in the form that reading files needs.
    let interface = Interface::of(&Contents::new(model, plan, profile)?.manifest);
    let mut probes = Vec::new();
    for argument in arguments {
        let requests = interface.requests(core::slice::from_ref(argument))?;
        probes.extend(requests.into_iter().map(|request| Probe { label: request.label, inputs: request.inputs }));
    }
    Ok(probes)
}

fn default_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned())
}

fn parse_policy(text: &str) -> Result<OutputPolicy, String> {
    text.parse().map_err(|error: cordon_package::PackageError| error.to_string())
}

/// Prints what was sealed and what the check found.
pub(crate) fn show(sealed: &Sealed, identity: &Identity<'_>, plan: &Plan, ui: Ui) {
    let golden = &sealed.golden;
    ui.line(format!(
        "{}  {} version {}, {}",
        sealed.path.display(),
        identity.name,
        identity.version,
        ui::bytes(sealed.bytes)
    ));
    ui.line(format!("signed by   {}", identity.owner.public()));
    ui.line(format!("opens for   the owner and {} recipient(s)", identity.recipients.len()));
    match identity.policy {
        OutputPolicy::Full => ui.line(ui.warn(
            "output      full: every score leaves the enclave, which helps copying the model; --output-policy label gives least",
        )),
        policy => ui.line(format!("output      {policy}, applied inside")),
    }
    if identity.recipients.iter().any(|recipient| recipient.platform().is_development()) {
        ui.line(ui.warn("development a recipient has no hardware protection: real platforms refuse this package"));
    }
    ui.heading("Check against the plain model");
    if let Origin::Graph(why) = &golden.reference {
        ui.line(ui.warn(&format!("the engine ran the model as Cordon reads it, not the file itself: {why}")));
    }
    let mut worst: BTreeMap<(bool, &str), (f64, Option<Steps>, usize)> = BTreeMap::new();
    for compared in &golden.compared {
        let (error, steps, probes) = worst.entry((compared.output, &compared.value)).or_default();
        (*error, *probes) = (error.max(compared.error), *probes + 1);
        *steps = compared.steps.map(|more| {
            let before = steps.unwrap_or(more);
            Steps { largest: more.largest.max(before.largest), mean: more.mean.max(before.mean) }
        });
    }
    let rows: Vec<Vec<String>> = worst
        .iter()
        .map(|((output, value), (error, steps, probes))| {
            let kind = if *output { "output" } else { "crossing" };
            let steps = |pick: fn(Steps) -> f64| steps.map_or("-".into(), |steps| format!("{:.2}", pick(steps)));
            let mut row = vec![(*value).to_owned(), kind.into(), probes.to_string(), format!("{error:.1e}")];
            row.extend([steps(|steps| steps.largest), steps(|steps| steps.mean)]);
            row
        })
        .collect();
    let quantised = golden.compared.iter().any(|compared| compared.steps.is_some());
    let columns = if quantised { 6 } else { 4 };
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row[..columns].to_vec()).collect();
    let heads = ["value", "kind", "probes", "largest error", "in steps", "mean"];
    ui.table(&heads[..columns], &[false, false, true, true, true, true][..columns], &rows);
    ui.line(format!(
        "{} within {:.1e} of the largest magnitude{}{}",
        ui.good("equal"),
        golden.tolerance,
        if quantised {
            format!(
                "; what the model quantises within {} steps, {} in the mean, beside that",
                STEPS.largest, STEPS.mean
            )
        } else {
            String::new()
        },
        if golden.twin {
            "; outputs compared before the policy, on the same sections sealed with policy full"
        } else {
            ""
        }
    ));
    if golden.rounded > 0 {
        ui.line(format!(
            "{} weight tensors rounded to f16, each allowed to add 2^-11 to the difference",
            golden.rounded
        ));
    }
    if let (true, Some((same, all))) = (golden.rounded > 0 || quantised, golden.same_class) {
        ui.line(format!("best class as in the plain model in {same} of {all} answers"));
    }
    if plan.is_protected() {
        ui.line(format!(
            "secure memory: predicted {}, measured {}",
            ui::bytes(plan.memory.predicted),
            ui::bytes(golden.secure_memory)
        ));
        if golden.secure_memory > plan.memory.predicted {
            ui.line(ui.warn("The prediction was too low. Please report it with the model."));
        }
    }
}

fn steps_json(steps: Steps) -> serde_json::Value {
    json!({ "largest": steps.largest, "mean": steps.mean })
}

fn as_json(sealed: &Sealed, identity: &Identity<'_>, plan: &Plan) -> serde_json::Value {
    json!({
        "package": sealed.path.display().to_string(),
        "bytes": sealed.bytes,
        "name": identity.name,
        "version": identity.version,
        "owner": identity.owner.public().to_string(),
        "recipients": identity.recipients.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "output_policy": identity.policy.to_string(),
        "check": sealed.golden.compared.iter().map(|compared| json!({
            "probe": compared.probe,
            "value": compared.value,
            "kind": if compared.output { "output" } else { "crossing" },
            "error": compared.error,
            "steps": compared.steps.map(steps_json),
        })).collect::<Vec<_>>(),
        "tolerance": sealed.golden.tolerance,
        "tolerance_steps": sealed.golden.compared.iter().any(|compared| compared.steps.is_some()).then(|| steps_json(STEPS)),
        "f16_weight_tensors": sealed.golden.rounded,
        "same_class": sealed.golden.same_class.map(|(same, all)| json!({ "answers": all, "same": same })),
        "secure_memory_predicted": plan.memory.predicted,
        "secure_memory_measured": sealed.golden.secure_memory,
    })
}
