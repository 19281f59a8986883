//! The step interface: what is asked for and when, what is refused, and that none of it depends on data.

mod support;

use cordon_engine::program::{DType, Instruction, Operand, Strided2, Strided3, Tile, UnaryOp};
use cordon_engine::{
    Compute, EngineError, KernelSet, PIECE, PIECES_PER_STEP, PieceSource, Reply, Residency, Step, ValueRef,
};
use support::{
    Build, PER_CHUNK, Plain, ROOMS, Random, Threads, Value, WINDOW, adder, arena, cases, chunk, drive, ramp,
};

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
fn pieces_come_with_every_request_without_holes() {
    let (build, _) = adder(&[10, 18 * PER_CHUNK]);
    let [ran_0, ran_1] = [0, 1].map(|instruction| Step::Ran { instruction });
    let rest = [Step::Output { port: 0 }, Step::Output { port: 1 }, Step::Done];
    let check = |residency, request: &[Step]| {
        let mut prepared = build.prepare(residency).expect("valid");
        for _ in 0..2 {
            let (_, steps) = drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("runs");
            assert_eq!(steps, [request, &rest].concat());
            prepared.reset();
        }
    };
    let input = Step::Input { port: 0 };
    check(Residency::All, &[input, ran_0, ran_1]);
    // Tensor 1 begins inside piece 24 and so ends inside piece 168: 145 pieces, in steps of 127 and 18.
    assert_eq!(build.weights.0[1].offset as usize / PIECE, 24);
    let pieces = |first, count| Step::NeedPieces { first, count };
    check(WINDOW, &[input, pieces(0, 1), ran_0, pieces(24, 127), pieces(151, 18), ran_1]);
}

#[test]
fn pieces_may_come_fewer_at_a_time_than_asked_for() {
    let (build, tensors) = adder(&[10, 18 * PER_CHUNK]);
    let source = Plain(&build.stream);
    for most in [1, 5, 126] {
        let mut prepared = build.prepare(WINDOW).expect("valid");
        let (mut reply, mut asked, mut outputs) = (Reply::Go, 0, Vec::new());
        loop {
            reply = match prepared.step(reply).expect("valid replies") {
                Step::NeedPieces { first, count } => {
                    assert!(first >= asked, "none is asked for twice");
                    let count = count.min(most);
                    asked = first + count;
                    Reply::Pieces { source: &source, count }
                }
                Step::Input { .. } => Reply::Value(ValueRef::F32(&[0.5])),
                Step::Done => break,
                _ => {
                    outputs.extend(prepared.output().map(Value::from));
                    Reply::Go
                }
            }
        }
        for (output, tensor) in outputs.iter().zip(&tensors) {
            assert!(output.f32().iter().zip(tensor).all(|(a, b)| *a == b + 0.5), "{most} at a time");
        }
        assert_eq!(outputs.len(), 2);
    }
}

#[test]
fn any_number_of_threads_fills_the_same_window() {
    let lens = [10, PER_CHUNK, 2 * PER_CHUNK + 7, 20 * PER_CHUNK, 1];
    let (build, tensors) = adder(&lens);
    for threads in [&Threads(1), &Threads(2), &Threads(3), &Threads(16)] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let mut prepared = build.prepare_on(WINDOW, compute).expect("valid");
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
        let mut prepared = b.prepare_on(WINDOW, compute).expect("valid");
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
            let mut prepared = case.build.prepare_on(residency, compute).expect(case.name);
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
        let mut prepared = b.prepare_on(WINDOW, compute).expect("valid");
        let (outputs, _) = drive(&mut prepared, &b.stream, &[]).expect("runs");
        assert!(outputs[0].f32() == expected, "{} threads", threads.0);
    }
}

