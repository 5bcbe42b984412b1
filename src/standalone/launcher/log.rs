//! The output of children, limited in size, because their logs are on the volume of everything
//! else.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

/// A log that has grown beyond this is cut, in bytes.
const LIMIT: u64 = 64 << 20;
/// How much of its end is kept, as `log.old`.
const KEPT: u64 = 16 << 20;
/// How often the size is checked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Cuts the log in `path` whenever it has become too long. Its writers must append.
pub async fn keep_short(path: &Path) -> Infallible {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let path = path.to_owned();
        let cut = tokio::task::spawn_blocking(move || cut(&path, LIMIT, KEPT)).await;
        if let Ok(Err(error)) = cut {
            tracing::warn!(%error, "cannot truncate the log of a job");
        }
    }
}

/// The child writes on meanwhile: a line may be lost, and no write of its is held up.
fn cut(path: &Path, limit: u64, kept: u64) -> io::Result<()> {
    let size = match path.metadata() {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size <= limit {
        return Ok(());
    }
    let old = path.with_extension("old");
    if let Err(error) = keep_end(path, &old, size, kept) {
        // No space, most likely: then the log is what must give it back.
        let _ = std::fs::remove_file(&old);
        tracing::warn!(log = %path.display(), %error, "cannot keep the end of a long job log");
    }
    let mut log = OpenOptions::new().append(true).open(path)?;
    log.set_len(0)?;
    writeln!(
        log,
        "The log exceeded {limit} bytes and starts over here; its last {kept} bytes are in {}.",
        old.display()
    )
}

fn keep_end(from: &Path, to: &Path, size: u64, kept: u64) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut log = File::open(from)?;
    log.seek(SeekFrom::Start(size.saturating_sub(kept)))?;
    let mut old =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut log.take(kept), &mut old).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_cut_under_its_writer_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        cut(&path, 10, 4).unwrap();
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        write!(writer, "0123456789").unwrap();
        cut(&path, 10, 4).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0123456789");
        write!(writer, "abcd").unwrap();
        cut(&path, 10, 4).unwrap();
        write!(writer, "next").unwrap();
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("The log exceeded 10 bytes") && log.ends_with("\nnext"), "{log}");
        assert_eq!(std::fs::read_to_string(dir.path().join("log.old")).unwrap(), "abcd");
    }
}
