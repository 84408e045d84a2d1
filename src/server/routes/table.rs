//! The one list of what the client port serves. Dispatch, `Allow`, the text for a path that is no route, the labels of the
//! metrics and the headers that the edge passes on are read from it; a test holds it to `docs/openapi.yaml`.

use std::ops::Range;

use super::api::{Call, ClientApi};
use super::flat;
use crate::server::edge::{Method, Reply, RequestHeader};

/// One operation of the client port.
pub(super) struct Operation {
    /// The path. `{name}` stands for any text; where it comes last, for all the rest of the path.
    pub pattern: &'static str,
    /// Its methods.
    pub methods: &'static [Method],
    /// The name that metrics and `docs/openapi.yaml` use.
    pub id: &'static str,
    /// Whether it may change anything. A refused or failed read is surely not done, whatever happened.
    pub effect: Effect,
    /// Whether it may wait for the cluster. Such a request takes one of the places for requests that wait.
    pub may_wait: bool,
    /// Whether it may answer by taking the connection over: its client sends nothing more until it is answered.
    pub takes_over: bool,
    /// The request headers that it reads. It is given no others.
    pub headers: &'static [RequestHeader],
    /// What a client must be allowed to do. Every client is allowed everything so far.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "there are no users yet; a test holds each one sensible")
    )]
    pub permission: Permission,
    /// How it is told what is wrong before its handler is called.
    pub dialect: Dialect,
    /// Answers, now or later.
    pub handler: fn(&ClientApi, Call, Reply),
}

/// Whether an operation may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Write,
}

/// What a client must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// Nothing: for probes.
    None,
    /// To read keys.
    Read,
    /// To write keys.
    Write,
    /// To look at the cluster and its nodes.
    Observe,
    /// To change the cluster and its nodes, and to copy all its data.
    Operate,
}

/// The form of error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The JSON of version 1.
    V1,
    /// A sentence, or a flat object of strings.
    Flat,
}

type Handler = fn(&ClientApi, Call, Reply);

const GET: &[Method] = &[Method::Get, Method::Head];
const POST: &[Method] = &[Method::Post];
const PUT: &[Method] = &[Method::Put];
const DELETE: &[Method] = &[Method::Delete];

/// A look at the node: answered at once, from what it knows.
const fn look(pattern: &'static str, id: &'static str, handler: Handler) -> Operation {
    Operation {
        pattern,
        methods: GET,
        id,
        effect: Effect::Read,
        may_wait: false,
        takes_over: false,
        headers: &[],
        permission: Permission::Observe,
        dialect: Dialect::V1,
        handler,
    }
}

const fn probe(pattern: &'static str, id: &'static str, handler: Handler) -> Operation {
    Operation { permission: Permission::None, ..look(pattern, id, handler) }
}

const fn key_read(pattern: &'static str, id: &'static str, handler: Handler) -> Operation {
    Operation {
        may_wait: true,
        // Refused: they are conditions of writes.
        headers: &[RequestHeader::IfMatch, RequestHeader::IfVersion],
        permission: Permission::Read,
        ..look(pattern, id, handler)
    }
}

const fn key_write(
    pattern: &'static str,
    methods: &'static [Method],
    id: &'static str,
    handler: Handler,
) -> Operation {
    Operation {
        methods,
        effect: Effect::Write,
        may_wait: true,
        headers: &[
            RequestHeader::IfMatch,
            RequestHeader::IfNoneMatch,
            RequestHeader::IfVersion,
            RequestHeader::IdempotencyKey,
        ],
        permission: Permission::Write,
        ..look(pattern, id, handler)
    }
}

/// For operators: goes to a thread that may wait.
const fn operate(
    pattern: &'static str,
    methods: &'static [Method],
    id: &'static str,
    handler: Handler,
) -> Operation {
    Operation {
        methods,
        effect: Effect::Write,
        may_wait: true,
        permission: Permission::Operate,
        ..look(pattern, id, handler)
    }
}

const fn copy_data(pattern: &'static str, id: &'static str, handler: Handler) -> Operation {
    Operation { may_wait: true, permission: Permission::Operate, ..look(pattern, id, handler) }
}

const fn flat(operation: Operation) -> Operation {
    Operation { dialect: Dialect::Flat, ..operation }
}

