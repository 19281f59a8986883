//! Throughput of the hot kernels on shapes of published networks, per kernel set:
//! `cargo run --release -p cordon-kernels --example bench [FILTER]`. One thread; the best of several runs.

use cordon_kernels::conv::{Residual, conv2d};
use cordon_kernels::geometry::{Along, Axis, BinaryOp, Conv2d, Dense, Layout, MatMul, Strided2, UnaryOp};
use cordon_kernels::quant::{self, QConv2d, QDense, Sum, Target};
use cordon_kernels::{KernelSet, elementwise, gemm, normalize, peak, winograd};
use core::time::Duration;
use std::time::Instant;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let sets: Vec<KernelSet> = KernelSet::all_available().collect();
    print!("{:<34}", "GFLOP/s, Gop/s (elementwise: G/s)");
    sets.iter().for_each(|set| print!("{:>10}", set.name()));
    println!();
    for (name, mut run) in cases() {
        if !name.contains(&filter) {
            continue;
        }
        print!("{name:<34}");
        for &set in &sets {
            let (mut best, begun) = (0.0f64, Instant::now());
            let mut runs = 0;
            while runs < 16 || begun.elapsed() < Duration::from_millis(300) {
                runs += 1;
                let start = Instant::now();
                let work = run(set);
                best = best.max(work / start.elapsed().as_secs_f64());
            }
            print!("{:>10.2}", best / 1e9);
        }
        println!();
    }
}

type Case = (String, Box<dyn FnMut(KernelSet) -> f64>);

