//! MaxPool, AveragePool and their global forms.

use super::window::{self, Rounding};
use super::{Operator, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{Axis, DType, Instruction, Layout, Pool, PoolKind, ReduceOp, Strided1};
use cordon_graph::{ElemType, NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("MaxPool", 1, pool_shape, max_pool).chooses(),
    op("AveragePool", 1, pool_shape, average_pool).affine(AffineIn::All),
    op("GlobalAveragePool", 1, global_shape, |ctx| global(ctx, ReduceOp::Mean)).affine(AffineIn::All),
    op("GlobalMaxPool", 1, global_shape, |ctx| global(ctx, ReduceOp::Max)).chooses(),
];

fn axes(view: &NodeView<'_>) -> Result<Vec<Axis>, ShapeError> {
    let input = &view.input(0)?.dims;
    if input.len() < 3 {
        return Err(format!("input {input:?} has no spatial dimension").into());
    }
    let rounding = if view.attr_int_or("ceil_mode", 0)? != 0 { Rounding::Ceil } else { Rounding::Floor };
    window::axes(view, &input[2..], &window::kernel_shape(view, None)?, rounding)
}

fn pool_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let mut dims = input.dims[..2.min(input.dims.len())].to_vec();
    dims.extend(window::outputs(&axes(view)?));
    let indices = TensorType { elem: ElemType::Int64, dims: dims.clone() };
    let mut types = vec![TensorType { elem: input.elem, dims }];
    types.resize(view.outputs(), indices);
    Ok(types)
}

fn global_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    if input.dims.len() < 3 {
        return Err(format!("input {:?} has no spatial dimension", input.dims).into());
    }
    let mut dims = vec![1; input.dims.len()];
    dims[..2].copy_from_slice(&input.dims[..2]);
    Ok(vec![TensorType { elem: input.elem, dims }])
}

fn max_pool(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    if ctx.has_output(1) {
        return Err("output `Indices` is not supported".into());
    }
    pool(ctx, PoolKind::Max)
}

fn average_pool(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let padding_counts = ctx.view.attr_int_or("count_include_pad", 0)? != 0;
    pool(ctx, if padding_counts { PoolKind::AverageCountPad } else { PoolKind::Average })
}

/// Planes and lanes of a value in its own layout.
fn planes(val: &Val) -> (usize, usize) {
    match val.layout {
        Layout::Plain => (val.dims[0] * val.dims[1], 1),
        Layout::Blocked => (val.dims[0] * val.dims[1].div_ceil(BLOCK), BLOCK),
    }
}

fn pool(ctx: &mut LowerCtx<'_, '_>, kind: PoolKind) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    if input.dtype != DType::F32 {
        return Err("only float32 is supported".into());
    }
    let axes = window::three(&axes(&ctx.view)?).ok_or("more than three spatial dimensions")?;
    let (planes, lanes) = planes(&input);
    let geometry = Pool { kind, planes: to_u32(planes), lanes: to_u32(lanes), axes };
    let out = ctx.new_val(DType::F32, ctx.output_dims(0)?, input.layout)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Pool { geometry, input, out: out.region() });
    ctx.output(0, out)
}

fn global(ctx: &mut LowerCtx<'_, '_>, op: ReduceOp) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let spatial: usize = input.dims[2..].iter().product();
    let (planes, lanes) = planes(&input);
    let kept = Strided1 { dims: vec![to_u32(planes), to_u32(lanes)], a: vec![to_u32(spatial * lanes), 1] };
    let reduced = Strided1 { dims: vec![to_u32(spatial)], a: vec![to_u32(lanes)] };
    let out = ctx.new_val(input.dtype, ctx.output_dims(0)?, input.layout)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Reduce { op, kept, reduced, input, out: out.region() });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, assert_close, f32s, noise};
    use cordon_graph::Tensor;

    fn row() -> Tensor {
        f32s(&[1, 1, 1, 5], &[1.0, 5.0, 2.0, 4.0, 3.0])
    }

    #[test]
    fn ceil_mode_keeps_a_partial_window_that_starts_inside() {
        let run = |ceil: i64, kernel: i64| {
            let node = OneNode::new("MaxPool", 12).ints("kernel_shape", &[1, kernel]).ints("strides", &[1, 2]);
            node.int("ceil_mode", ceil).input(row()).run()[0].to_f32().unwrap()
        };
        assert_eq!(run(0, 2), [5.0, 4.0]);
        assert_eq!(run(1, 2), [5.0, 4.0, 3.0]);
    }

    #[test]
    fn average_counts_padding_only_when_told() {
        let run = |count: i64| {
            let node = OneNode::new("AveragePool", 11).ints("kernel_shape", &[1, 3]).ints("pads", &[0, 1, 0, 1]);
            node.int("count_include_pad", count).input(row()).run()[0].to_f32().unwrap()
        };
        let third = 1.0 / 3.0;
        let close = |got: Vec<f32>, want: [f32; 5]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "got {got:?}, want {want:?}");
        };
        close(run(0), [3.0, 8.0 * third, 11.0 * third, 3.0, 3.5]);
        close(run(1), [2.0, 8.0 * third, 11.0 * third, 3.0, 7.0 * third]);
    }

    #[test]
    fn blocked_and_plain_inputs_pool_alike() {
        let input = noise(&[2, 20, 6, 6], 1);
        let mut identity = vec![0.0; 400];
        (0..20).for_each(|channel| identity[channel * 21] = 1.0);
        for op in ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"] {
            let window = |node: OneNode| match op {
                "MaxPool" | "AveragePool" => node.ints("kernel_shape", &[3, 3]).ints("strides", &[2, 2]),
                _ => node,
            };
            let plain = window(OneNode::new(op, 12).input(input.clone())).run();
            let after_conv = OneNode::new("Conv", 12).input(input.clone());
            let after_conv = after_conv.constant(f32s(&[20, 20, 1, 1], &identity)).then(op);
            assert_close(&window(after_conv).run()[0], &plain[0]);
        }
    }

    #[test]
    fn indices_are_refused_by_name() {
        let node = OneNode::new("MaxPool", 12).ints("kernel_shape", &[1, 2]).another_output().input(row());
        let text = node.lower().expect_err("has no kernel").to_string();
        assert!(text.contains("Indices") && text.contains("MaxPool") && text.contains("opset 12"), "{text}");
    }
}
