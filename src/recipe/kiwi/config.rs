//! Kiwi's runtime configuration: the site's, with one addition.
//!
//! Kiwi reads only one file: that of `--config`, or `~/.config/kiwi/config.yml`, or
//! `/etc/kiwi.yml`. So our file includes the site's settings.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Error;
use linux::cgroup;

const SITE: &str = "/etc/kiwi.yml";
const USER: &str = ".config/kiwi/config.yml";

/// The configuration for a build, in JSON, which is YAML; `None` where the site says itself how to
/// compress. `home` is where kiwi looks first.
pub(super) fn text(home: Option<&Path>) -> Result<Option<String>, Error> {
    let user = home.map(|home| home.join(USER)).filter(|path| path.exists());
    let path = user.unwrap_or(SITE.into());
    let site = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Error::Io { path, source }),
    };
    let merged = merge(&site, cgroup::cpus());
    merged.map_err(|source| Error::SiteConfig { path, source: Box::new(source) })
}

/// The tarball that kiwi creates of the root is deleted, so it is created as fast as possible. What
/// the site has set stays.
fn merge(site: &[u8], threads: usize) -> Result<Option<String>, serde_saphyr::Error> {
    let site: Option<Map<String, Value>> = serde_saphyr::from_slice(site)?;
    let mut config = site.unwrap_or_default();
    if config.contains_key("xz") {
        return Ok(None);
    }
    config.insert("xz".into(), json!([{ "options": format!("-0 --threads={threads}") }]));
    Ok(Some(Value::Object(config).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(site: &str) -> Option<Value> {
        merge(site.as_bytes(), 2).unwrap().map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn compression_is_added_to_what_the_site_has() {
        let xz = json!([{ "options": "-0 --threads=2" }]);
        assert_eq!(merged("").unwrap(), json!({ "xz": xz }));
        assert_eq!(merged("# all comments\n").unwrap(), json!({ "xz": xz }));
        let site = "obs:\n  - public: false\nmapper:\n  - part_mapper: kpartx\n";
        let found = merged(site).unwrap();
        assert_eq!(found["obs"], json!([{ "public": false }]));
        assert_eq!(found["xz"], xz);
    }

    #[test]
    fn a_site_that_sets_it_is_left_alone_and_a_broken_file_is_an_error() {
        assert!(merged("xz:\n  - options: -9\n").is_none());
        assert!(merge(b"{", 2).is_err());
    }
}
