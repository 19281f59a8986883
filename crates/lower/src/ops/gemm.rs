//! Gemm and MatMul.

use super::{Operator, op};
use crate::broadcast::{broadcast_dims, merge};
use crate::context::{BLOCK, LowerCtx, Reason, Val, contiguous, to_i32, to_u32};
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{
    BinaryOp, DType, Dense, Instruction, Layout, MatMul, Strided2, StridedCopy, Tile, UnaryOp,
};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] =
    &[op("Gemm", 1, gemm_shape, gemm).layer(&[0, 1]), op("MatMul", 1, matmul_shape, matmul).layer(&[0, 1])];

/// Extents and flags of a Gemm.
struct Gemm {
    m: usize,
    k: usize,
    n: usize,
    transpose_a: bool,
    transpose_b: bool,
    alpha: f32,
    beta: f32,
}

fn read_gemm(view: &NodeView<'_>) -> Result<Gemm, ShapeError> {
    let (a, b) = (&view.input(0)?.dims, &view.input(1)?.dims);
    let (&[a0, a1], &[b0, b1]) = (&a[..], &b[..]) else {
        return Err(format!("operands {a:?} and {b:?} are not matrices").into());
    };
    let transpose_a = view.attr_int_or("transA", 0)? != 0;
    let transpose_b = view.attr_int_or("transB", 0)? != 0;
    let (m, k) = if transpose_a { (a1, a0) } else { (a0, a1) };
    let (inner, n) = if transpose_b { (b1, b0) } else { (b0, b1) };
    if k != inner {
        return Err(format!("inner extents {k} and {inner} differ").into());
    }
    let (alpha, beta) = (view.attr_float_or("alpha", 1.0)?, view.attr_float_or("beta", 1.0)?);
    Ok(Gemm { m, k, n, transpose_a, transpose_b, alpha, beta })
}

fn gemm_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let gemm = read_gemm(view)?;
    Ok(vec![TensorType { elem: view.input(0)?.elem, dims: vec![gemm.m, gemm.n] }])
}

fn gemm(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let gemm = read_gemm(&ctx.view)?;
    let (a, b) = (float(ctx.plain_input(0)?)?, float(ctx.plain_input(1)?)?);
    let addend = ctx.optional_input(2)?.filter(|_| gemm.beta != 0.0);
    let (product, addend) = match b.known().cloned() {
        Some(constant) => {
            let form = match gemm.transpose_b {
                true => Form::Rows { constant, outer: gemm.n, inner: gemm.k },
                false => Form::Columns { constant, outer: gemm.n, inner: gemm.k },
            };
            let scale = (gemm.alpha != 1.0).then(|| vec![gemm.alpha]);
            let weight = ctx.weight(WeightSource { scale, ..WeightSource::new(form) });
            let a = if gemm.transpose_a { transposed(ctx, &a)? } else { a };
            let bias = addend.as_ref().and_then(|addend| column_bias(ctx, addend, &gemm));
            let addend = if bias.is_some() { None } else { addend };
            (dense(ctx, &a, &[gemm.m, gemm.n], gemm.k, weight, bias)?, addend)
        }
        None => {
            let geometry = MatMul {
                m: to_u32(gemm.m),
                k: to_u32(gemm.k),
                n: to_u32(gemm.n),
                batch: Strided2::default(),
                a: if gemm.transpose_a { [1, to_u32(gemm.m)] } else { [to_u32(gemm.k), 1] },
                b: if gemm.transpose_b { [1, to_u32(gemm.k)] } else { [to_u32(gemm.n), 1] },
            };
            let out = emit_matmul(ctx, geometry, &a, &b, &[gemm.m, gemm.n])?;
            (scaled(ctx, out, gemm.alpha)?, addend)
        }
    };
    let out = match addend {
        None => product,
        Some(addend) => {
            let addend = scaled(ctx, addend, gemm.beta)?;
            ctx.binary(BinaryOp::Add, &product, &addend)?
        }
    };
    ctx.output(0, out)
}

