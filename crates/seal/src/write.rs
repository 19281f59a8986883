//! Writing the file, reading it back, and the whole of sealing.

use crate::golden::{Golden, golden};
use crate::{Contents, Probe, SealError};
use bytes::Bytes;
use cordon_package::{
    OutputPolicy, OwnerKey, PackageError, Recipient, SealRequest, Sealer, SectionPlan, Sink, Trust, check, chunk,
};
use cordon_plan::{Model, Plan};
use cordon_runtime::Backend;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who seals what for whom.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Signs, and is always a recipient.
    pub owner: &'a OwnerKey,
    /// Devices.
    pub recipients: &'a [Recipient],
    /// What versions are counted of.
    pub name: &'a str,
    /// Version of `name`.
    pub version: u64,
    /// Last second of validity, Unix time.
    pub not_after: Option<u64>,
    /// Requests a device may serve.
    pub max_requests: Option<u64>,
    /// What leaves the enclave.
    pub policy: OutputPolicy,
}

/// A finished package.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What the check found.
    pub golden: Golden,
}

/// Seals a planned model into `output`. The file appears only after it was read back, decrypted, compared with what was
/// meant, run in an enclave and compared with the plain model. `executor` names the engine of normal segments and of the
/// plain model, `backend` what drives the enclave: the one of the plan's platform.
#[expect(clippy::too_many_arguments, reason = "each is a separate thing that sealing must not make up itself")]
pub fn seal(
    model: &Model,
    plan: &Plan,
    backend: &Arc<dyn Backend>,
    identity: &Identity<'_>,
    executor: (&str, &cordon_executor::Options),
    probes: &[Probe],
    output: &Path,
    stage: &mut dyn FnMut(&str),
) -> Result<Sealed, SealError> {
    stage("lowering");
    let contents = Contents::new(model, plan, backend.profile())?;
    contents.manifest.clone().encode()?;
    let folder = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error| SealError::Io { path: output.to_path_buf(), error };
    // Private until it is complete, and removed when anything below fails.
    let mut file = tempfile::Builder::new().prefix(".cordon-").suffix(".cordon").tempfile_in(folder).map_err(failed)?;
    stage("encrypting");
    write(&contents, identity, file.as_file_mut()).map_err(|error| named(error, output))?;
    stage("reading back");
    read_back(&contents, identity, file.as_file()).map_err(|error| named(error, output))?;
    let golden = golden(model, plan, &contents, backend, identity, file.path(), executor, probes, stage)?;
    let bytes = file.as_file().metadata().map_err(failed)?.len();
    publish(file, output).map_err(failed)?;
    Ok(Sealed { path: output.to_path_buf(), bytes, golden })
}

/// Streams every section into `file`, which must be empty.
pub fn write(contents: &Contents, identity: &Identity<'_>, file: &mut File) -> Result<(), SealError> {
    let sections = contents.sections();
    let request = SealRequest {
        name: identity.name,
        version: identity.version,
        not_after: identity.not_after,
        max_requests: identity.max_requests,
        output_policies: &[identity.policy],
        recipients: identity.recipients,
        brokers: &[],
        sections: &sections,
    };
    let mut sealer = Sealer::new(&request, identity.owner, &mut random)?;
    contents.manifest.check_header(sealer.header()).map_err(|error| match error {
        PackageError::Manifest { rule, .. } => SealError::Policy(rule),
        other => other.into(),
    })?;
    let mut sink = FileSink { to: BufWriter::with_capacity(1 << 20, file), failure: None };
    let gap = vec![0; sealer.header_len()];
    sink.settle(|sink| sink.write(&gap))?;
    for section in &sections {
        contents.feed(section, &mut |bytes| sink.settle(|sink| sealer.push(bytes, sink)))?;
    }
    let header = sealer.finish(&mut random)?;
    let io = |error| SealError::Io { path: PathBuf::new(), error };
    let file = sink.to.into_inner().map_err(|error| io(error.into_error()))?;
    file.rewind().map_err(io)?;
    file.write_all(&header).map_err(io)?;
    file.sync_all().map_err(io)
}

