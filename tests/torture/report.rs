//! What a run counts, and what it says of itself at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::kind::{BESIDE, Kind, Machine, NETWORK_KINDS, PROCESS_KINDS};

/// Counters of a run. Every thread adds to them.
#[derive(Default)]
pub struct Report {
    kinds: Mutex<BTreeMap<Kind, Tally>>,
    pub rounds: AtomicU64,
    pub failed_rounds: AtomicU64,
    pub clusters: AtomicU64,
    /// Processes killed with SIGKILL by the nemesis itself.
    pub kills: AtomicU64,
    /// The same, within 200 ms of their start.
    pub kills_in_recovery: AtomicU64,
    /// Processes killed at a system call.
    pub injected_kills: AtomicU64,
    pub fail_stops: AtomicU64,
    pub pauses: AtomicU64,
    pub terms: AtomicU64,
    pub starts: AtomicU64,
    /// Runs of `dkv-cli` that were to change the membership or the leadership.
    pub changes: AtomicU64,
    /// Of these, those whose outcome was unknown.
    pub changes_unknown: AtomicU64,
    /// Of these, those that were refused or came to nothing in their time.
    pub changes_refused: AtomicU64,
    /// Removals of members that were needed, beside dead ones, and that were refused.
    pub needed_kept: AtomicU64,
    pub joins: AtomicU64,
    pub promotions: AtomicU64,
    /// Members that ended with exit code 4 after their removal.
    pub removals: AtomicU64,
    /// Members that lost their data and vote again, under another identity.
    pub replacements: AtomicU64,
    /// Members without their data that were refused with exit code 4.
    pub strangers: AtomicU64,
    pub transfers: AtomicU64,
    pub memberships_agreed: AtomicU64,
    pub snapshots: AtomicU64,
    pub installs: AtomicU64,
    pub flips: AtomicU64,
    /// Flips that ended the next start with exit code 3.
    pub flips_refused: AtomicU64,
    /// Flips in a snapshot that was passed over for an older one.
    pub flips_passed_over: AtomicU64,
    /// Flips where nothing was ever written.
    pub flips_harmless: AtomicU64,
    pub done: AtomicU64,
    pub not_done: AtomicU64,
    pub unknown: AtomicU64,
    pub lists: AtomicU64,
    pub retries: AtomicU64,
    pub keys_checked: AtomicU64,
    pub operations_checked: AtomicU64,
    pub writes_read_back: AtomicU64,
    pub writes_compacted: AtomicU64,
    pub lost_writes: AtomicU64,
    pub stale_reads: AtomicU64,
    pub undecided_keys: AtomicU64,
    pub verified: AtomicU64,
    pub torn_tails: AtomicU64,
    pub hashes_compared: AtomicU64,
    /// Messages the proxies did something to.
    pub messages: AtomicU64,
    pub messages_hindered: AtomicU64,
    /// Peer links through the proxies, the frames that they carried, and how many directions of them became half-open.
    pub links: AtomicU64,
    pub frames: AtomicU64,
    pub half_open: AtomicU64,
    /// How often a member was told that its leader's process had ended.
    pub told: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    installed: u64,
    skipped: BTreeMap<String, u64>,
}

impl Report {
    /// A fault was there.
    pub fn installed(&self, kind: Kind) {
        self.tally(kind, |tally| tally.installed += 1);
    }

    /// A fault was meant to be there and was not.
    pub fn skipped(&self, kind: Kind, why: &str) {
        self.tally(kind, |tally| *tally.skipped.entry(why.to_owned()).or_default() += 1);
    }

    fn tally(&self, kind: Kind, change: impl FnOnce(&mut Tally)) {
        change(self.kinds.lock().expect("nothing panics under the lock").entry(kind).or_default());
    }

