//! The spill area: memory of this host where encrypted activations wait that have no room inside.

use core::ops::Range;

use cordon_protocol::{MAX_SPILL_CHUNKS, SPILL_CHUNK};

use crate::error::RuntimeError;

/// Memory for the chunks that the segment which runs spills; segments run one at a time, so all use one area.
#[derive(Default)]
pub(crate) struct SpillArea(Vec<u8>);

impl SpillArea {
    /// Memory for so many chunks, which the enclave asks for when it loads a package.
    pub(crate) fn new(chunks: u32) -> Result<Self, RuntimeError> {
        if chunks > MAX_SPILL_CHUNKS {
            return Err(RuntimeError::Protocol("a larger spill area than any package may need"));
        }
        let (mut area, bytes) = (Vec::new(), chunks as usize * SPILL_CHUNK);
        area.try_reserve_exact(bytes).map_err(|_| RuntimeError::HostMemory { bytes })?;
        area.resize(bytes, 0);
        Ok(Self(area))
    }

    /// Where `len` bytes from chunk `chunk` on lie, if the area has them.
    pub(crate) fn range(&self, chunk: u32, len: usize) -> Result<Range<usize>, RuntimeError> {
        let start = (chunk as usize).checked_mul(SPILL_CHUNK);
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let inside = range.filter(|range| range.end <= self.0.len());
        inside.ok_or(RuntimeError::Protocol("a place outside the spill area"))
    }

    /// The bytes of a range that [`Self::range`] gave.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    /// Keeps a stored chunk.
    pub(crate) fn keep(&mut self, chunk: u32, stored: &[u8]) -> Result<(), RuntimeError> {
        let range = self.range(chunk, stored.len())?;
        self.0[range].copy_from_slice(stored);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_from_its_place_and_no_other_place_exists() {
        let mut area = SpillArea::new(2).expect("small");
        area.keep(1, &[7; SPILL_CHUNK]).expect("inside");
        let second = area.range(1, SPILL_CHUNK).expect("inside");
        assert_eq!(area.bytes(second.clone()), [7; SPILL_CHUNK]);
        assert_eq!(area.bytes(0..second.start), [0; SPILL_CHUNK]);
        for (chunk, len) in [(2, 1), (1, SPILL_CHUNK + 1), (u32::MAX, SPILL_CHUNK), (0, usize::MAX)] {
            assert!(area.range(chunk, len).is_err(), "{chunk} {len}");
        }
        assert!(area.keep(2, &[1]).is_err());
        assert!(SpillArea::new(MAX_SPILL_CHUNKS + 1).is_err());
    }
}
