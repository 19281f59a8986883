//! `cargo xtask instructions`: how many instructions the hottest kernels execute, against the record.
//!
//! Callgrind counts them on the AVX2 path (Valgrind does not know AVX-512). The compiler is pinned, so the numbers are the
//! same on every machine, which no time is: this is the part of speed that a test can hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::commands::{capture, cargo, root, run, succeeds};
use crate::steps::Outcome;

/// How many per cent more than recorded are still the same: other versions of the C library start and copy differently.
const TOLERANCE: f64 = 3.0;

const HEADING: &str = "\
# Instructions of one call on the AVX2 path. Checked and written by `cargo xtask instructions`; the cases are in
# crates/kernels/examples/instructions.rs.\n";

/// Compares or writes the record, as a task of its own.
pub(crate) fn task(write: bool) -> Result<(), String> {
    if !write {
        return match check()? {
            Outcome::Passed(text) | Outcome::Skipped(text) => {
                println!("{text}");
                Ok(())
            }
        };
    }
    if let Some(why) = missing() {
        return Err(why);
    }
    let lines: String = count()?.into_iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    std::fs::write(record(), format!("{HEADING}{lines}")).map_err(|e| format!("bench/instructions.txt: {e}"))
}

/// Fails when a kernel executes more instructions than recorded.
pub(crate) fn check() -> Result<Outcome, String> {
    if let Some(why) = missing() {
        return Ok(Outcome::Skipped(why));
    }
    let text = std::fs::read_to_string(record()).map_err(|e| format!("bench/instructions.txt: {e}"))?;
    compare(&parse(&text)?, &count()?).map(Outcome::Passed)
}

fn record() -> PathBuf {
    root().join("bench/instructions.txt")
}

/// Why nothing can be counted here.
fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the record is of the AVX2 path".into());
    }
    (!succeeds(Command::new("valgrind").arg("--version"))).then(|| "valgrind is not installed".into())
}

fn parse(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    parsed.collect::<Option<_>>().ok_or_else(|| "bench/instructions.txt: a line is not `NAME COUNT`".into())
}

/// What is printed when all is well; otherwise what is wrong.
fn compare(recorded: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> Result<String, String> {
    let (mut fine, mut wrong) = (Vec::new(), Vec::new());
    for (name, &count) in counted {
        let Some(&before) = recorded.get(name) else {
            wrong.push(format!("{name}: not recorded"));
            continue;
        };
        let change = (count as f64 / before as f64 - 1.0) * 100.0;
        let text = format!("{name} {change:+.1} %");
        if change > TOLERANCE {
            wrong.push(format!("{text}: {count} instructions instead of {before}"));
        } else {
            fine.push(text);
        }
    }
    wrong.extend(
        recorded.keys().filter(|name| !counted.contains_key(*name)).map(|name| format!("{name}: no such case")),
    );
    if wrong.is_empty() {
        return Ok(fine.join(", "));
    }
    Err(format!("{}\nIf that is worth it, with a measured time: cargo xtask instructions --write", wrong.join("\n")))
}

/// Instructions of one call of every case.
fn count() -> Result<BTreeMap<String, u64>, String> {
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--locked",
        "-p",
        "cordon-kernels",
        "--example",
        "instructions",
    ]))?;
    let program = root().join("target/release/examples/instructions");
    let names = capture(&mut Command::new(&program))?;
    names
        .lines()
        .map(|name| {
            let executed = |runs: &str| {
                let mut command = Command::new("valgrind");
                command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(&program).args([name, runs]);
                executed(&mut command)
            };
            let (one, three) = (executed("1")?, executed("3")?);
            Ok((name.to_owned(), three.saturating_sub(one) / 2))
        })
        .collect()
}

/// The total that callgrind prints: `==PID== Collected : N`.
fn executed(command: &mut Command) -> Result<u64, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    total.filter(|_| output.status.success()).ok_or_else(|| format!("valgrind counted nothing:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, u64)]) -> BTreeMap<String, u64> {
        entries.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_instructions_than_the_tolerance_fail_and_fewer_do_not() {
        let recorded = table(&[("a", 1000), ("b", 1000)]);
        assert_eq!(compare(&recorded, &table(&[("a", 1029), ("b", 500)])).as_deref(), Ok("a +2.9 %, b -50.0 %"));
        let why = compare(&recorded, &table(&[("a", 1031), ("b", 1000)])).expect_err("too many");
        assert!(why.contains("a +3.1 %") && !why.contains("b "), "{why}");
    }

    #[test]
    fn cases_and_record_must_name_the_same() {
        assert!(compare(&table(&[("a", 1)]), &table(&[])).is_err_and(|why| why.contains("no such case")));
        assert!(compare(&table(&[]), &table(&[("a", 1)])).is_err_and(|why| why.contains("not recorded")));
        assert_eq!(parse("# x\na 1\n"), Ok(table(&[("a", 1)])));
        assert!(parse("a\n").is_err());
    }
}
