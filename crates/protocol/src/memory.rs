//! Secure memory as an enclave counts it.

use cordon_codec::{DecodeError, Reader, Writer};

/// Every writable byte of the enclave, as the platform counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use now.
    pub used: u64,
    /// High-water mark since the enclave started.
    pub peak: u64,
    /// The budget.
    pub limit: u64,
    /// The part of the three that does not depend on the model: stacks, static data, the platform's own state.
    pub fixed: u64,
}

impl MemoryUse {
    /// Bytes not in use.
    pub fn available(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u64(self.used).u64(self.peak).u64(self.limit).u64(self.fixed);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            used: r.u64("memory used")?,
            peak: r.u64("memory peak")?,
            limit: r.u64("memory limit")?,
            fixed: r.u64("memory fixed")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_is_never_negative() {
        assert_eq!(MemoryUse { used: 5, limit: 3, ..MemoryUse::default() }.available(), 0);
    }
}
