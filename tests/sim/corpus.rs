//! Seeds that once found something. A seed means what it meant only as long as nothing else is drawn before a run, so each
//! of them has a regression of its own beside the code, which is named here; the seeds run on as good ones to have.

/// A seed that failed once.
pub struct Found {
    pub seed: u64,
    /// What went wrong, as the regression's name has it.
    pub regression: &'static str,
    /// Where the regression is.
    pub file: &'static str,
}

const PAGE_CACHE: &str = "open_does_not_vouch_for_what_a_failed_sync_left_in_the_page_cache";

/// All of them.
pub const FOUND: &[Found] = &[
    // The first one; what is drawn has changed since, and 3 would find the same today.
    Found { seed: 7, regression: PAGE_CACHE, file: "src/store/wal/tests.rs" },
    Found { seed: 3, regression: PAGE_CACHE, file: "src/store/wal/tests.rs" },
    Found {
        seed: 221,
        regression: "an_append_refused_while_a_snapshot_was_under_way_is_no_loss",
        file: "tests/raft_paper/snapshot.rs",
    },
    Found {
        seed: 56,
        regression: "a_leader_may_bring_several_changes_into_office_after_a_restart",
        file: "tests/raft_paper/membership.rs",
    },
    Found {
        seed: 9230,
        regression: "check_order_lets_an_unknown_write_stand_after_one_that_moves",
        file: "tests/checker.rs",
    },
];
