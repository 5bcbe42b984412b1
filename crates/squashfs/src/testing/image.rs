//! An image as our reader sees it, in the form of `describe`.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::describe::{ENDS, Tree, WHOLE, attribute, describe, forget_single_names};
use crate::format::Kind;
use crate::format::inode::{File, decode_device};
use crate::format::metadata::Reference;
use crate::read::{BlockReader, Error, Image, Node, Step, Walker};
use crate::write::source::hash;

/// Describes all of an image, or says why it cannot be read.
pub(crate) fn try_image(path: &Path) -> Result<Tree, Error> {
    let image = Image::open(path)?;
    let mut reader = BlockReader::new(&image)?;
    let mut tree = Tree::new();
    let mut links = HashMap::new();
    for step in Walker::new(&image) {
        if let Step::Enter(node) | Step::Node(node) = step? {
            let text = node_text(&image, &mut reader, &node, &mut links)?;
            tree.insert(path_of(&node), text);
        }
    }
    forget_single_names(&mut tree);
    Ok(tree)
}

pub(crate) fn image(path: &Path) -> Tree {
    try_image(path).unwrap()
}

fn path_of(node: &Node) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&node.path))
}

fn node_text(
    image: &Image,
    reader: &mut BlockReader,
    node: &Node,
    links: &mut HashMap<Reference, PathBuf>,
) -> Result<String, Error> {
    let inode = &node.inode;
    let what = match &inode.kind {
        Kind::Directory(_) => "dir".to_owned(),
        Kind::File(file) => {
            let content = content(reader, file)?;
            format!("file {} {:x}", file.size, hash(&content))
        }
        Kind::Symlink(target) => format!("link {:?}", std::ffi::OsStr::from_bytes(target)),
        Kind::BlockDevice(device) => device_text("block", *device),
        Kind::CharDevice(device) => device_text("char", *device),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Socket => "socket".to_owned(),
    };
    let mut first = PathBuf::new();
    if inode.nlink > 1 && !matches!(inode.kind, Kind::Directory(_)) {
        first = links.entry(node.at).or_insert_with(|| path_of(node)).clone();
    }
    let (uid, gid) = image.owner(inode)?;
    let mut xattrs: Vec<_> =
        image.xattrs(inode)?.into_iter().map(|(name, value)| attribute(&name, &value)).collect();
    xattrs.sort();
    Ok(describe(&what, inode.mode.into(), uid, gid, inode.mtime.into(), &first, &xattrs))
}

/// The content as `describe` hashes it: of very large files the ends alone.
fn content(reader: &mut BlockReader, file: &File) -> Result<Vec<u8>, Error> {
    let length = if file.size > WHOLE { 2 * ENDS } else { file.size };
    let mut content = vec![0; length as usize];
    reader.file::<Error>(file, |offset, bytes| {
        for (at, byte) in (offset..).zip(bytes) {
            let index = match at {
                _ if file.size <= WHOLE || at < ENDS => at,
                _ if at >= file.size - ENDS => ENDS + at - (file.size - ENDS),
                _ => continue,
            };
            content[index as usize] = *byte;
        }
        Ok(())
    })?;
    Ok(content)
}

fn device_text(kind: &str, device: u32) -> String {
    let (major, minor) = decode_device(device);
    format!("{kind} {major}:{minor}")
}
