//! Which instructions a kernel is compiled for, and the sixteen-lane vector it computes with.
//!
//! A hot kernel is a value of a type that implements [`Kernel`]: safe code, generic over [`Simd`] and inlined whole into
//! one function per instruction set. Those functions, and the vector operations they inline, are the crate's only
//! `unsafe`. A [`KernelSet`] other than the portable one comes only from detection, so holding it proves that the CPU
//! has the instructions.
//!
//! The sets differ in one visible way: a fused multiply-add rounds once, the portable `a * b + c` twice. Everything that
//! is not a matrix product, a convolution, Sigmoid or Silu uses plain arithmetic and gives the same bits under every set.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

mod dot;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
mod threads;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::tile::Heights;
pub(crate) use dot::{Dot, DotKernel};
pub use threads::{Pool, Rest};

/// Sixteen lanes of `f32` and the few operations that inner products and the most frequent activations need.
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Rows of a register tile.
    const HEIGHTS: Heights;
    /// Blocks of sixteen columns of a register tile. That many times the most rows are accumulators that fit into registers
    /// beside one row of weights, and either is enough to hide the latency of multiply-adds.
    const BLOCKS: usize;
    /// Every lane `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Lanes in order.
    fn load(self, lanes: &[f32; 16]) -> Self::V;
    /// Lanes in order.
    fn store(self, v: Self::V, lanes: &mut [f32; 16]);
    /// Sixteen little-endian IEEE 754 binary16 numbers, widened exactly; a signalling NaN becomes the quiet one.
    fn load_f16(self, halves: &[[u8; 2]; 16]) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the set has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// [`crate::math::clamp`] of every lane.
    fn clamp(self, v: Self::V, lo: Self::V, hi: Self::V) -> Self::V;
    /// [`crate::math::power_of_low_bits`] of every lane.
    fn power_of_low_bits(self, v: Self::V) -> Self::V;
    /// Runs `kernel` as a function of its own, with the features of this set. Register tiles need that: inlined among
    /// others, their accumulators were seen to be spilled inside the innermost loop.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
}

/// Safe code to be compiled once per instruction set. `run` and all it calls must be `#[inline(always)]`, or the call
/// leaves the function that has the features.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The computation.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Arithmetic every target has; the compiler's autovectoriser does what it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; 16];
    const HEIGHTS: Heights = Heights::new(&[1, 2]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, lanes: &[f32; 16]) -> [f32; 16] {
        *lanes
    }

    #[inline(always)]
    fn store(self, v: [f32; 16], lanes: &mut [f32; 16]) {
        *lanes = v;
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; 16]) -> [f32; 16] {
        core::array::from_fn(|i| crate::half::to_f32(u16::from_le_bytes(halves[i])))
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn power_of_low_bits(self, v: [f32; 16]) -> [f32; 16] {
        v.map(crate::math::power_of_low_bits)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn clamp(self, v: [f32; 16], lo: [f32; 16], hi: [f32; 16]) -> [f32; 16] {
        core::array::from_fn(|i| crate::math::clamp(v[i], lo[i], hi[i]))
    }

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// A set of kernels this CPU can run. Output bits of `f32` kernels depend on it, and on nothing else; integer kernels give
/// the same bits under every set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSet(Set, dot::DotSet);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Neon(neon::Neon),
}

impl Set {
    /// Width of its vectors; integer instructions with wider ones are not used beside it.
    fn vector_bits(self) -> u32 {
        match self {
            Set::Portable => 0,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => 256,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => 512,
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Set::Neon(_) => 128,
        }
    }
}

impl KernelSet {
    /// The set every target has.
    pub const PORTABLE: KernelSet = KernelSet(Set::Portable, dot::DotSet::Portable);

    /// The fastest set of this CPU.
    pub fn detect() -> KernelSet {
        Self::all_available().last().unwrap_or(Self::PORTABLE)
    }

    /// Every set of this CPU, slowest first.
    pub fn all_available() -> impl Iterator<Item = KernelSet> {
        #[cfg(target_arch = "x86_64")]
        let found = [x86::Avx2::detect().map(Set::Avx2), x86::Avx512::detect().map(Set::Avx512)];
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        let found = [neon::Neon::detect().map(Set::Neon)];
        #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
        let found: [Option<Set>; 0] = [];
        let found = found.into_iter().flatten().map(|set| KernelSet(set, dot::DotSet::widest(set.vector_bits())));
        core::iter::once(Self::PORTABLE).chain(found)
    }

    /// Every set once with each of its integer instructions.
    #[cfg(test)]
    pub(crate) fn all_with_integers() -> impl Iterator<Item = KernelSet> {
        let with = |set: KernelSet| {
            let fits = move |(_, bits): &(dot::DotSet, u32)| *bits <= set.0.vector_bits();
            dot::DotSet::all_available().filter(fits).map(move |(dot, _)| KernelSet(set.0, dot))
        };
        Self::all_available().flat_map(with)
    }

    /// For reports: `portable`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Set::Neon(_) => "neon",
        }
    }

    /// For reports, which instructions multiply bytes: `portable`, `avx2`, `avx-vnni`, `avx512-vnni` or `neon-dot`.
    pub fn integer_name(self) -> &'static str {
        self.1.name()
    }

    /// Runs an integer kernel compiled for this set.
    #[inline]
    pub(crate) fn dispatch_integer<K: DotKernel>(self, kernel: K) -> K::Output {
        self.1.dispatch(kernel)
    }

    /// Runs `kernel` compiled for this set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => Portable.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(set) => set.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(set) => set.call(kernel),
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Set::Neon(set) => set.call(kernel),
        }
    }
}

/// Asks for a line to be in the second-level cache soon. No result depends on it.
#[inline(always)]
pub fn prefetch<T>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(line);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Square root, correctly rounded; negative gives NaN. `core` has none.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    return x86::sqrt(x);
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    return neon::sqrt(x);
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
    return libm::sqrtf(x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_agrees_with_std() {
        let names: alloc::vec::Vec<_> = KernelSet::all_available().map(KernelSet::name).collect();
        assert_eq!(names.first(), Some(&"portable"));
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c");
            assert_eq!(names.contains(&"avx2"), avx2);
            assert_eq!(names.contains(&"avx512"), std::is_x86_feature_detected!("avx512f") && avx2);
        }
        assert_eq!(KernelSet::detect().name(), *names.last().unwrap());
    }

    #[test]
    fn sqrt_is_correctly_rounded() {
        let mut rng = crate::test_support::Rng(5);
        for _ in 0..100_000 {
            let x = f32::from_bits(rng.next() as u32);
            assert!(sqrt(x) == x.sqrt() || (x.sqrt().is_nan() && sqrt(x).is_nan()), "{x}");
        }
    }
}
