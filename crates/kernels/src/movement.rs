//! Copies, lookups and interpolation: kernels that move values.

use crate::geometry::{Along, StridedCopy};
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
pub fn copy<T: Copy>(geometry: &StridedCopy, input: &[T], out: &mut [T]) {
    let g = geometry;
    let stride = |k: usize, d: usize| if k == 0 { g.from_strides[d] as isize } else { g.to_strides[d] as isize };
    let walk = Walk::<2>::new(&g.dims, stride);
    let (len, [from_step, to_step]) = (walk.row_len(), walk.row_strides());
    walk.for_each_row(|[from, to]| {
        let (from, to) = (from + g.from as isize, (to + g.to as isize) as usize);
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
