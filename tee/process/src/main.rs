//! Cordon's enclave as a Linux process: development isolation.
//!
//! The host starts these very bytes from a sealed memory file with an empty environment and two or three descriptors, whose
//! numbers are the arguments: the shared ring, the device's key file and, if weights may have to lie outside, memory
//! for them. The order of what follows is the point:
//!
//! 1. the ring is mapped and the budget read (`ring.rs`), the store is mapped and its descriptor closed (`store.rs`), the
//!    program's own file is hashed (`image.rs`);
//! 2. one region of secret memory is taken, for stacks and heap; nothing is mapped later (`region.rs`);
//! 3. the sandbox closes: no new privileges, no core file, not dumpable, no files, no network (`sandbox.rs`);
//! 4. the service and its helpers start on stacks inside the region (`thread.rs`), and the system-call filter
//!    closes behind all of them;
//! 5. only now the key is read, from its descriptor, into the region (`platform.rs`);
//! 6. commands are served until the host is gone.
//!
//! Each protection is recorded as it was found and reported in `Hello`; a missing one does not stop the start, because
//! this platform protects against no one who is root anyway. What it cannot do without ends the process with an exit code
//! of [`Stage`].

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used, clippy::unreachable)
)]

mod futex;
mod heap;
mod helpers;
mod image;
mod platform;
mod region;
mod ring;
mod sandbox;
mod store;
mod thread;

use cordon_enclave::{Enclave, Store};
use cordon_engine::Pool;
use cordon_process_link::profile::REPLY_PAYLOAD;
use cordon_process_link::stage::{Progress, Stage};
use cordon_protocol::Protection;
use cordon_protocol::frame::area;

use crate::futex::Futexes;
use crate::heap::Heap;
use crate::platform::ProcessPlatform;
use crate::region::Region;
use crate::ring::SharedRing;
use crate::store::SharedStore;

#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap::new();

/// The service's threads. A static, not in the region: futexes cannot lie in secret memory.
static POOL: Pool<Futexes> = Pool::new(Futexes);

/// Ends the process; its exit code and the ring, where there is one, say why.
pub(crate) fn stop(stage: Stage, ring: Option<&SharedRing>) -> ! {
    stop_with(stage, std::io::Error::last_os_error().raw_os_error().unwrap_or(0), ring)
}

fn stop_with(stage: Stage, errno: i32, ring: Option<&SharedRing>) -> ! {
    if let Some(ring) = ring {
        ring.report(Progress::failed(stage, errno));
    }
    std::process::exit(stage.number().into())
}

/// What the service thread needs; made on the main thread, before the filter closes.
struct Start {
    ring: SharedRing,
    region: Region,
    key: i32,
    store: Option<SharedStore>,
    image: [u8; 32],
    protections: Vec<Protection>,
}

fn main() {
    // A panic's text could name anything; it is never printed. `panic = "abort"` ends the process.
    std::panic::set_hook(Box::new(|_| {}));
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<i32>().ok());
    let (Some(Some(ring_fd)), Some(Some(key)), store, None) =
        (arguments.next(), arguments.next(), arguments.next(), arguments.next())
    else {
        stop(Stage::Arguments, None)
    };
    let Some(ring) = SharedRing::map(ring_fd) else { stop(Stage::Ring, None) };
    let store = store.map(|fd| match fd.and_then(SharedStore::map) {
        Some(store) => store,
        None => stop(Stage::Store, Some(&ring)),
    });
    let Some(image) = image::digest() else { stop(Stage::Image, Some(&ring)) };
    let mut protections = sandbox::before_memory(ring_fd, key);
    let region = match Region::take(ring.budget(), ring.threads() - 1, &mut protections) {
        Ok(region) => region,
        Err(errno) => stop_with(Stage::Region, errno, Some(&ring)),
    };
    HEAP.use_region(region.heap());
    sandbox::close(&mut protections);
    if !region.helper_stacks().all(|stack| thread::start(stack, help, &POOL)) {
        stop(Stage::Thread, Some(&ring))
    }
    let stack = region.stack();
    let start = Start { ring, region, key, store, image, protections };
    if !thread::start(stack, serve, start) {
        std::process::exit(Stage::Thread.number().into())
    }
    thread::park()
}

/// A helper's life.
fn help(pool: &Pool<Futexes>) -> ! {
    helpers::enter();
    pool.help()
}

/// The service thread: closes the filter, reads the key, serves.
fn serve(start: Start) -> ! {
    let Start { ring, region, key, store, image, mut protections } = start;
    thread::wait_for_main_thread();
    POOL.wait_for_helpers(ring.threads() - 1);
    if !sandbox::filter(key, &mut protections) {
        stop(Stage::Filter, Some(&ring))
    }
    let platform = match ProcessPlatform::new(key, store.is_some(), image, region, ring.payload_limit(), protections) {
        Some(platform) => platform,
        None => stop(Stage::Key, Some(&ring)),
    };
    let mut enclave = Enclave::new(platform);
    // Taken once, and before any model, so that serving never allocates a frame.
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    let reserved = request.try_reserve_exact(area(ring.payload_limit()));
    if reserved.and_then(|()| reply.try_reserve_exact(area(REPLY_PAYLOAD))).is_err() {
        stop(Stage::Region, Some(&ring))
    }
    ring.report(Progress::Ready);
    loop {
        let Some(number) = ring.wait() else { stop(Stage::HostGone, None) };
        if ring.take_request(&mut request).is_err() {
            stop(Stage::Ring, Some(&ring))
        }
        let part = store.as_ref().zip(enclave.window()).map(|(store, window)| store.window(window));
        enclave.handle(&mut request, &mut reply, part.as_ref().map(|part| part as &dyn Store));
        if ring.post_reply(number, &reply).is_none() {
            stop(Stage::Ring, Some(&ring))
        }
        // A chunk was decrypted where it lay: nothing of it may stay behind a shorter frame.
        request.fill(0);
        reply.fill(0);
        core::hint::black_box((&mut request, &mut reply));
    }
}
