//! The members: shown, added, removed, promoted, replaced; and who leads.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use dkv::api::{ErrorDetail, MemberInfo, MembersReply, NewMember, RoleName};
use dkv::client::{Client, ClientError};
use serde::Serialize;

use crate::cli::Member;
use crate::failure::Failure;
use crate::output::{Look, Printer};

/// How long to wait before the cluster is asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// For so long a change may take that is refused, as when nobody answers at the address of a new member.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);

/// Longest wait for one node's word.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a `member` command.
pub fn run(client: &Client, timeout: Duration, command: &Member, printer: &Printer) -> Result<(), Failure> {
    let steps = Steps { client, until: Instant::now() + timeout, said: RefCell::default() };
    match command {
        Member::List => {
            let members = client.members(steps.until)?;
            if printer.is_json() {
                return printer.json(&members);
            }
            printer.bytes(table(&members, printer).as_bytes())
        }
        Member::Add { node_id, raft_addr, http_addr, learner } => {
            let promote = !learner;
            let (raft_addr, http_addr) = (raft_addr.clone(), http_addr.clone());
            let new = NewMember {
                node_id: node_id.clone(),
                member_id: None,
                protocol: None,
                raft_addr,
                http_addr,
                promote,
            };
            let done = steps.add(&new)?;
            let next = match promote {
                true => "it is brought up to date now and becomes a voter by itself",
                false => "it is brought up to date now and stays a learner",
            };
            report(printer, &done, &format!("{node_id} is added: {next} (`dkv-cli member list` shows it)"))
        }
        Member::Remove { node_id } => {
            let done = client.remove_member(node_id, steps.until)?;
            let next = "its process ends by itself with exit code 4, and its data_dir is of no more use";
            report(printer, &done, &format!("{node_id} is removed: {next}"))
        }
        Member::Promote { node_id } => {
            let done = client.promote_member(node_id, steps.until)?;
            report(printer, &done, &format!("{node_id} votes"))
        }
        Member::Replace { old, new, raft_addr, http_addr } => {
            let wanted =
                Wanted { node_id: new, raft_addr: raft_addr.as_ref(), http_addr: http_addr.as_ref() };
            let said = if old == new { steps.renew(&wanted)? } else { steps.replace(old, &wanted)? };
            let members = client.members(steps.until)?;
            report(printer, &members, &said)
        }
    }
}

/// `dkv-cli transfer`.
pub fn transfer(
    client: &Client,
    timeout: Duration,
    to: Option<&str>,
    printer: &Printer,
) -> Result<(), Failure> {
    let done = client.transfer_leadership(to, Instant::now() + timeout)?;
    report(printer, &done, &format!("{} leads", done.leader.node_id))
}

/// What is done stays done when this cannot be printed, so that is only said.
fn report(printer: &Printer, done: &impl Serialize, text: &str) -> Result<(), Failure> {
    let printed = match printer.is_json() {
        true => printer.json(done),
        false => printer.bytes(format!("{text}\n").as_bytes()),
    };
    if let Err(failure) = printed {
        printer.failure(&failure);
    }
    Ok(())
}

fn table(members: &MembersReply, printer: &Printer) -> String {
    let head = ["NODE", "ROLE", "MEMBER", "RAFT", "HTTP"].map(str::to_owned);
    let row = |m: &MemberInfo| {
        let role = match (m.voter, m.promote) {
            (true, _) => "voter",
            (false, true) => "learner, becomes a voter",
            (false, false) => "learner",
        };
        let id = m.member_id.clone().unwrap_or_else(|| "-".to_owned());
        [m.node_id.clone(), role.to_owned(), id, m.raft_addr.clone(), m.http_addr.clone()]
    };
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(members.members.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}", w = *w)).collect();
        let look = if n == 0 { Look::Bold } else { Look::Plain };
        text.push_str(&printer.paint(look, cells.join("  ").trim_end()));
        text.push('\n');
    }
    text
}

/// The node that is to take a member's place.
struct Wanted<'a> {
    node_id: &'a str,
    raft_addr: Option<&'a String>,
    http_addr: Option<&'a String>,
}

impl Wanted<'_> {
    /// It as a member; where no address is given, that of `before`.
    fn member(&self, before: Option<&MemberInfo>, promote: bool) -> Result<NewMember, Failure> {
        let raft_addr = self.raft_addr.or(before.map(|m| &m.raft_addr));
        let http_addr = self.http_addr.or(before.map(|m| &m.http_addr));
        let (Some(raft_addr), Some(http_addr)) = (raft_addr, http_addr) else {
            let text =
                format!("{0} is no member: say where it is, with --raft-addr and --http-addr", self.node_id);
            return Err(ClientError::Invalid(text).into());
        };
        Ok(NewMember {
            protocol: None,
            node_id: self.node_id.to_owned(),
            member_id: None,
            raft_addr: raft_addr.clone(),
            http_addr: http_addr.clone(),
            promote,
        })
    }
}

/// A command of several steps, all of them by one deadline. Each is a change of one member, and none is made twice, so
/// that the command can be run again wherever it was interrupted.
struct Steps<'a> {
    client: &'a Client,
    until: Instant,
    said: RefCell<String>,
}

