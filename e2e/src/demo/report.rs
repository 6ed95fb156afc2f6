//! The demo's evidence as text: one purchase as a table and as a tree, and the opaque connections. Pure functions.

use crate::records::{AuditRecord, HTTP_REQUEST, RPC_CALL, TCP_CLOSE};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// Digits of a trace id that a table shows.
const SHORT_TRACE_CHARS: usize = 8;

/// The trace of the latest request with which `actor` entered `service` at `path`.
pub fn trace_of(records: &[AuditRecord], actor: &str, service: &str, path: &str) -> Option<String> {
    let entry = |record: &&AuditRecord| {
        record.event == HTTP_REQUEST
            && record.is_inbound()
            && record.actor() == actor
            && record.service() == service
            && record.attribute("url.path") == path
            && !record.trace_id.is_empty()
    };
    records.iter().filter(entry).max_by_key(|record| record.start_ns).map(|record| record.trace_id.clone())
}

/// The HTTP exchanges and gRPC calls of one trace in the order of the call: by time, and where a client's and a server's record began
/// together, the client's first.
pub fn exchanges<'a>(records: &'a [AuditRecord], trace_id: &str) -> Vec<&'a AuditRecord> {
    let is_exchange = |record: &&AuditRecord| [HTTP_REQUEST, RPC_CALL].contains(&record.event.as_str());
    let mut found: Vec<_> = records.iter().filter(is_exchange).filter(|record| record.trace_id == trace_id).collect();
    found.sort_by_key(|record| record.start_ns);
    found
}

/// Opaque connections to `port`, by time.
pub fn opaque<'a>(records: &'a [AuditRecord], port: &str) -> Vec<&'a AuditRecord> {
    let suffix = format!(":{port}");
    let to_port = |record: &&AuditRecord| {
        let fields = record.fields();
        let destination = if record.is_inbound() { fields.get("local") } else { fields.get("peer") };
        record.event == TCP_CLOSE && destination.is_some_and(|address| address.ends_with(&suffix))
    };
    let mut found: Vec<_> = records.iter().filter(to_port).collect();
    found.sort_by_key(|record| record.start_ns);
    found
}

/// Each exchange as a row.
pub fn table(exchanges: &[&AuditRecord]) -> String {
    let head = ["TIME (UTC)", "DIRECTION", "SERVICE", "POD", "METHOD", "PATH", "STATUS", "DURATION", "ACTOR", "TRACE"];
    let rows = exchanges.iter().map(|record| {
        vec![
            time(record.start_ns),
            record.direction().to_string(),
            record.service().to_string(),
            record.pod().to_string(),
            record.attribute("http.request.method").to_string(),
            record.attribute("url.path").to_string(),
            status(record),
            duration(record.duration_ns()),
            actor(record),
            record.trace_id.chars().take(SHORT_TRACE_CHARS).collect(),
        ]
    });
    columns(&head, rows.collect())
}

/// What the server answered; a gRPC call has its own status in the trailers.
fn status(record: &AuditRecord) -> String {
    let http = record.status().map_or("no answer".to_string(), |status| status.to_string());
    match (record.event.as_str(), record.attribute("rpc.grpc.status_code")) {
        (RPC_CALL, "") => format!("{http}, gRPC none"),
        (RPC_CALL, code) => format!("{http}, gRPC {code}"),
        _ => http,
    }
}

/// The actor with how far it is proved.
fn actor(record: &AuditRecord) -> String {
    match record.attribute("testimony.assurance") {
        "" => record.actor().to_string(),
        assurance => format!("{} ({assurance})", record.actor()),
    }
}

/// Opaque connections as rows, with the bytes both ways.
pub fn opaque_table(connections: &[&AuditRecord]) -> String {
    let head = ["TIME (UTC)", "DIRECTION", "SERVICE", "FROM", "TO", "SENT", "RECEIVED", "DURATION"];
    let rows = connections.iter().map(|record| {
        let fields = record.fields();
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let (from, to) = if record.is_inbound() {
            (field("peer"), field("local"))
        } else {
            (field("upstream_local"), field("peer"))
        };
        vec![
            time(record.start_ns),
            record.direction().to_string(),
            record.service().to_string(),
            from,
            to,
            format!("{} B", field("req_bytes")),
            format!("{} B", field("res_bytes")),
            duration(record.duration_ns()),
        ]
    });
    columns(&head, rows.collect())
}

