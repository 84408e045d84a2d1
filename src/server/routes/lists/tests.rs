use std::time::Duration;

use super::*;
use crate::raft::{Entry, Payload, Position, Settings};
use crate::server::edge::Method;
use crate::store::{Command, Op, SCAN_KEYS};

/// A store of `keys` keys that all have this value.
fn store(keys: usize, value: &[u8]) -> Kv {
    let mut kv = Kv::new(Settings::default());
    for key in 0..keys {
        apply(&mut kv, Op::put(format!("{key:06}").into_bytes(), value.to_vec()));
    }
    kv
}

fn apply(kv: &mut Kv, op: Op) {
    let command = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
    let position = Position::new(kv.applied().index + 1, 1);
    kv.apply(&Entry::new(position, 0, &Payload::Command(command.encode())));
}

fn list(query: &str) -> List {
    let request = Request {
        method: Method::Get,
        path: "/v1/kv".to_owned(),
        query: Some(query.to_owned()),
        headers: Vec::new(),
        body: Vec::new(),
        from_loopback: true,
    };
    List::parse(&request, 4_096).unwrap()
}

fn serve(kv: &Kv, query: &str, patience: Duration) -> (Response, usize) {
    let (list, mut looks) = (list(query), 0);
    let look = |page: &mut Page| {
        looks += 1;
        page.fill(kv, &list)
    };
    (list.collect(look, Instant::now() + patience), looks)
}

#[test]
fn a_count_goes_on_until_its_deadline_and_no_longer() {
    let kv = store(2 * SCAN_KEYS + 1, b"");
    let (response, looks) = serve(&kv, "count_only=true", Duration::from_secs(60));
    let reply: api::ListReply = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, reply.count, looks), (200, 2 * SCAN_KEYS as u64 + 1, 3));

    let (response, looks) = serve(&kv, "count_only=true", Duration::ZERO);
    let error: ErrorBody = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, error.error.code, looks), (504, ErrorCode::Timeout, 1));
    assert_eq!(error.error.outcome, api::ErrorOutcome::NotDone);
    // What fits into one look is answered however late it is.
    let (response, _) = serve(&kv, "count_only=true&prefix=00", Duration::ZERO);
    assert_eq!(response.status, 200);
}

