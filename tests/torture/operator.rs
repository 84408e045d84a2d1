//! The operator: changes the membership with `dkv-cli` while everything else goes on, repeats a command until its
//! outcome is known, starts what should run, and judges every process that ends by itself.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::cluster::Cluster;
use super::report::Report;
use super::seats::Stand;

/// What one run of `dkv-cli` may take; then the next one is started.
const COMMAND_TIMEOUT_S: u64 = 8;

/// A request that is under way when its command gives up may still be carried out for so long: a name it speaks of must
/// not mean another member by then.
pub const REQUEST_MAY_LINGER: Duration = Duration::from_secs(6);

/// How long before it is asked again to promote who was not let in yet.
const PROMOTE_EVERY: Duration = Duration::from_secs(1);

/// How long everything that was begun may take once nothing hinders it any more.
const AGREEMENT: Duration = Duration::from_secs(90);

/// Who is not let in for so long is started again, and asks another member.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// For an answer of a member.
const TIMEOUT: Duration = Duration::from_millis(500);

/// What a command is to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// The member on this seat is removed.
    Remove(usize),
    /// The member on the first seat, which is dead, is replaced by who joins on the second one.
    Replace(usize, usize),
    /// Who lost its data is let in again under its own name.
    Renew(usize),
    /// The learner on this seat votes.
    Promote(usize),
    /// Another member leads.
    Transfer,
}

impl Goal {
    /// Whether it speaks of who sits there.
    fn names(self, n: usize) -> bool {
        match self {
            Goal::Remove(seat) | Goal::Renew(seat) | Goal::Promote(seat) => seat == n,
            Goal::Replace(dead, new) => dead == n || new == n,
            Goal::Transfer => false,
        }
    }
}

/// What became of a command that was run once.
pub enum Refusal {
    /// It was done.
    None,
    /// The cluster is in no state to do it.
    Conflict,
    /// Anything else, with the exit code.
    Other(Option<i32>),
}

/// A command under way, or to be run again.
struct Change {
    goal: Goal,
    arguments: Vec<String>,
    child: Option<Child>,
    said: PathBuf,
    not_before: Instant,
}

/// Changes the membership of one cluster.
pub struct Operator {
    report: Arc<Report>,
    rng: Rng,
    changes: Vec<Change>,
    commands: usize,
    /// When the seat may be taken again.
    free_at: Vec<Instant>,
    /// Whether it was refused since it lost its data, and how often it was replaced by itself since then.
    renewals: Vec<usize>,
    /// Whether it was started once more after it had been told that it was removed.
    came_back: Vec<bool>,
}

impl Operator {
    /// Of a cluster with so many seats.
    pub fn new(seats: usize, seed: u64, report: &Arc<Report>) -> Operator {
        Operator {
            report: report.clone(),
            rng: Rng::with_seed(seed ^ 0x6f70_6572),
            changes: Vec::new(),
            commands: 0,
            free_at: vec![Instant::now(); seats],
            renewals: vec![0; seats],
            came_back: vec![false; seats],
        }
    }

    /// Whether no change is under way.
    pub fn is_quiet(&self, cluster: &Cluster) -> bool {
        self.changes.is_empty() && cluster.seats.are_quiet()
    }

    /// A new node asks to be let in, on a seat that is free, as a voter or as a learner that is then promoted.
    pub fn join(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        let is_learner = self.rng.u8(0..3) == 0;
        let n = self.let_in(cluster, is_learner)?;
        if is_learner {
            let arguments = vec!["member".into(), "promote".into(), cluster.name(n)];
            self.begin(cluster, Goal::Promote(n), arguments);
        }
        Ok(())
    }

    /// A seat for a new member.
    fn free_seat(&self, cluster: &Cluster) -> Result<usize, String> {
        let now = Instant::now();
        // A command that still runs would take the new member for the one that is gone.
        let is_named = |n| self.changes.iter().any(|change| change.goal.names(n));
        let mut absent = cluster.seats.that(Stand::Absent).into_iter();
        let free = absent.find(|&n| self.free_at[n] <= now && !is_named(n));
        free.ok_or_else(|| "no seat was free".to_owned())
    }

