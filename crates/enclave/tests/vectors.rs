//! Runs the committed vectors with wrong Programs, and keeps them equal to what the generator makes.

mod support;
#[path = "support/vectors.rs"]
mod vectors;

use std::path::PathBuf;

use support::Host;

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
