//! Operators that address elements by index.

use super::Operator;

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[];
