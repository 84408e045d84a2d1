//! A port whose workers a test can hold: give-up in every state, breaks of the upstream connections, and clients of every
//! kind, each with the outcome that the table in `docs/architecture.md` promises.

mod port;
mod takeovers;

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use port::{Client, PATIENCE, Port, error, text};

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn what_no_worker_took_in_time_is_not_done_and_never_runs() {
    let port = Port::start(|options| options.limits.answer_timeout = SHORT);
    let mut holder = port.hold();
    let (mut write, mut read) = (port.client(), port.client());
    write.put("/late", "x");
    read.get("/late");
    assert_eq!(write.error(), error(503, "overloaded", "not_done"));
    assert_eq!(read.error(), error(503, "overloaded", "not_done"));
    // It was begun.
    assert_eq!(holder.error(), error(504, "outcome_unknown", "unknown"));
    // Both connections go on, and neither late request is ever begun: they stand before this one in the queue.
    write.put("/next", "y");
    port.let_go();
    assert_eq!(write.body(), "y");
    assert_eq!((port.ran("/late"), port.ran("/next")), (0, 1));
    port.wait_for("nothing is inside", |stats| stats.inside == 0);
}

#[test]
fn an_answer_that_is_being_written_is_not_given_up() {
    let port = Port::start(|options| {
        options.limits.answer_timeout = SHORT;
        options.limits.write_timeout = PATIENCE;
    });
    let mut slow = port.client();
    slow.get("/big");
    port.wait_until_ran("/big", 1);
    thread::sleep(3 * SHORT);
    assert_eq!(slow.body().len(), 8 << 20);
    slow.put("/next", "y");
    assert_eq!(slow.body(), "y");
    assert_eq!(port.stats().answers_dropped, 0);
}

#[test]
fn slow_readers_hold_up_nobody_and_beyond_their_number_the_answer_is_dropped() {
    for path in ["/big", "/big-waits"] {
        let port = Port::start(|options| {
            options.limits.max_slow_writers = 2;
            options.limits.write_timeout = PATIENCE;
        });
        let mut slow = [port.client(), port.client()];
        for (client, times) in slow.iter_mut().zip(1..) {
            client.get(path);
            port.wait_until_ran(path, times);
        }
        let mut third = port.client();
        third.get(path);
        port.wait_for("the third answer is dropped", |stats| stats.answers_dropped == 1);
        assert!(third.is_closed(), "{path}");
        // One worker and two responders, and nobody waits for them.
        let mut other = port.client();
        for _ in 0..5 {
            other.put("/a", "x");
            assert_eq!(other.body(), "x");
        }
        for client in &mut slow {
            assert_eq!(client.body().len(), 8 << 20, "{path}");
        }
        // Their threads take the next ones.
        slow[0].get(path);
        assert_eq!(slow[0].body().len(), 8 << 20, "{path}");
        assert_eq!(port.stats().answers_dropped, 1);
    }
}

#[test]
fn a_reader_that_is_too_slow_is_cut_off_and_counted() {
    let port = Port::start(|options| {
        options.limits.write_timeout = SHORT;
        options.limits.min_bytes_per_s = 1 << 30;
    });
    let mut deaf = port.client();
    deaf.get("/big");
    port.wait_for("the answer is dropped", |stats| stats.answers_dropped == 1 && stats.connections == 0);
    assert!(deaf.is_closed());
}

#[test]
fn nothing_is_served_after_an_answer_that_was_dropped() {
    let port = Port::start(|options| {
        options.limits.write_timeout = SHORT;
        options.limits.min_bytes_per_s = 1 << 30;
    });
    let mut deaf = port.client();
    deaf.get("/big");
    deaf.put("/read-ahead", "x");
    port.wait_for("the answer is dropped", |stats| stats.answers_dropped == 1 && stats.connections == 0);
    assert_eq!((port.ran("/big"), port.ran("/read-ahead")), (1, 0));
}

#[test]
fn a_client_that_is_gone_before_a_worker_comes_is_served_no_more() {
    let port = Port::start(|_| {});
    let mut holder = port.hold();
    let mut gone = port.client();
    gone.put("/gone", "x");
    port.wait_for("it is inside", |stats| stats.inside == 2);
    gone.reset();
    port.wait_for("its place is free", |stats| stats.inside == 1 && stats.connections == 1);
    port.let_go();
    assert_eq!(holder.body(), "held");
    holder.put("/after", "y");
    assert_eq!(holder.body(), "y");
    assert_eq!(port.ran("/gone"), 0);
}

