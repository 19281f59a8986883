//! A device, a package whose one secure segment computes `y = x * small + large[USED..]`, and a fault between host and
//! enclave.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

pub mod ternary;

use core::sync::atomic::AtomicU64;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cordon_engine::program::{
    ArenaSize, BinaryOp, DType, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, Tile, Via,
    WeightInfo, WeightTable,
};
use cordon_package::{
    Domain, ElemType, Manifest, OutputInfo, OwnerKey, OwnerPublic, PackageError, Placement, ProgramKind, Recipient,
    SealRequest, SealedProgram, SectionKind, SectionPlan, SegmentInfo, SegmentSecret, ValueInfo, seal_to_vec,
};
use cordon_protocol::{Profile, Window};
use cordon_runtime::{
    Backend, Death, Deployment, Device, Options, Output, Resources, RuntimeError, Tensor, Transport, backend,
};

/// Elements of the large tensor, and where the four lie that end in the output.
pub const LARGE: u32 = 600_000;
pub const USED: u32 = 200_000;
/// Elements of it that one instruction reads.
const PIECE: u32 = 37_500;
/// Elements of the arena.
const ARENA: u32 = 8 + PIECE;

pub const X: [f32; 4] = [1.0, -2.0, 3.0, 0.5];

/// Weights no other memory holds by chance.
pub fn small() -> [f32; 4] {
    [1.234_567, -7.654_321, 0.314_159_3, 2.718_281_7]
}

pub fn large(index: u32) -> f32 {
    (index % 1000) as f32 / 8.0
}

pub fn expected(x: [f32; 4]) -> Vec<f32> {
    (0..4u32).map(|i| x[i as usize] * small()[i as usize] + large(USED + i)).collect()
}

pub fn random(seed: u64) -> impl FnMut(&mut [u8]) -> Result<(), PackageError> {
    let mut state = seed;
    move |out: &mut [u8]| {
        for byte in out {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 33) as u8;
        }
        Ok(())
    }
}

/// A device and a package for it.
pub struct World {
    dir: tempfile::TempDir,
    pub device: Device,
}

impl World {
    pub fn new() -> Self {
        Self::with_arena(ARENA)
    }

    /// A Program whose arena holds so many floats.
    pub fn with_arena(elements: u32) -> Self {
        Self::of(elements, false)
    }

    /// A Program that spills, with the same result: one value to slot 0 and back; then the one that is used, to slot 0 again,
    /// and another to slot 3. Each takes three chunks.
    pub fn spilling() -> Self {
        Self::of(ARENA, true)
    }

    fn of(elements: u32, spills: bool) -> Self {
        Self::sealed(|owner, recipient| seal(owner, recipient, elements, spills))
    }

    /// A device, and what `seal` makes for it.
    pub fn sealed(seal: impl FnOnce(&OwnerKey, Recipient) -> Vec<u8>) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let owner = OwnerKey::generate(&mut random(1)).expect("never fails");
        let (device, recipient) =
            Device::init(process(), dir.path().join("device"), &[owner.public()]).expect("initialises");
        std::fs::write(dir.path().join("model.cordon"), seal(&owner, recipient)).expect("writable");
        Self { dir, device }
    }

    pub fn package(&self) -> PathBuf {
        self.dir.path().join("model.cordon")
    }

    /// How a deployment in this much secure memory is opened.
    pub fn options(&self, budget: u64) -> Options {
        Deployment::options().device(self.device.dir()).secure_memory(budget).threads(2)
    }
}

pub fn process() -> Arc<dyn Backend> {
    backend::open("process").expect("every build has it")
}

