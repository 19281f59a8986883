//! Every error has one word, a next step that helps, and a line in docs/errors.md; libraries name no flags.

use super::*;
use cordon_engine::EngineError;
use cordon_executor::ExecutorError;
use cordon_graph::{GraphError, TensorError};
use cordon_lower::LowerError;
use cordon_native::NativeError;
use cordon_package::PackageError;
use cordon_plan::PlanError;
use cordon_protocol::{Code, Refusal};
use cordon_runtime::RuntimeError;
use cordon_seal::SealError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The table of errors, crate by crate.
fn table() -> Vec<(&'static str, Vec<&'static Entry>)> {
    let tensor: Vec<&Entry> = TensorError::ENTRIES.iter().chain(GraphError::ENTRIES).collect();
    let engine = EngineError::ENTRIES.iter().chain(NativeError::ENTRIES).collect();
    vec![
        ("Models (`cordon-graph`)", tensor),
        ("Secure segments (`cordon-lower`)", LowerError::ENTRIES.iter().collect()),
        ("The trusted engine (`cordon-engine`, `cordon-native`)", engine),
        ("Plans (`cordon-plan`)", PlanError::ENTRIES.iter().collect()),
        ("Sealing (`cordon-seal`)", SealError::ENTRIES.iter().collect()),
        ("Packages, keys and grants (`cordon-package`)", PackageError::ENTRIES.iter().collect()),
        ("Refusals of the enclave (`cordon-protocol`)", Code::ENTRIES.iter().collect()),
        ("Running (`cordon-runtime`)", RuntimeError::ENTRIES.iter().collect()),
        ("Data and engines (`cordon-executor`)", ExecutorError::ENTRIES.iter().collect()),
        ("The command line (`cordon`)", own::ALL.to_vec()),
    ]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn a_word_means_one_thing() {
    let mut seen: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in table().into_iter().flat_map(|(_, entries)| entries) {
        let kebab = entry.word.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase()));
        assert!(kebab, "{}", entry.word);
        assert!(entry.meaning.ends_with('.'), "{}: {}", entry.word, entry.meaning);
        assert!(words(entry.next).len() > 8, "{}", entry.word);
        if let Some(other) = seen.insert(entry.word, entry) {
            assert_eq!(entry, other);
        }
    }
}

#[test]
fn the_table_in_the_documentation_is_this_one() {
    let mut text = String::from(
        "# Errors\n\n\
         Every error has a stable word, a kind and a next step. `cordon --json` prints them as one line on standard error,\n\
         `{\"error\": {\"word\": …, \"kind\": …, \"message\": …, \"next\": …}}`, with `segment`, `node` and `value` where they are\n\
         known, and exits with 1, or with 2 when the command line itself is wrong. In the libraries they are `Fault::word`,\n\
         `Fault::kind` and `Fault::next`.\n\n\
         Kinds: `hostile` (bytes are damaged or forged), `unsupported` (valid, but beyond this version), `refused` (authentic,\n\
         but not acceptable here), `misuse` (the caller's mistake), `resource` (memory, a file or the system does not suffice),\n\
         `bug`.\n\n\
         `CORDON_WRITE_DOCS=1 cargo test -p cordon the_table_in_the_documentation` writes this page from the code.\n",
    );
    for (heading, entries) in table() {
        text += &format!("\n## {heading}\n\n| word | kind | what it means | what to do |\n|---|---|---|---|\n");
        for entry in entries {
            let (kind, next) = (entry.kind.word(), words(entry.next));
            text += &format!("| `{}` | {kind} | {} | {next} |\n", entry.word, entry.meaning);
        }
    }
    let path = root().join("docs/errors.md");
    if std::env::var_os("CORDON_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("docs/ is writable");
    }
    assert!(std::fs::read_to_string(&path).is_ok_and(|committed| committed == text), "docs/errors.md is stale");
}

