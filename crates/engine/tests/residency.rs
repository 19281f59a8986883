//! Which constants stay inside under a budget: the budget is kept, results do not change, and no data decides.

mod support;

use cordon_engine::program::{BinaryOp, DType, Instruction, Operand, Strided2, Tile};
use cordon_engine::{CHUNK, EngineError, Place, Prepared, Program, Residency, Step, WeightTable, share};
use support::{Build, Random, Value, arena, drive, ramp};

const PER_CHUNK: u32 = CHUNK as u32 / 4;

/// Adds tiles of one tensor, half a chunk of f32 each, to the input one after the other, in the given order.
fn adder(order: &[u32]) -> Build {
    adder_of(order, |b, len| b.weight_f32(&ramp(len, 3)))
}

fn adder_of(order: &[u32], weight: impl Fn(&mut Build, usize) -> Tile) -> Build {
    let mut b = Build::new();
    let len = PER_CHUNK / 2;
    let mut sum = b.input(DType::F32, &[len]);
    let tiles = order.iter().max().expect("tiles") + 1;
    let whole = weight(&mut b, (tiles * len) as usize);
    for &index in order {
        let out = b.f32(len);
        b.push(Instruction::Binary {
            op: BinaryOp::Add,
            shape: Strided2 { dims: vec![len], a: vec![1], b: vec![1] },
            a: arena(sum),
            b: Operand::Weight(Tile { start: index * len, len, ..whole }),
            activation: None,
            out,
        });
        sum = out;
    }
    b.output(sum);
    b
}

fn input(seed: u32) -> [Value; 1] {
    [Value::F32(ramp(PER_CHUNK as usize / 2, seed))]
}

/// Pieces asked for.
fn pieces(steps: &[Step]) -> u64 {
    steps.iter().map(|step| if let Step::NeedPieces { count, .. } = step { u64::from(*count) } else { 0 }).sum()
}