fn seal(owner: &OwnerKey, recipient: Recipient, arena: u32, spills: bool) -> Vec<u8> {
    let region = |start, len| Region { dtype: DType::F32, start, len };
    let port = |value, start| Port { value, shape: vec![1, 4], region: region(start, 4), via: Via::Cross };
    let binary = |op, rows, a, b, out| Instruction::Binary {
        op,
        shape: Strided2 { dims: vec![rows, 4], a: vec![0, 1], b: vec![4, 1] },
        a: Operand::Arena(region(a, 4)),
        b: Operand::Weight(b),
        activation: None,
        out: region(out, rows * 4),
    };
    // The input scaled, added to every piece of the large tensor; the piece that is used comes last.
    let mut instructions = vec![binary(BinaryOp::Mul, 1, 0, Tile { tensor: 0, start: 0, len: 4 }, 4)];
    let last = USED / PIECE;
    for piece in (0..LARGE / PIECE).filter(|piece| *piece != last).chain([last]) {
        let tile = Tile { tensor: 1, start: piece * PIECE, len: PIECE };
        instructions.push(binary(BinaryOp::Add, PIECE / 4, 4, tile, 8));
    }
    if spills {
        let value = region(8, PIECE);
        let other = instructions[1].clone();
        let (spill, restore) =
            (|slot| Instruction::Spill { slot, value }, |slot| Instruction::Restore { slot, out: value });
        instructions.splice(2..2, [spill(0), restore(0)]);
        instructions.extend([spill(0), other, spill(3), restore(3), restore(0)]);
    }
    let program = Program {
        kind: Kind::Inference,
        batch: 1,
        arena: ArenaSize { f32: arena, ..ArenaSize::default() },
        inputs: vec![port(0, 0)],
        outputs: vec![port(1, 8 + USED % PIECE)],
        instructions,
    };
    let info = |len, offset| WeightInfo { stored: Stored::F32, len, offset };
    let (program, table) = (program.encode(), WeightTable(vec![info(4, 0), info(LARGE, 64)]).encode());
    let sealed =
        SealedProgram { kind: ProgramKind::Inference, variant: 0, batch: 1, minimum_peak: 1000, bytes: &program };
    let secret = SegmentSecret { programs: vec![sealed], weight_table: &table, names: vec![], labels: vec![] };
    let secret = secret.encode().expect("valid");
    let mut weights: Vec<u8> = small().iter().flat_map(|v| v.to_le_bytes()).collect();
    weights.resize(64, 0);
    weights.extend((0..LARGE).flat_map(|i| large(i).to_le_bytes()));
    let value = |name: &str| ValueInfo { elem: ElemType::Float, shapes: vec![vec![1, 4]], name: Some(name.into()) };
    let segment = SegmentInfo {
        placement: Placement::Secure(Domain(0)),
        inputs: vec![0],
        outputs: vec![1],
        retained_in: vec![],
        retained_out: vec![],
        minimum_peak: 1000,
        resident_peak: 1000,
        f16_weights: false,
    };
    let manifest = Manifest {
        inputs: vec![0],
        outputs: vec![OutputInfo::new(1)],
        values: vec![value("x"), value("y")],
        segments: vec![segment],
        preprocessing: None,
        plan_text: "A test.".into(),
    };
    let manifest = manifest.encode().expect("valid");
    let parts =
        [(SectionKind::Manifest, &manifest), (SectionKind::SegmentSecret, &secret), (SectionKind::Weights, &weights)];
    let sections = parts.map(|(kind, bytes)| SectionPlan { kind, segment: 0, plain_len: bytes.len() as u64 });
    let request = SealRequest {
        name: "model",
        version: 1,
        not_after: None,
        max_requests: None,
        output_policies: &[],
        recipients: &[recipient],
        brokers: &[],
        sections: &sections,
    };
    let contents = parts.map(|(_, bytes)| bytes.as_slice());
    seal_to_vec(&request, &contents, owner, &mut random(2)).expect("valid")
}

/// What to do to the frames that pass.
pub type Fault = Box<dyn FnMut(&mut Vec<u8>, &mut Inner<'_>) -> Result<(), Death> + Send>;

/// The transport behind a fault, and the window that the command brings.
pub struct Inner<'a> {
    transport: &'a mut dyn Transport,
    window: Option<Window>,
}

impl Inner<'_> {
    pub fn call(&mut self, frame: &mut Vec<u8>) -> Result<(), Death> {
        self.transport.call(frame, self.window)
    }

    pub fn store(&self) -> &[AtomicU64] {
        self.transport.store()
    }
}

/// The process backend with a fault between host and enclave.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    fault: Arc<Mutex<Option<Fault>>>,
}

struct FaultyTransport {
    inner: Box<dyn Transport>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Backend for Faulty {
    fn profile(&self) -> &'static Profile {
        self.inner.profile()
    }

    fn about(&self) -> &'static str {
        self.inner.about()
    }

    fn is_development(&self) -> bool {
        self.inner.is_development()
    }

    fn provision(&self, dir: &Path, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        self.inner.provision(dir, owners)
    }

    fn has_device(&self, dir: &Path) -> bool {
        self.inner.has_device(dir)
    }

    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        Ok(Box::new(FaultyTransport { inner: self.inner.start(dir, resources)?, fault: self.fault.clone() }))
    }
}

impl Transport for FaultyTransport {
    fn call(&mut self, frame: &mut Vec<u8>, window: Option<Window>) -> Result<(), Death> {
        match &mut *self.fault.lock().expect("no test panics while it holds the fault") {
            Some(fault) => fault(frame, &mut Inner { transport: self.inner.as_mut(), window }),
            None => self.inner.call(frame, window),
        }
    }

    fn store(&self) -> &[AtomicU64] {
        self.inner.store()
    }

    fn cpu_time(&self) -> Option<Duration> {
        self.inner.cpu_time()
    }
}

pub fn deployment(world: &World, budget: u64) -> (Deployment, Arc<Mutex<Option<Fault>>>) {
    let fault = Arc::new(Mutex::new(None));
    let backend = Faulty { inner: process(), fault: fault.clone() };
    let model = world.options(budget).backend(Arc::new(backend)).open(world.package()).expect("opens");
    (model, fault)
}

pub fn run(model: &mut Deployment) -> Result<Vec<f32>, RuntimeError> {
    let x = Tensor::from_f32(vec![1, 4], &X).expect("four values");
    let run = model.run(&[("x", &x)])?;
    let [(name, Output::Tensor(y))] = run.outputs.as_slice() else { panic!("one tensor") };
    assert_eq!(name, "y");
    Ok(y.to_f32().expect("float"))
}

pub fn assert_serves(model: &mut Deployment) {
    assert_eq!(run(model).expect("the service goes on"), expected(X));
}

/// Budget in which the large weights must stream.
pub const STREAMING: u64 = (2 << 20) + (256 << 10);
/// Budget with room for everything.
pub const AMPLE: u64 = 64 << 20;
