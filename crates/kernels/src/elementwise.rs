//! Functions of one, two or three values, element by element, with broadcasting.
//!
//! Outputs are contiguous and as long as the product of the extents; operands are addressed through the strides of the
//! shape and must hold `a_len()`, `b_len()`, `c_len()` elements of it at least.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]

use crate::arch::{Kernel, Simd};
use crate::geometry::{BinaryOp, Strided2, Strided3, UnaryOp};
use crate::math;
use crate::parallel::{Compute, MOVE};
use crate::strided::Walk;
use crate::unary::Activation;
use crate::zip::{self, Operands, is_in_blocks, zip, zip_blocks, zip_in};

pub use crate::unary::{unary, unary_in_place};

/// Which operand an in-place operation overwrites; its strides are the contiguous ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// The first.
    A,
    /// The second.
    B,
}

/// `out[i] = !input[i]`; both have the same length. Any nonzero byte counts as true.
pub fn not(input: &[u8], out: &mut [u8]) {
    assert_eq!(input.len(), out.len(), "validated: not's input is as long as its output");
    for (to, &from) in out.iter_mut().zip(input) {
        *to = u8::from(from == 0);
    }
}

/// [`not`], overwriting its input.
pub fn not_in_place(values: &mut [u8]) {
    for value in values {
        *value = u8::from(*value == 0);
    }
}

/// `out = act(op(a, b))` for `op` with [`BinaryOp::is_f32_arithmetic`]. Bits depend on the kernel set through `act` only.
pub fn binary_f32(
    compute: Compute,
    op: BinaryOp,
    shape: &Strided2,
    a: &[f32],
    b: &[f32],
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    split(compute, op, shape, Operands::Both(a, b), act, out);
}

/// [`binary_f32`] with the operand named by `in_place` already in `out`; `other` is the one that is not.
pub fn binary_f32_in_place(
    compute: Compute,
    op: BinaryOp,
    shape: &Strided2,
    in_place: InPlace,
    other: &[f32],
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    split(compute, op, shape, in_place.with(other), act, out);
}

/// Shares out the turns of the outermost loop; in each, the output goes on where it was.
fn split(
    compute: Compute,
    op: BinaryOp,
    shape: &Strided2,
    operands: Operands<'_, f32>,
    act: Option<UnaryOp>,
    out: &mut [f32],
) {
    let walk = Walk::from_lists(&shape.dims, [&shape.a, &shape.b]);
    assert_eq!(out.len(), walk.len(), "validated: the output is as long as the shape");
    let act = Activation::new(act);
    let costly = matches!(op, BinaryOp::Pow | BinaryOp::Mod | BinaryOp::Fmod);
    let cost = out.len() as u64 * if costly { 64 * MOVE } else { MOVE };
    compute.split(out, out.len() / walk.outer().max(1), cost, |turns, out| {
        let (walk, [a, b]) = walk.cut(turns);
        let operands = operands.from([a as usize, b as usize]);
        compute.set.dispatch(BinaryF32 { op, walk, operands, act, out });
    });
}

/// `out = op(a, b)` for `op` with [`BinaryOp::is_comparison`]. Comparisons with NaN are false.
pub fn compare_f32(op: BinaryOp, shape: &Strided2, a: &[f32], b: &[f32], out: &mut [u8]) {
    compare(op, shape, a, b, out);
}

/// `out = op(a, b)` for `op` with [`BinaryOp::is_comparison`].
pub fn compare_i64(op: BinaryOp, shape: &Strided2, a: &[i64], b: &[i64], out: &mut [u8]) {
    compare(op, shape, a, b, out);
}

/// `out = op(a, b)` for [`BinaryOp::Equal`] of `bool` values.
pub fn compare_bool(op: BinaryOp, shape: &Strided2, a: &[u8], b: &[u8], out: &mut [u8]) {
    compare(op, shape, a, b, out);
}

