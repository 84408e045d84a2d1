//! The `Accept` header (RFC 9110 §12.5.1): which of the forms of an answer a client would rather have.

use crate::server::edge::{Request, RequestHeader};

/// One form in which an answer can be given.
pub(super) struct Offer {
    /// The media type, in lower case: `text`.
    pub kind: &'static str,
    /// The subtype, in lower case: `plain`.
    pub subtype: &'static str,
    /// A parameter of it. A range that names this parameter must name this value; all others are ignored.
    pub parameter: Option<(&'static str, &'static str)>,
}

/// The index of the offer that the client would rather have: that of the highest weight, then the one that it named most
/// exactly, then the first. Without the header, and where the client takes none of them, the first one.
pub(super) fn choose(request: &Request, offers: &[Offer]) -> usize {
    choose_or_refuse(request, offers).unwrap_or(0)
}

/// The same; None where the client takes none of them.
pub(super) fn choose_or_refuse(request: &Request, offers: &[Offer]) -> Option<usize> {
    let ranges: Vec<Range<'_>> = (request.header_values(RequestHeader::Accept))
        .flat_map(|value| split(value, ','))
        .filter_map(Range::parse)
        .collect();
    if ranges.is_empty() {
        return Some(0);
    }
    let mut best = (None, (0, 0));
    for (index, offer) in offers.iter().enumerate() {
        // The most exact range decides, also when it says no.
        let fit = ranges.iter().filter_map(|range| Some((range.fit(offer)?, range.weight))).max();
        if let Some((exactness, weight)) = fit
            && weight > 0
            && (weight, exactness) > best.1
        {
            best = (Some(index), (weight, exactness));
        }
    }
    best.0
}

/// A range of media types with its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    parameters: Vec<(&'a str, String)>,
    weight: u16,
}

impl<'a> Range<'a> {
    /// `None` for what is malformed: clients that are in wide use send `*; q=.2`, and the header is only a wish.
    fn parse(text: &'a str) -> Option<Range<'a>> {
        let mut parts = split(text, ';').into_iter();
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let (kind, subtype) = (kind.trim(), subtype.trim());
        let is_token = |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(is_token_byte));
        if !is_token(kind) || !is_token(subtype) || (kind == "*" && subtype != "*") {
            return None;
        }
        let mut range = Range { kind, subtype, parameters: Vec::new(), weight: 1_000 };
        for part in parts {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
                // What follows belongs to the weight, not to the range.
                break;
            }
            range.parameters.push((name, unquoted(value)));
        }
        Some(range)
    }

    /// How exactly the range names the offer; `None` when it does not.
    fn fit(&self, offer: &Offer) -> Option<u8> {
        if self.kind == "*" {
            return Some(1);
        }
        if !self.kind.eq_ignore_ascii_case(offer.kind) {
            return None;
        }
        if self.subtype == "*" {
            return Some(2);
        }
        if !self.subtype.eq_ignore_ascii_case(offer.subtype) {
            return None;
        }
        let Some((name, wanted)) = offer.parameter else { return Some(3) };
        match self.parameters.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)) {
            None => Some(3),
            Some((_, value)) if value == wanted => Some(4),
            Some(_) => None,
        }
    }
}

/// `0`, `1`, or one of them with up to three digits after the point, and at most 1; in thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{whole}{digits:0<3}").parse().ok()?;
    (thousandths <= 1_000).then_some(thousandths)
}

/// The parts of `text` between separators that are not in a quoted string, without the empty ones.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if c == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn unquoted(value: &str) -> String {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        None => value.to_owned(),
        Some(quoted) => {
            let mut is_escaped = false;
            let plain = |c: &char| {
                is_escaped = *c == '\\' && !is_escaped;
                !is_escaped
            };
            quoted.chars().filter(plain).collect()
        }
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;

    const RAW_OR_JSON: [Offer; 2] = [
        Offer { kind: "application", subtype: "octet-stream", parameter: None },
        Offer { kind: "application", subtype: "json", parameter: None },
    ];

    const TEXTS: [Offer; 2] = [
        Offer { kind: "application", subtype: "openmetrics-text", parameter: Some(("version", "1.0.0")) },
        Offer { kind: "text", subtype: "plain", parameter: Some(("version", "0.0.4")) },
    ];

    fn chosen(values: &[&str], offers: &[Offer]) -> usize {
        let headers = values.iter().map(|value| (RequestHeader::Accept, value.to_string())).collect();
        let request = Request {
            method: Method::Get,
            path: "/".into(),
            query: None,
            headers,
            body: Vec::new(),
            from_loopback: false,
        };
        choose(&request, offers)
    }

    /// `application/json;q=0` was JSON, `Application/JSON` was not, and neither was `application/*;q=0.1, text/*`.
    #[test]
    fn a_header_that_only_mentions_json_does_not_ask_for_it() {
        let table: [(&[&str], usize); 22] = [
            (&[], 0),
            (&["*/*"], 0),
            (&[""], 0),
            (&["text/html"], 0),
            (&["application/json"], 1),
            (&["APPLICATION/Json"], 1),
            (&["application/json; charset=utf-8"], 1),
            (&["application/json;q=0"], 0),
            (&["application/json;q=0, */*"], 0),
            (&["application/octet-stream;q=0, */*"], 1),
            (&["application/octet-stream;q=0"], 0),
            (&["application/json;q=0.5, */*"], 0),
            (&["application/json;q=0.5, */*;q=0.4"], 1),
            (&["application/json, text/plain, */*"], 1),
            (&["text/html", "application/json;Q=0.001"], 1),
            (&["application/json-seq, text/application/json"], 0),
            (&["text/x; a=\"application/json, application/json\""], 0),
            (&["text/x; a=\"\\\", b\", application/json"], 1),
            (&["application/*"], 0),
            (&["text/html, image/gif, *; q=.2, */*; q=.2"], 0),
            (&["application/json;q=2"], 0),
            (&["application/json;q=0.0001"], 0),
        ];
        for (values, offer) in table {
            assert_eq!(chosen(values, &RAW_OR_JSON), offer, "{values:?}");
        }
    }

    #[test]
    fn choose_looks_at_the_version_that_a_scraper_names() {
        let scraper = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                       application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3";
        let table: [(&str, usize); 9] = [
            (scraper, 0),
            ("text/plain", 1),
            ("Text/Plain; Version=0.0.4", 1),
            ("text/plain;version=\"0.0.4\"", 1),
            ("text/plain;version=1.0.0", 0),
            ("text/*", 1),
            ("*/*", 0),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.4", 1),
            ("application/openmetrics-text;version=0.0.1, text/plain;version=0.0.4;q=0.1", 1),
        ];
        for (value, offer) in table {
            assert_eq!(chosen(&[value], &TEXTS), offer, "{value:?}");
        }
    }

    #[test]
    fn weight_takes_three_digits_and_at_most_one() {
        for (text, thousandths) in
            [("0", 0), ("1", 1_000), ("1.000", 1_000), ("0.", 0), ("0.5", 500), ("0.05", 50), ("0.125", 125)]
        {
            assert_eq!(weight(text), Some(thousandths), "{text}");
        }
        for text in ["", "2", "1.001", "0.1234", ".5", "-1", "0,5", "0.x", "00", "1e0"] {
            assert_eq!(weight(text), None, "{text}");
        }
    }
}
