//! The manifest: which segments run where, and which values pass between them. Public and signed; holds no names but
//! those of the model's own inputs and outputs.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};
use cordon_onnx_types::ElemType;

use crate::error::PackageError;
use crate::header::Header;
use crate::image::Preprocessing;
use crate::limits::{
    MAX_ELEMENTS, MAX_MANIFEST_BYTES, MAX_PLAN_TEXT_BYTES, MAX_RANK, MAX_SEGMENTS, MAX_STRING_BYTES, MAX_VALUES,
};
use crate::placement::{Domain, Placement};
use crate::policy::OutputPolicy;
use crate::section::SectionKind;

/// A value that passes between segments, or enters or leaves the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Element type, one that has [`ElemType::crossing_bytes`].
    pub elem: ElemType,
    /// Extents, each at least one.
    pub shape: Vec<u32>,
    /// Present exactly for the model's inputs and outputs.
    pub name: Option<String>,
}

impl ValueInfo {
    /// Number of elements, within [`MAX_ELEMENTS`] in a manifest that was decoded.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1u64, |n, extent| n.saturating_mul(u64::from(*extent)))
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.elem.crossing_bytes().unwrap_or(0).into())
    }
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
    /// Values kept inside for it by an earlier secure segment.
    pub retained_in: Vec<u32>,
    /// Values it keeps inside for a later secure segment.
    pub retained_out: Vec<u32>,
    /// Least secure memory it takes beside what the enclave itself does, in bytes; 0 for a normal segment.
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

/// The manifest. Fields may be filled freely; [`Manifest::encode`] and [`Manifest::decode`] both check every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The model's inputs, in its order.
    pub inputs: Vec<u32>,
    /// The model's outputs, in its order.
    pub outputs: Vec<u32>,
    /// Every value named by an index.
    pub values: Vec<ValueInfo>,
    /// Every segment runs once for each request, in this order.
    pub segments: Vec<SegmentInfo>,
    /// How an image becomes an input.
    pub preprocessing: Option<Preprocessing>,
    /// Axis of the first output along which classes lie.
    pub class_axis: Option<u32>,
    /// Applied along the class axis before any policy but `full`.
    pub normalisation: Normalisation,
    /// The plan in words: what is protected, and what is not.
    pub plan_text: String,
}

impl Manifest {
    /// The section's bytes, or the rule that is broken.
    pub fn encode(&self) -> Result<Vec<u8>, PackageError> {
        rules::check(self)?;
        let mut w = Writer::new();
        w.list(self.values.iter(), |w, value| {
            w.u8(value.elem.code()).list(value.shape.iter(), |w, extent| {
                w.u32(*extent);
            });
            w.option(value.name.as_deref(), |w, name| {
                w.string(name);
            });
        });
        write_indices(&mut w, &self.inputs);
        write_indices(&mut w, &self.outputs);
        w.list(self.segments.iter(), |w, segment| {
            w.u8(match segment.placement {
                Placement::Normal => 0,
                Placement::Secure(_) => 1,
            });
            for list in [&segment.inputs, &segment.outputs, &segment.retained_in, &segment.retained_out] {
                write_indices(w, list);
            }
            w.u64(segment.minimum_peak).u64(segment.resident_peak).bool(segment.f16_weights);
        });
        w.option(self.preprocessing.as_ref(), |w, p| p.encode(w));
        w.option(self.class_axis, |w, axis| {
            w.u32(axis);
        });
        w.u8(match self.normalisation {
            Normalisation::None => 0,
            Normalisation::Softmax => 1,
        });
        w.string(&self.plan_text);
        let bytes = w.finish();
        match u64::try_from(bytes.len()) {
            Ok(len) if len <= MAX_MANIFEST_BYTES => Ok(bytes),
            _ => Err(DecodeError::TooLong("manifest").into()),
        }
    }

