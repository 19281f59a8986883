//! Everything a package holds, before it is encrypted.

use crate::SealError;
use cordon_graph::{ExportedModel, NamePolicy, ValueId, export};
use cordon_package::{
    Channels, Fit, ImageLayout, Labels, Manifest, Normalisation, OutputInfo, Placement, Preprocessing, ProgramKind,
    SealedProgram, SectionKind, SectionPlan, SegmentInfo, SegmentSecret, ValueInfo,
};
use cordon_plan::{LoweredPlan, LoweredSegment, Model, Plan, Profile, lower_plan, shared};
use std::collections::BTreeMap;

/// A byte to 0..1.
const BYTE_SCALE: f32 = 1.0 / 255.0;

/// The plaintext of every section.
pub struct Contents {
    /// Segments and value table.
    pub lowered: LoweredPlan,
    /// The public description.
    pub manifest: Manifest,
    manifest_bytes: Vec<u8>,
    /// By segment; secure segments only.
    secrets: BTreeMap<u16, Vec<u8>>,
    /// By segment; normal segments only.
    models: BTreeMap<u16, ExportedModel>,
}

impl Contents {
    /// Lowers secure segments for the plan's platform, exports normal ones, and checks that no secret weight is also public.
    pub fn new(model: &Model, plan: &Plan, profile: &Profile) -> Result<Self, SealError> {
        let lowered = lower_plan(model, plan, profile)?;
        check_secrets(model, &lowered)?;
        let manifest = manifest(model, plan, &lowered)?;
        let mut contents = Self {
            manifest_bytes: manifest.encode()?,
            manifest,
            secrets: BTreeMap::new(),
            models: BTreeMap::new(),
            lowered,
        };
        let interface = interface_names(model);
        for (index, segment) in (0u16..).zip(&contents.lowered.segments) {
            match segment.placement {
                Placement::Secure(_) => {
                    let labels =
                        if makes_first_output(&contents.lowered, segment) { &plan.output.labels[..] } else { &[] };
                    let secret = secret_part(model, &contents.manifest, index, segment, labels)?;
                    contents.secrets.insert(index, secret);
                }
                Placement::Normal => {
                    let names = NamePolicy::Neutral(interface.clone());
                    contents.models.insert(index, export(&model.graph, &segment.segment, &names)?);
                }
            }
        }
        Ok(contents)
    }

    /// The sections in the order of the file.
    pub fn sections(&self) -> Vec<SectionPlan> {
        let plan = |kind, segment, plain_len: u64| SectionPlan { kind, segment, plain_len };
        let mut sections = vec![plan(SectionKind::Manifest, 0, self.manifest_bytes.len() as u64)];
        for (&segment, secret) in &self.secrets {
            sections.push(plan(SectionKind::SegmentSecret, segment, secret.len() as u64));
            let weights = self.lowered(segment).map_or(0, cordon_lower::Lowered::weight_bytes);
            if weights > 0 {
                sections.push(plan(SectionKind::Weights, segment, weights));
            }
        }
        for (&segment, model) in &self.models {
            sections.push(plan(SectionKind::NormalModel, segment, model.model.len() as u64));
            if model.data_len() > 0 {
                sections.push(plan(SectionKind::NormalData, segment, model.data_len()));
            }
        }
        sections.sort_unstable();
        sections
    }

    /// Feeds a section's plaintext to `sink` in pieces. Weights are packed on the way: never held as a whole.
    pub fn feed(
        &self,
        section: &SectionPlan,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), SealError>,
    ) -> Result<(), SealError> {
        let absent = || SealError::Misuse("the package has no such section".into());
        let model = |segment| self.models.get(&segment).ok_or_else(absent);
        match section.kind {
            SectionKind::Manifest => sink(&self.manifest_bytes),
            SectionKind::SegmentSecret => sink(self.secrets.get(&section.segment).ok_or_else(absent)?),
            SectionKind::Weights => {
                let mut result = Ok(());
                self.lowered(section.segment).ok_or_else(absent)?.write_weights(&mut |bytes| {
                    if result.is_ok() {
                        result = sink(bytes);
                    }
                });
                result
            }
            SectionKind::NormalModel => sink(&model(section.segment)?.model),
            SectionKind::NormalData => {
                let mut at = 0;
                for piece in &model(section.segment)?.data {
                    let gap = usize::try_from(piece.offset - at).map_err(|_| absent())?;
                    sink(&vec![0; gap])?;
                    sink(&piece.bytes)?;
                    at = piece.offset + piece.bytes.len() as u64;
                }
                Ok(())
            }
            _ => Err(absent()),
        }
    }

    fn lowered(&self, segment: u16) -> Option<&cordon_lower::Lowered> {
        self.lowered.segments.get(usize::from(segment))?.lowered.as_ref()
    }
}

/// Refuses a plan that would publish a secret, naming the initializer and both nodes.
fn check_secrets(model: &Model, lowered: &LoweredPlan) -> Result<(), SealError> {
    let graph = &model.graph;
    match shared(graph, lowered).into_iter().find(|both| !both.repeats) {
        None => Ok(()),
        Some(both) => Err(SealError::Exposed {
            initializer: graph.value(both.initializer).name.clone(),
            secure: graph.node(both.secure).name.clone(),
            normal: graph.node(both.normal).name.clone(),
        }),
    }
}

