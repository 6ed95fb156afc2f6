//! Protocols whose timing a proxy could spoil: who speaks first, streams, upgrades.

use crate::certificates::Authority;
use crate::harness::{RECORD_SECONDS_MAX, Space, eventually, marker, single};
use crate::pods::EVERY_POD;
use anyhow::{Context, Result, ensure};
use testimony_e2e::records::{AuditRecord, RPC_CALL, STREAM_CLOSE, STREAM_OPEN, TCP_CLOSE, TCP_OPEN, TLS_FAILED};

/// The longest that two sidecars may hold a greeting back, in hundredths of a second; a wait for the client's first bytes
/// would show in every run, starting a process on a busy machine does not.
const GREETING_HUNDREDTHS_MAX: u64 = 20;
/// How often a stream is asked for until its parts come one after the other.
const STREAM_RUNS: usize = 5;
const GREETING: &str = "220 ready";
/// The longest that an exchange may be open before it is shown, in milliseconds: it is due within a second, and the machine
/// is busy.
const OPENED_MILLIS_MAX: u64 = 1500;

fn records_of<'a>(records: &'a [AuditRecord], wanted: &'a str) -> impl Iterator<Item = &'a AuditRecord> {
    records.iter().filter(move |record| record.body.contains(wanted))
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    let space = Space::new("greeting")?;
    space.policy("all", EVERY_POD)?;
    space.server(
        "greeter",
        2525,
        &format!(
            "image: \"{{{{image:toolbox}}}}\", command: [nc, -ll, -p, \"2525\", -e, echo, \"{GREETING}\"], \
             readinessProbe: {{tcpSocket: {{port: 2525}}, periodSeconds: 1}}"
        ),
    )?;
    space.toolbox("client", "{app: client}")?;
    // The client sends nothing and keeps its side open.
    let script = "mkfifo /tmp/open && exec 3<>/tmp/open; for run in 1 2 3 4 5; do read before rest </proc/uptime; \
                  said=$(nc greeter 2525 <&3); read after rest </proc/uptime; echo \"$before $after $said\"; done";
    let output = space.sh("client", script)?;
    let mut fastest = u64::MAX;
    for line in output.lines() {
        let mut words = line.splitn(3, ' ');
        let mut hundredths = || -> Result<u64> {
            let word = words.next().with_context(|| format!("two times and the greeting: {line}"))?;
            Ok(word.replace('.', "").parse()?)
        };
        let (before, after) = (hundredths()?, hundredths()?);
        assert_eq!(words.next(), Some(GREETING));
        fastest = fastest.min(after.saturating_sub(before));
    }
    assert_eq!(output.lines().count(), 5, "{output}");
    println!("a greeting through two sidecars took {} ms at best", fastest.saturating_mul(10));
    ensure!(fastest <= GREETING_HUNDREDTHS_MAX, "the greeting is held back in every run: {output}");

    let closed = |record: &&AuditRecord| record.event == TCP_CLOSE && record.direction() == "outbound";
    let records =
        space.records_when("five connections' records", |records| records.iter().filter(closed).count() >= 5)?;
    for record in records.iter().filter(closed) {
        assert_eq!(record.field("res_bytes"), (GREETING.len() + 1).to_string(), "{record:#?}");
    }
    Ok(())
}

/// A server and a client, both recorded.
fn with_httpbin(test: &str) -> Result<Space> {
    let space = Space::new(test)?;
    space.policy("all", EVERY_POD)?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    Ok(space)
}

/// The head that opens a WebSocket, for `printf`.
fn websocket_head(wanted: &str) -> String {
    format!(
        "GET /websocket/echo?{wanted}=1 HTTP/1.1\\r\\nHost: server\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\
         Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
    )
}

