//! Checks that a squashfs image can be read completely, before nodes boot it.

use std::collections::HashSet;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;

use tokio_util::sync::CancellationToken;

use crate::telemetry::progress::Meter;
use linux::cgroup;
use squashfs::format::{Kind, inode};
use squashfs::read::{self, BlockReader, Image, Step, Walker};

/// Files that wait for a reader.
const QUEUE: usize = 256;
/// Where the superblock has the time at which the image was created.
const TIME_OFFSET: u64 = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the squashfs image cannot be used")]
    Image(#[from] read::Error),
    #[error("cancelled")]
    Cancelled,
}

/// Walks the whole tree and unpacks every block of every file once. Counts bytes on `meter`.
pub fn whole(image: &Image, meter: &Meter, cancel: &CancellationToken) -> Result<(), Error> {
    let (files, queue) = crossbeam_channel::bounded::<inode::File>(QUEUE);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..cgroup::cpus())
            .map(|_| {
                let queue = queue.clone();
                scope.spawn(move || -> Result<(), read::Error> {
                    let mut reader = BlockReader::new(image)?;
                    for file in queue {
                        reader.file(&file, |_, bytes| -> Result<(), read::Error> {
                            meter.add(bytes.len() as u64);
                            Ok(())
                        })?;
                    }
                    Ok(())
                })
            })
            .collect();
        drop(queue);
        let walked = walk(image, files, cancel);
        let read = readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        walked.and(read.map_err(Error::Image))
    })
}

fn walk(
    image: &Image,
    files: crossbeam_channel::Sender<inode::File>,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for step in Walker::new(image) {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (Step::Enter(node) | Step::Node(node)) = step? else { continue };
        image.owner(&node.inode)?;
        image.xattrs(&node.inode)?;
        if let Kind::File(file) = node.inode.kind
            && (node.inode.nlink < 2 || seen.insert(node.at))
            && files.send(file).is_err()
        {
            // Every reader has failed, and says why.
            break;
        }
    }
    Ok(())
}

/// Gives a fresh image the time of its newest file: the same root makes the same image, whenever.
pub fn stamp(path: &Path) -> io::Result<()> {
    let image = Image::open(path).map_err(io::Error::other)?;
    let mut newest = 0;
    let all = image.inodes(|_, inode| {
        newest = newest.max(inode.mtime);
        Ok(())
    });
    all.map_err(io::Error::other)?;
    let mut file = std::fs::File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(TIME_OFFSET))?;
    file.write_all(&newest.to_le_bytes())
}