    fn let_in(&mut self, cluster: &mut Cluster, is_learner: bool) -> Result<usize, String> {
        let n = self.free_seat(cluster)?;
        self.came_back[n] = false;
        cluster.begin_to_join(n, is_learner);
        cluster.spawn(n);
        Ok(n)
    }

    /// The member is removed.
    pub fn remove(&mut self, cluster: &mut Cluster, n: usize) {
        cluster.seats.set(n, Stand::Leaving);
        self.begin(cluster, Goal::Remove(n), vec!["member".into(), "remove".into(), cluster.name(n)]);
    }

    /// The member dies for good, and a new one on another seat takes its place.
    pub fn replace(&mut self, cluster: &mut Cluster, dead: usize) -> Result<(), String> {
        self.free_seat(cluster)?;
        cluster.kill(dead);
        cluster.seats.set(dead, Stand::Leaving);
        let new = self.let_in(cluster, false)?;
        let arguments = replace_arguments(cluster, dead, new);
        self.begin(cluster, Goal::Replace(dead, new), arguments);
        Ok(())
    }

    /// The data of a member, whose process does not run, is gone: it comes back as a stranger and is replaced by itself.
    pub fn lose(&mut self, cluster: &mut Cluster, n: usize) {
        cluster.wipe(n);
        cluster.seats.set(n, Stand::Lost);
        self.renewals[n] = 0;
    }

    /// Another member is to lead: this one, or whoever is furthest.
    pub fn transfer(&mut self, cluster: &Cluster, to: Option<usize>) {
        let arguments = std::iter::once("transfer".to_owned()).chain(to.map(|n| cluster.name(n))).collect();
        self.begin(cluster, Goal::Transfer, arguments);
    }

    fn begin(&mut self, cluster: &Cluster, goal: Goal, arguments: Vec<String>) {
        let said = cluster.dir.join(format!("operator-{}.log", self.changes_begun()));
        self.changes.push(Change { goal, arguments, child: None, said, not_before: Instant::now() });
    }

    /// Runs a command once, and waits for its end.
    pub fn try_once(&mut self, cluster: &Cluster, arguments: &[&str]) -> Refusal {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let said = cluster.dir.join(format!("operator-{}.log", self.changes_begun()));
        let change =
            Change { goal: Goal::Transfer, arguments, child: None, said, not_before: Instant::now() };
        let status = self.command(&change, cluster).wait().expect("its status");
        let is_conflict = || fs::read_to_string(&change.said).unwrap_or_default().ends_with("(conflict)\n");
        match status.code() {
            Some(0) => Refusal::None,
            code => {
                let is_unknown = code == Some(4);
                let counter =
                    if is_unknown { &self.report.changes_unknown } else { &self.report.changes_refused };
                counter.fetch_add(1, Relaxed);
                if code == Some(1) && is_conflict() { Refusal::Conflict } else { Refusal::Other(code) }
            }
        }
    }

    fn changes_begun(&mut self) -> usize {
        self.commands += 1;
        self.commands
    }

    /// Goes on with everything: commands that ended, processes that ended, processes that should run. Returns what must
    /// not have happened.
    pub fn follow(&mut self, cluster: &mut Cluster) -> Vec<String> {
        let mut violations = Vec::new();
        self.follow_changes(cluster);
        for n in 0..cluster.size() {
            if let Some(status) = cluster.reap(n) {
                violations.extend(self.judge(cluster, n, status).err());
            }
            if self.should_run(cluster, n) && !cluster.runs(n) {
                cluster.spawn(n);
            }
            cluster.learn(n);
        }
        self.look_for_voters(cluster);
        violations
    }

    /// Not while nobody sits there, nor while it is dead and another one takes its place.
    fn should_run(&self, cluster: &Cluster, n: usize) -> bool {
        let is_dead = |change: &Change| matches!(change.goal, Goal::Replace(dead, _) if dead == n);
        cluster.seats.stand(n) != Stand::Absent && !self.changes.iter().any(is_dead)
    }

    fn follow_changes(&mut self, cluster: &Cluster) {
        for mut change in std::mem::take(&mut self.changes) {
            let ended = change.child.as_mut().and_then(|child| child.try_wait().expect("its status"));
            if let Some(status) = ended {
                change.child = None;
                if self.is_done(&mut change, cluster, status) {
                    continue;
                }
            }
            if change.child.is_none() && Instant::now() >= change.not_before {
                change.child = Some(self.command(&change, cluster));
            }
            self.changes.push(change);
        }
    }

