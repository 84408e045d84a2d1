//! The limits of one port.

use std::time::Duration;

/// The limits of one port.
#[derive(Clone, Debug)]
pub struct EdgeLimits {
    /// Maximum number of open connections. Further ones get 503 and are closed.
    pub max_connections: usize,
    /// Largest request body, in bytes: 413 beyond.
    pub max_body_bytes: usize,
    /// From a request's first byte to the end of its head: 408 beyond.
    pub head_timeout: Duration,
    /// For a body: this and what its size takes at `min_bytes_per_s`: 408 beyond.
    pub body_timeout: Duration,
    /// Slowest pace at which a client may send a body or take an answer, in bytes per second.
    pub min_bytes_per_s: usize,
    /// Silence between two requests, and before the first: closed beyond.
    pub idle_timeout: Duration,
    /// For an answer: this and what its size takes at `min_bytes_per_s`: closed beyond.
    pub write_timeout: Duration,
    /// Most answers that threads write to clients that take them slowly: further ones are dropped with their connections.
    pub max_slow_writers: usize,
    /// Wait for a place among the requests inside: 503 `overloaded` beyond.
    pub entry_wait: Duration,
    /// Wait for the handler's answer; longer than any handler's own deadline. Beyond: not done when no handler has begun,
    /// else unknown for writes and not done for reads.
    pub answer_timeout: Duration,
}

impl Default for EdgeLimits {
    fn default() -> EdgeLimits {
        EdgeLimits {
            max_connections: 4096,
            max_body_bytes: 3 << 19,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            min_bytes_per_s: 64 * 1024,
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(5),
            max_slow_writers: 64,
            entry_wait: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(15),
        }
    }
}

impl EdgeLimits {
    fn transfer_time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.min_bytes_per_s.max(1) as f64)
    }

    /// For a body of this many bytes.
    pub(super) fn body_deadline(&self, bytes: usize) -> Duration {
        self.body_timeout + self.transfer_time(bytes)
    }

    /// For an answer of this many bytes.
    pub(super) fn write_deadline(&self, bytes: usize) -> Duration {
        self.write_timeout + self.transfer_time(bytes)
    }
}