fn cases() -> Vec<Case> {
    vec![
        peak(),
        conv("conv 7x7/2 3->64 224 plain", 1, 3, 64, 224, 7, 2, Layout::Plain),
        conv("conv 3x3 3->64 224 plain", 1, 3, 64, 224, 3, 1, Layout::Plain),
        conv("conv 11x11/4 3->64 224 plain", 1, 3, 64, 224, 11, 4, Layout::Plain),
        conv("conv 3x3 64->64 56", 1, 64, 64, 56, 3, 1, Layout::Blocked),
        conv("conv 3x3 128->128 28", 1, 128, 128, 28, 3, 1, Layout::Blocked),
        conv("conv 3x3 256->256 14", 1, 256, 256, 14, 3, 1, Layout::Blocked),
        conv("conv 3x3 512->512 7", 1, 512, 512, 7, 3, 1, Layout::Blocked),
        conv("conv 3x3 64->64 224", 1, 64, 64, 224, 3, 1, Layout::Blocked),
        conv("conv 3x3 512->512 28", 1, 512, 512, 28, 3, 1, Layout::Blocked),
        winograd("winograd 3x3 64->64 56", 64, 64, 56),
        winograd("winograd 3x3 128->128 28", 128, 128, 28),
        winograd("winograd 3x3 256->256 14", 256, 256, 14),
        winograd("winograd 3x3 512->512 7", 512, 512, 7),
        winograd("winograd 3x3 64->64 224", 64, 64, 224),
        winograd("winograd 3x3 256->256 56", 256, 256, 56),
        winograd("winograd 3x3 512->512 28", 512, 512, 28),
        winograd("winograd 3x3 512->512 14", 512, 512, 14),
        winograd("winograd 3x3 128->32 28", 128, 32, 28),
        conv("conv 3x3 128->32 28", 1, 128, 32, 28, 3, 1, Layout::Blocked),
        conv("conv 3x3/2 128->128 56", 1, 128, 128, 56, 3, 2, Layout::Blocked),
        conv("conv 5x5 64->192 27", 1, 64, 192, 27, 5, 1, Layout::Blocked),
        conv("conv 1x1 16->64 112", 1, 16, 64, 112, 1, 1, Layout::Blocked),
        conv("conv 1x1 24->144 56", 1, 24, 144, 56, 1, 1, Layout::Blocked),
        conv("conv 1x1 144->24 56", 1, 144, 24, 56, 1, 1, Layout::Blocked),
        conv("conv 1x1 64->256 56", 1, 64, 256, 56, 1, 1, Layout::Blocked),
        conv("conv 1x1 256->64 56", 1, 256, 64, 56, 1, 1, Layout::Blocked),
        conv("conv 1x1 256->1024 14", 1, 256, 1024, 14, 1, 1, Layout::Blocked),
        conv("conv 1x1 2048->512 7", 1, 2048, 512, 7, 1, 1, Layout::Blocked),
        conv("conv 1x1/2 256->512 56", 1, 256, 512, 56, 1, 2, Layout::Blocked),
        conv("conv 1x1/2 1024->2048 14", 1, 1024, 2048, 14, 1, 2, Layout::Blocked),
        conv("depthwise 3x3 96 112", 96, 96, 96, 112, 3, 1, Layout::Blocked),
        conv("depthwise 3x3/2 96 112", 96, 96, 96, 112, 3, 2, Layout::Blocked),
        conv("depthwise 3x3 384 14", 384, 384, 384, 14, 3, 1, Layout::Blocked),
        conv("depthwise 5x5 240 28", 240, 240, 240, 28, 5, 1, Layout::Blocked),
        dense("dense 197x768x768", 197, 768, 768),
        dense("dense 197x768x3072", 197, 768, 3072),
        dense("dense 197x3072x768", 197, 3072, 768),
        dense("dense 512x512x512", 512, 512, 512),
        dense("dense 8x4096x1000", 8, 4096, 1000),
        dense("dense 2x4096x4096", 2, 4096, 4096),
        dense("dense 1x2048x1000", 1, 2048, 1000),
        dense("dense 1x9216x4096", 1, 9216, 4096),
        matmul("matmul q k^T 12x197x64x197", 197, 64, 197, true),
        matmul("matmul p v 12x197x197x64", 197, 197, 64, false),
        bytes("bytes 7x7/2 3->64 224", 1, 3, 64, 224, 7, 2, false),
        bytes("bytes 3x3 64->64 56", 1, 64, 64, 56, 3, 1, false),
        bytes("bytes 3x3 128->128 28", 1, 128, 128, 28, 3, 1, false),
        bytes("bytes 3x3 256->256 14", 1, 256, 256, 14, 3, 1, false),
        bytes("bytes 3x3 512->512 7", 1, 512, 512, 7, 3, 1, false),
        bytes("bytes 3x3/2 128->128 56", 1, 128, 128, 56, 3, 2, false),
        bytes("bytes 1x1 64->256 56", 1, 64, 256, 56, 1, 1, false),
        bytes("bytes 1x1 64->256 56 residual", 1, 64, 256, 56, 1, 1, true),
        bytes("bytes 1x1 256->64 56", 1, 256, 64, 56, 1, 1, false),
        bytes("bytes 1x1 512->128 28", 1, 512, 128, 28, 1, 1, false),
        bytes("bytes 1x1 256->1024 14 residual", 1, 256, 1024, 14, 1, 1, true),
        bytes("bytes 1x1 2048->512 7", 1, 2048, 512, 7, 1, 1, false),
        bytes("bytes 1x1/2 256->512 56", 1, 256, 512, 56, 1, 2, false),
        bytes("bytes depthwise 3x3 96 112", 96, 96, 96, 112, 3, 1, false),
        bytes("bytes depthwise 3x3/2 96 112", 96, 96, 96, 112, 3, 2, false),
        bytes("bytes depthwise 3x3 384 14", 384, 384, 384, 14, 3, 1, false),
        byte_dense("bytes dense 1x2048x1000", 1, 2048, 1000),
        byte_dense("bytes dense 197x768x768", 197, 768, 768),
        unary("relu 100k", UnaryOp::Relu),
        unary("sigmoid 100k", UnaryOp::Sigmoid),
        unary("gelu 100k", UnaryOp::Gelu),
        unary("exp 100k", UnaryOp::Exp),
        softmax("softmax 2364x197", 2364, 197, 1),
        binary("add 100k", &[100_000], &[1]),
        binary("add per channel 4x56x56x16", &[4, 3136, 16], &[16, 0, 1]),
    ]
}

