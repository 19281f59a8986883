//! Requests: an id issued inside, every secure segment once and in order, values kept between them, and nothing after a
//! mistake. One segment runs at a time; it brings in exactly what its Program asks for.

use alloc::boxed::Box;
use alloc::vec::Vec;

use cordon_protocol::{Code, MAX_OPEN_REQUESTS, Refusal, Supply, Window};

use crate::mode::Mode;
use crate::model::Model;
use crate::platform::Platform;
use crate::refuse;
use crate::retained::Retained;
use crate::run::Run;
use crate::spill::Spiller;
use crate::store::Brought;
use crate::wait::{Supplied, Wait};

/// A loaded model and its open requests.
pub(crate) struct Ready {
    pub(crate) model: Box<Model>,
    requests: Vec<Request>,
    active: Option<Active>,
}

struct Request {
    id: u64,
    mode: Mode,
    /// Secure segments started so far.
    next: usize,
    retained: Retained,
}

/// The segment that runs.
struct Active {
    request: u64,
    /// Index into the model's secure segments.
    at: usize,
    /// Where the Program spills.
    spiller: Option<Spiller>,
    /// Stored bytes of weights read back.
    read: u64,
    /// What the next `Step` must bring.
    wait: Wait,
    /// What it must bring of the store.
    window: Option<Window>,
}

impl Ready {
    pub(crate) fn new(model: Box<Model>) -> Self {
        Self { model, requests: Vec::new(), active: None }
    }

    /// The window of the store that the next command must bring.
    pub(crate) fn window(&self) -> Option<Window> {
        self.active.as_ref().and_then(|active| active.window)
    }

    /// Opens a request, if the package allows another; says how many it allows after this one.
    pub(crate) fn begin(&mut self, mode: Mode, platform: &mut impl Platform) -> Result<(u64, Option<u64>), Refusal> {
        if self.requests.len() >= MAX_OPEN_REQUESTS {
            return Err(Refusal::new(Code::Busy));
        }
        // Loading checked it, too; but a host may keep a package loaded for as long as it likes.
        if platform.now().zip(self.model.not_after).is_some_and(|(now, last)| now > last) {
            return Err(Refusal::new(Code::Expired));
        }
        let mut id = [0; 8];
        platform.random(&mut id).map_err(refuse::platform)?;
        let id = u64::from_le_bytes(id);
        if self.requests.iter().any(|request| request.id == id) {
            return Err(Refusal::new(Code::Platform));
        }
        self.requests.try_reserve(1).map_err(|_| Refusal::new(Code::OutOfMemory))?;
        let mut left = None;
        if let Some(max) = self.model.max_requests {
            let used = platform.counter(&self.model.request_counter);
            if used >= max {
                return Err(Refusal::new(Code::RequestLimit).amounts(used.saturating_add(1), max));
            }
            platform.raise(&self.model.request_counter, used.saturating_add(1)).map_err(refuse::platform)?;
            left = Some(max.saturating_sub(used).saturating_sub(1));
        }
        self.requests.push(Request { id, mode, next: 0, retained: Retained::default() });
        Ok((id, left))
    }

    /// Starts the request's next segment.
    pub(crate) fn run(
        &mut self,
        id: u64,
        segment: u32,
        platform: &mut impl Platform,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let request = self.requests.iter_mut().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let at = request.next;
        let next = self.model.segments.get(at).filter(|next| next.index == segment && self.active.is_none());
        let next = next.ok_or(Refusal::new(Code::OutOfOrder).in_segment(segment))?;
        request.retained.reserve(next.prepared.outputs(), &*platform)?;
        let spills = next.prepared.spill_chunks() > 0;
        let spiller = spills.then(|| Spiller::new(id, segment, platform)).transpose()?;
        request.next += 1;
        self.active = Some(Active { request: id, at, spiller, read: 0, wait: Wait::Turn, window: None });
        self.step(id, (Supply::Nothing, &mut []), None, platform, out)
    }

    /// Takes what the running segment asked for and goes on until it needs the normal world again.
    pub(crate) fn step(
        &mut self,
        id: u64,
        (supply, payload): (Supply, &mut [u8]),
        store: Option<Brought<'_>>,
        platform: &impl Platform,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let request = self.requests.iter_mut().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let active = self.active.as_mut().filter(|active| active.request == id);
        let active = active.ok_or(Refusal::new(Code::OutOfOrder))?;
        let Model { segments, policy, .. } = &mut *self.model;
        let segment = segments.get_mut(active.at).ok_or(Refusal::new(Code::Internal))?;
        let supplied = Supplied::admit(request.mode, supply, payload)?;
        let wait = core::mem::replace(&mut active.wait, Wait::Turn);
        let mut run = Run {
            segment,
            mode: request.mode,
            policy: policy.as_ref(),
            retained: &mut request.retained,
            spiller: active.spiller.as_ref(),
            read: &mut active.read,
            store,
            platform,
        };
        match wait.take(supplied, &mut run, out)? {
            Some(wait) => {
                active.window = if wait.goes_on() { segment.window() } else { None };
                active.wait = wait;
            }
            None => {
                segment.prepared.reset();
                self.active = None;
            }
        }
        Ok(())
    }

    /// Closes a request all of whose segments ran.
    pub(crate) fn end(&mut self, id: u64) -> Result<(), Refusal> {
        let request = self.requests.iter().find(|request| request.id == id);
        let request = request.ok_or(Refusal::new(Code::UnknownRequest))?;
        let running = self.active.as_ref().is_some_and(|active| active.request == id);
        if running || request.next < self.model.segments.len() {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        self.close(id);
        Ok(())
    }

    /// Drops a request in any state; false when there is none of this id.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        if let Some(active) = self.active.take_if(|active| active.request == id)
            && let Some(segment) = self.model.segments.get_mut(active.at)
        {
            segment.prepared.reset();
        }
        let before = self.requests.len();
        self.requests.retain(|request| request.id != id);
        self.requests.len() < before
    }
}
