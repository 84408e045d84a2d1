//! Breaks the code on purpose, one break at a time, and expects the named test to notice: `make mutants`. The breaks
//! are in `tests/mutants.toml`. Without `--run` it only checks that every text to be replaced is there exactly once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// A test that runs longer than this is taken to hang: the break was noticed.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Building the copy the first time compiles every dependency.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// What is not copied.
const NOT_COPIED: [&str; 3] = ["target", ".git", "data"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: String,
    find: String,
    replace: String,
    test: Vec<String>,
}

/// What became of a mutant.
enum Verdict {
    /// The test went red, as it should.
    Caught(&'static str),
    /// The test stayed green: it does not test what it says.
    Survived,
    /// Nothing was learned: the text of the error.
    Error(String),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = match read_list(root) {
        Ok(list) => list,
        Err(error) => {
            eprintln!("tests/mutants.toml: {error}");
            return ExitCode::FAILURE;
        }
    };
    if !args.iter().any(|a| a == "--run") {
        println!("tests/mutants.toml: the texts of {} mutants are there exactly once", list.len());
        println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |m: &&Mutant| words.is_empty() || words.iter().any(|w| m.name.contains(w.as_str()));
    let chosen: Vec<&Mutant> = list.iter().filter(wanted).collect();
    match run(root, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_list(root: &Path) -> Result<Vec<Mutant>, String> {
    let text = fs::read_to_string(root.join("tests/mutants.toml")).map_err(|e| e.to_string())?;
    let List { mutant: list } = toml::from_str(&text).map_err(|e| e.to_string())?;
    let mut names = BTreeSet::new();
    for mutant in &list {
        let Mutant { name, file, find, replace, test } = mutant;
        let source = fs::read_to_string(root.join(file)).map_err(|e| format!("{name}: {file}: {e}"))?;
        let matches = source.matches(find.as_str()).count();
        if matches != 1 {
            return Err(format!(
                "{name}: the text to replace is {matches} times in {file}, not once:\n{find}"
            ));
        }
        if find == replace || test.is_empty() || !names.insert(name) {
            return Err(format!("{name}: it needs a name of its own, another text, and a test"));
        }
    }
    Ok(list)
}

fn run(root: &Path, mutants: &[&Mutant]) -> io::Result<bool> {
    let work = root.join("target/mutants");
    let tree = work.join("tree");
    mirror(root, &tree)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    let cargo = Cargo { tree: tree.clone(), target: work.join("build"), interrupted };
    let width = mutants.iter().map(|m| m.name.chars().count()).max().unwrap_or(0).max(4);
    println!("{:width$}  {:>7}  caught by", "name", "time");
    let mut sound = BTreeSet::new();
    let mut all_caught = true;
    for mutant in mutants {
        let started = Instant::now();
        // A test that is red, or does not exist, without the break proves nothing: run it once as it is.
        let verdict = match sound.contains(&mutant.test) {
            true => None,
            false => cargo.check_sound(&mutant.test)?,
        };
        let verdict = match verdict {
            Some(error) => Verdict::Error(error),
            None => {
                sound.insert(mutant.test.clone());
                judge(&cargo, &tree, mutant)?
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let test = mutant.test.last().map_or("", String::as_str);
        let said = match verdict {
            Verdict::Caught(how) => format!("{test}{how}"),
            Verdict::Survived => format!("SURVIVED {test}"),
            Verdict::Error(ref text) => format!("ERROR {text}"),
        };
        all_caught &= matches!(verdict, Verdict::Caught(_));
        println!("{:width$}  {seconds:6.1}s  {said}", mutant.name);
    }
    println!("{} mutants, {}", mutants.len(), if all_caught { "all caught" } else { "NOT all caught" });
    Ok(all_caught)
}

/// Applies the break, builds, tests, and takes it back.
fn judge(cargo: &Cargo, tree: &Path, mutant: &Mutant) -> io::Result<Verdict> {
    let path = tree.join(&mutant.file);
    let source = fs::read_to_string(&path)?;
    fs::write(&path, source.replacen(&mutant.find, &mutant.replace, 1))?;
    let built = cargo.build(&mutant.test);
    let verdict = match built {
        Err(e) => Err(e),
        Ok(Some(error)) => Ok(Verdict::Error(error)),
        Ok(None) => cargo.test(&mutant.test).map(|ended| match ended {
            None => Verdict::Caught(" (by its time limit)"),
            Some((status, _)) if !status.success() => Verdict::Caught(""),
            Some(_) => Verdict::Survived,
        }),
    };
    fs::write(&path, source)?;
    verdict
}

struct Cargo {
    tree: PathBuf,
    target: PathBuf,
    /// Set by a signal: what runs is ended first, as it would not see the signal itself.
    interrupted: Arc<AtomicBool>,
}

impl Cargo {
    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).arg("test").args(args);
        // A group of its own, so that a test that hangs can be ended with everything it started.
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// None when it compiles, else the error.
    fn build(&self, test: &[String]) -> io::Result<Option<String>> {
        // The last word is the test's name; the ones before say which target to build.
        let target = test.split_last().map_or(&[][..], |(_, target)| target);
        let log = self.target.with_file_name("build.log");
        let mut command = self.command(&[&["--no-run".to_owned()], target].concat());
        let child = command.stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
        let status = self.wait(child, BUILD_TIMEOUT)?;
        if status.is_some_and(|s| s.success()) {
            return Ok(None);
        }
        let text = fs::read_to_string(&log)?;
        let first = text.lines().find(|l| l.starts_with("error")).unwrap_or("the build did not end in time");
        Ok(Some(format!("does not compile: {first}; see target/mutants/build.log")))
    }

    /// The test's end and output; None when it ran into its time limit.
    fn test(&self, test: &[String]) -> io::Result<Option<(ExitStatus, String)>> {
        let log = self.target.with_file_name("test.log");
        let file = fs::File::create(&log)?;
        let child = self.command(test).stdout(file.try_clone()?).stderr(file).spawn()?;
        let Some(status) = self.wait(child, TEST_TIMEOUT)? else { return Ok(None) };
        Ok(Some((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned())))
    }

    /// None when the test exists and is green on the code as it is, else what is wrong with it.
    fn check_sound(&self, test: &[String]) -> io::Result<Option<String>> {
        if let Some(error) = self.build(test)? {
            return Ok(Some(error));
        }
        let Some((status, text)) = self.test(test)? else {
            return Ok(Some("the test does not end even without the break".to_owned()));
        };
        if !status.success() {
            return Ok(Some(
                "the test is red even without the break; see target/mutants/test.log".to_owned(),
            ));
        }
        let ran = text.lines().any(|l| l.starts_with("test result: ok.") && !l.contains(" 0 passed;"));
        Ok((!ran).then(|| "there is no such test".to_owned()))
    }

    /// Waits for the end of a child that leads its group; ends the whole group after `limit` (None) or on a signal
    /// (an error).
    fn wait(&self, mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            let interrupted = self.interrupted.load(Ordering::SeqCst);
            if interrupted || Instant::now() >= deadline {
                let group = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
                child.wait()?;
                return if interrupted { Err(io::Error::other("stopped by a signal")) } else { Ok(None) };
            }
            // Builds and tests take seconds: this costs nothing beside them.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Makes `to` equal to `from`, touching only the files that differ, so that little is built again.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut kept = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if NOT_COPIED.iter().any(|n| name == *n) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            mirror(&source, &target)?;
        } else {
            let bytes = fs::read(&source)?;
            if fs::read(&target).ok().as_ref() != Some(&bytes) {
                fs::write(&target, bytes)?;
            }
        }
        kept.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !kept.contains(&entry.file_name()) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?
            } else {
                fs::remove_file(entry.path())?
            }
        }
    }
    Ok(())
}