impl Steps<'_> {
    /// Adds a node, as soon as it is there.
    fn add(&self, new: &NewMember) -> Result<impl Serialize + use<>, Failure> {
        loop {
            let started = Instant::now();
            match self.client.add_member(new, self.until) {
                Ok(done) => return Ok(done),
                Err(ClientError::Refused(detail)) if detail.temporary => {
                    self.pause(started, &detail.message.clone(), || {
                        in_vain(*detail, &format!("{} is not added", new.node_id))
                    })?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until a member is a voter. It becomes one by itself, unless its own command line let it in as one that stays
    /// a learner.
    fn wait_for_vote(&self, node_id: &str) -> Result<(), Failure> {
        let mut why = format!("{node_id} is brought up to date and does not vote yet");
        loop {
            let started = Instant::now();
            let members = self.client.members(self.until)?;
            match find(&members, node_id) {
                Some(member) if member.voter => return Ok(()),
                Some(member) if !member.promote => match self.client.promote_member(node_id, self.until) {
                    Ok(_) => return Ok(()),
                    Err(ClientError::Refused(detail)) if detail.temporary => why = detail.message,
                    Err(e) => return Err(e.into()),
                },
                _ => {}
            }
            self.pause(started, &why, || {
                Failure::Unfinished(format!(
                    "{node_id} is added and does not vote yet ({why}); run the same command again to go on"
                ))
            })?;
        }
    }

    /// One node in the place of another: added first, so that no vote is missing.
    fn replace(&self, old: &str, wanted: &Wanted<'_>) -> Result<String, Failure> {
        let members = self.client.members(self.until)?;
        let (before, after) = (find(&members, old), find(&members, wanted.node_id));
        match (before, after) {
            (None, None) => {
                let text = format!("there is no member {old} to replace, see `dkv-cli member list`");
                return Err(ClientError::Invalid(text).into());
            }
            (Some(before), None) => {
                let new = wanted.member(None, before.voter || before.promote)?;
                self.add(&new)?;
                say(&format!("{} is added", wanted.node_id));
            }
            _ => {}
        }
        // Whether a member that is gone by now had a vote is not known; the new one shows it.
        if before.or(after).is_some_and(|m| m.voter || m.promote) {
            self.wait_for_vote(wanted.node_id)?;
        }
        if before.is_some() {
            self.remove(old)?;
        }
        Ok(format!("{} is in the place of {old}", wanted.node_id))
    }

    /// A node that lost its data, under its own name: its old identity goes first.
    fn renew(&self, wanted: &Wanted<'_>) -> Result<String, Failure> {
        let name = wanted.node_id;
        let members = self.client.members(self.until)?;
        let before = find(&members, name);
        let promote = before.is_none_or(|m| m.voter || m.promote);
        let new = wanted.member(before, promote)?;
        if let Some(member) = before {
            let patience = NODE_TIMEOUT.min(self.until.saturating_duration_since(Instant::now()));
            match self.client.status(&member.http_addr, patience) {
                Ok(status) if Some(&status.member_id) == member.member_id.as_ref() => {
                    if status.role != RoleName::Uninitialized && (member.voter || !member.promote) {
                        return Ok(format!(
                            "{name} answers as the member it is: nothing to replace (to give it a new identity, stop it \
                             and empty its data_dir first)"
                        ));
                    }
                    // It has its new identity already and is on its way.
                    self.wait_for_vote(name)?;
                    return Ok(format!("{name} is a new member under its old name"));
                }
                // A node that had too little time to answer is not known to be lost.
                Err(reason) if patience < NODE_TIMEOUT => {
                    return Err(Failure::Unfinished(format!(
                        "{name} was not heard in the time that was left ({reason}), and may live: nothing is changed; \
                         give the command a longer --timeout"
                    )));
                }
                _ => {}
            }
            say(&format!(
                "removing {name}; should this be interrupted, go on with: dkv-cli member replace {name} {name} \
                 --raft-addr {} --http-addr {}",
                new.raft_addr, new.http_addr
            ));
            self.remove(name)?;
        }
        self.add(&new)?;
        if promote {
            self.wait_for_vote(name)?;
        }
        Ok(format!("{name} is a new member under its old name"))
    }

    /// Removes a member. A member that is already removed is no error.
    fn remove(&self, node_id: &str) -> Result<(), Failure> {
        loop {
            let started = Instant::now();
            match self.client.remove_member(node_id, self.until) {
                Ok(_) => return Ok(()),
                Err(ClientError::Refused(detail)) if detail.code == dkv::api::ErrorCode::NotFound => {
                    return Ok(());
                }
                Err(ClientError::Refused(detail)) if detail.temporary => {
                    self.pause(started, &detail.message.clone(), || {
                        in_vain(*detail, &format!("{node_id} is not removed"))
                    })?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Says once for what it waits, and waits a moment. The failure of the attempt that began at `started` when no time is
    /// left for another one, which may take as long: an attempt that is cut off would hide the reason of this one.
    fn pause(&self, started: Instant, why: &str, in_vain: impl FnOnce() -> Failure) -> Result<(), Failure> {
        let took = started.elapsed().min(LONGEST_ATTEMPT);
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        if left(self.until) > ASK_EVERY + took {
            if *self.said.borrow() != why {
                say(&format!("waiting: {why}"));
                why.clone_into(&mut self.said.borrow_mut());
            }
            thread::sleep(ASK_EVERY);
            if !left(self.until).is_zero() {
                return Ok(());
            }
        }
        Err(in_vain())
    }
}

/// A refusal that did not pass in time, as the cluster gave it, after what it is about.
fn in_vain(refusal: ErrorDetail, what: &str) -> Failure {
    let message = format!("{what}: {}", refusal.message);
    Failure::Client(ClientError::Refused(Box::new(ErrorDetail { message, ..refusal })))
}

fn find<'a>(members: &'a MembersReply, node_id: &str) -> Option<&'a MemberInfo> {
    members.members.iter().find(|m| m.node_id == node_id)
}

/// Progress goes to standard error: the output is the result.
fn say(text: &str) {
    eprintln!("dkv-cli: {text}");
}
