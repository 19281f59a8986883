//! Matrix products: constant packed weights ([`dense`]) and two computed values ([`matmul`]).

use crate::arch::{Kernel, KernelSet, Simd};
use crate::geometry::{Dense, MatMul, UnaryOp};
use crate::strided::Walk;
use crate::tile::{Lanes, Residual, Tiling, ZERO, accumulate, store, with_rows};
use crate::unary::Activation;

/// `input` holds [`Dense::input_len`] elements, `weight` [`Dense::weight_len`], `bias` [`Dense::bias_len`], `out` and the
/// residual [`Dense::output_len`]. Each output is `act(bias + products + residual)`.
pub fn dense(
    set: KernelSet,
    geometry: &Dense,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Residual<'_>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    let g = geometry;
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: dense's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: dense's weight length");
    assert!(bias.is_none_or(|b| Some(b.len() as u64) == g.bias_len()), "validated: dense's bias length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: dense's output length");
    let (m, k, n) = (g.m as usize, g.k as usize, g.n as usize);
    let act = Activation::new(act);
    set.dispatch(Product { set, m, k, n, input, weight: weight.as_chunks().0, bias, residual, act, out });
}

/// A batched product: `out[b, i, j] = sum over l of a[b, i, l] * b[b, l, j]` with strides for every axis of the operands.
/// `a` holds [`MatMul::a_len`] elements at least, `b` [`MatMul::b_len`], `out` exactly [`MatMul::output_len`].
pub fn matmul(set: KernelSet, geometry: &MatMul, a: &[f32], b: &[f32], out: &mut [f32]) {
    let g = geometry;
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: matmul's output length");
    let size = g.m as usize * g.n as usize;
    if size == 0 {
        return;
    }
    let walk = Walk::from_lists(&g.batch.dims, [&g.batch.a, &g.batch.b]);
    let (len, [step_a, step_b]) = (walk.row_len(), walk.row_strides());
    let mut products = out.chunks_exact_mut(size);
    walk.for_each_row(|[at_a, at_b]| {
        for (i, out) in (0..len as isize).zip(&mut products) {
            let (a, b) = (&a[(at_a + i * step_a) as usize..], &b[(at_b + i * step_b) as usize..]);
            set.dispatch(Strided { g, a, b, out });
        }
    });
}

/// Rows whose input is kept in the second-level cache while all columns pass.
const PANEL: usize = 96;

struct Product<'a> {
    set: KernelSet,
    m: usize,
    k: usize,
    n: usize,
    input: &'a [f32],
    weight: &'a [Lanes],
    bias: Option<&'a [f32]>,
    residual: Residual<'a>,
    act: Activation,
    out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let blocks = self.n.div_ceil(16);
        let tiling = Tiling::new(self.m, S::ROWS);
        // Few rows leave registers for several columns; a single pair would wait for its own sums.
        let wide = match self.m {
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let mut first = 0;
        while first < tiling.len() {
            let last = (first + PANEL / S::ROWS).min(tiling.len());
            let mut block = 0;
            while block < blocks {
                let count = if block + wide <= blocks { wide } else { 1 };
                for tile in first..last {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    match (end - start, count) {
                        (1, 4) => rows::<S, 1, 4>(s, &mut self, start, block),
                        (1, 2) => rows::<S, 1, 2>(s, &mut self, start, block),
                        (2, 2) => rows::<S, 2, 2>(s, &mut self, start, block),
                        (3, 2) if S::ROWS >= 3 => rows::<S, 3, 2>(s, &mut self, start, block),
                        (rows, _) => with_rows!(S, rows, column(s, &mut self, start, block)),
                    }
                }
                block += count;
            }
            self.act.finish(self.set, &mut self.out[tiling.start(first) * self.n..tiling.start(last) * self.n]);
            first = last;
        }
    }
}

#[inline(always)]
fn column<S: Simd, const R: usize>(s: S, p: &mut Product<'_>, row: usize, block: usize) {
    rows::<S, R, 1>(s, p, row, block);
}

