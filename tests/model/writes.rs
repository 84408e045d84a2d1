//! Writes, with and without an idempotency key, and what becomes of one that nobody answered.

use dkv::check::{Parts, draw_amount, draw_kind, write_of};
use dkv::vocabulary::{KeyRange, LeaseId, MAX_TTL_S, OpKind, PutLease, Txn, TxnOp};
use serde_json::{Value, json};

use super::cluster::{Answer, wait_for};
use super::operations::draw_any_txn;
use super::wire::{What, Write};
use super::{BOUNDS, Condition, KEYS, Op, Run};

/// A transaction that writes, whatever was drawn.
fn put_of_nothing() -> Txn {
    let put =
        TxnOp::Put { key: KEYS[0].to_vec(), value: Some(Vec::new()), lease: PutLease::None, prev: false };
    Txn { then: vec![put], ..Txn::default() }
}

impl Run {
    fn random_write(&mut self) -> Write {
        if self.rng.u8(..6) == 0 {
            return self.random_lease_write();
        }
        if self.rng.u8(..60) == 0 {
            // Mostly little of what there is, and sometimes more than there is.
            let (floor, revision) = (self.model.map.floor(), self.model.map.revision());
            let op = Op::Compact { revision: self.rng.u64(floor..=(floor + 20).min(revision + 1)) };
            return Write { what: What::Op(op), condition: None, prev: false };
        }
        let kind = draw_kind(&mut self.rng);
        let key = self.key();
        if kind == OpKind::DeleteRange {
            let mut bounds = [0; 3].map(|_| match self.rng.bool() {
                true => BOUNDS[self.rng.usize(..BOUNDS.len())].to_vec(),
                false => Vec::new(),
            });
            let [_, start, end] = &mut bounds;
            if !end.is_empty() && start > end {
                std::mem::swap(start, end);
            }
            self.count("range deleted");
            return Write { what: What::DeleteRange(bounds), condition: None, prev: self.rng.bool() };
        }
        if kind == OpKind::Txn {
            let drawn = (0..50).map(|_| self.random_txn()).find(Txn::can_write);
            return Write {
                what: What::Op(Op::Txn { txn: drawn.unwrap_or_else(put_of_nothing) }),
                condition: None,
                prev: false,
            };
        }
        let value = match self.rng.u8(..7) {
            0 => Vec::new(),
            1 => vec![0xff, self.rng.u8(..)],
            2 | 3 => self.rng.i32(..).to_string().into_bytes(),
            _ => format!("value {} \"\u{e4}\"\n", self.rng.u16(..)).into_bytes(),
        };
        let row = self.model.map.now().get(&key);
        let (current, version) = row.map_or((0, 0), |row| (row.mod_revision, row.version));
        let condition = match self.rng.u8(..10) {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Exists),
            2 | 3 if current > 0 => Some(Condition::ModRevision(current)),
            4 => Some(Condition::ModRevision(self.rng.u64(1..=self.model.map.revision() + 2))),
            5 => Some(Condition::Version(version)),
            6 => Some(Condition::Version(self.rng.u64(0..4))),
            _ => None,
        };
        let (range, amount) = (KeyRange::new(b"", b"", b""), draw_amount(&mut self.rng));
        let op = write_of(kind, Parts { other: key.clone(), key, value, range, amount, shape: 0 });
        let prev = matches!(kind, OpKind::Put | OpKind::Delete) && self.rng.bool();
        Write { what: What::Op(op), condition: condition.filter(|_| kind.takes_condition()), prev }
    }

    /// Something about one of few leases, which live for longer than the test.
    fn random_lease_write(&mut self) -> Write {
        let lease = LeaseId::new(self.rng.u64(1..5)).expect("a name");
        let op = match self.rng.u8(..6) {
            0 | 1 => Op::LeaseGrant { lease, ttl_s: MAX_TTL_S, is_chosen: true },
            2 => Op::LeaseRevoke { lease },
            3 => Op::LeaseRenew { leases: vec![lease] },
            _ => Op::Put { key: self.key(), value: b"leased".to_vec(), lease: PutLease::Attach(lease) },
        };
        let prev = matches!(op, Op::Put { .. }) && self.rng.bool();
        Write { what: What::Op(op), condition: None, prev }
    }

    fn random_txn(&mut self) -> Txn {
        let keys: Vec<Vec<u8>> = (0..4).map(|_| self.key()).collect();
        let bounds = [0; 2].map(|_| BOUNDS[self.rng.usize(..BOUNDS.len())]);
        let (start, end) = (bounds[0].min(bounds[1]), bounds[0].max(bounds[1]));
        // A transaction does not delete every key there is.
        let range = KeyRange::new(b"", if end.is_empty() { b"\x00" } else { start }, end);
        let revisions = self.model.map.revision();
        let mut txn = draw_any_txn(&mut self.rng, &keys, "value \u{e4}".as_bytes(), &range, revisions);
        // What the server calls a key's own lease the model does not know.
        txn.for_each_put(&mut |lease| {
            if let PutLease::Own { lease: name, .. } = *lease {
                *lease = PutLease::Attach(name);
            }
        });
        txn
    }

    /// A transaction that writes nothing: a read of the latest state.
    pub fn read_txn(&mut self) {
        let mut txn = self.random_txn();
        for ops in [&mut txn.then, &mut txn.otherwise] {
            ops.retain(|op| matches!(op, TxnOp::Get { .. } | TxnOp::List(_)));
        }
        let write = Write { what: What::Op(Op::Txn { txn }), condition: None, prev: false };
        let (method, path, _, body) = write.request();
        let (answer, _) = self.ask(method, &path, &[], &body);
        let revision = self.model.map.revision();
        let (status, want) = self.model.write(&write);
        self.check("a read makes no revision", self.model.map.revision() == revision);
        if status == 410 && self.cluster.size() > 1 && answer.status == 200 {
            // A node that lags has not compacted as much yet.
            return;
        }
        self.check_txn(&answer, status, &want);
        self.count("transaction read");
    }

    /// The answer to a transaction; a node that lags has another floor.
    fn check_txn(&self, answer: &Answer, status: u16, want: &Value) {
        match status {
            410 => self.check(&format!("want {status} {want}"), answer.status == status),
            _ => self.check_write(answer, status, want),
        }
    }

    fn count_prev(&mut self, want: &Value) {
        match want.get("prev") {
            Some(Value::Null) => self.count("nothing was there before"),
            Some(_) => self.count("shown what was there before"),
            None => {}
        }
    }

    fn count_txn(&mut self, write: &Write, status: u16, want: &Value) {
        if let What::Op(Op::Txn { .. }) = write.what {
            self.count(match (status, want["succeeded"] == true) {
                (200, true) => "transaction then",
                (200, false) => "transaction else",
                _ => "transaction undone",
            });
        }
    }

    /// A write without an idempotency key: it must not be repeated unless it is surely not done.
    fn plain_write(&mut self) {
        let write = self.random_write();
        if let What::Op(Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } | Op::Compact { .. }) = write.what {
            // What became of it no revision tells.
            return;
        }
        let (method, path, headers, body) = write.request();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let decided = wait_for("a plain write to be sent", || {
            let answer = match self.attempt(method, &path, &headers, &body)? {
                Ok(answer) if answer.status == 503 => {
                    self.check("503 is not done", answer.outcome() == "not_done");
                    self.count("plain write refused");
                    return None;
                }
                Ok(answer) if answer.status == 504 => {
                    self.check("504 is unknown", answer.outcome() == "unknown");
                    None
                }
                answer => answer.ok(),
            };
            Some(answer)
        });
        match decided {
            Some(answer) => {
                let (status, want) = self.model.write(&write);
                self.check_write(&answer, status, &want);
                self.count_txn(&write, status, &want);
                self.count_prev(&want);
                self.count("plain write");
            }
            None => self.resolve_unknown(&write),
        }
    }

    /// A renewal has no idempotency key: it can be repeated.
    fn renew(&mut self, write: &Write) {
        let (method, path, _, body) = write.request();
        let (answer, _) = self.ask(method, &path, &[], &body);
        let (status, want) = self.model.write(write);
        self.check_write(&answer, status, &want);
        self.count(if status == 200 { "lease renewed" } else { "no lease to renew" });
    }

    /// Nobody knows what became of `write`. It is in the log before the next write, or was lost with the leader: the
    /// revision of that one tells.
    fn resolve_unknown(&mut self, write: &Write) {
        let before = self.model.map.revision();
        let op = Op::put(KEYS[0].to_vec(), b"next".to_vec());
        let next = Write { what: What::Op(op), condition: None, prev: false };
        let (method, path, _, body) = next.request();
        let name = format!("{:016x}", self.rng.u64(..));
        let (answer, _) = self.ask(method, &path, &[("Idempotency-Key", &name)], &body);
        let took_effect = answer.json()["revision"] == before + 2;
        if took_effect {
            self.model.write(write);
            self.check(
                "an unknown write that took effect changes something",
                self.model.map.revision() == before + 1,
            );
        }
        let (status, want) = self.model.write(&next);
        self.check_write(&answer, status, &want);
        self.count(if took_effect { "unknown and done" } else { "unknown and without effect" });
    }

    fn check_write(&self, answer: &Answer, status: u16, want: &Value) {
        self.check(&format!("want {status} {want}"), answer.status == status);
        let got = if status == 200 { answer.json() } else { answer.json()["error"].clone() };
        for (name, value) in want.as_object().unwrap() {
            self.check(&format!("want {want}"), &got[name] == value);
        }
    }

    pub fn write(&mut self) {
        if self.rng.u8(..3) == 0 {
            return self.plain_write();
        }
        let mut write = self.random_write();
        if let What::Op(Op::LeaseRenew { .. }) = write.what {
            return self.renew(&write);
        }
        let known = (!self.keys_used.is_empty() && self.rng.u8(..5) == 0)
            .then(|| self.keys_used[self.rng.usize(..self.keys_used.len())].clone());
        if let Some(key) = &known
            && self.rng.u8(..4) > 0
        {
            write = self.model.outcomes[key].0.clone();
        }
        let idempotency_key = known.unwrap_or_else(|| format!("{:016x}", self.rng.u64(..)));
        let (method, path, mut headers, body) = write.request();
        headers.push(("Idempotency-Key", idempotency_key.clone()));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let (answer, was_repeated) = self.ask(method, &path, &headers, &body);
        let is_replayed = answer.header("Dkv-Replayed") == Some("true");
        let (status, want) = match self.model.outcomes.get(&idempotency_key).cloned() {
            Some((earlier, status, want)) if earlier == write => {
                self.check("a remembered outcome says so", is_replayed);
                self.count("replayed");
                (status, want)
            }
            Some(_) => {
                self.count("another request under a known key");
                (422, json!({"code": "idempotency_mismatch"}))
            }
            None => {
                self.check("a new write is no replay", !is_replayed || was_repeated);
                let (status, want) = self.model.write(&write);
                self.count_txn(&write, status, &want);
                self.count(match status {
                    412 => "condition failed",
                    409 => "no counter, or too large",
                    _ => "written",
                });
                self.count_prev(&want);
                self.keys_used.push(idempotency_key.clone());
                self.model.outcomes.insert(idempotency_key.clone(), (write.clone(), status, want.clone()));
                (status, want)
            }
        };
        self.check_write(&answer, status, &want);
    }
}
