//! A package whose middle is normal: `c = x * W0` and `r = x + W0` inside, of which `r` stays there; `n = c + 1` outside;
//! `y = n * W2 + r` inside.

use std::sync::Arc;

use cordon_engine::program::{
    ArenaSize, BinaryOp, DType, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, Tile, Via,
    WeightInfo, WeightTable,
};
use cordon_executor::{Executor, ExecutorError, ModelSource, Session};
use cordon_package::{
    Domain, ElemType, Manifest, OutputInfo, OwnerKey, Placement, ProgramKind, Recipient, SealRequest, SealedProgram,
    SectionKind, SectionPlan, SegmentInfo, SegmentSecret, ValueInfo, seal_to_vec,
};
use cordon_runtime::Tensor;

use super::random;

const W0: [f32; 4] = [1.5, -2.0, 0.25, 3.0];
const W2: [f32; 4] = [-1.0, 0.5, 8.0, 2.0];

/// What the model computes of `x`.
pub fn expected(x: [f32; 4]) -> Vec<f32> {
    (0..4).map(|i| (x[i] * W0[i] + 1.0) * W2[i] + (x[i] + W0[i])).collect()
}

/// An engine that knows the one normal segment, and runs `before` first.
pub struct PlusOne(pub Arc<dyn Fn() + Send + Sync>);

impl Executor for PlusOne {
    fn name(&self) -> &str {
        "plus one"
    }

    fn load(&self, _: &ModelSource) -> Result<Box<dyn Session>, ExecutorError> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Session for PlusOne {
    fn run(&mut self, inputs: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, ExecutorError> {
        (self.0)();
        let ([("c", c)], ["n"]) = (inputs, outputs) else { panic!("the segment's values: {inputs:?}, {outputs:?}") };
        let sum: Vec<f32> = c.to_f32()?.iter().map(|v| v + 1.0).collect();
        Ok(vec![Tensor::from_f32(c.dims.clone(), &sum)?])
    }
}

fn region(start: u32) -> Region {
    Region { dtype: DType::F32, start, len: 4 }
}

fn port(value: u32, start: u32, via: Via) -> Port {
    Port { value, shape: vec![1, 4], region: region(start), via }
}

fn binary(op: BinaryOp, a: u32, b: Operand, out: u32) -> Instruction {
    let shape = Strided2 { dims: vec![1, 4], a: vec![0, 1], b: vec![4, 1] };
    Instruction::Binary { op, shape, a: Operand::Arena(region(a)), b, activation: None, out: region(out) }
}

fn program(inputs: Vec<Port>, outputs: Vec<Port>, instructions: Vec<Instruction>) -> Vec<u8> {
    let arena = ArenaSize { f32: 16, ..ArenaSize::default() };
    Program { kind: Kind::Inference, batch: 1, arena, inputs, outputs, instructions }.encode()
}

fn secret(program: &[u8]) -> Vec<u8> {
    let table = WeightTable(vec![WeightInfo { stored: Stored::F32, len: 4, offset: 0 }]).encode();
    let sealed =
        SealedProgram { kind: ProgramKind::Inference, variant: 0, batch: 1, minimum_peak: 1000, bytes: program };
    let secret = SegmentSecret { programs: vec![sealed], weight_table: &table, names: vec![], labels: vec![] };
    secret.encode().expect("valid")
}

/// A `ModelProto` with one graph input, one graph output and no nodes, for [`PlusOne`].
fn onnx(input: &str, output: &str) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let value = |name: &str| field(1, name.as_bytes());
    field(7, &[field(11, &value(input)), field(12, &value(output))].concat())
}

/// The sealed package.
pub fn seal(owner: &OwnerKey, recipient: Recipient) -> Vec<u8> {
    let weight = Operand::Weight(Tile { tensor: 0, start: 0, len: 4 });
    let front = program(
        vec![port(0, 0, Via::Cross)],
        vec![port(1, 4, Via::Cross), port(2, 8, Via::Retain)],
        vec![binary(BinaryOp::Mul, 0, weight, 4), binary(BinaryOp::Add, 0, weight, 8)],
    );
    let back = program(
        vec![port(3, 0, Via::Cross), port(2, 4, Via::Retain)],
        vec![port(4, 12, Via::Cross)],
        vec![binary(BinaryOp::Mul, 0, weight, 8), binary(BinaryOp::Add, 8, Operand::Arena(region(4)), 12)],
    );
    let value =
        |name: Option<&str>| ValueInfo { elem: ElemType::Float, shapes: vec![vec![1, 4]], name: name.map(Into::into) };
    let segment = |placement, peak, (inputs, retained_in), (outputs, retained_out)| SegmentInfo {
        placement,
        inputs,
        outputs,
        retained_in,
        retained_out,
        minimum_peak: peak,
        resident_peak: peak,
        f16_weights: false,
    };
    let manifest = Manifest {
        inputs: vec![0],
        outputs: vec![OutputInfo::new(4)],
        values: vec![value(Some("x")), value(None), value(None), value(None), value(Some("y"))],
        segments: vec![
            segment(Placement::Secure(Domain(0)), 1000, (vec![0], vec![]), (vec![1], vec![2])),
            segment(Placement::Normal, 0, (vec![1], vec![]), (vec![3], vec![])),
            segment(Placement::Secure(Domain(0)), 1000, (vec![3], vec![2]), (vec![4], vec![])),
        ],
        preprocessing: None,
        plan_text: "A test.".into(),
    };
    let bytes = |weights: [f32; 4]| weights.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let parts = [
        (SectionKind::Manifest, 0, manifest.encode().expect("valid")),
        (SectionKind::SegmentSecret, 0, secret(&front)),
        (SectionKind::SegmentSecret, 2, secret(&back)),
        (SectionKind::Weights, 0, bytes(W0)),
        (SectionKind::Weights, 2, bytes(W2)),
        (SectionKind::NormalModel, 1, onnx("c", "n")),
    ];
    let sections: Vec<SectionPlan> = parts
        .iter()
        .map(|(kind, segment, bytes)| SectionPlan { kind: *kind, segment: *segment, plain_len: bytes.len() as u64 })
        .collect();
    let request = SealRequest {
        name: "ternary",
        version: 1,
        not_after: None,
        max_requests: None,
        output_policies: &[],
        recipients: &[recipient],
        brokers: &[],
        sections: &sections,
    };
    let contents: Vec<&[u8]> = parts.iter().map(|(_, _, bytes)| bytes.as_slice()).collect();
    seal_to_vec(&request, &contents, owner, &mut random(2)).expect("valid")
}
