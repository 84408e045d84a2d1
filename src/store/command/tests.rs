mod txn;

use super::*;
use crate::store::operations::any_op;
use crate::vocabulary::{LeaseId, PutLease};
use proptest::prelude::*;

fn full() -> Command {
    Command {
        op: Op::put(b"k".to_vec(), b"vw".to_vec()),
        condition: Some(Condition::ModRevision(7)),
        idempotency: Some(Idempotency { key: "id".into(), request_hash: 0x0102 }),
        wall_ms: 0x0a0b,
        actor: "me".into(),
    }
}

fn any_condition() -> impl Strategy<Value = Option<Condition>> {
    prop_oneof![
        Just(None),
        any::<u64>().prop_map(|n| Some(Condition::ModRevision(n))),
        Just(Some(Condition::Exists)),
        Just(Some(Condition::Absent)),
        any::<u64>().prop_map(|n| Some(Condition::Version(n))),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let idempotency = proptest::option::of(
        ("[A-Za-z0-9._~-]{0,64}", any::<u128>())
            .prop_map(|(key, request_hash)| Idempotency { key, request_hash }),
    );
    let ranges = any::<(Vec<u8>, Option<Vec<u8>>)>().prop_map(|(start, end)| KeyRange::between(start, end));
    let op = any_op(any::<Vec<u8>>(), any::<Vec<u8>>(), ranges, any::<i64>());
    (op, any_condition(), idempotency, any::<u64>(), any::<String>()).prop_map(
        |(op, condition, idempotency, wall_ms, actor)| {
            let condition = condition.filter(|_| op.kind().takes_condition());
            Command { op, condition, idempotency, wall_ms, actor }
        },
    )
}

#[test]
fn encode_writes_the_documented_bytes() {
    let mut want = vec![1, 1, 1, 1];
    want.extend_from_slice(&[0x0b, 0x0a, 0, 0, 0, 0, 0, 0]);
    want.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    want.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    want.extend_from_slice(&[2, b'i', b'd', 2, 0, b'm', b'e', 1, 0, 0, 0, b'k', 2, 0, 0, 0, b'v', b'w', 0]);
    assert_eq!(full().encode(), want);

    let by_version = Command { condition: Some(Condition::Version(7)), ..full() };
    want[2] = 4;
    assert_eq!(by_version.encode(), want, "a version stands where a revision stands");

    let delete = Command {
        op: Op::Delete { key: b"k".to_vec() },
        condition: None,
        idempotency: None,
        wall_ms: 0,
        actor: String::new(),
    };
    assert_eq!(delete.encode(), [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'k']);

    let of = |range| Command { op: Op::DeleteRange { range }, ..delete.clone() }.encode();
    let head = [1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let start_and_end = [1, 0, 0, 0, b'k', 1, 2, 0, 0, 0, b'l', b'm'];
    assert_eq!(of(KeyRange::new(b"", b"k", b"lm")), [&head[..], &start_and_end].concat());
    assert_eq!(of(KeyRange::new(b"", b"", b"")), [&head[..], &[0, 0, 0, 0, 0]].concat());
    let add = Command { op: Op::Add { key: b"k".to_vec(), amount: -2 }, ..delete.clone() };
    let bytes =
        [1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'k', 0xfe, 255, 255, 255, 255, 255, 255, 255];
    assert_eq!(add.encode(), bytes);
    let lease = LeaseId::new(0x0102).unwrap();
    let of_op = |op| Command { op, ..delete.clone() }.encode()[14..].to_vec();
    let (two, ttl) = ([2, 1, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]);
    let grant = Op::LeaseGrant { lease, ttl_s: 9, is_chosen: true };
    assert_eq!(of_op(grant), [&two[..], &ttl, &[1]].concat());
    for op in [Op::LeaseRenew { leases: vec![lease] }, Op::LeaseExpire { leases: vec![lease] }] {
        assert_eq!(of_op(op), [&[1, 0, 0, 0], &two[..]].concat());
    }
    assert_eq!(of_op(Op::LeaseRevoke { lease }), two);
    assert_eq!(of_op(Op::Compact { revision: 0x0102 }), two);
    let leased = |lease| of_op(Op::Put { key: b"k".to_vec(), value: Vec::new(), lease })[9..].to_vec();
    assert_eq!(leased(PutLease::Attach(lease)), [&[1], &two[..]].concat());
    assert_eq!(leased(PutLease::Own { lease, ttl_s: 9 }), [&[2], &two[..], &ttl].concat());
    assert_eq!(leased(PutLease::Keep), [3]);
    let mut bad = of(KeyRange::new(b"", b"", b""));
    bad[18] = 2;
    assert_eq!(Command::decode(&bad), Err(CommandError::Unknown { field: "ends", value: 2 }));
}

#[test]
fn decode_names_what_is_wrong() {
    let good = full().encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Command::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(CommandError::Version(2)));
    assert_eq!(with(1, 99), Err(CommandError::Operation(99)));
    assert_eq!(with(1, 3), Err(CommandError::Condition("delete_range")));
    assert_eq!(with(2, 5), Err(CommandError::Unknown { field: "condition", value: 5 }));
    assert_eq!(with(3, 2), Err(CommandError::Unknown { field: "idempotent", value: 2 }));
    assert_eq!(with(37, 0xff), Err(CommandError::Text("idempotency")));
    assert_eq!(with(41, 0xff), Err(CommandError::Text("actor")));
    assert_eq!(with(46, 0xff), Err(CommandError::Short("key")));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Command::decode(&longer), Err(CommandError::Trailing(1)));
}

