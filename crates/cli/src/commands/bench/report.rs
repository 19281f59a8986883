//! What `cordon bench` says: a table for people, one JSON value per variant for programs.

use super::crossing::CrossingCost;
use super::machine::{Ceilings, cpu};
use super::opening::Opening;
use super::stats::{Spread, median};
use super::variant::Variant;
use crate::failure::Outcome;
use crate::ui::{self, Ui};
use cordon_lower::Lowered;
use serde_json::{Value, json};

/// Everything measured.
pub(super) struct Findings {
    /// The first is the baseline.
    pub(super) variants: Vec<Variant>,
    /// Engine of the baseline and of normal segments.
    pub(super) engine: String,
    /// Threads asked for.
    pub(super) threads: Option<usize>,
    /// With `--against`: the machine, a crossing, and the model lowered whole where that is possible.
    pub(super) against: Option<(Ceilings, CrossingCost, Option<Lowered>)>,
    /// With budgets: how fast weights are opened.
    pub(super) opening: Option<Opening>,
    /// Share of the machine that other programs used meanwhile.
    pub(super) others: Option<f64>,
}

impl Findings {
    /// Prints everything; fails when there is no baseline to compare with.
    pub(super) fn report(&self, ui: Ui) -> Outcome {
        let baseline = self.variants.first();
        let base = baseline.map_or(&[][..], |plain| &plain.wall);
        let mut rows = Vec::new();
        for variant in &self.variants {
            if let Err(failure) = &variant.runner {
                ui.line(ui.warn(&format!("{}: {failure}", variant.name)));
                ui.json(&json!({ "variant": variant.name, "baseline": self.engine, "error": failure.to_string() }));
                continue;
            }
            rows.extend(row(variant, base));
            ui.json(&self.as_json(variant, baseline));
        }
        let threads = self.threads.map_or("threads by its own choice".into(), |threads| format!("{threads} thread(s)"));
        ui.line(format!(
            "engine of the normal world: {}, {threads}; ratios are to the same engine running the whole model, round by round",
            self.engine
        ));
        let mut right = [true; HEADER.len()];
        right[0] = false;
        ui.table(&HEADER, &right, &rows);
        self.explain(ui);
        match baseline.map(|plain| &plain.runner) {
            Some(Err(failure)) => {
                Err(failure.clone().within("the plain model did not run").advise("try another --executor"))
            }
            _ => Ok(()),
        }
    }

