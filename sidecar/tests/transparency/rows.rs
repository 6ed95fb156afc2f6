//! The rows: what client and origin say to each other.

use super::{Row, Step};

pub(crate) fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

fn until(text: &str) -> Step {
    Step::Until(text.as_bytes().to_vec())
}

fn row(name: impl Into<String>, client: Vec<Step>, origin: Vec<Step>) -> Row {
    Row { name: name.into(), client, origin }
}

/// One request, one response, then the client closes.
fn simple(name: impl Into<String>, request: &str, request_end: &str, response: &str, response_end: &str) -> Row {
    row(
        name,
        vec![send(request), until(response_end), Step::Fin, Step::Eof],
        vec![until(request_end), send(response), Step::Eof, Step::Fin],
    )
}

const HOST: &str = "Host: shop\r\n";

/// Every method with every framing of the response.
fn matrix() -> Vec<Row> {
    let bodies = [
        ("length", "Content-Length: 5\r\n\r\nhello", "hello"),
        ("empty", "Content-Length: 0\r\n\r\n", "\r\n\r\n"),
        ("chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"),
        (
            "chunks, extensions, trailers",
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;a=b\r\nhe\r\n003 ; q=\"x\"\r\nllo\r\n0;last\r\nX-Sum: 9\r\n\r\n",
            "X-Sum: 9\r\n\r\n",
        ),
    ];
    let mut rows = Vec::new();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        for (name, tail, end) in &bodies {
            let request = format!("{method} /a/b?c=d {}\r\n{HOST}\r\n", "HTTP/1.1");
            let response = format!("HTTP/1.1 200 OK\r\n{tail}");
            rows.push(simple(format!("{method}, {name}"), &request, "\r\n\r\n", &response, end));
        }
    }
    rows
}

