//! Replies: enclave to normal world.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::command::{Part, Payload};
use crate::evidence::EvidenceKind;
use crate::frame;
use crate::memory::MemoryUse;
use crate::protection::{PROTECTION_BYTES, Protection};
use crate::refusal::Refusal;
use crate::window::Window;

/// Most bytes of a name in a [`Greeting`].
const MAX_NAME_BYTES: u32 = 64;
/// Most protections in a [`Greeting`].
const MAX_PROTECTIONS: u32 = 64;
/// What an enclave says about itself before anything else. Claims, not evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The protocol version both sides now speak.
    pub version: u16,
    /// The platform's word.
    pub platform: String,
    /// The kernel set its arithmetic uses.
    pub kernels: String,
    /// Threads it computes with, 1 to [`crate::MAX_THREADS`].
    pub threads: u32,
    /// Whose code decrypts chunks.
    pub chunk_cipher: String,
    /// No hardware protects it.
    pub development: bool,
    /// The device has a key.
    pub has_key: bool,
    /// Most payload bytes of a command on this platform.
    pub payload_limit: u32,
    /// What holds and what does not.
    pub protections: Vec<Protection>,
    /// Memory now.
    pub memory: MemoryUse,
}

/// Whether the end of validity was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The package has none.
    None,
    /// Checked with the platform's clock.
    Checked,
    /// The platform has no clock.
    NotChecked,
}

/// What loading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The package's version.
    pub version: u64,
    /// Whether `not_after` was checked.
    pub expiry: Expiry,
    /// Requests left of `max_requests`.
    pub requests_left: Option<u64>,
    /// Secure segments.
    pub segments: u32,
    /// Of these, segments whose weights are resident; the others stream theirs.
    pub resident: u32,
    /// Bytes of activations, resident weights, windows and tables.
    pub compute: u64,
    /// Chunks of [`crate::SPILL_CHUNK`] bytes that the normal world keeps for values that leave encrypted: the spill area.
    pub spill: u32,
    /// Memory after loading.
    pub memory: MemoryUse,
}

/// How the bytes of an output are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Elements of the value, row-major, little-endian.
    Tensor,
    /// A [`Ranked`](crate::Ranked) list: the output policy let no more out.
    Ranked,
}

/// One reply. Those with a payload say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Not done.
    Refused(Refusal),
    /// Answers `Hello`.
    Hello(Greeting),
    /// Answers `Provision`. Payload: the recipient string.
    Provisioned,
    /// Answers `Report`.
    Report(MemoryUse),
    /// Asks for a piece of header ‖ grant.
    NeedHeader {
        /// First byte.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Asks for part of a section while loading.
    NeedSection {
        /// Index into the header's section table.
        section: u32,
        /// Leaves or chunks.
        part: Part,
        /// First leaf or chunk.
        first: u32,
        /// How many.
        count: u32,
    },
    /// The package is ready. Payload: the device state to store, or nothing if unchanged.
    Loaded(LoadReport),
    /// Answers `Unload`. Payload: the device state to store, or nothing if unchanged.
    Unloaded,
    /// A piece of evidence. Payload: the bytes from `start` on, of the binding and then of the evidence over it.
    Evidence {
        /// How the evidence is to be appraised.
        kind: EvidenceKind,
        /// Bytes of the [`Binding`](crate::Binding).
        binding_len: u32,
        /// First byte of the piece.
        start: u32,
        /// Bytes of both together.
        total: u32,
    },
    /// A request is open. Payload: the device state to store, or nothing if unchanged.
    Begun {
        /// Names it from now on.
        request: u64,
        /// Requests left of `max_requests` after this one.
        requests_left: Option<u64>,
    },
    /// The running segment asks for a piece of a value.
    NeedValue {
        /// Index into the package's value table.
        value: u32,
        /// First byte.
        start: u64,
        /// Bytes.
        len: u32,
    },
    /// A piece of a value that leaves. Payload: the bytes. The next step goes on.
    Output {
        /// Index into the package's value table.
        value: u32,
        /// How all pieces together are to be read.
        form: Form,
        /// First byte of the piece.
        start: u64,
        /// Bytes of all pieces together.
        total: u64,
        /// How the payload is protected.
        payload: Payload,
    },
    /// A stored chunk of a value that is to come back. Payload: its bytes, at most [`crate::SPILL_CHUNK`], for the normal world
    /// to keep. The next step goes on.
    Spill {
        /// Its place in the spill area.
        chunk: u32,
    },
    /// The running segment asks for chunks that it spilled.
    NeedSpilled {
        /// First chunk of the spill area.
        chunk: u32,
        /// Bytes: chunks are whole but for the last.
        len: u32,
    },
    /// The segment runs on; nothing is needed.
    Working,
    /// The segment is complete.
    SegmentDone {
        /// Stored bytes of weights that came back from the normal world's memory.
        read: u64,
    },
    /// Answers `End` and `Abort`: the request is wiped.
    Closed,
}

