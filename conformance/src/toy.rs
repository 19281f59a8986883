//! A backend without a TEE: the trusted service in this very process, called directly. It protects nothing, and shows that
//! everything above [`Backend`] fits a platform that has no ring, no key file and no process of its own.
//!
//! Like OP-TEE it has little memory of its own, one thread, frames of one stored chunk, and keeps keys and counters inside: the
//! device's folder holds nothing of it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cordon_enclave::{CounterId, Enclave, Platform, PlatformError, Store};
use cordon_engine::{Compute, KernelSet};
use cordon_package::{DeviceFile, DeviceKey, OwnerPublic, PackageError, PlatformKind, Recipient};
use cordon_protocol::{EvidenceKind, Guard, MemoryUse, Profile, Protection, Reason, Speed, Window};
use cordon_runtime::backend::{Cause, Death};
use cordon_runtime::{Backend, Resources, RuntimeError, Transport};

/// Bytes of a stored chunk.
const CHUNK: usize = 65_552;

/// The toy's figures.
pub const PROFILE: Profile = Profile {
    platform: "toy",
    memory: Some(11 << 20),
    fixed: 256 << 10,
    fixed_range: 0,
    thread: 0,
    threads: 1,
    max_threads: 1,
    payload: CHUNK,
    reply: CHUNK,
    speed: Speed {
        flops: 1.0e10,
        moved: 5.0e9,
        copied: 2.0e9,
        step: 1.0e-6,
        transformed: 3.0e9,
        transformed_weights: 8.0e9,
        decrypted: 1.0e9,
        load: 1.0e-3,
        spilled: 5.0e8,
    },
};

/// What one device keeps inside.
#[derive(Default)]
struct Inside {
    /// The device file's text; `None` before the key is made.
    device: Option<String>,
    counters: HashMap<CounterId, u64>,
}

/// See the module.
#[derive(Default)]
pub struct Toy {
    devices: Mutex<HashMap<PathBuf, Arc<Mutex<Inside>>>>,
    /// Counts the times that all enclaves were ended.
    ended: Arc<AtomicU64>,
}

impl Toy {
    /// Ends every enclave that runs, as a crash would.
    pub fn end_all(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn launch(&self, dir: &Path, resources: Resources) -> Result<Running, RuntimeError> {
        let failed = |source| RuntimeError::Start { stage: "taking the device", source };
        if resources.threads != 1 {
            return Err(failed(std::io::Error::other("the toy has one thread")));
        }
        let inside = locked(&self.devices).entry(dir.into()).or_default().clone();
        let device = locked(&inside).device.as_deref().map(DeviceFile::parse).transpose()?;
        let limit = resources.secure_memory.min(PROFILE.memory.unwrap_or(u64::MAX));
        let store: Arc<[AtomicU64]> = (0..resources.store.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let platform = ToyPlatform { inside, device, limit, has_store: !store.is_empty() };
        let ended = self.ended.load(Ordering::Relaxed);
        Ok(Running {
            enclave: Enclave::new(platform),
            reply: Vec::new(),
            store,
            born: ended,
            ended: self.ended.clone(),
        })
    }
}

impl Backend for Toy {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn about(&self) -> &'static str {
        "the trusted service in the host's own process"
    }

    fn is_development(&self) -> bool {
        true
    }

    fn provision(&self, dir: &Path, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        let transport = self.launch(dir, Resources { secure_memory: u64::MAX, threads: 1, store: 0 })?;
        cordon_runtime::Enclave::greet(Box::new(transport))?.provision(owners)
    }

    fn forget(&self, dir: &Path) {
        locked(&self.devices).remove(dir);
    }

    fn has_device(&self, dir: &Path) -> bool {
        locked(&self.devices).get(dir).is_some_and(|inside| locked(inside).device.is_some())
    }

    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        Ok(Box::new(self.launch(dir, resources)?))
    }
}

/// An enclave of the toy.
struct Running {
    enclave: Enclave<ToyPlatform>,
    reply: Vec<u8>,
    store: Arc<[AtomicU64]>,
    born: u64,
    ended: Arc<AtomicU64>,
}

