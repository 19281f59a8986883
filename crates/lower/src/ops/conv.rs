//! Conv and ConvTranspose.

use super::window::{self, Rounding, UNIT};
use super::{Operator, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, to_u32};
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{Axis, BinaryOp, Conv2d, ConvNd, DType, Instruction, Layout, Tile};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] =
    &[op("Conv", 1, conv_shape, conv).layer(&[1]), op("ConvTranspose", 1, transpose_shape, conv_transpose).layer(&[1])];

/// Extents of a convolution once its inputs are known to agree.
struct Shape {
    n: usize,
    groups: usize,
    ic: usize,
    oc: usize,
    axes: Vec<Axis>,
}

fn shape(view: &NodeView<'_>, transposed: bool) -> Result<Shape, ShapeError> {
    shape_of(view, [0, 1], transposed)
}

/// `at`: the positions of input and weights.
fn shape_of(view: &NodeView<'_>, at: [usize; 2], transposed: bool) -> Result<Shape, ShapeError> {
    let (input, weight) = (&view.input(at[0])?.dims, &view.input(at[1])?.dims);
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
    let operands = Operands { input: ctx.input(0)?, weight: ctx.input(1)?, bias: ctx.optional_input(2)? };
    let out = convolve(ctx, &shape, operands)?;
    ctx.output(0, out)
}

/// What a convolution reads, as `f32`.
pub(super) struct Operands {
    pub(super) input: Val,
    pub(super) weight: Val,
    pub(super) bias: Option<Val>,
}

/// Extents of the output of a convolution whose input and weights are at other positions.
pub(super) fn quantised_dims(view: &NodeView<'_>) -> Result<Vec<usize>, ShapeError> {
    Ok(shape_of(view, [0, 3], false)?.out_dims())
}

/// The convolution of such a node, once its operands are `f32`.
pub(super) fn quantised(ctx: &mut LowerCtx<'_, '_>, operands: Operands) -> Result<Val, Reason> {
    let shape = shape_of(&ctx.view, [0, 3], false)?;
    convolve(ctx, &shape, operands)
}

fn convolve(ctx: &mut LowerCtx<'_, '_>, shape: &Shape, operands: Operands) -> Result<Val, Reason> {
    if operands.weight.is_constant() && shape.fits_conv2d() {
        conv_2d(ctx, shape, operands)
    } else {
        conv_nd(ctx, shape, operands, false)
    }
}

fn conv_transpose(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let shape = shape(&ctx.view, true)?;
    let operands = Operands { input: ctx.input(0)?, weight: ctx.input(1)?, bias: ctx.optional_input(2)? };
    let out = conv_nd(ctx, &shape, operands, true)?;
    ctx.output(0, out)
}

