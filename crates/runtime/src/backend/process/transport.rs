//! Starts the embedded enclave from sealed memory and talks to it through a shared ring.

use core::hint::spin_loop;
use core::sync::atomic::AtomicU64;
use core::time::Duration;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Instant;

use cordon_mapped::{SealedImage, SharedMemory};
use cordon_process_link::profile::PAYLOAD;
use cordon_process_link::ring::{HEADER_BYTES, LAYOUT, Ring, total_bytes, word};
use cordon_process_link::stage::{Progress, Stage};
use cordon_protocol::Window;

use crate::backend::{Cause, Death, Resources, Transport};
use crate::error::RuntimeError;

/// The enclave's program, built by `build.rs`.
static PROGRAM: &[u8] = include_bytes!(env!("CORDON_ENCLAVE"));

/// How long before an answer is expected the host begins to look for it, and how long after. Being woken takes some 30 us,
/// one who wakes another 10 us, and the kernel's timers are up to 50 us late.
const PATIENCE: Duration = Duration::from_micros(120);

/// Answers expected later than this are slept for: by then the guess is too rough, and being woken a small part.
const LONG: Duration = Duration::from_millis(1);

/// How often a wait for the enclave looks whether it still lives.
const LIVENESS: Duration = Duration::from_millis(50);

/// The longest a start may take; memory is taken from the kernel page by page only when it is touched.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Starts the enclave. `key` is handed to it, never read here.
pub(super) fn start(key: &File, resources: Resources) -> Result<ProcessTransport, RuntimeError> {
    let failed = |stage| move |source| RuntimeError::Start { stage, source };
    let memory = SharedMemory::new(total_bytes(PAYLOAD)).map_err(failed("shared memory"))?;
    let image = SealedImage::new(PROGRAM).map_err(failed("sealing the program"))?;
    let payload = u32::try_from(PAYLOAD).map_err(|_| RuntimeError::Protocol("payload limit"))?;
    let ring = ring(&memory)?;
    ring.set_word(word::LAYOUT, LAYOUT);
    ring.set_word(word::PAYLOAD, payload);
    ring.set_wide(word::BUDGET_LOW, resources.secure_memory);
    ring.set_word(word::THREADS, u32::try_from(resources.threads).unwrap_or(u32::MAX));
    // Pages are taken from the kernel as they are touched.
    let store = usize::try_from(resources.store).map_err(|_| RuntimeError::Protocol("a package larger than memory"))?;
    let store = (store > 0).then(|| SharedMemory::new(store)).transpose().map_err(failed("memory for weights"))?;
    let mut descriptors = vec![memory.as_fd(), key.as_fd()];
    descriptors.extend(store.as_ref().map(AsFd::as_fd));
    let child = image.start("cordon-enclave", &descriptors).map_err(failed("exec"))?;
    let mut process = ProcessTransport { memory, store, child, expected: Duration::ZERO };
    process.wait_until_ready()?;
    Ok(process)
}

fn ring(memory: &SharedMemory) -> Result<Ring<'_>, RuntimeError> {
    Ring::new(memory.words(HEADER_BYTES / 4), memory.wide_words(HEADER_BYTES), PAYLOAD)
        .ok_or(RuntimeError::Protocol("the shared memory is too small"))
}

/// Looks for a moment whether `reached`. The enclave's threads, or whoever else wants this processor, get it every
/// microsecond.
fn look(reached: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < 2 * PATIENCE {
        for _ in 0..32 {
            if reached() {
                return true;
            }
            spin_loop();
        }
        std::thread::yield_now();
    }
    false
}

/// A running enclave process.
pub(super) struct ProcessTransport {
    memory: SharedMemory,
    store: Option<SharedMemory>,
    child: Child,
    /// See [`Transport::expect`].
    expected: Duration,
}

