//! Copies, lookups and interpolation: kernels that move values.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::geometry::{Along, StridedCopy};
use crate::parallel::{Compute, MOVE};
use crate::strided::Walk;

/// An index outside the axis it addresses. Neither value nor position is kept: both may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOutOfRange;

impl core::fmt::Display for IndexOutOfRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("an index lies outside the axis it addresses")
    }
}

impl core::error::Error for IndexOutOfRange {}

/// Copies element by element between strided positions: transpose, slice, concatenation, expansion, layout change.
/// `input` holds [`StridedCopy::input_len`] elements at least, `out` [`StridedCopy::output_len`]; elements of `out` that
/// the geometry does not name keep their value.
pub fn copy<T: Copy + Send + Sync>(compute: Compute, geometry: &StridedCopy, input: &[T], out: &mut [T]) {
    let g = geometry;
    let stride = |k: usize, d: usize| if k == 0 { g.from_strides[d] as isize } else { g.to_strides[d] as isize };
    let walk = Walk::<2>::new(&g.dims, stride);
    let (from, to) = (g.from as isize, g.to as usize);
    let [_, turn] = walk.cut(1..1).1;
    // The turns of the outermost loop can be shared out where each writes a stretch of its own.
    let inner = walk.cut(0..1).0;
    let apart = inner.reach(1) < turn;
    if walk.len() == 0 || !apart {
        let to = to.min(out.len());
        return rows(&walk, from, input, &mut out[to..]);
    }
    let end = to + turn as usize * (walk.outer() - 1) + inner.reach(1) as usize + 1;
    compute.split(&mut out[to..end], turn as usize, walk.len() as u64 * MOVE, |turns, out| {
        let (walk, [first, _]) = walk.cut(turns);
        rows(&walk, from + first, input, out);
    });
}

/// Copies every row of `walk`, from `first` of the input on.
fn rows<T: Copy>(walk: &Walk<2>, first: isize, input: &[T], out: &mut [T]) {
    let (len, [from_step, to_step]) = (walk.row_len(), walk.row_strides());
    walk.for_each_row(|[from, to]| {
        let (from, to) = (from + first, to as usize);
        match (from_step, to_step) {
            (1, 1) => out[to..to + len].copy_from_slice(&input[from as usize..from as usize + len]),
            (0, 1) => out[to..to + len].fill(input[from as usize]),
            (_, 1) => {
                let mut at = from;
                for x in &mut out[to..to + len] {
                    *x = input[at as usize];
                    at += from_step;
                }
            }
            (1, _) => {
                let mut at = to;
                for &x in &input[from as usize..from as usize + len] {
                    out[at] = x;
                    at = at.wrapping_add_signed(to_step);
                }
            }
            _ => {
                for i in 0..len as isize {
                    out[to.wrapping_add_signed(i * to_step)] = input[(from + i * from_step) as usize];
                }
            }
        }
    });
}

/// Overwrites every element with `value`.
pub fn fill<T: Copy + Send + Sync>(compute: Compute, out: &mut [T], value: T) {
    compute.split(out, CELL, out.len() as u64 * MOVE, |_, out| out.fill(value));
}

/// Elements of no smaller part of a [`fill`].
const CELL: usize = 4096;

/// `out[o, j, i] = data[o, indices[j], i]`; negative indices count from the end. `data` holds [`Along::len`] elements,
/// `indices` `count`, `out` [`Along::resized_len`] of `count`. All indices are checked before anything is written.
pub fn gather<T: Copy>(
    along: &Along,
    count: u32,
    data: &[T],
    indices: &[i64],
    out: &mut [T],
) -> Result<(), IndexOutOfRange> {
    let (len, inner) = (along.len as usize, along.inner as usize);
    assert_eq!(indices.len(), count as usize, "validated: gather's indices");
    assert_eq!(Some(out.len() as u64), along.resized_len(count), "validated: gather's output length");
    let extent = i64::from(along.len);
    if indices.iter().any(|&index| index < -extent || index >= extent) {
        return Err(IndexOutOfRange);
    }
    if out.is_empty() {
        return Ok(());
    }
    for (slab, rows) in data.chunks_exact(len * inner).zip(out.chunks_exact_mut(count as usize * inner)) {
        for (&index, row) in indices.iter().zip(rows.chunks_exact_mut(inner)) {
            let index = (if index < 0 { index + extent } else { index }) as usize;
            row.copy_from_slice(&slab[index * inner..(index + 1) * inner]);
        }
    }
    Ok(())
}

/// Whether every position that [`interpolate`] would read lies on the axis.
pub fn positions_are_valid(along: &Along, lo: &[i64], hi: &[i64]) -> bool {
    lo.iter().chain(hi).all(|&index| (0..i64::from(along.len)).contains(&index))
}