/// Every operation, those of one path together. The first path that fits is taken: the more special one stands first.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation {
        headers: &[RequestHeader::Accept, RequestHeader::IfMatch, RequestHeader::IfVersion],
        ..key_read("/v1/kv/{key}", "getKey", ClientApi::get_key)
    },
    key_write("/v1/kv/{key}", PUT, "putKey", ClientApi::put_key),
    key_write("/v1/kv/{key}", DELETE, "deleteKey", ClientApi::delete_key),
    key_write("/v1/kv/{key}", POST, "addToKey", ClientApi::add_to_key),
    key_read("/v1/kv", "listKeys", ClientApi::list_keys),
    key_write("/v1/kv", DELETE, "deleteRange", ClientApi::delete_range),
    key_read("/v1/history/{key}", "getHistory", ClientApi::get_history),
    Operation {
        headers: &[RequestHeader::IdempotencyKey],
        permission: Permission::Operate,
        ..key_write("/v1/compact", POST, "compact", ClientApi::compact)
    },
    Operation {
        headers: &[RequestHeader::IdempotencyKey],
        ..key_write("/v1/leases", POST, "grantLease", ClientApi::grant_lease)
    },
    Operation { headers: &[], ..key_read("/v1/leases", "listLeases", ClientApi::list_leases) },
    Operation {
        headers: &[],
        ..key_write("/v1/leases/{id}/renew", POST, "renewLease", ClientApi::renew_lease)
    },
    Operation { headers: &[], ..key_read("/v1/leases/{id}", "getLease", ClientApi::get_lease) },
    Operation {
        headers: &[RequestHeader::IdempotencyKey],
        ..key_write("/v1/leases/{id}", DELETE, "revokeLease", ClientApi::revoke_lease)
    },
    key_write("/v1/txn", POST, "txn", ClientApi::txn),
    Operation {
        methods: &[Method::Get],
        takes_over: true,
        headers: &[RequestHeader::Accept, RequestHeader::LastEventId],
        ..key_read("/v1/watch", "watch", ClientApi::watch)
    },
    Operation {
        methods: POST,
        takes_over: true,
        headers: &[RequestHeader::Accept],
        ..key_read("/v1/watch", "watchMany", ClientApi::watch_many)
    },
    flat(Operation { methods: &[Method::Get], headers: &[], ..key_read("/get", "flatGet", flat::get) }),
    flat(key_write("/set", POST, "flatSet", flat::set)),
    flat(key_write("/delete", DELETE, "flatDelete", flat::delete)),
    look("/v1/cluster", "getCluster", ClientApi::get_cluster),
    look("/v1/cluster/members", "getMembers", ClientApi::get_members),
    operate("/v1/cluster/members", POST, "addMember", ClientApi::add_member),
    operate("/v1/cluster/members/{name}/promote", POST, "promoteMember", ClientApi::promote_member),
    operate("/v1/cluster/members/{name}", DELETE, "removeMember", ClientApi::remove_member),
    operate("/v1/cluster/leader", POST, "transferLeadership", ClientApi::transfer),
    copy_data("/v1/snapshots", "listSnapshots", ClientApi::list_snapshots),
    operate("/v1/snapshots", POST, "makeSnapshot", ClientApi::make_snapshot),
    copy_data("/v1/snapshots/{name}", "getSnapshot", ClientApi::get_snapshot),
    look("/v1/status", "getStatus", ClientApi::get_status),
    Operation { may_wait: false, ..operate("/v1/log-level", PUT, "setLogLevel", ClientApi::set_log_level) },
    Operation { headers: &[RequestHeader::Accept], ..look("/metrics", "getMetrics", ClientApi::get_metrics) },
    probe("/healthz", "getHealth", ClientApi::get_health),
    probe("/readyz", "getReadiness", ClientApi::get_readiness),
];

/// What a method and a path are.
pub(super) enum Matched {
    /// The operation at this place of [`OPERATIONS`]; what its `{name}` stands for, as a part of the path.
    Operation(usize, Range<usize>),
    /// A path that has other methods: one operation of it.
    OtherMethod(&'static Operation),
    /// Not a path of dkv.
    Nothing,
}

/// Looks a request up.
pub(super) fn find(method: Method, path: &str) -> Matched {
    let mut other = None;
    for (at, operation) in OPERATIONS.iter().enumerate() {
        match other {
            // A path that has been found is not looked for any further.
            Some((pattern, _)) if operation.pattern != pattern => break,
            _ => {}
        }
        let Some(parameter) = parameter(operation.pattern, path) else { continue };
        if operation.methods.contains(&method) {
            return Matched::Operation(at, parameter);
        }
        other = Some((operation.pattern, &OPERATIONS[at]));
    }
    other.map_or(Matched::Nothing, |(_, operation)| Matched::OtherMethod(operation))
}

/// What the `{name}` of a pattern stands for in a path that fits it; empty for a pattern without one.
fn parameter(pattern: &str, path: &str) -> Option<Range<usize>> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some(0..0);
    };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let end = path.strip_prefix(before)?.strip_suffix(after)?.len() + before.len();
    Some(before.len()..end)
}

/// Whether a request may be answered by a takeover.
pub(in crate::server) fn takes_over(method: Method, path: &str) -> bool {
    matches!(find(method, path), Matched::Operation(at, _) if OPERATIONS[at].takes_over)
}

