//! What every backend must do, whatever TEE is behind it: `cargo test -p cordon-conformance --test backends`.
//!
//! The same sealed packages run on each. Everything here panics at the first thing that is not so, and says which.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cordon_executor::Options;
use cordon_graph::{Attribute, ElemType, Graph, Node, Tensor, TensorType, Value, ValueId};
use cordon_package::{OutputPolicy, OwnerKey, OwnerPublic, PackageError, Recipient};
use cordon_plain::EngineEvaluator;
use cordon_plan::{Bound, Constraints, Cuts, Model, Plan, Protect, make, prepare};
use cordon_protocol::{Code, Guard, Profile, Refusal, Window};
use cordon_runtime::backend::Death;
use cordon_runtime::{Backend, Deployment, Device, Enclave, Output, Resources, Run, RuntimeError, Transport};
use cordon_seal::{Contents, Identity, Probe, seal, seeded, write};

/// Runs the suite. `end_all` ends every enclave that this process has on the backend, as a crash would.
pub fn suite(backend: Arc<dyn Backend>, end_all: &dyn Fn()) {
    let world = World::new(backend);
    world.devices();
    world.greets_as_its_profile_says();
    for (name, constraints) in world.placements() {
        world.computes_what_the_model_computes(name, &constraints);
    }
    world.streams_what_has_no_room();
    world.spills_what_has_no_room();
    world.refuses_by_name();
    world.serves_on_after_a_death(end_all);
}

/// A device, an owner it accepts, and a model.
struct World {
    dir: tempfile::TempDir,
    owner: OwnerKey,
    spy: Arc<Spy>,
    device: Device,
    recipient: Recipient,
    model: Model,
}

fn owner(seed: u8) -> OwnerKey {
    let fill = &mut |out: &mut [u8]| {
        out.fill(seed);
        Ok::<(), PackageError>(())
    };
    OwnerKey::generate(fill).expect("never fails")
}

/// The digits network.
fn digits() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/digits.onnx");
    let engine = cordon_executor::open("rten", &Options::default()).expect("built in");
    prepare(&path, &BTreeMap::new(), &mut EngineEvaluator(&*engine)).expect("the bundled model is readable")
}

impl World {
    fn new(backend: Arc<dyn Backend>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let owner = owner(1);
        let spy = Arc::new(Spy { inner: backend, spoil: Arc::default() });
        let (device, recipient) =
            Device::init(spy.clone(), dir.path().join("device"), &[owner.public()]).expect("a device is made");
        Self { dir, owner, spy, device, recipient, model: digits() }
    }

