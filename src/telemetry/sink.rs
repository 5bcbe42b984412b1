//! The queue of log lines for stderr. Code that logs does not wait for stderr and gets no errors
//! from it.
//!
//! A bounded queue, and one thread that writes. If stderr blocks or fails, because its disk is full
//! or nobody reads the pipe, lines are dropped and counted. When it accepts lines again, one line
//! reports how many are missing.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linux::stdio::Unwritten;

/// Bytes of lines that wait to be written, at most.
const QUEUE: usize = 4 << 20;

/// What an entry costs beside its bytes.
const ENTRY: usize = 64;

/// Where lines go: a write to stderr, but in tests.
pub(super) type Write = dyn FnMut(&[u8]) -> Result<(), Unwritten> + Send;

/// Returns the line that reports how many are missing, and why.
pub(super) type Report = fn(lost: u64, why: &str) -> Vec<u8>;

/// Takes lines. Cheap to clone.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is something for the thread to do.
    filled: Condvar,
    /// The thread has done it.
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The thread is processing an entry.
    busy: bool,
    /// The process is ending: the loss must be reported now.
    last: bool,
}

enum Entry {
    Line(Vec<u8>),
    /// So many lines would have come here.
    Lost(u64),
}

impl Sink {
    /// Starts the thread. Where there can be none, no line comes out: that is no reason to end.
    pub(super) fn start(write: Box<Write>, report: Report) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let mut writer = Writer { write, report, lost: 0, why: String::new(), torn: false };
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("log".into());
        let _ = thread.spawn(move || writer.run(&theirs));
        Self(shared)
    }

    /// Adds a line, with its line end; counts it where there is no room.
    pub fn line(&self, line: Vec<u8>) {
        let mut queue = self.0.queue();
        if !queue.has_room(&line) {
            match queue.entries.back_mut() {
                Some(Entry::Lost(lost)) => *lost += 1,
                _ => queue.entries.push_back(Entry::Lost(1)),
            }
        } else {
            queue.push(line);
        }
        self.0.filled.notify_one();
    }

    /// Adds what is not worth counting: the next of it replaces it anyway.
    pub(super) fn drawing(&self, bytes: Vec<u8>) {
        let mut queue = self.0.queue();
        if queue.has_room(&bytes) {
            queue.push(bytes);
            self.0.filled.notify_one();
        }
    }

    /// Waits until every line is written, for no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let mut queue = self.0.queue();
        queue.last = true;
        self.0.filled.notify_one();
        let at_work = |queue: &mut Queue| queue.last || queue.busy || !queue.entries.is_empty();
        drop(self.0.emptied.wait_timeout_while(queue, limit, at_work));
    }
}