/// A constant C that is the same for every row, times beta.
fn column_bias(ctx: &mut LowerCtx<'_, '_>, addend: &Val, gemm: &Gemm) -> Option<Tile> {
    let per_column = addend.count() == gemm.n && addend.dims.last() == Some(&gemm.n);
    if addend.count() != 1 && !per_column {
        return None;
    }
    let values = addend.constant()?.to_f32().ok()?;
    let mut bias: Vec<f32> = (0..gemm.n).map(|column| gemm.beta * values[column % values.len()]).collect();
    bias.resize(gemm.n.next_multiple_of(BLOCK), 0.0);
    Some(ctx.weight_f32(bias))
}

fn scaled(ctx: &mut LowerCtx<'_, '_>, val: Val, factor: f32) -> Result<Val, Reason> {
    if factor == 1.0 { Ok(val) } else { ctx.unary(UnaryOp::Affine { scale: factor, offset: 0.0 }, &val) }
}

fn float(val: Val) -> Result<Val, Reason> {
    if val.dtype == DType::F32 { Ok(val) } else { Err("only float32 is supported".into()) }
}

fn transposed(ctx: &mut LowerCtx<'_, '_>, val: &Val) -> Result<Val, Reason> {
    let (rows, columns) = (val.dims[0], val.dims[1]);
    let out = ctx.new_val(val.dtype, &[columns, rows], Layout::Plain)?;
    let geometry = StridedCopy {
        dims: vec![to_u32(columns), to_u32(rows)],
        from: 0,
        from_strides: vec![1, to_i32(columns)],
        to: 0,
        to_strides: vec![to_u32(rows), 1],
    };
    ctx.copy(geometry, val, &out);
    Ok(out)
}

fn dense(
    ctx: &mut LowerCtx<'_, '_>,
    a: &Val,
    out_dims: &[usize],
    k: usize,
    weight: Tile,
    bias: Option<Tile>,
) -> Result<Val, Reason> {
    let out = ctx.new_val(DType::F32, out_dims, Layout::Plain)?;
    let n = *out_dims.last().ok_or("a product has at least one dimension")?;
    let geometry = Dense { m: to_u32(a.count() / k), k: to_u32(k), n: to_u32(n) };
    let input = ctx.operand(a);
    ctx.emit(Instruction::Dense { geometry, input, weight, bias, residual: None, activation: None, out: out.region() });
    Ok(out)
}

fn emit_matmul(
    ctx: &mut LowerCtx<'_, '_>,
    geometry: MatMul,
    a: &Val,
    b: &Val,
    out_dims: &[usize],
) -> Result<Val, Reason> {
    let out = ctx.new_val(DType::F32, out_dims, Layout::Plain)?;
    let (a, b) = (ctx.operand(a), ctx.operand(b));
    ctx.emit(Instruction::MatMul { geometry, a, b, out: out.region() });
    Ok(out)
}

/// Extents of a MatMul: one-dimensional operands count as a row and a column that the result loses.
struct Product {
    batch_a: Vec<usize>,
    batch_b: Vec<usize>,
    batch: Vec<usize>,
    m: usize,
    k: usize,
    n: usize,
    out_dims: Vec<usize>,
}

fn read_matmul(view: &NodeView<'_>) -> Result<Product, ShapeError> {
    read_product(&view.input(0)?.dims, &view.input(1)?.dims)
}