    /// The kinds that were never there although they must have been.
    pub fn missing(&self, required: &[Kind], machine: &Machine) -> Vec<&'static str> {
        let kinds = self.kinds.lock().expect("nothing panics under the lock");
        let is_missing = |kind: &&Kind| {
            machine.lacks(**kind).is_none() && kinds.get(kind).is_none_or(|tally| tally.installed == 0)
        };
        required.iter().filter(is_missing).map(|kind| kind.label()).collect()
    }

    /// The whole run in some lines.
    pub fn summary(&self, seeds: (u64, u64), took: Duration, machine: &Machine) -> String {
        let kinds = self.kinds.lock().expect("nothing panics under the lock");
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let count = |cut: bool| -> u64 {
            let of = NETWORK_KINDS.into_iter().filter(|kind| kind.is_cut() == cut);
            of.map(|kind| kinds.get(&kind).map_or(0, |tally| tally.installed)).sum()
        };
        let mut out = format!(
            "torture: {} rounds in {} s, {} clusters, seeds {} to {}; {} failed\n",
            get(&self.rounds),
            took.as_secs(),
            get(&self.clusters),
            seeds.0,
            seeds.1,
            get(&self.failed_rounds),
        );
        for kind in PROCESS_KINDS.into_iter().chain(NETWORK_KINDS).chain(BESIDE) {
            let tally = kinds.get(&kind).cloned().unwrap_or_default();
            let mut line = format!("  {:36} {:6}", kind.label(), tally.installed);
            for (why, count) in &tally.skipped {
                line += &format!("; {count} skipped: {why}");
            }
            if let Some(why) = machine.lacks(kind) {
                line += &format!("; not possible here: {why}");
            }
            out += &(line.trim_end().to_owned() + "\n");
        }
        let operations = get(&self.done) + get(&self.not_done) + get(&self.unknown);
        out += &format!(
            "  processes: {} started, {} killed with SIGKILL ({} of them in recovery), {} killed at a system call, \
             {} stopped by themselves at a failing disk, {} ended by SIGTERM, {} paused\n  \
             members: {} commands ({} refused or too late, {} unknown): {} nodes joined ({} promoted), {} were removed, {} came back \
             without their data and were refused, {} replaced under another identity; {} that were needed were kept; {} transfers; {} times all agreed\n  \
             disks: {} snapshots saved, {} installed; {} bits flipped, {} of them refused, {} passed over for an older \
             snapshot, {} where nothing was written\n  \
             network: {} cuts, {} other faults, {} of {} messages hindered; {} links with {} frames, {} half-open; \
             members were told of dead leaders {} times\n  \
             operations: {operations} ({}/s): {} done, {} not done, {} unknown; {} lists, {} retries\n  \
             checked: {} keys, {} operations; {} acknowledged writes read back at their revision ({} no more \
             kept); {} times all \
             hashes were equal; {} data directories verified, {} with a torn tail\n  \
             lost acknowledged writes: {}; stale reads: {}; undecided keys: {}\n",
            get(&self.starts),
            get(&self.kills),
            get(&self.kills_in_recovery),
            get(&self.injected_kills),
            get(&self.fail_stops),
            get(&self.terms),
            get(&self.pauses),
            get(&self.changes),
            get(&self.changes_refused),
            get(&self.changes_unknown),
            get(&self.joins),
            get(&self.promotions),
            get(&self.removals),
            get(&self.strangers),
            get(&self.replacements),
            get(&self.needed_kept),
            get(&self.transfers),
            get(&self.memberships_agreed),
            get(&self.snapshots),
            get(&self.installs),
            get(&self.flips),
            get(&self.flips_refused),
            get(&self.flips_passed_over),
            get(&self.flips_harmless),
            count(true),
            count(false),
            get(&self.messages_hindered),
            get(&self.messages),
            get(&self.links),
            get(&self.frames),
            get(&self.half_open),
            get(&self.told),
            operations / took.as_secs().max(1),
            get(&self.done),
            get(&self.not_done),
            get(&self.unknown),
            get(&self.lists),
            get(&self.retries),
            get(&self.keys_checked),
            get(&self.operations_checked),
            get(&self.writes_read_back),
            get(&self.writes_compacted),
            get(&self.hashes_compared),
            get(&self.verified),
            get(&self.torn_tails),
            get(&self.lost_writes),
            get(&self.stale_reads),
            get(&self.undecided_keys),
        );
        out
    }
}
