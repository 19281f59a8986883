//! Bounds on what a model file may ask for, checked before memory is taken.

/// Upper bounds; the defaults are far above every model Cordon is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes of the model after local functions are inlined.
    pub nodes: usize,
    /// Memory of the decoded structure (nodes, attributes, names), tensor data apart.
    pub structure_bytes: u64,
    /// Data of one tensor.
    pub tensor_bytes: u64,
    /// Extents of one tensor.
    pub rank: usize,
    /// Function calls within function calls.
    pub call_depth: usize,
    /// Subgraphs within subgraphs.
    pub graph_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 200_000,
            structure_bytes: 1 << 30,
            tensor_bytes: 64 << 30,
            rank: 32,
            call_depth: 64,
            graph_depth: 16,
        }
    }
}
