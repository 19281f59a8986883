//! The one region of writable memory: guard page, stack, heap. Taken once, before the sandbox closes.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use cordon_protocol::{Guard, Protection, Reason};

use crate::heap::EARLY_BYTES;

const PAGE: usize = 4096;

/// Bytes of the service's stack. The deepest path is signature and HPKE arithmetic while loading, below 100 KiB.
const STACK_BYTES: usize = 512 * 1024;

/// Bytes of this process that are written and lie outside the region: the early area, the runtime's static data, the main
/// thread's stack as far as the start touches it, and the C library's. Counted in full, always.
const OUTSIDE_BYTES: usize = EARLY_BYTES + 256 * 1024;

/// See the module.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the region belongs to the process, not to a thread; `Region` only tells where it is.
unsafe impl Send for Region {}

impl Region {
    /// Bytes that count against the budget before the model asks for any.
    pub(crate) const FIXED_BYTES: usize = STACK_BYTES + PAGE + OUTSIDE_BYTES;

    /// Maps as much as the budget leaves, in memory that the kernel itself does not map if it has such.
    pub(crate) fn take(budget: u64, protections: &mut Vec<Protection>) -> Option<Self> {
        let budget = usize::try_from(budget).ok()?;
        let len = budget.checked_sub(OUTSIDE_BYTES)? / PAGE * PAGE;
        if len < STACK_BYTES + 16 * PAGE {
            return None;
        }
        raise_lock_limit();
        let (base, secret) = match secret_memory(len) {
            Ok(base) => (base, None),
            Err(errno) => (anonymous_memory(len)?, Some(errno)),
        };
        let this = Self { base, len };
        let locked = secret.is_none() || this.lock();
        let covered = len as u64;
        for guard in [Guard::SecretKeys, Guard::SecretHeap] {
            protections.push(match secret {
                None => Protection::in_force(guard, covered),
                Some(libc::ENOSYS) => Protection::missing(guard, Reason::Kernel, 0),
                Some(libc::EAGAIN) => Protection::missing(guard, Reason::LockLimit, lock_limit()),
                Some(errno) => Protection::missing(guard, Reason::Denied, errno.unsigned_abs().into()),
            });
        }
        protections.push(if locked {
            Protection::in_force(Guard::Locked, covered)
        } else {
            Protection::missing(Guard::Locked, Reason::LockLimit, lock_limit())
        });
        // Every later mapping is denied by the filter, so the heap cannot grow beyond the region.
        protections.push(Protection::in_force(Guard::Budget, budget as u64));
        // SAFETY: the first page of the region, which nothing uses; a stack overflow faults there.
        unsafe { libc::mprotect(base.as_ptr().cast(), PAGE, libc::PROT_NONE) };
        Some(this)
    }

    /// Where the service's stack lies.
    pub(crate) fn stack(&self) -> (NonNull<u8>, usize) {
        // SAFETY: within the region, whose least length `take` checked.
        (unsafe { self.base.add(PAGE) }, STACK_BYTES)
    }

    /// Where the heap lies.
    pub(crate) fn heap(&self) -> (NonNull<u8>, usize) {
        let before = PAGE + STACK_BYTES;
        // SAFETY: within the region, whose least length `take` checked.
        (unsafe { self.base.add(before) }, self.len - before)
    }

    /// Bytes of the budget that the region and the process around it can use.
    pub(crate) fn limit(&self) -> u64 {
        (self.len + OUTSIDE_BYTES) as u64
    }

    fn lock(&self) -> bool {
        // SAFETY: the whole region, mapped above; neither call changes contents.
        unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_DONTDUMP);
            libc::mlock(self.base.as_ptr().cast(), self.len) == 0
        }
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `memfd_secret(2)`: pages are removed from the kernel's own map and never swapped.
fn secret_memory(len: usize) -> Result<NonNull<u8>, i32> {
    // SAFETY: no pointer is passed; the result is a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(errno)?;
    let size = libc::off_t::try_from(len).map_err(|_| libc::EINVAL)?;
    // SAFETY: a descriptor of our own.
    let mapped = if unsafe { libc::ftruncate(fd, size) } == 0 { map(len, libc::MAP_SHARED, fd) } else { Err(errno()) };
    // SAFETY: a descriptor of our own; the mapping keeps the memory.
    unsafe { libc::close(fd) };
    mapped
}

fn anonymous_memory(len: usize) -> Option<NonNull<u8>> {
    map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).ok()
}

fn map(len: usize, flags: i32, fd: i32) -> Result<NonNull<u8>, i32> {
    // SAFETY: a new mapping at an address the kernel chooses.
    let base: *mut c_void = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(errno());
    }
    NonNull::new(base.cast()).ok_or(libc::EINVAL)
}

/// Secret memory counts as locked memory, of which ordinary users may have 8 MiB. Raising fails for them; then the report
/// says so.
fn raise_lock_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one struct.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) };
}

fn lock_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    limit.rlim_cur
}
