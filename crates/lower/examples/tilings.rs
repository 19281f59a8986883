//! What tilings make of a model's activations and weights, all of it on the trusted engine:
//! `cargo run --release -p cordon-lower --example tilings MODEL…`.
//!
//! Per model: arena and its lower bound untiled, then for falling targets and with values spilled, and whether a run gives
//! the same bits.

use cordon_engine::KernelSet;
use cordon_engine::{Prepared, Residency};
use cordon_graph::{Evaluator, ExportedModel, ImportOptions, Tensor, complete_shapes, import, infer, segment};
use cordon_lower::{Local, LowerOptions, Lowered, OperatorTable, Tiling, lower_untiled};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn core::error::Error>> {
    for model in std::env::args().skip(1) {
        if let Err(error) = report(&model) {
            println!("{model}: {error}");
        }
    }
    Ok(())
}

fn report(model: &str) -> Result<(), Box<dyn core::error::Error>> {
    let mut graph = import(Path::new(&model), &ImportOptions::default())?;
    if !infer(&mut graph, &OperatorTable)?.is_empty() {
        complete_shapes(&mut graph, &mut NoEngine)?;
    }
    let mut whole = segment(&graph, graph.node_ids());
    whole.inputs.clone_from(&graph.inputs);
    whole.outputs.clone_from(&graph.outputs);
    let untiled = lower_untiled(&graph, &whole, &LowerOptions::default())?;
    let inputs: Vec<Tensor> =
        graph.inputs.iter().map(|id| noise(graph.value(*id).ty.as_ref().map_or(&[], |ty| &ty.dims[..]))).collect();
    let run = |lowered: &Lowered| -> Result<(Vec<Tensor>, f64), Box<dyn core::error::Error>> {
        let mut local = Local::new(lowered, KernelSet::detect())?;
        local.run(&inputs)?;
        let start = Instant::now();
        Ok((local.run(&inputs)?, start.elapsed().as_secs_f64() * 1e3))
    };
    let plain = untiled.tile(&Tiling::default())?;
    let (want, ms) = run(&plain)?;
    println!("{model}");
    line("untiled", &plain, ms, 0.0, true)?;
    let ways = [
        (None, None),
        (Some(6), None),
        (Some(4), None),
        (Some(3), None),
        (Some(0), None),
        (None, Some(0)),
        (Some(6), Some(0)),
        (Some(4), Some(0)),
        (Some(0), Some(0)),
    ];
    for (arena, spill) in ways {
        let mib = |mib: u64| mib << 20;
        let tiling =
            Tiling { weights: Some(512 << 10), arena: arena.map(mib), spill: spill.map(mib), scratch: Some(0) };
        let start = Instant::now();
        let lowered = untiled.tile(&tiling)?;
        let search = start.elapsed().as_secs_f64() * 1e3;
        let (got, ms) = run(&lowered)?;
        line(&format!("{arena:?} MiB, spilled to {spill:?}"), &lowered, ms, search, got == want)?;
    }
    Ok(())
}

fn line(name: &str, lowered: &Lowered, ms: f64, search: f64, same: bool) -> Result<(), Box<dyn core::error::Error>> {
    let mib = |bytes: u64| bytes as f64 / 1048576.0;
    let least = Prepared::predict(&lowered.program, &lowered.weights, Residency::Least)?;
    let budget = Residency::Budget { bytes: least.constants + (1 << 20) };
    let more = Prepared::predict(&lowered.program, &lowered.weights, budget)?;
    println!(
        "  {name:<32} arena {:6.2} bound {:6.2} window {:6.2} tables {:5.2} total {:6.2} | {} instructions, spilled {:.1}, streamed {:.1}, with 1 MiB resident {:.1} MiB, run {ms:.1} ms, search {search:.0} ms{}",
        mib(lowered.arena.bytes),
        mib(lowered.arena.lower_bound),
        mib(least.memory.window),
        mib(least.memory.tables),
        mib(least.memory.total()),
        lowered.program.instructions.len(),
        mib(lowered.program.spilled_bytes()),
        least.chunks as f64 / 16.0,
        more.chunks as f64 / 16.0,
        if same { "" } else { "  OTHER BITS" },
    );
    Ok(())
}

fn noise(dims: &[usize]) -> Tensor {
    let mut state = 1u32;
    let data: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_f32(dims, &data)
}

/// Models whose shapes need an engine to be known are not for this tool.
struct NoEngine;

impl Evaluator for NoEngine {
    fn run(&mut self, _: &ExportedModel, _: &[(String, Tensor)], _: &[String]) -> Result<Vec<Tensor>, String> {
        Err("this example folds no constants".into())
    }
}
