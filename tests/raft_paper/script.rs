//! Runs the scenarios of `tests/scenarios/`: one action per line, and lines that begin with `expect`. Nothing but those is
//! asserted; when one fails, the trace of the whole scenario is printed. `#` begins a comment. Members are `n1`, `n2`, ...;
//! times are milliseconds of virtual time.
//!
//! | line | what it does |
//! |---|---|
//! | `cluster 3` | three members just initialized: term 1, log 1 |
//! | `member n1 term 3 log 1 2 2` | instead of `cluster`, one line each: current term, and the terms of the log |
//! | `elect n1`, `campaign n1`, `timeout n1` | its timer fires, all messages flow and it must win; need not win; only its timer fires |
//! | `elect n1 by n2 n3 then n2` | it wins with the votes of these, its first append reaches only that one, nothing else moves |
//! | `propose n1 x`, `read n1` | a leader takes it |
//! | `call n1 -> n2` | one RPC and its reply |
//! | `send n1 -> n2 as a`, `send n1 -> n2 as a with 1 entries` | a request leaves, cut to so many entries if need be |
//! | `arrive a`, `again a` | it arrives; arrives a second time and the reply to that is dropped |
//! | `open a`, `deliver a`, `lose a` | the reply leaves the disk; the reply arrives (opened first, if need be); request or reply is lost |
//! | `cut n1 n2`, `cut n1 -> n2`, `isolate n1`, `heal` | links |
//! | `hold n1`, `sync n1`, `release n1` | its disk writes only when told to; now; by itself again |
//! | `crash n1`, `restart n1` | power is lost; the process comes back with what was synced |
//! | `tell n2 of n1`, `tell n2 of n1 in term 2` | n2 is told that the process has ended that led as n1, in the term of n2 or in this one |
//! | `transfer n1 to n2` | the leader n1 begins to transfer its leadership |
//! | `join n4` | a new member, initialized like the others and not yet in the membership |
//! | `change n1 add n4`, `change n1 add n4 as replica` | the leader n1 takes a learner in, to be promoted by itself or not |
//! | `change n1 promote n4`, `change n1 remove n2` | the leader n1 changes the membership by one voter |
//! | `snapshot n1` | its applied state is a durable snapshot |
//! | `install n1 -> n3` | the leader n1 has a snapshot for n3, which arrives as a whole |
//! | `wait 100`, `run_until_quiet`, `run 500` | time passes, nothing moves; everything moves, no time passes; both |
//! | `until n2 leads`, `until a leader`, `until n3 commit 4` | runs until it is so |
//! | `expect n1 leader@2 log 1 2 commit 2` | its state, from the beginning, as far as given |
//! | `expect n1 term 2`, `expect n1 commit 3`, `expect n1 log 1 2` | one part of it |
//! | `expect leader n1`, `expect a leader`, `expect no leader` | who leads the highest term |
//! | `expect a held`, `expect a granted: true` | its reply waits for the disk; contains these words |
//! | `expect n1 read 3`, `expect n1 read failed`, `expect n1 no read` | the oldest decided read; none is decided |
//! | `expect n1 match n2 3` | how far the leader n1 counts n2's disk |
//! | `expect n1 silent to n2` | it has nothing to send |
//! | `expect n1 voters n1 n2` | the voters of the membership in force at n1 |
//! | `expect n1 refuses remove n2: WORDS` | it does not change its membership so, and says these words |
//! | `expect traced WORDS` | some line of the trace has all these words |

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dkv::raft::{
    AppendEntriesRequest, Changed, Member, MembershipChange, Position, ReadDone, RpcRequest, Term,
};

use super::harness::*;

/// Fewer files than this and some were lost.
const LEAST_SCENARIOS: usize = 50;

/// Every scenario asserts at least so much.
const LEAST_EXPECTATIONS: usize = 2;

enum Message {
    Request(Flight),
    Held(Held),
    Reply(Answer),
}

