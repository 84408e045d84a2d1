//! Every interleaving of an edge thread with workers and answerers, by a search over all reachable states.
//!
//! A step is one change of the word, or one sleep or wake-up. Each request can be in two upstream connections at once,
//! because a broken one is replaced and what nobody took is submitted once more: so each number has two workers.

use std::collections::HashSet;

use super::{State, Word};

/// Requests of the connection.
const REQUESTS: usize = 3;
/// Workers that hold a ticket of one request.
const COPIES: usize = 2;

/// What the edge thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Edge {
    Submit,
    /// It reads ahead, and may look at the slot at any moment.
    Reads,
    /// It has set the bit, and sleeps until it is woken or its patience ends.
    Sleeps,
    /// It writes the answer that it gives instead of the handler.
    Answers,
    /// It runs what has taken the connection over.
    Runs,
    Ended,
}

/// What a worker does next with its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Worker {
    Take,
    /// The handler runs, and answers from whichever thread.
    Handler,
    Writes,
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    word: Word,
    edge: Edge,
    workers: [[Worker; COPIES]; REQUESTS],
    /// A wake-up that the edge thread has not consumed: `unpark` is remembered.
    is_woken: bool,
    /// For each request: how often its handler ran, how often it was answered, and whether it was said to be not done.
    ran: [u8; REQUESTS],
    answered: [u8; REQUESTS],
    said_not_done: [bool; REQUESTS],
}

impl Model {
    fn new() -> Model {
        Model {
            word: Word::NEW,
            edge: Edge::Submit,
            workers: [[Worker::Take; COPIES]; REQUESTS],
            is_woken: false,
            ran: [0; REQUESTS],
            answered: [0; REQUESTS],
            said_not_done: [false; REQUESTS],
        }
    }

    fn change(&mut self, next: Option<Word>) -> Option<Word> {
        let before = self.word;
        self.word = next?;
        Some(before)
    }

    /// The request that the edge thread waits for.
    fn at(&self) -> usize {
        self.word.number() as usize - 1
    }

    fn check(&self) {
        let writers = self.workers.iter().flatten().filter(|worker| **worker == Worker::Writes).count()
            + usize::from(matches!(self.edge, Edge::Answers | Edge::Runs));
        assert!(writers <= 1, "two threads write to one socket: {self:?}");
        for at in 0..REQUESTS {
            assert!(self.ran[at] <= 1, "a handler ran twice: {self:?}");
            assert!(self.answered[at] <= 1, "two answers: {self:?}");
            assert!(!(self.said_not_done[at] && self.ran[at] > 0), "not done, and done: {self:?}");
        }
    }

