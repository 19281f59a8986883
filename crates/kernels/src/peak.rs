//! The ceiling of a kernel set on this CPU: multiply-adds on registers alone. For reports that relate a kernel's speed to
//! it; no kernel calls it.

use crate::arch::{Kernel, KernelSet, Simd};
use core::hint::black_box;

/// How many independent chains of sixteen lanes [`multiply_adds`] can keep going. Too few leave the units idle, too many
/// leave the registers; the ceiling is the best of all.
pub const CHAINS: [usize; 5] = [2, 4, 6, 10, 14];

/// Extends `chains` accumulators (one of [`CHAINS`], else two) by `rounds` multiply-adds each, and returns the
/// floating-point operations that took: two for each lane. The caller holds the clock.
pub fn multiply_adds(set: KernelSet, chains: usize, rounds: u64) -> u64 {
    set.dispatch(MultiplyAdds { chains, rounds })
}

struct MultiplyAdds {
    chains: usize,
    rounds: u64,
}

impl Kernel for MultiplyAdds {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u64 {
        let chains = match self.chains {
            4 => extend::<S, 4>(s, self.rounds),
            6 => extend::<S, 6>(s, self.rounds),
            10 => extend::<S, 10>(s, self.rounds),
            14 => extend::<S, 14>(s, self.rounds),
            _ => extend::<S, 2>(s, self.rounds),
        };
        chains * self.rounds * 16 * 2
    }
}

/// Returns `N`.
#[inline(always)]
fn extend<S: Simd, const N: usize>(s: S, rounds: u64) -> u64 {
    // A factor below one keeps the sums finite and normal however long they are extended.
    let (factor, step) = (s.splat(black_box(0.75)), s.splat(black_box(0.5)));
    let mut sums = [s.splat(0.0); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = s.mul_add(*sum, factor, step);
        }
    }
    let mut lanes = [0.0; 16];
    for sum in sums {
        s.store(sum, &mut lanes);
        black_box(&lanes);
    }
    N as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_for_every_set_and_chain() {
        for set in KernelSet::all_available() {
            for chains in CHAINS {
                assert_eq!(multiply_adds(set, chains, 3), 3 * 32 * chains as u64);
            }
        }
        assert_eq!(multiply_adds(KernelSet::PORTABLE, 0, 1), 64, "another number of chains means two");
    }
}
