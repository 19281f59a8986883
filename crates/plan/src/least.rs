//! The least secure memory that each cut can be brought to, for `inspect`.
//!
//! A side of a cut is lowered and cut as small as it can be; nothing is spilled. The more nodes are inside, the more memory
//! they take, so where both ends of a stretch of cuts need about the same, no cut between them is lowered: it is said to
//! need what the larger does.

use crate::lowered::{Cut, lower_ranges};
use crate::memory::predict;
use crate::plan::WeightFormat;
use cordon_graph::Graph;
use cordon_lower::Tiling;
use cordon_package::{Domain, Placement};
use cordon_protocol::Profile;
use core::ops::Range;

/// Most that the ends of a stretch may differ for the cuts between not to be lowered.
const SAME: f64 = 1.02;
/// The enclave everything inside is in.
const INSIDE: Placement = Placement::Secure(Domain(0));
/// Bytes of weights one instruction reads in the smallest cut.
const WEIGHTS: u64 = 256 << 10;

/// Bytes for every position 0 to the number of nodes: with everything before it inside, and with everything after it.
/// `None` where a node there cannot be, or where nothing would be inside. `secure` says which nodes can be.
pub(crate) fn least(graph: &Graph, secure: &[bool], profile: &Profile) -> [Vec<Option<u64>>; 2] {
    let count = secure.len();
    let front = secure.iter().take_while(|secure| **secure).count();
    let back = count - secure.iter().rev().take_while(|secure| **secure).count();
    let before = |cut: usize| one(graph, &[(INSIDE, 0..cut), (Placement::Normal, cut..count)], profile);
    let after = |cut: usize| one(graph, &[(Placement::Normal, 0..cut), (INSIDE, cut..count)], profile);
    [stretch(count, 1..front + 1, &before), stretch(count, back..count, &after)]
}

/// Evaluates `need` where it changes.
fn stretch(count: usize, cuts: Range<usize>, need: &dyn Fn(usize) -> Option<u64>) -> Vec<Option<u64>> {
    let mut out = vec![None; count + 1];
    let (Some(low), Some(high)) = (cuts.clone().next(), cuts.last()) else { return out };
    (out[low], out[high]) = (need(low), need(high));
    between(low, high, need, &mut out);
    out
}

fn between(low: usize, high: usize, need: &dyn Fn(usize) -> Option<u64>, out: &mut [Option<u64>]) {
    if high - low < 2 {
        return;
    }
    if let (Some(a), Some(b)) = (out[low], out[high])
        && a.max(b) as f64 <= a.min(b) as f64 * SAME
    {
        out[low + 1..high].fill(Some(a.max(b)));
        return;
    }
    let middle = low.midpoint(high);
    out[middle] = need(middle);
    between(low, middle, need, out);
    between(middle, high, need, out);
}

/// `None` when it cannot be lowered.
fn one(graph: &Graph, ranges: &[(Placement, Range<usize>)], profile: &Profile) -> Option<u64> {
    let ranges: Vec<_> = ranges.iter().filter(|(_, range)| !range.is_empty()).cloned().collect();
    let tight = Tiling { weights: Some(WEIGHTS), arena: Some(0), ..Tiling::default() };
    let (plan, _) = lower_ranges(graph, &ranges, WeightFormat::default(), &Cut::As(vec![tight]), profile).ok()?;
    let lowered: Vec<_> = plan.segments.iter().filter_map(|segment| segment.lowered.as_ref()).collect();
    predict(&lowered, Some(0), profile).ok().map(|predicted| predicted.minimum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn only_where_the_need_changes_it_is_looked_up() {
        let calls = Cell::new(0);
        let need = |cut: usize| {
            calls.set(calls.get() + 1);
            Some(if cut < 70 { 1000 } else { 3000 })
        };
        let out = stretch(100, 1..101, &need);
        assert!(calls.get() < 12, "{} calls", calls.get());
        let expected: Vec<Option<u64>> = (0..101).map(|cut| (cut > 0).then(|| need(cut).unwrap_or(0))).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn an_empty_stretch_has_no_needs() {
        assert_eq!(stretch(3, 1..1, &|_| unreachable!("no cut")), vec![None; 4]);
        assert_eq!(stretch(3, 1..2, &|cut| Some(cut as u64)), [None, Some(1), None, None]);
    }
}
