//! The rules of each instruction. Those of one field, its element type and the length its geometry implies, stand with
//! the field ([`crate::program::Rule`]); those of shapes and of several fields together stand here. The formulas are the
//! kernels' own ([`cordon_kernels::geometry`]), so what is checked here is what they rely on.

use cordon_kernels::geometry::{Axis, BinaryOp, PoolKind, Strided1, StridedCopy, UnaryOp};
use cordon_kernels::quant::Target;

use super::Checker;
use crate::error::EngineError;
use crate::program::{DType, Instruction, Len, Operand, Region, Rule};

use DType::{Bool, F32, I64, U8};

type Result<T> = core::result::Result<T, EngineError>;

impl Checker<'_> {
    /// Checks shapes, types and lengths.
    pub(super) fn shape(&self, instruction: &Instruction) -> Result<()> {
        self.together(instruction)?;
        instruction.rules().try_for_each(|(field, operand, rule)| self.field(field, operand, rule))
    }

    /// Shapes, and fields that must fit each other.
    fn together(&self, instruction: &Instruction) -> Result<()> {
        use Instruction as I;
        match instruction {
            I::Conv2d { geometry: g, .. } => self.windows(g.is_valid(), &[g.y, g.x], windows_end_inside),
            I::ConvNd { geometry: g, .. } if g.transposed => self.windows(g.is_valid(), &[], windows_end_inside),
            I::ConvNd { geometry: g, .. } => self.windows(g.is_valid(), &g.axes, windows_end_inside),
            I::Pool { geometry: g, .. } => self.windows(g.is_valid(), &g.axes, windows_begin_inside),
            I::MatMul { geometry, .. } => self.rule(geometry.k > 0, "geometry", "the inner extent is zero"),
            I::Binary { op, a, b, activation, out, .. } => self.binary(*op, [*a, *b], activation.as_ref(), *out),
            I::Normalize { geometry, .. } => {
                self.rule(geometry.is_valid(), "geometry", "channels or inner extent are zero")
            }
            I::Lrn { geometry, .. } => self.rule(geometry.size > 0, "geometry", "size is zero"),
            I::Reduce { reduced, input, out, .. } => self.reduce(reduced, *input, *out),
            I::Copy { geometry, out, .. } => self.copy(geometry, *out),
            I::Fill { value, out } => self.fill(*value, out.dtype),
            I::Cast { input, out } => self.cast(*input, *out),
            I::Quantize { to, .. } | I::QDense { to, .. } => self.target("to", to),
            I::QConv2d { geometry: g, to, residual, .. } => {
                self.windows(g.is_valid(), &[g.y, g.x], windows_end_inside)?;
                self.target("to", to)?;
                residual.map_or(Ok(()), |it| self.target("residual", &it.sum.to))
            }
            I::QSum { sum, .. } => self.target("sum", &sum.to),
            I::QPool { geometry: g, .. } => {
                self.windows(g.is_valid(), &g.axes, windows_begin_inside)?;
                self.rule(g.kind == PoolKind::Max, "geometry", "is not a maximum")
            }
            I::Dense { .. }
            | I::Unary { .. }
            | I::Not { .. }
            | I::Select { .. }
            | I::Softmax { .. }
            | I::ArgMax { .. }
            | I::Gather { .. }
            | I::Interpolate { .. }
            | I::Dequantize { .. }
            | I::Lookup { .. }
            | I::Spill { .. }
            | I::Restore { .. } => Ok(()),
        }
    }

    /// The rule that stands with a field.
    fn field(&self, field: &'static str, operand: Operand, rule: Rule) -> Result<()> {
        let (dtype, len) = self.operand(operand);
        self.rule(rule.dtype.is_none() || rule.dtype == dtype, field, WRONG_TYPE)?;
        let len = u64::from(len);
        match rule.len {
            Len::Exactly(needed) => {
                self.rule(self.formula(field, needed)? == len, field, "has another length than the shape implies")
            }
            Len::Reaches(needed) => {
                let needed = self.formula(field, needed)?;
                self.rule(needed > 0 && needed <= len, field, "is too short for the strides")
            }
            Len::Any => Ok(()),
        }
    }

    /// A shape that the kernel can run, whose windows lie where ONNX puts them.
    fn windows(&self, is_valid: bool, axes: &[Axis], fit: fn(&Axis) -> bool) -> Result<()> {
        self.rule(is_valid, "geometry", "is no shape this instruction can take")?;
        self.rule(axes.iter().all(fit), "geometry", "a window leaves the padded input")
    }

    fn target(&self, field: &'static str, target: &Target) -> Result<()> {
        self.rule(target.is_valid(), field, "its bounds are not in order")
    }

    fn binary(&self, op: BinaryOp, [a, b]: [Operand; 2], activation: Option<&UnaryOp>, out: Region) -> Result<()> {
        let dtype = self.dtype(a);
        let allowed = match dtype {
            Some(F32) => !op.is_logical(),
            Some(I64) => op.is_i64_arithmetic() || op.is_comparison(),
            Some(Bool) => op.is_logical() || op == BinaryOp::Equal,
            Some(U8) | None => false,
        };
        self.rule(allowed, "op", "is not defined for operands of this type")?;
        let result = if op.is_comparison() { Some(Bool) } else { dtype };
        self.rule(activation.is_none() || result == Some(F32), "activation", "the result is not f32")?;
        self.rule(self.dtype(b) == dtype, "b", WRONG_TYPE)?;
        self.rule(Some(out.dtype) == result, "out", WRONG_TYPE)
    }

    fn reduce(&self, reduced: &Strided1, input: Operand, out: Region) -> Result<()> {
        self.rule(matches!(out.dtype, F32 | I64), "out", "is neither f32 nor i64")?;
        self.rule(!reduced.is_empty(), "reduced", "holds no element")?;
        let folded = self.formula("reduced", reduced.len())?;
        self.rule(folded <= self.operand(input).1.into(), "reduced", "folds more elements than there are")
    }

    fn copy(&self, geometry: &StridedCopy, out: Region) -> Result<()> {
        self.rule(!geometry.is_empty(), "geometry", "holds no element")?;
        let lists_agree = geometry.dims.len() == geometry.to_strides.len();
        let distinct = geometry.dims.iter().zip(&geometry.to_strides).all(|(&dim, &stride)| dim == 1 || stride > 0);
        self.rule(lists_agree && distinct, "geometry", "an output step is zero")?;
        let copied = self.formula("geometry", geometry.len())?;
        self.rule(copied <= out.len.into(), "geometry", "writes an element twice")
    }

    fn fill(&self, value: u64, dtype: DType) -> Result<()> {
        let fits = match dtype {
            F32 => u32::try_from(value).is_ok(),
            I64 => true,
            Bool => value <= 1,
            U8 => u8::try_from(value).is_ok(),
        };
        self.rule(fits, "value", "does not fit the output's type")
    }

    fn cast(&self, input: Operand, out: Region) -> Result<()> {
        let dtype = self.dtype(input);
        self.rule(dtype != Some(out.dtype), "out", "has the input's type already")?;
        self.rule(dtype != Some(U8) && out.dtype != U8, "out", "bytes are not cast")
    }

    fn formula(&self, field: &'static str, len: Option<u64>) -> Result<u64> {
        len.ok_or(super::invalid(self.at, field, "the shape is malformed or overflows"))
    }
}

/// Every window lies within input and padding.
fn windows_end_inside(axis: &Axis) -> bool {
    axis.windows(false).is_some_and(|windows| axis.output <= windows)
}

/// `ceil_mode` counts a last window that begins inside and ends outside; taps outside read as padding.
fn windows_begin_inside(axis: &Axis) -> bool {
    axis.windows(true).is_some_and(|windows| axis.output <= windows)
}

const WRONG_TYPE: &str = "has the wrong element type";
