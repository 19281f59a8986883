//! A platform without a TEE, a small ternary model, and a host that speaks the protocol.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use core::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use cordon_enclave::{CounterId, Enclave, Platform, PlatformError, Store};
use cordon_engine::program::{
    ArenaSize, BinaryOp, DType, Instruction, Kind, Operand, Port, Program, Region, Stored, Strided2, StridedCopy, Tile,
    Via, WeightInfo, WeightTable,
};
use cordon_engine::{Compute, KernelSet};
use cordon_package::{
    DeviceFile, DeviceKey, Domain, ElemType, Labels, Manifest, Normalisation, OutputInfo, OutputPolicy, OwnerKey,
    OwnerPublic, PackageError, Parsed, Placement, PlatformKind, ProgramKind, Recipient, SealRequest, SealedProgram,
    SectionKind, SectionPlan, SegmentInfo, SegmentSecret, Trust, ValueInfo, Verified, chunk, leaves, seal_to_vec,
};
use cordon_protocol::{
    Command, EvidenceKind, Guard, LoadReport, MemoryUse, Part, Payload, Protection, Reason, Refusal, Reply, Supply,
    Window, stored_weights,
};

/// Budget with room for everything.
pub const AMPLE: u64 = 1 << 24;

/// Reproducible bytes.
pub fn seeded(seed: u8) -> impl FnMut(&mut [u8]) -> Result<(), PackageError> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(seed) << 32;
    move |out: &mut [u8]| {
        for byte in out {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 33) as u8;
        }
        Ok(())
    }
}

pub fn owner(seed: u8) -> OwnerKey {
    OwnerKey::generate(&mut seeded(seed)).unwrap()
}

pub fn device(seed: u8) -> DeviceKey {
    DeviceKey::generate(PlatformKind::Process, &mut seeded(seed)).unwrap()
}

pub const OWNER: u8 = 1;
pub const DEVICE: u8 = 2;

/// What a test may change about the platform; shared, so that it can do so while the enclave holds the platform.
pub struct Settings {
    pub limit: Cell<u64>,
    pub now: Cell<Option<u64>>,
    pub development: Cell<bool>,
    pub payload_limit: Cell<usize>,
    pub burst: Cell<u32>,
    pub has_store: Cell<bool>,
    /// Whether the host brings the window that is asked for.
    pub brings: Cell<bool>,
    /// How often evidence repeats the report data.
    pub evidence: Cell<usize>,
}

/// Memory that the host keeps for streamed weights, and what was read of it.
pub struct FakeStore {
    pub bytes: Mutex<Vec<u8>>,
    pub reads: Mutex<Vec<(u64, usize)>>,
}

/// The window of it that a command brings. Whoever reaches for more ends the test.
pub struct Lent<'a> {
    store: &'a FakeStore,
    window: Window,
}

impl Lent<'_> {
    fn range(&self, offset: u64, len: usize) -> core::ops::Range<usize> {
        assert!(offset.is_multiple_of(8) && offset + len as u64 <= self.window.len.into(), "{len} bytes at {offset}");
        let start = (self.window.offset + offset) as usize;
        start..start + len
    }
}

impl Store for Lent<'_> {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let range = self.range(offset, into.len());
        self.store.reads.lock().unwrap().push((range.start as u64, into.len()));
        let bytes = self.store.bytes.lock().unwrap();
        let stored = bytes.get(range);
        stored.is_some_and(|stored| {
            into.copy_from_slice(stored);
            true
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut all = self.store.bytes.lock().unwrap();
        let place = all.get_mut(self.range(offset, bytes.len()));
        place.is_some_and(|place| {
            place.copy_from_slice(bytes);
            true
        })
    }
}

pub struct Fake {
    settings: Rc<Settings>,
    device: Option<DeviceFile>,
    counters: HashMap<CounterId, u64>,
    changed: bool,
    random: Seeded,
}

type Seeded = Box<dyn FnMut(&mut [u8]) -> Result<(), PackageError>>;

