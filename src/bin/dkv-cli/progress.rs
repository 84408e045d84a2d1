//! A line that says how far a long command is, on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Drawn at most so often.
const EVERY: Duration = Duration::from_millis(100);

const BAR_WIDTH: usize = 30;

/// The line. Wiped when it is dropped.
pub struct Progress {
    is_shown: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// On standard error, where that is a terminal.
    pub fn new() -> Progress {
        Progress { is_shown: io::stderr().is_terminal(), drawn: None }
    }

    /// `done` of `total` bytes.
    pub fn bytes(&mut self, done: u64, total: u64) {
        self.draw(done == total, || {
            let share = done.min(total) as f64 / total.max(1) as f64;
            let filled = (share * BAR_WIDTH as f64) as usize;
            let (mib, of) = (mib(done), mib(total));
            format!("[{:<BAR_WIDTH$}] {:3.0} %  {mib:.1} of {of:.1} MiB", "#".repeat(filled), share * 100.0)
        });
    }

    /// So many keys, of nobody knows how many.
    pub fn keys(&mut self, done: u64) {
        self.draw(false, || format!("{done} keys"));
    }

    fn draw(&mut self, is_last: bool, text: impl Fn() -> String) {
        let is_due = is_last || self.drawn.is_none_or(|at| at.elapsed() >= EVERY);
        if self.is_shown && is_due {
            self.drawn = Some(Instant::now());
            // Nobody is told less when it cannot be drawn.
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
