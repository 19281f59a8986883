//! [`Deployment`]: one package on one device, ready to run.

use core::time::Duration;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cordon_executor::Tensor;
use cordon_package::{Manifest, Placement, SectionKind};
use cordon_protocol::{Greeting, LoadReport, MemoryUse, Profile, Ranked, stored_weights};

use crate::backend::{self, Backend, Resources};
use crate::client::{Crossed, Enclave, Traffic};
use crate::device::Device;
use crate::error::RuntimeError;
use crate::normal::NormalSegment;
use crate::package_file::PackageFile;

/// How to open a [`Deployment`].
#[derive(Clone)]
pub struct Options {
    backend: Option<Arc<dyn Backend>>,
    device: Option<PathBuf>,
    grant: Option<PathBuf>,
    secure_memory: Option<u64>,
    threads: Option<usize>,
    executor: String,
    executor_options: cordon_executor::Options,
}

impl Options {
    /// The kind of TEE; [`backend::DEFAULT`] without it.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The device folder; [`Device::default_dir`] without it.
    pub fn device(mut self, dir: impl Into<PathBuf>) -> Self {
        self.device = Some(dir.into());
        self
    }

    /// A grant for this device; without it the file `PACKAGE.grant` is used if there is one.
    pub fn grant(mut self, path: impl Into<PathBuf>) -> Self {
        self.grant = Some(path.into());
        self
    }

    /// Budget of secure memory in bytes; without it whatever the package needs with all weights resident.
    pub fn secure_memory(mut self, bytes: u64) -> Self {
        self.secure_memory = Some(bytes);
        self
    }

    /// Threads of the enclave, as many as its platform takes; [`Backend::default_threads`] without it.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The engine of normal segments, as [`cordon_executor::open`] names it.
    pub fn executor(mut self, spec: impl Into<String>, options: cordon_executor::Options) -> Self {
        self.executor = spec.into();
        self.executor_options = options;
        self
    }

    /// Opens a package.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Deployment, RuntimeError> {
        let path = path.as_ref();
        let dir = self.device.or_else(Device::default_dir).ok_or(RuntimeError::Device {
            dir: PathBuf::new(),
            what: "no folder was named and there is no home folder",
        })?;
        let backend = self.backend.map_or_else(|| backend::open(backend::DEFAULT), Ok)?;
        let device = Device::open(backend, dir)?;
        let grant = match self.grant {
            Some(grant) => read(&grant)?,
            None => {
                let mut beside = path.as_os_str().to_owned();
                beside.push(".grant");
                let beside = PathBuf::from(beside);
                if beside.exists() { read(&beside)? } else { Vec::new() }
            }
        };
        let executor = cordon_executor::open(&self.executor, &self.executor_options).map_err(RuntimeError::Engine)?;
        let file = PackageFile::open(path)?;
        let profile = device.backend().profile();
        let threads = self.threads.unwrap_or_else(|| device.backend().default_threads());
        if !(1..=profile.max_threads).contains(&threads) {
            let most = profile.max_threads;
            return Err(RuntimeError::Limits(format!("{threads} threads: an enclave computes with 1 to {most}")));
        }
        let most = profile.memory.unwrap_or(u64::MAX);
        let secure_memory = match self.secure_memory {
            Some(bytes) if bytes > most => {
                let platform = profile.platform;
                return Err(RuntimeError::Limits(format!(
                    "{bytes} bytes of secure memory: platform {platform} has {most}"
                )));
            }
            Some(bytes) => bytes,
            None => generous_budget(&file).min(most),
        };
        let resources = Resources { secure_memory, threads, store: store_bytes(&file) };
        let normal = NormalSegment::load_all(&file, executor.as_ref())?;
        let mut deployment = Deployment { file, grant, device, resources, enclave: None, normal };
        deployment.start()?;
        Ok(deployment)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RuntimeError> {
    std::fs::read(path).map_err(|source| RuntimeError::io(path, source))
}

/// Enough for every segment with all weights resident. Memory is taken as it is touched, so generosity costs nothing.
fn generous_budget(file: &PackageFile) -> u64 {
    let peaks: u64 = file.manifest().segments.iter().map(|segment| segment.minimum_peak).sum();
    let sealed = file.header().sections.iter().filter(|section| section.kind().is_sealed());
    let weights: u64 = sealed.map(|section| section.plain_len()).sum();
    const FIXED: u64 = 16 << 20;
    // Twice for the weights themselves, as f16 is widened where there is room, and once to spare.
    (peaks + 3 * weights + FIXED).next_multiple_of(1 << 20)
}

/// Host memory that holds the weights of all secure segments, if they have no room inside.
fn store_bytes(file: &PackageFile) -> u64 {
    let weights = file.header().sections.iter().filter(|section| section.kind() == SectionKind::Weights);
    weights.map(|section| stored_weights(section.plain_len())).sum()
}

/// A package, loaded: normal segments on an executor, secure ones in an enclave.
pub struct Deployment {
    file: PackageFile,
    grant: Vec<u8>,
    device: Device,
    resources: Resources,
    enclave: Option<(Enclave, LoadReport)>,
    normal: Vec<Option<NormalSegment>>,
}

/// One output of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The values, rounded if the output policy says so.
    Tensor(Tensor),
    /// The best classes, if the output policy lets no more out.
    Ranked(Ranked),
}

