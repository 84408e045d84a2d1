//! `GET /metrics`: what the node counts and measures, as OpenMetrics text or in the older format. Everything is read at the moment of the scrape,
//! the core's part at once under its lock, the counters without one. `docs/api.md` lists every metric.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::accept::{self, Offer};
use super::calls::CallCounters;
use super::classic_text;
use super::process;
use crate::api::RoleName;
use crate::logging;
use crate::node::counters::{Counters, HistogramView};
use crate::node::{Node, NodeStatus};
use crate::raft::RoleKind;
use crate::server::edge::{PortStats, Request, Response};
use crate::server::shared::Shared;

/// In which of its text formats a scraper wants the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Classic,
}

impl Format {
    const ALL: [Format; 2] = [Format::OpenMetrics, Format::Classic];

    const OFFERS: [Offer; 2] = [
        Offer { kind: "application", subtype: "openmetrics-text", parameter: Some(("version", "1.0.0")) },
        Offer { kind: "text", subtype: "plain", parameter: Some(("version", "0.0.4")) },
    ];

    /// That which the request would rather have; OpenMetrics where it does not say.
    pub(super) fn wanted(request: &Request) -> Format {
        Format::ALL[accept::choose(request, &Format::OFFERS)]
    }
}

/// The answer to a scrape.
pub(super) fn page(shared: &Arc<Shared>, calls: &Arc<CallCounters>, format: Format) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { shared: shared.clone(), calls: calls.clone() }));
    let mut page = String::with_capacity(16 << 10);
    text::encode(&mut page, &registry).expect("writing to memory does not fail");
    let (content_type, page) = match format {
        Format::OpenMetrics => ("application/openmetrics-text; version=1.0.0; charset=utf-8", page),
        Format::Classic => {
            ("text/plain; version=0.0.4; charset=utf-8", classic_text::from_open_metrics(&page))
        }
    };
    Response::new(200, content_type, page.into_bytes())
}

struct Scrape {
    shared: Arc<Shared>,
    calls: Arc<CallCounters>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let shared = &*self.shared;
        let is_ready = u64::from(shared.not_ready().is_none());
        out.gauge("dkv_ready", "Whether the node can serve, as /readyz says", None, is_ready)?;
        let dropped = logging::dropped_lines();
        out.counter("dkv_log_lines_dropped", "Log lines that nobody took", None, dropped)?;
        ports(&mut out, shared)?;
        let help = "Requests for each operation of the client port, whatever became of them";
        out.counters("dkv_requests", help, "operation", &self.calls.view())?;
        if let Some(node) = shared.node() {
            let status = node.status();
            core(&mut out, &status)?;
            decisions(&mut out, node.counters(), &status)?;
            batches(&mut out, node.counters())?;
            wakeups(&mut out, node.counters())?;
            peers(&mut out, node, &status)?;
            store(&mut out, node)?;
            let watches = node.watch_count() as u64;
            out.gauge("dkv_watches", "Watches that this node serves", None, watches)?;
        }
        process_of_ours(&mut out)
    }
}

/// The core's state.
fn core(out: &mut Out<'_>, status: &NodeStatus) -> fmt::Result {
    let roles = [
        (RoleName::Follower, RoleKind::Follower),
        (RoleName::PreCandidate, RoleKind::PreCandidate),
        (RoleName::Candidate, RoleKind::Candidate),
        (RoleName::Leader, RoleKind::Leader),
    ];
    let roles = roles.map(|(name, kind)| (name.to_string(), u64::from(status.role == kind)));
    out.gauges("dkv_role", "1 for the role that the node has", None, "role", &roles)?;
    out.gauge("dkv_term", "Raft term", None, status.term)?;
    let has_leader = u64::from(status.leader.is_some());
    out.gauge("dkv_has_leader", "Whether a leader is known", None, has_leader)?;
    out.gauge("dkv_last_index", "Last index of the log", None, status.last_index)?;
    out.gauge("dkv_commit_index", "Last index known to be committed", None, status.commit_index)?;
    out.gauge("dkv_applied_index", "Last index applied to the store", None, status.applied_index)?;
    out.gauge("dkv_persisted_index", "Last index durable on the own disk", None, status.persisted_index)?;
    let unpersisted = status.unpersisted_bytes as u64;
    out.gauge("dkv_unpersisted", "Entries on their way to the own disk", Some(&Unit::Bytes), unpersisted)?;
    let is_stalled = u64::from(status.is_disk_stalled);
    out.gauge("dkv_disk_stalled", "Whether the disk takes longer than disk_stall_ms", None, is_stalled)?;
    let waiting = status.waiting_requests as u64;
    out.gauge("dkv_waiting_requests", "Requests that wait for consensus at this node", None, waiting)
}

