//! Reads whatever the fuzzer takes for an image: superblock, tables, tree, attributes, data.
//!
//! `scripts/fuzz-corpus` makes real images to start from.

#![no_main]

use std::fs::File;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use squashfs::format::{Inode, Kind};
use squashfs::read::{BlockReader, Error, Image, Step, Walker};

/// A sparse file may honestly be this long, and reading it would only take time.
const LONGEST: u64 = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(bytes).expect("a temporary file can be written");
    // What it says is not of interest here: that it comes back is.
    let _ = read(file);
});

fn read(file: File) -> Result<(), Error> {
    let image = Image::new(file)?;
    let mut reader = BlockReader::new(&image)?;
    for step in Walker::new(&image) {
        if let Step::Enter(node) | Step::Node(node) = step? {
            // One bad inode must not hide the others from the fuzzer.
            let _ = look_at(&image, &mut reader, &node.inode);
        }
    }
    image.inodes(|_, _| Ok(()))
}

fn look_at(image: &Image, reader: &mut BlockReader, inode: &Inode) -> Result<(), Error> {
    image.owner(inode)?;
    image.xattrs(inode)?;
    match &inode.kind {
        Kind::File(file) if file.size <= LONGEST => reader.file(file, |_, _| Ok(())),
        _ => Ok(()),
    }
}
