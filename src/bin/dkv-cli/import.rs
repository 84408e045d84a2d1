//! Keys from JSON lines.
//!
//! A file is read twice: every line is checked before the first key is stored. Standard input and pipes are read once, so
//! a bad line there ends the import after those before it. Several keys are stored at a time; those with equal keys by
//! the same thread, in their order.

use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use dkv::api::{ErrorCode, KeyValue};
use dkv::client::{Client, ClientError, Condition, WriteOptions};
use dkv::files::{Input, foreign_encoding};

use crate::failure::Failure;
use crate::output::Printer;
use crate::progress::Progress;

/// How many keys are stored at a time.
const WORKERS: usize = 8;

/// Lines that wait for each of them.
const QUEUE: usize = 16;

/// Longest line: above any key and value that a server takes, in base64.
const MAX_LINE_BYTES: u64 = 32 << 20;

/// Longest key that the client sends.
const MAX_KEY_BYTES: usize = 8 << 10;

/// A line: its number, and what it says.
type Line = (u64, KeyValue);

/// Why it ended: at which line.
struct Stop {
    line: u64,
    error: ClientError,
}

/// What has happened so far.
#[derive(Default)]
struct Tally {
    stored: AtomicU64,
    kept: AtomicU64,
    /// The first failure ends it all.
    stop: Mutex<Option<Stop>>,
}

impl Tally {
    fn stop(&self, stop: Stop) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stop);
    }

    fn is_stopped(&self) -> bool {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Stores every line of the file, or of standard input.
pub fn run(
    client: &Client,
    path: Option<&Path>,
    prefix: &[u8],
    if_absent: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    let tally = Tally::default();
    let skipped = match Input::open(path.unwrap_or(Path::new("-")))? {
        Input::File(mut file) => {
            each_line(BufReader::new(&file), |_| true)
                .map_err(|stop| Failure::Line(stop.line, 0, stop.error))?;
            file.rewind().map_err(|e| {
                Failure::Client(ClientError::Invalid(format!("the file cannot be read again: {e}")))
            })?;
            store(client, BufReader::new(&file), prefix, if_absent, &tally)
        }
        once => store(client, BufReader::new(once.into_reader()), prefix, if_absent, &tally),
    };
    let (stored, kept) = (tally.stored.into_inner(), tally.kept.into_inner());
    if let Some(Stop { line, error }) = tally.stop.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(Failure::Line(line, stored, error));
    }
    if printer.is_json() {
        return printer.json(&serde_json::json!({ "stored": stored, "kept": kept, "skipped": skipped }));
    }
    let mut text = format!("stored {stored} keys");
    if if_absent {
        text.push_str(&format!(", left {kept} that existed"));
    }
    if !prefix.is_empty() {
        text.push_str(&format!(", skipped {skipped} with another prefix"));
    }
    printer.bytes(format!("{text}\n").as_bytes())
}

/// Stores what `input` holds; how it ended is in `tally`. Returns how many lines had another prefix.
fn store(client: &Client, input: impl BufRead, prefix: &[u8], if_absent: bool, tally: &Tally) -> u64 {
    let run = fastrand::u128(..);
    let (mut skipped, mut progress) = (0, Progress::new());
    thread::scope(|scope| {
        let workers: Vec<Sender<Line>> = (0..WORKERS)
            .map(|_| {
                let (lines, queue) = bounded(QUEUE);
                scope.spawn(move || store_lines(client, &queue, run, if_absent, tally));
                lines
            })
            .collect();
        let ended = each_line(input, |(number, line)| {
            if !line.key.starts_with(prefix) {
                skipped += 1;
                return true;
            }
            let worker = crc32c::crc32c(&line.key) as usize % WORKERS;
            progress.keys(tally.stored.load(Ordering::Relaxed));
            workers[worker].send((number, line)).is_ok() && !tally.is_stopped()
        });
        if let Err(stop) = ended {
            tally.stop(stop);
        }
    });
    skipped
}

