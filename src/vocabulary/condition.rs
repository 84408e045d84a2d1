//! What must hold of a key before a write changes it.

use serde::{Deserialize, Serialize};

/// The header that names the state a write needs: a revision, or any.
const IF_MATCH: &str = "If-Match";

/// The header that names the state a write must not find.
const IF_NONE_MATCH: &str = "If-None-Match";

/// The header that names the version a write needs. dkv's own.
const IF_VERSION: &str = "If-Version";

/// What must hold of a key for a write to be done. Its JSON name is its name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// It exists and was last changed at this revision (`If-Match: "n"`). No key has revision 0, so 0 never holds.
    ModRevision(u64),
    /// It exists (`If-Match: *`).
    Exists,
    /// It does not exist (`If-None-Match: *`).
    Absent,
    /// It was put so many times since it was created (`If-Version: n`); 0 = it does not exist, as [`Condition::Absent`] says.
    Version(u64),
}

impl Condition {
    /// The tag in place of a condition where there is none.
    pub const NO_TAG: u8 = 0;

    /// Its number in commands and in request hashes.
    pub fn tag(self) -> u8 {
        match self {
            Condition::ModRevision(_) => 1,
            Condition::Exists => 2,
            Condition::Absent => 3,
            Condition::Version(_) => 4,
        }
    }

    /// The revision or the version that it names; None when it names none.
    pub fn number(self) -> Option<u64> {
        match self {
            Condition::ModRevision(number) | Condition::Version(number) => Some(number),
            Condition::Exists | Condition::Absent => None,
        }
    }

    /// The condition with this tag and, where it names one, this number.
    pub fn from_tag(tag: u8, number: u64) -> Option<Condition> {
        let all = [
            Condition::ModRevision(number),
            Condition::Exists,
            Condition::Absent,
            Condition::Version(number),
        ];
        all.into_iter().find(|condition| condition.tag() == tag)
    }

    /// Whether it holds for a key with this version that was last changed at `mod_revision`; both are 0 when it is absent.
    pub fn holds(self, mod_revision: u64, version: u64) -> bool {
        match self {
            Condition::ModRevision(wanted) => mod_revision != 0 && mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
            Condition::Version(wanted) => version == wanted,
        }
    }

    /// The request header that asks for it (RFC 9110 §13.1, and one of dkv's own): its name and its value.
    pub fn to_header(self) -> (&'static str, String) {
        match self {
            Condition::ModRevision(revision) => (IF_MATCH, format!("\"{revision}\"")),
            Condition::Exists => (IF_MATCH, "*".to_owned()),
            Condition::Absent => (IF_NONE_MATCH, "*".to_owned()),
            Condition::Version(version) => (IF_VERSION, version.to_string()),
        }
    }

    /// The condition of a request with these values of `If-Match`, `If-None-Match` and `If-Version`. The text says what
    /// is wrong. Version 0 is [`Condition::Absent`], so that two requests that mean the same are the same.
    ///
    /// # Errors
    /// Two of the headers at once, and values that they do not take.
    pub fn from_headers(
        if_match: Option<&str>,
        if_none_match: Option<&str>,
        if_version: Option<&str>,
    ) -> Result<Option<Condition>, &'static str> {
        match (if_match, if_none_match, if_version) {
            (None, None, None) => Ok(None),
            (None, Some("*"), None) => Ok(Some(Condition::Absent)),
            (None, Some(_), None) => Err("If-None-Match takes only *: write if the key is absent"),
            (Some("*"), None, None) => Ok(Some(Condition::Exists)),
            (Some(tag), None, None) => {
                let revision = quoted_revision(tag).ok_or(
                    "If-Match takes * or one entity tag as a read gives it: the mod_revision in double quotes",
                )?;
                Ok(Some(Condition::ModRevision(revision)))
            }
            (None, None, Some(version)) => {
                let version = plain_number(version).ok_or(
                    "If-Version takes the version of the key as a read gives it, without quotes; 0: the key is absent",
                )?;
                Ok(Some(if version == 0 { Condition::Absent } else { Condition::Version(version) }))
            }
            _ => Err("If-Match, If-None-Match and If-Version exclude each other: a write has one condition"),
        }
    }
}

/// The number in `"17"`, which is not 0: digits only, no sign, no leading zero, in range.
fn quoted_revision(tag: &str) -> Option<u64> {
    plain_number(tag.strip_prefix('"')?.strip_suffix('"')?).filter(|revision| *revision != 0)
}

/// The number in `17`: digits only, no sign, no leading zero, in range.
fn plain_number(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if is_plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_back_from_its_tag_and_from_its_header() {
        let all = [Condition::ModRevision(7), Condition::Exists, Condition::Absent, Condition::Version(7)];
        for condition in all {
            let number = condition.number().unwrap_or_default();
            assert_eq!(Condition::from_tag(condition.tag(), number), Some(condition));
            let (name, value) = condition.to_header();
            let of = |header| (name == header).then_some(&value[..]);
            let back = Condition::from_headers(of(IF_MATCH), of(IF_NONE_MATCH), of(IF_VERSION));
            assert_eq!(back, Ok(Some(condition)));
        }
        assert_eq!(Condition::from_tag(Condition::NO_TAG, 7), None);
        assert_eq!(Condition::from_tag(5, 7), None);
    }

    #[test]
    fn two_conditions_are_refused_in_every_combination() {
        let given = [Some("*"), Some("*"), Some("1")];
        for left_out in 0..3 {
            let [a, b, c] = std::array::from_fn(|at| given[at].filter(|_| at != left_out));
            assert!(Condition::from_headers(a, b, c).is_err(), "without the header {left_out}");
        }
        assert!(Condition::from_headers(given[0], given[1], given[2]).is_err());
    }

    #[test]
    fn version_0_is_absence() {
        assert_eq!(Condition::from_headers(None, None, Some("0")), Ok(Some(Condition::Absent)));
        for version in [0, 1, 2] {
            let key = [(0, 0), (9, 1), (9, 2)].map(|(at, now)| Condition::Version(version).holds(at, now));
            assert_eq!(key, [version == 0, version == 1, version == 2]);
        }
    }
}
