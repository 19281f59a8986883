//! Loading: header, manifest, then each secure segment's secret part, then all weights ([`weights`]). The stages are types, so
//! nothing is decrypted before the signature was checked, and nothing runs before everything was.

mod weights;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use cordon_engine::{Program, WeightTable};
use cordon_package::limits::{MAX_GRANT_BYTES, MAX_HEADER_BYTES};
use cordon_package::{
    Header, Manifest, Opened, Parsed, ProgramKind, SealedSection, Section, SectionKind, SegmentSecret, Trust, Verified,
};
use cordon_protocol::{Code, Expiry, LoadReport, Refusal, Window};
use zeroize::Zeroize;

use self::weights::WeightStage;
use crate::model::{Draft, Model, Stream, version_counter};
use crate::platform::Platform;
use crate::refuse;
use crate::sections::{Content, Leaves, Need};
use crate::store::Brought;

/// A package being loaded.
pub(crate) enum Loading {
    Header(HeaderStage),
    Manifest(Box<ManifestStage>),
    Segments(Box<SegmentStage>),
    Weights(Box<WeightStage>),
}

/// Where loading stands after a piece.
pub(crate) enum Progress {
    /// The next piece.
    Need(Loading, Need),
    /// Complete.
    Ready(Box<Model>),
}

/// Header ‖ grant, coming in.
pub(crate) struct HeaderStage {
    bytes: Vec<u8>,
    header_len: usize,
    total: usize,
}

/// The manifest section of a verified header, coming in.
pub(crate) struct ManifestStage {
    verified: Verified,
    grant: Vec<u8>,
    content: Content,
    /// Once its last chunk is there.
    manifest: Option<Manifest>,
}

/// Secure segments, one after the other.
pub(crate) struct SegmentStage {
    opened: Opened,
    manifest: Manifest,
    drafts: Vec<Draft>,
    part: SegmentPart,
    segment: u16,
}

enum SegmentPart {
    SecretLeaves(Leaves),
    Secret(Content, Box<SealedSection>),
    Decoded(Box<Draft>),
    WeightLeaves(Leaves, Box<Draft>),
}

impl Loading {
    /// Starts with nothing.
    pub(crate) fn begin(header_len: u32, grant_len: u32, platform: &mut impl Platform) -> Result<Progress, Refusal> {
        let too_long = Refusal::new(Code::PackageHostile);
        let header_len = usize::try_from(header_len).map_err(|_| too_long)?;
        let grant_len = usize::try_from(grant_len).map_err(|_| too_long)?;
        if header_len > MAX_HEADER_BYTES || grant_len > MAX_GRANT_BYTES || header_len == 0 {
            return Err(too_long);
        }
        let total = header_len.saturating_add(grant_len);
        let stage = HeaderStage { bytes: refuse::reserve(total, platform)?, header_len, total };
        Loading::Header(stage).advance(platform)
    }

    /// Takes the piece that `need` asked for.
    pub(crate) fn take(
        mut self,
        need: Need,
        payload: &mut [u8],
        store: Option<Brought<'_>>,
        platform: &mut impl Platform,
    ) -> Result<Progress, Refusal> {
        match (&mut self, need) {
            (Loading::Header(stage), Need::Header { len, .. }) => {
                if payload.len() as u64 != u64::from(len) {
                    return Err(Refusal::new(Code::WrongSupply));
                }
                stage.bytes.extend_from_slice(payload);
            }
            (Loading::Manifest(stage), Need::Section { count, .. }) => {
                stage.take(count, payload, platform)?;
            }
            (Loading::Segments(stage), Need::Section { count, .. }) => stage.take(count, payload, platform)?,
            (Loading::Weights(stage), Need::Section { first, count, .. }) => {
                stage.take((first, count), payload, store, platform)?;
            }
            _ => return Err(Refusal::new(Code::Internal)),
        }
        self.advance(platform)
    }

    /// The window of the store that the piece goes to.
    pub(crate) fn window(&self, need: &Need) -> Option<Window> {
        match (self, need) {
            (Self::Weights(stage), Need::Section { first, count, .. }) => stage.window(*first, *count),
            _ => None,
        }
    }

    /// Passes complete stages. Each leads only to later ones, so the loop ends.
    fn advance(mut self, platform: &mut impl Platform) -> Result<Progress, Refusal> {
        let limit = platform.payload_limit();
        loop {
            let need = match &mut self {
                Loading::Header(stage) => stage.need(limit),
                Loading::Manifest(stage) => stage.content.need(manifest_section(&stage.verified)?, limit),
                Loading::Segments(stage) => stage.need(limit),
                Loading::Weights(stage) => stage.need(limit)?,
            };
            if let Some(need) = need {
                return Ok(Progress::Need(self, need));
            }
            self = match self {
                Loading::Header(stage) => Loading::Manifest(Box::new(stage.finish(platform)?)),
                Loading::Manifest(stage) => stage.finish(platform)?,
                Loading::Segments(stage) => stage.finish(platform)?,
                Loading::Weights(stage) => return Ok(Progress::Ready(stage.finish())),
            };
        }
    }
}

