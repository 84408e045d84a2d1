//! Watchers: each watches some keys at one member after the other, and goes on from where it was. Connections break off
//! between any two events, and inside one that is told in parts. At the end, what a watcher was told is held to the
//! committed log, replayed by the plain map: promise P9.

use std::sync::Arc;

use dkv::node::{Cursor, Most, Origin, RevisionSeen, Watch, Watches};
use dkv::store::Op;
use dkv::vocabulary::{KeyRange, Keys};

use crate::history::plain_map::Model;
use crate::node::NodeEvent;
use crate::report::Mark;
use crate::swarm::{Stream, Swarm};
use crate::world::{Event, NodeIndex, World};

/// What was told from one position on, without a break in between.
#[derive(Debug)]
struct Told {
    from: u64,
    /// Revision, key, and the value; None: it was deleted.
    changes: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
}

struct Watcher {
    keys: Keys,
    /// Every change before this revision was told.
    next: u64,
    told: Vec<Told>,
    /// At this member; the registry tells its process from the next one.
    at: Option<(NodeIndex, Arc<Watches>, Cursor)>,
}

/// All watchers.
pub struct Watchers {
    watchers: Vec<Watcher>,
    rng: fastrand::Rng,
}

impl Watchers {
    /// None in most runs.
    pub fn new(swarm: &Swarm) -> Watchers {
        let mut rng = Stream::Watches.rng(swarm.seed);
        let count = if swarm.operations.watches { rng.usize(1..=3) } else { 0 };
        let watcher = |rng: &mut fastrand::Rng| {
            let all = Keys::Range(KeyRange::new(b"", b"", b""));
            let keys = match rng.u8(0..3) {
                0 => Keys::One(format!("k{}", rng.u64(0..swarm.keys)).into_bytes()),
                1 => Keys::Range(KeyRange::new(b"", b"", format!("k{}", rng.u64(0..swarm.keys)).as_bytes())),
                _ => all,
            };
            Watcher { keys, next: 1, told: vec![Told { from: 1, changes: Vec::new() }], at: None }
        };
        Watchers { watchers: (0..count).map(|_| watcher(&mut rng)).collect(), rng }
    }
}

impl World {
    /// Lets the watchers begin.
    pub fn start_watchers(&mut self) {
        for watcher in 0..self.watchers.watchers.len() {
            self.plan_watcher(watcher);
        }
    }

    fn plan_watcher(&mut self, watcher: usize) {
        let after = self.watchers.rng.u64(1..=self.swarm.election_timeout_us / 4);
        self.plan(after, Event::Watcher { watcher });
    }

    pub fn handle_watcher_event(&mut self, watcher: usize) {
        if self.watchers.rng.u8(0..6) == 0 {
            self.watchers.watchers[watcher].at = None;
        }
        let at = self.watchers.watchers[watcher].at.take();
        let at = at
            .filter(|(node, watches, _)| self.watches_of(*node).is_some_and(|of| Arc::ptr_eq(&of, watches)));
        match at {
            Some((node, watches, cursor)) => self.be_told(watcher, node, watches, cursor),
            None => self.connect(watcher),
        }
        if self.watchers.rng.u8(0..50) == 0 {
            self.forget_history();
        }
        self.plan_watcher(watcher);
    }

    /// Somebody compacts by hand, through any member, a part of what there is.
    fn forget_history(&mut self) {
        let node = self.watchers.rng.usize(0..self.nodes.len());
        if self.watches_of(node).is_none() {
            return;
        }
        let kv = &self.nodes[node].process.as_ref().expect("it answers").kv;
        let revision = self.watchers.rng.u64(kv.floor()..=kv.revision() + 1);
        self.propose_unheard(node, Op::Compact { revision }, Origin::Client, Box::new(|_| ()));
        self.mark(Mark::CompactedByHand);
    }

    /// The registry of a process that answers.
    fn watches_of(&self, node: NodeIndex) -> Option<Arc<Watches>> {
        let machine = &self.nodes[node];
        let process = machine.process.as_ref().filter(|_| !machine.is_stopped())?;
        // A node that was told nothing yet serves no read.
        (process.kv.applied().index > 0).then(|| process.watches.clone())
    }

    fn connect(&mut self, watcher: usize) {
        let node = self.watchers.rng.usize(0..self.nodes.len());
        let Some(watches) = self.watches_of(node) else { return };
        let me = &mut self.watchers.watchers[watcher];
        let kv = &self.nodes[node].process.as_ref().expect("it answers").kv;
        let watch = Watch { keys: me.keys.clone(), from: me.next, puts: true, deletes: true, prev: false };
        let cursor =
            Cursor::open(&watches, vec![watch], usize::MAX, || kv.revision()).expect("there is room");
        me.at = Some((node, watches, cursor));
    }

