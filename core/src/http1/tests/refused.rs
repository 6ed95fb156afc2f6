//! What is refused, with its reason, and that nothing of it goes on.

use super::*;
use Refusal::{
    BadChunkSize, BadContentLength, BadFieldName, BadTrailer, BadTransferEncoding, BareCrLfOrNul, ChunkLineTooLong,
    DuplicateHost, HeadTooLong, LengthWithTransferEncoding, MalformedHead, MissingHost, ObsoleteFold, SpaceBeforeColon,
    TooManyHeaders, TransferEncodingInHttp10,
};

const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

const REQUESTS: &[(&str, Refusal)] = &[
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        LengthWithTransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        LengthWithTransferEncoding,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nContent-Length: 0\r\n\r\n", LengthWithTransferEncoding),
    ("POST / HTTP/1.0\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", LengthWithTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\nabc", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{b2}\r\n\r\n", BadContentLength),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,chunked\r\n\r\n", BadTransferEncoding),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        BadTransferEncoding,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", BadTransferEncoding),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", MalformedHead),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingInHttp10),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: x\r\n\r\n", TransferEncodingInHttp10),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", ObsoleteFold),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", ObsoleteFold),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", ObsoleteFold),
    ("GET / HTTP/1.1\nHost: a\n\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n", BareCrLfOrNul),
    ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", BareCrLfOrNul),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", SpaceBeforeColon),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 3\r\n\r\nabc", SpaceBeforeColon),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", SpaceBeforeColon),
    ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", BadFieldName),
    ("GET / HTTP/1.1\r\nHost: a\r\nX Y: x\r\n\r\n", BadFieldName),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: x\r\n\r\n", BadFieldName),
    ("GET / HTTP/1.1\r\nHost: a\r\n(x): x\r\n\r\n", BadFieldName),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\x7f: x\r\n\r\n", BadFieldName),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", MalformedHead),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", MalformedHead),
    ("GET / HTTP/1.1\r\n\r\n", MissingHost),
    ("GET / HTTP/1.1\r\nHosts: a\r\n\r\n", MissingHost),
    ("CONNECT a:1 HTTP/1.1\r\n\r\n", MissingHost),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", DuplicateHost),
    ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", DuplicateHost),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", MalformedHead),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", MalformedHead),
    ("GET /\r\n\r\n", MalformedHead),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", MalformedHead),
];

const CHUNKS: &[(&str, Refusal)] = &[
    ("x\r\n", BadChunkSize),
    ("\r\n", BadChunkSize),
    ("-1\r\n", BadChunkSize),
    ("+1\r\n", BadChunkSize),
    ("0x1\r\n", BadChunkSize),
    (" 1\r\n", BadChunkSize),
    ("1 \r\n", BadChunkSize),
    ("1 2\r\n", BadChunkSize),
    (";a\r\n", BadChunkSize),
    ("1;a\x01\r\n", BadChunkSize),
    ("10000000000000000\r\n", BadChunkSize),
    ("00000000000000001\r\n", BadChunkSize),
    ("1\r\nab\r\n", BadChunkSize),
    ("1\r\na\n", BadChunkSize),
    ("1\r\na\rb", BadChunkSize),
    ("2\r\nab0\r\n", BadChunkSize),
    ("1\r\na\r\n\r\n0\r\n\r\n", BadChunkSize),
    ("1\na\r\n", BareCrLfOrNul),
    ("1;\ra\r\n", BareCrLfOrNul),
    ("1;\na\r\n", BareCrLfOrNul),
    ("1;\0\r\n", BareCrLfOrNul),
    ("0\r\nX: 1\n\r\n", BadTrailer),
    ("0\r\nX : 1\r\n\r\n", BadTrailer),
    ("0\r\n X: 1\r\n\r\n", BadTrailer),
    ("0\r\nX\r\n\r\n", BadTrailer),
    ("0\r\n: 1\r\n\r\n", BadTrailer),
    ("0\r\nX: \0\r\n\r\n", BadTrailer),
    ("0\r\nX: 1\r2\r\n\r\n", BadTrailer),
    ("0\r\nContent-Length: 1\r\n\r\n", BadTrailer),
    ("0\r\nTransfer-Encoding: chunked\r\n\r\n", BadTrailer),
    ("0\r\nhost: b\r\n\r\n", BadTrailer),
    ("0\r\n\n", BadTrailer),
];

