//! `POST /v1/txn`: from the JSON of a transaction to the operation; and the answer to one that can write nothing, which is
//! a read.

use super::lease_names;
use super::params::{self, Query, invalid};
use super::states::States;
use super::writes::{Done, decided};
use crate::api::{
    self, DEFAULT_LIST_LIMIT, ErrorBody, ErrorCode, ErrorOutcome, MAX_LIST_LIMIT, TxnCondition, TxnDelete,
    TxnGet, TxnOperation, TxnOrder, TxnPut, TxnRequest, Wanted,
};
use crate::config::Limits;
use crate::node::Node;
use crate::server::edge::{Request, Response};
use crate::vocabulary::{
    Compare, KeyRange, Keys, NoLeaseId, Operator, Target, Txn, TxnError, TxnList, TxnOp,
};

/// What a refusal calls what it expected.
const EXPECTED: &str = "a transaction, {\"if\":[...],\"then\":[...],\"else\":[...]}";

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Parsed {
    /// What is asked.
    pub txn: Txn,
    /// Which states it may see when it is a read.
    pub states: States,
    /// The name of the write.
    pub idempotency_key: Option<String>,
}

/// Takes a request apart.
///
/// # Errors
/// `invalid_request` and `too_large`; the text says where in the body.
pub(super) fn parse(request: &Request, limits: &Limits) -> Result<Parsed, ErrorBody> {
    let query = Query::parse(request.query.as_deref(), &["consistency"])?;
    let states = States::parse(&query, None)?;
    if params::condition(request)?.is_some() {
        return Err(invalid(
            "a transaction has its conditions in its body, in the list if, and takes no header",
        ));
    }
    let idempotency_key = params::idempotency_key(request)?.map(str::to_owned);
    let body: TxnRequest = params::json_body(request, EXPECTED)?;
    let txn = Reader { limits }.txn("", body)?;
    txn.check().map_err(|e| match e {
        TxnError::TooMany(_) => ErrorBody::new(ErrorCode::TooLarge, e.to_string()),
        TxnError::TooDeep | TxnError::WrittenTwice(_) => invalid(e.to_string()),
    })?;
    if txn.can_write() && query.get("consistency") == Some("stale") {
        return Err(invalid("consistency=stale is for reads, and this transaction can write"));
    }
    Ok(Parsed { txn, states, idempotency_key })
}

/// The answer to a transaction that is a read, from a node that is fresh enough.
pub(super) fn serve(txn: Txn, node: &Node) -> Response {
    let (applied, outcome) = node.with_kv(|kv| (kv.applied().index, kv.read_txn(txn)));
    let response = match decided(&outcome) {
        Ok(Done::Txn(reply)) => {
            let revision = reply.revision.to_string();
            Response::json(200, &reply).with_header(api::REVISION_HEADER, revision)
        }
        Ok(
            Done::Put(_)
            | Done::Deleted(_)
            | Done::Added(_)
            | Done::Lease(_)
            | Done::Revoked(_)
            | Done::Compacted(_)
            | Done::Prev(_),
        ) => {
            unreachable!("a transaction has an outcome of its own")
        }
        Err(refused) => Response::error(&refused.with_outcome(ErrorOutcome::NotDone)),
    };
    response.with_header(api::INDEX_HEADER, applied.to_string())
}

/// Takes a body apart. `at` says where a part of it stands: `then[2].put: `.
struct Reader<'a> {
    limits: &'a Limits,
}

