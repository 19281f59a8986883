//! Functions of one, two or three values, element by element.

use super::{Operator, op, same_as_input};
use crate::broadcast::broadcast_dims;
use crate::context::{LowerCtx, Reason, Val, dtype_of};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{BinaryOp, DType, Instruction, Layout, UnaryOp};
use cordon_graph::{ElemType, NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    // One value.
    op("Relu", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Relu)).elementwise().chooses(),
    op("LeakyRelu", 1, same_as_input, |ctx| {
        let alpha = ctx.view.attr_float_or("alpha", 0.01)?;
        unary(ctx, UnaryOp::LeakyRelu { alpha })
    })
    .invertible(),
    op("Clip", 1, same_as_input, clip).elementwise(),
    op("Sigmoid", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Sigmoid)).invertible().probabilities(),
    op("Tanh", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Tanh)).invertible(),
    op("HardSigmoid", 1, same_as_input, |ctx| {
        let (alpha, beta) = (ctx.view.attr_float_or("alpha", 0.2)?, ctx.view.attr_float_or("beta", 0.5)?);
        unary(ctx, UnaryOp::HardSigmoid { alpha, beta })
    })
    .elementwise()
    .probabilities(),
    op("HardSwish", 14, same_as_input, |ctx| unary(ctx, UnaryOp::HardSwish)).elementwise(),
    op("Elu", 1, same_as_input, |ctx| {
        let alpha = ctx.view.attr_float_or("alpha", 1.0)?;
        unary(ctx, UnaryOp::Elu { alpha })
    })
    .invertible(),
    op("Gelu", 20, same_as_input, |ctx| match ctx.view.attr_string_or("approximate", "none")? {
        "none" => unary(ctx, UnaryOp::Gelu),
        "tanh" => unary(ctx, UnaryOp::GeluTanh),
        other => Err(format!("approximate = \"{other}\" is not a mode of Gelu").into()),
    })
    .elementwise(),
    op("Erf", 9, same_as_input, |ctx| unary(ctx, UnaryOp::Erf)).invertible(),
    op("Softplus", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Softplus)).invertible(),
    op("Mish", 18, same_as_input, |ctx| unary(ctx, UnaryOp::Mish)).elementwise(),
    op("Sqrt", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Sqrt)).invertible(),
    op("Exp", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Exp)).invertible(),
    op("Log", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Log)).invertible(),
    op("Neg", 1, same_as_input, |ctx| signed(ctx, UnaryOp::Neg)).invertible().affine(AffineIn::All),
    op("Abs", 1, same_as_input, |ctx| signed(ctx, UnaryOp::Abs)).elementwise(),
    op("Floor", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Floor)).elementwise(),
    op("Ceil", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Ceil)).elementwise(),
    op("Round", 11, same_as_input, |ctx| unary(ctx, UnaryOp::Round)).elementwise(),
    op("Reciprocal", 1, same_as_input, |ctx| unary(ctx, UnaryOp::Reciprocal)).invertible(),
    op("Not", 1, same_as_input, not).invertible(),
    op("Identity", 1, same_as_input, identity).invertible().relabels(),
    op("Dropout", 7, dropout_shape, dropout).invertible().relabels(),
    op("Cast", 6, cast_shape, cast).elementwise(),
    op("CastLike", 15, cast_shape, cast).elementwise(),
    // Two values.
    op("Add", 7, arithmetic_shape, |ctx| arithmetic(ctx, BinaryOp::Add)).invertible().affine(AffineIn::All),
    op("Sub", 7, arithmetic_shape, |ctx| arithmetic(ctx, BinaryOp::Sub)).invertible().affine(AffineIn::All),
    op("Mul", 7, arithmetic_shape, |ctx| arithmetic(ctx, BinaryOp::Mul)).invertible().affine(AffineIn::Each),
    op("Div", 7, arithmetic_shape, |ctx| arithmetic(ctx, BinaryOp::Div)).invertible().affine(AffineIn::First),
    op("Pow", 7, arithmetic_shape, pow).elementwise(),
    op("Mod", 10, arithmetic_shape, |ctx| {
        let truncated = ctx.view.attr_int_or("fmod", 0)? != 0;
        arithmetic(ctx, if truncated { BinaryOp::Fmod } else { BinaryOp::Mod })
    })
    .elementwise(),
    op("PRelu", 7, arithmetic_shape, |ctx| arithmetic(ctx, BinaryOp::PRelu)).elementwise(),
    op("Equal", 7, comparison_shape, |ctx| compare(ctx, BinaryOp::Equal)).elementwise(),
    op("Less", 7, comparison_shape, |ctx| compare(ctx, BinaryOp::Less)).elementwise(),
    op("LessOrEqual", 12, comparison_shape, |ctx| compare(ctx, BinaryOp::LessOrEqual)).elementwise(),
    op("Greater", 7, comparison_shape, |ctx| compare(ctx, BinaryOp::Greater)).elementwise(),
    op("GreaterOrEqual", 12, comparison_shape, |ctx| compare(ctx, BinaryOp::GreaterOrEqual)).elementwise(),
    op("And", 7, comparison_shape, |ctx| arithmetic(ctx, BinaryOp::And)).elementwise(),
    op("Or", 7, comparison_shape, |ctx| arithmetic(ctx, BinaryOp::Or)).elementwise(),
    op("Xor", 7, comparison_shape, |ctx| arithmetic(ctx, BinaryOp::Xor)).invertible(),
    // Any number of values.
    op("Min", 6, variadic_shape, |ctx| variadic(ctx, BinaryOp::Min)).elementwise().chooses(),
    op("Max", 6, variadic_shape, |ctx| variadic(ctx, BinaryOp::Max)).elementwise().chooses(),
    op("Sum", 6, variadic_shape, |ctx| variadic(ctx, BinaryOp::Add)).elementwise().affine(AffineIn::All),
    op("Mean", 6, variadic_shape, mean).elementwise().affine(AffineIn::All),
    // Three values.
    op("Where", 9, where_shape, select).elementwise(),
];

