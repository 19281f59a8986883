//! Project tasks. `cargo xtask check` is all of CI.
#![forbid(unsafe_code)]

mod bench;
mod cache;
mod check;
mod commands;
mod instructions;
mod lexer;
mod licences;
mod memory;
mod metadata;
mod rules;
mod steps;
mod tcb;
mod unsafe_list;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask TASK
  check [--no-golden]      everything CI does: format, lints, docs, rules, lists, tests, golden networks
  rules                    only the fast checks of the source tree: dependencies, licences, no_std, lists, lengths
  tcb [--write]            compare tee/*/tcb.txt with what cargo resolves, or write it
  unsafe [--write]         compare unsafe.txt with the source, or write it
  conformance              fetch the official ONNX node tests and ONNX Runtime (about 45 MB, once)
  models [NETWORK …] [--darknet]  export the golden networks (about 640 MB of Python packages once, 6 GB on disk), or those
                           named; --darknet names Darknet's eight (0.7 GB)
  golden [NETWORK …] [--minutes N] [--backend NAME]  run them sealed in an enclave, all-secure and ternary, against ONNX Runtime
  bench [--quick] [--threads N] [--memory [--f16]] [--fast-aead] [--draw] [NETWORK…]  measure, write bench/results/, tables and plots
  memory [NETWORK …]       seal every network for 10, 14 and 16 MiB and hold what the enclave takes against the prediction
  instructions [--write]   compare the instruction counts of the hottest kernels with bench/instructions.txt (valgrind)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["check", flags @ ..] => check::all(!flags.contains(&"--no-golden")),
        ["rules"] => check::source_rules(),
        ["tcb", flags @ ..] => tcb::task(flags.contains(&"--write")),
        ["unsafe", flags @ ..] => unsafe_list::task(flags.contains(&"--write")),
        ["conformance"] => cache::node_tests().and_then(|_| cache::onnxruntime()).map(drop),
        ["models", networks @ ..] => cache::models(networks).map(drop),
        ["instructions", flags @ ..] => instructions::task(flags.contains(&"--write")),
        ["memory", networks @ ..] => memory::task(networks),
        ["bench", words @ ..] => bench::task(words),
        ["golden", options @ ..] => check::golden(options),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
