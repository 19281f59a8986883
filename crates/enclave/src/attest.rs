//! Evidence of what this enclave is, for someone who gave a nonce.

use alloc::vec::Vec;

use cordon_protocol::{Binding, Bound, Code, EvidenceKind, MAX_NONCES, Purpose, Refusal, Reply};

use crate::platform::Platform;
use crate::refuse;

/// Evidence of any platform, and a binding without its nonces, are shorter.
const EVIDENCE_ROOM: usize = 16 * 1024;

/// A binding and the evidence over it, until the normal world has all of it.
pub(crate) struct Statement {
    kind: EvidenceKind,
    binding_len: usize,
    bytes: Vec<u8>,
}

impl Statement {
    /// Has the platform vouch for the keys that `purpose` is about, and for the nonces in `payload`.
    pub(crate) fn make(purpose: Purpose, payload: &[u8], platform: &impl Platform) -> Result<Self, Refusal> {
        let (nonces, rest) = payload.as_chunks();
        if nonces.len() > MAX_NONCES as usize || !rest.is_empty() {
            return Err(Refusal::new(Code::Malformed));
        }
        let bound = match purpose {
            // No channel, so no key that a request could be sealed to.
            Purpose::Serve => return Err(Refusal::new(Code::NotSealable)),
            Purpose::Release => {
                let device = platform.device().ok_or(Refusal::new(Code::NoDeviceKey))?;
                Bound::Release { recipient: *device.key.recipient().public_key() }
            }
        };
        // The nonces, the binding while it grows, and the evidence, twice.
        refuse::headroom(payload.len().saturating_mul(4).saturating_add(EVIDENCE_ROOM), platform)?;
        let binding = Binding { platform: platform.kind().code(), nonces: nonces.to_vec(), bound };
        let mut bytes = binding.encode();
        let binding_len = bytes.len();
        let (kind, evidence) = platform.evidence(&binding.report_data()).map_err(refuse::platform)?;
        bytes.extend_from_slice(&evidence);
        Ok(Self { kind, binding_len, bytes })
    }

    /// Sends the piece from `start` on; true when it is the last.
    pub(crate) fn send(&self, start: u32, limit: usize, out: &mut Vec<u8>) -> Result<bool, Refusal> {
        let wrong = Refusal::new(Code::OutOfOrder);
        let rest = self.bytes.get(start as usize..).filter(|rest| !rest.is_empty()).ok_or(wrong)?;
        let piece = rest.get(..limit).unwrap_or(rest);
        let length = |len| u32::try_from(len).map_err(|_| Refusal::new(Code::Internal));
        let (binding_len, total) = (length(self.binding_len)?, length(self.bytes.len())?);
        Reply::Evidence { kind: self.kind, binding_len, start, total }.encode(out);
        out.extend_from_slice(piece);
        Ok(piece.len() == rest.len())
    }
}
