//! `cordon demo`: the whole pipeline on a bundled model and images, in a temporary folder.

use crate::backend::BackendArgs;
use crate::commands::{bench::median, inspect, plan as plan_command, seal as seal_command};
use crate::failure::{Failure, Outcome, own};
use crate::inputs::Interface;
use crate::model::ExecutorArgs;
use crate::ui::{self, Ui};
use crate::{files, results};
use cordon_executor::Tensor;
use cordon_package::OutputPolicy;
use cordon_plain::{EngineEvaluator, PlainModel};
use cordon_plan::{Bound, Constraints, Cuts, ImageOptions, Model, Plan, Protect, make, prepare};
use cordon_runtime::{Deployment, Output};
use cordon_seal::{Identity, Scratch, Sealed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The network of `examples/digits`.
const MODEL: &[u8] = include_bytes!("../../../../examples/digits/digits.onnx");
const LABELS: &str = include_str!("../../../../examples/digits/labels.txt");
const IMAGE_OPTIONS: &str = "image:size=32,gray,mean=0.3,std=0.35";
/// The FrontNet ends with this node, the BackNet starts with the other.
const FRONT: &str = "block2.pool";
const BACK: &str = "hidden";
/// Test images, by true class.
const IMAGES: [&[u8]; 10] = [
    include_bytes!("../../../../examples/digits/images/0.png"),
    include_bytes!("../../../../examples/digits/images/1.png"),
    include_bytes!("../../../../examples/digits/images/2.png"),
    include_bytes!("../../../../examples/digits/images/3.png"),
    include_bytes!("../../../../examples/digits/images/4.png"),
    include_bytes!("../../../../examples/digits/images/5.png"),
    include_bytes!("../../../../examples/digits/images/6.png"),
    include_bytes!("../../../../examples/digits/images/7.png"),
    include_bytes!("../../../../examples/digits/images/8.png"),
    include_bytes!("../../../../examples/digits/images/9.png"),
];
/// Rounds of all images that the overhead is measured over.
const ROUNDS: usize = 5;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    executor: ExecutorArgs,
    #[command(flatten)]
    backend: BackendArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let started = Instant::now();
    ui.line("A small network, really trained on handwritten digits (358 of 360 test images right), is split in three:");
    ui.line("its first and last layers run in an isolated enclave, the middle on the ordinary engine.");
    step(
        ui,
        1,
        "Keys: the owner's, and a device whose key is made inside the enclave",
        "cordon keygen owner -o owner.key; cordon device init --owner owner.key.pub",
    );
    let backend = args.backend.open()?;
    let scratch = Scratch::new(backend.clone())?;
    ui.line(format!("owner      {}", scratch.owner.public()));
    ui.line(format!("recipient  {}", scratch.device.recipient));
    let folder = scratch.device.path();
    let model_path = folder.join("digits.onnx");
    files::write(&model_path, MODEL)?;
    let images = write_images(folder)?;

    step(ui, 2, "Inspect", "cordon inspect digits.onnx");
    let engine = args.executor.open()?;
    let model = prepare(&model_path, &BTreeMap::new(), &mut EngineEvaluator(engine.as_ref()))?;
    inspect::show(&model, &cordon_plan::inspect(&model, backend.profile()), ui);

    step(
        ui,
        3,
        "Plan",
        &format!(
            "cordon plan digits.onnx --protect both --front {FRONT} --back {BACK} --image {IMAGE_OPTIONS} --labels labels.txt -o plan.toml"
        ),
    );
    let plan = make(&model, &constraints()?, backend.profile())?;
    plan_command::show(&plan, ui);

    step(
        ui,
        4,
        "Seal",
        "cordon seal digits.onnx --plan plan.toml --owner owner.key --recipient cordon1… --version 2 --output-policy top:3 -o digits.cordon",
    );
    let sealed = seal(&model, &plan, &scratch, &args.executor, ui)?;

    step(ui, 5, "Run every image in the enclave", "cordon run digits.cordon --input images/");
    let options = args.executor.options();
    let executor = (args.executor.executor.as_str(), &options);
    let mut deployment = scratch.open(&sealed.path, &plan, executor)?;
    let plain = PlainModel::open(&model_path, &model.graph, &model.graph.outputs, engine.as_ref())?;
    let comparison = compare(plain, &mut deployment, &images, ui)?;
    let exceeded = comparison.memory > plan.memory.predicted;
    ui.line(format!(
        "\nsecure memory  predicted {}, measured {}",
        ui::bytes(plan.memory.predicted),
        ui::bytes(comparison.memory)
    ));
    ui.line(format!(
        "time per image plain {:.2} ms, sealed {:.2} ms: {:.1} times",
        comparison.plain_ms,
        comparison.sealed_ms,
        comparison.sealed_ms / comparison.plain_ms
    ));
    ui.line("               (so small a network mostly measures the crossings; `cordon bench` measures your own)");
    protections(&deployment, ui);
    drop(deployment);

    step(ui, 6, "What is refused", "one flipped bit; then version 1 after version 2");
    let tampered =
        refused(&scratch, &plan, executor, &tamper(&sealed.path, folder)?, "a package with one flipped bit", ui)?;
    let old = scratch.seal_unchecked(&model, &plan, "digits", 1, OutputPolicy::Label)?;
    let older = refused(&scratch, &plan, executor, &old, "version 1, validly signed, after version 2 ran", ui)?;

    let seconds = started.elapsed().as_secs_f64();
    ui.line(format!("\nDone in {seconds:.1} s. Everything lay in a temporary folder and is gone. README.md shows the commands one by one."));
    ui.json(&json!({
        "images": comparison.rows,
        "agree": comparison.agree,
        "secure_memory_predicted": plan.memory.predicted,
        "secure_memory_measured": comparison.memory,
        "plain_ms": comparison.plain_ms,
        "sealed_ms": comparison.sealed_ms,
        "refused": { "tampered": tampered, "older": older },
        "words": plan.words,
        "seconds": seconds,
    }));
    if comparison.agree < images.len() || exceeded {
        return Err(Failure::new(
            &own::DISAGREEMENT,
            "the sealed model and the plain model, or prediction and measurement, do not agree",
            "this is a bug: report it with the output above and that of `cordon doctor`",
        ));
    }
    Ok(())
}

