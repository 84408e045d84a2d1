//! What an operation of several steps reads: the state before the change, with what the change has written so far.

use std::ops::{Bound, ControlFlow};

use super::{Change, Look, Write};
use crate::store::record::{ReadError, Record};
use crate::vocabulary::KeyRange;

impl Change<'_> {
    /// Whether the state at `revision` can be read. What the change makes is no revision yet.
    pub(in crate::store) fn check_readable(&self, revision: u64) -> Result<(), ReadError> {
        ReadError::check(revision, self.floor, self.base)
    }

    /// The key at a revision that can be read.
    pub(in crate::store) fn read_at(&self, key: &[u8], revision: u64) -> Option<Record<'_>> {
        self.keys.at(key, revision)
    }

    /// The key with what the change has done to it so far.
    pub(in crate::store) fn read(&self, key: &[u8]) -> Option<Record<'_>> {
        match self.writes.get_key_value(key) {
            Some((key, write)) => self.written(key, write),
            None => self.before(key),
        }
    }

    fn written<'a>(&self, key: &'a [u8], write: &'a Write) -> Option<Record<'a>> {
        let Write { create_revision, version, value, lease } = write;
        let (create_revision, version, value) = (*create_revision, *version, value.as_deref()?);
        let mod_revision = self.revision();
        Some(Record { key, value, create_revision, mod_revision, version, lease: *lease })
    }

    /// Calls `look` for the keys of a range at a revision that can be read, in order.
    pub(in crate::store) fn walk_at(
        &self,
        range: &KeyRange,
        is_descending: bool,
        revision: u64,
        look: &mut Look<'_>,
    ) {
        self.keys.walk(range, is_descending, revision, look);
    }

    /// Calls `look` for the keys of a range, with what the change has done to them so far, in order.
    pub(in crate::store) fn walk_now(&self, range: &KeyRange, is_descending: bool, look: &mut Look<'_>) {
        if range.end().is_some_and(|end| range.start() >= end) {
            return;
        }
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let inside = self.writes.range::<[u8], _>((Bound::Included(range.start()), end));
        let (mut upwards, mut downwards) = (inside.clone(), inside.rev());
        let writes: &mut dyn Iterator<Item = (&Vec<u8>, &Write)> =
            if is_descending { &mut downwards } else { &mut upwards };
        let mut writes = writes.peekable();
        let mut is_over = false;
        self.keys.walk(range, is_descending, self.base, &mut |key, found| {
            let is_before = |written: &[u8]| if is_descending { written > key } else { written < key };
            let mut flow = ControlFlow::Continue(());
            while flow.is_continue()
                && let Some((written, write)) = writes.next_if(|(written, _)| is_before(written))
            {
                flow = look(written, self.written(written, write));
            }
            if flow.is_continue() {
                flow = match writes.next_if(|(written, _)| &written[..] == key) {
                    Some((written, write)) => look(key, self.written(written, write)),
                    None => look(key, found),
                };
            }
            is_over = flow.is_break();
            flow
        });
        while !is_over && let Some((written, write)) = writes.next() {
            is_over = look(written, self.written(written, write)).is_break();
        }
    }

    /// Whether something was written so far.
    pub(in crate::store) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Forgets everything that was written: an operation has failed that undoes all of it.
    pub(in crate::store) fn abandon(&mut self) {
        self.writes.clear();
        self.lease_writes.clear();
    }
}
