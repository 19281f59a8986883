//! The enclave's end of the shared memory.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::collections::TryReserveError;
use std::sync::OnceLock;

use cordon_process_link::ring::{HEADER_BYTES, LAYOUT, Ring, total_bytes, word};
use cordon_process_link::stage::Progress;
use cordon_protocol::{MAX_THREADS, PAYLOAD_LIMIT};

use crate::futex;

/// How often the wait for a request looks whether the host still lives.
const LIVENESS_SECONDS: i64 = 1;

/// The ring, for the allocator's reports.
static RING: OnceLock<Ring<'static>> = OnceLock::new();

/// Leaves a refused allocation in the ring's header: bytes asked for, bytes free.
pub(crate) fn report_refusal(needed: usize, available: usize) {
    if let Some(ring) = RING.get() {
        ring.set_wide(word::REFUSED, needed as u64);
        ring.set_wide(word::REFUSED + 2, available as u64);
    }
}

/// The mapped ring.
pub(crate) struct SharedRing {
    ring: Ring<'static>,
    payload: usize,
    budget: u64,
    threads: usize,
    host: libc::pid_t,
}

impl SharedRing {
    /// Maps the descriptor's memory for the rest of the process; `None` when its layout is not this build's.
    pub(crate) fn map(fd: i32) -> Option<Self> {
        let header = map(fd, HEADER_BYTES)?;
        // SAFETY: the mapping is shared, page-aligned, `HEADER_BYTES` long and never unmapped; atomics may be changed by
        // the host at any time.
        let words = unsafe { core::slice::from_raw_parts(header.cast::<AtomicU32>(), HEADER_BYTES / 4) };
        let (layout, payload) = (words.get(word::LAYOUT)?, words.get(word::PAYLOAD)?);
        let load = |word: &AtomicU32| word.load(core::sync::atomic::Ordering::Acquire);
        let payload = usize::try_from(load(payload)).ok()?;
        if load(layout) != LAYOUT || payload > PAYLOAD_LIMIT {
            return None;
        }
        let whole = map(fd, total_bytes(payload))?;
        // SAFETY: as above, for the whole length; the frames begin after the header, 8-byte aligned.
        let (header, body) = unsafe {
            let body = whole.add(HEADER_BYTES).cast::<AtomicU64>();
            (
                core::slice::from_raw_parts(whole.cast::<AtomicU32>(), HEADER_BYTES / 4),
                core::slice::from_raw_parts(body, (total_bytes(payload) - HEADER_BYTES) / 8),
            )
        };
        let ring = Ring::new(header, body, payload)?;
        let threads = usize::try_from(ring.word(word::THREADS)).ok()?;
        if !(1..=MAX_THREADS).contains(&threads) {
            return None;
        }
        RING.set(ring).ok()?;
        // SAFETY: no argument, always succeeds.
        let host = unsafe { libc::getppid() };
        Some(Self { ring, payload, budget: ring.wide(word::BUDGET_LOW), threads, host })
    }

    /// Bytes of secure memory the host grants.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// Threads the host wants to compute with: 1 to [`MAX_THREADS`].
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Payload bytes of a frame.
    pub(crate) fn payload_limit(&self) -> usize {
        self.payload
    }

    /// Tells the host how far the start came.
    pub(crate) fn report(&self, progress: Progress) {
        self.ring.set_word(word::STAGE, progress.to_word());
        wake(self.ring.futex(word::STAGE));
    }

    /// Waits for a request; `None` when the host's process is gone.
    pub(crate) fn wait(&self) -> Option<u32> {
        loop {
            let answered = self.ring.word(word::REPLY);
            let asked = self.ring.word(word::REQUEST);
            if asked != answered {
                return Some(asked);
            }
            // Commands of one request follow each other closely.
            if futex::look(|| self.ring.word(word::REQUEST) != asked) {
                continue;
            }
            if let Some(word) = self.ring.futex(word::REQUEST) {
                futex::wait(word, asked, Some(LIVENESS_SECONDS));
            }
            // SAFETY: no argument, always succeeds.
            if unsafe { libc::getppid() } != self.host {
                return None;
            }
        }
    }

    /// Copies the request into private memory.
    pub(crate) fn take_request(&self, into: &mut Vec<u8>) -> Result<(), TryReserveError> {
        self.ring.take_request(into)
    }

    /// Publishes a reply; `None` if it is longer than a frame.
    pub(crate) fn post_reply(&self, number: u32, frame: &[u8]) -> Option<()> {
        self.ring.post_reply(number, frame)?;
        wake(self.ring.futex(word::REPLY));
        Some(())
    }
}

fn wake(word: Option<&AtomicU32>) {
    if let Some(word) = word {
        futex::wake(word, i32::MAX);
    }
}

/// Maps the first `len` bytes; refuses a file that is shorter, whose missing pages would fault.
fn map(fd: i32, len: usize) -> Option<*mut u8> {
    // SAFETY: `stat` is plain data that the call fills.
    let size = unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        if libc::fstat(fd, &mut stat) != 0 {
            return None;
        }
        stat.st_size
    };
    if usize::try_from(size).ok()? < len {
        return None;
    }
    // SAFETY: a new mapping at an address the kernel chooses.
    let base = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
    (base != libc::MAP_FAILED).then_some(base.cast())
}
