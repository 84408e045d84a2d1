//! The documents: prose is wrapped, and the list of Raft's rules is the one that the tests follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Columns of prose.
const COLUMNS: usize = 100;

/// The rules of `docs/raft-rules.md`.
const RULES: u32 = 55;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `README.md` and everything in `docs/` that is Markdown.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    docs.chain([root().join("README.md")]).filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
}

/// The width of a line without the targets of its links.
fn width(line: &str) -> usize {
    let mut parts = line.split("](");
    let first = parts.next().map_or(0, |text| text.chars().count());
    parts.fold(first, |sum, part| {
        let (_, text) = part.split_once(')').unwrap_or((part, ""));
        sum + 1 + text.chars().count()
    })
}

/// The numbers of the lines of prose that are too long. Tables and code may be; so may what cannot be broken.
fn long_lines(text: &str) -> Vec<usize> {
    let (mut found, mut in_code) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let is_one_word = !line.trim().contains(' ');
        let is_code = in_code || line.starts_with("    ");
        if !is_code && !line.starts_with('|') && !is_one_word && width(line) > COLUMNS {
            found.push(number + 1);
        }
    }
    found
}

#[test]
fn prose_is_wrapped_at_100_columns() {
    let documents = documents();
    assert!(documents.len() > 8, "only {} documents", documents.len());
    for document in documents {
        let found = long_lines(&fs::read_to_string(&document).unwrap());
        assert!(found.is_empty(), "{}: lines over {COLUMNS} columns: {found:?}", document.display());
    }
}

#[test]
fn long_lines_finds_prose_and_leaves_tables_code_and_links() {
    let long = "word ".repeat(21);
    let link = format!("{}[a](../{})", "word ".repeat(19), "b".repeat(60));
    for fine in [
        &"word ".repeat(20),
        &format!("| {long} |"),
        &format!("```\n{long}\n```"),
        &format!("    {long}"),
        &link,
        &"a".repeat(120),
    ] {
        assert_eq!(long_lines(fine), Vec::<usize>::new(), "{fine}");
    }
    assert_eq!(long_lines(&long), [1]);
    assert_eq!(long_lines(&format!("```\n```\n{long}")), [3]);
    assert_eq!(long_lines(&format!("{link} {}", "a ".repeat(10))), [1]);
}

/// By rule: the cells of its row.
fn rows(text: &str) -> BTreeMap<u32, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let Some(number) = cells.get(1).and_then(|cell| cell.parse().ok()) else { continue };
        assert_eq!(cells.len(), 7, "rule {number} has another number of cells");
        assert!(rows.insert(number, cells).is_none(), "rule {number} is there twice");
    }
    rows
}

/// What stands in backticks.
fn quoted(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The number of a test or scenario `rule_NN_...`.
fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("rule_")?.split_once('_')?.0.parse().ok()
}

/// Every test function below `dir`, and every scenario by its file's name.
fn tests_below(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            tests_below(&path, names);
        } else if file.ends_with(".rs") {
            let source = fs::read_to_string(&path).unwrap();
            // The name ends at the parenthesis; the functions of documentation and strings do no harm.
            let functions =
                source.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
            names.extend(functions.map(str::to_owned));
        } else if file.starts_with("rule_") && file.ends_with(".txt") {
            names.insert(file);
        }
    }
}

/// What is wrong with the list of rules, given the tests there are.
fn rule_faults(text: &str, names: &BTreeSet<String>) -> Vec<String> {
    let rows = rows(text);
    let mut faults = Vec::new();
    for rule in (1..=RULES).filter(|rule| !rows.contains_key(rule)) {
        faults.push(format!("rule {rule} has no row"));
    }
    for (rule, cells) in &rows {
        let is_open = cells[4].contains("*not built:*") || cells[4].contains("*with the lease work*");
        let listed = quoted(&cells[5]);
        if *rule > RULES {
            faults.push(format!("rule {rule} is beyond the {RULES} that the test knows"));
        }
        if cells[2..4].iter().any(String::is_empty) || cells[4].is_empty() {
            faults.push(format!("rule {rule} lacks its sentence, source or code"));
        }
        if listed.is_empty() != is_open {
            faults.push(format!("rule {rule} needs tests, or the reason why it is not built"));
        }
        faults.extend(
            listed
                .iter()
                .filter(|name| !names.contains(**name))
                .map(|name| format!("rule {rule}: there is no {name}")),
        );
    }
    for name in names {
        let Some(rule) = number_of(name) else { continue };
        if !rows.get(&rule).is_some_and(|cells| quoted(&cells[5]).contains(name.as_str())) {
            faults.push(format!("{name} is not in the row of rule {rule}"));
        }
    }
    faults
}

#[test]
fn every_rule_of_raft_is_listed_with_its_tests() {
    let mut names = BTreeSet::new();
    for dir in ["src", "tests"] {
        tests_below(&root().join(dir), &mut names);
    }
    assert!(names.iter().filter(|name| number_of(name).is_some()).count() > 100, "the tests are not found");
    let text = fs::read_to_string(root().join("docs/raft-rules.md")).unwrap();
    let faults = rule_faults(&text, &names);
    assert!(faults.is_empty(), "docs/raft-rules.md:\n{}", faults.join("\n"));
}

#[test]
fn rule_faults_finds_each_planted_one() {
    let row = |rule: u32| format!("| {rule} | a | b | `c.rs` | `t` |");
    let whole: Vec<String> = (1..=RULES).map(row).collect();
    let names: BTreeSet<String> = ["t".to_owned()].into();
    let faults = |change: &dyn Fn(&mut Vec<String>), names: &BTreeSet<String>| {
        let mut rows = whole.clone();
        change(&mut rows);
        rule_faults(&rows.join("\n"), names)
    };
    assert_eq!(faults(&|_| {}, &names), Vec::<String>::new());
    assert_eq!(faults(&|rows| drop(rows.remove(6)), &names), ["rule 7 has no row"]);
    let open = "| 7 | a | b | *with the lease work* |  |".to_owned();
    assert_eq!(faults(&|rows| rows[6] = open.clone(), &names), Vec::<String>::new());
    for wrong in ["| 7 | a | b | `c.rs` | `u` |", "| 7 | a | b | `c.rs` |  |", "| 7 | a |  | `c.rs` | `t` |"]
    {
        assert_eq!(faults(&|rows| rows[6] = wrong.to_owned(), &names).len(), 1, "{wrong}");
    }
    assert_eq!(faults(&|rows| rows.push(row(RULES + 1)), &names).len(), 1);
    let more: BTreeSet<String> = ["t", "rule_07_new"].map(str::to_owned).into();
    assert_eq!(faults(&|_| {}, &more), ["rule_07_new is not in the row of rule 7"]);
    let listed = "| 7 | a | b | `c.rs` | `t`, `rule_07_new` |".to_owned();
    assert_eq!(faults(&|rows| rows[6] = listed.clone(), &more), Vec::<String>::new());
}
