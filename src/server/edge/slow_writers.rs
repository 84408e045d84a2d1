//! Threads for answers that a client takes slowly: large ones, and those of clients that do not read.
//!
//! They are started when they are needed and end after a rest. Their number is bounded; beyond it an answer is dropped with
//! its connection, and counted: its outcome is unknown to the client, as after any broken connection.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::slot::Writing;

/// How long a thread waits for another answer before it ends.
const REST: Duration = Duration::from_secs(5);
/// A writer waits for a socket and copies bytes.
const STACK_BYTES: usize = 128 * 1024;

/// The rest of an answer, which waits in the outbox of its slot.
struct Job {
    writing: Writing,
    deadline: Instant,
}

/// The threads of one port.
pub(super) struct SlowWriters {
    name: String,
    most: usize,
    state: Mutex<State>,
    /// Signalled when there is a job, at the stop, and when a thread ends.
    changed: Condvar,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    /// Never more than there are resting threads.
    jobs: VecDeque<Job>,
    resting: usize,
    threads: usize,
    stopped: bool,
}

impl fmt::Debug for SlowWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowWriters").field("name", &self.name).field("most", &self.most).finish()
    }
}

impl SlowWriters {
    /// At most `most` threads, named `name`. `dropped` counts the answers that did not reach their clients whole.
    pub(super) fn new(name: String, most: usize, dropped: Arc<AtomicU64>) -> SlowWriters {
        SlowWriters { name, most, state: Mutex::default(), changed: Condvar::new(), dropped }
    }

    /// Has the rest of an answer written before the deadline. Never waits for the client.
    pub(super) fn write(self: &Arc<Self>, writing: Writing, deadline: Instant) {
        let job = Job { writing, deadline };
        let mut state = self.lock();
        if state.resting > state.jobs.len() {
            state.jobs.push_back(job);
            drop(state);
            // The one that is woken may be a stop that waits for the threads to end: so all are.
            return self.changed.notify_all();
        }
        if state.threads >= self.most || state.stopped {
            drop(state);
            return self.drop_answer(job);
        }
        state.threads += 1;
        drop(state);
        // The job stays here until the thread runs, so that it is not lost with a thread that cannot be started.
        let job = Arc::new(Mutex::new(Some(job)));
        let (writers, first) = (Arc::clone(self), Arc::clone(&job));
        let thread = thread::Builder::new().name(self.name.clone()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let first = first.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
            writers.run(first);
        });
        if let Err(error) = spawned {
            log::warn!("{}: no thread for a slow answer: {error}", self.name);
            self.lock().threads -= 1;
            let job = job.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
            job.into_iter().for_each(|job| self.drop_answer(job));
        }
    }

    /// Starts no more threads, and waits until those that rest have ended, or the deadline. The answers that are being
    /// written end with their connections.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        state.stopped = true;
        self.changed.notify_all();
        while state.threads > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        true
    }

    fn run(&self, first: Option<Job>) {
        let mut next = first;
        while let Some(job) = next {
            match job.writing.slot().outbox.drain(job.deadline) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => self.drop_answer(job),
                // The client is gone: nobody is there to take the rest.
                Err(_) => job.writing.slot().outbox.break_off(),
            }
            next = self.next_job();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let end = Instant::now() + REST;
        let mut state = self.lock();
        state.resting += 1;
        let job = loop {
            if let Some(job) = state.jobs.pop_front() {
                break Some(job);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stopped {
                break None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        };
        state.resting -= 1;
        if job.is_none() {
            state.threads -= 1;
            self.changed.notify_all();
        }
        job
    }

    fn drop_answer(&self, job: Job) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        job.writing.slot().outbox.break_off();
    }

    /// The state stays consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
