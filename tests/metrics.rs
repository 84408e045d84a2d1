//! `/metrics`: a text that follows its format, exactly the metrics of the table in the documents, and numbers that say what
//! happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

#[allow(dead_code)]
mod support {
    pub mod cluster;
}

use support::cluster::{Cluster, Connection, Setup, wait_for};

/// A scrape: each family's type, and each sample with its labels.
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(cluster: &Cluster, n: usize) -> Scrape {
        let answer = cluster.request(n, "GET", "/metrics", &[], b"").unwrap();
        assert_eq!(answer.status, 200);
        let content_type = answer.header("Content-Type").unwrap();
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Scrape::read(&answer.text())
    }

    /// Reads the text and holds it to its format: every sample belongs to the family before it, no name and no sample comes
    /// twice, a unit is the end of its family's name, the text ends with its mark.
    fn read(text: &str) -> Scrape {
        let mut scrape = Scrape { types: BTreeMap::new(), samples: BTreeMap::new() };
        let (mut family, mut helped) = (String::new(), String::new());
        let body = text.strip_suffix("# EOF\n").expect("the end mark");
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty() && !help.ends_with('.'), "{line}");
                    helped = name.to_owned();
                }
                ["#", "TYPE", name, kind] => {
                    assert_eq!(name, helped, "{line}");
                    family = name.to_owned();
                    let known = scrape.types.insert(family.clone(), kind.to_owned());
                    assert!(known.is_none(), "twice: {line}");
                }
                ["#", "UNIT", name, unit] => {
                    assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
                }
                _ => {
                    let (sample, value) = line.rsplit_once(' ').expect("a sample");
                    let name = sample.split('{').next().unwrap();
                    let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line}"));
                    let suffixes: &[&str] = match scrape.types[&family].as_str() {
                        "counter" => &["_total"],
                        "gauge" => &[""],
                        "histogram" => &["_bucket", "_sum", "_count"],
                        other => panic!("{other}: {line}"),
                    };
                    assert!(suffixes.contains(&suffix), "{line}");
                    let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
                    assert!(scrape.samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
                }
            }
        }
        scrape
    }

    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not in {:?}", self.samples.keys()))
    }

    /// Names as one queries them, with their types.
    fn names(&self) -> BTreeSet<(String, String)> {
        let name = |(family, kind): (&String, &String)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{family}{suffix}"), kind.clone())
        };
        self.types.iter().map(name).collect()
    }
}

/// Scrapers that know only the older format got one that they could not read.
#[test]
fn whoever_asks_for_plain_text_gets_the_classic_format_with_the_same_metrics() {
    let cluster = Cluster::start_calm(3);
    let leader = cluster.wait_for_leader();
    let scrape =
        |accept: &str| cluster.request(leader, "GET", "/metrics", &[("Accept", accept)], b"").unwrap();
    let open = Scrape::of(&cluster, leader);
    let text = {
        let answer = scrape("text/plain;version=0.0.4, */*;q=0.1");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        answer.text()
    };
    // Of every family first its help, then its type, under the name of its samples; then its samples.
    let (mut types, mut samples, mut helped) = (BTreeSet::new(), BTreeSet::new(), "");
    let mut family = ("", "");
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, _] => helped = name,
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, helped, "{line}");
                family = (name, kind);
                assert!(types.insert((name.to_owned(), kind.to_owned())), "twice: {line}");
            }
            ["#", ..] => panic!("{line}"),
            _ => {
                let (sample, value) = line.rsplit_once(' ').expect("a sample");
                let suffix = sample.split('{').next().unwrap().strip_prefix(family.0);
                let suffixes: &[&str] =
                    if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(samples.insert(sample.to_owned()), "twice: {line}");
            }
        }
    }
    assert_eq!(types, open.names());
    assert_eq!(samples, open.samples.keys().cloned().collect());
    // What a present scraper sends, and what everybody else does.
    for accept in ["application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", "*/*"] {
        Scrape::read(&scrape(accept).text());
    }
    check_with_promtool(&text);
}

/// The opinion of Prometheus itself, where its tool is installed.
fn check_with_promtool(text: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else { return };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(tool.wait().unwrap().success(), "promtool refuses:\n{text}");
}

