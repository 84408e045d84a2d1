//! Tells the changes, on the connection's own thread: it reads what there is, sends it, and waits.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::states::unreadable;
use super::super::txn_answer::record;
use super::{Form, Wanted};
use crate::api::{self, ErrorBody, ErrorCode, ErrorOutcome, PutChange, WatchChange, WatchReply};
use crate::node::{Cursor, Most, Node, RevisionSeen, Seen};
use crate::server::edge::{Answering, Response};
use crate::server::shared::Shared;
use crate::store::{Kv, ReadError};
use crate::vocabulary::Row;

/// A stream on which nothing was told for so long says how far it is. This and the next time vary, so that the threads of
/// many clients that came together do not wake together.
const PROGRESS: Range<Duration> = Duration::from_secs(8)..Duration::from_secs(10);

/// How often a thread that waits looks whether its client is gone.
const CLIENT_LOOK: Range<Duration> = Duration::from_secs(3)..Duration::from_secs(6);

/// Bytes of keys and values of one event; what is larger is told in parts.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// Rows of the index of changes that one look goes through.
const LOOK_ROWS: usize = 10_000;

/// Answers a watch. Whether a whole answer was sent, after which the connection may go on.
pub(super) fn serve(shared: &Shared, node: &Node, wanted: Wanted, answering: &mut Answering) -> bool {
    if shared.is_stopping() {
        let error =
            ErrorBody::new(ErrorCode::Unavailable, "this node is shutting down: go on at another one");
        return answering.respond(&refusal(shared, error));
    }
    let (form, limit) = (wanted.form, wanted.limit);
    let deadline = Instant::now() + Duration::from_secs(wanted.wait_s);
    let (watches, names) = node.with_kv(|kv| wanted.into_watches(kv));
    let most = shared.limits().max_watches;
    let Some(cursor) = node.watch(watches, most) else {
        let text = format!("this node serves {most} watches already (limits.max_watches): try another one");
        return answering.respond(&refusal(shared, ErrorBody::new(ErrorCode::Overloaded, text)));
    };
    let revision = node.with_kv(Kv::revision);
    let mut teller = Teller { shared, node, cursor, names, revision, answering };
    match form {
        Form::Poll => teller.poll(limit, deadline),
        Form::Events | Form::Lines => {
            teller.stream(form);
            false
        }
    }
}

struct Teller<'a> {
    shared: &'a Shared,
    node: &'a Node,
    cursor: Cursor,
    names: Vec<Option<String>>,
    /// The revision of the store when it was looked at last.
    revision: u64,
    answering: &'a mut Answering,
}

