//! Which stretches of instructions run in bands: the cheapest that bring the activations alive at one time to a target.
//!
//! While the worst moment needs too much, every stretch of row-wise instructions around it is tried as a chain with a
//! growing number of bands. A stretch is passed over early when what it touches whole is already too much, or when it
//! cannot be cheaper than the best found. The search is bounded by [`REACH`] instructions to each side and [`ROUNDS`].

use super::bands::Chain;
use super::rows::{self, Image};
use crate::arena;
use crate::draft::{self, Draft};
use cordon_engine::program::{Instruction, Port, Region, Via};
use core::ops::Range;

/// Instructions to either side of the worst moment that a chain may take in.
const REACH: usize = 32;
/// Chains cut one after the other.
const ROUNDS: usize = 32;
/// Less than this much better is not worth another chain.
const GAIN: f64 = 0.98;

/// Cuts chains until at most `bytes` are alive at one time, or nothing helps any more.
pub(super) fn fit(draft: &mut Draft, bytes: u64) {
    for _ in 0..ROUNDS {
        let (peak, at) = arena::peak(draft);
        if peak <= bytes || at >= draft.instructions.len() {
            return;
        }
        let search = Search::new(draft, at);
        let Some((range, bands)) = search.best(peak, bytes) else { return };
        let Some(chain) = search.chain(range.clone()) else { return };
        let mut slots = Draft { slots: draft.slots.clone(), ..Draft::default() };
        let cut = chain.cut(&mut slots, bands);
        draft.slots = slots.slots;
        draft.instructions.splice(range, cut);
    }
}

struct Search<'d> {
    draft: &'d Draft,
    images: Vec<Option<Image>>,
    touched: Vec<(usize, usize)>,
    /// Row-wise instructions without a gap around the worst moment, and that moment.
    around: Range<usize>,
    at: usize,
}

/// What a way to cut takes.
struct Found {
    range: Range<usize>,
    bands: u32,
    peak: u64,
    cost: f64,
}

impl<'d> Search<'d> {
    fn new(draft: &'d Draft, at: usize) -> Self {
        let images = rows::images(draft);
        let fits = |index: &usize| rows::is_row_wise(&draft.instructions[*index], &images);
        let before = (at.saturating_sub(REACH)..at).rev().take_while(fits).count();
        let after = (at..(at + REACH).min(draft.instructions.len())).take_while(fits).count();
        Self { draft, touched: arena::touched(draft), around: at - before..at + after, images, at }
    }

