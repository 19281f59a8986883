//! Commands: normal world to enclave.

use alloc::vec::Vec;
use cordon_codec::{DecodeError, Reader, Writer};

use crate::evidence::Purpose;
use crate::frame;

/// How the payload of a frame is protected on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The normal world may read and change it.
    Clear,
    /// Encrypted end to end between a client and the enclave. Refused until the channel exists.
    Sealed,
}

impl Payload {
    pub(crate) fn encode(self, w: &mut Writer) {
        w.u8(match self {
            Self::Clear => 0,
            Self::Sealed => 1,
        });
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("payload protection")? {
            0 => Ok(Self::Clear),
            1 => Ok(Self::Sealed),
            _ => Err(DecodeError::Invalid("payload protection")),
        }
    }
}

/// Which bytes of a package section are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// SHA-256 leaf hashes of the stored chunks, 32 bytes each.
    Leaves,
    /// Stored chunks, one after the other.
    Chunks,
}

impl Part {
    pub(crate) fn encode(self, w: &mut Writer) {
        w.u8(match self {
            Self::Leaves => 0,
            Self::Chunks => 1,
        });
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("part")? {
            0 => Ok(Self::Leaves),
            1 => Ok(Self::Chunks),
            _ => Err(DecodeError::Invalid("part")),
        }
    }
}

/// What the normal world brings to the next step of a running segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Nothing was asked for.
    Nothing,
    /// A piece of a value that enters, in the payload, little-endian.
    Value {
        /// Index into the package's value table.
        value: u32,
        /// First byte of the piece.
        start: u64,
        /// How the payload is protected.
        payload: Payload,
    },
    /// Stored chunks of a value that was spilled, in the payload.
    Spilled {
        /// First chunk of the spill area.
        chunk: u32,
    },
}

/// One command. Those that carry a payload say so; the others must come without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens the conversation: the range of protocol versions the normal world speaks.
    Hello {
        /// Oldest.
        oldest: u16,
        /// Newest.
        newest: u16,
    },
    /// Makes the device key and pins the owners in the payload (32 bytes each). Only on a device that has no key yet.
    Provision,
    /// Starts loading a package. Payload: the device state the enclave handed out last, or nothing.
    LoadBegin {
        /// Bytes of the package's header.
        header_len: u32,
        /// Bytes of a grant file for this package; 0 for none.
        grant_len: u32,
    },
    /// The piece of header ‖ grant asked for by `NeedHeader`. Payload: the bytes.
    LoadHeader {
        /// First byte of the piece.
        offset: u32,
    },
    /// The bytes asked for by `NeedSection`. Payload: the bytes.
    LoadSupply {
        /// Index into the header's section table.
        section: u32,
        /// Leaves or chunks.
        part: Part,
        /// First leaf or chunk.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Forgets the package and wipes everything of it.
    Unload,
    /// Opens a request. Payload: of a sealed one, its first bytes.
    Begin {
        /// How all its values travel.
        mode: Payload,
    },
    /// Starts a secure segment: the next one of the request, once.
    Run {
        /// From `Begun`.
        request: u64,
        /// Index into the manifest's segments.
        segment: u32,
    },
    /// Continues the segment that runs. Payload: what `supply` says.
    Step {
        /// From `Begun`.
        request: u64,
        /// What was asked for.
        supply: Supply,
    },
    /// Ends a request all of whose secure segments ran.
    End {
        /// From `Begun`.
        request: u64,
    },
    /// Drops a request in any state.
    Abort {
        /// From `Begun`.
        request: u64,
    },
    /// Asks for the memory figures.
    Report,
    /// Asks for evidence of what the enclave is. Payload: nonces of 32 bytes each, at most [`MAX_NONCES`](crate::MAX_NONCES).
    Attest {
        /// What the evidence is for.
        purpose: Purpose,
    },
    /// Asks for the next piece of the evidence just made.
    AttestMore {
        /// Its first byte.
        start: u32,
    },
}