/// How many windows serve a run, when each is asked for where the one before does not reach.
fn windows(build: &Build, compute: KernelSet) -> Vec<(u32, u32)> {
    let source = Plain(&build.stream);
    let mut prepared = build.prepare_on(WINDOW, compute).expect("valid");
    let (mut windows, mut window) = (Vec::new(), 0..0);
    let mut step = prepared.step(Reply::Go);
    loop {
        step = match step.expect("valid replies") {
            Step::NeedPieces { first, count } => {
                if !window.contains(&first) {
                    window = prepared.pieces_ahead();
                    windows.push((window.start, window.len() as u32));
                }
                assert!(window.contains(&first) && window.len() <= PIECES_PER_STEP as usize, "{first} in {window:?}");
                prepared.step(Reply::Pieces { source: &source, count: count.min(window.end - first) })
            }
            Step::Input { .. } => {
                window = prepared.pieces_ahead();
                windows.push((window.start, window.len() as u32));
                prepared.step(Reply::Value(ValueRef::F32(&[0.5])))
            }
            Step::Done => return windows,
            _ => prepared.step(Reply::Go),
        };
    }
}

#[test]
fn loads_that_follow_each_other_share_a_window() {
    // Ten tensors of 16 KiB on end, then one of 200 pieces, then a small one after a hole of 24 pieces.
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1]);
    let read = |b: &mut Build, tile: Tile| {
        let out = b.f32(tile.len);
        b.push(Instruction::Binary {
            op: cordon_engine::program::BinaryOp::Add,
            shape: Strided2 { dims: vec![tile.len], a: vec![0], b: vec![1] },
            a: arena(input),
            b: Operand::Weight(tile),
            activation: None,
            out,
        });
        b.output(out);
    };
    let small: Vec<Tile> = (0..10).map(|seed| b.weight_f32(&ramp(2 * PIECE / 4, seed))).collect();
    let large = b.weight_f32(&ramp(200 * PIECE / 4, 11));
    b.gap(24 * PIECE);
    let last = b.weight_f32(&ramp(PIECE / 4, 12));
    small.iter().chain([&large, &last]).for_each(|tile| read(&mut b, *tile));
    // One window for the small ones and the beginning of the large, one for its rest and what follows the hole.
    assert_eq!(windows(&b, KernelSet::PORTABLE), [(0, 127), (127, 118)]);

    // Read again in the other order: what lies behind is part of the window where it fits.
    small.iter().rev().for_each(|tile| read(&mut b, *tile));
    assert_eq!(windows(&b, KernelSet::PORTABLE), [(0, 127), (127, 118), (0, 20)]);
}

#[test]
fn nothing_is_ahead_where_other_things_come_first() {
    let mut b = Build::new();
    let (x, y) = (b.input(DType::F32, &[4]), b.input(DType::F32, &[4]));
    let tile = b.weight_f32(&[1.0; 4]);
    b.push(Instruction::Spill { slot: 0, value: x });
    b.push(Instruction::Unary { op: UnaryOp::Neg, input: Operand::Weight(tile), out: x });
    b.push(Instruction::Restore { slot: 0, out: y });
    b.output(x);
    let mut prepared = b.prepare(WINDOW).expect("valid");
    let value = [0.0; 4];
    let mut seen = Vec::new();
    let mut step = prepared.step(Reply::Go);
    loop {
        let now = step.expect("valid replies");
        seen.push((now, prepared.pieces_ahead()));
        step = match now {
            Step::Input { .. } => prepared.step(Reply::Value(ValueRef::F32(&value))),
            Step::NeedPieces { count, .. } => prepared.step(Reply::Pieces { source: &Plain(&b.stream), count }),
            Step::Restore(_) => {
                prepared.fill(&[0; 16]).expect("a value");
                prepared.step(Reply::Filled)
            }
            Step::Done => break,
            _ => prepared.step(Reply::Go),
        };
    }
    let ahead: Vec<_> =
        seen.iter().filter(|(_, ahead)| !ahead.is_empty()).map(|(step, ahead)| (*step, ahead)).collect();
    let is_spill = |step| matches!(step, Step::Spill(_));
    // While x is out nothing else is needed before the tile, nor once its pieces are asked for, nor after the spill ran.
    assert!(
        matches!(ahead[..], [(spill, _), (Step::Ran { instruction: 0 }, _), (Step::NeedPieces { .. }, _)] if is_spill(spill))
    );
    assert!(ahead.iter().all(|(_, ahead)| **ahead == (0..1)));
}

