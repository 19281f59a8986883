//! The step interface: what is asked for and when, what is refused, and that none of it depends on data.

mod support;

use cordon_engine::program::{DType, Instruction, Operand, Strided2, Strided3, Tile, UnaryOp};
use cordon_engine::{
    CHUNK, Compute, EngineError, KernelSet, Limits, PIECE, Place, Prepared, Reply, Residency, Source, Step, ValueRef,
};
use support::{Build, Plain, Random, Seen, Threads, Value, arena, cases, chunk, drive, ramp};

const WINDOW: Residency = Residency::Least;
const PER_CHUNK: usize = CHUNK / 4;
/// Bytes of the rooms that pieces are opened in.
const ROOMS: u64 = 4 * PIECE as u64;

/// `out[i] = input[0] + w[i]` summed over several tensors that lie across chunk borders, with holes between them.
fn adder(lens: &[usize]) -> (Build, Vec<Vec<f32>>) {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1]);
    let mut tensors = Vec::new();
    for (seed, &len) in lens.iter().enumerate() {
        b.gap(if seed > 0 { 3 * CHUNK } else { 0 });
        let values = ramp(len, seed as u32);
        let tile = b.weight_f32(&values);
        tensors.push(values);
        let out = b.f32(len as u32);
        b.push(Instruction::Binary {
            op: cordon_engine::program::BinaryOp::Add,
            shape: Strided2 { dims: vec![len as u32], a: vec![0], b: vec![1] },
            a: arena(input),
            b: Operand::Weight(tile),
            activation: None,
            out,
        });
        b.output(out);
    }
    (b, tensors)
}

#[test]
fn tensors_across_chunks_arrive_whole() {
    let lens = [10, PER_CHUNK, 2 * PER_CHUNK + 7, 20 * PER_CHUNK, 1];
    let (build, tensors) = adder(&lens);
    for residency in [Residency::All, WINDOW] {
        let mut prepared = build.prepare(residency).expect("valid");
        let (outputs, _) = drive(&mut prepared, &build.stream, &[Value::F32(vec![0.5])]).expect("runs");
        for (index, (output, tensor)) in outputs.iter().zip(&tensors).enumerate() {
            let expected: Vec<f32> = tensor.iter().map(|v| v + 0.5).collect();
            assert!(output.f32() == expected, "tensor {index} under {residency:?}");
        }
    }
}

#[test]
fn all_is_loaded_once_in_order_and_pieces_come_with_every_request_without_holes() {
    let (build, _) = adder(&[10, 18 * PER_CHUNK]);
    let chunks = build.stream.len().div_ceil(CHUNK) as u32;
    assert_eq!(chunks, 22);
    let load = (0..16).map(|i| Seen::Chunks(i, 16 - i)).chain((0..6).map(|i| Seen::Chunks(16 + i, 6 - i)));
    let load: Vec<Seen> = load.collect();
    let rest = [Seen::Output(100), Seen::Output(101), Seen::Done];
    let check = |residency, request: &[Seen]| {
        let mut prepared = build.prepare(residency).expect("valid");
        for load in [&load[..], &[]] {
            let (_, seen) = drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("runs");
            assert_eq!(seen, [load, request, &rest].concat());
            prepared.reset();
        }
    };
    check(Residency::All, &[Seen::Input(0), Seen::Ran(0), Seen::Ran(1)]);
    // Tensor 1 begins inside piece 24 and so ends inside piece 168: 145 pieces, in steps of 128 and 17.
    assert_eq!(build.weights.0[1].offset as usize / PIECE, 24);
    let [one, two] = [Seen::Pieces(24, 128), Seen::Pieces(152, 17)];
    check(WINDOW, &[Seen::Input(0), Seen::Pieces(0, 1), Seen::Ran(0), one, two, Seen::Ran(1)]);
}

