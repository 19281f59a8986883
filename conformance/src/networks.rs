//! `networks.toml`: which networks there are.

use serde::Deserialize;

/// All of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Networks {
    /// How each was exported.
    pub exports: Vec<String>,
    /// The export of those quantised to 8 bits.
    pub quantised: String,
    #[serde(rename = "network")]
    all: Vec<Network>,
}

/// A network that takes square images.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its folder.
    pub name: String,
    /// Pixels of an image's edge.
    pub size: usize,
    /// Whether it also comes quantised to 8 bits.
    #[serde(default)]
    pub quantised: bool,
    /// Its only export; such a network runs when it is named.
    pub only: Option<String>,
}

impl Networks {
    /// The file as checked in.
    pub fn read() -> Result<Self, String> {
        toml::from_str(include_str!("../networks.toml")).map_err(|error| format!("networks.toml: {error}"))
    }

    /// Those named, in the order of the names; without names, all that have every export.
    pub fn named(&self, names: &[&str]) -> Result<Vec<&Network>, String> {
        if names.is_empty() {
            return Ok(self.all.iter().filter(|network| network.only.is_none()).collect());
        }
        let find = |name: &&str| {
            self.all.iter().find(|network| network.name == **name).ok_or_else(|| {
                let known: Vec<&str> = self.all.iter().map(|network| network.name.as_str()).collect();
                format!("unknown network {name}; there are {}", known.join(", "))
            })
        };
        names.iter().map(find).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_found_by_name_and_unknown_ones_are_refused() {
        let networks = Networks::read().expect("reads");
        let usual = networks.named(&[]).expect("all");
        assert!(usual.len() >= 10 && usual.iter().all(|network| network.only.is_none()));
        let named = networks.named(&["tiny_darknet", "vgg7"]).expect("both are there");
        assert!(named[0].only.is_some() && named[1].quantised);
        assert!(named[0].only.iter().all(|export| networks.exports.contains(export)));
        assert!(networks.named(&["vgg7", "vgg8"]).expect_err("no such network").contains("vgg8"));
    }
}
