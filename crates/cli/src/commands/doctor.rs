//! `cordon doctor`: what this machine offers, and what to do about what it lacks.

use crate::backend::BackendArgs;
use crate::failure::{Failure, Outcome, own};
use crate::ui::Ui;
use cordon_protocol::State;
use cordon_runtime::backend::{Check, Verdict};
use cordon_runtime::{Backend, Device, Enclave, Greeting, Resources};
use cordon_seal::Scratch;
use serde_json::json;
use std::sync::Arc;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    backend: BackendArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let backend = args.backend.open()?;
    let mut checks = vec![architecture()];
    checks.extend(backend.checks());
    let bar = ui.progress(0, "starting an enclave");
    checks.extend(enclave(&backend));
    bar.finish_and_clear();
    checks.extend(executors());
    checks.push(device(backend.clone()));
    show(&checks, ui);
    if backend.is_development() {
        ui.line("");
        ui.line(format!(
            "Even with every line ok, the {} backend is development isolation: no hardware keeps a privileged host out.",
            backend.name()
        ));
    }
    match checks.iter().find(|check| check.verdict == Verdict::Broken) {
        Some(check) => Err(Failure::new(&own::SYSTEM, format!("{}: {}", check.what, check.got), check.advice.clone())),
        None => Ok(()),
    }
}

fn show(checks: &[Check], ui: Ui) {
    let word = |verdict| match verdict {
        Verdict::Good => "ok",
        Verdict::Missing => "missing",
        Verdict::Broken => "broken",
    };
    for check in checks {
        let padded = format!("{:8}", word(check.verdict));
        let painted = match check.verdict {
            Verdict::Good => ui.good(&padded),
            _ => ui.warn(&padded),
        };
        ui.line(format!("{painted} {}: expected {}, got {}", check.what, check.expected, check.got));
        if check.verdict != Verdict::Good {
            ui.line(format!("         {}", check.advice));
        }
        ui.json(&json!({
            "check": check.what,
            "expected": check.expected,
            "got": check.got,
            "verdict": word(check.verdict),
            "advice": check.advice,
        }));
    }
}

fn architecture() -> Check {
    let got = std::env::consts::ARCH;
    let verdict = if matches!(got, "x86_64" | "aarch64") { Verdict::Good } else { Verdict::Missing };
    Check::new("processor", "x86_64 or aarch64", got, verdict, "only the portable kernels run here: correct but slow")
}

/// Starts an enclave on a device made for the purpose and reads what it says about itself.
fn enclave(backend: &Arc<dyn Backend>) -> Vec<Check> {
    const EXPECTED: &str = "starts, makes a device key and answers";
    let what = format!("{} enclave", backend.name());
    match greeting(backend) {
        Err(failure) => {
            vec![Check::new(&what, EXPECTED, failure.to_string(), Verdict::Broken, backend.start_advice())]
        }
        Ok(greeting) => {
            let mut checks = vec![Check::new(&what, EXPECTED, "it does", Verdict::Good, "")];
            checks.extend([kernels(&greeting), threads(&greeting), chunk_cipher(&greeting)]);
            checks.extend(greeting.protections.iter().map(|protection| {
                let (got, verdict, advice) = match protection.state {
                    State::InForce => ("in force", Verdict::Good, ""),
                    State::Missing(reason) => (reason.name(), Verdict::Missing, backend.advice(reason)),
                };
                Check::new(protection.guard.name(), "in force", got, verdict, advice)
            }));
            checks
        }
    }
}

fn greeting(backend: &Arc<dyn Backend>) -> Outcome<Greeting> {
    let scratch = Scratch::new(backend.clone())?;
    let resources = Resources { secure_memory: 64 << 20, threads: backend.default_threads(), store: 0 };
    let enclave = Enclave::greet(scratch.device.start(resources)?)?;
    Ok(enclave.greeting().clone())
}

fn kernels(greeting: &Greeting) -> Check {
    let verdict = if greeting.kernels == "portable" { Verdict::Missing } else { Verdict::Good };
    Check::new(
        "compute kernels",
        "avx512, avx2 or neon",
        greeting.kernels.clone(),
        verdict,
        "this processor lacks AVX2: the portable kernels are correct but slow",
    )
}

fn threads(greeting: &Greeting) -> Check {
    Check::new("enclave threads", "1 or more", greeting.threads.to_string(), Verdict::Good, "")
}

fn chunk_cipher(greeting: &Greeting) -> Check {
    Check::new("chunk cipher", "aes-gcm, or ring if built with fast-aead", &*greeting.chunk_cipher, Verdict::Good, "")
}

fn executors() -> Vec<Check> {
    let options = cordon_executor::Options::default();
    let rten = match cordon_executor::open("rten", &options) {
        Ok(_) => Check::new("executor rten", "built in", "built in", Verdict::Good, ""),
        Err(error) => Check::new("executor rten", "built in", error.to_string(), Verdict::Broken, "rebuild Cordon"),
    };
    let library = match cordon_executor::find_onnxruntime(&options) {
        Ok(path) => Check::new("executor onnxruntime", "library found", path.display().to_string(), Verdict::Good, ""),
        Err(error) => Check::new(
            "executor onnxruntime",
            "library found",
            error.to_string().lines().next().unwrap_or_default().to_owned(),
            Verdict::Missing,
            "optional: `pip install onnxruntime`, or name the library with --onnxruntime",
        ),
    };
    vec![rten, library]
}

fn device(backend: Arc<dyn Backend>) -> Check {
    const EXPECTED: &str = "initialised";
    const ADVICE: &str = "`cordon device init --owner PUB` makes one; not needed for `cordon demo`";
    let Some(dir) = Device::default_dir() else {
        return Check::new("device folder", EXPECTED, "no home folder", Verdict::Missing, "name one with --device DIR");
    };
    match Device::open(backend, &dir) {
        Ok(_) => Check::new("device folder", EXPECTED, dir.display().to_string(), Verdict::Good, ""),
        Err(_) => {
            Check::new("device folder", EXPECTED, format!("nothing in {}", dir.display()), Verdict::Missing, ADVICE)
        }
    }
}
