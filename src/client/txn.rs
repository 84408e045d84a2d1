//! Transactions: conditions, and the operations of two branches, one of which is done as one step.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use dkv::client::{Client, ClientError, Step, Txn, When};
//! # fn main() -> Result<(), ClientError> {
//! let client = Client::new(&["127.0.0.1:8081"], Duration::from_secs(5))?;
//! let txn = Txn::new()
//!     .when(When::key(b"stock").value_is(b"3"))
//!     .then(Step::put(b"stock", b"2"))
//!     .then(Step::put(b"order/17", b"one"))
//!     .otherwise(Step::get(b"stock"));
//! let done = client.txn(&txn, None)?;
//! println!("{} at revision {}", done.reply.succeeded, done.reply.revision);
//! # Ok(())
//! # }
//! ```

use super::exchange::{Answer, Request};
use super::{Client, ClientError, Kind, WriteOptions, Written, json};
use crate::api::{
    INDEX_HEADER, TxnCondition, TxnDelete, TxnGet, TxnList, TxnOperation, TxnOrder, TxnPut, TxnReply,
    TxnRequest, Wanted,
};

const TXN: &str = "/v1/txn";

/// A transaction in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    request: TxnRequest,
}

impl Txn {
    /// One without conditions and operations.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a condition: all must hold, for the steps of [`Txn::then`] to be done.
    pub fn when(mut self, condition: Condition) -> Txn {
        self.request.conditions.push(condition.0);
        self
    }

    /// Adds a step that is done when all conditions hold.
    pub fn then(mut self, step: Step) -> Txn {
        self.request.then.push(step.0);
        self
    }

    /// Adds a step that is done when a condition does not hold.
    pub fn otherwise(mut self, step: Step) -> Txn {
        self.request.otherwise.push(step.0);
        self
    }
}

impl From<TxnRequest> for Txn {
    fn from(request: TxnRequest) -> Txn {
        Txn { request }
    }
}

/// The keys of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When(TxnCondition);

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition(TxnCondition);

impl When {
    /// Of one key.
    pub fn key(key: &[u8]) -> When {
        let mut condition = TxnCondition::default();
        condition.set_key(key);
        When(condition)
    }

    /// Of every key that begins so. A prefix without keys is compared as a key that does not exist.
    pub fn prefix(prefix: &[u8]) -> When {
        let mut condition = TxnCondition::default();
        condition.set_prefix(prefix);
        When(condition)
    }

    /// Of every key from `start` on and before `end`; an empty `end` is no end.
    pub fn range(start: &[u8], end: &[u8]) -> When {
        let mut condition = TxnCondition::default();
        condition.set_start(start);
        if !end.is_empty() {
            condition.set_end(end);
        }
        When(condition)
    }

    /// It exists.
    pub fn exists(mut self) -> Condition {
        self.0.exists = Some(true);
        Condition(self.0)
    }

    /// It does not exist.
    pub fn is_absent(mut self) -> Condition {
        self.0.exists = Some(false);
        Condition(self.0)
    }

    /// The revision at which it was last changed; 0 when it does not exist.
    pub fn mod_revision(mut self, wanted: Wanted<u64>) -> Condition {
        self.0.mod_revision = Some(wanted);
        Condition(self.0)
    }

    /// The revision at which it was created; 0 when it does not exist.
    pub fn create_revision(mut self, wanted: Wanted<u64>) -> Condition {
        self.0.create_revision = Some(wanted);
        Condition(self.0)
    }

    /// How many times it was put since it was created; 0 when it does not exist.
    pub fn version(mut self, wanted: Wanted<u64>) -> Condition {
        self.0.version = Some(wanted);
        Condition(self.0)
    }

    /// Its value, compared by bytes. Nothing holds of a key that does not exist.
    pub fn value(mut self, wanted: Wanted<Vec<u8>>) -> Condition {
        self.0.set_value(wanted);
        Condition(self.0)
    }