    /// What the table's figures are to be held against.
    fn explain(&self, ui: Ui) {
        if let Some(deployment) = self.variants.iter().find_map(Variant::deployment)
            && let Some(greeting) = deployment.greeting()
        {
            let (kernels, threads, cipher) = (&greeting.kernels, greeting.threads, &greeting.chunk_cipher);
            ui.line(format!("enclave: {kernels} kernels, {threads} thread(s), chunks decrypted by {cipher}"));
        }
        if let Some(share) = self.others {
            ui.line(format!("other programs used {:.0} % of the machine meanwhile", share * 100.0));
        }
        for variant in self.variants.iter().filter(|variant| variant.spilled_bytes > 0) {
            let bytes = ui::bytes(variant.spilled_bytes);
            ui.line(format!("{}: {bytes} of encrypted activations leave and come back in each run", variant.name));
        }
        let joules = self.variants.iter().any(|variant| !variant.joules.is_empty());
        if !joules {
            ui.line("energy: not measured (no readable counter under /sys/class/powercap)");
        }
        if let Some(Opening(rate)) = self.opening {
            ui.line(format!("streamed weights are opened at {:.2} GB/s", rate / 1e9));
        }
        for variant in self.variants.iter().filter(|variant| variant.limit.is_some()) {
            if let Some(measured) = self.slowdown(variant) {
                ui.line(format!(
                    "{}: {:.2} times all-secure, predicted {:.2} (error {:+.0} %), {} streamed; opening those and 1.1 \
                     times all-secure come to {:.2}",
                    variant.name,
                    measured.median,
                    variant.slowdown,
                    (variant.slowdown / measured.median - 1.0) * 100.0,
                    ui::bytes(variant.streamed_bytes),
                    self.bound(variant).unwrap_or(f64::NAN)
                ));
            }
        }
        let Some((ceilings, crossing, lowered)) = &self.against else { return };
        ui.line(format!(
            "{}: {:.1} GFLOP/s with {} and {} thread(s), {:.1} GB/s read from memory",
            cpu(),
            ceilings.flops / 1e9,
            ceilings.set.name(),
            ceilings.threads,
            ceilings.bytes / 1e9
        ));
        if let Some(lowered) = lowered {
            let (flops, weights) = (lowered.flops(), lowered.weight_bytes());
            let floor = ceilings.floor(flops, weights).as_secs_f64() * 1e3;
            ui.line(format!(
                "the model: {:.2} GFLOP, {} of weights; at those rates no less than {floor:.3} ms",
                flops as f64 / 1e9,
                ui::bytes(weights)
            ));
            for variant in self.variants.iter().filter(|variant| ["plain", "all-secure"].contains(&&*variant.name)) {
                if let Some(wall) = Spread::of(&variant.wall) {
                    ui.line(format!("  {} takes {:.2} times that", variant.name, wall.median / floor));
                }
            }
        }
        ui.line(format!(
            "one crossing: {:.1} us, and {:.0} us for each MiB; a request that computes nothing: {:.1} us",
            crossing.fixed, crossing.per_mib, crossing.request
        ));
        for variant in self.variants.iter().filter(|variant| variant.crossings > 0) {
            let total = crossing.total(variant.crossings, variant.crossing_bytes) / 1e3;
            let bytes = ui::bytes(variant.crossing_bytes);
            ui.line(format!("  {}: {} crossings of {bytes} come to {total:.3} ms", variant.name, variant.crossings));
        }
        if let Ok(summary) = serde_json::to_value(self.summary(ceilings, crossing, lowered.as_ref())) {
            ui.json(&summary);
        }
    }

    /// What a budget costs: against the same plan with all the memory it wants.
    fn slowdown(&self, variant: &Variant) -> Option<Spread> {
        let unlimited = self.variants.iter().find(|other| other.name == "all-secure")?;
        variant.name.starts_with("all-secure").then(|| Spread::of_ratios(&variant.wall, &unlimited.wall)).flatten()
    }

    /// What it might cost at most, over all-secure: the streamed bytes at the rate they are opened, and 1.1 times computing.
    fn bound(&self, variant: &Variant) -> Option<f64> {
        let unlimited = self.variants.iter().find(|other| other.name == "all-secure")?;
        let opening = variant.streamed_bytes as f64 / self.opening?.0 * 1e3;
        Some(opening / median(&unlimited.wall) + 1.1)
    }

