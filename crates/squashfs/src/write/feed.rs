//! The scanner's end of the pipeline: numbers inodes, gathers events into batches, orders the reading
//! of files.

use crossbeam_channel::Sender;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::event::{Attributes, Batch, Event, Kept, Named, OldTail, Special};
use super::scan::attributes;
use super::source::Request;
use super::worker::Work;

/// Most events in a batch: bounds the files that are open at a time.
const BATCH_EVENTS: usize = 64;
/// Bytes of content after which a batch is full.
const BATCH_BYTES: u64 = 512 << 10;

/// Takes the walk's steps. Names must come in byte order within each directory.
pub struct Feeder<'a> {
    work: Sender<Work>,
    batches: Sender<Batch>,
    cancel: &'a CancellationToken,
    epoch: Option<u32>,
    number: u32,
    events: Vec<Event>,
    requests: Vec<Request>,
    bytes: u64,
    pub(super) block_size: u32,
    /// Contents that came by, for `stream`.
    pub(super) contents: u32,
}

impl<'a> Feeder<'a> {
    pub(super) fn new(
        work: Sender<Work>,
        batches: Sender<Batch>,
        cancel: &'a CancellationToken,
        epoch: Option<u32>,
        block_size: u32,
    ) -> Self {
        Self {
            work,
            batches,
            cancel,
            epoch,
            number: 0,
            events: Vec::new(),
            requests: Vec::new(),
            bytes: 0,
            block_size,
            contents: 0,
        }
    }

    /// The number that the next inode will have.
    pub fn next_number(&self) -> u32 {
        self.number + 1
    }

    /// A directory; what follows is in it, until [`Feeder::leave`]. The first is the root, with an empty name.
    pub fn enter(&mut self, name: &[u8], attributes: Attributes) -> Result<(), Error> {
        let named = self.named(name, attributes, 1)?;
        self.push(Event::Enter(named), 0)
    }

    /// The end of the directory that was entered last.
    pub fn leave(&mut self) -> Result<(), Error> {
        self.push(Event::Leave, 0)
    }

    /// A link, a device, a pipe or a socket, which has `nlink` names.
    pub fn special(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        nlink: u32,
        special: Special,
    ) -> Result<(), Error> {
        let named = self.named(name, attributes, nlink)?;
        self.push(Event::Special(named, special), 0)
    }

    /// A file that is to be read and packed as `name`.
    pub(crate) fn file(&mut self, name: &[u8], request: Request, nlink: u32) -> Result<(), Error> {
        let attributes = attributes(&request.stat, Vec::new());
        let named = self.named(name, attributes, nlink)?;
        let size = request.stat.st_size as u64;
        self.requests.push(request);
        self.push(Event::File(named), if size < u64::from(self.block_size) { size } else { 0 })
    }

    /// A file whose content the base image holds.
    pub(crate) fn kept(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        nlink: u32,
        kept: Kept,
    ) -> Result<(), Error> {
        let named = self.named(name, attributes, nlink)?;
        self.push(Event::Kept(named, kept), 0)
    }

    /// Another name of the inode `number`.
    pub fn link(&mut self, name: &[u8], number: u32) -> Result<(), Error> {
        self.push(Event::Link { name: name.to_vec(), number }, 0)
    }

    /// A tail of the base image that moves to a new fragment.
    pub(crate) fn rescued(&mut self, old: OldTail, bytes: Vec<u8>) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.push(Event::Rescued { old, bytes }, length)
    }

    /// Hands over what is left.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.flush()
    }

    pub(super) fn named(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        nlink: u32,
    ) -> Result<Named, Error> {
        self.number =
            self.number.checked_add(1).ok_or(Error::TooLarge { what: "number of inodes" })?;
        let mtime = self.epoch.map_or(attributes.mtime, |epoch| attributes.mtime.min(epoch));
        Ok(Named {
            name: name.to_vec(),
            number: self.number,
            nlink,
            attributes: Attributes { mtime, ..attributes },
        })
    }

    pub(super) fn push(&mut self, event: Event, bytes: u64) -> Result<(), Error> {
        self.events.push(event);
        self.bytes += bytes;
        if self.events.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.bytes = 0;
        let events = std::mem::take(&mut self.events);
        let requests = std::mem::take(&mut self.requests);
        let mut contents = None;
        if !requests.is_empty() {
            let (done, slot) = crossbeam_channel::bounded(1);
            self.work.send(Work::Read { requests, done })?;
            contents = Some(slot);
        }
        Ok(self.batches.send(Batch { events, contents })?)
    }
}
