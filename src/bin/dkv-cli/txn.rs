//! `dkv-cli txn`: a transaction from the command line, or as JSON from standard input.
//!
//! A condition that does not hold gives the exit code 1, as it does in `set` and `delete`: a script asks "did it
//! happen?", and that must not depend on what was read or written instead.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use dkv::api::{ListedRecord, Record, TxnOperation, TxnReply, TxnRequest, TxnResult, Wanted};
use dkv::client::{self, Client, ClientError, Txn, TxnCondition, When};

use crate::cli::txn::{Step, Steps, What};
use crate::failure::Failure;
use crate::output::Printer;
use crate::text::printable;

/// Rows that `--list` reads at most: as many as the API gives.
const LIST_LIMIT: u64 = 10_000;

/// Executes the transaction and prints what came of it.
pub fn run(
    client: &Client,
    steps: &Steps,
    idempotency_key: Option<&str>,
    printer: &Printer,
) -> Result<(), Failure> {
    // Without options the transaction comes as JSON.
    let (txn, names) = if *steps == Steps::default() { from_input()? } else { from_steps(steps)? };
    let written = client.txn(&txn, idempotency_key)?;
    let text = plain(&written.reply, &names);
    let printed =
        if printer.is_json() { printer.json(&written.reply) } else { printer.bytes(text.as_bytes()) };
    if let Err(failure @ Failure::Output(_)) = printed {
        // What is done stays done when it cannot be printed.
        printer.failure(&failure);
    }
    if written.reply.succeeded { Ok(()) } else { Err(Failure::Silent(1)) }
}

/// What each result is called, of either branch.
struct Names {
    then: Vec<Name>,
    otherwise: Vec<Name>,
}

/// What a result is called; of a nested transaction also what its results are.
enum Name {
    Of(String),
    Nested(Names),
}

fn from_input() -> Result<(Txn, Names), ClientError> {
    let input = io::stdin();
    if input.is_terminal() {
        eprintln!("dkv-cli: type the transaction as JSON; Ctrl-D at the start of a line ends it");
    }
    let body = crate::read_input(input.lock())?;
    if body.iter().all(u8::is_ascii_whitespace) {
        let text = "no transaction: no option names a condition or a step, and standard input holds nothing.\nNothing was \
                    changed. `dkv-cli help txn` has examples.";
        return Err(ClientError::Invalid(text.to_owned()));
    }
    let request = TxnRequest::from_json(&body)
        .map_err(|e| ClientError::Invalid(format!("standard input is no transaction as JSON: {e}")))?;
    let names = names_of(&request);
    Ok((Txn::from(request), names))
}

fn names_of(request: &TxnRequest) -> Names {
    let of = |operations: &[TxnOperation]| operations.iter().map(name_of).collect();
    Names { then: of(&request.then), otherwise: of(&request.otherwise) }
}

fn name_of(operation: &TxnOperation) -> Name {
    let shown = |bytes: Result<Option<Vec<u8>>, String>| {
        bytes.ok().flatten().map(|bytes| printable(&bytes)).unwrap_or_default()
    };
    let range = |prefix: String, start: String, end: String| match (
        prefix.is_empty(),
        start.is_empty() && end.is_empty(),
    ) {
        (false, true) => format!("{prefix}*"),
        (true, true) => "*".to_owned(),
        _ => format!("{prefix}* from {start} to {end}"),
    };
    Name::Of(match operation {
        TxnOperation { put: Some(put), .. } => format!("put {}", shown(put.key_bytes())),
        TxnOperation { delete: Some(delete), .. } => match shown(delete.key_bytes()) {
            key if key.is_empty() => {
                let bounds = [delete.prefix_bytes(), delete.start_bytes(), delete.end_bytes()].map(shown);
                let [prefix, start, end] = bounds;
                format!("delete {}", range(prefix, start, end))
            }
            key => format!("delete {key}"),
        },
        TxnOperation { get: Some(get), .. } => format!("get {}", shown(get.key_bytes())),
        TxnOperation { list: Some(list), .. } => {
            let [prefix, start, end] = [list.prefix_bytes(), list.start_bytes(), list.end_bytes()].map(shown);
            format!("list {}", range(prefix, start, end))
        }
        TxnOperation { txn: Some(txn), .. } => return Name::Nested(names_of(txn)),
        _ => String::new(),
    })
}

