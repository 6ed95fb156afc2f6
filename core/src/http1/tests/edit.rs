//! Our fields in a request head, and every other byte as it was.

use super::*;
use proptest::prelude::*;

fn check(edit: fn(&mut HeadEdit), request: &str, forwarded: &str) {
    let outcome = every_way_with(Limits::default(), Some(edit), &[client(request)]);
    assert_eq!(outcome.to_upstream, text(forwarded), "{request:?}");
}

fn add_trace(edit: &mut HeadEdit) {
    assert!(edit.add_field("traceparent", "00-1"));
}

#[test]
fn fields_are_added_before_the_empty_line() {
    check(
        |edit| {
            add_trace(edit);
            assert!(edit.add_field("X-Request-Id", "7"));
        },
        "PUT / HTTP/1.1\r\nHost: a\r\nB:  c\r\nContent-Length: 1\r\n\r\nx",
        "PUT / HTTP/1.1\r\nHost: a\r\nB:  c\r\nContent-Length: 1\r\ntraceparent: 00-1\r\nX-Request-Id: 7\r\n\r\nx",
    );
    check(|_| {}, "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\n\r\n");
    check(add_trace, "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\ntraceparent: 00-1\r\n\r\n");
}

#[test]
fn an_edit_does_not_reach_the_next_request() {
    fn first_only(edit: &mut HeadEdit) {
        // The edit is the same value for all requests: it must come empty.
        let seen = format!("{edit:?}").replace(&format!("at: {}", edit.at()), "at: 0");
        assert_eq!(seen, format!("{:?}", HeadEdit::default()));
        edit.remove_field("b");
        add_trace(edit);
    }
    let get = "GET / HTTP/1.1\r\nHost: a\r\n";
    check(
        first_only,
        &format!("{get}b: 1\r\n\r\n{get}c: 1\r\n\r\n"),
        &format!("{get}traceparent: 00-1\r\n\r\n{get}c: 1\r\ntraceparent: 00-1\r\n\r\n"),
    );
}

#[test]
fn nominations_of_our_fields_are_removed_and_no_others() {
    for (before, after) in [
        ("Connection: traceparent\r\n", ""),
        ("Connection:traceparent,TraceParent\r\n", ""),
        ("Connection: , traceparent ,\r\n", ""),
        ("Connection: keep-alive, traceparent\r\n", "Connection: keep-alive\r\n"),
        ("connection:  Traceparent , Keep-Alive \r\n", "connection: Keep-Alive \r\n"),
        ("Connection: a,\ttraceparent\t,b\r\n", "Connection: a,b\r\n"),
        ("Connection: a\r\nCONNECTION: traceparent\r\nConnection: b\r\n", "Connection: a\r\nConnection: b\r\n"),
        ("Connection: x-traceparent, traceparent2\r\n", "Connection: x-traceparent, traceparent2\r\n"),
        ("Connection: keep-alive , te\r\n", "Connection: keep-alive , te\r\n"),
        ("Connection:\r\n", "Connection:\r\n"),
        ("X-Connection: traceparent\r\n", "X-Connection: traceparent\r\n"),
    ] {
        let head = |fields: &str, added: &str| format!("GET / HTTP/1.1\r\nA: 1\r\n{fields}Host: a\r\n{added}\r\n");
        check(add_trace, &head(before, ""), &head(after, "traceparent: 00-1\r\n"));
        check(|edit| edit.protect("TRACEPARENT"), &head(before, ""), &head(after, ""));
    }
}

#[test]
fn fields_are_removed_in_any_case_but_not_those_that_frame() {
    check(
        |edit| {
            edit.remove_field("X-Old");
            for kept in ["Host", "content-length", "Connection", "Transfer-Encoding", "upgrade"] {
                edit.remove_field(kept);
            }
            add_trace(edit);
        },
        "PUT / HTTP/1.1\r\nx-old: 1\r\nHost: a\r\nX-OLD:2\r\nX-Older: 3\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        "PUT / HTTP/1.1\r\nHost: a\r\nX-Older: 3\r\nConnection: close\r\nContent-Length: 1\r\ntraceparent: 00-1\r\n\r\nx",
    );
}

#[test]
fn no_value_or_name_can_open_a_second_line() {
    let mut edit = HeadEdit::default();
    for value in ["a\r\nb: c", "\n", "\r", "a\0", "\u{7f}", "\u{1b}[0m"] {
        assert!(!edit.add_field("x", value), "{value:?}");
    }
    for name in ["", "a b", "a:", "a\r\n", "\u{e4}"] {
        assert!(!edit.add_field(name, "v"), "{name:?}");
        edit.protect(name);
        edit.remove_field(name);
    }
    assert_eq!(format!("{edit:?}"), format!("{:?}", HeadEdit::default()));
    assert!(edit.add_field("x", "\t gr\u{fc}n "));
}

proptest! {
    #[test]
    fn an_added_field_is_one_line(name in ".{0,6}", value in ".{0,12}") {
        let mut edit = HeadEdit::default();
        let added = edit.add_field(&name, &value);
        let mut out = Vec::new();
        edit.write(b"GET / HTTP/1.0\r\n\r\n", &[], &mut out);
        let lines = out.iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(lines, if added { 3 } else { 2 });
    }
}