#[test]
fn the_words_of_the_specifications_are_the_same() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a specification");
    let protocol = read("crates/protocol/SPEC.md");
    for entry in Code::ENTRIES {
        assert!(protocol.contains(&format!("| `{}` |", entry.word)), "{}", entry.word);
    }
    let package = read("crates/package/SPEC.md");
    for entry in PackageError::ENTRIES.iter().filter(|entry| !matches!(entry.kind, Kind::Misuse | Kind::Resource)) {
        let class = entry.word.strip_prefix("package-").expect("words of packages begin alike");
        assert!(package.contains(&format!("`{class}`")), "{class}");
    }
}

fn said(error: impl Into<Failure>) -> String {
    error.into().to_string()
}

#[test]
fn a_tampered_package_is_fetched_again() {
    assert_eq!(
        said(PackageError::Signature),
        "error: the owner's signature does not match\n  next: fetch the package again; `cordon verify` checks it"
    );
    let wrapped = SealError::Runtime(RuntimeError::Package(PackageError::Truncated));
    assert_eq!(said(wrapped), said(PackageError::Truncated));
}

#[test]
fn refusals_of_the_enclave_say_who_can_help() {
    let refused = |code| said(RuntimeError::Refused { doing: "loading", refusal: Refusal::new(code) });
    let cases = [
        (Code::NotARecipient, "not sealed to this device", "`cordon grant` with this device's recipient string"),
        (Code::UnpinnedOwner, "not pinned", "`cordon device init --owner PUB`"),
        (Code::RequestLimit, "request limit is used up", "with more requests"),
        (Code::OutOfMemory, "not enough secure memory", "give more with --secure-memory"),
        (Code::OlderVersion, "is older than", "use the newest package"),
        (Code::CorruptStore, "did not come back", "on a host you trust more"),
        (Code::Internal, "excludes", "report it"),
    ];
    for (code, what, next) in cases {
        let text = refused(code);
        let (before, after) = text.split_once("\n  next: ").expect("two lines");
        assert!(before.contains(what) && after.contains(next), "{text}");
    }
}

#[test]
fn a_plan_that_does_not_fit_says_what_would() {
    let error = |cut| PlanError::SecureMemory { needed: 900, available: 100, segment: "0".into(), cut };
    assert!(
        said(error(Some(7)))
            .ends_with("--secure-memory 900 would do, or fewer nodes inside: --protect weights --back 7 fits")
    );
    assert!(said(error(None)).contains("`cordon inspect` estimates each"));
}

#[test]
fn open_shapes_are_bound_by_the_inputs_name() {
    let error = GraphError::OpenShape { input: "x".into(), inputs: "input `x` [batch]".into() };
    assert!(said(error).ends_with("next: give every extent, as in --shape x=1x3x224x224"));
}

#[test]
fn for_a_program_an_error_is_one_line_of_json() {
    let error = LowerError::Unsupported {
        node: "loop\n\"1\"".into(),
        op_type: "Loop".into(),
        opset: 13,
        reason: "it has a body".into(),
    };
    let line = Failure::from(SealError::Plan(PlanError::Lower(error))).json().to_string();
    assert!(!line.contains('\n'));
    let value: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(value["error"]["word"], "node-not-secure");
    assert_eq!(value["error"]["kind"], "unsupported");
    assert_eq!(value["error"]["node"], "loop\n\"1\"");
    assert!(value["error"]["next"].as_str().is_some_and(|next| next.contains("--front")));
    assert!(value["error"].get("segment").is_none());
    let source = ExecutorError::Engine { engine: "rten", message: "no such operator".into() };
    let value = Failure::from(RuntimeError::Executor { segment: 1, source }).json();
    assert_eq!((&value["error"]["word"], &value["error"]["segment"]), (&json!("normal-segment"), &json!(1)));
}

#[test]
fn libraries_name_no_flags_and_no_commands() {
    let mut wrong = Vec::new();
    for name in [
        "graph", "lower", "plan", "seal", "runtime", "package", "protocol", "executor", "engine", "fault", "native",
        "plain",
    ] {
        for path in sources(&root().join("crates").join(name).join("src")) {
            // The words of a plan are read by people who have the command line before them.
            if path.ends_with("plan/src/words.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let flag = line.match_indices("--").any(|(at, _)| {
                    line[..at].ends_with(['"', ' ', '`'])
                        && line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
                });
                if flag || line.contains("`cordon ") || line.contains("Next: ") {
                    wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}
