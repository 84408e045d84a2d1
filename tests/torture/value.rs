//! The bytes of values: each has a number that no other has.

/// The bytes of the value with this number: the number, and something that cannot be mistaken for that of another one.
pub fn body(number: &str, filler_bytes: usize) -> Vec<u8> {
    let mut bytes = format!("{number}:").into_bytes();
    bytes.resize(bytes.len() + filler_bytes, filler(number));
    bytes
}

/// The number of a value; `None` when no client wrote these bytes.
pub fn value_of(body: &[u8]) -> Option<String> {
    let end = body.iter().position(|&b| b == b':')?;
    let number = std::str::from_utf8(&body[..end]).ok()?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_number && body[end + 1..].iter().all(|&b| b == filler(number))).then(|| number.to_owned())
}

fn filler(number: &str) -> u8 {
    number.bytes().fold(0u8, |sum, digit| sum.wrapping_mul(7).wrapping_add(digit)) % 26 + b'a'
}
