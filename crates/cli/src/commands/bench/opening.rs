//! How fast encrypted weights are opened, here and now: streaming cannot be faster.

use super::machine::{best, together};
use crate::failure::Outcome;
use crate::package::PackageFile;
use crate::scratch::Scratch;
use cordon_package::{Opened, PackageError, Parsed, SectionKind, Trust, chunk, leaves};
use core::hint::black_box;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Chunks that are opened: 4 MiB, as large as what lies in a cache while a request streams.
const CHUNKS: u32 = 64;
/// Times they are opened; the best counts.
const RUNS: usize = 8;

/// Bytes per second of all threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// Chunks seen for the first time: hash, decryption and tag.
    pub(super) first: f64,
    /// Chunks seen before: mark and decryption.
    pub(super) again: f64,
}

impl Opening {
    /// Measures on the weights of a package made by `scratch`; `None` if it has none. Copying a chunk in is part of it, as
    /// it is in the enclave.
    pub(super) fn measure(scratch: &Scratch, package: &Path, threads: usize) -> Outcome<Option<Self>> {
        let file = PackageFile::open(package)?;
        let owners = [scratch.owner.public()];
        let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
        let opened = Parsed::parse_file(&file.bytes)?.verify(&trust)?.open(scratch.owner.device_key())?;
        let sections = opened.header().sections.iter().filter(|section| section.kind() == SectionKind::Weights);
        let Some(segment) = sections.max_by_key(|section| section.plain_len()).map(|section| section.segment()) else {
            return Ok(None);
        };
        let rate = |again: bool| together(threads, &|| rate(&opened, &file.bytes, segment, again).unwrap_or_default());
        Ok(Some(Self { first: rate(false), again: rate(true) }))
    }

    /// For `--json`.
    pub(super) fn as_json(&self) -> Value {
        json!({ "first_gbytes_per_s": self.first / 1e9, "again_gbytes_per_s": self.again / 1e9 })
    }
}

fn rate(opened: &Opened, file: &[u8], segment: u16, again: bool) -> Result<f64, PackageError> {
    let mut table = opened.verified().leaf_table(SectionKind::Weights, segment)?;
    let section = opened.header().section(SectionKind::Weights, segment).ok_or(PackageError::Truncated)?.clone();
    table.push(leaves(file, &section)?)?;
    let mut reader = opened.section(table.finish()?)?;
    if again {
        reader.use_marks(&[7; _]);
    }
    let (mut buffer, mut failed) = (Vec::new(), None);
    let mut pass = || {
        let mut bytes = 0;
        for index in 0..section.chunks().min(CHUNKS) {
            buffer.clear();
            buffer.extend_from_slice(chunk(file, &section, index)?);
            let (plain, mark) = reader.open_chunk(index, &mut buffer)?;
            bytes += black_box(plain).len();
            mark.into_iter().for_each(|mark| reader.keep(mark));
        }
        Ok(bytes as f64)
    };
    // Pages are there and, where they are in use, marks made.
    pass()?;
    let rate = best(RUNS, |_| {
        let started = Instant::now();
        match pass() {
            Ok(bytes) => bytes / started.elapsed().as_secs_f64(),
            Err(error) => {
                failed = Some(error);
                0.0
            }
        }
    });
    failed.map_or(Ok(rate), Err)
}
