//! Packages that are sealed correctly and hold a wrong Program: only the enclave, which decrypts them, can refuse them.

use cordon_engine::program::{
    ArenaSize, BinaryOp, DType, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, Tile, Via,
    WeightInfo, WeightTable,
};
use cordon_package::{
    DeviceFile, Domain, ElemType, Manifest, OutputInfo, OwnerKey, PackageError, Placement, ProgramKind, SealRequest,
    SealedProgram, SectionKind, SectionPlan, SegmentInfo, SegmentSecret, ValueInfo, seal_to_vec,
};

/// `y = x + w`, four elements, and what a defect changes.
struct Model {
    program: Program,
    table: WeightTable,
    /// What the manifest says.
    f16: bool,
    domain: u16,
    variants: u8,
    weights: Vec<u8>,
}

fn region(start: u32) -> Region {
    Region { dtype: DType::F32, start, len: 4 }
}

fn good() -> Model {
    let port = |value, start| Port { value, shape: vec![1, 4], region: region(start), via: Via::Cross };
    let add = Instruction::Binary {
        op: BinaryOp::Add,
        shape: Strided2 { dims: vec![4], a: vec![1], b: vec![1] },
        a: Operand::Arena(region(0)),
        b: Operand::Weight(Tile { tensor: 0, start: 0, len: 4 }),
        activation: None,
        out: region(4),
    };
    let arena = ArenaSize { f32: 8, ..ArenaSize::default() };
    Model {
        program: Program {
            kind: Kind::Inference,
            batch: 1,
            arena,
            inputs: vec![port(0, 0)],
            outputs: vec![port(1, 4)],
            instructions: vec![add],
        },
        f16: false,
        domain: 0,
        variants: 1,
        weights: [0.5f32, 0.25, -1.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        table: WeightTable(vec![WeightInfo { stored: Stored::F32, len: 4, offset: 0 }]),
    }
}

/// The same weights, two bytes each.
fn f16() -> Model {
    with(|m| {
        (m.table.0[0].stored, m.f16) = (Stored::F16, true);
        m.weights = [0x3800u16, 0x3400, 0xbc00, 0x4400].iter().flat_map(|v| v.to_le_bytes()).collect();
    })
}

fn with(change: impl FnOnce(&mut Model)) -> Model {
    let mut model = good();
    change(&mut model);
    model
}

const X: Region = Region { dtype: DType::F32, start: 0, len: 4 };
const SPILL: Instruction = Instruction::Spill { slot: 1, value: X };
const WRITE: Instruction = Instruction::Fill { value: 0, out: X };
const RESTORE: Instruction = Instruction::Restore { slot: 1, out: X };

/// [`good`], with these before its instruction.
fn spilling(moves: [Instruction; 3]) -> Model {
    with(|m| drop(m.program.instructions.splice(0..0, moves)))
}

fn out(model: &mut Model) -> &mut Region {
    match &mut model.program.instructions[0] {
        Instruction::Binary { out, .. } => out,
        _ => unreachable!("`good` holds one Binary"),
    }
}

fn tile(model: &mut Model) -> &mut Operand {
    match &mut model.program.instructions[0] {
        Instruction::Binary { b, .. } => b,
        _ => unreachable!("`good` holds one Binary"),
    }
}

/// File, class of the enclave's answer (`loads`, or the word of its refusal), and bytes.
pub(crate) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const INVALID: &str = "program-invalid";
    let cases = [
        ("program_good.cordon", "loads", good()),
        ("program_arena_overlap.cordon", INVALID, with(|m| out(m).start = 2)),
        ("program_region_outside_arena.cordon", INVALID, with(|m| out(m).start = 5)),
        ("program_region_start_overflow.cordon", INVALID, with(|m| out(m).start = u32::MAX - 1)),
        (
            "program_tile_out_of_range.cordon",
            INVALID,
            with(|m| *tile(m) = Operand::Weight(Tile { tensor: 0, start: 1, len: 4 })),
        ),
        (
            "program_tensor_out_of_range.cordon",
            INVALID,
            with(|m| *tile(m) = Operand::Weight(Tile { tensor: 1, start: 0, len: 4 })),
        ),
        ("program_weight_offset_out_of_range.cordon", INVALID, with(|m| m.table.0[0].offset = 64)),
        ("program_good_f16.cordon", "loads", f16()),
        ("program_f16_not_in_manifest.cordon", INVALID, Model { f16: false, ..f16() }),
        ("program_f16_in_manifest_only.cordon", INVALID, with(|m| m.f16 = true)),
        ("program_f16_over_f32_weights.cordon", INVALID, Model { weights: good().weights, ..f16() }),
        ("program_output_not_a_crossing.cordon", INVALID, with(|m| m.program.outputs[0].value = 0)),
        ("program_output_retained_by_nobody.cordon", INVALID, with(|m| m.program.outputs[0].via = Via::Retain)),
        ("program_spill_good.cordon", "loads", spilling([SPILL, WRITE, RESTORE])),
        ("program_spill_restored_first.cordon", INVALID, spilling([RESTORE, WRITE, SPILL])),
        ("program_spill_twice.cordon", INVALID, spilling([SPILL, WRITE, SPILL])),
        ("program_spill_read_while_away.cordon", INVALID, spilling([SPILL, SPILL, RESTORE])),
        ("program_spill_never_restored.cordon", INVALID, spilling([SPILL, WRITE, WRITE])),
        (
            "program_spill_of_another_length.cordon",
            INVALID,
            spilling([SPILL, WRITE, Instruction::Restore { slot: 1, out: Region { len: 3, ..X } }]),
        ),
        (
            "program_spill_outside_the_area.cordon",
            INVALID,
            spilling([Instruction::Spill { slot: 16_384, value: X }, WRITE, RESTORE]),
        ),
        ("program_in_another_domain.cordon", "package-unsupported", with(|m| m.domain = 1)),
        ("program_in_two_variants.cordon", "package-unsupported", with(|m| m.variants = 2)),
        ("program_shape_not_the_manifests.cordon", INVALID, with(|m| m.program.inputs[0].shape = vec![4])),
    ];
    cases.into_iter().map(|(name, class, model)| (name, class, seal(&model))).collect()
}