fn need_f32(val: &Val) -> Result<(), Reason> {
    if val.dtype == DType::F32 { Ok(()) } else { Err("only float32 is supported in a secure segment".into()) }
}

/// Applies `op`; keeps the layout, because padding lanes may hold anything.
fn apply(ctx: &mut LowerCtx<'_, '_>, op: UnaryOp, input: &Val) -> Result<Val, Reason> {
    need_f32(input)?;
    let out = ctx.new_val(DType::F32, &input.dims, input.layout)?;
    let operand = ctx.operand(input);
    ctx.emit(Instruction::Unary { op, input: operand, out: out.region() });
    Ok(out)
}

fn unary(ctx: &mut LowerCtx<'_, '_>, op: UnaryOp) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let out = apply(ctx, op, &input)?;
    ctx.output(0, out)
}

/// Negation and absolute value, which integers have too: `0 - x` and `max(x, 0 - x)`.
fn signed(ctx: &mut LowerCtx<'_, '_>, op: UnaryOp) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    if input.dtype != DType::I64 {
        return unary(ctx, op);
    }
    let zero = ctx.constant_i64_val(&[], &[0])?;
    let negated = combine(ctx, BinaryOp::Sub, &zero, &input)?;
    let out = if op == UnaryOp::Abs { combine(ctx, BinaryOp::Max, &input, &negated)? } else { negated };
    ctx.output(0, out)
}

/// Bounds are attributes up to opset 10, optional inputs after; bounds computed at run time become Max and Min.
fn clip(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    if ctx.view.opset() < 11 {
        let lo = ctx.view.attr_float_or("min", f32::MIN)?;
        let hi = ctx.view.attr_float_or("max", f32::MAX)?;
        return unary(ctx, UnaryOp::Clip { lo, hi });
    }
    let scalar = |ctx: &LowerCtx<'_, '_>, index, absent| match (ctx.has_input(index), ctx.constant_f32(index)) {
        (false, _) => Some(absent),
        (true, Some(values)) if values.len() == 1 => Some(values[0]),
        _ => None,
    };
    let bounds = (scalar(ctx, 1, f32::NEG_INFINITY), scalar(ctx, 2, f32::INFINITY));
    if let (DType::F32, (Some(lo), Some(hi))) = (input.dtype, bounds) {
        return unary(ctx, UnaryOp::Clip { lo, hi });
    }
    let mut out = input;
    for (index, op) in [(1, BinaryOp::Max), (2, BinaryOp::Min)] {
        if let Some(bound) = ctx.optional_input(index)? {
            out = combine(ctx, op, &out, &bound)?;
        }
    }
    ctx.output(0, out)
}

