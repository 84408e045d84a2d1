//! Values as the checker sees them, and what additions make of them.

/// A value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    /// Some text, by its number. Nothing can be added to it.
    Text(u64),
    /// A decimal integer in its canonical form: a counter.
    Number(i64),
}

impl Value {
    /// The value that an addition leaves; None where nothing can be added, or it would leave the 64 bits.
    pub(super) fn plus(now: Option<Value>, amount: i64) -> Option<Value> {
        match now {
            None => Some(Value::Number(amount)),
            Some(Value::Number(number)) => number.checked_add(amount).map(Value::Number),
            Some(Value::Text(_)) => None,
        }
    }
}

/// The integer that a value is, in the form that it is printed in.
pub(super) fn canonical(value: &str) -> Option<Value> {
    value.parse::<i64>().ok().filter(|number| number.to_string() == value).map(Value::Number)
}

/// Most amounts of which the sums are tried.
const MAX_AMOUNTS: usize = 24;

/// Whether some of the amounts, or none, may add up to `gap`. Where there are too many to try, they may.
pub(super) fn may_add_up(mut amounts: Vec<i64>, gap: i128) -> bool {
    fn tries(amounts: &[i64], ends: &[(i128, i128)], gap: i128) -> bool {
        let Some((first, rest)) = amounts.split_first() else { return gap == 0 };
        let (least, most) = ends[0];
        (least..=most).contains(&gap)
            && (tries(rest, &ends[1..], gap) || tries(rest, &ends[1..], gap - i128::from(*first)))
    }
    if amounts.len() > MAX_AMOUNTS {
        return true;
    }
    // The large ones first: soon the small ones cannot fill the gap any more.
    amounts.sort_unstable_by_key(|amount| std::cmp::Reverse(amount.unsigned_abs()));
    let mut ends = vec![(0, 0)];
    for amount in amounts.iter().rev().map(|amount| i128::from(*amount)) {
        let (least, most) = ends[0];
        ends.insert(0, (least + amount.min(0), most + amount.max(0)));
    }
    tries(&amounts, &ends, gap)
}