impl Reply {
    /// Writes the reply as a frame without payload and without a window into `out`; the caller appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new();
        w.raw(&Window::encode(None));
        match self {
            Self::Refused(refusal) => refusal.encode(w.u8(0x00)),
            Self::Hello(greeting) => encode_greeting(greeting, w.u8(0x01)),
            Self::Provisioned => {
                w.u8(0x02);
            }
            Self::Report(memory) => memory.encode(w.u8(0x03)),
            Self::NeedHeader { offset, len } => {
                w.u8(0x10).u32(*offset).u32(*len);
            }
            Self::NeedSection { section, part, first, count } => {
                part.encode(w.u8(0x11).u32(*section));
                w.u32(*first).u32(*count);
            }
            Self::Loaded(report) => encode_load(report, w.u8(0x12)),
            Self::Unloaded => {
                w.u8(0x13);
            }
            Self::Evidence { kind, binding_len, start, total } => {
                w.u8(0x04).u16(kind.number()).u32(*binding_len).u32(*start).u32(*total);
            }
            Self::Begun { request, requests_left } => {
                w.u8(0x20).u64(*request).option(*requests_left, |w, v| {
                    w.u64(v);
                });
            }
            Self::NeedValue { value, start, len } => {
                w.u8(0x21).u32(*value).u64(*start).u32(*len);
            }
            Self::Output { value, form, start, total, payload } => {
                w.u8(0x22).u32(*value);
                w.u8(match form {
                    Form::Tensor => 0,
                    Form::Ranked => 1,
                });
                payload.encode(w.u64(*start).u64(*total));
            }
            Self::Working => {
                w.u8(0x23);
            }
            Self::SegmentDone { read } => {
                w.u8(0x24).u64(*read);
            }
            Self::Closed => {
                w.u8(0x25);
            }
            Self::Spill { chunk } => {
                w.u8(0x26).u32(*chunk);
            }
            Self::NeedSpilled { chunk, len } => {
                w.u8(0x27).u32(*chunk).u32(*len);
            }
        }
        frame::begin(out, &w.finish());
    }

    /// Names in an encoded reply the window that the next command must bring.
    pub fn set_window(frame: &mut [u8], window: Option<Window>) {
        if let Some(place) = frame.get_mut(frame::LENGTH_BYTES..).and_then(|head| head.first_chunk_mut()) {
            *place = Window::encode(window);
        }
    }

    /// Reads a received frame: the reply, the window that the next command must bring, and the payload.
    pub fn decode_with_window(frame: &mut [u8]) -> Result<(Self, Option<Window>, &[u8]), DecodeError> {
        let (head, payload) = frame::split(frame)?;
        let mut r = Reader::new(head);
        let window = Window::decode(&mut r)?;
        let reply = match r.u8("reply")? {
            0x00 => Self::Refused(Refusal::decode(&mut r)?),
            0x01 => Self::Hello(decode_greeting(&mut r)?),
            0x02 => Self::Provisioned,
            0x03 => Self::Report(MemoryUse::decode(&mut r)?),
            0x10 => Self::NeedHeader { offset: r.u32("offset")?, len: r.u32("length")? },
            0x11 => Self::NeedSection {
                section: r.u32("section")?,
                part: Part::decode(&mut r)?,
                first: r.u32("first")?,
                count: r.u32("count")?,
            },
            0x12 => Self::Loaded(decode_load(&mut r)?),
            0x13 => Self::Unloaded,
            0x04 => Self::Evidence {
                kind: EvidenceKind::from_number(r.u16("kind of evidence")?)
                    .ok_or(DecodeError::Invalid("kind of evidence"))?,
                binding_len: r.u32("binding length")?,
                start: r.u32("start")?,
                total: r.u32("total")?,
            },
            0x20 => Self::Begun {
                request: r.u64("request")?,
                requests_left: r.option("requests left", |r| r.u64("requests left"))?,
            },
            0x21 => Self::NeedValue { value: r.u32("value")?, start: r.u64("start")?, len: r.u32("length")? },
            0x22 => Self::Output {
                value: r.u32("value")?,
                form: match r.u8("form")? {
                    0 => Form::Tensor,
                    1 => Form::Ranked,
                    _ => return Err(DecodeError::Invalid("form")),
                },
                start: r.u64("start")?,
                total: r.u64("total")?,
                payload: Payload::decode(&mut r)?,
            },
            0x23 => Self::Working,
            0x24 => Self::SegmentDone { read: r.u64("bytes read")? },
            0x25 => Self::Closed,
            0x26 => Self::Spill { chunk: r.u32("chunk")? },
            0x27 => Self::NeedSpilled { chunk: r.u32("chunk")?, len: r.u32("length")? },
            _ => return Err(DecodeError::Invalid("reply")),
        };
        r.finish()?;
        let takes_payload = matches!(
            reply,
            Self::Provisioned
                | Self::Evidence { .. }
                | Self::Loaded(_)
                | Self::Unloaded
                | Self::Begun { .. }
                | Self::Output { .. }
                | Self::Spill { .. }
        );
        if !payload.is_empty() && !takes_payload {
            return Err(DecodeError::TrailingBytes);
        }
        Ok((reply, window, payload))
    }

    /// [`Self::decode_with_window`] for a conversation that has no store.
    pub fn decode(frame: &mut [u8]) -> Result<(Self, &[u8]), DecodeError> {
        Self::decode_with_window(frame).map(|(reply, _, payload)| (reply, payload))
    }
}

