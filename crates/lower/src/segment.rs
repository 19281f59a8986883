//! Entry points: a segment of a graph → [`Lowered`].

use crate::context::{LowerCtx, Reason, State, Val, dtype_of};
use crate::draft::Draft;
use crate::emit::Lowered;
use crate::error::LowerError;
use crate::ops;
use crate::tile::{self, Tiling};
use crate::weights::{Form, WeightSource};
use crate::{concat, emit, fuse, half, spill};
use cordon_engine::program::{DType, Instruction, Layout, Port, Via};
use cordon_graph::{ElemType, Graph, Node, NodeId, NodeView, Segment, TensorType, ValueId, segment};
use std::collections::{BTreeSet, HashMap};

/// How a segment's interface appears in the package.
#[derive(Clone, Debug)]
pub struct LowerOptions {
    /// Package value id per graph value. Empty: the graph's own indices.
    pub value_ids: HashMap<ValueId, u32>,
    /// Values an earlier or later secure segment keeps inside instead of letting them cross.
    pub retained: BTreeSet<ValueId>,
    /// Batch the shapes were bound to.
    pub batch: u32,
    /// How small it is cut.
    pub tiling: Tiling,
    /// Whether convolutions may use Winograd's method where that is faster: for scratch memory and the last bits of
    /// results. On the golden networks the largest error of the
    /// outputs stays below 2.5e-5 of their maximum with it.
    pub winograd: bool,
    /// Whether constants that convolutions and products multiply by are stored as f16, each rounded to the nearest; one out
    /// of range is an error.
    pub f16_weights: bool,
}

impl Default for LowerOptions {
    fn default() -> Self {
        Self {
            value_ids: HashMap::new(),
            retained: BTreeSet::new(),
            batch: 1,
            tiling: Tiling::default(),
            winograd: true,
            f16_weights: false,
        }
    }
}

/// Lowers a whole graph as one secure segment.
pub fn lower_graph(graph: &Graph) -> Result<Lowered, LowerError> {
    let mut whole = segment(graph, graph.node_ids());
    // The graph's own order and its own outputs: an output may be an input or a constant, and inputs may be unused.
    whole.inputs = graph.inputs.clone();
    whole.outputs = graph.outputs.clone();
    lower(graph, &whole, &LowerOptions::default())
}

/// Lowers one segment. Shapes must be known ([`cordon_graph::infer`]).
pub fn lower(graph: &Graph, segment: &Segment, options: &LowerOptions) -> Result<Lowered, LowerError> {
    lower_untiled(graph, segment, options)?.tile(&options.tiling)
}

/// A segment lowered and fused, to be tiled in one way or several.
#[derive(Clone, Debug)]
pub struct Untiled {
    /// Ways to say the same; which takes least is known when it is tiled.
    forms: Vec<Draft>,
    batch: u32,
    winograd: bool,
    outputs: Vec<ElemType>,
}

impl Untiled {
    /// Cuts it, plans its arena and lays out its weights.
    pub fn tile(&self, tiling: &Tiling) -> Result<Lowered, LowerError> {
        match tiling.arena {
            Some(bytes) => self.in_bands(bytes).tile(&Tiling { arena: None, ..*tiling }),
            None => self.finish(tiling),
        }
    }

    /// Cuts rows only, for an arena of so many bytes: [`Untiled::tile`] with other tiles of weights need not do it again.
    pub fn in_bands(&self, arena: u64) -> Self {
        // Joined before it is cut, a value need not be cut apart and put together again; joined afterwards, it takes its
        // room only as far as nothing was cut.
        let joined = self.forms.iter().filter_map(concat::in_place);
        let mut forms: Vec<Draft> = self.forms.iter().cloned().chain(joined).collect();
        forms.iter_mut().for_each(|draft| tile::rows(draft, arena));
        Self { forms, ..self.clone() }
    }