/// `out[o, j, i] = (1 - frac[j]) * in[o, lo[j], i] + frac[j] * in[o, hi[j], i]`. `input` holds [`Along::len`] elements,
/// `lo`, `hi` and `frac` `count`, `out` [`Along::resized_len`] of `count`; positions pass [`positions_are_valid`].
pub fn interpolate(along: &Along, count: u32, input: &[f32], lo: &[i64], hi: &[i64], frac: &[f32], out: &mut [f32]) {
    let (len, inner, count) = (along.len as usize, along.inner as usize, count as usize);
    assert!(lo.len() == count && hi.len() == count && frac.len() == count, "validated: interpolation's positions");
    assert_eq!(Some(out.len() as u64), along.resized_len(count as u32), "validated: interpolation's output length");
    if out.is_empty() {
        return;
    }
    for (slab, rows) in input.chunks_exact(len * inner).zip(out.chunks_exact_mut(count * inner)) {
        let positions = lo.iter().zip(hi).zip(frac);
        for (((&lo, &hi), &frac), row) in positions.zip(rows.chunks_exact_mut(inner)) {
            let at = |index: i64| &slab[index as usize * inner..][..inner];
            for ((x, &a), &b) in row.iter_mut().zip(at(lo)).zip(at(hi)) {
                *x = (1.0 - frac) * a + frac * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn copies_of_every_stride_pattern() {
        let input: Vec<i64> = (0..60).collect();
        let strides = [vec![1, 3], vec![6, 1], vec![-7, 2], vec![0, 1], vec![5, 0], vec![-1, -10], vec![11, -3]];
        for from_strides in strides {
            for to_strides in [vec![7, 1], vec![1, 3], vec![10, 2]] {
                let g =
                    StridedCopy { dims: vec![3, 4], from: 35, from_strides: from_strides.clone(), to: 2, to_strides };
                assert!(g.input_len().is_some_and(|len| len <= 60), "{g:?}");
                let mut out = vec![-1; g.output_len().unwrap() as usize];
                let mut expected = out.clone();
                for i in 0..3i64 {
                    for j in 0..4i64 {
                        let from = 35 + i * i64::from(from_strides[0]) + j * i64::from(from_strides[1]);
                        let to = 2 + i * i64::from(g.to_strides[0]) + j * i64::from(g.to_strides[1]);
                        expected[to as usize] = input[from as usize];
                    }
                }
                copy(KernelSet::PORTABLE.into(), &g, &input, &mut out);
                assert_eq!(out, expected, "{g:?}");
            }
        }
    }

    #[test]
    fn layout_change_and_back() {
        // (1, 20, 6) to blocks and back, as the compiler emits it: whole blocks, then the rest.
        let plain: Vec<f32> = (0..120).map(|x| x as f32).collect();
        let mut blocked = vec![-1.0; 2 * 6 * 16];
        for (block, lanes) in [(0u32, 16u32), (1, 4)] {
            let dims = vec![6, lanes];
            let g = StridedCopy {
                dims,
                from: block * 96,
                from_strides: vec![1, 6],
                to: block * 96,
                to_strides: vec![16, 1],
            };
            copy(KernelSet::PORTABLE.into(), &g, &plain, &mut blocked);
        }
        assert_eq!(blocked[..192], crate::test_support::to_blocked(&plain, 1, 20, 6, -1.0));
        assert_eq!(crate::test_support::from_blocked(&blocked, 1, 20, 6), plain);
    }

    #[test]
    fn nothing_and_scalars() {
        let mut out = [5u8];
        copy(
            KernelSet::PORTABLE.into(),
            &StridedCopy { dims: vec![0, 3], from: 0, from_strides: vec![9, 9], to: 0, to_strides: vec![9, 9] },
            &[],
            &mut out,
        );
        assert_eq!(out, [5]);
        copy(KernelSet::PORTABLE.into(), &StridedCopy { from: 1, ..StridedCopy::default() }, &[1, 2], &mut out);
        assert_eq!(out, [2]);
    }

    #[test]
    fn gather_counts_from_both_ends_and_refuses_the_rest() {
        let along = Along { outer: 2, len: 3, inner: 2 };
        let data: Vec<i64> = (0..12).collect();
        let mut out = [-1; 12];
        gather(&along, 3, &data, &[2, -3, -1], &mut out).unwrap();
        assert_eq!(out, [4, 5, 0, 1, 4, 5, 10, 11, 6, 7, 10, 11]);
        for bad in [3, -4, i64::MIN, i64::MAX] {
            let mut out = [-1; 12];
            assert_eq!(gather(&along, 3, &data, &[0, 1, bad], &mut out), Err(IndexOutOfRange));
            assert_eq!(out, [-1; 12], "nothing is written before every index is checked");
        }
        assert_eq!(gather(&Along { len: 0, ..along }, 1, &[], &[0], &mut [0i64; 4]), Err(IndexOutOfRange));
        assert_eq!(gather::<i64>(&Along { len: 0, ..along }, 0, &[], &[], &mut []), Ok(()));
    }

    #[test]
    fn interpolation_mixes_two_positions() {
        let along = Along { outer: 1, len: 3, inner: 2 };
        let input = [0.0, 10.0, 2.0, 20.0, 4.0, 40.0];
        let (lo, hi, frac) = ([0, 0, 1, 2], [0, 1, 2, 2], [0.0, 0.5, 0.25, 0.75]);
        assert!(positions_are_valid(&along, &lo, &hi));
        assert!(!positions_are_valid(&along, &lo, &[3]) && !positions_are_valid(&along, &[-1], &hi));
        let mut out = [0.0; 8];
        interpolate(&along, 4, &input, &lo, &hi, &frac, &mut out);
        assert_eq!(out, [0.0, 10.0, 1.0, 15.0, 2.5, 25.0, 4.0, 40.0]);
    }
}
