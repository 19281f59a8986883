//! `cordon verify`: everything that can be checked without a key to the secrets.

use crate::failure::Outcome;
use crate::keys;
use crate::package::{MappedPackage, date};
use crate::ui::{self, Ui};
use cordon_package::{Checked, Manifest, SegmentInfo};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package
    package: PathBuf,

    /// The owner it must be signed by: a .pub file or `cordonowner1…`; may be repeated
    #[arg(long = "owner", required = true, value_name = "PUB")]
    owners: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let owners = args.owners.iter().map(|text| keys::owner_public(text)).collect::<Outcome<Vec<_>>>()?;
    let package = MappedPackage::open(&args.package)?;
    let bar = ui.progress(0, "checking every section");
    let checked = package.verify(&owners);
    bar.finish_and_clear();
    let checked = checked?;
    ui.line(ui.good(&format!("{}: signature and every digest are right", args.package.display())));
    show(&checked, ui);
    ui.json(&as_json(&checked));
    Ok(())
}

/// Prints what a package says.
pub(crate) fn show(checked: &Checked, ui: Ui) {
    let header = checked.verified.header();
    ui.line(format!("name        {} version {}", header.name, header.version));
    ui.line(format!("owner       {}", header.owner));
    ui.line(format!("package id  {}", hex(&header.package_id)));
    ui.line(format!("recipients  {} (the owner included)", checked.verified.recipients()));
    ui.line(format!("valid until {}", header.not_after.map_or("no end".into(), date)));
    let policy = if header.output_policies.are_full() {
        ui.warn("full: every score leaves, which helps copying the model")
    } else {
        header.output_policies.to_string()
    };
    ui.line(format!("output      {policy}"));
    if header.development {
        ui.line(ui.warn("development: sealed to a platform without hardware protection; real platforms refuse it"));
    }
    ui.heading("Segments");
    let rows: Vec<Vec<String>> = checked
        .manifest
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| {
            vec![
                index.to_string(),
                segment.placement.to_string(),
                segment.inputs.len().to_string(),
                segment.outputs.len().to_string(),
                memory(segment, segment.minimum_peak),
                memory(segment, segment.resident_peak),
            ]
        })
        .collect();
    ui.table(
        &["segment", "world", "values in", "values out", "least secure memory", "all weights inside"],
        &[true, false, true, true, true, true],
        &rows,
    );
    let rounded = checked.manifest.segments.iter().enumerate().filter(|(_, segment)| segment.f16_weights);
    let rounded: Vec<String> = rounded.map(|(index, _)| index.to_string()).collect();
    if !rounded.is_empty() {
        ui.line(format!("Weights of segment {} are stored as f16: rounded by the owner.", rounded.join(", ")));
    }
    ui.heading("In the owner's words");
    ui.line(checked.manifest.plan_text.trim());
}

/// The same as JSON.
pub(crate) fn as_json(checked: &Checked) -> Value {
    let header = checked.verified.header();
    json!({
        "name": header.name,
        "version": header.version,
        "owner": header.owner.to_string(),
        "package_id": hex(&header.package_id),
        "recipients": checked.verified.recipients(),
        "not_after": header.not_after,
        "max_requests": header.max_requests,
        "development": header.development,
        "output_policy": header.output_policies.to_string(),
        "inputs": interface(&checked.manifest, &checked.manifest.inputs),
        "outputs": interface(&checked.manifest, &checked.manifest.output_values().collect::<Vec<_>>()),
        "segments": checked.manifest.segments.iter().map(|segment| json!({
            "placement": segment.placement.to_string(),
            "inputs": segment.inputs,
            "outputs": segment.outputs,
            "retained_in": segment.retained_in,
            "retained_out": segment.retained_out,
            "least_secure_memory": segment.minimum_peak,
            "resident_secure_memory": segment.resident_peak,
            "f16_weights": segment.f16_weights,
        })).collect::<Vec<_>>(),
        "sections": header.sections.iter().map(|section| json!({
            "kind": section.kind().to_string(),
            "segment": section.segment(),
            "bytes": section.plain_len(),
            "encrypted": section.kind().is_sealed(),
        })).collect::<Vec<_>>(),
        "words": checked.manifest.plan_text,
    })
}

fn interface(manifest: &Manifest, ids: &[u32]) -> Vec<Value> {
    ids.iter()
        .filter_map(|&id| manifest.value(id))
        .map(|value| json!({ "name": value.name, "elem": format!("{:?}", value.elem).to_lowercase(), "shape": value.shape() }))
        .collect()
}

fn memory(segment: &SegmentInfo, bytes: u64) -> String {
    if segment.placement.is_secure() { ui::bytes(bytes) } else { "-".into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
