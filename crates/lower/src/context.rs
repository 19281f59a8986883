//! [`LowerCtx`]: what an operator's lowering function sees.
//!
//! A [`Val`] is a handle on an intermediate value or a constant, with its logical extents and its layout. Operators ask for
//! the layout they need ([`LowerCtx::plain`], [`LowerCtx::blocked`]); the copies between layouts are inserted once and
//! remembered. Extents in [`Val::dims`] are always the ONNX ones, whatever the layout.

use crate::constant::Constant;
use crate::draft::Draft;
use crate::layout::block_copies;
use crate::val::{Source, constant, element_count};
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{DType, Instruction, Layout, Operand, StridedCopy, Tile};
use cordon_graph::{Graph, NodeView, ShapeError, Tensor, TensorError, TensorType, ValueId};
use std::collections::HashMap;

pub(crate) use crate::val::copy_all;
pub use crate::val::{Val, contiguous, dtype_of, physical, to_i32, to_u32};

/// Channels in one block.
pub const BLOCK: usize = cordon_kernels::geometry::BLOCK;

/// Why the trusted engine cannot run a node; [`crate::LowerError::Unsupported`] adds which node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(pub String);

impl From<String> for Reason {
    fn from(what: String) -> Self {
        Self(what)
    }
}

impl From<&str> for Reason {
    fn from(what: &str) -> Self {
        Self(what.into())
    }
}

impl From<TensorError> for Reason {
    fn from(error: TensorError) -> Self {
        Self(error.to_string())
    }
}

impl From<ShapeError> for Reason {
    fn from(error: ShapeError) -> Self {
        Self(error.to_string())
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// State of one segment's lowering, shared by its nodes.
pub(crate) struct State<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) draft: Draft,
    pub(crate) bound: HashMap<ValueId, Val>,
    plain_of: HashMap<(u32, Vec<usize>), Val>,
    blocked_of: HashMap<(u32, Vec<usize>), Val>,
}

impl<'g> State<'g> {
    pub(crate) fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            draft: Draft::default(),
            bound: HashMap::new(),
            plain_of: HashMap::new(),
            blocked_of: HashMap::new(),
        }
    }

    /// The value as seen by a consumer: bound by an earlier node, a segment input, or a constant.
    pub(crate) fn get(&self, id: ValueId) -> Result<Val, Reason> {
        if let Some(val) = self.bound.get(&id) {
            return Ok(val.clone());
        }
        let value = self.graph.value(id);
        match Constant::of(id, value) {
            Some(known) => constant(known),
            None => Err(format!("its input `{}` is not computed before it inside the segment", value.name).into()),
        }
    }

    pub(crate) fn new_val(&mut self, dtype: DType, dims: &[usize], layout: Layout) -> Result<Val, Reason> {
        let len = element_count(&physical(dims, layout))?;
        let slot = self.draft.slot(dtype, len);
        Ok(Val { dtype, dims: dims.to_vec(), layout, source: Source::Slot(slot) })
    }

    pub(crate) fn operand(&mut self, val: &Val) -> Operand {
        match &val.source {
            Source::Slot(_) => Operand::Arena(val.region()),
            Source::Constant(constant) => {
                // Flat, so that one tensor used under two shapes is stored once.
                let mut flat = constant.clone();
                flat.tensor.dims = vec![val.count()];
                Operand::Weight(self.draft.weight(WeightSource::new(Form::Raw(flat))))
            }
        }
    }

    pub(crate) fn plain(&mut self, val: &Val) -> Result<Val, Reason> {
        let Some(slot) = val.slot() else { return Ok(val.clone()) };
        if val.layout == Layout::Plain {
            return Ok(val.clone());
        }
        let key = (slot, val.dims.clone());
        if let Some(done) = self.plain_of.get(&key) {
            return Ok(done.clone());
        }
        let spatial: usize = val.dims[2..].iter().product();
        let out = if let Some(out) = self.moved_as_bytes(val, Layout::Plain)? {
            out
        } else if spatial == 1 && (val.dims[0] == 1 || val.dims[1].is_multiple_of(BLOCK)) {
            // The elements already lie in plain order; padding lanes, if any, come after all of them.
            Val { layout: Layout::Plain, ..val.clone() }
        } else {
            let out = self.new_val(val.dtype, &val.dims, Layout::Plain)?;
            for piece in block_copies(&val.dims) {
                let geometry = piece.into_plain();
                self.draft.instructions.push(Instruction::Copy {
                    geometry,
                    input: Operand::Arena(val.region()),
                    out: out.region(),
                });
            }
            out
        };
        self.plain_of.insert(key, out.clone());
        Ok(out)
    }

    pub(crate) fn blocked(&mut self, val: &Val) -> Result<Val, Reason> {
        if val.layout == Layout::Blocked {
            return Ok(val.clone());
        }
        if val.dims.len() < 2 {
            return Err("only values with a channel axis have a blocked form".into());
        }
        let val = self.arena(val)?;
        let key = (val.region().start, val.dims.clone());
        if let Some(done) = self.blocked_of.get(&key) {
            return Ok(done.clone());
        }
        let spatial: usize = val.dims[2..].iter().product();
        let out = if let Some(out) = self.moved_as_bytes(&val, Layout::Blocked)? {
            out
        } else if spatial == 1 && val.dims[1].is_multiple_of(BLOCK) {
            Val { layout: Layout::Blocked, ..val.clone() }
        } else {
            let out = self.new_val(val.dtype, &val.dims, Layout::Blocked)?;
            for piece in block_copies(&val.dims) {
                let geometry = piece.into_blocked();
                self.draft.instructions.push(Instruction::Copy {
                    geometry,
                    input: Operand::Arena(val.region()),
                    out: out.region(),
                });
            }
            out
        };
        self.blocked_of.insert(key, out.clone());
        Ok(out)
    }

    /// The other layout of a value that was bytes just before: the bytes change their layout, and are numbers after.
    fn moved_as_bytes(&mut self, val: &Val, layout: Layout) -> Result<Option<Val>, Reason> {
        let made = self.draft.instructions.iter().rev().find(|it| it.out().start == val.region().start);
        let Some(&Instruction::Dequantize { scale, zero, input: Operand::Arena(bytes), out }) = made else {
            return Ok(None);
        };
        if out.len != val.len() || bytes.len != out.len {
            return Ok(None);
        }
        let bytes = Val { dtype: DType::U8, source: Source::Slot(bytes.start), ..val.clone() };
        let bytes = if layout == Layout::Blocked { self.blocked(&bytes)? } else { self.plain(&bytes)? };
        let out = self.new_val(DType::F32, &val.dims, layout)?;
        let input = self.operand(&bytes);
        self.draft.instructions.push(Instruction::Dequantize { scale, zero, input, out: out.region() });
        Ok(Some(out))
    }

    pub(crate) fn arena(&mut self, val: &Val) -> Result<Val, Reason> {
        if val.slot().is_some() { Ok(val.clone()) } else { self.duplicate(val) }
    }

    /// A copy of a plain value or constant in memory of its own.
    pub(crate) fn duplicate(&mut self, val: &Val) -> Result<Val, Reason> {
        let out = self.new_val(val.dtype, &val.dims, Layout::Plain)?;
        let input = self.operand(val);
        self.draft.instructions.push(Instruction::Copy { geometry: copy_all(val.count()), input, out: out.region() });
        Ok(out)
    }
}

