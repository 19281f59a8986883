//! Resize and its predecessor Upsample. Positions depend on shapes only, so the owner's machine computes them: nearest
//! becomes a Gather per axis, linear an Interpolate per axis.

use super::pad::take_along;
use super::{Operator, axis, op, op_range};
use crate::context::{LowerCtx, Reason, Val, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{Along, DType, Instruction};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("Resize", 10, resize_shape, resize).affine(AffineIn::All),
    op_range("Upsample", (7, 9), resize_shape, resize).affine(AffineIn::All),
];

/// One axis: extents and the factor between positions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    input: usize,
    output: usize,
    scale: f32,
}

impl Axis {
    fn is_identity(&self) -> bool {
        self.input == self.output && self.scale == 1.0
    }
}

/// Every axis of the input, from `scales` or `sizes`.
fn axes(view: &NodeView<'_>) -> Result<Vec<Axis>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let opset = view.opset();
    let scales = match view.attr_floats("scales")? {
        Some(scales) => Some(scales.to_vec()),
        None => constant_scales(view, if opset < 11 { 1 } else { 2 })?,
    };
    let sizes = if opset < 11 { None } else { view.const_i64(3)?.filter(|sizes| !sizes.is_empty()) };
    let chosen = match view.attr_ints("axes")? {
        Some(list) => list.iter().map(|&value| axis(value, dims.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..dims.len()).collect(),
    };
    let given = scales.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    if given != Some(chosen.len()) {
        return Err("needs one of `scales` and `sizes`, with an entry for every axis".into());
    }
    let mut out: Vec<_> = dims.iter().map(|&dim| Axis { input: dim, output: dim, scale: 1.0 }).collect();
    if let Some(scales) = scales {
        for (&at, &scale) in chosen.iter().zip(&scales) {
            let output = (f64::from(scale) * dims[at] as f64).floor();
            if !(scale > 0.0 && output <= f64::from(i32::MAX)) {
                return Err(format!("a scale of {scale}").into());
            }
            out[at] = Axis { input: dims[at], output: output as usize, scale };
        }
    } else if let Some(sizes) = sizes {
        let sizes: Result<Vec<usize>, _> = sizes.into_iter().map(usize::try_from).collect();
        let sizes = sizes.map_err(|_| "a negative size".to_owned())?;
        let ratios = chosen.iter().zip(&sizes).map(|(&at, &size)| size as f32 / dims[at] as f32);
        // One scale for all axes keeps the aspect ratio.
        let common = match view.attr_string_or("keep_aspect_ratio_policy", "stretch")? {
            "stretch" => None,
            "not_larger" => ratios.reduce(f32::min),
            "not_smaller" => ratios.reduce(f32::max),
            other => return Err(format!("keep_aspect_ratio_policy \"{other}\"").into()),
        };
        for (&at, &size) in chosen.iter().zip(&sizes) {
            out[at] = match common {
                None => Axis { input: dims[at], output: size, scale: size as f32 / dims[at] as f32 },
                // Rounded half up, as the specification's reference does.
                Some(scale) => {
                    Axis { input: dims[at], output: (scale * dims[at] as f32 + 0.5).floor() as usize, scale }
                }
            };
        }
    }
    Ok(out)
}

/// `None` when omitted or empty.
fn constant_scales(view: &NodeView<'_>, index: usize) -> Result<Option<Vec<f32>>, ShapeError> {
    if view.input_id(index).is_none() {
        return Ok(None);
    }
    let tensor =
        view.input_const(index).ok_or_else(|| ShapeError::Unknown("`scales` is computed at run time".into()))?;
    Ok(Some(tensor.to_f32()?).filter(|scales| !scales.is_empty()))
}

fn resize_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = axes(view)?.iter().map(|axis| axis.output).collect();
    Ok(vec![TensorType { elem: view.input(0)?.elem, dims }])
}

fn resize(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let axes = axes(&ctx.view)?;
    let mode = ctx.view.attr_string_or("mode", "nearest")?;
    if ctx.view.attr_int_or("antialias", 0)? != 0 {
        return Err("antialias is not supported in a secure segment".into());
    }
    let positions = Positions::of(&ctx.view)?;
    let input = ctx.input(0)?;
    let channels_change = axes.iter().take(2).any(|axis| !axis.is_identity());
    let mut out = if channels_change { ctx.plain(&input)? } else { input };
    for (at, axis) in axes.iter().enumerate().filter(|(_, axis)| !axis.is_identity()) {
        out = match mode {
            "nearest" => {
                let indices = (0..axis.output).map(|to| positions.nearest(axis, to)).collect();
                take_along(ctx, &out, at, indices)?
            }
            "linear" | "bilinear" | "trilinear" => interpolate(ctx, &out, at, axis, &positions)?,
            other => return Err(format!("mode \"{other}\" is not supported in a secure segment").into()),
        };
    }
    ctx.output(0, out)
}