fn manifest(model: &Model, plan: &Plan, lowered: &LoweredPlan) -> Result<Manifest, SealError> {
    let names = interface_names(model);
    // A value with two ids keeps its name on the one that crosses.
    let public = |id: u32| lowered.inputs.contains(&id) || lowered.outputs.contains(&id);
    let values = (0u32..)
        .zip(&lowered.values)
        .map(|(id, value)| value_info(model, *value, names.get(value).filter(|_| public(id))))
        .collect::<Result<Vec<_>, _>>()?;
    let segments = lowered.segments.iter().map(segment_info).collect();
    let preprocessing = plan.preprocessing.as_ref().map(|image| preprocessing(image, model, lowered)).transpose()?;
    // The plan says what the first output means.
    let mut outputs: Vec<OutputInfo> = lowered.outputs.iter().map(|&value| OutputInfo::new(value)).collect();
    if let Some(first) = outputs.first_mut() {
        first.class_axis = plan.output.class_axis;
        first.normalisation = if plan.output.softmax { Normalisation::Softmax } else { Normalisation::None };
    }
    Ok(Manifest {
        inputs: lowered.inputs.clone(),
        outputs,
        values,
        segments,
        preprocessing,
        plan_text: plan.public_words.clone(),
    })
}

fn interface_names(model: &Model) -> BTreeMap<ValueId, String> {
    let graph = &model.graph;
    graph.inputs.iter().chain(&graph.outputs).map(|&id| (id, graph.value(id).name.clone())).collect()
}

fn value_info(model: &Model, value: ValueId, name: Option<&String>) -> Result<ValueInfo, SealError> {
    let what = model.graph.value(value);
    let ty = what.ty.as_ref().ok_or_else(|| SealError::Misuse(format!("value `{}` has no static shape", what.name)))?;
    if ty.elem.crossing_bytes().is_none() {
        return Err(SealError::Crossing(format!(
            "value `{}` of type {} passes between segments, which the package format does not allow",
            what.name, ty.elem
        )));
    }
    let shape = ty.dims.iter().map(|&dim| u32::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| SealError::Misuse(format!("value `{}` is too large", what.name)))?;
    Ok(ValueInfo { elem: ty.elem, shapes: vec![shape], name: name.cloned() })
}

fn segment_info(segment: &LoweredSegment) -> SegmentInfo {
    SegmentInfo {
        placement: segment.placement,
        inputs: segment.inputs.clone(),
        outputs: segment.outputs.clone(),
        retained_in: segment.retained_in.clone(),
        retained_out: segment.retained_out.clone(),
        minimum_peak: segment.cost.streamed(),
        resident_peak: segment.cost.resident(),
        f16_weights: segment.lowered.as_ref().is_some_and(|lowered| lowered.rounded() > 0),
    }
}

fn preprocessing(
    image: &cordon_plan::ImageOptions,
    model: &Model,
    lowered: &LoweredPlan,
) -> Result<Preprocessing, SealError> {
    let named = |id: &&u32| {
        let value = lowered.values.get(**id as usize);
        value.is_some_and(|&value| model.graph.value(value).name == image.input)
    };
    let input = *lowered.inputs.iter().find(named).ok_or_else(|| {
        SealError::Misuse(format!("preprocessing names input `{}`, which the model lacks", image.input))
    })?;
    let [height, width] = image.size;
    Ok(Preprocessing {
        input,
        height,
        width,
        fit: match image.crop {
            cordon_plan::Fit::Stretch => Fit::Stretch,
            cordon_plan::Fit::Center => Fit::CropCenter { resize: image.resize.unwrap_or(height.max(width)) },
        },
        channels: match image.channels {
            cordon_plan::Channels::Rgb => Channels::Rgb,
            cordon_plan::Channels::Bgr => Channels::Bgr,
            cordon_plan::Channels::Gray => Channels::Gray,
        },
        layout: ImageLayout::Nchw,
        scale: BYTE_SCALE,
        mean: image.mean.clone(),
        std: image.std.clone(),
    })
}

fn makes_first_output(lowered: &LoweredPlan, segment: &LoweredSegment) -> bool {
    lowered.outputs.first().is_some_and(|first| segment.outputs.contains(first))
}

fn secret_part(
    model: &Model,
    manifest: &Manifest,
    index: u16,
    segment: &LoweredSegment,
    labels: &[String],
) -> Result<Vec<u8>, SealError> {
    let lowered =
        segment.lowered.as_ref().ok_or_else(|| SealError::Misuse(format!("secure segment {index} has no Program")))?;
    let program = lowered.program.encode();
    let table = lowered.weights.encode();
    let minimum_peak = manifest.segments.get(usize::from(index)).map_or(0, |info| info.minimum_peak);
    let words: Vec<&str> = labels.iter().map(String::as_str).collect();
    let secret = SegmentSecret {
        programs: vec![SealedProgram {
            kind: ProgramKind::Inference,
            variant: 0,
            batch: lowered.program.batch,
            minimum_peak,
            bytes: &program,
        }],
        weight_table: &table,
        names: segment.segment.nodes.iter().map(|&id| model.graph.node(id).name.as_str()).collect(),
        labels: if words.is_empty() { vec![] } else { vec![Labels { output: 0, words }] },
    };
    Ok(secret.encode()?)
}
