//! Memory maps of the normal world: the one place of the host where `unsafe` may live (design rule 2).
//!
//! A mapped file may be changed by another process while it is mapped; Rust calls that undefined behaviour, and no flag
//! prevents it. Cordon accepts it where a copy would cost gigabytes: on the owner's machine for the owner's own model
//! files, and for ciphertext that is authenticated chunk by chunk after it was copied.

use bytes::Bytes;
use std::fs::File;
use std::io;

/// Maps a whole file read-only. An empty file gives empty bytes.
pub fn file(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and private; see the module's note on concurrent change.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}