impl Transport for Running {
    /// Lends the enclave the window and nothing else of the store.
    fn call(&mut self, frame: &mut Vec<u8>, window: Option<Window>) -> Result<(), Death> {
        if self.ended.load(Ordering::Relaxed) != self.born {
            let cause = Some(Cause { what: "ended by the test, time", number: 1 });
            return Err(Death { cause, refused_allocation: None });
        }
        let lent = window.map(|window| {
            let word = |byte: u64| usize::try_from(byte / 8).unwrap_or(usize::MAX).min(self.store.len());
            Words(&self.store[word(window.offset)..word(window.end())])
        });
        self.enclave.handle(frame, &mut self.reply, lent.as_ref().map(|lent| lent as &dyn Store));
        core::mem::swap(frame, &mut self.reply);
        Ok(())
    }

    fn store(&self) -> &[AtomicU64] {
        &self.store
    }
}

/// The host's words as a window of the enclave's store.
struct Words<'a>(&'a [AtomicU64]);

impl Words<'_> {
    fn at(&self, offset: u64, len: usize) -> Option<&[AtomicU64]> {
        let first = usize::try_from(offset / 8).ok().filter(|_| offset.is_multiple_of(8))?;
        self.0.get(first..first.checked_add(len.div_ceil(8))?)
    }
}

impl Store for Words<'_> {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(words) = self.at(offset, into.len()) else { return false };
        for (bytes, word) in into.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..bytes.len()]);
        }
        true
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(words) = self.at(offset, bytes.len()) else { return false };
        for (bytes, word) in bytes.chunks(8).zip(words) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        true
    }
}

/// [`Platform`] of the toy.
struct ToyPlatform {
    inside: Arc<Mutex<Inside>>,
    device: Option<DeviceFile>,
    limit: u64,
    has_store: bool,
}

impl Platform for ToyPlatform {
    fn name(&self) -> &'static str {
        PROFILE.platform
    }

    fn kind(&self) -> PlatformKind {
        PlatformKind::Process
    }

    fn is_development(&self) -> bool {
        true
    }

    fn protections(&self) -> Vec<Protection> {
        let missing = |guard: &Guard| Protection::missing(guard.clone(), Reason::Platform, 0);
        Guard::ALL.iter().map(missing).collect()
    }

    fn compute(&self) -> Compute {
        KernelSet::detect().into()
    }

    /// What it takes is not counted: the allocator is the host's.
    fn memory(&self) -> MemoryUse {
        let fixed = PROFILE.fixed_bytes(1);
        MemoryUse { used: fixed, peak: fixed, limit: self.limit, fixed }
    }

    fn payload_limit(&self) -> usize {
        PROFILE.payload
    }

    fn reply_limit(&self) -> usize {
        PROFILE.reply
    }

    fn has_store(&self) -> bool {
        self.has_store
    }

    fn burst(&self) -> u32 {
        64
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), PlatformError> {
        getrandom::fill(out).map_err(|_| PlatformError::Random)
    }

    fn now(&self) -> Option<u64> {
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    fn device(&self) -> Option<&DeviceFile> {
        self.device.as_ref()
    }

    fn provision(&mut self, owners: Vec<OwnerPublic>) -> Result<Recipient, PlatformError> {
        if self.device.is_some() {
            return Err(PlatformError::KeyExists);
        }
        let mut random = |out: &mut [u8]| getrandom::fill(out).map_err(|_| PackageError::Random);
        let key = DeviceKey::generate(PlatformKind::Process, &mut random).map_err(|_| PlatformError::Random)?;
        let device = DeviceFile { key, owners };
        let recipient = device.key.recipient();
        locked(&self.inside).device = Some(device.to_text().to_string());
        self.device = Some(device);
        Ok(recipient)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PlatformError> {
        if state.is_empty() { Ok(()) } else { Err(PlatformError::State) }
    }

    fn counter(&self, id: &CounterId) -> u64 {
        locked(&self.inside).counters.get(id).copied().unwrap_or(0)
    }

    fn raise(&mut self, id: &CounterId, value: u64) -> Result<(), PlatformError> {
        let mut inside = locked(&self.inside);
        let counter = inside.counters.entry(*id).or_default();
        *counter = value.max(*counter);
        Ok(())
    }

    fn evidence(&self, _: &[u8; 64]) -> Result<(EvidenceKind, Vec<u8>), PlatformError> {
        Err(PlatformError::Evidence)
    }

    fn take_state(&mut self) -> Option<Vec<u8>> {
        None
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
