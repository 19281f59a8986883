//! A loaded package: secure segments validated, with all their memory, in the order a request runs them.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_engine::program::{DType, Port, Stored, Via};
use cordon_engine::{Limits, Prepared, Program, Residency, Unloaded, WeightTable};
use cordon_package::{ElemType, Header, Manifest, SealedSection};
use cordon_protocol::{Code, LoadReport, Refusal, SLACK, SPILL_CHUNK, Window, stored_weights};
use sha2::{Digest, Sha256};

use crate::crossing::Crossing;
use crate::platform::{CounterId, Platform};
use crate::policy::Policy;
use crate::refuse;
use crate::streamed::Streamed;

/// A segment decoded but not prepared: how much memory it will get depends on the others.
pub(crate) struct Draft {
    /// Index into the manifest's segments.
    pub(crate) index: u32,
    pub(crate) program: Program,
    pub(crate) table: WeightTable,
    pub(crate) labels: Vec<String>,
    pub(crate) stream: Option<Stream>,
}

/// The encrypted weights of a segment.
pub(crate) struct Stream {
    /// Index into the header's section table.
    pub(crate) section: u32,
    pub(crate) reader: SealedSection,
}

/// A secure segment with all its memory, whose weights are still to come.
pub(crate) struct Unfilled {
    pub(crate) index: u32,
    pub(crate) unloaded: Unloaded,
    pub(crate) stream: Option<Stream>,
    /// Where some weights have no room inside.
    pub(crate) streamed: Option<Streamed>,
    crossings: Vec<Crossing>,
}

impl Unfilled {
    /// Once all weights have come.
    pub(crate) fn finish(self) -> Result<Segment, Refusal> {
        let Self { index, unloaded, stream: _, streamed, crossings } = self;
        let missing = |_| Refusal::new(Code::ProgramInvalid).in_segment(index);
        Ok(Segment { index, prepared: unloaded.finish().map_err(missing)?, streamed, crossings })
    }
}

/// A secure segment, ready to run.
pub(crate) struct Segment {
    pub(crate) index: u32,
    pub(crate) prepared: Prepared,
    /// Where some weights have no room inside.
    pub(crate) streamed: Option<Streamed>,
    pub(crate) crossings: Vec<Crossing>,
}

impl Segment {
    /// The window of the store that the coming steps need.
    pub(crate) fn window(&self) -> Option<Window> {
        self.streamed.as_ref()?.window(self.prepared.pieces_ahead())
    }
}

/// A loaded package.
pub(crate) struct Model {
    pub(crate) segments: Vec<Segment>,
    pub(crate) policy: Option<Policy>,
    pub(crate) max_requests: Option<u64>,
    /// Last second in which a request may begin, of the package and of the grant it was opened with.
    pub(crate) not_after: Option<u64>,
    pub(crate) version_counter: CounterId,
    pub(crate) request_counter: CounterId,
    /// What `Loaded` says, but for the memory figures, which are taken when it is sent.
    pub(crate) report: LoadReport,
}

/// Counter of the newest version of a name by an owner.
pub(crate) fn version_counter(owner: &[u8; 32], name: &str) -> CounterId {
    Sha256::new().chain_update(b"cordon/1 version counter").chain_update(owner).chain_update(name).finalize().into()
}

/// Counter of the requests a package has served on this device.
pub(crate) fn request_counter(package_id: &[u8; 32]) -> CounterId {
    Sha256::new().chain_update(b"cordon/1 request counter").chain_update(package_id).finalize().into()
}

