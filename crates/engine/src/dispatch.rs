//! One instruction becomes one kernel call. Regions and tiles become slices; everything was checked before.

use cordon_kernels::conv::Residual;
use cordon_kernels::geometry::{Strided2, UnaryOp};
use cordon_kernels::parallel::Compute;
use cordon_kernels::{cast, conv, elementwise, gemm, movement, normalize, pool, quant, reduce, winograd};

use crate::error::{EngineError, Place};
use crate::memory::{Buffers, Out, Rest};
use crate::program::{BinaryOp, DType, Instruction, Operand, Region};
use crate::value::ValueRef;
use crate::weights::Weights;

/// Runs instruction `index`, whose weight tiles are loaded.
pub(crate) fn execute(
    compute: Compute,
    index: usize,
    instruction: &Instruction,
    arena: &mut Buffers,
    weights: &Weights,
) -> Result<(), EngineError> {
    use Instruction as I;
    let set = compute.set;
    let region = instruction.out();
    let (out, rest, scratch) = arena.split(region)?;
    let from = Inputs { rest, weights, index };
    let at = Place::Instruction { index: index as u32, name: instruction.name() };
    match instruction {
        I::Conv2d { geometry, input, weight, bias, residual, activation, .. } => {
            let (input, weight, bias) = (from.f32(*input)?, from.f32(*weight)?, from.f32_option(*bias)?);
            let residual = from.residual(*residual, region)?;
            let (act, out) = (*activation, out.f32()?);
            let there = scratch.len();
            let room = instruction.scratch().filter(|&[least, _]| least as usize <= there);
            match room.and_then(|[_, most]| scratch.get_mut(..there.min(most as usize))) {
                Some(scratch) => {
                    winograd::winograd(compute, geometry, input, weight, bias, residual, act, scratch, out);
                }
                None => conv::conv2d(compute, geometry, input, weight, bias, residual, act, out),
            }
        }
        I::ConvNd { geometry, input, weight, bias, activation, .. } => {
            let (input, weight, bias) = (from.f32(*input)?, from.f32(*weight)?, from.f32_option(*bias)?);
            conv::conv_nd(set, geometry, input, weight, bias, *activation, out.f32()?);
        }
        I::Pool { geometry, input, .. } => pool::pool(compute, geometry, from.f32(*input)?, out.f32()?),
        I::Dense { geometry, input, weight, bias, residual, activation, .. } => {
            let (input, weight, bias) = (from.f32(*input)?, from.f32(*weight)?, from.f32_option(*bias)?);
            let residual = from.residual(*residual, region)?;
            gemm::dense(compute, geometry, input, weight, bias, residual, *activation, out.f32()?);
        }
        I::MatMul { geometry, a, b, .. } => gemm::matmul(compute, geometry, from.f32(*a)?, from.f32(*b)?, out.f32()?),
        I::Unary { op, input, .. } if *input == Operand::Arena(region) => {
            elementwise::unary_in_place(compute, *op, out.f32()?);
        }
        I::Unary { op, input, .. } => elementwise::unary(compute, *op, from.f32(*input)?, out.f32()?),
        I::Not { input, .. } if *input == Operand::Arena(region) => elementwise::not_in_place(out.bool()?),
        I::Not { input, .. } => elementwise::not(from.bool(*input)?, out.bool()?),
        I::Binary { op, shape, a, b, activation, .. } => {
            binary(compute, *op, shape, [*a, *b], *activation, &from, region, out)?;
        }
        I::Select { shape, cond, then, otherwise, .. } => {
            let cond = from.bool(*cond)?;
            match out {
                Out::F32(out) => elementwise::select(shape, cond, from.f32(*then)?, from.f32(*otherwise)?, out),
                Out::I64(out) => elementwise::select(shape, cond, from.i64(*then)?, from.i64(*otherwise)?, out),
                Out::Bool(out) => elementwise::select(shape, cond, from.bool(*then)?, from.bool(*otherwise)?, out),
                Out::U8(out) => elementwise::select(shape, cond, from.u8(*then)?, from.u8(*otherwise)?, out),
            }
        }
        I::Softmax { along, log, input, .. } if *input == Operand::Arena(region) => {
            normalize::softmax_in_place(compute, along, *log, out.f32()?);
        }
        I::Softmax { along, log, input, .. } => normalize::softmax(compute, along, *log, from.f32(*input)?, out.f32()?),
        I::Normalize { geometry, input, scale, bias, .. } => {
            let (scale, bias) = (from.f32_option(*scale)?, from.f32_option(*bias)?);
            if *input == Operand::Arena(region) {
                normalize::normalize_in_place(compute, geometry, scale, bias, out.f32()?);
            } else {
                normalize::normalize(compute, geometry, from.f32(*input)?, scale, bias, out.f32()?);
            }
        }
        I::Lrn { geometry, input, .. } => normalize::lrn(geometry, from.f32(*input)?, out.f32()?),
        I::Reduce { op, kept, reduced, input, .. } => match out {
            Out::F32(out) => reduce::reduce_f32(compute, *op, kept, reduced, from.f32(*input)?, out),
            Out::I64(out) => reduce::reduce_i64(*op, kept, reduced, from.i64(*input)?, out),
            Out::Bool(_) | Out::U8(_) => return Err(MISTYPED),
        },
        I::ArgMax { along, smallest, last, input, .. } => {
            reduce::argmax(along, *smallest, *last, from.f32(*input)?, out.i64()?);
        }
        I::Copy { geometry, input, .. } => match out {
            Out::F32(out) => movement::copy(compute, geometry, from.f32(*input)?, out),
            Out::I64(out) => movement::copy(compute, geometry, from.i64(*input)?, out),
            Out::Bool(out) => movement::copy(compute, geometry, from.bool(*input)?, out),
            Out::U8(out) => movement::copy(compute, geometry, from.u8(*input)?, out),
        },
        I::Fill { value, .. } => match out {
            Out::F32(out) => out.fill(f32::from_bits(*value as u32)),
            Out::I64(out) => out.fill(*value as i64),
            Out::Bool(out) | Out::U8(out) => out.fill(*value as u8),
        },
        I::Gather { along, count, data, indices, .. } => {
            let indices = from.i64(*indices)?;
            let gathered = match out {
                Out::F32(out) => movement::gather(along, *count, from.f32(*data)?, indices, out),
                Out::I64(out) => movement::gather(along, *count, from.i64(*data)?, indices, out),
                Out::Bool(out) => movement::gather(along, *count, from.bool(*data)?, indices, out),
                Out::U8(out) => movement::gather(along, *count, from.u8(*data)?, indices, out),
            };
            gathered.map_err(|_| EngineError::Data { at, rule: "an index lies outside the axis" })?;
        }
        I::Interpolate { along, count, input, lo, hi, frac, .. } => {
            let (lo, hi) = (from.i64(*lo)?, from.i64(*hi)?);
            if !movement::positions_are_valid(along, lo, hi) {
                return Err(EngineError::Data { at, rule: "a position lies outside the axis" });
            }
            movement::interpolate(along, *count, from.f32(*input)?, lo, hi, from.f32(*frac)?, out.f32()?);
        }
        I::Cast { input, .. } => match (from.any(*input)?, out) {
            (ValueRef::F32(input), Out::I64(out)) => cast::f32_to_i64(input, out),
            (ValueRef::F32(input), Out::Bool(out)) => cast::f32_to_bool(input, out),
            (ValueRef::I64(input), Out::F32(out)) => cast::i64_to_f32(input, out),
            (ValueRef::I64(input), Out::Bool(out)) => cast::i64_to_bool(input, out),
            (ValueRef::Bool(input), Out::F32(out)) => cast::bool_to_f32(input, out),
            (ValueRef::Bool(input), Out::I64(out)) => cast::bool_to_i64(input, out),
            _ => return Err(MISTYPED),
        },
        I::Quantize { scale, to, input, .. } => quant::quantize(set, *scale, *to, from.f32(*input)?, out.u8()?),
        I::Dequantize { scale, zero, input, .. } => {
            quant::dequantize(set, *scale, *zero, from.u8(*input)?, out.f32()?);
        }
        I::QConv2d { geometry, input, pad, weight, bias, scale, to, residual, .. } => {
            let (input, weight) = (from.u8(*input)?, from.u8(*weight)?);
            let (bias, scale) = (from.i64(*bias)?, from.f32(*scale)?);
            let residual = match residual {
                None => quant::Residual::None,
                Some(it) if it.from == region => quant::Residual::InPlace(it.sum),
                Some(it) => quant::Residual::Other(from.u8(it.from)?, it.sum),
            };
            quant::conv2d(compute, geometry, *pad, input, weight, bias, scale, *to, residual, out.u8()?);
        }
        I::QDense { geometry, input, weight, bias, scale, to, .. } => {
            let (input, weight) = (from.u8(*input)?, from.u8(*weight)?);
            let (bias, scale) = (from.i64(*bias)?, from.f32(*scale)?);
            quant::dense(compute, geometry, input, weight, bias, scale, *to, out.u8()?);
        }
        I::QSum { sum, a, b, .. } if *a == Operand::Arena(region) => {
            quant::sum_in_place(set, sum, from.u8(*b)?, out.u8()?);
        }
        I::QSum { sum, a, b, .. } => quant::sum(set, sum, from.u8(*a)?, from.u8(*b)?, out.u8()?),
        I::QPool { geometry, input, .. } => quant::max_pool(set, geometry, from.u8(*input)?, out.u8()?),
        I::Lookup { table, input, .. } if *input == Operand::Arena(region) => {
            quant::lookup_in_place(from.u8(*table)?, out.u8()?);
        }
        I::Lookup { table, input, .. } => quant::lookup(from.u8(*table)?, from.u8(*input)?, out.u8()?),
        I::Spill { .. } | I::Restore { .. } => return Err(EngineError::Bug("a value is moved by its steps")),
    }
    Ok(())
}