    /// It exists and has this value.
    pub fn value_is(self, value: &[u8]) -> Condition {
        self.value(Wanted::Eq(value.to_vec()))
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step(TxnOperation);

impl Step {
    /// Stores a value.
    pub fn put(key: &[u8], value: &[u8]) -> Step {
        let mut put = TxnPut::default();
        put.set_key(key);
        put.set_value(value);
        Step(TxnOperation { put: Some(put), ..TxnOperation::default() })
    }

    /// Gives a key a new revision and keeps its value. The key must exist, or nothing of the transaction is done.
    pub fn put_kept(key: &[u8]) -> Step {
        let mut put = TxnPut { keep_value: true, ..TxnPut::default() };
        put.set_key(key);
        Step(TxnOperation { put: Some(put), ..TxnOperation::default() })
    }

    /// Removes a key; one that is not there does no harm.
    pub fn delete(key: &[u8]) -> Step {
        let mut delete = TxnDelete::default();
        delete.set_key(key);
        Step(TxnOperation { delete: Some(delete), ..TxnOperation::default() })
    }

    /// Removes every key that begins so; not with an empty prefix.
    pub fn delete_prefix(prefix: &[u8]) -> Step {
        let mut delete = TxnDelete::default();
        delete.set_prefix(prefix);
        Step(TxnOperation { delete: Some(delete), ..TxnOperation::default() })
    }

    /// Removes every key from `start` on and before `end`; an empty `end` is no end.
    pub fn delete_range(start: &[u8], end: &[u8]) -> Step {
        let mut delete = TxnDelete::default();
        delete.set_start(start);
        if !end.is_empty() {
            delete.set_end(end);
        }
        Step(TxnOperation { delete: Some(delete), ..TxnOperation::default() })
    }

    /// Of a put or a removal: the result shows what was there before.
    pub fn with_previous(mut self) -> Step {
        self.0.put.iter_mut().for_each(|put| put.prev = true);
        self.0.delete.iter_mut().for_each(|delete| delete.prev = true);
        self
    }

    /// Reads a key, with the writes of the steps before it.
    pub fn get(key: &[u8]) -> Step {
        let mut get = TxnGet::default();
        get.set_key(key);
        Step(TxnOperation { get: Some(get), ..TxnOperation::default() })
    }

    /// Lists the first `limit` keys that begin so, with the writes of the steps before it.
    pub fn list(prefix: &[u8], limit: u64, is_descending: bool) -> Step {
        let order = is_descending.then_some(TxnOrder::Desc);
        let mut list = TxnList { limit: Some(limit), order, ..TxnList::default() };
        list.set_prefix(prefix);
        Step(TxnOperation { list: Some(list), ..TxnOperation::default() })
    }

    /// Counts the keys that begin so, with the writes of the steps before it.
    pub fn count(prefix: &[u8]) -> Step {
        let mut list = TxnList { count_only: true, ..TxnList::default() };
        list.set_prefix(prefix);
        Step(TxnOperation { list: Some(list), ..TxnOperation::default() })
    }

    /// Of a read: at this revision, not with the writes of the steps before it.
    pub fn at(mut self, revision: u64) -> Step {
        self.0.get.iter_mut().for_each(|get| get.revision = Some(revision));
        self.0.list.iter_mut().for_each(|list| list.revision = Some(revision));
        self
    }

    /// A transaction within the transaction. Its conditions, too, look at the state before the outermost one.
    pub fn txn(txn: Txn) -> Step {
        Step(TxnOperation { txn: Some(txn.request), ..TxnOperation::default() })
    }
}

impl Client {
    /// Executes a transaction: all of the branch that its conditions choose, or nothing. `idempotency_key` is the name under
    /// which the outcome is remembered; None = a fresh random one. A transaction that can write nothing is a read: it has
    /// no key, and its answer is linearizable.
    pub fn txn(&self, txn: &Txn, idempotency_key: Option<&str>) -> Result<Written<TxnReply>, ClientError> {
        let body = serde_json::to_vec(&txn.request).expect("plain data serialises");
        if txn.request.can_write() {
            let idempotency_key = idempotency_key.map(str::to_owned);
            let options = WriteOptions { condition: None, idempotency_key };
            return self.write("POST", TXN.to_owned(), Some(&body), &options);
        }
        let request =
            Request { method: "POST", target: TXN.to_owned(), headers: Vec::new(), body: Some(&body) };
        self.call(&request, Kind::Read, |answer: &Answer| {
            Some(Written {
                reply: json(answer)?,
                index: answer.number(INDEX_HEADER),
                replayed: false,
                idempotency_key: String::new(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_writes_what_the_api_reads() {
        let txn = Txn::new()
            .when(When::key(b"a").exists())
            .when(When::prefix(b"\xff").is_absent())
            .when(When::range(b"a", b"b").version(Wanted::Lt(5)))
            .when(When::key(b"a").value_is(b"v"))
            .then(Step::put(b"a", b"\xff").with_previous())
            .then(Step::delete_prefix(b"p/").with_previous())
            .then(Step::get(b"a").at(7))
            .then(Step::list(b"p/", 3, true))
            .otherwise(Step::txn(Txn::new().then(Step::put_kept(b"a")).otherwise(Step::count(b"p/"))));
        let text = r#"{"if":[{"key":"a","exists":true},{"prefix_base64":"/w==","exists":false},{"start":"a","end":"b","version":{"lt":5}},{"key":"a","value":{"eq":"v"}}],"then":[{"put":{"key":"a","value_base64":"/w==","prev":true}},{"delete":{"prefix":"p/","prev":true}},{"get":{"key":"a","revision":7}},{"list":{"prefix":"p/","limit":3,"order":"desc"}}],"else":[{"txn":{"then":[{"put":{"key":"a","keep_value":true}}],"else":[{"list":{"prefix":"p/","count_only":true}}]}}]}"#;
        assert_eq!(serde_json::to_string(&txn.request).unwrap(), text);
        assert_eq!(Txn::from(TxnRequest::from_json(text.as_bytes()).unwrap()), txn);
        assert!(txn.request.can_write() && !Txn::new().then(Step::get(b"a")).request.can_write());
    }
}
