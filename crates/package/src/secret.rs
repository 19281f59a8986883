//! The secret part of a secure segment: Programs, weight table, names, labels. Opaque here; the engine reads the rest.

use alloc::vec::Vec;
use core::fmt;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::extensions;
use crate::format::Format;
use crate::limits::{MAX_NAMES, MAX_PROGRAMS, MAX_SECRET_BYTES, MAX_STRING_BYTES, MAX_VALUES};
use crate::manifest::Manifest;

/// What a Program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The manifest's shape variant it was compiled for.
    pub variant: u8,
    /// The batch it was compiled for.
    pub batch: u32,
    /// Least secure memory it needs.
    pub minimum_peak: u64,
    /// The engine's encoding.
    pub bytes: &'a [u8],
}

/// Class labels of one output of the model.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels<'a> {
    /// Its place among the model's outputs.
    pub output: u32,
    /// One for each class, at least one.
    pub words: Vec<&'a str>,
}

/// Content of a `SegmentSecret` section. Borrows the decrypted bytes, so that they lie in secure memory once.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentSecret<'a> {
    /// By kind, then variant; each once, and for inference every variant.
    pub programs: Vec<SealedProgram<'a>>,
    /// The engine's encoding of the weight table all Programs share.
    pub weight_table: &'a [u8],
    /// Names of the nodes, for messages to the owner.
    pub names: Vec<&'a str>,
    /// Of outputs this segment makes, ascending.
    pub labels: Vec<Labels<'a>>,
}

/// Counts only: the content is what the section keeps secret.
impl fmt::Debug for SegmentSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { programs, weight_table: _, names, labels } = self;
        let (programs, names) = (programs.len(), names.len());
        let labels = labels.iter().fold(0usize, |sum, labels| sum.saturating_add(labels.words.len()));
        write!(f, "SegmentSecret {{ programs: {programs}, names: {names}, labels: {labels}, .. }}")
    }
}

impl<'a> SegmentSecret<'a> {
    /// The section's bytes, in the format that is written.
    pub fn encode(&self) -> Result<Vec<u8>, PackageError> {
        let mut w = Writer::new();
        w.list(self.programs.iter(), |w, program| {
            w.u8(match program.kind {
                ProgramKind::Inference => 1,
            });
            w.u8(program.variant).u32(program.batch).u64(program.minimum_peak).bytes(program.bytes);
        });
        w.bytes(self.weight_table);
        write_texts(&mut w, &self.names);
        w.list(self.labels.iter(), |w, labels| {
            w.u32(labels.output);
            write_texts(w, &labels.words);
        });
        extensions::write_none(&mut w);
        let bytes = w.finish();
        // One check for every limit: what this crate would not read, it does not write.
        SegmentSecret::decode(&bytes, Format::WRITTEN)?;
        Ok(bytes)
    }

    /// Reads the section's bytes. [`Self::check`] compares them with the manifest.
    pub fn decode(bytes: &'a [u8], format: Format) -> Result<Self, PackageError> {
        let max = u32::try_from(MAX_SECRET_BYTES).unwrap_or(u32::MAX);
        if u64::try_from(bytes.len()).is_ok_and(|n| n > MAX_SECRET_BYTES) {
            return Err(DecodeError::TooLong("secret part").into());
        }
        let mut r = Reader::new(bytes);
        let programs: Vec<SealedProgram<'_>> = r.list(17, MAX_PROGRAMS, "programs", |r| {
            Ok::<_, PackageError>(SealedProgram {
                kind: match r.u8("program kind")? {
                    1 => ProgramKind::Inference,
                    _ => return Err(PackageError::Unsupported("a kind of Program")),
                },
                variant: if format == Format::V1 { 0 } else { r.u8("program variant")? },
                batch: r.u32("program batch")?,
                minimum_peak: r.u64("program peak")?,
                bytes: r.bytes(max, "program")?,
            })
        })?;
        if programs.is_empty() {
            return Err(DecodeError::Invalid("programs").into());
        }
        let key = |program: &SealedProgram<'_>| (program.kind, program.variant);
        if format != Format::V1 && !programs.is_sorted_by(|a, b| key(a) < key(b)) {
            return Err(DecodeError::Invalid("order of programs").into());
        }
        let weight_table = r.bytes(max, "weight table")?;
        let names = read_texts(&mut r, MAX_NAMES, "names")?;
        let labels = read_labels(&mut r, format)?;
        extensions::skip(&mut r, format)?;
        r.finish()?;
        Ok(Self { programs, weight_table, names, labels })
    }

    /// Rules between the secret part of `segment` and the manifest: there is a Program for inference of every variant and of
    /// no other, and labels are of outputs that the segment makes.
    pub fn check(&self, manifest: &Manifest, segment: u16) -> Result<(), PackageError> {
        let variants = manifest.variants();
        let of = |variant| {
            self.programs.iter().any(|program| program.kind == ProgramKind::Inference && program.variant == variant)
        };
        if self.programs.iter().any(|program| program.variant >= variants) || !(0..variants).all(of) {
            return Err(DecodeError::Invalid("program variants").into());
        }
        let made = manifest.segments.get(usize::from(segment)).map_or(&[][..], |info| &info.outputs);
        let output = |labels: &Labels<'_>| {
            let index = usize::try_from(labels.output).ok()?;
            manifest.outputs.get(index).map(|output| output.value)
        };
        if !self.labels.iter().all(|labels| output(labels).is_some_and(|value| made.contains(&value))) {
            return Err(DecodeError::Invalid("labels").into());
        }
        Ok(())
    }
}