/// A scenario under way.
#[derive(Default)]
struct Script {
    members: Vec<(Term, Vec<Term>)>,
    cluster: Option<Cluster>,
    messages: BTreeMap<String, Message>,
    /// As they were sent, for second deliveries.
    sent: BTreeMap<String, Flight>,
    reads: BTreeMap<u64, Vec<ReadDone>>,
    expectations: usize,
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn member_of(word: &str) -> u64 {
    number(word.strip_prefix('n').unwrap_or_else(|| panic!("{word:?} is no member")))
}

fn members_of(words: &[&str]) -> Vec<u64> {
    words.iter().map(|word| member_of(word)).collect()
}

fn change_of(words: &[&str]) -> MembershipChange {
    let joiner = |n: &str| learner(member_of(n));
    match *words {
        ["add", n] => MembershipChange::Add(joiner(n), Some(1)),
        ["add", n, "as", "replica"] => MembershipChange::Add(Member { promote: false, ..joiner(n) }, Some(1)),
        ["promote", n] => MembershipChange::Promote(id(member_of(n))),
        ["remove", n] => MembershipChange::Remove(id(member_of(n))),
        _ => panic!("no such change"),
    }
}

impl Script {
    fn cluster(&mut self) -> &mut Cluster {
        if self.cluster.is_none() {
            assert!(!self.members.is_empty(), "a scenario begins with `cluster` or `member`");
            let members: Vec<(Term, &[Term])> =
                self.members.iter().map(|(term, log)| (*term, &log[..])).collect();
            self.cluster = Some(Cluster::with_logs(&members));
        }
        self.cluster.as_mut().expect("just made")
    }

    fn take(&mut self, name: &str) -> Message {
        self.messages.remove(name).unwrap_or_else(|| panic!("there is no message {name:?} under way"))
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cluster", n] => self.members = vec![(1, vec![1]); number(n)],
            ["member", name, "term", term, "log", ref log @ ..] => {
                self.members.push((number(term), log.iter().map(|term| number(term)).collect()));
                assert_eq!(member_of(name), self.members.len() as u64, "members come in order");
            }
            ["elect", n, "by", ref rest @ ..] => {
                let mut groups = rest.split(|word| *word == "then");
                let (voters, receivers) = (groups.next().unwrap_or(&[]), groups.next().unwrap_or(&[]));
                let (voters, receivers) = (members_of(voters), members_of(receivers));
                self.cluster().elect_with(member_of(n), &voters, &receivers);
            }
            ["elect", n] => self.cluster().elect_in_turn(member_of(n)),
            ["campaign", n] => self.cluster().campaign(member_of(n)),
            ["timeout", n] => self.cluster().timeout(member_of(n)),
            ["propose", n, text] => {
                self.cluster().propose(member_of(n), text);
            }
            ["read", n] => {
                self.cluster().read(member_of(n));
            }
            ["call", from, "->", to] => {
                self.cluster().call(member_of(from), member_of(to));
            }
            ["send", from, "->", to, "as", name, ref rest @ ..] => self.send(from, to, name, rest),
            ["arrive", name] => self.arrive(name),
            ["again", name] => {
                let flight = self.sent[name].clone();
                let _unheard = self.cluster().arrive(flight);
            }
            ["open", name] => self.open(name),
            ["deliver", name] => {
                self.open(name);
                let Message::Reply(answer) = self.take(name) else { unreachable!("just opened") };
                self.cluster().deliver(answer);
            }
            ["lose", name] => match self.take(name) {
                Message::Request(flight) => self.cluster().lose(flight),
                Message::Held(held) => self.cluster().lose_held(held),
                Message::Reply(answer) => self.cluster().lose_answer(answer),
            },
            ["cut", from, "->", to] => self.cluster().cut_one_way(member_of(from), member_of(to)),
            ["cut", a, b] => self.cluster().cut(member_of(a), member_of(b)),
            ["isolate", n] => self.cluster().isolate(member_of(n)),
            ["heal"] => self.cluster().heal(),
            ["hold", n] => self.cluster().hold_disk(member_of(n)),
            ["sync", n] => self.cluster().sync(member_of(n)),
            ["release", n] => self.cluster().release_disk(member_of(n)),
            ["crash", n] => self.cluster().crash(member_of(n)),
            ["restart", n] => self.cluster().restart(member_of(n)),
            ["tell", n, "of", leader] => {
                let leader = id(member_of(leader));
                self.cluster()
                    .step(member_of(n), |raft, now| raft.handle_leader_lost(leader, raft.term(), now));
            }
            ["tell", n, "of", leader, "in", "term", term] => {
                let (leader, term) = (id(member_of(leader)), number(term));
                self.cluster().step(member_of(n), |raft, now| raft.handle_leader_lost(leader, term, now));
            }
            ["transfer", n, "to", successor] => {
                let successor = id(member_of(successor));
                let begun = self
                    .cluster()
                    .step(member_of(n), |raft, now| raft.transfer_leadership(Some(successor), now));
                assert_eq!(begun, Ok(successor));
            }
            ["join", n] => {
                let initial_members = self.members.len() as u64;
                self.cluster().join(member_of(n), initial_members);
            }
            ["change", n, ref what @ ..] => {
                let changed = self.cluster().change(member_of(n), &change_of(what));
                assert!(matches!(changed, Ok(Changed::Appended(_))), "{changed:?}");
            }
            ["snapshot", n] => {
                self.cluster().save_snapshot(member_of(n));
            }
            ["install", from, "->", to] => {
                let (from, to) = (member_of(from), member_of(to));
                let (last, ticket): (Position, _) = self.cluster().offer(from, to);
                let reply = self.cluster().install(from, to, last, ticket.term());
                self.cluster().end_transfer(from, ticket, Ok(reply));
            }
            ["wait", ms] => self.cluster().wait(number(ms)),
            ["run_until_quiet"] => self.cluster().run_until_quiet(),
            ["run", ms] => self.cluster().run_for(number(ms)),
            ["until", "a", "leader"] => self.cluster().run_until(line, |c| c.leader().is_some()),
            ["until", n, "leads"] => {
                let wanted = Some(member_of(n));
                self.cluster().run_until(line, |c| c.leader() == wanted);
            }
            ["until", n, "commit", index] => {
                let (n, index) = (member_of(n), number(index));
                self.cluster().run_until(line, |c| c.raft(n).commit_index() >= index);
            }
            ["expect", ref what @ ..] => {
                self.expectations += 1;
                self.expect(what);
            }
            _ => panic!("no such action"),
        }
    }

