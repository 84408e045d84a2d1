//! Letting it flow: everything that is due happens, until a moment or a condition.

use super::*;

impl Cluster {
    /// Delivers everything that can be delivered at this moment, and fails what is cut.
    pub fn run_until_quiet(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for _ in 0..10_000 {
            let mut is_quiet = true;
            for &from in &ids {
                for &to in &ids {
                    if from == to || !self.nodes[&from].is_up {
                        continue;
                    }
                    is_quiet &= !self.try_transfer(from, to);
                    let Some(flight) = self.try_send(from, to) else { continue };
                    is_quiet = false;
                    if self.cuts.contains(&(from, to)) || !self.nodes[&to].is_up {
                        self.lose(flight);
                        continue;
                    }
                    let held = self.arrive(flight);
                    self.nodes.get_mut(&to).unwrap().held.push(held);
                }
                is_quiet &= !self.open_held(from);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the members never fall silent at {}", self.now);
    }

    fn try_transfer(&mut self, from: u64, to: u64) -> bool {
        if self.are_transfers_held {
            return false;
        }
        let (last, ticket) = match self.poll_bulk(from, to) {
            PollBulk::Transfer(last, ticket) => (last, ticket),
            PollBulk::Read(wanted, ticket) => {
                let read = self.read_log(from, &wanted);
                if self.end_read(from, ticket, read) {
                    self.save_snapshot(from);
                }
                return true;
            }
            _ => return false,
        };
        let is_lost =
            !self.nodes[&to].is_up || self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        let result = if is_lost { Err(RpcFailed) } else { Ok(self.install(from, to, last, ticket.term())) };
        self.end_transfer(from, ticket, result);
        true
    }

    fn open_held(&mut self, me: u64) -> bool {
        let mut has_opened = false;
        for held in std::mem::take(&mut self.nodes.get_mut(&me).unwrap().held) {
            match self.open(held) {
                Ok(answer) => {
                    has_opened = true;
                    if self.cuts.contains(&(me, answer.from)) {
                        self.fail(answer.from, answer.life, answer.ticket);
                    } else {
                        self.deliver(answer);
                    }
                }
                Err(held) => self.nodes.get_mut(&me).unwrap().held.push(*held),
            }
        }
        has_opened
    }

    /// Everything that is due at this moment.
    fn run_due(&mut self) {
        let due = |node: &Node, now| node.is_up && node.raft.poll_timeout() <= now;
        let ids: Vec<u64> = self.nodes.iter().filter(|(_, n)| due(n, self.now)).map(|(&me, _)| me).collect();
        ids.into_iter().for_each(|me| self.timeout(me));
        self.run_until_quiet();
    }

    fn next_event(&mut self) -> Time {
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|me| self.nodes[me].is_up).collect();
        let mut next = Time::NEVER;
        for &me in &ids {
            let node = &self.nodes[&me];
            next = next.min(node.raft.poll_timeout());
            for held in &node.held {
                if let HeldReply::Append(waiting) = &held.reply
                    && let Some(until) = waiting.hold_until().filter(|&until| until > self.now)
                {
                    next = next.min(until);
                }
            }
            for peer in self.nodes.keys().copied().filter(|&p| p != me).collect::<Vec<_>>() {
                let now = self.now;
                if let PollRpc::WaitUntil(at, _) = self.step(me, |raft, _| raft.poll_rpc(id(peer), now)) {
                    next = next.min(at);
                }
                if self.are_transfers_held {
                    continue;
                }
                match self.step(me, |raft, _| raft.poll_bulk(id(peer), now)) {
                    PollBulk::WaitUntil(at) => next = next.min(at),
                    PollBulk::Transfer(..) | PollBulk::Read(..) => {
                        panic!("something became due while nothing happened")
                    }
                    PollBulk::Stop => {}
                }
            }
        }
        next
    }

    pub fn run_for(&mut self, ms: u64) {
        let end = self.now + self::ms(ms);
        self.run_due();
        loop {
            let next = self.next_event();
            if next > end {
                break;
            }
            assert!(next > self.now, "an event at {next} is due again and again");
            self.now = next;
            self.run_due();
        }
        self.now = end;
    }

    /// Runs until the condition holds, at most 20 s of virtual time.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, condition: impl Fn(&Cluster) -> bool) {
        for _ in 0..4_000 {
            if condition(self) {
                return;
            }
            self.run_for(5);
        }
        panic!("never happened within 20 s: {what}");
    }

    /// Long enough passes that nobody remembers a leader; then the timer of `me`, and of nobody else, fires.
    pub fn campaign(&mut self, me: u64) {
        self.now = self.now + ms(2 * T_MS + 1);
        self.timeout(me);
        self.run_until_quiet();
    }

    /// `me` campaigns and must win.
    #[track_caller]
    pub fn elect(&mut self, me: u64) {
        self.campaign(me);
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
    }

    /// `me` campaigns and wins with exactly the votes of `voters`; then its first append reaches exactly `receivers`,
    /// and nothing else is delivered. Cuts do not matter.
    #[track_caller]
    pub fn elect_with(&mut self, me: u64, voters: &[u64], receivers: &[u64]) {
        // A first campaign may do no more than learn the voters' term.
        for _ in 0..3 {
            if self.raft(me).is_leader() {
                break;
            }
            self.now = self.now + ms(2 * T_MS + 1);
            self.timeout(me);
            for _ in ["pre-votes", "votes"] {
                for &voter in voters {
                    if self.raft(me).is_leader() {
                        break;
                    }
                    if let Some(flight) = self.try_send(me, voter) {
                        let held = self.arrive(flight);
                        let answer = self.answer(held);
                        self.deliver(answer);
                    }
                }
            }
        }
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
        for &to in receivers {
            self.call(me, to);
        }
    }

    /// Elects `me`, if need be in a second campaign: the first may do no more than learn the others' term.
    #[track_caller]
    pub fn elect_in_turn(&mut self, me: u64) {
        self.campaign(me);
        if !self.raft(me).is_leader() {
            self.campaign(me);
        }
        assert!(self.raft(me).is_leader(), "member {me} did not win: {}", self.state(me));
    }

    /// Compares the terms of the logs, one line per member, from member 1 on.
    #[track_caller]
    pub fn expect_logs(&self, lines: &[&str]) {
        let logs: Vec<String> = self
            .nodes
            .values()
            .map(|node| {
                let terms: Vec<String> = terms(&node.raft).iter().map(Term::to_string).collect();
                if node.is_up { terms.join(" ") } else { "down".to_string() }
            })
            .collect();
        assert_eq!(logs, lines, "at {}", self.now);
    }

    /// The reply after `ms` more of waiting, when it must be ready.
    #[track_caller]
    pub fn answer_after(&mut self, held: Held, ms: u64) -> Answer {
        self.wait(ms);
        self.answer(held)
    }

    /// Time passes, nothing else happens.
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now + self::ms(ms);
    }

    pub fn note(&mut self, line: String) {
        self.trace.push(format!("{} {line}", self.now));
    }
}
