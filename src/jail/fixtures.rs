//! What the jail adds to the image root, and removes again at its end.
//!
//! With namespaces: directories to mount on, where the image lacks them. Without: the device nodes
//! that every program needs (a shell's `2>/dev/null` would create a regular file in the image).

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Shape, Step};
use linux::dir::{Dir, Times};
use linux::stat::{FileKind, device, device_numbers};

/// Entries that we made in one directory of the image.
#[derive(Debug)]
struct Additions {
    record: Record,
    /// The file of the record.
    file: Option<PathBuf>,
    directory: Dir,
    /// The directory's times before, and as we left it; of an earlier run they are not known.
    times: Option<(Times, Times)>,
}

/// Written before anything is created: a killed process removes nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    root: PathBuf,
    /// The directory in it.
    below: PathBuf,
    made: Vec<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Made {
    Directory(PathBuf),
    Node(PathBuf, u64),
}

/// Everything that was added. Dropping it removes nothing; see `take_out`.
#[derive(Debug, Default)]
pub struct RootAdditions(Option<Additions>);

/// Where in the agent's directory the record is.
pub(super) fn record_in(agent: &Path) -> PathBuf {
    agent.join("fixtures.json")
}

/// Removes what a killed jail had added to an image.
pub fn remove_leftovers(agent: &Path) -> io::Result<()> {
    let file = record_in(agent);
    let Some(record) = Record::load(&file)? else { return Ok(()) };
    let directory = Dir::open(&record.root)?.inside(&record.below)?;
    let left = Additions { record, file: Some(file), directory, times: None }.take_out();
    if left.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(format!("could not be removed from the image: {left:?}")))
    }
}

/// Name, major and minor number of character devices (the kernel's devices.txt).
const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

impl RootAdditions {
    /// Puts in what the plan needs and the image lacks; nothing, if that fails.
    pub fn put_in(plan: &Plan) -> io::Result<RootAdditions> {
        let mut fixtures = RootAdditions::default();
        match fixtures.put_into(plan) {
            Ok(()) => Ok(fixtures),
            Err(error) => {
                fixtures.take_out();
                Err(error)
            }
        }
    }

    fn put_into(&mut self, plan: &Plan) -> io::Result<()> {
        let Some(root) = &plan.root else { return Ok(()) };
        let top = Dir::open(root)?;
        let (below, wanted): (_, Vec<Made>) = match plan.shape {
            Shape::Namespaces => {
                let names = plan.steps.iter().filter_map(mount_point);
                (".", names.map(Made::Directory).collect())
            }
            Shape::Plain => {
                let node = |(name, major, minor): &(&str, u32, u32)| {
                    Made::Node(name.into(), device(*major, *minor))
                };
                ("dev", NODES.iter().map(node).collect())
            }
        };
        // A link for `dev` leads nowhere outside; one to nothing means no nodes.
        let Ok(directory) = top.inside(Path::new(below)) else { return Ok(()) };
        self.add(root, Path::new(below), directory, wanted, plan.record())
    }

    fn add(
        &mut self,
        root: &Path,
        below: &Path,
        directory: Dir,
        mut wanted: Vec<Made>,
        file: Option<PathBuf>,
    ) -> io::Result<()> {
        let earlier = file.as_deref().map(Record::load).transpose()?.flatten();
        let earlier = earlier.filter(|earlier| earlier.root == root && earlier.below == below);
        let earlier = earlier.map(|earlier| earlier.made);
        let is_earlier =
            |made: &Made| earlier.as_ref().is_some_and(|earlier| earlier.contains(made));
        let mut absent = Vec::new();
        for made in &wanted {
            absent.push(directory.find(made.name())?.is_none());
        }
        let mut absent = absent.into_iter();
        wanted.retain(|made| absent.next().unwrap_or(false) || is_earlier(made));
        if wanted.is_empty() {
            return Ok(());
        }
        let record = Record { root: root.into(), below: below.into(), made: wanted };
        if let Some(file) = &file {
            record.write(file)?;
        }
        let before = directory.times()?;
        let result = record.made.iter().try_for_each(|made| made.make(&directory));
        let after = directory.times()?;
        let times = earlier.is_none().then_some((before, after));
        // What was created before the failure is known by now, and the caller removes it.
        self.0 = Some(Additions { record, file, directory, times });
        result
    }