#[test]
fn a_websocket_echoes_and_is_one_record_with_the_tunnels_bytes() -> Result<()> {
    let space = with_httpbin("websocket")?;
    let wanted = marker();
    // Two frames by a mask of zeros: the text `hello`, and a close without a reason.
    let head = websocket_head(&wanted);
    let frames = "\\x81\\x85\\0\\0\\0\\0hello\\x88\\x80\\0\\0\\0\\0";
    // The frames follow the answer's head, as a client's do: the reader opens the pipe's gate when it has seen it.
    let script = format!(
        "rm -f /tmp/gate /tmp/head /tmp/echo; mkfifo /tmp/gate; exec 3<>/tmp/gate; \
         {{ printf '{head}'; read go <&3; printf '{frames}'; read go <&3; }} | nc server 8080 | \
         {{ while read -r line; do echo \"$line\" >>/tmp/head; [ \"$line\" = \"$(printf '\\r')\" ] && break; done; \
            echo go >&3; xxd -p >/tmp/echo; echo go >&3; }}; cat /tmp/head /tmp/echo"
    );
    // The gate is open both ways, so that a lost connection ends the script; the limit is for what nobody foresaw.
    let limited = ["timeout", "30", "sh", "-c", &script];
    let output = crate::harness::cluster().kubectl.exec(&space.name, "client", "toolbox", &limited)?;
    ensure!(output.starts_with("HTTP/1.1 101 "), "{output:?}");
    // The key's answer is the one of RFC 6455, section 1.3.
    ensure!(output.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{output:?}");
    let echoed = output.lines().last().unwrap_or_default();
    ensure!(echoed.starts_with("810568656c6c6f"), "the frame with hello comes back: {output:?}");

    let records = space.records_when("both sides' records", |records| records_of(records, &wanted).count() >= 2)?;
    let (inbound, outbound): (Vec<_>, Vec<_>) = records_of(&records, &wanted).partition(|record| record.is_inbound());
    for record in [single(inbound)?, single(outbound)?] {
        assert_eq!((record.event.as_str(), record.status()), (STREAM_CLOSE, Some(101)), "{record:#?}");
        // A frame of a client has 2 bytes, its mask and the text; a server's has no mask.
        assert_eq!(record.field("tunnel_req_bytes"), "17", "{record:#?}");
        let answered: u64 = record.field("tunnel_res_bytes").parse()?;
        ensure!((7..=16).contains(&answered), "{record:#?}");
    }
    Ok(())
}

#[test]
fn streams_chunks_and_trailers_arrive_as_they_are_sent() -> Result<()> {
    let space = with_httpbin("streams")?;
    let curl = |arguments: &str| space.sh("client", &format!("curl -sSfN --max-time 20 {arguments}"));
    /// Curl's measures at the end: when the first byte came and when the last one.
    const TIMES: &str = "-w '\\n%{time_starttransfer} %{time_total}'";
    let streamed = |what: &str, output: &str| -> Result<bool> {
        let times: Vec<f64> =
            output.lines().last().unwrap_or_default().split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [first, last] = times.as_slice() else { anyhow::bail!("{what}: no times in {output}") };
        // It is sent for a second; held back, first and last byte would come together. So they may where curl itself
        // waits for a processor, but not in every run.
        Ok(last - first > 0.5)
    };
    let spread = |what: &str, url: &str, whole: fn(&str) -> bool| -> Result<()> {
        for _ in 0..STREAM_RUNS {
            let output = curl(&format!("{TIMES} '{url}'"))?;
            ensure!(whole(&output), "{what}: {output}");
            if streamed(what, &output)? {
                return Ok(());
            }
        }
        anyhow::bail!("{what} was held back in each of {STREAM_RUNS} runs")
    };

    let events = "http://server:8080/sse?count=4&duration=1s";
    spread("SSE", events, |output| output.matches("event: ping").count() == 4)?;
    let drip = "http://server:8080/drip?duration=1&numbytes=8&delay=0";
    spread("drip", drip, |output| output.starts_with("********\n"))?;
    assert_eq!(curl("http://server:8080/stream/5")?.lines().count(), 5);
    assert_eq!(curl("http://server:8080/stream-bytes/100000?chunk_size=999 | wc -c")?.trim(), "100000");
    let trailers = curl("-D - -o /dev/null 'http://server:8080/trailers?x-check=whole'")?.to_lowercase();
    // As curl shows it: the trailer comes after the head's empty line.
    let (head, trailer) = trailers.split_once("\r\n\r\n").context("a head")?;
    ensure!(head.contains("transfer-encoding: chunked") && head.contains("trailer: x-check"), "{trailers}");
    ensure!(trailer.contains("x-check: whole"), "{trailers}");
    let posted =
        curl("-H 'Transfer-Encoding: chunked' -H 'Expect: 100-continue' -d chunked-body http://server:8080/post")?;
    ensure!(posted.contains("chunked-body") && posted.to_lowercase().contains("chunked"), "{posted}");

    for path in ["/sse", "/drip", "/stream/5", "/stream-bytes/100000", "/trailers", "/post"] {
        let with = |record: &&AuditRecord| record.attribute("url.path") == path;
        let complete = |records: &[AuditRecord]| {
            let (inbound, outbound): (Vec<_>, Vec<_>) = records.iter().filter(with).partition(|one| one.is_inbound());
            let twin = |out: &&AuditRecord| inbound.iter().any(|inbound| out.pairs_with(inbound));
            !inbound.is_empty() && inbound.len() == outbound.len() && outbound.iter().all(twin)
        };
        let records = space.records_when(path, complete)?;
        let (inbound, outbound): (Vec<_>, Vec<_>) = records.iter().filter(with).partition(|record| record.is_inbound());
        // As many on each side, and each has its twin on the other.
        assert_eq!(inbound.len(), outbound.len(), "{path}: {inbound:#?}\n{outbound:#?}");
        for outbound in outbound {
            let twin = single(inbound.iter().filter(|inbound| outbound.pairs_with(inbound)).collect())?;
            assert_eq!((twin.status(), outbound.status()), (Some(200), Some(200)), "{path}");
            assert_eq!(twin.field("res_bytes"), outbound.field("res_bytes"), "{path}");
        }
    }
    Ok(())
}

/// Two records, one of each side, that hold for `wanted` and are stages; waits for them.
fn stages_of(space: &Space, what: &str, wanted: impl Fn(&AuditRecord) -> bool) -> Result<Vec<AuditRecord>> {
    let mut found = Vec::new();
    eventually(what, RECORD_SECONDS_MAX, || {
        found = space.all_records()?;
        found.retain(|record| record.is_stage() && wanted(record));
        let inbound = found.iter().filter(|record| record.is_inbound()).count();
        Ok(inbound > 0 && found.len() > inbound)
    })?;
    Ok(found)
}

/// The record of the end of what a stage has shown.
fn end_of(space: &Space, stage: &AuditRecord) -> Result<AuditRecord> {
    let xid = stage.field("xid");
    let same = |record: &AuditRecord| record.field("xid") == xid;
    let records = space.records_when("the record of its end", |records| records.iter().any(same))?;
    single(records.into_iter().filter(same).collect())
}

#[test]
fn a_websocket_shows_while_it_is_open() -> Result<()> {
    let space = with_httpbin("open-websocket")?;
    let wanted = marker();
    let head = websocket_head(&wanted);
    // It stays open until the line comes that ends the reader; then `nc` sends a FIN. The limit is for what
    // nobody foresaw.
    let mut tunnel =
        space.start("client", "toolbox", &format!("{{ printf '{head}'; read line; }} | timeout 300 nc server 8080"))?;
    let mut answer = [0_u8; 12];
    tunnel.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 101");
    let switched = |record: &AuditRecord| record.status() == Some(101) && record.body.contains(&wanted);
    let stages = stages_of(&space, "both sides' stages of the open WebSocket", switched)?;
    let over = space.records()?.iter().filter(|record| record.body.contains(&wanted)).count();
    assert_eq!(over, 0, "it is still open");
    tunnel.say("over")?;
    tunnel.finish()?;
    for stage in &stages {
        let end = end_of(&space, stage)?;
        assert_eq!((end.event.as_str(), end.status()), (STREAM_CLOSE, Some(101)), "{end:#?}");
        assert_eq!(end.trace_id, stage.trace_id);
    }
    Ok(())
}

#[test]
fn a_silent_connection_shows_while_it_is_open() -> Result<()> {
    let space = Space::new("silent")?;
    space.policy("all", EVERY_POD)?;
    space.server(
        "listener",
        7000,
        "image: \"{{image:toolbox}}\", command: [nc, -ll, -p, \"7000\", -e, cat], \
         readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}",
    )?;
    space.toolbox("client", "{app: client}")?;
    let mut silent = space.start("client", "toolbox", "{ read line; } | timeout 300 nc listener 7000")?;
    let to_listener = |record: &AuditRecord| {
        record.event == TCP_OPEN && record.body.contains(":7000\"") && record.field("stage") == "opened"
    };
    let stages = stages_of(&space, "both sides' stages of the silent connection", to_listener)?;
    for stage in &stages {
        assert_eq!(stage.field("req_bytes"), "0", "{stage:#?}");
    }
    silent.say("over")?;
    silent.finish()?;
    for stage in &stages {
        let end = end_of(&space, stage)?;
        assert_eq!(end.event, TCP_CLOSE, "{end:#?}");
    }
    Ok(())
}

/// A request of the toolbox `client` that is open until its script reads a line; the arguments of curl.
fn open_request(space: &Space, arguments: &str) -> Result<crate::pods::Running> {
    space.start(
        "client",
        "toolbox",
        &format!("curl -sSN -o /dev/null --max-time 300 {arguments} & read line; kill $!; wait"),
    )
}

/// The stages of both sides that `wanted` holds for, each in time, while the exchange is open.
fn opened_in_time(space: &Space, wanted: impl Fn(&AuditRecord) -> bool) -> Result<Vec<AuditRecord>> {
    let opened = |record: &AuditRecord| record.field("stage") == "opened" && wanted(record);
    let stages = stages_of(space, "both sides' stages", opened)?;
    assert_eq!(space.records()?.iter().filter(|record| wanted(record)).count(), 0, "it is still open");
    assert_eq!(stages.len(), 2, "{stages:#?}");
    for stage in &stages {
        let number = |field: &str| stage.field(field).parse::<u64>().with_context(|| format!("{field} of {stage:#?}"));
        let (begin, shown, duration) = (number("t0")?, number("t1")?, number("dur")?);
        let millis = shown.saturating_sub(begin).max(duration) / 1_000_000;
        println!("an open exchange is shown after {millis} ms, {}", stage.direction());
        ensure!(stage.event == STREAM_OPEN && millis <= OPENED_MILLIS_MAX, "after {millis} ms: {stage:#?}");
    }
    Ok(stages)
}

#[test]
fn server_sent_events_show_within_a_second_while_they_flow() -> Result<()> {
    let space = Space::new("open-sse")?;
    space.policy("all", EVERY_POD)?;
    space.server(
        "server",
        8080,
        "image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8080\", -max-duration, 300s], \
         readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}",
    )?;
    space.toolbox("client", "{app: client}")?;
    let wanted = marker();
    let mut events = open_request(&space, &format!("'http://server:8080/sse?count=300&duration=300s&{wanted}=1'"))?;
    let stages = opened_in_time(&space, |record| record.body.contains(&wanted))?;
    events.say("over")?;
    events.finish()?;
    for stage in &stages {
        assert_eq!(stage.status(), Some(200), "it is shown once its answer began: {stage:#?}");
        let end = end_of(&space, stage)?;
        assert_eq!((end.event.as_str(), end.status()), (STREAM_CLOSE, Some(200)), "{end:#?}");
    }
    Ok(())
}

#[test]
fn a_stream_of_grpc_shows_after_a_second_with_its_messages_so_far() -> Result<()> {
    let space = Space::new("open-grpc")?;
    space.policy("all", EVERY_POD)?;
    let interop = "image: \"{{image:grpc-interop}}\", args: [-port, \"10000\"], \
                   readinessProbe: {tcpSocket: {port: 10000}, periodSeconds: 1}";
    space.server("server", 10_000, interop)?;
    space.toolbox("client", "{app: client}")?;
    // A StreamingOutputCallRequest: a message of 8 bytes at once, another one after 300 s.
    let call = "\\0\\0\\0\\0\\016\\022\\002\\010\\010\\022\\010\\010\\010\\020\\200\\306\\206\\217\\001";
    space.sh("client", &format!("printf '{call}' >/tmp/call"))?;
    let mut stream = open_request(
        &space,
        "--http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @/tmp/call \
         http://server:10000/grpc.testing.TestService/StreamingOutputCall",
    )?;
    let stages = opened_in_time(&space, |record| record.attribute("rpc.method") == "StreamingOutputCall")?;
    stream.say("over")?;
    stream.finish()?;
    for stage in &stages {
        assert_eq!((stage.field("req_msgs"), stage.field("res_msgs")), ("1".into(), "1".into()), "{stage:#?}");
        let end = end_of(&space, stage)?;
        assert_eq!((end.event.as_str(), end.field("outcome").as_str()), (RPC_CALL, "failure"), "{end:#?}");
    }
    Ok(())
}

/// A TLS server for the names below `example.test`, and a client that has its authority and that of nobody; both recorded.
fn with_tls(test: &str) -> Result<Space> {
    let space = Space::new(test)?;
    space.policy("all", EVERY_POD)?;
    let (known, stranger) = (Authority::new("known")?, Authority::new("stranger")?);
    known.secret(&space, "server-tls", &["*.example.test"])?;
    let container = "image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8443\", \
                     -https-cert-file, /tls/tls.crt, -https-key-file, /tls/tls.key], \
                     volumeMounts: [{name: tls, mountPath: /tls}], readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}";
    space.server_with_volumes("server", 8443, container, "[{name: tls, secret: {secretName: server-tls}}]")?;
    space.toolbox("client", "{app: client}")?;
    for (file, authority) in [("known", &known), ("stranger", &stranger)] {
        space.sh("client", &format!("cat >/tmp/{file}.pem <<END\n{}END", authority.pem()))?;
    }
    Ok(space)
}

/// What a connection is recorded as: event, handshake, outcome, who ended it.
struct Told(&'static str, &'static str, &'static str, &'static str);

#[test]
fn tls_is_recorded_by_what_it_says_in_the_clear_and_a_refused_certificate_as_failed() -> Result<()> {
    let space = with_tls("tls")?;
    const ANSWERED: &str = "200 0";
    // curl's exit code for a certificate that it does not accept.
    const REFUSED: &str = "000 60";
    let completed = || Told(TCP_CLOSE, "completed", "success", "");
    let failed = |alert| Told(TLS_FAILED, "failed", "failure", alert);
    let cases = [
        ("modern.example.test", "1.3", "known", ANSWERED, completed()),
        ("legacy.example.test", "1.2", "known", ANSWERED, completed()),
        ("wary.example.test", "1.3", "stranger", REFUSED, failed("client:")),
        ("legacy-wary.example.test", "1.2", "stranger", REFUSED, failed("client:unknown_ca")),
    ];
    for (name, version, authority, said, _) in &cases {
        let script = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 --tls-max {version} --cacert /tmp/{authority}.pem \
             --connect-to {name}:8443:server:8443 https://{name}:8443/anything; echo \" $?\""
        );
        assert_eq!(space.sh("client", &script)?.trim(), *said, "{name}");
    }
    for (name, version, _, said, Told(event, handshake, outcome, alert)) in cases {
        let with = |record: &&AuditRecord| record.attribute("tls.client.server_name") == name;
        let records = space.records_when(name, |records| records.iter().filter(with).count() >= 2)?;
        let (inbound, outbound): (Vec<_>, Vec<_>) = records.iter().filter(with).partition(|one| one.is_inbound());
        let (inbound, outbound) = (single(inbound)?, single(outbound)?);
        ensure!(outbound.pairs_with(inbound), "{outbound:#?}\n{inbound:#?}");
        for record in [inbound, outbound] {
            let fields =
                ["tls_handshake", "outcome", "proto", "target", "tls_version", "alpn_offered", "alpn_selected"];
            let target = format!("{name}:8443");
            // In TLS 1.3 the server's choice is encrypted.
            let chosen = if version == "1.2" { "h2" } else { "" };
            let expected = [handshake, outcome, "tls", &target, version, "h2,http/1.1", chosen];
            assert_eq!(fields.map(|field| record.field(field)), expected, "{record:#?}");
            assert_eq!(record.event, event, "{record:#?}");
            let told = record.field("tls_alert");
            ensure!(told.starts_with(alert) && told.is_empty() == (said == ANSWERED), "{record:#?}");
        }
    }
    Ok(())
}