    fn finish(&self, tiling: &Tiling) -> Result<Lowered, LowerError> {
        let scratch = if self.winograd { tiling.scratch.unwrap_or(u64::MAX) } else { 0 };
        let mut best: Option<Lowered> = None;
        for form in &self.forms {
            let mut copied = form.clone();
            if let Some(bytes) = tiling.weights {
                tile::channels(&mut copied, bytes);
            }
            // A joined value takes all its room as soon as its first part exists.
            for mut draft in concat::in_place(&copied).into_iter().chain([copied]) {
                tiling.spill.inspect(|&bytes| spill::apply(&mut draft, bytes));
                let lowered = emit::finish(draft, self.batch, scratch)?;
                let size = |it: &Lowered| (it.arena.bytes, it.program.instructions.len());
                if best.as_ref().is_none_or(|best| size(&lowered) < size(best)) {
                    best = Some(lowered);
                }
            }
        }
        let best = best.ok_or_else(|| LowerError::Misuse("a segment without a form".into()))?;
        Ok(Lowered { outputs: self.outputs.clone(), ..best })
    }
}

/// Lowers one segment as far as tiling does not matter. `options.tiling` is not looked at.
pub fn lower_untiled(graph: &Graph, segment: &Segment, options: &LowerOptions) -> Result<Untiled, LowerError> {
    let mut state = State::new(graph);
    for &id in &segment.inputs {
        let val = input_port(&mut state, id)?;
        let port = port(&state, id, &val, options)?;
        state.draft.inputs.push(port);
        let val = held(&mut state, id, val)?;
        state.bound.insert(id, val);
    }
    for &id in &segment.nodes {
        lower_node(&mut state, id)?;
    }
    for &id in &segment.outputs {
        let val = output_port(&mut state, id)?;
        let port = port(&state, id, &val, options)?;
        state.draft.outputs.push(port);
    }
    fuse::fuse(&mut state.draft);
    let mut draft = state.draft;
    emit::remove_dead(&mut draft);
    if options.f16_weights {
        half::mark(&mut draft, graph)?;
    }
    let outputs =
        segment.outputs.iter().map(|&id| value_type(graph, id).map(|ty| ty.elem)).collect::<Result<_, _>>()?;
    Ok(Untiled { forms: vec![draft], batch: options.batch, winograd: options.winograd, outputs })
}

/// Why a node cannot be placed in a secure segment; `None` when it can. Needs shapes.
pub fn unsupported_reason(graph: &Graph, node: NodeId) -> Option<String> {
    let mut state = State::new(graph);
    let view = graph.node(node);
    for id in view.inputs.iter().flatten().copied() {
        if graph.value(id).constant.is_some() || state.bound.contains_key(&id) {
            continue;
        }
        match input_port(&mut state, id) {
            Ok(val) => state.bound.insert(id, val),
            Err(error) => return Some(error.to_string()),
        };
    }
    match lower_node(&mut state, node) {
        Ok(()) => None,
        Err(LowerError::Unsupported { reason, .. }) => Some(reason),
        Err(error) => Some(error.to_string()),
    }
}

fn lower_node(state: &mut State<'_>, id: NodeId) -> Result<(), LowerError> {
    let graph = state.graph;
    let node = graph.node(id);
    let view = NodeView::new(graph, node);
    let unsupported = |reason: Reason| unsupported(&view, reason);
    for value in node.inputs.iter().chain(&node.outputs).flatten() {
        check_type(&view, &graph.value(*value).name, value_type(graph, *value)?)?;
    }
    if !ops::facts::facts(node).takes_bytes() {
        for value in node.inputs.iter().chain(&node.outputs).flatten() {
            let ty = value_type(graph, *value)?;
            if dtype_of(ty.elem) == Some(DType::U8) {
                let name = &graph.value(*value).name;
                return Err(unsupported(format!("its value `{name}` has element type {}", ty.elem).into()));
            }
        }
    }
    if !node.captures.is_empty() {
        return Err(unsupported("nodes with subgraphs are not supported".into()));
    }
    let lower = ops::find(&node.domain, &node.op_type, view.opset())
        .and_then(|entry| entry.lower)
        .ok_or_else(|| unsupported("the trusted engine has no such operator at this opset".into()))?;
    let mut ctx = LowerCtx::new(view, state);
    lower(&mut ctx).map_err(unsupported)?;
    match missing_output(state, node) {
        Some(index) => Err(unsupported(format!("its output {index} is not supported").into())),
        None => Ok(()),
    }
}

