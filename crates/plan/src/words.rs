//! The plan in words: who may still learn what, compared with no protection and with everything inside, and what is not
//! promised. Every sentence is conditional on the plan at hand; none promises what the implementation does not do.

use crate::affine::{Affine, classify};
use crate::lowered::LoweredPlan;
use crate::placement::Protect;
use crate::plan::{Plan, Role, WeightFormat, World};
use crate::shared::shared;
use cordon_graph::Graph;
use cordon_package::{Domain, Placement};
use core::fmt::Write as _;
use std::collections::{BTreeMap, BTreeSet};

/// Fills `words`, `public_words` and `warnings`.
pub(crate) fn explain(plan: &mut Plan, graph: &Graph, lowered: &LoweredPlan) {
    let warnings = warnings(plan, graph, lowered);
    let repeated = shared(graph, lowered).into_iter().filter(|both| both.repeats);
    let repeated: Vec<&str> = repeated.map(|both| graph.value(both.initializer).name.as_str()).collect();
    plan.public_words = text(plan, &repeated, &warnings, false);
    plan.words = text(plan, &repeated, &warnings, true);
    plan.warnings = warnings;
}

fn text(plan: &Plan, repeated: &[&str], warnings: &[String], names: bool) -> String {
    let mut out = String::new();
    let mut paragraph = |text: String| {
        let _ = writeln!(out, "{}\n", text.trim());
    };
    if !plan.is_protected() {
        paragraph(
            "Nothing is protected. Every node runs in the normal world and every weight lies open in the package. It is signed: \
             `cordon verify --owner` checks whose it is, `cordon run` does not. Use this only to compare."
                .into(),
        );
        return out;
    }
    paragraph(placement(plan, names));
    if domains(plan).len() > 1 {
        paragraph(enclaves(plan, names));
    }
    paragraph(weights(plan, repeated, names));
    paragraph(inputs(plan));
    paragraph(outputs(plan));
    if plan.memory.spilled > 0 {
        paragraph(spilled(plan));
    }
    paragraph(comparison(plan));
    paragraph(not_promised(plan));
    for warning in warnings {
        paragraph(format!("Warning: {warning}"));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn placement(plan: &Plan, names: bool) -> String {
    let total: usize = plan.segments.iter().map(|segment| segment.nodes.len()).sum();
    let several = domains(plan).len() > 1;
    let mut parts = Vec::new();
    for segment in &plan.segments {
        let world = match segment.placement {
            Placement::Secure(Domain(number)) if several => format!("secure world, domain {number}"),
            Placement::Secure(_) => "secure world".into(),
            Placement::Normal => "normal world".into(),
        };
        let mut part = format!("{} ({} of {total} nodes", segment.role, segment.nodes.len());
        if let (true, Some(first), Some(last)) = (names, segment.nodes.first(), segment.nodes.last()) {
            let _ = write!(part, ", `{first}` to `{last}`");
        }
        let _ = write!(part, ", {} of weights) in the {world}", bytes(segment.weight_bytes));
        parts.push(part);
    }
    format!(
        "Placement: {}. The adversary is whoever controls the device that runs the package: its operating system chooses the \
         inputs, sees every value that crosses and may stop or repeat anything.",
        parts.join("; ")
    )
}

/// The enclaves of a plan.
fn domains(plan: &Plan) -> BTreeSet<Domain> {
    plan.segments.iter().filter_map(|segment| segment.placement.domain()).collect()
}

/// What several enclaves mean: only within one of them a value stays inside.
fn enclaves(plan: &Plan, names: bool) -> String {
    let made_inside =
        |value: &String| plan.segments.iter().any(|it| it.placement.is_secure() && it.outputs.contains(value));
    let between = plan.crossings.iter().filter(|crossing| crossing.to == World::Secure && made_inside(&crossing.value));
    let between: BTreeMap<&str, u64> = between.map(|crossing| (crossing.value.as_str(), crossing.bytes)).collect();
    let mut out =
        format!("Enclaves: the secure segments run in {} enclaves, which share nothing. ", domains(plan).len());
    if between.is_empty() {
        out.push_str("No value goes from one to another.");
    } else {
        let listed: Vec<&str> = between.keys().copied().collect();
        let listed = if names { format!(" (`{}`)", listed.join("`, `")) } else { String::new() };
        let _ = write!(
            out,
            "{} value(s){listed}, {} per request, go from one to another through the normal world, which sees them and may \
             change them.",
            between.len(),
            bytes(between.values().sum())
        );
    }
    out
}

fn weights(plan: &Plan, repeated: &[&str], names: bool) -> String {
    let open: u64 = open_weights(plan);
    let mut out = String::from(
        "Weights: those of secure segments are encrypted in the package for the named recipients and are decrypted only inside \
         the enclave. ",
    );
    if open > 0 {
        let _ = write!(
            out,
            "The {} of weights of normal segments are not protected at all: whoever has the package reads them. ",
            bytes(open)
        );
    }
    if !repeated.is_empty() {
        let listed = if names { format!(" (`{}`)", repeated.join("`, `")) } else { String::new() };
        let _ = write!(
            out,
            "{} constant(s){listed} that are one number repeated, as scales of 1 are before training, are used on both sides \
             and so are public: they tell no more than that number. ",
            repeated.len()
        );
    }
    if plan.weights == WeightFormat::F16 {
        out.push_str(
            "Those that convolutions and products multiply by are stored as f16: each was rounded to 11 significant bits, so \
             results differ from the original model's; `cordon seal` measures and says by how much. ",
        );
    }
    out.push_str(
        "A secure segment still answers queries, and answers can be used to train a copy. How hard that is depends on depth, \
         non-linearity, the output policy and the number of queries allowed, and has not been measured for this plan.",
    );
    out
}

fn inputs(plan: &Plan) -> String {
    let raw = plan.segments.iter().any(|segment| {
        !segment.placement.is_secure()
            && segment.inputs.iter().any(|name| plan.model.inputs.iter().any(|input| input.name == *name))
    });
    let mut out = String::from(
        "Inputs: not protected by `cordon run`, where the host holds the input anyway. They are protected only when they arrive \
         encrypted for the enclave, which needs `cordon serve`; this version does not have it. ",
    );
    if raw {
        out.push_str("Even then this plan would not protect them: a normal segment reads a model input directly.");
    } else if plan.segments.iter().any(|segment| !segment.placement.is_secure()) {
        let inner = plan.segments.iter().any(|segment| segment.role == Role::Inner);
        let _ = write!(
            out,
            "Even then the normal world would see the values that leave {}, from which inputs can be rebuilt to a degree \
             that has not been measured for this plan.",
            if inner { "the secure segments" } else { "the FrontNet" }
        );
    }
    out.trim_end().to_owned()
}

fn outputs(plan: &Plan) -> String {
    let inside = plan.crossings.iter().any(|crossing| crossing.kind == "output");
    if inside {
        "Outputs: leave the enclave under the output policy chosen when sealing. `full` hands out every score, which helps \
         both copying the model and testing who was in its training set; `rounded`, `top` and `label` give less."
            .into()
    } else {
        "Outputs: computed in the normal world, so no output policy can hold anything back.".into()
    }
}

fn spilled(plan: &Plan) -> String {
    format!(
        "Secure memory is too small to hold every intermediate value: in each request {} of them wait in the host's memory, encrypted under a key of that request that never leaves the enclave. The host sees when and how much, which the model decides and no input; what it changes, repeats or loses stops the request.",
        bytes(plan.memory.spilled)
    )
}

fn comparison(plan: &Plan) -> String {
    let crossing: Vec<_> = plan.crossings.iter().filter(|crossing| crossing.kind == "intermediate").collect();
    let outwards: u64 = crossing.iter().filter(|c| c.to == World::Normal).map(|c| c.bytes).sum();
    let inwards: u64 = crossing.iter().filter(|c| c.to == World::Secure).map(|c| c.bytes).sum();
    let total: u64 = plan.segments.iter().map(|segment| segment.weight_bytes).sum();
    let hidden = total.saturating_sub(open_weights(plan));
    let share = if total == 0 { 0.0 } else { 100.0 * hidden as f64 / total as f64 };
    let mut out = format!("Compared with no protection: {share:.1} % of the weight bytes are hidden instead of none. ");
    if crossing.is_empty() {
        out.push_str("This is everything inside: only inputs and outputs cross.");
    } else {
        let _ = write!(
            out,
            "Compared with everything inside: per request the normal world also sees {} leaving and writes {} entering, and \
             reads {} of weights.",
            bytes(outwards),
            bytes(inwards),
            bytes(open_weights(plan))
        );
    }
    out
}

fn not_promised(plan: &Plan) -> String {
    let whole = plan.segments.iter().all(|segment| segment.placement.is_secure());
    let integrity = if whole {
        "A correct result is promised only as far as the enclave's isolation holds; the host may still feed another input."
    } else {
        "No correct result is promised: the host computes the normal segments and may return anything."
    };
    format!(
        "Not promised: {integrity} Availability never: the host may stop the service. Traffic, timing and side channels of \
         the processor are not covered. The `process` backend is development isolation: a locked-down process without \
         hardware protection, which a privileged host can read. Older versions are refused only as long as the device \
         keeps its state."
    )
}

fn open_weights(plan: &Plan) -> u64 {
    plan.segments.iter().filter(|s| !s.placement.is_secure()).map(|s| s.weight_bytes).sum()
}

fn warnings(plan: &Plan, graph: &Graph, lowered: &LoweredPlan) -> Vec<String> {
    let mut out = Vec::new();
    if plan.is_protected() && plan.goal.default_cuts {
        out.push(
            "not assessed: the cuts are a default (a share of the layers), no attack has been run against them. Choose --front \
             and --back yourself, or use --protect all."
                .into(),
        );
    }
    if plan.goal.protect != Protect::None && plan.goal.protect != Protect::Inputs && !plan.is_protected() {
        out.push("no segment is secure.".into());
    }
    for (index, segment) in lowered.segments.iter().enumerate() {
        let visible = segment.retained_in.is_empty() && segment.retained_out.is_empty();
        if !segment.placement.is_secure() || !visible {
            continue;
        }
        let role = plan.segments[index].role;
        match classify(graph, &segment.segment) {
            Affine::NoLayer => out.push(format!("{role} (segment {index}) has no layer with weights to protect.")),
            Affine::Whole { layers: 1 } => out.push(format!(
                "{role} (segment {index}) is a single affine layer whose input and output the normal world sees: solving a \
                 linear system over as many queries as the input has elements, plus one, recovers its weights exactly. Its \
                 weights are not confidential; move the cut."
            )),
            Affine::Whole { layers } => out.push(format!(
                "{role} (segment {index}) has {layers} layers but nothing non-linear between them: a linear solve recovers the \
                 one affine map they amount to. Move the cut past a non-linear function."
            )),
            Affine::OneLayer => out.push(format!(
                "{role} (segment {index}) has only one layer with weights; what follows it is a fixed function, so queries \
                 that keep that function linear recover the weights by a linear solve. Move the cut."
            )),
            Affine::Deep => {}
        }
    }
    out
}

/// A size for people, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..=1023 => format!("{count} B"),
        1024..=1_048_575 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}
