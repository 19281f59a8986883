//! Threads whose stacks lie in the region.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::futex;

/// A thread's stack, inside the region and used by nothing else.
pub(crate) struct Stack {
    pub(crate) base: NonNull<u8>,
    pub(crate) len: usize,
}

/// Runs `job`, which never returns, on a new thread on this stack; false if it could not start.
pub(crate) fn start<T: Send>(stack: Stack, job: fn(T) -> !, argument: T) -> bool {
    struct Call<T> {
        job: fn(T) -> !,
        argument: T,
    }
    extern "C" fn enter<T>(call: *mut c_void) -> *mut c_void {
        // SAFETY: the pointer comes from `Box::into_raw` below and is taken back once.
        let call = unsafe { Box::from_raw(call.cast::<Call<T>>()) };
        (call.job)(call.argument)
    }
    let call = Box::into_raw(Box::new(Call { job, argument })).cast::<c_void>();
    // SAFETY: the attributes are initialised before use; the stack is page-aligned memory of this length that nothing else
    // uses; `enter` takes `call` over.
    unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        let mut thread: libc::pthread_t = core::mem::zeroed();
        libc::pthread_attr_init(&mut attributes) == 0
            && libc::pthread_attr_setstack(&mut attributes, stack.base.as_ptr().cast(), stack.len) == 0
            && libc::pthread_create(&mut thread, &attributes, enter::<T>, call) == 0
    }
}

/// 1 once the main thread does nothing but sleep.
static PARKED: AtomicU32 = AtomicU32::new(0);

/// Puts the main thread to rest for good. Joining would wait on a word of the other thread's own memory, which the kernel
/// refuses for secret memory (EFAULT, on which the C library aborts); the service ends the process itself.
pub(crate) fn park() -> ! {
    PARKED.store(1, Ordering::Release);
    loop {
        futex::wake(&PARKED, 1);
        futex::wait(&PARKED, 1, None);
    }
}

/// Waits until the main thread sleeps.
pub(crate) fn wait_for_main_thread() {
    while PARKED.load(Ordering::Acquire) == 0 {
        futex::wait(&PARKED, 0, None);
    }
}