    fn chain(&self, range: Range<usize>) -> Option<Chain<'d>> {
        Chain::new(self.draft, &self.images, range, &self.touched)
    }

    /// The cheapest way to at most `target` bytes; else the way to the fewest.
    fn best(&self, peak: u64, target: u64) -> Option<(Range<usize>, u32)> {
        let mut ranges: Vec<Range<usize>> = (self.around.start..=self.at)
            .flat_map(|start| (self.at + 1..=self.around.end).map(move |end| start..end))
            .collect();
        ranges.sort_by_key(ExactSizeIterator::len);
        let mut best: Option<Found> = None;
        for range in ranges {
            let enough = best.as_ref().is_some_and(|best| best.peak <= target);
            let Some(chain) = self.chain(range.clone()) else { continue };
            let least = self.alive_across(&range) + self.whole_bytes(&chain);
            let limit = if enough { target } else { best.as_ref().map_or(peak, |best| best.peak) };
            if least > limit {
                continue;
            }
            for bands in counts(chain.rows()) {
                let found = self.measure(&chain, range.clone(), bands);
                if enough && best.as_ref().is_some_and(|best| found.cost >= best.cost) {
                    break;
                }
                let fits = found.peak <= target;
                let better = best.as_ref().is_none_or(|best| match (fits, best.peak <= target) {
                    (true, true) => found.cost < best.cost,
                    (false, false) => (found.peak, found.cost) < (best.peak, best.cost),
                    (fits, _) => fits,
                });
                if better {
                    best = Some(found);
                }
                if fits {
                    break;
                }
            }
        }
        let best = best?;
        (best.peak <= target || (best.peak as f64) < peak as f64 * GAIN).then_some((best.range, best.bands))
    }

    /// Bytes alive during all of `range` that nothing in it touches.
    fn alive_across(&self, range: &Range<usize>) -> u64 {
        let mut own = vec![false; self.draft.slots.len()];
        for instruction in &self.draft.instructions[range.clone()] {
            own[self.draft.root(instruction.out().start).0 as usize] = true;
            draft::slots_read(instruction).for_each(|slot| own[self.draft.root(slot).0 as usize] = true);
        }
        let slots = self.draft.slots.iter().zip(&self.touched).zip(own);
        slots
            .filter(|((slot, touched), own)| {
                !own && slot.within.is_none() && touched.0 < range.start && touched.1 >= range.end
            })
            .map(|((slot, _), _)| u64::from(slot.len) * u64::from(slot.dtype.bytes()))
            .sum()
    }

    /// Bytes that exist whole at the end of the chain: at least so many are alive then.
    fn whole_bytes(&self, chain: &Chain<'_>) -> u64 {
        let mut roots: Vec<u32> = chain.whole().map(|slot| self.draft.root(slot).0).collect();
        roots.sort_unstable();
        roots.dedup();
        let slots = roots.into_iter().map(|root| self.draft.slots[root as usize]);
        slots.map(|slot| u64::from(slot.len) * u64::from(slot.dtype.bytes())).sum()
    }

    fn measure(&self, chain: &Chain<'_>, range: Range<usize>, bands: u32) -> Found {
        let mut alone = Draft { slots: self.draft.slots.clone(), ..Draft::default() };
        alone.instructions = chain.cut(&mut alone, bands);
        let mut roots: Vec<u32> = chain.whole().map(|slot| self.draft.root(slot).0).collect();
        roots.sort_unstable();
        roots.dedup();
        for root in roots {
            let (first, last) = self.touched[root as usize];
            let is_input = self.draft.inputs.iter().any(|port| port.region.start == root);
            if first < range.start || is_input {
                alone.inputs.push(self.port(root));
            }
            if last >= range.end {
                alone.outputs.push(self.port(root));
            }
        }
        let peak = arena::peak(&alone).0 + self.alive_across(&range);
        Found { cost: cost(&alone.instructions), range, bands, peak }
    }

    fn port(&self, slot: u32) -> Port {
        let of = self.draft.slots[slot as usize];
        let region = Region { dtype: of.dtype, start: slot, len: of.len };
        Port { value: 0, shape: vec![region.len], region, via: Via::Cross }
    }
}

/// Numbers of bands worth trying for so many rows, rising: from halves to one row at a time.
fn counts(rows: u32) -> impl Iterator<Item = u32> {
    let powers = (0..rows.max(1).ilog2()).rev().map(|power| 1u32 << power);
    let sizes = powers.flat_map(|size| [size + size / 2, size]).filter(move |&size| size < rows);
    let mut last = 1;
    sizes.map(move |size| rows.div_ceil(size)).filter(move |&bands| core::mem::replace(&mut last, bands) < bands)
}

/// What running these instructions takes beyond their arithmetic, which cutting does not change, in bytes moved: copies
/// move each element twice, weights that stream are decrypted at a tenth of that speed, and every instruction and its
/// place in the tables costs about as much as a few KiB.
fn cost(instructions: &[Instruction]) -> f64 {
    let one = |instruction: &Instruction| {
        let weights: u64 = instruction.tiles().map(|tile| u64::from(tile.len) * 4).sum();
        let copy = if let Instruction::Copy { geometry, .. } = instruction { geometry.len() } else { None };
        (10 * weights + 8 * copy.unwrap_or(0) + 4096) as f64
    };
    instructions.iter().map(one).sum()
}
