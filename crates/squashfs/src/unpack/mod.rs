//! Unpacks an image into a directory, in parallel, and never outside of it, whatever the image says.
//!
//! One thread walks the image, makes directories and hands files to workers; links and the metadata
//! of directories come last. Names are checked by `read`; every step goes through an open directory
//! of our own making, so no symlink is ever followed.

mod error;
mod files;
mod metadata;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use tokio_util::sync::CancellationToken;

pub use error::Error;

use super::format::inode::decode_device;
use super::format::metadata::Reference;
use super::format::{Inode, Kind};
use super::read::{Image, Node, Step, Walker};
use files::Files;
use linux::cgroup;
use linux::dir::Dir;
use linux::stat::FileKind;
use metadata::{Metadata, Skipped};
use progress::Progress;

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Names made, the root left out.
    pub names: u64,
    /// Attributes that the file system or the process's privileges did not take.
    pub xattrs_skipped: u64,
    /// Owners could not be set, because the process is not root.
    pub owners_skipped: bool,
}

/// Unpacks the image at `image` into `dir`, which is made, or is empty. Counts bytes of content on
/// `meter`. `threads`: `None` for as many as the cgroup allows.
pub fn unpack(
    image: &Path,
    dir: &Path,
    threads: Option<usize>,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    let image = Image::open(image)?;
    let root = Arc::new(open_target(dir)?);
    let threads = threads.unwrap_or_else(cgroup::cpus).clamp(1, 64);
    let skipped = Skipped::new();
    let mut walked = thread::scope(|scope| {
        let (jobs, queue) = bounded(4 * threads);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (queue, image, skipped) = (queue.clone(), &image, &skipped);
                scope.spawn(move || worker::run(queue, image, skipped, meter, cancel))
            })
            .collect();
        drop(queue);
        let mut walk = Walk {
            image: &image,
            skipped: &skipped,
            cancel,
            shown: dir,
            files: Files::new(jobs, image.superblock().block_size),
            links: Vec::new(),
            first_names: Default::default(),
            directories: Vec::new(),
            names: 0,
        };
        let result = walk.run(&root).map(|()| (walk.links, walk.directories, walk.names));
        drop(walk.files);
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let mut errors: Vec<Error> = joined.filter_map(Result::err).collect();
        match result {
            Ok(walked) if errors.is_empty() => Ok(walked),
            Ok(_) => Err(errors.remove(0)),
            Err(Error::Interrupted) if !errors.is_empty() => Err(errors.remove(0)),
            Err(error) => Err(error),
        }
    })?;
    make_links(&root, dir, &walked.0)?;
    finish_directories(&root, dir, &mut walked.1, &skipped)?;
    let (xattrs_skipped, owners_skipped) = skipped.totals();
    Ok(Summary { names: walked.2, xattrs_skipped, owners_skipped })
}

fn open_target(path: &Path) -> Result<Dir, Error> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::write("make", path, e));
        }
        _ => {}
    }
    let dir = Dir::open(path).map_err(|e| Error::write("open", path, e))?;
    if dir.names().map_err(|e| Error::write("list", path, e))?.is_empty() {
        Ok(dir)
    } else {
        Err(Error::NotEmpty(path.to_owned()))
    }
}

/// A name that will be made when all files are there.
struct Link {
    path: Vec<u8>,
    first: Vec<u8>,
}

struct Directory {
    path: Vec<u8>,
    metadata: Metadata,
}

struct Walk<'a> {
    image: &'a Image,
    skipped: &'a Skipped,
    cancel: &'a CancellationToken,
    shown: &'a Path,
    files: Files,
    links: Vec<Link>,
    /// Where the inodes with several links got their first name.
    first_names: std::collections::HashMap<Reference, Vec<u8>>,
    directories: Vec<Directory>,
    names: u64,
}

