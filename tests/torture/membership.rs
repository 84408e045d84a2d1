//! What is done to the membership, and to disks whose loss only the membership can repair. Each of these is begun here
//! and goes on under the faults that follow; the operator brings it to its end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::cluster::wait_for;
use super::nemesis::Nemesis;
use super::operator::{REQUEST_MAY_LINGER, Refusal};
use super::rot::{self, Allows, Flip, SyncedMark};
use super::seats::Stand;

/// How long the one before may take to be done.
const QUIET_PATIENCE: Duration = Duration::from_secs(10);

/// Voters without which nobody can be lost: fewer have no majority without one of them.
const LEAST_VOTERS: usize = 3;

/// Longer than any election timeout of a plan: whoever died so long ago is known to be silent, or is not known to be alive.
const DEATH_IS_NOTICED: Duration = Duration::from_millis(1_500);

/// For the word of a member that starts.
const TIMEOUT: Duration = Duration::from_millis(500);

impl Nemesis<'_> {
    /// A new node joins.
    pub fn join(&mut self) -> Result<(), String> {
        self.operator.join(self.cluster)
    }

    /// A member is removed; this one, or any.
    pub fn remove(&mut self, chosen: Option<usize>) -> Result<(), String> {
        self.quiet_with(self.cluster.initial_members)?;
        let n = self.member(chosen);
        self.operator.remove(self.cluster, n);
        Ok(())
    }

    /// Members die until everybody who is left is needed, the leader among them or not; then, right after a transfer or not,
    /// one of those who live is to be removed. That must be refused: nothing could be committed any more without it, and
    /// nobody can have heard of the dead since.
    pub fn remove_needed(&mut self) -> Result<(), String> {
        self.quiet_with(LEAST_VOTERS)?;
        let mut living = self.cluster.members();
        if living.len().is_multiple_of(2) {
            // Of an even number one more than a minority can be spared: the next time there is an odd one.
            self.remove(None)?;
            return Err("there was an even number of members, and one of them is removed first".into());
        }
        self.rng.shuffle(&mut living);
        let dead = living.split_off(living.len() / 2 + 1);
        for &n in dead.iter() {
            if self.cluster.runs(n) {
                self.cluster.kill(n);
            }
        }
        std::thread::sleep(DEATH_IS_NOTICED);
        if self.rng.bool() {
            let to = living[self.rng.usize(0..living.len())];
            let _may_fail = self.operator.try_once(self.cluster, &["transfer", &self.cluster.name(to)]);
        }
        let leader = self.cluster.addresses.leader().filter(|n| living.contains(n) && self.rng.bool());
        let needed = leader.unwrap_or(living[self.rng.usize(0..living.len())]);
        let name = self.cluster.name(needed);
        let refusal = self.operator.try_once(self.cluster, &["member", "remove", &name]);
        if matches!(refusal, Refusal::Other(_)) {
            // What was asked may still be carried out: not with the help of those who are dead now.
            std::thread::sleep(REQUEST_MAY_LINGER);
        }
        // A removal that was taken is in force at once, although nobody is left to commit it.
        let lacks_it = |&n: &usize| {
            let known = self.cluster.addresses.members(n, TIMEOUT);
            known.is_some_and(|members| members.iter().all(|m| m["node_id"] != name.as_str()))
        };
        if living.iter().any(lacks_it) {
            let dead: Vec<String> = dead.iter().map(|&n| self.cluster.name(n)).collect();
            let text =
                format!("the removal of {name} was taken while {dead:?} were dead: no majority is left");
            self.violations.push(text);
        }
        match refusal {
            Refusal::None => {
                self.violations.push(format!("the removal of {name}, which is needed, is said to be done"));
                Ok(())
            }
            Refusal::Conflict => {
                self.report.needed_kept.fetch_add(1, Relaxed);
                Ok(())
            }
            Refusal::Other(code) => Err(format!("nobody had the time to refuse it (exit code {code:?})")),
        }
    }

    /// A member dies for good, and a new one takes its place.
    pub fn replace_dead(&mut self) -> Result<(), String> {
        self.quiet_with(LEAST_VOTERS)?;
        let dead = self.member(None);
        self.operator.replace(self.cluster, dead)
    }

    /// A member dies and comes back without its data.
    pub fn wipe(&mut self) -> Result<(), String> {
        self.quiet_with(LEAST_VOTERS)?;
        let n = self.member(None);
        self.cluster.kill(n);
        self.operator.lose(self.cluster, n);
        Ok(())
    }

    /// The leadership goes to some member, or to whoever is furthest.
    pub fn transfer(&mut self) {
        let to = self.rng.bool().then(|| self.member(None));
        self.operator.transfer(self.cluster, to);
    }

    /// Members die, at most a minority, and of each one bit is another one when it starts again.
    pub fn rot(&mut self) -> Result<(), String> {
        self.quiet_with(LEAST_VOTERS)?;
        let mut members = self.cluster.members();
        self.rng.shuffle(&mut members);
        let most = (members.len() - 1) / 2;
        members.truncate(self.rng.usize(1..=most));
        for n in members {
            self.cluster.kill(n);
            match self.flip(n) {
                Ok(flip) => self.start_with(n, &flip),
                Err(why) => self.violations.push(why),
            }
        }
        Ok(())
    }

    /// Any member that votes, or the chosen one, if it does.
    fn member(&mut self, chosen: Option<usize>) -> usize {
        let members = self.cluster.members();
        let any = members[self.rng.usize(0..members.len())];
        chosen.filter(|n| members.contains(n)).unwrap_or(any)
    }

    /// Waits until nobody comes or goes and so many vote, with the help of new ones.
    fn quiet_with(&mut self, voters: usize) -> Result<(), String> {
        let until = Instant::now() + QUIET_PATIENCE;
        loop {
            self.restore();
            if self.operator.is_quiet(self.cluster) {
                if self.cluster.members().len() >= voters {
                    return Ok(());
                }
                let _ = self.operator.join(self.cluster);
            }
            if Instant::now() >= until || !self.violations.is_empty() {
                return Err("another change was still under way".into());
            }
            self.clock.pause(Duration::from_millis(50));
        }
    }

    /// Turns a bit over in the data of a member that does not run.
    fn flip(&mut self, n: usize) -> Result<Flip, String> {
        let (name, output) = (self.cluster.name(n), self.cluster.fsck(n));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mark = SyncedMark::parse(&said).filter(|_| output.status.code() == Some(0));
        let mark = mark.ok_or_else(|| format!("{name}: the data is not good: {said}"))?;
        // The first ones of a run: what it must have had is not left to chance.
        let must_be_refused = self.report.flips_refused.load(Relaxed) == 0;
        let flip = rot::flip(&self.cluster.data_dir(n), mark, must_be_refused, &mut self.rng);
        self.report.flips.fetch_add(1, Relaxed);
        flip.map_err(|e| format!("{name}: no bit can be flipped: {e}"))
    }

    /// Starts a member with a flipped bit, and judges what it does.
    fn start_with(&mut self, n: usize, flip: &Flip) {
        self.cluster.spawn(n);
        let addresses = self.cluster.addresses.clone();
        let outcome = wait_for("a member with a flipped bit to serve or to refuse", || {
            if let Some(status) = self.cluster.reap(n) {
                return Some(Some(status));
            }
            addresses.status(n, TIMEOUT).is_some_and(|s| s["role"] != "uninitialized").then_some(None)
        });
        let said = self.cluster.said_since_start(n);
        let file = flip.file.file_name().expect("a name").to_string_lossy().into_owned();
        // Of a snapshot that is passed over the log may be found not to reach far enough.
        let names_it = said.contains(&file)
            || (flip.allows == Allows::RefusalOrWarning && said.contains("damaged snapshot"));
        let is_right = match &outcome {
            Ok(Some(status)) if status.code() == Some(3) && names_it => {
                self.report.flips_refused.fetch_add(1, Relaxed);
                // As its text says: with an empty directory it is replaced.
                self.operator.lose(self.cluster, n);
                true
            }
            Ok(None) => match flip.allows {
                Allows::Refusal => false,
                Allows::RefusalOrWarning => {
                    self.report.flips_passed_over.fetch_add(1, Relaxed);
                    names_it
                }
                Allows::Anything => {
                    self.report.flips_harmless.fetch_add(1, Relaxed);
                    true
                }
            },
            _ => false,
        };
        if !is_right {
            let (name, tail) = (self.cluster.name(n), self.cluster.log_tail(n));
            let did = match outcome {
                Ok(Some(status)) => status.to_string(),
                Ok(None) => "it serves".into(),
                Err(why) => why,
            };
            self.violations.push(format!("{name} with {flip}: {did}\n{tail}"));
        }
    }

    /// Starts a member that was ended, if it was not told meanwhile that it is none any more.
    pub fn respawn(&mut self, n: usize) {
        if self.cluster.seats.stand(n) != Stand::Absent && !self.cluster.runs(n) {
            self.cluster.spawn(n);
        }
    }
}