impl Platform for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn kind(&self) -> PlatformKind {
        PlatformKind::Process
    }

    fn is_development(&self) -> bool {
        self.settings.development.get()
    }

    fn protections(&self) -> Vec<Protection> {
        vec![Protection::missing(Guard::HARDWARE, Reason::Platform, 0)]
    }

    fn compute(&self) -> Compute {
        KernelSet::PORTABLE.into()
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse { used: 0, peak: 0, limit: self.settings.limit.get(), fixed: 0 }
    }

    fn payload_limit(&self) -> usize {
        self.settings.payload_limit.get()
    }

    fn has_store(&self) -> bool {
        self.settings.has_store.get()
    }

    fn burst(&self) -> u32 {
        self.settings.burst.get()
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), PlatformError> {
        (self.random)(out).map_err(|_| PlatformError::Random)
    }

    fn now(&self) -> Option<u64> {
        self.settings.now.get()
    }

    fn device(&self) -> Option<&DeviceFile> {
        self.device.as_ref()
    }

    fn provision(&mut self, owners: Vec<OwnerPublic>) -> Result<Recipient, PlatformError> {
        if self.device.is_some() {
            return Err(PlatformError::KeyExists);
        }
        let file = DeviceFile { key: device(99), owners };
        let recipient = file.key.recipient();
        self.device = Some(file);
        Ok(recipient)
    }

    /// Not authenticated: what a platform does about that is its own matter.
    fn restore(&mut self, state: &[u8]) -> Result<(), PlatformError> {
        let (entries, rest) = state.as_chunks::<40>();
        if !rest.is_empty() {
            return Err(PlatformError::State);
        }
        let number = |entry: &[u8; 40]| u64::from_le_bytes(*entry.last_chunk().unwrap());
        self.counters = entries.iter().map(|entry| (*entry.first_chunk().unwrap(), number(entry))).collect();
        Ok(())
    }

    fn counter(&self, id: &CounterId) -> u64 {
        self.counters.get(id).copied().unwrap_or(0)
    }

    fn raise(&mut self, id: &CounterId, value: u64) -> Result<(), PlatformError> {
        if value > self.counter(id) {
            self.counters.insert(*id, value);
            self.changed = true;
        }
        Ok(())
    }

    /// The report data themselves, again and again.
    fn evidence(&self, report_data: &[u8; 64]) -> Result<(EvidenceKind, Vec<u8>), PlatformError> {
        Ok((EvidenceKind::Development, report_data.repeat(self.settings.evidence.get())))
    }

    fn take_state(&mut self) -> Option<Vec<u8>> {
        core::mem::take(&mut self.changed)
            .then(|| self.counters.iter().flat_map(|(id, value)| [&id[..], &value.to_le_bytes()].concat()).collect())
    }
}

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

/// Changes what is supplied while loading: section, part, first, and the bytes.
pub type Tamper = Box<dyn FnMut(u32, Part, u32, &mut Vec<u8>)>;

/// An enclave and the host that drives it.
pub struct Host {
    pub enclave: Enclave<Fake>,
    pub settings: Rc<Settings>,
    pub file: Vec<u8>,
    verified: Verified,
    pub tamper: Option<Tamper>,
    /// Every output that left: value and bytes.
    pub left: Vec<(u32, Vec<u8>)>,
    pub store: Arc<FakeStore>,
    /// Every window of it that was brought.
    pub windows: Vec<Window>,
    /// Stored chunks of the spill area.
    pub spilled: BTreeMap<u32, Vec<u8>>,
    pub state: Vec<u8>,
}

impl Host {
    pub fn new(recipe: &Recipe) -> Self {
        Self::with_device(recipe, DEVICE, AMPLE)
    }

    pub fn with_device(recipe: &Recipe, of: u8, limit: u64) -> Self {
        let device = DeviceFile { key: device(of), owners: vec![owner(OWNER).public()] };
        let host = Self::of_file(recipe.seal(), device, &owner(recipe.owner).public());
        host.settings.limit.set(limit);
        host
    }

