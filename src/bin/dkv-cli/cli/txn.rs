//! The options of `dkv-cli txn`. The steps of a branch are done in the order in which the command line names them, whatever
//! their options are called. Clap gathers the values of each option by itself, so they are sorted by their places.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

/// A step of a transaction, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub what: What,
    /// The key; of a put, key and value with `=` between them.
    pub operand: OsString,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Put,
    Delete,
    Get,
    List,
}

/// The options that make a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// What must hold.
    pub conditions: Vec<OsString>,
    /// What is done then.
    pub then: Vec<Step>,
    /// What is done otherwise.
    pub otherwise: Vec<Step>,
}

/// Name of the option, which branch it belongs to (true: then), what it does, its value, its help.
type Row = (&'static str, bool, What, &'static str, &'static str);

const OPTIONS: [Row; 8] = [
    ("put", true, What::Put, "KEY=VALUE", "Store a value under a key, if all conditions hold"),
    ("delete", true, What::Delete, "KEY", "Remove a key; one that is not there does no harm"),
    ("get", true, What::Get, "KEY", "Read a key, with the writes of the options before this one"),
    ("list", true, What::List, "PREFIX", "Read every key that begins so"),
    ("else-put", false, What::Put, "KEY=VALUE", "Store a value if a condition does not hold"),
    ("else-delete", false, What::Delete, "KEY", "Remove a key if a condition does not hold"),
    ("else-get", false, What::Get, "KEY", "Read a key if a condition does not hold"),
    ("else-list", false, What::List, "PREFIX", "Read every key that begins so if a condition does not hold"),
];

impl Args for Steps {
    fn augment_args(command: Command) -> Command {
        let many = |name: &'static str| {
            Arg::new(name)
                .long(name)
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(OsString))
                .value_hint(ValueHint::Other)
        };
        let condition = many("if").value_name("CONDITION").help("What must hold; may be given several times");
        OPTIONS.iter().fold(command.arg(condition), |command, (name, _, _, value, help)| {
            command.arg(many(name).value_name(*value).help(*help))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Steps::augment_args(command)
    }
}

impl FromArgMatches for Steps {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Steps, clap::Error> {
        let mut steps = Steps::default();
        steps.update_from_arg_matches(matches)?;
        Ok(steps)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |name: &str| -> Vec<(usize, OsString)> {
            if matches.value_source(name) != Some(ValueSource::CommandLine) {
                return Vec::new();
            }
            let values = matches.get_many::<OsString>(name).into_iter().flatten().cloned();
            matches.indices_of(name).into_iter().flatten().zip(values).collect()
        };
        self.conditions = given("if").into_iter().map(|(_, condition)| condition).collect();
        let mut placed: Vec<(usize, bool, Step)> = Vec::new();
        for (name, is_then, what, ..) in OPTIONS {
            let steps = given(name).into_iter();
            placed.extend(steps.map(|(at, operand)| (at, is_then, Step { what, operand })));
        }
        placed.sort_by_key(|(at, ..)| *at);
        for (_, is_then, step) in placed {
            if is_then { &mut self.then } else { &mut self.otherwise }.push(step);
        }
        Ok(())
    }
}
