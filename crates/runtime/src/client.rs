//! Speaks the protocol with one enclave: greets, provisions, loads, runs segments.

use core::time::Duration;
use std::collections::HashMap;
use std::time::Instant;

use cordon_executor::Tensor;
use cordon_package::{OwnerPublic, Recipient, ValueInfo};
use cordon_protocol::{
    Command, Form, Greeting, LoadReport, MAX_SPILL_CHUNKS, MemoryUse, OLDEST_VERSION, Part, Payload, Ranked, Reply,
    SPILL_CHUNK, Supply, VERSION,
};

use crate::backend::Transport;
use crate::error::RuntimeError;
use crate::pace::Pace;
use crate::package_file::PackageFile;

/// An enclave that has been greeted.
pub struct Enclave {
    transport: Box<dyn Transport>,
    greeting: Greeting,
    frame: Vec<u8>,
    /// Where encrypted activations wait that have no room inside: as long as the package loaded needs, before it runs.
    spill: Vec<u8>,
    pace: Pace,
}

/// Bytes reserved at most for an output when its first piece comes; a longer one grows.
const ROOM: usize = 64 << 20;

/// What a secure segment handed out.
pub(crate) enum Crossed {
    /// The value itself.
    Tensor(Tensor),
    /// What the output policy let out of it.
    Ranked(Ranked),
}

/// What passed the boundary while one segment ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Values.
    pub(crate) crossings: u64,
    /// Their bytes.
    pub(crate) crossing_bytes: u64,
    /// Encrypted weight bytes that the enclave read back.
    pub(crate) weight_bytes: u64,
    /// Encrypted activation bytes that left, and came back.
    pub(crate) spilled_bytes: u64,
    /// Commands.
    pub(crate) steps: u64,
}

impl Enclave {
    /// Greets a started enclave.
    pub fn greet(transport: Box<dyn Transport>) -> Result<Self, RuntimeError> {
        let nothing = Greeting {
            version: 0,
            platform: String::new(),
            kernels: String::new(),
            threads: 0,
            chunk_cipher: String::new(),
            development: false,
            has_key: false,
            payload_limit: 0,
            protections: Vec::new(),
            memory: MemoryUse::default(),
        };
        let mut enclave =
            Self { transport, greeting: nothing, frame: Vec::new(), spill: Vec::new(), pace: Pace::default() };
        let hello = Command::Hello { oldest: OLDEST_VERSION, newest: VERSION };
        match enclave.call("greeting it", hello, &[])?.0 {
            Reply::Hello(greeting) if greeting.payload_limit > 0 => {
                enclave.greeting = greeting;
                Ok(enclave)
            }
            _ => Err(RuntimeError::Protocol("an answer to Hello")),
        }
    }

