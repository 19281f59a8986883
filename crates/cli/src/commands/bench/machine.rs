//! The machine's ceilings, measured here and now: what floors and shares are computed from.

use cordon_engine::KernelSet;
use cordon_kernels::peak;
use core::hint::black_box;
use core::time::Duration;
use serde_json::{Value, json};
use std::time::Instant;

/// Ceilings of some number of threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    /// The kernel set.
    pub(super) set: KernelSet,
    /// How many threads.
    pub(super) threads: usize,
    /// Floating-point operations per second, multiply-adds on registers.
    pub(super) flops: f64,
    /// Bytes read from memory per second.
    pub(super) bytes: f64,
}

impl Ceilings {
    /// Measures both; about half a second.
    pub(super) fn measure(threads: usize) -> Self {
        let set = KernelSet::detect();
        let flops = together(threads, &|| peak_flops(set));
        let bytes = together(threads, &read_bandwidth);
        Self { set, threads, flops, bytes }
    }

    /// The least time some work can take: arithmetic at the peak, or its bytes at the bandwidth if that is longer.
    pub(super) fn floor(&self, flops: u64, bytes: u64) -> Duration {
        let seconds = (flops as f64 / self.flops).max(bytes as f64 / self.bytes);
        Duration::from_secs_f64(seconds)
    }

    /// For `--json`.
    pub(super) fn as_json(&self) -> Value {
        json!({
            "cpu": cpu(),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "kernels": self.set.name(),
            "threads": self.threads,
            "peak_gflops": self.flops / 1e9,
            "read_gbytes_per_s": self.bytes / 1e9,
        })
    }
}

/// The processor as the kernel names it.
pub(super) fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().to_owned())
}

/// The sum of a rate over threads that run at the same time.
pub(super) fn together(threads: usize, rate: &(dyn Fn() -> f64 + Sync)) -> f64 {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(rate)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).sum()
    })
}

/// The best of several short runs: the ceiling is what the machine can do, not what neighbours leave.
pub(super) fn best(runs: usize, mut rate: impl FnMut(usize) -> f64) -> f64 {
    (0..runs).map(&mut rate).fold(0.0, f64::max)
}

fn peak_flops(set: KernelSet) -> f64 {
    const ROUNDS: u64 = 1_000_000;
    best(8 * peak::CHAINS.len(), |run| {
        let started = Instant::now();
        let flops = peak::multiply_adds(set, peak::CHAINS[run % peak::CHAINS.len()], ROUNDS);
        flops as f64 / started.elapsed().as_secs_f64()
    })
}

/// Reading once through more than the caches hold.
fn read_bandwidth() -> f64 {
    const BYTES: usize = 128 << 20;
    let words = vec![1u64; BYTES / 8];
    best(5, |_| {
        let started = Instant::now();
        // Sixteen sums that do not wait for each other.
        let mut sums = [0u64; 16];
        for words in words.as_chunks::<16>().0 {
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
        black_box(sums);
        BYTES as f64 / started.elapsed().as_secs_f64()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_two_floors_holds() {
        let ceilings = Ceilings { set: KernelSet::PORTABLE, threads: 1, flops: 1e9, bytes: 1e9 };
        assert_eq!(ceilings.floor(2_000_000_000, 1_000_000_000), Duration::from_secs(2));
        assert_eq!(ceilings.floor(1_000_000_000, 3_000_000_000), Duration::from_secs(3));
    }
}
