//! `cordon inspect`: nodes and the cut table.

use crate::backend::BackendArgs;
use crate::failure::Outcome;
use crate::model::{ExecutorArgs, ModelArgs};
use crate::ui::{self, Ui};
use cordon_plan::{CutRow, Inspection, Model, NodeRow, inspect};
use serde_json::{Value, json};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    executor: ExecutorArgs,
    #[command(flatten)]
    backend: BackendArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let backend = args.backend.open()?;
    let model = args.model.read(&args.executor, ui)?;
    let bar = ui.progress(0, "lowering each side of the cuts");
    let inspection = inspect(&model, backend.profile());
    bar.finish_and_clear();
    show(&model, &inspection, ui);
    ui.json(&as_json(&model, &inspection));
    Ok(())
}

/// Prints the inspection for a person.
pub(crate) fn show(model: &Model, inspection: &Inspection, ui: Ui) {
    ui.line(format!("{}  SHA-256 {}", ui.bold(&model.file), model.sha256));
    ui.line(format!(
        "{} nodes, {} parameters, {} MACs",
        inspection.nodes.len(),
        ui::count(inspection.parameters),
        ui::count(inspection.macs)
    ));
    for (title, ids) in [("input", &model.graph.inputs), ("output", &model.graph.outputs)] {
        for &id in ids {
            let value = model.graph.value(id);
            let ty = value.ty.as_ref().map_or("unknown".into(), |ty| format!("{} {}", ty.elem, ui::shape(&ty.dims)));
            ui.line(format!("{title} {}: {ty}", value.name));
        }
    }
    ui.heading("Nodes");
    let rows: Vec<Vec<String>> =
        inspection.nodes.iter().enumerate().map(|(index, row)| node_cells(index, row)).collect();
    let header = ["#", "node", "operator", "output", "parameters", "MACs", "normal only"];
    ui.table(&header, &[true, false, false, false, true, true, false], &rows);
    ui.heading("Cuts (secure memory with all weights inside is an estimate; `cordon plan` predicts it)");
    let rows: Vec<Vec<String>> = inspection.cuts.iter().map(cut_cells).collect();
    let header =
        ["cut", "after node", "crossing", "values", "inside if before", "at least", "inside if after", "at least"];
    ui.table(&header, &[true, false, true, true, true, true, true, true], &rows);
}

fn node_cells(index: usize, row: &NodeRow) -> Vec<String> {
    let outputs: Vec<String> = row.outputs.iter().map(|ty| ui::shape(&ty.dims)).collect();
    vec![
        (index + 1).to_string(),
        row.name.clone(),
        row.op_type.clone(),
        outputs.join(" "),
        ui::count(row.parameters),
        ui::count(row.macs),
        row.normal_only.clone().unwrap_or_default(),
    ]
}

fn cut_cells(row: &CutRow) -> Vec<String> {
    let size = |bytes: Option<u64>, none: &str| bytes.map_or(none.into(), ui::bytes);
    vec![
        row.index.to_string(),
        row.after.clone(),
        size(row.bytes, "?"),
        row.values.len().to_string(),
        size(row.secure_before, "not possible"),
        size(row.least_before, "-"),
        size(row.secure_after, "not possible"),
        size(row.least_after, "-"),
    ]
}

fn as_json(model: &Model, inspection: &Inspection) -> Value {
    let values = |ids: &[cordon_graph::ValueId]| -> Vec<Value> {
        ids.iter()
            .map(|&id| {
                let value = model.graph.value(id);
                let ty = value.ty.as_ref();
                json!({ "name": value.name, "elem": ty.map(|ty| ty.elem.to_string()), "shape": ty.map(|ty| &ty.dims) })
            })
            .collect()
    };
    let nodes: Vec<Value> = inspection
        .nodes
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "op_type": row.op_type,
                "outputs": row.outputs.iter().map(|ty| json!({ "elem": ty.elem.to_string(), "shape": ty.dims })).collect::<Vec<_>>(),
                "parameters": row.parameters,
                "macs": row.macs,
                "normal_only": row.normal_only,
            })
        })
        .collect();
    let cuts: Vec<Value> = inspection
        .cuts
        .iter()
        .map(|row| {
            json!({
                "cut": row.index,
                "after": row.after,
                "values": row.values,
                "bytes": row.bytes,
                "secure_memory_before_estimate": row.secure_before,
                "secure_memory_after_estimate": row.secure_after,
                "secure_memory_before_least": row.least_before,
                "secure_memory_after_least": row.least_after,
            })
        })
        .collect();
    json!({
        "model": model.file,
        "sha256": model.sha256,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "inputs": values(&model.graph.inputs),
        "outputs": values(&model.graph.outputs),
        "nodes": nodes,
        "cuts": cuts,
    })
}