/// The ceiling of each set: the best over all numbers of chains, since the best of several runs is what is printed.
fn peak() -> Case {
    const ROUNDS: u64 = 1_000_000;
    let mut turn = 0;
    let run = move |set: KernelSet| {
        turn += 1;
        peak::multiply_adds(set, peak::CHAINS[turn % peak::CHAINS.len()], ROUNDS) as f64
    };
    ("peak (multiply-adds on registers)".into(), Box::new(run))
}

fn numbers(len: u64) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn known(len: Option<u64>) -> Vec<f32> {
    numbers(len.expect("a valid shape"))
}

#[expect(clippy::too_many_arguments, reason = "one row of a table")]
fn conv(name: &str, groups: u32, ic: u32, oc: u32, size: u32, kernel: u32, stride: u32, input: Layout) -> Case {
    let pad = kernel / 2;
    let mut axis = Axis { input: size, output: 0, kernel, stride, dilation: 1, pad_begin: pad, pad_end: pad };
    axis.output = axis.windows(false).expect("a valid window");
    let g = Conv2d { n: 1, groups, ic, oc, y: axis, x: axis, input };
    let (x, w) = (known(g.input_len()), known(g.weight_len()));
    let (bias, mut out) = (known(g.bias_len()), known(g.output_len()));
    let per_pixel = f64::from(ic / groups) * f64::from(oc) * f64::from(kernel * kernel);
    let work = 2.0 * per_pixel * f64::from(axis.output) * f64::from(axis.output);
    let run = move |set: KernelSet| {
        conv2d(set.into(), &g, &x, &w, Some(&bias), Residual::None, Some(UnaryOp::Relu), &mut out);
        work
    };
    (name.to_string(), Box::new(run))
}

