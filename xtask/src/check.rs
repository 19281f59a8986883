//! `cargo xtask check`: everything CI does, in one command.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::commands::{capture, cargo, relative, root, run, succeeds, tee_workspaces};
use crate::steps::{Outcome, Steps};
use crate::{cache, instructions, licences, memory, rules, tcb, unsafe_list};

/// Runs every step; the tests come last, so their closing lines end the output.
pub(crate) fn all(with_golden: bool) -> Result<(), String> {
    let mut steps = Steps::new();
    let export = with_golden.then(Export::start);
    steps.run("format", || each_workspace("formatted", &["fmt", "--all"], &["--", "--check"]));
    source_steps(&mut steps);
    steps.run("clippy", || {
        each_workspace(
            "workspaces",
            &["clippy", "--workspace", "--all-targets", "--locked", "--keep-going"],
            &["--", "-D", "warnings"],
        )
    });
    steps.run("fuzz targets", fuzz_targets);
    steps.run("docs", docs);
    steps.run("cargo-deny", deny);
    steps.run("bare targets", bare_targets);
    steps.run("package, second reader", second_reader);
    steps.run("instruction counts", instructions::check);
    steps.run("fetch test material", || {
        cache::node_tests()?;
        cache::onnxruntime()?;
        Ok(Outcome::Passed("ONNX node tests and ONNX Runtime are cached".into()))
    });
    steps.run("build tests", || {
        run(&mut cargo(&["test", "--workspace", "--locked", "--no-run", "--quiet"]))?;
        Ok(Outcome::Passed("and the programs they start".into()))
    });
    if let Some(export) = export {
        steps.run("golden", || {
            export?.finish()?;
            // Built with the tests, in the folder of this program; `cargo run` would build half the workspace again
            // for the features of one package.
            let golden = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("golden");
            run_golden(Command::new(golden), &[&GOLDEN_NETWORKS[..], &["--minutes", GOLDEN_MINUTES]].concat())?;
            Ok(Outcome::Passed(format!(
                "{} networks; `cargo xtask golden` runs the large ones too",
                GOLDEN_NETWORKS.len()
            )))
        });
    }
    if with_golden {
        steps.run("secure memory", || {
            let cordon = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("cordon");
            memory::check(&cordon, &MEMORY_NETWORKS)?;
            let count = MEMORY_NETWORKS.len();
            Ok(Outcome::Passed(format!("{count} networks in 10 MiB and more; `cargo xtask memory` runs all")))
        });
    }
    steps.run("tests", tests);
    steps.finish()
}

/// The golden networks of CI: all but the two that are only large, and the smallest of Darknet's.
const GOLDEN_NETWORKS: [&str; 9] = [
    "vgg7",
    "alexnet32",
    "tiny_darknet",
    "squeezenet1_1",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "resnet50",
    "vit_b_16",
];
/// What CI spends on them at most; what it did not reach is listed.
const GOLDEN_MINUTES: &str = "5";

/// Those that CI also runs in little secure memory.
const MEMORY_NETWORKS: [&str; 4] = ["squeezenet1_1", "mobilenet_v2", "densenet121", "resnet50"];

/// The export of the golden networks, running beside the first steps: on a fresh machine it is mostly a download.
struct Export {
    child: Child,
    log: PathBuf,
}

impl Export {
    fn start() -> Result<Self, String> {
        let folder = root().join("target");
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", relative(&folder)))?;
        let log = folder.join("models.log");
        let out = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", relative(&log)))?;
        let errors = out.try_clone().map_err(|e| e.to_string())?;
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let child = Command::new(this)
            .arg("models")
            .args(GOLDEN_NETWORKS)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("xtask models: {e}"))?;
        Ok(Self { child, log })
    }

    fn finish(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|e| e.to_string())?;
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        if status.success() { Ok(()) } else { Err(format!("exporting the networks failed:\n{said}")) }
    }
}

/// Only the checks that read the source tree.
pub(crate) fn source_rules() -> Result<(), String> {
    let mut steps = Steps::new();
    source_steps(&mut steps);
    steps.finish()
}

fn source_steps(steps: &mut Steps) {
    steps.run("dependency rule", rules::dependencies);
    steps.run("no std in trusted", rules::no_std);
    steps.run("no panics in trusted", rules::no_panics);
    steps.run("TCB lists", tcb::check);
    steps.run("unsafe list", unsafe_list::check);
    steps.run("licences", licences::check);
    steps.run("file lengths", rules::lengths);
}