#[test]
fn every_budget_is_kept_and_gives_the_same_bits() {
    let build = adder(&[0, 1, 2, 3, 4, 5, 6, 7, 2, 2]);
    let (expected, _) =
        drive(&mut build.prepare(Residency::All).expect("valid"), &build.stream, &input(9)).expect("runs");
    let mut last = u64::MAX;
    for bytes in (0..400_000).step_by(5_000) {
        let mut prepared = match build.prepare(Residency::Budget { bytes }) {
            Ok(prepared) => prepared,
            Err(EngineError::Memory {
                at: Place::Instruction { .. },
                what: "the weight window",
                needed,
                available,
            }) => {
                assert_eq!(available, bytes);
                assert!(needed > bytes && last == u64::MAX, "a larger budget cannot fail where a smaller did not");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let memory = prepared.memory();
        assert!(memory.weights + memory.window <= bytes, "{memory:?} in {bytes}");
        let (outputs, steps) = drive(&mut prepared, &build.stream, &input(9)).expect("runs");
        assert_eq!(outputs, expected);
        assert_eq!(pieces(&steps), prepared.pieces_per_request());
        assert!(prepared.pieces_per_request() <= last, "more memory must not cost more pieces");
        last = prepared.pieces_per_request();
        let predicted = Prepared::predict(&build.program, &build.weights, Residency::Budget { bytes }).expect("valid");
        assert_eq!(
            (predicted.memory.weights, predicted.memory.window, predicted.pieces),
            (memory.weights, memory.window, last)
        );
    }
    assert_eq!(last, 0, "the largest budget holds everything");
}

/// Every binary16 number that is a number, again and again.
fn halves(len: usize) -> Vec<u16> {
    (0..=u16::MAX).filter(|half| half & 0x7c00 != 0x7c00).cycle().step_by(7).take(len).collect()
}

#[test]
fn f16_gives_the_bits_of_its_values_as_f32_in_half_the_room() {
    let order = [0, 1, 2, 3, 4, 5, 6, 7, 2, 2];
    let packed = adder_of(&order, |b, len| b.weight_f16(&halves(len)));
    let wide = adder_of(&order, |b, len| {
        b.weight_f32(&halves(len).into_iter().map(cordon_kernels::half::to_f32).collect::<Vec<_>>())
    });
    assert_eq!(packed.stream.len() * 2, wide.stream.len());
    let expected = drive(&mut wide.prepare(Residency::All).expect("valid"), &wide.stream, &input(9)).expect("runs").0;
    let (mut some_packed, mut some_streamed) = (false, false);
    let tile = u64::from(PER_CHUNK) * 2;
    for bytes in (0..400_000).step_by(5_000).map(|bytes| Residency::Budget { bytes }).chain([Residency::Least]) {
        let mut prepared = match packed.prepare(bytes) {
            Ok(prepared) => prepared,
            Err(EngineError::Memory { .. }) => continue,
            Err(other) => panic!("{other}"),
        };
        let memory = prepared.memory();
        if let Residency::Budget { bytes } = bytes {
            assert!(memory.weights + memory.window <= bytes, "{memory:?} in {bytes}");
        }
        let (outputs, steps) = drive(&mut prepared, &packed.stream, &input(9)).expect("runs");
        assert_eq!(outputs, expected, "{bytes:?}");
        assert_eq!(pieces(&steps), prepared.pieces_per_request());
        let predicted = Prepared::predict(&packed.program, &packed.weights, bytes).expect("valid");
        assert_eq!((predicted.memory.weights, predicted.memory.window), (memory.weights, memory.window));
        // All eight tiles as stored, and one tile of window.
        some_packed |= (memory.weights, memory.window, predicted.pieces) == (8 * tile / 2, tile, 0);
        some_streamed |= predicted.pieces > 0 && memory.weights > 0;
    }
    assert!(some_packed && some_streamed, "the test must see both");
    let all = Prepared::predict(&packed.program, &packed.weights, Residency::All).expect("valid").memory;
    assert_eq!((all.weights, all.window), (8 * tile, 0), "with room for it, nothing is widened twice");
}

#[test]
fn one_f16_tile_read_twice_by_an_instruction_is_widened_once() {
    let (len, count) = (40, 8);
    let values = halves(len + count);
    let mut b = Build::new();
    let mut expected = Vec::new();
    for first in 0..count {
        let tile = &values[first..first + len];
        let a = Operand::Weight(b.weight_f16(tile));
        let shape = Strided2 { dims: vec![len as u32], a: vec![1], b: vec![1] };
        let out = b.f32(len as u32);
        b.push(Instruction::Binary { op: BinaryOp::Mul, shape, a, b: a, activation: None, out });
        b.output(out);
        let square = |half: &u16| cordon_kernels::half::to_f32(*half) * cordon_kernels::half::to_f32(*half);
        expected.push(Value::F32(tile.iter().map(square).collect()));
    }
    let mut packed = 0;
    for bytes in (0..3_000).step_by(40) {
        let mut prepared = match b.prepare(Residency::Budget { bytes }) {
            Ok(prepared) => prepared,
            Err(EngineError::Memory { .. }) => continue,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(drive(&mut prepared, &b.stream, &[]).expect("runs").0, expected, "{bytes}");
        let memory = prepared.memory();
        packed += u32::from((memory.weights, memory.window) == ((count * len * 2) as u64, len as u64 * 4));
    }
    assert!(packed > 0, "the test must see all tiles packed");
}

#[test]
fn a_tile_read_three_times_stays_before_those_read_once() {
    let build = adder(&[0, 1, 2, 3, 4, 5, 6, 7, 4, 4]);
    // Room for the window, the pieces being opened, one tile and the tables.
    let bytes = u64::from(PER_CHUNK * 4) * 3 / 2 + 2_000;
    let mut prepared = build.prepare(Residency::Budget { bytes }).expect("fits");
    assert_eq!(prepared.memory().weights, u64::from(PER_CHUNK) * 2);
    let (_, steps) = drive(&mut prepared, &build.stream, &input(1)).expect("runs");
    // Every other tile comes once, four pieces each.
    let asked: Vec<_> = steps.into_iter().filter(|step| matches!(step, Step::NeedPieces { .. })).collect();
    assert_eq!(asked, [0, 1, 2, 3, 5, 6, 7].map(|tile| Step::NeedPieces { first: 4 * tile, count: 4 }));
}

#[test]
fn fifty_inputs_make_one_sequence_of_pieces_and_steps() {
    let build = adder(&[0, 3, 1, 3, 2, 0]);
    let mut random = Random(11);
    for residency in [Residency::All, Residency::Budget { bytes: 170_000 }, Residency::Least] {
        let mut prepared = build.prepare(residency).expect("fits");
        let mut sequences = Vec::new();
        for _ in 0..50 {
            let bits = (0..PER_CHUNK / 2).map(|_| f32::from_bits(random.next() as u32)).collect();
            let (_, steps) = drive(&mut prepared, &build.stream, &[Value::F32(bits)]).expect("runs");
            prepared.reset();
            sequences.push(steps);
        }
        assert!(sequences.iter().all(|one| *one == sequences[0]), "{residency:?}");
    }
}

#[test]
fn programs_share_a_budget_and_the_first_that_does_not_fit_is_named() {
    let builds = [adder(&[0, 1, 2, 3, 4, 5, 6, 7]), adder(&[0, 1])];
    let programs: Vec<_> = builds.iter().map(|build| (&build.program, &build.weights)).collect();
    let taken = |residencies: &[Residency]| -> Vec<u64> {
        let one = |(&(program, table), residency): (&(&Program, &WeightTable), &Residency)| {
            let total = Prepared::predict(program, table, *residency).expect("valid").memory.total();
            total - program.heap_bytes()
        };
        programs.iter().zip(residencies).map(one).collect()
    };
    let (most, least) = (taken(&[Residency::All; 2]), taken(&[Residency::Least; 2]));
    // The second needs less with everything inside than with a window and the rooms pieces are opened in.
    let least = [least[0], least[1].min(most[1])];
    for available in (0..most.iter().sum::<u64>() + 1000).step_by(10_007) {
        match share(available, &programs) {
            Ok(residencies) => assert!(taken(&residencies).iter().sum::<u64>() <= available),
            Err((index, EngineError::Memory { needed, available: left, .. })) => {
                assert_eq!(index, usize::from(available >= least[0]));
                assert!(needed == least[index] && left < needed);
            }
            Err((_, other)) => panic!("{other}"),
        }
    }
    assert_eq!(share(u64::MAX, &programs).ok(), Some(vec![Residency::All; 2]));
}
