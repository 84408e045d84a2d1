//! The documents are executed: every ```` ```console ```` block of the files below runs, in order, against five real
//! nodes, one cluster for each file, started fresh.
//!
//! The convention of these blocks:
//! - A line that starts with `$ ` is a command for `sh`; one that ends with `\` goes on in the next line.
//! - What follows, up to the next command or the end of the block, is everything that the command prints. `...` stands
//!   for any text within a line; a line `...` alone for any number of lines.
//! - Without such lines the command must print nothing and succeed.
//! - A command that ends with `&` goes on beside those after it, and is ended with the document.
//! - `make` is not run: five nodes are running already, at other addresses, which are put in the place of
//!   `127.0.0.1:808N`; `configs/nodeN.yaml` are the files of these nodes, `data/nodeN` their directories;
//!   `target/release/` has this build's programs.
//! - What must be true before a command but takes a moment (a leader after one was killed) is the command's own
//!   business: `dkv-cli` waits for it.

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::Cluster;

/// One command of a document, and what it is said to print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Where it is: the document's line.
    line: usize,
    command: String,
    output: Vec<String>,
}

/// The commands of all console blocks.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continues, mut first) = (false, false, true);
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            (inside, continues, first) = (!inside && line.trim_end() == "```console", false, true);
        } else if !inside {
            continue;
        } else if continues {
            let step = steps.last_mut().expect("a command that goes on");
            step.command = format!("{}\n{line}", step.command);
            continues = line.ends_with('\\');
        } else if let Some(command) = line.strip_prefix("$ ") {
            continues = line.ends_with('\\');
            first = false;
            steps.push(Step { line: number + 1, command: command.to_owned(), output: Vec::new() });
        } else {
            assert!(!first, "line {}: a console block starts with a command", number + 1);
            steps.last_mut().expect("a command").output.push(line.to_owned());
        }
    }
    steps
}

/// Whether `line` is `pattern`, in which `...` stands for any text.
fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once("...") else { return pattern == line };
    let Some(line) = line.strip_prefix(start) else { return false };
    (0..=line.len()).filter(|&at| line.is_char_boundary(at)).any(|at| line_matches(rest, &line[at..]))
}

/// Whether `lines` are the `patterns`; a pattern `...` stands for any number of lines.
fn lines_match(patterns: &[String], lines: &[&str]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any.trim() == "..." => {
            (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..]))
        }
        Some((pattern, rest)) => lines.split_first().is_some_and(|(line, more)| {
            line_matches(pattern.trim_end(), line.trim_end()) && lines_match(rest, more)
        }),
    }
}

/// Groups of processes that go on beside the document, and end with it.
#[derive(Default)]
struct Beside(Vec<u32>);

impl Drop for Beside {
    fn drop(&mut self) {
        for group in &self.0 {
            // Nobody may be left in it.
            let _ = Command::new("kill")
                .args(["-KILL", "--", &format!("-{group}")])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Runs the console blocks of a document against a fresh cluster.
fn run(document: &str) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let steps = steps(&text);
    assert!(!steps.is_empty(), "{document} has no console block");
    let mut cluster = Cluster::start_calm(5);
    let programs = cluster.dir.join("target/release");
    std::fs::create_dir_all(&programs).unwrap();
    for program in [env!("CARGO_BIN_EXE_dkv-cli"), env!("CARGO_BIN_EXE_dkv-server")] {
        let name = Path::new(program).file_name().expect("a program's name");
        std::os::unix::fs::symlink(program, programs.join(name)).unwrap();
    }
    let endpoints: Vec<String> = (0..5).map(|n| cluster.http_addr(n)).collect();
    let mut wrong = String::new();
    let mut beside = Beside::default();
    for step in &steps {
        if step.command.starts_with("make ") {
            continue;
        }
        let command = step.command.replace("127.0.0.1:", &format!("{}:", cluster.ip));
        let command = command.replace("configs/", &format!("{}/", cluster.dir.display()));
        let command = command.replace("data/node", &format!("{}/node", cluster.dir.display()));
        std::fs::write(cluster.dir.join("command"), command).unwrap();
        let output = Command::new("timeout")
            .args(["30", "sh", "command"])
            .current_dir(&cluster.dir)
            .env("DKV_ENDPOINTS", endpoints.join(","))
            .env_remove("DKV_TIMEOUT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh runs");
        // `timeout` makes a group of its own, in which whatever goes on beside the document stays.
        if step.command.ends_with('&') {
            beside.0.push(output.id());
        }
        let output = std::thread::scope(|scope| {
            let output = scope.spawn(|| output.wait_with_output().expect("its output"));
            // As the supervisor of `make cluster`: a node that was killed is reaped, so that its process id is gone.
            while !output.is_finished() {
                (0..cluster.size()).for_each(|n| {
                    cluster.ended(n);
                });
                std::thread::sleep(Duration::from_millis(10));
            }
            output.join().expect("a command that runs")
        });
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).replace(&cluster.ip, "127.0.0.1");
        let lines: Vec<&str> = said.lines().collect();
        let silent_failure = step.output.is_empty() && !output.status.success();
        if silent_failure || !lines_match(&step.output, &lines) {
            let expected = step.output.join("\n");
            wrong.push_str(&format!(
                "{document}:{}: $ {}\n-- says the document:\n{expected}\n-- said the command ({}):\n{said}\n",
                step.line, step.command, output.status
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn readme_is_true() {
    run("README.md");
}

#[test]
fn api_document_is_true() {
    run("docs/api.md");
}

#[test]
fn operations_document_is_true() {
    run("docs/operations.md");
}

#[test]
fn steps_are_read_from_console_blocks_alone() {
    let text = "x\n```sh\n$ no\n```\n```console\n$ a \\\n  b\none\n...\n$ c\n```\n$ no\n";
    let step = |line, command: &str, output: &[&str]| Step {
        line,
        command: command.to_owned(),
        output: output.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(steps(text), [step(6, "a \\\n  b", &["one", "..."]), step(10, "c", &[])]);
}

#[test]
fn dots_stand_for_what_varies_and_for_nothing_else() {
    let is = |patterns: &[&str], said: &str| {
        let patterns: Vec<String> = patterns.iter().map(|&line| line.to_owned()).collect();
        lines_match(&patterns, &said.lines().collect::<Vec<_>>())
    };
    assert!(is(&["a", "b"], "a\nb\n") && is(&[], ""));
    assert!(is(&["term ... of ...", "z"], "term 7 of 9\r\nz"));
    assert!(is(&["a", "...", "z"], "a\nz") && is(&["a", "...", "z"], "a\nb\nc\nz") && is(&["..."], ""));
    for (patterns, said) in [
        (&["a"][..], "a\nb"),
        (&["a", "b"], "a"),
        (&["a"], ""),
        (&[], "a"),
        (&["a ... c"], "a b d"),
        (&["...x"], "y"),
        (&["...", "z"], "a\nb"),
    ] {
        assert!(!is(patterns, said), "{patterns:?} {said}");
    }
}
