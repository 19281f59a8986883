//! What is fetched once and kept outside the repository: node tests, ONNX Runtime, exported networks.
//!
//! Everything comes through `pip`, which knows its own index.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::commands::{capture, relative, root, run, succeeds};

const ONNX: &str = "1.22.0";
const ONNXRUNTIME: &str = "1.31.1";
const CRYPTOGRAPHY: &str = "48.0.0";
/// Raised whenever `models.py` exports something else.
const MODELS: &str = "2";

/// `$CORDON_CACHE`, else `cordon` in the user's cache folder.
pub(crate) fn folder() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("CORDON_CACHE").filter(|v| !v.is_empty()) {
        return std::path::absolute(folder).map_err(|e| e.to_string());
    }
    let home = std::env::var_os("HOME").ok_or("neither CORDON_CACHE nor HOME is set")?;
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    Ok(base.join("cordon"))
}

/// The official node tests, the last release of the Python package `onnx` that holds them.
pub(crate) fn node_tests() -> Result<PathBuf, String> {
    from_wheel("onnx", ONNX, "onnx/backend/test/data/node/", "node tests, 19 MB")
}

/// ONNX Runtime's shared library from its Python package.
pub(crate) fn onnxruntime() -> Result<PathBuf, String> {
    let folder = from_wheel("onnxruntime", ONNXRUNTIME, "onnxruntime/capi/libonnxruntime.", "ONNX Runtime, 24 MB")?;
    let mut libraries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let library = libraries.find_map(|entry| Some(entry.ok()?.path()));
    library.ok_or_else(|| format!("{} is empty; remove it and try again", folder.display()))
}

/// Downloads a wheel and keeps what it holds under `prefix`, unless that is there already.
fn from_wheel(package: &str, version: &str, prefix: &str, what: &str) -> Result<PathBuf, String> {
    let cache = folder()?;
    let target = cache.join(format!("{package}-{version}"));
    if target.is_dir() {
        return Ok(target);
    }
    println!("fetching {what}");
    let partial = fresh(&cache.join(format!("{package}-{version}.partial")))?;
    let wheels = fresh(&cache.join(format!("{package}-{version}.wheel")))?;
    let requirement = format!("{package}=={version}");
    run(python()
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"])
        .arg(&wheels)
        .arg(requirement))?;
    let wheel = std::fs::read_dir(&wheels).ok().and_then(|mut d| d.next()?.ok()).ok_or("pip downloaded nothing")?;
    run(python().arg(script("unpack.py")).arg(wheel.path()).arg(prefix).arg(&partial))?;
    std::fs::remove_dir_all(&wheels).map_err(|e| e.to_string())?;
    std::fs::rename(&partial, &target).map_err(|e| e.to_string())?;
    Ok(target)
}

/// Networks that also come quantised to 8 bits.
const QUANTISED: [&str; 5] = ["alexnet32", "vgg7", "mobilenet_v2", "resnet50", "squeezenet1_1"];

/// The exported networks; those named, or all of them.
pub(crate) fn models(networks: &[&str]) -> Result<PathBuf, String> {
    let target = folder()?.join(format!("models-{MODELS}"));
    std::fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
    let wanted = |name: &&str| networks.is_empty() || networks.contains(name);
    let quantised: Vec<&str> = QUANTISED.into_iter().filter(wanted).collect();
    let exported = networks.iter().all(|name| target.join(name).is_dir());
    if !networks.is_empty() && exported && quantised.iter().all(|name| target.join(name).join("qdq-int8").is_dir()) {
        return Ok(target);
    }
    let python = exporter()?;
    // One thread: exporting is not arithmetic, and the other cores have tests to run.
    run(Command::new(&python).arg(script("models.py")).arg(&target).args(networks).env("OMP_NUM_THREADS", "1"))?;
    if !quantised.is_empty() {
        run(Command::new(python).arg(script("quantise.py")).arg(&target).args(quantised).env("OMP_NUM_THREADS", "1"))?;
    }
    Ok(target)
}

/// A virtual environment with torch, made once per list of requirements.
fn exporter() -> Result<PathBuf, String> {
    let requirements = script("requirements.txt");
    let pinned = std::fs::read_to_string(&requirements).map_err(|e| format!("{}: {e}", relative(&requirements)))?;
    let python = folder()?.join(format!("python-{:08x}", fnv(&pinned)));
    let interpreter = python.join("bin/python");
    if interpreter.is_file() && python.join("ready").is_file() {
        return Ok(interpreter);
    }
    println!(
        "installing torch and the ONNX exporters into {}: about 640 MB to download, 1.6 GB on disk",
        python.display()
    );
    fresh(&python)?;
    run(self::python().args(["-m", "venv"]).arg(&python))?;
    let install = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "-r"];
    run(Command::new(&interpreter).args(install).arg(&requirements))?;
    let site =
        capture(Command::new(&interpreter).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))?;
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        run(Command::new(&interpreter).arg(script("cpu_torch.py")).arg(site.trim()))?;
    }
    run(Command::new(&interpreter).args(["-c", "import torch, torchvision, onnxscript"]))?;
    std::fs::write(python.join("ready"), "").map_err(|e| e.to_string())?;
    Ok(interpreter)
}

/// A Python that has the package `cryptography`: the usual one, else a virtual environment.
pub(crate) fn with_cryptography() -> Result<Command, String> {
    if succeeds(python().args(["-c", "import cryptography"])) {
        return Ok(python());
    }
    let environment = folder()?.join(format!("python-cryptography-{CRYPTOGRAPHY}"));
    let interpreter = environment.join("bin/python");
    if !environment.join("ready").is_file() {
        println!("fetching the Python package cryptography, 5 MB");
        fresh(&environment)?;
        run(python().args(["-m", "venv"]).arg(&environment))?;
        let requirement = format!("cryptography=={CRYPTOGRAPHY}");
        run(Command::new(&interpreter).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            &requirement,
        ]))?;
        std::fs::write(environment.join("ready"), "").map_err(|e| e.to_string())?;
    }
    Ok(Command::new(interpreter))
}

fn fresh(folder: &Path) -> Result<PathBuf, String> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder.to_path_buf())
}

fn python() -> Command {
    Command::new(std::env::var_os("CORDON_PYTHON").unwrap_or_else(|| "python3".into()))
}

fn script(name: &str) -> PathBuf {
    root().join("xtask/python").join(name)
}

/// FNV-1a: names a folder after its requirements, nothing more.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
