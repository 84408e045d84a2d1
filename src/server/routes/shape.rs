//! What a list shows of its keys: filters, folders, another order than that of the keys.

use std::cmp::Ordering;

use super::params::{Query, invalid};
use crate::api::{ErrorBody, ListedRecord, Sort};
use crate::store::{KeyRange, Order, Record};

/// The parameters that shape a list, and whose values are text.
pub(super) const PARAMETERS: [&str; 5] =
    ["sort", "min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"];

/// The parameter whose value is any bytes.
pub(super) const SEPARATOR: &str = "separator";

fn parse_sort(query: &Query) -> Result<Sort, ErrorBody> {
    let Some(text) = query.get("sort") else { return Ok(Sort::Key) };
    Sort::ALL.into_iter().find(|sort| sort.name() == text).ok_or_else(|| {
        let names = Sort::ALL.map(Sort::name).join(", ");
        invalid(format!("sort={text:?}: it is one of {names}"))
    })
}

/// Rows with equal fields stand in the order of their keys.
fn compare(sort: Sort, a: &ListedRecord, b: &ListedRecord) -> Ordering {
    let by_field = match sort {
        Sort::Key => Ordering::Equal,
        Sort::CreateRevision => a.create_revision.cmp(&b.create_revision),
        Sort::ModRevision => a.mod_revision.cmp(&b.mod_revision),
        Sort::Version => a.version.cmp(&b.version),
        Sort::Value => a.value.cmp(&b.value),
    };
    by_field.then_with(|| a.key.cmp(&b.key))
}

/// Which records of the range belong to the list, and how they are shown.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Keys with this after the prefix are shown as one folder; empty: all keys are rows.
    separator: Vec<u8>,
    /// How many bytes of a key the folder's name begins after.
    prefix_len: usize,
    pub sort: Sort,
    mod_revisions: (u64, u64),
    create_revisions: (u64, u64),
}

impl Shape {
    /// # Errors
    /// `invalid_request` for values that mean nothing, and for parameters that exclude each other.
    pub(super) fn parse(query: &Query, prefix: &[u8]) -> Result<Shape, ErrorBody> {
        let bounds = |least: &str, most: &str| {
            let (from, to) = (query.number(least)?.unwrap_or(0), query.number(most)?.unwrap_or(u64::MAX));
            match from > to {
                true => Err(invalid(format!("{least}={from} lies above {most}={to}: no key can have both"))),
                false => Ok((from, to)),
            }
        };
        let sort = parse_sort(query)?;
        let separator = query.bytes(SEPARATOR);
        if separator.is_some_and(<[u8]>::is_empty) {
            return Err(invalid("the separator is empty: name at least one byte, as separator=/"));
        }
        let about_pages = ["cursor", SEPARATOR].into_iter().find(|name| query.bytes(name).is_some());
        if sort != Sort::Key
            && let Some(name) = about_pages
        {
            return Err(invalid(format!("{name} goes with the order of the keys alone: leave sort out")));
        }
        Ok(Shape {
            separator: separator.unwrap_or_default().to_vec(),
            prefix_len: prefix.len(),
            sort,
            mod_revisions: bounds("min_mod_revision", "max_mod_revision")?,
            create_revisions: bounds("min_create_revision", "max_create_revision")?,
        })
    }

    /// Puts rows in order.
    pub(super) fn sort_rows(&self, rows: &mut [ListedRecord], order: Order) {
        rows.sort_unstable_by(|a, b| match order {
            Order::Ascending => compare(self.sort, a, b),
            Order::Descending => compare(self.sort, b, a),
        });
    }

    /// Whether the filters let a record through.
    pub(super) fn takes(&self, record: &Record<'_>) -> bool {
        let is_in = |number: u64, (from, to): (u64, u64)| (from..=to).contains(&number);
        is_in(record.mod_revision, self.mod_revisions) && is_in(record.create_revision, self.create_revisions)
    }

    /// The folder that a key of the range lies in: up to the first separator after the prefix, that included.
    pub(super) fn folder<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        if self.separator.is_empty() {
            return None;
        }
        let rest = &key[self.prefix_len..];
        let at = rest.windows(self.separator.len()).position(|window| window == self.separator)?;
        Some(&key[..self.prefix_len + at + self.separator.len()])
    }

    /// Where a walk goes on after a folder: the first key that may lie beyond it. None: nothing does.
    pub(super) fn after_folder(folder: &[u8], order: Order) -> Option<Vec<u8>> {
        match order {
            Order::Ascending => KeyRange::new(folder, b"", b"").end().map(<[u8]>::to_vec),
            Order::Descending => Some(folder.to_vec()),
        }
    }

    /// What tells two lists apart, for their cursors.
    pub(super) fn scope(&self, scope: &mut Vec<u8>) {
        scope.extend_from_slice(&(self.separator.len() as u64).to_le_bytes());
        scope.extend_from_slice(&self.separator);
        for (from, to) in [self.mod_revisions, self.create_revisions] {
            scope.extend_from_slice(&from.to_le_bytes());
            scope.extend_from_slice(&to.to_le_bytes());
        }
    }
}
