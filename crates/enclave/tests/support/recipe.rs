//! A small ternary model and the package of it.

use cordon_engine::program::{
    ArenaSize, BinaryOp, DType, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, StridedCopy, Tile,
    Via, WeightInfo, WeightTable,
};
use cordon_package::{
    Domain, ElemType, Labels, Manifest, Normalisation, OutputInfo, OutputPolicy, Placement, ProgramKind, SealRequest,
    SealedProgram, SectionKind, SectionPlan, SegmentInfo, SegmentSecret, ValueInfo, seal_to_vec,
};

use super::*;

fn region(start: u32) -> Region {
    Region { dtype: DType::F32, start, len: 4 }
}

fn port(value: u32, start: u32, via: Via) -> Port {
    Port { value, shape: vec![1, 4], region: region(start), via }
}

fn binary(op: BinaryOp, a: u32, b: Operand, out: u32) -> Instruction {
    let contiguous = || vec![4, 1];
    Instruction::Binary {
        op,
        shape: Strided2 { dims: vec![1, 4], a: contiguous(), b: contiguous() },
        a: Operand::Arena(region(a)),
        b,
        activation: None,
        out: region(out),
    }
}

fn tile(tensor: u32, start: u32) -> Operand {
    Operand::Weight(Tile { tensor, start, len: 4 })
}

/// Elements of a large tensor. The back reads it in two halves and keeps four elements from [`USED`] on.
pub const LARGE: u32 = 80_000;
pub const USED: u32 = 50_000;

fn program(inputs: Vec<Port>, outputs: Vec<Port>, instructions: Vec<Instruction>) -> Program {
    let arena = ArenaSize { f32: 16, ..ArenaSize::default() };
    Program { kind: Kind::Inference, batch: 1, arena, inputs, outputs, instructions }
}

/// `a = x + w0`, `kept = x * w1`.
pub fn front() -> Program {
    program(
        vec![port(0, 0, Via::Cross)],
        vec![port(1, 4, Via::Cross), port(2, 8, Via::Retain)],
        vec![binary(BinaryOp::Add, 0, tile(0, 0), 4), binary(BinaryOp::Mul, 0, tile(1, 0), 8)],
    )
}

/// `y = b + kept + large[USED..]`.
pub fn back() -> Program {
    program(
        vec![port(3, 0, Via::Cross), port(2, 4, Via::Retain)],
        vec![port(4, 12, Via::Cross)],
        vec![
            binary(BinaryOp::Add, 0, Operand::Arena(region(4)), 8),
            pick(0, 0),
            pick(LARGE / 2, USED - LARGE / 2),
            binary(BinaryOp::Add, 8, Operand::Arena(region(0)), 12),
        ],
    )
}

/// Four elements of half of the large tensor.
fn pick(start: u32, from: u32) -> Instruction {
    Instruction::Copy {
        geometry: StridedCopy { dims: vec![4], from, from_strides: vec![1], to: 0, to_strides: vec![1] },
        input: Operand::Weight(Tile { tensor: 0, start, len: LARGE / 2 }),
        out: region(0),
    }
}

fn info(len: u32, offset: u64) -> WeightInfo {
    WeightInfo { stored: Stored::F32, len, offset }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub fn large(index: u32) -> f32 {
    index as f32 / 1024.0
}

/// A package in the making: x → front (secure) → `b = 2a` (normal) → back (secure) → y.
pub struct Recipe {
    pub owner: u8,
    pub name: &'static str,
    pub version: u64,
    pub not_after: Option<u64>,
    pub max_requests: Option<u64>,
    pub policy: OutputPolicy,
    pub normalisation: Normalisation,
    pub labels: Vec<&'static str>,
    pub programs: [Program; 2],
    pub tables: [WeightTable; 2],
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            owner: OWNER,
            name: "model",
            version: 3,
            not_after: None,
            max_requests: None,
            policy: OutputPolicy::Full,
            normalisation: Normalisation::Softmax,
            labels: vec![],
            programs: [front(), back()],
            tables: [WeightTable(vec![info(4, 0), info(4, 64)]), WeightTable(vec![info(LARGE, 0)])],
        }
    }
}

