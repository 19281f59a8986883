//! Runs the committed vectors with wrong Programs, and keeps them equal to what the generator makes.

mod support;
#[path = "support/vectors.rs"]
mod vectors;

use std::collections::HashMap;
use std::path::PathBuf;

use support::{Host, bytes, floats};

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(name);
    std::fs::read(path).unwrap_or_else(|e| panic!("vectors/{name}: {e}"))
}

#[test]
fn every_wrong_program_is_refused_and_the_good_one_loads() {
    for (name, class, _) in vectors::all() {
        let mut host = Host::of_file(read(name), vectors::device(), &vectors::owner().public());
        host.hello();
        let got = match host.load() {
            Ok(_) => "loads",
            Err(refusal) => refusal.code.name(),
        };
        assert_eq!(got, class, "{name}");
    }
}

#[test]
fn committed_files_are_what_the_generator_makes() {
    const HOW: &str = "run `cargo run -p cordon-enclave --example make_program_vectors`";
    for (name, _, bytes) in vectors::all() {
        assert!(read(name) == bytes, "vectors/{name} differs; {HOW}");
    }
    assert!(read("programs.txt") == vectors::list().as_bytes(), "vectors/programs.txt differs; {HOW}");
}

/// Packages sealed when format 1 was the newest load and are refused as ever, and what loads runs.
#[test]
fn packages_of_format_1_load_and_run() {
    let (owner, list) = (vectors::owner().public(), read("format-1/programs.txt"));
    let list = String::from_utf8(list).expect("text");
    let mut loaded = 0;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let [name, "ok", program] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mut host = Host::of_file(read(&format!("format-1/{name}")), vectors::device(), &owner);
        host.hello();
        let got = match host.load() {
            Ok(_) => "loads",
            Err(refusal) => refusal.code.name(),
        };
        assert_eq!(format!("program={got}"), program, "{name}");
        if got == "loads" {
            let request = host.begin().expect("a request");
            host.segment(request, 0, &HashMap::from([(0, bytes(&[1.0, 2.0, 3.0, 4.0]))])).expect("runs");
            assert_eq!(floats(&host.output(1)), [1.5, 2.25, 2.0, 8.0], "{name}");
            loaded += 1;
        }
    }
    assert_eq!(loaded, 3);
}
