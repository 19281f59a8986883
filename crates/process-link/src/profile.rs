//! The platform's figures: predictions rest on them, and host and enclave take what binds them from here.

use cordon_protocol::{MAX_THREADS, Profile, SPILL_CHUNK, Speed};

/// Bytes of the service's stack. Signature and HPKE arithmetic while loading and the kernels of ResNet-50 touch 27 KiB of it.
pub const SERVICE_STACK: usize = 256 * 1024;

/// Bytes of a helper's stack, which runs kernels and chunk decryption, with the guard page below it. ResNet-50 touches 17 KiB.
pub const HELPER_STACK: usize = 64 * 1024;

/// Payload bytes of a request: eight stored chunks. The enclave has a copy of the frame inside, so a larger one costs secure
/// memory; a smaller one costs round trips while loading, and a second place for secret parts that no longer fit it.
pub const PAYLOAD: usize = 8 * SPILL_CHUNK;

/// Payload bytes of a reply: one stored chunk. Pieces of outputs and device state need no more, and each frame has a copy
/// inside.
pub const REPLY_PAYLOAD: usize = SPILL_CHUNK;

/// Static data, the first thread's stack, the C library's heap, what it may map for threads, keys, small objects. Measured
/// 0.52 MiB with glibc 2.36; the rest is for other C libraries.
const REST: u64 = 640 * 1024;

/// The process platform. A test of the command compares its fixed part with running enclaves.
pub const PROFILE: Profile = Profile {
    platform: crate::NAME,
    memory: None,
    fixed: SERVICE_STACK as u64 + REST,
    // What `REST` allows for, and a helper's stack.
    fixed_range: 320 * 1024,
    thread: HELPER_STACK as u64,
    // More were not measured, and each costs secure memory for its stack.
    threads: 2,
    max_threads: MAX_THREADS,
    payload: PAYLOAD,
    reply: REPLY_PAYLOAD,
    // One thread with AVX-512 and AES instructions, ciphers in portable Rust.
    speed: Speed {
        flops: 2.1e11,
        moved: 2.5e10,
        copied: 8.0e9,
        step: 1.0e-6,
        transformed: 1.5e10,
        transformed_weights: 4.0e10,
        // What streaming added to whole networks (decision 18), a little less than pieces alone.
        decrypted: 2.8e9,
        load: 2.0e-6,
        // Four copies and a round trip for each chunk. A guess (decision 15).
        spilled: 1.5e9,
    },
};