fn from_steps(steps: &Steps) -> Result<(Txn, Names), ClientError> {
    let mut txn = Txn::new();
    for condition in &steps.conditions {
        txn = txn.when(condition_of(condition)?);
    }
    for step in &steps.then {
        txn = txn.then(step_of(step)?);
    }
    for step in &steps.otherwise {
        txn = txn.otherwise(step_of(step)?);
    }
    let name = |step: &Step| {
        let operand = step.operand.as_bytes();
        let key = |operand: &[u8]| printable(operand.split(|byte| *byte == b'=').next().unwrap_or_default());
        Name::Of(match step.what {
            What::Put => format!("put {}", key(operand)),
            What::Delete => format!("delete {}", printable(operand)),
            What::Get => format!("get {}", printable(operand)),
            What::List => format!("list {}*", printable(operand)),
        })
    };
    let names = Names {
        then: steps.then.iter().map(name).collect(),
        otherwise: steps.otherwise.iter().map(name).collect(),
    };
    Ok((txn, names))
}

fn step_of(step: &Step) -> Result<client::Step, ClientError> {
    let operand = step.operand.as_bytes();
    Ok(match step.what {
        What::Put => {
            let Some(at) = operand.iter().position(|byte| *byte == b'=') else {
                let operand = printable(operand);
                return Err(ClientError::Invalid(format!(
                    "--put {operand}: there is no = between key and value; write --put KEY=VALUE"
                )));
            };
            client::Step::put(key_of(&operand[..at])?, &operand[at + 1..])
        }
        What::Delete => client::Step::delete(key_of(operand)?),
        What::Get => client::Step::get(key_of(operand)?),
        What::List => client::Step::list(operand, LIST_LIMIT, false),
    })
}

fn key_of(key: &[u8]) -> Result<&[u8], ClientError> {
    if key.is_empty() {
        return Err(ClientError::Invalid("the key is empty; a key has at least one byte".to_owned()));
    }
    Ok(key)
}

/// `KEY exists`, `KEY absent`, `KEY OPERATOR VALUE`, `KEY FIELD [OPERATOR] N`. A key with a space is written as JSON.
fn condition_of(text: &OsStr) -> Result<TxnCondition, ClientError> {
    let bad = || {
        let text = printable(text.as_bytes());
        let forms = "KEY exists, KEY absent, KEY = VALUE, KEY version N, KEY mod_revision > N, KEY create_revision < N; the \
                     operators are = != < >";
        ClientError::Invalid(format!("--if '{text}' is no condition. There are: {forms}"))
    };
    let (key, rest) = cut(text.as_bytes()).ok_or_else(bad)?;
    let when = When::key(key_of(key)?);
    let (word, rest) = match cut(rest) {
        Some((word, rest)) => (word, Some(rest)),
        None => (rest, None),
    };
    match (word, rest) {
        (b"exists", None) => Ok(when.exists()),
        (b"absent", None) => Ok(when.is_absent()),
        (b"version", Some(rest)) => Ok(when.version(number_of(rest).ok_or_else(bad)?)),
        (b"mod_revision", Some(rest)) => Ok(when.mod_revision(number_of(rest).ok_or_else(bad)?)),
        (b"create_revision", Some(rest)) => Ok(when.create_revision(number_of(rest).ok_or_else(bad)?)),
        (operator, value) => {
            // `k =` is an empty value.
            let value = value.unwrap_or_default().to_vec();
            Ok(when.value(compared(operator, value).ok_or_else(bad)?))
        }
    }
}

/// What stands before the first space, and after it.
fn cut(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

/// `N`, or `OPERATOR N`.
fn number_of(text: &[u8]) -> Option<Wanted<u64>> {
    let (operator, digits) = cut(text).unwrap_or((b"=", text));
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_plain)?.parse().ok()?;
    compared(operator, number)
}

fn compared<T>(operator: &[u8], wanted: T) -> Option<Wanted<T>> {
    match operator {
        b"=" | b"==" => Some(Wanted::Eq(wanted)),
        b"!=" => Some(Wanted::Ne(wanted)),
        b"<" => Some(Wanted::Lt(wanted)),
        b">" => Some(Wanted::Gt(wanted)),
        _ => None,
    }
}