fn not(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let out = invert(ctx, &input)?;
    ctx.output(0, out)
}

fn invert(ctx: &mut LowerCtx<'_, '_>, input: &Val) -> Result<Val, Reason> {
    let out = ctx.new_val(DType::Bool, &input.dims, input.layout)?;
    let operand = ctx.operand(input);
    ctx.emit(Instruction::Not { input: operand, out: out.region() });
    Ok(out)
}

fn identity(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    ctx.output(0, input)
}

fn dropout_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let data = view.input(0)?.clone();
    let mask = TensorType { elem: ElemType::Bool, dims: data.dims.clone() };
    Ok([data, mask].into_iter().take(view.outputs()).collect())
}

/// Inference only: the data passes, the mask keeps everything.
fn dropout(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    if ctx.has_input(2) {
        let training = ctx.optional_input(2)?;
        let flag = training.as_ref().and_then(Val::constant).and_then(|tensor| tensor.to_bool().ok());
        match flag.as_deref() {
            Some([false]) => {}
            Some([true]) => return Err("training mode is not inference".into()),
            _ => return Err("training_mode is computed at run time".into()),
        }
    }
    let input = ctx.input(0)?;
    if ctx.has_output(1) {
        let mask = ctx.new_val(DType::Bool, &input.dims, Layout::Plain)?;
        ctx.emit(Instruction::Fill { value: 1, out: mask.region() });
        ctx.output(1, mask)?;
    }
    ctx.output(0, input)
}

fn cast_target(view: &NodeView<'_>) -> Result<ElemType, String> {
    if view.node.op_type == "CastLike" {
        return Ok(view.input(1)?.elem);
    }
    let code = view.attr_int("to")?.ok_or("attribute `to` is missing")?;
    let elem = i32::try_from(code).ok().and_then(ElemType::from_code);
    elem.ok_or_else(|| format!("attribute `to` = {code} names no element type"))
}

fn cast_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![TensorType { elem: cast_target(view)?, dims: view.input(0)?.dims.clone() }])
}

fn cast(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let target = cast_target(&ctx.view)?;
    let dtype = dtype_of(target).ok_or_else(|| format!("a cast to {target} is not supported in a secure segment"))?;
    let input = ctx.input(0)?;
    let from = ctx.view.input(0).map_err(Reason)?.elem;
    // int32 travels as int64, so narrowing would have to wrap: only a widening or equal integer cast is a copy.
    if target == ElemType::Int32 && from == ElemType::Int64 && !input.is_constant() {
        return Err("a cast from int64 to int32 is not supported in a secure segment".into());
    }
    let out = convert(ctx, &input, dtype)?;
    ctx.output(0, out)
}

fn convert(ctx: &mut LowerCtx<'_, '_>, input: &Val, dtype: DType) -> Result<Val, Reason> {
    if input.dtype == dtype {
        return Ok(input.clone());
    }
    let out = ctx.new_val(dtype, &input.dims, input.layout)?;
    let operand = ctx.operand(input);
    ctx.emit(Instruction::Cast { input: operand, out: out.region() });
    Ok(out)
}

fn broadcast_type(view: &NodeView<'_>, elem: ElemType) -> Result<TensorType, ShapeError> {
    let mut operands = Vec::with_capacity(view.inputs());
    for index in 0..view.inputs() {
        operands.push(view.input(index)?.dims.as_slice());
    }
    let dims = broadcast_dims(operands).map_err(|reason| ShapeError::Invalid(reason.0))?;
    Ok(TensorType { elem, dims })
}

fn arithmetic_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    view.input(1)?;
    Ok(vec![broadcast_type(view, view.input(0)?.elem)?])
}

fn variadic_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![broadcast_type(view, view.input(0)?.elem)?])
}

fn comparison_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    view.input(1)?;
    Ok(vec![broadcast_type(view, ElemType::Bool)?])
}

fn where_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    view.input(2)?;
    Ok(vec![broadcast_type(view, view.input(1)?.elem)?])
}

