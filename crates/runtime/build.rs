//! Builds the process enclave alone, with its own lock file and profile, so that `backend/process/` can embed it. The result is
//! what `cordon` starts: the bytes in the host program and the bytes that run are the same.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Asks for an enclave that builds quickly.
const QUICK: &str = "CORDON_QUICK_ENCLAVE";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = root.join("tee/process/Cargo.toml");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    for path in [
        "tee/process",
        "crates/codec",
        "crates/fault",
        "crates/onnx-types",
        "crates/kernels",
        "crates/engine",
        "crates/package",
        "crates/protocol",
        "crates/process-link",
        "crates/enclave",
    ] {
        for part in ["Cargo.toml", "Cargo.lock", "src"] {
            let path = root.join(path).join(part);
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    // Shared between debug and release builds of the host: the enclave has one profile, and two sets of features.
    let fast = std::env::var_os("CARGO_FEATURE_FAST_AEAD").is_some();
    // For those who edit trusted crates: seconds instead of minutes, at some cost in speed; never for figures.
    println!("cargo::rerun-if-env-changed={QUICK}");
    let quick = std::env::var_os(QUICK).is_some_and(|value| !value.is_empty());
    let folder = ["enclave", if fast { "-fast-aead" } else { "" }, if quick { "-quick" } else { "" }].concat();
    let target = out.ancestors().nth(4).expect("OUT_DIR lies four levels below the target folder").join(folder);
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(&manifest);
    cargo.arg("--target-dir").arg(&target);
    if fast {
        cargo.args(["--features", "fast-aead"]);
    }
    // What cargo tells this build script is about the host's build, not the enclave's.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let leaks = text.starts_with("CARGO_") && text != "CARGO_HOME" && !text.starts_with("CARGO_NET");
        if leaks || ["RUSTFLAGS", "RUSTDOCFLAGS", "TARGET", "OPT_LEVEL", "PROFILE", "DEBUG"].contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    if quick {
        println!("cargo::warning={QUICK} is set: the enclave is built without link-time optimisation");
        for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("INCREMENTAL", "true")] {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
        }
    }
    let status = cargo.status().expect("cargo starts");
    assert!(
        status.success(),
        "the process enclave did not build; run `cargo build --manifest-path {}`",
        manifest.display()
    );
    println!("cargo::rustc-env=CORDON_ENCLAVE={}", target.join("release/cordon-enclave-process").display());
}
