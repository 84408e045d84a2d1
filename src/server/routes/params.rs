//! Parses a client request: the key in the path, the query, conditions, the idempotency key. Everything that is not
//! understood is refused, and a refusal changes nothing.

use serde::de::DeserializeOwned;

use crate::api::{ErrorBody, ErrorCode, MAX_IDEMPOTENCY_KEY, Strict, is_cluster_id, is_idempotency_key};
use crate::files::foreign_encoding;

use crate::server::edge::{Request, RequestHeader};
use crate::vocabulary::Condition;

pub(super) fn invalid(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidRequest, message)
}

/// The key after `/v1/kv/`: percent-decoded exactly once, `+` is a plus, `/` belongs to the key, nothing is normalised.
///
/// # Errors
/// `invalid_request` for an empty key or a broken escape, `too_large` above `max_bytes`.
pub(super) fn decode_key(raw: &str, max_bytes: usize) -> Result<Vec<u8>, ErrorBody> {
    if raw.is_empty() {
        return Err(invalid("the key is empty: name it after /v1/kv/"));
    }
    let key = percent_decode(raw, false).ok_or_else(|| {
        invalid("the key has a broken percent escape: write %25 for a percent sign, %XX for any other byte")
    })?;
    if key.len() > max_bytes {
        let text =
            format!("the key has {} bytes, the limit is {max_bytes} (limits.max_key_bytes)", key.len());
        return Err(ErrorBody::new(ErrorCode::TooLarge, text));
    }
    Ok(key)
}

/// Decodes once; `None` when a `%` is not followed by two hexadecimal digits. In a form `+` is a space.
pub(super) fn percent_decode(raw: &str, is_form: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                decoded.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if is_form => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    Some(decoded)
}

/// The parameters of a query, each known and given at most once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    parameters: Vec<(&'static str, Vec<u8>)>,
}

impl Query {
    /// Reads the raw query of a route that knows the parameters `known`.
    ///
    /// # Errors
    /// `invalid_request` for an unknown or repeated parameter, a broken escape or text that is not UTF-8.
    pub(super) fn parse(raw: Option<&str>, known: &[&'static str]) -> Result<Query, ErrorBody> {
        Query::parse_with_bytes(raw, known, &[])
    }

    /// The same for a route that also has the parameters `bytes`, whose values are any bytes.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub(super) fn parse_with_bytes(
        raw: Option<&str>,
        known: &[&'static str],
        bytes: &[&'static str],
    ) -> Result<Query, ErrorBody> {
        let mut query = Query::default();
        for pair in raw.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode(name, true).and_then(|name| String::from_utf8(name).ok());
            let (Some(name), Some(value)) = (name, percent_decode(value, true)) else {
                return Err(invalid("the query has a broken percent escape or is not UTF-8"));
            };
            let Some(&name) = known.iter().chain(bytes).find(|&&k| k == name) else {
                let all: Vec<&str> = bytes.iter().chain(known).copied().collect();
                let list = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                return Err(invalid(format!("unknown parameter {name:?}; this route knows: {list}")));
            };
            if query.bytes(name).is_some() {
                return Err(invalid(format!("the parameter {name} is given twice")));
            }
            if !bytes.contains(&name) && std::str::from_utf8(&value).is_err() {
                return Err(invalid(format!("the parameter {name} is not UTF-8")));
            }
            query.parameters.push((name, value));
        }
        Ok(query)
    }

    /// The value of a parameter; None without it, and for one of bytes that is not text.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// The value of a parameter of any bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(have, _)| *have == name).map(|(_, value)| &value[..])
    }

    /// A whole number: digits only, no sign, no leading zero.
    ///
    /// # Errors
    /// `invalid_request` for anything else, and above 64 bits.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ErrorBody> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let number = if is_plain { text.parse().ok() } else { None };
        number
            .map(Some)
            .ok_or_else(|| invalid(format!("{name}={text:?} is not a whole number from 0 to {}", u64::MAX)))
    }

    /// A whole number that may be negative: digits only, no plus sign, no leading zero; its size has 63 bits.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub(super) fn signed(&self, name: &str) -> Result<Option<i64>, ErrorBody> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number =
            text.parse().ok().filter(|number: &i64| *number != i64::MIN && number.to_string() == text);
        number.map(Some).ok_or_else(|| {
            invalid(format!("{name}={text:?} is not a whole number from -{} to {}", i64::MAX, i64::MAX))
        })
    }

    /// `true` or `false`, the default.
    ///
    /// # Errors
    /// `invalid_request` for anything else.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ErrorBody> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(invalid(format!("{name}={other:?}: it is true or false (the default)"))),
        }
    }
}

