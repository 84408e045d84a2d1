//! Renewals wait a moment for each other: a client renews long before its lease is over, so a tenth of a second costs it
//! nothing, and thousands of leases share few entries of the log.
//!
//! They wait at the node that a client asked, and only there. A follower forwards them beside other writes, and the leader
//! answers what was forwarded together at once: a renewal that waited there would hold the other writes up.

use std::mem;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::node::lock;
use crate::node::request::{Completion, Failure, Origin, WriteResult};
use crate::store::Applied;
use crate::vocabulary::{LeaseId, MAX_LEASES_PER_COMMAND, Outcome};

/// How long the first renewal of a client waits for others: each node makes ten commands of them in a second.
const GATHER: Duration = Duration::from_millis(100);

/// A request that was not proposed yet.
struct Renewal {
    leases: Vec<LeaseId>,
    origin: Origin,
    deadline: Instant,
    done: Completion<WriteResult>,
}

/// Renewals that share entries.
pub(super) struct Batch(Vec<Renewal>);

/// What the thread does next.
pub(super) enum Task {
    /// Propose these.
    Renew(Batch),
    /// Look after the leases.
    Look,
    /// End.
    End,
}

/// A command that several renewals became: its leases, its deadline, where it comes from, and who gets the outcome.
pub(super) type BatchCommand = (Vec<LeaseId>, Instant, Origin, Completion<WriteResult>);

/// The renewals that wait, and the thread's sleep.
pub(in crate::node) struct Renewals {
    state: Mutex<Waiting>,
    condvar: Condvar,
}

struct Waiting {
    queue: Vec<Renewal>,
    /// When the queue is taken.
    due: Option<Instant>,
    /// When the thread looks after the leases; None: when it is told that there are some.
    look_at: Option<Instant>,
    is_over: bool,
}

impl Renewals {
    pub(in crate::node) fn new() -> Renewals {
        let state = Waiting { queue: Vec::new(), due: None, look_at: Some(Instant::now()), is_over: false };
        Renewals { state: Mutex::new(state), condvar: Condvar::new() }
    }

    /// Adds a request. It is answered by its deadline, as every write.
    pub(in crate::node) fn add(
        &self,
        leases: Vec<LeaseId>,
        origin: Origin,
        deadline: Instant,
        done: Completion<WriteResult>,
    ) {
        let renewal = Renewal { leases, origin, deadline, done };
        let mut state = lock(&self.state);
        if state.is_over {
            drop(state);
            return (renewal.done)(Err(Failure::unavailable("the node is stopping: ask another one")));
        }
        let due = Instant::now() + if origin == Origin::Client { GATHER } else { Duration::ZERO };
        state.queue.push(renewal);
        if state.due.is_none_or(|earlier| due < earlier) {
            state.due = Some(due);
            drop(state);
            self.condvar.notify_one();
        }
    }

    /// There are leases: somebody must look after them.
    pub(in crate::node) fn wake_keeper(&self) {
        let mut state = lock(&self.state);
        if state.look_at.is_none() {
            state.look_at = Some(Instant::now());
            drop(state);
            self.condvar.notify_one();
        }
    }

    /// The thread looks again after so long, or when it is told to.
    pub(super) fn look_after(&self, time: Duration) {
        let at = Instant::now() + time;
        let mut state = lock(&self.state);
        state.look_at = Some(state.look_at.map_or(at, |told| told.min(at)));
    }

    /// The node stops: what waits is surely not done, and the thread ends.
    pub(in crate::node) fn stop(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.is_over = true;
            mem::take(&mut state.queue)
        };
        self.condvar.notify_one();
        for renewal in waiting {
            (renewal.done)(Err(Failure::unavailable("the node is stopping: ask another one")));
        }
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Task {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            if state.is_over {
                return Task::End;
            }
            if state.due.is_some_and(|due| due <= now) {
                state.due = None;
                return Task::Renew(Batch(mem::take(&mut state.queue)));
            }
            if state.look_at.is_some_and(|at| at <= now) {
                // Whoever says from now on that there are leases may come too late for this look.
                state.look_at = None;
                return Task::Look;
            }
            let next = [state.due, state.look_at].into_iter().flatten().min();
            let sleep = next.map_or(super::super::LONGEST_SLEEP, |next| next.saturating_duration_since(now));
            let woken = self.condvar.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner);
            state = woken.0;
        }
    }
}

