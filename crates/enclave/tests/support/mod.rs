//! A platform without a TEE, a small ternary model, and a host that speaks the protocol.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fake;
mod recipe;

use core::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use cordon_enclave::{Enclave, Store};
use cordon_package::{
    DeviceFile, DeviceKey, OwnerKey, OwnerPublic, PackageError, Parsed, PlatformKind, SectionKind, Trust, Verified,
    chunk, leaves,
};
use cordon_protocol::{Command, LoadReport, Part, Payload, Refusal, Reply, Supply, Window, stored_weights};

pub use fake::{Fake, FakeStore, Lent, Settings};
pub use recipe::{LARGE, Recipe, USED, back, bytes, expected, floats, front, large};

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
