//! The order of things: early answers, ends of either side, upgrades, limits, aborts.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const CONNECT: &str = "CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n";

fn ends_of(steps: &[Step]) -> Vec<End> {
    every_way(steps).ends.into_iter().map(|(_, end)| end).collect()
}

#[test]
fn an_early_answer_leaves_at_once_and_the_exchange_ends_with_its_request() {
    let steps = [client(POST), client("ab"), upstream(OK), client("cd"), client(GET), upstream(OK)];
    let outcome = every_way(&steps);
    assert_eq!(outcome.to_upstream, text(format!("{POST}abcd{GET}")));
    assert_eq!(outcome.to_client, text(format!("{OK}{OK}")));
    assert_eq!(outcome.ends, [(0, End::Complete), (1, End::Complete)]);

    let mut shell = Shell::new(Limits::default(), None);
    shell.step(&client(POST));
    shell.step(&upstream(OK));
    assert_eq!(shell.session.in_flight(), 1);
    assert_eq!(shell.recorder.ends, []);
    shell.step(&client("abcd"));
    assert_eq!(shell.recorder.ends, [(0, End::Complete)]);
}

#[test]
fn ev_1_an_early_answer_is_complete_however_the_connection_ends() {
    for (last, verdicts) in [
        (vec![Step::ClientEof], vec![Next::Close]),
        (vec![Step::UpstreamEof], vec![Next::ShutdownClientWrite]),
        (vec![Step::UpstreamEof, client("cd")], vec![Next::ShutdownClientWrite, Next::Close]),
        (vec![Step::UpstreamEof, Step::ClientEof], vec![Next::ShutdownClientWrite, Next::Close]),
        (vec![upstream("more")], vec![Next::Close]),
        (vec![], vec![]),
    ] {
        let outcome = every_way(&[&[client(POST), client("ab"), upstream(OK)], &last[..]].concat());
        assert_eq!(outcome.ends, [(0, End::Complete)], "{last:?}");
        assert_eq!(outcome.to_client, text(OK), "{last:?}");
        assert_eq!(outcome.verdicts, verdicts, "{last:?}");
    }
}

#[test]
fn nothing_is_read_as_a_request_after_the_upstream_has_closed() {
    let steps = [client(POST), upstream("HTTP/1.1 400 No\r\n\r\nx"), Step::UpstreamEof, client(format!("abcd{GET}"))];
    let outcome = every_way(&steps);
    assert_eq!(outcome.to_upstream, text(format!("{POST}abcd")));
    assert_eq!(outcome.ends, [(0, End::Complete)]);
    assert_eq!(outcome.verdicts, [Next::ShutdownClientWrite, Next::Close]);
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let outcome = every_way(&[client(format!("{GET}{GET}")), Step::ClientEof, upstream(OK), upstream(OK)]);
    assert_eq!(outcome.to_client, text(format!("{OK}{OK}")));
    assert_eq!(outcome.ends, [(0, End::Complete), (1, End::Complete)]);
    assert_eq!(outcome.verdicts, [Next::ShutdownUpstreamWrite, Next::Close]);
}

#[test]
fn a_cut_request_may_still_be_answered() {
    let outcome = every_way(&[client(POST), client("ab"), Step::ClientEof, upstream(OK)]);
    assert_eq!(outcome.ends, [(0, End::Complete)]);
    assert_eq!(outcome.verdicts, [Next::ShutdownUpstreamWrite, Next::Close]);
    assert_eq!(ends_of(&[client(POST), client("ab"), Step::ClientEof, Step::UpstreamEof]), [End::ClientGone]);
}

#[test]
fn an_idle_side_that_closes_closes_both() {
    for last in [Step::ClientEof, Step::UpstreamEof, upstream("HTTP/1.1 408 Timeout\r\n\r\n")] {
        let outcome = every_way(&[client(GET), upstream(OK), last]);
        assert_eq!(outcome.to_client, text(OK));
        assert_eq!(outcome.ends, [(0, End::Complete)]);
        assert_eq!(outcome.verdicts, [Next::Close]);
    }
    assert_eq!(every_way(&[Step::UpstreamEof]).verdicts, [Next::Close]);
    assert_eq!(every_way(&[upstream("220 smtp\r\n")]).to_client, "");
}

#[test]
fn ev_1_an_upstream_that_goes_leaves_the_answers_open() {
    for cut in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "HTTP/1.1 100 C\r\n\r\n"] {
        let outcome = every_way(&[client(format!("{GET}{GET}")), upstream(cut), Step::UpstreamEof]);
        assert_eq!(outcome.ends, [(0, End::UpstreamGone), (1, End::UpstreamGone)], "{cut:?}");
        assert_eq!(outcome.verdicts, [Next::Close], "{cut:?}");
        let whole = if cut.contains("\r\n\r\n") { cut } else { "" };
        assert_eq!(outcome.to_client, text(whole), "a head that is not whole is not forwarded");
    }
    let until_eof = "HTTP/1.1 200 OK\r\n\r\nall";
    let steps = [client(format!("{GET}{GET}")), upstream(until_eof), Step::UpstreamEof];
    assert_eq!(ends_of(&steps), [End::Complete, End::UpstreamGone]);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
    assert_eq!(ends_of(&[client(GET), upstream(chunked), Step::UpstreamEof]), [End::UpstreamGone]);
}

