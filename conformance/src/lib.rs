//! Suites that hold every engine to the same expectations: ONNX's official node tests and whole networks.
//!
//! | suite | module | entry |
//! |---|---|---|
//! | node tests on the trusted engine | [`nodes`] | `cargo test -p cordon-conformance` |
//! | node tests on the executors, for information | [`engines`] | the same |
//! | networks: plain, all-secure, ternary | [`golden`] | `cargo xtask golden` |
#![forbid(unsafe_code)]

pub mod bridge;
pub mod cases;
pub mod compare;
pub mod engines;
pub mod golden;
pub mod nodes;
pub mod quantised;
pub mod skips;

use std::path::PathBuf;

/// The official node tests, where `cargo xtask conformance` put them.
pub fn node_tests() -> Option<PathBuf> {
    let named = std::env::var_os("CORDON_CACHE").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = named.or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("cordon"))
    })?;
    Some(cache.join("onnx-1.22.0")).filter(|folder| folder.is_dir())
}