#[test]
fn the_documented_table_is_what_a_node_says() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).unwrap();
    let (_, section) = page.split_once("\n## Metrics\n").expect("the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let documented: Vec<Vec<&str>> = (section.lines())
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let cluster = Cluster::start_calm(3);
    let leader = cluster.wait_for_leader();
    for n in 0..3 {
        // Every family is there on every role, even where it has no samples.
        let names: BTreeSet<_> =
            documented.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned())).collect();
        assert_eq!(names.len(), documented.len(), "a metric is documented twice");
        assert_eq!(Scrape::of(&cluster, n).names(), names, "{}", cluster.name(n));
    }
    let scrape = Scrape::of(&cluster, leader);
    for row in documented {
        let (name, label) = (row[0].trim_matches('`'), row[2]);
        let begins = |sample: &&String| {
            let rest = sample.strip_prefix(name).unwrap_or("x");
            let rest =
                ["_bucket", "_sum", "_count"].iter().find_map(|s| rest.strip_prefix(s)).unwrap_or(rest);
            rest.is_empty() || rest.starts_with('{')
        };
        let samples: Vec<&String> = scrape.samples.keys().filter(begins).collect();
        assert!(!samples.is_empty(), "{name} has no sample on a leader");
        for sample in samples {
            let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
            let has_label = !label.is_empty() && labels.contains(&format!("{label}=\""));
            let is_bare = labels.is_empty() || (labels.starts_with("le=") && !labels.contains(','));
            assert!(if label.is_empty() { is_bare } else { has_label }, "{name} by {label:?}: {sample}");
        }
    }
}

#[test]
fn the_numbers_say_what_happened() {
    let cluster = Cluster::start_calm(3);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    let before = Scrape::of(&cluster, leader);
    assert_eq!(before.get("dkv_role{role=\"leader\"}"), 1.0);
    assert_eq!(before.get("dkv_role{role=\"follower\"}"), 0.0);
    assert!(before.get("dkv_elections_won_total") >= 1.0);
    assert!(before.get("dkv_elections_total") >= before.get("dkv_elections_won_total"));
    assert_eq!(Scrape::of(&cluster, follower).get("dkv_role{role=\"leader\"}"), 0.0);

    for n in 0..10 {
        assert_eq!(cluster.put(leader, &format!("key-{n}"), "12345").unwrap().status, 200);
    }
    assert_eq!(cluster.put(follower, "key-0", "1234567").unwrap().status, 200);
    assert_eq!(cluster.request(leader, "DELETE", "/v1/kv/key-1", &[], b"").unwrap().status, 200);
    let keyed = [("Idempotency-Key", "one"), ("If-None-Match", "*")];
    let refused = cluster.request(leader, "PUT", "/v1/kv/key-2", &keyed, b"no").unwrap();
    assert_eq!(refused.status, 412);
    assert_eq!(cluster.get(follower, "key-2").unwrap().status, 200);
    let stale = "/v1/kv/key-2?consistency=stale";
    assert_eq!(cluster.request(leader, "GET", stale, &[], b"").unwrap().status, 200);

    let after = Scrape::of(&cluster, leader);
    let grew = |sample: &str| after.get(sample) - before.get(sample);
    assert_eq!(grew("dkv_proposals_total"), 13.0);
    assert_eq!(grew("dkv_writes_total{outcome=\"done\"}"), 12.0);
    assert_eq!(grew("dkv_writes_total{outcome=\"precondition_failed\"}"), 1.0);
    assert_eq!(grew("dkv_reads_total{kind=\"stale\"}"), 1.0);
    assert_eq!(grew("dkv_store_revision"), 12.0);
    assert_eq!(after.get("dkv_store_keys"), 9.0);
    assert_eq!(after.get("dkv_store_size_bytes"), 9.0 * 10.0 + 2.0);
    assert_eq!(after.get("dkv_store_superseded_bytes"), 2.0 * (10.0 + 64.0));
    assert_eq!(after.get("dkv_idempotency_rows"), 1.0);
    assert!(grew("dkv_reads_total{kind=\"for_peer\"}") >= 1.0);
    assert!(grew("dkv_commit_index") >= 13.0);
    assert!(grew("dkv_log_sync_seconds_count") >= 1.0 && grew("dkv_log_sync_seconds_sum") > 0.0);
    assert!(grew("dkv_log_batch_records_sum") >= 13.0);
    assert!(grew("dkv_apply_batch_entries_sum") >= 13.0);
    let woken = |kind: &str, thread: &str| grew(&format!("dkv_{kind}_total{{thread=\"{thread}\"}}"));
    for thread in
        ["timer", "log_writer", "replicator", "sender", "applier", "snapshotter", "forwarder", "read_asker"]
    {
        assert!(woken("useless_wakeups", thread) <= woken("wakeups", thread), "{thread}");
    }
    assert!(woken("wakeups", "log_writer") >= 1.0 && woken("wakeups", "applier") >= 1.0);
    assert_eq!(woken("wakeups", "sender"), 0.0, "nobody needs a snapshot");
    let peer = cluster.name(follower);
    assert!(grew(&format!("dkv_peer_rpc_seconds_count{{peer=\"{peer}\"}}")) >= 1.0);
    assert!(after.get(&format!("dkv_peer_last_contact_seconds{{peer=\"{peer}\"}}")) < 30.0);
    assert_eq!(after.get("dkv_ready"), 1.0);
    assert_eq!(after.get("dkv_panics_total{port=\"client\"}"), 0.0);
    let there = Scrape::of(&cluster, follower);
    assert_eq!(there.get("dkv_writes_total{outcome=\"done\"}"), 1.0, "what it forwarded");
    assert_eq!(there.get("dkv_reads_total{kind=\"linearizable\"}"), 1.0);
    wait_for("the peer to have everything", || {
        let lag = Scrape::of(&cluster, leader).get(&format!("dkv_peer_lag_entries{{peer=\"{peer}\"}}"));
        (lag == 0.0).then_some(())
    });
    for scrape in [&after, &there] {
        for histogram in scrape.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let last = format!("{histogram}_bucket{{le=\"+Inf\"}}");
            if let Some(all) = scrape.samples.get(&last) {
                assert_eq!(*all, scrape.get(&format!("{histogram}_count")), "{histogram}");
            }
        }
    }
}

