//! `ls`: lists the content of an image.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::exit::{self, Exit};
use squashfs::format::inode::decode_device;
use squashfs::format::{Inode, Kind};
use squashfs::read::{Image, Node, Step, Walker};

/// List the content of a squashfs image
///
/// One line per name: mode, owner/group, size or device, modification time, path.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to list
    image: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let image = Image::open(&args.image)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for step in Walker::new(&image) {
        if let Step::Enter(node) | Step::Node(node) = step? {
            let owner = image.owner(&node.inode)?;
            match out.write_all(&line(&node, owner)) {
                // `| head` has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(exit::SUCCESS);
                }
                result => result?,
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit::SUCCESS),
    }
}

fn line(node: &Node, (uid, gid): (u32, u32)) -> Vec<u8> {
    let inode = &node.inode;
    let time = jiff::Timestamp::from_second(inode.mtime.into())
        .map_or_else(|_| inode.mtime.to_string(), |time| time.strftime("%F %R").to_string());
    let (mode, size) = (mode(inode), size(&inode.kind));
    let mut line = format!("{mode} {uid}/{gid} {size:>12} {time} ").into_bytes();
    line.extend_from_slice(if node.path.is_empty() { b"." } else { &node.path });
    if let Kind::Symlink(target) = &inode.kind {
        line.extend_from_slice(b" -> ");
        line.extend_from_slice(target);
    }
    // A name may hold anything but a slash; a terminal should not act on it.
    let mut shown = Vec::with_capacity(line.len() + 1);
    for byte in line {
        match byte {
            0..0x20 | 0x7f => shown.extend(byte.escape_ascii()),
            _ => shown.push(byte),
        }
    }
    shown.push(b'\n');
    shown
}

fn size(kind: &Kind) -> String {
    match kind {
        Kind::File(file) => file.size.to_string(),
        Kind::Symlink(target) => target.len().to_string(),
        Kind::BlockDevice(device) | Kind::CharDevice(device) => {
            let (major, minor) = decode_device(*device);
            format!("{major},{minor}")
        }
        Kind::Directory(_) | Kind::Fifo | Kind::Socket => "0".to_owned(),
    }
}

/// Type and permissions as ls(1) shows them.
fn mode(inode: &Inode) -> String {
    let kind = match inode.kind {
        Kind::Directory(_) => 'd',
        Kind::File(_) => '-',
        Kind::Symlink(_) => 'l',
        Kind::BlockDevice(_) => 'b',
        Kind::CharDevice(_) => 'c',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = inode.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (inode.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
