//! Fusions over the draft. One forward walk: each instruction is offered to every rule until none applies; a rule replaces
//! the instruction and may absorb producers whose only reader it was. The absorbed work moves later, never earlier, so
//! everything it reads exists.

mod constants;
mod patterns;
mod quant;

use crate::draft::{self, Draft};
use cordon_engine::program::{BinaryOp, DType, Instruction, Operand, Region, UnaryOp};

/// Runs all rules.
pub(crate) fn fuse(draft: &mut Draft) {
    let mut fuser = Fuser::new(draft);
    for index in 0..fuser.instructions.len() {
        while let Some(better) = fuser.instructions[index].as_ref().and_then(|it| improve(&fuser, it)) {
            let better = better.build(&mut fuser);
            fuser.replace(index, better);
        }
    }
    let Fuser { draft, instructions, mut before, .. } = fuser;
    before.sort_by_key(|(index, _)| *index);
    let mut before = before.into_iter().peekable();
    for (index, instruction) in instructions.into_iter().enumerate() {
        while let Some((_, prepared)) = before.next_if(|(at, _)| *at == index) {
            draft.instructions.extend(prepared);
        }
        draft.instructions.extend(instruction);
    }
}

/// A replacement; constants it needs are only made once it is chosen.
enum Better {
    Plain(Instruction),
    Folded(constants::Folded),
    Affine(constants::PerChannel),
    Integer(quant::Chosen),
}

impl Better {
    fn build(self, fuser: &mut Fuser<'_>) -> Instruction {
        match self {
            Self::Plain(instruction) => instruction,
            Self::Folded(folded) => folded.build(fuser.draft),
            Self::Affine(affine) => affine.build(fuser.draft),
            Self::Integer(chosen) => chosen.build(fuser),
        }
    }
}

/// The rules in order of preference.
fn improve(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Better> {
    constants::fold_affine(fuser, instruction)
        .map(Better::Folded)
        .or_else(|| constants::factor_and_term(fuser, instruction).map(Better::Affine))
        .or_else(|| constants::scalar_operand(fuser, instruction).map(Better::Plain))
        .or_else(|| patterns::recognise(fuser, instruction).map(Better::Plain))
        .or_else(|| absorb_activation(fuser, instruction).map(Better::Plain))
        .or_else(|| absorb_residual(fuser, instruction).map(Better::Plain))
        .or_else(|| quant::integer(fuser, instruction).map(Better::Integer))
}

/// The draft with its use lists.
struct Fuser<'d> {
    draft: &'d mut Draft,
    instructions: Vec<Option<Instruction>>,
    /// Instruction that writes a slot, where there is exactly one.
    producer: Vec<Option<usize>>,
    /// Reads by instructions and output ports.
    uses: Vec<usize>,
    /// Instructions that belong before the one at a position; what they write is new.
    before: Vec<(usize, Vec<Instruction>)>,
}

impl<'d> Fuser<'d> {
    fn new(draft: &'d mut Draft) -> Self {
        let instructions: Vec<_> = draft.instructions.drain(..).map(Some).collect();
        let mut producer = vec![None; draft.slots.len()];
        let mut writers = vec![0usize; draft.slots.len()];
        let mut uses = vec![0usize; draft.slots.len()];
        for (index, instruction) in instructions.iter().flatten().enumerate() {
            let slot = instruction.out().start as usize;
            writers[slot] += 1;
            producer[slot] = (writers[slot] == 1).then_some(index);
            draft::slots_read(instruction).for_each(|slot| uses[slot as usize] += 1);
        }
        debug_assert!(draft.slots.iter().all(|slot| slot.within.is_none()), "fusions know nothing of parts");
        draft.outputs.iter().for_each(|port| uses[port.region.start as usize] += 1);
        Self { draft, instructions, producer, uses, before: Vec::new() }
    }

    /// A slot that instructions of `before` write and one instruction reads.
    fn new_slot(&mut self, dtype: DType, len: u32) -> u32 {
        self.producer.push(None);
        self.uses.push(0);
        self.draft.slot(dtype, len)
    }

    /// The instruction that computes exactly `region`, and its position.
    fn maker(&self, region: &Region) -> Option<(usize, &Instruction)> {
        let index = self.producer[region.start as usize]?;
        let instruction = self.instructions[index].as_ref()?;
        (instruction.out() == *region).then_some((index, instruction))
    }

    /// The same, if this is its only reader.
    fn sole_maker(&self, region: &Region) -> Option<(usize, &Instruction)> {
        if self.uses[region.start as usize] == 1 { self.maker(region) } else { None }
    }

    fn replace(&mut self, index: usize, by: Instruction) {
        let old = self.instructions[index].take();
        draft::slots_read(&by).for_each(|slot| self.uses[slot as usize] += 1);
        self.instructions[index] = Some(by);
        old.iter().for_each(|old| self.release(old));
    }