#[test]
fn a_client_that_is_gone_later_costs_its_answer_alone() {
    let port = Port::start(|_| {});
    let mut gone = port.client();
    gone.put("/wait", "");
    let reply = port.next_reply();
    gone.reset();
    port.wait_for("its connection is over", |stats| stats.connections == 0);
    // The handler still has it.
    assert_eq!(port.stats().inside, 1);
    reply.send(|| text(200, "to nobody"));
    port.wait_for("its place is free", |stats| stats.inside == 0);
    assert_eq!(port.stats().answers_dropped, 0);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let port = Port::start(|_| {});
    let mut half = port.client();
    half.put("/wait", "");
    half.stream.shutdown(Shutdown::Write).expect("half closed");
    let reply = port.next_reply();
    // Its thread has read the end by now, or reads it soon.
    thread::sleep(Duration::from_millis(50));
    reply.send(|| text(200, "late"));
    assert_eq!(half.body(), "late");
    assert!(half.is_closed());
}

#[test]
fn pipelined_requests_are_submitted_one_at_a_time() {
    let port = Port::start(|_| {});
    let mut client = port.client();
    client.put("/wait-1", "");
    client.put("/second", "2");
    client.send("HEAD /third HTTP/1.1\r\nHost: h\r\n\r\n");
    client.put("/wait-4", "");
    let first = port.next_reply();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(port.ran("/second"), 0, "the first one is not answered yet");
    first.send(|| text(200, "1"));
    assert_eq!((client.body(), client.body()), ("1".to_owned(), "2".to_owned()));
    let fourth = port.next_reply();
    fourth.send(|| text(200, "4"));
    let head = loop {
        if let Some(at) = client.input.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8(client.input.drain(..at + 4).collect()).expect("text");
        }
        client.fill().expect("an answer");
    };
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 0\r\n"), "{head}");
    assert_eq!(client.body(), "4");
}

