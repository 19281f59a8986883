//! Extensions: fields that a later version adds at the end of a structure. This version knows none. It skips those that a
//! reader may do without, and refuses the others; what is skipped is covered by signature or digest all the same.

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::format::Format;
use crate::limits::{MAX_EXTENSION_BYTES, MAX_EXTENSIONS};

/// Tags with this bit must be understood.
const CRITICAL: u16 = 0x8000;
/// Tag and length.
const OVERHEAD: usize = 2 + 4;

/// Reads the extensions of a structure, which has some from format 2 on.
pub(crate) fn skip(r: &mut Reader<'_>, format: Format) -> Result<(), PackageError> {
    if format == Format::V1 {
        return Ok(());
    }
    let mut last = None;
    for _ in 0..r.count(OVERHEAD, MAX_EXTENSIONS, "extensions")? {
        let tag = r.u16("extension tag")?;
        if last.is_some_and(|last| tag <= last) {
            return Err(DecodeError::Invalid("order of extensions").into());
        }
        last = Some(tag);
        r.bytes(MAX_EXTENSION_BYTES, "extension")?;
        if tag & CRITICAL != 0 {
            return Err(PackageError::Unsupported("a critical extension"));
        }
    }
    Ok(())
}

/// Writes that there are none.
pub(crate) fn write_none(w: &mut Writer) {
    w.count(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn class(tags: &[u16], bytes: usize) -> Result<(), &'static str> {
        let mut w = Writer::new();
        w.list(tags.iter(), |w, tag| {
            w.u16(*tag).bytes(&alloc::vec![7; bytes]);
        });
        let encoded: Vec<u8> = w.finish();
        let mut r = Reader::new(&encoded);
        skip(&mut r, Format::V2).and_then(|()| Ok(r.finish()?)).map_err(|e| e.class())
    }

    #[test]
    fn what_may_be_skipped_is_and_nothing_else() {
        assert_eq!(class(&[], 0), Ok(()));
        assert_eq!(class(&[0, 1, 0x7fff], 3), Ok(()));
        assert_eq!(class(&[1, 0x8000], 3), Err("unsupported"));
        assert_eq!(class(&[2, 1], 3), Err("malformed"));
        assert_eq!(class(&[1, 1], 3), Err("malformed"));
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let tags: Vec<u16> = (0..=64).collect();
        assert_eq!(class(&tags[..64], 0), Ok(()));
        assert_eq!(class(&tags, 0), Err("limit"));
        assert_eq!(class(&[1], 65_536), Ok(()));
        assert_eq!(class(&[1], 65_537), Err("limit"));
    }

    #[test]
    fn format_1_has_none() {
        let mut r = Reader::new(&[1, 2, 3]);
        assert_eq!(skip(&mut r, Format::V1), Ok(()));
        assert_eq!(r.remaining(), 3);
    }
}
