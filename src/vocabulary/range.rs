//! Some keys that lie side by side.

/// Some keys that lie side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first one; empty: from the very first.
    start: Vec<u8>,
    /// Before this one; None: to the very last.
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// The keys that begin with `prefix`, are not less than `start`, and are less than `end`. Empty = no limit.
    pub fn new(prefix: &[u8], start: &[u8], end: &[u8]) -> KeyRange {
        let end = Some(end).filter(|end| !end.is_empty()).map(<[u8]>::to_vec);
        let ends = [end, after_prefix(prefix)];
        KeyRange { start: prefix.max(start).to_vec(), end: ends.into_iter().flatten().min() }
    }

    /// The keys that are not less than `start` and, where there is an `end`, less than that.
    pub fn between(start: Vec<u8>, end: Option<Vec<u8>>) -> KeyRange {
        KeyRange { start, end }
    }

    /// The first key that can belong to it; empty: no limit.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key after it; None: no limit.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether `key` belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The smallest byte string that is larger than every byte string with this prefix.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: &str, start: &str, end: &str) -> KeyRange {
        KeyRange::new(prefix.as_bytes(), start.as_bytes(), end.as_bytes())
    }

    #[test]
    fn new_intersects_prefix_start_and_end() {
        let all = ["", "a", "a/", "a/1", "a/2", "a0", "b"];
        let of =
            |range: KeyRange| all.into_iter().filter(|k| range.contains(k.as_bytes())).collect::<Vec<_>>();
        assert_eq!(of(range("", "", "")), all);
        assert_eq!(of(range("a/", "", "")), ["a/", "a/1", "a/2"]);
        assert_eq!(of(range("a/", "a/1", "")), ["a/1", "a/2"]);
        assert_eq!(of(range("a/", "a", "a/2")), ["a/", "a/1"]);
        assert_eq!(of(range("a/", "b", "")), [""; 0]);
        assert_eq!(of(range("", "a", "b")), ["a", "a/", "a/1", "a/2", "a0"]);
        assert_eq!(of(range("", "a0", "a")), [""; 0]);
    }

    #[test]
    fn after_prefix_carries_over_the_greatest_byte() {
        assert_eq!(after_prefix(b"a"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xfe\xff"), Some(b"\xff".to_vec()));
        assert_eq!((after_prefix(b"\xff\xff"), after_prefix(b"")), (None, None));
    }
}