/// Emits `op` on two values with broadcasting.
fn combine(ctx: &mut LowerCtx<'_, '_>, op: BinaryOp, a: &Val, b: &Val) -> Result<Val, Reason> {
    if a.dtype != b.dtype {
        return Err("its inputs have different types".into());
    }
    let supported = match op {
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => a.dtype == DType::Bool,
        BinaryOp::Pow | BinaryOp::PRelu => a.dtype == DType::F32,
        _ => a.dtype != DType::Bool,
    };
    if !supported {
        return Err("inputs of this type are not supported in a secure segment".into());
    }
    let comparison = matches!(
        op,
        BinaryOp::Equal | BinaryOp::Less | BinaryOp::LessOrEqual | BinaryOp::Greater | BinaryOp::GreaterOrEqual
    );
    let shape = ctx.broadcast(&[a.clone(), b.clone()])?;
    let out = ctx.new_val(if comparison { DType::Bool } else { a.dtype }, &shape.out_dims, shape.layout)?;
    ctx.emit(Instruction::Binary {
        op,
        shape: shape.strided2(),
        a: shape.operands[0],
        b: shape.operands[1],
        activation: None,
        out: out.region(),
    });
    Ok(out)
}

fn arithmetic(ctx: &mut LowerCtx<'_, '_>, op: BinaryOp) -> Result<(), Reason> {
    let (a, b) = (ctx.input(0)?, ctx.input(1)?);
    let out = combine(ctx, op, &a, &b)?;
    ctx.output(0, out)
}

/// Equality of masks is the negation of exclusive or; everything else compares numbers.
fn compare(ctx: &mut LowerCtx<'_, '_>, op: BinaryOp) -> Result<(), Reason> {
    let (a, b) = (ctx.input(0)?, ctx.input(1)?);
    let out = if a.dtype == DType::Bool && op == BinaryOp::Equal {
        let differ = combine(ctx, BinaryOp::Xor, &a, &b)?;
        invert(ctx, &differ)?
    } else {
        combine(ctx, op, &a, &b)?
    };
    ctx.output(0, out)
}

/// Squares and square roots, by far the most common powers, are exact and cheap.
fn pow(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (base, exponent) = (ctx.input(0)?, ctx.input(1)?);
    need_f32(&base)?;
    let constant = match exponent.constant() {
        Some(tensor) if exponent.count() == 1 && exponent.dims.len() <= base.dims.len() => match exponent.dtype {
            DType::F32 => tensor.to_f32()?.first().copied(),
            DType::I64 => tensor.to_i64()?.first().map(|&value| value as f32),
            DType::Bool | DType::U8 => None,
        },
        _ => None,
    };
    let out = match constant {
        Some(2.0) => combine(ctx, BinaryOp::Mul, &base, &base)?,
        Some(0.5) => apply(ctx, UnaryOp::Sqrt, &base)?,
        _ => {
            let exponent = convert(ctx, &exponent, DType::F32)?;
            combine(ctx, BinaryOp::Pow, &base, &exponent)?
        }
    };
    ctx.output(0, out)
}

fn fold_inputs(ctx: &mut LowerCtx<'_, '_>, op: BinaryOp) -> Result<Val, Reason> {
    let mut total = ctx.input(0)?;
    for index in 1..ctx.input_count() {
        let next = ctx.input(index)?;
        total = combine(ctx, op, &total, &next)?;
    }
    Ok(total)
}

fn variadic(ctx: &mut LowerCtx<'_, '_>, op: BinaryOp) -> Result<(), Reason> {
    let out = fold_inputs(ctx, op)?;
    ctx.output(0, out)
}

fn mean(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let total = fold_inputs(ctx, BinaryOp::Add)?;
    let out = match ctx.input_count() {
        1 => total,
        count => apply(ctx, UnaryOp::Affine { scale: 1.0 / count as f32, offset: 0.0 }, &total)?,
    };
    ctx.output(0, out)
}

