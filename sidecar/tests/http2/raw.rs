//! Bytes that no library would send.

use crate::support::{Sidecar, Sink};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
pub const SETTINGS_ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];

pub fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// HEADERS with END_STREAM and END_HEADERS: `GET http /` at `a`, then literal fields.
fn headers(stream: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x41, 1, b'a'];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, 5, stream, &block)
}

/// The next frame that is none of SETTINGS, WINDOW_UPDATE and PING.
fn next(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        stream.read_exact(&mut payload).ok()?;
        if !matches!(head[3], 4 | 6 | 8) {
            return Some((head[3], head[8], payload));
        }
    }
}

/// A sidecar with its sink, a client that is connected to it, and where the server listens that the test plays.
fn sidecar() -> (Sink, Sidecar, TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sink = Sink::start();
    let sidecar = Sidecar::start(listener.local_addr().expect("address"), &sink, "");
    let client = TcpStream::connect(sidecar.inbound).expect("connect");
    (sink, sidecar, client, listener)
}

/// An origin that says its SETTINGS and then notes what it is sent until the end.
fn origin(listener: &TcpListener) -> std::thread::JoinHandle<Vec<u8>> {
    let listener = listener.try_clone().expect("clone");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(&[SETTINGS, SETTINGS_ACK].concat()).expect("settings");
        let mut seen = Vec::new();
        let _ = stream.read_to_end(&mut seen);
        seen
    })
}

#[test]
fn malformed_requests_are_reset_and_recorded_and_do_not_go_upstream() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    let origin = origin(&listener);
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    client.write_all(&[PREFACE, SETTINGS, SETTINGS_ACK].concat()).expect("preface");
    let bad: &[&[(&str, &str)]] = &[
        &[("connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("te", "gzip")],
        &[(":method", "GET")],
        &[("content-length", "1")],
    ];
    for (at, fields) in bad.iter().enumerate() {
        let stream = u8::try_from(2 * at + 1).expect("few");
        client.write_all(&headers(stream, fields)).expect("headers");
        assert_eq!(next(&mut client), Some((3, stream, vec![0, 0, 0, 1])), "{fields:?}: RST_STREAM, PROTOCOL_ERROR");
    }
    drop(client);
    let seen = origin.join().expect("the origin");
    assert!(seen.starts_with(PREFACE), "{seen:?}");
    let has_headers = seen.windows(5).any(|w| w == [0x82, 0x86, 0x84, 0x41, 1]);
    assert!(!has_headers, "a request went upstream: {seen:?}");
    let records = sink.wait_for(bad.len());
    assert_eq!(records.len(), bad.len(), "EV-1");
    assert!(records.iter().all(|r| r["refusal"] == "malformed_request" && r["cause"] == "rejected"), "{records:#?}");
}

#[test]
fn a_client_that_breaks_the_protocol_loses_its_connection_and_is_recorded() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    let origin = origin(&listener);
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    // DATA of a stream that was never opened.
    let data = frame(0, 0, 1, b"x");
    client.write_all(&[PREFACE, SETTINGS, SETTINGS_ACK, &data].concat()).expect("preface");
    let (kind, _, payload) = next(&mut client).expect("a frame");
    assert_eq!((kind, &payload[4..8]), (7, [0, 0, 0, 1].as_slice()), "GOAWAY, PROTOCOL_ERROR");
    origin.join().expect("the origin");
    let records = sink.wait_for(1);
    let of = |key: &str| records[0][key].as_str();
    assert_eq!((records.len(), of("refusal"), of("proto"), of("cause")), (1, "protocol_error", "http/2", "rejected"));
}

#[test]
fn a_server_may_speak_first() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    let (mut server, _) = listener.accept().expect("accept");
    server.write_all(SETTINGS).expect("settings");
    server.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    client.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    assert!(client.read(&mut [0; 1]).is_err(), "nothing is passed on before the client's preface");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    client.write_all(&[PREFACE, SETTINGS, &headers(1, &[])].concat()).expect("preface");
    let mut preface = vec![0; PREFACE.len()];
    server.read_exact(&mut preface).expect("the preface");
    assert_eq!(next(&mut server).map(|(kind, stream, _)| (kind, stream)), Some((1, 1)));
    // 200 in a head that is all of the answer.
    server.write_all(&[SETTINGS_ACK, &frame(1, 5, 1, &[0x88])].concat()).expect("an answer");
    assert_eq!(next(&mut client).map(|(kind, stream, _)| (kind, stream)), Some((1, 1)));
    assert_eq!(sink.wait_for(1)[0]["proto"], "http/2");
}

#[test]
fn a_server_that_speaks_first_and_a_client_that_says_nothing_are_no_http2() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    let (mut server, _) = listener.accept().expect("accept");
    server.write_all(SETTINGS).expect("settings");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let mut seen = [0; 9];
    client.read_exact(&mut seen).expect("after some seconds it goes on as it came");
    assert_eq!(seen, SETTINGS);
    drop((client, server));
    assert_eq!(sink.wait_for(1)[0]["proto"], "tcp");
}

#[test]
fn a_server_that_speaks_no_http2_is_told_and_its_client_sees_a_reset() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    client.write_all(&[PREFACE, SETTINGS].concat()).expect("preface");
    let (mut server, _) = listener.accept().expect("accept");
    let mut preface = vec![0; PREFACE.len()];
    server.read_exact(&mut preface).expect("the preface");
    server.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").expect("an answer");
    assert!(client.read(&mut [0; 1]).is_err(), "a reset");
    let records = sink.wait_for(1);
    assert_eq!((records[0]["refusal"].as_str(), records[0]["cause"].as_str()), ("not_http2", "protocol_error"));
}

#[test]
fn a_malformed_answer_becomes_502_and_is_recorded() {
    let (sink, _sidecar, mut client, listener) = sidecar();
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    client.write_all(&[PREFACE, SETTINGS, SETTINGS_ACK, &headers(1, &[])].concat()).expect("a request");
    let (mut server, _) = listener.accept().expect("accept");
    server.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    server.write_all(&[SETTINGS, SETTINGS_ACK].concat()).expect("settings");
    let mut preface = vec![0; PREFACE.len()];
    server.read_exact(&mut preface).expect("the preface");
    assert_eq!(next(&mut server).map(|(kind, stream, _)| (kind, stream)), Some((1, 1)));
    // 200, and a field that belongs to a connection.
    let bad = [&[0x88, 0, 10], b"connection".as_slice(), &[5], b"close"].concat();
    server.write_all(&frame(1, 5, 1, &bad)).expect("an answer");
    let (kind, stream, _) = next(&mut client).expect("an answer");
    assert_eq!((kind, stream), (1, 1));
    let records = sink.wait_for(1);
    let of = |key: &str| records[0][key].as_str();
    assert_eq!((of("status"), of("refusal"), of("cause")), ("502", "malformed_response", "protocol_error"));
}
