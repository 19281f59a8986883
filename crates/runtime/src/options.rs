//! [`Options`]: how a package is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cordon_executor::Executor;
use cordon_package::SectionKind;
use cordon_protocol::stored_weights;

use crate::backend::{self, Backend, Resources};
use crate::deployment::Deployment;
use crate::device::Device;
use crate::error::RuntimeError;
use crate::normal::NormalSegments;
use crate::package_file::PackageFile;
use crate::route::Route;
use crate::worker::Worker;

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

impl Default for Options {
    /// The default backend, the user's device folder, the embedded executor, all weights resident.
    fn default() -> Self {
        Self {
            backend: None,
            device: None,
            grant: None,
            secure_memory: None,
            threads: None,
            executor: "rten".into(),
            executor_options: cordon_executor::Options::default(),
        }
    }
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
        let executor = cordon_executor::open(&self.executor, &self.executor_options).map_err(RuntimeError::Engine)?;
        self.open_with(path, executor.as_ref())
    }

    /// Opens a package with an engine of the caller's for normal segments, in place of [`Self::executor`].
    pub fn open_with(self, path: impl AsRef<Path>, executor: &dyn Executor) -> Result<Deployment, RuntimeError> {
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
        let normal = NormalSegments::load(&file, executor)?;
        let route = Arc::new(Route::new(file.manifest()));
        let worker = Worker::new(Arc::new(file), route.clone(), grant, device, resources)?;
        Ok(Deployment { route, worker, normal })
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