impl Walk<'_> {
    fn run(&mut self, root: &Arc<Dir>) -> Result<(), Error> {
        let mut open: Vec<Arc<Dir>> = Vec::new();
        for step in Walker::new(self.image) {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match step? {
                Step::Enter(node) => {
                    let metadata = Metadata::of(self.image, &node.inode)?;
                    let dir = match open.last() {
                        None => root.clone(),
                        Some(above) => {
                            self.names += 1;
                            let made = above.make_dir(node.name(), 0o700);
                            Arc::new(made.map_err(|e| self.error("make", &node.path, e))?)
                        }
                    };
                    open.push(dir);
                    self.directories.push(Directory { path: node.path, metadata });
                }
                Step::Leave => {
                    open.pop();
                }
                Step::Node(node) => {
                    let above = open.last().expect("a walk enters the root first").clone();
                    self.node(&above, node)?;
                }
            }
        }
        self.files.finish()
    }

    fn node(&mut self, dir: &Arc<Dir>, node: Node) -> Result<(), Error> {
        self.names += 1;
        if node.inode.nlink > 1 {
            if let Some(first) = self.first_names.get(&node.at) {
                self.links.push(Link { path: node.path, first: first.clone() });
                return Ok(());
            }
            self.first_names.insert(node.at, node.path.clone());
        }
        let metadata = Metadata::of(self.image, &node.inode)?;
        let shown = || self.shown.join(display(&node.path));
        let name = node.name().to_vec();
        if let Kind::File(file) = node.inode.kind {
            let target = worker::Target { dir: dir.clone(), name, metadata, shown: shown() };
            return self.files.add(target, file);
        }
        make_special(dir, &name, &node.inode).map_err(|e| Error::write("make", &shown(), e))?;
        metadata
            .apply(dir, &name, self.skipped)
            .map_err(|(action, e)| Error::write(action, &shown(), e))
    }

    fn error(&self, action: &'static str, path: &[u8], source: io::Error) -> Error {
        Error::write(action, &self.shown.join(display(path)), source)
    }
}

fn make_special(dir: &Dir, name: &[u8], inode: &Inode) -> io::Result<()> {
    match &inode.kind {
        Kind::Symlink(target) => dir.make_symlink(name, target),
        Kind::BlockDevice(device) => {
            dir.make_node(name, FileKind::BlockDevice, decode_device(*device))
        }
        Kind::CharDevice(device) => {
            dir.make_node(name, FileKind::CharDevice, decode_device(*device))
        }
        Kind::Fifo => dir.make_node(name, FileKind::Fifo, (0, 0)),
        Kind::Socket => dir.make_node(name, FileKind::Socket, (0, 0)),
        Kind::Directory(_) | Kind::File(_) => Ok(()),
    }
}

fn make_links(root: &Dir, shown: &Path, links: &[Link]) -> Result<(), Error> {
    for link in links {
        let error = |e| Error::write("link", &shown.join(display(&link.path)), e);
        let ((dir, name), (old_dir, old_name)) = (split(&link.path), split(&link.first));
        let (dir, old_dir) =
            (root.descend(dir).map_err(error)?, root.descend(old_dir).map_err(error)?);
        dir.make_link(name, &old_dir, old_name).map_err(error)?;
    }
    Ok(())
}

/// Sets the metadata of directories, the deepest first: nothing is made in them any more, and one that
/// may not be entered afterwards is not.
fn finish_directories(
    root: &Dir,
    shown: &Path,
    directories: &mut Vec<Directory>,
    skipped: &Skipped,
) -> Result<(), Error> {
    while let Some(Directory { path, metadata }) = directories.pop() {
        let (dir, name) = split(&path);
        let name = if name.is_empty() { b"." } else { name };
        root.descend(dir)
            .map_err(|e| ("enter", e))
            .and_then(|dir| metadata.apply(&dir, name, skipped))
            .map_err(|(action, e)| Error::write(action, &shown.join(display(&path)), e))?;
    }
    Ok(())
}

/// Directory and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn display(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path))
}