/// The methods of a path, as `Allow` lists them.
pub(super) fn allow(pattern: &str) -> String {
    let methods = OPERATIONS.iter().filter(|o| o.pattern == pattern).flat_map(|o| o.methods);
    methods.map(|method| method.name()).collect::<Vec<_>>().join(", ")
}

/// Every path, in the order of the list.
pub(super) fn patterns() -> Vec<&'static str> {
    let mut patterns: Vec<&str> = OPERATIONS.iter().map(|operation| operation.pattern).collect();
    patterns.dedup();
    patterns
}

/// What a request may say to each operation of version 1: the cluster that it is meant for.
const COMMON_HEADERS: [RequestHeader; 1] = [RequestHeader::DkvCluster];

/// Every request header that some operation reads: the edge passes on no others.
pub(in crate::server) fn headers() -> Vec<RequestHeader> {
    let mut headers: Vec<RequestHeader> = OPERATIONS.iter().flat_map(|o| o.headers).copied().collect();
    headers.extend(COMMON_HEADERS);
    headers.sort_unstable();
    headers.dedup();
    headers
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_yaml::Value;

    use super::*;

    /// What `find` gives: the operation and what its `{name}` stands for, or the methods of the path.
    fn found(method: Method, path: &str) -> Result<(&'static str, &str), String> {
        match find(method, path) {
            Matched::Operation(at, parameter) => Ok((OPERATIONS[at].id, &path[parameter])),
            Matched::OtherMethod(operation) => Err(allow(operation.pattern)),
            Matched::Nothing => Err(String::new()),
        }
    }

    #[test]
    fn find_tells_the_operations_apart() {
        let table = [
            (Method::Get, "/v1/kv/a/b%20c", Ok(("getKey", "a/b%20c"))),
            (Method::Head, "/v1/kv/a", Ok(("getKey", "a"))),
            (Method::Put, "/v1/kv/", Ok(("putKey", ""))),
            (Method::Delete, "/v1/kv/a", Ok(("deleteKey", "a"))),
            (Method::Post, "/v1/kv/a", Ok(("addToKey", "a"))),
            (Method::Other, "/v1/kv/a", Err("GET, HEAD, PUT, DELETE, POST".to_owned())),
            (Method::Get, "/v1/kv", Ok(("listKeys", ""))),
            (Method::Put, "/v1/kv", Err("GET, HEAD, DELETE".to_owned())),
            (Method::Delete, "/v1/kv", Ok(("deleteRange", ""))),
            (Method::Get, "/v1/history/a/b", Ok(("getHistory", "a/b"))),
            (Method::Put, "/v1/history/a", Err("GET, HEAD".to_owned())),
            (Method::Post, "/v1/compact", Ok(("compact", ""))),
            (Method::Get, "/v1/compact", Err("POST".to_owned())),
            (Method::Post, "/v1/leases", Ok(("grantLease", ""))),
            (Method::Put, "/v1/leases", Err("POST, GET, HEAD".to_owned())),
            (Method::Post, "/v1/leases/2a/renew", Ok(("renewLease", "2a"))),
            (Method::Get, "/v1/leases/2a", Ok(("getLease", "2a"))),
            (Method::Post, "/v1/leases/2a", Err("GET, HEAD, DELETE".to_owned())),
            (Method::Post, "/v1/txn", Ok(("txn", ""))),
            (Method::Get, "/v1/txn", Err("POST".to_owned())),
            (Method::Post, "/v1/watch", Ok(("watchMany", ""))),
            (Method::Head, "/v1/watch", Err("GET, POST".to_owned())),
            (Method::Get, "/v1/kvs", Err(String::new())),
            (Method::Head, "/get", Err("GET".to_owned())),
            (Method::Head, "/v1/cluster/members", Ok(("getMembers", ""))),
            (Method::Post, "/v1/cluster/members", Ok(("addMember", ""))),
            (Method::Put, "/v1/cluster/members", Err("GET, HEAD, POST".to_owned())),
            (Method::Delete, "/v1/cluster/members/a", Ok(("removeMember", "a"))),
            (Method::Get, "/v1/cluster/members/a", Err("DELETE".to_owned())),
            (Method::Post, "/v1/cluster/members/a/promote", Ok(("promoteMember", "a"))),
            (Method::Delete, "/v1/cluster/members/a/promote", Err("POST".to_owned())),
            (Method::Delete, "/v1/cluster/members/promote", Ok(("removeMember", "promote"))),
            (Method::Get, "/v1/cluster/leader", Err("POST".to_owned())),
            (Method::Post, "/v1/cluster", Err("GET, HEAD".to_owned())),
            (Method::Get, "/v1/snapshots/x", Ok(("getSnapshot", "x"))),
            (Method::Get, "/v1/snapshots", Ok(("listSnapshots", ""))),
            (Method::Get, "/", Err(String::new())),
        ];
        for (method, path, expected) in table {
            assert_eq!(found(method, path), expected, "{method:?} {path}");
        }
    }

    #[test]
    fn operations_of_one_path_stand_together_and_have_a_method_each() {
        let mut seen = BTreeSet::new();
        for pattern in patterns() {
            assert!(seen.insert(pattern), "{pattern} stands in two places");
            let methods: Vec<&str> = OPERATIONS
                .iter()
                .filter(|o| o.pattern == pattern)
                .flat_map(|o| o.methods)
                .map(|m| m.name())
                .collect();
            let distinct: BTreeSet<_> = methods.iter().collect();
            assert!(distinct.len() == methods.len() && !distinct.contains(&""), "{pattern}: {methods:?}");
        }
        let ids: BTreeSet<_> = OPERATIONS.iter().map(|o| o.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len(), "an operation id is there twice");
    }

    #[test]
    fn what_changes_anything_needs_more_than_a_right_to_look() {
        for operation in OPERATIONS {
            let may_write = matches!(operation.permission, Permission::Write | Permission::Operate);
            let id = operation.id;
            match operation.effect {
                Effect::Write => assert!(may_write, "{id} changes things with {:?}", operation.permission),
                Effect::Read => assert!(operation.permission != Permission::Write, "{id} writes nothing"),
            }
            // The list of what is watched has no room in a query.
            let is_asked_with_get = operation.methods.iter().all(|m| m.is_read()) || id == "watchMany";
            assert!(
                operation.effect == Effect::Write || is_asked_with_get,
                "{id}: a read is asked for with GET"
            );
            assert!(operation.permission != Permission::None || !operation.may_wait, "{id}: a probe waits");
        }
    }

    /// The headers that an operation reads only to refuse them.
    const REFUSED: [(&str, &str); 18] = [
        ("getKey", "if-match"),
        ("getKey", "if-version"),
        ("listKeys", "if-match"),
        ("listKeys", "if-version"),
        ("getHistory", "if-match"),
        ("getHistory", "if-version"),
        ("deleteRange", "if-match"),
        ("deleteRange", "if-none-match"),
        ("txn", "if-match"),
        ("txn", "if-none-match"),
        ("txn", "if-version"),
        ("deleteRange", "if-version"),
        ("flatSet", "if-match"),
        ("flatSet", "if-none-match"),
        ("flatSet", "if-version"),
        ("flatDelete", "if-match"),
        ("flatDelete", "if-none-match"),
        ("flatDelete", "if-version"),
    ];

    #[test]
    fn the_api_description_lists_the_same_operations_and_headers() {
        let text = include_str!("../../../docs/openapi.yaml");
        let api: Value = serde_yaml::from_str(text).expect("YAML");
        let mut described = BTreeMap::new();
        for (path, item) in api["paths"].as_mapping().expect("paths") {
            for method in ["get", "head", "put", "post", "delete", "patch", "options"] {
                let Some(operation) = item.get(method) else { continue };
                let parameters = [item.get("parameters"), operation.get("parameters")];
                let parameters = parameters.into_iter().flatten().filter_map(Value::as_sequence).flatten();
                let mut headers = BTreeSet::new();
                for parameter in parameters {
                    let parameter = match parameter.get("$ref").and_then(Value::as_str) {
                        Some(at) => {
                            let name = at.rsplit('/').next().expect("a name");
                            &api["components"]["parameters"][name]
                        }
                        None => parameter,
                    };
                    if parameter["in"].as_str() == Some("header") {
                        headers.insert(parameter["name"].as_str().expect("a name").to_ascii_lowercase());
                    }
                }
                let path = path.as_str().expect("a path").to_owned();
                let id = operation["operationId"].as_str().expect("an id").to_owned();
                described.insert((path, method.to_ascii_uppercase()), (id, headers));
            }
        }
        let mut listed = BTreeMap::new();
        for operation in OPERATIONS {
            // A description says what a client may send: not what is refused, and the form of the answer elsewhere.
            let is_described = |name: &&str| {
                !REFUSED.contains(&(operation.id, *name)) && *name != RequestHeader::Accept.name()
            };
            let names = operation.headers.iter().map(|header| header.name());
            let headers: BTreeSet<String> = names.filter(is_described).map(str::to_owned).collect();
            // HEAD is GET without a body.
            for method in operation.methods.iter().filter(|method| !method.is_head()) {
                let at = (operation.pattern.to_owned(), method.name().to_owned());
                listed.insert(at, (operation.id.to_owned(), headers.clone()));
            }
        }
        assert_eq!(listed, described);
    }
}
