//! What is printed. A closed pipe ends the program quietly.

use std::io::{self, ErrorKind, IsTerminal, Write};

use dkv::api::{DeleteReply, Record};
use serde::Serialize;

use crate::cli::Format;
use crate::failure::Failure;

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
}

impl Printer {
    pub fn new(format: Format) -> Printer {
        Printer { format, coloured: is_coloured(&io::stdout()) }
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
        let mut out = io::stdout().lock();
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

/// The bytes as one piece of a line: printable UTF-8 as it is, every other byte as `\xNN`, a backslash doubled.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if is_printable(c) => text.push(c),
                c => escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Whether a terminal shows it and is not moved, cleared or confused by it.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // The standard library's own table, asked behind a letter: there it lets combining characters be.
    let mut pair = [b'x', 0, 0, 0, 0];
    let length = 1 + c.encode_utf8(&mut pair[1..]).len();
    std::str::from_utf8(&pair[..length]).is_ok_and(|pair| pair.escape_debug().count() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_escapes_what_a_line_cannot_hold_and_nothing_else() {
        assert_eq!(printable(b"app/key 1~\"'"), "app/key 1~\"'");
        assert_eq!(printable(b"a\tb\nc\x1b[2J\x7f"), "a\\x09b\\x0ac\\x1b[2J\\x7f");
        assert_eq!(printable("grün e\u{301} 漢".as_bytes()), "grün e\u{301} 漢");
        assert_eq!(printable(b"\xff\xc3x"), "\\xff\\xc3x");
        assert_eq!(printable("\u{85}\u{202e}".as_bytes()), "\\xc2\\x85\\xe2\\x80\\xae");
        // What is written with a backslash can be told from what is escaped.
        assert_eq!(printable(b"\\x09"), "\\\\x09");
    }
}