impl Teller<'_> {
    fn poll(&mut self, limit: usize, deadline: Instant) -> bool {
        let most = Most { changes: limit, bytes: api::MAX_LIST_BYTES, rows: LOOK_ROWS };
        let mut changes = Vec::new();
        while changes.is_empty() {
            if self.cursor.is_behind() {
                match self.read(most) {
                    Ok(seen) => changes.extend(seen.into_iter().flat_map(|seen| self.told(seen.changes))),
                    Err(error) => return self.answering.respond(&refusal(self.shared, unreadable(error))),
                }
            } else if self.cursor.is_stopping() || Instant::now() >= deadline {
                break;
            } else if self.answering.is_gone() {
                return false;
            } else {
                self.cursor.wait(deadline.min(soon(&CLIENT_LOOK)));
            }
        }
        if changes.is_empty() {
            self.revision = self.node.with_kv(Kv::revision);
        }
        let reply = self.reply(Some(self.cursor.next()), changes);
        let revision = reply.revision.to_string();
        let response = Response::json(200, &reply).with_header(api::REVISION_HEADER, revision);
        self.answering.respond(&self.shared.decorate(response))
    }

    fn stream(&mut self, form: Form) {
        let most = Most { changes: usize::MAX, bytes: MAX_EVENT_BYTES, rows: LOOK_ROWS };
        let kind = if form == Form::Events { "text/event-stream" } else { "application/x-ndjson" };
        // What is stored on the way would be told late.
        let head = Response::new(200, kind, Vec::new()).with_header("Cache-Control", "no-store");
        let mut progress_at = soon(&PROGRESS);
        let mut is_there = self.answering.begin(&self.shared.decorate(head)) && self.progress(form);
        while is_there {
            if self.cursor.is_behind() {
                let seen = match self.read(most) {
                    Ok(seen) => seen,
                    Err(error) => {
                        self.answering.part(&event(
                            form,
                            None,
                            &unreadable(error).with_outcome(ErrorOutcome::NotDone),
                        ));
                        return self.answering.end();
                    }
                };
                if !seen.is_empty() {
                    is_there = seen.into_iter().all(|seen| self.tell(form, seen));
                    progress_at = soon(&PROGRESS);
                }
            } else if self.cursor.is_stopping() {
                self.progress(form);
                return self.answering.end();
            } else if Instant::now() >= progress_at {
                is_there = self.progress(form);
                progress_at = soon(&PROGRESS);
            } else if self.answering.is_gone() {
                return;
            } else {
                self.cursor.wait(progress_at.min(soon(&CLIENT_LOOK)));
            }
        }
    }

    fn read(&mut self, most: Most) -> Result<Vec<RevisionSeen>, ReadError> {
        self.node.with_kv(|kv| {
            self.revision = kv.revision();
            self.cursor.read(kv, most)
        })
    }

    /// Says that everything before this position was told.
    fn progress(&mut self, form: Form) -> bool {
        self.revision = self.node.with_kv(Kv::revision);
        // The position of one that lags does not move.
        self.cursor.is_behind();
        let reply = self.reply(Some(self.cursor.next()), Vec::new());
        self.answering.part(&event(form, reply.next, &reply))
    }

    /// Tells the changes of one revision. Only the last part of it says where to go on, so a client that loses its
    /// connection between two parts gets the revision whole again.
    fn tell(&mut self, form: Form, seen: RevisionSeen) -> bool {
        let RevisionSeen { revision, changes } = seen;
        let mut parts: Vec<Vec<Seen>> = vec![Vec::new()];
        let mut bytes = 0;
        for change in changes {
            let size = change.size();
            if bytes > 0 && bytes + size > MAX_EVENT_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            parts.last_mut().expect("there is one").push(change);
        }
        let last = parts.len() - 1;
        parts.into_iter().enumerate().all(|(at, part)| {
            let next = (at == last).then_some(revision + 1);
            let reply = self.reply(next, self.told(part).collect());
            self.answering.part(&event(form, next, &reply))
        })
    }

    fn reply(&self, next: Option<u64>, changes: Vec<WatchChange>) -> WatchReply {
        WatchReply { revision: self.revision, next, changes }
    }

    fn told(&self, changes: Vec<Seen>) -> impl Iterator<Item = WatchChange> {
        changes.into_iter().map(|Seen { watch, row, prev }| {
            let Row { key, value, create_revision, mod_revision: revision, version, lease } = row;
            WatchChange {
                id: self.names[watch].clone(),
                revision,
                key,
                put: value.map(|value| PutChange { value, create_revision, version, lease }),
                prev: prev.map(|prev| prev.as_ref().map(record)),
            }
        })
    }
}

/// A moment in that time from now.
fn soon(time: &Range<Duration>) -> Instant {
    Instant::now() + time.start + (time.end - time.start).mul_f64(fastrand::f64())
}

fn refusal(shared: &Shared, error: ErrorBody) -> Response {
    shared.decorate(Response::error(&error.with_outcome(ErrorOutcome::NotDone)))
}

/// An event as it is sent. Its JSON has no line end in it.
fn event(form: Form, id: Option<u64>, body: &impl serde::Serialize) -> Vec<u8> {
    let json = serde_json::to_string(body).expect("what is told is JSON");
    match (form, id) {
        (Form::Events, Some(id)) => format!("id: {id}\ndata: {json}\n\n").into_bytes(),
        (Form::Events, None) => format!("data: {json}\n\n").into_bytes(),
        (Form::Poll | Form::Lines, _) => format!("{json}\n").into_bytes(),
    }
}
