//! Conv and ConvTranspose.

use super::window::{self, Rounding, UNIT};
use super::{Operator, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, u};
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{Axis, BinaryOp, Conv2d, ConvNd, DType, Instruction, Layout, Tile};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] =
    &[op("Conv", 1, conv_shape, conv), op("ConvTranspose", 1, transpose_shape, conv_transpose)];

/// Extents of a convolution once its inputs are known to agree.
struct Shape {
    n: usize,
    groups: usize,
    ic: usize,
    oc: usize,
    axes: Vec<Axis>,
}

fn shape(view: &NodeView<'_>, transposed: bool) -> Result<Shape, ShapeError> {
    let (input, weight) = (&view.input(0)?.dims, &view.input(1)?.dims);
    if input.len() < 3 || weight.len() != input.len() {
        return Err(format!("input {input:?} and weights {weight:?} are not those of a convolution").into());
    }
    let groups = usize::try_from(view.attr_int_or("group", 1)?).ok().filter(|&groups| groups > 0);
    let groups = groups.ok_or("attribute `group` must be positive")?;
    let (n, ic) = (input[0], input[1]);
    let (want, oc) = match transposed {
        false => (weight[1].checked_mul(groups), Some(weight[0])),
        true => (Some(weight[0]), weight[1].checked_mul(groups)),
    };
    let oc = oc.filter(|oc| oc.is_multiple_of(groups) && ic.is_multiple_of(groups));
    let oc = oc.ok_or("channels do not divide into groups")?;
    if want != Some(ic) {
        return Err(format!("{ic} input channels in {groups} groups do not fit weights {weight:?}").into());
    }
    let kernel = window::kernel_shape(view, Some(&weight[2..]))?;
    let axes = match transposed {
        false => window::axes(view, &input[2..], &kernel, Rounding::Floor)?,
        true => window::transposed_axes(view, &input[2..], &kernel)?,
    };
    Ok(Shape { n, groups, ic, oc, axes })
}

fn output_type(view: &NodeView<'_>, transposed: bool) -> Result<Vec<TensorType>, ShapeError> {
    let shape = shape(view, transposed)?;
    Ok(vec![TensorType { elem: view.input(0)?.elem, dims: shape.out_dims() }])
}

fn conv_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    output_type(view, false)
}

fn transpose_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    output_type(view, true)
}

impl Shape {
    fn out_dims(&self) -> Vec<usize> {
        let mut dims = vec![self.n, self.oc];
        dims.extend(window::outputs(&self.axes));
        dims
    }

    fn depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.ic && self.groups == self.oc
    }

    /// What [`Conv2d`] can express.
    fn fits_conv2d(&self) -> bool {
        let aligned = |channels: usize| (channels / self.groups).is_multiple_of(BLOCK);
        self.axes.len() <= 2 && (self.groups == 1 || self.depthwise() || (aligned(self.ic) && aligned(self.oc)))
    }
}

fn conv(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let shape = shape(&ctx.view, false)?;
    let weight = ctx.input(1)?;
    if weight.is_constant() && shape.fits_conv2d() {
        conv_2d(ctx, &shape, &weight)
    } else {
        conv_nd(ctx, &shape, false)
    }
}

fn conv_transpose(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let shape = shape(&ctx.view, true)?;
    conv_nd(ctx, &shape, true)
}

fn conv_2d(ctx: &mut LowerCtx<'_, '_>, shape: &Shape, weight: &Val) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    // Fewer channels than a block: the plain image is read as it is.
    let input = if shape.groups == 1 && shape.ic < BLOCK && input.layout == Layout::Plain {
        input
    } else {
        ctx.blocked(&input)?
    };
    let (y, x) = match shape.axes[..] {
        [x] => (UNIT, x),
        [y, x] => (y, x),
        _ => return Err("only one or two spatial dimensions".into()),
    };
    let geometry =
        Conv2d { n: u(shape.n), groups: u(shape.groups), ic: u(shape.ic), oc: u(shape.oc), y, x, input: input.layout };
    let tensor = weight.constant().ok_or("weights must be constant")?.clone();
    let form = Form::Rows { tensor, outer: shape.oc, inner: weight.count() / shape.oc };
    let weight = ctx.weight(WeightSource::new(form));
    let (bias, late_bias) = bias(ctx, shape.oc, shape.oc.next_multiple_of(BLOCK))?;
    let out = ctx.new_val(DType::F32, &shape.out_dims(), Layout::Blocked)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Conv2d {
        geometry,
        input,
        weight,
        bias,
        residual: None,
        activation: None,
        out: out.region(),
    });
    add_late_bias(ctx, out, late_bias)
}

fn conv_nd(ctx: &mut LowerCtx<'_, '_>, shape: &Shape, transposed: bool) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let weight = ctx.plain_input(1)?;
    let axes = window::three(&shape.axes).ok_or("more than three spatial dimensions")?;
    let geometry =
        ConvNd { n: u(shape.n), groups: u(shape.groups), ic: u(shape.ic), oc: u(shape.oc), axes, transposed };
    let (bias, late_bias) = bias(ctx, shape.oc, shape.oc)?;
    let out = ctx.new_val(DType::F32, &shape.out_dims(), Layout::Plain)?;
    let input = ctx.operand(&input);
    let weight = ctx.operand(&weight);
    ctx.emit(Instruction::ConvNd { geometry, input, weight, bias, activation: None, out: out.region() });
    add_late_bias(ctx, out, late_bias)
}

/// A constant bias as a tile of `len` elements, or a computed one to add afterwards.
fn bias(ctx: &mut LowerCtx<'_, '_>, oc: usize, len: usize) -> Result<(Option<Tile>, Option<Val>), Reason> {
    let Some(bias) = ctx.optional_input(2)? else { return Ok((None, None)) };
    if bias.count() != oc {
        return Err(format!("a bias of {} elements for {oc} output channels", bias.count()).into());
    }
    match ctx.constant_f32(2) {
        Some(mut values) => {
            values.resize(len, 0.0);
            Ok((Some(ctx.weight_f32(values)), None))
        }
        None => Ok((None, Some(bias))),
    }
}

fn add_late_bias(ctx: &mut LowerCtx<'_, '_>, out: Val, bias: Option<Val>) -> Result<(), Reason> {
    let out = match bias {
        None => out,
        Some(bias) => {
            let mut dims = vec![1; out.dims.len() - 1];
            dims[0] = out.dims[1];
            let bias = ctx.reshape(&bias, &dims)?;
            ctx.binary(BinaryOp::Add, &out, &bias)?
        }
    };
    ctx.output(0, out)
}
