//! The client API, version 1: takes a request apart, asks the node, renders what it decided. Nothing here waits: a request
//! that needs consensus is waiting with its [`Reply`], and a responder writes the answer. What would hold a responder
//! up goes to a pool of threads ([`super::jobs`]).

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::calls::CallCounters;
use super::errors::failed;
use super::jobs::Jobs;
use super::lists::List;
use super::params::{self, Query, invalid};
use super::reads::KeyRead;
use super::scans::{self, Look, Scan};
use super::snapshots::{self, Asked};
use super::states::States;
use super::txn::{self, Parsed};
use super::writes::{self, Done, decided};
use super::{lease_names, log_level, members, metrics, operator, prev};
use crate::api::{self, ClusterReply, ErrorBody, ErrorCode, ErrorOutcome, MembersReply};
use crate::node::{BackupResult, Consistency, Failure, Node, OperatorRequest, Origin, WriteResult};
use crate::raft::Index;
use crate::server::edge::{Reply, Request, Response};
use crate::server::shared::Shared;
use crate::store::{Applied, Command};
use crate::vocabulary::{Op, Outcome};

const TEXT: &str = "text/plain; charset=utf-8";

/// Serves the client port.
pub(crate) struct ClientApi {
    pub(super) shared: Arc<Shared>,
    pub(super) calls: Arc<CallCounters>,
    operator: Jobs<OperatorRequest>,
    snapshots: Jobs<Asked>,
    pub(super) scans: Jobs<Scan>,
}

/// A request and what the list of operations says about it.
pub(super) struct Call {
    pub request: Request,
    /// The part of the path that the route's `{name}` stands for.
    pub parameter: Range<usize>,
    /// Whether it may take a place among the requests that wait.
    pub may_wait: bool,
    /// Whether it changes nothing: refused or failed, it is surely not done.
    pub is_read: bool,
}

impl Call {
    /// What the route's `{name}` stands for, not decoded.
    pub(super) fn parameter(&self) -> &str {
        &self.request.path[self.parameter.clone()]
    }
}