fn manifest_section(verified: &Verified) -> Result<&Section, Refusal> {
    verified.header().section(SectionKind::Manifest, 0).ok_or(Refusal::new(Code::Internal))
}

impl HeaderStage {
    fn need(&self, limit: usize) -> Option<Need> {
        let have = self.bytes.len();
        let len = self.total.saturating_sub(have).min(limit);
        (len > 0).then_some(Need::Header { offset: have as u32, len: len as u32 })
    }

    /// Signature, owner, version, expiry: before anything else is believed.
    fn finish(self, platform: &impl Platform) -> Result<ManifestStage, Refusal> {
        let device = platform.device().ok_or(Refusal::new(Code::NoDeviceKey))?;
        let (header, grant) = self.bytes.split_at_checked(self.header_len).ok_or(Refusal::new(Code::Internal))?;
        refuse::headroom(header.len().saturating_mul(4), platform)?;
        let parsed = Parsed::parse(header).map_err(refuse::package)?;
        let counter = version_counter(parsed.claimed_owner().as_bytes(), parsed.claimed_name());
        let trust = Trust {
            owners: &device.owners,
            now: platform.now(),
            minimum_version: platform.counter(&counter),
            dangerous_accept_development: platform.is_development(),
        };
        let verified = parsed.verify(&trust).map_err(refuse::package)?;
        if verified.header().section(SectionKind::PublicWeights, 0).is_some() {
            // No Program of this instruction set can name them.
            return Err(Refusal::new(Code::PackageUnsupported));
        }
        let mut kept = refuse::reserve(grant.len(), platform)?;
        kept.extend_from_slice(grant);
        Ok(ManifestStage { verified, grant: kept, content: Content::new(0), manifest: None })
    }
}

impl ManifestStage {
    fn take(&mut self, count: u32, payload: &mut [u8], platform: &impl Platform) -> Result<(), Refusal> {
        let section = manifest_section(&self.verified)?;
        let whole = self.content.take(section, count, payload, platform, |_, chunk| Ok(chunk.len()))?;
        if let Some(stored) = whole {
            // A scalar value is 6 bytes encoded and about 100 with its lists and what the rules keep of it.
            refuse::headroom(stored.len().saturating_mul(20), platform)?;
            let mut manifest = self.verified.manifest(stored).map_err(refuse::package)?;
            manifest.check_runnable(self.verified.header()).map_err(refuse::package)?;
            // For people on the host; no use inside.
            manifest.plan_text = String::new();
            self.manifest = Some(manifest);
        }
        Ok(())
    }

    fn finish(self, platform: &mut impl Platform) -> Result<Loading, Refusal> {
        let device = platform.device().ok_or(Refusal::new(Code::NoDeviceKey))?;
        let manifest = self.manifest.ok_or(Refusal::new(Code::Internal))?;
        let opened = if self.grant.is_empty() {
            self.verified.open(device.key.recipient_key())
        } else {
            self.verified.open_with_grant(&self.grant, device.key.recipient_key())
        };
        let opened = opened.map_err(refuse::package)?;
        if opened.is_development() && !platform.is_development() {
            return Err(Refusal::new(Code::Development));
        }
        next_segment(opened, manifest, Vec::new(), 0, platform)
    }
}

/// Goes to the first secure segment from `from` on, or to the weights when there is none.
fn next_segment(
    opened: Opened,
    manifest: Manifest,
    drafts: Vec<Draft>,
    from: u16,
    platform: &mut impl Platform,
) -> Result<Loading, Refusal> {
    let mut rest = (from..).zip(manifest.segments.iter().skip(from.into()));
    let Some((segment, _)) = rest.find(|(_, info)| info.placement.is_secure()) else {
        return finish_segments(opened, &manifest, drafts, platform);
    };
    let leaves = Leaves::new(opened.verified(), SectionKind::SegmentSecret, segment, platform)?;
    Ok(Loading::Segments(Box::new(SegmentStage {
        opened,
        manifest,
        drafts,
        part: SegmentPart::SecretLeaves(leaves),
        segment,
    })))
}

