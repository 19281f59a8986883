//! The one operator table: what the trusted engine runs, how each operator's shape is inferred and its node lowered, and
//! what is known of it ([`Facts`]).
//!
//! To add an operator: write its shape rule and its lowering side by side in the family file it belongs to, and add one
//! [`Operator`] line with its facts to that file's `OPERATORS`. One that only other engines run gets a line in `normal`.

mod conv;
mod elementwise;
pub mod facts;
mod gemm;
mod index;
mod movement;
mod norm;
mod normal;
mod pad;
mod pool;
mod quant;
mod reduce;
mod reshape;
mod resize;
mod window;

use crate::context::{LowerCtx, Reason};
use cordon_graph::{NodeView, ShapeError, ShapeRule, ShapeRules, TensorType};
use facts::Facts;

/// Lowers one node: reads inputs, emits instructions, binds every output.
pub type LowerFn = fn(&mut LowerCtx<'_, '_>) -> Result<(), Reason>;

/// One operator of the table.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// ONNX name.
    pub op_type: &'static str,
    /// Operator-set domain; empty for ONNX's own.
    pub domain: &'static str,
    /// First and last opset this entry serves.
    pub opsets: (i64, i64),
    /// Types of the outputs; `None` where only an engine can tell.
    pub shape: Option<ShapeRule>,
    /// `None`: the node must be placed normal.
    pub lower: Option<LowerFn>,
    /// What is known of it, at every opset.
    pub facts: Facts,
}

/// Newest opset the table was written against.
pub const MAX_OPSET: i64 = 22;

/// An operator of ONNX's own domain from opset `since` on.
pub(crate) const fn op(op_type: &'static str, since: i64, shape: ShapeRule, lower: LowerFn) -> Operator {
    op_range(op_type, (since, MAX_OPSET), shape, lower)
}

/// An operator of ONNX's own domain for a range of opsets.
pub(crate) const fn op_range(op_type: &'static str, opsets: (i64, i64), shape: ShapeRule, lower: LowerFn) -> Operator {
    Operator { op_type, domain: "", opsets, shape: Some(shape), lower: Some(lower), facts: Facts::UNKNOWN }
}

/// All families.
pub const TABLE: &[&[Operator]] = &[
    conv::OPERATORS,
    gemm::OPERATORS,
    norm::OPERATORS,
    pool::OPERATORS,
    elementwise::OPERATORS,
    movement::OPERATORS,
    reshape::OPERATORS,
    pad::OPERATORS,
    index::OPERATORS,
    quant::OPERATORS,
    reduce::OPERATORS,
    resize::OPERATORS,
    normal::OPERATORS,
];

/// Every operator the trusted engine runs.
pub fn supported() -> impl Iterator<Item = &'static Operator> {
    all().filter(|entry| entry.lower.is_some())
}

fn all() -> impl Iterator<Item = &'static Operator> {
    TABLE.iter().flat_map(|family| family.iter())
}

fn named<'a>(domain: &'a str, op_type: &'a str) -> impl Iterator<Item = &'static Operator> + 'a {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    all().filter(move |entry| entry.op_type == op_type && entry.domain == domain)
}

/// The entry for an operator of a domain at an opset.
pub fn find(domain: &str, op_type: &str, opset: i64) -> Option<&'static Operator> {
    named(domain, op_type).find(|entry| entry.opsets.0 <= opset && opset <= entry.opsets.1)
}

/// The table as shape rules for [`cordon_graph::infer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OperatorTable;

impl ShapeRules for OperatorTable {
    fn rule(&self, domain: &str, op_type: &str, opset: i64) -> Option<ShapeRule> {
        find(domain, op_type, opset)?.shape
    }
}

/// Shape rule of operators whose only output has the type of input 0.
pub(crate) fn same_as_input(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![view.input(0)?.clone()])
}

/// An axis attribute or element, negative counted from the end.
pub(crate) fn axis(value: i64, rank: usize) -> Result<usize, String> {
    let rank_signed = i64::try_from(rank).map_err(|_| "rank is too large".to_owned())?;
    let axis = if value < 0 { value + rank_signed } else { value };
    usize::try_from(axis)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| format!("axis {value} is outside a value of {rank} dimensions"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_listed_twice_for_one_opset() {
        let entries: Vec<_> = all().collect();
        for (index, a) in entries.iter().enumerate() {
            for b in &entries[index + 1..] {
                let overlap = a.opsets.0 <= b.opsets.1 && b.opsets.0 <= a.opsets.1;
                assert!(a.op_type != b.op_type || a.domain != b.domain || !overlap, "{} twice", a.op_type);
            }
        }
    }
}
