//! Handshakes written out as records; real ones stand in `sidecar/tests/tls.rs`.

use super::super::CLIENT_HELLO_BYTES_MAX;
use super::HandshakeStatus::{Completed, Failed, Incomplete};
use super::Side::{Client, Server};
use super::*;
use proptest::prelude::*;

type Step = (Side, Vec<u8>);

fn record(side: Side, kind: u8, payload: &[u8]) -> Step {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    (side, [&[kind, 3, 3], &length[..], payload].concat())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn hello() -> Step {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    record(Client, HANDSHAKE, &message(1, &body))
}

/// ServerHello with these extensions.
fn server_message(random: &[u8; 32], cipher_suite: u16, extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions.len()).expect("short").to_be_bytes();
    let suite = cipher_suite.to_be_bytes();
    message(2, &[&[3, 3][..], random, &[0], &suite, &[0], &length, extensions].concat())
}

const VERSION_1_3: &[u8] = &[0, 43, 0, 2, 3, 4];
const ALPN_H2: &[u8] = &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'];

fn modern() -> Step {
    record(Server, HANDSHAKE, &server_message(&[1; 32], 0x1301, VERSION_1_3))
}

fn retry() -> Step {
    record(Server, HANDSHAKE, &server_message(&RETRY_RANDOM, 0x1301, VERSION_1_3))
}

/// Of TLS 1.2, with more messages in the same record.
fn legacy() -> Step {
    let rest = [message(11, &[0; 100]), message(14, &[])].concat();
    record(Server, HANDSHAKE, &[server_message(&[1; 32], 0xc02f, ALPN_H2), rest].concat())
}

fn ccs(side: Side) -> Step {
    record(side, CHANGE_CIPHER_SPEC, &[1])
}

fn data(side: Side, bytes: usize) -> Step {
    record(side, APPLICATION_DATA, &vec![0; bytes])
}

fn plain(side: Side, bytes: usize) -> Step {
    record(side, HANDSHAKE, &vec![0; bytes])
}

fn alert(side: Side, level: u8, description: u8) -> Step {
    record(side, ALERT, &[level, description])
}

/// Everything that it tells.
fn told(watch: &Handshake) -> String {
    let status = watch.status().map_or("none", HandshakeStatus::as_str);
    let alert = watch.alert().map(|alert| alert.to_string()).unwrap_or_default();
    let (version, alpn) = (watch.version().unwrap_or("-"), watch.alpn_selected().unwrap_or("-"));
    format!("{status} {version} {alpn} {alert}").trim_end().to_owned()
}

/// Feeds the steps in pieces of at most so many bytes. An answer is final once it is completed or failed.
fn feed(steps: &[Step], piece_bytes: usize) -> Handshake {
    let mut watch = Handshake::default();
    let mut known = None;
    for (side, bytes) in steps {
        for piece in bytes.chunks(piece_bytes.max(1)) {
            match side {
                Client => watch.from_client(piece),
                Server => watch.from_server(piece),
            }
            assert!(watch.server_hello.len() <= SERVER_HELLO_BYTES_MAX);
            assert!(
                watch.client_hello.as_ref().is_none_or(|bytes| bytes.len() <= CLIENT_HELLO_BYTES_MAX + piece_bytes)
            );
            assert!(known.is_none() || known == Some(told(&watch)), "{known:?} became {}", told(&watch));
            known = matches!(watch.state, State::Over(Completed | Failed)).then(|| told(&watch));
        }
    }
    watch
}

fn check(name: &str, steps: &[Step], wanted: &str) {
    for piece_bytes in [1, 2, 3, 4, 5, 6, 7, 50, 100_000] {
        assert_eq!(told(&feed(steps, piece_bytes)), wanted, "{name}, {piece_bytes} bytes at once");
    }
}

#[test]
fn handshakes_of_tls_1_3() {
    let flight = || [hello(), modern(), ccs(Server), data(Server, 900), ccs(Client), data(Client, 53)];
    let with = |more: &[Step]| [&flight()[..], more].concat();
    check("only a hello", &[hello()], "incomplete - -");
    check("the server is not accepted yet", &[hello(), modern(), data(Server, 900)], "incomplete 1.3 -");
    check("accepted by the client alone", &flight(), "incomplete 1.3 -");
    check("a ticket", &with(&[data(Server, 250)]), "completed 1.3 -");
    check("an answer", &with(&[data(Client, 100), data(Server, 18), data(Server, 19)]), "completed 1.3 -");
    check("the client goes at once", &with(&[data(Client, 19)]), "completed 1.3 -");
    check("both go at once", &with(&[data(Client, 19), data(Server, 19)]), "completed 1.3 -");
    check(
        "the server refuses the client",
        &with(&[data(Client, 80), data(Server, 19)]),
        "failed 1.3 - server:encrypted",
    );
    check("the server refuses in its flight", &[hello(), modern(), data(Server, 19)], "failed 1.3 - server:encrypted");
    let refusal = [hello(), modern(), data(Server, 900), ccs(Client), data(Client, 19)];
    check("the client refuses", &refusal, "failed 1.3 - client:encrypted");
    let refusal = [hello(), modern(), data(Server, 900), alert(Client, 2, 48)];
    check("the client refuses in the clear", &refusal, "failed 1.3 - client:unknown_ca");
    check("the server refuses the hello", &[hello(), alert(Server, 2, 70)], "failed - - server:protocol_version");
    check("no such alert", &[hello(), alert(Server, 2, 200)], "failed - - server:200");
    let again = [
        hello(),
        retry(),
        ccs(Server),
        ccs(Client),
        hello(),
        modern(),
        data(Server, 9),
        data(Client, 53),
        data(Server, 30),
    ];
    check("HelloRetryRequest", &again, "completed 1.3 -");
    check("HelloRetryRequest alone", &again[..5], "incomplete - -");
    let short_tag = record(Server, HANDSHAKE, &server_message(&[1; 32], 0x1305, VERSION_1_3));
    check("a short tag", &[hello(), short_tag, data(Server, 99), data(Client, 11)], "failed 1.3 - client:encrypted");
}

