//! What a host answers: replies that do not fit, inputs in pieces, memory that does not suffice.

mod support;

use cordon_engine::program::{DType, Instruction, UnaryOp};
use cordon_engine::{EngineError, KernelSet, Limits, Place, Prepared, Reply, Residency, Step, Unloaded, ValueRef};
use support::{Build, PER_CHUNK, Plain, ROOMS, Value, WINDOW, adder, arena, drive, load};

#[test]
fn replies_that_do_not_fit_are_refused() {
    let (build, _) = adder(&[PER_CHUNK + 1]);
    let source = Plain(&build.stream);
    let pieces = |count| Reply::Pieces { source: &source, count };
    let refused = |residency, before: &[Reply<'_>], bad| {
        let mut prepared = build.prepare(residency).expect("valid");
        assert!(before.iter().all(|reply| prepared.step(*reply).is_ok()));
        assert!(matches!(prepared.step(bad), Err(EngineError::Reply(_))));
        assert_eq!(prepared.step(Reply::Go), Err(EngineError::NeedsReset), "a refusal must last");
        assert!(prepared.output().is_none());
    };
    let value = Reply::Value(ValueRef::F32(&[1.0]));
    for bad in [value, pieces(1), Reply::Filled] {
        refused(Residency::All, &[], bad);
    }
    for bad in [
        Reply::Go,
        pieces(1),
        Reply::Filled,
        Reply::Value(ValueRef::F32(&[])),
        Reply::Value(ValueRef::F32(&[1.0, 2.0])),
        Reply::Value(ValueRef::I64(&[1])),
        Reply::Value(ValueRef::Bool(&[1])),
    ] {
        refused(Residency::All, &[Reply::Go], bad);
    }
    // Nine pieces are asked for.
    for bad in [Reply::Go, value, Reply::Filled, pieces(0), pieces(10), pieces(u32::MAX)] {
        refused(WINDOW, &[Reply::Go, value], bad);
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
    let prepare = |residency, bytes| build.unloaded(residency, KernelSet::PORTABLE, bytes);
    let whole = |residency| load(prepare(residency, u64::MAX).expect("no limit"), &build.stream).expect("loads");
    let (resident, streamed) = (whole(Residency::All), whole(WINDOW));
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
    let refused = Unloaded::new(huge, build.weights.clone(), KernelSet::PORTABLE, WINDOW, Limits::new(1 << 30)).err();
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
        assert_eq!(prepared.step(Reply::Go), Ok(Step::Input { port: 0 }));
        prepared
    };
    let mut prepared = asked();
    prepared.fill(&bytes[..4]).expect("first");
    prepared.fill(&bytes[4..]).expect("rest");
    assert!(matches!(prepared.step(Reply::Filled), Ok(Step::Ran { .. })));
    assert_eq!(prepared.step(Reply::Go), Ok(Step::Output { port: 0 }));
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
