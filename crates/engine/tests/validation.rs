//! Each rule a Program must keep, broken once.

mod support;

use cordon_codec::DecodeError;
use cordon_engine::program::{
    Along, BinaryOp, Conv2d, ConvNd, DType, Instruction, Layout, MatMul, Operand, Pool, Program, Region, Stored,
    Strided1, Strided2, StridedCopy, Tile, UnaryOp, WeightTable,
};
use cordon_engine::{EngineError, KernelSet, Limits, Residency, Unloaded};
use support::{Build, arena, cases};

/// The field named by the refusal, or why there is none.
fn refused(program: &Program, weights: &WeightTable) -> Result<&'static str, String> {
    let residency = Residency::All;
    let limits = Limits::new(1 << 30);
    match Unloaded::new(program.clone(), weights.clone(), KernelSet::PORTABLE, residency, limits) {
        Ok(_) => Err("accepted".into()),
        Err(EngineError::Invalid { field, .. }) => Ok(field),
        Err(other) => Err(format!("{other:?}")),
    }
}

fn case(name: &str) -> Build {
    cases::all().into_iter().find(|case| case.name == name).expect(name).build
}

/// Breaks the first instruction of a case and expects `field` to be named.
#[track_caller]
fn broken(name: &str, field: &str, edit: impl FnOnce(&mut Instruction)) {
    let mut build = case(name);
    edit(&mut build.program.instructions[0]);
    assert_eq!(refused(&build.program, &build.weights), Ok(field), "{name}: {field}");
}

macro_rules! edit {
    ($variant:ident, $field:ident, $change:expr) => {
        |instruction: &mut Instruction| {
            let Instruction::$variant { $field, .. } = instruction else { panic!("another instruction") };
            apply($field, $change);
        }
    };
}

fn apply<T>(field: &mut T, change: impl FnOnce(&mut T)) {
    change(field);
}

fn tensor(operand: &mut Operand) -> &mut Region {
    let Operand::Arena(region) = operand else { panic!("not in the arena") };
    region
}

#[test]
fn convolution() {
    broken("conv2d", "input", edit!(Conv2d, input, |it| tensor(it).len += 1));
    broken("conv2d", "input", edit!(Conv2d, input, |it| tensor(it).dtype = DType::I64));
    broken("conv2d", "weight", edit!(Conv2d, weight, |it: &mut Tile| it.len -= 1));
    broken("conv2d", "weight", edit!(Conv2d, weight, |it: &mut Tile| it.start = 1));
    broken("conv2d", "weight", edit!(Conv2d, weight, |it: &mut Tile| it.tensor = 9));
    broken(
        "conv2d",
        "bias",
        edit!(Conv2d, bias, |it: &mut Option<Tile>| *it = Some(Tile { tensor: 0, start: 0, len: 64 })),
    );
    broken("conv2d", "out", edit!(Conv2d, out, |it: &mut Region| it.len -= 1));
    broken("conv2d", "out", edit!(Conv2d, out, |it: &mut Region| it.start = u32::MAX));
    let changes: [fn(&mut Conv2d); 9] = [
        |g| g.y.stride = 0,
        |g| g.y.dilation = 0,
        |g| g.x.kernel = 0,
        |g| g.groups = 0,
        |g| g.groups = 3,
        |g| g.y.dilation = 3,
        |g| g.x.stride = u32::MAX,
        |g| g.x.pad_begin = u32::MAX,
        |g| (g.oc, g.ic, g.groups, g.input) = (5, 5, 5, Layout::Plain),
    ];
    for change in changes {
        broken("conv2d", "geometry", edit!(Conv2d, geometry, change));
    }
    broken("conv2d", "input", edit!(Conv2d, geometry, |g: &mut Conv2d| g.n = u32::MAX));
    broken("conv_nd", "geometry", edit!(ConvNd, geometry, |g: &mut ConvNd| g.groups = 2));
    broken("conv_nd", "geometry", edit!(ConvNd, geometry, |g: &mut ConvNd| g.axes[2].output = 3));
    broken("pool", "geometry", edit!(Pool, geometry, |g: &mut Pool| g.lanes = 2));
    broken("pool", "geometry", edit!(Pool, geometry, |g: &mut Pool| g.axes[2].output = 9));
}