#[test]
fn a_refused_request_is_answered_behind_a_body_that_ends_by_eof() {
    let steps = [client(format!("{GET}BAD\r\n\r\n")), upstream("HTTP/1.0 200 OK\r\n\r\nall"), Step::UpstreamEof];
    let outcome = every_way(&steps);
    assert!(outcome.to_client.contains("all") && outcome.to_client.contains("400 Bad Request"));
    assert_eq!(outcome.ends, [(0, End::Complete), (1, End::RequestRefused(Refusal::MalformedHead))]);
    let gone = [client(format!("{GET}BAD\r\n\r\n")), Step::UpstreamEof];
    assert_eq!(ends_of(&gone), [End::UpstreamGone, End::RequestRefused(Refusal::MalformedHead)]);
}

#[test]
fn ev_1_a_head_that_never_ends_is_an_exchange_too() {
    for last in [vec![Step::ClientEof], vec![Step::UpstreamEof], vec![]] {
        let outcome = every_way(&[&[client("GET /a HTTP/1.1\r\nHo")], &last[..]].concat());
        let end = match last.first() {
            Some(Step::ClientEof) => End::ClientGone,
            Some(_) => End::UpstreamGone,
            None => End::Drained,
        };
        assert_eq!(outcome.ends, [(0, end)]);
        assert_eq!(outcome.seen.unparsed, ["GET /a HTTP/1.1"]);
        assert_eq!(outcome.to_upstream, "");
    }
    let outcome = every_way(&[client(format!("{GET}GE")), Step::ClientEof, upstream(OK)]);
    assert_eq!(outcome.ends, [(1, End::ClientGone), (0, End::Complete)]);
    assert_eq!(outcome.verdicts, [Next::ShutdownUpstreamWrite, Next::Close]);
}

