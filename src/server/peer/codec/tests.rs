use super::*;
use crate::node::{AdminFailure, AdminFailureKind, Failure, FailureKind, Peer, PeerList};
use crate::raft::{
    AppendEntriesReply, AppendOutcome, Genesis, InstallOutcome, InstallSnapshotReply, Member,
    MembershipChange, PROTOCOL, Payload, RequestVoteReply, RestoredState, Settings, TimeoutNowReply,
};
use crate::store::{Applied, Outcome};
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
    for other in [APPEND_ENTRIES, READ_INDEX, FORWARD, BOOTSTRAP, "/raft/none"] {
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
    let genesis = Genesis {
        protocol: 1,
        cluster_id: ClusterId(5),
        settings: Settings::default(),
        members: Membership::default(),
        restored: None,
    };
    let entry = Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis));
    let uninitialized = Uninitialized {
        protocol: PROTOCOL,
        node_id: "node1".into(),
        member_id: MemberId(4),
        peers: PeerList::from(vec![]),
        restored: None,
    };
    let members = Membership::default();
    let store = StoreGenesis { target: MemberId(8), entry, members };
    for request in [BootstrapRequest::Ask(uninitialized), BootstrapRequest::Store(store)] {
        let body = encode_bootstrap(&request);
        assert_eq!(decode_bootstrap(&body), Ok(request));
        assert!(decode_bootstrap(&[&body[..], b"x"].concat()).is_err());
    }
}

#[test]
fn decode_reply_refuses_another_number_of_results_than_writes() {
    let reply = PeerReply::Forward(vec![Err(Failure::new(FailureKind::Overloaded, "full"))]);
    let body = encode_reply(&reply);
    assert_eq!(decode_reply(FORWARD, 1, &body), Ok(reply));
    assert!(decode_reply(FORWARD, 2, &body).is_err());
}

/// The body with one more field in the `nth` object of its line that has several: what a newer member may say. The only
/// field of an object may be the name of an enum's variant, which stands alone. None: there are fewer objects.
fn with_unknown_field(body: &[u8], nth: usize) -> Option<Vec<u8>> {
    fn visit(value: &mut serde_json::Value, left: &mut usize) -> bool {
        match value {
            serde_json::Value::Object(map) => {
                if map.len() > 1 {
                    if *left == 0 {
                        map.insert("said_by_a_newer_member".to_owned(), serde_json::json!({"more": [1]}));
                        return true;
                    }
                    *left -= 1;
                }
                map.values_mut().any(|value| visit(value, left))
            }
            serde_json::Value::Array(values) => values.iter_mut().any(|value| visit(value, left)),
            _ => false,
        }
    }
    let (head, rest) = split(body);
    let mut line: serde_json::Value = serde_json::from_slice(head).unwrap();
    let mut left = nth;
    visit(&mut line, &mut left).then(|| [line.to_string().as_bytes(), b"\n", rest].concat())
}

/// Decodes the body as it is and with an unknown field in each place: it is always the same.
fn ignores_unknown_fields<T: PartialEq + std::fmt::Debug>(
    body: &[u8],
    places: usize,
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) {
    let expected = decode(body).unwrap();
    let mut tried = 0;
    while let Some(more) = with_unknown_field(body, tried) {
        assert_eq!(decode(&more).as_ref(), Ok(&expected), "{}", String::from_utf8_lossy(&more));
        tried += 1;
    }
    assert_eq!(tried, places, "{}", String::from_utf8_lossy(body));
}

