//! `dkv-cli member replace X X`, with a member that does not answer.

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::{answer, code, read_request, run, said};

/// A node that says of n1 and n2 that they are the members, and that n2 is where a connection is never answered. Returns its
/// address, and the first line of each request that asks for a change.
fn cluster_with_a_silent_member() -> (String, Receiver<String>) {
    // Connections wait in its queue for as long as the listener is open: until the end of the process.
    let silent = Box::leak(Box::new(TcpListener::bind("127.0.72.6:0").unwrap())).local_addr().unwrap();
    let listener = TcpListener::bind("127.0.72.6:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let members = format!(
        r#"{{"members":[{{"node_id":"n1","member_id":"aa","raft_addr":"h:1","http_addr":"{addr}","voter":true}},
           {{"node_id":"n2","member_id":"bb","raft_addr":"h:2","http_addr":"{silent}","voter":true}}]}}"#
    );
    let reply = answer(200, "", members.as_bytes());
    let (changes, seen) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let line = read_request(&stream).0;
            if !line.starts_with("GET ") {
                let _ = changes.send(line);
            }
            let _ = stream.write_all(&reply);
        }
    });
    (addr, seen)
}

/// A member that lives and had no time to say so must not lose its place.
#[test]
fn replace_of_a_member_that_had_too_little_time_to_answer_is_refused_and_removes_nothing() {
    let (addr, changes) = cluster_with_a_silent_member();
    let output = run(&addr, &["--timeout", "1.9", "member", "replace", "n2", "n2"]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    let text = said(&output);
    for words in ["n2 was not heard in the time that was left", "nothing is changed", "a longer --timeout"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(changes.try_recv().ok(), None, "no change was asked for");
}

#[test]
fn replace_of_a_member_that_had_its_time_and_did_not_answer_removes_it() {
    let (addr, changes) = cluster_with_a_silent_member();
    let output = run(&addr, &["--timeout", "5", "member", "replace", "n2", "n2"]);
    assert!(said(&output).contains("removing n2"), "{}", said(&output));
    assert_eq!(changes.try_recv().unwrap().trim_end(), "DELETE /v1/cluster/members/n2 HTTP/1.1");
}
