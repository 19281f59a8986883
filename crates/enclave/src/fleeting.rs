//! A cipher whose key is drawn inside, is never stored and never leaves: for what the normal world keeps for a while.

use cordon_package::{Aead, ChunkAead};
use zeroize::Zeroizing;

use crate::platform::{Platform, PlatformError};

/// AES-256-GCM under a key of its own.
pub(crate) struct FleetingCipher(ChunkAead);

impl FleetingCipher {
    /// Draws a key.
    pub(crate) fn new(platform: &mut impl Platform) -> Result<Self, PlatformError> {
        let mut key = Zeroizing::new([0; 32]);
        platform.random(key.as_mut_slice())?;
        Ok(Self(ChunkAead::new(&key)))
    }
}

impl core::ops::Deref for FleetingCipher {
    type Target = ChunkAead;

    fn deref(&self) -> &ChunkAead {
        &self.0
    }
}

impl Drop for FleetingCipher {
    /// Not every cipher wipes its key: another key is put in its place.
    fn drop(&mut self) {
        self.0 = ChunkAead::new(&[0; 32]);
        core::hint::black_box(&mut self.0);
    }
}
