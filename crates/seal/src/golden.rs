//! The golden check: the very file that is handed out, run in an enclave, against the plain model.
//!
//! 1. A device that exists only for this check is made, and the owner grants it the package by a side file, so the file
//!    itself is run as it is. Every value that crosses is compared with the same value of the plain model.
//! 2. An output policy other than `full` hides what has to be compared. The same sections are then sealed once more, with
//!    policy `full` and for the check's device only, to compare outputs before the policy. The first file's sections were
//!    read back byte for byte before, so both hold the same Programs and weights.

use crate::steps::{STEPS, Step, Steps, steps};
use crate::write::{Identity, random, write};
use crate::{Contents, Probe, ScratchDevice, SealError};
use cordon_executor::{ElemType, Tensor};
use cordon_graph::ValueId;
use cordon_package::{GrantRequest, OutputPolicy, Parsed, Recipient, Trust, write_grant};
use cordon_plain::{Origin, PlainModel};
use cordon_plan::{Model, Plan};
use cordon_runtime::{Backend, Output, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Largest difference allowed, relative to the largest magnitude of the reference value, where nothing was rounded. A value
/// that comes of a quantisation may differ by [`STEPS`] beside that.
pub const TOLERANCE: f64 = 1e-4;

/// What the check found.
#[derive(Clone, Debug)]
pub struct Golden {
    /// What the reference engine ran: the model's own file, where it could.
    pub reference: Origin,
    /// One for each probe and value.
    pub compared: Vec<Compared>,
    /// Largest difference that was allowed: [`TOLERANCE`], and what rounding weights to f16 may add.
    pub tolerance: f64,
    /// Weight tensors stored as f16.
    pub rounded: usize,
    /// Where the plan knows the first output's classes: answers with the same best class, and all answers.
    pub same_class: Option<(usize, usize)>,
    /// Whether a second file with policy `full` was needed for the outputs.
    pub twin: bool,
    /// High-water mark of secure memory over all runs; 0 without secure segments.
    pub secure_memory: u64,
    /// What the enclave said about its protections and kernels; `None` without secure segments.
    pub greeting: Option<cordon_runtime::Greeting>,
}

/// One value of one probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Which probe.
    pub probe: String,
    /// Which value.
    pub value: String,
    /// Whether it is an output of the model; else it passes between segments.
    pub output: bool,
    /// Largest difference, relative to the largest magnitude of the reference.
    pub error: f64,
    /// In steps, where the value comes of a quantisation.
    pub steps: Option<Steps>,
}

/// Runs the package at `path` on every probe, in an enclave of `backend`, and compares.
#[expect(clippy::too_many_arguments, reason = "each is a separate thing the check must not make up itself")]
pub fn golden(
    model: &Model,
    plan: &Plan,
    contents: &Contents,
    backend: &Arc<dyn Backend>,
    identity: &Identity<'_>,
    path: &Path,
    executor: (&str, &cordon_executor::Options),
    probes: &[Probe],
    stage: &mut dyn FnMut(&str),
) -> Result<Golden, SealError> {
    if probes.is_empty() {
        return Err(SealError::Misuse("the golden check needs at least one probe".into()));
    }
    stage("running the plain model");
    let (reference, references) = references(model, contents, executor, probes)?;
    stage("preparing a device for the check");
    let device = ScratchDevice::new(backend.clone(), &identity.owner.public())?;
    let grant = device.path().join("check.grant");
    write_file(&grant, &grant_for(identity, path, &device.recipient)?)?;
    let lowered = || contents.lowered.segments.iter().filter_map(|segment| segment.lowered.as_ref());
    let mut found = Golden {
        reference,
        compared: Vec::new(),
        tolerance: TOLERANCE + lowered().map(|lowered| lowered.rounding_error()).sum::<f64>(),
        rounded: lowered().map(|lowered| lowered.rounded()).sum(),
        same_class: None,
        twin: identity.policy != OutputPolicy::Full,
        secure_memory: 0,
        greeting: None,
    };
    let mut check = Check { model, contents, references: &references, steps: steps(&model.graph), found: &mut found };
    let mut deployment = device.options(plan, executor).grant(&grant).open(path)?;
    for (index, probe) in probes.iter().enumerate() {
        stage(&format!("running the package in the enclave, {}", probe.label));
        let run = deployment.run(&probe.request())?;
        check.compare(index, probe, &run, !check.found.twin)?;
    }
    check.found.greeting = deployment.greeting().cloned();
    drop(deployment);
    if check.found.twin {
        let twin = device.path().join("twin.cordon");
        let recipients = core::slice::from_ref(&device.recipient);
        let full = Identity { recipients, policy: OutputPolicy::Full, max_requests: None, ..*identity };
        let mut file = std::fs::File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&twin)
            .map_err(|error| SealError::Io { path: twin.clone(), error })?;
        write(contents, &full, &mut file)?;
        let mut deployment = device.options(plan, executor).open(&twin)?;
        for (index, probe) in probes.iter().enumerate() {
            stage(&format!("comparing outputs before the policy, {}", probe.label));
            let run = deployment.run(&probe.request())?;
            check.compare(index, probe, &run, true)?;
        }
    }
    outputs_differ(model, &references, probes)?;
    Ok(found)
}