/// Lowers one node: reads inputs, emits instructions, binds outputs.
pub struct LowerCtx<'s, 'g> {
    /// The node: attributes, opset, types.
    pub view: NodeView<'g>,
    state: &'s mut State<'g>,
}

impl<'s, 'g> LowerCtx<'s, 'g> {
    pub(crate) fn new(view: NodeView<'g>, state: &'s mut State<'g>) -> Self {
        Self { view, state }
    }

    /// Whether the node has this input at all.
    pub fn has_input(&self, index: usize) -> bool {
        self.view.input_id(index).is_some()
    }

    /// Number of input positions.
    pub fn input_count(&self) -> usize {
        self.view.inputs()
    }

    /// A required input, in whatever layout it has.
    pub fn input(&self, index: usize) -> Result<Val, Reason> {
        self.optional_input(index)?.ok_or_else(|| format!("input {index} is missing").into())
    }

    /// An optional input.
    pub fn optional_input(&self, index: usize) -> Result<Option<Val>, Reason> {
        match self.view.input_id(index) {
            Some(id) => self.state.get(id).map(Some),
            None => Ok(None),
        }
    }

    /// A required input in plain layout (constants are).
    pub fn plain_input(&mut self, index: usize) -> Result<Val, Reason> {
        let val = self.input(index)?;
        self.plain(&val)
    }

    /// The data of a constant `f32` input; `None` when absent or computed at run time.
    pub fn constant_f32(&self, index: usize) -> Option<Vec<f32>> {
        let val = self.optional_input(index).ok()??;
        val.constant()?.to_f32().ok()
    }

    /// The data of a constant integer input; `None` when absent or computed at run time.
    pub fn constant_i64(&self, index: usize) -> Option<Vec<i64>> {
        let val = self.optional_input(index).ok()??;
        val.constant()?.to_i64().ok()
    }

    /// The data of a constant integer input that the lowering cannot do without.
    pub fn required_i64(&self, index: usize, name: &str) -> Result<Vec<i64>, Reason> {
        self.constant_i64(index).ok_or_else(|| format!("input `{name}` is not a constant").into())
    }