#[test]
fn any_number_of_threads_fills_the_same_window() {
    let lens = [10, PER_CHUNK, 2 * PER_CHUNK + 7, 20 * PER_CHUNK, 1];
    let (build, tensors) = adder(&lens);
    for threads in [&Threads(1), &Threads(2), &Threads(3), &Threads(16)] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let (program, weights) = (build.program.clone(), build.weights.clone());
        let mut prepared = Prepared::new(program, weights, compute, WINDOW, Limits::new(u64::MAX)).expect("valid");
        let (outputs, _) = drive(&mut prepared, &build.stream, &[Value::F32(vec![0.5])]).expect("runs");
        for (output, tensor) in outputs.iter().zip(&tensors) {
            let expected: Vec<f32> = tensor.iter().map(|v| v + 0.5).collect();
            assert!(output.f32() == expected, "{} threads", threads.0);
        }
    }
}

/// Tiles that overlap: a thread's part of the stream is then no stretch of the window.
#[test]
fn overlapping_tiles_arrive_whole_whatever_the_threads() {
    let mut b = Build::new();
    let values = ramp(4 * PER_CHUNK, 9);
    let whole = b.weight_f32(&values);
    let len = 3 * PER_CHUNK as u32;
    let [x, y] = [0, PER_CHUNK as u32].map(|start| Tile { start, len, ..whole });
    let out = b.f32(len);
    b.push(Instruction::Binary {
        op: cordon_engine::program::BinaryOp::Add,
        shape: Strided2 { dims: vec![len], a: vec![1], b: vec![1] },
        a: Operand::Weight(x),
        b: Operand::Weight(y),
        activation: None,
        out,
    });
    b.output(out);
    let expected: Vec<f32> = values.iter().zip(&values[PER_CHUNK..]).map(|(a, b)| a + b).collect();
    for threads in [&Threads(1), &Threads(2), &Threads(4)] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let limits = Limits::new(u64::MAX);
        let mut prepared = Prepared::new(b.program.clone(), b.weights.clone(), compute, WINDOW, limits).expect("valid");
        let (outputs, _) = drive(&mut prepared, &b.stream, &[]).expect("runs");
        assert!(outputs[0].f32() == expected, "{} threads", threads.0);
    }
}

/// Every instruction of the cases, with tiles of several types and lengths, by threads that take their parts in any order.
#[test]
fn windows_of_several_types_are_the_same_whatever_the_threads() {
    for case in cases::all() {
        let run = |residency, threads: &'static Threads| {
            let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
            let (program, weights) = (case.build.program.clone(), case.build.weights.clone());
            let limits = Limits::new(u64::MAX);
            let mut prepared = Prepared::new(program, weights, compute, residency, limits).expect(case.name);
            drive(&mut prepared, &case.build.stream, &case.inputs).expect(case.name).0
        };
        let resident = run(Residency::All, &Threads(1));
        for threads in [&Threads(2), &Threads(4)] {
            assert_eq!(run(WINDOW, threads), resident, "{}, {} threads", case.name, threads.0);
        }
    }
}

/// One instruction that reads f16, f32 and bytes, each over several pieces and none of them whole ones.
#[test]
fn tiles_of_three_forms_in_one_window() {
    let len = 3 * PER_CHUNK + 5;
    let mut b = Build::new();
    let halves: Vec<u16> = (0..len).map(|i| 0x3c00 | (i % 1024) as u16).collect();
    let masks: Vec<u8> = (0..len).map(|i| (i % 3 == 0).into()).collect();
    let [x, y] = [b.weight_f16(&halves), b.weight_f32(&ramp(len, 4))];
    let condition = b.weight(&Value::Bool(masks.clone()));
    let out = b.f32(len as u32);
    b.push(Instruction::Select {
        shape: Strided3 { dims: vec![len as u32], a: vec![1], b: vec![1], c: vec![1] },
        cond: Operand::Weight(condition),
        then: Operand::Weight(x),
        otherwise: Operand::Weight(y),
        out,
    });
    b.output(out);
    let wide = ramp(len, 4);
    let chosen = |i| if masks[i] == 1 { 1.0 + (i % 1024) as f32 / 1024.0 } else { wide[i] };
    let expected: Vec<f32> = (0..len).map(chosen).collect();
    for threads in [&Threads(1), &Threads(2), &Threads(3), &Threads(4)] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let (program, weights) = (b.program.clone(), b.weights.clone());
        let mut prepared = Prepared::new(program, weights, compute, WINDOW, Limits::new(u64::MAX)).expect("valid");
        let (outputs, _) = drive(&mut prepared, &b.stream, &[]).expect("runs");
        assert!(outputs[0].f32() == expected, "{} threads", threads.0);
    }
}