/// Runs a cargo command in the main workspace, in every TEE workspace and in fuzz/.
fn each_workspace(what: &str, before: &[&str], after: &[&str]) -> Result<Outcome, String> {
    let mut folders = vec![root()];
    folders.extend(tee_workspaces());
    if before[0] == "fmt" && root().join("fuzz/Cargo.toml").is_file() {
        // Its targets are linked against libFuzzer, so they have a step of their own and no tests.
        folders.push(root().join("fuzz"));
    }
    let mut wrong = Vec::new();
    for folder in &folders {
        let manifest = folder.join("Cargo.toml");
        let manifest = manifest.to_string_lossy();
        let mut command = cargo(&[before, &["--manifest-path", &manifest], after].concat());
        if let Err(why) = run(command.current_dir(folder)) {
            wrong.push(format!("{}: {why}", relative(folder)));
        }
    }
    if wrong.is_empty() { Ok(Outcome::Passed(format!("{} {what}", folders.len()))) } else { Err(wrong.join("\n")) }
}

/// The fuzz targets compile. Running them is for people: `fuzz/README.md`.
fn fuzz_targets() -> Result<Outcome, String> {
    // Not --locked: its lock file may lag behind a new dependency of some crate.
    run(cargo(&["clippy", "--quiet", "--", "-D", "warnings"]).current_dir(root().join("fuzz")))?;
    Ok(Outcome::Passed("compile; their oracles run among the tests".into()))
}

fn docs() -> Result<Outcome, String> {
    run(cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed("no warnings".into()))
}

fn deny() -> Result<Outcome, String> {
    if !succeeds(&mut cargo(&["deny", "--version"])) {
        return Ok(Outcome::Skipped("cargo-deny is not installed (`cargo install cargo-deny`)".into()));
    }
    run(&mut cargo(&["deny", "--workspace", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed("bans, licenses, sources".into()))
}

/// Trusted crates compile where there is no operating system.
fn bare_targets() -> Result<Outcome, String> {
    let sysroot = capture(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    let (mut built, mut missing) = (Vec::new(), Vec::new());
    for target in ["x86_64-unknown-none", "aarch64-unknown-none"] {
        let library = std::path::Path::new(sysroot.trim()).join("lib/rustlib").join(target);
        if !library.is_dir() {
            missing.push(target);
            continue;
        }
        let mut arguments = vec!["check", "--locked", "--target", target];
        let names: Vec<String> = rules::TRUSTED.iter().map(|name| format!("cordon-{name}")).collect();
        names.iter().for_each(|name| arguments.extend(["-p", name]));
        run(&mut cargo(&arguments))?;
        built.push(target);
    }
    if missing.is_empty() {
        return Ok(Outcome::Passed(built.join(", ")));
    }
    let text = format!("not installed: {} (`rustup target add …`)", missing.join(", "));
    if built.is_empty() {
        Ok(Outcome::Skipped(text))
    } else {
        Ok(Outcome::Passed(format!("{}; {text}", built.join(", "))))
    }
}

/// The package format's second, independent reader agrees with the first on every vector.
fn second_reader() -> Result<Outcome, String> {
    let reader = root().join("scripts/read_package.py");
    if !reader.is_file() {
        return Err("scripts/read_package.py is missing".into());
    }
    run(cache::with_cryptography()?.arg(reader).args(["--vectors", "vectors"]).current_dir(root()))?;
    Ok(Outcome::Passed("every vector".into()))
}

fn tests() -> Result<Outcome, String> {
    let library = cache::onnxruntime()?;
    let mut wrong = Vec::new();
    let mut folders = tee_workspaces();
    folders.push(root());
    for folder in folders {
        let manifest = folder.join("Cargo.toml");
        let manifest = manifest.to_string_lossy();
        let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--manifest-path", &manifest]);
        if let Err(why) = run(command.current_dir(&folder).env("CORDON_ONNXRUNTIME", &library)) {
            wrong.push(format!("{}: {why}", relative(&folder)));
        }
    }
    if wrong.is_empty() { Ok(Outcome::Passed("see above".into())) } else { Err(wrong.join("\n")) }
}

/// Runs golden networks against ONNX Runtime: names first, then options; see `conformance/src/bin/golden.rs`.
pub(crate) fn golden(options: &[&str]) -> Result<(), String> {
    run_golden(cargo(&["run", "--quiet", "--locked", "-p", "cordon-conformance", "--bin", "golden", "--"]), options)
}

fn run_golden(mut program: Command, options: &[&str]) -> Result<(), String> {
    let networks: Vec<&str> = options.iter().copied().take_while(|word| !word.starts_with("--")).collect();
    let models = cache::models(&networks)?;
    run(program.arg(models).args(options).env("CORDON_ONNXRUNTIME", cache::onnxruntime()?))
}
