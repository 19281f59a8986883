//! `cordon doctor`: what this machine offers, and what to do about what it lacks.

use crate::failure::{Failure, Outcome};
use crate::scratch::Scratch;
use crate::ui::Ui;
use cordon_protocol::{Reason, State};
use cordon_runtime::{Backend, Device, Enclave, Greeting, ProcessBackend, Protection};
use serde_json::json;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As expected.
    Good,
    /// Not there; something is weaker or slower, nothing is broken.
    Missing,
    /// Sealed models cannot run here.
    Broken,
}

/// One line of the report.
struct Check {
    what: String,
    expected: String,
    got: String,
    verdict: Verdict,
    advice: String,
}

/// Runs the command.
pub(crate) fn run(_: &Args, ui: Ui) -> Outcome {
    let mut checks = vec![architecture(), kernel(), memory_lock()];
    let bar = ui.progress(0, "starting an enclave");
    checks.extend(enclave());
    bar.finish_and_clear();
    checks.extend(executors());
    checks.push(device());
    show(&checks, ui);
    match checks.iter().find(|check| check.verdict == Verdict::Broken) {
        Some(check) => Err(Failure::new(format!("{}: {}", check.what, check.got), check.advice.clone())),
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
    ui.line("");
    ui.line("Even with every line ok, the process backend is development isolation: no hardware keeps a privileged host out.");
}

fn check(what: &str, expected: &str, got: impl Into<String>, verdict: Verdict, advice: &str) -> Check {
    Check { what: what.into(), expected: expected.into(), got: got.into(), verdict, advice: advice.into() }
}

fn architecture() -> Check {
    let got = std::env::consts::ARCH;
    let verdict = if matches!(got, "x86_64" | "aarch64") { Verdict::Good } else { Verdict::Missing };
    check("processor", "x86_64 or aarch64", got, verdict, "only the portable kernels run here: correct but slow")
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let verdict = if version >= (5, 14) { Verdict::Good } else { Verdict::Missing };
    check(
        "Linux kernel",
        "5.14 or newer",
        if release.is_empty() { "unknown" } else { release },
        verdict,
        "update the kernel: landlock needs 5.13, memfd_secret 5.14; without them the lines below say what is missing",
    )
}

fn memory_lock() -> Check {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().unwrap_or("unknown");
    let enough = soft == "unlimited" || soft.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 20);
    let verdict = if enough { Verdict::Good } else { Verdict::Missing };
    check(
        "locked memory limit",
        "64 MiB or more",
        soft,
        verdict,
        "raise it with `ulimit -l unlimited`; otherwise larger models use ordinary memory, and the report says so",
    )
}

/// Starts an enclave on a device made for the purpose and reads what it says about itself.
fn enclave() -> Vec<Check> {
    const EXPECTED: &str = "starts, makes a device key and answers";
    const ADVICE: &str = "check that memfd_create, seccomp and fork are allowed here (containers often forbid them)";
    match greeting() {
        Err(failure) => vec![check("process enclave", EXPECTED, failure.to_string(), Verdict::Broken, ADVICE)],
        Ok(greeting) => {
            let mut checks = vec![check("process enclave", EXPECTED, "it does", Verdict::Good, "")];
            checks.extend([kernels(&greeting), threads(&greeting), chunk_cipher(&greeting)]);
            checks.extend(greeting.protections.iter().map(|protection| {
                let verdict = if protection.is_in_force() { Verdict::Good } else { Verdict::Missing };
                check(protection.guard.name(), "in force", state(protection), verdict, advice(protection))
            }));
            checks
        }
    }
}

fn greeting() -> Outcome<Greeting> {
    let scratch = Scratch::new()?;
    let key = scratch.device().join("device.key");
    let file = std::fs::File::open(&key)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", key.display()), "check TMPDIR"))?;
    let enclave = Enclave::greet(ProcessBackend::new(file, Some(64 << 20)).start(0)?)?;
    Ok(enclave.greeting().clone())
}

fn kernels(greeting: &Greeting) -> Check {
    let verdict = if greeting.kernels == "portable" { Verdict::Missing } else { Verdict::Good };
    check(
        "compute kernels",
        "avx512, avx2 or neon",
        greeting.kernels.clone(),
        verdict,
        "this processor lacks AVX2: the portable kernels are correct but slow",
    )
}

fn threads(greeting: &Greeting) -> Check {
    check("enclave threads", "1 or more", greeting.threads.to_string(), Verdict::Good, "")
}

fn chunk_cipher(greeting: &Greeting) -> Check {
    check("chunk cipher", "aes-gcm, or ring if built with fast-aead", &*greeting.chunk_cipher, Verdict::Good, "")
}

fn state(protection: &Protection) -> String {
    match protection.state {
        State::InForce => "in force".into(),
        State::Missing(reason) => reason.name().to_owned(),
    }
}

fn advice(protection: &Protection) -> &'static str {
    match protection.state {
        State::InForce => "",
        State::Missing(Reason::Kernel) => "a newer kernel, or one built with this feature, has it",
        State::Missing(Reason::Denied) => "a container or security module forbids it; allow it, or run outside",
        State::Missing(Reason::LockLimit) => "raise the limit with `ulimit -l unlimited`",
        State::Missing(Reason::Platform) => "no process can have it: it takes a hardware TEE",
        State::Missing(Reason::HostControlled) => "the host could replace it: it takes a hardware TEE",
        State::Missing(_) => "see docs/threat-model.md for what that means",
    }
}

fn executors() -> Vec<Check> {
    let options = cordon_executor::Options::default();
    let rten = match cordon_executor::open("rten", &options) {
        Ok(_) => check("executor rten", "built in", "built in", Verdict::Good, ""),
        Err(error) => check("executor rten", "built in", error.to_string(), Verdict::Broken, "rebuild Cordon"),
    };
    let library = match cordon_executor::find_onnxruntime(&options) {
        Ok(path) => check("executor onnxruntime", "library found", path.display().to_string(), Verdict::Good, ""),
        Err(error) => check(
            "executor onnxruntime",
            "library found",
            error.to_string().lines().next().unwrap_or_default().to_owned(),
            Verdict::Missing,
            "optional: `pip install onnxruntime`, or name the library with --onnxruntime",
        ),
    };
    vec![rten, library]
}

fn device() -> Check {
    const EXPECTED: &str = "initialised";
    const ADVICE: &str = "`cordon device init --owner PUB` makes one; not needed for `cordon demo`";
    let Some(dir) = Device::default_dir() else {
        return check("device folder", EXPECTED, "no home folder", Verdict::Missing, "name one with --device DIR");
    };
    match Device::open(&dir) {
        Ok(_) => check("device folder", EXPECTED, dir.display().to_string(), Verdict::Good, ""),
        Err(_) => check("device folder", EXPECTED, format!("nothing in {}", dir.display()), Verdict::Missing, ADVICE),
    }
}