    fn profile(&self) -> &'static Profile {
        self.spy.profile()
    }

    fn identity<'a>(&self, owner: &'a OwnerKey, recipients: &'a [Recipient], version: u64) -> Identity<'a> {
        let (name, policy) = ("suite", OutputPolicy::Full);
        Identity { owner, recipients, name, version, not_after: None, max_requests: None, policy }
    }

    /// Seals without a golden check.
    fn package(&self, file: &str, plan: &Plan, identity: &Identity<'_>) -> PathBuf {
        self.package_of(&self.model, file, plan, identity)
    }

    fn package_of(&self, model: &Model, file: &str, plan: &Plan, identity: &Identity<'_>) -> PathBuf {
        let path = self.dir.path().join(file);
        let contents = Contents::new(model, plan, self.profile()).expect("sound");
        let mut file = std::fs::File::create_new(&path).expect("writable");
        write(&contents, identity, &mut file).expect("writable");
        path
    }

    /// Everything inside, in as little memory as it takes.
    fn all_inside(&self) -> Plan {
        make(&self.model, &Constraints::new(Protect::All), self.profile()).expect("supported")
    }

    fn open(&self, package: &Path, secure_memory: Option<u64>) -> Result<Deployment, RuntimeError> {
        let options = Deployment::options().backend(self.spy.clone()).device(self.device.dir()).threads(1);
        match secure_memory {
            Some(bytes) => options.secure_memory(bytes).open(package),
            None => options.open(package),
        }
    }

    fn placements(&self) -> [(&'static str, Constraints); 2] {
        let cut = |index| Some(Bound::Cut(index));
        let cuts = Cuts::Ends { front: cut(8), back: cut(17) };
        let ternary = Constraints { cuts, ..Constraints::new(Protect::Both) };
        [("all-secure", Constraints::new(Protect::All)), ("ternary", ternary)]
    }

    /// A device is made once, is found again, and accepts only what it was made for.
    fn devices(&self) {
        let found = Device::open(self.spy.clone(), self.device.dir()).expect("it is there");
        assert_eq!(found.recipient().expect("kept"), self.recipient);
        let again = Device::init(self.spy.clone(), self.device.dir(), &[self.owner.public()]);
        assert!(again.is_err(), "a second key would orphan every package");
        assert_eq!(found.recipient().expect("still there"), self.recipient);
        let nowhere = Device::open(self.spy.clone(), self.dir.path().join("nowhere"));
        assert!(matches!(nowhere, Err(RuntimeError::Device { .. })));
        let (_, other) =
            Device::init(self.spy.clone(), self.dir.path().join("other"), &[self.owner.public()]).expect("made");
        assert_ne!(other, self.recipient, "each device has a key of its own");
    }

    fn greets_as_its_profile_says(&self) {
        let profile = self.profile();
        for threads in [1, profile.max_threads] {
            let secure_memory = profile.memory.unwrap_or(32 << 20);
            let transport = self.device.start(Resources { secure_memory, threads, store: 0 }).expect("starts");
            assert!(transport.store().is_empty());
            let mut enclave = Enclave::greet(transport).expect("greets");
            let greeting = enclave.greeting().clone();
            assert_eq!(greeting.platform, profile.platform);
            assert_eq!(greeting.payload_limit as usize, profile.payload);
            assert_eq!(greeting.threads as usize, threads);
            assert!(greeting.has_key);
            assert_eq!(greeting.development, self.spy.is_development());
            for guard in Guard::ALL {
                let lines = greeting.protections.iter().filter(|line| line.guard == *guard).count();
                assert_eq!(lines, 1, "{} is reported once", guard.name());
            }
            let memory = enclave.memory().expect("reports");
            assert!(memory.fixed <= memory.used && memory.used <= memory.peak && memory.peak <= memory.limit);
            assert!(memory.limit <= secure_memory, "{memory:?}");
            assert!(memory.peak <= profile.fixed_bytes(threads), "{threads} threads: {memory:?}");
        }
    }

    /// Sealing checks every crossing and output against the plain model; what is sealed runs on another device as well.
    fn computes_what_the_model_computes(&self, name: &str, constraints: &Constraints) {
        let plan = make(&self.model, constraints, self.profile()).expect("supported");
        let path = self.dir.path().join(format!("{name}.cordon"));
        let recipients = [self.recipient];
        let identity = self.identity(&self.owner, &recipients, 1);
        let probes = seeded(&self.model, 2).expect("floats");
        let backend: Arc<dyn Backend> = self.spy.clone();
        let options = Options::default();
        let sealed = seal(&self.model, &plan, &backend, &identity, ("rten", &options), &probes, &path, &mut |_| {});
        let golden = sealed.expect("the golden check passes").golden;
        assert!(golden.secure_memory <= plan.memory.predicted, "{name}: {} measured", golden.secure_memory);
        assert_eq!(golden.greeting.expect("something is secure").platform, self.profile().platform);
        let mut deployment = self.open(&path, None).expect("opens");
        let first: Vec<Run> = probes.iter().map(|probe| run(&mut deployment, probe).expect("runs")).collect();
        for (run, probe) in first.iter().zip(&probes) {
            assert_eq!(run.crossings(), plan.crossings.len() as u64, "{name}, {}", probe.label);
            assert_eq!(run.crossing_bytes(), plan.crossing_bytes(), "{name}, {}", probe.label);
            assert!(run.memory.peak <= plan.memory.predicted, "{name}: {:?}", run.memory);
        }
        let again = run(&mut deployment, &probes[0]).expect("runs");
        assert_eq!(again.outputs, first[0].outputs, "{name}: the same input gives the same bits");
        assert_ne!(first[0].outputs, first[1].outputs, "{name}: the model tells inputs apart");
    }

    /// In the least memory weights lie in the store: the same bits come out, and what the host changes there is noticed.
    fn streams_what_has_no_room(&self) {
        let plan = self.all_inside();
        let recipients = [self.recipient];
        let package = self.package("streamed.cordon", &plan, &self.identity(&self.owner, &recipients, 1));
        let resident_segments = |it: &Deployment| it.load_report().expect("something is secure").resident;
        let mut resident = self.open(&package, None).expect("opens");
        assert_eq!(resident_segments(&resident), 1);
        // The least is enough, and may be more: what an enclave really takes for itself can be below the prediction.
        let mut budgets = (0..).map(|step| plan.memory.minimum - step * (32 << 10));
        let opened = budgets.find_map(|budget| {
            let opened = self.open(&package, Some(budget)).expect("it streams before it has too little");
            (resident_segments(&opened) == 0).then_some(opened)
        });
        let mut streaming = opened.expect("the steps do not end");
        let probe = &seeded(&self.model, 1).expect("floats")[0];
        let (all, some) = (run(&mut resident, probe).expect("runs"), run(&mut streaming, probe).expect("runs"));
        assert_eq!(all.outputs, some.outputs);
        assert!(all.segments[0].weight_bytes == 0 && some.segments[0].weight_bytes > 0);
        assert!(some.memory.peak <= plan.memory.minimum, "{:?}", some.memory);
        self.spy.spoil.store(true, Ordering::Relaxed);
        let error = run(&mut streaming, probe).expect_err("the store was changed");
        self.spy.spoil.store(false, Ordering::Relaxed);
        assert_eq!(refusal(&error).code, Code::CorruptStore, "{error}");
    }

    /// Activations that leave encrypted come back, with the same bits.
    fn spills_what_has_no_room(&self) {
        let model = skip();
        let plain = make(&model, &Constraints::new(Protect::All), self.profile()).expect("supported");
        let mut spilling = plain.clone();
        spilling.segments[0].spill_arena = Some(800 << 10);
        let probe = &seeded(&model, 1).expect("floats")[0];
        let to = [self.recipient];
        let results = [("plain", plain), ("spilling", spilling)].map(|(name, plan)| {
            let identity = Identity { name, ..self.identity(&self.owner, &to, 1) };
            let package = self.package_of(&model, &format!("{name}.cordon"), &plan, &identity);
            let mut deployment = self.open(&package, None).expect("opens");
            let spill = deployment.load_report().expect("something is secure").spill;
            let run = run(&mut deployment, probe).expect("runs");
            assert_eq!(spill > 0, run.segments[0].spilled_bytes > 0, "{name}");
            (run.outputs.clone(), run.segments[0].spilled_bytes)
        });
        assert!(results[0].1 == 0 && results[1].1 >= 2 * (256 << 10), "{} bytes", results[1].1);
        assert_eq!(results[0].0, results[1].0);
    }

    fn refuses_by_name(&self) {
        let (plan, profile) = (self.all_inside(), self.profile());
        let to = [self.recipient];
        let good = self.package("v2.cordon", &plan, &self.identity(&self.owner, &to, 2));
        let opened = |package: &Path| self.open(package, None);
        let code = |package: &Path| refusal(&opened(package).err().expect("refused")).code;
        // Resources that the platform does not have.
        let few = self.open(&good, Some(plan.memory.minimum / 8 * 7)).err().expect("too little");
        match &few {
            RuntimeError::Refused { refusal, .. } => {
                assert_eq!(refusal.code, Code::OutOfMemory, "{few}");
                assert!(refusal.needed > refusal.available, "{few}");
            }
            other => assert!(matches!(other, RuntimeError::Start { .. }), "{other}"),
        }
        if let Some(most) = profile.memory {
            assert!(matches!(self.open(&good, Some(most + 1)), Err(RuntimeError::Limits(_))));
        }
        let options = Deployment::options().backend(self.spy.clone()).device(self.device.dir());
        let threads = options.threads(profile.max_threads + 1).open(&good);
        assert!(matches!(threads, Err(RuntimeError::Limits(_))));
        // Packages that are not for this device.
        let stranger = owner(2);
        let unpinned = self.package("unpinned.cordon", &plan, &self.identity(&stranger, &to, 9));
        assert_eq!(code(&unpinned), Code::UnpinnedOwner);
        let sealed_to_nobody = self.package("nobody.cordon", &plan, &self.identity(&self.owner, &[], 9));
        assert_eq!(code(&sealed_to_nobody), Code::NotARecipient);
        // An older version, after a newer one was accepted by an enclave that is gone.
        drop(opened(&good).expect("opens"));
        let older = self.package("v1.cordon", &plan, &self.identity(&self.owner, &to, 1));
        assert_eq!(code(&older), Code::OlderVersion);
        // Hostile inputs, one after the other: each request is dropped, and the service goes on.
        let mut deployment = opened(&good).expect("opens");
        let probe = &seeded(&self.model, 1).expect("floats")[0];
        let mut hostile = probe.clone();
        let dims = hostile.inputs[0].1.dims.clone();
        let values = vec![f32::NAN; dims.iter().product()];
        hostile.inputs[0].1 = Tensor::from_f32(dims, &values).expect("fits");
        for _ in 0..20 {
            let error = run(&mut deployment, &hostile).expect_err("refused");
            assert_eq!(refusal(&error).code, Code::BadValue, "{error}");
        }
        run(&mut deployment, probe).expect("runs");
    }

    /// A request in a dead enclave is lost and says so; the next one is served by a fresh enclave.
    fn serves_on_after_a_death(&self, end_all: &dyn Fn()) {
        let to = [self.recipient];
        let package = self.package("death.cordon", &self.all_inside(), &self.identity(&self.owner, &to, 2));
        let mut deployment = self.open(&package, None).expect("opens");
        let probe = &seeded(&self.model, 1).expect("floats")[0];
        let before = run(&mut deployment, probe).expect("runs");
        end_all();
        let error = run(&mut deployment, probe).expect_err("it was ended");
        let RuntimeError::Died { death, restart: None, .. } = &error else { panic!("{error}") };
        assert!(death.cause.is_some(), "{error}");
        let after = run(&mut deployment, probe).expect("a fresh one serves");
        assert_eq!(before.outputs, after.outputs);
    }
}

