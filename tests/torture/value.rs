//! The values of the clients and their bytes: each has a number that no other has.

/// The value that a client writes for this number: every second one is an integer, to which something can be added; the
/// others end with a colon, and are no integers.
pub fn of_number(number: u64) -> String {
    if number.is_multiple_of(2) { number.to_string() } else { format!("{number}:") }
}

/// The bytes of a value: an integer as it is; else the value, and something that cannot be mistaken for that of another
/// one.
pub fn body(value: &str, filler_bytes: usize) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    if value.ends_with(':') {
        bytes.resize(bytes.len() + filler_bytes, filler(value));
    }
    bytes
}

/// The value with these bytes; `None` when no client wrote them, and no addition made them.
pub fn value_of(body: &[u8]) -> Option<String> {
    let Some(end) = body.iter().position(|&b| b == b':') else {
        let text = std::str::from_utf8(body).ok()?;
        return text
            .parse::<i64>()
            .ok()
            .map(|number| number.to_string())
            .filter(|canonical| canonical == text);
    };
    let value = std::str::from_utf8(&body[..=end]).ok()?;
    let is_number = end > 0 && value[..end].bytes().all(|b| b.is_ascii_digit());
    (is_number && body[end + 1..].iter().all(|&b| b == filler(value))).then(|| value.to_owned())
}

fn filler(value: &str) -> u8 {
    value.bytes().fold(0u8, |sum, digit| sum.wrapping_mul(7).wrapping_add(digit)) % 26 + b'a'
}
