//! What a person sees: colour, and the newline after a value, on a terminal only.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{GET_HEADERS, answer, command, error, node};

/// What a command writes to a terminal, its line ends as they were before the terminal changed them.
fn on_terminal(addr: &str, args: &[&str], environment: &[(&str, &str)]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
    let mut child = command(addr, args)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(environment.iter().copied())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal)
        .spawn()
        .unwrap();
    // It says far less than a terminal keeps.
    child.wait().unwrap();
    let (mut said, mut master) = (Vec::new(), File::from(master));
    // After the last byte comes an error, not an end: nobody has the other side open any more.
    let _ = master.read_to_end(&mut said);
    String::from_utf8(said).unwrap().replace("\r\n", "\n")
}

#[test]
fn colour_is_for_terminals_that_have_it_and_for_people_who_want_it() {
    let (addr, _) = node(error(404, "not_found", "not_done"));
    let plain = "dkv-cli: no such key: k (`dkv-cli list` shows those that exist)\n";
    let coloured = plain.replacen("dkv-cli:", "\x1b[1;31mdkv-cli:\x1b[0m", 1);
    for (environment, want) in [
        (&[][..], &coloured[..]),
        (&[("NO_COLOR", "")], &coloured),
        (&[("NO_COLOR", "1")], plain),
        (&[("TERM", "dumb")], plain),
    ] {
        assert_eq!(on_terminal(&addr, &["get", "k"], environment), want, "{environment:?}");
    }
    for args in [&["set", "--help"][..], &["--help"], &["nonsense"]] {
        assert!(on_terminal(&addr, args, &[]).contains("\x1b["), "{args:?}");
        assert!(!on_terminal(&addr, args, &[("NO_COLOR", "1")]).contains("\x1b["), "{args:?}");
    }
}

#[test]
fn a_value_has_a_newline_after_it_on_a_terminal() {
    let (addr, _) = node(answer(200, GET_HEADERS, b"value"));
    assert_eq!(on_terminal(&addr, &["get", "k"], &[]), "value\n");
}
