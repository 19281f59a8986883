//! `cordon bench --profile`: the time of every instruction.
//!
//! Taken in this process with the engine and the kernels of the enclave, because the enclave has no clock, on purpose: what
//! it cannot measure it cannot tell. Weights are resident and nothing is decrypted.

use super::machine::Ceilings;
use super::stats::median;
use crate::failure::Outcome;
use crate::ui::{self, Ui};
use cordon_engine::KernelSet;
use cordon_graph::{Graph, Tensor, ValueId};
use cordon_lower::{Lowered, describe, lower_graph};
use cordon_native::{Native, with_threads};
use cordon_plan::Model;
use cordon_seal::Probe;
use serde_json::json;
use std::collections::HashMap;
use std::time::Instant;

/// One instruction.
struct Line {
    index: usize,
    what: String,
    node: Option<String>,
    milliseconds: f64,
    flops: u64,
    bytes: u64,
}

/// Profiles the whole model.
pub(super) fn run(model: &Model, probe: &Probe, threads: Option<usize>, repeat: u32, ui: Ui) -> Outcome {
    let threads = threads.unwrap_or(1);
    let lowered = lower_graph(&model.graph)?;
    let bar = ui.progress(u64::from(repeat), "measuring");
    let (lines, whole) = measure(model, &lowered, probe, threads, repeat, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let ceilings = Ceilings::measure(threads);
    report(&lines, whole, &ceilings, ui);
    Ok(())
}

/// Medians over all runs but the first, of every instruction and of the whole.
fn measure(
    model: &Model,
    lowered: &Lowered,
    probe: &Probe,
    threads: usize,
    repeat: u32,
    ran: &dyn Fn(),
) -> Outcome<(Vec<Line>, f64)> {
    let (program, weights) = (lowered.program.clone(), lowered.weights.clone());
    let stream = |sink: &mut dyn FnMut(&[u8])| lowered.write_weights(sink);
    let compute = with_threads(KernelSet::detect(), threads);
    let mut native = Native::load(program, weights, &lowered.outputs, stream, compute)?;
    let inputs: Vec<Tensor> = probe.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let instructions = &lowered.program.instructions;
    let mut times = vec![Vec::new(); instructions.len()];
    let mut whole = Vec::new();
    for round in 0..=repeat {
        let started = Instant::now();
        let mut last = started;
        native.run_observed(&inputs, &mut |index| {
            let now = Instant::now();
            if round > 0
                && let Some(times) = times.get_mut(index as usize)
            {
                times.push((now - last).as_secs_f64() * 1e3);
            }
            last = now;
        })?;
        if round > 0 {
            whole.push(started.elapsed().as_secs_f64() * 1e3);
        }
        ran();
    }
    let nodes = nodes_by_weight(&model.graph);
    let lines = instructions.iter().zip(lowered.work()).zip(&times).enumerate().map(|(index, ((it, work), times))| {
        let constants = it.tiles().filter_map(|tile| lowered.constant(tile.tensor));
        Line {
            index,
            what: describe(it),
            node: constants.filter_map(|constant| nodes.get(&constant).cloned()).next(),
            milliseconds: median(times),
            flops: work.flops(),
            bytes: work.bytes,
        }
    });
    Ok((lines.collect(), median(&whole)))
}

/// The first node that uses each constant.
fn nodes_by_weight(graph: &Graph) -> HashMap<ValueId, String> {
    let mut nodes = HashMap::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        for &constant in node.inputs.iter().flatten().filter(|&&input| graph.value(input).constant.is_some()) {
            nodes.entry(constant).or_insert_with(|| node.name.clone());
        }
    }
    nodes
}

