//! The one region of writable memory: a guard and a stack for each thread, then the heap. Taken once, before the sandbox
//! closes.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use cordon_process_link::guard;
use cordon_process_link::profile::{HELPER_STACK, SERVICE_STACK};
use cordon_protocol::{Guard, Protection, Reason};

use crate::thread::Stack;

const PAGE: usize = 4096;

/// Below the service's stack: an overflow ends the process.
const GUARD_BYTES: usize = 16 * PAGE;

/// Secret at least, if the kernel gives any, and the least that a service takes besides stacks: the heap's low end, where
/// small blocks such as keys lie.
const LEAST_HEAP_BYTES: usize = 768 * 1024;

/// What the C library may still map for new threads after the rest of the process was measured.
const THREAD_BYTES: u64 = 64 * 1024;

/// See the module.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
    helpers: usize,
    /// Private writable memory of the process outside the region: static data, the first thread's stack, the C library's
    /// own. Measured; the filter lets nothing be mapped later.
    outside: u64,
}

// SAFETY: the region belongs to the process, not to a thread; `Region` only tells where it is.
unsafe impl Send for Region {}

impl Region {
    /// Maps as much as the budget leaves, in memory that the kernel itself does not map, if it has such: all of it, or, if
    /// the limit on locked memory is too low for that, the part that holds keys.
    ///
    /// Fails with the system's error number, or 0 if the budget is too small.
    pub(crate) fn take(budget: u64, helpers: usize, protections: &mut Vec<Protection>) -> Result<Self, i32> {
        let least = SERVICE_STACK + helpers * HELPER_STACK + LEAST_HEAP_BYTES;
        let outside = writable_bytes().ok_or(libc::EACCES)? + THREAD_BYTES;
        let len = usize::try_from(budget.saturating_sub(outside)).map_err(|_| libc::EOVERFLOW)? / PAGE * PAGE;
        if len < least {
            crate::ring::report_refusal(least + outside as usize, budget as usize);
            return Err(0);
        }
        raise_lock_limit();
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let whole = map(null_mut(), len + GUARD_BYTES, libc::PROT_NONE, reserve, -1)?;
        // SAFETY: within the range just mapped.
        let base = unsafe { whole.add(GUARD_BYTES) };
        let mut secret = secret_memory(base, len).map(|()| len);
        if secret.is_err() && secret_memory(base, least).is_ok() {
            protections.push(Protection::in_force(guard::SECRET_KEYS, least as u64));
            protections.push(missing_secret(guard::SECRET_HEAP, secret.err().unwrap_or(0)));
            secret = Ok(least);
        } else {
            for guard in [guard::SECRET_KEYS, guard::SECRET_HEAP] {
                protections.push(match secret {
                    Ok(covered) => Protection::in_force(guard, covered as u64),
                    Err(errno) => missing_secret(guard, errno),
                });
            }
        }
        let locked = plain_memory(base, secret.unwrap_or(0)..len)?;
        protections.push(match locked {
            // Secret memory is never swapped.
            true => Protection::in_force(guard::LOCKED, len as u64),
            false => Protection::missing(guard::LOCKED, Reason::LockLimit, lock_limit()),
        });
        // Every later mapping is denied by the filter, so the heap cannot grow beyond the region.
        protections.push(Protection::in_force(Guard::BUDGET, budget));
        let region = Self { base, len, helpers, outside };
        for helper in 0..helpers {
            // SAFETY: the lowest page of a stack that nothing uses yet.
            if unsafe { libc::mprotect(region.helper(helper).as_ptr().cast(), PAGE, libc::PROT_NONE) } != 0 {
                return Err(errno());
            }
        }
        Ok(region)
    }

    /// The service's stack.
    pub(crate) fn stack(&self) -> Stack {
        Stack { base: self.base, len: SERVICE_STACK }
    }