const RESPONSES: &[(&str, Refusal)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthWithTransferEncoding),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", BadContentLength),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1,1\r\n\r\na", BadContentLength),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", BadContentLength),
    ("HTTP/1.1 204 No\r\nContent-Length: x\r\n\r\n", BadContentLength),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadTransferEncoding),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", BadTransferEncoding),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingInHttp10),
    ("HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", ObsoleteFold),
    ("HTTP/1.1 200 OK\nX: 1\r\n\r\n", BareCrLfOrNul),
    ("HTTP/1.1 200 OK\r\nX: 1\r2\r\n\r\n", BareCrLfOrNul),
    ("HTTP/1.1 200 O\0K\r\n\r\n", BareCrLfOrNul),
    ("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", SpaceBeforeColon),
    ("HTTP/1.1 200 OK\r\n\u{e4}: 1\r\n\r\n", BadFieldName),
    ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", MalformedHead),
    ("HTTP/1.1 20 OK\r\n\r\n", MalformedHead),
    ("HTTP/1.1 099 OK\r\n\r\n", MalformedHead),
    ("HTTP/1.1  200 OK\r\n\r\n", MalformedHead),
    ("HTTP/1.1 2000 OK\r\n\r\n", MalformedHead),
    ("HTTP/2 200\r\n\r\n", MalformedHead),
    ("ICY 200 OK\r\n\r\n", MalformedHead),
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", MalformedHead),
    ("<html>\r\n\r\n", MalformedHead),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", MalformedHead),
];

/// One byte for each character.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

fn first_line_of(request: &str) -> String {
    let request = request.strip_prefix("\r\n").unwrap_or(request);
    let line = request.split('\n').next().unwrap_or_default();
    text(bytes(line.strip_suffix('\r').unwrap_or(line)))
}

#[test]
fn ev_1_bad_requests_get_400_and_nothing_goes_upstream() {
    for (request, refusal) in REQUESTS {
        let outcome = every_way(&[client(bytes(request)), client(GET)]);
        let empty_line = if request.starts_with("\r\n") { "\\r\\n" } else { "" };
        assert_eq!(outcome.to_upstream, empty_line, "{request:?}");
        assert_eq!(outcome.to_client, text(BAD_REQUEST), "{request:?}");
        assert_eq!(outcome.ends, [(0, End::RequestRefused(*refusal))], "{request:?}");
        assert_eq!(outcome.verdicts, [Next::Close], "{request:?}");
        assert_eq!(outcome.seen.unparsed, [first_line_of(request)], "{request:?}");
        assert_eq!(outcome.seen.answered, [(0, 400)], "{request:?}");
        assert!(outcome.seen.heads.is_empty());
    }
}

#[test]
fn ev_1_a_bad_request_is_answered_after_those_before_it() {
    for (request, refusal) in REQUESTS {
        let before = format!("{GET}HEAD /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answers = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n";
        let bad = [bytes(&before), bytes(request)].concat();
        let outcome = every_way(&[client(bad), Step::ClientEof, upstream(answers)]);
        let empty_line = if request.starts_with("\r\n") { "\r\n" } else { "" };
        assert_eq!(outcome.to_upstream, text(before + empty_line), "{request:?}");
        assert_eq!(outcome.to_client, text(format!("{answers}{BAD_REQUEST}")), "{request:?}");
        let ends = [(0, End::Complete), (1, End::Complete), (2, End::RequestRefused(*refusal))];
        assert_eq!(outcome.ends, ends, "{request:?}");
        assert_eq!(outcome.verdicts, [Next::Close], "{request:?}");
    }
}

#[test]
fn ev_1_bad_chunks_get_400_before_the_answer_and_a_reset_after_it() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    for (chunk, refusal) in CHUNKS {
        let outcome = every_way(&[client(head), upstream("HTTP/1.1 100 C\r\n\r\nHTTP/1."), client(chunk)]);
        assert_eq!(outcome.ends, [(0, End::RequestRefused(*refusal))], "{chunk:?}");
        assert_eq!(outcome.to_client, text(format!("HTTP/1.1 100 C\r\n\r\n{BAD_REQUEST}")), "{chunk:?}");
        assert_eq!(outcome.verdicts, [Next::Close], "{chunk:?}");
        assert!(outcome.to_upstream.starts_with(&text(head)), "{chunk:?}");
        assert!(!(text(head) + &text(chunk)).eq(&outcome.to_upstream), "{chunk:?}");
        assert!(outcome.seen.request_ends.is_empty(), "{chunk:?}");

        for answer in ["HTTP/1.1 413 No\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK\r\n\r\nx"] {
            let outcome = every_way(&[client(head), upstream(answer), client(chunk)]);
            assert_eq!(outcome.ends, [(0, End::RequestRefused(*refusal))], "{chunk:?}");
            assert_eq!(outcome.to_client, text(answer), "{chunk:?}");
            assert_eq!(outcome.verdicts, [Next::Reset], "{chunk:?}");
            assert_eq!(outcome.seen.answered, [], "the upstream's answer had begun");
        }

        let behind = format!("{GET}{head}{chunk}");
        let answers = "HTTP/1.1 204 N\r\n\r\n";
        let outcome = every_way(&[client(behind), upstream(answers)]);
        assert_eq!(outcome.ends, [(0, End::Complete), (1, End::RequestRefused(*refusal))], "{chunk:?}");
        assert_eq!(outcome.to_client, text(format!("{answers}{BAD_REQUEST}")), "{chunk:?}");
        assert_eq!(outcome.verdicts, [Next::Close], "{chunk:?}");
    }
}

