//! Logging that never stops a node: simplelog formats the lines, a bounded queue and one thread write them. When the
//! terminal or the file does not take them, lines are dropped and counted.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::LevelFilter;
use simplelog::{ConfigBuilder, FormatItem, ThreadLogMode, WriteLogger};
use time::macros::format_description;

use crate::config::{LogConfig, LogLevel};
use crate::files::{self, FileError};

/// RFC 3339 in UTC with microseconds, always of one width, so that lines align and sort as text.
const TIME_FORMAT: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Lines that may wait for the writer; the next one is dropped.
const QUEUE_LINES: usize = 4_096;

/// Bytes of one line; the rest is cut.
const MAX_LINE_BYTES: usize = 8 << 10;

/// How long the end of the process waits for its last lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

static LINES: OnceLock<Sender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Set until the writer has opened its file again.
static MUST_REOPEN: AtomicBool = AtomicBool::new(false);

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be used.
    #[error("log.file: {}: {}", .0.path.display(), .0.what)]
    File(FileError),
    /// The writer's thread cannot be started.
    #[error("cannot start the log writer: {0}")]
    Thread(io::Error),
    /// Logging runs already.
    #[error("logging was started twice in one process")]
    Twice,
}

enum Item {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
    /// Nothing to write: the writer looks at what else it has to do.
    Wakeup,
}

/// Where the lines go.
type Sink = Box<dyn Write + Send>;

/// Starts logging for the whole process: one line per record, with RFC 3339 time in UTC, level and thread name, to
/// `config.file` or standard error. Call once.
pub fn start(config: &LogConfig) -> Result<(), LogError> {
    let file = config.file.clone();
    let (sink, restricted): (Sink, _) = match &file {
        None => (Box::new(io::stderr()), None),
        Some(path) => {
            let (file, restricted) = files::open_log(path).map_err(LogError::File)?;
            (Box::new(file), restricted)
        }
    };
    let (lines, queue) = bounded(QUEUE_LINES);
    if LINES.set(lines.clone()).is_err() {
        return Err(LogError::Twice);
    }
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&queue, sink, &MUST_REOPEN, || open_again(file.as_deref()), &DROPPED))
        .map_err(LogError::Thread)?;
    // The format is built for every level: the level in force is log::max_level, which may change at run time.
    let format = ConfigBuilder::new()
        .set_time_format_custom(TIME_FORMAT)
        .set_thread_level(LevelFilter::Error)
        .set_thread_mode(ThreadLogMode::Names)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_ignore_str("ureq")
        .add_filter_ignore_str("tiny_http")
        .build();
    let logger = WriteLogger::new(LevelFilter::Trace, format, LineQueue::new(lines, &DROPPED));
    log::set_boxed_logger(logger).map_err(|_| LogError::Twice)?;
    set_level(config.level);
    if let Some(text) = restricted {
        log::warn!("{text}");
    }
    Ok(())
}

/// Opens the log file again at its path: the old one was moved away, or is to be. Returns at once; the lines that are
/// queued already may go to either file. Nothing but a line where the log has no file.
pub fn reopen() {
    MUST_REOPEN.store(true, Ordering::Release);
    if let Some(lines) = LINES.get() {
        // A full queue wakes the writer as well.
        let _ = lines.try_send(Item::Wakeup);
    }
}

/// What comes of [`reopen`], on the writer's thread: its own lines only ever queue.
fn open_again(file: Option<&Path>) -> Option<Sink> {
    let Some(path) = file else {
        log::info!("SIGHUP: there is no log file to open again, the log goes to standard error");
        return None;
    };
    match files::open_log(path) {
        Ok((file, restricted)) => {
            log::info!("SIGHUP: the log file {} was opened again", path.display());
            if let Some(text) = restricted {
                log::warn!("{text}");
            }
            Some(Box::new(file))
        }
        Err(e) => {
            log::warn!(
                "SIGHUP: the log file {} cannot be opened again: it {}; the log goes on in the old file: mend it and send \
                 SIGHUP again",
                path.display(),
                e.what
            );
            None
        }
    }
}

/// Changes the level from now on.
pub fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    });
}

/// How many lines were dropped since the start because nobody took them.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until every line logged so far is written, at most `patience`; for the moment before the process ends.
/// Returns whether they are. Without [`start`] there is nothing to write.
pub fn flush(patience: Duration) -> bool {
    LINES.get().is_none_or(|lines| wait_until_written(lines, patience))
}

fn wait_until_written(lines: &Sender<Item>, patience: Duration) -> bool {
    let (done, written) = bounded(1);
    lines.send_timeout(Item::Flush(done), patience).is_ok() && written.recv_timeout(patience).is_ok()
}

/// Collects the fragments that simplelog writes into lines, and queues each without ever waiting.
struct LineQueue {
    line: Vec<u8>,
    lines: Sender<Item>,
    dropped: &'static AtomicU64,
}

