//! What of a base image goes into the new one: live ranges of its data, whole fragments, and the
//! tails that must be saved from fragments with dead ones; and where each of them comes to lie.

use std::collections::HashSet;

use super::super::read::{BlockReader, Error as ReadError, Image};
use super::super::write::event::{Kept, OldTail};
use super::super::write::{Error, Feeder};
use crate::format::Kind;
use crate::format::fragment::{self, Fragment};
use crate::format::inode::{File, Tail};
use crate::format::metadata::Reference;

/// Bytes of the base that are in the new image as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// Byte offset in the base.
    pub base: u64,
    /// Byte offset in the new image.
    pub new: u64,
    /// Bytes.
    pub length: u64,
}

/// The plan of what is taken over.
pub(super) struct Carry {
    /// In the order of the base, which is that of the new image.
    pub ranges: Vec<Range>,
    /// New number of each of the base's fragments, [`fragment::NONE`] for those that do not stay.
    numbers: Vec<u32>,
    /// Live tails in fragments that do not stay, sorted.
    rescued: Vec<OldTail>,
}

impl Carry {
    /// Plans for the files at `live` to stay, and for nothing else.
    pub(super) fn new(image: &Image, live: &HashSet<Reference>) -> Result<Self, Error> {
        let block_size = image.superblock().block_size;
        let (mut data, mut alive, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        image.inodes(|at, inode| {
            if let Kind::File(file) = inode.kind {
                let is_live = live.contains(&at);
                if is_live && file.stored() > 0 {
                    data.push((file.start, file.stored()));
                }
                if let Some(tail) = old_tail(&file, block_size) {
                    if is_live { &mut alive } else { &mut dead }.push(tail);
                }
            }
            Ok(())
        })?;
        alive.sort_unstable();
        alive.dedup();
        // A tail that a live file has too is not dead, whoever else had it.
        dead.retain(|tail| alive.binary_search(tail).is_err());
        let broken: HashSet<u32> = dead.iter().map(|it| it.tail.fragment).collect();
        let (rescued, whole): (Vec<_>, Vec<_>) =
            alive.into_iter().partition(|it| broken.contains(&it.tail.fragment));
        let mut numbers = vec![fragment::NONE; image.superblock().fragment_count as usize];
        let mut count = 0;
        for tail in whole {
            let Fragment { start, word } = image.fragment(tail.tail.fragment)?;
            let number = &mut numbers[tail.tail.fragment as usize];
            if *number == fragment::NONE {
                *number = count;
                count += 1;
                data.push((start, word.stored().into()));
            }
        }
        let ranges = merge(image, data)?;
        Ok(Self { ranges, numbers, rescued })
    }

    /// The same with the ranges one behind the other from byte `position` of the new image.
    pub(super) fn placed(mut self, mut position: u64) -> Self {
        for range in &mut self.ranges {
            range.new = position;
            position += range.length;
        }
        self
    }

    /// The fragments that stay, by their new numbers.
    pub(super) fn fragments(&self, image: &Image) -> Result<Vec<Fragment>, Error> {
        let mut fragments = Vec::new();
        for (old, new) in (0..).zip(&self.numbers) {
            if *new != fragment::NONE {
                let Fragment { start, word } = image.fragment(old)?;
                fragments.push(Fragment { start: self.moved(start)?, word });
            }
        }
        Ok(fragments)
    }

    /// Feeds the tails of broken fragments, so that they are packed again.
    pub(super) fn rescue(&self, image: &Image, feeder: &mut Feeder) -> Result<(), Error> {
        let mut reader = BlockReader::new(image)?;
        for old in &self.rescued {
            feeder.rescued(*old, reader.tail(old.tail, old.length)?)?;
        }
        Ok(())
    }

    /// The content of a live file, where it is in the new image.
    pub(super) fn resolve(&self, image: &Image, at: Reference) -> Result<Kept, Error> {
        let Kind::File(mut file) = image.inode(at)?.kind else {
            return Err(damaged("an inode that was a file").into());
        };
        let old = old_tail(&file, image.superblock().block_size);
        file.start = if file.stored() > 0 { self.moved(file.start)? } else { 0 };
        let mut rescued = None;
        if let Some(old) = old {
            let number =
                self.numbers.get(old.tail.fragment as usize).copied().unwrap_or(fragment::NONE);
            if number == fragment::NONE {
                rescued = Some(old);
            }
            file.tail = Some(Tail { fragment: number, offset: old.tail.offset });
        }
        Ok(Kept { file, rescued })
    }

    /// Where a byte of the base's data is in the new image.
    fn moved(&self, base: u64) -> Result<u64, Error> {
        let next = self.ranges.partition_point(|range| range.base <= base);
        next.checked_sub(1)
            .and_then(|index| self.ranges.get(index))
            .filter(|range| base - range.base < range.length)
            .map(|range| range.new + (base - range.base))
            .ok_or(damaged("data that no inode has").into())
    }
}

/// The tail of a file, with its length.
fn old_tail(file: &File, block_size: u32) -> Option<OldTail> {
    let length = file.size - (file.blocks.len() as u64 * u64::from(block_size)).min(file.size);
    file.tail.map(|tail| OldTail { tail, length: length as u32 })
}

/// Sorts ranges and joins those that touch or overlap.
fn merge(image: &Image, mut data: Vec<(u64, u64)>) -> Result<Vec<Range>, Error> {
    data.sort_unstable();
    let end_of_data = image.superblock().inode_table;
    let mut ranges: Vec<Range> = Vec::new();
    for (start, length) in data {
        let end = start.checked_add(length).filter(|end| *end <= end_of_data);
        let end = end.ok_or(damaged("a data block outside of the data"))?;
        match ranges.last_mut() {
            Some(last) if start <= last.base + last.length => {
                last.length = last.length.max(end - last.base);
            }
            _ => ranges.push(Range { base: start, new: 0, length }),
        }
    }
    Ok(ranges)
}

fn damaged(what: &'static str) -> ReadError {
    ReadError::Damaged { what, position: 0 }
}