#[test]
fn early_data_proves_nothing() {
    let begin =
        [hello(), ccs(Client), data(Client, 500), modern(), data(Server, 99), data(Client, 500), data(Server, 99)];
    check("it is under way", &begin, "incomplete 1.3 -");
    let end = [&begin[..], &[data(Client, 21), data(Client, 53), data(Server, 99)]].concat();
    check("it has ended", &end, "completed 1.3 -");
    let refused = [&begin[..], &[data(Client, 69), data(Server, 99)]].concat();
    check("it was refused, the handshake was not", &refused, "completed 1.3 -");
}

#[test]
fn handshakes_of_tls_1_2() {
    let both = [
        hello(),
        legacy(),
        plain(Client, 70),
        ccs(Client),
        plain(Client, 40),
        plain(Server, 200),
        ccs(Server),
        plain(Server, 40),
    ];
    check("whole", &both, "completed 1.2 h2");
    check("without the server's Finished", &both[..7], "incomplete 1.2 h2");
    check("what comes later", &[&both[..], &[alert(Client, 2, 40), data(Server, 9)]].concat(), "completed 1.2 h2");
    let resumed = [hello(), legacy(), ccs(Server), plain(Server, 40), ccs(Client), plain(Client, 40)];
    check("resumed", &resumed, "completed 1.2 h2");
    check("resumed, half", &resumed[..5], "incomplete 1.2 h2");
    check("refused by the client", &[hello(), legacy(), alert(Client, 2, 42)], "failed 1.2 h2 client:bad_certificate");
    let refused = [&both[..5], &[alert(Server, 2, 116)]].concat();
    check("refused by the server", &refused, "failed 1.2 h2 server:certificate_required");
    let encrypted = [&both[..5], &[record(Client, ALERT, &[0; 26])]].concat();
    check("an encrypted alert", &encrypted, "failed 1.2 h2 client:encrypted");
    let warned = [&[hello(), alert(Server, 1, 112)], &both[1..]].concat();
    check("a warning is not the end", &warned, "completed 1.2 h2");
    check("a farewell is", &[hello(), alert(Server, 1, 0)], "failed - - server:close_notify");
    let old = record(Server, HANDSHAKE, &message(2, &[&[3, 1][..], &[1; 32], &[0, 0, 47, 0]].concat()));
    check("TLS 1.0, no extensions", &[hello(), old], "incomplete 1.0 -");
}

#[test]
fn what_is_no_tls() {
    check("the server speaks HTTP", &[hello(), (Server, b"HTTP/1.1 400 Bad Request\r\n".to_vec())], "incomplete - -");
    check("the client is none", &[(Client, b"\x16\x03\x01\x00\x04\x02\x00\x00\x00".to_vec())], "none - -");
    let other = record(Server, HANDSHAKE, &message(4, &[0; 50]));
    check("not a ServerHello", &[hello(), other, modern(), data(Client, 99), data(Server, 99)], "incomplete - -");
    let cut = record(Server, HANDSHAKE, &message(2, &[0; 20]));
    check("a cut ServerHello", &[hello(), cut, modern()], "incomplete - -");
    let long: Vec<Step> = (0..3).map(|_| record(Server, HANDSHAKE, &message(2, &[0; 1 << 14])[..1 << 14])).collect();
    check("a long ServerHello", &[&[hello()], &long[..]].concat(), "incomplete - -");
    check("data before ServerHello", &[hello(), data(Server, 9), modern()], "incomplete - -");
}

#[test]
fn nothing_is_kept_after_the_end() {
    let watch = feed(&[hello(), modern(), data(Server, 99), data(Client, 53), data(Server, 99)], 7);
    assert_eq!(watch.status(), Some(Completed));
    assert!(watch.client_hello.is_none() && watch.server_hello.capacity() == 0);
    let [client, server] = &watch.alert_bytes;
    assert_eq!(client.capacity() + server.capacity(), 0);
    assert_eq!(feed(&[], 1).status(), Some(Incomplete));
}

proptest! {
    #[test]
    fn any_records_in_any_pieces_tell_the_same(
        steps in proptest::collection::vec((any::<bool>(), 18_u8..26, 0_usize..60, any::<u8>()), 0..12),
        begin in 0_usize..4,
        piece_bytes in 1_usize..20,
    ) {
        let mut all = [hello(), modern()].to_vec();
        if begin == 1 {
            all[1] = legacy();
        }
        all.truncate(2 - begin / 2);
        let any_record = |(client, kind, bytes, fill): (bool, u8, usize, u8)| {
            record(if client { Client } else { Server }, kind, &vec![fill; bytes])
        };
        all.extend(steps.into_iter().map(any_record));
        prop_assert_eq!(told(&feed(&all, piece_bytes)), told(&feed(&all, 100_000)));
    }
}

#[test]
fn an_alert_ahead_of_the_whole_client_hello_is_told_whatever_the_client_sends_then() {
    let (_, hello) = hello();
    let (begin, _) = hello.split_at(20);
    let nonsense = record(Client, APPLICATION_DATA, &[0; 8]);
    let steps = [(Client, begin.to_vec()), alert(Server, 2, 40), (Client, vec![0; 40]), nonsense];
    for piece_bytes in [1, 7, 100_000] {
        let watch = feed(&steps, piece_bytes);
        assert_eq!((watch.status(), watch.alert().is_some()), (Some(Failed), true), "{piece_bytes}");
    }
}
