//! Hands files to the workers: small ones together when they share a fragment, large ones in pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::Error;
use super::worker::{Job, Large, Target};
use crate::format::inode::{File, Tail};

/// Bytes of a large file that one worker writes at a time.
const PIECE: u64 = 4 << 20;
/// Files that are gathered for one fragment.
const MOST_FILES: usize = 64;
/// Fragments for which files are gathered at a time.
const MOST_FRAGMENTS: usize = 8;

/// Small files of one fragment: where each one's tail is, and its length.
type Gathered = Vec<(Target, Tail, u32)>;

pub(super) struct Files {
    jobs: Sender<Job>,
    block_size: u64,
    gathered: VecDeque<(u32, Gathered)>,
}

impl Files {
    pub(super) fn new(jobs: Sender<Job>, block_size: u32) -> Self {
        Self { jobs, block_size: block_size.into(), gathered: VecDeque::new() }
    }

    pub(super) fn add(&mut self, target: Target, file: File) -> Result<(), Error> {
        match file.tail {
            Some(tail) if file.blocks.is_empty() => self.small(target, tail, file.size as u32),
            _ => self.large(target, file),
        }
    }

    /// Hands over what is left.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        while let Some((_, files)) = self.gathered.pop_front() {
            self.send(Job::Small(files))?;
        }
        Ok(())
    }

    fn small(&mut self, target: Target, tail: Tail, length: u32) -> Result<(), Error> {
        let known = self.gathered.iter().position(|(fragment, _)| *fragment == tail.fragment);
        let index = match known {
            Some(index) => index,
            None => {
                if self.gathered.len() == MOST_FRAGMENTS
                    && let Some((_, files)) = self.gathered.pop_front()
                {
                    self.send(Job::Small(files))?;
                }
                self.gathered.push_back((tail.fragment, Vec::new()));
                self.gathered.len() - 1
            }
        };
        let files = &mut self.gathered[index].1;
        files.push((target, tail, length));
        if files.len() == MOST_FILES {
            let files = std::mem::take(files);
            self.gathered.remove(index);
            self.send(Job::Small(files))?;
        }
        Ok(())
    }

    fn large(&mut self, target: Target, file: File) -> Result<(), Error> {
        let blocks_per_piece = (PIECE / self.block_size).max(1) as usize;
        let pieces = file.blocks.len().div_ceil(blocks_per_piece).max(1);
        let blocks = file.blocks.len();
        let mut start = file.start;
        let large = Arc::new(Large::create(target, file, pieces)?);
        for piece in 0..pieces {
            let first = piece * blocks_per_piece;
            let range = first..(first + blocks_per_piece).min(blocks);
            let stored: u64 =
                large.file.blocks[range.clone()].iter().map(|it| u64::from(it.stored())).sum();
            self.send(Job::Piece { large: large.clone(), blocks: range, start })?;
            // A sum that overflows lies outside of any image, and the reader says so.
            start = start.saturating_add(stored);
        }
        Ok(())
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        self.jobs.send(job).map_err(|_| Error::Interrupted)
    }
}