impl Model {
    /// Checks the drafts against the manifest, shares the memory out and takes it for every segment. The segments come into
    /// the model as their weights are loaded.
    pub(crate) fn new(
        header: &Header,
        manifest: &Manifest,
        mut drafts: Vec<Draft>,
        report: LoadReport,
        platform: &mut impl Platform,
    ) -> Result<(Self, Vec<Unfilled>), Refusal> {
        for draft in &drafts {
            check_ports(draft, manifest)?;
            check_forms(draft, manifest)?;
        }
        let labels =
            drafts.iter_mut().map(|draft| core::mem::take(&mut draft.labels)).find(|labels| !labels.is_empty());
        let policy = Policy::new(&header.output_policies, manifest, labels.unwrap_or_default())?;
        let residencies = share_out(&drafts, manifest, platform)?;
        let mut report = LoadReport { segments: drafts.len() as u32, ..report };
        let segments = refuse::reserve(drafts.len(), platform)?;
        let mut unfilled = refuse::reserve(drafts.len(), platform)?;
        let mut place = 0;
        for (draft, residency) in drafts.into_iter().zip(residencies) {
            let crossings = Crossing::of_segment(manifest, draft.index as usize, &header.output_policies)?;
            // The decoded Program is in use already, and part of what the limit bounds.
            let limits = Limits::new(platform.memory().available().saturating_add(draft.program.heap_bytes()));
            let weight_bytes = draft.table.stream_bytes();
            let unloaded = Unloaded::new(draft.program, draft.table, platform.compute(), residency, limits)
                .map_err(|e| refuse::engine(e, draft.index, platform.memory().available()))?;
            let streams = unloaded.pieces_per_request() > 0;
            report.resident += u32::from(!streams);
            let streamed = if streams { Some(Streamed::new(place, weight_bytes, platform)?) } else { None };
            place = place.saturating_add(stored_weights(weight_bytes));
            // Validation bounds it. Segments run one at a time, so all use one area.
            report.spill = report.spill.max(u32::try_from(unloaded.spill_chunks()).unwrap_or(u32::MAX));
            report.compute = report.compute.saturating_add(unloaded.memory().total());
            unfilled.push(Unfilled { index: draft.index, unloaded, stream: draft.stream, streamed, crossings });
        }
        let room = platform.reply_limit().min(platform.payload_limit());
        if report.spill > 0 && room < SPILL_CHUNK {
            return Err(Refusal::new(Code::PackageUnsupported).amounts(SPILL_CHUNK as u64, room as u64));
        }
        let model = Self {
            segments,
            policy,
            max_requests: header.max_requests,
            not_after: header.not_after,
            version_counter: version_counter(header.owner.as_bytes(), &header.name),
            request_counter: request_counter(&header.package_id),
            report,
        };
        Ok((model, unfilled))
    }
}

/// The Program's ports are the manifest's crossings and retained values, no more and no less, with their types and shapes.
fn check_ports(draft: &Draft, manifest: &Manifest) -> Result<(), Refusal> {
    let invalid = Refusal::new(Code::ProgramInvalid).in_segment(draft.index);
    let info = manifest.segments.get(draft.index as usize).ok_or(Refusal::new(Code::Internal))?;
    let same = |ports: &[Port], via: Via, listed: &[u32]| {
        let mut of_program: Vec<u32> = ports.iter().filter(|port| port.via == via).map(|port| port.value).collect();
        let mut of_manifest = listed.to_vec();
        of_program.sort_unstable();
        of_manifest.sort_unstable();
        of_program == of_manifest
    };
    let program = &draft.program;
    let agree = same(&program.inputs, Via::Cross, &info.inputs)
        && same(&program.inputs, Via::Retain, &info.retained_in)
        && same(&program.outputs, Via::Cross, &info.outputs)
        && same(&program.outputs, Via::Retain, &info.retained_out);
    if !agree {
        return Err(invalid);
    }
    for port in program.inputs.iter().chain(&program.outputs) {
        let value = manifest.value(port.value).ok_or(invalid)?;
        let elem = match port.region.dtype {
            DType::F32 => ElemType::Float,
            DType::I64 => ElemType::Int64,
            DType::Bool => ElemType::Bool,
            // A byte crosses as it is; which of the two it stands for is the business of the instructions around it.
            DType::U8 if value.elem == ElemType::Int8 => ElemType::Int8,
            DType::U8 => ElemType::Uint8,
        };
        if value.elem != elem || value.shape() != port.shape {
            return Err(invalid.about(port.value));
        }
    }
    Ok(())
}

/// The manifest says truly whether weights were rounded to f16.
fn check_forms(draft: &Draft, manifest: &Manifest) -> Result<(), Refusal> {
    let info = manifest.segments.get(draft.index as usize).ok_or(Refusal::new(Code::Internal))?;
    let rounded = draft.table.0.iter().any(|tensor| tensor.stored == Stored::F16);
    if rounded == info.f16_weights { Ok(()) } else { Err(Refusal::new(Code::ProgramInvalid).in_segment(draft.index)) }
}

/// Every segment streams its weights, as far as the budget has no room for them and the platform has a store. All that is
/// shared out lies in one stretch, so that none of it fails for want of a piece that is long enough.
fn share_out(drafts: &[Draft], manifest: &Manifest, platform: &impl Platform) -> Result<Vec<Residency>, Refusal> {
    if !platform.has_store() {
        let mut all = refuse::reserve(drafts.len(), platform)?;
        all.resize(drafts.len(), Residency::All);
        return Ok(all);
    }
    let available = platform.memory().available().saturating_sub(SLACK).min(platform.stretch());
    let retained: u64 =
        manifest.segments.iter().flat_map(|s| &s.retained_out).map(|value| manifest.value_bytes(*value)).sum();
    let mut programs = refuse::reserve(drafts.len(), platform)?;
    programs.extend(drafts.iter().map(|draft| (&draft.program, &draft.table)));
    cordon_engine::share(available.saturating_sub(retained), &programs)
        .map_err(|(index, error)| refuse::engine(error, drafts.get(index).map_or(0, |draft| draft.index), available))
}
