//! Random message sequences and random bytes, in random pieces.

use super::*;
use proptest::prelude::*;

/// A valid request with whatever a response needs to know of it.
fn request() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("DELETE"), Just("X-Y")];
    let fields = proptest::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,8}", "[ -~]{0,20}"), 0..4);
    (method, "/[a-z0-9/?=&%.]{0,20}", fields, body()).prop_map(|(method, target, fields, (framing, body))| {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n");
        for (name, value) in fields {
            head.push_str(&format!("x-{name}: {value}\r\n"));
        }
        head.push_str(&framing);
        head.push_str("\r\n");
        ([head.into_bytes(), body].concat(), method == "HEAD")
    })
}

/// Framing fields and the body as it is on the wire.
fn body() -> impl Strategy<Value = (String, Vec<u8>)> {
    let bytes = || proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n')], 1..20);
    let length = proptest::collection::vec(any::<u8>(), 0..40)
        .prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body));
    let chunks = (proptest::collection::vec((bytes(), "(;[a-z]{0,5})?"), 0..4), "(T: [a-z]{0,4}\r\n){0,2}").prop_map(
        |(chunks, trailers)| {
            let mut body = Vec::new();
            for (chunk, extension) in chunks {
                body.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(format!("0\r\n{trailers}\r\n").into_bytes());
            ("transfer-encoding: chunked\r\n".to_owned(), body)
        },
    );
    prop_oneof![length, chunks]
}

/// A response to a request, HEAD or not.
fn response() -> impl Strategy<Value = (u16, bool, String, Vec<u8>)> {
    let status = prop_oneof![Just(200_u16), Just(204), Just(304), Just(404), Just(503)];
    (status, any::<bool>(), body()).prop_map(|(status, interim, (framing, body))| (status, interim, framing, body))
}

fn response_bytes((status, interim, framing, body): &(u16, bool, String, Vec<u8>), to_head: bool) -> Vec<u8> {
    let interim = if *interim { "HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" } else { "" };
    let mut bytes = format!("{interim}HTTP/1.1 {status} Why not\r\n{framing}\r\n").into_bytes();
    if !to_head && *status != 204 && *status != 304 {
        bytes.extend(body);
    }
    bytes
}

/// Bytes that come near to messages.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => proptest::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /a HTTP/1.0\r\n", "CONNECT a:1 HTTP/1.1\r\n", "HEAD / HTTP/1.1\r\n", "Host: a\r\n",
            "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Upgrade: x\r\n", "Connection: Upgrade\r\n", "\r\n",
            "HTTP/1.1 200 OK\r\n", "HTTP/1.1 101 S\r\n", "HTTP/1.1 100 C\r\n", "HTTP/1.0 204 N\r\n", "0\r\n", "3\r\nabc\r\n",
            "abc", "\n", "\r", " ", ":", "\0", "5;x\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn noise_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => noise().prop_map(Step::Client),
        6 => noise().prop_map(Step::Upstream),
        1 => Just(Step::ClientEof),
        1 => Just(Step::UpstreamEof),
    ]
}

fn small_limits() -> impl Strategy<Value = Limits> {
    (0_usize..120, 0_usize..6, 0_usize..12, 0_usize..4).prop_map(|(head, count, line, pipelined)| Limits {
        head_bytes_max: head,
        header_count_max: count,
        chunk_line_bytes_max: line,
        pipelined_max: pipelined,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn ev_1_valid_sequences_go_through_however_they_are_cut(
        exchanges in proptest::collection::vec((request(), response()), 1..6),
        pipelined in any::<bool>(),
        cuts in proptest::collection::vec(0_usize..40, 1..30),
    ) {
        let mut steps = Vec::new();
        let (mut requests, mut responses) = (Vec::new(), Vec::new());
        for ((request, is_head), response) in &exchanges {
            let response = response_bytes(response, *is_head);
            steps.push(Step::Client(request.clone()));
            steps.push(Step::Upstream(response.clone()));
            requests.extend(request);
            responses.extend(response);
        }
        if pipelined {
            steps = vec![Step::Client(requests.clone()), Step::Upstream(responses.clone())];
        }
        let outcome = run_with(Limits::default(), None, &pieces(&steps, |index| {
            let run = cuts.get(index % cuts.len()).copied().unwrap_or(1);
            run < 2 || index % run == 0
        }));
        prop_assert_eq!(&outcome.to_upstream, &text(&requests));
        prop_assert_eq!(&outcome.to_client, &text(&responses));
        let ends: Vec<_> = (0..exchanges.len() as u64).map(|seq| (seq, End::Complete)).collect();
        prop_assert_eq!(&outcome.ends, &ends);
        prop_assert_eq!(outcome, run_with(Limits::default(), None, &steps));
    }

    #[test]
    fn ev_1_any_bytes_keep_it_and_never_panic(
        steps in proptest::collection::vec(noise_step(), 0..8),
        limits in prop_oneof![Just(Limits::default()), small_limits()],
    ) {
        let whole = run_with(limits, None, &steps);
        prop_assert_eq!(&run_with(limits, None, &pieces(&steps, |_| true)), &whole);
    }
}