/// Labels of all outputs together are as few as those of one may be.
fn read_labels<'a>(r: &mut Reader<'a>, format: Format) -> Result<Vec<Labels<'a>>, PackageError> {
    if format == Format::V1 {
        let words = read_texts(r, MAX_NAMES, "labels")?;
        return Ok(if words.is_empty() { Vec::new() } else { [Labels { output: 0, words }].into() });
    }
    let mut room = MAX_NAMES;
    let labels: Vec<Labels<'_>> = r.list(8, MAX_VALUES, "labels", |r| {
        let output = r.u32("labels")?;
        let words = read_texts(r, room, "labels")?;
        room = room.saturating_sub(u32::try_from(words.len()).unwrap_or(u32::MAX));
        if words.is_empty() { Err(DecodeError::Invalid("labels")) } else { Ok(Labels { output, words }) }
    })?;
    if !labels.is_sorted_by(|a, b| a.output < b.output) {
        return Err(DecodeError::Invalid("order of labels").into());
    }
    Ok(labels)
}

fn read_texts<'a>(r: &mut Reader<'a>, max: u32, what: &'static str) -> Result<Vec<&'a str>, DecodeError> {
    r.list(4, max, what, |r| {
        core::str::from_utf8(r.bytes(MAX_STRING_BYTES, what)?).map_err(|_| DecodeError::Invalid(what))
    })
}

fn write_texts(w: &mut Writer, texts: &[&str]) {
    w.list(texts.iter(), |w, text| {
        w.string(text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn secret() -> SegmentSecret<'static> {
        let (kind, bytes) = (ProgramKind::Inference, b"opaque program");
        let program = SealedProgram { kind, variant: 0, batch: 1, minimum_peak: 9, bytes };
        let labels = vec![Labels { output: 0, words: vec!["0", "1"] }];
        SegmentSecret { programs: vec![program], weight_table: b"table", names: vec!["conv1"], labels }
    }

    fn refusal(change: impl FnOnce(&mut SegmentSecret<'_>)) -> Option<&'static str> {
        let mut secret = secret();
        change(&mut secret);
        secret.encode().err().map(|e| e.class())
    }

    #[test]
    fn round_trip_and_truncation() {
        let bytes = secret().encode().expect("valid");
        assert_eq!(SegmentSecret::decode(&bytes, Format::V2), Ok(secret()));
        for end in 0..bytes.len() {
            assert!(SegmentSecret::decode(&bytes[..end], Format::V2).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn debug_output_holds_no_content() {
        let text = alloc::format!("{:?}", secret());
        assert_eq!(text, "SegmentSecret { programs: 1, names: 1, labels: 2, .. }");
    }

    #[test]
    fn limits_hold_when_writing() {
        assert_eq!(refusal(|s| s.programs.clear()), Some("malformed"));
        let programs = |count| {
            refusal(|s| {
                s.programs = (0..count).map(|variant| SealedProgram { variant, ..s.programs[0].clone() }).collect();
            })
        };
        assert_eq!((programs(16), programs(17)), (None, Some("limit")));
        let words = |count| refusal(|s| s.labels[0].words = vec![""; count]);
        assert_eq!((words(MAX_NAMES as usize), words(MAX_NAMES as usize + 1)), (None, Some("limit")));
        let both = refusal(|s| s.labels.push(Labels { output: 1, words: vec![""; MAX_NAMES as usize - 1] }));
        assert_eq!(both, Some("limit"), "of all outputs together");
    }

    #[test]
    fn lists_ascend_and_hold_nothing_twice() {
        assert_eq!(refusal(|s| s.programs.push(s.programs[0].clone())), Some("malformed"));
        assert_eq!(refusal(|s| s.labels.push(s.labels[0].clone())), Some("malformed"));
        assert_eq!(refusal(|s| s.labels[0].words.clear()), Some("malformed"));
    }
}
