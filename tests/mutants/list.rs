//! The list of breaks, `tests/mutants.toml`: read and compared with the code.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    pub name: String,
    pub file: String,
    pub find: String,
    pub replace: String,
    pub test: Vec<String>,
    /// How many seeds the simulator is given.
    #[serde(default)]
    pub seeds: Option<u32>,
}

impl Mutant {
    pub fn slug(&self) -> String {
        let dashed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        self.name.chars().filter(|c| *c != '\'' && *c != ',').map(dashed).collect()
    }

    /// The test's own name, after the words that choose its target.
    pub fn test_name(&self) -> &str {
        self.test.last().map_or("", String::as_str)
    }

    pub fn target(&self) -> &[String] {
        self.test.split_last().map_or(&[], |(_, target)| target)
    }

    /// What is built and run in one way.
    pub fn group(&self) -> (&[String], Option<u32>) {
        (self.target(), self.seeds)
    }
}

/// Reads the list. The error names every entry that does not fit the code.
pub fn read(root: &Path) -> Result<Vec<Mutant>, String> {
    let text = fs::read_to_string(root.join("tests/mutants.toml")).map_err(|e| e.to_string())?;
    let List { mutant: list } = toml::from_str(&text).map_err(|e| e.to_string())?;
    let (mut names, mut breaks) = (BTreeSet::new(), BTreeSet::new());
    let mut sources = String::new();
    for dir in ["src", "tests"] {
        read_sources(&root.join(dir), &mut sources).map_err(|e| e.to_string())?;
    }
    let mut faults = Vec::new();
    for mutant in &list {
        let Mutant { name, file, find, replace, test, .. } = mutant;
        match fs::read_to_string(root.join(file)) {
            Err(error) => faults.push(format!("{name}: {file}: {error}")),
            Ok(source) => {
                faults.extend(misplaced(find, &source).map(|fault| format!("{name}: {file}: {fault}")))
            }
        }
        let is_new = names.insert(mutant.slug()) && breaks.insert((file, find, replace));
        if find == replace || test.is_empty() || !is_new {
            faults.push(format!("{name}: it needs a name and a break of its own, another text, and a test"));
        }
        let function = mutant.test_name().rsplit("::").next().unwrap_or_default();
        if !sources.contains(&format!("fn {function}(")) {
            faults.push(format!("{name}: there is no test {function}"));
        }
    }
    if faults.is_empty() { Ok(list) } else { Err(faults.join("\n")) }
}

/// Why the text cannot be replaced in `source`; None when it is there exactly once.
pub fn misplaced(find: &str, source: &str) -> Option<String> {
    let matches = source.matches(find).count();
    if matches == 1 {
        return None;
    }
    let mut fault = format!("the text to replace is there {matches} times, not once:\n{find}");
    if matches == 0
        && let Some((number, line)) = nearest_line(find, source)
    {
        fault.push_str(&format!("\nthe nearest line is {number}:\n{line}"));
    }
    Some(fault)
}

/// The line of `source` that is most like the first line of `find` that is not in it, and its number.
fn nearest_line<'a>(find: &str, source: &'a str) -> Option<(usize, &'a str)> {
    let missing = find.lines().find(|line| !source.contains(line)).or(find.lines().next())?;
    let wanted = pairs(missing);
    let mut best: Option<(usize, usize, &str)> = None;
    for (n, line) in source.lines().enumerate() {
        let own = pairs(line);
        let common = wanted.intersection(&own).count();
        // Dice's coefficient in thousandths: a long line does not win by being long.
        let score = 2_000 * common / (wanted.len() + own.len()).max(1);
        if score > best.map_or(0, |(score, ..)| score) {
            best = Some((score, n + 1, line));
        }
    }
    best.map(|(_, number, line)| (number, line))
}

/// Every two neighbouring characters of a line.
fn pairs(line: &str) -> BTreeSet<(char, char)> {
    line.trim().chars().zip(line.trim().chars().skip(1)).collect()
}

/// Every source file below `dir`, one after the other.
pub fn read_sources(dir: &Path, sources: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, sources)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
