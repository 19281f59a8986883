//! Values that leave the arena and come back: what is refused at load, what is asked for, and that no data decides.

mod support;

use cordon_engine::program::{
    BinaryOp, DType, Instruction, MAX_SPILL_CHUNKS, MAX_SPILLED, Operand, Region, Strided2, StridedCopy, UnaryOp,
};
use cordon_engine::{
    CHUNK, EngineError, KernelSet, Limits, Moved, Place, Prepared, Program, Reply, Residency, Step, Unloaded, ValueRef,
};
use support::{Build, Plain, Random, Value, arena, drive, ramp};

const LEN: u32 = 3 * CHUNK as u32 / 4 + 5;

fn neg(from: Region, out: Region) -> Instruction {
    Instruction::Unary { op: UnaryOp::Neg, input: arena(from), out }
}

fn add(a: Region, b: Region, out: Region) -> Instruction {
    let shape = Strided2 { dims: vec![out.len], a: vec![1], b: vec![1] };
    Instruction::Binary { op: BinaryOp::Add, shape, a: arena(a), b: arena(b), activation: None, out }
}

/// `y = x + -(-x)` where `x` is away while its place holds something else, and its double leaves after it.
fn skip() -> Build {
    let mut b = Build::new();
    let x = b.input(DType::F32, &[LEN]);
    let other = b.f32(LEN);
    b.push(neg(x, other));
    b.push(Instruction::Spill { slot: 0, value: x });
    b.push(neg(other, x));
    b.push(Instruction::Spill { slot: 4, value: x });
    b.push(Instruction::Restore { slot: 0, out: other });
    b.push(Instruction::Restore { slot: 4, out: x });
    b.push(add(x, other, x));
    b.output(x);
    b
}

