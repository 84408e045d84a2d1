//! Breaks the code on purpose, one break at a time, and expects the named test to notice: `make mutants`. The breaks
//! are in `tests/mutants.toml`. Without `--run` it only checks that every text to be replaced is there exactly once, and that
//! there is such a test.
//!
//! `make mutants ONLY="stale vote"` runs those whose slug (the name with dashes, as printed) contains one of the words;
//! `make mutants RESUME=1` leaves out those that the last run caught. The copy and its build stay in `target/mutants`,
//! so a mutant costs what changed after it.
//!
//! `make mutants-fix FROM=text TO=text` follows a renaming: it replaces a text in the files, breaks and tests of the list.

#[path = "mutants/fix.rs"]
mod fix;
#[path = "mutants/list.rs"]
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use list::Mutant;

/// A mutant must be caught within this time, its build included. A test that runs longer hangs: it is ended, and the
/// break counts as noticed, but not in time.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Building the copy the first time compiles every dependency.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);

/// What is not copied.
const NOT_COPIED: [&str; 3] = ["target", ".git", "data"];

/// Tests that run for long are built as `make test` builds them; for the others that would take longer than it saves.
const OPTIMISED: [&str; 2] = ["sim", "crash_sweep"];

/// What became of a mutant.
enum Verdict {
    /// These tests went red.
    Caught(String),
    /// The test did not end.
    Hung,
    /// The test stayed green: it does not test what it says.
    Survived,
    /// Nothing was learned: the text of the error.
    Error(String),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if args.first().is_some_and(|a| a == "--fix") {
        return fix_list(root, &args[1..]);
    }
    fix::check_itself();
    let list = match list::read(root) {
        Ok(list) => list,
        Err(error) => {
            eprintln!("tests/mutants.toml: {error}");
            return ExitCode::FAILURE;
        }
    };
    if !args.iter().any(|a| a == "--run") {
        println!("tests/mutants.toml: the texts of {} mutants are there exactly once", list.len());
        println!("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |m: &&Mutant| words.is_empty() || words.iter().any(|w| m.slug().contains(w.as_str()));
    let chosen: Vec<&Mutant> = list.iter().filter(wanted).collect();
    match run(root, chosen, args.iter().any(|a| a == "--resume")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `--fix FROM TO`: the renaming of a text of the code, in the list.
fn fix_list(root: &Path, args: &[String]) -> ExitCode {
    let [from, to] = args else {
        eprintln!("make mutants-fix needs FROM=text and TO=text");
        return ExitCode::from(2);
    };
    let path = root.join("tests/mutants.toml");
    let fixed =
        fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| fix::fix(&text, from, to));
    let fixed =
        fixed.and_then(|(text, count)| fs::write(&path, text).map(|()| count).map_err(|e| e.to_string()));
    let checked = fixed.and_then(|count| {
        println!("tests/mutants.toml: {count} texts changed");
        list::read(root)
    });
    match checked {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tests/mutants.toml: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, mut mutants: Vec<&Mutant>, resume: bool) -> io::Result<bool> {
    let work = root.join("target/mutants");
    let tree = work.join("tree");
    mirror(root, &tree)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    let cargo = Cargo { tree, target: work.join("build"), interrupted };
    // One kind of build after the other, and file by file: what two mutants in a row share is not built again.
    mutants.sort_by(|a, b| (a.group(), &a.file).cmp(&(b.group(), &b.file)));
    let mut results = Results::open(&work.join("results"), resume)?;
    let mutants: Vec<&Mutant> = mutants.into_iter().filter(|m| !results.has(m)).collect();
    println!("{} mutants to run; {} were caught before", mutants.len(), results.rows.len());
    let mut unsound = BTreeMap::new();
    let mut open = Vec::new();
    for (n, mutant) in mutants.iter().enumerate() {
        if n == 0 || mutants[n - 1].group() != mutant.group() {
            choose_programs(root, &cargo.tree, starts_programs(root, mutant.target())?)?;
            let group = mutants.iter().filter(|other| other.group() == mutant.group());
            unsound = check_sound(&cargo, mutant, group.map(|m| m.test_name()).collect())?;
        }
        let started = Instant::now();
        let verdict = match unsound.get(mutant.test_name()) {
            Some(error) => Verdict::Error(error.clone()),
            None => judge(&cargo, mutant)?,
        };
        let took = started.elapsed();
        let said = match verdict {
            Verdict::Caught(by) if took <= TIME_LIMIT => {
                results.add(mutant, took, &by)?;
                by
            }
            Verdict::Caught(by) => format!("TOO LATE {by}"),
            Verdict::Hung => format!("TOO LATE {} does not end", mutant.test_name()),
            Verdict::Survived => format!("SURVIVED {}", mutant.test_name()),
            Verdict::Error(text) => format!("ERROR {text}"),
        };
        if !results.has(mutant) {
            open.push(format!("{}: {said}", mutant.slug()));
        }
        println!("{:6.1}s  {}  {said}", took.as_secs_f64(), mutant.slug());
    }
    print!("\n{}", results.table());
    println!("\n{} mutants caught, {} not", results.rows.len(), open.len());
    open.iter().for_each(|line| println!("{line}"));
    Ok(open.is_empty())
}

/// Runs each test of a target once without a break: one that is red, or does not exist, proves nothing. What is wrong,
/// by test.
fn check_sound(cargo: &Cargo, any: &Mutant, names: BTreeSet<&str>) -> io::Result<BTreeMap<String, String>> {
    let started = Instant::now();
    let names: Vec<&str> = names.into_iter().collect();
    let blame = |names: &[&str], error: &str| {
        names.iter().map(|name| ((*name).to_owned(), error.to_owned())).collect::<BTreeMap<_, _>>()
    };
    if let Some(error) = cargo.build(any.target())? {
        return Ok(blame(&names, &error));
    }
    let Some((status, text)) = cargo.test(any.target(), &names, any.seeds, BUILD_TIMEOUT)? else {
        return Ok(blame(&names, "the test does not end even without the break"));
    };
    let green: BTreeSet<&str> = ended(&text, " ... ok").collect();
    let is_green = |name: &&str| green.contains(name);
    let missing: Vec<&str> = names.iter().filter(|name| !is_green(name)).copied().collect();
    let (green, target, took) =
        (names.len() - missing.len(), any.target().join(" "), started.elapsed().as_secs_f64());
    println!("{took:6.1}s  {green} of {} tests of {target} are green without a break", names.len());
    if !status.success() && missing.is_empty() {
        return Ok(blame(&names, "the tests fail even without a break"));
    }
    Ok(blame(&missing, "the test is red, or missing, even without the break"))
}

/// Applies the break, builds, tests, and takes it back.
fn judge(cargo: &Cargo, mutant: &Mutant) -> io::Result<Verdict> {
    let path = cargo.tree.join(&mutant.file);
    let source = fs::read_to_string(&path)?;
    fs::write(&path, source.replacen(&mutant.find, &mutant.replace, 1))?;
    let built = cargo.build(mutant.target());
    let verdict = match built {
        Err(e) => Err(e),
        Ok(Some(error)) => Ok(Verdict::Error(error)),
        Ok(None) => {
            let tested = cargo.test(mutant.target(), &[mutant.test_name()], mutant.seeds, TIME_LIMIT);
            tested.map(|ended| match ended {
                None => Verdict::Hung,
                Some((status, _)) if status.success() => Verdict::Survived,
                Some((_, text)) => Verdict::Caught(caught_by(mutant, &text)),
            })
        }
    };
    fs::write(&path, source)?;
    verdict
}

/// The tests that ended so.
fn ended<'a>(text: &'a str, how: &str) -> impl Iterator<Item = &'a str> {
    let names = text.lines().filter_map(move |line| line.strip_prefix("test ")?.strip_suffix(how));
    names.map(|name| name.strip_suffix(" - should panic").unwrap_or(name))
}

/// The tests that say that they failed; one that took its whole process along cannot say so.
fn caught_by(mutant: &Mutant, text: &str) -> String {
    let failed: BTreeSet<&str> = ended(text, " ... FAILED").collect();
    match failed.is_empty() {
        true => format!("{} (the process aborted)", mutant.test_name()),
        false => failed.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// The mutants that were caught, kept in a file so that a run can be resumed.
struct Results {
    path: PathBuf,
    /// By slug: file, seconds, caught by.
    rows: BTreeMap<String, [String; 3]>,
}

impl Results {
    fn open(path: &Path, resume: bool) -> io::Result<Results> {
        let mut rows = BTreeMap::new();
        if resume && path.exists() {
            for line in fs::read_to_string(path)?.lines() {
                if let [slug, file, seconds, by] = line.split('\t').collect::<Vec<_>>()[..] {
                    rows.insert(slug.to_owned(), [file, seconds, by].map(str::to_owned));
                }
            }
        } else {
            fs::write(path, "")?;
        }
        Ok(Results { path: path.to_owned(), rows })
    }

    fn has(&self, mutant: &Mutant) -> bool {
        self.rows.contains_key(&mutant.slug())
    }

    fn add(&mut self, mutant: &Mutant, took: Duration, by: &str) -> io::Result<()> {
        let row = [mutant.file.clone(), format!("{:.0}", took.as_secs_f64()), by.to_owned()];
        let mut file = fs::OpenOptions::new().append(true).open(&self.path)?;
        writeln!(file, "{}\t{}", mutant.slug(), row.join("\t"))?;
        self.rows.insert(mutant.slug(), row);
        Ok(())
    }

    /// For `docs/test-runs.md`.
    fn table(&self) -> String {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(slug, [file, ..])| (file.as_str(), slug.as_str()));
        let mut text = "| mutant | file | seconds | caught by |\n|---|---|---:|---|\n".to_owned();
        for (slug, [file, seconds, by]) in rows {
            let file = file.strip_prefix("src/").unwrap_or(file);
            text.push_str(&format!("| {} | `{file}` | {seconds} | `{by}` |\n", slug.replace('-', " ")));
        }
        text
    }
}

struct Cargo {
    tree: PathBuf,
    target: PathBuf,
    /// Set by a signal: what runs is ended first, as it would not see the signal itself.
    interrupted: Arc<AtomicBool>,
}

impl Cargo {
    fn command(&self, target: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).arg("test").args(target);
        if !target.last().is_some_and(|name| OPTIMISED.contains(&name.as_str())) {
            command.env("CARGO_PROFILE_TEST_OPT_LEVEL", "0");
        }
        command.env("CARGO_PROFILE_TEST_DEBUG", "0").env("RUST_BACKTRACE", "0");
        // Cargo tells this test where the programs of its own tree are; those must not be taken for the copy's.
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("CARGO_BIN_EXE_") {
                command.env_remove(name);
            }
        }
        // A group of its own, so that a test that hangs can be ended with everything it started.
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// None when it compiles, else the error.
    fn build(&self, target: &[String]) -> io::Result<Option<String>> {
        let log = self.target.with_file_name("build.log");
        let mut command = self.command(target);
        let child = command.arg("--no-run").stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
        let status = self.wait(child, BUILD_TIMEOUT)?;
        if status.is_some_and(|s| s.success()) {
            return Ok(None);
        }
        let text = fs::read_to_string(&log)?;
        let first = text.lines().find(|l| l.starts_with("error")).unwrap_or("the build did not end in time");
        Ok(Some(format!("does not compile: {first}; see target/mutants/build.log")))
    }

    /// The tests' end and output; None when they ran into their time limit.
    fn test(
        &self,
        target: &[String],
        names: &[&str],
        seeds: Option<u32>,
        limit: Duration,
    ) -> io::Result<Option<(ExitStatus, String)>> {
        let log = self.target.with_file_name("test.log");
        let file = fs::File::create(&log)?;
        let mut command = self.command(target);
        command.args(["--", "--exact"]).args(names);
        if let Some(seeds) = seeds {
            command.env("SEEDS", seeds.to_string());
        }
        let child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        let Some(status) = self.wait(child, limit)? else { return Ok(None) };
        Ok(Some((status, String::from_utf8_lossy(&fs::read(&log)?).into_owned())))
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

/// Whether a target starts the programs of this package. The copy then builds them as well: a test that found the
/// programs of the tree that is not broken would say nothing.
fn starts_programs(root: &Path, target: &[String]) -> io::Result<bool> {
    let [kind, name] = target else { return Ok(false) };
    if kind != "--test" {
        return Ok(kind == "--bin");
    }
    let mut sources = String::new();
    let tests = root.join("tests");
    let file = tests.join(name).with_extension("rs");
    if file.is_file() {
        sources.push_str(&fs::read_to_string(file)?);
    }
    if tests.join(name).is_dir() {
        list::read_sources(&tests.join(name), &mut sources)?;
    }
    Ok(["CARGO_BIN_EXE_", "support/cluster.rs", "support::cluster"].iter().any(|sign| sources.contains(sign)))
}

/// Takes the programs into the copy's build or leaves them out. Without them a break of the library costs no linking of
/// theirs.
fn choose_programs(root: &Path, tree: &Path, are_built: bool) -> io::Result<()> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let chosen = match are_built {
        true => manifest,
        false => manifest.replacen("[package]\n", "[package]\nautobins = false\n", 1),
    };
    let path = tree.join("Cargo.toml");
    if fs::read_to_string(&path)? != chosen {
        fs::write(&path, chosen)?;
    }
    Ok(())
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