#[test]
fn strides() {
    broken("binary", "a", edit!(Binary, shape, |s: &mut Strided2| s.a[0] = 4));
    broken("binary", "b", edit!(Binary, shape, |s: &mut Strided2| s.b[0] = u32::MAX));
    broken("binary", "a", edit!(Binary, shape, |s: &mut Strided2| s.a.clear()));
    broken("binary", "out", edit!(Binary, shape, |s: &mut Strided2| s.dims[0] = 1));
    let many = |s: &mut Strided2| {
        s.dims.extend([1; 8]);
        s.a.extend([1; 8]);
        s.b.extend([1; 8]);
    };
    broken("binary", "a", edit!(Binary, shape, many));
    broken("matmul", "a", edit!(MatMul, geometry, |g: &mut MatMul| g.a[1] = 3));
    broken("matmul", "b", edit!(MatMul, geometry, |g: &mut MatMul| g.batch.b[0] = 1));
    broken("matmul", "geometry", edit!(MatMul, geometry, |g: &mut MatMul| g.k = 0));
    broken("reduce", "input", edit!(Reduce, kept, |s: &mut Strided1| s.a[0] = 4));
    broken("reduce", "reduced", edit!(Reduce, reduced, |s: &mut Strided1| (s.dims[0], s.a[0]) = (7, 0)));
    broken("reduce", "reduced", edit!(Reduce, reduced, |s: &mut Strided1| s.dims[0] = 0));
    let mut build = case("copy_and_fill");
    let copies: Vec<usize> = (0..build.program.instructions.len())
        .filter(|&i| matches!(build.program.instructions[i], Instruction::Copy { .. }))
        .collect();
    let original = build.program.clone();
    let mut check = |at: usize, field: &'static str, change: fn(&mut StridedCopy)| {
        build.program = original.clone();
        let Instruction::Copy { geometry, .. } = &mut build.program.instructions[copies[at]] else { unreachable!() };
        change(geometry);
        assert_eq!(refused(&build.program, &build.weights), Ok(field));
    };
    check(0, "input", |g| g.from = 1);
    check(0, "out", |g| g.to = 3);
    check(0, "geometry", |g| g.to_strides[1] = 0);
    check(0, "geometry", |g| g.dims[0] = 0);
    check(1, "input", |g| g.from = 1);
    check(1, "input", |g| g.from_strides[0] = i32::MIN);
    check(1, "input", |g| g.from_strides[0] = i32::MAX);
}

#[test]
fn overlaps() {
    // Exactly in place is allowed where documented; shifted by one is not, nor is any other operand.
    broken("conv2d", "input", edit!(Conv2d, input, |it| tensor(it).start += 1));
    let mut build = Build::new();
    let all = build.f32(9);
    let part = |start| Region { start, len: 8, ..all };
    build.output(all);
    let unary = |from, to| Instruction::Unary { op: UnaryOp::Abs, input: arena(part(from)), out: part(to) };
    build.push(unary(0, 0));
    assert_eq!(refused(&build.program, &build.weights), Err("accepted".into()));
    for (from, to) in [(0, 1), (1, 0)] {
        build.program.instructions[0] = unary(from, to);
        assert_eq!(refused(&build.program, &build.weights), Ok("input"));
    }
    let binary = |a: Region, b: Region, out| Instruction::Binary {
        op: BinaryOp::Add,
        shape: Strided2 { dims: vec![3], a: vec![1], b: vec![1] },
        a: arena(a),
        b: arena(b),
        activation: None,
        out,
    };
    let third = |start| Region { start, len: 3, ..all };
    build.program.instructions[0] = binary(third(0), third(3), third(0));
    assert_eq!(refused(&build.program, &build.weights), Err("accepted".into()));
    build.program.instructions[0] = binary(third(0), third(0), third(0));
    assert_eq!(refused(&build.program, &build.weights), Ok("b"));
    build.program.instructions[0] = binary(third(0), third(1), third(0));
    assert_eq!(refused(&build.program, &build.weights), Ok("b"));
    // In place but transposed: the output would overwrite what is still to be read.
    let Instruction::Binary { shape, .. } = &mut build.program.instructions[0] else { unreachable!() };
    *shape = Strided2 { dims: vec![2, 2], a: vec![1, 2], b: vec![2, 1] };
    let four = |start| Region { start, len: 4, ..all };
    let Instruction::Binary { a, b, out, .. } = &mut build.program.instructions[0] else { unreachable!() };
    (*a, *b, *out) = (arena(four(0)), arena(four(4)), four(0));
    assert_eq!(refused(&build.program, &build.weights), Ok("a"));
    broken("reduce", "input", |instruction| {
        let Instruction::Reduce { input, out, .. } = instruction else { unreachable!() };
        out.start = tensor(input).start;
    });
}

