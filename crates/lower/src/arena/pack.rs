//! Packing: buffers with lifetimes → offsets.
//!
//! Greedy placement at the lowest free offset, in several orders, keeping the best.

use super::Buffer;

/// Offsets of `members` and the elements they take together.
pub(super) fn best_of_orders(buffers: &[Buffer], members: &[usize]) -> (Vec<u64>, u64) {
    type Key = fn(&Buffer) -> (u64, u64);
    let orders: [Key; 3] = [
        |b| (u64::MAX - b.len, b.first as u64),
        |b| (u64::MAX - b.len.saturating_mul((b.last - b.first + 1) as u64), b.first as u64),
        |b| (b.first as u64, u64::MAX - b.len),
    ];
    let mut best: Option<(Vec<u64>, u64)> = None;
    for key in orders {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| key(&buffers[members[index]]));
        let found = greedy(buffers, members, &order);
        if best.as_ref().is_none_or(|(_, total)| found.1 < *total) {
            best = Some(found);
        }
    }
    best.unwrap_or_default()
}

/// Places in the given order, each at the lowest offset free for its whole life.
fn greedy(buffers: &[Buffer], members: &[usize], order: &[usize]) -> (Vec<u64>, u64) {
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