/// Rows `row .. row + R` of column blocks `block .. block + B`.
#[inline(always)]
fn rows<S: Simd, const R: usize, const B: usize>(s: S, p: &mut Product<'_>, row: usize, block: usize) {
    let k = p.k;
    let weight: [&[Lanes]; B] = core::array::from_fn(|b| &p.weight[(block + b) * k..(block + b + 1) * k]);
    let rows: [(&[Lanes], &[f32]); R] =
        core::array::from_fn(|r| p.input[(row + r) * k..(row + r + 1) * k].as_chunks::<16>());
    let bias = |b: usize| p.bias.and_then(|bias| bias[(block + b) * 16..].first_chunk::<16>()).unwrap_or(&ZERO);
    let mut acc: [[S::V; R]; B] = core::array::from_fn(|b| [s.load(bias(b)); R]);
    for chunk in 0..k / 16 {
        let x = rows.map(|(whole, _)| &whole[chunk]);
        accumulate(s, &mut acc, x, weight.map(|w| &w[chunk * 16..]), 1, 16);
    }
    let rest = k % 16;
    if rest > 0 {
        let x: [Lanes; R] = rows.map(|(_, tail)| padded(tail));
        accumulate(s, &mut acc, x.each_ref(), weight.map(|w| &w[k - rest..]), 1, rest);
    }
    for b in 0..B {
        let columns = (block + b) * 16..((block + b + 1) * 16).min(p.n);
        for r in 0..R {
            let at = (row + r) * p.n + columns.start..(row + r) * p.n + columns.end;
            let (residual, in_place) = match p.residual {
                Residual::Other(values) => (Some(&values[at.clone()]), false),
                Residual::InPlace => (None, true),
                Residual::None => (None, false),
            };
            store(s.to_array(acc[b][r]), residual, in_place, &p.act, &mut p.out[at]);
        }
    }
}

#[inline(always)]
fn padded(tail: &[f32]) -> Lanes {
    let mut lanes = ZERO;
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

/// Inner elements packed at a time when an operand is not laid out as the tile wants it; the panel lies on the stack (4 KiB).
const DEPTH: usize = 64;

/// One product of strided matrices.
struct Strided<'a> {
    g: &'a MatMul,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Strided<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Strided { g, a, b, out } = self;
        let (m, k, n) = (g.m as usize, g.k as usize, g.n as usize);
        let [b_row, b_column] = g.b.map(|step| step as usize);
        let tiling = Tiling::new(m, S::ROWS);
        let mut panel = [ZERO; DEPTH];
        if k == 0 {
            out.fill(0.0);
        }
        for column in (0..n).step_by(16) {
            let columns = (n - column).min(16);
            for first in (0..k).step_by(DEPTH) {
                let depth = (k - first).min(DEPTH);
                for (l, lanes) in panel[..depth].iter_mut().enumerate() {
                    let from = &b[(first + l) * b_row + column * b_column..];
                    match from.first_chunk::<16>() {
                        Some(from) if b_column == 1 && columns == 16 => *lanes = *from,
                        _ => {
                            for (i, lane) in lanes[..columns].iter_mut().enumerate() {
                                *lane = from[i * b_column];
                            }
                        }
                    }
                }
                for tile in 0..tiling.len() {
                    let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                    let to = &mut out[start * n..end * n];
                    let (panel, at) = (&panel[..depth], Position { row: start, first, column, columns });
                    with_rows!(S, end - start, strided(s, g, a, panel, at, to));
                }
            }
        }
    }
}

/// Where a tile of a strided product lies.
#[derive(Clone, Copy)]
struct Position {
    row: usize,
    /// First inner element.
    first: usize,
    column: usize,
    columns: usize,
}

/// Extends the sums of `R` rows, which lie in `to` between panels.
#[inline(always)]
fn strided<S: Simd, const R: usize>(s: S, g: &MatMul, a: &[f32], panel: &[Lanes], at: Position, to: &mut [f32]) {
    let [a_row, a_column] = g.a.map(|step| step as usize);
    let n = g.n as usize;
    let mut acc = [[s.splat(0.0); R]];
    if at.first > 0 {
        acc = [core::array::from_fn(|r| s.load(&padded(&to[r * n + at.column..][..at.columns])))];
    }
    for (index, panel) in panel.chunks(16).enumerate() {
        let first = at.first + index * 16;
        let from: [&[f32]; R] = core::array::from_fn(|r| &a[(at.row + r) * a_row + first * a_column..]);
        if a_column == 1 && from.iter().all(|row| row.len() >= 16) {
            let x = from.map(|row| row.first_chunk::<16>().unwrap_or(&ZERO));
            accumulate(s, &mut acc, x, [panel], 1, panel.len());
        } else {
            let x: [Lanes; R] = from.map(|row| {
                let mut lanes = ZERO;
                for (l, lane) in lanes[..panel.len()].iter_mut().enumerate() {
                    *lane = row[l * a_column];
                }
                lanes
            });
            accumulate(s, &mut acc, x.each_ref(), [panel], 1, panel.len());
        }
    }
    let [acc] = acc;
    for r in 0..R {
        to[r * n + at.column..][..at.columns].copy_from_slice(&s.to_array(acc[r])[..at.columns]);
    }
}