#[test]
fn ev_1_bad_responses_get_502() {
    for (response, refusal) in RESPONSES {
        for (interim, second) in [("", ""), ("HTTP/1.1 103 E\r\n\r\n", "HTTP/1.1 204 N\r\n\r\n")] {
            let all = [bytes(interim), bytes(response), bytes(second)].concat();
            let outcome = every_way(&[client(format!("{GET}{GET}")), upstream(all)]);
            assert_eq!(outcome.to_client, text(format!("{interim}{BAD_GATEWAY}")), "{response:?}");
            let ends = [(0, End::ResponseRefused(*refusal)), (1, End::UpstreamGone)];
            assert_eq!(outcome.ends, ends, "{response:?}");
            assert_eq!(outcome.verdicts, [Next::Close], "{response:?}");
            assert_eq!(outcome.seen.answered, [(0, 502)], "{response:?}");
        }
    }
}

#[test]
fn ev_1_bad_chunks_of_a_response_reset() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    for (chunk, refusal) in CHUNKS {
        let outcome = every_way(&[client(GET), upstream(format!("{head}{chunk}"))]);
        assert_eq!(outcome.ends, [(0, End::ResponseRefused(*refusal))], "{chunk:?}");
        assert!(outcome.to_client.starts_with(&text(head)), "{chunk:?}");
        assert_eq!(outcome.seen.answered, [], "{chunk:?}");
        assert_eq!(outcome.verdicts, [Next::Reset], "{chunk:?}");
    }
}

#[test]
fn limits_are_exact() {
    let limits = Limits { head_bytes_max: 64, header_count_max: 2, chunk_line_bytes_max: 8, ..Limits::default() };
    let refused = |steps: &[Step]| every_way_with(limits, None, steps).ends;
    let done = |steps: &[Step]| assert_eq!(refused(steps), [(0, End::Complete)]);
    let answer = upstream("HTTP/1.1 204 N\r\n\r\n");
    let head_of = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: ";
        format!("{start}{}\r\n\r\n", "a".repeat(bytes - start.len() - 4))
    };
    done(&[client(head_of(64)), answer.clone()]);
    assert_eq!(refused(&[client(head_of(65))]), [(0, End::RequestRefused(HeadTooLong))]);
    assert_eq!(refused(&[client("A".repeat(64))]), [(0, End::RequestRefused(HeadTooLong))]);
    assert_eq!(refused(&[client("A".repeat(63)), Step::ClientEof]), [(0, End::ClientGone)]);

    done(&[client("GET / HTTP/1.1\r\nHost:\r\nA:\r\n\r\n"), answer.clone()]);
    let three = "GET / HTTP/1.1\r\nHost:\r\nA:\r\nB:\r\n\r\n";
    assert_eq!(refused(&[client(three)]), [(0, End::RequestRefused(TooManyHeaders))]);

    let chunked = "PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n";
    done(&[client(format!("{chunked}1;2345\r\na\r\n0\r\n\r\n")), answer.clone()]);
    let long_line = format!("{chunked}1;23456\r\n");
    assert_eq!(refused(&[client(long_line)]), [(0, End::RequestRefused(ChunkLineTooLong))]);
    done(&[client(format!("{chunked}0\r\nA: {}\r\nB: {}\r\n\r\n", "a".repeat(25), "b".repeat(27))), answer.clone()]);
    let long_trailer = format!("{chunked}0\r\nA: {}\r\nB: {}\r\n\r\n", "a".repeat(25), "b".repeat(28));
    assert_eq!(refused(&[client(long_trailer)]), [(0, End::RequestRefused(HeadTooLong))]);
    let many_trailers = format!("{chunked}0\r\nA:\r\nB:\r\nC:\r\n\r\n");
    assert_eq!(refused(&[client(many_trailers)]), [(0, End::RequestRefused(TooManyHeaders))]);

    let get = client("GET / HTTP/1.1\r\nHost:\r\n\r\n");
    let long = upstream(format!("HTTP/1.1 200 {}\r\n\r\n", "a".repeat(48)));
    assert_eq!(refused(&[get.clone(), long]), [(0, End::ResponseRefused(HeadTooLong))]);
    let many = upstream("HTTP/1.1 200 O\r\nA:\r\nB:\r\nC:\r\n\r\n");
    assert_eq!(refused(&[get, many]), [(0, End::ResponseRefused(TooManyHeaders))]);
}
