//! Where helpers run: on any processor but the one of the thread that wakes them.
//!
//! Left alone, the kernel may put a woken helper behind the very thread that waits for it, be it that the host looks for an
//! answer on the only other processor, or that this one is halted, which a virtual machine's kernel may not take for free. There the
//! helper stays, and the tasks are done one after the other.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::OnceLock;

use cordon_protocol::MAX_THREADS;

/// The helpers' thread ids, 0 beyond the last.
static IDS: [AtomicI32; MAX_THREADS] = [const { AtomicI32::new(0) }; MAX_THREADS];
/// Helpers that wrote theirs.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The processors this process may use, as it found them.
static ALLOWED: OnceLock<libc::cpu_set_t> = OnceLock::new();
/// The processor that helpers keep away from.
static AVOIDED: AtomicU32 = AtomicU32::new(u32::MAX);

/// Enters the calling thread among the helpers. Before the system-call filter closes.
pub(crate) fn enter() {
    ALLOWED.get_or_init(allowed);
    // SAFETY: no argument, always succeeds.
    let id = unsafe { libc::gettid() };
    if let Some(slot) = IDS.get(COUNT.fetch_add(1, Ordering::Relaxed)) {
        slot.store(id, Ordering::Release);
    }
}

/// Keeps helpers away from the calling thread's processor, if there is another. Costs a system call for each helper when the
/// thread has moved, otherwise nothing.
pub(crate) fn keep_away() {
    // SAFETY: no argument; -1 where the kernel cannot tell.
    let here = u32::try_from(unsafe { libc::sched_getcpu() }).ok();
    let Some(here) = here.filter(|&here| (here as usize) < libc::CPU_SETSIZE as usize) else { return };
    if AVOIDED.swap(here, Ordering::Relaxed) == here {
        return;
    }
    let Some(mut set) = ALLOWED.get().copied() else { return };
    // SAFETY: both only look at or change bits of the set, which has this number.
    let others = unsafe {
        libc::CPU_CLR(here as usize, &mut set);
        libc::CPU_COUNT(&set)
    };
    if others == 0 {
        return;
    }
    for id in IDS.iter().map(|id| id.load(Ordering::Acquire)).take_while(|&id| id != 0) {
        // SAFETY: reads the set. A failure, as when the processors were taken from this process meanwhile, changes nothing.
        unsafe { libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const set) };
    }
}

/// The processors of the calling thread; none if there are more than the set holds.
fn allowed() -> libc::cpu_set_t {
    // SAFETY: plain data that the call fills.
    unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            libc::CPU_ZERO(&mut set);
        }
        set
    }
}