    /// Reads the section's bytes and checks every rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, PackageError> {
        let mut r = Reader::new(bytes);
        let manifest = Self {
            values: r.list(6, MAX_VALUES, "values", |r| {
                Ok::<_, PackageError>(ValueInfo {
                    elem: read_elem(r)?,
                    shape: r.list(4, MAX_RANK, "shape", |r| r.u32("shape"))?,
                    name: r.option("value name", |r| r.string(MAX_STRING_BYTES, "value name"))?,
                })
            })?,
            inputs: read_indices(&mut r)?,
            outputs: read_indices(&mut r)?,
            segments: r.list(34, u32::from(MAX_SEGMENTS), "segments", |r| {
                Ok::<_, PackageError>(SegmentInfo {
                    placement: match r.u8("placement")? {
                        0 => Placement::Normal,
                        1 => Placement::Secure(Domain(0)),
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
            })?,
            preprocessing: r.option("preprocessing", Preprocessing::decode)?,
            class_axis: r.option("class axis", |r| r.u32("class axis"))?,
            normalisation: match r.u8("normalisation")? {
                0 => Normalisation::None,
                1 => Normalisation::Softmax,
                _ => return Err(DecodeError::Invalid("normalisation").into()),
            },
            plan_text: r.string(MAX_PLAN_TEXT_BYTES, "plan text")?,
        };
        r.finish()?;
        rules::check(&manifest)?;
        Ok(manifest)
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
        if header.output_policy != OutputPolicy::Full {
            self.check_policy()?;
        }
        Ok(())
    }

    fn check_policy(&self) -> Result<(), PackageError> {
        let [output] = self.outputs.as_slice() else {
            return Err(broken("an output policy but full needs exactly one output", 0));
        };
        if self.class_axis.is_none() {
            return Err(broken("an output policy but full needs a class axis", *output));
        }
        if self.value(*output).is_none_or(|v| v.elem != ElemType::Float) {
            return Err(broken("an output policy but full needs an output of type float", *output));
        }
        let inside = |s: &SegmentInfo| s.placement.is_secure() && s.outputs.contains(output);
        if !self.segments.iter().any(inside) {
            return Err(broken("an output policy but full needs the output to come from a secure segment", *output));
        }
        Ok(())
    }
}

fn broken(rule: &'static str, index: u32) -> PackageError {
    PackageError::Manifest { rule, index }
}

fn read_elem(r: &mut Reader<'_>) -> Result<ElemType, DecodeError> {
    let elem = ElemType::from_code(r.u8("element type")?.into()).filter(|elem| elem.crossing_bytes().is_some());
    elem.ok_or(DecodeError::Invalid("element type"))
}

/// Whether the trusted engine computes on values of this type.
fn computed_inside(elem: ElemType) -> bool {
    matches!(elem, ElemType::Float | ElemType::Int64 | ElemType::Bool | ElemType::Uint8 | ElemType::Int8)
}

fn write_indices(w: &mut Writer, indices: &[u32]) {
    w.list(indices.iter(), |w, i| {
        w.u32(*i);
    });
}

fn read_indices(r: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    r.list(4, MAX_VALUES, "value indices", |r| r.u32("value index"))
}

/// The rules a manifest must keep, checked in one pass in the order of execution.
mod rules {
    use super::*;

    /// What is known of a value while the segments are walked through.
    #[derive(Clone, Copy, Default)]
    struct Seen {
        produced: bool,
        /// The enclave that made it.
        domain: Option<Domain>,
        /// In reach of the normal world.
        outside: bool,
        retained: bool,
        used_outside: bool,
        used_retained: bool,
        interface: bool,
    }

    pub(super) fn check(m: &Manifest) -> Result<(), PackageError> {
        check_counts(m)?;
        let mut seen = alloc::vec![Seen::default(); m.values.len()];
        for list in [&m.inputs, &m.outputs] {
            distinct(list, "an input or output of the model is listed twice")?;
        }
        for input in &m.inputs {
            let value = at(&mut seen, *input)?;
            *value = Seen { produced: true, outside: true, interface: true, used_outside: true, ..*value };
        }
        for (index, segment) in (0u32..).zip(&m.segments) {
            check_segment(m, segment, index, &mut seen)?;
        }
        for output in &m.outputs {
            let value = at(&mut seen, *output)?;
            if !value.outside {
                return Err(broken("an output of the model is not produced", *output));
            }
            *value = Seen { interface: true, used_outside: true, ..*value };
        }
        check_values(m, &seen)?;
        if let Some(axis) = m.class_axis {
            let output = m.outputs.first().copied().unwrap_or(0);
            let rank = m.value(output).map_or(0, |v| v.shape.len());
            if usize::try_from(axis).is_ok_and(|axis| axis >= rank) {
                return Err(broken("the class axis is not one of the first output's", output));
            }
        }
        m.preprocessing.as_ref().map_or(Ok(()), |p| p.check(m))
    }

    fn check_counts(m: &Manifest) -> Result<(), PackageError> {
        let within = |len: usize, max: u32| u32::try_from(len).is_ok_and(|n| (1..=max).contains(&n));
        if !within(m.values.len(), MAX_VALUES) {
            return Err(broken("a manifest has 1 to 4096 values", 0));
        }
        if !within(m.segments.len(), MAX_SEGMENTS.into()) {
            return Err(broken("a manifest has 1 to 64 segments", 0));
        }
        if m.inputs.is_empty() || m.outputs.is_empty() {
            return Err(broken("a model has inputs and outputs", 0));
        }
        let fits = |text: &str, max: u32| u32::try_from(text.len()).is_ok_and(|n| n <= max);
        if !fits(&m.plan_text, MAX_PLAN_TEXT_BYTES) {
            return Err(DecodeError::TooLong("plan text").into());
        }
        if m.values.iter().filter_map(|v| v.name.as_deref()).any(|name| !fits(name, MAX_STRING_BYTES)) {
            return Err(DecodeError::TooLong("value name").into());
        }
        Ok(())
    }

    fn check_segment(m: &Manifest, segment: &SegmentInfo, index: u32, seen: &mut [Seen]) -> Result<(), PackageError> {
        let domain = segment.placement.domain();
        let secure = domain.is_some();
        if domain.is_some_and(|domain| domain != Domain(0)) {
            return Err(PackageError::Unsupported("more than one enclave"));
        }
        let retains = !segment.retained_in.is_empty() || !segment.retained_out.is_empty();
        if !secure && (retains || segment.resident_peak > 0 || segment.f16_weights) {
            return Err(broken("a normal segment neither retains values nor uses secure memory", index));
        }
        if segment.minimum_peak > segment.resident_peak {
            return Err(broken("a segment needs more at least than with all weights inside", index));
        }
        if segment.outputs.is_empty() && segment.retained_out.is_empty() {
            return Err(broken("a segment without outputs", index));
        }
        for list in [&segment.inputs, &segment.outputs, &segment.retained_in, &segment.retained_out] {
            distinct(list, "duplicate crossing")?;
            let outside_engine = |v: &&u32| secure && m.value(**v).is_some_and(|v| !computed_inside(v.elem));
            if let Some(value) = list.iter().find(outside_engine) {
                return Err(broken("a secure segment takes float, int64, bool, uint8 and int8 only", *value));
            }
        }
        for input in &segment.inputs {
            let value = at(seen, *input)?;
            if !value.outside {
                return Err(broken("a value enters a segment before it is there", *input));
            }
            if secure && value.domain == domain {
                return Err(broken("a value of a secure segment must be retained for a later one, not cross", *input));
            }
            value.used_outside = true;
        }
        for input in &segment.retained_in {
            let value = at(seen, *input)?;
            if !value.retained {
                return Err(broken("a value is used that no earlier segment retains", *input));
            }
            if value.domain != domain {
                return Err(broken("a value retained in one enclave is used in another", *input));
            }
            value.used_retained = true;
        }
        for output in segment.outputs.iter().chain(&segment.retained_out) {
            if at(seen, *output)?.produced {
                return Err(broken("duplicate crossing", *output));
            }
        }
        for output in &segment.outputs {
            let value = at(seen, *output)?;
            *value = Seen { produced: true, outside: true, domain, ..*value };
        }
        for output in &segment.retained_out {
            let value = at(seen, *output)?;
            *value = Seen { produced: true, retained: true, domain, ..*value };
        }
        Ok(())
    }

    fn check_values(m: &Manifest, seen: &[Seen]) -> Result<(), PackageError> {
        let mut names: Vec<&str> = m.values.iter().filter_map(|v| v.name.as_deref()).collect();
        names.sort_unstable();
        if names.iter().zip(names.iter().skip(1)).any(|(a, b)| a == b) {
            return Err(broken("two values have one name", 0));
        }
        for ((index, value), seen) in (0u32..).zip(&m.values).zip(seen) {
            let dangling =
                !seen.produced || (seen.outside && !seen.used_outside) || (seen.retained && !seen.used_retained);
            if dangling {
                return Err(broken("dangling value: nothing produces it, or nothing uses it", index));
            }
            if value.name.is_some() != seen.interface || value.name.as_deref() == Some("") {
                return Err(broken("the model's inputs and outputs have names, and nothing else", index));
            }
            if value.elem.crossing_bytes().is_none() {
                return Err(broken("a value is numbers of 1, 2, 4 or 8 bytes, or booleans", index));
            }
            let rank = u32::try_from(value.shape.len()).unwrap_or(u32::MAX);
            let elements = value.elements();
            if rank > MAX_RANK || elements == 0 || elements > MAX_ELEMENTS {
                return Err(broken("a shape has at most 8 extents, each at least 1, and 2^31 elements", index));
            }
        }
        Ok(())
    }

    fn distinct(list: &[u32], rule: &'static str) -> Result<(), PackageError> {
        let mut sorted = list.to_vec();
        sorted.sort_unstable();
        match sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a == b) {
            Some((value, _)) => Err(broken(rule, *value)),
            None => Ok(()),
        }
    }

    fn at(seen: &mut [Seen], index: u32) -> Result<&mut Seen, PackageError> {
        usize::try_from(index)
            .ok()
            .and_then(|i| seen.get_mut(i))
            .ok_or(broken("a value index beyond the value table", index))
    }
}
