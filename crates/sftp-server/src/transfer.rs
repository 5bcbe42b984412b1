//! Reads and writes, several in flight: a few threads, and the order that a client relies on.
//!
//! A sequential server answers as if each request were done before the next is read. Reads do not
//! disturb each other; a write waits for what touches the same bytes of the same file, and a read
//! for all writes to its file (they may move its end). Everything else waits for all of them
//! (`drain`). Answers leave in the order of the requests: OpenSSH's scp truncates a file at the last
//! answer that came in order, whatever came after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::codec::{MAX_DATA, Packet};
use super::handles::OpenFile;
use super::status::Status;

const DATA: u8 = 103;

/// Requests in flight: with the largest of packets 16 MiB.
const IN_FLIGHT: usize = 64;

/// More would only contend for the one pipe to the client.
const THREADS: usize = 4;

/// Where answers go, one whole packet at a time.
pub(crate) struct Output {
    pipe: Mutex<File>,
}

impl Output {
    pub(crate) fn new(pipe: File) -> Output {
        Output { pipe: Mutex::new(pipe) }
    }

    /// A client that is gone cannot be answered; its end is seen on the input.
    pub(crate) fn send(&self, packet: Packet) {
        let bytes = packet.finish();
        let _ = lock(&self.pipe).write_all(&bytes);
    }
}

/// A read or a write to be done.
pub(crate) struct Transfer {
    pub id: u32,
    pub file: Arc<OpenFile>,
    pub offset: u64,
    pub kind: Kind,
}

pub(crate) enum Kind {
    Read(u32),
    Write(Bytes),
}

impl Transfer {
    fn conflicts(&self, other: &Flight) -> bool {
        if self.file.identity != other.identity {
            return false;
        }
        match (&self.kind, other.write) {
            (Kind::Read(_), false) => false,
            (Kind::Read(_), true) | (Kind::Write(_), false) => true,
            (Kind::Write(_), true) => {
                let (start, end) = self.range();
                start < other.end && other.start < end
            }
        }
    }

    /// The bytes it touches; the range of an appending write is not known in advance.
    fn range(&self) -> (u64, u64) {
        let length = match &self.kind {
            Kind::Read(length) => u64::from(*length),
            Kind::Write(data) => data.len() as u64,
        };
        match self.file.append {
            true => (0, u64::MAX),
            false => (self.offset, self.offset.saturating_add(length)),
        }
    }

    fn run(self) -> Packet {
        let id = self.id;
        match &self.kind {
            Kind::Read(length) => self.read((*length as usize).min(MAX_DATA)),
            // A file that is open for reading alone refuses nothing as well.
            Kind::Write(data) if data.is_empty() => {
                Status::from(self.file.file.write_at(data, self.offset).map(drop)).packet(id)
            }
            Kind::Write(data) => {
                Status::from(self.file.file.write_all_at(data, self.offset)).packet(id)
            }
        }
    }

    fn read(&self, most: usize) -> Packet {
        let fill = |room: &mut [u8]| match self.file.file.read_at(room, self.offset) {
            // A request for zero bytes returns zero bytes: neither EOF nor, for a directory, an
            // error.
            _ if room.is_empty() => Ok(0),
            Ok(0) => Err(Status::Eof),
            Ok(count) => Ok(count),
            Err(error) => Err(Status::of(&error)),
        };
        let packet = Packet::with_capacity(DATA, most + 8).u32(self.id);
        packet.string_with(most, fill).unwrap_or_else(|status| status.packet(self.id))
    }
}

/// What is known of a transfer while it runs.
struct Flight {
    number: u64,
    identity: (u64, u64),
    write: bool,
    start: u64,
    end: u64,
}

#[derive(Default)]
struct Air {
    flights: Vec<Flight>,
    next: u64,
    /// Done before an earlier one was: at most as many as may be in flight.
    early: BTreeMap<u64, Packet>,
    /// The number whose answer is to leave next.
    turn: u64,
}

impl Air {
    /// The next answer, when it is there.
    fn take_turn(&mut self) -> Option<(u64, Packet)> {
        let number = self.turn;
        let packet = self.early.remove(&number)?;
        self.turn += 1;
        Some((number, packet))
    }
}

struct Shared {
    air: Mutex<Air>,
    landed: Condvar,
    /// Held from the choice of an answer until it is written.
    answering: Mutex<()>,
    output: Arc<Output>,
}

/// The threads and what they are doing.
pub(crate) struct Transfers {
    queue: Option<crossbeam_channel::Sender<(u64, Transfer)>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Transfers {
    pub(crate) fn start(output: Arc<Output>) -> io::Result<Transfers> {
        let (queue, jobs) = crossbeam_channel::bounded(IN_FLIGHT);
        let air = Mutex::default();
        let shared =
            Arc::new(Shared { air, landed: Condvar::new(), answering: Mutex::new(()), output });
        let thread = |number: usize| {
            let (jobs, shared) = (jobs.clone(), shared.clone());
            std::thread::Builder::new()
                .name(format!("sftp-{number}"))
                .stack_size(128 * 1024)
                .spawn(move || work(&jobs, &shared))
        };
        let threads = (0..THREADS).map(thread).collect::<io::Result<_>>()?;
        Ok(Transfers { queue: Some(queue), shared, threads })
    }

    /// Starts it as soon as nothing in flight is in its way.
    pub(crate) fn begin(&self, transfer: Transfer) {
        let mut air = lock(&self.shared.air);
        while air.flights.len() >= IN_FLIGHT
            || air.flights.iter().any(|flight| transfer.conflicts(flight))
        {
            air = self.wait(air);
        }
        let (start, end) = transfer.range();
        let number = air.next;
        let write = matches!(transfer.kind, Kind::Write(_));
        let identity = transfer.file.identity;
        air.next += 1;
        air.flights.push(Flight { number, identity, write, start, end });
        drop(air);
        if let Some(queue) = &self.queue {
            queue.send((number, transfer)).expect("the threads live as long as the queue");
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) fn drain(&self) {
        let mut air = lock(&self.shared.air);
        while !air.flights.is_empty() {
            air = self.wait(air);
        }
    }

    fn wait<'a>(&self, air: MutexGuard<'a, Air>) -> MutexGuard<'a, Air> {
        self.shared.landed.wait(air).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A panic there was printed on stderr; the session ends anyway.
            let _ = thread.join();
        }
    }
}

fn work(jobs: &crossbeam_channel::Receiver<(u64, Transfer)>, shared: &Shared) {
    for (number, transfer) in jobs {
        let packet = transfer.run();
        lock(&shared.air).early.insert(number, packet);
        answer(shared);
    }
}

/// Sends the answers whose turn it is, one thread at a time.
fn answer(shared: &Shared) {
    let _in_order = lock(&shared.answering);
    loop {
        let Some((number, packet)) = lock(&shared.air).take_turn() else { return };
        // Answered before it counts as done: what waits for it is answered after it.
        shared.output.send(packet);
        lock(&shared.air).flights.retain(|flight| flight.number != number);
        shared.landed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