    fn send(&mut self, from: &str, to: &str, name: &str, rest: &[&str]) {
        let mut flight = self.cluster().send(member_of(from), member_of(to));
        if let ["with", count, "entries"] = rest {
            let RpcRequest::AppendEntries(AppendEntriesRequest { entries, .. }) = &mut flight.request else {
                panic!("not an append: {:?}", flight.request);
            };
            assert!(entries.len() >= number(count), "it has only {} entries", entries.len());
            entries.truncate(number(count));
        } else {
            assert!(rest.is_empty(), "after the name comes nothing, or `with 1 entries`");
        }
        self.sent.insert(name.to_owned(), flight.clone());
        self.messages.insert(name.to_owned(), Message::Request(flight));
    }

    fn arrive(&mut self, name: &str) {
        let Message::Request(flight) = self.take(name) else { panic!("{name} has arrived before") };
        let held = self.cluster().arrive(flight);
        self.messages.insert(name.to_owned(), Message::Held(held));
    }

    fn open(&mut self, name: &str) {
        let message = match self.take(name) {
            Message::Request(_) => panic!("{name} has not arrived"),
            Message::Held(held) => Message::Reply(self.cluster().answer(held)),
            Message::Reply(answer) => Message::Reply(answer),
        };
        self.messages.insert(name.to_owned(), message);
    }