/// Refuses one piece, whose plaintext it shows nevertheless.
struct Refusing<'a>(Plain<'a>, u32);

impl PieceSource for Refusing<'_> {
    fn open(&self, index: u32, into: &mut [u8]) -> bool {
        self.0.open(index, into) && index != self.1
    }
}

#[test]
fn a_refused_piece_ends_the_request_and_is_named() {
    let (build, _) = adder(&[20 * PER_CHUNK]);
    for (bad, threads) in [(0, &Threads(1)), (79, &Threads(2)), (159, &Threads(2)), (11, &Threads(4))] {
        let compute = Compute { set: KernelSet::PORTABLE, workers: threads };
        let mut prepared = build.prepare_on(WINDOW, compute).expect("valid");
        drive(&mut prepared, &build.stream, &[Value::F32(vec![0.0])]).expect("runs");
        prepared.reset();
        let source = Refusing(Plain(&build.stream), bad);
        assert_eq!(prepared.step(Reply::Go), Ok(Step::Input { port: 0 }));
        let mut step = prepared.step(Reply::Value(ValueRef::F32(&[0.0])));
        while let Ok(Step::NeedPieces { count, .. }) = step {
            step = prepared.step(Reply::Pieces { source: &source, count });
        }
        assert_eq!(step, Err(EngineError::Piece { index: bad }), "{} threads", threads.0);
        assert_eq!(prepared.step(Reply::Pieces { source: &source, count: 1 }), Err(EngineError::NeedsReset));
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
    let (outputs, steps) = drive(&mut prepared, &b.stream, &[]).expect("runs");
    let pieces = Step::NeedPieces { first: 0, count: 1 };
    assert_eq!(steps, [pieces, Step::Ran { instruction: 0 }, Step::Output { port: 0 }, Step::Done]);
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
                let (_, steps) = drive(&mut prepared, &case.build.stream, &inputs).expect(case.name);
                sequences.push(steps);
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
    let first = drive(&mut prepared, &[], &input).expect("runs");
    prepared.reset();
    assert_eq!(drive(&mut prepared, &[], &input).expect("runs again"), first);
}

#[test]
fn only_all_chunks_in_order_make_a_program_ready() {
    let (build, tensors) = adder(&[2 * PER_CHUNK + 1]);
    let unloaded = || build.unloaded(Residency::All, KernelSet::PORTABLE, u64::MAX).expect("valid");
    for came in 0..3 {
        let mut unloaded = unloaded();
        (0..came).for_each(|index| unloaded.accept(index, chunk(&build.stream, index)).expect("the next"));
        assert_eq!(unloaded.chunks_left(), 3 - u64::from(came));
        assert!(matches!(unloaded.finish().err(), Some(EngineError::Reply(_))), "{came} of 3");
    }
    let mut unloaded = unloaded();
    for index in 0..3 {
        let whole = chunk(&build.stream, index);
        let longer = [whole, &[0]].concat();
        for (bad, plain) in [
            (index.wrapping_sub(1), whole),
            (index + 1, whole),
            (u32::MAX, whole),
            (index, &whole[1..]),
            (index, &longer),
            (index, &[]),
        ] {
            assert!(matches!(unloaded.accept(bad, plain), Err(EngineError::Reply(_))), "{bad} for {index}");
        }
        unloaded.accept(index, whole).expect("a refusal changes nothing");
    }
    assert!(matches!(unloaded.accept(3, &[]), Err(EngineError::Reply(_))), "after the last");
    let mut prepared = unloaded.finish().expect("all came");
    let (outputs, _) = drive(&mut prepared, &[], &[Value::F32(vec![0.0])]).expect("runs");
    assert_eq!(outputs[0].f32(), tensors[0]);
}
