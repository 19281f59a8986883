//! Fusions over the draft.

use crate::draft::Draft;

/// Runs all of them.
pub(crate) fn run(_draft: &mut Draft) {}
