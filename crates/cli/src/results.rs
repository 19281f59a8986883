//! Outputs for people: classes and scores, or a summary.

use crate::failure::{Failure, Outcome, own};
use crate::ui;
use cordon_executor::Tensor;
use cordon_package::{Normalisation, OutputPolicy};
use cordon_runtime::{Output, PackageFile, Ranked};
use serde_json::{Value, json};

/// The best classes of each row: index and score.
pub(crate) type Classes = Vec<Vec<(usize, f32)>>;

/// The best classes of an output along its class axis; `None` when it has no scores. `logits` are normalised first, so that
/// the same numbers appear whatever the output policy.
pub(crate) fn classes(tensor: &Tensor, axis: u32, logits: bool, top: usize) -> Option<Classes> {
    let values = tensor.to_f32().ok()?;
    let axis = axis as usize;
    let count = *tensor.dims.get(axis)?;
    let inner: usize = tensor.dims[axis + 1..].iter().product();
    let outer: usize = tensor.dims[..axis].iter().product();
    let mut rows = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let mut scores: Vec<f32> = (0..count).map(|c| values[(o * count + c) * inner + i]).collect();
            if logits {
                softmax(&mut scores);
            }
            let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
            ranked.truncate(top);
            rows.push(ranked);
        }
    }
    Some(rows)
}

/// The class axis of an output of the model, and whether what reaches the host are logits: every policy but `full` has
/// normalised them inside.
pub(crate) fn meaning(package: &PackageFile, output: usize) -> (Option<u32>, bool) {
    let full = package.header().output_policies.of(output) == OutputPolicy::Full;
    package
        .manifest()
        .outputs
        .get(output)
        .map_or((None, false), |info| (info.class_axis, full && info.normalisation == Normalisation::Softmax))
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// One line; at most four rows are printed.
pub(crate) fn classes_text(rows: &Classes) -> String {
    let row = |row: &Vec<(usize, f32)>| {
        row.iter().map(|(class, score)| format!("{class} ({score:.3})")).collect::<Vec<_>>().join(", ")
    };
    joined(rows.iter().map(row), rows.len())
}

/// What an output policy let out, on one line.
pub(crate) fn ranked_text(ranked: &Ranked, top: usize) -> String {
    let row = |row: &Vec<cordon_runtime::Entry>| {
        let entries = row.iter().take(top).map(|entry| {
            let name = entry.label.clone().unwrap_or_else(|| entry.class.to_string());
            entry.score.map_or(name.clone(), |score| format!("{name} ({score})"))
        });
        entries.collect::<Vec<_>>().join(", ")
    };
    joined(ranked.rows.iter().map(row), ranked.rows.len())
}

fn joined(rows: impl Iterator<Item = String>, count: usize) -> String {
    const SHOWN: usize = 4;
    let mut text = rows.take(SHOWN).collect::<Vec<_>>().join(" | ");
    if count > SHOWN {
        text += &format!(" | … {} rows more", count - SHOWN);
    }
    text
}

/// The best classes as JSON.
pub(crate) fn classes_json(rows: &Classes) -> Value {
    let row = |row: &Vec<(usize, f32)>| {
        row.iter().map(|(class, score)| json!({ "class": class, "score": score })).collect::<Vec<_>>()
    };
    json!(rows.iter().map(row).collect::<Vec<_>>())
}

/// A ranked output as JSON.
pub(crate) fn ranked_json(ranked: &Ranked, top: usize) -> Value {
    let row = |row: &Vec<cordon_runtime::Entry>| {
        let entries = row.iter().take(top);
        entries
            .map(|entry| json!({ "class": entry.class, "score": entry.score, "label": entry.label }))
            .collect::<Vec<_>>()
    };
    json!(ranked.rows.iter().map(row).collect::<Vec<_>>())
}

/// Shape, extremes and mean of any other output.
pub(crate) fn summary(tensor: &Tensor) -> String {
    let values = tensor.to_f64_lossy();
    let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    format!("{} {}, min {min:.4}, mean {mean:.4}, max {max:.4}", tensor.elem, ui::shape(&tensor.dims))
}

/// A tensor to write: a ranked output becomes its class indices.
pub(crate) fn as_tensor(output: &Output) -> Outcome<Tensor> {
    match output {
        Output::Tensor(tensor) => Ok(tensor.clone()),
        Output::Ranked(ranked) => {
            let width = ranked.rows.iter().map(Vec::len).max().unwrap_or(0);
            let classes = ranked.rows.iter().flat_map(|row| {
                let filler = core::iter::repeat_n(-1, width - row.len());
                row.iter().map(|entry| i64::from(entry.class)).chain(filler)
            });
            Ok(Tensor::from_i64(vec![ranked.rows.len(), width], &classes.collect::<Vec<_>>())?)
        }
    }
}

/// Tensors of one type, one after the other along the first axis.
pub(crate) fn concatenate(parts: &[Tensor]) -> Outcome<Tensor> {
    let Some(first) = parts.first() else {
        return Err(Failure::new(&own::ARGUMENT, "there is no output to write", "give at least one input"));
    };
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let (leading, rest) = match first.dims.split_first() {
        Some((&leading, rest)) => (leading, rest.to_vec()),
        None => (1, Vec::new()),
    };
    if parts.iter().any(|part| part.elem != first.elem || part.dims != first.dims) {
        return Err(Failure::new(
            &own::ARGUMENT,
            "outputs of different shape cannot share one array",
            "run the files one by one",
        ));
    }
    let dims: Vec<usize> = core::iter::once(leading * parts.len()).chain(rest).collect();
    let data: Vec<u8> = parts.iter().flat_map(|part| part.data.iter().copied()).collect();
    Ok(Tensor::new(first.elem, dims, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logits_are_normalised() {
        let tensor = Tensor::from_f32(vec![1, 3], &[0.1, 0.7, 0.2]).expect("fits");
        let as_they_are = classes(&tensor, 1, false, 2).expect("scores");
        assert_eq!(as_they_are, [[(1, 0.7), (2, 0.2)]]);
        let normalised = classes(&tensor, 1, true, 3).expect("scores");
        let sum: f32 = normalised[0].iter().map(|(_, score)| score).sum();
        assert!((sum - 1.0).abs() < 1e-6 && normalised[0][0].1 < 0.5);
    }

    #[test]
    fn outputs_of_several_requests_are_stacked() {
        let part = |v: f32| Tensor::from_f32(vec![1, 2], &[v, v + 1.0]).expect("fits");
        let all = concatenate(&[part(0.0), part(5.0)]).expect("alike");
        assert_eq!(all.dims, [2, 2]);
        assert_eq!(all.to_f32().expect("float"), [0.0, 1.0, 5.0, 6.0]);
        assert!(concatenate(&[part(0.0), Tensor::from_f32(vec![2], &[0.0; 2]).expect("fits")]).is_err());
        assert!(concatenate(&[]).is_err());
    }
}
