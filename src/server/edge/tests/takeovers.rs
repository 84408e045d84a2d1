//! Connections that a handler takes over. `/wait-...` keeps the reply: the test takes the connection over, or does not.

use std::io::Read;
use std::sync::mpsc;

use super::*;
use crate::server::edge::{Connection, Method, Takeover};

fn start(change: impl FnOnce(&mut crate::server::edge::PortOptions)) -> Port {
    Port::start(|options| {
        options.takes_over = |method, path| method == Method::Post && path == "/wait-link";
        change(options);
    })
}

fn ask(client: &mut Client, after: &str) {
    client.send(&format!("POST /wait-link HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n{after}"));
}

/// Sends back what it reads, in capitals, until the client ends; then says so.
fn echo(mut connection: Connection, ended: &mpsc::Sender<bool>) {
    let sender = connection.sender();
    let mut bytes = connection.take_already_read();
    loop {
        if !bytes.is_empty() && !sender.send(&bytes.to_ascii_uppercase()) {
            break;
        }
        bytes.resize(100, 0);
        match connection.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.truncate(read),
        }
    }
    let _ = ended.send(connection.is_stopping());
}

#[test]
fn a_handler_takes_a_connection_over() {
    let port = start(|_| {});
    let (ended_at, ended) = mpsc::channel();
    let mut client = port.client();
    // What follows the request is not read as a request.
    ask(&mut client, "GET / HTTP/1.1\n");
    let reply = port.next_reply();
    thread::sleep(SHORT);
    reply.take_over(Takeover::switch("test/1", move |connection| echo(connection, &ended_at)));
    let (head, _) = client.answer().expect("an answer");
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n"),
        "{head}"
    );
    client.send("and more");
    while client.input.len() < "GET / HTTP/1.1\nAND MORE".len() {
        client.fill().expect("it goes on");
    }
    assert_eq!(client.input, b"GET / HTTP/1.1\nAND MORE");
    port.wait_for("its place is free", |stats| stats.inside == 0 && stats.waiting == 0);
    client.stream.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(false));
    port.wait_for("the connection has ended", |stats| stats.connections == 0);
}

#[test]
fn a_request_that_may_take_over_can_be_answered_and_the_connection_goes_on() {
    let port = start(|_| {});
    let mut client = port.client();
    ask(&mut client, "PUT /next HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\ny");
    port.next_reply().send(|| text(200, "no"));
    assert_eq!(client.body(), "no");
    assert_eq!(client.body(), "y");
}

#[test]
fn what_takes_a_connection_over_is_never_run_after_the_request_was_given_up() {
    let port = start(|options| options.limits.answer_timeout = SHORT);
    let mut client = port.client();
    ask(&mut client, "");
    let reply = port.next_reply();
    assert_eq!(client.error(), error(504, "outcome_unknown", "unknown"));
    let (ran_at, ran) = mpsc::channel();
    reply.take_over(Takeover::switch("test/1", move |_| ran_at.send(()).expect("the test listens")));
    assert_eq!(ran.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "dropped unused");
    client.put("/next", "y");
    assert_eq!(client.body(), "y");
}

/// A client of a watch or a lock sends nothing more: only a look at the socket shows that it is gone.
#[test]
fn a_client_that_is_gone_while_it_waits_for_a_takeover_is_noticed() {
    let port = start(|_| {});
    let mut client = port.client();
    ask(&mut client, "");
    let reply = port.next_reply();
    drop(client);
    port.wait_for("the connection has ended", |stats| stats.connections == 0);
    let (ran_at, ran) = mpsc::channel();
    reply.take_over(Takeover::switch("test/1", move |_| ran_at.send(()).expect("the test listens")));
    assert_eq!(ran.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "dropped unused");
}

/// A bug of dkv: the port was not told that this request takes over. It costs the connection, and nothing is run.
#[test]
fn a_takeover_that_the_port_does_not_know_costs_its_connection() {
    let port = Port::start(|_| {});
    let mut client = port.client();
    ask(&mut client, "");
    let (ran_at, ran) = mpsc::channel();
    port.next_reply()
        .take_over(Takeover::switch("test/1", move |_| ran_at.send(()).expect("the test listens")));
    client.put("/next", "y");
    assert!(client.is_closed());
    assert_eq!(ran.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "dropped unused");
    assert_eq!(port.ran("/next"), 0);
}

#[test]
fn a_stop_ends_connections_that_were_taken_over() {
    let mut port = start(|_| {});
    let (ended_at, ended) = mpsc::channel();
    let mut client = port.client();
    ask(&mut client, "");
    port.next_reply().take_over(Takeover::switch("test/1", move |connection| echo(connection, &ended_at)));
    assert!(client.answer().is_some());
    let began = Instant::now();
    port.server.take().expect("it runs").shutdown(PATIENCE);
    assert!(began.elapsed() < PATIENCE / 2, "nobody waits for the grace");
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true));
    assert!(client.is_closed());
}