/// The condition of a write (RFC 9110 §13.1): `If-Match: "<mod_revision>"`, `If-Match: *`, `If-None-Match: *`; and dkv's
/// own `If-Version: <version>`.
///
/// # Errors
/// `invalid_request` for any other value, a repeated header, or two of them at once.
pub(super) fn condition(request: &Request) -> Result<Option<Condition>, ErrorBody> {
    let if_match = once(request, RequestHeader::IfMatch)?;
    let if_none_match = once(request, RequestHeader::IfNoneMatch)?;
    let if_version = once(request, RequestHeader::IfVersion)?;
    Condition::from_headers(if_match, if_none_match, if_version).map_err(invalid)
}

/// The idempotency key of a write.
///
/// # Errors
/// `invalid_request` when it is repeated, too long or has other characters.
pub(super) fn idempotency_key(request: &Request) -> Result<Option<&str>, ErrorBody> {
    let key = once(request, RequestHeader::IdempotencyKey)?;
    if key.is_some_and(|key| !is_idempotency_key(key)) {
        let text =
            format!("an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} characters of A-Z a-z 0-9 . _ ~ -");
        return Err(invalid(text));
    }
    Ok(key)
}

/// The cluster that a request is meant for, when it says so.
///
/// # Errors
/// `invalid_request` when it is repeated or is no cluster id.
pub(super) fn meant_for(request: &Request) -> Result<Option<&str>, ErrorBody> {
    let cluster = once(request, RequestHeader::DkvCluster)?;
    if cluster.is_some_and(|cluster| !is_cluster_id(cluster)) {
        return Err(invalid("Dkv-Cluster takes a cluster id: 16 lower-case hexadecimal digits"));
    }
    Ok(cluster)
}

/// The body as a JSON object, which is UTF-8 without a mark (RFC 8259 §8.1).
///
/// # Errors
/// `invalid_request`: the text is another encoding's, which is named, or not what `expected` says.
pub(super) fn json_body<T: DeserializeOwned>(request: &Request, expected: &str) -> Result<T, ErrorBody> {
    if let Some(encoding) = foreign_encoding(&request.body) {
        return Err(invalid(format!("the body {encoding}: send it as UTF-8 without a mark")));
    }
    let body: Result<Strict<T>, _> = serde_json::from_slice(&request.body);
    body.map(|Strict(body)| body).map_err(|e| invalid(format!("the body is not {expected}: {e}")))
}