/// A line that says which branch was done, and one or more for each result.
fn plain(reply: &TxnReply, names: &Names) -> String {
    let TxnReply { revision, succeeded, truncated, puts, deleted, .. } = reply;
    let first = match succeeded {
        true => format!("succeeded at revision {revision}\n"),
        false => format!("a condition does not hold at revision {revision}\n"),
    };
    if *truncated {
        let (puts, deleted) = (puts.unwrap_or(0), deleted.unwrap_or(0));
        let text = format!("{puts} keys put, {deleted} deleted; what was read is not remembered any more\n");
        return first + &text;
    }
    let mut text = first;
    let names = if *succeeded { &names.then } else { &names.otherwise };
    results(&reply.results, names, "", &mut text);
    text
}

fn results(results_of: &[TxnResult], names: &[Name], indent: &str, out: &mut String) {
    let nameless = Name::Of(String::new());
    let names = names.iter().chain(std::iter::repeat(&nameless));
    for (result, name) in results_of.iter().zip(names) {
        let said = |text: String| match name {
            Name::Of(name) => format!("{indent}{name}: {text}\n"),
            Name::Nested(_) => format!("{indent}{text}\n"),
        };
        match result {
            TxnResult::Put { version, prev, .. } => {
                out.push_str(&said(format!("version {version}")));
                prev.iter().flatten().for_each(|record| before(record, indent, out));
            }
            TxnResult::Delete { deleted, prev } => {
                let keys = if *deleted == 1 { "key" } else { "keys" };
                out.push_str(&said(format!("{deleted} {keys} deleted")));
                prev.iter().flatten().for_each(|record| before(record, indent, out));
            }
            TxnResult::Get(None) => out.push_str(&said("no such key".to_owned())),
            TxnResult::Get(Some(record)) => out.push_str(&said(printable(&record.value))),
            TxnResult::List { count, kvs, more } => {
                let keys = if *count == 1 { "key" } else { "keys" };
                let more = if *more { ", and there are more" } else { "" };
                out.push_str(&said(format!("{count} {keys}{more}")));
                kvs.iter().for_each(|row| listed(row, indent, out));
            }
            TxnResult::Txn { succeeded, results: inner } => {
                let text = if *succeeded { "nested: succeeded" } else { "nested: a condition does not hold" };
                out.push_str(&format!("{indent}{text}\n"));
                let names: &[Name] = match name {
                    Name::Nested(names) if *succeeded => &names.then,
                    Name::Nested(names) => &names.otherwise,
                    Name::Of(_) => &[],
                };
                results(inner, names, &format!("{indent}  "), out);
            }
        }
    }
}

fn before(record: &Record, indent: &str, out: &mut String) {
    let (key, value) = (printable(&record.key), printable(&record.value));
    out.push_str(&format!("{indent}  before: {key}\t{value}\n"));
}

fn listed(row: &ListedRecord, indent: &str, out: &mut String) {
    let key = printable(&row.key);
    match &row.value {
        Some(value) => out.push_str(&format!("{indent}  {key}\t{}\n", printable(value))),
        None => out.push_str(&format!("{indent}  {key}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_of_takes_every_form_and_no_other() {
        let of = |text: &str| condition_of(OsStr::new(text)).ok();
        let key = || When::key(b"k");
        let table = [
            ("k exists", key().exists()),
            ("k absent", key().is_absent()),
            ("k = v", key().value_is(b"v")),
            ("k == a b", key().value_is(b"a b")),
            ("k =", key().value_is(b"")),
            ("k = ", key().value_is(b"")),
            ("k =  v", key().value_is(b" v")),
            ("k != v", key().value(Wanted::Ne(b"v".to_vec()))),
            ("k < v", key().value(Wanted::Lt(b"v".to_vec()))),
            ("k version 3", key().version(Wanted::Eq(3))),
            ("k version > 3", key().version(Wanted::Gt(3))),
            ("k mod_revision != 17", key().mod_revision(Wanted::Ne(17))),
            ("k create_revision < 5", key().create_revision(Wanted::Lt(5))),
        ];
        for (text, condition) in table {
            assert_eq!(of(text), Some(condition), "{text}");
        }
        for bad in [
            "",
            "k",
            " exists",
            "k is v",
            "k exists now",
            "k version",
            "k version x",
            "k version -1",
            "k version 3 4",
            "k version >3",
            "k mod_revision > 99999999999999999999",
            "k >= v",
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
