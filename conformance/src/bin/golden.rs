//! Runs exported networks: `golden FOLDER [NETWORK …] [--minutes N]`; `cargo xtask golden` is the way to call it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cordon_conformance::golden::{PROBES, TOLERANCE, check};
use cordon_conformance::quantised;
use cordon_executor::Executor;

/// Name and image size, from small to large, so that a run with little time covers as many as it can.
const NETWORKS: [(&str, usize); 10] = [
    ("vgg7", 32),
    ("alexnet32", 32),
    ("squeezenet1_1", 224),
    ("mobilenet_v2", 224),
    ("efficientnet_b0", 224),
    ("densenet121", 224),
    ("resnet50", 224),
    ("alexnet", 224),
    ("vit_b_16", 224),
    ("vgg16", 224),
];
/// Darknet's networks, exported once; run when named.
const DARKNET: [(&str, usize); 8] = [
    ("tiny_darknet", 224),
    ("darknet_reference", 256),
    ("extraction", 224),
    ("darknet19", 256),
    ("resnet50_darknet", 256),
    ("densenet201_darknet", 256),
    ("darknet53", 256),
    ("darknet53_448", 448),
];
/// The only export of Darknet's networks.
const DARKNET_EXPORT: &str = "torchscript17-fixed";
/// How each was exported; the first is today's default exporter with a dynamic batch.
const EXPORTS: [&str; 4] = ["dynamo20-dynamic", "torchscript17-fixed", "torchscript17-dynamic", "dynamo20-fixed"];

/// Networks that also come quantised to 8 bits, and the folder of that export.
const QUANTISED: [&str; 5] = ["vgg7", "alexnet32", "squeezenet1_1", "mobilenet_v2", "resnet50"];
const QUANTISED_EXPORT: &str = "qdq-int8";

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
    let (folder, rest) = arguments.split_first().ok_or("usage: golden FOLDER [NETWORK …] [--minutes N]")?;
    let mut wanted: Vec<(&str, usize)> = Vec::new();
    let mut minutes = f64::INFINITY;
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        if word == "--minutes" {
            minutes = words.next().and_then(|n| n.parse().ok()).ok_or("--minutes needs a number")?;
        } else {
            let all = NETWORKS.iter().chain(&DARKNET);
            let names = || all.clone().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let known = all.clone().find(|(name, _)| name == word);
            wanted.push(*known.ok_or_else(|| format!("unknown network {word}; there are {}", names()))?);
        }
    }
    if wanted.is_empty() {
        wanted.extend(NETWORKS);
    }
    let options = cordon_executor::Options { threads: None, ..Default::default() };
    let reference = cordon_executor::open("onnxruntime:cpu", &options).map_err(|e| e.to_string())?;

    println!(
        "errors are relative to the output's largest magnitude; below {TOLERANCE:e} passes; reference ONNX Runtime;\n\
         f16: weights rounded, with what that may add and the draws with the same best class"
    );
    println!(
        "network          export                 nodes  arena MiB  weights MiB  rten plain  all-secure    ternary  crossings      f16  allowed  class      s"
    );
    let mut round = Round {
        folder,
        reference: &*reference,
        end: minutes * 60.0,
        start: Instant::now(),
        failed: Vec::new(),
        left: Vec::new(),
    };
    for (index, export) in EXPORTS.into_iter().enumerate() {
        for &(network, size) in &wanted {
            if export == DARKNET_EXPORT || DARKNET.iter().all(|(name, _)| *name != network) {
                round.float(network, export, size);
            }
        }
        if index == 0 {
            round.quantised(&wanted);
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
    start: Instant,
    /// Seconds after which no check begins.
    end: f64,
    failed: Vec<String>,
    left: Vec<String>,
}

impl Round<'_> {
    /// Whether there is time; what there is none for is listed.
    fn has_time(&mut self, network: &str, export: &str) -> bool {
        let time = self.start.elapsed().as_secs_f64() <= self.end;
        if !time {
            self.left.push(format!("{network}/{export}"));
        }
        time
    }

    /// One export of one network.
    fn float(&mut self, network: &str, export: &str, size: usize) {
        if !self.has_time(network, export) {
            return;
        }
        let label = format!("{network:16} {export:22}");
        let passed = match check(&model(self.folder, network, export), size, self.reference) {
            Ok(row) => {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                println!(
                    "{label} {:5}  {:9.2}  {:11.1}  {:10.1e}  {:10.1e}  {:9.1e}  {:9}  {:7.1e}  {:7.1e}  {:2}/{PROBES}  {:5.1}{}",
                    row.nodes,
                    mib(row.arena),
                    mib(row.weights),
                    row.plain,
                    row.all_secure,
                    row.ternary,
                    row.crossings,
                    row.f16,
                    row.f16_allowed,
                    row.f16_same_class,
                    row.time.as_secs_f64(),
                    if row.passed() { "" } else { "  FAILED" }
                );
                row.passed()
            }
            Err(why) => {
                println!("{label} FAILED: {why}");
                false
            }
        };
        if !passed {
            self.failed.push(format!("{network}/{export}"));
        }
    }

    /// The 8-bit variants of the networks wanted.
    fn quantised(&mut self, wanted: &[(&str, usize)]) {
        let (steps, ternary) = (quantised::STEPS, quantised::TERNARY_STEPS);
        if let Some(why) = quantised::no_reference() {
            println!("8-bit networks skipped: {why}");
            return;
        }
        for &(network, size) in wanted.iter().filter(|(name, _)| QUANTISED.contains(name)) {
            if !self.has_time(network, QUANTISED_EXPORT) {
                continue;
            }
            let label = format!("{network:16} {QUANTISED_EXPORT:22}");
            let passed = match quantised::check(&model(self.folder, network, QUANTISED_EXPORT), size, self.reference) {
                Ok(row) => {
                    println!(
                        "{label} {} of {} values differ, by {} steps of 256 at most ({steps} allowed), ternary by {} ({ternary}), {:.1} s{}",
                        row.different,
                        row.elements,
                        row.all_secure,
                        row.ternary,
                        row.time.as_secs_f64(),
                        if row.passed() { "" } else { "  FAILED" }
                    );
                    row.passed()
                }
                Err(why) => {
                    println!("{label} FAILED: {why}");
                    false
                }
            };
            if !passed {
                self.failed.push(format!("{network}/{QUANTISED_EXPORT}"));
            }
        }
    }
}

fn model(folder: &str, network: &str, export: &str) -> PathBuf {
    Path::new(folder).join(network).join(export).join("model.onnx")
}
