//! A platform without a TEE.

use core::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Mutex;

use cordon_enclave::{CounterId, Platform, PlatformError, Store};
use cordon_engine::{Compute, KernelSet};
use cordon_package::{DeviceFile, OwnerPublic, PackageError, PlatformKind, Recipient};
use cordon_protocol::{EvidenceKind, Guard, MemoryUse, Protection, Reason, Window};

use super::*;

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
    pub store: &'a FakeStore,
    pub window: Window,
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
    pub settings: Rc<Settings>,
    pub device: Option<DeviceFile>,
    pub counters: HashMap<CounterId, u64>,
    pub changed: bool,
    pub random: Seeded,
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
