//! Writes `skips.txt` from what the models show: `cargo run -p cordon-conformance --bin skips`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use cordon_conformance::{cases, node_tests, skips};

fn main() -> ExitCode {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/skips.txt");
    let written = node_tests()
        .ok_or_else(|| String::from("the node tests are not cached; run `cargo xtask conformance`"))
        .and_then(|folder| cases::all(&folder))
        .and_then(|cases| std::fs::write(path, skips::derived(&cases)).map_err(|e| e.to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
