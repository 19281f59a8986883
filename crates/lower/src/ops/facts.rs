//! What is known of an operator, whoever runs it: plans, warnings and the golden check go by these facts.
//!
//! They stand in the operator table, on the line of the operator they describe. Of an operator that is not in the table
//! nothing is known: it counts as non-linear, without weights, computing with numbers.

use super::Operator;
use cordon_graph::{Graph, Node, ValueId};

/// In which of the inputs that are not constant the outputs are affine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineIn {
    /// In all of them together: sums, means, copies.
    All,
    /// In each of them while the others are constant: products.
    Each,
    /// In the first while the others are constant: quotients.
    First,
    /// In none, or it is not known.
    None,
}

/// Where the elements of the outputs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// They are computed.
    Computed,
    /// Each is an element of an input; which one, no data but indices decide. Bytes of any meaning may be moved so.
    Moved,
    /// Each is an element of an input or zero; their values decide which.
    Chosen,
}

/// Whether each output element depends on the elements at its own place only, and whether it tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elementwise {
    /// It depends on others too.
    No,
    /// It does, and different inputs may give one output.
    Yes,
    /// It does, and the varying input can be computed back where the parameters are not degenerate (a slope of zero).
    Invertible,
}

/// How an operator takes part in computing with quantised bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// It does not: bytes it is given are numbers like any others.
    No,
    /// Numbers become bytes.
    Quantise,
    /// Bytes become numbers.
    Dequantise,
    /// Bytes become bytes of another scale.
    Requantise,
}

/// The facts of one operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// In which inputs it is affine.
    pub affine: AffineIn,
    /// Operands, by position, that are weights where they are constant.
    pub weights: &'static [usize],
    /// Whether a node with such a weight is a *layer*, which cuts are counted by: its product with the input.
    pub layer: bool,
    /// Where output elements come from.
    pub elements: Elements,
    /// Whether it works on one place at a time.
    pub elementwise: Elementwise,
    /// Whether a result of the input's type may take the input's memory, element-wise or not.
    pub in_place: bool,
    /// Its part in quantised arithmetic.
    pub bytes: Bytes,
    /// Whether the results lie between 0 and 1 and are meant as probabilities.
    pub probabilities: bool,
}

impl Facts {
    /// Of an operator that is not in the table.
    pub const UNKNOWN: Self = Self {
        affine: AffineIn::None,
        weights: &[],
        layer: false,
        elements: Elements::Computed,
        elementwise: Elementwise::No,
        in_place: false,
        bytes: Bytes::No,
        probabilities: false,
    };

    /// Whether bytes whose meaning is a scale may pass through, so that the trusted engine takes them.
    pub fn takes_bytes(&self) -> bool {
        self.elements == Elements::Moved || self.bytes != Bytes::No
    }
}

/// The facts of a node's operator. They are those of every opset that has it.
pub fn facts(node: &Node) -> &'static Facts {
    super::named(&node.domain, &node.op_type).next().map_or(&Facts::UNKNOWN, |operator| &operator.facts)
}

/// The node's weights: constants at the positions where its operator multiplies by them.
pub fn weights<'a>(graph: &'a Graph, node: &'a Node) -> impl Iterator<Item = ValueId> + 'a {
    let operands = facts(node).weights.iter().filter_map(|&at| node.inputs.get(at).copied().flatten());
    operands.filter(|&id| graph.value(id).constant.is_some())
}

/// Whether the node is a layer with weights in the literature's sense.
pub fn is_layer(graph: &Graph, node: &Node) -> bool {
    facts(node).layer && weights(graph, node).next().is_some()
}

/// Whether the node is an affine function of its inputs that are not constant.
pub fn is_affine(graph: &Graph, node: &Node) -> bool {
    let varies = |input: &Option<ValueId>| input.is_some_and(|id| graph.value(id).constant.is_none());
    let varying = node.inputs.iter().filter(|input| varies(input)).count();
    match facts(node).affine {
        AffineIn::All => true,
        AffineIn::Each => varying <= 1,
        AffineIn::First => varying == 0 || varying == 1 && node.inputs.first().is_some_and(varies),
        AffineIn::None => false,
    }
}

/// Facts as the operator table writes them, behind the operator's name and functions.
impl Operator {
    /// Affine in its inputs.
    pub(super) const fn affine(mut self, affine: AffineIn) -> Self {
        self.facts.affine = affine;
        self
    }

    /// A product: affine in each operand, and a layer where a constant stands at one of `weights`.
    pub(super) const fn layer(self, weights: &'static [usize]) -> Self {
        let mut this = self.weights(weights).affine(AffineIn::Each);
        this.facts.layer = true;
        this
    }

    /// Has weights, but is no layer that cuts are counted by.
    pub(super) const fn weights(mut self, weights: &'static [usize]) -> Self {
        self.facts.weights = weights;
        self
    }

