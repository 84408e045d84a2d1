//! What the supervisor prints: a queue and one thread, the only one that waits for a terminal that is stopped (Ctrl-S) or a
//! pipe that nobody reads. Children are reaped and signals passed on meanwhile.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Lines that may wait to be printed.
const QUEUE_LINES: usize = 1_024;

/// How long the supervisor's own line waits for a place in the queue; then it is lost.
const OWN_PATIENCE: Duration = Duration::from_millis(100);

/// How long the end of the process waits for its last lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

enum Line {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// The way to the terminal. Every clone leads to the same queue.
#[derive(Clone)]
pub struct Terminal {
    queue: Sender<Line>,
}

/// Waits for the last lines.
pub struct Printed {
    /// Disconnected once everything is printed and no [`Terminal`] is left.
    ended: Receiver<()>,
}

impl Terminal {
    /// Starts the thread.
    pub fn start() -> io::Result<(Terminal, Printed)> {
        let (queue, lines) = bounded(QUEUE_LINES);
        let (guard, ended) = bounded(0);
        thread::Builder::new().name("terminal".to_owned()).spawn(move || {
            print(&lines);
            drop(guard);
        })?;
        Ok((Terminal { queue }, Printed { ended }))
    }

    /// A whole line of a child. Waits while the terminal takes nothing: then the child's own log drops lines, and counts
    /// them.
    pub fn relay(&self, line: Vec<u8>) {
        let _ = self.queue.send(Line::Out(line));
    }

    /// A line of the supervisor's own.
    pub fn say(&self, text: &str) {
        let _ = self.queue.send_timeout(Line::Out(format!("dkv: {text}\n").into_bytes()), OWN_PATIENCE);
    }

    /// A failure of the supervisor's own, on standard error.
    pub fn complain(&self, text: &str) {
        let line = format!("dkv-server: {text}\n").into_bytes();
        let _ = self.queue.send_timeout(Line::Err(line), OWN_PATIENCE);
    }
}

impl Printed {
    /// After the last [`Terminal`] is dropped: until everything is printed, or patience ends.
    pub fn wait(self) {
        // Nothing is ever sent.
        let _ = self.ended.recv_timeout(FLUSH_PATIENCE);
    }
}

/// A terminal that is closed takes nothing, and that must not end the cluster.
fn print(lines: &Receiver<Line>) {
    for line in lines {
        let _ = match line {
            Line::Out(bytes) => io::stdout().lock().write_all(&bytes),
            Line::Err(bytes) => io::stderr().lock().write_all(&bytes),
        };
    }
}
