//! What protects the enclave, each protection reported as in force or missing, never assumed.

use cordon_codec::{DecodeError, Reader, Writer};

use crate::refusal::codes;

codes! {
    /// One protection.
    Guard {
        /// The CPU keeps the host out of the enclave's memory.
        Hardware = 1 "hardware-isolation",
        /// The bytes that run are the bytes that were sealed in memory before execution.
        SealedImage = 2 "sealed-image",
        /// Started with an empty environment and no descriptor but its own.
        EmptyEnvironment = 3 "empty-environment",
        /// No descendant can gain privileges.
        NoNewPrivileges = 4 "no-new-privileges",
        /// Processes of the same user cannot attach or read memory.
        NotDumpable = 5 "not-dumpable",
        /// A crash writes no core file.
        NoCoreFile = 6 "no-core-file",
        /// Only listed system calls; any other ends the enclave.
        SystemCallFilter = 7 "system-call-filter",
        /// No file can be opened.
        NoFiles = 8 "no-file-access",
        /// No TCP connection can be made or accepted, by the security module (the filter denies sockets anyway).
        NoNetwork = 9 "no-network-access",
        /// Keys and stacks lie in memory that the kernel itself does not map.
        SecretKeys = 10 "secret-memory-keys",
        /// Everything else does, too.
        SecretHeap = 11 "secret-memory-heap",
        /// Memory is never written to swap.
        Locked = 12 "locked-memory",
        /// Secure memory cannot exceed the budget.
        Budget = 13 "memory-budget",
        /// The enclave dies with the process that started it.
        DiesWithHost = 14 "dies-with-host",
        /// The device key was read only after every protection above was in place.
        KeyReadLast = 15 "key-read-last",
        /// An older package or device state cannot come back.
        Rollback = 16 "rollback-protection",
        /// The clock that `not_after` is checked with is not the host's.
        TrustedClock = 17 "trusted-clock",
    }
}

codes! {
    /// Why a protection is missing.
    Reason {
        /// The kernel does not have it.
        Kernel = 1 "not-in-this-kernel",
        /// The kernel has it but did not allow it.
        Denied = 2 "denied",
        /// The limit on locked memory is too low.
        LockLimit = 3 "locked-memory-limit",
        /// This kind of platform has no such thing.
        Platform = 4 "not-on-this-platform",
        /// The host provides what it depends on, and could replace it.
        HostControlled = 5 "host-controlled",
        /// It did not hold when it was checked.
        NotFound = 6 "not-found-when-checked",
    }
}

/// Whether a protection is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    InForce,
    /// It is not.
    Missing(Reason),
}

/// One line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Which.
    pub guard: Guard,
    /// Whether it holds.
    pub state: State,
    /// A figure: bytes covered, an error number, an interface version; 0 where there is none.
    pub detail: u64,
}

/// Encoded size of one [`Protection`].
pub(crate) const PROTECTION_BYTES: usize = 2 + 2 + 8;

impl Protection {
    /// A protection that holds.
    pub fn in_force(guard: Guard, detail: u64) -> Self {
        Self { guard, state: State::InForce, detail }
    }

    /// A protection that does not.
    pub fn missing(guard: Guard, reason: Reason, detail: u64) -> Self {
        Self { guard, state: State::Missing(reason), detail }
    }

    /// Whether it holds.
    pub fn is_in_force(&self) -> bool {
        self.state == State::InForce
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u16(self.guard.number());
        w.u16(match self.state {
            State::InForce => 0,
            State::Missing(reason) => reason.number(),
        });
        w.u64(self.detail);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let guard = Guard::from_number(r.u16("guard")?).ok_or(DecodeError::Invalid("guard"))?;
        let state = match r.u16("guard state")? {
            0 => State::InForce,
            number => State::Missing(Reason::from_number(number).ok_or(DecodeError::Invalid("guard state"))?),
        };
        Ok(Self { guard, state, detail: r.u64("guard detail")? })
    }
}
