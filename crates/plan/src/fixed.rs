//! What a process enclave needs whatever the model.

/// The service's stack.
const SERVICE_STACK: u64 = 256 << 10;
/// A helper's stack with its guard.
const HELPER_STACK: u64 = 64 << 10;
/// Static data, the first thread's stack, the C library's heap, what it may map for threads, keys, small objects. Measured
/// 0.52 MiB with glibc 2.36; the rest is for other C libraries.
const REST: u64 = 640 << 10;
/// A frame's head, at most.
const HEAD: u64 = 4100;

/// Threads that predictions are made for. One more costs [`HELPER_STACK`].
const THREADS: u64 = 2;
/// Payload bytes of a request to the process backend: eight stored chunks.
const PAYLOAD: u64 = 8 * REPLY_PAYLOAD;
/// Content of a section that comes in one frame, labels and names besides.
pub(crate) const FRAME_CONTENT: u64 = 7 << 16;
/// Payload bytes of a reply.
const REPLY_PAYLOAD: u64 = 65_552;

/// Secure memory of an enclave before it loads anything, at most: stacks of so many threads, the frames for requests
/// with so many payload bytes and for replies, and a rest that is the same everywhere. A test of the command compares it with a running enclave.
pub const fn fixed_bytes(threads: u64, payload: u64) -> u64 {
    let frames = (payload + HEAD).next_multiple_of(4096) + (REPLY_PAYLOAD + HEAD).next_multiple_of(4096);
    SERVICE_STACK + threads.saturating_sub(1) * HELPER_STACK + frames + REST
}

/// [`fixed_bytes`] of the process backend with so many threads.
pub(crate) const fn process_bytes(threads: u64) -> u64 {
    fixed_bytes(threads, PAYLOAD)
}

/// [`fixed_bytes`] of what the process backend does unless it is told otherwise.
pub const FIXED_BYTES: u64 = process_bytes(THREADS);