fn store_lines(client: &Client, queue: &Receiver<Line>, run: u128, if_absent: bool, tally: &Tally) {
    for (number, line) in queue {
        if tally.is_stopped() {
            continue;
        }
        let options = WriteOptions {
            condition: if_absent.then_some(Condition::Absent),
            idempotency_key: Some(format!("import-{run:032x}-{number}")),
        };
        match client.put(&line.key, &line.value, &options) {
            Ok(_) => drop(tally.stored.fetch_add(1, Ordering::Relaxed)),
            Err(ClientError::Refused(detail))
                if if_absent && detail.code == ErrorCode::PreconditionFailed =>
            {
                tally.kept.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tally.stop(Stop { line: number, error }),
        }
    }
}

/// Hands over line by line until `take` has enough; the error is the first line that is none.
fn each_line(mut input: impl BufRead, mut take: impl FnMut(Line) -> bool) -> Result<(), Stop> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let stop = |what: String| Stop { line, error: ClientError::Invalid(what) };
        let read = input.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut text);
        if read.map_err(|e| stop(format!("cannot be read: {e}")))? == 0 {
            break;
        }
        if text.len() as u64 > MAX_LINE_BYTES {
            return Err(stop(format!("it has more than {MAX_LINE_BYTES} bytes")));
        }
        if let Some(what) = foreign_encoding(&text) {
            return Err(stop(format!("it {what}; save the file as plain UTF-8 without a mark")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let parsed: KeyValue = serde_json::from_slice(&text)
            .map_err(|e| stop(format!("it is no line of an export, {{\"key\":...,\"value\":...}}: {e}")))?;
        if !(1..=MAX_KEY_BYTES).contains(&parsed.key.len()) {
            return Err(stop(format!("its key has {} bytes; write 1 to {MAX_KEY_BYTES}", parsed.key.len())));
        }
        if !take((line, parsed)) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<Line>, (u64, String)> {
        let mut lines = Vec::new();
        each_line(text.as_bytes(), |line| {
            lines.push(line);
            true
        })
        .map(|()| lines)
        .map_err(|stop| (stop.line, stop.error.to_string()))
    }

    #[test]
    fn each_line_takes_what_export_writes_and_less() {
        let text = "{\"key\":\"a\",\"value\":\"\",\"create_revision\":1,\"mod_revision\":2,\"version\":3}\n\n\
                    {\"key_base64\":\"/w==\",\"value_base64\":\"AA==\"}";
        let pair = |key: &[u8], value: &[u8]| KeyValue { key: key.to_vec(), value: value.to_vec() };
        assert_eq!(lines(text).unwrap(), [(1, pair(b"a", b"")), (3, pair(b"\xff", b"\0"))]);
    }

    #[test]
    fn each_line_names_a_byte_order_mark_and_utf_16() {
        let good = "{\"key\":\"a\",\"value\":\"b\"}\n";
        let said = |bytes: &[u8]| match each_line(bytes, |_| true) {
            Ok(()) => panic!("taken"),
            Err(stop) => (stop.line, stop.error.to_string()),
        };
        // Two files that a Windows program wrote, one after the other.
        let (line, text) = said(format!("{good}\u{feff}{good}").as_bytes());
        assert!(line == 2 && text.contains("byte order mark (BOM) of UTF-8"), "{line} {text}");
        for (mark, little) in [(true, true), (true, false), (false, true), (false, false)] {
            let units = mark.then_some(0xfeff).into_iter().chain(good.encode_utf16());
            let bytes: Vec<u8> =
                units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect();
            let (line, text) = said(&bytes);
            let endian = if little { "little-endian" } else { "big-endian" };
            assert!(line == 1 && text.contains("is UTF-16 text") && text.contains(endian), "{line} {text}");
        }
    }

    #[test]
    fn each_line_refuses_what_is_no_record_and_names_the_line() {
        let good = "{\"key\":\"a\",\"value\":\"b\"}\n";
        for bad in [
            "x",
            "{}",
            "{\"key\":\"a\"}",
            "{\"value\":\"a\"}",
            "{\"key\":\"\",\"value\":\"a\"}",
            "{\"key\":\"a\",\"value\":\"a\",\"valu\":1}",
            "{\"key\":\"a\",\"key_base64\":\"YQ==\",\"value\":\"a\"}",
            "{\"key_base64\":\"!\",\"value\":\"a\"}",
            "[]",
        ] {
            let (line, text) = lines(&format!("{good}{good}{bad}\n{good}")).unwrap_err();
            assert_eq!(line, 3, "{bad}: {text}");
        }
    }
}
