//! Placeholder until its operators are written.

use super::Operator;

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[];