    /// What the enclave says about itself.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// CPU time used since the start, where the platform can tell.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.transport.cpu_time()
    }

    /// Makes the device key inside and pins owners; returns the device's recipient.
    pub fn provision(&mut self, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        let keys: Vec<u8> = owners.iter().flat_map(|owner| *owner.as_bytes()).collect();
        let (Reply::Provisioned, payload) = self.call("making the device key", Command::Provision, &keys)? else {
            return Err(RuntimeError::Protocol("an answer to Provision"));
        };
        let text = core::str::from_utf8(payload).map_err(|_| RuntimeError::Protocol("a recipient"))?;
        Ok(Recipient::parse(text)?)
    }

    /// Memory figures now.
    pub fn memory(&mut self) -> Result<MemoryUse, RuntimeError> {
        match self.call("reporting", Command::Report, &[])?.0 {
            Reply::Report(memory) => Ok(memory),
            _ => Err(RuntimeError::Protocol("an answer to Report")),
        }
    }

    /// Loads a package. `state` is what the enclave handed out last; a new one comes back when it changed.
    pub(crate) fn load(
        &mut self,
        file: &PackageFile,
        grant: &[u8],
        state: &[u8],
    ) -> Result<(LoadReport, Option<Vec<u8>>), RuntimeError> {
        const DOING: &str = "loading the package";
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| RuntimeError::Protocol("a header too long"));
        let mut command = Command::LoadBegin { header_len: len(file.header_bytes())?, grant_len: len(grant)? };
        let mut payload = state.to_vec();
        let mut supply: Option<(u32, Part, u32, u32)> = None;
        loop {
            self.begin_frame(command, &payload);
            if let Some((section, part, first, count)) = supply.take() {
                file.supply(section, part, first, count, &mut self.frame)?;
            }
            let (reply, answer) = self.exchange(DOING)?;
            match reply {
                Reply::Loaded(report) => {
                    let state = (!answer.is_empty()).then(|| answer.to_vec());
                    self.spill = spill_area(report.spill)?;
                    return Ok((report, state));
                }
                Reply::NeedHeader { offset, len } => {
                    let whole = file.header_bytes().iter().chain(grant).copied();
                    payload = whole.skip(offset as usize).take(len as usize).collect();
                    command = Command::LoadHeader { offset };
                }
                Reply::NeedSection { section, part, first, count } => {
                    payload.clear();
                    supply = Some((section, part, first, count));
                    command = Command::LoadSupply { section, part, first, count };
                }
                _ => return Err(RuntimeError::Protocol("an answer while loading")),
            }
        }
    }

    /// Opens a request. A new device state comes back when it changed.
    pub(crate) fn begin(&mut self) -> Result<(u64, Option<Vec<u8>>), RuntimeError> {
        match self.call("opening a request", Command::Begin, &[])? {
            (Reply::Begun { request }, state) => Ok((request, (!state.is_empty()).then(|| state.to_vec()))),
            _ => Err(RuntimeError::Protocol("an answer to Begin")),
        }
    }

    /// Runs one secure segment, taking its inputs from `values` and handing each output to `out`.
    pub(crate) fn run(
        &mut self,
        request: u64,
        segment: u32,
        file: &PackageFile,
        values: &HashMap<u32, Tensor>,
        out: impl FnMut(u32, Crossed),
    ) -> Result<Traffic, RuntimeError> {
        let mut area = core::mem::take(&mut self.spill);
        let traffic = self.drive(request, segment, file, values, &mut area, out);
        self.spill = area;
        traffic
    }

    /// [`Self::run`] with the spill area, which answers are copied to.
    fn drive(
        &mut self,
        request: u64,
        segment: u32,
        file: &PackageFile,
        values: &HashMap<u32, Tensor>,
        area: &mut [u8],
        mut out: impl FnMut(u32, Crossed),
    ) -> Result<Traffic, RuntimeError> {
        const DOING: &str = "running a secure segment";
        let mut traffic = Traffic::default();
        let mut collecting: Option<(u32, Form, u64, Vec<u8>)> = None;
        let (mut command, mut payload) = (Command::Run { request, segment }, &[][..]);
        let mut spilled = 0..0;
        loop {
            self.begin_frame(command, core::mem::take(&mut payload));
            self.frame.extend_from_slice(area.get(core::mem::take(&mut spilled)).unwrap_or_default());
            let order = usize::try_from(traffic.steps).unwrap_or(usize::MAX);
            self.transport.expect(self.pace.expected(segment, order));
            let asked = Instant::now();
            let (reply, answer) = exchange(&mut *self.transport, &mut self.frame, DOING)?;
            self.pace.took(segment, order, asked.elapsed());
            traffic.steps += 1;
            let mut supply = Supply::Nothing;
            match reply {
                Reply::SegmentDone { read } => {
                    traffic.weight_bytes += read;
                    return Ok(traffic);
                }
                Reply::Working => {}
                Reply::NeedValue { value, start, len } => {
                    let tensor = values.get(&value).ok_or(RuntimeError::Protocol("a value before it is computed"))?;
                    let range =
                        usize::try_from(start).ok().and_then(|start| Some(start..start.checked_add(len as usize)?));
                    let piece = range.and_then(|range| tensor.data.get(range));
                    payload = piece.ok_or(RuntimeError::Protocol("a piece outside its value"))?;
                    traffic.crossings += u64::from(start == 0);
                    traffic.crossing_bytes += u64::from(len);
                    supply = Supply::Value { value, start, payload: Payload::Clear };
                }
                Reply::Spill { chunk } => {
                    traffic.spilled_bytes += answer.len() as u64;
                    let range = spill_range(chunk, answer.len()).ok_or(OUTSIDE)?;
                    area.get_mut(range).ok_or(OUTSIDE)?.copy_from_slice(answer);
                }
                Reply::NeedSpilled { chunk, len } => {
                    traffic.spilled_bytes += u64::from(len);
                    let range = spill_range(chunk, len as usize);
                    spilled = range.filter(|range| range.end <= area.len()).ok_or(OUTSIDE)?;
                    supply = Supply::Spilled { chunk };
                }
                Reply::Output { value, form, start, total, payload: Payload::Clear } => {
                    let (of, as_form, _, bytes) = collecting.get_or_insert_with(|| {
                        (value, form, total, Vec::with_capacity(usize::try_from(total).unwrap_or(0).min(ROOM)))
                    });
                    if (*of, *as_form, bytes.len() as u64) != (value, form, start) || answer.is_empty() {
                        return Err(RuntimeError::Protocol("pieces of an output out of order"));
                    }
                    bytes.extend_from_slice(answer);
                    traffic.crossings += u64::from(start == 0);
                    traffic.crossing_bytes += answer.len() as u64;
                    if bytes.len() as u64 >= total
                        && let Some((value, form, total, bytes)) = collecting.take()
                    {
                        if bytes.len() as u64 != total {
                            return Err(RuntimeError::Protocol("an output longer than announced"));
                        }
                        let info = file.manifest().value(value).ok_or(RuntimeError::Protocol("an unknown output"))?;
                        out(value, crossed(form, info, bytes)?);
                    }
                }
                _ => return Err(RuntimeError::Protocol("an answer while a segment runs")),
            }
            command = Command::Step { request, supply };
        }
    }

    /// Ends a complete request.
    pub(crate) fn end(&mut self, request: u64) -> Result<(), RuntimeError> {
        match self.call("closing a request", Command::End { request }, &[])?.0 {
            Reply::Closed => Ok(()),
            _ => Err(RuntimeError::Protocol("an answer to End")),
        }
    }

    /// Drops a request after an error of the normal world. A request the enclave has dropped itself is no error.
    pub(crate) fn abort(&mut self, request: u64) {
        let _ = self.call("dropping a request", Command::Abort { request }, &[]);
    }

    /// One command, one reply; a refusal or a death is an error.
    fn call(&mut self, doing: &'static str, command: Command, payload: &[u8]) -> Result<(Reply, &[u8]), RuntimeError> {
        self.begin_frame(command, payload);
        self.transport.expect(Duration::ZERO);
        self.exchange(doing)
    }

    /// Writes a command and its payload, to which more may be appended, where [`Self::exchange`] sends it from: chunks are
    /// copied there from the package, and nowhere in between.
    fn begin_frame(&mut self, command: Command, payload: &[u8]) {
        command.encode(&mut self.frame);
        self.frame.extend_from_slice(payload);
    }

    fn exchange(&mut self, doing: &'static str) -> Result<(Reply, &[u8]), RuntimeError> {
        exchange(&mut *self.transport, &mut self.frame, doing)
    }
}