fn once(request: &Request, header: RequestHeader) -> Result<Option<&str>, ErrorBody> {
    let mut values = request.header_values(header);
    let first = values.next();
    if values.next().is_some() {
        return Err(invalid(format!("the header {} is given twice", header.name())));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;
    use proptest::prelude::*;

    fn with_headers(headers: &[(&str, &str)]) -> Request {
        let header = |name: &str| RequestHeader::from_name(name).expect("a header of dkv");
        let headers = headers.iter().map(|(n, v)| (header(n), v.to_string())).collect();
        Request {
            method: Method::Put,
            path: "/v1/kv/k".into(),
            query: None,
            headers,
            body: Vec::new(),
            from_loopback: false,
        }
    }

    #[test]
    fn decode_key_decodes_exactly_once() {
        let table: [(&str, Option<&[u8]>); 14] = [
            ("a", Some(b"a")),
            ("a%2Fb", Some(b"a/b")),
            ("a/b//c/../d", Some(b"a/b//c/../d")),
            ("a+b", Some(b"a+b")),
            ("a%20b", Some(b"a b")),
            ("%252F", Some(b"%2F")),
            ("%00%ff", Some(b"\x00\xff")),
            ("%e4%BD%A0", Some("你".as_bytes())),
            ("", None),
            ("%", None),
            ("a%2", None),
            ("a%2g", None),
            ("%+1", None),
            ("%%41", None),
        ];
        for (raw, key) in table {
            assert_eq!(decode_key(raw, 64).ok().as_deref(), key, "{raw:?}");
        }
    }

    #[test]
    fn decode_key_counts_decoded_bytes() {
        assert!(decode_key(&"%41".repeat(8), 8).is_ok());
        assert_eq!(decode_key(&"a".repeat(9), 8).unwrap_err().error.code, ErrorCode::TooLarge);
    }

    #[test]
    fn query_refuses_what_it_does_not_know() {
        let known = ["consistency", "limit"];
        let query = Query::parse(Some("limit=5&consistency=st%61le"), &known).unwrap();
        assert_eq!((query.get("limit"), query.get("consistency")), (Some("5"), Some("stale")));
        assert_eq!(Query::parse(None, &known).unwrap(), Query::default());
        assert_eq!(Query::parse(Some("limit"), &known).unwrap().get("limit"), Some(""));
        for bad in ["x=1", "limit=1&limit=2", "limit=%", "limit=%ff", "Limit=1", "l%69mit=1&limit=2"] {
            assert_eq!(
                Query::parse(Some(bad), &known).unwrap_err().error.code,
                ErrorCode::InvalidRequest,
                "{bad}"
            );
        }
    }

    #[test]
    fn query_takes_any_bytes_only_where_they_belong() {
        let parse = |raw| Query::parse_with_bytes(Some(raw), &["limit"], &["prefix"]);
        let query = parse("prefix=%ff%00+%2B&limit=5").unwrap();
        assert_eq!(query.bytes("prefix"), Some(&b"\xff\x00 +"[..]));
        assert_eq!((query.get("prefix"), query.number("limit").unwrap()), (None, Some(5)));
        for bad in ["limit=%ff", "prefix=%ff&prefix=%fe", "prefix=%f", "%ff=1", "start=1"] {
            assert_eq!(parse(bad).unwrap_err().error.code, ErrorCode::InvalidRequest, "{bad}");
        }
    }

    #[test]
    fn query_numbers_and_flags_have_one_spelling() {
        let query = |raw| Query::parse(Some(raw), &["n", "f"]).unwrap();
        assert_eq!(query("").number("n").unwrap(), None);
        for (raw, number) in [("n=0", 0), ("n=10", 10), ("n=18446744073709551615", u64::MAX)] {
            assert_eq!(query(raw).number("n").unwrap(), Some(number));
        }
        for bad in ["n", "n=", "n=-1", "n=%2B1", "n=00", "n=1.0", "n=0x1", "n=18446744073709551616", "n=1 "] {
            assert!(query(bad).number("n").is_err(), "{bad}");
        }
        assert_eq!(
            (query("f=true").flag("f").ok(), query("f=false").flag("f").ok()),
            (Some(true), Some(false))
        );
        let most = "9223372036854775807";
        for (text, number) in
            [("0", 0), ("5", 5), ("-5", -5), (most, i64::MAX), (&format!("-{most}"), -i64::MAX)]
        {
            let text = format!("n={text}");
            let query = Query::parse(Some(&text), &["n"]).unwrap();
            assert_eq!(query.signed("n").unwrap(), Some(number));
        }
        for bad in [
            "",
            "-",
            "+5",
            "%2B5",
            "05",
            "-0",
            "1.0",
            "1e3",
            "x",
            "-9223372036854775808",
            "9223372036854775808",
        ] {
            let bad = format!("n={bad}");
            let query = Query::parse(Some(&bad), &["n"]).unwrap();
            assert!(query.signed("n").is_err(), "{bad}");
        }
        for bad in ["f", "f=", "f=1", "f=True"] {
            assert!(query(bad).flag("f").is_err(), "{bad}");
        }
    }

    #[test]
    fn condition_takes_the_four_forms_and_no_other() {
        let of = |headers: &[(&str, &str)]| condition(&with_headers(headers));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("if-match", "\"17\"")]).unwrap(), Some(Condition::ModRevision(17)));
        assert_eq!(of(&[("if-match", "*")]).unwrap(), Some(Condition::Exists));
        assert_eq!(of(&[("if-none-match", "*")]).unwrap(), Some(Condition::Absent));
        assert_eq!(of(&[("if-version", "17")]).unwrap(), Some(Condition::Version(17)));
        assert_eq!(of(&[("if-version", "0")]).unwrap(), Some(Condition::Absent));
        for version in ["", "\"17\"", "-1", "+1", "01", "1.0", "*", "1, 2", "x", "18446744073709551616"] {
            assert!(of(&[("if-version", version)]).is_err(), "{version:?}");
        }
        assert!(of(&[("if-match", "*"), ("if-version", "1")]).is_err());
        assert!(of(&[("if-version", "1"), ("if-version", "1")]).is_err());
        for tag in [
            "17",
            "W/\"17\"",
            "\"17",
            "\"\"",
            "\"x\"",
            "\"-1\"",
            "\"+1\"",
            "\"01\"",
            "\"1\", \"2\"",
            "",
            "**",
        ] {
            assert!(of(&[("if-match", tag)]).is_err(), "{tag:?}");
        }
        assert!(of(&[("if-match", "\"99999999999999999999\"")]).is_err());
        assert!(of(&[("if-none-match", "\"17\"")]).is_err());
        assert!(of(&[("if-match", "*"), ("if-none-match", "*")]).is_err());
        assert!(of(&[("if-match", "*"), ("if-match", "*")]).is_err());
    }

    /// "expected value at line 1 column 1" was all that was said of a body that looks as it should in an editor.
    #[test]
    fn a_body_in_another_encoding_is_told_which_one() {
        let of = |body: &[u8]| {
            let request = Request { body: body.to_vec(), ..with_headers(&[]) };
            json_body::<serde_json::Value>(&request, "JSON").map_err(|refused| {
                assert_eq!(refused.error.code, ErrorCode::InvalidRequest);
                refused.error.message
            })
        };
        let text = "{\"a\":\"ü\"}";
        assert_eq!(of(text.as_bytes()).unwrap()["a"], "ü");
        let utf16 =
            |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(to_bytes).collect() };
        let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        let marked = |mark: &[u8], bytes: &[u8]| [mark, bytes].concat();
        for (body, says) in [
            (marked(b"\xef\xbb\xbf", text.as_bytes()), "begins with a byte order mark (BOM) of UTF-8"),
            (marked(b"\xff\xfe", &little), "is UTF-16 text (little-endian)"),
            (marked(b"\xfe\xff", &big), "is UTF-16 text (big-endian)"),
            (little, "is UTF-16 text (little-endian, without a mark)"),
            (big, "is UTF-16 text (big-endian, without a mark)"),
            (b"\xff\xfe\0\0{\0\0\0".to_vec(), "is UTF-32 text (little-endian)"),
            (b"\0\0\xfe\xff\0\0\0{".to_vec(), "is UTF-32 text (big-endian)"),
        ] {
            assert_eq!(of(&body).unwrap_err(), format!("the body {says}: send it as UTF-8 without a mark"));
        }
        assert!(of(b"\xff").unwrap_err().starts_with("the body is not JSON: "));
        assert!(of(b"").unwrap_err().starts_with("the body is not JSON: "));
    }

    #[test]
    fn idempotency_key_is_checked() {
        let of =
            |headers: &[(&str, &str)]| idempotency_key(&with_headers(headers)).map(|k| k.map(str::to_owned));
        assert_eq!(of(&[("idempotency-key", "a.B_9~-")]).unwrap().as_deref(), Some("a.B_9~-"));
        assert!(of(&[("idempotency-key", "")]).is_err());
        assert!(of(&[("idempotency-key", "a b")]).is_err());
        assert!(of(&[("idempotency-key", "a"), ("idempotency-key", "a")]).is_err());
    }

    #[test]
    fn cluster_of_a_request_is_checked() {
        let of = |headers: &[(&str, &str)]| meant_for(&with_headers(headers)).map(|c| c.map(str::to_owned));
        let id = "00000000000000ab";
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("dkv-cluster", id)]).unwrap().as_deref(), Some(id));
        for bad in ["", "ab", "00000000000000AB", "00000000000000ab "] {
            assert!(of(&[("dkv-cluster", bad)]).is_err(), "{bad:?}");
        }
        assert!(of(&[("dkv-cluster", id), ("dkv-cluster", id)]).is_err());
    }

    proptest! {
        #[test]
        fn decode_key_undoes_any_escaping(key in proptest::collection::vec(any::<u8>(), 1..64), escape_all: bool) {
            let raw: String = key
                .iter()
                .map(|&b| {
                    if escape_all || !b.is_ascii_graphic() || matches!(b, b'%' | b'?' | b'#') { format!("%{b:02x}") }
                    else { char::from(b).to_string() }
                })
                .collect();
            prop_assert_eq!(decode_key(&raw, 64).unwrap(), key);
        }

        #[test]
        fn decode_key_never_panics(raw in "\\PC*") {
            let _ = decode_key(&raw, 64);
        }
    }
}