fn refusal(error: &RuntimeError) -> Refusal {
    let RuntimeError::Refused { refusal, .. } = error else { panic!("not refused by the enclave: {error}") };
    *refusal
}

fn run(deployment: &mut Deployment, probe: &Probe) -> Result<Run, RuntimeError> {
    let inputs: Vec<(&str, &Tensor)> = probe.inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let run = deployment.run(&inputs)?;
    assert!(run.outputs.iter().all(|(_, output)| matches!(output, Output::Tensor(_))));
    Ok(run)
}

/// A backend as it is, but for a host that spoils the store when it is told to.
struct Spy {
    inner: Arc<dyn Backend>,
    spoil: Arc<AtomicBool>,
}

impl Backend for Spy {
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

    fn forget(&self, dir: &Path) {
        self.inner.forget(dir);
    }

    fn has_device(&self, dir: &Path) -> bool {
        self.inner.has_device(dir)
    }

    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        Ok(Box::new(SpyTransport { inner: self.inner.start(dir, resources)?, spoil: self.spoil.clone() }))
    }
}

struct SpyTransport {
    inner: Box<dyn Transport>,
    spoil: Arc<AtomicBool>,
}

impl Transport for SpyTransport {
    fn call(&mut self, frame: &mut Vec<u8>, window: Option<Window>) -> Result<(), Death> {
        if self.spoil.load(Ordering::Relaxed) {
            for word in self.inner.store() {
                word.fetch_xor(1, Ordering::Relaxed);
            }
        }
        self.inner.call(frame, window)
    }

