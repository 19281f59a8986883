//! Every instruction against results worked out by hand, under every kernel set and residency.

mod support;

use std::collections::BTreeSet;

use cordon_engine::program::{BinaryOp, DType, Instruction, MemoryMut, Operand, Port, Program, Region, Strided2};
use cordon_engine::{EngineError, KernelSet, Residency};
use support::{Build, Value, cases, drive, load};

fn close(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::F32(found), Value::F32(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()))
        }
        _ => found == expected,
    }
}

#[test]
fn results_are_right_under_every_kernel_set() {
    let mut wrong = Vec::new();
    for set in KernelSet::all_available() {
        for case in cases::all() {
            let unloaded = case.build.unloaded(Residency::All, set, 16 << 20).expect(case.name);
            let mut prepared = load(unloaded, &case.build.stream).expect(case.name);
            let (found, _) = drive(&mut prepared, &case.build.stream, &case.inputs).expect(case.name);
            let right =
                found.len() == case.expected.len() && found.iter().zip(&case.expected).all(|(a, b)| close(a, b));
            if !right {
                wrong.push((set.name(), case.name, found));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_instruction_has_a_case() {
    let cases = cases::all();
    let names: BTreeSet<_> =
        cases.iter().flat_map(|case| &case.build.program.instructions).map(Instruction::name).collect();
    assert_eq!(names, Instruction::NAMES.iter().copied().collect());
}

#[test]
fn all_memory_is_shown_once_to_be_changed() {
    for case in cases::all() {
        for instruction in case.build.program.instructions {
            let mut named: Vec<Operand> = instruction.reads().map(|read| read.operand).collect();
            let out = Operand::Arena(instruction.out());
            match instruction {
                Instruction::Spill { .. } => assert_eq!(named, [out], "what it loses it reads"),
                _ => named.push(out),
            }
            let (mut shown, mut changed) = (Vec::new(), instruction.clone());
            changed.memory_mut(|memory| match memory {
                MemoryMut::Region(region) => {
                    shown.push(Operand::Arena(*region));
                    region.start += 1000;
                }
                MemoryMut::Tile(tile) => {
                    shown.push(Operand::Weight(*tile));
                    tile.tensor += 1000;
                }
            });
            assert_eq!(shown, named, "{}: fields in their order, the written one last", instruction.name());
            assert_eq!(changed.out().start, instruction.out().start + 1000);
            let moved = changed.reads().zip(instruction.reads()).all(|(new, old)| match (new.operand, old.operand) {
                (Operand::Arena(new), Operand::Arena(old)) => new.start == old.start + 1000,
                (Operand::Weight(new), Operand::Weight(old)) => new.tensor == old.tensor + 1000,
                _ => false,
            });
            assert!(moved, "{changed:?}");
        }
    }
}

#[test]
fn residency_does_not_change_a_bit() {
    for case in cases::all() {
        let window = Residency::Least;
        let mut streamed = case.build.prepare(window).expect(case.name);
        let mut resident = case.build.prepare(Residency::All).expect(case.name);
        let (a, _) = drive(&mut streamed, &case.build.stream, &case.inputs).expect(case.name);
        let (b, _) = drive(&mut resident, &case.build.stream, &case.inputs).expect(case.name);
        assert!(a == b, "{}", case.name);
        // A second request gives the same again.
        streamed.reset();
        resident.reset();
        let (c, _) = drive(&mut streamed, &case.build.stream, &case.inputs).expect(case.name);
        let (d, _) = drive(&mut resident, &case.build.stream, &case.inputs).expect(case.name);
        assert!(a == c && a == d, "{} again", case.name);
    }
}

#[test]
fn programs_and_tables_survive_encoding() {
    for case in cases::all() {
        let Build { program, weights, .. } = case.build;
        let bytes = program.encode();
        assert_eq!(cordon_engine::Program::decode(&bytes), Ok(program), "{}", case.name);
        for end in 0..bytes.len() {
            let cut = cordon_engine::Program::decode(&bytes[..end]);
            assert!(matches!(cut, Err(EngineError::Malformed(_))), "{} cut at {end}", case.name);
        }
        assert_eq!(cordon_engine::WeightTable::decode(&weights.encode()), Ok(weights), "{}", case.name);
    }
}

#[test]
fn a_decoded_program_knows_what_it_holds() {
    let mut build = Build::new();
    let (input, out) = (build.input(DType::F32, &[2, 1, 3]), build.f32(6));
    let shape = Strided2 { dims: vec![2, 3], a: vec![3, 1], b: vec![0, 0] };
    let (a, b) = (Operand::Arena(input), Operand::Arena(Region { len: 1, ..input }));
    build.push(Instruction::Binary { op: BinaryOp::Add, shape, a, b, activation: None, out });
    build.push(Instruction::Fill { value: 0, out });
    build.output(out);
    let decoded = Program::decode(&build.program.encode()).expect("encoded");
    // The input's three extents, the output's one, and the two of each list of the first instruction.
    let extents = (3 + 1 + 3 * 2) * size_of::<u32>();
    let items = 2 * size_of::<Port>() + 2 * size_of::<Instruction>();
    assert_eq!(decoded.heap_bytes(), (extents + items) as u64);
}

#[test]
fn special_values_never_stop_a_run_that_has_no_indices() {
    let fills = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE / 2.0, f32::MAX];
    for case in cases::all() {
        for fill in fills {
            let inputs: Vec<Value> = case
                .inputs
                .iter()
                .map(|value| match value {
                    Value::F32(v) => Value::F32(vec![fill; v.len()]),
                    other => other.clone(),
                })
                .collect();
            let outputs = case.build.run(&inputs).expect(case.name);
            assert_eq!(outputs.len(), case.expected.len(), "{}", case.name);
        }
    }
}

#[test]
fn indices_outside_the_axis_stop_the_run() {
    for bad in [2, -3, i64::MAX, i64::MIN] {
        let case = cases::all().into_iter().find(|case| case.name == "gather").expect("a gather case");
        let mut prepared = case.build.prepare(Residency::All).expect("valid");
        let inputs = [Value::I64(vec![0, bad, 0])];
        let stopped = drive(&mut prepared, &case.build.stream, &inputs);
        assert!(matches!(stopped, Err(EngineError::Data { .. })), "{bad}");
        let refused = drive(&mut prepared, &case.build.stream, &case.inputs);
        assert!(matches!(refused, Err(EngineError::NeedsReset)), "{bad}");
        prepared.reset();
        assert!(drive(&mut prepared, &case.build.stream, &case.inputs).is_ok(), "{bad}");
    }
    let mut case = cases::all().into_iter().find(|case| case.name == "interpolate").expect("an interpolation case");
    case.build.stream[0] = 2;
    assert!(matches!(case.build.run(&case.inputs), Err(EngineError::Data { .. })));
}

#[test]
fn a_weight_mask_that_is_no_bool_is_refused() {
    let mut build = Build::new();
    let tile = build.weight(&Value::Bool(vec![0, 2]));
    let out = build.region(DType::Bool, 2);
    build.push(Instruction::Not { input: Operand::Weight(tile), out });
    build.output(out);
    assert!(matches!(build.run(&[]), Err(EngineError::Data { .. })));
}
