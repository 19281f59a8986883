//! Functions of single bytes and of pairs.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::expect_used,
        reason = "within lengths that the caller has checked: see the crate's page"
    )
)]

use super::requantise::{Added, Bounds, real};
use super::{Sum, Target};
use crate::arch::{Kernel, KernelSet, Simd};

/// `clamp(round_half_even(x / scale) + zero, lo, hi)`: ONNX's QuantizeLinear. NaN gives `lo`.
pub fn quantize(set: KernelSet, scale: f32, to: Target, input: &[f32], out: &mut [u8]) {
    assert_eq!(input.len(), out.len(), "validated: as many inputs as outputs");
    set.dispatch(Map(input, out, {
        let bounds = Bounds::new(to);
        #[inline(always)]
        move |&x: &f32| bounds.byte(x / scale)
    }));
}

/// `(x - zero) * scale`: ONNX's DequantizeLinear.
pub fn dequantize(set: KernelSet, scale: f32, zero: u8, input: &[u8], out: &mut [f32]) {
    assert_eq!(input.len(), out.len(), "validated: as many inputs as outputs");
    set.dispatch(Map(input, out, {
        #[inline(always)]
        move |&x: &u8| real(x, i32::from(zero), scale)
    }));
}

/// Any function of one byte.
pub fn lookup(table: &[u8], input: &[u8], out: &mut [u8]) {
    assert_eq!(input.len(), out.len(), "validated: as many inputs as outputs");
    let table = table.first_chunk::<256>().expect("validated: a table of 256 entries");
    input.iter().zip(out).for_each(|(&x, y)| *y = table[usize::from(x)]);
}

/// [`lookup`] in place.
pub fn lookup_in_place(table: &[u8], out: &mut [u8]) {
    let table = table.first_chunk::<256>().expect("validated: a table of 256 entries");
    out.iter_mut().for_each(|y| *y = table[usize::from(*y)]);
}

/// [`Sum`] of two values of one length.
pub fn sum(set: KernelSet, sum: &Sum, a: &[u8], b: &[u8], out: &mut [u8]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "validated: operands as long as the sum");
    let added = Added::new(*sum);
    set.dispatch(Map2(a, b, out, {
        #[inline(always)]
        move |&a: &u8, &b: &u8| added.byte(a, b)
    }));
}

/// [`sum`] where `out` holds the first operand.
pub fn sum_in_place(set: KernelSet, sum: &Sum, b: &[u8], out: &mut [u8]) {
    assert_eq!(b.len(), out.len(), "validated: operands as long as the sum");
    let added = Added::new(*sum);
    set.dispatch(MapInPlace(b, out, {
        #[inline(always)]
        move |a: u8, &b: &u8| added.byte(a, b)
    }));
}

struct Map<'a, T, U, F>(&'a [T], &'a mut [U], F);

impl<T, U, F: Fn(&T) -> U> Kernel for Map<'_, T, U, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Map(input, out, f) = self;
        input.iter().zip(out).for_each(|(x, y)| *y = f(x));
    }
}

struct Map2<'a, F>(&'a [u8], &'a [u8], &'a mut [u8], F);

impl<F: Fn(&u8, &u8) -> u8> Kernel for Map2<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Map2(a, b, out, f) = self;
        a.iter().zip(b).zip(out).for_each(|((a, b), y)| *y = f(a, b));
    }
}

struct MapInPlace<'a, F>(&'a [u8], &'a mut [u8], F);

impl<F: Fn(u8, &u8) -> u8> Kernel for MapInPlace<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let MapInPlace(b, out, f) = self;
        b.iter().zip(out).for_each(|(b, y)| *y = f(*y, b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Rng;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn there_and_back_is_the_identity_for_every_zero_point() {
        let bytes: Vec<u8> = (0..=255).collect();
        for set in KernelSet::all_available() {
            for zero in [0, 1, 127, 128, 255] {
                let (mut reals, mut back) = (vec![f32::NAN; 256], vec![0; 256]);
                dequantize(set, 0.037, zero, &bytes, &mut reals);
                let expected: Vec<f32> = (0..256).map(|x| (x - i32::from(zero)) as f32 * 0.037).collect();
                assert_eq!(reals, expected, "{}", set.name());
                quantize(set, 0.037, Target::new(zero), &reals, &mut back);
                assert_eq!(back, bytes, "{}", set.name());
            }
        }
    }

    #[test]
    fn sums_are_those_of_f64_away_from_ties_and_the_same_bits_everywhere() {
        let mut rng = Rng(72);
        let (a, b): (Vec<u8>, Vec<u8>) = (0..4099).map(|_| (rng.next() as u8, rng.next() as u8)).unzip();
        for _ in 0..20 {
            let s = Sum {
                a_scale: rng.range(0.1, 2.0),
                a_zero: rng.next() as u8,
                b_scale: rng.range(0.1, 2.0),
                b_zero: rng.next() as u8,
                to: Target { zero: rng.next() as u8, lo: 3, hi: 250 },
            };
            let mut reference = vec![0; a.len()];
            sum(KernelSet::PORTABLE, &s, &a, &b, &mut reference);
            for (i, &got) in reference.iter().enumerate() {
                let real = |x: u8, zero: u8, scale: f32| (f64::from(x) - f64::from(zero)) * f64::from(scale);
                let v = real(a[i], s.a_zero, s.a_scale) + real(b[i], s.b_zero, s.b_scale);
                let expected = (v.round_ties_even() + f64::from(s.to.zero)).clamp(3.0, 250.0);
                let tie = (v.fract().abs() - 0.5).abs() < 1e-4;
                assert!(f64::from(got) == expected || (tie && (f64::from(got) - expected).abs() <= 1.0));
            }
            for set in KernelSet::all_available() {
                let (mut out, mut in_place) = (vec![0; a.len()], a.clone());
                sum(set, &s, &a, &b, &mut out);
                sum_in_place(set, &s, &b, &mut in_place);
                assert!(out == reference && in_place == reference, "{}", set.name());
            }
        }
    }

    #[test]
    fn a_table_is_applied_byte_by_byte() {
        let table: Vec<u8> = (0..=255).map(|x: u8| x.wrapping_mul(3)).collect();
        let mut out = [0; 3];
        lookup(&table, &[0, 1, 255], &mut out);
        assert_eq!(out, [0, 3, 253]);
        lookup_in_place(&table, &mut out);
        assert_eq!(out, [0, 9, 247]);
    }
}