    /// The helpers' stacks, without their guards.
    pub(crate) fn helper_stacks(&self) -> impl Iterator<Item = Stack> {
        // SAFETY: within the helper's own bytes.
        let stack = |helper| Stack { base: unsafe { self.helper(helper).add(PAGE) }, len: HELPER_STACK - PAGE };
        (0..self.helpers).map(stack)
    }

    /// Where a helper's guard and stack lie.
    fn helper(&self, index: usize) -> NonNull<u8> {
        // SAFETY: within the region, whose least length `take` checked.
        unsafe { self.base.add(SERVICE_STACK + index * HELPER_STACK) }
    }

    /// Where the heap lies.
    pub(crate) fn heap(&self) -> (NonNull<u8>, usize) {
        (self.helper(self.helpers), self.len - self.stacks())
    }

    /// Bytes of all stacks.
    fn stacks(&self) -> usize {
        SERVICE_STACK + self.helpers * HELPER_STACK
    }

    /// Bytes that count before the model asks for any: the stacks, whole, and what lies outside.
    pub(crate) fn fixed(&self) -> u64 {
        self.stacks() as u64 + self.outside
    }

    /// Bytes that the region and the process around it can use.
    pub(crate) fn limit(&self) -> u64 {
        self.len as u64 + self.outside
    }
}

fn missing_secret(guard: Guard, errno: i32) -> Protection {
    match errno {
        libc::ENOSYS => Protection::missing(guard, Reason::Kernel, 0),
        libc::EAGAIN | libc::ENOMEM => Protection::missing(guard, Reason::LockLimit, lock_limit()),
        errno => Protection::missing(guard, Reason::Denied, errno.unsigned_abs().into()),
    }
}

/// Private writable memory of this process.
fn writable_bytes() -> Option<u64> {
    // The C library takes its own small heap now, so that it is counted.
    // SAFETY: an allocation given straight back.
    unsafe { libc::free(libc::malloc(64)) };
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let bytes = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (rest.starts_with("rw") && rest.as_bytes().get(3) == Some(&b'p')).then(|| end.saturating_sub(start))
    };
    Some(maps.lines().filter_map(bytes).sum())
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `memfd_secret(2)` over `len` bytes at `base`: pages are removed from the kernel's own map and never swapped.
fn secret_memory(base: NonNull<u8>, len: usize) -> Result<(), i32> {
    // SAFETY: no pointer is passed; the result is a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(errno)?;
    let size = libc::off_t::try_from(len).map_err(|_| libc::EINVAL)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a descriptor of our own.
    let mapped = match unsafe { libc::ftruncate(fd, size) } {
        0 => map(base.as_ptr(), len, access, libc::MAP_SHARED | libc::MAP_FIXED, fd).map(drop),
        _ => Err(errno()),
    };
    // SAFETY: a descriptor of our own; the mapping keeps the memory.
    unsafe { libc::close(fd) };
    mapped
}

/// Ordinary memory in the rest of the region, kept out of core files; whether it could be locked.
fn plain_memory(base: NonNull<u8>, range: core::ops::Range<usize>) -> Result<bool, i32> {
    if range.is_empty() {
        return Ok(true);
    }
    // SAFETY: within the region.
    let start = unsafe { base.add(range.start) };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    map(start.as_ptr(), range.len(), libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
    // SAFETY: the range just mapped; neither call changes contents.
    unsafe {
        libc::madvise(start.as_ptr().cast(), range.len(), libc::MADV_DONTDUMP);
        Ok(libc::mlock2(start.as_ptr().cast(), range.len(), libc::MLOCK_ONFAULT) == 0)
    }
}

fn map(at: *mut u8, len: usize, access: i32, flags: i32, fd: i32) -> Result<NonNull<u8>, i32> {
    // SAFETY: a new mapping where the kernel chooses, or, with `MAP_FIXED`, over a part of our own region that nothing
    // uses yet.
    let base: *mut c_void = unsafe { libc::mmap(at.cast(), len, access, flags, fd, 0) };
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