/// Values of the plain model by graph value, one map per probe.
type References = Vec<BTreeMap<ValueId, Tensor>>;

/// Every value that crosses, as the plain model has it.
fn references(
    model: &Model,
    contents: &Contents,
    executor: (&str, &cordon_executor::Options),
    probes: &[Probe],
) -> Result<(Origin, References), SealError> {
    let outputs = contents.lowered.segments.iter().flat_map(|segment| &segment.outputs);
    let wanted: BTreeSet<ValueId> = outputs.map(|&id| contents.lowered.values[id as usize]).collect();
    let wanted: Vec<ValueId> = wanted.into_iter().collect();
    let engine = cordon_executor::open(executor.0, executor.1)?;
    let mut plain = match &model.path {
        Some(path) => PlainModel::open(path, &model.graph, &wanted, engine.as_ref())?,
        None => PlainModel::of_graph(&model.graph, &wanted, engine.as_ref())?,
    };
    let origin = plain.origin().clone();
    let values = probes.iter().map(|probe| Ok(wanted.iter().copied().zip(plain.run(&probe.request())?).collect()));
    Ok((origin, values.collect::<Result<_, SealError>>()?))
}

/// A side file that lets the check's device open the package.
fn grant_for(identity: &Identity<'_>, path: &Path, device: &Recipient) -> Result<Vec<u8>, SealError> {
    let io = |error| SealError::Io { path: path.to_path_buf(), error };
    let bytes = std::fs::File::open(path).and_then(|file| cordon_mapped::file(&file)).map_err(io)?;
    let owners = [identity.owner.public()];
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
    let opened = Parsed::parse_file(&bytes)?.verify(&trust)?.open(identity.owner.recipient_key())?;
    let request = GrantRequest { recipients: core::slice::from_ref(device), number: 0, not_after: None };
    Ok(write_grant(&opened, identity.owner, &request, &mut random)?)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SealError> {
    std::fs::write(path, bytes).map_err(|error| SealError::Io { path: path.to_path_buf(), error })
}

struct Check<'a> {
    model: &'a Model,
    contents: &'a Contents,
    references: &'a References,
    steps: BTreeMap<ValueId, Step>,
    found: &'a mut Golden,
}

impl Check<'_> {
    fn class_axis(&self) -> Option<usize> {
        self.contents.manifest.outputs.first()?.class_axis.and_then(|axis| usize::try_from(axis).ok())
    }

    /// Compares what crossed in one run; outputs only if no policy changed them.
    fn compare(&mut self, index: usize, probe: &Probe, run: &Run, outputs: bool) -> Result<(), SealError> {
        self.found.secure_memory = self.found.secure_memory.max(run.memory.peak);
        let lowered = &self.contents.lowered;
        let mut seen = Vec::new();
        for (&id, tensor) in &run.exposed {
            let Some(&value) = lowered.values.get(id as usize).filter(|_| !lowered.inputs.contains(&id)) else {
                continue;
            };
            let output = lowered.outputs.contains(&id);
            if output && !outputs {
                continue;
            }
            seen.push((output, value, tensor));
        }
        // Outputs that a policy ranked are not tensors; with `outputs` there must be none of these.
        if outputs && run.outputs.iter().any(|(_, output)| !matches!(output, Output::Tensor(_))) {
            return Err(SealError::Golden("an output came back ranked although the policy is `full`".into()));
        }
        seen.sort_by_key(|&(output, value, _)| (output, value));
        let twin_rerun =
            self.found.compared.iter().any(|c| c.probe == probe.label && !c.output) && self.found.twin && outputs;
        for (output, value, tensor) in seen {
            let name = &self.model.graph.value(value).name;
            let reference = self.references[index].get(&value).ok_or_else(|| {
                SealError::Golden(format!("value `{name}` crossed although the plan has no such crossing"))
            })?;
            let found = difference(reference, tensor, self.steps.get(&value).copied())
                .map_err(|why| SealError::Golden(format!("probe {}, value `{name}`: {why}", probe.label)))?;
            let allowed = self.found.tolerance;
            if found.exceeds(allowed) {
                let (steps, more) = match found.steps() {
                    Some(steps) => (
                        format!(", {:.1} steps, {:.2} in the mean", steps.largest, steps.mean),
                        format!(" and {} steps, {} in the mean,", STEPS.largest, STEPS.mean),
                    ),
                    None => <_>::default(),
                };
                let what = format!(
                    "probe {}, value `{name}`: differs by {:.2e} of its largest magnitude{steps}, {allowed:.1e}{more} is allowed",
                    probe.label,
                    found.relative()
                );
                return Err(if self.found.rounded > 0 { SealError::Rounded(what) } else { SealError::Golden(what) });
            }
            if let (true, Some(axis)) = (output && self.model.graph.outputs.first() == Some(&value), self.class_axis())
            {
                let (same, all) = same_class(reference, tensor, axis);
                let before = self.found.same_class.unwrap_or_default();
                self.found.same_class = Some((before.0 + same, before.1 + all));
            }
            if output || !twin_rerun {
                self.found.compared.push(Compared {
                    probe: probe.label.clone(),
                    value: name.clone(),
                    output,
                    error: found.relative(),
                    steps: found.steps(),
                });
            }
        }
        Ok(())
    }
}

