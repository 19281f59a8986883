//! The door: what may leave, and the only buffer through which it does.

use alloc::vec::Vec;

use cordon_engine::ValueRef;
use cordon_package::{Manifest, OutputPolicies, OutputPolicy};
use cordon_protocol::{Code, Form, Payload, Refusal, Reply};

use crate::mode::Clear;
use crate::policy::Released;

/// Permission for one value of one segment to leave. Made from a manifest of a verified package, and in no other way.
#[derive(Clone, Copy)]
pub(crate) struct Crossing {
    value: u32,
    /// Only what the output policy releases of it may leave.
    governed: bool,
}

impl Crossing {
    /// The crossings out of a secure segment.
    pub(crate) fn of_segment(
        manifest: &Manifest,
        segment: usize,
        policies: &OutputPolicies,
    ) -> Result<Vec<Crossing>, Refusal> {
        let info = manifest.segments.get(segment).ok_or(Refusal::new(Code::Internal))?;
        let governed =
            |value: &u32| manifest.output_index(*value).is_some_and(|index| policies.of(index) != OutputPolicy::Full);
        // What a segment takes from the normal world, whatever its placement, would leave as it is.
        let read_outside = |value: &u32| manifest.segments.iter().any(|segment| segment.inputs.contains(value));
        if let Some(value) = info.outputs.iter().find(|value| governed(value) && read_outside(value)) {
            return Err(Refusal::new(Code::PolicyImpossible).about(*value));
        }
        Ok(info.outputs.iter().map(|value| Crossing { value: *value, governed: governed(value) }).collect())
    }

    pub(crate) fn value(&self) -> u32 {
        self.value
    }

    pub(crate) fn is_governed(&self) -> bool {
        self.governed
    }
}

/// A reply frame that carries a piece of a value out.
pub(crate) struct Outbound<'a> {
    crossing: &'a Crossing,
    frame: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Outbound<'a> {
    /// Opens the door for `crossing`, `limit` bytes wide. What passes is in clear, so only a request that was begun so has
    /// the key.
    pub(crate) fn new(crossing: &'a Crossing, _: Clear, frame: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { crossing, frame, limit }
    }

    /// Sends the piece from byte `start` on; returns where the next one starts, and how long the whole is. A governed value
    /// cannot be sent like this.
    pub(crate) fn send_value(self, value: ValueRef<'_>, start: u64) -> Result<(u64, u64), Refusal> {
        if self.crossing.governed {
            return Err(Refusal::new(Code::Internal));
        }
        let size = value.dtype().bytes() as usize;
        let skip = usize::try_from(start / size as u64).map_err(|_| Refusal::new(Code::Internal))?;
        let count = (self.limit / size).min(value.len().saturating_sub(skip));
        let total = value.len() as u64 * size as u64;
        let frame = self.begin(Form::Tensor, start, total);
        append(frame, value, skip * size, count * size);
        Ok((start + count as u64 * size as u64, total))
    }

    /// Sends a piece of what the output policy released.
    pub(crate) fn send_released(self, released: &Released, start: u64) -> Result<(u64, u64), Refusal> {
        let bytes = released.bytes();
        let piece = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
        let piece = piece.ok_or(Refusal::new(Code::Internal))?;
        let count = self.limit.min(piece.len());
        let total = bytes.len() as u64;
        let frame = self.begin(released.form(), start, total);
        frame.extend_from_slice(piece.get(..count).unwrap_or(piece));
        Ok((start + count as u64, total))
    }

    fn begin(self, form: Form, start: u64, total: u64) -> &'a mut Vec<u8> {
        let value = self.crossing.value;
        Reply::Output { value, form, start, total, payload: Payload::Clear }.encode(self.frame);
        self.frame
    }
}

/// Appends the bytes of a value from byte `start` on, at most `limit`: both in whole elements.
pub(crate) fn append(frame: &mut Vec<u8>, value: ValueRef<'_>, start: usize, limit: usize) {
    fn convert<T: Copy, const N: usize>(frame: &mut Vec<u8>, v: &[T], range: [usize; 2], bytes: fn(T) -> [u8; N]) {
        let from = v.get(range[0] / N..).unwrap_or_default();
        let from = from.get(..range[1] / N).unwrap_or(from);
        let head = frame.len();
        frame.resize(head.saturating_add(from.len() * N), 0);
        let to = frame.get_mut(head..).unwrap_or_default().as_chunks_mut::<N>().0;
        to.iter_mut().zip(from).for_each(|(to, from)| *to = bytes(*from));
    }
    match value {
        ValueRef::F32(v) => convert(frame, v, [start, limit], f32::to_le_bytes),
        ValueRef::I64(v) => convert(frame, v, [start, limit], i64::to_le_bytes),
        ValueRef::Bool(v) | ValueRef::U8(v) => convert(frame, v, [start, limit], u8::to_le_bytes),
    }
}
