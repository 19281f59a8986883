//! Runs exported networks: `golden FOLDER [NETWORK …] [--minutes N] [--backend NAME]`; `cargo xtask golden` is the way to call it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cordon_conformance::expectations::Expectations;
use cordon_conformance::golden::{PROBES, Row, check};
use cordon_conformance::networks::{Network, Networks};
use cordon_conformance::place::Enclave;
use cordon_conformance::quantised;
use cordon_executor::Executor;
use cordon_runtime::backend::DEFAULT;

const USAGE: &str = "usage: golden FOLDER [NETWORK …] [--minutes N] [--backend NAME]";
/// The engine that everything is compared with, and that runs normal segments.
const REFERENCE: &str = "onnxruntime:cpu";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (folder, rest) = arguments.split_first().ok_or(USAGE)?;
    let networks = Networks::read()?;
    let mut names: Vec<&str> = Vec::new();
    let mut minutes = f64::INFINITY;
    let mut backend = DEFAULT;
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--minutes" => minutes = words.next().and_then(|n| n.parse().ok()).ok_or("--minutes needs a number")?,
            "--backend" => backend = words.next().ok_or("--backend needs a name")?,
            name => names.push(name),
        }
    }
    let wanted = networks.named(&names)?;
    let options = cordon_executor::Options::default();
    let reference = cordon_executor::open(REFERENCE, &options).map_err(|e| e.to_string())?;
    let mut round = Round {
        folder,
        reference: &*reference,
        enclave: Enclave::open(backend, REFERENCE, options)?,
        trusted: Expectations::of("trusted")?,
        embedded: Expectations::of("rten")?,
        end: minutes * 60.0,
        start: Instant::now(),
        failed: Vec::new(),
        left: Vec::new(),
    };
    println!(
        "errors are relative to the output's largest magnitude; below {:e} passes; reference ONNX Runtime, of the original file\n\
         ternary: sealed, in the enclave; all-secure too where arena and weights are given, else in this process; f16: sealed,\n\
         weights rounded, with what that may add and the draws with the same best class",
        round.trusted.networks.difference
    );
    println!(
        "network          export                 nodes  rten plain  all-secure    ternary  crossings  arena MiB  weights MiB      f16  allowed  class      s"
    );
    for (index, export) in networks.exports.iter().enumerate() {
        for network in wanted.iter().filter(|it| it.only.as_ref().is_none_or(|only| only == export)) {
            round.float(network, export, index == 0 || network.only.is_some());
        }
        if index == 0 {
            round.quantised(&wanted, &networks.quantised);
        }
    }
    let Round { failed, left, .. } = round;
    if !left.is_empty() {
        println!("not run within {minutes} minutes: {}", left.join(", "));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of the golden checks failed: {}", failed.len(), failed.join(", ")))
    }
}

/// One call's checks.
struct Round<'a> {
    folder: &'a str,
    reference: &'a dyn Executor,
    enclave: Enclave,
    trusted: Expectations,
    embedded: Expectations,
    start: Instant,
    /// Seconds after which no check begins.
    end: f64,
    failed: Vec<String>,
    left: Vec<String>,
}

impl Round<'_> {
    /// Makes one check if there is time, prints its line, and keeps the name if it failed.
    fn check(
        &mut self,
        network: &str,
        export: &str,
        check: impl FnOnce(&Self, &Path) -> Result<(String, bool), String>,
    ) {
        if self.start.elapsed().as_secs_f64() > self.end {
            self.left.push(format!("{network}/{export}"));
            return;
        }
        let file: PathBuf = [self.folder, network, export, "model.onnx"].iter().collect();
        let (text, passed) = check(self, &file).unwrap_or_else(|why| (why, false));
        println!("{network:16} {export:22} {text}{}", if passed { "" } else { "  FAILED" });
        if !passed {
            self.failed.push(format!("{network}/{export}"));
        }
    }

    /// One export of one network.
    fn float(&mut self, network: &Network, export: &str, sealed: bool) {
        self.check(&network.name, export, |this, file| {
            let row = check(file, network.size, sealed, this.reference, &this.enclave)?;
            Ok((line(&row), row.passed(this.embedded.networks, this.trusted.networks)))
        });
    }

    /// The 8-bit variants of the networks wanted.
    fn quantised(&mut self, wanted: &[&Network], export: &str) {
        if let Some(why) = quantised::no_reference() {
            println!("8-bit networks skipped: {why}");
            return;
        }
        for network in wanted.iter().filter(|network| network.quantised) {
            self.check(&network.name, export, |this, file| {
                let row = quantised::check(file, network.size, this.reference, &this.enclave)?;
                let allowed = this.trusted.networks;
                let text = format!(
                    "{} of {} values differ, by {} steps of 256 at most ({} allowed), ternary by {} ({}), {:.1} s",
                    row.different,
                    row.elements,
                    row.all_secure,
                    allowed.steps,
                    row.ternary,
                    allowed.steps_ternary,
                    row.time.as_secs_f64()
                );
                Ok((text, row.passed(allowed)))
            });
        }
    }
}

fn line(row: &Row) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let sealed = row.sealed.as_ref().map_or_else(
        || format!("{:>9}  {:>11}  {:>7}  {:>7}  {:>5}", "-", "-", "-", "-", "-"),
        |it| {
            let (arena, weights) = (mib(it.arena), mib(it.weights));
            let class = format!("{}/{PROBES}", it.f16_same_class);
            format!("{arena:9.2}  {weights:11.1}  {:7.1e}  {:7.1e}  {class:>5}", it.f16, it.f16_allowed)
        },
    );
    let time = row.time.as_secs_f64();
    let errors = format!("{:10.1e}  {:10.1e}  {:9.1e}", row.embedded, row.all_secure, row.ternary);
    format!("{:5}  {errors}  {:9}  {sealed}  {time:5.1}", row.nodes, row.crossings)
}
