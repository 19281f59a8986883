//! How fast streamed weights are opened, here and now: what streaming takes when nothing else does.

use super::machine::{best, together};
use cordon_engine::prefetch;
use cordon_package::{Aead, ChunkAead};
use cordon_protocol::PIECE;
use core::hint::black_box;
use serde_json::{Value, json};
use std::time::Instant;

/// Bytes that a thread opens at least and at most. Between them it is its share of the network's weights: what no cache holds
/// has to come from memory, here as there.
const BYTES: [u64; 2] = [1 << 20, 128 << 20];
/// Threads of an enclave that open pieces, at most.
const OPENING: usize = 4;
/// Times they are opened; the best counts.
const RUNS: usize = 4;

/// Bytes per second of all threads together, copying a piece in included, as it is in the enclave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening(pub(super) f64);

impl Opening {
    /// Opens `bytes` of weights with the cipher that the enclave uses.
    pub(super) fn measure(threads: usize, bytes: u64) -> Self {
        let threads = threads.clamp(1, OPENING);
        let share = (bytes / threads as u64).clamp(BYTES[0], BYTES[1]);
        Self(together(threads, &|| rate(share as usize / PIECE)))
    }

    /// For `--json`.
    pub(super) fn as_json(self) -> Value {
        json!({ "gbytes_per_s": self.0 / 1e9 })
    }
}

fn rate(pieces: usize) -> f64 {
    let (cipher, nonce) = (ChunkAead::new(&[7; 32]), [0; 12]);
    let mut piece = vec![0; PIECE];
    let Some(tag) = cipher.encrypt(nonce, b"", &mut piece) else { return 0.0 };
    let stored = piece.repeat(pieces);
    best(RUNS, |_| {
        let started = Instant::now();
        let opened = stored.chunks_exact(PIECE).enumerate().all(|(index, now)| {
            piece.copy_from_slice(now);
            // As the enclave does, the next one is fetched ahead.
            let later = stored.get((index + 1) * PIECE..).unwrap_or_default();
            later.chunks(64).take(PIECE / 64).for_each(|line| prefetch(&line[0]));
            let opened = cipher.decrypt(nonce, b"", &mut piece, tag);
            black_box(&piece);
            opened
        });
        if opened { stored.len() as f64 / started.elapsed().as_secs_f64() } else { 0.0 }
    })
}
