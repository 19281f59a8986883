//! The rules a manifest must keep, checked in one pass in the order of execution.

use alloc::vec::Vec;

use cordon_codec::DecodeError;
use cordon_onnx_types::ElemType;

use crate::error::PackageError;
use crate::limits::{
    MAX_ELEMENTS, MAX_PLAN_TEXT_BYTES, MAX_RANK, MAX_SEGMENTS, MAX_STRING_BYTES, MAX_VALUES, MAX_VARIANTS,
};
use crate::manifest::{Manifest, SegmentInfo, broken, elements};
use crate::placement::Domain;

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

pub(crate) fn check(m: &Manifest) -> Result<(), PackageError> {
    check_counts(m)?;
    let mut seen = alloc::vec![Seen::default(); m.values.len()];
    let outputs: Vec<u32> = m.output_values().collect();
    for list in [&m.inputs, &outputs] {
        distinct(list, "an input or output of the model is listed twice")?;
    }
    for input in &m.inputs {
        let value = at(&mut seen, *input)?;
        *value = Seen { produced: true, outside: true, interface: true, used_outside: true, ..*value };
    }
    for (index, segment) in (0u32..).zip(&m.segments) {
        check_segment(m, segment, index, &mut seen)?;
    }
    for output in &outputs {
        let value = at(&mut seen, *output)?;
        if !value.outside {
            return Err(broken("an output of the model is not produced", *output));
        }
        *value = Seen { interface: true, used_outside: true, ..*value };
    }
    check_values(m, &seen)?;
    for output in &m.outputs {
        let Some(axis) = output.class_axis.map(|axis| usize::try_from(axis).unwrap_or(usize::MAX)) else { continue };
        if m.value(output.value).is_some_and(|v| v.shapes.iter().any(|shape| axis >= shape.len())) {
            return Err(broken("a class axis is not one of its output's", output.value));
        }
    }
    check_variants(m)?;
    m.preprocessing.as_ref().map_or(Ok(()), |p| p.check(m))
}

fn check_counts(m: &Manifest) -> Result<(), PackageError> {
    let within = |len: usize, max: u32| u32::try_from(len).is_ok_and(|n| (1..=max).contains(&n));
    if !within(m.values.len(), MAX_VALUES) {
        return Err(broken("a manifest has 1 to 4096 values", 0));
    }
    let variants = m.variants();
    if !(1..=MAX_VARIANTS).contains(&variants) || m.values.iter().any(|v| v.shapes.len() != usize::from(variants)) {
        return Err(broken("every value has one shape for each of 1 to 16 variants", 0));
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
        let dangling = !seen.produced || (seen.outside && !seen.used_outside) || (seen.retained && !seen.used_retained);
        if dangling {
            return Err(broken("dangling value: nothing produces it, or nothing uses it", index));
        }
        if value.name.is_some() != seen.interface || value.name.as_deref() == Some("") {
            return Err(broken("the model's inputs and outputs have names, and nothing else", index));
        }
        if value.elem.crossing_bytes().is_none() {
            return Err(broken("a value is numbers of 1, 2, 4 or 8 bytes, or booleans", index));
        }
        let sound = |shape: &Vec<u32>| {
            u32::try_from(shape.len()).is_ok_and(|rank| rank <= MAX_RANK)
                && (1..=MAX_ELEMENTS).contains(&elements(shape))
        };
        if !value.shapes.iter().all(sound) {
            return Err(broken("a shape has at most 8 extents, each at least 1, and 2^31 elements", index));
        }
    }
    Ok(())
}

/// The shapes of a request's inputs name its variant.
fn check_variants(m: &Manifest) -> Result<(), PackageError> {
    let inputs = |variant: usize| m.inputs.iter().filter_map(move |v| m.value(*v)?.shapes.get(variant));
    for variant in 0..usize::from(m.variants()) {
        if (0..variant).any(|earlier| inputs(earlier).eq(inputs(variant))) {
            return Err(broken("two variants have the same shapes of inputs", u32::try_from(variant).unwrap_or(0)));
        }
    }
    Ok(())
}

/// Whether the trusted engine computes on values of this type.
fn computed_inside(elem: ElemType) -> bool {
    matches!(elem, ElemType::Float | ElemType::Int64 | ElemType::Bool | ElemType::Uint8 | ElemType::Int8)
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