    /// A host with any package, whose owner it believes.
    pub fn of_file(file: Vec<u8>, device: DeviceFile, owner: &OwnerPublic) -> Self {
        let owners = [*owner];
        let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
        let verified = Parsed::parse_file(&file).unwrap().verify(&trust).unwrap();
        let settings = Rc::new(Settings {
            limit: Cell::new(AMPLE),
            now: Cell::new(Some(1000)),
            development: Cell::new(true),
            payload_limit: Cell::new(2 * 65_552),
            burst: Cell::new(100),
            has_store: Cell::new(true),
            brings: Cell::new(true),
            evidence: Cell::new(1),
        });
        let weights = verified.header().sections.iter().filter(|section| section.kind() == SectionKind::Weights);
        let len = weights.map(|section| stored_weights(section.plain_len())).sum::<u64>();
        let store = Arc::new(FakeStore { bytes: Mutex::new(vec![0; len as usize]), reads: Mutex::default() });
        let platform = Fake {
            settings: settings.clone(),
            device: Some(device),
            counters: HashMap::new(),
            changed: false,
            random: Box::new(seeded(9)),
        };
        let enclave = Enclave::new(platform);
        let (tamper, left, state) = (None, vec![], vec![]);
        let (windows, spilled) = (vec![], BTreeMap::new());
        Self { enclave, settings, file, verified, tamper, left, store, windows, spilled, state }
    }

    /// Greeted and loaded.
    pub fn ready(recipe: &Recipe) -> Self {
        let mut host = Self::new(recipe);
        host.hello();
        host.load().unwrap();
        host
    }

    pub fn call(&mut self, command: Command, payload: &[u8]) -> (Reply, Vec<u8>) {
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        command.encode(&mut frame);
        frame.extend_from_slice(payload);
        self.handle(&mut frame, &mut out);
        let (reply, window, payload) = Reply::decode_with_window(&mut out).expect("replies decode");
        assert_eq!(window, self.enclave.window());
        (reply, payload.to_vec())
    }

    /// Hands a frame over with the window of the store that was asked for.
    pub fn handle(&mut self, frame: &mut [u8], out: &mut Vec<u8>) {
        let store = self.store.clone();
        let window = self.enclave.window().filter(|_| self.settings.brings.get());
        self.windows.extend(window);
        let lent = window.map(|window| Lent { store: &store, window });
        self.enclave.handle(frame, out, lent.as_ref().map(|lent| lent as &dyn Store));
    }

    pub fn refusal(&mut self, command: Command, payload: &[u8]) -> Refusal {
        match self.call(command, payload) {
            (Reply::Refused(refusal), payload) => {
                assert!(payload.is_empty(), "a refusal carries nothing");
                refusal
            }
            (other, _) => panic!("{command:?} was not refused but answered with {other:?}"),
        }
    }

    pub fn hello(&mut self) {
        assert!(matches!(self.call(Command::Hello { oldest: 1, newest: 7 }, &[]).0, Reply::Hello(_)));
    }

    pub fn load_begin(&self) -> Command {
        Command::LoadBegin { header_len: cordon_package::header_length(&self.file).unwrap() as u32, grant_len: 0 }
    }

    pub fn supply(&mut self, section: u32, part: Part, first: u32, count: u32) -> Vec<u8> {
        let of = &self.verified.header().sections[section as usize];
        let mut bytes = match part {
            Part::Leaves => {
                leaves(&self.file, of).unwrap()[first as usize * 32..(first + count) as usize * 32].to_vec()
            }
            Part::Chunks => (first..first + count).flat_map(|i| chunk(&self.file, of, i).unwrap().to_vec()).collect(),
        };
        if let Some(tamper) = &mut self.tamper {
            tamper(section, part, first, &mut bytes);
        }
        bytes
    }

    pub fn load(&mut self) -> Result<LoadReport, Refusal> {
        let (mut command, mut payload) = (self.load_begin(), self.state.clone());
        loop {
            match self.call(command, &payload) {
                (Reply::Loaded(report), state) => {
                    self.keep(state);
                    return Ok(report);
                }
                (Reply::Refused(refusal), _) => return Err(refusal),
                (Reply::NeedHeader { offset, len }, _) => {
                    payload = self.file[offset as usize..(offset + len) as usize].to_vec();
                    command = Command::LoadHeader { offset };
                }
                (Reply::NeedSection { section, part, first, count }, _) => {
                    payload = self.supply(section, part, first, count);
                    command = Command::LoadSupply { section, part, first, count };
                }
                (other, _) => panic!("{other:?} while loading"),
            }
        }
    }

