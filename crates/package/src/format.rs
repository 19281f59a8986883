//! Versions of the format. All decode into the same types; only the newest is written.

use crate::error::PackageError;
use crate::limits::{FORMAT, OLDEST_FORMAT};

/// A version of the format that this version reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// One shape for each value, one enclave, one output policy, no extensions.
    V1,
    /// What is written.
    V2,
}

impl Format {
    /// What this version writes.
    pub const WRITTEN: Self = Self::V2;

    /// Its number in a file.
    pub fn code(self) -> u16 {
        match self {
            Self::V1 => OLDEST_FORMAT,
            Self::V2 => FORMAT,
        }
    }

    pub(crate) fn from_code(code: u16) -> Result<Self, PackageError> {
        match code {
            OLDEST_FORMAT => Ok(Self::V1),
            FORMAT => Ok(Self::V2),
            _ => Err(PackageError::UnsupportedFormat(code)),
        }
    }
}