fn interpolate(
    ctx: &mut LowerCtx<'_, '_>,
    val: &Val,
    at: usize,
    axis: &Axis,
    positions: &Positions,
) -> Result<Val, Reason> {
    if val.dtype != DType::F32 {
        return Err("linear interpolation of integers is not supported in a secure segment".into());
    }
    let (mut lo, mut hi, mut frac) = (Vec::new(), Vec::new(), Vec::new());
    let last = axis.input - 1;
    for to in 0..axis.output {
        let position = positions.original(axis, to).clamp(0.0, last as f32);
        let floor = (position.floor() as usize).min(last);
        lo.push(floor as i64);
        hi.push((floor + 1).min(last) as i64);
        frac.push(position - floor as f32);
    }
    let physical = val.physical();
    let mut dims = val.dims.clone();
    dims[at] = axis.output;
    let along = Along {
        outer: to_u32(physical[..at].iter().product()),
        len: to_u32(physical[at]),
        inner: to_u32(physical[at + 1..].iter().product()),
    };
    let out = ctx.new_val(DType::F32, &dims, val.layout)?;
    let (lo, hi, frac) = (ctx.weight_i64(lo), ctx.weight_i64(hi), ctx.weight_f32(frac));
    let input = ctx.operand(val);
    let count = to_u32(axis.output);
    ctx.emit(Instruction::Interpolate { along, count, input, lo, hi, frac, out: out.region() });
    Ok(out)
}

/// `coordinate_transformation_mode`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// `nearest_mode`; `Simple` is what opset 10 and Upsample do: down when enlarging, up when shrinking.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
    Simple,
}

/// From an output position to an input position.
#[derive(Clone, Copy, Debug)]
struct Positions {
    transform: Transform,
    rounding: Rounding,
}

impl Positions {
    fn of(view: &NodeView<'_>) -> Result<Self, Reason> {
        if view.opset() < 11 {
            return Ok(Self { transform: Transform::Asymmetric, rounding: Rounding::Simple });
        }
        let transform = match view.attr_string_or("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => Transform::HalfPixel,
            "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
            "pytorch_half_pixel" => Transform::PytorchHalfPixel,
            "align_corners" => Transform::AlignCorners,
            "asymmetric" => Transform::Asymmetric,
            other => {
                let what = format!("coordinate_transformation_mode \"{other}\" is not supported in a secure segment");
                return Err(what.into());
            }
        };
        let rounding = match view.attr_string_or("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return Err(format!("nearest_mode \"{other}\" is not a mode of Resize").into()),
        };
        Ok(Self { transform, rounding })
    }

    /// ONNX operator `Resize`, attribute `coordinate_transformation_mode`; single precision like ONNX Runtime, so that
    /// positions exactly between two elements fall to the same side.
    fn original(&self, axis: &Axis, to: usize) -> f32 {
        let (to, scale) = (to as f32, axis.scale);
        let (input, output) = (axis.input as f32, axis.output as f32);
        match self.transform {
            Transform::HalfPixel => (to + 0.5) / scale - 0.5,
            Transform::HalfPixelSymmetric => {
                let adjustment = output / (scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (to + 0.5) / scale - 0.5
            }
            Transform::PytorchHalfPixel => {
                if axis.output > 1 {
                    (to + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            Transform::AlignCorners => {
                if axis.output > 1 {
                    to * (input - 1.0) / (output - 1.0)
                } else {
                    0.0
                }
            }
            Transform::Asymmetric => to / scale,
        }
    }

    fn nearest(&self, axis: &Axis, to: usize) -> i64 {
        let position = self.original(axis, to);
        let rounded = match self.rounding {
            Rounding::PreferFloor => (position - 0.5).ceil(),
            Rounding::PreferCeil => (position + 0.5).floor(),
            Rounding::Floor => position.floor(),
            Rounding::Ceil => position.ceil(),
            Rounding::Simple => {
                if axis.scale < 1.0 {
                    position.ceil()
                } else {
                    position.floor()
                }
            }
        };
        rounded.clamp(0.0, axis.input.saturating_sub(1) as f32) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, assert_close, f32s, i64s};

    #[test]
    fn nearest_doubles_and_linear_interpolates() {
        let row = || f32s(&[1, 1, 1, 2], &[1.0, 3.0]);
        let node = || OneNode::new("Resize", 13).input(row()).no_input();
        let out = node().constant(f32s(&[4], &[1.0, 1.0, 1.0, 2.0])).run();
        assert_eq!(out, vec![f32s(&[1, 1, 1, 4], &[1.0, 1.0, 3.0, 3.0])]);
        let out = node().string("mode", "linear").no_input().constant(i64s(&[4], &[1, 1, 1, 4])).run();
        assert_close(&out[0], &f32s(&[1, 1, 1, 4], &[1.0, 1.5, 2.5, 3.0]));
    }

    #[test]
    fn positions_between_two_elements_round_as_asked() {
        let axis = Axis { input: 4, output: 2, scale: 0.5 };
        let nearest = |rounding| Positions { transform: Transform::HalfPixel, rounding }.nearest(&axis, 0);
        assert_eq!((nearest(Rounding::PreferFloor), nearest(Rounding::PreferCeil)), (0, 1));
    }

    #[test]
    fn cubic_is_refused_by_name() {
        let node =
            OneNode::new("Resize", 13).string("mode", "cubic").input(f32s(&[1, 1, 1, 2], &[1.0, 3.0])).no_input();
        let error = node.constant(f32s(&[4], &[1.0, 1.0, 1.0, 2.0])).lower().err();
        assert!(error.is_some_and(|error| error.to_string().contains("cubic")));
    }
}
