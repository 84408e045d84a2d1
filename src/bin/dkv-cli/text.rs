//! Bytes as text that a terminal can bear.

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
    // The standard library's own table, asked after a letter: there it lets combining characters be.
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