/// What one segment of one run cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCost {
    /// Where it ran.
    pub placement: Placement,
    /// Wall time.
    pub elapsed: Duration,
    /// Values that crossed the boundary, in and out.
    pub crossings: u64,
    /// Their bytes.
    pub crossing_bytes: u64,
    /// Encrypted weight bytes that the enclave read back.
    pub weight_bytes: u64,
    /// Encrypted activation bytes that left for this host's memory, and came back.
    pub spilled_bytes: u64,
    /// Commands to the enclave.
    pub commands: u64,
}

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name and value of every output, in the model's order.
    pub outputs: Vec<(String, Output)>,
    /// Values that crossed between segments, by package value index: what the host could see.
    pub exposed: HashMap<u32, Tensor>,
    /// One for each segment, in order.
    pub segments: Vec<SegmentCost>,
    /// Secure memory afterwards, with its high-water mark since the enclave started; zeros without secure segments.
    pub memory: MemoryUse,
    /// Wall time of the whole.
    pub elapsed: Duration,
}

impl Run {
    /// Values that crossed the boundary.
    pub fn crossings(&self) -> u64 {
        self.segments.iter().map(|segment| segment.crossings).sum()
    }

    /// Bytes of the values that crossed the boundary.
    pub fn crossing_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.crossing_bytes).sum()
    }
}

impl Deployment {
    /// The defaults: the user's device folder, the embedded executor, all weights resident.
    pub fn options() -> Options {
        Options {
            backend: None,
            device: None,
            grant: None,
            secure_memory: None,
            threads: None,
            executor: "rten".into(),
            executor_options: cordon_executor::Options::default(),
        }
    }

