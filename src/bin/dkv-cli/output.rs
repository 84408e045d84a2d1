//! What is printed. A closed pipe ends the program quietly.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use dkv::api::{AddReply, DeleteReply, Prev, PrevReply, Record};
use serde::Serialize;

use crate::cli::Format;
use crate::failure::Failure;
use crate::text::printable;

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Plain,
    Bold,
    Good,
    Bad,
}

impl Look {
    /// `text` in this look.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Look::Plain => return text.to_owned(),
            Look::Bold => "1",
            Look::Good => "32",
            Look::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether a stream may be coloured: it is a terminal that understands it, and nobody said NO_COLOR.
fn is_coloured(stream: &impl IsTerminal) -> bool {
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    stream.is_terminal() && unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints results and failures in the chosen form.
pub struct Printer {
    format: Format,
    coloured: bool,
    /// Where results go: standard output, unless that carries what the command makes.
    to_standard_error: bool,
}

impl Printer {
    pub fn new(format: Format) -> Printer {
        Printer { format, coloured: is_coloured(&io::stdout()), to_standard_error: false }
    }

    /// For a command whose standard output is what it makes: results are messages then, on standard error.
    pub fn on_standard_error(&self) -> Printer {
        Printer { format: self.format, coloured: is_coloured(&io::stderr()), to_standard_error: true }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// `text` in a look, where standard output is coloured.
    pub fn paint(&self, look: Look, text: &str) -> String {
        if self.coloured { look.paint(text) } else { text.to_owned() }
    }

    /// A write that is done. It stays done when this cannot be printed, so that is only said.
    pub fn written(&self, reply: &impl Serialize) -> Result<(), Failure> {
        let printed = if self.is_json() { self.json(reply) } else { self.bytes(b"OK\n") };
        if let Err(failure @ Failure::Output(_)) = printed {
            self.failure(&failure);
        }
        Ok(())
    }

    /// An addition that is done: the sum.
    pub fn added(&self, reply: &AddReply) -> Result<(), Failure> {
        let printed = if self.is_json() {
            self.json(reply)
        } else {
            self.bytes(format!("{}\n", reply.value).as_bytes())
        };
        if let Err(failure @ Failure::Output(_)) = printed {
            self.failure(&failure);
        }
        Ok(())
    }

    /// A removal of a range that is done: how many keys went.
    pub fn removed(&self, reply: &DeleteReply) -> Result<(), Failure> {
        let keys = if reply.deleted == 1 { "key" } else { "keys" };
        let printed = if self.is_json() {
            self.json(reply)
        } else {
            self.bytes(format!("{} {keys} deleted\n", reply.deleted).as_bytes())
        };
        if let Err(failure @ Failure::Output(_)) = printed {
            self.failure(&failure);
        }
        Ok(())
    }

    /// A write that is done, with what was there before: the value of the key, or the records of a range, a line each.
    pub fn before(&self, reply: &PrevReply) -> Result<(), Failure> {
        if self.is_json() {
            return self.written(reply);
        }
        match &reply.prev {
            Some(Prev::One(Some(record))) => self.record(record),
            Some(Prev::One(None)) => Ok(()),
            Some(Prev::Many(records)) => {
                let line =
                    |record: &Record| format!("{}\t{}\n", printable(&record.key), printable(&record.value));
                self.bytes(records.iter().map(line).collect::<String>().as_bytes())
            }
            None => self.bytes(b"OK; what was there before is not remembered any more\n"),
        }
    }

    /// What was read: the bytes, and a newline on a terminal.
    pub fn record(&self, record: &Record) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(record);
        }
        let mut bytes = record.value.clone();
        if io::stdout().is_terminal() {
            bytes.push(b'\n');
        }
        self.bytes(&bytes)
    }

    /// One JSON document and a newline.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec(value).expect("plain data serialises");
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// Bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.offer(bytes).map(|_taken| ())
    }

    /// Bytes as they are; false when the reader has gone, as in `dkv-cli list | head`, so that nothing more is wanted.
    pub fn offer(&self, bytes: &[u8]) -> Result<bool, Failure> {
        let mut out: Box<dyn Write> = match self.to_standard_error {
            true => Box::new(io::stderr().lock()),
            false => Box::new(io::stdout().lock()),
        };
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Failure::Output(e)),
        }
    }

    /// A failure, on standard error.
    pub fn failure(&self, failure: &Failure) {
        let line = match failure.json().filter(|_| self.is_json()) {
            Some(json) => json.to_string(),
            None => match failure.text() {
                text if text.is_empty() => return,
                text => {
                    let name = if is_coloured(&io::stderr()) { Look::Bad } else { Look::Plain };
                    format!("{} {text}", name.paint("dkv-cli:"))
                }
            },
        };
        // When nobody reads standard error there is nobody to tell; the exit code still says it.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Says on standard error what a result does not, each text once. May be called from any thread.
pub fn notice(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
        // When nobody reads standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "dkv-cli: {text}");
    }
}