/// Refuses one piece, whose plaintext it shows nevertheless.
struct Refusing<'a>(Plain<'a>, u32);

impl Source for Refusing<'_> {
    fn open(&self, index: u32, into: &mut [u8]) -> bool {
        self.0.open(index, into) && index != self.1
    }
}

#[test]
fn a_refused_piece_ends_the_request_and_is_named() {
    let (build, _) = adder(&[20 * PER_CHUNK]);
    for (bad, threads) in [(0, &Threads(1)), (79, &Threads(2)), (159, &Threads(2)), (11, &Threads(4))] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let (program, weights) = (build.program.clone(), build.weights.clone());
        let mut prepared = Prepared::new(program, weights, compute, WINDOW, Limits::new(u64::MAX)).expect("valid");
        drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("runs");
        prepared.reset();
        let source = Refusing(Plain(&build.stream), bad);
        assert!(matches!(prepared.step(Reply::Go), Ok(Step::Input(_))));
        let mut refused = prepared.step(Reply::Value(ValueRef::F32(&[0.0]))).map(|_| ());
        while refused.is_ok() {
            refused = prepared.step(Reply::Pieces(&source)).map(|_| ());
        }
        assert_eq!(refused, Err(EngineError::Piece { index: bad }), "{} threads", threads.0);
        assert!(matches!(prepared.step(Reply::Pieces(&source)), Err(EngineError::NeedsReset)));
        prepared.reset();
        drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("the next request is served");
    }
}

#[test]
fn two_tiles_in_one_piece_cost_one_piece() {
    let mut b = Build::new();
    let (x, y) = (b.weight_f32(&ramp(8, 1)), b.weight_f32(&ramp(8, 2)));
    let out = b.f32(8);
    b.push(Instruction::Binary {
        op: cordon_engine::program::BinaryOp::Mul,
        shape: Strided2 { dims: vec![8], a: vec![1], b: vec![1] },
        a: Operand::Weight(x),
        b: Operand::Weight(y),
        activation: None,
        out,
    });
    b.output(out);
    let mut prepared = b.prepare(WINDOW).expect("valid");
    let (outputs, seen) = drive(&mut prepared, &b.stream, &[]).expect("runs");
    assert_eq!(seen, [Seen::Chunks(0, 1), Seen::Pieces(0, 1), Seen::Ran(0), Seen::Output(100), Seen::Done]);
    let expected: Vec<f32> = ramp(8, 1).iter().zip(ramp(8, 2)).map(|(a, b)| a * b).collect();
    assert_eq!(outputs[0].f32(), expected);
}

#[test]
fn a_window_holds_tiles_not_tensors() {
    let mut b = Build::new();
    let values = ramp(4 * PER_CHUNK, 9);
    let whole = b.weight_f32(&values);
    let tile = Tile { start: PER_CHUNK as u32 - 2, len: 4, ..whole };
    let out = b.f32(4);
    b.push(Instruction::Unary { op: UnaryOp::Neg, input: Operand::Weight(tile), out });
    b.output(out);
    let expected: Vec<f32> = values[PER_CHUNK - 2..PER_CHUNK + 2].iter().map(|v| -v).collect();
    for residency in [Residency::All, Residency::Least] {
        let mut prepared = b.prepare(residency).expect("valid");
        let (outputs, _) = drive(&mut prepared, &b.stream, &[]).expect("runs");
        assert_eq!(outputs[0].f32(), expected);
    }
    assert_eq!(b.prepare(Residency::Least).expect("valid").memory().window, 16 + ROOMS);
}

#[test]
fn steps_do_not_depend_on_data() {
    let mut random = Random(7);
    for case in cases::all() {
        for residency in [Residency::All, WINDOW] {
            let mut sequences = Vec::new();
            for fill in [0.0, 1.0, f32::NAN, -1e30] {
                let inputs: Vec<Value> = case
                    .inputs
                    .iter()
                    .map(|value| match value {
                        Value::F32(v) => Value::F32(v.iter().map(|v| v * fill).collect()),
                        // The longest axis an index of the cases may address has two elements.
                        Value::I64(v) => Value::I64(v.iter().map(|_| (random.next() % 2) as i64).collect()),
                        Value::Bool(v) => Value::Bool(v.iter().map(|_| (random.next() % 2) as u8).collect()),
                        Value::U8(v) => Value::U8(v.iter().map(|_| random.next() as u8).collect()),
                    })
                    .collect();
                let mut prepared = case.build.prepare(residency).expect(case.name);
                let (_, seen) = drive(&mut prepared, &case.build.stream, &inputs).expect(case.name);
                sequences.push(seen);
            }
            assert!(sequences.windows(2).all(|pair| pair[0] == pair[1]), "{}", case.name);
        }
    }
}

