//! AVX2 with FMA and F16C, and AVX-512. The types below exist only after detection, which is what every `unsafe` here rests on.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(unsafe_code, reason = "calls into code compiled for CPU features found at run time")]

use super::{Kernel, Simd};
use crate::tile::Heights;
use core::arch::x86_64::*;

/// Proof that the CPU and the operating system support AVX2, FMA and F16C; every CPU with the first has the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// Proof that they support AVX-512F, and AVX2, FMA and F16C too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Bits of the extended control register XCR0: the register state the operating system saves.
const XCR0_SSE_AVX: u64 = 0b110;
const XCR0_AVX512: u64 = 0b1110_0000;

impl Avx2 {
    /// Asks CPUID, and XGETBV for the operating system's part.
    pub(crate) fn detect() -> Option<Avx2> {
        let leaf1 = __cpuid(1);
        let has = |word: u32, bit: u32| word & (1 << bit) != 0;
        // FMA, XSAVE, OSXSAVE, AVX, F16C.
        if __cpuid(0).eax < 7 || ![12, 26, 27, 28, 29].iter().all(|&bit| has(leaf1.ecx, bit)) {
            return None;
        }
        let avx2 = has(__cpuid_count(7, 0).ebx, 5);
        (avx2 && xcr0() & XCR0_SSE_AVX == XCR0_SSE_AVX).then_some(Avx2(()))
    }
}

impl Avx512 {
    /// Asks CPUID, and XGETBV for the operating system's part.
    pub(crate) fn detect() -> Option<Avx512> {
        Avx2::detect()?;
        let avx512f = __cpuid_count(7, 0).ebx & (1 << 16) != 0;
        (avx512f && xcr0() & XCR0_AVX512 == XCR0_AVX512).then_some(Avx512(()))
    }
}

/// The extended control register; call only after CPUID has shown OSXSAVE.
fn xcr0() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: XGETBV with index 0 is available wherever OSXSAVE is set, which the callers have checked.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the callers have seen XSAVE and OSXSAVE in CPUID.
    unsafe { read() }
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(set: Avx2, kernel: K) -> K::Output {
    kernel.run(set)
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(set: Avx512, kernel: K) -> K::Output {
    kernel.run(set)
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    // 12 accumulators, 2 registers of weights, 1 of input: 15 of 16.
    const HEIGHTS: Heights = Heights::new(&[1, 2, 3, 4, 5, 6]);
    const BLOCKS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        let v = unsafe { _mm256_set1_ps(x) };
        [v, v]
    }

    #[inline(always)]
    fn load(self, lanes: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX; both loads lie within the sixteen lanes and need no alignment.
        unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, v: [__m256; 2], lanes: &mut [f32; 16]) {
        // SAFETY: `self` proves AVX; both stores lie within the sixteen lanes and need no alignment.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; 16]) -> [__m256; 2] {
        let bytes = halves.as_flattened().as_ptr();
        // SAFETY: `self` proves F16C; both loads lie within the 32 bytes and need no alignment.
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(bytes.add(at).cast()));
            [half(0), half(16)]
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn power_of_low_bits(self, v: [__m256; 2]) -> [__m256; 2] {
        let mut power = v;
        for i in 0..2 {
            // SAFETY: `self` proves AVX2.
            power[i] = unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(v[i]));
                _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)))
            };
        }
        power
    }

    #[inline(always)]
    fn clamp(self, v: [__m256; 2], lo: [__m256; 2], hi: [__m256; 2]) -> [__m256; 2] {
        // The second operand of MAXPS and MINPS is the result when one is NaN or both are zero: the value stays.
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_min_ps(hi[0], _mm256_max_ps(lo[0], v[0])), _mm256_min_ps(hi[1], _mm256_max_ps(lo[1], v[1]))] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves FMA.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists only where the CPU has AVX2, FMA and F16C.
        unsafe { run_avx2(self, kernel) }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    // 28 accumulators, 2 registers of weights, 1 of input: 31 of 32. A row of weights serves 14 rows of input and a
    // broadcast input two blocks, so multiply-adds, not loads, are what two ports of each are short of.
    // Even shares of 7, 13, 14 and their multiples, which is what the planes of published networks are made of.
    const HEIGHTS: Heights = Heights::new(&[1, 2, 4, 6, 7, 8, 10, 13, 14]);
    const BLOCKS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, lanes: &[f32; 16]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; the load is the sixteen lanes and needs no alignment.
        unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, lanes: &mut [f32; 16]) {
        // SAFETY: `self` proves AVX-512F; the store is the sixteen lanes and needs no alignment.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) };
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: `self` proves AVX-512F, and with AVX the 256-bit load; it is the 32 bytes and needs no alignment.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn power_of_low_bits(self, v: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(v));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn clamp(self, v: __m512, lo: __m512, hi: __m512) -> __m512 {
        // The second operand is the result when one is NaN or both are zero: the value stays.
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_min_ps(hi, _mm512_max_ps(lo, v)) }
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists only where the CPU has AVX-512F, AVX2, FMA and F16C.
        unsafe { run_avx512(self, kernel) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

/// See [`super::prefetch`].
#[inline(always)]
pub(super) fn prefetch<T>(line: &T) {
    // SAFETY: every x86-64 CPU has the instruction; it reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(line).cast()) };
}

/// See [`super::sqrt`].
#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe { _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))) }
}
