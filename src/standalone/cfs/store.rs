//! Named JSON values, one file each.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The longest name CFS takes.
const NAME: usize = 60;

/// A directory of values whose `name` is the file's.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A name that CFS takes; one that is not names nothing.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let edges = |c: char| c.is_ascii_alphanumeric();
    if name.len() <= NAME
        && name.chars().all(plain)
        && name.starts_with(edges)
        && name.ends_with(edges)
    {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a valid name: use up to {NAME} letters, digits, - _ and ., with a letter \
         or digit first and last"
    ))
}

/// A value as it is stored.
pub fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Store {
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    pub fn get(&self, name: &str) -> io::Result<Option<Value>> {
        let Some(path) = self.path(name) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| {
                let what = format!(
                    "{} is damaged ({error}): put back a backup or remove it",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, what)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that can be read, by name.
    pub fn list(&self) -> io::Result<Vec<Value>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Some(name) = entry?.file_name().to_str().and_then(|it| it.strip_suffix(".json"))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        let mut values = Vec::new();
        for name in names {
            match self.get(&name) {
                Ok(value) => values.extend(value),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "skipping a file that cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    /// Makes or replaces one.
    pub fn put(&self, value: &Value) -> io::Result<()> {
        let (path, file) = self.file(value)?;
        file.persist(path).map_err(|error| error.error)?;
        self.sync()
    }

    /// Creates one; false if there is one of this name.
    pub fn create(&self, value: &Value) -> io::Result<bool> {
        let (path, file) = self.file(value)?;
        match file.persist_noclobber(path) {
            Ok(_) => self.sync().map(|()| true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    /// False if there is none.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let Some(path) = self.path(name) else { return Ok(false) };
        match std::fs::remove_file(path) {
            Ok(()) => self.sync().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes names survive a power cut.
    fn sync(&self) -> io::Result<()> {
        std::fs::File::open(&self.directory)?.sync_all()
    }

    /// The value in a file that has no name yet, and the name it is to have.
    fn file(&self, value: &Value) -> io::Result<(PathBuf, tempfile::NamedTempFile)> {
        let name = value["name"].as_str().unwrap_or_default();
        let path = self.path(name).ok_or(io::ErrorKind::InvalidFilename)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&bytes(value))?;
        file.as_file().sync_all()?;
        Ok((path, file))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        check_name(name).ok().map(|()| self.directory.join(format!("{name}.json")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_damaged_value_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().into()).unwrap();
        assert!(store.create(&json!({"name": "a"})).unwrap());
        std::fs::write(dir.path().join("b.json"), "").unwrap();
        assert_eq!(store.list().unwrap(), [json!({"name": "a"})]);
        let error = store.get("b").unwrap_err().to_string();
        assert!(error.contains("b.json is damaged"), "{error}");
    }
}
