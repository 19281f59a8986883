//! The last stage: the weights of one segment after the other, each checked once, kept where there is room inside, and put
//! into the store where there is not.

use alloc::boxed::Box;
use alloc::vec::{self, Vec};

use cordon_protocol::{Code, Part, Refusal, Window};

use crate::model::{Model, Stream, Unfilled};
use crate::platform::Platform;
use crate::refuse;
use crate::sections::{Need, batch, open_chunks};
use crate::store::Brought;
use crate::streamed::CHUNKS_PER_WINDOW;

/// Segments that are ready, the one whose weights come, and the others.
pub(crate) struct WeightStage {
    model: Box<Model>,
    filling: Option<Filling>,
    waiting: vec::IntoIter<Unfilled>,
}

/// A segment whose weights come.
struct Filling {
    segment: Unfilled,
    /// Wiped with the key of the package's chunks once all have come.
    stream: Stream,
    /// First chunk that has not come.
    next: u32,
}

impl WeightStage {
    pub(super) fn new(model: Model, unfilled: Vec<Unfilled>) -> Self {
        Self { model: Box::new(model), filling: None, waiting: unfilled.into_iter() }
    }

    /// The chunks wanted next; `None` when all segments are ready.
    pub(super) fn need(&mut self, limit: usize) -> Result<Option<Need>, Refusal> {
        loop {
            if let Some(Filling { stream, next, segment }) = &self.filling {
                let left = u32::try_from(segment.unloaded.chunks_left()).unwrap_or(u32::MAX);
                let left = if segment.streamed.is_some() { left.min(CHUNKS_PER_WINDOW) } else { left };
                let count = batch(stream.reader.section(), *next, left, limit);
                if count > 0 {
                    let (section, part) = (stream.section, Part::Chunks);
                    return Ok(Some(Need::Section { section, part, first: *next, count }));
                }
            }
            if let Some(Filling { segment, .. }) = self.filling.take() {
                self.model.segments.push(segment.finish()?);
            }
            let Some(mut segment) = self.waiting.next() else { return Ok(None) };
            match segment.stream.take() {
                Some(stream) => self.filling = Some(Filling { segment, stream, next: 0 }),
                None => self.model.segments.push(segment.finish()?),
            }
        }
    }

    /// Where the chunks asked for go, if there is no room for them inside.
    pub(super) fn window(&self, first: u32, count: u32) -> Option<Window> {
        self.filling.as_ref()?.segment.streamed.as_ref()?.window_of_chunks(first, count)
    }

    pub(super) fn take(
        &mut self,
        (first, count): (u32, u32),
        payload: &mut [u8],
        store: Option<Brought<'_>>,
        platform: &impl Platform,
    ) -> Result<(), Refusal> {
        let internal = Refusal::new(Code::Internal);
        let Filling { segment, stream, next } = self.filling.as_mut().ok_or(internal)?;
        let Unfilled { index: of, unloaded, streamed, .. } = segment;
        let workers = platform.compute().workers;
        open_chunks(&stream.reader, (first, count), payload, workers, |index, plain| {
            let accepted = unloaded.accept(index, plain);
            accepted.map_err(|error| refuse::engine(error, *of, platform.memory().available()))
        })?;
        if let Some(streamed) = streamed {
            let missing = Refusal::new(Code::CorruptStore).in_segment(*of);
            let written = streamed.write(&stream.reader, (first, count), payload, store.ok_or(missing)?, workers);
            written.map_err(|refusal| refusal.in_segment(*of))?;
        }
        *next = first.saturating_add(count);
        Ok(())
    }

    pub(super) fn finish(self) -> Box<Model> {
        self.model
    }
}