#[test]
fn resident_weights_are_loaded_once() {
    let (build, _) = adder(&[5]);
    let mut prepared = build.prepare(Residency::All).expect("valid");
    let input = [Value::F32(vec![1.0])];
    let (_, first) = drive(&mut prepared, &build.stream, &input).expect("runs");
    prepared.reset();
    let (_, second) = drive(&mut prepared, &[], &input).expect("runs without chunks");
    assert_eq!(first[1..], second);
}

#[test]
fn an_interrupted_load_starts_over() {
    let (build, tensors) = adder(&[PER_CHUNK + 1]);
    let mut prepared = build.prepare(Residency::All).expect("valid");
    assert!(matches!(prepared.step(Reply::Go), Ok(Step::NeedChunks { first: 0, count: 2 })));
    assert!(prepared.step(Reply::Chunk { index: 0, plain: chunk(&build.stream, 0) }).is_ok());
    prepared.reset();
    let (outputs, seen) = drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("runs");
    assert_eq!(seen[0], Seen::Chunks(0, 2));
    assert_eq!(outputs[0].f32(), tensors[0]);
}

/// Brings `prepared` to the step that asks for something.
fn until(prepared: &mut Prepared, build: &Build, wanted: impl Fn(&Step<'_>) -> bool) {
    prepared.reset();
    let mut index = None;
    loop {
        let reply = match index {
            Some(index) => Reply::Chunk { index, plain: chunk(&build.stream, index) },
            None => Reply::Go,
        };
        let step = prepared.step(reply).expect("valid replies");
        if wanted(&step) {
            return;
        }
        index = if let Step::NeedChunks { first, .. } = step { Some(first) } else { None };
    }
}

#[test]
fn replies_that_do_not_fit_are_refused() {
    let (build, _) = adder(&[PER_CHUNK + 1]);
    let whole = chunk(&build.stream, 0);
    let value = [1.0];
    let fresh = || build.prepare(Residency::All).expect("valid");
    let refused = |prepared: &mut Prepared, reply: Reply<'_>| {
        assert!(matches!(prepared.step(reply), Err(EngineError::Reply(_))));
        assert!(matches!(prepared.step(Reply::Go), Err(EngineError::NeedsReset)), "a refusal must last");
        assert!(prepared.output().is_none());
    };

    refused(&mut fresh(), Reply::Chunk { index: 0, plain: whole });
    refused(&mut fresh(), Reply::Value(ValueRef::F32(&value)));

    let chunks = |step: &Step<'_>| matches!(step, Step::NeedChunks { .. });
    for bad in [
        Reply::Go,
        Reply::Value(ValueRef::F32(&value)),
        Reply::Chunk { index: 1, plain: whole },
        Reply::Chunk { index: u32::MAX, plain: whole },
        Reply::Chunk { index: 0, plain: &whole[1..] },
        Reply::Chunk { index: 0, plain: &[] },
        Reply::Pieces(&Plain(&build.stream)),
    ] {
        let mut prepared = fresh();
        until(&mut prepared, &build, chunks);
        refused(&mut prepared, bad);
    }

    let input = |step: &Step<'_>| matches!(step, Step::Input(_));
    for bad in [
        Reply::Go,
        Reply::Chunk { index: 0, plain: whole },
        Reply::Value(ValueRef::F32(&[])),
        Reply::Value(ValueRef::F32(&[1.0, 2.0])),
        Reply::Value(ValueRef::I64(&[1])),
        Reply::Value(ValueRef::Bool(&[1])),
    ] {
        let mut prepared = fresh();
        until(&mut prepared, &build, input);
        refused(&mut prepared, bad);
    }
}

