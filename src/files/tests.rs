//! Each row of the table, for reading and for writing; and two writers of one name.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

/// Everything that a name can lead to.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), b"mine").unwrap();
        fs::create_dir(at("directory")).unwrap();
        mkfifoat(CWD, at("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        drop(UnixListener::bind(at("socket")).unwrap());
        symlink(at("file"), at("link-to-file")).unwrap();
        symlink(at("pipe"), at("link-to-pipe")).unwrap();
        symlink(at("directory"), at("link-to-directory")).unwrap();
        symlink("nowhere", at("link-to-nothing")).unwrap();
        symlink("link-to-itself", at("link-to-itself")).unwrap();
        symlink("/dev/null", at("link-to-device")).unwrap();
        Place { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The names in it, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, FileError>) -> String {
    result.expect_err("refused").to_string()
}

fn begun(path: &Path, force: bool) -> NewFile {
    match Output::open(path, force) {
        Ok(Output::New(new)) => new,
        other => panic!("{other:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// `--force` once put a regular file in the place of a device, a pipe and a link, and the text advised it for all of them.
#[test]
fn output_replaces_nothing_but_regular_files_and_advises_force_for_nothing_else() {
    let place = Place::new();
    let before = place.names();
    for (name, says) in [
        ("directory", "is a directory; name a file in it"),
        ("link-to-directory", "is a directory; name a file in it"),
        ("socket", "is a socket; name a file, or - for standard output"),
        ("link-to-device", "is a device; name a file, or - for standard output"),
        ("link-to-nothing", "is a symbolic link to nowhere, which is not there; name that file itself"),
        ("link-to-itself", "cannot be written: "),
        ("file/x", "file is no directory"),
        ("missing/x", "missing; make it first"),
        ("new/", "is the name of a directory; name a file"),
    ] {
        for force in [false, true] {
            // Nothing of this is ever placed: the opening alone must refuse it.
            let said = refused(Output::open(&place.at(name), force));
            assert!(said.contains(says) && !said.contains("--force"), "{name} {force}: {said}");
        }
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(place.names(), before);
    let said = refused(Output::open(&place.at("file"), false));
    assert!(said.ends_with("exists already; --force replaces it"), "{said}");
    assert!(matches!(Output::open(Path::new("-"), false), Ok(Output::Stdout)));
    for (name, says) in
        [("", "'' is an empty name"), ("~/x", "./~/x if that is"), ("~root", "has not expanded")]
    {
        let said = refused(Output::open(Path::new(name), true));
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn output_follows_a_link_to_a_regular_file_and_leaves_the_link() {
    let place = Place::new();
    let new = begun(&place.at("link-to-file"), true);
    new.file().write_all(b"new").unwrap();
    assert_eq!(fs::read(place.at("file")).unwrap(), b"mine", "not before it is whole");
    new.place().unwrap();
    assert!(fs::symlink_metadata(place.at("link-to-file")).unwrap().is_symlink());
    assert_eq!(fs::read(place.at("file")).unwrap(), b"new");
}

#[test]
fn output_to_a_pipe_is_written_as_it_comes_and_the_pipe_stays_one() {
    let place = Place::new();
    for name in ["pipe", "link-to-pipe"] {
        let path = place.at(name);
        let reader = thread::spawn(move || fs::read(path).unwrap());
        let Ok(Output::Pipe(mut pipe)) = Output::open(&place.at(name), true) else { panic!("{name}") };
        pipe.write_all(b"through").unwrap();
        drop(pipe);
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::symlink_metadata(place.at("pipe")).unwrap().file_type().is_fifo());
    }
}

/// Two savers of one name once wrote into one file, `NAME.part`; the one that was done first reported a file that the
/// other then destroyed.
#[test]
fn what_was_placed_is_never_written_again_by_a_second_saver_of_the_same_name() {
    let place = Place::new();
    let path = place.at("file");
    fs::write(place.at("file.part"), b"a user's own").unwrap();
    let (first, second) = (begun(&path, true), begun(&path, true));
    assert_ne!(first.part(), second.part());
    first.file().write_all(b"first").unwrap();
    let mut placed = first.file().try_clone().unwrap();
    first.place().unwrap();
    second.file().write_all(b"the second one").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    second.place().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"the second one");
    // Whoever has the first one open, or has another name for it, still has it whole.
    std::io::Seek::rewind(&mut placed).unwrap();
    let mut text = Vec::new();
    placed.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"first");
    assert_eq!(fs::read(place.at("file.part")).unwrap(), b"a user's own");
    assert!(!place.names().iter().any(|name| name.starts_with('.')), "{:?}", place.names());
}

#[test]
fn place_without_force_does_not_replace_what_appeared_meanwhile() {
    let place = Place::new();
    let path = place.at("new");
    let (first, second) = (begun(&path, false), begun(&path, false));
    first.file().write_all(b"first").unwrap();
    first.place().unwrap();
    let said = refused(second.place());
    assert!(said.contains("was made by another process meanwhile"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert!(!place.names().iter().any(|name| name.starts_with('.')), "{:?}", place.names());
}

#[test]
fn place_looks_again_at_what_it_replaces() {
    let place = Place::new();
    let path = place.at("file");
    let new = begun(&path, true);
    fs::remove_file(&path).unwrap();
    fs::rename(place.at("pipe"), &path).unwrap();
    let said = refused(new.place());
    assert!(said.contains("is no regular file any more"), "{said}");
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert!(!place.names().iter().any(|name| name.starts_with('.')), "{:?}", place.names());
    // One that is gone can be replaced.
    let path = place.at("link-to-file");
    fs::write(place.at("file-2"), b"").unwrap();
    let new = begun(&place.at("file-2"), true);
    fs::remove_file(place.at("file-2")).unwrap();
    new.place().unwrap();
    assert!(fs::symlink_metadata(path).unwrap().is_symlink());
}

#[test]
fn a_file_that_is_not_placed_leaves_nothing() {
    let place = Place::new();
    let before = place.names();
    let new = begun(&place.at(&"n".repeat(255)), false);
    assert!(new.part().exists() && new.part().parent() == Some(&fs::canonicalize(place.dir.path()).unwrap()));
    drop(new);
    assert_eq!(place.names(), before);
}

#[test]
fn a_new_file_is_its_owners_alone_and_a_replaced_one_is_restricted_with_a_line() {
    let place = Place::new();
    let new = begun(&place.at("new"), false);
    assert_eq!(mode(new.part()), 0o600);
    assert_eq!(new.place().unwrap(), None);
    assert_eq!(mode(&place.at("new")), 0o600);
    fs::set_permissions(place.at("file"), Permissions::from_mode(0o644)).unwrap();
    let line = begun(&place.at("file"), true).place().unwrap().unwrap();
    assert!(line.contains("mode 0644"), "{line}");
    assert_eq!(mode(&place.at("file")), 0o600);
}

#[test]
fn input_takes_files_and_pipes_and_says_what_else_there_is() {
    let place = Place::new();
    for name in ["file", "link-to-file"] {
        let Ok(Input::File(mut file)) = Input::open(&place.at(name)) else { panic!("{name}") };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "mine");
    }
    for name in ["pipe", "link-to-pipe"] {
        let path = place.at(name);
        let writer = thread::spawn(move || fs::write(path, b"through").unwrap());
        let Ok(input @ Input::Pipe(_)) = Input::open(&place.at(name)) else { panic!("{name}") };
        let mut text = String::new();
        input.into_reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        writer.join().unwrap();
    }
    assert!(matches!(Input::open(Path::new("-")), Ok(Input::Stdin)));
    for (name, says) in [
        ("directory", "is a directory"),
        ("socket", "is a socket"),
        ("link-to-device", "is a device"),
        ("missing", "No such file"),
        ("missing/x", "No such file"),
        ("link-to-nothing", "No such file"),
    ] {
        let said = refused(Input::open(&place.at(name)));
        assert!(said.contains(says) && said.starts_with(place.at(name).to_str().unwrap()), "{name}: {said}");
    }
    assert!(refused(Input::open(Path::new("~/x"))).contains("has not expanded"));
}

/// What is read twice cannot be a pipe; that is said at once, and no pipe is called damaged or waited for.
#[test]
fn open_file_refuses_pipes_with_the_reason() {
    let place = Place::new();
    for path in [place.at("pipe"), place.at("link-to-pipe"), PathBuf::from("-")] {
        let said = refused(open_file(&path, "it is read twice"));
        assert!(said.contains("because it is read twice; save it in a file"), "{said}");
    }
    open_file(&place.at("link-to-file"), "").unwrap();
    assert!(refused(open_file(&place.at("directory"), "")).contains("is a directory"));
    assert!(refused(open_file(&place.at("link-to-device"), "")).contains("is a device"));
    assert!(refused(open_file(Path::new("~/x"), "")).contains("has not expanded"));
}

#[test]
fn open_log_appends_to_a_file_of_its_owner_alone_and_refuses_what_is_none() {
    let place = Place::new();
    let (mut log, line) = open_log(&place.at("log")).unwrap();
    log.write_all(b"one ").unwrap();
    assert_eq!((line, mode(&place.at("log"))), (None, 0o600));
    fs::set_permissions(place.at("log"), Permissions::from_mode(0o644)).unwrap();
    let (mut log, line) = open_log(&place.at("log")).unwrap();
    log.write_all(b"two").unwrap();
    assert!(line.unwrap().contains("mode 0644"));
    assert_eq!(mode(&place.at("log")), 0o600);
    assert_eq!(fs::read(place.at("log")).unwrap(), b"one two");
    for (name, says) in [
        ("directory", "is a directory"),
        ("link-to-device", "is a device"),
        ("socket", "is a socket"),
        ("missing/log", "make it first"),
        ("link-to-nothing", "which is not there"),
        ("pipe", "nobody reads it"),
    ] {
        let said = refused(open_log(&place.at(name)));
        assert!(said.contains(says), "{name}: {said}");
    }
    let device = fs::metadata("/dev/null").unwrap();
    assert!(device.file_type().is_char_device());
    assert!(refused(open_log(Path::new("-"))).contains("leave log.file away"));
    assert!(refused(open_log(Path::new("~/log"))).contains("has not expanded"));
    // A pipe that somebody reads, with a full buffer: it is waited for then, as a terminal is.
    let mut reader = File::options().read(true).write(true).open(place.at("pipe")).unwrap();
    let (mut log, line) = open_log(&place.at("pipe")).unwrap();
    assert_eq!(line, None);
    let flags = rustix::fs::fcntl_getfl(&log).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    log.write_all(b"through").unwrap();
    let mut text = [0; 7];
    reader.read_exact(&mut text).unwrap();
    assert_eq!((&text, mode(&place.at("pipe"))), (b"through", 0o600));
}

#[test]
fn foreign_encoding_knows_marks_and_utf_16_and_nothing_else() {
    for plain in ["", "n", "node_id: a", "{\"key\":\"\u{feff}\"}", "dkvsnap\0", "é"] {
        assert_eq!(foreign_encoding(plain.as_bytes()), None, "{plain:?}");
    }
    for (bytes, says) in [
        (&b"\xef\xbb\xbfnode"[..], "byte order mark (BOM) of UTF-8"),
        (b"\xff\xfen\0", "UTF-16 text (little-endian)"),
        (b"\xfe\xff\0n", "UTF-16 text (big-endian)"),
        (b"n\0o\0", "UTF-16 text (little-endian, without"),
        (b"\0n\0o", "UTF-16 text (big-endian, without"),
        (b"\xff\xfe\0\0n", "UTF-32 text (little-endian)"),
        (b"\0\0\xfe\xff\0", "UTF-32 text (big-endian)"),
    ] {
        assert!(foreign_encoding(bytes).is_some_and(|text| text.contains(says)), "{bytes:?}");
    }
}
