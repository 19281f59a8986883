//! Max pooling of bytes. All bytes of a value share one scale, so the largest byte is the largest number.

use crate::arch::{Kernel, KernelSet, Simd};
use crate::geometry::{Pool, PoolKind};
use crate::pool::planes;

/// `geometry.kind` is `Max`; `input` holds [`Pool::input_len`] bytes, `out` [`Pool::output_len`]. Padding never wins; a
/// window without a tap inside gives 0, the smallest byte.
pub fn max_pool(set: KernelSet, geometry: &Pool, input: &[u8], out: &mut [u8]) {
    assert!(geometry.is_valid() && geometry.kind == PoolKind::Max, "validated: a max pooling");
    assert_eq!(Some(input.len() as u64), geometry.input_len(), "validated: pool's input length");
    assert_eq!(Some(out.len() as u64), geometry.output_len(), "validated: pool's output length");
    set.dispatch(MaxPool { geometry, input, out });
}

struct MaxPool<'a> {
    geometry: &'a Pool,
    input: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for MaxPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Nothing is below the byte 0.
        match self.geometry.lanes {
            1 => planes::<u8, 1>(self.geometry, self.input, self.out, 0, u8::max, |x, _, _| x),
            _ => planes::<u8, 16>(self.geometry, self.input, self.out, 0, u8::max, |x, _, _| x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Axis;
    use crate::test_support::{Rng, len};
    use alloc::vec;
    use alloc::vec::Vec;

    /// The same shape over the same numbers as `f32` is the reference: bytes are exact in it.
    #[test]
    fn agrees_with_the_f32_kernel() {
        let mut rng = Rng(73);
        for _ in 0..200 {
            let axes = [(); 3].map(|()| {
                let mut below = |bound: usize| rng.below(bound) as u32;
                let (input, kernel) = (1 + below(8), 1 + below(4));
                let (stride, dilation) = (1 + below(3), 1 + below(3));
                Axis { input, output: 1 + below(5), kernel, stride, dilation, pad_begin: below(3), pad_end: below(3) }
            });
            let g = Pool { kind: PoolKind::Max, planes: 1 + rng.below(3) as u32, lanes: [1, 16][rng.below(2)], axes };
            let input: Vec<u8> = (0..len(g.input_len())).map(|_| rng.next() as u8).collect();
            let reals: Vec<f32> = input.iter().map(|&x| f32::from(x)).collect();
            let mut expected = vec![0.0; len(g.output_len())];
            crate::pool::pool(KernelSet::PORTABLE.into(), &g, &reals, &mut expected);
            for set in KernelSet::all_available() {
                let mut out = vec![7; expected.len()];
                max_pool(set, &g, &input, &mut out);
                assert!(out.iter().zip(&expected).all(|(&x, &e)| f32::from(x) == e.max(0.0)), "{g:?}");
            }
        }
    }
}