/// How far apart two values are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Difference {
    /// Largest absolute difference; infinite for integers and masks that are not the same.
    worst: f64,
    /// Mean absolute difference.
    mean: f64,
    /// Largest magnitude of the reference.
    largest: f64,
    /// Size of one step.
    step: Option<f64>,
}

impl Difference {
    fn exceeds(&self, tolerance: f64) -> bool {
        let room = tolerance * self.largest;
        match self.step {
            None => self.worst > room,
            Some(step) => self.worst > room + STEPS.largest * step || self.mean > room + STEPS.mean * step,
        }
    }

    fn relative(&self) -> f64 {
        if self.worst == 0.0 { 0.0 } else { self.worst / self.largest.max(f64::MIN_POSITIVE) }
    }

    fn steps(&self) -> Option<Steps> {
        let step = self.step?.max(f64::MIN_POSITIVE);
        Some(Steps { largest: self.worst / step, mean: self.mean / step })
    }
}

/// `step` is that of a value that comes of a quantisation.
fn difference(reference: &Tensor, tensor: &Tensor, step: Option<Step>) -> Result<Difference, String> {
    if (reference.elem, &reference.dims) != (tensor.elem, &tensor.dims) {
        return Err(format!(
            "the plain model gives {} {:?}, the package {} {:?}",
            reference.elem, reference.dims, tensor.elem, tensor.dims
        ));
    }
    let (a, b) = (reference.to_f64_lossy(), tensor.to_f64_lossy());
    let largest = a.iter().filter(|x| x.is_finite()).fold(0f64, |max, x| max.max(x.abs()));
    let bytes = step.is_some() && matches!(reference.elem, ElemType::Uint8 | ElemType::Int8);
    if !bytes && !matches!(reference.elem, ElemType::Float | ElemType::Double | ElemType::Float16 | ElemType::Bfloat16)
    {
        let worst = if a == b { 0.0 } else { f64::INFINITY };
        return Ok(Difference { worst, mean: worst, largest, step: None });
    }
    let (mut worst, mut sum) = (0f64, 0f64);
    for (x, y) in a.iter().zip(&b) {
        if x.is_nan() != y.is_nan() || (x.is_infinite() || y.is_infinite()) && x != y {
            return Err(format!("the plain model gives {x}, the package {y}"));
        }
        if x.is_finite() {
            worst = worst.max((x - y).abs());
            sum += (x - y).abs();
        }
    }
    let mean = sum / a.len().max(1) as f64;
    Ok(Difference { worst, mean, largest, step: step.map(|step| step.size(largest)) })
}

/// Of all positions beside the class axis: those at which both have their largest element at the same class, and all.
fn same_class(reference: &Tensor, tensor: &Tensor, axis: usize) -> (usize, usize) {
    let (outer, rest) = reference.dims.split_at(axis.min(reference.dims.len()));
    let Some((&classes, inner)) = rest.split_first().filter(|_| reference.dims == tensor.dims) else { return (0, 0) };
    let (outer, inner): (usize, usize) = (outer.iter().product(), inner.iter().product());
    let values = [reference.to_f64_lossy(), tensor.to_f64_lossy()];
    let best = |values: &[f64], position: usize| {
        let at = |class: usize| values[(position / inner * classes + class) * inner + position % inner];
        (0..classes).max_by(|&a, &b| at(a).total_cmp(&at(b)).then(b.cmp(&a)))
    };
    let positions = outer * inner;
    let same = (0..positions).filter(|&position| best(&values[0], position) == best(&values[1], position)).count();
    (same, positions)
}

