//! Sixteen integer sums, and the products of bytes they grow by: what the kernels under [`crate::quant`] compute with.
//!
//! As with [`super::Simd`], a kernel is safe code, generic over [`Dot`] and inlined whole into one function per
//! instruction set. Unlike there, all sets give the same bits.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

#[cfg(all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod"))]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_bytes;

use crate::quant::{Added, Bounds};
use crate::tile::Heights;

/// Sixteen sums of 32 bits that wrap.
pub(crate) trait Dot: Copy {
    /// Sixteen sums under way.
    type Sums: Copy;
    /// Four weights for each sum.
    type Weights: Copy;
    /// Rows of a register tile.
    const HEIGHTS: Heights;
    /// Blocks of sixteen columns of a register tile: 1 or 2.
    const BLOCKS: usize;
    /// Sums that begin with these values.
    fn start(self, values: &[i32; 16]) -> Self::Sums;
    /// Weight `j` of sum `i` is byte `4 * i + j`, signed.
    fn weights(self, bytes: &[u8; 64]) -> Self::Weights;
    /// Adds `x[0] * w[0] + … + x[3] * w[3]` to every sum; `x` is unsigned.
    fn dot(self, sums: Self::Sums, x: [u8; 4], w: Self::Weights) -> Self::Sums;
    /// Adds `x[i] * w[i]` to sum `i`; `x` is unsigned, `w` signed.
    fn multiply(self, sums: Self::Sums, x: &[u8; 16], w: &[u8; 16]) -> Self::Sums;
    /// The sums in order.
    fn finish(self, sums: Self::Sums) -> [i32; 16];
    /// [`Bounds::byte`] of every sum times its scale.
    #[inline(always)]
    fn bytes(self, sums: Self::Sums, scale: &[f32; 16], to: &Bounds) -> [u8; 16] {
        to.bytes(&self.finish(sums), scale)
    }
    /// [`Added::byte`] of every one of [`Dot::bytes`] and another.
    #[inline(always)]
    fn bytes_plus(self, sums: Self::Sums, scale: &[f32; 16], to: &Bounds, other: &[u8; 16], added: &Added) -> [u8; 16] {
        added.bytes(&self.bytes(sums, scale, to), other)
    }
    /// Runs `kernel` as a function of its own, with the features of this set.
    fn call<K: DotKernel>(self, kernel: K) -> K::Output;
}

/// Safe code to be compiled once per instruction set; `run` and all it calls must be `#[inline(always)]`.
pub(crate) trait DotKernel {
    /// What it returns.
    type Output;
    /// The computation.
    fn run<D: Dot>(self, dot: D) -> Self::Output;
}

/// Arithmetic every target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

