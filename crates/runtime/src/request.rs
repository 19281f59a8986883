//! [`Request`]: the caller's hold on a run that a [`Session`] makes.

use core::mem::replace;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::RuntimeError;
use crate::run::Run;
use crate::session::Session;

/// A run under way: wait for its result on a thread ([`Self::wait`]) or as a future. Dropping it cancels the run.
///
/// A cancelled run stops at the next command to the enclave, or after the normal segment that computes; what it held inside
/// is wiped. So a deadline is a timer that drops this.
#[must_use = "dropping a request cancels it"]
pub struct Request {
    slot: Arc<Slot>,
    session: Session,
}

impl Request {
    /// A run of `session`, and who answers it.
    pub(crate) fn new(session: Session) -> (Self, Caller) {
        let slot = Arc::new(Slot { state: Mutex::new(State::Awaited(None)), arrived: Condvar::new() });
        (Self { slot: slot.clone(), session }, Caller(slot))
    }

    /// Waits for the result.
    ///
    /// # Panics
    ///
    /// When it was polled and ready before.
    pub fn wait(self) -> Result<Run, RuntimeError> {
        let mut state = self.slot.lock();
        loop {
            match replace(&mut *state, State::Left) {
                State::Arrived(result) => return *result,
                State::Left => panic!("a request waited for after it was ready"),
                awaited => *state = awaited,
            }
            state = self.slot.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Request {
    type Output = Result<Run, RuntimeError>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Cloning a waker and dropping the one before run foreign code, which may drop another request: not with the lock held.
        let waker = context.waker().clone();
        let mut state = self.slot.lock();
        match replace(&mut *state, State::Left) {
            State::Arrived(result) => Poll::Ready(*result),
            State::Awaited(before) => {
                *state = State::Awaited(Some(waker));
                drop(state);
                drop(before);
                Poll::Pending
            }
            State::Left => panic!("a request polled after it was ready"),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let before = replace(&mut *self.slot.lock(), State::Left);
        if matches!(before, State::Awaited(_)) {
            self.session.sweep();
        }
    }
}

/// Where the result is handed over.
struct Slot {
    state: Mutex<State>,
    arrived: Condvar,
}

enum State {
    /// By a thread, or by a task to be woken.
    Awaited(Option<Waker>),
    Arrived(Box<Result<Run, RuntimeError>>),
    /// The caller took the result or went without it.
    Left,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a [`Request`] once: with an error if it is dropped without a result, so that nobody waits for a thread that died.
pub(crate) struct Caller(Arc<Slot>);

impl Caller {
    /// Whether the result is still waited for.
    pub(crate) fn waits(&self) -> bool {
        matches!(*self.0.lock(), State::Awaited(_))
    }

    /// Hands the result over, unless nobody waits for it.
    pub(crate) fn answer(&self, result: Result<Run, RuntimeError>) {
        let mut state = self.0.lock();
        let State::Awaited(waker) = &mut *state else { return };
        let waker = waker.take();
        *state = State::Arrived(Box::new(result));
        drop(state);
        self.0.arrived.notify_one();
        // Foreign code: it runs without a lock held.
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.answer(Err(RuntimeError::Stopped));
    }
}