fn requests() -> Vec<Row> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let get = |name: &str, head: &str| simple(name, head, "\r\n\r\n", ok, "ok");
    let with_body = |name: &str, request: &str, end: &str| simple(name, request, end, ok, "ok");
    vec![
        get("order and case of fields", "GET / HTTP/1.1\r\nhOsT: shop\r\nX-B: 1\r\nx-a:2\r\nX-B:  3  \r\n\r\n"),
        get("empty values and odd names", &format!("GET / HTTP/1.1\r\n{HOST}X:\r\n!#$%&'*+-.^_`|~: y\r\n\r\n")),
        get("bytes over 127 in a value", &format!("GET / HTTP/1.1\r\n{HOST}X: \u{e4}\u{20ac}\r\n\r\n")),
        get("absolute form", &format!("GET http://shop/a HTTP/1.1\r\n{HOST}\r\n")),
        get("asterisk form", &format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n")),
        get("odd targets", &format!("GET /a//b/../c?%00&&=;#x HTTP/1.1\r\n{HOST}\r\n")),
        get("long target", &format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(8000))),
        get("many fields", &format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X: y\r\n".repeat(90))),
        get(
            "hop-by-hop fields stay",
            &format!("GET / HTTP/1.1\r\n{HOST}Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n"),
        ),
        get(
            "cookies and authorization pass",
            &format!("GET / HTTP/1.1\r\n{HOST}Cookie: a=b\r\nAuthorization: Basic eDp5\r\n\r\n"),
        ),
        with_body("POST with a length", &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nbody"), "body"),
        with_body("GET with a body", &format!("GET / HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nbody"), "body"),
        with_body(
            "chunked request with trailers",
            &format!(
                "POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1;x\r\n!\r\n0\r\nT: 1\r\n\r\n"
            ),
            "T: 1\r\n\r\n",
        ),
        with_body(
            "body that looks like a request",
            &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            "GET / HTTP/1.1\r\n\r\n",
        ),
        with_body(
            "big body",
            &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 300004\r\n\r\n{}done", "y".repeat(300_000)),
            "done",
        ),
        row(
            "HTTP/1.0 without Host, closed by the origin",
            vec![send("GET / HTTP/1.0\r\n\r\n"), Step::Eof, Step::Fin],
            vec![until("\r\n\r\n"), send("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Step::Fin, Step::Eof],
        ),
        row(
            "HTTP/1.0 keep-alive",
            vec![
                send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                until("one"),
                send("GET /2 HTTP/1.0\r\n\r\n"),
                Step::Eof,
                Step::Fin,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\none"),
                until("\r\n\r\n"),
                send("HTTP/1.0 200 OK\r\n\r\ntwo"),
                Step::Fin,
                Step::Eof,
            ],
        ),
    ]
}

fn responses() -> Vec<Row> {
    let get = format!("GET / HTTP/1.1\r\n{HOST}\r\n");
    let simple = |name: &str, response: &str, end: &str| simple(name, &get, "\r\n\r\n", response, end);
    let mut rows: Vec<Row> = [204, 304]
        .iter()
        .map(|status| simple(&format!("{status}"), &format!("HTTP/1.1 {status} x\r\nETag: \"a\"\r\n\r\n"), "\r\n\r\n"))
        .collect();
    for status in [201, 206, 301, 400, 404, 418, 429, 500, 503, 599] {
        let response = format!("HTTP/1.1 {status} Some Reason\r\nContent-Length: 1\r\n\r\n!");
        rows.push(simple(&format!("status {status}"), &response, "!"));
    }
    rows.push(simple("no reason phrase", "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n!", "!"));
    rows.push(simple(
        "set-cookie twice",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 1\r\n\r\n!",
        "!",
    ));
    rows.push(simple(
        "early hints, then the answer",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "ok",
    ));
    rows.push(super_simple_head());
    rows.push(row(
        "closed by the origin after an answer that says so",
        vec![send(&get), Step::Eof, Step::Fin],
        vec![
            until("\r\n\r\n"),
            send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
            Step::Fin,
            Step::Eof,
        ],
    ));
    rows.push(row(
        "until the end of the connection",
        vec![send(&get), Step::Eof, Step::Fin],
        vec![until("\r\n\r\n"), send("HTTP/1.1 200 OK\r\n\r\nto the end"), Step::Fin, Step::Eof],
    ));
    rows.push(row(
        "cut in the middle of a body by a reset",
        vec![send(&get), until("he"), Step::Gone],
        vec![until("\r\n\r\n"), send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), Step::Rst],
    ));
    rows
}

fn super_simple_head() -> Row {
    let request = format!("HEAD / HTTP/1.1\r\n{HOST}\r\n");
    simple("HEAD", &request, "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "\r\n\r\n")
}

fn conversations() -> Vec<Row> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let post = |path: &str, body: &str| format!("POST {path} HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\n{body}");
    let upgrade =
        format!("GET /ws HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n");
    vec![
        row(
            "two requests, one after the other",
            vec![send(&get("/1")), until("one"), send(&get("/2")), until("two"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send(&ok("one")), until("\r\n\r\n"), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "pipelined",
            vec![send(&(get("/1") + &post("/2", "body"))), until("two"), Step::Fin, Step::Eof],
            vec![until("body"), send(&ok("one")), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "100-continue",
            vec![
                send(&format!("POST / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")),
                until("100 Continue\r\n\r\n"),
                send("body"),
                until("ok"),
                Step::Fin,
                Step::Eof,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 100 Continue\r\n\r\n"),
                until("body"),
                send(&ok("ok")),
                Step::Eof,
                Step::Fin,
            ],
        ),
        row(
            "an answer before the body is whole",
            vec![
                send(&format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 8\r\n\r\nhalf")),
                until("no"),
                send("rest"),
                Step::Fin,
                Step::Eof,
            ],
            vec![until("half"), send(&ok("no")), until("rest"), Step::Eof, Step::Fin],
        ),
        row(
            "the client half-closes after its request",
            vec![send(&get("/")), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), Step::Eof, send(&ok("still here")), Step::Fin],
        ),
        row(
            "the client resets while it waits",
            vec![send(&get("/")), until("100 Continue\r\n\r\n"), Step::Rst],
            vec![until("\r\n\r\n"), send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Gone],
        ),
        row(
            "upgrade to WebSocket",
            vec![send(&upgrade), until("\r\n\r\n"), send("\x01ping"), until("pong\x02"), Step::Fin, Step::Eof],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
                until("\x01ping"),
                send("pong\x02"),
                Step::Eof,
                Step::Fin,
            ],
        ),
        row(
            "upgrade refused, then another request",
            vec![send(&upgrade), until("no"), send(&get("/2")), until("two"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send(&ok("no")), until("\r\n\r\n"), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "CONNECT",
            vec![
                send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"),
                until("\r\n\r\n"),
                send("\0anything\r\n"),
                until("back"),
                Step::Fin,
                Step::Eof,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 200 Connected\r\n\r\n"),
                until("anything\r\n"),
                send("back"),
                Step::Eof,
                Step::Fin,
            ],
        ),
    ]
}

pub(crate) fn opaque() -> Vec<Row> {
    vec![
        row(
            "the server speaks first",
            vec![until("ready\r\n"), send("QUIT\r\n"), Step::Eof, Step::Fin],
            vec![send("220 ready\r\n"), until("QUIT\r\n"), Step::Fin, Step::Eof],
        ),
        row(
            "binary, client first",
            vec![Step::Send(vec![0, 1, 2, 255]), until("\u{1}"), Step::Fin, Step::Eof],
            vec![Step::Until(vec![2, 255]), send("\u{1}"), Step::Eof, Step::Fin],
        ),
        row(
            "almost HTTP",
            vec![send("GET / HTTQ/1.1\r\n\r\n"), until("x"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send("x"), Step::Eof, Step::Fin],
        ),
        row(
            "a line that never became HTTP",
            vec![send("HELO shop"), Step::Fin, Step::Eof],
            vec![until("HELO shop"), Step::Eof, send("bye"), Step::Fin],
        ),
        row("nothing at all", vec![Step::Fin, Step::Eof], vec![Step::Eof, Step::Fin]),
    ]
}

pub(crate) fn table() -> Vec<Row> {
    [matrix(), requests(), responses(), conversations(), opaque()].into_iter().flatten().collect()
}