/// What was decided, by elections and about requests.
fn decisions(out: &mut Out<'_>, counters: &Counters, status: &NodeStatus) -> fmt::Result {
    let help = "Times the node asked whether an election could be won";
    out.counter("dkv_pre_elections", help, None, counters.pre_elections())?;
    out.counter("dkv_elections", "Times the node stood for election", None, counters.elections())?;
    out.counter("dkv_elections_won", "Times the node was elected", None, counters.elections_won())?;
    out.counter("dkv_step_downs", "Times the node stopped leading", None, counters.step_downs())?;
    out.counter("dkv_proposals", "Commands this node appended as leader", None, status.proposals)?;
    let help = "Writes answered by this node, its clients' and those forwarded to it";
    out.counters("dkv_writes", help, "outcome", &counters.writes.view())?;
    let help = "Reads asked for: by this node's clients, and by peers for theirs";
    out.counters("dkv_reads", help, "kind", &counters.reads())?;
    let help = "Reads for which no read index was confirmed";
    out.counter("dkv_failed_reads", help, None, counters.failed_reads())
}

/// How long the disk and the store take, and for how much at a time.
fn batches(out: &mut Out<'_>, counters: &Counters) -> fmt::Result {
    let durations = [
        ("dkv_log_sync", "Writing and syncing one batch of the log", &counters.log_sync),
        ("dkv_apply", "Applying one batch of committed entries", &counters.apply),
        ("dkv_snapshot", "Writing one snapshot of the state", &counters.snapshot),
    ];
    for (name, help, histogram) in durations {
        let mut metric = out.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_durations(&mut metric, &histogram.view())?;
    }
    let sizes = [
        ("dkv_log_batch_records", "Records in one batch of the log", &counters.log_batch),
        ("dkv_apply_batch_entries", "Entries in one applied batch", &counters.apply_batch),
        ("dkv_append_batch_entries", "Entries in one append sent that has any", &counters.append_batch),
    ];
    for (name, help, histogram) in sizes {
        let mut metric = out.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encode_histogram(&mut metric, &histogram.view(), 1.0)?;
    }
    Ok(())
}

/// How often threads were woken, and how often for nothing.
fn wakeups(out: &mut Out<'_>, counters: &Counters) -> fmt::Result {
    let help = "Times a thread that waits for the core was woken, by an event or by its clock";
    out.counters("dkv_wakeups", help, "thread", &counters.wakeups.all())?;
    let help = "Times a thread that waits for the core was woken and found nothing to do";
    out.counters("dkv_useless_wakeups", help, "thread", &counters.wakeups.useless())
}

/// What this node sees of the other members.
fn peers(out: &mut Out<'_>, node: &Node, status: &NodeStatus) -> fmt::Result {
    let membership = node.membership();
    let name = |id| membership.get(id).map_or_else(|| id.to_string(), |member| member.node_id.clone());
    let measured: Vec<_> = node.counters().peers().into_iter().map(|(id, peer)| (name(id), peer)).collect();
    let help = "Votes and appends that a peer answered";
    let unit = Some(&Unit::Seconds);
    let mut metric = out.0.encode_descriptor("dkv_peer_rpc", help, unit, MetricType::Histogram)?;
    for (name, peer) in &measured {
        let labels = [("peer", name.as_str())];
        encode_durations(&mut metric.encode_family(&labels)?, &peer.rpc.view())?;
    }
    let failures: Vec<_> = measured.iter().map(|(name, peer)| (name.as_str(), peer.failures())).collect();
    let help = "Votes and appends that a peer did not answer";
    out.counters("dkv_peer_rpc_failures", help, "peer", &failures)?;
    let lags: Vec<_> = status.peers.iter().map(|p| (p.node_id.clone(), p.lag)).collect();
    let help = "Entries not known to be on the peer's disk, as its leader sees it";
    out.gauges("dkv_peer_lag_entries", help, None, "peer", &lags)?;
    // A peer that has not answered this leader has no sample: no value would be true.
    let protocols: Vec<_> =
        (status.peers.iter()).filter_map(|p| Some((p.node_id.clone(), u64::from(p.protocol?)))).collect();
    let help = "Protocol that the peer's program speaks, as its leader has heard it in this term";
    out.gauges("dkv_peer_protocol", help, None, "peer", &protocols)?;
    out.gauge("dkv_protocol", "Protocol that this program speaks", None, u64::from(status.protocol))?;
    let contacts: Vec<_> = (status.peers.iter())
        .filter_map(|p| Some((p.node_id.clone(), p.last_contact?.as_secs_f64())))
        .collect();
    let help = "Since the last RPC was sent that the peer answered in this term, as its leader sees it";
    out.gauges("dkv_peer_last_contact", help, unit, "peer", &contacts)
}

