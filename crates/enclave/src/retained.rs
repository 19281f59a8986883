//! Values kept inside between the segments of a request.

use alloc::vec::Vec;

use cordon_engine::ValueRef;
use cordon_engine::program::{DType, Port, Via};
use cordon_protocol::{Code, Refusal};
use zeroize::Zeroizing;

use crate::platform::Platform;
use crate::refuse;

/// The values of one request; wiped when it is closed.
#[derive(Default)]
pub(crate) struct Retained(Vec<Kept>);

struct Kept {
    value: u32,
    held: Held,
}

enum Held {
    F32(Zeroizing<Vec<f32>>),
    I64(Zeroizing<Vec<i64>>),
    Bool(Zeroizing<Vec<u8>>),
    U8(Zeroizing<Vec<u8>>),
}

impl Retained {
    /// Takes memory for what the ports of a segment will keep, before it runs.
    pub(crate) fn reserve(&mut self, outputs: &[Port], platform: &impl Platform) -> Result<(), Refusal> {
        for port in outputs.iter().filter(|port| port.via == Via::Retain) {
            let len = port.region.len as usize;
            let held = match port.region.dtype {
                DType::F32 => Held::F32(Zeroizing::new(refuse::reserve(len, platform)?)),
                DType::I64 => Held::I64(Zeroizing::new(refuse::reserve(len, platform)?)),
                DType::Bool => Held::Bool(Zeroizing::new(refuse::reserve(len, platform)?)),
                DType::U8 => Held::U8(Zeroizing::new(refuse::reserve(len, platform)?)),
            };
            self.0.try_reserve(1).map_err(|_| Refusal::new(Code::OutOfMemory))?;
            self.0.push(Kept { value: port.value, held });
        }
        Ok(())
    }

    /// A value that an earlier segment kept.
    pub(crate) fn get(&self, value: u32) -> Result<ValueRef<'_>, Refusal> {
        let kept = self.0.iter().find(|kept| kept.value == value);
        Ok(kept.ok_or(Refusal::new(Code::Internal))?.held.view())
    }

    /// Keeps a value that room was reserved for.
    pub(crate) fn set(&mut self, value: u32, of: ValueRef<'_>) -> Result<(), Refusal> {
        let kept = self.0.iter_mut().find(|kept| kept.value == value);
        kept.ok_or(Refusal::new(Code::Internal))?.held.set(of)
    }
}

impl Held {
    fn view(&self) -> ValueRef<'_> {
        match self {
            Self::F32(v) => ValueRef::F32(v),
            Self::I64(v) => ValueRef::I64(v),
            Self::Bool(v) => ValueRef::Bool(v),
            Self::U8(v) => ValueRef::U8(v),
        }
    }

    /// Fills the room reserved for the value; a longer one would mean that validation failed.
    fn set(&mut self, value: ValueRef<'_>) -> Result<(), Refusal> {
        fn fill<T: Copy>(to: &mut Vec<T>, from: &[T]) -> Result<(), Refusal> {
            if from.len() > to.capacity() {
                return Err(Refusal::new(Code::Internal));
            }
            to.clear();
            to.extend_from_slice(from);
            Ok(())
        }
        match (self, value) {
            (Self::F32(to), ValueRef::F32(from)) => fill(to, from),
            (Self::I64(to), ValueRef::I64(from)) => fill(to, from),
            (Self::Bool(to), ValueRef::Bool(from)) | (Self::U8(to), ValueRef::U8(from)) => fill(to, from),
            _ => Err(Refusal::new(Code::Internal)),
        }
    }
}
