//! Watches on real nodes: long polls and streams, through every node, while nodes die.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../examples/follow.rs"]
#[allow(dead_code)]
mod example;

use cluster::{Answer, Cluster, Connection, Setup, wait_for};
use dkv::api::{WatchChange, WatchReply};
use dkv::client::{Client, ClientError, Watch, WatchKeys, WatchOptions};
use serde_json::{Value, json};

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
const EVENTS: (&str, &str) = ("Accept", "text/event-stream");

fn ask(cluster: &Cluster, n: usize, method: &str, target: &str, body: &str) -> Answer {
    cluster.request(n, method, target, &[], body.as_bytes()).expect("an answer")
}

fn poll(cluster: &Cluster, n: usize, query: &str) -> WatchReply {
    let answer = ask(cluster, n, "GET", &format!("/v1/watch?{query}"), "");
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("changes")
}

fn revision(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["revision"].as_u64().expect("a revision")
}

/// Revision, key and value of a change; `-` for a deletion.
fn short(change: &WatchChange) -> (u64, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = change.put.as_ref().map_or("-".to_owned(), |put| text(&put.value));
    (change.revision, text(&change.key), value)
}

/// A stream of events, taken out of its chunks.
struct Stream {
    input: BufReader<TcpStream>,
    head: String,
}

impl Stream {
    fn open(addr: &str, target: &str, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut request = format!("GET {target} HTTP/1.1\r\nHost: dkv\r\n");
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all((request + "\r\n").as_bytes())?;
        let (mut input, mut head) = (BufReader::new(stream), String::new());
        while !head.ends_with("\r\n\r\n") {
            if input.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Stream { input, head })
    }

    /// The next part as it was sent; None at the end of the stream.
    fn part(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bad = |_| io::Error::from(io::ErrorKind::InvalidData);
        let length = usize::from_str_radix(line.trim_end(), 16).map_err(bad)?;
        let mut part = vec![0; length + 2];
        self.input.read_exact(&mut part)?;
        part.truncate(length);
        Ok((length > 0).then(|| String::from_utf8(part).expect("text")))
    }

    /// The next line of a stream of lines.
    fn line(&mut self) -> io::Result<Option<WatchReply>> {
        Ok(self.part()?.map(|part| serde_json::from_str(&part).expect("an event")))
    }
}

