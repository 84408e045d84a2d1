//! A renaming of the code, followed in the list of breaks: the text of the list is changed, so that comments and
//! order stay.

use super::list::misplaced;

/// The fields of an entry that quote the code. A name is prose and stays.
const QUOTES: [&str; 4] = ["file", "find", "replace", "test"];

/// Replaces `from` by `to` in the fields that quote the code; the new text, and how many were replaced. Where `from` begins
/// or ends with a letter, a digit or `_`, it is a whole word there.
pub fn fix(list: &str, from: &str, to: &str) -> Result<(String, usize), String> {
    if from.is_empty() || from == to {
        return Err("FROM needs a text, and TO another one".to_owned());
    }
    if let Some(text) = [from, to].into_iter().find(|text| text.contains(['"', '\'', '\\', '\n'])) {
        return Err(format!(
            "{text:?} has a quote, a backslash or a line break: change tests/mutants.toml by hand"
        ));
    }
    let (mut fixed, mut count) = (String::new(), 0);
    let (mut in_quote, mut in_literal) = (false, false);
    for line in list.split_inclusive('\n') {
        let continues = in_literal;
        if !continues {
            in_quote = line.split_once(" = ").is_some_and(|(field, _)| QUOTES.contains(&field));
        }
        if line.matches("'''").count() % 2 == 1 {
            in_literal = !in_literal;
        }
        if in_quote {
            // The name of the field is no quote.
            let start = if continues { 0 } else { line.find(" = ").unwrap_or(0) };
            fixed.push_str(&line[..start]);
            count += replace_words(&line[start..], from, to, &mut fixed);
        } else {
            fixed.push_str(line);
        }
    }
    if count == 0 {
        return Err(format!("no file, break or test has the text {from:?}"));
    }
    Ok((fixed, count))
}

/// Appends `line` with `from` replaced; how often it was.
fn replace_words(line: &str, from: &str, to: &str, fixed: &mut String) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (starts, ends) = (from.starts_with(is_word), from.ends_with(is_word));
    let (mut done, mut count) = (0, 0);
    for (at, _) in line.match_indices(from) {
        let end = at + from.len();
        let inside = starts && line[..at].ends_with(is_word) || ends && line[end..].starts_with(is_word);
        if !inside {
            fixed.push_str(&line[done..at]);
            fixed.push_str(to);
            (done, count) = (end, count + 1);
        }
    }
    fixed.push_str(&line[done..]);
    count
}

/// What the plain check of the list tests first: that a renaming changes the quotes, and nothing else.
pub fn check_itself() {
    let list = r#"# A Ledger is here.
[[mutant]]
name = "a Ledger is lost"
file = "src/Ledger.rs"
find = "Ledger(x) == Ledgers"
replace = '''Ledger(x)
    find = Ledger;
    Ledger = 1'''
test = ["--lib", "is_Ledger", "Ledger"]
"#;
    let (fixed, count) = fix(list, "Ledger", "Journal").expect("a plain word");
    let wanted = r#"# A Ledger is here.
[[mutant]]
name = "a Ledger is lost"
file = "src/Journal.rs"
find = "Journal(x) == Ledgers"
replace = '''Journal(x)
    find = Journal;
    Journal = 1'''
test = ["--lib", "is_Ledger", "Journal"]
"#;
    assert_eq!((fixed.as_str(), count), (wanted, 6));
    for (from, to) in
        [("Absent", "Present"), ("", "x"), ("Ledger", "Ledger"), ("\"Ledger\"", "x"), ("Ledger", "\\")]
    {
        assert!(fix(list, from, to).is_err(), "{from} -> {to}");
    }
    let fault =
        misplaced("let a = begin(b);", "fn f() {\n    let a = start(b);\n}\n").expect("it is not there");
    assert!(fault.ends_with("the nearest line is 2:\n    let a = start(b);"), "{fault}");
    assert!(misplaced("a", "a a").is_some_and(|fault| fault.contains("2 times")));
    assert_eq!(misplaced("a", "b a"), None);
}