    fn store(&self) -> &[AtomicU64] {
        self.inner.store()
    }

    fn expect(&mut self, time: Duration) {
        self.inner.expect(time);
    }

    fn cpu_time(&self) -> Option<Duration> {
        self.inner.cpu_time()
    }
}

/// Convolutions around which a value of 256 KiB waits for its addition at the end, while one of 512 KiB comes and goes.
fn skip() -> Model {
    let mut graph = Graph { ir_version: 8, opsets: BTreeMap::from([(String::new(), 17)]), ..Graph::default() };
    let x = add_value(&mut graph, Some(TensorType::new(ElemType::Float, vec![1, 4, 64, 64])), None);
    graph.inputs.push(x);
    let head = conv(&mut graph, x, [16, 4, 3]);
    let head = add_node(&mut graph, "Relu", &[head]);
    let narrow = conv(&mut graph, head, [4, 16, 3]);
    let wide = conv(&mut graph, narrow, [32, 4, 3]);
    let last = conv(&mut graph, wide, [16, 32, 3]);
    let sum = add_node(&mut graph, "Add", &[last, head]);
    graph.outputs.push(sum);
    Model::new(graph, "skip.onnx", "00").expect("typed")
}

fn add_value(graph: &mut Graph, ty: Option<TensorType>, constant: Option<Tensor>) -> ValueId {
    let id = ValueId(u32::try_from(graph.values.len()).expect("few"));
    graph.values.push(Value { ty, constant, ..Value::new(format!("v{}", id.0)) });
    id
}

fn add_node(graph: &mut Graph, op: &str, inputs: &[ValueId]) -> ValueId {
    let output = add_value(graph, None, None);
    graph.nodes.push(Node {
        name: format!("n{}", graph.nodes.len()),
        op_type: op.into(),
        domain: String::new(),
        inputs: inputs.iter().copied().map(Some).collect(),
        captures: Vec::new(),
        outputs: vec![Some(output)],
        attributes: BTreeMap::new(),
    });
    output
}

/// A convolution that keeps height and width. Weights are output channels, input channels, kernel.
fn conv(graph: &mut Graph, input: ValueId, [outputs, inputs, kernel]: [usize; 3]) -> ValueId {
    let len = outputs * inputs * kernel * kernel;
    let weights: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
    let weights = Tensor::from_f32([outputs, inputs, kernel, kernel], &weights).expect("as many as said");
    let weights = add_value(graph, Some(weights.ty()), Some(weights));
    let output = add_node(graph, "Conv", &[input, weights]);
    let pad = i64::try_from(kernel / 2).expect("small");
    if let Some(node) = graph.nodes.last_mut() {
        node.attributes.insert("pads".into(), Attribute::Ints(vec![pad; 4]));
    }
    output
}