/// `out = op(a, b)` for `op` with [`BinaryOp::is_i64_arithmetic`].
pub fn binary_i64(op: BinaryOp, shape: &Strided2, a: &[i64], b: &[i64], out: &mut [i64]) {
    with_i64(op, shape, Operands::Both(a, b), out);
}

/// [`binary_i64`] with the operand named by `in_place` already in `out`.
pub fn binary_i64_in_place(op: BinaryOp, shape: &Strided2, in_place: InPlace, other: &[i64], out: &mut [i64]) {
    with_i64(op, shape, in_place.with(other), out);
}

/// `out = op(a, b)` for `op` with [`BinaryOp::is_logical`]. Any nonzero byte counts as true; results are 0 or 1.
pub fn logical(op: BinaryOp, shape: &Strided2, a: &[u8], b: &[u8], out: &mut [u8]) {
    with_logical(op, shape, Operands::Both(a, b), out);
}

/// [`logical`] with the operand named by `in_place` already in `out`.
pub fn logical_in_place(op: BinaryOp, shape: &Strided2, in_place: InPlace, other: &[u8], out: &mut [u8]) {
    with_logical(op, shape, in_place.with(other), out);
}

/// `out = cond ? then : otherwise`: strides `a` are those of `cond`, `b` of `then`, `c` of `otherwise`.
pub fn select<T: Copy>(shape: &Strided3, cond: &[u8], then: &[T], otherwise: &[T], out: &mut [T]) {
    let walk = Walk::from_lists(&shape.dims, [&shape.a, &shape.b, &shape.c]);
    assert_eq!(out.len(), walk.len(), "validated: the output is as long as the shape");
    let (len, [sa, sb, sc]) = (walk.row_len(), walk.row_strides().map(|s| s as usize));
    let mut at = 0;
    walk.for_each_row(|offsets| {
        let [a, b, c] = offsets.map(|o| o as usize);
        for (i, to) in out[at..at + len].iter_mut().enumerate() {
            *to = if cond[a + i * sa] != 0 { then[b + i * sb] } else { otherwise[c + i * sc] };
        }
        at += len;
    });
}

impl InPlace {
    fn with<T>(self, other: &[T]) -> Operands<'_, T> {
        match self {
            InPlace::A => Operands::OutAnd(other),
            InPlace::B => Operands::AndOut(other),
        }
    }
}

struct BinaryF32<'a> {
    op: BinaryOp,
    walk: Walk<2>,
    operands: Operands<'a, f32>,
    act: Activation,
    out: &'a mut [f32],
}

impl Kernel for BinaryF32<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        use BinaryOp::*;
        let (walk, operands, out, act) = (&self.walk, self.operands, &mut *self.out, self.act);
        let blocks = is_in_blocks(walk);
        // The clamp of the activation costs nothing while the value is in a register.
        match self.op {
            Add if blocks => zip_blocks(s, walk, operands, zip::Add, &act, out),
            Sub if blocks => zip_blocks(s, walk, operands, zip::Sub, &act, out),
            Mul if blocks => zip_blocks(s, walk, operands, zip::Mul, &act, out),
            Div if blocks => zip_blocks(s, walk, operands, zip::Div, &act, out),
            Add => zip_in(walk, operands, out, |x, y| act.clamp_one(x + y)),
            Sub => zip_in(walk, operands, out, |x, y| act.clamp_one(x - y)),
            Mul => zip_in(walk, operands, out, |x, y| act.clamp_one(x * y)),
            Div => zip_in(walk, operands, out, |x, y| act.clamp_one(x / y)),
            Min => zip_in(walk, operands, out, |x, y| act.clamp_one(math::min(x, y))),
            Max => zip_in(walk, operands, out, |x, y| act.clamp_one(math::max(x, y))),
            PRelu => zip_in(walk, operands, out, |x, y| act.clamp_one(if x < 0.0 { x * y } else { x })),
            Pow => zip_in(walk, operands, out, |x, y| act.clamp_one(math::pow(x, y))),
            Mod => zip_in(walk, operands, out, |x, y| act.clamp_one(math::modulo(x, y))),
            Fmod => zip_in(walk, operands, out, |x, y| act.clamp_one(math::fmod(x, y))),
            Equal | Less | LessOrEqual | Greater | GreaterOrEqual | And | Or | Xor => {
                unreachable!("validated: an arithmetic operation")
            }
        }
        act.finish(s, self.out);
    }
}