impl ClientApi {
    /// Serves what `shared` holds: before bootstrap only the probes and the cluster's configuration. Starts the threads
    /// that may wait.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(super) fn start(shared: &Arc<Shared>, calls: CallCounters) -> std::io::Result<ClientApi> {
        Ok(ClientApi {
            shared: shared.clone(),
            calls: Arc::new(calls),
            operator: operator::start(shared)?,
            snapshots: snapshots::start(shared)?,
            scans: scans::start(shared)?,
        })
    }

    // ---- keys --------------------------------------------------------------------------------------------------------

    pub(super) fn get_key(&self, call: Call, reply: Reply) {
        match KeyRead::parse(call.parameter(), &call.request, self.shared.limits().max_key_bytes) {
            Err(error) => self.send_error(reply, error, &call),
            Ok(read) => {
                let shared = self.shared.clone();
                self.when_fresh(read.states(), &call, reply, move |node, _, reply| {
                    reply.send(move || shared.decorate(read.serve(&node)));
                });
            }
        }
    }

    pub(super) fn list_keys(&self, call: Call, reply: Reply) {
        match List::parse(&call.request, self.shared.limits().max_key_bytes) {
            Err(error) => self.send_error(reply, error, &call),
            Ok(list) => {
                let (states, scans) = (list.states(), self.scans.clone());
                let look = Look::List(Box::new(list));
                self.when_fresh(states, &call, reply, move |node, deadline, reply| {
                    scans.ask(Scan { look, node }, deadline, reply);
                });
            }
        }
    }

    /// Calls `serve` once this node's state is as fresh as the read wants it; from any thread, so it must not wait.
    pub(super) fn when_fresh(
        &self,
        states: States,
        call: &Call,
        mut reply: Reply,
        serve: impl FnOnce(Arc<Node>, Instant, Reply) + Send + 'static,
    ) {
        let ready = self.node().and_then(|node| {
            let consistency = states.consistency(node);
            if consistency == Consistency::Linearizable {
                park(call, &mut reply)?;
            }
            Ok((node, consistency))
        });
        let (node, consistency) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, call),
        };
        let deadline = self.deadline();
        let (shared, server) = (self.shared.clone(), node.clone());
        let done = move |result: Result<Index, Failure>| match result {
            Ok(_) => serve(server, deadline, reply),
            Err(e) => {
                let error = failed(&e).with_outcome(ErrorOutcome::NotDone);
                reply.send(move || shared.decorate(Response::error(&error)));
            }
        };
        node.read(consistency, deadline, Box::new(done));
    }

    pub(super) fn put_key(&self, mut call: Call, reply: Reply) {
        let value = std::mem::take(&mut call.request.body);
        let (len, most) = (value.len(), self.shared.limits().max_value_bytes);
        let parsed = self.decoded_key(&call).and_then(|key| {
            let query = Query::parse(call.request.query.as_deref(), &["lease", "ttl_s", "prev"])?;
            Ok((key, lease_names::of_query(&query)?, query.flag("prev")?))
        });
        let op = parsed.and_then(|(key, lease, prev)| match len > most {
            true => {
                let text = format!("the value has {len} bytes, the limit is {most} (limits.max_value_bytes)");
                Err(ErrorBody::new(ErrorCode::TooLarge, text))
            }
            false if prev => {
                let txn = prev::put(key, value, lease, params::condition(&call.request)?);
                Ok((Op::Txn { txn }, prev))
            }
            false => Ok((Op::Put { key, value, lease }, prev)),
        });
        self.write_or_show(op, &call, reply);
    }

    pub(super) fn delete_key(&self, call: Call, reply: Reply) {
        let op = self.decoded_key(&call).and_then(|key| {
            let prev = Query::parse(call.request.query.as_deref(), &["prev"])?.flag("prev")?;
            match call.request.body.is_empty() {
                true if prev => {
                    let txn = prev::delete(key, params::condition(&call.request)?);
                    Ok((Op::Txn { txn }, prev))
                }
                true => Ok((Op::Delete { key }, prev)),
                false => Err(invalid("a DELETE has no body")),
            }
        });
        self.write_or_show(op, &call, reply);
    }

    /// A write of one key. One that shows what was there before is a transaction, and has its condition in it.
    fn write_or_show(&self, op: Result<(Op, bool), ErrorBody>, call: &Call, reply: Reply) {
        match op {
            Ok((op, true)) => {
                let key = params::idempotency_key(&call.request);
                let command = key.map(|key| writes::command(op, None, key));
                self.propose_to(command, call, reply, |result| {
                    written_by(result, |o| prev::decided(o, false))
                });
            }
            Ok((op, false)) => self.write(Ok(op), call, reply),
            Err(error) => self.send_error(reply, error, call),
        }
    }

    #[cfg(feature = "next-protocol")]
    fn key(&self, call: &Call) -> Result<Vec<u8>, ErrorBody> {
        let key = self.decoded_key(call)?;
        Query::parse(call.request.query.as_deref(), &[])?;
        Ok(key)
    }

    fn decoded_key(&self, call: &Call) -> Result<Vec<u8>, ErrorBody> {
        params::decode_key(call.parameter(), self.shared.limits().max_key_bytes)
    }

    pub(super) fn add_to_key(&self, call: Call, reply: Reply) {
        #[cfg(feature = "next-protocol")]
        if call.request.query.is_none() {
            return self.write(self.key(&call).map(|key| Op::Touch { key }), &call, reply);
        }
        let op = self.decoded_key(&call).and_then(|key| writes::parse_add(key, &call.request));
        self.write(op, &call, reply);
    }

    pub(super) fn delete_range(&self, call: Call, reply: Reply) {
        let parsed = writes::parse_delete_range(&call.request);
        let parsed = parsed
            .and_then(|parsed| Ok((parsed, params::idempotency_key(&call.request)?.map(str::to_owned))));
        match parsed {
            Ok(((range, true), key)) => {
                let txn = prev::delete_range(range);
                let command = writes::command(Op::Txn { txn }, None, key.as_deref());
                self.propose_to(Ok(command), &call, reply, |result| {
                    written_by(result, |outcome| prev::decided(outcome, true))
                });
            }
            Ok(((range, false), key)) => {
                let command = writes::command(Op::DeleteRange { range }, None, key.as_deref());
                self.propose(Ok(command), &call, reply);
            }
            Err(error) => self.send_error(reply, error, &call),
        }
    }

    /// A transaction that can write nothing is a read: it makes no entry of the log.
    pub(super) fn txn(&self, mut call: Call, reply: Reply) {
        let parsed = txn::parse(&call.request, self.shared.limits());
        call.request.body = Vec::new();
        match parsed {
            Err(error) => self.send_error(reply, error, &call),
            Ok(Parsed { txn, idempotency_key, .. }) if txn.can_write() => {
                let command = writes::command(Op::Txn { txn }, None, idempotency_key.as_deref());
                self.propose(Ok(command), &call, reply);
            }
            Ok(Parsed { txn, states, .. }) => {
                call.is_read = true;
                let scans = self.scans.clone();
                self.when_fresh(states, &call, reply, move |node, deadline, reply| {
                    let look = Look::Other(Box::new(move |node: &Node| txn::serve(txn, node)));
                    scans.ask(Scan { look, node }, deadline, reply);
                });
            }
        }
    }

    fn write(&self, op: Result<Op, ErrorBody>, call: &Call, reply: Reply) {
        self.propose(op.and_then(|op| command(op, &call.request)), call, reply);
    }

    pub(super) fn propose(&self, command: Result<Command, ErrorBody>, call: &Call, reply: Reply) {
        self.propose_to(command, call, reply, written);
    }

    /// The answer is made by `render`, outside of all locks.
    fn propose_to(
        &self,
        command: Result<Command, ErrorBody>,
        call: &Call,
        mut reply: Reply,
        render: fn(WriteResult) -> Response,
    ) {
        let ready = command.and_then(|command| {
            let node = self.node()?;
            park(call, &mut reply)?;
            Ok((command, node))
        });
        let (command, node) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.send_error(reply, error, call),
        };
        let deadline = self.deadline();
        let shared = self.shared.clone();
        let done = move |result: WriteResult| reply.send(move || shared.decorate(render(result)));
        node.write(command, deadline, Origin::Client, Box::new(done));
    }

    // ---- the node and its cluster --------------------------------------------------------------------------------------

    pub(super) fn get_cluster(&self, call: Call, reply: Reply) {
        let shared = self.shared.clone();
        self.page(&call, reply, move || {
            let node = shared.node();
            let reply = ClusterReply {
                cluster_id: node.map(|node| node.cluster_id().to_string()),
                term: node.map_or(0, |node| node.term()),
                leader: shared.leader(),
                members: shared.members(),
            };
            Response::json(200, &reply)
        });
    }

    pub(super) fn get_members(&self, call: Call, reply: Reply) {
        let shared = self.shared.clone();
        self.page(&call, reply, move || Response::json(200, &MembersReply { members: shared.members() }));
    }

    pub(super) fn get_status(&self, call: Call, reply: Reply) {
        let shared = self.shared.clone();
        self.page(&call, reply, move || Response::json(200, &shared.status()));
    }

    pub(super) fn get_metrics(&self, call: Call, reply: Reply) {
        let (shared, calls) = (self.shared.clone(), self.calls.clone());
        let format = metrics::Format::wanted(&call.request);
        self.page(&call, reply, move || metrics::page(&shared, &calls, format));
    }

    pub(super) fn get_health(&self, call: Call, reply: Reply) {
        self.page(&call, reply, || Response::new(200, TEXT, b"ok\n".to_vec()));
    }

    pub(super) fn get_readiness(&self, call: Call, reply: Reply) {
        let shared = self.shared.clone();
        self.page(&call, reply, move || match shared.not_ready() {
            None => Response::new(200, TEXT, b"ready\n".to_vec()),
            Some(why) => Response::error(&ErrorBody::new(ErrorCode::Unavailable, why)),
        });
    }

    /// One representation, without parameters.
    fn page(&self, call: &Call, reply: Reply, make: impl FnOnce() -> Response + Send + 'static) {
        match Query::parse(call.request.query.as_deref(), &[]) {
            Err(error) => self.send_error(reply, error, call),
            Ok(_) => {
                let shared = self.shared.clone();
                reply.send(move || shared.decorate(make()));
            }
        }
    }

    pub(super) fn set_log_level(&self, call: Call, reply: Reply) {
        match log_level::set(&call.request) {
            Err(error) => self.send_error(reply, error, &call),
            Ok(response) => {
                let shared = self.shared.clone();
                reply.send(move || shared.decorate(response));
            }
        }
    }

    // ---- for operators -------------------------------------------------------------------------------------------------

    pub(super) fn add_member(&self, call: Call, reply: Reply) {
        self.operate(members::parse_add(&call.request), &call, reply);
    }

    pub(super) fn remove_member(&self, call: Call, reply: Reply) {
        self.operate(members::parse_remove(call.parameter(), &call.request), &call, reply);
    }

    pub(super) fn promote_member(&self, call: Call, reply: Reply) {
        self.operate(members::parse_promote(call.parameter(), &call.request), &call, reply);
    }

    pub(super) fn transfer(&self, call: Call, reply: Reply) {
        self.operate(members::parse_transfer(&call.request), &call, reply);
    }

    fn operate(&self, parsed: Result<OperatorRequest, ErrorBody>, call: &Call, mut reply: Reply) {
        match self.ready(parsed, call, &mut reply) {
            Ok((request, _)) => self.operator.ask(request, self.deadline(), reply),
            Err(error) => self.send_error(reply, error, call),
        }
    }

    pub(super) fn list_snapshots(&self, call: Call, reply: Reply) {
        self.ask_about_snapshots(snapshots::parse_list(&call.request), &call, reply);
    }

    pub(super) fn get_snapshot(&self, call: Call, reply: Reply) {
        self.ask_about_snapshots(snapshots::parse_piece(call.parameter(), &call.request), &call, reply);
    }

    fn ask_about_snapshots(&self, parsed: Result<Asked, ErrorBody>, call: &Call, mut reply: Reply) {
        match self.ready(parsed, call, &mut reply) {
            Ok((asked, _)) => self.snapshots.ask(asked, self.deadline(), reply),
            Err(error) => self.send_error(reply, error, call),
        }
    }

    pub(super) fn make_snapshot(&self, call: Call, mut reply: Reply) {
        match self.ready(snapshots::parse_make(&call.request), &call, &mut reply) {
            Ok((min_index, node)) => {
                let (jobs, deadline) = (self.snapshots.clone(), self.deadline());
                let done = Box::new(move |made: BackupResult| jobs.ask(Asked::Made(made), deadline, reply));
                match min_index {
                    Some(index) => node.backup_through(index, deadline, done),
                    None => node.backup(deadline, done),
                }
            }
            Err(error) => self.send_error(reply, error, &call),
        }
    }

    // ---- what they have in common ----------------------------------------------------------------------------------------

    pub(super) fn node(&self) -> Result<&Arc<Node>, ErrorBody> {
        self.shared.node().ok_or_else(|| self.shared.uninitialized_error())
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.request_timeout()
    }

    /// A request that is well formed gets the node and a place among those that wait.
    fn ready<T>(
        &self,
        parsed: Result<T, ErrorBody>,
        call: &Call,
        reply: &mut Reply,
    ) -> Result<(T, &Arc<Node>), ErrorBody> {
        let parsed = parsed?;
        let node = self.node()?;
        park(call, reply)?;
        Ok((parsed, node))
    }

    pub(super) fn send_error(&self, reply: Reply, error: ErrorBody, call: &Call) {
        let error = if call.is_read { error.with_outcome(ErrorOutcome::NotDone) } else { error };
        let shared = self.shared.clone();
        reply.send(move || shared.decorate(Response::error(&error)));
    }
}