    fn as_json(&self, variant: &Variant, baseline: Option<&Variant>) -> Value {
        let of =
            |values: &[f64]| Spread::of(values).map_or((f64::NAN, [f64::NAN; 2]), |it| (it.median, [it.low, it.high]));
        let ratios = |values: &[f64], base: Option<&Vec<f64>>| {
            Spread::of_ratios(values, base.map_or(&[], Vec::as_slice)).map(|it| (it.median, [it.low, it.high]))
        };
        let (wall, wall_quartiles) = of(&variant.wall);
        let (cpu, cpu_quartiles) = of(&variant.cpu);
        let ratio = ratios(&variant.wall, baseline.map(|plain| &plain.wall));
        let cpu_ratio = ratios(&variant.cpu, baseline.map(|plain| &plain.cpu));
        let slowdown = self.slowdown(variant).map(|it| (it.median, [it.low, it.high]));
        let deployment = variant.deployment();
        let mut value = json!({
            "variant": variant.name,
            "baseline": self.engine,
            "median_ms": wall,
            "quartiles_ms": wall_quartiles,
            "cpu_median_ms": cpu,
            "cpu_quartiles_ms": cpu_quartiles,
            "repeat": variant.wall.len(),
            "ratio": ratio.map(|it| it.0),
            "ratio_quartiles": ratio.map(|it| it.1),
            "cpu_ratio": cpu_ratio.map(|it| it.0),
            "cpu_ratio_quartiles": cpu_ratio.map(|it| it.1),
            "slowdown": slowdown.map(|it| it.0),
            "slowdown_quartiles": slowdown.map(|it| it.1),
            "slowdown_predicted": variant.limit.map(|_| variant.slowdown),
            "slowdown_bound": variant.limit.and_then(|_| self.bound(variant)),
            "secure_median_ms": deployment.map(|_| median(&variant.secure)),
            "secure_memory_limit": variant.limit,
            "secure_memory_predicted": variant.predicted,
            "secure_memory_measured": variant.measured,
            "crossings": variant.crossings,
            "crossing_bytes": variant.crossing_bytes,
            "streamed_bytes": variant.streamed_bytes,
            "spilled_bytes": variant.spilled_bytes,
            "host_peak_bytes": variant.host_peak,
            "joules_median": Spread::of(&variant.joules).map(|it| it.median),
            "enclave_threads": deployment.and_then(|it| it.greeting()).map(|greeting| greeting.threads),
            "chunk_cipher": deployment.and_then(|it| it.greeting()).map(|greeting| &greeting.chunk_cipher),
        });
        if self.against.is_some() && self.engine.starts_with("onnxruntime") {
            value["ratio_to_onnxruntime"] = value["ratio"].clone();
        }
        value
    }

    /// The JSON value after the variants.
    fn summary(&self, ceilings: &Ceilings, crossing: &CrossingCost, lowered: Option<&Lowered>) -> Value {
        let model = lowered.map(|lowered| {
            let floor = |flops, bytes| ceilings.floor(flops, bytes).as_secs_f64() * 1e3;
            json!({
                "flops": lowered.flops(),
                "weight_bytes": lowered.weight_bytes(),
                "arena_bytes": lowered.arena.bytes,
                "floor_ms": floor(lowered.flops(), lowered.weight_bytes()),
                "floor_of_flops_ms": floor(lowered.flops(), 0),
                "floor_of_bytes_ms": floor(0, lowered.weight_bytes()),
            })
        });
        json!({
            "summary": {
                "machine": ceilings.as_json(),
                "model": model,
                "crossing_us": crossing.fixed,
                "crossing_us_per_mib": crossing.per_mib,
                "empty_request_us": crossing.request,
                "opening": self.opening.map(|opening| opening.as_json()),
                "others_share": self.others,
            }
        })
    }
}

const HEADER: [&str; 12] = [
    "variant",
    "wall ms",
    "quartiles",
    "CPU ms",
    "ratio",
    "quartiles",
    "predicted",
    "measured",
    "crossings",
    "crossing bytes",
    "host memory",
    "energy J",
];

/// A line of the table; `None` without runs.
fn row(variant: &Variant, base: &[f64]) -> Option<Vec<String>> {
    let wall = Spread::of(&variant.wall)?;
    let ratio = Spread::of_ratios(&variant.wall, base);
    let secure = variant.deployment().is_some();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    Some(vec![
        variant.name.clone(),
        format!("{:.3}", wall.median),
        wall.range(3),
        format!("{:.3}", median(&variant.cpu)),
        or_none(ratio.map(|ratio| format!("{:.3}", ratio.median))),
        or_none(ratio.map(|ratio| ratio.range(3))),
        or_none(secure.then(|| ui::bytes(variant.predicted))),
        or_none(secure.then(|| ui::bytes(variant.measured))),
        variant.crossings.to_string(),
        ui::bytes(variant.crossing_bytes),
        or_none(variant.host_peak.map(ui::bytes)),
        or_none(Spread::of(&variant.joules).map(|joules| format!("{:.3}", joules.median))),
    ])
}