fn finish_segments(
    opened: Opened,
    manifest: &Manifest,
    drafts: Vec<Draft>,
    platform: &mut impl Platform,
) -> Result<Loading, Refusal> {
    let header = opened.header();
    let expiry = match (opened.not_after(), opened.is_expiry_checked()) {
        (None, _) => Expiry::None,
        (Some(_), true) => Expiry::Checked,
        (Some(_), false) => Expiry::NotChecked,
    };
    let report = LoadReport {
        version: header.version,
        expiry,
        requests_left: None,
        segments: 0,
        resident: 0,
        compute: 0,
        spill: 0,
        memory: platform.memory(),
    };
    let (mut model, unfilled) = Model::new(header, manifest, drafts, report, platform)?;
    model.not_after = opened.not_after();
    Ok(Loading::Weights(Box::new(WeightStage::new(model, unfilled))))
}

impl SegmentStage {
    fn need(&self, limit: usize) -> Option<Need> {
        match &self.part {
            SegmentPart::SecretLeaves(leaves) | SegmentPart::WeightLeaves(leaves, _) => leaves.need(limit),
            SegmentPart::Secret(content, reader) => content.need(reader.section(), limit),
            SegmentPart::Decoded(_) => None,
        }
    }

    fn take(&mut self, count: u32, payload: &mut [u8], platform: &impl Platform) -> Result<(), Refusal> {
        let (content, reader) = match &mut self.part {
            SegmentPart::SecretLeaves(leaves) | SegmentPart::WeightLeaves(leaves, _) => {
                return leaves.take(count, payload);
            }
            SegmentPart::Secret(content, reader) => (content, reader),
            SegmentPart::Decoded(_) => return Err(Refusal::new(Code::Internal)),
        };
        let whole = content.take(reader.section(), count, payload, platform, |index, chunk| {
            reader.decrypt_chunk(index, chunk).map(|plain| plain.len()).map_err(refuse::package)
        })?;
        if let Some(plain) = whole {
            let draft = decode(plain, self.opened.header(), &self.manifest, self.segment, platform);
            plain.zeroize();
            self.part = SegmentPart::Decoded(Box::new(draft?));
        }
        Ok(())
    }

    fn finish(mut self, platform: &mut impl Platform) -> Result<Loading, Refusal> {
        match self.part {
            SegmentPart::SecretLeaves(leaves) => {
                let (section, reader) = leaves.finish(&self.opened)?;
                self.part = SegmentPart::Secret(Content::new(section), Box::new(reader));
                Ok(Loading::Segments(Box::new(self)))
            }
            SegmentPart::Secret(..) => Err(Refusal::new(Code::Internal)),
            SegmentPart::Decoded(draft) => {
                let verified = self.opened.verified();
                if verified.header().section(SectionKind::Weights, self.segment).is_some() {
                    let leaves = Leaves::new(verified, SectionKind::Weights, self.segment, platform)?;
                    self.part = SegmentPart::WeightLeaves(leaves, draft);
                    return Ok(Loading::Segments(Box::new(self)));
                }
                if draft.table.stream_bytes() > 0 {
                    return Err(Refusal::new(Code::ProgramInvalid).in_segment(draft.index));
                }
                self.drafts.push(*draft);
                next_segment(self.opened, self.manifest, self.drafts, self.segment.saturating_add(1), platform)
            }
            SegmentPart::WeightLeaves(leaves, mut draft) => {
                let (section, reader) = leaves.finish(&self.opened)?;
                if reader.section().plain_len() != draft.table.stream_bytes() {
                    return Err(Refusal::new(Code::ProgramInvalid).in_segment(draft.index));
                }
                draft.stream = Some(Stream { section, reader });
                self.drafts.push(*draft);
                next_segment(self.opened, self.manifest, self.drafts, self.segment.saturating_add(1), platform)
            }
        }
    }
}

/// Decodes a segment's secret part. Of several Programs the first for inference is taken; labels are kept for a policy that
/// names classes.
fn decode(
    plain: &[u8],
    header: &Header,
    manifest: &Manifest,
    segment: u16,
    platform: &impl Platform,
) -> Result<Draft, Refusal> {
    let index = u32::from(segment);
    // Decoded lists are larger than their encoding: a bound that instructions, ports and names keep.
    refuse::headroom(plain.len().saturating_mul(6), platform)?;
    let secret = SegmentSecret::decode(plain, header.format).map_err(refuse::package)?;
    secret.check(manifest, segment).map_err(refuse::package)?;
    let program = secret.programs.iter().find(|program| program.kind == ProgramKind::Inference);
    let program = program.ok_or(Refusal::new(Code::PackageUnsupported).in_segment(index))?;
    let failed = |e| refuse::engine(e, index, platform.memory().available());
    let named = !header.output_policies.are_full();
    let words = secret
        .labels
        .iter()
        .find(|labels| named && labels.output == 0)
        .map_or(&[][..], |labels| labels.words.as_slice());
    let labels = words.iter().map(|word| String::from(*word)).collect();
    Ok(Draft {
        index,
        program: Program::decode(program.bytes).map_err(failed)?,
        table: WeightTable::decode(secret.weight_table).map_err(failed)?,
        labels,
        stream: None,
    })
}