/// Broadcasting functions of two values, by element type and by which operand the output takes the place of.
#[allow(clippy::too_many_arguments, reason = "the fields of one instruction and where they lie")]
fn binary(
    compute: Compute,
    op: BinaryOp,
    shape: &Strided2,
    [a, b]: [Operand; 2],
    activation: Option<UnaryOp>,
    from: &Inputs<'_>,
    region: Region,
    out: Out<'_>,
) -> Result<(), EngineError> {
    let here = Operand::Arena(region);
    let in_place = if a == here {
        Some((elementwise::InPlace::A, b))
    } else if b == here {
        Some((elementwise::InPlace::B, a))
    } else {
        None
    };
    match (out, in_place) {
        (Out::F32(out), Some((which, other))) => {
            elementwise::binary_f32_in_place(compute, op, shape, which, from.f32(other)?, activation, out);
        }
        (Out::F32(out), None) => {
            elementwise::binary_f32(compute, op, shape, from.f32(a)?, from.f32(b)?, activation, out);
        }
        (Out::I64(out), Some((which, other))) => {
            elementwise::binary_i64_in_place(op, shape, which, from.i64(other)?, out);
        }
        (Out::I64(out), None) => elementwise::binary_i64(op, shape, from.i64(a)?, from.i64(b)?, out),
        (Out::Bool(out), Some((which, other))) if op == BinaryOp::Equal => {
            elementwise::logical_in_place(BinaryOp::Xor, shape, which, from.bool(other)?, out);
            elementwise::not_in_place(out);
        }
        (Out::Bool(out), Some((which, other))) => {
            elementwise::logical_in_place(op, shape, which, from.bool(other)?, out);
        }
        (Out::Bool(out), None) => match (from.any(a)?, from.any(b)?) {
            (ValueRef::F32(a), ValueRef::F32(b)) => elementwise::compare_f32(op, shape, a, b, out),
            (ValueRef::I64(a), ValueRef::I64(b)) => elementwise::compare_i64(op, shape, a, b, out),
            (ValueRef::Bool(a), ValueRef::Bool(b)) if op == BinaryOp::Equal => {
                elementwise::compare_bool(op, shape, a, b, out);
            }
            (ValueRef::Bool(a), ValueRef::Bool(b)) => elementwise::logical(op, shape, a, b, out),
            _ => return Err(MISTYPED),
        },
        (Out::U8(_), _) => return Err(MISTYPED),
    }
    Ok(())
}

