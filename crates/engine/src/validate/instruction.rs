//! The shape rules of each instruction: element types, and the lengths its geometry implies. The formulas are the
//! kernels' own ([`cordon_kernels::geometry`]), so what is checked here is what they rely on.

use cordon_kernels::geometry::{Axis, BinaryOp, Conv2d, ConvNd, Pool, PoolKind, StridedCopy};
use cordon_kernels::quant::{QConv2d, Target};

use super::Checker;
use crate::error::EngineError;
use crate::program::{DType, Instruction, Operand, Region, Tile};

use DType::{Bool, F32, I64, U8};

type Result<T> = core::result::Result<T, EngineError>;

impl Checker<'_> {
    /// Checks types and lengths; returns the elementary operations the instruction takes, saturating.
    pub(super) fn shape(&self, instruction: &Instruction) -> Result<u64> {
        use Instruction as I;
        match instruction {
            I::Conv2d { geometry, input, weight, bias, residual, activation: _, out } => {
                self.conv2d_geometry(geometry)?;
                self.exact("input", *input, F32, geometry.input_len())?;
                self.exact_tile("weight", *weight, F32, geometry.weight_len())?;
                bias.map_or(Ok(()), |bias| self.exact_tile("bias", bias, F32, geometry.bias_len()))?;
                residual.map_or(Ok(()), |it| self.exact("residual", Operand::Arena(it), F32, geometry.output_len()))?;
                self.out(*out, F32, geometry.output_len())?;
                Ok(geometry.macs().unwrap_or(u64::MAX))
            }
            I::ConvNd { geometry, input, weight, bias, activation: _, out } => {
                self.conv_nd_geometry(geometry)?;
                self.exact("input", *input, F32, geometry.input_len())?;
                self.exact("weight", *weight, F32, geometry.weight_len())?;
                bias.map_or(Ok(()), |bias| self.exact_tile("bias", bias, F32, geometry.bias_len()))?;
                self.out(*out, F32, geometry.output_len())?;
                let positions = geometry.axes.map(|axis| if geometry.transposed { axis.input } else { axis.output });
                Ok(times(geometry.weight_len(), &positions).saturating_mul(geometry.n.into()))
            }
            I::Pool { geometry, input, out } => {
                self.pool_geometry(geometry)?;
                self.exact("input", *input, F32, geometry.input_len())?;
                self.out(*out, F32, geometry.output_len())?;
                Ok(times(geometry.output_len(), &geometry.axes.map(|axis| axis.kernel)))
            }
            I::Dense { geometry, input, weight, bias, residual, activation: _, out } => {
                self.exact("input", *input, F32, geometry.input_len())?;
                self.exact_tile("weight", *weight, F32, geometry.weight_len())?;
                bias.map_or(Ok(()), |bias| self.exact_tile("bias", bias, F32, geometry.bias_len()))?;
                residual.map_or(Ok(()), |it| self.exact("residual", Operand::Arena(it), F32, geometry.output_len()))?;
                self.out(*out, F32, geometry.output_len())?;
                Ok(times(geometry.weight_len(), &[geometry.m]))
            }
            I::MatMul { geometry, a, b, out } => {
                self.rule(geometry.k > 0, "geometry", "the inner extent is zero")?;
                self.holds("a", *a, F32, geometry.a_len())?;
                self.holds("b", *b, F32, geometry.b_len())?;
                self.out(*out, F32, geometry.output_len())?;
                Ok(times(geometry.output_len(), &[geometry.k]))
            }
            I::Unary { op: _, input, out } => {
                self.exact("input", *input, F32, Some(out.len.into()))?;
                self.out(*out, F32, Some(out.len.into()))
            }
            I::Not { input, out } => {
                self.exact("input", *input, Bool, Some(out.len.into()))?;
                self.out(*out, Bool, Some(out.len.into()))
            }
            I::Binary { op, shape, a, b, activation, out } => {
                let operands = self.binary_type(*op, *a)?;
                let result = if op.is_comparison() { Bool } else { operands };
                self.rule(activation.is_none() || result == F32, "activation", "the result is not f32")?;
                self.holds("a", *a, operands, shape.a_len())?;
                self.holds("b", *b, operands, shape.b_len())?;
                self.out(*out, result, shape.len())
            }
            I::Select { shape, cond, then, otherwise, out } => {
                self.holds("cond", *cond, Bool, shape.a_len())?;
                self.holds("then", *then, out.dtype, shape.b_len())?;
                self.holds("otherwise", *otherwise, out.dtype, shape.c_len())?;
                self.out(*out, out.dtype, shape.len())
            }
            I::Softmax { along, log: _, input, out } => {
                self.exact("input", *input, F32, along.len())?;
                self.out(*out, F32, along.len())
            }
            I::Normalize { geometry, input, scale, bias, out } => {
                self.rule(geometry.is_valid(), "geometry", "channels or inner extent are zero")?;
                self.exact("input", *input, F32, geometry.len())?;
                let channels = Some(geometry.channels.into());
                scale.map_or(Ok(()), |scale| self.exact("scale", scale, F32, channels))?;
                bias.map_or(Ok(()), |bias| self.exact("bias", bias, F32, channels))?;
                self.out(*out, F32, geometry.len())
            }
            I::Lrn { geometry, input, out } => {
                self.rule(geometry.size > 0, "geometry", "size is zero")?;
                self.exact("input", *input, F32, geometry.len())?;
                self.out(*out, F32, geometry.len())?;
                Ok(times(geometry.len(), &[geometry.size]))
            }
            I::Reduce { op: _, kept, reduced, input, out } => {
                self.rule(matches!(out.dtype, F32 | I64), "out", "is neither f32 nor i64")?;
                self.rule(!reduced.is_empty(), "reduced", "holds no element")?;
                let folded = self.formula("reduced", reduced.len())?;
                self.holds("input", *input, out.dtype, kept.reduction_len(reduced))?;
                self.rule(folded <= self.operand(*input).1.into(), "reduced", "folds more elements than there are")?;
                self.out(*out, out.dtype, kept.len())?;
                Ok(u64::from(out.len).saturating_mul(folded))
            }
            I::ArgMax { along, smallest: _, last: _, input, out } => {
                self.exact("input", *input, F32, along.len())?;
                self.out(*out, I64, along.resized_len(1))?;
                Ok(along.len().unwrap_or(u64::MAX))
            }
            I::Copy { geometry, input, out } => self.copy(geometry, *input, *out),
            I::Fill { value, out } => {
                let fits = match out.dtype {
                    F32 => u32::try_from(*value).is_ok(),
                    I64 => true,
                    Bool => *value <= 1,
                    U8 => u8::try_from(*value).is_ok(),
                };
                self.rule(fits, "value", "does not fit the output's type")?;
                Ok(out.len.into())
            }
            I::Gather { along, count, data, indices, out } => {
                self.exact("data", *data, out.dtype, along.len())?;
                self.exact("indices", *indices, I64, Some((*count).into()))?;
                self.out(*out, out.dtype, along.resized_len(*count))
            }
            I::Interpolate { along, count, input, lo, hi, frac, out } => {
                self.exact("input", *input, F32, along.len())?;
                self.exact_tile("lo", *lo, I64, Some((*count).into()))?;
                self.exact_tile("hi", *hi, I64, Some((*count).into()))?;
                self.exact_tile("frac", *frac, F32, Some((*count).into()))?;
                self.out(*out, F32, along.resized_len(*count))
            }
            I::Cast { input, out } => {
                let dtype = self.dtype(*input);
                self.rule(dtype != Some(out.dtype), "out", "has the input's type already")?;
                self.rule(dtype != Some(U8) && out.dtype != U8, "out", "bytes are not cast")?;
                self.rule(self.operand(*input).1 == out.len, "input", "has another length than the output")?;
                Ok(out.len.into())
            }
            I::Quantize { scale: _, to, input, out } => {
                self.target("to", to)?;
                self.exact("input", *input, F32, Some(out.len.into()))?;
                self.out(*out, U8, Some(out.len.into()))
            }
            I::Dequantize { scale: _, zero: _, input, out } => {
                self.exact("input", *input, U8, Some(out.len.into()))?;
                self.out(*out, F32, Some(out.len.into()))
            }
            I::QConv2d { geometry, input, pad: _, weight, bias, scale, to, residual, out } => {
                self.q_conv2d_geometry(geometry)?;
                self.target("to", to)?;
                self.exact("input", *input, U8, geometry.input_len())?;
                self.exact_tile("weight", *weight, U8, geometry.weight_len())?;
                self.exact_tile("bias", *bias, I64, geometry.channels_len())?;
                self.exact_tile("scale", *scale, F32, geometry.channels_len())?;
                if let Some(it) = residual {
                    self.target("residual", &it.sum.to)?;
                    self.exact("residual", Operand::Arena(it.from), U8, geometry.output_len())?;
                }
                self.out(*out, U8, geometry.output_len())?;
                Ok(geometry.macs().unwrap_or(u64::MAX))
            }
            I::QDense { geometry, input, weight, bias, scale, to, out } => {
                self.target("to", to)?;
                self.exact("input", *input, U8, geometry.input_len())?;
                self.exact_tile("weight", *weight, U8, geometry.weight_len())?;
                self.exact_tile("bias", *bias, I64, geometry.channels_len())?;
                self.exact_tile("scale", *scale, F32, geometry.channels_len())?;
                self.out(*out, U8, geometry.output_len())?;
                Ok(times(geometry.weight_len(), &[geometry.m]))
            }
            I::QSum { sum, a, b, out } => {
                self.target("sum", &sum.to)?;
                self.exact("a", *a, U8, Some(out.len.into()))?;
                self.exact("b", *b, U8, Some(out.len.into()))?;
                self.out(*out, U8, Some(out.len.into()))
            }
            I::QPool { geometry, input, out } => {
                self.pool_geometry(geometry)?;
                self.rule(geometry.kind == PoolKind::Max, "geometry", "is not a maximum")?;
                self.exact("input", *input, U8, geometry.input_len())?;
                self.out(*out, U8, geometry.output_len())?;
                Ok(times(geometry.output_len(), &geometry.axes.map(|axis| axis.kernel)))
            }
            I::Lookup { table, input, out } => {
                self.exact_tile("table", *table, U8, Some(256))?;
                self.exact("input", *input, U8, Some(out.len.into()))?;
                self.out(*out, U8, Some(out.len.into()))
            }
            I::Spill { slot: _, value: moved } | I::Restore { slot: _, out: moved } => Ok(moved.len.into()),
        }
    }

    fn q_conv2d_geometry(&self, geometry: &QConv2d) -> Result<()> {
        self.rule(geometry.is_valid(), "geometry", "is no shape this instruction can take")?;
        self.rule([geometry.y, geometry.x].iter().all(windows_fit), "geometry", "a window leaves the padded input")
    }

    fn target(&self, field: &'static str, target: &Target) -> Result<()> {
        self.rule(target.is_valid(), field, "its bounds are not in order")
    }

    fn conv2d_geometry(&self, geometry: &Conv2d) -> Result<()> {
        self.rule(geometry.is_valid(), "geometry", "is no shape this instruction can take")?;
        self.rule([geometry.y, geometry.x].iter().all(windows_fit), "geometry", "a window leaves the padded input")
    }

    fn conv_nd_geometry(&self, geometry: &ConvNd) -> Result<()> {
        self.rule(geometry.is_valid(), "geometry", "is no shape this instruction can take")?;
        let fit = geometry.transposed || geometry.axes.iter().all(windows_fit);
        self.rule(fit, "geometry", "a window leaves the padded input")
    }

    fn pool_geometry(&self, geometry: &Pool) -> Result<()> {
        self.rule(geometry.is_valid(), "geometry", "is no shape this instruction can take")?;
        // `ceil_mode` counts a last window that begins inside and ends outside; taps outside read as padding.
        let fit = geometry.axes.iter().all(|axis| axis.windows(true).is_some_and(|windows| axis.output <= windows));
        self.rule(fit, "geometry", "a window begins outside the padded input")
    }

    fn binary_type(&self, op: BinaryOp, a: Operand) -> Result<DType> {
        let dtype = self.dtype(a);
        let allowed = match dtype {
            Some(F32) => !op.is_logical(),
            Some(I64) => op.is_i64_arithmetic() || op.is_comparison(),
            Some(Bool) => op.is_logical() || op == BinaryOp::Equal,
            Some(U8) | None => false,
        };
        self.rule(allowed, "op", "is not defined for operands of this type")?;
        dtype.ok_or(EngineError::Bug("a checked operand has no type"))
    }

    fn copy(&self, geometry: &StridedCopy, input: Operand, out: Region) -> Result<u64> {
        self.rule(!geometry.is_empty(), "geometry", "holds no element")?;
        let lists_agree = geometry.dims.len() == geometry.to_strides.len();
        let distinct = geometry.dims.iter().zip(&geometry.to_strides).all(|(&dim, &stride)| dim == 1 || stride > 0);
        self.rule(lists_agree && distinct, "geometry", "an output step is zero")?;
        self.holds("input", input, out.dtype, geometry.input_len())?;
        self.holds("out", Operand::Arena(out), out.dtype, geometry.output_len())?;
        let copied = self.formula("geometry", geometry.len())?;
        self.rule(copied <= out.len.into(), "geometry", "writes an element twice")?;
        Ok(copied)
    }

    /// `operand` has this type and exactly this length.
    fn exact(&self, field: &'static str, operand: Operand, dtype: DType, len: Option<u64>) -> Result<()> {
        let needed = self.formula(field, len)?;
        let (found, len) = self.operand(operand);
        self.rule(found == Some(dtype), field, "has the wrong element type")?;
        self.rule(u64::from(len) == needed, field, "has another length than the shape implies")
    }

    fn exact_tile(&self, field: &'static str, tile: Tile, dtype: DType, len: Option<u64>) -> Result<()> {
        self.exact(field, Operand::Weight(tile), dtype, len)
    }

    /// `operand` has this type and holds every element a strided access reaches.
    fn holds(&self, field: &'static str, operand: Operand, dtype: DType, reach: Option<u64>) -> Result<()> {
        let needed = self.formula(field, reach)?;
        let (found, len) = self.operand(operand);
        self.rule(found == Some(dtype), field, "has the wrong element type")?;
        self.rule(needed > 0 && needed <= len.into(), field, "is too short for the strides")
    }

    /// The output has this type and length. Returns the length: the work of an element-wise instruction.
    fn out(&self, out: Region, dtype: DType, len: Option<u64>) -> Result<u64> {
        self.exact("out", Operand::Arena(out), dtype, len)?;
        Ok(out.len.into())
    }

    fn formula(&self, field: &'static str, len: Option<u64>) -> Result<u64> {
        len.ok_or(super::invalid(self.at, field, "the shape is malformed or overflows"))
    }
}

/// Every window of a convolution lies within input and padding.
fn windows_fit(axis: &Axis) -> bool {
    axis.windows(false).is_some_and(|windows| axis.output <= windows)
}

fn times(len: Option<u64>, factors: &[u32]) -> u64 {
    factors.iter().fold(len.unwrap_or(u64::MAX), |all, &factor| all.saturating_mul(factor.into()))
}