    /// Every state that one step of the edge thread leads to. `patience`: its time may end.
    fn edge_steps(&self, patience: bool) -> Vec<Model> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut Model)| {
            let mut model = self.clone();
            change(&mut model);
            next.push(model);
        };
        let give_up = |model: &mut Model| {
            let number = model.word.number();
            if let Some(before) = model.change(model.word.give_up(number)) {
                let at = model.at();
                model.answered[at] += 1;
                model.said_not_done[at] = before.state() == State::Submitted;
                model.edge = Edge::Answers;
            } else {
                model.edge = Edge::Reads;
            }
        };
        match self.edge {
            Edge::Submit if self.word.number() as usize == REQUESTS => {
                step(&|model| model.edge = Edge::Ended)
            }
            Edge::Submit => step(&|model| {
                let submitted = model.change(model.word.submit());
                assert!(submitted.is_some(), "the slot is not free: {model:?}");
                model.edge = Edge::Reads;
            }),
            Edge::Reads if self.word.state() == State::TakenOver => step(&|model| model.edge = Edge::Runs),
            Edge::Reads => {
                step(&|model| {
                    let number = model.word.number();
                    let waits = model.change(model.word.wait(number)).is_some();
                    model.edge = if waits { Edge::Sleeps } else { Edge::Submit };
                });
                if patience {
                    step(&give_up);
                }
            }
            Edge::Sleeps => {
                if self.is_woken {
                    step(&|model| {
                        model.is_woken = false;
                        model.edge = Edge::Reads;
                    });
                }
                if patience {
                    step(&give_up);
                }
            }
            Edge::Answers => step(&|model| model.edge = Edge::Submit),
            Edge::Runs => step(&|model| {
                let number = model.word.number();
                assert!(model.change(model.word.finish_takeover(number)).is_some(), "{model:?}");
                model.edge = Edge::Submit;
            }),
            Edge::Ended => {}
        }
        next
    }

    /// What one step of a worker leads to. `takes_over`: its handler takes the connection over instead of answering.
    fn worker_step(&self, at: usize, copy: usize, takes_over: bool) -> Option<Model> {
        let number = at as u64 + 1;
        if self.word.number() < number {
            // The ticket is not written yet.
            return None;
        }
        let mut model = self.clone();
        let worker = match self.workers[at][copy] {
            Worker::Take if model.change(model.word.take(number)).is_some() => {
                model.ran[at] += 1;
                Worker::Handler
            }
            Worker::Handler if takes_over => {
                let before = model.change(model.word.take_over(number))?;
                model.answered[at] += 1;
                model.is_woken |= before.waits();
                Worker::Ended
            }
            Worker::Handler if model.change(model.word.begin(number)).is_some() => {
                model.answered[at] += 1;
                Worker::Writes
            }
            Worker::Take | Worker::Handler => Worker::Ended,
            Worker::Writes => {
                let before = model.change(model.word.finish(number)).expect("the answerer owns the slot");
                model.is_woken |= before.waits();
                Worker::Ended
            }
            Worker::Ended => return None,
        };
        model.workers[at][copy] = worker;
        Some(model)
    }

    fn steps(&self, patience: bool) -> Vec<Model> {
        let mut next = self.edge_steps(patience);
        for at in 0..REQUESTS {
            for takes_over in [false, true] {
                next.extend((0..COPIES).filter_map(|copy| self.worker_step(at, copy, takes_over)));
            }
        }
        next
    }
}

/// Looks at every reachable state; returns those without a next one.
fn explore(patience: bool) -> (usize, Vec<Model>) {
    let (mut seen, mut open, mut ends) = (HashSet::new(), vec![Model::new()], Vec::new());
    while let Some(model) = open.pop() {
        if !seen.insert(model.clone()) {
            continue;
        }
        model.check();
        let next = model.steps(patience);
        if next.is_empty() {
            ends.push(model.clone());
        }
        open.extend(next);
    }
    (seen.len(), ends)
}

#[test]
fn every_interleaving_answers_each_request_once_and_loses_no_wake_up() {
    for patience in [false, true] {
        let (states, ends) = explore(patience);
        assert!(states > if patience { 1_000 } else { 100 }, "only {states} states");
        assert!(!ends.is_empty());
        for end in ends {
            assert_eq!(end.edge, Edge::Ended, "the edge thread sleeps without end: {end:?}");
            assert_eq!(end.answered, [1; REQUESTS], "{end:?}");
            if !patience {
                assert_eq!(end.ran, [1; REQUESTS], "{end:?}");
            }
        }
    }
}

#[test]
fn a_ticket_of_an_earlier_request_changes_nothing() {
    let first = Word::NEW.submit().expect("a new slot is free");
    let second = first.give_up(1).and_then(Word::submit).expect("a given up slot is free");
    assert_eq!((second.number(), second.state()), (2, State::Submitted));
    for word in
        [second, second.take(2).expect("submitted"), second.take(2).and_then(|w| w.begin(2)).expect("taken")]
    {
        for late in
            [word.take(1), word.begin(1), word.finish(1), word.take_over(1), word.give_up(1), word.wait(1)]
        {
            assert_eq!(late, None, "{word:?}");
        }
        assert!(word.is_over(1) && !word.is_over(2));
        assert_eq!(word.submit(), None, "one request at a time: {word:?}");
    }
}
