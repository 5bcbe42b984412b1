//! A first pass over an archive, which writes nothing: checks that it is complete and within the
//! limits.

use std::path::Path;

use tar::{Archive, EntryType};
use tokio_util::sync::CancellationToken;

use super::names::shown;
use super::{Error, Limits, Refused, compression};

/// Long names and attributes of an entry, which are held in memory, may have this many bytes.
const LONGEST_EXTENSION: u64 = 1 << 20;

pub(super) fn survey(
    path: &Path,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let broken = |source| Error::Broken { path: path.into(), source };
    let mut archive = Archive::new(compression::open(path)?);
    let (mut entries, mut size) = (0, 0_u64);
    for entry in archive.entries().map_err(broken)?.raw(true) {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut entry = entry.map_err(broken)?;
        let refused = |why| Error::Refused { name: shown(&entry.path_bytes()), why };
        let kind = entry.header().entry_type();
        entries += 1;
        size = size.saturating_add(entry.size());
        if entries > limits.entries {
            return Err(refused(Refused::TooMany { limit: limits.entries }));
        }
        if size > limits.size {
            return Err(refused(Refused::TooLarge { limit: limits.size }));
        }
        let is_extension = matches!(
            kind,
            EntryType::XHeader
                | EntryType::XGlobalHeader
                | EntryType::GNULongName
                | EntryType::GNULongLink
        );
        if is_extension && entry.size() > LONGEST_EXTENSION {
            return Err(refused(Refused::TooLarge { limit: LONGEST_EXTENSION }));
        }
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(broken)?;
    }
    if entries == 0 {
        return Err(Error::Empty { path: path.into() });
    }
    Ok(())
}
