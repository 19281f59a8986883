//! The output policy, applied inside: what of the model's output may leave.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_kernels::geometry::Along;
use cordon_kernels::normalize::softmax_in_place;
use cordon_package::{Manifest, Normalisation, OutputPolicies, OutputPolicy};
use cordon_protocol::{Code, Entry, Form, Ranked, Refusal};
use zeroize::Zeroizing;

use crate::platform::Platform;
use crate::refuse::{headroom, reserve};

/// A policy other than `full`, with all it needs to know of the output.
pub(crate) struct Policy {
    policy: OutputPolicy,
    softmax: bool,
    along: Along,
    labels: Vec<String>,
}

/// What a policy released of a value.
pub(crate) struct Released {
    form: Form,
    bytes: Zeroizing<Vec<u8>>,
}

impl Released {
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Policy {
    /// `None` where all outputs are full; else the policy of the only one, with its labels.
    pub(crate) fn new(
        policies: &OutputPolicies,
        manifest: &Manifest,
        labels: Vec<String>,
    ) -> Result<Option<Self>, Refusal> {
        if policies.are_full() {
            return Ok(None);
        }
        let impossible = Refusal::new(Code::PolicyImpossible);
        let [meaning] = manifest.outputs.as_slice() else { return Err(impossible) };
        let axis = meaning.class_axis.and_then(|axis| usize::try_from(axis).ok()).ok_or(impossible)?;
        let output = manifest.value(meaning.value).ok_or(impossible)?;
        let product = |dims: &[u32]| dims.iter().try_fold(1u32, |n, d| n.checked_mul(*d));
        let (outer, rest) = output.shape().split_at_checked(axis).ok_or(impossible)?;
        let (len, inner) = rest.split_first().ok_or(impossible)?;
        let along = match (product(outer), product(inner)) {
            (Some(outer), Some(inner)) => Along { outer, len: *len, inner },
            _ => return Err(impossible),
        };
        let softmax = meaning.normalisation == Normalisation::Softmax;
        Ok(Some(Self { policy: policies.of(0), softmax, along, labels }))
    }

    /// Applies the policy to the output's elements.
    pub(crate) fn apply(&self, output: &[f32], platform: &impl Platform) -> Result<Released, Refusal> {
        let mut scores = Zeroizing::new(reserve::<f32>(output.len(), platform)?);
        scores.extend_from_slice(output);
        if self.softmax {
            softmax_in_place(platform.compute(), &self.along, false, &mut scores);
        }
        let (form, bytes) = match self.policy {
            OutputPolicy::Full => return Err(Refusal::new(Code::Internal)),
            OutputPolicy::Rounded { decimals } => {
                let mut bytes = reserve(scores.len().saturating_mul(4), platform)?;
                scores.iter().for_each(|v| bytes.extend_from_slice(&round(*v, decimals).to_le_bytes()));
                (Form::Tensor, bytes)
            }
            OutputPolicy::TopK { k, decimals } => {
                (Form::Ranked, self.rank(&scores, k.into(), Some(decimals), platform)?)
            }
            OutputPolicy::Label => (Form::Ranked, self.rank(&scores, 1, None, platform)?),
        };
        Ok(Released { form, bytes: Zeroizing::new(bytes) })
    }

    fn rank(
        &self,
        scores: &[f32],
        k: usize,
        decimals: Option<u8>,
        platform: &impl Platform,
    ) -> Result<Vec<u8>, Refusal> {
        let Along { outer, len, inner } = &self.along;
        let (outer, len, inner) = (*outer as usize, *len as usize, *inner as usize);
        let k = k.min(len);
        let longest = self.labels.iter().map(String::len).max().unwrap_or(0);
        let entries = outer.saturating_mul(inner).saturating_mul(k);
        headroom(entries.saturating_mul(size_of::<Entry>() + 16 + 2 * longest), platform)?;
        let mut classes = reserve::<usize>(len, platform)?;
        let mut rows = Vec::new();
        for o in 0..outer {
            for i in 0..inner {
                let score = |class: usize| scores.get((o * len + class) * inner + i).copied().unwrap_or(f32::NAN);
                classes.clear();
                classes.extend(0..len);
                classes.sort_unstable_by(|&a, &b| order(score(b)).total_cmp(&order(score(a))).then(a.cmp(&b)));
                let entry = |&class: &usize| Entry {
                    class: class as u32,
                    score: decimals.map(|decimals| round(score(class), decimals)),
                    label: self.labels.get(class).cloned(),
                };
                let mut row: Vec<Entry> = classes.iter().take(k).map(entry).collect();
                // The order of equal rounded scores would tell more than the scores do.
                row.sort_unstable_by(|a, b| {
                    let key = |e: &Entry| order(e.score.unwrap_or(0.0));
                    key(b).total_cmp(&key(a)).then(a.class.cmp(&b.class))
                });
                rows.push(row);
            }
        }
        Ok(Ranked { rows }.encode())
    }
}

/// NaN ranks last.
fn order(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score }
}

/// Half away from zero. NaN becomes the one canonical NaN and zero positive, so no other bits travel.
fn round(value: f32, decimals: u8) -> f32 {
    if value.is_nan() {
        return f32::NAN;
    }
    let factor = (0..decimals).fold(1.0f64, |f, _| f * 10.0);
    let scaled = f64::from(value) * factor;
    // From 2^52 on an f64 has no fraction.
    if scaled.abs() >= 4_503_599_627_370_496.0 {
        return value;
    }
    let whole = scaled as i64;
    let rest = scaled - whole as f64;
    let whole = whole + i64::from(rest >= 0.5) - i64::from(rest <= -0.5);
    (whole as f64 / factor) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_drops_every_digit_beyond() {
        assert_eq!(round(0.126, 2), 0.13);
        assert_eq!(round(0.5, 0), 1.0);
        assert_eq!(round(-0.5, 0), -1.0);
        assert_eq!(round(0.499, 0), 0.0);
        assert_eq!(round(-0.001, 2).to_bits(), 0.0f32.to_bits());
        assert_eq!(round(f32::from_bits(0x7fc0_1234), 2).to_bits(), f32::NAN.to_bits());
        assert_eq!(round(f32::INFINITY, 2), f32::INFINITY);
        assert_eq!(round(1e30, 6), 1e30);
    }
}