impl Recipe {
    pub fn manifest(&self) -> Manifest {
        let value = |name: Option<&str>| ValueInfo {
            elem: ElemType::Float,
            shapes: vec![vec![1, 4]],
            name: name.map(String::from),
        };
        let segment =
            |placement, inputs: &[u32], outputs: &[u32], retained_in: &[u32], retained_out: &[u32]| SegmentInfo {
                placement,
                inputs: inputs.to_vec(),
                outputs: outputs.to_vec(),
                retained_in: retained_in.to_vec(),
                retained_out: retained_out.to_vec(),
                minimum_peak: if placement.is_secure() { 1000 } else { 0 },
                resident_peak: if placement.is_secure() { 1000 } else { 0 },
                f16_weights: false,
            };
        Manifest {
            inputs: vec![0],
            outputs: vec![OutputInfo { value: 4, class_axis: Some(1), normalisation: self.normalisation }],
            values: vec![value(Some("x")), value(None), value(None), value(None), value(Some("y"))],
            segments: vec![
                segment(Placement::Secure(Domain(0)), &[0], &[1], &[], &[2]),
                segment(Placement::Normal, &[1], &[3], &[], &[]),
                segment(Placement::Secure(Domain(0)), &[3], &[4], &[2], &[]),
            ],
            preprocessing: None,
            plan_text: "A test.".into(),
        }
    }

    pub fn seal(&self) -> Vec<u8> {
        let secret = |i: usize| {
            let (program, table) = (self.programs[i].encode(), self.tables[i].encode());
            let sealed = SealedProgram {
                kind: ProgramKind::Inference,
                variant: 0,
                batch: 1,
                minimum_peak: 1000,
                bytes: &program,
            };
            let words = self.labels.clone();
            let labels = if i == 1 && !words.is_empty() { vec![Labels { output: 0, words }] } else { vec![] };
            SegmentSecret { programs: vec![sealed], weight_table: &table, names: vec!["a node"], labels }
                .encode()
                .unwrap()
        };
        let (front, back, manifest) = (secret(0), secret(1), self.manifest().encode().unwrap());
        let mut small = bytes(&[0.5, 0.25, -1.0, 4.0]);
        small.resize(64, 0);
        small.extend(bytes(&[2.0, 3.0, 4.0, 5.0]));
        let large: Vec<u8> = (0..LARGE).flat_map(|i| large(i).to_le_bytes()).collect();
        let model = b"stands for an ONNX model".to_vec();
        let parts: [(SectionKind, u16, &[u8]); 6] = [
            (SectionKind::Manifest, 0, &manifest),
            (SectionKind::SegmentSecret, 0, &front),
            (SectionKind::SegmentSecret, 2, &back),
            (SectionKind::Weights, 0, &small),
            (SectionKind::Weights, 2, &large),
            (SectionKind::NormalModel, 1, &model),
        ];
        let plan = |(kind, segment, bytes): &(SectionKind, u16, &[u8])| SectionPlan {
            kind: *kind,
            segment: *segment,
            plain_len: bytes.len() as u64,
        };
        let sections: Vec<_> = parts.iter().map(plan).collect();
        let contents: Vec<_> = parts.iter().map(|(_, _, bytes)| *bytes).collect();
        let request = SealRequest {
            name: self.name,
            version: self.version,
            not_after: self.not_after,
            max_requests: self.max_requests,
            output_policies: &[self.policy],
            recipients: &[device(DEVICE).recipient()],
            brokers: &[],
            sections: &sections,
        };
        seal_to_vec(&request, &contents, &owner(self.owner), &mut seeded(3)).unwrap()
    }
}

/// What the model computes before any output policy.
pub fn expected(x: [f32; 4]) -> Vec<f32> {
    let (w0, w1) = ([0.5, 0.25, -1.0, 4.0], [2.0, 3.0, 4.0, 5.0]);
    (0..4).map(|i| 2.0 * (x[i] + w0[i]) + x[i] * w1[i] + large(USED + i as u32)).collect()
}
