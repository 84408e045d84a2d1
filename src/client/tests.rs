//! The client against nodes that do exactly what a test tells them.

use super::*;
use crate::api::{INDEX_HEADER, SNAPSHOT_CRC_HEADER, SnapshotReply};

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// What a fake node does with one request.
enum Step {
    /// Answers with this status, these header lines (each ended by CRLF) and this body.
    Answer(u16, String, String),
    /// Reads the request and closes the connection.
    Drop,
    /// Sends these bytes as they are, and closes.
    Raw(&'static str),
    /// Answers with this error after a while.
    Late(Duration, ErrorCode),
    /// Never answers.
    Hang,
}

fn answer(status: u16, body: &str) -> Step {
    Step::Answer(status, String::new(), body.to_owned())
}

fn error(code: ErrorCode) -> Step {
    answer(code.status(), &serde_json::to_string(&ErrorBody::new(code, "as told")).unwrap())
}

fn done() -> Step {
    answer(200, r#"{"revision":3,"create_revision":2,"version":2}"#)
}

/// The cluster of the fake nodes, where a test says nothing else, and another one.
const OURS: &str = "00000000000000aa";
const OTHER: &str = "00000000000000bb";

/// A node that takes one connection per step. It stops listening as soon as it has the last one, before it answers:
/// whatever its client tries afterwards is refused, never accepted by the kernel and reset. The question for its cluster,
/// which goes before a write, it answers in between, and does not count it.
struct Fake {
    addr: String,
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    fn start(steps: Vec<Step>) -> Fake {
        Fake::of(Some(OURS), steps)
    }

    /// Of this cluster, which it names in every answer; of none, with None.
    fn of(cluster: Option<&'static str>, steps: Vec<Step>) -> Fake {
        let named = cluster.map(|id| format!("Dkv-Cluster: {id}\r\n")).unwrap_or_default();
        Fake::on(TcpListener::bind("127.0.71.1:0").unwrap(), named, steps)
    }

    fn on(listener: TcpListener, named: String, steps: Vec<Step>) -> Fake {
        let addr = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (seen.clone(), stop.clone());
        let mut listener = (!steps.is_empty()).then_some(listener);
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            let last = steps.len().saturating_sub(1);
            for (n, step) in steps.into_iter().enumerate() {
                let (mut stream, request) = loop {
                    let (mut stream, _) = listener.as_ref().unwrap().accept().unwrap();
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let request = read_request(&mut stream);
                    if !request.starts_with("GET /readyz ") {
                        break (stream, request);
                    }
                    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n";
                    write!(stream, "{head}{named}\r\n").unwrap();
                };
                if n == last {
                    listener = None;
                }
                log.lock().unwrap().push(request);
                let step = match step {
                    Step::Late(after, code) => {
                        std::thread::sleep(after);
                        error(code)
                    }
                    step => step,
                };
                match step {
                    Step::Late(..) => unreachable!("it is an answer by now"),
                    Step::Drop => {}
                    Step::Hang => held.push(stream),
                    Step::Raw(bytes) => stream.write_all(bytes.as_bytes()).unwrap(),
                    Step::Answer(status, headers, body) => {
                        let length = body.len();
                        // A test that says another cluster in one answer means that one.
                        let named = if headers.contains("Dkv-Cluster") { "" } else { &named };
                        let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}{named}");
                        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
                    }
                }
            }
            while !held.is_empty() && !stopped.load(Ordering::SeqCst) {
                std::thread::park_timeout(Duration::from_secs(30));
            }
        });
        Fake { addr, seen, stop, thread: Some(thread) }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes an accept; refused when the node has stopped listening.
        let _ = TcpStream::connect(&self.addr);
        let thread = self.thread.take().unwrap();
        thread.thread().unpark();
        let ended = thread.join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |l| l.lines().next().unwrap().parse::<usize>().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "the client closed within a request: {text}");
        bytes.extend_from_slice(&chunk[..read]);
    }
}

fn client_of(nodes: &[&Fake]) -> Client {
    let addrs: Vec<&str> = nodes.iter().map(|n| n.addr.as_str()).collect();
    Client::new(&addrs, Duration::from_secs(30)).unwrap()
}

