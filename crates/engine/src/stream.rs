//! The weight stream: all constants of a segment one after the other, as the package holds them. It is cut twice, into
//! chunks to load and into pieces to stream.

/// Plaintext bytes of one weight chunk; only the last of a stream is shorter.
pub const CHUNK: usize = 65_536;

/// Plaintext bytes of one piece of streamed weights; only the last of a stream is shorter. Smaller ones waste less at the
/// ends of tiles, and two of them lie in a core's nearest cache; of larger ones more of the time is decryption.
pub const PIECE: usize = 8_192;

/// Most pieces one [`Step::NeedPieces`](crate::Step::NeedPieces) asks for: with a tag beside each, as many as 1 MiB holds.
pub const PIECES_PER_STEP: u32 = 127;
