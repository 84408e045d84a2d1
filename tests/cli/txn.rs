//! `dkv-cli txn`: from the command line and from standard input.

use std::io::Write;
use std::process::Stdio;

use super::cluster::Cluster;
use super::{code, command, run, said};

/// Runs `dkv-cli txn` with this on standard input.
fn piped(addr: &str, args: &[&str], input: &str) -> std::process::Output {
    let mut command = command(addr, &[&["txn"], args].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn txn_does_what_its_options_say_and_tells_whether_the_conditions_held() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let addr = cluster.http_addr(0);
    let line = [
        "txn",
        "--if",
        "a absent",
        "--get",
        "a",
        "--put",
        "a=1=2",
        "--put",
        "b=x y",
        "--get",
        "a",
        "--list",
        "",
        "--else-get",
        "a",
    ];
    let output = run(&addr, &line);
    let wanted = "succeeded at revision 2\nget a: no such key\nput a: version 1\nput b: version 1\nget a: 1=2\nlist *: 2 keys\n  \
                  a\t1=2\n  b\tx y\n";
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).into_owned()), (0, wanted.to_owned()));
    let output = run(&addr, &line);
    let wanted = "a condition does not hold at revision 2\nget a: 1=2\n";
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).into_owned()), (1, wanted.to_owned()));
    // What is done otherwise is done, and the exit code still says that the conditions did not hold.
    let output =
        run(&addr, &["txn", "--if", "b = z", "--else-delete", "b", "--else-put", "c=3", "-o", "json"]);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &reply["succeeded"], &reply["revision"]), (1, &false.into(), &3.into()));
    assert_eq!(reply["results"][0]["delete"]["deleted"], 1);
    let output = run(&addr, &["txn", "--if", "c version 1", "--if", "c mod_revision > 2", "--put", "c="]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert_eq!(run(&addr, &["get", "c"]).stdout, b"");
    let named = ["txn", "--put", "d=1", "--idempotency-key", "once"];
    assert_eq!((code(&run(&addr, &named)), code(&run(&addr, &named))), (0, 0));
    assert_eq!(cluster.status(0).unwrap()["revision"], 5, "done once");
}

#[test]
fn txn_takes_json_from_standard_input() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let addr = cluster.http_addr(0);
    let text = r#"{"then":[{"put":{"key":"a b","value":"1","prev":true}},{"put":{"key_base64":"/w==","value":"2"}},
        {"txn":{"if":[{"prefix":"q","exists":true}],"else":[{"delete":{"prefix":"z"}},{"get":{"key":"a b"}}]}}]}"#;
    let output = piped(&addr, &[], text);
    let wanted = "succeeded at revision 2\nput a b: version 1\nput \\xff: version 1\nnested: a condition does not hold\n  \
                  delete z*: 0 keys deleted\n  get a b: 1\n";
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).into_owned()), (0, wanted.to_owned()));
    let again = piped(&addr, &[], text);
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("put a b: version 2\n  before: a b\t1\n"),
        "{}",
        said(&again)
    );
    let output = piped(&addr, &["-o", "json"], r#"{"then":[{"get":{"key":"a b"}}]}"#);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &reply["results"][0]["get"]["value"]), (0, &"1".into()));
}

#[test]
fn txn_refuses_what_is_no_transaction_and_changes_nothing() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let addr = cluster.http_addr(0);
    for (args, says) in [
        (&["--put", "a"][..], "write --put KEY=VALUE"),
        (&["--put", "=1"], "the key is empty"),
        (&["--if", "a is 1", "--put", "a=1"], "is no condition"),
        (&["--if", "a version x", "--put", "a=1"], "is no condition"),
        (&["--put", "a=1", "--else-delete", ""], "the key is empty"),
        (&["--put", "a=1", "--delete", "a"], "is written twice"),
    ] {
        let output = run(&addr, &[&["txn"], args].concat());
        assert_eq!(code(&output), 2, "{args:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{args:?}: {}", said(&output));
    }
    for (input, says) in [
        ("", "no transaction"),
        (" \n", "no transaction"),
        ("put a 1", "no transaction as JSON"),
        (r#"{"then":[{"putt":{}}]}"#, "unknown field `putt`"),
        (r#"{"then":[{}]}"#, "then[0]: an operation is exactly one of"),
        (
            r#"{"then":[{"put":{"key":"a","value":"1","lease":"xyz"}}]}"#,
            "a lease is 1 to 16 hexadecimal digits",
        ),
    ] {
        let output = piped(&addr, &[], input);
        assert_eq!(code(&output), 2, "{input:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{input:?}: {}", said(&output));
    }
    let kept = piped(&addr, &[], r#"{"then":[{"put":{"key":"a","keep_value":true}}]}"#);
    assert_eq!(code(&kept), 1, "{}", said(&kept));
    assert_eq!(cluster.status(0).unwrap()["revision"], 1, "nothing was changed");
}
