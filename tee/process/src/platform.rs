//! [`Platform`] on a Linux process.

use std::collections::BTreeMap;

use cordon_codec::{Reader, Writer};
use cordon_enclave::{CounterId, Platform, PlatformError};
use cordon_engine::{Compute, KernelSet};
use cordon_package::{DeviceFile, DeviceKey, OwnerPublic, PackageError, PlatformKind, Recipient};
use cordon_process_link::guard;
use cordon_process_link::profile::REPLY_PAYLOAD;
use cordon_protocol::{DevelopmentEvidence, EvidenceKind, Guard, MemoryUse, Protection, Reason};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::region::Region;
use crate::{HEAP, POOL};

/// Most counters: one for each owner and package name, one for each package with a request limit. Their state fits a reply.
const MAX_COUNTERS: u32 = 1024;
const _: () = assert!(4 + MAX_COUNTERS as usize * 40 + TAG_BYTES <= REPLY_PAYLOAD);
/// Most bytes of a device file.
const MAX_KEY_BYTES: usize = 1 << 16;
/// Bytes of the tag over the state.
const TAG_BYTES: usize = 32;

/// A locked-down process.
pub(crate) struct ProcessPlatform {
    key_file: i32,
    has_store: bool,
    /// SHA-256 of this program.
    image: [u8; 32],
    region: Region,
    payload_limit: usize,
    protections: Vec<Protection>,
    device: Option<DeviceFile>,
    counters: BTreeMap<CounterId, u64>,
    changed: bool,
}

impl ProcessPlatform {
    /// Reads the device file, now that every protection is in place; `None` if it is neither empty nor a device file.
    pub(crate) fn new(
        key_file: i32,
        has_store: bool,
        image: [u8; 32],
        region: Region,
        payload_limit: usize,
        mut protections: Vec<Protection>,
    ) -> Option<Self> {
        let text = read_all(key_file)?;
        let device =
            if text.is_empty() { None } else { Some(DeviceFile::parse(core::str::from_utf8(&text).ok()?).ok()?) };
        let before = [
            guard::NOT_DUMPABLE,
            guard::NO_CORE_FILE,
            guard::NO_NEW_PRIVILEGES,
            guard::NO_FILES,
            guard::SYSTEM_CALL_FILTER,
        ];
        let held = |guard: &Guard| protections.iter().any(|line| line.guard == *guard && line.is_in_force());
        protections.push(match before.iter().all(held) {
            true => Protection::in_force(guard::KEY_READ_LAST, 0),
            false => Protection::missing(guard::KEY_READ_LAST, Reason::NotFound, 0),
        });
        let counters = BTreeMap::new();
        Some(Self { key_file, has_store, image, region, payload_limit, protections, device, counters, changed: false })
    }

    /// Tag of a state: HKDF-SHA256 with the device's secret as key material and the state's bytes as info, which for a
    /// keyed 32-byte output is HMAC with domain separation.
    fn tag(&self, state: &[u8]) -> Result<Zeroizing<[u8; TAG_BYTES]>, PlatformError> {
        let device = self.device.as_ref().ok_or(PlatformError::State)?;
        let secret = device.to_text();
        let mut tag = Zeroizing::new([0; TAG_BYTES]);
        Hkdf::<Sha256>::new(Some(b"cordon process device state 1"), secret.as_bytes())
            .expand(state, tag.as_mut_slice())
            .map_err(|_| PlatformError::State)?;
        Ok(tag)
    }
}

