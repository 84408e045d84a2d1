//! What a write can do to keys.

use super::{KeyRange, LeaseId, PutLease, Txn};

/// A change of keys, as a write asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Give `key` the value `value`.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value; an empty one is a value.
        value: Vec<u8>,
        /// The lease that it is attached to from now on.
        lease: PutLease,
    },
    /// Remove `key`. Removing an absent key changes nothing.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Remove every key of `range` at once. A range without keys changes nothing.
    DeleteRange {
        /// Which keys.
        range: KeyRange,
    },
    /// Add `amount` to the integer that `key` holds; an absent key holds 0.
    Add {
        /// The key.
        key: Vec<u8>,
        /// What to add; less than 0 to take away.
        amount: i64,
    },
    /// Compare, then read and write, as one step.
    Txn {
        /// What.
        txn: Txn,
    },
    /// Begin a lease.
    LeaseGrant {
        /// How it is called.
        lease: LeaseId,
        /// Its time to live, in seconds.
        ttl_s: u64,
        /// Whether the client has chosen the name: then it is a part of what was asked for.
        is_chosen: bool,
    },
    /// Let leases live for their whole time to live again. Those that do not exist are passed over.
    LeaseRenew {
        /// Which ones, at most [`MAX_LEASES_PER_COMMAND`](super::MAX_LEASES_PER_COMMAND).
        leases: Vec<LeaseId>,
    },
    /// End a lease: all its keys are removed.
    LeaseRevoke {
        /// Which one.
        lease: LeaseId,
    },
    /// End those leases whose time is over: all their keys are removed, at one revision. Leaders propose it; without
    /// leases it only moves the cluster time.
    LeaseExpire {
        /// Which ones, at most [`MAX_LEASES_PER_COMMAND`](super::MAX_LEASES_PER_COMMAND).
        leases: Vec<LeaseId>,
    },
    /// Forget history: from now on the oldest revision that can be read is this one, or the newest but one if that is
    /// older.
    Compact {
        /// The revision.
        revision: u64,
    },
    /// Writes the value of `key` once more. The operation of the next protocol, for the tests of upgrades.
    #[cfg(feature = "next-protocol")]
    Touch {
        /// The key.
        key: Vec<u8>,
    },
}

/// The list of operations: one line for each, with its name, its tag and the feature without which it is not built.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $tag:literal $name:literal $(if $feature:literal)?,)*) => {
        /// Which operation it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum OpKind {
            $($(#[$doc])* $(#[cfg(feature = $feature)])? $kind,)*
        }

        impl OpKind {
            /// All operations there are.
            pub const ALL: &[OpKind] = &[$($(#[cfg(feature = $feature)])? OpKind::$kind),*];

            /// Its number in commands and in request hashes.
            pub fn tag(self) -> u8 {
                match self { $($(#[cfg(feature = $feature)])? OpKind::$kind => $tag,)* }
            }

            /// Its name in JSON.
            pub fn name(self) -> &'static str {
                match self { $($(#[cfg(feature = $feature)])? OpKind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// [`Op::Put`].
    Put = 1 "put",
    /// [`Op::Delete`].
    Delete = 2 "delete",
    /// [`Op::DeleteRange`].
    DeleteRange = 3 "delete_range",
    /// [`Op::Add`].
    Add = 6 "add",
    /// [`Op::Txn`].
    Txn = 5 "txn",
    /// [`Op::LeaseGrant`].
    LeaseGrant = 10 "lease_grant",
    /// [`Op::LeaseRenew`].
    LeaseRenew = 11 "lease_renew",
    /// [`Op::LeaseRevoke`].
    LeaseRevoke = 12 "lease_revoke",
    /// [`Op::LeaseExpire`].
    LeaseExpire = 13 "lease_expire",
    /// [`Op::Compact`].
    Compact = 14 "compact",
    /// `Op::Touch`.
    Touch = 4 "touch" if "next-protocol",
}

impl OpKind {
    /// The operation with this tag.
    pub fn from_tag(tag: u8) -> Option<OpKind> {
        OpKind::ALL.iter().copied().find(|kind| kind.tag() == tag)
    }

    /// Whether a write that does it may have a [`Condition`](super::Condition): one about the one key that it changes.
    pub fn takes_condition(self) -> bool {
        match self {
            OpKind::Put | OpKind::Delete | OpKind::Add => true,
            OpKind::DeleteRange | OpKind::Txn => false,
            OpKind::LeaseGrant | OpKind::LeaseRenew | OpKind::LeaseRevoke | OpKind::LeaseExpire => false,
            OpKind::Compact => false,
            #[cfg(feature = "next-protocol")]
            OpKind::Touch => true,
        }
    }
}

impl Op {
    /// A put of a key without a lease.
    pub fn put(key: Vec<u8>, value: Vec<u8>) -> Op {
        Op::Put { key, value, lease: PutLease::None }
    }

    /// Which operation it is.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Put { .. } => OpKind::Put,
            Op::Delete { .. } => OpKind::Delete,
            Op::DeleteRange { .. } => OpKind::DeleteRange,
            Op::Add { .. } => OpKind::Add,
            Op::Txn { .. } => OpKind::Txn,
            Op::LeaseGrant { .. } => OpKind::LeaseGrant,
            Op::LeaseRenew { .. } => OpKind::LeaseRenew,
            Op::LeaseRevoke { .. } => OpKind::LeaseRevoke,
            Op::LeaseExpire { .. } => OpKind::LeaseExpire,
            Op::Compact { .. } => OpKind::Compact,
            #[cfg(feature = "next-protocol")]
            Op::Touch { .. } => OpKind::Touch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_operations_have_one_tag_or_one_name() {
        for (at, kind) in OpKind::ALL.iter().enumerate() {
            assert_eq!(OpKind::from_tag(kind.tag()), Some(*kind));
            for other in &OpKind::ALL[..at] {
                assert_ne!((kind.tag(), kind.name()), (other.tag(), other.name()));
                assert!(kind.tag() != other.tag() && kind.name() != other.name(), "{kind:?} and {other:?}");
            }
        }
        assert_eq!((OpKind::from_tag(0), OpKind::from_tag(255)), (None, None));
    }
}
