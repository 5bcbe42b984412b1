//! The authorized_keys file, as sshd(8) describes it. Read once, at the start of the server.

mod addresses;
mod line;
mod options;

use std::path::{Path, PathBuf};

use russh::keys::PublicKey;

pub use addresses::PatternList;
pub use line::{REQUIRED_RSA_SIZE, acceptable};
pub use options::{Host, Options, PermitListen, PermitOpen};

/// Why no key could be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the authorized keys file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the authorized keys file {} contains no usable key (the log lists its {bad} bad lines), \
         so nobody could log in", path.display()
    )]
    Empty { path: PathBuf, bad: usize },
}

/// One line: a key (or an authority's key) and what may be done with it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: PublicKey,
    pub options: Options,
    /// Counted from 1.
    pub line: usize,
}

/// A line that was left out, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    pub line: usize,
    pub reason: String,
}

/// The keys that may log in.
#[derive(Debug, Clone, Default)]
pub struct AuthorizedKeys {
    entries: Vec<Entry>,
}

impl AuthorizedKeys {
    /// Reads `path`; bad lines are logged with their number and left out.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let (keys, bad) = Self::parse(&text);
        for BadLine { line, reason } in &bad {
            tracing::warn!(file = %path.display(), line, reason, "ignoring a line of the \
                authorized keys file");
        }
        match keys.entries.is_empty() {
            true => Err(Error::Empty { path: path.to_owned(), bad: bad.len() }),
            false => Ok(keys),
        }
    }

    /// Every line of `text` that is neither blank nor a comment, good or bad.
    pub fn parse(text: &[u8]) -> (Self, Vec<BadLine>) {
        let mut entries = Vec::new();
        let mut bad = Vec::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let parsed = std::str::from_utf8(line)
                .map_err(|_| "not UTF-8 text".to_owned())
                .and_then(line::parse);
            match parsed {
                Ok(Some((key, options))) => entries.push(Entry { key, options, line: number }),
                Ok(None) => {}
                Err(reason) => bad.push(BadLine { line: number, reason }),
            }
        }
        (Self { entries }, bad)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn blanks_comments_crlf_tabs_and_bad_lines_are_told_apart() {
        let text = format!(
            "# comment\r\n\r\n  \t{ED25519}\r\n\t# comment\ngarbage\n{ED25519} two words\n\
             no-pty,command=\"a b\"\t {ED25519}\n"
        );
        let (keys, bad) = AuthorizedKeys::parse(text.as_bytes());
        assert_eq!(keys.entries().iter().map(|e| e.line).collect::<Vec<_>>(), [3, 6, 7]);
        assert_eq!(keys.entries()[2].options.command.as_deref(), Some("a b"));
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_missing_and_an_empty_file_are_errors_that_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let error = AuthorizedKeys::load(&path).unwrap_err();
        assert!(error.to_string().contains("keys"), "{error}");
        std::fs::write(&path, "# nothing\nnonsense here\n").unwrap();
        let error = AuthorizedKeys::load(&path).unwrap_err();
        assert!(matches!(error, Error::Empty { bad: 1, .. }), "{error}");
    }
}
