//! Numpy broadcasting over both layouts: common extents, one stride list per operand, neighbours merged.

use crate::context::{BLOCK, LowerCtx, Reason, Val, contiguous, to_u32};
use cordon_engine::program::{BinaryOp, DType, Instruction, Layout, Operand, Strided2, Strided3, UnaryOp};

/// Operands aligned for one element-by-element instruction.
pub struct Broadcast {
    /// Merged extents of the result as it lies in memory; never empty.
    pub dims: Vec<u32>,
    /// Per operand, one step per entry of `dims`.
    pub strides: Vec<Vec<u32>>,
    /// What to read, in the order given.
    pub operands: Vec<Operand>,
    /// Layout of the result.
    pub layout: Layout,
    /// ONNX extents of the result.
    pub out_dims: Vec<usize>,
}

impl Broadcast {
    /// Shape of an instruction of two operands.
    pub fn strided2(&self) -> Strided2 {
        Strided2 { dims: self.dims.clone(), a: self.strides[0].clone(), b: self.strides[1].clone() }
    }

    /// Shape of an instruction of three operands.
    pub fn strided3(&self) -> Strided3 {
        Strided3 {
            dims: self.dims.clone(),
            a: self.strides[0].clone(),
            b: self.strides[1].clone(),
            c: self.strides[2].clone(),
        }
    }
}

/// Extents that all operands broadcast to.
pub fn broadcast_dims<'a>(operands: impl IntoIterator<Item = &'a [usize]>) -> Result<Vec<usize>, Reason> {
    let mut out: Vec<usize> = Vec::new();
    for dims in operands {
        if dims.len() > out.len() {
            let missing = dims.len() - out.len();
            out.splice(0..0, core::iter::repeat_n(1, missing));
        }
        let offset = out.len() - dims.len();
        for (have, &dim) in out[offset..].iter_mut().zip(dims) {
            match (*have, dim) {
                (a, b) if a == b => {}
                (1, b) => *have = b,
                (_, 1) => {}
                (a, b) => return Err(format!("extents {a} and {b} do not broadcast").into()),
            }
        }
    }
    Ok(out)
}

impl LowerCtx<'_, '_> {
    /// Aligns operands. The result is blocked when an operand of the result's full shape is, else plain.
    pub fn broadcast(&mut self, vals: &[Val]) -> Result<Broadcast, Reason> {
        let out_dims = broadcast_dims(vals.iter().map(|val| val.dims.as_slice()))?;
        let blocked = vals.iter().any(|val| val.layout == Layout::Blocked && val.dims == out_dims);
        let layout = if blocked { Layout::Blocked } else { Layout::Plain };
        let physical = crate::context::physical(&out_dims, layout);
        let (mut operands, mut strides) = (Vec::new(), Vec::new());
        for val in vals {
            let mut dims = vec![1; out_dims.len() - val.dims.len()];
            dims.extend_from_slice(&val.dims);
            if blocked && dims[1] > 1 {
                let val = match channel_constant(self, val, &dims) {
                    Some(padded) => padded,
                    None => {
                        let full_rank = if val.dims == dims { val.clone() } else { self.reshape(val, &dims)? };
                        self.blocked(&full_rank)?
                    }
                };
                let lie = if val.layout == Layout::Blocked { val.physical() } else { padded_channel(&dims) };
                operands.push(self.operand(&val));
                strides.push(steps(&lie, &physical));
            } else {
                let val = self.plain(val)?;
                let mut lie = dims.clone();
                if blocked {
                    lie.push(1);
                }
                operands.push(self.operand(&val));
                strides.push(steps(&lie, &physical));
            }
        }
        let (dims, strides) = merge(&physical, strides);
        Ok(Broadcast { dims, strides, operands, layout, out_dims })
    }
}

impl LowerCtx<'_, '_> {
    /// `op(a, b)` with broadcasting.
    pub fn binary(&mut self, op: BinaryOp, a: &Val, b: &Val) -> Result<Val, Reason> {
        use BinaryOp as B;
        let dtype = match op {
            B::Equal | B::Less | B::LessOrEqual | B::Greater | B::GreaterOrEqual => DType::Bool,
            _ => a.dtype,
        };
        let aligned = self.broadcast(&[a.clone(), b.clone()])?;
        let out = self.new_val(dtype, &aligned.out_dims, aligned.layout)?;
        let shape = aligned.strided2();
        let [a, b] = aligned.operands.try_into().map_err(|_| "two operands were given")?;
        self.emit(Instruction::Binary { op, shape, a, b, activation: None, out: out.region() });
        Ok(out)
    }

