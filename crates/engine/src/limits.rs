//! What a Program may take, and what it takes.

/// What a Program may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of arena, weights and tables together.
    pub secure_memory_bytes: u64,
    /// Elementary operations of one instruction: no Program makes one step endless.
    pub instruction_work: u64,
}

impl Limits {
    /// The given memory budget, and room for any instruction of a real model: 2^40 operations.
    pub fn new(secure_memory_bytes: u64) -> Self {
        Self { secure_memory_bytes, instruction_work: 1 << 40 }
    }
}

/// Secure memory a [`Prepared`](crate::Prepared) holds, in bytes. All of it is allocated by
/// [`Unloaded::new`](crate::Unloaded::new) and none later, so what is held is also the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Activations.
    pub arena: u64,
    /// Resident constants.
    pub weights: u64,
    /// The window constants stream through.
    pub window: u64,
    /// The Program and the tables that say which constant lies where.
    pub tables: u64,
}

impl MemoryReport {
    /// Everything.
    pub fn total(&self) -> u64 {
        self.arena + self.weights + self.window + self.tables
    }
}

/// What a [`Prepared`](crate::Prepared) will take, known without allocating it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// What [`Prepared::memory`](crate::Prepared::memory) will report.
    pub memory: MemoryReport,
    /// Of these, what [`Residency::Budget`](crate::Residency::Budget) bounds: resident constants, the window, and their tables.
    pub constants: u64,
    /// Pieces every request asks for: [`Prepared::pieces_per_request`](crate::Prepared::pieces_per_request).
    pub pieces: u64,
    /// Instructions of every request that wait for pieces.
    pub loads: u64,
}
