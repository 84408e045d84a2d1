use super::*;
use crate::node::{Failure, FailureKind, PeerList};
use crate::raft::{Found, PROTOCOL, Payload, Settings};
use proptest::prelude::*;

const ENVELOPE: Envelope = Envelope { cluster_id: ClusterId(1), from: MemberId(2), to: MemberId(3) };

fn append(prev: Position, commands: &[Vec<u8>]) -> AppendEntriesRequest {
    let entry = |(n, command): (usize, &Vec<u8>)| {
        let position = Position::new(prev.index + 1 + n as u64, prev.term + 1);
        Entry::new(position, 7, &Payload::Command(command.clone()))
    };
    AppendEntriesRequest {
        term: prev.term + 1,
        leader: ENVELOPE.from,
        prev,
        commit: prev.index,
        entries: commands.iter().enumerate().map(entry).collect(),
    }
}

fn roundtrip(request: PeerRequest) {
    let body = encode_request(ENVELOPE, &request);
    assert_eq!(decode_request(route(&request), &body), Ok((ENVELOPE, request)));
}

fn vote(term: Term) -> RequestVoteRequest {
    RequestVoteRequest {
        term,
        candidate: ENVELOPE.from,
        last: Position::new(4, 3),
        pre_vote: true,
        transfer: false,
    }
}

fn refused(route: &str, body: &[u8]) -> String {
    decode_request(route, body).unwrap_err().to_string()
}

#[test]
fn decode_request_gives_back_every_kind() {
    roundtrip(PeerRequest::RequestVote(vote(5)));
    roundtrip(PeerRequest::AppendEntries(append(Position::ZERO, &[])));
    roundtrip(PeerRequest::ReadIndex { remaining_ms: 17 });
    roundtrip(PeerRequest::Forward(vec![]));
}

#[test]
fn decode_request_refuses_a_body_of_another_route() {
    let body = encode_request(ENVELOPE, &PeerRequest::RequestVote(vote(5)));
    for other in [APPEND_ENTRIES, READ_INDEX, FORWARD, FOUND, "/raft/none"] {
        assert!(decode_request(other, &body).is_err(), "{other}");
    }
}

#[test]
fn decode_request_refuses_numbers_on_which_arithmetic_would_overflow() {
    let body = encode_request(ENVELOPE, &PeerRequest::RequestVote(vote(u64::MAX)));
    assert!(refused(REQUEST_VOTE, &body).contains("no term"));
    let body = line(
        &Line {
            envelope: ENVELOPE,
            request: AppendLine { term: 1, prev: Position::new(u64::MAX, 1), commit: 0, entries: 0 },
        },
        0,
    );
    assert!(refused(APPEND_ENTRIES, &body).contains("no index"));
}

#[test]
fn decode_request_refuses_a_vote_in_another_name() {
    let other = RequestVoteRequest { candidate: MemberId(9), ..vote(5) };
    let body = encode_request(ENVELOPE, &PeerRequest::RequestVote(other));
    assert!(refused(REQUEST_VOTE, &body).contains("not the sender"));
}

#[test]
fn decode_request_refuses_a_count_before_it_allocates() {
    let head = AppendLine { term: 1, prev: Position::ZERO, commit: 0, entries: usize::MAX };
    let body = line(&Line { envelope: ENVELOPE, request: head }, 0);
    assert!(refused(APPEND_ENTRIES, &body).contains("do not fit"));
    let head = vec![WriteLine { bytes: usize::MAX, crc32c: 0, remaining_ms: 0 }];
    let body = line(&Line { envelope: ENVELOPE, request: head }, 0);
    assert!(refused(FORWARD, &body).contains("0 are there"));
}

#[test]
fn decode_request_refuses_entries_with_a_gap_or_a_falling_term() {
    let good = append(Position::new(5, 2), &[b"a".to_vec(), b"b".to_vec()]);
    let gap = AppendEntriesRequest { entries: vec![good.entries[1].clone()], ..good.clone() };
    let falling = AppendEntriesRequest { prev: Position::new(5, 4), term: 4, ..good.clone() };
    let newer = AppendEntriesRequest { prev: Position::new(5, 4), entries: vec![], ..good.clone() };
    let body = encode_request(ENVELOPE, &PeerRequest::AppendEntries(newer));
    assert!(refused(APPEND_ENTRIES, &body).contains("higher term"));
    let future = AppendEntriesRequest { term: 2, ..good };
    for bad in [gap, falling, future] {
        let body = encode_request(ENVELOPE, &PeerRequest::AppendEntries(bad));
        assert!(refused(APPEND_ENTRIES, &body).starts_with("entry "));
    }
}

#[test]
fn decode_found_gives_back_both_forms() {
    let found = Found {
        protocol: 1,
        cluster_id: ClusterId(5),
        settings: Settings::default(),
        members: Membership::default(),
        restored: None,
    };
    let entry = Entry::new(Position::new(1, 1), 0, &Payload::Found(found));
    let unborn = Unborn {
        protocol: PROTOCOL,
        node_id: "node1".into(),
        member_id: MemberId(4),
        peers: PeerList::from(vec![]),
        restored: None,
    };
    let members = Membership::default();
    let store = StoreFound { target: MemberId(8), entry, members };
    for request in [FoundRequest::Ask(unborn), FoundRequest::Store(store)] {
        let body = encode_found(&request);
        assert_eq!(decode_found(&body), Ok(request));
        assert!(decode_found(&[&body[..], b"x"].concat()).is_err());
    }
}

#[test]
fn decode_reply_refuses_another_number_of_results_than_writes() {
    let reply = PeerReply::Forward(vec![Err(Failure::new(FailureKind::Overloaded, "full"))]);
    let body = encode_reply(&reply);
    assert_eq!(decode_reply(FORWARD, 1, &body), Ok(reply));
    assert!(decode_reply(FORWARD, 2, &body).is_err());
}

proptest! {
    #[test]
    fn decode_request_is_the_inverse_of_encode(
        index in 0u64..1 << 40, term in 0u64..1 << 40, commands: Vec<Vec<u8>>, remaining_ms: u64,
    ) {
        roundtrip(PeerRequest::AppendEntries(append(Position::new(index, term), &commands)));
        let write = |command| ForwardedWrite { command, remaining_ms };
        roundtrip(PeerRequest::Forward(commands.into_iter().map(write).collect()));
    }

    #[test]
    fn decode_request_refuses_every_flipped_bit_and_cut_behind_the_line(
        commands in prop::collection::vec(any::<Vec<u8>>(), 1..4), at: usize, bit in 0u8..8,
    ) {
        let request = PeerRequest::AppendEntries(append(Position::new(3, 2), &commands));
        let body = encode_request(ENVELOPE, &request);
        let behind = body.iter().position(|&b| b == b'\n').unwrap() + 1;
        let at = behind + at % (body.len() - behind);
        prop_assert!(decode_request(APPEND_ENTRIES, &body[..at]).is_err());
        let mut flipped = body;
        flipped[at] ^= 1 << bit;
        prop_assert!(decode_request(APPEND_ENTRIES, &flipped).is_err());
    }

    #[test]
    fn decoders_survive_any_bytes(body: Vec<u8>) {
        for route in [REQUEST_VOTE, APPEND_ENTRIES, READ_INDEX, FORWARD] {
            prop_assert!(decode_request(route, &body).is_err());
            prop_assert!(decode_reply(route, 0, &body).is_err() || body.first() == Some(&b'['));
        }
        prop_assert!(decode_found(&body).is_err());
    }
}
