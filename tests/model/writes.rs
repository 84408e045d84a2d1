//! Writes, with and without an idempotency key, and what becomes of one that nobody answered.

use dkv::check::{Parts, draw_kind, write_of};
use dkv::vocabulary::{KeyRange, OpKind};
use serde_json::{Value, json};

use super::cluster::{Answer, wait_for};
use super::wire::{What, Write};
use super::{BOUNDS, Condition, KEYS, Op, Run};

impl Run {
    fn random_write(&mut self) -> Write {
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
            return Write { what: What::DeleteRange(bounds), condition: None };
        }
        let value = match self.rng.u8(..7) {
            0 => Vec::new(),
            1 => vec![0xff, self.rng.u8(..)],
            _ => format!("value {} \"\u{e4}\"\n", self.rng.u16(..)).into_bytes(),
        };
        let current = self.model.map.now().get(&key).map_or(0, |row| row.mod_revision);
        let condition = match self.rng.u8(..8) {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Exists),
            2 | 3 if current > 0 => Some(Condition::ModRevision(current)),
            4 => Some(Condition::ModRevision(self.rng.u64(1..=self.model.map.revision() + 2))),
            _ => None,
        };
        let op = write_of(kind, Parts { key, value, range: KeyRange::new(b"", b"", b"") });
        Write { what: What::Op(op), condition: condition.filter(|_| kind.takes_condition()) }
    }

    /// A write without an idempotency key: it must not be repeated unless it is surely not done.
    fn plain_write(&mut self) {
        let write = self.random_write();
        let (method, path, headers, body) = write.request();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let decided = wait_for("a plain write to be sent", || {
            let answer = match self.attempt(method, &path, &headers, body)? {
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
                self.count("plain write");
            }
            None => self.resolve_unknown(&write),
        }
    }

    /// Nobody knows what became of `write`. It is in the log before the next write, or was lost with the leader: the
    /// revision of that one tells.
    fn resolve_unknown(&mut self, write: &Write) {
        let before = self.model.map.revision();
        let op = Op::Put { key: KEYS[0].to_vec(), value: b"next".to_vec() };
        let next = Write { what: What::Op(op), condition: None };
        let (method, path, _, body) = next.request();
        let name = format!("{:016x}", self.rng.u64(..));
        let (answer, _) = self.ask(method, &path, &[("Idempotency-Key", &name)], body);
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
        let (answer, was_repeated) = self.ask(method, &path, &headers, body);
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
                self.count(if status == 412 { "condition failed" } else { "written" });
                self.keys_used.push(idempotency_key.clone());
                self.model.outcomes.insert(idempotency_key.clone(), (write.clone(), status, want.clone()));
                (status, want)
            }
        };
        self.check_write(&answer, status, &want);
    }
}
