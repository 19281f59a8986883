//! Fusions over the draft. One forward walk: each instruction is offered to every rule until none applies; a rule replaces
//! the instruction and may absorb producers whose only reader it was. The absorbed work moves later, never earlier, so
//! everything it reads exists.

mod constants;
mod patterns;

use crate::draft::{self, Draft};
use cordon_engine::program::{BinaryOp, DType, Instruction, Operand, Region, UnaryOp};

/// Runs all rules.
pub(crate) fn run(draft: &mut Draft) {
    let mut fuser = Fuser::new(draft);
    for index in 0..fuser.instructions.len() {
        while let Some(better) = fuser.instructions[index].as_ref().and_then(|it| improve(&fuser, it)) {
            let better = better.build(&mut fuser);
            fuser.replace(index, better);
        }
    }
    let Fuser { draft, instructions, .. } = fuser;
    draft.instructions = instructions.into_iter().flatten().collect();
}

/// A replacement; constants it needs are only made once it is chosen.
enum Better {
    Plain(Instruction),
    Folded(constants::Folded),
}

impl Better {
    fn build(self, fuser: &mut Fuser<'_>) -> Instruction {
        match self {
            Self::Plain(instruction) => instruction,
            Self::Folded(folded) => folded.build(fuser.draft),
        }
    }
}

/// The rules in order of preference.
fn improve(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Better> {
    constants::fold_affine(fuser, instruction)
        .map(Better::Folded)
        .or_else(|| constants::scalar_operand(fuser, instruction).map(Better::Plain))
        .or_else(|| patterns::recognise(fuser, instruction).map(Better::Plain))
        .or_else(|| absorb_activation(fuser, instruction).map(Better::Plain))
        .or_else(|| absorb_residual(fuser, instruction).map(Better::Plain))
}

/// The draft with its use lists.
struct Fuser<'d> {
    draft: &'d mut Draft,
    instructions: Vec<Option<Instruction>>,
    /// Instruction that writes a slot, where there is exactly one.
    producer: Vec<Option<usize>>,
    /// Reads by instructions and output ports.
    uses: Vec<usize>,
}

impl<'d> Fuser<'d> {
    fn new(draft: &'d mut Draft) -> Self {
        let instructions: Vec<_> = draft.instructions.drain(..).map(Some).collect();
        let mut producer = vec![None; draft.slots.len()];
        let mut writers = vec![0usize; draft.slots.len()];
        let mut uses = vec![0usize; draft.slots.len()];
        for (index, instruction) in instructions.iter().flatten().enumerate() {
            let slot = draft::out(instruction).start as usize;
            writers[slot] += 1;
            producer[slot] = (writers[slot] == 1).then_some(index);
            draft::slots_read(instruction).into_iter().for_each(|slot| uses[slot as usize] += 1);
        }
        draft.outputs.iter().for_each(|port| uses[port.region.start as usize] += 1);
        Self { draft, instructions, producer, uses }
    }

    /// The instruction that computes exactly `region`, and its position.
    fn maker(&self, region: &Region) -> Option<(usize, &Instruction)> {
        let index = self.producer[region.start as usize]?;
        let instruction = self.instructions[index].as_ref()?;
        (draft::out(instruction) == region).then_some((index, instruction))
    }

    /// The same, if this is its only reader.
    fn sole_maker(&self, region: &Region) -> Option<(usize, &Instruction)> {
        if self.uses[region.start as usize] == 1 { self.maker(region) } else { None }
    }

    fn replace(&mut self, index: usize, by: Instruction) {
        let old = self.instructions[index].take();
        draft::slots_read(&by).into_iter().for_each(|slot| self.uses[slot as usize] += 1);
        self.instructions[index] = Some(by);
        old.iter().for_each(|old| self.release(old));
    }

    /// Forgets the reads of an instruction that is gone, and producers that nobody reads any more.
    fn release(&mut self, gone: &Instruction) {
        let mut pending = draft::slots_read(gone);
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
    *draft::out_mut(&mut fused) = *out;
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
    *draft::out_mut(&mut fused) = *out;
    Some(fused)
}

/// The unary function that computes `region` for this reader alone, and its input.
fn unary_of(fuser: &Fuser<'_>, region: &Region) -> Option<(UnaryOp, Region)> {
    match fuser.sole_maker(region)?.1 {
        Instruction::Unary { op, input: Operand::Arena(input), .. } => Some((*op, *input)),
        _ => None,
    }
}
