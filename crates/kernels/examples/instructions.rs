//! Runs one hot kernel a given number of times on the AVX2 path, for an instruction counter:
//! `valgrind --tool=callgrind target/release/examples/instructions CASE RUNS`; `cargo xtask instructions` does that. Two
//! numbers of runs and a subtraction leave the kernel alone. Without arguments it lists the cases.

use cordon_kernels::conv::{Residual, conv2d};
use cordon_kernels::geometry::{Axis, Conv2d, Dense, Layout, UnaryOp};
use cordon_kernels::{KernelSet, gemm};
use core::hint::black_box;
use std::process::ExitCode;

/// Name, and what runs it some number of times.
type Case = (&'static str, fn(KernelSet, u32));

/// Shapes large enough that loops over tiles dominate and small enough for an emulator.
const CASES: [Case; 3] = [
    ("conv3x3", |set, runs| convolution(set, runs, 64, 64, 14, 3)),
    ("conv1x1", |set, runs| convolution(set, runs, 256, 64, 14, 1)),
    ("dense", |set, runs| dense(set, runs, 48, 256, 256)),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(set) = KernelSet::all_available().find(|set| set.name() == "avx2") else {
        eprintln!("this CPU, or the emulator, has no AVX2");
        return ExitCode::FAILURE;
    };
    let case = |name: &String| CASES.iter().find(|(case, _)| case == name);
    match words.as_slice() {
        [] => CASES.iter().for_each(|(name, _)| println!("{name}")),
        [name, runs] => match (case(name), runs.parse()) {
            (Some((_, run)), Ok(runs)) => run(set, runs),
            _ => return ExitCode::FAILURE,
        },
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn halves(len: Option<u64>) -> Vec<f32> {
    let len = len.and_then(|len| usize::try_from(len).ok()).expect("a small shape");
    vec![0.5; len]
}

fn convolution(set: KernelSet, runs: u32, ic: u32, oc: u32, size: u32, kernel: u32) {
    let pad = kernel / 2;
    let axis = Axis { input: size, output: size, kernel, stride: 1, dilation: 1, pad_begin: pad, pad_end: pad };
    let g = Conv2d { n: 1, groups: 1, ic, oc, y: axis, x: axis, input: Layout::Blocked };
    let (x, w) = (halves(g.input_len()), halves(g.weight_len()));
    let (bias, mut out) = (halves(g.bias_len()), halves(g.output_len()));
    for _ in 0..runs {
        conv2d(set.into(), &g, &x, &w, Some(&bias), Residual::None, Some(UnaryOp::Relu), &mut out);
        black_box(&out);
    }
}

fn dense(set: KernelSet, runs: u32, m: u32, k: u32, n: u32) {
    let g = Dense { m, k, n };
    let (x, w, mut out) = (halves(g.input_len()), halves(g.weight_len()), halves(g.output_len()));
    for _ in 0..runs {
        gemm::dense(set.into(), &g, &x, &w, None, Residual::None, None, &mut out);
        black_box(&out);
    }
}