fn encode_greeting(greeting: &Greeting, w: &mut Writer) {
    w.u16(greeting.version).string(&greeting.platform).string(&greeting.kernels);
    w.u32(greeting.threads)
        .string(&greeting.chunk_cipher)
        .bool(greeting.development)
        .bool(greeting.has_key)
        .u32(greeting.payload_limit);
    w.list(greeting.protections.iter(), |w, p| p.encode(w));
    greeting.memory.encode(w);
}

fn decode_greeting(r: &mut Reader<'_>) -> Result<Greeting, DecodeError> {
    Ok(Greeting {
        version: r.u16("version")?,
        platform: r.string(MAX_NAME_BYTES, "platform")?,
        kernels: r.string(MAX_NAME_BYTES, "kernels")?,
        threads: r.u32("threads")?,
        chunk_cipher: r.string(MAX_NAME_BYTES, "chunk cipher")?,
        development: r.bool("development")?,
        has_key: r.bool("has key")?,
        payload_limit: r.u32("payload limit")?,
        protections: r.list(PROTECTION_BYTES, MAX_PROTECTIONS, "protections", Protection::decode)?,
        memory: MemoryUse::decode(r)?,
    })
}

fn encode_load(report: &LoadReport, w: &mut Writer) {
    w.u64(report.version);
    w.u8(match report.expiry {
        Expiry::None => 0,
        Expiry::Checked => 1,
        Expiry::NotChecked => 2,
    });
    w.option(report.requests_left, |w, v| {
        w.u64(v);
    });
    w.u32(report.segments).u32(report.resident).u64(report.compute).u32(report.spill);
    report.memory.encode(w);
}