    fn expect(&mut self, what: &[&str]) {
        let leader = self.cluster().leader();
        match *what {
            ["leader", n] => assert_eq!(leader, Some(member_of(n)), "who leads"),
            ["a", "leader"] => assert!(leader.is_some(), "nobody leads"),
            ["no", "leader"] => assert_eq!(leader, None, "who leads"),
            ["traced", ref words @ ..] => {
                assert!(self.cluster().has_traced(words), "no line of the trace has {words:?}")
            }
            [name, "held"] => {
                let Message::Held(held) = self.take(name) else { panic!("{name} is no reply that waits") };
                let held = self.cluster().still_held(held);
                self.messages.insert(name.to_owned(), Message::Held(held));
            }
            [n, "term", term] => {
                assert_eq!(self.cluster().raft(member_of(n)).term(), number::<Term>(term), "its term")
            }
            [n, "commit", index] => {
                assert_eq!(
                    self.cluster().raft(member_of(n)).commit_index(),
                    number::<u64>(index),
                    "its commit"
                )
            }
            [n, "log", ref log @ ..] => {
                let log: Vec<Term> = log.iter().map(|term| number(term)).collect();
                assert_eq!(terms(self.cluster().raft(member_of(n))), log, "its log");
            }
            [n, "no", "read"] => {
                let read = self.next_read(member_of(n));
                assert!(read.is_none(), "decided: {read:?}");
            }
            [n, "read", wanted] => {
                let read = self.next_read(member_of(n)).expect("no read is decided");
                let wanted = (wanted != "failed").then(|| number(wanted));
                assert_eq!(read.result.ok(), wanted, "the read");
            }
            [n, "match", peer, index] => {
                let progress = self.cluster().progress(member_of(n), member_of(peer)).match_index;
                assert_eq!(progress, number::<u64>(index), "match");
            }
            [n, "voters", ref wanted @ ..] => {
                let raft = self.cluster().raft(member_of(n));
                let voters: Vec<u64> = raft.membership().voters().map(|id| id.0).collect();
                assert_eq!(voters, members_of(wanted), "its voters");
            }
            [n, "refuses", ref rest @ ..] => {
                let rest = rest.join(" ");
                let (what, words) = rest.split_once(": ").expect("`: WORDS` at the end");
                let what: Vec<&str> = what.split_whitespace().collect();
                let result = self.cluster().change(member_of(n), &change_of(&what));
                let text = result.map_or_else(|e| e.to_string(), |changed| format!("{changed:?}"));
                assert!(text.contains(words), "{text}");
            }
            [n, "silent", "to", peer] => {
                let flight = self.cluster().try_send(member_of(n), member_of(peer));
                assert!(flight.is_none(), "it sends {flight:?}");
            }
            [name, ref words @ ..] if self.messages.contains_key(name) => {
                let Some(Message::Reply(answer)) = self.messages.get(name) else {
                    panic!("{name} is no reply yet: `open` it");
                };
                let (reply, wanted) = (format!("{:?}", answer.reply), words.join(" "));
                assert!(reply.contains(&wanted), "the reply is {reply}");
            }
            [n, ref state @ ..] => {
                let (is, wanted) = (self.cluster().state(member_of(n)), state.join(" "));
                assert!(is.starts_with(&wanted), "it is {is}");
            }
            [] => panic!("expect what?"),
        }
    }

    fn next_read(&mut self, n: u64) -> Option<ReadDone> {
        let new = self.cluster().take_reads(n);
        let reads = self.reads.entry(n).or_default();
        reads.extend(new);
        (!reads.is_empty()).then(|| reads.remove(0))
    }
}

/// Runs one file; where and why it failed. The trace is printed by then.
fn run_file(path: &Path) -> Result<usize, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut script = Script::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(|| script.run(line)));
        if let Err(panic) = result {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let trace = script.cluster.as_ref().map_or(String::new(), Cluster::trace);
            let why = why.unwrap_or_default();
            return Err(format!("{trace}\n{}:{}: {line}: {why}", path.display(), n + 1));
        }
    }
    if script.expectations < LEAST_EXPECTATIONS {
        return Err(format!("{}: asserts only {} lines", path.display(), script.expectations));
    }
    Ok(script.expectations)
}

/// `SCENARIO=word` runs only the files whose names contain it.
#[test]
fn every_scenario_ends_as_it_must() {
    let mut paths: Vec<_> = fs::read_dir("tests/scenarios")
        .expect("the scenarios")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= LEAST_SCENARIOS, "only {} scenarios", paths.len());
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let mut failures = Vec::new();
    for path in paths.iter().filter(|path| path.to_string_lossy().contains(&wanted)) {
        failures.extend(run_file(path).err());
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n----\n"));
}

#[test]
fn a_scenario_that_expects_the_wrong_thing_fails_and_shows_its_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wrong.txt");
    fs::write(&path, "cluster 3\nelect n1\nexpect leader n1\nexpect n2 follower@3\n").expect("a file");
    let failure = run_file(&path).expect_err("n2 is in term 2");
    assert!(failure.contains("wrong.txt:4: expect n2 follower@3: it is follower@2 log 1 2"), "{failure}");
    assert!(failure.contains("elected with 2 of 3 votes"), "the trace: {failure}");
}
