//! The last resort where no way to cut fits: activations that wait outside, encrypted.

use crate::PlanError;
use crate::memory::predict;
use crate::tiling::{Fitted, cut, slowdown};
use cordon_lower::{Lowered, Tiling, Untiled};
use cordon_protocol::{Profile, Speed};

/// Weights per instruction and shares of the untiled activations, in percent, that are worth spilling from: where little room
/// is, small ones.
const WAYS: [(u64, u64); 4] = [(512 << 10, 25), (512 << 10, 0), (256 << 10, 25), (256 << 10, 0)];
/// Shares of what activations may take, in percent, to aim at: the planner does not always reach the largest live set,
/// and every value that leaves takes its place in the tables.
const AIMS: [u64; 3] = [98, 90, 75];

/// Seconds that spilled values add to a request.
pub(crate) fn seconds<'l>(lowered: impl IntoIterator<Item = &'l Lowered>, speed: &Speed) -> f64 {
    lowered.into_iter().map(|lowered| 2 * lowered.program.spilled_bytes()).sum::<u64>() as f64 / speed.spilled
}

/// The fastest way to spill that fits `limit`, if there is one; `best` does not fit.
pub(crate) fn last_resort(
    segments: &[Untiled],
    limit: u64,
    best: Fitted,
    fastest: f64,
    profile: &Profile,
) -> Result<Fitted, PlanError> {
    let whole = segments.iter().map(|segment| segment.tile(&Tiling::default()));
    let whole = whole.collect::<Result<Vec<_>, _>>()?;
    let mut found: Option<Fitted> = None;
    for (weights, share) in WAYS {
        let tiled: Vec<Tiling> = whole
            .iter()
            .map(|whole| whole.arena.bytes * share / 100)
            .map(|arena| Tiling { weights: Some(weights), arena: Some(arena), scratch: Some(0), spill: None })
            .collect();
        let before = cut(segments, &tiled)?;
        let minimum = predict(&before.lowered.iter().collect::<Vec<_>>(), Some(limit), profile)?.minimum;
        let arenas: u64 = before.lowered.iter().map(|lowered| lowered.arena.bytes).sum();
        let others = minimum.saturating_sub(arenas);
        let Some(room) = limit.checked_sub(others) else { continue };
        for aim in AIMS {
            let target = |lowered: &Lowered| {
                let bytes = u128::from(lowered.arena.bytes) * u128::from(room) / u128::from(arenas.max(1));
                Some(u64::try_from(bytes).unwrap_or(u64::MAX) / 100 * aim)
            };
            let tilings: Vec<Tiling> = tiled
                .iter()
                .zip(&before.lowered)
                .map(|(tiling, lowered)| Tiling { spill: target(lowered), ..*tiling })
                .collect();
            let tried = cut(segments, &tilings)?;
            // More values than may wait outside: not a way.
            let Ok(predicted) = predict(&tried.lowered.iter().collect::<Vec<_>>(), Some(limit), profile) else {
                continue;
            };
            if predicted.minimum > limit {
                continue;
            }
            let slowdown = slowdown(&tried.lowered, &predicted, fastest, &profile.speed);
            if found.as_ref().is_none_or(|found| slowdown < found.slowdown) {
                found = Some(Fitted { predicted, slowdown, ..tried });
            }
            break;
        }
    }
    Ok(found.unwrap_or(best))
}
