//! Every dependency's licence is permissive.

use crate::commands::{root, tee_workspaces};
use crate::metadata::packages;
use crate::steps::Outcome;

/// SPDX identifiers that may be linked into Cordon.
const ALLOWED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CC0-1.0",
];

pub(crate) fn check() -> Result<Outcome, String> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    let manifests = core::iter::once(root()).chain(tee_workspaces()).map(|folder| folder.join("Cargo.toml"));
    for manifest in manifests {
        for package in packages(&manifest)? {
            seen += 1;
            let licence = package.licence.as_deref().unwrap_or("none declared");
            if !allows(licence) {
                wrong.push(format!("{} {}: {licence}", package.name, package.version));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(Outcome::Passed(format!("{seen} packages, all permissive")));
    }
    Err(format!("licences not on the list in xtask/src/licences.rs:\n  {}", wrong.join("\n  ")))
}

/// Whether some choice that the expression offers is allowed in all its parts.
fn allows(expression: &str) -> bool {
    // `/` is the old way to write OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

/// `None` when the words are no expression. Every part is read whatever the ones before it said.
fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = term(words)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        allowed &= term(words)?;
    }
    Some(allowed)
}

fn term(words: &mut &[&str]) -> Option<bool> {
    match words {
        ["(", rest @ ..] => {
            *words = rest;
            let allowed = any_of(words)?;
            let [")", rest @ ..] = words else { return None };
            *words = rest;
            Some(allowed)
        }
        [licence, "WITH", exception, rest @ ..] => {
            let full = format!("{licence} WITH {exception}");
            *words = rest;
            Some(ALLOWED.contains(&full.as_str()))
        }
        [licence, rest @ ..] => {
            let allowed = ALLOWED.contains(licence);
            *words = rest;
            Some(allowed)
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0-only) AND ISC", "MIT AND Zlib"] {
            assert!(allows(good), "{good}");
        }
        let bad = ["", "GPL-3.0-only", "MIT AND GPL-2.0-only", "MPL-2.0", "(MIT", "MIT)", "MIT OR", "none declared"];
        for bad in bad {
            assert!(!allows(bad), "{bad}");
        }
    }
}
