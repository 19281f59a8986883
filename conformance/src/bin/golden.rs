//! Runs exported networks: `golden FOLDER [NETWORK …] [--minutes N]`; `cargo xtask golden` is the way to call it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cordon_conformance::golden::{TOLERANCE, check};

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
        "errors are relative to the output's largest magnitude; below {TOLERANCE:e} passes; reference ONNX Runtime"
    );
    println!(
        "network          export                 nodes  arena MiB  weights MiB  rten plain  all-secure    ternary  crossings      s"
    );
    let start = Instant::now();
    let (mut failed, mut left) = (Vec::new(), Vec::new());
    for export in EXPORTS {
        for (network, size) in &wanted {
            if export != DARKNET_EXPORT && DARKNET.iter().any(|(name, _)| name == network) {
                continue;
            }
            let label = format!("{network:16} {export:22}");
            if start.elapsed().as_secs_f64() > minutes * 60.0 {
                left.push(format!("{network}/{export}"));
                continue;
            }
            match check(&model(folder, network, export), *size, &*reference) {
                Ok(row) => {
                    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                    println!(
                        "{label} {:5}  {:9.2}  {:11.1}  {:10.1e}  {:10.1e}  {:9.1e}  {:9}  {:5.1}{}",
                        row.nodes,
                        mib(row.arena),
                        mib(row.weights),
                        row.plain,
                        row.all_secure,
                        row.ternary,
                        row.crossings,
                        row.time.as_secs_f64(),
                        if row.passed() { "" } else { "  FAILED" }
                    );
                    if !row.passed() {
                        failed.push(format!("{network}/{export}"));
                    }
                }
                Err(why) => {
                    println!("{label} FAILED: {why}");
                    failed.push(format!("{network}/{export}"));
                }
            }
        }
    }
    if !left.is_empty() {
        println!("not run within {minutes} minutes: {}", left.join(", "));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of the golden checks failed: {}", failed.len(), failed.join(", ")))
    }
}

fn model(folder: &str, network: &str, export: &str) -> PathBuf {
    Path::new(folder).join(network).join(export).join("model.onnx")
}