fn command(op: Op, request: &Request) -> Result<Command, ErrorBody> {
    let condition = params::condition(request)?;
    Ok(writes::command(op, condition, params::idempotency_key(request)?))
}

/// Takes one of the places for requests that wait for consensus.
pub(super) fn park(call: &Call, reply: &mut Reply) -> Result<(), ErrorBody> {
    assert!(call.may_wait, "the list of operations says that {} never waits", call.request.path);
    if reply.start_waiting() {
        return Ok(());
    }
    let text = "too many requests wait for consensus already: try again";
    Err(ErrorBody::new(ErrorCode::Overloaded, text))
}

/// The answer to a write.
pub(super) fn written(result: WriteResult) -> Response {
    written_by(result, decided)
}

fn written_by(result: WriteResult, decided: fn(&Outcome) -> Result<Done, ErrorBody>) -> Response {
    let Applied { index, outcome, replayed } = match result {
        Ok(applied) => applied,
        Err(failure) => return Response::error(&failed(&failure)),
    };
    let mut response = match decided(&outcome) {
        Ok(Done::Put(reply)) => Response::json(200, &reply),
        Ok(Done::Deleted(reply)) => Response::json(200, &reply),
        Ok(Done::Added(reply)) => Response::json(200, &reply),
        Ok(Done::Txn(reply)) => Response::json(200, &reply),
        Ok(Done::Lease(reply)) => Response::json(200, &reply),
        Ok(Done::Revoked(reply)) => Response::json(200, &reply),
        Ok(Done::Compacted(reply)) => Response::json(200, &reply),
        Ok(Done::Prev(reply)) => Response::json(200, &reply),
        Err(refused) => Response::error(&refused),
    };
    response = response.with_header(api::INDEX_HEADER, index.to_string());
    if replayed {
        response = response.with_header(api::REPLAYED_HEADER, "true");
    }
    response
}
