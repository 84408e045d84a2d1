//! The state word of a slot: which request of a connection is under way, and who may answer it. Pure.
//!
//! ```text
//!   edge thread         worker         answerer            answerer
//!   Idle --submit--> Submitted --take--> Taken --begin--> Writing --finish--> Done
//!                        |                 |
//!                        |                 +--take_over--> TakenOver --finish_takeover--> Done
//!                        |                 |    (answerer)                 (edge thread)
//!                        +----- give_up ---+----> GivenUp              (edge thread)
//! ```
//!
//! Invariants, each checked over every interleaving by `tests`:
//! 1. A number is submitted once. Numbers only grow, so a ticket of an earlier request changes nothing.
//! 2. A handler runs only after `take`, and `take` succeeds once for each number. What is given up before is surely
//!    not done.
//! 3. A request is answered once: by the answerer whose `begin` or `take_over` succeeded, or by the edge thread whose
//!    `give_up` did.
//! 4. From `begin` to `finish` the socket belongs to the answerer, and at all other times to the edge thread.
//! 5. An edge thread that sleeps has set the bit *waits*, and the `finish` or `take_over` that ends its wait sees this bit.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(test)]
mod tests;

const STATE: u64 = 0b0111;
const WAITS: u64 = 0b1000;
const NUMBER_SHIFT: u32 = 4;

/// Where the request with the word's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// There was no request yet.
    Idle,
    /// No worker has it yet.
    Submitted,
    /// Its handler runs, has run or will run.
    Taken,
    /// Its answer is being written.
    Writing,
    /// Its answer is written, or the connection is broken off.
    Done,
    /// The edge thread answers instead of the handler, or nobody does because the client is gone.
    GivenUp,
    /// The handler takes the connection over: the edge thread runs what it left in the slot.
    TakenOver,
}

/// One value of the word. Every transition returns `None` where it is not allowed, and the word stays as it is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word(u64);

impl Word {
    /// The word of a new connection.
    pub(super) const NEW: Word = Word::of(0, State::Idle, false);

    const fn of(number: u64, state: State, waits: bool) -> Word {
        Word(number << NUMBER_SHIFT | (if waits { WAITS } else { 0 }) | state as u64)
    }

    /// The number of the connection's last request, counted from 1.
    pub(super) const fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT
    }

    /// Where that request is.
    pub(super) const fn state(self) -> State {
        match self.0 & STATE {
            0 => State::Idle,
            1 => State::Submitted,
            2 => State::Taken,
            3 => State::Writing,
            4 => State::Done,
            5 => State::GivenUp,
            // No word is made with another value.
            _ => State::TakenOver,
        }
    }

    /// Whether the edge thread sleeps until the request is answered.
    pub(super) const fn waits(self) -> bool {
        self.0 & WAITS != 0
    }

    fn is(self, number: u64, state: State) -> bool {
        self.number() == number && self.state() == state
    }

    /// Whether nobody owes this request an answer any more.
    pub(super) fn is_over(self, number: u64) -> bool {
        self.number() != number || matches!(self.state(), State::Idle | State::Done | State::GivenUp)
    }

    /// Edge thread: the next request is there.
    pub(super) fn submit(self) -> Option<Word> {
        self.is_over(self.number()).then(|| Word::of(self.number() + 1, State::Submitted, false))
    }

    /// Worker: its handler is about to run.
    pub(super) fn take(self, number: u64) -> Option<Word> {
        self.is(number, State::Submitted).then(|| Word::of(number, State::Taken, self.waits()))
    }

    /// Answerer: the answer is about to be written.
    pub(super) fn begin(self, number: u64) -> Option<Word> {
        self.is(number, State::Taken).then(|| Word::of(number, State::Writing, self.waits()))
    }

    /// Answerer: the answer is written. When the word before said that the edge thread waits, wake it.
    pub(super) fn finish(self, number: u64) -> Option<Word> {
        self.is(number, State::Writing).then(|| Word::of(number, State::Done, false))
    }

    /// Answerer: the handler takes the connection over. When the word before said that the edge thread waits, wake it.
    pub(super) fn take_over(self, number: u64) -> Option<Word> {
        self.is(number, State::Taken).then(|| Word::of(number, State::TakenOver, false))
    }

    /// Edge thread: what took the connection over has ended.
    pub(super) fn finish_takeover(self, number: u64) -> Option<Word> {
        self.is(number, State::TakenOver).then(|| Word::of(number, State::Done, false))
    }

    /// Edge thread: the time is over. The state before says what the outcome is.
    pub(super) fn give_up(self, number: u64) -> Option<Word> {
        let may = self.is(number, State::Submitted) || self.is(number, State::Taken);
        may.then(|| Word::of(number, State::GivenUp, false))
    }

    /// Edge thread: it is about to sleep. `None` when there is nothing to wait for.
    pub(super) fn wait(self, number: u64) -> Option<Word> {
        let may = !self.is_over(number) && self.state() != State::TakenOver;
        may.then(|| Word::of(number, self.state(), true))
    }
}

/// The word as the threads share it.
#[derive(Debug)]
pub(super) struct SharedWord(AtomicU64);

impl SharedWord {
    /// The word of a new connection.
    pub(super) fn new() -> SharedWord {
        SharedWord(AtomicU64::new(Word::NEW.0))
    }

    /// The word at this moment.
    pub(super) fn get(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    /// Makes a transition in one step; returns the word before, or `None` when the transition is not allowed.
    pub(super) fn change(&self, transition: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let change = |word| transition(Word(word)).map(|word| word.0);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).ok().map(Word)
    }
}