impl Batch {
    /// As few commands as possible. Here at the leader all renewals may share one; otherwise those that were forwarded
    /// once must not be forwarded again.
    pub(super) fn into_commands(self, leads: bool) -> Vec<BatchCommand> {
        let (own, forwarded): (Vec<Renewal>, Vec<Renewal>) =
            self.0.into_iter().partition(|renewal| leads || renewal.origin == Origin::Client);
        let own = chunks(own).into_iter().map(|chunk| command(chunk, Origin::Client));
        let forwarded = chunks(forwarded).into_iter().map(|chunk| command(chunk, Origin::Forwarded));
        own.chain(forwarded).collect()
    }
}

/// Whole renewals, as many as one command takes.
fn chunks(renewals: Vec<Renewal>) -> Vec<Vec<Renewal>> {
    let (mut chunks, mut len) = (Vec::<Vec<Renewal>>::new(), 0);
    for renewal in renewals {
        len += renewal.leases.len();
        match chunks.last_mut() {
            Some(chunk) if len <= MAX_LEASES_PER_COMMAND => chunk.push(renewal),
            _ => {
                len = renewal.leases.len();
                chunks.push(vec![renewal]);
            }
        }
    }
    chunks
}

fn command(renewals: Vec<Renewal>, origin: Origin) -> BatchCommand {
    let leases = renewals.iter().flat_map(|renewal| &renewal.leases).copied().collect();
    let deadline = renewals.iter().map(|renewal| renewal.deadline).max().unwrap_or_else(Instant::now);
    (leases, deadline, origin, Box::new(move |result| share_out(renewals, result)))
}