    /// Forgets the reads of an instruction that is gone, and producers that nobody reads any more.
    fn release(&mut self, gone: &Instruction) {
        let mut pending: Vec<u32> = draft::slots_read(gone).collect();
        while let Some(slot) = pending.pop() {
            let slot = slot as usize;
            self.uses[slot] -= 1;
            if self.uses[slot] == 0
                && let Some(dead) = self.producer[slot].and_then(|index| self.instructions[index].take())
            {
                pending.extend(draft::slots_read(&dead));
            }
        }
    }
}

/// The region an operand names.
fn region(operand: &Operand) -> Option<&Region> {
    match operand {
        Operand::Arena(region) => Some(region),
        Operand::Weight(_) => None,
    }
}

/// A unary function goes into the `Conv2d`, `ConvNd`, `Dense` or `Binary` that computes its input.
fn absorb_activation(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Instruction> {
    let Instruction::Unary { op, input, out } = instruction else { return None };
    let (_, maker) = fuser.sole_maker(region(input)?)?;
    let mut fused = maker.clone();
    match &mut fused {
        Instruction::Conv2d { activation: activation @ None, .. }
        | Instruction::ConvNd { activation: activation @ None, .. }
        | Instruction::Dense { activation: activation @ None, .. } => *activation = Some(*op),
        Instruction::Binary { activation: activation @ None, out, .. } if out.dtype == DType::F32 => {
            *activation = Some(*op);
        }
        _ => return None,
    }
    *fused.out_mut() = *out;
    Some(fused)
}

/// A sum goes into the `Conv2d` or `Dense` that computes one side, the later one where both do.
fn absorb_residual(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Instruction> {
    let Instruction::Binary { op: BinaryOp::Add, shape, a, b, activation, out } = instruction else { return None };
    let flat = crate::arena::contiguous(&shape.dims);
    if shape.a != flat || shape.b != flat {
        return None;
    }
    let (a, b) = (region(a)?, region(b)?);
    let candidate = |computed: &Region, other: &Region| {
        let (index, maker) = fuser.sole_maker(computed)?;
        let open = matches!(
            maker,
            Instruction::Conv2d { residual: None, activation: None, .. }
                | Instruction::Dense { residual: None, activation: None, .. }
        );
        (open && computed.len == other.len && computed.start != other.start).then(|| (index, maker.clone(), *other))
    };
    let (_, mut fused, other) = [candidate(a, b), candidate(b, a)].into_iter().flatten().max_by_key(|found| found.0)?;
    if let Instruction::Conv2d { residual, activation: act, .. }
    | Instruction::Dense { residual, activation: act, .. } = &mut fused
    {
        *residual = Some(other);
        *act = *activation;
    }
    *fused.out_mut() = *out;
    Some(fused)
}

/// The unary function that computes `region` for this reader alone, and its input.
fn unary_of(fuser: &Fuser<'_>, region: &Region) -> Option<(UnaryOp, Region)> {
    match fuser.sole_maker(region)?.1 {
        Instruction::Unary { op, input: Operand::Arena(input), .. } => Some((*op, *input)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, assert_close, f32s, noise};
    use cordon_graph::Tensor;

    /// The instructions the chain lowers to, layout copies apart.
    fn instructions(node: &OneNode) -> Vec<Instruction> {
        let lowered = node.lower().expect("lowers");
        lowered.program.instructions.into_iter().filter(|it| !matches!(it, Instruction::Copy { .. })).collect()
    }

    /// A convolution without bias whose result is read as it is, then the same chain with `after` appended.
    fn conv() -> OneNode {
        OneNode::new("Conv", 14).input(noise(&[2, 3, 5, 5], 1)).constant(noise(&[20, 3, 3, 3], 2))
    }

    fn map(tensor: &Tensor, f: impl Fn(usize, f32) -> f32) -> Tensor {
        let data = tensor.to_f32().expect("f32");
        f32s(&tensor.dims, &data.iter().enumerate().map(|(index, &value)| f(index, value)).collect::<Vec<_>>())
    }

    fn positive(dims: &[usize], seed: u32) -> Tensor {
        map(&noise(dims, seed), |_, value| value + 1.5)
    }

    #[test]
    fn batch_norm_and_relu_vanish_into_the_convolution() {
        let parameters = [noise(&[20], 3), noise(&[20], 4), noise(&[20], 5), positive(&[20], 6)];
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|i| parameters[i].to_f32().expect("f32"));
        let node = parameters.into_iter().fold(conv().then("BatchNormalization"), OneNode::constant).then("Relu");
        let fused = instructions(&node);
        assert!(
            matches!(fused[..], [Instruction::Conv2d { activation: Some(UnaryOp::Relu), bias: Some(_), .. }]),
            "{fused:?}"
        );
        let want = map(&conv().run()[0], |index, x| {
            let c = index / 9 % 20;
            ((x - mean[c]) / (variance[c] + 1e-5).sqrt() * scale[c] + bias[c]).max(0.0)
        });
        assert_close(&node.run()[0], &want);
    }

    #[test]
    fn batch_norm_and_relu_of_a_blocked_value_are_one_pass() {
        // The sum is read twice, so that nothing can go into the convolutions before it.
        let parameters = [noise(&[20], 3), noise(&[20], 4), noise(&[20], 5), positive(&[20], 6)];
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|i| parameters[i].to_f32().expect("f32"));
        for batch in [1, 2] {
            let first = || {
                let conv = OneNode::new("Conv", 14).input(noise(&[batch, 3, 5, 5], 1));
                conv.constant(noise(&[20, 3, 3, 3], 2)).then("Sigmoid")
            };
            let node = parameters.iter().cloned().fold(first().then("BatchNormalization"), OneNode::constant);
            let node = node.then("Relu");
            let fused = instructions(&node);
            let pass = |it: &Instruction| match it {
                Instruction::Conv2d { geometry, activation, .. } => {
                    geometry.is_depthwise() && *activation == Some(UnaryOp::Relu)
                }
                _ => false,
            };
            assert!(matches!(&fused[..], [Instruction::Conv2d { .. }, second] if pass(second)), "{fused:?}");
            let want = map(&first().run()[0], |index, x| {
                let c = index / 9 % 20;
                ((x - mean[c]) / (variance[c] + 1e-5).sqrt() * scale[c] + bias[c]).max(0.0)
            });
            assert_close(&node.run()[0], &want);
        }
    }

    #[test]
    fn a_result_needed_twice_keeps_its_own_value() {
        let node = conv().then("Mul").constant(noise(&[20, 1, 1], 3)).then("Add").with_node(0);
        let factor = noise(&[20, 1, 1], 3).to_f32().expect("f32");
        let want = map(&conv().run()[0], |index, x| x * factor[index / 9 % 20] + x);
        assert_close(&node.run()[0], &want);
    }

    #[test]
    fn matmul_and_its_separate_bias_become_one_dense() {
        let node = OneNode::new("MatMul", 14).input(noise(&[2, 3, 8], 1)).constant(noise(&[8, 20], 2));
        let product = node.run().remove(0);
        let bias = noise(&[20], 3).to_f32().expect("f32");
        let node = node.then("Add").constant(noise(&[20], 3)).then("Sigmoid");
        let fused = instructions(&node);
        assert!(matches!(fused[..], [Instruction::Dense { activation: Some(UnaryOp::Sigmoid), .. }]), "{fused:?}");
        let want = map(&product, |index, x| 1.0 / (1.0 + (-(x + bias[index % 20])).exp()));
        assert_close(&node.run()[0], &want);
    }

    #[test]
    fn a_residual_block_adds_inside_the_second_convolution() {
        let node = conv().then("Conv").constant(noise(&[20, 20, 1, 1], 3)).then("Add").with_node(0).then("Relu");
        let fused = instructions(&node);
        assert!(
            matches!(
                fused[..],
                [
                    Instruction::Conv2d { residual: None, .. },
                    Instruction::Conv2d { residual: Some(_), activation: Some(UnaryOp::Relu), .. }
                ]
            ),
            "{fused:?}"
        );
        let first = conv().run().remove(0);
        let second = OneNode::new("Conv", 14).input(first.clone()).constant(noise(&[20, 20, 1, 1], 3)).run().remove(0);
        let second = second.to_f32().expect("f32");
        assert_close(&node.run()[0], &map(&first, |index, x| (x + second[index]).max(0.0)));
    }

    #[test]
    fn exporters_spellings_of_activations_are_recognised() {
        let input = || OneNode::new("Identity", 14).input(noise(&[3, 40], 1));
        let scalar = |value: f32| f32s(&[], &[value]);
        let silu = input().then("Sigmoid").then("Mul").with_input(0);
        let mish = input().then("Softplus").then("Tanh").then("Mul").with_input(0);
        let swish = input().then("Add").constant(scalar(3.0)).then("Clip").constant(scalar(0.0)).constant(scalar(6.0));
        let swish = swish.then("Mul").with_input(0).then("Div").constant(scalar(6.0));
        let gate = || {
            let erf = input().then("Div").constant(scalar(core::f32::consts::SQRT_2)).then("Erf");
            erf.then("Add").constant(scalar(1.0))
        };
        let gelu = gate().then("Mul").with_input(0).then("Mul").constant(scalar(0.5));
        let cases = [(silu, UnaryOp::Silu), (mish, UnaryOp::Mish), (swish, UnaryOp::HardSwish), (gelu, UnaryOp::Gelu)];
        for (node, want) in cases {
            let fused = instructions(&node);
            assert!(matches!(fused[..], [Instruction::Unary { op, .. }] if op == want), "{want:?}: {fused:?}");
        }
        let x = noise(&[3, 40], 1);
        let silu = input().then("Sigmoid").then("Mul").with_input(0).run();
        assert_close(&silu[0], &map(&x, |_, x| x / (1.0 + (-x).exp())));
    }

    #[test]
    fn a_gate_of_another_value_is_not_an_activation() {
        let node = OneNode::new("Sigmoid", 14).input(noise(&[4], 1)).then("Mul").input(noise(&[4], 2));
        assert_eq!(instructions(&node).len(), 2);
        let sigmoid = OneNode::new("Sigmoid", 14).input(noise(&[4], 1)).run().remove(0).to_f32().expect("f32");
        assert_close(&node.run()[0], &map(&noise(&[4], 2), |index, x| x * sigmoid[index]));
    }
}