#[test]
fn the_edge_counts_who_comes_and_what_it_refuses() {
    let cluster =
        Cluster::prepare(1, &Setup { extra: "limits: { max_connections: 64 }\n".into(), ..Setup::default() });
    let mut cluster = cluster;
    cluster.spawn(0);
    cluster.wait_for_leader();
    let mut kept = Connection::open(&cluster.http_addr(0)).unwrap();
    let mut scrape = || Scrape::read(&kept.request("GET", "/metrics", &[], b"").unwrap().text());
    // Connections of the start may be ending still.
    wait_for("this to be the only connection", || {
        (scrape().get("dkv_connections{port=\"client\"}") == 1.0).then_some(())
    });
    let before = scrape();
    let mut bad = Connection::open(&cluster.http_addr(0)).unwrap();
    bad.send(b"GET / HTTP/9.9\r\n\r\n").unwrap();
    assert_eq!(bad.read_answer().unwrap().status, 505);
    let crowd: Vec<_> = (0..80).filter_map(|_| Connection::open(&cluster.http_addr(0)).ok()).collect();
    wait_for("some to be turned away", || {
        let now = scrape();
        let grew = |sample: &str| now.get(sample) - before.get(sample);
        assert_eq!(grew("dkv_requests_refused_total{port=\"client\"}"), 1.0);
        (grew("dkv_connections_turned_away_total{port=\"client\"}") >= 80.0 - 64.0
            && grew("dkv_connections_accepted_total{port=\"client\"}") == 81.0
            && now.get("dkv_connections{port=\"client\"}") == 64.0)
            .then_some(())
    });
    drop(crowd);
    wait_for("the crowd to be gone", || {
        (scrape().get("dkv_connections{port=\"client\"}") <= 2.0).then_some(())
    });
    assert_eq!(scrape().get("dkv_connections_turned_away_total{port=\"peer\"}"), 0.0);
}

#[test]
fn a_node_that_is_not_initialized_is_scraped_too() {
    let mut cluster = Cluster::prepare(3, &Setup::default());
    cluster.spawn(0);
    wait_for("the port", || cluster.request(0, "GET", "/healthz", &[], b"").ok());
    let scrape = Scrape::of(&cluster, 0);
    assert_eq!(scrape.get("dkv_ready"), 0.0);
    assert!(scrape.get("process_open_fds") > 10.0 && scrape.get("process_resident_memory_bytes") > 1e6);
    assert!(!scrape.types.contains_key("dkv_term"));
    assert_eq!(cluster.request(0, "POST", "/metrics", &[], b"").unwrap().status, 405);
    assert_eq!(cluster.request(0, "GET", "/metrics?x=1", &[], b"").unwrap().status, 400);
}
