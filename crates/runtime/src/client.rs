//! Speaks the protocol with one enclave: greets, provisions, loads, carries the commands of flights.

use core::time::Duration;
use std::time::Instant;

use cordon_package::{OwnerPublic, Recipient};
use cordon_protocol::{
    Command, EvidenceKind, Greeting, LoadReport, MemoryUse, Nonce, OLDEST_VERSION, Purpose, Reply, VERSION, Window,
};

use crate::backend::Transport;
use crate::error::RuntimeError;
use crate::flight::Flight;
use crate::pace::Pace;
use crate::package_file::PackageFile;
use crate::spill::SpillArea;

/// An enclave that has been greeted.
pub struct Enclave {
    link: Link,
    greeting: Greeting,
    /// As long as the package loaded needs, before it runs.
    spill: SpillArea,
    pace: Pace,
}

/// What [`Enclave::attest`] brings; nothing of it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How it is to be appraised.
    pub kind: EvidenceKind,
    /// An encoded [`Binding`](cordon_protocol::Binding).
    pub binding: Vec<u8>,
    /// The platform's evidence, which vouches for the binding's report data.
    pub evidence: Vec<u8>,
}

impl Enclave {
    /// Greets a started enclave.
    pub fn greet(transport: Box<dyn Transport>) -> Result<Self, RuntimeError> {
        let mut link = Link { transport, frame: Vec::new(), window: None };
        let hello = Command::Hello { oldest: OLDEST_VERSION, newest: VERSION };
        match link.call("greeting it", hello, &[])?.0 {
            Reply::Hello(greeting) if greeting.payload_limit > 0 => {
                Ok(Self { link, greeting, spill: SpillArea::default(), pace: Pace::default() })
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
        self.link.transport.cpu_time()
    }

    /// Makes the device key inside and pins owners; returns the device's recipient.
    pub fn provision(&mut self, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        let keys: Vec<u8> = owners.iter().flat_map(|owner| *owner.as_bytes()).collect();
        let (Reply::Provisioned, payload) = self.link.call("making the device key", Command::Provision, &keys)? else {
            return Err(RuntimeError::Protocol("an answer to Provision"));
        };
        let text = core::str::from_utf8(payload).map_err(|_| RuntimeError::Protocol("a recipient"))?;
        Ok(Recipient::parse(text)?)
    }

    /// Memory figures now.
    pub fn memory(&mut self) -> Result<MemoryUse, RuntimeError> {
        match self.link.call("reporting", Command::Report, &[])?.0 {
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
        let begin = Command::LoadBegin { header_len: len(file.header_bytes())?, grant_len: len(grant)? };
        self.link.begin(begin).extend_from_slice(state);
        loop {
            let (reply, answer) = self.link.exchange(DOING, Duration::ZERO)?;
            match reply {
                Reply::Loaded(report) => {
                    let state = (!answer.is_empty()).then(|| answer.to_vec());
                    self.spill = SpillArea::new(report.spill)?;
                    return Ok((report, state));
                }
                Reply::NeedHeader { offset, len } => {
                    let whole = file.header_bytes().iter().chain(grant).copied();
                    let frame = self.link.begin(Command::LoadHeader { offset });
                    frame.extend(whole.skip(offset as usize).take(len as usize));
                }
                Reply::NeedSection { section, part, first, count } => {
                    let frame = self.link.begin(Command::LoadSupply { section, part, first, count });
                    file.supply(section, part, first, count, frame)?;
                }
                _ => return Err(RuntimeError::Protocol("an answer while loading")),
            }
        }
    }

    /// What the enclave is, as its platform vouches for it: evidence for `purpose` that answers `nonces`, with the binding
    /// it is over.
    pub fn attest(&mut self, purpose: Purpose, nonces: &[Nonce]) -> Result<Evidence, RuntimeError> {
        let wrong = || RuntimeError::Protocol("pieces of evidence");
        let mut command = Command::Attest { purpose };
        let mut bytes = Vec::new();
        loop {
            let payload = if bytes.is_empty() { nonces.as_flattened() } else { &[] };
            let (reply, piece) = self.link.call("making evidence", command, payload)?;
            let Reply::Evidence { kind, binding_len, start, total } = reply else { return Err(wrong()) };
            if start as usize != bytes.len() || piece.is_empty() || bytes.len() + piece.len() > total as usize {
                return Err(wrong());
            }
            bytes.extend_from_slice(piece);
            if bytes.len() == total as usize {
                let evidence = bytes.split_off((binding_len as usize).min(bytes.len()));
                return Ok(Evidence { kind, binding: bytes, evidence });
            }
            command = Command::AttestMore { start: u32::try_from(bytes.len()).map_err(|_| wrong())? };
        }
    }

    /// Sends the command a flight is at and gives it the answer. A new device state comes back when that changed it.
    pub(crate) fn answer(&mut self, flight: &mut Flight, command: Command) -> Result<Option<Vec<u8>>, RuntimeError> {
        let Self { link, spill, pace, .. } = self;
        let place = flight.place();
        let expected = place.map_or(Duration::ZERO, |(segment, order)| pace.expected(segment, order));
        link.begin(command).extend_from_slice(flight.payload(spill));
        let asked = Instant::now();
        let (reply, payload) = link.exchange(flight.doing(), expected)?;
        let now = Instant::now();
        if let Some((segment, order)) = place {
            pace.took(segment, order, now.duration_since(asked));
        }
        let state = matches!(reply, Reply::Begun { .. }) && !payload.is_empty();
        let state = state.then(|| payload.to_vec());
        flight.replied(reply, payload, spill, now)?;
        Ok(state)
    }

    /// Drops a request. One that the enclave has dropped itself is no error.
    pub(crate) fn abort(&mut self, request: u64) -> Result<(), RuntimeError> {
        match self.link.call("dropping a request", Command::Abort { request }, &[]) {
            Ok(_) | Err(RuntimeError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// One command, one reply.
struct Link {
    transport: Box<dyn Transport>,
    frame: Vec<u8>,
    /// What the next command brings of the store.
    window: Option<Window>,
}

impl Link {
    fn call(&mut self, doing: &'static str, command: Command, payload: &[u8]) -> Result<(Reply, &[u8]), RuntimeError> {
        self.begin(command).extend_from_slice(payload);
        self.exchange(doing, Duration::ZERO)
    }

    /// Writes a command where [`Self::exchange`] sends it from. The payload is appended there, without a copy in between.
    fn begin(&mut self, command: Command) -> &mut Vec<u8> {
        command.encode(&mut self.frame);
        &mut self.frame
    }

    /// Sends what was begun; a refusal or a death is an error. The answer is `expected` to take this long, if that is known.
    fn exchange(&mut self, doing: &'static str, expected: Duration) -> Result<(Reply, &[u8]), RuntimeError> {
        self.transport.expect(expected);
        let died = |death| RuntimeError::Died { doing, death, restart: None };
        self.transport.call(&mut self.frame, self.window.take()).map_err(died)?;
        let decoded = Reply::decode_with_window(&mut self.frame);
        let (reply, window, payload) = decoded.map_err(|_| RuntimeError::Protocol("a reply that does not decode"))?;
        self.window = window;
        match reply {
            Reply::Refused(refusal) => Err(RuntimeError::Refused { doing, refusal }),
            reply => Ok((reply, payload)),
        }
    }
}
