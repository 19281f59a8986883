//! The design's rules on crates: who may depend on whom, neither `std` nor panics in trusted crates, files of a readable
//! length.

use std::collections::BTreeSet;

use crate::commands::{files, relative, root, tee_workspaces};
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

/// The most lines of a hand-written file; 150 to 400 is the habit.
const LONGEST: usize = 500;

/// A generated file says `@generated` in a comment among so many first lines.
const GENERATED_WITHIN: usize = 20;

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

/// What could panic, and so what no trusted crate may do outside its tests. A module that has to says why with
/// `#![expect(…, reason = "…")]`.
const PANICS: [&str; 4] = ["clippy::indexing_slicing", "clippy::panic", "clippy::expect_used", "clippy::unwrap_used"];

/// Fails when a crate that a TEE links does not deny [`PANICS`].
pub(crate) fn no_panics() -> Result<Outcome, String> {
    let crates = TRUSTED.iter().map(|name| root().join("crates").join(name).join("src/lib.rs"));
    let programs = tee_workspaces().into_iter().map(|folder| folder.join("src/main.rs"));
    let (mut seen, mut wrong) = (0, Vec::new());
    for path in crates.chain(programs) {
        seen += 1;
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", relative(&path)))?;
        let denied = denied_outside_tests(&code_only(&text));
        let missing: Vec<&str> = PANICS.into_iter().filter(|lint| !denied.contains(lint)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{} must deny {} outside tests", relative(&path), missing.join(", ")));
        }
    }
    if wrong.is_empty() { Ok(Outcome::Passed(format!("{seen} crates"))) } else { Err(wrong.join("\n")) }
}

/// What a crate's own `#![deny(…)]` and `#![cfg_attr(not(test), deny(…))]` name, without white space.
fn denied_outside_tests(code: &str) -> String {
    let code: String = code.split_whitespace().collect();
    let starts = ["#![deny(", "#![cfg_attr(not(test),deny("];
    let lists = starts.iter().flat_map(|start| code.split(start).skip(1));
    lists.filter_map(|rest| rest.split_once(')')).map(|(list, _)| list).collect::<Vec<_>>().join(",")
}

/// Fails on a hand-written file that is too long to have one job.
pub(crate) fn lengths() -> Result<Outcome, String> {
    let mut long = Vec::new();
    let mut total = 0;
    for path in ["crates", "tee", "xtask", "conformance", "fuzz"].iter().flat_map(|f| files(&root().join(f), "rs")) {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", relative(&path)))?;
        total += text.lines().count();
        long.extend(too_long(&text).map(|lines| format!("{} has {lines} lines, {LONGEST} at most", relative(&path))));
    }
    if long.is_empty() { Ok(Outcome::Passed(format!("{total} lines of Rust"))) } else { Err(long.join("\n")) }
}

/// The number of lines of a hand-written file that has too many.
fn too_long(text: &str) -> Option<usize> {
    let generated =
        text.lines().take(GENERATED_WITHIN).any(|line| line.starts_with("//") && line.contains("@generated"));
    Some(text.lines().count()).filter(|lines| *lines > LONGEST && !generated)
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
    fn only_generated_files_may_be_long() {
        let body = "let x = 1;\n".repeat(LONGEST + 1);
        assert_eq!(too_long(&body), Some(LONGEST + 1));
        assert_eq!(too_long(&body[11..]), None);
        assert_eq!(too_long(&format!("//! Types.\n//!\n//! @generated by prost\n{body}")), None);
        assert!(too_long(&format!("let it = \"@generated\";\n{body}")).is_some());
        assert!(too_long(&format!("{body}// @generated\n")).is_some(), "only at the beginning");
    }

    #[test]
    fn the_enclave_is_built_anew_when_any_trusted_crate_changes() {
        let watched = include_str!("../../crates/runtime/build.rs");
        for name in TRUSTED {
            assert!(watched.contains(&format!("\"crates/{name}\"")), "crates/runtime/build.rs does not watch {name}");
        }
    }

    #[test]
    fn only_the_crates_own_lints_count() {
        let code = "#![no_std]\n#![deny(unsafe_code)]\n#![cfg_attr(\n    not(test),\n    deny(clippy::panic, clippy::expect_used)\n)]\nmod a;";
        assert_eq!(denied_outside_tests(code), "unsafe_code,clippy::panic,clippy::expect_used");
        assert_eq!(
            denied_outside_tests("#[deny(clippy::panic)] fn f() {}\n#![cfg_attr(test, deny(clippy::panic))]"),
            ""
        );
    }

    #[test]
    fn std_is_seen_only_as_a_path() {
        assert!(names_std("use std::vec::Vec;"));
        assert!(names_std("let x = ::std::mem::take(y);"));
        assert!(names_std("extern crate std;"));
        assert!(!names_std("my_std::f(); nostd::g(); // no_std"));
    }
}
