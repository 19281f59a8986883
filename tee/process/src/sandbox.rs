//! What the process gives up before it reads the key.

use core::ffi::c_void;
use core::ptr::null_mut;
use std::collections::BTreeMap;

use cordon_process_link::guard;
use cordon_protocol::{Guard, Protection, Reason};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What can be said before anything is mapped.
pub(crate) fn before_memory(ring: i32, key: i32) -> Vec<Protection> {
    let clean = std::env::vars_os().next().is_none() && only_descriptors(ring, key);
    let clean = match clean {
        true => Protection::in_force(guard::EMPTY_ENVIRONMENT, 0),
        false => Protection::missing(guard::EMPTY_ENVIRONMENT, Reason::NotFound, 0),
    };
    let image = match is_sealed_image() {
        true => Protection::in_force(guard::SEALED_IMAGE, 0),
        false => Protection::missing(guard::SEALED_IMAGE, Reason::NotFound, 0),
    };
    vec![
        Protection::missing(Guard::HARDWARE, Reason::Platform, 0),
        image,
        clean,
        Protection::missing(Guard::ROLLBACK, Reason::HostControlled, 0),
        Protection::missing(Guard::TRUSTED_CLOCK, Reason::HostControlled, 0),
        // The wait for requests checks every second that the parent is still the same process.
        Protection::in_force(guard::DIES_WITH_HOST, 1),
    ]
}

/// No descriptor is open but the standard three, the ring and the key file.
fn only_descriptors(ring: i32, key: i32) -> bool {
    (3..1024).filter(|fd| *fd != ring && *fd != key).all(|fd| {
        // SAFETY: asks about a number, changes nothing.
        unsafe { libc::fcntl(fd, libc::F_GETFD) < 0 }
    })
}

/// The running image is a memory file whose seals forbid every change.
fn is_sealed_image() -> bool {
    use std::os::fd::AsRawFd;
    let Ok(image) = std::fs::File::open("/proc/self/exe") else { return false };
    // SAFETY: asks about a descriptor of our own.
    let seals = unsafe { libc::fcntl(image.as_raw_fd(), libc::F_GET_SEALS) };
    let wanted = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    seals >= 0 && seals & wanted == wanted
}

/// Gives up privileges, core files, inspection, files and network.
pub(crate) fn close(protections: &mut Vec<Protection>) {
    let mut record = |guard, held: bool| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        protections.push(match held {
            true => Protection::in_force(guard, 0),
            false => Protection::missing(guard, Reason::Denied, errno.unsigned_abs().into()),
        });
    };
    // SAFETY: each call takes plain numbers and one struct that it reads.
    unsafe {
        record(guard::NO_NEW_PRIVILEGES, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        record(guard::NO_CORE_FILE, libc::setrlimit(libc::RLIMIT_CORE, &none) == 0);
        // Whoever attached before stays attached, so that is looked for as well.
        record(guard::NOT_DUMPABLE, libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && !is_traced());
    }
    protections.extend(landlock());
}

/// Whether another process holds this one by ptrace; yes, if that cannot be told.
fn is_traced() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim) != Some("0")
}

/// `struct landlock_ruleset_attr` of Linux 6.12; older kernels take a prefix.
#[repr(C)]
struct LandlockAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Landlock with an empty set of rules: no file, no TCP, no signal or abstract socket beyond this process. Spoken directly:
/// two system calls, where the usual crate brings eleven packages into the trusted base. Threads made later inherit it.
fn landlock() -> [Protection; 2] {
    let missing =
        |reason, detail| [guard::NO_FILES, guard::NO_NETWORK].map(|guard| Protection::missing(guard, reason, detail));
    let abi = match landlock_abi() {
        Ok(abi) => abi,
        Err(errno) => {
            let reason =
                if errno == libc::ENOSYS || errno == libc::EOPNOTSUPP { Reason::Kernel } else { Reason::Denied };
            return missing(reason, errno.unsigned_abs().into());
        }
    };
    // Rights are added with the interface's versions, and a kernel refuses those it does not know.
    let rights = match abi {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let attributes = LandlockAttributes {
        handled_access_fs: (1 << rights) - 1,
        handled_access_net: if abi >= 4 { 0b11 } else { 0 },
        scoped: if abi >= 6 { 0b11 } else { 0 },
    };
    let size: usize = match abi {
        1..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    };
    // SAFETY: the first call reads `size` bytes of a struct on the stack, the others take the descriptor it made.
    let restricted = unsafe {
        let rules = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0u32);
        let restricted = rules >= 0 && libc::syscall(libc::SYS_landlock_restrict_self, rules, 0u32) == 0;
        if let Ok(rules @ 0..) = i32::try_from(rules) {
            libc::close(rules);
        }
        restricted
    };
    // Looked at from inside: even the root folder must be out of reach now.
    if !restricted || std::fs::read_dir("/").is_ok() {
        return missing(Reason::Denied, abi);
    }
    let network = match abi >= 4 {
        true => Protection::in_force(guard::NO_NETWORK, abi),
        false => Protection::missing(guard::NO_NETWORK, Reason::Kernel, abi),
    };
    [Protection::in_force(guard::NO_FILES, abi), network]
}

/// The kernel's landlock interface version.
fn landlock_abi() -> Result<u64, i32> {
    const VERSION: u32 = 1;
    // SAFETY: with the version flag the call takes no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null_mut::<c_void>(), 0usize, VERSION) };
    u64::try_from(abi)
        .ok()
        .filter(|abi| *abi > 0)
        .ok_or_else(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Allows what serving needs, for every thread, and ends the process on anything else. What the C library still does in a
/// thread that starts, or has started another, is not on the list: every thread must have come to rest.
pub(crate) fn filter(key: i32, protections: &mut Vec<Protection>) -> bool {
    let Some((program, calls)) = build_filter(key, is_empty(key)) else { return false };
    if seccompiler::apply_filter_all_threads(&program).is_err() {
        return false;
    }
    protections.push(Protection::in_force(guard::SYSTEM_CALL_FILTER, calls));
    true
}

/// Whether the key file is still to be written.
fn is_empty(key: i32) -> bool {
    // SAFETY: `stat` is plain data that the call fills.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        libc::fstat(key, &mut stat) == 0 && stat.st_size == 0
    }
}

/// The filter and the number of calls it allows.
fn build_filter(key: i32, new_device: bool) -> Option<(BpfProgram, u64)> {
    // Waiting, waking, giving way, and where helpers run; the end; random ids and keys; the clock of `not_after`; who the
    // parent is.
    let free = [
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_setaffinity,
        libc::SYS_getcpu,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_getppid,
        libc::SYS_rt_sigreturn,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = free.into_iter().map(|call| (call, Vec::new())).collect();
    // Reading and, on a new device only, writing the key file; no other descriptor.
    let calls: &[i64] = match new_device {
        true => &[libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_fsync],
        false => &[libc::SYS_pread64],
    };
    for &call in calls {
        let key = u64::try_from(key).ok()?;
        let only_key = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, key).ok()?;
        rules.insert(call, vec![SeccompRule::new(vec![only_key]).ok()?]);
    }
    let calls = rules.len() as u64;
    let arch = std::env::consts::ARCH.try_into().ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).ok()?;
    Some((filter.try_into().ok()?, calls))
}