#[test]
fn decode_refuses_what_no_lease_is_called_or_lives() {
    let lease = LeaseId::MIN;
    let head = Command {
        op: Op::LeaseGrant { lease, ttl_s: 1, is_chosen: false },
        condition: None,
        idempotency: None,
        wall_ms: 0,
        actor: String::new(),
    };
    let good = head.encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut all = good.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        Command::decode(&all)
    };
    assert_eq!(with(14, &[0]), Err(CommandError::Lease(0)));
    assert_eq!(with(21, &[0x80]), Err(CommandError::Lease(1 << 63 | 1)));
    assert_eq!(with(22, &[0]), Err(CommandError::Ttl(0)));
    assert_eq!(with(22, &[0xff; 8]), Err(CommandError::Ttl(u64::MAX)));
    assert_eq!(with(30, &[2]), Err(CommandError::Unknown { field: "chosen", value: 2 }));
    let many = Command { op: Op::LeaseRenew { leases: vec![lease; 10_000] }, ..head };
    let mut bytes = many.encode();
    assert_eq!(Command::decode(&bytes), Ok(many));
    bytes[14..18].copy_from_slice(&10_001u32.to_le_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Command::decode(&bytes), Err(CommandError::TooManyLeases(10_001)));
}

/// What a newer program wrote can be told from what no program wrote.
#[test]
fn decode_tells_a_newer_command_from_bytes_that_are_none() {
    let good = full().encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Command::decode(&bytes).map_err(|e| e.is_newer())
    };
    assert_eq!((with(0, 2), with(1, 99)), (Err(true), Err(true)));
    assert_eq!(with(0, 0), Err(false), "no version 0 ever was");
    assert_eq!(with(2, 5), Err(true), "a condition that is not known");
    for (at, byte) in [(3, 2), (37, 0xff), (46, 0xff)] {
        assert_eq!(with(at, byte), Err(false), "byte {at}");
    }
    assert_eq!(Command::decode(&[]).map_err(|e| e.is_newer()), Err(false));
    assert_eq!(Command::decode(&[99]).map_err(|e| e.is_newer()), Err(true), "whatever follows");
    assert_eq!(Command::decode(&[1, 99]).map_err(|e| e.is_newer()), Err(true));
}

#[test]
fn request_hash_is_the_same_for_ever() {
    let put = Op::put(b"k".to_vec(), b"v".to_vec());
    let delete = Op::Delete { key: b"k".to_vec() };
    const WANT: [&str; 3] = [
        "d38d5c7d45a0a9a7f13f3a7c25dbee44",
        "38b667ed5844f3c442fd4acc812d53eb",
        "26a603d0fab454886118c5f90158192f",
    ];
    let hashes = [
        request_hash(&put, None),
        request_hash(&put, Some(Condition::ModRevision(3))),
        request_hash(&delete, Some(Condition::Exists)),
    ];
    assert_eq!(hashes.map(|h| format!("{h:032x}")), WANT);
}

#[test]
fn request_hash_tells_requests_apart() {
    let put = |key: &[u8], value: &[u8]| Op::put(key.to_vec(), value.to_vec());
    let range = |prefix: &[u8], start: &[u8], end: &[u8]| Op::DeleteRange {
        range: KeyRange::new(prefix, start, end),
    };
    assert_eq!(request_hash(&range(b"a", b"", b""), None), request_hash(&range(b"", b"a", b"b"), None));
    let requests = [
        (put(b"ab", b"c"), None),
        (put(b"a", b"bc"), None),
        (put(b"ab", b""), None),
        (Op::Delete { key: b"ab".to_vec() }, None),
        (range(b"", b"ab", b""), None),
        (Op::Add { key: b"ab".to_vec(), amount: 0 }, None),
        (Op::Add { key: b"ab".to_vec(), amount: 1 }, None),
        (Op::Add { key: b"ab".to_vec(), amount: -1 }, None),
        (range(b"", b"ab", b"c"), None),
        (range(b"ab", b"", b""), None),
        (range(b"", b"", b""), None),
        (put(b"ab", b"c"), Some(Condition::Exists)),
        (put(b"ab", b"c"), Some(Condition::Absent)),
        (put(b"ab", b"c"), Some(Condition::ModRevision(0))),
        (put(b"ab", b"c"), Some(Condition::ModRevision(1))),
        (put(b"ab", b"c"), Some(Condition::Version(1))),
        (put(b"ab", b"c"), Some(Condition::Version(2))),
    ];
    let hashes: std::collections::BTreeSet<u128> =
        requests.iter().map(|(op, condition)| request_hash(op, *condition)).collect();
    assert_eq!(hashes.len(), requests.len());
}

proptest! {
    #[test]
    fn decode_is_the_inverse_of_encode(command in any_command()) {
        let bytes = command.encode();
        prop_assert_eq!(bytes.capacity() - bytes.len() <= 16, true, "one allocation, close to exact");
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
    }

    #[test]
    fn decode_refuses_every_cut(command in any_command(), cut: usize) {
        let bytes = command.encode();
        let is_short = matches!(Command::decode(&bytes[..cut % bytes.len()]), Err(CommandError::Short(_)));
        prop_assert!(is_short);
    }

    #[test]
    fn decode_takes_arbitrary_bytes_without_panic(bytes: Vec<u8>) {
        let _ = Command::decode(&bytes);
    }

    #[test]
    fn decode_has_one_byte_form_per_command(command in any_command(), at: usize, byte: u8) {
        let mut bytes = command.encode();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(other) = Command::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}
