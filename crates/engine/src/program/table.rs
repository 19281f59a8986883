//! What a weight table says about the stream it describes.

use super::{Tile, WeightInfo, WeightTable};
use crate::stream::CHUNK;

impl WeightInfo {
    /// Bytes the tensor takes in the stream.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.stored.bytes())
    }
}

impl WeightTable {
    /// Bytes of the whole stream: up to the end of the last tensor, without padding.
    pub fn stream_bytes(&self) -> u64 {
        self.0.last().map_or(0, |last| last.offset.saturating_add(last.bytes()))
    }

    /// Bytes of a tile as instructions read it; 0 when the table has no such tensor.
    pub fn tile_bytes(&self, tile: Tile) -> u64 {
        let info = self.0.get(tile.tensor as usize);
        info.map_or(0, |info| u64::from(tile.len) * u64::from(info.stored.dtype().bytes()))
    }

    /// Chunks of the whole stream.
    pub fn chunks(&self) -> u64 {
        self.stream_bytes().div_ceil(CHUNK as u64)
    }
}