fn read_product(a: &[usize], b: &[usize]) -> Result<Product, ShapeError> {
    let (batch_a, m, k) = match a {
        [] => return Err("operand A is a scalar".into()),
        [k] => (&[][..], None, *k),
        [batch @ .., m, k] => (batch, Some(*m), *k),
    };
    let (batch_b, inner, n) = match b {
        [] => return Err("operand B is a scalar".into()),
        [k] => (&[][..], *k, None),
        [batch @ .., k, n] => (batch, *k, Some(*n)),
    };
    if k != inner {
        return Err(format!("inner extents {k} and {inner} differ").into());
    }
    let batch = broadcast_dims([batch_a, batch_b]).map_err(|reason| reason.0)?;
    let out_dims = batch.iter().copied().chain(m).chain(n).collect();
    Ok(Product {
        batch_a: batch_a.to_vec(),
        batch_b: batch_b.to_vec(),
        batch,
        m: m.unwrap_or(1),
        k,
        n: n.unwrap_or(1),
        out_dims,
    })
}

fn matmul_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![TensorType { elem: view.input(0)?.elem, dims: read_matmul(view)?.out_dims }])
}

/// Extents of the product of two values.
pub(super) fn product_dims(a: &[usize], b: &[usize]) -> Result<Vec<usize>, ShapeError> {
    Ok(read_product(a, b)?.out_dims)
}

fn matmul(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (a, b) = (ctx.plain_input(0)?, ctx.plain_input(1)?);
    let out = multiply(ctx, a, b)?;
    ctx.output(0, out)
}

