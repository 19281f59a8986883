//! What the unit tests share: seeded numbers and a comparison that says where and by how much.

use crate::KernelSet;
use crate::parallel::{Parallel, Task};
use alloc::vec::Vec;

/// One thread, that cuts whatever can be cut as if there were several.
pub(crate) struct Cuts(pub(crate) usize);

impl Parallel for Cuts {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        tasks.iter_mut().rev().for_each(|task| task());
    }

    fn worthwhile(&self) -> u64 {
        1
    }
}

/// A linear congruential generator (Knuth's MMIX constants).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }

    /// In `0..1`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32
    }

    pub(crate) fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.unit()
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// `len` numbers in `-1..1`.
    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.range(-1.0, 1.0)).collect()
    }
}

pub(crate) fn len(length: Option<u64>) -> usize {
    usize::try_from(length.expect("a valid shape")).unwrap()
}

pub(crate) fn sets() -> Vec<KernelSet> {
    KernelSet::all_available().collect()
}

/// Panics unless every element is within `tolerance` of the reference; NaN equals NaN, infinity itself.
pub(crate) fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let same = f64::from(g) == e || (g.is_nan() && e.is_nan());
        let close = (f64::from(g) - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(same || close, "{what}: element {i} is {g}, expected {e}");
    }
}

/// `(n, c, inner)` to `(n, ceil(c / 16), inner, 16)`.
pub(crate) fn to_blocked(plain: &[f32], n: u32, c: u32, inner: u32, garbage: f32) -> Vec<f32> {
    let (n, c, inner) = (n as usize, c as usize, inner as usize);
    let blocks = c.div_ceil(16);
    let mut out = alloc::vec![garbage; n * blocks * inner * 16];
    for image in 0..n {
        for channel in 0..c {
            for i in 0..inner {
                let at = ((image * blocks + channel / 16) * inner + i) * 16 + channel % 16;
                out[at] = plain[(image * c + channel) * inner + i];
            }
        }
    }
    out
}

/// The reverse.
pub(crate) fn from_blocked(blocked: &[f32], n: u32, c: u32, inner: u32) -> Vec<f32> {
    let (n, c, inner) = (n as usize, c as usize, inner as usize);
    let blocks = c.div_ceil(16);
    let mut out = Vec::new();
    for image in 0..n {
        for channel in 0..c {
            for i in 0..inner {
                out.push(blocked[((image * blocks + channel / 16) * inner + i) * 16 + channel % 16]);
            }
        }
    }
    out
}
