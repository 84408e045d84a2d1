//! Text that is no plain UTF-8, recognised by how it begins.

/// What `bytes` are instead of plain UTF-8 text: the rest of a sentence with a verb. None when they do not begin like
/// any of these.
pub fn foreign_encoding(bytes: &[u8]) -> Option<&'static str> {
    let text = match bytes {
        [0xef, 0xbb, 0xbf, ..] => "begins with a byte order mark (BOM) of UTF-8",
        [0xff, 0xfe, 0, 0, ..] => "is UTF-32 text (little-endian)",
        [0, 0, 0xfe, 0xff, ..] => "is UTF-32 text (big-endian)",
        [0xff, 0xfe, ..] => "is UTF-16 text (little-endian)",
        [0xfe, 0xff, ..] => "is UTF-16 text (big-endian)",
        // Without a mark: the ASCII character that every dkv file begins with, and the other half of its unit.
        [1..=0x7f, 0, 1..=0x7f, 0, ..] => "is UTF-16 text (little-endian, without a mark)",
        [0, 1..=0x7f, 0, 1..=0x7f, ..] => "is UTF-16 text (big-endian, without a mark)",
        _ => return None,
    };
    Some(text)
}
