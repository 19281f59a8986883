//! A loaded package: secure segments validated, with all their memory, in the order a request runs them.

use alloc::string::String;
use alloc::vec::Vec;

use cordon_engine::program::{DType, Port, Via};
use cordon_engine::{EngineError, Limits, MemoryReport, Place, Prepared, Program, Residency, WeightTable};
use cordon_package::{Elem, Header, Manifest, SealedSection};
use cordon_protocol::{Code, LoadReport, Refusal};
use sha2::{Digest, Sha256};

use crate::crossing::Crossing;
use crate::platform::{CounterId, Platform};
use crate::policy::Policy;
use crate::refuse;

/// Requests that may be open at once.
pub const MAX_OPEN_REQUESTS: usize = 8;

/// Kept free of resident weights: heads of frames, ranked outputs, the small objects of requests.
const SLACK: u64 = 64 * 1024;

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

/// A secure segment, ready to run.
pub(crate) struct Segment {
    pub(crate) index: u32,
    pub(crate) prepared: Prepared,
    pub(crate) stream: Option<Stream>,
    pub(crate) crossings: Vec<Crossing>,
}

/// A loaded package.
pub(crate) struct Model {
    pub(crate) segments: Vec<Segment>,
    pub(crate) policy: Option<Policy>,
    pub(crate) max_requests: Option<u64>,
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
    /// Checks the drafts against the manifest, shares the memory out and prepares every segment.
    pub(crate) fn new(
        header: &Header,
        manifest: &Manifest,
        mut drafts: Vec<Draft>,
        report: LoadReport,
        platform: &impl Platform,
    ) -> Result<Self, Refusal> {
        for draft in &drafts {
            check_ports(draft, manifest)?;
        }
        let labels =
            drafts.iter_mut().map(|draft| core::mem::take(&mut draft.labels)).find(|labels| !labels.is_empty());
        let policy = Policy::new(header.output_policy, manifest, labels.unwrap_or_default())?;
        let residencies = share_out(&drafts, manifest, platform)?;
        let mut report = LoadReport { segments: drafts.len() as u32, resident: 0, compute: 0, ..report };
        let mut segments = refuse::reserve(drafts.len(), platform)?;
        for (draft, residency) in drafts.into_iter().zip(residencies) {
            let crossings = Crossing::of_segment(manifest, draft.index as usize, header.output_policy)?;
            let limits = Limits::new(platform.memory().available());
            let prepared = Prepared::new(draft.program, draft.table, platform.compute(), residency, limits)
                .map_err(|e| refuse::engine(e, draft.index, platform.memory().available()))?;
            report.resident += u32::from(prepared.memory().window == 0);
            report.compute = report.compute.saturating_add(prepared.peak_bytes());
            segments.push(Segment { index: draft.index, prepared, stream: draft.stream, crossings });
        }
        Ok(Self {
            segments,
            policy,
            max_requests: header.max_requests,
            version_counter: version_counter(header.owner.as_bytes(), &header.name),
            request_counter: request_counter(&header.package_id),
            report,
        })
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
            DType::F32 => Elem::Float,
            DType::I64 => Elem::Int64,
            DType::Bool => Elem::Bool,
        };
        if value.elem != elem || value.shape != port.shape {
            return Err(invalid.about(port.value));
        }
    }
    Ok(())
}

/// Every segment streams its weights, as far as the budget has no room for them. What the least of all segments leaves
/// over goes to the segments one after the other, those first that need least to hold everything.
fn share_out(drafts: &[Draft], manifest: &Manifest, platform: &impl Platform) -> Result<Vec<Residency>, Refusal> {
    let mut available = platform.memory().available().saturating_sub(SLACK);
    let retained: u64 =
        manifest.segments.iter().flat_map(|s| &s.retained_out).map(|value| manifest.value_bytes(*value)).sum();
    available = available.saturating_sub(retained);
    let mut costs = refuse::reserve(drafts.len(), platform)?;
    let mut left = available;
    for draft in drafts {
        let failed = |e| refuse::engine(e, draft.index, available);
        let predict = |residency| Prepared::predict(&draft.program, &draft.table, residency).map_err(failed);
        let (all, least) = (predict(Residency::All)?, predict(Residency::Least)?);
        // The Program is there already.
        let total = |memory: MemoryReport| memory.total().saturating_sub(draft.program.heap_bytes());
        let (most, least) = (total(all.memory), total(least.memory).min(total(all.memory)));
        left = left.checked_sub(least).ok_or_else(|| {
            let at = Place::Instruction { index: most_demanding(draft), name: "" };
            failed(EngineError::Memory { at, what: "", needed: least, available: left })
        })?;
        costs.push((most, least, most.saturating_sub(all.constants)));
    }
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&i| costs.get(i).map_or(u64::MAX, |(most, least, _)| most - least));
    let mut residencies = alloc::vec![Residency::All; drafts.len()];
    for index in order {
        if let (Some((most, least, others)), Some(residency)) = (costs.get(index), residencies.get_mut(index)) {
            let more = left.min(most - least);
            left -= more;
            if more < most - least {
                *residency = Residency::Budget { bytes: (least + more).saturating_sub(*others) };
            }
        }
    }
    Ok(residencies)
}

/// The instruction whose weights need the largest window.
fn most_demanding(draft: &Draft) -> u32 {
    let size = |tensor: u32| draft.table.0.get(tensor as usize).map_or(0, |info| u64::from(info.dtype.bytes()));
    let window = |index: &usize| {
        let tiles = draft.program.instructions.get(*index).into_iter().flat_map(|i| i.tiles());
        tiles.map(|tile| u64::from(tile.len) * size(tile.tensor)).sum::<u64>()
    };
    (0..draft.program.instructions.len()).max_by_key(window).unwrap_or(0) as u32
}