#[test]
fn a_field_that_a_newer_member_says_is_ignored_in_every_line() {
    let member = Member {
        node_id: "n6".into(),
        member_id: MemberId(6),
        raft_addr: "a:1".into(),
        http_addr: "a:2".into(),
        voter: true,
        promote: false,
    };
    let members = Membership { members: vec![member.clone()] };
    let piece = InstallSnapshotRequest {
        term: 3,
        leader: ENVELOPE.from,
        last: Position::new(4, 2),
        size: 3,
        crc: 1,
        offset: 0,
        data: b"abc".to_vec(),
    };
    let change = Administration::Change(MembershipChange::Add(member, Some(1)));
    for (request, places) in [
        (PeerRequest::RequestVote(vote(5)), 4),
        (PeerRequest::AppendEntries(append(Position::new(5, 2), &[b"a".to_vec()])), 4),
        (PeerRequest::ReadIndex { remaining_ms: 17 }, 2),
        (PeerRequest::Forward(vec![ForwardedWrite { command: Draft::command(b"c"), remaining_ms: 1 }]), 3),
        (PeerRequest::InstallSnapshot(piece), 4),
        (PeerRequest::TimeoutNow(TimeoutNowRequest { term: 3, leader: ENVELOPE.from }), 2),
        (PeerRequest::Administer { what: change, remaining_ms: 9 }, 4),
    ] {
        let body = encode_request(ENVELOPE, &request);
        ignores_unknown_fields(&body, places, |body| decode_request(route(&request), body));
    }
    let failure = || Failure::new(FailureKind::Overloaded, "full");
    let put = Outcome::Put { revision: 2, create_revision: 2, version: 1 };
    let applied = Applied { index: 9, outcome: put, replayed: false };
    let outcome = AppendOutcome::Accepted { received: 4, match_index: 3 };
    let refused = AdminFailure::new(AdminFailureKind::Refused, "no");
    for (route, reply, places) in [
        (REQUEST_VOTE, PeerReply::RequestVote(RequestVoteReply { term: 4, granted: true, protocol: 2 }), 1),
        (APPEND_ENTRIES, PeerReply::AppendEntries(AppendEntriesReply { term: 4, outcome, protocol: 2 }), 2),
        (READ_INDEX, PeerReply::ReadIndex(Err(failure())), 1),
        (FORWARD, PeerReply::Forward(vec![Ok(applied), Err(failure())]), 3),
        (
            INSTALL_SNAPSHOT,
            PeerReply::InstallSnapshot(InstallSnapshotReply {
                term: 4,
                outcome: InstallOutcome::Wants(7),
                protocol: 2,
            }),
            1,
        ),
        (TIMEOUT_NOW, PeerReply::TimeoutNow(TimeoutNowReply { term: 4, campaigns: true }), 1),
        (ADMINISTER, PeerReply::Administer(Err(refused)), 1),
    ] {
        ignores_unknown_fields(&encode_reply(&reply), places, |body| decode_reply(route, 2, body));
    }
    let peer = Peer { node_id: "n6".into(), raft_addr: "a:1".into(), http_addr: "a:2".into() };
    let peers = PeerList::from(vec![peer]);
    let restored = Some(RestoredState { revision: 7, state_hash: 8 });
    let uninitialized = Uninitialized {
        node_id: "n6".into(),
        member_id: MemberId(6),
        peers: peers.clone(),
        restored,
        protocol: 2,
    };
    ignores_unknown_fields(
        &encode_bootstrap(&BootstrapRequest::Ask(uninitialized.clone())),
        3,
        decode_bootstrap,
    );
    let entry = append(Position::ZERO, &[b"a".to_vec()]).entries[0].clone();
    let store = StoreGenesis { target: MemberId(6), entry, members: members.clone() };
    ignores_unknown_fields(&encode_bootstrap(&BootstrapRequest::Store(store)), 2, decode_bootstrap);
    let initialized = BootstrapReply::Initialized {
        node_id: "n6".into(),
        member_id: MemberId(6),
        cluster_id: ClusterId(1),
        members,
        initial_members: peers,
        protocol: 2,
    };
    ignores_unknown_fields(&encode_bootstrap_reply(&initialized), 3, decode_bootstrap_reply);
    let uninitialized = BootstrapReply::Uninitialized(uninitialized.clone());
    ignores_unknown_fields(&encode_bootstrap_reply(&uninitialized), 3, decode_bootstrap_reply);
}

#[test]
fn decode_request_tells_a_frame_of_a_later_program_from_a_damaged_one() {
    let request = append(Position::new(5, 2), &[b"a".to_vec()]);
    let body = encode_request(ENVELOPE, &PeerRequest::AppendEntries(request));
    let frame_at = body.iter().position(|&b| b == b'\n').unwrap() + 1;
    let mut newer = body.clone();
    newer[frame_at + 8] = 77;
    let sum = |frame: &[u8]| crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    let crc = sum(&newer[frame_at..]);
    newer[frame_at + 4..frame_at + 8].copy_from_slice(&crc.to_le_bytes());
    let Err(CodecError::Newer(envelope, text)) = decode_request(APPEND_ENTRIES, &newer) else { panic!() };
    assert!(envelope == ENVELOPE && text.contains("kind 77"), "{text}");
    newer[frame_at + 9] ^= 1;
    assert!(matches!(decode_request(APPEND_ENTRIES, &newer), Err(CodecError::Body(_))));
}

proptest! {
    #[test]
    fn decode_request_is_the_inverse_of_encode(
        index in 0u64..1 << 40, term in 0u64..1 << 40, commands: Vec<Vec<u8>>, remaining_ms: u64,
    ) {
        roundtrip(PeerRequest::AppendEntries(append(Position::new(index, term), &commands)));
        let write = |command: Vec<u8>| ForwardedWrite { command: Draft::command(&command), remaining_ms };
        roundtrip(PeerRequest::Forward(commands.into_iter().map(write).collect()));
    }

    #[test]
    fn decode_request_refuses_every_flipped_bit_and_cut_after_the_line(
        commands in prop::collection::vec(any::<Vec<u8>>(), 1..4), at: usize, bit in 0u8..8,
    ) {
        let request = PeerRequest::AppendEntries(append(Position::new(3, 2), &commands));
        let body = encode_request(ENVELOPE, &request);
        let after = body.iter().position(|&b| b == b'\n').unwrap() + 1;
        let at = after + at % (body.len() - after);
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
        prop_assert!(decode_bootstrap(&body).is_err());
    }
}
