//! Test helper: builds a graph of one node, lowers it and runs it on the engine.

use crate::{LowerError, Lowered, OperatorTable, lower_graph};
use cordon_engine::{Compute, KernelSet};
use cordon_graph::{Attribute, Graph, Node, NodeView, ShapeRules, Tensor, Value, ValueId};
use cordon_native::{Native, NativeError};
use std::collections::BTreeMap;

/// A tensor of `f32`.
pub(crate) fn f32s(dims: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(dims, data).expect("data fills the extents")
}

/// A tensor of `i64`.
pub(crate) fn i64s(dims: &[usize], data: &[i64]) -> Tensor {
    Tensor::from_i64(dims, data).expect("data fills the extents")
}

/// A tensor of `bool`.
pub(crate) fn bools(dims: &[usize], data: &[bool]) -> Tensor {
    Tensor::from_bool(dims, data).expect("data fills the extents")
}

/// `count` values between -1 and 1, the same on every call.
pub(crate) fn noise(dims: &[usize], seed: u32) -> Tensor {
    let count: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9).wrapping_add(0x1234_5678);
    let data: Vec<f32> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        })
        .collect();
    f32s(dims, &data)
}

/// Panics unless both have one shape and agree to a relative 1e-5 of the largest element.
pub(crate) fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims, want.dims);
    let (got, want) = (got.to_f32().expect("f32"), want.to_f32().expect("f32"));
    let scale = want.iter().fold(1e-3f32, |most, v| most.max(v.abs()));
    for (index, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= 1e-5 * scale, "element {index}: got {g}, want {w}");
    }
}

/// The segment on the trusted engine in this process.
pub(crate) fn load(lowered: &Lowered, compute: impl Into<Compute>) -> Native {
    let (program, weights) = (lowered.program.clone(), lowered.weights.clone());
    Native::load(program, weights, &lowered.outputs, |sink| lowered.write_weights(sink), compute).expect("loads")
}

/// One run, with the best kernels of this CPU.
pub(crate) fn run_lowered(lowered: &Lowered, inputs: &[Tensor]) -> Result<Vec<Tensor>, NativeError> {
    load(lowered, KernelSet::detect()).run(inputs)
}

/// A graph of one node, or of several in a chain built by [`OneNode::then`].
pub(crate) struct OneNode {
    graph: Graph,
    inputs: Vec<Tensor>,
}

impl OneNode {
    /// A node of ONNX's own domain at an opset, without inputs and with one output.
    pub(crate) fn new(op_type: &str, opset: i64) -> Self {
        let graph = Graph {
            ir_version: 8,
            opsets: BTreeMap::from([(String::new(), opset)]),
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let mut this = Self { graph, inputs: Vec::new() };
        this.push(op_type);
        this
    }

    fn value(&mut self, name: String) -> ValueId {
        self.graph.values.push(Value::new(name));
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn push(&mut self, op_type: &str) {
        let output = self.value(format!("out{}", self.graph.values.len()));
        self.graph.nodes.push(Node {
            name: format!("node{}", self.graph.nodes.len()),
            op_type: op_type.into(),
            domain: String::new(),
            inputs: Vec::new(),
            captures: Vec::new(),
            outputs: vec![Some(output)],
            attributes: BTreeMap::new(),
        });
        self.graph.outputs = vec![output];
    }

    fn node(&mut self) -> &mut Node {
        self.graph.nodes.last_mut().expect("`new` pushed one")
    }

    /// Appends a node whose first input is the first output of the one before.
    pub(crate) fn then(mut self, op_type: &str) -> Self {
        let previous = self.node().outputs[0];
        self.push(op_type);
        self.node().inputs.push(previous);
        self
    }

    /// Adds the output of node `index` as the next input.
    pub(crate) fn with_node(mut self, index: usize) -> Self {
        let value = self.graph.nodes[index].outputs[0];
        self.node().inputs.push(value);
        self
    }

    /// Adds graph input `index`, given before, as the next input.
    pub(crate) fn with_input(mut self, index: usize) -> Self {
        let value = self.graph.inputs[index];
        self.node().inputs.push(Some(value));
        self
    }

    /// Adds an input computed at run time.
    pub(crate) fn input(mut self, tensor: Tensor) -> Self {
        let id = self.value(format!("in{}", self.graph.values.len()));
        self.graph.values[id.0 as usize].ty = Some(tensor.ty());
        self.graph.inputs.push(id);
        self.inputs.push(tensor);
        self.node().inputs.push(Some(id));
        self
    }

    /// Adds a constant input.
    pub(crate) fn constant(mut self, tensor: Tensor) -> Self {
        let id = self.value(format!("const{}", self.graph.values.len()));
        self.graph.values[id.0 as usize].ty = Some(tensor.ty());
        self.graph.values[id.0 as usize].constant = Some(tensor);
        self.node().inputs.push(Some(id));
        self
    }

    /// Leaves an optional input out.
    pub(crate) fn no_input(mut self) -> Self {
        self.node().inputs.push(None);
        self
    }

    /// Gives the node one more output.
    pub(crate) fn another_output(mut self) -> Self {
        let id = self.value(format!("out{}", self.graph.values.len()));
        self.node().outputs.push(Some(id));
        self.graph.outputs.push(id);
        self
    }

    /// Sets an attribute.
    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, Attribute::Int(value))
    }

    /// Sets an attribute.
    pub(crate) fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, Attribute::Ints(values.to_vec()))
    }

    /// Sets an attribute.
    pub(crate) fn float(self, name: &str, value: f32) -> Self {
        self.attribute(name, Attribute::Float(value))
    }

    /// Sets an attribute.
    pub(crate) fn string(self, name: &str, value: &str) -> Self {
        self.attribute(name, Attribute::String(value.as_bytes().to_vec().into()))
    }

    /// Sets an attribute.
    pub(crate) fn attribute(mut self, name: &str, value: Attribute) -> Self {
        self.node().attributes.insert(name.into(), value);
        self
    }

    /// The graph with every shape inferred by the operator table.
    pub(crate) fn graph(&self) -> Graph {
        let mut graph = self.graph.clone();
        for index in 0..graph.nodes.len() {
            let view = NodeView::new(&graph, &graph.nodes[index]);
            let rule = OperatorTable.rule("", &view.node.op_type, view.opset()).expect("operator is in the table");
            let types = rule(&view).expect("shape rule");
            let outputs = view.node.outputs.clone();
            assert_eq!(types.len(), outputs.len(), "one type per output");
            for (id, ty) in outputs.into_iter().zip(types) {
                graph.values[id.expect("tests name every output").0 as usize].ty = Some(ty);
            }
        }
        graph
    }

    /// What the graph's inputs are fed.
    pub(crate) fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    /// Lowers without running.
    pub(crate) fn lower(&self) -> Result<crate::Lowered, LowerError> {
        lower_graph(&self.graph())
    }

    /// Lowers and runs; the graph's outputs.
    pub(crate) fn run(&self) -> Vec<Tensor> {
        let lowered = self.lower().expect("lowers");
        run_lowered(&lowered, &self.inputs).expect("runs")
    }
}
