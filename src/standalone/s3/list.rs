//! Listing: keys in order, cut by prefix, delimiter, starting point and page size.

use redb::ReadableDatabase;

use super::index::{Index, OBJECTS, Result, decode};
use super::model::Object;

/// One line of a listing.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Object(String, Box<Object>),
    /// Keys that continue after the delimiter, rolled up.
    Prefix(String),
}

impl Entry {
    /// What the next page starts after.
    pub fn name(&self) -> &str {
        match self {
            Entry::Object(name, _) | Entry::Prefix(name) => name,
        }
    }
}

/// A page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// More entries follow.
    pub truncated: bool,
}

impl Index {
    /// At most `max` entries of `bucket` under `prefix`, after `after`.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        max: usize,
    ) -> Result<Page> {
        self.check_bucket(bucket)?;
        let table = self.db.begin_read()?.open_table(OBJECTS)?;
        let mut page = Page::default();
        let mut start = prefix.max(after.unwrap_or("")).to_owned();
        let mut inclusive = after.is_none_or(|after| after < start.as_str());
        'seek: loop {
            for row in table.range((bucket, start.as_str())..)? {
                let (at, value) = row?;
                let (row_bucket, key) = at.value();
                if row_bucket != bucket || !key.starts_with(prefix) {
                    return Ok(page);
                }
                if !inclusive && key == start {
                    continue;
                }
                let rolled = delimiter.and_then(|delimiter| roll_up(key, prefix, delimiter));
                // A page may end on a rolled-up prefix: all keys below it are already listed.
                if rolled.is_none_or(|rolled| after != Some(rolled)) {
                    if page.entries.len() == max {
                        page.truncated = true;
                        return Ok(page);
                    }
                    page.entries.push(match rolled {
                        Some(rolled) => Entry::Prefix(rolled.to_owned()),
                        None => Entry::Object(key.to_owned(), Box::new(decode(value.value())?)),
                    });
                }
                if let Some(rolled) = rolled {
                    // U+10FFFF sorts after whatever a key may continue with.
                    start = format!("{rolled}\u{10FFFF}");
                    inclusive = true;
                    continue 'seek;
                }
            }
            return Ok(page);
        }
    }
}

/// `key` up to and with the first delimiter after `prefix`.
fn roll_up<'k>(key: &'k str, prefix: &str, delimiter: &str) -> Option<&'k str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key[prefix.len()..].find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::s3::model::Attributes;

    fn index(keys: &[&str]) -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index"), true).unwrap();
        index.create_bucket("ims").unwrap();
        index.create_bucket("imt").unwrap();
        let object = Object {
            segments: vec![],
            size: 0,
            etag: String::new(),
            modified: 0,
            attributes: Attributes::default(),
        };
        for key in keys {
            index.put(("ims", key), &object, |_| true).unwrap();
            index.put(("imt", key), &object, |_| true).unwrap();
        }
        (dir, index)
    }

    /// All pages of a listing, of `max` entries each.
    fn walk(index: &Index, prefix: &str, delimiter: Option<&str>, max: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let page = index.list("ims", prefix, delimiter, after.as_deref(), max).unwrap();
            assert!(page.entries.len() <= max);
            names.extend(page.entries.iter().map(|entry| entry.name().to_owned()));
            if !page.truncated {
                return names;
            }
            after = names.last().cloned();
        }
    }

    #[test]
    fn pages_of_any_size_tell_the_same() {
        let (_dir, index) = index(&["a", "a/1", "a/2/x", "a/2/y", "a0", "b/1", "c"]);
        for max in 1..9 {
            assert_eq!(
                walk(&index, "", None, max),
                ["a", "a/1", "a/2/x", "a/2/y", "a0", "b/1", "c"]
            );
            assert_eq!(walk(&index, "", Some("/"), max), ["a", "a/", "a0", "b/", "c"]);
            assert_eq!(walk(&index, "a/", Some("/"), max), ["a/1", "a/2/"]);
            assert_eq!(walk(&index, "a/", None, max), ["a/1", "a/2/x", "a/2/y"]);
            assert!(walk(&index, "zz", None, max).is_empty());
        }
    }
}