/// Draws from the operating system's generator.
pub(crate) fn random(out: &mut [u8]) -> Result<(), PackageError> {
    getrandom::fill(out).map_err(|_| PackageError::Random)
}

/// Opens the file with the owner's own key and compares every section with what was meant.
fn read_back(contents: &Contents, identity: &Identity<'_>, file: &File) -> Result<(), SealError> {
    let bytes = cordon_mapped::file(file).map_err(|error| SealError::Io { path: PathBuf::new(), error })?;
    let owners = [identity.owner.public()];
    let trust = Trust { dangerous_accept_development: true, ..Trust::pinned(&owners) };
    let (manifest, opened) = check(&bytes, &trust, identity.owner.recipient_key())?;
    if manifest != contents.manifest {
        return Err(SealError::Golden("the manifest reads back differently".into()));
    }
    for section in contents.sections() {
        let mut reader = SectionReader::new(&opened, &bytes, section)?;
        contents.feed(&section, &mut |piece| reader.expect(piece))?;
    }
    Ok(())
}

/// Reads a section's plaintext in step with what is expected of it.
struct SectionReader<'a> {
    file: &'a Bytes,
    section: cordon_package::Section,
    sealed: Option<cordon_package::SealedSection>,
    index: u32,
    buffer: Vec<u8>,
    at: usize,
}

impl<'a> SectionReader<'a> {
    fn new(opened: &cordon_package::Opened, file: &'a Bytes, plan: SectionPlan) -> Result<Self, SealError> {
        let section = opened.header().section(plan.kind, plan.segment).cloned();
        let section = section.ok_or_else(|| SealError::Golden("a section is missing in what was written".into()))?;
        let sealed = if plan.kind.is_sealed() {
            let mut table = opened.verified().leaf_table(plan.kind, plan.segment)?;
            table.push(cordon_package::leaves(file, &section)?)?;
            Some(opened.section(table.finish()?)?)
        } else {
            None
        };
        Ok(Self { file, section, sealed, index: 0, buffer: Vec::new(), at: 0 })
    }

    fn expect(&mut self, mut piece: &[u8]) -> Result<(), SealError> {
        while !piece.is_empty() {
            if self.at == self.buffer.len() {
                self.next_chunk()?;
            }
            let n = piece.len().min(self.buffer.len() - self.at);
            let (now, later) = piece.split_at(n);
            if self.buffer[self.at..self.at + n] != *now {
                let (kind, segment) = (self.section.kind(), self.section.segment());
                return Err(SealError::Golden(format!("{kind} of segment {segment} reads back differently")));
            }
            self.at += n;
            piece = later;
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> Result<(), SealError> {
        self.buffer = chunk(self.file, &self.section, self.index)?.to_vec();
        if let Some(sealed) = &self.sealed {
            let plain = sealed.decrypt_chunk(self.index, &mut self.buffer)?.len();
            self.buffer.truncate(plain);
        }
        self.index += 1;
        self.at = 0;
        Ok(())
    }
}

struct FileSink<'a> {
    to: BufWriter<&'a mut File>,
    failure: Option<std::io::Error>,
}

impl FileSink<'_> {
    /// Runs `step`, and gives the file's own reason when the file was what failed.
    fn settle(&mut self, step: impl FnOnce(&mut Self) -> Result<(), PackageError>) -> Result<(), SealError> {
        step(self).map_err(|error| match self.failure.take() {
            Some(error) => SealError::Io { path: PathBuf::new(), error },
            None => error.into(),
        })
    }
}

impl Sink for FileSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        self.to.write_all(bytes).map_err(|error| {
            self.failure = Some(error);
            PackageError::Sink
        })
    }
}

fn named(error: SealError, path: &Path) -> SealError {
    match error {
        SealError::Io { path: unknown, error } if unknown.as_os_str().is_empty() => {
            SealError::Io { path: path.to_path_buf(), error }
        }
        other => other,
    }
}

/// Packages are public by design: readable like any file the caller makes.
fn publish(file: tempfile::NamedTempFile, output: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(output).map(drop).map_err(|error| error.error)
}