/// The exchanges as a tree. A server's record hangs on the client's record of the same exchange; a client's record on the
/// innermost exchange that its pod was serving.
pub fn tree(exchanges: &[&AuditRecord]) -> String {
    let parents: Vec<Option<usize>> = (0..exchanges.len()).map(|child| parent(exchanges, child)).collect();
    let mut text = String::new();
    for (root, _) in parents.iter().enumerate().filter(|(_, parent)| parent.is_none()) {
        draw(exchanges, &parents, root, "", "", &mut text);
    }
    text
}

fn parent(exchanges: &[&AuditRecord], child: usize) -> Option<usize> {
    let record = exchanges.get(child)?;
    let candidates = exchanges.iter().enumerate().filter(|(index, _)| *index != child);
    if record.is_inbound() {
        return candidates.filter(|(_, other)| other.pairs_with(record)).map(|(index, _)| index).next();
    }
    let serving = candidates.filter(|(_, other)| {
        other.is_inbound()
            && other.pod() == record.pod()
            && other.start_ns <= record.start_ns
            && record.start_ns <= other.start_ns.saturating_add(other.duration_ns())
    });
    serving.max_by_key(|(_, other)| other.start_ns).map(|(index, _)| index)
}

fn draw(
    exchanges: &[&AuditRecord],
    parents: &[Option<usize>],
    node: usize,
    lead: &str,
    below: &str,
    text: &mut String,
) {
    let Some(record) = exchanges.get(node) else { return };
    text.push_str(&format!(
        "{lead}{} {}  {} {} -> {}  {}  {}{}\n",
        if record.is_inbound() { "<-" } else { "->" },
        record.service(),
        record.attribute("http.request.method"),
        record.attribute("url.path"),
        status(record),
        duration(record.duration_ns()),
        actor(record),
        match record.attribute("testimony.trace.trust") {
            trust @ ("inferred" | "ambiguous") => format!("  [trace {trust}]"),
            _ => String::new(),
        },
    ));
    let children: Vec<usize> =
        parents.iter().enumerate().filter(|(_, parent)| **parent == Some(node)).map(|(index, _)| index).collect();
    for (position, child) in children.iter().enumerate() {
        let (branch, rest) = if position + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(exchanges, parents, *child, &format!("{below}{branch}"), &format!("{below}{rest}"), text);
    }
}

