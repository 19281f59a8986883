//! What `plan --secure-memory` makes of models in several budgets, without an enclave:
//! `cargo run --release -p cordon-plan --example budgets [--run] MODEL…`.
//!
//! Per model and budget: how small it is cut, the arena and its lower bound, what the engine will take, what is predicted,
//! and with `--run` the time of the cut Program's arithmetic alone, over that of the uncut one, and whether the bits agree.

use cordon_engine::{KernelSet, Prepared, Residency};
use cordon_graph::{ImportOptions, Tensor, import};
use cordon_lower::Lowered;
use cordon_native::Native;
use cordon_plan::{Constraints, Model, PlanError, Protect, lower_plan, make};
use cordon_process_link::profile::PROFILE;
use std::path::Path;
use std::time::Instant;

const BUDGETS: [u64; 6] = [0, 64, 32, 16, 14, 10];

fn main() {
    let run = std::env::args().any(|arg| arg == "--run");
    for model in std::env::args().skip(1).filter(|arg| !arg.starts_with("--")) {
        if let Err(error) = report(&model, run) {
            println!("{model}: {error}");
        }
    }
}

fn report(file: &str, run: bool) -> Result<(), Box<dyn core::error::Error>> {
    let graph = import(Path::new(file), &ImportOptions::default())?;
    let model = Model::new(graph, file, "")?;
    println!("{}", file.rsplit('/').nth(2).unwrap_or(file));
    let mut plain = None;
    for mib in BUDGETS {
        let start = Instant::now();
        let limit = (mib > 0).then_some(mib << 20);
        let constraints = Constraints { secure_memory: limit, ..Constraints::new(Protect::All) };
        let plan = match make(&model, &constraints, &PROFILE) {
            Ok(plan) => plan,
            Err(error @ PlanError::SecureMemory { .. }) => {
                println!("  {mib:3} {error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let searched = start.elapsed().as_secs_f64();
        let lowered = lower_plan(&model, &plan, &PROFILE)?;
        let lowered = lowered.segments.into_iter().find_map(|it| it.lowered).ok_or("one secure segment")?;
        let least = Prepared::predict(&lowered.program, &lowered.weights, Residency::Least)?.memory;
        let size = |bytes: u64| bytes as f64 / 1048576.0;
        let tile = plan.segments[0].tile_weights.map_or("-".into(), |it| format!("{} KiB", it >> 10));
        let arena = plan.segments[0].tile_arena.map_or("-".into(), |it| format!("{:.2} MiB", size(it)));
        print!(
            "  {mib:3} tiles {tile:>8} {arena:>9} | {:5} instructions, arena {:5.2} of {:5.2}, scratch {:5.2}, window {:4.2}, tables {:4.2} | \
             predicted {:6.2}, least {:5.2}, streams {:6.1} of {:5.1}, slowdown {:4.2}, search {searched:.1} s",
            lowered.program.instructions.len(),
            size(lowered.arena.bytes),
            size(lowered.arena.lower_bound),
            f64::from(lowered.program.arena.scratch) / 262144.0,
            size(least.window),
            size(least.tables),
            size(plan.memory.predicted),
            size(plan.memory.minimum),
            size(plan.memory.streamed),
            size(lowered.weight_bytes()),
            plan.memory.slowdown,
        );
        if run {
            let (ms, outputs) = time(&lowered, &model)?;
            let (plain_ms, plain_outputs) = plain.get_or_insert_with(|| (ms, outputs.clone()));
            print!(
                ", run {ms:.1} ms, {:.2}{}",
                ms / *plain_ms,
                if outputs == *plain_outputs { "" } else { " OTHER BITS" }
            );
        }
        println!();
    }
    Ok(())
}

/// Best of some runs, everything resident, one thread.
fn time(lowered: &Lowered, model: &Model) -> Result<(f64, Vec<Tensor>), Box<dyn core::error::Error>> {
    let dims = |id| model.graph.value(id).ty.as_ref().map_or(&[][..], |ty| &ty.dims);
    let inputs: Vec<Tensor> = model.graph.inputs.iter().map(|&id| noise(dims(id))).collect();
    let (program, weights) = (lowered.program.clone(), lowered.weights.clone());
    let stream = |sink: &mut dyn FnMut(&[u8])| lowered.write_weights(sink);
    let mut native = Native::load(program, weights, &lowered.outputs, stream, KernelSet::detect())?;
    let outputs = native.run(&inputs)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        native.run(&inputs)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok((best, outputs))
}

fn noise(dims: &[usize]) -> Tensor {
    let mut state = 1u32;
    let data: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_f32(dims, &data).expect("data fills the extents")
}
