//! A CFS configuration: parsed (v3, or the camel case of v2), checked, and layers picked from it.

use serde::{Deserialize, Serialize};

/// What CFS plays where a layer does not say.
const SITE: &str = "site.yml";

/// A configuration that can be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Configuration {
    pub name: String,
    pub layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_inventory: Option<Source>,
}

/// One playbook of one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    pub name: String,
    #[serde(flatten)]
    pub source: Source,
    /// Relative to the repository.
    pub playbook: String,
    pub special_parameters: SpecialParameters,
}

/// A state of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    pub clone_url: String,
    /// Wins over the branch, as it does in CFS, which keeps both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialParameters {
    /// The layer builds kernel modules: the session gets `/proc`, `/sys` and `/dev` for that.
    #[serde(default, alias = "imsRequireDkms")]
    pub ims_require_dkms: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is not a CFS configuration")]
    Form(#[from] serde_json::Error),
    #[error("the configuration cannot be used: {}", .0.join("; "))]
    Faults(Vec<String>),
    #[error("there is no layer {wanted:?}; the layers are {layers}")]
    Unknown { wanted: String, layers: String },
    #[error("several layers are called {wanted:?}, use the index: {layers}")]
    Ambiguous { wanted: String, layers: String },
    #[error("--limit and --from exclude every layer of {layers}")]
    Nothing { layers: String },
}

/// As it is read: everything may be missing, and fields that are not ours are left alone.
#[derive(Deserialize)]
struct Raw {
    name: Option<String>,
    #[serde(default)]
    layers: Vec<RawSource>,
    #[serde(default, alias = "additionalInventory")]
    additional_inventory: Option<RawSource>,
}

#[derive(Deserialize)]
struct RawSource {
    name: Option<String>,
    #[serde(alias = "cloneUrl")]
    clone_url: Option<String>,
    source: Option<String>,
    commit: Option<String>,
    branch: Option<String>,
    playbook: Option<String>,
    #[serde(default, alias = "specialParameters")]
    special_parameters: Option<SpecialParameters>,
}

impl Configuration {
    /// Reads a configuration; `name` is its name where it does not say. All faults at once.
    pub fn parse(json: &[u8], name: &str) -> Result<Self, Error> {
        let raw: Raw = serde_json::from_slice(json)?;
        let mut faults = Vec::new();
        if raw.layers.is_empty() {
            faults.push("it has no layers".to_owned());
        }
        let layers: Vec<_> =
            (0..).zip(raw.layers).map(|(index, layer)| layer.layer(index, &mut faults)).collect();
        let additional_inventory = raw
            .additional_inventory
            .map(|inventory| inventory.source("the additional inventory", &mut faults));
        if !faults.is_empty() {
            return Err(Error::Faults(faults));
        }
        Ok(Self { name: present(raw.name).unwrap_or(name.into()), layers, additional_inventory })
    }

    /// The indices of the layers to apply, in the order of the configuration. `limit` is a list of
    /// indices (from 0) and names with commas between; `from` is one such, the first to apply. What
    /// does not exist is an error; CFS drops it.
    pub fn select(&self, limit: Option<&str>, from: Option<&str>) -> Result<Vec<usize>, Error> {
        let mut chosen: Vec<usize> = match limit {
            None => (0..self.layers.len()).collect(),
            Some(list) => {
                let found: Result<_, _> = list.split(',').map(|one| self.find(one)).collect();
                found?
            }
        };
        chosen.sort_unstable();
        chosen.dedup();
        if let Some(from) = from {
            let first = self.find(from)?;
            chosen.retain(|index| *index >= first);
        }
        if chosen.is_empty() {
            return Err(Error::Nothing { layers: self.listing() });
        }
        Ok(chosen)
    }