/// Time of day with milliseconds, UTC.
fn time(ns: u64) -> String {
    let seconds = ns / NANOS_PER_SECOND % SECONDS_PER_DAY;
    let millis = ns % NANOS_PER_SECOND / NANOS_PER_MILLI;
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn duration(ns: u64) -> String {
    format!("{:.2} ms", ns as f64 / NANOS_PER_MILLI as f64)
}

/// Columns as wide as their widest cell.
pub fn columns(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_string()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut text = String::new();
    for row in &all {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{parse, tests::line};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const RESERVE: &str = "/shop.Stock/Reserve";

    fn http(service: &str, direction: &str, start_ms: u64, duration_ms: u64, path: &str, link: (&str, &str)) -> String {
        let (upstream, peer) = link;
        let is_rpc = path == RESERVE;
        let duration = (duration_ms * NANOS_PER_MILLI).to_string();
        let attrs = [
            ("testimony.direction", direction),
            ("http.request.method", "POST"),
            ("url.path", path),
            ("http.response.status_code", if is_rpc { "200" } else { "201" }),
            ("rpc.grpc.status_code", if is_rpc { "0" } else { "" }),
            ("audit.actor.id", "alice"),
            ("testimony.assurance", "unverified"),
            ("testimony.duration_ns", &duration),
            ("testimony.upstream_local", upstream),
            ("testimony.conn.seq", "0"),
            ("testimony.trace.trust", if path != "/orders" && direction == "outbound" { "inferred" } else { "client" }),
        ];
        let event = if is_rpc { RPC_CALL } else { HTTP_REQUEST };
        line(service, TRACE, start_ms * NANOS_PER_MILLI, event, &attrs, &[("peer", peer)])
    }

    fn purchase() -> Vec<AuditRecord> {
        let text = [
            http("payments", "inbound", 107, 1, "/charge", ("10.0.0.4:9", "10.0.0.3:4")),
            http("orders", "outbound", 106, 2, "/charge", ("10.0.0.3:4", "10.0.0.4:8080")),
            http("stock", "inbound", 105, 1, RESERVE, ("10.0.0.5:9", "10.0.0.3:6")),
            http("orders", "outbound", 104, 2, RESERVE, ("10.0.0.3:6", "10.96.0.8:8080")),
            http("orders", "inbound", 103, 6, "/orders", ("10.0.0.3:8", "10.0.0.2:7")),
            http("frontend", "outbound", 102, 8, "/orders", ("10.0.0.2:7", "10.96.0.9:8080")),
            http("frontend", "inbound", 100, 12, "/buy", ("10.0.0.2:1", "10.0.0.1:5")),
        ];
        parse(&text.concat()).unwrap_or_default()
    }

    #[test]
    fn a_purchase_is_found_by_its_entry_and_drawn_as_a_tree() {
        let records = purchase();
        let trace = trace_of(&records, "alice", "frontend", "/buy");
        assert_eq!(trace.as_deref(), Some(TRACE));
        assert_eq!(trace_of(&records, "bob", "frontend", "/buy"), None);
        let expected = "\
<- frontend  POST /buy -> 201  12.00 ms  alice (unverified)
└─ -> frontend  POST /orders -> 201  8.00 ms  alice (unverified)
   └─ <- orders  POST /orders -> 201  6.00 ms  alice (unverified)
      ├─ -> orders  POST /shop.Stock/Reserve -> 200, gRPC 0  2.00 ms  alice (unverified)  [trace inferred]
      │  └─ <- stock  POST /shop.Stock/Reserve -> 200, gRPC 0  1.00 ms  alice (unverified)
      └─ -> orders  POST /charge -> 201  2.00 ms  alice (unverified)  [trace inferred]
         └─ <- payments  POST /charge -> 201  1.00 ms  alice (unverified)
";
        assert_eq!(tree(&exchanges(&records, TRACE)), expected);
    }

    #[test]
    fn the_table_is_in_the_order_of_time_and_aligned() {
        let records = purchase();
        let text = table(&exchanges(&records, TRACE));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8);
        let column = lines.first().and_then(|head| head.find("METHOD"));
        assert!(column.is_some());
        for line in lines.iter().skip(1) {
            assert_eq!(line.find("POST"), column, "{text}");
        }
        assert!(
            lines.get(1).is_some_and(|line| line.starts_with("00:00:00.100  inbound    frontend  frontend-1")),
            "{text}"
        );
        assert!(lines.get(7).is_some_and(|line| line.contains("payments-1")), "{text}");
    }

    #[test]
    fn exchanges_that_do_not_hang_together_are_roots_of_their_own() {
        let text =
            [http("a", "inbound", 1, 1, "/x", ("1:1", "2:2")), http("b", "outbound", 5, 1, "/y", ("3:3", "4:4"))];
        let records = parse(&text.concat()).unwrap_or_default();
        assert_eq!(tree(&exchanges(&records, TRACE)).lines().filter(|line| !line.starts_with('└')).count(), 2);
    }

    #[test]
    fn opaque_connections_show_the_bytes_both_ways() {
        let fields = |to: &'static str| {
            [("peer", to), ("upstream_local", "10.0.0.3:5"), ("req_bytes", "120"), ("res_bytes", "480")]
        };
        let text = [
            line("orders", "", 1, TCP_CLOSE, &[("testimony.direction", "outbound")], &fields("10.96.0.7:5432")),
            line("orders", "", 2, TCP_CLOSE, &[("testimony.direction", "outbound")], &fields("10.96.0.7:443")),
        ];
        let records = parse(&text.concat()).unwrap_or_default();
        let found = opaque(&records, "5432");
        assert_eq!(found.len(), 1);
        let table = opaque_table(&found);
        assert!(table.contains("10.0.0.3:5  10.96.0.7:5432  120 B  480 B"), "{table}");
    }
}