impl Reader<'_> {
    fn txn(&self, at: &str, body: TxnRequest) -> Result<Txn, ErrorBody> {
        let TxnRequest { conditions, then, otherwise } = body;
        self.count(at, "if", conditions.len())?;
        self.count(at, "then", then.len())?;
        self.count(at, "else", otherwise.len())?;
        let compares = conditions.into_iter().enumerate();
        let compares = compares.map(|(n, condition)| self.compare(&format!("{at}if[{n}]"), &condition));
        let branch = |name: &str, operations: Vec<TxnOperation>| {
            let numbered = operations.into_iter().enumerate();
            numbered
                .map(|(n, operation)| self.operation(&format!("{at}{name}[{n}]"), operation))
                .collect::<Result<_, ErrorBody>>()
        };
        Ok(Txn {
            compares: compares.collect::<Result<_, _>>()?,
            then: branch("then", then)?,
            otherwise: branch("else", otherwise)?,
        })
    }

    fn count(&self, at: &str, name: &str, count: usize) -> Result<(), ErrorBody> {
        let most = self.limits.max_txn_ops;
        if count <= most {
            return Ok(());
        }
        let text = format!("{at}{name} has {count} parts, the limit is {most} (limits.max_txn_ops)");
        Err(ErrorBody::new(ErrorCode::TooLarge, text))
    }

    fn compare(&self, at: &str, condition: &TxnCondition) -> Result<Compare, ErrorBody> {
        let located = |e: String| invalid(format!("{at}: {e}"));
        let key = condition.key_bytes().map_err(located)?;
        let bounds = [condition.prefix_bytes(), condition.start_bytes(), condition.end_bytes()];
        let keys = self.keys(at, key, bounds)?;
        let mut compares: Vec<(Operator, Target)> = Vec::new();
        if let Some(exists) = condition.exists {
            // What does not exist has version 0, and so has a range without keys.
            compares.push((if exists { Operator::Greater } else { Operator::Equal }, Target::Version(0)));
        }
        type Number = (Option<Wanted<u64>>, fn(u64) -> Target);
        let numbers: [Number; 3] = [
            (condition.mod_revision.clone(), Target::ModRevision),
            (condition.create_revision.clone(), Target::CreateRevision),
            (condition.version.clone(), Target::Version),
        ];
        for (wanted, target) in numbers {
            compares.extend(wanted.map(|wanted| taken_apart(wanted, target)));
        }
        if let Some(wanted) = condition.lease.clone() {
            let (operator, text) = taken_apart(wanted, |text| text);
            let lease = match &text[..] {
                "0" => None,
                name => Some(name.parse().map_err(|e: NoLeaseId| located(format!("lease: {e}; 0: none")))?),
            };
            compares.push((operator, Target::Lease(lease)));
        }
        if let Some(wanted) = condition.value_wanted().map_err(located)? {
            let (operator, target) = taken_apart(wanted, Target::Value);
            if let Target::Value(value) = &target {
                self.value(at, value)?;
            }
            compares.push((operator, target));
        }
        match (compares.pop(), compares.is_empty()) {
            (Some((operator, target)), true) => Ok(Compare { keys, operator, target }),
            _ => {
                let text = "a condition compares exactly one of exists, mod_revision, create_revision, version, lease, value";
                Err(invalid(format!("{at}: {text}")))
            }
        }
    }

    fn operation(&self, at: &str, operation: TxnOperation) -> Result<TxnOp, ErrorBody> {
        let TxnOperation { put, delete, get, list, txn } = operation;
        match (put, delete, get, list, txn) {
            (Some(put), None, None, None, None) => self.put(&format!("{at}.put"), &put),
            (None, Some(delete), None, None, None) => self.delete(&format!("{at}.delete"), &delete),
            (None, None, Some(get), None, None) => self.get(&format!("{at}.get"), &get),
            (None, None, None, Some(list), None) => self.list(&format!("{at}.list"), &list),
            (None, None, None, None, Some(txn)) => self.txn(&format!("{at}.txn."), txn).map(TxnOp::Txn),
            _ => {
                let text = "an operation is exactly one of put, delete, get, list, txn";
                Err(invalid(format!("{at}: {text}")))
            }
        }
    }

    fn put(&self, at: &str, put: &TxnPut) -> Result<TxnOp, ErrorBody> {
        let located = |e: String| invalid(format!("{at}: {e}"));
        let key = self.key(at, put.key_bytes().map_err(located)?)?;
        let value = match (put.value_bytes().map_err(located)?, put.keep_value) {
            (Some(value), false) => Some(value),
            (None, true) => None,
            (Some(_), true) => return Err(located("value and keep_value exclude each other".to_owned())),
            (None, false) => {
                return Err(located("value is missing: give value, value_base64 or keep_value".to_owned()));
            }
        };
        value.iter().try_for_each(|value| self.value(at, value))?;
        let lease = lease_names::of_put(put.lease, put.ttl_s, put.keep_lease).map_err(located)?;
        Ok(TxnOp::Put { key, value, lease, prev: put.prev })
    }

    fn delete(&self, at: &str, delete: &TxnDelete) -> Result<TxnOp, ErrorBody> {
        let key = delete.key_bytes().map_err(|e| invalid(format!("{at}: {e}")))?;
        let bounds = [delete.prefix_bytes(), delete.start_bytes(), delete.end_bytes()];
        let keys = self.keys(at, key, bounds)?;
        if let Keys::Range(range) = &keys
            && range.start().is_empty()
            && range.end().is_none()
        {
            let text = "the range is every key there is: name a prefix, a start or an end (DELETE /v1/kv?all=true removes \
                        every key)";
            return Err(invalid(format!("{at}: {text}")));
        }
        Ok(TxnOp::Delete { keys, prev: delete.prev })
    }

    fn get(&self, at: &str, get: &TxnGet) -> Result<TxnOp, ErrorBody> {
        let key = self.key(at, get.key_bytes().map_err(|e| invalid(format!("{at}: {e}")))?)?;
        Ok(TxnOp::Get { key, revision: revision(at, get.revision)? })
    }

    fn list(&self, at: &str, list: &api::TxnList) -> Result<TxnOp, ErrorBody> {
        let range = self.range(at, [list.prefix_bytes(), list.start_bytes(), list.end_bytes()])?;
        let api::TxnList { limit, order, keys_only, count_only, .. } = *list;
        if count_only && (limit.is_some() || order.is_some() || keys_only) {
            let text = "count_only counts the whole range and shows no rows: limit, order and keys_only have no meaning";
            return Err(invalid(format!("{at}: {text}")));
        }
        let limit = limit.unwrap_or(u64::from(DEFAULT_LIST_LIMIT));
        if !(1..=u64::from(MAX_LIST_LIMIT)).contains(&limit) {
            return Err(invalid(format!("{at}: limit {limit}: a list has 1 to {MAX_LIST_LIMIT} rows")));
        }
        Ok(TxnOp::List(TxnList {
            range,
            revision: revision(at, list.revision)?,
            limit: if count_only { 0 } else { limit },
            is_descending: order == Some(TxnOrder::Desc),
            keys_only,
            count_only,
        }))
    }

    /// A key, or a range, and not both.
    fn keys(&self, at: &str, key: Option<Vec<u8>>, bounds: Bounds) -> Result<Keys, ErrorBody> {
        let has_bound = bounds.iter().any(|bound| !matches!(bound, Ok(None)));
        match (key, has_bound) {
            (Some(key), false) => self.key(at, Some(key)).map(Keys::One),
            (None, true) => self.range(at, bounds).map(Keys::Range),
            (Some(_), true) => Err(invalid(format!("{at}: a key, or prefix, start and end, but not both"))),
            (None, false) => {
                Err(invalid(format!("{at}: no key, prefix, start or end says which keys are meant")))
            }
        }
    }

    fn range(&self, at: &str, bounds: Bounds) -> Result<KeyRange, ErrorBody> {
        let mut given = Vec::with_capacity(3);
        for bound in bounds {
            let bound = bound.map_err(|e| invalid(format!("{at}: {e}")))?.unwrap_or_default();
            self.key_length(at, &bound)?;
            given.push(bound);
        }
        let (prefix, start, end) = (&given[0], &given[1], &given[2]);
        if !end.is_empty() && start > end {
            return Err(invalid(format!("{at}: start lies after end: start is the smaller key")));
        }
        Ok(KeyRange::new(prefix, start, end))
    }

    fn key(&self, at: &str, key: Option<Vec<u8>>) -> Result<Vec<u8>, ErrorBody> {
        let key = key.ok_or_else(|| invalid(format!("{at}: key is missing: give key or key_base64")))?;
        if key.is_empty() {
            return Err(invalid(format!("{at}: the key is empty")));
        }
        self.key_length(at, &key)?;
        Ok(key)
    }

    fn key_length(&self, at: &str, key: &[u8]) -> Result<(), ErrorBody> {
        let (len, most) = (key.len(), self.limits.max_key_bytes);
        if len <= most {
            return Ok(());
        }
        let text = format!("{at}: the key has {len} bytes, the limit is {most} (limits.max_key_bytes)");
        Err(ErrorBody::new(ErrorCode::TooLarge, text))
    }

    fn value(&self, at: &str, value: &[u8]) -> Result<(), ErrorBody> {
        let (len, most) = (value.len(), self.limits.max_value_bytes);
        if len <= most {
            return Ok(());
        }
        let text = format!("{at}: the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
        Err(ErrorBody::new(ErrorCode::TooLarge, text))
    }
}

/// Prefix, start and end, as the body says them.
type Bounds = [Result<Option<Vec<u8>>, String>; 3];

fn taken_apart<T, R>(wanted: Wanted<T>, target: impl FnOnce(T) -> R) -> (Operator, R) {
    match wanted {
        Wanted::Eq(wanted) => (Operator::Equal, target(wanted)),
        Wanted::Ne(wanted) => (Operator::NotEqual, target(wanted)),
        Wanted::Lt(wanted) => (Operator::Less, target(wanted)),
        Wanted::Gt(wanted) => (Operator::Greater, target(wanted)),
    }
}

fn revision(at: &str, revision: Option<u64>) -> Result<Option<u64>, ErrorBody> {
    if revision == Some(0) {
        return Err(invalid(format!(
            "{at}: revision 0: there is no such state, the first one is 1, the empty store"
        )));
    }
    Ok(revision)
}