impl Platform for ProcessPlatform {
    fn name(&self) -> &'static str {
        cordon_process_link::NAME
    }

    fn kind(&self) -> PlatformKind {
        PlatformKind::Process
    }

    fn is_development(&self) -> bool {
        true
    }

    fn protections(&self) -> Vec<Protection> {
        self.protections.clone()
    }

    fn compute(&self) -> Compute {
        Compute { set: KernelSet::detect(), workers: &POOL }
    }

    fn memory(&self) -> MemoryUse {
        let (fixed, heap) = (self.region.fixed(), HEAP.figures());
        MemoryUse { used: heap.used + fixed, peak: heap.peak + fixed, limit: self.region.limit(), fixed }
    }

    fn stretch(&self) -> u64 {
        HEAP.figures().stretch
    }

    fn payload_limit(&self) -> usize {
        self.payload_limit
    }

    fn reply_limit(&self) -> usize {
        REPLY_PAYLOAD
    }

    fn has_store(&self) -> bool {
        self.has_store
    }

    fn burst(&self) -> u32 {
        256
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), PlatformError> {
        random(out)
    }

    fn now(&self) -> Option<u64> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.ok().map(|since| since.as_secs())
    }

    fn device(&self) -> Option<&DeviceFile> {
        self.device.as_ref()
    }

    fn provision(&mut self, owners: Vec<OwnerPublic>) -> Result<Recipient, PlatformError> {
        if self.device.is_some() {
            return Err(PlatformError::KeyExists);
        }
        let mut source = |out: &mut [u8]| random(out).map_err(|_| PackageError::Random);
        let key = DeviceKey::generate(PlatformKind::Process, &mut source).map_err(|_| PlatformError::Random)?;
        let device = DeviceFile { key, owners };
        write_all(self.key_file, device.to_text().as_bytes()).ok_or(PlatformError::Storage)?;
        let recipient = device.key.recipient();
        self.device = Some(device);
        Ok(recipient)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PlatformError> {
        self.counters.clear();
        self.changed = false;
        if state.is_empty() {
            return Ok(());
        }
        let (body, tag) = state.split_last_chunk::<TAG_BYTES>().ok_or(PlatformError::State)?;
        let expected = self.tag(body)?;
        // Compared without an early end, so that timing tells nothing about the tag.
        let differ = expected.iter().zip(tag).fold(0, |differ, (a, b)| differ | (a ^ b));
        if differ != 0 {
            return Err(PlatformError::State);
        }
        let mut r = Reader::new(body);
        let list = r.list(40, MAX_COUNTERS, "counters", |r| {
            Ok::<_, cordon_codec::DecodeError>((r.array::<32>("counter")?, r.u64("value")?))
        });
        self.counters = list.map_err(|_| PlatformError::State)?.into_iter().collect();
        r.finish().map_err(|_| PlatformError::State)
    }

    fn counter(&self, id: &CounterId) -> u64 {
        self.counters.get(id).copied().unwrap_or(0)
    }

    fn raise(&mut self, id: &CounterId, value: u64) -> Result<(), PlatformError> {
        if value <= self.counter(id) {
            return Ok(());
        }
        if self.counters.len() >= MAX_COUNTERS as usize && !self.counters.contains_key(id) {
            return Err(PlatformError::Full);
        }
        self.counters.insert(*id, value);
        self.changed = true;
        Ok(())
    }

    /// Signed with a key of the device. The host provides both the program and the device's secret, so it shows nothing
    /// that holds against the host; it lets everything around evidence be developed and tested.
    fn evidence(&self, report_data: &[u8; 64]) -> Result<(EvidenceKind, Vec<u8>), PlatformError> {
        let device = self.device.as_ref().ok_or(PlatformError::Evidence)?;
        let key = SigningKey::from_bytes(&device.key.derive(b"cordon/1 development evidence key"));
        let (image, report_data, public_key) = (self.image, *report_data, key.verifying_key().to_bytes());
        let signed = DevelopmentEvidence::signed(&image, &report_data, &public_key);
        let signature = key.sign(&signed).to_bytes();
        let evidence = DevelopmentEvidence { image, report_data, public_key, signature };
        Ok((EvidenceKind::Development, evidence.encode()))
    }

    fn take_state(&mut self) -> Option<Vec<u8>> {
        if !core::mem::take(&mut self.changed) {
            return None;
        }
        let mut w = Writer::new();
        w.count(self.counters.len());
        for (id, value) in &self.counters {
            w.raw(id).u64(*value);
        }
        let mut state = w.finish();
        let tag = self.tag(&state).ok()?;
        state.extend_from_slice(tag.as_slice());
        Some(state)
    }
}

fn random(out: &mut [u8]) -> Result<(), PlatformError> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: fills the slice's own memory.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        filled += usize::try_from(got).ok().filter(|got| *got > 0).ok_or(PlatformError::Random)?;
    }
    Ok(())
}

/// The whole file, wiped when dropped; `None` on an error or when it is longer than any device file.
fn read_all(fd: i32) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(vec![0; MAX_KEY_BYTES + 1]);
    let mut len = 0;
    loop {
        let rest = text.get_mut(len..).filter(|rest| !rest.is_empty())?;
        let offset = libc::off_t::try_from(len).ok()?;
        // SAFETY: fills the slice's own memory.
        let got = unsafe { libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), offset) };
        match usize::try_from(got).ok()? {
            0 => break,
            got => len += got,
        }
    }
    text.truncate(len);
    Some(text)
}

fn write_all(fd: i32, bytes: &[u8]) -> Option<()> {
    let mut len = 0;
    while let Some(rest) = bytes.get(len..).filter(|rest| !rest.is_empty()) {
        let offset = libc::off_t::try_from(len).ok()?;
        // SAFETY: reads the slice's own memory.
        let put = unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), offset) };
        len += usize::try_from(put).ok().filter(|put| *put > 0)?;
    }
    // SAFETY: a descriptor of our own.
    (unsafe { libc::fsync(fd) } == 0).then_some(())
}