/// A client whose calls end soon when nobody serves them.
fn hasty_client_of(nodes: &[&Fake]) -> Client {
    Client { timeout: Duration::from_millis(700), ..client_of(nodes) }
}

fn put(client: &Client) -> Result<Written<PutReply>, ClientError> {
    client.put(b"k", b"v", &WriteOptions::default())
}

fn key_of(request: &str) -> String {
    let lower = request.to_ascii_lowercase();
    lower.split("idempotency-key: ").nth(1).unwrap().lines().next().unwrap().to_owned()
}

fn assert_unknown(result: Result<Written<PutReply>, ClientError>) {
    match result {
        Err(e @ ClientError::Unknown { .. }) => assert_eq!(e.outcome(), ErrorOutcome::Unknown),
        other => panic!("not unknown: {other:?}"),
    }
}

#[test]
fn put_sends_the_escaped_key_the_condition_and_the_value() {
    let node = Fake::start(vec![Step::Answer(
        200,
        "Dkv-Index: 9\r\n".to_owned(),
        r#"{"revision":3,"create_revision":2,"version":2}"#.to_owned(),
    )]);
    let options = WriteOptions {
        condition: Some(Condition::ModRevision(7)),
        idempotency_key: Some("my-key".to_owned()),
    };
    let written = client_of(&[&node]).put(b"a/b +%?\xff", b"value", &options).unwrap();
    assert_eq!(written.reply, PutReply { revision: 3, create_revision: 2, version: 2 });
    assert_eq!(
        (written.index, written.replayed, written.idempotency_key.as_str()),
        (Some(9), false, "my-key")
    );
    let request = &node.seen()[0];
    assert!(request.starts_with("PUT /v1/kv/a/b%20%2B%25%3F%FF HTTP/1.1\r\n"), "{request}");
    let lower = request.to_ascii_lowercase();
    let meant_for = format!("dkv-cluster: {OURS}");
    for line in ["if-match: \"7\"", "idempotency-key: my-key", "content-length: 5", &meant_for] {
        assert!(lower.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {request}");
    }
    assert!(!lower.contains("user-agent") && !lower.contains("accept"), "{request}");
    assert!(request.ends_with("\r\n\r\nvalue"), "{request}");
}

#[test]
fn put_of_an_empty_value_says_its_length() {
    let node = Fake::start(vec![done()]);
    client_of(&[&node]).put(b"k", b"", &WriteOptions::default()).unwrap();
    assert!(node.seen()[0].to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n"), "{}", node.seen()[0]);
}

#[test]
fn delete_sends_no_body() {
    let node = Fake::start(vec![answer(200, r#"{"revision":3,"deleted":0}"#)]);
    let options = WriteOptions { condition: Some(Condition::Absent), idempotency_key: None };
    let written = client_of(&[&node]).delete(b"k", &options).unwrap();
    assert_eq!(written.reply, DeleteReply { revision: 3, deleted: 0 });
    let request = &node.seen()[0];
    assert!(
        request.starts_with("DELETE /v1/kv/k HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"),
        "{request}"
    );
    assert!(request.to_ascii_lowercase().contains("\r\nif-none-match: *\r\n"), "{request}");
    assert_eq!(key_of(request).len(), 32);
}

#[test]
fn put_refused_connection_is_not_done() {
    let node = Fake::start(vec![]);
    let error = put(&hasty_client_of(&[&node])).unwrap_err();
    assert!(matches!(&error, ClientError::Unavailable(text) if text.contains("refused")), "{error}");
    assert_eq!(error.outcome(), ErrorOutcome::NotDone);
}

#[test]
fn put_dropped_connection_is_repeated_under_the_same_key() {
    let replayed = Step::Answer(
        200,
        "Dkv-Replayed: true\r\n".to_owned(),
        r#"{"revision":3,"create_revision":2,"version":2}"#.to_owned(),
    );
    let node = Fake::start(vec![Step::Drop, replayed]);
    let written = put(&client_of(&[&node])).unwrap();
    assert!(written.replayed);
    // Between the two the client may have asked for the members.
    let puts: Vec<String> = node.seen().into_iter().filter(|r| r.starts_with("PUT")).collect();
    assert_eq!(puts.len(), 2);
    assert_eq!(puts[0], puts[1]);
    assert_eq!(key_of(&puts[0]), written.idempotency_key);
}

#[test]
fn put_that_broke_late_stays_unknown() {
    let cases = [
        Step::Drop,
        Step::Raw("HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n{\"revision\":3,"),
        Step::Raw("HTTP/1.1 20"),
        Step::Raw("SSH-2.0-OpenSSH\r\n"),
        answer(200, "<html>hello</html>"),
        answer(502, "bad gateway"),
        answer(404, "not here"),
        answer(302, ""),
        error(ErrorCode::OutcomeUnknown),
        error(ErrorCode::Internal),
        Step::Hang,
    ];
    for step in cases {
        let node = Fake::start(vec![step]);
        assert_unknown(put(&hasty_client_of(&[&node])));
        assert_eq!(node.seen().len(), 1);
    }
}

#[test]
fn put_unknown_is_not_resolved_by_a_later_refusal() {
    let codes = [
        ErrorCode::Unavailable,
        ErrorCode::Overloaded,
        ErrorCode::InvalidRequest,
        ErrorCode::TooLarge,
        ErrorCode::IdempotencyMismatch,
        ErrorCode::NotFound,
    ];
    for code in codes {
        let first = Fake::start(vec![error(ErrorCode::OutcomeUnknown)]);
        let second = Fake::start(vec![error(code)]);
        assert_unknown(put(&hasty_client_of(&[&first, &second])));
        assert_eq!(second.seen().len(), 1, "{code}");
    }
}

/// A conflict without a revision (a node of another cluster) is decided before a look at the store.
#[test]
fn a_counters_conflict_decides_an_attempt_in_doubt() {
    let add = |second: Step| {
        let first = Fake::start(vec![error(ErrorCode::OutcomeUnknown)]);
        let second = Fake::start(vec![second]);
        hasty_client_of(&[&first, &second]).add(b"n", 1, &WriteOptions::default())
    };
    let body = ErrorBody::new(ErrorCode::Conflict, "as told").with_key(7, 2);
    match add(answer(409, &serde_json::to_string(&body).unwrap())) {
        Err(ClientError::Refused(detail)) => assert_eq!(detail.mod_revision, Some(7)),
        other => panic!("the outcome was remembered: {other:?}"),
    }
    match add(error(ErrorCode::Conflict)) {
        Err(ClientError::Unknown { .. }) => {}
        other => panic!("this says nothing of the first attempt: {other:?}"),
    }
}

#[test]
fn put_unknown_is_resolved_by_the_remembered_refusal() {
    let first = Fake::start(vec![error(ErrorCode::OutcomeUnknown)]);
    let second = Fake::start(vec![error(ErrorCode::PreconditionFailed)]);
    match put(&client_of(&[&first, &second])) {
        Err(ClientError::Refused(detail)) => assert_eq!(detail.code, ErrorCode::PreconditionFailed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn put_refused_for_good_is_not_repeated() {
    let node = Fake::start(vec![error(ErrorCode::TooLarge), done()]);
    let error = put(&client_of(&[&node])).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(detail) if detail.code == ErrorCode::TooLarge), "{error}");
    assert_eq!(error.outcome(), ErrorOutcome::NotDone);
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn put_without_a_leader_is_repeated_until_there_is_one() {
    let mut steps = vec![error(ErrorCode::Unavailable)];
    steps.push(answer(404, "")); // the question for the members
    steps.extend([error(ErrorCode::Unavailable), done()]);
    let node = Fake::start(steps);
    put(&client_of(&[&node])).unwrap();
    assert_eq!(node.seen().len(), 4);
}

#[test]
fn put_goes_to_the_leader_an_answer_names_and_stays_there() {
    let leader = Fake::start(vec![done(), done()]);
    let follower = Fake::start(vec![
        Step::Answer(
            503,
            format!("Dkv-Leader: {}\r\n", leader.addr),
            serde_json::to_string(&ErrorBody::new(ErrorCode::Unavailable, "no")).unwrap(),
        ),
        answer(500, ""),
    ]);
    let client = client_of(&[&follower]);
    put(&client).unwrap();
    put(&client).unwrap();
    assert_eq!(leader.seen().len(), 2);
    assert_eq!(client.endpoints(), [leader.addr.clone(), follower.addr.clone()]);
}

#[test]
fn put_ignores_a_leader_header_that_is_no_address() {
    let headers = "Dkv-Leader: evil/path?x=127.0.0.1:80\r\n".to_owned();
    let node = Fake::start(vec![Step::Answer(
        200,
        headers,
        r#"{"revision":1,"create_revision":1,"version":1}"#.to_owned(),
    )]);
    let client = client_of(&[&node]);
    put(&client).unwrap();
    assert_eq!(client.endpoints(), [node.addr.as_str()]);
}

#[test]
fn put_learns_the_other_members_from_a_node_that_cannot_serve() {
    let other = Fake::start(vec![done()]);
    let members = format!(
        r#"{{"cluster_id":null,"term":1,"leader":null,"members":[{{"node_id":"b","member_id":null,"raft_addr":"h:1","http_addr":"{}","voter":true}}]}}"#,
        other.addr
    );
    let node = Fake::start(vec![error(ErrorCode::Unavailable), answer(200, &members)]);
    put(&client_of(&[&node])).unwrap();
    assert_eq!(other.seen().len(), 1);
    assert!(node.seen()[1].starts_with("GET /v1/cluster "));
}

#[test]
fn put_to_a_node_that_hangs_leaves_time_for_another() {
    let hanging = Fake::start(vec![Step::Hang]);
    let good = Fake::start(vec![done()]);
    let client = Client { timeout: Duration::from_secs(3), ..client_of(&[&hanging, &good]) };
    put(&client).unwrap();
    assert_eq!(key_of(&hanging.seen()[0]), key_of(&good.seen()[0]));
}

#[test]
fn get_takes_value_and_revisions_from_body_and_headers() {
    let headers = "ETag: \"7\"\r\nDkv-Create-Revision: 5\r\nDkv-Version: 2\r\nDkv-Lease: 000000000000002a\r\nDkv-Revision: 9\r\n".to_owned();
    let node = Fake::start(vec![Step::Answer(200, headers, "value".to_owned())]);
    let options = ReadOptions { stale: true, revision: Some(8), min_revision: None };
    let record = client_of(&[&node]).get(b"k", &options).unwrap().unwrap();
    let expected = Record {
        key: b"k".to_vec(),
        value: b"value".to_vec(),
        create_revision: 5,
        mod_revision: 7,
        version: 2,
        lease: "2a".parse().ok(),
    };
    assert_eq!(record, expected);
    let request = &node.seen()[0];
    assert!(request.starts_with("GET /v1/kv/k?consistency=stale&revision=8 HTTP/1.1"), "{request}");
}

#[test]
fn get_tells_an_absent_key_from_an_unknown_route() {
    let node = Fake::start(vec![error(ErrorCode::NotFound), error(ErrorCode::UnknownRoute)]);
    let client = client_of(&[&node]);
    assert_eq!(client.get(b"k", &ReadOptions::default()), Ok(None));
    let error = client.get(b"k", &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(d) if d.code == ErrorCode::UnknownRoute), "{error}");
}

#[test]
fn list_escapes_its_bounds_and_names_only_what_is_set() {
    let page = r#"{"revision":7,"count":1,"kvs":[{"key":"a","create_revision":1,"mod_revision":1,"version":1}],"cursor":"A-_"}"#;
    let node = Fake::start(vec![answer(200, page), answer(200, r#"{"revision":7,"count":9,"kvs":[]}"#)]);
    let client = client_of(&[&node]);
    let options = ListOptions {
        prefix: b"a/\xff&".to_vec(),
        end: b"b".to_vec(),
        limit: Some(5),
        descending: true,
        keys_only: true,
        cursor: Some("B-_".to_owned()),
        read: ReadOptions { stale: true, ..ReadOptions::default() },
        ..ListOptions::default()
    };
    let reply = client.list(&options).unwrap();
    assert_eq!((reply.revision, reply.count, reply.cursor.as_deref()), (7, 1, Some("A-_")));
    assert_eq!((&reply.kvs[0].key[..], &reply.kvs[0].value), (&b"a"[..], &None));
    let counted = client.list(&ListOptions { count_only: true, ..ListOptions::default() }).unwrap();
    assert_eq!((counted.count, counted.cursor), (9, None));
    let seen = node.seen();
    let line = "GET /v1/kv?consistency=stale&prefix=a%2F%FF%26&end=b&limit=5&order=desc&keys_only=true&cursor=B%2D%5F ";
    assert!(seen[0].starts_with(line), "{}", seen[0]);
    assert!(seen[1].starts_with("GET /v1/kv?count_only=true "), "{}", seen[1]);
}

#[test]
fn get_that_broke_is_repeated_and_never_unknown() {
    let node = Fake::start(vec![Step::Drop, error(ErrorCode::Internal), answer(404, "")]);
    let error = hasty_client_of(&[&node]).get(b"k", &ReadOptions::default()).unwrap_err();
    assert_eq!(error.outcome(), ErrorOutcome::NotDone);
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(node.seen().len(), 3);
}

fn snapshot() -> SnapshotReply {
    SnapshotReply {
        name: "0000000000000007-0000000000000001.snapshot".to_owned(),
        index: 7,
        term: 1,
        cluster_id: OURS.to_owned(),
        revision: 3,
        keys: 1,
        bytes: 5,
        crc32c: "0000abcd".to_owned(),
        state_hash: "00".to_owned(),
    }
}

/// A great state takes longer to write than a request may take: the next node was asked then, and wrote its own as well, and
/// the time for which nothing may come was over.
#[test]
fn save_snapshot_waits_for_a_node_that_is_still_making_it() {
    let made = snapshot();
    let listed = Step::Answer(200, format!("{INDEX_HEADER}: 7\r\n"), "{}".to_owned());
    let piece = Step::Answer(200, format!("{SNAPSHOT_CRC_HEADER}: 0000abcd\r\n"), "state".to_owned());
    let made = answer(200, &serde_json::to_string(&made).unwrap());
    let steps = vec![listed, error(ErrorCode::Timeout), error(ErrorCode::Timeout), made, piece];
    let (node, other) = (Fake::start(steps), Fake::start(vec![done()]));
    let file = tempfile::tempfile().unwrap();
    client_of(&[&node, &other]).save_snapshot(&mut &file, |_, _| ()).unwrap();
    let mut bytes = [0; 5];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"state");
    let posts = node.seen().iter().filter(|r| r.starts_with("POST /v1/snapshots?min_index=7 ")).count();
    assert_eq!((posts, other.seen().len()), (3, 0), "{:?}", node.seen());
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let node = Fake::start(vec![done()]);
    let client = client_of(&[&node]);
    let keyed = |key: &str| WriteOptions { condition: None, idempotency_key: Some(key.to_owned()) };
    for error in [
        client.put(b"", b"v", &WriteOptions::default()).unwrap_err(),
        client.put(&[b'x'; 9000], b"v", &WriteOptions::default()).unwrap_err(),
        client.put(b"k", b"v", &keyed("a b")).unwrap_err(),
        client.put(b"k", b"v", &keyed("")).unwrap_err(),
    ] {
        assert!(matches!(error, ClientError::Invalid(_)), "{error}");
    }
    assert_eq!(node.seen().len(), 0);
}

#[test]
fn new_takes_endpoints_and_says_which_one_is_bad() {
    let client = Client::new(&["http://h:1/", " h:1 ", "[::1]:2"], Duration::from_secs(1)).unwrap();
    assert_eq!(client.endpoints(), ["h:1", "[::1]:2"]);
    for bad in ["", "h", "h:", "h:0", "h:99999", "https://h:1", "h:1/x", "a@h:1", "h h:1", "::1:2", "h:+1"] {
        let error = Client::new(&["good:1", bad], Duration::from_secs(1)).err().unwrap();
        assert!(error.to_string().contains(&format!("{:?}", bad.trim())), "{bad}: {error}");
    }
    assert!(Client::new::<&str>(&[], Duration::from_secs(1)).is_err());
}

/// A client that keeps what it says, and where it keeps it.
fn speaking(client: Client) -> (Client, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let into = said.clone();
    (client.with_notices(move |text| into.lock().unwrap().push(text.to_owned())), said)
}

fn unavailable_naming(leader: &str) -> Step {
    let body = serde_json::to_string(&ErrorBody::new(ErrorCode::Unavailable, "no leader")).unwrap();
    Step::Answer(503, format!("Dkv-Leader: {leader}\r\n"), body)
}

fn value() -> Step {
    let headers = "ETag: \"7\"\r\nDkv-Create-Revision: 5\r\nDkv-Version: 2\r\n".to_owned();
    Step::Answer(200, headers, "value".to_owned())
}

/// A foreign node had taken the address of a member that was gone: "no such key", and OK for a write into its store.
#[test]
fn a_learnt_address_of_another_cluster_is_passed_over() {
    for code in [200, 404] {
        let answered = if code == 200 { value() } else { error(ErrorCode::NotFound) };
        let foreign = Fake::of(Some(OTHER), vec![answered]);
        let member = Fake::start(vec![unavailable_naming(&foreign.addr)]);
        let (client, said) = speaking(hasty_client_of(&[&member]));
        let error = client.get(b"k", &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
        assert_eq!(foreign.seen().len(), 1);
        let text = format!("{} belongs to cluster {OTHER}, not to {OURS}: it is passed over", foreign.addr);
        assert_eq!(*said.lock().unwrap(), [text]);
    }
    let foreign = Fake::of(Some(OTHER), vec![done()]);
    let member = Fake::start(vec![unavailable_naming(&foreign.addr)]);
    let error = put(&hasty_client_of(&[&member])).unwrap_err();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(foreign.seen(), Vec::<String>::new(), "a write reached another cluster");
    // A change of the members is a write, too.
    let foreign = Fake::of(Some(OTHER), vec![answer(200, r#"{"index":3}"#)]);
    let member = Fake::start(vec![unavailable_naming(&foreign.addr)]);
    let client = hasty_client_of(&[&member]);
    let error = client.remove_member("b", Instant::now() + Duration::from_millis(700)).unwrap_err();
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(foreign.seen(), Vec::<String>::new(), "a change reached another cluster");
}

#[test]
fn an_answer_of_another_cluster_teaches_nothing() {
    let third = Fake::start(vec![done()]);
    let foreign = Fake::of(Some(OTHER), vec![unavailable_naming(&third.addr)]);
    let client = hasty_client_of(&[&foreign]).keep_to(OURS).unwrap();
    client.get(b"k", &ReadOptions::default()).unwrap_err();
    assert_eq!(client.known().in_order(), [foreign.addr.as_str()]);
    // Neither does one that names no cluster.
    let nameless = Fake::of(None, vec![unavailable_naming(&third.addr)]);
    let client = hasty_client_of(&[&nameless]);
    client.get(b"k", &ReadOptions::default()).unwrap_err();
    assert_eq!(client.cluster_id(), None);
    assert_eq!(client.known().in_order(), [nameless.addr.as_str()]);
}

#[test]
fn the_first_given_endpoint_that_answers_decides_and_both_clusters_are_named() {
    let gone = Fake::start(vec![]);
    let first = Fake::start(vec![value(), error(ErrorCode::Unavailable)]);
    let second = Fake::of(Some(OTHER), vec![value()]);
    let (client, said) = speaking(hasty_client_of(&[&gone, &first, &second]));
    client.get(b"k", &ReadOptions::default()).unwrap();
    assert_eq!(client.cluster_id().as_deref(), Some(OURS));
    assert!(second.seen().is_empty() && said.lock().unwrap().is_empty());
    client.get(b"k", &ReadOptions::default()).unwrap_err();
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    for words in ["several clusters", &first.addr, OURS, &second.addr, OTHER] {
        assert!(said[0].contains(words), "{words}: {said:?}");
    }
}

#[test]
fn compare_endpoints_names_both_clusters_and_decides_nothing() {
    // None of their steps is taken: only the question for the cluster is asked.
    let (first, second) = (Fake::start(vec![done()]), Fake::of(Some(OTHER), vec![done()]));
    let (client, said) = speaking(client_of(&[&first, &second]));
    client.compare_endpoints(Duration::from_secs(30));
    assert_eq!(client.cluster_id(), None);
    let expected = format!("{} to {OURS}, {} to {OTHER}", first.addr, second.addr);
    assert!(said.lock().unwrap()[0].contains(&expected), "{said:?}");
    // What is known to be foreign is none of the cluster's endpoints.
    let client = client.keep_to(OURS).unwrap();
    client.compare_endpoints(Duration::from_secs(30));
    assert_eq!(client.endpoints(), [first.addr.as_str()]);
    let third = Fake::start(vec![done()]);
    let (client, said) = speaking(client_of(&[&first, &third]));
    client.compare_endpoints(Duration::from_secs(30));
    assert!(said.lock().unwrap().is_empty(), "{said:?}");
}

#[test]
fn a_client_told_its_cluster_passes_over_what_it_was_given() {
    let given = Fake::of(Some(OTHER), vec![done()]);
    let member = Fake::start(vec![done()]);
    let (client, said) = speaking(client_of(&[&given, &member]).keep_to(OURS).unwrap());
    put(&client).unwrap();
    assert!(given.seen().is_empty(), "a write reached another cluster");
    assert_eq!(said.lock().unwrap().len(), 1, "{said:?}");
    for bad in ["", "aa", "00000000000000AA", "00000000000000ag"] {
        assert!(matches!(client_of(&[&member]).keep_to(bad), Err(ClientError::Invalid(_))), "{bad}");
    }
}

#[test]
fn a_write_is_not_sent_to_a_node_that_names_no_cluster() {
    let nameless = Fake::of(None, vec![done()]);
    let (client, said) = speaking(hasty_client_of(&[&nameless]));
    let error = put(&client).unwrap_err();
    assert!(matches!(&error, ClientError::Unavailable(text) if text.contains("names no cluster")), "{error}");
    assert!(nameless.seen().is_empty());
    assert!(said.lock().unwrap()[0].contains("names no cluster"), "{said:?}");
    // A read has no effect: a node that is not initialized may say so.
    let nameless = Fake::of(None, vec![value()]);
    assert!(client_of(&[&nameless]).get(b"k", &ReadOptions::default()).unwrap().is_some());
}

/// The node that was asked for its cluster is not always the one that gets the write.
#[test]
fn a_write_that_met_another_node_at_the_address_is_not_taken_for_done() {
    let body = r#"{"revision":3,"create_revision":2,"version":2}"#.to_owned();
    let taken_over = Step::Answer(200, format!("Dkv-Cluster: {OTHER}\r\n"), body.clone());
    let node = Fake::start(vec![taken_over]);
    let error = put(&hasty_client_of(&[&node])).unwrap_err();
    assert!(matches!(&error, ClientError::Unavailable(_)), "{error}");
    // Without a name it may be anybody.
    let node = Fake::start(vec![Step::Answer(200, "Dkv-Cluster: none\r\n".to_owned(), body)]);
    assert_unknown(put(&hasty_client_of(&[&node])));
}

#[test]
fn save_snapshot_passes_over_another_cluster() {
    let listed = || Step::Answer(200, format!("{INDEX_HEADER}: 7\r\n"), "{}".to_owned());
    let made = |cluster_id: &str| {
        answer(
            200,
            &serde_json::to_string(&SnapshotReply { cluster_id: cluster_id.to_owned(), ..snapshot() })
                .unwrap(),
        )
    };
    let named =
        Step::Answer(200, format!("Dkv-Cluster: {OTHER}\r\n"), serde_json::to_string(&snapshot()).unwrap());
    for step in [made(OTHER), named] {
        let node = Fake::start(vec![listed(), step]);
        let file = tempfile::tempfile().unwrap();
        let error = hasty_client_of(&[&node]).save_snapshot(&mut &file, |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(OTHER), "{error}");
        assert_eq!(node.seen().len(), 2, "a piece was fetched");
    }
}

#[test]
fn status_of_a_node_of_another_cluster_is_none() {
    let node = Fake::start(vec![value()]);
    let foreign = Fake::of(Some(OTHER), vec![answer(200, "{}")]);
    let client = client_of(&[&node]);
    client.get(b"k", &ReadOptions::default()).unwrap();
    let error = client.status(&foreign.addr, Duration::from_secs(30)).unwrap_err();
    assert_eq!(error, format!("{} belongs to cluster {OTHER}, not to {OURS}", foreign.addr));
}

/// The attempt that the end of the call cut off had put "no answer in time" in the place of what the node had said.
#[test]
fn the_last_reason_is_what_a_node_said_and_not_that_the_time_was_over() {
    let node = Fake::start(vec![error(ErrorCode::Unavailable), answer(404, ""), Step::Hang]);
    let last = hasty_client_of(&[&node]).get(b"k", &ReadOptions::default()).unwrap_err();
    assert!(matches!(&last, ClientError::Unavailable(text) if text == "as told"), "{last}");
    assert_eq!(node.seen().len(), 3);
    let node = Fake::start(vec![error(ErrorCode::Unavailable), answer(404, ""), Step::Hang]);
    match put(&hasty_client_of(&[&node])) {
        Err(ClientError::Unknown { reason, .. }) => assert!(reason.contains("before: as told"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_whose_time_is_over_before_it_begins_says_so() {
    let node = Fake::start(vec![done()]);
    let error = client_of(&[&node]).remove_member("b", Instant::now()).unwrap_err();
    assert!(
        matches!(&error, ClientError::Unavailable(text) if text.contains("the time was over")),
        "{error}"
    );
    assert!(node.seen().is_empty());
}

#[test]
fn list_all_whose_time_is_over_between_two_pages_says_so() {
    let page = r#"{"revision":7,"count":1,"kvs":[{"key":"a","create_revision":1,"mod_revision":1,"version":1}],"cursor":"A-_"}"#;
    let node = Fake::start(vec![answer(200, page), answer(200, page)]);
    let client = Client { timeout: Duration::from_millis(500), ..client_of(&[&node]) };
    let result = client.list_all(&ListOptions::default(), None, |_| {
        std::thread::sleep(Duration::from_millis(510));
        std::ops::ControlFlow::Continue(())
    });
    let error = result.unwrap_err();
    assert!(matches!(&error, ClientError::Unavailable(text) if text.contains("after page 1")), "{error}");
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn known_takes_the_cluster_of_a_given_endpoint_and_of_no_learnt_one() {
    let mut known = Known::new(&["a:1", "b:1"]).unwrap();
    let member = |http_addr: &str| crate::api::MemberInfo {
        node_id: "c".to_owned(),
        member_id: None,
        raft_addr: "c:2".to_owned(),
        http_addr: http_addr.to_owned(),
        voter: true,
        promote: false,
    };
    known.learn_members(&[member("c:1")]);
    assert_eq!(known.place("c:1", Some(OTHER)), Origin::Nameless);
    assert_eq!(known.place("a:1", None), Origin::Nameless);
    assert_eq!(known.cluster(), None);
    assert_eq!(known.place("b:1", Some(OURS)), Origin::Ours);
    assert_eq!(known.cluster(), Some(OURS));
    let foreign = |is_news| Origin::Foreign { cluster: OTHER.to_owned(), is_news };
    // It said so before, when there was nothing to compare it with; then it is silent, and says it again.
    assert_eq!(known.place("c:1", Some(OTHER)), foreign(false));
    assert!(known.is_foreign("c:1") && known.is_ours("b:1") && !known.is_ours("a:1"));
    known.failed("c:1");
    known.failed("b:1");
    assert!(!known.is_foreign("c:1") && !known.is_ours("b:1"), "another node may answer there now");
    assert_eq!(known.place("c:1", Some(OTHER)), foreign(true));
}

/// A node without a leader lets a write wait for one before it refuses it: the attempt that the end of the call cut off made
/// "unknown" of "not done".
#[test]
fn a_write_is_not_begun_when_its_answer_would_come_too_late() {
    let late = Step::Late(Duration::from_millis(300), ErrorCode::Unavailable);
    let node = Fake::start(vec![late, answer(404, ""), Step::Hang]);
    let last = put(&hasty_client_of(&[&node])).unwrap_err();
    assert!(matches!(&last, ClientError::Unavailable(text) if text == "as told"), "{last}");
    assert_eq!(node.seen().len(), 2);
}