fn conv_2d(ctx: &mut LowerCtx<'_, '_>, shape: &Shape, operands: Operands) -> Result<Val, Reason> {
    let Operands { input, weight, bias: given } = operands;
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
    let geometry = Conv2d {
        n: to_u32(shape.n),
        groups: to_u32(shape.groups),
        ic: to_u32(shape.ic),
        oc: to_u32(shape.oc),
        y,
        x,
        input: input.layout,
    };
    let constant = weight.known().ok_or("weights must be constant")?.clone();
    let (outer, inner) = (shape.oc, weight.count() / shape.oc);
    let form = match input.layout {
        Layout::Plain => Form::Rows { constant, outer, inner },
        Layout::Blocked => {
            let taps = shape.axes.iter().map(|axis| axis.kernel as usize).product();
            Form::Blocks { constant, outer, channels: shape.ic / shape.groups, taps }
        }
    };
    let weight = ctx.weight(WeightSource::new(form));
    let (bias, late_bias) = bias(ctx, given, shape.oc, shape.oc.next_multiple_of(BLOCK))?;
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

fn conv_nd(ctx: &mut LowerCtx<'_, '_>, shape: &Shape, operands: Operands, transposed: bool) -> Result<Val, Reason> {
    let input = ctx.plain(&operands.input)?;
    let weight = ctx.plain(&operands.weight)?;
    let axes = window::three(&shape.axes).ok_or("more than three spatial dimensions")?;
    let geometry = ConvNd {
        n: to_u32(shape.n),
        groups: to_u32(shape.groups),
        ic: to_u32(shape.ic),
        oc: to_u32(shape.oc),
        axes,
        transposed,
    };
    let (bias, late_bias) = bias(ctx, operands.bias, shape.oc, shape.oc)?;
    let out = ctx.new_val(DType::F32, &shape.out_dims(), Layout::Plain)?;
    let input = ctx.operand(&input);
    let weight = ctx.operand(&weight);
    ctx.emit(Instruction::ConvNd { geometry, input, weight, bias, activation: None, out: out.region() });
    add_late_bias(ctx, out, late_bias)
}

/// A constant bias as a tile of `len` elements, or a computed one to add afterwards.
fn bias(
    ctx: &mut LowerCtx<'_, '_>,
    bias: Option<Val>,
    oc: usize,
    len: usize,
) -> Result<(Option<Tile>, Option<Val>), Reason> {
    let Some(bias) = bias else { return Ok((None, None)) };
    if bias.count() != oc {
        return Err(format!("a bias of {} elements for {oc} output channels", bias.count()).into());
    }
    match bias.constant().and_then(|tensor| tensor.to_f32().ok()) {
        Some(mut values) => {
            values.resize(len, 0.0);
            Ok((Some(ctx.weight_f32(values)), None))
        }
        None => Ok((None, Some(bias))),
    }
}

fn add_late_bias(ctx: &mut LowerCtx<'_, '_>, out: Val, bias: Option<Val>) -> Result<Val, Reason> {
    match bias {
        None => Ok(out),
        Some(bias) => {
            let mut dims = vec![1; out.dims.len() - 1];
            dims[0] = out.dims[1];
            let bias = ctx.reshape(&bias, &dims)?;
            ctx.binary(BinaryOp::Add, &out, &bias)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, assert_close, f32s, noise};
    use cordon_engine::program::Instruction;
    use cordon_graph::Tensor;

    /// Direct convolution of `(n, ic, h, w)` in `f64`, ONNX's definition word for word.
    fn reference(input: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, window: [usize; 3]) -> Tensor {
        let [stride, dilation, pad] = window;
        let (&[n, ic, h, w], &[oc, per_group, kh, kw]) = (&input.dims[..], &weight.dims[..]) else { panic!("rank") };
        let (data, taps, bias) = (input.to_f32().unwrap(), weight.to_f32().unwrap(), bias.to_f32().unwrap());
        let extent = |size: usize, kernel: usize| (size + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
        let (oh, ow) = (extent(h, kh), extent(w, kw));
        let mut out = Vec::new();
        for (b, o, y, x) in grid([n, oc, oh, ow]) {
            let mut sum = f64::from(bias[o]);
            for (c, i, j, _) in grid([per_group, kh, kw, 1]) {
                let channel = o / (oc / groups) * per_group + c;
                let (row, column) = (y * stride + i * dilation, x * stride + j * dilation);
                if row < pad || column < pad || row - pad >= h || column - pad >= w {
                    continue;
                }
                let at = ((b * ic + channel) * h + row - pad) * w + column - pad;
                sum += f64::from(data[at]) * f64::from(taps[((o * per_group + c) * kh + i) * kw + j]);
            }
            out.push(sum as f32);
        }
        f32s(&[n, oc, oh, ow], &out)
    }

    fn grid([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).flat_map(move |k| (0..d).map(move |l| (i, j, k, l)))))
    }

    fn check(n: usize, [ic, oc, groups]: [usize; 3], [kernel, stride, dilation, pad]: [usize; 4], size: [usize; 2]) {
        let input = noise(&[n, ic, size[0], size[1]], 1);
        let weight = noise(&[oc, ic / groups, kernel, kernel], 2);
        let bias = noise(&[oc], 3);
        let node = || {
            OneNode::new("Conv", 11)
                .int("group", groups as i64)
                .ints("strides", &[stride as i64; 2])
                .ints("dilations", &[dilation as i64; 2])
                .ints("pads", &[pad as i64; 4])
                .input(input.clone())
        };
        let want = reference(&input, &weight, &bias, groups, [stride, dilation, pad]);
        let constant = node().constant(weight.clone()).constant(bias.clone());
        assert_close(&constant.run()[0], &want);
        let computed = node().input(weight).input(bias);
        assert_close(&computed.run()[0], &want);
    }

    #[test]
    fn every_form_agrees_with_the_definition() {
        check(2, [3, 20, 1], [3, 1, 1, 1], [7, 6]);
        check(1, [20, 17, 1], [1, 1, 1, 0], [5, 5]);
        check(1, [32, 16, 1], [3, 2, 1, 1], [9, 9]);
        check(1, [16, 16, 1], [3, 1, 2, 2], [8, 8]);
        check(2, [24, 24, 24], [3, 1, 1, 1], [6, 6]);
        check(1, [32, 64, 2], [3, 1, 1, 1], [5, 5]);
        check(1, [12, 8, 4], [3, 1, 1, 1], [5, 5]);
    }

    #[test]
    fn groups_of_whole_blocks_and_depthwise_take_the_block_layout() {
        let lowered = |ic: usize, oc: usize, groups: usize| {
            let node = OneNode::new("Conv", 11).int("group", groups as i64).input(noise(&[1, ic, 4, 4], 1));
            node.constant(noise(&[oc, ic / groups, 3, 3], 2)).lower().expect("lowers")
        };
        let blocked = |ic, oc, groups| {
            lowered(ic, oc, groups).program.instructions.iter().any(|it| matches!(it, Instruction::Conv2d { .. }))
        };
        assert!(blocked(3, 8, 1) && blocked(24, 24, 24) && blocked(32, 32, 2));
        assert!(!blocked(12, 12, 3));
    }

    #[test]
    fn one_spatial_dimension_runs_as_a_row() {
        let (input, weight, bias) = (noise(&[1, 4, 1, 9], 1), noise(&[6, 4, 1, 3], 2), f32s(&[6], &[0.0; 6]));
        let mut want = reference(&input, &weight, &bias, 1, [1, 1, 0]);
        want.dims = vec![1, 6, 7];
        let flat = |tensor: Tensor, dims: [usize; 3]| Tensor { dims: dims.to_vec(), ..tensor };
        let node = OneNode::new("Conv", 11).input(flat(input, [1, 4, 9])).constant(flat(weight, [6, 4, 3]));
        assert_close(&node.run()[0], &want);
    }

    #[test]
    fn same_padding_puts_the_odd_element_where_it_says() {
        // Extent 4, kernel 2: one element of padding in total.
        let run = |mode| {
            let node = OneNode::new("Conv", 11).string("auto_pad", mode);
            node.input(f32s(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0])).constant(f32s(&[1, 1, 1, 2], &[1.0, 10.0])).run()
        };
        assert_eq!(run("SAME_UPPER")[0].to_f32().unwrap(), [21.0, 32.0, 43.0, 4.0]);
        assert_eq!(run("SAME_LOWER")[0].to_f32().unwrap(), [10.0, 21.0, 32.0, 43.0]);
        assert_eq!(run("VALID")[0].to_f32().unwrap(), [21.0, 32.0, 43.0]);
    }

    #[test]
    fn transposed_spreads_each_element_over_the_kernel() {
        let node = OneNode::new("ConvTranspose", 11).ints("strides", &[2, 2]).ints("output_padding", &[0, 1]);
        let node = node.input(f32s(&[1, 1, 1, 2], &[1.0, 2.0])).constant(f32s(&[1, 1, 1, 3], &[1.0, 10.0, 100.0]));
        assert_eq!(node.run(), vec![f32s(&[1, 1, 1, 6], &[1.0, 10.0, 102.0, 20.0, 200.0, 0.0])]);
    }

    #[test]
    fn transposed_output_shape_decides_the_padding() {
        let node = OneNode::new("ConvTranspose", 11).ints("strides", &[1, 2]).ints("output_shape", &[1, 4]);
        let node = node.input(f32s(&[1, 1, 1, 2], &[1.0, 2.0])).constant(f32s(&[1, 1, 1, 3], &[1.0, 10.0, 100.0]));
        // Five elements less one: the odd one comes off the beginning.
        assert_eq!(node.run(), vec![f32s(&[1, 1, 1, 4], &[10.0, 102.0, 20.0, 200.0])]);
    }
}