    fn command(&mut self, change: &Change, cluster: &Cluster) -> Child {
        let log = File::options().create(true).append(true).open(&change.said).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
        command.args(["--timeout", &COMMAND_TIMEOUT_S.to_string()]).args(&change.arguments);
        let endpoints: Vec<String> =
            cluster.seats.that(Stand::Member).into_iter().map(|n| cluster.addresses.http(n)).collect();
        command.env("DKV_ENDPOINTS", endpoints.join(",")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.report.changes.fetch_add(1, Relaxed);
        command.spawn().expect("dkv-cli starts")
    }

    /// Whether a command that ended needs no other one after it.
    fn is_done(&mut self, change: &mut Change, cluster: &Cluster, status: ExitStatus) -> bool {
        let code = status.code();
        if code != Some(0) {
            // Nothing is known of what it asked last.
            change.not_before = Instant::now() + REQUEST_MAY_LINGER;
            let counter =
                if code == Some(4) { &self.report.changes_unknown } else { &self.report.changes_refused };
            counter.fetch_add(1, Relaxed);
        }
        match change.goal {
            Goal::Transfer => {
                self.report.transfers.fetch_add(u64::from(code == Some(0)), Relaxed);
                true
            }
            Goal::Remove(n) => {
                let said = fs::read_to_string(&change.said).unwrap_or_default();
                let is_gone = cluster.seats.stand(n) != Stand::Leaving || said.ends_with("(not_found)\n");
                if code != Some(0) {
                    self.free_at[n] = change.not_before;
                }
                code == Some(0) || is_gone
            }
            Goal::Replace(dead, _) => {
                if code != Some(0) {
                    self.free_at[dead] = change.not_before;
                }
                code == Some(0)
            }
            Goal::Promote(n) => {
                self.report.promotions.fetch_add(u64::from(code == Some(0)), Relaxed);
                change.not_before = Instant::now() + PROMOTE_EVERY;
                code == Some(0) || cluster.seats.stand(n) == Stand::Member
            }
            Goal::Renew(n) => code == Some(0) || cluster.seats.stand(n) == Stand::Member,
        }
    }

    /// A process ended by itself: it was told that it is no member any more, or that it is a stranger; else the error
    /// says how it ended.
    pub fn judge(&mut self, cluster: &mut Cluster, n: usize, status: ExitStatus) -> Result<(), String> {
        let said = cluster.said_since_start(n);
        let (is_refused, was_removed) =
            (said.contains("member replace"), said.contains("was removed from cluster"));
        match cluster.seats.stand(n) {
            Stand::Leaving if status.code() == Some(4) && was_removed => {
                if !self.came_back[n] && self.rng.bool() {
                    // With all its data, which must help it as little.
                    self.came_back[n] = true;
                    return Ok(());
                }
                self.report.removals.fetch_add(1, Relaxed);
                self.free_at[n] = self.free_at[n].max(Instant::now());
                cluster.wipe(n);
                cluster.seats.set(n, Stand::Absent);
            }
            Stand::Lost if status.code() == Some(4) && is_refused => {
                let is_under_way = self.changes.iter().any(|change| change.goal == Goal::Renew(n));
                if self.renewals[n] == 0 {
                    self.report.strangers.fetch_add(1, Relaxed);
                }
                if !is_under_way {
                    self.renewals[n] += 1;
                    let arguments = replace_arguments(cluster, n, n);
                    self.begin(cluster, Goal::Renew(n), arguments);
                }
            }
            // The command was run again while it was down, and took its new identity for the lost one.
            Stand::Lost if status.code() == Some(4) && was_removed && self.renewals[n] > 0 => cluster.wipe(n),
            stand => {
                let (name, tail) = (cluster.name(n), cluster.log_tail(n));
                return Err(format!("{name} ({stand:?}) ended by itself: {status}\n{tail}"));
            }
        }
        Ok(())
    }

    /// Who votes under its identity, as most members know, is one. One that knows it may forget it again.
    fn look_for_voters(&mut self, cluster: &mut Cluster) {
        let waiting = [cluster.seats.that(Stand::Joining), cluster.seats.that(Stand::Lost)].concat();
        if waiting.is_empty() {
            return;
        }
        let known = cluster.seats.that(Stand::Member);
        let voters = known.len();
        let lists: Vec<Vec<Value>> =
            known.into_iter().filter_map(|n| cluster.addresses.members(n, TIMEOUT)).collect();
        for n in waiting {
            let (name, member_id) = (cluster.name(n), cluster.member_id(n));
            let is_it = |m: &Value| {
                m["node_id"] == name.as_str()
                    && m["voter"] == true
                    && m["member_id"].as_str() == member_id.as_deref()
            };
            if 2 * lists.iter().filter(|members| members.iter().any(is_it)).count() > voters {
                let counter = match cluster.seats.stand(n) {
                    Stand::Lost => &self.report.replacements,
                    _ => &self.report.joins,
                };
                counter.fetch_add(1, Relaxed);
                cluster.seats.set(n, Stand::Member);
            }
        }
    }

    /// When nothing hinders anybody any more: waits until everything that was begun is done, lets new nodes join until
    /// there are as many voters as at the beginning, and until all of them know the same membership.
    pub fn wait_for_agreement(&mut self, cluster: &mut Cluster) -> Result<(), Vec<String>> {
        let deadline = Instant::now() + AGREEMENT;
        let mut restarted = Instant::now();
        loop {
            let violations = self.follow(cluster);
            if !violations.is_empty() {
                return Err(violations);
            }
            let voters = cluster.seats.that(Stand::Member);
            if self.is_quiet(cluster) {
                if voters.len() < cluster.initial_members {
                    // A seat may not be free at once.
                    let _ = self.join(cluster);
                } else if voters.iter().all(|&n| knows(cluster, n, &voters)) {
                    self.report.memberships_agreed.fetch_add(1, Relaxed);
                    return Ok(());
                }
            } else if restarted.elapsed() >= JOIN_PATIENCE {
                restarted = Instant::now();
                for n in cluster
                    .seats
                    .that(Stand::Joining)
                    .into_iter()
                    .filter(|&n| cluster.runs(n))
                    .collect::<Vec<_>>()
                {
                    cluster.kill(n);
                }
            }
            if Instant::now() >= deadline {
                return Err(vec![self.disagreement(cluster)]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn disagreement(&self, cluster: &Cluster) -> String {
        let mut text = format!("the members did not agree in {} s:", AGREEMENT.as_secs());
        for n in 0..cluster.size() {
            let members = cluster.addresses.members(n, TIMEOUT).map(Value::Array);
            let known = members.map_or("no answer".to_owned(), |members| members.to_string());
            text += &format!("\n  {} {:?}: {known}", cluster.name(n), cluster.seats.stand(n));
        }
        for change in &self.changes {
            let said = fs::read_to_string(&change.said).unwrap_or_default();
            text += &format!("\n  {:?}: {}", change.goal, said.lines().last().unwrap_or_default());
        }
        text
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        for child in self.changes.iter_mut().filter_map(|change| change.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn replace_arguments(cluster: &Cluster, old: usize, new: usize) -> Vec<String> {
    let words =
        ["member", "replace", &cluster.name(old), &cluster.name(new), "--raft-addr"].map(str::to_owned);
    let rest = [cluster.advertised_raft(new), "--http-addr".to_owned(), cluster.addresses.http(new)];
    words.into_iter().chain(rest).collect()
}

/// Whether a member knows these voters, each under the identity in its directory, and nobody else.
fn knows(cluster: &Cluster, n: usize, voters: &[usize]) -> bool {
    let Some(members) = cluster.addresses.members(n, TIMEOUT) else { return false };
    let is_known = |&voter: &usize| {
        let (name, member_id) = (cluster.name(voter), cluster.member_id(voter));
        let is_it = |m: &&Value| m["node_id"] == name.as_str();
        members
            .iter()
            .find(is_it)
            .is_some_and(|m| m["voter"] == true && m["member_id"].as_str() == member_id.as_deref())
    };
    members.len() == voters.len() && voters.iter().all(is_known)
}