fn compare<T: Copy + PartialOrd>(op: BinaryOp, shape: &Strided2, a: &[T], b: &[T], out: &mut [u8]) {
    use BinaryOp::*;
    let walk = &Walk::from_lists(&shape.dims, [&shape.a, &shape.b]);
    match op {
        Equal => zip(walk, a, b, out, |x, y| u8::from(x == y)),
        Less => zip(walk, a, b, out, |x, y| u8::from(x < y)),
        LessOrEqual => zip(walk, a, b, out, |x, y| u8::from(x <= y)),
        Greater => zip(walk, a, b, out, |x, y| u8::from(x > y)),
        GreaterOrEqual => zip(walk, a, b, out, |x, y| u8::from(x >= y)),
        _ => unreachable!("validated: a comparison"),
    }
}

fn with_i64(op: BinaryOp, shape: &Strided2, operands: Operands<'_, i64>, out: &mut [i64]) {
    use BinaryOp::*;
    let walk = &Walk::from_lists(&shape.dims, [&shape.a, &shape.b]);
    match op {
        Add => zip_in(walk, operands, out, i64::wrapping_add),
        Sub => zip_in(walk, operands, out, i64::wrapping_sub),
        Mul => zip_in(walk, operands, out, i64::wrapping_mul),
        Div => zip_in(walk, operands, out, |x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
        Min => zip_in(walk, operands, out, Ord::min),
        Max => zip_in(walk, operands, out, Ord::max),
        Mod => zip_in(walk, operands, out, modulo_i64),
        Fmod => zip_in(walk, operands, out, |x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
        _ => unreachable!("validated: an integer operation"),
    }
}

fn modulo_i64(x: i64, y: i64) -> i64 {
    if y == 0 {
        return 0;
    }
    let r = x.wrapping_rem(y);
    if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
}

fn with_logical(op: BinaryOp, shape: &Strided2, operands: Operands<'_, u8>, out: &mut [u8]) {
    let walk = &Walk::from_lists(&shape.dims, [&shape.a, &shape.b]);
    match op {
        BinaryOp::And => zip_in(walk, operands, out, |x, y| u8::from(x != 0 && y != 0)),
        BinaryOp::Or => zip_in(walk, operands, out, |x, y| u8::from(x != 0 || y != 0)),
        BinaryOp::Xor => zip_in(walk, operands, out, |x, y| u8::from((x != 0) != (y != 0))),
        _ => unreachable!("validated: a logical operation"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Rng, sets};
    use alloc::vec;
    use alloc::vec::Vec;

    /// Broadcasts of every kind against `(2, 3, 300)`.
    fn shapes() -> Vec<Strided2> {
        let whole = vec![900, 300, 1];
        let others = [
            vec![900, 300, 1],
            vec![0, 0, 0],
            vec![0, 0, 1],
            vec![0, 1, 0],
            vec![3, 1, 0],
            vec![0, 300, 1],
            vec![1, 2, 6],
        ];
        let dims = vec![2, 3, 300];
        let mut all: Vec<_> =
            others.iter().map(|b| Strided2 { dims: dims.clone(), a: whole.clone(), b: b.clone() }).collect();
        all.extend(others.iter().map(|a| Strided2 { dims: dims.clone(), a: a.clone(), b: whole.clone() }));
        all.push(Strided2 { dims: dims.clone(), a: vec![0, 1, 3], b: vec![2, 0, 2] });
        // Rows of one block, as a value per channel meets them.
        for b in [vec![16, 0, 1], vec![0, 0, 1], vec![80, 16, 1]] {
            let (dims, a) = (vec![3, 5, 16], vec![80, 16, 1]);
            all.push(Strided2 { dims: dims.clone(), a: a.clone(), b: b.clone() });
            all.push(Strided2 { dims, a: b, b: a });
        }
        all.push(Strided2::default());
        all.push(Strided2 { dims: vec![4, 0], a: vec![1, 1], b: vec![1, 1] });
        all
    }

    fn naive<T: Copy, U>(shape: &Strided2, a: &[T], b: &[T], f: impl Fn(T, T) -> U) -> Vec<U> {
        let mut at = vec![(0usize, 0usize)];
        for (d, &dim) in shape.dims.iter().enumerate() {
            let step = |i: u32, (x, y): (usize, usize)| (x + (i * shape.a[d]) as usize, y + (i * shape.b[d]) as usize);
            at = at.iter().flat_map(|&xy| (0..dim).map(move |i| step(i, xy))).collect();
        }
        at.iter().map(|&(x, y)| f(a[x], b[y])).collect()
    }

    fn reference(op: BinaryOp) -> fn(f32, f32) -> f32 {
        match op {
            BinaryOp::Add => |x, y| x + y,
            BinaryOp::Sub => |x, y| x - y,
            BinaryOp::Mul => |x, y| x * y,
            BinaryOp::Div => |x, y| x / y,
            BinaryOp::Pow => |x, y| libm::powf(x, y),
            BinaryOp::Min => |x, y| if x.is_nan() || y.is_nan() { f32::NAN } else { x.min(y) },
            BinaryOp::Max => |x, y| if x.is_nan() || y.is_nan() { f32::NAN } else { x.max(y) },
            BinaryOp::Mod => |x, y| x - y * (x / y).floor(),
            BinaryOp::Fmod => |x, y| x % y,
            BinaryOp::PRelu => |x, y| if x < 0.0 { x * y } else { x },
            _ => panic!("not arithmetic"),
        }
    }

    const ARITHMETIC: [BinaryOp; 10] = {
        use BinaryOp::*;
        [Add, Sub, Mul, Div, Pow, Min, Max, Mod, Fmod, PRelu]
    };

    #[test]
    fn f32_in_every_set_and_form() {
        let mut rng = Rng(71);
        for shape in shapes() {
            let mut values = |len: Option<u64>| rng.vec(len.unwrap() as usize);
            let (mut a, b) = (values(shape.a_len()), values(shape.b_len()));
            if let Some(x) = a.first_mut() {
                *x = f32::NAN;
            }
            for op in ARITHMETIC {
                let expected = naive(&shape, &a, &b, reference(op));
                for set in sets() {
                    let what = alloc::format!("{} {op:?} {shape:?}", set.name());
                    let check = |got: &[f32], act: &dyn Fn(f32) -> f32| {
                        assert_eq!(got.len(), expected.len(), "{what}");
                        for (&g, &e) in got.iter().zip(&expected) {
                            let e = act(e);
                            let close = (g - e).abs() <= 2e-5 * e.abs().max(1.0);
                            assert!(g == e || (g.is_nan() && e.is_nan()) || close, "{what}: {g} for {e}");
                        }
                    };
                    let mut out = vec![7.0; expected.len()];
                    binary_f32(set.into(), op, &shape, &a, &b, None, &mut out);
                    check(&out, &|x| x);
                    binary_f32(set.into(), op, &shape, &a, &b, Some(UnaryOp::Relu), &mut out);
                    check(&out, &|x| if x < 0.0 { 0.0 } else { x });
                    binary_f32(set.into(), op, &shape, &a, &b, Some(UnaryOp::Tanh), &mut out);
                    check(&out, &f32::tanh);
                    for (side, contiguous, from, other) in
                        [(InPlace::A, shape.a_is_contiguous(), &a, &b), (InPlace::B, shape.b_is_contiguous(), &b, &a)]
                    {
                        if contiguous {
                            let mut out = from[..expected.len()].to_vec();
                            binary_f32_in_place(set.into(), op, &shape, side, other, Some(UnaryOp::Neg), &mut out);
                            check(&out, &|x| -x);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn i64_corners() {
        let shape = Strided2 { dims: vec![7], a: vec![1], b: vec![1] };
        let (a, b) = ([7, -7, 7, -7, 5, i64::MIN, i64::MAX], [3, 3, -3, -3, 0, -1, 1]);
        let run = |op| {
            let mut out = [0; 7];
            binary_i64(op, &shape, &a, &b, &mut out);
            let mut first = a;
            binary_i64_in_place(op, &shape, InPlace::A, &b, &mut first);
            let mut second = b;
            binary_i64_in_place(op, &shape, InPlace::B, &a, &mut second);
            assert!(first == out && second == out, "{op:?}");
            out
        };
        assert_eq!(run(BinaryOp::Div), [2, -2, -2, 2, 0, i64::MIN, i64::MAX]);
        assert_eq!(run(BinaryOp::Mod), [1, 2, -2, -1, 0, 0, 0]);
        assert_eq!(run(BinaryOp::Fmod), [1, -1, 1, -1, 0, 0, 0]);
        assert_eq!(run(BinaryOp::Add), [10, -4, 4, -10, 5, i64::MAX, i64::MIN]);
        assert_eq!(run(BinaryOp::Sub)[6], i64::MAX - 1);
        assert_eq!(run(BinaryOp::Mul)[5], i64::MIN);
        assert_eq!(run(BinaryOp::Min)[..2], [3, -7]);
        assert_eq!(run(BinaryOp::Max)[..2], [7, 3]);
    }

    #[test]
    fn comparisons_and_logic() {
        let nan = f32::NAN;
        let shape = Strided2 { dims: vec![4], a: vec![1], b: vec![1] };
        let mut out = [7u8; 4];
        for (op, expected) in [
            (BinaryOp::Equal, [0, 1, 0, 0]),
            (BinaryOp::Less, [1, 0, 0, 0]),
            (BinaryOp::LessOrEqual, [1, 1, 0, 0]),
            (BinaryOp::Greater, [0, 0, 1, 0]),
            (BinaryOp::GreaterOrEqual, [0, 1, 1, 0]),
        ] {
            compare_f32(op, &shape, &[1.0, 2.0, 3.0, nan], &[2.0, 2.0, 2.0, nan], &mut out);
            assert_eq!(out, expected, "{op:?}");
            compare_i64(op, &shape, &[1, 2, 3, 9], &[2, 2, 2, 9], &mut out);
            assert_eq!(out[..3], expected[..3], "{op:?}");
        }
        compare_bool(BinaryOp::Equal, &shape, &[0, 1, 0, 1], &[0, 1, 1, 0], &mut out);
        assert_eq!(out, [1, 1, 0, 0]);
        let (a, b) = ([0, 0, 1, 255], [0, 1, 0, 2]);
        for (op, expected) in
            [(BinaryOp::And, [0, 0, 0, 1]), (BinaryOp::Or, [0, 1, 1, 1]), (BinaryOp::Xor, [0, 1, 1, 0])]
        {
            logical(op, &shape, &a, &b, &mut out);
            assert_eq!(out, expected, "{op:?}");
            let mut in_place = a;
            logical_in_place(op, &shape, InPlace::A, &b, &mut in_place);
            assert_eq!(in_place, expected, "{op:?}");
        }
        not(&a, &mut out);
        assert_eq!(out, [1, 1, 0, 0]);
        not_in_place(&mut out);
        assert_eq!(out, [0, 0, 1, 1]);
    }

    #[test]
    fn select_broadcasts_all_three() {
        let shape = Strided3 { dims: vec![2, 3], a: vec![1, 0], b: vec![0, 1], c: vec![0, 0] };
        let mut out = [0i64; 6];
        select(&shape, &[0, 9], &[1, 2, 3], &[-1], &mut out);
        assert_eq!(out, [-1, -1, -1, 1, 2, 3]);
    }
}
