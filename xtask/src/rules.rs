//! The design's rules on crates: who may depend on whom, no `std` in trusted crates, files of a readable length.

use std::collections::BTreeSet;

use crate::commands::{files, relative, root};
use crate::lexer::{before_tests, code_only};
use crate::metadata::packages;
use crate::steps::Outcome;

/// Crates of the trusted computing base.
pub(crate) const TRUSTED: [&str; 9] =
    ["codec", "fault", "onnx-types", "kernels", "engine", "package", "protocol", "enclave", "process-link"];

/// Which workspace crates each may use; what those may use is allowed as well. The design's section 3.
const DIRECTION: [(&str, &[&str]); 21] = [
    ("codec", &[]),
    ("fault", &[]),
    ("onnx-types", &[]),
    ("kernels", &[]),
    ("engine", &["codec", "fault", "kernels"]),
    ("package", &["codec", "fault", "onnx-types"]),
    ("protocol", &["codec", "fault"]),
    ("enclave", &["engine", "package", "protocol"]),
    ("process-link", &["protocol"]),
    ("mapped", &[]),
    ("graph", &["fault", "mapped", "onnx-types"]),
    ("executor", &["graph"]),
    ("native", &["engine", "graph"]),
    ("plain", &["executor"]),
    ("lower", &["graph", "engine"]),
    ("plan", &["lower", "package", "protocol"]),
    // Runtime: sealing re-opens what it wrote and runs the probes in the enclave.
    ("seal", &["plan", "lower", "plain", "package", "runtime"]),
    ("runtime", &["package", "protocol", "process-link", "executor", "mapped"]),
    ("cli", &["runtime", "plan", "seal", "native", "graph"]),
    ("conformance", &["cli", "enclave"]),
    ("xtask", &[]),
];

/// What trusted crates may use from outside. Their own dependencies are listed and reviewed in `tee/*/tcb.txt`.
const TRUSTED_EXTERNAL: [&str; 13] = [
    "aes-gcm",
    "ed25519-dalek",
    "hkdf",
    "hpke",
    "hmac",
    "libm",
    "rand_core",
    // Optional: `fast-aead`.
    "ring",
    "sha2",
    "x25519-dalek",
    "zeroize",
    "zeroize_derive",
    "curve25519-dalek",
];

/// Files longer than this are reported.
const LONG: usize = 500;

/// Fails on a dependency against the design's direction.
pub(crate) fn dependencies() -> Result<Outcome, String> {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for package in packages(&root().join("Cargo.toml"))?.iter().filter(|package| package.member) {
        let name = short(&package.name);
        let Some(allowed) = reachable(name) else {
            wrong.push(format!("{name} has no place in xtask/src/rules.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            edges += 1;
            let own = dependency.starts_with("cordon-");
            if own && !allowed.contains(short(dependency)) {
                wrong.push(format!("{name} may not depend on {}", short(dependency)));
            }
            if !own && TRUSTED.contains(&name) && !TRUSTED_EXTERNAL.contains(&dependency.as_str()) {
                wrong.push(format!("{name} is trusted and may not depend on {dependency}"));
            }
        }
    }
    if wrong.is_empty() { Ok(Outcome::Passed(format!("{edges} dependencies"))) } else { Err(wrong.join("\n")) }
}

/// A package's folder: the command's package is called `cordon`, so that users install that name.
fn short(package: &str) -> &str {
    if package == "cordon" { "cli" } else { package.strip_prefix("cordon-").unwrap_or(package) }
}

/// Everything that `name` may use, or `None` when the table does not know it.
fn reachable(name: &str) -> Option<BTreeSet<&'static str>> {
    let direct = DIRECTION.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)?;
    let mut all: BTreeSet<&str> = direct.iter().copied().collect();
    for next in direct {
        all.extend(reachable(next)?);
    }
    Some(all)
}

/// Fails when a trusted crate is not `no_std` or names `std` outside its tests.
pub(crate) fn no_std() -> Result<Outcome, String> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for name in TRUSTED {
        let source = root().join("crates").join(name).join("src");
        let lib = std::fs::read_to_string(source.join("lib.rs")).unwrap_or_default();
        if !code_only(&lib).contains("#![no_std]") {
            wrong.push(format!("crates/{name} is trusted and lacks #![no_std]"));
        }
        for path in files(&source, "rs") {
            seen += 1;
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", relative(&path)))?;
            let code = code_only(&text);
            let mut before = "";
            for (number, line) in before_tests(&code).lines().enumerate() {
                let for_tests = core::mem::replace(&mut before, line).trim() == "#[cfg(test)]";
                if names_std(line) && !for_tests {
                    wrong.push(format!("{}:{} uses std in a trusted crate", relative(&path), number + 1));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(Outcome::Passed(format!("{seen} files"))) } else { Err(wrong.join("\n")) }
}

fn names_std(line: &str) -> bool {
    line.match_indices("std").any(|(at, _)| {
        let before = line[..at].chars().next_back().unwrap_or(' ');
        let after = &line[at + 3..];
        !before.is_alphanumeric() && before != '_' && (after.starts_with("::") || line.contains("extern crate std"))
    })
}

/// Says which hand-written files are long.
pub(crate) fn lengths() -> Result<Outcome, String> {
    let mut long = Vec::new();
    let mut total = 0;
    for path in ["crates", "tee", "xtask", "conformance", "fuzz"].iter().flat_map(|f| files(&root().join(f), "rs")) {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", relative(&path)))?;
        let lines = text.lines().count();
        total += lines;
        if lines > LONG && !text.starts_with("// @generated") {
            long.push(format!("{} ({lines})", relative(&path)));
        }
    }
    let note = if long.is_empty() { String::new() } else { format!("; longer than {LONG}: {}", long.join(", ")) };
    Ok(Outcome::Passed(format!("{total} lines of Rust{note}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_table_is_closed_and_trusted_crates_stay_inside() {
        for (name, _) in DIRECTION {
            let reached = reachable(name).expect("every name on the right is on the left");
            assert!(!reached.contains(name), "{name} reaches itself");
            if TRUSTED.contains(&name) {
                assert!(reached.iter().all(|other| TRUSTED.contains(other)), "{name} reaches {reached:?}");
            }
        }
    }

    #[test]
    fn std_is_seen_only_as_a_path() {
        assert!(names_std("use std::vec::Vec;"));
        assert!(names_std("let x = ::std::mem::take(y);"));
        assert!(names_std("extern crate std;"));
        assert!(!names_std("my_std::f(); nostd::g(); // no_std"));
    }
}