/// Each renewal gets its part of the outcome.
fn share_out(renewals: Vec<Renewal>, result: WriteResult) {
    let all = match result {
        Ok(Applied { index, outcome: Outcome::LeasesRenewed { ttls_s }, replayed }) => {
            Ok((index, ttls_s, replayed))
        }
        Ok(other) => Err(Ok(other)),
        Err(failure) => Err(Err(failure)),
    };
    let mut at = 0;
    for renewal in renewals {
        let end = at + renewal.leases.len();
        let part = match &all {
            Ok((index, ttls_s, replayed)) if end <= ttls_s.len() => Ok(Applied {
                index: *index,
                outcome: Outcome::LeasesRenewed { ttls_s: ttls_s[at..end].to_vec() },
                replayed: *replayed,
            }),
            Ok(_) => Err(Failure::unknown("the answer to renewals has too few of them")),
            Err(other) => other.clone(),
        };
        at = end;
        (renewal.done)(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    fn lease(number: u64) -> LeaseId {
        LeaseId::new(number).unwrap()
    }

    fn renewal(leases: &[u64], origin: Origin) -> (Renewal, Receiver<WriteResult>) {
        let (tell, told) = channel();
        let done = Box::new(move |result| tell.send(result).unwrap());
        let leases = leases.iter().map(|number| lease(*number)).collect();
        (Renewal { leases, origin, deadline: Instant::now(), done }, told)
    }

    fn ttls(told: &Receiver<WriteResult>) -> Vec<u64> {
        match told.try_recv().expect("an answer").expect("done").outcome {
            Outcome::LeasesRenewed { ttls_s } => ttls_s,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_renewal_gets_its_part_of_the_outcome() {
        let (first, first_told) = renewal(&[1, 2], Origin::Client);
        let (second, second_told) = renewal(&[3], Origin::Forwarded);
        let mut commands = Batch(vec![first, second]).into_commands(true);
        assert_eq!(commands.len(), 1, "at the leader they share an entry");
        let (leases, _, origin, done) = commands.remove(0);
        assert_eq!((leases, origin), (vec![lease(1), lease(2), lease(3)], Origin::Client));
        let outcome = Outcome::LeasesRenewed { ttls_s: vec![10, 0, 30] };
        done(Ok(Applied { index: 7, outcome, replayed: false }));
        assert_eq!((ttls(&first_told), ttls(&second_told)), (vec![10, 0], vec![30]));
    }

    /// One hop at most: a renewal that came from another node is not sent on.
    #[test]
    fn renewals_that_were_forwarded_are_not_forwarded_again() {
        let (own, _own_told) = renewal(&[1], Origin::Client);
        let (forwarded, told) = renewal(&[2], Origin::Forwarded);
        let commands = Batch(vec![own, forwarded]).into_commands(false);
        let origins: Vec<Origin> = commands.iter().map(|(_, _, origin, _)| *origin).collect();
        assert_eq!(origins, [Origin::Client, Origin::Forwarded]);
        for (_, _, _, done) in commands {
            done(Err(Failure::unavailable("no leader")));
        }
        assert!(told.try_recv().unwrap().is_err());
    }

    #[test]
    fn a_command_has_no_more_leases_than_its_byte_form_takes() {
        let many: Vec<u64> = (1..=MAX_LEASES_PER_COMMAND as u64 - 1).collect();
        let all =
            [renewal(&many, Origin::Client), renewal(&[1], Origin::Client), renewal(&[2], Origin::Client)];
        let batch = Batch(all.into_iter().map(|(renewal, _)| renewal).collect());
        let commands = batch.into_commands(true);
        let sizes: Vec<usize> = commands.iter().map(|(leases, ..)| leases.len()).collect();
        assert_eq!(sizes, [MAX_LEASES_PER_COMMAND, 1]);
    }

    /// Writes that were forwarded with it are answered together with it.
    #[test]
    fn a_renewal_that_was_forwarded_waits_for_no_other() {
        let renewals = Renewals::new();
        assert!(matches!(renewals.next(), Task::Look));
        let (own, _own_told) = renewal(&[1], Origin::Client);
        renewals.add(own.leases, own.origin, own.deadline, own.done);
        let waits = |renewals: &Renewals| lock(&renewals.state).due.expect("a time") > Instant::now();
        assert!(waits(&renewals), "a client's renewal waits for others");
        let (forwarded, _told) = renewal(&[2], Origin::Forwarded);
        renewals.add(forwarded.leases, forwarded.origin, forwarded.deadline, forwarded.done);
        assert!(!waits(&renewals));
        assert!(
            matches!(renewals.next(), Task::Renew(batch) if batch.0.len() == 2),
            "and takes the others along"
        );
    }

    /// A lease was granted while the keeper looked: nobody would have looked at it before the next entry.
    #[test]
    fn word_of_leases_that_comes_during_a_look_is_not_lost() {
        let renewals = Renewals::new();
        assert!(matches!(renewals.next(), Task::Look));
        renewals.wake_keeper();
        assert!(matches!(renewals.next(), Task::Look), "told during the first look");
        assert_eq!(lock(&renewals.state).look_at, None, "and then it sleeps");
        renewals.look_after(Duration::from_secs(9));
        renewals.wake_keeper();
        assert!(
            lock(&renewals.state).look_at.is_some_and(|at| at > Instant::now()),
            "it has its time already"
        );
    }

    #[test]
    fn a_stopping_node_answers_what_waits_and_what_comes() {
        let renewals = Arc::new(Renewals::new());
        let (waits, waits_told) = renewal(&[1], Origin::Client);
        renewals.add(waits.leases, waits.origin, waits.deadline, waits.done);
        renewals.stop();
        let (comes, comes_told) = renewal(&[1], Origin::Client);
        renewals.add(comes.leases, comes.origin, comes.deadline, comes.done);
        assert!(waits_told.try_recv().unwrap().is_err() && comes_told.try_recv().unwrap().is_err());
        assert!(matches!(renewals.next(), Task::End));
    }
}
