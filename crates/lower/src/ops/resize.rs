//! Resize, Upsample and the layout changes between channels and space.

use super::Operator;

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[];
