//! How small secure segments are cut for a budget: of many ways, the fastest that fits.
//!
//! Smaller activations and tiles leave more room for resident weights and cost time elsewhere: copies between bands,
//! instructions, inputs transformed again for every stretch of output channels. [`crate::time`] predicts it all.

use crate::memory::{Predicted, predict, room};
use crate::{PlanError, spilling, time};
use cordon_lower::{Lowered, Tiling, Untiled};
use cordon_protocol::{Profile, Speed};

/// Bytes of weights per instruction that are worth trying.
const WEIGHTS: [Option<u64>; 5] = [None, Some(2 << 20), Some(1 << 20), Some(512 << 10), Some(256 << 10)];
/// Shares of the untiled activations, in thousandths, that are worth trying.
const ARENAS: [u64; 7] = [850, 700, 550, 400, 250, 150, 0];
/// What a budget leaves besides activations, in bytes, that is worth trying.
const BESIDE: [u64; 5] = [7 << 18, 3 << 19, 5 << 18, 1 << 20, 5 << 17];
/// The peak has to be known within this part of the budget: a prediction may be 5 % above what is measured, and margins take
/// up to half of that.
const KNOWN: u64 = 40;
/// The better [`Search::rank`].
const BEST: (bool, bool) = (true, true);
/// Amounts of scratch memory tried for each way to cut.
const SCRATCHES: usize = 4;

/// Segments cut for a budget, and what that takes.
#[derive(Default)]
pub(crate) struct Fitted {
    pub(crate) tilings: Vec<Tiling>,
    pub(crate) lowered: Vec<Lowered>,
    pub(crate) predicted: Predicted,
    /// Predicted time of a request over that with everything inside and nothing cut.
    pub(crate) slowdown: f64,
}

/// Cuts the secure segments for `limit`. If nothing fits, the way that needs least is returned: its minimum is above the
/// limit.
pub(crate) fn fit(segments: &[Untiled], limit: Option<u64>, profile: &Profile) -> Result<Fitted, PlanError> {
    let plain = cut(segments, &vec![Tiling::default(); segments.len()])?;
    let fastest = time::arithmetic(&plain.lowered, &profile.speed);
    let predicted = predict(&plain.lowered.iter().collect::<Vec<_>>(), limit, profile)?;
    let slowdown = (fastest + time::streaming(&predicted, &profile.speed)) / fastest;
    let whole: u64 = plain.lowered.iter().map(|lowered| lowered.arena.bytes).sum();
    let plain = Fitted { slowdown, predicted, ..plain };
    let Some(limit) = limit.filter(|&limit| plain.predicted.pieces > 0 || plain.predicted.minimum > limit) else {
        return Ok(plain);
    };
    let mut search = Search { limit, fastest, profile, best: plain };
    search.cuts(segments, None)?;
    let room = room(limit, profile);
    let tight = BESIDE.iter().map(|beside| room.saturating_sub(*beside) * 1000 / whole.max(1));
    let mut shares: Vec<u64> = tight.chain(ARENAS).filter(|&share| share < 1000).collect();
    shares.sort_unstable_by_key(|&share| core::cmp::Reverse(share));
    shares.dedup();
    for share in shares {
        search.cuts(segments, Some(share))?;
    }
    if search.best.predicted.minimum > limit {
        return spilling::last_resort(segments, limit, search.best, fastest, profile);
    }
    Ok(search.best)
}

/// Cuts the segments as a plan file says.
pub(crate) fn cut(segments: &[Untiled], tilings: &[Tiling]) -> Result<Fitted, PlanError> {
    let lowered = segments.iter().zip(tilings).map(|(segment, tiling)| segment.tile(tiling));
    let lowered = lowered.collect::<Result<Vec<_>, _>>()?;
    Ok(Fitted { tilings: tilings.to_vec(), lowered, ..Fitted::default() })
}