fn select(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (cond, then, otherwise) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?);
    if cond.dtype != DType::Bool || then.dtype != otherwise.dtype {
        return Err("the condition must be bool and both branches of one type".into());
    }
    let shape = ctx.broadcast(&[cond, then.clone(), otherwise])?;
    let out = ctx.new_val(then.dtype, &shape.out_dims, shape.layout)?;
    ctx.emit(Instruction::Select {
        shape: shape.strided3(),
        cond: shape.operands[0],
        then: shape.operands[1],
        otherwise: shape.operands[2],
        out: out.region(),
    });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, bools, f32s, i64s};

    #[test]
    fn relu_clamps_negatives() {
        let out = OneNode::new("Relu", 14).input(f32s(&[2, 2], &[-1.0, 0.0, 2.0, -3.0])).run();
        assert_eq!(out, vec![f32s(&[2, 2], &[0.0, 0.0, 2.0, 0.0])]);
    }

    #[test]
    fn clip_reads_attributes_constants_and_computed_bounds() {
        let data = || f32s(&[3], &[-5.0, 0.5, 5.0]);
        let want = vec![f32s(&[3], &[-1.0, 0.5, 2.0])];
        let (lo, hi) = (f32s(&[], &[-1.0]), f32s(&[], &[2.0]));
        assert_eq!(OneNode::new("Clip", 6).float("min", -1.0).float("max", 2.0).input(data()).run(), want);
        let constants = OneNode::new("Clip", 13).input(data()).constant(lo.clone()).constant(hi.clone());
        assert_eq!(constants.run(), want);
        assert_eq!(OneNode::new("Clip", 13).input(data()).input(lo).input(hi).run(), want);
        let upper_only = OneNode::new("Clip", 13).input(data()).no_input().constant(f32s(&[], &[2.0])).run();
        assert_eq!(upper_only, vec![f32s(&[3], &[-5.0, 0.5, 2.0])]);
    }

    #[test]
    fn operands_broadcast_both_ways() {
        let out = OneNode::new("Sub", 14).input(f32s(&[2, 1], &[10.0, 20.0])).input(f32s(&[3], &[1.0, 2.0, 3.0])).run();
        assert_eq!(out, vec![f32s(&[2, 3], &[9.0, 8.0, 7.0, 19.0, 18.0, 17.0])]);
    }

    #[test]
    fn the_same_operand_twice() {
        let out = OneNode::new("Mul", 14).input(f32s(&[2], &[3.0, -4.0])).with_input(0).run();
        assert_eq!(out, vec![f32s(&[2], &[9.0, 16.0])]);
    }

    #[test]
    fn masks_are_compared_by_exclusive_or() {
        let (a, b) = (bools(&[4], &[true, true, false, false]), bools(&[4], &[true, false, true, false]));
        let out = OneNode::new("Equal", 13).input(a).input(b).run();
        assert_eq!(out, vec![bools(&[4], &[true, false, false, true])]);
    }

    #[test]
    fn integers_negate_and_lose_their_sign() {
        let data = || i64s(&[3], &[-2, 0, 7]);
        assert_eq!(OneNode::new("Neg", 13).input(data()).run(), vec![i64s(&[3], &[2, 0, -7])]);
        assert_eq!(OneNode::new("Abs", 13).input(data()).run(), vec![i64s(&[3], &[2, 0, 7])]);
    }

    #[test]
    fn power_takes_an_integer_exponent() {
        let base = || f32s(&[2], &[2.0, 3.0]);
        let run = |exponent| OneNode::new("Pow", 15).input(base()).constant(exponent).run();
        assert_eq!(run(i64s(&[], &[2])), vec![f32s(&[2], &[4.0, 9.0])]);
        let cubed = run(i64s(&[1], &[3]))[0].to_f32().expect("f32");
        assert!((cubed[0] - 8.0).abs() < 1e-5 && (cubed[1] - 27.0).abs() < 1e-4, "{cubed:?}");
    }

    #[test]
    fn where_picks_by_mask() {
        let out = OneNode::new("Where", 16)
            .input(bools(&[2, 1], &[true, false]))
            .input(f32s(&[2], &[1.0, 2.0]))
            .constant(f32s(&[], &[9.0]))
            .run();
        assert_eq!(out, vec![f32s(&[2, 2], &[1.0, 2.0, 9.0, 9.0])]);
    }

    #[test]
    fn dropout_in_training_mode_is_refused() {
        let node = || OneNode::new("Dropout", 13).input(f32s(&[2], &[1.0, 2.0])).no_input();
        assert_eq!(node().constant(bools(&[], &[false])).run(), vec![f32s(&[2], &[1.0, 2.0])]);
        let error = node().constant(bools(&[], &[true])).lower().err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("training mode")));
    }
}