    /// Inferred type of an output.
    pub fn output_type(&self, index: usize) -> Result<&'g TensorType, Reason> {
        let id = self.view.node.outputs.get(index).copied().flatten();
        let id = id.ok_or_else(|| format!("output {index} is missing"))?;
        self.view.graph.value(id).ty.as_ref().ok_or_else(|| format!("output {index} has no static shape").into())
    }

    /// Inferred extents of an output.
    pub fn output_dims(&self, index: usize) -> Result<&'g [usize], Reason> {
        Ok(&self.output_type(index)?.dims)
    }

    /// Whether the output exists in the graph.
    pub fn has_output(&self, index: usize) -> bool {
        self.view.node.outputs.get(index).is_some_and(Option::is_some)
    }

    /// A fresh intermediate value.
    pub fn new_val(&mut self, dtype: DType, dims: &[usize], layout: Layout) -> Result<Val, Reason> {
        self.state.new_val(dtype, dims, layout)
    }

    /// The same value in plain layout.
    pub fn plain(&mut self, val: &Val) -> Result<Val, Reason> {
        self.state.plain(val)
    }

    /// The same value in blocked layout. Needs at least two dimensions; a constant is copied into the arena first.
    pub fn blocked(&mut self, val: &Val) -> Result<Val, Reason> {
        self.state.blocked(val)
    }

    /// The same value in the arena: constants are copied there.
    pub fn arena(&mut self, val: &Val) -> Result<Val, Reason> {
        self.state.arena(val)
    }

    /// What an instruction reads: arena memory, or the whole constant as a weight.
    pub fn operand(&mut self, val: &Val) -> Operand {
        self.state.operand(val)
    }

    /// A computed constant as a weight.
    pub fn weight_f32(&mut self, values: Vec<f32>) -> Tile {
        self.state.draft.weight(WeightSource::new(Form::F32(values)))
    }

    /// A computed constant as a weight.
    pub fn weight_i64(&mut self, values: Vec<i64>) -> Tile {
        self.state.draft.weight(WeightSource::new(Form::I64(values)))
    }

    /// A constant that is integers times scales, already multiplied: what it is made of is remembered for the fusions.
    pub(crate) fn dequantised(&self, tensor: Tensor, scale: Vec<f32>) -> Result<Val, Reason> {
        constant(Constant { scales: Some(scale.into()), ..Constant::computed(tensor) })
    }

    pub(crate) fn weight(&mut self, source: WeightSource) -> Tile {
        self.state.draft.weight(source)
    }

    /// A computed constant as a value.
    pub fn constant_val(&self, dims: &[usize], values: &[f32]) -> Result<Val, Reason> {
        constant(Constant::computed(Tensor::from_f32(dims, values)?))
    }

    /// A computed integer constant as a value.
    pub fn constant_i64_val(&self, dims: &[usize], values: &[i64]) -> Result<Val, Reason> {
        constant(Constant::computed(Tensor::from_i64(dims, values)?))
    }

    /// The same elements with other extents: no copy when the value is plain.
    pub fn reshape(&mut self, val: &Val, dims: &[usize]) -> Result<Val, Reason> {
        if val.dims == dims {
            return Ok(val.clone());
        }
        if val.count() != dims.iter().product::<usize>() {
            return Err(format!("cannot reshape {:?} to {dims:?}", val.dims).into());
        }
        let mut out = self.plain(val)?;
        if let Source::Constant(constant) = &mut out.source {
            constant.tensor.dims = dims.to_vec();
        }
        out.dims = dims.to_vec();
        Ok(out)
    }

    /// Appends an instruction.
    pub fn emit(&mut self, instruction: Instruction) {
        self.state.draft.instructions.push(instruction);
    }

    /// Copies `val` (plain) by `geometry` into `out`; several copies may fill one output.
    pub fn copy(&mut self, geometry: StridedCopy, val: &Val, out: &Val) {
        let input = self.operand(val);
        self.emit(Instruction::Copy { geometry, input, out: out.region() });
    }

    /// Binds an output. Its extents must be the inferred ones.
    pub fn output(&mut self, index: usize, val: Val) -> Result<(), Reason> {
        let Some(id) = self.view.node.outputs.get(index).copied().flatten() else { return Ok(()) };
        if let Some(ty) = &self.view.graph.value(id).ty {
            if ty.dims != val.dims {
                return Err(format!("output {index} came out as {:?}, inferred {:?}", val.dims, ty.dims).into());
            }
            if dtype_of(ty.elem) != Some(val.dtype) {
                return Err(format!("output {index} of type {} is not supported", ty.elem).into());
            }
        }
        self.state.bound.insert(id, val);
        Ok(())
    }
}
