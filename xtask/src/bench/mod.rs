//! `cargo xtask bench`: runs `cordon bench` over the networks, keeps what it said under `bench/results/`, and rewrites the
//! tables of `bench/README.md` and the plots beside it from the newest results.

mod memory_plot;
pub(crate) mod networks;
mod results;
mod speed_plot;
mod svg;
mod tables;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::cache;
use crate::commands::{capture, cargo, relative, root, run};
use networks::{DARKNET, GOLDEN};
use results::Results;

/// What the command line asked for.
struct Request {
    networks: Vec<String>,
    threads: usize,
    /// Time for the rounds of one network.
    seconds: u32,
    kind: Kind,
    /// The enclave's AEAD: the feature of `cordon` that brings another than the pure Rust one.
    aead: Aead,
    /// Draw from the newest results without measuring.
    only_draw: bool,
}

/// Which table a measurement is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ratios to ONNX Runtime.
    Speed,
    /// Budgets of secure memory.
    Memory,
    /// The same with weights in half precision.
    HalfMemory,
}

/// Who decrypts weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aead {
    Rust,
    Fast,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Speed => "speed",
            Self::Memory => "memory",
            Self::HalfMemory => "memory-f16",
        }
    }
}

impl Aead {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Fast => "fast",
        }
    }
}

/// Budgets of the memory table, as `cordon bench` reads them.
const BUDGETS: &str = "10MiB,14MiB,16MiB,32MiB,64MiB";
/// Time for the rounds of one network, and for a first look.
const SECONDS: u32 = 15;
const QUICK_SECONDS: u32 = 3;
/// More rounds than fit into the time.
const ROUNDS: &str = "10000";

const USAGE: &str = "\
cargo xtask bench [--quick] [--threads N] [--memory [--f16]] [--fast-aead] [--draw] [NETWORK…]
  measures the golden networks against ONNX Runtime, or those named (with --memory: budgets of secure memory, Darknet's
  networks included; with --f16: weights in half precision), writes bench/results/ and rewrites bench/README.md and its plots; --draw only rewrites";

/// The task.
pub(crate) fn task(words: &[&str]) -> Result<(), String> {
    let request = Request::parse(words)?;
    let folder = root().join("bench/results");
    if !request.only_draw {
        if std::env::var_os("CORDON_QUICK_ENCLAVE").is_some_and(|value| !value.is_empty()) {
            return Err("CORDON_QUICK_ENCLAVE is set, and figures are not made with such an enclave; unset it".into());
        }
        measure(&request, &folder)?;
    }
    let (path, results) = Results::newest(&folder)?;
    tables::write(&root().join("bench/README.md"), &path, &results)?;
    let write = |name: &str, text: String| {
        let path = root().join("bench").join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", relative(&path)))
    };
    write("speed.svg", speed_plot::draw(&results))?;
    write("memory.svg", memory_plot::draw(&results))?;
    println!("bench/README.md, speed.svg and memory.svg show {}", relative(&path));
    Ok(())
}

impl Request {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut request = Self {
            networks: Vec::new(),
            threads: 1,
            seconds: SECONDS,
            kind: Kind::Speed,
            aead: Aead::Rust,
            only_draw: false,
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            match word {
                "--quick" => request.seconds = QUICK_SECONDS,
                "--memory" => request.kind = Kind::Memory,
                "--f16" => request.kind = Kind::HalfMemory,
                "--fast-aead" => request.aead = Aead::Fast,
                "--draw" => request.only_draw = true,
                "--threads" => {
                    let number = words.next().and_then(|word| word.parse().ok()).filter(|&threads| threads > 0);
                    request.threads = number.ok_or("--threads needs a number above 0")?;
                }
                network if GOLDEN.contains(&network) || DARKNET.iter().any(|it| it.name == network) => {
                    request.networks.push(network.to_owned());
                }
                other => return Err(format!("there is no option or network `{other}`\n{USAGE}")),
            }
        }
        if request.networks.is_empty() {
            let darknet = DARKNET.iter().filter(|_| request.kind != Kind::Speed).map(|it| it.name);
            request.networks = GOLDEN.iter().copied().chain(darknet).map(str::to_owned).collect();
        }
        Ok(request)
    }

    /// What a person types to measure the same again.
    fn command(&self) -> String {
        let quick = if self.seconds == QUICK_SECONDS { "--quick " } else { "" };
        let mut text = format!("cargo xtask bench {quick}--threads {}", self.threads);
        text += match self.kind {
            Kind::Speed => "",
            Kind::Memory => " --memory",
            Kind::HalfMemory => " --memory --f16",
        };
        if self.aead == Aead::Fast {
            text += " --fast-aead";
        }
        text
    }
}

