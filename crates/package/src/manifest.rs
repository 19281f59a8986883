//! The manifest: which segments run where, and which values pass between them. Public and signed; holds no names but
//! those of the model's own inputs and outputs.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use cordon_onnx_types::ElemType;

use crate::error::PackageError;
use crate::extensions;
use crate::format::Format;
use crate::header::Header;
use crate::image::Preprocessing;
use crate::limits::{
    MAX_MANIFEST_BYTES, MAX_PLAN_TEXT_BYTES, MAX_RANK, MAX_SEGMENTS, MAX_STRING_BYTES, MAX_VALUES, MAX_VARIANTS,
};
use crate::placement::{Domain, Placement};
use crate::policy::{OutputPolicies, OutputPolicy};
use crate::rules;
use crate::section::SectionKind;

/// A value that passes between segments, or enters or leaves the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Element type, one that has [`ElemType::crossing_bytes`].
    pub elem: ElemType,
    /// Extents, each at least one, in each variant.
    pub shapes: Vec<Vec<u32>>,
    /// Present exactly for the model's inputs and outputs.
    pub name: Option<String>,
}

impl ValueInfo {
    /// Extents in the first variant.
    pub fn shape(&self) -> &[u32] {
        self.shapes.first().map_or(&[], Vec::as_slice)
    }

    /// Number of elements in the first variant, within [`crate::limits::MAX_ELEMENTS`] in a manifest that was decoded.
    pub fn elements(&self) -> u64 {
        elements(self.shape())
    }

    /// Bytes of the elements in the first variant.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.elem.crossing_bytes().unwrap_or(0).into())
    }
}

/// Number of elements of a shape.
pub(crate) fn elements(shape: &[u32]) -> u64 {
    shape.iter().fold(1u64, |n, extent| n.saturating_mul(u64::from(*extent)))
}

/// One segment; its index is its number in the section table. Values are indices into [`Manifest::values`]. A normal
/// segment's ONNX model has its graph inputs and outputs in the order given here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Where it runs.
    pub placement: Placement,
    /// Values it takes from the normal world.
    pub inputs: Vec<u32>,
    /// Values it hands to the normal world.
    pub outputs: Vec<u32>,
    /// Values kept inside for it by an earlier segment of its domain.
    pub retained_in: Vec<u32>,
    /// Values it keeps inside for a later segment of its domain.
    pub retained_out: Vec<u32>,
    /// Least secure memory it takes beside what the enclave itself does, in bytes, in the variant that takes most; 0 for a
    /// normal segment.
    pub minimum_peak: u64,
    /// What it takes with all its weights inside, no less than that.
    pub resident_peak: u64,
    /// Whether weights of it are stored as f16, rounded; never for a normal segment.
    pub f16_weights: bool,
}

/// What turns the output into probabilities before a policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// The output is probabilities already.
    None,
    /// Softmax along the class axis.
    Softmax,
}

/// An output of the model, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputInfo {
    /// Index of the value.
    pub value: u32,
    /// Axis along which classes lie.
    pub class_axis: Option<u32>,
    /// Applied along the class axis before any policy but `full`.
    pub normalisation: Normalisation,
}

/// The manifest. Fields may be filled freely; [`Manifest::encode`] and [`Manifest::decode`] both check every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The model's inputs, in its order.
    pub inputs: Vec<u32>,
    /// The model's outputs, in its order.
    pub outputs: Vec<OutputInfo>,
    /// Every value named by an index.
    pub values: Vec<ValueInfo>,
    /// Every segment runs once for each request, in this order.
    pub segments: Vec<SegmentInfo>,
    /// How an image becomes an input.
    pub preprocessing: Option<Preprocessing>,
    /// The plan in words: what is protected, and what is not.
    pub plan_text: String,
}

