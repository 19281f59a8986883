//! Equality of tensors as ONNX's own test runner has it.

use cordon_executor::{ElemType, Tensor};

use crate::cases::DataSet;
use crate::expectations::Expectations;
use crate::suite::Failed;

/// `None` when all outputs of a test are as they should be.
pub fn differs(got: &[Tensor], set: &DataSet, expected: &Expectations) -> Option<Failed> {
    if got.len() != set.outputs.len() {
        return Some(Failed::Wrong(format!("{} outputs where {} belong", got.len(), set.outputs.len())));
    }
    got.iter().zip(&set.outputs).find_map(|(got, (name, want))| {
        let difference = difference(got, want, expected.relative, expected.absolute)?;
        Some(Failed::Wrong(format!("output `{name}`: {difference}")))
    })
}

/// `None` when equal, else the first difference in words.
pub fn difference(got: &Tensor, want: &Tensor, relative: f64, absolute: f64) -> Option<String> {
    if got.elem != want.elem {
        return Some(format!("type {} where {} belongs", got.elem, want.elem));
    }
    if got.dims != want.dims {
        return Some(format!("shape {:?} where {:?} belongs", got.dims, want.dims));
    }
    let float = matches!(want.elem, ElemType::Float | ElemType::Double | ElemType::Float16 | ElemType::Bfloat16);
    let (got, want) = (got.to_f64_lossy(), want.to_f64_lossy());
    got.iter().zip(&want).enumerate().find_map(|(i, (g, w))| {
        let close = g == w || g.is_nan() && w.is_nan() || float && (g - w).abs() <= absolute + relative * w.abs();
        (!close).then(|| format!("element {i} is {g} where {w} belongs"))
    })
}

/// The largest difference over the largest magnitude expected; infinite when shapes or finiteness disagree.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    if got.dims != want.dims {
        return f64::INFINITY;
    }
    let (got, want) = (got.to_f64_lossy(), want.to_f64_lossy());
    let scale = want.iter().fold(0f64, |most, w| most.max(w.abs()));
    let worst = got.iter().zip(&want).fold(0f64, |most, (g, w)| {
        let apart = (g - w).abs();
        if apart.is_finite() { most.max(apart) } else { f64::INFINITY }
    });
    if worst == 0.0 { 0.0 } else { worst / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32(vec![values.len()], values).expect("one dimension")
    }

    #[test]
    fn what_is_not_close_is_found() {
        let difference = |got: &Tensor, want: &Tensor| super::difference(got, want, 1e-3, 1e-5);
        assert_eq!(
            difference(&floats(&[1.0, f32::NAN, f32::INFINITY]), &floats(&[1.0005, f32::NAN, f32::INFINITY])),
            None
        );
        for bad in [[1.01, 0.0], [f32::NAN, 0.0], [f32::INFINITY, 0.0], [1.0, 1e-3]] {
            assert!(difference(&floats(&bad), &floats(&[1.0, 0.0])).is_some(), "{bad:?}");
        }
        let whole = |v| Tensor::from_i64(vec![1], &[v]).expect("one value");
        assert!(difference(&whole(1_000_001), &whole(1_000_000)).is_some(), "integers are exact");
        assert!(difference(&floats(&[1.0]), &floats(&[1.0, 1.0])).is_some());
        assert_eq!(relative_error(&floats(&[1.0, -4.0]), &floats(&[1.5, -4.0])), 0.125);
        assert_eq!(relative_error(&floats(&[f32::NAN]), &floats(&[1.0])), f64::INFINITY);
    }
}