impl LineQueue {
    fn new(lines: Sender<Item>, dropped: &'static AtomicU64) -> LineQueue {
        LineQueue { line: Vec::new(), lines, dropped }
    }
}

impl Write for LineQueue {
    fn write(&mut self, fragment: &[u8]) -> io::Result<usize> {
        let room = (MAX_LINE_BYTES - 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&fragment[..fragment.len().min(room)]);
        if fragment.ends_with(b"\n") {
            if !self.line.ends_with(b"\n") {
                self.line.push(b'\n');
            }
            if self.lines.try_send(Item::Line(std::mem::take(&mut self.line))).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(fragment.len())
    }

    /// Waits, unlike everything else here: only who is about to end the process at once asks for it, and the line that
    /// says why must not end in the queue.
    fn flush(&mut self) -> io::Result<()> {
        if wait_until_written(&self.lines, FLUSH_PATIENCE) {
            return Ok(());
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// The writer thread: the only one that may wait for the terminal or the file.
fn write_lines<S: Write>(
    queue: &Receiver<Item>,
    mut sink: S,
    must_reopen: &AtomicBool,
    mut open_again: impl FnMut() -> Option<S>,
    dropped: &AtomicU64,
) {
    let mut reported = 0;
    for item in queue {
        if must_reopen.swap(false, Ordering::AcqRel)
            && let Some(opened) = open_again()
        {
            sink = opened;
        }
        match item {
            Item::Wakeup => {}
            Item::Line(line) => {
                if sink.write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            Item::Flush(done) => {
                // Nobody waits any more when this fails.
                let _ = done.try_send(());
            }
        }
        let now = dropped.load(Ordering::Relaxed);
        if now > reported
            && writeln!(
                sink,
                "dkv: {} log lines were dropped: the log is not read fast enough",
                now - reported
            )
            .is_ok()
        {
            reported = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    /// A sink that takes nothing until it is opened.
    #[derive(Clone)]
    struct Stopped {
        open: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.open.recv_timeout(Duration::from_secs(30));
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    static NEVER: AtomicBool = AtomicBool::new(false);

    fn counter() -> &'static AtomicU64 {
        Box::leak(Box::default())
    }

    #[test]
    fn lines_are_dropped_and_counted_while_the_terminal_is_stopped() {
        let (lines, queue) = bounded(8);
        let (opener, open) = bounded(0);
        let sink = Stopped { open, taken: Arc::default() };
        let taken = sink.taken.clone();
        let dropped = counter();
        let writer = thread::spawn(move || write_lines(&queue, sink, &NEVER, || None, dropped));

        let mut log = LineQueue::new(lines.clone(), dropped);
        let start = Instant::now();
        for i in 0..100 {
            writeln!(log, "line {i}").unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "logging waited for the terminal");
        let lost = dropped.load(Ordering::Relaxed);
        assert!((91..=92).contains(&lost), "8 queued and perhaps one being written, but {lost} lost");

        drop(opener);
        let (done, written) = bounded(1);
        lines.send_timeout(Item::Flush(done), Duration::from_secs(30)).unwrap();
        written.recv_timeout(Duration::from_secs(30)).unwrap();
        drop((log, lines));
        writer.join().unwrap();
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("line 0\n"), "{text}");
        assert!(text.contains(&format!("dkv: {lost} log lines were dropped")), "{text}");
    }

    #[test]
    fn write_joins_fragments_and_cuts_a_long_line() {
        let (lines, queue) = bounded(8);
        let mut log = LineQueue::new(lines, counter());
        for fragment in ["2026 ", "[INFO] ", "hello", "\n"] {
            log.write_all(fragment.as_bytes()).unwrap();
        }
        log.write_all(&vec![b'x'; 3 * MAX_LINE_BYTES]).unwrap();
        log.write_all(b"\n").unwrap();
        let line = |item| match item {
            Item::Line(line) => line,
            Item::Flush(_) | Item::Wakeup => panic!("nobody asked for it"),
        };
        assert_eq!(line(queue.try_recv().unwrap()), b"2026 [INFO] hello\n");
        let long = line(queue.try_recv().unwrap());
        assert_eq!((long.len(), long.last()), (MAX_LINE_BYTES, Some(&b'\n')));
    }

    /// When the process ends right after a line, the line must be written: a fatal line was once lost in the queue.
    #[test]
    fn flush_of_the_queue_waits_until_its_lines_are_written() {
        let (lines, queue) = bounded(8);
        let (opener, open) = bounded(0);
        drop(opener);
        let sink = Stopped { open, taken: Arc::default() };
        let taken = sink.taken.clone();
        let writer = thread::spawn(move || write_lines(&queue, sink, &NEVER, || None, counter()));
        let mut log = LineQueue::new(lines, counter());
        log.write_all(b"the last words\n").unwrap();
        log.flush().unwrap();
        assert_eq!(*taken.lock().unwrap(), b"the last words\n");
        drop(log);
        writer.join().unwrap();
    }
}