fn report(lines: &[Line], whole: f64, ceilings: &Ceilings, ui: Ui) {
    let total: f64 = lines.iter().map(|line| line.milliseconds).sum();
    ui.line(format!(
        "whole model, {} kernels, {} thread(s): {whole:.3} ms, of which {total:.3} ms in instructions; medians",
        ceilings.set.name(),
        ceilings.threads
    ));
    ui.line("measured in this process, unprotected, with the enclave's engine and kernels: the enclave has no clock");
    ui.line(format!(
        "shares of {:.1} GFLOP/s, the same kernels' multiply-adds on registers, measured now; GB/s counts each operand once",
        ceilings.flops / 1e9
    ));
    ui.heading("By kind");
    kinds(lines, total, ceilings, ui);
    ui.heading("By instruction");
    let rows: Vec<Vec<String>> = lines.iter().map(|line| row(line, total, ceilings)).collect();
    ui.table(
        &["#", "ms", "share", "GFLOP/s", "of peak", "GB/s", "instruction", "node"],
        &[true, true, true, true, true, true, false, false],
        &rows,
    );
    for line in lines {
        let seconds = line.milliseconds / 1e3;
        ui.json(&json!({
            "instruction": line.index,
            "what": line.what,
            "node": line.node,
            "median_ms": line.milliseconds,
            "flops": line.flops,
            "bytes": line.bytes,
            "gflops": line.flops as f64 / seconds / 1e9,
            "share_of_peak": line.flops as f64 / seconds / ceilings.flops,
        }));
    }
    let flops: u64 = lines.iter().map(|line| line.flops).sum();
    ui.json(&json!({
        "profile": {
            "median_ms": whole,
            "instructions_ms": total,
            "flops": flops,
            "floor_ms": ceilings.floor(flops, 0).as_secs_f64() * 1e3,
            "machine": ceilings.as_json(),
            "measured_in": "this process, unprotected, with the enclave's engine and kernels",
        }
    }));
}

fn row(line: &Line, total: f64, ceilings: &Ceilings) -> Vec<String> {
    let seconds = line.milliseconds / 1e3;
    let rate = line.flops as f64 / seconds;
    let arithmetic = |text: String| if line.flops > 0 { text } else { "-".into() };
    vec![
        line.index.to_string(),
        format!("{:.3}", line.milliseconds),
        format!("{:.1} %", line.milliseconds / total * 100.0),
        arithmetic(format!("{:.1}", rate / 1e9)),
        arithmetic(format!("{:.0} %", rate / ceilings.flops * 100.0)),
        format!("{:.1}", line.bytes as f64 / seconds / 1e9),
        line.what.clone(),
        line.node.clone().unwrap_or_default(),
    ]
}

/// The same, summed over instructions that differ only in extents, the costliest first.
fn kinds(lines: &[Line], total: f64, ceilings: &Ceilings, ui: Ui) {
    let mut kinds: Vec<(String, usize, Line)> = Vec::new();
    for line in lines {
        let kind = kind(&line.what);
        let at = kinds.iter().position(|(name, ..)| *name == kind).unwrap_or_else(|| {
            let sum = Line { index: 0, what: kind.clone(), node: None, milliseconds: 0.0, flops: 0, bytes: 0 };
            kinds.push((kind.clone(), 0, sum));
            kinds.len() - 1
        });
        let (_, count, sum) = &mut kinds[at];
        *count += 1;
        sum.milliseconds += line.milliseconds;
        sum.flops += line.flops;
        sum.bytes += line.bytes;
    }
    kinds.sort_by(|a, b| b.2.milliseconds.total_cmp(&a.2.milliseconds));
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|(_, count, sum)| {
            let mut row = row(sum, total, ceilings);
            row[0] = ui::count(*count as u64);
            row.truncate(7);
            row
        })
        .collect();
    ui.table(
        &["count", "ms", "share", "GFLOP/s", "of peak", "GB/s", "kind"],
        &[true, true, true, true, true, true, false],
        &rows,
    );
}

/// A description without extents: `Conv2d 3x3 64→128 28x28 Relu` is a `Conv2d 3x3`.
fn kind(what: &str) -> String {
    let mut words = what.split(' ');
    let name = words.next().unwrap_or_default();
    let detail = match name {
        "Conv2d" | "ConvNd" | "Pool" | "Unary" | "Binary" | "Reduce" => words.next().unwrap_or_default(),
        _ => "",
    };
    let special = what.split(' ').find(|word| matches!(*word, "depthwise" | "plain")).unwrap_or_default();
    [name, detail, special].iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_forget_extents() {
        assert_eq!(kind("Conv2d 3x3/2 64→128 28x28 depthwise Relu"), "Conv2d 3x3/2 depthwise");
        assert_eq!(kind("Dense 1x2048x1000"), "Dense");
        assert_eq!(kind("Unary Relu 100"), "Unary Relu");
    }

    #[test]
    fn an_instruction_is_named_by_its_rate_and_its_share() {
        let ceilings = Ceilings { set: KernelSet::PORTABLE, threads: 1, flops: 4e9, bytes: 1e9 };
        let line =
            Line { index: 7, what: "Dense".into(), node: None, milliseconds: 2.0, flops: 4_000_000, bytes: 10_000 };
        assert_eq!(row(&line, 8.0, &ceilings)[..5], ["7", "2.000", "25.0 %", "2.0", "50 %"]);
    }
}
