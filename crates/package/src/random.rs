//! Randomness: where it comes from, and how the little that is drawn is stretched.

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::error::PackageError;

/// A source of unpredictable bytes. On a device it is the platform's.
pub trait Random {
    /// Fills `out`, or fails as a whole with [`PackageError::Random`].
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackageError>;
}

impl<F: FnMut(&mut [u8]) -> Result<(), PackageError>> Random for F {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), PackageError> {
        self(out)
    }
}

/// Draws 32 secret bytes.
pub(crate) fn draw(random: &mut dyn Random) -> Result<Zeroizing<[u8; 32]>, PackageError> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

/// HPKE asks for an infallible generator; this one stretches 32 bytes that were drawn fallibly beforehand.
pub(crate) struct Stretched {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl Stretched {
    pub(crate) fn new(random: &mut dyn Random) -> Result<Self, PackageError> {
        Ok(Self { seed: draw(random)?, counter: 0 })
    }
}

impl hpke::rand_core::TryRng for Stretched {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for piece in out.chunks_mut(32) {
            let mut block: [u8; 32] = Sha256::new()
                .chain_update(b"cordon/1 stretched")
                .chain_update(self.seed.as_slice())
                .chain_update(self.counter.to_le_bytes())
                .finalize()
                .into();
            self.counter = self.counter.saturating_add(1);
            piece.iter_mut().zip(block).for_each(|(to, from)| *to = from);
            block.zeroize();
        }
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Stretched {}
