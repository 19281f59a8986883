//! Packing: buffers with lifetimes → offsets.
//!
//! Greedy placement at the lowest free offset, in several orders, keeping the best. Then the buffers that reach highest are
//! placed earlier, again and again, as long as that takes no more.

use super::Buffer;

/// Comparisons of two buffers that looking for better orders may take, about.
const EFFORT: usize = 4_000_000;
/// Orders tried at most.
const ORDERS: usize = 400;

/// Offsets of buffers and the elements they take together.
type Packed = (Vec<u64>, u64);

/// Packs `members`.
pub(super) fn best_of_orders(buffers: &[Buffer], members: &[usize]) -> Packed {
    type Key = fn(&Buffer) -> (u64, u64);
    let orders: [Key; 3] = [
        |b| (u64::MAX - b.len, b.first as u64),
        |b| (u64::MAX - b.len.saturating_mul((b.last - b.first + 1) as u64), b.first as u64),
        |b| (b.first as u64, u64::MAX - b.len),
    ];
    let mut best: Option<(Vec<usize>, Packed)> = None;
    for key in orders {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| key(&buffers[members[index]]));
        let found = greedy(buffers, members, &order);
        if best.as_ref().is_none_or(|(_, (_, total))| found.1 < *total) {
            best = Some((order, found));
        }
    }
    let Some((order, found)) = best else { return Default::default() };
    improved(buffers, members, order, found)
}

/// The best of orders in which what reaches highest comes earlier.
fn improved(buffers: &[Buffer], members: &[usize], mut order: Vec<usize>, mut best: Packed) -> Packed {
    let bound = largest_live_set(buffers, members);
    let tries = (EFFORT / (members.len() * members.len()).max(1)).min(ORDERS);
    let mut offsets = best.0.clone();
    let (mut total, mut best_order) = (best.1, order.clone());
    for count in 0..tries {
        // Half a per cent is what alignment may take.
        if best.1 <= bound + bound / 200 {
            break;
        }
        let top = |&index: &usize| offsets[index] + buffers[members[index]].len == total;
        let highest: Vec<usize> = (0..order.len()).filter(|&place| top(&order[place])).collect();
        let place = highest[count % highest.len()];
        // To the front, or part of the way there.
        let to = if place == 0 { order.len() - 1 } else { place * (count % 4) / 4 };
        let moved = order.remove(place);
        order.insert(to, moved);
        (offsets, total) = greedy(buffers, members, &order);
        if total <= best.1 {
            (best, best_order) = ((offsets.clone(), total), order.clone());
        } else if total > best.1 + best.1 / 16 {
            ((offsets, total), order) = (best.clone(), best_order.clone());
        }
    }
    best
}

/// Places in the given order, each at the lowest offset free for its whole life.
fn greedy(buffers: &[Buffer], members: &[usize], order: &[usize]) -> Packed {
    let mut offsets = vec![0u64; members.len()];
    // Placed so far, sorted by offset.
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for &index in order {
        let buffer = buffers[members[index]];
        let mut offset = 0;
        for &other in &placed {
            let taken = buffers[members[other]];
            if taken.first > buffer.last || buffer.first > taken.last {
                continue;
            }
            if offset + buffer.len <= offsets[other] {
                break;
            }
            offset = offset.max(aligned(offsets[other] + taken.len));
        }
        offsets[index] = offset;
        total = total.max(offset + buffer.len);
        let position = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(position, index);
    }
    (offsets, total)
}

/// Buffers start on a multiple of 16 elements, so blocks of channels stay in one cache line.
fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(16)
}

/// Elements alive at the worst time.
pub(super) fn largest_live_set(buffers: &[Buffer], members: &[usize]) -> u64 {
    let mut events: Vec<(usize, i128)> = Vec::new();
    for &slot in members {
        let buffer = buffers[slot];
        events.push((buffer.first, i128::from(buffer.len)));
        events.push((buffer.last + 1, -i128::from(buffer.len)));
    }
    // At one time, ends come before starts: negative first.
    events.sort_unstable();
    let (mut live, mut most) = (0i128, 0i128);
    for (_, change) in events {
        live += change;
        most = most.max(live);
    }
    u64::try_from(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_engine::program::DType;

    #[test]
    fn buffers_alive_together_never_overlap_and_orders_are_improved() {
        let mut state = 7u64;
        let mut next = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut gained = 0;
        for _ in 0..40 {
            let buffers: Vec<Buffer> = (0..24)
                .map(|_| {
                    let first = next(20) as usize;
                    Buffer { dtype: DType::F32, len: 16 * (1 + next(40)), first, last: first + next(6) as usize }
                })
                .collect();
            let members: Vec<usize> = (0..buffers.len()).collect();
            let (offsets, total) = best_of_orders(&buffers, &members);
            for (a, b) in (0..24).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let together = buffers[a].first <= buffers[b].last && buffers[b].first <= buffers[a].last;
                let apart = offsets[a] + buffers[a].len <= offsets[b] || offsets[b] + buffers[b].len <= offsets[a];
                assert!(!together || apart, "{a} and {b}");
                assert!(offsets[a] + buffers[a].len <= total && offsets[b] + buffers[b].len <= total);
            }
            let mut order = members.clone();
            order.sort_by_key(|&index| core::cmp::Reverse(buffers[index].len));
            let one = greedy(&buffers, &members, &order).1;
            assert!(total <= one && total >= largest_live_set(&buffers, &members));
            gained += usize::from(total < one);
        }
        assert!(gained > 10, "{gained} of 40");
    }
}