/// The state machine.
fn store(out: &mut Out<'_>, node: &Node) -> fmt::Result {
    let (version, revision, floor, size) =
        node.with_kv(|kv| (kv.version(), kv.revision(), kv.floor(), kv.size()));
    out.gauge("dkv_protocol_in_force", "Version that the members share", None, u64::from(version))?;
    out.gauge("dkv_store_revision", "Revision of the store", None, revision)?;
    out.gauge("dkv_store_floor_revision", "Oldest revision still readable", None, floor)?;
    out.gauge("dkv_store_keys", "Keys that exist", None, size.keys)?;
    let bytes = Some(&Unit::Bytes);
    out.gauge("dkv_store_size", "Keys that exist, and their values", bytes, size.bytes)?;
    let help = "Superseded versions still readable, with their overhead";
    out.gauge("dkv_store_superseded", help, bytes, size.superseded_bytes)?;
    let help = "Outcomes kept for repeated idempotency keys";
    out.gauge("dkv_idempotency_rows", help, None, size.idempotency_rows)
}

/// Both ports: what comes in, and what is turned away.
fn ports(out: &mut Out<'_>, shared: &Shared) -> fmt::Result {
    let Some(ports) = shared.ports() else { return Ok(()) };
    let stats = ports.each_ref().map(|port| (port.name(), port.stats()));
    type Counted = fn(&PortStats) -> u64;
    let gauges: [(&str, &str, Counted); 3] = [
        ("dkv_connections", "Open connections", |s| s.connections),
        ("dkv_requests_inside", "Requests that are being served at this port", |s| s.inside),
        ("dkv_parked_requests", "Requests that wait for consensus at this port", |s| s.waiting),
    ];
    for (name, help, of) in gauges {
        let values = stats.each_ref().map(|(port, stats)| (port.to_string(), of(stats)));
        out.gauges(name, help, None, "port", &values)?;
    }
    let counters: [(&str, &str, Counted); 6] = [
        ("dkv_connections_accepted", "Connections accepted, those turned away included", |s| s.accepted),
        ("dkv_connections_turned_away", "Connections above the cap", |s| s.turned_away),
        ("dkv_requests_refused", "Requests that the edge refused as malformed, too large or late", |s| {
            s.refused
        }),
        ("dkv_answers_dropped", "Answers dropped with connections that took them too slowly", |s| {
            s.answers_dropped
        }),
        ("dkv_upstreams_broken", "Connections to tiny_http that broke and were replaced", |s| {
            s.upstreams_broken
        }),
        ("dkv_panics", "Panics survived: anything but 0 is a bug", |s| s.panics),
    ];
    for (name, help, of) in counters {
        let values = stats.each_ref().map(|(port, stats)| (*port, of(stats)));
        out.counters(name, help, "port", &values)?;
    }
    Ok(())
}

/// The process, under the names that every Prometheus client library uses.
fn process_of_ours(out: &mut Out<'_>) -> fmt::Result {
    let usage = process::usage();
    let (bytes, seconds) = (Some(&Unit::Bytes), Some(&Unit::Seconds));
    let cpu = usage.cpu.as_secs_f64();
    let help = "Processor time of the process";
    let mut metric = out.0.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, f64, f64>(&cpu, None)?;
    let started = usage.started_unix_seconds;
    out.gauge("process_start_time", "When the process started, Unix time", seconds, started)?;
    out.gauge("process_resident_memory", "Memory in use", bytes, usage.resident_bytes)?;
    out.gauge("process_virtual_memory", "Address space in use", bytes, usage.virtual_bytes)?;
    out.gauge("process_threads", "Threads", None, usage.threads)?;
    out.gauge("process_open_fds", "Open file descriptors", None, usage.open_fds)?;
    out.gauge("process_max_fds", "File descriptors that may be open", None, usage.max_fds)
}

/// Writes one metric after the other. Names come without `_total` and without the unit's suffix.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: V,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        label: &str,
        values: &[(String, V)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (which, value) in values {
            metric.encode_family(&[(label, which.as_str())])?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (which, value) in values {
            let labels = [(label, *which)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
        }
        Ok(())
    }
}

fn encode_durations(metric: &mut MetricEncoder<'_>, view: &HistogramView) -> fmt::Result {
    encode_histogram(metric, view, 1e9)
}

/// `per_unit` of what the histogram counts is one of what the metric says.
fn encode_histogram(metric: &mut MetricEncoder<'_>, view: &HistogramView, per_unit: f64) -> fmt::Result {
    let bound = |bound: u64| if bound == u64::MAX { f64::MAX } else { bound as f64 / per_unit };
    let buckets: Vec<(f64, u64)> = view.buckets.iter().map(|&(b, count)| (bound(b), count)).collect();
    metric.encode_histogram::<NoLabelSet>(view.sum as f64 / per_unit, view.count(), &buckets, None)
}