    fn be_told(&mut self, watcher: usize, node: NodeIndex, watches: Arc<Watches>, mut cursor: Cursor) {
        let process = self.nodes[node].process.as_ref().expect("it answers");
        let rng = &mut self.watchers.rng;
        let me = &mut self.watchers.watchers[watcher];
        if !cursor.is_behind() {
            assert!(cursor.next() >= me.next, "P9: a position falls from {} to {}", me.next, cursor.next());
            me.next = cursor.next();
            me.at = Some((node, watches, cursor));
            return;
        }
        let most = Most { changes: rng.usize(1..8), bytes: usize::MAX, rows: rng.usize(1..40) };
        let seen = match cursor.read(&process.kv, most) {
            Ok(seen) => seen,
            Err(_) => {
                // It reads the present state, and goes on from there.
                me.next = process.kv.floor() + 1;
                me.told.push(Told { from: me.next, changes: Vec::new() });
                return self.mark(Mark::WatchCompacted);
            }
        };
        let has_told = !seen.is_empty();
        let taken = if rng.u8(0..3) == 0 { rng.usize(0..=seen.len()) } else { seen.len() };
        let is_broken = taken < seen.len();
        let is_split = is_broken && seen[taken].changes.len() > 1;
        for RevisionSeen { revision, changes } in seen.into_iter().take(taken) {
            // What was told of the revision in which the connection broke off is forgotten.
            let told = me.told.last_mut().expect("it was never empty");
            told.changes.extend(changes.into_iter().map(|seen| (revision, seen.row.key, seen.row.value)));
            me.next = revision + 1;
        }
        if !is_broken {
            me.next = me.next.max(cursor.next());
            me.at = Some((node, watches, cursor));
        }
        if has_told {
            self.mark(Mark::WatchTold);
        }
        if is_split {
            self.mark(Mark::WatchBrokenInside);
        } else if is_broken {
            self.mark(Mark::WatchBrokenBetween);
        }
    }

    /// Entries were applied, or a snapshot took the place of the state: the notifier looks.
    pub fn note_watchers(&mut self, node: NodeIndex) {
        let process = self.process(node);
        if process.watches.count() > 0 && !process.is_notifier_awake {
            process.is_notifier_awake = true;
            let at = self.now + self.watchers.rng.u64(1..=self.swarm.election_timeout_us / 20);
            self.plan_node_at(node, at, NodeEvent::Notifier);
        }
    }

    /// The notifier, as its thread does.
    pub fn run_notifier(&mut self, node: NodeIndex) {
        let process = self.process(node);
        process.is_notifier_awake = false;
        while process.watches.tell(|look| look(&process.kv)) {}
    }

    /// P9: every watcher reads on to the end at a member, and was told what the committed log has changed.
    pub fn check_watchers(&mut self, model: &Model) {
        for watcher in 0..self.watchers.watchers.len() {
            let members = self.members();
            let node = members[self.watchers.rng.usize(0..members.len())];
            self.run_notifier(node);
            let me = &mut self.watchers.watchers[watcher];
            // From here on it is this one that goes on.
            me.at = None;
            let process = self.nodes[node].process.as_ref().expect("everybody is up");
            let watch =
                Watch { keys: me.keys.clone(), from: me.next, puts: true, deletes: true, prev: false };
            let mut cursor =
                Cursor::open(&process.watches, vec![watch], usize::MAX, || process.kv.revision())
                    .expect("there is room");
            let most = Most { changes: 3, bytes: usize::MAX, rows: 10 };
            let mut is_whole = true;
            while is_whole && cursor.is_behind() {
                match cursor.read(&process.kv, most) {
                    Ok(seen) => {
                        let told = me.told.last_mut().expect("it was never empty");
                        let of = |seen: RevisionSeen| {
                            let revision = seen.revision;
                            seen.changes.into_iter().map(move |seen| (revision, seen.row.key, seen.row.value))
                        };
                        told.changes.extend(seen.into_iter().flat_map(of));
                        me.next = cursor.next();
                    }
                    Err(_) => is_whole = false,
                }
            }
            me.next = me.next.max(cursor.next().min(if is_whole { u64::MAX } else { 0 }));
            assert!(
                !is_whole || me.next == model.revision() + 1,
                "P9: the last position is {} in a store of revision {}",
                me.next,
                model.revision()
            );
            let ends = me.told[1..].iter().map(|told| told.from).chain([me.next]);
            let last = me.told.len() - 1;
            for (at, (told, end)) in me.told.iter().zip(ends).enumerate() {
                // Where changes were missed nothing was told between the last change and the next start.
                let is_whole = is_whole && at == last;
                let end =
                    if is_whole { end } else { told.changes.last().map_or(told.from, |last| last.0 + 1) };
                let expected = changes_of(model, &me.keys, told.from, end);
                assert!(told.changes == expected, "P9: {:?} was told {told:?} of {expected:?}", me.keys);
            }
        }
    }
}

/// What the plain map changed in these revisions, the last one excluded.
fn changes_of(model: &Model, keys: &Keys, from: u64, end: u64) -> Vec<(u64, Vec<u8>, Option<Vec<u8>>)> {
    let holds = |key: &[u8]| match keys {
        Keys::One(one) => one == key,
        Keys::Range(range) => range.contains(key),
    };
    let changes = (from.max(2)..end).flat_map(|revision| {
        let value = move |key: &[u8]| model.at(revision).get(key).map(|row| row.value.clone());
        let keys = model.changed_by(revision).into_iter();
        keys.map(move |key| (revision, key.clone(), value(&key)))
    });
    changes.filter(|(_, key, _)| holds(key)).collect()
}
