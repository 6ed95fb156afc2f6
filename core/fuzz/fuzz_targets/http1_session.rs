//! A session fed whole and byte by byte: the same output both ways, and EV-1 always.
//!
//! The input is a list of steps: a control byte, then its bytes. Control byte 0..=251 with bit 0 = from the upstream, and
//! the rest of it times 4 = how many bytes; 252, 253 = the client's FIN; 254, 255 = the upstream's FIN.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::http1::{
    ConnSeq, End, HeadEdit, Limits, Next, Observer, Phase, Progress, RequestHead, ResponseHead, Session,
};

#[derive(Default, PartialEq, Debug)]
struct Told {
    begun: ConnSeq,
    ended: Vec<(ConnSeq, End)>,
    payload_bytes: u64,
}

impl Told {
    fn begin(&mut self, seq: ConnSeq) {
        assert_eq!(seq, self.begun);
        self.begun += 1;
    }
    fn in_flight(&self, seq: ConnSeq) {
        assert!(seq < self.begun && self.ended.iter().all(|(ended, _)| *ended != seq));
    }
}

impl Observer for Told {
    fn request_head(&mut self, seq: ConnSeq, _: &RequestHead<'_>, edit: &mut HeadEdit) {
        self.begin(seq);
        edit.remove_field("x");
        edit.add_field("traceparent", "00");
    }
    fn request_unparsed(&mut self, seq: ConnSeq, _: &[u8]) {
        self.begin(seq);
    }
    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.in_flight(seq);
        self.payload_bytes += payload_bytes;
    }
    fn request_end(&mut self, seq: ConnSeq) {
        self.in_flight(seq);
    }
    fn response_head(&mut self, seq: ConnSeq, _: &ResponseHead<'_>, _: usize) {
        self.in_flight(seq);
    }
    fn answered(&mut self, seq: ConnSeq, _: u16, _: usize) {
        self.in_flight(seq);
    }
    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.in_flight(seq);
        self.payload_bytes += payload_bytes;
    }
    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64) {
        self.in_flight(seq);
        self.payload_bytes += from_client_bytes + from_upstream_bytes;
    }
    fn exchange_end(&mut self, seq: ConnSeq, end: End) {
        self.in_flight(seq);
        self.ended.push((seq, end));
    }
}

#[derive(Default, PartialEq, Debug)]
struct Outcome {
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
    told: Told,
    verdicts: Vec<Next>,
}

fn feed_held(session: &mut Session, held: &mut Vec<u8>, eof: &mut bool, piece: usize, out: &mut Outcome) {
    while !held.is_empty() && session.wants_client() {
        let input = &held[..piece.min(held.len())];
        let Progress { consumed, next } =
            session.client_bytes(input, &mut out.told, &mut out.to_upstream, &mut out.to_client);
        assert!(consumed > 0);
        held.drain(..consumed);
        note(session, next, out);
    }
    if session.phase() == Phase::Over {
        held.clear();
    }
    if *eof && held.is_empty() {
        *eof = false;
        let next = session.client_eof(&mut out.told);
        note(session, next, out);
    }
}

fn note(session: &Session, next: Next, out: &mut Outcome) {
    assert_eq!(session.phase() == Phase::Over, matches!(next, Next::Close | Next::Reset));
    assert_eq!(session.in_flight() as u64, out.told.begun - out.told.ended.len() as u64);
    if next != Next::Continue && out.verdicts.last() != Some(&next) {
        out.verdicts.push(next);
    }
}

fn run(mut steps: &[u8], limits: Limits, piece: usize) -> Outcome {
    let mut session = Session::new(limits);
    let (mut out, mut held, mut eof) = (Outcome::default(), Vec::new(), false);
    while let Some((control, rest)) = steps.split_first() {
        let bytes = &rest[..(usize::from(*control >> 1) * 4).min(rest.len())];
        steps = rest;
        match control {
            252 | 253 => eof = true,
            254 | 255 => {
                let next = session.upstream_eof(&mut out.told, &mut out.to_client);
                note(&session, next, &mut out);
            }
            _ => {
                steps = &rest[bytes.len()..];
                if control & 1 == 0 {
                    if !eof {
                        held.extend_from_slice(bytes);
                    }
                } else {
                    for input in bytes.chunks(piece) {
                        let next = session
                            .upstream_bytes(input, &mut out.told, &mut out.to_client, &mut out.to_upstream)
                            .next;
                        note(&session, next, &mut out);
                        feed_held(&mut session, &mut held, &mut eof, piece, &mut out);
                    }
                }
            }
        }
        feed_held(&mut session, &mut held, &mut eof, piece, &mut out);
    }
    session.abort(&mut out.told, End::Drained);
    let mut ended: Vec<_> = out.told.ended.iter().map(|(seq, _)| *seq).collect();
    ended.sort_unstable();
    assert!(ended.into_iter().eq(0..out.told.begun), "EV-1");
    out
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, steps)) = bytes.split_first() else { return };
    let limits = match first % 2 {
        0 => Limits::default(),
        _ => Limits { head_bytes_max: 200, header_count_max: 5, chunk_line_bytes_max: 12, pipelined_max: 2 },
    };
    assert_eq!(run(steps, limits, usize::MAX), run(steps, limits, 1));
});