fn step(ui: Ui, number: u32, title: &str, command: &str) {
    ui.heading(&format!("{number}. {title}"));
    ui.line(format!("$ {command}\n"));
}

fn constraints() -> Outcome<Constraints> {
    let image = ImageOptions::parse(IMAGE_OPTIONS)
        .map_err(|error| Failure::new(&own::DISAGREEMENT, error, "rebuild Cordon"))?;
    Ok(Constraints {
        cuts: Cuts::Ends { front: Some(Bound::Node(FRONT.into())), back: Some(Bound::Node(BACK.into())) },
        preprocessing: Some(image),
        labels: LABELS.lines().map(str::to_owned).collect(),
        ..Constraints::new(Protect::Both)
    })
}

fn write_images(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (class, bytes) in IMAGES.iter().enumerate() {
        let path = folder.join(format!("{class}.png"));
        files::write(&path, bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

fn seal(model: &Model, plan: &Plan, scratch: &Scratch, executor: &ExecutorArgs, ui: Ui) -> Outcome<Sealed> {
    let identity = Identity {
        owner: &scratch.owner,
        recipients: core::slice::from_ref(&scratch.device.recipient),
        name: "digits",
        version: 2,
        not_after: None,
        max_requests: None,
        policy: OutputPolicy::TopK { k: 3, decimals: 2 },
    };
    let bar = ui.progress(0, "sealing");
    let sealed = cordon_seal::seal(
        model,
        plan,
        scratch.device.backend(),
        &identity,
        (&executor.executor, &executor.options()),
        &cordon_seal::seeded(model, 3)?,
        &scratch.device.path().join("digits.cordon"),
        &mut |stage| bar.set_message(stage.to_owned()),
    );
    bar.finish_and_clear();
    let sealed = sealed?;
    seal_command::show(&sealed, &identity, plan, ui);
    Ok(sealed)
}

struct Comparison {
    rows: Vec<Value>,
    agree: usize,
    memory: u64,
    plain_ms: f64,
    sealed_ms: f64,
}

/// Every image through both models, then some more rounds for the time.
fn compare(mut plain: PlainModel, deployment: &mut Deployment, images: &[PathBuf], ui: Ui) -> Outcome<Comparison> {
    let manifest = deployment.manifest().clone();
    let interface = Interface::of(&manifest);
    let (mut plain_ms, mut sealed_ms) = (Vec::new(), Vec::new());
    let (mut rows, mut table, mut agree, mut memory) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        for (truth, path) in images.iter().enumerate() {
            let request = interface.requests(&[path.display().to_string()])?.remove(0);
            let inputs: Vec<(&str, &Tensor)> =
                request.inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
            let started = Instant::now();
            let logits = plain.run(&inputs)?.remove(0);
            plain_ms.push(started.elapsed().as_secs_f64() * 1e3);
            let run = deployment.run(&inputs)?;
            sealed_ms.push(run.elapsed.as_secs_f64() * 1e3);
            memory = memory.max(run.memory.peak);
            if round > 0 {
                continue;
            }
            let best = results::classes(&logits, 1, true, 1).and_then(|rows| rows.first()?.first().copied());
            let (class, score) = best
                .ok_or_else(|| Failure::new(&own::DISAGREEMENT, "the plain model gave no scores", "rebuild Cordon"))?;
            let best = match run.outputs.first() {
                Some((_, Output::Ranked(ranked))) => ranked.rows.first().and_then(|row| row.first()).cloned(),
                _ => None,
            };
            let best = best.ok_or_else(|| {
                Failure::new(&own::DISAGREEMENT, "the enclave gave no ranked output", "rebuild Cordon")
            })?;
            let same = best.class as usize == class;
            agree += usize::from(same);
            let label = best.label.clone().unwrap_or_else(|| best.class.to_string());
            table.push(vec![
                request.label.clone(),
                truth.to_string(),
                format!("{class} ({score:.2})"),
                format!("{label} ({:.2})", best.score.unwrap_or(f32::NAN)),
                if same { ui.good("same") } else { ui.warn("DIFFERENT") },
            ]);
            rows.push(
                json!({ "image": request.label, "truth": truth, "plain": class, "sealed": best.class, "label": label }),
            );
        }
    }
    ui.table(&["image", "truth", "plain model", "sealed model", ""], &[false, true, false, false, false], &table);
    Ok(Comparison { rows, agree, memory, plain_ms: median(&plain_ms), sealed_ms: median(&sealed_ms) })
}

fn protections(deployment: &Deployment, ui: Ui) {
    let Some(greeting) = deployment.greeting() else { return };
    let (good, bad): (Vec<_>, Vec<_>) = greeting.protections.iter().partition(|protection| protection.is_in_force());
    let words = |list: &[&cordon_runtime::Protection]| {
        list.iter().map(|protection| protection.guard.name()).collect::<Vec<_>>().join(", ")
    };
    ui.line(format!("\nenclave        {} platform, {} kernels", greeting.platform, greeting.kernels));
    ui.line(format!("in force       {}", words(&good)));
    ui.line(ui.warn(&format!("missing        {}", words(&bad))));
}

/// The package with one bit flipped in the middle.
fn tamper(package: &Path, folder: &Path) -> Outcome<PathBuf> {
    let mut bytes = std::fs::read(package).map_err(|error| {
        Failure::new(&own::UNREADABLE, format!("cannot read {}: {error}", package.display()), "check TMPDIR")
    })?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let path = folder.join("tampered.cordon");
    files::write(&path, &bytes)?;
    Ok(path)
}

/// Opens a package that must not open, and prints why it did not.
fn refused(
    scratch: &Scratch,
    plan: &Plan,
    executor: (&str, &cordon_executor::Options),
    package: &Path,
    what: &str,
    ui: Ui,
) -> Outcome<String> {
    match scratch.open(package, plan, executor) {
        Ok(_) => Err(Failure::new(
            &own::DISAGREEMENT,
            format!("{what} was accepted"),
            "this is a security bug: report it as SECURITY.md says, with the output of `cordon doctor`",
        )),
        Err(failure) => {
            let reason = failure.to_string();
            let reason = reason.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            ui.line(format!("{} {what}: {reason}", ui.good("refused")));
            Ok(reason)
        }
    }
}
