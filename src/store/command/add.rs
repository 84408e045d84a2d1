//! A number is added to the integer that a key holds. An absent key counts as 0.
//!
//! ```text
//! 4, n  key     length, then bytes
//!    8  amount  signed, in two's complement
//! ```
//!
//! The value of a counter is text: a decimal integer of 64 bits in its one canonical form, as everybody can read and put
//! it. A key whose value is anything else is left as it is, and so is a counter that would leave the 64 bits.

use super::{Change, CommandError, Condition, Fingerprint, Op, Outcome, Reader, failed_condition, put_sized};

/// Longest canonical form: the sign and 19 digits.
const MAX_DIGITS: usize = 20;

pub(super) fn encoded_len(key: &[u8]) -> usize {
    12 + key.len()
}

pub(super) fn encode(key: &[u8], amount: i64, out: &mut Vec<u8>) {
    put_sized(key, out);
    out.extend_from_slice(&amount.to_le_bytes());
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Op, CommandError> {
    let key = reader.sized("key")?;
    Ok(Op::Add { key, amount: i64::from_le_bytes(reader.array("amount")?) })
}

pub(super) fn hash(key: &[u8], amount: i64, hash: &mut Fingerprint) {
    hash.sized(key).sized(&amount.to_le_bytes());
}

pub(super) fn execute(
    key: Vec<u8>,
    amount: i64,
    condition: Option<Condition>,
    change: &mut Change<'_>,
) -> Outcome {
    if let Some(failed) = failed_condition(condition, &key, change) {
        return failed;
    }
    let revision = change.base_revision();
    let found = change.before(&key);
    let (mod_revision, version) = found.map_or((0, 0), |found| (found.mod_revision, found.version));
    let Some(now) = found.map_or(Some(0), |found| integer(found.value)) else {
        return Outcome::NotAnInteger { revision, mod_revision, version };
    };
    let Some(value) = now.checked_add(amount) else {
        return Outcome::OutOfRange { revision, mod_revision, version, value: now };
    };
    // The counter of somebody who may go away stays theirs.
    let lease = found.and_then(|found| found.lease);
    let (_, version) = change.put(key, value.to_string().into_bytes(), lease);
    Outcome::Added { revision: change.revision(), version, value }
}

/// The integer with this canonical form: digits without a leading zero, and a minus sign before them when it is less
/// than 0.
fn integer(value: &[u8]) -> Option<i64> {
    let text = str::from_utf8(value).ok().filter(|text| text.len() <= MAX_DIGITS)?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_takes_the_canonical_form_alone() {
        for number in [0, 1, -1, 10, 9_007_199_254_740_993, i64::MAX, i64::MIN] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        let others: [&[u8]; 16] = [
            b"",
            b"-",
            b"+1",
            b"-0",
            b"00",
            b"01",
            b"-01",
            b" 1",
            b"1 ",
            b"1\n",
            b"1.0",
            b"1e3",
            b"0x1",
            b"\xff",
            b"9223372036854775808",
            b"-9223372036854775809",
        ];
        for other in others {
            assert_eq!(integer(other), None, "{}", String::from_utf8_lossy(other));
        }
        // Digits of other alphabets are no digits.
        assert_eq!(integer("\u{661}".as_bytes()), None);
    }
}