    /// Opens a package with the defaults of [`Deployment::options`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RuntimeError> {
        Self::options().open(path)
    }

    /// What predictions for the device's platform rest on.
    pub fn profile(&self) -> &'static Profile {
        self.device.backend().profile()
    }

    /// The package's public manifest.
    pub fn manifest(&self) -> &Manifest {
        self.file.manifest()
    }

    /// The package.
    pub fn package(&self) -> &PackageFile {
        &self.file
    }

    /// What the enclave says about itself; `None` when no segment is secure.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.enclave.as_ref().map(|(enclave, _)| enclave.greeting())
    }

    /// What loading came to; `None` when no segment is secure.
    pub fn load_report(&self) -> Option<&LoadReport> {
        self.enclave.as_ref().map(|(_, report)| report)
    }

    /// CPU time the enclave has used since it started, where the platform can tell.
    pub fn enclave_cpu_time(&self) -> Option<Duration> {
        self.enclave.as_ref().and_then(|(enclave, _)| enclave.cpu_time())
    }

    /// Runs the model once.
    ///
    /// If the enclave dies the error says so, the enclave is started anew, and this request is lost, no other.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Run, RuntimeError> {
        let mut values = self.bind(inputs)?;
        if self.enclave.is_none() {
            self.start()?;
        }
        self.attempt(&mut values).map_err(|error| match error {
            RuntimeError::Died { doing, death, .. } => {
                self.enclave = None;
                RuntimeError::Died { doing, death, restart: self.start().err().map(Box::new) }
            }
            other => other,
        })
    }

    /// Starts an enclave and loads the package, unless nothing is secure.
    fn start(&mut self) -> Result<(), RuntimeError> {
        if self.normal.iter().all(Option::is_some) {
            return Ok(());
        }
        let mut enclave = Enclave::greet(self.device.start(self.resources)?)?;
        let (report, state) = enclave.load(&self.file, &self.grant, &self.device.state(self.file.header())?)?;
        self.device.keep_state(self.file.header(), state.as_deref())?;
        self.enclave = Some((enclave, report));
        Ok(())
    }

    fn attempt(&mut self, values: &mut HashMap<u32, Tensor>) -> Result<Run, RuntimeError> {
        let started = Instant::now();
        let (mut request, mut ranked) = (None, HashMap::new());
        let segments = match self.segments(&mut request, values, &mut ranked) {
            Ok(segments) => segments,
            Err(error) => {
                if let (Some((enclave, _)), Some(request)) = (&mut self.enclave, request)
                    && !matches!(error, RuntimeError::Died { .. })
                {
                    enclave.abort(request);
                }
                return Err(error);
            }
        };
        let memory = match (&mut self.enclave, request) {
            (Some((enclave, _)), Some(request)) => {
                enclave.end(request)?;
                enclave.memory()?
            }
            _ => MemoryUse::default(),
        };
        let manifest = self.file.manifest();
        let mut outputs = Vec::with_capacity(manifest.outputs.len());
        for value in manifest.output_values() {
            let name = manifest.value(value).and_then(|info| info.name.clone()).unwrap_or_default();
            let output = match ranked.remove(&value) {
                Some(ranked) => Output::Ranked(ranked),
                None => Output::Tensor(values.get(&value).cloned().ok_or(RuntimeError::Protocol("a missing output"))?),
            };
            outputs.push((name, output));
        }
        let exposed = core::mem::take(values);
        Ok(Run { outputs, exposed, segments, memory, elapsed: started.elapsed() })
    }

    /// Runs all segments. The request is opened when the first secure one is reached: the enclave, asleep while normal
    /// segments run, is woken once.
    fn segments(
        &mut self,
        request: &mut Option<u64>,
        values: &mut HashMap<u32, Tensor>,
        ranked: &mut HashMap<u32, Ranked>,
    ) -> Result<Vec<SegmentCost>, RuntimeError> {
        let mut costs = Vec::with_capacity(self.normal.len());
        for ((index, normal), info) in self.normal.iter_mut().enumerate().zip(&self.file.manifest().segments) {
            let started = Instant::now();
            let traffic = match (normal, &mut self.enclave) {
                (Some(normal), _) => {
                    normal.run(values)?;
                    Traffic::default()
                }
                (None, Some((enclave, _))) => {
                    let id = match *request {
                        Some(id) => id,
                        None => {
                            let (id, state) = enclave.begin()?;
                            *request = Some(id);
                            self.device.keep_state(self.file.header(), state.as_deref())?;
                            id
                        }
                    };
                    let segment = u32::try_from(index).map_err(|_| RuntimeError::Protocol("too many segments"))?;
                    let mut handed_out = Vec::new();
                    let traffic = enclave.run(id, segment, &self.file, values, |value, crossed| {
                        handed_out.push((value, crossed));
                    })?;
                    for (value, crossed) in handed_out {
                        match crossed {
                            Crossed::Tensor(tensor) => drop(values.insert(value, tensor)),
                            Crossed::Ranked(list) => drop(ranked.insert(value, list)),
                        }
                    }
                    traffic
                }
                (None, None) => return Err(RuntimeError::Protocol("a secure segment without an enclave")),
            };
            let Traffic { crossings, crossing_bytes, weight_bytes, spilled_bytes, steps } = traffic;
            let elapsed = started.elapsed();
            costs.push(SegmentCost {
                placement: info.placement,
                elapsed,
                crossings,
                crossing_bytes,
                weight_bytes,
                spilled_bytes,
                commands: steps,
            });
        }
        Ok(costs)
    }

    /// Checks inputs against the manifest and files them under their value index.
    fn bind(&self, inputs: &[(&str, &Tensor)]) -> Result<HashMap<u32, Tensor>, RuntimeError> {
        let manifest = self.file.manifest();
        let mut values = HashMap::new();
        let mut names = Vec::new();
        for &value in &manifest.inputs {
            let Some((info, name)) = manifest.value(value).and_then(|info| Some((info, info.name.as_deref()?))) else {
                return Err(RuntimeError::Protocol("an input without a name"));
            };
            names.push(name);
            let Some((_, tensor)) = inputs.iter().find(|(given, _)| *given == name) else {
                return Err(RuntimeError::Input(format!("input `{name}` is missing")));
            };
            let fits = tensor.elem == info.elem
                && tensor.dims.iter().map(|&dim| dim as u64).eq(info.shape().iter().map(|&dim| u64::from(dim)));
            if !fits {
                return Err(RuntimeError::Input(format!(
                    "input `{name}` is {} of shape {:?}, but the model was sealed for {} of shape {:?}",
                    tensor.elem,
                    tensor.dims,
                    info.elem,
                    info.shape()
                )));
            }
            values.insert(value, (*tensor).clone());
        }
        match inputs.iter().find(|(given, _)| !names.contains(given)) {
            Some((given, _)) => Err(RuntimeError::Input(format!("the model has no input `{given}`: it has {names:?}"))),
            None => Ok(values),
        }
    }
}