const MISTYPED: EngineError = EngineError::Bug("a validated operand has another type");

/// What an instruction may read.
struct Inputs<'a> {
    rest: Rest<'a>,
    weights: &'a Weights,
    index: usize,
}

impl<'a> Inputs<'a> {
    fn any(&self, operand: impl Into<Operand>) -> Result<ValueRef<'a>, EngineError> {
        match operand.into() {
            Operand::Arena(region) => Ok(match region.dtype {
                DType::F32 => ValueRef::F32(self.rest.f32.get(region)?),
                DType::I64 => ValueRef::I64(self.rest.i64.get(region)?),
                DType::Bool => ValueRef::Bool(self.rest.bool.get(region)?),
                DType::U8 => ValueRef::U8(self.rest.u8.get(region)?),
            }),
            Operand::Weight(tile) => self.weights.get(self.index, tile),
        }
    }

    fn f32(&self, operand: impl Into<Operand>) -> Result<&'a [f32], EngineError> {
        if let ValueRef::F32(v) = self.any(operand)? { Ok(v) } else { Err(MISTYPED) }
    }

    fn i64(&self, operand: impl Into<Operand>) -> Result<&'a [i64], EngineError> {
        if let ValueRef::I64(v) = self.any(operand)? { Ok(v) } else { Err(MISTYPED) }
    }

    fn bool(&self, operand: impl Into<Operand>) -> Result<&'a [u8], EngineError> {
        if let ValueRef::Bool(v) = self.any(operand)? { Ok(v) } else { Err(MISTYPED) }
    }

    fn u8(&self, operand: impl Into<Operand>) -> Result<&'a [u8], EngineError> {
        if let ValueRef::U8(v) = self.any(operand)? { Ok(v) } else { Err(MISTYPED) }
    }

    fn f32_option(&self, operand: Option<impl Into<Operand>>) -> Result<Option<&'a [f32]>, EngineError> {
        operand.map(|operand| self.f32(operand)).transpose()
    }

    fn residual(&self, residual: Option<Region>, out: Region) -> Result<Residual<'a>, EngineError> {
        Ok(match residual {
            None => Residual::None,
            Some(region) if region == out => Residual::InPlace,
            Some(region) => Residual::Other(self.f32(region)?),
        })
    }
}

impl<'a> Out<'a> {
    fn f32(self) -> Result<&'a mut [f32], EngineError> {
        if let Self::F32(out) = self { Ok(out) } else { Err(MISTYPED) }
    }

    fn i64(self) -> Result<&'a mut [i64], EngineError> {
        if let Self::I64(out) = self { Ok(out) } else { Err(MISTYPED) }
    }

    fn bool(self) -> Result<&'a mut [u8], EngineError> {
        if let Self::Bool(out) = self { Ok(out) } else { Err(MISTYPED) }
    }

    fn u8(self) -> Result<&'a mut [u8], EngineError> {
        if let Self::U8(out) = self { Ok(out) } else { Err(MISTYPED) }
    }
}