impl Command {
    /// Writes the command as a frame without payload into `out`; the caller appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new();
        match *self {
            Self::Hello { oldest, newest } => {
                w.u8(0x01).u16(oldest).u16(newest);
            }
            Self::Provision => {
                w.u8(0x02);
            }
            Self::Report => {
                w.u8(0x03);
            }
            Self::Attest { purpose } => {
                w.u8(0x04).u8(purpose.number());
            }
            Self::AttestMore { start } => {
                w.u8(0x05).u32(start);
            }
            Self::LoadBegin { header_len, grant_len } => {
                w.u8(0x10).u32(header_len).u32(grant_len);
            }
            Self::LoadHeader { offset } => {
                w.u8(0x11).u32(offset);
            }
            Self::LoadSupply { section, part, first, count } => {
                part.encode(w.u8(0x12).u32(section));
                w.u32(first).u32(count);
            }
            Self::Unload => {
                w.u8(0x13);
            }
            Self::Begin { mode } => mode.encode(w.u8(0x20)),
            Self::Run { request, segment } => {
                w.u8(0x21).u64(request).u32(segment);
            }
            Self::Step { request, supply } => {
                w.u8(0x22).u64(request);
                match supply {
                    Supply::Nothing => {
                        w.u8(0);
                    }
                    Supply::Value { value, start, payload } => payload.encode(w.u8(1).u32(value).u64(start)),
                    Supply::Spilled { chunk } => {
                        w.u8(2).u32(chunk);
                    }
                }
            }
            Self::End { request } => {
                w.u8(0x23).u64(request);
            }
            Self::Abort { request } => {
                w.u8(0x24).u64(request);
            }
        }
        frame::begin(out, &w.finish());
    }

    /// Reads a received frame: the command, and its payload in place.
    pub fn decode(frame: &mut [u8]) -> Result<(Self, &mut [u8]), DecodeError> {
        let (head, payload) = frame::split(frame)?;
        let mut r = Reader::new(head);
        let command = match r.u8("command")? {
            0x01 => Self::Hello { oldest: r.u16("oldest version")?, newest: r.u16("newest version")? },
            0x02 => Self::Provision,
            0x03 => Self::Report,
            0x04 => Self::Attest { purpose: Purpose::decode(&mut r)? },
            0x05 => Self::AttestMore { start: r.u32("start")? },
            0x10 => Self::LoadBegin { header_len: r.u32("header length")?, grant_len: r.u32("grant length")? },
            0x11 => Self::LoadHeader { offset: r.u32("header offset")? },
            0x12 => Self::LoadSupply {
                section: r.u32("section")?,
                part: Part::decode(&mut r)?,
                first: r.u32("first")?,
                count: r.u32("count")?,
            },
            0x13 => Self::Unload,
            0x20 => Self::Begin { mode: Payload::decode(&mut r)? },
            0x21 => Self::Run { request: r.u64("request")?, segment: r.u32("segment")? },
            0x22 => Self::Step {
                request: r.u64("request")?,
                supply: match r.u8("supply")? {
                    0 => Supply::Nothing,
                    1 => Supply::Value {
                        value: r.u32("value")?,
                        start: r.u64("start")?,
                        payload: Payload::decode(&mut r)?,
                    },
                    2 => Supply::Spilled { chunk: r.u32("chunk")? },
                    _ => return Err(DecodeError::Invalid("supply")),
                },
            },
            0x23 => Self::End { request: r.u64("request")? },
            0x24 => Self::Abort { request: r.u64("request")? },
            _ => return Err(DecodeError::Invalid("command")),
        };
        r.finish()?;
        if !payload.is_empty() && !command.takes_payload() {
            return Err(DecodeError::TrailingBytes);
        }
        Ok((command, payload))
    }

    fn takes_payload(&self) -> bool {
        match self {
            Self::Provision
            | Self::Attest { .. }
            | Self::LoadBegin { .. }
            | Self::LoadHeader { .. }
            | Self::LoadSupply { .. } => true,
            Self::Begin { mode } => *mode == Payload::Sealed,
            Self::Step { supply, .. } => !matches!(supply, Supply::Nothing),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Command> {
        alloc::vec![
            Command::Hello { oldest: 1, newest: 2 },
            Command::Provision,
            Command::Report,
            Command::LoadBegin { header_len: 7, grant_len: 1 },
            Command::LoadHeader { offset: 9 },
            Command::LoadSupply { section: 1, part: Part::Leaves, first: 2, count: 3 },
            Command::LoadSupply { section: 1, part: Part::Chunks, first: 2, count: 3 },
            Command::Unload,
            Command::Attest { purpose: Purpose::Serve },
            Command::Attest { purpose: Purpose::Release },
            Command::AttestMore { start: 9 },
            Command::Begin { mode: Payload::Clear },
            Command::Begin { mode: Payload::Sealed },
            Command::Run { request: 5, segment: 1 },
            Command::Step { request: 5, supply: Supply::Nothing },
            Command::Step { request: 5, supply: Supply::Value { value: 4, start: 8, payload: Payload::Clear } },
            Command::Step { request: 5, supply: Supply::Value { value: 4, start: 8, payload: Payload::Sealed } },
            Command::Step { request: 5, supply: Supply::Spilled { chunk: 3 } },
            Command::End { request: 5 },
            Command::Abort { request: 5 },
        ]
    }

    #[test]
    fn round_trip_and_every_truncation_is_refused() {
        let mut frame = Vec::new();
        for command in all() {
            command.encode(&mut frame);
            for end in 0..frame.len() {
                assert!(Command::decode(&mut frame.clone()[..end]).is_err(), "{command:?} cut at {end}");
            }
            assert_eq!(Command::decode(&mut frame.clone()).map(|(c, p)| (c, p.len())), Ok((command, 0)));
            frame.push(0xaa);
            let with_payload = Command::decode(&mut frame).map(|(c, p)| (c, p.to_vec()));
            if command.takes_payload() {
                assert_eq!(with_payload, Ok((command, alloc::vec![0xaa])));
            } else {
                assert_eq!(with_payload, Err(DecodeError::TrailingBytes));
            }
        }
    }

    #[test]
    fn unknown_tags_and_longer_heads_are_refused() {
        let mut frame = Vec::new();
        frame::begin(&mut frame, &[0x7f]);
        assert_eq!(Command::decode(&mut frame), Err(DecodeError::Invalid("command")));
        frame::begin(&mut frame, &[0x20, 2]);
        assert_eq!(Command::decode(&mut frame), Err(DecodeError::Invalid("payload protection")));
        frame::begin(&mut frame, &[0x04, 3]);
        assert_eq!(Command::decode(&mut frame), Err(DecodeError::Invalid("purpose")));
        frame::begin(&mut frame, &[0x20, 0, 0]);
        assert_eq!(Command::decode(&mut frame), Err(DecodeError::TrailingBytes));
    }
}