impl Manifest {
    /// The section's bytes in the format that is written, or the rule that is broken.
    pub fn encode(&self) -> Result<Vec<u8>, PackageError> {
        rules::check(self)?;
        let mut w = Writer::new();
        w.u8(self.variants());
        w.list(self.values.iter(), |w, value| {
            w.u8(value.elem.code());
            value.shapes.iter().for_each(|shape| write_indices(w, shape));
            w.option(value.name.as_deref(), |w, name| {
                w.string(name);
            });
        });
        write_indices(&mut w, &self.inputs);
        w.list(self.outputs.iter(), |w, output| {
            w.u32(output.value);
            w.option(output.class_axis, |w, axis| {
                w.u32(axis);
            });
            w.u8(match output.normalisation {
                Normalisation::None => 0,
                Normalisation::Softmax => 1,
            });
        });
        w.list(self.segments.iter(), |w, segment| {
            match segment.placement {
                Placement::Normal => w.u8(0),
                Placement::Secure(Domain(number)) => w.u8(1).u16(number),
            };
            for list in [&segment.inputs, &segment.outputs, &segment.retained_in, &segment.retained_out] {
                write_indices(w, list);
            }
            w.u64(segment.minimum_peak).u64(segment.resident_peak).bool(segment.f16_weights);
        });
        w.option(self.preprocessing.as_ref(), |w, p| p.encode(w));
        w.string(&self.plan_text);
        extensions::write_none(&mut w);
        let bytes = w.finish();
        match u64::try_from(bytes.len()) {
            Ok(len) if len <= MAX_MANIFEST_BYTES => Ok(bytes),
            _ => Err(DecodeError::TooLong("manifest").into()),
        }
    }

    /// Reads the section's bytes and checks every rule.
    pub fn decode(bytes: &[u8], format: Format) -> Result<Self, PackageError> {
        let mut r = Reader::new(bytes);
        let variants = match format {
            Format::V1 => 1,
            Format::V2 => read_variants(&mut r)?,
        };
        let mut manifest = Self {
            values: r.list(6, MAX_VALUES, "values", |r| read_value(r, variants))?,
            inputs: read_indices(&mut r)?,
            outputs: match format {
                Format::V1 => read_indices(&mut r)?.into_iter().map(OutputInfo::new).collect(),
                Format::V2 => r.list(6, MAX_VALUES, "outputs", |r| {
                    let value = r.u32("output")?;
                    read_output(r, value)
                })?,
            },
            segments: r.list(34, u32::from(MAX_SEGMENTS), "segments", |r| read_segment(r, format))?,
            preprocessing: r.option("preprocessing", Preprocessing::decode)?,
            plan_text: String::new(),
        };
        if format == Format::V1 {
            // It tells the meaning of the first output only, here.
            let value = manifest.output_values().next().unwrap_or(0);
            let first = read_output(&mut r, value)?;
            manifest.outputs.first_mut().into_iter().for_each(|output| *output = first);
        }
        manifest.plan_text = r.string(MAX_PLAN_TEXT_BYTES, "plan text")?;
        extensions::skip(&mut r, format)?;
        r.finish()?;
        rules::check(&manifest)?;
        Ok(manifest)
    }

    /// Number of shape variants; in a manifest that was decoded, every value has so many shapes.
    pub fn variants(&self) -> u8 {
        self.values.first().map_or(0, |value| u8::try_from(value.shapes.len()).unwrap_or(u8::MAX))
    }

    /// Values of the model's outputs, in its order.
    pub fn output_values(&self) -> impl Iterator<Item = u32> {
        self.outputs.iter().map(|output| output.value)
    }

    /// The place of a value among the model's outputs.
    pub fn output_index(&self, value: u32) -> Option<usize> {
        self.outputs.iter().position(|output| output.value == value)
    }

    /// Bytes of one value, 0 for an index out of range.
    pub fn value_bytes(&self, value: u32) -> u64 {
        self.value(value).map_or(0, ValueInfo::bytes)
    }

    /// The value behind an index.
    pub fn value(&self, index: u32) -> Option<&ValueInfo> {
        usize::try_from(index).ok().and_then(|i| self.values.get(i))
    }

    /// Rules between the manifest and the rest of the package: sections fit the placements, and an output policy finds
    /// what it needs.
    pub fn check_header(&self, header: &Header) -> Result<(), PackageError> {
        let segments = u16::try_from(self.segments.len()).unwrap_or(u16::MAX);
        for (index, segment) in (0..segments).zip(&self.segments) {
            let needs = match segment.placement {
                Placement::Normal => SectionKind::NormalModel,
                Placement::Secure(_) => SectionKind::SegmentSecret,
            };
            if header.section(needs, index).is_none() {
                return Err(broken("a segment without its section", index.into()));
            }
        }
        if let Some(section) = header.sections.iter().find(|s| s.segment() >= segments) {
            return Err(broken("a section of a segment that does not exist", section.segment().into()));
        }
        self.check_policies(&header.output_policies)
    }

