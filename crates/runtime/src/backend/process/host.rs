//! What a process enclave needs of this Linux.

use crate::backend::{Check, Verdict};

/// The kernel's version.
pub(super) fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Check::new(
        "Linux kernel",
        "5.14 or newer",
        if release.is_empty() { "unknown" } else { release },
        if version >= (5, 14) { Verdict::Good } else { Verdict::Missing },
        "update the kernel: landlock needs 5.13, memfd_secret 5.14; without them the lines below say what is missing",
    )
}

/// How much memory may be locked, and so kept from swap and from the kernel's own map.
pub(super) fn memory_lock() -> Check {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    let soft = line.split_whitespace().next().unwrap_or("unknown");
    let enough = soft == "unlimited" || soft.parse::<u64>().is_ok_and(|bytes| bytes >= 64 << 20);
    Check::new(
        "locked memory limit",
        "64 MiB or more",
        soft,
        if enough { Verdict::Good } else { Verdict::Missing },
        "raise it with `ulimit -l unlimited`; otherwise larger models use ordinary memory, and the report says so",
    )
}