#[test]
fn a_mask_input_must_hold_bools() {
    let mut b = Build::new();
    let input = b.input(DType::Bool, &[2]);
    b.output(input);
    assert!(b.run(&[Value::Bool(vec![0, 1])]).is_ok());
    assert!(matches!(b.run(&[Value::Bool(vec![0, 2])]), Err(EngineError::Data { at: Place::Input(0), .. })));
}

#[test]
fn a_finished_request_needs_a_reset() {
    let (build, _) = adder(&[3]);
    let mut prepared = build.prepare(Residency::All).expect("valid");
    let input = [Value::F32(vec![1.0])];
    drive(&mut prepared, &build.stream, &input).expect("runs");
    assert!(prepared.output().is_none());
    assert!(matches!(prepared.step(Reply::Go), Err(EngineError::NeedsReset)));
}

#[test]
fn memory_is_counted_before_it_is_allocated() {
    let (build, _) = adder(&[1000, 3000]);
    let prepare = |residency, bytes| {
        Prepared::new(build.program.clone(), build.weights.clone(), KernelSet::PORTABLE, residency, Limits::new(bytes))
    };
    let resident = prepare(Residency::All, u64::MAX).expect("no limit");
    let streamed = prepare(WINDOW, u64::MAX).expect("no limit");
    let (a, b) = (resident.memory(), streamed.memory());
    assert_eq!((a.arena, a.weights, a.window), (4 * 4001, 4 * 4000, 0));
    // The window holds the larger tensor; beside it pieces are opened.
    assert_eq!((b.arena, b.weights, b.window), (4 * 4001, 0, 4 * 3000 + ROOMS));
    assert!(a.tables > 0 && a.total() == resident.peak_bytes());
    for (residency, measured) in [(Residency::All, a), (WINDOW, b)] {
        let decoded = cordon_engine::Program::decode(&build.program.encode()).expect("just encoded");
        assert_eq!(Prepared::predict(&decoded, &build.weights, residency).map(|it| it.memory), Ok(measured));
    }
    for (residency, peak) in [(Residency::All, resident.peak_bytes()), (WINDOW, streamed.peak_bytes())] {
        assert!(prepare(residency, peak).is_ok());
        assert!(matches!(prepare(residency, peak - 1), Err(EngineError::Memory { .. })));
        assert!(matches!(prepare(residency, 0), Err(EngineError::Memory { .. })));
    }
    // An arena no machine has: refused by arithmetic, not by the allocator.
    let mut huge = build.program.clone();
    huge.arena.i64 = u32::MAX;
    let refused = Prepared::new(huge, build.weights.clone(), KernelSet::PORTABLE, WINDOW, Limits::new(1 << 30)).err();
    assert!(matches!(refused, Some(EngineError::Memory { what: "the arena", available: 0..=0x4000_0000, .. })));
}

#[test]
fn an_input_may_come_in_pieces_and_must_be_complete() {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[3]);
    let out = b.f32(3);
    b.push(Instruction::Unary { op: UnaryOp::Neg, input: arena(input), out });
    b.output(out);
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let asked = || {
        let mut prepared = b.prepare(Residency::All).expect("valid");
        assert!(matches!(prepared.step(Reply::Go), Ok(Step::Input(_))));
        prepared
    };
    let mut prepared = asked();
    prepared.fill(&bytes[..4]).expect("first");
    prepared.fill(&bytes[4..]).expect("rest");
    assert!(matches!(prepared.step(Reply::Filled), Ok(Step::Ran { .. })));
    assert!(matches!(prepared.step(Reply::Go), Ok(Step::Output(_))));
    assert!(matches!(prepared.output(), Some(ValueRef::F32(v)) if v == [-1.0, -2.0, -3.0]));
    assert!(prepared.fill(&bytes).is_err(), "nothing is asked for now");

    let mut prepared = asked();
    prepared.fill(&bytes[..8]).expect("two thirds");
    assert!(matches!(prepared.step(Reply::Filled), Err(EngineError::Reply(_))), "incomplete");
    for hostile in [&bytes[..3], &[0; 16][..]] {
        let mut prepared = asked();
        assert!(prepared.fill(hostile).is_err(), "{} bytes", hostile.len());
        assert_eq!(prepared.step(Reply::Filled).err(), Some(EngineError::NeedsReset));
    }
}