impl Dot for Portable {
    type Sums = [i32; 16];
    type Weights = [[i16; 16]; 4];
    const HEIGHTS: Heights = Heights::new(&[1, 2]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn start(self, values: &[i32; 16]) -> [i32; 16] {
        *values
    }

    #[inline(always)]
    fn weights(self, bytes: &[u8; 64]) -> [[i16; 16]; 4] {
        core::array::from_fn(|j| core::array::from_fn(|i| i16::from(bytes[4 * i + j] as i8)))
    }

    #[inline(always)]
    fn dot(self, mut sums: [i32; 16], x: [u8; 4], w: [[i16; 16]; 4]) -> [i32; 16] {
        for j in 0..4 {
            for i in 0..16 {
                sums[i] = sums[i].wrapping_add(i32::from(x[j]) * i32::from(w[j][i]));
            }
        }
        sums
    }

    #[inline(always)]
    fn multiply(self, sums: [i32; 16], x: &[u8; 16], w: &[u8; 16]) -> [i32; 16] {
        core::array::from_fn(|i| sums[i].wrapping_add(i32::from(x[i]) * i32::from(w[i] as i8)))
    }

    #[inline(always)]
    fn finish(self, sums: [i32; 16]) -> [i32; 16] {
        sums
    }

    #[inline(never)]
    fn call<K: DotKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// Which integer instructions a [`super::KernelSet`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DotSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Madd),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(x86::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::Avx512Vnni),
    #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod"))]
    Neon(neon::Sdot),
}

impl DotSet {
    /// Every set of this CPU, slowest first, together with the widest vectors it needs, in bits.
    pub(super) fn all_available() -> impl Iterator<Item = (DotSet, u32)> {
        #[cfg(target_arch = "x86_64")]
        let found = [
            x86::Madd::detect().map(|set| (DotSet::Avx2(set), 256)),
            x86::AvxVnni::detect().map(|set| (DotSet::AvxVnni(set), 256)),
            x86::Avx512Vnni::detect().map(|set| (DotSet::Avx512Vnni(set), 512)),
        ];
        #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod"))]
        let found = [neon::Sdot::detect().map(|set| (DotSet::Neon(set), 128))];
        #[cfg(not(any(
            target_arch = "x86_64",
            all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod")
        )))]
        let found: [Option<(DotSet, u32)>; 0] = [];
        core::iter::once((DotSet::Portable, 0)).chain(found.into_iter().flatten())
    }

    /// The fastest set whose vectors are at most this wide.
    pub(super) fn widest(bits: u32) -> DotSet {
        let fitting = Self::all_available().filter(|(_, width)| *width <= bits);
        fitting.last().map_or(DotSet::Portable, |(set, _)| set)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            DotSet::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            DotSet::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            DotSet::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            DotSet::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod"))]
            DotSet::Neon(_) => "neon-dot",
        }
    }

    #[inline]
    pub(super) fn dispatch<K: DotKernel>(self, kernel: K) -> K::Output {
        match self {
            DotSet::Portable => Portable.call(kernel),
            #[cfg(target_arch = "x86_64")]
            DotSet::Avx2(set) => set.call(kernel),
            #[cfg(target_arch = "x86_64")]
            DotSet::AvxVnni(set) => set.call(kernel),
            #[cfg(target_arch = "x86_64")]
            DotSet::Avx512Vnni(set) => set.call(kernel),
            #[cfg(all(target_arch = "aarch64", target_feature = "neon", target_feature = "dotprod"))]
            DotSet::Neon(set) => set.call(kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::reference::{sum, target};
    use crate::test_support::Rng;

    /// Each operation of a set, on the corners and on seeded bytes.
    struct Check(&'static str);

    impl DotKernel for Check {
        type Output = ();

        #[inline(always)]
        fn run<D: Dot>(self, d: D) {
            let mut rng = Rng(71);
            for round in 0..2000 {
                // The first rounds are where pairs of products overflow 16 bits.
                let mut byte = |corner: u8| if round < 4 { corner } else { rng.next() as u8 };
                let (x, w): ([u8; 16], [u8; 64]) = (
                    core::array::from_fn(|_| byte(255)),
                    core::array::from_fn(|_| byte([0x80, 0x7f, 0x81, 1][round % 4])),
                );
                let start: [i32; 16] = core::array::from_fn(|i| [i32::MAX, i32::MIN, 0, -1][i % 4] ^ i as i32);
                let four = [x[0], x[1], x[2], x[3]];
                let expected = Portable.dot(start, four, Portable.weights(&w));
                assert_eq!(d.finish(d.dot(d.start(&start), four, d.weights(&w))), expected, "{} dot", self.0);
                let lanes: [u8; 16] = core::array::from_fn(|i| w[i * 3]);
                let expected: [i32; 16] =
                    core::array::from_fn(|i| start[i].wrapping_add(i32::from(x[i]) * i32::from(lanes[i] as i8)));
                assert_eq!(d.finish(d.multiply(d.start(&start), &x, &lanes)), expected, "{} multiply", self.0);
                let (to, added) = (Bounds::new(target(&mut rng)), Added::new(sum(&mut rng)));
                let scale: [f32; 16] = core::array::from_fn(|i| match (round + i) % 40 {
                    0 => f32::NAN,
                    1 => f32::NEG_INFINITY,
                    _ => rng.range(-1.0, 1.0) * 300.0 / 2f32.powi(rng.below(32) as i32),
                });
                let begun = d.start(&start);
                let expected = to.bytes(&start, &scale);
                assert_eq!(d.bytes(begun, &scale, &to), expected, "{} bytes", self.0);
                let expected = added.bytes(&expected, &x);
                assert_eq!(d.bytes_plus(begun, &scale, &to, &x, &added), expected, "{} bytes plus others", self.0);
            }
        }
    }

    #[test]
    fn every_set_computes_the_definition() {
        for (set, _) in DotSet::all_available() {
            set.dispatch(Check(set.name()));
        }
    }

    #[test]
    fn detection_agrees_with_std() {
        let names: alloc::vec::Vec<_> = DotSet::all_available().map(|(set, _)| set.name()).collect();
        assert_eq!(names.first(), Some(&"portable"));
        #[cfg(target_arch = "x86_64")]
        {
            let vnni = std::is_x86_feature_detected!("avx512vnni") && std::is_x86_feature_detected!("avx512f");
            assert_eq!(names.contains(&"avx512-vnni"), vnni);
            assert_eq!(names.contains(&"avx-vnni"), std::is_x86_feature_detected!("avxvnni"));
        }
    }
}
