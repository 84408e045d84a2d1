//! What can be seen of the cluster.

use super::*;

impl Cluster {
    pub fn raft(&self, me: u64) -> &Raft {
        &self.nodes[&me].raft
    }

    /// `leader@2 log 1 1 2 commit 3`: role, term, the terms of the log, the commit index.
    pub fn state(&self, me: u64) -> String {
        let node = &self.nodes[&me];
        if !node.is_up {
            return "down".to_string();
        }
        let raft = &node.raft;
        let terms: Vec<String> = terms(raft).iter().map(Term::to_string).collect();
        let role = raft.role_kind().as_str();
        format!("{role}@{} log {} commit {}", raft.term(), terms.join(" "), raft.commit_index())
    }

    /// Compares one line per member, from member 1 on.
    #[track_caller]
    pub fn expect(&self, lines: &[&str]) {
        let states: Vec<String> = self.nodes.keys().map(|&me| self.state(me)).collect();
        assert_eq!(states, lines, "at {}", self.now);
    }

    /// Whether a line of the trace so far contains all of these words.
    pub fn has_traced(&self, words: &[&str]) -> bool {
        self.trace.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Everything that happened, line by line.
    pub fn trace(&self) -> String {
        self.trace.join("\n")
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| node.is_up && node.raft.is_leader();
        let newest = self.nodes.iter().filter(|(_, node)| leads(node)).max_by_key(|(_, n)| n.raft.term());
        newest.map(|(&me, _)| me)
    }

    pub fn progress(&self, leader: u64, peer: u64) -> &Progress {
        let mut peers = self.raft(leader).peers_progress();
        peers.find(|(p, _)| *p == id(peer)).map(|(_, progress)| progress).expect("the leader knows its peers")
    }

    /// What was applied, as positions.
    pub fn applied(&self, me: u64) -> Vec<Position> {
        self.nodes[&me].applied.iter().map(Entry::position).collect()
    }

    /// The reads decided since the last call.
    pub fn take_reads(&mut self, me: u64) -> Vec<ReadDone> {
        std::mem::take(&mut self.nodes.get_mut(&me).unwrap().reads)
    }
}