#[test]
fn an_upgrade_opens_a_tunnel_and_holds_back_until_then() {
    for (request, answer) in [
        (UPGRADE, SWITCH),
        (CONNECT, "HTTP/1.1 200 Connected\r\n\r\n"),
        (CONNECT, "HTTP/1.1 299 Odd\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let before = run_with(Limits::default(), None, &[client(format!("{request}\x01GET"))]);
        assert_eq!(before.to_upstream, text(request), "no byte beyond the request");
        let answer = format!("HTTP/1.1 103 E\r\n\r\n{answer}");
        let steps = [
            client(format!("{request}\x01GET")),
            upstream(format!("{answer}\x02HTTP")),
            client("\0\r\n"),
            Step::ClientEof,
            upstream("more"),
            Step::UpstreamEof,
        ];
        let outcome = every_way(&steps);
        assert_eq!(outcome.to_upstream, text(format!("{request}\x01GET\0\r\n")));
        assert_eq!(outcome.to_client, text(format!("{answer}\x02HTTPmore")));
        assert_eq!(outcome.seen.tunnel, (7, 9));
        assert_eq!(outcome.ends, [(0, End::TunnelClosed)]);
        assert_eq!(outcome.verdicts, [Next::ShutdownUpstreamWrite, Next::Close]);
    }
}

#[test]
fn ev_1_a_tunnel_that_is_cut_ends_as_it_is_told() {
    let start = [client(UPGRADE), upstream(SWITCH), upstream("x")];
    assert_eq!(ends_of(&start), [End::Drained]);
    let outcome = every_way(&[&start[..], &[Step::UpstreamEof, client("y"), Step::ClientEof]].concat());
    assert_eq!(outcome.ends, [(0, End::TunnelClosed)]);
    assert_eq!(outcome.verdicts, [Next::ShutdownClientWrite, Next::Close]);
    assert_eq!(outcome.seen.tunnel, (1, 1));
    let half = every_way(&[client(UPGRADE), Step::ClientEof, upstream(SWITCH), upstream("x"), Step::UpstreamEof]);
    assert_eq!(half.ends, [(0, End::TunnelClosed)]);
    assert_eq!(half.verdicts, [Next::ShutdownUpstreamWrite, Next::Close]);
}

#[test]
fn a_refused_upgrade_goes_on_as_http() {
    for request in [UPGRADE, CONNECT] {
        let mut shell = Shell::new(Limits::default(), None);
        shell.step(&client(format!("{request}{GET}")));
        assert!(!shell.session.wants_client());
        shell.step(&upstream("HTTP/1.1 103 E\r\n\r\n"));
        assert!(!shell.session.wants_client(), "an interim answer decides nothing");
        shell.step(&upstream("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n"));
        assert!(shell.session.wants_client(), "the final head decides");
        shell.step(&upstream("no"));
        shell.step(&upstream(OK));
        let outcome = shell.end();
        assert_eq!(outcome.to_upstream, text(format!("{request}{GET}")));
        assert_eq!(outcome.ends, [(0, End::Complete), (1, End::Complete)]);
    }
    let outcome = every_way(&[client(format!("{UPGRADE}{UPGRADE}{GET}")), upstream(OK), upstream(OK), upstream(OK)]);
    assert_eq!(outcome.ends.len(), 3);
    assert_eq!(outcome.to_upstream, text(format!("{UPGRADE}{UPGRADE}{GET}")));
}

#[test]
fn an_upgrade_waits_for_the_answers_before_it() {
    let steps = [client(format!("{GET}{UPGRADE}\x01")), upstream(OK), upstream(SWITCH), upstream("\x02")];
    let outcome = every_way(&steps);
    assert_eq!(outcome.to_upstream, text(format!("{GET}{UPGRADE}\x01")));
    assert_eq!(outcome.ends, [(0, End::Complete), (1, End::Drained)]);
    // The first upgrade's body is still coming when the second waits: its end must not release the second.
    let mut shell = Shell::new(Limits::default(), None);
    shell.step(&client(format!("{UPGRADE}{UPGRADE}\x01")));
    shell.step(&upstream("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"));
    assert!(!shell.session.wants_client());
    shell.step(&upstream("ok"));
    assert!(!shell.session.wants_client());
    shell.step(&upstream(SWITCH));
    assert_eq!(shell.end().seen.tunnel, (1, 0));
}

#[test]
fn an_upgrade_with_a_body_sends_its_body_and_no_more() {
    let request = "POST /u HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n";
    let before = run_with(Limits::default(), None, &[client(format!("{request}later"))]);
    assert_eq!(before.to_upstream, text(request));
    let outcome = every_way(&[client(format!("{request}later")), upstream(SWITCH)]);
    assert_eq!(outcome.to_upstream, text(format!("{request}later")));
    let early = every_way(&[client(&request[..request.len() - 4]), upstream(SWITCH), client("\r\n\r\nlater")]);
    assert_eq!(early.to_upstream, text(format!("{request}later")), "a chunk line in the making is not lost");
    let answered = every_way(&[client(&request[..request.len() - 5]), upstream(OK), client("0\r\n\r\n"), client(GET)]);
    assert_eq!(answered.to_upstream, text(format!("{request}{GET}")), "an early final answer decides too");
}

#[test]
fn at_most_so_many_are_in_flight() {
    let limits = Limits { pipelined_max: 2, ..Limits::default() };
    let mut shell = Shell::new(limits, None);
    shell.step(&client(GET.repeat(4)));
    assert_eq!((shell.session.in_flight(), shell.session.wants_client()), (2, false));
    shell.step(&upstream(OK));
    assert_eq!((shell.session.in_flight(), shell.recorder.begun), (2, 3));
    shell.step(&upstream(OK.repeat(2)));
    assert_eq!((shell.session.in_flight(), shell.recorder.begun), (1, 4));
    shell.step(&upstream(OK));
    assert_eq!(shell.end().ends, [0, 1, 2, 3].map(|seq| (seq, End::Complete)));
}

#[test]
fn phases() {
    let mut shell = Shell::new(Limits::default(), None);
    for (step, phase) in [
        (client(""), Phase::Idle),
        (client("\r\n"), Phase::Idle),
        (client("PO"), Phase::ClientHead),
        (client(&POST[2..]), Phase::ClientBody),
        (client("abcd"), Phase::AwaitingResponse),
        (client("GET"), Phase::AwaitingResponse),
        (upstream("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"), Phase::ResponseBody),
        (upstream("x"), Phase::ClientHead),
        (client(&UPGRADE[3..]), Phase::AwaitingResponse),
        (upstream(SWITCH), Phase::Tunnel),
        (Step::UpstreamEof, Phase::Tunnel),
        (Step::ClientEof, Phase::Over),
    ] {
        shell.step(&step);
        assert_eq!(shell.session.phase(), phase, "{step:?}");
    }
    assert!(!shell.session.wants_client() && !shell.session.wants_upstream());
}

#[test]
fn ev_1_abort_ends_each_exchange_once() {
    let mut shell = Shell::new(Limits::default(), None);
    shell.step(&client(format!("{GET}{POST}ab")));
    shell.session.abort(&mut shell.recorder, End::TimedOut);
    assert_eq!(shell.recorder.ends, [(0, End::TimedOut), (1, End::TimedOut)]);
    shell.session.abort(&mut shell.recorder, End::ClientGone);
    shell.step(&upstream(OK));
    shell.step(&Step::ClientEof);
    shell.step(&Step::UpstreamEof);
    assert_eq!(shell.end().ends.len(), 2);
}
