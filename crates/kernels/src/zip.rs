//! Loops over two operands with broadcasting: row by row for any type, and block by block where a value per channel meets
//! the block layout.
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::expect_used,
        reason = "within lengths that the caller has checked: see the crate's page"
    )
)]

use crate::arch::{Kernel, Simd};
use crate::strided::Walk;
use crate::tile::Lanes;
use crate::unary::Activation;

/// Where the two operands are.
#[derive(Clone, Copy)]
pub(crate) enum Operands<'a, T> {
    Both(&'a [T], &'a [T]),
    /// The first lies in the output.
    OutAnd(&'a [T]),
    /// The second lies in the output.
    AndOut(&'a [T]),
}

impl<T> Operands<'_, T> {
    /// Those of the output from some element on: where each of them begins.
    pub(crate) fn from(self, [first, second]: [usize; 2]) -> Self {
        match self {
            Operands::Both(a, b) => Operands::Both(&a[first..], &b[second..]),
            Operands::OutAnd(b) => Operands::OutAnd(&b[second..]),
            Operands::AndOut(a) => Operands::AndOut(&a[first..]),
        }
    }
}

/// `out = f(a, b)`, row by row.
#[inline(always)]
pub(crate) fn zip<T: Copy, U>(walk: &Walk<2>, a: &[T], b: &[T], out: &mut [U], f: impl Fn(T, T) -> U + Copy) {
    assert_eq!(out.len(), walk.len(), "validated: the output is as long as the shape");
    let (len, [sa, sb]) = (walk.row_len(), walk.row_strides().map(|s| s as usize));
    let mut at = 0;
    walk.for_each_row(|[oa, ob]| {
        row(f, &a[oa as usize..], sa, &b[ob as usize..], sb, &mut out[at..at + len]);
        at += len;
    });
}

/// [`zip`] for operands that may lie in the output.
#[inline(always)]
pub(crate) fn zip_in<T: Copy + Default>(
    walk: &Walk<2>,
    operands: Operands<'_, T>,
    out: &mut [T],
    f: impl Fn(T, T) -> T + Copy,
) {
    assert_eq!(out.len(), walk.len(), "validated: the output is as long as the shape");
    let (len, strides) = (walk.row_len(), walk.row_strides().map(|s| s as usize));
    let [sa, sb] = strides;
    // Holds the operand that is overwritten, piece by piece.
    let mut buffer = [T::default(); 256];
    let mut at = 0;
    walk.for_each_row(|[oa, ob]| {
        let mut done = 0;
        while done < len {
            let count = (len - done).min(buffer.len());
            let piece = &mut out[at + done..at + done + count];
            let (oa, ob) = (oa as usize + done * sa, ob as usize + done * sb);
            let held = &mut buffer[..count];
            match operands {
                Operands::Both(a, b) => row(f, &a[oa..], sa, &b[ob..], sb, piece),
                Operands::OutAnd(b) => {
                    held.copy_from_slice(piece);
                    row(f, held, 1, &b[ob..], sb, piece);
                }
                Operands::AndOut(a) => {
                    held.copy_from_slice(piece);
                    row(f, &a[oa..], sa, held, 1, piece);
                }
            }
            done += count;
        }
        at += len;
    });
}

/// One row, specialised for the strides that broadcasting produces.
#[inline(always)]
fn row<T: Copy, U>(f: impl Fn(T, T) -> U, a: &[T], sa: usize, b: &[T], sb: usize, out: &mut [U]) {
    let len = out.len();
    match (sa, sb) {
        (1, 1) => out.iter_mut().zip(a[..len].iter().zip(&b[..len])).for_each(|(to, (&x, &y))| *to = f(x, y)),
        (1, 0) => {
            let y = b[0];
            out.iter_mut().zip(&a[..len]).for_each(|(to, &x)| *to = f(x, y));
        }
        (0, 1) => {
            let x = a[0];
            out.iter_mut().zip(&b[..len]).for_each(|(to, &y)| *to = f(x, y));
        }
        _ => out.iter_mut().enumerate().for_each(|(i, to)| *to = f(a[i * sa], b[i * sb])),
    }
}

/// An operation of sixteen pairs.
pub(crate) trait LaneOp: Copy {
    /// Its results.
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V;
}

/// `x + y`.
#[derive(Clone, Copy)]
pub(crate) struct Add;
/// `x - y`.
#[derive(Clone, Copy)]
pub(crate) struct Sub;
/// `x * y`.
#[derive(Clone, Copy)]
pub(crate) struct Mul;
/// `x / y`.
#[derive(Clone, Copy)]
pub(crate) struct Div;

impl LaneOp for Add {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.add(x, y)
    }
}

impl LaneOp for Sub {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        // Multiplying by -1 rounds nothing.
        s.mul_add(y, s.splat(-1.0), x)
    }
}

impl LaneOp for Mul {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.mul(x, y)
    }
}

impl LaneOp for Div {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.div(x, y)
    }
}

/// Whether all rows are one block of neighbours in both operands.
pub(crate) fn is_in_blocks(walk: &Walk<2>) -> bool {
    (walk.row_len(), walk.row_strides()) == (16, [1, 1])
}

/// [`zip_in`] for such rows, with the clamp of `act`. Left to itself the compiler computes sixteen rows side by side, with
/// gathers and scatters.
#[inline(always)]
pub(crate) fn zip_blocks<S: Simd>(
    s: S,
    walk: &Walk<2>,
    operands: Operands<'_, f32>,
    op: impl LaneOp,
    act: &Activation,
    out: &mut [f32],
) {
    let mut rest = out.as_chunks_mut::<16>().0;
    walk.for_each_run(|[a, b], count, steps| {
        let (out, others) = core::mem::take(&mut rest).split_at_mut(count);
        rest = others;
        let (operands, steps) = (operands.from([a as usize, b as usize]), steps.map(|step| step as usize));
        s.call(Blocks { operands, steps, op, act, out });
    });
}

/// Evenly spaced blocks of the operands, one after the other in the output.
struct Blocks<'a, 'b, O> {
    operands: Operands<'a, f32>,
    steps: [usize; 2],
    op: O,
    act: &'a Activation,
    out: &'b mut [Lanes],
}

impl<O: LaneOp> Kernel for Blocks<'_, '_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Blocks { operands, steps: [a_step, b_step], op, act, out } = self;
        match operands {
            Operands::Both(a, b) => {
                for (row, to) in out.iter_mut().enumerate() {
                    let (x, y) = (s.load(block(a, row * a_step)), s.load(block(b, row * b_step)));
                    s.store(act.clamp_lanes(s, op.of(s, x, y)), to);
                }
            }
            Operands::OutAnd(b) => {
                for (row, to) in out.iter_mut().enumerate() {
                    let (x, y) = (s.load(to), s.load(block(b, row * b_step)));
                    s.store(act.clamp_lanes(s, op.of(s, x, y)), to);
                }
            }
            Operands::AndOut(a) => {
                for (row, to) in out.iter_mut().enumerate() {
                    let (x, y) = (s.load(block(a, row * a_step)), s.load(to));
                    s.store(act.clamp_lanes(s, op.of(s, x, y)), to);
                }
            }
        }
    }
}

#[inline(always)]
fn block(values: &[f32], at: usize) -> &Lanes {
    values[at..].first_chunk().expect("validated: an operand holds all its rows")
}