impl Queue {
    fn has_room(&self, line: &[u8]) -> bool {
        self.bytes + line.len() + ENTRY <= QUEUE
    }

    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len() + ENTRY;
        self.entries.push_back(Entry::Line(line));
    }

    /// The next entry, or `None` if the queue is empty and a caller waits for that.
    fn take(&mut self) -> Option<Entry> {
        self.busy = true;
        let entry = self.entries.pop_front()?;
        if let Entry::Line(line) = &entry {
            self.bytes -= line.len() + ENTRY;
        }
        Some(entry)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
struct Writer {
    write: Box<Write>,
    report: Report,
    /// Lines of which nothing was said yet.
    lost: u64,
    why: String,
    /// The last line was written in part: the next begins on a line of its own.
    torn: bool,
}

impl Writer {
    fn run(&mut self, shared: &Shared) {
        let mut queue = shared.queue();
        loop {
            let idle = |queue: &mut Queue| queue.entries.is_empty() && !queue.last;
            let waited = shared.filled.wait_while(queue, idle);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
            let entry = queue.take();
            let is_last = entry.is_none();
            drop(queue);
            match entry {
                Some(Entry::Line(line)) => self.line(&line),
                Some(Entry::Lost(lost)) => {
                    self.lost += lost;
                    self.why = "it is too slow".into();
                    self.report_loss();
                }
                None => {
                    self.report_loss();
                }
            }
            queue = shared.queue();
            queue.busy = false;
            if is_last {
                queue.last = false;
            }
            shared.emptied.notify_all();
        }
    }

    fn line(&mut self, line: &[u8]) {
        if !self.report_loss() || !self.write(line) {
            self.lost += 1;
        }
    }

    /// Says how many lines are missing, if any; false if that cannot be written.
    fn report_loss(&mut self) -> bool {
        if self.lost > 0 {
            if !self.write(&(self.report)(self.lost, &self.why)) {
                return false;
            }
            self.lost = 0;
        }
        true
    }

    fn write(&mut self, line: &[u8]) -> bool {
        let written = match self.torn {
            true => (self.write)(&[b"\n", line].concat()),
            false => (self.write)(line),
        };
        match written {
            Ok(()) => {
                self.torn = false;
                true
            }
            Err(Unwritten { taken, source }) => {
                self.torn |= taken > 0;
                self.why = source.to_string();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A stderr with room for so many bytes.
    #[derive(Default)]
    struct Disk {
        bytes: Mutex<Vec<u8>>,
        room: AtomicUsize,
    }

    impl Disk {
        fn with_room(room: usize) -> Arc<Self> {
            Arc::new(Self { room: room.into(), ..Self::default() })
        }

        fn write(&self, bytes: &[u8]) -> Result<(), Unwritten> {
            let mut held = self.bytes.lock().unwrap();
            let taken = bytes.len().min(self.room.load(Ordering::Relaxed) - held.len());
            held.extend_from_slice(&bytes[..taken]);
            if taken == bytes.len() {
                return Ok(());
            }
            Err(Unwritten { taken, source: io::ErrorKind::StorageFull.into() })
        }

        fn text(&self) -> String {
            String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
        }
    }

    fn report(lost: u64, why: &str) -> Vec<u8> {
        format!("lost {lost}: {why}\n").into_bytes()
    }

    fn sink(disk: &Arc<Disk>) -> Sink {
        let disk = disk.clone();
        Sink::start(Box::new(move |bytes| disk.write(bytes)), report)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_arrive_in_their_order_before_the_end() {
        let disk = Disk::with_room(1 << 20);
        let sink = sink(&disk);
        let lines: Vec<_> = (0..1000).map(|number| format!("line {number}\n")).collect();
        lines.iter().for_each(|line| sink.line(line.clone().into_bytes()));
        sink.flush(LONG);
        assert_eq!(disk.text(), lines.concat());
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_counted_when_there_is_room_again() {
        let disk = Disk::with_room(10);
        let sink = sink(&disk);
        for line in ["one\n", "two three four\n", "five\n"] {
            sink.line(line.into());
        }
        sink.flush(LONG);
        assert_eq!(disk.text(), "one\ntwo th", "torn where the disk was full");
        disk.room.store(1000, Ordering::Relaxed);
        sink.line(b"six\n".to_vec());
        sink.flush(LONG);
        assert_eq!(disk.text(), "one\ntwo th\nlost 2: no storage space\nsix\n");
    }

    #[test]
    fn a_loss_is_told_at_the_end_where_no_line_comes_any_more() {
        let disk = Disk::with_room(0);
        let sink = sink(&disk);
        sink.line(b"one\n".to_vec());
        sink.flush(LONG);
        disk.room.store(1000, Ordering::Relaxed);
        sink.flush(LONG);
        assert_eq!(disk.text(), "lost 1: no storage space\n");
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        let disk = Disk::with_room(1 << 30);
        let held = disk.clone();
        let write = move |bytes: &[u8]| {
            // Until the other end is dropped.
            let _ = gate.recv();
            held.write(bytes)
        };
        let sink = Sink::start(Box::new(write), report);
        let line = vec![b'x'; 1 << 20];
        (0..20).for_each(|_| sink.line([&line[..], b"\n"].concat()));
        sink.flush(Duration::from_millis(20));
        assert_eq!(disk.text(), "", "the thread hangs, and nobody else");
        drop(go_on);
        sink.flush(LONG);
        let text = disk.text();
        let written = text.lines().filter(|line| line.starts_with('x')).count();
        assert!((1..=4).contains(&written), "{written} of 20 lines");
        let lost = format!("lost {}: it is too slow\n", 20 - written);
        assert!(text.ends_with(&lost), "{}", &text[text.len() - 60..]);
    }
}
