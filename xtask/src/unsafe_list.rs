//! `unsafe.txt` counts every `unsafe`, and unsafe code stands only where the design allows it.

use std::collections::BTreeSet;

use crate::commands::{files, relative, root};
use crate::lexer::{code_only, count_word};
use crate::steps::Outcome;

/// Folders that may hold unsafe code: kernels' instruction sets, the host's one mapping module, TEE platforms.
const PLACES: [&str; 3] = ["crates/kernels/src/arch/", "crates/mapped/src/", "tee/"];

const HEADING: &str = "# Occurrences of `unsafe` per file. Checked and written by `cargo xtask unsafe`.\n";

/// Compares or writes the list, as a task of its own.
pub(crate) fn task(write: bool) -> Result<(), String> {
    if !write {
        return check().map(drop);
    }
    let lines: String = counts().into_iter().map(|(count, path)| format!("{count} {path}\n")).collect();
    std::fs::write(root().join("unsafe.txt"), format!("{HEADING}{lines}")).map_err(|e| format!("unsafe.txt: {e}"))
}

/// Fails when the list differs from the source or unsafe code stands elsewhere.
pub(crate) fn check() -> Result<Outcome, String> {
    let is = counts();
    let mut wrong: Vec<String> = is
        .iter()
        .filter(|(_, path)| !PLACES.iter().any(|place| path.starts_with(place)))
        .map(|(count, path)| format!("{path} holds {count} `unsafe`; it may stand only in {}", PLACES.join(", ")))
        .collect();
    let listed = std::fs::read_to_string(root().join("unsafe.txt")).unwrap_or_default();
    let listed: BTreeSet<String> = listed.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect();
    let found: BTreeSet<String> = is.iter().map(|(count, path)| format!("{count} {path}")).collect();
    wrong.extend(found.difference(&listed).map(|line| format!("not in unsafe.txt: {line}")));
    wrong.extend(listed.difference(&found).map(|line| format!("only in unsafe.txt: {line}")));
    wrong.extend(unforbidden());
    if wrong.is_empty() {
        let total: usize = is.iter().map(|(count, _)| count).sum();
        return Ok(Outcome::Passed(format!("{total} in {} files", is.len())));
    }
    Err(format!("{}\nAfter review: cargo xtask unsafe --write", wrong.join("\n")))
}

fn counts() -> Vec<(usize, String)> {
    ["crates", "tee", "xtask", "conformance", "fuzz", "examples", "bench"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .filter_map(|path| {
            let source = std::fs::read_to_string(&path).ok()?;
            let count = count_word(&code_only(&source), "unsafe");
            (count > 0).then(|| (count, relative(&path)))
        })
        .collect()
}

/// Crate roots outside the allowed places that do not forbid unsafe code.
fn unforbidden() -> Vec<String> {
    let own = files(&root().join("crates"), "rs").into_iter().chain(files(&root().join("conformance"), "rs"));
    own.filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
        .map(|path| (relative(&path), std::fs::read_to_string(&path).unwrap_or_default()))
        .filter(|(path, _)| !path.starts_with("crates/kernels/") && !path.starts_with("crates/mapped/"))
        .filter(|(_, source)| !code_only(source).contains("#![forbid(unsafe_code)]"))
        .map(|(path, _)| format!("{path} lacks #![forbid(unsafe_code)]"))
        .collect()
}
