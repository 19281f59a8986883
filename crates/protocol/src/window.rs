//! The part of the store that a command brings.

use cordon_codec::{DecodeError, Reader};

use crate::STORE_WINDOW;

/// A stretch of the store that the enclave may look at and change while it handles one command: the one that the reply
/// before named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First byte, a multiple of 8.
    pub offset: u64,
    /// Bytes, 1 to [`STORE_WINDOW`].
    pub len: u32,
}

/// Bytes of a window at the beginning of a reply's head.
pub(crate) const WINDOW_BYTES: usize = 8 + 4;

impl Window {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }

    /// All zeros stand for no window.
    pub(crate) fn encode(window: Option<Self>) -> [u8; WINDOW_BYTES] {
        let Self { offset, len } = window.unwrap_or(Self { offset: 0, len: 0 });
        let mut bytes = [0; WINDOW_BYTES];
        let fields = offset.to_le_bytes().into_iter().chain(len.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let window = Self { offset: r.u64("window")?, len: r.u32("window")? };
        match window {
            Self { offset: 0, len: 0 } => Ok(None),
            Self { offset, len } if len > 0 && len as usize <= STORE_WINDOW && offset.is_multiple_of(8) => {
                Ok(Some(window))
            }
            _ => Err(DecodeError::Invalid("window")),
        }
    }
}
