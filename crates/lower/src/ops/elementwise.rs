//! Functions of one, two or three values, element by element.

use super::{Operator, op, same_as_input};
use crate::context::{LowerCtx, Reason};
use cordon_engine::program::UnaryOp;

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[op("Relu", 6, same_as_input, |ctx| unary(ctx, UnaryOp::Relu))];

fn unary(ctx: &mut LowerCtx<'_, '_>, op: UnaryOp) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let out = ctx.unary(op, &input)?;
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s};

    #[test]
    fn relu_clamps_negatives() {
        let out = OneNode::new("Relu", 14).input(f32s(&[2, 2], &[-1.0, 0.0, 2.0, -3.0])).run();
        assert_eq!(out, vec![f32s(&[2, 2], &[0.0, 0.0, 2.0, 0.0])]);
    }
}
