//! The secret part of a secure segment: Programs, weight table, names, labels. Opaque here; the engine reads the rest.

use alloc::vec::Vec;
use core::fmt;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::limits::{MAX_NAMES, MAX_PROGRAMS, MAX_SECRET_BYTES, MAX_STRING_BYTES};

/// What a Program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramKind {
    /// A forward pass. Training is reserved.
    Inference,
}

/// One Program and what to choose it by.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedProgram<'a> {
    /// What it is for.
    pub kind: ProgramKind,
    /// The batch it was compiled for.
    pub batch: u32,
    /// Least secure memory it needs.
    pub minimum_peak: u64,
    /// The engine's encoding.
    pub bytes: &'a [u8],
}

/// Content of a `SegmentSecret` section. Borrows the decrypted bytes, so that they lie in secure memory once.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentSecret<'a> {
    /// At least one.
    pub programs: Vec<SealedProgram<'a>>,
    /// The engine's encoding of the weight table all Programs share.
    pub weight_table: &'a [u8],
    /// Names of the nodes, for messages to the owner.
    pub names: Vec<&'a str>,
    /// Class labels, on the segment that makes the model's output; empty elsewhere.
    pub labels: Vec<&'a str>,
}

/// Counts only: the content is what the section keeps secret.
impl fmt::Debug for SegmentSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { programs, weight_table: _, names, labels } = self;
        let (programs, names, labels) = (programs.len(), names.len(), labels.len());
        write!(f, "SegmentSecret {{ programs: {programs}, names: {names}, labels: {labels}, .. }}")
    }
}

impl<'a> SegmentSecret<'a> {
    /// The section's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, PackageError> {
        let mut w = Writer::new();
        w.list(self.programs.iter(), |w, program| {
            w.u8(match program.kind {
                ProgramKind::Inference => 1,
            });
            w.u32(program.batch).u64(program.minimum_peak).bytes(program.bytes);
        });
        w.bytes(self.weight_table);
        for list in [&self.names, &self.labels] {
            w.list(list.iter(), |w, text| {
                w.string(text);
            });
        }
        let bytes = w.finish();
        // One check for every limit: what this crate would not read, it does not write.
        SegmentSecret::decode(&bytes)?;
        Ok(bytes)
    }

    /// Reads the section's bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PackageError> {
        let max = u32::try_from(MAX_SECRET_BYTES).unwrap_or(u32::MAX);
        if u64::try_from(bytes.len()).is_ok_and(|n| n > MAX_SECRET_BYTES) {
            return Err(DecodeError::TooLong("secret part").into());
        }
        let mut r = Reader::new(bytes);
        let programs: Vec<_> = r.list(17, MAX_PROGRAMS, "programs", |r| {
            Ok::<_, PackageError>(SealedProgram {
                kind: match r.u8("program kind")? {
                    1 => ProgramKind::Inference,
                    _ => return Err(PackageError::Unsupported("a kind of Program")),
                },
                batch: r.u32("program batch")?,
                minimum_peak: r.u64("program peak")?,
                bytes: r.bytes(max, "program")?,
            })
        })?;
        if programs.is_empty() {
            return Err(DecodeError::Invalid("programs").into());
        }
        let weight_table = r.bytes(max, "weight table")?;
        let names = texts(&mut r, "names")?;
        let labels = texts(&mut r, "labels")?;
        r.finish()?;
        Ok(Self { programs, weight_table, names, labels })
    }
}

fn texts<'a>(r: &mut Reader<'a>, what: &'static str) -> Result<Vec<&'a str>, DecodeError> {
    r.list(4, MAX_NAMES, what, |r| {
        core::str::from_utf8(r.bytes(MAX_STRING_BYTES, what)?).map_err(|_| DecodeError::Invalid(what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn secret() -> SegmentSecret<'static> {
        let program =
            SealedProgram { kind: ProgramKind::Inference, batch: 1, minimum_peak: 9, bytes: b"opaque program" };
        SegmentSecret { programs: vec![program], weight_table: b"table", names: vec!["conv1"], labels: vec!["0", "1"] }
    }

    #[test]
    fn round_trip_and_truncation() {
        let bytes = secret().encode().expect("valid");
        assert_eq!(SegmentSecret::decode(&bytes), Ok(secret()));
        for end in 0..bytes.len() {
            assert!(SegmentSecret::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn debug_output_holds_no_content() {
        let text = alloc::format!("{:?}", secret());
        assert_eq!(text, "SegmentSecret { programs: 1, names: 1, labels: 2, .. }");
    }

    #[test]
    fn limits_hold_when_writing() {
        assert!(SegmentSecret { programs: vec![], ..secret() }.encode().is_err());
        let many = SegmentSecret { programs: vec![secret().programs[0].clone(); 17], ..secret() };
        assert_eq!(many.encode().map_err(|e| e.class()), Err("limit"));
    }
}