/// A model that answers every probe alike would pass with any input ignored.
fn outputs_differ(model: &Model, references: &References, probes: &[Probe]) -> Result<(), SealError> {
    for (i, first) in references.iter().enumerate() {
        for (j, second) in references.iter().enumerate().skip(i + 1) {
            if probes[i].inputs == probes[j].inputs {
                return Err(SealError::Probes(format!(
                    "probes {} and {} are the same input",
                    probes[i].label, probes[j].label
                )));
            }
            if model.graph.outputs.iter().all(|id| first.get(id) == second.get(id)) {
                return Err(SealError::Probes(format!(
                    "the plain model gives the same output for probes {} and {}, so the check proves little",
                    probes[i].label, probes[j].label
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(values: &[f32]) -> Tensor {
        Tensor::from_f32(vec![values.len()], values).expect("fits")
    }

    #[test]
    fn classes_are_compared_along_their_axis() {
        let tensor = |values: &[f32; 6]| Tensor::from_f32(vec![1, 3, 2], values).expect("fits");
        // Two positions, three classes: best are 2 and 0.
        let reference = tensor(&[0.0, 9.0, 1.0, 0.0, 2.0, 1.0]);
        assert_eq!(same_class(&reference, &reference, 1), (2, 2));
        assert_eq!(same_class(&reference, &tensor(&[0.0, 9.0, 3.0, 0.0, 2.0, 1.0]), 1), (1, 2));
        assert_eq!(same_class(&reference, &tensor(&[0.0, 0.0, 3.0, 5.0, 2.0, 1.0]), 1), (0, 2));
        assert_eq!(same_class(&reference, &tensor(&[0.0; 6]), 3), (0, 0), "no such axis");
    }

    #[test]
    fn differences_are_relative_to_the_largest_reference_value() {
        let of = |a: &Tensor, b: &Tensor| difference(a, b, None).expect("comparable");
        assert_eq!(of(&float(&[1.0, -10.0]), &float(&[1.0, -10.0])).relative(), 0.0);
        let found = of(&float(&[1.0, -10.0]), &float(&[1.01, -10.0]));
        assert!((found.relative() - 0.001).abs() < 1e-6 && found.exceeds(TOLERANCE), "{found:?}");
        assert!(!of(&float(&[1.0, -10.0]), &float(&[1.0009, -10.0])).exceeds(TOLERANCE));
        assert!(difference(&float(&[1.0]), &float(&[f32::NAN]), None).is_err());
        assert!(difference(&float(&[f32::INFINITY]), &float(&[1.0]), None).is_err());
        assert!(difference(&float(&[1.0]), &float(&[1.0, 2.0]), None).is_err());
        assert!(of(&float(&[0.0]), &float(&[0.1])).exceeds(TOLERANCE));
        let int = |v: i64| Tensor::from_i64(vec![1], &[v]).expect("fits");
        assert!(!of(&int(3), &int(3)).exceeds(TOLERANCE));
        assert!(of(&int(3), &int(4)).exceeds(TOLERANCE));
    }

    #[test]
    fn quantised_values_are_compared_in_steps() {
        let of = |a: &Tensor, b: &Tensor, step| difference(a, b, Some(step)).expect("comparable");
        let (reference, step) = (float(&[1.0, -10.0]), Step::Known(0.1));
        let found = of(&reference, &float(&[1.0, -9.7]), step);
        let steps = found.steps().expect("in steps");
        assert!((steps.largest - 3.0).abs() < 1e-5 && (steps.mean - 1.5).abs() < 1e-5, "{steps:?}");
        assert!(!found.exceeds(TOLERANCE));
        assert!(of(&reference, &float(&[1.0, -9.5]), step).exceeds(TOLERANCE), "2.5 in the mean");
        assert!(!of(&reference, &float(&[1.0, -9.7]), Step::Unknown).exceeds(TOLERANCE));
        assert!(of(&reference, &float(&[1.0, -9.6]), Step::Unknown).exceeds(TOLERANCE));
        let byte = |v: u8| Tensor::new(ElemType::Uint8, vec![30], [[v].as_slice(), &[7; 29]].concat()).expect("fits");
        assert!(!of(&byte(130), &byte(178), Step::Known(1.0)).exceeds(TOLERANCE));
        assert!(of(&byte(130), &byte(179), Step::Known(1.0)).exceeds(TOLERANCE), "49 in one of 30");
        let plain = difference(&byte(30), &byte(31), None).expect("comparable");
        assert!(plain.exceeds(TOLERANCE), "bytes that no quantisation made are exact");
        let int = |v: i64| Tensor::from_i64(vec![1], &[v]).expect("fits");
        assert!(of(&int(3), &int(4), Step::Unknown).exceeds(TOLERANCE), "an index has no steps");
    }
}