    /// Moves elements and changes none.
    pub(super) const fn moves(mut self) -> Self {
        self.facts.elements = Elements::Moved;
        self.affine(AffineIn::All)
    }

    /// Gives the input's elements other extents, or none: they stay where they are.
    pub(super) const fn relabels(self) -> Self {
        self.moves().in_place()
    }

    /// Chooses among the input's elements.
    pub(super) const fn chooses(mut self) -> Self {
        self.facts.elements = Elements::Chosen;
        self
    }

    /// A function of one place, not one to one.
    pub(super) const fn elementwise(mut self) -> Self {
        self.facts.elementwise = Elementwise::Yes;
        self.in_place()
    }

    /// A function of one place, one to one.
    pub(super) const fn invertible(mut self) -> Self {
        self.facts.elementwise = Elementwise::Invertible;
        self.in_place()
    }

    /// May write over its input.
    pub(super) const fn in_place(mut self) -> Self {
        self.facts.in_place = true;
        self
    }

    /// Takes part in quantised arithmetic.
    pub(super) const fn bytes(mut self, bytes: Bytes) -> Self {
        self.facts.bytes = bytes;
        self
    }

    /// Gives probabilities.
    pub(super) const fn probabilities(mut self) -> Self {
        self.facts.probabilities = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{all, supported};
    use crate::testing::{OneNode, f32s, noise};
    use cordon_graph::{ElemType, Tensor};

    #[test]
    fn facts_are_those_of_every_opset() {
        for a in all() {
            for b in all().filter(|b| (b.domain, b.op_type) == (a.domain, a.op_type)) {
                assert_eq!(a.facts, b.facts, "{}", a.op_type);
            }
        }
    }

    #[test]
    fn no_fact_contradicts_another() {
        for operator in all() {
            let facts = operator.facts;
            assert!(!facts.layer || !facts.weights.is_empty(), "{} has no weight operand", operator.op_type);
            assert!(facts.elements != Elements::Moved || facts.affine != AffineIn::None, "{}", operator.op_type);
        }
    }

    /// The newest entry of an operator on one float input and no attributes.
    fn of_one(operator: &Operator, input: &Tensor) -> Tensor {
        OneNode::new(operator.op_type, operator.opsets.1).input(input.clone()).run().remove(0)
    }

    const OF_ONE: [&str; 24] = [
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Gelu",
        "Erf",
        "Softplus",
        "Mish",
        "Sqrt",
        "Exp",
        "Log",
        "Neg",
        "Abs",
        "Floor",
        "Ceil",
        "Round",
        "Reciprocal",
        "Identity",
        "Softmax",
        "LogSoftmax",
        "Flatten",
    ];

    fn each_of_one(check: impl Fn(&Operator)) {
        let mut checked = 0;
        for operator in supported().filter(|it| OF_ONE.contains(&it.op_type) && it.opsets.1 == super::super::MAX_OPSET)
        {
            check(operator);
            checked += 1;
        }
        assert_eq!(checked, OF_ONE.len());
    }

    #[test]
    fn element_wise_is_what_ignores_its_neighbours() {
        let input = f32s(&[1, 6], &[0.25, 0.5, 1.0, 1.5, 2.0, 3.5]);
        let other = f32s(&[1, 6], &[0.25, 2.5, 1.0, 0.125, 3.0, 0.75]);
        each_of_one(|operator| {
            let [a, b] = [&input, &other].map(|x| of_one(operator, x).to_f32().expect("float"));
            let apart = a[0] == b[0] && a[2] == b[2];
            let claimed = operator.facts.elementwise != Elementwise::No || operator.facts.elements == Elements::Moved;
            assert_eq!(apart, claimed, "{}", operator.op_type);
        });
    }

    #[test]
    fn invertible_is_what_keeps_different_inputs_apart() {
        // From 0.1 up where the function is not defined below, and without 0 itself.
        let both: Vec<f32> = (-30..=30).filter(|&i| i != 0).map(|i| i as f32 / 10.0).collect();
        let positive: Vec<f32> = (1..=30).map(|i| i as f32 / 10.0).collect();
        each_of_one(|operator| {
            if operator.facts.elementwise == Elementwise::No {
                return;
            }
            let values = if matches!(operator.op_type, "Sqrt" | "Log") { &positive } else { &both };
            let mut out = of_one(operator, &f32s(&[values.len()], values)).to_f32().expect("float");
            // One to one and continuous on either side of 0 means monotone there; so compare neighbours of one sign.
            let signs = values.windows(2).map(|pair| pair[0] < 0.0 && pair[1] > 0.0);
            let steps: Vec<f32> =
                out.windows(2).zip(signs).filter(|(_, jump)| !jump).map(|(pair, _)| pair[1] - pair[0]).collect();
            let monotone = steps.iter().all(|&step| step > 0.0) || steps.iter().all(|&step| step < 0.0);
            out.sort_by(f32::total_cmp);
            let distinct = out.windows(2).all(|pair| pair[0] != pair[1]);
            let invertible = operator.facts.elementwise == Elementwise::Invertible;
            assert_eq!(monotone && distinct, invertible, "{}", operator.op_type);
        });
    }

    #[test]
    fn affine_is_what_keeps_the_middle() {
        let values = |tensor: &Tensor| tensor.to_f32().expect("float");
        let wide = |seed| f32s(&[1, 8], &values(&noise(&[1, 8], seed)).iter().map(|v| v * 4.0).collect::<Vec<_>>());
        let (a, b) = (wide(1), wide(2));
        let middle = |a: &Tensor, b: &Tensor| -> Vec<f32> {
            values(a).iter().zip(values(b)).map(|(a, b)| (a + b) / 2.0).collect()
        };
        each_of_one(|operator| {
            if matches!(operator.op_type, "Sqrt" | "Log") {
                return assert_eq!(operator.facts.affine, AffineIn::None);
            }
            let [fa, fb] = [&a, &b].map(|x| of_one(operator, x));
            let of_middle = values(&of_one(operator, &f32s(&[1, 8], &middle(&a, &b))));
            let kept = of_middle.iter().zip(middle(&fa, &fb)).all(|(x, y)| (x - y).abs() < 1e-5);
            assert_eq!(kept, operator.facts.affine == AffineIn::All, "{}", operator.op_type);
        });
    }

    /// One node of each kind that moves or chooses, and runs without parameters.
    fn movers(input: &Tensor) -> Vec<OneNode> {
        let node = |op_type: &str| OneNode::new(op_type, 22).input(input.clone());
        vec![
            node("Transpose"),
            node("Flatten"),
            node("Identity"),
            node("DepthToSpace").int("blocksize", 2),
            node("SpaceToDepth").int("blocksize", 2),
            node("Concat").with_input(0).int("axis", 1),
            node("MaxPool").ints("kernel_shape", &[2, 2]),
            node("GlobalMaxPool"),
            node("Relu"),
        ]
    }

    #[test]
    fn moved_and_chosen_elements_come_from_the_input() {
        let input = noise(&[1, 4, 4, 4], 3);
        let given = input.to_f32().expect("float");
        for node in movers(&input) {
            let graph = node.graph();
            let known = facts(&graph.nodes[0]);
            assert_ne!(known.elements, Elements::Computed, "{}", graph.nodes[0].op_type);
            for value in node.run()[0].to_f32().expect("float") {
                let zero = known.elements == Elements::Chosen && value == 0.0;
                assert!(zero || given.contains(&value), "{}: {value}", graph.nodes[0].op_type);
            }
        }
    }

    #[test]
    fn what_moves_elements_moves_bytes_inside() {
        let bytes: Vec<u8> = (0..64).collect();
        let input = Tensor::new(ElemType::Uint8, [1, 4, 4, 4], bytes.clone()).expect("64 bytes");
        for node in movers(&input) {
            let graph = node.graph();
            match facts(&graph.nodes[0]).takes_bytes() {
                true => assert!(node.run()[0].data.iter().all(|byte| bytes.contains(byte))),
                false => assert!(node.lower().is_err(), "{} computes with bytes", graph.nodes[0].op_type),
            }
        }
    }

    #[test]
    fn a_layer_is_a_product_with_a_constant_on_either_side() {
        let x = noise(&[4, 4], 1);
        let layers = |node: OneNode| {
            let graph = node.graph();
            (is_layer(&graph, &graph.nodes[0]), is_affine(&graph, &graph.nodes[0]))
        };
        let product = || OneNode::new("MatMul", 13);
        assert_eq!(layers(product().input(x.clone()).constant(x.clone())), (true, true));
        assert_eq!(layers(product().constant(x.clone()).input(x.clone())), (true, true));
        assert_eq!(layers(product().input(x.clone()).input(x.clone())), (false, false));
        let divided = || OneNode::new("Div", 13);
        assert_eq!(layers(divided().input(x.clone()).constant(x.clone())), (false, true));
        assert_eq!(layers(divided().constant(x.clone()).input(x.clone())), (false, false));
        assert_eq!(layers(OneNode::new("Relu", 14).input(x)), (false, false));
    }

    #[test]
    fn domains_are_told_apart() {
        let graph = OneNode::new("Relu", 14).input(noise(&[2], 1)).graph();
        let node = |domain: &str| Node { domain: domain.into(), ..graph.nodes[0].clone() };
        assert_eq!(facts(&node("ai.onnx")), facts(&node("")));
        assert_eq!(facts(&node("com.example")), &Facts::UNKNOWN);
    }
}
