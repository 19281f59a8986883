//! What the service needs from the TEE it runs in.

use alloc::vec::Vec;

use cordon_engine::Compute;
use cordon_package::{DeviceFile, OwnerPublic, PlatformKind, Recipient};
use cordon_protocol::{EvidenceKind, MemoryUse, Protection};

/// Names a monotonic counter: a digest, so that counters of all owners and packages share one space.
pub type CounterId = [u8; 32];

/// Why a platform could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformError {
    /// The source of randomness failed.
    Random,
    /// The device key could not be stored.
    Storage,
    /// The device has a key already.
    KeyExists,
    /// The stored state is not what this device handed out.
    State,
    /// No room for another counter.
    Full,
    /// No evidence could be made.
    Evidence,
}

/// The porting surface: one implementation for each kind of TEE.
pub trait Platform {
    /// The platform's word, such as `process`.
    fn name(&self) -> &'static str;

    /// Its kind, as recipients name it.
    fn kind(&self) -> PlatformKind;

    /// Whether it lacks hardware protection. A platform that has it refuses packages marked `development`.
    fn is_development(&self) -> bool;

    /// What holds and what does not, as checked when the platform started.
    fn protections(&self) -> Vec<Protection>;

    /// Kernel set and threads to compute with, the same at every call.
    fn compute(&self) -> Compute;

    /// Every writable byte, counted.
    fn memory(&self) -> MemoryUse;

    /// The longest stretch of secure memory that can be allocated in one piece, where the platform knows it.
    fn stretch(&self) -> u64 {
        self.memory().available()
    }

    /// Most payload bytes of a command; at least a stored chunk (65552), at most [`cordon_protocol::PAYLOAD_LIMIT`].
    fn payload_limit(&self) -> usize;

    /// Most payload bytes of a reply; at least 8, and room for the state that [`Platform::take_state`] hands out. A platform
    /// that gives less than a stored chunk (65552) runs no Program that spills.
    fn reply_limit(&self) -> usize {
        self.payload_limit()
    }

    /// Whether commands can bring a window of a store, where weights lie, encrypted, that have no room inside. Without it
    /// every weight has to be resident.
    fn has_store(&self) -> bool {
        false
    }

    /// Instructions that one command may execute before the normal world is asked to continue.
    fn burst(&self) -> u32;

    /// Fills `out` with unpredictable bytes.
    fn random(&mut self, out: &mut [u8]) -> Result<(), PlatformError>;

    /// Seconds since 1970-01-01 UTC; `None` without a clock. Whether the clock can be trusted is a protection.
    fn now(&self) -> Option<u64>;

    /// The device's key and trust anchors; `None` before they are made.
    fn device(&self) -> Option<&DeviceFile>;

    /// Makes the device key and pins `owners`.
    fn provision(&mut self, owners: Vec<OwnerPublic>) -> Result<Recipient, PlatformError>;

    /// Evidence that vouches for `report_data`, and how it is to be appraised.
    fn evidence(&self, report_data: &[u8; 64]) -> Result<(EvidenceKind, Vec<u8>), PlatformError>;

    /// Takes the state that [`Platform::take_state`] handed out last; empty on a new device, or where the platform has
    /// storage of its own.
    fn restore(&mut self, state: &[u8]) -> Result<(), PlatformError>;

    /// A monotonic counter; 0 before it is raised.
    fn counter(&self, id: &CounterId) -> u64;

    /// Raises a counter. A value not above the present one changes nothing.
    fn raise(&mut self, id: &CounterId, value: u64) -> Result<(), PlatformError>;

    /// State the normal world must store before it goes on, if it changed since the last call.
    fn take_state(&mut self) -> Option<Vec<u8>>;
}