    /// The layer of an index or a name.
    pub fn find(&self, wanted: &str) -> Result<usize, Error> {
        let wanted = wanted.trim();
        if let Ok(index) = wanted.parse::<usize>()
            && index < self.layers.len()
        {
            return Ok(index);
        }
        let named = |index: &usize| !wanted.is_empty() && self.layers[*index].name == wanted;
        let mut found = (0..self.layers.len()).filter(named);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (None, _) => Err(Error::Unknown { wanted: wanted.into(), layers: self.listing() }),
            (Some(_), Some(_)) => {
                Err(Error::Ambiguous { wanted: wanted.into(), layers: self.listing() })
            }
        }
    }

    fn listing(&self) -> String {
        let names = self.layers.iter().enumerate();
        names
            .map(|(index, layer)| format!("{index} ({})", layer.name))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl RawSource {
    fn layer(mut self, index: usize, faults: &mut Vec<String>) -> Layer {
        let name = present(self.name.take()).unwrap_or_else(|| format!("layer-{index}"));
        let what = format!("layer {index} ({name})");
        let playbook = present(self.playbook.take()).unwrap_or_else(|| SITE.into());
        if playbook.starts_with(['/', '-']) || playbook.split('/').any(|part| part == "..") {
            faults.push(format!("{what}: the playbook {playbook:?} is not inside its repository"));
        }
        let special_parameters = self.special_parameters.take().unwrap_or_default();
        Layer { name, source: self.source(&what, faults), playbook, special_parameters }
    }

    fn source(self, what: &str, faults: &mut Vec<String>) -> Source {
        let (commit, branch) = (present(self.commit), present(self.branch));
        let clone_url = present(self.clone_url).unwrap_or_default();
        match (clone_url.as_str(), present(self.source)) {
            ("", Some(source)) => faults.push(format!(
                "{what} uses the source {source:?}, which is known only to CFS: use its clone_url \
                 instead"
            )),
            ("", None) => faults.push(format!("{what} has no clone_url")),
            _ => {}
        }
        if commit.is_none() && branch.is_none() {
            faults.push(format!("{what} has neither a commit nor a branch"));
        }
        let texts = [Some(&clone_url), commit.as_ref(), branch.as_ref()];
        for text in texts.into_iter().flatten() {
            // git would take it for an option.
            if text.starts_with('-') || text.contains(char::is_control) {
                faults.push(format!("{what}: {text:?} is not a valid argument for git"));
            }
        }
        Source { clone_url, commit, branch }
    }
}

/// CFS writes what is not set as an empty string.
fn present(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Configuration {
        let json = br#"{"name": "c", "last_updated": "x", "layers": [
            {"name": "a", "clone_url": "u", "branch": "main"},
            {"name": "b", "clone_url": "u", "commit": "1234", "playbook": "b.yml",
             "special_parameters": {"ims_require_dkms": true}},
            {"name": "a2", "cloneUrl": "u", "branch": "", "commit": "12",
             "specialParameters": {"imsRequireDkms": true}}]}"#;
        Configuration::parse(json, "file").unwrap()
    }

    #[test]
    fn both_versions_of_the_api_are_read() {
        let it = three();
        assert_eq!(it.name, "c");
        assert_eq!(it.layers[0].playbook, "site.yml");
        assert!(!it.layers[0].special_parameters.ims_require_dkms);
        assert_eq!(it.layers[2].source.branch, None);
        assert!(it.layers[1].special_parameters.ims_require_dkms);
        assert!(it.layers[2].special_parameters.ims_require_dkms);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let json = br#"{"layers": [{"name": "a"}, {"source": "s", "commit": "-x"},
            {"clone_url": "u", "branch": "b", "playbook": "../x.yml"}]}"#;
        let error = Configuration::parse(json, "file").unwrap_err().to_string();
        for part in ["no clone_url", "neither a commit", "the source \"s\"", "\"-x\"", "../x.yml"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Configuration::parse(br#"{"layers": []}"#, "file").is_err());
    }

    #[test]
    fn limits_are_exact() {
        let it = three();
        assert_eq!(it.select(None, None).unwrap(), [0, 1, 2]);
        assert_eq!(it.select(Some("2,a, 0"), None).unwrap(), [0, 2]);
        assert_eq!(it.select(Some("0,2"), Some("b")).unwrap(), [2]);
        for (limit, from) in
            [("3", None), ("nope", None), ("0,", None), ("-1", None), ("0", Some("9"))]
        {
            let error = it.select(Some(limit), from).unwrap_err().to_string();
            assert!(error.contains("0 (a), 1 (b), 2 (a2)"), "{limit}: {error}");
        }
        assert!(it.select(Some("0"), Some("1")).is_err());
    }
}