impl ProcessTransport {
    fn wait_until_ready(&mut self) -> Result<(), RuntimeError> {
        let started = Instant::now();
        loop {
            let seen = ring(&self.memory)?.word(word::STAGE);
            if Progress::from_word(seen) == Progress::Ready {
                return Ok(());
            }
            if let Some(status) =
                self.child.try_wait().map_err(|source| RuntimeError::Start { stage: "wait", source })?
            {
                // It may have been written after it was read above.
                let (stage, errno) = match Progress::from_word(ring(&self.memory)?.word(word::STAGE)) {
                    Progress::Failed { stage, errno } => (stage, errno),
                    _ => (status.code().and_then(|code| Stage::from_number(u16::try_from(code).ok()?)), 0),
                };
                return Err(start_error(stage, errno, self.death()));
            }
            if started.elapsed() > START_LIMIT {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(RuntimeError::Start { stage: "waiting for it to be ready", source });
            }
            if let Some(futex) = ring(&self.memory)?.futex(word::STAGE) {
                cordon_mapped::wait(futex, seen, LIVENESS);
            }
        }
    }

    fn death(&mut self) -> Death {
        let status = self.child.try_wait().ok().flatten();
        let refused = ring(&self.memory).ok().map(|ring| (ring.wide(word::REFUSED), ring.wide(word::REFUSED + 2)));
        let cause = |what| move |number| Cause { what, number: i64::from(number) };
        let signal = status.and_then(|status| status.signal()).map(cause("ended by signal"));
        let exit = status.and_then(|status| status.code()).map(cause("exited with code"));
        Death { cause: signal.or(exit), refused_allocation: refused.filter(|(needed, _)| *needed > 0) }
    }
}

fn start_error(stage: Option<Stage>, errno: u16, death: Death) -> RuntimeError {
    let source = match errno {
        0 => std::io::Error::other(death.to_string()),
        errno => std::io::Error::from_raw_os_error(errno.into()),
    };
    RuntimeError::Start { stage: stage.map_or("before its first step", Stage::what), source }
}

impl Transport for ProcessTransport {
    /// The enclave has mapped the whole store, and hands each command the window alone.
    fn call(&mut self, frame: &mut Vec<u8>, _window: Option<Window>) -> Result<(), Death> {
        let posted = ring(&self.memory).ok().and_then(|ring| {
            let number = ring.post_request(frame)?;
            cordon_mapped::wake(ring.futex(word::REQUEST)?);
            Some(number)
        });
        let Some(number) = posted else { return Err(self.death()) };
        let mut nap = match self.expected {
            long if long > LONG => Some(LIVENESS),
            expected => expected.checked_sub(PATIENCE).filter(|time| *time > PATIENCE),
        };
        loop {
            let Ok(ring) = ring(&self.memory) else { return Err(Death::default()) };
            let answered = ring.word(word::REPLY);
            if answered == number {
                return ring.take_reply(frame).map_err(|_| Death::default());
            }
            let nap = nap.take();
            if nap.is_none() && look(|| ring.word(word::REPLY) != answered) {
                continue;
            }
            if let Some(futex) = ring.futex(word::REPLY) {
                cordon_mapped::wait(futex, answered, nap.unwrap_or(LIVENESS));
            }
            if ring.word(word::REPLY) != answered {
                continue;
            }
            // A reply may have been posted just before the end.
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended
                && self
                    .memory
                    .words(HEADER_BYTES / 4)
                    .get(word::REPLY)
                    .is_none_or(|word| word.load(core::sync::atomic::Ordering::Acquire) != number)
            {
                return Err(self.death());
            }
        }
    }

    fn store(&self) -> &[AtomicU64] {
        self.store.as_ref().map_or(&[], |store| store.wide_words(0))
    }

    fn expect(&mut self, time: Duration) {
        self.expected = time;
    }

    fn cpu_time(&self) -> Option<Duration> {
        cordon_mapped::cpu_time(&self.child)
    }
}

impl Drop for ProcessTransport {
    fn drop(&mut self) {
        // It holds nothing that must be stored; its memory goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
