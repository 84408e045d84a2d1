//! The byte form of transactions.

use super::*;
use crate::vocabulary::PutLease;
use crate::vocabulary::{Compare, Keys, Operator, Target, Txn, TxnError, TxnList, TxnOp};

const HEAD: [u8; 14] = [1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn bytes(txn: Txn) -> Vec<u8> {
    let command =
        Command { op: Op::Txn { txn }, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
    command.encode()
}

/// One of everything.
fn full() -> Txn {
    let list = |range, revision, is_descending, keys_only, count_only| {
        TxnOp::List(TxnList { range, revision, limit: 3, is_descending, keys_only, count_only })
    };
    let inner = Txn {
        compares: vec![Compare {
            keys: Keys::Range(KeyRange::new(b"", b"k", b"l")),
            operator: Operator::Greater,
            target: Target::Value(b"v".to_vec()),
        }],
        then: vec![TxnOp::Put { key: b"p".to_vec(), value: None, lease: PutLease::None, prev: true }],
        otherwise: vec![TxnOp::Delete { keys: Keys::Range(KeyRange::new(b"", b"q", b"")), prev: true }],
    };
    Txn {
        compares: vec![Compare {
            keys: Keys::One(b"k".to_vec()),
            operator: Operator::NotEqual,
            target: Target::ModRevision(9),
        }],
        then: vec![
            TxnOp::Put {
                key: b"k".to_vec(),
                value: Some(b"vw".to_vec()),
                lease: PutLease::None,
                prev: false,
            },
            TxnOp::Delete { keys: Keys::One(b"m".to_vec()), prev: false },
            TxnOp::Get { key: b"k".to_vec(), revision: None },
            TxnOp::Get { key: b"k".to_vec(), revision: Some(8) },
            list(KeyRange::new(b"", b"k", b""), None, true, true, false),
        ],
        otherwise: vec![list(KeyRange::new(b"", b"", b"k"), Some(8), false, false, true), TxnOp::Txn(inner)],
    }
}

#[test]
fn encode_writes_the_documented_bytes_of_a_transaction() {
    let one = |key: u8| [1, 0, 0, 0, key];
    let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
    let mut want = HEAD.to_vec();
    let mut add = |parts: &[&[u8]]| want.extend(parts.concat());
    add(&[&[1, 0], &[3, 2, 1], &one(b'k'), &number(9)]);
    add(&[&[5, 0], &[1], &one(b'k'), &[1, 2, 0, 0, 0, b'v', b'w', 0, 0]]);
    add(&[&[2, 1], &one(b'm'), &[0]]);
    add(&[&[3], &one(b'k'), &[0], &[3], &one(b'k'), &[1], &number(8)]);
    add(&[&[4, 2], &one(b'k'), &[0], &[0], &number(3), &[3, 0, 0]]);
    add(&[&[2, 0], &[4, 2, 0, 0, 0, 0, 1], &one(b'k'), &[1], &number(8), &number(3), &[4, 0, 0]]);
    add(&[&[5], &[1, 0], &[4, 4, 2], &one(b'k'), &[1], &one(b'l'), &one(b'v')]);
    add(&[&[1, 0], &[1], &one(b'p'), &[0, 0, 1], &[1, 0], &[2, 2], &one(b'q'), &[0, 1]]);
    assert_eq!(bytes(full()), want);
    let Op::Txn { txn } = Command::decode(&want).unwrap().op else { panic!("a transaction") };
    assert_eq!(txn, full());
}

/// What is reserved for later programs is told from what no program writes.
#[test]
fn decode_knows_the_bytes_of_a_transaction_that_a_newer_program_may_write() {
    let good = bytes(full());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Command::decode(&bytes).unwrap_err()
    };
    let unknown = |field, value| CommandError::Unknown { field, value };
    let find = |part: &[u8]| good.windows(part.len()).position(|window| window == part).expect("it is there");
    let put = find(&[1, 2, 0, 0, 0, b'v', b'w', 0, 0]);
    let list = find(&[3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]);
    for (at, byte, field, is_newer) in [
        (16, 6, "target", true),
        (17, 5, "operator", false),
        (18, 3, "keys", true),
        (put + 7, 4, "lease", true),
        (put + 8, 2, "prev", false),
        (put, 2, "value", false),
        (list + 8, 8, "flags", true),
        (list + 9, 1, "sort", true),
        (list + 10, 1, "filters", true),
    ] {
        let error = with(at, byte);
        assert_eq!((error.clone(), error.is_newer()), (unknown(field, byte), is_newer), "byte {at}");
    }
    assert!(with(2, 1) == CommandError::Condition("txn"));
}

/// A member executes what it decodes: what [`Change`] does not survive must not get that far.
#[test]
fn decode_refuses_a_transaction_that_no_state_machine_can_execute() {
    let put = |key: &[u8]| TxnOp::Put {
        key: key.to_vec(),
        value: Some(Vec::new()),
        lease: PutLease::None,
        prev: false,
    };
    let mut twice = bytes(Txn { then: vec![put(b"a"), put(b"b")], ..Txn::default() });
    let at = twice.iter().rposition(|byte| *byte == b'b').unwrap();
    twice[at] = b'a';
    let error = CommandError::Txn(TxnError::WrittenTwice(b"a".to_vec()));
    assert_eq!(Command::decode(&twice), Err(error.clone()));
    assert!(!error.is_newer());
    // Nested without end: the depth is looked at before the next level is.
    let deep = [&HEAD[..], &[0, 0, 1, 0, 5].repeat(100_000)].concat();
    assert_eq!(Command::decode(&deep), Err(CommandError::Txn(TxnError::TooDeep)));
    let many = [&HEAD[..], &[0, 0, 0xff, 0xff]].concat();
    assert!(matches!(Command::decode(&many), Err(CommandError::Short(_))), "and takes no memory for it");
}

#[test]
#[should_panic(expected = "is written twice")]
fn encode_refuses_a_transaction_that_writes_a_key_twice() {
    let put =
        || TxnOp::Put { key: b"a".to_vec(), value: Some(Vec::new()), lease: PutLease::None, prev: false };
    bytes(Txn { then: vec![put(), put()], ..Txn::default() });
}

#[test]
fn request_hash_tells_transactions_apart() {
    let of = |txn: Txn| request_hash(&Op::Txn { txn }, None);
    let mut other = full();
    other.compares[0].operator = Operator::Equal;
    let swapped = Txn { then: full().otherwise, otherwise: full().then, compares: full().compares };
    let hashes = [of(full()), of(other), of(swapped), of(Txn::default())];
    let distinct: std::collections::BTreeSet<u128> = hashes.into_iter().collect();
    assert_eq!(distinct.len(), hashes.len());
    assert_eq!(of(full()), of(full()));
}
