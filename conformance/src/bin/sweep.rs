//! Runs the official node tests and writes what each engine does with them to `engines/NAME.toml`:
//! `cargo run -p cordon-conformance --bin sweep [ENGINE …]`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use cordon_conformance::expectations::{Expectations, rewritten};
use cordon_conformance::suite::sweep;
use cordon_conformance::{cases, engine, node_tests};

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let mut engines =
        Expectations::engines().filter(|engine| named.is_empty() || named.iter().any(|name| name == engine));
    match engines.try_for_each(write) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The reasons this program writes.
const FOUND: [&str; 2] = ["refused", "wrong"];

/// Measures one engine and writes its file. A reason that a person wrote for a failing test stays.
fn write(name: &str) -> Result<(), String> {
    let folder = node_tests().ok_or("the node tests are not cached; run `cargo xtask conformance`")?;
    let expected = Expectations::of(name)?;
    let found = sweep(&*engine(name)?, &cases::all(&folder)?, &expected);
    println!("{}", found.summary(name));
    let skipped: BTreeMap<_, _> = found.skipped.into_iter().map(|(test, why)| (test, why.word().to_owned())).collect();
    let reason = |test: &String| expected.failing.get(test).filter(|why| !FOUND.contains(&why.as_str())).cloned();
    let failing = found.failed.into_iter().map(|(test, why)| (reason(&test).unwrap_or(why.word().into()), test));
    let failing: BTreeMap<_, _> = failing.map(|(why, test)| (test, why)).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines").join(format!("{name}.toml"));
    std::fs::write(&path, rewritten(name, &skipped, &failing)).map_err(|e| format!("{}: {e}", path.display()))
}
