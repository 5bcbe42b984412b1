//! Named JSON values, a file each.

use std::io::{self, Write};
use std::path::PathBuf;

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
        "{name:?} is no name: up to {NAME} letters, digits, - _ and . that begin and end with a letter \
         or digit"
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
        match std::fs::read(path) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> io::Result<Vec<Value>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Some(name) = entry?.file_name().to_str().and_then(|it| it.strip_suffix(".json"))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.iter().filter_map(|name| self.get(name).transpose()).collect()
    }

    /// Makes or replaces one.
    pub fn put(&self, value: &Value) -> io::Result<()> {
        let (path, file) = self.file(value)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// Makes one; false if there is one of this name.
    pub fn create(&self, value: &Value) -> io::Result<bool> {
        let (path, file) = self.file(value)?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(true),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    /// False if there is none.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let Some(path) = self.path(name) else { return Ok(false) };
        match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
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