fn missing_output(state: &State<'_>, node: &Node) -> Option<usize> {
    node.outputs.iter().position(|output| output.is_some_and(|id| !state.bound.contains_key(&id)))
}

fn unsupported(view: &NodeView<'_>, reason: Reason) -> LowerError {
    let node = view.node;
    let op_type = match node.domain.as_str() {
        "" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    };
    LowerError::Unsupported { node: node.name.clone(), op_type, opset: view.opset(), reason: reason.0 }
}

fn value_type(graph: &Graph, id: ValueId) -> Result<TensorType, LowerError> {
    let value = graph.value(id);
    match (&value.ty, &value.constant) {
        (Some(ty), _) => Ok(ty.clone()),
        (None, Some(tensor)) => Ok(tensor.ty()),
        (None, None) => Err(LowerError::UnknownShape { value: value.name.clone() }),
    }
}

/// Refuses f16, bf16, f64, strings and the like by name.
fn check_type(view: &NodeView<'_>, value: &str, ty: TensorType) -> Result<(), LowerError> {
    match dtype_of(ty.elem) {
        Some(_) => Ok(()),
        None => Err(unsupported(view, format!("its value `{value}` has element type {}", ty.elem).into())),
    }
}

fn input_port(state: &mut State<'_>, id: ValueId) -> Result<Val, LowerError> {
    let ty = value_type(state.graph, id)?;
    let name = &state.graph.value(id).name;
    let dtype = port_dtype(name, &ty)?;
    state
        .new_val(dtype, &ty.dims, Layout::Plain)
        .map_err(|reason| LowerError::TooLarge { what: format!("input `{name}`: {reason}") })
}

/// Every output gets plain memory of its own, apart from inputs and other outputs.
fn output_port(state: &mut State<'_>, id: ValueId) -> Result<Val, LowerError> {
    let graph = state.graph;
    let name = &graph.value(id).name;
    port_dtype(name, &value_type(graph, id)?)?;
    let internal = |reason: Reason| LowerError::Misuse(format!("output `{name}` of the segment: {reason}"));
    let val = state.get(id).map_err(internal)?;
    let val = state.plain(&val).map_err(internal)?;
    let val = held(state, id, val)?;
    let taken = |slot: u32| state.draft.inputs.iter().chain(&state.draft.outputs).any(|port| port.region.start == slot);
    match val.slot() {
        Some(slot) if !taken(slot) => Ok(val),
        _ => state.duplicate(&val).map_err(internal),
    }
}

/// The other form of an int8 value: inside it is held as the value plus 128, at ports as it is.
fn held(state: &mut State<'_>, id: ValueId, val: Val) -> Result<Val, LowerError> {
    if value_type(state.graph, id)?.elem != ElemType::Int8 {
        return Ok(val);
    }
    let name = &state.graph.value(id).name;
    let too_large = |reason: Reason| LowerError::TooLarge { what: format!("`{name}`: {reason}") };
    let out = state.new_val(DType::U8, &val.dims, Layout::Plain).map_err(too_large)?;
    let flipped: Vec<u8> = (0..=255u8).map(|byte| byte ^ 0x80).collect();
    let table = state.draft.weight(WeightSource::new(Form::U8(flipped.into())));
    let input = state.operand(&val);
    state.draft.instructions.push(Instruction::Lookup { table, input, out: out.region() });
    Ok(out)
}

fn port_dtype(name: &str, ty: &TensorType) -> Result<DType, LowerError> {
    match ty.elem {
        // Inside, Int32 travels as I64; at the boundary the widths differ.
        ElemType::Int32 => None,
        elem => dtype_of(elem),
    }
    .ok_or_else(|| LowerError::ElementType { value: name.to_owned(), elem: ty.elem.to_string() })
}