    /// What this version runs of what the format can say: one enclave, one shape variant, and an output policy but full for a
    /// model's only output.
    pub fn check_runnable(&self, header: &Header) -> Result<(), PackageError> {
        if self.segments.iter().filter_map(|segment| segment.placement.domain()).any(|domain| domain != Domain(0)) {
            return Err(PackageError::Unsupported("more than one enclave"));
        }
        if self.variants() != 1 {
            return Err(PackageError::Unsupported("more than one shape variant"));
        }
        if !header.output_policies.are_full() && self.outputs.len() != 1 {
            return Err(PackageError::Unsupported("an output policy for one of several outputs"));
        }
        Ok(())
    }

    fn check_policies(&self, policies: &OutputPolicies) -> Result<(), PackageError> {
        if !policies.fit(self.outputs.len()) {
            return Err(broken("there is not one output policy for each output", 0));
        }
        let governed = self.outputs.iter().enumerate().filter(|(index, _)| policies.of(*index) != OutputPolicy::Full);
        for (_, output) in governed {
            if output.class_axis.is_none() {
                return Err(broken("an output policy but full needs a class axis", output.value));
            }
            if self.value(output.value).is_none_or(|v| v.elem != ElemType::Float) {
                return Err(broken("an output policy but full needs an output of type float", output.value));
            }
            let inside = |s: &SegmentInfo| s.placement.is_secure() && s.outputs.contains(&output.value);
            if !self.segments.iter().any(inside) {
                return Err(broken(
                    "an output policy but full needs the output to come from a secure segment",
                    output.value,
                ));
            }
        }
        Ok(())
    }
}

impl OutputInfo {
    /// An output that has no classes.
    pub fn new(value: u32) -> Self {
        Self { value, class_axis: None, normalisation: Normalisation::None }
    }
}

pub(crate) fn broken(rule: &'static str, index: u32) -> PackageError {
    PackageError::Manifest { rule, index }
}

fn read_variants(r: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match r.u8("variants")? {
        0 => Err(DecodeError::Invalid("variants")),
        variants if variants > MAX_VARIANTS => Err(DecodeError::TooLong("variants")),
        variants => Ok(variants),
    }
}

fn read_value(r: &mut Reader<'_>, variants: u8) -> Result<ValueInfo, PackageError> {
    let elem = ElemType::from_code(r.u8("element type")?.into()).filter(|elem| elem.crossing_bytes().is_some());
    let elem = elem.ok_or(DecodeError::Invalid("element type"))?;
    let shape = |r: &mut Reader<'_>| r.list(4, MAX_RANK, "shape", |r| r.u32("shape"));
    // Exactly as many as there are: the enclave bounds what a decoded manifest takes.
    let mut shapes = Vec::with_capacity(variants.into());
    for _ in 0..variants {
        shapes.push(shape(r)?);
    }
    Ok(ValueInfo { elem, shapes, name: r.option("value name", |r| r.string(MAX_STRING_BYTES, "value name"))? })
}

/// What an output means, behind its value.
fn read_output(r: &mut Reader<'_>, value: u32) -> Result<OutputInfo, DecodeError> {
    Ok(OutputInfo {
        value,
        class_axis: r.option("class axis", |r| r.u32("class axis"))?,
        normalisation: match r.u8("normalisation")? {
            0 => Normalisation::None,
            1 => Normalisation::Softmax,
            _ => return Err(DecodeError::Invalid("normalisation")),
        },
    })
}

fn read_segment(r: &mut Reader<'_>, format: Format) -> Result<SegmentInfo, PackageError> {
    Ok(SegmentInfo {
        placement: match (r.u8("placement")?, format) {
            (0, _) => Placement::Normal,
            (1, Format::V1) => Placement::Secure(Domain(0)),
            (1, Format::V2) => Placement::Secure(Domain(r.u16("domain")?)),
            _ => return Err(DecodeError::Invalid("placement").into()),
        },
        inputs: read_indices(r)?,
        outputs: read_indices(r)?,
        retained_in: read_indices(r)?,
        retained_out: read_indices(r)?,
        minimum_peak: r.u64("minimum peak")?,
        resident_peak: r.u64("resident peak")?,
        f16_weights: r.bool("f16_weights")?,
    })
}

fn write_indices(w: &mut Writer, indices: &[u32]) {
    w.list(indices.iter(), |w, i| {
        w.u32(*i);
    });
}

fn read_indices(r: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    r.list(4, MAX_VALUES, "value indices", |r| r.u32("value index"))
}
