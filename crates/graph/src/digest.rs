//! SHA-256 of a model with everything it refers to.

use crate::error::GraphError;
use crate::external;
use crate::import;
use crate::limits::Limits;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The file's SHA-256 when it refers to no other file. Otherwise SHA-256 over, for the model and then each data file in
/// the order of their names: length and bytes of the name (empty for the model), length and bytes of the content;
/// lengths as 8 bytes, little-endian.
pub fn digest(path: &Path) -> Result<[u8; 32], GraphError> {
    let model = import::decode(import::map(path)?, &Limits::default())?;
    let locations = external::locations(&model)?;
    let mut hash = Sha256::new();
    let io = |error| GraphError::Io { path: path.to_path_buf(), error };
    let file = File::open(path).map_err(io)?;
    if locations.is_empty() {
        absorb(&mut hash, file).map_err(io)?;
        return Ok(hash.finalize().into());
    }
    let mut part = |name: &str, file: File, path: &Path| {
        let io = |error| GraphError::Io { path: path.to_path_buf(), error };
        let length = file.metadata().map_err(io)?.len();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(length.to_le_bytes());
        absorb(&mut hash, file.take(length)).map_err(io)
    };
    part("", file, path)?;
    for location in locations {
        let (file, path) = external::open(import::directory(path), location)?;
        part(location, file, &path)?;
    }
    Ok(hash.finalize().into())
}

/// Reads in pieces, so that the file need not fit into memory.
fn absorb(hash: &mut Sha256, mut from: impl Read) -> std::io::Result<()> {
    let mut piece = vec![0; 1 << 20];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            length => hash.update(&piece[..length]),
        }
    }
}
