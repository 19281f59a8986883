//! Time per instruction of a model that needs no constant folding, all of it on the trusted engine:
//! `cargo run --release -p cordon-lower --example profile MODEL [--set avx2] [--threads 2] [--repeat 20] [--top 30]`.
//!
//! For the developer of kernels; `cordon bench` is the measurement for everybody else.

use cordon_engine::program::{Instruction, Layout};
use cordon_engine::{Compute, KernelSet, Parallel, Task};
use cordon_graph::{ElemType, Evaluator, ExportedModel, ImportOptions, Tensor, complete_shapes, import, infer};
use cordon_lower::{Local, OperatorTable, lower_graph};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().position(|it| it == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, default: usize| option(name).map_or(Ok(default), |text| text.parse());
    let model = arguments.first().ok_or("usage: profile MODEL [--set S] [--threads N] [--repeat N] [--top N]")?;
    let (threads, repeat, top) = (number("--threads", 1)?, number("--repeat", 20)?, number("--top", 30)?);
    let set = KernelSet::all_available().filter(|set| option("--set").is_none_or(|name| set.name() == name)).last();
    let set = set.ok_or("this CPU has no such kernel set")?;

    let mut graph = import(Path::new(model), &ImportOptions::default())?;
    if !infer(&mut graph, &OperatorTable)?.is_empty() {
        complete_shapes(&mut graph, &mut NoEngine)?;
    }
    let lowered = lower_graph(&graph)?;
    let workers: &'static dyn Parallel = Box::leak(Box::new(Scoped { threads }));
    let mut local = Local::new(&lowered, Compute { set, workers })?;
    let inputs: Vec<Tensor> = graph.inputs.iter().map(|id| noise(graph.value(*id).ty.as_ref())).collect();

    let instructions = &lowered.program.instructions;
    let mut best = vec![f64::INFINITY; instructions.len()];
    let mut whole = f64::INFINITY;
    for _ in 0..repeat {
        let (start, mut last) = (Instant::now(), Instant::now());
        local.run_observed(&inputs, &mut |index| {
            let now = Instant::now();
            let index = index as usize;
            best[index] = best[index].min((now - last).as_secs_f64() * 1e3);
            last = now;
        })?;
        whole = whole.min(start.elapsed().as_secs_f64() * 1e3);
    }

    let total: f64 = best.iter().sum();
    println!("{} | {threads} thread(s) | best run {whole:.2} ms, sum of best instructions {total:.2} ms", set.name());
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for (instruction, ms) in instructions.iter().zip(&best) {
        let kind = kinds.entry(kind(instruction)).or_default();
        *kind = (kind.0 + 1, kind.1 + ms);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (kind, (count, ms)) in kinds {
        println!("{:>6.1}% {ms:>9.3} ms  {count:>4} x {kind}", ms / total * 100.0);
    }
    let mut order: Vec<usize> = (0..best.len()).collect();
    order.sort_by(|&a, &b| best[b].total_cmp(&best[a]));
    println!();
    for index in order.into_iter().take(top) {
        let (instruction, ms) = (&instructions[index], best[index]);
        let rate = work(instruction) / ms / 1e6;
        println!("{:>6.1}% {ms:>9.3} ms {rate:>8.1} G/s  #{index:<4} {}", ms / total * 100.0, shape(instruction));
    }
    Ok(())
}

/// Variant, with convolutions told apart.
fn kind(instruction: &Instruction) -> &'static str {
    match instruction {
        Instruction::Conv2d { geometry, .. } if geometry.is_depthwise() => "Conv2d depthwise",
        Instruction::Conv2d { geometry, .. } if geometry.input == Layout::Plain => "Conv2d plain input",
        Instruction::Conv2d { geometry, .. } if geometry.y.kernel * geometry.x.kernel == 1 => "Conv2d 1x1",
        Instruction::Dense { geometry, .. } if geometry.m == 1 => "Dense m=1",
        other => other.name(),
    }
}

/// Operations: two per multiply-add of a product, one per result of everything else.
fn work(instruction: &Instruction) -> f64 {
    match instruction {
        Instruction::Conv2d { geometry: g, .. } => {
            let pixels = f64::from(g.n) * f64::from(g.y.output) * f64::from(g.x.output);
            2.0 * pixels * f64::from(g.oc) * f64::from(g.ic / g.groups) * f64::from(g.y.kernel * g.x.kernel)
        }
        Instruction::Dense { geometry: g, .. } => 2.0 * f64::from(g.m) * f64::from(g.k) * f64::from(g.n),
        Instruction::MatMul { geometry: g, .. } => {
            let batch: f64 = g.batch.dims.iter().copied().map(f64::from).product();
            2.0 * batch * f64::from(g.m) * f64::from(g.k) * f64::from(g.n)
        }
        other => f64::from(other.out().len),
    }
}

fn shape(instruction: &Instruction) -> String {
    match instruction {
        Instruction::Conv2d { geometry: g, residual, activation, .. } => format!(
            "Conv2d {}x{}/{} {}->{} g{} {}x{} {:?} residual {} {activation:?}",
            g.y.kernel,
            g.x.kernel,
            g.y.stride,
            g.ic,
            g.oc,
            g.groups,
            g.y.output,
            g.x.output,
            g.input,
            residual.is_some(),
        ),
        Instruction::Dense { geometry: g, activation, residual, .. } => {
            format!("Dense {}x{}x{} residual {} {activation:?}", g.m, g.k, g.n, residual.is_some())
        }
        Instruction::Binary { op, shape, activation, .. } => format!("Binary {op:?} {shape:?} {activation:?}"),
        Instruction::Unary { op, out, .. } => format!("Unary {op:?} {}", out.len),
        Instruction::Pool { geometry: g, .. } => format!(
            "Pool {:?} {}x{} {}/{} {}->{}",
            g.kind, g.planes, g.lanes, g.axes[2].kernel, g.axes[2].stride, g.axes[2].input, g.axes[2].output
        ),
        Instruction::MatMul { geometry, .. } => format!("{geometry:?}"),
        Instruction::Softmax { along, .. } => format!("Softmax {along:?}"),
        Instruction::Normalize { geometry, .. } => format!("{geometry:?}"),
        Instruction::Reduce { op, kept, reduced, .. } => format!("Reduce {op:?} {kept:?} {reduced:?}"),
        Instruction::Copy { geometry, .. } => format!("{geometry:?}"),
        other => format!("{} {}", other.name(), other.out().len),
    }
}

fn noise(ty: Option<&cordon_graph::TensorType>) -> Tensor {
    let ty = ty.expect("an input has a type");
    assert_eq!(ty.elem, ElemType::Float, "only images are profiled");
    let mut state = 1u64;
    let values: Vec<f32> = (0..ty.elements())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect();
    Tensor::from_f32(&ty.dims, &values)
}

/// Models that need one are for `cordon bench`.
struct NoEngine;

impl Evaluator for NoEngine {
    fn run(&mut self, _: &ExportedModel, _: &[(String, Tensor)], _: &[String]) -> Result<Vec<Tensor>, String> {
        Err("this example folds no constants".into())
    }
}

/// Threads made anew for every instruction: some 30 us each, which the figures contain.
struct Scoped {
    threads: usize,
}

impl Parallel for Scoped {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        std::thread::scope(|scope| {
            let mut tasks = tasks.iter_mut();
            let own = tasks.next();
            for task in tasks {
                scope.spawn(task);
            }
            if let Some(task) = own {
                task();
            }
        });
    }
}