/// The product of two plain values.
pub(super) fn multiply(ctx: &mut LowerCtx<'_, '_>, a: Val, b: Val) -> Result<Val, Reason> {
    let product = read_product(&a.dims, &b.dims)?;
    let (a, b) = (float(a)?, float(b)?);
    let one_matrix = product.batch_b.iter().all(|&extent| extent == 1) && b.dims.len() >= 2;
    let same_rank = product.batch_a == product.batch;
    match b.known() {
        // One constant matrix: the batch is just more rows.
        Some(constant) if one_matrix && same_rank => {
            let form = Form::Columns { constant: constant.clone(), outer: product.n, inner: product.k };
            let weight = ctx.weight(WeightSource::new(form));
            dense(ctx, &a, &product.out_dims, product.k, weight, None)
        }
        _ => {
            let strides = |batch: &[usize], matrix: usize| {
                let lead = product.batch.len() - batch.len();
                let own = contiguous(batch);
                (0..product.batch.len())
                    .map(|axis| match axis.checked_sub(lead) {
                        Some(own_axis) if batch[own_axis] != 1 => own[own_axis] * matrix,
                        _ => 0,
                    })
                    .collect::<Vec<_>>()
            };
            let (a_steps, b_steps) =
                (strides(&product.batch_a, product.m * product.k), strides(&product.batch_b, product.k * product.n));
            let batch = match product.batch.is_empty() {
                true => Strided2::default(),
                false => {
                    let (dims, mut steps) = merge(&product.batch, vec![a_steps, b_steps]);
                    let b = steps.pop().unwrap_or_default();
                    let a = steps.pop().unwrap_or_default();
                    Strided2 { dims, a, b }
                }
            };
            let geometry = MatMul {
                m: to_u32(product.m),
                k: to_u32(product.k),
                n: to_u32(product.n),
                batch,
                a: [to_u32(product.k), 1],
                b: [to_u32(product.n), 1],
            };
            emit_matmul(ctx, geometry, &a, &b, &product.out_dims)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, assert_close, f32s, noise};
    use cordon_graph::Tensor;

    /// `(batch, m, k) x (batch, k, n)` in `f64`; a batch of 1 broadcasts.
    fn product(a: &Tensor, b: &Tensor) -> Tensor {
        let (&[batch_a, m, k], &[batch_b, _, n]) = (&a.dims[..], &b.dims[..]) else { panic!("rank") };
        let (left, right) = (a.to_f32().unwrap(), b.to_f32().unwrap());
        let batch = batch_a.max(batch_b);
        let mut out = Vec::new();
        for index in 0..batch * m * n {
            let (s, i, j) = (index / (m * n), index / n % m, index % n);
            let (sa, sb) = (s % batch_a, s % batch_b);
            let at = |l: usize| f64::from(left[(sa * m + i) * k + l]) * f64::from(right[(sb * k + l) * n + j]);
            out.push((0..k).map(at).sum::<f64>() as f32);
        }
        f32s(&[batch, m, n], &out)
    }

    fn with_dims(tensor: &Tensor, dims: &[usize]) -> Tensor {
        Tensor { dims: dims.to_vec(), ..tensor.clone() }
    }

    fn transposed(tensor: &Tensor) -> Tensor {
        let (rows, columns) = (tensor.dims[0], tensor.dims[1]);
        let data = tensor.to_f32().unwrap();
        let moved: Vec<f32> = (0..rows * columns).map(|i| data[i % rows * columns + i / rows]).collect();
        f32s(&[columns, rows], &moved)
    }

    #[test]
    fn matmul_broadcasts_batches() {
        let cases = [([1, 3, 5], [1, 5, 18]), ([4, 3, 5], [1, 5, 2]), ([1, 3, 5], [4, 5, 2]), ([4, 3, 5], [4, 5, 2])];
        for (a_dims, b_dims) in cases {
            let (a, b) = (noise(&a_dims, 1), noise(&b_dims, 2));
            let want = product(&a, &b);
            assert_close(&OneNode::new("MatMul", 13).input(a.clone()).input(b.clone()).run()[0], &want);
            assert_close(&OneNode::new("MatMul", 13).input(a).constant(b).run()[0], &want);
        }
    }

    #[test]
    fn vectors_lose_the_extent_they_were_given() {
        let (a, b) = (noise(&[1, 3, 5], 1), noise(&[1, 5, 4], 2));
        let want = product(&a, &b);
        let matrix_vector = OneNode::new("MatMul", 13).input(with_dims(&a, &[3, 5]));
        let column: Vec<f32> = b.to_f32().unwrap().into_iter().step_by(4).collect();
        let first: Vec<f32> = want.to_f32().unwrap().into_iter().step_by(4).collect();
        assert_close(&matrix_vector.constant(f32s(&[5], &column)).run()[0], &f32s(&[3], &first));
        let row: Vec<f32> = a.to_f32().unwrap()[..5].to_vec();
        let vector_matrix = OneNode::new("MatMul", 13).input(f32s(&[5], &row)).constant(with_dims(&b, &[5, 4]));
        assert_close(&vector_matrix.run()[0], &f32s(&[4], &want.to_f32().unwrap()[..4]));
    }

    #[test]
    fn gemm_in_every_orientation() {
        let (a, b) = (noise(&[4, 6], 1), noise(&[6, 19], 2));
        let plain = product(&with_dims(&a, &[1, 4, 6]), &with_dims(&b, &[1, 6, 19])).to_f32().unwrap();
        for (shape, c_index) in [(vec![19], 0), (vec![1, 19], 0), (vec![4, 19], 1), (vec![4, 1], 2), (vec![], 3)] {
            let c = noise(&shape, 3);
            let values = c.to_f32().unwrap();
            let want: Vec<f32> = (0..4 * 19)
                .map(|i| {
                    let addend = match c_index {
                        0 => values[i % 19],
                        1 => values[i],
                        2 => values[i / 19],
                        _ => values[0],
                    };
                    0.5 * plain[i] + 2.0 * addend
                })
                .collect();
            let want = f32s(&[4, 19], &want);
            for (flip_a, flip_b, constant_b, constant_c) in
                (0..16).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0))
            {
                let mut node = OneNode::new("Gemm", 13).float("alpha", 0.5).float("beta", 2.0);
                node = node.int("transA", i64::from(flip_a)).int("transB", i64::from(flip_b));
                node = node.input(if flip_a { transposed(&a) } else { a.clone() });
                let b = if flip_b { transposed(&b) } else { b.clone() };
                node = if constant_b { node.constant(b) } else { node.input(b) };
                node = if constant_c { node.constant(c.clone()) } else { node.input(c.clone()) };
                assert_close(&node.run()[0], &want);
            }
        }
    }
}