#[test]
fn a_long_poll_tells_what_was_and_waits_for_what_comes() {
    let cluster = Cluster::start(3);
    let now = poll(&cluster, 1, "prefix=a&wait_s=0");
    assert_eq!((now.changes.len(), now.next), (0, Some(now.revision + 1)));
    let first = revision(&cluster.put(0, "a/1", "x").unwrap());
    cluster.put(2, "b", "x").unwrap();
    for n in 0..3 {
        let told = poll(&cluster, n, &format!("prefix=a&from={}", now.next.unwrap()));
        assert_eq!(told.changes.iter().map(short).collect::<Vec<_>>(), [(first, "a/1".into(), "x".into())]);
        assert!(told.next > Some(first));
    }
    let addr = cluster.http_addr(1);
    let here = poll(&cluster, 1, "key=a/1&wait_s=0").next.unwrap();
    let began = Instant::now();
    let waiting = std::thread::spawn(move || {
        let mut connection = Connection::open(&addr).unwrap();
        let target = format!("/v1/watch?key=a/1&prev=true&from={here}");
        let first = connection.request("GET", &target, &[], b"").unwrap();
        // The same connection goes on.
        let next = first.json()["next"].clone();
        let target = format!("/v1/watch?key=a/1&from={next}&wait_s=1");
        (first.json(), connection.request("GET", &target, &[], b"").unwrap().json())
    });
    // Mostly the poll waits by then. It is told in any case.
    std::thread::sleep(Duration::from_millis(300));
    let put = revision(&cluster.put(0, "a/1", "y").unwrap());
    let (told, nothing) = waiting.join().unwrap();
    assert_eq!(told["changes"][0]["revision"], put);
    assert_eq!(told["changes"][0]["prev"]["value"], "x");
    assert_eq!((&nothing["changes"], &nothing["next"]), (&json!([]), &json!(put + 1)));
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_stream_has_its_position_at_once_and_an_event_source_goes_on_by_itself() {
    let cluster = Cluster::start(1);
    let first = revision(&cluster.put(0, "k", "1").unwrap());
    let second = revision(&cluster.put(0, "k", "2").unwrap());
    let addr = cluster.http_addr(0);
    let mut events = Stream::open(&addr, "/v1/watch?key=k&filter=put", &[EVENTS]).unwrap();
    assert!(events.head.contains("Content-Type: text/event-stream\r\n"), "{}", events.head);
    let empty = |next: u64| {
        format!("id: {next}\ndata: {{\"revision\":{},\"next\":{next},\"changes\":[]}}\n\n", next - 1)
    };
    assert_eq!(events.part().unwrap(), Some(empty(second + 1)));
    ask(&cluster, 0, "DELETE", "/v1/kv/k", "");
    let third = revision(&cluster.put(0, "k", "3").unwrap());
    let told = events.part().unwrap().unwrap();
    assert!(told.starts_with(&format!("id: {}\ndata: {{", third + 1)) && told.ends_with("\n\n"), "{told}");
    let again = [EVENTS, ("Last-Event-ID", &second.to_string())];
    let mut events = Stream::open(&addr, &format!("/v1/watch?key=k&from={first}"), &again).unwrap();
    assert!(events.part().unwrap().unwrap().contains("\"changes\":[]"));
    let told = events.part().unwrap().unwrap();
    assert!(told.contains("\"value\":\"2\""), "{told}");
    for (header, value, status) in [
        ("Accept", "text/html", 406),
        ("Accept", "text/html, */*;q=0.1", 200),
        ("Last-Event-ID", "x", 400),
        ("Last-Event-ID", "0", 400),
    ] {
        let answer = cluster
            .request(0, "GET", "/v1/watch?key=k&wait_s=0", &[(header, value)], b"")
            .expect("an answer");
        assert_eq!(answer.status, status, "{header}: {value}: {}", answer.text());
    }
    let mut old = TcpStream::connect(&addr).unwrap();
    old.write_all(b"GET /v1/watch?key=k HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(old);
    let mut read_to = |part: &str| {
        while !text.contains(part) {
            assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
        }
    };
    read_to("\"changes\":[]");
    cluster.put(0, "k", "4").unwrap();
    read_to("\"value\":\"4\"");
    assert!(!text.contains("chunked") && text.contains("Connection: close"), "{text}");
}

/// Promise P9 on real processes.
#[test]
fn streams_that_go_on_at_any_node_tell_every_change_once_while_nodes_die() {
    let mut cluster = Cluster::start(3);
    let addrs: Vec<String> = (0..3).map(|n| cluster.http_addr(n)).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let last = "/v1/watch?prefix=w/&from=";
    let watchers: Vec<_> = (0..4)
        .map(|seed| {
            let (addrs, is_over) = (addrs.clone(), is_over.clone());
            std::thread::spawn(move || {
                let (mut next, mut told, mut breaks) = (1, Vec::new(), seed);
                let mut ends_at: Option<Instant> = None;
                loop {
                    breaks += 1;
                    let Ok(mut stream) = Stream::open(&addrs[breaks % 3], &format!("{last}{next}"), &[LINES])
                    else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    // Some connections end after a few events, others with their node.
                    for _ in 0..(breaks % 7) * 20 + 1 {
                        let Ok(Some(event)) = stream.line() else { break };
                        if event.changes.iter().any(|change| change.key == b"w/last") {
                            return told;
                        }
                        told.extend(event.changes.iter().map(short));
                        assert!(event.next >= Some(next), "a position never falls");
                        next = event.next.expect("no event here is large");
                    }
                    if is_over.load(Ordering::SeqCst) {
                        let end = *ends_at.get_or_insert_with(|| Instant::now() + Duration::from_secs(30));
                        assert!(Instant::now() < end, "the last change was never told");
                    }
                }
            })
        })
        .collect();
    let mut written = BTreeMap::new();
    for round in 0..4 {
        let victim = if round % 2 == 0 { cluster.wait_for_leader() } else { round % 3 };
        for n in 0..40 {
            let (key, value) = (format!("w/{}", n % 7), format!("{round}.{n}"));
            let on = cluster.running()[n % cluster.running().len()];
            let (method, body) = if n % 5 == 4 { ("DELETE", "") } else { ("PUT", &value[..]) };
            let answer = wait_for("a write", || {
                let name = [("Idempotency-Key", &value[..])];
                let answer =
                    cluster.request(on, method, &format!("/v1/kv/{key}"), &name, body.as_bytes()).ok();
                answer.filter(|answer| answer.status == 200)
            });
            let told = if method == "PUT" { value.clone() } else { "-".to_owned() };
            if answer.json()["deleted"] != 0 {
                written.insert(revision(&answer), (key, told));
            }
            if n == 10 {
                cluster.kill(victim);
            }
            if n == 30 {
                cluster.spawn(victim);
            }
        }
        cluster.wait_for_ready();
    }
    cluster.put(0, "w/last", "x").unwrap();
    is_over.store(true, Ordering::SeqCst);
    let written: Vec<_> = written.into_iter().map(|(at, (key, value))| (at, key, value)).collect();
    for watcher in watchers {
        assert_eq!(watcher.join().expect("it sees the last change"), written);
    }
}

#[test]
fn a_node_that_stops_ends_its_streams_with_a_position() {
    let mut cluster = Cluster::start(1);
    cluster.put(0, "k", "1").unwrap();
    let mut stream = Stream::open(&cluster.http_addr(0), "/v1/watch?prefix=", &[LINES]).unwrap();
    let first = stream.line().unwrap().expect("its position");
    let addr = cluster.http_addr(0);
    let waiting = std::thread::spawn(move || {
        let mut connection = Connection::open(&addr).unwrap();
        connection.request("GET", "/v1/watch?key=none&wait_s=60", &[], b"").unwrap()
    });
    wait_for("both to wait", || metric(&cluster, "dkv_watches").filter(|&watches| watches == 2));
    cluster.signal(0, "TERM");
    assert_eq!(stream.line().unwrap(), Some(first), "its last word");
    assert_eq!(stream.line().unwrap(), None, "and an end in order");
    assert_eq!(waiting.join().unwrap().json()["changes"], json!([]));
    assert_eq!(cluster.wait_exit(0).code(), Some(0));
}

fn metric(cluster: &Cluster, name: &str) -> Option<u64> {
    let text = cluster.request(0, "GET", "/metrics", &[], b"").ok()?.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Threads and descriptors of node 0.
fn used(cluster: &Cluster) -> [usize; 2] {
    ["task", "fd"].map(|what| std::fs::read_dir(format!("/proc/{}/{what}", cluster.pid(0))).unwrap().count())
}

#[test]
fn clients_that_vanish_while_they_wait_leave_nothing_behind() {
    let cluster = Cluster::start(1);
    cluster.put(0, "k", "1").unwrap();
    metric(&cluster, "dkv_watches").expect("the metric");
    let (addr, before) = (cluster.http_addr(0), used(&cluster));
    let mut waiting = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(&addr).unwrap();
        let accept = if n % 2 == 0 { "application/json" } else { "text/event-stream" };
        let request =
            format!("GET /v1/watch?key=k{n}&wait_s=600 HTTP/1.1\r\nHost: dkv\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        waiting.push(stream);
    }
    wait_for("all to wait", || metric(&cluster, "dkv_watches").filter(|&watches| watches == 100));
    drop(waiting);
    wait_for("their end to be noticed", || metric(&cluster, "dkv_watches").filter(|&watches| watches == 0));
    wait_for("their threads and descriptors to go", || {
        let after = used(&cluster);
        (after[0] <= before[0] + 2 && after[1] <= before[1] + 2).then_some(())
    });
}

#[test]
fn what_is_compacted_is_said_and_never_skipped() {
    let setup = Setup { extra: "retention_revisions: 5\n".to_owned(), ..Setup::default() };
    let cluster = Cluster::start_with(1, &setup);
    cluster.wait_for_leader();
    let empty = poll(&cluster, 0, "prefix=&from=1&wait_s=0");
    assert_eq!(empty.changes, [], "nothing was before the first revision");
    for n in 0..20 {
        cluster.put(0, "k", &n.to_string()).unwrap();
    }
    let floor = cluster.status(0).unwrap()["floor"].as_u64().unwrap();
    let first = poll(&cluster, 0, &format!("prefix=&from={}", floor + 1));
    assert_eq!(first.changes.len(), 5);
    for accept in ["application/json", "text/event-stream"] {
        for from in [1, floor] {
            let target = format!("/v1/watch?prefix=&from={from}");
            if accept == "application/json" {
                let refused = ask(&cluster, 0, "GET", &target, "");
                assert_eq!((refused.status, &refused.json()["error"]["code"]), (410, &json!("compacted")));
                assert_eq!(refused.json()["error"]["revision"], floor);
            } else {
                let mut stream = Stream::open(&cluster.http_addr(0), &target, &[("Accept", accept)]).unwrap();
                assert!(stream.part().unwrap().unwrap().starts_with(&format!("id: {from}\n")));
                let last = stream.part().unwrap().unwrap();
                let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
                assert_eq!(
                    (&last["error"]["code"], &last["error"]["revision"]),
                    (&json!("compacted"), &json!(floor))
                );
                assert_eq!(stream.part().unwrap(), None);
            }
        }
    }
}

#[test]
fn a_large_revision_is_told_in_parts_and_only_the_last_one_says_where_to_go_on() {
    let cluster = Cluster::start(1);
    for n in 0..4 {
        cluster.put(0, &format!("k{n}"), &"v".repeat(700_000)).unwrap();
    }
    let from = poll(&cluster, 0, "prefix=&wait_s=0").next.unwrap();
    let target = format!("/v1/watch?prefix=k&prev=true&from={from}");
    let mut stream = Stream::open(&cluster.http_addr(0), &target, &[LINES]).unwrap();
    let mut events = Stream::open(&cluster.http_addr(0), &target, &[EVENTS]).unwrap();
    assert_eq!(stream.line().unwrap().unwrap().next, Some(from));
    events.part().unwrap();
    assert_eq!(ask(&cluster, 0, "DELETE", "/v1/kv?prefix=k", "").json()["deleted"], 4);
    let mut told = Vec::new();
    loop {
        let part = stream.line().unwrap().unwrap();
        let event = events.part().unwrap().unwrap();
        assert_eq!(event.starts_with("id: "), part.next.is_some());
        told.extend(part.changes.iter().map(|change| change.key.clone()));
        if part.next.is_some() {
            assert_eq!(part.next, Some(from + 1));
            break;
        }
    }
    assert_eq!(told, [b"k0", b"k1", b"k2", b"k3"]);
    // A long poll has them all.
    assert_eq!(poll(&cluster, 0, &format!("prefix=k&prev=true&limit=1&from={from}")).changes.len(), 4);
}

#[test]
fn many_watches_share_a_stream_and_each_change_says_whose_it_is() {
    let cluster = Cluster::start(1);
    let first = revision(&cluster.put(0, "a", "1").unwrap());
    cluster.put(0, "b", "1").unwrap();
    let third = revision(&ask(&cluster, 0, "DELETE", "/v1/kv/a", ""));
    let body = json!({"wait_s": 5, "watches": [
        {"id": "one", "key": "a", "from": first, "filter": "put"},
        {"id": "all", "prefix": "", "from": third},
        {"id": "later", "start": "a", "end": "c", "from": third + 10},
    ]});
    let told = ask(&cluster, 0, "POST", "/v1/watch", &body.to_string()).json();
    let ids: Vec<_> =
        told["changes"].as_array().unwrap().iter().map(|c| (&c["id"], &c["revision"])).collect();
    assert_eq!(ids, [(&json!("one"), &json!(first)), (&json!("all"), &json!(third))]);
    let setup = Setup { extra: "limits: { max_watches: 2 }\n".to_owned(), ..Setup::default() };
    let small = Cluster::start_with(1, &setup);
    small.wait_for_leader();
    let refused = ask(&small, 0, "POST", "/v1/watch", &body.to_string());
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("overloaded")));
    assert_eq!(poll(&small, 0, "prefix=&wait_s=0").changes, []);
}

#[test]
fn the_library_goes_on_at_another_node_without_a_gap_or_a_change_told_twice() {
    let mut cluster = Cluster::start(3);
    let addrs: Vec<String> = (0..3).map(|n| cluster.http_addr(n)).collect();
    let client = Arc::new(Client::new(&addrs, Duration::from_secs(5)).unwrap());
    let mut watch =
        Watch::open(client.clone(), WatchKeys::Prefix(b"k".to_vec()), WatchOptions::default()).unwrap();
    let mut written = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let on = cluster.running()[n % cluster.running().len()];
            let value = format!("{round}.{n}");
            let answer = wait_for("a write", || {
                let name = [("Idempotency-Key", &value[..])];
                let answer = cluster.request(on, "PUT", "/v1/kv/k", &name, value.as_bytes()).ok();
                answer.filter(|answer| answer.status == 200)
            });
            written.push((revision(&answer), "k".to_owned(), value));
            if n == 5 {
                cluster.kill(round);
            }
        }
        cluster.spawn(round);
        cluster.wait_for_ready();
    }
    let mut told = Vec::new();
    while told.len() < written.len() {
        match watch.next().expect("it has no end") {
            Ok(event) => {
                assert!(event.changes.iter().all(|change| change.revision == event.revision));
                told.extend(event.changes.iter().map(short));
            }
            Err(ClientError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(told, written);
    assert_eq!(watch.position(), written.last().unwrap().0 + 1);
    assert_eq!(watch.next_within(Duration::ZERO).unwrap(), None);
}

#[test]
fn dkv_cli_prints_changes_or_gives_each_revision_to_a_command() {
    let cluster = Cluster::start(1);
    let first = revision(&cluster.put(0, "a", "1").unwrap());
    cluster.put(0, "b", "2").unwrap();
    ask(&cluster, 0, "DELETE", "/v1/kv/a", "");
    let watch = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_dkv-cli"))
            .args(["--endpoints", &cluster.http_addr(0), "watch", "--from", &first.to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dkv-cli runs")
    };
    let mut child = watch(&[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = |at: u64, rest: &str| format!("{}\t{rest}", first + at);
    let expected = [line(0, "put\ta\t1"), line(1, "put\tb\t2"), line(2, "delete\ta")];
    assert_eq!(expected.each_ref().map(|_| lines.next().unwrap().unwrap()), expected);
    child.kill().unwrap();
    child.wait().unwrap();
    let script = "read -r event; echo \"$DKV_REVISION $event\"; [ \"$DKV_REVISION\" -lt \"$0\" ] || exit 7";
    let stop_at = (first + 1).to_string();
    let output = watch(&["--prev", "--", "sh", "-c", script, &stop_at]).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let event: Value = serde_json::from_str(lines[1].split_once(' ').unwrap().1).unwrap();
    assert_eq!((&event["next"], &event["changes"][0]["prev"]), (&json!(first + 2), &json!(null)));
    let output = watch(&[
        "--keep-going",
        "--",
        "sh",
        "-c",
        "[ $DKV_REVISION -lt $0 ] || kill -TERM $PPID; exit 1",
        &(first + 2).to_string(),
    ])
    .wait_with_output()
    .unwrap();
    assert_eq!(output.status.code(), None, "it went on until it was killed");
    for bad in [&["watch", "--key", "a", "b"][..], &["watch", "--from", "0"], &["watch", "--keep-going"]] {
        assert_eq!(cluster.cli(bad).0, Some(2), "{bad:?}");
    }
}

#[test]
fn the_example_keeps_a_file_equal_to_a_key() {
    let cluster = Cluster::start(1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.conf");
    cluster.put(0, "conf", "first").unwrap();
    let mut seen = Vec::new();
    let steps: [&dyn Fn(); 3] = [
        &|| drop(cluster.put(0, "conf", "second").unwrap()),
        &|| drop(ask(&cluster, 0, "DELETE", "/v1/kv/conf", "")),
        &|| drop(cluster.put(0, "conf", "third").unwrap()),
    ];
    let node = cluster.http_addr(0);
    example::follow(&[&node], "conf", &file, || {
        seen.push(std::fs::read_to_string(&file).ok());
        steps.get(seen.len() - 1).map(|step| step()).is_some()
    })
    .unwrap();
    let expected = [Some("first"), Some("second"), None, Some("third")];
    assert_eq!(seen, expected.map(|value| value.map(str::to_owned)));
}

/// The entries that a follower missed are not in the log any more: it gets a snapshot while a hundred streams wait on it.
#[test]
fn a_snapshot_that_is_installed_beneath_watchers_is_told() {
    let setup = Setup { extra: "snapshot_log_entries: 50\n".to_owned(), ..Setup::default() };
    let cluster = Cluster::start_with(3, &setup);
    let leader = cluster.wait_for_leader();
    let slow = (leader + 1) % 3;
    cluster.put(slow, "k0", "first").unwrap();
    let from = poll(&cluster, slow, "prefix=&wait_s=0").next.unwrap();
    let open = |n: usize| {
        let target = format!("/v1/watch?key=k{}&from={from}", n % 50);
        let mut stream = Stream::open(&cluster.http_addr(slow), &target, &[LINES]).unwrap();
        assert_eq!(stream.line().unwrap().unwrap().next, Some(from));
        stream
    };
    let mut streams: Vec<Stream> = (0..100).map(open).collect();
    cluster.signal(slow, "STOP");
    let written: Vec<u64> = (0..400)
        .map(|n| revision(&cluster.put(leader, &format!("k{}", n % 40), &n.to_string()).unwrap()))
        .collect();
    cluster.request(leader, "POST", "/v1/snapshots", &[], b"").unwrap();
    cluster.signal(slow, "CONT");
    wait_for("the snapshot", || cluster.log(slow).contains("installed the leader's snapshot").then_some(()));
    for (n, stream) in streams.iter_mut().enumerate() {
        let key = n % 50;
        let expected: Vec<_> = written.iter().enumerate().filter(|(at, _)| at % 40 == key).collect();
        let mut told = Vec::new();
        while told.len() < expected.len() {
            told.extend(stream.line().unwrap().expect("it goes on").changes.iter().map(short));
        }
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(at, revision)| (*revision, format!("k{key}"), at.to_string()))
            .collect();
        assert_eq!(told, expected);
    }
}