fn measure(request: &Request, folder: &std::path::Path) -> Result<(), String> {
    let names: Vec<&str> = request.networks.iter().map(String::as_str).collect();
    let models = cache::models(&names)?;
    let library = cache::onnxruntime()?;
    let cordon = build(request.aead)?;
    for network in &request.networks {
        println!("== {network}: {}, {} thread(s)", request.kind.name(), request.threads);
        let model = models.join(network).join("torchscript17-fixed/model.onnx");
        let (threads, seconds) = (request.threads.to_string(), request.seconds.to_string());
        let mut command = Command::new(&cordon);
        command.args(["--json", "bench"]).arg(&model).env("CORDON_ONNXRUNTIME", &library);
        command.args(["--against", "onnxruntime", "--threads", &threads, "--seconds", &seconds, "--repeat", ROUNDS]);
        if request.kind != Kind::Speed {
            command.args(["--secure-memory", BUDGETS]);
        }
        if request.kind == Kind::HalfMemory {
            command.args(["--weights", "f16"]);
        }
        let mut variants = capture(&mut command)?
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).map_err(|e| format!("{line}: {e}")))
            .collect::<Result<Vec<_>, String>>()?;
        let summary = variants.pop().map(|mut last| last["summary"].take()).unwrap_or_default();
        for variant in &variants {
            let ratio = variant["ratio"].as_f64().map_or("failed".into(), |ratio| format!("{ratio:.3}"));
            println!("{:24} {ratio}", variant["variant"].as_str().unwrap_or_default());
        }
        // Saved after each network: a run that is cut short has measured something.
        let mut results = Results::of_today(folder, &summary["machine"])?;
        results.keep(json!({
            "kind": request.kind.name(),
            "network": network,
            "threads": request.threads,
            "aead": request.aead.name(),
            "command": request.command(),
            "commit": commit(),
            "variants": variants,
            "summary": summary,
        }));
        results.save()?;
    }
    Ok(())
}

/// The release build of `cordon`.
fn build(aead: Aead) -> Result<PathBuf, String> {
    let mut arguments = vec!["build", "--release", "--quiet", "--locked", "-p", "cordon"];
    if aead == Aead::Fast {
        arguments.extend(["--features", "fast-aead"]);
    }
    run(&mut cargo(&arguments))?;
    Ok(root().join("target/release/cordon"))
}

/// The commit that was measured, marked when the tree differed from it.
fn commit() -> String {
    let git = |arguments: &[&str]| capture(Command::new("git").args(arguments).current_dir(root())).unwrap_or_default();
    let dirty = git(&["status", "--porcelain", "--untracked-files=no", "--", "crates", "tee"]);
    format!("{}{}", git(&["rev-parse", "--short", "HEAD"]).trim(), if dirty.is_empty() { "" } else { " + changes" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_a_request_and_back() {
        let request = Request::parse(&["--memory", "--threads", "2", "--fast-aead"]).expect("known words");
        assert_eq!(request.command(), "cargo xtask bench --threads 2 --memory --fast-aead");
        assert_eq!(request.networks.len(), GOLDEN.len() + DARKNET.len());
        let half = Request::parse(&["--memory", "--f16", "vgg7"]).expect("known words");
        assert_eq!(half.command(), "cargo xtask bench --threads 1 --memory --f16");
        let speed = Request::parse(&["--quick", "vgg7"]).expect("known words");
        assert_eq!(speed.command(), "cargo xtask bench --quick --threads 1");
        assert_eq!((speed.networks, speed.seconds, speed.threads), (vec!["vgg7".to_owned()], 3, 1));
        assert!(Request::parse(&["vgg8"]).is_err_and(|why| why.contains("vgg8")));
        assert!(Request::parse(&["--threads", "0"]).is_err());
    }
}
