//! Errors of the crates below as refusals: codes and numbers, all text dropped.

use alloc::vec::Vec;

use cordon_engine::{EngineError, Place};
use cordon_package::PackageError;
use cordon_protocol::{Code, Refusal};

use crate::platform::{Platform, PlatformError};

pub(crate) fn package(error: PackageError) -> Refusal {
    match error {
        PackageError::Digest { segment, .. } => Refusal::new(Code::CorruptChunk).in_segment(segment.into()),
        PackageError::Chunk { segment, index, .. } => {
            Refusal::new(Code::CorruptChunk).in_segment(segment.into()).about(index)
        }
        PackageError::Manifest { index, .. } => Refusal::new(Code::PackageHostile).about(index),
        PackageError::UnsupportedFormat(_) | PackageError::UnsupportedSuite(_) | PackageError::Unsupported(_) => {
            Refusal::new(Code::PackageUnsupported)
        }
        PackageError::UnpinnedOwner => Refusal::new(Code::UnpinnedOwner),
        PackageError::Expired { .. } => Refusal::new(Code::Expired),
        PackageError::OlderVersion { version, minimum } => Refusal::new(Code::OlderVersion).amounts(minimum, version),
        PackageError::Development => Refusal::new(Code::Development),
        PackageError::NotARecipient => Refusal::new(Code::NotARecipient),
        PackageError::Random => Refusal::new(Code::Platform),
        PackageError::Misuse(_) | PackageError::Sink => Refusal::new(Code::Internal),
        _ => Refusal::new(Code::PackageHostile),
    }
}

/// `available` is what the platform has left, for the errors that do not know it.
pub(crate) fn engine(error: EngineError, segment: u32, available: u64) -> Refusal {
    let at = |refusal: Refusal, place: Place| match place {
        Place::Instruction { index, .. } => refusal.at_instruction(index),
        _ => refusal,
    };
    let refusal = match error {
        EngineError::Version { .. } => Refusal::new(Code::PackageUnsupported),
        EngineError::Malformed(_) => Refusal::new(Code::ProgramInvalid),
        EngineError::Invalid { at: place, .. } | EngineError::Work { at: place, .. } => {
            at(Refusal::new(Code::ProgramInvalid), place)
        }
        EngineError::Memory { at: place, needed, available, .. } => {
            at(Refusal::new(Code::OutOfMemory).amounts(needed, available), place)
        }
        EngineError::Allocation { needed, .. } => Refusal::new(Code::OutOfMemory).amounts(needed, available),
        EngineError::Piece { index } => Refusal::new(Code::CorruptStore).about(index),
        EngineError::Reply(_) => Refusal::new(Code::WrongSupply),
        EngineError::Data { at: place, .. } => at(Refusal::new(Code::BadValue), place),
        _ => Refusal::new(Code::Internal),
    };
    refusal.in_segment(segment)
}

pub(crate) fn platform(error: PlatformError) -> Refusal {
    Refusal::new(match error {
        PlatformError::KeyExists => Code::DeviceKeyExists,
        PlatformError::State => Code::DeviceState,
        PlatformError::Random | PlatformError::Storage | PlatformError::Full | PlatformError::Evidence => {
            Code::Platform
        }
    })
}

/// An empty vector with room for exactly `len`, or the refusal that says how much there was.
pub(crate) fn reserve<T>(len: usize, platform: &impl Platform) -> Result<Vec<T>, Refusal> {
    let mut items = Vec::new();
    let needed = (len as u64).saturating_mul(size_of::<T>() as u64);
    match items.try_reserve_exact(len) {
        Ok(()) => Ok(items),
        Err(_) => Err(Refusal::new(Code::OutOfMemory).amounts(needed, platform.memory().available())),
    }
}

/// Refuses before a step whose small allocations cannot fail softly, when they might not fit.
pub(crate) fn headroom(needed: usize, platform: &impl Platform) -> Result<(), Refusal> {
    let (needed, available) = (needed as u64, platform.memory().available());
    if needed > available {
        return Err(Refusal::new(Code::OutOfMemory).amounts(needed, available));
    }
    Ok(())
}