/// An interim answer that came before the answer to the request before would be taken for a part of that one.
#[test]
fn the_body_is_asked_for_after_the_answer_to_the_request_before() {
    let port = Port::start(|_| {});
    let mut client = port.client();
    client.put("/wait", "");
    client.send("PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    let reply = port.next_reply();
    thread::sleep(Duration::from_millis(50));
    reply.send(|| text(200, "first"));
    assert_eq!(client.body(), "first");
    assert!(client.answer().expect("an interim answer").0.starts_with("HTTP/1.1 100 "));
    client.send("b");
    assert_eq!(client.body(), "b");
}

#[test]
fn nothing_is_served_after_an_answer_that_says_close() {
    let port = Port::start(|_| {});
    let mut client = port.client();
    client.send(
        "PUT /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n\
         PUT /more HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    );
    let (head, _) = client.answer().expect("an answer");
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    assert!(client.is_closed());
    assert_eq!((port.ran("/last"), port.ran("/more")), (1, 0));
}

/// A request in each state, and all upstream connections break.
#[test]
fn broken_upstream_connections_lose_no_request_and_run_none_twice() {
    let port = Port::start(|options| options.limits.write_timeout = PATIENCE);
    let (mut idle, mut writing, mut taken) = (port.client(), port.client(), port.client());
    idle.put("/idle", "1");
    assert_eq!(idle.body(), "1");
    writing.get("/big");
    port.wait_until_ran("/big", 1);
    taken.put("/wait", "");
    let reply = port.next_reply();
    let mut holder = port.hold();
    let mut submitted: Vec<Client> = (0..20).map(|_| port.client()).collect();
    for (number, client) in submitted.iter_mut().enumerate() {
        client.put(&format!("/submitted-{number}"), &number.to_string());
    }
    port.wait_for("all are submitted", |stats| stats.inside == 22);
    port.server().break_upstreams();
    port.wait_for("the break is seen", |stats| stats.upstreams_broken > 0);
    // These come while there is no connection.
    idle.put("/meanwhile", "2");
    reply.send(|| text(200, "taken"));
    assert_eq!(taken.body(), "taken");
    assert_eq!(writing.body().len(), 8 << 20);
    port.let_go();
    assert_eq!((holder.body(), idle.body()), ("held".to_owned(), "2".to_owned()));
    // What tiny_http had not read may be blamed, one request for each connection that broke. It is told so, and not done.
    let broken = port.stats().upstreams_broken as usize;
    let mut refused = 0;
    for (number, client) in submitted.iter_mut().enumerate() {
        let (head, body) = client.answer().expect("an answer");
        let is_done = head.starts_with("HTTP/1.1 200 ");
        assert!(is_done && body == number.to_string() || body.contains("not_done"), "{head}{body}");
        assert_eq!(port.ran(&format!("/submitted-{number}")), usize::from(is_done));
        if !is_done {
            refused += 1;
            assert!(head.contains("\r\nConnection: close\r\n") && client.is_closed(), "{head}");
        }
    }
    assert!(refused <= broken, "{refused} refused, {broken} broken");
    port.wait_for("nothing is inside", |stats| stats.inside == 0);
}

#[test]
fn a_stop_under_load_tells_every_client_what_is_true() {
    let mut port = Port::start(|options| options.lanes[0].workers = 2);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|number| {
            let (stop, mut client) = (Arc::clone(&stop), port.client());
            thread::spawn(move || {
                let mut outcomes = Vec::new();
                for request in 0.. {
                    let kind = if request % 8 == 7 { "wait" } else { "put" };
                    let path = format!("/{kind}-{number}-{request}");
                    let length = 1;
                    let text = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\nx");
                    if !client.try_send(&text) {
                        break;
                    }
                    let Some((head, body)) = client.answer() else { break };
                    outcomes.push((path, head.starts_with("HTTP/1.1 200 "), body));
                    if head.contains("\r\nConnection: close\r\n") || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                outcomes
            })
        })
        .collect();
    // Every eighth request is answered by this thread, late. Those that it keeps at the end are unknown.
    let until = Instant::now() + Duration::from_millis(500);
    let mut kept = Vec::new();
    while Instant::now() < until {
        if let Ok(reply) = port.waiting.recv_timeout(Duration::from_millis(10)) {
            kept.push(reply);
            if kept.len() > 4 {
                kept.remove(0).send(|| text(200, "late"));
            }
        }
    }
    port.server.take().expect("it runs").shutdown(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let (mut done, mut unknown) = (0, 0);
    for client in clients {
        for (path, is_done, body) in client.join().expect("no panic") {
            let ran = port.ran(&path);
            assert!(ran <= 1, "{path} ran {ran} times");
            if is_done {
                done += 1;
                assert_eq!(ran, 1, "{path} is done and did not run");
            } else if body.contains("\"not_done\"") {
                assert_eq!(ran, 0, "{path} is not done and ran: {body}");
            } else {
                unknown += 1;
                assert!(body.contains("\"unknown\""), "{body}");
            }
        }
    }
    assert!(done > 0 && unknown > 0, "{done} done, {unknown} unknown");
    drop(kept);
}

#[test]
fn a_stop_without_grace_says_what_no_worker_took_and_what_one_did() {
    let mut port = Port::start(|_| {});
    let (mut taken, mut submitted, mut read, mut ahead) =
        (port.client(), port.client(), port.client(), port.client());
    taken.put("/wait", "");
    let reply = port.next_reply();
    let mut holder = port.hold();
    submitted.put("/submitted", "x");
    read.get("/submitted");
    ahead.put("/submitted", "x");
    ahead.put("/ahead", "x");
    port.wait_for("all are inside", |stats| stats.inside == 5);
    let server = port.server.take().expect("it runs");
    let stopper = thread::spawn(move || server.shutdown(Duration::ZERO));
    for client in [&mut submitted, &mut read, &mut ahead] {
        assert_eq!(client.error(), error(503, "unavailable", "not_done"));
        assert!(client.is_closed(), "nothing of what was read ahead is served");
    }
    for client in [&mut taken, &mut holder] {
        assert_eq!(client.error(), error(504, "outcome_unknown", "unknown"));
        assert!(client.is_closed());
    }
    port.let_go();
    stopper.join().expect("no panic");
    reply.send(|| text(200, "to nobody"));
    assert_eq!((port.ran("/submitted"), port.ran("/ahead")), (0, 0));
}

#[test]
fn a_stop_without_grace_ends_an_answer_that_is_being_written() {
    let mut port = Port::start(|options| options.limits.write_timeout = 10 * PATIENCE);
    let mut deaf = port.client();
    deaf.get("/big");
    port.wait_until_ran("/big", 1);
    let begun = Instant::now();
    port.server.take().expect("it runs").shutdown(Duration::ZERO);
    assert!(begun.elapsed() < PATIENCE, "the stop waits for a client that does not read");
    assert!(deaf.is_closed(), "half an answer, and no other after it");
}

#[test]
fn what_cannot_be_handed_on_is_not_done() {
    let port = Port::start(|_| {});
    let mut client = port.client();
    client.put("/a", "x");
    assert_eq!(client.body(), "x");
    port.server().stop_upstreams();
    for _ in 0..2 {
        client.put("/never", "x");
        assert_eq!(client.error(), error(503, "overloaded", "not_done"));
    }
    assert_eq!((port.ran("/never"), port.stats().inside), (0, 0));
}

#[test]
fn an_idle_client_is_closed_after_its_silence_and_not_before() {
    let port = Port::start(|options| {
        options.limits.idle_timeout = Duration::from_millis(600);
        options.limits.answer_timeout = 2 * PATIENCE;
    });
    let mut client = port.client();
    client.put("/wait", "");
    let reply = port.next_reply();
    // Waiting for an answer is no silence.
    thread::sleep(Duration::from_millis(900));
    reply.send(|| text(200, "late"));
    let answered = Instant::now();
    assert_eq!(client.body(), "late");
    assert!(client.is_closed());
    assert!(answered.elapsed() >= Duration::from_millis(550), "{:?}", answered.elapsed());
    // And a request does not need to be read at once.
    let mut client = port.client();
    thread::sleep(Duration::from_millis(300));
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().map(|(head, _)| head.starts_with("HTTP/1.1 200")), Some(true));
}
