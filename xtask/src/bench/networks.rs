//! Which networks are measured, and what is published about the memory others need for them.

/// The golden networks, as the tables list them.
pub(super) const GOLDEN: [&str; 10] = [
    "resnet50",
    "vgg16",
    "alexnet",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "squeezenet1_1",
    "vit_b_16",
    "alexnet32",
    "vgg7",
];

/// One of Darknet's networks.
pub(super) struct Darknet {
    /// As `cargo xtask models` names it.
    pub(super) name: &'static str,
    /// MiB that DarkneTZ's allocator takes for the whole network inside, computed from its cfg files and allocation code
    /// (shared/references/papers.md, section 2.5). It publishes no times.
    pub(super) darknetz_mib: Option<f64>,
}

/// Darknet's networks, smallest first.
pub(super) const DARKNET: [Darknet; 8] = [
    Darknet { name: "tiny_darknet", darknetz_mib: Some(64.0) },
    Darknet { name: "darknet_reference", darknetz_mib: Some(103.0) },
    Darknet { name: "extraction", darknetz_mib: Some(244.0) },
    Darknet { name: "darknet19", darknetz_mib: None },
    Darknet { name: "resnet50_darknet", darknetz_mib: Some(378.0) },
    Darknet { name: "densenet201_darknet", darknetz_mib: Some(311.0) },
    Darknet { name: "darknet53", darknetz_mib: None },
    Darknet { name: "darknet53_448", darknetz_mib: Some(952.0) },
];

/// All names, in the order of tables and plots.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    GOLDEN.into_iter().chain(DARKNET.iter().map(|it| it.name))
}