/// Every page of a listing, each followed by its cursor; how many rows each had.
fn pages(kv: &Kv, query: &str) -> Vec<usize> {
    let (mut pages, mut keys, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let (response, _) = serve(kv, &format!("{query}{cursor}"), Duration::from_secs(60));
        assert_eq!(response.status, 200);
        let reply: api::ListReply = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(reply.count, reply.kvs.len() as u64);
        assert!(response.body.len() <= MAX_LIST_BYTES || reply.count == 1, "{}", response.body.len());
        keys.extend(reply.kvs.iter().map(|row| row.key.clone()));
        pages.push(reply.kvs.len());
        match reply.cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let all = usize::try_from(kv.size().keys).unwrap();
    assert!(keys.len() == all && keys.is_sorted_by(|a, b| a < b), "each key once, in order");
    pages
}

#[test]
fn a_page_ends_at_4_mib_and_has_at_least_one_row() {
    assert_eq!(pages(&store(7, &[b'v'; 1 << 20]), ""), [3, 3, 1]);
    // Escaped, a single row is larger than a page.
    assert_eq!(pages(&store(3, &[0; 1 << 20]), ""), [1, 1, 1]);
    // In base64 it grows by a third.
    assert_eq!(pages(&store(4, &[0xff; 1 << 20]), ""), [2, 2]);
    // As bytes they fit into a page, as JSON they do not.
    let escaped = pages(&store(900, &[1; 4 << 10]), "");
    assert!(escaped.len() > 1 && escaped[0] > 100, "{escaped:?}");
    assert_eq!(pages(&store(900, &[1; 4 << 10]), "keys_only=true"), [900]);
}

/// A page of a list as it is said: rows and folders by name.
fn names(reply: &api::ListReply) -> Vec<String> {
    let rows = reply.kvs.iter().map(|row| row.key.clone());
    let names = rows.chain(reply.folders.iter().map(|folder| folder.0.clone()));
    names.map(|name| String::from_utf8(name).unwrap()).collect()
}

fn reply(kv: &Kv, query: &str) -> api::ListReply {
    let (response, _) = serve(kv, query, Duration::from_secs(60));
    assert_eq!(response.status, 200, "{query}: {}", String::from_utf8_lossy(&response.body));
    serde_json::from_slice(&response.body).unwrap()
}

/// Every page, put together in the order of the keys, with the limit that each must keep.
fn all_pages(kv: &Kv, query: &str, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = reply(kv, &format!("{query}&limit={limit}{cursor}"));
        let mut found = names(&page);
        assert!(found.len() <= limit && page.count == found.len() as u64, "{query}: {found:?}");
        found.sort();
        if query.contains("order=desc") {
            found.reverse();
        }
        all.extend(found);
        match page.cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn a_separator_makes_one_folder_of_the_keys_below_it() {
    let mut kv = Kv::new(Settings::default());
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..400 {
        let len = rng.usize(1..7);
        let key: Vec<u8> = (0..len).map(|_| *rng.choice(b"ab//").unwrap()).collect();
        match rng.u8(0..5) {
            0 => apply(&mut kv, Op::Delete { key }),
            _ => apply(&mut kv, Op::put(key, Vec::new())),
        }
    }
    let mut keys: Vec<String> = Vec::new();
    let all = reply(&kv, "limit=10000");
    keys.extend(names(&all));
    for (prefix, separator) in [("", "/"), ("a", "/"), ("a/", "/"), ("", "//"), ("b", "a"), ("a/", "b/")] {
        let below = keys.iter().filter(|key| key.starts_with(prefix));
        let entry = |key: &String| match key[prefix.len()..].find(separator) {
            Some(at) => key[..prefix.len() + at + separator.len()].to_owned(),
            None => key.clone(),
        };
        let mut wanted: Vec<String> = below.map(entry).collect();
        wanted.sort();
        wanted.dedup();
        assert!(wanted.len() > 2, "{prefix} {separator}");
        for limit in [1, 2, 7, 10_000] {
            let query = format!("prefix={prefix}&separator={separator}");
            assert_eq!(all_pages(&kv, &query, limit), wanted, "{query} {limit}");
            let mut backwards = wanted.clone();
            backwards.reverse();
            assert_eq!(all_pages(&kv, &format!("{query}&order=desc"), limit), backwards, "{query} {limit}");
        }
    }
    // A folder of which the filters let no key through is not there.
    let late = kv.revision() + 1;
    apply(&mut kv, Op::put(b"z/1".to_vec(), Vec::new()));
    let page = reply(&kv, &format!("separator=/&min_mod_revision={late}"));
    assert_eq!((names(&page), page.count), (vec!["z/".to_owned()], 1));
}

#[test]
fn a_folder_costs_one_look_at_one_of_its_keys() {
    let mut kv = store(0, b"");
    for n in 0..3 * SCAN_KEYS {
        apply(&mut kv, Op::put(format!("{}/{n:06}", n % 3).into_bytes(), Vec::new()));
    }
    let (response, looks) = serve(&kv, "separator=/", Duration::ZERO);
    let page: api::ListReply = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((names(&page), looks), (["0/", "1/", "2/"].map(str::to_owned).to_vec(), 1));
}

#[test]
fn a_sorted_list_has_the_rows_that_come_first() {
    let mut kv = Kv::new(Settings::default());
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..300 {
        let key = vec![rng.u8(b'a'..b'n')];
        match rng.u8(0..6) {
            0 => apply(&mut kv, Op::Delete { key }),
            _ => apply(&mut kv, Op::put(key, vec![rng.u8(b'a'..b'e')])),
        }
    }
    let all = reply(&kv, "").kvs;
    assert!(all.len() > 8);
    for sort in ["key", "create_revision", "mod_revision", "version", "value"] {
        let field = |row: &ListedRecord| match sort {
            "create_revision" => (row.create_revision, Vec::new()),
            "mod_revision" => (row.mod_revision, Vec::new()),
            "version" => (row.version, Vec::new()),
            "value" => (0, row.value.clone().unwrap()),
            _ => (0, Vec::new()),
        };
        for limit in [1, 3, 10_000] {
            let mut wanted = all.clone();
            wanted.sort_by_key(|row| (field(row), row.key.clone()));
            let ascending = reply(&kv, &format!("sort={sort}&limit={limit}"));
            let descending = reply(&kv, &format!("sort={sort}&limit={limit}&order=desc"));
            assert!(wanted.iter().take(limit).eq(&ascending.kvs), "{sort} {limit}");
            assert!(wanted.iter().rev().take(limit).eq(&descending.kvs), "{sort} {limit}");
            let is_cut = limit < all.len();
            assert_eq!(
                (ascending.more, ascending.cursor.is_some()),
                (is_cut && sort != "key", is_cut && sort == "key")
            );
        }
        let keys_only = reply(&kv, &format!("sort={sort}&keys_only=true"));
        assert!(keys_only.kvs.iter().all(|row| row.value.is_none()));
    }
    // More rows than a look takes, and more than are kept at once.
    let kv = store(2 * SCAN_KEYS + 5, b"");
    let newest = reply(&kv, "sort=mod_revision&order=desc&limit=2");
    assert_eq!(names(&newest), [format!("{:06}", 2 * SCAN_KEYS + 4), format!("{:06}", 2 * SCAN_KEYS + 3)]);
}

#[test]
fn sorted_rows_that_are_no_page_are_refused_with_advice() {
    let kv = store(9, &[b'v'; 1 << 20]);
    let status = |query: &str| serve(&kv, query, Duration::from_secs(60)).0.status;
    assert_eq!((status("sort=version"), status("sort=value&keys_only=true")), (413, 413));
    assert_eq!((status("sort=version&limit=3"), status("sort=version&keys_only=true")), (200, 200));
    let (response, _) = serve(&kv, "sort=version", Duration::from_secs(60));
    let error: ErrorBody = serde_json::from_slice(&response.body).unwrap();
    assert!(error.error.message.contains("keys_only"), "{}", error.error.message);
    // Escaped, they are larger than what was counted.
    assert_eq!(serve(&store(3, &[1; 1 << 20]), "sort=version", Duration::from_secs(60)).0.status, 413);
}

#[test]
fn filters_take_both_of_their_ends() {
    let mut kv = store(6, b"v");
    apply(&mut kv, Op::put(b"000001".to_vec(), Vec::new()));
    let found = |query: &str| names(&reply(&kv, query)).concat().replace("00000", "");
    assert_eq!(found("min_mod_revision=4&max_mod_revision=6"), "234");
    assert_eq!(found("min_create_revision=3&max_create_revision=4"), "12");
    assert_eq!(found("min_mod_revision=8&max_create_revision=3"), "1");
    assert_eq!(
        (found("max_mod_revision=1"), found("max_create_revision=2")),
        (String::new(), "0".to_owned())
    );
    let counted = reply(&kv, "count_only=true&min_mod_revision=5");
    assert_eq!((counted.count, counted.kvs.len()), (4, 0));
}

#[test]
fn a_page_of_several_looks_names_the_index_of_the_state_it_shows() {
    let retention =
        Settings { retention_revisions: 1 << 20, retention_bytes: 1 << 30, ..Settings::default() };
    let mut kv = Kv::new(retention);
    let key = |n: usize| format!("{n:05}").into_bytes();
    (0..=SCAN_KEYS).for_each(|n| apply(&mut kv, Op::put(key(n), Vec::new())));
    (0..SCAN_KEYS).for_each(|n| apply(&mut kv, Op::Delete { key: key(n) }));
    let list = list("");
    let mut page = Page::default();
    assert!(matches!(page.fill(&kv, &list), Ok(Filled::Part)));
    let seen = kv.applied().index;
    apply(&mut kv, Op::put(b"later".to_vec(), Vec::new()));
    assert!(matches!(page.fill(&kv, &list), Ok(Filled::Whole)));
    assert_eq!((page.rows.len(), page.applied), (1, seen), "the later key is not shown, nor its index named");
}