/// Counted as the multiplications of the definition, so that the figure compares.
fn winograd(name: &str, ic: u32, oc: u32, size: u32) -> Case {
    let axis = Axis { input: size, output: size, kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
    let g = Conv2d { n: 1, groups: 1, ic, oc, y: axis, x: axis, input: Layout::Blocked };
    let (x, w, mut scratch) =
        (known(g.input_len()), known(g.weight_len()), known(g.winograd_len().map(|[_, most]| most)));
    let (bias, mut out) = (known(g.bias_len()), known(g.output_len()));
    let work = 18.0 * f64::from(ic) * f64::from(oc) * f64::from(size) * f64::from(size);
    let run = move |set: KernelSet| {
        let (bias, act) = (Some(&bias[..]), Some(UnaryOp::Relu));
        winograd::winograd(set.into(), &g, &x, &w, bias, Residual::None, act, &mut scratch, &mut out);
        work
    };
    (name.to_string(), Box::new(run))
}

fn dense(name: &str, m: u32, k: u32, n: u32) -> Case {
    let g = Dense { m, k, n };
    let (x, w, mut out) = (known(g.input_len()), known(g.weight_len()), known(g.output_len()));
    let run = move |set: KernelSet| {
        gemm::dense(set.into(), &g, &x, &w, None, Residual::None, None, &mut out);
        2.0 * f64::from(m) * f64::from(k) * f64::from(n)
    };
    (name.to_string(), Box::new(run))
}

/// Bytes times bytes. The scale spreads results over all bytes, so that none is decided by the clamp.
#[expect(clippy::too_many_arguments, reason = "one row of a table")]
fn bytes(name: &str, groups: u32, ic: u32, oc: u32, size: u32, kernel: u32, stride: u32, residual: bool) -> Case {
    let pad = kernel / 2;
    let mut axis = Axis { input: size, output: 0, kernel, stride, dilation: 1, pad_begin: pad, pad_end: pad };
    axis.output = axis.windows(false).expect("a valid window");
    let g = QConv2d { n: 1, groups, ic, oc, y: axis, x: axis, lanes: if ic < 16 { 4 } else { 16 } };
    let noise = |len: Option<u64>| -> Vec<u8> { known(len).iter().map(|v| (v * 255.0 + 127.5) as u8).collect() };
    let (x, w, other) = (noise(g.input_len()), noise(g.weight_len()), noise(g.output_len()));
    let channels = g.channels_len().expect("a valid shape") as usize;
    let per_pixel = f64::from(ic / groups) * f64::from(oc) * f64::from(kernel * kernel);
    let (bias, scale) = (vec![0i64; channels], vec![0.01 / (per_pixel / f64::from(oc)).sqrt() as f32; channels]);
    let mut out = other.clone();
    let work = 2.0 * per_pixel * f64::from(axis.output) * f64::from(axis.output);
    let run = move |set: KernelSet| {
        let to = Target::new(128);
        let sum = Sum { a_scale: 0.5, a_zero: 128, b_scale: 0.5, b_zero: 128, to };
        let residual = if residual { quant::Residual::Other(&other, sum) } else { quant::Residual::None };
        quant::conv2d(set.into(), &g, 128, &x, &w, &bias, &scale, to, residual, &mut out);
        work
    };
    (name.to_string(), Box::new(run))
}

fn byte_dense(name: &str, m: u32, k: u32, n: u32) -> Case {
    let g = QDense { m, k, n };
    let noise = |len: Option<u64>| -> Vec<u8> { known(len).iter().map(|v| (v * 255.0 + 127.5) as u8).collect() };
    let (x, w, mut out) = (noise(g.input_len()), noise(g.weight_len()), noise(g.output_len()));
    let channels = g.channels_len().expect("a valid shape") as usize;
    let (bias, scale) = (vec![0i64; channels], vec![0.001f32; channels]);
    let run = move |set: KernelSet| {
        quant::dense(set.into(), &g, &x, &w, &bias, &scale, Target::new(128), &mut out);
        2.0 * f64::from(m) * f64::from(k) * f64::from(n)
    };
    (name.to_string(), Box::new(run))
}

fn matmul(name: &str, m: u32, k: u32, n: u32, transposed: bool) -> Case {
    let batch = Strided2 { dims: vec![12], a: vec![m * k], b: vec![k * n] };
    let g = MatMul { m, k, n, batch, a: [k, 1], b: if transposed { [1, k] } else { [n, 1] } };
    let (a, b, mut out) = (known(g.a_len()), known(g.b_len()), known(g.output_len()));
    let run = move |set: KernelSet| {
        gemm::matmul(set.into(), &g, &a, &b, &mut out);
        24.0 * f64::from(m) * f64::from(k) * f64::from(n)
    };
    (name.to_string(), Box::new(run))
}

fn unary(name: &str, op: UnaryOp) -> Case {
    let x = numbers(100_000);
    let mut out = x.clone();
    let run = move |set: KernelSet| {
        elementwise::unary(set.into(), op, &x, &mut out);
        x.len() as f64
    };
    (name.to_string(), Box::new(run))
}

fn softmax(name: &str, outer: u32, len: u32, inner: u32) -> Case {
    let along = Along { outer, len, inner };
    let x = known(along.len());
    let mut out = x.clone();
    let run = move |set: KernelSet| {
        normalize::softmax(set.into(), &along, false, &x, &mut out);
        x.len() as f64
    };
    (name.to_string(), Box::new(run))
}

fn binary(name: &str, dims: &[u32], b: &[u32]) -> Case {
    let mut a = vec![1; dims.len()];
    for d in (0..dims.len() - 1).rev() {
        a[d] = a[d + 1] * dims[d + 1];
    }
    let shape = Strided2 { dims: dims.to_vec(), a, b: b.to_vec() };
    let (x, y, mut out) = (known(shape.a_len()), known(shape.b_len()), known(shape.len()));
    let run = move |set: KernelSet| {
        elementwise::binary_f32(set.into(), BinaryOp::Add, &shape, &x, &y, None, &mut out);
        x.len() as f64
    };
    (name.to_string(), Box::new(run))
}
