//! How fast streamed weights are opened, here and now: streaming cannot be faster.

use super::machine::{best, together};
use cordon_package::{Aead, ChunkAead};
use cordon_protocol::PIECE;
use core::hint::black_box;
use serde_json::{Value, json};
use std::time::Instant;

/// Pieces that are opened: 4 MiB, as large as what lies in a cache while a request streams.
const PIECES: usize = 256;
/// Times they are opened; the best counts.
const RUNS: usize = 8;

/// Bytes per second of all threads together, copying a piece in included, as it is in the enclave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening(pub(super) f64);

impl Opening {
    /// Measures with the cipher that chunks and pieces are opened with.
    pub(super) fn measure(threads: usize) -> Self {
        Self(together(threads, &rate))
    }

    /// For `--json`.
    pub(super) fn as_json(self) -> Value {
        json!({ "gbytes_per_s": self.0 / 1e9 })
    }
}

fn rate() -> f64 {
    let (cipher, nonce) = (ChunkAead::new(&[7; 32]), [0; 12]);
    let mut piece = vec![0; PIECE];
    let Some(tag) = cipher.encrypt(nonce, b"", &mut piece) else { return 0.0 };
    let stored = piece.repeat(PIECES);
    best(RUNS, |_| {
        let started = Instant::now();
        let opened = stored.chunks_exact(PIECE).all(|stored| {
            piece.copy_from_slice(stored);
            let opened = cipher.decrypt(nonce, b"", &mut piece, tag);
            black_box(&piece);
            opened
        });
        if opened { stored.len() as f64 / started.elapsed().as_secs_f64() } else { 0.0 }
    })
}