fn exchange<'a>(
    transport: &mut dyn Transport,
    frame: &'a mut Vec<u8>,
    doing: &'static str,
) -> Result<(Reply, &'a [u8]), RuntimeError> {
    transport.call(frame).map_err(|death| RuntimeError::Died { doing, death, restart: None })?;
    match Reply::decode(frame) {
        Ok((Reply::Refused(refusal), _)) => Err(RuntimeError::Refused { doing, refusal }),
        Ok((reply, payload)) => Ok((reply, payload)),
        Err(_) => Err(RuntimeError::Protocol("a reply that does not decode")),
    }
}

const OUTSIDE: RuntimeError = RuntimeError::Protocol("a place outside the spill area");

/// Memory for so many chunks.
fn spill_area(chunks: u32) -> Result<Vec<u8>, RuntimeError> {
    if chunks > MAX_SPILL_CHUNKS {
        return Err(RuntimeError::Protocol("a larger spill area than any package may need"));
    }
    let (mut area, bytes) = (Vec::new(), chunks as usize * SPILL_CHUNK);
    let refused = |_| RuntimeError::HostMemory { bytes };
    area.try_reserve_exact(bytes).map_err(refused)?;
    area.resize(bytes, 0);
    Ok(area)
}

fn spill_range(chunk: u32, len: usize) -> Option<core::ops::Range<usize>> {
    let start = (chunk as usize).checked_mul(SPILL_CHUNK)?;
    Some(start..start.checked_add(len)?)
}

fn crossed(form: Form, info: &ValueInfo, bytes: Vec<u8>) -> Result<Crossed, RuntimeError> {
    Ok(match form {
        Form::Ranked => Crossed::Ranked(Ranked::decode(&bytes).map_err(|_| RuntimeError::Protocol("a ranked output"))?),
        Form::Tensor => {
            let dims: Vec<usize> = info.shape().iter().map(|&dim| dim as usize).collect();
            let tensor = Tensor::new(info.elem, dims, bytes);
            Crossed::Tensor(tensor.map_err(|_| RuntimeError::Protocol("an output of another length"))?)
        }
    })
}