    /// Removes what is still unchanged; returns the rest.
    pub fn take_out(self) -> Vec<PathBuf> {
        self.0.map(Additions::take_out).unwrap_or_default()
    }
}

impl Made {
    fn name(&self) -> &Path {
        match self {
            Self::Directory(name) | Self::Node(name, _) => name,
        }
    }

    /// One that an earlier run has made stays.
    fn make(&self, directory: &Dir) -> io::Result<()> {
        let made = match self {
            Self::Directory(name) => directory.make_dir(name, 0o755).map(drop),
            Self::Node(name, number) => directory
                .make_node(name, FileKind::CharDevice, device_numbers(*number))
                .and_then(|()| directory.set_mode(name, 0o666)),
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// A node only if it still is that device. What is gone already is no error.
    fn remove(&self, directory: &Dir) -> io::Result<()> {
        let (name, number) = match self {
            Self::Directory(name) => return directory.remove_dir(name),
            Self::Node(name, number) => (name, *number),
        };
        match directory.find(name)?.map(|it| (FileKind::of(it.st_mode), it.st_rdev)) {
            Some((FileKind::CharDevice, device)) if device == number => directory.remove(name),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
            None => Ok(()),
        }
    }
}

impl Record {
    fn load(file: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(file) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let new = file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, file)
    }
}

impl Additions {
    fn take_out(self) -> Vec<PathBuf> {
        // If nothing else was added or removed, the directory's time is restored.
        let before =
            self.times.filter(|(_, after)| self.directory.times().is_ok_and(|now| now == *after));
        let Record { root, below, made } = &self.record;
        let still_there = made.iter().filter(|made| made.remove(&self.directory).is_err());
        let left: Vec<_> = still_there.map(|made| root.join(below).join(made.name())).collect();
        if !left.is_empty() {
            return left;
        }
        if let Some((before, _)) = &before {
            // Cosmetic: a time that is newer than it need be is no reason to fail.
            let _ = self.directory.restore_times(before);
        }
        if let Some(file) = &self.file {
            // The entries of the file are removed; a later run ignores missing ones.
            let _ = std::fs::remove_file(file);
        }
        left
    }
}

/// The directory in the image's top that a step mounts on.
fn mount_point(step: &Step) -> Option<PathBuf> {
    let Step::Mount { target, .. } = step else { return None };
    let name = target.strip_prefix("/").ok()?;
    (name.components().count() == 1).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::Options;
    use linux::capability::CapSet;

    #[test]
    fn what_a_killed_run_has_put_in_is_taken_out_by_who_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let (root, agent) = (dir.path().join("root"), dir.path().join("agent"));
        let dev = root.join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        std::fs::create_dir(&agent).unwrap();
        std::fs::write(dev.join("zero"), "the image's own").unwrap();
        let options = Options {
            root: Some(root.clone()),
            agent_dir: Some(agent.clone()),
            ..Options::default()
        };
        let plan = Plan::new(options, CapSet::SYS_CHROOT).unwrap();
        assert_eq!(plan.shape, Shape::Plain);
        let left = || std::fs::read_dir(&dev).unwrap().count();
        let killed = || drop(RootAdditions::put_in(&plan).unwrap());

        killed();
        assert_eq!(left(), NODES.len());
        let next = RootAdditions::put_in(&plan).unwrap();
        assert_eq!(next.take_out(), Vec::<PathBuf>::new());
        assert_eq!(left(), 1);

        killed();
        remove_leftovers(&agent).unwrap();
        assert_eq!(left(), 1);
        assert_eq!(std::fs::read_dir(&agent).unwrap().count(), 0);
        remove_leftovers(&agent).unwrap();
    }
}
