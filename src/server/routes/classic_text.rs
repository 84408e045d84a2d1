//! Metrics in the text format of Prometheus, version 0.0.4, made from OpenMetrics text: prometheus-client writes that alone.
//!
//! The samples are the same in both. What differs is what is said of a family: the older format calls a counter by the
//! name of its sample, `_total` included, and knows neither units nor an end mark.

/// The same families and samples, in the same order.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    // The help of a family comes before its type, which says under which name.
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            // The later names of types for which there is no earlier one.
            let kind = if matches!(kind, "counter" | "gauge" | "histogram") { kind } else { "untyped" };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == family) {
                classic.push_str(&format!("# HELP {family}{suffix} {help}\n"));
            }
            classic.push_str(&format!("# TYPE {family}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_open_metrics_names_counters_by_their_samples_and_drops_what_is_new() {
        let open = "# HELP a_seconds Time\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1.5\n\
                    # HELP b How many: 1 # 2\n# TYPE b counter\nb_total{port=\"# EOF\"} 7\n\
                    # HELP c Sizes\n# TYPE c histogram\nc_sum 1.0\nc_count 1\nc_bucket{le=\"+Inf\"} 1\n\
                    # HELP d Nothing yet\n# TYPE d unknown\n# EOF\n";
        let classic = "# HELP a_seconds Time\n# TYPE a_seconds gauge\na_seconds 1.5\n\
                       # HELP b_total How many: 1 # 2\n# TYPE b_total counter\nb_total{port=\"# EOF\"} 7\n\
                       # HELP c Sizes\n# TYPE c histogram\nc_sum 1.0\nc_count 1\nc_bucket{le=\"+Inf\"} 1\n\
                       # HELP d Nothing yet\n# TYPE d untyped\n";
        assert_eq!(from_open_metrics(open), classic);
    }
}