#[test]
fn a_value_comes_back_as_it_left() {
    let build = skip();
    let x = ramp(LEN as usize, 5);
    let (outputs, steps) =
        drive(&mut build.prepare(Residency::All).expect("valid"), &[], &[Value::F32(x.clone())]).expect("runs");
    assert_eq!(outputs[0].f32(), x.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
    let bytes = u64::from(LEN) * 4;
    let moved = |spill, slot| Moved { spill, slot, bytes };
    let expected = [
        Step::Input { port: 0 },
        Step::Ran { instruction: 0 },
        Step::Spill(moved(1, 0)),
        Step::Ran { instruction: 1 },
        Step::Ran { instruction: 2 },
        Step::Spill(moved(3, 4)),
        Step::Ran { instruction: 3 },
        Step::Restore(moved(1, 0)),
        Step::Ran { instruction: 4 },
        Step::Restore(moved(3, 4)),
        Step::Ran { instruction: 5 },
        Step::Ran { instruction: 6 },
        Step::Output { port: 0 },
        Step::Done,
    ];
    assert_eq!(steps, expected);
    assert_eq!((build.program.spill_chunks(), build.program.spilled_bytes()), (8, 2 * bytes));
}

#[test]
fn fifty_inputs_make_one_sequence_of_spills() {
    let mut prepared = skip().prepare(Residency::All).expect("valid");
    let mut random = Random(3);
    let mut sequences = Vec::new();
    for _ in 0..50 {
        let bits = (0..LEN).map(|_| f32::from_bits(random.next() as u32)).collect();
        let (_, steps) = drive(&mut prepared, &[], &[Value::F32(bits)]).expect("runs");
        prepared.reset();
        sequences.push(steps);
    }
    assert!(sequences.iter().all(|one| *one == sequences[0]));
}

/// Every type leaves and comes back, a mask as a mask.
#[test]
fn all_types_are_spilled() {
    let mut b = Build::new();
    let inputs = [
        Value::F32(vec![1.5, f32::NAN]),
        Value::I64(vec![i64::MIN, 7]),
        Value::Bool(vec![0, 1]),
        Value::U8(vec![255, 3]),
    ];
    for (slot, value) in (0..).zip(&inputs) {
        let region = b.input(value.view().dtype(), &[2]);
        b.push(Instruction::Spill { slot, value: region });
        b.push(Instruction::Restore { slot, out: region });
        b.output(region);
    }
    let outputs = b.run(&inputs).expect("runs");
    assert!(inputs.iter().zip(&outputs).all(|(a, b)| a.bytes() == b.bytes()));
}

/// The instruction and the field that a changed [`skip`] is refused for.
fn refused(change: impl FnOnce(&mut Program)) -> Option<(Place, &'static str)> {
    let Build { mut program, weights, .. } = skip();
    change(&mut program);
    match Unloaded::new(program, weights, KernelSet::PORTABLE, Residency::All, Limits::new(1 << 30)) {
        Ok(_) => None,
        Err(EngineError::Invalid { at, field, .. }) => Some((at, field)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_way_to_misuse_a_slot_is_refused_at_load() {
    let at = |index, name| Place::Instruction { index, name };
    let x = Region { dtype: DType::F32, start: 0, len: LEN };
    let other = Region { start: LEN, ..x };
    assert_eq!(refused(|_| ()), None);
    // Back before it left.
    assert_eq!(refused(|p| p.instructions.swap(1, 4)), Some((at(1, "Restore"), "slot")));
    // Back twice.
    let twice = |p: &mut Program| p.instructions.insert(6, Instruction::Restore { slot: 4, out: other });
    assert_eq!(refused(twice), Some((at(6, "Restore"), "slot")));
    // Back from the middle of a value.
    let middle = |p: &mut Program| p.instructions[4] = Instruction::Restore { slot: 1, out: other };
    assert_eq!(refused(middle), Some((at(4, "Restore"), "slot")));
    // Two values in one place, or partly in one: each takes four chunks.
    for slot in [0, 1, 3] {
        let double = |p: &mut Program| p.instructions[3] = Instruction::Spill { slot, value: x };
        assert_eq!(refused(double), Some((at(3, "Spill"), "slot")), "slot {slot}");
    }
    // Never back.
    assert_eq!(refused(|p| drop(p.instructions.remove(5))), Some((at(5, "Binary"), "a")));
    let ends = |p: &mut Program| p.instructions.insert(6, Instruction::Spill { slot: 9, value: other });
    assert_eq!(refused(ends), Some((at(7, "Binary"), "b")));
    let ends = |p: &mut Program| p.instructions.push(Instruction::Spill { slot: 9, value: other });
    assert_eq!(refused(ends), Some((at(7, "Spill"), "slot")));
    // Another length, another type, another place than the arena.
    let shorter = |p: &mut Program| {
        p.instructions[4] = Instruction::Restore { slot: 0, out: Region { len: LEN - 1, ..other } };
    };
    assert_eq!(refused(shorter), Some((at(4, "Restore"), "out")));
    let retyped = |p: &mut Program| {
        p.arena.i64 = LEN;
        let out = Region { dtype: DType::I64, start: 0, len: LEN };
        p.instructions[4] = Instruction::Restore { slot: 0, out };
    };
    assert_eq!(refused(retyped), Some((at(4, "Restore"), "out")));
    let outside =
        |p: &mut Program| p.instructions[1] = Instruction::Spill { slot: 0, value: Region { start: 2 * LEN, ..x } };
    assert_eq!(refused(outside), Some((at(1, "Spill"), "out")));
    let empty = |p: &mut Program| p.instructions[1] = Instruction::Spill { slot: 0, value: Region { len: 0, ..x } };
    assert_eq!(refused(empty), Some((at(1, "Spill"), "out")));
    // More of the normal world's memory than any Program may take.
    for slot in [MAX_SPILL_CHUNKS - 3, u32::MAX] {
        let far = |p: &mut Program| p.instructions[3] = Instruction::Spill { slot, value: x };
        assert_eq!(refused(far), Some((at(3, "Spill"), "slot")));
    }
}

#[test]
fn a_value_that_is_away_is_not_touched() {
    let at = |index, name| Place::Instruction { index, name };
    let x = Region { dtype: DType::F32, start: 0, len: LEN };
    let other = Region { start: LEN, ..x };
    // Read at once, read by one element, spilled again, handed out.
    let reads = [
        (neg(x, other), at(2, "Unary"), "input"),
        (neg(Region { start: LEN - 1, len: 1, ..x }, other.part(0, 1)), at(2, "Unary"), "input"),
        (Instruction::Spill { slot: 9, value: x }, at(2, "Spill"), "value"),
    ];
    for (read, place, field) in reads {
        assert_eq!(refused(|p| p.instructions.insert(2, read)), Some((place, field)));
    }
    let handed_out = |p: &mut Program| {
        p.instructions.push(Instruction::Spill { slot: 0, value: x });
        p.instructions.push(Instruction::Restore { slot: 0, out: other });
    };
    assert_eq!(refused(handed_out), Some((Place::Output(0), "region")));
    // Its place may be filled piece by piece; what is not filled yet is still away.
    let copy = |out: Region| Instruction::Copy {
        geometry: StridedCopy { dims: vec![out.len], from: 0, from_strides: vec![1], to: 0, to_strides: vec![1] },
        input: Operand::Arena(other.part(0, out.len)),
        out,
    };
    let pieces = |upto: u32| {
        move |p: &mut Program| {
            let half = [copy(x.part(10, 20)), copy(x.part(0, 10)), copy(x.part(30, upto - 30))];
            p.instructions.splice(2..3, half);
        }
    };
    assert_eq!(refused(pieces(LEN)), None);
    let read_after = |upto: u32| {
        move |p: &mut Program| {
            pieces(upto)(p);
            p.instructions.insert(5, neg(x, x));
        }
    };
    assert_eq!(refused(read_after(LEN)), None);
    assert_eq!(refused(read_after(LEN - 1)), Some((at(5, "Unary"), "input")));
    // What is not complete yet may leave, too; what is wholly away may not.
    assert_eq!(refused(pieces(LEN - 1)), None);
}

trait Part {
    fn part(self, start: u32, len: u32) -> Self;
}

impl Part for Region {
    fn part(self, start: u32, len: u32) -> Self {
        Self { start: self.start + start, len, ..self }
    }
}

#[test]
fn only_so_many_values_are_away() {
    let many = |count: u32| {
        let mut b = Build::new();
        let x = b.input(DType::F32, &[count]);
        for slot in 0..count {
            b.push(Instruction::Spill { slot, value: x.part(slot, 1) });
        }
        for slot in 0..count {
            b.push(Instruction::Restore { slot, out: x.part(slot, 1) });
        }
        b.output(x);
        b.prepare(Residency::All).err()
    };
    assert_eq!(many(MAX_SPILLED), None);
    assert!(matches!(many(MAX_SPILLED + 1), Some(EngineError::Invalid { field: "slot", .. })));
}

/// Brings the engine to its first spill or restore.
fn until(build: &Build, restore: bool) -> Prepared {
    let mut prepared = build.prepare(Residency::All).expect("valid");
    let x = ramp(LEN as usize, 1);
    let mut reply = Reply::Go;
    loop {
        reply = match prepared.step(reply).expect("valid replies") {
            Step::Input { .. } => Reply::Value(ValueRef::F32(&x)),
            Step::Restore(_) => return prepared,
            Step::Spill(_) if !restore => return prepared,
            _ => Reply::Go,
        };
    }
}

#[test]
fn replies_that_do_not_fit_are_refused() {
    let build = skip();
    let refused = |mut prepared: Prepared, reply: Reply<'_>| {
        assert!(matches!(prepared.step(reply), Err(EngineError::Reply(_))));
        assert!(matches!(prepared.step(Reply::Go), Err(EngineError::NeedsReset)), "a refusal must last");
        assert!(prepared.output().is_none() && prepared.fill(&[0; 4]).is_err());
    };
    let value = Reply::Value(ValueRef::F32(&[1.0]));
    let pieces = Reply::Pieces { source: &Plain(&[]), count: 1 };
    [Reply::Filled, value, pieces].into_iter().for_each(|bad| refused(until(&build, false), bad));
    [Reply::Go, Reply::Filled, value, pieces].into_iter().for_each(|bad| refused(until(&build, true), bad));
    let bytes = vec![0; LEN as usize * 4];
    let partly = |bytes: &[u8]| {
        let mut prepared = until(&build, true);
        prepared.fill(bytes).expect("a piece that fits");
        prepared
    };
    refused(partly(&bytes[..CHUNK]), Reply::Filled);
    assert!(partly(&bytes).step(Reply::Filled).is_ok());
    assert!(partly(&bytes).fill(&[0; 4]).is_err(), "more than the value");
}