    fn keep(&mut self, state: Vec<u8>) {
        if !state.is_empty() {
            self.state = state;
        }
    }

    pub fn begin(&mut self) -> Result<u64, Refusal> {
        match self.call(Command::Begin { mode: Payload::Clear }, &[]) {
            (Reply::Begun { request, .. }, state) => {
                self.keep(state);
                Ok(request)
            }
            (Reply::Refused(refusal), _) => Err(refusal),
            (other, _) => panic!("{other:?} to Begin"),
        }
    }

    /// The next command for a reply of a running segment, `None` when the segment is done.
    pub fn answer(
        &mut self,
        request: u64,
        reply: &Reply,
        payload: &[u8],
        values: &HashMap<u32, Vec<u8>>,
    ) -> Option<(Command, Vec<u8>)> {
        let step = |supply, bytes| Some((Command::Step { request, supply }, bytes));
        match *reply {
            Reply::SegmentDone { .. } => None,
            Reply::Working => step(Supply::Nothing, vec![]),
            Reply::NeedValue { value, start, len } => {
                let bytes = values[&value][start as usize..start as usize + len as usize].to_vec();
                step(Supply::Value { value, start, payload: Payload::Clear }, bytes)
            }
            Reply::Spill { chunk } => {
                self.spilled.insert(chunk, payload.to_vec());
                step(Supply::Nothing, vec![])
            }
            Reply::NeedSpilled { chunk, len } => {
                let stored = self.spilled.range(chunk..).flat_map(|(_, bytes)| bytes).copied();
                step(Supply::Spilled { chunk }, stored.take(len as usize).collect())
            }
            Reply::Output { value, start, total, .. } => {
                if start == 0 {
                    self.left.push((value, vec![]));
                }
                let (last, bytes) = self.left.last_mut().expect("just pushed");
                assert_eq!((*last, bytes.len() as u64), (value, start), "pieces in order");
                bytes.extend_from_slice(payload);
                assert!(bytes.len() as u64 <= total);
                step(Supply::Nothing, vec![])
            }
            ref other => panic!("{other:?} while a segment runs"),
        }
    }

    /// Runs one secure segment to its end.
    pub fn segment(&mut self, request: u64, segment: u32, values: &HashMap<u32, Vec<u8>>) -> Result<(), Refusal> {
        let (mut command, mut bytes) = (Command::Run { request, segment }, vec![]);
        loop {
            let (reply, payload) = self.call(command, &bytes);
            if let Reply::Refused(refusal) = reply {
                return Err(refusal);
            }
            match self.answer(request, &reply, &payload, values) {
                Some(next) => (command, bytes) = next,
                None => return Ok(()),
            }
        }
    }

    /// The last output of a value that left.
    pub fn output(&self, value: u32) -> Vec<u8> {
        self.left.iter().rev().find(|(v, _)| *v == value).expect("it left").1.clone()
    }

    /// A whole request; the bytes of y.
    pub fn run(&mut self, x: [f32; 4]) -> Result<Vec<u8>, Refusal> {
        let request = self.begin()?;
        self.segment(request, 0, &HashMap::from([(0, bytes(&x))]))?;
        let b: Vec<f32> = floats(&self.output(1)).iter().map(|a| 2.0 * a).collect();
        self.segment(request, 2, &HashMap::from([(3, bytes(&b))]))?;
        match self.call(Command::End { request }, &[]).0 {
            Reply::Closed => Ok(self.output(4)),
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("{other:?} to End"),
        }
    }

    /// The service goes on: a whole request comes out right.
    pub fn assert_serves(&mut self) {
        let x = [1.0, -2.0, 0.5, 3.0];
        assert_eq!(floats(&self.run(x).expect("the service goes on")), expected(x));
    }
}