#[test]
fn ports_and_tables() {
    let sound = case("dense");
    let edited = |change: fn(&mut Build)| {
        let mut build = case("dense");
        change(&mut build);
        refused(&build.program, &build.weights)
    };
    assert_eq!(refused(&sound.program, &sound.weights), Err("accepted".into()));
    assert_eq!(edited(|b| b.program.outputs.clear()), Ok("outputs"));
    assert_eq!(edited(|b| b.program.batch = 0), Ok("batch"));
    assert_eq!(edited(|b| b.program.inputs[0].shape[0] = 3), Ok("shape"));
    assert_eq!(edited(|b| b.program.inputs[0].shape = vec![u32::MAX; 8]), Ok("shape"));
    assert_eq!(edited(|b| b.program.inputs[0].shape = vec![1; 9]), Ok("shape"));
    assert_eq!(edited(|b| b.program.inputs[1].region.start = 5), Ok("region"));
    assert_eq!(edited(|b| b.program.outputs[0].region.start = u32::MAX), Ok("region"));
    assert_eq!(edited(|b| b.program.arena.f32 -= 1), Ok("region"));
    assert_eq!(edited(|b| b.weights.0[0].offset = 4), Ok("offset"));
    assert_eq!(edited(|b| b.weights.0[1].offset = 0), Ok("offset"));
    assert_eq!(edited(|b| b.weights.0[1].offset = u64::MAX - 63), Ok("offset"));
    assert_eq!(edited(|b| b.weights.0[1].offset = 1 << 60), Ok("weight table"));
    assert_eq!(edited(|b| b.weights.0[1].stored = Stored::I64), Ok("bias"));
    assert_eq!(edited(|b| b.weights.0.truncate(1)), Ok("bias"));
}

#[test]
fn types() {
    broken("not", "input", edit!(Not, input, |it| tensor(it).dtype = DType::F32));
    broken("binary", "op", edit!(Binary, op, |op| *op = BinaryOp::And));
    broken("binary", "activation", edit!(Binary, op, |op| *op = BinaryOp::Less));
    let i64_pow = edit!(Binary, op, |op| *op = BinaryOp::Pow);
    broken("binary_other_types", "op", i64_pow);
    let fused = edit!(Binary, activation, |it| *it = Some(UnaryOp::Relu));
    broken("binary_other_types", "activation", fused);
    broken("copy_and_fill", "value", edit!(Fill, value, |value| *value = 1 << 32));
    broken("gather", "indices", edit!(Gather, count, |count| *count = 2));
    broken("gather", "data", edit!(Gather, along, |along: &mut Along| along.inner = 3));
    let mut build = Build::new();
    let from = build.input(DType::F32, &[2]);
    let out = build.f32(2);
    build.push(Instruction::Cast { input: arena(from), out });
    build.output(out);
    assert_eq!(refused(&build.program, &build.weights), Ok("out"));
    let mut build = Build::new();
    let out = build.region(DType::Bool, 2);
    build.push(Instruction::Fill { value: 2, out });
    build.output(out);
    assert_eq!(refused(&build.program, &build.weights), Ok("value"));
}

#[test]
fn no_instruction_may_be_endless() {
    let mut build = Build::new();
    let input = build.input(DType::F32, &[1]);
    let out = build.f32(1);
    let mut product = |k| {
        build.program.instructions = vec![Instruction::MatMul {
            geometry: MatMul { m: 1, k, n: 1, batch: Strided2::default(), a: [0, 0], b: [0, 0] },
            a: arena(input),
            b: arena(input),
            out,
        }];
        build.program.outputs.clear();
        build.output(out);
        let limits = Limits { secure_memory_bytes: 1 << 20, instruction_work: 1000 };
        let residency = Residency::All;
        Unloaded::new(build.program.clone(), build.weights.clone(), KernelSet::PORTABLE, residency, limits).err()
    };
    assert_eq!(product(1000), None);
    assert!(matches!(product(1001), Some(EngineError::Work { needed: 1001, available: 1000, .. })));
}

#[test]
fn another_instruction_set_is_refused_by_version() {
    let mut bytes = case("unary").program.encode();
    bytes[0] = 2;
    assert_eq!(Program::decode(&bytes), Err(EngineError::Version { found: 2 }));
}

#[test]
fn messages_name_the_place_and_the_next_step() {
    let mut build = case("dense");
    let Instruction::Dense { out, .. } = &mut build.program.instructions[0] else { unreachable!() };
    out.len -= 1;
    let limits = Limits::new(1 << 20);
    let error = Unloaded::new(build.program, build.weights, KernelSet::PORTABLE, Residency::All, limits).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.starts_with("instruction 0 (Dense): out: has another length"), "{message}");
}

#[test]
fn a_count_of_instructions_costs_nothing_the_bytes_do_not_back() {
    let mut build = Build::new();
    let out = build.f32(1);
    build.output(out);
    let mut bytes = build.program.encode();
    let count = bytes.len() - 4;
    bytes[count..].copy_from_slice(&1000u32.to_le_bytes());
    bytes.resize(bytes.len() + 1000 * 13, 0);
    assert_eq!(Program::decode(&bytes), Err(EngineError::Malformed(DecodeError::Truncated("instructions"))));
    // The bound is the shortest instruction's own length: nothing but those still decodes.
    build.program.instructions = vec![Instruction::Spill { slot: 1, value: out }; 3];
    assert_eq!(Program::decode(&build.program.encode()).as_ref(), Ok(&build.program));
}
