//! What must hold of a key before a write changes it.

use serde::{Deserialize, Serialize};

/// The header that names the state a write needs: a revision, or any.
const IF_MATCH: &str = "If-Match";

/// The header that names the state a write must not find.
const IF_NONE_MATCH: &str = "If-None-Match";

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
        }
    }

    /// The revision that it names; 0 when it names none.
    pub fn revision(self) -> u64 {
        match self {
            Condition::ModRevision(revision) => revision,
            Condition::Exists | Condition::Absent => 0,
        }
    }

    /// The condition with this tag and, where it names one, this revision.
    pub fn from_tag(tag: u8, revision: u64) -> Option<Condition> {
        let all = [Condition::ModRevision(revision), Condition::Exists, Condition::Absent];
        all.into_iter().find(|condition| condition.tag() == tag)
    }

    /// Whether it holds for a key last changed at `mod_revision`; 0 = absent.
    pub fn holds(self, mod_revision: u64) -> bool {
        match self {
            Condition::ModRevision(wanted) => mod_revision != 0 && mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
        }
    }

    /// The request header that asks for it (RFC 9110 §13.1): its name and its value.
    pub fn to_header(self) -> (&'static str, String) {
        match self {
            Condition::ModRevision(revision) => (IF_MATCH, format!("\"{revision}\"")),
            Condition::Exists => (IF_MATCH, "*".to_owned()),
            Condition::Absent => (IF_NONE_MATCH, "*".to_owned()),
        }
    }

    /// The condition of a request with these values of `If-Match` and `If-None-Match`. The text says what is wrong.
    ///
    /// # Errors
    /// Both headers at once, and any tag but `*` and, of `If-Match`, a revision in double quotes.
    pub fn from_headers(
        if_match: Option<&str>,
        if_none_match: Option<&str>,
    ) -> Result<Option<Condition>, &'static str> {
        match (if_match, if_none_match) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err("If-Match and If-None-Match exclude each other"),
            (None, Some("*")) => Ok(Some(Condition::Absent)),
            (None, Some(_)) => Err("If-None-Match takes only *: write if the key is absent"),
            (Some("*"), None) => Ok(Some(Condition::Exists)),
            (Some(tag), None) => {
                let revision = quoted_revision(tag).ok_or(
                    "If-Match takes * or one entity tag as a read gives it: the mod_revision in double quotes",
                )?;
                Ok(Some(Condition::ModRevision(revision)))
            }
        }
    }
}

/// The number in `"17"`: digits only, no sign, no leading zero, in range.
fn quoted_revision(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let is_plain =
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if is_plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_back_from_its_tag_and_from_its_header() {
        for condition in [Condition::ModRevision(7), Condition::Exists, Condition::Absent] {
            assert_eq!(Condition::from_tag(condition.tag(), condition.revision()), Some(condition));
            let (name, value) = condition.to_header();
            let of = |header| (name == header).then_some(&value[..]);
            assert_eq!(Condition::from_headers(of(IF_MATCH), of(IF_NONE_MATCH)), Ok(Some(condition)));
        }
        assert_eq!(Condition::from_tag(Condition::NO_TAG, 7), None);
        assert_eq!(Condition::from_tag(4, 7), None);
    }
}
