//! A ranked output: what the policies `top` and `label` let out of an output.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};

/// Most bytes of a label in a [`Ranked`] output.
const MAX_LABEL_BYTES: u32 = 1024;

/// What a `top:K` or `label` policy lets out: for each row of the output (every index but the class axis, in row-major
/// order) the best classes, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// One list for each row.
    pub rows: Vec<Vec<Entry>>,
}

/// One class of a [`Ranked`] row.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Index along the class axis.
    pub class: u32,
    /// Rounded score; none under `label`.
    pub score: Option<f32>,
    /// The class's label, where the package has a label map.
    pub label: Option<String>,
}

impl Ranked {
    /// The bytes of an output of [`Form::Ranked`](crate::Form::Ranked).
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.list(self.rows.iter(), |w, row| {
            w.list(row.iter(), |w, entry| {
                w.u32(entry.class);
                w.option(entry.score, |w, v| {
                    w.f32(v);
                });
                w.option(entry.label.as_deref(), |w, v| {
                    w.string(v);
                });
            });
        });
        w.finish()
    }

    /// Reads the bytes of an output of [`Form::Ranked`](crate::Form::Ranked).
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let rows = r.list(4, u32::MAX, "rows", |r| {
            r.list(6, u32::MAX, "entries", |r| {
                Ok::<_, DecodeError>(Entry {
                    class: r.u32("class")?,
                    score: r.option("score", |r| r.f32("score"))?,
                    label: r.option("label", |r| r.string(MAX_LABEL_BYTES, "label"))?,
                })
            })
        })?;
        r.finish()?;
        Ok(Self { rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranked_round_trip() {
        let ranked = Ranked {
            rows: alloc::vec![
                alloc::vec![Entry { class: 3, score: Some(0.75), label: Some("three".into()) }],
                alloc::vec![Entry { class: 0, score: None, label: None }],
            ],
        };
        let bytes = ranked.encode();
        assert_eq!(Ranked::decode(&bytes), Ok(ranked));
        assert!(Ranked::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
