//! What is valid goes through byte for byte.

use super::*;

/// Name, request bytes, response bytes, whether the response ends by EOF, number of exchanges.
type Row = (&'static str, &'static str, &'static str, bool, usize);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

const TABLE: &[Row] = &[
    ("get", GET, OK, false, 1),
    ("field case, order and repeats", "GET / HTTP/1.1\r\nX-b: 1\r\nhOsT: a\r\nx-B: 2\r\nA:\r\n\r\n", OK, false, 1),
    ("white space in values", "GET / HTTP/1.1\r\nHost:a\r\nX:  \t 1 \t2\t \r\nY: \r\n\r\n", OK, false, 1),
    ("latin-1 in values", "GET / HTTP/1.1\r\nHost: a\r\nX: gr\u{fc}n\r\n\r\n", OK, false, 1),
    ("an empty line before the request line", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("absolute form", "GET http://a/b?c=d HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", OK, false, 1),
    ("own method", "PURGE-2!x /a HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("odd characters in the target", "GET /a|b{c}\"<>^`\\[] HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("utf-8 in the target", "GET /\u{c3}\u{a4} HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("http/1.0 without host", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nuntil eof", true, 1),
    (
        "http/1.0 keep-alive",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\naHTTP/1.0 200 OK\r\n\r\n",
        true,
        2,
    ),
    ("http/1.0 post", "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", OK, false, 1),
    (
        "http/1.0 asked, http/1.1 chunked",
        "GET / HTTP/1.0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        false,
        1,
    ),
    ("post with a length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", OK, false, 1),
    ("post of length 0", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", OK, false, 1),
    ("post without a length", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("get with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", OK, false, 1),
    ("length with leading zeros", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0003\r\n\r\nabc", OK, false, 1),
    ("length with white space around", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t3 \r\n\r\nabc", OK, false, 1),
    ("binary body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n\0\r\n\r\n\n", OK, false, 1),
    ("body like a request", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n", OK, false, 1),
    (
        "chunked request",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "chunk borders",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n00A\r\n0123456789\r\n000\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "chunk size in both cases",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "chunk extensions",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b;c=\"d;e\"\r\nx\r\n1 ; f\r\ny\r\n0;last\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "chunk data of line ends",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "request trailers",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: 1\r\ny:\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "trailers with no data",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGrpc-Status: 0\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "sixteen digits of size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n0\r\n\r\n",
        OK,
        false,
        1,
    ),
    (
        "expect 100-continue",
        "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        false,
        1,
    ),
    (
        "early hints",
        GET,
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        false,
        1,
    ),
    (
        "processing",
        GET,
        "HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        false,
        1,
    ),
    ("no content", GET, "HTTP/1.1 204 No Content\r\n\r\n", false, 1),
    ("no content with a length", GET, "HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n", false, 1),
    ("not modified with a length", GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", false, 1),
    ("not modified, chunked", GET, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false, 1),
    ("head", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", false, 1),
    (
        "head, chunked",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        false,
        1,
    ),
    ("head without framing", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", false, 1),
    (
        "head then get",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        false,
        2,
    ),
    ("head in lower case is another method", "head / HTTP/1.1\r\nHost: a\r\n\r\n", OK, false, 1),
    ("response of length 0", GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("reset content", GET, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("empty reason", GET, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", false, 1),
    ("no reason", GET, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("long reason", GET, "HTTP/1.1 404 Not  Found, \t sorry!\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("unknown status", GET, "HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("chunked response", GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, 1),
    ("chunked response, other case", GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", false, 1),
    (
        "response trailers",
        GET,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nServer-Timing: a\r\nExpires: b\r\n\r\n",
        false,
        1,
    ),
    ("until eof", GET, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall \r\n\r\n of it", true, 1),
    ("until eof, empty", GET, "HTTP/1.1 200 OK\r\n\r\n", true, 1),
    ("close with a length", GET, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", true, 1),
    (
        "set-cookie repeated",
        GET,
        "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n",
        false,
        1,
    ),
    ("redirect", GET, "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", false, 1),
    ("error with a body", GET, "HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad", false, 1),
    (
        "upgrade required is no upgrade",
        GET,
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
        false,
        1,
    ),
    ("http/1.0 response with a length", GET, "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", false, 1),
    (
        "three pipelined",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3",
        false,
        3,
    ),
    (
        "pipelined with empty lines between",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        "HTTP/1.1 204 A\r\n\r\nHTTP/1.1 204 B\r\n\r\n",
        false,
        2,
    ),
    (
        "interim for the second",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 204 A\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 B\r\n\r\n",
        false,
        2,
    ),
    (
        "connect refused",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nx",
        false,
        1,
    ),
    ("upgrade refused", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", OK, false, 1),
    (
        "upgrade that passes by 100",
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\nb",
        "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
        false,
        1,
    ),
];

#[test]
fn ev_1_valid_exchanges_go_through_byte_for_byte() {
    assert!(TABLE.len() >= 60);
    for (name, request, response, by_eof, exchanges) in TABLE {
        // One byte for each character: the sample with latin-1 is not UTF-8 on the wire.
        let bytes = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<_>>();
        let mut steps = vec![client(bytes(request)), upstream(bytes(response))];
        if *by_eof {
            steps.push(Step::UpstreamEof);
        }
        let outcome = std::panic::catch_unwind(|| every_way(&steps)).unwrap_or_else(|_| panic!("{name}"));
        assert_eq!(outcome.to_upstream, text(bytes(request)), "{name}");
        assert_eq!(outcome.to_client, text(bytes(response)), "{name}");
        let ends: Vec<_> = (0..*exchanges as u64).map(|seq| (seq, End::Complete)).collect();
        assert_eq!(outcome.ends, ends, "{name}");
        assert_eq!(outcome.seen.heads.len(), *exchanges, "{name}");
        assert_eq!(outcome.seen.request_ends, (0..*exchanges as u64).collect::<Vec<_>>(), "{name}");
        let verdicts: &[Next] = if *by_eof { &[Next::Close] } else { &[] };
        assert_eq!(outcome.verdicts, verdicts, "{name}");
    }
}

#[test]
fn payload_is_counted_without_its_framing() {
    let request =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: v\r\n\r\n";
    let outcome = every_way(&[client(request), upstream(OK)]);
    assert_eq!(outcome.seen.request_payload, BTreeMap::from([(0, 6)]));
    assert_eq!(outcome.seen.response_payload, BTreeMap::from([(0, 2)]));
    assert_eq!(outcome.seen.heads, ["POST / 1"]);
    assert_eq!(outcome.seen.statuses, [(0, 200)]);
}

#[test]
fn long_heads_and_bodies_in_two_pieces() {
    let field = format!("X-Long: {}\r\n", "x".repeat(5000));
    let request = format!("PUT / HTTP/1.1\r\nHost: a\r\n{field}Content-Length: 5000\r\n\r\n{}", "y".repeat(5000));
    let response = format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 5000\r\n\r\n{}", "z".repeat(5000));
    let steps = [client(&request), upstream(&response)];
    for at in (0..request.len() + response.len()).step_by(97) {
        let outcome = run_with(Limits::default(), None, &pieces(&steps, |index| index == at));
        assert_eq!(outcome.to_upstream, text(&request), "cut behind byte {at}");
        assert_eq!(outcome.to_client, text(&response), "cut behind byte {at}");
        assert_eq!(outcome.ends, [(0, End::Complete)], "cut behind byte {at}");
        assert_eq!(outcome.seen.request_payload, BTreeMap::from([(0, 5000)]));
    }
}