    /// `op(x)`; keeps the layout, because padding lanes may hold anything.
    pub fn unary(&mut self, op: UnaryOp, x: &Val) -> Result<Val, Reason> {
        let out = self.new_val(x.dtype, &x.dims, x.layout)?;
        let input = self.operand(x);
        self.emit(Instruction::Unary { op, input, out: out.region() });
        Ok(out)
    }
}

/// A constant that varies along channels only, padded with zeros to whole blocks, as a plain constant.
fn channel_constant(ctx: &LowerCtx<'_, '_>, val: &Val, dims: &[usize]) -> Option<Val> {
    let channels = dims[1];
    if val.dtype != DType::F32 || val.count() != channels {
        return None;
    }
    let mut values = val.constant()?.to_f32().ok()?;
    values.resize(channels.next_multiple_of(BLOCK), 0.0);
    ctx.constant_val(&[values.len()], &values).ok()
}

/// How [`channel_constant`] lies in memory, seen as a blocked value.
fn padded_channel(dims: &[usize]) -> Vec<usize> {
    let mut lie = vec![1; dims.len() + 1];
    lie[1] = dims[1].div_ceil(BLOCK);
    lie[dims.len()] = BLOCK;
    lie
}

/// Steps through an operand of extents `dims` while walking extents `out` of the same rank.
fn steps(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let own = contiguous(dims);
    (0..out.len()).map(|axis| if dims[axis] == 1 && out[axis] != 1 { 0 } else { own[axis] }).collect()
}

/// Drops extents of 1 and merges neighbours that every operand walks in one stride.
pub(crate) fn merge(dims: &[usize], strides: Vec<Vec<usize>>) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut out_dims: Vec<usize> = Vec::new();
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); strides.len()];
    for axis in 0..dims.len() {
        if dims[axis] == 1 {
            continue;
        }
        let joins = !out_dims.is_empty()
            && out.iter().zip(&strides).all(|(have, own)| have.last() == Some(&(own[axis] * dims[axis])));
        if joins {
            *out_dims.last_mut().expect("`joins` implies an entry") *= dims[axis];
            out.iter_mut().zip(&strides).for_each(|(have, own)| {
                *have.last_mut().expect("as long as `out_dims`") = own[axis];
            });
        } else {
            out_dims.push(dims[axis]);
            out.iter_mut().zip(&strides).for_each(|(have, own)| have.push(own[axis]));
        }
    }
    if out_dims.is_empty() {
        out_dims.push(1);
        // One element: contiguous by definition.
        out.iter_mut().for_each(|have| have.push(1));
    }
    let narrow = |list: &[usize]| list.iter().map(|&value| to_u32(value)).collect::<Vec<_>>();
    (narrow(&out_dims), out.iter().map(|list| narrow(list)).collect())
}

/// Strides of a per-channel operand against a value of extents `dims` in `layout`: what [`LowerCtx::broadcast`] gives
/// for it. Fusions recognise a per-channel constant by equality with this.
pub(crate) fn per_channel(dims: &[usize], layout: Layout, axis: usize) -> Strided2 {
    let physical = crate::context::physical(dims, layout);
    let lie = match layout {
        Layout::Blocked => padded_channel(dims),
        Layout::Plain => {
            let mut lie = vec![1; dims.len()];
            lie[axis] = dims[axis];
            lie
        }
    };
    let (dims, mut strides) = merge(&physical, vec![contiguous(&physical), steps(&lie, &physical)]);
    let b = strides.pop().expect("two lists were given");
    let a = strides.pop().expect("two lists were given");
    Strided2 { dims, a, b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_align_from_the_right() {
        let dims = broadcast_dims([&[3usize, 1, 5][..], &[4, 1][..], &[][..]]);
        assert_eq!(dims, Ok(vec![3, 4, 5]));
        assert!(broadcast_dims([&[2usize][..], &[3][..]]).is_err());
    }

    #[test]
    fn neighbours_merge_only_when_every_operand_allows() {
        let shape = per_channel(&[2, 3, 4, 5], Layout::Plain, 1);
        assert_eq!((shape.dims, shape.a, shape.b), (vec![2, 3, 20], vec![60, 20, 1], vec![0, 1, 0]));
        let shape = per_channel(&[1, 20, 4, 5], Layout::Blocked, 1);
        assert_eq!((shape.dims, shape.a, shape.b), (vec![2, 20, 16], vec![320, 16, 1], vec![16, 0, 1]));
    }
}