/// Predicted time over `fastest`.
pub(crate) fn slowdown(lowered: &[Lowered], predicted: &Predicted, fastest: f64, speed: &Speed) -> f64 {
    (time::arithmetic(lowered, speed) + time::streaming(predicted, speed) + spilling::seconds(lowered, speed)) / fastest
}

struct Search<'a> {
    limit: u64,
    profile: &'a Profile,
    /// Predicted seconds with everything inside and nothing cut.
    fastest: f64,
    best: Fitted,
}

impl Search<'_> {
    /// Tries one size of activations, in thousandths of the untiled one, with all tiles of weights.
    fn cuts(&mut self, segments: &[Untiled], share: Option<u64>) -> Result<(), PlanError> {
        let (mut banded, mut arenas) = (Vec::new(), Vec::new());
        for segment in segments {
            let arena = match share {
                Some(share) => Some(segment.tile(&Tiling::default())?.arena.bytes * share / 1000),
                None => None,
            };
            banded.push(arena.map_or_else(|| segment.clone(), |arena| segment.in_bands(arena)));
            arenas.push(arena);
        }
        for weights in WEIGHTS {
            let tilings: Vec<Tiling> = arenas.iter().map(|_| Tiling { weights, ..Tiling::default() }).collect();
            let mut tried = cut(&banded, &tilings)?;
            tried.tilings.iter_mut().zip(&arenas).for_each(|(tiling, arena)| tiling.arena = *arena);
            if self.rank(&self.best) == BEST
                && time::arithmetic(&tried.lowered, &self.profile.speed) / self.fastest >= self.best.slowdown
            {
                // With all the scratch memory it can use. Smaller tiles are no faster.
                return Ok(());
            }
            self.scratches(tried)?;
        }
        Ok(())
    }

    /// Tries amounts of scratch memory, which is one for all segments, for one way to cut.
    fn scratches(&mut self, mut tried: Fitted) -> Result<(), PlanError> {
        let mut choices: Vec<u64> = tried.lowered.iter().flat_map(Lowered::scratch_choices).collect();
        choices.sort_unstable_by_key(|&bytes| core::cmp::Reverse(bytes));
        choices.dedup();
        choices.retain(|&bytes| bytes < self.limit / 2);
        let step = choices.len().div_ceil(SCRATCHES).max(1);
        let few = choices.iter().enumerate().filter(|(index, bytes)| index % step == 0 || **bytes == 0);
        for (_, &scratch) in few {
            tried.lowered.iter_mut().for_each(|lowered| lowered.limit_scratch(scratch));
            tried.tilings.iter_mut().for_each(|tiling| tiling.scratch = Some(scratch));
            self.consider(&mut tried)?;
        }
        Ok(())
    }

    fn consider(&mut self, tried: &mut Fitted) -> Result<(), PlanError> {
        let arithmetic = time::arithmetic(&tried.lowered, &self.profile.speed);
        let best = self.rank(&self.best);
        if best == BEST && arithmetic / self.fastest >= self.best.slowdown {
            return Ok(());
        }
        tried.predicted = predict(&tried.lowered.iter().collect::<Vec<_>>(), Some(self.limit), self.profile)?;
        tried.slowdown = (arithmetic + time::streaming(&tried.predicted, &self.profile.speed)) / self.fastest;
        let better = match self.rank(tried) {
            rank if rank != best => rank > best,
            (false, _) => tried.predicted.minimum < self.best.predicted.minimum,
            _ => tried.slowdown < self.best.slowdown,
        };
        if better {
            let Fitted { tilings, lowered, predicted, slowdown } = &*tried;
            self.best = Fitted {
                tilings: tilings.clone(),
                lowered: lowered.clone(),
                predicted: *predicted,
                slowdown: *slowdown,
            };
        }
        Ok(())
    }

    /// Whether it fits, and whether its peak is known well enough to be promised.
    fn rank(&self, fitted: &Fitted) -> (bool, bool) {
        let fits = fitted.predicted.minimum <= self.limit;
        (fits, fits && fitted.predicted.spread <= self.limit / KNOWN)
    }
}