fn decode_load(r: &mut Reader<'_>) -> Result<LoadReport, DecodeError> {
    Ok(LoadReport {
        version: r.u64("version")?,
        expiry: match r.u8("expiry")? {
            0 => Expiry::None,
            1 => Expiry::Checked,
            2 => Expiry::NotChecked,
            _ => return Err(DecodeError::Invalid("expiry")),
        },
        requests_left: r.option("requests left", |r| r.u64("requests left"))?,
        segments: r.u32("segments")?,
        resident: r.u32("resident")?,
        compute: r.u64("compute")?,
        spill: r.u32("spill area")?,
        memory: MemoryUse::decode(r)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Guard, Reason};

    fn memory() -> MemoryUse {
        MemoryUse { used: 1, peak: 2, limit: 3, fixed: 4 }
    }

    fn all() -> Vec<Reply> {
        let refusal = Refusal::new(Code::OutOfMemory).in_segment(1).at_instruction(2).about(3).amounts(4, 5);
        alloc::vec![
            Reply::Refused(refusal),
            Reply::Refused(Refusal::new(Code::Malformed)),
            Reply::Hello(Greeting {
                version: 2,
                platform: "process".into(),
                kernels: "avx2".into(),
                threads: 2,
                chunk_cipher: "aes-gcm".into(),
                development: true,
                has_key: false,
                payload_limit: 9,
                protections: alloc::vec![
                    Protection::in_force(Guard::new("system-call-filter"), 12),
                    Protection::missing(Guard::HARDWARE, Reason::Platform, 0),
                ],
                memory: memory(),
            }),
            Reply::Provisioned,
            Reply::Report(memory()),
            Reply::NeedHeader { offset: 1, len: 2 },
            Reply::NeedSection { section: 1, part: Part::Leaves, first: 2, count: 3 },
            Reply::Loaded(LoadReport {
                version: 7,
                expiry: Expiry::Checked,
                requests_left: Some(5),
                segments: 2,
                resident: 1,
                compute: 4096,
                spill: 3,
                memory: memory(),
            }),
            Reply::Unloaded,
            Reply::Begun { request: 77, requests_left: None },
            Reply::Begun { request: 77, requests_left: Some(3) },
            Reply::Evidence { kind: EvidenceKind::Development, binding_len: 100, start: 200, total: 300 },
            Reply::NeedValue { value: 1, start: 2, len: 3 },
            Reply::Output { value: 1, form: Form::Ranked, start: 2, total: 3, payload: Payload::Clear },
            Reply::Working,
            Reply::SegmentDone { read: 9 },
            Reply::Closed,
            Reply::Spill { chunk: 4 },
            Reply::NeedSpilled { chunk: 4, len: 65_552 },
        ]
    }

    #[test]
    fn round_trip_and_every_truncation_is_refused() {
        let mut frame = Vec::new();
        for reply in all() {
            reply.encode(&mut frame);
            assert_eq!(Reply::decode(&mut frame.clone()).map(|(r, _)| r), Ok(reply.clone()));
            for end in 0..frame.len() {
                assert!(Reply::decode(&mut frame.clone()[..end]).is_err(), "{reply:?} cut at {end}");
            }
        }
    }

    #[test]
    fn a_window_is_named_in_front_and_changes_nothing_else() {
        let mut frame = Vec::new();
        for reply in all() {
            for window in [None, Some(Window { offset: 8, len: 1 }), Some(Window { offset: 1 << 40, len: 1 << 20 })] {
                reply.encode(&mut frame);
                Reply::set_window(&mut frame, window);
                assert_eq!(Reply::decode_with_window(&mut frame), Ok((reply.clone(), window, &[][..])));
            }
        }
    }

    #[test]
    fn windows_that_no_enclave_names_are_refused() {
        let mut frame = Vec::new();
        for (offset, len) in [(8, 0), (4, 8), (0, (1 << 20) + 1), (u64::MAX, 8), (0, u32::MAX)] {
            Reply::Working.encode(&mut frame);
            Reply::set_window(&mut frame, Some(Window { offset, len }));
            assert_eq!(Reply::decode(&mut frame), Err(DecodeError::Invalid("window")), "{len} bytes at {offset}");
        }
        Reply::set_window(&mut [0; 9], Some(Window { offset: 8, len: 8 }));
    }
}
