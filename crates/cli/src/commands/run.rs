//! `cordon run`: a package on files.

use crate::backend::BackendArgs;
use crate::commands::{device, plan::parse_size};
use crate::failure::{Failure, Outcome, own};
use crate::inputs::{Interface, Request};
use crate::model::ExecutorArgs;
use crate::ui::{self, Ui};
use crate::{files, results};
use cordon_executor::Tensor;
use cordon_package::Manifest;
use cordon_plan::predict_sealed;
use cordon_runtime::{Deployment, Output, Run};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package
    package: PathBuf,

    /// A file (.png, .jpg, .npy, .npz, .pb), NAME=file, or a folder of them, one request each; may be repeated
    #[arg(long = "input", required = true, value_name = "[NAME=]FILE|DIR")]
    inputs: Vec<String>,

    /// The device's folder; the user's data folder by default
    #[arg(long, value_name = "DIR")]
    device: Option<PathBuf>,

    /// A grant for this device; PACKAGE.grant is used when it is there
    #[arg(long, value_name = "FILE")]
    grant: Option<PathBuf>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Budget of secure memory, for example 14MiB; by default what the package needs with all weights inside
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    secure_memory: Option<u64>,

    #[command(flatten)]
    executor: ExecutorArgs,

    /// Classes to print
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,

    /// Also write the outputs: .npy, or .npz for several outputs
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    if let Some(path) = &args.output {
        check_output(path)?;
    }
    let bar = ui.progress(0, "loading the package");
    let mut options = Deployment::options()
        .backend(args.backend.open()?)
        .device(device::dir(args.device.clone())?)
        .executor(&args.executor.executor, args.executor.options());
    if let Some(threads) = args.executor.threads {
        options = options.threads(threads);
    }
    if let Some(bytes) = args.secure_memory {
        options = options.secure_memory(bytes);
    }
    if let Some(grant) = &args.grant {
        options = options.grant(grant);
    }
    let mut deployment = options.open(&args.package)?;
    bar.finish_and_clear();
    let requests = Interface::of(deployment.manifest()).requests(&args.inputs)?;
    let bar = ui.progress(requests.len() as u64, "running");
    let mut done: Vec<(&Request, Run)> = Vec::with_capacity(requests.len());
    for request in &requests {
        let inputs: Vec<(&str, &Tensor)> = request.inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let run = deployment.run(&inputs).map_err(|error| Failure::from(error).within(&request.label))?;
        done.push((request, run));
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (request, run) in &done {
        show(request, run, &deployment, args.top, ui);
        ui.json(&as_json(request, run, &deployment, args.top));
    }
    if let Some(path) = &args.output {
        let runs: Vec<&Run> = done.iter().map(|(_, run)| run).collect();
        write_outputs(path, &runs)?;
        ui.line(format!("outputs written to {}", path.display()));
    }
    if let Some((_, run)) = done.last().filter(|_| deployment.greeting().is_some()) {
        let mean = done.iter().map(|(_, run)| run.elapsed.as_secs_f64()).sum::<f64>() / done.len() as f64;
        ui.line(format!(
            "{} request(s), {:.2} ms each, secure memory {} at most (predicted {}), {} crossing per request{}",
            done.len(),
            mean * 1e3,
            ui::bytes(run.memory.peak),
            predicted(&deployment, run).map_or("nothing".into(), ui::bytes),
            ui::bytes(run.crossing_bytes()),
            if is_rounded(deployment.manifest()) { ", secure weights in f16" } else { "" }
        ));
    }
    Ok(())
}

fn show(request: &Request, run: &Run, deployment: &Deployment, top: usize, ui: Ui) {
    for (index, (name, output)) in run.outputs.iter().enumerate() {
        let (axis, logits) = results::meaning(deployment.package(), index);
        let text = match output {
            Output::Ranked(ranked) => results::ranked_text(ranked, top),
            Output::Tensor(tensor) => match axis.and_then(|axis| results::classes(tensor, axis, logits, top)) {
                Some(classes) => results::classes_text(&classes),
                None => results::summary(tensor),
            },
        };
        ui.line(format!("{}  {name}: {text}", request.label));
    }
}

/// Secure memory predicted for the package in this enclave; `None` without an enclave.
fn predicted(deployment: &Deployment, run: &Run) -> Option<u64> {
    let threads = usize::try_from(deployment.greeting()?.threads).ok()?;
    let resident = deployment.manifest().segments.iter().map(|segment| segment.resident_peak).sum();
    Some(predict_sealed(resident, threads, run.memory.limit, deployment.profile()))
}

fn as_json(request: &Request, run: &Run, deployment: &Deployment, top: usize) -> serde_json::Value {
    let outputs: Vec<serde_json::Value> = run
        .outputs
        .iter()
        .enumerate()
        .map(|(index, (name, output))| {
            let (axis, logits) = results::meaning(deployment.package(), index);
            match output {
                Output::Ranked(ranked) => json!({ "name": name, "classes": results::ranked_json(ranked, top) }),
                Output::Tensor(tensor) => json!({
                    "name": name,
                    "elem": tensor.elem.name(),
                    "shape": tensor.dims,
                    "classes": axis.and_then(|axis| results::classes(tensor, axis, logits, top)).map(|rows| results::classes_json(&rows)),
                }),
            }
        })
        .collect();
    json!({
        "input": request.label,
        "outputs": outputs,
        "elapsed_ms": run.elapsed.as_secs_f64() * 1e3,
        "secure_memory_limit": run.memory.limit,
        "secure_memory_predicted": predicted(deployment, run),
        "secure_memory_measured": run.memory.peak,
        "enclave_threads": deployment.greeting().map(|greeting| greeting.threads),
        "f16_weights": is_rounded(deployment.manifest()),
        "chunk_cipher": deployment.greeting().map(|greeting| greeting.chunk_cipher.as_str()),
        "crossings": run.crossings(),
        "crossing_bytes": run.crossing_bytes(),
    })
}

/// Whether the owner had weights stored as f16.
fn is_rounded(manifest: &Manifest) -> bool {
    manifest.segments.iter().any(|segment| segment.f16_weights)
}

/// Refuses an output file of the wrong kind before anything is run.
fn check_output(path: &Path) -> Outcome {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy" | "npz") => Ok(()),
        _ => Err(Failure::new(
            &own::ARGUMENT,
            format!("--output {} is neither .npy nor .npz", path.display()),
            "name a .npy file, or a .npz file for several outputs",
        )),
    }
}

/// Writes all outputs, those of several requests one after the other along the first axis.
fn write_outputs(path: &Path, runs: &[&Run]) -> Outcome {
    let names: Vec<&str> =
        runs.first().map(|run| run.outputs.iter().map(|(name, _)| name.as_str()).collect()).unwrap_or_default();
    let mut tensors = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let parts = runs.iter().map(|run| results::as_tensor(&run.outputs[index].1)).collect::<Outcome<Vec<_>>>()?;
        tensors.push(((*name).to_owned(), results::concatenate(&parts)?));
    }
    let bytes = match (path.extension().and_then(|extension| extension.to_str()), tensors.as_slice()) {
        (Some("npy"), [(_, tensor)]) => cordon_executor::files::to_npy(tensor)?,
        (Some("npy"), several) => {
            return Err(Failure::new(
                &own::ARGUMENT,
                format!("a .npy file holds one array, and there are {} outputs", several.len()),
                "name a .npz file",
            ));
        }
        _ => cordon_executor::files::to_npz(&tensors)?,
    };
    files::write(path, &bytes)
}
