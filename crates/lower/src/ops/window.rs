//! Sliding windows of convolution and pooling: attributes → [`Axis`] per spatial dimension.

use crate::context::to_u32;
use cordon_engine::program::Axis;
use cordon_graph::{NodeView, ShapeError};

/// An axis that does nothing, for the unused leading ones.
pub(super) const UNIT: Axis = Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0 };

/// How output extents round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Floor,
    Ceil,
}

struct Attributes {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
    auto_pad: AutoPad,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AutoPad {
    NotSet,
    Valid,
    SameUpper,
    SameLower,
}

fn attributes(view: &NodeView<'_>, kernel: &[usize]) -> Result<Attributes, ShapeError> {
    let rank = kernel.len();
    let auto_pad = match view.attr_string_or("auto_pad", "NOTSET")? {
        "NOTSET" | "" => AutoPad::NotSet,
        "VALID" => AutoPad::Valid,
        "SAME_UPPER" => AutoPad::SameUpper,
        "SAME_LOWER" => AutoPad::SameLower,
        other => return Err(format!("auto_pad `{other}` does not exist").into()),
    };
    let attributes = Attributes {
        kernel: kernel.to_vec(),
        strides: list(view, "strides", rank, 1)?,
        dilations: list(view, "dilations", rank, 1)?,
        pads: list(view, "pads", 2 * rank, 0)?,
        auto_pad,
    };
    for (name, values) in
        [("kernel", &attributes.kernel), ("strides", &attributes.strides), ("dilations", &attributes.dilations)]
    {
        if values.contains(&0) {
            return Err(format!("{name} must be positive").into());
        }
    }
    let limit = i32::MAX as usize;
    let all = [&attributes.kernel, &attributes.strides, &attributes.dilations, &attributes.pads];
    if all.iter().any(|values| values.iter().any(|&value| value > limit)) {
        return Err("a window attribute exceeds 2^31".into());
    }
    Ok(attributes)
}

fn list(view: &NodeView<'_>, name: &str, len: usize, default: usize) -> Result<Vec<usize>, ShapeError> {
    let Some(values) = view.attr_ints(name)? else { return Ok(vec![default; len]) };
    if values.len() != len {
        return Err(format!("attribute `{name}` has {} entries, expected {len}", values.len()).into());
    }
    let values = values.iter().map(|&value| usize::try_from(value)).collect::<Result<_, _>>();
    Ok(values.map_err(|_| format!("attribute `{name}` has a negative entry"))?)
}

/// `kernel_shape`, or what the weights say.
pub(super) fn kernel_shape(view: &NodeView<'_>, weight: Option<&[usize]>) -> Result<Vec<usize>, ShapeError> {
    let given = match view.attr_ints("kernel_shape")? {
        Some(values) => Some(list(view, "kernel_shape", values.len(), 1)?),
        None => None,
    };
    match (given, weight) {
        (Some(given), Some(weight)) if given != weight => {
            Err(format!("kernel_shape {given:?} differs from the weights' {weight:?}").into())
        }
        (Some(given), _) => Ok(given),
        (None, Some(weight)) => Ok(weight.to_vec()),
        (None, None) => Err("attribute `kernel_shape` is missing".into()),
    }
}

/// The axes of a convolution or a pooling.
pub(super) fn axes(
    view: &NodeView<'_>,
    input: &[usize],
    kernel: &[usize],
    rounding: Rounding,
) -> Result<Vec<Axis>, ShapeError> {
    let rank = input.len();
    if kernel.len() != rank {
        return Err(format!("a window of {} dimensions over {rank} spatial dimensions", kernel.len()).into());
    }
    let attributes = attributes(view, kernel)?;
    let mut out = Vec::with_capacity(rank);
    for (axis, &extent) in input.iter().enumerate() {
        let (stride, dilation) = (attributes.strides[axis], attributes.dilations[axis]);
        let reach = (kernel[axis] - 1)
            .checked_mul(dilation)
            .filter(|&reach| reach < i32::MAX as usize)
            .ok_or("the dilated window exceeds 2^31")?
            + 1;
        let same = |upper: bool| {
            let output = extent.div_ceil(stride);
            let total = (output.saturating_sub(1) * stride + reach).saturating_sub(extent);
            let begin = if upper { total / 2 } else { total.div_ceil(2) };
            (begin, total - begin)
        };
        let (begin, end) = match attributes.auto_pad {
            AutoPad::NotSet => (attributes.pads[axis], attributes.pads[rank + axis]),
            AutoPad::Valid => (0, 0),
            AutoPad::SameUpper => same(true),
            AutoPad::SameLower => same(false),
        };
        let room = (extent + begin + end).checked_sub(reach).ok_or_else(|| {
            format!("a window reaching over {reach} elements does not fit {extent} with padding {begin} + {end}")
        })?;
        let mut output = match rounding {
            Rounding::Floor => room / stride + 1,
            Rounding::Ceil => room.div_ceil(stride) + 1,
        };
        // A window that would start in the padding after the input is dropped.
        if rounding == Rounding::Ceil && (output - 1) * stride >= extent + begin {
            output -= 1;
        }
        out.push(make(extent, output, kernel[axis], stride, dilation, begin, end)?);
    }
    Ok(out)
}

/// The axes of a transposed convolution.
pub(super) fn transposed_axes(view: &NodeView<'_>, input: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, ShapeError> {
    let rank = input.len();
    if kernel.len() != rank {
        return Err(format!("a window of {} dimensions over {rank} spatial dimensions", kernel.len()).into());
    }
    let attributes = attributes(view, kernel)?;
    let output_padding = list(view, "output_padding", rank, 0)?;
    let wanted = match view.attr_ints("output_shape")? {
        // Some exporters also give batch and channels.
        Some(values) if values.len() == rank + 2 => Some(
            values[2..]
                .iter()
                .map(|&value| usize::try_from(value))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| "attribute `output_shape` has a negative entry")?,
        ),
        Some(_) => Some(list(view, "output_shape", rank, 0)?),
        None => None,
    };
    let mut out = Vec::with_capacity(rank);
    for (axis, &extent) in input.iter().enumerate() {
        let (stride, dilation) = (attributes.strides[axis], attributes.dilations[axis]);
        let full = extent
            .checked_sub(1)
            .and_then(|steps| steps.checked_mul(stride))
            .and_then(|start| start.checked_add((kernel[axis] - 1).checked_mul(dilation)?))
            .and_then(|last| last.checked_add(1 + output_padding[axis]))
            .ok_or("the output extent overflows")?;
        let same = matches!(attributes.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
        let target = match &wanted {
            Some(wanted) => Some(wanted[axis]),
            None if same => Some(extent * stride),
            None => None,
        };
        let (begin, end) = match (target, attributes.auto_pad) {
            (Some(target), auto_pad) => {
                let total = full.saturating_sub(target);
                let begin = if auto_pad == AutoPad::SameUpper { total / 2 } else { total.div_ceil(2) };
                (begin, total - begin)
            }
            (None, AutoPad::NotSet) => (attributes.pads[axis], attributes.pads[rank + axis]),
            (None, _) => (0, 0),
        };
        let output = match target {
            Some(target) => target,
            None => full.checked_sub(begin + end).ok_or("padding exceeds the output")?,
        };
        out.push(make(extent, output, kernel[axis], stride, dilation, begin, end)?);
    }
    Ok(out)
}

fn make(
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad_begin: usize,
    pad_end: usize,
) -> Result<Axis, ShapeError> {
    if [input, output, pad_begin, pad_end].iter().any(|&value| value > i32::MAX as usize) {
        return Err("an extent exceeds 2^31".into());
    }
    Ok(Axis {
        input: to_u32(input),
        output: to_u32(output),
        kernel: to_u32(kernel),
        stride: to_u32(stride),
        dilation: to_u32(dilation),
        pad_begin: to_u32(pad_begin),
        pad_end: to_u32(pad_end),
    })
}

/// Output extents.
pub(super) fn outputs(axes: &[Axis]) -> impl Iterator<Item = usize> {
    axes.iter().map(|axis| axis.output as usize)
}

/// Three axes, unused leading ones trivial; `None` beyond three.
pub(super) fn three(axes: &[Axis]) -> Option<[Axis; 3]> {
    match *axes {
        [] => Some([UNIT, UNIT, UNIT]),
        [x] => Some([UNIT, UNIT, x]),
        [y, x] => Some([UNIT, y, x]),
        [z, y, x] => Some([z, y, x]),
        _ => None,
    }
}
