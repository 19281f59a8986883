//! `tee/<x>/tcb.txt` lists every package that a TEE binary is built from, `tcb-FEATURE.txt` what an optional feature adds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::commands::{capture, cargo, files, relative, root, tee_workspaces};
use crate::lexer::{before_tests, code_only};
use crate::metadata::features;
use crate::rules::TRUSTED;
use crate::steps::Outcome;

/// Compares or writes the lists, as a task of its own.
pub(crate) fn task(write: bool) -> Result<(), String> {
    if !write {
        return check().map(drop);
    }
    for workspace in tee_workspaces() {
        for (list, text) in lists(&workspace)? {
            std::fs::write(&list, text).map_err(|e| format!("{}: {e}", relative(&list)))?;
            println!("{} written", relative(&list));
        }
    }
    Ok(())
}

/// Fails when a list differs from what cargo resolves.
pub(crate) fn check() -> Result<Outcome, String> {
    let mut said = Vec::new();
    let mut wrong = Vec::new();
    for workspace in tee_workspaces() {
        for (list, is) in lists(&workspace)? {
            let listed = std::fs::read_to_string(&list).unwrap_or_default();
            let (is_lines, listed_lines): (BTreeSet<_>, BTreeSet<_>) = (is.lines().collect(), listed.lines().collect());
            let packages = is_lines.iter().filter(|line| !line.starts_with('#')).count();
            said.push(format!("{}: {packages} packages", relative(&list)));
            wrong.extend(is_lines.difference(&listed_lines).map(|line| format!("not in {}: {line}", relative(&list))));
            wrong.extend(listed_lines.difference(&is_lines).map(|line| format!("only in {}: {line}", relative(&list))));
        }
    }
    if !wrong.is_empty() {
        return Err(format!("{}\nAfter review: cargo xtask tcb --write", wrong.join("\n")));
    }
    if said.is_empty() {
        return Ok(Outcome::Skipped("no TEE binary yet".into()));
    }
    said.push(format!("own trusted code: {} lines", trusted_lines()));
    Ok(Outcome::Passed(said.join(", ")))
}

/// Every list of a workspace as it should be.
fn lists(workspace: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let default = resolved(workspace, &[])?;
    let text = |head: &str, lines: &mut dyn Iterator<Item = &String>| {
        let head = format!("# {head} Checked and written by `cargo xtask tcb`.\n");
        head + &lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let every = text("Every package this TEE binary is built from.", &mut default.iter());
    let mut lists = vec![(workspace.join("tcb.txt"), every)];
    for feature in features(&workspace.join("Cargo.toml"))? {
        let with = resolved(workspace, &["--features", &feature])?;
        let head = format!("What the feature `{feature}`, off by default, adds to tcb.txt.");
        let adds = text(&head, &mut with.difference(&default));
        lists.push((workspace.join(format!("tcb-{feature}.txt")), adds));
    }
    Ok(lists)
}

/// One package a line; those that only run while building are marked.
fn resolved(workspace: &Path, features: &[&str]) -> Result<BTreeSet<String>, String> {
    let linked = tree(workspace, "normal", features)?;
    let built = tree(workspace, "normal,build", features)?;
    let note = |package: &String| if linked.contains(package) { "" } else { " (build only)" };
    Ok(built.iter().map(|package| format!("{package}{}", note(package))).collect())
}

fn tree(workspace: &Path, edges: &str, features: &[&str]) -> Result<BTreeSet<String>, String> {
    let manifest = workspace.join("Cargo.toml");
    let manifest = manifest.to_string_lossy();
    let arguments =
        ["tree", "--locked", "--prefix", "none", "--format", "{p}", "--edges", edges, "--manifest-path", &manifest];
    let text = capture(&mut cargo(&[&arguments, features].concat()))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, version) = (words.next()?, words.next()?);
            let note = if line.contains("(proc-macro)") { " (proc-macro)" } else { "" };
            Some(format!("{name} {}{note}", version.trim_start_matches('v')))
        })
        .collect())
}

/// Lines of our own trusted code that hold code: no blanks, comments or tests.
fn trusted_lines() -> usize {
    let folders = TRUSTED.iter().map(|name| root().join("crates").join(name)).chain(tee_workspaces());
    folders
        .flat_map(|folder| files(&folder.join("src"), "rs"))
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|source| before_tests(&code_only(&source)).lines().filter(|line| !line.trim().is_empty()).count())
        .sum()
}
