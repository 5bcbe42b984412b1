//! A job's directory belongs to one agent at a time.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Error, Layout};
use linux::files::Locked;
use linux::process::{kill_all, mark};

/// Longest wait for killed processes to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Longest job id that is read from a lock file, in bytes.
const ID_LIMIT: u64 = 256;

/// A job's directory, held until this is dropped.
#[derive(Debug)]
pub struct Claim {
    layout: Layout,
    job_id: String,
    _lock: Locked,
}

impl Claim {
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn job_id(&self) -> &str {
        &self.job_id
    }
}

/// Takes the directory for a job, before anything in it is looked at or written: two agents would each
/// take the other's files for their own. The agent's part of it is made if it is not there. What the
/// sessions of an agent that was killed have left running is ended.
pub fn claim(parent: &Path, job_id: &str) -> Result<Claim, Error> {
    let layout = Layout::new(parent);
    layout.make_agent_dir().map_err(|source| Error::io("make", layout.agent(), source))?;
    let path = layout.lock();
    let failed = |source| Error::io("write", &path, source);
    // Not emptied: it names the holder.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    match Locked::exclusively(file.map_err(failed)?) {
        Ok(lock) => {
            // Cut afterwards: whoever reads meanwhile must not find it empty.
            let written = lock.write_all_at(job_id.as_bytes(), 0);
            written.and_then(|()| lock.set_len(job_id.len() as u64)).map_err(failed)?;
            end_survivors(&layout)?;
            Ok(Claim { layout, job_id: job_id.into(), _lock: lock })
        }
        Err((file, source)) => {
            let mut holder = String::new();
            let _ = file.take(ID_LIMIT).read_to_string(&mut holder);
            Err(Error::InUse { parent: parent.into(), job_id: holder, source })
        }
    }
}

/// Ends what sessions have left whose agent was killed: it would go on changing an image that is packed
/// meanwhile.
fn end_survivors(layout: &Layout) -> Result<(), Error> {
    let find = || mark::survivors(&layout.agent(), &layout.root());
    for process in find() {
        tracing::warn!(
            pid = process.pid,
            name = process.name,
            "killed a process of a session whose agent was killed"
        );
    }
    let stuck = kill_all(find, Instant::now() + KILL_PATIENCE);
    if stuck.is_empty() {
        return Ok(());
    }
    let stuck: Vec<_> = stuck.iter().map(ToString::to_string).collect();
    Err(Error::Survivors { parent: layout.parent().into(), processes: stuck.join(", ") })
}
