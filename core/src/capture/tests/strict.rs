//! Strict and Closed: what waits for which record, and what is refused (rules T1 to T4).

use super::stages::{Fields, field, records};
use super::*;

/// One connection of HTTP/1 under a policy, and what its last call let out.
struct Http {
    shell: TestShell,
    capture: HttpCapture<TestShell>,
    session: Session,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Http {
    fn new(delivery: DeliveryMode, failure: FailureMode) -> Self {
        let probes = DocumentRule {
            name: "probes".into(),
            matches: RuleMatch { path_prefixes: vec!["/healthz".into()], ..RuleMatch::default() },
            level: Level::None,
        };
        let shell = shell_of(vec![probes], delivery, failure);
        let capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
        Self { shell, capture, session: Session::new(Limits::default()), up: Vec::new(), down: Vec::new() }
    }

    fn strict_open() -> Self {
        Self::new(DeliveryMode::Strict, FailureMode::Open)
    }

    fn client(&mut self, text: &str) -> crate::http1::Next {
        self.up.clear();
        self.down.clear();
        self.session.client_bytes(text.as_bytes(), &mut self.capture, &mut self.up, &mut self.down).next
    }

    /// What waits of the answer: from where, for which record.
    fn upstream(&mut self, text: &str) -> Option<(usize, Receipt)> {
        self.up.clear();
        self.down.clear();
        let _ = self.session.upstream_bytes(text.as_bytes(), &mut self.capture, &mut self.down, &mut self.up);
        self.capture.take_held_down().map(|hold| (hold.from, hold.until))
    }

    fn records(&self) -> Vec<Fields> {
        records(&self.shell)
    }

    /// `typ` and `stage` of each record.
    fn kinds(&self) -> Vec<String> {
        self.records()
            .iter()
            .map(|r| format!("{} {}", field(r, "typ"), field(r, "stage")).trim_end().to_owned())
            .collect()
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";

#[test]
fn t1_an_answer_that_is_read_whole_waits_for_its_exchange_alone() {
    let mut http = Http::strict_open();
    let _ = http.client(GET);
    assert_eq!(http.upstream(OK), Some((0, Receipt::At(1))));
    assert_eq!(http.kinds(), ["exchange"]);
    assert_eq!(http.capture.take_held_down(), None, "it is held once");
}

#[test]
fn t1_an_answer_that_goes_on_waits_for_a_stage_and_what_follows_is_not_held() {
    let mut http = Http::strict_open();
    let _ = http.client(GET);
    let (head, body) = OK.split_at(OK.len() - 1);
    assert_eq!(http.upstream(head), Some((0, Receipt::At(1))));
    assert_eq!(http.upstream(body), None);
    assert_eq!(http.kinds(), ["stage answered", "exchange"]);
    let records = http.records();
    let [stage, exchange] = records.as_slice() else { panic!("two records") };
    assert_eq!((field(stage, "xid"), field(stage, "status")), (field(exchange, "xid"), "200"));
    assert_eq!(field(stage, "res_bytes"), "1", "what was read so far");
}

#[test]
fn t1_in_every_split_the_answer_is_held_once_where_it_begins() {
    let answer = format!("HTTP/1.1 103 Early\r\n\r\n{OK}");
    let begins = answer.find("HTTP/1.1 200").expect("the final answer");
    for at in 0..=answer.len() {
        let mut http = Http::strict_open();
        let _ = http.client(GET);
        let (first, second) = answer.split_at(at);
        let mut sent = 0;
        let mut held = Vec::new();
        for piece in [first, second] {
            if let Some((from, until)) = http.upstream(piece) {
                assert!(matches!(until, Receipt::At(_)), "{at}");
                held.push(sent + from);
            }
            sent += http.down.len();
        }
        assert_eq!(held, [begins], "split at {at}");
        assert_eq!(sent, answer.len());
    }
}

#[test]
fn t1_1xx_is_never_held() {
    let mut http = Http::strict_open();
    let _ = http.client("POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(http.upstream("HTTP/1.1 100 Continue\r\n\r\n"), None);
    assert_eq!(http.kinds(), [""; 0]);
}

#[test]
fn t1_a_101_waits_and_the_tunnel_does_not() {
    let mut http = Http::strict_open();
    let _ = http.client("GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(http.upstream(switch), Some((0, Receipt::At(1))));
    assert_eq!(http.kinds(), ["stage answered"]);
    assert_eq!(http.upstream("frame"), None);
    http.capture.tick(http.shell.now());
    assert_eq!(http.kinds(), ["stage answered"], "it was shown, so it is not shown as opened at once");
}

#[test]
fn t1_the_end_of_an_earlier_answer_in_the_same_step_is_not_held() {
    let mut http = Http::strict_open();
    let _ = http.client(&format!("{GET}{GET}"));
    let (head, end) = OK.split_at(OK.len() - 1);
    assert_eq!(http.upstream(head), Some((0, Receipt::At(1))));
    assert_eq!(http.upstream(&format!("{end}{OK}")), Some((1, Receipt::At(3))));
    assert_eq!(http.kinds(), ["stage answered", "exchange", "exchange"]);
}

#[test]
fn t1_several_answers_of_one_step_wait_for_the_last_of_their_records() {
    let mut http = Http::strict_open();
    let _ = http.client(&format!("{GET}{GET}"));
    assert_eq!(http.upstream(&format!("{OK}{OK}")), Some((0, Receipt::At(2))));
}

#[test]
fn t2_the_request_waits_for_its_beginning_only_under_strict_and_closed() {
    for (delivery, failure, waits) in [
        (DeliveryMode::Strict, FailureMode::Closed, true),
        (DeliveryMode::Strict, FailureMode::Open, false),
        (DeliveryMode::Async, FailureMode::Closed, false),
    ] {
        let mut http = Http::new(delivery, failure);
        let _ = http.client(GET);
        let held = http.capture.take_held_up();
        assert_eq!(held.is_some(), waits, "{delivery:?} {failure:?}");
        let Some(held) = held else { continue };
        assert_eq!((held.from, held.seq, held.until, held.closed), (0, 0, Receipt::At(101), true));
        let marker = http.shell.state.borrow().markers.join("");
        for part in
            ["\"cause\":\"crash_unknown\"", "\"outcome\":\"unknown\"", "\"path\":\"/a\"", "\"rule\":\"default\""]
        {
            assert!(marker.contains(part), "{part} in {marker}");
        }
        let _ = http.upstream(OK);
        assert_eq!(http.shell.state.borrow().marked_ends, [1]);
    }
}

#[test]
fn t2_the_body_before_a_pipelined_request_is_not_held() {
    let mut http = Http::new(DeliveryMode::Strict, FailureMode::Closed);
    let _ = http.client("POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\n");
    assert!(http.capture.take_held_up().is_some());
    let _ = http.client(&format!("abc{GET}"));
    let held = http.capture.take_held_up().expect("the second waits");
    assert_eq!((held.from, held.seq), (3, 1));
}

#[test]
fn t4_what_cannot_be_recorded_is_refused_under_closed_in_every_split() {
    for delivery in [DeliveryMode::Async, DeliveryMode::Strict] {
        for at in 0..=GET.len() {
            let mut http = Http::new(delivery, FailureMode::Closed);
            http.shell.state.borrow_mut().is_full = true;
            let (first, second) = GET.split_at(at);
            let (mut up, mut down) = (Vec::new(), Vec::new());
            for piece in [first, second] {
                let _ = http.client(piece);
                up.extend_from_slice(&http.up);
                down.extend_from_slice(&http.down);
            }
            assert!(up.is_empty(), "nothing goes upstream: split at {at}");
            assert!(down.starts_with(b"HTTP/1.1 503 "), "split at {at}");
            assert_eq!(http.session.phase(), crate::http1::Phase::Over);
            assert_eq!((http.capture.take_held_up(), http.capture.take_held_down()), (None, None));
            assert_eq!(http.shell.state.borrow().refused, ["audit_failed"]);
            assert_eq!(http.shell.state.borrow().counted, [(Outcome::Failure, true)]);
        }
    }
}

#[test]
fn t4_open_passes_what_cannot_be_recorded_and_level_none_passes_under_closed() {
    let probe = "GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n";
    for (delivery, failure, request) in [
        (DeliveryMode::Strict, FailureMode::Open, GET),
        (DeliveryMode::Async, FailureMode::Open, GET),
        (DeliveryMode::Strict, FailureMode::Closed, probe),
        (DeliveryMode::Async, FailureMode::Closed, probe),
    ] {
        let mut http = Http::new(delivery, failure);
        http.shell.state.borrow_mut().is_full = true;
        let _ = http.client(request);
        assert!(!http.up.is_empty(), "{request}");
        assert_eq!(http.capture.take_held_up(), None);
        let held = http.upstream(OK);
        assert!(matches!(held, None | Some((0, Receipt::Never))), "{held:?}");
        assert_eq!(http.down, OK.as_bytes());
    }
}

#[test]
fn t4_a_request_that_waited_too_long_is_refused_behind_the_answers_before_it() {
    let mut http = Http::new(DeliveryMode::Strict, FailureMode::Closed);
    let _ = http.client(GET);
    let _ = http.capture.take_held_up();
    let _ = http.client(&format!("{GET}{GET}"));
    let held = http.capture.take_held_up().expect("both wait");
    let mut down = Vec::new();
    let next = http.session.refuse_requests(held.seq, &mut http.capture, &mut down);
    assert_eq!((next, down.as_slice()), (crate::http1::Next::Continue, &b""[..]), "the first is not answered yet");
    let _ = http.upstream(OK);
    let text = String::from_utf8_lossy(&http.down).into_owned();
    assert!(text.starts_with(OK) && text[OK.len()..].starts_with("HTTP/1.1 503 "), "{text}");
    let refusals: Vec<_> = http.records().iter().map(|r| field(r, "refusal").to_owned()).collect();
    assert_eq!(refusals, ["", "audit_failed", "audit_failed"]);
}

#[test]
fn t4_an_answer_that_waited_too_long_becomes_503_and_its_record_says_so() {
    let mut http = Http::new(DeliveryMode::Strict, FailureMode::Closed);
    let _ = http.client(GET);
    let (head, _) = OK.split_at(OK.len() - 1);
    assert!(http.upstream(head).is_some());
    let mut down = Vec::new();
    let next = http.session.refuse_answers(&mut http.capture, &mut down);
    assert_eq!(next, crate::http1::Next::Close);
    assert!(down.starts_with(b"HTTP/1.1 503 "));
    let records = http.records();
    let last = records.last().expect("a record");
    assert_eq!(
        (field(last, "status"), field(last, "refusal"), field(last, "cause")),
        ("503", "audit_failed", "rejected")
    );
}

#[test]
fn t3_an_opaque_connection_is_shown_before_its_first_bytes() {
    for (delivery, failure) in [(DeliveryMode::Strict, FailureMode::Closed), (DeliveryMode::Async, FailureMode::Closed)]
    {
        let shell = shell_of(Vec::new(), delivery, failure);
        let start = shell.now();
        let mut capture = OpaqueCapture::new(shell.clone(), conn(Direction::Inbound), start, "tcp");
        let held = capture.hold_first();
        assert_eq!(held.map(|held| held.until), (delivery == DeliveryMode::Strict).then_some(Receipt::At(1)));
        assert!(!capture.is_refused());
        shell.state.borrow_mut().is_full = true;
        assert!(capture.is_refused());
        for seconds in [100, 200] {
            assert!(!capture.has_failed());
            shell.state.borrow_mut().seconds = seconds;
            capture.tick(shell.now());
        }
        assert!(capture.has_failed(), "two intervals failed");
        capture.finish(OpaqueEnd::Closed);
    }
}
