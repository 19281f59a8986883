//! Axes, strides and broadcasting over extents.

/// `axis` counted from the front; `None` when out of range.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let from_front = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(from_front).ok().filter(|&axis| axis < rank)
}

/// Distinct axes counted from the front, ascending.
pub(super) fn axes(given: &[i64], rank: usize) -> Option<Vec<usize>> {
    let mut axes: Vec<usize> = given.iter().map(|&at| axis(at, rank)).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.windows(2).all(|pair| pair[0] != pair[1]).then_some(axes)
}

/// Row-major strides.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i]);
    }
    strides
}

/// Extents both operands broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| match (i + dims.len()).checked_sub(rank) {
        Some(i) => dims[i],
        None => 1,
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (1, other) | (other, 1) => Some(other),
            (x, y) if x == y => Some(x),
            _ => None,
        })
        .collect()
}

/// Maps an index into `out` to the index of the element of `dims` that is broadcast there.
pub(super) fn broadcast_from(dims: &[usize], out: &[usize]) -> impl Fn(usize) -> usize + use<> {
    let own = strides(dims);
    let skipped = out.len() - dims.len();
    let steps: Vec<usize> =
        (0..out.len()).map(|i| if i < skipped || dims[i - skipped] == 1 { 0 } else { own[i - skipped] }).collect();
    let out = out.to_vec();
    move |i| dot(i, &out, &steps)
}

/// The coordinates of row-major index `i` in `dims`, weighted by `steps`.
pub(super) fn dot(mut i: usize, dims: &[usize], steps: &[usize]) -> usize {
    let mut at = 0;
    for (dim, step) in dims.iter().zip(steps).rev() {
        at += i % dim * step;
        i /= dim;
    }
    at
}