/// The list beside `index.txt`: to a reader that stops at the package, every file is sound.
pub(crate) fn list() -> String {
    let mut text = String::from(
        "# Sound packages with a wrong Program inside, one defect each: file, class of the package, what the enclave does.\n\
         # Written by `cargo run -p cordon-enclave --example make_program_vectors`.\n",
    );
    for (name, class, _) in all() {
        text.push_str(&format!("{name:<44} ok  program={class}\n"));
    }
    text
}

fn seal(model: &Model) -> Vec<u8> {
    let shapes = || (1..=u32::from(model.variants)).map(|batch| vec![batch, 4]).collect();
    let value = |name: &str| ValueInfo { elem: ElemType::Float, shapes: shapes(), name: Some(name.into()) };
    let manifest = Manifest {
        inputs: vec![0],
        outputs: vec![OutputInfo::new(1)],
        values: vec![value("x"), value("y")],
        segments: vec![SegmentInfo {
            placement: Placement::Secure(Domain(model.domain)),
            inputs: vec![0],
            outputs: vec![1],
            retained_in: vec![],
            retained_out: vec![],
            minimum_peak: 1000,
            resident_peak: 1000,
            f16_weights: model.f16,
        }],
        preprocessing: None,
        plan_text: "A vector.".into(),
    };
    let (program, table) = (model.program.encode(), model.table.encode());
    let sealed = |variant| SealedProgram {
        kind: ProgramKind::Inference,
        variant,
        batch: 1,
        minimum_peak: 1000,
        bytes: &program,
    };
    let programs = (0..model.variants).map(sealed).collect();
    let secret = SegmentSecret { programs, weight_table: &table, names: vec![], labels: vec![] };
    let (manifest, secret) = (manifest.encode().expect("valid"), secret.encode().expect("valid"));
    let parts: [(SectionKind, &[u8]); 3] = [
        (SectionKind::Manifest, &manifest),
        (SectionKind::SegmentSecret, &secret),
        (SectionKind::Weights, &model.weights),
    ];
    let sections: Vec<SectionPlan> = parts
        .iter()
        .map(|(kind, bytes)| SectionPlan { kind: *kind, segment: 0, plain_len: bytes.len() as u64 })
        .collect();
    let contents: Vec<&[u8]> = parts.iter().map(|(_, bytes)| *bytes).collect();
    let request = SealRequest {
        name: "vector",
        version: 7,
        not_after: None,
        max_requests: None,
        output_policies: &[],
        recipients: &[device().key.recipient()],
        brokers: &[],
        sections: &sections,
    };
    seal_to_vec(&request, &contents, &owner(), &mut seeded()).expect("sealable")
}

/// The device every vector is for.
pub(crate) fn device() -> DeviceFile {
    DeviceFile::parse(include_str!("../../../../vectors/device.key")).expect("a device file")
}

/// The owner of every vector.
pub(crate) fn owner() -> OwnerKey {
    OwnerKey::parse(include_str!("../../../../vectors/owner.secret")).expect("an owner's key")
}

fn seeded() -> impl FnMut(&mut [u8]) -> Result<(), PackageError> {
    let mut state = 0x243f_6a88_85a3_08d3u64;
    move |out: &mut [u8]| {
        for byte in out {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_le_bytes()[5];
        }
        Ok(())
    }
}
