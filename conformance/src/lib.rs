//! Suites that hold every engine and every backend to the same expectations: ONNX's official node tests and whole networks.
//!
//! | suite | module | what runs it | entry |
//! |---|---|---|---|
//! | operators | [`suite`] | the trusted engine in this process ([`trusted`]), executors ([`executor`]); a test of each operator in an enclave | `cargo test -p cordon-conformance` |
//! | networks | [`golden`], [`quantised`] | sealed packages in an enclave, all inside and ternary; the embedded executor | `cargo xtask golden` |
//! | backends | [`backends`] | every backend of this build, and a [`toy`] without a TEE | `cargo test -p cordon-conformance --test backends` |
//!
//! What each engine is expected to do is data: `engines/NAME.toml` and `networks.toml` beside this crate.
#![forbid(unsafe_code)]

pub mod backends;
pub mod cases;
pub mod compare;
pub mod executor;
pub mod expectations;
pub mod golden;
pub mod networks;
pub mod place;
pub mod quantised;
pub mod suite;
pub mod toy;
pub mod trusted;

use std::path::PathBuf;

/// An engine by its name in `engines/`; the trusted one in this process.
pub fn engine(name: &str) -> Result<Box<dyn suite::Engine>, String> {
    match expectations::Expectations::engines().find(|known| *known == name) {
        Some("trusted") => Ok(Box::new(trusted::Trusted(place::InProcess::default()))),
        Some(name) => Ok(Box::new(executor::OnExecutor::open(name)?)),
        None => Err(format!("no engine {name}")),
    }
}

/// The official node tests, where `cargo xtask conformance` put them.
pub fn node_tests() -> Option<PathBuf> {
    let named = std::env::var_os("CORDON_CACHE").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = named.or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("cordon"))
    })?;
    Some(cache.join("onnx-1.22.0")).filter(|folder| folder.is_dir())
}
