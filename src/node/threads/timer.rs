//! The timer: elections, check-quorum, held replies and overdue requests. Never touches the disk, so that a leader
//! with a stuck disk still steps down (thesis §6.2).

use std::sync::Arc;

use super::guard::fail;
use crate::node::core::DISK_DEAD_AFTER;
use crate::node::{Next, Node};

enum Task {
    Tick,
    DiskDead,
    End,
}

/// The thread.
pub(in crate::node) fn run(node: &Arc<Node>) {
    loop {
        let task = node.wait(&node.wakeups.timer, |state, now| {
            if state.is_stopping {
                return Next::Do(Task::End);
            }
            state.notice_process_pause(now);
            if state.is_disk_dead(now) {
                return Next::Do(Task::DiskDead);
            }
            let next = state.next_time();
            state.timer_sleeps_until(next.max(now));
            if next <= now { Next::Do(Task::Tick) } else { Next::sleep_until(next) }
        });
        match task {
            Task::Tick => node.step(|state, now| state.handle_time(now)),
            Task::DiskDead => fail(&format!(
                "the disk under the log has not finished a write for {} s: check the disk, then start the node again",
                DISK_DEAD_AFTER.as_secs()
            )),
            Task::End => return,
        }
    }
}