fn port(state: &State<'_>, id: ValueId, val: &Val, options: &LowerOptions) -> Result<Port, LowerError> {
    let value = match options.value_ids.get(&id) {
        Some(&value) => value,
        None if options.value_ids.is_empty() => id.0,
        None => {
            let name = &state.graph.value(id).name;
            return Err(LowerError::Misuse(format!("value `{name}` has no package value id")));
        }
    };
    let via = if options.retained.contains(&id) { Via::Retain } else { Via::Cross };
    let shape = val.dims.iter().map(|&dim| crate::context::to_u32(dim)).collect();
    Ok(Port { value, shape, region: val.region(), via })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, f32s, noise, run_lowered};
    use cordon_fault::{Fault, Next};
    use cordon_graph::Tensor;
    use cordon_native::NativeError;

    #[test]
    fn outputs_that_are_inputs_or_constants_get_memory_of_their_own() {
        let mut graph = OneNode::new("Identity", 14).input(noise(&[3], 1)).graph();
        let output = graph.outputs[0];
        graph.outputs.push(output);
        graph.outputs.push(graph.inputs[0]);
        let constant = Tensor::from_f32([2], &[7.0, 8.0]).expect("fits");
        graph.values.push(cordon_graph::Value {
            ty: Some(constant.ty()),
            constant: Some(constant.clone()),
            ..cordon_graph::Value::new("c")
        });
        graph.outputs.push(ValueId(graph.values.len() as u32 - 1));
        let lowered = lower_graph(&graph).expect("lowers");
        let out = run_lowered(&lowered, &[noise(&[3], 1)]).expect("runs");
        assert_eq!(out, vec![noise(&[3], 1), noise(&[3], 1), noise(&[3], 1), constant]);
    }

    #[test]
    fn ports_carry_the_callers_ids_and_retention() {
        let graph = OneNode::new("Relu", 14).input(noise(&[3], 1)).graph();
        let whole = segment(&graph, graph.node_ids());
        let mut options = LowerOptions {
            value_ids: HashMap::from([(graph.inputs[0], 40), (graph.outputs[0], 41)]),
            retained: BTreeSet::from([graph.outputs[0]]),
            ..LowerOptions::default()
        };
        let program = lower(&graph, &whole, &options).expect("lowers").program;
        assert_eq!((program.inputs[0].value, program.inputs[0].via), (40, Via::Cross));
        assert_eq!((program.outputs[0].value, program.outputs[0].via), (41, Via::Retain));
        options.value_ids.remove(&graph.outputs[0]);
        assert!(matches!(lower(&graph, &whole, &options), Err(LowerError::Misuse(_))));
    }

    #[test]
    fn half_precision_is_refused_by_name() {
        let mut graph = OneNode::new("Relu", 14).input(noise(&[3], 1)).graph();
        for value in &mut graph.values {
            value.ty = Some(TensorType::new(ElemType::Float16, [3]));
        }
        let reason = unsupported_reason(&graph, NodeId(0)).expect("refused");
        assert!(reason.contains("float16"), "{reason}");
        let error = lower_graph(&graph).expect_err("refused").to_string();
        assert!(error.contains("float16"), "{error}");
    }

    #[test]
    fn an_unknown_operator_is_named_with_node_and_opset() {
        let mut graph = OneNode::new("Relu", 14).input(noise(&[3], 1)).graph();
        assert_eq!(unsupported_reason(&graph, NodeId(0)), None);
        graph.nodes[0].op_type = "Frobnicate".into();
        let error = lower_graph(&graph).expect_err("refused");
        for part in ["node0", "Frobnicate", "opset 14"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
        assert_eq!((error.next(), error.place().node), (Next::MoveCut, Some("node0")));
    }

    #[test]
    fn weights_used_twice_are_stored_once() {
        let (weight, x) = (noise(&[8, 8], 2), noise(&[2, 8], 1));
        let node = OneNode::new("MatMul", 14).input(x).constant(weight.clone()).then("MatMul").constant(weight);
        let lowered = node.lower().expect("lowers");
        assert_eq!(lowered.weights.0.len(), 1);
        let mut written = 0;
        lowered.write_weights(&mut |bytes| written += bytes.len() as u64);
        assert_eq!((written, lowered.window_bytes()), (lowered.weight_bytes(), 8 * 16 * 4));
    }

    #[test]
    fn inputs_of_another_shape_are_refused() {
        let lowered = OneNode::new("Relu", 14).input(noise(&[3], 1)).lower().expect("lowers");
        assert!(matches!(run_lowered(&lowered, &[f32s(&[4], &[0.0; 4])]), Err(NativeError::Misuse(_))));
        assert!(matches!(run_lowered(&lowered, &[]), Err(NativeError::Misuse(_))));
    }
}
